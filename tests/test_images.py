"Odd images, made here: the same tensor through every way in, full precision, and one error with the name for everything else."
import errno
import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from litevae_diffae import sources
from litevae_diffae.crops import Crops, batches, one_pass
from litevae_diffae.data import hold_out, open_source
from litevae_diffae.folders import ImageFolder
from litevae_diffae.images import check_image, read_image, read_pixels
from litevae_diffae.pixels import ImageError, ImageMisfit, to_array, to_tensor
from litevae_diffae.sources import Source

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
WIDE = RNG.integers(0, 65536, (13, 17, 4), dtype=np.uint16)


def encoded(image, format="PNG", **given):
    buffer = io.BytesIO()
    image.save(buffer, format, **given)
    return buffer.getvalue()


def png16(pixels):
    "A PNG of 16 bits a channel, which Pillow cannot write in colour."
    height, width, n = pixels.shape
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[n], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels, **given):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **given)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def unit(pixels, low, high):
    "(H, W, C) -> (C, H, W) in [-1, 1]."
    return torch.from_numpy(np.moveaxis(((pixels.astype(np.float64) - low)/(high - low)*2 - 1).astype(np.float32), 2, 0))


# ---- one image, one tensor, whichever way it comes in

def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(RGB), exif=exif)


def transparent():
    return encoded(Image.fromarray(np.dstack([RGB, RNG.integers(0, 256, RGB.shape[:2], dtype=np.uint8)])))


def cut_palette():
    image = Image.fromarray(RGB).convert("P")
    return encoded(image, transparency=3)


FILES = {"plain": encoded(Image.fromarray(RGB)), "on its side": turned(6), "transparent": transparent(), "palette": cut_palette(),
         "cmyk": encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "grey": encoded(Image.fromarray(RGB[..., 0])),
         "16 bits, grey": png16(WIDE[..., :1]), "16 bits": png16(WIDE[..., :3]), "16 bits, transparent": png16(WIDE),
         "tiff of 16 bits": tiff(WIDE[..., :3], photometric="rgb"), "float": tiff(WIDE[..., :3].astype(np.float32)/65535, photometric="rgb"),
         "grey float": encoded(Image.fromarray(WIDE[..., 0].astype(np.float32)/65535), "TIFF")}


@pytest.mark.parametrize("name", FILES)
def test_every_way_in_gives_the_same(name, tmp_path):
    "A path, its bytes, an open file, an opened image and a folder are one image; so is what a model is trained and evaluated on."
    content = FILES[name]
    path = tmp_path / "image.bin"
    path.write_bytes(content)
    x = read_image(path)
    assert x.dtype == torch.float32 and x.shape[0] == 3 and x.min() >= -1 and x.max() <= 1
    with open(path, "rb") as f:
        f.read(7)
        assert read_image(f).equal(x)
    for form in (str(path), content, bytearray(content), io.BytesIO(content)): assert read_image(form).equal(x), type(form)
    sources = [ImageFolder(tmp_path), open_source(str(tmp_path)), open_source([path]), open_source([str(path)])]
    if name != "float":                                                     # which Pillow cannot open
        for form in (Image.open(io.BytesIO(content)), Image.open(path)): assert read_image(form).equal(x), type(form)
        sources.append(open_source([Image.open(path)]))
    for source in sources:
        assert to_tensor(source[0][0]).equal(x)
        side = min(x.shape[1:])
        assert Crops(source, side, train=False).get(0).shape == (3, side, side)


def test_eight_bits_are_as_they_were():
    "Over white, upright, and not one grey level off."
    assert (read_pixels(FILES["plain"]) == RGB).all()
    assert (read_pixels(FILES["on its side"]) == np.rot90(RGB, -1)).all()
    clear = np.uint8([[[0, 0, 0, 0], [0, 0, 0, 128], [9, 9, 9, 255]]])
    assert read_pixels(encoded(Image.fromarray(clear))).tolist() == [[[255]*3, [127]*3, [9]*3]]
    assert read_image(np.uint8([[0, 255]])).tolist() == [[[-1, 1]]]*3


@pytest.mark.parametrize("form", [RGB, RGB.transpose(2, 0, 1), torch.from_numpy(RGB), torch.from_numpy(RGB).permute(2, 0, 1), Image.fromarray(RGB), npy(RGB)],
                         ids=["HWC", "CHW", "tensor HWC", "tensor CHW", "PIL", "npy"])
def test_arrays(form):
    assert read_image(form).equal(to_tensor(RGB))


# ---- precision, range, channels

