"""What users of other programs of this field reported in public, asked of ours: the right value for each."""
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from PIL import Image
from safetensors.torch import load_file

from litevae_diffae import DiffAE, LiteVAE
from litevae_diffae.cli import main
from litevae_diffae.folders import ImageFolder
from litevae_diffae.diffae.model import slerp
from litevae_diffae.diffusion.ddim import ddim_decode
from litevae_diffae.diffusion.dpm_solver import dpm_decode
from litevae_diffae.diffusion.schedule import Schedule, ddim_timesteps, linear_betas
from litevae_diffae.litevae.wavelets import dwt2, idwt2, wavedec2, waverec2
from litevae_diffae.distances import alexnet_fd, alexnet_kid
from litevae_diffae.metrics import ssim
from litevae_diffae.perceptual import lpips


@pytest.fixture
def images(tmp_path, monkeypatch):
    "Make a folder of n images of noise, of different widths, in the working folder."
    monkeypatch.chdir(tmp_path)

    def images(name, n=4, size=48):
        Path(name).mkdir(parents=True)
        for i in range(n):
            pixels = np.random.default_rng(i).integers(0, 256, (size, size + 8 * i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(name) / f"{i}.png")
        return Path(name)
    return images


@pytest.fixture
def command(capsys):
    "Exit code, output and errors of one command line."
    def command(*args):
        capsys.readouterr()
        try: code = main([str(a) for a in args]) or 0
        except SystemExit as e: code = e.code
        said = capsys.readouterr()
        return code, said.out, said.err
    return command


def train(command, data, out, steps, *more):
    return command("train", "litevae-tiny", "--data", data, "--out", out, "--steps", steps, "--size", 32, *more)


# ---------------------------------------------------------------- samplers

@pytest.mark.parametrize("n", [2, 7, 50, 53, 334, 500, 1000])
def test_as_many_steps_as_asked_for(n):
    "Project-MONAI/GenerativeModels#162: 53 steps of 1,000 became 56. huggingface/diffusers#10003: 1,000 read beyond the end."
    steps = ddim_timesteps(n)
    assert len(steps) == n and steps[0] == 0 and steps[-1] <= 999 and len(set(steps.diff().tolist())) == 1


def test_steps_that_no_stride_gives():
    with pytest.raises(ValueError, match="nearest that work: 500 and 1000"): ddim_timesteps(999)


@pytest.mark.parametrize("n", [2, 5, 50])
@pytest.mark.parametrize("decode", [ddim_decode, dpm_decode])
def test_last_step_lands_on_the_image(decode, n):
    "huggingface/diffusers#5921: below zero the last step has no noise level. LuChengTHU/dpm-solver#36: few steps left noise."
    torch.manual_seed(0)
    schedule, x_0 = Schedule(linear_betas()), torch.rand(1, 3, 8, 8) * 1.8 - 0.9

    def eps(x_t, t): # of a model that has learned one image
        abar = schedule.alphas_cumprod[t].float()
        return (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()

    found = decode(eps, torch.randn(1, 3, 8, 8), n, schedule)
    torch.testing.assert_close(found, x_0, atol=2e-4, rtol=0)


def test_a_walk_between_equal_images_is_that_image():
    "dfki-ric/pytransform3d#45: spherical interpolation of equal vectors is 0/0."
    torch.manual_seed(0)
    v = torch.randn(2, 3, 8, 8)
    for other in (v, v * (1 + 1e-7), 2 * v, -v, torch.zeros_like(v)): assert slerp(v, other, 0.5).isfinite().all()
    torch.testing.assert_close(slerp(v, v, 0.3), v)
    model, x = DiffAE.from_preset("diffae-tiny", image_size=16).eval(), torch.rand(3, 16, 16) * 2 - 1
    a, b, c = model.interpolate(x, x, [0.0, 0.5, 1.0], n_steps=5)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    torch.testing.assert_close(a, c, atol=1e-4, rtol=0)


# ---------------------------------------------------------------- wavelets

@pytest.mark.parametrize("size", [2, 4, 6, 16])
@pytest.mark.parametrize("name", ["db2", "db4", "db8", "sym8", "coif3", "db20"])
def test_images_smaller_than_the_filter(name, size):
    "fbcotter/pytorch_wavelets#42: the inverse was none for images smaller than the wavelet."
    torch.manual_seed(0)
    x = torch.randn(2, 1, size, size, dtype=torch.float64)
    ll, details = dwt2(x, name)
    torch.testing.assert_close(idwt2((ll, details), name), x)
    torch.testing.assert_close(dwt2(idwt2((ll, details), name), name)[0], ll)
    expected = pywt.dwt2(x.numpy(), name, mode="periodization")[0]
    np.testing.assert_allclose(ll.numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("shape, levels", [((129, 255), 1), ((12, 20), 3), ((32, 32), 6)])
def test_sizes_that_would_come_back_larger(shape, levels):
    "PyWavelets/pywt#725: 129 x 255 came back as 130 x 256. v0lta/PyTorch-Wavelet-Toolbox#21: too many levels."
    with pytest.raises(ValueError, match=r"x: H and W must be .*, got \("): wavedec2(torch.randn(1, 1, *shape), "haar", levels)


def test_sizes_come_back():
    x = torch.randn(1, 1, 12, 20)
    assert waverec2(wavedec2(x, "haar", 2), "haar").shape == x.shape
    model = LiteVAE.from_preset("litevae-tiny").eval()
    with torch.no_grad(): assert model(torch.rand(1, 3, 49, 63)).sample.shape == (1, 3, 49, 63)


# ---------------------------------------------------------------- models

@pytest.mark.parametrize("tile, overlap", [(64, 16), (64, 0), (64, 56), (16, 8), (24, 16)])
def test_tiles_of_all_sizes(tile, overlap):
    "finegrain-ai/refiners PR#477: a rest of one pixel. invoke-ai/InvokeAI PR#9427: tiles below the stride cut the image."
    torch.manual_seed(0)
    model = LiteVAE.from_preset("litevae-tiny").eval()
    for h, w in ((64, 64), (tile - overlap + 1, 65), (72, 8), (113, 70)):
        x = torch.rand(1, 3, h, w) * 2 - 1
        with torch.no_grad():
            model.disable_tiling()
            z = model.encode(x).latent_dist.mean
            model.enable_tiling(tile, overlap)
            assert model.encode(x).latent_dist.mean.shape == z.shape
            y = model.decode(z, size=(h, w)).sample
        assert y.shape == x.shape and y.isfinite().all()


def test_a_model_in_use_does_not_draw():
    "Lightning-Universe/lightning-bolts#566: two reconstructions of one image differed."
    torch.manual_seed(0)
    model, x = LiteVAE.from_preset("litevae-tiny").eval(), torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(model(x).sample, model(x).sample)
        assert not torch.equal(model(x, sample_posterior=True).sample, model(x).sample)


# ---------------------------------------------------------------- metrics

@pytest.mark.parametrize("distance", [alexnet_fd, alexnet_kid])
@pytest.mark.parametrize("n, m", [(1, 1), (1, 5), (5, 1), (0, 3)])
def test_distances_need_more_than_one_image(distance, n, m):
    "Lightning-AI/torchmetrics#1652: with one image, an array that must not contain infs or NaNs."
    with pytest.raises(ValueError, match="at least"): distance(torch.rand(n, 3, 64, 64), torch.rand(m, 3, 64, 64))


def test_distance_of_a_set_to_itself():
    "photosynthesis-team/piq#283: 7 instead of 0. piq#102 and MONAI GenerativeModels#231: NaN where features do not vary."
    torch.manual_seed(0)
    x, grey = torch.rand(8, 3, 64, 64) * 2 - 1, torch.zeros(4, 3, 64, 64)
    assert abs(alexnet_fd(x, x).value) < 1e-5 and abs(alexnet_fd(x, x.flip(0)).value) < 1e-5
    assert abs(alexnet_fd(grey, grey).value) < 1e-5
    assert math.isfinite(alexnet_fd(x, grey).value) and alexnet_fd(x, grey).value > 0.1


def test_similarity_of_an_image_and_its_negative():
    "VainF/pytorch-msssim#7: NaN for images that are opposites."
    torch.manual_seed(0)
    x = (torch.rand(2, 3, 48, 48) * 2 - 1).requires_grad_()
    found = ssim(x, -x)
    found.sum().backward()
    assert (found < -0.5).all() and (found >= -1).all() and x.grad.isfinite().all()


def test_perceptual_distance_of_small_images():
    "ashawkey/RAD-NeRF#57: after hours of training, an output size of 192x0x0."
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    with pytest.raises(ValueError, match="lpips: at least 31 x 31 pixels expected, got .*min_size=64"): lpips(x, -x)
    assert lpips(x, -x, min_size=64) > 0


# ---------------------------------------------------------------- folders

def test_training_refuses_crops_too_small_for_its_loss(images, command):
    code, _, said = command("train", "litevae-tiny", "--data", images("d", 2, 24), "--out", "run", "--steps", 1, "--size", 16)
    assert code == 2 and "size: must be a multiple of 8 and at least 32" in said


def test_names_with_the_characters_of_patterns(images, command):
    "nagadomi/nunif PR#8, ilastik/ilastik#2391: brackets are patterns to glob. replicate/lora-training#9: IMG_6003.JPG was no image."
    folder = images("pics [2024] {a} *", 2)
    (folder / "0.png").rename(folder / "IMG[1].PNG")
    Image.new("RGB", (40, 40)).save(folder / "x.JpEg")
    code, said, _ = command("reconstruct", folder, "--model", "photos-tiny", "--out", "out [1]")
    assert code == 0 and f"{folder}: 3 images" in said and len(list(Path("out [1]").glob("*.png"))) == 3
    assert command("evaluate", "--model", "photos-tiny", "--data", folder / "IMG[1].PNG", "--out", "ev")[0] == 0
    for _ in range(2): # the second time, it goes on in the same folder
        assert train(command, folder, "run [1] %s {0}", 1, "--batch-size", 2)[0] == 0


def test_folders_of_any_layout(images, command):
    "dome272/Diffusion-Models-pytorch#43: no class folder. Luchixiang/EMDiffuse#1: folders named by letters."
    images("flat", 2)
    images("deep/abc/1", 1)
    images("deep/123", 1)
    assert len(ImageFolder("flat")) == len(ImageFolder("deep")) == 2
    code, _, said = command("evaluate", "--model", "photos-tiny", "--data", "nowhere")
    assert code == 2 and "'nowhere' is no folder" in said


def test_palettes_with_transparency_and_films(images):
    "RileyLazarou/PokeGAN#3: a warning, and colours where there was nothing."
    folder = images("pal", 0)
    image = Image.new("P", (32, 32), 0)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    image.paste(1, (0, 0, 16, 32))
    image.paste(2, (16, 16, 32, 32))
    image.save(folder / "a.png", transparency=bytes([0, 255, 128]))
    red, blue = (Image.new("RGB", (32, 32), c) for c in ("red", "blue"))
    red.save(folder / "b.gif", save_all=True, append_images=[blue])
    Image.new("1", (32, 32), 1).save(folder / "c.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (a, _), (b, _), (c, _) = ImageFolder(folder)
    assert a[0, 0].tolist() == [0, 255, 0] and a[0, 31].tolist() == [255, 255, 255] and a[31, 31].tolist() == [127, 127, 255]
    assert b[5, 5].tolist() == [255, 0, 0] and (c == 255).all()


# ---------------------------------------------------------------- runs

@pytest.mark.parametrize("n, batch_size", [(3, 8), (1, 4), (5, 4), (5, 1)])
def test_sets_that_the_batch_does_not_divide(images, command, n, batch_size):
    "devilismyfriend/StableTuner#95, lmnt-com/diffwave#7: division by zero. scverse/scvi-tools#426: a last batch of one."
    code, _, said = train(command, images("d", n), "run", 2, "--batch-size", batch_size)
    assert code == 0, said
    assert all(v.isfinite().all() for v in load_file("run/model/model.safetensors").values())
    assert json.loads(Path("run/log.jsonl").read_text().splitlines()[-1])["images"] == 2 * batch_size


def test_a_run_that_is_over_is_left_as_it_is(images, command):
    "clementchadebec/benchmark_VAE PR#92: a resumed run began at epoch 1. the_well PR#63: with the warm-up of the learning rate."
    images("d", 4)
    files = ("run/log.jsonl", "run/model/model.safetensors")
    kept = []
    for _ in range(2):
        assert train(command, "d", "run", 4, "--batch-size", 2)[0] == 0
        kept.append([Path(f).read_bytes() for f in files])
    assert kept[0] == kept[1]
    code, _, said = train(command, "d", "run", 8, "--batch-size", 2)
    assert code == 2 and "run holds a run with steps=4 (now 8)" in said


def test_numbers_that_overflow_are_not_saved(images, command):
    "Rikorose/DeepFilterNet#30: the last checkpoint held NaN, and going on went on from there."
    code, _, said = train(command, images("d", 2), "run", 6, "--batch-size", 2, "--lr", 10, "--precision", "fp32", "--save-every", 1)
    assert code == 1 and re.search("TrainingStopped: step [0-9]+: .* is (nan|inf)", said)
    for path in Path("run").rglob("*.safetensors"): assert all(v.isfinite().all() for v in load_file(path).values()), path
