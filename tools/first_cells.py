#!/usr/bin/env python
"""Write how every notebook begins: what a run of it takes, and the cell that installs the package on Colab.

    python tools/first_cells.py            # writes them
    python tools/first_cells.py --check    # ends non-zero and names the notebooks that are not current

The costs are those of tools/costs.json, measured by `python tools/run_notebooks.py --measure`. The
package comes from the archive of the main branch: no history is fetched, and it is as old as the notebooks.
"""
import json
import re
import sys
from pathlib import Path

from website.build import settings
from website.sections import notebooks

ROOT = Path(__file__).resolve().parents[1]
CFG = settings(ROOT)
SOURCE = f"{CFG['git_url']}/archive/{CFG['branch']}.zip"
EXTRAS = {"042_avatars": "avatars", "665_experiments.editing": "avatars",
          "670_experiments.edits": "avatars", "experiments/diffae_editing": "avatars",
          "046_formats": "hf,lmdb", "870_demo.app": "app", "tutorials/diffae_celeba_t4": "hf"}
PACKAGES = {"760_diffusion.diffusers": "diffusers", "830_interop": "diffusers",
            "840_bench.vae": "ptwt diffusers",
            "855_bench.run": "ptwt diffusers", "175_litevae.cost": "diffusers"}
ON_A_GPU = {"tutorials/diffae_celeba_t4": "with a GPU it trains the paper's network instead: on a T4 "
                                          "about 276 minutes (estimated below)"}
CPU_GMACS, T4_GMACS = 30, 1000 # a second: one core, and a T4's 8.1 TFLOP/s at a quarter of its peak
MOST_GMACS = 200 # a second, of one core: more were only counted, on the meta device
BEGIN, END = "<!-- cost -->", "<!-- end of cost -->"


def duration(seconds):
    "Seconds or minutes, as one says them."
    if seconds < 1.5: return "a second"
    if seconds < 90: return f"{round(seconds)} seconds"
    return f"{seconds/60:.0f} minutes"


def cost_line(name, cost):
    "What a run of a notebook takes, as one paragraph."
    seconds, gmacs = cost["cpu_seconds"], cost["gmacs"]
    here = f"{duration(seconds)} of one CPU core and {cost['memory_gb']:.1f} GB of memory (measured)"
    if name in ON_A_GPU: return f"*A full run takes {here}; {ON_A_GPU[name]}.*"
    if gmacs > MOST_GMACS*seconds: gmacs = 0
    networks = min(0.9*seconds, gmacs/CPU_GMACS)
    if networks < 5: return f"*A full run takes {here}; a GPU is used if there is one, and saves little.*"
    t4 = seconds - networks + gmacs/T4_GMACS
    count = f"{gmacs:,.0f} billion multiply-accumulates"
    return (f"*A full run takes {here}, and on a T4 about {duration(t4)} (estimated from {count}). "
            "The GPU is used if there is one; arithmetic is float32, that of training runs bfloat16, on "
            "a T4 float16.*")


def install_cell(name, first):
    "Source of the cell that installs the package on Colab; `first` are directives to begin with."
    extras, packages = EXTRAS.get(name), PACKAGES.get(name)
    what = f'"litevae_diffae{f"[{extras}]" if extras else ""} @ {{source}}"'
    what += f" {packages}" if packages else ""
    return "\n".join([*first, "#| hide", "#| eval: false", "# on Colab: install the package", "import sys",
                      'if "google.colab" in sys.modules:', f'    source = "{SOURCE}"',
                      f"    get_ipython().system(f'pip install -qU {what}')"])


def is_install(cell):
    "Whether a cell installs the package on Colab."
    source = "".join(cell["source"])
    return cell["cell_type"] == "code" and "google.colab" in source and "pip install" in source


def begun(name, nb, costs):
    "The notebook with its first cells as they should be."
    cells = [dict(cell) for cell in nb["cells"]]
    at = next((i for i, cell in enumerate(cells[:3]) if is_install(cell)), None)
    if at is None: return nb
    before = cells[at - 1]
    exports = re.search(r"^#\| default_exp .*", "".join(before["source"]), re.M)
    own = re.findall(r"^#\| default_exp .*", "".join(cells[at]["source"]), re.M)
    if exports and before["cell_type"] == "code":
        own, at = [exports[0]], at - 1
        del cells[at]
    cells[at]["source"] = install_cell(name, own).splitlines(True)
    head = "".join(cells[0]["source"])
    head = re.sub(rf"\n*{BEGIN}.*?{END}", "", head, flags=re.S).rstrip("\n")
    if name in costs: head += f"\n\n{BEGIN}\n{cost_line(name, costs[name])}\n{END}"
    cells[0]["source"] = head.splitlines(True)
    return dict(nb, cells=cells)


def main():
    costs = json.loads((ROOT / "tools" / "costs.json").read_text(encoding="utf-8"))
    costs = {name.removesuffix(".ipynb"): cost for name, cost in costs.items()}
    stale = []
    for path in notebooks(ROOT / "nbs"):
        if path.name == "index.ipynb": continue
        file = ROOT / "nbs" / path
        old = file.read_text(encoding="utf-8")
        nb = begun(path.with_suffix("").as_posix(), json.loads(old), costs)
        new = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
        if new == old: continue
        stale.append(path.as_posix())
        if "--check" not in sys.argv: file.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"not current: run python tools/first_cells.py ({', '.join(stale)})")


if __name__ == "__main__": main()
