"""What a verb or a sampler can't use is one sentence that names the argument; what it can use is converted exactly."""
import math

import numpy as np
import pytest
import torch

from litevae_diffae import DDIM, AttributeClassifier, AttributeClassifierConfig, DiffAE, DiscriminatorConfig, Editor, EditorConfig, KLVAE, LatentDDIM, LiteVAE, compute_latent_stats, draw_codes
from litevae_diffae.core import can_look, check_values
from litevae_diffae.diffusion.ddim import ddim_decode
from litevae_diffae.diffusion.dpm_solver import dpm_decode, logsnr_timesteps, pick_sampler
from litevae_diffae.diffusion.inversion import invert
from litevae_diffae.diffusion.schedule import Schedule, check_steps, const_betas, ddim_timesteps, ddpm_sample, linear_betas, respace
from litevae_diffae.diffusion.sections import section_timesteps
from litevae_diffae.litevae.decoder import Decoder
from litevae_diffae.litevae.discriminator import UNetDiscriminator, unet_mult
from litevae_diffae.litevae.encoder import EncoderConfig, FeatureUNet, WaveletEncoder
from litevae_diffae.litevae.other_discriminators import PatchDiscriminator, StyleGANDiscriminator

NAN, INF = math.nan, math.inf


def seeded(n=0): return torch.Generator().manual_seed(n)


@pytest.fixture(scope="module")
def dae():
    torch.manual_seed(0)
    model = DiffAE.from_preset("diffae-tiny", image_size=16, z_dim=8).eval()
    model.prior = LatentDDIM.from_preset("latent-tiny", z_dim=8, hidden=16).eval()
    model.prior.set_stats(torch.randn(20, 8, generator=seeded()))
    torch.manual_seed(1)
    model.classifier = AttributeClassifier(AttributeClassifierConfig(8, ("a", "b")))
    model.editor = Editor(EditorConfig(8, ("a", "b"), 4, 8))
    return model


@pytest.fixture(scope="module")
def ddim():
    torch.manual_seed(0)
    return DDIM.from_preset("ddim-tiny", image_size=16).eval()


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return LiteVAE.from_preset("litevae-tiny", decoder_channels=4).eval()


@pytest.fixture
def x(): return torch.rand(2, 3, 16, 16, generator=seeded())*2 - 1


@pytest.fixture
def noise(): return torch.randn(2, 3, 16, 16, generator=seeded(1))


def says(words, f):
    "One line that begins with these words."
    with pytest.raises(ValueError) as found: f()
    text = str(found.value)
    assert text.startswith(words) and "\n" not in text and len(text) < 400, text


# ---- steps

@pytest.mark.parametrize("t", [torch.tensor([0.25, 0.75]), torch.tensor([3., 5.]), [0.5, 1.], 3., "3", None, True, torch.tensor([True, False]), torch.tensor([-1, 0]), [0, 1000], torch.zeros(3, dtype=torch.long),
                               torch.zeros(2, 1, dtype=torch.long), [[1, 2]], [], [True, 1], 10**30, -1, 1000, torch.tensor([1+0j, 2])], ids=str)
def test_steps_that_are_none(t, dae, ddim, x):
    z = torch.zeros(2, 8)
    for f in (lambda: ddim.eps(x, t), lambda: dae.eps(x, t, z), lambda: dae.prior.eps(z, t), lambda: check_steps(t, 2)):
        says("t: whole numbers from 0 to 999 expected, one for each of 2 images, got", f)
    if t is not None:
        for f in (lambda: ddim.loss(x, t), lambda: dae.loss(x, t), lambda: dae.prior.loss(z, t)): says("t: whole numbers from 0 to 999 expected", f)


