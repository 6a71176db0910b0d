"FID: statistics that stream, torch-fidelity's own numbers, kept files, the papers' protocols, and the command."
import json
import os
import sys
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compare_fid import make_folders, theirs
from PIL import Image
from torch import nn

from litevae_diffae import fid as module
from litevae_diffae.cli import Fid
from litevae_diffae.commands import fid as command
from litevae_diffae.data import open_source
from litevae_diffae.distances import alexnet_features, frechet_distance, rfid
from litevae_diffae.fid import (PROTOCOLS, FeatureNetwork, FeatureStats, cached_stats, data_facts, feature_network, image_stats, read_stats, source_images,
                                stats_distance)
from litevae_diffae.files import FileError, write_tensors
from test_memory import growth


class Convnet(nn.Module):
    "A small random network, the same every time."
    def __init__(self, seed=0, width=16):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.a, self.b = (nn.Parameter(torch.randn(s, generator=g) / (s[1] * 9)**.5) for s in ((16, 3, 3, 3), (width, 16, 3, 3)))

    def forward(self, x):
        x = F.conv2d(x.float() / 127.5 - 1, self.a, stride=2).relu()
        return F.conv2d(x, self.b, stride=2).mean((2, 3))


def network(seed=0, width=16): return FeatureNetwork(Convnet(seed, width), f"convnet {seed}", "Convnet-FD")


# statistics

def test_statistics_are_those_of_all_features_at_once():
    "NumPy's mean and unbiased covariance, for one batch, any split, and any tree of merges."
    rng = np.random.default_rng(0)
    f = rng.standard_normal((517, 24)) @ rng.standard_normal((24, 24)) + rng.standard_normal(24) * 50
    mean, cov = f.mean(0), np.cov(f, rowvar=False)
    for trial in range(20):
        cuts = [0, *sorted(rng.choice(np.arange(1, 517), trial % 7, replace=False)), 517]
        parts = [FeatureStats() for _ in cuts[1:]]
        for s, start, end in zip(parts, cuts, cuts[1:]):
            for batch in torch.from_numpy(f[start:end]).split(int(rng.integers(1, 90))): s.update(batch)
        while len(parts) > 1:
            a, b = (parts.pop(rng.integers(len(parts))) for _ in range(2))
            before = b.mean.clone(), b.scatter.clone()
            parts.append(a.merge(b))
            assert torch.equal(b.mean, before[0]) and torch.equal(b.scatter, before[1])
        [s] = parts
        assert s.n == 517
        np.testing.assert_allclose(s.mean, mean, rtol=0, atol=1e-10)
        np.testing.assert_allclose(s.cov, cov, rtol=0, atol=1e-10)


def test_digits_are_not_lost_to_a_large_mean():
    "Features near 1e6 with a spread of 1: sums of squares in float64 keep 4 digits, float32 none."
    f = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0)).double() + 1e6
    s = FeatureStats()
    for batch in f.split(50): s.update(batch)
    np.testing.assert_allclose(s.cov, np.cov(f.numpy(), rowvar=False), rtol=1e-9, atol=1e-10)


def of_known_spread(n, mean, variances, seed):
    "Features whose mean and covariance are exactly these."
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x, rowvar=False)), x.T).T
    return FeatureStats().update(torch.from_numpy(x * np.sqrt(variances) + mean))


def test_closed_form_of_two_gaussians():
    "For diagonal covariances the distance is that of the means and of the standard deviations."
    mean_a, mean_b, var_a, var_b = np.array([0, 1., 2]), np.array([3, 1., -2]), np.array([1, 4., .25]), np.array([9, 4., 1])
    expected = 9 + 0 + 16 + (3 - 1)**2 + 0 + (1 - .5)**2
    a, b = of_known_spread(40, mean_a, var_a, 0), of_known_spread(90, mean_b, var_b, 1)
    assert abs(stats_distance(a, b) - expected) < 1e-9 and abs(stats_distance(b, a) - expected) < 1e-9
    assert stats_distance(a, a) < 1e-9


def test_one_formula_for_features_and_statistics(monkeypatch):
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(30, 6, generator=g), torch.randn(50, 6, generator=g) + .5
    sa, sb = FeatureStats().update(a), FeatureStats().update(b)
    assert abs(stats_distance(sa, sb) - frechet_distance(a, b)) < 1e-9
    monkeypatch.setattr("litevae_diffae.distances.gaussian_distance", lambda *_: 7.)
    assert frechet_distance(a, b) == 7.


