"Our autoencoders beside those of diffusers: equal numbers in both directions, folders, old names, pipelines."
import json, subprocess, sys
import pytest, torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from litevae_diffae.interop import to_diffusers
from litevae_diffae.litevae.decoder import Decoder
from litevae_diffae.litevae.diffusers import old_names
from litevae_diffae.litevae.klvae import KLVAE, KLVAEConfig
from litevae_diffae.litevae.latents import compute_latent_stats
from litevae_diffae.litevae.model import LiteVAE

CONFIGS = {
    "sd-like": dict(block_out_channels=(32, 64, 64, 64), layers_per_block=2),
    "no quant convs": dict(block_out_channels=(32, 64), use_quant_conv=False, use_post_quant_conv=False, latent_channels=16),
    "only quant": dict(block_out_channels=(32, 32, 64), use_post_quant_conv=False),
    "only post-quant": dict(block_out_channels=(32, 32, 64), use_quant_conv=False),
    "no attention": dict(block_out_channels=(32, 64, 96), mid_block_add_attention=False),
    "few groups": dict(block_out_channels=(24, 48), norm_num_groups=8, sample_size=[64, 96]),
    "odd widths": dict(block_out_channels=(48, 80, 64), norm_num_groups=16, layers_per_block=3),
    "one stage": dict(block_out_channels=(32,)),
    "grey": dict(block_out_channels=(32, 64), in_channels=1, out_channels=1, latent_channels=3, scaling_factor=0.3, shift_factor=0.1),
    "statistics": dict(block_out_channels=(32, 64), latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1., 2., 3., 4.], force_upcast=False),
}

def autoencoder_kl(name):
    "Random weights everywhere, norms and biases included, so that no two layers can be mixed up."
    torch.manual_seed(0)
    fields = CONFIGS[name]
    n = len(fields["block_out_channels"])
    model = AutoencoderKL(**{"down_block_types": ("DownEncoderBlock2D",) * n, "up_block_types": ("UpDecoderBlock2D",) * n, **fields}).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1: p += 0.2 * torch.randn_like(p)
    return model

def image(model, size=(32, 48)): return torch.rand(2, model.config.in_channels, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1

@torch.no_grad()
def assert_equal_outputs(ours, theirs, tol=1e-4):
    x = image(theirs)
    a, b = ours.encode(x).latent_dist, theirs.encode(x).latent_dist
    for u, v in ((a.mean, b.mean), (a.logvar, b.logvar), (a.std, b.std), (a.var, b.var)): torch.testing.assert_close(u, v, rtol=0, atol=tol)
    torch.testing.assert_close(a.kl(), b.kl(), rtol=1e-4, atol=tol)
    seed = lambda: torch.Generator().manual_seed(2)
    torch.testing.assert_close(a.sample(seed()), b.sample(seed()), rtol=0, atol=tol)
    z = torch.randn(a.mean.shape, generator=seed())
    torch.testing.assert_close(ours.decode(z).sample, theirs.decode(z).sample, rtol=0, atol=tol)
    torch.testing.assert_close(ours(x, sample_posterior=True, generator=seed()).sample, theirs(x, sample_posterior=True, generator=seed()).sample, rtol=0, atol=tol)

@pytest.mark.parametrize("name", CONFIGS)
def test_from_and_to(name):
    theirs = autoencoder_kl(name)
    ours = KLVAE.from_diffusers(theirs)
    assert (ours.quant_conv is not None, ours.post_quant_conv is not None) == (theirs.quant_conv is not None, theirs.post_quant_conv is not None)
    assert ours.config.spatial_compression_ratio == 2 ** (len(theirs.config.block_out_channels) - 1)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert_equal_outputs(ours, theirs)
    back = to_diffusers(ours, "saved")
    assert type(back) is AutoencoderKL
    keys = set(theirs.config) - {"_use_default_values", "_name_or_path", "act_fn"}
    plain = lambda v: tuple(v) if isinstance(v, list) else v
    assert {k: plain(back.config[k]) for k in keys} == {k: plain(theirs.config[k]) for k in keys}
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in theirs.state_dict().items())
    assert_equal_outputs(ours, back)

