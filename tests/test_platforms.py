"""What other systems would show, as far as one can pretend to be one: processes that are spawned, a locale without UTF-8, names in macOS' spelling,
paths of Windows, and its files that can't be replaced while somebody has them open."""
import ast
import csv
import os
import pickle
import subprocess
import sys
import textwrap
import unicodedata
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from litevae_diffae import DiffAE, LiteVAE, checkpoint, open_source
from litevae_diffae.attributes import _Forms
from litevae_diffae.checkpoint import append_row, read_log
from litevae_diffae.cli import main
from litevae_diffae.crops import Crops, batches
from litevae_diffae.diffae.code_cache import cache_codes
from litevae_diffae.files import write_json
from litevae_diffae.optim import TrainConfig
from litevae_diffae.train import Trainer
from toy_run import Toy, data

ACCENTS = unicodedata.normalize("NFC", "été à Łódź")


def folder_of(root, n=4, name=ACCENTS, files="größe_{}.png"):
    "Images in a folder, both with accents, and a table of attributes beside it."
    folder = root/name
    folder.mkdir(parents=True)
    for i in range(n): Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder/files.format(i))
    with open(root/"labels.csv", "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([["file", "Schön"], *([files.format(i), i % 2] for i in range(n))])
    return folder


# processes that are spawned, as on Windows and macOS

def test_data_reach_spawned_workers(tmp_path):
    "A source and its crops are sent to a worker of somebody's own loader as they are; fork would not have to."
    from torch.utils.data import DataLoader
    source = open_source(folder_of(tmp_path), attributes=tmp_path/"labels.csv")
    crops = Crops(source, 32, train=False)
    here = torch.stack([crops.get(i) for i in range(len(crops))])
    there = torch.stack(list(DataLoader(_Gets(crops), batch_size=None, num_workers=1, multiprocessing_context="spawn")))
    assert torch.equal(here, there)
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == len(source) and [p.name for p in again.paths] == [p.name for p in source.paths]
    view = source.as_channels(4)
    assert view._lock is source._lock and again._lock is not source._lock


def test_a_database_reaches_other_processes(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path/"db"), map_size=10**6) as env, env.begin(write=True) as txn:
        for i in range(2):
            Image.new("RGB", (16, 16), (9*i, 0, 0)).save(tmp_path/"x.png")
            txn.put(f"16-{i:05d}".encode(), (tmp_path/"x.png").read_bytes())
        txn.put(b"length", b"2")
    source = open_source(tmp_path/"db")
    again = pickle.loads(pickle.dumps(source))
    assert [again[i][0].max() for i in range(2)] == [source[i][0].max() for i in range(2)] == [0, 9]


class _Gets(torch.utils.data.Dataset):
    def __init__(self, crops): self.crops = crops
    def __len__(self): return len(self.crops)
    def __getitem__(self, i): return self.crops.get(i)


def test_workers_of_a_run_need_no_process(tmp_path):
    "The workers that prepare batches are threads: nothing is forked or spawned, and the batches are the same."
    crops = Crops(open_source(folder_of(tmp_path)), 32)
    plain, ahead = batches(crops, 3), batches(crops, 3, n_workers=2)
    for _ in range(4): assert torch.equal(next(plain).image, next(ahead).image)
    ahead.close()


# a locale without UTF-8

C_LOCALE = '''
    import codecs, locale, sys, io
    locale.setlocale(locale.LC_CTYPE, "C")             # after the start: names of files stay UTF-8, as on Windows; what files hold does not
    from importlib import import_module
    from pathlib import Path
    from pkgutil import walk_packages
    try: io.TextIOWrapper(io.BytesIO("é".encode())).read(); assert codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8"
    except UnicodeDecodeError: pass
    import litevae_diffae
    for m in walk_packages(litevae_diffae.__path__, "litevae_diffae."):
        if not m.name.endswith("._showdoc"): import_module(m.name)
    from litevae_diffae import LiteVAE, load, open_source, train_litevae
    from litevae_diffae.commands.options import parse_overrides
    folder = next(p for p in Path(".").iterdir() if p.is_dir())
    source = open_source(folder, attributes="labels.csv")
    assert len(source) == 4 and tuple(source.names) == ("Sch\\u00f6n",), source.names
    train_litevae("litevae-tiny", folder, folder/"run", steps=2, batch_size=2, size=32, stats_images=4, precision="fp32", progress=False, device="cpu")
    load(folder/"run"/"model")
    from litevae_diffae.cli import main
    main(["reconstruct", str(folder), "--model", "photos-tiny", "--out", str(folder.parent/"rebuilt")])
    print(len(list(Path("rebuilt").glob("*.png"))), "rebuilt")
'''


