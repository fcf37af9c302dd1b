"""How much memory one training step takes, found without taking it: the step runs on tensors without content.

Every operation runs on PyTorch's meta device, where tensors have shapes but no numbers; what would have been
allocated, and when it would have been freed, is counted.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


def meta_copy(module: nn.Module, shared: Iterable[Any] = ()) -> Any:
    """A copy of the module whose weights have shapes but no numbers: it costs nothing.

    `shared`: what hangs on the module and need not be copied.
    """
    memo: dict[int, Any] = {id(part): part for part in shared}
    for weight in module.parameters():
        memo[id(weight)] = nn.Parameter(weight.detach().to(META), requires_grad=weight.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.to(META)
    return copy.deepcopy(module, memo)


def peak_of(work: Callable[[], None], module: nn.Module) -> int:
    """Bytes that the work would have allocated at its worst moment, beside the hollow module's weights."""
    counter = _Counter([*module.parameters(), *module.buffers()])
    with _fused_attention(), counter:
        work()
    return counter.peak


class _Counter(TorchDispatchMode):
    """Adds up the storages of the meta tensors that are alive."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {weight.untyped_storage()._cdata for weight in held}
        self._anew: dict[Any, bool] = {}  # by operation: whether it makes new tensors
        self._results: dict[Any, tuple[Any, list[Any]]] = {}  # of operations, by what goes in

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._made(func, args, kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device == META:
                self._seen(tensor)
        return result

    def _made(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives. PyTorch works out what is on meta in Python, at length, while equal blocks
        do the same over and over: results that are new tensors are remembered by what they were made of."""
        if func not in self._anew:
            parts = (*func._schema.arguments, *func._schema.returns)
            self._anew[func] = all(part.alias_info is None for part in parts)  # no view, nothing in place
        if not self._anew[func]:
            return func(*args, **kwargs)
        try:
            key = func, _shapes(args), _shapes(tuple(kwargs.items()))
            earlier = self._results.get(key)
        except TypeError:  # of something else than shapes and numbers
            return func(*args, **kwargs)
        if earlier is None:
            result = func(*args, **kwargs)
            each = result if isinstance(result, tuple | list) else (result,)
            if all(part is None or isinstance(part, Tensor) and part.device == META for part in each):
                kinds = [None if part is None else _shapes(part) for part in each]
                self._results[key] = type(result) if each is result else None, kinds
            return result
        several, kinds = earlier
        made = [
            None if kind is None else torch.empty_strided(kind[0], kind[1], dtype=kind[2], device=META)
            for kind in kinds
        ]
        return made[0] if several is None else several(made)

    def _seen(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _shapes(part: Any) -> Any:
    """What a result's shape hangs on, as a key. Raises TypeError for what is none."""
    if isinstance(part, Tensor):
        if part.device != META:
            raise TypeError
        return part.shape, part.stride(), part.dtype
    if isinstance(part, tuple | list):
        return tuple(_shapes(inner) for inner in part)
    if isinstance(part, torch.Generator):
        raise TypeError
    return type(part), part  # 1, 1.0 and True are equal, and promote otherwise


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Within, attention between meta tensors is counted as fused kernels do it, which keep no map.

    On meta, PyTorch would take its plain formula. A TorchFunctionMode would not reach what gradient
    checkpointing computes again; other tensors take their usual way.
    """
    usual = F.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *more: Any, **options: Any) -> Tensor:
        if query.is_meta:
            return _Attention.apply(query, key, value)
        return usual(query, key, value, *more, **options)

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = usual


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)  # one number per query
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        query, key, value, _, _ = ctx.saved_tensors
        return tuple(torch.empty_like(part) for part in (query, key, value))