@pytest.mark.parametrize("t", [7, [7, 7], (7, 7), np.array([7, 7]), np.int64(7), torch.tensor(7), torch.tensor([7]), *(torch.tensor([7, 7], dtype=d) for d in (torch.uint8, torch.int8, torch.int16, torch.int32))], ids=str)
@torch.no_grad()
def test_steps_of_other_kinds_are_the_same_steps(t, dae, ddim, x):
    "Above all bytes, which an index takes for a mask."
    z, same = torch.randn(2, 8, generator=seeded()), torch.tensor([7, 7])
    assert torch.equal(ddim.eps(x, t), ddim.eps(x, same))
    assert torch.equal(dae.eps(x, t, z), dae.eps(x, same, z))
    assert torch.equal(dae.prior.eps(z, t), dae.prior.eps(z, same))
    assert torch.equal(ddim.loss(x, t, x), ddim.loss(x, same, x))


def test_bytes_reach_to_255(): assert check_steps(torch.tensor([3, 250], dtype=torch.uint8), 2).tolist() == [3, 250]


# ---- numbers of steps and images

BAD_COUNTS = [10., 2.5, True, "10", None, NAN, [10], torch.tensor(10)]


@pytest.mark.parametrize("n", BAD_COUNTS, ids=str)
def test_counts_that_are_not_whole(n, dae, ddim, x, noise):
    z = torch.zeros(2, 8)
    for f in (lambda: ddim.decode(noise, n), lambda: ddim.invert(x, n), lambda: ddim.sample(1, n), lambda: ddim.decode(noise, n, sampler="dpm"), lambda: dae.decode(noise, z, n), lambda: dae.invert(x, z, n),
              lambda: dae.reconstruct(x, n), lambda: dae.variations(x, 1, n), lambda: dae.interpolate(x, x, [0.5], n), lambda: dae.edit(x, "a", n_steps=n), lambda: dae.sample(1, n), lambda: dae.prior.sample(1, n),
              lambda: dae.prior.decode(z, n), lambda: ddim_timesteps(n), lambda: logsnr_timesteps(n, ddim.schedule), lambda: draw_codes(dae.prior, dae.classifier, 1, name="a", n_steps=n)):
        says("n_steps: a whole number expected, got", f)
    for f in (lambda: ddim.sample(n, 5), lambda: dae.sample(n, 5), lambda: dae.variations(x, n, 5), lambda: dae.prior.sample(n, 5), lambda: dae.noise(n), lambda: draw_codes(dae.prior, dae.classifier, n, name="a"),
              lambda: linear_betas(n), lambda: const_betas(n=n)):
        says("n: a whole number expected, got", f)
    for f in (lambda: ddim.decode(noise, 5, batch_size=n), lambda: dae.invert(x, z, 5, batch_size=n)): says("batch_size: a whole number expected, got", f)
    says("n_iters: a whole number expected, got", lambda: ddim.invert(x, 5, "fixed_point", n_iters=n))


@pytest.mark.parametrize("n", [0, -3])
def test_counts_that_are_not_positive(n, dae, ddim, x, noise):
    for f in (lambda: ddim.sample(n, 5), lambda: dae.variations(x, n, 5), lambda: dae.sample(n, 5), lambda: dae.prior.sample(n, 5), lambda: linear_betas(n), lambda: const_betas(n=n)): says(f"n: must be positive, got {n}", f)
    for f in (lambda: ddim.decode(noise, n), lambda: ddim_timesteps(n), lambda: dae.prior.sample(1, n)): says(f"n_steps: no stride visits {n} of 1000 steps", f)
    says(f"n_steps: must be in 2..1000, got {n}", lambda: ddim.decode(noise, n, sampler="dpm"))
    says(f"batch_size: must be positive, got {n}", lambda: ddim.decode(noise, 5, batch_size=n))
    says(f"n_steps: no stride visits {n}", lambda: dae.sample(1, 5, latent_steps=n))                     # 0 is not "as many as the images"
    says(f"n_train: must be at least 1, got {n}", lambda: ddim_timesteps(1, n))


def test_numpys_integers_count(ddim, noise): assert torch.equal(ddim.decode(noise, np.int64(5)), ddim.decode(noise, 5))


