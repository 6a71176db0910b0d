"""What makes a run the paper's: defaults, splits, seeds and detaches, each against a truth from outside.

tools/mutate.py holds the changes of the package that these tests must notice, and tries them one by one."""
import hashlib
import inspect
import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from litevae_diffae import data, distances, metrics, optim, perceptual
from litevae_diffae.avatars import load_avatars
from litevae_diffae.crops import Crops, Order, batches, one_pass
from litevae_diffae.data import hold_out
from litevae_diffae.sources import Source
from litevae_diffae.diffae import latent, manipulate
from litevae_diffae.diffae.classcond import accept_codes, class_logits, fit_class, label_rows
from litevae_diffae.diffae.code_cache import cache_codes
from litevae_diffae.diffae.codes import Codes, code_batches
from litevae_diffae.diffae.latent import LatentDDIM
from litevae_diffae.diffae.model import DiffAE, diffae_presets, slerp
from litevae_diffae.diffae.official import build_classifier, split_parts
from litevae_diffae.diffae.prior import LatentTask, prior_decay, prior_recipe, published_priors, train_prior
from litevae_diffae.diffae.scores import load_faces
from litevae_diffae.diffae.train import diffae_recipe, swap_probe, train_diffae
from litevae_diffae.diffusion import model as diffusion
from litevae_diffae.diffusion.ddim import ddim_decode, ddim_step
from litevae_diffae.diffusion.inversion import invert_official
from litevae_diffae.diffusion.model import DDIM, DDIMConfig, ddim_presets
from litevae_diffae.diffusion.schedule import Schedule, const_betas, ddim_timesteps, linear_betas
from litevae_diffae.diffusion.weights import loss_weights
from litevae_diffae.experiments import autoencoding, classcond, faces, measures, places, records, runs, samples
from litevae_diffae.experiments.records import find_experiments, row_key
from litevae_diffae.litevae import adaptive, adversarial, analysis, detail_losses, losses
from litevae_diffae.litevae.cutmix import cutmix_mask
from litevae_diffae.litevae.autoencoder import AutoencoderConfig, DiagonalGaussian, affine_stats
from litevae_diffae.litevae.discriminator import UNetDiscriminator, d_loss, g_loss, unet_mult
from litevae_diffae.litevae.distill import DistillTask, make_student
from litevae_diffae.litevae.encoder import scaled_bands
from litevae_diffae.litevae.latents import compute_latent_stats
from litevae_diffae.litevae.losses import LossWeights, loss_terms, reconstruction_loss
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.litevae.recipes import (CHOICES, PAPER_SIDE, PAPER_STEPS, SCHEDULES, AdversarialConfig, Recipe, phases_of, recipe,
                                            schedule_phases)
from litevae_diffae.litevae.smc import SMC, smc_weight
from litevae_diffae.litevae.train import (EncodeDecode, LiteVAETask, middle_squares,
                                          model_to_train, train_litevae, train_schedule)
from litevae_diffae.optim import EMA, TrainConfig, lr_factor
from litevae_diffae.photos import load_photos
from litevae_diffae.processes import at_most, change_batch, divide_batch
from litevae_diffae.train import Task, Trainer

ALL = find_experiments()
PIXELS = LossWeights(lpips=0., wavelet=0., gaussian=0., kl=1e-6) # without the slow network


def defaults(function): return {k: p.default for k, p in inspect.signature(function).parameters.items() if p.default is not p.empty}


def images(n, size, seed=0):
    "Noise in [-1, 1]; no image is like its mirror image or another."
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))*2 - 1


def as_bytes(x): return [image.permute(1, 2, 0).numpy() for image in (x*127.5 + 127.5).round().to(torch.uint8)]


# The terms of LiteVAE's loss: closed forms

def gaussians(n, mean=1., logvar=0., shape=(4, 2, 2)):
    return DiagonalGaussian(torch.cat([torch.full((n, *shape), v) for v in (mean, logvar)], 1))


def test_kl_is_summed_over_the_latent_and_averaged_over_the_batch():
    "KL(N(1, 1) | N(0, 1)) is half a nat; latent diffusion sums over C, h, w, then takes the mean of the batch."
    for n in (1, 3, 5): assert losses.kl_loss(gaussians(n)).item() == pytest.approx(.5*16)
    assert gaussians(2, 0., math.log(4)).kl().tolist() == pytest.approx([16*.5*(4 - 1 - math.log(4))]*2)


def test_kl_counts_the_values_of_the_encoded_image():
    x = torch.zeros(3, 3, 16, 16)
    only_kl = LossWeights(l1=0., lpips=0., wavelet=0., gaussian=0., kl=1.)
    assert loss_terms(x, x, gaussians(3), only_kl)["kl"].item() == pytest.approx(8/768)
    assert loss_terms(x, x, gaussians(3), only_kl, area=.25)["kl"].item() == pytest.approx(2/768)


def test_a_posterior_is_clamped_as_latent_diffusion_does():
    p = DiagonalGaussian(torch.tensor([0., 0., 99., -99.]).view(1, 4, 1, 1)) # two means, two log-variances
    assert p.logvar.flatten().tolist() == [20, -30] and p.std.flatten().tolist() == pytest.approx([math.exp(10), math.exp(-15)])


def test_charbonnier_is_a_triangle_of_three_four_five():
    assert losses.charbonnier(torch.tensor(4e-3), 3e-3).item() == pytest.approx(2e-3)
    flat = torch.zeros(1, 3, 8, 8)
    rounded = (math.sqrt(2) - 1)*1e-3                   # an error as large as the usual eps, 1e-3
    assert losses.charbonnier(torch.tensor(1e-3)).item() == pytest.approx(rounded)
    assert losses.charbonnier_loss(flat + 1e-3, flat).item() == pytest.approx(rounded, rel=1e-4)


def test_wavelet_loss_sees_detail_bands_alone():
    "A checkerboard of height c has hh = 2c and nothing else; level 1 is divided by 2, and there are three bands."
    flat, c = torch.zeros(1, 3, 8, 8), 1e-3
    assert losses.wavelet_loss(flat + .7, flat).item() == 0
    board = c*torch.tensor([[1., -1], [-1, 1]]).repeat(4, 4).expand(1, 3, 8, 8)
    assert losses.wavelet_loss(board, flat).item() == pytest.approx((math.sqrt(2) - 1)*c/3, rel=1e-4)


def test_the_blur_of_the_gaussian_loss_has_five_taps_and_sigma_one():
    "What is left of a single bright pixel: 1 - g there, g everywhere else, g the weight of the middle."
    middle = 1/(1 + 2*math.exp(-.5) + 2*math.exp(-2))
    x = torch.zeros(1, 1, 16, 16)
    x[..., 8, 8] = 1
    expected = 2*(1 - middle**2)
    assert losses.high_pass(x).abs().sum().item() == pytest.approx(expected, rel=1e-5)
    assert losses.gaussian_loss(x, torch.zeros_like(x)).item() == pytest.approx(expected/256, rel=1e-5)
    assert losses.gaussian_loss(torch.full_like(x, .3), torch.zeros_like(x)).item() < 1e-7 # the border too


def test_ldl_is_the_published_weight():
    "Variance in a window of 7, times the variance of the image to the power 1/5 (Liang et al. 2022)."
    assert defaults(detail_losses.ldl_loss)["window"] == defaults(detail_losses.ldl_weights)["window"] == 7
    error = images(1, 15).abs().mean(1, keepdim=True)
    inside = error[0, 0, 4:11, 4:11]
    assert detail_losses.ldl_weights(error)[0, 0, 7, 7].item() == pytest.approx((inside.var()*error.var()**.2).item(), rel=1e-4)


def test_a_weight_multiplies_its_term():
    x, y = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), .5)
    loss, terms = reconstruction_loss(x, y, gaussians(1), replace(PIXELS, l1=3., kl=2.))
    assert terms["l1"].item() == .5 and loss.item() == pytest.approx(3*.5 + 2*8/192)


def test_lpips_is_told_that_images_are_in_minus_one_to_one():
    "The package `lpips` has `normalize=True` for [0, 1]."
    x, y = images(2, 64), images(2, 64, 1)
    net = perceptual.lpips_net("alex")
    with torch.no_grad(): known, wrong = (net(x, y, normalize=n).flatten() for n in (False, True))
    assert torch.allclose(perceptual.lpips(x, y), known, atol=1e-5) and not torch.allclose(known, wrong, atol=1e-3)
    assert losses.lpips_loss(x, y).item() == pytest.approx(known.mean().item(), abs=1e-5)


# Two players

def test_losses_of_the_game_where_the_logit_is_zero():
    "Hinge: 1 and 0; logistic: log 2 for both. The logistic generator is pushed half as hard: -1/2 against -1 (see the page of Table 16)."
    zero, push = torch.zeros(2, 1, 4, 4), {}
    for kind, d, g in (("hinge", 1., 0.), ("logistic", math.log(2), math.log(2))):
        assert d_loss(zero, zero, kind).item() == pytest.approx(d) and g_loss(zero, kind).item() == pytest.approx(g)
        logit = torch.zeros((), requires_grad=True)
        push[kind], = torch.autograd.grad(g_loss(logit, kind), logit)
    assert push == {"hinge": -1., "logistic": -.5}
    assert d_loss(zero + 2, zero - 2).item() == 0 # beyond the margin, nothing is left to learn


def test_each_player_is_moved_by_its_own_loss():
    disc, x = UNetDiscriminator(channels=4, mult=(1, 2)), images(2, 16)
    x_rec = images(2, 16, 1).requires_grad_()
    adversarial.generator_loss(disc, x_rec).backward()
    assert x_rec.grad.abs().sum() > 0 and all(p.grad is None for p in disc.parameters())
    x_rec.grad = None
    adversarial.discriminator_loss(disc, x, x_rec, cutmix=1.)[0].backward()
    assert x_rec.grad is None and all(p.grad is not None for p in disc.parameters())


