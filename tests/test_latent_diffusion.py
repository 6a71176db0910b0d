"""A generator on latents: exact networks draw the right distribution, runs go on in every stage, a device is kept to."""
from pathlib import Path

import pytest
import torch
from PIL import Image

from litevae_diffae import LatentDiffusion, LiteVAE, load, load_avatars
from litevae_diffae.cli import main
from litevae_diffae.core import asset
from litevae_diffae.diffusion.flow import flow_abar
from litevae_diffae.diffusion.schedule import gaussian_eps
from litevae_diffae.latent import model as latent_model
from litevae_diffae.latent.flow import gaussian_velocity
from litevae_diffae.latent.unet import LatentDiffusionConfig
from litevae_diffae.train import Trainer

SMALL = dict(image_size=8, channel_mult=(1, 2), embed_channels=32, model_channels=32, n_res_blocks=1)
MEAN, STD = 0.7, 0.4


def seeded(seed=0): return torch.Generator().manual_seed(seed)


def small(kind="flow", **fields):
    return LatentDiffusion(LatentDiffusionConfig(**{**SMALL, "prediction_type": kind, **fields})).eval()


class Exact(LatentDiffusion):
    "A network that knows: the latents are N(MEAN, STD^2)."
    config_class = LatentDiffusionConfig

    def output(self, z_t, t, y=None):
        if self.config.prediction_type == "flow": return gaussian_velocity(MEAN, STD)(z_t, (t + 0.5)/1000)
        eps = gaussian_eps(MEAN, STD, self.schedule)(z_t, t)
        if self.config.prediction_type == "eps": return eps
        abar = self.schedule.abar(z_t, t)
        x_0 = (z_t - (1 - abar).sqrt()*eps)/abar.sqrt()
        return abar.sqrt()*eps - (1 - abar).sqrt()*x_0


LEVELS = ["linear", "latent-diffusion", "stable-diffusion"]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind, sampler", [("flow", "euler"), ("flow", "heun"), ("eps", "ddim"), ("v", "ddim"), ("eps", "dpm"), ("v", "dpm")])
def test_an_exact_network_draws_the_gaussian(kind, sampler, levels):
    "From what the data have become at the last step: standard noise and, on the DDPM path, what is left of them."
    model = Exact(LatentDiffusionConfig(**SMALL, prediction_type=kind, noise_levels=levels))
    z_T = torch.randn(64, 4, 8, 8, generator=seeded())
    left = 0. if kind == "flow" else model.schedule.alphas_cumprod[995 if sampler == "ddim" else 999].item()
    z = model.denoise(left**.5*MEAN + (left*STD**2 + 1 - left)**.5*z_T, 200, sampler=sampler)
    assert abs(z.mean() - MEAN) < 0.02 and abs(z.std() - STD) < 0.03


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", ["flow", "eps", "v"])
def test_inversion_of_an_exact_network_is_noise(kind, levels):
    "Standard noise for a flow; on the DDPM path with what is left of the data at the last step."
    model = Exact(LatentDiffusionConfig(**SMALL, prediction_type=kind, noise_levels=levels))
    z_0 = MEAN + STD*torch.randn(64, 4, 8, 8, generator=seeded())
    predict = latent_model.predictor(model)
    z_T = latent_model.add_noise_back(model, z_0, 200, predict)
    left = 0. if kind == "flow" else model.schedule.alphas_cumprod[995].item()
    assert abs(z_T.mean() - left**.5*MEAN) < 0.05 and abs(z_T.std() - (left*STD**2 + 1 - left)**.5) < 0.05
    again = model.denoise(z_T, 200)
    assert (again - z_0).abs().max() < 0.02


