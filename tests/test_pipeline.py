"""Networks for latent diffusion: their options, and their exchange with diffusers."""
import copy

import pytest
import torch
from torch import nn

from litevae_diffae.core import n_params
from litevae_diffae.diffusion.unet import UNet, UNetConfig

LDM4 = dict(image_size=64, model_channels=224, channel_mult=(1, 2, 3, 4), embed_channels=896, attention_resolutions=(32, 16, 8), head_channels=32, scale_shift=False,
            resblock_updown=False)
# `unet/config.json` of CompVis/ldm-celebahq-256
CELEBAHQ = dict(sample_size=64, in_channels=3, out_channels=3, center_input_sample=False, time_embedding_type="positional", freq_shift=0, flip_sin_to_cos=True,
                down_block_types=("DownBlock2D", *["AttnDownBlock2D"]*3), up_block_types=(*["AttnUpBlock2D"]*3, "UpBlock2D"), block_out_channels=(224, 448, 672, 896), layers_per_block=2,
                mid_block_scale_factor=1, downsample_padding=1, act_fn="silu", attention_head_dim=32, norm_num_groups=32, norm_eps=1e-5)
SMALL = dict(image_size=16, model_channels=32, channel_mult=(1, 2), n_res_blocks=1, embed_channels=48, attention_resolutions=(8,))


def awake(net, std=0.08, seed=0):
    "Random values for all parameters, those that start at zero too."
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g)*std + (p.ndim == 1 and bool((p == 1).all()))
    return net.eval()


def test_ldm_of_faces_has_the_published_size():
    with torch.device("meta"):
        ours = UNet(UNetConfig(**LDM4))
    assert n_params(ours) == 274_056_163


def test_its_size_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        theirs = diffusers.UNet2DModel(**CELEBAHQ)
    assert n_params(theirs) == 274_056_163


def test_head_channels_is_a_number_of_heads():
    one, two = (awake(UNet(UNetConfig(**SMALL, **kw))) for kw in (dict(head_channels=64), dict(n_heads=1)))
    x, t = torch.randn(3, 3, 16, 16), torch.tensor([0, 5, 999])
    assert torch.equal(one(x, t), two(x, t))
    heads = {m.n_heads for m in UNet(UNetConfig(**{**SMALL, "attention_resolutions": (16, 8)}, head_channels=16)).modules() if hasattr(m, "n_heads")}
    assert heads == {2, 4}


@pytest.mark.parametrize("kw,error", [(dict(head_channels=-8), "head_channels: must be 0 or positive, got -8"), (dict(head_channels=8, n_heads=4), "head_channels: must be 0 if n_heads"),
                                      (dict(head_channels=1.5), "head_channels"), (dict(scale_shift=3), "scale_shift"), (dict(head_channels=24), "must divide 64 channels, got 24")])
def test_bad_options_are_named(kw, error):
    with pytest.raises(ValueError, match=error):
        UNet(UNetConfig(**SMALL, **kw))


@pytest.mark.parametrize("z_dim", [None, 8])
def test_a_shifting_block_learns_in_all_its_parts(z_dim):
    net = awake(UNet(UNetConfig(**SMALL, scale_shift=False, dropout=0.), z_dim)).train()
    x, t, z = torch.randn(2, 3, 16, 16), torch.tensor([3, 400]), None if z_dim is None else torch.randn(2, z_dim)
    extra = torch.randn(2, 48, requires_grad=True)
    net(x, modulations=net.modulations(t, z, extra)).square().mean().backward()
    assert extra.grad.abs().min() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    # time must change more than the mean, which the norm takes out
    assert (net(x, t, z) - net(x, t.flip(0), z)).abs().max() > 1e-3


def test_recomputed_blocks_take_a_shift_alone():
    from litevae_diffae.recompute import checkpoint_blocks
    net = awake(UNet(UNetConfig(**SMALL, scale_shift=False, dropout=0.))).train()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 400])

    def gradients():
        net.zero_grad()
        net(x, t).square().mean().backward()
        return [p.grad.clone() for p in net.parameters()]
    want = gradients()
    checkpoint_blocks(net)
    for a, b in zip(gradients(), want):
        torch.testing.assert_close(a, b)


