"""Damaged and odd input of every kind: a right result, or one line that names the thing, in bounded time and memory.

    pytest -n 0 tests/test_fuzz.py                    # 1,000 cases of each kind, the same ones every time
    FUZZ_CASES=100000 pytest -n 0 tests/test_fuzz.py  # more, others every time
"""
import json
import os
import resource
import shutil
import warnings
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz_cases import changed_json, damaged, image_files, tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("FUZZ_CASES", 1000))
MORE = CASES > 1000
fuzz = settings(max_examples=CASES, deadline=3000, derandomize=not MORE, database=None, suppress_health_check=list(HealthCheck))
ROOM = 400                                                                     # MB that a kind may take beyond what was there before


def _status(name): # kB, of this process
    with open("/proc/self/status") as f: return next(int(line.split()[1]) for line in f if line.startswith(name))


@pytest.fixture(autouse=True)
def bounded():
    "No kind of file takes more than its room, whatever it claims to hold; the machine is kept from harm meanwhile."
    before, limits = _status("VmHWM"), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") * 1024 + 3 * 2**30, limits[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try: yield
        finally: resource.setrlimit(resource.RLIMIT_AS, limits)
    assert (_status("VmHWM") - before) / 1024 < ROOM


def one_line(error, name):
    "An error that a user can do something with."
    assert isinstance(error, (ValueError, OSError)), type(error)
    said = str(error)
    assert said and "\n" not in said and name in said, said


IMAGES = image_files()


@fuzz
@given(st.data())
def test_images(data):
    from litevae_diffae.pixels import ImageError
    from litevae_diffae.images import read_image
    kind = data.draw(st.sampled_from(sorted(IMAGES)))
    file = data.draw(damaged(IMAGES[kind]))
    try: image = read_image(BytesIO(file), name="given.img")
    except ImageError as e: return one_line(e, "given.img")
    assert image.ndim == 3 and image.shape[0] == 3 and image.dtype == torch.float32
    assert -1 <= image.min() and image.max() <= 1


def test_whole_images_are_read():
    from litevae_diffae.pixels import ImageError
    from litevae_diffae.images import read_image
    read = 0
    for kind, file in IMAGES.items():
        try: read += read_image(BytesIO(file), name=kind).shape[1:] == (9, 11)
        except ImageError as e: assert kind.split("-")[0] in ("EPS", "ICO", "ICNS", "SPIDER") or kind.endswith(("-F", "-I")), e
    assert read > 60


def test_folders_of_damaged_images(tmp_path, capsys):
    "Through the command line: what can be read is written, what can't be is named, nothing else happens."
    from litevae_diffae.cli import main
    source = tmp_path / "in"
    source.mkdir()
    rng = np.random.default_rng(0)
    known = {k: v for k, v in IMAGES.items() if not k.startswith(("SPIDER", "NPY", "TIFF16")) and not k.endswith(("-F", "-I"))} # others must be told their range
    for i, (kind, whole) in enumerate(sorted(known.items())):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3): data[at] = rng.integers(0, 256)
        (source / f"{i:03d}.{kind.split('-')[0].lower()}").write_bytes(data if i % 2 else whole)
    before = {p: p.read_bytes() for p in source.iterdir()}
    try: main(["reconstruct", str(source), "--model", "photos-tiny", "--out", str(tmp_path / "out")])
    except SystemExit as e: assert e.code in (0, 1, 2)
    said = capsys.readouterr()
    assert "Traceback" not in said.err and len(list((tmp_path / "out").glob("*.png"))) > 30
    assert before == {p: p.read_bytes() for p in source.iterdir()}