DEEP = [(png16(WIDE[..., :3]), 3, WIDE[..., :3], 65535), (png16(WIDE), 4, WIDE, 65535), (png16(WIDE[..., :1]), 1, WIDE[..., :1], 65535),
        (png16(WIDE[..., :2]), 2, WIDE[..., :2], 65535),
        (tiff(WIDE[..., :3], photometric="rgb"), 3, WIDE[..., :3], 65535), (tiff(WIDE[..., :1]), 1, WIDE[..., :1], 65535),
        (tiff(WIDE[..., :3].transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), 3, WIDE[..., :3], 65535),
        (tiff(np.moveaxis(WIDE, 2, 0), photometric="minisblack"), 4, WIDE, 65535),
        (tiff(np.dstack([WIDE, WIDE[..., :1]]), photometric="minisblack", planarconfig="contig"), 5, np.dstack([WIDE, WIDE[..., :1]]), 65535),
        (tiff(WIDE[..., :3].astype(np.float32)/65535, photometric="rgb"), 3, WIDE[..., :3], 65535),
        (tiff(np.dstack([RGB, RGB[..., :2]]).transpose(2, 0, 1), photometric="minisblack"), 5, np.dstack([RGB, RGB[..., :2]]), 255),
        (tiff(WIDE[..., 0], photometric="miniswhite")[:], 1, 65535 - WIDE[..., :1], 65535),
        (tiff(WIDE[..., :1].astype(np.uint32)*65537), 1, WIDE[..., :1], 65535),
        (npy(WIDE[..., :3]), 3, WIDE[..., :3], 65535), (npy(np.moveaxis(WIDE, 2, 0)[:2]), 2, WIDE[..., :2], 65535), (npy(WIDE[..., 0]), 1, WIDE[..., :1], 65535),
        (encoded(Image.fromarray(WIDE[..., 0])), 1, WIDE[..., :1], 65535), (encoded(Image.fromarray(WIDE[..., 0]), "TIFF", compression="tiff_lzw"), 1, WIDE[..., :1], 65535),
        (b"P6 17 13 65535\n" + WIDE[..., :3].astype(">u2").tobytes(), 3, WIDE[..., :3], 65535),
        (b"P6\n# 10 bits\n17 13\n1023\n" + (WIDE[..., :3]//64).astype(">u2").tobytes(), 3, WIDE[..., :3]//64, 1023),
        (b"P5 17 13 65535\n" + WIDE[..., 0].astype(">u2").tobytes(), 1, WIDE[..., :1], 65535)]


@pytest.mark.parametrize("k", range(len(DEEP)))
def test_full_precision(k, tmp_path):
    "Every level of 16 bits arrives, through the door, a folder, crops, batches and a held-out part."
    content, n, pixels, white = DEEP[k]
    expected = unit(pixels, 0, white)
    assert torch.allclose(read_image(content, n), expected, atol=1e-6)
    assert len(read_image(content, n).unique()) == len(np.unique(pixels))
    for i in range(12): (tmp_path / f"{i:02d}.x").write_bytes(content)
    source = open_source(tmp_path, in_channels=n)
    assert torch.allclose(to_tensor(source[0][0]), expected, atol=1e-6)
    train, test = hold_out(tmp_path)                                       # the number of channels may come later, from the model
    assert torch.allclose(Crops(test, 13, train=False, in_channels=n).get(0), expected[..., 2:15], atol=1e-6)
    assert next(batches(Crops(train, 8, in_channels=n), 4, n_workers=2)).image.shape == (4, n, 8, 8)
    assert sum(len(b.image) for b in one_pass(Crops(source, 16, train=False, in_channels=n), 5)) == 12


def test_white_is_zero():
    assert read_image(tiff(np.zeros((4, 4), np.uint16), photometric="miniswhite"), 1).unique().tolist() == [1]


def test_opacity_of_16_bits_is_shown_over_white():
    pixels = np.uint16([[[0, 0, 0, 0], [0, 0, 0, 65535], [65535, 0, 0, 32768]]])
    x = read_image(png16(pixels))[:, 0].T
    assert torch.allclose(x, torch.tensor([[1., 1, 1], [-1, -1, -1], [1, 0, 0]]), atol=1e-4)


@pytest.mark.parametrize("k", range(2, 9))
def test_deep_images_are_turned_too(k, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = k
    eight = Image.open(io.BytesIO(encoded(Image.fromarray(RGB), "TIFF", exif=exif)))
    wide = tiff(RGB.astype(np.uint16)*257, photometric="rgb", extratags=[(274, "H", 1, k, True)])
    assert torch.allclose(read_image(wide), read_image(eight), atol=1e-6)
    assert torch.allclose(read_image(wide), to_tensor(to_array(eight)), atol=1e-6)


def test_twelve_bits_in_sixteen(tmp_path):
    "All 4,096 levels with the range, and one warning without it."
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for i in range(3): (tmp_path / f"{i}.png").write_bytes(png16(levels[..., None]))
    x = to_tensor(open_source(tmp_path, value_range=(0, 4095))[0][0])
    assert len(x.unique()) == 4096 and x.min() == -1 and x.max() == 1
    with pytest.warns(UserWarning, match=r"0\.png: values from 0 to 4,095 use less than a sixteenth of the range of uint16; give value_range") as told:
        source = open_source(tmp_path)
        assert len(to_tensor(source[0][0]).unique()) == 4096
        for i in range(3): source[i]
    assert len(told) == 1


@pytest.mark.parametrize("image, given, message", [
    (tiff(np.float32([[0, 700]])), {}, "has floating-point values from 0 to 700, so black and white are unknown; give value_range=(black, white)"),
    (tiff(np.float32([[0, np.nan]])), {}, "has values that are not finite numbers"),
    (np.float32([[0, 255]]), {}, "expected values from -1 to 1, got 0 to 255"),
    (torch.full((3, 4, 4), 1.5), {}, "expected values from -1 to 1, got 1.5 to 1.5"),
    (np.int64([[0, 255]]), {}, "less than a sixteenth of the range of int64; give value_range"),
    (WIDE[..., :3], dict(value_range=(0, 4095)), "expected values from 0 to 4095, got"),
    (RGB, dict(value_range=(0, 4095)), "has 8-bit pixels, to which value_range=(0, 4095) can't apply"),
    (tiff(np.moveaxis(WIDE, 2, 0), photometric="minisblack"), {}, "has 4 channels, 3 expected; give in_channels=4"),
    (np.zeros((8, 8, 5), np.uint8), {}, "has 5 channels, 3 expected; give in_channels=5"),
    (tiff(np.stack([WIDE[..., :3]]*2), photometric="rgb"), {}, "has 2 pages of 3 channels; give in_channels=6"),
])
def test_intact_images_that_do_not_fit(image, given, message):
    with pytest.raises(ImageMisfit) as e: read_image(image, name="scan", **given)
    assert str(e.value).startswith("scan: ") and message in str(e.value)


def test_float_ranges():
    x = torch.tensor([[[0., 0.5, 1.]]])
    assert read_image(tiff(x[0].numpy()), 1).tolist() == [[[-1, 0, 1]]]                      # a file: black is 0
    assert read_image(x*2 - 1, 1).equal(x*2 - 1)                                             # memory: as everywhere here
    assert read_image(x, 1, value_range=(0, 1)).equal(x*2 - 1)
    with pytest.warns(UserWarning, match="give value_range=\\(0, 1\\) if black is 0"): assert read_image(x, 1).equal(x)
    assert read_image(np.int16([[-1024, 3071]]), 1, (-1024, 3071)).tolist() == [[[-1, 1]]]


@pytest.mark.parametrize("bad", ["full", (1, 0), (0, float("inf")), 3, None])
def test_value_range_is_checked(bad):
    with pytest.raises(ValueError, match=r"value_range: must be auto or \(black, white\) with black below white, got"): open_source([RGB], value_range=bad)


def test_mixed_collections(tmp_path):
    "8 and 16 bits in one batch mean the same."
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(RGB)))
    (tmp_path / "b.png").write_bytes(png16(RGB.astype(np.uint16)*257))
    batch = next(one_pass(Crops(ImageFolder(tmp_path), 13, train=False), 2)).image
    assert torch.allclose(batch[0], batch[1], atol=1e-6)


@pytest.mark.parametrize("n", [1, 3, 4])
def test_photographs_for_models_of_other_channels(n):
    assert read_image(FILES["transparent"], n).shape == (n, 13, 17)
    assert open_source([RGB], in_channels=n)[0][0].shape == (13, 17, n)
    assert Crops([RGB], 8, in_channels=n).get(0, np.random.default_rng(0)).shape == (n, 8, 8)
    if n == 4: assert Crops([RGB], 8, in_channels=4, train=False).get(0)[3].unique().tolist() == [1]


def test_two_channels_are_grey_and_opacity():
    assert read_image(FILES["grey"], 2)[1].unique().tolist() == [1]
    for colour in (FILES["plain"], RGB, FILES["16 bits"]):
        with pytest.raises(ImageMisfit, match="2( channels)? expected"): read_image(colour, 2)


def test_stacks_train(tmp_path):
    "A LiteVAE of five channels on a folder of stacks: statistics and a reconstruction, nothing but its settings said."
    from litevae_diffae import LiteVAE, compute_latent_stats
    for i in range(4): (tmp_path / f"{i}.tif").write_bytes(tiff(RNG.integers(0, 65536, (5, 40, 40), dtype=np.uint16), photometric="minisblack"))
    vae = LiteVAE.from_preset("litevae-tiny", in_channels=5)
    assert len(compute_latent_stats(vae, str(tmp_path)).latents_mean) == vae.config.z_channels
    assert vae(Crops(open_source(tmp_path), 32, train=False, in_channels=5).get(0)[None]).sample.shape == (1, 5, 32, 32)


# ---- what can't be read: one error, with name and reason

def odd_tag(name, kind, body):
    "A JPEG, upside down, with a damaged EXIF tag beside the orientation."
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0) + struct.pack("<HHI", *{"text": (0x011A, 2), "slong": (0x9204, 9)}[kind], 1 if kind == "slong" else 4) + body
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0\0\0\0"
    return encoded(Image.fromarray(RGB), "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize("kind, body", [("text", b"72\0\0"), ("slong", struct.pack("<i", -3))])
@pytest.mark.parametrize("way", ["read_image", "folder", "to_array", "hf"])
def test_odd_tags_cost_nothing(kind, body, way, tmp_path):
    content = odd_tag("x", kind, body)
    plain = Image.open(io.BytesIO(encoded(Image.fromarray(RGB), "JPEG", quality=95)))
    expected = to_tensor(np.array(plain)[::-1, ::-1])
    (tmp_path / "x.jpg").write_bytes(content)
    if way == "read_image": x = read_image(content)
    elif way == "folder": x = to_tensor(ImageFolder(tmp_path, check="full")[0][0])
    elif way == "to_array": x = to_tensor(to_array(Image.open(tmp_path / "x.jpg")))
    else:
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_dict({"image": [str(tmp_path / "x.jpg")]}).cast_column("image", datasets.Image())
        x = to_tensor(open_source(table)[0][0])
    assert x.equal(expected)


DAMAGED = {"empty": b"", "text": b"remember the milk\n", "html": b"<html><body>404</body></html>", "cut png": FILES["plain"][:200], "cut jpeg": FILES["cmyk"][:300],
           "cut 16 bits": png16(WIDE[..., :3])[:300], "cut tiff": tiff(WIDE)[:300], "cut npy": npy(WIDE)[:300], "pickled": npy(np.array([{}])),
           "cut ppm": b"P6 99 99 65535\n" + b"x"*99, "npy of 4 axes": npy(np.zeros((2, 3, 4, 5))), "complex": npy(np.zeros((4, 4), complex)),
           "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
           "qoi": b"qoif" + struct.pack(">IIBB", 5, 5, 3, 0) + b"\xfe", "dds": b"DDS " + struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44) + struct.pack("<2I", 32, 4) + b"ABCD" + bytes(44)}


