"The word for a discriminator's log: from what the losses must be, from the stored tables, and from the reference curves."
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from litevae_diffae.checkpoint import read_log
from litevae_diffae.litevae.discriminator import d_loss
from litevae_diffae.litevae.health import blind_loss, discriminator_health

ROOT = Path(__file__).resolve().parents[1]
CURVES = json.loads((ROOT/"results"/"figures"/"adversary-curves.json").read_text())


def log(pairs, loss="hinge"):
    "Rows as a run writes them, for discriminators whose logits are normal around (real, fake)."
    g = torch.Generator().manual_seed(0)
    rows = []
    for i, (real, fake, spread) in enumerate(pairs):
        r, f = real + spread*torch.randn(4000, generator=g), fake + spread*torch.randn(4000, generator=g)
        rows.append({"step": 10*i, "l1": .05, "d_loss": d_loss(r, f, loss).item(), "logits_real": r.mean().item(), "logits_fake": f.mean().item()})
    return rows


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_what_the_losses_say(loss):
    "Equal answers are blind wherever they lie; far beyond both margins it has won; halfway it plays."
    assert blind_loss(loss) == {"hinge": 1, "logistic": math.log(2)}[loss]
    for level in (-.5, 0., .5, 3.):
        assert discriminator_health(log([(level, level, .1)]*40, loss), loss) == "blind"
    assert discriminator_health(log([(0., 0., 2.)]*40, loss), loss) == "blind"          # loud, and no better for it
    assert discriminator_health(log([(-.6, .6, .3)]*40, loss), loss) == "blind"         # wrong on the whole
    assert discriminator_health(log([(6., -6., .5)]*40, loss), loss) == "overpowering"
    assert discriminator_health(log([(.4, -.4, .5)]*40, loss), loss) == "healthy"
    two_maps = [{**r, "d_loss": 2*r["d_loss"]} for r in log([(1.2, -1.2, .5)]*40, loss)]
    assert discriminator_health(two_maps, loss, maps=2) == discriminator_health(log([(1.2, -1.2, .5)]*40, loss), loss) == "healthy"


def test_the_bound_behind_the_threshold():
    "The loss in its unit is never below the share of wrong answers, so below .1 nine in ten are right."
    g = torch.Generator().manual_seed(1)
    for loss in ("hinge", "logistic"):
        for _ in range(200):
            r, f = (torch.randn(64, generator=g)*4*torch.rand((), generator=g) + 3*torch.randn((), generator=g) for _ in range(2))
            wrong = ((r <= 0).double().mean() + (f >= 0).double().mean())/2
            assert d_loss(r, f, loss).item()/blind_loss(loss) >= wrong - 1e-6


def test_the_thresholds_are_where_they_are_said_to_be():
    def rows(d, gap): return [{"step": i, "d_loss": d, "logits_real": gap/2, "logits_fake": -gap/2} for i in range(16)]
    assert [discriminator_health(rows(d, 2.)) for d in (.09, .11)] == ["overpowering", "healthy"]
    assert [discriminator_health(rows(.9, gap)) for gap in (.09, .11)] == ["blind", "healthy"]
    assert [discriminator_health(rows(d, 2.), "logistic") for d in (.065, .075)] == ["overpowering", "healthy"]


def test_when():
    "The worst sixteenth tells who has won; the last quarter, who is blind; rows before the start do not count."
    healthy, blind, won = (.4, -.4, .5), (0., 0., .1), (6., -6., .5)
    assert discriminator_health(log([healthy]*20 + [won]*10 + [blind]*10)) == "overpowering"
    assert discriminator_health(log([healthy]*39 + [won])) == "healthy"  # one row is no sixteenth
    assert discriminator_health(log([blind]*30 + [healthy]*10)) == "healthy"
    assert discriminator_health(log([healthy]*30 + [blind]*10)) == "blind"
    assert discriminator_health([{"step": i, "l1": 1.} for i in range(100)] + log([healthy]*3)) == "healthy"
    mended = log([healthy]*8 + [won]*8 + [healthy]*24)
    assert [discriminator_health(r) for r in (mended, mended[16:])] == ["overpowering", "healthy"]


