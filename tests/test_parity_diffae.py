"""The official Diff-AE code's numbers on tiny models (tests/parity/diffae), against ours.

The files hold the weights and outputs of the authors' public code; tolerances: 1e-4 for codes, predicted noise and
finished images, 2e-3 for intermediate predicted images (errors there are divided by a tiny root of abar), 1e-10
relative for float64 tables."""
import json
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from litevae_diffae.diffae.model import slerp
from litevae_diffae.diffae.official import load_diffae_state_dict
from litevae_diffae.diffusion.ddim import ddim_decode
from litevae_diffae.diffusion.inversion import invert
from litevae_diffae.diffusion.schedule import Schedule, const_betas, ddim_timesteps, linear_betas, q_sample, respace
from litevae_diffae.diffusion.sections import section_timesteps
from litevae_diffae.diffusion.unet import timestep_embedding

HERE = Path(__file__).parent/"parity/diffae"
CONFIG = json.loads((HERE/"config.json").read_text())["a"] # settings, and the order of "train/grad_norms"
def read(name): return load_file(HERE/f"{name}.safetensors")
def close(got, want, atol=1e-4): torch.testing.assert_close(got.detach(), want, atol=atol, rtol=0)

@pytest.fixture(scope="module")
def io(): return {k: read(f"a_{k}_io") for k in ("autoenc", "ddpm", "latent")}

@pytest.fixture(scope="module")
def models(): return {k: load_diffae_state_dict(read(f"a_{k}_weights"), CONFIG[k]) for k in ("autoenc", "ddpm", "latent")}

def test_kinds(models):
    assert [type(m).__name__ for m in models.values()] == ["DiffAE", "DDIM", "LatentDDIM"]
    assert sum(p.numel() for p in models["autoenc"].parameters()) == 951_619

@pytest.mark.parametrize("prefix", ["", "model.", "ema_model."])
def test_prefixes(models, prefix):
    sd = {prefix + k: v for k,v in read("a_autoenc_weights").items()}
    sd["x_T"] = torch.zeros(1)
    latent = {f"{prefix}latent_net.{k}": v for k,v in read("a_latent_weights").items()}
    both = load_diffae_state_dict({**sd, **latent, "conds_mean": torch.zeros(1, 32), "conds_std": torch.ones(1, 32)}, CONFIG["autoenc"])
    z = torch.ones(1, 32)
    close(both.prior.eps(z, torch.tensor([3])), models["latent"].eps(z, torch.tensor([3])), 0)
    assert type(load_diffae_state_dict(latent, CONFIG["latent"])).__name__ == "LatentDDIM"

# schedules
@pytest.mark.parametrize("name,betas", [("linear", linear_betas()), ("const0.008", const_betas())])
def test_schedule(name, betas):
    s, full = read("schedules"), Schedule(betas)
    for got,want in ((full.betas, "betas"), (full.alphas_cumprod, "alphas_cumprod")): torch.testing.assert_close(got, s[f"{name}/{want}"], rtol=1e-10, atol=0)
    for T in (5, 10, 20, 25, 50, 100):
        short = respace(full, T)
        torch.testing.assert_close(short.betas, s[f"{name}/ddim{T}/betas"], rtol=1e-10, atol=0)
        torch.testing.assert_close(short.alphas_cumprod, s[f"{name}/ddim{T}/alphas_cumprod"], rtol=1e-10, atol=0)

