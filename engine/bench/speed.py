"""What a step costs: each method's, the network passes it cannot avoid, and diffusers' plain loops; and what
a step of drawing costs, with regions and without.

Step and passes alternate within one run, so that whatever else the machine does slows both alike; ratios are
taken pair by pair, and what is told of them is the middle half.
"""

import copy
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from ..bases.base import BaseModel, load_base
from ..bases.loaders.random_base import random_base
from ..config import METHODS, BaseSpec, Job
from ..data.concepts import Concept, Picture, load_concept, write_concept
from ..errors import LikenessError
from ..inference.generate import generate
from ..inference.people import boxes_of
from ..inference.refocus import Focus
from ..inference.refocused import Refocusing
from ..training.checkpoint import Checkpoints
from ..training.launch import _accelerator, _forget
from ..training.memory import bytes_of, core_pass
from ..training.methods import method_class
from ..training.methods.base import Method
from ..training.methods.masterweaver import EDITING, AdapterBatch
from ..training.observer import Silent
from ..training.trainer import Trainer
from .plain_loops import dreambooth_lora, textual_inversion

_WARM_UP = 3  # steps that are not counted: kernels are chosen, memory is allocated
_PICTURES = 4  # of each concept
DRAWING = "drawing"  # stands among the methods where it is timed too
_NAMES = ("anna", "ben", "cara", "dan", "eve", "finn")  # who stand in regions, with a prompt of their own
_REGIONS = (0, 2, 6)
_PLAIN = {"textual-inversion": textual_inversion, "dreambooth-lora": dreambooth_lora}
_STEPS: Mapping[str, tuple[str, ...]] = {  # the settings that hold a method's steps, phase by phase
    "magictailor": ("warm_up_steps", "balance_steps"),
    "magicapture": ("inversion_steps", "tuning_steps"),
    "masterweaver": ("identity_steps", "editing_steps"),
}
PARTNERS = {"magictailor": "component", "magicapture": "style"}  # the second concept's role
QUICK: Mapping[str, Mapping[str, Any]] = {  # what would take long before the first step, or need files
    "dreambooth-lora": {"prior_pictures": 4, "prior_steps": 1},
    "custom-diffusion": {"prior_pictures": 4, "prior_steps": 1},
    "personamagic": {"image_encoder": "none"},
    "magicapture": {"identity": "none"},
    # every step alike, with both comparisons, on pictures at hand: threads of their own read shards meanwhile
    "masterweaver": {"image_encoder": "miniature", "editing_every": 1, "background_every": 1,
                     "gradient_accumulation": 1},
}  # fmt: skip


