"""The command line with inputs that users have: what comes is right, or one line that names the thing, and nothing is lost."""
import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from litevae_diffae import DDIM, AttributeClassifier, AttributeClassifierConfig, DiffAE, KLVAE, LatentDDIM, LiteVAE
from litevae_diffae.cli import main
from litevae_diffae.hub import preset_config


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Tiny models with random weights, by name."
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    LiteVAE.from_preset("litevae-tiny").save_pretrained(root/"vae")
    LiteVAE.from_preset("litevae-tiny", in_channels=1).save_pretrained(root/"grey")
    LiteVAE.from_preset("litevae-tiny", in_channels=5).save_pretrained(root/"five")
    dae = DiffAE.from_preset("diffae-tiny", image_size=16)
    dae.prior, dae.classifier = LatentDDIM.from_preset("latent-tiny"), AttributeClassifier(AttributeClassifierConfig(64, ("Smiling", "Hat")))
    dae.prior.set_stats(torch.randn(9, 64))
    dae.save_pretrained(root/"dae")
    DDIM.from_preset("ddim-tiny", image_size=16).save_pretrained(root/"ddim")
    return root


def picture(seed, h=24, w=32): return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def save(path, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path, **options)
    return path


@pytest.fixture
def at(tmp_path, monkeypatch, capsys):
    "Run a command in an empty folder; gives (exit code, stdout, stderr)."
    monkeypatch.chdir(tmp_path)

    def call(*args):
        try: main([str(a) for a in args])
        except SystemExit as e: code = e.code
        else: code = 0
        said = capsys.readouterr()
        return code, said.out, said.err
    return call


def contents(root):
    "Every file below, with its bytes."
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def results(root): return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))


def refused(answer, *says):
    code, _, err = answer
    assert code == 2 and len(err.strip().splitlines()) == 1, (code, err)
    for text in says: assert text in err


# one door in

def odd_images(root):
    "Turned by EXIF, 16 bits, transparent, a palette, CMYK, grey with alpha."
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root/"turned.jpg", 1, exif=exif)
    Image.fromarray((np.arange(24*32)*80).reshape(24, 32).astype(np.uint16)).save(root/"deep.png")
    Image.fromarray(np.dstack([picture(2), picture(3)[..., :1]])).save(root/"clear.png")
    Image.fromarray(picture(4)).convert("P").save(root/"palette.gif")
    Image.fromarray(picture(5)).convert("CMYK").save(root/"print.tif")
    Image.fromarray(picture(6)).convert("LA").save(root/"grey_alpha.png")


@pytest.mark.parametrize("model", ["vae", "grey", "dae"])
def test_a_file_named_itself_is_the_file_in_its_folder(tmp_path, at, models, model):
    odd_images(tmp_path/"d") if (tmp_path/"d").mkdir() is None else None
    steps = ("--n-steps", 4) if model == "dae" else ()
    assert at("encode", "d", "--model", models/model, "--out", "all", *steps)[0] == 0
    assert at("reconstruct", "d", "--model", models/model, "--out", "all_r", *steps)[0] == 0
    for path in sorted((tmp_path/"d").iterdir()):
        assert at("encode", path, "--model", models/model, "--out", "one", *steps)[0] == 0
        assert at("reconstruct", path, "--model", models/model, "--out", "one_r", *steps)[0] == 0
        a, b = (load_file(f"{d}/{path.stem}.safetensors") for d in ("all", "one"))
        for k in a: torch.testing.assert_close(a[k], b[k], atol=1e-5, rtol=1e-5)    # a batch and one image differ in the last digit
        x, y = (np.asarray(Image.open(f"{d}/{path.stem}.png")).astype(int) for d in ("all_r", "one_r"))
        assert x.shape == y.shape and abs(x - y).max() <= 1
    if model == "vae":
        assert Image.open("all_r/turned.png").size == (24, 32)
        from litevae_diffae.images import read_image
        mean = LiteVAE.from_pretrained(models/"vae").encode(read_image("d/deep.png")[None]).latent_dist.mean
        torch.testing.assert_close(load_file("all/deep.safetensors")["mean"], mean.detach())


def test_a_named_image_that_cannot_be_read(tmp_path, at, models):
    (tmp_path/"notes.png").write_text("no image")
    (tmp_path/"cut.png").write_bytes(save(tmp_path/"x.png").read_bytes()[:500])
    for name in ("notes.png", "cut.png"):
        for command in ("reconstruct", "encode"): refused(at(command, name, "--model", models/"vae", "--out", "o"), f"{name}: ")
        refused(at("edit", name, "--model", models/"dae", "--attribute", "Hat", "--out", "o"), f"{name}: ")
        refused(at("evaluate", "--data", name, "--model", models/"vae", "--out", "o"), f"{name}: ")
        refused(at("interpolate", "x.png", name, "--model", models/"dae", "--out", "o"), f"{name}: ")
    refused(at("reconstruct", "none.png", "--model", models/"vae", "--out", "o"), "none.png")
    assert not results(tmp_path/"o") if (tmp_path/"o").exists() else True


