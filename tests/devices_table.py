"""Everything public on a device that is not the CPU: one JSON line for each thing tried.

    python tests/devices_table.py          # on the pretended device
    python tests/devices_table.py cuda     # on a GPU

A verb is tried with its inputs on the CPU and with its inputs on the device; the model is on the device, and
what comes back must be there too and equal what the CPU says. `tests/test_devices.py` reads the lines.
"""
import copy
import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pretend_device
import test_precision as small
import torch
from pretend_device import PretendDevice, default_device_is
from torch.nn import functional as F

from litevae_diffae import core, metrics, viz
from litevae_diffae.diffae import show, sliders
from litevae_diffae.diffae.classcond import draw_codes
from litevae_diffae.diffae.code_cache import cache_codes
from litevae_diffae.diffae.codes import Codes
from litevae_diffae.diffae.editor import fit_editor
from litevae_diffae.diffae.manipulate import fit_classifier
from litevae_diffae.diffae.prior import train_prior
from litevae_diffae.diffae.train import swap_probe, train_diffae
from litevae_diffae.distances import alexnet_features
from litevae_diffae.experiments import autoencoding, editing, faces, interpolation, judge, measures, published, samples
from litevae_diffae.experiments.places import data_at
from litevae_diffae.experiments.records import find_experiments
from litevae_diffae.experiments.runs import run_row, toy
from litevae_diffae.latent.model import LatentDiffusion
from litevae_diffae.latent.unet import LatentDiffusionConfig
from litevae_diffae.litevae.adversarial import AdversarialConfig, train_adversarial
from litevae_diffae.litevae.analysis import decoder_imbalance, latent_mmd, latent_spectrum
from litevae_diffae.litevae.latents import compute_latent_stats
from litevae_diffae.litevae.tiling import tiling_error
from litevae_diffae.litevae.train import train_litevae
from litevae_diffae.sources import ArraySource
from litevae_diffae.train import TrainConfig

DEVICE = sys.argv[1] if len(sys.argv) > 1 else "sham"
noise, line = small.noise, F.normalize(torch.ones(64), dim=0)
seeded, steps = small.seeded, small.steps


FACES = torch.randint(256, (20, 16, 16, 3), dtype=torch.uint8, generator=seeded()).numpy()
FLAGS = torch.randint(2, (20, 2), generator=seeded()).numpy()
PHOTOS = torch.randint(256, (20, 40, 48, 3), dtype=torch.uint8, generator=seeded()).numpy()


def wide(x): return torch.cat([x, x], -1)


def tiling(model, x):
    model.enable_tiling(16, overlap=8)
    error = torch.tensor(tiling_error(model, wide(x)))
    model.disable_tiling()
    return error


def z(n=2): return noise(n, 64)


def latents(m): return noise(2, m.config.z_channels, 2, 2)


AUTOENCODER = {
    "encode": lambda m, x: m.encode(x).latent_dist.mean,
    "encode, sample": lambda m, x: m.encode(x).latent_dist.sample(seeded()),
    "decode": lambda m, x: m.decode(latents(m).to(x.device)).sample,
    "forward": lambda m, x: m(x).sample,
    "forward, sample": lambda m, x: m(x, sample_posterior=True, generator=seeded()).sample,
    "in tiles": small.tiles,
    "normalize_latents": lambda m, x: m.normalize_latents(latents(m).to(x.device)),
    "denormalize_latents": lambda m, x: m.denormalize_latents(latents(m).to(x.device)),
    "gradient": lambda m, x: small.gradient(m, lambda: m(x).sample.float().square())}
AUTOENCODER_CPU = { # numbers, which are Python's or on the CPU wherever the model is
    "compute_latent_stats": lambda m, x: torch.tensor(compute_latent_stats(m, x).latents_mean),
    "tiling_error": tiling,
    "decoder_imbalance": lambda m, x: torch.tensor(
        [list(row)[:1] for row in decoder_imbalance(m, x).values()])}
