"Records of experiments: valid JSON, looked at before they are believed, never lost, and other people's files are left alone."
import json
import math
import multiprocessing
from pathlib import Path

import pytest
from conftest import ROOT

from litevae_diffae.bench import run as bench
from litevae_diffae.experiments import records as experiment
from litevae_diffae.cli import main
from litevae_diffae.experiments.records import Experiment, Row, check_target, make_table, read_records, read_results, results_table, row_key, run_experiment, spread_of, write_results
from litevae_diffae.files import FileError, read_json, to_json
from litevae_diffae.experiments.decoders import experiments as decoders
from litevae_diffae.experiments.directions import compare_rows, verdict

CALLS = []


def measure(config, seed, folder):
    CALLS.append((config["n"], seed))
    return {"psnr": config.get("psnr", 20. + seed), "loss": 1/config["n"]}


def rows(scale): return [Row("one", {"n": 1}, measure), Row("two", {"n": 2}, measure)]


TOY = Experiment("Does it hold?", "by hand", rows)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    CALLS.clear()
    monkeypatch.setattr(experiment, "find_experiments", lambda: {"toy": TOY})


def run(tmp_path, **kw): return run_experiment("toy", out=str(tmp_path/"results"), work=str(tmp_path/"runs"), **kw)


def strict(path): return json.loads(Path(path).read_text(), parse_constant=pytest.fail)


def refused(error, *words):
    assert issubclass(error.type, (ValueError, OSError))
    text = str(error.value)
    assert "\n" not in text, text
    for word in words: assert str(word) in text, text


@pytest.mark.parametrize("path", sorted((ROOT/"results").glob("*.json")), ids=lambda p: p.stem)
def test_committed_results_are_read_as_ever(path):
    found = strict(path)
    assert read_json(path) == found and read_results(path.stem, str(ROOT/"results")) == found
    if "records" not in found: return
    assert check_target(path, path.stem) == found["records"]
    table = make_table([Row(r["name"], r["config"], None) for r in found["rows"]], 1 + max(s for r in found["rows"] for s in r["seeds"]), found["records"])
    assert table == found["rows"] and to_json(found) + "\n" == path.read_text()


def test_a_foreign_file_is_left_alone_and_told(tmp_path, capsys):
    (tmp_path/"results").mkdir()
    foreign = {"list.json": "[1, 2]", "text.json": '"hello"', "number.json": "3", "other.json": '{"records": [1]}', "plain.json": '{"a": 1}'}
    for name, text in foreign.items(): (tmp_path/"results"/name).write_text(text)
    (tmp_path/"results"/"folder.json").mkdir()
    assert len(run(tmp_path, seeds=1)["rows"]) == 2
    for name, text in foreign.items(): assert (tmp_path/"results"/name).read_text() == text
    said = capsys.readouterr().err
    assert said.count("left alone") == 4 and "list.json: holds no results of experiments" in said


BROKEN = {"cut short": '{"records": {', "empty": "", "bytes": b"\xff\xfe\x00", "no metrics": json.dumps({"records": {"0": {"config": {}, "seed": 0}}}), "record is text": '{"records": {"0": "x"}}',
          "metric is text": json.dumps({"records": {row_key({}, 0): dict(config={}, seed=0, metrics={"a": "1"}, seconds=1, hardware={})}}),
          "wrong key": json.dumps({"records": {"0": dict(config={}, seed=0, metrics={}, seconds=1, hardware={})}})}


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("where", ["results/other.json", "results/toy.json"])
def test_a_broken_file_is_named_before_anything_runs(tmp_path, name, where):
    put(tmp_path/where, BROKEN[name])
    before = (tmp_path/where).read_bytes()
    with pytest.raises(FileError) as e: run(tmp_path, seeds=1)
    refused(e, tmp_path/where, "move it away")
    assert not CALLS and (tmp_path/where).read_bytes() == before


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"experiment": "other", "records": {}}', '{"records": []}'])
def test_results_are_not_written_over_something_else(tmp_path, text):
    put(tmp_path/"results/toy.json", text)
    with pytest.raises(FileError) as e: run(tmp_path, seeds=1)
    refused(e, tmp_path/"results"/"toy.json", "holds something else than results of toy")
    assert not CALLS and (tmp_path/"results/toy.json").read_text() == text


