"Padding beyond the edge: it reaches every 3x3 convolution and nothing else, is what a longer image would have given, and tiles keep it."
import json

import pytest
import torch
import torch.nn.functional as F
from litevae_diffae import DiffAE, KLVAE, LiteVAE, load
from litevae_diffae.interop import kl_to_diffusers_config
from litevae_diffae.layers import Downsample
from litevae_diffae.litevae.decoder import DecoderConfig, make_decoder
from litevae_diffae.litevae.encoder import EncoderConfig, WaveletEncoder
from litevae_diffae.litevae.fixed_code import WaveletVAE
from litevae_diffae.litevae.padding import PADDINGS, seam_error, set_padding
from litevae_diffae.litevae.smc import SMC
from litevae_diffae.litevae.tiling import decoder_radius, join_ends, lengthen, tiled_map
from torch import nn

small = dict(extractor_channels=8, extractor_mult=(1, 2), aggregator_channels=8, aggregator_mult=(1,), n_res_blocks=1, z_channels=4,
             decoder_channels=8, decoder_mult=(1, 1, 1, 1), decoder_res_blocks=1, zero_init=False)
group_norm = dict(decoder="gn", decoder_attention=True, decoder_final_norm=True, output="image")
LITE = {"smc": {}, "gn": group_norm, "mixed": {**group_norm, "decoder": "mixed"}, "last smc": dict(decoder_final_norm=True, decoder_smc_out=True),
        "two levels": dict(band_levels=(2, 3), shared_extractor=True, quant_conv=True), "nafnet": dict(extractor="nafnet"), "image": dict(output="image")}
KL = {"kl": dict(block_out_channels=(8, 16, 16, 16), n_res_blocks=1), "kl smc": dict(block_out_channels=(8, 16), n_res_blocks=1, decoder="smc", output="wavelet")}


def make(name, **fields):
    torch.manual_seed(0)
    model = LiteVAE.from_preset("litevae-tiny", **{**small, **LITE[name], **fields}) if name in LITE else KLVAE.from_preset("sd-vae-f8", **{**KL[name], **fields})
    return model.eval()


def image(h, w, n=1):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0))*2 - 1


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", [*LITE, *KL])
@pytest.mark.parametrize("mode", PADDINGS)
def test_it_reaches_every_layer_that_looks_beyond_the_edge(name, mode):
    model, seen = make(name, padding_mode=mode), []
    for at, m in model.named_modules():
        if isinstance(m, nn.Conv2d) and any(m.padding) or isinstance(m, (SMC, Downsample)):
            seen.append(m.padding_mode)
        elif isinstance(m, nn.Conv2d):
            assert m.padding_mode == "zeros" and (m.kernel_size == (1, 1) or at.endswith("conv") and "downsamplers" in at), at
    assert len(seen) > 5 and set(seen) == {mode}
    plain = make(name)
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.load_state_dict(plain.state_dict())
    x = image(32, 48)
    if mode == "zeros":
        assert torch.equal(model(x).sample, plain(x).sample)
    else:
        assert not torch.allclose(model(x).sample, plain(x).sample, atol=1e-4)


class Stretched(nn.Module):
    "A layer without padding of its own, on an input whose edges were written out with NumPy's words."
    def __init__(self, layer, mode):
        super().__init__()
        self.layer, self.mode = layer, {"zeros": "constant", "reflect": "reflect", "circular": "wrap"}[mode]

    def forward(self, x):
        import numpy as np
        edges = (1, 1) if not isinstance(self.layer, Downsample) else (0, 1)
        x = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), edges, edges), mode=self.mode))
        if isinstance(self.layer, Downsample): return self.layer.conv(x)
        weight = self.layer.modulated() if isinstance(self.layer, SMC) else self.layer.weight
        return F.conv2d(x, weight, self.layer.bias, getattr(self.layer, "stride", 1), groups=getattr(self.layer, "groups", 1))


@pytest.mark.parametrize("name", [*LITE, *KL])
@pytest.mark.parametrize("mode", PADDINGS)
def test_it_is_the_padding_of_numpy(name, mode):
    model, by_hand = make(name, padding_mode=mode), make(name)
    for parent in list(by_hand.modules()):
        for at, m in parent.named_children():
            if isinstance(m, (SMC, Downsample)) or isinstance(m, nn.Conv2d) and any(m.padding):
                setattr(parent, at, Stretched(m, mode))
    for m in by_hand.modules():  # the encoder asks its first layer for a dtype
        if isinstance(m, Stretched):
            m.weight = getattr(m.layer, "weight", None)
    x = image(32, 48)
    torch.testing.assert_close(model(x).sample, by_hand(x).sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*LITE, *KL])
