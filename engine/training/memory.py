"""What a run needs in memory, before its first step, and the measures it takes to fit: a ladder of rungs.

Each rung keeps the measures of those above it. A run begins at the first that fits, and falls to the next one
where memory runs out all the same. Accelerate finds a batch size by running out of memory, and knows sizes of
weights alone; what a step of one method needs beside them, and which measures leave its gradients the same,
is known here only.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from ..bases.base import BaseModel
from ..config import Job, Phase
from ..errors import LikenessError
from .attention_maps import recorded
from .methods.base import AT_ONCE, Method
from .probe import META, meta_copy, peak_of
from .sharding import sharding_asked

_HALF = torch.bfloat16
FREE_MARGIN = 1.05  # the allocator's rounding and gaps
HOPELESS = 1.2  # times what is free: not even worth a try
STATE_BYTES = {  # that an optimiser remembers per trained number; the others: see `remembered_bytes`
    "adamw": 8, "prodigy": 16, "schedulefree": 8, "lion": 4, "muon": 8,
}  # fmt: skip
_IN_FULL = 4096  # numbers of a weight below which bitsandbytes keeps its moments in fp32
_BLOCK = 256  # numbers that share a scale in its 8-bit moments
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """What is done to need less memory."""

    vae_away: bool = False  # the VAE waits on the CPU between pictures
    text_away: bool = False  # the text encoders work on the CPU, once for each prompt
    half: bool = False  # the frozen networks in bf16
    checkpointing: bool = False  # the U-Net's inner states are computed again for the gradients
    turns: str = ""  # whose weights take turns on the device: "networks", or "blocks" of them
    small_moments: bool = False  # Adam's moments in 8 bits
    pass_size: int = 0  # pictures that go through the U-Net at once; 0: all of a batch

    def words(self) -> str:
        """The measures in words; empty without any."""
        measures = {
            "VAE off the device": self.vae_away,
            "text encoders off the device": self.text_away,
            "frozen weights in bf16": self.half,
            "gradient checkpointing": self.checkpointing,
            "text encoder and transformer by turns on the device": self.turns == "networks",
            "their blocks by turns on the device": self.turns == "blocks",
            "8-bit Adam": self.small_moments,
            f"micro-batches of {self.pass_size}": self.pass_size > 0,
        }
        return ", ".join(word for word, taken in measures.items() if taken)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes on the training device at the worst moment of a run."""

    weights: int  # of the base's networks, as far as they lie there
    learned: int  # what is trained, its moments and further copies (teachers, averages)
    step: int  # one step's inner states
    pictures: int  # reading or drawing pictures, with the autoencoder there
    measures: MemorySettings

    @property
    def total(self) -> int:
        return self.weights + self.learned + max(self.step, self.pictures)

    def words(self) -> str:
        parts = (
            f"{self.weights / GB:.2f} for the base, {self.learned / GB:.2f} for what is learned, "
            f"{max(self.step, self.pictures) / GB:.2f} for "
            f"{'a step' if self.step >= self.pictures else 'reading and drawing pictures'}"
        )
        return f"about {self.total / GB:.2f} GB ({parts})"


def rungs(method: Method, job: Job, device: torch.device) -> list[MemorySettings]:
    """The ladder of this run, from no measure beyond what the job says to all there are."""
    elsewhere = device.type != "cpu"  # there is another place to put things
    can, base = method.capabilities, method.base
    large = elsewhere and bool(base.text.blocks()) and not sharding_asked()
    now = MemorySettings(half=job.precision == "bf16" and can.half)
    ladder = [now]

    def add(applies: bool, **more: Any) -> None:
        nonlocal now
        if applies and replace(now, **more) != now:
            now = replace(now, **more)
            ladder.append(now)

    add(elsewhere and can.cached_latents, vae_away=True)
    add(elsewhere and not can.trained_text and not large, text_away=True)
    add(large and not can.trained_text, turns="networks")
    add(elsewhere and can.half and torch.cuda.is_bf16_supported(), half=True)
    add(can.checkpointing, checkpointing=True)
    add(large and now.checkpointing, turns="networks")
    can_shrink = job.recipe.optimizer == "adamw" and importlib.util.find_spec("bitsandbytes") is not None
    add(elsewhere and can_shrink, small_moments=True)
    rows = max(method.load(phase).pictures for phase in method.phases())
    while can.splitting and rows > 1:
        rows = (rows + 1) // 2
        add(True, pass_size=rows)
    add(large and now.checkpointing and base.denoiser.whole_blocks, turns="blocks")
    return ladder


