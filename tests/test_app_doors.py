"""What a page may send: fields that are empty, numbers that no slider has, files that are no pictures. A right result or one sentence, through a real server."""
import io
import json
import socket
import struct
import urllib.error
import urllib.request
import uuid
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from test_official import peak

from litevae_diffae import cli
from litevae_diffae.demo import app
from litevae_diffae.demo.app import MAX_PIXELS, Studio, edit, interpolate, reconstruct, sample, steps_near
from litevae_diffae.crops import Crops
from litevae_diffae.folders import ImageFolder
from litevae_diffae.diffae.model import DiffAE

gradio = pytest.importorskip("gradio", reason='no Gradio: pip install "gradio>=6"')
MB = 2**20


@pytest.fixture(scope="module")
def studio(): return Studio(DiffAE.from_pretrained("avatars"), n_faces=3)


def one_line(call, *says):
    with pytest.raises((ValueError, OSError)) as e: call()
    assert "\n" not in str(e.value) and all(word in str(e.value) for word in says), e.value


# numbers

ODD = (None, float("nan"), float("inf"), -1e300, 1e300, 1.5, "5", True, [5], 10**400)


@pytest.mark.parametrize("value", ODD, ids=lambda v: repr(v)[:12])
def test_odd_numbers(studio, value):
    a = studio.faces[0]
    one_line(lambda: steps_near(value), "n_steps: ")
    one_line(lambda: reconstruct(studio, a, 5, seed=value), "seed: ")
    one_line(lambda: reconstruct(studio, a, 5, n_noise=value), "n_noise: ")
    one_line(lambda: interpolate(studio, a, a, 5, value), "n: ")
    one_line(lambda: sample(studio, value, 5), "n: ")
    one_line(lambda: sample(studio, 1, 5, value), "seed: ")
    if value != 1.5: one_line(lambda: edit(studio, a, 5, value, *[0]*(len(studio.names) - 1)), f"{studio.names[0]}: ")


@pytest.mark.parametrize("call, says", [
    (lambda s: steps_near(0), "n_steps: must be from 1 to 1000, got 0"), (lambda s: steps_near(1001), "n_steps: must be from 1 to 1000"), (lambda s: sample(s, 65), "n: must be from 1 to 64"),
    (lambda s: sample(s, 0), "n: must be from 1 to 64"), (lambda s: interpolate(s, None, None, 5, 65), "n: must be from 2 to 64"), (lambda s: sample(s, 1, 5, 2**64), "seed: must be from"),
    (lambda s: edit(s, None, 5, *[0]*len(s.names)), "picture: choose or upload one first"), (lambda s: reconstruct(s, None), "picture: choose"), (lambda s: edit(s, s.faces[0], 5), "strengths: expected"),
    (lambda s: Studio(s.model, 0), "n_faces: must be from 1")])
def test_numbers_out_of_range(studio, call, says): one_line(lambda: call(studio), says)


def test_numbers_that_are_right(studio):
    a = studio.faces[0]
    want = sample(studio, 1, 5, 7)[0][0][0]
    assert np.array_equal(sample(studio, 1., 5., 7.)[0][0][0], want)                                           # 5.0 is 5
    g = torch.Generator().manual_seed(-3)
    assert torch.equal(app._noise(-3).get_state(), g.get_state())
    assert np.array_equal(reconstruct(studio, a, 5, 1, 2**63)[0][0][0], a)


# pictures

def png(image, **more):
    file = io.BytesIO()
    image.save(file, "PNG", **more)
    return file.getvalue()


