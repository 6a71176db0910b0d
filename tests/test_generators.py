"Latent diffusion as rows: the configurations under whose names runs are kept, toy runs, costs, and the paper's network."
import json
import math

import numpy as np
import pytest
import torch
from paper_rows import Watched, fake_inception, fake_sets, small_ranges, toy_paper

from litevae_diffae.cli import main
from litevae_diffae.core import n_params
from litevae_diffae.experiments import generators, measures, needs, pixel_latent
from litevae_diffae.experiments.findings import evidence, finding_row, litevae_findings
from litevae_diffae.experiments.generators import build_ldm, ldm_row, real_features, run_ldm, step_counts, trained_ldm, vae_row
from litevae_diffae.experiments.papers import cost_of_row, plan_row
from litevae_diffae.experiments.pixel_latent import cost_exponent, equal_images, fresh_net, sample_gmacs, sample_memory
from litevae_diffae.experiments.places import data_at
from litevae_diffae.experiments.recipes import with_batch
from litevae_diffae.experiments.records import find_experiments, row_key
from litevae_diffae.experiments.runs import toy
from litevae_diffae.fid import feature_network
from litevae_diffae.latent.model import LatentDiffusion
from litevae_diffae.sources import ArraySource

ALL = find_experiments()
OURS = ("t7", "t13", "ldm-objectives", "ldm-equivariance", "pixel-latent")

# written down before the first run, and not imported: runs are found by these values
decoder = dict(zero_init=True, decoder="smc", decoder_final_norm=False, output="wavelet", decoder_channels=32, decoder_mult=[1, 1, 2, 4])
one = dict(decoder_res_blocks=1, decoder_attention=False)
MODELS = {"LiteVAE": dict(preset="litevae-tiny", z_channels=4, **decoder, **one),
          "KL-VAE": dict(preset="sd-vae-small", z_channels=4, block_out_channels=[16, 32, 64, 96], n_res_blocks=1, attention=False,
                         quant_conv=False, post_quant_conv=False, **decoder),
          "DWT": dict(preset="dwt", **decoder, **one)}


def known_vae(name, **more):
    return dict(model=MODELS[name], data="avatars128", scale=[1., 1.],
                train=dict(batch_size=8, lr=1e-3, betas=[.9, .95], warmup=20, schedule="cosine", ema=.99, log_every=25, precision="bf16"),
                weights=dict(l1=1., lpips=.1, wavelet=0., gaussian=0., kl=1e-6),
                phases=[dict(size=64, steps=1500, scale=[.5, .5]), dict(size=128, steps=800)], measure=dict(size=128, n=500), **more)


def known_ldm(vae="LiteVAE", eq=0., images=48_000, **fields):
    return dict(of=known_vae(vae, **({"equivariance": eq} if eq else {})), ldm=dict(preset="ldm-tiny", **fields),
                train=dict(images=images, batch_size=32, lr=1e-3, warmup=100, schedule="cosine", ema=.999, log_every=50, precision="bf16"),
                measure=dict(n=500, n_steps=20, dtype="bfloat16"))


def text(config): return json.dumps(config, sort_keys=True)


def small(name): return {r.name: r.config for r in ALL[name].rows_at("small")}


def test_rows_are_those_under_whose_names_runs_are_kept():
    for name in MODELS: assert text(vae_row(name)) == text(known_vae(name)) and text(ldm_row(name)) == text(known_ldm(name))
    assert text(vae_row("LiteVAE", equivariance=.5)) == text(known_vae("LiteVAE", equivariance=.5))
    base = known_ldm()
    want = {"t7": {"KL-VAE": known_ldm("KL-VAE"), "LiteVAE": base}, "t13": {"KL-VAE": known_ldm("KL-VAE"), "LiteVAE": base, "DWT": known_ldm("DWT")},
            "ldm-objectives": {"flow": base, "eps": known_ldm(prediction_type="eps"), "v": known_ldm(prediction_type="v")},
            "ldm-equivariance": {"LiteVAE": base, "LiteVAE, equivariant": known_ldm(eq=.5)}}
    for name, rows in want.items(): assert text(small(name)) == text(rows), name
    assert all(row_key(r["nets"]["latent"], s) == row_key(base, s) for r in small("pixel-latent").values() for s in range(3))


