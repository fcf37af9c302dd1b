"""Weights of CLIP's text encoders under the names that this version of transformers gives them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

LEVEL = "text_model."  # that transformers 4 has and transformers 5 dropped


def load_text(encoder: Any, weights: Mapping[str, Tensor]) -> None:
    """Loads weights named without `text_model.`, wherever this version of transformers has that level.

    `encoder` is transformers' CLIPTextModel or CLIPTextModelWithProjection; `text_projection.weight` stands
    beside the level in both versions. Raises RuntimeError where names or shapes do not fit.
    """
    prefixed = any(key.startswith(LEVEL) for key in encoder.state_dict())
    named = {
        f"{LEVEL}{key}" if prefixed and not key.startswith("text_projection") else key: value
        for key, value in weights.items()
    }
    encoder.load_state_dict(named)
