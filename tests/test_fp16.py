"""fp16 without a GPU: float16 autocast and a GradScaler on the CPU stand in for a T4. They are put where the Trainer finds its processes;
a user can't ask for this, since float16 is slow on CPUs."""
import copy, math, sys
import pytest
import torch
from accelerate.utils import AutocastKwargs
from test_train import script
from toy_run import Toy, data, weights
from litevae_diffae import monitor, train as module
from litevae_diffae.checkpoint import newest_checkpoint, read_log, read_state
from litevae_diffae.crops import Batch
from litevae_diffae.diffae.model import DiffAE
from litevae_diffae.diffae.train import DiffusionTask
from litevae_diffae.litevae.adversarial import AdversarialConfig, AdversarialTask
from litevae_diffae.litevae.losses import LossWeights
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.litevae.other_discriminators import PatchDiscriminator
from litevae_diffae.litevae.train import LiteVAETask
from litevae_diffae.monitor import TrainingStopped
from litevae_diffae.optim import TrainConfig, ema_decay, lr_factor
from litevae_diffae.train import Trainer

CONFIG = TrainConfig(steps=8, batch_size=2, lr=1e-3, warmup=2, schedule="cosine", precision="bf16", log_every=1, save_every=3, ema=.9)


@pytest.fixture
def t4(monkeypatch):
    "t4(init_scale, growth_interval, half): from now on a run finds a scaler, and float16 unless `half` is False."
    real = module.find_processes
    def begin(init_scale=2.**16, growth_interval=2000, half=True):
        def find(config, cpu=False, out=None):
            acc = real(config.with_changes(precision="bf16"), True, out)
            acc.state._mixed_precision, acc.native_amp = "fp16", True
            acc.autocast_handler = AutocastKwargs(enabled=half)
            acc.scaler = torch.amp.GradScaler("cpu", init_scale, growth_interval=growth_interval)
            return acc
        monkeypatch.setattr(module, "find_processes", find)
    return begin


def images(size):
    def stream(batch_size, seed=0, start=0, n_workers=0):
        k = start
        while True:
            yield Batch(torch.rand(batch_size, 3, size, size, generator=torch.Generator().manual_seed(1000*seed + k))*2 - 1, None, torch.arange(batch_size)); k += 1
    return stream


def litevae():
    torch.manual_seed(0)
    return LiteVAE.from_preset("litevae-tiny", extractor_mult=(1,), decoder_channels=8, zero_init=False)


def game(**changes):
    torch.manual_seed(1)
    disc = PatchDiscriminator(channels=4, n_layers=1)
    config = AdversarialConfig(**{**dict(start=0., warmup=0., ramp=0., norms_every=2, adaptive=True, weight=.5), **changes})
    return AdversarialTask(litevae(), disc, config, LossWeights(lpips=0.))


def diffae():
    torch.manual_seed(0)
    return DiffusionTask(DiffAE.from_preset("diffae-tiny", image_size=16, z_dim=16, channel_mult=(1,), enc_channel_mult=(1, 1), attention_resolutions=()))


TASKS = {"litevae": lambda: LiteVAETask(litevae(), LossWeights(lpips=0.)), "game": game, "diffae": diffae}


def fit(task, out=None, config=CONFIG, stream=images(16), **kwargs):
    run = Trainer(task, stream, config, out, device="cpu", progress=False)
    return run.fit(**kwargs)


def cut(stream, at):
    def short(batch_size, seed, start, n_workers):
        for k, batch in zip(range(start, at), stream(batch_size, seed, start)): yield batch
        raise OSError("power cut")
    return short


