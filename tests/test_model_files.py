"""A model's folder is looked at before it is believed: whatever is damaged, foreign or too large is one sentence with the file, the reason and the way out."""
import errno
import json
import math
import os
import resource
import shutil
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import litevae_diffae.pretrained as pretrained
from litevae_diffae import DDIM, AttributeClassifier, AttributeClassifierConfig, DiffAE, Editor, EditorConfig, KLVAE, LatentDDIM, LiteVAE
from litevae_diffae.cli import main
from litevae_diffae.pretrained import find_weights, load_strict
from litevae_diffae.files import FileError, WriteError

TINY = dict(extractor_channels=4, aggregator_channels=4, decoder_channels=4)
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    "A LiteVAE and a Diff-AE with all parts, small."
    root, z = tmp_path_factory.mktemp("models"), dict(z_dim=64)
    torch.manual_seed(0)
    LiteVAE.from_preset("litevae-tiny", **TINY).save_pretrained(root/"vae")
    whole = DiffAE.from_preset("diffae-tiny", image_size=16)
    whole.prior = LatentDDIM.from_preset("latent-tiny")
    whole.prior.set_stats(torch.randn(9, 64))
    whole.classifier, whole.editor = AttributeClassifier(AttributeClassifierConfig(**z, names=("a", "b"))), Editor(EditorConfig(**z, names=("a", "b")))
    whole.save_pretrained(root/"dae")
    return root


@pytest.fixture
def vae(saved, tmp_path): return Path(shutil.copytree(saved/"vae", tmp_path/"vae"))


@pytest.fixture
def dae(saved, tmp_path): return Path(shutil.copytree(saved/"dae", tmp_path/"dae"))


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024 # MB


def refused(folder, capfd, *says, cls=LiteVAE):
    "One sentence with these words, from Python and, with exit code 2, from the command line; within 2 s and 200 MB."
    start, before = time.process_time(), peak()
    with pytest.raises((ValueError, OSError)) as found: cls.from_pretrained(folder)
    assert time.process_time() - start < 2 and peak() - before < 200
    text = str(found.value)
    assert all(s in text for s in says) and "\n" not in text and len(text) < 700, text
    capfd.readouterr()
    with pytest.raises(SystemExit) as left: main(["encode", "photos", "--model", str(folder), "--out", str(Path(folder).parent/"out")])
    err = capfd.readouterr().err
    assert left.value.code == 2 and len(err.splitlines()) == 1 and all(s in err for s in says), err


def edit(folder, **fields):
    "Change fields of a config.json by hand."
    values = json.loads((folder/CONFIG).read_text())
    (folder/CONFIG).write_text(json.dumps({**values, **fields}))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 7\n"