@pytest.mark.parametrize("mult", [(1, 2), (1, 2, 4)])
def test_every_halving_has_its_skip(mult):
    "Schönfeld et al. 2020: each block that doubles the size sees the map of the same size on the way down."
    disc, seen = UNetDiscriminator(channels=4, mult=mult), {}
    for way in ("down", "up"):
        for i, block in enumerate(getattr(disc, way)):
            def hook(module, inputs, output, key=(way, i)): seen[key] = inputs[0], output
            block.register_forward_hook(hook)
    disc(images(1, 16))
    n = len(mult)
    assert torch.equal(seen["up", 0][0], seen["down", n - 1][1])
    for i in range(1, n):
        below, skip = seen["up", i - 1][1], seen["down", n - 1 - i][1]
        assert torch.equal(seen["up", i][0], torch.cat([below, skip], 1)) and skip.abs().sum() > 0


def test_published_widths_of_the_unet():
    assert unet_mult(256) == (1, 2, 4, 8, 8, 16) and unet_mult(128) == (1, 2, 4, 8, 16)


def test_the_game_as_it_is_played_by_default():
    "Constant weight, hinge, Adam (0.5, 0.9): appendix F. The start is where Figure 7 begins, 40,000 of 200,000 steps; the weight is for mean-reduced l1."
    assert asdict(AdversarialConfig()) == dict(loss="hinge", weight=.1, start=.2, warmup=.05, ramp=.1, adaptive=False,
                                               cutmix=0., lr=None, betas=(.5, .9), norms_every=50)


def test_the_weight_of_the_game_rises_after_the_warm_up():
    game = AdversarialConfig(weight=2., start=.2, warmup=.1, ramp=.4)
    at = (0., .2, .29, .3, .5, .7, 1.)
    assert [adversarial.adversarial_weight(p, game) for p in at] == pytest.approx([0, 0, 0, 0, 1, 2, 2])


def test_the_discriminator_has_its_own_adam():
    disc, config = UNetDiscriminator(channels=4, mult=(1, 2)), TrainConfig(lr=3e-3, betas=(.8, .95))
    for lr, found in ((None, 3e-3), (7e-5, 7e-5)):
        task = adversarial.AdversarialTask(LiteVAE.from_preset("litevae-tiny"), disc, AdversarialConfig(lr=lr))
        model, other = (task.optimizers(config)[k].param_groups[0] for k in ("model", "disc"))
        assert (model["lr"], tuple(model["betas"])) == (3e-3, (.8, .95))
        assert (other["lr"], tuple(other["betas"])) == (found, (.5, .9))


def test_the_adaptive_weight_has_latent_diffusions_guard_and_limit():
    one, none = torch.tensor(1.), torch.tensor(0.)
    assert adaptive.norm_ratio(one, one).item() == pytest.approx(1/1.0001, abs=1e-7)
    assert adaptive.norm_ratio(2*one, none).item() == 1e4 # not 2e4
    layer = torch.ones(1, requires_grad=True)
    assert adaptive.adaptive_weight((6*layer).sum(), (3*layer).sum(), layer).item() == pytest.approx(6/3.0001)


# The settings of a run

def test_loss_weights():
    "LPIPS and KL as latent diffusion has them, wavelet and Gaussian as open-litevae; LiteVAE prints none."
    assert asdict(LossWeights()) == dict(l1=1., charbonnier=0., lpips=1., wavelet=1., gaussian=.5, kl=1e-6, feature=0., ldl=0.)


def test_settings_of_every_run():
    c = TrainConfig()
    assert c.betas == defaults(torch.optim.Adam)["betas"] and c.lr == 1e-4 and c.n_steps(16) == 10_000
    assert (c.batch_size, c.grad_accum, c.warmup, c.schedule, c.clip, c.ema, c.seed) == (16, 1, 0, "constant", 1., .999, 0)


@pytest.mark.parametrize("name", ["litevae-s", "litevae-b", "litevae-m", "litevae-l", "sd-vae-f8"])
def test_recipe_of_the_published_sizes(name):
    "Appendix F: Adam (0.5, 0.9), 1e-4, 16 images on each of two GPUs, 100,000 steps at 256 pixels, nothing rises or falls."
    r = recipe(name)
    c = r.config
    assert (c.n_steps(32), c.batch_size, c.batch_size*c.grad_accum, c.lr, c.betas, r.size) == (100_000, 16, 2*16, 1e-4, (.5, .9), 256)
    assert (c.warmup, c.schedule) == (0, "constant") and r.weights == LossWeights()
    assert {k: v for k, v in defaults(Recipe).items() if k in ("size", "scale", "lpips_net")} == dict(size=256, scale=(.5, 1.), lpips_net="alex")


# field of the recipe -> what it is, by appendix F, by latent diffusion (its autoencoder_kl_32x32x4), or by a fraction
REFERENCE = {
    "config.lr": 1e-4, "config.betas": (.5, .9), "config.batch_size": 16, "config.grad_accum": 32//16, "config.steps": 10**5,
    "config.schedule": "constant", "config.warmup": 0, "config.precision": "auto", "config.clip": 1.,
    "config.ema": 1 - 1/1000,                               # the average of the last thousand steps
    "size": 256, "scale": (1/2, 1.), "lpips_net": "alex",   # the side of a crop: between half of the short side and all of it
    "weights.l1": 1., "weights.lpips": 1., "weights.kl": 1e-6, "weights.wavelet": 1., "weights.gaussian": 1/2,
    "game.loss": "hinge", "game.weight": 1/10, "game.adaptive": False,
    "game.start": 40_000/200_000, "game.warmup": 1/20, "game.ramp": 1/10, # Figure 7 begins at 40,000 of 200,000
    "game.lr": None, "game.betas": (.5, .9), "game.cutmix": 0.}


def test_the_table_has_every_line_once():
    assert sorted(c.field for c in CHOICES) == sorted(REFERENCE)


@pytest.mark.parametrize("field", REFERENCE)
def test_every_line_of_the_recipe(field):
    "In the table, and in the recipe that training takes."
    choice, = (c for c in CHOICES if c.field == field)
    found = recipe("litevae-b")
    for name in field.split("."): found = getattr(found, name)
    for value in (choice.ours, found): assert value == pytest.approx(REFERENCE[field]) and type(value) is type(REFERENCE[field])


# column -> field -> what it must say
PRINTED = {
    "paper": {"config.lr": "Adam, 1e-4", "config.betas": "0.5, 0.9", "config.batch_size": "16 on two GPUs", "config.precision": "mixed; wavelets in float32",
              "config.steps": "200,000 for ImageNet at 128 px; 100,000 for 256 px and FFHQ; 150,000 in the study of resolutions", "game.loss": "hinge",
              "game.adaptive": "dropped", "game.start": "not said; the axis of Figure 7 begins at 40,000 of 200,000", "game.betas": "0.5, 0.9"},
    "ldm": {"config.lr": "Adam, 4.5e-6 x images a step", "config.betas": "0.5, 0.9", "config.batch_size": "12 on each GPU", "config.grad_accum": "2",
            "weights.l1": "1", "weights.lpips": "1", "weights.kl": "1e-6", "lpips_net": "VGG-16", "game.loss": "hinge", "game.weight": "adaptive x 0.5",
            "game.start": "step 50,001", "game.warmup": "0 steps", "game.ramp": "0 steps"}}


@pytest.mark.parametrize("column", PRINTED)
def test_the_table_says_what_was_printed(column):
    lines = {c.field: getattr(c, column) for c in CHOICES}
    assert {k: lines[k] for k in PRINTED[column]} == PRINTED[column]
    if column == "paper": # of weights, the average and the way of the rate nothing is printed
        assert all("not said" in lines[k] for k in lines if k.startswith("weights.") or k in ("config.clip", "config.ema", "config.schedule", "game.weight"))


def test_the_weight_of_kl_is_latent_diffusions():
    "There sums over latent and pixels, 1 and 1e-6; here means over pixels: the same ratio."
    r, x, y = recipe("litevae-b"), torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), .5)
    p = gaussians(2)
    terms = loss_terms(x, y, p, replace(r.weights, lpips=0., wavelet=0., gaussian=0.))
    ours = r.weights.kl*terms["kl"]/(r.weights.l1*terms["l1"])
    assert ours.item() == pytest.approx(1e-6*p.kl().sum().item()/(x - y).abs().sum().item())


# Batches and phases

@pytest.mark.parametrize("n, expected", [(1, (16, 2)), (2, (16, 1)), (4, (8, 1)), (32, (1, 1))])
def test_a_step_stays_the_published_step_on_any_number_of_gpus(n, expected, monkeypatch):
    "32 images in all: 16 on each of two."
    published = TrainConfig(batch_size=16, grad_accum=2)
    c = divide_batch(published, n)
    assert (c.batch_size, c.grad_accum) == expected and c.batch_size*c.grad_accum*n == 32
    monkeypatch.setenv("WORLD_SIZE", str(n))
    assert divide_batch(published) == c
    given, stop = [], KeyboardInterrupt()
    def fit(self, *args):
        given.append(self.config)
        raise stop
    monkeypatch.setattr(Trainer, "fit", fit)
    x = as_bytes(images(4, 40))
    for train in (lambda: train_litevae("litevae-s", x, size=32), lambda: train_schedule("litevae-s", [dict(size=32, steps=1)], x)):
        with pytest.raises(KeyboardInterrupt): train()
    row = next(r.config for r in ALL["t1"].rows("paper"))
    for g in (*given, trained_with(row, monkeypatch)): assert (g.batch_size, g.grad_accum) == expected