@pytest.mark.parametrize("name", DAMAGED)
def test_one_error_with_name_and_reason(name, tmp_path):
    path = tmp_path / "x.img"
    path.write_bytes(DAMAGED[name])
    for form in (path, DAMAGED[name], io.BytesIO(DAMAGED[name])):
        with pytest.raises(ImageError) as e: read_image(form, name="holiday/x.img")
        assert str(e.value).startswith("holiday/x.img: ") and "\n" not in str(e.value) and len(e.value.reason) > 5
    assert check_image(path) and check_image(path, full=True)
    (tmp_path / "good.png").write_bytes(FILES["plain"])
    assert [p.name for p in ImageFolder(tmp_path).paths] == ["good.png"]


@pytest.mark.parametrize("form", [3, None, object(), [1, 2], "no such file.png", "", "nul\0.png", np.zeros((0, 4, 3), np.uint8), np.array(["x"]), io.StringIO("x"), "/"])
def test_what_is_no_image(form):
    with pytest.raises(ImageError) as e: read_image(form)
    assert ": " in str(e.value)


@pytest.mark.parametrize("error", [OSError("broken data stream"), SyntaxError("bad"), ValueError("bad"), EOFError(), TypeError("bad"), struct.error("bad"), NotImplementedError(),
                                   IndexError("bad"), RuntimeError("bad"), MemoryError(), Image.DecompressionBombError("bomb"), KeyError("x"), AttributeError("y"), zlib.error("z"),
                                   RecursionError(), AssertionError(), OverflowError("o"), UnicodeDecodeError("ascii", b"x", 0, 1, "r"), Exception("any")], ids=lambda e: type(e).__name__)
