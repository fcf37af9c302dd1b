"""What a node has read, the next one learns from: decoded once, and never stale."""

import os
from pathlib import Path

import pytest

from likeness_portraits.engine.config import ConceptSpec
from likeness_portraits.engine.data import at_hand, concepts
from likeness_portraits.engine.data.concepts import load_concept, write_concept
from likeness_portraits.engine.evaluation.people import concept_of
from likeness_portraits.engine.miniature import world


@pytest.fixture
def spec(tmp_path: Path) -> ConceptSpec:
    folder = write_concept(tmp_path / "anna", concept_of(world.TUNING_SEEDS[0]))
    return ConceptSpec(folder=str(folder), class_word="woman")


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    paths: list[Path] = []
    genuine = concepts.read_photograph
    monkeypatch.setattr(
        concepts, "read_photograph", lambda path, *told: paths.append(path) or genuine(path, *told)
    )
    return paths


def test_who_learns_takes_what_was_read_and_nobody_holds_it_longer(spec: ConceptSpec, decoded: list[Path]):
    at_hand.keep(spec, known := load_concept(spec))
    count = len(decoded)
    assert at_hand.read(spec) is known and at_hand.take(spec) is known and len(decoded) == count
    assert at_hand.take(spec) is not known and len(decoded) == 2 * count


def test_what_changed_meanwhile_is_read_again(spec: ConceptSpec, decoded: list[Path]):
    at_hand.keep(spec, known := load_concept(spec))
    picture = next(Path(spec.folder, "images").iterdir())
    os.utime(picture, ns=(1, 1))
    assert at_hand.take(spec) is not known


def test_little_waits(spec: ConceptSpec, monkeypatch):
    known = load_concept(spec)
    monkeypatch.setattr(at_hand, "ROOM", sum(one.pixels.nbytes + one.mask.nbytes for one in known.pictures))
    other = ConceptSpec(folder=spec.folder, class_word="person")
    at_hand.keep(spec, known)
    at_hand.keep(other, known)
    assert at_hand.read(spec) is not known and at_hand.take(other) is known