@pytest.mark.parametrize("T", [5, 10, 20, 25, 50, 100])
@pytest.mark.parametrize("name,betas", [("linear", linear_betas()), ("const0.008", const_betas())])
def test_levels_of_both_directions(name, betas, T):
    "Each step of sampling ends at the official `alphas_cumprod_prev`, each step of inversion at `alphas_cumprod_next`."
    s, full = read("schedules"), Schedule(betas)
    eps = lambda x, t: torch.tanh(x + t/500)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    level, before, after = (s[f"{name}/ddim{T}/alphas_cumprod{k}"].tolist() for k in ("", "_prev", "_next"))
    for run, levels, order in ((ddim_decode, before, reversed(range(T))), (invert, after, range(T))):
        seen, state = [], x
        run(eps, x, T, full, clip=False, callback=lambda i, t, x_t, x0: seen.append((x_t, x0)))
        for (x_t, x0), i in zip(seen, order, strict=True):
            noise = eps(state, s[f"timesteps/ddim{T}"][i].item())
            torch.testing.assert_close(x0, (state - (1 - level[i])**0.5*noise)/level[i]**0.5, rtol=1e-9, atol=1e-9)
            state = levels[i]**0.5*x0 + (1 - levels[i])**0.5*noise
            torch.testing.assert_close(x_t, state, rtol=1e-9, atol=1e-9)

def test_timesteps_and_sinusoid():
    s = read("schedules")
    for T in (5, 10, 20, 25, 50, 100, 125, 200, 250, 500): assert torch.equal(ddim_timesteps(T), s[f"timesteps/ddim{T}"].long())
    for T in (10, 20, 50, 100): assert torch.equal(section_timesteps(T), s[f"timesteps/sections{T}"].long())
    assert torch.equal(section_timesteps([10, 15, 20], 300), s["timesteps/sections_10_15_20_of_300"].long())
    for d in (32, 33, 64, 128): close(timestep_embedding(s["sinusoid/t"], d), s[f"sinusoid/dim{d}"].float())

# the networks
def test_encoder(models, io):
    m, f = models["autoenc"], io["autoenc"]
    close(m.encode(f["x0"]), f["z_sem"])
    close(m.encoder.features(f["x0"]), f["enc_feature_2d"])

@pytest.mark.parametrize("kind", ["autoenc", "ddpm"])
def test_eps(models, io, kind):
    m, f = models[kind], io[kind]
    z = [f["z_sem"]] if kind == "autoenc" else []
    keys = [k for k in f if k.startswith("eps/t") and k != "eps/t_mixed"]
    assert keys
    for k in keys: close(m.eps(f["eps/x_t"], torch.full((2,), int(k[5:])), *z), f[k])
    close(m.eps(f["eps/x_t"], f["eps/t_mixed"], *z), f["eps/out_mixed"])
    close(timestep_embedding(f["temb/t"], m.config.model_channels), f["temb/sinusoid"])
    mlp = m.time_embed["time_embed"] if kind == "autoenc" else m.time_embed
    close(mlp(f["temb/sinusoid"]), f["temb/mlp"])
    if z: close(m.eps(f["eps/x_t"], torch.full((2,), 500), f["eps_zrand/z"]), f["eps_zrand/t500"])

def statistics(blocks, run): # name -> (mean, std) over the pixels of what the block puts out, and the number of comparisons to expect
    seen = {}
    hooks = [m.register_forward_hook(lambda m, args, out, k=k: seen.update({k: (out.mean((2, 3)), out.std((2, 3), correction=0))})) for k,m in blocks.items()]
    with torch.no_grad(): run()
    for h in hooks: h.remove()
    return seen

@pytest.mark.parametrize("kind,part", [("autoenc", "encoder"), ("autoenc", "unet_t500"), ("ddpm", "unet_t500")])
def test_block_by_block(models, io, kind, part):
    m, f = models[kind], io[kind]
    net = m.encoder if part == "encoder" else m
    lists = ("input_blocks", "output_blocks") if net is m else ("input_blocks",)
    blocks = {f"{l}.{i}": entry[-1] for l in lists for i,entry in enumerate(getattr(net, l))} | {"middle_block": net.middle_block[-1]}
    z = [f["z_sem"]] if kind == "autoenc" else []
    run = (lambda: net(f["x0"])) if part == "encoder" else lambda: m.eps(f["eps/x_t"], torch.full((2,), 500), *z)
    seen = statistics(blocks, run)
    assert {k for k in f if k.startswith(f"dbg_{part}/")} == {f"dbg_{part}/{k}/{s}" for k in seen for s in ("mean", "std")}
    for k,(mean, std) in seen.items(): close(mean, f[f"dbg_{part}/{k}/mean"]); close(std, f[f"dbg_{part}/{k}/std"])

