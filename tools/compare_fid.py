#!/usr/bin/env python
"""`litevae-diffae fid` beside torch-fidelity: value, seconds and peak memory for folders of N images, both with the AlexNet of this package.

    python tools/compare_fid.py                # 2,000 and 10,000 images a side
    python tools/compare_fid.py 500 1000
    python tools/compare_fid.py --device cuda  # the default is the CPU

Needs the extra [fid], but not the weights of Inception. One folder has drawn faces at 32 x 32, the other the same with noise. Each measurement has a
process of its own, whose peak is VmHWM of /proc/self/status, so it runs on Linux only.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

SIDE = 32 # pixels


def make_folders(root, n, side=SIDE):
    "Two folders of n images: drawn faces, again and again with another brightness, and the same with noise."
    import numpy as np
    from PIL import Image

    from litevae_diffae.data import load_avatars
    faces, rng = load_avatars("train").images, np.random.default_rng(0)
    folders = [Path(root) / name for name in ("faces", "noisy")]
    for folder in folders: folder.mkdir(parents=True)
    for i in range(n):
        small = np.asarray(Image.fromarray(faces[i % len(faces)]).resize((side, side), Image.Resampling.BOX)).astype(float)
        small += i // len(faces) * 10
        for folder, spread in zip(folders, (0, 20)):
            pixels = (small + spread * rng.standard_normal(small.shape)).clip(0, 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:06d}.png")
    return folders


def theirs(a, b, network, batch_size=50, cuda=False):
    "torch-fidelity's number of two folders, with a network of this package as its feature extractor."
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class Extractor(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)
            self.network = network

        @staticmethod
        def get_provided_features_list(): return ("pool",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric): return "pool"

        @staticmethod
        def can_be_compiled(): return False

        def forward(self, x): return (self.network(x),)

    FEATURE_EXTRACTORS_REGISTRY.pop("litevae_diffae", None)
    torch_fidelity.register_feature_extractor("litevae_diffae", Extractor)
    found = torch_fidelity.calculate_metrics(input1=str(a), input2=str(b), fid=True, feature_extractor="litevae_diffae", feature_layer_fid="pool",
                                             batch_size=batch_size, cuda=cuda, save_cpu_ram=True, cache=False, verbose=False)
    return found["frechet_inception_distance"]


def ours(a, b, network="alexnet", batch_size=50):
    "The command's number."
    from litevae_diffae.cli import main
    with tempfile.TemporaryDirectory() as tmp, redirect_stdout(StringIO()):
        out = Path(tmp) / "fid.json"
        main(["fid", str(a), str(b), "--features", network, "--batch-size", str(batch_size), "--out", str(out)])
        return json.loads(out.read_text())["value"]


def peak_mb():
    with open("/proc/self/status") as f: return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024


def measure(which, a, b, device):
    "Run one of the two here and print value, seconds and peak memory as JSON."
    if device == "cpu": os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from litevae_diffae.fid import feature_network
    start = time.monotonic()
    value = ours(a, b) if which == "ours" else theirs(a, b, feature_network("alexnet", device), cuda=device == "cuda")
    print("FOUND", json.dumps(dict(value=value, seconds=time.monotonic() - start, peak_mb=peak_mb())))


def fresh(which, a, b, device):
    "The same in a process of its own, whose allocator gives large pieces back."
    env = dict(os.environ, MALLOC_MMAP_THRESHOLD_="1000000", MALLOC_ARENA_MAX="1")
    said = subprocess.run([sys.executable, __file__, "--measure", which, str(a), str(b), "--device", device], env=env, capture_output=True, text=True)
    if said.returncode: sys.exit(said.stderr)
    return json.loads(said.stdout.split("FOUND ")[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", nargs="*", type=int, default=[2000, 10_000])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--measure", nargs=3, metavar=("WHICH", "A", "B"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure: return measure(*args.measure, args.device)
    print(f"{'images':>8} {'':14} {'value':>12} {'seconds':>8} {'peak MB':>8}")
    for n in args.n:
        with tempfile.TemporaryDirectory() as tmp:
            folders = make_folders(tmp, n)
            for which, name in (("ours", "this package"), ("theirs", "torch-fidelity")):
                found = fresh(which, *folders, args.device)
                print(f"{n:8,} {name:14} {found['value']:12.7f} {found['seconds']:8.1f} {found['peak_mb']:8.1f}", flush=True)


if __name__ == "__main__": main()
