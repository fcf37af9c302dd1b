"""Which pictures, prompts and losses Textual Inversion and DreamBooth-LoRA train with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.config import Job
from likeness_portraits.engine.data.concepts import Concept, Picture
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.class_pictures import ClassPictures
from likeness_portraits.engine.training.methods.baselines import DreamBoothLora, TextualInversion
from likeness_portraits.engine.training.methods.custom_diffusion import CustomDiffusion
from likeness_portraits.engine.training.observer import Progress
from likeness_portraits.tests.engine.tiny import SIZE, tiny_base, tiny_job

START = Progress(phase="p", phase_step=0, phase_steps=4, step=0, total=4)


def picture(seed: int) -> Picture:
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[8:24, 8:24] = 1
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    return Picture(str(seed), pixels, mask)


ANNA = Concept("<v0>", "woman", "subject", (picture(0), picture(1)))
BEN = Concept("<v1>", "man", "subject", (picture(2), picture(3)))


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def unchecked() -> None:
    pass


def dreambooth(base, concepts, folder: Path, **settings) -> DreamBoothLora:
    method = DreamBoothLora(tiny_job("dreambooth-lora", folder, settings=settings), base, concepts)
    method.prepare(unchecked)
    return method


def test_each_picture_comes_with_a_prompt_that_names_its_concept(base, tmp_path):
    method = dreambooth(base, [ANNA, BEN], tmp_path, prior_pictures=3, batch_size=4, prior_batch_size=6)
    try:
        batch = method.batch(method.phases()[0], 0)
        assert batch.prior.tolist() == [False] * 4 + [True] * 6
        for prompt, owner, prior in zip(batch.prompts, batch.concepts.tolist(), batch.prior.tolist()):
            name = ("woman", "man")[owner] if prior else ("<v0>", "<v1>")[owner]
            assert prompt.endswith(name) and ("a " + name in prompt) == prior
        assert sorted(batch.indices.tolist()) == list(range(10))
    finally:
        method.close()


def test_class_pictures_keep_the_prompt_they_were_drawn_from(base, tmp_path):
    templates = ["a photo of a {}", "a drawing of a {}"]
    method = dreambooth(base, [ANNA, BEN], tmp_path, prior_pictures=3, prior_batch_size=6,
                        prior_templates=templates)  # fmt: skip
    try:
        batch = method.batch(method.phases()[0], 0)
        seen = dict(zip(batch.indices.tolist(), batch.prompts))
        women = [seen[4], seen[5], seen[6]]
        assert women == ["a photo of a woman", "a drawing of a woman", "a photo of a woman"]
        assert seen[7] == "a photo of a man"
    finally:
        method.close()


@pytest.mark.parametrize("kind", [DreamBoothLora, CustomDiffusion])
def test_class_pictures_drawn_late_are_the_untouched_bases(base, tmp_path, kind):
    name = {DreamBoothLora: "dreambooth-lora", CustomDiffusion: "custom-diffusion"}[kind]
    job = tiny_job(name, tmp_path, settings={"prior_pictures": 10, "batch_size": 1, "prior_batch_size": 1})
    method = kind(job, base, [ANNA])
    wanted = ClassPictures(method, "woman", (SIZE, SIZE), 10).all(unchecked)
    method.prepare(unchecked)
    try:
        assert not method.examples.pixels[method.examples.prior].any()  # none is there before a step asks
        for weight in (weight for group in method.parameter_groups().values() for weight in group):
            torch.nn.init.normal_(weight)
        for number in range(10):
            method.ensure_ready(method.phases()[0], number, unchecked)
        assert torch.equal(method.examples.pixels[method.examples.prior], wanted)
        assert all(weight.requires_grad for group in method.parameter_groups().values() for weight in group)
    finally:
        method.close()


def test_kept_class_pictures_are_used_again_and_made_again_where_they_are_damaged(base, tmp_path, caplog):
    cache, host = tmp_path / "cache", tmp_path / "host.safetensors"
    host.write_bytes(b"a LoRA")
    job = tiny_job("dreambooth-lora", tmp_path, cache=str(cache), on=[str(host)])
    method = DreamBoothLora(job, base, [ANNA])
    wanted = ClassPictures(method, "woman", (SIZE, SIZE), 2).all(unchecked)
    (file,) = cache.iterdir()
    whole, drawn = file.read_bytes(), []
    method.drawn_at = lambda *given: drawn.append(given) or pytest.fail("they are there")
    assert torch.equal(ClassPictures(method, "woman", (SIZE, SIZE), 2).all(unchecked), wanted)
    del method.drawn_at
    for damage in (whole[:100], b"", whole[:-5]):
        file.write_bytes(damage)
        assert torch.equal(ClassPictures(method, "woman", (SIZE, SIZE), 2).all(unchecked), wanted)
        assert file.read_bytes() == whole
    assert caplog.text.count("the pictures are drawn again") == 3
    host.write_bytes(b"another")  # of the same name, so that others are drawn
    ClassPictures(method, "woman", (SIZE, SIZE), 2).all(unchecked)
    assert len(list(cache.iterdir())) == 2


def test_without_prior_weight_no_class_pictures_are_drawn(base, tmp_path):
    method = dreambooth(base, [ANNA], tmp_path, prior_weight=0.0)
    try:
        assert len(method.examples) == 2
        batch = method.batch(method.phases()[0], 0)
        assert set(method(batch, START)) == {"diffusion"}
    finally:
        method.close()


def test_before_training_lora_and_token_change_nothing(base, tmp_path):
    method = dreambooth(base, [ANNA], tmp_path)
    try:
        batch = method.batch(method.phases()[0], 0)
        with torch.no_grad():
            losses = method(batch, START)
            plain = TextualInversion(tiny_job("textual-inversion", tmp_path), base, [ANNA])
            noisy = base.process.add_noise(method.latents(batch), batch.noise, batch.times)
        prompts = [prompt.replace("<v0>", "woman") for prompt in batch.prompts]
    finally:
        method.close()
    with torch.no_grad():
        errors = base.predict(noisy, batch.times, base.encode_text(prompts)) - batch.noise
    each = errors.square().flatten(1).mean(1) * base.process.loss_weight(batch.times, 5.0)
    assert plain.settings.masked_loss  # the Miniature's preset masks; prior pictures have full masks
    torch.testing.assert_close(losses["prior"], each[batch.prior].mean(), atol=1e-5, rtol=1e-4)


def test_outside_the_mask_nothing_is_learned_when_the_background_weighs_nothing(base, tmp_path):
    settings = {"masked_loss": True, "background_weight": 0.0}
    method = TextualInversion(tiny_job("textual-inversion", tmp_path, settings=settings), base, [ANNA])
    method.prepare(unchecked)
    batch = method.batch(method.phases()[0], 0)
    outside = torch.ones(1, 1, 8, 8)
    outside[..., 2:6, 2:6] = 0
    target = base.process.target
    try:
        with torch.no_grad():
            before = method(batch, START)["diffusion"]
            base.process.target = lambda *given: target(*given) + 7 * outside
            assert torch.equal(method(batch, START)["diffusion"], before)
            base.process.target = lambda *given: target(*given) + 7 * (1 - outside)
            assert method(batch, START)["diffusion"] > before + 1
    finally:
        del base.process.target


def test_a_resolution_that_does_not_fit_is_refused_before_any_work(base, tmp_path):
    with pytest.raises(LikenessError, match="multiples of 4"):
        TextualInversion(tiny_job("textual-inversion", tmp_path, resolution=33), base, [ANNA])


def test_the_same_job_draws_the_same_batches_and_another_seed_others(base, tmp_path):
    def noise(seed: int) -> torch.Tensor:
        job: Job = tiny_job("textual-inversion", tmp_path, seed=seed)
        method = TextualInversion(job, base, [ANNA])
        return method.batch(method.phases()[0], 3).noise

    assert torch.equal(noise(1), noise(1))
    assert not torch.equal(noise(1), noise(2))
