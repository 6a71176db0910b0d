"Metrics and pictures refuse what they can't measure or draw, in one sentence, and measure the rest as before."
import json
import math
import re
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from litevae_diffae.diffusion.model import check_range
from litevae_diffae.files import to_json, write_json
from litevae_diffae.litevae.losses import lpips_loss
from litevae_diffae.distances import (alexnet_fd, alexnet_features, alexnet_kid, frechet_distance,
                                      kernel_distance, rfid)
from litevae_diffae.metrics import bicubic8, blockmean8, evaluate_reconstruction, mse, psnr, ssim
from litevae_diffae.perceptual import lpips
from litevae_diffae.viz import as_image, image_grid, latents_to_rgb, save_png, show_images, show_reconstructions, show_signed, subband_plate, to_uint8

G = torch.Generator().manual_seed(0)
X = torch.rand(3, 3, 40, 48, generator=G)*2 - 1
Y = (X + 0.05*torch.randn(X.shape, generator=G)).clamp(-1, 1)
BYTES = ((X + 1)*127.5).round().to(torch.uint8)
NAN, INF = X.clone(), X.clone()
NAN[1, 0, 2, 3], INF[1, 0, 2, 3] = math.nan, math.inf


class Mean(torch.nn.Module):
    "A stand-in for Inception."
    def forward(self, x): return F.adaptive_avg_pool2d(x.float()/255, 2).flatten(1)


def one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text and len(text) < 400, text
    for word in words: assert word in text, text


SETS = {"fd": alexnet_fd, "kid": alexnet_kid, "features": lambda a, b: (alexnet_features(a), alexnet_features(b)),
        "rfid": lambda a, b: rfid(a, b, feature=Mean()),
        "evaluate": lambda a, b: (evaluate_reconstruction(lambda x: x, a, lpips=False), evaluate_reconstruction(lambda x: x, b, lpips=False)),
        "baselines": lambda a, b: (bicubic8(a), blockmean8(a), bicubic8(b), blockmean8(b))}
PAIRS = {"psnr": psnr, "mse": mse, "ssim": ssim, "lpips": lpips}
BAD = {"bytes": (BYTES, "uint8", "x / 127.5 - 1"), "0 to 255": (BYTES.float(), "values must lie in [-1, 1]", "x / 127.5 - 1"),
       "NaN": (NAN, "values must be finite, got nan"), "infinity": (INF, "values must be finite, got inf"), "integers": (BYTES.long(), "int64"),
       "array": (X.numpy(), "got ndarray"), "byte array": (BYTES.movedim(1, -1).numpy(), "got ndarray"), "one image": (X[0], "(3, 40, 48)"),
       "none": (X[:0], "at least one image"), "no pixels": (X[..., :0], "got shape"), "channels last": (X.movedim(1, -1), "channels come first"),
       "standardised": (X*2.6, "values must lie in [-1, 1]"), "half bytes": (BYTES.bfloat16(), "values must lie")}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", [*PAIRS, *SETS])
def test_what_cannot_be_measured_is_refused(name, bad):
    f, (value, *words) = {**PAIRS, **SETS}[name], BAD[bad]
    for args in ((value, value), (X, value)):
        if args[0] is X and name in PAIRS and getattr(value, "shape", None) != X.shape: words = ()   # another shape is said first
        with pytest.raises(ValueError) as e: f(*args)
        one_line(e, *words)


@pytest.mark.parametrize("f", PAIRS.values(), ids=PAIRS)
def test_pairs_that_do_not_fit(f):
    for x, y, words in ((X, X[:2], "two tensors of one shape"), (X, None, "got NoneType"), (X[None], X[None], "(B, C, H, W)")):
        with pytest.raises(ValueError) as e: f(x, y)
        one_line(e, words)


@pytest.mark.parametrize("f", PAIRS.values(), ids=PAIRS)
def test_what_was_right_is_still_right(f):
    over = Y*1.3                                                             # an unclamped reconstruction
    assert f(X, over).isfinite().all() and f(X, Y).shape == (3,)
    assert torch.equal(f(X, Y), f(X.double(), Y)) or (f(X, Y) - f(X.double(), Y)).abs().max() < 1e-5   # two kinds of floats
    with torch.inference_mode(): assert f(X, Y).isfinite().all()


def test_the_byte_case_has_its_right_value():
    x, y = ((t + 1)*127.5 for t in (X, Y))
    x, y = x.round().to(torch.uint8), y.round().to(torch.uint8)
    right = psnr(x/127.5 - 1, y/127.5 - 1)
    by_hand = -10*(((x.double() - y.double())/255)**2).mean((1, 2, 3)).log10()
    assert (right.double() - by_hand).abs().max() < 1e-4


@pytest.mark.parametrize("f", [mse, psnr, ssim], ids=lambda f: f.__name__)
def test_compiled_and_mapped_metrics_give_the_same(f):
    compiled = torch.compile(f, backend="eager", fullgraph=f is not ssim)     # the window of ssim is a list of numbers
    assert (compiled(X, Y) - f(X, Y)).abs().max() < 1e-5
    mapped = torch.func.vmap(lambda a, b: f(a[None], b[None])[0])(X, Y)
    assert (mapped - f(X, Y)).abs().max() < 1e-4


