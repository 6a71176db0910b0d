"""The package as a wheel, for the tests that look at it as its users have it."""
import shutil
import subprocess
import sys

from conftest import ROOT
from website.build import copy_project


def run(*cmd, **kwargs):
    "What a Python command prints; an error if it fails."
    result = subprocess.run([sys.executable, *map(str, cmd)], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(folder):
    "Path of a wheel, made of a copy of the project in `folder`."
    root = copy_project(ROOT, folder)
    for name in ("LICENSE", "NOTICE", "MANIFEST.in"): shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "results", root / "results")
    run("-m", "build", "--wheel", "--no-isolation", cwd=root)
    return next((root / "dist").glob("*.whl"))
