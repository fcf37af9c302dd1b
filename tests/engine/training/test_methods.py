"""The contract that every method keeps, on a tiny random base."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.config import METHODS
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.training.launch import Stopped, train
from likeness_portraits.engine.training.methods import CLASSES
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person

every_method = pytest.mark.parametrize("method", sorted(METHODS))


class Watcher:
    """Keeps what it is told; stops the run at a step, or breaks it."""

    def __init__(self, stop_at: int | None = None, break_at: int | None = None) -> None:
        self.stop_at, self.break_at = stop_at, break_at
        self.losses: list[dict[str, float]] = []
        self.previews: list[np.ndarray] = []
        self.last = None

    def on_step(self, progress, losses) -> None:
        self.last = progress
        self.losses.append(dict(losses))
        if progress.step == self.break_at:
            raise KeyboardInterrupt

    def on_preview(self, progress, image) -> None:
        self.previews.append(image)

    def should_stop(self) -> bool:
        return self.last is not None and self.last.step == self.stop_at


@pytest.fixture
def folder(tmp_path) -> Path:
    write_person(tmp_path / "person")
    return tmp_path


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same_tensors(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def test_every_method_with_settings_has_a_class_and_the_other_way_round():
    assert set(METHODS) == set(CLASSES)


@every_method
def test_frozen_base_is_bit_identical_after_training(method, base, folder):
    before, modules = snapshot(base), {name: type(part) for name, part in base.named_modules()}
    train(tiny_job(method, folder), base=base)
    assert_same_tensors(before, snapshot(base))
    assert modules == {name: type(part) for name, part in base.named_modules()}
    assert not any(weight.requires_grad for weight in base.parameters())


@every_method
def test_only_declared_parameters_move(method, base, folder):
    from likeness_portraits.engine.data.concepts import load_concept
    from likeness_portraits.engine.training.checkpoint import Checkpoints
    from likeness_portraits.engine.training.launch import _accelerator, _forget
    from likeness_portraits.engine.training.methods import method_class
    from likeness_portraits.engine.training.observer import Silent
    from likeness_portraits.engine.training.trainer import Trainer

    job = tiny_job(method, folder)
    learner = method_class(method)(job, base, [load_concept(concept) for concept in job.concepts])
    accelerator = _accelerator(job)
    try:
        trainer = Trainer(learner, job, accelerator, Silent(), Checkpoints(job, "digest"))
        learner.prepare(trainer.check)
        declared = {id(weight) for group in learner.parameter_groups().values() for weight in group}
        before = {name: weight.detach().clone() for name, weight in learner.named_parameters()}
        trainer.run()
        for name, weight in learner.named_parameters():
            assert (id(weight) in declared) != torch.equal(before[name], weight), name
    finally:
        learner.close()
        _forget(accelerator)


@every_method
def test_the_saved_artifact_draws_what_the_method_drew(method, base, folder):
    watcher = Watcher()
    job = tiny_job(method, folder, preview_every=4, preview_prompt="a photo of <v0>, smiling")
    artifact = Artifact.load(train(job, watcher, base))
    options = {"steps": 20, "guidance": 5.0, "seed": job.seed}
    drawn = generate(base, [job.preview_prompt], artifacts=[(artifact, 1.0)], **options)[0]
    plain = generate(base, ["a photo of woman, smiling"], **options)[0]
    assert np.abs(drawn.astype(int) - watcher.previews[-1]).max() <= 1
    assert np.abs(drawn.astype(int) - plain).max() > 1
    assert (artifact.steps, artifact.seed, artifact.method) == (4, 7, method)
    assert artifact.base_fingerprint == base.fingerprint


@every_method
def test_cancelling_saves_and_resuming_equals_an_uninterrupted_run_bit_for_bit(method, base, folder):
    whole = Artifact.load(train(tiny_job(method, folder, "whole"), base=base))
    watcher = Watcher(stop_at=2)
    path = train(tiny_job(method, folder, "stopped"), watcher, base)
    assert len(watcher.losses) == 2
    assert Artifact.load(path).steps == 2
    again = Watcher()
    assert train(tiny_job(method, folder, "stopped", resume=True), again, base) == path
    assert again.last.step == 4 and len(again.losses) == 2
    assert_same_tensors(whole.tensors, Artifact.load(path).tensors)
    assert not path.with_suffix(".checkpoint").exists()


@every_method
def test_a_run_that_broke_goes_on_from_its_checkpoint(method, base, folder):
    whole = Artifact.load(train(tiny_job(method, folder, "whole"), base=base))
    job = tiny_job(method, folder, "broken", checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(job, Watcher(break_at=3), base)
    assert not Path(job.output).exists()
    torch.manual_seed(99)  # whatever else happened meanwhile
    path = train(tiny_job(method, folder, "broken", resume=True), base=base)
    assert_same_tensors(whole.tensors, Artifact.load(path).tensors)


@every_method
def test_training_works_under_inference_mode(method, folder):
    plain = Artifact.load(train(tiny_job(method, folder, "plain"), base=tiny_base()))
    with torch.inference_mode():
        path = train(tiny_job(method, folder, "inference"), base=tiny_base())
    assert_same_tensors(plain.tensors, Artifact.load(path).tensors)


@every_method
def test_the_callers_random_numbers_are_left_alone(method, base, folder):
    state = torch.get_rng_state()
    train(tiny_job(method, folder), base=base)
    assert torch.equal(state, torch.get_rng_state())


FAST_MOVING = ("custom-diffusion", "magictailor", "masterweaver")  # rounding alone moves single weights more


@pytest.fixture
def one_thread():
    """Sums in one order, as in processes that have one thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_agree_with_one(base, folder, package_parent):
    four = {"batch_size": 4}
    jobs = {method: tiny_job(method, folder, f"two-{method}", settings=four) for method in METHODS}
    (folder / "jobs.json").write_text(json.dumps([job.to_dict() for job in jobs.values()]))
    script = Path(__file__).with_name("two_processes.py")
    environment = {**os.environ, "PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, script, folder / "jobs.json"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((folder / "jobs.json.seen").read_text())
    for method in METHODS:
        watcher = Watcher()
        alone = train(tiny_job(method, folder, method, settings=four), watcher, base)
        assert seen.pop(0)["processes"] == 2
        # Adam makes of rounding near a zero gradient a whole step: what counts is how near the two are,
        # measured by how far a process would get that never heard of the other
        half = train(tiny_job(method, folder, f"half-{method}", settings={"batch_size": 2}), base=base)
        both = folder / f"two-{method}.safetensors"
        assert between(both, alone) < 0.001 * between(half, alone), method
        if method not in FAST_MOVING:
            for name, tensor in Artifact.load(alone).tensors.items():
                found = Artifact.load(both).tensors[name]
                torch.testing.assert_close(found, tensor, atol=2e-5, rtol=1e-3)


def between(one: Path, other: Path) -> float:
    """Distance of all that two concept files hold, as one vector."""
    theirs = Artifact.load(other).tensors
    pairs = [(tensor.double(), theirs[name].double()) for name, tensor in Artifact.load(one).tensors.items()]
    return sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5


def test_a_stop_while_class_pictures_are_drawn_ends_at_once_and_writes_nothing(base, folder):
    class Impatient(Watcher):
        def should_stop(self) -> bool:
            return True

    job = tiny_job("dreambooth-lora", folder, "never")
    with pytest.raises(Stopped, match="nothing was learned"):
        train(job, Impatient(), base)
    assert not Path(job.output).exists()


def test_a_stop_while_a_later_step_draws_class_pictures_keeps_what_was_learned(base, folder):
    class InBetween(Watcher):
        """Says stop where it is asked twice since the last step: something is being drawn."""

        asked = 0

        def on_step(self, progress, losses) -> None:
            super().on_step(progress, losses)
            self.asked = 0

        def should_stop(self) -> bool:
            self.asked += 1
            return self.last is not None and self.asked > 1

    rounds = {"prior_pictures": 24, "prior_batch_size": 1, "steps": 8}
    whole = Artifact.load(train(tiny_job("dreambooth-lora", folder, "whole", settings=rounds), base=base))
    path = train(tiny_job("dreambooth-lora", folder, "part", settings=rounds), InBetween(), base)
    assert 0 < Artifact.load(path).steps < 8
    train(tiny_job("dreambooth-lora", folder, "part", settings=rounds, resume=True), base=base)
    assert_same_tensors(whole.tensors, Artifact.load(path).tensors)


def test_class_pictures_are_drawn_once_and_kept(base, folder):
    cache = folder / "cache"
    first = Artifact.load(train(tiny_job("dreambooth-lora", folder, "first", cache=str(cache)), base=base))
    (kept,) = cache.iterdir()
    written = kept.stat().st_ino  # a file that is written again is another
    second = Artifact.load(train(tiny_job("dreambooth-lora", folder, "second", cache=str(cache)), base=base))
    assert kept.stat().st_ino == written
    assert_same_tensors(first.tensors, second.tensors)


def test_class_pictures_that_cannot_be_kept_end_no_run(base, folder, caplog):
    (folder / "file").write_text("")
    job = tiny_job("dreambooth-lora", folder, cache=str(folder / "file" / "cache"))
    assert train(job, base=base).exists() and "later runs draw these pictures again" in caplog.text


def test_without_a_trained_token_the_placeholder_reads_identifier_and_class_word(base, folder):
    settings = {"train_token": False, "text_encoder": False}
    path = train(tiny_job("dreambooth-lora", folder, "sks", settings=settings), base=base)
    rows = Artifact.load(path).rows("<v0>")["clip_l"]
    assert torch.equal(rows, base.word_rows("sks woman")["clip_l"])


def test_a_second_job_in_the_same_process_may_ask_for_another_precision(base, folder):
    full = Artifact.load(train(tiny_job("textual-inversion", folder, "fp32"), base=base))
    half = Artifact.load(train(tiny_job("textual-inversion", folder, "bf16", precision="bf16"), base=base))
    assert not torch.equal(full.tensors["token.v0.clip_l"], half.tensors["token.v0.clip_l"])
    assert (full.tensors["token.v0.clip_l"] - half.tensors["token.v0.clip_l"]).abs().max() < 0.1


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(base, folder):
    (folder / "file").write_text("")
    with pytest.raises(LikenessError, match="choose another"):
        train(tiny_job("textual-inversion", folder, "file/me"), base=base)