def test_whatever_pillow_raises(error, monkeypatch, tmp_path):
    "A folder survives all of it, and one bad image in twelve is told with its reason."
    for i in range(40): (tmp_path / f"{i:02d}.png").write_bytes(FILES["plain"])
    good = Image.open
    def bad(f, *args, **kwargs):
        if "07.png" in str(getattr(f, "name", f)): raise error
        return good(f, *args, **kwargs)
    source = ImageFolder(tmp_path)
    monkeypatch.setattr(Image, "open", bad)
    with pytest.raises(ImageError, match=r"07\.png: .+"): read_image(tmp_path / "07.png")
    with pytest.warns(UserWarning, match=r"07\.png: .*; another image is taken in its place"): seen = [source[i] for i in range(40)]
    assert len(seen) == 40 and source.n_dropped == 1 and source.dropped[0][0].name == "07.png" and source.dropped[0][1]
    with pytest.raises(ImageError, match="07.png"): source.read(7)


# ---- memory

def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    head = png16(np.zeros((1, 1, 3), np.uint16))
    for size in ((20_000, 20_000), (70_000, 3_000)):
        eight = bytearray(encoded(Image.new("RGB", (1, 1))))
        for content in (bytearray(head), eight):
            content[16:24] = struct.pack(">II", *size)
            content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
            path = tmp_path / "x.png"
            path.write_bytes(content)
            with pytest.raises(ImageError, match="x.png: .*(pixels|bomb)"): read_image(path)
            assert check_image(path)
    with pytest.raises(ImageError, match=r"has 17 x 13 pixels, more than the limit of 100; make it smaller, or allow more \(max_pixels"): read_image(FILES["plain"], max_pixels=100)
    with pytest.raises(ImageError, match="array file is truncated"): read_image(npy(np.zeros((4, 4), np.uint8))[:128].replace(b"(4, 4), ", b"(99999, 99999), ")[:128])


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    "However many threads there are, one large image is in memory."
    from litevae_diffae import images, pixels
    monkeypatch.setattr(pixels, "LARGE", 100)
    for i in range(8): (tmp_path / f"{i}.png").write_bytes(FILES["plain"])
    now, most, lock = [0], [0], threading.Lock()
    real = images._pil_pixels
    def counted(*args):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        result = real(*args)
        threading.Event().wait(0.01)
        with lock: now[0] -= 1
        return result
    monkeypatch.setattr(images, "_pil_pixels", counted)
    stream = batches(Crops(ImageFolder(tmp_path, cache_mb=0), 8), 2, n_workers=4)
    for _ in range(8): next(stream)
    stream.close()
    assert most[0] == 1


