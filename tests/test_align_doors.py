"""What alignment may be given: photographs as they are, points from anywhere, sizes. A right result or one sentence that names the argument."""
import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_official import peak

from litevae_diffae.settings import make_config
from litevae_diffae.diffae.faces import MTCNN
from litevae_diffae.diffae.align import (Alignment, align, align_photo, crop_face, five_points,
                                         paste_back)
from litevae_diffae.pixels import ImageError

FACE = np.array([[40., 50], [60, 50], [50, 60], [43, 70], [57, 70]])
PHOTO = np.random.default_rng(0).integers(0, 256, (120, 100, 3), dtype=np.uint8)
MB = 2**20


def one_line(call, *says):
    before = peak(reset=True)
    with pytest.raises((ValueError, OSError)) as e: call()
    assert "\n" not in str(e.value) and all(word in str(e.value) for word in says), e.value
    assert peak() - before < 100*MB


@pytest.fixture(scope="module")
def aligned(): return align_photo(PHOTO, FACE, 32)


# photographs

def saved(image, kind="PNG", **more):
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def as_people_have_them():
    "The same photograph in many forms."
    image, note = Image.fromarray(PHOTO), Image.Exif()
    note[0x0112] = 6
    return {"array": PHOTO, "image": image, "bytes": saved(image), "file": io.BytesIO(saved(image)), "turned file": saved(image.transpose(Image.Transpose.ROTATE_90), exif=note),
            "16 bits": PHOTO.astype(np.uint16)*257, "opaque": np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)]), "tensor": torch.tensor(PHOTO).movedim(-1, 0), "tiff": saved(image, "TIFF")}


@pytest.mark.parametrize("name", as_people_have_them())
def test_one_photograph_in_many_forms(name, aligned):
    found = align_photo(as_people_have_them()[name], FACE, 32)
    assert np.array_equal(found.crop, aligned.crop) and found.alignment == aligned.alignment
    assert np.array_equal(paste_back(as_people_have_them()[name], found.crop, found.alignment), paste_back(PHOTO, aligned.crop, aligned.alignment))


def test_paths(aligned, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path/"me.png")
    for path in (tmp_path/"me.png", str(tmp_path/"me.png")): assert np.array_equal(align_photo(path, FACE, 32).crop, aligned.crop)
    note = Image.Exif()
    note[0x0112] = 3
    Image.fromarray(PHOTO[::-1, ::-1]).save(tmp_path/"turned.png", exif=note)
    assert np.array_equal(align_photo(tmp_path/"turned.png", FACE, 32).crop, aligned.crop)
    ramp = np.arange(100*120, dtype=np.uint16).reshape(120, 100)*5
    Image.fromarray(ramp).save(tmp_path/"deep.png")
    crop = align_photo(tmp_path/"deep.png", FACE, 32).crop
    assert abs(crop.mean() - ramp[20:90, 20:90].mean()/257) < 15 and crop.max() < 250                            # 16 bits are not cut at 255


NONE = {"nothing": None, "a number": 3, "words": b"just words", "no file": "nothing.png", "a batch": np.zeros((2, 9, 9, 3), np.uint8), "two channels": np.zeros((9, 9, 2), np.uint8), "no rows": np.zeros((0, 9, 3), np.uint8),
        "no columns": np.zeros((9, 0), np.uint8), "floats": np.zeros((9, 9, 3)), "complex": np.zeros((9, 9, 3), complex), "texts": np.array([["a"]]), "a list": [[1, 2]], "a float image": Image.new("F", (9, 9)),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "a float tensor": torch.zeros(3, 9, 9)}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_photograph(name, aligned):
    for call in (lambda: align_photo(NONE[name], FACE), lambda: align(NONE[name], FACE), lambda: crop_face(NONE[name], aligned.alignment), lambda: paste_back(NONE[name], aligned.crop, aligned.alignment), lambda: MTCNN().detect(NONE[name])):
        one_line(call, "photo: ")


def test_a_truncated_photograph(tmp_path):
    (tmp_path/"me.jpg").write_bytes(saved(Image.fromarray(PHOTO), "JPEG")[:-900])
    with pytest.raises(ImageError, match="photo: "): align_photo(tmp_path/"me.jpg", FACE)
    with pytest.raises(ImageError, match="photo: "): align_photo(Image.open(tmp_path/"me.jpg"), FACE)


