"""Mutated files at every door: each is read, or refused in one sentence that names it; nothing is run."""

import logging
import os
from pathlib import Path

import pytest

from likeness_portraits.tests.campaigns.campaign import SEED, Tally, numbered
from likeness_portraits.tests.campaigns.doors import GROUPS, Door, neighbours

FULL, THIN = 550, 5  # mutations for each door


def tried(door: Door, name: str, seed: int, count: int, folder: Path) -> Tally:
    """A door with so many mutations of what should lie there."""
    tally = Tally(name, seed)
    neighbours(folder)
    path = folder / door.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if door.held.whole is not None:  # else mutations of it would all be refused for what it is itself
        path.write_bytes(door.held.whole)
        door.read(path)
    for number, rng in numbered(name, seed, max(1, round(count * door.share))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.choice(door.held.mutations)(rng))
        tally.attempt(number, door.read, path, names=path.name if door.named else "")
    return tally


def whole_campaign(group: str, seed: int, count: int, folder: Path, monkeypatch, say) -> None:
    """All doors of a group; what comes of each is counted and said."""
    here = folder / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    logging.disable(logging.ERROR)
    total = Tally(group, seed)
    try:
        for name, door in GROUPS[group](folder).items():
            found = tried(door, name, seed, count, folder / name.replace(" ", "-").replace("'", ""))
            total.counts += found.counts
            total.foreign |= {f"{name}: {key}": told for key, told in found.foreign.items()}
            say(found.summary())
    finally:
        logging.disable(logging.NOTSET)
    assert os.listdir(here) == [], "something was run or written"
    total.close(say)


@pytest.mark.parametrize("group", GROUPS)
def test_a_few_mutated_files_are_read_or_refused_in_one_sentence(
    group: str, tmp_path: Path, monkeypatch, say
):
    whole_campaign(group, 0, THIN, tmp_path, monkeypatch, say)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("group", GROUPS)
def test_ten_thousand_mutated_files_are_read_or_refused_in_one_sentence(
    group: str, tmp_path: Path, monkeypatch, say
):
    whole_campaign(group, SEED, FULL, tmp_path, monkeypatch, say)
