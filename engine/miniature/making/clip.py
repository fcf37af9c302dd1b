"""The Miniature's image tower, aligned with its text encoder by captions that differ in one attribute."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from .. import model, world
from ..networks import text_encoder
from .dataset import Dataset
from .fitting import fit, half_precision

NEGATIVES = 3  # captions beside the true one in which one attribute is changed
SCALE = 20.0  # inverse temperature
_LOOKED_AT = 60  # held-out people, while it is trained


class Pair(nn.Module):
    """The image tower and the projection of the (frozen) text encoder's end state."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.image = CLIPVisionModelWithProjection(CLIPVisionConfig(**model.image_config()))
        self.text_projection = nn.Linear(model.TEXT_WIDTH, model.TEXT_WIDTH, bias=False)
        self._text_encoder = [text_encoder.eval().requires_grad_(False)]  # in a list: not trained, not saved

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Unit vectors (B, 128) of tokens (B, T)."""
        with torch.no_grad():
            pooled = self._text_encoder[0](tokens).pooler_output
        return F.normalize(self.text_projection(pooled.float()).float(), dim=-1)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Unit vectors (B, 128) of pixels (B, 3, 128, 128) in [-1, 1]."""
        return F.normalize(self.image(pixels).image_embeds.float(), dim=-1)


def load_pair() -> Pair:
    """The pair as it ships."""
    pair = Pair(text_encoder()).eval()
    pair.load_state_dict(model.state_dict("image_encoder"))
    return pair


def make_clip(
    text_encoder: CLIPTextModel,
    data: Dataset, held_out: Dataset, work: Path, steps: int, batch: int = 40, device: str = "cpu",
) -> Pair:  # fmt: skip
    """Trains the pair on the dataset's pictures; the text encoder stays as it is."""
    torch.manual_seed(5)
    tokenizer = model.tokenizer()
    frozen: Any = text_encoder  # whose own `to` has lost its signature behind a decorator
    pair = Pair(frozen.to(device)).to(device)
    each, looked_at = len(data) // len(data.person.unique()), held_out.person.unique()[:_LOOKED_AT].tolist()

    def texts_of(index: int, rng: np.random.Generator) -> list[str]:
        identity, context = world.sample_identity(index // each), world.sample_context(index)
        texts = [world.caption(identity, context)]
        for name in rng.choice(world.stated_attributes(identity), NEGATIVES, replace=False):
            true = world.attributes(identity, context)[name]
            other = str(rng.choice([value for value in world.ATTRIBUTES[name] if value != true]))
            texts.append(world.altered_caption(identity, context, str(name), other))
        return texts

    def loss_of(pair: Pair, rng: np.random.Generator, progress: float) -> Tensor:
        index = rng.integers(0, len(data), batch)
        texts = [text for picture in index for text in texts_of(int(picture), rng)]
        tokens = torch.tensor(tokenizer(texts, padding="longest")["input_ids"]).to(device)
        with half_precision(device):
            images, words = pair.embed_images(data.images(index, device)), pair.embed_texts(tokens)
        logits = SCALE * images @ words.T
        true = torch.arange(batch, device=device) * (NEGATIVES + 1)
        return F.cross_entropy(logits, true) + F.cross_entropy(
            logits[:, true].T, torch.arange(batch, device=device)
        )

    return fit(
        "clip", pair, loss_of, steps=steps, learning_rate=2e-3, work=work,
        report=lambda net: retrieval(net, looked_at, device), report_every=300,
    )  # fmt: skip


@torch.no_grad()
def retrieval(
    pair: Pair, people: Sequence[int], device: str = "cpu", visible: bool = False
) -> dict[str, float]:
    """By attribute, how often the true caption beats all captions in which that attribute alone differs.

    With `visible`, attributes that cannot be seen in a picture (eyes behind sunglasses) are not asked for.
    """
    tokenizer = model.tokenizer()
    right: dict[str, list[bool]] = {name: [] for name in world.ATTRIBUTES}
    for seed in people:
        identity, context = world.sample_identity(seed), world.sample_context(seed)
        portrait = torch.from_numpy(world.render(identity, context).pixels.copy()).permute(2, 0, 1)[None]
        picture = pair.embed_images((portrait.float() / 127.5 - 1).to(device))
        truth = world.attributes(identity, context)
        for name in world.stated_attributes(identity):
            if visible and name in world.hidden_attributes(context):
                continue
            values = world.ATTRIBUTES[name]
            texts = [world.altered_caption(identity, context, name, value) for value in values]
            tokens = torch.tensor(tokenizer(texts, padding="longest")["input_ids"]).to(device)
            best = int((picture @ pair.embed_texts(tokens).T).argmax())
            right[name].append(values[best] == truth[name])
    return {name: round(float(np.mean(hits)), 3) for name, hits in right.items() if hits}