def test_a_batch_that_cannot_be_divided():
    with pytest.raises(ValueError, match="processes: 32 images a step can't be divided among 3"): divide_batch(TrainConfig(batch_size=16, grad_accum=2), 3)


def test_micro_batches_are_as_large_as_they_may_be():
    "Divisors of 32 that are at most 3, 4, 16; afterwards as before."
    c = TrainConfig(batch_size=16, grad_accum=2)
    for most, expected in ((3, (2, 16)), (4, (4, 8)), (99, (16, 2)), (None, (16, 2))):
        with at_most(most): assert (lambda d: (d.batch_size, d.grad_accum))(divide_batch(c, 1)) == expected
        assert divide_batch(c, 1) == c


def test_another_batch_sees_as_many_images():
    "Four times the images: a quarter of the steps, twice the rate (a root), an average and a warm-up over as many images."
    c = TrainConfig(steps=1000, batch_size=16, grad_accum=2, lr=1e-4, ema=.999, warmup=100)
    more, less = change_batch(c, 128), change_batch(c, 8)
    assert (more.batch_size, more.grad_accum, more.steps, more.warmup) == (16, 8, 250, 25)
    assert more.lr == pytest.approx(2e-4) and more.ema == pytest.approx(.999**4)
    assert (less.batch_size, less.grad_accum, less.steps, less.warmup) == (8, 1, 4000, 400)
    assert less.lr == pytest.approx(5e-5) and less.ema**4 == pytest.approx(.999)
    assert change_batch(c, 32) == c and change_batch(replace(c, steps=None, images=10**6), 64).images == 10**6
    assert (change_batch(c, 24).batch_size, change_batch(c, 24).grad_accum) == (12, 2)


def test_phases_share_the_steps():
    assert phases_of({2: 2, 1: 1}, 256, 150_000) == [dict(size=128, steps=100_000), dict(size=256, steps=50_000)]
    assert phases_of({4: 1, 2: 2, 1: 3}, 64, 600) == [dict(size=16, steps=100), dict(size=32, steps=200), dict(size=64, steps=300)]


def test_the_study_of_resolutions():
    "256 pixels, 150,000 steps; two thirds of them at the smaller size."
    assert (PAPER_SIDE, PAPER_STEPS) == (256, 150_000) and list(SCHEDULES) == ["full", "half", "quarter"]
    for name, small in (("half", 128), ("quarter", 64)):
        assert schedule_phases(name) == [dict(size=small, steps=100_000), dict(size=256, steps=50_000)]
    assert schedule_phases("full") == [dict(size=256, steps=150_000)] and schedule_phases("paper") == schedule_phases("half")


SEEN = {"diffae-ffhq64": 562_500, "diffae-celeba64": 562_500, "diffae-ffhq128": 1_015_625, "diffae-horse128": 1_015_625,
        "diffae-bedroom128": 937_500, "diffae-ffhq256": 3_125_000, "ddim-64": 562_500, "ddim-128": 1_015_625} # steps of the official settings


@pytest.mark.parametrize("name", SEEN)
def test_recipe_of_diffae(name):
    "The official code: batch 128 (256 pixels: 64), 1e-4, no warm-up, no decay, EMA 0.9999, clip 1, dropout 0.1."
    c = diffae_recipe(name)
    assert c.batch_size == (64 if name.endswith("256") else 128) and c.n_steps(c.batch_size) == SEEN[name]
    assert (c.lr, c.betas, c.warmup, c.schedule, c.ema, c.clip, c.grad_accum) == (1e-4, (.9, .999), 0, "constant", .9999, 1., 1)
    model = {**diffae_presets, **ddim_presets}[name]
    assert (model.dropout, model.prediction_type, model.loss_weight, model.attention_resolutions) == (.1, "eps", "none", (16,))


def test_recipe_of_the_latent_ddim():
    "394,531 steps of 256 codes, 977,050 of 2,048, 587,890 of 512, as the official code counts; the last, broken one is made here."
    ffhq, lsun = (256, 394_531, .01, 10), (2048, 977_050, 0., 20)
    known = {"latent-10": ffhq, "latent-ffhq128": ffhq, "latent-ffhq256": ffhq, "latent-20": lsun, "latent-horse128": lsun, "latent-bedroom128": lsun,
             "latent-celeba64": (512, 587_890, .01, 10)}
    assert set(known) == set(published_priors)
    for name, (batch, steps, decay, layers) in known.items():
        c = prior_recipe(name)
        assert prior_decay(name) == decay and LatentDDIM.presets[name].n_layers == layers
        assert c.batch_size == batch and c.n_steps(batch) in (steps, steps + 1)
        assert (c.lr, c.betas, c.warmup, c.schedule, c.ema, c.clip) == (1e-4, (.9, .999), 0, "constant", .9999, 1.)
    assert defaults(train_prior)["loss"] == defaults(LatentDDIM.loss)["kind"] == "l1" and defaults(LatentTask)["weight_decay"] == prior_decay("another") == .01
    assert latent.gap_size(torch.tensor([[3., -1.]])).item() == 2


def test_recipe_of_the_classifiers():
    "The official one: 300,000 codes, 32 at a time, Adam 1e-3: 9,375 steps. Few-shot lists are repeated to 100,000."
    known = defaults(manipulate.fit_classifier)
    assert (known["n_samples"], known["batch_size"], known["lr"]) == (300_000, 32, 1e-3)
    few = defaults(fit_class)
    assert (few["n_samples"], few["batch_size"], few["lr"]) == (100_000, 32, 1e-3)


def test_learning_rate_over_a_run():
    assert [lr_factor(i, 100, warmup=4) for i in (0, 1, 3, 4, 99)] == pytest.approx([.25, .5, 1, 1, 1])
    assert [lr_factor(i, 100, 0, "cosine") for i in (0, 25, 50, 100)] == pytest.approx([1, (1 + math.cos(math.pi/4))/2, .5, 0], abs=1e-9)
    assert lr_factor(20, 100, 20, "cosine") == pytest.approx(1)


class Slide(Task):
    "One weight vector under plain gradient descent: a step is the gradient."
    def __init__(self, gradient):
        self.nets, self.gradient = dict(model=torch.nn.Linear(4, 1, bias=False)), gradient
        torch.nn.init.zeros_(self.nets["model"].weight)

    def optimizers(self, config): return dict(model=torch.optim.SGD(self.nets["model"].parameters(), config.lr))

    def train_step(self, batch, step):
        loss = (self.run.nets["model"](self.gradient)).sum()
        self.run.backward(loss)
        self.run.update("model")
        return {"loss": loss}


def slide(gradient, calls=None, **settings):
    def data(**given):
        if calls is not None: calls.append(given)
        while True: yield torch.zeros(1, 1)
    config = TrainConfig(**{**dict(steps=1, batch_size=1, lr=1., precision="fp32", ema=0.), **settings})
    return Trainer(Slide(gradient), data, config, device="cpu", progress=False).fit()


@pytest.mark.parametrize("clip, length", [(1., 1.), (.25, .25), (None, 10.)])
def test_a_step_is_no_longer_than_the_clip(clip, length):
    weight = slide(torch.full((1, 4), 5.), clip=clip).task.nets["model"].weight
    assert weight.norm().item() == pytest.approx(length, rel=1e-5)
    assert defaults(TrainConfig)["clip"] == 1.


def test_steps_follow_the_schedule():
    "Warm-up of two steps: a half, then a whole one; the cosine over two: a whole one, then a half."
    for settings, length in ((dict(warmup=2), 1.5), (dict(schedule="cosine"), 1.5), ({}, 2.)):
        assert slide(torch.eye(4)[:1], steps=2, **settings).task.nets["model"].weight.norm().item() == pytest.approx(length)


def test_the_data_are_told_the_seed():
    calls = []
    slide(torch.ones(1, 4), calls, seed=11)
    assert calls[0]["seed"] == 11 and calls[0]["start"] == 0
    numbers = []
    for seed in (0, 1, 0):
        slide(torch.ones(1, 4), seed=seed)
        numbers.append(torch.rand(1).item())
    assert numbers[0] == numbers[2] != numbers[1]       # dropout and noise too


def test_the_average_begins_near_the_weights():
    "Decay min(d, (1 + n)/(10 + n)): 2/11, 3/12, ... of the old; a constant weight is reached exactly."
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    ema = EMA(net)
    torch.nn.init.ones_(net.weight)
    ema.update(net)
    assert ema.module.weight.item() == pytest.approx(9/11)
    ema.update(net)
    assert ema.module.weight.item() == pytest.approx(1 - 2/11*3/12)
    assert optim.ema_decay(10**9, .999) == defaults(EMA)["decay"] == .999


def combined(runs):
    "The average after two steps, of the weights before the first, after it, and after the second."
    w0, w1, w2 = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in runs)
    assert (w1 - w0).abs().max() > 1e-5 and (w2 - w1).abs().max() > 1e-5
    return 3/12*(2/11*w0 + 9/11*w1) + 9/12*w2


def flat(net): return torch.cat([p.detach().flatten() for p in net.parameters()])


STEPS = dict(batch_size=2, precision="fp32", progress=False, device="cpu", warmup=0, schedule="constant")


def test_a_litevae_comes_back_averaged():
    def train(steps, ema):
        return train_litevae("litevae-tiny", as_bytes(images(4, 40)), weights=PIXELS, size=32, steps=steps, ema=ema, lr=1e-3, stats_images=2, **STEPS)
    plain = [model_to_train("litevae-tiny"), train(1, 0.), train(2, 0.)]
    assert torch.allclose(flat(train(2, .999)), combined(plain), atol=1e-6)