# ---- schedules

@pytest.mark.parametrize("betas", [[], [0.1, 1.5], [NAN], "text", [[0.1]], 0.1, None, [0.1, "b"], torch.zeros(3)], ids=str)
def test_betas(betas): says("betas: must be a list of numbers between 0 and 1, got", lambda: Schedule(betas))


def test_schedules():
    says("beta: a finite number expected, got nan", lambda: const_betas(NAN))
    for bad in (3., [1.5], "3", None, [[1]], True): says("counts: a whole number or a tuple of whole numbers expected", lambda: section_timesteps(bad))
    says("counts: at least one section expected", lambda: section_timesteps([]))
    s = Schedule(linear_betas())
    for bad in (2.5, "5", None): says("n_steps: a whole number expected", lambda: respace(s, bad))
    says("t: whole numbers from 0 to 999 expected", lambda: respace(s, torch.tensor([0.5, 2])))
    says("t: whole numbers from 0 to 999 expected", lambda: respace(s, torch.tensor([-1, 2])))
    assert torch.equal(respace(s, torch.arange(0, 1000, 100)).alphas_cumprod, respace(s, 10).alphas_cumprod)
    for bad in (True, "0.5", NAN, -0.5, 2): says("eta: ", lambda: ddim_decode(lambda x, t: x, torch.zeros(1, 2), 5, s, eta=bad))
    for bad in ("euler", None, ["ddim"], 3): says("sampler: must be ddim or dpm, got", lambda: pick_sampler(bad))


@pytest.mark.parametrize("name, bad", [("clip", "no"), ("clip", 1), ("clip", None), ("callback", 3), ("callback", "print")])
def test_options_of_samplers(name, bad, dae, ddim, x, noise):
    s, z = ddim.schedule, torch.zeros(2, 8)
    for f in (lambda: ddim.decode(noise, 5, **{name: bad}), lambda: ddim.decode(noise, 5, sampler="dpm", **{name: bad}), lambda: ddim.invert(x, 5, **{name: bad}), lambda: dae.decode(noise, z, 5, **{name: bad}),
              lambda: ddim_decode(lambda x, t: x, x, 5, s, **{name: bad}), lambda: dpm_decode(lambda x, t: x, x, 5, s, **{name: bad}), lambda: invert(lambda x, t: x, x, 5, s, **{name: bad})):
        says(f"{name}: ", f)


@pytest.mark.parametrize("bad", [0, 42, "cpu", np.random.default_rng()], ids=str)
def test_a_seed_is_no_generator(bad, dae, ddim, vae, x):
    post = vae.encode(x).latent_dist
    for f in (lambda: ddim.sample(1, 5, generator=bad), lambda: dae.variations(x, 1, 5, generator=bad), lambda: dae.reconstruct(x, 5, stochastic=False, generator=bad), lambda: dae.sample(1, 5, generator=bad),
              lambda: dae.prior.sample(1, 5, generator=bad), lambda: dae.noise(1, bad), lambda: post.sample(bad), lambda: draw_codes(dae.prior, dae.classifier, 1, name="a", generator=bad),
              lambda: ddim_decode(lambda x, t: x, x, 5, ddim.schedule, eta=1., generator=bad), lambda: ddpm_sample(lambda x, t: x, x, ddim.schedule, generator=bad)):
        says("generator: a torch.Generator or None expected, got", f)


# ---- images and codes

def wrong_images(channels=3):
    good = torch.zeros(2, channels, 16, 16)
    return {"bytes": good.byte(), "whole numbers": good.long(), "bool": good.bool(), "complex": good*1j, "no batch": good[0], "five axes": good[None], "other channels": torch.zeros(2, channels + 1, 16, 16),
            "no image": good[:0], "no pixel": good[..., :0], "array": good.numpy(), "list": good.tolist(), "nothing": None, "name": "photo.png"}