def test_what_is_read_badly_is_named_the_rest_is_done(tmp_path, at, models):
    for i in range(4): save(tmp_path/f"d/{i}.png", i)
    raw = bytearray((tmp_path/"d/2.png").read_bytes())
    raw[60:300] = bytes(240)                                       # whole at both ends, damaged inside
    (tmp_path/"d/2.png").write_bytes(raw)
    (tmp_path/"d/notes.txt").write_text("never an image")
    for command, suffix in (("reconstruct", "png"), ("encode", "safetensors")):
        answer = at(command, "d", "--model", models/"vae", "--out", command)
        refused(answer, "data: 1 of 4 images could not be read: 2.png (", "the other 3 are done")
        assert "skipped 2.png: " in answer[1] and results(tmp_path/command) == [f"{i}.{suffix}" for i in (0, 1, 3)]
    answer = at("evaluate", "--data", "d", "--model", models/"vae", "--out", "e")
    refused(answer, "1 of 4 images could not be read: 2.png (")
    metrics = json.loads((tmp_path/"e/metrics.json").read_text())
    assert metrics["n"] == 3 and metrics["unread"][0].startswith("2.png: ")
    (tmp_path/"d/2.png").unlink()
    code, out, err = at("reconstruct", "d", "--model", models/"vae", "--out", "reconstruct")
    assert code == 0 and "3 images, mean PSNR" in out and "notes.txt" in out and not err


def test_an_icon_does_not_end_an_evaluation(tmp_path, at, models):
    save(tmp_path/"d/a.png")
    Image.fromarray(picture(1, 4, 4)).save(tmp_path/"d/icon.png")
    refused(at("evaluate", "--data", "d", "--model", models/"vae", "--out", "e"), "icon.png (is smaller than 8 x 8 pixels)")
    assert json.loads((tmp_path/"e/metrics.json").read_text())["n"] == 1


@pytest.mark.parametrize("model", ["grey", "five"])
def test_models_of_other_channels_in_every_command(tmp_path, at, models, model):
    from litevae_diffae.images import read_image
    n = {"grey": 1, "five": 5}[model]
    (tmp_path/"d").mkdir()
    for i in range(3):
        stack = np.random.default_rng(i).integers(0, 65536, (n, 32, 32), dtype=np.uint16)
        Image.fromarray(stack[0]).save(tmp_path/f"d/{i}.tif", save_all=True, append_images=[Image.fromarray(p) for p in stack[1:]])
    assert at("reconstruct", "d", "--model", models/model, "--out", "r") [0] == 0
    assert at("encode", "d", "--model", models/model, "--out", "e")[0] == 0
    code, _, err = at("evaluate", "--data", "d", "--model", models/model, "--out", "v")
    assert code == 0, err
    metrics = json.loads((tmp_path/"v/metrics.json").read_text())
    assert metrics["n"] == 3 and ("lpips" in metrics) == (n == 1)
    x = read_image("d/0.tif", n)
    vae = LiteVAE.from_pretrained(models/model)
    with torch.no_grad(): y, mean = vae(x[None]).sample.clamp(-1, 1)[0], vae.encode(x[None]).latent_dist.mean
    file = "r/0.png" if n == 1 else "r/0.tif"
    torch.testing.assert_close(read_image(file, n), y, atol=1/255 if n == 1 else 1e-5, rtol=0)
    torch.testing.assert_close(load_file("e/0.safetensors")["mean"], mean)
    train = ("--data", "d", "--steps", 1, "--batch-size", 2, "--size", 32)
    code, _, err = at("train", "litevae-tiny", *train, "--out", "run", "--set", f"in_channels={n}")
    assert code == 0 and json.loads((tmp_path/"run/model/config.json").read_text())["in_channels"] == n, err
    code, _, err = at("distill", "--model", "run/model", *train, "--out", "small", "--decoder-channels", 8)
    assert code == 0, err


def test_twelve_bits_with_their_range(tmp_path, at, models):
    from litevae_diffae.images import read_image
    scan = np.random.default_rng(0).integers(0, 4096, (32, 32), dtype=np.uint16)
    (tmp_path/"d").mkdir()
    Image.fromarray(scan).save(tmp_path/"d/scan.png")
    for data, out in (("d", "all"), ("d/scan.png", "one")):
        code, _, err = at("encode", data, "--model", models/"grey", "--out", out, "--value-range", 0, 4095)
        assert code == 0, err
    x = read_image("d/scan.png", 1, (0, 4095))
    assert x.max() > 0.9
    mean = LiteVAE.from_pretrained(models/"grey").encode(x[None]).latent_dist.mean.detach()
    for folder in ("all", "one"): torch.testing.assert_close(load_file(f"{folder}/scan.safetensors")["mean"], mean)
    refused(at("encode", "d", "--model", models/"grey", "--out", "o", "--value-range", 5, 5), "value_range")