def test_noise_levels_are_the_published_ones():
    "Betas straight in the square root; what is left of the image at the last step is the product of sqrt(1 - beta)."
    for name, first, last, left in (("latent-diffusion", .0015, .0195, .0119291), ("stable-diffusion", .00085, .012, .0682649), ("linear", 1e-4, .02, .0063528)):
        s = small("eps", noise_levels=name).schedule
        assert (len(s), s.betas[0].item(), s.betas[-1].item()) == (1000, pytest.approx(first), pytest.approx(last))
        assert s.alphas_cumprod[-1].item()**.5 == pytest.approx(left, rel=1e-4)
        middle = s.betas[[0, 500, 999]]
        roots = middle if name == "linear" else middle.sqrt()
        assert ((roots[1] - roots[0])/(roots[2] - roots[0])).item() == pytest.approx(500/999)
    assert LatentDiffusion.from_preset("ldm-tiny").config.noise_levels == "stable-diffusion"
    assert LatentDiffusionConfig(**SMALL).noise_levels == "stable-diffusion"
    for name in ("ldm-ffhq", "ldm-ffhq-f8"): assert LatentDiffusion.presets[name].noise_levels == "latent-diffusion"
    with pytest.raises(ValueError, match="noise_levels: must be one of linear, latent-diffusion, stable-diffusion, got 'cosine'"): small("eps", noise_levels="cosine")


def test_an_error_of_the_first_step_is_enlarged_by_what_is_left_of_the_image():
    "A network that says zero where noise is: sqrt(1 - abar) of x_T stays, and is divided by sqrt(abar)."
    for name in ("linear", "latent-diffusion", "stable-diffusion"):
        net = small("eps", noise_levels=name) # a new network says zero
        z = net.noise(4, seeded())
        abar = net.schedule.alphas_cumprod[980].item()
        assert torch.allclose(net.denoise(z, 50), (z/abar**.5).float(), rtol=1e-3)


@pytest.mark.parametrize("kind", ["flow", "eps", "v"])
def test_min_snr_is_a_weight_of_the_plain_loss(kind):
    plain, weighted = small(kind), small(kind, loss_weight="min_snr")
    weighted.load_state_dict(plain.state_dict())
    z, eps = torch.randn(2, 5, 4, 8, 8, generator=seeded())
    t = torch.tensor([.05, .3, .5, .7, .95]) if kind == "flow" else torch.tensor([5, 300, 500, 700, 950])
    abar = flow_abar(t) if kind == "flow" else plain.schedule.alphas_cumprod[t].float()
    snr, gamma = abar/(1 - abar), torch.tensor(5.)
    to_x0 = {"eps": 1/snr, "v": 1 - abar, "flow": t**2 if kind == "flow" else None}[kind] # squared errors of x_0, per error of the output
    wanted = torch.minimum(snr, gamma)*to_x0*plain.loss(z, t, eps)
    assert torch.allclose(weighted.loss(z, t, eps), wanted, rtol=1e-4)


def test_guidance_is_linear_in_the_outputs():
    model = small(label_kind="class", label_names=("a", "b"))
    for p in model.parameters(): torch.nn.init.normal_(p, std=0.05, generator=seeded(1))
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    one_step = {g: model.denoise(z, 1, label="a", guidance=g) for g in (0., 1., 2., 3.)}
    assert torch.equal(one_step[0.], model.denoise(z, 1))
    for g in (2., 3.):
        assert torch.allclose(one_step[g], one_step[0.] + g*(one_step[1.] - one_step[0.]), atol=1e-4)
    assert not torch.allclose(one_step[0.], one_step[1.], atol=1e-3)


def test_shipped_model_in_numbers():
    model = load("latent-avatars")
    assert isinstance(model, LatentDiffusion) and isinstance(model.autoencoder, LiteVAE)
    x = model.sample(2, 10, generator=seeded())
    assert x.shape == (2, 3, 128, 128) and -1 <= x.min() and x.max() <= 1
    assert torch.equal(x, model.sample(2, 10, generator=seeded()))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert sum(f.stat().st_size for f in asset("latent-avatars").rglob("*") if f.is_file()) < 10e6


def test_shipped_model_brings_faces_back():
    model, faces = load("latent-avatars"), load_avatars("test", size=128, n=8)
    x = torch.from_numpy(faces.images[:8]).movedim(3, 1)/127.5 - 1
    z_0 = model.encode(x)
    error = (model.denoise(model.invert(x, 20), 20) - z_0).square().mean().sqrt()
    assert error < 0.1
    own = model.loss(z_0, torch.full((8,), 0.5), torch.randn(z_0.shape, generator=seeded())).mean()
    noise = model.loss(torch.randn(z_0.shape, generator=seeded(1)), torch.full((8,), 0.5), torch.randn(z_0.shape, generator=seeded())).mean()
    assert own < 0.5*noise # it knows faces from noise


