"""From notebooks to a folder of pages: nbdev's processing, this project's conversion, Sphinx."""
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser, SectionProxy
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from .convert import Definition, Site, label, minutes, read_page, to_markdown, to_notebook
from .reference import reference_page
from .sections import notebooks, sections

ROOT = Path(__file__).resolve().parents[2]
EXTRA_PAGES = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
MARK = ".buildinfo" # what Sphinx leaves in a folder that it made
SKIPPED = ("__pycache__", ".ipynb_checkpoints", ".last_checked", "_proc", "_docs", "_site")


def heading_anchor(title):
    "The anchor of a heading, as pandoc gives it."
    words = re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", title.lower()).strip())
    return re.sub(r"^[^a-z]+", "", words)


def settings(root):
    "The project's settings.ini."
    parser = ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def copy_changed(source, dest):
    "Make `dest` like `source`, and touch only what differs."
    wanted = {}
    for path in source.rglob("*"):
        relative = path.relative_to(source)
        if path.is_file() and not any(part in SKIPPED for part in relative.parts):
            wanted[relative] = path
    for path in [p for p in dest.rglob("*") if p.is_file()]:
        if path.relative_to(dest) not in wanted: path.unlink()
    for relative, path in wanted.items():
        there = dest / relative
        if there.exists() and there.read_bytes() == path.read_bytes(): continue
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, there)


def copy_project(root, dest):
    "What nbdev needs of the project: notebooks, package and settings."
    dest.mkdir(parents=True, exist_ok=True)
    for name in ("nbs", settings(root)["lib_path"]):
        copy_changed(root / name, dest / name)
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", *EXTRA_PAGES.values()):
        there = dest / name
        if not (root / name).exists(): continue
        if not there.exists() or there.read_bytes() != (root / name).read_bytes():
            shutil.copyfile(root / name, there)
    return dest


def process(root, force=True):
    "nbdev's processing of the notebooks below `root`, into `root/_proc`."
    code = ("if __name__ == '__main__':\n from nbdev.serve import proc_nbs\n"
            f" proc_nbs(n_workers=2, force={force})")
    env = dict(os.environ, OMP_NUM_THREADS="1", IN_TEST="1", MPLBACKEND="Agg")
    result = subprocess.run([sys.executable, "-c", code], cwd=root, env=env,
                            capture_output=True, text=True)
    if result.returncode:
        end = "\n".join(result.stderr.splitlines()[-40:])
        raise RuntimeError(f"nbdev could not process the notebooks:\n{end}")
    proc, wanted = root / "_proc", set(notebooks(root / "nbs"))
    for gone in set(notebooks(proc)) - wanted: (proc / gone).unlink()
    lost = wanted - set(notebooks(proc))
    if lost: raise RuntimeError(f"not processed for the website: {sorted(map(str, lost))}")
    return proc


def write_changed(path, content):
    "Write a file if that changes it, so that Sphinx reads only what is new: whether it did."
    if path.exists() and path.read_text(encoding="utf-8") == content: return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return True


def toctree(names):
    """A hidden table of contents, which the sidebar, next and previous follow.

    `names` are those of pages; a pair (title, page) is called so in the sidebar."""
    entries = [name if isinstance(name, tuple) else (None, name) for name in names]
    listed = "\n".join(f"{title} </{name}>" if title else f"/{name}" for title, name in entries)
    return f"```{{toctree}}\n:hidden:\n\n{listed}\n```"


def listing(pages, site):
    "Pages with their sentences and minutes, as a list."
    rows = [f"[{page.title}](/{page.name}.ipynb) ({site.minutes[page.name]} min)\n: {page.says}\n"
            for page in pages]
    return "\n".join(rows)


def section_page(section, pages, site, more=None):
    "The page of a section: what stands in it, and `more` made pages by name."
    own, more = [pages[p] for p in section.notebooks], more or {}
    blocks = [f"# {section.title}", section.says]
    for name, md in more.items():
        title = re.search(r"^# (.+)$", md, flags=re.M)[1]
        blocks.append(f"[{title}](/{name}.md)")
    blocks.append(listing(own, site))
    for group in section.groups:
        blocks += [f"## [{group.title}](/{group.name}.md)", group.says,
                   listing([pages[p] for p in group.notebooks], site)]
    blocks.append(toctree([*more, *(page.name for page in own), *(g.name for g in section.groups)]))
    return "\n\n".join(block for block in blocks if block) + "\n"