def test_a_diffae_comes_back_averaged():
    def model():
        torch.manual_seed(0)
        return DDIM.from_preset("ddim-tiny", model_channels=32, channel_mult=(1,), attention_resolutions=())
    def train(steps, ema):
        return train_diffae(model(), as_bytes(images(4, 32)), steps=steps, ema=ema, lr=1e-3, **STEPS)
    assert torch.allclose(flat(train(2, .999)), combined([model(), train(1, 0.), train(2, 0.)]), atol=1e-6)


def codes_of(n=64, D=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Codes.of(torch.randn(n, D, generator=g)*torch.arange(1., D + 1) + 5)


def small_prior():
    torch.manual_seed(0)
    return LatentDDIM.from_preset("latent-tiny", z_dim=8, hidden=16, n_layers=3)


def test_a_prior_comes_back_averaged_and_knows_its_training_codes():
    codes = codes_of()
    def train(steps, ema): return train_prior(None, codes, prior=small_prior(), steps=steps, ema=ema, lr=1e-3, **STEPS)
    prior = train(2, .999)
    assert torch.allclose(flat(prior), combined([small_prior(), train(1, 0.), train(2, 0.)]), atol=1e-6)
    assert torch.allclose(prior.z_sem_mean, codes.z_sem.mean(0), atol=1e-5) and torch.allclose(prior.z_sem_std, codes.z_sem.std(0), atol=1e-5)


def test_a_prior_is_trained_on_normalised_codes(monkeypatch):
    "Mean 0 and (unbiased) standard deviation 1 in every dimension, over an epoch."
    seen, known = [], LatentDDIM.loss
    def loss(self, z_0, *args, **kwargs):
        seen.append(z_0)
        return known(self, z_0, *args, **kwargs)
    monkeypatch.setattr(LatentDDIM, "loss", loss)
    train_prior(None, codes_of(), prior=small_prior(), steps=4, **{**STEPS, "batch_size": 16})
    z = torch.cat(seen)
    assert len(z) == 64 and z.mean(0).abs().max() < 1e-5 and torch.allclose(z.std(0), torch.ones(8), atol=1e-4)


def test_some_of_the_codes_keep_the_statistics_of_all():
    codes = codes_of()
    assert torch.equal(codes[:5].mean, codes.mean) and torch.equal(codes[:5].std, codes.std)


def test_the_seed_of_a_run_decides_its_random_weights():
    "A step of length nothing leaves them."
    settings = dict(weights=PIXELS, size=32, steps=1, ema=0., lr=1e-12, stats_images=2, **STEPS)
    trained = train_litevae("litevae-tiny", as_bytes(images(4, 40)), seed=3, **settings)
    new = {seed: flat(model_to_train("litevae-tiny", seed)) for seed in (0, 3)}
    assert torch.allclose(flat(trained), new[3], atol=1e-8) and not torch.allclose(new[0], new[3], atol=1e-3)
    def prior(seed): return train_prior(None, codes_of(64, 64), prior="latent-tiny", seed=seed, steps=1, ema=0., lr=1e-12, weight_decay=0., **STEPS)
    unconditional = train_diffae("ddim-tiny", as_bytes(images(4, 32)), seed=3, steps=1, ema=0., lr=1e-12, **STEPS)
    for found, make in ((prior(3), lambda: LatentDDIM.from_preset("latent-tiny")), (unconditional, lambda: DDIM.from_preset("ddim-tiny"))):
        torch.manual_seed(3)
        assert torch.allclose(flat(found), flat(make()), atol=1e-8)


# What a step trains on

def stub_vae():
    "N(0, 1) for every image; the decoder hands its latents on."
    def encode(x): return SimpleNamespace(latent_dist=DiagonalGaussian(torch.zeros(len(x), 2*x.shape[1], *x.shape[2:])))
    return SimpleNamespace(encode=encode, decode=lambda z, size: SimpleNamespace(sample=z))


class Stub(EncodeDecode):
    def __init__(self):
        torch.nn.Module.__init__(self)
        object.__setattr__(self, "vae", stub_vae())
        self.freeze_encoder = False


def test_training_decodes_a_sample_of_the_posterior():
    z, _, _ = Stub()(torch.zeros(4, 3, 64, 64))
    assert abs(z.std().item() - 1) < .02 and abs(z.mean().item()) < .02


def test_using_a_model_decodes_the_mode():
    model, x = LiteVAE.from_preset("litevae-tiny").eval(), images(1, 32)
    with torch.no_grad():
        z = model.encode(x).latent_dist
        assert torch.equal(model(x).sample, model.decode(z.mean).sample) and z.std.min() > 0


def test_a_frozen_encoder_stays():
    model = LiteVAE.from_preset("litevae-tiny")
    task = LiteVAETask(model, freeze_encoder=True)
    assert not any(p.requires_grad for p in model.encoder.parameters()) and all(p.requires_grad for p in model.decoder.parameters())
    assert not task.nets["model"](images(1, 32))[2].mean.requires_grad
    LiteVAETask(model)
    assert all(p.requires_grad for p in model.encoder.parameters())


def test_a_student_learns_with_the_teachers_encoder_and_the_teacher_stays():
    teacher = LiteVAE.from_preset("litevae-tiny")
    student = make_student(teacher, 8)
    task = DistillTask(student, teacher)
    x = images(1, 32)
    assert torch.equal(student.encode(x).latent_dist.mean, teacher.encode(x).latent_dist.mean)
    assert not any(p.requires_grad for net in (teacher, student.encoder) for p in net.parameters())
    assert task.share == .5 and all(p.requires_grad for p in student.decoder.parameters())


def test_latents_are_shifted_then_scaled():
    "(z - shift)*scaling, as diffusers does it; per channel where both are known."
    z = torch.full((1, 4, 2, 2), 3.)
    mean, std = affine_stats(AutoencoderConfig(shift_factor=1., scaling_factor=.5), z)
    assert ((z - mean)/std).unique().tolist() == [1.]
    model = LiteVAE.from_preset("litevae-tiny", z_channels=4, shift_factor=1., scaling_factor=.5)
    assert torch.equal(model.normalize_latents(z), torch.ones_like(z)) and torch.equal(model.denormalize_latents(torch.ones_like(z)), z)


def test_statistics_are_of_the_posterior_means():
    class Two(torch.nn.Module):
        device, config = torch.device("cpu"), AutoencoderConfig()
        def encode(self, x): return SimpleNamespace(latent_dist=DiagonalGaussian(torch.cat([x[:, :2], torch.zeros_like(x[:, :2])], 1)))
    x = images(8, 16)
    model = Two()
    found = compute_latent_stats(model, x)
    per_channel = x[:, :2].double().transpose(0, 1).flatten(1)
    assert found.latents_mean == pytest.approx(per_channel.mean(1).tolist()) and found.latents_std == pytest.approx(per_channel.std(1, correction=0).tolist())
    assert found.shift_factor == pytest.approx(per_channel.mean().item()) and found.scaling_factor == pytest.approx(1/per_channel.std(correction=0).item())
    assert model.config.shift_factor == found.shift_factor


def test_bands_are_divided_by_two_to_the_level():
    "LL of level l is then the mean of its block of 2^l pixels."
    x = images(1, 16)
    for level, bands in enumerate(scaled_bands(x), 1):
        assert torch.allclose(bands[:, :3], F.avg_pool2d(x, 2**level), atol=1e-6)
    top, bottom = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    bottom[..., 4:, :] = -1                              # a horizontal edge in the middle
    edge = torch.cat([top[..., :4, :], -top[..., 4:, :]], -2)
    assert scaled_bands(edge)[2][0, :, 0, 0].abs().tolist() == pytest.approx([0, 1, 0, 0], abs=1e-6)


def test_smc_has_the_guard_of_stylegan3():
    "1e-8 inside of the root, behind normalised weights and scales: sqrt(4e-8/(4e-8 + 1e-8))."
    weight, scale = torch.tensor([[1., 0.]])[:, :, None, None], torch.tensor([1e-4, 1.])
    assert smc_weight(weight, scale, torch.ones(1)).flatten().tolist() == pytest.approx([math.sqrt(.8), 0], rel=1e-3)
    layer = SMC(4, 6)
    assert layer.scale.tolist() == [1.]*4 and layer.gain.tolist() == [1.]
    assert torch.allclose(layer.modulated().flatten(1).norm(dim=1), torch.ones(6), atol=1e-6)


def test_1x1_convolutions_around_the_latents():
    "8 -> 8 behind the encoder and 4 -> 4 before the decoder, with bias: 92 numbers (Table 17)."
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in LiteVAE.from_preset("litevae-b", quant_conv=q).parameters()) for q in (False, True)]
    assert sizes[1] - sizes[0] == 8*8 + 8 + 4*4 + 4


# Splits, crops, seeds

def test_a_collection_is_split():
    "Eight images held out, at most a tenth; none is trained on, none is lost."
    for n, held in ((200, 8), (40, 4), (10, 1)):
        data = [np.full((8, 8, 3), i, np.uint8) for i in range(n)]
        found = [[int(s.read(i)[0][0, 0, 0]) for i in range(len(s))] for s in hold_out(data)]
        assert len(found[1]) == held and sorted(found[0] + found[1]) == list(range(n))
    assert hold_out([np.zeros((8, 8, 3), np.uint8)]*9)[1] is None


@pytest.mark.parametrize("name", ["photos", "avatars"])
def test_the_packages_own_sets_are_split(name):
    source, test = hold_out(name)
    def contents(s): return {np.ascontiguousarray(s.read(i)[0]).tobytes() for i in range(len(s))}
    kept = {np.ascontiguousarray(image).tobytes() for image in (load_photos("test") if name == "photos" else load_avatars("test").images)}
    assert contents(test) == kept and not kept & contents(source)