def test_circular_has_no_place(name):
    "A rolled image has rolled latents, and one cell more is `ratio` pixels more."
    model = make(name, padding_mode="circular")
    ratio, axes, x = model.config.spatial_compression_ratio, (-2, -1), image(64, 80, n=2)
    z = model.encode(x).latent_dist.mean
    y = model.decode(z).sample
    for cells in ((1, 0), (0, 1), (-2, 3)):
        rolled = tuple(ratio*c for c in cells)
        z_rolled = model.encode(x.roll(rolled, axes)).latent_dist.mean
        assert (z_rolled - z.roll(cells, axes)).abs().max() <= 1e-5
        assert (model.decode(z.roll(cells, axes)).sample - y.roll(rolled, axes)).abs().max() <= 1e-5
    zeros = make(name)
    z = zeros.encode(x).latent_dist.mean
    assert (zeros.encode(x.roll(ratio, -1)).latent_dist.mean - z.roll(1, -1)).abs().max() > 1e-3  # what it is measured against
    assert (zeros.decode(z.roll(1, -1)).sample - zeros.decode(z).sample.roll(ratio, -1)).abs().max() > 1e-4


@pytest.mark.parametrize("mode", PADDINGS)
@pytest.mark.parametrize("name, h, w", [("smc", 5, 41), ("last smc", 36, 4), ("image", 33, 8), ("image", 5, 34)])
def test_tiles_of_a_local_decoder_are_exact(mode, name, h, w):
    model = make(name, padding_mode=mode)
    z, r = torch.randn(2, 4, h, w), decoder_radius(model.decoder)
    whole = model.decode(z).sample
    for cells in (2*r + 1, 2*r + 3):
        model.enable_tiling(8*cells)
        assert cells < max(h, w) and (model.decode(z).sample - whole).abs().max() <= 1e-5
    model.enable_tiling(8*(2*r + 4), overlap=8*(2*r + 1))
    assert (model.decode(z).sample - whole).abs().max() <= 1e-5


def test_each_tile_alone_would_be_wrong():
    "Without the continuation, a tile at the edge takes its own other side for the neighbour."
    model = make("smc", padding_mode="circular")
    r = decoder_radius(model.decoder)
    z = torch.randn(1, 4, 6, 40)
    alone = tiled_map(model.decoder, z, 2*r + 1, 2*r, (1, 8), False)
    joined = tiled_map(model.decoder, z, 2*r + 1, 2*r, (1, 8), False, True)
    whole = model.decoder(z)
    wrong = (alone - whole).abs().amax((0, 1)) > 1e-4
    assert wrong.any() and not wrong[:, 8*r:-8*r].any() and (joined - whole).abs().max() <= 1e-5


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("h, w", [(20, 30), (7, 30), (8, 9), (5, 5)])
def test_ends_meet_again(h, w, blend):
    x = torch.randn(1, 2, h, w)
    assert (join_ends(join_ends(lengthen(x, 3, 5), -2, 3, 1, blend), -1, 5, 1, blend) - x).abs().max() <= 1e-6
    def means(v): return F.avg_pool2d(F.pad(v, (1, 1, 1, 1), "circular"), 3, 1)  # looks one cell around
    assert (tiled_map(means, x, 6, 4, (1, 1), False, True) - means(x)).abs().max() <= 1e-6
    def same(v): return v
    assert (tiled_map(same, x, 6, 4, (1, 1), blend, True) - x).abs().max() <= 1e-6


@pytest.mark.parametrize("size", [(65, 90), (7, 200), (64, 64), (9, 9), (63, 129)])
@pytest.mark.parametrize("mode", PADDINGS)
def test_odd_sizes_in_tiles(size, mode):
    model, x = make("gn", padding_mode=mode), image(*size)
    if min(size) < 9 and mode == "reflect": return
    whole = model.encode(x).latent_dist.mean
    model.enable_tiling(64, overlap=16)
    tiles = model.encode(x).latent_dist.mean
    assert tiles.shape == whole.shape and model(x).sample.shape == x.shape and tiles.isfinite().all()
    if max(size) <= 64: torch.testing.assert_close(tiles, whole, rtol=1e-4, atol=1e-5)


def test_a_mirror_needs_two_cells():
    model = make("gn", padding_mode="reflect")
    with pytest.raises(ValueError, match=r"^x: padding_mode='reflect' needs at least 9 rows and columns, got 8 x 64$"): model.encode(image(8, 64))
    with pytest.raises(ValueError, match=r"^z: padding_mode='reflect' needs at least 2 rows and columns, got 2 x 1$"): model.decode(torch.zeros(1, 4, 2, 1))
    assert model(image(9, 9)).sample.shape == (1, 3, 9, 9)
    four = make("kl smc", padding_mode="reflect")
    assert four(image(3, 3)).sample.shape == (1, 3, 3, 3)
    with pytest.raises(ValueError, match="needs at least 3 rows"): four(image(2, 9))