DAMAGE = {
    "a git-lfs note": (WEIGHTS, lambda p: p.write_bytes(LFS), "is a note of git-lfs, not the file itself; fetch the file with git lfs pull"),
    "cut short": (WEIGHTS, lambda p: p.write_bytes(p.read_bytes()[:-9]), "is cut short: "),
    "cut in its header": (WEIGHTS, lambda p: p.write_bytes(p.read_bytes()[:99]), "is cut short in its header"),
    "longer": (WEIGHTS, lambda p: p.write_bytes(p.read_bytes() + b"12345"), "has 5 bytes that belong to no tensor; copy or download the folder again"),
    "empty": (WEIGHTS, lambda p: p.write_bytes(b""), "is empty; copy or download the folder again"),
    "a text": (WEIGHTS, lambda p: p.write_text("hello world, no tensors here"), "is no safetensors file"),
    "a torch file": (WEIGHTS, lambda p: torch.save({}, p), "is a zip archive (of PyTorch?), no safetensors file"),
    "a folder": (WEIGHTS, lambda p: (p.unlink(), p.mkdir()), "is a folder, not a file"),
    "another model's": (WEIGHTS, lambda p: save_file({"w": torch.zeros(3)}, p), "tensors missing: "),
    "missing weights": (WEIGHTS, lambda p: p.unlink(), "holds no model.safetensors"),
    "missing settings": (CONFIG, lambda p: p.unlink(), "holds no config.json"),
    "settings in a folder": (CONFIG, lambda p: (p.unlink(), p.mkdir()), "is a folder, not a file"),
    "empty settings": (CONFIG, lambda p: p.write_bytes(b""), "config.json: is empty"),
    "settings as git-lfs note": (CONFIG, lambda p: p.write_bytes(LFS), "config.json: is a note of git-lfs"),
    "not JSON": (CONFIG, lambda p: p.write_text('{"model": '), "config.json: is not JSON"),
    "not UTF-8": (CONFIG, lambda p: p.write_bytes(b'{"model": "\xe4"}'), "config.json: is not UTF-8 text"),
    "a list": (CONFIG, lambda p: p.write_text("[1, 2]"), "config.json: holds a list, a dict expected"),
    "a doubled key": (CONFIG, lambda p: p.write_text('{"model": "LiteVAE", "model": "KLVAE"}'), "has the key 'model' twice"),
    "nested": (CONFIG, lambda p: p.write_text('{"model": "LiteVAE", "a": ' + "["*10**5 + "]"*10**5 + "}"), "config.json: is nested too deeply"),
    "a huge integer": (CONFIG, lambda p: p.write_text('{"model": "LiteVAE", "z_channels": ' + "9"*5000 + "}"), "config.json: "),
    "no model": (CONFIG, lambda p: p.write_text("{}"), "config.json: was not written by save_pretrained (no field 'model')"),
    "model is a number": (CONFIG, lambda p: p.write_text('{"model": 7}'), "was not written by save_pretrained"),
    "not enough rights": (CONFIG, lambda p: p.write_bytes(b"\xff\xfe{"), "config.json: "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_folders(name, vae, capfd):
    file, damage, says = DAMAGE[name]
    damage(vae/file)
    refused(vae, capfd, str(vae), says)


FIELDS = [(dict(z_channels="12"), "config.json: z_channels: a whole number expected, got '12'; correct the field"), (dict(zero_init="False"), "zero_init: True or False expected"),
          (dict(latents_std=[0.]*12, latents_mean=[0.]*12), "latents_std: must be positive"), (dict(scaling_factor=0), "scaling_factor: must be positive"),
          (dict(new_option=3), "unknown field 'new_option'"), (dict(new_option=3), "a newer version of this package may have written it"),
          (dict(decoder_res_blocks=30000), "decoder_res_blocks: must be at most 64, got 30000"), (dict(decoder_res_blocks=64), "tensors"),
          (dict(decoder_channels=8192), "tensors of the wrong shape: "), (dict(n_res_blocks=32, extractor_mult=[1]*8), "the settings describe a network of more than"),
          (dict(decoder="gn"), "tensors missing: ")]


@pytest.mark.parametrize("fields, says", FIELDS, ids=lambda v: str(v)[:40])
def test_settings_that_do_not_fit(fields, says, vae, capfd):
    edit(vae, **fields)
    refused(vae, capfd, str(vae), says)


def test_statistics_that_are_not_finite(vae, capfd):
    text = (vae/CONFIG).read_text()
    for bad in ("NaN", "Infinity", "1e999"):
        values = {**json.loads(text), "latents_mean": [0.]*12, "latents_std": [1.]*12}
        (vae/CONFIG).write_text(json.dumps(values).replace("1.0", bad, 1))
        refused(vae, capfd, "latents_std: a tuple of finite numbers or None expected, got ")


def test_the_memory_of_a_small_file_is_small(dae, capfd):
    "Settings that once took gigabytes."
    edit(dae, model_channels=8192)
    refused(dae, capfd, str(dae/WEIGHTS), "tensors of the wrong shape", cls=DiffAE)


WRONG_WEIGHTS = [(lambda t: torch.full_like(t, math.nan), "1 tensors with NaN or infinity: "), (lambda t: torch.full_like(t, math.inf), "1 tensors with NaN or infinity: "),
                 (lambda t: torch.full(t.shape, 1e300, dtype=torch.float64), "1 tensors with NaN or infinity: "), (lambda t: t.to(torch.int64), "of a type that holds no floats: "),
                 (lambda t: t.bool(), "of a type that holds no floats: "), (lambda t: t.to(torch.uint8), "of a type that holds no floats: "), (lambda t: t[..., None], "of the wrong shape: "),
                 (lambda t: t.to(torch.complex64), "of a type that holds no floats: ")]


@pytest.mark.parametrize("change, says", WRONG_WEIGHTS, ids=[w[1][:30] + str(i) for i, w in enumerate(WRONG_WEIGHTS)])
def test_weights_that_are_no_floats_or_not_finite(change, says, vae, capfd):
    state = load_file(vae/WEIGHTS)
    name = "encoder.aggregator.conv_in.bias"
    save_file({**state, name: change(state[name]).contiguous()}, vae/WEIGHTS)
    refused(vae, capfd, str(vae/WEIGHTS), says, name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_all_float_types_are_taken(dtype, vae):
    state = load_file(vae/WEIGHTS)
    save_file({k: v.to(dtype) for k, v in state.items()}, vae/WEIGHTS)
    model = LiteVAE.from_pretrained(vae)
    assert model.dtype == torch.float32 and all(torch.equal(v, state[k].to(dtype).float()) for k, v in model.state_dict().items())


@pytest.mark.parametrize("bad", [torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.complex64), torch.full((3,), math.nan), torch.full((3,), -math.inf)], ids=str)
def test_strict_loading_of_any_module(bad):
    with pytest.raises(ValueError, match="^here: 1 tensors (of the wrong type|with NaN or infinity): bias"): load_strict(torch.nn.Linear(2, 3), {"weight": torch.zeros(3, 2), "bias": bad}, "here")


@pytest.mark.parametrize("bad", [0., -1., math.nan, math.inf])
def test_deviations_of_codes_are_above_zero(bad, dae, capfd):
    for part in ("prior", "classifier"):
        before = (dae/part/WEIGHTS).read_bytes()
        state = load_file(dae/part/WEIGHTS)
        state["z_sem_std"][3] = bad
        save_file(state, dae/part/WEIGHTS)
        refused(dae, capfd, str(dae/part/WEIGHTS), "z_sem_std", cls=DiffAE)
        (dae/part/WEIGHTS).write_bytes(before)


def test_a_prior_without_statistics_still_travels(tmp_path):
    prior = LatentDDIM.from_preset("latent-tiny")
    prior.save_pretrained(tmp_path)
    assert LatentDDIM.from_pretrained(tmp_path).z_sem_std.isnan().all()


@pytest.mark.parametrize("part", ["prior", "classifier", "editor"])
def test_parts_of_a_model(part, dae, capfd):
    "A damaged part is an error; it is never left out without a word."
    whole = DiffAE.from_pretrained(dae)
    assert getattr(whole, part) is not None
    saved = {f: (dae/part/f).read_bytes() for f in (CONFIG, WEIGHTS)}
    for file, says in ((CONFIG, "holds no config.json"), (WEIGHTS, "holds no model.safetensors")):
        (dae/part/file).unlink()
        refused(dae, capfd, str(dae/part), says, cls=DiffAE)
        (dae/part/file).write_bytes(saved[file])
    (dae/part/WEIGHTS).write_bytes(LFS)
    refused(dae, capfd, str(dae/part/WEIGHTS), "is a note of git-lfs", cls=DiffAE)
    shutil.rmtree(dae/part)
    refused(dae, capfd, f"no folder {dae/part}", cls=DiffAE)


def test_a_part_for_codes_of_another_size(dae, capfd):
    LatentDDIM.from_preset("latent-tiny", z_dim=8).save_pretrained(dae/"prior")
    refused(dae, capfd, str(dae/"prior"), "is for codes of 8 numbers, and the model beside it has 64", cls=DiffAE)


def test_parts_that_were_there_before_are_not_loaded(dae):
    "A model without a prior, saved where one with a prior lay, comes back without."
    bare = DiffAE.from_pretrained(dae)
    bare.prior = None
    bare.save_pretrained(dae)
    again = DiffAE.from_pretrained(dae)
    assert again.prior is None and again.classifier is not None
    assert (dae/"prior"/WEIGHTS).is_file()                                                    # and nothing was deleted


def test_folders_of_earlier_versions_have_no_list_of_parts(dae):
    save_file(load_file(dae/WEIGHTS), dae/WEIGHTS, metadata={"format": "pt"})
    whole = DiffAE.from_pretrained(dae)
    assert whole.prior is not None and whole.classifier is not None and whole.editor is not None


def test_another_class(vae):
    with pytest.raises(ValueError, match="^DDIM.from_pretrained: '.*' holds a LiteVAE$"): DDIM.from_pretrained(vae)


def test_loading_draws_what_it_drew_and_gives_the_same_numbers(vae):
    torch.manual_seed(3)
    one = LiteVAE.from_pretrained(vae)
    after = torch.rand(3)
    torch.manual_seed(3)
    plain = torch.nn.Module.__new__(LiteVAE)
    plain.__init__(one.config)
    assert torch.equal(after, torch.rand(3))
    assert all(torch.equal(v, one.state_dict()[k]) for k, v in load_file(vae/WEIGHTS).items()) and not one.training


# ---- names

@pytest.mark.parametrize("name", ["", "   ", None, 7, ["photos"]], ids=str)
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match="^from_pretrained: a shipped name, a folder or a Hub id .* expected, got"): LiteVAE.from_pretrained(name)


@pytest.mark.parametrize("name", ["nothing", "~nobody-here/model", "a/b/c", "./a/b", "x"*5000, "a\0b", "a/", "/", "~"], ids=lambda n: n[:20])
def test_what_is_nowhere(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="^from_pretrained: ") as found: LiteVAE.from_pretrained(name)
    assert len(str(found.value)) < 450 and "\n" not in str(found.value)


def test_the_users_folder_and_a_file(vae, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_weights("~/vae", {}) == vae
    with pytest.raises(FileNotFoundError, match="model.safetensors is a file; the folder that holds config.json and model.safetensors expected"): find_weights(str(vae/WEIGHTS), {})


def test_a_folder_named_like_a_shipped_model(vae, tmp_path, monkeypatch):
    shutil.copytree(vae, tmp_path/"photos-tiny")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="'photos-tiny' is a shipped model and also a folder here; the shipped one is loaded, write ./photos-tiny for the folder"): shipped = LiteVAE.from_pretrained("photos-tiny")
    for own in ("./photos-tiny", Path("photos-tiny"), tmp_path/"photos-tiny"): assert LiteVAE.from_pretrained(own).config.decoder_channels == 4 != shipped.config.decoder_channels


@pytest.mark.parametrize("error", [OSError("offline"), RuntimeError("a\nb"), ValueError("no such repo"), Exception()], ids=str)
def test_what_the_hub_says_is_one_sentence(error, monkeypatch):
    def fails(*args, **kwargs): raise error
    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(FileNotFoundError, match="^from_pretrained: no folder 'user/model', and the Hub did not give it: ") as found: LiteVAE.from_pretrained("user/model")
    assert "\n" not in str(found.value)


def test_what_the_hub_gives_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no config.json"): LiteVAE.from_pretrained("user/model")


@pytest.mark.parametrize("device", ["abacus", "cuda:99", 3.5, "cuda:x"], ids=str)
def test_a_device_that_is_not_there(device, vae):
    with pytest.raises(ValueError, match="^device: PyTorch can't use .* here"): LiteVAE.from_pretrained(vae, device=device)


# ---- saving

def test_what_could_not_be_loaded_is_not_saved(vae, tmp_path):
    model = LiteVAE.from_pretrained(vae)
    model.encoder.aggregator.conv_in.bias.data[0] = 1e6
    with pytest.raises(ValueError, match="^save_pretrained: 1 tensors with NaN or infinity as torch.float16: encoder.aggregator.conv_in.bias$"): model.save_pretrained(tmp_path/"half", torch.float16)
    model.encoder.aggregator.conv_in.bias.data[0] = math.nan
    with pytest.raises(ValueError, match="^save_pretrained: 1 tensors with NaN or infinity: encoder.aggregator.conv_in.bias$"): model.save_pretrained(vae)
    assert not (tmp_path/"half").exists() and LiteVAE.from_pretrained(vae)
    for wrong in (torch.int8, "float16", 16):
        with pytest.raises(ValueError, match="^dtype: a floating-point type such as torch.float16 or None expected, got"): LiteVAE.from_pretrained(vae).save_pretrained(tmp_path/"half", wrong)


def test_a_model_without_numbers_is_not_saved(tmp_path):
    with torch.device("meta"): model = LiteVAE.from_preset("litevae-tiny")
    with pytest.raises(ValueError, match="^save_pretrained: the model is on the meta device and has no weights$"): model.save_pretrained(tmp_path/"m")


def test_modes_are_the_users(vae, tmp_path):
    old = os.umask(0o027)
    try: LiteVAE.from_pretrained(vae).save_pretrained(tmp_path/"new")
    finally: os.umask(old)
    assert [stat.S_IMODE((tmp_path/"new"/f).stat().st_mode) for f in (CONFIG, WEIGHTS)] == [0o640, 0o640]
    assert sorted(p.name for p in (tmp_path/"new").iterdir()) == [CONFIG, WEIGHTS]


def test_into_a_file_or_nowhere(vae, tmp_path):
    model = LiteVAE.from_pretrained(vae)
    (tmp_path/"file").write_text("mine")
    with pytest.raises(ValueError, match="^save_pretrained: a folder expected, got '.*file', which is a file$"): model.save_pretrained(tmp_path/"file")
    with pytest.raises(WriteError, match="^.*file/below/config.json: can't be written"): model.save_pretrained(tmp_path/"file"/"below")
    with pytest.raises(ValueError, match="^save_pretrained: a folder expected, got ''$"): model.save_pretrained("")
    assert (tmp_path/"file").read_text() == "mine"


@pytest.mark.parametrize("when", ["weights", "replace"])
def test_a_full_disk_leaves_the_old_pair(when, vae, monkeypatch):
    "New settings never lie beside old weights."
    old = {f: (vae/f).read_bytes() for f in (CONFIG, WEIGHTS)}
    model = LiteVAE.from_preset("litevae-tiny", **{**TINY, "decoder_channels": 8})
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, "No space left on device")
    if when == "weights": monkeypatch.setattr(pretrained, "save_tensors", full)
    else: monkeypatch.setattr("litevae_diffae.files.os.replace", full)
    with pytest.raises(WriteError, match="can't be written .No space left on device.") as found: model.save_pretrained(vae)
    assert "\n" not in str(found.value)
    assert {p.name: p.read_bytes() for p in vae.iterdir()} == old