@pytest.mark.parametrize("kind", wrong_images())
def test_what_is_no_batch_of_images(kind, dae, ddim, vae):
    bad, z = wrong_images()[kind], torch.zeros(2, 8)
    for f in (lambda: vae.encode(bad), lambda: vae(bad), lambda: dae.encode(bad), lambda: dae.invert(bad, z), lambda: dae.reconstruct(bad), lambda: dae.variations(bad, 1), lambda: dae.edit(bad, "a"), lambda: ddim.invert(bad)):
        says("x: ", f)
    for f in (lambda: ddim.decode(bad), lambda: dae.decode(bad, z)): says("x_T: ", f)
    for f in (lambda: ddim.eps(bad, 3), lambda: dae.eps(bad, 3, z)): says("x_t: ", f)
    for f in (lambda: ddim.loss(bad), lambda: dae.loss(bad)): says("x_0: ", f)
    if kind != "no batch": says("x_a: ", lambda: dae.interpolate(bad, torch.zeros(2, 3, 16, 16), [0.5])) if kind in ("five axes", "array", "list", "nothing", "name") else says("x", lambda: dae.interpolate(bad, bad, [0.5]))


def test_bytes_are_told_the_range(dae, vae):
    for model in (dae, vae):
        with pytest.raises(ValueError, match=r"\[-1, 1\]"): model.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("value", [NAN, INF, -INF, 255., -9.])
def test_values_that_are_no_image(value, dae, ddim, vae, x):
    x[1, 2, 3, 4] = value
    for f in (lambda: vae.encode(x), lambda: vae(x), lambda: vae.train().encode(x)): says("x: images in [-1, 1] expected, got", f)
    vae.eval()
    for f in (lambda: dae.encode(x), lambda: dae.invert(x, torch.zeros(2, 8)), lambda: dae.reconstruct(x), lambda: dae.variations(x, 1), lambda: ddim.invert(x)): says("x: expected values in [-1, 1], got", f)
    if not math.isfinite(value):
        for f in (lambda: ddim.decode(x, 5), lambda: dae.decode(x, torch.zeros(2, 8), 5)): says("x_T: finite values expected, got", f)


def test_a_little_more_than_the_range_is_an_image(vae):
    "Reconstructions are not clamped; they can be encoded again, and gradients flow."
    x = (torch.randn(1, 3, 16, 16, generator=seeded())).clamp(-4, 4).requires_grad_()
    vae.encode(x).latent_dist.mean.sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("z", [torch.full((1, 12, 2, 2), NAN), torch.full((1, 12, 2, 2), -INF)], ids=str)
def test_latents_are_finite(z, vae): says("z: finite values expected, got", lambda: vae.decode(z))


def test_training_goes_on_with_what_it_has(vae):
    "Whoever trains is told by the loss, which names the step."
    vae.train()
    assert vae.decode(torch.full((1, 12, 2, 2), NAN)).sample.isnan().all()
    vae.eval()


@pytest.mark.parametrize("z", [torch.zeros(2, 7), torch.zeros(3, 8), torch.zeros(2, 8, 1), torch.zeros(2, 8, dtype=torch.long), np.zeros((2, 8)), [[0.]*8]*2, None, "a"], ids=lambda v: str(v)[:20])
def test_codes_of_another_shape(z, dae, x, noise):
    for f in (lambda: dae.decode(noise, z, 5), lambda: dae.eps(noise, 3, z)): says("z_sem: expected", f)
    if z is not None:
        for f in (lambda: dae.invert(x, z, 5), lambda: dae.loss(x, z_sem=z)): says("z_sem: expected", f)


