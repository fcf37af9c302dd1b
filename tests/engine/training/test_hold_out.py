"""Pictures that are not learned from: which they are, the loss and the likeness to them, and copying."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.data.concepts import Concept, Picture, load_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.metrics import nearest_similarity, own_nearness
from likeness_portraits.engine.evaluation.stopping import LikenessCritic, LikenessLook, look_in_words
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.observer import Progress
from likeness_portraits.engine.training.validation import learned_worst
from likeness_portraits.tests.engine.tiny import tiny_job


class Listener:
    """Keeps what it hears; may stop the run."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.step = stop_at, 0
        self.notes: list[str] = []
        self.scores: dict[int, float] = {}

    def on_step(self, progress, losses) -> None:
        self.step = progress.step

    def on_preview(self, progress, image) -> None: ...

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_scores(self, progress, scores) -> None:
        self.scores[progress.step] = scores["validation"]

    def should_stop(self) -> bool:
        return self.step == self.stop_at


def test_the_same_pictures_are_held_out_in_any_order(folder):
    concept = load_concept(folder / "person")
    parted = concept.held_out(1, seed=7)
    assert len(parted.held) == 1 and len(parted.pictures) == 3
    turned = Concept("<v0>", "woman", "subject", concept.pictures[::-1]).held_out(1, seed=7)
    assert [one.name for one in turned.held] == [one.name for one in parted.held]
    renamed = tuple(replace(one, name=str(n), captions=("x",)) for n, one in enumerate(concept.pictures))
    again = replace(concept, pictures=renamed).held_out(1, seed=7)
    assert again.held[0].pixels is parted.held[0].pixels
    assert parted.held_out(1, seed=8) is parted and concept.held_out(0, seed=7) is concept
    assert len({concept.held_out(1, seed).held[0].name for seed in range(12)}) > 1
    with pytest.raises(LikenessError, match="4 of the 4 pictures of <v0> cannot be held out"):
        concept.held_out(4, seed=7)


def test_a_held_out_picture_teaches_nothing_and_its_loss_is_told_also_after_a_resume(base, folder):
    concept = load_concept(folder / "person")
    held = concept.held_out(1, seed=7).held[0].name
    listener = Listener()
    whole = Artifact.load(train(tiny_job("dreambooth-lora", folder, hold_out=1), listener, base))
    assert any(note.startswith(f"held out, not learned from: {held};") for note in listener.notes)
    assert sorted(listener.scores) == [1, 2, 3, 4] and len(set(listener.scores.values())) == 4
    assert any(note.startswith("loss by picture, worst first:") for note in listener.notes)
    assert whole.about["pictures"] == 3

    train(tiny_job("dreambooth-lora", folder, "broken", hold_out=1), Listener(stop_at=2), base)
    later = Listener()
    again = Artifact.load(
        train(tiny_job("dreambooth-lora", folder, "broken", hold_out=1, resume=True), later, base)
    )
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in whole.tensors.items())
    assert {step: later.scores[step] for step in (3, 4)} == {step: listener.scores[step] for step in (3, 4)}

    (folder / "person" / "images" / f"{held}.png").unlink()
    (folder / "person" / "masks" / f"{held}.png").unlink()
    without = Artifact.load(train(tiny_job("dreambooth-lora", folder, "without"), Listener(), base))
    assert all(torch.equal(tensor, without.tensors[name]) for name, tensor in whole.tensors.items())


@pytest.mark.parametrize("method", ["magictailor", "magicapture", "textual-inversion"])
def test_methods_that_read_words_as_they_are_have_a_validation_loss(method, base, folder):
    listener = Listener(stop_at=1)
    train(tiny_job(method, folder, hold_out=1), listener, base)
    assert list(listener.scores) == [1] and listener.scores[1] > 0


def test_a_job_without_pictures_holds_none_out(folder):
    with pytest.raises(LikenessError, match="hold_out is of a concept's pictures"):
        tiny_job("masterweaver", folder, concepts=[], settings={"shards": "x.tar"}, hold_out=1)


# ---- copying


def test_nearness_is_what_it_is_by_hand():
    east, north, between = [1.0, 0.0], [0.0, 1.0], [np.sqrt(0.5), np.sqrt(0.5)]
    assert nearest_similarity([between, east], [east, north]) == pytest.approx([np.sqrt(0.5), 1.0])
    assert own_nearness([east, north, between]) == pytest.approx(np.sqrt(0.5))


class Compass:
    """A judge whose pictures say where their face points: degrees in the first pixel; 255 is nobody."""

    name = "compass"

    def faces(self, pictures):
        angles = np.radians([float(picture[0, 0, 0]) for picture in pictures])
        found = np.array([picture[0, 0, 0] != 255 for picture in pictures])
        return np.stack([np.cos(angles), np.sin(angles)], 1), found


def pointing(*degrees: int) -> tuple[Picture, ...]:
    return tuple(Picture(str(d), np.full((4, 4, 3), d, np.uint8)) for d in degrees)


def critic(learned: tuple[Picture, ...], held: tuple[Picture, ...] = ()) -> LikenessCritic:
    concept = Concept("<v0>", "woman", "subject", learned, held=held)
    return LikenessCritic(concept, Compass(), None, ["a photo of {}"], every=1)


def looked(judge: LikenessCritic, degrees: int) -> LikenessLook:
    progress = Progress(phase="tuning", phase_step=1, phase_steps=9, step=1, total=9)
    judge.consider(progress, [pointing(degrees)[0].pixels])
    return judge.looks[-1]


def test_likeness_is_to_the_held_out_and_a_copy_of_a_training_picture_is_called_one():
    judge = critic(pointing(0, 60), held=pointing(30))
    copied, drawn = looked(judge, 0), looked(judge, 30)
    assert copied.identity == pytest.approx(np.cos(np.radians(30)))  # as like the held-out one as a real one
    assert copied.copying == pytest.approx(1 - np.cos(np.radians(30))) and copied.copying > 0.1
    assert drawn.identity == pytest.approx(1.0) and drawn.copying == pytest.approx(0.0)
    assert look_in_words([copied]) == "step 1: identity 0.87, copying +0.13"
    assert judge.scores["copying"] == pytest.approx(0.0) and judge.best is drawn
    assert looked(judge, 255).copying is None


def test_without_held_out_pictures_looks_are_as_they_were():
    judge = critic(pointing(0, 60))
    assert looked(judge, 30).copying is None and "copying" not in judge.scores
    assert "held_out" not in judge.memory()


def test_a_critic_with_other_held_out_pictures_does_not_go_on_from_these_looks():
    judge = critic(pointing(0, 60), held=pointing(30))
    looked(judge, 10)
    memory = json.loads(json.dumps(judge.memory()))
    assert critic(pointing(0, 60), held=pointing(30)).recall(memory)
    assert not critic(pointing(0, 30), held=pointing(60)).recall(memory)


def test_held_out_pictures_without_a_face_are_refused():
    with pytest.raises(LikenessError, match="no face was found in the held-out pictures of <v0>"):
        critic(pointing(0, 60), held=pointing(255))


def test_the_picture_that_is_learned_worst_is_named_where_it_stands_out():
    text = learned_worst(["a", "b", "c"], [0.1, 0.4, 0.12])
    assert text == "loss by picture, worst first: b 0.400, c 0.120, a 0.100; b is learned worst: look at it"
    assert "look at it" not in learned_worst(["a", "b"], [0.1, 0.11])
