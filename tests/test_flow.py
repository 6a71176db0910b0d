"""Flow matching: closed forms, the schedulers of diffusers state by state, and networks of images that predict the flow."""
import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from litevae_diffae import DDIM, DiffAE
from litevae_diffae.diffusion import model as diffusion
from litevae_diffae.diffusion.ddim import predict_x0
from litevae_diffae.diffusion.flow import flow_abar, flow_scale, flow_time, flow_to_eps, flow_to_x0
from litevae_diffae.diffusion.schedule import Schedule, const_betas, linear_betas, q_sample
from litevae_diffae.diffusion.unet import UNetConfig, network_time
from litevae_diffae.diffusion.weights import loss_weights
from litevae_diffae.latent.flow import (draw_times, euler_step, fixed_point_step, flow_decode, flow_grid, flow_invert, flow_sample, flow_velocity,
                                        gaussian_velocity, heun_step, mixture_velocity)

SCHEDULE = Schedule(linear_betas())


def normal(*shape, seed=0, dtype=torch.float64): return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def bent(x, s):
    "A made-up velocity: not linear, mixes neighbours, depends on the time."
    return 0.8*torch.tanh(1.5*x + x.roll(1, -1)) + 0.3*torch.sin(5*x + s)


def exactly(a, b, tol=1e-9): torch.testing.assert_close(a, b, rtol=tol, atol=tol)


# The bridge to DDPM

def test_time_and_level_by_hand():
    "Equal parts; three parts of noise to one of image (abar = 1/10); a triangle of three, four and five."
    assert [flow_time(a) for a in (1., .5, .1)] == pytest.approx([0, .5, .75]) and flow_time(.64) == pytest.approx(3/7)
    assert [flow_abar(s) for s in (0., .5, .75, 1.)] == pytest.approx([1, .5, .1, 0]) and flow_scale(.64) == pytest.approx(1.4)
    assert isinstance(flow_time(.3), float) and isinstance(flow_abar(.3), float)


@pytest.mark.parametrize("betas", [linear_betas(), const_betas()], ids=["linear", "const"])
def test_both_paths_visit_the_same_states(betas):
    schedule, t = Schedule(betas), torch.tensor([0, 10, 500, 999])
    x_0, eps = normal(4, 3, 2, 2), normal(4, 3, 2, 2, seed=1)
    abar = schedule.abar(x_0, t)
    s = flow_time(abar)
    x_s = flow_sample(x_0, s.flatten(), eps)
    exactly(q_sample(x_0, t, eps, schedule), flow_scale(abar)*x_s)
    exactly(flow_abar(s), abar)
    u = flow_velocity(x_0, eps)
    exactly(flow_to_eps(u, x_s, s), eps)
    exactly(flow_to_x0(u, x_s, s), x_0)
    assert (s.flatten().diff() > 0).all()


def test_u_is_the_derivative_of_the_path():
    x_0, eps = normal(5), normal(5, seed=1)
    exactly((flow_sample(x_0, .3 + 1e-4, eps) - flow_sample(x_0, .3 - 1e-4, eps))/2e-4, flow_velocity(x_0, eps), 1e-8)


def test_min_snr_of_the_flow_weighs_the_error_of_the_image():
    "min(SNR, 5) times the squared error of x_0, whose error is s times that of u: by the formula, and by a wrong guess at each level."
    abar = torch.tensor([.01, .5, .8, .99, .9999], dtype=torch.float64)
    s, snr = flow_time(abar), abar/(1 - abar)
    exactly(snr, ((1 - s)/s)**2)
    exactly(loss_weights(abar, "flow", "min_snr"), snr.clamp(max=5)*s**2)
    assert loss_weights(torch.tensor([.5]), "flow", "min_snr").tolist() == pytest.approx([.25])      # SNR 1, s 1/2
    assert loss_weights(abar, "flow", "none").tolist() == [1]*5
    u, wrong, x_s = normal(5), normal(5, seed=1), normal(5, seed=2)
    image = (flow_to_x0(wrong, x_s, s) - flow_to_x0(u, x_s, s))**2
    exactly((wrong - u)**2*loss_weights(abar, "flow", "min_snr"), image*snr.clamp(max=5))


