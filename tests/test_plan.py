"""Training with recomputed blocks is the same training, and the plan of a run tells its memory, its time and what fits a card."""
import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from litevae_diffae.cli import Train, main
from litevae_diffae.commands.training import train
from litevae_diffae.core import n_params
from litevae_diffae.crops import Batch
from litevae_diffae.diffae.model import DiffAE
from litevae_diffae.diffae.train import DiffusionTask
from litevae_diffae.diffusion.model import DDIM
from litevae_diffae.litevae.klvae import KLVAE
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.litevae.other_discriminators import PatchDiscriminator
from litevae_diffae.litevae.train import LiteVAETask
from litevae_diffae.perceptual import lpips_net
from litevae_diffae.plan import fitting_plan, plan_training
from litevae_diffae.recompute import checkpoint_blocks
from litevae_diffae.timing import in_fresh_process
from litevae_diffae.train import TrainConfig, Trainer

SMALL = dict(block_out_channels=(32, 32, 64), decoder_channels=32, decoder_mult=(1, 1, 2), n_res_blocks=1)


def moved(model):
    "Away from zero-initialised branches, which would hide what lies behind them."
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters(): p.add_(.02 * torch.randn_like(p))
    return model


def task_of(name):
    torch.manual_seed(0)
    if name == "klvae": return LiteVAETask(moved(KLVAE.from_preset("sd-vae-small", **SMALL)))
    if name == "litevae-tiny": return LiteVAETask(moved(LiteVAE.from_preset(name)))
    cls = DDIM if name.startswith("ddim") else DiffAE
    return DiffusionTask(moved(cls.from_preset(name)))


def step(task, x):
    "Loss parts, gradients, and bytes kept for the backward pass besides the weights, of one step; dropout is on."
    net, kept = task.nets["model"].train(), {}
    weights = {p.untyped_storage()._cdata for m in (net, lpips_net()) for p in m.parameters()}

    def keep(v):
        storage = v.untyped_storage()
        if storage._cdata not in weights: kept[storage._cdata] = storage
        return v

    def backward(loss, parts=None): loss.backward()
    task.run = SimpleNamespace(nets=task.nets, backward=backward, update=lambda name: None)
    torch.manual_seed(2)
    with saved_tensors_hooks(keep, lambda v: v): parts = task.train_step(Batch(x, None, None), 0)
    return parts, {k: p.grad for k, p in net.named_parameters()}, sum(s.nbytes() for s in kept.values())


@pytest.mark.parametrize("name", ("litevae-tiny", "klvae", "ddim-tiny", "diffae-tiny"))
def test_recomputed_blocks_train_alike_and_keep_less(name):
    task = task_of(name)
    again = copy.deepcopy(task)
    checkpoint_blocks(again.nets["model"])
    torch.manual_seed(3)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    (parts, grads, kept), (parts_2, grads_2, kept_2) = step(task, x), step(again, x)
    for k in parts: torch.testing.assert_close(parts_2[k], parts[k], rtol=1e-6, atol=1e-6)
    assert any(g is not None and g.abs().max() > 0 for g in grads.values())
    for k, g in grads.items():
        if g is not None: torch.testing.assert_close(grads_2[k], g, rtol=1e-5, atol=1e-6)
    assert kept_2 < .75 * kept, (kept_2, kept)
    assert list(again.nets["model"].state_dict()) == list(task.nets["model"].state_dict())


def test_dropout_of_that_model_is_on():
    "Else the test above would say nothing about random numbers."
    task, x = task_of("diffae-tiny"), torch.zeros(2, 3, 32, 32)
    t, eps, net = torch.tensor([10, 500]), torch.ones(2, 3, 32, 32), task.nets["model"].train()
    assert net(x, t, eps) != net(x, t, eps)


def test_a_run_takes_the_wrappers_off(tmp_path):
    task, x = task_of("litevae-tiny"), torch.zeros(2, 3, 32, 32)
    wrapped = []

    class Watched(type(task)):
        def train_step(self, batch, step):
            wrapped.append(sum("forward" in m.__dict__ for m in self.nets["model"].vae.modules()))
            return super().train_step(batch, step)

    task.__class__ = Watched
    config = TrainConfig(steps=2, batch_size=2, precision="fp32", checkpointing=True)
    def data(batch_size, seed, start, n_workers):
        while True: yield Batch(x, None, None)
    run = Trainer(task, data, config, tmp_path, "cpu", progress=False).fit()
    assert wrapped == [wrapped[0]] * 2 and wrapped[0] > 3
    assert not any("forward" in m.__dict__ for m in task.nets["model"].modules())
    assert "checkpointing" not in run.identity()


# The plan

def growth(monkeypatch, *args):
    "Measured in a fresh process whose allocator gives freed memory back at once."
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    return in_fresh_process("litevae_diffae.plan.training_growth", *args)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory of a process")
@pytest.mark.parametrize("model, size, batch, adversary", [("litevae-tiny", 128, 8, None), ("ddim-tiny", 32, 32, None)])
def test_the_estimate_is_near_the_measurement(monkeypatch, model, size, batch, adversary):
    plan = plan_training(model, size, adversary, batch_size=batch, precision="fp32")
    assert .75 < plan.total_gb / growth(monkeypatch, model, size, batch, adversary) < 1.25