def test_labels_are_obeyed():
    model, judge = load("latent-avatars"), load("avatars")
    shares = []
    for wish in (True, False):
        x = model.sample(12, 12, label={"Hat": wish}, guidance=2., generator=seeded())
        logits = judge.classifier.logits(judge.encode(torch.nn.functional.avg_pool2d(x, 2)))
        shares.append((logits[:, judge.classifier.names.index("Hat")] > 0).float().mean().item())
    assert shares[0] > shares[1] + 0.5


# the command

def folder_of_images(path, n=6):
    path.mkdir()
    for i, face in enumerate(load_avatars("test", n=n).images): Image.fromarray(face).save(path/f"{i}.png")
    return path


def command(data, out, *more):
    return ["train", "ldm-tiny", "--data", str(data), "--out", str(out), "--autoencoder", "photos-tiny", "--steps", "4", "--batch-size", "2", "--precision", "fp32", *more]


class Stopped(KeyboardInterrupt): pass


def weights(out): return LatentDiffusion.from_pretrained(Path(out)/"model").state_dict()


@pytest.mark.parametrize("stage", ["latents", "steps", "model"])
def test_the_command_goes_on_in_every_stage(tmp_path, monkeypatch, stage):
    data = folder_of_images(tmp_path/"faces")
    main(command(data, tmp_path/"whole"))
    with monkeypatch.context() as patch:
        if stage == "latents":
            def stop(*args, **kw): raise Stopped
            patch.setattr(latent_model, "fit_latents", stop) # the latents are there, no step is done
        elif stage == "steps":
            step = Trainer.do_step
            def stop(run, batches):
                if run.step == 2:
                    run.save()
                    raise Stopped
                step(run, batches)
            patch.setattr(Trainer, "do_step", stop)
        else:
            def stop(*args, **kw): raise Stopped
            patch.setattr(LatentDiffusion, "save_pretrained", stop)
        with pytest.raises((Stopped, SystemExit)): main(command(data, tmp_path/"parts"))
    assert not (tmp_path/"parts/model").exists()
    main(command(data, tmp_path/"parts"))
    whole, parts = weights(tmp_path/"whole"), weights(tmp_path/"parts")
    assert all(torch.equal(v, parts[k]) for k, v in whole.items())


def says(capsys, *args):
    with pytest.raises(SystemExit) as end: main(list(args))
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2
    return line


def test_bad_options_get_one_sentence(tmp_path, capsys):
    data = str(folder_of_images(tmp_path/"faces"))
    run = ["train", "ldm-tiny", "--data", data, "--out", str(tmp_path/"r"), "--steps", "1"]
    assert "--labels: the data have no attributes, got Hat" in says(capsys, *run, "--autoencoder", "photos-tiny", "--labels", "Hat")
    assert "size: must be a multiple of 32 pixels" in says(capsys, *run, "--autoencoder", "photos-tiny", "--size", "40")
    assert "'avatars' is no shipped name (photos, photos-tiny)" in says(capsys, *run, "--autoencoder", "avatars")
    assert "--schedule: only for a LiteVAE" in says(capsys, *run, "--schedule", "half")
    assert "only for ldm-..." in says(capsys, "train", "litevae-tiny", "--data", data, "--out", str(tmp_path/"q"), "--labels", "Hat")
    new = ["sample", "--out", str(tmp_path/"new")]
    assert "label, guidance: only for a LatentDiffusion" in says(capsys, *new, "--model", "avatars", "--label", "Hat")
    assert "must be one of Smiling" in says(capsys, *new, "--model", "latent-avatars", "--label", "Scarf")
    assert "sampler: must be euler or heun" in says(capsys, *new, "--model", "latent-avatars", "--sampler", "ddim")
    assert "eta: must be 0" in says(capsys, *new, "--model", "latent-avatars", "--eta", "1")


def test_a_folder_of_other_parts_is_refused(tmp_path):
    load("latent-avatars").save_pretrained(tmp_path)
    load("photos-tiny").save_pretrained(tmp_path/"autoencoder") # 12 channels instead of 4
    with pytest.raises(ValueError, match="4 latent channels expected, got 12"): LatentDiffusion.from_pretrained(tmp_path)
