"The Trainer: continued runs, kill -9, NaN, two processes, the weight average."
import json, os, subprocess, sys, textwrap
from pathlib import Path
import pytest
import torch
from torch import nn
from toy_run import Toy, data, weights
from litevae_diffae.checkpoint import newest_checkpoint, read_log
from litevae_diffae.monitor import TrainingStopped
from litevae_diffae.optim import EMA, TrainConfig, ema_decay
from litevae_diffae.train import Trainer

# The toy's lines stand before those of the scripts too, which are processes of their own.
TOY = Path(__file__).with_name("toy_run.py").read_text() + """
import os, signal, sys
from pathlib import Path
import litevae_diffae.resume as resume
import litevae_diffae.train as train
from litevae_diffae.checkpoint import newest_checkpoint
from litevae_diffae.optim import TrainConfig
from litevae_diffae.train import Trainer
"""
CONFIG = TrainConfig(steps=12, batch_size=4, lr=1e-2, warmup=3, schedule="cosine", precision="fp32", log_every=4, save_every=3)


def train(out, config=CONFIG, data=data, seed=0, **kwargs): return Trainer(Toy(seed), data, config, out, device="cpu", progress=False).fit(**kwargs)


def script(tmp_path, code, *command):
    "Run `code` after the toy's in a process of its own; its output."
    (tmp_path/"script.py").write_text(TOY + textwrap.dedent(code))
    env = dict(os.environ, OMP_NUM_THREADS=str(torch.get_num_threads()), MASTER_ADDR="127.0.0.1")
    done = subprocess.run([sys.executable, *command, str(tmp_path/"script.py")], capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def everything(run):
    "All a run leaves: both kinds of weights, Adam's memory, the random generators, the log without its times."
    saved = torch.load(newest_checkpoint(run.out)/"optimizer.pt", weights_only=True)
    log = [{k: v for k,v in row.items() if k not in ("seconds", "images_per_second")} for row in read_log(run.out)]
    adam = [t for o in saved["optimizers"].values() for s in o["state"].values() for t in s.values()]
    rng = saved["rng"][0]
    return [weights(run.task.nets), weights({k: run.averaged(k) for k in run.ema}), *adam, rng["torch"]], [log, rng["python"], rng["numpy"]]


@pytest.mark.parametrize("stop_at", [4, 6, 11])
@pytest.mark.parametrize("precision,accum", [("fp32", 1), ("bf16", 2)])
def test_continued_equals_uninterrupted(tmp_path, stop_at, precision, accum):
    config = CONFIG.with_changes(precision=precision, grad_accum=accum)
    def cut(batch_size, seed, start, n_workers):
        for k,batch in zip(range(start, stop_at*accum), data(batch_size, seed, start)): yield batch
        raise OSError("power cut")
    whole = train(tmp_path/"whole", config)
    with pytest.raises(OSError, match="power cut"): train(tmp_path/"cut", config, cut)
    assert int(newest_checkpoint(tmp_path/"cut").name) == stop_at//3*3
    tensors, plain = everything(train(tmp_path/"cut", config, seed=7))                # other initial weights: they must not matter
    want, want_plain = everything(whole)
    assert all(torch.equal(a, b) for a,b in zip(tensors, want, strict=True)) and plain == want_plain


def test_finished_run_is_only_loaded(tmp_path):
    first = train(tmp_path); again = train(tmp_path, seed=3)
    assert torch.equal(weights(first.task.nets), weights(again.task.nets)) and len(read_log(tmp_path)) == 3


def test_other_settings_are_refused(tmp_path):
    train(tmp_path)
    for change,says in ((dict(lr=.1), r"lr=0\.01 \(now 0\.1\)"), (dict(batch_size=8), "batch_size=4"), (dict(steps=20), "steps=12"), (dict(precision="bf16"), "precision='fp32'")):
        with pytest.raises(ValueError, match=says): train(tmp_path, CONFIG.with_changes(**change))
    train(tmp_path, CONFIG.with_changes(log_every=1, n_workers=2))                    # how it is watched may change
    assert train(tmp_path, CONFIG.with_changes(lr=.1), resume=False).step == 12       # or a new run, if one says so


def test_constant_schedule_may_be_extended(tmp_path):
    config = CONFIG.with_changes(schedule="constant")
    train(tmp_path/"a", config.with_changes(steps=6)); longer = train(tmp_path/"a", config, seed=5); whole = train(tmp_path/"b", config)
    assert torch.equal(weights(longer.task.nets), weights(whole.task.nets))


def test_kill_9_during_a_checkpoint(tmp_path):
    "Killed while weights are written, in the middle of the optimizer file, before and after the rename: a whole checkpoint is there, and the run goes on from it."
    script(tmp_path, '''
        config = TrainConfig(steps=6, batch_size=4, lr=1e-2, precision="fp32", save_every=2, log_every=2)
        die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
        def weights_file(*args): real(*args); die()
        def half_file(state, path): open(path, "wb").write(b"PK half"); die()
        def after(*args): real(*args); die()
        points = dict(weights=(resume, "save_file", weights_file, 2), optimizer=(torch, "save", half_file, 2), before=(os, "replace", die, 2), after=(os, "replace", after, 4))
        for name,(where, attribute, trap, survivor) in points.items():
            if (child := os.fork()) == 0:
                real, hook = getattr(where, attribute), train.Trainer.save
                def save(self):
                    if self.step == 4: setattr(where, attribute, trap)               # the second checkpoint is the deadly one
                    hook(self)
                train.Trainer.save = save
                Trainer(Toy(), data, config, f"out/{name}", device="cpu", progress=False).fit()
                os._exit(0)
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, name
            assert int(newest_checkpoint(f"out/{name}").name) == survivor, name
    ''')
    config = TrainConfig(steps=6, batch_size=4, lr=1e-2, precision="fp32", save_every=2, log_every=2)
    want, want_plain = everything(train(tmp_path/"whole", config))
    for name in ("weights", "optimizer", "before", "after"):
        tensors, plain = everything(train(tmp_path/"out"/name, config))
        assert all(torch.equal(a, b) for a,b in zip(tensors, want, strict=True)) and plain == want_plain, name
        assert [p.name for p in (tmp_path/"out"/name/"resume").iterdir() if not p.name.startswith(".")] == ["00000006"]


@pytest.mark.parametrize("bad,says", [
    ("loss", r"step 5: loss term 'rec' is nan; the last good checkpoint is .*00000003"),
    ("module", r"step 5: loss term 'rec' is nan; it came out of module 'model.norm' \(GroupNorm\); the last good"),
    ("gradient", r"step 5: the gradient of optimizer 'model' is nan, first in parameter 'conv1.weight'")])
def test_nan_stops_the_run(tmp_path, bad, says):
    class Bad(Toy):
        def train_step(self, batch, step):
            net, now = self.nets["model"], step == 5
            if bad == "module" and now: net.norm.register_forward_hook(lambda m, i, o: o/0)
            x = batch + (float("nan") if bad == "loss" and now else 0)
            rec = self.run.nets["model"](x)
            if bad == "gradient" and now: rec.register_hook(lambda g: g*float("nan"))
            parts = dict(rec=(rec - batch).abs().mean())
            self.run.backward(parts["rec"], parts); self.run.update("model")
            return parts
    run = Trainer(Bad(), data, CONFIG, tmp_path, device="cpu", progress=False)
    with pytest.raises(TrainingStopped, match=says): run.fit()
    assert weights(run.task.nets).isfinite().all()


def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    code = '''
        config = TrainConfig(steps=4, batch_size=4, lr=1e-2, precision="fp32", save_every=2, log_every=2, grad_accum=2)
        run = Trainer(Toy(noise=0., dropout=0.), data, config, "out", device="cpu").fit()
        from litevae_diffae.crops import Batch
        from litevae_diffae.litevae.losses import LossWeights
        from litevae_diffae.litevae.model import LiteVAE
        from litevae_diffae.litevae.train import LiteVAETask
        torch.manual_seed(0)
        task = LiteVAETask(LiteVAE.from_preset("litevae-tiny", extractor_mult=(1,), decoder_channels=8), LossWeights(lpips=0.))
        images = lambda **kwargs: (Batch(x.clamp(-1, 1), None, torch.arange(len(x))) for x in data(**kwargs))
        Trainer(task, images, TrainConfig(steps=2, batch_size=2, precision="fp32"), device="cpu").fit()   # posterior samples differ between the processes
        torch.save([weights(run.task.nets), weights({k: run.averaged(k) for k in run.ema}), weights(task.nets), run.images, run.acc.num_processes], f"rank{run.acc.process_index}.pt")
    '''
    script(tmp_path, code, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    a, b = (torch.load(tmp_path/f"rank{r}.pt") for r in (0, 1))
    assert a[3:] == [4*4*2*2, 2]
    assert all(torch.equal(a[i], b[i]) for i in range(3))
    config = TrainConfig(steps=4, batch_size=8, lr=1e-2, precision="fp32", log_every=2, grad_accum=2)
    one = Trainer(Toy(noise=0., dropout=0.), data, config, tmp_path/"one", device="cpu", progress=False).fit()
    torch.testing.assert_close(weights(one.task.nets), a[0], rtol=0, atol=2e-5)
    two_log, one_log = read_log(tmp_path/"out"), read_log(tmp_path/"one")
    assert len(two_log) == 2 and all(abs(r["rec"] - s["rec"]) < 1e-5 and r["images"] == s["images"] for r,s in zip(two_log, one_log))


def test_ema_closed_form():
    "Weights that follow a straight line: the average is the weighted sum that the recursion unrolls to."
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad(): net.weight.fill_(0.)
    ema = EMA(net, .9)
    for n in range(1, 201):
        with torch.no_grad(): net.weight.fill_(float(n))
        ema.update(net)
    want = sum(n*(1 - ema_decay(n, .9))*torch.tensor([ema_decay(m, .9) for m in range(n + 1, 201)], dtype=torch.float64).prod().item() for n in range(1, 201))
    assert abs(ema.module.weight.item() - want) < 1e-3 and abs(want - (200 - .9/.1)) < 1e-3   # a lag of d/(1-d) steps
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_resume_files_hold_no_code(tmp_path):
    run = train(tmp_path); folder = newest_checkpoint(tmp_path)
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "head.safetensors", "model_ema.safetensors", "head_ema.safetensors", "optimizer.pt", "state.json"}
    assert set(torch.load(folder/"optimizer.pt", weights_only=True)) == {"optimizers", "rng", "scaler"}
    assert json.loads((folder/"state.json").read_text())["step"] == run.step == 12
