#!/usr/bin/env python
"""Process all notebooks for the website and render them strictly, without Quarto and without the network.

    python tools/docs_check.py              # ends non-zero on a lost page, a broken link, anchor, image or cross-reference
    python tools/docs_check.py --out DIR    # keeps the pages: DIR/html/index.html is a readable copy of the website

The website itself is rendered by Quarto (.github/workflows/deploy.yaml); how Quarto's pages look is not checked here.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF = '''
project, extensions, html_theme = "{title}", ["myst_nb"], "{theme}"
nb_execution_mode, numfig, html_show_copyright, html_copy_source = "off", True, False, False
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline", "attrs_block"]
myst_heading_anchors, myst_heading_slug_func = 6, "docs_check.anchor"
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]
'''


def anchor(title):
    "The anchor that Quarto (pandoc) gives to a heading."
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", title.lower()).strip()))


def settings(root):
    parser = ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def notebooks(folder):
    "All notebooks below `folder`, relative to it."
    found = [p.relative_to(folder) for p in folder.rglob("*.ipynb")]
    return sorted(p for p in found if not any(part.startswith((".", "_")) for part in p.parts))


def copy_project(root, dest):
    "What nbdev needs of the project: notebooks, package and settings."
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".last_checked", "_proc", "_docs")
    for name in ("nbs", settings(root)["lib_path"]): shutil.copytree(root / name, dest / name, ignore=skip)
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md"):
        if (root / name).exists(): shutil.copy(root / name, dest)
    return dest


def process(root):
    "nbdev's processing of every notebook below `root`, into `root/_proc`."
    code = "if __name__ == '__main__':\n from nbdev.serve import proc_nbs\n proc_nbs(n_workers=2, force=True)"
    env = dict(os.environ, OMP_NUM_THREADS="1", IN_TEST="1", MPLBACKEND="Agg")
    result = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True)
    if result.returncode: raise RuntimeError("nbdev could not process the notebooks:\n" + "\n".join(result.stderr.splitlines()[-40:]))
    lost = set(notebooks(root / "nbs")) - set(notebooks(root / "_proc"))
    if lost: raise RuntimeError(f"not processed for the website: {sorted(map(str, lost))}")
    return root / "_proc"


def page_name(path):
    "`tutorials/01_x.ipynb` is the page `tutorials/x.ipynb`."
    return path.with_name(re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name))


def text(value): return value if isinstance(value, str) else "".join(value)


def convert_markdown(md, site):
    "Quarto's Markdown as MyST's; links to the site and between notebooks become links between the pages."
    def link(m): return f"](/{m[1]}.ipynb" + ("#" + m[2].lower() if m[2] else "") + ")"
    md = re.sub(r'\{target="_blank"[^}]*\}', "", md)
    md = re.sub(r"\]\(" + re.escape(site) + r"/([^)#\s]+?)\.html(?:#([^)\s]+))?\)", link, md)
    md = re.sub(r"\]\(((?:[^)\s/:]+/)*)\d+[a-zA-Z0-9]*_([^)\s/:]+\.ipynb)", r"](\1\2", md)
    md = re.sub(r"\$\$\s*\{#(eq-[\w-]+)\}", r"$$ (\1)", md)
    md = re.sub(r"(?<![\w`@])@(eq-[\w-]+)", r"{eq}`\1`", md)
    md = re.sub(r"(?<![\w`@])@((?:fig|tbl)-[\w-]+)", r"{numref}`\1`", md)
    return re.sub(r"^(:{3,}) *\{\.callout-(\w+)[^}]*\}", r"\1{\2}", md, flags=re.M)


def convert_code(cell):
    "Quarto's cell options as MyST-NB's tags and metadata."
    source = text(cell["source"])
    options = dict(re.findall(r"^#\| *([\w-]+): *(.*?) *$", source, flags=re.M))
    options = {k: v[1:-1] if v[:1] == v[-1:] == '"' else v for k, v in options.items()}
    tags = [tag for key, value, tag in (("echo", "false", "remove-input"), ("code-fold", "true", "hide-input"), ("output", "false", "remove-output"))
            if options.get(key) == value]
    figure = {"caption": options.get("fig-cap"), "name": options.get("label")}
    meta = {"figure": {k: v for k, v in figure.items() if v}, "image": {"alt": options["fig-alt"]} if "fig-alt" in options else {}}
    cell["metadata"] = {"tags": tags, "mystnb": {k: v for k, v in meta.items() if v}}
    cell["source"] = re.sub(r"^#\|.*\n?", "", source, flags=re.M)
    return cell


def convert_cell(cell, site):
    source, kind = text(cell["source"]), cell["cell_type"]
    if kind == "raw":
        front = yaml.safe_load(source.strip().strip("-")) or {}
        source = f"# {front.get('title', '')}\n\n" + (f"*{front['description']}*" if front.get("description") else "")
    elif kind == "code" and re.search(r"^show_doc\(", source, flags=re.M):
        outs = [text(o["data"]["text/markdown"]) for o in cell["outputs"] if "text/markdown" in o.get("data", {})]
        if not outs: raise RuntimeError(f"no output of {source.splitlines()[-1]}")
        source = outs[0].removeprefix("---\n")
    elif kind == "code": return convert_code(cell)
    return {"cell_type": "markdown", "id": cell.get("id", ""), "metadata": {}, "source": convert_markdown(source, site)}


def convert(proc, out, site):
    "Every processed notebook as a page that Sphinx with MyST-NB reads."
    shutil.copytree(proc, out, ignore=shutil.ignore_patterns("*.ipynb", "*.yml"), dirs_exist_ok=True)
    pages = {path: page_name(path) for path in notebooks(proc)}
    if len(set(pages.values())) < len(pages): raise RuntimeError("two notebooks have the same name after their numbers")
    for path, page in pages.items():
        nb = json.loads((proc / path).read_text(encoding="utf-8"))
        nb["cells"] = [convert_cell(c, site) for c in nb["cells"] if "AUTOGENERATED! DO NOT EDIT" not in text(c["source"])]
        nb["metadata"] = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
        if page.name == "index.ipynb":
            others = [str(p.with_suffix("")) for p in pages.values() if p != page]
            toc = "```{toctree}\n:hidden:\n\n" + "\n".join(f"/{name}.ipynb" for name in others) + "\n```"
            nb["cells"].append({"cell_type": "markdown", "id": "toc", "metadata": {}, "source": toc})
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        (out / page).write_text(json.dumps(nb), encoding="utf-8")
    return sorted(pages.values())


def render(proc, out, cfg, theme="alabaster"):
    "Sphinx with every warning an error. Returns (exit status, what it said)."
    convert(proc, out / "src", cfg["doc_host"] + cfg["doc_baseurl"].rstrip("/"))
    (out / "src" / "conf.py").write_text(CONF.replace("{title}", cfg["title"]).replace("{theme}", theme))
    cmd = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", str(out / "src"), str(out / "html")]
    result = subprocess.run(cmd, env=dict(os.environ, PYTHONPATH=str(Path(__file__).parent)), capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the rendered pages (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="docs_check_") as tmp:
        root = Path(tmp) / "project"
        root.mkdir()
        out = args.out or Path(tmp) / "site"
        shutil.rmtree(out / "src", ignore_errors=True)
        proc = process(copy_project(ROOT, root))
        status, said = render(proc, out.resolve(), settings(ROOT))
        print(said, end="")
        print(f"{len(notebooks(proc))} notebooks processed;", "strict render failed" if status else "strict render clean")
    return status


if __name__ == "__main__": sys.exit(main())
