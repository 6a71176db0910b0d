#!/usr/bin/env python
"""Fold the answers of the exercises, in Jupyter and on Colab: the cells that begin with `# @title Answer`.

    python tools/answers.py            # writes the cells' metadata
    python tools/answers.py --check    # ends non-zero and names the notebooks that are not current
"""
import json
import sys
from pathlib import Path

from website.convert import ANSWER, text
from website.sections import notebooks

ROOT = Path(__file__).resolve().parents[1]
FOLDED = {"cellView": "form", "jupyter": {"outputs_hidden": True, "source_hidden": True}}


def folded(nb):
    "The notebook with every answer folded, and nothing else."
    def cell(c):
        answer = c["cell_type"] == "code" and ANSWER.match(text(c["source"]))
        rest = {k: v for k, v in c["metadata"].items() if k not in FOLDED}
        return dict(c, metadata=rest | (FOLDED if answer else {}))
    return dict(nb, cells=[cell(c) for c in nb["cells"]])


def main():
    nbs, stale = ROOT / "nbs", []
    for path in notebooks(nbs):
        old = (nbs / path).read_text(encoding="utf-8")
        new = json.dumps(folded(json.loads(old)), indent=1, ensure_ascii=False) + "\n"
        if new == old: continue
        stale.append(path.as_posix())
        if "--check" not in sys.argv: (nbs / path).write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"not current: run python tools/answers.py ({', '.join(stale)})")


if __name__ == "__main__": main()