def test_real_size_on_meta():
    "Names and shapes of the real thing, 83.7 million parameters, without its memory."
    with torch.device("meta"):
        theirs = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(128, 256, 512, 512), layers_per_block=2)
        ours = KLVAE.from_preset("sd-vae-f8")
        decoder = Decoder(4)
    shapes = lambda m: {k: tuple(v.shape) for k, v in m.state_dict().items()}
    assert shapes(ours) == shapes(theirs)
    assert shapes(decoder) == shapes(theirs.decoder)

@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_folder(tmp_path, dtype):
    theirs = autoencoder_kl("sd-like").to(dtype)
    theirs.save_pretrained(tmp_path, variant="fp16" if dtype == torch.float16 else None)
    ours = KLVAE.from_diffusers(tmp_path)
    assert ours.dtype == torch.float32
    assert_equal_outputs(ours, theirs.float())
    ours.save_pretrained(tmp_path/"ours")
    assert_equal_outputs(KLVAE.from_pretrained(tmp_path/"ours"), theirs)

def test_folder_without_diffusers(tmp_path):
    "A pipeline's folder, read in a process that can't import diffusers."
    theirs = autoencoder_kl("no quant convs")
    theirs.save_pretrained(tmp_path/"vae")
    (tmp_path/"model_index.json").write_text("{}")
    x = image(theirs)
    with torch.no_grad(): mean = theirs.encode(x).latent_dist.mean
    save_file({"x": x, "mean": mean.contiguous()}, tmp_path/"expected.safetensors")
    code = f"""
import sys; sys.modules["diffusers"] = None
import torch
from safetensors.torch import load_file
from litevae_diffae.litevae.klvae import KLVAE
from litevae_diffae.interop import to_diffusers
d = load_file({str(tmp_path/'expected.safetensors')!r})
model = KLVAE.from_diffusers({str(tmp_path)!r})
with torch.no_grad(): assert (model.encode(d["x"]).latent_dist.mean - d["mean"]).abs().max() < 1e-4
try: to_diffusers(model)
except ImportError as e: print(e)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "pip install diffusers" in out.stdout

def test_hub_id(tmp_path, monkeypatch):
    theirs = autoencoder_kl("only quant")
    theirs.save_pretrained(tmp_path/"vae")
    (tmp_path/"model_index.json").write_text("{}")
    def download(name, allow_patterns):
        if name != "user/model": raise OSError("offline")
        assert "vae/config.json" in allow_patterns
        return str(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert_equal_outputs(KLVAE.from_diffusers("user/model"), theirs)
    with pytest.raises(FileNotFoundError, match="no folder 'user/other', and the Hub did not give it: offline"): KLVAE.from_diffusers("user/other")

def rename_to_old(state):
    old = {new: name for name, new in old_names.items()}
    def rename(k):
        for new, name in old.items(): k = k.replace(f".attentions.0.{new}.", f".attentions.0.{name}.")
        return k
    return {rename(k): v for k, v in state.items()}

def test_old_attention_names(tmp_path):
    theirs = autoencoder_kl("sd-like")
    theirs.save_pretrained(tmp_path)
    file = tmp_path/"diffusion_pytorch_model.safetensors"
    state = rename_to_old(load_file(file))
    assert sum(".proj_attn." in k or ".query." in k for k in state) == 8
    save_file(state, file, metadata={"format": "pt"})
    assert_equal_outputs(KLVAE.from_diffusers(tmp_path), AutoencoderKL.from_pretrained(tmp_path))          # diffusers renames them too

def test_strict(tmp_path):
    theirs = autoencoder_kl("sd-like")
    theirs.save_pretrained(tmp_path)
    file, config = tmp_path/"diffusion_pytorch_model.safetensors", tmp_path/"config.json"
    state, values = load_file(file), json.loads(config.read_text())
    def fails(match, state=state, values=values, error=ValueError):
        save_file(state, file, metadata={"format": "pt"}); config.write_text(json.dumps(values))
        with pytest.raises(error, match=match): KLVAE.from_diffusers(tmp_path)
    fails("missing: quant_conv.bias", {k: v for k, v in state.items() if k != "quant_conv.bias"})
    fails("unexpected: extra", {**state, "extra": torch.zeros(1)})
    fails("wrong shape", {**state, "quant_conv.bias": torch.zeros(4)})
    fails("unexpected: ", values={**values, "use_quant_conv": False})
    fails("unknown fields new_field", values={**values, "new_field": 1})
    fails("AutoencoderKL expected, got AutoencoderTiny", values={**values, "_class_name": "AutoencoderTiny"})

@pytest.mark.parametrize("fields", [{}, dict(decoder="smc"), dict(quant_conv=True), dict(output="image", decoder_attention=True)])
def test_litevae_adapter(tmp_path, fields):
    torch.manual_seed(0)
    ours = LiteVAE.from_preset("litevae-tiny", zero_init=False, z_channels=4, **fields).eval()
    x = torch.rand(4, 3, 64, 64) * 2 - 1
    compute_latent_stats(ours, x)
    theirs = to_diffusers(ours)
    theirs.save_pretrained(tmp_path)
    again = type(theirs).from_pretrained(tmp_path)
    for vae in (theirs, again):
        assert vae.config.latent_channels == 4 and 2 ** (len(vae.config.block_out_channels) - 1) == 8
        assert (vae.post_quant_conv is not None) == ours.config.quant_conv and vae.dtype == torch.float32
        assert vae.model.config == ours.config
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode()
            assert torch.equal(z, ours.encode(x).latent_dist.mode())
            assert torch.equal(vae.decode(z, return_dict=False, generator=None)[0], ours.decode(z).sample)
            assert vae(x[..., :33, :57]).sample.shape == (4, 3, 33, 57)
        scaled = (z - vae.config.shift_factor) * vae.config.scaling_factor
        assert abs(scaled.std(correction=0) - 1) < 1e-3

def test_klvae_that_needs_the_adapter():
    torch.manual_seed(0)
    ours = KLVAE(KLVAEConfig(block_out_channels=(32, 64), n_res_blocks=1, decoder="smc")).eval()
    theirs = to_diffusers(ours)
    assert type(theirs).__name__ == "DiffusersAutoencoder" and len(theirs.config.block_out_channels) == 2
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad(): assert torch.equal(theirs(x).sample, ours(x).sample)

def test_pipeline_saved_in_one_process_loads_in_another(tmp_path):
    "Newer diffusers load a component only from a module that the user imported, hence the one import in the other process."
    torch.manual_seed(0)
    ours = LiteVAE.from_preset("litevae-tiny", zero_init=False, z_channels=4)
    compute_latent_stats(ours.eval(), torch.rand(2, 3, 64, 64) * 2 - 1)
    prior = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=1, sample_size=8).eval()
    pipe = DiTPipeline(prior, to_diffusers(ours), DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(class_labels=[1, 7], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert pictures.shape == (2, 3, 64, 64)
    pipe.save_pretrained(tmp_path/"pipe")
    save_file({"pictures": pictures.contiguous()}, tmp_path/"pictures.safetensors")
    code = f"""
import torch, litevae_diffae.interop
from safetensors.torch import load_file
from diffusers import DiTPipeline
pipe = DiTPipeline.from_pretrained({str(tmp_path/'pipe')!r})
pictures = pipe(class_labels=[1, 7], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
assert torch.allclose(pictures, load_file({str(tmp_path/'pictures.safetensors')!r})["pictures"], atol=1e-6)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
