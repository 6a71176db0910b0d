"""Models moved to another float type: every verb answers, near what float32 says, or names the type to use."""
import copy

import pytest
import torch
from litevae_diffae import DDIM, DiffAE, KLVAE, LiteVAE
from litevae_diffae.diffae.codes import Codes
from litevae_diffae.diffae.editor import fit_editor
from litevae_diffae.diffae.latent import LatentDDIM
from litevae_diffae.diffae.manipulate import fit_classifier
from litevae_diffae.litevae.latents import compute_latent_stats

dtypes = [torch.bfloat16, torch.float16, torch.float64]
tolerance = {torch.bfloat16: 0.25, torch.float16: 0.05, torch.float64: 2e-3}  # of the norm of what float32 says
haar = dict(stem="haar", prediction_type="v", band_rms=(1., .5, .5, .3), loss_weight="band")
steps = torch.tensor([3, 500])


def seeded():
    return torch.Generator().manual_seed(0)


def noise(*shape):
    return torch.randn(*shape, generator=seeded())


def awake(model):
    "Give layers that start at zero something to say."
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p.data, std=.02)
    return model.eval()


def image():
    return torch.rand(2, 3, 16, 16, generator=seeded())*2 - 1


def lite(**fields):
    model = awake(LiteVAE.from_preset("litevae-tiny", extractor_channels=8, aggregator_channels=8, decoder_channels=8, **fields))
    compute_latent_stats(model, image())
    return model


def kl():
    model = awake(KLVAE.from_preset("sd-vae-f8", block_out_channels=(8, 16), n_res_blocks=1))
    compute_latent_stats(model, image())
    return model


def diffae(**fields):
    model = awake(DiffAE.from_preset("diffae-tiny", image_size=16, **fields))
    attributes = (noise(60, 2) > 0).to(torch.uint8)
    codes = Codes.of(torch.randn(60, 64), attributes=attributes, names=("A", "B"))
    model.prior = awake(LatentDDIM.from_preset("latent-tiny"))
    model.prior.set_stats(codes.z_sem)
    model.classifier, model.editor = fit_classifier(codes, n_samples=3200), fit_editor(codes, n_axes=8, hidden=16, epochs=1)
    return model


models = {"litevae": lite, "litevae, group norm": lambda: lite(decoder="mixed", decoder_attention=True, decoder_final_norm=True, output="image"),
          "litevae, transformer": lambda: lite(aggregator="vit", quant_conv=True), "litevae, nafnet": lambda: lite(extractor="nafnet"), "klvae": kl,
          "ddim": lambda: awake(DDIM.from_preset("ddim-tiny", image_size=16)), "ddim, haar": lambda: awake(DDIM.from_preset("ddim-tiny", image_size=16, **haar)), "diffae": diffae, "diffae, haar": lambda: diffae(**haar)}


def stats(model, x):
    return torch.tensor(compute_latent_stats(copy.deepcopy(model), x.float().cpu()).latents_mean)


def tiles(model, x):
    model.enable_tiling(16, overlap=8)
    y = model(torch.cat([x, x], -1)).sample
    model.disable_tiling()
    return y


def gradient(model, loss):
    with torch.enable_grad():
        model.zero_grad()
        loss().float().mean().backward()
    return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])


autoencoder = {
    "encode": lambda m, x: m.encode(x).latent_dist.mean, "std": lambda m, x: m.encode(x).latent_dist.std, "kl": lambda m, x: m.encode(x).latent_dist.kl(),
    "decode": lambda m, x: m.decode(noise(2, m.config.z_channels, 3, 4)).sample, "reconstruct": lambda m, x: m(x).sample, "tiles": tiles,
    "normalize_latents": lambda m, x: m.normalize_latents(m.encode(x).latent_dist.mean), "denormalize_latents": lambda m, x: m.denormalize_latents(noise(2, m.config.z_channels, 3, 4).to(x)),
    "compute_latent_stats": stats, "loss": lambda m, x: gradient(m, lambda: m(x).sample.float().square())}
denoiser = {
    "eps": lambda m, x: m.eps(x, steps), "invert": lambda m, x: m.invert(x, 2), "decode": lambda m, x: m.decode(noise(2, 3, 16, 16).to(x), 2),
    "dpm": lambda m, x: m.decode(noise(2, 3, 16, 16).to(x), 2, sampler="dpm"), "sample": lambda m, x: m.sample(2, 2, generator=seeded()),
    "loss": lambda m, x: m.loss(x, steps, noise(2, 3, 16, 16).to(x)), "gradient": lambda m, x: gradient(m, lambda: m.loss(x, steps, noise(2, 3, 16, 16).to(x)))}
