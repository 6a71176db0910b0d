"Latents on disk: the same files from one process and from several, after a kill, with any batch size; others' folders are refused by name."
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from litevae_diffae.cli import main
from litevae_diffae.crops import Crops
from litevae_diffae.data import hold_out
from litevae_diffae.files import FileError
from litevae_diffae.latent import cache, shards
from litevae_diffae.latent.cache import cache_latents, latent_batches, load_latents
from litevae_diffae.latent.shards import is_latents
from litevae_diffae.litevae.fixed_code import WaveletVAE
from litevae_diffae.litevae.klvae import KLVAE
from litevae_diffae.litevae.latents import compute_latent_stats
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.viz import save_png

N, SIZE = 23, 32
TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
MAKE = """
    import torch, numpy as np
    from litevae_diffae.latent.cache import cache_latents
    from litevae_diffae.litevae.model import LiteVAE
    torch.manual_seed(0)
    model = LiteVAE.from_preset("litevae-tiny", z_channels=4).eval()
"""


def tiny(**fields):
    torch.manual_seed(0)
    return LiteVAE.from_preset("litevae-tiny", z_channels=4, **fields).eval()


def pixels(n=N, side=SIZE):
    "Smooth random images, bytes."
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, side//8, side//8, 3))
    return np.clip(coarse.repeat(8, 1).repeat(8, 2) + rng.integers(-20, 20, (n, side, side, 3)), 0, 255).astype(np.uint8)


def make(out, model=None, data=None, **given):
    given = {"shard_size": 5, "batch_size": 4, "progress": False, **given}
    return cache_latents(model or tiny(), pixels() if data is None else data, out, **given)


def files_of(out): return {p.name: p.read_bytes() for p in Path(out).iterdir() if p.is_file() and p.name != ".lock"}


def run(place, code, *launcher):
    (place/"script.py").write_text(textwrap.dedent(MAKE) + textwrap.dedent(code))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *launcher, "script.py"], cwd=place, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")/"latents"
    make(out)
    return out


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path/"copy")
    return tmp_path/"copy"


# the same files

def test_files_of_a_folder(whole):
    assert sorted(files_of(whole)) == ["index.json", *(f"latents-{k:05d}.safetensors" for k in range(5)), "statistics.json"]
    index = json.loads((whole/"index.json").read_text())
    assert index["statistics"] == json.loads((whole/"statistics.json").read_text()) and index["n"] == N
    assert is_latents(whole) and not is_latents(whole.parent)


def test_two_processes_write_the_files_of_one(whole, tmp_path):
    np.save(tmp_path/"x.npy", pixels())
    done = run(tmp_path, """
        latents = cache_latents(model, np.load("x.npy"), "two", shard_size=5, batch_size=4, progress=False)
        assert len(latents) == 23 and model.config.latents_mean == latents.stats.latents_mean
    """, *TOGETHER)
    assert done.returncode == 0, done.stderr[-3000:]
    assert files_of(tmp_path/"two") == files_of(whole)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_run_goes_on(whole, tmp_path, monkeypatch, moment):
    "Killed at the third shard, before or after it has its name: what is finished stays, what is half there goes."
    np.save(tmp_path/"x.npy", pixels())
    done = run(tmp_path, f"""
        import os, signal
        rename = os.replace
        def killed(a, b):
            last = str(b).endswith("00002.safetensors")
            if {moment == "after"} or not last: rename(a, b)
            if last: os.kill(os.getpid(), signal.SIGKILL)
        os.replace = killed
        cache_latents(model, np.load("x.npy"), "cut", shard_size=5, batch_size=4, progress=False)
    """)
    assert done.returncode == -signal.SIGKILL, done.stderr
    out = tmp_path/"cut"
    with pytest.raises(FileError, match="cut: is unfinished; run cache_latents again to complete it"): load_latents(out)
    made = []
    write = shards.write_latents
    monkeypatch.setattr(shards, "write_latents", lambda out, k, *more: (made.append(k), write(out, k, *more)))
    make(out)
    assert made == ([2, 3, 4] if moment == "before" else [3, 4])
    assert files_of(out) == files_of(whole)


