"What a stranger broke in schedules, batches and places: each is now right, or refused in one sentence before the first step."
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from paper_rows import random_images

from litevae_diffae import cli
from litevae_diffae.commands import training
from litevae_diffae.commands.training import _phases
from litevae_diffae.diffae.train import diffae_recipe
from litevae_diffae.experiments.records import find_experiments
from litevae_diffae.experiments.recipes import with_batch
from litevae_diffae.litevae.adversarial import AdversarialConfig, AdversarialTask, Discriminator, train_adversarial
from litevae_diffae.litevae.discriminator import DiscriminatorConfig
from litevae_diffae.litevae.losses import LossWeights
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.litevae.recipes import PAPER, TINY
from litevae_diffae.litevae.train import train_litevae, train_schedule
from litevae_diffae.optim import TrainConfig
from litevae_diffae.processes import divide_batch

NOISE = torch.rand(30, 3, 72, 72, generator=torch.Generator().manual_seed(0))*2 - 1
WEIGHTS = LossWeights(l1=1., lpips=0., wavelet=0., gaussian=0., kl=1e-6)
PHASES = [dict(size=32, steps=2), dict(size=64, steps=1)]
CONFIG = TrainConfig(batch_size=2, lr=1e-3, ema=.9, log_every=1, save_every=1, precision="fp32")
DISC = DiscriminatorConfig(channels=4, mult=(1, 2))
BRIEF = dict(progress=False, device="cpu", stats_images=8)


def model():
    torch.manual_seed(0)
    return LiteVAE.from_preset("litevae-tiny", decoder_channels=8, aggregator_channels=8, extractor_channels=8)


def play(out, disc=DISC, config=CONFIG, **more):
    train = partial(train_adversarial, adversarial=AdversarialConfig(start=0., warmup=0., ramp=0.), discriminator=disc)
    return train_schedule(model(), PHASES, NOISE, out, config, WEIGHTS, (.5, 1.), train, **BRIEF, **more)


