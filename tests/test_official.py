"""Official checkpoints as the authors' training wrote them (Lightning 1.4), damaged ones, and hostile ones: tensors arrive or the file is refused, and nothing of it runs."""
import enum
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import types
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from litevae_diffae.bench.plain_diffae import PlainLatentNet, PlainUNet, redrawn
from litevae_diffae.cli import main
from litevae_diffae.pretrained import read_config
from litevae_diffae.diffae.latent import LatentDDIM
from litevae_diffae.diffae.model import DiffAE
from litevae_diffae.diffae.official import load_diffae_checkpoint, read_latents
from litevae_diffae.diffusion.model import DDIM
from litevae_diffae.saved import read_arrays, read_saved

SET_A = json.loads((Path(__file__).parent/"parity/diffae/config.json").read_text())["a"]
AUTOENC, DDPM, LATENT = (SET_A[k] for k in ("autoenc", "ddpm", "latent"))
TINY = dict(image_size=32, model_channels=32, channel_mult=[1, 2], num_res_blocks=1, embed_channels=64, attention_resolutions=[16], num_heads=1,
            resblock_updown=True, enc_out_channels=64, enc_num_res_blocks=1, enc_channel_mult=[1, 2, 2])    # diffae-tiny under its official names
D = AUTOENC["enc_out_channels"]


# what Lightning pickles beside the tensors: classes of modules that the reader does not have

MODULES = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint", "pytorch_lightning.utilities",
           "pytorch_lightning.utilities.parsing", "config", "choices")


@pytest.fixture
def lightning(monkeypatch):
    "Its classes, importable until `hide()` is called."
    for name in MODULES: monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    def make(module, name, *bases, **body):
        cls = type(name, bases, {"__module__": module, **body})
        setattr(sys.modules[module], name, cls)
        return cls
    kinds = types.SimpleNamespace(
        callback=make("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", object),
        attributes=make("pytorch_lightning.utilities.parsing", "AttributeDict", dict),
        config=make("config", "TrainConfig", object),
        choice=enum.Enum("TrainMode", dict(diffusion="diffusion"), module="choices", qualname="TrainMode"))
    sys.modules["choices"].TrainMode = kinds.choice
    kinds.hide = lambda: [monkeypatch.delitem(sys.modules, name) for name in MODULES]
    return kinds


def lightning_checkpoint(kinds, state_dict):
    config = kinds.config()
    config.mode, config.seed = kinds.choice.diffusion, 0
    p = torch.nn.Parameter(torch.ones(3))
    opt = torch.optim.Adam([p]); p.sum().backward(); opt.step()
    return {"epoch": 1, "global_step": 1_000_000, "pytorch-lightning_version": "1.4.5", "state_dict": state_dict,
            "callbacks": {kinds.callback: {"monitor": None, "best_model_score": torch.tensor(0.5), "dirpath": "checkpoints"}},
            "optimizer_states": [opt.state_dict()], "lr_schedulers": [], "native_amp_scaling_state": {"scale": 65536.0},
            "hparams_name": "kwargs", "hparams_type": kinds.attributes, "hyper_parameters": kinds.attributes(conf=config, lr=1e-4)}


def under(prefix, module): return {prefix + k: v for k, v in module.state_dict().items()}


def official(raw, ema, latent=(), stats=True):
    "A state dict in the official order: raw weights, EMA, buffers."
    sd = OrderedDict(x_T=torch.randn(32, 3, 32, 32))
    for prefix, net in (("model.", raw), ("ema_model.", ema)): sd.update(under(prefix, net))
    if latent:
        for prefix, net in zip(("model.latent_net.", "ema_model.latent_net."), latent): sd.update(under(prefix, net))
        if stats: sd.update(conds_mean=torch.arange(float(D))[None], conds_std=1 + torch.arange(float(D))[None])
    sd._metadata = OrderedDict({"": dict(version=1)})
    return sd


def assert_is(model, plain):
    assert not model.training and model.dtype == torch.float32
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(("prior.", "classifier."))}
    assert own.keys() == plain.state_dict().keys() and all(torch.equal(own[k], v.float()) for k, v in plain.state_dict().items())