# points

POINTS = {"NaN": (FACE*np.nan, "finite numbers"), "infinity": (FACE*np.inf, "finite numbers"), "one NaN": (np.where(np.arange(10).reshape(5, 2) == 3, np.nan, FACE), "finite numbers"), "huge": (FACE*1e300, "at most 1,000,000"),
          "far away": (FACE + 1000, "quad: lies outside the photo"), "left of it": (FACE - 500, "quad: lies outside the photo"), "one point": (FACE[:1], "shape (1, 2)"), "three axes": (FACE[None], "shape (1, 5, 2)"),
          "all the same": (np.ones((5, 2)), "on one line"), "on one line": (np.stack([np.arange(5.)]*2, 1), "on one line"), "mirrored": (FACE[[1, 0, 2, 4, 3]], "mirrored"), "upside down": (FACE[[3, 4, 2, 0, 1]], "mirrored"),
          "smaller than a pixel": (50 + (FACE - 50)*1e-4, "quad: expected a side from 1 to 960 pixels"), "nearly nothing": (50 + (FACE - 50)*1e-200, "points: "), "larger than the world": ((FACE - 50)*5000, "quad: expected a side from 1 to 960"),
          "ragged": ([[1, 2], [3]], "points: expected finite numbers"), "words": ("eyes", "points: expected finite numbers"), "complex": (FACE + 1j, "points: "), "dlib with NaN": (np.full((68, 2), np.nan), "finite numbers")}


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.filterwarnings("ignore")
def test_points_that_are_none(name):
    points, says = POINTS[name]
    one_line(lambda: align_photo(PHOTO, points, 32), says)


def test_points_that_are_right():
    want = five_points(FACE)
    for same in (FACE.tolist(), FACE.astype(int), torch.tensor(FACE), torch.tensor(FACE, requires_grad=True), FACE.astype(np.float16)): assert np.array_equal(five_points(same), want)
    for moved in (FACE - 30, FACE + 30, (FACE - 50)*10 + 50):                                                     # partly outside, or around the whole photo
        crop, alignment = align_photo(PHOTO, moved, 16)
        assert crop.shape == (16, 16, 3) and paste_back(PHOTO, crop, alignment).shape == PHOTO.shape


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_photographs(shape):
    photo = np.full((*shape, 3), 90, np.uint8)
    points = (FACE - 50)/40*max(1, min(shape)) + np.array(shape[::-1])/2
    crop, alignment = align_photo(photo, points, 16)
    assert (crop == 90).all() and (paste_back(photo, crop, alignment) == 90).all()


# sizes and other arguments

@pytest.mark.parametrize("size", [0, -1, 5000, 10**9, 2.5, float("nan"), None, "32", True])
def test_sizes(size, aligned):
    one_line(lambda: align_photo(PHOTO, FACE, size), "size: ")
    one_line(lambda: crop_face(PHOTO, aligned.alignment, size), "size: ")


def test_small_sizes(): assert [align_photo(PHOTO, FACE, n).crop.shape for n in (1, 2, 7)] == [(n, n, 3) for n in (1, 2, 7)]


@pytest.mark.parametrize("change, says", [
    (dict(quad="square"), "quad: "), (dict(quad=((0, 0), (0, 9), (9, 9))), "quad: "), (dict(quad=((float("nan"),)*2,)*4), "quad: "), (dict(quad=((0, 0),)*4), "quad: "), (dict(quad=None), "quad: "),
    (dict(photo_size=(0, 10)), "photo_size: "), (dict(photo_size=(120,)), "photo_size: "), (dict(photo_size=(120, 1.5)), "photo_size: "), (dict(photo_size=None), "photo_size: "), (dict(photo_size=(10**9, 10)), "photo_size: ")])
def test_alignments_that_are_none(change, says, aligned): one_line(lambda: replace(aligned.alignment, **change), says)


