"""The order of the pages: what stands in which section, and what comes next."""
import re
from pathlib import Path
from typing import NamedTuple

import yaml


class Section(NamedTuple):
    "A section of the sidebar, or a group within one."
    title: str
    name: str # of its page, without a suffix
    says: str # one sentence
    page: Path | None # the notebook that is its page; None: one is made
    notebooks: list # relative to nbs/, in reading order
    groups: list # of Section


def notebooks(folder):
    "All notebooks below `folder`, relative to it."
    found = [p.relative_to(folder) for p in Path(folder).rglob("*.ipynb")]
    return sorted(p for p in found if not any(part.startswith((".", "_")) for part in p.parts))


def page_name(path):
    "`tutorials/01_x.ipynb` is the page `tutorials/x.ipynb`."
    return path.with_name(re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name))


def slug(title):
    "A title as the name of a page."
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


def belongs(path, wanted):
    "Whether a notebook stands in a folder, or its number in one of the ranges `100-199, 300-399`."
    if not wanted: return False
    if not re.match(r"\d", wanted): return path.parts[0] == wanted and len(path.parts) > 1
    number = re.match(r"(\d+)[a-zA-Z0-9]*_", path.name)
    if len(path.parts) > 1 or not number: return False
    ranges = [part.split("-") for part in wanted.replace(" ", "").split(",")]
    return any(low <= number[1].ljust(3, "0") <= high for low, high in ranges)


def read_section(entry, found, above=""):
    "One entry of sidebar.yml with the notebooks that belong there."
    title = entry.get("section") or entry["group"]
    name = f"{above}/{slug(title)}" if above else slug(title)
    page = Path(entry["page"]) if "page" in entry else None
    inside = [p for p in found if belongs(p, entry.get("chapters", "")) and p != page]
    groups = [read_section(g, found, name) for g in entry.get("groups", [])]
    return Section(title, name, entry.get("says", ""), page if page in found else None,
                   inside, [g for g in groups if g.notebooks])


def sections(nbs):
    "The sections of the sidebar that have something in them."
    found = notebooks(nbs)
    listed = yaml.safe_load((Path(nbs) / "sidebar.yml").read_text(encoding="utf-8"))
    every = [read_section(entry, found) for entry in listed]
    return [s for s in every if s.page or s.notebooks or s.groups]


def reading_order(nbs):
    "The notebooks below `nbs` as the sidebar has them, the index first."
    order = [Path("index.ipynb")] if (Path(nbs) / "index.ipynb").is_file() else []
    for section in sections(nbs):
        order += [section.page] if section.page else []
        order += section.notebooks
        for group in section.groups:
            order += group.notebooks
    return order