def test_evaluate_and_its_like_hold_one_image_at_a_time(tmp_path, at, models, monkeypatch):
    import litevae_diffae.commands.inputs as inputs
    for i in range(8): save(tmp_path/f"d/{i:02d}.png", i)
    alive, most, fit = [], [0], inputs.fit

    def watched(model, pixels):
        most[0] = max(most[0], sum(r() is not None for r in alive))
        x = fit(model, pixels)
        alive.append(weakref.ref(x))
        return x

    monkeypatch.setattr(inputs, "fit", watched)
    monkeypatch.setattr("litevae_diffae.commands.verbs.fit", watched)
    for command in (("evaluate", "--data", "d"), ("encode", "d"), ("reconstruct", "d")):
        assert at(*command, "--model", models/"vae", "--out", command[0])[0] == 0
    assert len(alive) == 24 and most[0] <= 4


# one door out

def originals(root):
    for name, seed in (("d/x.png", 0), ("d/y.png", 1), ("d/more/x.png", 2)): save(root/name, seed)
    return contents(root/"d")


@pytest.mark.parametrize("command", [("reconstruct", "{}", "--model", "vae"), ("encode", "{}", "--model", "vae"), ("evaluate", "--data", "{}", "--model", "vae"),
                                     ("edit", "{}", "--model", "dae", "--attribute", "Hat", "--n-steps", "4")], ids=lambda c: c[0])
@pytest.mark.parametrize("data,out", [("d", "d"), ("d", "./d/."), ("d", "d/new"), ("d", "link"), ("link", "d"), ("d", "d/more"), ("d/../d", "link/more"), ("d", "d/inner")])
def test_results_never_go_into_the_data(tmp_path, at, models, command, data, out):
    before = originals(tmp_path)
    os.symlink(tmp_path/"d", tmp_path/"link")
    (tmp_path/"elsewhere").mkdir()
    os.symlink(tmp_path/"elsewhere", tmp_path/"d/inner")
    args = [models/a if a in ("vae", "dae") else a.format(data) for a in command]
    refused(at(*args, "--out", out), "name a folder outside of the data with --out")
    (tmp_path/"d/inner").unlink()
    assert contents(tmp_path/"d") == before and not list((tmp_path/"elsewhere").iterdir())


def test_dot_to_dot_and_one_file_onto_itself(tmp_path, at, models, monkeypatch):
    before = originals(tmp_path)
    refused(at("reconstruct", "d/x.png", "--model", models/"vae", "--out", "d"), "x.png: is one of the files to read")
    refused(at("interpolate", "d/x.png", "d/y.png", "--model", models/"dae", "--out", save(tmp_path/"o/000.png").parent), "000.png: is there already")
    monkeypatch.chdir(tmp_path/"d")
    for args in ((".", "."), ("x.png", "."), (".", "more"), ("more", "."), ("x.png", str(tmp_path/"d"))):
        code, _, err = at("reconstruct", args[0], "--model", models/"vae", "--out", args[1])
        assert code == 2 and len(err.splitlines()) == 1
        assert contents(tmp_path/"d") == before, args


def test_an_input_that_has_the_name_of_a_number(tmp_path, at, models):
    save(tmp_path/"000.png", 0), save(tmp_path/"001.png", 1)
    before = contents(tmp_path)
    refused(at("interpolate", "000.png", "001.png", "--model", models/"dae", "--out", ".", "--n", 2, "--n-steps", 4), "000.png: is one of the files to read")
    assert contents(tmp_path) == before


def test_a_model_is_not_written_over(tmp_path, at, models):
    import shutil
    shutil.copytree(models/"vae", tmp_path/"m")
    before = contents(tmp_path/"m")
    save(tmp_path/"model.jpg")
    refused(at("encode", "model.jpg", "--model", "m", "--out", "m"), "model.safetensors: is one of the files to read")
    assert contents(tmp_path/"m") == before


def test_images_that_differ_in_their_suffix_only(tmp_path, at, models):
    for name, format in (("x.jpg", "JPEG"), ("x.png", "PNG"), ("x.webp", "WEBP"), ("frame.0000", "PNG"), ("frame.0001", "PNG"), ("X.png", "PNG"), ("y.jpg", "JPEG")):
        save(tmp_path/"d"/name, len(name), format=format)
    code, out, err = at("encode", "d", "--model", models/"vae", "--out", "e")
    assert code == 0 and "7 latents" in out, err
    names = ["X.png.safetensors", "frame.0000.safetensors", "frame.0001.safetensors", "x.jpg.safetensors", "x.png~2.safetensors", "x.webp.safetensors", "y.safetensors"]
    assert results(tmp_path/"e") == sorted(names)
    assert at("reconstruct", "d", "--model", models/"vae", "--out", "r")[0] == 0
    assert results(tmp_path/"r") == sorted(n.replace("safetensors", "png") for n in names)


