#!/usr/bin/env python
"""Make nbs/sidebar.yml, the website's table of contents, from the numbers of the notebooks.

    python tools/make_sidebar.py            # writes nbs/sidebar.yml
    python tools/make_sidebar.py --check    # ends non-zero if it is not current
"""
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DECADES = {0: "Shared", 1: "LiteVAE", 2: "Diffusion", 3: "Diff-AE", 4: "Latent diffusion", 5: "Rivals", 6: "Experiments", 7: "Options and ablations", 8: "Tools", 9: "For contributors"}
FOLDERS = {"tutorials": "Tutorials", "experiments": "Experiments"}


def section(path):
    "The section of a notebook, by its number or its folder."
    if path.parts[0] == "index.ipynb": return "Start"
    return FOLDERS[path.parts[0]] if len(path.parts) > 1 else DECADES[int(path.name[0])]


def sidebar(nbs):
    "The text of sidebar.yml for the notebooks below `nbs`."
    found = sorted(p.relative_to(nbs) for p in nbs.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    order = dict.fromkeys(["Start", *(DECADES[k] for k in range(9)), *FOLDERS.values(), DECADES[9]])
    contents = [{"section": name, "contents": [p.as_posix() for p in found if section(p) == name]} for name in order]
    return yaml.safe_dump({"website": {"sidebar": {"contents": [c for c in contents if c["contents"]]}}}, sort_keys=False)


def main():
    new, path = sidebar(ROOT / "nbs"), ROOT / "nbs" / "sidebar.yml"
    if "--check" not in sys.argv: path.write_text(new, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != new: sys.exit("nbs/sidebar.yml is not current: run python tools/make_sidebar.py")


if __name__ == "__main__": main()