def test_the_network_of_pixels_has_the_widths_of_that_of_latents():
    "Width by side: 128, 64 and 32 for 4, 8 and 16 in both; 32 channels above."
    def widths(c): return {c.image_size >> k: c.model_channels*m for k, m in enumerate(c.channel_mult)}
    latent, pixel, haar = (fresh_net(spec).config for spec in pixel_latent.generators.values())
    assert widths(latent) == {16: 32, 8: 64, 4: 128} and widths(pixel) == {128: 32, 64: 32, 32: 32, **widths(latent)}
    same = ("n_res_blocks", "attention_resolutions", "embed_channels", "dropout", "resblock_updown", "head_channels", "prediction_type", "scale_shift")
    assert all(getattr(latent, k) == getattr(pixel, k) for k in same)
    assert (haar.stem, haar.stem_levels, haar.band_rms, haar.image_size) == ("haar", 2, (), 128)


# a toy run on images of our own

@pytest.fixture
def place(monkeypatch):
    "FFHQ in memory: ten images to learn from and six held out."
    rng = np.random.default_rng(0)
    images = dict(train=rng.integers(0, 256, (10, 128, 128, 3), dtype=np.uint8), test=rng.integers(0, 256, (6, 128, 128, 3), dtype=np.uint8))
    monkeypatch.setattr(measures, "open_place", lambda name, split: ArraySource(images[split]))


def placed(config): return {**config, "of": {**config["of"], "data": ["ffhq", "train"], "measure": {**config["of"]["measure"], "data": ["ffhq", "test"]}}}


METRICS = {"fd", "kid", "floor", "floor_rec", "rec_fd", "rec_psnr", "rec_ssim", "rec_lpips", "rms_plain", "rms_fixed_point", "train_seconds", "images",
           *(f"{k}@{T}" for k in ("fd", "kid") for T in (2, 4, 8, 20))}


def test_a_toy_run_has_all_metrics(place, tmp_path, monkeypatch):
    "Of the noise; those of the flow and of the velocity are run by test_experiments.py."
    monkeypatch.setattr(generators, "real_features", lambda config, work: torch.randn(10, 256, generator=torch.Generator().manual_seed(0)))
    config = placed(toy(ldm_row(prediction_type="eps")))
    found = run_ldm(config, 0, tmp_path/"run")
    assert set(found) == METRICS and all(math.isfinite(v) for v in found.values())
    assert found["fd"] == found["fd@8"] and found["images"] == 4
    again = run_ldm(config, 0, tmp_path/"run") # a finished run is measured again
    assert again == found
    assert run_ldm(config, 1, tmp_path/"other")["fd@2"] != found["fd@2"]


def test_autoencoder_and_latents_are_shared_and_of_seed_0(tmp_path, monkeypatch):
    config = toy(ldm_row())
    a, b = (trained_ldm(config, seed, tmp_path/row_key(config, seed)) for seed in (0, 1))
    made = sorted(p.name for p in tmp_path.iterdir())
    assert made == sorted([row_key(config, 0), row_key(config, 1), row_key(config["of"], 0), f"latents-{row_key(config['of'], 0)}"])
    for x, y in zip(a.autoencoder.parameters(), b.autoencoder.parameters()): assert torch.equal(x, y)
    own = [torch.equal(x, y) for (k, x), y in zip(a.state_dict().items(), b.state_dict().values()) if not k.startswith("autoencoder.")]
    assert not all(own)
    assert real_features(config, tmp_path).shape == (8, 256) and (tmp_path/"alexnet-avatars-8-128.safetensors").is_file()


def test_steps_of_the_row():
    assert step_counts(20) == [5, 10, 20, 50] # those of the protocol
    assert all(f"{T}" for T in step_counts(8)) and step_counts(8) == [2, 4, 8, 20]


# what it costs