def find(crop, image):
    "Where a crop lies in an image, pixel by pixel."
    h, w = crop.shape[:2]
    first = np.argwhere((image[:image.shape[0] - h + 1, :image.shape[1] - w + 1] == crop[0, 0]).all(-1))
    return [(i, j) for i, j in first if np.array_equal(image[i:i + h, j:j + w], crop)]


def test_held_out_crops_are_of_held_out_photographs():
    "Crops of the size of the result are cut out, not resized: they are found where they were, unmirrored."
    photos = load_photos("test")
    crops = as_bytes(measures.held_out_crops("photos", 2*len(photos), 64, (.01, .01)))
    again = as_bytes(measures.held_out_crops("photos", len(photos), 64, (.01, .01)))
    assert all(np.array_equal(a, b) for a, b in zip(again, crops))
    places = [find(crop, photos[i % len(photos)]) for i, crop in enumerate(crops)]
    assert all(len(p) == 1 for p in places)
    assert all(a != b for a, b in zip(places, places[len(photos):])) # another piece of each in the second round


def test_the_crops_of_the_tables_are_these():
    "All of results/ was measured on them: their places in the first photographs, by NumPy's generator of the seed [2026, i]."
    photos, size = load_photos("test"), 64
    crops = as_bytes(measures.held_out_crops("photos", 4, size, (.01, .01)))
    for i, crop in enumerate(crops):
        rng = np.random.default_rng([2026, i])
        rng.uniform()                                   # the side, which is 64 in any case
        top, left = (int(rng.integers(n - size + 1)) for n in photos[i % len(photos)].shape[:2])
        assert np.array_equal(photos[i % len(photos)][top:top + size, left:left + size], crop)


class Told:
    "Takes the place of `open_images` and remembers what was asked for."
    def __init__(self): self.asked = []
    def __call__(self, spec, split="train"):
        self.asked.append((spec, split))
        return SimpleNamespace()


def test_further_scores_are_of_held_out_images(monkeypatch):
    told = Told()
    monkeypatch.setattr(runs, "open_images", told)
    for name in ("size_scores", "whole_image_scores", "symmetry_scores"): monkeypatch.setattr(runs, name, lambda *args: {})
    runs._further_scores(dict(data="photos", measure=dict(sizes=[32], whole=1, symmetry=64)), None, None)
    assert told.asked == [("photos", "test")]*3
    from litevae_diffae.experiments import latents
    monkeypatch.setattr(latents, "open_images", told)
    monkeypatch.setattr(latents, "size_scores", lambda *args: {})
    monkeypatch.setattr(latents, "model_of_row", lambda *args: None)
    latents.run_sizes(dict(of=dict(data="photos", measure={}), measure=dict(sizes=[32])), 0, ".")
    assert told.asked[-1] == ("photos", "test")


def test_faces_of_the_tables_are_held_out(monkeypatch):
    seen = {}
    monkeypatch.setattr(autoencoding, "train_row", lambda *args: DDIM.from_preset("ddim-tiny"))
    monkeypatch.setattr(autoencoding, "evaluate_autoencoding", lambda model, x, n_steps, seed: seen.update(x=x, seed=seed))
    autoencoding.run_autoencoding(dict(dtype="float32", n_images=4, n_steps=[10]), 5, ".")
    size = seen["x"].shape[-1]
    assert seen["seed"] == 5 and torch.equal(seen["x"], load_faces("test", 4, size)[0])
    whole = load_faces("test", 3, 64)[0]
    assert all(np.array_equal(a, b) for a, b in zip(as_bytes(whole), load_avatars("test").images)) # whole, unmirrored


def test_nothing_is_mirrored_in_evaluation():
    x = as_bytes(images(24, 16))
    crops = Crops(x, 16, train=False)
    assert all(np.array_equal(a, b) for batch in one_pass(crops, 8) for a, b in zip(as_bytes(batch.image), x[int(batch.index[0]):]))
    shown = middle_squares(hold_out([image.repeat(8, 0).repeat(8, 1) for image in x])[1], 128)
    assert torch.equal(shown, torch.stack([torch.from_numpy(x[i].repeat(8, 0).repeat(8, 1)).permute(2, 0, 1)/127.5 - 1 for i in (0, 23)]))


def test_half_of_the_training_crops_are_mirrored_and_order_and_crops_follow_the_seed():
    x = as_bytes(images(1, 16))
    def mirrored(seed):
        stream = batches(Crops(x, 16, scale=(1., 1.)), 400, seed)
        return [not np.array_equal(a, x[0]) for a in as_bytes(next(stream).image)]
    found = mirrored(0)
    assert 160 < sum(found) < 240 and mirrored(0) == found != mirrored(1)
    def order(seed, epoch): return [Order(50, seed)[epoch*50 + i] for i in range(50)]
    assert sorted(order(0, 0)) == list(range(50)) and order(0, 0) == order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_sides_of_training_crops_are_between_half_and_all():
    "A ramp says how much of it a crop shows."
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(256, 0).repeat(3, 2)
    stream = batches(Crops([ramp], 16), 200)
    x = next(stream).image[:, 0, 0]*127.5 + 127.5
    sides = (x[:, -1] - x[:, 0]).abs()/15*16             # centres of the first and the last pixel
    assert 124 < sides.min() < 140 and 245 < sides.max() < 257 and abs(sides.mean() - 192) < 8


def test_diffae_trains_on_whole_faces_mirrored_or_not(monkeypatch):
    seen, known = [], DDIM.loss
    def loss(self, x_0, *args, **kwargs):
        seen.append(x_0)
        return known(self, x_0, *args, **kwargs)
    monkeypatch.setattr(DDIM, "loss", loss)
    large = as_bytes(images(1, 96))[0]
    face = np.asarray(Image.fromarray(large).resize((48, 48), Image.Resampling.BILINEAR, reducing_gap=2.))
    model = DDIM.from_preset("ddim-tiny", image_size=48, model_channels=32, channel_mult=(1,), attention_resolutions=())
    train_diffae(model, [large], steps=2, ema=0., lr=1e-4, **{**STEPS, "batch_size": 8})
    found = [np.array_equal(a, face) - np.array_equal(a, face[:, ::-1]) for a in as_bytes(torch.cat(seen))]
    assert set(found) == {1, -1}


def test_images_are_encoded_unmirrored(monkeypatch):
    torch.manual_seed(0)
    model = DiffAE.from_preset("diffae-tiny").eval()
    image = as_bytes(images(1, 32))[0]
    codes = cache_codes(model, [image]*12, progress=False)
    assert codes.z_sem.std(0).max() < 1e-5
    assert torch.allclose(codes.z_sem[0], model.encode(torch.from_numpy(image.copy()).permute(2, 0, 1)[None]/127.5 - 1)[0], atol=1e-4)


def test_a_row_is_trained_as_it_says(monkeypatch):
    "Every key of a row arrives, and the seed."
    told = {}
    def train_schedule(model, phases, data, folder, config, weights, scale, train, carry, **settings):
        told.update(phases=phases, data=data, seed=config.seed, lr=config.lr, weights=weights, scale=scale, train=train, carry=carry, **settings)
    monkeypatch.setattr(runs, "train_schedule", train_schedule)
    monkeypatch.setattr(runs, "_first_model", lambda config, seed, work: told.update(model_seed=seed))
    row = dict(data="photos", scale=[.2, .3], train=dict(lr=5e-5), weights=dict(l1=.7, kl=3e-6), phases=[dict(size=64, steps=9)], lpips_net="vgg",
               equivariance=.25, stats_images=3, adversarial=dict(weight=.3), discriminator=dict(kind="patch"))
    runs.trained_model(row, 4, "work/run")
    assert (told["seed"], told["model_seed"], told["lr"], told["scale"], told["phases"]) == (4, 4, 5e-5, [.2, .3], row["phases"])
    assert told["weights"] == LossWeights(l1=.7, kl=3e-6) and (told["lpips_net"], told["equivariance"], told["stats_images"]) == ("vgg", .25, 3)
    assert told["train"].keywords["adversarial"].weight == .3 and told["train"].keywords["discriminator"].kind == "patch" and not told["freeze_encoder"]
    assert told["carry"] is False # small rows take over the averaged weights alone, as all of results/ was made
    runs.trained_model({k: v for k, v in row.items() if k not in ("adversarial", "discriminator")} | dict(carry=True), 0, "work/run")
    assert told["train"] is train_litevae and told["carry"] is True


# The rows of LiteVAE's tables at the paper's scale

PAPER = [(name, r.name, r.config) for name, e in ALL.items() if not name.startswith("diffae") for r in e.rows("paper")
         if "adversarial" in r.config and all("steps" in p for p in r.config["phases"])]
LONGER = {"t5", "t22", "t19"} # the study of resolutions: 150,000 steps in all


def trained_with(config, monkeypatch):
    "The `TrainConfig` that a row's training is given, wherever it comes from."
    given = []
    monkeypatch.setattr(runs, "train_schedule", lambda *args, **kwargs: given.extend([*args, *kwargs.values()]))
    monkeypatch.setattr(runs, "_first_model", lambda *args: None)
    monkeypatch.setattr(runs, "open_images", lambda *args: None)
    runs.trained_model(config, 0, "work/run")
    return next(a for a in given if isinstance(a, TrainConfig))


