"Every command of the page 'Type this', as it stands there, on stand-ins for the data and with small networks for two steps."
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from paper_rows import fake_inception, fake_sets, random_images, small_ranges, toy_paper

from litevae_diffae import cli
from litevae_diffae.commands import fid as fid_command
from litevae_diffae.experiments import generators, measures, needs, papers, published, records
from litevae_diffae.experiments.papers import plan_row
from litevae_diffae.experiments.published import toy_published
from litevae_diffae.experiments.records import find_experiments
from litevae_diffae.fid import feature_network

PAGE = Path(__file__).parent.parent/"nbs/start/25_type_this.ipynb"
TEXT = "".join("".join(c["source"]) + "\n" for c in json.loads(PAGE.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.replace("\\\n", " ").splitlines() if not line.startswith("pip ")]
ALL = find_experiments()


def argv(line):
    "The words after litevae-diffae, however it is started."
    words = shlex.split(line)
    if words[0] == "torchrun": return words[words.index("litevae_diffae.cli") + 1:]
    assert words[0] == "litevae-diffae", line
    return words[1:]


def toy_row(name, row):
    make = toy_published if name.startswith("diffae") else toy_paper
    return replace(row, config=make(row.config))


def toy_table(name):
    e = ALL[name]
    return replace(e, rows=lambda scale: [toy_row(name, r) for r in e.rows(scale)])


SMALL_VAE = ["decoder_channels=8", "extractor_channels=8", "aggregator_channels=8"]
SMALL_DIFFAE = ["model_channels=32", "channel_mult=[1,1]", "n_res_blocks=1", "embed_channels=32", "enc_channel_mult=[1,1]",
                "enc_n_res_blocks=1", "z_dim=32"]


def toy_words(words):
    "A training with as little as it can have; everything else as typed."
    if words[0] == "train":
        preset, more = words[1], []
        if preset == "litevae-b":
            more, words = ["--size", "64", "--steps", "3"], [*words, *SMALL_VAE]     # --set stands last there
        elif preset.startswith("diffae"):
            more, words = ["--steps", "2", "--size", "32"], [*words, "--set", *SMALL_DIFFAE]
        else:
            i = words.index("--steps")
            words, more = [*words[:i], *words[i + 2:]], ["--size", "32", "--steps", "2"]
        return [*words[:2], *more, "--batch-size", "2", "--n-workers", "0", *words[2:]]
    return words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("type")
    fake_sets(root/"data")
    random_images(root/"data"/"celeba"/"img_align_celeba", 12, (178, 218), "jpg")
    rows = [f"{i:05d}.jpg {1 if i % 2 else -1} {1 if i % 3 else -1}" for i in range(12)]
    (root/"data"/"celeba"/"list_attr_celeba.txt").write_text("\n".join(["12", "Male Blond_Hair", *rows]) + "\n")
    return root


@pytest.fixture
def toys(place, monkeypatch):
    monkeypatch.chdir(place)
    small_ranges(monkeypatch)
    def network(name="inception", device=None, weights_path=None):
        return fake_inception(device) if name == "inception" else feature_network(name, device)
    for module in (measures, needs, published, generators, fid_command): monkeypatch.setattr(module, "feature_network", network)
    published.row_network.cache_clear()
    monkeypatch.setattr(records, "find_experiments", lambda: {name: toy_table(name) for name in ALL})
    monkeypatch.setitem(fid_command.PROTOCOLS, "rfid", replace(fid_command.PROTOCOLS["rfid"], n_real=None, n_other=None))
    table4 = fid_command.PROTOCOLS["diffae-table4-autoencoding"]
    monkeypatch.setitem(fid_command.PROTOCOLS, table4.name, replace(table4, n_real=14, n_other=14))


@pytest.mark.parametrize("line", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_runs_as_it_stands(line, toys, capsys, monkeypatch):
    words = toy_words(argv(line))
    if "fid" == words[0]: words = [w if w != "256" else "64" for w in words]
    if "--batch" in words: words[words.index("--batch") + 1] = "4"                   # twice the toy's two, not 128 times
    counted = []

    def plan_first(config, n=1):
        "Count the first row; test_plan and the chapter count others."
        counted.append(config)
        return plan_row(config, n) if len(counted) == 1 else []
    monkeypatch.setattr(papers, "plan_row", plan_first)
    assert not cli.main(words), capsys.readouterr().err
    if "--check" in words: assert "nothing is missing" in capsys.readouterr().out
    if words[0] == "experiment" and "--check" not in words:
        found = json.loads(Path(f"results/{words[1]}-paper.json").read_text())
        wanted = set(words[words.index("--rows") + 1:words.index("--seeds")]) if "--rows" in words else {r["name"] for r in found["rows"]}
        assert wanted <= {r["name"] for r in found["rows"]}
        for record in found["records"].values():
            assert record["setting"]["processes"] == 1 and record["versions"]["torch"]


def test_two_processes_make_the_same_table(place):
    "torchrun with two processes: the batch is divided, the record says so, one of them writes."
    script = place/"two.py"
    script.write_text(
        "import sys\nfrom litevae_diffae.experiments import records\nfrom litevae_diffae.experiments.records import Experiment, Row\n"
        "from litevae_diffae.experiments.runs import run_row\nfrom litevae_diffae.experiments.recipes import small_row, tiny\n"
        "from litevae_diffae import cli\n"
        "row = small_row(dict(tiny, decoder_channels=8), phases=[dict(size=32, steps=2)])\n"
        "row['train'] = dict(row['train'], batch_size=4, log_every=1)\n"
        "row['measure'] = dict(size=32, n=4, fd_size=32)\nrow['stats_images'] = 8\n"
        "e = Experiment('?', 'none', lambda scale: [Row('row', row, run_row)])\n"
        "records.find_experiments = lambda: {'two': e}\n"
        "from litevae_diffae.experiments import papers\npapers.check_rows = lambda rows: None\n"
        "sys.exit(cli.main(['experiment', 'two', '--scale', 'paper', '--seeds', '1']))\n")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617", str(script)],
                          cwd=place, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    record, = json.loads((place/"results/two-paper.json").read_text())["records"].values()
    assert (record["processes"], record["images_a_step"], record["setting"]["processes"]) == (2, 4, 2)
    assert record["metrics"]["images"] == 8                                          # two steps of four images, not of eight