def test_the_users_folder_when_saving(vae, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    LiteVAE.from_pretrained(vae).save_pretrained("~/mine")
    assert (tmp_path/"mine"/WEIGHTS).is_file()


# ---- diffusers' folders

@pytest.fixture
def theirs(tmp_path):
    "A folder as diffusers writes it."
    model = KLVAE.from_preset("sd-vae-f8", block_out_channels=(8, 16), n_res_blocks=1, norm_num_groups=8)
    values = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 4}
    save_file(model.state_dict(), tmp_path/"diffusion_pytorch_model.safetensors")
    (tmp_path/CONFIG).write_text(json.dumps(values))
    return tmp_path


def test_a_good_folder_of_diffusers(theirs): assert KLVAE.from_diffusers(theirs).config.z_channels == 4


@pytest.mark.parametrize("fields, says", [(dict(latent_channels="4"), "z_channels: a whole number expected, got '4'"), (dict(block_out_channels=8), "block_out_channels: a tuple of whole numbers expected"),
                                          (dict(down_block_types=7), "down_block_types must all be"), (dict(layers_per_block=60), "tensors"), (dict(block_out_channels=[4096, 8192]), "tensors of the wrong shape"),
                                          (dict(scaling_factor=math.nan), "scaling_factor: a finite number or None expected"), (dict(use_quant_conv="False"), "quant_conv: True or False expected")], ids=str)
def test_settings_of_diffusers(fields, says, theirs):
    (theirs/CONFIG).write_text(json.dumps({**json.loads((theirs/CONFIG).read_text()), **fields}))
    before = peak()
    with pytest.raises(FileError) as found: KLVAE.from_diffusers(theirs)
    assert says in str(found.value) and str(theirs) in str(found.value) and "\n" not in str(found.value) and peak() - before < 200


def test_damaged_files_of_diffusers(theirs):
    path = theirs/"diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    for broken, says in ((LFS, "is a note of git-lfs"), (data[:-4], "is cut short"), (b"", "is empty")):
        path.write_bytes(broken)
        with pytest.raises(FileError, match=says): KLVAE.from_diffusers(theirs)
    path.write_bytes(data)
    for broken, says in (("[]", "holds a list"), ("{", "is not JSON")):
        (theirs/CONFIG).write_text(broken)
        with pytest.raises(FileError, match=says): KLVAE.from_diffusers(theirs)
