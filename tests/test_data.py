"What a notebook can't see of the data: checksums, sizes and credits of the files, time to load, no network, memory of a big folder."
import hashlib, json, os, socket, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from litevae_diffae.avatars import AVATAR_NAMES, draw_face, load_avatars
from litevae_diffae.crops import Crops, batches
from litevae_diffae.folders import ImageFolder
from litevae_diffae.photos import load_photos, photo_credits

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "litevae_diffae" / "assets"
SUMS = dict(reversed(line.split("  ")) for line in (ROOT / "data/SHA256SUMS").read_text().splitlines())
DATA = sorted(p for d in ("avatars", "photos") for p in (ASSETS / d).iterdir())

def test_every_file_has_its_checksum():
    assert {p.relative_to(ROOT).as_posix() for p in DATA} <= set(SUMS)
    for name, expected in SUMS.items(): assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == expected, name

def test_sizes():
    size = lambda folder: sum(p.stat().st_size for p in (ASSETS / folder).iterdir())
    assert size("avatars") <= 10e6 and size("photos") <= 6e6

def test_every_file_is_credited():
    text, notice = (ROOT / "data/ATTRIBUTION.md").read_text(encoding="utf-8"), (ROOT / "NOTICE").read_text()
    pictures = [p for p in DATA if p.suffix in (".jpg", ".xz")]
    for p in pictures: assert f"`{p.name}`" in text or f"`{p.parent.name}/{p.name}`" in text, p.name
    for c in json.loads((ASSETS / "photos/credits.json").read_text(encoding="utf-8")):
        row = next(line for line in text.splitlines() if f"`{c['name']}.jpg`" in line)
        assert c["author"] in row and c["licence"] in row and c["source"].split()[-1] in row
    for c in photo_credits("test"): assert f"| {c.name} |" in text
    assert len([p for p in pictures if p.suffix == ".jpg"]) == len(photo_credits()) == 15
    assert "Free for personal and commercial use" in text and "does not cover" in notice and "avatars/" in notice and "photos/" in notice

def test_avatars_load_quickly():
    t = time.process_time()
    train, test = load_avatars("train"), load_avatars("test")
    assert time.process_time() - t < 5
    assert train.names == test.names == AVATAR_NAMES
    for a, least in ((train, 6000), (test, 500)):
        assert len(a.images) >= least and a.images.shape[1:] == (64, 64, 3) and a.images.dtype == np.uint8
        assert a.attributes.shape == (len(a.images), 7) and set(np.unique(a.attributes)) == {0, 1}

def test_larger_faces_are_the_same_ones(monkeypatch, tmp_path):
    "The shipped ones at 128 pixels need no cache; shrunk, each is nearest to its own drawing at 64."
    monkeypatch.setenv("LITEVAE_DIFFAE_CACHE", str(tmp_path / "cache"))
    for split, n in (("test", 300), ("train", 100)):
        large, small = load_avatars(split, size=128, n=n), load_avatars(split, n=n)
        shrunk = np.stack([np.asarray(Image.fromarray(x).resize((64, 64), Image.Resampling.BOX)) for x in large.images]).astype(float)
        assert all(abs(small.images - shrunk[i]).mean((1, 2, 3)).argmin() == i for i in range(0, n, 7))
        assert np.array_equal(large.attributes, small.attributes) and large.names == AVATAR_NAMES
    assert not (tmp_path / "cache").exists()

def test_faces_are_drawn_once(monkeypatch, tmp_path, capfd):
    "Drawn faces skip the repeated seed, are kept in a plain .npy, and are not drawn a second time."
    pytest.importorskip("resvg_py")
    from litevae_diffae import avatars
    monkeypatch.setenv("LITEVAE_DIFFAE_CACHE", str(tmp_path / "deep/cache"))
    monkeypatch.setitem(avatars.REPEATED, "test", 2)
    monkeypatch.setattr(avatars, "_is_same_face", lambda a, b: True)
    first, file = load_avatars("test", size=40, n=4), tmp_path / "deep/cache/avatars-test-40.npy"
    drawn = [avatars.render_avatar(avatars.avatar_options(*draw_face(f"test-0-{i}")), 40) for i in (0, 1, 3, 4)]
    assert np.array_equal(np.load(file), drawn) and np.array_equal(first.images, drawn)
    assert "once" in capfd.readouterr().err
    monkeypatch.setattr(avatars, "render_avatar", None)
    assert np.array_equal(load_avatars("test", size=40, n=3).images, drawn[:3])
    assert not capfd.readouterr().err and [p.name for p in file.parent.iterdir()] == [file.name]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="avatars-test-40.npy: is damaged.*LITEVAE_DIFFAE_CACHE"): load_avatars("test", size=40, n=3)

def test_no_network(monkeypatch):
    def refuse(*args, **kwargs): raise AssertionError("the network was asked for")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(load_photos("train")) == 15 and len(load_photos("test")) == 7

def test_same_faces_in_another_process():
    "Seeds are texts: faces depend neither on the process nor on hash randomisation."
    code = "from litevae_diffae.avatars import draw_face; print([draw_face(f'x-{i}') for i in range(50)])"
    out = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([draw_face(f"x-{i}") for i in range(50)])

def test_big_folders_stay_on_disk(tmp_path):
    "With a cache of 1 MB, 40 pictures of 0.75 MB are read again and again, and the batches are those of a large cache."
    rng = np.random.default_rng(0)
    for i in range(40): Image.fromarray(rng.integers(0, 256, (500, 500, 3), dtype=np.uint8)).save(tmp_path / f"{i:02d}.bmp")
    small, large = (ImageFolder(tmp_path, cache_mb=mb) for mb in (1, 100))
    kept = lambda source: sum(a.nbytes for a in source._cache.values())
    crops = [Crops(s, 64, scale=(0.2, 1)) for s in (small, large)]
    for _, a, b in zip(range(12), *(batches(c, 8, n_workers=n) for c, n in zip(crops, (2, 0)))): assert a.image.equal(b.image)
    assert kept(small) <= 1e6 and kept(large) > 20e6

def test_start_is_affordable(tmp_path):
    "The check of a folder reads the ends of its files: thousands of photographs take seconds."
    photo = (ASSETS / "photos/life.jpg").read_bytes()
    for i in range(300): (tmp_path / f"{i}.jpg").write_bytes(photo)
    t = time.process_time()
    source = ImageFolder(tmp_path)
    seconds = time.process_time() - t
    assert len(source) == 300 and not source.skipped
    assert seconds < 300 * 0.005, seconds   # decoding them would take about 20 ms each

@pytest.mark.parametrize("n_workers", [1, 4])
def test_stopping_ends_the_threads(n_workers):
    import threading
    before = threading.active_count()
    stream = batches(Crops([np.zeros((9, 9, 3), np.uint8)], 8), 2, n_workers=n_workers)
    next(stream); stream.close()
    for _ in range(50):
        if threading.active_count() <= before: break
        time.sleep(0.05)
    assert threading.active_count() <= before
