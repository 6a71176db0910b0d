"""Training with recomputed blocks is the same training, and the plan of a run tells its memory, its time and what fits a card."""
import copy
from types import SimpleNamespace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from litevae_diffae.crops import Batch
from litevae_diffae.diffae.model import DiffAE
from litevae_diffae.diffae.train import DiffusionTask
from litevae_diffae.diffusion.model import DDIM
from litevae_diffae.litevae.klvae import KLVAE
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.litevae.train import LiteVAETask
from litevae_diffae.perceptual import lpips_net
from litevae_diffae.recompute import checkpoint_blocks
from litevae_diffae.train import TrainConfig, Trainer, unwrap

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
