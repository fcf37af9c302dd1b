"""What a run needs is known before it begins, measures make it less, and running out ends no run."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.config import METHODS, BaseSpec, Job
from likeness_portraits.engine.data.concepts import Concept, Picture, load_concept, write_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.memory import Estimate, MemorySettings, estimate, rungs
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.engine.training.methods.base import Method
from likeness_portraits.engine.training.observer import Silent
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person

CLOSE = 0.15  # how far the estimate may be from what was measured, as a share of it
SHORT = {  # settings that keep runs on the Miniature short; batches and ranks stay the preset's
    "textual-inversion": {"steps": 2},
    "dreambooth-lora": {"steps": 2, "prior_pictures": 2, "prior_steps": 1},
    "custom-diffusion": {"steps": 2, "prior_pictures": 2, "prior_steps": 1},
    "personamagic": {"steps": 2},
    "magictailor": {"warm_up_steps": 1, "balance_steps": 2},
    "magicapture": {"inversion_steps": 1, "tuning_steps": 1, "identity": "none"},
}
QUICK = ("dreambooth-lora", "magictailor")
PARTNERS = {"magictailor": "component", "magicapture": "style"}


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def job_on_the_miniature(method: str, folder: Path, **changes: Any) -> Job:
    """Three pictures each of one concept, or of two where the method needs a pair."""
    random = np.random.default_rng(0)
    mask = np.zeros((128, 128), np.float32)
    mask[30:90, 30:90] = 1
    concepts = []
    for number, role in enumerate(["subject", *PARTNERS.get(method, "").split()]):
        pictures = tuple(
            Picture(str(i), random.integers(0, 255, (128, 128, 3), dtype=np.uint8), mask) for i in range(3)
        )
        write_concept(folder / role, Concept(f"<v{number}>", "woman", role, pictures))
        concepts.append({"folder": str(folder / role), "token": f"<v{number}>"})
    plain = {"method": method, "concepts": concepts, "output": str(folder / "x.safetensors"), "device": "cpu"}
    return Job.from_json({**plain, "settings": SHORT[method], **changes})


def learner(job: Job, base: BaseModel) -> Method:
    return method_class(job.method)(job, base, [load_concept(concept) for concept in job.concepts])


def measured(work: Callable[[], object]) -> int:
    """Bytes that PyTorch's allocator gave out at the worst moment of the work, beside those of before.

    What an earlier profiled run left and the garbage collector takes away during this one does not count.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    changes = sorted(_changes(profiler.profiler.kineto_results.experimental_event_tree()))
    assert len(changes) > 1000
    held: dict[int, int] = {}
    now = most = 0
    for _, place, size in changes:
        if size > 0:
            held[place] = size
            now += size
        else:
            now -= held.pop(place, 0)
        most = max(most, now)
    return most


def _changes(events: Sequence[Any]) -> Iterator[tuple[int, int, int]]:
    """When, where and how much memory was given out, or taken back (below zero)."""
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        waiting += event.children
        kind, fields = event.typed
        if kind == _EventType.Allocation:
            yield event.start_time_ns, fields.ptr, fields.alloc_size


@pytest.fixture(scope="module")
def miniature() -> BaseModel:
    return load_base(BaseSpec())


@pytest.mark.parametrize(
    "method",
    [method if method in QUICK else pytest.param(method, marks=pytest.mark.slow) for method in SHORT],
)
def test_the_estimate_is_near_the_measured_peak(method: str, miniature: BaseModel, tmp_path: Path):
    job = job_on_the_miniature(method, tmp_path)
    expected = estimate(learner(job, miniature), MemorySettings())
    beside = expected.total - expected.weights  # the weights are there before the run
    peak = measured(lambda: train(job, Silent(), miniature))
    assert abs(beside - peak) <= CLOSE * peak, f"{beside / 1e6:.1f} MB expected, {peak / 1e6:.1f} measured"