DENOISER = {
    "eps": lambda m, x: m.eps(x, steps),
    "loss": lambda m, x: m.loss(x, steps, noise(2, 3, 16, 16)),
    "invert": lambda m, x: m.invert(x, n_steps=2),
    "decode": lambda m, x: m.decode(noise(2, 3, 16, 16).to(x.device), n_steps=2),
    "decode, dpm": lambda m, x: m.decode(noise(2, 3, 16, 16).to(x.device), n_steps=2, sampler="dpm"),
    "sample, eta": lambda m, x: m.sample(2, 2, generator=seeded(), eta=1.),
    "sample": lambda m, x: m.sample(2, 2, generator=seeded()),
    "gradient": lambda m, x: small.gradient(m, lambda: m.loss(x, steps, noise(2, 3, 16, 16)))}
SEMANTIC = {
    "encode": lambda m, x: m.encode(x),
    "eps": lambda m, x: m.eps(x, steps, z()),
    "loss": lambda m, x: m.loss(x, steps, noise(2, 3, 16, 16), z()),
    "invert": lambda m, x: m.invert(x, z(), 2),
    "invert, mirror": lambda m, x: m.invert(x, n_steps=2, method="mirror"),
    "decode": lambda m, x: m.decode(noise(2, 3, 16, 16).to(x.device), z(), 2),
    "reconstruct": lambda m, x: m.reconstruct(x, 2),
    "reconstruct, random": lambda m, x: m.reconstruct(x, 2, stochastic=False, generator=seeded()),
    "variations": lambda m, x: m.variations(x, 2, 2, generator=seeded()),
    "interpolate": lambda m, x: m.interpolate(x, x.flip(0).cpu(), [0, .5], 2),
    "sample": lambda m, x: m.sample(2, 2, generator=seeded()),
    "sample, eta": lambda m, x: m.sample(2, 2, generator=seeded(), eta=1.),
    "sample, dpm": lambda m, x: m.sample(2, 2, generator=seeded(), sampler="dpm"),
    "sample_class": lambda m, x: m.sample_class(m.classifier, 2, 2, name="A", generator=seeded()),
    "sample_class, CPU classifier": lambda m, x: m.sample_class(
        copy.deepcopy(m.classifier).cpu(), 2, 2, name="A", generator=seeded()),
    "edit, curve": lambda m, x: m.edit(x, "A", n_steps=2),
    "edit, line": lambda m, x: m.edit(x, "A", n_steps=2, path="line"),
    "edit, vector": lambda m, x: m.edit(x, line, n_steps=2),
    "classifier.logits": lambda m, x: m.classifier.logits(z()),
    "classifier.direction": lambda m, x: m.classifier.direction("A"),
    "classifier.move": lambda m, x: m.classifier.move(z(), line),
    "editor.logits": lambda m, x: m.editor.logits(z()),
    "editor.move": lambda m, x: m.editor.move(z(), "A"),
    "prior.eps": lambda m, x: m.prior.eps(z(), steps),
    "prior.loss": lambda m, x: m.prior.loss(z(), steps, noise(2, 64)),
    "prior.decode": lambda m, x: m.prior.decode(z(), 2),
    "prior.sample": lambda m, x: m.prior.sample(2, 2, generator=seeded()),
    "prior.normalize": lambda m, x: m.prior.normalize(z()),
    "prior.denormalize": lambda m, x: m.prior.denormalize(z()),
    "draw_codes": lambda m, x: draw_codes(m.prior, m.classifier, 2, "A", n_steps=2,
                                          generator=seeded()).z_sem,
    "two_codes": lambda m, x: torch.stack(show.two_codes(m, x, 2, 2)),
    "predicted_x0": lambda m, x: show.predicted_x0(m, noise(2, 3, 16, 16), z(), 2),
    "edit_strip": lambda m, x: show.edit_strip(m, x, "A", (0., .3), 2),
    "gradient": lambda m, x: small.gradient(m, lambda: m.loss(x, steps, noise(2, 3, 16, 16)))}
SEMANTIC_CPU = {
    "prior.set_stats": lambda m, x: (m.prior.set_stats(z(9)), m.prior.z_sem_mean.cpu())[1],
    "swap_probe": lambda m, x: torch.tensor(list(swap_probe(m, x).values())),
    "sampler_errors": lambda m, x: torch.tensor(
        show.sampler_errors(m, noise(2, 3, 16, 16), z(), x, (2,))["ddim"]),
    "edit_sliders": lambda m, x: torch.tensor(list(sliders.edit_sliders(m, x[:1], n_steps=2).values.values())),
    "blend_slider": lambda m, x: torch.tensor(sliders.blend_slider(m, x[:1], x[1:].cpu(), 2).values["alpha"]),
    "fit_classifier": lambda m, x: fit_classifier(
        codes(m), n_samples=64, model=m).linear.weight.detach().cpu(),
    "fit_editor": lambda m, x: fit_editor(
        codes(m), n_axes=8, hidden=16, epochs=1, model=m).shift.cpu(),
    "cache_codes": lambda m, x: cache_codes(m, FACES, progress=False).z_sem}


