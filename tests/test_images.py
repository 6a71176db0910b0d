"Odd images, made here: the same tensor through every way in, full precision, and one error with the name for everything else."
import errno
import io
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from litevae_diffae import data as data_module
from litevae_diffae.data import ArraySource, Crops, ImageFolder, Part, Source, TorchvisionSource, batches, hold_out, one_pass, open_source
from litevae_diffae.images import check_image, read_image, read_pixels
from litevae_diffae.pixels import ImageError, ImageMisfit, to_array, to_tensor

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
