"""Likeness-based stopping: when it ends, which state it keeps, and that looking changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.commands.train import _critic
from likeness_portraits.engine.config import Job
from likeness_portraits.engine.data.concepts import Concept, Picture, write_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.backends import MiniatureBackend
from likeness_portraits.engine.evaluation.people import concept_of, render_person
from likeness_portraits.engine.evaluation.stopping import (
    LikenessCritic,
    LikenessLook,
    Patience,
    critic_for,
    curves,
    look_in_words,
)
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.observer import Progress, Silent
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person

PERSON, STRANGER = world.TUNING_SEEDS[0], world.TUNING_SEEDS[5]


def looks(*scores: tuple[float, float]) -> list[LikenessLook]:
    return [
        LikenessLook(step=10 * n, identity=who, prompt=what) for n, (who, what) in enumerate(scores, start=1)
    ]


def test_identity_that_stands_still_ends_it_and_identity_that_grows_does_not():
    patience = Patience(looks=2, gain=0.01)
    assert not patience.enough(looks((0.1, 1.0), (0.3, 1.0), (0.305, 1.0)))
    assert patience.enough(looks((0.1, 1.0), (0.3, 1.0), (0.305, 1.0), (0.3, 1.0)))
    assert not patience.enough(looks((0.1, 1.0), (0.3, 1.0), (0.305, 1.0), (0.4, 1.0)))


def test_prompts_disobeyed_twice_end_it_though_identity_still_grows():
    patience = Patience(looks=5, loss=0.2)
    assert not patience.enough(looks((0.1, 1.0), (0.5, 0.7)))
    assert not patience.enough(looks((0.1, 1.0), (0.5, 0.7), (0.6, 0.9)))
    assert patience.enough(looks((0.1, 1.0), (0.5, 0.7), (0.6, 0.6)))


def test_the_best_is_the_closest_that_still_obeys():
    seen = looks((0.1, 1.0), (0.5, 0.9), (0.8, 0.4))
    assert Patience(loss=0.2).best(seen) is seen[1]
    assert Patience(loss=1.0).best(seen) is seen[2]
    assert Patience().best([LikenessLook(step=1, identity=0.2), LikenessLook(step=2, identity=0.3)]).step == 2


def test_nonsense_is_refused():
    with pytest.raises(LikenessError, match="one look or more"):
        Patience(looks=0)


def progress(step: int) -> Progress:
    return Progress(phase="tuning", phase_step=step, phase_steps=100, step=step, total=100)


def test_the_critic_tells_the_person_from_a_stranger_and_keeps_the_person():
    judge = MiniatureBackend()
    prompts = [prompt.replace("<v0>", "{}") for prompt, _ in world.test_prompts("<v0>")]
    told: list[str] = []
    critic = LikenessCritic(
        concept_of(PERSON), judge, judge, prompts, every=5, patience=Patience(looks=1),
        on_look=lambda seen: told.append(look_in_words(seen)),
    )  # fmt: skip
    assert critic.shots[0][0].count("<v0>") == 1 and len({seed for _, seed in critic.shots}) == len(prompts)
    assert critic.consider(progress(5), list(render_person(STRANGER)))
    assert critic.consider(progress(10), list(render_person(PERSON))) and not critic.enough
    assert not critic.consider(progress(15), list(render_person(STRANGER))) and critic.enough
    assert critic.looks[1].identity > critic.looks[0].identity + 0.3
    assert told[1].startswith("step 10: identity 0.") and len(curves(critic.looks)["prompt"]) == 3


def test_a_concept_without_faces_is_refused(tmp_path: Path):
    nobody = (Picture("wall", np.full((64, 64, 3), 200, np.uint8)),)
    write_concept(tmp_path / "noise", Concept("<v0>", "man", "subject", nobody))
    job = Job.from_json({"method": "textual-inversion", "output": str(tmp_path / "a.safetensors"),
                         "concepts": [{"folder": str(tmp_path / "noise")}]})  # fmt: skip
    with pytest.raises(LikenessError, match="no face was found"):
        critic_for(job, 5)


def test_the_judge_of_a_real_base_is_named_with_its_source_where_it_is_missing(tmp_path: Path):
    write_concept(tmp_path / "person", concept_of(PERSON))
    job = Job.from_json({"method": "textual-inversion", "output": str(tmp_path / "a.safetensors"),
                         "concepts": [{"folder": str(tmp_path / "person")}]})  # fmt: skip
    with pytest.raises(LikenessError, match="AuraFace"):
        critic_for(job, 5, miniature=False, packs=tmp_path)


class Scripted:
    """A critic that likes what it is told to like."""

    def __init__(self, liked: int, enough_at: int) -> None:
        self.every, self.shots, self.enough = 1, [("a photo of <v0>", 3)], False
        self.liked, self.enough_at, self.seen = liked, enough_at, []

    @property
    def scores(self) -> dict[str, float]:
        return {"looks": float(len(self.seen))}

    def memory(self):
        return {"liked": self.liked, "seen": self.seen}

    def recall(self, memory) -> bool:
        self.seen = [(step, tuple(shape)) for step, shape in memory["seen"]]
        return memory["liked"] == self.liked

    def consider(self, now: Progress, pictures) -> bool:
        self.seen.append((now.step, np.stack(pictures).shape))
        self.enough = now.step >= self.enough_at
        return now.step == self.liked


def test_training_ends_when_the_critic_has_seen_enough_and_writes_what_it_liked(tmp_path: Path):
    write_person(tmp_path / "person")
    base = tiny_base()
    critic = Scripted(liked=2, enough_at=3)
    found = Artifact.load(train(tiny_job("textual-inversion", tmp_path), base=base, critic=critic))
    assert [step for step, _ in critic.seen] == [1, 2, 3] and critic.seen[0][1] == (1, 32, 32, 3)
    assert found.steps == 2 and found.digest
    shorter = tiny_job("textual-inversion", tmp_path, "two", settings={"steps": 2, "schedule": "constant"})
    same = tiny_job("textual-inversion", tmp_path, "four", settings={"schedule": "constant"})
    kept = Artifact.load(train(same, base=base, critic=Scripted(liked=2, enough_at=4)))
    two = Artifact.load(train(shorter, base=base))
    assert torch.equal(kept.rows("<v0>")["clip_l"], two.rows("<v0>")["clip_l"])  # looking changed nothing


class Killed(Exception):
    pass


class Ending(Silent):
    """Kills the run in a step, or stops it politely there."""

    def __init__(self, step: int, politely: bool) -> None:
        self.step, self.politely, self.now, self.notes = step, politely, 0, list[str]()

    def on_step(self, progress, losses) -> None:
        self.now = progress.step
        if self.now == self.step and not self.politely:
            raise Killed

    def should_stop(self) -> bool:
        return self.politely and self.now == self.step

    def on_note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def learned_from(tmp_path_factory: pytest.TempPathFactory):
    """A folder with a person, a base, and the bytes of a run of which the first of four looks was best."""
    folder, base = tmp_path_factory.mktemp("people"), tiny_base()
    write_person(folder / "person")
    path = train(tiny_job("textual-inversion", folder), base=base, critic=Scripted(liked=1, enough_at=9))
    return folder, base, path.read_bytes()


def unlike(folder: Path, name: str, **changes) -> Job:
    return tiny_job("textual-inversion", folder, name, checkpoint_every=1, **changes)


@pytest.mark.parametrize("politely", [False, True], ids=["killed", "stopped in the midst of a look"])
def test_the_best_state_so_far_outlives_the_run(learned_from, politely: bool):
    folder, base, want = learned_from
    name, critic = f"me-{politely}", Scripted(liked=1, enough_at=9)
    try:
        train(unlike(folder, name), Ending(3, politely), base, Scripted(liked=1, enough_at=9))
    except Killed:
        pass
    path = train(unlike(folder, name, resume=True), base=base, critic=critic)
    assert [number for number, _ in critic.seen] == [1, 2, 3, 4]  # each once, over both runs
    assert path.read_bytes() == want


def test_looks_of_another_critic_are_not_gone_on_with(learned_from):
    folder, base, _ = learned_from
    train(unlike(folder, "other"), Ending(3, True), base, Scripted(liked=1, enough_at=9))
    critic, watch = Scripted(liked=4, enough_at=9), Ending(9, True)
    path = train(unlike(folder, "other", resume=True), watch, base, critic)
    assert Artifact.load(path).steps == 4
    assert any("judged otherwise before" in note for note in watch.notes)


def test_a_critic_goes_on_from_what_another_remembers():
    judge = MiniatureBackend()
    first, second, other = (
        LikenessCritic(concept_of(PERSON), judge, judge, prompts, every=5)
        for prompts in (["a photo of {}"], ["a photo of {}"], ["a painting of {}"])
    )
    first.consider(progress(5), list(render_person(PERSON))[:1])
    told = json.loads(json.dumps(first.memory()))
    assert second.recall(told) and second.looks == first.looks
    assert not other.recall(told) and other.looks == []
    for wrong in ({"step": 5, "identity": float("nan"), "prompt": 1.0}, {"step": 5, "identity": 0.5}):
        with pytest.raises(LikenessError, match="a look found"):
            other.recall({**other.memory(), "looks": [wrong]})


def test_a_run_that_nobody_liked_writes_its_end(tmp_path: Path):
    write_person(tmp_path / "person")
    job = tiny_job("textual-inversion", tmp_path)
    assert Artifact.load(train(job, base=tiny_base(), critic=Scripted(liked=9, enough_at=9))).steps == 4


def test_only_the_last_phase_is_looked_at(tmp_path: Path):
    write_person(tmp_path / "person")
    critic = Scripted(liked=4, enough_at=1)
    train(tiny_job("magictailor", tmp_path), base=tiny_base(), critic=critic)
    assert [step for step, _ in critic.seen] == [3]


def test_a_curve_that_cannot_be_written_ends_no_run(tmp_path: Path, capsys):
    write_concept(tmp_path / "person", concept_of(PERSON))
    (tmp_path / "a file").write_text("no folder")
    plain = {"method": "textual-inversion", "concepts": [{"folder": str(tmp_path / "person")}],
             "output": str(tmp_path / "me.safetensors")}  # fmt: skip
    seen: list[int] = []
    curve = tmp_path / "a file" / "me.likeness.png"
    judge = _critic(Job.from_json(plain), None, 1, curve, lambda step, _: seen.append(step))
    judge.consider(Progress(phase="tuning", phase_step=1, phase_steps=9, step=1, total=9),
                   [render_person(PERSON)[0]] * len(judge.shots))  # fmt: skip
    assert seen == [1] and len(judge.looks) == 1
    assert "learning goes on without the curve" in capsys.readouterr().err


def test_the_command_line_shows_the_curve_and_says_what_it_kept(tmp_path: Path, capsys):
    folder, output = write_concept(tmp_path / "person", concept_of(PERSON)), tmp_path / "p.safetensors"
    status = main(
        ["train", "textual-inversion", str(folder), "-o", str(output), "--steps", "1", "--batch-size", "1",
         "--stop-by-likeness", "1"]
    )  # fmt: skip
    told = capsys.readouterr().err
    assert status == 0 and "step 1: identity" in told
    assert "kept is step 1; the likeness still grew" in told and Artifact.load(output).steps == 1
    assert (tmp_path / "p.likeness.png").exists()