@pytest.mark.parametrize("table, row, config", PAPER, ids=[f"{t}: {r}" for t, r, _ in PAPER])
def test_paper_rows_have_the_published_training(table, row, config, monkeypatch):
    "Appendix F: 16 images on each of two GPUs, Adam 1e-4 (0.5, 0.9); ImageNet 128: 200,000 steps, ImageNet 256 and FFHQ: 100,000."
    c, last = trained_with(config, monkeypatch), config["phases"][-1]
    assert (c.lr, tuple(c.betas), c.batch_size*c.grad_accum, c.warmup, c.schedule) == (1e-4, (.5, .9), 2*16, 0, "constant")
    assert (c.clip, c.ema, config["scale"], config["carry"]) == (1., .999, [.5, 1.], True)
    assert {k: config["train"][k] for k in ("clip", "ema")} == dict(clip=1., ema=.999) # a row says all, whatever the defaults of a run become
    short = config["data"][0] in ("ffhq", "deepfashion") or last["size"] == 256
    expected = 150_000 if table in LONGER else 100_000 if short else 200_000
    assert sum(p["steps"] for p in config["phases"]) == expected
    assert config["weights"]["lpips"] == 1. or table == "t14"


def test_half_the_resolution_first_takes_two_thirds_of_the_steps():
    "100,000 steps at 128 pixels, then 50,000 at 256 (Tables 5 and 22)."
    for name in ("t5", "t22"):
        row, = [r.config for r in ALL[name].rows("paper") if r.name == "half, then full"]
        assert [(p["size"], p["steps"]) for p in row["phases"]] == [(128, 100_000), (256, 50_000)]


def test_paper_rows_are_measured_on_other_images():
    for table, row, config in PAPER:
        (train, split), (test, held) = config["data"], runs.held_out_data(config)
        assert train == test and (split, held) == ("train", "test")
        assert config["measure"]["rfid"] is True and config["measure"]["crops"] == "centre"


class Numbers(Source):
    "A data set of `n` images whose pixels say their number."
    def __init__(self, n):
        super().__init__()
        self.n = n
    def __len__(self): return self.n
    def read(self, i, min_side=0): return i, {}


@pytest.mark.parametrize("name, n, held", [("ffhq", 70_000, 10_000), ("deepfashion", 12_000, 5_000)])
def test_the_first_images_are_held_out(name, n, held, monkeypatch, tmp_path):
    "FFHQ's first 10,000 and DeepFashion's first 5,000 are measured on, all others trained on, none on both."
    monkeypatch.setattr(places, "_open", lambda place, root, folder: Numbers(n))
    with places.data_at({name: tmp_path}):
        train, test = (runs.open_images([name, split]) for split in ("train", "test"))
        assert [test.read(i)[0] for i in range(len(test))] == list(range(held))
        assert [train.read(i)[0] for i in range(len(train))] == list(range(held, n))
        assert len(runs.open_images([name, "all"])) == n


def test_imagenet_is_measured_on_its_validation_set(monkeypatch, tmp_path):
    for folder in ("train", "val"): (tmp_path/folder).mkdir()
    monkeypatch.setattr(places, "_open", lambda place, root, folder: folder.name)
    with places.data_at({"imagenet": tmp_path}): assert [runs.open_images(["imagenet", s]) for s in ("train", "test")] == ["train", "val"]


def test_splits_on_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(places, "open_source", lambda spec, split: asked.append((spec, split)))
    for name in ("imagenet", "ffhq"):
        for split in ("train", "test"): places.open_place(name, split)
    places.open_place("celeba-hq")
    assert asked == [("hf:ILSVRC/imagenet-1k", "train"), ("hf:ILSVRC/imagenet-1k", "validation"), ("hf:merkol/ffhq-256", "train[10000:]"),
                     ("hf:merkol/ffhq-256", "train[:10000]"), ("hf:korexyz/celeba-hq-256x256", "train+validation")]


def test_published_numbers_of_images():
    "ILSVRC 2012, FFHQ, CelebA-HQ, CelebA, and the two sets of LSUN as the official code has them."
    found = {name: place.images for name, place in places.PLACES.items()}
    assert found["imagenet"] == dict(train=1_281_167, test=50_000) and found["ffhq"] == dict(all=70_000, train=60_000, test=10_000)
    assert {k: found[k]["all"] for k in ("celeba-hq", "celeba", "lsun-horse", "lsun-bedroom")} == {
        "celeba-hq": 30_000, "celeba": 202_599, "lsun-horse": 2_000_340, "lsun-bedroom": 3_033_042}
    assert (places.PLACES["celeba"].crop, places.PLACES["celeba"].attributes) == ("d2c", "list_attr_celeba.txt")


class Brighter:
    "By the mode 1.3 x and a pattern, which no mirror leaves as it is; a sample is something else."
    device, config = torch.device("cpu"), AutoencoderConfig()
    def __call__(self, x, sample_posterior=False):
        ramp = torch.linspace(-.3, .3, x.shape[-1])
        return SimpleNamespace(sample=1.3*x + ramp + .3*sample_posterior)


def bytes_of(x): return np.rint((x.numpy().clip(-1, 1) + 1)*np.float32(127.5)).astype(np.uint8)


def fake_features(name, device=None):
    "Mean colours of the bytes, and for Inception's part other numbers."
    return lambda x: torch.cat([x.double().mean((2, 3)), x.double().std((2, 3))], 1).float()*(2 if name == "inception" else 1)


def frechet(a, b):
    "By NumPy's covariances and the eigenvalues of their product."
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return ((a.mean(0) - b.mean(0))**2).sum() + np.trace(ca + cb) - 2*np.sqrt(np.linalg.eigvals(ca@cb).real.clip(0)).sum()


def test_centres_of_all_images_are_measured_as_bytes(monkeypatch):
    "Seven images, three at a time: means over seven, of the mode, clamped; the distance of the bytes of both sides."
    x = images(7, 64)*torch.linspace(.2, 1, 7)[:, None, None, None]
    x = torch.cat([x, x.flip(2)], 3)[:, :, :, 32:96]          # the centre of these squares, 64 pixels: they are cut as they are
    source, size = as_bytes(x), 64
    x = torch.stack([torch.from_numpy(a).permute(2, 0, 1)/127.5 - 1 for a in source])
    wide = [np.pad(a, ((0, 0), (20, 20), (0, 0))) for a in source]
    y = Brighter()(x).sample.clamp(-1, 1)
    monkeypatch.setattr(measures, "feature_network", fake_features)
    found = measures.centre_scores(Brighter(), data.open_source(wide), size, True, batch_size=3)
    assert found["images_measured"] == 7
    error = (x - y).double().square().mean((1, 2, 3))/4
    assert found["psnr"] == pytest.approx((-10*error.log10()).mean().item(), rel=1e-4)
    assert found["ssim"] == pytest.approx(metrics.ssim(x, y).mean().item(), rel=1e-4)
    assert found["lpips"] == pytest.approx(perceptual.lpips(x, y).mean().item(), rel=1e-3)
    a, b = (fake_features("alexnet")(torch.from_numpy(bytes_of(v))).double().numpy() for v in (x, y))
    assert found["fd"] == pytest.approx(frechet(a, b), rel=1e-4) and found["rfid"] == pytest.approx(4*frechet(a, b), rel=1e-4)


@pytest.mark.parametrize("row, blocks", [("full", 6), ("half, then full", 5), ("quarter, half, full", 4)])
def test_the_discriminator_is_made_for_the_smallest_size(row, blocks, monkeypatch):
    "One halving less for half the side: 6 at 256 pixels, in the row and in training."
    monkeypatch.setattr(torch.nn.init, "orthogonal_", lambda w, *args, **kwargs: w) # takes seconds
    config, = [r.config for r in ALL["t5"].rows("paper") if r.name == row]
    with torch.device("meta"): assert len(runs.build_row(config)["disc"].down) == blocks
    smallest = config["phases"][0]["size"]
    assert adversarial.fitting_discriminator("unet", 3, 128, smallest).config.mult == unet_mult(smallest)


# Runs that go on, and their names

class Momentum(Slide):
    "Velocity v <- v/2 + g, weight w <- w - lr v."
    def optimizers(self, config): return dict(model=torch.optim.SGD(self.nets["model"].parameters(), config.lr, momentum=.5))


def test_what_is_carried_from_phase_to_phase(tmp_path):
    "Weight, velocity and average go on, the rate is the new phase's: v = 1, then 3/2; w = -1, then -1 - 3/8; decays 2/11, then 3/12."
    def data(**given):
        while True: yield torch.zeros(1, 1)
    def phase(out, lr, carry=None):
        config = TrainConfig(steps=1, batch_size=1, lr=lr, precision="fp32", ema=.999, clip=None)
        run = Trainer(Momentum(torch.eye(4)[:1]), data, config, tmp_path/out, device="cpu", progress=False).fit(True, carry)
        return run.task.nets["model"].weight[0, 0].item(), run.averaged("model").weight[0, 0].item()
    w, average = phase("a", 1.)
    assert w == -1 and average == pytest.approx(-9/11)
    w, average = phase("b", .25, tmp_path/"a")
    assert w == pytest.approx(-1 - 3/8) and average == pytest.approx(3/12*(-9/11) + 9/12*w)


def test_a_run_at_paper_scale_is_named_by_its_setting(monkeypatch, tmp_path):
    "SHA-256 of configuration and seed; at paper scale also of the processes and of versions to the second number."
    def digest(*parts): return hashlib.sha256(json.dumps([*parts], sort_keys=True).encode()).hexdigest()[:12]
    monkeypatch.setattr(records, "versions", lambda names: {"python": "3.12.1", "litevae_diffae": "1.4.2", "torch": "2.8.0+cpu"})
    monkeypatch.setenv("WORLD_SIZE", "2")
    setting = dict(processes=2, versions={"litevae_diffae": "1.4", "torch": "2.8"})
    assert records.this_setting("small") is None and records.this_setting("paper") == setting
    config = dict(data=["ffhq", "train"], b=1)
    assert row_key(config, 3) == digest(config, 3) and row_key(config, 3, setting) == digest(config, 3, setting)
    assert runs.folder_of(config, 3, tmp_path) == tmp_path/digest(config, 3, setting)
    small = dict(config, data="photos")
    assert runs.folder_of(small, 3, tmp_path) == tmp_path/digest(small, 3)