@pytest.mark.parametrize("old", [False, True], ids=["zip", "stream"])
def test_autoencoder(lightning, tmp_path, old):
    raw, ema = redrawn(PlainUNet(AUTOENC), 1), redrawn(PlainUNet(AUTOENC), 2)
    torch.save(lightning_checkpoint(lightning, official(raw, ema)), tmp_path/"last.ckpt", _use_new_zipfile_serialization=not old)
    lightning.hide()
    with pytest.raises(ModuleNotFoundError): torch.load(tmp_path/"last.ckpt", weights_only=False)             # the usual ways fail
    with pytest.raises(pickle.UnpicklingError): torch.load(tmp_path/"last.ckpt", weights_only=True)
    for path in (tmp_path, tmp_path/"last.ckpt", str(tmp_path)):
        model = load_diffae_checkpoint(path, AUTOENC)
        assert isinstance(model, DiffAE) and model.prior is None and model.classifier is None
        assert_is(model, ema)


def test_without_averaged_weights(lightning, tmp_path):
    raw = redrawn(PlainUNet(DDPM), 1)
    torch.save(lightning_checkpoint(lightning, OrderedDict(under("model.", raw), x_T=torch.zeros(32, 3, 32, 32))), tmp_path/"last.ckpt")
    model = load_diffae_checkpoint(tmp_path, DDPM)
    assert isinstance(model, DDIM); assert_is(model, raw)


@pytest.mark.parametrize("where", ["checkpoint", "latent.ckpt", "latent.pkl"])
def test_second_stage(lightning, tmp_path, where):
    "Statistics from the checkpoint, (1, D), or from the latents file under either name, (D,)."
    nets = [redrawn(PlainUNet(AUTOENC), i) for i in (1, 2)], [redrawn(PlainLatentNet(LATENT), i) for i in (3, 4)]
    sd = official(*nets[0], nets[1], stats=where == "checkpoint")
    assert any(".cond_layers.1." in k for k in sd)                                                            # the twins are there
    torch.save(lightning_checkpoint(lightning, sd), tmp_path/"last.ckpt")
    if where != "checkpoint": torch.save({"conds": torch.zeros(5, D), "conds_mean": torch.arange(float(D)), "conds_std": 1 + torch.arange(float(D))}, tmp_path/where)
    lightning.hide()
    model = load_diffae_checkpoint(tmp_path, AUTOENC)
    assert_is(model, nets[0][1])
    z, t = torch.randn(2, D), torch.tensor([5, 900])
    with torch.no_grad(): torch.testing.assert_close(model.prior.eps(z, t), nets[1][1](z, t), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.prior.denormalize(z), z*(1 + torch.arange(D)) + torch.arange(D))
    assert model.sample(2, n_steps=2).shape == (2, 3, 32, 32)


def test_second_stage_without_statistics(lightning, tmp_path):
    sd = official(redrawn(PlainUNet(AUTOENC)), redrawn(PlainUNet(AUTOENC)), [redrawn(PlainLatentNet(LATENT)) for _ in "ab"], stats=False)
    torch.save({"state_dict": sd}, tmp_path/"last.ckpt")
    model = load_diffae_checkpoint(tmp_path, AUTOENC)
    assert model.prior.decode(torch.randn(2, D), 2).shape == (2, D)
    with pytest.raises(ValueError, match="call set_stats first"): model.sample(1, n_steps=2)
    torch.save({"conds": torch.zeros(5, D)}, tmp_path/"latent.pkl")
    with pytest.raises(ValueError, match="latent.pkl: holds no conds_mean and conds_std"): load_diffae_checkpoint(tmp_path, AUTOENC)


def test_classifier(lightning, tmp_path):
    w, b = torch.randn(40, D), torch.randn(40)
    sd = OrderedDict({"conds_mean": torch.ones(1, D), "conds_std": 2*torch.ones(1, D), "classifier.weight": w, "classifier.bias": b,
                      "ema_classifier.weight": 0*w, "ema_classifier.bias": 0*b})
    torch.save(lightning_checkpoint(lightning, sd), tmp_path/"last.ckpt")
    lightning.hide()
    model, z = load_diffae_checkpoint(tmp_path), torch.randn(3, D)
    torch.testing.assert_close(model.logits(z), (z - 1)/2 @ w.T + b)
    assert (len(model.names), model.names[31], model.names[9]) == (40, "Smiling", "Blond_Hair")


