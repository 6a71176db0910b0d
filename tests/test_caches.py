"A cache knows the model, the settings and every image that it was made of, and what is damaged is named."
import json
import multiprocessing
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from litevae_diffae.caches import checksum, kept, locked, module_digest
from litevae_diffae.sources import ArraySource
from litevae_diffae.crops import Crops
from litevae_diffae.folders import ImageFolder
from litevae_diffae.avatars import load_avatars
from litevae_diffae.experiments import faces
from litevae_diffae.diffae.code_cache import cache_codes, is_cache, load_codes, read_index
from litevae_diffae.diffae.prior import find_codes
from litevae_diffae.diffae.model import DiffAE
from litevae_diffae.files import FileError, read_tensors, write_json, write_tensors

AVATARS = load_avatars("test")
IMAGES, LABELS, N = AVATARS.images[:20], AVATARS.attributes[:20], 20


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DiffAE.from_preset("diffae-tiny").eval()


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    "A finished folder; each test gets a copy."
    out = tmp_path_factory.mktemp("made")/"codes"
    return out, cache_codes(model, source(), out, shard_size=8, progress=False)


@pytest.fixture
def folder(made, tmp_path): return shutil.copytree(made[0], tmp_path/"codes")


def source(images=IMAGES, labels=LABELS): return ArraySource(images, labels, AVATARS.names)


def refused(error, path, *words):
    assert issubclass(error.type, (ValueError, OSError))
    text = str(error.value)
    assert "\n" not in text and str(path) in text, text
    for word in words: assert word in text, text


def changed(**kw):
    "The images or labels with one value changed."
    images, labels = IMAGES.copy(), LABELS.copy()
    if "pixel" in kw: images[kw["pixel"], 30:34, 30:34] ^= 128
    if "label" in kw: labels[kw["label"], 0] ^= 1
    return source(images, labels)


