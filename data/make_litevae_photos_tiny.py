#!/usr/bin/env python
"""Make litevae_diffae/assets/litevae-photos-tiny from a finished demo: the averaged weights in float16, and how they were made.

    litevae-diffae demo --out demo && python data/make_litevae_photos_tiny.py demo
"""
import json
import sys
from pathlib import Path

import torch

from litevae_diffae import LiteVAE

OUT = Path(__file__).resolve().parents[1] / "litevae_diffae" / "assets" / "litevae-photos-tiny"


def main(demo):
    metrics = json.loads((demo / "metrics.json").read_text())
    LiteVAE.from_pretrained(demo / "run" / "model").save_pretrained(OUT, dtype=torch.float16)
    keep = ("preset", "z_channels", "steps", "seed", "train_seconds", "device", "threads", "torch", "psnr", "ssim", "lpips", "psnr_bicubic8")
    recipe = {"command": "litevae-diffae demo", "data": "photos (train), 64 px crops", "evaluated_on": "photos (test), whole pictures", **{k: metrics[k] for k in keep}}
    (OUT / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    print(f"{sum(f.stat().st_size for f in OUT.iterdir()):,} bytes in {OUT.name}, held-out PSNR {metrics['psnr']:.2f} dB before rounding to float16")


if __name__ == "__main__": main(Path(sys.argv[1]))
