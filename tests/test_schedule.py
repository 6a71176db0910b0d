"A schedule is one training with a change of size: what goes on through it, where it can be stopped, and what is refused."
from functools import partial

import pytest
import torch

from litevae_diffae.checkpoint import read_log
from litevae_diffae.litevae.adversarial import AdversarialConfig, AdversarialTask, Discriminator, adversarial_weight, train_adversarial
from litevae_diffae.litevae.discriminator import DiscriminatorConfig
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.litevae.recipes import CHOICES, PAPER, recipe, schedule_phases
from litevae_diffae.litevae.losses import LossWeights
from litevae_diffae.litevae.train import train_litevae, train_schedule
from litevae_diffae.optim import TrainConfig
from litevae_diffae.train import Trainer

NOISE = torch.rand(30, 3, 72, 72, generator=torch.Generator().manual_seed(0))*2 - 1
WEIGHTS = LossWeights(l1=1., lpips=0., wavelet=0., gaussian=0., kl=1e-6)
PHASES = [dict(size=32, steps=3), dict(size=64, steps=3)]
GAME = AdversarialConfig(start=0., warmup=1/3, ramp=1/3, weight=.3)
CONFIG = TrainConfig(batch_size=2, lr=1e-3, ema=.9, log_every=1, save_every=1, precision="fp32")
DISC = DiscriminatorConfig(channels=4, mult=(1, 2))


def model():
    torch.manual_seed(0)
    return LiteVAE.from_preset("litevae-tiny", decoder_channels=8, aggregator_channels=8, extractor_channels=8)


def play(out, phases=PHASES, config=CONFIG, disc=DISC, **more):
    train = partial(train_adversarial, adversarial=GAME, discriminator=disc)
    return train_schedule(model(), phases, NOISE, out, config, WEIGHTS, (.5, 1.), train, progress=False, device="cpu", stats_images=8, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return out, play(out)


def test_the_adversary_begins_once(whole):
    "Its weight over six steps is that of one run of six steps, through the change of size."
    out, _ = whole
    rows = [row for i in (0, 1) for row in read_log(out/f"phase_{i}")]
    expected = [adversarial_weight(i/6, GAME) for i in range(6)]
    assert [row.get("adv_weight", 0.) for row in rows] == pytest.approx(expected, abs=1e-6)
    assert expected[3] == pytest.approx(.15) and expected[5] == pytest.approx(.3)   # closed form: half, and all of it
    assert all("d_loss" in row for row in rows)


def test_networks_and_moments_go_on(tmp_path, whole, monkeypatch):
    "At the first step of the second phase all is as it was after the last of the first."
    seen, fit = {}, Trainer.fit

    def watch(self, *args, **kwargs):
        begin = self.begin

        def began(*a, **k):
            begin(*a, **k)
            seen[len(seen)] = {name: [p.detach().clone() for p in net.parameters()] for name, net in self.task.nets.items()}
            seen[len(seen)] = {name: {k: v["step"].item() for k, v in getattr(o, "optimizer", o).state.items()} for name, o in self.opts.items()}
            seen[len(seen)] = {k: ema.n for k, ema in self.ema.items()}
        self.begin = began
        done = fit(self, *args, **kwargs)
        seen[len(seen)] = {name: [p.detach().clone() for p in net.parameters()] for name, net in self.task.nets.items()}
        return done
    monkeypatch.setattr(Trainer, "fit", watch)
    play(tmp_path)
    _, _, _, after, before, moments, averages, _ = (seen[i] for i in range(8))
    for name in ("model", "disc"):
        assert all(torch.equal(a, b) for a, b in zip(after[name], before[name]))
        assert moments[name] and set(moments[name].values()) == {3.}                 # three steps of Adam are behind it
    assert averages == {"model": 3}


@pytest.mark.parametrize("stop", [(0, 2), (1, 1), (1, 2)])
def test_it_goes_on_inside_any_phase(stop, tmp_path, whole, monkeypatch):
    "Stopped by a power cut in the first or second phase, the result is that of a run which was not."
    phase, step = stop
    real = AdversarialTask.train_step

    def cut(self, batch, at):
        if (self.part.before, at) == (3*phase, step): raise OSError("power cut")
        return real(self, batch, at)
    monkeypatch.setattr(AdversarialTask, "train_step", cut)
    with pytest.raises(OSError, match="power cut"): play(tmp_path)
    monkeypatch.setattr(AdversarialTask, "train_step", real)
    again, (out, once) = play(tmp_path), whole
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), once.parameters()))
    discs = [Discriminator.from_pretrained(folder/"phase_1"/"discriminator").state_dict() for folder in (tmp_path, out)]
    assert all(torch.equal(v, discs[1][k]) for k, v in discs[0].items())


