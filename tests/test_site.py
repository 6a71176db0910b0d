"""The docs site: built once, strictly, then every page is opened in a browser.

Nothing may lead nowhere, scroll sideways on a phone, be cut on a desk, glare in the dark, or ask
another machine for anything."""
import functools
import json
import re
import shutil
import subprocess
import sys
import threading
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from conftest import ROOT
from test_notebooks import USER_REPO
from website.build import (check_out, copy_project, heading_anchor, lost_links, process,
                           read_sources, render, settings)
from website.convert import (Code, Definition, Markdown, Page, Site, convert_code, convert_markdown,
                             exercises, is_folded, minutes, read_parts, split_definitions, text,
                             tidy_signature, to_markdown, to_notebook)
from website.sections import notebooks, page_name, reading_order, sections

CFG = settings(ROOT)
SITE = CFG["doc_host"] + CFG["doc_baseurl"].rstrip("/")
NBS = notebooks(ROOT / "nbs")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
ABOUT = Site(SITE, CFG["git_url"], {"litevae.wavelets": 9}, {"litevae.wavelets": "Wavelets"})


class Built(NamedTuple):
    "The site of this repository."
    project: object # the copy that it was made of
    out: object # the folder of pages
    said: str # by Sphinx
    status: int


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    work = tmp_path_factory.mktemp("site")
    project = copy_project(ROOT, work / "project")
    proc = process(project)
    status, said = render(project, proc, work / "html", work)
    return Built(project, work / "html", said, status)


@pytest.fixture(scope="module")
def sources(built): return read_sources(built.project, built.project / "_proc")


def cells(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]


# ---- what is built


def test_every_notebook_is_a_page_with_a_title(built, sources):
    assert built.status == 0 and not built.said, built.said[:4000]
    assert sorted(sources.pages) == NBS and len(NBS) > 100
    for path, page in sources.pages.items():
        assert page.title and (built.out / f"{page.name}.html").is_file(), path
        assert page.name == page_name(path).with_suffix("").as_posix()