LATENT = {
    "encode": lambda m, x: m.encode(x),
    "decode_latents": lambda m, x: m.decode_latents(m.encode(x)),
    "loss": lambda m, x: m.loss(m.encode(x), torch.tensor([.2, .7]), noise(2, 12, 2, 2), "a"),
    "invert": lambda m, x: m.invert(x, 3, "b"),
    "decode": lambda m, x: m.decode(noise(2, 12, 2, 2).to(x.device), 3),
    "sample": lambda m, x: m.sample(2, 3, label=["a", None], guidance=2., generator=seeded())}


def latent():
    vae = small.models["litevae"]()
    compute_latent_stats(vae, small.image())
    config = LatentDiffusionConfig(image_size=2, in_channels=vae.config.z_channels, channel_mult=(1,), embed_channels=32,
                                   model_channels=32, n_res_blocks=1, label_kind="class", label_names=("a", "b"))
    return small.awake(LatentDiffusion(config)).attach(vae)


def codes(model):
    attributes = (noise(60, 2) > 0).to(torch.uint8)
    return Codes.of(noise(60, 64).to(model.device), attributes=attributes, names=("A", "B"))


def features(y): return torch.as_tensor(alexnet_features(y, size=64), dtype=torch.float32)


BOTH = {"encode", "eps", "invert", "decode", "interpolate", "edit, line"} # tried with all inputs there too
PAIRS = { # of an image `x` on either device and a result `y` on the device
    "mse": metrics.mse, "psnr": metrics.psnr, "ssim": metrics.ssim,
    "lpips": lambda x, y: metrics.lpips(x, y, min_size=64)}
PAIRS_CPU = {
    "alexnet_features": lambda x, y: features(y).cpu(),
    "alexnet_fd": lambda x, y: torch.tensor(metrics.alexnet_fd(
        torch.cat([x]*3), torch.cat([y]*3), size=64).value),
    "latent_mmd": lambda x, y: torch.tensor(list(latent_mmd(y).values())),
    "latent_spectrum": lambda x, y: torch.as_tensor(latent_spectrum(y)).cpu(),
    "to_uint8": lambda x, y: torch.as_tensor(viz.to_uint8(y)).cpu(),
    "image_grid": lambda x, y: torch.as_tensor(viz.image_grid(y)),
    "latents_to_rgb": lambda x, y: torch.as_tensor(viz.latents_to_rgb(y)).cpu(),
    "show_images": lambda x, y: torch.tensor(len(viz.show_images(y).axes)),
    "show_reconstructions": lambda x, y: torch.tensor(len(viz.show_reconstructions(x, y).axes))}


def said(error): return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"


def tell(subject, verb, inputs, truth, make, on_device):
    "One line: what was asked, where the inputs were, where the result is, how far it is from the CPU's."
    row = dict(subject=subject, verb=verb, inputs=inputs)
    try:
        y = make()
        place = y.device.type
        y, e = y.detach().cpu().double(), truth.detach().double()
        norm = max(e.norm().item(), 1e-9)
        row.update(place=place, error=((y - e).norm()/norm).item(),
                   right=place == (DEVICE if on_device else "cpu"))
    except Exception as error: row.update(place="", error=float("inf"), right=False, said=said(error))
    yield row


def models_table():
    "Every verb of every model."
    makers = {**small.models, "latent": latent}
    kinds = {"litevae": (AUTOENCODER, AUTOENCODER_CPU), "klvae": (AUTOENCODER, {}), "ddim": (DENOISER, {}),
             "diffae": (SEMANTIC, SEMANTIC_CPU), "latent": (LATENT, {})}
    for name, groups in kinds.items():
        torch.manual_seed(0)
        here = makers[name]()
        there = copy.deepcopy(here).to(DEVICE)
        for verbs, on_device in zip(groups, (True, False)):
            for verb, f in verbs.items():
                torch.manual_seed(1)
                truth = f(copy.deepcopy(here), small.image())
                for place in ("cpu", DEVICE) if name != "diffae" or verb in BOTH else ("cpu",):
                    x, model = small.image().to(place), copy.deepcopy(there)
                    torch.manual_seed(1)
                    yield from tell(name, verb, place, truth, lambda: f(model, x), on_device)
                if verb in ("encode", "decode"):
                    yield from tell(name, f"{verb}, model on the CPU", DEVICE, truth,
                                    lambda: f(copy.deepcopy(here), small.image().to(DEVICE)), False)