# samplers
def compare_steps(seen, f, name): # the official files keep some of the paths, of the first image
    if f"{name}/x_steps_first" in f: close(torch.stack([x[0] for x,_ in seen]), f[f"{name}/x_steps_first"])
    if f"{name}/x0_steps_first" in f: close(torch.stack([x0[0] for _,x0 in seen]), f[f"{name}/x0_steps_first"], 2e-3)

def test_paths_are_there(io): # so that compare_steps compares something
    assert {"inv_T10/x_steps_first", "inv_T20/x0_steps_first", "dec_T10/x_steps_first", "dec_T20/x0_steps_first"} <= io["autoenc"].keys()
    assert "inv_T10/x0_steps_first" in io["ddpm"]

@pytest.mark.parametrize("kind", ["autoenc", "ddpm"])
@pytest.mark.parametrize("T", CONFIG["T"])
def test_samplers(models, io, kind, T):
    m, f = models[kind], io[kind]
    z = [f["z_sem"]] if kind == "autoenc" else []
    seen = []
    x_T = m.invert(f["x0"], *z, n_steps=T, callback=lambda i,t,x,x0: seen.append((x, x0)))
    close(x_T, f[f"inv_T{T}/x_T"])
    compare_steps(seen, f, f"inv_T{T}")
    close(m.decode(x_T, *z, n_steps=T), f[f"rec_T{T}/sample"])
    seen = []
    close(m.decode(f["dec/x_T"], *z, n_steps=T, callback=lambda i,t,x,x0: seen.append((x, x0))), f[f"dec_T{T}/sample"])
    compare_steps(seen, f, f"dec_T{T}")

@pytest.mark.parametrize("kind", ["autoenc", "ddpm"])
def test_no_clip(models, io, kind):
    m, f = models[kind], io[kind]
    z = [f["z_sem"]] if kind == "autoenc" else []
    close(m.decode(f["dec/x_T"], *z, n_steps=10, clip=False), f["dec_T10_noclip/sample"])
    close(m.invert(f["x0"], *z, n_steps=10, clip=False), f["inv_T10_noclip/x_T"])

def test_reconstruct(models, io):
    f = io["autoenc"]
    close(models["autoenc"].reconstruct(f["x0"], n_steps=10), f["rec_T10/sample"])

def test_interpolation(models, io):
    m, f = models["autoenc"], io["autoenc"]
    x_T, z = f["inv_T10/x_T"], f["z_sem"]
    for i,a in enumerate(f["interp/alpha"].tolist()): close(torch.lerp(z[0], z[1], a), f["interp/z"][i], 1e-5)
    theta = torch.cosine_similarity(x_T[:1].flatten(1), x_T[1:].flatten(1)).arccos()
    close(theta, f["interp/theta"], 1e-5)
    mid = slerp(x_T[:1], x_T[1:], 0.5)
    close(mid.view_as(f["interp/x_T_mid"]), f["interp/x_T_mid"])
    middle = m.interpolate(f["x0"][0], f["x0"][1], [0.5], n_steps=10)
    close(middle.view_as(f["interp/render_T10_mid"]), f["interp/render_T10_mid"])