def test_exponent():
    "cost = a*s^p has the exponent p for every a; three points that lie on no line have the slope of least squares."
    for p in (0., 1., 2., 3.7): assert cost_exponent([64, 128, 256], [.03*s**p for s in (64, 128, 256)]) == pytest.approx(p, abs=1e-12)
    costs = [1., 2., 16.]                                                          # in powers of 2: (6, 0), (7, 1), (8, 4)
    assert cost_exponent([64, 128, 256], costs) == pytest.approx((4 - 0)/2)


def test_equal_minutes_are_equal_products():
    train = dict(images=48_000, batch_size=32)
    speeds = dict(latent=431., pixel=17., haar=29.)
    for k, v in speeds.items(): assert abs(equal_images(train, speeds, k)/v - 48_000/431) < 16/v + 1e-9 # half a batch
    assert equal_images(train, dict(latent=1e9, pixel=1.), "pixel") == 32


def test_macs_of_a_convolution_by_hand():
    "The first and the last convolution of the network of pixels, 3 x 3: 9*3*32 for each pixel, twice; all others come on top."
    net = fresh_net(pixel_latent.generators["pixel"])
    one, two = (sample_gmacs(net, 128, T) for T in (1, 2))
    assert two == pytest.approx(2*one) and one > 2*9*3*32*128**2/1e9
    assert sample_gmacs(net, 256, 1)/one == pytest.approx(4, rel=.02)


def test_memory_grows_with_the_batch():
    from litevae_diffae.timing import in_fresh_process
    spec = toy(pixel_latent.equal_row("pixel"))["nets"]["pixel"]
    call = "litevae_diffae.experiments.pixel_latent.sample_memory"
    few, many = (in_fresh_process(call, spec, n, 2) for n in (1, 16))
    assert many > few > 4*n_params(fresh_net(spec))/1e6 and sample_memory(spec, 1, 2) >= 0


# at the paper's scale

def test_the_published_network():
    """Rombach et al.'s U-Net for FFHQ has 274,056,163 parameters with latents of three channels.

    A fourth adds 224*9 weights to the first convolution, as many to the last, and a bias. The attention of their file is
    counted from the latent's side down, so for 32 x 32 it stands at 16, 8 and 4; at 32, 16 and 8 it would be five blocks of
    224 channels instead of five of 896."""
    more = 224*9 + (224*9 + 1)
    def attention(c): return 2*c + (3*c*c + 3*c) + (c*c + c)
    with torch.device("meta"):
        first = LatentDiffusion.from_preset("ldm-ffhq")
        built = build_ldm(next(r.config for r in ALL["t7"].rows_at("paper")))["unet"]
        other = LatentDiffusion.from_preset("ldm-ffhq", image_size=32, in_channels=4)
    assert n_params(first) == 274_056_163
    assert n_params(built) == 274_056_163 + more and (built.config.in_channels, built.config.image_size) == (4, 32)
    assert n_params(other) == 274_056_163 + more + 5*(attention(224) - attention(896))


PAPER = {(name, r.name): r for name in ("t7", "t13") for r in ALL[name].rows_at("paper")}


@pytest.mark.parametrize("key", PAPER, ids=str)
def test_published_training(key):
    c = PAPER[key].config
    place = c["of"]["data"][0]
    want = dict(ffhq=(42, 8.4e-5, 635_000), **{"celeba-hq": (48, 9.6e-5, 410_000)})[place]
    assert (c["train"]["batch_size"], c["train"]["lr"], c["train"]["steps"]) == want
    assert c["measure"] == dict(n=50_000, n_steps=200, features="inception")
    assert c["of"]["phases"] == [dict(size=256, steps=100_000)] and c["of"]["measure"]["data"] == [place, "test"]
    assert needs.needs_of(c).networks == {"inception"} and (place, "train") in needs.needs_of(c).data


