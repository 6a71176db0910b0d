#!/usr/bin/env python
"""Run notebooks at full length and store their outputs: the way the committed outputs are made.

    python tools/run_notebooks.py                                   # all of them
    python tools/run_notebooks.py 024_viz nbs/100_litevae.wavelets.ipynb
    python tools/run_notebooks.py --shrink                          # runs nothing: stored images in fewer bytes
    python tools/run_notebooks.py --measure                         # stores no outputs: what a run costs, into tools/costs.json

Cells that nbdev would not test (`#| eval: false` and the flags of settings.ini) stay unrun and without output; `#| output: false` stays without output. Every notebook has a process
of its own; one that fails is left as it was. An image that shows what the stored one shows is left as it is stored: nothing is committed twice.
"""
import argparse
import base64
import json
import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
COSTS = ROOT / "tools" / "costs.json"
MAX_BYTES = 95_000  # of an image
SHARP_BYTES = 10_000  # a drawing that stays without loss, whatever a JPEG would take
SAME_RMS = 3.0  # levels of 255 between two images that show the same


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


def encoded(image, kind, **settings):
    "The bytes of an image file."
    out = BytesIO()
    image.save(out, format=kind, optimize=True, **settings)
    return out.getvalue()


def smallest(data):
    "The fewest bytes that show an image, and their type: PNG without loss, or JPEG at quality 85, and below that for what is still too large."
    with Image.open(BytesIO(data)) as image: rgb = image.convert("RGB")
    few = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=256) if rgb.getcolors(256) else rgb
    png = encoded(few, "PNG")
    if rgb.getcolors(256) and few.convert("RGB").tobytes() != rgb.tobytes(): png = encoded(rgb, "PNG")
    if len(png) <= SHARP_BYTES: return "image/png", png
    files = [("image/png", png)]
    for quality in (85, 75, 65, 55):
        files.append(("image/jpeg", encoded(rgb, "JPEG", quality=quality)))
        if min(len(f) for _, f in files) <= MAX_BYTES: break
    return min(files, key=lambda f: len(f[1]))


def same_image(a, b):
    "Whether two image files show the same: equal size, and no more between them than a compression or another machine's rounding makes."
    arrays = []
    for data in (a, b):
        with Image.open(BytesIO(data)) as image: arrays.append(np.asarray(image.convert("RGB"), dtype=np.float32))
    return arrays[0].shape == arrays[1].shape and float(np.sqrt(np.mean((arrays[0] - arrays[1])**2))) <= SAME_RMS


def images_in(outputs):
    "(data, type) of each output that is an image."
    found = ((out.get("data", {}), [m for m in out.get("data", {}) if m in ("image/png", "image/jpeg")]) for out in outputs)
    return [(data, mimes[0]) for data, mimes in found if mimes]


def replace_images(outputs, before=()):
    "Store the images of outputs in few bytes; one that shows what stood there before is kept byte for byte."
    old = [base64.b64decode("".join(data[mime])) for data, mime in images_in(before)]
    old_mimes = [mime for _, mime in images_in(before)]
    for k, (data, mime) in enumerate(images_in(outputs)):
        new = base64.b64decode("".join(data[mime]))
        if mime == "image/jpeg" and len(new) <= MAX_BYTES: continue  # a second time would cost quality
        if k < len(old) and len(old[k]) <= MAX_BYTES and same_image(new, old[k]): kind, new = old_mimes[k], old[k]
        else: kind, new = smallest(new)
        rest = {m: v for m, v in data.items() if m != mime}
        data.clear()
        data.update({kind: base64.b64encode(new).decode(), **rest})


def hides_output(source):
    "Whether a cell says that its output is not to be shown: then it is not kept either."
    return re.search(r"^#\| *output: *false *$", source, flags=re.M) is not None