# the latent net
def test_latent(models, io):
    m, f = models["latent"], io["latent"]
    for k in [k for k in f if k.startswith("pred/t")]: close(m.eps(f["x"], torch.full((4,), int(k[6:]))), f[k])
    close(m.eps(f["x"], f["t_mixed"]), f["pred_mixed"])
    close(timestep_embedding(f["temb/t"], 64), f["temb/sinusoid"]); close(m.time_embed(f["temb/sinusoid"]), f["temb/mlp"])
    for T in (10, 20):
        seen = []
        close(m.decode(f["noise"], T, callback=lambda i,t,x,x0: seen.append((x, x0))), f[f"sample_T{T}/z_normalized"])
        close(torch.stack([x for x,_ in seen]), f[f"sample_T{T}/x_steps"])
        close(torch.stack([x0 for _,x0 in seen]), f[f"sample_T{T}/x0_steps"], 2e-3)
    m.z_sem_mean.copy_(f["conds_mean"].flatten()); m.z_sem_std.copy_(f["conds_std"].flatten())
    z = m.denormalize(f["sample_T10/z_normalized"])
    close(z, f["sample_T10/z_denormalized"], 1e-5)
    close(models["autoenc"].decode(f["image_x_T"], z[:len(f["image_x_T"])], n_steps=10), f["image_T10"])

# manipulation
def test_manipulation(models, io):
    f = read("a_manipulation")
    clf = load_diffae_state_dict({k: f[k] for k in ("classifier.weight", "classifier.bias", "conds_mean", "conds_std")})
    name = clf.names[f["class_id"].item()]
    assert name == "Wavy_Hair"
    normalized = lambda z: (z - clf.z_sem_mean)/clf.z_sem_std
    close(normalized(f["z_sem"]), f["z_normalized"])
    close(clf.logits(f["z_sem"]), f["logits"]); close(clf.direction(name), f["direction"].flatten(), 1e-6)
    D = f["z_sem"].shape[1]
    for key,strength in (("sqrtd", 0.3), ("neg_sqrtd", -0.3), ("sqrt512", 0.3*(512/D)**0.5)):
        moved = clf.move(f["z_sem"], name, strength)
        close(normalized(moved), f[f"{key}/z_normalized_moved"]); close(moved, f[f"{key}/z_moved"]); close(clf.logits(moved), f[f"{key}/logits"], 2e-3)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(clf.logits(f["z_sem"]), (f["labels"] > 0).float())
    close(bce, f["bce_loss"].view(()), 1e-4)
    close(models["autoenc"].decode(io["autoenc"]["inv_T10/x_T"], clf.move(f["z_sem"], name, 0.3), n_steps=10), f["sqrtd/render_T10"])

# one training step
@pytest.mark.parametrize("kind", ["autoenc", "ddpm", "latent"])
def test_training_step(io, kind):
    m, f, order = load_diffae_state_dict(read(f"a_{kind}_weights"), CONFIG[kind]).eval(), io[kind], CONFIG[f"{kind}_param_order"]
    args = (f["train/x_start"], f["train/t"], f["train/noise"])
    close(q_sample(*args[:2], args[2], m.schedule), f["train/x_t"], 1e-5)
    loss = m.loss(*args)
    close(loss, f["train/loss_per_sample"], 1e-4); close(loss.mean(), f["train/loss"].view(()), 1e-4)
    loss.mean().backward()
    params = dict(m.named_parameters())
    norms = torch.stack([params[n].grad.norm() for n in order])
    torch.testing.assert_close(norms, f["train/grad_norms"], rtol=2e-3, atol=1e-5)
    total = torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
    torch.testing.assert_close(total, f["train/grad_norm_total"].view(()), rtol=1e-3, atol=0)
    opt = torch.optim.AdamW(m.parameters(), 1e-4, weight_decay=0.01) if kind == "latent" else torch.optim.Adam(m.parameters(), 1e-4)
    before = {n: p.detach().clone() for n,p in params.items()}
    for k in [k for k in f if k.startswith("train/grad_clipped/")]: close(params[k[len("train/grad_clipped/"):]].grad, f[k], 1e-4)
    opt.step()
    for k in [k for k in f if k.startswith("train/after_step/")]: close(params[k[len("train/after_step/"):]], f[k], 2e-5)
    for k in [k for k in f if k.startswith("train/ema_after_step/")]:
        n = k[len("train/ema_after_step/"):]
        close(0.9999*before[n] + 0.0001*params[n].detach(), f[k], 1e-6)
