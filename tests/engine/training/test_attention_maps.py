"""Recording attention: right numbers, right layers, nothing left behind, and gradient checkpointing."""

import pytest
import torch

from likeness_portraits.engine.bases.attention import Pass
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.denoisers.protocol import CrossAttention
from likeness_portraits.engine.bases.denoisers.unet import (
    CrossProcessor,
    cross_attention_layers,
)
from likeness_portraits.engine.training.attention_maps import AttentionMaps, mask_layers, recorded
from likeness_portraits.tests.engine.tiny import tiny_base
from likeness_portraits.tests.golden.goldens import Golden


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def inputs(base, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(rows, *base.latent_shape(), generator=generator)
    return noisy, torch.arange(rows) / 10, base.encode_text(["a photo of woman"] * rows)


@pytest.mark.parametrize("kind", ["cross", "selfattn"])
def test_probabilities_equal_explicit_attention_and_the_output_stays(kind):
    from diffusers.models.attention_processor import Attention

    case = Golden("magictailor", "explicit_attention")
    heads, context = int(case["in.heads"]), case["in.context"] if kind == "cross" else None
    layer = Attention(
        query_dim=16, cross_attention_dim=24 if kind == "cross" else None, heads=heads, dim_head=16 // heads
    )
    layer.load_state_dict(case.under(f"in.{kind}."))
    layer.set_processor(CrossProcessor("layer", layer.processor))
    maps = AttentionMaps({"layer": CrossAttention(layer, 1, "down")})
    output = layer(case["in.hidden"], encoder_hidden_states=context, ip_hidden_states=Pass({"maps": maps}))
    name = "cross" if kind == "cross" else "self"
    torch.testing.assert_close(output, case[f"out.{name}"], atol=1e-5, rtol=0)
    found = maps.probabilities("layer").flatten(0, 1)
    torch.testing.assert_close(found, case[f"out.{name}_probs"], atol=1e-5, rtol=0)


def test_layers_know_how_many_latent_pixels_their_queries_cover(base):
    found = {name.split(".attentions")[0]: layer.reduction
             for name, layer in cross_attention_layers(base.unet).items()}  # fmt: skip
    assert found == {
        "down_blocks.0": 1,
        "down_blocks.1": 2,
        "mid_block": 2,
        "up_blocks.0": 2,
        "up_blocks.1": 1,
    }
    parts = {name.partition("_")[0]: layer.part for name, layer in base.denoiser.cross_attention().items()}
    assert parts == {"down": "down", "mid": "middle", "up": "up"}
    assert "mid_block" not in str(list(mask_layers(base)))
    with recorded(base.unet, cross_attention_layers(base.unet)) as maps:
        base.predict(*inputs(base))
    for name, layer in maps.layers.items():
        height, width = layer.size(base.latent_shape()[1:])
        assert maps.probabilities(name).shape[2:] == (height * width, 77)


def test_nothing_is_recorded_afterwards_or_without_gradients_and_no_hook_stays(base):
    layers = cross_attention_layers(base.unet)
    with recorded(base.unet, layers) as maps, torch.no_grad():
        base.predict(*inputs(base))
    assert maps.all() == []
    with pytest.raises(KeyboardInterrupt), recorded(base.unet, layers):
        raise KeyboardInterrupt
    base.predict(*inputs(base))
    assert maps.all() == []
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.unet.modules())
    processors = [found.layer.processor for found in layers.values()]
    assert not any(isinstance(processor, CrossProcessor) for processor in processors)


def test_gradients_of_maps_are_the_same_under_gradient_checkpointing(base):
    noisy, t, context = inputs(base)
    gradients = []
    for saving in (False, True):
        text = context.states.clone().requires_grad_()
        if saving:
            base.unet.enable_gradient_checkpointing()
        try:
            with recorded(base.unet, mask_layers(base)) as maps:
                said = Conditioning(states=text, values=2 * text)
                prediction = base.predict(noisy, t, said)
            loss = prediction.square().mean() + sum(map_[..., 3].square().sum() for map_ in maps.all())
            loss.backward()
        finally:
            base.unet.disable_gradient_checkpointing()
        gradients.append(text.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)
    base.predict(noisy, t, context)  # nothing is computed again any more: the network is as it was
    layers = cross_attention_layers(base.unet).values()
    assert not any(isinstance(found.layer.processor, CrossProcessor) for found in layers)
