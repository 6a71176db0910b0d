"The two players of adversarial training: nobody moves the other, and the tests of that fail when a line that protects is taken out of the source."
import inspect
import os
import subprocess
import sys
import textwrap
from copy import deepcopy

import pytest
import torch
from litevae_diffae.core import seed_everything
from litevae_diffae.crops import Batch
from litevae_diffae.litevae import adversarial, detail_losses, distill, losses, train
from litevae_diffae.litevae.discriminator import UNetDiscriminator
from litevae_diffae.litevae.losses import LossWeights
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.litevae.other_discriminators import PatchDiscriminator
from litevae_diffae.monitor import LossScale

GAME = dict(start=0., warmup=0., ramp=0., cutmix=1., norms_every=1)
WEIGHTS = LossWeights(lpips=0.)


class Recorder:
    "Takes the Trainer's place; after every backward it notes which network has received a gradient, and hands the gradients out of the way."
    n_steps, scale = 4, LossScale()
    def __init__(self, nets): self.nets, self.moved, self.acc = nets, [], self
    def autocast(self): return torch.autocast("cpu", enabled=False)
    def backward(self, loss, parts):
        loss.backward()
        self.moved.append({k for k,net in self.nets.items() if any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())})
        for net in self.nets.values(): net.zero_grad()
    def update(self, name): pass


def moved(module=adversarial, **game):
    "The networks that the generator's and the discriminator's step move."
    seed_everything(0)
    vae, disc = LiteVAE.from_preset("litevae-tiny", decoder_channels=8, aggregator_channels=8, zero_init=False), UNetDiscriminator(channels=4, mult=(1, 2), image_logit=True)
    task = module.AdversarialTask(vae, disc, module.AdversarialConfig(**{**GAME, **game}), WEIGHTS)
    task.run = Recorder(task.nets)
    task.train_step(Batch(torch.rand(2, 3, 32, 32)*2 - 1, None, torch.arange(2)), 3)
    assert all(p.requires_grad for net in task.nets.values() for p in net.parameters())
    return task.run.moved


def mutant(module, old, new):
    "The module with one piece of its source exchanged."
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
    changed = type(module)(module.__name__)
    changed.__package__ = module.__package__
    exec(compile(source.replace(old, new), f"{module.__name__} without {old}", "exec"), changed.__dict__)
    return changed


@pytest.mark.parametrize("game", [{}, dict(adaptive=True), dict(loss="logistic"), dict(cutmix=0.)], ids=str)
def test_each_step_moves_its_own_player(game): assert moved(**game) == [{"model"}, {"disc"}]


@pytest.mark.parametrize("old, new, says", [
    ("x_rec = x_rec.detach()", "x_rec = x_rec", "backward through the graph a second time"),
    ("with frozen(disc):", "if True:", None)])
def test_one_line_less_and_isolation_is_lost(old, new, says):
    broken = mutant(adversarial, old, new)
    if says is None: assert moved(broken) == [{"model", "disc"}, {"disc"}]
    else:
        with pytest.raises(RuntimeError, match=says): moved(broken)


def test_every_term_with_a_weight_is_logged_with_its_gradient():
    "The optional ones too, and no other."
    seed_everything(0)
    vae, disc = LiteVAE.from_preset("litevae-tiny", decoder_channels=8, aggregator_channels=8, zero_init=False), UNetDiscriminator(channels=4, mult=(1, 2), image_logit=True)
    task = adversarial.AdversarialTask(vae, disc, adversarial.AdversarialConfig(**GAME), LossWeights(lpips=0., wavelet=0., gaussian=0., feature=.03, ldl=1.))
    task.run = Recorder(task.nets)
    log = task.train_step(Batch(torch.rand(2, 3, 32, 32)*2 - 1, None, torch.arange(2)), 3)
    assert {"l1", "feature", "ldl", "kl", "g_loss"} < set(log)
    assert {k for k in log if k.startswith("ratio_")} == {"ratio_l1", "ratio_feature", "ratio_ldl", "ratio_g_loss"}
    assert all(0 < log[k] < 1e4 for k in ("ratio_l1", "ratio_feature", "ratio_ldl"))


def test_without_detach_the_discriminator_would_move_the_model():
    "The same mutant, as a code would meet it that computes the reconstruction anew for the second step."
    seed_everything(0)
    vae, disc = LiteVAE.from_preset("litevae-tiny", decoder_channels=8, zero_init=False), UNetDiscriminator(channels=4, mult=(1, 2))
    x = torch.rand(2, 3, 32, 32)*2 - 1
    reached = {}
    for name,module in (("whole", adversarial), ("broken", mutant(adversarial, "x_rec = x_rec.detach()", "x_rec = x_rec"))):
        vae.zero_grad(); module.discriminator_loss(disc, x, vae(x).sample)[0].backward()
        reached[name] = any(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())
    assert reached == {"whole": False, "broken": True}


TARGETS = [(losses, "l1_loss", "(x_rec.float() - x.detach().float()).abs()"), (losses, "charbonnier_loss", "charbonnier(x_rec.float() - x.detach().float(), eps)"),
           (losses, "wavelet_loss", "wavedec2(x_rec.float() - x.detach().float(), wavelet, levels)"), (losses, "gaussian_loss", "high_pass(x_rec.float() - x.detach().float(), kernel_size, sigma)"),
           (losses, "lpips_loss", "lpips(x_rec, x.detach(), net, dtype=dtype, check=False)"), (detail_losses, "feature_loss", "before_relu(x.detach(), net)"),
           (detail_losses, "ldl_loss", "x.detach().float() - x_rec.float()")]


