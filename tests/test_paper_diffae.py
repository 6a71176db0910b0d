"""Every row of Diff-AE's tables at paper scale: run at toy length and widths on fakes that lie on a disk as the real
data do, built at its real size, and read to the last key of its configuration."""
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from litevae_diffae.core import n_params
from litevae_diffae.diffae.official import celeba_attributes
from litevae_diffae.experiments import published
from litevae_diffae.experiments.autoencoding import evaluate_autoencoding, own_noise, run_autoencoding, shared_model
from litevae_diffae.experiments.classcond import run_published_class
from litevae_diffae.experiments.places import PLACES, data_at
from litevae_diffae.experiments.published import image_stream, published_sets, set_models, set_prior, toy_published
from litevae_diffae.experiments.records import find_experiments, row_key
from litevae_diffae.experiments.samples import run_published_samples

lmdb = pytest.importorskip("lmdb")
ALL = {name: e for name, e in find_experiments().items() if name.startswith("diffae")}
PAPER = {(name, row.name): row for name, e in ALL.items() if not e.small_only for row in e.rows_at("paper")}
CELEBA = [name.strip() for name in celeba_attributes]


def picture(i, size=(48, 48)):
    "An image of noise, another one for each number."
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def write_lmdb(path, prefix, digits, n, form):
    "The layout of the official code: '256-0000012' and 'length'."
    with lmdb.open(str(path), map_size=2**24) as env, env.begin(write=True) as txn:
        for i in range(n):
            data = io.BytesIO()
            picture(i).save(data, form)
            txn.put(f"{prefix}-{i:0{digits}d}".encode(), data.getvalue())
        txn.put(b"length", str(n).encode())


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    "The five data sets of the paper, with a few images each."
    root = tmp_path_factory.mktemp("sets")
    write_lmdb(root/"ffhq256.lmdb", "256", 5, 8, "JPEG")
    write_lmdb(root/"horse256.lmdb", "256", 7, 8, "WEBP")
    write_lmdb(root/"bedroom256.lmdb", "256", 7, 8, "WEBP")
    (root/"celeba-hq").mkdir()
    for i in range(8): picture(100 + i).save(root/f"celeba-hq/{i}.jpg")
    (root/"celeba/img_align_celeba").mkdir(parents=True)
    lines = ["12", " ".join(CELEBA)]
    for i in range(1, 13):
        picture(200 + i, (178, 218)).save(root/f"celeba/img_align_celeba/{i:06d}.jpg")
        has = {"Male": i % 2, "Blond_Hair": i % 3 == 0}
        lines.append(f"{i:06d}.jpg " + " ".join("1" if has.get(name) else "-1" for name in CELEBA))
    (root/"celeba/list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    return {"ffhq": root/"ffhq256.lmdb", "lsun-horse": root/"horse256.lmdb", "lsun-bedroom": root/"bedroom256.lmdb",
            "celeba-hq": root/"celeba-hq", "celeba": root/"celeba"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "One folder for all rows, so that what they share is made once."
    published._real_stats.cache_clear(); published._class_stats.cache_clear()
    return tmp_path_factory.mktemp("runs")


each_row = pytest.mark.parametrize("name, row", PAPER, ids=[" ".join(key) for key in PAPER])
READ, ASKED = set(), set() # of the parts that rows share, by all of them


class Watched(dict):
    "A configuration that remembers which of its keys were asked for; the name of a run alone does not count."
    def __init__(self, items, read, path=""):
        super().__init__({k: Watched(v, read, f"{path}{k}.") if isinstance(v, dict) else v for k, v in items.items()})
        self.seen, self.path = read, path

    def __getitem__(self, key):
        self.seen.add(self.path + key)
        return super().__getitem__(key)

    def get(self, key, default=None): return self[key] if key in self else default
    def __iter__(self):                                                                         # **config, dict(config)
        self.seen |= {self.path + k for k in super().keys()}
        return super().__iter__()


def names_of(config, path=""):
    "The keys of a configuration, of all depths; an empty dictionary is read as a whole."
    out = set()
    for k, v in config.items(): out |= names_of(v, f"{path}{k}.") | {path + k} if isinstance(v, dict) else {path + k}
    return out


def test_there_are_forty_one_rows():
    count = {name: sum(n == name for n, _ in PAPER) for name in ALL}
    assert count == {"diffae-autoencoding": 6, "diffae-samples": 12, "diffae-classcond": 20, "diffae-prior": 3, "diffae-recipe": 0, "diffae-samples-fid": 0,
                     "diffae-interpolation": 0, "diffae-editing": 0, "diffae-editing-labels": 0, "diffae-editing-confounded": 0}


@pytest.mark.parametrize("name", [n for n, e in ALL.items() if e.small_only])
def test_the_others_say_why(name):
    with pytest.raises(ValueError, match="no rows at paper scale") as error: ALL[name].rows_at("paper")
    assert ALL[name].small_only in str(error.value)


@each_row
def test_every_row_runs(name, row, places, runs):
    row, read = PAPER[name, row], set()
    config = Watched(toy_published(row.config), read)
    with data_at(places): found = row.run(config, 0, runs/row_key(row.config, 0))
    read = frozenset(read) # what is asked from here on is not the row's
    READ.update(k for k in read if "." in k); ASKED.update(k for k in names_of(config) if "." in k)
    keys = set(row.config)
    assert read >= keys, keys - read
    assert found and all(np.isfinite(v) for k, v in found.items() if "tails" not in k) # eight codes have none beyond 3 sigma
    steps = [2] if isinstance(row.config.get("n_steps"), list) else []
    asked = {"diffae-autoencoding": ["ssim", "lpips", "mse"], "diffae-samples": ["fid"], "diffae-prior": ["fd", "kid"]}.get(name, [])
    assert {f"{k}@{T}" for k in asked for T in steps} <= set(found) and (name != "diffae-classcond" or "fid" in found)


def test_what_rows_share_is_read_too():
    "A model or a prior that is found again is not built again: the first row that names it reads its keys."
    assert ASKED and READ >= ASKED, ASKED - READ


def test_models_codes_and_priors_are_made_once(runs):
    made = {kind: len(list(runs.glob(f"{kind}-*"))) for kind in ("model", "codes", "prior")}
    assert made == dict(model=5 + 2*3, codes=4, prior=5)   # samples take the models of autoencoding; at toy length 130M and 48M are one run


SIZES = {"ddim-64": 67_841_539, "diffae-celeba64": 90_839_235, "ddim-128": 98_618_499, "diffae-ffhq128": 128_545_155,
         "diffae-horse128": 128_545_155, "diffae-bedroom128": 128_545_155}


def less(D):
    "Parameters that go with another width of the code: the encoder's last layer, and a row of each of the 28 modulated blocks."
    with torch.device("meta"): blocks = [m for n, m in published.build_row(set_models("FFHQ128")["Diff-AE"])["model"].named_modules() if n.endswith("cond_emb_layers.1")]
    return (512 - D)*(512 + 1 + sum(m.out_features for m in blocks))


@each_row
def test_every_row_is_built_at_its_real_size(name, row):
    row = PAPER[name, row]
    if row.config.get("kind") == "naive": assert row.build is None and "preset" not in row.config; return
    with torch.device("meta"): nets = row.build(row.config)
    assert all(p.is_meta for net in nets.values() for p in net.parameters())
    D = row.config["model"].get("z_dim", 512)
    assert n_params(nets["model"]) == SIZES[row.config["preset"]] - (less(D) if D < 512 else 0)
    if row.config.get("prior"):
        deep = row.config["prior"]["preset"] in ("latent-horse128", "latent-bedroom128")
        assert n_params(nets["prior"]) == (117_106_176 if deep else 54_109_696)
    else: assert list(nets) == ["model"]


@each_row
def test_every_row_names_published_data(name, row):
    config = PAPER[name, row].config
    assert json.loads(json.dumps(config)) == config
    for key in {"data", "test"} & set(config):
        place, split = config[key]
        assert split in PLACES[place].images
    n_real, data = config.get("n_real", 0), PLACES[config["data"][0]].images["all"]
    assert n_real <= data and config.get("features", "inception") == "inception"
    if "test" in config: assert config["n_images"] == 30_000 == PLACES["celeba-hq"].images["all"]


# lengths, batches and codes of section 6 of the released configurations: millions of images, batch; codes, batch, decay
MODELS = {"FFHQ128": (130, 128, 101, 256, .01), "Horse128": (130, 128, 2001, 2048, 0.), "Bedroom128": (120, 128, 2001, 2048, 0.), "CelebA64": (72, 128, 301, 512, .01)}


@pytest.mark.parametrize("title", published_sets)
def test_lengths_and_batches(title):
    from litevae_diffae.diffae.prior import prior_decay
    million, batch, codes, code_batch, decay = MODELS[title]
    for model in set_models(title).values(): assert model["train"] == dict(images=million*10**6, batch_size=batch)
    place, size = {"FFHQ128": "ffhq", "Horse128": "lsun-horse", "Bedroom128": "lsun-bedroom", "CelebA64": "celeba"}[title], title[-3:].strip("A")
    assert {k: (m["preset"], m["data"]) for k, m in set_models(title).items()} == {
        "DDIM": (f"ddim-{size}", [place, "all"]), "Diff-AE": (f"diffae-{title.lower()}", [place, "all"])}
    prior = set_prior(title)
    assert prior["preset"] == f"latent-{title.lower()}" and prior["net"] == {}
    assert prior["train"] == dict(images=codes*10**6, batch_size=code_batch) and prior["loss"] == "l1"
    assert prior_decay(prior["preset"]) == decay


def test_rows_with_equal_models_share_them():
    first = PAPER["diffae-autoencoding", "Diff-AE @130M, 512-D"].config
    second = PAPER["diffae-samples", "FFHQ128: Diff-AE"].config
    parts = ("preset", "model", "train", "data")
    assert {k: first[k] for k in parts} == {k: second[k] for k in parts} and row_key(first, 0) != row_key(second, 0)


def test_missing_data_are_missed_before_the_training(places, tmp_path):
    "Too few images, another set, an attribute that is not there: one sentence, and no model is begun."
    toys = [toy_published(PAPER[key].config) for key in (("diffae-autoencoding", "DDIM @130M"), ("diffae-samples", "FFHQ128: DDIM"), ("diffae-classcond", "Male: naive"))]
    with data_at(places):
        with pytest.raises(ValueError, match=r"test: 9 images expected in \['celeba-hq', 'all'\], got 8"): run_autoencoding(toys[0] | dict(n_images=9), 0, tmp_path/"a")
        with pytest.raises(ValueError, match="data: 9 images expected"): run_published_samples(toys[1] | dict(n_real=9), 0, tmp_path/"a")
        with pytest.raises(ValueError, match="attribute: must be one of 5_o_Clock_Shadow"): run_published_class(toys[2] | dict(attribute="Hat"), 0, tmp_path/"a")
    with pytest.raises(ValueError, match="celeba has to be given, --data celeba=PLACE"): run_published_class(toys[2], 0, tmp_path/"a")
    assert not list(tmp_path.iterdir())


def test_small_rows_are_what_they_were():
    "The keys of all runs of the committed results: rows of small scale have not changed by a letter."
    root = Path(__file__).resolve().parents[1]/"results"
    for name, e in ALL.items():
        path = root/f"{name}.json"
        if not path.is_file(): continue
        found = json.loads(path.read_text())
        want = {(r["name"], s): row_key(r["config"], s) for r in found["rows"] for s in r["seeds"]}
        rows = {r.name: r.config for r in e.rows("small")}
        assert set(want.values()) <= set(found["records"]) and want
        assert {k: row_key(rows[k[0]], k[1]) for k in want} == want, name
        assert found["paper"] == json.loads(json.dumps(e.paper)) and found["protocol"] == e.protocol, name


# the stream of images that autoencoding is measured in
@pytest.fixture(scope="module")
def avatars():
    from litevae_diffae.diffae.model import DiffAE
    from litevae_diffae.diffae.scores import load_faces
    return DiffAE.from_pretrained("avatars"), load_faces("test", 3)[0]


def test_autoencoding_is_a_mean_over_images_whatever_the_batch(avatars):
    "Each image with its own codes: the columns of three images are the means of those of one at a time."
    model, x = avatars
    whole, pieces = (evaluate_autoencoding(model, x, (5,), 0, batch_size=n) for n in (64, 2))
    single = [evaluate_autoencoding(model, x[i:i+1], (5,)) for i in range(3)]
    for k, v in whole.items():
        assert abs(pieces[k] - v) < 1e-5
        if "random" not in k: assert abs(sum(s[k] for s in single)/3 - v) < 1e-5
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=g)                          # as it was drawn for all images at once
    by_hand = model.decode(noise, model.encode(x), 5)
    assert abs(((x - by_hand)/2).square().mean().item() - whole["mse_random@5"]) < 1e-6
    assert evaluate_autoencoding(model, x, (5,), 1)["mse_random@5"] != whole["mse_random@5"]