def write(folder):
    "Files as people upload them: name -> path."
    ramp = np.arange(80*100, dtype=np.uint16).reshape(80, 100)
    grey, noise = Image.fromarray(np.uint8(ramp//32)), Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
    note = Image.Exif()
    note[0x0112] = 6
    Image.fromarray(ramp*8).save(folder/"deep.png")
    grey.save(folder/"turned.png", exif=note)
    noise.convert("RGBA").save(folder/"alpha.png"); noise.convert("CMYK").save(folder/"cmyk.jpg"); noise.convert("P").save(folder/"palette.gif")
    noise.save(folder/"moving.gif", save_all=True, append_images=[grey.convert("RGB")]); noise.save(folder/"x.webp"); noise.convert("1").save(folder/"x.bmp"); noise.resize((3000, 2000)).save(folder/"large.jpg")
    return sorted(folder.iterdir())


def test_uploads_are_read_as_a_folder_is(studio, tmp_path):
    paths = write(tmp_path)
    crops = Crops(ImageFolder(tmp_path), 64, train=False)
    for i, path in enumerate(paths):
        want = crops.get(i)
        for given in (str(path), path, path.read_bytes()): assert torch.equal(studio.square(given)[0].cpu(), want), path
    deep = studio.square(tmp_path/"deep.png")
    assert len(deep.unique()) > 1000                                                                           # not 256 levels


def test_a_face_of_the_page_stays_as_it_is(studio):
    for face in studio.faces: assert np.array_equal(studio.shown(studio.square(png(Image.fromarray(face))), ["x"])[0][0], face)


def header_of(width, height):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


NOT_PICTURES = {"text.jpg": (b"just words", "not an image"), "empty.png": (b"", "empty file"), "page.jpg": (b"<html></html>", "not an image"), "huge.png": (header_of(13_000, 13_000), f"more than the limit of {MAX_PIXELS:,}"),
                "cut.png": (png(Image.new("RGB", (300, 300), "red"))[:-40], "picture: "), "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "EPS files are drawn by another program"),
                "drawing.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "EPS"), "paper.pdf": (b"%PDF-1.4\n%%EOF\n", "not an image"), "x.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
                "lfs.png": (b"version https://git-lfs.github.com/spec/v1\n", "note of git-lfs")}


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture(studio, name, tmp_path):
    data, says = NOT_PICTURES[name]
    (tmp_path/name).write_bytes(data)
    before = peak(reset=True)
    one_line(lambda: studio.square(str(tmp_path/name)), "picture: ", says)
    one_line(lambda: studio.square(str(tmp_path/name), "second picture"), "second picture: ")
    assert peak() - before < 100*MB


def test_no_other_program_is_started(studio, tmp_path, monkeypatch):
    import subprocess
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail(f"started {a}"))
    one_line(lambda: studio.square(NOT_PICTURES["drawing.eps"][0]), "EPS")


# what goes wrong deep inside

@pytest.mark.parametrize("error, says", [(ValueError("a\nb"), "a b"), (OSError(28, "No space left on device"), "No space left on device"), (MemoryError(), "This did not work (MemoryError)"),
                                         (RuntimeError("DefaultCPUAllocator: can't allocate\nmemory"), "This did not work (RuntimeError DefaultCPUAllocator: can't allocate memory)"), (RecursionError("deep"), "RecursionError")])
def test_errors_are_one_sentence(error, says):
    def action(): raise error
    with pytest.raises(gradio.Error) as e: app.told(action)()
    assert says in str(e.value) and "\n" not in str(e.value)
    assert e.value.print_exception is isinstance(error, (MemoryError, RuntimeError))                            # the console keeps the traceback of what is no input


# through a real server, as a page or a stranger would

@pytest.fixture(scope="module")
def page(studio):
    opened = app.run_app(studio.model, port=None, block=False)
    yield opened
    opened.close()


def post(url, data, kind="application/json"):
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer: return answer.read().decode()


def press(page, button, *inputs):
    "Presses a button as a page does: (whether it worked, the outputs or the words of the error)."
    number = next(k for k, f in page.fns.items() if any(page.blocks[t[0]].elem_id == button for t in f.targets if t[0] is not None))
    root, session = page.local_url + "gradio_api", uuid.uuid4().hex[:10]
    post(f"{root}/queue/join", json.dumps({"data": list(inputs), "fn_index": number, "session_hash": session, "event_data": None}).encode())
    with urllib.request.urlopen(f"{root}/queue/data?session_hash={session}", timeout=60) as answer:
        for line in answer:
            said = json.loads(line[5:]) if line.startswith(b"data:") else {}
            if said.get("msg") == "process_completed": return said["success"], said["output"].get("data" if said["success"] else "error")


def upload(page, name, data):
    edge = uuid.uuid4().hex
    body = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + data + f"\r\n--{edge}--\r\n".encode()
    return json.loads(post(f"{page.local_url}gradio_api/upload", body, f"multipart/form-data; boundary={edge}"))[0]


def as_file(path): return {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": path.rsplit("/", 1)[-1]}


def test_pressed_buttons(page, tmp_path):
    for path in write(tmp_path)[:4]:
        worked, out = press(page, "reconstruct", as_file(upload(page, path.name, path.read_bytes())), 5, 0)
        assert worked and len(out[0]) == 5 and "T = 5 steps" in out[1], (path, out)
    for name, (data, says) in NOT_PICTURES.items():
        if not data: continue
        worked, said = press(page, "reconstruct", as_file(upload(page, name, data)), 5, 0)
        assert not worked and said.startswith("picture: ") and says in said and "\n" not in said, (name, said)


@pytest.mark.parametrize("button, inputs, says", [
    ("sample", (1, 5, None), "seed: a whole number expected, the field is empty"), ("sample", (None, 5, 0), "n: a whole number expected"), ("sample", (1, None, 0), "n_steps: a whole number expected"),
    ("sample", (65, 5, 0), "n: must be from 1 to 64, got 65"), ("sample", (10**9, 5, 0), "n: must be"), ("sample", (1, 5, 1e300), "seed: "), ("sample", (1, 10**6, 0), "n_steps: must be from 1 to 1000"),
    ("sample", ("many", 5, 0), "n: a whole number expected, got 'many'"), ("reconstruct", (None, 5, 0), "picture: choose or upload one first"), ("interpolate", (None, None, 5, 7), "first picture: choose")])
def test_pressed_with_odd_numbers(page, button, inputs, says):
    worked, said = press(page, button, *inputs)
    assert not worked and says in said and "\n" not in said


def test_uploads_are_bounded(page):
    with pytest.raises(urllib.error.HTTPError) as e: upload(page, "big.png", bytes(21_000_000))
    assert e.value.code == 413
    worked, said = press(page, "reconstruct", as_file("/etc/passwd"), 5, 0)
    assert not worked and "root:" not in str(said)


# addresses

def test_addresses_and_ports(studio, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for host, port, says in (("127.0.0.1", taken.getsockname()[1], "port: no server can listen"), ("127.0.0.1", 70_000, "port: must be from 1 to 65535, got 70000"), ("127.0.0.1", 0, "port: must be"),
                                 ("127.0.0.1", -1, "port: must be"), ("192.0.2.1", 7860, "no server can listen at '192.0.2.1', port 7860"), ("no.such.host.invalid", 7860, "host: no server can listen"),
                                 ("", 7860, "host: a name or address"), ("x"*300, None, "host: no server can listen")):
            one_line(lambda: app.run_app(studio.model, host=host, port=port), says)
            if port is None or port < 1 or host != "127.0.0.1": continue
            with pytest.raises(SystemExit) as stopped: cli.main(["app", "--device", "cpu", "--host", host, "--port", str(port)])
            said = capsys.readouterr().err
            assert stopped.value.code == 2 and said.count("\n") == 1 and ("port" in said or "host" in said)