def flattened(config, prefix=""):
    return {k2: v2 for k, v in config.items() for k2, v2 in (flattened(v, f"{prefix}{k}.") if isinstance(v, dict) else {prefix + k: v}).items()}


CHANGES = { # table -> row, the row it is held against -> what is changed: the paper's ablations change one thing each
    ("t4", "SMC", "group norm"): {"model.decoder": "smc"},
    ("t8", "adaptive weight", "constant weight"): {"adversarial.adaptive": True, "adversarial.weight": .5},
    ("t9", "+ Gaussian", "baseline"): {"weights.gaussian": .5},
    ("t9", "+ Gaussian + wavelet", "+ Gaussian"): {"weights.wavelet": 1.},
    ("t15", "with LDL", "without LDL"): {"weights.ldl": 265.},
    ("t16", "logistic", "hinge"): {"adversarial.loss": "logistic"},
    ("t17", "with 1x1 convolutions", "without 1x1 convolutions"): {"model.quant_conv": True},
    ("t18", "NAFNet extractors", "U-Net extractors"): {"model.extractor": "nafnet"},
    ("t19", "one shared extractor", "separate extractors"): {"model.shared_extractor": True},
    ("t20", "ViT aggregator", "U-Net aggregator"): {"model.aggregator": "vit"},
    ("t21", "last two levels", "all wavelet levels"): {"model.band_levels": [2, 3]},
    ("equivariance", "equivariance", "plain"): {"equivariance": .5}}


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("case", CHANGES, ids=lambda case: f"{case[0]}: {case[1]}")
def test_an_ablation_changes_what_it_says(case, scale):
    rows = {r.name: flattened(r.config) for r in ALL[case[0]].rows(scale)}
    row, base = rows[case[1]], rows[case[2]]
    assert {k: v for k, v in row.items() if k not in base or base[k] != v} == CHANGES[case] and set(base) <= set(row)


@pytest.mark.parametrize("name, scale", [(n, s) for n in ALL for s in ("small", "paper") if s == "small" or not n.startswith("diffae")])
def test_no_two_rows_of_a_table_are_the_same(name, scale):
    rows = ALL[name].rows(scale)
    assert len({row_key(r.config, 0) for r in rows}) == len(rows)


def test_sizes_of_the_paper_rows():
    "Tables 17 and 21: 256 pixels, 4 channels; the ablations of the loss: 128 pixels, 12; Table 3: 32 images."
    for table, size, z in (("t17", 256, 4), ("t19", 256, 4), ("t21", 256, 4), ("t5", 256, 4), ("t4", 128, 12), ("t18", 128, 12),
                           ("t20", 128, 12), ("t8", 128, 12), ("t9", 128, 12), ("t10", 128, 12), ("t16", 128, 12)):
        for r in ALL[table].rows("paper"):
            assert r.config["measure"]["size"] == size and r.config["model"]["z_channels"] == z
            if table != "t5": assert r.config["phases"][-1]["size"] == size
    assert {r.config["batch"] for r in ALL["t3"].rows("paper")} == {32}


# Diffusion

def test_noise_levels_are_the_published_ones():
    "Ho et al.: 1e-4 to 0.02; the latent DDIM: 0.992^1000 = 3.25e-4 is left at the end."
    abar, z = Schedule(linear_betas()).alphas_cumprod, LatentDDIM.schedule.alphas_cumprod
    assert abar[0].item() == pytest.approx(.9999) and abar[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)
    assert z[-1].item() == pytest.approx(.992**1000) and torch.equal(DDIM.schedule.alphas_cumprod, abar)
    assert ddim_timesteps(10).tolist() == list(range(0, 1000, 100)) and len(const_betas()) == 1000


def test_the_official_inversion_ends_in_noise_alone():
    "Its last level is 0: what comes out is the noise predicted last."
    e = images(1, 8)*3
    x_T = invert_official(lambda x, t: e, torch.zeros(1, 3, 8, 8), 10, Schedule(linear_betas()), clip=False)
    assert torch.allclose(x_T, e, atol=1e-6)


def test_a_clamped_image_changes_the_noise():
    "x = sqrt(abar) x_0 + sqrt(1 - abar) eps holds after the clamp as well."
    x, eps = torch.full((1, 1, 1, 1), 3.), torch.zeros(1, 1, 1, 1)
    step = ddim_step(x, eps, .25, .5)
    assert step.x_0.item() == 1 and .5*step.x_0.item() + math.sqrt(.75)*step.eps.item() == pytest.approx(3)
    assert ddim_step(x, eps, .25, .5, clip=False).x_0.item() == 6


def test_images_are_clamped_and_codes_never(monkeypatch):
    "Without noise a code grows by 1/sqrt(abar) of the first step that is visited."
    for method in (DDIM.decode, DDIM.invert, DiffAE.decode, DiffAE.invert, ddim_decode, invert_official): assert defaults(method)["clip"] is True
    prior = small_prior()
    for p in prior.layers[-1].parameters(): torch.nn.init.zeros_(p)
    z_T = torch.ones(1, 8)
    abar = .992**901
    assert prior.decode(z_T, 10)[0].tolist() == pytest.approx([abar**-.5]*8, rel=1e-4)
    torch.manual_seed(0)
    model = DDIM.from_preset("ddim-tiny").eval()
    assert model.decode(torch.full((1, 3, 32, 32), 4.), 10).abs().max() == 1


def test_min_snr():
    "Hang et al. 2023, gamma = 5: min(SNR, 5)/SNR for noise, min(SNR, 5)/(SNR + 1) for the velocity, min(SNR, 5)/(root of SNR + 1)^2 for the flow."
    abar = torch.tensor([.5, .99])                      # SNR 1 and 99
    assert loss_weights(abar, "eps", "min_snr").tolist() == pytest.approx([1, 5/99], rel=1e-4)
    assert loss_weights(abar, "v", "min_snr").tolist() == pytest.approx([.5, 5/100], rel=1e-4)
    assert loss_weights(abar, "flow", "min_snr").tolist() == pytest.approx([.25, 5/(99**.5 + 1)**2], rel=1e-4)
    assert loss_weights(abar, "eps", "none").tolist() == [1, 1]


def test_targets_of_the_network():
    x_0, eps, abar = torch.tensor(2.).view(1, 1, 1, 1), torch.tensor(3.).view(1, 1, 1, 1), torch.tensor(.36).view(1, 1, 1, 1)
    assert diffusion.target(x_0, eps, abar, "eps").item() == 3
    assert diffusion.target(x_0, eps, abar, "v").item() == pytest.approx(.6*3 - .8*2)
    assert diffusion.target(x_0, eps, abar, "flow").item() == 3 - 2


def test_the_loss_draws_every_step_and_weighs_all_alike():
    model = DDIM.from_preset("ddim-tiny", dropout=0.)
    x_0, eps = images(3, 32), images(3, 32, 1)
    for p in model.out.parameters(): torch.nn.init.zeros_(p)
    assert torch.allclose(model.loss(x_0, 500, eps), eps.square().mean((1, 2, 3)), atol=1e-5) # predicts nothing
    torch.manual_seed(0)
    t = diffusion._times(None, torch.zeros(20_000, 1), model.schedule)
    assert (t.min(), t.max()) == (0, 999) and abs(t.float().mean() - 499.5) < 7
    assert DDIMConfig().loss_weight == "none" and abs(diffusion._noise(None, images(9, 64)).std() - 1) < .02


def test_latents_of_two_images_meet_on_an_arc():
    a, b = torch.tensor([[2., 0.]]), torch.tensor([[0., 2.]])
    assert slerp(a, b, .5)[0].tolist() == pytest.approx([math.sqrt(2)]*2) and slerp(a, b, .25)[0].tolist() == pytest.approx([2*math.cos(math.pi/8), 2*math.sin(math.pi/8)])


# Diff-AE's tables

class Mirror:
    "x_T is the image plus 1, and decodes to itself minus 1; calls are remembered."
    device = torch.device("cpu")
    def __init__(self): self.calls = []
    def invert(self, x, n_steps):
        self.calls.append(n_steps)
        return x + 1
    def decode(self, x_T, n_steps):
        self.calls.append(n_steps)
        return (x_T - 1).clamp(-1, 1)


def test_an_image_is_decoded_from_its_own_noise():
    model = Mirror()
    found = autoencoding.evaluate_autoencoding(model, images(2, 64), (10, 20))
    assert model.calls == [10, 10, 20, 20]
    for T in (10, 20): assert found[f"mse@{T}"] < 1e-12 and found[f"ssim@{T}"] == pytest.approx(1) and found[f"lpips@{T}"] < 1e-6


class OneColour(DiffAE):
    "The code is the image; decoding adds a little of the noise to it."
    device = torch.device("cpu")
    def __init__(self): torch.nn.Module.__init__(self)
    def encode(self, x): return x.flatten(1)
    def invert(self, x, z_sem, n_steps): return torch.zeros_like(x)
    def decode(self, x_T, z_sem, n_steps): return (z_sem.view_as(x_T)*.9 + .01*x_T).clamp(-1, 1)


def test_random_noise_keeps_the_code_and_follows_the_seed():
    x = images(2, 64, 7)
    found = [autoencoding.evaluate_autoencoding(OneColour(), x, (10,), seed) for seed in (0, 1, 0)]
    alone = metrics.mse(x, .9*x).mean().item()
    assert found[0]["mse@10"] == pytest.approx(alone, rel=1e-4)
    assert found[0]["mse_random@10"] == pytest.approx(alone + (.01/2)**2, rel=.02) # as much as a unit normal has
    assert found[0] == found[2] != found[1]