def test_a_finished_folder_is_not_encoded_again(copy, monkeypatch):
    monkeypatch.setattr(cache, "encode_shard", None)
    read = []
    monkeypatch.setattr(shards, "digest_images", lambda crops, rows, size: read.extend(rows) or json.loads((copy/"index.json").read_text())["some_images"])
    before = files_of(copy)
    make(copy, shard_size=7)
    assert files_of(copy) == before and len(read) == 16


def test_a_lost_shard_is_made_again(copy):
    before = files_of(copy)
    (copy/"latents-00003.safetensors").unlink()
    make(copy)
    assert files_of(copy) == before


@pytest.mark.parametrize("model", [tiny, lambda: KLVAE.from_preset("sd-vae-small", block_out_channels=(32, 32, 32, 32), n_res_blocks=1).eval()], ids=["litevae", "klvae"])
@pytest.mark.parametrize("kind", ["moments", "samples"])
def test_the_batch_size_does_not_matter(tmp_path, model, kind):
    model = model()
    a, b = (make(tmp_path/str(n), model, batch_size=n, kind=kind, shard_size=16) for n in (1, 16))
    gap = max((x - y).abs().max().item() for x, y in zip(a.shards, b.shards))
    assert gap < 1e-5, gap
    assert torch.allclose(torch.tensor(a.stats.latents_std), torch.tensor(b.stats.latents_std), atol=1e-6)


# what is in them

