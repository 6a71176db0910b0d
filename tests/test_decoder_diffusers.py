"The decoder against diffusers' AutoencoderKL: its weights load strictly and give the same images."
import diffusers, pytest, torch
from torch import nn
from litevae_diffae.litevae.decoder import Decoder

def random_decoder(widths, groups, layers, z_channels, attention, out_channels=3):
    "A diffusers decoder whose weights, norms included, are all random."
    n = len(widths)
    vae = diffusers.AutoencoderKL(in_channels=out_channels, out_channels=out_channels, latent_channels=z_channels, block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",)*n, up_block_types=("UpDecoderBlock2D",)*n, layers_per_block=layers,
        norm_num_groups=groups, mid_block_add_attention=attention)
    for m in vae.decoder.modules():
        if isinstance(m, nn.GroupNorm): nn.init.normal_(m.weight, 1, 0.2); nn.init.normal_(m.bias, 0, 0.2)
    return vae.decoder.eval()

CASES = [((32, 64, 64), 32, 2, 4, True), ((32, 64, 128, 128), 32, 2, 4, True), ((64,), 32, 1, 3, True), ((16, 16), 16, 1, 12, True),
         ((8, 8, 8, 8), 8, 2, 4, False), ((32, 96), 32, 3, 4, True)]

@pytest.mark.parametrize("widths,groups,layers,z_channels,attention", CASES)
def test_equal_outputs(widths, groups, layers, z_channels, attention):
    torch.manual_seed(0)
    theirs = random_decoder(widths, groups, layers, z_channels, attention)
    ours = Decoder(z_channels=z_channels, channels=1, mult=widths, n_res_blocks=layers, attention=attention).eval()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for size in ((6, 6), (5, 3)):
        z = torch.randn(2, z_channels, *size)
        with torch.no_grad(): expected, image = theirs(z), ours(z)
        assert expected.std() > 0.05
        assert (image - expected).abs().max() < 1e-4
        with torch.no_grad(): image = ours.to(memory_format=torch.channels_last)(z)
        assert (image - expected).abs().max() < 1e-4

def test_equal_gradients():
    torch.manual_seed(0)
    theirs = random_decoder((32, 64), 32, 1, 4, True)
    ours = Decoder(channels=32, mult=(1, 2), n_res_blocks=1)
    ours.load_state_dict(theirs.state_dict())
    z = torch.randn(2, 4, 4, 6)
    for model in (ours, theirs): model(z).square().mean().backward()
    grads = {name: p.grad for name,p in theirs.named_parameters()}
    for name,p in ours.named_parameters(): torch.testing.assert_close(p.grad, grads[name], rtol=1e-3, atol=1e-5, msg=lambda m: f"{name}: {m}")

def test_full_size_names_and_shapes():
    "Stable Diffusion's own configuration, on the meta device."
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKL(block_out_channels=(128, 256, 512, 512), latent_channels=4, down_block_types=("DownEncoderBlock2D",)*4,
                                         up_block_types=("UpDecoderBlock2D",)*4, layers_per_block=2).decoder
        ours = Decoder()
    shapes = lambda model: {name: tuple(p.shape) for name,p in model.state_dict().items()}
    assert shapes(ours) == shapes(theirs)
