#!/usr/bin/env python
"""Estimated memory of training beside the measured growth of a fresh process: seven runs in fp32 on this CPU, about four minutes, Linux.

    python tools/plan_check.py            # all, as a table in Markdown
    python tools/plan_check.py 0 4        # some, by number
"""
import os
import sys

from litevae_diffae.plan import plan_training
from litevae_diffae.timing import in_fresh_process

RUNS = [("litevae-tiny", 128, 8, None, False), ("litevae-s", 128, 2, None, False), ("litevae-s", 128, 2, None, True), ("litevae-s", 64, 2, "patch", False),
        ("sd-vae-small", 128, 2, None, False), ("ddim-tiny", 32, 64, None, False), ("diffae-avatars", 64, 32, None, False)]


def compare(model, size, batch, adversary, checkpointing):
    "Gigabytes: estimated and measured."
    plan = plan_training(model, size, adversary, batch_size=batch, precision="fp32", checkpointing=checkpointing)
    growth = in_fresh_process("litevae_diffae.plan.training_growth", model, size, batch, adversary, checkpointing)
    return plan.total_gb, growth


def main(numbers):
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # freed memory goes back at once
    print("| model | pixels | batch | adversary | blocks | estimated GB | measured GB | ratio |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    for k in numbers or range(len(RUNS)):
        model, size, batch, adversary, again = RUNS[k]
        expected, growth = compare(*RUNS[k])
        print(f"| `{model}` | {size} | {batch} | {adversary or 'none'} | {'recomputed' if again else 'kept'} | {expected:.3f} | {growth:.3f} | {expected/growth:.2f} |", flush=True)


if __name__ == "__main__": main([int(k) for k in sys.argv[1:]])
