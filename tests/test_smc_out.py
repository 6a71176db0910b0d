"SMC in place of the decoder's last norm and convolution: counted by hand, equal to equation 3, and in every path that the plain layer takes."
import json

import pytest
import torch
import torch.nn.functional as F
from litevae_diffae import KLVAE, LiteVAE, train_litevae
from litevae_diffae.core import n_params
from litevae_diffae.litevae.adaptive import adaptive_weight, grad_ratios
from litevae_diffae.litevae.decoder import Decoder
from litevae_diffae.litevae.fixed_code import WaveletVAE
from litevae_diffae.litevae.smc import SMC
from litevae_diffae.litevae.tiling import decoder_radius, is_local
from litevae_diffae.norm import GroupNormSiLU
from litevae_diffae.optim import TrainConfig
from litevae_diffae.resume import differences
from torch import nn

small = dict(extractor_channels=8, extractor_mult=(1,), aggregator_channels=8, aggregator_mult=(1,), n_res_blocks=1, z_channels=4,
             decoder_channels=8, decoder_mult=(1, 1, 1, 1), decoder_res_blocks=1, zero_init=False, decoder_final_norm=True)
last = dict(decoder_smc_out=True)


def vae(**fields):
    torch.manual_seed(0)
    return LiteVAE.from_preset("litevae-tiny", **{**small, **last, **fields}).eval()


def uneven(model):
    "Scales and gains that are not one."
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, SMC):
                m.scale.uniform_(.5, 1.5)
                m.gain.fill_(.7)
    return model


@pytest.mark.parametrize("z, residual_only", [(4, 49_479_327), (12, 49_516_191)])  # decoder with SMC in residual blocks only
def test_parameters(z, residual_only):
    "The last norm had a scale and an offset for each of 128 maps; the SMC has a scale for each and one gain."
    with torch.device("meta"):
        models = [LiteVAE.from_preset("litevae-b", decoder="smc", z_channels=z, **last), KLVAE.from_preset("sd-vae-f8", decoder="smc", z_channels=z, **last),
                  WaveletVAE.from_preset("dwt", decoder="smc", **last)]
    counts = [n_params(m.decoder) for m in models]
    assert counts[:2] == [residual_only - 2*128 + 128 + 1]*2 and counts[2] == 49_516_191 - 127
    norms = [n for n, m in models[0].decoder.named_modules() if isinstance(m, (GroupNormSiLU, nn.GroupNorm))]
    assert norms == ["mid_block.attentions.0.group_norm"]  # no group norm stands before a convolution


def test_equation_3():
    "w' = gain s w / root of the sum of (s w)^2 over input maps and taps; SiLU before it."
    decoder = uneven(vae(output="image")).decoder.double()
    layer, z = decoder.conv_out, torch.randn(1, 4, 3, 5, dtype=torch.float64)
    w = torch.stack([layer.scale[i]*layer.weight[:, i] for i in range(8)], 1)
    for j in range(3):
        w[j] = layer.gain*w[j]/sum(v*v for v in w[j].flatten())**.5
    patches = F.unfold(F.silu(decoder.features(z)), 3, padding=1)  # (1, 8*9, H*W)
    by_hand = (w.flatten(1) @ patches).view(1, 3, 24, 40) + layer.bias[:, None, None]
    torch.testing.assert_close(decoder(z), by_hand, rtol=0, atol=1e-7)
    scaled, layer.weight.data = decoder(z), 100*layer.weight.data
    torch.testing.assert_close(decoder(z), scaled, rtol=0, atol=1e-7)  # only the direction of a filter counts


@pytest.mark.parametrize("fields", [dict(decoder="gn"), dict(decoder_final_norm=False)])
@pytest.mark.parametrize("make", [lambda **k: LiteVAE.from_preset("litevae-s", **{"decoder": "smc", **k}), lambda **k: KLVAE.from_preset("sd-vae-f8", **{"decoder": "smc", **k}),
                                  lambda **k: WaveletVAE.from_preset("dwt", **{"decoder": "smc", **k})])
def test_what_cannot_be(fields, make):
    with pytest.raises(ValueError, match="^decoder_smc_out: needs decoder='smc' or 'mixed' and decoder_final_norm=True, whose place it takes, got"):
        make(**fields, **last)
    with pytest.raises(ValueError, match="^smc_out: needs kind"):
        Decoder(kind=fields.get("decoder", "smc"), final_norm=fields.get("decoder_final_norm", True), smc_out=True)


