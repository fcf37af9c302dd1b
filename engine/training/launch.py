"""From a job to an artifact: the one door to training, for the command line, nodes and tests alike.

As a program it trains what a job file says, on as many processes as start it:

    accelerate launch -m likeness_portraits.engine.training.launch JOB.yaml [--resume] [--processes N]
"""

import argparse
import copy
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import nn

from ..artifact import thumbnail_of
from ..bases.base import BaseModel, load_base
from ..bases.text.prompt_weights import spelled, weighted
from ..config import Job
from ..data.concepts import Concept, digest, load_concept, usable_side
from ..data.ragged import bucket_summary, buckets_of
from ..devices import repeatable
from ..errors import LikenessError
from ..files import check_room, make_folder
from ..identity.conditioning import IdentityConditioning, digest_of
from .about import about_run
from .checkpoint import Checkpoints, Origin
from .faster import arranged, check_backend
from .host import check_not_distilled, check_people, merged_adapters
from .logs import Recorded
from .memory import MemoryPlan, bytes_of
from .methods import method_class
from .methods.base import Method
from .observer import Critic, Logged, Observer, Progress, Silent, Stopped, mention, tell
from .optimiser import check_optimizer, optimizer_remarks
from .output import Output
from .plan import plan_in_words, remarks
from .sharding import check_shardable, said, shard_base, sharding_asked, unsaid
from .trainer import Trainer

log = logging.getLogger(__name__)

_TINY = 1 << 28  # bytes of weights below which memory is no question

__all__ = ["Observer", "Progress", "Stopped", "train"]


def train(
    job: Job,
    observer: Observer | None = None,
    base: BaseModel | None = None,
    critic: Critic | None = None,
    people: Sequence[IdentityConditioning] = (),
    concepts: Iterable[Concept] | None = None,
    runs: Path | None = None,
) -> Path:
    """Learns what the job says and writes its artifact; returns the artifact's path, which is another than
    the job's where that cannot be written, or holds something finished while this was stopped.

    When the observer stops it, what was learned so far is written, beside a checkpoint to go on from. With
    `runs`, checkpoints lie there, under names that say what is learned on what: an equal job goes on from
    them whatever its output is called.
    A `base` given is used as it is and comes back unchanged; without one the job's is loaded. With a
    `critic`, what is written is the state it liked best, and the run ends when it has seen enough. `people`
    are in every picture meanwhile: those of the identity adapters that the job names, or of a graph's MODEL.
    `concepts` are the job's where somebody has read them already; an iterator leaves nobody holding large
    pictures meanwhile.
    """
    check_people(job, people)
    for prompt in (job.preview_prompt or "").splitlines():  # before a run of hours meets it
        weighted(spelled(prompt, [concept.token for concept in job.concepts]))
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(job.seed)
        return _train(job, observer or Silent(), base, critic, people, concepts, runs)


def _train(
    job: Job,
    observer: Observer,
    base: BaseModel | None,
    critic: Critic | None,
    people: Sequence[IdentityConditioning],
    concepts: Iterable[Concept] | None,
    runs: Path | None,
) -> Path:
    make_folder(Path(job.output).parent)
    check_room(job.output)
    if runs is None:
        Checkpoints(job, Origin()).check()
    if job.compile:
        check_backend(job.compile)
    check_optimizer(job.recipe.optimizer, _device_kind(job))
    if concepts is None:
        concepts = [load_concept(concept, shorter=usable_side(job)) for concept in job.concepts]
    concepts = list(concepts)
    for remark in (remark for concept in concepts for remark in concept.remarks):
        tell(observer, remark)
    if sharding_asked():
        check_shardable(method_class(job.method), job)
        base = None if base is None else copy.deepcopy(base)  # in pieces it is of no more use to its owner
    base = _trainable(base) if base is not None else load_base(job.base)
    check_not_distilled(base, job)
    accelerator = _accelerator(job)
    pictures, enough = digest(concepts), usable_side(job, base.resolution)
    origin = Origin.of(
        job,
        pictures=pictures,
        weights=base.identity,
        people=digest_of(people) if people and runs is not None else "",  # the command line's are in `on`
    )
    concepts = [concept.within(enough) for concept in _held_out(concepts, job, observer)]
    checkpoints = Checkpoints(job, origin, runs)
    with (
        repeatable(accelerator.device),
        merged_adapters(base, job.on, people),
        checkpoints.held() if accelerator.is_main_process else nullcontext(),
    ):
        return _learn(job, base, concepts, accelerator, observer, critic, checkpoints)


