#!/usr/bin/env python
"""Kill runs at random moments and let them go on: what they end with must be what an undisturbed run ends with, bit for bit.

    python tools/kill_runs.py                                   # 20 moments for each kind of run
    python tools/kill_runs.py --moments 5 --kinds diffae codes --seed 3

Each moment is one run that gets SIGKILL then (every fourth one SIGTERM, which saves first), and that is started again until it is done.
All runs are children of one process that has imported PyTorch once.
"""
import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer would import it, in each child anew
from litevae_diffae.diffae.code_cache import cache_codes
from litevae_diffae.diffae.codes import Codes
from litevae_diffae.diffae.model import DiffAE
from litevae_diffae.diffae.prior import train_prior
from litevae_diffae.diffae.train import train_diffae
from litevae_diffae.litevae.adversarial import AdversarialConfig, train_adversarial
from litevae_diffae.litevae.discriminator import DiscriminatorConfig
from litevae_diffae.litevae.losses import LossWeights
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.litevae.train import train_litevae
from litevae_diffae.checkpoint import read_log
from litevae_diffae.optim import TrainConfig
from safetensors.torch import load_file

CONFIG = TrainConfig(steps=6, batch_size=2, lr=1e-3, precision="fp32", log_every=2, save_every=2)
QUIET = dict(device="cpu", progress=False)
CLOCKS = ("seconds", "images_per_second")  # what differs between two equal runs


def numbers(*shape):
    "Numbers in [-1, 1], always the same."
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tiny_vae(): return LiteVAE.from_preset("litevae-tiny", extractor_mult=(1,), decoder_channels=8).config


def tiny_diffae():
    torch.manual_seed(0)
    return DiffAE.from_preset("diffae-tiny", image_size=16, z_dim=16, channel_mult=(1,), enc_channel_mult=(1, 1), attention_resolutions=())


def litevae(out):
    train_litevae(tiny_vae(), numbers(12, 3, 32, 32), out, CONFIG, LossWeights(lpips=0.), size=32, stats_images=4, **QUIET)


def adversarial(out):
    game = AdversarialConfig(start=.2, warmup=0., ramp=.2)
    train_adversarial(tiny_vae(), numbers(12, 3, 32, 32), out, CONFIG, game, DiscriminatorConfig("patch", channels=8), weights=LossWeights(lpips=0.), size=32, stats_images=4, **QUIET)


def diffae(out):
    train_diffae(tiny_diffae(), numbers(12, 3, 16, 16), out, CONFIG, **QUIET)


def prior(out):
    train_prior(None, Codes.of(numbers(40, 8)), out, CONFIG.with_changes(steps=40, batch_size=8), **QUIET)


def codes(out):
    cache_codes(tiny_diffae(), numbers(40, 3, 16, 16), out, batch_size=1, shard_size=1, progress=False)


KINDS = dict(litevae=litevae, adversarial=adversarial, diffae=diffae, prior=prior, codes=codes)


def start(run, out):
    "A child that does a run; its process number."
    child = os.fork()
    if child: return child
    code = 1
    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)
        run(out)
        code = 0
    except SystemExit as e: code = e.code
    finally: os._exit(code)


def finish(child):
    "Exit code of a child, negative for a signal."
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def left_by(out):
    "All that a run leaves: tensors by name, bytes of other files, the log without its clocks; no counters."
    found, newest = {}, max((p.name for p in out.glob("resume/[0-9]*")), default="")
    for path in sorted(p for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")):  # a dot: what was being written
        if path.parent.parent.name == "resume" and path.parent.name != newest: continue           # killed before it was cleared away
        name = path.relative_to(out).as_posix()
        if name == "log.jsonl": found[name] = json.dumps([{k: v for k, v in row.items() if k not in CLOCKS} for row in read_log(path)])
        elif path.name == "optimizer.pt":
            saved = torch.load(path, weights_only=True)
            found[name] = [t for o in saved["optimizers"].values() for s in o["state"].values() for t in s.values()]
        elif path.suffix == ".safetensors": found.update({f"{name}: {k}": [v] for k, v in load_file(path).items()})  # its metadata have no order
        elif path.name != "state.json": found[name] = path.read_bytes()
    return found


def same(a, b):
    "Whether two values of `left_by` are equal."
    if not isinstance(a, list): return a == b
    return len(a) == len(b) and all(map(torch.equal, a, b))


def disturb(run, out, after, number):
    "Start a run, send it a signal after so many seconds, and start it again until it is done; whether the signal came in time."
    child = start(run, out)
    time.sleep(after)
    os.kill(child, number)
    code = finish(child)
    if code not in (0, -number, 128 + number): raise SystemExit(f"kill_runs: {run.__name__} ended with {code} after signal {number}")
    again = finish(start(run, out))
    if again: raise SystemExit(f"kill_runs: {run.__name__}, killed after {after:.3f} s, does not go on: exit code {again}, see {out}")
    return code != 0


def check(kind, moments, rng, work):
    "Disturb a kind of run at some moments; in how many cases the signal came in time."
    run, begin = KINDS[kind], time.perf_counter()
    if finish(start(run, work / "whole")): raise SystemExit(f"kill_runs: {kind} fails undisturbed")
    seconds, hit = time.perf_counter() - begin, 0
    want = left_by(work / "whole")
    for k in range(moments):
        out, number = work / f"cut_{k}", signal.SIGTERM if k % 4 == 3 else signal.SIGKILL
        hit += disturb(run, out, rng.uniform(0, seconds), number)
        found = left_by(out)
        wrong = sorted(n for n in {*want, *found} if n not in want or n not in found or not same(want[n], found[n]))
        if wrong: raise SystemExit(f"kill_runs: {kind} differs after moment {k}: {', '.join(wrong[:5])}, see {out}")
        shutil.rmtree(out)
    return hit, seconds


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20, help="for each kind of run")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args(argv)
    rng, work = random.Random(args.seed), Path(tempfile.mkdtemp(prefix="kill_runs_"))
    for kind in args.kinds:
        hit, seconds = check(kind, args.moments, rng, work / kind)
        print(f"{kind}: {args.moments} of {args.moments} equal bit for bit, {hit} signals within a run of {seconds:.1f} s", flush=True)
    shutil.rmtree(work)


if __name__ == "__main__": main()