# ---- what may be left out of a collection

def folder_of(tmp_path, n=12, content=None):
    for i in range(n): (tmp_path / f"{i:02d}.png").write_bytes(content or encoded(Image.fromarray(np.full((9, 9, 3), 10*i % 251, np.uint8))))
    return tmp_path


class Flaky(Source):
    "`error` for image 3, the first `times` times it is asked for."
    def __init__(self, error, times=10**9, n=20):
        super().__init__()
        self.error, self.times, self.n, self.said = error, times, n, []

    def __len__(self): return self.n
    def tell(self, text): self.said.append(text)

    def _decode(self, i, min_side):
        if i == 3 and self.times > 0:
            self.times -= 1
            raise self.error
        return np.full((4, 4, 3), i, np.uint8), {}


@pytest.fixture(autouse=True)
def quick(monkeypatch): monkeypatch.setattr(sources, "_WAITS", (0.001, 0.001, 0.001))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_failing_disk_is_asked_again(code):
    source = Flaky(OSError(code, os.strerror(code)), times=2)
    assert source[3][0].max() == 3 and (source.n_retried, source.n_dropped, source.said) == (2, 0, [])
    source = Flaky(OSError(code, os.strerror(code)), times=4)                       # once and three times more
    assert source[3][0].max() == 4 and (source.n_retried, source.n_dropped) == (3, 1) and 3 in source._broken
    assert source[3][0].max() == 3 and source.n_dropped == 1 and 3 not in source._broken    # not for good
    assert source.said == [f"3: {os.strerror(code)}; another image is taken in its place"]


@pytest.mark.parametrize("error", [OSError("image file is truncated"), SyntaxError("broken PNG file"), EOFError("end"), struct.error("s"), ImageError("3", "bad")])
def test_a_damaged_image_is_left_out_and_told_once(error):
    source = Flaky(error)
    for _ in range(3): assert source[3][0].max() == 4
    assert len(source.dropped) == len(source.said) == 1 and source.n_retried == 0 and source.dropped[0][0] == "3"
    with pytest.raises(ImageError, match="^3: "): source.read(3)


