"A run in the hands of users: damaged checkpoints, signals, two runs in one folder, full disks, edited logs, changed data."
import errno
import json
import os
import pickle
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from litevae_diffae import checkpoint, resume
from litevae_diffae.checkpoint import find_checkpoint, take_lock
from litevae_diffae.cli import main
from litevae_diffae.files import FileError, WriteError
from litevae_diffae.litevae.adversarial import AdversarialConfig, train_adversarial
from litevae_diffae.litevae.discriminator import DiscriminatorConfig
from litevae_diffae.litevae.distill import distill_decoder
from litevae_diffae.litevae.losses import LossWeights
from litevae_diffae.litevae.model import LiteVAE
from litevae_diffae.litevae.train import train_litevae
from litevae_diffae.checkpoint import newest_checkpoint, read_log
from litevae_diffae.optim import TrainConfig
from litevae_diffae.train import Trainer
from litevae_diffae.viz import save_png
from test_train import CONFIG, everything, script, train
from toy_run import Toy, data

PROCESSES = os.environ.get("PROCESSES", "2")  # PROCESSES=4 pytest tests/test_runs.py: with four
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


class Does(Toy):
    "The toy, with something that happens in the middle of a step."
    def __init__(self, what, at=4, **kwargs):
        super().__init__(**kwargs)
        self.what, self.at = what, at

    def train_step(self, batch, step):
        if step == self.at: self.what()
        return super().train_step(batch, step)


def run(task, out, config=CONFIG, data=data, **kwargs): return Trainer(task, data, config, out, device="cpu", progress=False).fit(**kwargs)