# --------------------------------------------------------------------------------------------------- estimate


def estimate(method: Method, measures: MemorySettings) -> Estimate:
    """What the run needs under these measures; nothing is computed, nothing of the method changes."""
    return Estimates(method).of(measures)


class Estimates:
    """Estimates of one run under several measures, of which those that change no step are probed once."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._steps: dict[MemorySettings, int] = {}
        self._pictures: int | None = None

    def of(self, measures: MemorySettings) -> Estimate:
        """What the run needs under these measures."""
        with torch.random.fork_rng(devices=[]):  # layers that are put in draw their first weights
            return _estimate(self._method, measures, self)

    def least(self, measures: MemorySettings) -> int:
        """What it needs at least, known without probing: the weights that stay on the device."""
        if measures.turns:
            return 0
        base = self._method.base
        resident = [base.network, *([] if measures.text_away else base.text_encoders.values())]
        most = _HALF.itemsize if measures.half else 8
        bytes_ = sum(weight.numel() * min(weight.element_size(), most)
                     for part in resident for weight in part.parameters())  # fmt: skip
        return bytes_ + (0 if measures.vae_away else bytes_of([base.vae]))

    def step(self, twin: Method, measures: MemorySettings) -> int:
        """Of the twin under these measures, or of an earlier one that steps alike."""
        alike = replace(measures, vae_away=False, text_away=False, small_moments=False)
        if alike not in self._steps:
            self._steps[alike] = max(_peak_of_phase(twin, phase) for phase in twin.phases())
        return self._steps[alike]

    def pictures(self, twin: Method) -> int:
        """The autoencoder's inner states, which no measure changes."""
        if self._pictures is None:
            self._pictures = peak_of(lambda: _pictures(twin), twin)
        return self._pictures


def _estimate(method: Method, measures: MemorySettings, probed: Estimates) -> Estimate:
    twin = meta_copy(method, shared=[method.examples, method.concepts, *method.base.tokenizers.values()])
    base: BaseModel = twin.base
    if measures.half:
        for weight in [weight for part in halved(base) for weight in part.parameters()]:
            weight.data = weight.data.to(_HALF if weight.element_size() > 1 else weight.dtype)
    resident = [base.network]
    resident += [] if measures.text_away else list(base.text_encoders.values())
    weights = bytes_of(resident) + (0 if measures.vae_away else bytes_of([base.vae]))
    turns = base.take_turns(META, measures.turns == "blocks") if measures.turns else None
    by_turns = turns.waiting if turns else frozenset()
    weights -= sum(bytes_of_weight(weight) for weight in base.parameters() if id(weight) in by_turns)
    twin.attach()
    trained = {id(weight): weight for group in twin.parameter_groups().values() for weight in group}
    numbers = sum(weight.numel() for weight in trained.values())
    recipe = method.job.recipe
    copies = 1 + method.capabilities.copies + (recipe.ema is not None)
    kind = "adamw8bit" if measures.small_moments else recipe.optimizer
    learned = numbers * 4 * copies + sum(remembered_bytes(kind, weight.shape) for weight in trained.values())
    base.pass_size = measures.pass_size
    if measures.checkpointing:
        base.recompute(True)
    for weight in trained.values():
        weight.requires_grad_(True)
    step = probed.step(twin, measures)
    pictures = probed.pictures(twin) + (bytes_of([base.vae]) if measures.vae_away else 0)
    if recipe.ema is not None or kind == "schedulefree":  # what is kept takes the place of what is trained
        pictures += 4 * numbers
    if turns:  # a step holds a part at a time, the largest of them at its worst moment or not
        weights, step = weights + turns.largest, max(step - turns.largest, 0)
    return Estimate(weights=weights, learned=learned, step=step, pictures=pictures, measures=measures)