def test_a_loss_sees_its_images_unchecked_and_has_gradients():
    y = (Y*9).requires_grad_(True)                                           # the start of a training may lie anywhere
    lpips_loss(y, X).backward()
    assert y.grad.isfinite().all() and y.grad.abs().sum() > 0
    with pytest.raises(ValueError): lpips_loss(y, X[:, :, :20])


@pytest.mark.parametrize("f, words", [(lambda: lpips(X[..., :30], Y[..., :30]), "31 x 31"), (lambda: ssim(X[..., :10], Y[..., :10], padding="valid"), "11 x 11"),
                                      (lambda: alexnet_features(X[..., :30]), "31 x 31"), (lambda: bicubic8(X[..., :7]), "8 x 8")])
def test_too_small(f, words):
    with pytest.raises(ValueError) as e: f()
    one_line(e, words)


@pytest.mark.parametrize("f", [alexnet_fd, alexnet_kid, SETS["rfid"]], ids=["fd", "kid", "rfid"])
def test_one_image_is_no_set(f):
    for a, b in ((X[:1], Y), (X, Y[:1])):
        with pytest.raises(ValueError) as e: f(a, b)
        one_line(e, "at least 2 images")


def test_collections_of_sets():
    whole = alexnet_features(X)
    assert torch.allclose(alexnet_features(x for x in X), whole, atol=1e-5)   # any iterable
    for bad, words in (([X[0], X[1, :, :35]], "must have one size"), ([X[0], BYTES[1]], "images[1]: must be a float tensor"), ([X], "one image (C, H, W)"), ({"a": X[0]}, "got dict"), (3, "got int")):
        with pytest.raises(ValueError) as e: alexnet_features(bad)
        one_line(e, words)
    with pytest.raises(ValueError) as e: alexnet_fd(X, [*Y[:2], BYTES[2]])
    one_line(e, "other[2]: must be a float tensor")
    for kw in (dict(batch_size=0), dict(batch_size=1.5), dict(size=64.)):
        with pytest.raises(ValueError) as e: alexnet_features(X, **kw)
        one_line(e, "must be a whole number")


@pytest.mark.parametrize("a, b, words", [(torch.randn(1, 4), torch.randn(9, 4), "at least 2"), (torch.full((9, 4), math.nan), torch.randn(9, 4), "finite"), (torch.randn(9, 4), torch.randn(9, 5), "(N, D) and (M, D)"),
                                         (np.zeros((9, 4)), torch.randn(9, 4), "got ndarray"), (torch.randn(9, 0), torch.randn(9, 0), "(N, D)"), (torch.randn(9, 4, 1), torch.randn(9, 4, 1), "(N, D)")])
def test_features_that_have_no_distance(a, b, words):
    for f in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError) as e: f(a, b)
        one_line(e, words)


@pytest.mark.parametrize("kw", [dict(n_subsets=0), dict(n_subsets=2.5), dict(subset_size=1), dict(subset_size=0)])
def test_subsets_that_have_no_distance(kw):
    with pytest.raises(ValueError) as e: kernel_distance(torch.randn(9, 4), torch.randn(9, 4), **kw)
    one_line(e, next(iter(kw)) + ": must be a whole number")


@pytest.mark.parametrize("f, words", [
    (lambda x: x[0], "got shape"), (lambda x: x[..., :-1], "got shape"), (lambda x: [x], "got list"), (lambda x: None, "got NoneType"), (lambda x: x.numpy(), "got ndarray"),
    (lambda x: ((x + 1)*127.5).byte(), "uint8"), (lambda x: (x + 1)*127.5, "values must lie in [-1, 1], at most 16"), (lambda x: x*math.nan, "finite, got nan"), (lambda x: x/0, "finite")])
def test_reconstructions_that_are_none(f, words):
    with pytest.raises(ValueError) as e: evaluate_reconstruction(f, X, lpips=False)
    one_line(e, "reconstruct(images[0])", words)


def test_a_function_that_works_in_place_is_not_compared_with_itself():
    found = evaluate_reconstruction(lambda x: x.mul_(.5), X, lpips=False, baselines=False)
    assert found["psnr"] == pytest.approx(psnr(X, X*.5).mean().item(), abs=1e-4) and "exact" not in found


def test_images_of_mixed_sizes_are_streamed():
    "No more than two images are alive at a time, and the numbers are those of each by itself."
    alive, most = weakref.WeakSet(), 0
    def images():
        nonlocal most
        for i in range(12):
            x = torch.rand(3, 40 + 8*(i % 3), 48, generator=torch.Generator().manual_seed(i))*2 - 1
            alive.add(x)
            most = max(most, len(alive))
            yield x
            del x
    found = evaluate_reconstruction(lambda x: x*.9, images(), lpips=False)
    assert found["n"] == 12 and most <= 2 and found["sizes"][:3] == [[40, 48], [48, 48], [56, 48]]
    by_hand = [psnr(x[None], x[None]*.9).item() for x in images()]
    assert found["per_image"]["psnr"] == pytest.approx(by_hand, abs=1e-4) and found["psnr"] == pytest.approx(sum(by_hand)/12, abs=1e-4)


