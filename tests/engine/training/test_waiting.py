"""No step waits for the device: what networks compute is not read before somebody asks for it."""

import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from likeness_portraits.engine.config import METHODS, ConceptSpec, Job
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.training.checkpoint import Checkpoints
from likeness_portraits.engine.training.identity_loss import IdentityLoss, miniature_feature_judge
from likeness_portraits.engine.training.launch import _accelerator, _forget
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.engine.training.methods.base import Method
from likeness_portraits.engine.training.observer import Silent
from likeness_portraits.engine.training.probe import META, meta_copy
from likeness_portraits.engine.training.trainer import Trainer
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person

aten = torch.ops.aten
SEEKERS = {  # whose result has a size that only the numbers tell: a GPU must be waited for to know it
    aten.nonzero.default, aten.masked_select.default, aten.bincount.default, aten._unique2.default,
    aten.repeat_interleave.Tensor, aten.equal.default,
}  # fmt: skip

ADAM = ("torch/optim/adam.py", "torch/optim/adamw.py")
OURS = "/engine/"


class Waits(TorchDispatchMode):
    """Plays a device whose numbers are far away (tensors on meta), and notes whoever waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        far = any(leaf.device == META for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if far and func is aten._local_scalar_dense.default:
            self._noted("a number is read")
            return 1.0 if args[0].is_floating_point() else 1
        if far and func in SEEKERS:
            raise AssertionError(f"{func} waits for the device")
        if far and func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            kinds = [index.dtype for index in args[1] if index is not None]
            assert torch.bool not in kinds, "choosing by yes and no waits for the device"
        if func is aten._to_copy.default:
            source, goal = args[0].device, torch.device(kwargs.get("device") or args[0].device)
            if source == META and goal != META:
                self._noted("numbers are brought back")
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            if source != META and goal == META and not kwargs.get("non_blocking"):
                self._noted("a copy waits for its turn")
        return func(*args, **kwargs)

    def _noted(self, what: str) -> None:
        if not any(
            frame.filename.endswith(ADAM) for frame in traceback.extract_stack()
        ):  # on a GPU its kernel keeps its own count
            own = [frame for frame in traceback.extract_stack() if OURS in frame.filename]
            self.seen.append(f"{what} at {own[-1].filename}:{own[-1].lineno}")


class Meanwhile(Silent):
    """Notes for what the device was waited until each step was told, by phase."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits
        self.until: dict[str, list[int]] = {}

    def on_step(self, progress: Any, losses: Mapping[str, float]) -> None:
        self.until.setdefault(progress.phase, []).append(len(self.waits.seen))


def far_away(method: Method) -> Method:
    """A copy of the prepared method whose networks and latents are on meta; pictures stay on the CPU."""
    here = [method.examples, method.concepts, *method.base.tokenizers.values()]
    here += [method.tally] if hasattr(method, "tally") else []  # it counts for several threads
    twin: Any = meta_copy(method, shared=here)
    if twin._moments is not None:
        twin._moments.to(META)
    if getattr(twin, "_average", None) is not None:
        twin._average.averages = [average.to(META) for average in twin._average.averages]
    for tower in getattr(twin, "_tower", []):
        tower.to(META)
    return twin


class Curious(Meanwhile):
    """Reads the losses of every step."""

    def on_step(self, progress: Any, losses: Mapping[str, float]) -> None:
        super().on_step(progress, losses)
        assert dict(losses)


def waits_of(job: Job, watching: type[Meanwhile] = Meanwhile) -> list[list[str]]:
    """What the device was waited for between one step of a phase and the next."""
    concepts = [load_concept(concept) for concept in job.concepts]
    accelerator = _accelerator(job)
    try:
        method = method_class(job.method)(job, tiny_base(), concepts)
        method.prepare(lambda: None)
        for phase in method.phases():  # pictures of the class are drawn once, not in each step
            for number in range(phase.steps):
                method.ensure_ready(phase, number, lambda: None)
        far, waits = far_away(method), Waits()
        PartialState().device = accelerator.state.device = META
        watch = watching(waits)
        with waits:
            Trainer(far, job, accelerator, watch, Checkpoints(job, "pictures")).run()
    finally:
        _forget(accelerator)
    return [waits.seen[begin:end] for marks in watch.until.values() for begin, end in zip(marks, marks[1:])]


STEPS = {  # one more than two in each phase: from one step to the next nothing may wait
    "masterweaver": {"identity_steps": 3, "editing_steps": 3},
    "magictailor": {"warm_up_steps": 3, "balance_steps": 3},
    "magicapture": {
        "inversion_steps": 3,
        "tuning_steps": 4,
        "prior_weight": 1.0,
        "prior_pictures": 4,
        "prior_steps": 1,
    },
}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_no_step_of_any_method_waits_for_the_device(method: str, tmp_path: Path):
    write_person(tmp_path / "person")
    job = tiny_job(method, tmp_path, settings=STEPS.get(method, {}))
    if method == "magictailor":
        component = {"folder": str(write_person(tmp_path / "hair")), "token": "<v1>"}
        job = replace(job, concepts=(*job.concepts, ConceptSpec(**component)))
    found = waits_of(job)
    assert len(found) >= 3 and not any(found), found


def test_whoever_reads_the_losses_in_every_step_makes_each_wait_once(tmp_path: Path):
    write_person(tmp_path / "person")
    found = waits_of(tiny_job("textual-inversion", tmp_path), Curious)
    assert [len(between) for between in found] == [1, 1, 1]


@pytest.mark.parametrize("average", [True, False])
def test_the_identity_loss_knows_whom_it_compares_without_waiting(average: bool):
    identity = IdentityLoss(miniature_feature_judge(), average=average, each_step=False)
    pixels = torch.rand(3, 3, 64, 64) * 2 - 1
    identity.look(pixels, torch.ones(3, 1, 64, 64), ["a", "b", "c"], [0, 1])
    subjects, pictures = torch.tensor([0, 1, -1]), torch.tensor([2, 4, 0])
    near = identity(pixels, subjects, pictures)
    hollowed, estimates, waits = meta_copy(identity), pixels.to(META), Waits()
    with waits:
        far = hollowed(estimates, subjects, pictures)
    assert far.shape == near.shape and waits.seen == []
