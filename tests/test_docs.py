"""The website: every notebook becomes a page, and nothing on a page points nowhere."""
import json
import re
from importlib import import_module

import pytest
from conftest import ROOT
from docs_check import anchor, copy_project, notebooks, page_name, process, render, settings, text

CFG = settings(ROOT)
SITE = CFG["doc_host"] + CFG["doc_baseurl"].rstrip("/")


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    return process(copy_project(ROOT, tmp_path_factory.mktemp("docs")))


def cells(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_every_notebook_is_processed(processed):
    assert notebooks(processed) == notebooks(ROOT / "nbs")
    assert len(notebooks(processed)) > 10


def test_every_page_has_a_title(processed):
    for nb in notebooks(processed):
        first = cells(processed / nb)[0]
        assert first["cell_type"] == "raw" and re.search(r"^title: \S", text(first["source"]), flags=re.M), nb


def test_every_public_name_has_an_entry(processed):
    "All functions and classes that a notebook shows with `#| exports` or `#| export` are documented on its page."
    for nb in notebooks(ROOT / "nbs"):
        shown = [text(c["source"]) for c in cells(ROOT / "nbs" / nb) if c["cell_type"] == "code" and re.search(r"^#\| *exports?\s", text(c["source"]), flags=re.M)]
        names = {n for s in shown if not re.search(r"^#\| *hide", s, flags=re.M) for n in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", s, flags=re.M)}
        outs = [text(o.get("data", {}).get("text/markdown", "")) for c in cells(processed / nb) for o in c.get("outputs", [])]
        documented = {m for out in outs for m in re.findall(r"^### (?:\w+\.)*(\w+)$", out, flags=re.M)}
        assert names <= documented, f"{nb}: {sorted(names - documented)}"


def test_signatures_hold_no_links(processed):
    for nb in notebooks(processed):
        for out in (o for c in cells(processed / nb) for o in c.get("outputs", [])):
            for code in re.findall(r"```python\n(.*?)\n```", text(out.get("data", {}).get("text/markdown", "")), flags=re.S):
                assert "](" not in code, f"{nb}: {code}"


def test_strict_render(processed, tmp_path):
    status, said = render(processed, tmp_path, CFG)
    assert (status, said) == (0, "")
    for nb in notebooks(processed): assert (tmp_path / "html" / page_name(nb).with_suffix(".html")).is_file(), nb


def page(title, *sources):
    "A processed notebook."
    front = [("raw", f"---\ntitle: {title}\n---\n")]
    both = enumerate(front + [("markdown", s) for s in sources])
    return {"cells": [{"cell_type": kind, "id": f"c{i}", "metadata": {}, "source": s} for i, (kind, s) in both], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


GOOD = ["## A section\n\n$$ x = 1 $$ {#eq-one}\n\nBy @eq-one, see [the first](00_first.ipynb#a-section) and [`f`](" + SITE + "/first.html#f)."]
FAULTS = {
    "image": ("![a picture](images/none.png)", r"none\.png"),
    "page": ("[a page](07_none.ipynb)", r"none\.ipynb"),
    "anchor": ("[an anchor](00_first.ipynb#no-such-section)", "no-such-section"),
    "symbol": ("[`g`](" + SITE + "/first.html#no_such_symbol)", "no_such_symbol"),
    "figure": ("See @fig-none.", "fig-none"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    "What the checker says of a good site of two pages, and of the same with five faults in it."
    said = {}
    for kind, extra in (("good", []), ("faulty", [source for source, _ in FAULTS.values()])):
        root = tmp_path_factory.mktemp(kind)
        (root / "_proc").mkdir()
        (root / "_proc" / "00_first.ipynb").write_text(json.dumps(page("First", "## A section\n\ntext\n\n### f\n\ntext")))
        (root / "_proc" / "index.ipynb").write_text(json.dumps(page("Index", *GOOD, *extra)))
        said[kind] = render(root / "_proc", root / "out", CFG)
    return said


def test_checker_accepts_a_good_site(faulty):
    assert faulty["good"] == (0, "")


@pytest.mark.parametrize("fault", FAULTS)
def test_checker_sees(faulty, fault):
    status, said = faulty["faulty"]
    assert status != 0 and re.search(rf"index\.ipynb.*WARNING.*{FAULTS[fault][1]}", said), said


def test_anchors_are_those_of_quarto():
    assert [anchor(t) for t in ("A section", "From [-1, 1] to bytes", "Pretrained.from_preset", "3 levels", "to_uint8")] == \
        ["a-section", "from--1-1-to-bytes", "pretrained.from_preset", "levels", "to_uint8"]


def test_renderer():
    from nbdev.showdoc import show_doc
    shown = show_doc(import_module(f"{CFG['lib_path']}.viz").image_grid)._repr_markdown_()
    assert "def image_grid(x:Tensor, n_cols:int=8, pad:int=2)->ndarray:" in shown
    assert "| `n_cols` | `int` | `8` | images in a row |" in shown


@pytest.mark.parametrize("module, name", [("litevae.model", "LiteVAEConfig"), ("litevae.klvae", "KLVAEConfig"), ("optim", "TrainConfig"),
                                          ("diffusion.model", "DDIMConfig"), ("diffae.model", "DiffAEConfig")])
def test_inherited_fields_have_their_texts(module, name):
    config = getattr(import_module(f"{CFG['lib_path']}.{module}"), name)
    rows = import_module(f"{CFG['lib_path']}._showdoc").parameter_table(config).splitlines()[2:]
    assert len(rows) > 12 and not [row for row in rows if row.endswith("|  |")]
