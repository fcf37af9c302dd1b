"""Captions as training prompts, in every method."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.config import METHODS
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.engine.training.methods.base import Method
from likeness_portraits.tests.engine.tiny import tiny_job

WITH_WORDS = sorted(set(METHODS) - {"masterweaver"})


def caption(folder: Path, text: str = "a woman beside {} on a beach") -> None:
    for picture in (folder / "person" / "images").glob("*.png"):
        picture.with_suffix(".txt").write_text(text)


def method_of(name: str, base: BaseModel, folder: Path, **changes) -> Method:
    job = tiny_job(name, folder, **changes)
    return method_class(name)(job, base, [load_concept(one) for one in job.concepts])


@pytest.mark.parametrize("name", WITH_WORDS)
def test_every_method_learns_with_captions_and_with_the_same_noise(name, base, folder):
    bare = method_of(name, base, folder)
    caption(folder)
    told = method_of(name, base, folder)
    try:
        for phase in told.phases():
            if phase.name == "tuning" and name != "magicapture":  # would draw its class first
                indices, generator = torch.arange(4), torch.Generator().manual_seed(1)
                told_prompts = told.prompts(indices, generator)
                assert set(told_prompts) == {"a woman beside <v0> on a beach"}
                continue
            before, after = bare.batch(phase, 0), told.batch(phase, 0)
            assert torch.equal(before.noise, after.noise) and torch.equal(before.times, after.times)
            own = [text for text in after.prompts if "<v0>" in text and "<s0>" not in text]
            assert set(own) == {"a woman beside <v0> on a beach"}
            composed = [text for text in before.prompts if "<v0>" in text and "<s0>" in text]
            assert composed == [text for text in after.prompts if "<v0>" in text and "<s0>" in text]
    finally:
        bare.close()
        told.close()


def test_an_adapter_for_everybody_reads_captions_in_plain_words(base, folder):
    caption(folder)
    own = method_of("masterweaver", base, folder)._own
    assert {one.caption for one in own} == {"a woman beside a woman on a beach"}


def test_a_caption_too_long_to_look_into_is_refused_before_the_first_step(base, folder):
    caption(folder, "a photo " * 60)
    for name in ("personamagic", "magictailor", "magicapture"):
        with pytest.raises(LikenessError, match="can look into; shorten the caption or template"):
            train(tiny_job(name, folder), base=base)


def test_pictures_come_as_often_as_their_folder_says(base, folder):
    job = tiny_job("textual-inversion", folder)
    concept = load_concept(job.concepts[0])
    repeated = replace(concept.pictures[0], repeats=4)
    method = method_class(job.method)(
        job, base, [replace(concept, pictures=(repeated, *concept.pictures[1:]))]
    )
    (phase,) = method.phases()
    met = torch.cat([method.batch(phase, number).indices for number in range(7)])  # of two each: two rounds
    assert met.bincount().tolist() == [8, 2, 2, 2]


def test_methods_that_learn_words_alone_refuse_to_leave_them_out(base, folder):
    with pytest.raises(LikenessError, match="learns what words mean.*set caption_dropout to 0"):
        method_of("textual-inversion", base, folder, caption_dropout=0.1)


def test_dropped_and_shuffled_captions_resume_bit_for_bit(base, folder):
    caption(folder, "red, green, blue, {}")

    class Stops:
        def __init__(self, at: int) -> None:
            self.at, self.step = at, 0

        def on_step(self, progress, losses) -> None:
            self.step = progress.step

        def on_preview(self, progress, image) -> None: ...

        def should_stop(self) -> bool:
            return self.step == self.at

    how = {"caption_dropout": 0.3, "caption_shuffle": True, "caption_keep": 1}
    whole = Artifact.load(train(tiny_job("dreambooth-lora", folder, "whole", **how), base=base))
    train(tiny_job("dreambooth-lora", folder, "broken", **how), Stops(2), base=base)
    again = Artifact.load(train(tiny_job("dreambooth-lora", folder, "broken", resume=True, **how), base=base))
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in whole.tensors.items())
    plain = Artifact.load(train(tiny_job("dreambooth-lora", folder, "plain"), base=base))
    assert any(not torch.equal(tensor, plain.tensors[name]) for name, tensor in whole.tensors.items())