def metrics_table():
    "Metrics of images on two devices."
    x, y = noise(4, 3, 64, 64).clamp(-1, 1), noise(4, 3, 64, 64).flip(0).clamp(-1, 1)
    for verbs, on_device in ((PAIRS, True), (PAIRS_CPU, False)):
        for verb, f in verbs.items():
            truth = f(x, y)
            for place in ("cpu", DEVICE):
                yield from tell("metrics", verb, place, truth,
                                lambda: f(x.to(place), y.to(DEVICE)), on_device)


def flat(module): return torch.cat([p.detach().flatten() for p in module.parameters()])


def run_litevae():
    config = TrainConfig(steps=2, batch_size=2, log_every=1, save_every=1, ema=0.9)
    model = small.models["litevae"]()
    with tempfile.TemporaryDirectory() as out:
        train_litevae(model, PHOTOS, Path(out)/"run", config, size=32, stats_images=8, progress=False)
    return flat(model)


def run_adversarial():
    config = TrainConfig(steps=2, batch_size=2, log_every=1)
    model = small.models["litevae"]()
    train_adversarial(model, PHOTOS, None, config, AdversarialConfig(start=0.), size=32,
                      stats_images=8, progress=False)
    return flat(model)


def run_diffae():
    model = small.models["diffae"]()
    config = TrainConfig(steps=2, batch_size=2, log_every=1)
    return flat(train_diffae(model, FACES, config=config, progress=False))


def run_latent():
    model = latent().to(core.default_device())
    config = TrainConfig(steps=2, batch_size=4, log_every=1)
    faces = ArraySource(FACES, FLAGS, ("a", "b"))
    return flat(model.fit(faces, config=config, size=16, progress=False))


def run_prior():
    model = small.models["diffae"]().to(core.default_device())
    config = TrainConfig(steps=2, batch_size=8, log_every=1)
    return flat(train_prior(model, codes(model), config=config, prior="latent-tiny", progress=False))


RUNS = {"train_litevae": run_litevae, "train_litevae, adversary": run_adversarial,
        "train_diffae": run_diffae, "train_prior": run_prior, "LatentDiffusion.fit": run_latent}


def runs_table():
    "Steps of each trainer, with backward, optimizer, average, checkpoint and images."
    for name, run in RUNS.items():
        torch.manual_seed(0)
        with default_device_is("cpu"): truth = run()
        torch.manual_seed(0)
        with default_device_is(DEVICE): yield from tell("training", name, "cpu", truth, run, True)


def toy_row():
    "PSNR that a row of a table finds at toy size."
    config = toy(find_experiments()["t17"].rows("small")[0].config)
    with tempfile.TemporaryDirectory() as folder: return torch.tensor(run_row(config, 0, folder)["psnr"])


def experiments_table():
    "A row of an experiment, trained and measured, and what experiments measure of a model."
    truth = toy_row()
    with default_device_is(DEVICE): yield from tell("experiments", "run_row", "cpu", truth, toy_row, False)
    torch.manual_seed(0)
    here = small.models["litevae"]()
    there, x = copy.deepcopy(here).to(DEVICE), small.image()
    for name in ("reconstruct_crops", "imbalance_scores"):
        f = getattr(measures, name)
        def numbers(model, f=f): # a tensor, or a dict of numbers
            found = f(model, x)
            return found if isinstance(found, torch.Tensor) else torch.tensor(list(found.values()))
        yield from tell("experiments", name, "cpu", numbers(here), lambda: numbers(there), False)


