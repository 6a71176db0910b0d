"""Peak memory of encoding, decoding and reconstructing in tiles, for images of several sizes: `python tools/tiling_memory.py 1024 2048 4096`.

Every number comes from a process of its own. `work` is the peak above what was there before, without the result: what tiles keep flat."""
import argparse
import resource
import subprocess
import sys

import torch
from litevae_diffae import LiteVAE


def peak() -> int:
    "Largest resident memory of this process so far, bytes."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == "darwin" else 1024)


@torch.no_grad()
def measure(verb: str, side: int, tile: int) -> tuple:
    "Bytes: working memory, and image and result together."
    model = LiteVAE.from_preset("litevae-tiny").eval()
    model.enable_tiling(tile)
    small = torch.zeros(1, 3, tile, tile)
    model(small)  # what PyTorch allocates once
    x = torch.rand(1, 3, side, side) if verb != "decode" else torch.randn(1, model.config.z_channels, side//8, side//8)
    before = peak()
    y = {"encode": lambda x: model.encode(x).latent_dist.mean, "decode": lambda z: model.decode(z).sample, "reconstruct": lambda x: model(x).sample}[verb](x)
    out = y.untyped_storage().nbytes()
    return peak() - before - out, x.untyped_storage().nbytes() + out


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sides", nargs="*", type=int, default=[1024, 2048, 4096])
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--verb", choices=["encode", "decode", "reconstruct"], help="measure here, for one side; else start a process each")
    args = parser.parse_args(argv)
    if args.verb:
        work, data = measure(args.verb, args.sides[0], args.tile)
        print(f"{args.verb:12} {args.sides[0]:5} px, tiles of {args.tile}: work {work/2**20:7.1f} MB, image and result {data/2**20:7.1f} MB", flush=True)
        return 0
    for verb in ("encode", "decode", "reconstruct"):
        for side in args.sides:
            subprocess.run([sys.executable, __file__, str(side), "--tile", str(args.tile), "--verb", verb], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