def test_every_public_name_has_an_entry(sources):
    "Each function and class that a notebook exports in sight is shown on its page, once."
    for path, page in sources.pages.items():
        shown = [text(c["source"]) for c in cells(ROOT / "nbs" / path) if c["cell_type"] == "code"]
        shown = [s for s in shown if re.search(r"^#\| *exports?\s", s, flags=re.M)
                 and not re.search(r"^#\| *hide", s, flags=re.M)]
        names = [n for s in shown
                 for n in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", s, flags=re.M)]
        listed = [part.name.split(".")[-1] for part in page.parts if isinstance(part, Definition)]
        assert not set(names) - set(listed), path
        full = [part.name for part in page.parts if isinstance(part, Definition)]
        assert len(full) == len(set(full)), path


def test_definitions_stand_in_the_order_of_the_module(sources):
    for path, page in sources.pages.items():
        module = ROOT / CFG["lib_path"] / f"{page.name.replace('.', '/')}.py"
        if not module.exists(): continue
        code = module.read_text(encoding="utf-8")
        order = re.findall(r"^(?:def|class) ([A-Za-z]\w*)", code, flags=re.M)
        shown = [part.name for part in page.parts if isinstance(part, Definition) and part.source]
        assert [n for n in shown if "." not in n] == [n for n in order if n in shown], path


def test_the_code_of_a_definition_stands_once_and_its_table_is_folded(built):
    page = (built.out / "diffusion.ddim.html").read_text(encoding="utf-8")
    code = re.findall(r"<pre>.*?</pre>", page, flags=re.S)
    plain = [unescape(re.sub(r"<[^>]+>", "", block)) for block in code]
    assert sum("def ddim_step(" in block for block in plain) == 1
    table = re.search(r"<details class=\"parameters\">\s*<summary>Parameters of <code>ddim_step.*?"
                      r"</details>", page, flags=re.S)[0]
    assert "abar_from" in table and "<table" in table and " open" not in table.split(">")[0]


def test_a_class_and_a_function_of_one_name_have_two_places(built, sources):
    "`Posterior` is not `posterior`; in general no two elements of a page share an id."
    page = (built.out / "diffusion.schedule.html").read_text(encoding="utf-8")
    assert len(re.findall(r'id="[Pp]osterior"', page)) == 2
    names = (built.out / "names.html").read_text(encoding="utf-8")
    for name in ("Posterior", "posterior"): assert f'href="diffusion.schedule.html#{name}"' in names
    for found in sources.pages.values():
        said = (built.out / f"{found.name}.html").read_text(encoding="utf-8")
        article = said[said.index('class="bd-article"'):said.index("</article>")]
        ids = re.findall(r'<\w+[^>]* id="([^"]+)"', article)
        assert len(ids) == len(set(ids)), (found.name, [i for i in ids if ids.count(i) > 1])


def test_every_public_name_is_in_the_reference(built):
    page = (built.out / "names.html").read_text(encoding="utf-8")
    package = (ROOT / CFG["lib_path"]).rglob("*.py")
    modules = [p.read_text(encoding="utf-8") for p in package if not p.name.startswith("__")]
    exported = [m[1] for code in modules for m in re.finditer(r"__all__ = \[(.*?)\]", code, re.S)]
    names = {n for found in exported for n in re.findall(r"'(\w+)'", found)}
    listed = set(re.findall(r"<span class=\"pre\">(\w+)</span>", page))
    assert len(names) > 1000 and not names - listed
    links = re.findall(r'<dt>.*?href="([^"]+)#(\w[^"]*)"', page)
    assert len(links) > 1000 and ("diffusion.ddim.html", "ddim_step") in links


def test_markdown_copies_and_llms_txt(built):
    llms = (built.out / "llms.txt").read_text(encoding="utf-8")
    listed = re.findall(r"\]\(" + re.escape(SITE) + r"/([^)]+)\)", llms)
    assert sorted(listed) == sorted(f"{page_name(p).with_suffix('')}.md" for p in NBS
                                    if p.name != "index.ipynb")
    for name in listed:
        md = (built.out / name).read_text(encoding="utf-8")
        assert md.startswith("# ") and "ipynb)" not in md.replace("blob/main", ""), name
    assert (built.out / "_notebooks" / "index.ipynb").read_bytes() == \
        (ROOT / "nbs" / "index.ipynb").read_bytes()


def test_next_and_previous_follow_the_sidebar(built):
    page = (built.out / "index.html").read_text(encoding="utf-8")
    sidebar = re.search(r'<nav class="bd-links.*?</nav>', page, flags=re.S)[0]
    order = [link.split("#")[0] for link in re.findall(r'<a class="[^"]*" href="([^"]+)"', sidebar)]
    assert len(order) == len(set(order)) > len(NBS)
    order = ["index.html", *order]
    read = [f"{page_name(p).with_suffix('')}.html" for p in reading_order(ROOT / "nbs")]
    assert [link for link in order if link in read] == read
    for before, here, after in zip([None, *order], order, [*order[1:], None]):
        page = (built.out / here).read_text(encoding="utf-8")
        for side, there in (("left-prev", before), ("right-next", after)):
            link = re.search(rf'class="{side}"\s+href="([^"]+)"', page)
            assert (link is None) == (there is None), here
            if link:
                target = (built.out / here).parent / unescape(link[1])
                assert target.resolve() == (built.out / there).resolve(), (here, side)


def rows_of(table):
    "The cells of a table's body, row by row, as HTML."
    rows = [re.findall(r"<td.*?>(.*?)</td>", row, flags=re.S) for row in re.findall(r"<tr.*?</tr>", table, flags=re.S)]
    return [cells for cells in rows if cells]


@pytest.mark.parametrize("page, groups, named", [
    ("litevae_tables", {"litevae_vs_vae", "litevae_inside", "litevae_resolution", "litevae_adversary", "litevae_decoder_and_latents",
                       "latent_diffusion"},
     {"FFHQ: SD-VAE, z 4 | rFID 0.85", "ImageNet 128, 16x16x4: LiteVAE | PSNR 24.49", "PatchGAN | rFID 1.61"}),
    ("diffae_tables", {"diffae_autoencoding", "diffae_samples", "diffae_classcond", "diffae_editing"},
     {"DDIM @130M, T = 100 | SSIM 0.917", "FFHQ128: Diff-AE, T = 10 | FID 20.80", "binary, Male: Diff-AE | FID 11.52"})])
def test_the_tables_begin_with_what_held_and_name_the_papers_rows(built, page, groups, named):
    html = (built.out / "experiments" / f"{page}.html").read_text(encoding="utf-8")
    rows = rows_of(re.search(r'id="what-held".*?(<table.*?</table>)', html, flags=re.S)[1])
    assert len(rows) >= 18 and all(len(cells) == 5 for cells in rows)
    linked = {re.search(r'href="([^"]+)\.html"', cells[0])[1] for cells in rows}
    assert linked == groups
    said = [[unescape(re.sub(r"<[^>]+>", "", cell.replace("<br", "\n<br"))).strip() for cell in cells] for cells in rows]
    assert named <= {line.strip() for cells in said for line in cells[1].splitlines()}
    for finding, _, ours, verdict, why in said:
        assert verdict in ("holds", "opposite", "not resolved") and finding and ours and why
        if "only" in why or why == "not run yet": assert verdict == "not resolved"
        else: assert verdict == ("holds" if ", in the paper" in why else "opposite")


@pytest.mark.parametrize("page, own", [("litevae_vs_vae", "ImageNet 128: LiteVAE, z 4"), ("litevae_inside", "FFHQ: SD-VAE, z 4"),
                                       ("litevae_resolution", "128-tuned"), ("litevae_adversary", "ESRGAN"), ("litevae_decoder_and_latents", "SD-VAE")])
def test_a_page_of_tables_begins_with_what_was_found_and_a_figure(built, page, own):
    html = (built.out / "experiments" / f"{page}.html").read_text(encoding="utf-8")
    found, figure, table = (html.index(part) for part in ("What was found.", "<figure", "<table"))
    assert found < figure < table
    papers = re.findall(r"The paper:.*?(<table.*?</table>)", html, flags=re.S)
    assert any(own in cells[0] for each in papers for cells in rows_of(each))


def test_sections_of_the_sidebar():
    names = [section.title for section in sections(ROOT / "nbs")]
    wanted = ["Start", "Tutorials", "LiteVAE", "Diffusion", "Diff-AE", "Latent diffusion",
              "Experiments", "Options and ablations", "Tools", "Reference"]
    assert names == [name for name in wanted if name in names] and len(names) >= 9


@pytest.mark.parametrize("nb", NBS, ids=str)
def test_colab_opens_the_pages_own_notebook(built, nb):
    page = (built.out / page_name(nb).with_suffix(".html")).read_text(encoding="utf-8")
    own = f"https://colab.research.google.com/github/{USER_REPO}/blob/main/nbs/{nb.as_posix()}"
    links = re.findall(r'href="(https://colab[^"]+\.ipynb)"', page)
    assert len(links) >= 2 and set(links) == {own} # in the page's buttons and in the header
    assert f"{CFG['git_url']}/edit/main/nbs/{nb.as_posix()}" in page
    assert re.search(rf'href="[./]*_notebooks/{re.escape(nb.as_posix())}"', page)


def test_nothing_of_the_old_generator_is_left():
    for name in ("_quarto.yml", "nbdev.yml", "styles.css"):
        assert not (ROOT / "nbs" / name).exists()
    deploy = (ROOT / ".github" / "workflows" / "deploy.yaml").read_text()
    assert "python tools/site.py build" in deploy and "path: _site" in deploy
    assert "quarto" not in deploy.lower()


# ---- what a reader sees

LOOK = """async ([phone]) => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const article = document.querySelector('.bd-article') || document.body, said = [];
  if (phone) {
    const root = document.scrollingElement, edge = innerWidth + 1;
    if (root.scrollWidth > innerWidth) said.push(`scrolls sideways, ${root.scrollWidth} px`);
    const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
    for (const e of article.querySelectorAll('*')) {
      if (!e.checkVisibility() || e.getBoundingClientRect().right <= edge) continue;
      let up = e;
      while (up !== article && !(scrolls(up) && up.getBoundingClientRect().right <= edge))
        up = up.parentElement;
      if (up === article) said.push(`reaches over the side: ${e.tagName}.${e.className}`);
    }
    return said;
  }
  const math = document.querySelectorAll('.bd-article .math').length;
  const set = document.querySelectorAll('.bd-article .math mjx-container').length;
  if (set < math) said.push(`${math - set} of ${math} equations are not set`);
  const wrong = document.querySelectorAll('mjx-merror, .bd-article [data-mjx-error]').length;
  if (wrong) said.push(`${wrong} equations are faulty`);
  for (const img of article.querySelectorAll('img')) {
    if (!img.complete || !img.naturalWidth) said.push(`image ${img.src} is not shown`);
    if (!img.alt.trim() || img.alt.startsWith('_images') || img.alt.includes('.png'))
      said.push(`image ${img.src.slice(-60)} has no alt text`);
  }
  for (const e of article.querySelectorAll('p'))
    if (/\\|\\s*-{3}|\\| — \\|/.test(e.textContent)) said.push('a table is shown as text');
  document.querySelectorAll('details').forEach(d => d.open = true);
  for (const pre of article.querySelectorAll('.cell_input pre'))
    if (pre.scrollWidth > pre.clientWidth)
      said.push('a code line is cut: ' + pre.textContent.split('\\n')
        .sort((a, b) => b.length - a.length)[0].slice(0, 120));
  const open = '.cell_input, details.parameters, .definition';
  document.documentElement.dataset.theme = 'dark';
  document.documentElement.dataset.mode = 'dark';
  await new Promise(done => setTimeout(done, 50));
  for (const e of document.querySelectorAll('body, body *')) {
    const box = e.getBoundingClientRect();
    if (['IMG', 'svg', 'path', 'rect'].includes(e.tagName) || !box.width || !box.height) continue;
    const c = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
    if ((c.length < 4 || c[3] > 0.5) && Math.min(c[0], c[1], c[2]) > 200)
      said.push(`white in the dark: ${e.tagName}.${e.className}`);
  }
  return [...new Set(said)].slice(0, 8);
}"""


class Quiet(SimpleHTTPRequestHandler):
    "A server of files that reports nothing."
    def log_message(self, *args): pass


@pytest.fixture(scope="module")
def served(built):
    handler = functools.partial(Quiet, directory=str(built.out))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="no driver: pip install playwright")
    if not BROWSER: pytest.skip("no browser: apt-get install chromium")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER,
                                         args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser, served):
    "An open page; `tab.said` collects what the console and the network say."
    page = browser.new_page(viewport=PHONE)
    page.said = []
    page.on("console", lambda m: page.said.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((served, "data:"))
            else page.said.append(f"asks {r.url}"))
    page.on("requestfailed", lambda r: page.said.append(f"not loaded: {r.url}"))
    yield page
    page.close()


