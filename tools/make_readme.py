#!/usr/bin/env python
"""Make README.md from nbs/index.ipynb, without Quarto.

    python tools/make_readme.py            # writes README.md
    python tools/make_readme.py --check    # ends non-zero if README.md is not current
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTE = "<!-- Made from nbs/index.ipynb by tools/make_readme.py: edit the notebook. -->"


def text(value): return value if isinstance(value, str) else "".join(value)


def below_nbs(md):
    "Relative links of the notebook, as seen from the top folder."
    return re.sub(r"(\]\()(?![a-z]+:|#|/)", r"\1nbs/", md)


def outputs(cell):
    "What the cell printed or returned, indented as Markdown's plain text."
    for out in cell["outputs"]:
        said = text(out.get("text", out.get("data", {}).get("text/plain", "")))
        if out.get("name") != "stderr" and "image/png" not in out.get("data", {}) and said.strip():
            yield "\n".join(("    " + line).rstrip() for line in said.rstrip("\n").split("\n"))


def readme(nb):
    "The text of README.md."
    blocks = []
    for cell in nb["cells"]:
        source = text(cell["source"]).strip()
        if cell["cell_type"] == "markdown": blocks.append(below_nbs(source))
        elif cell["cell_type"] == "code" and not re.search(r"^#\| *(hide|eval: *false)", source, flags=re.M):
            blocks.append("```python\n" + re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip() + "\n```")
            blocks.extend(outputs(cell))
    return re.sub(r"\n```\n\n```python\n", "\n", "\n\n".join(blocks[:1] + [NOTE] + blocks[1:]) + "\n")


def main():
    new = readme(json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8")))
    path = ROOT / "README.md"
    if "--check" not in sys.argv: path.write_text(new, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != new: sys.exit("README.md is not current: run python tools/make_readme.py")


if __name__ == "__main__": main()
