#!/usr/bin/env python
"""Check an installed package as its user has it: away from the repository, without the dev extra, without the network.

    cd somewhere/else && python REPOSITORY/tools/check_installed.py

Imports every module, loads the data and calls from_pretrained for every name that ships. `--imports` does the imports only.
"""
import socket
import sys
import time
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

REPO = Path(__file__).resolve().parents[1]


def no_network(*args, **kwargs): raise OSError("check_installed: the package asked for the network")


def block_network():
    "Every way out of this process fails at once."
    socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = no_network


def import_all(name):
    "Every module of the package but the website's renderer."
    package = import_module(name)
    assert REPO not in Path(package.__file__).resolve().parents, f"{name} is imported from the repository, not from an installation"
    names = sorted(m.name for m in walk_packages(package.__path__, f"{name}.") if not m.name.endswith("._showdoc"))
    modules = [package] + [import_module(n) for n in names]
    assert not {"nbdev", "execnb"} & sys.modules.keys(), "the package imports nbdev"
    return modules


def pretrained_names(modules):
    "All (class, name) with weights in the package."
    base = import_module(f"{modules[0].__name__}.pretrained").Pretrained
    classes = {v for m in modules for v in vars(m).values() if isinstance(v, type) and issubclass(v, base)}
    return sorted(((c, name) for c in classes for name in getattr(c, "shipped", {})), key=lambda pair: (pair[0].__name__, pair[1]))


def main():
    start = time.time()
    block_network()
    modules = import_all("litevae_diffae")
    print(f"{len(modules)} modules imported, {time.time() - start:.1f} s")
    if "--imports" in sys.argv: return
    data = import_module("litevae_diffae.data")
    for split in ("train", "test"):
        faces, photos = data.load_avatars(split), data.load_photos(split)
        assert faces.images.shape[1:] == (64, 64, 3) and faces.attributes.shape == (len(faces.images), len(faces.names))
        assert photos and all(p.dtype == "uint8" and p.ndim == 3 for p in photos)
        print(f"{split}: {len(faces.images)} avatars, {len(photos)} photos")
    import torch
    names = pretrained_names(modules)
    for cls, name in names:
        model = cls.from_pretrained(name)
        assert all(torch.isfinite(p).all() for p in model.parameters())
        print(f"{cls.__name__}.from_pretrained({name!r}): {sum(p.numel() for p in model.parameters()):,} parameters")
    folders = {p.parent for p in import_module("litevae_diffae.core").asset("").glob("*/model.safetensors")}
    assert len(folders) == len(names), f"weights in {sorted(p.name for p in folders)}, but the classes name {[name for _, name in names]}"
    print(f"installed package works without the network: {len(names)} shipped models, {time.time() - start:.1f} s")


if __name__ == "__main__": main()