@pytest.mark.parametrize("build", [lambda **k: LiteVAE.from_preset("litevae-tiny", **k), lambda **k: KLVAE.from_preset("sd-vae-f8", **k), lambda **k: WaveletVAE.from_preset("dwt", **k),
                                   lambda **k: LiteVAE.from_pretrained("photos-tiny", **k), lambda **k: WaveletEncoder(EncoderConfig(**k)), lambda **k: set_padding(nn.Conv2d(1, 1, 3), k["padding_mode"])])
def test_an_unknown_mode(build):
    with pytest.raises(ValueError, match="^padding_mode: must be one of 'zeros', 'reflect', 'circular', got 'mirror'$"):
        build(padding_mode="mirror")


def test_shipped_weights_with_other_padding(tmp_path):
    plain, ring = LiteVAE.from_pretrained("photos-tiny"), LiteVAE.from_pretrained("photos-tiny", padding_mode="circular")
    assert ring.config.padding_mode == "circular" and all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), ring.state_dict().values()))
    ring.save_pretrained(tmp_path)
    back, x = load(tmp_path), image(32, 40)
    assert json.loads((tmp_path/"config.json").read_text())["padding_mode"] == "circular" and back.config == ring.config
    assert torch.equal(back(x).sample, ring(x).sample) and torch.equal(load(tmp_path, padding_mode="zeros")(x).sample, plain(x).sample)
    folded = ring.fold()
    torch.testing.assert_close(folded(x).sample, ring(x).sample, rtol=0, atol=1e-5)
    folded.save_pretrained(tmp_path/"folded")
    assert torch.equal(LiteVAE.from_pretrained(tmp_path/"folded")(x).sample, folded(x).sample)
    for cls, name, field, free in ((LiteVAE, "photos-tiny", dict(z_channels=12), "padding_mode"), (LiteVAE, "photos-tiny", dict(pading_mode="circular"), "padding_mode"), (DiffAE, "avatars", dict(padding_mode="circular"), "none")):
        with pytest.raises(ValueError, match=f"^from_pretrained: {next(iter(field))} is fixed by the saved weights, or no field; {cls.__name__} can change: {free}$"):
            cls.from_pretrained(name, **field)


def test_parts_and_relatives():
    "Parts built from a configuration have its padding, the fixed code's decoder too; diffusers' own class has zeros only."
    decoder = make_decoder(type("C", (DecoderConfig,), dict(z_channels=4, in_channels=3))(decoder_channels=8, padding_mode="circular"))
    assert decoder.conv_in.padding_mode == "circular" == WaveletEncoder(EncoderConfig(padding_mode="circular")).aggregator.conv_out.padding_mode
    torch.manual_seed(0)
    dwt = WaveletVAE.from_preset("dwt", decoder_channels=8, padding_mode="circular").eval()
    x = image(48, 48)
    torch.testing.assert_close(dwt(x.roll((8, 16), (-2, -1))).sample, dwt(x).sample.roll((8, 16), (-2, -1)), rtol=0, atol=1e-5)
    assert kl_to_diffusers_config(make("kl", block_out_channels=(32, 32))) and kl_to_diffusers_config(make("kl", block_out_channels=(32, 32), padding_mode="circular")) is None


@pytest.mark.parametrize("name, mode", [("smc", "circular"), ("gn", "reflect")])
def test_one_graph(name, mode):
    torch._dynamo.reset()
    model, x, z = make(name, padding_mode=mode), image(32, 24), torch.randn(1, 4, 3, 4)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x).sample, model(x).sample, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.export.export(model.decoder, (z,)).module()(z), model.decoder(z), rtol=0, atol=1e-5)


def test_seam_error():
    "A ramp jumps by its whole length once; a shifted periodic image keeps its error near one."
    ramp = torch.arange(9.).expand(2, 3, 9, 9)
    assert seam_error(ramp + ramp.mT).tolist() == pytest.approx([8, 8])
    t = torch.arange(32)*2*torch.pi/32
    wave = torch.sin(t)[:, None] + torch.sin(t)[None]
    for shift in range(0, 32, 4):
        assert 0 < seam_error(wave.roll((shift, shift), (0, 1))[None, None]).item() < 2
    assert seam_error(torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))).item() == pytest.approx(1, abs=.1)


def test_textures_tile():
    "What a user sees: the seam of the shipped model's reconstruction is gone with circular padding."
    from skimage import data
    x = torch.from_numpy(data.grass()).float()[None, None, :160, :160]/127.5 - 1
    for dim in (-2, -1): x = join_ends(x, dim, 32, 1, blend=True)
    x = x.expand(-1, 3, -1, -1)
    zeros, ring = (seam_error(LiteVAE.from_pretrained("photos-tiny", padding_mode=mode)(x).sample).item() for mode in ("zeros", "circular"))
    assert zeros > 1.6 and ring < 1.3