def test_codes_are_finite(dae, x, noise):
    z = torch.full((2, 8), NAN)
    for f in (lambda: dae.decode(noise, z, 5), lambda: dae.invert(x, z, 5)): says("z_sem: finite values expected, got NaN", f)
    says("z_T: finite values expected, got NaN", lambda: dae.prior.decode(z, 5))
    says("z_T: expected (B, 8), got (2, 7)", lambda: dae.prior.decode(torch.zeros(2, 7), 5))
    says("z_t: expected (B, 8), got (0, 8)", lambda: dae.prior.eps(z[:0], 3))
    says("eps: expected (2, 3, 16, 16), got (1, 3, 16, 16)", lambda: dae.loss(x, eps=x[:1]))


# ---- the other arguments

@pytest.mark.parametrize("alphas", [0.5, torch.tensor(0.5), [[0.5]], torch.zeros(2, 2), [NAN], [INF], ["0.5"], "01", None, [True], {0.5: 1}, np.array([NAN])], ids=str)
def test_alphas(alphas, dae, x): says("alphas: a list of finite numbers expected, got", lambda: dae.interpolate(x, x, alphas, 5))


def test_alphas_of_all_kinds(dae, x):
    "Lists, tuples, arrays, tensors and ranges say the same; none is refused."
    says("alphas: needs at least one number, got none", lambda: dae.interpolate(x, x, [], 5))
    want = dae.interpolate(x[0], x[1], [0., 1.], 5)
    for alphas in ((0, 1), range(2), np.array([0., 1.]), torch.tensor([0, 1]), torch.linspace(0, 1, 2)): assert torch.equal(dae.interpolate(x[0], x[1], alphas, 5), want)


@pytest.mark.parametrize("size", [32., (16., 16.), 16, "16", (16,), (16, True), (0, 8), (17, 8), (8, -1), [NAN, 8], (16, "8")], ids=str)
def test_sizes(size, vae):
    says("size: (H, W), whole numbers with 0 < H <= 16 and 0 < W <= 16, expected, got", lambda: vae.decode(torch.zeros(1, 12, 2, 2), size=size))


def test_sizes_that_are_taken(vae):
    for size in ((9, 16), [9, 16], torch.Size((9, 16)), (np.int64(9), 16)): assert vae.decode(torch.zeros(1, 12, 2, 2), size=size).sample.shape[-2:] == (9, 16)


@pytest.mark.parametrize("strength", [NAN, INF, -INF, 1e9, "0.3", None, True, [0.3], torch.tensor([NAN])], ids=str)
def test_strength(strength, dae, x):
    z = torch.zeros(2, 8)
    for f in (lambda: dae.edit(x, "a", strength, 5), lambda: dae.edit(x, "a", strength, 5, path="line"), lambda: dae.classifier.move(z, "a", strength), lambda: dae.editor.move(z, "a", strength)): says("strength: ", f)


@pytest.mark.parametrize("attribute", [None, 3, ["a"], torch.zeros(8), torch.full((8,), NAN), torch.ones(7)/7**0.5, np.ones(8)/8**0.5], ids=lambda v: str(v)[:20])
def test_attributes(attribute, dae, x):
    says("direction: expected ", lambda: dae.edit(x, attribute, n_steps=5))
    says("direction: expected ", lambda: dae.classifier.move(torch.zeros(2, 8), attribute))
    says("attribute: must be one of a, b, got", lambda: dae.editor.move(torch.zeros(2, 8), attribute))


def test_classes(dae):
    for bad in (NAN, "0.5", True): says("share: ", lambda: draw_codes(dae.prior, dae.classifier, 1, name="a", share=bad, n_steps=5))
    says("max_draws: a whole number expected, got 2.5", lambda: draw_codes(dae.prior, dae.classifier, 1, name="a", max_draws=2.5))
    says("negative: True or False expected, got 'no'", lambda: draw_codes(dae.prior, dae.classifier, 1, name="a", negative="no", n_steps=5))


def test_stochastic_is_a_flag(dae, x): says("stochastic: True or False expected, got 'False'", lambda: dae.reconstruct(x, 5, stochastic="False"))


