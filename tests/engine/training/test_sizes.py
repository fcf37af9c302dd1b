"""Pictures of any proportions, mirrored pictures, and ways to a faster step that learn the same."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import load_base
from likeness_portraits.engine.bases.loaders.random_base import random_base
from likeness_portraits.engine.config import METHODS, BaseSpec, Job
from likeness_portraits.engine.data.concepts import Concept, Picture, load_concept, write_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.faster import compilable
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.engine.training.methods.base import Method, checked_size
from likeness_portraits.engine.training.observer import Silent
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person

SHAPES = ((60, 40), (40, 60), (50, 50), (90, 60), (64, 32))  # pictures' heights and widths
IN_BUCKETS = ("textual-inversion", "dreambooth-lora", "custom-diffusion", "personamagic")
SQUARE_ONLY = sorted(set(METHODS) - set(IN_BUCKETS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shapes(tmp_path)


def write_shapes(folder: Path) -> Path:
    """A person in pictures of several proportions, with masks."""
    random = np.random.default_rng(3)
    pictures = []
    for number, (height, width) in enumerate(SHAPES):
        mask = np.zeros((height, width), np.float32)
        mask[height // 4 : -height // 4, width // 4 : -width // 4] = 1
        pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
        pictures.append(Picture(name=f"{number}", pixels=pixels, mask=mask))
    write_concept(folder / "person", Concept("<v0>", "woman", "subject", tuple(pictures)))
    return folder


def learner(job: Job, base: Any) -> Method:
    return method_class(job.method)(job, base, [load_concept(concept) for concept in job.concepts])


class StopAt(Silent):
    def __init__(self, step: int) -> None:
        self.step, self.now = step, 0
        self.notes: list[str] = []

    def on_step(self, progress: Any, losses: Any) -> None:
        self.now = progress.step

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def should_stop(self) -> bool:
        return self.now == self.step


@pytest.mark.parametrize("method", IN_BUCKETS)
def test_a_method_learns_from_pictures_of_all_proportions_and_resumes_bit_for_bit(method: str, folder: Path):
    base, shapes = tiny_base(), Counter()
    base.unet.register_forward_pre_hook(
        lambda module, inputs: shapes.update([tuple(inputs[0].shape[-2:])] * torch.is_grad_enabled())
    )
    changes = {"settings": {"steps": 8, "masked_loss": True}}
    whole = Artifact.load(train(tiny_job(method, folder, "whole", **changes), base=base))
    assert set(shapes) == {(10, 6), (6, 10), (8, 8)}  # latents: a quarter of 40 x 24, 24 x 40, 32 x 32
    watcher = StopAt(3)
    train(tiny_job(method, folder, "part", **changes), watcher, base)
    assert "pictures in buckets: 3 of 24 x 40" in " ".join(watcher.notes)
    rest = Artifact.load(train(tiny_job(method, folder, "part", resume=True, **changes), base=base))
    assert rest.steps == 8
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, rest.tensors[name]), name


def test_each_picture_is_learned_at_each_of_several_resolutions_and_a_resume_is_exact(folder: Path):
    base, shapes = tiny_base(), Counter()
    base.unet.register_forward_pre_hook(
        lambda module, inputs: shapes.update([tuple(inputs[0].shape[-2:])] * torch.is_grad_enabled())
    )
    changes = {"resolution": "32,24", "settings": {"steps": 10, "batch_size": 1, "prior_batch_size": 1}}
    whole = Artifact.load(train(tiny_job("dreambooth-lora", folder, "whole", **changes), base=base))
    large = {(10, 6), (6, 10), (8, 8)}  # of 32 x 32 pixels; of 24 x 24:
    assert large < set(shapes) and {h * w for h, w in set(shapes) - large} <= set(range(24, 37))
    assert sum(shapes[size] for size in large) == sum(shapes[size] for size in set(shapes) - large) == 5
    watcher = StopAt(3)
    train(tiny_job("dreambooth-lora", folder, "part", **changes), watcher, base)
    assert "32 and 24 px" in " ".join(watcher.notes)
    rest = Artifact.load(
        train(tiny_job("dreambooth-lora", folder, "part", resume=True, **changes), base=base)
    )
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, rest.tensors[name]), name


@pytest.mark.parametrize("method", IN_BUCKETS)
def test_captions_repeats_and_features_go_with_a_picture_into_all_resolutions(method: str, folder: Path):
    (folder / "person" / "images" / "1.txt").write_text("at sea")
    learning: Any = learner(tiny_job(method, folder, resolution=[24, 32]), tiny_base())
    assert learning.size == 32 and len(learning.examples) == 10
    assert [bool(choices) for choices in learning.captions] == [n % 5 == 1 for n in range(10)]
    once = learner(tiny_job(method, folder, resolution=24, buckets=True), tiny_base())
    same = torch.equal(learning.examples.pixels[torch.tensor([6])], once.examples.pixels[torch.tensor([1])])
    assert same and (learning.examples.prior == False).all()  # noqa: E712
    learning.close()


def test_several_resolutions_are_refused_where_there_can_be_but_one_and_are_read_as_people_write_them(
    folder: Path,
):
    for method, settings in (("magictailor", {}), ("personamagic", {"squash": True})):
        job = tiny_job(method, folder, resolution="24,32", settings=settings)
        with pytest.raises(LikenessError, match=f"{method} needs all .* one resolution; give one"):
            learner(job, tiny_base())
    for written, sides in (("512, 768", (768, 512)), ([512, "768"], (768, 512)), ("512", ()), ([512], ())):
        job = tiny_job("textual-inversion", folder, resolution=written)
        assert job.resolutions == sides and job.resolution == (768 if sides else 512)
        assert Job.from_json(job.to_json()) == job
    for wrong, said in (("512,many", "must be a whole number"), ("4,512", "8 or more"),
                        (list(range(64, 640, 64)), "8 at most")):  # fmt: skip
        with pytest.raises(LikenessError, match=said):
            tiny_job("textual-inversion", folder, resolution=wrong)


def test_pictures_of_one_shape_are_learned_in_that_shape(tmp_path: Path):
    pictures = tuple(Picture(str(i), np.full((60, 40, 3), 50 * i, np.uint8)) for i in range(3))
    write_concept(tmp_path / "person", Concept("<v0>", "woman", "subject", pictures))
    base, shapes = tiny_base(), set()
    base.unet.register_forward_pre_hook(
        lambda module, inputs: shapes.add((tuple(inputs[0].shape[-2:]), torch.is_grad_enabled()))
    )
    train(tiny_job("dreambooth-lora", tmp_path), base=base)
    assert shapes == {((10, 6), True), ((10, 6), False)}  # learning, and drawing pictures of the class


def test_a_bucket_has_class_pictures_of_its_own_size(folder: Path):
    method: Any = learner(tiny_job("dreambooth-lora", folder, settings={"prior_pictures": 8}), tiny_base())
    method.prepare(lambda: None)
    own = Counter(
        tuple(p.shape[1:]) for p, prior in zip(method.examples.pixels, method.examples.prior) if not prior
    )
    prior = Counter(
        tuple(p.shape[1:]) for p, prior in zip(method.examples.pixels, method.examples.prior) if prior
    )
    assert own.keys() == prior.keys() and sum(prior.values()) in (7, 8, 9)
    (phase,) = method.phases()
    for number in range(5):
        batch = method.batch(phase, number)
        assert batch.prior.tolist() == [False, False, True, True]
        assert all("<v0>" not in prompt and "woman" in prompt for prompt in batch.prompts[2:])
        assert method.latents(batch).shape[-2:] == batch.noise.shape[-2:]
    method.close()


@pytest.mark.parametrize("method", SQUARE_ONLY)
def test_methods_that_need_one_size_crop_squares_and_refuse_buckets_in_words(method: str, folder: Path):
    with pytest.raises(LikenessError, match=f"{method} needs all pictures in one size.*buckets to false"):
        learner(tiny_job(method, folder, buckets=True), tiny_base())
    assert set(learner(tiny_job(method, folder), tiny_base()).examples.pixels.shape[-2:]) == {32}


def test_buckets_are_off_on_the_miniature_and_where_they_are_not_wanted(folder: Path):
    square = learner(tiny_job("textual-inversion", folder, buckets=False), tiny_base())
    assert tuple(square.examples.pixels.shape) == (5, 3, 32, 32)
    small = learner(tiny_job("textual-inversion", folder), load_base(BaseSpec()))
    assert tuple(small.examples.pixels.shape) == (5, 3, 128, 128)
    asked = learner(tiny_job("textual-inversion", folder, buckets=True), load_base(BaseSpec()))
    assert len(asked.examples.pixels.parts) == 3


def test_real_bases_learn_at_multiples_of_64_up_to_1536():
    for arch in ("sd15", "sdxl"):
        base = random_base(arch, torch.device("meta"))
        for size in (256, 512, 768, 1024, 1536):
            assert checked_size(size, base) == size
        with pytest.raises(LikenessError, match="multiple of 64 from 256 to 1536, such as 512"):
            checked_size(520, base)
        with pytest.raises(LikenessError, match="such as 1536"):
            checked_size(2048, base)


# ------------------------------------------------------------------------------------------------- mirrored


@pytest.mark.parametrize("method", IN_BUCKETS)
def test_mirrored_pictures_have_their_own_cached_latents_and_their_masks_turn_too(method: str, folder: Path):
    write_person(folder / "person")
    job = tiny_job(method, folder, mirror=True, settings={"steps": 2, "batch_size": 8})
    learning: Any = learner(job, tiny_base())
    learning.prepare(lambda: None)
    plain: Any = learner(tiny_job(method, folder, settings={"steps": 2, "batch_size": 8}), tiny_base())
    (phase,) = learning.phases()
    batch = learning.batch(phase, 0)
    own = ~batch.prior
    assert 0 < int(batch.mirrored[own].sum()) < int(own.sum())
    if not batch.prior.any():  # beside class pictures, those have to be drawn first
        without = plain.batch(phase, 0)
        assert without.mirrored is None and torch.equal(without.noise, batch.noise)
        turned = torch.where(batch.mirrored.view(-1, 1, 1, 1), without.pixels.flip(-1), without.pixels)
        assert torch.equal(turned, batch.pixels)
    mean, std = learning.base.encode_posterior(batch.pixels)
    torch.testing.assert_close(learning.latents(batch), mean + std * batch.posterior, atol=1e-5, rtol=1e-4)
    assert not torch.equal(learning.batch(phase, 1).posterior, batch.posterior)  # sampled anew in each step
    learning.close()


def test_magictailor_and_magicapture_have_their_own_word_on_mirroring(folder: Path):
    for method in ("magictailor", "magicapture"):
        with pytest.raises(LikenessError, match=f"{method} decides itself what it mirrors"):
            learner(tiny_job(method, folder, mirror=True), tiny_base())
    write_person(folder / "person")
    settings = {"degradation": "none", "flip": True, "colour_jitter": 0.0}
    learning: Any = learner(tiny_job("magictailor", folder, settings=settings), tiny_base())
    learning.prepare(lambda: None)
    phase = learning.phases()[0]
    batches = [learning.batch(phase, number) for number in range(6)]
    assert {bool(batch.mirrored.all()) for batch in batches} == {True, False}
    for batch in batches[:3]:
        mean, std = learning.base.encode_posterior(batch.pixels)
        torch.testing.assert_close(
            learning.latents(batch), mean + std * batch.posterior, atol=1e-5, rtol=1e-4
        )
    learning.close()


# ---------------------------------------------------------------------------------------------- faster steps

FASTER = [
    ("dreambooth-lora", {"channels_last": True}),
    ("textual-inversion", {"compile": "eager"}),
    ("personamagic", {"compile": "aot_eager", "channels_last": True}),
    pytest.param("dreambooth-lora", {"compile": "inductor"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "changes"), FASTER)
def test_a_faster_step_learns_the_same_into_the_same_file(method: str, changes: dict[str, Any], folder: Path):
    write_person(folder / "person")
    base = tiny_base()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    plain = Artifact.load(train(tiny_job(method, folder, "plain"), base=base))
    path = train(tiny_job(method, folder, "fast", **changes), StopAt(2), base)
    assert Artifact.load(path).steps == 2
    fast = Artifact.load(train(tiny_job(method, folder, "fast", resume=True, **changes), base=base))
    assert list(fast.tensors) == list(plain.tensors) and fast.steps == plain.steps
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(fast.tensors[name], tensor, atol=2e-4, rtol=1e-2)
    after = base.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.is_contiguous() for weight in base.unet.parameters())
    assert all(part._compiled_call_impl is None for part in base.unet.modules())


def test_what_hooks_hang_in_is_not_compiled(folder: Path):
    base = tiny_base()
    for method in METHODS:
        learning = learner(tiny_job(method, folder), base)
        parts = compilable(learning)
        if method in ("textual-inversion", "dreambooth-lora", "custom-diffusion"):
            assert parts == [base.unet]
        else:
            hooked = [part for name, part in base.unet.named_modules() if "attn2" in name]
            assert parts and not {id(p) for whole in parts for p in whole.modules()} & set(map(id, hooked))
        learning.close()


def test_an_unknown_backend_is_refused_before_the_first_step(folder: Path):
    base, passes = tiny_base(), []
    base.unet.register_forward_pre_hook(lambda module, inputs: passes.append(1))
    with pytest.raises(LikenessError, match="no backend 'fast' here; take one of .*inductor"):
        train(tiny_job("dreambooth-lora", folder, compile="fast"), base=base)
    assert not passes  # not even a picture of the class was drawn


def test_a_base_learns_at_its_own_size_whatever_that_is():
    base = random_base("sd15", torch.device("meta"))
    for own in (520, 1600):
        base.resolution = own
        assert checked_size(own, base) == own
        with pytest.raises(LikenessError, match="multiple of 64 from 256 to 1536"):
            checked_size(own + 8, base)
