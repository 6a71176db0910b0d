"""The command as a user starts it: exit codes, one line on stderr, a quick --help."""
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("litevae-diffae")


def run(*args, cwd):
    return subprocess.run([COMMAND, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Images of mixed sizes, a grey one, a truncated one, a text file."
    import numpy as np
    from PIL import Image
    root = tmp_path_factory.mktemp("cli")
    (root / "mine" / "more").mkdir(parents=True)
    for i, (h, w) in enumerate([(96, 128), (80, 80), (72, 200), (65, 91)]):
        image = Image.fromarray(np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8))
        (image.convert("L") if i == 3 else image).save(root / "mine" / ("more" if i == 2 else "") / f"{i}.png")
    whole = (root / "mine" / "0.png").read_bytes()
    (root / "mine" / "cut.png").write_bytes(whole[:len(whole) // 2])
    (root / "mine" / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    (root / "file").write_text("a file")
    return root


def test_help_is_quick_and_names_every_command(folder):
    start = time.time()
    result = run("--help", cwd=folder)
    assert result.returncode == 0 and time.time() - start < 20                 # PyTorch is not imported for it
    for name in ("demo", "train", "encode", "reconstruct", "evaluate", "bench", "import"): assert name in result.stdout
    assert "torch" not in subprocess.run([sys.executable, "-c", "import sys, litevae_diffae.cli; print([m for m in sys.modules if m == 'torch'])"],
                                         capture_output=True, text=True, cwd=folder).stdout


def test_train_says_what_it_skipped(folder):
    result = run("train", "litevae-tiny", "--data", "mine", "--out", "run", "--steps", 2, "--batch-size", 2, "--size", 64, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "mine: 4 images, 2 files skipped" in result.stdout
    assert "cut.png" in result.stdout and "notes.txt" in result.stdout
    assert {"config.json", "model.safetensors"} <= set(os.listdir(folder / "run" / "model"))


@pytest.mark.parametrize("args,says", [
    (("train", "litevae-tiny", "--data", "empty", "--out", "o"), "empty"),
    (("train", "litevae-tiny", "--data", "missing", "--out", "o"), "missing"),
    (("train", "litevae-x", "--data", "mine", "--out", "o"), "litevae-b"),
    (("train", "litevae-tiny", "--data", "mine", "--out", "o", "--size", "-64"), "size: must be positive, got -64"),
    (("train", "litevae-tiny", "--data", "mine", "--out", "file/o"), "file"),
    (("train", "litevae-tiny", "--out", "o"), "--data"),
    (("evaluate", "--model", "nothing"), "nothing"),
    (("paint",), "paint"),
], ids=lambda a: a if isinstance(a, str) else " ".join(a[:2]))
def test_one_line_and_exit_code_2(folder, args, says):
    result = run(*args, cwd=folder)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and says in result.stderr and "Traceback" not in result.stderr


def test_debug_shows_the_traceback(folder):
    result = run("evaluate", "--model", "nothing", "--debug", cwd=folder)
    assert result.returncode != 0 and "Traceback" in result.stderr
