"""Bases built from a checkpoint's weights in memory, as they come out of ComfyUI."""

import pytest
import torch

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.loaders.graph import base_from_graph
from likeness_portraits.engine.bases.loaders.graph_weights import BaseWeights, TextTower
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import model as miniature
from likeness_portraits.tests.engine.training.checkpoints_made import ldm_unet, ldm_vae


@pytest.fixture(scope="module")
def headless() -> BaseModel:
    return load_base(BaseSpec())


def weights_of(headless: BaseModel) -> BaseWeights:
    """The Miniature as ComfyUI holds it; its schedule is rounded to fp32, as ComfyUI's is."""
    text = miniature.state_dict("text_encoder")
    tower = TextTower(
        weights={f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in text.items()},
        heads=miniature.text_config()["num_attention_heads"],
        tokenizer=miniature.tokenizer(),
    )
    vae = ldm_vae(miniature.state_dict("vae"), 4)
    return BaseWeights(
        family="miniature",
        prediction_type="epsilon",
        alphas_cumprod=headless.process.alphas_cumprod.float(),
        unet=ldm_unet(miniature.state_dict("unet"), 3),
        heads=miniature.miniature_unet_config()["attention_head_dim"],
        vae={name.removeprefix("first_stage_model."): weight for name, weight in vae.items()},
        latent_scale=miniature.vae_config()["scaling_factor"],
        text_towers={"clip_l": tower},
    )


@pytest.fixture(scope="module")
def rebuilt(headless: BaseModel) -> BaseModel:
    return base_from_graph(weights_of(headless))


def test_the_rebuilt_base_predicts_the_same(headless: BaseModel, rebuilt: BaseModel):
    prompts = ["a photo of a woman", ""]
    context = headless.encode_text(prompts)
    noisy, t = torch.randn(2, *headless.latent_shape()), torch.tensor([0.01, 0.9])
    assert torch.equal(context.states, rebuilt.encode_text(prompts).states)
    assert torch.equal(headless.predict(noisy, t, context), rebuilt.predict(noisy, t, context))
    assert torch.equal(headless.decode(noisy), rebuilt.decode(noisy))


def test_the_usual_schedule_is_taken_in_full_precision(headless: BaseModel, rebuilt: BaseModel):
    assert torch.equal(headless.process.alphas_cumprod, rebuilt.process.alphas_cumprod)


def test_attention_is_read_where_the_miniature_has_it(headless: BaseModel, rebuilt: BaseModel):
    assert rebuilt.attention_side == headless.attention_side == 16


def test_pictures_are_as_large_as_the_miniatures(headless: BaseModel, rebuilt: BaseModel):
    assert rebuilt.resolution == headless.resolution == 128
    assert rebuilt.latent_scale == headless.latent_scale


def test_networks_built_otherwise_are_refused_with_the_way_out(headless: BaseModel):
    weights = weights_of(headless)
    del weights.unet["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    with pytest.raises(
        LikenessError, match="built in a way of its own .*; connect an SD 1.x, SD 2.x or SDXL"
    ):
        base_from_graph(weights)