def _learn(
    job: Job,
    base: BaseModel,
    concepts: Sequence[Concept],
    accelerator: Accelerator,
    observer: Observer,
    critic: Critic | None,
    checkpoints: Checkpoints,
) -> Path:
    """The run itself, from the method's first weights to its artifact; the base returns where it was."""
    output = Output(Path(job.output))
    home, alone = base.device, accelerator.num_processes == 1
    method = _method_of(job, base, concepts)
    method.say = lambda text: mention(observer, text)
    tell(observer, plan_in_words(job, method.phases(), concepts, method.sizes))
    concept_remarks = {remark for concept in concepts for remark in concept.remarks}
    for remark in [remark for concept in method.concepts for remark in concept.remarks]:
        if remark not in concept_remarks:  # what the method found out by itself
            tell(observer, remark)
    for remark in [*optimizer_remarks(job.recipe, method.phases()), *remarks(job, base, concepts)]:
        tell(observer, remark)
    if len(buckets_of(method.examples.pixels).unique()) > 1:
        tell(observer, f"pictures in buckets: {bucket_summary(method.examples.pixels)} pixels")
    ladder = MemoryPlan(method, job, accelerator.device, lambda text: tell(observer, text))
    try:
        if worth_estimating(method, job, observer):
            ladder.choose()
        else:
            ladder.take_early()
        method.to(accelerator.device)
        ladder_here = ladder if alone else None
        trainer = Trainer(method, job, accelerator, observer, checkpoints, ladder_here, critic)
        with accelerator.autocast():
            method.prepare(trainer.check)
        check_room(job.output, bytes_of(_learned(method)))
        ladder.take_late()
        if sharding_asked():
            shard_base(method, accelerator)
        with arranged(method, job):
            progress = trainer.run()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            best = None if progress.stopped else trainer.best
            artifact = best or replace(method.artifact(), steps=progress.step)
            about = about_run(job, base, method.concepts, method.size, None if progress.stopped else critic)
            thumbnail = artifact.thumbnail
            if best is None and trainer.shown is not None and not progress.stopped:
                thumbnail = thumbnail_of(trainer.shown)
            artifact = replace(artifact, digest=checkpoints.origin.pictures, about=about, thumbnail=thumbnail)
            output.path = output.keep(artifact, progress, observer)
            if not progress.stopped:
                checkpoints.clear()
        accelerator.wait_for_everyone()
        return output.path
    finally:
        method.close()
        ladder.undo()
        if not method.base_in_pieces:
            base.to(home)
        _forget(accelerator)


def _held_out(concepts: Sequence[Concept], job: Job, observer: Observer) -> list[Concept]:
    """The concepts, the first without the pictures that the job holds out."""
    if not job.hold_out:
        return list(concepts)
    first = concepts[0].held_out(job.hold_out, job.seed)
    names = ", ".join(picture.name for picture in first.held)
    tell(observer, f"held out, not learned from: {names}; {len(first.pictures)} pictures are learned")
    return [first, *concepts[1:]]


def _method_of(job: Job, base: BaseModel, concepts: Sequence[Concept]) -> Method:
    """The job's method, once it is known that it can read all captions."""
    method: Method = method_class(job.method)(job, base, concepts)
    method.check_captions()
    return method