def equal(a, b):
    "Whether two runs left the same, bit for bit."
    (tensors, plain), (want, want_plain) = everything(a), everything(b)
    return all(torch.equal(x, y) for x, y in zip(tensors, want, strict=True)) and plain == want_plain


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run that nothing happened to."
    return train(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    "The folder of a run that was stopped after step 5 of 12."
    out = tmp_path_factory.mktemp("stopped")/"run"
    with pytest.raises(KeyboardInterrupt): run(Does(lambda: signal.raise_signal(signal.SIGINT)), out)
    return out


@pytest.fixture
def half(stopped, tmp_path):
    "A copy of it."
    return Path(shutil.copytree(stopped, tmp_path/"half"))


def files_of(out): return {p.relative_to(out).as_posix(): p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}


# damaged checkpoints

DAMAGE = dict(empty=lambda b: b"", lfs=lambda b: LFS, cut=lambda b: b[:len(b)//2], short=lambda b: b[:-1], longer=lambda b: b + b"x",
              flipped=lambda b: b[:len(b)//2] + bytes([b[len(b)//2] ^ 1]) + b[len(b)//2 + 1:])
SAYS = dict(empty="is empty", lfs="is a note of git-lfs, not the file itself; fetch the file with git lfs pull", cut="is cut short", short="is cut short",
            longer="has .* bytes, it had", flipped="was changed or damaged after it was written")
JSON_SAYS = dict(SAYS, cut="is not JSON", short="is not JSON", longer="is not JSON", flipped="damaged after it was written|is not JSON|is not UTF-8")


@pytest.mark.parametrize("name", ["model.safetensors", "head_ema.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named(half, name, damage):
    "The file, what it is, and the way out, in one line; nothing is changed."
    path = newest_checkpoint(half)/name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    before = files_of(half)
    with pytest.raises(FileError, match=(JSON_SAYS if name == "state.json" else SAYS)[damage]) as error: train(half)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and f"delete {half/'resume'} to begin anew" in text and "weights_only" not in text
    assert files_of(half) == before


def test_the_way_out_leads_out(half, whole):
    (newest_checkpoint(half)/"optimizer.pt").write_bytes(b"")
    shutil.rmtree(half/"resume")
    assert equal(train(half), whole)


def test_a_missing_file_is_named(half):
    (newest_checkpoint(half)/"head.safetensors").unlink()
    with pytest.raises(FileError, match="head.safetensors: no such file; put the file back, or delete"): train(half)


def test_no_damaged_byte_is_continued(half):
    "One byte anywhere in a checkpoint; before, such weights were trained on."
    folder, rng = newest_checkpoint(half), random.Random(0)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for _ in range(60):
            k = rng.randrange(len(data))
            path.write_bytes(data[:k] + bytes([data[k] ^ rng.randrange(1, 256)]) + data[k + 1:])
            try: state = find_checkpoint(half)[1]
            except FileError as error: assert str(error).startswith(f"{folder}")
            else:
                path.write_bytes(data)
                assert path.name == "state.json" and state == find_checkpoint(half)[1]           # a blank for a line end
        path.write_bytes(data)


def test_the_newest_whole_checkpoint_is_taken(tmp_path, whole, monkeypatch, capsys):
    "Killed between a checkpoint and the deletion of the one before; then the disk loses the newer one."
    with monkeypatch.context() as m:
        m.setattr(resume, "clear_resume", lambda *args, **kwargs: [])
        with pytest.raises(OSError): run(Does(lambda: (_ for _ in ()).throw(OSError("power cut")), at=8), tmp_path)
    old, new = sorted((tmp_path/"resume").iterdir())
    assert (old.name, new.name) == ("00000003", "00000006")
    (new/"model.safetensors").write_bytes((new/"model.safetensors").read_bytes()[:-4])
    assert newest_checkpoint(tmp_path) == old
    assert equal(train(tmp_path), whole)
    assert "model.safetensors: is cut short" in (said := capsys.readouterr().out) and "goes on from step 3" in said
    assert sorted(p.name for p in (tmp_path/"resume").iterdir()) == ["00000012", "damaged-00000006"]


def test_a_checkpoint_of_an_earlier_version_is_continued(half, whole):
    "Those have no sums, the bytes of the log instead of its rows, and the counters of one process."
    path = newest_checkpoint(half)/"state.json"
    state = json.loads(path.read_text())
    for k in ("sha256", "files", "n_rows", "length"): del state[k]
    path.write_text(json.dumps(dict(state, running=state["running"][0], log_bytes=(half/"log.jsonl").stat().st_size)))
    assert equal(train(half), whole)


def test_the_command_line_says_it_in_one_line(half, tmp_path, capsys):
    import numpy as np
    from PIL import Image
    (tmp_path/"photos").mkdir()
    for i in range(3): Image.fromarray(np.full((32, 32, 3), 80*i, np.uint8)).save(tmp_path/f"photos/{i}.png")
    argv = ["train", "litevae-tiny", "--data", str(tmp_path/"photos"), "--out", str(half), "--size", "32", "--steps", "2"]
    (newest_checkpoint(half)/"model.safetensors").write_bytes(LFS)
    with pytest.raises(SystemExit) as stop: main(argv)
    assert stop.value.code == 2
    line, = capsys.readouterr().err.strip().splitlines()
    assert "model.safetensors: is a note of git-lfs" in line


# signals

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize("number,code", SIGNALS)
@pytest.mark.parametrize("at", [0, 4, 5, 11])
def test_a_signal_saves_and_the_run_goes_on(tmp_path, whole, capsys, number, code, at):
    handlers = [signal.getsignal(n) for n, _ in SIGNALS]
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as stop: run(Does(lambda: signal.raise_signal(number), at=at), tmp_path)
    assert getattr(stop.value, "code", 130) == code
    assert capsys.readouterr().out == f"stopped after step {at + 1} of 12; saved in {tmp_path/'resume'}; the same command with the same out goes on there\n"
    assert newest_checkpoint(tmp_path).name == f"{at + 1:08d}" and not (tmp_path/"run.lock").exists()
    assert [signal.getsignal(n) for n, _ in SIGNALS] == handlers
    assert equal(train(tmp_path, seed=5), whole)


@pytest.mark.parametrize("number,code", SIGNALS)
def test_exit_codes_of_the_command_line(monkeypatch, tmp_path, number, code):
    from litevae_diffae import cli
    class Run:
        trains = True
        def __call__(self): run(Does(lambda: signal.raise_signal(number)), tmp_path)
    monkeypatch.setattr(cli, "parse", lambda args: Run())
    with pytest.raises(SystemExit) as stop: main([])
    assert stop.value.code == code and newest_checkpoint(tmp_path).name == "00000005"


def test_without_a_folder(capsys):
    with pytest.raises(SystemExit): run(Does(lambda: signal.raise_signal(signal.SIGTERM)), None)
    assert capsys.readouterr().out == "stopped after step 5 of 12; nothing was saved, the run has no folder\n"
    assert run(Toy(), None).step == 12 and capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match="out: must be a folder to save a checkpoint, got None"): Trainer(Toy(), data).save()


def test_the_second_signal_stops_at_once(tmp_path):
    def both(): signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stop: run(Does(both, at=4), tmp_path)
    assert not str(stop.value) and newest_checkpoint(tmp_path).name == "00000003" and not (tmp_path/"run.lock").exists()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_handlers_of_others_are_left_alone(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *args: seen.append(args[0]))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)                           # as nohup does
    try: assert run(Does(lambda: [signal.raise_signal(n) for n in (signal.SIGTERM, signal.SIGHUP)]), tmp_path).step == 12
    finally: signal.signal(signal.SIGTERM, before); signal.signal(signal.SIGHUP, ignored)
    assert seen == [signal.SIGTERM]


def test_in_another_thread(tmp_path, whole):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(train(tmp_path)))
    thread.start(); thread.join()
    assert equal(runs[0], whole)


# one run in a folder

def test_a_second_run_in_a_folder_is_refused(tmp_path, whole):
    refused, other = [], Toy(1)
    def second():
        with pytest.raises(FileError) as error: run(other, tmp_path)
        refused.append(str(error.value))
    first = run(Does(second), tmp_path)
    assert refused[0].startswith(f"{tmp_path}: a run is going on here: process {os.getpid()} on ") and refused[0].endswith("; wait for its end, stop it, or use another folder")
    assert equal(first, whole)


ELSEWHERE = "import pickle, sys; import test_runs; f, a = pickle.load(sys.stdin.buffer); said = getattr(test_runs, f)(*a); print('SAID', said, end='')"


def elsewhere(function, *args):
    "Call a function of this file in a process of its own; its number, and what the function returned. A forked child could not compute gradients."
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT/"tests"), str(ROOT/"tools"), *filter(None, [os.environ.get("PYTHONPATH")])])}
    child = subprocess.Popen([sys.executable, "-c", ELSEWHERE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=ROOT)
    said, _ = child.communicate(pickle.dumps((function, args)), timeout=100)
    return child.pid, said.decode().partition("SAID ")[2]


def killed_at_step_7(out): run(Does(lambda: os.kill(os.getpid(), signal.SIGKILL), at=7), out)


def test_a_killed_run_leaves_an_old_lock(tmp_path, whole, capfd):
    child, _ = elsewhere("killed_at_step_7", tmp_path)
    assert (tmp_path/"run.lock").exists()
    assert equal(train(tmp_path), whole)
    assert f"run.lock: was left by process {child}, which is gone" in capfd.readouterr().out and not (tmp_path/"run.lock").exists()


LOCKS = [(dict(pid=os.getpid(), host="elsewhere", began="1", since="noon"), "another run is here: process .* on elsewhere since noon; if no run is going on in this folder, delete the file"),
         (dict(pid=-1, host="elsewhere"), "is no lock of a run; if no"), (dict(pid=2**70), "is no lock of a run"), ([], "holds a list"), (None, "is empty")]


@pytest.mark.parametrize("lock,says", LOCKS)
def test_locks_that_cannot_be_judged(tmp_path, lock, says):
    text = "" if lock is None else json.dumps(lock)
    (tmp_path/"run.lock").write_text(text)
    with pytest.raises(FileError, match=f"run.lock: {says}"): train(tmp_path)
    assert (tmp_path/"run.lock").read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_a_number_that_another_process_has_now(tmp_path):
    "Process numbers are used again; the lock of this very process is none if it began at another time."
    began = checkpoint.process_began(os.getpid())
    (tmp_path/"run.lock").write_text(json.dumps(dict(pid=os.getpid(), host=checkpoint.socket.gethostname(), began=began + "0", since="noon")))
    assert "which is gone" in take_lock(tmp_path)
    with pytest.raises(FileError, match="a run is going on here"): take_lock(tmp_path)


def test_a_lock_where_there_are_no_links(tmp_path, monkeypatch):
    def link(*args): raise PermissionError(errno.EPERM, "Operation not permitted")
    monkeypatch.setattr(os, "link", link)
    assert take_lock(tmp_path) == ""
    with pytest.raises(FileError, match="a run is going on here"): take_lock(tmp_path)


def test_one_of_many_gets_the_lock(tmp_path):
    "Also if an old lock is there, which all of them want to remove."
    for k in range(5):
        out = tmp_path/str(k); out.mkdir()
        (out/"run.lock").write_text(json.dumps(dict(pid=2**22 + 5, host=checkpoint.socket.gethostname(), began="1", since="noon")))
        children, pipe, end = [], os.pipe(), os.pipe()
        for _ in range(6):
            if (child := os.fork()) == 0:
                os.read(pipe[0], 1)
                try: take_lock(out)
                except FileError: os._exit(3)
                select.select([end[0]], [], [], 20); os._exit(0)                     # the winner waits for the others
            children.append(child)
        os.write(pipe[1], b"123456")
        losers = sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in children[1:])
        os.write(end[1], b"1")
        codes = [os.waitstatus_to_exitcode(os.wait()[1]), *losers]
        for handle in (*pipe, *end): os.close(handle)
        assert codes == [0, 3, 3, 3, 3, 3]