def test_target_and_time_of_a_network():
    x_0, eps, abar = normal(2, 1, 1, 1), normal(2, 1, 1, 1, seed=1), torch.full((2, 1, 1, 1), .36)
    assert torch.equal(diffusion.target(x_0, eps, abar, "flow"), eps - x_0)
    t = torch.tensor([0, 400, 999])
    for kind in ("eps", "v"): assert network_time(UNetConfig(prediction_type=kind), t, SCHEDULE) is t
    told = network_time(UNetConfig(prediction_type="flow"), t, SCHEDULE)
    exactly(told.double(), 1000*flow_time(SCHEDULE.alphas_cumprod[t]), 1e-6)
    assert told.dtype == torch.float32 and 9.8 < told[0] < 10 and 990 < told[-1] < 1000


# Networks of images

SMALL = dict(image_size=8, model_channels=32, channel_mult=(1, 2), n_res_blocks=1, embed_channels=32, attention_resolutions=(), dropout=0.)
SMALL_AE = dict(**SMALL, z_dim=16, enc_channel_mult=(1, 1))


def awake(net):
    torch.manual_seed(0)
    for p in net.parameters(): torch.nn.init.normal_(p, std=.1)
    return net.eval()


def blocks(n, seed=0):
    "Images of one colour."
    return (2*torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed)) - 1).expand(-1, -1, 8, 8).contiguous()


@torch.no_grad()
def test_the_loss_by_hand():
    "The network is shown (1 - s) x_0 + s eps, is told 1000 s, and is compared with eps - x_0."
    net = awake(DDIM.from_preset("ddim-tiny", **SMALL, prediction_type="flow"))
    x_0, eps, t = blocks(3), normal(3, 3, 8, 8, dtype=torch.float32), torch.tensor([0, 500, 999])
    s = flow_time(SCHEDULE.alphas_cumprod[t]).float()
    u = net(flow_sample(x_0, s, eps), 1000*s)
    exactly(net.loss(x_0, t, eps), (u - (eps - x_0)).square().mean((1, 2, 3)), 1e-4)
    assert (net(flow_sample(x_0, s, eps), t) - u).abs().amax((1, 2, 3)).min() > 1e-2         # it does listen to the time
    weighted = awake(DDIM.from_preset("ddim-tiny", **SMALL, prediction_type="flow", loss_weight="min_snr"))
    snr = (1 - s)**2/s**2
    exactly(weighted.loss(x_0, t, eps), net.loss(x_0, t, eps)*snr.clamp(max=5)*s**2, 1e-4)


@torch.no_grad()
def test_noise_is_that_of_the_flow():
    "`eps` of both models, and the noise inside of a sampler: x_s + (1 - s) u."
    x, t, z = normal(2, 3, 8, 8, dtype=torch.float32), torch.tensor([300, 300]), normal(2, 16, dtype=torch.float32)
    abar = SCHEDULE.alphas_cumprod[300].item()
    s = flow_time(abar)
    x_s = x/flow_scale(abar)
    for net, more in ((DDIM.from_preset("ddim-tiny", **SMALL, prediction_type="flow"), ()), (DiffAE.from_preset("diffae-tiny", **SMALL_AE, prediction_type="flow"), (z,))):
        awake(net)
        u = net(x_s, torch.full((2,), 1000*s), *more)
        exactly(net.eps(x, t, *more), x_s + (1 - s)*u, 1e-5)
        seen = []
        end = net.decode(x, *more, 10, clip=False, callback=lambda i, t, x_t, x0: seen.append((t, x_t, x0)))
        assert seen[-1][0] == 0 and torch.equal(seen[-1][1], end)
        before, (at, _, x0) = seen[5][1], seen[6]
        level = SCHEDULE.alphas_cumprod[at].item()
        exactly(x0, predict_x0(before, net.eps(before, torch.full((2,), at), *more), level), 1e-4)


@pytest.mark.parametrize("stem", ["conv", "haar"])
def test_a_ddim_of_the_flow_learns_and_comes_back(stem):
    torch.manual_seed(0)
    net = DDIM.from_preset("ddim-tiny", **SMALL, prediction_type="flow", stem=stem)
    opt, losses, x = torch.optim.Adam(net.parameters(), 2e-3), [], blocks(64)
    for _ in range(80):
        loss = net.loss(x[torch.randint(64, (16,))]).mean()
        opt.zero_grad(); loss.backward(); opt.step()
        losses.append(loss.item())
    assert 1.1 < losses[0] < 1.6                            # |eps - x_0|^2 = 1 + 1/3 for uniform colours
    assert sum(losses[-10:])/10 < .5*losses[0]
    net.eval()
    images = blocks(4, seed=1)
    x_T = net.invert(images, 20, "fixed_point")
    assert (net.decode(x_T, 20) - images).abs().median() < .01
    for sampler in ("ddim", "dpm"):
        drawn = net.sample(16, 10, sampler=sampler, generator=torch.Generator().manual_seed(0))
        assert drawn.std((2, 3)).mean() < .5*torch.randn(16, 3, 8, 8).std((2, 3)).mean()     # nearly of one colour
    assert not torch.equal(net.decode(x_T, 10, eta=1., generator=torch.Generator().manual_seed(0)), net.decode(x_T, 10))


