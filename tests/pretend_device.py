"""A device that is no CPU but computes on it, for tests: PyTorch calls it `sham`.

Its tensors carry real numbers, say that they are on `sham:0`, refuse to meet a tensor of the CPU as a GPU's
do, and are never float64, which Apple's GPUs do not have. What only CUDA has, such as its autocast and its
generators, it cannot show.

    with PretendDevice():
        model.to("sham").encode(x.to("sham"))
"""
import sys
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register

MOVES = ("aten::_to_copy", "aten::copy_", "aten::index_put", "aten::_index_put_impl")


class Autocast(torch.autocast):
    "PyTorch's, which does nothing on the device."
    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu" if device_type == "sham" else device_type, *args, **kwargs)


def start():
    "Register the device with PyTorch, once a process."
    register("sham")
    torch.autocast = torch.amp.autocast = Autocast
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)


class ShamTensor(torch.Tensor):
    "Holds a CPU tensor, says that it is on `sham:0`."
    @staticmethod
    def __new__(cls, real):
        self = torch.Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(),
            dtype=real.dtype, layout=real.layout, device="sham:0", requires_grad=False)
        self._real = real
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return run(func, args, kwargs or {})

    def __repr__(self): return f"ShamTensor({self._real!r})"

    def __format__(self, form): return format(self._real, form)

    def tolist(self): return self._real.tolist()


def check_meeting(name, given):
    "`RuntimeError` if tensors of both devices meet; numbers (no dimensions) and copies may."
    here = [t for t in given if isinstance(t, ShamTensor)]
    there = [t for t in given if not isinstance(t, ShamTensor) and t.ndim]
    if here and there and not name.startswith(MOVES):
        raise RuntimeError(f"Expected all tensors to be on the same device, sham:0 and cpu: {name}")


def check_generator(name, generator, on_sham):
    "`RuntimeError` for a generator of the other device."
    if generator is not None and (generator.device.type == "sham") != on_sham:
        raise RuntimeError(f"Expected a generator on {'sham' if on_sham else 'cpu'}: {name}")


def check_type(name, out):
    "`TypeError` for a float64 result on the device."
    if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in tree_leaves(out)):
        raise TypeError(f"sham:0 has no float64: {name}")


def run(func, args, kw):
    "Compute on the CPU what belongs to the device, and say so of the result."
    name = func._schema.name
    given = [t for t in tree_leaves((args, kw)) if isinstance(t, torch.Tensor)]
    check_meeting(name, given)
    known = {id(t._real): t for t in given if isinstance(t, ShamTensor)}
    device = kw.get("device")
    on_sham = bool(known) if device is None else torch.device(device).type == "sham"
    check_generator(name, kw.get("generator"), on_sham)
    if device is not None and on_sham:
        kw = {**kw, "device": torch.device("cpu")}
    if on_sham: kw.pop("pin_memory", None)
    def real(a): return a._real if isinstance(a, ShamTensor) else a
    def sham(t):
        if not isinstance(t, torch.Tensor): return t
        return known[id(t)] if id(t) in known else ShamTensor(t)
    out = func(*tree_map(real, args), **tree_map(real, kw))
    if name == "aten::copy_": return args[0]
    if not on_sham: return out
    check_type(name, out)
    return tree_map(sham, out)


class PretendDevice(TorchDispatchMode):
    "Context in which the device is there."
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return run(func, args, kwargs or {})


@contextmanager
def default_device_is(kind):
    "`default_device` and Accelerate find a device of this kind."
    from accelerate import Accelerator
    from accelerate.state import PartialState

    from litevae_diffae import core
    old = Accelerator.device, core.default_device
    modules = [m for name, m in sys.modules.items() if name.startswith("litevae_diffae")]
    changed = [m for m in modules if getattr(m, "default_device", None) is core.default_device]
    for module in changed: module.default_device = lambda: torch.device(kind)
    on_cpu = property(lambda self: PartialState._shared_state.get("_cpu", False))
    Accelerator.is_cpu = on_cpu
    Accelerator.device = property(lambda self: torch.device("cpu" if self.is_cpu else kind))
    try: yield
    finally:
        Accelerator.device = old[0]
        for module in changed: module.default_device = old[1]