@torch.no_grad()
def test_fold_save_and_tile(tmp_path):
    model, x = uneven(vae()), torch.rand(1, 3, 64, 48)*2 - 1
    folded = model.fold()
    assert type(folded.decoder.conv_out) is nn.Conv2d and not any(isinstance(m, SMC) for m in folded.decoder.modules())
    torch.testing.assert_close(folded(x).sample, model(x).sample, rtol=0, atol=1e-5)
    for name, m in (("plain", model), ("folded", folded)):
        m.save_pretrained(tmp_path/name)
        back = LiteVAE.from_pretrained(tmp_path/name)
        assert back.config == m.config and torch.equal(back(x).sample, m(x).sample)
    assert is_local(model.decoder)  # the last norm was what made it look everywhere
    z = torch.randn(1, 4, 30, 41)
    whole = model.decode(z).sample
    model.enable_tiling(8*(2*decoder_radius(model.decoder) + 1))
    assert (model.decode(z).sample - whole).abs().max() <= 1e-5 and not is_local(vae(decoder_smc_out=False).decoder)


def test_compile_and_export():
    decoder, z = uneven(vae()).decoder, torch.randn(2, 4, 2, 3)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(decoder, fullgraph=True, backend="eager")(z), decoder(z), rtol=0, atol=1e-5)
    exported = torch.export.export(decoder, (z,)).module()
    torch.testing.assert_close(exported(z), decoder(z), rtol=0, atol=1e-5)


def test_the_adaptive_weight_finds_the_last_layer():
    "The gradient with respect to the stored weight, by finite differences."
    model = uneven(vae(output="image")).double()
    w, z, x = model.decoder.conv_out.weight, torch.randn(1, 4, 2, 2, dtype=torch.float64), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    def losses():
        y = model.decode(z).sample
        return (y - x).abs().mean(), -y.mean()
    norms = []
    for loss in (0, 1):
        grad, i = torch.zeros_like(w), 1e-6
        for k in range(w.numel()):
            with torch.no_grad():
                w.view(-1)[k] += i
                up = losses()[loss]
                w.view(-1)[k] -= 2*i
                down = losses()[loss]
                w.view(-1)[k] += i
            grad.view(-1)[k] = (up - down)/(2*i)
        norms.append(grad.norm())
    rec, adv = losses()
    assert adaptive_weight(rec, adv, w, delta=0.).item() == pytest.approx((norms[0]/norms[1]).item(), rel=1e-3)
    assert grad_ratios(rec, dict(g_loss=adv), w)["ratio_g_loss"] > 0


def test_files_of_before(tmp_path):
    "A configuration, and a run that was stopped, from before the fields existed."
    model = vae(decoder_smc_out=False)
    model.save_pretrained(tmp_path/"model")
    path = tmp_path/"model"/"config.json"
    fields = json.loads(path.read_text())
    del fields["decoder_smc_out"]
    fields.pop("padding_mode", None)
    path.write_text(json.dumps(fields))
    assert LiteVAE.from_pretrained(tmp_path/"model").config == model.config
    settings = dict(data=torch.rand(20, 3, 32, 32)*2 - 1, size=32, device="cpu", progress=False, stats_images=4)
    config, run = TrainConfig(steps=2, batch_size=2, save_every=1, lr=1e-4), tmp_path/"run"
    train_litevae(vae(decoder_smc_out=False), out=run, config=config, **settings)
    states = list((run/"resume").glob("*/*.json"))
    old = {p: p.read_text() for p in states if "decoder_smc_out" in p.read_text()}
    assert old
    state = json.loads(next(iter(old.values())))
    class Run:
        class task: timed, data_keys = None, ()
        @staticmethod
        def identity(): return state["identity"]
    now = state["identity"]["model"]
    for names, value, differs in ((["decoder_smc_out", "padding_mode"], False, False), (["decoder_smc_out"], True, True)):
        was = {**state, "identity": {**state["identity"], "model": {k: v for k, v in now.items() if k not in names}}}
        Run.identity = staticmethod(lambda: {**state["identity"], "model": {**now, "decoder_smc_out": value}})
        assert bool(differences(Run, was, True)) == differs
