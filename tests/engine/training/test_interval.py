"""Finding the noise levels at which a base sees the subject."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.interval import attention_overlap, band, measure_overlap
from likeness_portraits.tests.engine.tiny import tiny_base, write_person


def test_overlap_of_a_map_that_lies_on_the_mask_beside_it_and_half_on_it():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :4] = 1  # one of four cells of a 2 by 2 map
    maps = torch.tensor([[[0.9, 0.1], [0.0, 0.0]], [[0.1, 0.9], [0.0, 0.0]]])
    assert attention_overlap(maps, mask.expand(2, -1, -1, -1)).tolist() == [1.0, 0.0]
    mask[..., :4, :] = 1
    assert attention_overlap(torch.tensor([[[0.6, 0.1], [0.3, 0.0]]]), mask).tolist() == [
        pytest.approx(1 / 3)
    ]


def test_the_band_is_the_unbroken_stretch_around_the_peak():
    assert band([0.9, 0.1, 0.7, 1.0, 0.8, 0.2, 0.9], 0.7) == (2, 4)
    assert band([0.0, 0.0], 0.5) == (0, 1)


def test_the_interval_is_one_that_training_takes(tmp_path: Path):
    folder = write_person(tmp_path / "person")
    base, seen = tiny_base(), []
    base.attention_side = 4
    concept = load_concept(folder)
    found = measure_overlap(base, concept, points=5, check=lambda done, total: seen.append((done, total)))
    assert found.timesteps == [100, 300, 500, 700, 900] and seen[-1] == (5, 5)
    assert 0 <= found.interval[0] < found.interval[1] <= 1000
    assert all(0 <= value <= 1 for value in found.overlap)
    bare = replace(concept, pictures=tuple(replace(picture, mask=None) for picture in concept.pictures))
    with pytest.raises(LikenessError, match="none of the pictures has a mask"):
        measure_overlap(base, bare)


def test_the_command_prints_the_interval_and_draws_the_curve(tmp_path: Path, capsys):
    folder, plot = write_person(tmp_path / "person"), tmp_path / "curve.png"
    assert main(["interval", str(folder), "--points", "2", "--out", str(plot)]) == 0
    assert len(json.loads(capsys.readouterr().out)["overlap"]) == 2
    assert plot.exists()