def test_a_diffae_of_the_flow_trains_inverts_and_is_saved(tmp_path):
    net = awake(DiffAE.from_preset("diffae-tiny", **SMALL_AE, prediction_type="flow", loss_weight="min_snr"))
    x = blocks(2)
    net.loss(x).mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.encoder.parameters())
    z = net.encode(x).detach()
    x_T = net.invert(x, z, 20, "fixed_point", n_iters=20, clip=False)
    exactly(net.decode(x_T, z, 20, clip=False), x, 1e-3)
    net.save_pretrained(tmp_path/"m")
    again = DiffAE.from_pretrained(tmp_path/"m")
    assert again.config.prediction_type == "flow" and torch.equal(again.decode(x_T, z, 5), net.decode(x_T, z, 5))


@pytest.mark.parametrize("fields, said", [
    (dict(prediction_type="x0"), "prediction_type: must be one of eps, v, flow, got 'x0'"),
    (dict(prediction_type="flow", band_rms=(.5,)), "band_rms: needs prediction_type v and 1 numbers (stem_levels), got 'flow' and 1"),
    (dict(prediction_type="flow", loss_weight="band"), "loss_weight: band needs band_rms, got none")])
def test_settings_are_refused_in_a_sentence(fields, said):
    with pytest.raises(ValueError) as e: DDIM.from_preset("ddim-tiny", **fields)
    assert str(e.value) == said


# Known answers

def path_of_a_gaussian(x, s, s_to, mean, std):
    "Exact flow of a Gaussian: a point stays as many standard deviations from the mean as it was."
    def spread(s): return ((1 - s)**2*std**2 + s**2)**.5
    return (1 - s_to)*mean + spread(s_to)/spread(s)*(x - (1 - s)*mean)


def test_the_velocity_of_a_gaussian_is_the_slope_of_its_path():
    x, h = normal(100, 1), 1e-5
    for s in (.01, .4, .9):
        there, back = (path_of_a_gaussian(x, s, s + k, -.2, .5) for k in (h, -h))
        exactly(gaussian_velocity(-.2, .5)(x, s), (there - back)/(2*h), 1e-7)


def test_the_velocity_of_a_mixture_keeps_its_density():
    "Continuity: d/ds p = -d/dx (p u), by differences, for unequal shares."
    x, h, m, std, w = torch.linspace(-3, 3, 6001, dtype=torch.float64), 1e-4, (-1., .8), .3, (.7, .3)
    def density(s): return sum(k*(-(x - (1 - s)*c)**2/(2*((1 - s)**2*std**2 + s**2))).exp()/(2*math.pi*((1 - s)**2*std**2 + s**2))**.5 for k, c in zip(w, m))
    for s in (.1, .5, .9):
        flux = density(s)*mixture_velocity(m, std, w)(x[:, None], s)[:, 0]
        exactly(((density(s + h) - density(s - h))/(2*h))[1:-1], -(flux[2:] - flux[:-2])/(x[2:] - x[:-2]), 2e-4)


def test_times_may_differ_in_a_batch():
    x, s = normal(3, 2), torch.tensor([.2, .5, .8], dtype=torch.float64)
    for velocity in (gaussian_velocity(.3, .5), mixture_velocity([-1., 1.], .2), mixture_velocity(normal(4, 2, seed=1), .2, [1, 2, 3, 4])):
        exactly(velocity(x, s), torch.cat([velocity(x[i:i + 1], s[i].item()) for i in range(3)]))


@pytest.mark.parametrize("method, order", [("euler", 1), ("heun", 2)])
def test_orders_of_convergence(method, order):
    x = normal(200, 1)
    want = path_of_a_gaussian(x, .999, 0., -.2, .5)
    errors = [(flow_decode(gaussian_velocity(-.2, .5), x, n, method) - want).abs().max().item() for n in (40, 80, 160)]
    for a, b in zip(errors, errors[1:]): assert math.log2(a/b) == pytest.approx(order, abs=.12)
    back = [(flow_invert(gaussian_velocity(-.2, .5), want, n, method) - x).abs().max().item() for n in (40, 80, 160)]
    for a, b in zip(back, back[1:]): assert math.log2(a/b) == pytest.approx(order, abs=.15)


