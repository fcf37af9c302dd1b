"""The shipped weights: complete, small, loadable into standard classes, and as good as the card says."""

import json
import time

import numpy as np
import pytest
import torch

from likeness_portraits.engine.bench import card
from likeness_portraits.engine.miniature import judges, model, world


@pytest.fixture(scope="module")
def shipped() -> dict:
    return model.card()


@pytest.fixture(scope="module")
def renders() -> card.Renders:
    return card.render_people(world.REPORTING_SEEDS[:16])


@pytest.fixture(scope="module")
def all_judges() -> judges.Judges:
    return judges.load_judges()


def test_all_weights_together_stay_below_thirty_megabytes(shipped):
    size = sum(model.weights_file(name).stat().st_size for name in model.NETWORKS) / 1e6
    assert size <= 30
    assert shipped["size_mb"] == pytest.approx(size, abs=0.1)


def test_the_card_belongs_to_these_weights(shipped):
    assert shipped["fingerprint"] == model.fingerprint()
    assert shipped["digests"] == card.digests()
    learned = shipped["learnability"]
    assert learned is None or learned["fingerprint"] == model.fingerprint()


def test_loading_and_drawing_are_quick(shipped):
    """Processor time on one thread: what else the machine does hardly changes it."""
    from likeness_portraits.engine.bases.base import load_base
    from likeness_portraits.engine.config import BaseSpec
    from likeness_portraits.engine.inference.generate import generate

    assert shipped["seconds"]["loading"] <= 1 and shipped["seconds"]["picture"] <= 2
    base = load_base(BaseSpec())  # libraries are loaded now

    def seconds(action) -> float:
        times = []
        for _ in range(3):
            began = time.process_time()
            action()
            times.append(time.process_time() - began)
        return min(times)

    assert seconds(lambda: load_base(BaseSpec())) <= 2
    assert seconds(lambda: generate(base, ["a photo of a man"], steps=25)) <= 4  # two seconds on two cores


@pytest.mark.parametrize("name", model.NETWORKS)
def test_weights_are_finite_half_precision(name: str):
    tensors = model.state_dict(name)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_the_autoencoder_is_as_good_as_the_card_says(shipped, renders):
    from likeness_portraits.engine.bases.base import load_base
    from likeness_portraits.engine.config import BaseSpec

    found = card.autoencoder_scores(load_base(BaseSpec()), renders)
    assert found["face_psnr"] == pytest.approx(shipped["autoencoder"]["face_psnr"], abs=1.0)


def test_latents_are_standard_under_sds_scale(renders):
    from likeness_portraits.engine.bases.base import load_base
    from likeness_portraits.engine.config import BaseSpec

    latents = load_base(BaseSpec()).encode_pixels(judges.to_tensor(renders.pixels[:16]))
    assert abs(float(latents.mean())) < 0.2 and 0.8 < float(latents.std()) < 1.2


@pytest.mark.parametrize("which", ["recogniser", "reporting_recogniser"])
def test_recognisers_are_as_good_as_the_card_says(which: str, shipped, renders, all_judges):
    embed = all_judges.embed if which == "recogniser" else all_judges.embed_reporting
    found = card.recogniser_scores(embed(renders.pixels), renders.person)
    assert found["auc"] == pytest.approx(shipped[which]["auc"], abs=0.02)
    assert found["same_person"] == pytest.approx(shipped[which]["same_person"], abs=0.1)


def test_the_parser_is_as_good_as_the_card_says(shipped, renders, all_judges):
    assert card.parser_score(all_judges, renders) == pytest.approx(shipped["parser"]["mean_iou"], abs=0.05)


def test_the_reader_is_as_good_as_the_card_says(shipped, renders, all_judges):
    found = card.reading_accuracy(all_judges, renders.pixels, renders.truths)
    assert np.mean(list(found.values())) == pytest.approx(np.mean(list(shipped["reader"].values())), abs=0.05)


def test_the_image_tower_tells_captions_apart(shipped):
    found = card.retrieval_scores(world.REPORTING_SEEDS[:10])
    expected = shipped["clip"]["retrieval"]
    assert np.mean(list(found.values())) == pytest.approx(np.mean(list(expected.values())), abs=0.1)


@pytest.mark.slow
def test_the_whole_card_can_be_computed_again(shipped):
    found = card.measure_card()
    for name, share in shipped["unet"]["accuracy"].items():
        assert found["unet"]["accuracy"][name] == pytest.approx(share, abs=0.03)
    assert json.dumps(found["recogniser"]) == json.dumps(shipped["recogniser"])
