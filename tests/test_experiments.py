"Every row of LiteVAE's tables at toy size, from training to the results file."
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from litevae_diffae.experiments import networks, pixel_latent, records
from litevae_diffae.experiments.directions import compare_rows
from litevae_diffae.experiments.records import find_experiments, read_results, run_experiment
from litevae_diffae.experiments.runs import toy, trained_model

DIFFAE = {"diffae-autoencoding", "diffae-recipe", "diffae-prior", "diffae-samples", "diffae-samples-fid",
          "diffae-interpolation", "diffae-classcond", "diffae-editing", "diffae-editing-labels", "diffae-editing-confounded"}
ALL = find_experiments()
LITEVAE = [name for name in ALL if name not in DIFFAE]


def small_rows(e): return lambda scale: [replace(r, config=toy(r.config)) for r in e.rows(scale)]


TOYS = {name: replace(ALL[name], rows=small_rows(ALL[name])) for name in LITEVAE}


@pytest.fixture(autouse=True)
def toys(monkeypatch): monkeypatch.setattr(records, "find_experiments", lambda: TOYS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "One work folder for all experiments: a row that stands in two tables is run once."
    root = tmp_path_factory.mktemp("experiments")
    return root / "results", root / "runs"


@pytest.mark.parametrize("name", LITEVAE)
def test_every_row_runs(name, folders, monkeypatch):
    monkeypatch.chdir(folders[0].parent)                                            # no kept model of the repository
    real = networks.in_fresh_process                                                # a new process takes seconds: for one encoder
    monkeypatch.setattr(networks, "in_fresh_process", lambda call, name, *a: real(call, name, *a) if name == "litevae-s" else {"total": 1.})
    monkeypatch.setattr(pixel_latent, "in_fresh_process", lambda *args: 1.)
    found = run_experiment(name, seeds=1, out=folders[0], work=folders[1])
    assert [r["name"] for r in found["rows"]] == [r.name for r in ALL[name].rows("small")]
    assert read_results(name, str(folders[0])) == json.loads(json.dumps(found))
    for row in found["rows"]:
        assert all(m["mean"] == m["mean"] and abs(m["mean"]) < 1e12 for m in row["metrics"].values()), row["name"]
    known = {r["name"] for r in found["rows"]}
    assert len(compare_rows(found, ALL[name])) == len([p for p in ALL[name].pairs if set(p) <= known])


@pytest.mark.parametrize("name", ["t6", "fig5"])
def test_rows_that_only_measure_train_their_model_if_it_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [TOYS[name].rows("small")[1].name]
    assert len(run_experiment(name, seeds=1, out=tmp_path / "results", work=tmp_path / "runs", rows=rows)["rows"]) == 1


def test_a_row_gives_the_same_numbers_again(tmp_path):
    row = next(r for r in TOYS["t5"].rows("small") if r.name == "half, then full")
    runs = [row.run(row.config, seed, tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))]
    first, again, other = ({k: v for k, v in r.items() if k != "train_seconds"} for r in runs)
    assert first == again and first["psnr"] != other["psnr"]


def test_two_terminals_may_want_the_same_run(tmp_path):
    "The second waits for the first and loads what it made; it was refused in the middle of its own table."
    config = TOYS["t17"].rows("small")[0].config
    with ThreadPoolExecutor() as two: a, b = two.map(lambda _: trained_model(config, 0, tmp_path / "run").state_dict(), range(2))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize("name", ALL)
def test_names_hold_together(name):
    "Row names are unique, pairs are names of rows, and configurations are JSON."
    e = ALL[name]
    scales = ("small",) if e.small_only else records.scales
    names = {scale: [r.name for r in e.rows_at(scale)] for scale in scales}
    assert all(len(set(n)) == len(n) for n in names.values())
    assert {n for pair in e.pairs for n in pair} <= {n for rows in names.values() for n in rows}
    for r in (r for scale in scales for r in e.rows_at(scale)): assert json.loads(json.dumps(r.config)) == r.config


def test_rows_are_shared():
    "Equal configurations have equal hashes, so that tables share runs."
    def key(name, row): return next(records.row_key(r.config, 0) for r in ALL[name].rows("small") if r.name == row)
    assert key("t8", "constant weight") == key("t10", "U-Net") == key("gan", "with adversary")
    assert key("t19", "separate extractors") == key("appb", "photos: learned, z 4")
    assert key("t6", "VAE") != key("fig5", "VAE")
    assert key("t7", "LiteVAE") == key("t13", "LiteVAE") == key("ldm-objectives", "flow") == key("ldm-equivariance", "LiteVAE")
    assert key("t7", "KL-VAE") == key("t13", "KL-VAE")


def test_they_are_found():
    assert set(ALL) == DIFFAE | set(LITEVAE) and len(LITEVAE) == 31
