"""From a job to an artifact: the one door to training, for the command line, nodes and tests alike."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from ..config import Job
from ..data.concepts import Concept, digest, load_concept
from ..errors import LikenessError
from ..files import make_folder
from .base_model import BaseModel, load_base
from .checkpoint import Checkpoints
from .host import hosted
from .methods import method_class
from .methods.base import Method
from .observer import Observer, Progress, Silent, Stopped
from .trainer import Trainer

log = logging.getLogger(__name__)

__all__ = ["Observer", "Progress", "Stopped", "train"]


def train(job: Job, observer: Observer | None = None, base: BaseModel | None = None) -> Path:
    """Learns what the job says and writes its artifact; returns the artifact's path.

    When the observer stops it, what was learned so far is written, beside a checkpoint to go on from.
    A `base` given is used as it is and comes back unchanged; without one the job's is loaded.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(job.seed)
        return _train(job, observer or Silent(), base)


def _train(job: Job, observer: Observer, base: BaseModel | None) -> Path:
    output = Path(job.output)
    make_folder(output.parent)
    concepts = [load_concept(concept) for concept in job.concepts]
    base = _trainable(base) if base is not None else load_base(job.base)
    accelerator = _accelerator(job)
    with hosted(base, job.on):
        _learn(job, base, concepts, accelerator, observer)
    return output


def _learn(
    job: Job, base: BaseModel, concepts: Sequence[Concept], accelerator: Accelerator, observer: Observer
) -> None:
    """The run itself, from the method's first weights to its artifact; the base returns where it was."""
    pictures = digest(concepts)
    checkpoints = Checkpoints(job, pictures)
    home = base.device
    method: Method = method_class(job.method)(job, base, concepts)
    try:
        method.to(accelerator.device)
        trainer = Trainer(method, job, accelerator, observer, checkpoints)
        with accelerator.autocast():
            method.prepare(trainer.check)
        progress = trainer.run()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            artifact = replace(method.artifact(), steps=progress.step, digest=pictures)
            artifact.save(Path(job.output))
            if not progress.stopped:
                checkpoints.clear()
        accelerator.wait_for_everyone()
    finally:
        method.close()
        base.to(home)
        _forget(accelerator)


def _trainable(base: BaseModel) -> BaseModel:
    """The base itself, or a copy where its weights were made under inference mode and bar gradients."""
    return copy.deepcopy(base) if any(weight.is_inference() for weight in base.parameters()) else base


def _accelerator(job: Job) -> Accelerator:
    precision = "no" if job.precision == "fp32" else job.precision
    # a step in which a caption leaves a token out must not hang the other processes
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    try:
        return Accelerator(mixed_precision=precision, cpu=job.device == "cpu", kwargs_handlers=[ddp])
    except ValueError as error:
        AcceleratorState._reset_state(reset_partial_state=True)
        raise LikenessError(f"this machine cannot train in {job.precision} ({error}); use fp32") from error


def _forget(accelerator: Accelerator) -> None:
    """Accelerate keeps its settings for the whole process; the next job may want others."""
    AcceleratorState._reset_state(reset_partial_state=accelerator.num_processes == 1)
