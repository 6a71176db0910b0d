"""A public verb takes tensors of any device and computes where its model is: on a device that is no CPU.

`devices_table.py` drives everything in a process of its own, for the pretended device stays with a process.
"""
import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from litevae_diffae.core import device_of, on_own_device

KNOWN = {"litevae": 14, "klvae": 11, "ddim": 9, "diffae": 44, "metrics": 13, "training": 4, "experiments": 3,
         "diffae experiments": 12}


def table(*device):
    "What was tried, one dict each."
    run = subprocess.run([sys.executable, str(ROOT / "tests" / "devices_table.py"), *device],
                         capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def rows(): return table()


@pytest.mark.parametrize("subject", KNOWN)
def test_verbs_on_a_device(rows, subject):
    "Inputs on the CPU and on the device: results lie where the model is and equal the CPU's within 1e-4."
    mine = [row for row in rows if row["subject"] == subject]
    assert len({row["verb"] for row in mine}) >= KNOWN[subject]
    wrong = [row for row in mine if not row["right"] or not row["error"] < 1e-4]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("source, word", [
    ("x = torch.ones(2).to('sham'); x + torch.ones(2)", "Expected all tensors to be on the same device"),
    ("torch.randn(2, device='sham', generator=torch.Generator())", "Expected a generator on sham"),
    ("torch.ones(2).to('sham').double()", "has no float64"),
    ("torch.ones(2).to('sham').numpy()", "numpy")])
def test_the_device_refuses(source, word):
    "What a GPU refuses; without that the test above could not fail."
    head = "import pretend_device, torch\npretend_device.start()\nwith pretend_device.PretendDevice(): "
    run = subprocess.run([sys.executable, "-c", head + source], cwd=ROOT / "tests", capture_output=True, text=True)
    assert run.returncode == 1 and word in run.stderr.splitlines()[-1]


def test_the_decorator_moves_tensors_and_nothing_else():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("here", torch.zeros(1, device="meta"))

        @on_own_device
        def verb(self, x, name="a", *, y=None): return x, name, y
    x, name, y = Seen().verb(torch.ones(2), "b", y=torch.ones(3))
    assert (x.device.type, name, y.device.type) == ("meta", "b", "meta")
    assert Seen().verb([1])[0] == [1] and Seen.verb.__name__ == "verb"
    with pytest.raises(ValueError, match="module: one with parameters expected, got Identity"): device_of(nn.Identity())


@pytest.mark.cuda
def test_verbs_on_a_gpu():
    wrong = [row for row in table("cuda") if not row["right"] or not row["error"] < 1e-3]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.cuda
def test_the_benchmark_on_a_gpu():
    from litevae_diffae.bench.run import SMALL, part_names, run_bench
    found = run_bench(None, sizes=SMALL, device="cuda")
    assert set(found["parts"]) == set(part_names(device="cuda"))


def test_tests_of_a_gpu_are_left_out_without_one():
    run = subprocess.run([sys.executable, "-m", "pytest", "-n", "0", "--collect-only", "-q", __file__],
                         cwd=ROOT, capture_output=True, text=True)
    assert ("test_verbs_on_a_gpu" in run.stdout) == torch.cuda.is_available()