@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth-lora"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_estimate_is_near_the_measured_peak_on_every_family(family: str, method: str, tmp_path: Path):
    write_person(tmp_path / "person")
    settings = {"steps": 2, "batch_size": 16, **({"prior_batch_size": 8} if "lora" in method else {})}
    base, job = tiny_base(family=family), tiny_job(method, tmp_path, settings=settings)
    expected = estimate(learner(job, base), MemorySettings())
    beside = expected.total - expected.weights
    peak = measured(lambda: train(job, Silent(), base))
    assert abs(beside - peak) <= CLOSE * peak, f"{beside / 1e6:.1f} MB expected, {peak / 1e6:.1f} measured"


@pytest.mark.parametrize(
    "measures", [MemorySettings(checkpointing=True), MemorySettings(pass_size=2), MemorySettings(half=True)]
)
def test_the_estimate_knows_what_each_measure_brings(
    measures: MemorySettings, miniature: BaseModel, tmp_path: Path
):
    plain = job_on_the_miniature("textual-inversion", tmp_path)
    before = estimate(learner(plain, miniature), MemorySettings())
    after = estimate(learner(plain, miniature), measures)
    assert after.step < 0.8 * before.step
    assert (after.weights < before.weights) == measures.half


def test_estimating_leaves_the_method_and_its_base_as_they_are(tmp_path: Path):
    write_person(tmp_path / "person")
    base = tiny_base(family="sdxl")
    state = torch.get_rng_state()
    method = learner(tiny_job("dreambooth-lora", tmp_path), base)
    before = {name: weight.clone() for name, weight in method.state_dict().items()}
    estimate(method, MemorySettings(checkpointing=True, half=True, pass_size=1))
    after = method.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(state, torch.get_rng_state())
    assert not base.unet.is_gradient_checkpointing and base.pass_size == 0


# ------------------------------------------------------------------------------------------------- the ladder

FRUGAL = ("textual-inversion", "dreambooth-lora", "custom-diffusion", "magictailor")


def budget(method: str, folder: Path, rung: int) -> float:
    """GB that are just enough for a rung."""
    job = tiny_job(method, folder)
    learning = learner(job, tiny_base())
    ladder = rungs(learning, job, torch.device("cpu"))
    expected = [estimate(learning, measures).total for measures in ladder]
    assert expected[rung] < min(expected[:rung], default=float("inf")), "the rung brings nothing here"
    return 1.06 * expected[rung] / 1e9


@pytest.mark.parametrize(
    "method",
    [
        method if method == "dreambooth-lora" else pytest.param(method, marks=pytest.mark.slow)
        for method in FRUGAL
    ],
)
def test_a_run_takes_the_measures_it_needs_says_them_and_learns_the_same(method: str, folder: Path):
    plain = Artifact.load(train(tiny_job(method, folder, "plain"), base=tiny_base()))
    base, listener = tiny_base(), Listener()
    job = tiny_job(method, folder, "frugal", memory=budget(method, folder, 1))
    frugal = Artifact.load(train(job, listener, base))
    assert any("to fit: gradient checkpointing" in note for note in listener.notes), listener.notes
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(frugal.tensors[name], tensor, atol=2e-4, rtol=1e-2)
    assert not base.unet.is_gradient_checkpointing and base.pass_size == 0


def test_a_run_that_cannot_fit_is_refused_before_the_first_step(folder: Path):
    with pytest.raises(
        LikenessError, match=r"needs about .* GB .* even with all measures .*lower the resolution"
    ):
        train(tiny_job("textual-inversion", folder, memory=1e-6), Listener(), tiny_base())
    assert not (folder / "me.safetensors").exists()


def running_out(base: BaseModel, above: int, at: int) -> Any:
    """A hook on the U-Net that runs out of memory where more than `above` rows pass, from the `at`-th on."""
    passes = 0

    def hook(_module: object, inputs: tuple[torch.Tensor, ...], _options: object) -> None:
        nonlocal passes
        passes += torch.is_grad_enabled()
        if torch.is_grad_enabled() and len(inputs[0]) > above and passes >= at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return base.unet.register_forward_pre_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("method", FRUGAL)
