"""Configurations of the family beside set `a` of the parity files: the same weights, under their official names, in the package's networks
and in the plain ones of `bench.plain_diffae`, which are themselves held to the official numbers."""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from litevae_diffae.bench.plain_diffae import PlainLatentNet, PlainUNet, redrawn
from litevae_diffae.diffae.official import load_diffae_state_dict

HERE = Path(__file__).parent/"parity/diffae"
SET_A = json.loads((HERE/"config.json").read_text())["a"]
AUTOENC, DDPM, LATENT = (SET_A[k] for k in ("autoenc", "ddpm", "latent"))

AUTOENCODERS = {
    "several heads": dict(num_heads=4),
    "one level": dict(channel_mult=[1]),
    "three levels, two blocks": dict(channel_mult=[1, 2, 2], num_res_blocks=2, enc_num_res_blocks=2, enc_channel_mult=[1, 2, 2, 2]),
    "deeper encoder": dict(enc_channel_mult=[1, 1, 2, 2, 3]),
    "shallower encoder": dict(enc_channel_mult=[2]),
    "encoder like the U-Net": dict(enc_channel_mult=None, enc_num_res_blocks=3),
    "plain resampling": dict(resblock_updown=False),
    "plain resampling, three levels": dict(resblock_updown=False, channel_mult=[1, 1, 2], num_heads=2),
    "odd widths": dict(model_channels=15, channel_mult=[1, 1], enc_channel_mult=[1, 2], num_heads=3, embed_channels=33, enc_out_channels=33),
    "z_dim is not embed_channels": dict(embed_channels=48, enc_out_channels=20, resnet_cond_channels=20),
    "wide time": dict(embed_channels=7, enc_out_channels=7),
    "attention elsewhere": dict(attention_resolutions=[32, 16], enc_attn_resolutions=[8]),
    "attention in the middle only": dict(attention_resolutions=[], num_heads=2),
    "grey": dict(in_channels=1),
    "five channels": dict(in_channels=5),
    "narrower first level": dict(channel_mult=[2, 1], enc_channel_mult=[2, 1, 3]),
}
BASELINES = {
    "set a": {},
    "four heads, two blocks": dict(num_heads=4, num_res_blocks=2, channel_mult=[1, 2, 2]),
    "plain resampling": dict(resblock_updown=False, channel_mult=[1, 2]),
    "odd widths": dict(model_channels=9, channel_mult=[1, 1], num_heads=3, embed_channels=21, in_channels=1),
}
LATENTS = {
    "set a": {},
    "some skips": dict(skip_layers=[1, 3], num_layers=5),
    "no skips": dict(skip_layers=[], num_layers=3),
    "odd time, other widths": dict(num_channels=17, num_hid_channels=40, num_time_emb_channels=33, num_layers=6, skip_layers=[2, 3, 4, 5]),
}


def under(prefix, module): return {prefix + k: v for k, v in module.state_dict().items()}


def close(got, want, atol=1e-4):
    torch.testing.assert_close(got.detach(), want.detach(), atol=atol*max(1, want.abs().max().item()), rtol=0)


@pytest.mark.parametrize("kind", ["autoenc", "ddpm"])
def test_plain_networks_are_the_official_ones(kind):
    f, plain = load_file(HERE/f"a_{kind}_io.safetensors"), PlainUNet(SET_A[kind]).eval()
    plain.load_state_dict({k: v.float() for k, v in load_file(HERE/f"a_{kind}_weights.safetensors").items()})
    with torch.no_grad():
        if kind == "autoenc": close(plain.encoder(f["x0"]), f["z_sem"])
        close(plain(f["eps/x_t"], f["eps/t_mixed"], f.get("z_sem")), f["eps/out_mixed"])


def test_plain_latent_net_is_the_official_one():
    f, plain = load_file(HERE/"a_latent_io.safetensors"), PlainLatentNet(LATENT).eval()
    plain.load_state_dict({k: v.float() for k, v in load_file(HERE/"a_latent_weights.safetensors").items()})
    close(plain(f["x"], f["t_mixed"]), f["pred_mixed"])


@pytest.mark.parametrize("size", [(32, 32), (32, 16)], ids=["square", "wide"])
@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.no_grad()
def test_autoencoders(name, size):
    settings = {**AUTOENC, **AUTOENCODERS[name]}
    plain = redrawn(PlainUNet(settings))
    ours = load_diffae_state_dict({**under("ema_model.", plain), **under("model.", PlainUNet(settings)), "x_T": torch.zeros(1)}, settings)
    assert ours.state_dict().keys() == plain.state_dict().keys() and ours.config.z_dim == settings["enc_out_channels"]
    g = torch.Generator().manual_seed(1)
    x, noise = (torch.randn(2, ours.config.in_channels, *size, generator=g) for _ in "ab")
    x, t = x.clamp(-1, 1), torch.tensor([0, 631])
    z = plain.encoder(x)
    close(ours.encode(x), z)
    close(ours.eps(noise, t, z), plain(noise, t, z))
    assert (ours.eps(noise, t, z.flip(0)) - ours.eps(noise, t, z)).abs().max() > 1e-3            # the code reaches the network


@pytest.mark.parametrize("name", BASELINES)
@torch.no_grad()
def test_baselines(name):
    settings = {**DDPM, **BASELINES[name]}
    plain = redrawn(PlainUNet(settings))
    ours = load_diffae_state_dict(under("ema_model.", plain), settings)
    assert type(ours).__name__ == "DDIM"
    x, t = torch.randn(2, ours.config.in_channels, 32, 48, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 999])
    close(ours.eps(x, t), plain(x, t))


@pytest.mark.parametrize("name", LATENTS)
@torch.no_grad()
def test_latent_nets(name):
    settings = {**LATENT, **LATENTS[name]}
    plain = redrawn(PlainLatentNet(settings))
    z, t = torch.randn(3, settings["num_channels"], generator=torch.Generator().manual_seed(1)), torch.tensor([0, 500, 999])
    want = plain(z, t)
    for config in (settings, None):                                                               # the sizes can also be read off the tensors
        close(load_diffae_state_dict(under("ema_model.latent_net.", plain), config).eps(z, t), want)


@pytest.mark.parametrize("change", [dict(num_heads=2), dict(embed_channels=16), dict(channel_mult=[1, 2, 2]), dict(resblock_updown=False), dict(enc_num_res_blocks=2)], ids=str)
def test_another_configuration_is_refused_or_differs(change):
    "A setting that changes names or shapes can't be overlooked; the number of heads changes neither, but the numbers."
    plain, settings = redrawn(PlainUNet(AUTOENC)), {**AUTOENC, **change}
    if "embed_channels" in change: settings["resnet_cond_channels"] = 32
    if "num_heads" not in change:
        with pytest.raises(ValueError, match="official weights of DiffAE: [0-9]+ tensors (missing|unexpected|of the wrong shape)"): load_diffae_state_dict(plain.state_dict(), settings)
        return
    x = torch.randn(1, 3, 32, 32).clamp(-1, 1)
    with torch.no_grad(): assert (load_diffae_state_dict(plain.state_dict(), settings).encode(x) - plain.encoder(x)).abs().max() > 1e-3
