"""A compiler, an exporter and `torch.func` see every network as one graph of plain operations, and compute what eager mode computes."""
import pytest
import torch
from litevae_diffae import DDIM, DiffAE, KLVAE, LiteVAE
from litevae_diffae.layers import group_norm_silu, plain_ops
from litevae_diffae.litevae.smc import SMCResBlock
from litevae_diffae.litevae.wavelets import dwt2, idwt2, wavedec2, waverec2
from torch.export import Dim, export
from torch.func import functional_call, grad, hessian, jacrev, vmap

small = dict(extractor_channels=8, extractor_mult=(1,), aggregator_channels=8, aggregator_mult=(1,), n_res_blocks=1, z_channels=4,
             decoder_channels=8, decoder_mult=(1, 1, 2, 2), decoder_res_blocks=1)
unet = dict(image_size=32, model_channels=32, channel_mult=(1, 2), n_res_blocks=1, attention_resolutions=(8,), embed_channels=32, dropout=0.)
haar_unet = dict(stem="haar", prediction_type="v", band_rms=(1., .5, .5, .3), loss_weight="band")
diffae = dict(unet, z_dim=16, enc_channel_mult=(1, 2), enc_n_res_blocks=1, attention_resolutions=(16,))


def image(n=2, c=3, h=16, w=16):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(0))*2 - 1


def vae(**fields):
    torch.manual_seed(0)
    return LiteVAE.from_preset("litevae-tiny", **{**small, **fields}).eval()


def awake(model):
    "Give layers that start at zero something to say."
    torch.manual_seed(1)
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p.data, std=0.1)
    return model.eval()


class Eps(torch.nn.Module):
    "The network's noise, as a module."
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args):
        return self.model.eps(*args)


def encoder(**fields):
    return vae(**fields).encoder, (image(h=16, w=24),)


def decoder(**fields):
    return awake(vae(**fields)).decoder, (torch.randn(2, 4, 2, 3),)


def whole(**fields):
    return awake(vae(**fields)), (image(h=17, w=24),)


def klvae():
    torch.manual_seed(0)
    return KLVAE.from_preset("sd-vae-f8", block_out_channels=(8, 16), n_res_blocks=1).eval(), (image(),)


def smc():
    return SMCResBlock(4, 8), (torch.randn(2, 4, 6, 5),)


t = torch.tensor([3, 500])


def denoiser(**fields):
    return Eps(awake(DDIM.from_preset("ddim-tiny", **{**unet, **fields}))), (image(h=32, w=32), t)


def conditional():
    return Eps(awake(DiffAE.from_preset("diffae-tiny", **diffae))), (image(h=32, w=32), t, torch.randn(2, 16))


def semantic():
    return awake(DiffAE.from_preset("diffae-tiny", **diffae)).encoder, (image(h=32, w=32),)


networks = {"encoder": encoder, "nafnet": lambda: encoder(extractor="nafnet"), "vit": lambda: encoder(aggregator="vit"),
            "decoder": decoder, "decoder gn": lambda: decoder(decoder="gn", output="image", decoder_final_norm=True, decoder_attention=True),
            "litevae": lambda: whole(decoder="mixed", decoder_final_norm=True), "klvae": klvae, "smc": smc,
            "denoiser": denoiser, "denoiser haar": lambda: denoiser(**haar_unet), "conditional": conditional, "semantic": semantic}


def run(net, args, precision):
    "Output and all gradients, in float32."
    args = [a.clone().requires_grad_() if a.is_floating_point() else a for a in args]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        y = net(*args)
    y = (getattr(y, "sample", y)).float()
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    net.zero_grad()
    (y*weights).sum().backward()
    grads = [a.grad for a in args if a.is_floating_point()] + [p.grad for p in net.parameters()]
    return [y.detach(), *(torch.zeros(1) if g is None else g.float().clone() for g in grads)]


def near(ours, theirs, tol):
    total = sum(b.square().sum() for b in theirs[1:]).sqrt()
    assert (ours[0] - theirs[0]).norm() <= tol*theirs[0].norm()
    assert sum((a - b).square().sum() for a, b in zip(ours[1:], theirs[1:], strict=True)).sqrt() <= tol*total


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
@pytest.mark.parametrize("name", networks)
def test_one_graph_forward_and_backward(name, precision):
    net, args = networks[name]()
    if precision == "bfloat16":
        net, args = net.bfloat16(), [a.bfloat16() if a.is_floating_point() else a for a in args]
    backend = "aot_eager" if precision == "float32" else "eager"
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    near(run(compiled, args, precision), run(net, args, precision), 1e-4 if precision == "float32" else 0.06)