def test_printed_numbers():
    "Tables 7 and 13."
    t7, t13 = ALL["t7"].paper, ALL["t13"].paper
    assert [t7[k]["fid"] for k in ("FFHQ, VAE", "FFHQ, LiteVAE-B", "CelebA-HQ, VAE", "CelebA-HQ, LiteVAE-B")] == [8.11, 8.03, 5.92, 5.73]
    assert t13["FFHQ, DWT"] == t13["DWT"] == dict(fid=12.51)
    found = {f.where: f for f in litevae_findings if f.page == "latent_diffusion"}
    assert set(found) == {"Table 7", "Table 13"}
    assert [round(evidence(f).gap, 2) for f in found.values()] == [-.08, 4.48]
    assert "FID 12.51" in finding_row(found["Table 13"])["its numbers"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory): return fake_sets(tmp_path_factory.mktemp("sets"))


def test_all_keys_of_a_paper_row_are_read(sets, tmp_path, monkeypatch):
    small_ranges(monkeypatch)
    def network(name, device=None, weights_path=None): return fake_inception(device) if name == "inception" else feature_network(name, device)
    for module in (measures, generators): monkeypatch.setattr(module, "feature_network", network)
    config = toy_paper(PAPER["t7", "CelebA-HQ, LiteVAE-B"].config)
    del config["of"]["adversarial"], config["of"]["discriminator"]                 # test_paper_rows has them
    watched = Watched(config)
    with data_at(sets): found = generators.run_published_ldm(watched, 0, tmp_path/"run")
    assert [k for k in watched.unread() if not k.startswith("of.measure.")] == []
    assert {"fid", "rec_rfid", "rec_fd", "rec_psnr", "train_seconds", "images"} <= set(found) and found["rec_images_measured"] == 4
    assert all(math.isfinite(v) for v in found.values())


# before step 1

def test_plans():
    vae, tuned, unet = plan_row(known_ldm())
    assert (vae.size, tuned.size, unet.size, unet.unit, unet.steps()) == (64, 128, 16, "latents", 1500)
    assert unet.parameters == n_params(LatentDiffusion.from_preset("ldm-tiny"))
    *_, dwt = plan_row(known_ldm("DWT"))
    assert dwt.parameters - unet.parameters == 2*8*9*32 + 8                        # twelve channels instead of four
    hours = {name: sum(p.hours("h100") for p in plan_row(c)[-1:]) for name, c in small("pixel-latent").items()}
    assert all(h == pytest.approx(hours["latent"], rel=.02) for h in hours.values())
    half = plan_row(with_batch(known_ldm(), 16))[-1]
    assert half.config.batch_size == 16 and half.steps() == 3000


def test_what_a_small_row_costs():
    rows = {text(config): config for name in OURS for config in small(name).values()}
    assert len(rows) == 3 + 2 + 1 + 3                                              # those of t13, two objectives, one equivariant, pixels
    for config in rows.values(): assert "GB on each of 1 H100" in cost_of_row(config)


def run_check(capsys, *words):
    code = main(["experiment", *words, "--check"])
    return code, capsys.readouterr()


def test_check_at_small_scale(capsys, monkeypatch):
    monkeypatch.setattr(needs, "open_source", lambda name, split: [name, split])   # the faces of 128 pixels are drawn when they are first asked for
    code, said = run_check(capsys, "t7")
    assert not code and said.out.count("GB on each of 1 H100") == 2 and "nothing is missing" in said.out


def test_check_at_paper_scale(capsys, monkeypatch, sets):
    monkeypatch.setattr(needs, "feature_network", lambda name, device: None)
    small_ranges(monkeypatch)
    code, said = run_check(capsys, "t7", "--scale", "paper", "--rows", "FFHQ, LiteVAE-B", "--data", f"ffhq={sets['ffhq']}")
    assert not code and "FFHQ, LiteVAE-B: " in said.out and "nothing is missing" in said.out and "ffhq, train: 10 images" in said.out


@pytest.mark.parametrize("name", OURS[2:])
def test_check_where_there_is_no_paper(capsys, name):
    with pytest.raises(SystemExit, match="2"): run_check(capsys, name, "--scale", "paper")
    assert "there are no rows at paper scale" in capsys.readouterr().err