def _learned(method: Method) -> list[nn.Module]:
    """What is trained, to be measured."""
    groups = method.parameter_groups().values()
    return [nn.ParameterList(parameter for group in groups for parameter in group)]


def worth_estimating(method: Method, job: Job, observer: Observer) -> bool:
    """Whether to find out what the run needs: not for tiny networks on a CPU that nobody watches."""
    if not method.capabilities.estimate:
        return False
    watched = hasattr(observer, "on_note") or job.memory is not None
    return watched or bytes_of([method.base]) > _TINY or job.device != "cpu" and torch.cuda.is_available()


def _trainable(base: BaseModel) -> BaseModel:
    """The base itself, or a copy where its weights were made under inference mode and bar gradients."""
    return copy.deepcopy(base) if any(weight.is_inference() for weight in base.parameters()) else base


def _device_kind(job: Job) -> str:
    return "cuda" if job.device != "cpu" and torch.cuda.is_available() else "cpu"


def _accelerator(job: Job) -> Accelerator:
    for name in ("DEEPSPEED", "MEGATRON_LM"):
        if said(f"ACCELERATE_USE_{name}"):
            check_sharing(name)  # now, for Accelerate would first ask for packages that we do not use
    precision = "no" if job.precision == "fp32" else job.precision
    # a step in which a caption leaves a token out must not hang the other processes
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    try:
        with unsaid():
            accelerator = Accelerator(
                mixed_precision=precision, cpu=job.device == "cpu", kwargs_handlers=[ddp]
            )
    except ValueError as error:
        AcceleratorState._reset_state(reset_partial_state=True)
        raise LikenessError(f"this machine cannot train in {job.precision} ({error}); use fp32") from error
    check_sharing(str(accelerator.distributed_type))
    started, requested = int(os.environ.get("WORLD_SIZE", "1")), job.processes
    running = accelerator.num_processes
    if running != started or requested not in (None, running):
        # accelerate launch --cpu --num_processes 2 has been seen to run a single process and say nothing
        raise LikenessError(
            f"{running} of {requested or started} processes train together; start them with torchrun, or "
            "mend what `accelerate config` wrote"
        )
    return accelerator


def check_sharing(kind: str) -> None:
    """Raises where other libraries would cut up what is trained: files are written from all of it."""
    name = kind.rpartition(".")[2]
    if name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise LikenessError(
            f"{name} cuts the trained weights and the optimiser into pieces, which checkpoints are not "
            "written from; choose multi-GPU (DDP) in `accelerate config`, or FSDP where the frozen U-Net is "
            "too large for one GPU: what is trained is small"
        )


def _forget(accelerator: Accelerator) -> None:
    """Accelerate keeps its settings for the whole process; the next job may want others."""
    AcceleratorState._reset_state(reset_partial_state=accelerator.num_processes == 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what a job file says; returns the exit status, 2 for a mistake that the user can mend."""
    from ..job_file import build_job, check_job, read_yaml

    parser = argparse.ArgumentParser(prog="launch", description="Train what a job file says.")
    parser.add_argument("job", help="YAML or JSON, as `likeness train METHOD --print-config` writes it")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint beside the output")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    parser.add_argument("--shards-from-web", action="store_true", help="let shards be addresses (https: …)")
    parser.add_argument("--processes", type=int, help="refuse to run on another number of processes")
    parsed = parser.parse_args(arguments)
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(asctime)s %(message)s")
    try:
        config = read_yaml(parsed.job)
        flags = ("resume", "overwrite", "shards_from_web")
        options: dict[str, object] = {name: True for name in flags if getattr(parsed, name)}
        options |= {"processes": parsed.processes} if parsed.processes else {}
        job = build_job(str(config.get("method")), config, options, {})
        with closing(Recorded(Logged(), job)) as observer:
            log.info("%s", train(job, observer, concepts=iter(check_job(job))))
        return 0
    except LikenessError as error:
        log.error("%s", error)
        return 2
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