def test_an_infinite_psnr_is_stated_and_written_as_valid_json(tmp_path):
    some = evaluate_reconstruction(lambda x: x if x[0, 0, 0, 0] == X[1, 0, 0, 0] else x*.5, X, lpips=False, baselines=False)
    assert some["exact"] == 1 and some["per_image"]["psnr"][1] == math.inf and "not come back exactly" in some["protocol"]["psnr"]
    assert some["psnr"] == pytest.approx((some["per_image"]["psnr"][0] + some["per_image"]["psnr"][2])/2) and math.isfinite(some["psnr"])
    whole = evaluate_reconstruction(lambda x: x, X, lpips=False, baselines=False)
    assert whole["psnr"] == math.inf and whole["exact"] == 3
    write_json(tmp_path/"metrics.json", whole)
    back = json.loads((tmp_path/"metrics.json").read_text(), parse_constant=pytest.fail)
    assert back["psnr"] is None and back["not_finite"]["psnr"] == "inf" and back["ssim"] == pytest.approx(1)
    plain = evaluate_reconstruction(lambda x: x*.5, X, lpips=False)
    assert "exact" not in plain and "exactly" not in to_json(plain)           # a common result looks as it always did


def test_range_of_a_model_input():
    check_range(X)
    for bad in (NAN, INF, BYTES.float()):
        with pytest.raises(ValueError): check_range(bad)


DRAWN = {"bytes": BYTES, "0 to 255": BYTES.float(), "NaN": NAN, "infinity": INF, "integers": BYTES.long()}


@pytest.mark.parametrize("bad", DRAWN)
@pytest.mark.parametrize("f", [to_uint8, image_grid, lambda x: show_images(x.float() if x.dtype == torch.uint8 else x), lambda x: show_reconstructions(X, x.float())], ids=["to_uint8", "image_grid", "show_images", "show_reconstructions"])
def test_what_is_no_image_is_not_drawn(f, bad):
    with pytest.raises(ValueError) as e: f(DRAWN[bad])
    one_line(e)


def test_bytes_are_drawn_as_they_are():
    right = BYTES[0].movedim(0, -1).numpy()
    for given in (BYTES[0], BYTES[0].movedim(0, -1), right, X[0], X[0].movedim(0, -1).numpy()):
        assert np.abs(as_image(given).astype(int) - right).max() <= (0 if getattr(given, "dtype", None) in (torch.uint8, np.uint8) else 1)
    for given, n in ((right, 1), (BYTES[0], 1), (X[0], 1), (BYTES.movedim(1, -1).numpy(), 3), ([X[0], right], 2), (BYTES, 3)):
        assert sum(len(ax.images) for ax in show_images(given).axes) == n     # one byte image is one image
    assert to_uint8(X*9).min() == 0                                           # noise is clamped, as it was


@pytest.mark.parametrize("f, words", [
    (lambda: image_grid(X[:0]), "at least one image"), (lambda: image_grid(X[0]), "(B, C, H, W)"), (lambda: image_grid(X, n_cols=0), "n_cols"), (lambda: show_images([]), "at least one image"), (lambda: show_images(3), "as_image"),
    (lambda: show_images(X, n_rows=0), "n_rows"), (lambda: show_images(X[None]), "as_image"), (lambda: show_signed(NAN), "finite"), (lambda: show_signed([]), "maps (H, W)"), (lambda: latents_to_rgb(NAN), "finite"),
    (lambda: subband_plate([NAN[1], (X[0], X[0], X[0])]), "finite"), (lambda: subband_plate([X[0], (X[0], NAN[1], X[0])]), "finite"), (lambda: show_reconstructions(X, X[:2]), "the same images"), (lambda: show_reconstructions(X[:0], X[:0]), "at least one"),
    (lambda: as_image(np.zeros((4, 4), np.uint16)), "uint16"), (lambda: as_image("x"), "got str")])
def test_pictures_of_nothing(f, words):
    with pytest.raises(ValueError) as e: f()
    one_line(e, words)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 3), np.int64), torch.zeros(4, 4, 3), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.uint8), None])
def test_files_of_nothing(array, tmp_path):
    with pytest.raises(ValueError) as e: save_png(tmp_path/"new"/"a.png", array)
    one_line(e, "save_png: a uint8 array (H, W, 3) expected")
    assert not list(tmp_path.iterdir())


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    import matplotlib.pyplot as plt
    plt.close("all")


def test_messages_name_the_way_out():
    with pytest.raises(ValueError, match=re.escape("bytes 0 to 255 become images by x / 127.5 - 1")): psnr(BYTES, BYTES)
    with pytest.raises(ValueError, match="to_tensor makes it from a byte array"): evaluate_reconstruction(lambda x: x, BYTES.numpy())
