"""Every notebook is a test of its own, in a process of its own, and has the form that readers, Colab and the website rely on."""
import ast
import json
import re
import subprocess
import sys
import threading
import warnings
import zipfile

import first_cells
import pytest
from conftest import ROOT
from website.build import settings
from website.convert import text
from website.sections import notebooks
from wheels import build_wheel

NBS = notebooks(ROOT / "nbs")
SHORT, LONG, TIMEOUT = 20, 60, 300  # seconds: of one processor for most notebooks, for the named ones, and by the clock on a busy machine
LONG_ONES = ("155_litevae.train.ipynb", "380_diffae.show.ipynb", "860_demo.report.ipynb", "890_cli.ipynb", "850_bench.diffusion.ipynb",
             "170_litevae.analysis.ipynb", "tutorials/diffae_questions.ipynb")
ON_A_DEVICE = ("310_diffae.latent.ipynb", "380_diffae.show.ipynb", "experiments/diffae_samples.ipynb", "tutorials/litevae_own_photos.ipynb")
USER_REPO = "litevae-diffae/litevae_diffae"
BADGE = "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{}/blob/main/nbs/{})"
INSTALL = ("#| hide", "#| eval: false", "import sys", 'if "google.colab" in sys.modules:', "pip install -qU")
LOCAL_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|Users|mnt)/")
SHOWS = re.compile(r"(?:print|display|show_\w+|plot_\w+|plt\.show)$")


def load(nb): return json.loads((ROOT / "nbs" / nb).read_text(encoding="utf-8"))


