"Blocks of `litevae_diffae.layers` against diffusers' own: the same names, the same numbers, the same gradients."
import pytest
import torch
from diffusers.models.attention_processor import Attention as DiffusersAttention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from litevae_diffae.layers import Attention, Downsample, ResBlock, Upsample, to_channels_last
from litevae_diffae.norm import is_channels_last

LAYOUTS = torch.contiguous_format, torch.channels_last


def randomize(module):
    "Random numbers in every parameter, the affine parts of the norms included."
    torch.manual_seed(0)
    for p in module.parameters(): nn.init.normal_(p, std=p[0].numel()**-0.5 if p.ndim > 1 else 0.5)
    return module


def compare(theirs, ours, layout, size=(12, 20)):
    "Strict loading both ways, then outputs and all gradients."
    ours.load_state_dict(randomize(theirs).state_dict())
    theirs.load_state_dict(ours.state_dict())
    if layout == torch.channels_last: to_channels_last(ours)
    c = next(p.shape[1] for n, p in ours.named_parameters() if p.ndim > 1)
    x = torch.randn(2, c, *size)
    xs = [x.clone().contiguous(memory_format=f).requires_grad_() for f in (torch.contiguous_format, layout)]
    y_theirs = theirs(xs[0], None) if isinstance(theirs, ResnetBlock2D) else theirs(xs[0])
    y = ours(xs[1])
    torch.testing.assert_close(y, y_theirs, atol=2e-5, rtol=1e-4)
    assert layout == torch.contiguous_format or is_channels_last(y)
    dy = torch.randn_like(y_theirs)
    g_theirs = torch.autograd.grad(y_theirs, [xs[0], *theirs.parameters()], dy)
    grads = dict(zip([n for n, _ in theirs.named_parameters()], g_theirs[1:]))
    g = torch.autograd.grad(y, [xs[1], *ours.parameters()], dy)
    torch.testing.assert_close(g[0], g_theirs[0], atol=1e-4, rtol=1e-3)
    for (name, _), mine in zip(ours.named_parameters(), g[1:]):
        scale = grads[name].abs().max().clamp(min=1).item()
        torch.testing.assert_close(mine, grads[name], atol=2e-5*scale, rtol=1e-3, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("c_in,c_out,groups", [(32, 64, 32), (64, 64, 32), (48, 48, 24)])
def test_res_block(c_in, c_out, groups, layout):
    theirs = ResnetBlock2D(in_channels=c_in, out_channels=c_out, temb_channels=None, groups=groups, eps=1e-6)
    compare(theirs, ResBlock(c_in, c_out), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("heads", [1, 4])
def test_attention(heads, layout):
    theirs = DiffusersAttention(64, heads=heads, dim_head=64//heads, rescale_output_factor=1, eps=1e-6, norm_num_groups=32,
                                residual_connection=True, bias=True, upcast_softmax=True, _from_deprecated_attn_block=True)
    compare(theirs, Attention(64, n_heads=heads), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_up_and_down(layout):
    compare(Upsample2D(16, use_conv=True), Upsample(16), layout)
    compare(Downsample2D(16, use_conv=True, padding=0, name="op"), Downsample(16), layout)
