"What the chapter on the fast paths leaves out because it would take full sizes: its parts, run by the command."
import json

from litevae_diffae.bench import vae as bench


def test_parts_run(monkeypatch, tmp_path):
    "Speed of training and sampling by name, with targets, in a file."
    monkeypatch.setenv("IN_TEST", "1")
    bench.run_bench(tmp_path/"bench.json", only="diffusion_train,diffusion_sample", minutes=0.02)
    found = json.loads((tmp_path/"bench.json").read_text())["parts"]
    assert list(found) == ["diffusion_train", "diffusion_sample"]
    rows = dict(bench.ratio_rows(found))
    assert rows["diffusion_train step plain"]["target"] == 2.5
    assert rows["diffusion_train loss gap over spread"]["target"] == 1
    targets = lambda name: [rows[f"diffusion_sample {name} {row}"]["target"] for row in ("float32 plain float32", "bfloat16 plain float32", "bfloat16 plain bfloat16")]
    assert targets("T=5, 2 images") == [None, 3, None] and targets("half the width") == [None]*3
