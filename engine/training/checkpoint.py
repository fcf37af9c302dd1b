"""Checkpoints: what a run needs to go on as if it had never stopped, in safetensors and JSON, no pickle.

One file, so that it is there whole or not at all; a second one, for people, says in words what it belongs to.
A third is locked while a run writes there. Nothing else may lie in the folder, for it goes when the run is
done.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..artifact import Artifact
from ..config import BaseSpec, Job, Recipe, as_earlier
from ..data.shards import outline_of
from ..errors import LikenessError
from ..files import content_of, make_folder, reading, sweep, write_atomically
from .host import content_of_host
from .optimiser_state import read_numbers, recall, remembered

log = logging.getLogger(__name__)

STATE, ABOUT, LOCK = "state.safetensors", "job.json", "lock"
# what may lie there: ours, what a killed run left of it (`.tmp…`: safetensors' own), the system's droppings
OURS = re.compile(r"state\.safetensors|job\.json|lock|\.(state|job)-[0-9a-f]{12}\.\w+|\.tmp\w{6,}")
IGNORED = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\.nfs\w+")
IRRELEVANT = (
    "output", "resume", "overwrite", "checkpoint_every", "checkpoint_minutes", "preview_every",
    "preview_prompt", "log", "cache", "cache_on_disk", "device", "processes", "memory",
    "channels_last", "compile",
)  # fmt: skip
LENGTHS = (  # settings that say how long phases are, in the order of the phases
    "steps", "inversion_steps", "tuning_steps", "warm_up_steps", "balance_steps", "identity_steps",
    "editing_steps",
)  # fmt: skip
_PLAIN = {
    f"torch.{name}"
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
}
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter
_NO_NUMBERS = '{"parameters": {}, "groups": []}'  # of checkpoints from before there were any
KEPT_DAYS = 14  # that an unfinished run of the graph waits for somebody to go on with it


@dataclass(frozen=True)
class Position:
    """Where in the plan a run is: steps done in the current phase."""

    phase: int
    phase_step: int


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a critic saw of a run until now."""

    step: int = 0  # of its last look
    memory: Mapping[str, Any] = field(default_factory=dict)  # as the critic tells it
    best: Artifact | None = None  # the state that it liked best


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a run stands on by content, wherever it lies: with other content it is another run."""

    pictures: str = ""  # digest of the concepts
    weights: str = ""  # of the base: weights, what they predict, noise schedule
    hosts: tuple[str, ...] = ()  # of the job's `on`
    files: Mapping[str, str] = field(default_factory=dict)  # of settings that name files
    people: str = ""  # shown meanwhile

    @classmethod
    def of(cls, job: Job, *, pictures: str, weights: str, people: str = "") -> "Origin":
        """Of a job whose pictures, base and people are known by these names."""
        words: Mapping[str, Sequence[str]] = getattr(job.settings, "FILES", {})
        named = {name: getattr(job.settings, name) for name in words if name not in ("shards", "validation")}
        files = {name: content_of(text) for name, text in named.items() if text and text not in words[name]}
        if shards := getattr(job.settings, "shards", None):
            files["shards"] = outline_of(shards, job.shards_from_web)
        return cls(
            pictures=pictures, weights=weights, people=people, hosts=tuple(map(content_of_host, job.on)),
            files={name: content for name, content in files.items() if content},
        )  # fmt: skip


class Checkpoints:
    """The checkpoint of a run: in the folder beside its output, or in one of many (`runs`) by its name."""

    def __init__(self, job: Job, origin: Origin | str, runs: Path | None = None) -> None:
        self.job = job
        self.origin = origin if isinstance(origin, Origin) else Origin(pictures=origin)
        self._plan = self._planned()
        self._named = runs is not None
        self.folder = job.checkpoints if runs is None else self._own_folder(runs)

    def _planned(self) -> dict[str, Any]:
        origin = self.origin
        plan = {key: value for key, value in self.job.to_dict().items() if key not in IRRELEVANT}
        plan["settings"] = _relevant(plan["settings"], origin.files)
        plan["concepts"] = origin.pictures  # the pictures themselves, wherever they lie now
        origin_facts = {key: value for key, value in json.loads(json.dumps(asdict(origin))).items() if value}
        origin_facts.pop("pictures", None)
        for path, content in (("base", "weights"), ("on", "hosts")):
            if origin_facts.get(content):
                plan.pop(path, None)
        return plan | origin_facts

    def _own_folder(self, runs: Path) -> Path:
        """The run's folder in `runs`; an unfinished run of fewer steps becomes it, and is prolonged."""
        plan = as_earlier(self.job, self._plan)  # an earlier version's run of this kind is found too
        lengths = [plan["settings"].pop(name) for name in LENGTHS if name in plan["settings"]]
        name = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
        folder = runs / f"{name}-{'-'.join(map(str, lengths))}.checkpoint"
        if not (folder / STATE).exists():
            shorter = [path for path in runs.glob(f"{name}-*.checkpoint") if _shorter(path, lengths)]
            if shorter:
                with suppress(OSError):  # another process has it open: a run from the first step, then
                    os.replace(max(shorter, key=_numbers), folder)
        return folder

    def exists(self) -> bool:
        return (self.folder / STATE).exists()

    def find(self, lengths: Sequence[int]) -> "Saved | None":
        """The checkpoint to go on from, if there is one; see `load`.

        In a folder of many, where nobody would know what to delete, one that cannot be read counts as none.
        """
        if not self.exists():
            log.debug("there is no checkpoint in %s; beginning at the first step", self.folder)
            return None
        try:
            return self.load(lengths)
        except LikenessError as error:
            if not self._named:
                raise
            log.warning("%s: beginning at the first step", error)
            return None

    def check(self) -> None:
        """Raises LikenessError where foreign files lie in the folder, which goes when the run is done."""
        if self.folder.exists() and not self.folder.is_dir():
            raise LikenessError(
                f"{self.folder} is a file, where this run's checkpoints would lie; move it, or choose "
                "another output"
            )
        foreign = [entry.name for entry in _entries(self.folder) if not OURS.fullmatch(entry.name)]
        foreign = [name for name in foreign if not IGNORED.fullmatch(name)]
        if foreign:
            raise LikenessError(
                f"{self.folder} holds '{min(foreign)}', which is no checkpoint; move it away, or choose "
                "another output"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, no other run writes here; the folder goes at the end unless something is in it.

        :raises LikenessError: where another run does.
        """
        from filelock import FileLock, Timeout

        self.check()
        path = make_folder(self.folder) / LOCK
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            where = "the same" if self._named else f"to {self.job.output}"
            raise LikenessError(
                f"another run is learning {where} at this moment; wait for it, or choose another output"
            ) from error
        except (OSError, NotImplementedError) as error:  # a file system without locks
            log.info("%s cannot be locked (%s)", path, error)
        try:
            yield
        finally:
            lock.release()
            _remove(path)
            with suppress(OSError):
                self.folder.rmdir()

    def save(
        self,
        position: Position,
        groups: Mapping[str, list[nn.Parameter]],
        optimizer: torch.optim.Optimizer,
        extra: Mapping[str, Tensor],
        lengths: Sequence[int] = (),
        judged: Judged | None = None,
    ) -> None:
        """Writes the run's state, replacing the earlier checkpoint. `lengths`: the steps of each phase."""
        tensors = {"rng": torch.get_rng_state()}
        tensors |= {f"extra.{name}": tensor for name, tensor in extra.items()}
        tensors |= {f"parameter.{name}": parameter for name, parameter in _named(groups)}
        moments, numbers = remembered(optimizer, _named(groups))
        tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
        where = {"phase": position.phase, "phase_step": position.phase_step}
        metadata: dict[str, Any] = {"position": where, "plan": self._plan, "lengths": list(lengths),
                                    "optimizer": numbers}  # fmt: skip
        if judged is not None:
            best = judged.best
            metadata["judged"] = {"step": judged.step, "memory": dict(judged.memory),
                              "best": None if best is None else best.metadata()}  # fmt: skip
            tensors |= {f"best.{key}": tensor for key, tensor in (best.tensors if best else {}).items()}
        plain = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
        make_folder(self.folder)
        for name in (ABOUT, STATE):
            sweep(self.folder / name, older_than=0)  # only this run writes here
        with write_atomically(self.folder / ABOUT) as temporary:
            temporary.write_text(json.dumps({**where, "job": self.job.to_dict()}, indent=2))
        with write_atomically(self.folder / STATE) as temporary:
            save_file(plain, temporary, {key: json.dumps(value) for key, value in metadata.items()})

    def load(self, lengths: Sequence[int] = ()) -> "Saved":
        """Reads the checkpoint, once it is known to belong to this job, or to one of fewer steps.

        :param lengths: the steps of each phase, as they are to be.
        """
        path = self.folder / STATE
        with reading(path, self._damaged):
            return self._read(path, lengths)

    @property
    def _damaged(self) -> str:
        return f"is damaged; delete {self.folder} and begin again"

    def _read(self, path: Path, lengths: Sequence[int]) -> "Saved":
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        strange = {str(tensor.dtype) for tensor in tensors.values()} - _PLAIN
        if strange:
            raise ValueError(f"tensors of {min(strange)}")
        plan: dict[str, Any] = json.loads(metadata["plan"])
        earlier: list[int] = json.loads(metadata.get("lengths", "[]"))
        position = Position(**json.loads(metadata["position"]))
        for number in (position.phase, position.phase_step, *earlier):
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise ValueError(f"{number} is no step")
        expected, plan = self._plan, self._with_defaults(plan)
        if _prolonged(earlier, lengths, position):
            expected, plan = _without_lengths(expected), _without_lengths(plan)
        other = [key for key in expected if plan.get(key) != expected[key]]
        if other:
            raise LikenessError(
                f"{path} is of a run with another '{_difference(plan, expected, other[0])}'; set it back, "
                f"or delete {self.folder} and begin again"
            )
        phase, step = position.phase, position.phase_step
        if lengths and not (phase < len(lengths) and step <= lengths[phase]):
            raise LikenessError(
                f"{path} says step {step} of phase {phase + 1}, which the run has not; "
                f"delete {self.folder} and begin again"
            )
        judged = _judged(path, json.loads(metadata.get("judged", "null")), _under("best.", tensors))
        return Saved(position, tensors, path, self._damaged, judged, metadata.get("optimizer", _NO_NUMBERS))

    def _with_defaults(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """A plan that an earlier version wrote, with what it did not know yet: runs were as defaults say."""
        files = plan.get("files", self._plan.get("files", {}))
        filled = {**_defaults(Job), **plan}
        settings = {**_defaults(type(self.job.settings)), **plan.get("settings", {})}
        filled["settings"] = _relevant(settings, files)
        filled["base"] = {**_defaults(BaseSpec), **plan.get("base", {})}
        filled["recipe"] = {**_defaults(Recipe), **plan.get("recipe", {})}
        contents = {entry.name for entry in fields(Origin)}
        return {key: self._plan[key] for key in contents & self._plan.keys()} | filled

    def clear(self) -> None:
        """Removes what is ours in the folder: the run is done. The lock goes when the run lets go of it."""
        for entry in _entries(self.folder):
            if OURS.fullmatch(entry.name) and entry.name != LOCK:
                _remove(Path(entry.path))
        with suppress(OSError):
            self.folder.rmdir()


@dataclass(frozen=True)
class Saved:
    """A checkpoint's content."""

    position: Position
    tensors: Mapping[str, Tensor]
    path: Path  # and what is said of it where it does not fit the run
    damaged: str
    judged: Judged | None = None
    numbers: str = _NO_NUMBERS  # what the optimiser remembers beside tensors, as JSON

    def restore(
        self,
        groups: Mapping[str, list[nn.Parameter]],
        optimizer: torch.optim.Optimizer,
        load_extra: Callable[[Mapping[str, Tensor]], None],
    ) -> None:
        """Puts everything back: parameters, moments, what the method keeps besides, and the random state.

        :raises LikenessError: where something is missing or of another shape; nothing is broadcast.
        """
        with reading(self.path, self.damaged):
            self._restore_parameters(groups)
            self._restore_optimizer(groups, optimizer)
            load_extra(_under("extra.", self.tensors))
            torch.set_rng_state(self.tensors["rng"])

    def _restore_parameters(self, groups: Mapping[str, list[nn.Parameter]]) -> None:
        with torch.no_grad():
            for name, parameter in _named(groups):
                parameter.copy_(_fitting(self.tensors[f"parameter.{name}"], parameter))

    def _restore_optimizer(
        self, groups: Mapping[str, list[nn.Parameter]], optimizer: torch.optim.Optimizer
    ) -> None:
        states = {name: _under(f"optimizer.{name}.", self.tensors) for name, _ in _named(groups)}
        if not isinstance(optimizer, torch.optim.AdamW):
            if _is_small(optimizer) and not all(_same_kind(state, optimizer) for state in states.values()):
                return
            recall(optimizer, _named(groups), states, read_numbers(self.numbers))
            return
        for name, parameter in _named(groups):
            state = states[name]
            if not state or not _same_kind(state, optimizer):
                continue
            # PyTorch keeps the step count on the CPU unless it is fused into a GPU kernel
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" and not _fused(optimizer) else value.to(parameter.device)
                for key, value in state.items()
            }
            for key in MOMENTS:
                _fitting(state[key], state["step"] if key == "step" else parameter)
            if set(state) != set(MOMENTS) or state["step"].numel() != 1:
                raise ValueError(f"moments {sorted(state)}")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _judged(path: Path, saved: Any, best: Mapping[str, Tensor]) -> Judged | None:
    """What a critic saw, as a checkpoint says it; None where nobody looked."""
    if saved is None:
        return None
    step, memory, about = saved["step"], saved["memory"], saved["best"]
    if type(step) is not int or step < 0 or not isinstance(memory, dict):
        raise ValueError(f"{step} is no step of a look")
    return Judged(step=step, memory=memory, best=None if about is None else Artifact.of(path, about, best))


def _fitting(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor itself, if it may stand in the parameter's place."""
    if (
        tensor.shape != parameter.shape
        or not tensor.is_floating_point()
        or not tensor.float().isfinite().all()
    ):
        raise ValueError(f"{tuple(tensor.shape)} of {tensor.dtype} in the place of {tuple(parameter.shape)}")
    return tensor


def _is_small(optimizer: torch.optim.Optimizer) -> bool:
    return type(optimizer).__name__ == "AdamW8bit"


def _same_kind(state: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> bool:
    """Whether moments are of this optimiser's kind: in full, or in 8 bits where memory was short."""
    same = not state or ("state1" in state) != isinstance(optimizer, torch.optim.AdamW)
    if not same:
        log.warning("the checkpoint's moments are of another precision than this run's; they begin anew")
    return same


def sweep_runs(runs: Path, days: float = KEPT_DAYS) -> None:
    """Removes runs that nobody went on with for so long from a folder of many, and caches beside them."""
    for entry in _entries(runs):
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime < days * 86400:
                continue
            inner = _entries(Path(entry.path)) if entry.is_dir() else []
            if entry.name.endswith(".checkpoint") and all(OURS.fullmatch(part.name) for part in inner):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name.endswith(".safetensors"):
                os.unlink(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # there is none
        return []


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _relevant(settings: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The settings that what is learned depends on; those that name files count by what is in them."""
    return {key: value for key, value in settings.items() if key != "workers" and key not in files}


def _without_lengths(plan: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in plan["settings"].items() if key not in LENGTHS}
    return {**plan, "settings": settings}


def _prolonged(earlier: Sequence[int], now: Sequence[int], position: Position) -> bool:
    """Whether phases that are not over yet got longer, and nothing else changed about lengths."""
    if len(earlier) != len(now) or list(earlier) == list(now) or position.phase >= len(now):
        return False
    over, ahead = slice(0, position.phase), slice(position.phase, None)
    longer = all(after >= before for before, after in zip(earlier[ahead], now[ahead]))
    return list(earlier[over]) == list(now[over]) and longer


def _numbers(path: Path) -> list[int]:
    """The lengths in a run's name."""
    return [int(text) for text in path.stem.split("-")[1:] if text.isdecimal()]


def _shorter(path: Path, lengths: Sequence[int]) -> bool:
    """Whether there is a checkpoint of a run that differs by fewer steps alone."""
    stored = _numbers(path)
    fits = len(stored) == len(lengths) and all(before <= after for before, after in zip(stored, lengths))
    return fits and (path / STATE).exists()


def _defaults(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that may be left away, as JSON has their values."""
    defaults = {entry.name: entry.default for entry in fields(kind) if entry.default is not MISSING}
    return json.loads(json.dumps(defaults))


def _named(groups: Mapping[str, list[nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    return [
        (f"{group}.{i}", parameter) for group, list_ in groups.items() for i, parameter in enumerate(list_)
    ]


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))


_NAMES = {  # what people call what a plan holds
    "concepts": "training pictures", "weights": "base model", "hosts": "LoRA or adapter that is learned on",
    "people": "person shown by the adapter", "files": "file that a setting names",
}  # fmt: skip


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    """The most telling name for what differs: a setting rather than `settings`."""
    old, new = before.get(key), now[key]
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [name for name in new if old.get(name) != new[name]]
        return inner[0] if inner else _NAMES.get(key, key)
    return _NAMES.get(key, key)