def remembered_bytes(kind: str, shape: Sequence[int]) -> int:
    """What an optimiser of `config.OPTIMIZERS` remembers of a weight."""
    numbers = math.prod(shape)
    if kind == "adafactor":  # a number for each row and column
        return 4 * (numbers // shape[-1] + numbers // shape[-2] if len(shape) > 1 else numbers)
    if kind != "adamw8bit":
        return STATE_BYTES[kind] * numbers
    return 8 * numbers if numbers < _IN_FULL else 2 * (numbers + 4 * math.ceil(numbers / _BLOCK))


def _peak_of_phase(twin: Method, phase: Phase) -> int:
    """Bytes that a step of the phase allocates, weights that come for their turn among them."""
    if twin.base.turns:
        twin.base.turns.put_away()
    return peak_of(lambda: core_pass(twin, phase, getattr(twin, "layers", None)), twin)


def core_pass(
    method: Method,
    phase: Phase,
    layers: Mapping[str, Any] | None = None,
    prompts: Sequence[str] | None = None,
) -> None:
    """The network passes that a step cannot avoid, there and back, wherever the method's weights are.

    `layers`: whose attention maps are kept beside. `prompts`: those of a step; without them as
    many different ones as there can be.
    """
    base, load = method.base, method.load(phase)
    with torch.set_grad_enabled(method.capabilities.trained_text):
        said = f"{method.anchor} {method.longest_caption}".rstrip()
        prompts = prompts or [f"{number} {said}" for number in range(load.prompts)]
        context = base.encode_text(prompts, _rows(method))
    context = context.rows(torch.arange(load.pictures, device=context.states.device) % len(prompts))
    if not any(weight.requires_grad for weight in base.network.parameters()):
        states = context.states
        context = replace(
            context, states=states if states.requires_grad else states.detach().requires_grad_()
        )
    if load.encoded:
        base.encode_posterior(torch.zeros(load.encoded, 3, method.size, method.size, device=base.device))
    shape = (load.pictures, *base.latent_shape(method.size, method.size))
    noisy = torch.empty(shape, device=base.device).normal_()
    times = torch.zeros(load.pictures, device=base.device)
    if load.teacher:
        with torch.no_grad():
            first = slice(load.teacher)
            base.predict(noisy[first], times[first], context.rows(first))
    with recorded(base.network, {} if base.pass_size else layers or {}) as maps:
        prediction = base.predict(noisy, times, context)
    loss = nn.functional.mse_loss(prediction.float(), torch.empty_like(noisy))
    if layers and not base.pass_size:
        loss = loss + torch.stack([look.mean() for look in maps.all()]).sum()
    loss.backward()
    for weight in method.parameters():
        weight.grad = None


def _rows(method: Method) -> Any:
    """The method's rows, or as many that stand for them where it makes them anew in each step."""
    rows = method.rows()
    if rows or not method.capabilities.trained_text or not method.concepts:
        return rows
    count = getattr(method.settings, "vectors", 1)
    encoders: dict[str, Any] = dict(method.base.text_encoders.items())
    return {
        method.anchor: {
            name: torch.zeros(
                count, encoder.config.hidden_size, device=method.base.device, requires_grad=True
            )
            for name, encoder in encoders.items()
        }
    }


@torch.no_grad()
def _pictures(method: Method) -> None:
    """A picture through the autoencoder, there and, where pictures are drawn, back."""
    base, side = method.base, method.size
    drawn = min(base.at_once(side, side), method.drawn_at_once)
    read = min(base.at_once(side, side), AT_ONCE, len(method.examples) + method.drawn_at_once)
    base.encode_posterior(torch.empty(read, 3, side, side, device=META))
    if drawn:
        base.decode(torch.empty(drawn, *base.latent_shape(side, side), device=META))


def halved(base: BaseModel) -> Sequence[Any]:
    """The networks that may be kept in bf16; the autoencoder would lose what it shows."""
    return [base.network, *base.text_encoders.values()]


def bytes_of(parts: Sequence[nn.Module]) -> int:
    """Bytes of all weights of these networks."""
    return sum(bytes_of_weight(weight) for part in parts for weight in part.parameters())


def bytes_of_weight(weight: Tensor) -> int:
    """What its numbers take."""
    return weight.numel() * weight.element_size()


def free_bytes(device: torch.device, base: BaseModel) -> int:
    """What a run may use on the device; on the CPU the base is there already and counts as free."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        base_bytes = bytes_of([base]) if base.device.type == "cuda" else 0
        return torch.cuda.mem_get_info(device)[0] + unused + base_bytes
    return psutil.virtual_memory().available + bytes_of([base])


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether the error says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


# ----------------------------------------------------------------------------------------------------- ladder


class MemoryPlan:
    """Chooses the rung that a run stands on, takes its measures and undoes them."""

    def __init__(self, method: Method, job: Job, device: torch.device, tell: Callable[[str], None]) -> None:
        self.method = method
        self.device = device
        self.rungs = rungs(method, job, device)
        self.at = 0
        self._tell = tell
        self._own: dict[nn.Parameter, Tensor] = {}  # the halved weights' own numbers
        self._limit = None if job.memory is None else int(job.memory * GB)

    @property
    def measures(self) -> MemorySettings:
        return self.rungs[self.at]

    def choose(self) -> Estimate:
        """Settles on the first rung that fits, says so, and takes it as far as networks are concerned."""
        free = self._limit or free_bytes(self.device, self.method.base)
        estimates, last = Estimates(self.method), len(self.rungs) - 1
        while self.at < last and estimates.least(self.measures) * FREE_MARGIN > free:
            self.at += 1
        needs = estimates.of(self.measures)
        while needs.total * FREE_MARGIN > free and self.at < last:
            self.at += 1
            needs = estimates.of(self.measures)
        if needs.total > HOPELESS * free:
            raise LikenessError(
                f"this run needs {needs.words()} even with all measures "
                f"({self.measures.words() or 'none apply'}), but {free / GB:.2f} GB are free on "
                f"{self.device.type}; lower the resolution, the batch size or the rank"
            )
        taken = self.measures.words()
        how = f"; to fit: {taken}" if taken else ", so no measures are needed"
        self._tell(f"memory: {needs.words()}, {free / GB:.2f} GB are free{how}")
        self.take_early()
        return needs

    def take_early(self) -> None:
        """What must be done before the method is prepared."""
        base = self.method.base
        if self.measures.half:
            for part in halved(base):
                for weight in part.parameters():
                    wide = weight.dtype != _HALF and weight.element_size() > 1
                    if wide and weight not in self._own and not weight.requires_grad:
                        self._own[weight] = weight.data.cpu()
                        weight.data = weight.data.to(_HALF)
        if self.measures.checkpointing:
            base.recompute(True)
        base.pass_size = self.measures.pass_size
        if self.measures.turns:
            base.take_turns(self.device, self.measures.turns == "blocks")

    def take_late(self) -> None:
        """What waits until latents are cached."""
        base = self.method.base
        if self.measures.vae_away:
            base.send_away(base.vae)
        if self.measures.text_away:
            for encoder in base.text_encoders.values():
                base.send_away(encoder)

    def step_down(self) -> None:
        """Takes the next rung's measures after memory ran out; raises LikenessError where there is none."""
        if self.at + 1 >= len(self.rungs):
            raise LikenessError(
                f"memory ran out on {self.device.type} with all measures taken "
                f"({self.measures.words() or 'none'}); lower the resolution, the batch size or the rank"
            )
        before, self.at = self.measures, self.at + 1
        self.take_early()
        self.take_late()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        new = [word for word in self.measures.words().split(", ") if word not in before.words().split(", ")]
        self._tell(f"memory ran out; going on from the same step with {', '.join(new)}")

    def undo(self) -> None:
        """The base as it was."""
        base = self.method.base
        base.recompute(False)
        base.pass_size = 0
        base.call_back()
        for weight, original in self._own.items():
            weight.data = original
        self._own.clear()
