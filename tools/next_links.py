#!/usr/bin/env python
"""Write the last cell of every notebook: a link to the one that comes next in nbs/sidebar.yml.

    python tools/next_links.py            # writes the cells
    python tools/next_links.py --check    # ends non-zero and names the notebooks that are not current
"""
import json
import os
import re
import sys
from pathlib import Path

from website.sections import reading_order

ROOT = Path(__file__).resolve().parents[1]
CELL = "next-chapter"  # the id of the cell


def title(path):
    "The first heading of a notebook."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return re.search(r"^# (.+)$", "".join(cells[0]["source"]), flags=re.M)[1].strip()


def next_links(nbs):
    "What the last cell of each notebook should say, by notebook; nothing for the last one."
    order = reading_order(nbs)
    links = {}
    for here, there in zip(order, order[1:]):
        target = os.path.relpath(nbs / there, (nbs / here).parent).replace(os.sep, "/")
        links[here] = f"**Next:** [{title(nbs / there)}]({target})"
    return links


def linked(nb, link):
    "The notebook with the link as its last cell; None: without one."
    cells = [cell for cell in nb["cells"] if cell.get("id") != CELL]
    if link:
        cells.append({"cell_type": "markdown", "id": CELL, "metadata": {}, "source": [link]})
    return dict(nb, cells=cells)


def main():
    nbs, stale = ROOT / "nbs", []
    links = next_links(nbs)
    for path in reading_order(nbs):
        if path.name == "index.ipynb": continue # its doors are the links
        old = (nbs / path).read_text(encoding="utf-8")
        new = json.dumps(linked(json.loads(old), links.get(path)), indent=1, ensure_ascii=False)
        if new + "\n" == old: continue
        stale.append(path.as_posix())
        if "--check" not in sys.argv: (nbs / path).write_text(new + "\n", encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"not current: run python tools/next_links.py ({', '.join(stale)})")


if __name__ == "__main__": main()