def file_page(path):
    "A Markdown file of the top folder as a page: links below nbs/ lead to the pages."
    md = path.read_text(encoding="utf-8").replace("<!-- do not remove -->\n\n", "")
    md = re.sub(r"\]\(nbs/", "](/", md)
    return re.sub(r"\]\((/[^)\s]*?)(?:\d+[a-zA-Z0-9]*_)?([^)\s/]+\.ipynb)", r"](\1\2", md)


def llms_text(sources):
    "llms.txt: what the site has, with links to the Markdown copies."
    blocks = [f"# {sources.cfg['title']}", f"> {sources.cfg['description']}"]
    for section in sources.sections:
        found = [section.page] if section.page else []
        found += [p for s in [section, *section.groups] for p in s.notebooks]
        pages = [sources.pages[p] for p in found]
        blocks.append(f"## {section.title}")
        blocks.append("\n".join(f"- [{page.title}]({sources.site.url}/{page.name}.md): {page.says}"
                                for page in pages))
    return "\n\n".join(blocks) + "\n"


class Sources(NamedTuple):
    "What a site is made of."
    cfg: SectionProxy # settings.ini
    pages: dict # Page by notebook
    sections: list # of Section
    site: Site # what pages must know of each other


def read_sources(root, proc):
    "The processed notebooks of a project, and its settings and sections."
    cfg = settings(root)
    pages = [read_page(proc, path) for path in notebooks(proc)]
    names = [page.name for page in pages]
    twice = {name for name in names if names.count(name) > 1}
    if twice: raise RuntimeError(f"two notebooks have the same name after their numbers: {twice}")
    site = Site(cfg["doc_host"] + cfg["doc_baseurl"].rstrip("/"), cfg["git_url"],
                {page.name: minutes(page) for page in pages},
                {page.name: page.title for page in pages})
    return Sources(cfg, {page.source: page for page in pages}, sections(root / "nbs"), site)


def made_pages(root, sources):
    "Pages that are no notebooks: the list of names, and files of the top folder."
    package = root / sources.cfg["lib_path"]
    made = {}
    if package.is_dir():
        pages = sources.pages.values()
        labels = {label(page.name, part.name) for page in pages
                  for part in page.parts if isinstance(part, Definition)}
        made["names"] = reference_page(package, [page.name for page in pages], labels)
    for name, file in EXTRA_PAGES.items():
        if (root / file).exists(): made[name] = file_page(root / file)
    return made


def with_toctree(notebook, names):
    "A notebook with a table of contents in a last cell."
    cell = {"cell_type": "markdown", "id": "toc", "metadata": {}, "source": toctree(names)}
    return dict(notebook, cells=[*notebook["cells"], cell])


def all_sources(root, sources):
    "Every file that Sphinx reads, by its name."
    site, pages = sources.site, sources.pages
    books = {page.name: to_notebook(page, site) for page in pages.values()}
    extra = made_pages(root, sources)
    texts = dict(extra)
    top = []
    for section in sources.sections:
        more = extra if section.title == "Reference" else {}
        if section.page:
            name = pages[section.page].name
            inside = [pages[p].name for p in section.notebooks]
            books[name] = with_toctree(books[name], inside)
            top.append((section.title, name))
        else:
            name = section.name
            texts[name] = section_page(section, pages, site, more)
            top.append(name)
        for group in section.groups: texts[group.name] = section_page(group, pages, site)
    books["index"] = with_toctree(books["index"], top)
    made = {f"{name}.md": md for name, md in texts.items()}
    return made | {f"{name}.ipynb": json.dumps(book) for name, book in books.items()}