def test_older_saved_models_load(tmp_path):
    import json

    from litevae_diffae import DDIM
    model = DDIM.from_preset("ddim-tiny")
    awake(model)
    model.save_pretrained(tmp_path)
    path = tmp_path/"config.json"
    values = json.loads(path.read_text())

    def drop(d):
        return {k: drop(v) if isinstance(v, dict) else v for k, v in d.items() if k not in ("scale_shift", "head_channels")}
    path.write_text(json.dumps(drop(values)))
    back = DDIM.from_pretrained(tmp_path)
    assert back.config == model.config and back.config.scale_shift and back.config.head_channels == 0
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), model.parameters()))


# diffusers' networks

diffusers = pytest.importorskip("diffusers")

NETWORKS = {
    "as Diff-AE": {},
    "layers resample": dict(resblock_updown=False),
    "time shifts": dict(scale_shift=False),
    "as LDM": dict(resblock_updown=False, scale_shift=False, channel_mult=(1, 2, 3), n_res_blocks=2, attention_resolutions=(8, 4), head_channels=32, embed_channels=128),
    "attention everywhere": dict(attention_resolutions=(16, 8), head_channels=16),
    "attention at the top": dict(attention_resolutions=(16,), scale_shift=False),
    "attention in the middle only": dict(attention_resolutions=(), resblock_updown=False),
    "two heads, one width": dict(n_heads=2),
    "four levels": dict(channel_mult=(1, 1, 2, 2), attention_resolutions=(8, 2), dropout=0.),
    "one level": dict(channel_mult=(1,), attention_resolutions=(16,)),
    "one level that shifts": dict(channel_mult=(1,), attention_resolutions=(), scale_shift=False, resblock_updown=False),
    "grey": dict(in_channels=1, n_res_blocks=2),
    "flow": dict(prediction_type="v", head_channels=8),
}
TIMES = {"integers": torch.tensor([0, 500, 999]), "fractions": torch.tensor([0.25, 17.5, 998.9]), "outside": torch.tensor([-3., 0., 1500.])}


def network(name, std=0.08): return awake(UNet(UNetConfig(**{**SMALL, **NETWORKS[name]})), std)


def noise(net, n=3): return torch.randn(n, net.config.in_channels, net.config.image_size, net.config.image_size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_equal_networks(ours, theirs, t):
    "To rounding: in float32, and in float64, where only the sinusoids and the softmax of the attention are float32."
    a, b = ours(noise(ours), t), theirs(noise(ours), t).sample
    assert b.std() > 1e-3
    assert (a - b).square().mean().sqrt() < 1e-5*b.std().clamp_min(1) and (a - b).abs().max() < 5e-5*b.std().clamp_min(1)
    ours, theirs = copy.deepcopy(ours).double(), nn.Module.to(copy.deepcopy(theirs), torch.float64)
    a, b = ours(noise(ours).double(), t), theirs(noise(ours).double(), t).sample
    assert (a - b).abs().max() < 2e-6*b.std().clamp_min(1)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", ["as Diff-AE", "as LDM"])
def test_unet_there(name, times):
    from litevae_diffae.diffusion.diffusers import unet_to_diffusers
    net = network(name)
    assert_equal_networks(net, unet_to_diffusers(net), TIMES[times])


@pytest.mark.parametrize("name", ["as Diff-AE", "as LDM"])
def test_unet_takes_one_time_for_all(name):
    from litevae_diffae.diffusion.diffusers import unet_to_diffusers
    net = network(name)
    theirs = unet_to_diffusers(net)
    with torch.no_grad():
        for t in (7, torch.tensor(7), torch.tensor(7.5)):
            want = net(noise(net), torch.as_tensor(t).expand(3))
            torch.testing.assert_close(theirs(noise(net), t).sample, want, rtol=0, atol=5e-5*max(1, want.std().item()))


@pytest.mark.parametrize("name", NETWORKS)
def test_unet_and_back(name, tmp_path):
    from litevae_diffae.diffusion.diffusers import load_unet2d, unet_to_diffusers
    net = network(name)
    theirs = unet_to_diffusers(net)
    theirs.save_pretrained(tmp_path)
    for source in (theirs, diffusers.UNet2DModel.from_pretrained(tmp_path)):
        back = load_unet2d(source)
        assert back.state_dict().keys() == net.state_dict().keys()
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in back.state_dict().items())
        same = {k: getattr(net.config, k) for k in ("image_size", "in_channels", "model_channels", "channel_mult", "n_res_blocks", "embed_channels", "dropout", "scale_shift")}
        assert same == {k: getattr(back.config, k) for k in same}
        assert_equal_networks(back, theirs, TIMES["fractions"])