def test_a_finished_folder_is_read_and_not_made_again(model, folder, made, monkeypatch):
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}
    monkeypatch.setattr(DiffAE, "encode", lambda *a: pytest.fail("encoded again"))
    for codes in (cache_codes(model, source(), folder, progress=False), load_codes(folder, model)):
        assert torch.equal(codes.z_sem, made[1].z_sem) and torch.equal(codes.attributes, made[1].attributes) and list(codes.files) == [str(i) for i in range(N)]
    assert before == {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


@pytest.mark.parametrize("row", range(N))
def test_every_image_counts(model, folder, row):
    with pytest.raises(FileError) as e: cache_codes(model, changed(pixel=row), folder, progress=False)
    refused(e, folder, "another collection", "have changed since", "images=")
    with pytest.raises(FileError) as e: cache_codes(model, changed(label=row), folder, progress=False)
    refused(e, folder, "or their labels")


def test_an_image_file_that_is_replaced_is_noticed(model, tmp_path):
    for i in range(4): (tmp_path/"faces").mkdir(exist_ok=True); Image.fromarray(IMAGES[i]).save(tmp_path/f"faces/{i}.bmp")
    go = lambda: cache_codes(model, ImageFolder(tmp_path/"faces"), tmp_path/"codes", progress=False)
    go(); go()
    size = (tmp_path/"faces/2.bmp").stat().st_size
    Image.fromarray(IMAGES[9]).save(tmp_path/"faces/2.bmp")                  # the same name and the same size
    assert (tmp_path/"faces/2.bmp").stat().st_size == size
    with pytest.raises(FileError) as e: go()
    refused(e, tmp_path/"codes", "have changed since")
    (tmp_path/"faces/2.bmp").rename(tmp_path/"faces/z.bmp")
    with pytest.raises(FileError) as e: go()
    refused(e, tmp_path/"codes", "file_names=")


def test_another_model_is_refused_by_name(model, folder):
    twin = DiffAE.from_preset("diffae-tiny").eval()
    twin.load_state_dict(model.state_dict())
    assert len(load_codes(folder, twin)) == N
    with torch.no_grad(): [*twin.encoder.parameters()][-1].view(-1)[0] += 1e-6
    for f in (lambda: cache_codes(twin, source(), folder, progress=False), lambda: load_codes(folder, twin)):
        with pytest.raises(FileError) as e: f()
        refused(e, folder, "encoder=")
    other = DiffAE.from_preset("diffae-tiny", image_size=64).eval()
    with pytest.raises(FileError) as e: cache_codes(other, source(), folder, progress=False)
    refused(e, folder, "image_size=32 (now 64)", "config: ")
    assert module_digest(model.encoder) != module_digest(DiffAE.from_preset("diffae-tiny").encoder)


def test_codes_do_not_depend_on_the_batch_size(model):
    codes = [cache_codes(model, source(), batch_size=n, shard_size=s, progress=False).z_sem for n, s in ((64, 8192), (1, 7), (3, 20), (7, 3))]
    for c in codes[1:]: assert (c - codes[0]).abs().max() < 1e-5


def cut(path, n=10): path.write_bytes(path.read_bytes()[:-n])
def rewrite(path, **tensors): write_tensors(path, {**read_tensors(path), **tensors})
def nan(path):
    z = read_tensors(path)["z_sem"]
    z[2, 3] = torch.nan
    rewrite(path, z_sem=z)


DAMAGE = {"cut short": cut, "empty": lambda p: p.write_bytes(b""), "other codes": lambda p: rewrite(p, z_sem=read_tensors(p)["z_sem"] + 1e-3), "NaN": nan,
          "fewer rows": lambda p: rewrite(p, z_sem=read_tensors(p)["z_sem"][:-1]), "other type": lambda p: rewrite(p, z_sem=read_tensors(p)["z_sem"].double()),
          "other labels": lambda p: rewrite(p, attributes=1 - read_tensors(p)["attributes"]), "no labels": lambda p: write_tensors(p, {"z_sem": read_tensors(p)["z_sem"]}),
          "a neighbour": lambda p: shutil.copy(p.with_name("codes-00000.safetensors"), p), "git-lfs": lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
          "text": lambda p: p.write_text("no codes")}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_shard_is_named(model, folder, name):
    path = folder/"codes-00001.safetensors"
    DAMAGE[name](path)
    for f in (lambda: load_codes(folder), lambda: cache_codes(model, source(), folder, progress=False)):
        with pytest.raises(FileError) as e: f()
        refused(e, path)


def test_a_missing_shard_is_made_again_and_missed_without_images(model, folder, made):
    path = folder/"codes-00001.safetensors"
    path.unlink()
    with pytest.raises(FileNotFoundError) as e: load_codes(folder)
    refused(e, path, "run cache_codes again")
    assert torch.equal(cache_codes(model, source(), folder, batch_size=64, progress=False).z_sem, made[1].z_sem)
    assert torch.equal(load_codes(folder).z_sem, made[1].z_sem)


def test_a_shard_without_its_entry_is_made_again(model, folder, made):
    "What a process leaves that was killed between the shard and the index."
    index = read_index(folder)
    for k in ("mean", "std", "files"): del index[k]
    del index["shards"]["1"]
    write_json(folder/"index.json", index)
    cut(folder/"codes-00001.safetensors")
    with pytest.raises(FileError) as e: load_codes(folder)
    refused(e, folder, "is unfinished; run cache_codes again")
    assert torch.equal(cache_codes(model, source(), folder, progress=False).z_sem, made[1].z_sem)


OLD = {"n": 20, "z_dim": 64, "image_size": 32, "names": [], "encoder": "0", "images": "0", "shard_size": 8}
INDEX = {"cut short": (lambda t: t[:-9], "not JSON"), "empty": (lambda t: "", "is empty"), "a list": (lambda t: "[1]", "a dict expected"), "older version": (lambda t: json.dumps(OLD), "older version"),
         "foreign": (lambda t: "{}", "something else"), "n": (lambda t: t.replace('"n": 20', '"n": 10000000000'), ""), "n text": (lambda t: t.replace('"n": 20', '"n": "20"'), "no right value for n"),
         "shard_size": (lambda t: t.replace('"shard_size": 8', '"shard_size": 0'), "below 1"), "z_dim": (lambda t: t.replace('"z_dim": 64', '"z_dim": 63'), ""), "files": (lambda t: t.replace('"files": ["0", ', '"files": ['), "name"),
         "other files": (lambda t: t.replace('"files": ["0", ', '"files": ["x", '), "names other images"), "digest": (lambda t: t.replace('"codes": "', '"codes": "0'), "index.json names"), "shards": (lambda t: t.replace('"0": {', '"9": {'), "index.json names")}


@pytest.mark.parametrize("name", INDEX)
def test_a_damaged_index_is_named(folder, name):
    change, words = INDEX[name]
    text = (folder/"index.json").read_text()
    (folder/"index.json").write_text(change(text))
    assert change(text) != text
    with pytest.raises(FileError) as e: load_codes(folder)
    refused(e, folder, words)


def test_codes_without_an_index_are_refused(model, folder):
    (folder/"index.json").unlink()
    with pytest.raises(FileError) as e: cache_codes(model, source(), folder, progress=False)
    refused(e, folder, "holds codes without index.json")
    with pytest.raises(FileNotFoundError) as e: load_codes(folder)
    refused(e, folder, "holds no index.json")


def test_out_that_cannot_be_a_folder(model, tmp_path):
    (tmp_path/"file").write_text("mine")
    with pytest.raises((ValueError, OSError)) as e: cache_codes(model, source(), tmp_path/"file", progress=False)
    refused(e, tmp_path/"file")
    assert (tmp_path/"file").read_text() == "mine"


def test_pictures_beside_an_index_of_their_own_are_pictures(model, folder, tmp_path):
    (tmp_path/"faces").mkdir()
    for i in range(3): Image.fromarray(IMAGES[i]).save(tmp_path/f"faces/{i}.png")
    (tmp_path/"faces/index.json").write_text('{"gallery": true}')
    assert is_cache(folder) and not is_cache(tmp_path/"faces")
    assert len(find_codes(model, tmp_path/"faces", None, False)) == 3


def test_a_model_that_gives_nan_fills_no_cache(tmp_path):
    broken = DiffAE.from_preset("diffae-tiny").eval()
    with torch.no_grad(): [*broken.encoder.parameters()][-1].fill_(torch.nan)
    with pytest.raises(ValueError, match="finite codes.*image 0"): cache_codes(broken, source(), tmp_path/"codes", progress=False)
    assert not list((tmp_path/"codes").glob("codes-*"))


def fill(out, shard_size, results):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codes = cache_codes(DiffAE.from_preset("diffae-tiny").eval(), source(), out, shard_size=shard_size, progress=False)
    results.put(checksum([codes.z_sem]))


def test_two_processes_fill_one_folder(made, tmp_path):
    "They want shards of different sizes; the folder has one, and both get the same codes."
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    runs = [spawn.Process(target=fill, args=(tmp_path/"codes", size, results)) for size in (3, 5)]
    for r in runs: r.start()
    found = {results.get(timeout=240) for _ in runs}
    for r in runs: r.join(60)
    assert [r.exitcode for r in runs] == [0, 0] and len(found) == 1
    assert checksum([load_codes(tmp_path/"codes").z_sem]) in found
    assert (load_codes(tmp_path/"codes").z_sem - made[1].z_sem).abs().max() < 1e-5


def test_the_lock_ends_with_an_error(tmp_path):
    with pytest.raises(KeyError):
        with locked(tmp_path): raise KeyError
    with locked(tmp_path): pass


@pytest.mark.parametrize("damage, words", [(cut, "cut short"), (lambda p: p.write_bytes(b""), "is empty"), (lambda p: write_tensors(p, read_tensors(p)), "does not say what it was made of"),
                                           (lambda p: write_tensors(p, {"f": torch.zeros(2, 3)}, {"facts": '{"n": 3}'}), "n=3 (now 2)"), (lambda p: write_tensors(p, {"f": torch.zeros(9, 3)}, {"facts": '{"n": 2}'}), "shapes"),
                                           (lambda p: write_tensors(p, {"f": torch.full((2, 3), torch.nan)}, {"facts": '{"n": 2}'}), "NaN"), (lambda p: write_tensors(p, {"f": torch.zeros(2, 3)}, {"facts": "{"}), "not JSON")])
def test_a_kept_file_that_is_damaged_or_anothers(tmp_path, damage, words):
    path = tmp_path/"f.safetensors"
    keep = lambda: kept(path, lambda: {"f": torch.ones(2, 3)}, {"n": 2}, {"f": (2, 3)})["f"]
    assert torch.equal(keep(), torch.ones(2, 3)) and torch.equal(keep(), torch.ones(2, 3))
    damage(path)
    with pytest.raises(FileError) as e: keep()
    refused(e, path, words, "delete it")


def test_features_of_faces_know_the_faces(tmp_path, monkeypatch):
    small = lambda images: lambda n, size, split="train": Crops(source(images[:4], LABELS[:4]), size, train=False)
    monkeypatch.setattr(faces, "crops_of", small(IMAGES))
    f = faces.face_features(4, 64, tmp_path)
    assert torch.equal(faces.face_features(4, 64, tmp_path), f)
    monkeypatch.setattr(faces, "crops_of", small(np.ascontiguousarray(IMAGES[::-1])))
    with pytest.raises(FileError) as e: faces.face_features(4, 64, tmp_path)
    refused(e, "alexnet-train-4-64.safetensors", "images=")
