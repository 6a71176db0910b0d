"""The command as a user starts it: exit codes, one line on stderr, a quick --help."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("litevae-diffae")


def run(*args, cwd):
    return subprocess.run([COMMAND, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Images of mixed sizes, a grey one, a truncated one, a text file."
    import numpy as np
    from PIL import Image
    root = tmp_path_factory.mktemp("cli")
    (root / "mine" / "more").mkdir(parents=True)
    for i, (h, w) in enumerate([(96, 128), (80, 80), (72, 200), (65, 91)]):
        image = Image.fromarray(np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8))
        (image.convert("L") if i == 3 else image).save(root / "mine" / ("more" if i == 2 else "") / f"{i}.png")
    whole = (root / "mine" / "0.png").read_bytes()
    (root / "mine" / "cut.png").write_bytes(whole[:len(whole) // 2])
    (root / "mine" / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    (root / "file").write_text("a file")
    return root


def test_help_is_quick_and_names_every_command(folder):
    start = time.time()
    result = run("--help", cwd=folder)
    assert result.returncode == 0 and time.time() - start < 20                 # PyTorch is not imported for it
    for name in ("demo", "train", "encode", "reconstruct", "evaluate", "bench", "import", "sample", "interpolate", "edit", "distill"): assert name in result.stdout
    assert "torch" not in subprocess.run([sys.executable, "-c", "import sys, litevae_diffae.cli; print([m for m in sys.modules if m == 'torch'])"],
                                         capture_output=True, text=True, cwd=folder).stdout


def test_train_says_what_it_skipped(folder):
    result = run("train", "litevae-tiny", "--data", "mine", "--out", "run", "--steps", 2, "--batch-size", 2, "--size", 64, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "mine: 4 images, 2 files skipped" in result.stdout
    assert "cut.png" in result.stdout and "notes.txt" in result.stdout
    assert {"config.json", "model.safetensors"} <= set(os.listdir(folder / "run" / "model"))


def test_a_trained_model_goes_on_with_an_adversary_and_a_frozen_encoder(folder):
    from litevae_diffae import LiteVAE
    import torch
    common = ("--data", "mine", "--steps", 2, "--batch-size", 2, "--size", 32)
    still = run("train", "photos-tiny", *common, "--out", "still", "--lr", 1e-30, cwd=folder)
    assert still.returncode == 0, still.stderr
    played = run("train", "still/model", *common, "--out", "played", "--lr", 1e-3, "--adversary", "unet", "--freeze-encoder", cwd=folder)
    assert played.returncode == 0, played.stderr
    shipped, still, played = (LiteVAE.from_pretrained(str(n)) for n in ("photos-tiny", folder/"still/model", folder/"played/model"))
    for a, b in zip(shipped.parameters(), still.parameters()): torch.testing.assert_close(a, b)
    for a, b in zip(still.encoder.parameters(), played.encoder.parameters()): assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(still.decoder.parameters(), played.decoder.parameters()))
    assert "d_loss" in (folder/"played/log.jsonl").read_text()


@pytest.mark.parametrize("args,says", [
    (("train", "litevae-tiny", "--data", "empty", "--out", "o"), "empty"),
    (("train", "litevae-tiny", "--data", "missing", "--out", "o"), "missing"),
    (("train", "litevae-x", "--data", "mine", "--out", "o"), "litevae-b"),
    (("train", "litevae-tiny", "--data", "mine", "--out", "o", "--size", "-64"), "size: must be positive, got -64"),
    (("train", "litevae-tiny", "--data", "mine", "--out", "file/o"), "file"),
    (("train", "litevae-tiny", "--out", "o"), "--data"),
    (("evaluate", "--model", "nothing"), "nothing"),
    (("paint",), "paint"),
], ids=lambda a: a if isinstance(a, str) else " ".join(a[:2]))
def test_one_line_and_exit_code_2(folder, args, says):
    result = run(*args, cwd=folder)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and says in result.stderr and "Traceback" not in result.stderr


def test_debug_shows_the_traceback(folder):
    result = run("evaluate", "--model", "nothing", "--debug", cwd=folder)
    assert result.returncode != 0 and "Traceback" in result.stderr


# Diff-AE; in this process, because PyTorch takes seconds to load

@pytest.fixture
def at(folder, monkeypatch, capsys):
    "Run a command in the folder; gives (exit code, stdout, stderr)."
    from litevae_diffae.cli import main
    monkeypatch.chdir(folder)

    def call(*args):
        try: main([str(a) for a in args])
        except SystemExit as e: code = e.code
        else: code = 0
        said = capsys.readouterr()
        return code, said.out, said.err
    return call


@pytest.fixture(scope="module")
def whole(folder):
    "A Diff-AE with prior and classifier, random weights, that speaks loudly enough for its codes to matter; and a baseline."
    import torch
    from litevae_diffae import DDIM, AttributeClassifier, AttributeClassifierConfig, DiffAE, LatentDDIM
    torch.manual_seed(0)
    model = DiffAE.from_preset("diffae-tiny", image_size=16)
    for p in model.parameters(): torch.nn.init.normal_(p, std=0.1)
    model.prior, model.classifier = LatentDDIM.from_preset("latent-tiny"), AttributeClassifier(AttributeClassifierConfig(64, ("Smiling", "Hat")))
    model.prior.set_stats(torch.randn(9, 64))
    model.save_pretrained(folder / "whole")
    DDIM.from_preset("ddim-tiny", image_size=16).save_pretrained(folder / "ddim")
    return model.eval()


def pictures(path): return sorted(p.relative_to(path).as_posix() for p in path.rglob("*.png"))


NAMES = ["0.png", "1.png", "3.png", "more/2.png"]


def test_train_and_go_on(folder, at):
    train = ("train", "diffae-tiny", "--data", "mine", "--out", "dae", "--batch-size", 2, "--set", "image_size=16", "z_dim=24", "--seed", 1)
    code, out, err = at(*train, "--steps", 3)
    assert code == 0, err
    assert "mine: 4 images, 2 files skipped" in out and "of 3 steps" not in out
    config = json.loads((folder / "dae/model/config.json").read_text())
    assert (config["model"], config["image_size"], config["z_dim"]) == ("DiffAE", 16, 24)
    code, out, err = at(*train, "--steps", 5)
    assert code == 0 and "continues at step 3 of 5 steps" in out, err
    steps = [json.loads(line)["step"] for line in (folder / "dae/log.jsonl").read_text().splitlines()]
    assert steps == [3, 5]
    code, out, err = at("train", "diffae-tiny", "--data", "mine", "--out", "dae", "--batch-size", 2, "--set", "image_size=16", "--seed", 1, "--steps", 5)
    assert code == 2 and "out: dae holds a run with model=" in err and len(err.splitlines()) == 1
    assert at("train", "ddim-tiny", "--data", "mine", "--out", "ddim_run", "--batch-size", 2, "--size", 16, "--steps", 2)[0] == 0
    assert json.loads((folder / "ddim_run/model/config.json").read_text())["image_size"] == 16


def test_reconstruct_and_encode(folder, at, whole):
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    assert at("reconstruct", "mine", "--model", "whole", "--out", "r", "--n-steps", 5)[0] == 0
    assert pictures(folder / "r") == NAMES and {Image.open(folder / "r" / n).size for n in NAMES} == {(16, 16)}
    code, out, _ = at("encode", "mine", "--model", "whole", "--out", "codes", "--n-steps", 5, "--method", "fixed_point")
    assert code == 0 and "4 latents: codes" in out
    codes = load_file(folder / "codes/more/2.safetensors")
    assert {k: tuple(v.shape) for k, v in codes.items()} == {"z_sem": (1, 64), "x_T": (1, 3, 16, 16)}
    x = torch.from_numpy(_small(folder / "mine/more/2.png")).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(codes["z_sem"], whole.encode(x).detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(codes["x_T"], whole.invert(x, n_steps=5, method="fixed_point"), atol=1e-3, rtol=1e-3)
    assert at("encode", "mine/0.png", "--model", "whole", "--out", "z_only", "--no-x-T")[0] == 0
    assert load_file(folder / "z_only/0.safetensors").keys() == {"z_sem"}
    for out, seed in (("n1", 1), ("n2", 1), ("n3", 2)):
        assert at("reconstruct", "mine", "--model", "whole", "--out", out, "--n-steps", 5, "--random-x-T", "--seed", seed)[0] == 0
    a, b, c, r = ((folder / d / "0.png").read_bytes() for d in ("n1", "n2", "n3", "r"))
    assert a == b and a != c and a != r
    assert at("reconstruct", "mine/0.png", "--model", "ddim", "--out", "d", "--n-steps", 5)[0] == 0
    assert at("encode", "mine/0.png", "--model", "ddim", "--out", "dcodes", "--n-steps", 5)[0] == 0
    assert load_file(folder / "dcodes/0.safetensors").keys() == {"x_T"}


def _small(path, size=16):
    "What the commands show to a model: the middle square, shrunk."
    import numpy as np
    from litevae_diffae.folders import ImageFolder
    from litevae_diffae.crops import Crops
    source = ImageFolder(path.parent)
    return np.rint((Crops(source, size, train=False).get(source.paths.index(path)).permute(1, 2, 0).numpy() + 1) * 127.5).astype("float32")


def test_evaluate(folder, at, whole):
    code, out, err = at("evaluate", "--model", "whole", "--data", "mine", "--out", "e", "--n-steps", 5, "--random-x-T")
    assert code == 0, err
    metrics = json.loads((folder / "e/metrics.json").read_text())
    assert metrics["n"] == 4 and metrics["sampler"] == {"n_steps": 5, "method": "official", "random_x_T": True}


def test_sample_interpolate_edit(folder, at, whole):
    for model, more in (("whole", ("--latent-steps", 4)), ("whole", ("--sampler", "dpm")), ("ddim", ()), ("ddim", ("--sampler", "dpm"))):
        code, out, err = at("sample", "--model", model, "--out", f"s_{model}", "--n", 3, "--n-steps", 5, *more)
        assert code == 0 and pictures(folder / f"s_{model}") == ["000.png", "001.png", "002.png", "sheet.png"], err
    assert at("interpolate", "mine/0.png", "mine/1.png", "--model", "whole", "--out", "i", "--n", 3, "--n-steps", 5)[0] == 0
    assert len(pictures(folder / "i")) == 4
    assert at("reconstruct", "mine/0.png", "--model", "whole", "--out", "ends", "--n-steps", 5)[0] == 0
    assert _close(folder / "i/000.png", folder / "ends/0.png")                                     # the walk starts at the first picture
    code, out, err = at("edit", "mine", "--model", "whole", "--attribute", "Hat", "--strength", -0.5, "--out", "ed", "--n-steps", 5)
    assert code == 0 and "4 images, Hat -0.5: ed" in out and pictures(folder / "ed") == NAMES
    assert (folder / "ed/0.png").read_bytes() != (folder / "ends/0.png").read_bytes()


def _close(a, b):
    import numpy as np
    from PIL import Image
    return np.abs(np.asarray(Image.open(a)).astype(int) - np.asarray(Image.open(b))).max() <= 2


@pytest.mark.parametrize("args,says", [
    (("reconstruct", "mine", "--model", "whole", "--out", "o", "--n-steps", 60), "n_steps: no stride visits 60 of 1000 steps; nearest that work: 59 and 63"),
    (("encode", "mine", "--model", "whole", "--out", "o", "--n-steps", 0), "n_steps: no stride visits 0"),
    (("evaluate", "--model", "whole", "--data", "mine", "--out", "o", "--n-steps", -5), "n_steps: no stride visits -5"),
    (("sample", "--model", "whole", "--out", "o", "--n-steps", 60), "n_steps: no stride visits 60"),
    (("sample", "--model", "whole", "--out", "o", "--n", 0), "n: must be positive, got 0"),
    (("sample", "--model", "whole", "--out", "o", "--eta", 2), "eta: must be in [0, 1], got 2.0"),
    (("sample", "--model", "whole", "--out", "o", "--n-steps", 5, "--sampler", "dpm", "--eta", 1), "eta: must be 0 with sampler dpm"),
    (("sample", "--model", "bare", "--out", "o"), "sample: train the latent prior first"),
    (("sample", "--model", "ddim", "--out", "o", "--latent-steps", 5), "latent_steps: only for a DiffAE"),
    (("sample", "--model", "vae", "--out", "o"), "'vae' holds a LiteVAE; this command takes DiffAE, DDIM"),
    (("edit", "mine", "--model", "bare", "--attribute", "Hat", "--out", "o"), "edit: train the attribute classifier first"),
    (("edit", "mine", "--model", "whole", "--attribute", "Hut", "--out", "o", "--n-steps", 5), "attribute: must be one of Smiling, Hat, got 'Hut'"),
    (("edit", "mine", "--model", "ddim", "--attribute", "Hat", "--out", "o"), "'ddim' holds a DDIM; this command takes DiffAE"),
    (("interpolate", "mine/0.png", "mine/none.png", "--model", "whole", "--out", "o"), "mine/none.png is no image file"),
    (("interpolate", "mine/0.png", "mine/cut.png", "--model", "whole", "--out", "o"), "truncated"),
    (("interpolate", "mine/0.png", "mine/1.png", "--model", "whole", "--out", "o", "--n", 1), "n: must be at least 2, got 1"),
    (("reconstruct", "mine", "--model", "vae", "--out", "o", "--n-steps", 20), "n_steps: only for diffusion models, and this is a LiteVAE"),
    (("reconstruct", "mine", "--model", "ddim", "--out", "o", "--random-x-T"), "random_x_T: only for a DiffAE"),
    (("encode", "mine", "--model", "whole", "--out", "o", "--normalize", "--n-steps", 5), "normalize: only for VAEs"),
    (("encode", "mine", "--model", "whole", "--out", "o", "--method", "magic"), "--method"),
    (("train", "diffae-tiny", "--data", "mine", "--out", "o", "--size", 33), "image_size: must be a multiple of 2 for 2 levels, got 33"),
    (("train", "diffae-tiny", "--data", "mine", "--out", "o", "--set", "z_dim=wide"), "--set: a value of the wrong type"),
    (("train", "diffae-tiny", "--data", "mine", "--out", "o", "--set", "colour=1"), "unknown field 'colour'"),
    (("train", "diffae-tiny", "--data", "mine", "--out", "o", "--set", "model_channels=48"), "channels: above 32 must be a multiple of 32"),
    (("train", "diffae-tiny", "--data", "mine", "--out", "o", "--adversary", "unet"), "only for a LiteVAE, got 'diffae-tiny'"),
    (("train", "avatars", "--data", "mine", "--out", "o"), "'avatars' holds a DiffAE; this command takes LiteVAE, KLVAE"),
    (("train", "photos", "--data", "mine", "--out", "o", "--set", "z_channels=4"), "--set: the fields of a trained model are settled, got 'z_channels=4' for 'photos'"),
    (("train", "litevae-tiny", "--data", "mine", "--out", "o", "--equivariance", 2), "equivariance: must be in [0, 1], got 2.0"),
], ids=lambda a: a if isinstance(a, str) else " ".join(map(str, (a[0], *a[-2:]))))
def test_diffusion_mistakes_are_one_line(folder, at, whole, args, says):
    from litevae_diffae import DiffAE, LiteVAE
    if not (folder / "vae").exists():
        LiteVAE.from_preset("litevae-tiny").save_pretrained(folder / "vae")
        DiffAE.from_preset("diffae-tiny", image_size=16).save_pretrained(folder / "bare")
    code, _, err = at(*args)
    assert code == 2 and len(err.strip().splitlines()) == 1 and says in err


def test_import_with_other_settings(folder, at):
    import torch
    from litevae_diffae import DiffAE
    model = DiffAE.from_preset("diffae-tiny", z_dim=24)
    torch.save({"state_dict": {f"ema_model.{k}": v for k, v in model.state_dict().items()}}, folder / "last.ckpt")
    assert "tensors of the wrong shape" in at("import", "last.ckpt", "--preset", "diffae-tiny", "--out", "im")[2]
    assert at("import", "last.ckpt", "--preset", "diffae-tiny", "--set", "z_dim=24", "--out", "im")[0] == 0
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in DiffAE.from_pretrained(folder / "im").state_dict().items())


def test_grey_model(folder, at):
    from PIL import Image
    from litevae_diffae import DiffAE
    DiffAE.from_preset("diffae-tiny", image_size=16, in_channels=1).save_pretrained(folder / "grey")
    assert at("reconstruct", "mine", "--model", "grey", "--out", "g", "--n-steps", 5)[0] == 0
    assert Image.open(folder / "g/0.png").mode == "L"
