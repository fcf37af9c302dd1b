"""What a node has read, the next one learns from: decoded once, and never stale."""

import os
from pathlib import Path

import pytest

from likeness_portraits.engine.config import ConceptSpec
from likeness_portraits.engine.data import at_hand, concepts
from likeness_portraits.engine.data.at_hand import keep_at_hand, read_at_hand, take_at_hand
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
    keep_at_hand(spec, known := load_concept(spec))
    count = len(decoded)
    assert read_at_hand(spec) is known and take_at_hand(spec) is known and len(decoded) == count
    assert take_at_hand(spec) is not known and len(decoded) == 2 * count


def test_what_changed_meanwhile_is_read_again(spec: ConceptSpec, decoded: list[Path]):
    keep_at_hand(spec, known := load_concept(spec))
    picture = next(Path(spec.folder, "images").iterdir())
    os.utime(picture, ns=(1, 1))
    assert take_at_hand(spec) is not known


def test_little_waits(spec: ConceptSpec, monkeypatch):
    known = load_concept(spec)
    monkeypatch.setattr(at_hand, "_ROOM", sum(one.pixels.nbytes + one.mask.nbytes for one in known.pictures))
    other = ConceptSpec(folder=spec.folder, class_word="person")
    keep_at_hand(spec, known)
    keep_at_hand(other, known)
    assert read_at_hand(spec) is not known and take_at_hand(other) is known