def test_without_carry_a_phase_begins_anew(tmp_path):
    play(tmp_path, carry=False)
    rows = read_log(tmp_path/"phase_1")
    assert "adv_weight" not in rows[0] and rows[2]["adv_weight"] == pytest.approx(.3)


def test_a_run_with_other_phases_is_not_gone_on_with(tmp_path):
    play(tmp_path)
    with pytest.raises(ValueError, match="holds a run with .*phase="): play(tmp_path, phases=[*PHASES[:1], dict(size=64, steps=4)])


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="phases: steps expected in each"): play(None, phases=[dict(size=32, steps=1), dict(size=64, minutes=.1)])
    tall = DiscriminatorConfig("stylegan", channels=4, image_size=32)
    with pytest.raises(ValueError, match="does not take 3 x 64 x 64"): play(tmp_path, disc=tall)


def test_the_named_discriminator_is_made_for_the_smallest_size(tmp_path):
    phases = [dict(size=32, steps=1), dict(size=64, steps=1)]
    play(tmp_path, phases, disc="unet")
    assert Discriminator.from_pretrained(tmp_path/"phase_1"/"discriminator").config.mult == (1, 2, 4)


def test_a_saved_discriminator_plays_on(tmp_path, whole):
    "Beside the model lies its opponent; elsewhere it goes on from what it knows."
    out, vae = whole
    folder = out/"phase_1"/"discriminator"
    known = Discriminator.from_pretrained(folder)
    still = AdversarialConfig(start=1., warmup=0., ramp=0.)
    train_adversarial(vae, NOISE, tmp_path, CONFIG.with_changes(steps=1), still, str(folder), weights=WEIGHTS, size=64, progress=False, device="cpu", stats_images=8)
    same = Discriminator.from_pretrained(tmp_path/"discriminator")
    assert all(torch.equal(v, known.state_dict()[k]) for k, v in same.state_dict().items())
    from safetensors.torch import load_file
    file = folder/"model.safetensors"
    assert set(load_file(file)) == set(known.state_dict())


def test_the_schedules_are_the_papers():
    assert schedule_phases("paper") == [dict(size=128, steps=100_000), dict(size=256, steps=50_000)]
    assert schedule_phases("half", 256, 150_000) == schedule_phases("paper")


def test_the_recipe_is_its_table():
    "What a line says is what the recipe has: no number stands in two places."
    def value(field):
        found = PAPER
        for name in field.split("."): found = getattr(found, name)
        return found
    for choice in CHOICES: assert value(choice.field) == choice.ours, choice.name
    assert recipe("litevae-b") is PAPER is recipe("litevae-s")
    from litevae_diffae.experiments.recipes import paper_adversary, paper_row
    row = paper_row(dict(preset="litevae-b"))
    assert {k: getattr(PAPER.config, k) for k in row["train"]} == {**row["train"], "betas": tuple(row["train"]["betas"])}
    assert all(getattr(PAPER.weights, k) == v for k, v in row["weights"].items()) and tuple(row["scale"]) == PAPER.scale
    assert all(getattr(PAPER.game, k) == v for k, v in paper_adversary.items())


def test_a_preset_takes_the_recipes_step(monkeypatch):
    "One GPU makes steps of 32 images in two micro-batches, two GPUs in one, and a batch that is given is the step."
    seen = []

    def stop(self, *args):
        seen.append(self.config)
        raise KeyboardInterrupt
    monkeypatch.setattr(Trainer, "fit", stop)
    for more in ({}, dict(batch_size=8)):
        with pytest.raises(KeyboardInterrupt): train_litevae("litevae-s", NOISE, None, size=32, **more)
    assert [(c.batch_size, c.grad_accum) for c in seen] == [(16, 2), (8, 1)]