def test_nobody_takes_the_folder_while_an_old_lock_is_removed(tmp_path, monkeypatch):
    "Else the one who has just seen the old lock removes the new one, and a third gets in."
    (tmp_path/"run.lock").write_text(json.dumps(dict(pid=2**22 + 5, host=checkpoint.socket.gethostname(), began="1", since="noon")))
    remove, others, said = checkpoint._remove_lock, [], []
    def other():
        try: said.append(take_lock(tmp_path))
        except FileError as e: said.append(str(e))
    def slowly(path, lock):
        if not others:
            others.append(threading.Thread(target=other))
            others[0].start(); others[0].join(.5)
            assert others[0].is_alive() and said == []
        return remove(path, lock)
    monkeypatch.setattr(checkpoint, "_remove_lock", slowly)
    assert "which is gone" in take_lock(tmp_path)
    others[0].join(20)
    assert "a run is going on here" in said[0] and [p.name for p in tmp_path.iterdir()] == ["run.lock"]


# the log

ROWS = [4, 8, 12]


def steps(out): return [r["step"] for r in read_log(out)]


def clean(out): return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in read_log(out)]


EDITS = dict(cut=lambda b: b + b'{"step": 5, "ima', after=lambda b: b + b'{"step": 8, "rec": 0.5}\n{"step": 12}\n', no_line_end=lambda b: b[:-1],
             twice_cut=lambda b: b + b'{"step": 8}\n{"st')