def write_sources(root, sources, src):
    """Everything that Sphinx reads, into `src`; what is as before is left alone.

    Returns whether the sidebar is another one: then every page is."""
    made = all_sources(root, sources)
    for name, content in made.items(): write_changed(src / name, content)
    for path in [p for p in src.rglob("*") if p.suffix in (".md", ".ipynb")]:
        if path.relative_to(src).as_posix() not in made: path.unlink()
    for path in (root / "nbs").rglob("*"):
        if path.suffix in (".png", ".svg", ".jpg", ".gif"):
            there = src / path.relative_to(root / "nbs")
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)
    known = {page.name: {"source": f"nbs/{path.as_posix()}", "file": path.as_posix(),
                         "title": page.title} for path, page in sources.pages.items()}
    order = [[s.title, s.name, list(map(str, s.notebooks))] for section in sources.sections
             for s in [section, *section.groups]]
    about = {"title": sources.cfg["title"], "repo": sources.cfg["git_url"], "pages": known,
             "sidebar": order}
    return write_changed(src / "site.json", json.dumps(about, indent=1))


def run_sphinx(src, out, cache, every_page=False):
    "Sphinx with every warning an error: (exit status, what it said)."
    cmd = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-j", "2",
           "-b", "html", "-c", str(Path(__file__).parent), "-d", str(cache), str(src), str(out)]
    cmd += ["-a"] if every_page else []
    env = dict(os.environ, SITE_JSON=str(src / "site.json"), OMP_NUM_THREADS="1")
    result = subprocess.run(cmd, env=env, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def lost_links(out):
    "Links within the built pages that lead nowhere: (page, link)."
    ids, links = {}, []
    for path in sorted(p for p in out.rglob("*.html") if "_static" not in p.parts):
        page = path.read_text(encoding="utf-8")
        ids[path.resolve()] = set(re.findall(r'\bid="([^"]+)"', page))
        for found in re.findall(r'\b(?:href|src)="([^"]*)"', page):
            links.append((path, unescape(found)))
    lost = []
    for path, link in dict.fromkeys(links):
        if re.match(r"[a-z]+:|//", link) or not link: continue
        target, _, fragment = link.partition("#")
        there = (path.parent / unquote(target.split("?")[0]) if target else path).resolve()
        if not there.exists(): lost.append((path.relative_to(out).as_posix(), link))
        elif fragment and there in ids and unquote(fragment) not in ids[there]:
            lost.append((path.relative_to(out).as_posix(), link))
    return lost


def write_copies(root, sources, out):
    "Beside the pages: each as Markdown and as its notebook, and llms.txt."
    for path, page in sources.pages.items():
        write_changed(out / f"{page.name}.md", to_markdown(page, sources.site))
        copy = out / "_notebooks" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / "nbs" / path, copy)
    write_changed(out / "llms.txt", llms_text(sources))
    (out / ".nojekyll").touch()


def render(root, proc, out, work):
    "The site of processed notebooks, into `out`: (exit status, what was said)."
    src = work / "src"
    sources = read_sources(root, proc)
    new_sidebar = write_sources(root, sources, src)
    status, said = run_sphinx(src, out, work / "doctrees", new_sidebar)
    write_copies(root, sources, out)
    for path in out.rglob("*.html"): # of notebooks that are gone
        source = src / path.relative_to(out).with_suffix("")
        made = any(source.with_name(source.name + end).exists() for end in (".md", ".ipynb"))
        if not made and path.name != "search.html" and "_static" not in path.parts: path.unlink()
    lost = lost_links(out)
    said += "".join(f"{page}: WARNING: leads nowhere: {link}\n" for page, link in lost)
    return status or int(bool(lost)), re.sub(r"^.*?/src/", "", said, flags=re.M)


def check_out(out):
    "`ValueError` for a folder that holds anything but a site: a build begins by emptying it."
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise ValueError(f"out: a new, an empty or a site's folder expected, {out} is none of them")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: a folder expected, {out} is a file")


def build(out, work, force=True):
    "The whole site, into `out`: (exit status, what was said)."
    check_out(out)
    root = copy_project(ROOT, work / "project")
    proc = process(root, force)
    if force:
        for folder in (work / "src", work / "doctrees", out):
            shutil.rmtree(folder, ignore_errors=True)
    return render(root, proc, out, work)
