"""Every method on every family of base models, learned and drawn with: tiny weights of the exact layout."""

from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.config import METHODS
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person

KINDS = {  # family, what it predicts, whether its noise ends in nothing but noise
    "sd1": ("sd1", "epsilon", False),
    "sd2": ("sd2", "epsilon", False),
    "sd2 velocity": ("sd2", "v_prediction", False),
    "sdxl": ("sdxl", "epsilon", False),
    "sdxl velocity": ("sdxl", "v_prediction", True),
}


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest) -> BaseModel:
    family, prediction, zero_snr = KINDS[request.param]
    return tiny_base(prediction, family=family, zero_snr=zero_snr)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_learns_on_each_family_and_draws_there(method: str, base: BaseModel, tmp_path: Path):
    write_person(tmp_path / "person")
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    artifact = Artifact.load(train(tiny_job(method, tmp_path), base=base))
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert artifact.base_family == base.family
    options = {"steps": 4, "guidance": 3.0, "seed": 1}
    drawn = generate(base, ["a photo of <v0>"], artifacts=[(artifact, 1.0)], **options)[0]
    plain = generate(base, ["a photo of woman"], **options)[0]
    assert drawn.shape == (32, 32, 3) and drawn.std() > 0
    assert np.abs(drawn.astype(int) - plain).max() > 0


def test_words_of_sdxl_are_learned_for_both_encoders(tmp_path: Path):
    write_person(tmp_path / "person")
    path = train(tiny_job("textual-inversion", tmp_path), base=tiny_base(family="sdxl"))
    rows = Artifact.load(path).rows("<v0>")
    assert {name: tuple(row.shape) for name, row in rows.items()} == {"clip_l": (2, 32), "clip_g": (2, 64)}
