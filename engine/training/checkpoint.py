"""Checkpoints: what a run needs to go on as if it had never stopped, in safetensors and JSON, no pickle.

One file, so that it is there whole or not at all; a second one, for people, says in words what it belongs to.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import BaseSpec, Job
from ..errors import LikenessError
from ..files import make_folder, write_atomically

STATE = "state.safetensors"
IRRELEVANT = (
    "output", "resume", "checkpoint_every", "preview_every", "preview_prompt", "cache", "device", "processes",
    "memory", "channels_last", "compile",
)  # fmt: skip


@dataclass(frozen=True)
class Position:
    """Where in the plan a run is: steps done in the current phase."""

    phase: int
    phase_step: int


class Checkpoints:
    """The checkpoint folder beside a job's output: `me.safetensors` has `me.checkpoint/`."""

    def __init__(self, job: Job, digest: str) -> None:
        self.job = job
        self.folder = Path(job.output).with_suffix(".checkpoint")
        plan = {key: value for key, value in job.to_dict().items() if key not in IRRELEVANT}
        plan["settings"] = _relevant(plan["settings"])
        plan["concepts"] = digest  # the pictures themselves, wherever they lie now
        self._plan = plan

    def exists(self) -> bool:
        return (self.folder / STATE).exists()

    def save(
        self,
        position: Position,
        groups: Mapping[str, list[nn.Parameter]],
        optimizer: torch.optim.Optimizer,
        extra: Mapping[str, Tensor],
    ) -> None:
        """Writes the run's state, replacing the earlier checkpoint."""
        tensors = {"rng": torch.get_rng_state()}
        tensors |= {f"extra.{name}": tensor for name, tensor in extra.items()}
        for name, parameter in _named(groups):
            tensors[f"parameter.{name}"] = parameter
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        plain = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
        where = {"phase": position.phase, "phase_step": position.phase_step}
        make_folder(self.folder)
        with write_atomically(self.folder / "job.json") as temporary:
            temporary.write_text(json.dumps({**where, "job": self.job.to_dict()}, indent=2))
        with write_atomically(self.folder / STATE) as temporary:
            save_file(plain, temporary, {"position": json.dumps(where), "plan": json.dumps(self._plan)})

    def load(self) -> "Saved":
        """Reads the checkpoint, once it is known to belong to this job."""
        path = self.folder / STATE
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            position = Position(**json.loads(metadata["position"]))
            plan: dict[str, Any] = json.loads(metadata["plan"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise LikenessError(f"{path} is damaged; delete {self.folder} and begin again") from error
        plan = _with_defaults(plan, type(self.job.settings))
        other = [key for key in self._plan if plan.get(key) != self._plan[key]]
        if other:
            raise LikenessError(
                f"{path} is of a run with another '{_difference(plan, self._plan, other[0])}'; set it back, "
                f"or delete {self.folder} and begin again"
            )
        return Saved(position, tensors)

    def clear(self) -> None:
        """Removes the folder: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Saved:
    """A checkpoint's content."""

    position: Position
    tensors: Mapping[str, Tensor]

    def restore_parameters(self, groups: Mapping[str, list[nn.Parameter]]) -> None:
        with torch.no_grad():
            for name, parameter in _named(groups):
                parameter.copy_(self.tensors[f"parameter.{name}"])

    def restore_optimizer(
        self, groups: Mapping[str, list[nn.Parameter]], optimizer: torch.optim.Optimizer
    ) -> None:
        for name, parameter in _named(groups):
            state = self._under(f"optimizer.{name}.")
            if state:
                # PyTorch keeps the step count on the CPU unless it is fused into a GPU kernel
                optimizer.state[parameter] = {
                    key: value.clone()
                    if key == "step" and not _fused(optimizer)
                    else value.to(parameter.device)
                    for key, value in state.items()
                }

    def extra(self) -> dict[str, Tensor]:
        return self._under("extra.")

    def restore_rng(self) -> None:
        torch.set_rng_state(self.tensors["rng"])

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}


def _relevant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that what is learned depends on."""
    return {key: value for key, value in settings.items() if key != "workers"}


def _with_defaults(plan: Mapping[str, Any], settings: type) -> dict[str, Any]:
    """A plan that an earlier version wrote, with what it did not know yet: runs were as the defaults say."""
    filled = {**_defaults(Job), **plan}
    filled["settings"] = _relevant({**_defaults(settings), **plan.get("settings", {})})
    filled["base"] = {**_defaults(BaseSpec), **plan.get("base", {})}
    return filled


def _defaults(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that may be left away, as JSON has their values."""
    found = {entry.name: entry.default for entry in fields(kind) if entry.default is not MISSING}
    return json.loads(json.dumps(found))


def _named(groups: Mapping[str, list[nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    return [
        (f"{group}.{i}", parameter) for group, list_ in groups.items() for i, parameter in enumerate(list_)
    ]


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    """The most telling name for what differs: a setting rather than `settings`."""
    old, new = before.get(key), now[key]
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [name for name in new if old.get(name) != new[name]]
        return inner[0] if inner else key
    return "training pictures" if key == "concepts" else key