z = noise(2, 64)
line = torch.nn.functional.normalize(torch.ones(64), dim=0)
semantic = {
    "encode": lambda m, x: m.encode(x), "eps": lambda m, x: m.eps(x, steps, z.to(x)), "invert": lambda m, x: m.invert(x, z.to(x), 2),
    "decode": lambda m, x: m.decode(noise(2, 3, 16, 16).to(x), z.to(x), 2), "variations": lambda m, x: m.variations(x, 2, 2, generator=seeded()),
    "sample": lambda m, x: m.sample(2, 2, generator=seeded()), "loss": lambda m, x: m.loss(x, steps, noise(2, 3, 16, 16).to(x)),
    "gradient": lambda m, x: gradient(m, lambda: m.loss(x, steps, noise(2, 3, 16, 16).to(x))),
    "classifier.logits": lambda m, x: m.classifier.logits(z.to(x)), "classifier.direction": lambda m, x: m.classifier.direction("A"), "classifier.move": lambda m, x: m.classifier.move(z.to(x), "A"),
    "editor.logits": lambda m, x: m.editor.logits(z.to(x)), "editor.move": lambda m, x: m.editor.move(z.to(x), "A"),
    "prior.eps": lambda m, x: m.prior.eps(z.to(x), steps), "prior.loss": lambda m, x: m.prior.loss(z.to(x), steps, noise(2, 64).to(x)), "prior.decode": lambda m, x: m.prior.decode(z.to(x), 2),
    "prior.sample": lambda m, x: m.prior.sample(2, 2, generator=seeded()), "prior.dpm": lambda m, x: m.prior.sample(2, 2, generator=seeded(), sampler="dpm"),
    "prior.normalize": lambda m, x: m.prior.normalize(z.to(x)), "prior.denormalize": lambda m, x: m.prior.denormalize(z.to(x))}
inverting = {  # an untrained network turns the rounding of an inverted image into another image: finite and of the right size is what can be asked
    "reconstruct": lambda m, x: m.reconstruct(x, 2), "mirror": lambda m, x: m.invert(x, n_steps=2, method="mirror"), "fixed_point": lambda m, x: m.invert(x, n_steps=2, method="fixed_point"),
    "interpolate": lambda m, x: m.interpolate(x, x.flip(0), [0, .5], 2), "edit": lambda m, x: m.edit(x, "A", n_steps=2), "edit, line": lambda m, x: m.edit(x, "A", n_steps=2, path="line"),
    "edit, vector": lambda m, x: m.edit(x, line, n_steps=2),
    "sample_class": lambda m, x: m.sample_class(m.classifier, 2, 2, name="A", generator=seeded()), "threshold": lambda m, x: m.sample_class(m.classifier, 2, 2, name="A", accept="threshold", generator=seeded())}


def verbs(name):
    if "ddim" in name:
        return denoiser
    return {**semantic, **inverting} if "diffae" in name else autoencoder


@pytest.fixture(scope="module")
def truth():
    "The models, and what they say in float32."
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(0)
            with torch.enable_grad():
                model = models[name]()
            made[name] = model, {k: f(model, image()) for k, f in verbs(name).items()}
        return made[name]
    with torch.no_grad():
        yield get


@pytest.mark.parametrize("given", ["float32 images", "images of its type"])
@pytest.mark.parametrize("dtype", dtypes)
@pytest.mark.parametrize("name", models)
def test_every_verb(truth, name, dtype, given):
    model, expected = truth(name)
    model, x = copy.deepcopy(model).to(dtype), image() if given == "float32 images" else image().to(dtype)
    for verb, f in verbs(name).items():
        if verb in inverting and name == "diffae, haar":
            continue  # the same code
        y, e = f(model, x).double(), expected[verb].double()
        assert y.shape == e.shape and y.isfinite().all(), verb
        if verb not in inverting:
            near = tolerance[dtype]*(2 if verb == "loss" and verbs(name) is autoencoder else 1)  # a gradient, through statistics of few pixels
            assert (y - e).norm() <= near*e.norm(), (verb, ((y - e).norm()/e.norm()).item())


@pytest.mark.parametrize("dtype", dtypes)
def test_parts_of_another_type(truth, dtype):
    model, _ = truth("diffae")
    model = copy.deepcopy(model)
    model.prior.to(dtype), model.classifier.to(dtype), model.editor.to(dtype)
    x = image()
    for y in (model.edit(x, "A", n_steps=2), model.edit(x, "A", n_steps=2, path="line"), model.sample(2, 2), model.sample_class(model.classifier, 2, 2, name="A")):
        assert y.dtype == torch.float32 and y.isfinite().all()


@pytest.mark.parametrize("verb", ["encode", "decode"])
@pytest.mark.parametrize("name", ["litevae", "klvae"])
def test_float16_that_overflows(truth, name, verb):
    model = copy.deepcopy(truth(name)[0])
    for p in getattr(model, f"{verb}r").conv_out.parameters() if hasattr(getattr(model, f"{verb}r"), "conv_out") else model.encoder.aggregator.conv_out.parameters():
        p.mul_(1e8).clamp_(-6e4, 6e4)
    x = image() if verb == "encode" else 100*noise(2, model.config.z_channels, 4, 4)
    assert getattr(model, verb)(x) is not None
    with pytest.raises(ValueError, match=f"^{verb}: float16 overflowed in this model, use bfloat16 or float32"):
        getattr(model.half(), verb)(x)


def test_float16_that_overflows_while_sampling():
    with torch.no_grad():
        model = awake(DDIM.from_preset("ddim-tiny", image_size=16))
        model.out[2].weight.mul_(1e8).clamp_(-6e4, 6e4)
        with pytest.raises(ValueError, match="^eps: float16 overflowed"):
            model.half().sample(1, 2, generator=seeded())