def test_statistics_refuse_what_they_cannot_use():
    s = FeatureStats().update(torch.zeros(2, 3))
    for bad, says in ((torch.zeros(3), r"\(B, 3\), got \(3,\)"), (torch.zeros(2, 4), r"\(B, 3\), got \(2, 4\)"), (torch.zeros(0, 3), "got"),
                      (torch.full((2, 3), torch.inf), "must be finite"), ([1., 2., 3.], "got list")):
        with pytest.raises(ValueError, match=f"f: .*{says}"): s.update(bad)
    assert s.n == 2
    with pytest.raises(ValueError, match="merge: 3 features expected, got 4"): s.merge(FeatureStats().update(torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="cov: at least 2 images expected, got 1"): FeatureStats().update(torch.zeros(1, 3)).cov
    with pytest.raises(ValueError, match="got 3 and 4"): stats_distance(s, FeatureStats().update(torch.zeros(2, 4)))
    for bad in ({}, {"n": torch.tensor(2.), "mean": s.mean, "scatter": s.scatter}, {**s.tensors(), "more": s.mean}, {**s.tensors(), "n": torch.tensor(0)},
                {**s.tensors(), "scatter": s.scatter[:2]}):
        with pytest.raises(ValueError, match="statistics: n, mean and scatter expected"): FeatureStats.from_tensors(bad)


# torch-fidelity

@pytest.fixture(scope="module")
def folders(tmp_path_factory): return make_folders(tmp_path_factory.mktemp("fid"), 300)


@pytest.fixture(scope="module")
def alexnet(): return feature_network("alexnet", "cpu")


def test_as_torch_fidelity_with_alexnet(folders, alexnet, tmp_path):
    "The command's number of two folders, and what torch-fidelity makes of the same network."
    expected = theirs(*folders, alexnet)
    Fid(*map(str, folders), features="alexnet", out=str(tmp_path/"fid.json"))()
    found = json.loads((tmp_path/"fid.json").read_text())
    assert expected > 10 and abs(found["value"] - expected) < 1e-4 * expected
    assert found["metric"] == "AlexNet-FD" and found["n_a"] == found["n_b"] == 300 and found["versions"]["torch-fidelity"]


@pytest.mark.parametrize("seed", (0, 1))
def test_as_torch_fidelity_with_a_random_network(folders, seed):
    net = network(seed)
    expected = theirs(*folders, net)
    stats = [image_stats(source_images(open_source(f)), net, batch_size=64) for f in folders]
    assert abs(stats_distance(*stats) - expected) < 1e-4 * expected


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    "Random weights in the layout of the published ones."
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    class Blank(inception.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__): return None
    path = tmp_path_factory.mktemp("weights")/"inception.pth"
    torch.save({}, path)
    torch.manual_seed(0)
    torch.save(Blank("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)).state_dict(), path)
    return path


def test_inception_is_torch_fidelitys(inception_file):
    "2,048 features of bytes at their own size, as TorchMetrics' FID gets them; random weights are said not to be the published."
    from torchmetrics.image.fid import NoTrainInceptionV3
    x = torch.randint(256, (3, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    net = feature_network("inception", "cpu", inception_file)
    want = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(inception_file))(x)
    assert want.shape == (3, 2048) and want.std() > 0
    torch.testing.assert_close(net(x), want, rtol=1e-5, atol=1e-6)
    assert net.metric == "Inception-FD" and net.facts()["weights"] != feature_network("alexnet", "cpu").facts()["weights"]


def test_inception_of_published_weights_is_called_fid(inception_file, monkeypatch):
    digest = module.hashlib.sha256(inception_file.read_bytes()).hexdigest()
    monkeypatch.setattr(module, "INCEPTION_FILE", f"weights-inception-2015-12-05-{digest[:8]}.pth")
    assert feature_network("inception", "cpu", inception_file).metric == "FID"


def test_rfid_is_the_distance_of_streamed_statistics():
    "TorchMetrics' FID of the same bytes."
    g = torch.Generator().manual_seed(0)
    a = torch.rand(60, 3, 24, 24, generator=g) * 2 - 1
    b, net = (a * .7 + .1).clamp(-1, 1), network()
    expected = rfid(a, b, feature=net).value
    assert abs(stats_distance(image_stats(a, net, batch_size=7), image_stats(iter(b), net)) - expected) < 1e-4 * expected


def test_alexnet_features_are_those_of_the_lpips_network(alexnet):
    "Bytes back to [-1, 1], 128 pixels, last convolution: as `alexnet_features`."
    x = torch.randint(256, (4, 3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(alexnet(x), alexnet_features(x / 127.5 - 1, 128), rtol=1e-4, atol=1e-5)


# what is wrong is one sentence

def test_network_says_what_is_missing(monkeypatch, tmp_path, inception_file):
    with pytest.raises(ValueError, match="features: must be inception or alexnet, got 'vgg'"): feature_network("vgg")
    with pytest.raises(ValueError, match="weights_path: only for inception"): feature_network("alexnet", weights_path="x.pth")
    with pytest.raises(FileError, match="no.pth: no such file; fetch weights-inception-2015-12-05.*weights_path, or take alexnet"):
        feature_network("inception", "cpu", tmp_path/"no.pth")
    (tmp_path/"junk.pth").write_bytes(b"junk" * 100)
    torch.save({"conv": torch.zeros(2)}, tmp_path/"other.pth")
    for name in ("junk", "other"):
        with pytest.raises(FileError, match=f"{name}.pth: does not hold the weights of Inception"): feature_network("inception", "cpu", tmp_path/f"{name}.pth")
    inception = sys.modules["torch_fidelity.feature_extractor_inceptionv3"]
    def offline(*_, **__): raise OSError("no route")
    monkeypatch.setattr(inception, "load_state_dict_from_url", offline)
    with pytest.raises(FileError, match="could not be downloaded .no route.; fetch .* or take alexnet, which needs no download"): feature_network("inception", "cpu")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ImportError, match=r"torch_fidelity.* is missing; it comes with the extra \[fid\]: pip install torch-fidelity"): feature_network("inception", "cpu")


def test_weights_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self): return (os.mkdir, (str(tmp_path/"ran"),))
    torch.save({"x": Evil()}, tmp_path/"evil.pth")
    with pytest.raises(FileError, match="does not hold the weights"): feature_network("inception", "cpu", tmp_path/"evil.pth")
    assert not (tmp_path/"ran").exists()


@pytest.mark.parametrize("x, says", [(torch.zeros(1, 3, 4, 4), "got torch.float32"), (torch.zeros(3, 4, 4, dtype=torch.uint8), r"\(3, 4, 4\)"),
                                     (torch.zeros(1, 4, 4, 4, dtype=torch.uint8), r"\(1, 4, 4, 4\)"), (np.zeros(3), "got ndarray")])
def test_networks_take_bytes(x, says):
    with pytest.raises(ValueError, match=f"must get bytes .B, 3, H, W., .*{says}"): network()(x)


def test_too_few_images_are_an_error(tmp_path):
    x = torch.zeros(5, 3, 16, 16)
    with pytest.raises(ValueError, match="images: 6 images expected, got 5"): image_stats(x, network(), n=6)
    with pytest.raises(ValueError, match="n: must be a whole number"): image_stats(x, network(), n=-1)
    with pytest.raises(ValueError, match="batch_size: must be"): image_stats(x, network(), batch_size=0)
    with pytest.raises(ValueError, match="at least one image"): image_stats(iter(()), network())


def test_an_unreadable_image_ends_the_run(tmp_path):
    (tmp_path/"d").mkdir()
    for k in range(3): Image.fromarray(np.full((20, 20, 3), 80 * k, np.uint8)).save(tmp_path/f"d/{k}.png")
    source = open_source(tmp_path/"d")
    (tmp_path/"d/1.png").write_bytes((tmp_path/"d/1.png").read_bytes()[:50])
    with pytest.raises(ValueError, match="1.png"): list(source_images(source, 16))


# memory

def test_no_more_than_a_batch_is_alive():
    "Images and features of earlier batches are gone while the next ones come."
    alive, most = weakref.WeakSet(), 0
    def images():
        nonlocal most
        for k in range(300):
            x = torch.full((3, 16, 16), k / 300)
            alive.add(x)
            most = max(most, len(alive))
            yield x
    assert image_stats(images(), network(), batch_size=10).n == 300
    assert most <= 30


def test_memory_is_flat_in_the_number_of_images(tmp_path):
    "150 more images of 128 pixels are 29 MB of floats, twice with their reconstructions."
    for name, n in (("few", 20), ("many", 170)):
        (tmp_path/name).mkdir()
        for k in range(n): Image.fromarray(np.random.default_rng(k).integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(tmp_path/name/f"{k}.png")
    def call(data, out): return ["fid", data, "reconstructions:photos-tiny", "--size", "128", "--features", "alexnet", "--batch-size", "10", "--out", out]
    assert growth(call("few", "a.json"), call("few", "a.json"), call("many", "b.json"), cwd=tmp_path) < 12


# kept statistics

@pytest.fixture
def data(tmp_path):
    (tmp_path/"d").mkdir()
    for k in range(12): Image.fromarray(np.random.default_rng(k).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path/f"d/{k:02d}.bmp")
    return tmp_path/"d"


def test_a_kept_file_knows_images_network_and_crop(data, tmp_path):
    "Another byte in an image of the same size, another name, another crop, number or network: refused by name."
    path = tmp_path/"s.safetensors"
    def facts(size=16, n=None): return data_facts(open_source(data), size, n)
    def make(f, net=network(), n=None): return cached_stats(path, lambda: source_images(open_source(data), 16), net, f, n=n)
    made = make(facts())
    assert torch.equal(cached_stats(path, lambda: 1 / 0, network(), facts()).scatter, made.scatter)
    for other, says in ((lambda: make(facts(size=12)), "size=16 .now 12"), (lambda: make(facts(n=11)), "n_images=12 .now 11"), (lambda: make(facts(), n=11), "n=None .now 11"),
                        (lambda: make(facts(), network(1)), "network: .*weights=")):
        with pytest.raises(FileError, match=f"s.safetensors: was made of something else: .*{says}.*; delete it"): other()
    raw = bytearray((data/"03.bmp").read_bytes())
    raw[100] ^= 1
    (data/"03.bmp").write_bytes(raw)
    with pytest.raises(FileError, match="was made of something else: data: images="): make(facts())
    raw[100] ^= 1
    (data/"03.bmp").write_bytes(raw)
    assert torch.equal(make(facts()).mean, made.mean)
    (data/"03.bmp").rename(data/"3.bmp")
    with pytest.raises(FileError, match="images="): make(facts())


def test_kept_files_are_looked_at(data, tmp_path):
    path, net = tmp_path/"s.safetensors", network()
    made = cached_stats(path, lambda: source_images(open_source(data), 16), net, data_facts(open_source(data), 16))
    found, facts = read_stats(path, net.facts())
    assert found.n == made.n == 12 and facts["data"]["size"] == 16 and torch.equal(found.cov, made.cov)
    with pytest.raises(FileError, match="network: features='convnet 0'"): read_stats(path, network(1).facts())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FileError, match="cut short"): read_stats(path)
    write_tensors(path, made.tensors())
    with pytest.raises(FileError, match="holds no statistics"): read_stats(path)
    write_tensors(path, {"z": torch.zeros(2)}, {"facts": json.dumps(facts)})
    with pytest.raises(FileError, match="holds no statistics .*n, mean and scatter"): read_stats(path)


# the command

@pytest.fixture
def at(tmp_path, monkeypatch, capsys):
    "Run `fid` in an empty folder; gives (exit code, stdout, stderr)."
    from litevae_diffae.cli import main
    monkeypatch.chdir(tmp_path)

    def call(*args):
        try: main(["fid", *map(str, args)])
        except SystemExit as e: code = e.code
        else: code = 0
        said = capsys.readouterr()
        return code, said.out, said.err
    return call


def result(): return json.loads(open("fid.json").read())


def noisy(folder, n, seed, shape=(40, 40, 3)):
    os.mkdir(folder)
    rng = np.random.default_rng(seed)
    for k in range(n): Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(f"{folder}/{k}.png")


def test_two_folders(at, alexnet):
    noisy("a", 9, 0)
    noisy("b", 7, 1)
    code, out, _ = at("a", "b", "--features", "alexnet")
    assert code == 0
    want = stats_distance(*(image_stats(source_images(open_source(f)), alexnet) for f in "ab"))
    found = result()
    assert abs(found["value"] - want) < 1e-9 * want and (found["n_a"], found["n_b"]) == (9, 7)
    assert found["std"] is None and found["protocol"] is None and found["width"] == 256
    note, last = out.strip().splitlines()[-2:]
    assert note.startswith("note: 7 images for 256 features") and "not comparable" in note and [note.removeprefix("note: ")] == found["notes"]
    assert last.startswith("AlexNet-FD ") and "B 7 against A 9 images" in last and last.endswith("no protocol: fid.json")
    code, _, _ = at("a", "b", "--features", "alexnet", "--n", 5, "--size", 32)
    assert code == 0 and (result()["n_a"], result()["n_b"], result()["settings"]["size"]) == (5, 5, 32)


def test_enough_images_get_no_note(at, monkeypatch):
    monkeypatch.setattr(command, "feature_network", lambda *_: network(width=4))
    noisy("a", 6, 0)
    assert at("a", "a", "--features", "alexnet")[0] == 0 and result()["notes"] == [] and result()["value"] < 1e-9


def test_reconstructions_are_those_of_the_other_side(at, alexnet):
    from litevae_diffae import LiteVAE
    noisy("a", 5, 0, (50, 60, 3))
    code, out, err = at("a", "reconstructions:photos-tiny", "--size", 32, "--features", "alexnet")
    assert code == 0, err
    x = torch.stack(list(source_images(open_source("a"), 32)))
    with torch.no_grad(): y = LiteVAE.from_pretrained("photos-tiny")(x).sample
    assert abs(result()["value"] - stats_distance(image_stats(x, alexnet), image_stats(y.clamp(-1, 1), alexnet))) < 1e-3
    assert result()["settings"]["split"] == "test" and result()["metric"] == "AlexNet-FD" # rFID is Inception's


def test_seeds_are_drawings(at):
    "Mean and standard deviation over drawings, each of its seed; the real side stays."
    from litevae_diffae import DiffAE
    noisy("a", 6, 0, (64, 64, 3))
    values = []
    for seeds in (1, 2):
        assert at("a", "samples:avatars", "--features", "alexnet", "--n-steps", 2, "--seeds", seeds, "--n", 6)[0] == 0
        values.append(result())
    one, two = values
    assert two["values"][0] == one["value"] != two["values"][1] and one["std"] is None
    assert np.isclose(two["value"], np.mean(two["values"])) and np.isclose(two["std"], np.std(two["values"], ddof=1))
    x = DiffAE.from_pretrained("avatars").sample(6, 2, generator=torch.Generator().manual_seed(1))
    a = image_stats(source_images(open_source("a"), 64), feature_network("alexnet", "cpu"))
    assert abs(stats_distance(a, image_stats(x.clamp(-1, 1), feature_network("alexnet", "cpu"))) - two["values"][1]) < 1e-2
    assert at("a", "samples:avatars", "--features", "alexnet", "--n-steps", 2, "--n", 3, "--size", 32)[2].count("avatars has 64, --size has 32") == 1


def test_the_cache_is_used_and_never_for_other_data(at, monkeypatch):
    noisy("a", 5, 0)
    noisy("b", 5, 1)
    args = ("a", "reconstructions:photos-tiny", "--size", 32, "--features", "alexnet", "--cache", "kept")
    assert at(*args)[0] == 0
    first, files = result()["value"], sorted(os.listdir("kept"))
    assert len(files) == 2
    def broken(*_, **__): raise AssertionError("measured again")
    with monkeypatch.context() as m:
        m.setattr(module, "image_stats", broken)
        assert at(*args)[0] == 0 and result()["value"] == first and sorted(os.listdir("kept")) == files
    os.rename("a/3.png", "a/9.png") # same images, other names and order
    os.replace("b/0.png", "a/3.png")
    assert at(*args, "--n", 5)[0] == 0 and result()["value"] != first
    real, other = (f"kept/{f}" for f in files) if files[0].startswith("data") else (f"kept/{f}" for f in files[::-1])
    monkeypatch.setattr(command, "feature_network", broken) # two kept files need no network
    assert at(real, other)[0] == 0 and result()["value"] == pytest.approx(first, rel=1e-9)
    assert result()["metric"] == "AlexNet-FD"


def test_a_class_of_the_data(at):
    from litevae_diffae.data import load_avatars
    faces = load_avatars("test")
    n = int(faces.attributes[:, faces.names.index("Hat")].sum())
    assert at("avatars", "avatars", "--split", "test", "--only", "Hat", "--features", "alexnet", "--size", 32)[0] == 0
    assert (result()["n_a"], result()["n_b"]) == (n, len(faces)) and result()["value"] > 0


WRONG = [
    (("a", "b", "--protocol", "rfid", "--size", 32, "--features", "alexnet"), "n: protocol rfid asks for 50,000 images, A has 4; give --n, which is written down as a departure"),
    (("a", "b", "--n", 9, "--features", "alexnet"), "n: --n asks for 9 images, A has 4"),
    (("a", "b", "--protocol", "rfid"), "size: protocol rfid cuts crops at the model's size; give it as --size"),
    (("a", "samples:avatars", "--protocol", "rfid"), "protocol: in rfid B is reconstructions, or a folder of them, not samples"),
    (("samples:avatars", "a", "--protocol", "diffae-table4"), "protocol: in diffae-table4 A is the first 50,000 training images, not samples"),
    (("reconstructions:avatars", "reconstructions:avatars"), "reconstructions: need the images of the other side as data"),
    (("a", "samples:photos-tiny"), "holds a LiteVAE; this command takes DiffAE, DDIM"),
    (("a", "b", "--seeds", 3), "seeds: only for samples:MODEL"),
    (("a", "b", "--n-steps", 5), "n_steps: only for diffusion models"),
    (("a", "b", "--random-x-T"), "random_x_T: only for reconstructions of a DiffAE"),
    (("a", "reconstructions:photos-tiny", "--random-x-T"), "random_x_T: only for reconstructions of a DiffAE"),
    (("a", "mixed", "--features", "alexnet"), "pixels; give the size of centre crops"),
    (("a", "b", "--only", "Male", "--features", "alexnet"), "only: must be one of the attributes (none; give --attributes), got 'Male'"),
    (("avatars", "a", "--only", "Hat=2", "--features", "alexnet", "--size", 32), "only: must be NAME, NAME=1 or NAME=0"),
    (("avatars", "a", "--crop", "d2c", "--features", "alexnet", "--size", 32), "crop: d2c is for folders, LMDB and hf:, not avatars"),
    (("a", "b", "--crop", "d2c", "--features", "alexnet", "--size", 32), "leaves the image of 40 x 40 pixels"),
    (("samples:avatars", "samples:avatars"), "n: how many samples? give --n"),
    (("a", "no.safetensors"), "no.safetensors: no such file"),
    (("a", "b", "--protocol", "diffae-table3-naive", "--n", 3, "--size", 32), "n: protocol diffae-table3-naive takes all images of both sides"),
    (("a", "samples:avatars", "--protocol", "diffae-table3", "--n", 2, "--n-steps", 2, "--crop", "centre", "--features", "alexnet"),
     "only: protocol diffae-table3 draws a class; give --only NAME"),
    (("a", "b", "--weights-path", "w.pth"), "w.pth: no such file; fetch weights-inception"),
    (("a", "b", "--protocol", "fid50k"), "fid50k"),
    (("a", "b", "--features", "alexnet", "--out", "notes.json"), "notes.json: is there already and is no result of this command"),
    (("nothing", "b", "--features", "alexnet"), "'nothing' is no folder"),
]


@pytest.mark.parametrize("args, says", WRONG, ids=lambda a: a if isinstance(a, str) else " ".join(map(str, a)))
def test_one_line_and_exit_code_2(at, args, says):
    noisy("a", 4, 0)
    noisy("b", 4, 1)
    noisy("mixed", 1, 1, (40, 50, 3))
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save("mixed/z.png")
    open("notes.json", "w").write("{}")
    code, _, err = at(*args)
    assert code == 2 and len(err.strip().splitlines()) == 1 and says in err, err
    assert open("notes.json").read() == "{}" and not os.path.exists("fid.json")


# protocols

FACTS = {"rfid": ("reconstructions", 50_000, 50_000, "centre", "test", 1), "ldm": ("samples", None, 50_000, "centre", "train", 1),
         "diffae-table4": ("samples", 50_000, 50_000, "centre", "train", 1), "diffae-table4-autoencoding": ("reconstructions", 50_000, 50_000, "centre", "train", 1),
         "diffae-celeba64": ("samples", 50_000, 50_000, "d2c", "train", 1), "diffae-table3": ("samples", None, 5_000, "d2c", "train", 3),
         "diffae-table3-naive": ("data", None, None, "d2c", "train", 1)}


def test_protocols_say_what_the_papers_say():
    "Diff-AE: 50,000 against the first 50,000 (Table 4), 5,000 against a class, three times (Table 3); rFID: the whole validation set."
    assert {p.name: (p.other, p.n_real, p.n_other, p.crop, p.split, p.seeds) for p in PROTOCOLS.values()} == FACTS
    assert list(PROTOCOLS) == list(FACTS) and all(p.network == "inception" and p.unconfirmed and p.source for p in PROTOCOLS.values())
    with pytest.raises(Exception): PROTOCOLS["rfid"].n_real = 3



@pytest.mark.parametrize("name", FACTS)
def test_the_command_does_what_its_protocol_says(at, monkeypatch, name):
    "Number of images, crop, split, network and seeds, as they reach the network, for more images than the protocol takes."
    from litevae_diffae.sources import Source, cut_crop
    other, n_real, n_other, crop, split, seeds = FACTS[name]

    class Faces(Source):
        names = ("Male",)
        def __init__(self):
            super().__init__()
            self.crop, self.image = None, np.zeros((218, 178, 3), np.uint8)
            self.image[57:185, 25:153] = 255 # the face of the d2c crop
        def __len__(self): return 51_000
        def read(self, i, min_side=0): return cut_crop(self.image, self.crop, "x"), {"Male": i % 2}

    opened, measured = [], []
    def open_data(place, split, **_):
        opened.append((place, split))
        return Faces()
    def fake(images, net, n=None, batch_size=50, name=""):
        first = next(iter(images))
        measured.append((name, n, first.shape[-1], first.mean().item()))
        return FeatureStats(n, torch.zeros(2).double(), torch.eye(2).double())
    class Model:
        config, device = type("C", (), dict(image_size=8, in_channels=3))(), "cpu"
        classifier = nn.Linear(1, 1)
        def sample(self, n, *_, **__): return torch.zeros(n, 3, 8, 8)
        def sample_class(self, classifier, n, *_, **__): return torch.zeros(n, 3, 8, 8)
        def reconstruct(self, x, n_steps, stochastic=True, generator=None):
            assert stochastic == (name == "rfid") and (generator is None) == stochastic
            return x
    net = network(width=2)
    asked = []
    monkeypatch.setattr(command, "open_data", open_data)
    monkeypatch.setattr(command, "image_stats", fake)
    monkeypatch.setattr(command, "load_model", lambda *_, **__: Model())
    monkeypatch.setattr(command, "feature_network", lambda kind, *_: (asked.append(kind), net)[1])
    b = {"data": "real", "samples": "samples:m", "reconstructions": "reconstructions:m"}[other]
    only = ("--only", "Male") if name.startswith("diffae-table3") else ()
    code, _, err = at("real", b, "--protocol", name, "--size", 8, *only)
    assert code == 0, err
    side_a, *side_b = measured
    there = 25_500 if only else 51_000
    assert side_a[:3] == ("A", n_real or there, 8) and [m[:3] for m in side_b] == [("B", n_other or 51_000, 8)] * seeds
    assert (abs(side_a[3] - 1) < 1e-6) == (crop == "d2c") # the crop holds nothing but the face
    assert set(opened) == {("real", split)} and asked == ["inception"]
    found = result()
    assert found["protocol"]["name"] == name and found["departures"] == [] and len(found["values"]) == seeds and (found["std"] is not None) == (seeds > 1)


def test_departures_are_written_down(at):
    noisy("a", 5, 0)
    code, out, err = at("a", "reconstructions:photos-tiny", "--protocol", "rfid", "--n", 4, "--size", 32, "--features", "alexnet")
    assert code == 0, err
    assert result()["departures"] == ["n_real 4 instead of 50000", "n_other 4 instead of 50000", "features alexnet instead of inception"]
    assert "not comparable with the numbers of protocol rfid" in out
