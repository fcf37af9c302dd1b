"""The second Miniature's shipped weights: complete, small, and as good as their card says."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bench import card
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.miniature import judges, model, second, world

pytest.importorskip("transformers.models.qwen3")
pytestmark = pytest.mark.skipif(bool(second.missing_weights()), reason="they are not part of this checkout")


@pytest.fixture(scope="module")
def shipped() -> dict:
    return second.second_card()


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(BaseSpec(kind="miniature-2"))


@pytest.fixture(scope="module")
def renders() -> card.Renders:
    return card.render_people(world.REPORTING_SEEDS[:4])


def test_both_miniatures_together_stay_below_fifty_megabytes(shipped):
    networks = (*model.NETWORKS, *second.SECOND_NETWORKS)
    size = sum(model.weights_file(name).stat().st_size for name in networks) / 1e6
    assert size <= 50 and shipped["size_of_both_mb"] == pytest.approx(size, abs=0.1)


def test_the_card_belongs_to_these_weights(shipped, base):
    assert shipped["fingerprint"] == second.second_fingerprint() == base.fingerprint
    assert shipped["digests"] == card.digests(second.SECOND_NETWORKS)
    learned = shipped["learnability"]
    assert learned is None or learned["fingerprint"] == base.fingerprint


@pytest.mark.parametrize("name", second.SECOND_NETWORKS)
def test_weights_are_finite_half_precision(name: str):
    stored = load_file(model.weights_file(name)).values()
    assert all(tensor.dtype == torch.float16 and torch.isfinite(tensor).all() for tensor in stored)


def test_the_autoencoder_is_as_good_as_the_card_says_and_its_latents_are_of_unit_weight(
    shipped, base, renders
):
    found = card.autoencoder_scores(base, renders)
    assert found["face_psnr"] == pytest.approx(shipped["autoencoder"]["face_psnr"], abs=2.0)  # 4 people of 50
    latents = base.encode_pixels(judges.to_tensor(renders.pixels))
    assert abs(float(latents.mean())) < 0.2 and 0.8 < float(latents.std()) < 1.2


def test_prompts_are_obeyed_as_the_card_says(shipped, base, renders):
    asked = list(range(0, 24, 4))
    pictures = generate(base, [renders.captions[k] for k in asked], steps=12, seed=asked)
    read = card.reading_accuracy(judges.load_judges(), pictures, [renders.truths[k] for k in asked])
    known = shipped["transformer"]["accuracy"]
    assert np.mean(list(read.values())) >= np.mean(list(known.values())) - 0.2
