"What the tests of rows at paper scale share: data sets on disk, toy sizes, a configuration that knows what was read of it."
import numpy as np
import torch
from PIL import Image
from torch import nn

from litevae_diffae.experiments.places import PLACES
from litevae_diffae.experiments.runs import toy
from litevae_diffae.fid import FeatureNetwork


class Watched(dict):
    "A configuration that remembers which of its keys were read, at every depth."
    def __init__(self, config):
        super().__init__({k: Watched(v) if isinstance(v, dict) else v for k, v in config.items()})
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None): return self[key] if key in self else default
    def __iter__(self): return super().__iter__()                                   # so that ** and dict() ask for each item
    def keys(self): return list(super().keys())
    def copy(self): return {k: self[k] for k in self.keys()}

    def unread(self, place=""):
        found = [place + k for k in self.keys() if k not in self.read]
        for k, v in super().items():
            if isinstance(v, Watched) and k in self.read:
                found += v.unread(f"{place}{k}.")
        return found


def random_images(folder, n, size=(96, 80), suffix="png", first=0):
    "Noise with a few colours; sizes that are no square."
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(n)
    for i in range(first, first + n):
        small = Image.fromarray(rng.integers(0, 255, (6, 5, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BILINEAR).save(folder/f"{i:05d}.{suffix}")


def fake_sets(root):
    "ImageNet, FFHQ, CelebA-HQ and DeepFashion in their real layouts, with a few images."
    for k, wnid in enumerate(("n01440764", "n01443537")):
        random_images(root/"imagenet"/"train"/wnid, 6, suffix="jpg", first=10*k)
    random_images(root/"imagenet"/"val", 5, suffix="jpg")
    random_images(root/"ffhq", 14)
    random_images(root/"celeba-hq", 15)
    random_images(root/"deepfashion"/"WOMEN", 14, suffix="jpg")
    return {name: root/name for name in ("imagenet", "ffhq", "celeba-hq", "deepfashion")}


def small_ranges(monkeypatch):
    "The first four images are held out, not the first 10,000."
    from dataclasses import replace
    for name in ("ffhq", "celeba-hq", "deepfashion"):
        ranges = dict(train=(4, None), test=(0, 4))
        monkeypatch.setitem(PLACES, name, replace(PLACES[name], ranges=ranges))


def fake_inception(device=None):
    "Eight random features instead of Inception's, whose weights are not here."
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            g = torch.Generator().manual_seed(0)
            self.weight = nn.Parameter(torch.randn(8, 3, generator=g), requires_grad=False)

        def forward(self, x): return (x.float().mean((2, 3))/255)@self.weight.T
    return FeatureNetwork(Net(), "inception", "FID").to(device or "cpu").eval()


def narrow(model):
    "The model of a paper row with as little as it can have."
    if model["preset"].startswith("litevae"): return dict(model, extractor_channels=8, aggregator_channels=8, decoder_channels=8)
    if model["preset"].startswith("sd-vae"): return dict(model, block_out_channels=[8, 8, 8, 8], decoder_channels=8)
    return dict(model, decoder_channels=8)


def toy_paper(config):
    "A paper row of LiteVAE at the size of a test: the same keys."
    if "ldm" in config:
        out = toy(config)
        return dict(out, of=toy_paper(config["of"]), ldm=dict(out["ldm"], image_size=4))
    if "of" in config:
        size = dict(size=32) if "size" in config["measure"] else {}
        return dict(config, of=toy_paper(config["of"]), measure=toy(config["measure"]) | size)
    if "encoder" in config: return dict(config, encoder="litevae-tiny", batch=1, size=32, rounds=1)
    out = toy(config)
    out["model"] = narrow(out["model"])
    out["measure"]["size"] = 32
    out["train"] |= dict(batch_size=2, grad_accum=1, n_workers=0)
    out["phases"] = [dict(size=max(32, p["size"]//4), steps=2) for p in config["phases"]]
    if "adversarial" in config:
        kind = config.get("discriminator", {}).get("kind", "unet")
        out["discriminator"] = dict(kind=kind, channels=8, mult=[1, 2], image_size=32)
    if config.get("lpips_net") == "vgg":
        out["lpips_net"] = "alex"                                                   # VGG's weights are not here
    return out
