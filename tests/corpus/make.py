"""Make the files of this folder: inputs that once ended a command with somebody else's words, or passed without any.

    python tests/corpus/make.py            # writes them below tests/corpus
"""
import io
import json
import struct
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent


def image(kind, mode="RGB", size=(6, 5), **options):
    "Bytes of a small image."
    buffer = io.BytesIO()
    ramp = Image.linear_gradient("L").resize(size)
    ramp.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def with_tag(tag, kind, payload):
    "A JPEG whose EXIF holds one tag of a type that readers do not expect there."
    entry = struct.pack("<HHI", tag, kind, len(payload) if kind == 2 else 1)
    data = payload if len(payload) > 4 else payload.ljust(4, b"\0")
    value = struct.pack("<I", 26) if len(payload) > 4 else data
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + value + b"\0\0\0\0" + (data if len(payload) > 4 else b"")
    return image("JPEG", exif=b"Exif\0\0" + tiff)


def images():
    "Images, and what is called one."
    whole = image("PNG")
    yield "empty.png", b""
    yield "cut.png", whole[:len(whole) // 2]
    yield "page.jpg", b"<!doctype html><title>404</title>"
    yield "lfs.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    yield "resolution_as_text.jpg", with_tag(0x011A, 2, b"seventy-two\0")
    yield "negative_rotation.jpg", with_tag(0x0112, 9, struct.pack("<i", -6))
    yield "unknown_rotation.jpg", with_tag(0x0112, 3, struct.pack("<H", 77))
    yield "unknown_pixels.dds", b"DDS " + struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44) + struct.pack("<8I", 32, 0x200000, 0, 0, 0, 0, 0, 0) + bytes(20)
    yield "no_pixels.qoi", b"qoif" + struct.pack(">II", 4, 4) + b"\x03\0"
    yield "empty_item.avif", bytes.fromhex("0000001c66747970617669660000000061766966") + b"mif1miaf"
    yield "huge.tif", b"II*\0\x08\0\0\0" + struct.pack("<H", 9) + b"".join(
        struct.pack("<HHII", *tag) for tag in ((256, 4, 1, 11), (257, 4, 1, 14_680_073), (258, 3, 1, 1), (259, 3, 1, 1),
                                               (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 14_680_073), (279, 4, 1, 4))) + b"\0\0\0\0"
    yield "bomb.png", b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + _chunk(b"IEND", b"")
    yield "program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def _chunk(name, data):
    import zlib
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tables():
    "Tables of labels that can't be meant, or that mean two things."
    yield "empty.csv", b""
    yield "header_only.csv", b"file,Smiling\n"
    yield "contradiction.csv", b"file,Smiling\na.png,1\na.png,0\n"
    yield "doubled_column.csv", b"file,Smiling,Smiling\na.png,1,0\n"
    yield "other_values.csv", b"file,split\na.png,0\nb.png,2\n"
    yield "ragged.csv", b"file,Smiling,Hat\na.png,1\n"
    yield "image.csv", image("PNG")
    yield "wrong_count.txt", b"3\nSmiling\na.png 1\nb.png -1\n"


def weights():
    "Files that are called model.safetensors."
    yield "empty.safetensors", b""
    yield "lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4124\n"
    yield "page.safetensors", b"<!doctype html><title>404</title>" * 3
    yield "huge_header.safetensors", struct.pack("<Q", 2**60) + b"{}"
    yield "deep_header.safetensors", struct.pack("<Q", 20_000) + b"[" * 20_000
    yield "huge_tensor.safetensors", _header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    yield "overlap.safetensors", _header({k: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for k in "ab"}) + bytes(4)
    yield "not_a_number.safetensors", _header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + struct.pack("<f", float("nan"))


def _header(value):
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


def configs():
    "Files that are called config.json."
    yield "empty.json", b""
    yield "list.json", b"[]"
    yield "doubled.json", b'{"model": "LiteVAE", "model": "DiffAE"}'
    yield "deep.json", b"[" * 20_000
    yield "utf16.json", '{"model": "LiteVAE"}'.encode("utf-16")
    yield "text_as_bool.json", b'{"model": "LiteVAE", "quant_conv": "False"}'
    yield "blocks.json", b'{"model": "LiteVAE", "decoder_res_blocks": 30000}'
    yield "channels.json", b'{"model": "LiteVAE", "extractor_channels": 1e400}'


def checkpoints():
    "Files that are called last.ckpt."
    yield "empty.ckpt", b""
    yield "page.ckpt", b"<!doctype html>"
    yield "system.ckpt", b"\x80\x02cos\nsystem\nX\x04\0\0\0trueq\0\x85q\x01Rq\x02."
    yield "memo.ckpt", b"\x80\x02]r\xff\xff\xff\x7f."
    yield "deep.ckpt", b"\x80\x02" + b"(" * 20_000 + b"."
    yield "long.ckpt", b"\x80\x02\x8b\xff\xff\xff\x7f1."


KINDS = dict(images=images, tables=tables, weights=weights, configs=configs, checkpoints=checkpoints)

if __name__ == "__main__":
    for kind, files in KINDS.items():
        (HERE / kind).mkdir(exist_ok=True)
        for name, data in files(): (HERE / kind / name).write_bytes(data)
        print(f"{kind}: {len(list((HERE / kind).iterdir()))} files")
