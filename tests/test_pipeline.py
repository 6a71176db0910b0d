"""Networks for latent diffusion: their options, and their exchange with diffusers."""
from dataclasses import fields, replace

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
