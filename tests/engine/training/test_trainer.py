"""The loop itself, on a method with two numbers to learn."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from likeness_portraits.engine.config import Phase
from likeness_portraits.engine.data.examples import Batch, generator_for
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training import trainer
from likeness_portraits.engine.training.checkpoint import Checkpoints, Origin, Position, sweep_runs
from likeness_portraits.engine.training.launch import _accelerator, _forget
from likeness_portraits.engine.training.methods.base import Method
from likeness_portraits.engine.training.observer import Silent
from likeness_portraits.engine.training.optimiser import optimizer_for, schedule
from likeness_portraits.engine.training.trainer import Trainer
from likeness_portraits.tests.engine.tiny import tiny_job


class Toy(Method):
    """Fits slope and offset of a line; the offset only in the second phase. Keeps an average too."""

    def __init__(self, *phases: Phase) -> None:
        nn.Module.__init__(self)
        self._phases = phases
        self.concepts = ()  # it learns a line, no pictures
        self.slope = nn.Parameter(torch.tensor(0.0))
        self.offset = nn.Parameter(torch.tensor(0.5))
        self.average = torch.tensor(0.0)
        self.begun: list[str] = []
        self.trace: list[tuple[float, float]] = []

    def phases(self):
        return self._phases

    def parameter_groups(self):
        return {"slope": [self.slope], "offset": [self.offset]}

    def begin_phase(self, phase):
        self.begun.append(phase.name)

    def batch(self, phase, number):
        x = torch.randn(phase.batch_size, 1, 1, 1, generator=generator_for(phase.name, number))
        empty = torch.zeros(phase.batch_size)
        return Batch(pixels=x, masks=x, prompts=("",) * phase.batch_size, concepts=empty, prior=empty.bool(),
                     indices=empty, noise=x, posterior=x, times=empty)  # fmt: skip

    def forward(self, batch, progress):
        x = batch.pixels.flatten()
        noise = torch.randn(()) * 0.01  # from torch's global generator, as dropout's would be
        return {"fit": ((self.slope * x + self.offset - (3 * x + 1) + noise) ** 2).mean()}

    def after_step(self, progress):
        self.average = 0.9 * self.average + 0.1 * self.slope.detach()
        self.trace.append((self.slope.item(), self.offset.item()))

    def extra_state(self) -> dict[str, Tensor]:
        return {"average": self.average}

    def load_extra_state(self, state):
        self.average = state["average"]

    def artifact(self):
        raise NotImplementedError


FIRST = Phase(name="first", steps=5, learning_rates={"slope": 0.1})
SECOND = Phase(name="second", steps=6, learning_rates={"slope": 0.1, "offset": 0.05}, schedule="cosine",
               warmup_steps=2, batch_size=4)  # fmt: skip


def run(toy: Toy, folder: Path, observer=None, **changes):
    torch.manual_seed(0)
    job = tiny_job("textual-inversion", folder, **changes)
    accelerator = _accelerator(job)
    try:
        return Trainer(toy, job, accelerator, observer or Silent(), Checkpoints(job, "pictures")).run()
    finally:
        _forget(accelerator)


class StopAt(Silent):
    def __init__(self, step: int) -> None:
        self.step = step
        self.now = 0

    def on_step(self, progress, losses) -> None:
        self.now = progress.step

    def should_stop(self) -> bool:
        return self.now == self.step


class Listening(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def test_only_the_groups_a_phase_names_are_trained(tmp_path):
    toy = Toy(FIRST, SECOND)
    progress = run(toy, tmp_path)
    assert (progress.step, progress.total, progress.phase) == (11, 11, "second")
    offsets = [offset for _, offset in toy.trace]
    assert offsets[:5] == [0.5] * 5 and offsets[5] != 0.5
    assert len({slope for slope, _ in toy.trace}) == 11


@pytest.mark.parametrize("stop", [3, 5, 8])
def test_resuming_in_any_phase_gives_the_same_numbers_bit_for_bit(tmp_path, stop):
    whole = Toy(FIRST, SECOND)
    run(whole, tmp_path)
    part = Toy(FIRST, SECOND)
    progress = run(part, tmp_path, StopAt(stop))
    assert progress.stopped and progress.step == stop
    rest = Toy(FIRST, SECOND)
    run(rest, tmp_path, resume=True)
    assert part.trace + rest.trace == whole.trace
    assert torch.equal(rest.average, whole.average)
    assert rest.begun == ["first", "second"]


def test_accumulated_passes_equal_one_pass_over_all_their_examples(tmp_path):
    class Joined(Toy):
        """One batch of 4 made of the two batches of 2 that the other one accumulates."""

        def batch(self, phase, number):
            halves = [super(Joined, self).batch(phase, 2 * number + part) for part in (0, 1)]
            pixels = torch.cat([half.pixels for half in halves])
            return type(halves[0])(**{**vars(halves[0]), "pixels": pixels})

        def forward(self, batch, progress):
            x = batch.pixels.flatten()
            return {"fit": ((self.slope * x + self.offset - (3 * x + 1)) ** 2).mean()}

    class Quiet(Toy):
        forward = Joined.forward

    common = {"name": "first", "steps": 3, "learning_rates": {"slope": 0.1, "offset": 0.1}, "batch_size": 2}
    joined, accumulated = Joined(Phase(**common)), Quiet(Phase(**common, gradient_accumulation=2))
    run(joined, tmp_path)
    run(accumulated, tmp_path)
    torch.testing.assert_close(torch.tensor(accumulated.trace), torch.tensor(joined.trace))


def test_gradients_are_clipped_over_all_groups_together(tmp_path):
    norms = []

    class Spy(Toy):
        def after_step(self, progress):
            pass

    toy = Spy(Phase(name="one", steps=1, learning_rates={"slope": 0.1, "offset": 0.1}, max_grad_norm=0.25))
    toy.slope.register_post_accumulate_grad_hook(lambda p: norms.append(p.grad))
    toy.offset.register_post_accumulate_grad_hook(lambda p: norms.append(p.grad))
    run(toy, tmp_path)  # clipping works in place on the tensors the hooks kept
    assert math.isclose(torch.stack(norms).norm().item(), 0.25, rel_tol=1e-3)


def test_schedules_climb_then_fall():
    rates = {"slope": 1.0}
    cosine = Phase(name="p", steps=6, learning_rates=rates, schedule="cosine", warmup_steps=2)
    assert [round(schedule(cosine, step), 3) for step in range(6)] == [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    linear = Phase(name="p", steps=4, learning_rates=rates, schedule="linear")
    assert [schedule(linear, step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert schedule(Phase(name="p", steps=4, learning_rates=rates), 3) == 1.0


def test_groups_without_a_rate_need_no_gradient():
    toy = Toy(FIRST)
    optimizer = optimizer_for(toy.parameter_groups(), FIRST)
    assert toy.slope.requires_grad and not toy.offset.requires_grad
    assert len(optimizer.param_groups) == 1


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_the_weights(tmp_path):
    class Diverging(Toy):
        def forward(self, batch, progress):
            losses = super().forward(batch, progress)
            return {"fit": losses["fit"] * (math.nan if progress.step == 2 else 1.0)}

    toy = Diverging(FIRST)
    with pytest.raises(
        LikenessError, match=r"the loss \(fit\) is no number from step 3 on; lower the learning rate"
    ):
        run(toy, tmp_path)
    assert len(toy.trace) == 2 and math.isfinite(toy.slope.item())


def test_a_checkpoint_of_another_run_is_refused_and_names_what_differs(tmp_path):
    run(Toy(FIRST, SECOND), tmp_path, StopAt(3))
    with pytest.raises(LikenessError, match="another 'learning_rate'"):
        run(Toy(FIRST, SECOND), tmp_path, resume=True, settings={"learning_rate": 1.0})
    with pytest.raises(LikenessError, match="another 'seed'"):
        run(Toy(FIRST, SECOND), tmp_path, resume=True, seed=8)


def test_a_stopped_run_may_be_prolonged_and_gives_the_long_runs_numbers(tmp_path):
    longer = replace(FIRST, steps=9)
    whole, part, rest = Toy(longer), Toy(FIRST), Toy(longer)
    run(whole, tmp_path, settings={"steps": 9})
    run(part, tmp_path, StopAt(3), settings={"steps": 5})
    listener = Listening()
    run(rest, tmp_path, listener, resume=True, settings={"steps": 9})
    assert part.trace + rest.trace == whole.trace and listener.notes == ["going on from step 3 of 9"]


def test_a_run_is_not_shortened_nor_are_phases_that_are_over_prolonged(tmp_path):
    run(Toy(FIRST, SECOND), tmp_path, StopAt(8), settings={"steps": 11})
    for phases in ([FIRST, replace(SECOND, steps=5)], [replace(FIRST, steps=6), SECOND], [FIRST]):
        with pytest.raises(LikenessError, match="another 'steps'"):
            run(Toy(*phases), tmp_path, resume=True, settings={"steps": 12})


def test_checkpoints_come_by_the_clock_without_asking_anybody(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])
    kept = []

    class Clock(Silent):
        def on_step(self, progress, losses):
            now[0] += 100  # seconds
            state = tmp_path / "me.checkpoint" / "state.safetensors"
            kept.append(state.stat().st_mtime_ns if state.exists() else 0)

    run(Toy(FIRST, SECOND), tmp_path, Clock())  # every five minutes
    changes = [step for step in range(1, 11) if kept[step] != kept[step - 1]]
    assert changes == [3, 6, 9]  # seen a step later
    run(Toy(FIRST), tmp_path / "none", Clock(), checkpoint_minutes=0.0)
    assert not (tmp_path / "none" / "me.checkpoint").exists()


def test_a_host_counts_by_what_it_holds_and_a_base_by_its_weights_and_noise(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "b.safetensors").write_bytes(b"one")

    def folder(name: str, weights: str = "w") -> Path:
        job = tiny_job("textual-inversion", tmp_path, on=[f"{tmp_path / name}=x.png:0.5"])
        return Checkpoints(job, Origin.of(job, pictures="p", weights=weights), tmp_path / "runs").folder

    assert folder("a.safetensors") == folder("b.safetensors")
    assert folder("a.safetensors") != folder("a.safetensors", weights="another noise schedule")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    assert folder("a.safetensors") != folder("b.safetensors")


def test_shards_count_by_what_they_hold(tmp_path):
    def of(place: str) -> Origin:
        job = tiny_job("masterweaver", tmp_path, settings={"shards": str(tmp_path / place)})
        return Origin.of(job, pictures="", weights="w")

    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.tar").write_bytes(content)
    assert of("a") == of("b") != of("c")


def test_in_a_folder_of_many_a_run_is_found_by_what_it_learns_and_prolonged(tmp_path, caplog):
    runs = tmp_path / "runs"

    def of(**changes) -> Checkpoints:
        return Checkpoints(tiny_job("textual-inversion", tmp_path, **changes), "pictures", runs)

    toy, optimizer = Toy(FIRST), optimizer_for(Toy(FIRST).parameter_groups(), FIRST)
    begun = of(settings={"steps": 5})
    begun.save(Position(0, 3), toy.parameter_groups(), optimizer, {}, [5])
    assert of(settings={"steps": 5}, name="another", preview_every=7).exists()
    for changes in ({"seed": 8}, {"settings": {"steps": 4}}, {"settings": {"steps": 5, "learning_rate": 1}}):
        assert not of(**changes).exists()
    longer = of(settings={"steps": 9})
    assert longer.find([9]).position == Position(0, 3) and not begun.exists()
    (longer.folder / "state.safetensors").write_bytes(b"damaged")
    assert longer.find([9]) is None and "beginning at the first step" in caplog.text
    sweep_runs(runs)
    assert longer.exists()
    sweep_runs(runs, days=-1)
    assert not longer.folder.exists()


def test_a_run_is_named_as_by_versions_that_knew_fewer_settings(tmp_path):
    job = tiny_job("dreambooth-lora", tmp_path)
    made = Checkpoints(job, "pictures", tmp_path)
    newer = ("recipe", "resolutions")
    plan = {name: value for name, value in made._plan.items()
            if name not in newer and not name.startswith(("caption_", "hold_"))}  # fmt: skip
    newer = ("steps", "adapter", "layers", "rslora", "rank_by_block", "min_rank", "orthogonal")
    plan["settings"] = {name: value for name, value in plan["settings"].items() if name not in newer}
    name = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
    assert made.folder.name.startswith(f"{name}-")
    for changes in ({"hold_out": 1}, {"settings": replace(job.settings, layers="feed-forward")}):
        assert not Checkpoints(replace(job, **changes), "pictures", tmp_path).folder.name.startswith(name)


def test_a_checkpoint_is_told_of_and_a_preview_on_a_full_disk_ends_no_run(tmp_path, caplog, monkeypatch):
    class Full(Silent):
        told = 0

        def on_checkpoint(self) -> None:
            self.told += 1

        def on_preview(self, progress, image) -> None:
            raise LikenessError("cannot write step-000002.png: the disk is full")

    toy, watch = Toy(FIRST), Full()
    monkeypatch.setattr(toy, "preview", lambda *_: np.zeros((2, 2, 3), np.uint8))
    assert run(toy, tmp_path, watch, preview_every=2, checkpoint_every=2).step == 5
    assert watch.told == 2 and "the disk is full; training goes on without it" in caplog.text


def test_a_checkpoint_from_before_a_setting_existed_is_of_the_same_run_while_that_is_as_by_default(tmp_path):
    whole, part, rest = Toy(FIRST, SECOND), Toy(FIRST, SECOND), Toy(FIRST, SECOND)
    run(whole, tmp_path)
    run(part, tmp_path, StopAt(3))
    state = tmp_path / "me.checkpoint" / "state.safetensors"
    with safe_open(state, "pt") as file:
        told, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    plan = json.loads(told["plan"])
    del plan["mirror"], plan["precision"], plan["settings"]["background_weight"], plan["base"]["vae"]
    save_file(tensors, state, {**told, "plan": json.dumps(plan)})
    for changes in ({"mirror": True}, {"precision": "bf16"}, {"settings": {"background_weight": 0.5}}):
        (name,) = changes.get("settings", changes)
        with pytest.raises(LikenessError, match=f"another '{name}'"):
            run(Toy(FIRST, SECOND), tmp_path, resume=True, **changes)
    run(rest, tmp_path, resume=True)
    assert part.trace + rest.trace == whole.trace


def test_a_damaged_checkpoint_says_what_to_delete(tmp_path):
    run(Toy(FIRST, SECOND), tmp_path, StopAt(3))
    state = tmp_path / "me.checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(LikenessError, match=r"me\.checkpoint and begin again"):
        run(Toy(FIRST, SECOND), tmp_path, resume=True)


def at(position: dict, **lengths) -> dict[str, str]:
    return {"position": json.dumps(position), **{key: json.dumps(value) for key, value in lengths.items()}}


DAMAGED = {  # changes to the metadata and to the tensors of a checkpoint at step 2 of the second phase
    "a step beyond the phase": (at({"phase": 1, "phase_step": 99}), {}),
    "a phase beyond the plan": (at({"phase": 9, "phase_step": 1}), {}),
    "a step in words": (at({"phase": 1, "phase_step": "3"}), {}),
    "a step before the first": (at({"phase": 1, "phase_step": -3}), {}),
    "half a step": (at({"phase": 1, "phase_step": 1.5}), {}),
    "a step that is true": (at({"phase": True, "phase_step": 1}), {}),
    "no step": (at({"phase": 1}), {}),
    "a list of steps": (at([1, 2]), {}),
    "lengths in words": (at({"phase": 1, "phase_step": 2}, lengths="ab"), {}),
    "endless brackets": ({"plan": "[" * 100_000}, {}),
    "settings in a word": ({"plan": json.dumps({"settings": "steps"})}, {}),
    "no plan": ({"plan": "null"}, {}),
    "no random state": ({}, {"rng": None}),
    "a random state of another kind": ({}, {"rng": torch.zeros(3)}),
    "a random state cut short": ({}, {"rng": torch.zeros(9, dtype=torch.uint8)}),
    "no parameter": ({}, {"parameter.slope.0": None}),
    "a parameter that broadcasts": ({}, {"parameter.slope.0": torch.ones(1)}),
    "a parameter of more numbers": ({}, {"parameter.slope.0": torch.ones(3)}),
    "a parameter that is no number": ({}, {"parameter.slope.0": torch.tensor(math.nan)}),
    "a parameter in integers": ({}, {"parameter.slope.0": torch.tensor(1)}),
    "a moment that broadcasts": ({}, {"optimizer.slope.0.exp_avg": torch.ones(1)}),
    "half of the moments": ({}, {"optimizer.slope.0.exp_avg_sq": None}),
    "a moment too many": ({}, {"optimizer.slope.0.surprise": torch.tensor(1.0)}),
    "several step counts": ({}, {"optimizer.slope.0.step": torch.ones(2)}),
    "an average in eight bits": ({}, {"extra.average": torch.zeros(()).to(torch.float8_e5m2)}),
    "nothing of the method's own": ({}, {"extra.average": None}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_checkpoint_that_does_not_fit_the_run_is_refused_and_nothing_is_broadcast(tmp_path, name):
    run(Toy(FIRST, SECOND), tmp_path, StopAt(7))
    state = tmp_path / "me.checkpoint" / "state.safetensors"
    with safe_open(state, "pt") as file:
        told, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata, changes = DAMAGED[name]
    tensors = {key: value for key, value in {**tensors, **changes}.items() if value is not None}
    save_file(tensors, state, {**told, **metadata})
    with pytest.raises(
        LikenessError, match=r"state\.safetensors .*delete .*me\.checkpoint and begin again"
    ) as said:
        run(Toy(FIRST, SECOND), tmp_path, resume=True)
    assert "\n" not in str(said.value)


def test_moments_in_eight_bits_begin_anew_in_a_run_with_full_ones(tmp_path, caplog):
    run(Toy(FIRST, SECOND), tmp_path, StopAt(3))
    state = tmp_path / "me.checkpoint" / "state.safetensors"
    with safe_open(state, "pt") as file:
        told, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    small = {key.replace("exp_avg_sq", "state2").replace("exp_avg", "state1"): value
             for key, value in tensors.items()}  # fmt: skip
    save_file(small, state, told)
    run(Toy(FIRST, SECOND), tmp_path, resume=True)
    assert "of another precision" in caplog.text


def test_checkpoints_hold_no_pickle(tmp_path):
    run(Toy(FIRST, SECOND), tmp_path, StopAt(3))
    names = sorted(path.name for path in (tmp_path / "me.checkpoint").iterdir())
    assert names == ["job.json", "state.safetensors"]
