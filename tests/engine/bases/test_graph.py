"""Bases built from plain weights, as they come out of ComfyUI."""

import pytest
import torch

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.loaders.graph import base_from_graph
from likeness_portraits.engine.bases.loaders.graph_weights import BaseWeights, TextTower
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.miniature import model as miniature


@pytest.fixture(scope="module")
def headless() -> BaseModel:
    return load_base(BaseSpec())


@pytest.fixture(scope="module")
def rebuilt(headless: BaseModel) -> BaseModel:
    """The Miniature by way of plain tensors; its schedule is rounded to fp32, as ComfyUI's is."""
    text = miniature.state_dict("text_encoder")
    tower = TextTower(
        config=miniature.text_config(),
        weights={name.removeprefix("text_model."): weight for name, weight in text.items()},
        tokenizer=miniature.tokenizer(),
    )
    weights = BaseWeights(
        family="miniature",
        prediction_type="epsilon",
        resolution=128,
        alphas_cumprod=headless.alphas_cumprod.float(),
        unet_config=miniature.unet_config(),
        unet=miniature.state_dict("unet"),
        vae_config=miniature.vae_config(),
        vae=miniature.state_dict("vae"),
        text_towers={"clip_l": tower},
    )
    return base_from_graph(weights)


def test_the_rebuilt_base_predicts_the_same(headless: BaseModel, rebuilt: BaseModel):
    prompts = ["a photo of a woman", ""]
    context = headless.encode_text(prompts)
    noisy, timesteps = torch.randn(2, *headless.latent_shape()), torch.tensor([10, 900])
    assert torch.equal(context, rebuilt.encode_text(prompts))
    assert torch.equal(
        headless.predict(noisy, timesteps, context), rebuilt.predict(noisy, timesteps, context)
    )
    assert torch.equal(headless.decode(noisy), rebuilt.decode(noisy))


def test_the_usual_schedule_is_taken_in_full_precision(headless: BaseModel, rebuilt: BaseModel):
    assert torch.equal(headless.alphas_cumprod, rebuilt.alphas_cumprod)


def test_attention_is_read_where_the_miniature_has_it(headless: BaseModel, rebuilt: BaseModel):
    assert rebuilt.attention_side == headless.attention_side == 16
