"""Colab has versions of its own, older and newer than ours: three of them are installed beside the tests and stand first on the path; the others are held against our ranges.
The table is what Colab had when this was written; lpips, torchmetrics, tyro and ptwt are missing there, and pip adds those that we require."""
import configparser
import os
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

COLAB = {"torch": "2.11.0", "numpy": "2.1.3", "fastcore": "2.2.41", "huggingface_hub": "1.27.0", "gradio": "6.0.0", "datasets": "4.0.0", "diffusers": "0.39.0"}
MISSING = {"lpips", "torchmetrics", "tyro"}
# what ipywidgets and ipython of that age import, and later versions do not
OLDER = ("ipywidgets==7.7.1", "ipython==7.34.0", "fastcore>=2.2,<2.3", "ipython_genutils==0.2.0", "backcall==0.2.0", "pickleshare==0.7.5", "decorator")


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    "A folder with Colab's versions of three packages."
    folder = tmp_path_factory.mktemp("colab")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--no-deps", "--target", str(folder), *OLDER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode and ("No matching distribution" in done.stderr or "connection" in done.stderr.lower()): pytest.skip("pip reaches no registry")
    assert done.returncode == 0, done.stderr
    return folder


def run(folder, code, tmp_path):
    "Run code in a process whose first packages are those of a folder; its output."
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([*([str(folder)] if folder else []), str(ROOT)]))
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


SLIDERS = '''
    import base64, sys
    import ipywidgets
    from IPython.core.interactiveshell import InteractiveShell
    import torch
    from litevae_diffae.diffae.sliders import Sliders
    shell = InteractiveShell.instance()
    fading = Sliders(lambda values: torch.full((1, 3, 8, 8), values["light"]), {"light": (0., 1., 1.)})
    view = "application/vnd.jupyter.widget-view+json"
    def shown(): return shell.display_formatter.format(fading)[0]        # what a cell that ends with it hands to the page
    assert view not in shown() and base64.b64decode(shown()["image/png"]) == fading.picture.value
    shell.kernel = True                                                  # now it is a notebook's shell
    assert shown()[view] == {"version_major": 2, "version_minor": 0, "model_id": fading.box.model_id}, shown()
    assert "Sliders({'light': 1.0})" in shown()["text/plain"] and "image/png" in shown()
    before = fading.picture.value
    fading.sliders["light"].value = 0.5
    assert fading.picture.value != before and fading.values == {"light": 0.5}
    print(ipywidgets.__version__)
'''


def test_with_colabs_versions(older, tmp_path):
    "Every module is imported, a LiteVAE trains, and the sliders work."
    out = run(older, '''
        import sys
        from importlib import import_module
        from pathlib import Path
        from pkgutil import walk_packages
        import fastcore, IPython, ipywidgets
        print(ipywidgets.__version__, IPython.__version__, fastcore.__version__)
        import litevae_diffae
        for m in walk_packages(litevae_diffae.__path__, "litevae_diffae."):
            if not m.name.endswith("._showdoc"): import_module(m.name)
        from litevae_diffae import train_litevae
        from litevae_diffae.checkpoint import read_log
        train_litevae("litevae-tiny", "avatars", "run", steps=2, batch_size=2, size=32, stats_images=4, precision="fp32", log_every=1, progress=False, device="cpu")
        print(len(read_log("run")), (Path("run")/"model"/"model.safetensors").exists())
    ''', tmp_path).split()
    assert out[:2] == ["7.7.1", "7.34.0"] and out[2].startswith("2.2.") and out[-2:] == ["2", "True"]
    assert run(older, SLIDERS, tmp_path).split() == ["7.7.1"]


def test_the_sliders_with_the_newest_widgets(tmp_path):
    pytest.importorskip("ipywidgets")
    assert int(run(None, SLIDERS, tmp_path).split()[0].split(".")[0]) >= 8


def requirements():
    "Requirements of the package and of the extras that a user may ask for: those of setup.py."
    parser = configparser.ConfigParser(delimiters=["="]); parser.read(ROOT/"settings.ini", encoding="utf-8")
    cfg = parser["DEFAULT"]
    extras = [word for key, value in cfg.items() if key.endswith("_requirements") and key != "dev_requirements" for word in value.split()]
    return [Requirement(word) for word in [*cfg["requirements"].split(), *extras]], cfg["min_python"]


def test_nothing_of_colab_is_replaced():
    "pip leaves alone what our ranges admit: PyTorch with its CUDA most of all."
    found, min_python = requirements()
    named = {r.name: r for r in found}
    for name, version in COLAB.items():
        if name in named: assert named[name].specifier.contains(version), f"{named[name]} refuses Colab's {version}"
    assert {"torch", "numpy", "fastcore", "huggingface_hub", "gradio", "datasets"} <= set(named) and MISSING <= set(named)
    assert named["torch"].specifier.contains("2.11.0+cu128")
    assert all(SpecifierSet(f">={min_python}").contains(v) for v in ("3.12.12", "3.13.9"))
    assert "ipywidgets" not in named and "ipython" not in named         # Colab's front end is made for its own
    assert "ptwt" not in named                                           # the peer of the benchmark only
