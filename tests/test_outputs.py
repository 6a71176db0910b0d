"""The door for results: names that differ, nothing of the user's written over, whole files, a count."""
import json
import os
import random
import stat
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from litevae_diffae.files import FileError
from litevae_diffae.commands.outputs import (MANIFEST, Outputs, claim_json, few, is_inside, name_key, open_folder,
                                    plan_names, read_manifest, save_model)

GREY = np.full((4, 4, 3), 100, np.uint8)


def quiet(*args, **kw): return Outputs(*args, say=str, **kw)


@pytest.mark.parametrize("sources,names", [
    (["x.jpg"], ["x.png"]),
    (["000000", "000001"], ["000000.png", "000001.png"]),
    (["a/x.jpg", "b/x.jpg"], ["a/x.png", "b/x.png"]),
    (["x.jpg", "x.png", "x.webp"], ["x.jpg.png", "x.png.png", "x.webp.png"]),
    (["frame.0000", "frame.0001", "frame.0002"], ["frame.0000.png", "frame.0001.png", "frame.0002.png"]),
    (["x.jpg", "X.JPG"], ["x.jpg.png", "X.JPG~2.png"]),
    (["\u00e9.jpg", "e\u0301.jpg"], ["\u00e9.jpg.png", "e\u0301.jpg~2.png"]),
    (["A/x.jpg", "a/x.jpg"], ["A/x.jpg.png", "a/x.jpg~2.png"]),
    (["a.jpg", "a.png/b.jpg"], ["a.jpg.png", "a.png/b.png"]),
    (["x.tar.jpg", "x.tar.png", "y.jpg"], ["x.tar.jpg.png", "x.tar.png.png", "y.png"]),
    (["x.jpg", "x.png", "x.png.gif"], ["x.jpg.png", "x.png.png", "x.png.gif.png"]),
])
def test_names_are_predictable_and_different(sources, names):
    assert plan_names(sources, ".png") == names


def test_no_two_names_are_one_file_anywhere():
    rng = random.Random(0)
    parts = ["x", "X", "\u00e9", "e\u0301", ".png", ".jpg", "~2", "/", "/x.png/", "\udce9", "ss", "\u00df"]
    for _ in range(2000):
        some = {"".join(rng.choice(parts) for _ in range(rng.randint(1, 5))).strip("/").replace("//", "/") for _ in range(7)}
        some = [s for s in sorted(some) if PurePosixPath(s).name.strip(".")]
        keys = [name_key(n) for n in plan_names(some, ".png")]
        folders = {p.as_posix() for k in keys for p in PurePosixPath(k).parents if p.name}
        assert len(set(keys)) == len(some) and not folders & set(keys)


def test_names_fit_into_a_file_system(tmp_path):
    long = ["é"*125 + ".jpg", "x"*251 + ".png", "x"*251 + ".jpg"]
    names = plan_names(long, ".safetensors")
    assert len(set(names)) == 3
    with quiet(tmp_path, "encode") as out:
        for name in out.plan(names): out.tensors(name, {"a": torch.zeros(1)})
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


# places

def linked(root, name, to):
    os.symlink(to, root/name)
    return root/name


@pytest.mark.parametrize("place", ["data", "data/.", "data/new/deeper", "link", "link/new", "data/more/../new",
                                   "elsewhere", "elsewhere/new", "data/inner"])
