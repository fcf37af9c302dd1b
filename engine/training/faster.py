"""Measures that may make a step faster on a GPU: the order of weights in memory, and compiling.

Neither changes a name, a file or what is learned beyond rounding: modules compile in place, and both are
taken back when the run ends.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..config import Job
from ..errors import LikenessError
from .methods.base import Method


@contextmanager
def arranged(method: Method, job: Job) -> Iterator[None]:
    """Within, the U-Net is laid out and compiled as the job asks."""
    network = method.base.network
    compiled = compilable(method) if job.compile else []
    try:
        if job.channels_last:
            network.to(memory_format=torch.channels_last)
        for part in compiled:
            part.compile(backend=job.compile)
        yield
    except torch._dynamo.exc.TorchDynamoException as error:  # pyright: ignore[reportAttributeAccessIssue]
        reason = str(error).strip().splitlines()[0]
        raise LikenessError(f"torch.compile does not work here ({reason}); leave compile away") from error
    finally:
        for part in compiled:
            part._compiled_call_impl = None
        if job.channels_last:
            network.to(memory_format=torch.contiguous_format)


def compilable(method: Method) -> list[nn.Module]:
    """What of the U-Net is compiled: all of it, or the layers between which a method hangs its hooks.

    A compiled module does not hear of hooks hung into it afterwards, as attention maps, staged words and
    identity tokens need them in every step.
    """
    from diffusers.models.attention import FeedForward
    from diffusers.models.resnet import ResnetBlock2D

    if not method.capabilities.hooked_layers:
        return [method.base.network]
    return [part for part in method.base.network.modules() if isinstance(part, FeedForward | ResnetBlock2D)]


def check_backend(name: str) -> None:
    """Raises LikenessError for a backend that this PyTorch does not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backends = torch._dynamo.list_backends(exclude_tags=())
    if name not in backends:
        raise LikenessError(f"torch.compile has no backend '{name}' here; take one of {', '.join(backends)}")