@pytest.mark.parametrize("text, words", [('{"name": "one"', "not JSON"), ("", "is empty"), ("[]", "a dict expected"), ('{"config": {"n": 1}, "seed": 0}', "has no metrics")])
def test_a_record_cut_short_is_named(tmp_path, text, words):
    path = tmp_path/"runs"/row_key({"n": 1}, 0)/"record.json"
    put(path, text)
    with pytest.raises(FileError) as e: run(tmp_path, seeds=1)
    refused(e, path, words, "delete it to have the run measured again")
    path.unlink()
    assert len(run(tmp_path, seeds=1)["rows"]) == 2


def test_numbers_that_are_not_finite(tmp_path, monkeypatch):
    values = {0: math.inf, 1: 30.}
    monkeypatch.setattr(experiment, "find_experiments", lambda: {"toy": Experiment("?", "!", lambda scale: [
        Row("exact", {"n": 1}, lambda c, s, f: {"psnr": values[s], "nan": math.nan, "loss": 1.}), Row("fine", {"n": 2}, lambda c, s, f: {"psnr": 20., "nan": 1., "loss": 2.})])})
    found = run(tmp_path)
    back = strict(tmp_path/"results/toy.json")
    assert back == found == read_results("toy", str(tmp_path/"results"))
    exact = found["rows"][0]["metrics"]
    assert exact["psnr"] == dict(mean=None, spread=None, values=[None, 30.]) and exact["loss"]["mean"] == 1. and exact["nan"]["values"] == [None, None]
    record = strict(tmp_path/"runs"/row_key({"n": 1}, 0)/"record.json")
    assert record["metrics"]["psnr"] is None and record["not_finite"] == {"metrics.psnr": "inf", "metrics.nan": "nan"}
    assert [r["PSNR"] for r in results_table(found, {"psnr": ("PSNR", ".1f")})] == ["not finite", "20.0 (0.0)"]
    assert run(tmp_path)["rows"] == found["rows"]                             # written once, not measured again
    assert verdict(exact["psnr"], found["rows"][1]["metrics"]["psnr"], .5) == "not finite"
    line, = compare_rows({"rows": [dict(name="SMC", metrics=exact), dict(name="group norm", metrics=found["rows"][1]["metrics"])]}, decoders["t4"], ("psnr", "loss"))
    assert line["psnr"] == "not finite" and line["loss"].startswith("-1: ")


def test_spread():
    assert spread_of([1., 3.]) == dict(mean=2., spread=2., values=[1., 3.])
    assert spread_of([1., None]) == spread_of([1., math.nan]) == spread_of([1., -math.inf]) == dict(mean=None, spread=None, values=[1., None])


def test_a_metric_that_one_seed_lacks():
    record = lambda seed, **m: dict(config={"n": 1}, seed=seed, metrics=m, seconds=1, hardware={})
    table = make_table(rows("small")[:1], 2, {row_key({"n": 1}, 0): record(0, a=1.), row_key({"n": 1}, 1): record(1, a=2., b=3.)})
    assert table[0]["metrics"]["a"]["mean"] == 1.5 and table[0]["metrics"]["b"] == dict(mean=None, spread=None, values=[None, 3.])


@pytest.mark.parametrize("metrics", [{"a": "1"}, {"a": [1.]}, None, [1.], {"a": True}])
def test_metrics_that_are_no_numbers_leave_no_record(tmp_path, monkeypatch, metrics):
    monkeypatch.setattr(experiment, "find_experiments", lambda: {"toy": Experiment("?", "!", lambda scale: [Row("bad", {"n": 1}, lambda c, s, f: metrics)])})
    with pytest.raises(ValueError) as e: run(tmp_path, seeds=1)
    refused(e, "bad: the record")
    assert not list((tmp_path/"runs").glob("*/record.json"))


@pytest.mark.parametrize("kw, words", [
    (dict(seeds=0), "seeds: must be a whole number of at least 1"), (dict(seeds=-1), "seeds:"), (dict(seeds=1.5), "seeds:"), (dict(seeds=True), "seeds:"), (dict(seeds="2"), "seeds:"), (dict(seeds=None), "seeds:"),
    (dict(first_seed=-1), "first_seed: must be a whole number of at least 0"), (dict(first_seed=.5), "first_seed:"), (dict(first_seed=2), "first_seed: must be below seeds (2), got 2"), (dict(rows=("three",)), "must be among one, two, got 'three'"),
    (dict(rows=("",)), "must be among one, two"), (dict(rows="one"), "rows: must be a list of names"), (dict(scale="huge"), "scale:"), (dict(out=" "), "out: must be a folder"), (dict(work=""), "work: must be a folder")])