def all_pages():
    "The pages of the site: those of notebooks, sections and files."
    names = {page_name(p).with_suffix("").as_posix() for p in NBS} | {"names", "changelog",
                                                                        "contributing"}
    for section in sections(ROOT / "nbs"):
        names |= {s.name for s in [section, *section.groups] if s.page is None}
    return sorted(names)


@pytest.mark.parametrize("name", all_pages())
def test_page_in_a_browser(tab, served, name):
    tab.said.clear()
    tab.set_viewport_size(PHONE)
    tab.goto(f"{served}{name}.html")
    said = tab.evaluate(LOOK, [True])
    tab.set_viewport_size(DESK)
    said += tab.evaluate(LOOK, [False])
    assert not said + tab.said, name


def test_no_page_is_left_out(built):
    made = {p.relative_to(built.out).with_suffix("").as_posix() for p in built.out.rglob("*.html")
            if "_static" not in p.parts}
    assert made == {*all_pages(), "search"}


def test_a_faulty_page_is_seen(tab, served, built):
    "The look at a page finds each fault that it is for."
    page = (built.out / "diffusion.ddim.html").read_text(encoding="utf-8")
    faulty = ('<article class="bd-article"><div style="width:600px">wide</div><img src="none.png">'
              '<p>a | b | --- | --- |</p><span class="math">a</span>'
              '<div class="cell_input"><pre>' + "x"*140 + '</pre></div>'
              '<code style="background:#fff">pill</code><script>console.error("oh")</script>'
              '<img alt="x" src="http://localhost:9/x.png">')
    page = page.replace('<article class="bd-article">', faulty, 1)
    assert faulty in page
    (built.out / "faulty.html").write_text(page, encoding="utf-8")
    try:
        tab.said.clear()
        tab.set_viewport_size(PHONE)
        tab.goto(f"{served}faulty.html")
        said = " ".join(tab.evaluate(LOOK, [True]))
        tab.set_viewport_size(DESK)
        said += " ".join(tab.evaluate(LOOK, [False]) + tab.said)
    finally: (built.out / "faulty.html").unlink()
    for word in ("over the side", "not set", "is not shown", "no alt text", "is cut",
                 "white in the dark", "table is shown as text", "oh", "asks http://localhost:9"):
        assert word in said, (word, said)


