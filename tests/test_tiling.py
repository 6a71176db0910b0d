"""Tiles: exact where a network is local, measured where it is not, and no larger than asked."""
import copy

import pytest
import torch
from litevae_diffae import KLVAE, LiteVAE
from litevae_diffae.litevae.decoder import Decoder
from litevae_diffae.litevae.tiling import decoder_radius, is_local, tiled_map, tiling_error

small = dict(extractor_channels=8, extractor_mult=(1,), aggregator_channels=8, aggregator_mult=(1,), n_res_blocks=1, z_channels=4,
             decoder_channels=8, decoder_mult=(1, 1, 1, 1), decoder_res_blocks=1, zero_init=False)
group_norm = dict(decoder="gn", decoder_attention=True, decoder_final_norm=True, output="image")


def vae(**fields):
    torch.manual_seed(0)
    return LiteVAE.from_preset("litevae-tiny", **{**small, **fields}).eval()


def image(h, w, n=1):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0))*2 - 1


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("fields, h, w", [({}, 28, 40), ({"output": "image"}, 32, 8), ({"quant_conv": True}, 5, 29)])
def test_a_local_decoder_is_exact(fields, h, w):
    model = vae(**fields)
    z = torch.randn(2, 4, h, w)
    whole = model.decode(z).sample
    tile = 8*(2*decoder_radius(model.decoder) + 1)
    model.enable_tiling(tile)
    tiles = model.decode(z).sample
    assert tile//8 < max(h, w) and (tiles - whole).abs().max() <= 1e-5
    model.enable_slicing()
    assert (model.decode(z).sample - whole).abs().max() <= 1e-5
    assert model.decode(z, size=(8*h - 3, 8*w - 5)).sample.shape == (2, 3, 8*h - 3, 8*w - 5)


@pytest.mark.parametrize("fields", [{}, {"extractor": "nafnet"}, {"aggregator": "vit"}, group_norm])
def test_what_is_local(fields):
    model = vae(**fields)
    assert not is_local(model.encoder)
    assert is_local(model.decoder) == (fields is not group_norm)


@pytest.mark.parametrize("size", [(65, 90), (1, 1), (7, 200), (64, 64), (63, 129)])
@pytest.mark.parametrize("slicing", [False, True])
def test_odd_and_tiny_sizes(size, slicing):
    model, x = vae(**group_norm), image(*size, n=2)
    whole = model.encode(x).latent_dist.mean
    model.enable_tiling(64, overlap=16)
    model.slicing = slicing
    tiles = model.encode(x).latent_dist.mean
    assert tiles.shape == whole.shape and model(x).sample.shape == x.shape
    if max(size) <= 64:
        torch.testing.assert_close(tiles, whole, rtol=1e-4, atol=1e-5)
    else:
        assert tiles.isfinite().all() and not torch.equal(tiles, whole)


def test_tiles_are_padded_as_the_whole_is():
    x = image(65, 90)
    padded = torch.nn.functional.pad(x, (0, 6, 0, 7), mode="replicate")
    model = vae()
    model.enable_tiling(64, overlap=16)
    assert torch.equal(model.encode(x).latent_dist.mean, model.encode(padded).latent_dist.mean)


@pytest.mark.parametrize("argument, value", [("tile_size", 512.0), ("tile_size", "512"), ("tile_size", True), ("tile_size", None), ("tile_size", 100), ("tile_size", 8), ("tile_size", -64),
                                             ("overlap", 16.0), ("overlap", "16"), ("overlap", True), ("overlap", 12), ("overlap", -8), ("overlap", 512), ("overlap", float("nan"))])
def test_arguments(argument, value):
    model = vae()
    with pytest.raises(ValueError, match=f"^{argument}: must be .*got {value!r}"):
        model.enable_tiling(**{"tile_size": 512, argument: value})
    assert model.tiling is None


def test_tiles_too_small_to_be_exact():
    with pytest.raises(ValueError, match="^tile_size: must be more than .* for exact tiles"):
        vae().enable_tiling(16)


@pytest.mark.parametrize("model", [vae(**group_norm), KLVAE.from_preset("sd-vae-f8", block_out_channels=(8, 8, 8, 8), n_res_blocks=1).eval()])
def test_the_seam_is_measured(model):
    x = image(96, 128)
    with pytest.raises(ValueError, match="^tiling: must be on"):
        tiling_error(model, x)
    model.enable_tiling(64)
    error = tiling_error(model, x)
    tiles = model.encode(x).latent_dist.mean
    assert model.tiling == (64, None)
    model.disable_tiling()
    whole = model.encode(x).latent_dist.mean
    assert error.encode == pytest.approx(((tiles - whole).double().abs().max()/whole.double().std()).item(), rel=1e-6)
    assert 1e-3 < error.encode < 10 and 1e-4 < error.decode < 10


def test_the_seam_of_a_local_decoder_is_none():
    model = vae()
    model.enable_tiling(8*(2*decoder_radius(model.decoder) + 2))
    error = tiling_error(model, image(264, 264))
    assert error.decode <= 1e-5 < error.encode


def test_float64_tiles_keep_their_digits():
    x = torch.rand(1, 1, 24, 24, dtype=torch.float64)
    assert torch.equal(tiled_map(torch.clone, x, 8, 4, (1, 1), blend=False), x)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    "The largest and all numbers that operations returned, apart from results of some shapes."
    def __init__(self, apart):
        super().__init__()
        self.apart, self.largest = apart, 0

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype.is_floating_point and tuple(out.shape) not in self.apart:
            views = any(isinstance(a, torch.Tensor) and a.untyped_storage()._cdata == out.untyped_storage()._cdata for a in args)
            self.largest = self.largest if views else max(self.largest, out.numel())
        return out


@pytest.mark.parametrize("fields", [{}, group_norm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_that_of_a_tile(fields, dtype):
    model, largest = copy.deepcopy(vae(**fields)).to(dtype), {}
    model.enable_tiling(256)
    for side in (300, 700):
        x, n = image(side, side), -(-side//8)
        # apart: the image as input and output (float32, then the type of the model), its latents
        with Largest({(1, 3, side, side), (1, 3, 8*n, 8*n), (1, 8, n, n), (1, 4, n, n)}) as seen:
            model(x)
        largest[side] = seen.largest
    assert 0 < largest[700] <= largest[300]


def test_radius_bounds_what_a_pixel_sees():
    torch.manual_seed(0)
    decoder = Decoder(4, 3, 8, (1, 1, 1, 1), 1, kind="smc", attention=False, final_norm=False).eval()
    z, r = torch.randn(1, 4, 41, 41), decoder_radius(decoder)
    poked = z.clone()
    poked[..., 20, 20] += 1
    change = (decoder(z) - decoder(poked)).abs().amax((0, 1)).nonzero()
    assert change.min() >= 8*(20 - r) and change.max() < 8*(21 + r)
