#!/usr/bin/env python
"""Draw which module of the package imports which: floors from below to above, and no arrow that runs back.

    python tools/imports.py              # the floors as text, with what each module imports
    python tools/imports.py --write      # the drawing, nbs/images/imports.svg
    python tools/imports.py --check      # ends non-zero if the drawing is not current
"""
import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "litevae_diffae"
DRAWING = ROOT / "nbs" / "images" / "imports.svg"
FLOORS = {"shared": "what every model needs: files, settings, images, data, training, metrics",
          "litevae": "wavelets, LiteVAE, its training",
          "diffusion": "schedule, samplers, U-Net, DDIM",
          "diffae": "semantic codes, Diff-AE, its training, editing",
          "latent": "generators on the latents of an autoencoder",
          "hub interop plan commands": "any model by name; what a run costs; what the commands do",
          "experiments bench demo": "tables of the papers, benchmarks, report and app",
          "cli": "the command line"}
TOPS = ("hub", "interop", "plan", "cli")  # modules of the top folder that belong to no model
LAZY = {"cli"}  # imports what a command needs when it is called


@cache
def modules():
    "Name -> path of each module that a notebook makes."
    found = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name not in ("_modidx.py", "__init__.py") and "__pycache__" not in p.parts]
    return {p.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): p for p in found}


def floor(name):
    "Number of a module's floor, from below."
    part = name.split(".")[0] if "." in name or name in TOPS else "shared"
    return next(i for i, parts in enumerate(FLOORS) if part in parts.split())


@cache
def imported(name, inside=False):
    "The modules of the package that a module imports at its top, or also inside of functions."
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    package, found = ("litevae_diffae." + name).split(".")[:-1], []
    for node in ast.walk(tree) if inside else tree.body:
        if not isinstance(node, ast.ImportFrom): continue
        base = package[:len(package) - node.level + 1] if node.level else []
        at = ".".join([*base, *([node.module] if node.module else [])]).removeprefix("litevae_diffae").lstrip(".")
        found += [at] if at in modules() else [n for n in (f"{at}.{a.name}".strip(".") for a in node.names) if n in modules()]
    return tuple(dict.fromkeys(found))


def layers():
    "The modules in rows: each imports earlier rows only; `ValueError` names a circle."
    left = {name: {*imported(name, inside=name not in LAZY)} for name in modules()}
    rows = []
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        if not free: raise ValueError(f"a circle of imports among {', '.join(sorted(left))}")
        rows.append(free)
        for name in free: del left[name]
    return rows


def drawing():
    "An SVG: a band for each floor, modules in it by their rows, a line for each import."
    depth = {name: k for k, row in enumerate(layers()) for name in row}
    width, step, out, at = 1180, 34, [], {}
    y = 20
    for k, (parts, about) in reversed(list(enumerate(FLOORS.items()))):
        inside = sorted((n for n in modules() if floor(n) == k), key=lambda n: (-depth[n], n))
        per_row = 7
        rows = [inside[i:i + per_row] for i in range(0, len(inside), per_row)]
        height = 26 + step * len(rows)
        out.append(f'<rect x="6" y="{y}" width="{width - 12}" height="{height}" rx="6" fill="#f4f6f8" stroke="#c9d1d9"/>')
        out.append(f'<text x="14" y="{y + 16}" font-size="12" fill="#57606a">{parts.replace(" ", ", ")}: {about}</text>')
        for r, row in enumerate(rows):
            for c, name in enumerate(row): at[name] = (14 + c * (width - 24) / per_row, y + 24 + r * step)
        y += height + 12
    w = (width - 24) / 7 - 8
    lines = [(at[a], at[b]) for a in modules() for b in imported(a, inside=True)]
    for (x1, y1), (x2, y2) in lines:
        out.append(f'<path d="M{x1 + w / 2:.0f} {y1 + 24:.0f} L{x2 + w / 2:.0f} {y2:.0f}" stroke="#0969da" stroke-opacity=".13" fill="none"/>')
    for name, (x, top) in at.items():
        out.append(f'<rect x="{x:.0f}" y="{top:.0f}" width="{w:.0f}" height="24" rx="4" fill="white" stroke="#8c959f"/>')
        out.append(f'<text x="{x + w / 2:.0f}" y="{top + 16:.0f}" font-size="11" text-anchor="middle">{name}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" font-family="sans-serif" role="img">'
    return "\n".join([head, "<title>Modules of the package by floors; every line runs down</title>", *out, "</svg>", ""])


def main(argv):
    if "--write" in argv: DRAWING.write_text(drawing(), encoding="utf-8")
    elif "--check" in argv:
        if not DRAWING.exists() or DRAWING.read_text(encoding="utf-8") != drawing(): sys.exit("nbs/images/imports.svg is not current: run python tools/imports.py --write")
    else:
        for k, (parts, about) in reversed(list(enumerate(FLOORS.items()))):
            print(f"\n{parts.replace(' ', ', ')}: {about}")
            for name in (n for row in reversed(layers()) for n in row if floor(n) == k): print(f"  {name:28} {' '.join(sorted(imported(name, inside=True)))}")


if __name__ == "__main__": main(sys.argv[1:])