def test_no_results_inside_the_data(tmp_path, monkeypatch, place):
    (tmp_path/"data/more").mkdir(parents=True)
    (tmp_path/"elsewhere").mkdir()
    linked(tmp_path, "link", tmp_path/"data")
    linked(tmp_path/"data", "inner", tmp_path/"elsewhere")       # a link in the data leads to it
    before = sorted(tmp_path.rglob("*"))
    for out in (tmp_path/place, place):
        monkeypatch.chdir(tmp_path)
        for data in (tmp_path/"data", Path("data"), Path("link")):
            with pytest.raises(FileError, match="with --out"): quiet(out, "edit", [data])
    monkeypatch.chdir(tmp_path/"data")
    with pytest.raises(FileError, match="is a folder of the data"): quiet(".", "edit", ["."])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_above_or_beside_the_data_will_do(tmp_path):
    (tmp_path/"data").mkdir()
    for place in (tmp_path, tmp_path/"data2", tmp_path/"data/../new"): assert quiet(place, "edit", [tmp_path/"data"]).folder
    assert is_inside(tmp_path/"data/x", tmp_path/"data") and not is_inside(tmp_path/"data2", tmp_path/"data")


def test_a_result_inside_the_data_by_its_name(tmp_path):
    (tmp_path/"data").mkdir()
    with quiet(tmp_path, "edit", [tmp_path/"data"]) as out, pytest.raises(FileError, match="of the data"): out.plan(["data/x.png"])
    assert not list((tmp_path/"data").iterdir()) and not (tmp_path/MANIFEST).exists()