@pytest.mark.parametrize("edit", EDITS)
def test_a_resumed_log_has_each_row_once(half, whole, edit):
    path = half/"log.jsonl"
    path.write_bytes(EDITS[edit](path.read_bytes()))
    train(half)
    assert clean(half) == clean(whole.out)


def test_what_a_user_wrote_into_the_log_stays(half):
    path = half/"log.jsonl"
    path.write_bytes(b"# learning rate was 0.01 here\n" + path.read_bytes().replace(b'{"step"', b'{"note": "first", "step"'))
    train(half)
    first, *rest = path.read_bytes().splitlines()
    assert first == b"# learning rate was 0.01 here" and b'"note": "first"' in rest[0] and len(rest) == 3
    with pytest.warns(UserWarning, match="log.jsonl: 1 of 4 lines are no rows and left out: 1"): assert steps(half) == ROWS


def test_a_vanished_log_is_said(half, capsys):
    (half/"log.jsonl").unlink()
    train(half)
    assert f"{half/'log.jsonl'}: has 0 rows up to step 5, it had 1; the run goes on" in capsys.readouterr().out
    assert steps(half) == [8, 12] and b"\0" not in (half/"log.jsonl").read_bytes()
    train(half)
    assert not capsys.readouterr().out                                                  # once


def test_numbers_that_are_none_in_the_log(tmp_path):
    class Odd(Toy):
        def train_step(self, batch, step): return {**super().train_step(batch, step), "odd": float("nan" if step == 2 else "inf")}
    run(Odd(), tmp_path, CONFIG.with_changes(steps=4, log_every=1, save_every=1))
    lines = (tmp_path/"log.jsonl").read_text().splitlines()
    assert len(lines) == 4 and all(json.loads(line, parse_constant=pytest.fail)["odd"] is None for line in lines)
    assert [str(r["odd"]) for r in read_log(tmp_path)] == ["inf", "inf", "nan", "inf"] and "not_finite" not in read_log(tmp_path)[0]


def test_values_between_rows_keep_their_infinities(tmp_path):
    "They wait in the checkpoint for the next row."
    class Odd(Does):
        def train_step(self, batch, step): return {**super().train_step(batch, step), "odd": float("inf") if step == 1 else 0.}
    with pytest.raises(SystemExit): run(Odd(lambda: signal.raise_signal(signal.SIGTERM), at=1), tmp_path)
    json.loads((newest_checkpoint(tmp_path)/"state.json").read_text(), parse_constant=pytest.fail)
    run(Odd(lambda: None), tmp_path)
    assert read_log(tmp_path)[0]["odd"] == float("inf") and read_log(tmp_path)[1]["odd"] == 0.


