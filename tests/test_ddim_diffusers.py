"""Our process, samplers and inversions beside the schedulers of diffusers, step by step and to the last digits of float64."""
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler

from litevae_diffae.diffusion.ddim import ddim_decode
from litevae_diffae.diffusion.inversion import invert
from litevae_diffae.diffusion.schedule import Schedule, ddpm_step, linear_betas, q_sample

SCHEDULE = Schedule(linear_betas())
LINEAR = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
LEADING = dict(**LINEAR, timestep_spacing="leading", steps_offset=0)


def with_float64_tables(scheduler):
    "Their tables are float32: compare them as such, then lend them ours, so that the steps can be compared exactly."
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), SCHEDULE.alphas_cumprod, rtol=2e-5, atol=0)
    for name in ("betas", "alphas", "alphas_cumprod"): setattr(scheduler, name, getattr(SCHEDULE, name))
    return scheduler


def eps_model(x, t):
    "A made-up network: not linear, depends on the step, and wrong enough for its images to leave [-1, 1] now and then."
    return 0.8*torch.tanh(1.5*x + t/700) + 0.3*torch.sin(5*x)


def start(seed=0): return torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exactly(a, b): torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0., 0.3, 1.])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("n_steps", [2, 10, 50])
def test_ddim(n_steps, clip, eta):
    theirs = with_float64_tables(DDIMScheduler(**LEADING, clip_sample=clip, set_alpha_to_one=True))
    theirs.set_timesteps(n_steps)
    seen, noise = [], torch.Generator().manual_seed(5)
    ours = ddim_decode(eps_model, start(), n_steps, SCHEDULE, clip=clip, eta=eta, generator=torch.Generator().manual_seed(5),
                       callback=lambda i, t, x_t, x0: seen.append((t, x_t, x0)))
    x, clamped = start(), 0
    for (t, x_t, x0), their_t in zip(seen, theirs.timesteps.tolist(), strict=True):
        assert t == their_t
        fresh = dict(variance_noise=torch.randn(x.shape, dtype=x.dtype, generator=noise)) if eta and t else {}
        step = theirs.step(eps_model(x, t), t, x, eta=eta if t else 0., use_clipped_model_output=True, **fresh)
        exactly(x_t, step.prev_sample); exactly(x0, step.pred_original_sample)
        x, clamped = step.prev_sample, clamped + (x0.abs() == 1).sum().item()
    exactly(ours, x)
    assert (clamped > 0) == clip                                                              # both cases are what they claim to be


def test_ddim_derives_the_noise_again():
    "Without `use_clipped_model_output` diffusers keeps the old noise, which is another sampler."
    theirs = with_float64_tables(DDIMScheduler(**LEADING, clip_sample=True))
    theirs.set_timesteps(10)
    x = start()
    for t in theirs.timesteps.tolist(): x = theirs.step(eps_model(x, t), t, x).prev_sample
    assert (x - ddim_decode(eps_model, start(), 10, SCHEDULE)).abs().max() > 1e-3


@pytest.mark.parametrize("n_steps", [2, 10, 50])
def test_mirror(n_steps):
    theirs = with_float64_tables(DDIMInverseScheduler(**LEADING, clip_sample=False, set_alpha_to_one=True))
    theirs.set_timesteps(n_steps)
    seen, x = [], start().clamp(-1, 1)
    ours = invert(eps_model, x, n_steps, SCHEDULE, method="mirror", clip=False, callback=lambda i, t, x_t, x0: seen.append((t, x_t, x0)))
    for (t, x_t, x0), their_t in zip(seen, theirs.timesteps.tolist(), strict=True):
        step = theirs.step(eps_model(x, t), t, x)
        assert t == their_t
        exactly(x_t, step.prev_sample); exactly(x0, step.pred_original_sample)
        x = step.prev_sample
    exactly(ours, x)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_ddpm(t, clip):
    theirs, x = with_float64_tables(DDPMScheduler(**LINEAR, clip_sample=clip, variance_type="fixed_small")), 1.5*start()
    g = lambda: torch.Generator().manual_seed(1)
    ours = ddpm_step(x, eps_model(x, t), t, SCHEDULE, clip=clip, generator=g())
    exactly(ours, theirs.step(eps_model(x, t), t, x, generator=g()).prev_sample)


def test_forward_process():
    theirs, t = with_float64_tables(DDPMScheduler(**LINEAR)), torch.tensor([0, 731])
    exactly(q_sample(start(), t, start(1), SCHEDULE), theirs.add_noise(start(), start(1), t))