@pytest.mark.parametrize("error", [ValueError("expected size 3"), TypeError("t"), KeyError("k"), IndexError("i"), ImageMisfit("3", "has 5 channels"), ZeroDivisionError()])
def test_mistakes_are_raised(error):
    with pytest.raises(type(error)): Flaky(error)[3]


@pytest.mark.filterwarnings("ignore:.*another image")
def test_too_many_stop_the_run(tmp_path):
    source = open_source(folder_of(tmp_path), max_dropped=0.25)
    for i in range(3, 7): (tmp_path / f"{i:02d}.png").unlink()
    with pytest.raises(ValueError, match=r"4 of 12 images can't be read, more than max_dropped=0.25 of them \(.*03.png: No such file or directory; .*\); .*max_dropped=1: any"): source[3]
    allowed = open_source(tmp_path / ".." / tmp_path.name, max_dropped=1)
    for i in range(8, 12): (tmp_path / f"{i:02d}.png").unlink()
    assert allowed[4][0].max() == 0 and allowed.n_dropped == 4 and len(allowed) == 8       # 7 of those left, then from the start


def test_images_that_vanish_in_training_are_counted(tmp_path):
    source = ImageFolder(folder_of(tmp_path, 40), cache_mb=0)
    stream = batches(Crops(source, 8), 8, n_workers=2)
    (tmp_path / "07.png").unlink()
    with pytest.warns(UserWarning, match=r"07\.png: No such file or directory; another image is taken") as told:
        for _ in range(15): next(stream)
    stream.close()
    assert source.n_dropped == 1 == len(told) and source.skipped == source.dropped == [(tmp_path / "07.png", "No such file or directory")]


def test_a_vanished_folder_is_one_sentence(tmp_path):
    import shutil
    source = ImageFolder(folder_of(tmp_path / "photos" if (tmp_path / "photos").mkdir() is None else None, 200), cache_mb=0)
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(FileNotFoundError, match="image folder: .*photos is no longer there"): source[0]


@pytest.mark.filterwarnings("ignore:.*another image")
def test_a_part_never_reaches_into_the_other(tmp_path):
    "A damaged training image is replaced by a training image, not by the held-out one behind it."
    folder_of(tmp_path, 30)
    train, test = hold_out(tmp_path)
    for i in [k - 1 for k in test.index[1:]]: (tmp_path / f"{i:02d}.png").unlink()
    seen = {int(train[k][0].max()) for k in range(len(train))}
    assert not seen & {10*i % 251 for i in test.index}
    assert train.n_dropped == test.n_dropped == 2 and train._label(0) == tmp_path / "01.png"


class Normalised:
    "Ten images, eight of them partly below 0, as Normalize(0.5) makes them."
    def __len__(self): return 10
    def __getitem__(self, i): return torch.linspace(0 if i < 2 else -1, 1, 48).reshape(3, 4, 4), i


def test_a_normalised_data_set_is_not_trained_on_two_of_ten():
    source = open_source(Normalised())
    with pytest.raises(ValueError, match="image 2: expected values from 0 to 1, got -1 to 1; give the value_range that fits"):
        for i in range(10): source[i]
    given = open_source(Normalised(), value_range=(-1, 1))
    assert [to_tensor(given[i][0]).min().item() for i in range(10)] == [0, 0] + [-1]*8 and not given.dropped
    assert next(batches(Crops(given, 4), 10, n_workers=2)).image.min() == -1


class Wide(Normalised):
    def __init__(self, item): self.item = item
    def __getitem__(self, i): return self.item


@pytest.mark.parametrize("item, expected", [
    (torch.from_numpy(RGB).permute(2, 0, 1)/255, to_tensor(RGB)), (Image.fromarray(RGB), to_tensor(RGB)), (RGB, to_tensor(RGB)), ((RGB, 3), to_tensor(RGB)),
    (WIDE[..., :3], unit(WIDE[..., :3], 0, 65535)), (torch.from_numpy(WIDE[..., :3].astype(np.float32)/65535).permute(2, 0, 1), unit(WIDE[..., :3], 0, 65535))])
def test_data_sets(item, expected):
    assert torch.allclose(to_tensor(open_source(Wide(item))[0][0]), expected, atol=1e-6)