@fuzz
@given(tables())
def test_attribute_tables(tmp_path_factory, file):
    from litevae_diffae.attributes import AttributeTable
    path = tmp_path_factory.getbasetemp() / "table.csv"
    path.write_bytes(file)
    try:
        table = AttributeTable.read(path)
        joined = table.join(["a.png", "x/a.png", "b.png"])
    except (ValueError, OSError) as e: return one_line(e, "table.csv")
    assert len(joined.rows) == 3
    for row in joined.rows: assert row is None or (len(row) == len(table.names) and set(np.asarray(row).tolist()) <= {0, 1})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "A folder of a saved model of every class, with random weights."
    from litevae_diffae import DDIM, DiffAE, LiteVAE
    root = tmp_path_factory.mktemp("models")
    made = dict(litevae=LiteVAE.from_preset("litevae-tiny"), diffae=DiffAE.from_preset("diffae-tiny", image_size=16),
                ddim=DDIM.from_preset("ddim-tiny", image_size=16))
    for name, model in made.items(): model.save_pretrained(root / name)
    return {name: (root / name, type(model)) for name, model in made.items()}


@fuzz
@given(st.data())
def test_configs(models, data):
    folder, cls = models[data.draw(st.sampled_from(sorted(models)))]
    config = folder / "config.json"
    whole = config.read_bytes()
    config.write_bytes(data.draw(changed_json(json.loads(whole))))
    try: cls.from_pretrained(folder)
    except (ValueError, OSError) as e: one_line(e, "")
    finally: config.write_bytes(whole)


@fuzz
@given(st.data())
def test_weights(models, data):
    folder, cls = models[data.draw(st.sampled_from(sorted(models)))]
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    path.write_bytes(data.draw(damaged(whole[:length])) + whole[length:])
    try:
        model = cls.from_pretrained(folder)
        assert all(p.isfinite().all() for p in model.parameters())
    except (ValueError, OSError) as e: one_line(e, "model.safetensors")
    finally: path.write_bytes(whole)


@pytest.fixture(scope="module")
def checkpoints():
    "A state dict as the official code saves it, in both formats of PyTorch."
    found = []
    for zipped in (True, False):
        buffer = BytesIO()
        torch.save({"state_dict": {"ema_model.a": torch.zeros(3, 4), "ema_model.b": torch.ones(2, dtype=torch.int64)}, "epoch": 3, "more": [{"x": (1, "y")}]},
                   buffer, _use_new_zipfile_serialization=zipped)
        found.append(buffer.getvalue())
    return found


@fuzz
@given(st.data())
def test_checkpoints(checkpoints, tmp_path_factory, data):
    from litevae_diffae.saved import read_saved
    path = tmp_path_factory.mktemp("weights") / "last.ckpt"
    path.write_bytes(data.draw(damaged(data.draw(st.sampled_from(checkpoints)))))
    try: read_saved(path)
    except (ValueError, OSError) as e: one_line(e, "last.ckpt")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    "A toy run of three steps with a checkpoint."
    import toy_run
    from litevae_diffae.optim import TrainConfig
    from litevae_diffae.train import Trainer
    out = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(steps=3, batch_size=2, save_every=1, log_every=1)
    Trainer(toy_run.Toy(), toy_run.data, config, out, "cpu", progress=False).fit()
    return out, config


@fuzz
@given(st.data())
def test_run_folders(run_folder, tmp_path_factory, data):
    import toy_run
    from litevae_diffae.train import Trainer
    whole, config = run_folder
    out = tmp_path_factory.getbasetemp() / "damaged_run"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out)
    path = data.draw(st.sampled_from(sorted(p for p in out.rglob("*") if p.is_file())))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    task = toy_run.Toy()
    try: Trainer(task, toy_run.data, config, out, "cpu", progress=False).fit()
    except (ValueError, OSError) as e: return one_line(e, "")
    for net in task.nets.values(): assert all(p.isfinite().all() for p in net.parameters())


