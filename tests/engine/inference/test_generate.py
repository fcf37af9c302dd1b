"""Drawing without ComfyUI, on the tiny random base."""

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.engine.bases.sampling import to_bytes
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.tests.engine.tiny import tiny_base

NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def artifact(**changes) -> Artifact:
    generator = torch.Generator().manual_seed(4)
    tensors = {
        f"{NAME}.lora_down.weight": torch.randn(2, 32, generator=generator),
        f"{NAME}.lora_up.weight": torch.randn(64, 2, generator=generator),
        f"{NAME}.alpha": torch.tensor(2.0),
        "token.v0.clip_l": torch.randn(2, 32, generator=generator),
    }
    token = Token(token="<v0>", class_word="woman", vectors=2)
    return Artifact(**{"kind": "lora", "method": "test", "tensors": tensors, "tokens": (token,), **changes})


def test_every_picture_is_the_one_its_seed_gives_alone(base):
    prompts = ["a man", "a woman", "a man"]
    together = generate(base, prompts, seed=[1, 2, 3], steps=3)
    assert together.shape == (3, 32, 32, 3) and together.dtype == np.uint8
    alone = generate(base, ["a woman"], seed=2, steps=3)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert np.array_equal(generate(base, prompts, seed=[1, 2, 3], steps=3), together)
    assert np.abs(together[0].astype(int) - together[2]).max() > 5


def test_many_pictures_come_in_groups_and_steps_are_counted_over_all(base):
    seen = []
    pictures = generate(base, ["a man"] * 9, steps=2, on_step=lambda done, total: seen.append((done, total)))
    assert len(pictures) == 9
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_other_sizes_samplers_and_schedules(base):
    options = {"steps": 3, "sampler": "dpmpp_2m", "schedule": "karras"}
    assert generate(base, ["a man"], width=64, height=32, **options).shape == (1, 32, 64, 3)
    assert generate(base, [], width=64, height=32).shape == (0, 32, 64, 3)


def test_an_artifact_changes_the_picture_by_its_strength_and_the_base_not_at_all(base):
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    parameters = dict(base.named_parameters())
    prompt = ["a photo of a man"]
    plain = generate(base, prompt, steps=3)
    off = generate(base, prompt, artifacts=[(artifact(), 0.0)], steps=3)
    on = generate(base, prompt, artifacts=[(artifact(), 1.0)], steps=3)
    assert np.array_equal(plain, off)
    assert not np.array_equal(plain, on)
    assert np.array_equal(generate(base, prompt, steps=3), plain)
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    assert all(weight is parameters[name] for name, weight in base.named_parameters())


def test_placeholders_mean_the_artifacts_rows(base):
    prompts = ["a photo of <v0>"]
    drawn = generate(base, prompts, artifacts=[(artifact(), 0.0)], steps=3)
    other = artifact(tensors={**artifact().tensors, "token.v0.clip_l": torch.zeros(2, 32)})
    assert not np.array_equal(drawn, generate(base, prompts, artifacts=[(other, 0.0)], steps=3))


def test_artifacts_that_do_not_fit_are_refused(base):
    for wrong, message in (
        (artifact(base_family="sdxl", tensors={}), "learned on a base of the family sdxl"),
        (artifact(kind="id_adapter"), "draws from pictures of a person; give them with --identity"),
    ):
        with pytest.raises(LikenessError, match=message):
            generate(base, ["a man"], artifacts=[(wrong, 1.0)], steps=1)
    with pytest.raises(LikenessError, match="two concepts use the placeholder <v0>"):
        generate(base, ["a man"], artifacts=[(artifact(), 1.0), (artifact(), 1.0)], steps=1)
    assert not [name for name, weight in base.named_parameters() if weight.requires_grad]


def test_other_weights_of_the_same_family_are_warned_about(base, caplog):
    generate(base, ["a man"], artifacts=[(artifact(base_fingerprint="0" * 16), 1.0)], steps=1)
    assert "learned on other weights" in caplog.text


def test_a_placeholder_that_nobody_defined_is_refused(base):
    with pytest.raises(LikenessError, match="mentions <v0>, which no concept defines; load the concept"):
        generate(base, ["a photo of <v0>"])
    with pytest.raises(LikenessError, match="mentions <v1>, which no concept defines; there are <v0>"):
        generate(base, ["a photo of <v0> and <v1>"], artifacts=[(artifact(), 1.0)])


def test_wrong_numbers_are_refused(base):
    with pytest.raises(LikenessError, match="2 seeds for 1 prompts"):
        generate(base, ["a man"], seed=[1, 2])
    with pytest.raises(LikenessError, match="0 sampling steps cannot be meant; use 1 to 10000"):
        generate(base, ["a man"], steps=0)
    with pytest.raises(LikenessError, match="multiples of 4"):
        generate(base, ["a man"], width=30)


def test_a_step_callback_may_stop_the_drawing_and_the_base_is_put_back(base):
    class Enough(Exception):
        pass

    def stop(done, total):
        raise Enough

    parameters = dict(base.named_parameters())
    with pytest.raises(Enough):
        generate(base, ["a man"], artifacts=[(artifact(), 1.0)], on_step=stop)
    assert all(weight is parameters[name] for name, weight in base.named_parameters())


def test_pixels_become_bytes_as_comfyui_saves_them():
    pixels = torch.tensor([-1.2, -1.0, 0.0, 0.999, 1.0, 3.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_bytes(pixels)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_words_of_another_width_or_encoder_are_refused_before_anything_is_drawn(base):
    for rows in ({"token.v0.clip_l": torch.ones(2, 33)}, {"token.v0.clip_l": torch.ones(2, 0)}):
        wide = artifact(kind="embedding", tensors=rows)
        with pytest.raises(
            LikenessError, match=r"<v0> was learned for a text encoder \d+ wide, this model's is 32"
        ):
            generate(base, ["a photo of <v0>"], artifacts=[(wide, 1.0)], steps=1)
    both = tiny_base(family="sdxl")
    half = artifact(kind="embedding", tensors={"token.v0.clip_g": torch.ones(2, 64)}, base_family="sdxl")
    with pytest.raises(LikenessError, match="a text encoder 64 wide, this model's is 32 and 64"):
        generate(both, ["a photo of <v0>"], artifacts=[(half, 1.0)], steps=1)
