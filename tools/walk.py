"""The way of a call through the package: its functions in the order of their first call, and how often the file changes.

python tools/walk.py            without checks of arguments, which a reader skips
python tools/walk.py --checks   with them
"""
import sys
from itertools import pairwise
from pathlib import Path

import torch

import litevae_diffae
from litevae_diffae import DiffAE, LiteVAE

PACKAGE = Path(litevae_diffae.__file__).parent
UNNAMED = ("<lambda>", "<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")  # parts of the function that they stand in


DECORATOR = ("on_own_device.", "device_of")  # around each verb, and read once, in the chapter on core


def is_check(code): return code.co_name.lstrip("_").startswith("check_")


def in_check(frame):
    "Whether a frame is one of a check, or of what a check calls."
    while frame is not None:
        if is_check(frame.f_code): return True
        frame = frame.f_back
    return False


def walk(call, checks=False):
    "Pairs of file and function of the package, each once, in the order of their first call."
    seen = {}

    def note(frame, event, _):
        code = frame.f_code
        if event != "call" or code in seen or code.co_name in UNNAMED: return
        if code.co_qualname.startswith(DECORATOR): return
        path = Path(code.co_filename)
        if PACKAGE not in path.parents or (not checks and in_check(frame)): return
        seen[code] = (path.relative_to(PACKAGE).as_posix(), code.co_qualname)

    sys.setprofile(note)
    try: call()
    finally: sys.setprofile(None)
    return list(seen.values())


def changes(found):
    "How often the file changes between neighbours."
    return sum(a != b for (a, _), (b, _) in pairwise(found))


def trips():
    "Name -> call without arguments, on models that are made before."
    diffae, vae = DiffAE.from_preset("diffae-tiny").eval(), LiteVAE.from_preset("litevae-tiny").eval()
    x = torch.rand(2, 3, 32, 32)*2 - 1
    return {"DiffAE.reconstruct": lambda: diffae.reconstruct(x, n_steps=2), "LiteVAE.forward": lambda: vae(x)}


def main(checks):
    for name, call in trips().items():
        found = walk(call, checks)
        files = {file for file, _ in found}
        print(f"{name}: {len(found)} functions in {len(files)} files, {changes(found)} changes of file")
        last = None
        for file, function in found:
            if file != last: print(f"  {file}")
            print(f"      {function}")
            last = file


if __name__ == "__main__": main("--checks" in sys.argv)