THEIRS = {
    "LDM": dict(block_out_channels=(32, 64, 96, 128), attention_head_dim=32),
    "no width of heads": dict(block_out_channels=(32, 64), down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None),
    "resnets": dict(block_out_channels=(32, 64, 64), down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"), layers_per_block=1,
                    up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"), downsample_type="resnet", upsample_type="resnet"),
    "scale and shift": dict(block_out_channels=(64, 64), down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D"), layers_per_block=3,
                            resnet_time_scale_shift="scale_shift", attn_norm_num_groups=32, time_embedding_dim=40, in_channels=5, out_channels=5),
}


@pytest.mark.parametrize("name", THEIRS)
def test_theirs_here_and_there(name):
    from litevae_diffae.diffusion.diffusers import load_unet2d, unet_to_diffusers
    theirs = awake(diffusers.UNet2DModel(sample_size=16, **THEIRS[name]))
    ours = load_unet2d(theirs)
    assert n_params(ours) == n_params(theirs)
    for t in TIMES.values():
        assert_equal_networks(ours, theirs, t)
    again = unet_to_diffusers(ours)
    assert again.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in again.state_dict().items())


def test_celebahq_is_the_network_of_the_paper():
    from litevae_diffae.diffusion.diffusers import unet2d_config, unet2d_settings
    config = unet2d_settings(CELEBAHQ)
    assert config == UNetConfig(**LDM4, dropout=0.)
    with torch.device("meta"):
        ours, theirs = UNet(config), diffusers.UNet2DModel(**CELEBAHQ)
        made = diffusers.UNet2DModel(**unet2d_config(config))
    assert n_params(ours) == 274_056_163
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("kw,z_dim,error", [
    (dict(stem="haar"), None, "stem: conv expected"), (dict(prediction_type="v", band_rms=(1.,)), None, "band_rms: "), ({}, 8, "z_dim: None"), (dict(n_heads=4, attention_resolutions=(16,)), None, "n_heads: 1"),
    (dict(channel_mult=(2, 2)), None, "channel_mult: 1 at the first level"), (dict(model_channels=16, channel_mult=(1, 1)), None, "model_channels: 32 or more")])
def test_what_diffusers_lacks_is_named(kw, z_dim, error):
    from litevae_diffae.diffusion.diffusers import unet_to_diffusers
    with pytest.raises(ValueError, match=error):
        unet_to_diffusers(UNet(UNetConfig(**{**SMALL, **kw}), z_dim))


@pytest.mark.parametrize("bad,error", [
    (dict(freq_shift=1), "freq_shift"), (dict(norm_eps=1e-6), "norm_eps"), (dict(num_class_embeds=10), "num_class_embeds"), (dict(act_fn="gelu"), "act_fn"), (dict(norm_num_groups=16), "norm_num_groups"),
    (dict(sample_size=(64, 32)), "sample_size"), (dict(upsample_type="resnet"), "resample everywhere"), (dict(resnet_time_scale_shift="spatial"), "resnet_time_scale_shift"),
    (dict(attention_head_dim=100), "head_channels: must divide"), (dict(sample_size=60), "image_size: must be a multiple of 8"), (dict(nonsense=1), "unknown fields nonsense")])