def measure_speed(
    arch: str,
    methods: list[str],
    steps: int,
    precision: str,
    resolution: int | None,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row for each method and phase, for each plain loop, and for drawing: milliseconds, their floor and
    peak bytes."""
    unknown = [name for name in methods if name not in timed_methods()]
    if unknown:
        raise LikenessError(f"'{unknown[0]}' cannot be timed; choose from {', '.join(timed_methods())}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = load_base(BaseSpec()) if arch == "miniature" else random_base(arch, device)
    rows = []
    for method in methods:
        with TemporaryDirectory() as folder:
            if method == DRAWING:
                job = speed_job("textual-inversion", base, Path(folder), steps, "fp32", resolution)
                rows += measure_drawing(job, base, arch, steps, device, say)
                continue
            job = speed_job(method, base, Path(folder), steps, precision, resolution)
            rows += _measure_method(job, base, arch, say)
            if method in _PLAIN:
                rows.append(_measure_plain(job, base, arch, steps, device))
                say(_line(rows[-1]))
    return rows


def timed_methods() -> list[str]:
    return [*METHODS, DRAWING]


def speed_job(
    method: str, base: BaseModel, folder: Path, steps: int, precision: str, resolution: int | None
) -> Job:
    """A job on pictures of noise, with the preset that fits the base."""
    side, random = resolution or base.resolution, np.random.default_rng(0)
    mask = np.zeros((side, side), np.float32)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 1
    concepts = []
    for number, role in enumerate(["subject", *PARTNERS.get(method, "").split()]):
        pictures = tuple(
            Picture(str(i), random.integers(0, 255, (side, side, 3), dtype=np.uint8), mask)
            for i in range(_PICTURES)
        )
        write_concept(folder / role, Concept(f"<v{number}>", "woman", role, pictures))
        concepts.append({"folder": str(folder / role), "token": f"<v{number}>"})
    preset = vars(METHODS[method].preset(base.traits.preset))
    each = {name: _WARM_UP + steps for name in _STEPS.get(method, ("steps",))}
    settings = {**preset, **QUICK.get(method, {}), **each}
    device = "auto" if torch.cuda.is_available() else "cpu"
    plain = {
        "method": method,
        "concepts": concepts,
        "output": str(folder / "x.safetensors"),
        "device": device,
    }
    return Job.from_json({**plain, "settings": settings, "precision": precision, "resolution": resolution})


class Alternating:
    """An observer that times each step, and after it the passes that the step could not avoid."""

    def __init__(self, method: Method, clock: Callable[[], float], autocast: Callable[[], Any]) -> None:
        self.method = method
        self.clock = clock
        self.autocast = autocast  # both sides compute in the job's precision
        self.times: dict[str, list[tuple[float, float]]] = {}  # by phase: seconds of step and passes
        self._phases = {phase.name: phase for phase in method.phases()}
        self._left = clock()

    def on_step(self, progress: Any, losses: Mapping[str, float]) -> None:
        step = self.clock() - self._left
        began = self.clock()
        phase = self._phases[progress.phase]
        batch = self.method.batch(phase, progress.phase_step - 1)
        prompts = [*batch.prompts, *getattr(batch, "open_prompts", ())]
        began = self.clock()
        with self.autocast():
            if isinstance(batch, AdapterBatch):
                adapter_pass(self.method, batch, progress.phase == EDITING)
            else:
                core_pass(self.method, phase, prompts=prompts)
        self.times.setdefault(progress.phase, []).append((step, self.clock() - began))
        self._left = self.clock()

    def on_preview(self, progress: Any, image: np.ndarray) -> None:
        pass

    def should_stop(self) -> bool:
        return False


def adapter_pass(method: Any, batch: AdapterBatch, editing: bool) -> None:
    """The passes that a step of MasterWeaver cannot avoid, there and back: towers, identity, U-Net and its
    second look at everybody mixed; while editing is learned, the texts' branches of student and teacher."""
    base = method.base
    batch = batch.to(base.device)  # pyright: ignore[reportAssignmentType]
    features, rows = method._features(batch)
    tokens = method.tokens(method.encoder, features, rows)
    with torch.no_grad():
        context = base.encode_text(batch.prompts)
    if not method.settings.latent_cache:
        base.encode_posterior(batch.pixels)
    with method.showing(tokens):
        prediction = base.predict(batch.noise, batch.times, context)
    with torch.no_grad(), method.showing(tokens):
        base.predict(batch.noise, batch.times, context)
    loss = prediction.float().square().mean()
    if editing:
        both = context.repeat(2)
        student = method._text_branches(batch.edit_noise, batch.edit_times, both, tokens)
        with torch.no_grad():
            nobody = method._nobody(len(tokens))
            method._text_branches(batch.edit_noise, batch.edit_times, both, nobody)
        loss = loss + torch.stack([branch.float().mean() for branch in student.values()]).sum()
    loss.backward()
    for weight in method.parameters():
        weight.grad = None


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds: by the wall once a GPU is done, or of this process alone on a CPU that others use too."""
    if device.type != "cuda":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def _measure_method(job: Job, base: BaseModel, arch: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    watch, peak, device = _timed_run(job, base, count=False)
    if device.type == "cpu":  # counting slows steps down
        once = dict.fromkeys(_STEPS.get(job.method, ("steps",)), 1)
        _, peak, _ = _timed_run(replace(job, settings=replace(job.settings, **once)), base, count=True)
    rows = []
    for phase, times in watch.times.items():
        name = job.method if len(watch.times) == 1 else f"{job.method}, {phase}"
        rows.append(_row(name, arch, job, device, times[_WARM_UP:], peak))
        say(_line(rows[-1]))
    return rows


def _timed_run(job: Job, base: BaseModel, count: bool) -> tuple[Any, int, torch.device]:
    concepts = [load_concept(concept) for concept in job.concepts]
    accelerator, home = _accelerator(job), base.device
    with torch.random.fork_rng():
        method: Method = method_class(job.method)(job, base, concepts)
        try:
            device = accelerator.device
            method.to(device)
            watch = (
                Silent() if count else Alternating(method, clock_of(device), lambda: accelerator.autocast())
            )
            trainer = Trainer(method, job, accelerator, watch, Checkpoints(job, "speed"))
            with accelerator.autocast():
                method.prepare(trainer.check)
            peak = _peak(device, base, trainer.run, count)
        finally:
            method.close()
            base.to(home)
            _forget(accelerator)
    return watch, peak, device


def _peak(device: torch.device, base: BaseModel, work: Callable[[], object], count: bool) -> int:
    """Does the work; the most bytes that lay on the device meanwhile."""
    gc.collect()
    if device.type != "cuda" and not count:
        work()
        return 0
    if device.type != "cuda":
        return bytes_of([base]) + allocated(work)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)


def allocated(work: Callable[[], object]) -> int:
    """Does the work; the most bytes that PyTorch gave out on the CPU meanwhile, beside those of before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    memory: list[Any] = [event for event in events if event.name() == "[memory]"]  # nbytes: not in the stubs
    changes = sorted((event.start_ns(), event.nbytes()) for event in memory)
    return int(np.cumsum([size for _, size in changes]).max(initial=0))


def _measure_plain(job: Job, base: BaseModel, arch: str, steps: int, device: torch.device) -> dict[str, Any]:
    """diffusers' loop on a copy of the base, with the same batches and rank."""
    settings, side = job.settings, job.resolution or base.resolution
    copied = copy.deepcopy(base).to(device)
    pixels = torch.rand(settings.batch_size, 3, side, side, device=device) * 2 - 1
    if job.method == "textual-inversion":
        step = textual_inversion(copied, pixels)
    else:
        prior = torch.rand(settings.prior_batch_size, 3, side, side, device=device) * 2 - 1
        step = dreambooth_lora(copied, pixels, prior, settings.rank)
    clock, times = clock_of(device), []
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=job.precision == "bf16")

    def run() -> None:
        for _ in range(_WARM_UP + steps):
            began = clock()
            with autocast:
                step()
            times.append(clock() - began)

    peak = _peak(device, copied, run, count=False)
    peak = peak or _peak(device, copied, step, count=True)
    pairs = [(taken, None) for taken in times[_WARM_UP:]]
    return _row(f"diffusers: {job.method}", arch, job, device, pairs, peak)


