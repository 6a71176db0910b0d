"""What the site adds to Sphinx: anchors of definitions, buttons of a page, MathJax at hand."""
import shutil
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from .convert import label

MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")  # all that the pages load


class Definition(SphinxDirective):
    "The place of a definition: what links and the search lead to."
    required_arguments = 1
    option_spec = {"page": directives.unchanged, "source": directives.uri,
                   "members": directives.unchanged}

    def run(self):
        name, page = self.arguments[0], self.options["page"]
        std = self.env.get_domain("std")
        here = nodes.container(classes=["definition"])
        members = filter(None, self.options.get("members", "").split(","))
        names = [name, *(f"{name}.{member}" for member in members)]
        for symbol in names:
            anchor = self.free_id(symbol)
            here += nodes.target(ids=[anchor])
            std.anonlabels[label(page, symbol)] = self.env.docname, anchor
        std.note_object("symbol", f"litevae_diffae.{page}.{name}", name, location=here)
        if "source" in self.options:
            link = nodes.reference("", "source", refuri=self.options["source"])
            link["classes"] = ["definition-source"]
            here += nodes.paragraph("", "", link)
        return [here]

    def free_id(self, symbol):
        "The name of a definition, unless a heading of the page is called so."
        ids = self.state.document.ids
        found = f"name-{symbol}" if symbol in ids else symbol
        ids[found] = None
        return found


def mathjax_folder():
    "Where pip has put MathJax."
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None: raise RuntimeError('MathJax is missing: pip install -e ".[dev]"')
    return Path(spec.origin).parent / "static" / "mathjax"


def copy_mathjax(app, error):
    "Script and fonts become a part of the site."
    if error or app.builder.format != "html": return
    for name in MATHJAX:
        source, dest = mathjax_folder() / name, Path(app.outdir) / "_static" / "mathjax" / name
        if dest.exists(): continue
        dest.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, dest)


def add_buttons(app, pagename, templatename, context, doctree):
    "What the templates need: Colab, downloads and the source of a page, by its notebook."
    page = app.config.site_pages.get(pagename)
    repo, up = app.config.site_repo, context["content_root"]
    colab = "https://colab.research.google.com/github/" + repo.split("github.com/")[-1]
    notebook = page["source"] if page else "nbs/index.ipynb"
    context["site_repo"] = repo
    context["site_colab"] = f"{colab}/blob/main/{notebook}"
    context["page_buttons"] = [
        ("Colab", "play", context["site_colab"], "Run this notebook in Colab"),
        ("Notebook", "download", f"{up}_notebooks/{page['file']}", "Download the notebook"),
        ("Markdown", "file-lines", f"{up}{pagename}.md", "The page as plain Markdown"),
        ("Edit", "pencil", f"{repo}/edit/main/{notebook}", "Edit on GitHub"),
    ] if page else []


def setup(app):
    app.add_directive("definition", Definition)
    app.add_object_type("symbol", "symbol", objname="definition")
    app.add_config_value("site_pages", {}, "html")
    app.add_config_value("site_repo", "", "html")
    app.connect("html-page-context", add_buttons, priority=400) # before the theme renders
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
