#!/usr/bin/env python
"""Make `results/figures/*.safetensors`: what the experiments' pages draw of models that the repository does not keep.

    litevae-diffae experiment diffae-autoencoding --seeds 1
    python data/keep_run.py DDIM results/diffae-autoencoding.json models/ddim-avatars
    litevae-diffae experiment t4 --seeds 1
    for k in gn mixed smc; do python data/keep_run.py "<row of $k>" results/t4.json models/t4-$k; done
    python data/make_figures.py models
"""
import sys
from pathlib import Path

import torch

from litevae_diffae import DDIM, LiteVAE
from litevae_diffae.data import Crops, open_source
from litevae_diffae.diffae.show import predicted_x0
from litevae_diffae.experiments.autoencoding import load_faces
from litevae_diffae.experiments.sampling import make_path
from litevae_diffae.files import write_tensors
from litevae_diffae.litevae.analysis import residual_blocks
from litevae_diffae.viz import to_uint8

OUT = Path(__file__).parents[1] / "results" / "figures"


def ddim_way(model, n_steps=10):
    "Predicted x_0 of two held-out faces along a decode from their own x_T: uint8 (steps, 2, H, W, 3)."
    x = load_faces("test", 2)[0]
    return torch.from_numpy(to_uint8(predicted_x0(model, model.invert(x, n_steps), n_steps=n_steps).flatten(0, 1))).unflatten(0, (n_steps, 2))


def ddim_path(model, n=10, n_steps=20):
    "Images between two held-out faces: uint8 (n, H, W, 3)."
    a, b = (load_faces("test", 12)[0][i:i + 1] for i in (3, 8))
    return torch.from_numpy(to_uint8(make_path(model, a, b, n, n_steps)[0]))


def feature_maps(model, x, n=3):
    "Of the first and of the last residual block: root mean square over the channels, then the n channels with most energy; two of (1 + n, H, W)."
    blocks, found = list(residual_blocks(model).values()), []

    def keep(module, inputs, y):
        order = y[0].square().mean((1, 2)).argsort(descending=True)[:n]
        found.append(torch.stack([y[0].square().mean(0).sqrt(), *y[0][order]]))

    hooks = [blocks[i].register_forward_hook(keep) for i in (0, -1)]
    with torch.no_grad(): model(x)
    for hook in hooks: hook.remove()
    return found


def main(models):
    torch.manual_seed(0)
    ddim = DDIM.from_pretrained(Path(models) / "ddim-avatars")
    photo = Crops(open_source("photos", split="test"), 128, train=False).get(1)[None]
    maps = {}
    for name in ("gn", "mixed", "smc"):
        first, last = feature_maps(LiteVAE.from_pretrained(Path(models) / f"t4-{name}"), photo)
        maps.update({f"{name}.first": first.half(), f"{name}.last": last.half()})
    OUT.mkdir(exist_ok=True)
    write_tensors(OUT / "ddim-avatars.safetensors", {"way": ddim_way(ddim), "path": ddim_path(ddim)})
    write_tensors(OUT / "t4-maps.safetensors", maps)
    for path in sorted(OUT.iterdir()): print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__": main(*sys.argv[1:])
