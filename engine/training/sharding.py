"""FSDP for what is frozen: the U-Net's weights in pieces over all processes, what is trained whole in each.

A process keeps its piece of every block and borrows the others' while that block runs. As nothing of it is
trained, gradients, checkpoints and files are those of DDP. Text encoders and autoencoder stay whole: their
results are kept for prompts and pictures that come again, so that not every process needs them in a step.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ..config import Job
from ..errors import LikenessError
from .methods.base import Method

log = logging.getLogger(__name__)

_ASKED = "ACCELERATE_USE_FSDP"  # what `accelerate launch` sets where its configuration says FSDP
OFFLOAD = "FSDP_OFFLOAD_PARAMS"


def sharding_asked() -> bool:
    """Whether the configuration that started this process says FSDP, and there is somebody to share with."""
    return said(_ASKED) and int(os.environ.get("WORLD_SIZE", "1")) > 1


def said(name: str) -> bool:
    """Whether an environment variable that `accelerate launch` sets says yes."""
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")


@contextmanager
def unsaid() -> Iterator[None]:
    """Within, Accelerate is not told: it would cut what is trained, too, and file its pieces apart."""
    value = os.environ.pop(_ASKED, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[_ASKED] = value


def check_shardable(kind: type[Method], job: Job) -> None:
    """Raises LikenessError where the U-Net must stay in one piece."""
    if not kind.capabilities_for(job).sharded_base:
        raise LikenessError(
            f"FSDP cuts the U-Net into pieces, but {job.method} trains or changes layers of it; choose "
            "multi-GPU (DDP) in `accelerate config`"
        )
    for name, asked in (("compile", job.compile), ("channels_last", job.channels_last)):
        if asked:
            raise LikenessError(f"{name} needs the U-Net in one piece; leave it away, or do without FSDP")
    if job.on:
        raise LikenessError("likenesses to learn on are merged into the U-Net; do without FSDP")
    if said(OFFLOAD):
        raise LikenessError(
            "FSDP is to keep weights on the CPU, which is not supported; set fsdp_offload_params to false"
        )


def shard_base(method: Method, accelerator: Accelerator) -> None:
    """Cuts the U-Net, on the training device already, over all processes; it stays so."""
    network, processes = method.base.network, accelerator.num_processes
    # PyTorch warns of adding into what a projection returned, which neither diffusers' blocks nor we do
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(accelerator.device.type, (processes,))
    for block in [*method.base.denoiser.shards(), network]:
        fully_shard(block, mesh=mesh)
    method.hold_base_apart()
    kept, whole = kept_bytes(network)
    log.info(
        "FSDP: each of %d processes keeps %.1f of the U-Net's %.1f MB", processes, kept / 1e6, whole / 1e6
    )


def kept_bytes(network: nn.Module) -> tuple[int, int]:
    """Bytes of a cut network's weights in this process, and of all of them."""
    kept = whole = 0
    for weight in network.parameters():
        here = weight.to_local() if isinstance(weight, DTensor) else weight
        kept, whole = kept + here.nbytes, whole + weight.numel() * weight.element_size()
    return kept, whole
