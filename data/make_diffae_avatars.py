#!/usr/bin/env python
"""Make litevae_diffae/assets/diffae-avatars from a finished training run: the averaged weights in float16, a prior and a classifier, and how they were made.

    OMP_NUM_THREADS=1 litevae-diffae train diffae-avatars --data avatars --out runs/diffae-avatars
    python data/make_diffae_avatars.py runs/diffae-avatars

The linear classifier and the prior (latent DDIM) are fitted here, to the codes of the training faces, in a few minutes; the prior to those of the
weights as shipped, by the row "(shipped)" of the experiment diffae-prior, whose run it shares. The prior alone, everything else left as it is:

    python data/make_diffae_avatars.py runs/diffae-avatars --prior

The editor is fitted to the same codes; --editor fits it alone.
"""
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from litevae_diffae import DiffAE
from litevae_diffae.timing import hardware
from litevae_diffae.core import n_params
from litevae_diffae.diffae.editor import fit_editor
from litevae_diffae.experiments.autoencoding import evaluate_code
from litevae_diffae.diffae.code_cache import cache_codes
from litevae_diffae.diffae.manipulate import fit_classifier
from litevae_diffae.experiments.faces import face_models, face_prior, prior_folder, shipped_prior
from litevae_diffae.diffae.train import diffae_recipe
from litevae_diffae.checkpoint import read_log

OUT = Path(__file__).resolve().parents[1] / "litevae_diffae" / "assets" / "diffae-avatars"
GAIN = {"Beard": 2.0, "Hat": 2.0}  # chosen on the validation pairs of the experiment diffae-editing (two draws of 12 pairs an edit, T = 10), whose faces are neither trained on nor reported


def refit_prior(work):
    "Fit the prior to the codes of the shipped weights, save it, and say how it was made."
    model = face_models()["Diff-AE"]
    prior = face_prior(model, work, shipped_prior)
    prior.save_pretrained(OUT / "prior", dtype=torch.float16)
    last = read_log(prior_folder(model, work, shipped_prior))[-1]
    return {**shipped_prior, "parameters": n_params(prior), "final_loss": last["loss"], "codes_seen": last["images"]}


def refit_editor(work):
    "Fit the editor to the codes of the shipped weights, save it, and say how it was made."
    codes = cache_codes(DiffAE.from_pretrained("avatars"), "avatars", work / "codes-avatars", progress=False)
    editor = fit_editor(codes, gain=GAIN)
    editor.save_pretrained(OUT / "editor", dtype=torch.float16)
    return {"fitted_by": "fit_editor(codes, gain=...), all else by default", "gain": GAIN, "codes": len(codes), "parameters": n_params(editor)}


parts = {"prior": refit_prior, "editor": refit_editor}


def only(part, run):
    recipe = json.loads((OUT / "recipe.json").read_text())
    recipe[part] = parts[part](run.parent)
    (OUT / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


def main(run):
    model, log = DiffAE.from_pretrained(run / "model"), read_log(run)
    codes = cache_codes(model, "avatars", run / "codes")
    fit_classifier(codes, model=model)
    parameters = n_params(model) - n_params(model.classifier)
    model.save_pretrained(OUT, dtype=torch.float16)
    fitted = {part: fit(run.parent) for part, fit in parts.items()}
    shipped = DiffAE.from_pretrained("avatars")
    used = [r for r in log if "swap_rise" in r]
    recipe = {
        "command": "OMP_NUM_THREADS=1 litevae-diffae train diffae-avatars --data avatars --out runs/diffae-avatars; python data/make_diffae_avatars.py runs/diffae-avatars",
        "data": "avatars (train): 12,000 drawn faces, 64 px, random flips", "config": asdict(diffae_recipe("diffae-avatars")), "parameters": parameters,
        "started_from": "random weights", "images": log[-1]["images"], "seconds": log[-1]["seconds"], "hardware": hardware() | {"threads": 1},
        "log": [{k: r[k] for k in ("images", "seconds", "loss")} | ({"swap_rise": r["swap_rise"]} if r in used else {}) for r in log[9::10]],
        **fitted,
        "evaluated_on": "avatars (test): 500 held-out faces, weights as shipped (float16 on disk, float32 in use)", "metrics": evaluate_code(shipped)}
    (OUT / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    print(f"{sum(f.stat().st_size for f in OUT.rglob('*') if f.is_file()):,} bytes in {OUT.name}: {json.dumps(recipe['metrics'])}")


if __name__ == "__main__":
    chosen = [part for part in parts if f"--{part}" in sys.argv]
    for part in chosen: only(part, Path(sys.argv[1]))
    if not chosen: main(Path(sys.argv[1]))