def test_shares_of_a_mixture_come_out():
    ends = flow_decode(mixture_velocity([-1., 1.], .1, weights=[3, 1]), normal(4000, 1), 50)
    assert (ends < 0).double().mean().item() == pytest.approx(.75, abs=.02)
    assert ends[ends < 0].mean().item() == pytest.approx(-1, abs=.02) and ends[ends > 0].std().item() == pytest.approx(.1, abs=.02)


@pytest.mark.parametrize("method, per_step, first", [("euler", 1, -1), ("heun", 2, -1), ("fixed_point", 4, 0)])
def test_calls_of_an_inversion(method, per_step, first):
    "At the data nothing is asked, for the velocity is known there; Heun still asks at the end of that step."
    calls = []
    def asked(x, s):
        calls.append(s)
        return bent(x, s)
    flow_invert(asked, normal(2, 3), 5, method)
    assert len(calls) == 5*per_step + first and min(calls) > 0


def test_refined_steps_undo_euler():
    x = normal(2, 3, 4, 4)
    exactly(euler_step(bent, fixed_point_step(bent, x, .3, .4, 60).x, .4, .3).x, x)
    for grid in (None, [.9, .5, .2, .05, .01, 0.]):
        x_1 = flow_invert(bent, x, 5, "fixed_point", n_iters=200, grid=grid)
        exactly(flow_decode(bent, x_1, 5, grid=grid), x, 1e-6)
    seen = []
    flow_invert(bent, x, 5, callback=lambda i, s, x, x_0: seen.append((i, s)))
    assert seen == list(enumerate(flow_grid(5).flip(0)[:-1].tolist()))


def test_nothing_is_clamped_and_nothing_is_tracked():
    x = torch.full((1, 4), 50., requires_grad=True)
    end = flow_decode(lambda x, s: 0*x, x, 4)
    assert torch.equal(end, x) and not end.requires_grad
    half = flow_decode(bent, x.detach().to(torch.bfloat16), 4)
    assert half.dtype == torch.bfloat16