def test_what_is_lacking_here_is_named(bad, error):
    from litevae_diffae.diffusion.diffusers import load_unet2d
    with torch.device("meta"), pytest.raises(ValueError, match=error):
        load_unet2d({}, {**CELEBAHQ, **bad})


# Pipelines

def kl(**kw):
    from litevae_diffae.litevae.klvae import KLVAE
    torch.manual_seed(3)
    model = KLVAE.from_preset("sd-vae-f8", **{**dict(block_out_channels=(32, 64, 64), n_res_blocks=1), **kw}).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p += 0.2*torch.randn_like(p)
    return model


def lite(**kw):
    from litevae_diffae.litevae.model import LiteVAE
    torch.manual_seed(3)
    return LiteVAE.from_preset("litevae-tiny", zero_init=False, z_channels=4, **kw).eval()


def wavelets():
    from litevae_diffae.litevae.fixed_code import WaveletVAE
    torch.manual_seed(3)
    return WaveletVAE.from_preset("dwt", decoder_channels=32, decoder_res_blocks=1).eval()


VAES = {
    "KL": (kl, "AutoencoderKL"), "KL, no convolutions": (lambda: kl(quant_conv=False, post_quant_conv=False), "AutoencoderKL"),
    "KL, one convolution": (lambda: kl(quant_conv=False), "AutoencoderKL"), "KL, SMC": (lambda: kl(decoder="smc"), "DiffusersAutoencoder"),
    "KL, folded SMC": (lambda: kl(decoder="smc", folded=True), "DiffusersAutoencoder"),
    "KL, circular": (lambda: kl(padding_mode="circular"), "DiffusersAutoencoder"), "LiteVAE": (lite, "DiffusersAutoencoder"),
    "LiteVAE, convolutions": (lambda: lite(quant_conv=True), "DiffusersAutoencoder"), "wavelets": (wavelets, "DiffusersAutoencoder"),
}