def measure_drawing(
    job: Job, base: BaseModel, arch: str, steps: int, device: torch.device, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A row for a sampling step under guidance, without regions and with people in them who have a prompt of
    their own; beside each, the network's pass over the same rows."""
    home, rows = base.device, []
    base.to(device)
    for count in _REGIONS:
        name = f"{DRAWING}, {count} people in regions" if count else DRAWING
        times = _drawing_times(base, count, job.resolution or base.resolution, steps, clock_of(device))
        rows.append(_row(name, arch, job, device, times[_WARM_UP:], 0))
        say(_line(rows[-1]))
    base.to(home)
    return rows


@torch.inference_mode()
def _drawing_times(
    base: BaseModel, count: int, side: int, steps: int, clock: Callable[[], float]
) -> list[tuple[float, float]]:
    """Seconds of each sampling step with so many people in regions, and of its passes."""
    people = _NAMES[:count]
    prompt = f"a photo of {' and '.join(people) or 'a woman'}"
    noisy = torch.zeros(2, *base.latent_shape(side, side), device=base.device)
    context, t = base.encode_text(["", prompt]), torch.full((2,), 0.5, device=base.device)
    focuses = [
        Focus(token=name, region=box, own_prompt=f"a photo of {name}")
        for name, box in zip(people, boxes_of("side by side", count) if count else ())
    ]
    times: list[tuple[float, float]] = []
    left = clock()

    def on_step(done: int, total: int) -> None:
        nonlocal left
        step, began = clock() - left, clock()
        base.predict(noisy, t, context)
        times.append((step, clock() - began))
        left = clock()

    generate(
        base, [prompt], steps=_WARM_UP + steps, width=side, height=side, on_step=on_step,
        refocus=Refocusing(focuses=focuses) if focuses else None,
    )  # fmt: skip
    return times


def _row(
    name: str,
    arch: str,
    job: Job,
    device: torch.device,
    pairs: Sequence[tuple[float, float | None]],  # seconds of each step, and of its passes
    peak: int,
) -> dict[str, Any]:
    step = [1000 * taken for taken, _ in pairs]
    floor = [1000 * passes for _, passes in pairs if passes is not None]
    ratios = [taken / passes for taken, passes in zip(step, floor)]
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "method": name,
        "base": arch,
        "resolution": job.resolution,
        "precision": job.precision,
        "device": on,
        "step_ms": round(statistics.median(step), 3),
        "floor_ms": round(statistics.median(floor), 3) if floor else None,
        "ratio": round(statistics.median(ratios), 4) if ratios else None,
        "ratio_range": [round(end, 4) for end in middle_half(ratios)] if ratios else None,
        "peak_bytes": peak,
        "steps": len(pairs),
    }


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """From which value to which the middle half of them lies."""
    low, high = np.quantile(values, (0.25, 0.75))
    return float(low), float(high)


def _line(row: Mapping[str, Any]) -> str:
    floor = ""
    if row["ratio_range"] is not None:
        low, high = row["ratio_range"]
        floor = f", {low:.2f} to {high:.2f} times its passes ({row['floor_ms']:.1f})"
    peak = f", {row['peak_bytes'] / 1e9:.2f} GB" if row["peak_bytes"] else ""
    return f"{row['method']} on {row['base']}: {row['step_ms']:.1f} ms a step{floor}{peak}"