def test_half_precision_file(tmp_path):
    plain = redrawn(PlainUNet(AUTOENC)).half()
    torch.save({"state_dict": under("ema_model.", plain)}, tmp_path/"last.ckpt")
    assert_is(load_diffae_checkpoint(tmp_path, AUTOENC), plain)


# what is wrong is named

def wrong(tmp_path, sd, config, match):
    torch.save({"state_dict": sd}, tmp_path/"last.ckpt")
    with pytest.raises(ValueError, match=match): load_diffae_checkpoint(tmp_path, config)


def test_wrong_names_and_settings(tmp_path):
    sd = under("ema_model.", redrawn(PlainUNet(AUTOENC)))
    less = {k: v for k, v in sd.items() if k not in ("ema_model.encoder.out.3.bias", "ema_model.out.2.bias")}
    wrong(tmp_path, less, AUTOENC, r"official weights of DiffAE: 2 tensors missing: out.2.bias, encoder.out.3.bias")
    wrong(tmp_path, {**less, **under("model.", redrawn(PlainUNet(AUTOENC)))}, AUTOENC, "2 tensors missing: out.2.bias")    # never filled up with raw weights
    wrong(tmp_path, {**sd, "ema_model.hat": torch.zeros(1), "hat": torch.zeros(1)}, AUTOENC, "1 tensors unexpected: hat")
    wrong(tmp_path, {**sd, "ema_model.out.2.bias": torch.zeros(4)}, AUTOENC, r"1 tensors of the wrong shape: out.2.bias \(4,\) instead of \(3,\)")
    wrong(tmp_path, sd, "diffae-ffhq64", "[0-9]+ tensors missing: input_blocks")
    wrong(tmp_path, sd, "ddim-64", "these weights are a DiffAE and need its settings, got DDIMConfig")
    wrong(tmp_path, sd, None, "these weights are a DiffAE and need its settings, got None")
    wrong(tmp_path, sd, "diffae-ffhq65", "preset: must be one of diffae-ffhq64.*got 'diffae-ffhq65'")
    wrong(tmp_path, sd, {**AUTOENC, "colour": 1}, "unknown setting 'colour'")
    wrong(tmp_path, {k: v for k, v in sd.items() if ".encoder." not in k}, AUTOENC, "these weights are a DDIM")
    wrong(tmp_path, {"x_T": torch.zeros(1)}, AUTOENC, "holds no weights of a model")
    wrong(tmp_path, {"w": "text"}, AUTOENC, "holds no state dict of tensors")
    wrong(tmp_path, {1: torch.zeros(1)}, AUTOENC, "holds no state dict of tensors")
    latent = under("ema_model.latent_net.", redrawn(PlainLatentNet(LATENT)))
    wrong(tmp_path, {**latent, "ema_model.latent_net.layers.0.cond_layers.1.bias": torch.zeros(64)}, LATENT, "layers.0.cond_layers.1.bias: must equal layers.0.linear_emb.bias, its twin")
    wrong(tmp_path, {k: v for k, v in latent.items() if "norm" not in k}, LATENT, "6 tensors missing: layers.0.norm.weight")
    with pytest.raises(FileNotFoundError, match="no file .*nothing"): load_diffae_checkpoint(tmp_path/"nothing", AUTOENC)
    with pytest.raises(FileNotFoundError, match="no file .*last.ckpt"): load_diffae_checkpoint(tmp_path.parent/tmp_path.name/"..", AUTOENC)


# hostile files

@pytest.fixture
def trap(tmp_path): return tmp_path/"trap"


class Reduce:
    "Pickles as a call."
    def __init__(self, function, *args): self.call = function, args
    def __reduce__(self): return self.call


