#!/usr/bin/env python
"""Run notebooks at full length and store their outputs: the way the committed outputs are made.

    python tools/run_notebooks.py                                   # all of them
    python tools/run_notebooks.py 024_viz nbs/100_litevae.wavelets.ipynb

Cells that nbdev would not test (`#| eval: false` and the flags of settings.ini) stay unrun and without output. Every notebook has a process
of its own; one that fails is left as it was.
"""
import argparse
import base64
import os
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def find(name):
    "The notebook that `name` means: a path, or the start of a file name."
    if Path(name).is_file(): return Path(name).resolve()
    found = [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if p.name.startswith(name) and ".ipynb_checkpoints" not in p.parts]
    if len(found) != 1: sys.exit(f"run_notebooks: {name!r} should name one notebook, it names {[p.name for p in found]}")
    return found[0]


def tidy(text):
    "Progress bars as they look at the end, and no path of this machine."
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in "".join(text).replace(f"{ROOT}/", "").split("\n")]
    return "\n".join(lines).splitlines(True)


def smaller(png):
    "The same picture in fewer bytes: no alpha channel, best compression."
    out = BytesIO()
    with Image.open(BytesIO(base64.b64decode(png))) as img: img.convert("RGB").save(out, format="PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def run_one(path):
    "Execute one notebook in this process and write it with its outputs."
    from copy import deepcopy

    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    from fastcore.xtras import working_directory
    from nbdev.clean import _nbdev_clean
    from nbdev.config import get_config
    from nbdev.process import extract_directives

    os.chdir(ROOT)
    flags = set(get_config().tst_flags.split())
    nb = read_nb(path)

    def unrun(cell):
        if cell.cell_type != "code": return True
        cell.outputs = []
        directives = extract_directives(deepcopy(cell), remove=False) or {}
        return directives.get("eval:", [""])[0].lower() == "false" or bool(flags & directives.keys())

    shell = CaptureShell(path, mpl_format="png")
    with working_directory(path.parent):
        try: shell.run_all(nb, exc_stop=True, preproc=unrun)
        except Exception: sys.exit(shell.prettytb(fname=path))
    for cell in nb.cells:
        for out in cell.get("outputs", []):
            if "text" in out: out["text"] = tidy(out["text"])
            for mime in out.get("data", {}):
                if mime.startswith("text/"): out["data"][mime] = tidy(out["data"][mime])
                elif mime == "image/png": out["data"][mime] = smaller("".join(out["data"][mime]))
    _nbdev_clean(nb)
    write_nb(nb, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="paths or names such as 024_viz; default: all")
    parser.add_argument("--here", action="store_true", help="run in this process (used for one notebook)")
    args = parser.parse_args()
    every = [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    paths = [find(name) for name in args.notebooks] or every
    if args.here: return run_one(paths[0])
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    env.setdefault("COLUMNS", "100")
    failed = []
    for path in paths:
        start = time.time()
        if subprocess.run([sys.executable, __file__, "--here", str(path)], env=env).returncode: failed.append(path.name)
        print(f"{path.name}: {time.time() - start:.0f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)
    if failed: sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__": main()
