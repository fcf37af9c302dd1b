"""The identity adapter's two networks as one file's tensors, in our names and in the released ones."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from .attention import IdAttention
from .encoder import HEAD_WIDTH, IdEncoder

_ENCODER, _ATTENTION = "id_encoder.", "id_attention."  # how our tensors' names begin


def adapter_tensors(encoder: IdEncoder, attention: IdAttention) -> dict[str, Tensor]:
    """Both networks' weights by name, for a concept file of the kind `id_adapter`."""
    return {
        **{f"{_ENCODER}{key}": weight.detach() for key, weight in encoder.state_dict().items()},
        **{f"{_ATTENTION}{key}": weight.detach() for key, weight in attention.layer_weights().items()},
    }


def adapter_networks(
    tensors: Mapping[str, Tensor], head_width: int = HEAD_WIDTH
) -> tuple[IdEncoder, IdAttention]:
    """The networks, frozen, in fp32; KeyError or RuntimeError where the tensors are not all there."""
    encoder = IdEncoder.from_weights(_under(tensors, _ENCODER), head_width)
    attention = IdAttention.from_weights(_under(tensors, _ATTENTION))
    return encoder.requires_grad_(False).eval(), attention.requires_grad_(False).eval()


def released_names(layers: Sequence[str]) -> dict[str, str]:
    """Layer names by their number in the reference's files: down, up, middle last; even: self."""
    order = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
    ranked = sorted(layers, key=lambda name: order[name.split(".")[0]])
    return {str(2 * number + 1): name for number, name in enumerate(ranked)}


def sd1_layers() -> list[str]:
    """The cross-attention layers of SD 1.x, in running order."""
    places = [("down_blocks", block, number) for block in (0, 1, 2) for number in (0, 1)]
    places += [("mid_block", None, 0)]
    places += [("up_blocks", block, number) for block in (1, 2, 3) for number in (0, 1, 2)]
    return [
        f"{part}{'' if block is None else f'.{block}'}.attentions.{number}.transformer_blocks.0.attn2"
        for part, block, number in places
    ]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): tensor.float() for key, tensor in tensors.items() if key.startswith(prefix)
    }