@pytest.mark.parametrize("kind", ["moments", "samples"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_statistics_are_those_of_all_latents(tmp_path, kind, dtype):
    "In float64 with NumPy, over what is stored; samples of moments have that variance."
    latents, z = make(tmp_path/"a", kind=kind, dtype=dtype), []
    kept = np.concatenate([latents.stored(np.arange(N), np.full(N, f)).numpy().astype(np.float64) for f in (False, True)])
    mean, logvar = np.split(kept, 2, axis=1) if kind == "moments" else (kept, None)
    power = mean**2 + (np.exp(logvar) if kind == "moments" else 0)
    m = mean.mean((0, 2, 3))
    s = np.sqrt(power.mean((0, 2, 3)) - m**2)
    assert np.allclose(latents.stats.latents_mean, m, rtol=0, atol=1e-12) and np.allclose(latents.stats.latents_std, s, rtol=1e-9)
    assert np.isclose(latents.stats.shift_factor, mean.mean()) and np.isclose(latents.stats.scaling_factor, (power.mean() - mean.mean()**2)**-.5)
    for seed in range(30):
        z += [latents.get(np.arange(N), np.full(N, bool(seed % 2)), torch.Generator().manual_seed(seed))]
    drawn = torch.cat(z).double().std((0, 2, 3), correction=0)
    assert torch.allclose(drawn, torch.tensor(s), rtol=0.02)


def test_moments_are_those_of_the_model(whole):
    model, latents = tiny(), load_latents(whole)
    with torch.no_grad(): dist = model.encode(torch.stack([Crops(pixels(), SIZE, train=False).get(i) for i in range(N)])).latent_dist
    kept = latents.stored(range(N), [False]*N)
    assert torch.allclose(kept, torch.cat([dist.mean, dist.logvar], 1), atol=1e-5)
    stats = compute_latent_stats(model, torch.cat([x := torch.stack([Crops(pixels(), SIZE, train=False).get(i) for i in range(N)]), x.flip(-1)]), sample_posterior=True)
    assert np.allclose(stats.latents_std, latents.stats.latents_std, atol=1e-6)


def test_flips_are_latents_of_mirrored_images(whole, tmp_path):
    mirrored = make(tmp_path/"mirrored", data=np.ascontiguousarray(pixels()[:, :, ::-1]))
    a, b = load_latents(whole), mirrored
    yes, no = np.ones(N, bool), np.zeros(N, bool)
    assert torch.equal(a.stored(np.arange(N), yes), b.stored(np.arange(N), no)) and torch.equal(a.stored(np.arange(N), no), b.stored(np.arange(N), yes))
    assert not torch.allclose(a.stored(np.arange(N), no).flip(-1), a.stored(np.arange(N), yes), atol=1e-2)
    plain = make(tmp_path/"plain", flips=False)
    assert torch.equal(plain.stored(np.arange(N), no), a.stored(np.arange(N), no))
    with pytest.raises(ValueError, match="flip: no mirror images are kept here"): plain.get([0], [True])


def test_samples_belong_to_the_image(tmp_path):
    "Not to the batch, the shard or the rank: noise of image 7 is the same in any company."
    a, b = make(tmp_path/"a", kind="samples", shard_size=3, batch_size=2), make(tmp_path/"b", kind="samples", shard_size=100, batch_size=23)
    moments = make(tmp_path/"m").stored([7], [True])
    z = a.get([7], [True])
    assert torch.allclose(z, b.get([7], [True]), atol=1e-5)
    noise = (z - moments[:, :4])/(0.5*moments[:, 4:]).exp()
    assert torch.allclose(noise[0], cache.noise_of((4, 4, 4), 0, 7, 1), atol=1e-3)


def test_float16_is_close(whole, tmp_path):
    half, full = make(tmp_path/"half", dtype="float16"), load_latents(whole)
    rows = np.arange(N), np.zeros(N, bool)
    assert half.shards[0].dtype == torch.float16 and torch.allclose(half.stored(*rows), full.stored(*rows), rtol=1e-3, atol=1e-3)
    assert (tmp_path/"half/latents-00000.safetensors").stat().st_size < 0.6*(whole/"latents-00000.safetensors").stat().st_size


def test_a_mapped_collection_reads_the_same(whole, monkeypatch):
    kept = load_latents(whole)
    mapped = cache.Latents(whole, kept.index, in_memory=0)
    rows = np.random.default_rng(0).integers(0, N, 40), np.random.default_rng(1).random(40) < 0.5
    assert torch.equal(kept.get(*rows, torch.Generator().manual_seed(1)), mapped.get(*rows, torch.Generator().manual_seed(1)))
    with pytest.raises(ValueError, match="index: must be from 0 to 22, got -1 to 3"): kept.get([-1, 3], [False]*2)


def test_a_folder_with_labels(tmp_path):
    "Images of several sizes below a folder, a CSV of attributes, and a part of it."
    rng = np.random.default_rng(0)
    for i in range(20): save_png(tmp_path/"mine"/f"{i%3}"/f"{i:02d}.png", np.ascontiguousarray(pixels(20, 64)[i][:int(rng.integers(40, 64))]))
    rows = [f"{i%3}/{i:02d}.png,{i%2},{int(i > 9)}" for i in range(20)]
    (tmp_path/"a.csv").write_text("file,Odd,Late\n" + "\n".join(rows) + "\n")
    source, test = hold_out(tmp_path/"mine", n=2, attributes=tmp_path/"a.csv")
    latents = make(tmp_path/"out", data=source, size=24)
    assert latents.names == ("Odd", "Late") and latents.shape == (4, 3, 3) and len(latents) == len(source) == 18 and len(test) == 2
    assert latents.attributes.dtype == torch.uint8 and latents.attributes.tolist() == [[source[i][1]["Odd"], source[i][1]["Late"]] for i in range(18)]
    whole = make(tmp_path/"small", data=tmp_path/"mine")                          # the first image's short side, as in compute_latent_stats
    from PIL import Image
    assert whole.index["size"] == min(Image.open(tmp_path/"mine/0/00.png").size) and whole.names == ()
    save_png(tmp_path/"mine/0/03.png", pixels(1, 64)[0])
    with pytest.raises(FileError, match="another model or collection: .*file_sizes="): make(tmp_path/"small", data=tmp_path/"mine")


def test_an_lmdb(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    from io import BytesIO
    from PIL import Image
    with lmdb.open(str(tmp_path/"faces.lmdb"), map_size=2**24) as env, env.begin(write=True) as t:
        for i, x in enumerate(pixels(6)):
            Image.fromarray(x).save(f := BytesIO(), "PNG")
            t.put(f"{SIZE}-{i:05d}".encode(), f.getvalue())
        t.put(b"length", b"6")
    a, b = make(tmp_path/"a", data=tmp_path/"faces.lmdb"), make(tmp_path/"b", data=pixels(6))
    assert torch.equal(a.shards[0], b.shards[0])


def test_a_wavelet_code_has_latents_too(tmp_path):
    "Its encoder has no weights; the log-variance is as the model gives it."
    model = WaveletVAE.from_preset(next(iter(WaveletVAE.presets)))
    latents = make(tmp_path/"w", model, kind="samples")
    assert latents.shape[0] == model.config.latent_channels and torch.isfinite(torch.tensor(latents.stats.latents_std)).all()


# refusals

def other_encoder():
    model = tiny()
    next(model.encoder.parameters()).data.add_(1e-3)
    return model


REFUSED = dict(
    encoder=(dict(model=other_encoder), "encoder='[0-9a-f]{16}' \\(now '[0-9a-f]{16}'\\)"),
    config=(dict(model=lambda: tiny(padding_mode="reflect")), "config: padding_mode='zeros' \\(now 'reflect'\\)"),
    data=(dict(data=lambda: pixels()[::-1].copy()), "some_images='"),
    n=(dict(data=lambda: pixels(22)), "n=23 \\(now 22\\)"),
    size=(dict(size=lambda: 24), "size=32 \\(now 24\\)"),
    flips=(dict(flips=lambda: False), "flips=True \\(now False\\)"),
    kind=(dict(kind=lambda: "samples"), "kind='moments' \\(now 'samples'\\)"),
    dtype=(dict(dtype=lambda: "float16"), "dtype='float32' \\(now 'float16'\\)"))


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_of_others_is_refused_by_name(whole, what):
    given, says = REFUSED[what]
    with pytest.raises(FileError, match=f"another model or collection: .*{says}") as e: make(whole, **{k: f() for k, f in given.items()})
    assert "\n" not in str(e.value) and str(e.value).endswith("delete the folder to have the latents made again, or use another folder")


def test_statistics_of_the_model_do_not_matter(whole):
    model = tiny()
    compute_latent_stats(model, torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    before = files_of(whole)
    latents = make(whole, model)
    assert files_of(whole) == before and model.config.latents_std == latents.stats.latents_std
    load_latents(whole, tiny())
    with pytest.raises(FileError, match="was made by another model: encoder="): load_latents(whole, other_encoder())


def test_changed_images_are_seen_where_a_run_goes_on(copy):
    "Image 2 is none of the sixteen that are always compared."
    (copy/"latents-00003.safetensors").unlink()
    x = pixels()
    x[2] //= 2
    with pytest.raises(FileError, match="images 0 to 4, or their labels, have changed since"): make(copy, data=x)


@pytest.mark.parametrize("damage, says", [
    (lambda b: b[:-1], "is cut short"), (lambda b: b"", "is empty"),
    (lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], "is damaged; delete this file and run cache_latents again")])
def test_damage_is_named(copy, damage, says):
    path = copy/"latents-00001.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FileError, match=f"latents-00001.safetensors: .*{says}"): load_latents(copy)


def test_shards_of_another_folder_are_seen(copy, tmp_path):
    make(tmp_path/"other", other_encoder())
    shutil.copy(tmp_path/"other/latents-00001.safetensors", copy)
    with pytest.raises(FileError, match="latents-00001.safetensors: is not of the latents that index.json names"): load_latents(copy)
    (copy/"index.json").unlink()
    with pytest.raises(FileError, match="holds latents without index.json"): make(copy)


def test_nan_is_refused(tmp_path):
    model = tiny()
    next(model.encoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="model: must give finite latents, got NaN or infinity in the latents of image 0 and of 4 others"): make(tmp_path/"a", model)
    assert not list((tmp_path/"a").glob("*.safetensors"))
    model = tiny()
    encode = model.encode
    class Large:
        def __init__(self, dist): self.mean, self.logvar = dist.mean*1e6, dist.logvar
    model.encode = lambda x: type("E", (), dict(latent_dist=Large(encode(x).latent_dist)))
    make(tmp_path/"b", model)
    with pytest.raises(ValueError, match="finite latents"): make(tmp_path/"c", model, dtype="float16")   # beyond 65,504


def test_training_mode_comes_back(tmp_path):
    model = tiny().train()
    make(tmp_path/"a", model)
    assert model.training


# batches

def test_a_stream_goes_on_exactly(whole):
    latents = load_latents(whole)
    stream = latent_batches(latents, 6, seed=3)
    first = [next(stream) for _ in range(9)]
    for k, batch in zip(range(4, 9), latent_batches(latents, 6, seed=3, start=4)):
        assert torch.equal(batch.latent, first[k].latent) and torch.equal(batch.index, first[k].index) and batch.attributes is None
    a = torch.cat([b.latent for b in first[:2]])
    assert torch.equal(next(latent_batches(latents, 12, seed=3)).latent, a)     # noise belongs to the place, not to the batch
    assert not torch.equal(next(latent_batches(latents, 12, seed=4)).latent, a)
    assert sorted(torch.cat([b.index for b in first]).tolist()[:N]) == list(range(N))
    assert first[0].latent.dtype == torch.float32 and first[0].index.dtype == torch.int64


def test_normalised_latents_have_unit_scale(whole):
    latents = load_latents(whole)
    z = torch.cat([b.latent for b, _ in zip(latent_batches(latents, N), range(60))])
    assert z.mean((0, 2, 3)).abs().max() < 0.05 and (z.std((0, 2, 3)) - 1).abs().max() < 0.05


# the command

@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, x in enumerate(pixels(10)): save_png(tmp_path/"mine"/f"{i}.png", x)
    tiny().save_pretrained(tmp_path/"model")
    return tmp_path


def at(*words):
    try: main([*map(str, words)])
    except SystemExit as e: return e.code
    return 0


COMMAND = ("encode", "mine", "--model", "model", "--out", "latents", "--cache", "--shard-size", 3)


def test_the_command_writes_a_folder(place, capsys):
    assert at(*COMMAND) == 0
    assert "10 images, latents of 4 x 4 x 4, statistics in statistics.json: latents" in capsys.readouterr().out
    latents = load_latents("latents", LiteVAE.from_pretrained("model"))
    assert len(latents) == 10 and latents.flips and latents.kind == "moments"
    assert at(*COMMAND, "--no-flips", "--samples", "--half", "--size", 16) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "size=32 (now 16)" in said and "flips=True (now False)" in said


def test_the_command_by_torchrun(place):
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
    words = ["-m", "litevae_diffae.cli", *map(str, COMMAND)]
    done = subprocess.run([sys.executable, *TOGETHER, *words], capture_output=True, text=True, timeout=200, env=env, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("10 images, latents of") == 1
    (place/"latents").rename(place/"two")
    assert at(*COMMAND) == 0 and files_of(place/"latents") == files_of(place/"two")


@pytest.mark.parametrize("words, says", [
    (("--size", 16), "size: only with --cache"), (("--no-flips",), "flips: only with --cache"), (("--samples",), "samples: only with --cache"),
    (("--half",), "half: only with --cache"), (("--shard-size", 3), "shard_size: only with --cache"),
    (("--cache", "--normalize"), "normalize: not with --cache"), (("--cache", "--no-x-T"), "x_T: not with --cache"),
    (("--cache", "--n-steps", 3), "n_steps: only for diffusion models"), (("--cache", "--out", "mine"), "mine is the folder of the data"),
    (("--cache", "--model", "avatars"), "cache: only for VAEs, and this is a DiffAE")])
def test_options_that_say_nothing_are_refused(place, capsys, words, says):
    rest = [w for pair in (("--model", "model"), ("--out", "o")) if pair[0] not in words for w in pair]
    assert at("encode", "mine", *rest, *words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and says in said, said