def test_a_bad_line_does_not_end_the_log(tmp_path):
    (tmp_path/"log.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n[1]\n{"step": 2, "v": NaN}\n{"step": 3, "v": null}\n{"st')
    with pytest.warns(UserWarning, match="3 of 6 lines are no rows and left out: 2, 3, 6"): rows = read_log(tmp_path)
    assert [r["step"] for r in rows] == [1, 2, 3] and all(r["v"] != r["v"] for r in rows[1:])


# the folder

def limited(out, size, **kwargs):
    "Run in a process whose files may not get larger than `size` bytes; what it said."
    _, said = elsewhere("train_in_files_of", out, size, kwargs)
    return said


def train_in_files_of(out, size, kwargs):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try: train(out, **kwargs)
    except BaseException as e: return f"{type(e).__name__} {e}"
    return "done"


@pytest.mark.parametrize("size", [1500, 2500, 6000, 12000])
def test_a_full_disk(half, whole, size):
    "Whichever file it hits: one sentence, the last checkpoint intact, nothing half, and the run goes on when there is room."
    left, before = newest_checkpoint(half), files_of(newest_checkpoint(half))
    said = limited(half, size)
    assert said.startswith(f"WriteError {half/'resume'/'00000006'}: can't be written (") and said.endswith(f"; the last good checkpoint is {left}"), said
    assert "inline_container" not in said and files_of(left) == before
    assert [p.name for p in (half/"resume").iterdir()] == [left.name] and not (half/"run.lock").exists()
    assert equal(train(half), whole)


def test_a_full_disk_and_the_log(half, whole):
    (size,) = {(half/"log.jsonl").stat().st_size}
    said = limited(half, size + 10, config=CONFIG.with_changes(save_every=0))
    assert said.startswith(f"WriteError {half/'log.jsonl'}: can't be written (File too large); the last good checkpoint is "), said
    assert (half/"log.jsonl").stat().st_size == size                                # no half row
    assert equal(train(half), whole)


def test_a_full_disk_at_the_first_checkpoint(tmp_path):
    assert limited(tmp_path, 2000).endswith("; no checkpoint was written yet")
    assert list((tmp_path/"resume").iterdir()) == []


@pytest.mark.parametrize("config", [CONFIG, CONFIG.with_changes(log_every=1), CONFIG.with_changes(log_every=50)])
def test_a_vanished_folder(tmp_path, config):
    with pytest.raises(WriteError, match="out: the folder is gone; no checkpoint was written yet"): run(Does(lambda: shutil.rmtree(tmp_path/"out")), tmp_path/"out", config)
    assert not (tmp_path/"out").exists()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path/"file").touch()
    with pytest.raises(WriteError, match="file/run: can't be written .*; use another folder"): train(tmp_path/"file"/"run")
    with pytest.raises(WriteError, match="file: can't be written .*; use another folder"): train(tmp_path/"file")
    def read_only(out): raise OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(resume, "take_lock", read_only)
    with pytest.raises(WriteError, match=r"out: can't be written \(Read-only file system\); use another folder"): train(tmp_path/"out")


def test_pictures_that_cannot_be_written(tmp_path):
    class Draws(Toy):
        def pictures(self): return {"a": (torch.zeros(4, 4, 3)).byte().numpy()}
    (tmp_path/"grids").touch()
    with pytest.raises(WriteError, match="a_0000003.png: can't be written .*; no checkpoint was written yet"): run(Draws(), tmp_path, CONFIG.with_changes(grid_every=3))


def test_foreign_files_stay(tmp_path, capsys):
    mine = {"notes.txt": b"x", "resume/cv.pdf": b"y", "resume/20240101/letter.txt": b"z", "resume/.hidden.tmp/a": b"w", "grids/holiday.png": b"v"}
    for name, content in mine.items():
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).write_bytes(content)
    train(tmp_path)
    again = train(tmp_path, resume=False)
    assert f"{tmp_path}: begins anew; deleted the checkpoint of step 12 and the log" in capsys.readouterr().out
    assert again.step == 12 and steps(tmp_path) == ROWS and {k: v for k, v in files_of(tmp_path).items() if k in mine} == mine


@pytest.mark.parametrize("resume", [True, False])
def test_a_foreign_log_is_refused(tmp_path, resume):
    (tmp_path/"log.jsonl").write_text('{"event": "login"}\n')
    with pytest.raises(FileError, match="log.jsonl: is not the log of a run; move it away, or use another folder"): train(tmp_path, resume=resume)
    assert (tmp_path/"log.jsonl").read_text() == '{"event": "login"}\n'


def test_a_foreign_model_is_refused(tmp_path):
    LiteVAE.from_preset("litevae-tiny", decoder_channels=8).save_pretrained(tmp_path/"model")
    before = files_of(tmp_path)
    with pytest.raises(FileError, match="model: is a model, but there is no checkpoint of its run; use another folder"): train(tmp_path)
    assert files_of(tmp_path) == before


def test_what_a_kill_left_is_cleared_away(half, whole):
    for name in (".00000004.tmp", ".00000006.tmp"): shutil.copytree(newest_checkpoint(half), half/"resume"/name)
    assert equal(train(half), whole)
    assert [p.name for p in (half/"resume").iterdir()] == ["00000012"]