@pytest.mark.parametrize("name", ["n_images", "batch_size"])
def test_statistics(name, vae, x):
    for bad in (2.5, True, "9", NAN): says(f"{name}: a whole number expected, got", lambda: compute_latent_stats(vae, x, **{name: bad}))
    for bad in (0, -2): says(f"{name}: must be positive, got {bad}", lambda: compute_latent_stats(vae, x, **{name: bad}))


BLOCKS = [(lambda v: FeatureUNet(12, 12, v, (1,)), "channels"), (lambda v: FeatureUNet(12, 12, 8, (1,), v), "n_res_blocks"), (lambda v: WaveletEncoder(EncoderConfig(z_channels=v)), "z_channels"), (lambda v: Decoder(channels=v), "channels"),
          (lambda v: Decoder(n_res_blocks=v), "n_res_blocks"), (lambda v: UNetDiscriminator(channels=v), "channels"), (lambda v: PatchDiscriminator(n_layers=v), "n_layers"),
          (lambda v: StyleGANDiscriminator(image_size=v), "image_size"), (lambda v: unet_mult(v), "size"), (lambda v: DiscriminatorConfig(channels=v), "channels")]


@pytest.mark.parametrize("make, name", BLOCKS, ids=lambda v: v if isinstance(v, str) else "")
def test_blocks(make, name):
    for bad in (2.5, True, "8", NAN): says(f"{name}: a whole number expected, got", lambda: make(bad))
    for bad in (0, -8): says(f"{name}: must be positive, got {bad}", lambda: make(bad))


@pytest.mark.parametrize("mult", ["12", 3, (1.5,), None, ("1",)], ids=str)
def test_multipliers(mult):
    for make in (lambda: FeatureUNet(12, 12, 8, mult), lambda: Decoder(mult=mult), lambda: UNetDiscriminator(mult=mult)): says("mult: a tuple of whole numbers expected, got", make)


# ---- what has no numbers to look at

def test_checks_of_values_wait_where_there_are_none():
    x = torch.full((2, 3), NAN)
    assert can_look(x)
    with pytest.raises(ValueError, match="^x: finite values expected, got NaN$"): check_values("x", x)
    check_values("x", torch.empty(2, 3, device="meta"))
    torch.vmap(lambda v: (check_values("x", v), v)[1])(x)
    torch.func.grad(lambda v: (check_values("x", v), v.sum())[1])(x)
    torch.jit.trace(lambda v: (check_values("x", v), v + 1)[1], x, check_trace=False)


@pytest.mark.parametrize("cls, preset, size", [(LiteVAE, "litevae-tiny", 16), (KLVAE, "sd-vae-small", 16), (DDIM, "ddim-tiny", 32), (DiffAE, "diffae-tiny", 32)], ids=lambda v: getattr(v, "__name__", ""))
def test_models_run_on_the_meta_device(cls, preset, size):
    with torch.device("meta"): model, x = cls.from_preset(preset).eval(), torch.empty(2, 3, size, size)
    if cls in (LiteVAE, KLVAE): assert model(x).sample.shape == x.shape
    elif cls is DiffAE: assert model.encode(x).shape == (2, 64)


# ---- other precisions

@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_verbs_in_other_precisions(dtype, dae, ddim, vae, x):
    from copy import deepcopy
    d, m, v = (deepcopy(net).to(dtype) for net in (dae, ddim, vae))
    for image in (x, x.to(dtype)):
        finite = [v(image).sample, v.encode(image).latent_dist.mean, d.encode(image), d.reconstruct(image, 5), d.variations(image, 2, 5), d.interpolate(image, image, [0.5], 5), d.edit(image, "a", 0.3, 5), m.invert(image, 5),
                  m.decode(m.invert(image, 5), 5), d.eps(image, 3, d.encode(image)), d.loss(image, 3, image)]
        assert all(y.isfinite().all() for y in finite)
    assert all(y.isfinite().all() for y in (d.sample(2, 5, generator=seeded()), m.sample(2, 5, generator=seeded()), d.prior.sample(2, 5, generator=seeded())))
