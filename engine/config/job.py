"""A training run's job: method, concepts, base and settings, to JSON and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import LikenessError
from ..files import check_name
from .checks import above_zero, at_least, at_most, one_of
from .methods import METHODS, settings_for
from .paths import typed_path
from .places import check_place
from .plain import check_plain, from_json
from .reading import convert, known_keys, read
from .recipe import Recipe, gathered
from .specs import TOKEN, BaseSpec, ConceptSpec

PRECISIONS = ("fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu")
_MOST_SIDES = 8  # resolutions of one run
TRACKERS = ("tensorboard", "wandb")  # by their packages' names
MOST = 10_000_000  # of anything that is counted
LAST_SEED = 2**63 - 1  # that all libraries' random numbers can begin from


# what runs did not have before, of a job and of its settings: as by default, it is the same run as then
LATER = (
    "recipe", "caption_dropout", "caption_shuffle", "caption_keep", "hold_out", "cache_on_disk",
    "resolutions",
)  # fmt: skip
LATER_SETTINGS = ("adapter", "layers", "rslora", "rank_by_block", "min_rank", "orthogonal")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run: everything `train` needs to know, JSON-able."""

    method: str
    concepts: tuple[ConceptSpec, ...]
    output: str  # the artifact's path, ending in .safetensors
    base: BaseSpec = field(default_factory=BaseSpec)
    on: tuple[str, ...] = ()  # concept files whose LoRAs stay applied while this is learned
    settings: Any = None  # an instance of METHODS[method]; None: settings_for(method, base)
    recipe: Recipe = field(default_factory=Recipe)  # how it steps: optimiser, moving average
    seed: int = 0  # of everything random in the run
    resolution: int | None = None  # pixels a side that pictures are cropped to; None: the base's own
    resolutions: tuple[int, ...] = ()  # where each picture is learned at several: all of them
    buckets: bool | None = None  # pictures keep their proportions; None: on real bases, where the method can
    mirror: bool = False  # learn each picture mirrored too, half of the time; faces are uneven and suffer
    caption_dropout: float = 0.0  # share of steps' prompts that are left empty, for guidance to work with
    caption_shuffle: bool = False  # the parts of a caption between commas come in another order each time
    caption_keep: int = 0  # parts at its beginning that stay in place meanwhile
    hold_out: int = 0  # of the first concept's pictures, not learned from: what is drawn is judged by them
    precision: str = "fp32"  # of the passes (autocast); weights and optimiser stay fp32
    device: str = "auto"  # a GPU where there is one
    memory: float | None = None  # GB that the run may use; None: what is free
    channels_last: bool = False  # the U-Net's weights in the order that some GPUs convolve fastest in
    compile: str | None = None  # torch.compile's backend for the U-Net, such as inductor; None: uncompiled
    checkpoint_every: int = 0  # steps; 0: none by steps
    checkpoint_minutes: float = 5.0  # between checkpoints by the clock; 0: none but the one kept after a stop
    preview_every: int = 0  # steps; 0: no previews
    log: tuple[str, ...] = ()  # where else numbers go than into the CSV file, of TRACKERS
    preview_prompt: str | None = None  # a line for each; None: "a photo of" the first placeholder
    resume: bool = False  # go on from the checkpoint beside the output, if there is one
    overwrite: bool = False  # replace an output that is there, and begin again where a run was broken off
    processes: int | None = None  # that must train together, so that none is missing unseen; None: any
    cache: str | None = None  # folder for pictures of the class to be used again; None: redraw for each run
    cache_on_disk: bool = False  # latents and text states too, there or in a folder beside the output
    shards_from_web: bool = False  # shards may be addresses; only a person says so, no file: not in the JSON

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        if self.settings is None:
            object.__setattr__(self, "settings", settings_for(self.method, self.base))
        if not isinstance(self.settings, METHODS[self.method]):
            raise LikenessError(
                f"the settings of a '{self.method}' job must be {METHODS[self.method].__name__}, "
                f"not {type(self.settings).__name__}"
            )
        if not self.concepts and not getattr(self.settings, "shards", None):
            raise LikenessError("a job needs at least one concept; give a folder with pictures")
        for name in ("shards", "validation"):
            if place := getattr(self.settings, name, None):
                check_place(f"'{name}'", place, self.shards_from_web)
        tokens = [concept.token for concept in self.concepts]
        for token in tokens:
            if tokens.count(token) > 1:
                raise LikenessError(f"two concepts share the placeholder {token}; give each its own")
        object.__setattr__(self, "output", typed_path(self.output))
        if self.cache is not None:
            object.__setattr__(self, "cache", typed_path(self.cache))
        if not self.output.endswith(".safetensors"):
            raise LikenessError(f"the output {self.output} must end in .safetensors; rename it")
        check_name(Path(self.output).stem)
        one_of("precision", self.precision, PRECISIONS)
        one_of("device", self.device, DEVICES)
        for name in self.log:
            one_of("tracker", name, TRACKERS)
        at_least(self, 0, "caption_dropout", "caption_keep", "hold_out")
        if self.hold_out and not self.concepts:
            raise LikenessError("hold_out is of a concept's pictures, and there is no concept; leave it away")
        at_most(self, 1, "caption_dropout")
        at_least(self, 0, "seed", "checkpoint_every", "checkpoint_minutes", "preview_every")
        at_most(self, LAST_SEED, "seed")
        counted = [name for name, value in vars(self.settings).items() if type(value) is int]
        at_most(self.settings, MOST, *counted)
        for name in TOKEN.findall(self.preview_prompt or ""):
            if name not in tokens:
                there = f"there are {', '.join(tokens)}" if tokens else "write words alone"
                raise LikenessError(
                    f"the preview prompt '{self.preview_prompt:.80}' mentions {name}, which is not learned; "
                    f"{there}"
                )
        self._settle_sides()
        above_zero(self, "memory")

    def _settle_sides(self) -> None:
        """`resolution` is the largest of several; one alone is no several."""
        given = {*self.resolutions} | ({self.resolution} if self.resolution is not None else set[int]())
        sides: list[int] = sorted(given, reverse=True)
        if len(sides) > _MOST_SIDES:
            raise LikenessError(f"{len(sides)} resolutions cannot be meant; give {_MOST_SIDES} at most")
        if self.resolutions:
            object.__setattr__(self, "resolution", sides[0])
            object.__setattr__(self, "resolutions", tuple(sides) if len(sides) > 1 else ())
        at_least(self, 8, "resolution")
        if sides and sides[-1] < 8:
            raise LikenessError(f"'resolution' is {sides[-1]}; it must be 8 or more")

    @property
    def checkpoints(self) -> Path:
        """The folder beside the output: `me.safetensors` has `me.checkpoint/`."""
        return Path(self.output).with_suffix(".checkpoint")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings; `Job.from_json` takes it back."""
        return json.loads(self.to_json())

    def to_json(self) -> str:
        plain = asdict(self)
        del plain["shards_from_web"]
        return json.dumps(plain, indent=2)

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any], *, shards_from_web: bool = False) -> "Job":
        """Reads what `to_json` wrote, or a hand-written config; unknown keys are errors.

        :param shards_from_web: that the person who runs it asked for this; the source cannot.
        """
        if isinstance(source, str):
            source = from_json(source, "the job")
        if not isinstance(source, Mapping):
            raise LikenessError('a job must be a mapping of keys to values, such as {"method": ...}')
        check_plain(source, "the job")
        plain = _with_sides(gathered(source))
        if "shards_from_web" in plain:
            raise LikenessError("'shards_from_web' is not for files; leave it out, type --shards-from-web")
        method = plain.get("method")
        if "method" not in plain:
            raise LikenessError(f"the job names no method; set 'method' to one of {', '.join(METHODS)}")
        one_of("method", method, METHODS)
        settings = plain.pop("settings", None)
        known_keys(cls, plain, "job")
        base = convert(plain["base"], BaseSpec, "job.base") if plain.get("base") is not None else None
        start = settings_for(str(method), base)
        if settings is not None:
            # a partial mapping changes the method's own starting point, not the class's bare defaults
            if not isinstance(settings, Mapping):
                raise LikenessError(f"'settings' must be a mapping of {method} settings")
            if "adapter" in settings and not hasattr(start, "adapter"):
                raise LikenessError(
                    f"{method} learns what its paper does and no other adapter; leave 'adapter' away, or "
                    "take dreambooth-lora"
                )
            changed = known_keys(METHODS[str(method)], settings, "settings")
            start = read(METHODS[str(method)], {**asdict(start), **changed}, "settings")
        return read(cls, {**plain, "settings": start, "shards_from_web": shards_from_web}, "job")


def _with_sides(plain: dict[str, Any]) -> dict[str, Any]:
    """A job's keys, with `resolution: 512,768` or a list of sides as `resolutions`."""
    sides = plain.get("resolution")
    if isinstance(sides, str) and "," in sides:
        sides = [side.strip() for side in sides.split(",") if side.strip()]
    if not isinstance(sides, list | tuple):
        return plain
    return {**plain, "resolution": None, "resolutions": [*sides, *(plain.get("resolutions") or ())]}


def as_earlier(job: Job, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of `job.to_dict()` without what earlier versions did not know, where that is as by default: a
    name made of them is the one that they gave."""
    usual = {entry.name: entry.default for entry in (*fields(Job), *fields(job.settings))}
    usual["recipe"] = asdict(Recipe())
    usual["rank_by_block"] = usual["resolutions"] = []  # as JSON has them
    left = {name: value for name, value in plain.items() if name not in LATER or value != usual[name]}
    left["settings"] = {
        name: value
        for name, value in plain["settings"].items()
        if name not in LATER_SETTINGS or value != usual[name]
    }
    return left
