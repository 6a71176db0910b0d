"""The commands need no more memory for many images than for few and, in tiles, little more for large ones than for small ones."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

PEAK = """
import sys, json, torch
from litevae_diffae.cli import main
torch.manual_seed(0)
*before, last = json.loads(sys.argv[1])
def peak():
    with open("/proc/self/status") as f: return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024
for command in before: main(command)
first = peak()
main(last)
print("GROWTH", peak() - first)
"""


def growth(*commands, cwd):
    "MB that the last command needs beyond those before it, in one fresh process whose allocator gives large pieces back."
    env = dict(os.environ, MALLOC_MMAP_THRESHOLD_="1000000", MALLOC_ARENA_MAX="1")
    run = subprocess.run([sys.executable, "-c", PEAK, json.dumps(commands)], cwd=cwd, capture_output=True, text=True, timeout=300, env=env)
    assert run.returncode == 0, run.stderr
    return float(run.stdout.split("GROWTH")[1])


def write(folder, n, side):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")


COMMANDS = {"encode": lambda data, out: ["encode", data, "--model", "photos-tiny", "--out", out],
            "reconstruct": lambda data, out: ["reconstruct", data, "--model", "photos-tiny", "--out", out],
            "evaluate": lambda data, out: ["evaluate", "--data", data, "--model", "photos-tiny", "--out", out]}


@pytest.mark.parametrize("command", COMMANDS)
def test_memory_is_flat_in_the_number_of_images(tmp_path, command):
    "An image of 512 pixels is 3 MB of floats; 8 more of them are 24, with their reconstructions 48."
    write(tmp_path / "few", 2, 512)
    write(tmp_path / "many", 10, 512)
    make = COMMANDS[command]
    assert growth(make("few", "a"), make("few", "a"), make("many", "b"), cwd=tmp_path) < 12


@pytest.mark.parametrize("command", ("encode", "reconstruct"))
def test_memory_in_tiles_is_that_of_the_image(tmp_path, command):
    "From 512 to 1,280 pixels an image of floats grows by 17 MB; ten of them are the image, its reconstruction and what measuring needs."
    write(tmp_path / "small", 1, 512)
    write(tmp_path / "large", 1, 1280)
    make = lambda data, out: [*COMMANDS[command](data, out), "--tile-size", "256"]
    assert growth(make("small", "a"), make("large", "b"), cwd=tmp_path) < 180
