"What the chapters on timing leave to slower tests: diffusers as a rival, and processes that fail."
import json

import pytest

from litevae_diffae.bench.diffusion import CONTROL, growth_ratio
from litevae_diffae.bench.run import SMALL, ratio_rows, run_bench
from litevae_diffae.bench.vae import BASELINE
from litevae_diffae.core import n_macs, n_params
from litevae_diffae.litevae.cost import build_encoder
from litevae_diffae.timing import in_fresh_process


def test_diffusers_encoder_is_the_baseline():
    "Same parameters and multiplications, so that its times can be compared."
    ours, theirs = (build_encoder(name, "meta") for name in (BASELINE, "diffusers"))
    assert n_params(ours) == n_params(theirs) == 34_163_592
    assert n_macs(ours, 1, 3, 64, 64) == n_macs(theirs, 1, 3, 64, 64)
    assert build_encoder("diffusers").conv_in.weight.std() > 0


def test_memory(tmp_path):
    "Each encoder in a process of its own; the small one takes less."
    results = run_bench(tmp_path/"bench.json", only="memory", sizes=SMALL)
    found = results["parts"]["memory"]["bfloat16"]
    assert set(found["megabytes"]) == set(SMALL["memory"]["names"])
    for row in found["megabytes"].values(): assert 0 < row["weights"] <= row["total"]
    assert found[f"fraction of {BASELINE}"]["litevae-tiny"]["met"]
    assert results["table"][0]["peak_mb_bfloat16"] == found["megabytes"]["litevae-tiny"]["total"]


def test_error_in_a_fresh_process_is_told():
    call = "litevae_diffae.litevae.cost.encoder_memory"
    with pytest.raises(RuntimeError, match="in_fresh_process: .*no-such-preset"):
        in_fresh_process(call, "no-such-preset", 1, 64)


def test_parts_on_diffusion_run(tmp_path):
    "Speed of training and sampling by name, with targets, in a file."
    run_bench(tmp_path/"bench.json", only="diffusion_train,diffusion_sample", minutes=0.02, sizes=SMALL)
    found = json.loads((tmp_path/"bench.json").read_text())["parts"]
    assert list(found) == ["diffusion_train", "diffusion_sample"]
    rows = dict(ratio_rows(found))
    assert rows["diffusion_train step plain"]["target"] == 2.5
    assert rows["diffusion_train loss gap over spread"]["target"] == 1
    pairs = ("float32 plain float32", "bfloat16 plain float32", "bfloat16 plain bfloat16")
    def targets(name): return [rows[f"diffusion_sample {name} {row}"]["target"] for row in pairs]
    assert targets("T=5, 2 images") == [None, 3, None] and targets("half the width") == [None]*3


def test_growth_of_samplers(tmp_path):
    "More steps take no more memory; a sampler that keeps its states would be caught."
    results = run_bench(tmp_path/"bench.json", only="diffusion_memory", sizes=SMALL)
    found = results["parts"]["diffusion_memory"]
    assert all(r["met"] for r in found["growth"].values())
    few, many = found["megabytes"].values()
    # what keeping the states adds, in one process: its own peak before is no part of it
    kept = [mb[CONTROL] - mb["invert and decode"] for mb in (few, many)]
    assert not growth_ratio(kept[0], kept[1], slack=1.)["met"], (few, many)
