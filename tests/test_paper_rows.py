"Every row of LiteVAE's tables at paper scale: run at toy length, built at its real size, its needs asked for before step 1."
import json
from functools import lru_cache

import pytest
import torch
from paper_rows import Watched, fake_inception, fake_sets, small_ranges, toy_paper

from litevae_diffae import pretrained
from litevae_diffae.core import n_params
from litevae_diffae.experiments import generators, measures, needs, networks, runs
from litevae_diffae.experiments.needs import check_needs, needs_of
from litevae_diffae.experiments.places import data_at
from litevae_diffae.experiments.records import find_experiments
from litevae_diffae.experiments.recipes import with_batch
from litevae_diffae.fid import feature_network
from litevae_diffae.litevae.recipes import PAPER

ALL = find_experiments()
LITEVAE = [name for name in ALL if not name.startswith("diffae") and not ALL[name].small_only]
ROWS = [(name, row) for name in LITEVAE for row in ALL[name].rows_at("paper")]
IDS = [f"{name}: {row.name}" for name, row in ROWS]


@pytest.fixture(scope="module")
def sets(tmp_path_factory): return fake_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def work(tmp_path_factory): return tmp_path_factory.mktemp("runs")


@lru_cache(None)
def network_once(name, device=None, weights_path=None):
    return fake_inception(device) if name == "inception" else feature_network(name, device)


@pytest.fixture(autouse=True)
def here(sets, monkeypatch):
    "Small data sets at their places, and a stand-in for Inception."
    small_ranges(monkeypatch)
    for module in (measures, needs, generators): monkeypatch.setattr(module, "feature_network", network_once)
    monkeypatch.setattr(pretrained, "check_memory", lambda *args: None)             # builds each discriminator once more
    monkeypatch.setattr(networks, "in_fresh_process", lambda *args: {"total": 1.})    # test_experiments measures one for real
    with data_at(sets): yield


fresh = runs.fitting_discriminator


@lru_cache(None)
def disc_once(*args): return fresh(*args)                                          # its orthogonal start takes seconds, on any device


BUILT = {}
DONE = {}                                                                          # equal rows of several tables run once


@pytest.mark.parametrize("name,row", ROWS, ids=IDS)
def test_a_row_runs_and_reads_all_that_it_says(name, row, work, monkeypatch):
    monkeypatch.chdir(work)
    config = toy_paper(row.config)
    key = json.dumps(config, sort_keys=True)
    if key not in DONE:
        watched = Watched(config)
        DONE[key] = row.run(watched, 0, work/f"run-{len(DONE)}"), watched.unread()
    metrics, unread = DONE[key]
    unread = [k for k in unread if not k.startswith("of.measure.")]                  # another row's, which names its run
    assert not unread, f"nothing reads {unread}"
    assert all(v == v and abs(v) < 1e12 for v in metrics.values())
    if "measure" in config and "rfid" in config["measure"]:
        held_out = dict(imagenet=5, ffhq=4, deepfashion=4)[config["data"][0]]
        assert metrics["images_measured"] == held_out and metrics["rfid"] >= 0      # all held-out images, no crops


@pytest.mark.parametrize("name,row", ROWS, ids=IDS)
def test_a_row_is_built_at_its_real_size(name, row, monkeypatch):
    key = json.dumps([name == "t3" and row.name, row.config.get("model"), row.config.get("of", {}).get("model"), row.config.get("ldm"),
                      row.config.get("discriminator"), "adversarial" in row.config, row.config.get("phases")], sort_keys=True)
    if key not in BUILT:
        monkeypatch.setattr(runs, "fitting_discriminator", disc_once)
        with torch.device("meta"): BUILT[key] = row.build(row.config)
    nets = BUILT[key]
    assert nets and all(p.is_meta for net in nets.values() for p in net.parameters())
    published = {"VAE": (34_163_592, 34_237_336), "LiteVAE-S": (1_038_308, 1_040_628), "LiteVAE-B": (6_753_252, 6_757_876),
                 "LiteVAE-M": (32_752_740, 32_757_364), "LiteVAE-L": (41_424_996, 41_434_228)}
    kind = next((k for k in published if row.name.split(", ")[-2 if ", z " in row.name else -1] == k), None)
    if kind is None or "preset" in row.config and row.config["preset"] == "sd-vae-small": return
    net = nets["encoder"] if "encoder" in nets else nets["model"].encoder
    assert n_params(net) in published[kind]


@pytest.mark.parametrize("name,row", ROWS, ids=IDS)
def test_what_is_published_is_in_the_row(name, row):
    c = row.config.get("of", row.config)
    if "encoder" in c: return
    assert (c["train"]["lr"], c["train"]["betas"]) == (1e-4, [.5, .9])
    assert c["train"]["batch_size"]*c["train"]["grad_accum"] == 32
    steps = sum(p["steps"] for p in c["phases"])
    study = name in ("t5", "t22", "t19")
    assert steps == (150_000 if study else 200_000 if (c["data"][0], c["phases"][-1]["size"]) == ("imagenet", 128) else 100_000)
    assert c["measure"]["crops"] == "centre" and c["measure"]["data"] == [c["data"][0], "test"]
    if name in ("t8", "t10", "t14", "t15", "t16", "t4"):                            # they share the baseline of Table 9
        assert (c["weights"]["wavelet"], c["weights"]["gaussian"]) == (0, 0)
    elif name not in ("t9", "gan", "equivariance"):
        assert (c["weights"]["wavelet"], c["weights"]["gaussian"]) == (PAPER.weights.wavelet, PAPER.weights.gaussian)


def test_names_at_paper_scale_are_the_printed_ones():
    for name in LITEVAE:
        printed, rows = set(ALL[name].paper), {r.name for r in ALL[name].rows_at("paper")}
        if printed: assert rows <= printed | {"mixed", "no adversary", "quarter only", "quarter, then full", "quarter, half, full"}, name


def test_what_is_missing_is_said_before_step_1(tmp_path):
    rows = [row.config for row in ALL["t1"].rows_at("paper")]
    assert needs_of(rows[0]).networks == {"inception"}
    with data_at({"ffhq": tmp_path/"nowhere"}), pytest.raises(ValueError, match="ffhq: .*nowhere does not exist"): check_needs(rows)
    notes = check_needs(rows)
    assert any(note.startswith("imagenet, test: 5 images, the published set has 50,000") for note in notes)


def test_another_batch_is_another_row():
    base = ALL["t1"].rows_at("paper")[0].config
    c = with_batch(base, 128)
    assert sum(p["steps"] for p in c["phases"])*128 == sum(p["steps"] for p in base["phases"])*32
    assert c["train"]["lr"] == pytest.approx(2e-4) and with_batch(base, 32) == base


@pytest.mark.parametrize("name", [n for n in ALL if ALL[n].small_only])
def test_rows_without_a_meaning_there_say_why(name):
    with pytest.raises(ValueError, match="^scale: there are no rows at paper scale: "): ALL[name].rows_at("paper")