@pytest.mark.parametrize("rows, said", [([], "log: rows with 'd_loss' expected, got none"), ([{"step": 3, "l1": .1}], "log: rows with 'd_loss' expected, got none"),
                                        ([{"step": 3, "d_loss": math.inf, "logits_real": 0., "logits_fake": 0.}], "log: finite numbers expected, got a d_loss that is not at step 3")])
def test_what_cannot_be_judged(rows, said):
    with pytest.raises(ValueError, match=f"^{said}"): discriminator_health(rows)
    with pytest.raises(ValueError, match="^loss: must be hinge or logistic, got 'wgan'$"): discriminator_health(log([(0., 0., 1.)]), "wgan")


def stored(row):
    m, keys = row["metrics"], ("d_loss", "logits_real", "logits_fake")
    return [{"step": i, **{k: m[f"{k}@{i}"]["mean"] for k in keys}} for i in range(20) if f"d_loss@{i}" in m]


def test_the_stored_tables():
    "Runs made long before the rule: what their page says of them."
    found = {(n, r["name"]): discriminator_health(stored(r), r["config"]["adversarial"].get("loss", "hinge"))
             for n in ("t10", "gan", "t8", "t16") for r in json.loads((ROOT/"results"/f"{n}.json").read_text())["rows"] if "adversarial" in r["config"]}
    assert found.pop(("t10", "PatchGAN")) == "overpowering" and set(found.values()) == {"blind"} and len(found) == 8


def test_the_reference_curves():
    "Each carries its name, as the page shows; they are what the script of data/ would make again."
    spec = importlib.util.spec_from_file_location("curves", ROOT/"data"/"make_adversary_curves.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert list(CURVES["runs"]) == list(script.RUNS) and CURVES["train"] == json.loads(json.dumps(script.TRAIN)) and CURVES["weights"] == script.WEIGHTS
    for name, run in CURVES["runs"].items():
        disc, game, seed = script.RUNS[name]
        assert (run["discriminator"], run["adversarial"], run["seed"]) == (json.loads(json.dumps(disc)), game, seed)
        assert [r["step"] for r in run["log"]] == list(range(5, 301, 5)) and ("d_loss" in run["log"][-1]) == (game is not None)
        if name in ("healthy", "blind", "overpowering"): assert discriminator_health(run["log"]) == name
    heard = 300*CURVES["runs"]["overpowering"]["adversarial"]["warmup"]
    in_time = [r for r in CURVES["runs"]["overpowering"]["log"] if r["step"] < heard]
    assert discriminator_health(in_time) == "overpowering" and "g_loss" not in in_time[-1]


def test_a_log_of_a_run(tmp_path):
    "From the file that a user has."
    from litevae_diffae import LiteVAE
    from litevae_diffae.litevae.adversarial import AdversarialConfig, train_adversarial
    from litevae_diffae.litevae.discriminator import DiscriminatorConfig
    from litevae_diffae.optim import TrainConfig
    torch.manual_seed(0)
    images = torch.rand(20, 3, 32, 32)*2 - 1
    small = LiteVAE.from_preset("litevae-tiny", decoder_channels=8, aggregator_channels=8)
    train_adversarial(small, images, tmp_path, TrainConfig(steps=12, batch_size=2, log_every=1), AdversarialConfig(start=.25, warmup=.25, ramp=.25, lr=1e-6),
                      DiscriminatorConfig("unet", channels=4, mult=(1, 2)), size=32, device="cpu", progress=False, stats_images=4)
    rows = read_log(tmp_path/"log.jsonl")
    assert len([r for r in rows if "d_loss" in r]) == 9 and discriminator_health(rows) in ("blind", "healthy")