def test_killed_before_the_first_checkpoint(tmp_path, whole, capsys):
    with pytest.raises(OSError): run(Does(lambda: (_ for _ in ()).throw(OSError("power cut")), at=5), tmp_path, CONFIG.with_changes(save_every=0))
    assert steps(tmp_path) == [4]
    assert equal(train(tmp_path), whole)
    assert "no checkpoint was written yet, the run begins at its first step" in capsys.readouterr().out


# settings

BAD = [(dict(seed=2**64), "seed: "), (dict(seed=2**32), "seed: must be .*from 0 to"), (dict(seed=-1), "seed: "), (dict(seed=1.5), "seed: "), (dict(seed="a"), "seed: "),
       (dict(seed=True), "seed: "), (dict(lr=float("inf")), "lr: "), (dict(lr=float("nan")), "lr: "), (dict(minutes=float("inf")), "minutes: "), (dict(ema=float("nan")), "ema: "),
       (dict(clip=float("nan")), "clip: "), (dict(betas=(.9, float("nan"))), "betas: "), (dict(steps=0), "steps: must be positive"), (dict(images=-1), "images: must be positive"),
       (dict(steps=1, images=2), "steps and images"), (dict(steps=1, minutes=2.), "steps and minutes"), (dict(images=1, minutes=2.), "images and minutes"),
       (dict(steps=1, images=2, minutes=3.), "steps and images and minutes"), (dict(steps=1.5), "steps: "), (dict(batch_size="8"), "batch_size: ")]


@pytest.mark.parametrize("bad,says", BAD)
def test_settings_that_cannot_be(bad, says):
    with pytest.raises(ValueError, match=says): TrainConfig(**bad)
    with pytest.raises(ValueError, match=says): TrainConfig().with_changes(**bad)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_seeds_at_the_ends(seed): assert run(Toy(), None, CONFIG.with_changes(seed=seed, steps=2)).step == 2


def test_the_length_of_a_run():
    assert TrainConfig(steps=5).with_changes(images=7) == TrainConfig(images=7) and TrainConfig(minutes=1.).with_changes(lr=1e-3).minutes == 1.
    assert run(Toy(), None, TrainConfig(images=9, batch_size=4, precision="fp32")).step == 3
    with pytest.raises(ValueError, match="resume: must be True, False or 'data', got 'all'"): resume.enter_folder(SimpleNamespace(out=Path("x")), "all")


# continued

class Seen(Toy):
    def __init__(self, n): super().__init__(); self.n = n
    def describe(self): return dict(n_images=self.n)


def test_other_data_are_named_and_may_be_accepted(tmp_path):
    config = CONFIG.with_changes(schedule="constant")
    run(Seen(10), tmp_path, config.with_changes(steps=6))
    with pytest.raises(ValueError, match=r"n_images=10 \(now 11\); put the data back, use another folder, or accept the new data with resume='data'"): run(Seen(11), tmp_path, config)
    with pytest.raises(ValueError, match=r"lr=0.01 \(now 0.1\)"): run(Seen(11), tmp_path, config.with_changes(lr=.1), resume="data")
    assert run(Seen(11), tmp_path, config, resume="data").step == 12 and steps(tmp_path) == [4, 6, 8, 12]
    assert run(Seen(11), tmp_path, config).step == 12                                   # and so it is from now on


def test_one_more_image(tmp_path):
    "Through the function that users call."
    images = torch.rand(11, 3, 32, 32)*2 - 1
    vae = LiteVAE.from_preset("litevae-tiny", extractor_mult=(1,), decoder_channels=8).config
    settings = dict(weights=LossWeights(lpips=0.), size=32, device="cpu", progress=False, stats_images=4)
    config = TrainConfig(steps=1, batch_size=2, precision="fp32")
    train_litevae(vae, images[:10], tmp_path, config, **settings)
    with pytest.raises(ValueError, match="accept the new data with resume='data'"): train_litevae(vae, images, tmp_path, config, **settings)
    train_litevae(vae, images, tmp_path, config.with_changes(steps=2), resume="data", **settings)
    assert newest_checkpoint(tmp_path).name == "00000002"


def game(out, steps, **changes):
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))*2 - 1
    vae = LiteVAE.from_preset("litevae-tiny", extractor_mult=(1,), decoder_channels=8).config
    config = TrainConfig(steps=steps, batch_size=2, lr=1e-3, precision="fp32", log_every=2)
    return train_adversarial(vae, images, out, config, AdversarialConfig(**changes), DiscriminatorConfig("patch", channels=8), weights=LossWeights(lpips=0.),
                             size=32, device="cpu", progress=False, stats_images=4)