def judged_edit(m, x):
    "Scores of an edit by a judge that is trained on the model's device."
    torch.manual_seed(0)
    look = judge.fit_judge(x.to(m.device), [[1, 0], [0, 1]], ("A", "B"), n_images=4, batch_size=2)
    z_sem = m.encode(x)
    case = editing.EditCase("A", 1, x.to(m.device), x.flip(0).to(m.device), z_sem, m.noise(2, seeded()), x.to(m.device))
    return editing.edit_scores(case, editing.apply_move(m, case, lambda z, *_: z.flip(0), 2), look)


def noisy_stats(m, x):
    "Statistics of a stream of images."
    stream = published.image_stream(m, 3, 2, seeded(), z(3))
    return published.image_stats(stream, published.feature_network("alexnet", m.device)).mean


OF_DIFFAE = { # numbers that the experiments of Diff-AE find of a model
    "evaluate_autoencoding": lambda m, x: autoencoding.evaluate_autoencoding(m, x, (2,), batch_size=1),
    "encode_batches": lambda m, x: autoencoding.encode_batches(m, x, 1),
    "round_trip": lambda m, x: {i: r["mse"] for i, r in enumerate(autoencoding.round_trip(m, x, (2,)))},
    "code_scores": lambda m, x: samples.code_scores(codes(m), faces.draw_codes(m.prior, 3, 2, seeded())),
    "set_scores": lambda m, x: faces.set_scores(features(noise(5, 3, 64, 64).clamp(-1, 1)).cpu(), faces.draw_images(m, 3, 2, 0)),
    "path_scores": lambda m, x: interpolation.path_scores(interpolation.make_path(m, x[:1], x[1:], 3, 2)),
    "edit_scores": judged_edit, "image_stream": noisy_stats}


def write_celeba(folder, n=12):
    "Images in CelebA's layout."
    (folder/"img_align_celeba").mkdir(parents=True)
    lines = [f"{n}", "Blond_Hair Male"]
    for i in range(1, n + 1):
        pixels = torch.randint(256, (218, 178, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        viz.save_png(folder/f"img_align_celeba/{i:06d}.png", pixels.numpy())
        lines.append(f"{i:06d}.png {1 if i % 3 else -1} {1 if i % 2 else -1}")
    (folder/"list_attr_celeba.txt").write_text("\n".join(lines))


PAPER_ROWS = {"diffae-autoencoding": "Diff-AE @48M, 64-D", "diffae-samples": "CelebA64: Diff-AE", "diffae-prior": "absolute error (the paper)",
              "diffae-classcond": "Male: PU, probability"}


def paper_row(name):
    "What a row of Diff-AE finds at toy size, all its data CelebA's."
    row = next(r for r in find_experiments()[name].rows_at("paper") if r.name == PAPER_ROWS[name])
    config = published.toy_published(row.config)
    config |= {k: ["celeba", "all"] for k in ("data", "test") if k in config}
    with tempfile.TemporaryDirectory() as folder, data_at({"celeba": f"{folder}/celeba"}):
        write_celeba(Path(folder)/"celeba")
        found = row.run(config, 0, Path(folder)/"runs"/"row")
    return torch.tensor([v for k, v in found.items() if "tails" not in k])


def clear():
    "Forget what is kept on a device."
    for kept in (published.row_network, published._real_stats, published._class_stats): kept.cache_clear()


def diffae_table():
    "What the experiments of Diff-AE measure of a model, and rows of the paper's scale, trained and measured."
    torch.manual_seed(0)
    here = small.models["diffae"]()
    there, x = copy.deepcopy(here).to(DEVICE), small.image()
    for name, f in OF_DIFFAE.items():
        def numbers(model, f=f):
            torch.manual_seed(1)
            found = f(model, x)
            return found if isinstance(found, torch.Tensor) else torch.tensor(list(found.values()))
        yield from tell("diffae experiments", name, "cpu", numbers(here), lambda: numbers(there), False)
    for name in PAPER_ROWS:
        clear()
        with default_device_is("cpu"): truth = paper_row(name)
        clear()
        with default_device_is(DEVICE): yield from tell("diffae experiments", name, "cpu", truth, lambda: paper_row(name), False)


def main():
    if DEVICE == "sham": pretend_device.start()
    torch.backends.cudnn.allow_tf32 = False # the table compares with the CPU
    with PretendDevice() if DEVICE == "sham" else nullcontext():
        for table in (models_table, metrics_table, runs_table, experiments_table, diffae_table):
            for row in table(): print(json.dumps(row), flush=True)


if __name__ == "__main__": main()
