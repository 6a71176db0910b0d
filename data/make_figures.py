#!/usr/bin/env python
"""Make `results/figures/*.safetensors`: what the experiments' pages draw of models that the repository does not keep.

    litevae-diffae experiment diffae-autoencoding --seeds 1
    python data/keep_run.py DDIM results/diffae-autoencoding.json models/ddim-avatars
    litevae-diffae experiment t4 --seeds 1
    for k in gn mixed smc; do python data/keep_run.py "<row of $k>" results/t4.json models/t4-$k; done
    python data/make_figures.py models

What the generators of the page on latent diffusion draw, from the folder that their runs were made in:

    OMP_NUM_THREADS=1 litevae-diffae experiment t13 --seeds 1
    OMP_NUM_THREADS=1 litevae-diffae experiment pixel-latent --seeds 1
    python data/make_figures.py --generators runs
"""
import sys
from pathlib import Path

import torch

from litevae_diffae import DDIM, LiteVAE
from litevae_diffae.crops import Crops
from litevae_diffae.data import open_source
from litevae_diffae.diffae.show import predicted_x0
from litevae_diffae.diffae.scores import load_faces
from litevae_diffae.experiments.generators import trained_ldm
from litevae_diffae.experiments.interpolation import make_path
from litevae_diffae.experiments.pixel_latent import measured_costs, trained_net
from litevae_diffae.experiments.records import find_experiments, row_key
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


def samples(model, n=7, side=64):
    "The first n samples of 20 steps, the noise that of seed 0, at half their size: uint8 (n, side, side, 3)."
    x = model.eval().decode(model.noise(n, torch.Generator().manual_seed(0)), 20)
    return torch.from_numpy(to_uint8(torch.nn.functional.interpolate(x, (side, side), mode="area")))


def generators(runs):
    "Samples of the rows of t13 and pixel-latent, seed 0, by the row's name."
    found = {}
    for experiment in ("t13", "pixel-latent"):
        for row in find_experiments()[experiment].rows_at("small"):
            if row.name == "latent": continue  # that of t13
            folder = Path(runs) / row_key(row.config, 0)
            model = (trained_ldm(row.config, 0, folder) if experiment == "t13"
                     else trained_net(row.config, measured_costs(row.config, 0, Path(runs)), 0, folder)[0])
            found[row.name] = samples(model)
    return found


def main(*words):
    OUT.mkdir(exist_ok=True)
    if words[0] == "--generators": write_tensors(OUT / "generators.safetensors", generators(words[1]))
    else: of_models(words[0])
    for path in sorted(OUT.iterdir()): print(f"{path.name}: {path.stat().st_size:,} bytes")


def of_models(models):
    torch.manual_seed(0)
    ddim = DDIM.from_pretrained(Path(models) / "ddim-avatars")
    photo = Crops(open_source("photos", split="test"), 128, train=False).get(1)[None]
    maps = {}
    for name in ("gn", "mixed", "smc"):
        first, last = feature_maps(LiteVAE.from_pretrained(Path(models) / f"t4-{name}"), photo)
        maps.update({f"{name}.first": first.half(), f"{name}.last": last.half()})
    write_tensors(OUT / "ddim-avatars.safetensors", {"way": ddim_way(ddim), "path": ddim_path(ddim)})
    write_tensors(OUT / "t4-maps.safetensors", maps)


if __name__ == "__main__": main(*sys.argv[1:])