def directives(source): return re.findall(r"^#\| *([\w-]+)", source, flags=re.M)


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    "Runs a notebook as a reader has it, in an empty folder with the wheel: exit code, CPU seconds, what it printed."
    home = tmp_path_factory.mktemp("reader")
    with zipfile.ZipFile(build_wheel(home / "build")) as wheel: wheel.extractall(home / "site")
    command, server = [sys.executable, str(ROOT / "tests" / "notebook_server.py"), str(home / "site")], None

    def run(path, **how):
        nonlocal server
        if server is None or server.poll() is not None:
            server = subprocess.Popen(command, cwd=home, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        server.stdin.write(json.dumps({"path": str(path), **how}) + "\n")
        server.stdin.flush()
        watchdog = threading.Timer(TIMEOUT, server.kill)
        watchdog.start()
        try: answer = server.stdout.readline()
        finally: watchdog.cancel()
        assert answer, f"{path}: no answer within {TIMEOUT} s"
        return json.loads(answer)

    yield run
    if server: server.kill()


@pytest.mark.parametrize("nb", NBS, ids=str)
def test_runs(nb, runner):
    result = runner(ROOT / "nbs" / nb)
    if result["code"]: pytest.fail(result["said"], pytrace=False)
    assert re.findall(r"- Completed (\S+)", result["said"]) == [str(ROOT / "nbs" / nb)]
    seconds, limit = result["seconds"], LONG if nb.as_posix() in LONG_ONES else SHORT
    if seconds > limit: warnings.warn(f"{nb} took {seconds:.0f} s of one CPU, {limit} s expected")
    assert seconds < 2 * limit


@pytest.mark.parametrize("nb", ON_A_DEVICE, ids=str)
def test_runs_with_its_models_on_a_device(nb, runner):
    "Chapters that put models on `default_device()`, where that is no CPU: the device of pretend_device.py."
    result = runner(ROOT / "nbs" / nb, pretend=True)
    if result["code"]: pytest.fail(result["said"], pytrace=False)


def test_a_notebook_that_fails_is_seen(runner, tmp_path):
    "And what it prints is told; the next one runs all the same."
    for source, code, word in (("print('before')\n1/0", 1, "ZeroDivisionError"), ("print('all well')", 0, "Completed"), ("import os\nos._exit(7)", 7, ""),
                               ("import os\nassert not os.listdir()", 0, "Completed"), ("import pytest", 1, "No module named 'pytest'"),
                               ("import importlib.util\nassert importlib.util.find_spec('nbdev') is None", 0, "Completed"),
                               ("import litevae_diffae\nassert 'site' in litevae_diffae.__file__", 0, "Completed")):
        doc = {"cells": [code_cell(source)], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (tmp_path / "00_a.ipynb").write_text(json.dumps(doc))
        result = runner(tmp_path / "00_a.ipynb")
        assert result["code"] == code and word in result["said"]


def statements(source):
    "The statements of a code cell; shell and magic lines are no Python."
    return ast.parse(re.sub(r"^( *)[!%].*$", r"\1pass", source, flags=re.M)).body


def only_imports(stmt):
    if isinstance(stmt, (ast.If, ast.Try)): return all(map(only_imports, stmt.body))
    return isinstance(stmt, (ast.Import, ast.ImportFrom))


def shows_something(stmt):
    if isinstance(stmt, (ast.For, ast.With)): return any(map(shows_something, stmt.body))
    return isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Call) and bool(SHOWS.match(ast.unparse(stmt.value.func)))


def first_line(cell): return next((line for line in text(cell["source"]).splitlines() if not line.startswith("#|")), "")[:100]


def cell_faults(cell, no_run):
    "What is wrong with one code cell."
    source, outs = text(cell["source"]), cell["outputs"]
    names, body = directives(source), statements(source)
    install = all(part in source for part in INSTALL)
    if cell["execution_count"] is not None: yield "not clean: run nbdev_clean"
    if "export" not in names and re.search(r"\bnbdev|\bshow_doc\(", source): yield "a reader has no nbdev"
    if set(names) & no_run or "NotImplementedError" in source or ("eval" in names and not install): yield "a cell that is not run"
    mixed = any(isinstance(n, (ast.Import, ast.ImportFrom)) for stmt in body for n in ast.walk(stmt)) and not all(map(only_imports, body))
    if mixed and not install and not {"export", "exports"} & set(names): yield "an import beside other code: the website would run all of it"
    if LOCAL_PATH.search(source): yield "a path of one machine"
    for out in outs:
        said = text(out.get("text", "")) + "".join(text(v) for k, v in out.get("data", {}).items() if k.startswith("text/"))
        if out["output_type"] == "error": yield "an error as output"
        if LOCAL_PATH.search(said): yield "a path of one machine in the output"
    if any(map(shows_something, body)) and not outs and not install: yield "shows something, but has no output: run tools/run_notebooks.py"
    figures = [out["output_type"] for out in outs if text(out.get("data", {}).get("text/plain", "")).startswith("<Figure")]
    images = any(kind.startswith("image/") for out in outs for kind in out.get("data", {}))
    said = [re.search(rf'^#\| *{key}: *"?(.*\w)', source, re.M) for key in ("fig-cap", "fig-alt")]
    if images and not (all(said) and said[0][1] != said[1][1]): yield "an image without its own fig-cap and fig-alt"
    if "execute_result" in figures and "display_data" in figures: yield "the same picture twice: end the line with a semicolon"


def notebook_faults(nb, doc):
    "What is wrong with a notebook, cell by cell."
    cells, first = doc["cells"], text(doc["cells"][0]["source"])
    codes = [c for c in cells if c["cell_type"] == "code"]
    if not re.match(r"# .+\n\n> .+[.!?]\n\n", first): yield "the first cell has no title with one sentence below it"
    if BADGE.format(USER_REPO, nb.as_posix()) not in first: yield "no Colab badge of its own in the first cell"
    installs = [c for c in codes[:2] if all(part in text(c["source"]) for part in INSTALL)]
    if codes and len(installs) != 1: yield "no guarded install cell at the start"
    if codes and nb.name != "index.ipynb" and not any(c["outputs"] for c in codes):
        yield "no outputs: run tools/run_notebooks.py"
    if len({c["id"] for c in cells}) != len(cells): yield "two cells have the same id"
    if any("TODO" in text(c["source"]) for c in cells): yield "an open end (TODO)"
    if any(LOCAL_PATH.search(text(c["source"])) for c in cells if c["cell_type"] != "code"): yield "a path of one machine in the prose"
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "code": yield from (f"cell {i}: {fault} ({first_line(cell)})" for fault in cell_faults(cell, NO_RUN))


def test_notebooks_begin_as_the_tool_writes_it():
    "One source of the package for all of them, the repository that the badges name; and what a run takes."
    run = subprocess.run([sys.executable, str(ROOT / "tools" / "first_cells.py"), "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert first_cells.SOURCE == f"https://github.com/{USER_REPO}/archive/main.zip"
    costs = json.loads((ROOT / "tools" / "costs.json").read_text())
    with_code = {nb.as_posix() for nb in NBS if any(c["cell_type"] == "code" for c in load(nb)["cells"])}
    assert with_code - {"index.ipynb"} == set(costs) - {"index.ipynb"}


NO_RUN = {*settings(ROOT)["tst_flags"].split(), "skip_exec"}


@pytest.mark.parametrize("nb", NBS, ids=str)
def test_form(nb):
    size = (ROOT / "nbs" / nb).stat().st_size
    faults = [f"{size:,} bytes, below 1 MB expected"] * (size >= 1_000_000) + list(notebook_faults(nb, load(nb)))
    if faults: pytest.fail("\n".join([str(nb), *faults]), pytrace=False)


def code_cell(source, *outs): return {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "source": source, "outputs": list(outs)}


FIGURE = {"text/plain": "<Figure size 1x1>", "image/png": ""}
SAID = '#| fig-cap: "Two curves."\n#| fig-alt: One rises, one falls.\n'


@pytest.mark.parametrize("cell, fault", [
    (code_cell("print(1)"), "no output"),
    (code_cell("for i in range(2): print(i)"), "no output"),
    (code_cell("from nbdev.showdoc import *"), "no nbdev"),
    (code_cell("#| cuda\nx = 1"), "not run"),
    (code_cell("#| eval: false\nx = 1"), "not run"),
    (code_cell("import torch\nx = torch.zeros(1)"), "beside other code"),
    (code_cell("def f():\n    import torch\n    return torch"), "beside other code"),
    (code_cell("open('/home/me/x')"), "path of one machine"),
    (code_cell("x", {"output_type": "stream", "name": "stdout", "text": ["saved in /tmp/abc\n"]}), "in the output"),
    (code_cell("x", {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}), "an error"),
    (code_cell("show_images(x)", {"output_type": "display_data", "data": FIGURE}, {"output_type": "execute_result", "data": FIGURE}), "twice"),
    (code_cell("show_images(x);", {"output_type": "display_data", "data": FIGURE}), "fig-alt"),
    (code_cell('#| fig-cap: "Two curves."\nx', {"output_type": "display_data", "data": FIGURE}), "fig-alt"),
    (code_cell(SAID.replace("Two curves.", ""), {"output_type": "display_data", "data": FIGURE}), "fig-alt"),
    (code_cell('#| fig-cap: A\n#| fig-alt: "A"', {"output_type": "display_data", "data": FIGURE}), "fig-alt"),
])
def test_form_sees(cell, fault):
    assert any(fault in found for found in cell_faults(cell, NO_RUN))


@pytest.mark.parametrize("cell", [
    code_cell("import torch\nfrom torch import nn"), code_cell("#| export\ntry: import a\nexcept ImportError: a = None"), code_cell("#| exports\ndef f():\n    import torch"),
    code_cell("\n".join(INSTALL[:4]) + " print('pip install -qU x')"), code_cell(SAID + "show_images(x);", {"output_type": "display_data", "data": FIGURE}), code_cell("x = 1"),
])
def test_form_accepts(cell):
    assert not list(cell_faults(cell, NO_RUN))