def test_weights_moments_and_average_are_counted_by_hand():
    n = n_params(LiteVAE.from_preset("litevae-tiny"))
    disc = n_params(PatchDiscriminator())
    plan = plan_training("litevae-tiny", 64, "patch", precision="fp32", batch_size=2)
    assert plan.parameters == n + disc
    assert (plan.weights_gb, plan.adam_gb, plan.average_gb) == pytest.approx((4e-9 * (n + disc), 8e-9 * (n + disc), 4e-9 * n))
    assert plan_training("litevae-tiny", 64, precision="fp16", batch_size=2, ema=0.).average_gb == 0
    decoder = n_params(LiteVAE.from_preset("litevae-tiny").decoder)
    assert plan_training("litevae-tiny", 64, freeze_encoder=True, batch_size=2).adam_gb == pytest.approx(8e-9 * decoder)


def test_operations_of_a_step_are_those_of_pytorchs_own_counter():
    task = task_of("litevae-tiny")
    with FlopCounterMode(display=False) as counter: step(task, torch.rand(2, 3, 32, 32) * 2 - 1)
    plan = plan_training("litevae-tiny", 32, batch_size=2, precision="fp32", weights=task.weights)
    assert plan.gmacs == pytest.approx(counter.get_total_flops() / 4e9, rel=.001)


def test_half_precision_halves_what_is_kept_and_checkpoints_more():
    full, half = (plan_training("ddim-tiny", precision=p, batch_size=8) for p in ("fp32", "bf16"))
    less = plan_training("ddim-tiny", precision="bf16", batch_size=8, checkpointing=True)
    assert half.kept_gb == pytest.approx(full.kept_gb / 2, rel=.05)
    assert less.kept_gb < half.kept_gb / 2 and less.total_gb < half.total_gb
    assert half.gmacs < less.gmacs < 4 / 3 * half.gmacs


def test_hours_follow_from_the_recipe_and_the_card():
    plan = plan_training("ddim-64", batch_size=4)
    flop = 2e9 * plan.gmacs * 72e6  # the recipe's images, to a step
    assert plan.hours("t4") == pytest.approx(flop / (65e12 / 4) / 3600, rel=1e-4)
    assert plan.hours("h100") == pytest.approx(plan.hours("t4") * 65 / 989)
    assert plan_training("litevae-tiny", minutes=90., batch_size=1).hours("a100") == 1.5
    with pytest.raises(ValueError, match="a T4 has no bf16"): plan_training("ddim-tiny", batch_size=1, precision="bf16").hours("t4")


@pytest.mark.parametrize("name", ("sd-vae-small", "diffae-avatars", "latent-tiny", "photos"))
def test_every_kind_of_model_has_a_plan(name):
    plan = plan_training(name, batch_size=2)
    assert 0 < plan.kept_gb < plan.total_gb < 5 and plan.gmacs > 0


def test_what_fits_has_the_same_images_a_step_and_is_the_largest():
    plan = plan_training("ddim-tiny", precision="fp32", batch_size=12)
    fit = fitting_plan(plan, plan.needs_gb * .97)
    assert (fit.config.batch_size, fit.config.grad_accum) == (6, 2) and fit.needs_gb <= plan.needs_gb * .97
    fit = fitting_plan(plan, fit.needs_gb - .001)
    assert (fit.config.batch_size, fit.config.grad_accum) == (4, 3)
    assert fitting_plan(plan, 1.) is None


def test_train_refuses_a_gpu_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = Train(model="ddim-tiny", data="no such folder", out="run", batch_size=8, steps=2, precision="fp32")
    with pytest.raises(ValueError) as error: train(command, gigabytes=1.06)
    said = str(error.value)
    assert "ddim-tiny at 32 pixels with batch 8 needs about 1.1 GB, this GPU has 1.1 GB free; --batch-size 4 --grad-accum 2 needs" in said
    assert "\n" not in said and not (tmp_path / "run").exists()
    with pytest.raises(FileNotFoundError): train(command, gigabytes=15.)  # it fits: the data are looked for
    vae = Train(model="litevae-tiny", data="no such folder", out="run", batch_size=2, adversary="patch", size=64)
    with pytest.raises(ValueError, match="no batch fits, not even with --checkpointing"): train(vae, gigabytes=1.)


def test_the_command_says_it(capsys):
    main(["plan", "litevae-tiny", "--size", "64", "--batch", "8", "--gpu", "t4", "--checkpointing"])
    out = capsys.readouterr().out
    assert "539,120 parameters" in out and "blocks computed twice" in out and "T4, 15 GB: fits" in out and "L4" not in out
    with pytest.raises(SystemExit): main(["plan", "ddim-tiny", "--adversary", "unet"])
    assert "adversary: only for a LiteVAE or KLVAE, got a DDIM" in capsys.readouterr().err