def test_fewer_samples_leave_no_older_ones(tmp_path, at, models):
    sample = ("sample", "--model", models/"dae", "--out", "s", "--n-steps", 4)
    assert at(*sample, "--n", 6)[0] == 0
    (tmp_path/"s/mine.txt").write_text("a note")
    code, out, err = at(*sample, "--n", 2, "--seed", 1)
    assert code == 0 and "removed 002.png, 003.png, 004.png and 1 more" in out and "replaces 000.png" in out, err
    assert results(tmp_path/"s") == ["000.png", "001.png", "mine.txt", "sheet.png"]
    (tmp_path/"s/.litevae_diffae.json").unlink()
    before = contents(tmp_path/"s")
    refused(at(*sample, "--n", 1), "000.png: is there already")
    assert contents(tmp_path/"s") == before


def test_files_of_somebody_else_stay(tmp_path, at, models):
    save(tmp_path/"d/x.jpg")
    for name in ("r/x.png", "e/x.safetensors", "v/metrics.json", "s/sheet.png", "i/config.json"):
        (tmp_path/name).parent.mkdir()
        (tmp_path/name).write_bytes(b"mine")
    for args in (("reconstruct", "d", "--model", models/"vae", "--out", "r"), ("encode", "d", "--model", models/"vae", "--out", "e"),
                 ("evaluate", "--data", "d", "--model", models/"vae", "--out", "v"), ("sample", "--model", models/"dae", "--out", "s", "--n", 1, "--n-steps", 4)):
        refused(at(*args), "is there already and is no unchanged result")
    for folder in "resvi": assert list(contents(tmp_path/folder).values()) == [b"mine"]


def test_an_evaluation_is_known_without_the_list(tmp_path, at, models):
    save(tmp_path/"d/x.png")
    evaluate = ("evaluate", "--data", "d", "--model", models/"vae", "--out", "v")
    assert at(*evaluate)[0] == 0
    (tmp_path/"v/.litevae_diffae.json").unlink()
    code, out, _ = at(*evaluate)
    assert code == 0 and "replaces metrics.json" in out


