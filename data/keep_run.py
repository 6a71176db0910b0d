#!/usr/bin/env python
"""Keep a trained model of an experiment: the averaged weights in float16 and the record of the run.

    litevae-diffae experiment photos --seeds 1
    python data/keep_run.py "LiteVAE-S, 192 px" results/photos.json litevae_diffae/assets/litevae-photos
    litevae-diffae experiment diffae-autoencoding
    python data/keep_run.py DDIM results/diffae-autoencoding.json models/ddim-avatars
"""
import json
import sys
from pathlib import Path

import torch

from litevae_diffae.cli import load_model
from litevae_diffae.experiments.records import row_key


def main(row, results, out, work="runs"):
    found = json.loads(Path(results).read_text())
    config = next(r["config"] for r in found["rows"] if r["name"] == row)
    key = row_key(config, 0)
    load_model(str(Path(work) / key / "model"), device="cpu").save_pretrained(out, dtype=torch.float16)
    record = found["records"][key] | {"command": f"litevae-diffae experiment {found['experiment']}", "data": f"{config.get('data', 'avatars')} (train)"}
    (Path(out) / "recipe.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{row}, seed 0 ({key}): {out}")


if __name__ == "__main__": main(*sys.argv[1:])
