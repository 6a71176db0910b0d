#!/usr/bin/env python
"""Draw the faces of litevae_diffae/assets/avatars: `python data/make_avatars.py`, 5 to 10 minutes on one thread.

All faces at 64 pixels, and the first ones at 128 (`SHIPPED_AVATARS`).

Needs the extra [avatars]. The files in the repository were drawn by dicebear-core 10.7.0, dicebear-styles 10.6.0 and
resvg-py 0.5.0; other versions may draw a few pixels differently. How a face is drawn is in nbs/042_avatars.ipynb.
"""
import argparse, lzma
from pathlib import Path
from numpy.lib.format import write_array
from litevae_diffae.avatars import REPEATED, SHIPPED_AVATARS, avatar_images

NOTE = """The faces of this folder are not covered by the Apache-2.0 licence of the package.

They were drawn by DiceBear (dicebear-core, MIT licence) from its style "avataaars" (dicebear-styles), whose metadata say:

    Remix of "Avataaars" (https://avataaars.com/) by "Pablo Stanley", licensed under
    "Free for personal and commercial use" (https://avataaars.com/)

That is not one of the standard licences, and no longer text comes with the style. Changes: parts and colours were
chosen at random and enlarged (scale 1.55, moved down by 6 per cent), and the drawings rasterised at 64 x 64 and 128 x 128 pixels.
"""

# two arrays, one after the other; pb=0: bytes are not grouped in fours
FILTERS = [dict(id=lzma.FILTER_LZMA2, preset=9|lzma.PRESET_EXTREME, dict_size=2**25, lc=3, lp=0, pb=0, nice_len=273)]

def write_faces(out, attributes, images):
    "The file `out`, as `load_avatars` reads it."
    with lzma.open(out, "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as f:
        for array in (attributes, images): write_array(f, array)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", type=int, default=12_000)
    p.add_argument("--test", type=int, default=500)
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1]/"litevae_diffae/assets/avatars")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out/"LICENCE.txt").write_text(NOTE)
    seen = set()
    for split,n in (("train", args.train), ("test", args.test)):
        faces = avatar_images(n + n//20, size=64, seed=0, prefix=split)
        # different seeds may draw the same face: keep it once, and never in both splits
        keep = [i for i,x in enumerate(faces.images) if not ((b := x.tobytes()) in seen or seen.add(b))][:n]
        if len(keep) < n: raise SystemExit(f"{split}: only {len(keep)} different faces")
        if [i for i in range(n + 1) if i not in keep] != [REPEATED[split]]: raise SystemExit(f"{split}: REPEATED is another seed")
        attributes, out = faces.attributes[keep], args.out/f"{split}.npy.xz"
        write_faces(out, attributes, faces.images[keep])
        m = SHIPPED_AVATARS[128][split]
        large = avatar_images(m + m//20, size=128, seed=0, prefix=split)
        write_faces(args.out/f"{split}128.npy.xz", attributes[:m], large.images[keep[:m]])
        rates = ", ".join(f"{name} {100*r:.0f} %" for name,r in zip(faces.names, attributes.mean(0)))
        print(f"{split}: {n} faces, {out.stat().st_size/1e6:.2f} MB; {rates}", flush=True)

if __name__ == "__main__": main()
