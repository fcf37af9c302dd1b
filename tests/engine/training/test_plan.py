"""The line that says what a run will really do."""

import numpy as np

from likeness_portraits.engine.config import METHODS, ConceptSpec, Job
from likeness_portraits.engine.config.phase import Phase
from likeness_portraits.engine.data.concepts import Concept, Picture
from likeness_portraits.engine.training.plan import plan_in_words

PIXELS = np.zeros((8, 8, 3), np.uint8)
PEOPLE = Concept("<v0>", "woman", "subject", (Picture("a", PIXELS, PIXELS[..., 0]), Picture("b", PIXELS)))


def job(method: str, **changes: object) -> Job:
    settings = METHODS[method](**changes)
    spec = ConceptSpec(folder="pictures")
    return Job(method=method, concepts=(spec,), output="x.safetensors", settings=settings, precision="bf16")


def test_a_run_is_told_with_steps_rates_size_and_pictures_in_one_line():
    phase = Phase(
        name="training", steps=800, learning_rates={"unet": 1e-4, "text_encoder": 0.0, "tokens": 5e-4}
    )
    told = plan_in_words(job("dreambooth-lora", rank=8, masked_loss=True), [phase], [PEOPLE], [768, 512])
    assert told == (
        "dreambooth-lora · 800 steps · learning rate unet 0.0001, tokens 0.0005 · rank 8 · 1 vector · "
        "text encoder off · 64 class pictures · bf16 · 768 and 512 px · inside masks only · 2 pictures, 1 "
        "with masks"
    )


def test_phases_are_told_one_by_one_and_nothing_is_said_of_what_a_method_lacks():
    phases = [Phase(name="warm-up", steps=200, learning_rates={"lora": 1e-4, "tokens": 1e-4}),
              Phase(name="balancing", steps=300, learning_rates={"lora": 1e-5, "tokens": 1e-5})]  # fmt: skip
    told = plan_in_words(job("textual-inversion", vectors=2), phases, [], [128])
    assert told == (
        "textual-inversion · 200 warm-up + 300 balancing steps · learning rate 0.0001 → 1e-05 · 2 vectors · "
        "bf16 · 128 px"
    )