@pytest.mark.parametrize("module, name, line", TARGETS, ids=[n for _,n,_ in TARGETS])
def test_the_target_of_a_loss_gets_no_gradient(module, name, line):
    "Nor the photograph, whatever made it; without the `detach` it would."
    x, x_rec = torch.rand(1, 3, 32, 32, requires_grad=True), torch.rand(1, 3, 32, 32, requires_grad=True)
    for source,expected in ((module, False), (mutant(module, line, line.replace(".detach()", "")), True)):
        of_x, of_rec = torch.autograd.grad(getattr(source, name)(x_rec, x), (x, x_rec), allow_unused=True)
        assert (of_x is not None and bool(of_x.abs().sum() > 0)) == expected and of_rec.abs().sum() > 0


def test_the_wavelet_loss_has_a_gradient():
    "The paper's own transform has none by default; such a loss would be a constant."
    x_rec = torch.rand(1, 3, 32, 32, requires_grad=True)
    losses.wavelet_loss(x_rec, torch.rand(1, 3, 32, 32)).backward()
    assert (x_rec.grad != 0).float().mean() > .99
    dead = mutant(losses, "details = wavedec2(x_rec.float()", "details = wavedec2(x_rec.detach().float()")
    assert not dead.wavelet_loss(x_rec, torch.rand(1, 3, 32, 32)).requires_grad


def test_two_processes_stay_alike(tmp_path):
    "The bare discriminator in the generator's step, the wrapped one in its own: both ranks end with the same weights, and with other ones than they began with."
    (tmp_path/"script.py").write_text(textwrap.dedent('''
        import torch
        from litevae_diffae.core import seed_everything
        from litevae_diffae.crops import Batch
        from litevae_diffae.litevae.adversarial import AdversarialConfig, AdversarialTask
        from litevae_diffae.litevae.discriminator import UNetDiscriminator
        from litevae_diffae.litevae.losses import LossWeights
        from litevae_diffae.litevae.model import LiteVAE
        from litevae_diffae.optim import TrainConfig
        from litevae_diffae.train import Trainer
        flat = lambda net: torch.cat([p.detach().flatten() for p in net.parameters()])
        def images(batch_size, seed=0, start=0, n_workers=0):
            for k in range(start, 100): yield Batch(torch.rand(batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(k))*2 - 1, None, torch.arange(batch_size))
        seed_everything(0)
        task = AdversarialTask(LiteVAE.from_preset("litevae-tiny", decoder_channels=8), UNetDiscriminator(channels=4, mult=(1, 2)),
                               AdversarialConfig(start=.25, warmup=.25, ramp=0., norms_every=1, cutmix=.1), LossWeights(lpips=0.))
        before = [flat(net) for net in task.nets.values()]
        run = Trainer(task, images, TrainConfig(steps=4, batch_size=2, precision="bf16", grad_accum=2), device="cpu", progress=False).fit()
        torch.save([before, [flat(net) for net in task.nets.values()], run.acc.num_processes], f"rank{run.acc.process_index}.pt")
    '''))
    env = dict(os.environ, OMP_NUM_THREADS="1", MASTER_ADDR="127.0.0.1")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "script.py"], capture_output=True, text=True, timeout=300, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (before, a, n), (_, b, _) = (torch.load(tmp_path/f"rank{r}.pt") for r in (0, 1))
    assert n == 2 and all(map(torch.equal, a, b)) and not any(map(torch.equal, a, before))


def test_what_is_taught_is_what_trains(monkeypatch):
    "Each task's step takes its loss from the functions that the chapters explain, for every term."
    called = []
    def watch(module, name):
        inner = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: (called.append(name), inner(*args, **kwargs))[1])
    for name in ("l1_loss", "charbonnier_loss", "wavelet_loss", "gaussian_loss", "ldl_loss", "kl_loss"): watch(losses, name)
    for module in (train, distill): watch(module, "reconstruction_loss")
    for name in ("generator_loss", "discriminator_loss"): watch(adversarial, name)
    watch(train, "equivariance_pair")
    vae, batch = LiteVAE.from_preset("litevae-tiny", decoder_channels=8), Batch(torch.rand(2, 3, 64, 64)*2 - 1, None, torch.arange(2))
    weights = LossWeights(lpips=0., charbonnier=1., ldl=1.)
    disc, game = PatchDiscriminator(channels=4), adversarial.AdversarialConfig(**{**GAME, "cutmix": 0.})
    for task in (train.LiteVAETask(vae, weights), adversarial.AdversarialTask(vae, disc, game, weights, equivariance=1.), distill.DistillTask(vae, deepcopy(vae), weights=weights)):
        called.clear()
        task.run = Recorder(task.nets)
        task.train_step(batch, 3)
        expected = {"reconstruction_loss", "l1_loss", "charbonnier_loss", "wavelet_loss", "gaussian_loss", "ldl_loss"}
        if not isinstance(task, distill.DistillTask): expected |= {"kl_loss"}
        if isinstance(task, adversarial.AdversarialTask): expected |= {"generator_loss", "discriminator_loss", "equivariance_pair"}
        assert set(called) == expected
