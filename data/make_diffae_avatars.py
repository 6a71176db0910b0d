#!/usr/bin/env python
"""Make litevae_diffae/assets/diffae-avatars from a finished training run: the averaged weights in float16, a prior and a classifier, and how they were made.

    OMP_NUM_THREADS=1 litevae-diffae train diffae-avatars --data avatars --out runs/diffae-avatars
    python data/make_diffae_avatars.py runs/diffae-avatars

The prior (latent DDIM) and the linear classifier are fitted here, to the codes of the training faces, in a few minutes.
"""
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from litevae_diffae import DiffAE
from litevae_diffae.bench import hardware
from litevae_diffae.core import n_params, seed_everything
from litevae_diffae.diffae.experiments import evaluate_code
from litevae_diffae.diffae.latent import LatentDDIM, cache_codes, train_prior
from litevae_diffae.diffae.manipulate import fit_classifier
from litevae_diffae.diffae.train import diffae_recipe
from litevae_diffae.train import read_log

OUT = Path(__file__).resolve().parents[1] / "litevae_diffae" / "assets" / "diffae-avatars"
PRIOR = dict(z_dim=128, hidden=320, n_layers=6)


def main(run):
    model, log = DiffAE.from_pretrained(run / "model"), read_log(run)
    codes = cache_codes(model, "avatars", run / "codes")
    seed_everything(0)
    prior = train_prior(model, codes, run / "prior", prior=LatentDDIM.from_preset("latent-tiny", **PRIOR), progress=False)
    fit_classifier(codes, model=model)
    model.save_pretrained(OUT, dtype=torch.float16)
    shipped = DiffAE.from_pretrained("avatars")
    used = [r for r in log if "swap_rise" in r]
    recipe = {
        "command": "OMP_NUM_THREADS=1 litevae-diffae train diffae-avatars --data avatars --out runs/diffae-avatars; python data/make_diffae_avatars.py runs/diffae-avatars",
        "data": "avatars (train): 12,000 drawn faces, 64 px, random flips", "config": asdict(diffae_recipe("diffae-avatars")), "parameters": n_params(model) - n_params(prior) - n_params(model.classifier),
        "started_from": "random weights", "images": log[-1]["images"], "seconds": log[-1]["seconds"], "hardware": hardware() | {"threads": 1},
        "log": [{k: r[k] for k in ("images", "seconds", "loss")} | ({"swap_rise": r["swap_rise"]} if r in used else {}) for r in log[9::10]],
        "prior": {"config": PRIOR, "parameters": n_params(prior), "loss": read_log(run / "prior")[-1]["loss"], "codes_seen": read_log(run / "prior")[-1]["images"]},
        "evaluated_on": "avatars (test): 500 held-out faces, weights as shipped (float16 on disk, float32 in use)", "metrics": evaluate_code(shipped)}
    (OUT / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    print(f"{sum(f.stat().st_size for f in OUT.rglob('*') if f.is_file()):,} bytes in {OUT.name}: {json.dumps(recipe['metrics'])}")


if __name__ == "__main__": main(Path(sys.argv[1]))