def test_options(tmp_path, kw, words):
    with pytest.raises(ValueError) as e: run_experiment("toy", **{**dict(out=str(tmp_path/"results"), work=str(tmp_path/"runs")), **kw})
    refused(e, words)
    assert not CALLS


def test_one_row_and_one_folder_for_both(tmp_path):
    found = run_experiment("toy", seeds=1, out=str(tmp_path/"both"), work=str(tmp_path/"both"), rows=["two"])
    assert [r["name"] for r in found["rows"]] == ["two"] and CALLS == [(2, 0)]


@pytest.mark.parametrize("which", ["out", "work"])
def test_folders_that_are_files_or_cannot_be_written(tmp_path, monkeypatch, which):
    (tmp_path/"file").write_text("mine")
    go = lambda path: run_experiment("toy", **{**dict(seeds=1, out=str(tmp_path/"results"), work=str(tmp_path/"runs")), which: str(path)})
    for path, words in ((tmp_path/"file", f"is a file, not a folder for {which}"), (tmp_path/"file"/"below", "can't be written")):
        with pytest.raises((ValueError, OSError)) as e: go(path)
        refused(e, path, words)
    def denied(*a, **kw): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(OSError) as e: go(tmp_path/"locked")
    refused(e, "can't be written (Permission denied)")
    assert not CALLS and (tmp_path/"file").read_text() == "mine"


def test_fewer_seeds_lose_no_record(tmp_path):
    run(tmp_path, seeds=3)
    for p in (tmp_path/"runs").glob("*/record.json"): p.unlink()             # the results file is all that is left
    found = run(tmp_path, seeds=1)
    assert found["rows"][0]["seeds"] == [0] and len(found["records"]) == 6 and found["budget"]["runs"] == 2
    CALLS.clear()
    assert run(tmp_path, seeds=3)["rows"][0]["seeds"] == [0, 1, 2] and not CALLS


def write_many(folder, terminal, n):
    "A terminal with a work folder of its own that finishes `n` seeds, and writes after each."
    results, work = folder/"results"/"toy.json", folder/f"runs-{terminal}"
    for seed in range(terminal*n, (terminal + 1)*n):
        experiment.run_one(rows("small")[0], seed, work)
        write_results(results, "toy", TOY, "small", 2*n, work)


def test_two_terminals_lose_no_record(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    terminals = [spawn.Process(target=write_many, args=(tmp_path, k, 8)) for k in range(2)]
    for t in terminals: t.start()
    for t in terminals: t.join(240)
    found = strict(tmp_path/"results/toy.json")
    assert [t.exitcode for t in terminals] == [0, 0] and len(found["records"]) == 16 and found["rows"][0]["seeds"] == list(range(16))
    assert read_records(tmp_path/"results/toy.json", tmp_path/"none").keys() == found["records"].keys()


def test_command_line(tmp_path, monkeypatch, capsys):
    put(tmp_path/"results/mine.json", '{"half')
    for extra in ([], ["--seeds", "1", "--first-seed", "4"]):
        with pytest.raises(SystemExit) as e: main(["experiment", "toy", "--out", str(tmp_path/"results"), "--work", str(tmp_path/"runs"), *extra])
        said = capsys.readouterr().err.strip()
        assert e.value.code == 2 and "\n" not in said and ("mine.json" in said or "first_seed" in said)


@pytest.mark.parametrize("text, words", [("[1]", "holds something else than results of a benchmark"), ('{"a": 1}', "something else"), ("{", "not JSON")])
def test_a_benchmark_replaces_nothing_else(tmp_path, monkeypatch, text, words):
    path = tmp_path/"bench.json"
    path.write_text(text)
    monkeypatch.setattr(bench, "parts", {"wavelets": lambda seconds: pytest.fail("measured before it looked")})
    with pytest.raises(FileError) as e: bench.run_bench(str(path), "wavelets")
    refused(e, path, words)
    assert path.read_text() == text


def test_a_benchmark_is_valid_json(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "parts", {"wavelets": lambda seconds: {"ratio": math.inf}})
    monkeypatch.setattr(bench, "report", lambda results: "")
    bench.run_bench(str(tmp_path/"new"/"bench.json"), "wavelets")
    assert strict(tmp_path/"new"/"bench.json")["parts"]["wavelets"]["ratio"] is None