def left(run):
    "All that a run leaves: weights and averages, the file of optimizers and scaler, counters, the log without its times."
    folder = newest_checkpoint(run.out)
    saved, state = torch.load(folder/"optimizer.pt", weights_only=True), read_state(folder)
    tensors = [weights(run.task.nets), *(weights({k: run.averaged(k)}) for k in run.ema), *(t for o in saved["optimizers"].values() for s in o["state"].values() for t in s.values())]
    rows = [{k: str(v) for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in read_log(run.out)]
    return tensors, [rows, saved["scaler"], *(state[k] for k in ("skipped", "skipped_in_row", "averages"))]


@pytest.mark.parametrize("name", TASKS)
def test_a_run_skips_trains_and_goes_on(t4, tmp_path, name):
    "From a scale that is too large: the first steps are skipped and logged, then it trains; cut after a skipped and after a good step it ends as if it had not been."
    t4(2.**40)
    config = CONFIG.with_changes(steps=36 if name == "game" else 30, save_every=5, log_every=1)
    whole = fit(TASKS[name](), tmp_path/"whole", config)
    log = read_log(whole.out)
    skipped = [row["skipped_steps"] for row in log]
    assert whole.precision == "fp16" and 10 < skipped[-1] < 28 and skipped[:8] == [*range(1, 9)]
    assert [row["loss_scale"] for row in log] == [2.**(40 - n) for n in skipped]
    assert all(w.isfinite().all() for w in left(whole)[0])
    assert not torch.equal(weights(whole.task.nets), weights(TASKS[name]().nets))
    for at in (7, 28):
        out = tmp_path/f"cut{at}"
        with pytest.raises(OSError, match="power cut"): fit(TASKS[name](), out, config, cut(images(16), at))
        state = read_state(newest_checkpoint(out))
        assert state["skipped"] == skipped[state["step"] - 1] and state["averages"]["model"] < state["step"]
        again, want = left(fit(TASKS[name](), out, config)), left(whole)
        assert all(torch.equal(a, b) for a, b in zip(again[0], want[0], strict=True)) and again[1] == want[1]


# a loss times a power of two, and gradients divided by it: exact in 32 bits, so the truth is a run without a scaler

class Scripted(Toy):
    "Gradients of `what` become infinite in some steps; without a scaler the optimizer is left alone there."
    def __init__(self, what="", at=(), plain=False): super().__init__(noise=0., dropout=0.); self.what, self.at, self.plain = what, at, plain
    def train_step(self, batch, step):
        rec = self.run.nets["model"](batch)
        losses = dict(model=(rec - batch).square().mean(), head=(self.run.nets["head"](rec.detach()) - batch[:, :1]).square().mean())
        for name, loss in losses.items():
            bad = step in self.at and name in self.what
            if bad and not self.plain: loss.register_hook(lambda g: g*math.inf)
            if bad and self.plain and self.run.acc.sync_gradients: self.run.opts[name].zero_grad(); continue
            if bad and self.plain: continue
            self.run.backward(loss, {name: loss})
            self.run.update(name)
        return losses


@pytest.mark.parametrize("accum", [1, 2])
def test_a_scale_that_grows_changes_nothing(t4, tmp_path, accum):
    "Two optimizers, micro-batches, and a scale that doubles after each step: each gradient is divided by what its losses were multiplied by."
    config = CONFIG.with_changes(precision="fp32", grad_accum=accum)
    want = fit(Scripted(), tmp_path/"plain", config, data)
    t4(2.**4, growth_interval=1, half=False)
    run = fit(Scripted(), tmp_path/"scaled", config, data)
    assert torch.equal(weights(run.task.nets), weights(want.task.nets))
    assert [row["loss_scale"] for row in read_log(run.out)] == [2.**(5 + k) for k in range(8)]      # once a step, not once for each optimizer
    assert not {"loss_scale", "skipped_steps"} & set(read_log(want.out)[-1])


@pytest.mark.parametrize("accum", [1, 2])
@pytest.mark.parametrize("what", [("model",), ("head",), ("model", "head")])
def test_only_what_overflowed_stands_still(t4, tmp_path, what, accum):
    "The other optimizer steps; the average of what stood still waits; the learning rate and the length do not."
    at, config = (0, 3, 4), CONFIG.with_changes(precision="fp32", grad_accum=accum)
    seen = []
    class Watched(Scripted):
        def train_step(self, batch, step):
            seen.append((step, copy.deepcopy({k: [p.detach().clone() for p in net.parameters()] for k, net in self.nets.items()}), self.run.opts["model"].param_groups[0]["lr"]))
            return super().train_step(batch, step)
    want = fit(Scripted(what, at, plain=True), None, config, data)
    t4(2.**8, half=False)
    run = fit(Watched(what, at), tmp_path, config, data)
    assert torch.equal(weights(run.task.nets), weights(want.task.nets))
    log = read_log(tmp_path)
    assert [row["skipped_steps"] for row in log] == [1, 1, 1, 2, 3, 3, 3, 3] and [row["loss_scale"] for row in log] == [2.**k for k in (7, 7, 7, 6, 5, 5, 5, 5)]
    assert run.step == 8 and run.images == 8*2*accum
    for step, _, lr in seen: assert lr == pytest.approx(1e-3*lr_factor(step, 8, 2, "cosine"))
    starts = {step: nets for step, nets, _ in reversed(seen)} | {8: {k: [p.detach() for p in net.parameters()] for k, net in run.task.nets.items()}}
    for name in ("model", "head"):
        average, n = starts[0][name], 0
        for step in range(8):                                            # the average by hand, from the weights after each step that was not skipped
            if name in what and step in at: continue
            n += 1; d = ema_decay(n, .9)
            average = [d*a + (1 - d)*w for a, w in zip(average, starts[step + 1][name])]
        assert run.ema[name].n == n == read_state(newest_checkpoint(tmp_path))["averages"][name]
        for a, b in zip(average, run.averaged(name).parameters()): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_never_finite_ends_the_run(t4, tmp_path):
    t4(half=False)
    task = Scripted(("head",), range(5, 100))
    with pytest.raises(TrainingStopped) as e: fit(task, tmp_path, CONFIG.with_changes(steps=100, save_every=5), data)
    assert str(e.value).startswith("step 34: the gradient of optimizer 'head' was NaN or infinite in 30 steps in a row, though the loss was scaled down to 0.000122 times its value; fp32 shows")
    assert "the last good checkpoint is" in str(e.value) and len(read_log(tmp_path)) == 34
    with pytest.raises(TrainingStopped, match="step 34: "): fit(Scripted(("head",), range(5, 100)), tmp_path, CONFIG.with_changes(steps=100, save_every=5), data)   # a resumed run counts on


def test_skipped_steps_in_between_do_not_add_up(t4, monkeypatch):
    monkeypatch.setattr(monitor, "MOST_SKIPPED", 3)
    t4(half=False)
    assert fit(Scripted(("model",), (0, 1, 3, 4, 6, 7)), None, CONFIG, data).scale.skipped == 6


@pytest.mark.parametrize("where,says", [("data", r"step 3: loss term 'rec' is nan; "), ("module", r"step 3: loss term 'rec' is nan; it came out of module 'model.norm' \(GroupNorm\); "),
                                        ("head", r"step 3: loss term 'head' is nan; it came out of module 'head' \(Conv2d\); ")])
def test_a_loss_that_is_nan_ends_the_run_at_once(t4, tmp_path, where, says):
    "Not skipped: no scale helps; and the step is done once more to name the module, although the scaler had seen it."
    t4()
    class Bad(Toy):
        def train_step(self, batch, step):
            if step == 3 and where == "module": self.nets["model"].norm.register_forward_hook(lambda m, i, o: o/0)
            if step == 3 and where == "head": self.nets["head"].register_forward_hook(lambda m, i, o: o*math.nan, prepend=True)
            return super().train_step(batch*math.nan if step == 3 and where == "data" else batch, step)
    run = Trainer(Bad(), data, CONFIG, tmp_path, device="cpu", progress=False)
    with pytest.raises(TrainingStopped, match=says): run.fit()
    assert newest_checkpoint(tmp_path).name == "00000003" and weights(run.task.nets).isfinite().all()


def test_a_checkpoint_without_these_counts_goes_on(t4, tmp_path):
    "Checkpoints of earlier versions don't have them."
    t4(half=False)
    fit(Toy(), tmp_path, CONFIG.with_changes(schedule="constant", steps=3), data)
    from litevae_diffae import resume
    real = resume.find_checkpoint
    def older(out):
        folder, state, damaged = real(out)
        return folder, {k: v for k, v in state.items() if k not in ("skipped", "skipped_in_row", "averages")}, damaged
    resume.find_checkpoint, run = older, None
    try: run = fit(Toy(), tmp_path, CONFIG.with_changes(schedule="constant"), data)
    finally: resume.find_checkpoint = real
    assert run.step == 8 and run.scale.skipped == 0 and run.ema["model"].n == 8


def test_gradient_norms_of_an_adversarial_run_are_those_of_32_bits(t4):
    "The ratio of gradient norms steers the adversary's weight; unscaled, float16 loses the small ones."
    logs = {}
    class Watched(AdversarialTask):
        def train_step(self, batch, step): return logs.setdefault(self.label, super().train_step(batch, step))
    for label in ("fp32", "fp16"):
        if label == "fp16": t4()
        task = game(); task.__class__, task.label, task.weights = Watched, label, LossWeights(l1=1e-3, lpips=0., wavelet=0., gaussian=0., kl=0.)
        fit(task, None, CONFIG.with_changes(precision="fp32", steps=1), images(64))
    for k in ("grad_rec", "ratio_g_loss", "adv_weight"): assert float(logs["fp16"][k]) == pytest.approx(float(logs["fp32"][k]), rel=.05), k


@pytest.mark.skipif(sys.platform != "linux", reason="processes of one run are tried on Linux")
def test_processes_skip_together(tmp_path):
    "What overflows in one process is skipped in all, and they stay alike."
    script(tmp_path, '''
        import math
        import litevae_diffae.train as module
        from accelerate.utils import AutocastKwargs
        real = module.find_processes
        def find(config, cpu=False, out=None):
            acc = real(config, True, out)
            acc.state._mixed_precision, acc.native_amp, acc.autocast_handler = "fp16", True, AutocastKwargs(enabled=True)
            acc.scaler = torch.amp.GradScaler("cpu")
            return acc
        module.find_processes = find
        class Overflows(Toy):
            def train_step(self, batch, step):
                rec = self.run.nets["model"](batch)
                loss = (rec - batch).square().mean()
                if step == 2 and self.run.acc.process_index == 1: loss.register_hook(lambda g: g*math.inf)
                self.run.backward(loss, dict(rec=loss)); self.run.update("model")
                return dict(rec=loss)
        Overflows.optimizers = lambda self, config: {"model": module.adam(self.nets["model"], config)}
        run = Trainer(Overflows(), data, TrainConfig(steps=5, batch_size=2, lr=1e-2, precision="bf16", log_every=1), "out", progress=False).fit()
        torch.save([weights({"model": run.task.nets["model"]}), run.scale.row(), run.ema["model"].n], f"rank{run.acc.process_index}.pt")
    ''', "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    a, b = (torch.load(tmp_path/f"rank{r}.pt", weights_only=True) for r in (0, 1))
    assert torch.equal(a[0], b[0]) and a[0].isfinite().all() and a[1:] == b[1:]
    skipped = [row["skipped_steps"] for row in read_log(tmp_path/"out")]
    assert skipped[2] == skipped[1] + 1 and a[1]["skipped_steps"] == skipped[-1] == 5 - a[2]