def pictures(n=4, side=64):
    "Smooth images whose latents differ from channel to channel."
    g = torch.Generator().manual_seed(4)
    return nn.functional.interpolate(torch.randn(n, 3, side//8, side//8, generator=g), scale_factor=8, mode="bicubic").clamp(-1, 1)


def with_statistics(vae):
    "An autoencoder whose channels differ in mean and standard deviation."
    from litevae_diffae.litevae.latents import compute_latent_stats
    compute_latent_stats(vae, pictures())
    return vae


@pytest.mark.parametrize("name", VAES)
def test_normalized_autoencoder(name, tmp_path):
    from litevae_diffae.interop import normalized_autoencoder
    make, kind = VAES[name]
    vae = with_statistics(make())
    theirs = normalized_autoencoder(vae)
    assert type(theirs).__name__ == kind and theirs.config.scaling_factor == 1
    assert theirs.config.latents_mean is None and theirs.config.latents_std is None and theirs.config.shift_factor is None
    theirs.save_pretrained(tmp_path)
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    for twin in (theirs, type(theirs).from_pretrained(tmp_path)):
        x, std = pictures(3), torch.tensor(vae.config.latents_std).view(1, -1, 1, 1)
        with torch.no_grad():
            a, b = vae.encode(x).latent_dist, twin.encode(x, return_dict=False)[0]
            want = vae.normalize_latents(a.mean)
            scale = max(1., (1/std).max().item())                       # a latent of tiny spread shows the rounding of the encoder
            torch.testing.assert_close(b.mean, want, rtol=1e-5, atol=1e-5*scale)
            if name != "wavelets":                                      # whose log-variances are the least that there are
                torch.testing.assert_close(b.std, a.std/std, rtol=1e-4, atol=1e-5)
                seeds = [torch.Generator().manual_seed(5) for _ in range(2)]
                torch.testing.assert_close(b.sample(seeds[0]), vae.normalize_latents(a.sample(seeds[1])), rtol=1e-4, atol=1e-5*scale)
            z = torch.randn(want.shape, generator=torch.Generator().manual_seed(6))
            image = vae.decode(vae.denormalize_latents(z)).sample
            torch.testing.assert_close(twin.decode(z).sample, image, rtol=1e-5, atol=1e-5*max(1., image.abs().max().item()))
            torch.testing.assert_close(twin(x).sample, vae(x).sample, rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        for p in theirs.parameters():
            p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())


def test_one_factor_for_all_channels():
    "A Stable Diffusion autoencoder knows a scaling factor only."
    from dataclasses import replace

    from litevae_diffae.interop import normalized_autoencoder
    vae = kl()
    vae.config = replace(vae.config, scaling_factor=0.18215, shift_factor=0.1)
    theirs = normalized_autoencoder(vae)
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(pictures()).latent_dist.mean, vae.normalize_latents(vae.encode(pictures()).latent_dist.mean), rtol=1e-5, atol=1e-5)


def test_no_statistics_no_pipeline():
    from litevae_diffae.interop import normalized_autoencoder
    for make in (kl, lite):
        vae = make()
        with pytest.raises(ValueError, match="has no latent statistics yet"):
            normalized_autoencoder(vae)


def latent_net(vae, **kw):
    c = dict(image_size=8, in_channels=vae.config.latent_channels, model_channels=32, channel_mult=(1, 2), n_res_blocks=1, embed_channels=128, attention_resolutions=(8, 4),
             resblock_updown=False, head_channels=16)
    return awake(UNet(UNetConfig(**{**c, **kw})), 0.05)


@torch.no_grad()
def by_hand(vae, net, kind, n_steps, x, labels=None):
    "What the pipeline should draw, step by step: DDIM on 1000 linear betas, or Euler."
    if kind == "flow":
        grid = (1 - torch.linspace(1, 1e-3, n_steps + 1, dtype=torch.float64)).flip(0).tolist()
        for s, s_to in zip(grid, grid[1:]):
            x = x + (s_to - s)*net(x, torch.full((len(x),), int(1000*s)))
    else:
        abar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0).tolist()
        jump = 1000//n_steps
        for t in range(jump*(n_steps - 1), -1, -jump):
            a, b = abar[t], abar[t - jump] if t else 1.
            out = net(x, torch.full((len(x),), t))
            eps = out if kind == "eps" else a**0.5*out + (1 - a)**0.5*x
            x = b**0.5*(x - (1 - a)**0.5*eps)/a**0.5 + (1 - b)**0.5*eps
    image = vae.decode(vae.denormalize_latents(x)).sample
    return (image/2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def draw(pipe, n_steps, n=3):
    pipe.set_progress_bar_config(disable=True)
    return pipe(n, torch.Generator().manual_seed(7), num_inference_steps=n_steps, output_type="np").images


def start(net, n=3):
    c = net.config
    return torch.randn(n, c.in_channels, c.image_size, c.image_size, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("n_steps", [1, 4, 10])
@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_pipeline_draws_what_we_draw(kind, n_steps):
    from litevae_diffae.interop import ldm_pipeline
    vae = with_statistics(kl())
    net = latent_net(vae, scale_shift=kind == "flow")
    drawn, want = draw(ldm_pipeline(vae, net, kind), n_steps), by_hand(vae, net, kind, n_steps, start(net))
    assert want.std() > 0.05 and ((want > 0) & (want < 1)).mean() > 0.5
    assert abs(drawn - want).max() < 1e-4


@pytest.mark.parametrize("name", ["LiteVAE", "wavelets"])
def test_pipeline_of_other_autoencoders(name, tmp_path):
    from litevae_diffae.interop import ldm_pipeline
    vae = with_statistics(VAES[name][0]())
    net = latent_net(vae)
    pipe = ldm_pipeline(vae, net, "flow")
    drawn = draw(pipe, 4)
    assert abs(drawn - by_hand(vae, net, "flow", 4, start(net))).max() < 1e-4
    pipe.save_pretrained(tmp_path)
    assert (draw(diffusers.LDMPipeline.from_pretrained(tmp_path), 4) == drawn).all()


ALONE = """
import sys
class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "litevae_diffae": raise ImportError("not here: " + name)
sys.meta_path.insert(0, Nobody())
try: import litevae_diffae
except ImportError: pass
else: sys.exit("the package could be imported")
import numpy, torch
from diffusers import LDMPipeline
for kind in sys.argv[1:]:
    pipe = LDMPipeline.from_pretrained(kind)
    print({k: type(v).__module__.split(".")[0] + ":" + type(v).__name__ for k, v in pipe.components.items()})
    drawn = pipe(3, torch.Generator().manual_seed(7), num_inference_steps=4, output_type="np").images
    error = abs(drawn - numpy.load(kind + ".npy")).max()
    assert error < 1e-6, (kind, error)
assert not any(m.split(".")[0] == "litevae_diffae" for m in sys.modules)
"""


def test_pipelines_run_where_we_are_not_installed(tmp_path):
    import subprocess
    import sys

    import numpy as np

    from litevae_diffae.interop import ldm_pipeline
    vae = with_statistics(kl(quant_conv=False, post_quant_conv=False))
    kinds = ("eps", "v", "flow")
    for kind in kinds:
        pipe = ldm_pipeline(vae, latent_net(vae), kind)
        pipe.save_pretrained(tmp_path/kind)
        np.save(tmp_path/f"{kind}.npy", draw(pipe, 4))
    out = subprocess.run([sys.executable, "-c", ALONE, *kinds], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("diffusers:AutoencoderKL") == out.stdout.count("diffusers:UNet2DModel") == 3


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_a_model_with_its_autoencoder_becomes_a_pipeline(kind):
    "As a `LatentDiffusion` is: a U-Net that holds its autoencoder."
    from dataclasses import replace

    from litevae_diffae.interop import to_diffusers
    vae = with_statistics(kl())
    net = latent_net(vae)
    net.config = replace(net.config, prediction_type=kind)
    net.autoencoder = vae
    pipe = to_diffusers(net)
    assert type(pipe) is diffusers.LDMPipeline
    assert abs(draw(pipe, 4) - by_hand(vae, net, kind, 4, start(net))).max() < 1e-4


@pytest.mark.parametrize("levels", ["linear", "latent-diffusion", "stable-diffusion"])
@pytest.mark.parametrize("kind", ["eps", "v"])
def test_a_pipeline_has_the_noise_levels_of_its_model(kind, levels):
    from litevae_diffae.interop import to_diffusers
    from litevae_diffae.latent.model import LatentDiffusion
    vae = with_statistics(kl())
    model = LatentDiffusion.from_preset("ldm-tiny", autoencoder=vae, image_size=8, channel_mult=(1, 2), embed_channels=32, prediction_type=kind, noise_levels=levels,
                                        in_channels=vae.config.latent_channels)
    model = awake(model, 0.02).eval()
    want = (model.decode(start(model), 4)/2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(draw(to_diffusers(model), 4) - want).max() < 1e-4 < want.std()


def test_channels_must_fit():
    from litevae_diffae.interop import ldm_pipeline
    vae = with_statistics(kl())
    with pytest.raises(ValueError, match="vae: 3 latent channels expected, got 4"):
        ldm_pipeline(vae, UNet(UNetConfig(**SMALL)), "eps")
    with pytest.raises(ValueError, match="prediction_type: must be eps, v or flow, got 'x0'"):
        ldm_pipeline(vae, latent_net(vae), "x0")


@pytest.mark.parametrize("make", [kl, lite])
@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_latent_diffusion_becomes_a_pipeline_that_draws_the_same(kind, make):
    "A model with labels too, of which the pipeline knows nothing."
    model = pytest.importorskip("litevae_diffae.latent.model")
    from dataclasses import replace

    from litevae_diffae.interop import to_diffusers
    config = replace(model.ldm_presets["ldm-tiny"], prediction_type=kind, label_kind="class", label_names=("a", "b"))
    ldm = awake(model.LatentDiffusion(config), 0.05)
    ldm.autoencoder = with_statistics(make())
    want = ldm.sample(2, 4, generator=torch.Generator().manual_seed(7))
    want = (want/2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert want.std() > 0.05 and abs(draw(to_diffusers(ldm), 4, 2) - want).max() < 1e-4
