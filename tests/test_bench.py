"What the chapter on timing leaves to slower tests: diffusers as a rival, and processes that fail."
import pytest
from litevae_diffae.bench import vae as bench


def test_diffusers_encoder_is_the_baseline():
    "Same parameters and multiplications, so that its times can be compared."
    ours, theirs = (bench.build_encoder(name, "meta") for name in (bench.baseline, "diffusers"))
    assert bench.n_params(ours) == bench.n_params(theirs) == 34_163_592
    assert bench.n_macs(ours, 1, 3, 64, 64) == bench.n_macs(theirs, 1, 3, 64, 64)
    assert bench.build_encoder("diffusers").conv_in.weight.std() > 0


def test_memory(monkeypatch, tmp_path):
    "Each encoder in a process of its own; the small one takes less."
    monkeypatch.setenv("IN_TEST", "1")
    results = bench.run_bench(tmp_path/"bench.json", only="memory")
    found = results["parts"]["memory"]["bfloat16"]
    assert set(found["megabytes"]) == set(bench.encoder_names())
    for row in found["megabytes"].values(): assert 0 < row["weights"] <= row["total"]
    assert found[f"fraction of {bench.baseline}"][bench.smallest]["met"]
    assert results["table"][0]["peak_mb_bfloat16"] == found["megabytes"][bench.smallest]["total"]


def test_error_in_a_fresh_process_is_told():
    with pytest.raises(RuntimeError, match="in_fresh_process: .*no-such-preset"): bench.in_fresh_process("memory_growth('no-such-preset', 1, 64)")