@pytest.mark.skipif(os.name == "nt", reason="Windows has a locale of its own")
@pytest.mark.parametrize("start", ["C", "C.UTF-8"])
def test_a_locale_without_utf8(tmp_path, start):
    "Imports, settings, tables, training and the command line, where Python takes ASCII for text; from LC_ALL=C, names of files are no UTF-8 either."
    folder_of(tmp_path, name="mine" if start == "C" else ACCENTS, files="{}.png" if start == "C" else "größe_{}.png")
    env = {**os.environ, "LC_ALL": start, "LANG": start, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    for k in ("PYTHONIOENCODING", "LC_CTYPE"): env.pop(k, None)
    (tmp_path/"code.txt").write_text(textwrap.dedent(C_LOCALE), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", "exec(open('code.txt', encoding='utf-8').read())"], capture_output=True, timeout=120, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-3000:]
    assert done.stdout.strip().endswith(b"4 rebuilt")


def text_calls(path):
    "Lines of a module that open a text file without saying its encoding."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call): continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = {k.arg: k.value for k in node.keywords}
        if name in ("read_text", "write_text"): said = "encoding" in words or len(node.args) > (name == "write_text")
        elif isinstance(node.func, ast.Name) and name == "open":
            mode = words.get("mode", node.args[1] if len(node.args) > 1 else None)
            said = "encoding" in words or mode is not None and "b" in getattr(mode, "value", "")
        else: continue
        if not said: yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_text_file_says_its_encoding():
    "Without one, Python takes the locale's: on Windows no UTF-8."
    found = [line for path in sorted((ROOT/"litevae_diffae").rglob("*.py")) for line in text_calls(path) if "_modidx" not in line]
    assert not found


# names

@pytest.mark.parametrize("disk,table", [("NFD", "NFC"), ("NFC", "NFD")])
def test_two_spellings_of_a_folder_with_accents(tmp_path, disk, table):
    "macOS may spell an accent as a letter and a sign; tables say the folder's name the other way."
    folder = folder_of(tmp_path, name=unicodedata.normalize(disk, ACCENTS), files=unicodedata.normalize(disk, "größe_{}.png"))
    rows = [["file", "Big"], *([unicodedata.normalize(table, f"{ACCENTS}/größe_{i}.png"), i % 2] for i in range(4))]
    (tmp_path/"labels.csv").write_text("\n".join(f"{a},{b}" for a, b in rows), encoding="utf-8")
    source = open_source(tmp_path, attributes=tmp_path/"labels.csv")
    assert len(source) == 4 and [source[i][1]["Big"] for i in range(4)] == [int(p.stem[-1]) % 2 for p in source.paths]
    main(["reconstruct", str(folder), "--model", "photos-tiny", "--out", str(tmp_path/"out")])
    assert sorted(unicodedata.normalize("NFC", p.name) for p in (tmp_path/"out").glob("*.png")) == [unicodedata.normalize("NFC", f"größe_{i}.png") for i in range(4)]


def test_a_table_written_on_windows(tmp_path):
    "Its paths have the other stroke, its lines end otherwise, and it begins with a mark."
    folder_of(tmp_path, name="faces")
    rows = "\r\n".join(["file,Big", *(f"{PureWindowsPath('faces', f'größe_{i}.png')},{i % 2}" for i in range(4)), ""])
    (tmp_path/"labels.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode("utf-8"))
    source = open_source(tmp_path, attributes=tmp_path/"labels.csv")
    assert len(source) == 4 and [source[i][1]["Big"] for i in range(4)] == [int(p.stem[-1]) % 2 for p in source.paths]
    assert _Forms.of(str(PureWindowsPath("faces", "a.png"))).loose == _Forms.of("faces/a.png").loose


# files of Windows

def in_use():
    "Paths that this process has open or mapped."
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try: found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError: pass                                             # closed since
    with open("/proc/self/maps", encoding="utf-8") as f: found |= {line[line.index("/"):].rstrip("\n") for line in f if "/" in line}
    return found


@pytest.fixture
def windows_files(monkeypatch):
    "What is open or mapped can't be replaced, renamed or deleted; nor can its folder be renamed."
    if os.name == "nt": return
    if not Path("/proc/self/maps").exists(): pytest.skip("asks /proc which files are open")
    def guarded(name):
        real = getattr(os, name)
        def call(*args, **kwargs):
            top = f"/proc/self/fd/{kwargs['dir_fd']}" if kwargs.get("dir_fd") is not None else os.getcwd()
            for path in args[:2]:
                full = os.path.realpath(os.path.join(top, os.fspath(path)))
                held = [p for p in in_use() if p == full or name in ("replace", "rename") and p.startswith(full + "/")]
                if held: raise PermissionError(13, "The process cannot access the file because it is being used by another process", held[0])
            return real(*args, **kwargs)
        monkeypatch.setattr(os, name, call)
    for name in ("replace", "rename", "unlink", "remove"): guarded(name)


def test_the_pretended_windows_refuses(tmp_path, windows_files):
    (tmp_path/"a").write_text("a"); (tmp_path/"b").write_text("b")
    with open(tmp_path/"a", encoding="utf-8"), pytest.raises(PermissionError): os.replace(tmp_path/"b", tmp_path/"a")
    os.replace(tmp_path/"b", tmp_path/"a")


def test_runs_and_models_replace_no_open_file(tmp_path, windows_files):
    "Checkpoints that are loaded and deleted, models saved where they came from, codes, results of commands that are written twice."
    config = TrainConfig(steps=6, batch_size=2, save_every=2, log_every=1, precision="fp32")
    for changes, resume in ((dict(), True), (dict(steps=9), True), (dict(steps=3), False)):
        assert Trainer(Toy(), data, config.with_changes(**changes), tmp_path/"run", device="cpu", progress=False).fit(resume).step == config.with_changes(**changes).steps
    for cls, name in ((LiteVAE, "photos-tiny"), (DiffAE, "avatars")):
        cls.from_pretrained(name).save_pretrained(tmp_path/name)
        model = cls.from_pretrained(tmp_path/name)
        model.save_pretrained(tmp_path/name)
    x = torch.rand(4, 3, 64, 64)*2 - 1
    first = cache_codes(model, x, tmp_path/"codes", batch_size=2, shard_size=2, progress=False)
    assert torch.equal(cache_codes(model, x, tmp_path/"codes", batch_size=2, shard_size=2, progress=False).z_sem, first.z_sem)
    folder, out = str(folder_of(tmp_path)), str(tmp_path/"vae")
    short = ["--steps", "2", "--batch-size", "2", "--size", "32", "--precision", "fp32"]
    main(["train", "litevae-tiny", "--data", folder, "--out", out, *short])
    main(["train", f"{out}/model", "--data", folder, "--out", out, *short, "--restart"]) # the model that it begins with is replaced
    for _ in range(2):
        main(["reconstruct", folder, "--model", f"{out}/model", "--out", str(tmp_path/"images")])
        main(["encode", folder, "--model", f"{out}/model", "--out", str(tmp_path/"latents")])


def test_lines_end_alike_everywhere(tmp_path, monkeypatch):
    "Windows writes two characters for an end of line unless it is told not to; the log of a run and settings are the same file everywhere."
    flags, real = [], os.open
    monkeypatch.setattr(os, "O_BINARY", 0x8000, raising=False)
    monkeypatch.setattr(checkpoint.os, "open", lambda path, flag, *args: flags.append(flag) or real(path, flag & ~0x8000 if os.name != "nt" else flag, *args))
    append_row(tmp_path/"log.jsonl", dict(step=1, images=2, seconds=1.))
    assert flags[0] & 0x8000 and read_log(tmp_path)[0]["step"] == 1
    newlines, write_text = [], Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda self, text, *args, **kwargs: newlines.append(kwargs.get("newline")) or write_text(self, text, *args, **kwargs))
    write_json(tmp_path/"a.json", dict(a=1))
    assert newlines == ["\n"]