def test_a_probe_is_asked_about_other_codes():
    "Labels by chance can be learned by heart, not foreseen."
    g = torch.Generator().manual_seed(0)
    z, a = torch.randn(240, 100, generator=g), torch.randint(2, (240, 1), generator=g).numpy()
    score, = autoencoding.probe_attributes(z[:40], a[:40], z[40:], a[40:])
    assert .35 < score < .65


def classifier(D=4):
    clf = manipulate.linear_classifier(torch.arange(1., D + 1)[None], torch.zeros(1), torch.ones(D), torch.full((D,), 2.), ("a",))
    return clf, torch.arange(1., D + 1)


def test_an_edit_goes_strength_times_the_root_of_the_size():
    "In normalised codes; the notebook's 0.3 is the usual strength."
    clf, w = classifier()
    step = (clf.move(torch.zeros(1, 4), "a", .3) - 0)/2
    assert torch.allclose(step[0], .3*2*w/w.norm(), atol=1e-6) and step.norm().item() == pytest.approx(.3*math.sqrt(4))
    assert defaults(manipulate.AttributeClassifier.move)["strength"] == defaults(DiffAE.edit)["strength"] == .3
    assert clf.logits(torch.ones(1, 4)).item() == 0 and clf.logits(torch.full((1, 4), 3.)).item() == pytest.approx(w.sum().item())


def test_the_plain_classifier_of_a_checkpoint_is_used():
    "After 9,375 steps at 0.9999 the average still holds 39 % of its random start."
    assert .9999**9375 == pytest.approx(.39, abs=.002)
    stats = {"conds_mean": torch.zeros(1, 8), "conds_std": torch.ones(1, 8)}
    sd = {**stats, "classifier.weight": torch.ones(40, 8), "classifier.bias": torch.ones(40),
          "ema_classifier.weight": torch.zeros(40, 8), "ema_classifier.bias": torch.zeros(40)}
    found = build_classifier(split_parts(sd))
    assert torch.equal(found.linear.weight, torch.ones(40, 8))


def test_codes_are_accepted_with_their_probability():
    "sigmoid(0) is a half, sigmoid(log 3) three quarters; the threshold is where the logit is 0."
    g = torch.Generator().manual_seed(0)
    for logit, share in ((0., .5), (math.log(3), .75)):
        assert accept_codes(torch.full((20_000,), logit), generator=g).float().mean().item() == pytest.approx(share, abs=.012)
    assert accept_codes(torch.tensor([-1e-3, 1e-3]), "threshold").tolist() == [False, True]
    clf, _ = classifier()
    assert torch.equal(class_logits(clf, torch.zeros(2, 4), negative=True), -class_logits(clf, torch.zeros(2, 4)))


def test_images_of_a_class_are_set_aside_for_the_floor():
    attributes = torch.arange(100)[:, None] % 2
    reference, floors = classcond.class_split(attributes, 0, 5, 0)[0], [classcond.class_split(attributes, 0, 5, s)[1] for s in range(3)]
    every = [*reference.tolist(), *(i for f in floors for i in f.tolist())]
    assert sorted(every) == list(range(1, 100, 2)) and len(every) == 50


def test_the_floor_of_codes_is_of_other_images(monkeypatch):
    seen = {}
    monkeypatch.setattr(samples, "code_scores", lambda codes, z, probe: seen.update(rest=codes.z_sem, drawn=z))
    codes = Codes.of(torch.arange(40.)[:, None].repeat(1, 2))
    samples._real_codes(codes, 10, 0, None)
    assert sorted([*seen["rest"][:, 0].tolist(), *seen["drawn"][:, 0].tolist()]) == list(range(40)) and len(seen["drawn"]) == 10


def test_codes_in_a_fresh_order_every_epoch():
    z = torch.arange(30.)[:, None]
    def epochs(seed):
        stream = code_batches(z, 15, seed)
        return [[*next(stream)[:, 0].tolist(), *next(stream)[:, 0].tolist()] for _ in range(2)]
    first, second = epochs(0)
    assert sorted(first) == sorted(second) == list(range(30)) and first != second and epochs(1)[0] != first


# Metrics

def test_errors_are_measured_on_zero_to_one():
    x = torch.zeros(1, 3, 16, 16)
    assert metrics.mse(x, x + .2).item() == pytest.approx(.01) and metrics.psnr(x, x + .2).item() == pytest.approx(20, abs=1e-4)


def test_ssim_of_two_flat_images():
    "(2ab + C1)/(a^2 + b^2 + C1) inside, C1 = 0.01^2; variances are 0 there."
    a, b = torch.full((1, 1, 64, 64), -1.), torch.full((1, 1, 64, 64), -.98) # 0 and 0.01 on [0, 1]
    assert metrics.ssim(a, b, "valid").item() == pytest.approx(1e-4/(1e-4 + 1e-4), rel=1e-3)
    assert defaults(metrics.ssim)["padding"] == "zero"


def test_ssim_of_stripes():
    "Means are (nearly) equal, contrasts are not: (2 s t + C2)/(s^2 + t^2 + C2), C2 = 0.03^2."
    stripes = torch.tensor([1., -1.]).repeat(32).expand(1, 1, 64, 64)
    s, t = .03, .015                                     # standard deviations on [0, 1]
    found = metrics.ssim(2*s*stripes, 2*t*stripes, "valid").item()
    assert found == pytest.approx((2*s*t + 9e-4)/(s*s + t*t + 9e-4), rel=2e-3)


def test_the_input_of_alexnet_is_128_pixels_wide():
    x, y = images(8, 64), images(8, 64, 1)
    found = measures.crop_scores(x, y)
    assert found["fd"] == distances.alexnet_fd(x, y).value == distances.alexnet_fd(x, y, size=128).value
    assert distances.alexnet_fd(x, y).protocol["input"].startswith("resized to 128 x 128")
    assert found["fd"] != distances.alexnet_fd(x, y, size=64).value


def test_the_width_of_table_6_is_for_4096_numbers():
    z = torch.randn(64, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert analysis.latent_mmd(z)[50] == analysis.mmd_to_normal(z.flatten(1), 50*math.sqrt(64/4096)) and list(analysis.latent_mmd(z)) == [25, 50, 100, 250, 500]


# Generators and seeds of what is drawn

def seeded(seed): return torch.Generator().manual_seed(seed)


def test_a_generator_decides_the_noise():
    "PyTorch's own numbers of that seed, whatever the global state is."
    shape = 2, 3, 32, 32
    known = torch.randn(shape, generator=seeded(7))
    model = DDIM.from_preset("ddim-tiny")
    assert torch.equal(model.noise(2, seeded(7)), known) and not torch.equal(model.noise(2), model.noise(2))
    drawn = DiagonalGaussian(torch.cat([torch.ones(2, 3, 32, 32), torch.full(shape, 2*math.log(3.))], 1)).sample(seeded(7))
    assert torch.allclose(drawn, 1 + 3*known, atol=1e-5)
    prior = small_prior()
    prior.set_stats(codes_of().z_sem)
    assert torch.equal(prior.sample(3, 10, seeded(7)), prior.denormalize(prior.decode(torch.randn(3, 8, generator=seeded(7)), 10)))
    assert torch.allclose(prior.denormalize(torch.zeros(1, 8))[0], codes_of().z_sem.mean(0), atol=1e-4)


def test_labels_of_an_experiment_follow_the_seed():
    codes = replace(codes_of(), attributes=torch.arange(64)[:, None] % 2, names=("a",))
    found = [label_rows(codes, "a", 8, seed=s).tolist() for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2] and all(i % 2 for rows in found for i in rows) and len(set(found[0])) == 8


def test_drawn_images_follow_the_seed_and_keep_their_codes():
    model = OneColour()
    model.noise = lambda n, generator: torch.randn(n, 3, 8, 8, generator=generator)
    model.decode = lambda x_T, z_sem, n_steps: torch.cat([x_T.flatten(1), z_sem], 1)
    z_sem = torch.arange(2.)[:, None]
    drawn = faces.draw_images(model, 2, 10, 5, z_sem)
    assert torch.equal(drawn[:, :-1].view(2, 3, 8, 8), torch.randn(2, 3, 8, 8, generator=seeded(5))) and torch.equal(drawn[:, -1:], z_sem)


def test_as_many_positives_as_others():
    "Positives and unlabelled 1:1 in each step, however few the positives are."
    from litevae_diffae.diffae.classcond import _even_batches
    stream = _even_batches(5, 95, 32, 0)
    for _ in range(4): assert sum(int(i) < 5 for i in next(stream)) == 16


def test_cutmix_boxes_have_an_area_uniform_in_the_image():
    mask = cutmix_mask(4000, (64, 64), seeded(0))
    share = mask.mean((1, 2, 3))
    assert abs(share.mean() - .5) < .02 and abs(share.std() - math.sqrt(1/12)) < .02 and set(mask.unique().tolist()) == {0, 1}


def test_swapped_codes_are_other_peoples():
    "The rise of the loss when each image is told the code of the next; fixed noise, so it is the same again."
    model, x = OneLoss(), torch.tensor([1., 2., 4.]).view(3, 1, 1, 1)
    found = swap_probe(model, x)
    assert found["own"] == 1 and found["other"] == pytest.approx(1 + (9 + 1 + 4)/3) and found == swap_probe(model, x)
    assert set(model.asked) == {100, 300, 500, 700, 900}


class OneLoss:
    "The code is the image; the loss is 1 and the square of what it is told wrong."
    def __init__(self): self.asked = []
    def encode(self, x): return x.flatten(1)
    def loss(self, x, t, eps, z_sem):
        self.asked += t.tolist()
        return 1 + (z_sem - x.flatten(1)).square().mean(1)
