#!/usr/bin/env python
"""Make `results/figures/adversary-curves.json`: discriminator curves of a healthy run and of two that are not, and gradient ratios with two discriminators.

    python data/make_adversary_curves.py            # all seven runs, about ten minutes of one thread
    python data/make_adversary_curves.py healthy    # one of them; the others stay as stored

All continue the shipped `photos-tiny` for 300 steps on the photographs. Chapters 719 and 721 draw them.
"""
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch

from litevae_diffae import LiteVAE, train_litevae
from litevae_diffae.checkpoint import read_log
from litevae_diffae.crops import Crops
from litevae_diffae.data import open_source
from litevae_diffae.litevae.adversarial import AdversarialConfig, train_adversarial
from litevae_diffae.litevae.discriminator import DiscriminatorConfig
from litevae_diffae.litevae.losses import LossWeights
from litevae_diffae.metrics import lpips, psnr
from litevae_diffae.optim import TrainConfig

OUT = Path(__file__).resolve().parents[1] / "results" / "figures" / "adversary-curves.json"
TRAIN = dict(steps=300, batch_size=8, lr=5e-4, betas=(.5, .9), warmup=20, schedule="cosine", ema=.99, log_every=5)
WEIGHTS = dict(l1=1., lpips=.1, wavelet=0., gaussian=0., kl=1e-6)
GENTLE = dict(weight=.02, start=0., warmup=.2, ramp=.2, norms_every=5)
UNET = dict(kind="unet", channels=16, mult=(1, 2, 4, 8))
PATCH = dict(kind="patch", channels=16)
RUNS = {  # name -> (discriminator, game, seed)
    "healthy": (UNET, dict(GENTLE, lr=2e-3), 0),  # the first U-Net of Figure 7 too
    "unet, seed 1": (UNET, dict(GENTLE, lr=2e-3), 1),
    "patch, seed 0": (PATCH, dict(GENTLE, lr=5e-4), 0),
    "patch, seed 1": (PATCH, dict(GENTLE, lr=5e-4), 1),
    "blind": (PATCH, dict(GENTLE, lr=2e-3, weight=1., warmup=0., ramp=0.), 0),
    "overpowering": (PATCH, dict(GENTLE, lr=5e-4, weight=.3, warmup=.7, ramp=0.), 0),
    "no adversary": (None, None, 0),
}
KEYS = ("step", "l1", "d_loss", "g_loss", "logits_real", "logits_fake", "adv_weight", "grad_rec", "ratio_g_loss")


@torch.no_grad()
def held_out(model):
    "Mean PSNR and LPIPS of the held-out photographs, middle squares of 128 pixels."
    crops = Crops(open_source("photos", split="test"), 128, train=False)
    x = torch.stack([crops.get(i) for i in range(len(crops))])
    x_rec = model(x).sample.clamp(-1, 1)
    return [round(f(x_rec, x).mean().item(), digits) for f, digits in ((psnr, 2), (lpips, 4))]


def play(disc, game, seed):
    "One run: what it was, its curves, and PSNR and LPIPS before and after."
    model, began = LiteVAE.from_pretrained("photos-tiny"), time.time()
    before = held_out(model)
    settings = dict(size=64, scale=(.08, .5), weights=LossWeights(**WEIGHTS), seed=seed, device="cpu", progress=False)
    with tempfile.TemporaryDirectory() as out:
        run = model, "photos", out, TrainConfig(**TRAIN)
        done = train_adversarial(*run, AdversarialConfig(**game), DiscriminatorConfig(**disc), **settings) if game else train_litevae(*run, **settings)
        rows = [{k: float(f"{row[k]:.4g}") for k in KEYS if k in row} for row in read_log(Path(out) / "log.jsonl")]
    return dict(discriminator=disc, adversarial=game, seed=seed, before=before, after=held_out(done), seconds=round(time.time() - began), log=rows)


def main(names):
    torch.set_num_threads(1)
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    runs = found.get("runs", {})
    for name in names or RUNS:
        runs[name] = play(*RUNS[name])
        print(f"{name}: {runs[name]['seconds']} s, {runs[name]['before']} -> {runs[name]['after']}", flush=True)
        said = dict(start="photos-tiny", data="photos, 64 px", train=TRAIN, weights=WEIGHTS, torch=torch.__version__, machine=platform.machine(),
                    command="python data/make_adversary_curves.py", runs={k: runs[k] for k in RUNS if k in runs})
        OUT.write_text(json.dumps(said, separators=(",", ":")).replace('"log":[', '"log":[\n').replace('},{"step"', '},\n{"step"') + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