def test_out_is_a_file_or_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path/"file").write_text("mine")
    for place, says in (("file", "is a file, a folder is needed"), ("file/new", "can't be written into"), ("", "must not be empty")):
        with pytest.raises(ValueError, match=says): open_folder(tmp_path/place if place else "")
    monkeypatch.setattr(Path, "write_bytes", lambda *a: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(FileError, match=r"can't be written into \(Permission denied\)"): open_folder(tmp_path/"new")
    assert (tmp_path/"file").read_text() == "mine"


# what is there already

def test_nothing_is_written_onto_an_input(tmp_path):
    (tmp_path/"x.png").write_bytes(b"photo")
    with quiet(tmp_path, "edit", [tmp_path/"x.png"]) as out, pytest.raises(FileError, match="x.png: is one of the files to read"):
        out.plan(["x.png"])
    (tmp_path/"out").mkdir()
    for make in (os.symlink, os.link):
        make(tmp_path/"x.png", tmp_path/"out/x.png")
        with quiet(tmp_path/"out", "edit", [tmp_path/"x.png"]) as out, pytest.raises(FileError, match="is one of the files to read"):
            out.plan(["x.png"])
        (tmp_path/"out/x.png").unlink()
    assert (tmp_path/"x.png").read_bytes() == b"photo"


@pytest.mark.parametrize("make,says", [
    (lambda p: p.write_bytes(b"mine"), "is no unchanged result of this program"),
    (lambda p: p.mkdir(), "is a folder"),
    (lambda p: os.symlink("nowhere", p), "is a link"),
])
def test_what_somebody_else_made_stays(tmp_path, make, says):
    make(tmp_path/"x.png")
    with quiet(tmp_path, "edit") as out, pytest.raises(FileError, match=says): out.plan(["w.png", "x.png"])
    assert not (tmp_path/"w.png").exists() and not (tmp_path/MANIFEST).exists() and os.path.lexists(tmp_path/"x.png")


def test_a_link_that_leads_out_of_the_folder(tmp_path):
    (tmp_path/"photos").mkdir()
    (tmp_path/"out").mkdir()
    linked(tmp_path/"out", "more", tmp_path/"photos")
    with quiet(tmp_path/"out", "edit") as out, pytest.raises(FileError, match="leads out of .* through a link"): out.plan(["more/x.png"])
    assert not list((tmp_path/"photos").iterdir())


def run(folder, n, value=0, by="sample"):
    said = []
    with Outputs(folder, by, say=said.append) as out:
        for name in out.plan([f"{i:03d}.png" for i in range(n)], numbered=True): out.png(name, GREY + value)
    return said


def files(folder): return sorted(p.name for p in folder.iterdir() if p.name != MANIFEST)


def test_a_shorter_run_leaves_nothing_of_the_longer_one(tmp_path):
    run(tmp_path, 6)
    said = run(tmp_path, 2, 1)
    assert files(tmp_path) == ["000.png", "001.png"]
    assert "replaces 000.png, 001.png" in said[0] and "removed 002.png, 003.png, 004.png and 1 more" in said[1]
    assert np.asarray(Image.open(tmp_path/"001.png")).max() == 101
    assert set(read_manifest(tmp_path)) == {"000.png", "001.png"}
    run(tmp_path, 4)
    run(tmp_path, 3, by="interpolate")                            # another command's numbers are as stale
    assert files(tmp_path) == ["000.png", "001.png", "002.png"]


def test_files_of_the_user_are_kept_and_said(tmp_path):
    run(tmp_path, 5)
    (tmp_path/"004.png").write_bytes(b"changed by me")
    (tmp_path/"777.png").write_bytes(b"mine")
    (tmp_path/"holiday.png").write_bytes(b"mine")
    said = run(tmp_path, 2)
    assert files(tmp_path) == ["000.png", "001.png", "004.png", "777.png", "holiday.png"]
    assert any("004.png, 777.png not of this run" in s for s in said)
    with pytest.raises(FileError, match="004.png: is there already"): run(tmp_path, 5)
    assert (tmp_path/"004.png").read_bytes() == b"changed by me" and files(tmp_path)[:3] == ["000.png", "001.png", "004.png"]


def test_without_the_list_nothing_is_ours(tmp_path):
    run(tmp_path, 4)
    (tmp_path/MANIFEST).unlink()
    with pytest.raises(FileError, match="000.png: is there already"): run(tmp_path, 2)
    assert files(tmp_path) == [f"00{i}.png" for i in range(4)]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": []}', '{"files": {"../x": {}}}', '{"files": {"/x": {}}}', '{"files": {"x": 3}}'])
def test_a_damaged_list_is_named(tmp_path, text):
    (tmp_path/MANIFEST).write_text(text)
    with pytest.raises(FileError, match="delete it"): run(tmp_path, 2)
    assert (tmp_path/MANIFEST).read_text() == text


def test_a_list_can_remove_numbers_only(tmp_path):
    (tmp_path/"photo.jpg").write_bytes(b"mine")
    entry = dict(by="sample", sha256=None, numbered=True)
    (tmp_path/MANIFEST).write_text(json.dumps({"files": {"photo.jpg": entry, "007.png": entry}}))
    (tmp_path/"007.png").mkdir()
    run(tmp_path, 1)
    assert (tmp_path/"photo.jpg").read_bytes() == b"mine" and (tmp_path/"007.png").is_dir()


def test_a_run_that_failed_removes_nothing_and_can_be_repeated(tmp_path):
    run(tmp_path, 6)
    with pytest.raises(RuntimeError), quiet(tmp_path, "sample") as out:
        out.plan(["000.png", "001.png"], numbered=True)
        out.png("000.png", GREY + 5)
        raise RuntimeError("no memory")
    assert len(files(tmp_path)) == 6
    run(tmp_path, 2)
    assert files(tmp_path) == ["000.png", "001.png"]


def test_a_killed_run_can_be_repeated(tmp_path):
    out = quiet(tmp_path, "reconstruct")
    out.plan(["a.png", "b.png"])
    out.png("a.png", GREY)                                        # killed here: nobody closes the list
    with quiet(tmp_path, "reconstruct") as out:
        for name in out.plan(["a.png", "b.png"]): out.png(name, GREY)
    assert files(tmp_path) == ["a.png", "b.png"]


def test_results_of_other_images_stay(tmp_path):
    for name in ("a.png", "b.png"):
        with quiet(tmp_path, "reconstruct") as out: out.png(*out.plan([name]), GREY)
    assert files(tmp_path) == ["a.png", "b.png"] and set(read_manifest(tmp_path)) == {"a.png", "b.png"}


# writing

def test_files_have_the_usual_mode_and_are_whole(tmp_path):
    old = os.umask(0o022)
    try:
        with quiet(tmp_path, "encode") as out:
            out.plan(["a/b.safetensors", "c.json", "d.txt", "e.png"])
            out.tensors("a/b.safetensors", {"x": torch.ones(2)}, {"size": "1x1"})
            out.json("c.json", {"psnr": float("inf")})
            out.text("d.txt", "\udce9 é")
            out.png("e.png", GREY[..., :1])
    finally: os.umask(old)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*") if p.is_file()} == {0o644}
    assert json.loads((tmp_path/"c.json").read_text())["psnr"] is None
    assert (tmp_path/"d.txt").read_text(encoding="utf-8") == "\\udce9 é" and Image.open(tmp_path/"e.png").mode == "L"


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(tmp_path):
    def full(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    run(tmp_path, 1)
    whole = (tmp_path/"000.png").read_bytes()
    with pytest.raises(FileError, match=r"000.png: can't be written \(No space left on device\)"), quiet(tmp_path, "sample") as out:
        out.plan(["000.png", "001.png"])
        out.write("000.png", full)
    assert files(tmp_path) == ["000.png"] and (tmp_path/"000.png").read_bytes() == whole


def test_only_planned_names_once(tmp_path):
    with quiet(tmp_path, "edit") as out:
        out.plan(["a.png"])
        for names in (["b.png", "B.png"], ["A.png"], ["a.png/b.png"]):
            with pytest.raises(ValueError, match="two results called"): out.plan(names)
        for name in ("../x.png", "/x.png", "", "a/../x.png", MANIFEST):
            with pytest.raises(ValueError, match="is no name below a folder"): out.plan([name])
        with pytest.raises(ValueError, match="was not planned"): out.png("c.png", GREY)


def test_who_stops_a_command_is_told_what_there_is(tmp_path):
    with pytest.raises(KeyboardInterrupt) as e, quiet(tmp_path, "edit") as out:
        out.plan(["a.png", "b.png", "c.png"])
        out.png("a.png", GREY)
        raise KeyboardInterrupt
    assert e.value.note == f"1 of 3 files are written to {tmp_path}; the same command again writes them all"


def test_a_folder_of_somebody_else_is_not_claimed(tmp_path):
    (tmp_path/"run").mkdir()
    with quiet(tmp_path, "demo") as out, pytest.raises(FileError, match="run: is there already"): out.claim("run")
    (tmp_path/"run").rmdir()
    for _ in range(2):
        with quiet(tmp_path, "demo") as out: out.claim("run").mkdir(exist_ok=True)


def test_a_model_is_a_result(tmp_path):
    from litevae_diffae import LiteVAE
    model = LiteVAE.from_preset("litevae-tiny")
    for _ in range(2):
        with quiet(tmp_path/"m", "import") as out: save_model(out, model)
    assert files(tmp_path/"m") == ["config.json", "model.safetensors"]
    LiteVAE.from_pretrained(tmp_path/"m")
    model.save_pretrained(tmp_path/"mine")
    with quiet(tmp_path/"mine", "import") as out, pytest.raises(FileError, match="config.json: is there already"): save_model(out, model)
    assert files(tmp_path/"mine") == ["config.json", "model.safetensors"]


def test_json_files_are_known_by_their_keys(tmp_path):
    path = tmp_path/"bench.json"
    assert claim_json(path, ["parts"]) == path
    for text in ("[1, 2]", "{}", "no JSON", '{"part": 1}'):
        path.write_text(text)
        with pytest.raises(FileError, match="is no result of this command"): claim_json(path, ["parts"])
        assert path.read_text() == text
    path.write_text('{"parts": 1}')
    assert claim_json(str(path), ["parts"]) == path
    with pytest.raises(FileError, match="is a folder"): claim_json(tmp_path, ["parts"])


def test_few():
    assert [few(list("ab")), few(list("abcd"))] == ["a, b", "a, b, c and 1 more"]