def said(capsys, *argv):
    "The sentence that a command refuses with."
    with pytest.raises(SystemExit) as stop: cli.main(list(argv))
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["diffae-autoencoding", "diffae-prior"])
def test_another_batch_keeps_the_recipe_of_a_diffusion_model(name):
    "What a row leaves to its preset's recipe follows from that recipe: half the images, the root of rate and decay."
    c = find_experiments()[name].rows_at("paper")[1].config
    published = diffae_recipe(c["preset"])
    assert (published.ema, published.lr) == (.9999, 1e-4)                            # appendix of Diff-AE
    half = with_batch(c, c["train"]["batch_size"]//2)["train"]
    assert half["ema"] == pytest.approx(.9999**.5, abs=1e-9) and half["lr"] == pytest.approx(1e-4*.5**.5)
    assert half["images"] == c["train"]["images"] and half["batch_size"]*half["grad_accum"]*2 == c["train"]["batch_size"]
    double = with_batch(c, 2*c["train"]["batch_size"])["train"]
    assert (double["batch_size"], double["grad_accum"]) == (c["train"]["batch_size"], 2)
    if "prior" in c: assert with_batch(c, 512)["prior"]["train"]["ema"] == pytest.approx(.9999**2, abs=1e-9)


def test_warm_up_follows_too():
    "A tiny recipe warms up for 50 steps of 32 images: 100 of 16."
    c = dict(preset="diffae-tiny", model={}, train=dict(batch_size=32, steps=200))
    assert with_batch(c, 16)["train"]["warmup"] == 2*diffae_recipe("diffae-tiny").warmup == 100


def test_a_discriminator_of_one_size_is_refused_before_the_first_phase(tmp_path):
    for disc, says in (("stylegan", "does not take 3 x 64 x 64"), (DiscriminatorConfig("stylegan", channels=4, image_size=64), "3 x 32 x 32"),
                       (DiscriminatorConfig(channels=4, mult=(1,)*6), "3 x 32 x 32")):
        with pytest.raises(ValueError, match=f"discriminator: .*{says}"): play(tmp_path/"run", disc)
        assert not list(tmp_path.rglob("log.jsonl"))


def test_a_phase_knows_its_learning_rates_schedule(tmp_path):
    "`schedule` is the learning rate's; the place of a phase does not hide it."
    play(tmp_path, resume=True)
    with pytest.raises(ValueError, match="schedule='constant' .now 'cosine'."): play(tmp_path, config=CONFIG.with_changes(schedule="cosine"))


def test_a_plain_runs_folder_is_left_alone(tmp_path):
    train_litevae(model(), NOISE, tmp_path, CONFIG.with_changes(steps=1), WEIGHTS, 32, (.5, 1.), **BRIEF)
    before = (tmp_path/"model"/"model.safetensors").read_bytes()
    for resume in (True, False):
        with pytest.raises(ValueError, match="out: a schedule has a folder of its own, got "): play(tmp_path, resume=resume)
    assert (tmp_path/"model"/"model.safetensors").read_bytes() == before


def test_begun_anew_no_phase_is_left_of_the_run_before(tmp_path, monkeypatch):
    "Stopped in the first phase of the new run, the second one's old end must not be taken for its own."
    play(tmp_path)

    def cut(self, batch, at): raise OSError("power cut")
    monkeypatch.setattr(AdversarialTask, "train_step", cut)
    with pytest.raises(OSError, match="power cut"): play(tmp_path, resume=False)
    assert not list((tmp_path/"phase_1").glob("resume/*"))


def test_an_adversary_says_what_is_in_its_folder(tmp_path, capsys):
    model().save_pretrained(tmp_path/"vae")
    line = ["train", "litevae-tiny", "--data", "photos", "--out", str(tmp_path/"out"), "--adversary"]
    assert said(capsys, *line, str(tmp_path/"vae")).endswith("vae', where a LiteVAE lies")
    assert said(capsys, *line, "nothing").endswith("or the folder of a saved discriminator, got 'nothing'")
    Discriminator(DISC).save_pretrained(tmp_path/"disc")
    with pytest.raises(ValueError, match="discriminator: .* takes images of 3 channels, the model has 1"):
        grey = LiteVAE.from_preset("litevae-tiny", in_channels=1, decoder_channels=8)
        train_adversarial(grey, NOISE, None, CONFIG.with_changes(steps=1), None, str(tmp_path/"disc"), size=32, **BRIEF)


def test_the_papers_schedule_has_the_papers_sizes():
    "Also for a preset whose own crops are smaller, as `--help` says; a size that is given is taken."
    o = SimpleNamespace(adversary=None, schedule="paper", size=None, minutes=None, images=None)
    for r in (TINY, PAPER): assert [p["size"] for p in _phases(o, r, {})[0]] == [128, 256]
    o.size = 64
    assert [p["size"] for p in _phases(o, TINY, {})[0]] == [32, 64]


@pytest.mark.parametrize("words", [["--data", "imagenet=x"], ["--batch-size", "2"], ["--batch", "33"]])
def test_small_rows_refuse_what_they_do_not_heed(words, capsys):
    assert said(capsys, "experiment", "t17", "--check", *words) == f"litevae-diffae: {words[0]}: only for --scale paper, got {words[1]}"


def test_a_set_has_one_place(capsys):
    found = said(capsys, "experiment", "t17", "--scale", "paper", "--check", "--data", "ffhq=a", "imagenet=b", "ffhq=c")
    assert found == "litevae-diffae: data: ffhq must have one place, got two"


def test_one_image_is_no_set(tmp_path, capsys):
    random_images(tmp_path/"a", 3)
    random_images(tmp_path/"b", 1)
    found = said(capsys, "fid", str(tmp_path/"a"), str(tmp_path/"b"), "--features", "alexnet", "--size", "64", "--out", str(tmp_path/"f.json"))
    assert found.endswith("n: at least 2 images of each side expected, B has 1") and not (tmp_path/"f.json").exists()


def test_a_batch_that_can_not_be_divided_names_both_ways_out():
    with pytest.raises(ValueError, match="32 images a step can't be divided among 3; train takes --batch-size.* experiment --batch"):
        divide_batch(PAPER.config, 3)


def test_missing_weights_of_vgg_are_said_before_data_are_read(tmp_path, monkeypatch, capsys):
    def missing(net): raise RuntimeError(f"lpips: {net} could not be downloaded")
    monkeypatch.setattr(training, "trunk_weights", missing)
    words = ["train", "litevae-tiny", "--data", str(tmp_path/"nowhere"), "--out", str(tmp_path/"run"), "--lpips-net", "vgg", "--steps", "1"]
    with pytest.raises(SystemExit): cli.main(words)
    assert "lpips: vgg could not be downloaded" in capsys.readouterr().err
    assert not (tmp_path/"run").exists()