def test_search_finds_a_definition(tab, served):
    tab.set_viewport_size(DESK)
    tab.goto(f"{served}search.html?q=ddim_step")
    found = tab.locator("#search-results li a").first
    found.wait_for(timeout=20_000)
    links = tab.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    assert "diffusion.ddim.html#ddim_step" in links[0], links[:5]


def test_index_in_one_screen(tab, served):
    "What it is, how to install, an image, lines of use and the three doors, above the fold."
    tab.set_viewport_size(DESK)
    tab.goto(f"{served}index.html")
    bottom = tab.evaluate("""() => {
      const found = [...document.querySelectorAll('.bd-article table a')];
      return Math.max(...found.map(a => a.getBoundingClientRect().bottom));
    }""")
    words = tab.locator(".bd-article").inner_text()
    assert "pip install" in words and bottom < DESK["height"]
    assert tab.locator(".bd-article img").first.bounding_box()["y"] < bottom


# ---- the parts of the tool


def page(title, *cells):
    "A processed notebook."
    front = [{"cell_type": "raw", "metadata": {}, "source": f"---\ntitle: {title}\n---\n"}]
    body = [{"cell_type": "markdown", "metadata": {}, "source": cell} for cell in cells]
    both = [dict(cell, id=f"c{k}") for k, cell in enumerate(front + body)]
    return {"cells": both, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


GOOD = ["## A section\n\n$$ x = 1 $$ {#eq-one}\n\nBy @eq-one, see "
        "[the first](00_first.ipynb#a-section)."]
FAULTS = {
    "image": ("![a picture](images/none.png)", r"none\.png"),
    "page": ("[a page](07_none.ipynb)", r"none\.ipynb"),
    "anchor": ("[an anchor](00_first.ipynb#no-such-section)", "no-such-section"),
    "symbol": (f"[`no_such_symbol`]({SITE}/first.html#no_such_symbol)", "no_such_symbol"),
    "figure": ("See @fig-none.", "fig-none"),
    "raw": ('<a href="nowhere.html">raw</a>', "leads nowhere: nowhere.html"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "What is said of a good site of two pages, and of the same with faults in it."
    said = {}
    for kind, extra in (("good", []), ("faulty", [source for source, _ in FAULTS.values()])):
        root = tmp_path_factory.mktemp(kind)
        shutil.copy(ROOT / "settings.ini", root)
        books = {"00_first.ipynb": page("First", "## A section\n\ntext"),
                 "index.ipynb": page("Index", *GOOD, *extra)}
        for folder in ("nbs", "_proc"):
            (root / folder).mkdir()
            for name, book in books.items(): (root / folder / name).write_text(json.dumps(book))
        shutil.copy(ROOT / "nbs" / "sidebar.yml", root / "nbs")
        said[kind] = render(root, root / "_proc", root / "html", root)
    return said


def test_a_good_site_is_accepted(small): assert small["good"] == (0, "")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(small, fault):
    status, said = small["faulty"]
    assert status != 0 and re.search(rf"index\.\w+.*WARNING.*{FAULTS[fault][1]}", said), said


def test_lost_links(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#x">1</a><a href="b.html#y">2</a>'
                                     '<a href="c.html">3</a><a href="https://e.org">4</a>')
    (tmp_path / "b.html").write_text('<p id="x">')
    assert lost_links(tmp_path) == [("a.html", "b.html#y"), ("a.html", "c.html")]


def test_anchors_are_those_of_pandoc():
    titles = ("A section", "From [-1, 1] to bytes", "Pretrained.from_preset", "3 levels",
              "to_uint8")
    assert [heading_anchor(t) for t in titles] == \
        ["a-section", "from--1-1-to-bytes", "pretrained.from_preset", "levels", "to_uint8"]


SOURCE = '''# what is left
STEP = 2

@dataclass
class Step:
    "A step."
    size:int # pixels
    def go(self): return 1

def _help(): return 1

# says more
def walk(x): return _help()'''


def test_a_cell_is_split_by_definition():
    blocks = split_definitions(SOURCE)
    assert [node.name for node, _ in blocks] == ["Step", "walk"]
    assert blocks[0][1].startswith("# what is left") and blocks[0][1].endswith("return 1")
    assert blocks[1][1].startswith("# says more") and "_help(): " in blocks[0][1]
    assert "\n".join(code for _, code in blocks).replace("\n", "") == SOURCE.replace("\n", "")
    assert split_definitions("x = 1") == [(None, "x = 1")]


def code(source, *outputs): return {"cell_type": "code", "source": source, "outputs": list(outputs)}


def doc(name, table="| | Type |\n| --- | --- |\n| `x` | `int` |"):
    said = (f"---\n\n[source]({SITE}/x.py#L1)\n\n### {name}\n\n"
            f"```python\ndef {name}(x):\n```\n\n*Says.*\n\n{table}")
    return code(f"#| echo: false\nshow_doc({name})", {"data": {"text/markdown": said}})


EXPORTED = "#| code-fold: show\n#| code-summary: \"Exported source\"\n"


def test_a_definition_is_shown_once():
    parts = read_parts([doc("walk"), code(EXPORTED + SOURCE), doc("Step"), doc("elsewhere")])
    assert [(part.name, bool(part.source)) for part in parts] == \
        [("Step", True), ("walk", True), ("elsewhere", False)]
    assert parts[1].doc.table.startswith("| | Type |") and parts[0].members == ("go", "size")
    made = to_notebook(Page(NBS[0], "x", "X", "", parts), ABOUT)["cells"]
    assert sum("class Step" in cell["source"] for cell in made) == 1
    assert sum("<details" in cell["source"] for cell in made) == 3


@pytest.mark.parametrize("signature, made", [
    ("f(\n    x:Tensor, y:int=1\n)->Tensor", None),
    ("class A(\n    a:tuple=(1, 2), b:dict[str, int]=None,\n    c:str='x, y'" + ", c:int=0"*8 + "\n)",
     "class A(\n    a:tuple=(1, 2), b:dict[str, int]=None,\n    c:str='x, y',\n" + "    c:int=0,\n"*8 + ")"),
    ("f(\n    c:Config=Config(a=1, b=(2, 3), name='" + "x"*60 + "'), d:int=Config(a=1)\n)",
     "f(\n    c:Config=Config(...),\n    d:int=Config(a=1),\n)")])
def test_long_signatures(signature, made):
    assert tidy_signature(signature) == (made or signature)


def test_patched_methods_belong_to_their_class():
    source = EXPORTED + "@patch\ndef edit(self:DiffAE, x): return x"
    parts = read_parts([doc("DiffAE.edit"), code(source)])
    assert [part.name for part in parts] == ["DiffAE.edit"] and parts[0].doc


PICTURE = {"data": {"image/png": "abc"}}


@pytest.mark.parametrize("source, outputs, folded", [
    ("import torch\nfrom x import y", [], True),
    ("x = 1", [], False),
    ("show(x);", [PICTURE], False),
    ("a\n"*9 + "show(x);", [PICTURE], True),
    ("#| code-fold: true\nx = 1", [], True),
    ("#| code-fold: false\nimport torch", [], False),
    ("!pip install x", [], False)])
def test_what_is_folded(source, outputs, folded):
    part, = read_parts([code(source, *outputs)])
    assert is_folded(part) is folded


def test_the_short_path_takes_the_hours_it_says(sources):
    "Thirteen chapters, and their minutes to the next hour; the first page says the same."
    listed = "".join(text(c["source"]) for c in cells(ROOT / "nbs/start/10_paths.ipynb"))
    chapters = re.findall(r"\]\(\.\./(\S+\.ipynb)\)\{\.minutes\}", listed)
    names = [page_name(Path(nb)).with_suffix("").as_posix() for nb in chapters]
    hours = round(sum(sources.site.minutes[name] for name in names) / 60)
    first = "".join(text(c["source"]) for c in cells(ROOT / "nbs/index.ipynb"))
    words = ("no", "one", "two", "three", "four", "five", "six")
    assert len(chapters) == 13 and f"About {words[hours]} hours" in listed
    assert f"{hours} hours" in first


@pytest.mark.parametrize("nb", [nb for nb in NBS if re.match(r"[1234]\d\d_", nb.name)], ids=str)
def test_a_chapter_is_read_in_a_quarter_of_an_hour(sources, built, nb):
    "And its page says so, with the number of its exercises."
    page = sources.pages[nb]
    assert minutes(page) <= 15
    said = (built.out / f"{page.name}.html").read_text(encoding="utf-8")
    assert f"<span>{minutes(page)} min to read</span> <span>{len(exercises(page))} exercises</span>" in said


def test_answers_are_folded_and_not_counted():
    answer = code("# @title Answer 2\n" + "x = 1\n"*40, PICTURE)
    part, = read_parts([answer])
    made = convert_code(part)
    assert is_folded(part) and made["metadata"]["tags"] == ["hide-cell"] and "@title" not in made["source"]
    assert made["metadata"]["mystnb"]["code_prompt_show"] == "Answer 2"
    asked = Markdown("**Exercise 1, predict.** What?")
    page = Page(NBS[0], "x", "X", "", [asked, part])
    assert minutes(page) == 1 and exercises(page) == [("1", "predict")]


def test_reading_minutes():
    prose, lines = Markdown("word "*400), "\n".join(["x = 1"]*40)
    parts = [prose, Code(lines, {}, []), Code(lines, {"code-fold": "true"}, [PICTURE]*1)]
    assert minutes(Page(NBS[0], "x", "X", "", parts)) == 4 # two and two, ten seconds for a figure
    assert minutes(Page(NBS[0], "x", "X", "", [])) == 1


@pytest.mark.parametrize("md, made", [
    (f"[`dwt2`]({SITE}/litevae.wavelets.html#dwt2)", "[`dwt2`](#litevae.wavelets.dwt2)"),
    (f"[`Step`]({SITE}/diffusion.ddim.html#step)", "[`Step`](#diffusion.ddim.class.step)"),
    (f"[f]({SITE}/litevae.wavelets.html#dwt2)", "[f](#litevae.wavelets.dwt2)"),
    (f"[w]({SITE}/litevae.wavelets.html)", "[w](/litevae.wavelets.ipynb)"),
    ("[w](../100_litevae.wavelets.ipynb#x)", "[w](../litevae.wavelets.ipynb#x)"),
    ("[w](100_litevae.wavelets.ipynb){.minutes}", "[w](litevae.wavelets.ipynb) (9 min)"),
    ("see `100_litevae.wavelets`", "see [`litevae.wavelets`](/litevae.wavelets.ipynb)"),
    ("see `litevae.wavelets.`", "see `litevae.wavelets.`"),
    ("$$ x $$ {#eq-a} by @eq-a and @fig-b", "$$ x $$ (eq-a) by {eq}`eq-a` and {ref}`fig-b`"),
    ("::: {.callout-note}\nx\n:::", ":::{note}\nx\n:::"),
    ("```\n[w](100_x.ipynb) @eq-a\n```", "```\n[w](100_x.ipynb) @eq-a\n```")])
def test_markdown_of_quarto_as_mysts(md, made): assert convert_markdown(md, ABOUT) == made


@pytest.mark.parametrize("command", ["build", "serve"])
def test_a_folder_that_is_no_site_is_left_alone(command, tmp_path):
    "A build begins by emptying its folder: never somebody's own."
    (tmp_path / "photo.jpg").write_text("mine")
    run = [sys.executable, str(ROOT / "tools" / "site.py"), command, "--out", str(tmp_path)]
    said = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert said.returncode == 2 and "out: a new, an empty or a site's folder expected" in said.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(ValueError, match="a folder expected"): check_out(tmp_path / "photo.jpg")
    (tmp_path / ".buildinfo").touch()
    check_out(tmp_path)
    check_out(tmp_path / "new")


def test_markdown_copy():
    parts = [Markdown("[w](100_litevae.wavelets.ipynb)"), Code("print(1)", {}, [{"text": "1\n"}]),
             Code("show()", {"fig-alt": "A face"}, [PICTURE])]
    md = to_markdown(Page(NBS[0], "x", "X", "Says.", parts), ABOUT)
    assert md.startswith("# X\n\nSays.\n\n[w](litevae.wavelets.md)")
    assert "```python\nprint(1)\n```\n\n```text\n1\n```" in md and "*Figure: A face*" in md


def test_serve_builds_what_changes(tmp_path):
    "A copy of two chapters is served; an edit is on the page soon after."
    root = tmp_path / "repo"
    keep = {"index.ipynb", "900_showdoc.ipynb", "sidebar.yml"}
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "settings.ini", root)
    (root / "nbs").mkdir()
    for name in keep: shutil.copy(ROOT / "nbs" / name, root / "nbs")
    (root / CFG["lib_path"]).mkdir()
    shutil.copy(ROOT / CFG["lib_path"] / "__init__.py", root / CFG["lib_path"])
    index = root / "nbs" / "index.ipynb"
    index.write_text(json.dumps({**json.loads(index.read_text()), "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Home\n\n> A page."}]}))
    more = root / "nbs" / "904_more.ipynb"
    more.write_text(index.read_text().replace("# Home", "# More"))
    server = subprocess.Popen([sys.executable, "-u", str(root / "tools" / "site.py"), "serve",
                               "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        lines = iter(server.stdout.readline, "")
        url = next(line.split()[0] for line in lines if line.startswith("http://"))
        assert "Home" in urlopen(f"{url}/index.html").read().decode()
        index.write_text(index.read_text().replace("# Home", "# Changed"))
        assert "nothing is wrong" in next(line for line in lines if "pages in" in line)
        assert "Changed" in urlopen(f"{url}/index.html").read().decode()
        other = root / "nbs" / "900_showdoc.ipynb" # a title stands in the sidebar of every page
        whole = other.read_text()
        other.write_text(whole[:100]) # a half-written file does not end it
        assert "not built" in next(line for line in lines if "built" in line or "pages in" in line)
        more.unlink() # a page that is gone is gone
        other.write_text(whole.replace("# Reference tables", "# Renamed tables"))
        assert "nothing is wrong" in next(line for line in lines if "pages in" in line)
        assert "Renamed tables" in urlopen(f"{url}/index.html").read().decode()
        with pytest.raises(HTTPError, match="404"): urlopen(f"{url}/more.html")
    finally: server.kill()


def test_renderer():
    from nbdev.showdoc import show_doc
    shown = show_doc(import_module(f"{CFG['lib_path']}.viz").image_grid)._repr_markdown_()
    assert "def image_grid(x:Tensor, n_cols:int=8, pad:int=2)->ndarray:" in shown
    assert "| `n_cols` | `int` | `8` | images in a row |" in shown


@pytest.mark.parametrize("module, name", [
    ("litevae.model", "LiteVAEConfig"), ("litevae.klvae", "KLVAEConfig"), ("optim", "TrainConfig"),
    ("diffusion.model", "DDIMConfig"), ("diffae.model", "DiffAEConfig")])
def test_inherited_fields_have_their_texts(module, name):
    config = getattr(import_module(f"{CFG['lib_path']}.{module}"), name)
    table = import_module(f"{CFG['lib_path']}._showdoc").parameter_table(config)
    rows = table.splitlines()[2:]
    assert len(rows) > 12 and not [row for row in rows if row.endswith("|  |")]
