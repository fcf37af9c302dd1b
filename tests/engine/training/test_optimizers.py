"""Every optimiser through the loop itself, on a method with a matrix and a word's rows to learn."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from likeness_portraits.engine.config import OPTIMIZERS, Job, Phase, Recipe
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.data.examples import Batch, generator_for
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training import optimiser as optimisers
from likeness_portraits.engine.training.checkpoint import Checkpoints
from likeness_portraits.engine.training.launch import _accelerator, _forget
from likeness_portraits.engine.training.losses import pseudo_huber
from likeness_portraits.engine.training.memory import remembered_bytes
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.engine.training.methods.base import Method
from likeness_portraits.engine.training.observer import Silent
from likeness_portraits.engine.training.optimiser import (
    check_optimizer,
    optimizer_for,
    optimizer_remarks,
    prodigys_factor,
    schedule,
)
from likeness_portraits.engine.training.trainer import Trainer
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person

HERE = [name for name in OPTIMIZERS if name != "adamw8bit"]  # bitsandbytes' works on GPUs
PLAIN = Recipe()
RATES = {"unet": 0.02, "tokens": 0.02}
FIRST = Phase(name="first", steps=4, learning_rates=RATES, warmup_steps=2, weight_decay=0.01)
SECOND = Phase(name="second", steps=5, learning_rates=RATES, schedule="cosine_with_restarts")


class Line(Method):
    """Fits a matrix and rows to given ones."""

    def __init__(self, *phases: Phase) -> None:
        nn.Module.__init__(self)
        self._phases = phases
        generator = torch.Generator().manual_seed(1)
        self.wanted = torch.randn(6, 4, generator=generator)
        self.matrix = nn.Parameter(torch.zeros(6, 4))
        self.rows_learned = nn.Parameter(torch.full((1, 6), 0.5))
        self.trace: list[torch.Tensor] = []
        self.shown: list[torch.Tensor] = []

    def phases(self):
        return self._phases

    def parameter_groups(self):
        return {"unet": [self.matrix], "tokens": [self.rows_learned]}

    def batch(self, phase, number):
        x = torch.randn(8, 1, 1, 4, generator=generator_for(phase.name, number))
        empty = torch.zeros(8)
        return Batch(pixels=x, masks=x, prompts=("",) * 8, concepts=empty, prior=empty.bool(),
                     indices=empty, noise=x, posterior=x, times=empty)  # fmt: skip

    def forward(self, batch, progress):
        x = batch.pixels.flatten(1)  # (8, 4)
        return {"fit": ((x @ self.matrix.T + self.rows_learned - x @ self.wanted.T - 1) ** 2).mean()}

    def after_step(self, progress):
        self.trace.append(self.matrix.detach().clone())

    def preview(self, prompt, seed, check):
        self.shown.append(self.matrix.detach().clone())
        return torch.zeros(2, 2, 3, dtype=torch.uint8).numpy()

    def artifact(self):
        raise NotImplementedError

    def numbers(self) -> torch.Tensor:
        return torch.cat([self.matrix.detach().flatten(), self.rows_learned.detach().flatten()])


class StopAt(Silent):
    def __init__(self, step: int) -> None:
        self.step, self.now, self.losses = step, 0, []

    def on_step(self, progress, losses) -> None:
        self.now = progress.step
        self.losses.append(losses["fit"])

    def should_stop(self) -> bool:
        return self.now == self.step


def run(line: Line, folder: Path, observer=None, recipe=PLAIN, **changes) -> Line:
    torch.manual_seed(0)
    job = tiny_job("textual-inversion", folder, recipe=vars(recipe), **changes)
    accelerator = _accelerator(job)
    try:
        Trainer(line, job, accelerator, observer or Silent(), Checkpoints(job, "pictures")).run()
        return line
    finally:
        _forget(accelerator)


CASES = [*((name, None) for name in HERE), ("adamw", 0.5), ("prodigy", 0.9)]


@pytest.mark.parametrize(("optimizer", "ema"), CASES)
def test_resuming_in_either_phase_gives_the_same_numbers_bit_for_bit(tmp_path, optimizer, ema):
    recipe = Recipe(optimizer=optimizer, ema=ema, cycles=2)
    whole = run(Line(FIRST, SECOND), tmp_path, recipe=recipe)
    for stop in (2, 4, 7):
        folder = tmp_path / str(stop)
        part = run(Line(FIRST, SECOND), folder, StopAt(stop), recipe=recipe)
        rest = run(Line(FIRST, SECOND), folder, recipe=recipe, resume=True)
        assert len(part.trace) == stop
        assert all(map(torch.equal, part.trace + rest.trace, whole.trace))
        assert torch.equal(rest.numbers(), whole.numbers())


@pytest.mark.parametrize("optimizer", HERE)
def test_each_optimiser_learns(tmp_path, optimizer):
    seen = StopAt(-1)
    steps = 200 if optimizer == "prodigy" else 60  # its rate climbs from 1e-6
    run(
        Line(replace(FIRST, steps=steps, learning_rates={"unet": 0.05})),
        tmp_path,
        seen,
        recipe=Recipe(optimizer=optimizer),
    )
    assert sum(seen.losses[-10:]) < 0.8 * sum(seen.losses[:10])


@pytest.mark.parametrize("recipe", [Recipe(optimizer="schedulefree"), Recipe(ema=0.5)])
def test_looking_on_the_way_shows_what_would_be_kept_and_changes_nothing(tmp_path, recipe):
    blind = run(Line(FIRST), tmp_path / "blind", recipe=recipe)
    seeing = run(Line(FIRST), tmp_path / "seeing", recipe=recipe, preview_every=1)
    assert all(map(torch.equal, blind.trace, seeing.trace))
    assert torch.equal(blind.numbers(), seeing.numbers())
    assert torch.equal(seeing.shown[-1], seeing.matrix.detach())  # the last picture is of the file
    assert not torch.equal(seeing.shown[1], seeing.trace[1])  # and none of the numbers being trained


def test_what_is_kept_is_the_moving_average_of_the_steps(tmp_path):
    line = run(Line(FIRST), tmp_path, recipe=Recipe(ema=0.15))
    average = line.trace[0]  # the first step is copied
    for number, matrix in enumerate(line.trace[1:], 1):
        decay = min(0.15, (1 + number) / (10 + number))  # climbs to 0.15: 2/11 is more already
        average = decay * average + (1 - decay) * matrix
    assert torch.allclose(line.matrix.detach(), average, atol=1e-7)


def test_a_checkpoint_of_another_optimiser_is_refused_and_named(tmp_path):
    run(Line(FIRST), tmp_path, StopAt(2), recipe=Recipe(optimizer="lion"))
    with pytest.raises(LikenessError, match="another 'optimizer'"):
        run(Line(FIRST), tmp_path, resume=True)


def test_muon_turns_hidden_matrices_and_leaves_words_rows_to_adamw():
    line = Line(FIRST)
    groups = {(group["name"], group["use_muon"]) for group in
              optimizer_for(line.parameter_groups(), FIRST, "muon").param_groups}  # fmt: skip
    assert groups == {("unet", True), ("tokens", False)}


def test_prodigy_takes_rates_of_adamw_for_its_own_and_higher_ones_for_a_factor():
    rates = optimizer_for(Line(FIRST).parameter_groups(), FIRST, "prodigy").param_groups
    assert [group["full_rate"] for group in rates] == [1.0, 1.0]
    assert prodigys_factor([1e-4, 0.04]) == 1.0 and prodigys_factor([1e-4, 0.5]) == 0.5
    still = replace(FIRST, learning_rates={"unet": 1e-4, "tokens": 0.0})
    groups = optimizer_for(Line(still).parameter_groups(), still, "prodigy").param_groups
    assert [group["full_rate"] for group in groups] == [1.0, 0.0]


def test_what_authors_advise_is_said():
    none = replace(FIRST, weight_decay=0.0)
    said = optimizer_remarks(Recipe(optimizer="prodigy"), [none, SECOND])
    assert "times 1" in said[0] and "advise 0.01" in said[1] and "without restarts" in said[2]
    assert len(optimizer_remarks(Recipe(optimizer="prodigy"), [FIRST])) == 1
    assert "constant" in optimizer_remarks(Recipe(optimizer="schedulefree"), [SECOND])[0]
    assert optimizer_remarks(Recipe(), [FIRST, SECOND]) == []


def test_an_optimiser_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LikenessError, match=r"prodigyopt, which is not.*likeness-portraits\[optimizers\]"):
        check_optimizer("prodigy", "cpu")
    check_optimizer("adafactor", "cpu")


def test_adamw_in_eight_bits_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.setattr(optimisers.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(LikenessError, match="CUDA GPUs only, and this run is on cpu"):
        check_optimizer("adamw8bit", "cpu")


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "cosine_with_restarts"])
def test_schedules_are_those_that_diffusers_has_under_the_same_names(name):
    from diffusers.optimization import get_scheduler

    plain = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cycles = 3 if name == "cosine_with_restarts" else 1
    theirs = get_scheduler(name, plain, num_warmup_steps=0, num_training_steps=20, num_cycles=cycles)
    phase = Phase(name="p", steps=20, learning_rates={"unet": 1.0}, schedule=name)
    for step in range(20):
        assert schedule(phase, step, 3) == pytest.approx(plain.param_groups[0]["lr"], abs=1e-12)
        plain.step()
        theirs.step()


def test_a_jobs_recipe_may_stand_by_itself_or_in_its_own_mapping(tmp_path):
    plain = tiny_job("textual-inversion", tmp_path).to_dict()
    del plain["recipe"]
    by_itself = Job.from_json({**plain, "optimizer": "lion", "ema": 0.9})
    within = Job.from_json({**plain, "recipe": {"optimizer": "lion", "ema": 0.9}})
    assert by_itself.recipe == within.recipe == Recipe(optimizer="lion", ema=0.9)
    assert Job.from_json(by_itself.to_dict()) == by_itself
    for wrong, said in (({"optimizer": "lino"}, "did you mean 'lion'"), ({"ema": 1.0}, "ema"),
                        ({"optimizer": "schedulefree", "ema": 0.9}, "leave ema away")):  # fmt: skip
        with pytest.raises(LikenessError, match=said):
            Job.from_json({**plain, **wrong})


def test_huber_counts_small_errors_squared_and_large_ones_linearly():
    error = pseudo_huber(torch.tensor([0.001, 10.0]), torch.zeros(2), 0.1)
    assert error[0].item() == pytest.approx(1e-6, rel=0.01) and error[1].item() == pytest.approx(
        2 - 0.02, 0.01
    )


@pytest.fixture(scope="module")
def toned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toned")
    write_person(folder / "person")
    base = tiny_base()

    def batch(**recipe):
        job = tiny_job("textual-inversion", folder, recipe=recipe, settings={"batch_size": 4})
        method = method_class(job.method)(job, base, [load_concept(concept) for concept in job.concepts])
        return method.batch(method.phases()[0], 0)

    return batch


def test_noise_offset_moves_each_channel_as_a_whole(toned):
    moved = toned(noise_offset=0.5).noise - toned().noise
    assert torch.allclose(moved, moved.mean((2, 3), keepdim=True), atol=1e-6) and moved.std() > 0.2
    assert torch.equal(toned(noise_offset=0.5).times, toned().times)


def test_debiased_errors_count_by_the_root_of_noise_over_signal(tmp_path):
    write_person(tmp_path / "person")
    base, errors = tiny_base(), {}
    for debiased in (False, True):
        plain = {"min_snr_gamma": None}
        job = tiny_job("textual-inversion", tmp_path, recipe={"debiased": debiased}, settings=plain)
        method = method_class(job.method)(job, base, [load_concept(concept) for concept in job.concepts])
        method.attach()
        batch = method.batch(method.phases()[0], 0)
        errors[debiased] = method.errors(batch)
        method.close()
    alpha = base.process.alphas_cumprod[base.process.timesteps(batch.times)]
    wanted = ((1 - alpha) / alpha).sqrt().float()
    torch.testing.assert_close(errors[True] / errors[False], wanted, rtol=1e-4, atol=1e-5)


def test_two_weights_of_one_error_are_refused(tmp_path):
    job = tiny_job("textual-inversion", tmp_path, recipe={"debiased": True}, settings={"min_snr_gamma": 5.0})
    with pytest.raises(LikenessError, match="set min_snr_gamma to null, or leave debiased away"):
        method_class(job.method)(job, tiny_base(), [])


def test_times_stay_within_the_interval(toned):
    times = toned(least_noise=0.4, most_noise=0.5).times
    assert times.min() >= 0.4 and times.max() <= 0.5


@pytest.mark.parametrize(
    "recipe", [{"noise_offset": 0.1}, {"debiased": True}, {"timestep_sampling": "uniform"}], ids=str
)
def test_a_method_with_a_loss_of_its_own_refuses_what_is_said_of_it(recipe, tmp_path):
    job = tiny_job("magictailor", tmp_path, recipe=recipe)
    told = f"magictailor has a loss of its own; leave {next(iter(recipe))} away"
    with pytest.raises(LikenessError, match=told):
        method_class(job.method)(job, tiny_base(), [])


@pytest.mark.parametrize("name", HERE)
def test_memory_is_reckoned_with_what_each_optimiser_remembers(name):
    if (package := OPTIMIZERS[name]) is not None:
        pytest.importorskip(package)
    weights = {"unet": [nn.Parameter(torch.ones(8, 96)), nn.Parameter(torch.ones(96, 8))],
               "tokens": [nn.Parameter(torch.ones(2, 64))]}  # fmt: skip
    optimizer = optimizer_for(weights, FIRST, name)
    trained = [weight for group in weights.values() for weight in group]
    torch.stack([(weight * torch.randn_like(weight)).sum() for weight in trained]).sum().backward()
    optimizer.step()
    remembered = sum(
        value.numel() * value.element_size()
        for weight in trained
        for value in optimizer.state[weight].values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    )
    reckoned = sum(remembered_bytes(name, weight.shape) for weight in trained)
    assert reckoned == remembered or name == "muon" and 0.5 * reckoned < remembered < reckoned


def test_moments_in_eight_bits_have_a_scale_per_block_and_small_weights_have_them_in_full():
    assert remembered_bytes("adamw8bit", (64, 64)) == 2 * 4096 + 2 * 16 * 4
    assert remembered_bytes("adamw8bit", (4, 320)) == 8 * 1280
