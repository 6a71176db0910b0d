#!/usr/bin/env python
"""Make nbs/images/hero.png, the first page's image, from held-out images and shipped weights.

    python tools/make_hero.py                   # writes the image
    python tools/make_hero.py --out other.png
"""
import argparse
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from litevae_diffae import DiffAE, LiteVAE, load_avatars, load_photos
from litevae_diffae.data import to_tensor
from litevae_diffae.viz import as_image, latents_to_rgb

OUT = Path(__file__).parents[1] / "nbs" / "images" / "hero.png"
SCALE = 1.5  # pixels of the file for one of the page
TILE, STAMP, GAP, BETWEEN = 128, 16, 6, 26  # pixels of the page; a latent has an eighth of the size
TOP, BOTTOM = 26, 24  # what the words take, above and below
MAX_BYTES = 95_000
INK, PALE = (40, 40, 40), (110, 110, 110)


def photograph(size=192):
    "The middle of a held-out photograph: (1, 3, size, size)."
    photo = Image.fromarray(load_photos("test")[1])
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    crop = photo.crop((left, top, left + side, top + side))
    return to_tensor(np.asarray(crop.resize((size, size), Image.Resampling.LANCZOS)))[None]


@torch.no_grad()
def litevae_tiles():
    "A photograph, its latents, and what the shipped LiteVAE makes of them."
    model = LiteVAE.from_pretrained("photos").cpu()
    x = photograph()
    z = model.encode(x).latent_dist.mode()
    return {"photograph": x, "z": latents_to_rgb(z), "reconstruction": model.decode(z).sample}


@torch.no_grad()
def diffae_tiles(n_steps=50):
    "The first held-out face, its reconstruction, two edits, and its z_sem with other noise."
    model = DiffAE.from_pretrained("avatars").cpu()
    x = to_tensor(load_avatars("test").images[:1])
    other = model.variations(x, 1, n_steps, generator=torch.Generator().manual_seed(0))[:, 0]
    return {"drawn face": x, "reconstruction": model.reconstruct(x, n_steps),
            "edit: Smiling": model.edit(x, "Smiling", n_steps=n_steps),
            "edit: Eyeglasses": model.edit(x, "Eyeglasses", n_steps=n_steps),
            "z_sem, new noise": other}


def width(name): return STAMP if name == "z" else TILE


def placed(groups):
    "(name, image, left edge) of every tile, the left edge of every group, and the whole width."
    tiles, edges, at = [], [], 0
    for group in groups:
        edges.append(at)
        for name, x in group.items():
            tiles.append((name, x, at))
            at += width(name) + GAP
        at += BETWEEN - GAP
    return tiles, edges, at - BETWEEN


def font(size, name="DejaVuSans"):
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"{name}.ttf", round(size * SCALE))


def draw(groups, titles):
    "All tiles in a row, the title of a group above it and the name of a tile below."
    tiles, edges, total = placed(groups)
    image = Image.new("RGB", (round(total * SCALE), round((TOP + TILE + BOTTOM) * SCALE)), "white")
    pen = ImageDraw.Draw(image)
    for title, edge in zip(titles, edges):
        pen.text((edge * SCALE, 0), title, INK, font(13, "DejaVuSans-Bold"))
    for name, x, left in tiles:
        side = width(name)
        top = TOP + (TILE - side) // 2
        pixels = (round(side * SCALE),) * 2
        tile = Image.fromarray(as_image(x[0])).resize(pixels, Image.Resampling.LANCZOS)
        image.paste(tile, (round(left * SCALE), round(top * SCALE)))
        pen.text(((left + side / 2) * SCALE, (top + side + 4) * SCALE), name, PALE, font(12), "ma")
    return image


def encoded(image):
    "The image as a PNG file of 256 colours."
    few, none, out = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE, BytesIO()
    image.quantize(256, few, kmeans=1, dither=none).save(out, "PNG", optimize=True)
    return out.getvalue()


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    titles = ["LiteVAE: an eighth of the size", "Diff-AE: what is in an image, and the rest"]
    image = draw([litevae_tiles(), diffae_tiles()], titles)
    data = encoded(image)
    if len(data) > MAX_BYTES:
        raise SystemExit(f"make_hero: {len(data):,} bytes, at most {MAX_BYTES:,} expected")
    args.out.write_bytes(data)
    print(f"{args.out.name}: {image.width} x {image.height}, {len(data):,} bytes")


if __name__ == "__main__": main()