def test_infinity_is_null(tmp_path, at, models, monkeypatch):
    save(tmp_path/"d/x.png")
    monkeypatch.setattr("litevae_diffae.commands.imaging.rebuild", lambda model, x, **kw: x)
    assert at("evaluate", "--data", "d", "--model", models/"vae", "--out", "v")[0] == 0
    text = (tmp_path/"v/metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["psnr"] is None


def test_modes_are_the_usual_ones(tmp_path, at, models):
    save(tmp_path/"d/x.png")
    old = os.umask(0o022)
    try:
        for command, path in ((("encode", "d"), "o/x.safetensors"), (("reconstruct", "d"), "o/x.png"), (("evaluate", "--data", "d"), "o/metrics.json")):
            assert at(*command, "--model", models/"vae", "--out", "o")[0] == 0
            assert stat.S_IMODE((tmp_path/path).stat().st_mode) == 0o644
    finally: os.umask(old)


def test_a_full_disk(tmp_path, at, models, monkeypatch):
    for i in range(3): save(tmp_path/f"d/{i}.png", i)
    import litevae_diffae.files as files
    real = files.save_file

    def save_file(tensors, path, metadata=None):
        real(tensors, path, metadata=metadata)
        if len(results(tmp_path/"o")) == 1: raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", save_file)
    refused(at("encode", "d", "--model", models/"vae", "--out", "o"), "1.safetensors: can't be written (No space left on device)")
    assert results(tmp_path/"o") == ["0.safetensors"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert at("encode", "d", "--model", models/"vae", "--out", "o")[0] == 0 and len(results(tmp_path/"o")) == 3


# training beside its data

def test_a_run_inside_its_data_can_go_on(tmp_path, at):
    for i in range(4): save(tmp_path/f"D/{i}.png", i)
    train = ("train", "litevae-tiny", "--data", "D", "--out", "D/run", "--batch-size", 2, "--size", 32, "--grid-every", 1)
    code, out, err = at(*train, "--steps", 2)
    assert code == 0 and "D/run is left out, since the run writes there" in out, err
    save(tmp_path/"D/run/more.png")
    code, out, err = at(*train, "--steps", 2)
    assert code == 0 and "D: 4 images" in out, err
    refused(at(*train[:5], "D", *train[6:]), "out: D is the folder of the data")
    assert results(tmp_path/"D") == sorted(set(results(tmp_path/"D"))) and (tmp_path/"D/0.png").exists()


# settings

@pytest.mark.parametrize("word,value", [("False", False), ("false", False), ("no", False), ("0", False), ("off", False), ('"false"', False), ("'no'", False),
                                        ("True", True), ("true", True), ("yes", True), ("1", True)])
def test_flags_of_a_preset(word, value):
    assert preset_config(KLVAE, "sd-vae-small", (f"quant_conv={word}",)).quant_conv is value


@pytest.mark.parametrize("pair,says", [("quant_conv=maybe", "quant_conv: True or False expected, got 'maybe'"), ("quant_conv=2", "quant_conv"), ("quant_conv=None", "quant_conv"),
                                       ("z_channels=nan", "z_channels"), ("z_channels=4.5", "z_channels"), ("z_channels=", "z_channels"), ("z_channels", "must be name=value"),
                                       ("=4", "must be name=value"), ("block_out_channels=3", "block_out_channels"), ("nothing=1", "unknown field 'nothing'")])
def test_wrong_fields_of_a_preset(tmp_path, at, pair, says):
    save(tmp_path/"d/x.png")
    refused(at("train", "sd-vae-small", "--data", "d", "--out", "o", "--set", pair), says)
    assert not (tmp_path/"o").exists()


def test_a_switched_off_flag_is_saved_as_false(tmp_path, at):
    save(tmp_path/"d/x.png")
    small = ("--set", "block_out_channels=(32,32)", "decoder_mult=(1,1)", "quant_conv=False", "post_quant_conv=no")
    code, _, err = at("train", "sd-vae-small", "--data", "d", "--out", "o", "--size", 32, "--batch-size", 1, "--steps", 1, *small)
    assert code == 0, err
    config = json.loads((tmp_path/"o/model/config.json").read_text())
    assert (config["quant_conv"], config["post_quant_conv"], config["block_out_channels"]) == (False, False, [32, 32])
    assert not hasattr(KLVAE.from_pretrained("o/model"), "quant_conv") or KLVAE.from_pretrained("o/model").quant_conv is None


TRAIN = ("train", "litevae-tiny", "--data", "d", "--out", "o")
SAMPLE = ("sample", "--model", "dae", "--out", "o")
EDIT = ("edit", "d", "--model", "dae", "--attribute", "Hat", "--out", "o")


@pytest.mark.parametrize("args,says", [
    ((*EDIT, "--strength", "nan"), "strength: a finite number expected, got nan"), ((*EDIT, "--strength", "inf"), "strength: a finite number"),
    ((*EDIT, "--strength", "1e9"), "strength: must be in [-10, 10]"), ((*EDIT, "--strength", "-1e400"), "strength"), ((*EDIT, "--attribute="), "attribute"),
    ((*TRAIN, "--lr", "inf"), "lr: a finite number"), ((*TRAIN, "--lr", "0"), "lr: must be positive"), ((*TRAIN, "--lr", "-1"), "lr: must be positive"),
    ((*TRAIN, "--minutes", "nan"), "minutes: a finite number"), ((*TRAIN, "--minutes", "inf"), "minutes"), ((*TRAIN, "--minutes", "0"), "minutes: must be positive"),
    ((*TRAIN, "--seed", str(2**64)), "seed: must be at most 4294967295"), ((*TRAIN, "--seed", "-1"), "seed: must be at least 0"),
    ((*TRAIN, "--steps", "0"), "steps: must be positive"), ((*TRAIN, "--batch-size", "0"), "batch_size: must be positive"), ((*TRAIN, "--images", "-5"), "images: must be positive"),
    ((*TRAIN, "--size", "0"), "size: must be positive"), ((*TRAIN, "--size", "1000000"), "size: must be at most"), ((*TRAIN, "--n-workers", "-1"), "n_workers: must be at least 0"),
    ((*TRAIN, "--save-every", "-1"), "save_every: must be at least 0"), ((*TRAIN, "--grid-every", "-2"), "grid_every"), ((*TRAIN, "--equivariance", "nan"), "equivariance"),
    ((*TRAIN, "--value-range", "nan", "1"), "value_range"),
    ((*SAMPLE, "--seed", str(2**63)), "seed: must be at most"), ((*SAMPLE, "--n", "0"), "n: must be positive, got 0"), ((*SAMPLE, "--n", str(10**9)), "n: must be at most 10000"),
    ((*SAMPLE, "--n-steps", "0"), "n_steps"), ((*SAMPLE, "--n-steps", "-3", "--sampler", "dpm"), "n_steps"), ((*SAMPLE, "--latent-steps", "0"), "steps"),
    (("reconstruct", "d", "--model", "dae", "--out", "o", "--n-steps", str(10**18)), "n_steps"),
    (("evaluate", "--model", "vae", "--data", "d", "--out", "o", "--max-images", "0"), "max_images: must be positive"),
    (("distill", "--model", "vae", "--data", "d", "--out", "o", "--share", "nan"), "share: a finite number"),
    (("distill", "--model", "vae", "--data", "d", "--out", "o", "--share", "2"), "share: must be in [0, 1], got 2.0"),
    (("distill", "--model", "vae", "--data", "d", "--out", "o", "--decoder-channels", "0"), "decoder_channels: must be positive"),
    (("demo", "--out", "o", "--minutes", "nan"), "minutes: a finite number"), (("demo", "--out", "o", "--minutes", "1e9"), "minutes: must be at most"),
    (("bench", "--out", "o/b.json", "--minutes", "inf"), "minutes"), (("experiment", "t1", "--seeds", "0"), "seeds: must be positive"), (("experiment", "t1", "--first-seed", "-1"), "first_seed"),
    (("app", "--port", "70000"), "port: must be at most 65535"), (("app", "--port", "0"), "port: must be positive"), (("app", "--model", ""), "model: must not be empty"),
    (("train", "litevae-tiny", "--data", "", "--out", "o"), "data: must not be empty"), (("train", "litevae-tiny", "--data", "d", "--out", ""), "out: must not be empty"),
    (("train", "", "--data", "d", "--out", "o"), "model: must not be empty"), (("reconstruct", "", "--model", "vae", "--out", "o"), "data: must not be empty"),
    (("reconstruct", "d", "--model", " ", "--out", "o"), "model: must not be empty"), (("import", "", "--preset", "diffae-tiny", "--out", "o"), "checkpoint: must not be empty"),
    (("reconstruct", "d", "--model", "vae", "--out", "~no-such-user/o"), "out: there is no user 'no-such-user'"), (("encode", "~no-such-user", "--model", "vae", "--out", "o"), "data: there is no user"),
    (("encode", "d", "--model", "~no-such-user/m", "--out", "o"), "model: there is no user"),
    ((*SAMPLE, "--n", "3", "--n", "4"), "--n: is given twice"), ((*TRAIN, "--set", "z_channels=4", "--set", "decoder=gn"), "--set: is given twice"),
    ((*SAMPLE, "--n_steps", "5", "--n-steps", "5"), "--n-steps: is given twice"), ((*TRAIN, "--set", "z_channels=4", "z_channels=5"), "'z_channels' is given twice"),
    (("reconstruct", "-x.png", "--model", "vae", "--out", "o"), "data"), ((*SAMPLE, "--n", "1e3"), "--n"), ((*SAMPLE, "--n", "True"), "--n"),
    (("reconstruct", "d", "--model", "file", "--out", "o"), "file"), (("train", "litevae-tiny", "--data", "file", "--out", "o"), "file"),
    (("reconstruct", "d", "--model", "vae", "--out", "file"), "file: is a file, a folder is needed"), (("sample", "--model", "dae", "--out", "file/o"), "file/o: can't be written into"),
], ids=lambda a: a if isinstance(a, str) else " ".join((a[0], *a[-2:]))[:60])
def test_options_that_cannot_be_meant(tmp_path, at, models, args, says):
    save(tmp_path/"d/x.png")
    (tmp_path/"file").write_text("a file")
    before = contents(tmp_path)
    refused(at(*(models/a if a in ("vae", "dae") else a for a in args)), says)
    assert contents(tmp_path) == before


def test_a_path_may_begin_with_the_home_folder(tmp_path, at, models, monkeypatch):
    import shutil
    monkeypatch.setenv("HOME", str(tmp_path/"home"))
    save(tmp_path/"home/d/x.png")
    shutil.copytree(models/"vae", tmp_path/"home/vae")
    for command in (("reconstruct", "~/d"), ("encode", "~/d/x.png"), ("evaluate", "--data", "~/d")):
        code, _, err = at(*command, "--model", "~/vae", "--out", f"~/{command[0]}")
        assert code == 0 and results(tmp_path/"home"/command[0]), err
    assert not (tmp_path/"~").exists()


def test_names_that_begin_with_a_hyphen(tmp_path, at, models):
    save(tmp_path/"-x.png")
    assert at("reconstruct", "./-x.png", "--model", models/"vae", "--out=-o")[0] == 0
    assert at("reconstruct", "--model", models/"vae", "--out=-p", "--", "-x.png")[0] == 0
    assert results(tmp_path/"-o") == results(tmp_path/"-p") == ["-x.png"]


def test_a_folder_with_the_name_of_a_set_or_model(tmp_path, at, models):
    import shutil
    save(tmp_path/"avatars/x.png")
    shutil.copytree(models/"vae", tmp_path/"photos-tiny")
    code, out, _ = at("evaluate", "--data", "./avatars", "--model", "./photos-tiny", "--out", "a")
    assert code == 0 and "avatars: 1 images" in out and "of the package" not in out
    code, out, _ = at("evaluate", "--data", "avatars", "--max-images", 2, "--model", "photos-tiny", "--out", "b")
    assert code == 0 and "avatars: the data of the package; the folder here is ./avatars" in out
    assert "photos-tiny: the model of the package; the folder here is ./photos-tiny" in out


@pytest.mark.parametrize("damage,says", [(b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git-lfs"), (None, "cut short")])
def test_damaged_models_are_named(tmp_path, at, models, damage, says):
    import shutil
    save(tmp_path/"d/x.png")
    shutil.copytree(models/"vae", tmp_path/"m")
    weights = tmp_path/"m/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100] if damage is None else damage)
    refused(at("reconstruct", "d", "--model", "m", "--out", "o"), "m/model.safetensors: ", says)


# the terminal

def test_names_that_a_terminal_has_no_letters_for(tmp_path, at, models, monkeypatch):
    save(tmp_path/"写真/ü.png")
    Path(os.fsdecode(b"\xe5\x86\x99\xe7\x9c\x9f/caf\xe9.txt")).write_text("no image, a Latin-1 name")
    os.rename(save(tmp_path/"l.png", 3), os.fsdecode(b"\xe5\x86\x99\xe7\x9c\x9f/caf\xe9.png"))
    for encoding in ("cp1252", "ascii", "utf-8"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        assert at("reconstruct", "写真", "--model", models/"vae", "--out", f"出力-{encoding}")[0] == 0
        stream.flush()
        assert b"2 images, mean PSNR" in stream.buffer.getvalue() and len(results(tmp_path/f"出力-{encoding}")) == 2
    code, _, err = at("reconstruct", os.fsdecode(b"\xe9.png"), "--model", models/"vae", "--out", "o")
    assert code == 2 and "\\udce9.png" in err


@pytest.mark.parametrize("stream", [None, "closed"])
def test_nobody_listens(tmp_path, models, monkeypatch, stream):
    save(tmp_path/"d/x.png")
    monkeypatch.chdir(tmp_path)
    if stream:
        stream = io.TextIOWrapper(io.BytesIO())
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    main(["reconstruct", "d", "--model", str(models/"vae"), "--out", "o"])
    assert results(tmp_path/"o") == ["x.png"] and sys.stdout is stream


def test_a_broken_pipe_does_not_end_the_work(tmp_path, models):
    for i in range(3): save(tmp_path/f"d/{i}.png", i)
    read, write = os.pipe()
    os.close(read)
    code = f"from litevae_diffae.cli import main; main(['reconstruct', 'd', '--model', {str(models/'vae')!r}, '--out', 'o'])"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, "") and len(results(tmp_path/"o")) == 3


@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_who_stops_a_command_is_told_what_there_is(tmp_path, at, models, monkeypatch, number, code):
    for i in range(4): save(tmp_path/f"d/{i}.png", i)
    import litevae_diffae.commands.imaging as imaging
    real, calls = imaging.rebuild, []

    def rebuild(*args, **options):
        calls.append(1)
        if len(calls) == 3: os.kill(os.getpid(), number)
        return real(*args, **options)

    monkeypatch.setattr(imaging, "rebuild", rebuild)
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    got, _, err = at("reconstruct", "d", "--model", models/"vae", "--out", "o")
    assert got == code and len(err.splitlines()) == 1
    assert "2 of 4 files are written to o; the same command again writes them all" in err
    assert results(tmp_path/"o") == ["0.png", "1.png"] and not list((tmp_path/"o").glob("*.tmp"))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert at("reconstruct", "d", "--model", models/"vae", "--out", "o")[0] == 0 and len(results(tmp_path/"o")) == 4


def test_a_message_is_one_line_whatever_it_is_about(tmp_path, at, models):
    name = "a\n\x1b[2Jb\u2028.png"
    (tmp_path/name).write_text("no image")
    code, _, err = at("reconstruct", name, "--model", models/"vae", "--out", "o")
    assert code == 2 and len(err.splitlines()) == 1 and "\x1b" not in err


def test_debug_shows_where_it_came_from(tmp_path, at):
    with pytest.raises(FileNotFoundError): at("evaluate", "--model", "nothing-here", "--debug")


# results of experiments

def test_foreign_files_beside_results(tmp_path, monkeypatch):
    from litevae_diffae.experiments import records as experiment
    from litevae_diffae.files import FileError
    row = experiment.Row("a row", {"n": 1}, lambda config, seed, folder: {"error": 0.5})
    table = experiment.Experiment("Does it?", "so", lambda scale: [row])
    monkeypatch.setattr(experiment, "find_experiments", lambda: {"means": table})
    (tmp_path/"results").mkdir()
    for name, text in (("list.json", "[1, 2]"), ("other.json", '{"records": [1]}')): (tmp_path/"results"/name).write_text(text)
    before = contents(tmp_path/"results")
    run = lambda: experiment.run_experiment("means", seeds=1, out=str(tmp_path/"results"), work=str(tmp_path/"runs"))
    run()
    found = json.loads((tmp_path/"results/means.json").read_text(), parse_constant=pytest.fail)
    assert found["rows"][0]["name"] == "a row" and before.items() <= contents(tmp_path/"results").items()
    (tmp_path/"results/means.json").write_text("[1]")
    with pytest.raises(FileError, match="means.json: holds .*move it away"): run()
    for text in ("{", '{"records": {"a": 1}}'):                                    # damaged: it may hold what was measured
        (tmp_path/"results/means.json").write_text(text)
        with pytest.raises(FileError, match="means.json: .*(move it away|delete it)"): run()
    (tmp_path/"results/means.json").unlink()
    record = next((tmp_path/"runs").glob("*/record.json"))
    record.write_text("{")
    with pytest.raises(FileError, match="record.json: .*delete it to have the run measured again"): run()


def test_the_demo_takes_no_folder_of_somebody_else(tmp_path, at):
    (tmp_path/"run/resume").mkdir(parents=True)
    (tmp_path/"run/resume/application.txt").write_text("mine")
    (tmp_path/"b").mkdir()
    (tmp_path/"b/report.html").write_text("mine")
    refused(at("demo", "--out", "."), "run: is there already and was not made by this command")
    refused(at("demo", "--out", "b"), "report.html: is there already")
    assert contents(tmp_path)["run/resume/application.txt"] == b"mine" and (tmp_path/"b/report.html").read_text() == "mine"


# any command line

VALUES = ["", " ", "0", "1", "2", "-1", "4", "nan", "inf", "1e9", str(2**64), "True", "None", "d", "d/x.png", ".", "d/..", "/dev/null", "o", "file", "d/more", "~", "~nobody", "-", "--", "x=1",
          "image_size=0", "写真", "\udce9", "a\nb", "photos-tiny", "litevae-tiny", "Hat", "[1,2", "d/cut.png", "user/none/deep", "link", "auto"]


def any_command(rng, models):
    "A command with some of its options, and values that belong to others."
    known = ["vae", "dae", "ddim", "grey"]
    options = {"reconstruct": ["--n-steps", "--seed", "--method", "--random-x-T", "--value-range"], "encode": ["--normalize", "--no-x-T", "--n-steps"], "sample": ["--n", "--n-steps", "--latent-steps", "--sampler", "--seed"],
               "edit": ["--attribute", "--strength", "--path", "--n-steps"], "interpolate": ["--n", "--n-steps"], "evaluate": ["--data", "--max-images", "--n-steps"],
               "import": ["--preset", "--set"], "train": ["--data", "--size", "--lr", "--seed", "--set", "--precision", "--minutes"]}
    command = rng.choice(list(options))
    good = {"--attribute": ["Hat", "Smiling"], "--strength": ["-0.5", "1"], "--path": ["line", "auto"], "--seed": ["0", "3"], "--method": ["mirror"], "--n-steps": ["2", "4"], "--n": ["2"],
            "--latent-steps": ["2"], "--sampler": ["dpm"], "--max-images": ["1"], "--data": ["d", "link"], "--random-x-T": [], "--normalize": [], "--no-x-T": []}
    value = lambda: str(models/rng.choice(known)) if rng.random() < 0.2 else rng.choice(VALUES)
    def given(option):
        "Mostly what the option is for."
        if option in good and rng.random() < 0.8: return [option] + ([rng.choice(good[option])] if good[option] else [])
        return [option] + [value() for _ in range(rng.randint(0, 2))]

    args = [command] + [rng.choice(["d/x.png", "d/more", value()]) for _ in range({"interpolate": 2, "sample": 0, "evaluate": 0}.get(command, 1))]
    if rng.random() < 0.95: args += ["--out", rng.choice(["o", f"o{rng.randint(0, 9)}", value()])]
    if command not in ("train", "import") and rng.random() < 0.9: args += ["--model", str(models/rng.choice(known)) if rng.random() < 0.8 else value()]
    for option in rng.sample(options[command], rng.randint(0, len(options[command]))): args += given(option)
    if command == "train": args += ["--steps", rng.choice(["0", "nan", "-1"])]                # no training here
    if command == "evaluate": args += [a for k, v in (("--max-images", "1"), ("--data", "d")) if k not in args for a in (k, v)]
    if command in ("sample", "interpolate") and "--n" not in args: args += ["--n", "2"]
    if "--n-steps" not in args and command in ("reconstruct", "encode", "sample", "edit", "interpolate", "evaluate"): args += ["--n-steps", "2"]
    return args


def test_any_command_line_is_right_or_one_line(tmp_path, at, models, monkeypatch):
    def offline(name): raise FileNotFoundError(f"from_pretrained: no folder {name!r}, and the Hub did not give it")
    monkeypatch.setattr("litevae_diffae.pretrained._from_hub", offline)
    monkeypatch.setenv("HOME", str(tmp_path/"home"))
    for name, seed in (("d/x.png", 0), ("d/y.jpg", 1), ("d/more/x.png", 2)): save(tmp_path/name, seed)
    (tmp_path/"d/cut.png").write_bytes((tmp_path/"d/x.png").read_bytes()[:300])
    (tmp_path/"file").write_text("a file")
    os.symlink(tmp_path/"d", tmp_path/"link")
    inputs, weights = {**contents(tmp_path/"d"), "file": b"a file"}, contents(models)
    rng, codes = random.Random(0), []
    for _ in range(200):
        args = any_command(rng, models)
        code, _, err = at(*args)
        codes.append(code)
        assert code == 0 or code == 2 and len(err.strip().splitlines()) == 1 and err.startswith("litevae-diffae: "), (args, code, err)
        now = {**contents(tmp_path/"d"), "file": (tmp_path/"file").read_bytes()}
        assert inputs.items() <= now.items() and weights.items() <= contents(models).items(), args
    assert 5 < codes.count(0) < 150
