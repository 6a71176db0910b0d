"DPM-Solver++ (2M) step for step beside diffusers' DPMSolverMultistepScheduler."
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from litevae_diffae.diffusion.ddim import ddim_decode
from litevae_diffae.diffusion.dpm_solver import dpm_decode, logsnr_timesteps
from litevae_diffae.diffusion.schedule import Schedule, const_betas, ddim_timesteps, linear_betas

BETAS = dict(linear=linear_betas(), const=const_betas())
GRIDS = dict(logsnr=logsnr_timesteps, ddim=lambda n, schedule: ddim_timesteps(n, len(schedule)))


def model_for(schedule):
    "A fixed prediction whose image bends with the state, its neighbours and the time, and leaves [-1, 1]."
    def eps_model(x, t):
        abar = schedule.alphas_cumprod[t].item()
        return (x - abar**0.5 * 1.5 * torch.tanh(x + x.roll(1, -1) + t / 1000)) / (1 - abar)**0.5
    return eps_model


@torch.no_grad()
def theirs(x, betas, steps, clip):
    scheduler = DPMSolverMultistepScheduler(trained_betas=betas.numpy(), algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", lower_order_final=True,
                                            final_sigmas_type="zero", thresholding=clip, sample_max_value=1.)
    eps_model = model_for(Schedule(betas))
    scheduler.set_timesteps(timesteps=steps.flip(0).tolist())
    abar = Schedule(betas).alphas_cumprod[steps.flip(0)]
    exact = torch.cat([((1 - abar) / abar).sqrt(), torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(scheduler.sigmas.double(), exact, rtol=1e-3, atol=0)
    scheduler.sigmas, states = exact, []                     # theirs are summed up in float32, which alone moves states by 2e-4
    for t in scheduler.timesteps:
        x = scheduler.step(eps_model(x, t.item()), t, x).prev_sample
        states.append(x)
    return states


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("n_steps", [5, 20, 50])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", BETAS)
def test_equal_states(name, grid, n_steps, clip):
    x_T, schedule = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), Schedule(BETAS[name])
    ours = []
    out = dpm_decode(model_for(schedule), x_T, n_steps, schedule, clip, callback=lambda i, t, x, x_0: ours.append(x), grid=GRIDS[grid])
    assert torch.equal(out, ours[-1]) and len(ours) == n_steps
    for a, b in zip(ours, theirs(x_T, BETAS[name], GRIDS[grid](n_steps, schedule), clip)): torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_the_comparison_sees_a_difference():
    "DDIM, or clamping on one side only, is no equal of it."
    x_T, schedule = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), Schedule(linear_betas())
    want = theirs(x_T, linear_betas(), ddim_timesteps(10), True)[-1]
    assert (ddim_decode(model_for(schedule), x_T, 10, schedule) - want).abs().max() > 1e-2
    assert (dpm_decode(model_for(schedule), x_T, 10, schedule, clip=False, grid=GRIDS["ddim"]) - want).abs().max() > 1e-2