def test_images_are_not_kept(avatars, monkeypatch):
    "The model never sees more than a batch, and no image is read before the one before it was measured."
    model, x = avatars
    from litevae_diffae.crops import Crops
    from litevae_diffae.sources import ArraySource
    order, encode = [], model.encode
    class Told(ArraySource):
        def read_or_next(self, i, min_side=0):
            order.append(("read", i))
            return super().read_or_next(i, min_side)
    def seen(b):
        order.append(("encode", len(b)))
        return encode(b)
    monkeypatch.setattr(model, "encode", seen, raising=False)
    evaluate_autoencoding(model, Crops(Told(x), 64, train=False), (2,), batch_size=1)
    assert order == [e for i in range(3) for e in (("read", i), ("encode", 1))]


def test_the_noise_of_an_image_is_its_own():
    x = torch.zeros(5, 3, 5, 7)                                                                # 105 numbers: no multiple of 16, of which PyTorch draws blocks
    def draws(n):
        g = torch.Generator().manual_seed(7)
        return torch.cat([own_noise(b, g) for b in x.split(n)])
    assert torch.equal(draws(5), draws(1)) and torch.equal(draws(5), draws(3)) and len({t.sum().item() for t in draws(5)}) == 5


def test_samples_do_not_depend_on_the_batch(runs, places):
    config = toy_published(PAPER["diffae-samples", "FFHQ128: Diff-AE"].config)
    with data_at(places): net = shared_model(config, 0, runs/"x").cpu()
    torch.nn.init.normal_(net.out[2].weight, std=.1)
    z = torch.randn(3, net.config.z_dim)
    one, many = (torch.stack(list(image_stream(net, 3, 2, torch.Generator().manual_seed(0), z, n))) for n in (1, 64))
    torch.testing.assert_close(one, many, rtol=0, atol=1e-4)
    assert (many[0] - many[1]).abs().max() > .05