def test_an_adversarial_run_keeps_its_length(tmp_path):
    "Its discriminator starts at a fifth of it: a longer run would have been another one from the beginning."
    game(tmp_path, 3)
    with pytest.raises(ValueError, match=r"steps=3 \(now 4\); the length can't change, since the discriminator's start, warmup and ramp are parts of it"): game(tmp_path, 4)
    state = newest_checkpoint(tmp_path)/"state.json"
    values = json.loads(state.read_text())
    for k in ("sha256", "length", "files"): del values[k]
    for k in ("steps", "images", "minutes"): del values["identity"][k]
    state.write_text(json.dumps(values))                                                # of an earlier version
    with pytest.raises(ValueError, match=r"steps=3 \(now 4\)"): game(tmp_path, 4)
    game(tmp_path, 3)


def test_an_adversarial_run_without_phases_may_be_extended(tmp_path):
    always = dict(start=0., warmup=0., ramp=0.)
    game(tmp_path/"a", 2, **always)
    a, b = game(tmp_path/"a", 4, **always), game(tmp_path/"b", 4, **always)
    assert all(torch.equal(v, w) for v, w in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_student_keeps_its_teacher(tmp_path):
    torch.manual_seed(0)
    images = torch.rand(6, 3, 32, 32)*2 - 1
    settings = dict(data=images, out=tmp_path, config=TrainConfig(steps=1, batch_size=2, precision="fp32"), weights=LossWeights(lpips=0.), size=32, device="cpu", progress=False, stats_images=4)
    one, other = (LiteVAE.from_preset("litevae-tiny", extractor_mult=(1,), decoder_channels=8) for _ in range(2))
    distill_decoder(one, 8, **settings)
    with pytest.raises(ValueError, match="teacher="): distill_decoder(other, 8, **settings)
    distill_decoder(one, 8, **settings)


def test_images_that_were_dropped_are_counted(tmp_path, capsys):
    source = SimpleNamespace(n_dropped=0, n_retried=0, dropped=[])
    def lose(): source.n_dropped, source.dropped = 2, [("a.jpg", "is cut short"), ("b.jpg", "is gone")]
    def again(): lose(); source.n_retried = 3
    Trainer(Does(again), data, CONFIG, tmp_path, device="cpu", progress=False, source=source).fit()
    assert [(r.get("images_dropped"), r.get("images_retried")) for r in read_log(tmp_path)] == [(None, None), (2, 3), (2, 3)]
    assert capsys.readouterr().out == "images: 2 could not be read and were replaced by others, 3 were read at a second try: a.jpg (is cut short), b.jpg (is gone)\n"


def test_a_line_that_the_terminal_cannot_show(monkeypatch):
    import io
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    checkpoint.say("out/写真\udcff: goes on")
    assert out.buffer.getvalue() == b"out/\\u5199\\u771f\\udcff: goes on\n"


# kill -9

def test_killed_runs_end_alike():
    "Three moments for each kind of run; the script takes more."
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, ROOT/"tools"/"kill_runs.py", "--moments", "3"], capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["litevae", "adversarial", "diffae", "prior", "codes"] and done.stdout.count("3 of 3 equal") == 5


# several processes

TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", PROCESSES)


def test_several_processes_form_one_run(tmp_path):
    "Without a GPU and without `device`, as the plain command does; a signal to one of them stops all after the same step; they go on as if nothing had happened."
    code = '''
        rank = int(os.environ["RANK"])
        config = TrainConfig(steps=6, batch_size=2, lr=1e-2, precision="fp32", log_every=3, save_every=4)
        whole = Trainer(Toy(), data, config, "whole", progress=False).fit()
        assert whole.acc.num_processes == int(os.environ["WORLD_SIZE"])
        class Stops(Toy):
            def train_step(self, batch, step):
                if step == 1 and rank == whole.acc.num_processes - 1: signal.raise_signal(signal.SIGTERM)
                return super().train_step(batch, step)
        try: Trainer(Stops(), data, config, "cut", progress=False).fit()
        except SystemExit as e: assert e.code == 143
        assert newest_checkpoint("cut").name == "00000002"
        cut = Trainer(Toy(), data, config, "cut", progress=False).fit()
        held = []
        class Second(Toy):
            def train_step(self, batch, step):
                if step == 0 and rank == 0:
                    from litevae_diffae.checkpoint import take_lock
                    try: take_lock("held")
                    except ValueError as e: held.append(str(e))
                return super().train_step(batch, step)
        Trainer(Second(), data, config.with_changes(steps=1), "held", progress=False).fit()
        assert rank or "a run is going on here" in held[0]
        import litevae_diffae.resume as resume
        def full(*args): raise OSError(28, "No space left on device")
        resume.save_file = full
        try: Trainer(Toy(), data, config, "full", progress=False).fit()
        except ValueError as e: said = str(e)
        torch.save([weights(whole.task.nets), weights(cut.task.nets), whole.images, said], f"rank{rank}.pt")
    '''
    script(tmp_path, code, *TOGETHER)
    ranks = [torch.load(tmp_path/f"rank{r}.pt") for r in range(int(PROCESSES))]
    assert all(torch.equal(ranks[0][0], w) for r in ranks for w in r[:2]) and ranks[0][2] == 6*2*int(PROCESSES)
    assert {r[3] for r in ranks} == {"full/resume/00000004: can't be written (No space left on device); no checkpoint was written yet"}
    assert clean(tmp_path/"cut") == clean(tmp_path/"whole") and steps(tmp_path/"whole") == [3, 6]
    config = TrainConfig(steps=6, batch_size=2, lr=1e-2, precision="fp32", log_every=3, save_every=4)
    with pytest.raises(ValueError, match=rf"processes={PROCESSES} \(now 1\); each process has random numbers of its own"): train(tmp_path/"whole", config)


