"""Reading tensors and plain values out of PyTorch files full of pickled classes, without running these.

Not by PyTorch's reader of weights alone with stand-ins as `safe_globals`: it fills dictionaries and lists of
its own kinds only, so that a file with somebody's meter (a dict's subclass) in it cannot be read, and it
refuses a file that names `os` where here the name comes to nothing.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch._utils

from ..errors import LikenessError
from ..files import reading
from .tensors import checked_sizes, read_pickle, refuse_programs


class Inert:
    """Stands for anything that a file wants imported, called or restored: does nothing, remembers nothing."""

    def __new__(cls, *_arguments: Any, **_options: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *_arguments: Any, **_options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


_STORAGES = ("FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage", "LongStorage", "IntStorage")
_HARMLESS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    **{("torch", name): getattr(torch, name) for name in _STORAGES},
}


class _Unpickler(pickle._Unpickler):
    """Python's own in Python: the one in C makes room for as many memos as a number in the file says, 2³² of
    them if need be. Nothing is restored either: `BUILD` could give a function other defaults for good."""

    def find_class(self, module: str, name: str) -> Any:
        return _HARMLESS.get((module, name), Inert)

    def _no_build(self) -> None:
        self.stack.pop()  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: _no_build}


def _no_old_format(*_arguments: Any, **_options: Any) -> Any:
    raise pickle.UnpicklingError("written by PyTorch 1.5 or older")


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> Any:
    """What a checkpoint of any age holds, on the CPU: PyTorch's own careful reader's word, or else ours, for
    which the classes that trainers store with their weights (callbacks, settings) stay inert."""
    try:
        return read_pickle(path, "", mmap=mmap)
    except LikenessError:
        return read_without_running(path, mmap=mmap)


def read_without_running(path: str | Path, *, mmap: bool = False) -> Any:
    """The file's content on the CPU: tensors and plain containers as they are, all else inert."""
    with reading(path, "is no PyTorch checkpoint, or is damaged; get it again or choose another"):
        if not refuse_programs(path):
            raise pickle.UnpicklingError("no zip")
        careful: Any = SimpleNamespace(Unpickler=_Unpickler, load=_no_old_format, __name__="inert")
        content = torch.load(path, map_location="cpu", pickle_module=careful, weights_only=False, mmap=mmap)
        return checked_sizes(content, path)