def attacks(trap):
    "Objects whose unpickling would create the file `trap`, or another one."
    touch, inner = f"open({str(trap)!r}, 'w')", io.BytesIO()
    torch.save(Reduce(eval, touch), inner)
    return {"os.system": Reduce(os.system, f"touch {trap}"), "eval": Reduce(eval, touch), "exec": Reduce(exec, touch), "open": Reduce(io.open, str(trap), "w"),
            "subprocess": Reduce(subprocess.Popen, ["touch", str(trap)]), "a pickle in a pickle": Reduce(torch.storage._load_from_bytes, inner.getvalue()),
            "torch.save": Reduce(torch.save, 1, str(trap)), "write_text": Reduce(Path.write_text, trap, "x")}


def safe(path, trap):
    "Reads the file; True if it gave something, False if it was refused."
    try: got = read_saved(path)
    except ValueError as e:
        assert "no readable checkpoint" in str(e)
        return False
    finally: assert not trap.exists()
    return got


@pytest.mark.parametrize("old", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize("name", attacks(Path("trap")))
def test_attack_by_call(name, old, trap, tmp_path):
    attack, plain = attacks(trap)[name], redrawn(PlainUNet(DDPM))
    torch.save({"state_dict": under("ema_model.", plain), "hyper_parameters": attack, "callbacks": {"x": [attack]}}, tmp_path/"last.ckpt", _use_new_zipfile_serialization=not old)
    assert_is(load_diffae_checkpoint(tmp_path, DDPM), plain)
    torch.save({"state_dict": {"w": attack}}, tmp_path/"last.ckpt", _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match="holds no state dict of tensors"): load_diffae_checkpoint(tmp_path, DDPM)
    assert not trap.exists()


def test_the_attacks_are_real(trap, tmp_path):
    "In the hands of a trusting reader they do what they say."
    for name, attack in attacks(trap).items():
        torch.save(attack, tmp_path/"x")
        got = torch.load(tmp_path/"x", weights_only=False)
        if name == "subprocess": got.wait()
        assert trap.exists(), name
        trap.unlink()


def archive(path, program, **files):
    "A file like those of torch.save, around a hand-written program."
    with zipfile.ZipFile(path, "w") as z:
        for name, data in {"data.pkl": program, "version": b"3\n", **files}.items(): z.writestr(f"archive/{name}", data)


def short(text): return b"\x8c" + bytes([len(text)]) + text.encode()       # SHORT_BINUNICODE


def name_of(module, name): return b"c" + f"{module}\n{name}\n".encode()    # GLOBAL


REBUILD = name_of("torch._utils", "_rebuild_tensor_v2")
PROGRAMS = {
    "INST": lambda call: b"(S'" + call + b"'\nios\nsystem\n.",
    "OBJ": lambda call: b"(" + name_of("os", "system") + b"S'" + call + b"'\no.",
    "NEWOBJ": lambda call: b"\x80\x02" + name_of("os", "system") + b"S'" + call + b"'\n\x85\x81.",
    "STACK_GLOBAL": lambda call: b"\x80\x04" + short("os") + short("system") + b"\x93S'" + call + b"'\n\x85R.",
    "dotted name": lambda call: b"\x80\x04" + short("torch") + short("serialization.os.system") + b"\x93S'" + call + b"'\n\x85R.",
    "dotted name of a permitted kind": lambda call: b"\x80\x04" + short("torch") + short("serialization.os.system.FloatStorage") + b"\x93S'" + call + b"'\n\x85R.",
    "a call of a call": lambda call: name_of("builtins", "getattr") + name_of("os", "path") + b"S'os'\n\x86R" + b"S'" + call + b"'\n\x85R.",
    "__setstate__ of a permitted class": lambda call: name_of("collections", "OrderedDict") + b")RS'" + call + b"'\nb.",
    "an extension": lambda call: b"\x82\x01)R.",
    "calling a type of numbers": lambda call: name_of("torch", "FloatStorage") + b"(I1000000000000\ntR.",
    "nonsense for a tensor": lambda call: REBUILD + name_of("os", "system") + b"I0\n)) t.",
    "too few arguments": lambda call: REBUILD + b")R.",
    "a reference of another kind": lambda call: b"(S'module'\nNNNNtQ.",
    "no reference": lambda call: b"S'text'\nQ.",
    "no end": lambda call: b"}",
    "nothing": lambda call: b"",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_attack_by_program(name, trap, tmp_path):
    archive(tmp_path/"last.ckpt", PROGRAMS[name](f"touch {trap}".encode()))
    assert not isinstance(safe(tmp_path/"last.ckpt", trap), torch.Tensor)


def reference(key="0", n=4, kind="FloatStorage"): return b"(" + short("storage") + name_of("torch", kind) + short(key) + short("cpu") + f"I{n}\n".encode() + b"tQ"


def tensor(offset, size, stride, **kw):
    numbers = lambda values: b"(" + b"".join(f"I{v}\n".encode() for v in values) + b"t"
    return REBUILD + b"(" + reference(**kw) + f"I{offset}\n".encode() + numbers(size) + numbers(stride) + b"I00\n" + name_of("collections", "OrderedDict") + b")RtR."


@pytest.mark.parametrize("offset,size,stride,kw", [(0, (5,), (1,), {}), (0, (10**9,), (1,), {}), (-1, (2,), (1,), {}), (3, (2,), (1,), {}), (0, (-1,), (1,), {}), (2, (2,), (-1,), {}),
                                                   (0, (2, 2), (1,), {}), (0, (1,), (1,), dict(n=10**12)), (0, (1,), (1,), dict(n=-4)), (0, (1,), (1,), dict(n=3)), (0, (1,), (1,), dict(key="1")),
                                                   (0, (1,), (1,), dict(kind="UntypedStorage")), (0, (1,), (1,), dict(kind="DoubleStorage"))], ids=str)
def test_numbers_outside_the_file(offset, size, stride, kw, trap, tmp_path):
    data = {"data/0": struct.pack("<4f", 0, 1, 2, 3)}
    archive(tmp_path/"good", tensor(1, (3,), (1,)), **data)
    assert read_saved(tmp_path/"good").tolist() == [1, 2, 3]
    archive(tmp_path/"bad", tensor(offset, size, stride, **kw), **data)
    assert safe(tmp_path/"bad", trap) is False


def test_nothing_stays_changed(trap, tmp_path):
    "A program may set attributes of what it found; it must not have found anything that others use."
    set_attribute = lambda what: what + b"N}" + short("__len__") + name_of("os", "system") + b"s\x86b."       # BUILD with (None, {"__len__": ...})
    before = {m: dict(vars(m)) for m in (torch.FloatStorage, torch.UntypedStorage, OrderedDict, torch._utils._rebuild_tensor_v2)}
    for what in (name_of("torch", "FloatStorage"), name_of("torch", "UntypedStorage"), name_of("collections", "OrderedDict"), REBUILD, name_of("stub.os", "system"), name_of("torch", "float32")):
        archive(tmp_path/"x", set_attribute(what)); safe(tmp_path/"x", trap)
    assert before == {m: dict(vars(m)) for m in before}
    archive(tmp_path/"x", name_of("collections", "OrderedDict") + b")RN}" + b"".join(short(k) + name_of("os", "system") + b"s" for k in ("items", "keys", "get", "values")) + b"\x86b.")
    with pytest.raises(ValueError, match="holds no state dict of tensors"): load_diffae_checkpoint(tmp_path/"x", DDPM)   # its own methods were not asked


class Script(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor: return x


def test_other_containers(trap, tmp_path):
    torch.jit.save(torch.jit.script(Script()), tmp_path/"script")                                             # another language inside
    with zipfile.ZipFile(tmp_path/"script") as z: assert any(n.endswith("constants.pkl") for n in z.namelist())
    got = safe(tmp_path/"script", trap)
    assert not isinstance(got, torch.nn.Module)
    with pytest.raises(ValueError): load_diffae_checkpoint(tmp_path/"script", DDPM)
    with zipfile.ZipFile(tmp_path/"bomb", "w", zipfile.ZIP_DEFLATED) as z: z.writestr("archive/data.pkl", b"N." + bytes(10**6))
    assert safe(tmp_path/"bomb", trap) is False
    with zipfile.ZipFile(tmp_path/"two", "w") as z: z.writestr("a/data.pkl", b"N."); z.writestr("b/data.pkl", b"N.")
    assert safe(tmp_path/"two", trap) is False


def test_cut_files(trap, tmp_path):
    for old in (False, True):
        torch.save({"state_dict": {"w": torch.arange(100.)}}, tmp_path/"whole", _use_new_zipfile_serialization=not old)
        whole = (tmp_path/"whole").read_bytes()
        for n in (0, 3, 10, len(whole)//3, len(whole)//2, len(whole) - 1):
            (tmp_path/"cut").write_bytes(whole[:n])
            assert safe(tmp_path/"cut", trap) is False, (old, n)


# the command

def test_import_command(lightning, tmp_path, trap, capsys):
    raw, ema, latent = redrawn(PlainUNet(TINY), 1), redrawn(PlainUNet(TINY), 2), redrawn(PlainLatentNet(dict(LATENT, num_channels=64)), 3)
    sd = official(raw, ema, (latent, latent), stats=False)
    sd.update(conds_mean=torch.zeros(1, 64), conds_std=torch.ones(1, 64))
    torch.save({**lightning_checkpoint(lightning, sd), "more": attacks(trap)["os.system"]}, tmp_path/"last.ckpt")
    lightning.hide()
    for source in (tmp_path/"last.ckpt", tmp_path):
        out = tmp_path/f"out_{source.suffix[1:]}"
        main(["import", str(source), "--preset", "diffae-tiny", "--out", str(out)])
        assert capsys.readouterr().out == f"DiffAE: {out}\n" and read_config(out)[0] == "DiffAE"
        assert load_file(out/"model.safetensors").keys() == ema.state_dict().keys()
        model = DiffAE.from_pretrained(out)
        assert_is(model, ema); assert isinstance(model.prior, LatentDDIM)
        x, x_T = torch.rand(2, 3, 32, 32)*2 - 1, torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            z = model.encode(x)
            torch.testing.assert_close(z, ema.encoder(x), atol=1e-4, rtol=0)
            assert torch.equal(model.decode(x_T, z, 2), load_diffae_checkpoint(tmp_path, "diffae-tiny").decode(x_T, z, 2))
    assert not trap.exists()


def test_import_command_says_what_is_wrong(tmp_path, capsys):
    sd = under("ema_model.", PlainUNet(TINY))
    sd.pop("ema_model.out.2.bias")
    torch.save({"state_dict": sd}, tmp_path/"last.ckpt")
    (tmp_path/"text").write_text("no checkpoint")
    for source, preset, says in (("last.ckpt", "diffae-tiny", "1 tensors missing: out.2.bias"), ("last.ckpt", "diffae-x", "preset: must be one of"), ("last.ckpt", "ddim-tiny", "these weights are a DiffAE"),
                                 ("text", "diffae-tiny", "no readable checkpoint"), ("nothing", "diffae-tiny", "no file")):
        with pytest.raises(SystemExit) as e: main(["import", str(tmp_path/source), "--preset", preset, "--out", str(tmp_path/"out")])
        err = capsys.readouterr().err
        assert e.value.code == 2 and says in err and err.count("\n") == 1
    assert not (tmp_path/"out").exists()


# damaged at random: a model or our error, whatever the bytes

SEED, CASES, MEMORY = 13, 300, 300*2**20


def small_files(folder):
    "Small valid files of every format: {name: (bytes, reader)}."
    latent = redrawn(PlainLatentNet(dict(LATENT, num_channels=8, num_hid_channels=16, num_layers=3)), 3)
    stats = dict(conds_mean=torch.zeros(1, 8), conds_std=torch.ones(1, 8))
    sd = {"state_dict": {**under("ema_model.latent_net.", latent), **stats}, "callbacks": {"x": [Reduce(eval, "1")]}, "epoch": 7}
    heads = {"classifier.weight": torch.ones(3, 8), "classifier.bias": torch.ones(3), **stats}
    files = {}
    for name, what, old in (("latent-zip", sd, False), ("latent-stream", sd, True), ("classifier-zip", heads, False), ("classifier-stream", heads, True)):
        torch.save(what, folder/"x", _use_new_zipfile_serialization=not old)
        files[name] = (folder/"x").read_bytes(), load_diffae_checkpoint
    for name, old in (("latents-zip", False), ("latents-stream", True)):
        torch.save({"conds": torch.zeros(5, 8), "conds_mean": torch.zeros(8), "conds_std": torch.ones(8)}, folder/"x", _use_new_zipfile_serialization=not old)
        files[name] = (folder/"x").read_bytes(), lambda path: read_latents(path.parent)
    array = np.ones((3, 3, 2, 4), np.float32)
    files["arrays"] = pickle.dumps({"AlexNet_0": {"Conv_0": {"kernel": array, "bias": array[0, 0, 0]}}}, 3), lambda path: read_arrays(path.read_bytes(), path)
    return files


INSERTED = (b"r\xff\xff\xff\x7f", b"\x95" + b"\xff"*7 + b"\x7f", b"X\xff\xff\xff\x7f", b"\x8e" + b"\xff"*7 + b"\x7f", b"\x8b\xff\xff\xff\x7f",
            b"\x85"*5000, b"("*5000, b"]2a", b"}", b")", b"0", b"b", b"R", b"2", b"N", b"K\x00", b"M\xff\xff", b"J\xff\xff\xff\x7f", b".")


def mutated(data, rng):
    "Bytes changed, cut, doubled, dropped or put in at one to three places."
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, how = int(rng.integers(len(data))) if data else 0, rng.integers(6)
        if how == 0 and data: data[at] = rng.integers(256)
        if how == 1: data[at:at + 4] = struct.pack("<I", int(rng.choice([0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1])))
        if how == 2 and rng.random() < 0.3: del data[at:]
        if how == 3: del data[at:at + int(rng.integers(1, 16))]
        if how == 4: data[at:at] = data[at:at + int(rng.integers(1, 64))]
        if how == 5: data[at:at] = INSERTED[rng.integers(len(INSERTED))]
    return bytes(data)


def peak(reset=False):
    "Bytes of memory that this process had at most since the reset."
    if reset: Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])*1024


def sealed(data):
    "A zip archive with the checksums that its contents have now, so that damage reaches what is inside."
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z: infos = z.infolist()
    except Exception: return data
    data = bytearray(data)
    for i in infos:
        if i.header_offset + 30 > len(data): continue
        start = i.header_offset + 30 + sum(struct.unpack_from("<HH", data, i.header_offset + 26))
        crc = struct.pack("<I", zlib.crc32(data[start:start + i.file_size]))
        entry = data.find(b"PK\1\2", 0)
        while entry >= 0 and struct.unpack_from("<I", data, entry + 42)[0] != i.header_offset: entry = data.find(b"PK\1\2", entry + 1)
        if entry >= 0: data[entry + 16:entry + 20] = crc
    return bytes(data)


@pytest.mark.parametrize("name", ["latent-zip", "latent-stream", "classifier-zip", "classifier-stream", "latents-zip", "latents-stream", "arrays"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_at_random(name, tmp_path):
    data, read = small_files(tmp_path)[name]
    path, rng, opened = tmp_path/("latent.pkl" if name.startswith("latents") else "last.ckpt"), np.random.default_rng(SEED), 0
    path.write_bytes(data); read(path)                                                                         # the whole one can be read
    before, start = peak(reset=True), time.monotonic()
    for case in range(CASES):
        path.write_bytes(sealed(mutated(data, rng)) if name.endswith("zip") and case % 2 else mutated(data, rng))
        try: got = read(path)
        except (ValueError, OSError) as e:
            assert str(path) in str(e) and "\n" not in str(e), e
            assert "is damaged" in str(e) or not isinstance(e, UnicodeError), e
        else:
            opened += 1
            if isinstance(got, torch.nn.Module): assert all(v.isfinite().all() or k.startswith("z_sem") for k, v in got.state_dict().items())
    assert peak() - before < MEMORY and time.monotonic() - start < 40
    assert opened < CASES
