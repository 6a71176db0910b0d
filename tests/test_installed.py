"""What a wheel holds, and that the package in it works away from the repository."""
import json
import os
import re
import zipfile

import pytest
from conftest import ROOT
from website.build import settings
from wheels import build_wheel, run

CFG = settings(ROOT)
LIB = CFG["lib_path"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory): return build_wheel(tmp_path_factory.mktemp("build"))


def test_wheel_holds_all_files(wheel):
    with zipfile.ZipFile(wheel) as z: names = set(z.namelist())
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / LIB).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    here |= {f"{LIB}/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "results").rglob("*") if p.is_file()}
    assert {n for n in names if ".dist-info/" not in n} == here
    assert {n.rsplit("/", 1)[-1] for n in names if "/licenses/" in n} == {"LICENSE", "NOTICE"}


def test_wheel_says_what_the_settings_say(wheel):
    with zipfile.ZipFile(wheel) as z:
        meta, entry = (z.read(next(n for n in z.namelist() if n.endswith(end))).decode() for end in (".dist-info/METADATA", "entry_points.txt"))
    required = [line for line in meta.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert len(required) == len(CFG["requirements"].split())
    assert {line.split(": ")[1] for line in meta.splitlines() if line.startswith("Provides-Extra")} == {"dev", "avatars", "hf", "lmdb", "fid", "app"}
    assert f"Requires-Python: >={CFG['min_python']}" in meta and re.search(r"^License(?:-Expression)?: Apache-2.0$", meta, flags=re.M)
    assert "litevae-diffae = litevae_diffae.cli:main" in entry and f"{LIB} = {LIB}._modidx:d" in entry


def test_wheel_works_elsewhere_without_network(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as z: z.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    env = dict(os.environ, PYTHONPATH=str(tmp_path / "site"))
    said = run(ROOT / "tools" / "check_installed.py", cwd=tmp_path / "elsewhere", env=env)
    assert "installed package works without the network" in said


@pytest.mark.parametrize("config", sorted((ROOT / LIB / "assets").glob("*/config.json")), ids=lambda p: p.parent.name)
def test_a_shipped_model_is_small_and_tells_how_it_was_made(config):
    found = [p for p in config.parent.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in found) <= 16_000_000
    assert json.loads((config.parent / "recipe.json").read_text())["command"].startswith(("litevae-diffae", "OMP_NUM_THREADS=1 litevae-diffae"))


def test_messages_name_the_packages_of_an_extra():
    from litevae_diffae.sources import EXTRAS
    for extra, packages in EXTRAS.items(): assert packages == CFG[f"{extra}_requirements"]
    assert CFG["app_requirements"] == "gradio>=6" # said by demo.app.need_gradio