def test_lazily_opened_images_from_many_threads(tmp_path):
    "Every run gives the same batches, and no image is lost."
    for i in range(24): (tmp_path / f"{i:02d}.jpg").write_bytes(encoded(Image.fromarray(np.roll(np.kron(RGB, np.ones((9, 9, 1), np.uint8)), i, 0)), "JPEG"))
    paths = sorted(tmp_path.iterdir())
    expected = [b.image for _, b in zip(range(6), batches(Crops(ImageFolder(tmp_path, cache_mb=0), 8, scale=(1, 1)), 8))]
    class Lazy:
        def __init__(self): self.images = [Image.open(p) for p in paths]
        def __len__(self): return 24
        def __getitem__(self, i): return self.images[i]
    for _ in range(5):
        for images in ([Image.open(p) for p in paths], Lazy()):
            source = open_source(images)
            got = [b.image for _, b in zip(range(6), batches(Crops(source, 8, scale=(1, 1)), 8, n_workers=4))]
            assert not source.skipped and all((a - b).abs().mean() < 0.2 for a, b in zip(got, expected))
            again = [b.image for _, b in zip(range(6), batches(Crops(open_source(list(map(Image.open, paths))), 8, scale=(1, 1)), 8))]
            assert all(a.equal(b) for a, b in zip(got, again)) or not isinstance(images, list)


# ---- folders: what is left out, labels, identity

def test_runs_below_the_data_are_left_out(tmp_path):
    from litevae_diffae import train_litevae
    folder_of(tmp_path, 6, FILES["plain"])
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "more.png").write_bytes(FILES["plain"])
    train_litevae("litevae-tiny", tmp_path, tmp_path / "album" / "run", steps=1, size=32, batch_size=1, progress=False)
    (tmp_path / "album" / "run" / "sheet.png").write_bytes(FILES["plain"])
    source = ImageFolder(tmp_path)
    assert len(source) == 7 and (tmp_path / "album" / "run", "a run or result of this package") in source.skipped and "run (a run or result" in source.report()
    for content in ({"config.json": "{}", "model.safetensors": "x"}, {"log.jsonl": "", "resume/x": ""}, {"index.json": "{}", "codes-00000.safetensors": ""}):
        for name, text in {**content, "x.png": ""}.items():
            (path := tmp_path / "other" / name).parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(FILES["plain"] if name == "x.png" else text.encode())
        assert len(ImageFolder(tmp_path)) == 7, content
        import shutil
        shutil.rmtree(tmp_path / "other")
    assert len(ImageFolder(tmp_path / "album" / "run", check="ends")) >= 1                 # asked for by name


@pytest.mark.parametrize("exclude", ["out", ["out"], ["out/deep/../../out"], "ABSOLUTE", ["out/a.png", "out/b.png"]])
def test_exclude(exclude, tmp_path, monkeypatch):
    folder_of(tmp_path, 3)
    (tmp_path / "out" / "deep").mkdir(parents=True)
    for name in ("a", "b"): (tmp_path / "out" / f"{name}.png").write_bytes(FILES["plain"])
    assert len(open_source(tmp_path)) == 5
    assert len(open_source(tmp_path, exclude=tmp_path / "out" if exclude == "ABSOLUTE" else exclude)) == 3
    monkeypatch.chdir(tmp_path)
    assert len(open_source(".", exclude=exclude if exclude != "ABSOLUTE" else "out")) == 3


def test_labels_are_those_of_the_file(tmp_path):
    "Rows of cats are no rows of dogs, and x.jpg's row is not x.png's."
    (tmp_path / "dogs").mkdir()
    folder_of(tmp_path / "dogs", 3)
    table = tmp_path / "labels.csv"
    table.write_text("file,Cat\ncats/00.png,1\ncats/01.png,1\ndogs/00.png,0\ndogs/02.jpg,0\n")
    source = ImageFolder(tmp_path / "dogs", table)
    assert [(p.name, a) for p, (_, a) in zip(source.paths, source)] == [("00.png", {"Cat": 0})]
    assert source.report().startswith("1 images; 1 rows used, 3 rows without image, 2 images without row; skipped 2: 01.png (no row in the attribute file")
    two = tmp_path / "dogs" / "own.csv"
    two.write_text("file,A,B\n00.png,1,0\n01.png,0,1\n02.png,0,0\n")
    assert open_source(tmp_path / "dogs", attributes=two, columns=["B"])[1][1] == {"B": 1} and len(open_source(tmp_path / "dogs", attributes=two)) == 3
    with pytest.raises(ValueError, match="columns: only with attributes"): open_source(tmp_path / "dogs", columns=["B"])


