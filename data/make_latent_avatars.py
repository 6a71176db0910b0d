#!/usr/bin/env python
"""Make litevae_diffae/assets/latent-avatars: autoencoder and U-Net in float16, and how they were made.

    litevae-diffae experiment t7 --rows LiteVAE --seeds 1       # trains the autoencoder on the way; KEY is its folder
    OMP_NUM_THREADS=1 litevae-diffae train ldm-tiny --data avatars128 --size 128 --autoencoder runs/KEY/model --out runs/latent-avatars \\
        --labels Smiling Eyeglasses Beard Hat Long_Hair Dark_Skin Blond_Hair --images 256000 --batch-size 32 --precision bf16
    OMP_NUM_THREADS=2 python data/make_latent_avatars.py --decoder runs/KEY          # goes on with the decoder, the encoder stays: runs/KEY-decoder
    python data/make_latent_avatars.py runs/latent-avatars runs/KEY
"""
import json
import sys
from pathlib import Path

import torch

from litevae_diffae import LiteVAE, train_litevae
from litevae_diffae.checkpoint import read_log
from litevae_diffae.core import n_params
from litevae_diffae.latent.model import LatentDiffusion
from litevae_diffae.litevae.losses import LossWeights
from litevae_diffae.pretrained import load_strict
from litevae_diffae.timing import hardware
from litevae_diffae.train import TrainConfig

OUT = Path(__file__).resolve().parents[1] / "litevae_diffae" / "assets" / "latent-avatars"
DECODER = dict(steps=1400, batch_size=8, lr=7e-4, betas=(.9, .95), warmup=20, schedule="cosine", ema=.99, log_every=25, precision="bf16")
LOSS = dict(l1=1., lpips=.1, wavelet=0., gaussian=0., kl=1e-6)

COMMAND = ("OMP_NUM_THREADS=1 litevae-diffae train ldm-tiny --data avatars128 --size 128 --autoencoder runs/KEY/model --out runs/latent-avatars "
           "--labels Smiling Eyeglasses Beard Hat Long_Hair Dark_Skin Blond_Hair --images 256000 --batch-size 32 --precision bf16; "
           "python data/make_latent_avatars.py --decoder runs/KEY; python data/make_latent_avatars.py runs/latent-avatars runs/KEY "
           "(KEY: the autoencoder's folder, trained by litevae-diffae experiment t7 --rows LiteVAE --seeds 1)")


def further(vae_run):
    "The folder of the run that goes on with the decoder."
    return vae_run.with_name(f"{vae_run.name}-decoder")


def train_decoder(vae_run):
    "Go on with the decoder; the latents stay what the U-Net has learned."
    train_litevae(LiteVAE.from_pretrained(vae_run / "model"), "avatars128", further(vae_run), TrainConfig(**DECODER), LossWeights(**LOSS),
                  size=128, scale=(1., 1.), freeze_encoder=True)


def run_facts(folder):
    "Images, seconds and the losses of a run, from its log."
    log = read_log(folder)
    kept = ("images", "seconds", "loss", "l1", "lpips")
    return {"images": log[-1]["images"], "seconds": log[-1]["seconds"], "log": [{k: r[k] for k in kept if k in r} for r in log[9::10]]}


def scores(model, work):
    "Samples and reconstructions against the training faces, and the floor."
    row = generators.ldm_row()
    real, x = generators.real_features(row, work), generators.held_out_images(row)
    return generators.sample_scores(model, real, 500, [5, 10, 20, 50], 0) | generators.autoencoder_scores(model.autoencoder, x, real)


def main(run, vae_run):
    model = LatentDiffusion.from_pretrained(run / "model")
    load_strict(model.autoencoder.decoder, LiteVAE.from_pretrained(further(vae_run) / "model").decoder.state_dict(), "decoder")
    model.save_pretrained(OUT, dtype=torch.float16)
    shipped = LatentDiffusion.from_pretrained(OUT)
    vae = n_params(shipped.autoencoder)
    recipe = {
        "command": COMMAND, "data": "avatars128 (train): 12,000 drawn faces of 128 px and their mirror images",
        "parameters": {"autoencoder": vae, "denoiser": n_params(shipped) - vae}, "hardware": hardware(),
        "autoencoder": [run_facts(phase) for phase in sorted(vae_run.glob("phase_*"))], "decoder": run_facts(further(vae_run)) | {"config": DECODER},
        "denoiser": run_facts(run),
        "evaluated_on": "500 samples of 20 steps against the 12,000 training faces, AlexNet at 128 px; floor: the 500 held-out faces; weights as shipped",
        "metrics": scores(shipped, vae_run.parent)}
    (OUT / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    print(f"{sum(f.stat().st_size for f in OUT.rglob('*') if f.is_file()):,} bytes in {OUT.name}: {json.dumps(recipe['metrics'])}")


if __name__ == "__main__":
    if sys.argv[1] == "--decoder": train_decoder(Path(sys.argv[2]))
    else:
        from litevae_diffae.experiments import generators
        main(*map(Path, sys.argv[1:]))
