"Small valid files of every kind that users hand over, and strategies of hypothesis that damage them."
import io
import json
import struct
import zlib

import numpy as np
import tifffile
from hypothesis import strategies as st
from PIL import Image

CANT_READ_BACK = {"PDF", "PALM", "HDF5", "GRIB", "BUFR", "WMF"}        # Pillow writes them only, or needs a helper


def small_image(mode, side=9, seed=0):
    "An image of a mode, of seeded noise."
    noise = np.random.default_rng(seed).integers(0, 256, (side, side + 2, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert("L").point(lambda v: v * 257, "I") if mode == "I;16" else Image.fromarray(noise).convert(mode)


def image_files():
    "Bytes of a small image in every format and mode that Pillow writes."
    Image.init()
    found = {}
    for kind in sorted(set(Image.SAVE) - CANT_READ_BACK):
        for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK", "I", "F", "LA"):
            buffer = io.BytesIO()
            try: small_image(mode).save(buffer, kind)
            except Exception: continue                                # a mode that the format does not have
            if buffer.getvalue(): found[f"{kind}-{mode}"] = buffer.getvalue()
    return {**found, **deep_files()}


def deep_files():
    "Files of more than 8 bits: PNG of 16 bits in colour, TIFF of integers and floats, of one page and of three, NumPy's."
    rng, found = np.random.default_rng(1), {}
    colour = rng.integers(0, 65536, (9, 11, 3)).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    found["PNG16-RGB"] = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 11, 9, 16, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    for name, array in {"u16": colour, "f32": colour / np.float32(65535), "pages": colour.transpose(2, 0, 1)}.items():
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, photometric="minisblack" if name == "pages" else "rgb")
        found[f"TIFF16-{name}"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, colour)
    return {**found, "NPY-u16": buffer.getvalue()}


@st.composite
def damaged(draw, whole):
    "Bytes with some of them changed, cut, doubled, or taken from another place."
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(("byte", "number", "cut", "double", "drop", "swap")))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        if how == "byte" and data: data[at] = draw(st.integers(0, 255))
        if how == "number": data[at:at + 4] = struct.pack(draw(st.sampled_from(("<I", ">I"))), draw(st.sampled_from((0, 1, 255, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1))))
        if how == "cut": del data[at:]
        if how == "drop": del data[at:at + draw(st.integers(1, 16))]
        if how == "double": data[at:at] = data[at:at + draw(st.integers(1, 64))]
        if how == "swap":
            other = draw(st.integers(0, max(0, len(data) - 1)))
            data[at:at + 4], data[other:other + 4] = data[other:other + 4], data[at:at + 4]
    return bytes(data)


numbers = st.one_of(st.integers(-2**70, 2**70), st.floats(), st.sampled_from((0, 1, -1, 2, 3, 7, 0.5, 1e9, 1e300, 10**40)))
values = st.recursive(st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=6)),
                      lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)), max_leaves=4)


@st.composite
def changed_json(draw, value):
    "A JSON dict with a field changed, removed, added or doubled; or with its text damaged."
    how = draw(st.sampled_from(("field", "field", "field", "remove", "add", "text")))
    value = json.loads(json.dumps(value))
    key = draw(st.sampled_from(sorted(value)))
    if how == "field": value[key] = draw(values)
    if how == "remove": del value[key]
    if how == "add": value[draw(st.text(max_size=5))] = draw(values)
    text = json.dumps(value).encode()
    return draw(damaged(text)) if how == "text" else text


names = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=6)


@st.composite
def tables(draw):
    "A table of labels as people write them: bytes."
    separator = draw(st.sampled_from((",", ";", "\t", " ", "  ", ", ")))
    columns = draw(st.lists(names, min_size=0, max_size=3))
    rows = draw(st.lists(st.tuples(st.one_of(names, st.sampled_from(("a.png", "b.png", "x/a.png", "./a.png", "X\\a.png", "a"))),
                                   st.lists(st.one_of(st.sampled_from(("0", "1", "-1", "true", "No", "", "2", "0.5", " 1 ")), names), max_size=3)), max_size=5))
    lines = [separator.join(["file", *columns]), *(separator.join([name, *cells]) for name, cells in rows)]
    if draw(st.booleans()): lines = [str(len(rows)), *lines]
    text = draw(st.sampled_from(("\n", "\r\n", "\r"))).join(lines)
    data = text.encode(draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-le"))))
    return draw(damaged(data)) if draw(st.integers(0, 3)) == 0 else data