def test_alignments_from_a_file(aligned):
    stored = json.loads(json.dumps(asdict(aligned.alignment)))
    back = make_config(Alignment, stored)
    assert np.array_equal(paste_back(PHOTO, aligned.crop, back), paste_back(PHOTO, aligned.crop, aligned.alignment))
    assert np.array_equal(paste_back(PHOTO, aligned.crop, Alignment(**stored)), paste_back(PHOTO, aligned.crop, aligned.alignment))
    one_line(lambda: make_config(Alignment, {**stored, "quad": [["a", 1]]*4}), "quad: ")
    one_line(lambda: paste_back(PHOTO, aligned.crop, stored), "alignment: an Alignment expected")
    one_line(lambda: paste_back(PHOTO[:50], aligned.crop, aligned.alignment), "photo: expected the 120 x 100 pixels that were aligned, got 50 x 100")


EDITED = {"not square": (np.zeros((9, 8, 3), np.uint8), "expected a square picture, got 9 x 8"), "a batch": (torch.zeros(1, 3, 9, 9), "edited: "), "out of range": (torch.full((3, 9, 9), 5.), "from -1 to 1, got 5 to 5"),
          "bytes as floats": (torch.full((3, 9, 9), 255.), "from -1 to 1"), "NaN": (torch.zeros(3, 9, 9)/0, "edited: "), "nothing": (None, "edited: "), "no pixels": (np.zeros((0, 0, 3), np.uint8), "edited: "), "words": (b"x", "edited: ")}


@pytest.mark.parametrize("name", EDITED)
def test_edited_faces_that_are_none(name, aligned):
    edited, says = EDITED[name]
    one_line(lambda: paste_back(PHOTO, edited, aligned.alignment), says)
    if edited is not None: one_line(lambda: paste_back(PHOTO, aligned.crop, aligned.alignment, reference=edited), says.replace("edited", "reference"))


@pytest.mark.parametrize("feather", [0, -1, 0.6, float("nan"), float("inf"), None, "0.1"])
def test_feather(feather, aligned): one_line(lambda: paste_back(PHOTO, aligned.crop, aligned.alignment, feather=feather), "feather: ")


def test_edited_faces_that_are_right(aligned):
    as_tensor = torch.tensor(aligned.crop).movedim(-1, 0)/127.5 - 1
    want = paste_back(PHOTO, aligned.crop, aligned.alignment)
    for same in (aligned.crop, as_tensor, as_tensor.requires_grad_(), Image.fromarray(aligned.crop), saved(Image.fromarray(aligned.crop))): assert np.array_equal(paste_back(PHOTO, same, aligned.alignment), want)
    assert np.array_equal(paste_back(PHOTO, aligned.crop, aligned.alignment, reference=aligned.crop), PHOTO)
    assert paste_back(PHOTO, np.zeros((1, 1, 3), np.uint8), aligned.alignment).shape == PHOTO.shape


# the detector

@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return MTCNN().eval()


@pytest.mark.parametrize("more, says", [(dict(min_face=5), "min_face: must be at least 12 pixels, got 5"), (dict(min_face=None), "min_face: "), (dict(min_face=float("nan")), "min_face: "), (dict(min_face="20"), "min_face: "),
                                        (dict(min_face=101), "photo: both sides must be at least min_face = 101 pixels"), (dict(thresholds=0.5), "thresholds: three numbers"), (dict(thresholds=(0.5, 0.5)), "thresholds: three numbers"),
                                        (dict(thresholds=(0.5, None, 0.5)), "thresholds: "), (dict(thresholds=(0.5, float("nan"), 0.5)), "thresholds: ")])
def test_detector(detector, more, says): one_line(lambda: detector.detect(PHOTO, **more), says)


def test_no_face_and_no_detector(detector, monkeypatch):
    none = lambda *args, **kw: type("Faces", (), dict(points=np.zeros((0, 5, 2))))
    monkeypatch.setattr(detector, "detect", none)
    one_line(lambda: align_photo(PHOTO, mtcnn=detector), "photo: no face of 20 pixels or more found in 120 x 100 pixels; give its five points")
    several = np.stack([FACE, FACE + 10])
    monkeypatch.setattr(detector, "detect", lambda *args, **kw: type("Faces", (), dict(points=several)))
    assert align_photo(PHOTO, mtcnn=detector, size=32).alignment == align(PHOTO, FACE)                             # the first is the largest
    one_line(lambda: align_photo(PHOTO, mtcnn="weights"), "mtcnn: an MTCNN expected")
