"""The scripts that make the committed outputs and the README."""
import base64
import json
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from conftest import ROOT
from make_readme import readme
from PIL import Image
from run_notebooks import replace_images, smallest, tidy


def code(i, source): return {"cell_type": "code", "id": f"c{i}", "metadata": {"tags": ["x"]}, "execution_count": 7, "outputs": [], "source": source}


def notebook(*sources): return {"cells": [code(i, s) for i, s in enumerate(sources)], "metadata": {"language_info": {}}, "nbformat": 4, "nbformat_minor": 5}


def run(path): return subprocess.run([sys.executable, ROOT / "tools" / "run_notebooks.py", path], capture_output=True, text=True)


PLOT = "import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1)); plt.plot([1, 2]);"


@pytest.fixture
def full(tmp_path):
    "A notebook as the runner leaves it."
    path = tmp_path / "00_a.ipynb"
    path.write_text(json.dumps(notebook("import os, sys\nprint(os.environ.get('IN_TEST'))", "#| eval: false\nundefined", "#| cuda\nundefined", PLOT, "object()", "#| output: false\nprint(1)",
                                         "from IPython.display import Markdown\nMarkdown('**b**')")))
    assert run(path).returncode == 0
    return path


def test_runner_stores_full_length_outputs(full):
    cells = json.loads(full.read_text())["cells"]
    assert cells[0]["outputs"][0]["text"] == ["None\n"]
    assert cells[1]["outputs"] == cells[2]["outputs"] == []
    assert "image/png" in cells[3]["outputs"][0]["data"] and len(cells[3]["outputs"]) == 1
    assert cells[5]["outputs"] == [] and cells[6]["outputs"][0]["data"].keys() == {"text/markdown"}
    assert " at 0x" not in cells[4]["outputs"][0]["data"]["text/plain"][0]
    assert all(c["execution_count"] is None and c["metadata"] == {} for c in cells)


def test_runner_repeats_itself(full):
    before = full.read_text()
    assert run(full).returncode == 0 and full.read_text() == before


def test_runner_keeps_a_notebook_that_fails(tmp_path):
    path = tmp_path / "00_a.ipynb"
    path.write_text(json.dumps(notebook("1/0", "print(1)")))
    before, result = path.read_text(), run(path)
    assert result.returncode == 1 and "ZeroDivisionError" in result.stderr and "00_a.ipynb" in result.stderr
    assert path.read_text() == before


def test_runner_wants_one_notebook():
    result = run("no_such_notebook")
    assert result.returncode == 1 and "should name one notebook" in result.stderr


def test_tidy():
    assert tidy(["0%\r50%\r100%\n", "done"]) == ["100%\n", "done"]
    assert tidy([f"File {ROOT}/nbs/x\r\n"]) == ["File nbs/x\n"]


def png_of(pixels):
    out = BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def pixels_of(data): return np.array(Image.open(BytesIO(data)).convert("RGB"))


def test_a_plot_stays_without_loss():
    pixels = np.full((60, 80, 4), 255, dtype=np.uint8)
    pixels[20:30, 10:70, :3] = (200, 30, 40)
    kind, data = smallest(png_of(pixels))
    assert kind == "image/png" and len(data) < 300 and (pixels_of(data) == pixels[..., :3]).all()


def test_a_photograph_becomes_a_jpeg_below_the_limit():
    rng = np.random.default_rng(0)
    for size, grain in ((200, 8), (700, 60)):
        smooth = np.linspace(0, 200, size)[:, None, None] + np.zeros((size, size, 3))
        pixels = (smooth + rng.integers(0, grain, (size, size, 3))).astype(np.uint8)
        kind, data = smallest(png_of(pixels))
        assert kind == "image/jpeg" and len(data) < len(png_of(pixels)) and np.abs(pixels_of(data) - pixels.astype(float)).mean() < grain
        assert len(data) <= 95_000 or grain == 60


def test_an_image_that_shows_the_same_is_kept():
    rng = np.random.default_rng(0)
    pixels = (np.linspace(0, 200, 120)[:, None, None] + rng.integers(0, 9, (120, 120, 3))).astype(np.uint8)
    def output(data, kind="image/png"): return [{"data": {"text/plain": "<Figure>", kind: base64.b64encode(data).decode()}}]
    stored = output(png_of(pixels))
    replace_images(stored)
    kept = json.dumps(stored)
    replace_images(stored)
    assert json.dumps(stored) == kept  # nothing is compressed twice
    for change, same in ((0, True), (1, True), (30, False)):
        again = output(png_of(pixels + np.uint8(change)))
        replace_images(again, stored)
        assert (json.dumps(again) == kept) == same and list(again[0]["data"])[-1] == "text/plain"


def test_readme():
    md = [{"cell_type": "markdown", "source": s} for s in ("# T\n\n> One.", "[a](10_x.ipynb) [b](https://h/x) ![c](images/c.png) [d](#e)")]
    shown = {**code(0, "#| echo: true\nprint(1)"), "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]}]}
    text = readme({"cells": [md[0], code(1, "#| hide\nsecret"), md[1], code(2, "import a"), shown]})
    assert "secret" not in text and "#|" not in text
    assert "[a](nbs/10_x.ipynb) [b](https://h/x) ![c](nbs/images/c.png) [d](#e)" in text
    assert text.endswith("```python\nimport a\nprint(1)\n```\n\n    1\n    2\n")
