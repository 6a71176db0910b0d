#!/usr/bin/env python
"""Make litevae_diffae/assets/latent-avatars from two finished runs: autoencoder and U-Net in float16, and how they were made.

    litevae-diffae experiment t7 --rows LiteVAE --seeds 1                       # trains the autoencoder on the way
    OMP_NUM_THREADS=1 litevae-diffae train ldm-tiny --data avatars128 --size 128 --autoencoder runs/KEY/model --out runs/latent-avatars \\
        --labels Smiling Eyeglasses Beard Hat Long_Hair Dark_Skin Blond_Hair --images 256000 --batch-size 32 --precision bf16
    python data/make_latent_avatars.py runs/latent-avatars runs/KEY

KEY is the name of the autoencoder's folder, which the first command prints.
"""
import json
import sys
from pathlib import Path

import torch

from litevae_diffae import LatentDiffusion
from litevae_diffae.checkpoint import read_log
from litevae_diffae.core import n_params
from litevae_diffae.experiments.generators import generator_scores
from litevae_diffae.timing import hardware

OUT = Path(__file__).resolve().parents[1] / "litevae_diffae" / "assets" / "latent-avatars"


def run_facts(folder):
    "Images, seconds and the loss of a run, from its log."
    log = read_log(folder)
    return {"images": log[-1]["images"], "seconds": log[-1]["seconds"],
            "log": [{k: r[k] for k in ("images", "seconds", "loss", "l1", "lpips") if k in r} for r in log[9::10]]}


def main(run, vae_run):
    model = LatentDiffusion.from_pretrained(run / "model")
    model.save_pretrained(OUT, dtype=torch.float16)
    shipped = LatentDiffusion.from_pretrained(str(OUT))
    vae = n_params(shipped.autoencoder)
    recipe = {
        "command": "see data/make_latent_avatars.py", "data": "avatars128 (train): 12,000 drawn faces of 128 px and their mirror images",
        "parameters": {"autoencoder": vae, "denoiser": n_params(shipped) - vae}, "hardware": hardware() | {"threads": 1},
        "autoencoder": [run_facts(phase) for phase in sorted(vae_run.glob("phase_*"))], "denoiser": run_facts(run),
        "evaluated_on": "500 samples of 20 steps against the 12,000 training faces, AlexNet at 128 px; floor: the 500 held-out faces; weights as shipped",
        "metrics": generator_scores(shipped)}
    (OUT / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    print(f"{sum(f.stat().st_size for f in OUT.rglob('*') if f.is_file()):,} bytes in {OUT.name}: {json.dumps(recipe['metrics'])}")


if __name__ == "__main__": main(*map(Path, sys.argv[1:]))