def test_running_out_of_memory_falls_a_rung_and_goes_on_from_the_same_step(method: str, folder: Path):
    plain = Artifact.load(train(tiny_job(method, folder, "plain"), base=tiny_base()))
    base, listener = tiny_base(), Listener()
    handle = running_out(base, above=2 if method != "textual-inversion" else 1, at=3)
    fallen = Artifact.load(train(tiny_job(method, folder, "fallen"), listener, base))
    handle.remove()
    fell = [note for note in listener.notes if note.startswith("memory ran out")]
    assert fell[0].endswith("going on from the same step with gradient checkpointing")
    assert "with micro-batches of" in fell[-1]
    assert fallen.steps == 4
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(fallen.tensors[name], tensor, atol=2e-4, rtol=1e-2)


def test_running_out_of_memory_with_nothing_left_to_try_says_what_to_lower(folder: Path):
    base = tiny_base()
    running_out(base, above=0, at=2)
    with pytest.raises(LikenessError, match="with all measures taken.*lower the resolution, the batch size"):
        train(tiny_job("textual-inversion", folder), Listener(), base)


def test_another_error_in_a_step_is_no_lack_of_memory(folder: Path):
    base = tiny_base()
    base.unet.register_forward_pre_hook(lambda module, inputs: inputs[0].reshape(7))
    with pytest.raises(RuntimeError, match="shape"):
        train(tiny_job("textual-inversion", folder), Listener(), base)


@pytest.mark.parametrize("method", [*FRUGAL, "personamagic"])
def test_bf16_keeps_the_frozen_networks_in_bf16_and_gives_them_back_bit_for_bit(method: str, folder: Path):
    base = tiny_base(family="sdxl")
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    kinds = set()
    base.unet.conv_in.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    learned = Artifact.load(train(tiny_job(method, folder, precision="bf16"), base=base))
    assert kinds - {torch.float32} == {torch.bfloat16}
    assert all(tensor.isfinite().all() for tensor in learned.tensors.values())
    after = base.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.dtype == torch.float32 for weight in base.parameters())


def test_frozen_text_is_read_once_per_prompt(folder: Path):
    base, read = tiny_base(), []
    encoder: Any = base.text_encoders["clip_l"]
    encoder.register_forward_hook(lambda module, inputs, output: read.append(1))
    settings = {"train_token": False, "text_encoder": False, "steps": 6, "prior_weight": 0.0}
    job = tiny_job("dreambooth-lora", folder, settings=settings)
    train(job, base=base)
    assert len(read) <= len(job.settings.templates)


def test_a_gpu_has_more_rungs_and_the_vae_leaves_first(folder: Path):
    settings = {"train_token": False, "text_encoder": False}
    job = tiny_job("dreambooth-lora", folder, settings=settings)
    words = [measures.words() for measures in rungs(learner(job, tiny_base()), job, torch.device("cuda"))]
    assert words[:3] == [
        "",
        "VAE off the device",
        "VAE off the device, text encoders off the device",
    ]
    assert "gradient checkpointing" in words[-1] and words[-1].endswith("micro-batches of 1")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs_while_somebody_listens_and_learns_the_same(method: str, folder: Path):
    plain = Artifact.load(train(tiny_job(method, folder, "plain"), base=tiny_base()))
    listener = Listener()
    told = Artifact.load(train(tiny_job(method, folder, "told"), listener, tiny_base()))
    notes = [note for note in listener.notes if note.startswith("memory: about")]
    assert method == "masterweaver" or notes
    assert all(torch.equal(plain.tensors[name], tensor) for name, tensor in told.tensors.items())


def test_an_estimate_is_said_in_gigabytes():
    told = Estimate(
        weights=3_400_000_000, learned=10**8, step=2 * 10**9, pictures=10**9, measures=MemorySettings()
    )
    assert told.words() == "about 5.50 GB (3.40 for the base, 0.10 for what is learned, 2.00 for a step)"
