"`eta` in `decode` and `sample`, beside diffusers' DDIMScheduler and in closed form."
import pytest
import torch
from diffusers import DDIMScheduler

from litevae_diffae.diffae.latent import LatentDDIM
from litevae_diffae.diffae.model import DiffAE
from litevae_diffae.diffusion.model import DDIM


def seeded(k=0): return torch.Generator().manual_seed(k)


def new(cls, preset):
    "A model whose outputs are no zeros."
    torch.manual_seed(0)
    model = cls.from_preset(preset, image_size=16).eval()
    torch.nn.init.normal_(model.state_dict()["out.2.weight"], std=.05)
    return model


@pytest.fixture(scope="module", params=["ddim-tiny", "diffae-tiny"])
def model(request): return new(DDIM if request.param == "ddim-tiny" else DiffAE, request.param)


def code(model, n=2): return [torch.randn(n, model.config.z_dim, generator=seeded(9))] if isinstance(model, DiffAE) else []


@pytest.mark.parametrize("eta", [.4, 1.])
def test_decode_is_that_of_diffusers(model, eta):
    x_T, z = model.noise(2, seeded()), code(model)
    ours = model.decode(x_T, *z, n_steps=10, eta=eta, generator=seeded(5))
    theirs = DDIMScheduler(beta_start=1e-4, beta_end=.02, beta_schedule="linear", timestep_spacing="leading", steps_offset=0,
                           clip_sample=True, set_alpha_to_one=True)
    theirs.set_timesteps(10)
    x, noise = x_T, seeded(5)
    with torch.no_grad():
        for t in theirs.timesteps.tolist():
            how = dict(eta=eta, variance_noise=torch.randn(x.shape, generator=noise)) if t else {}
            eps = model.eps(x, torch.full((2,), t), *z)
            x = theirs.step(eps, t, x, use_clipped_model_output=True, **how).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)
    assert (ours - model.decode(x_T, *z, n_steps=10)).abs().max() > .1


def test_the_noise_of_eta_one_has_the_variance_of_the_posterior(model):
    "Without a network's opinion (eps 0, no clamp) one start spreads by sigma alone; sigma^2 = (1-a')/(1-a) (1-a/a')."
    silent, states = type(model).from_preset(f"{type(model).__name__.lower()}-tiny", image_size=16).eval(), []
    x_T, n = silent.noise(1, seeded()), 64
    silent.decode(x_T.repeat(n, 1, 1, 1), *code(silent, n), n_steps=2, clip=False, eta=1., generator=seeded(1),
                  callback=lambda i, t, x_t, x0: states.append(x_t))
    a, b = silent.schedule.alphas_cumprod[[500, 0]].tolist()
    want = (1 - b)/(1 - a)*(1 - a/b)
    spread = (states[0] - (b/a)**.5*x_T).square().mean().item()
    assert abs(spread/want - 1) < 5*(2/states[0].numel())**.5 # five standard deviations of a variance
    torch.testing.assert_close(states[1], states[0]/b**.5) # none at index 0


def test_zero_is_the_sampler_as_it_was(model):
    x_T, z = model.noise(2, seeded()), code(model)
    plain = model.decode(x_T, *z, n_steps=5)
    state = torch.get_rng_state()
    assert torch.equal(plain, model.decode(x_T, *z, n_steps=5, eta=0., generator=seeded(3)))
    assert torch.equal(state, torch.get_rng_state()) # nothing is drawn


def test_the_noise_does_not_depend_on_the_batch(model):
    x_T, z = model.noise(3, seeded()), code(model, 3)
    whole, parts = (model.decode(x_T, *z, n_steps=5, eta=1., generator=seeded(1), batch_size=b) for b in (64, 2))
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-4)


def test_sample(model):
    if isinstance(model, DiffAE):
        model.prior = LatentDDIM.from_preset("latent-tiny").eval()
        model.prior.set_stats(torch.randn(9, 64, generator=seeded()))
    def draw(**kw): return model.sample(2, 5, generator=seeded(2), **kw)
    assert torch.equal(draw(eta=.5), draw(eta=.5)) and torch.equal(draw(), draw(eta=0.))
    g = seeded(2) # start and noise come from one generator, the start first
    z = [model.prior.sample(2, 5, generator=g)] if isinstance(model, DiffAE) else []
    assert torch.equal(draw(eta=.5), model.decode(model.noise(2, g), *z, n_steps=5, eta=.5, generator=g))


@pytest.mark.parametrize("kw, sentence", [
    (dict(eta=1.1), "eta: must be from 0 to 1, got 1.1"), (dict(eta=-.1), "eta: must be from 0 to 1, got -0.1"),
    (dict(eta=float("nan")), "eta: "), (dict(eta="much"), "eta: "),
    (dict(eta=.5, sampler="dpm"), "eta: must be 0 with sampler dpm, which draws no noise, got 0.5"),
    (dict(eta=.5, generator=3), "generator: ")])
def test_what_is_refused(model, kw, sentence):
    with pytest.raises(ValueError, match=sentence): model.decode(model.noise(2), *code(model), n_steps=5, **kw)