def shrink(path):
    "Encode the stored images of a notebook anew; nothing is run."
    nb = json.loads(path.read_text(encoding="utf-8"))
    for cell in nb["cells"]: replace_images(cell.get("outputs", []))
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def execute(path):
    "Execute one notebook in this process: the notebook with its outputs, and those that stood there before."
    from copy import deepcopy

    from execnb.nbio import read_nb
    from execnb.shell import CaptureShell
    from fastcore.xtras import working_directory
    from nbdev.config import get_config
    from nbdev.process import extract_directives

    os.chdir(ROOT)
    flags = set(get_config().tst_flags.split())
    nb, before = read_nb(path), {}

    def unrun(cell):
        if cell.cell_type != "code": return True
        before[cell.id], cell.outputs = cell.get("outputs", []), []
        directives = extract_directives(deepcopy(cell), remove=False) or {}
        return directives.get("eval:", [""])[0].lower() == "false" or bool(flags & directives.keys())

    shell = CaptureShell(path, mpl_format="png")
    with working_directory(path.parent):
        try: shell.run_all(nb, exc_stop=True, preproc=unrun)
        except Exception: sys.exit(shell.prettytb(fname=path))
    return nb, before


def run_one(path):
    "Execute one notebook in this process and write it with its outputs."
    from execnb.nbio import write_nb
    from nbdev.clean import _nbdev_clean
    nb, before = execute(path)
    for cell in nb.cells:
        if cell.cell_type == "code" and hides_output(cell.source): cell.outputs = []
        for out in cell.get("outputs", []):
            if "text" in out: out["text"] = tidy(out["text"])
            if "text/markdown" in out.get("data", {}): out["data"].pop("text/plain", None) # says the same
            for mime in out.get("data", {}):
                if mime.startswith("text/"): out["data"][mime] = tidy(out["data"][mime])
        replace_images(cell.get("outputs", []), before.get(cell.id, ()))
    _nbdev_clean(nb)
    write_nb(nb, path)


def measure_one(path):
    """Execute one notebook in this process, on one thread, and print what it took as JSON.

    CPU seconds and the peak of memory, of processes that it starts too; multiply-accumulates of this process."""
    import resource

    import torch
    from torch.utils.flop_counter import FlopCounterMode
    torch.set_num_threads(1)
    counter = FlopCounterMode(display=False)
    with nullcontext() if os.environ.get("UNCOUNTED") else counter: execute(path)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cost = {"cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in used), 1),
            "memory_gb": round(max(u.ru_maxrss for u in used)*1024/1e9, 2),
            "gmacs": round(counter.get_total_flops()/2e9, 1)}
    print("COST", json.dumps(cost), flush=True)


def measure(paths, env):
    "Costs of notebooks, into one file; those of the others stay as they are."
    costs = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    for path in paths:
        name = path.relative_to(ROOT / "nbs").as_posix()
        command = [sys.executable, __file__, "--here", "--measure", str(path)]
        for more in ({}, {"UNCOUNTED": "1"}): # counting and compiling do not go together
            run = subprocess.run(command, env={**env, "OMP_NUM_THREADS": "1", **more}, capture_output=True, text=True)
            found = re.findall(r"^COST (.*)$", run.stdout, flags=re.M)
            if found: break
        if found: costs[name] = json.loads(found[0])
        print(name, found[0] if found else f"failed\n{run.stdout[-2000:]}{run.stderr[-2000:]}", flush=True)
        COSTS.write_text(json.dumps(dict(sorted(costs.items())), indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="paths or names such as 024_viz; default: all")
    parser.add_argument("--here", action="store_true", help="run in this process (used for one notebook)")
    parser.add_argument("--measure", action="store_true", help="store no outputs, but what a run costs")
    parser.add_argument("--shrink", action="store_true", help="encode the stored images anew and run nothing")
    args = parser.parse_args()
    every = [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    paths = [find(name) for name in args.notebooks] or every
    if args.here: return (measure_one if args.measure else run_one)(paths[0])
    if args.shrink:
        for path in paths: shrink(path)
        return
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    env.setdefault("COLUMNS", "100")
    if args.measure: return measure(paths, env)
    failed = []
    for path in paths:
        start = time.time()
        if subprocess.run([sys.executable, __file__, "--here", str(path)], env=env).returncode: failed.append(path.name)
        print(f"{path.name}: {time.time() - start:.0f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)
    if failed: sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__": main()
