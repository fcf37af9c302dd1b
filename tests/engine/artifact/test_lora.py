import pytest
import torch
from torch import nn

from likeness_portraits.engine.artifact.lora import adaptable, merged, text_name, unet_name
from likeness_portraits.engine.errors import LikenessError

TENSORS = {
    "lora_unet_a.lora_down.weight": torch.tensor([[1.0, 2.0]]),
    "lora_unet_a.lora_up.weight": torch.tensor([[3.0], [4.0]]),
    "lora_unet_a.alpha": torch.tensor(0.5),
}


def layer() -> nn.Linear:
    made = nn.Linear(2, 2, bias=False)
    made.weight = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    return made


def test_the_update_is_up_times_down_times_alpha_over_rank_times_strength():
    module = layer()
    with merged({"lora_unet_a": module}, TENSORS, 2.0):
        assert module.weight.tolist() == [[3.0, 6.0], [4.0, 8.0]]


def test_the_very_same_parameter_comes_back_even_after_an_error():
    module = layer()
    own = module.weight
    with pytest.raises(KeyError), merged({"lora_unet_a": module}, TENSORS, 1.0):
        raise KeyError
    assert module.weight is own and own.tolist() == [[0, 0], [0, 0]]


def test_a_lora_for_another_base_is_refused_and_nothing_changes():
    with (
        pytest.raises(LikenessError, match="this base has no layer for lora_unet_a"),
        merged({}, TENSORS, 1.0),
    ):
        pass
    wide = nn.Linear(3, 2)
    own = wide.weight
    with pytest.raises(LikenessError, match="another size"), merged({"lora_unet_a": wide}, TENSORS, 1.0):
        pass
    assert wide.weight is own


def test_names_follow_kohya_for_one_and_for_two_text_encoders():
    assert unet_name("mid_block.attentions.0.proj_in") == "lora_unet_mid_block_attentions_0_proj_in"
    path = "encoder.layers.0.mlp.fc1"
    assert text_name(path) == "lora_te_text_model_encoder_layers_0_mlp_fc1"
    assert text_name(f"text_model.{path}", 1, 2) == "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    unet = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    assert list(adaptable(unet, [nn.Sequential(layer())])) == ["lora_unet_0", "lora_te_text_model_0"]
