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


# the commonest operations number by number: PyTorch works out their results on meta in Python, at length
_EACH = {getattr(torch.ops.aten, name) for name in (
    "add", "sub", "mul", "div", "neg", "pow", "rsqrt", "exp", "silu", "gelu", "sigmoid", "silu_backward",
    "gelu_backward",
)}  # fmt: skip
_OVERLOADS = ("default", "Tensor", "Scalar", "Tensor_Scalar")


def _number_by_number(func: Any, args: Any) -> Tensor | None:
    """The result of such an operation on meta, by its shape; None of others, which PyTorch is asked."""
    if func.overloadpacket not in _EACH or func._overloadname not in _OVERLOADS:
        return None
    tensors = [part for part in args if isinstance(part, Tensor)]
    first = tensors[0]
    for tensor in tensors:
        if tensor.device != META or tensor.dtype != first.dtype or not tensor.is_floating_point():
            return None
    shape = torch.broadcast_shapes(*[tensor.shape for tensor in tensors])
    like = next((tensor for tensor in tensors if tensor.shape == shape), None)
    return first.new_empty(shape) if like is None else torch.empty_like(like)


class _Counter(TorchDispatchMode):
    """Adds up the storages of the meta tensors that are alive."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {weight.untyped_storage()._cdata for weight in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _number_by_number(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device == META:
                self._seen(tensor)
        return result

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