def test_the_plain_command_by_torchrun(tmp_path):
    "As on a machine with two GPUs: the command line as a module, one run, one model; one process can't go on with it."
    for i in range(6): save_png(tmp_path/"mine"/f"{i}.png", torch.full((40, 40, 3), 40*i, dtype=torch.uint8).numpy())
    env = dict(os.environ, OMP_NUM_THREADS="1", MASTER_ADDR="127.0.0.1", PYTHONPATH=str(ROOT))
    command = ["-m", "litevae_diffae.cli", "train", "litevae-tiny", "--data", "mine", "--out", "run", "--size", "32", "--batch-size", "2", "--steps", "2", "--precision", "fp32"]
    def started(*launcher): return subprocess.run([sys.executable, *launcher, *command], capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path)
    done = started(*TOGETHER)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"batch 2 x {PROCESSES} processes x 1 accumulated" in done.stdout and read_log(tmp_path/"run")[-1]["images"] == 2*2*int(PROCESSES)
    assert LiteVAE.from_pretrained(tmp_path/"run"/"model").config.latents_mean
    alone = started()
    assert alone.returncode == 2 and f"processes={PROCESSES} (now 1); each process has random numbers of its own" in alone.stderr and alone.stderr.count("\n") == 1


def test_the_codes_of_several_processes_are_those_of_one(tmp_path):
    code = '''
        from litevae_diffae.diffae.code_cache import cache_codes
        from litevae_diffae.diffae.model import DiffAE
        torch.manual_seed(0)
        model = DiffAE.from_preset("diffae-tiny", image_size=16, z_dim=16, channel_mult=(1,), enc_channel_mult=(1, 1), attention_resolutions=())
        images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))*2 - 1
        rank = os.environ.get("RANK", "one")
        torch.save(cache_codes(model, images, "codes" if rank != "one" else "alone", batch_size=4, shard_size=3, progress=False).z_sem, f"codes{rank}.pt")
    '''
    script(tmp_path, code, *TOGETHER)
    script(tmp_path, code)
    want = torch.load(tmp_path/"codesone.pt")
    assert len(want) == 20 and all(torch.equal(torch.load(tmp_path/f"codes{r}.pt"), want) for r in range(int(PROCESSES)))
    assert files_of(tmp_path/"codes") == files_of(tmp_path/"alone")


def test_one_process_dies_and_none_waits(tmp_path):
    (tmp_path/"script.py").write_text((ROOT/"tests"/"toy_run.py").read_text() + textwrap.dedent('''
        import os, signal
        from litevae_diffae.optim import TrainConfig
        from litevae_diffae.train import Trainer
        class Dies(Toy):
            def train_step(self, batch, step):
                if step == 3 and os.environ["RANK"] == "1": os.kill(os.getpid(), signal.SIGKILL)
                return super().train_step(batch, step)
        Trainer(Dies(), data, TrainConfig(steps=6, batch_size=2, precision="fp32", save_every=2), "out", progress=False).fit()
    '''))
    env = dict(os.environ, OMP_NUM_THREADS="1", MASTER_ADDR="127.0.0.1", PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, *TOGETHER, "script.py"], capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path)
    assert done.returncode != 0 and newest_checkpoint(tmp_path/"out").name == "00000002"


def test_processes_that_cannot_train_together_say_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2"); monkeypatch.setenv("LOCAL_RANK", "0")
    from litevae_diffae import train as module
    monkeypatch.setattr(module, "Accelerator", lambda **kwargs: SimpleNamespace(num_processes=1))
    with pytest.raises(ValueError, match="processes: 2 were started, 1 can train together on "): Trainer(Toy(), data, CONFIG, None).fit()