WORDS = st.one_of(st.sampled_from(("reconstruct", "encode", "evaluate", "sample", "edit", "interpolate", "train", "distill", "import", "experiment", "--model", "--data", "--out", "--n", "--seed", "--set",
                                   "--steps", "--size", "--lr", "--strength", "--attribute", "--n-steps", "litevae-tiny", "diffae-tiny", "photos-tiny", "x", "mine", "mine/0.png", "", "-", "--", "..", "~", "0", "-1", "1e9", "nan",
                                   "inf", "None", "True", "z_channels=nan", "z_channels=", "=", "12,13", "hf:", "\udcff")), st.text(max_size=5))


@settings(fuzz, max_examples=max(1, CASES // 10))                              # each may run a model
@given(st.lists(WORDS, min_size=1, max_size=7))
def test_command_lines(line_folder, words):
    from litevae_diffae.cli import main
    before = {p: p.read_bytes() for p in (line_folder / "mine").rglob("*") if p.is_file()}
    if words[0] in ("train", "distill", "demo", "bench", "experiment", "app"): words = [*words, "--steps", "x"]       # nothing long is begun
    if words[0] == "evaluate": words = [*words, "--max-images", "1"]
    try: main(words)
    except SystemExit as e: assert e.code in (0, 1, 2), e.code
    assert before == {p: p.read_bytes() for p in (line_folder / "mine").rglob("*") if p.is_file()}


@pytest.fixture
def line_folder(tmp_path_factory, monkeypatch):
    from PIL import Image
    root = tmp_path_factory.mktemp("lines")
    (root / "mine").mkdir()
    for i in range(2): Image.fromarray(np.full((16, 16, 3), 90 * i, np.uint8)).save(root / "mine" / f"{i}.png")
    monkeypatch.chdir(root)
    from litevae_diffae.commands import imaging, training
    once = lru_cache(None)(imaging.load_model)                                   # a name is looked up once
    for module in (imaging, training): monkeypatch.setattr(module, "load_model", once)
    return root


CORPUS = Path(__file__).parent / "corpus"


def corpus(kind): return sorted((CORPUS / kind).iterdir())


def test_the_corpus_is_what_its_script_makes():
    from corpus.make import KINDS
    assert {(kind, p.name): p.read_bytes() for kind in KINDS for p in corpus(kind)} == {(kind, name): data for kind, files in KINDS.items() for name, data in files()}


ROTATED = ("resolution_as_text.jpg", "negative_rotation.jpg", "unknown_rotation.jpg")   # their pixels are whole


@pytest.mark.parametrize("path", corpus("images"), ids=lambda p: p.name)
def test_found_images(path):
    from litevae_diffae.pixels import ImageError
    from litevae_diffae.images import read_image
    if path.name in ROTATED: assert read_image(path).shape == (3, 5, 6)
    else:
        with pytest.raises(ImageError) as e: read_image(path)
        one_line(e.value, path.name)


@pytest.mark.parametrize("path", corpus("tables"), ids=lambda p: p.name)
def test_found_tables(path):
    from litevae_diffae.attributes import read_attributes
    with pytest.raises((ValueError, OSError)) as e: read_attributes(path)
    one_line(e.value, path.name)


@pytest.mark.parametrize("path", corpus("weights"), ids=lambda p: p.name)
def test_found_weights(models, path):
    folder, cls = models["litevae"]
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(path.read_bytes())
    try:
        with pytest.raises(ValueError) as e: cls.from_pretrained(folder)
    finally: (folder / "model.safetensors").write_bytes(whole)
    one_line(e.value, "model.safetensors")


@pytest.mark.parametrize("path", corpus("configs"), ids=lambda p: p.name)
def test_found_configs(models, path):
    folder, cls = models["litevae"]
    whole = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(path.read_bytes())
    try:
        with pytest.raises(ValueError) as e: cls.from_pretrained(folder)
    finally: (folder / "config.json").write_bytes(whole)
    one_line(e.value, "")


@pytest.mark.parametrize("path", corpus("checkpoints"), ids=lambda p: p.name)
def test_found_checkpoints(path):
    from litevae_diffae.saved import read_saved
    with pytest.raises(ValueError) as e: read_saved(path)
    one_line(e.value, path.name)