def test_times_of_training():
    n, rng = 40_000, torch.Generator().manual_seed(0)
    for mean, std in ((0., 1.), (-.5, 2.)):
        s = draw_times(n, mean=mean, std=std, generator=rng).double()
        assert s.shape == (n,) and 0 < s.min() and s.max() < 1
        assert s.logit().mean().item() == pytest.approx(mean, abs=.04) and s.logit().std().item() == pytest.approx(std, rel=.03)
    s = draw_times(n, "uniform", generator=rng)
    assert s.mean().item() == pytest.approx(.5, abs=.01) and s.var().item() == pytest.approx(1/12, abs=.002)
    a, b = (draw_times(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, draw_times(5, generator=torch.Generator().manual_seed(4)))


def test_the_defaults_of_the_times():
    z = torch.randn(9, generator=torch.Generator().manual_seed(3))
    exactly(draw_times(9, generator=torch.Generator().manual_seed(3)), torch.sigmoid(z), 1e-6)


@pytest.mark.parametrize("call, said", [
    (lambda: flow_grid(0), "n_steps: must be positive, got 0"),
    (lambda: draw_times(0), "n: must be positive, got 0"),
    (lambda: draw_times(3, "beta"), "kind: must be logit-normal or uniform, got 'beta'"),
    (lambda: draw_times(3, std=0.), "std: must be positive, got 0.0"),
    (lambda: draw_times(3, mean="high"), "mean: "),
    (lambda: draw_times(3, "uniform", mean="high"), "mean: "),
    (lambda: draw_times(3, ["uniform"]), "kind: must be logit-normal or uniform, got "),
    (lambda: draw_times(3, generator=1), "generator: a torch.Generator or None expected"),
    (lambda: flow_sample(normal(2, 3), torch.ones(3), normal(2, 3)), "s: expected (2,), got (3,)"),
    (lambda: flow_sample(normal(2, 3), .5, normal(3)), "eps: expected (2, 3), got (3,)"),
    (lambda: mixture_velocity([0., 1.], 0.), "std: must be positive, got 0.0"),
    (lambda: mixture_velocity([0., 1.], .1, [1., -1.]), "weights: must be 2 numbers above 0, got "),
    (lambda: mixture_velocity([], .1), "means: "),
    (lambda: flow_decode(bent, normal(1, 2), 2.5), "n_steps: "),
    (lambda: flow_decode(bent, normal(1, 2), 2, "fixed_point"), "method: must be euler or heun, got 'fixed_point'"),
    (lambda: flow_decode(bent, normal(1, 2), 2, ["heun"]), "method: must be euler or heun, got "),
    (lambda: flow_decode(bent, normal(1, 2), 2, callback=1), "callback: a function or None expected"),
    (lambda: flow_decode(bent, normal(1, 2), 2, grid=[0., .5, 1.]), "grid: must be 3 falling times in [0, 1], got "),
    (lambda: flow_decode(bent, normal(1, 2), 2, grid=[1.5, .5, 0.]), "grid: must be 3 falling times in [0, 1], got "),
    (lambda: flow_decode(bent, normal(1, 2), 2, grid=.5), "grid: must be 3 falling times in [0, 1], got 0.5"),
    (lambda: flow_decode(bent, normal(1, 2), 2, grid=["a", "b", "c"]), "grid: must be 3 falling times in [0, 1], got "),
    (lambda: flow_invert(bent, normal(1, 2), 2, "official"), "method: must be euler, heun or fixed_point, got 'official'"),
    (lambda: flow_invert(bent, normal(1, 2), 2, "fixed_point", n_iters=0), "n_iters: must be positive, got 0")])
def test_bad_arguments_get_a_sentence(call, said):
    with pytest.raises(ValueError) as e: call()
    assert str(e.value).startswith(said) and "\n" not in str(e.value)


# The schedulers of diffusers: their tables are float32, so states agree to its digits

@torch.no_grad()
def states_of(scheduler, x, ask):
    found = []
    for t in scheduler.timesteps:
        x = scheduler.step(ask(x, t.item()/1000), t, x).prev_sample
        found.append(x)
    return found


def our_states(x, n, method="euler", grid=None):
    found = []
    end = flow_decode(bent, x, n, method, lambda i, s, x, x_0: found.append(x), grid)
    assert torch.equal(end, found[-1])
    return found


@pytest.mark.parametrize("n", [1, 5, 20])
def test_euler_is_that_of_diffusers(n):
    theirs = FlowMatchEulerDiscreteScheduler(shift=1.)
    theirs.set_timesteps(sigmas=flow_grid(n)[:-1].tolist())
    assert theirs.sigmas.tolist() == pytest.approx(flow_grid(n).tolist(), abs=1e-7)
    x = normal(2, 3, 4, 4, dtype=torch.float32)
    for a, b in zip(our_states(x, n), states_of(theirs, x, bent), strict=True): exactly(a, b, 1e-6)


@pytest.mark.parametrize("n", [2, 5, 20])
def test_heun_is_that_of_diffusers(n):
    "On their grid, from 1 to 1/1000 and then to 0, for they take no other; two of their steps are one of ours, but for the last."
    theirs = FlowMatchHeunDiscreteScheduler(shift=1.)
    theirs.set_timesteps(n)
    grid = theirs.sigmas[[*range(0, 2*n - 1, 2), -1]].tolist()
    assert grid == pytest.approx([*torch.linspace(1, .001, n).tolist(), 0.], abs=1e-6)
    x = normal(2, 3, 4, 4, dtype=torch.float32)
    ours = our_states(x, n, "heun", grid)
    both = states_of(theirs, x, bent)
    for a, b in zip(ours, [*both[1:-1:2], both[-1]], strict=True): exactly(a, b, 5e-5)        # they divide by sigma, down to 1/1000, in float32


@pytest.mark.parametrize("n", [2, 5, 20])
def test_first_order_of_dpm_is_euler(n):
    theirs = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", solver_order=1, algorithm_type="dpmsolver++", final_sigmas_type="zero")
    theirs.set_timesteps(n)
    assert theirs.sigmas.tolist() == pytest.approx(flow_grid(n).tolist(), abs=1e-7)
    x, found = normal(2, 3, 4, 4, dtype=torch.float32), []
    y = x
    for s, t in zip(flow_grid(n).tolist(), theirs.timesteps):
        y = theirs.step(bent(y, s), t, y).prev_sample
        found.append(y)
    for a, b in zip(our_states(x, n), found, strict=True): exactly(a, b, 5e-6)


def test_the_comparison_sees_a_difference():
    x = normal(2, 3, 4, 4, dtype=torch.float32)
    assert (flow_decode(bent, x, 5) - flow_decode(bent, x, 5, "heun")).abs().max() > 1e-2
    assert heun_step(bent, x, .5, 0.).x.equal(euler_step(bent, x, .5, 0.).x)
