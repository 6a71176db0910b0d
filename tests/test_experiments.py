"Every row of LiteVAE's tables at toy size, from training to the results file."
import json

import pytest
from litevae_diffae.experiments.records import find_experiments, read_results, run_experiment
from litevae_diffae.experiments import vae as litevae


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "One work folder for all experiments: a row that stands in two tables is run once."
    root = tmp_path_factory.mktemp("experiments")
    return root / "results", root / "runs"


@pytest.mark.parametrize("name", litevae.experiments)
def test_every_row_runs(name, folders, monkeypatch):
    monkeypatch.setenv("IN_TEST", "1")
    monkeypatch.chdir(folders[0].parent)                                            # no kept model of the repository
    found = run_experiment(name, seeds=1, out=folders[0], work=folders[1])
    assert [r["name"] for r in found["rows"]] == [r.name for r in litevae.experiments[name].rows("small")]
    assert read_results(name, str(folders[0])) == json.loads(json.dumps(found))
    for row in found["rows"]:
        assert all(m["mean"] == m["mean"] and abs(m["mean"]) < 1e12 for m in row["metrics"].values()), row["name"]
    lines = litevae.compare_rows(found, name)
    known = {r["name"] for r in found["rows"]}
    assert len(lines) == len([p for p in litevae.pairs.get(name, []) if set(p) <= known])


@pytest.mark.parametrize("name", ["t6", "fig5"])
def test_rows_that_only_measure_train_their_model_if_it_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("IN_TEST", "1")
    monkeypatch.chdir(tmp_path)
    rows = [litevae.experiments[name].rows("small")[1].name]
    assert len(run_experiment(name, seeds=1, out=tmp_path / "results", work=tmp_path / "runs", rows=rows)["rows"]) == 1


def test_a_row_gives_the_same_numbers_again(tmp_path, monkeypatch):
    monkeypatch.setenv("IN_TEST", "1")
    row = next(r for r in litevae.t5_rows("small") if r.name == "half, then full")
    runs = [row.run(row.config, seed, tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))]
    first, again, other = ({k: v for k, v in r.items() if k != "train_seconds"} for r in runs)
    assert first == again and first["psnr"] != other["psnr"]


def test_they_are_found():
    assert set(litevae.experiments) < set(find_experiments())