def test_identity(tmp_path):
    folder_of(tmp_path, 12)
    first = ImageFolder(tmp_path).identity()
    assert first == open_source(str(tmp_path)).identity() and first["n_images"] == 12
    train, test = hold_out(tmp_path)
    assert train.identity() != test.identity() and train.identity()["files"] == first["files"]
    (tmp_path / "00.png").write_bytes(FILES["plain"])
    assert ImageFolder(tmp_path).identity() != first
    (tmp_path / "12.png").write_bytes(FILES["plain"])
    assert ImageFolder(tmp_path).identity()["n_images"] == 13


def test_arrays_beside_photographs_are_tables(tmp_path):
    folder_of(tmp_path, 3)
    np.save(tmp_path / "labels.npy", np.zeros((9, 40), np.uint8))
    source = ImageFolder(tmp_path)
    assert len(source) == 3 and source.skipped[0][1].startswith("an array beside image files")


@pytest.mark.parametrize("name, text", [("state.json", "{}"), ("state.json", "not json"), ("dataset_dict.json", "[1]"), ("state.json", '{"epoch": 3}')])
def test_a_folder_with_a_json_file_is_a_folder(name, text, tmp_path):
    folder_of(tmp_path, 3)
    (tmp_path / name).write_text(text)
    assert isinstance(open_source(tmp_path), ImageFolder)


# ---- what open_source takes, compute_latent_stats takes; streams; LMDB

def test_latent_statistics_of_collections(tmp_path):
    from litevae_diffae import LiteVAE, compute_latent_stats
    vae = LiteVAE.from_preset("litevae-tiny")
    images = [RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(3)]
    for i, image in enumerate(images): Image.fromarray(image).save(tmp_path / f"{i}.png")
    class Set:
        def __len__(self): return 3
        def __getitem__(self, i): return torch.from_numpy(images[i]).permute(2, 0, 1)/255, i
    expected = compute_latent_stats(vae, torch.stack([to_tensor(x) for x in images]))
    for data in (tmp_path, str(tmp_path), ImageFolder(tmp_path), images, np.stack(images), torch.from_numpy(np.stack(images)), list(map(Image.fromarray, images)), Set()):
        got = compute_latent_stats(vae, data)
        assert np.allclose(got.latents_mean, expected.latents_mean, atol=1e-5) and np.allclose(got.latents_std, expected.latents_std, atol=1e-5), type(data)
    with pytest.raises(ValueError, match=r"data: expected images with values in \[-1, 1\], got 0 to 255"): compute_latent_stats(vae, torch.from_numpy(np.stack(images)).movedim(-1, 1).float().clamp(0, 255).index_fill(2, torch.tensor([0]), 0).index_fill(2, torch.tensor([1]), 255))


def test_streams_are_refused_in_words():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter([RGB])
    for stream in (Stream(), pytest.importorskip("datasets").Dataset.from_dict({"image": [1]}).to_iterable_dataset()):
        with pytest.raises(ValueError, match="data: .*IterableDataset|data: Stream is a stream"): open_source(stream)
        with pytest.raises(ValueError, match="is a stream without length"): open_source(stream)


@pytest.mark.parametrize("keep", [0, 100, 4096, 5000, 8192, 12288, 0.5, 0.9, -1])
def test_lmdb_cut_short(keep, tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "x"), map_size=2**24) as env, env.begin(write=True) as txn:
        for i in range(60): txn.put(f"16-{i:05d}".encode(), encoded(Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8))))
        txn.put(b"length", b"60")
    (tmp_path / "cut").mkdir()
    content = (tmp_path / "x" / "data.mdb").read_bytes()
    n = keep if isinstance(keep, int) and keep >= 0 else len(content) - 1 if keep == -1 else int(keep*len(content))
    (tmp_path / "cut" / "data.mdb").write_bytes(content[:n])
    with pytest.raises(ValueError, match="LMDB: .*(cut short|no LMDB file)"): open_source(tmp_path / "cut")
    assert len(open_source(tmp_path / "x")) == 60 and open_source(tmp_path / "x")[59][0].shape == (16, 16, 3)


def test_a_deep_tiff_without_its_codec_is_not_cut_to_eight_bits():
    "Pillow would read it, and drop half of every number."
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((9, 11, 3), np.uint16), photometric="rgb")
    data = bytearray(buffer.getvalue())
    at = data.find(struct.pack("<HHI", 259, 3, 1)) + 8                            # the tag that names the compression
    data[at:at + 2] = struct.pack("<H", 5)                                        # LZW, whatever lies there
    with pytest.raises(ImageError, match="^scan.tif: is a TIFF in colour with more than 8 bits"): read_image(bytes(data), name="scan.tif")
