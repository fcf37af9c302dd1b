"""CLIP text encoders as Stable Diffusion reads them: chunks of 77 tokens, one encoder or two side by side."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...devices import to_device
from ...staged.text import Places, TextStates, encode_staged
from .. import features
from ..conditioning import Conditioning
from ..precision import device_of
from .chunks import in_chunks, side_by_side
from .placeholders import pieces_of, vectors_in_place
from .prompt_weights import weighed
from .protocol import Rows, Tokens

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


class ClipText:
    """The encoders "clip_l", "clip_g" or "clip_h"; where several listen, their states stand side by side."""

    offers = frozenset({features.STAGED_TEXT, features.TEXT_ATTENTION_MAPS})
    lora_targets: tuple[str, ...] = ATTENTION

    def __init__(self, encoders: nn.ModuleDict, tokenizers: dict[str, Any], pooled: bool) -> None:
        self.encoders: Any = encoders
        self.tokenizers = tokenizers
        self.pooled = pooled  # SDXL's way: a pooled vector too, and the last layer but one without its norm

    def blocks(self) -> list[nn.Module]:
        return []

    def longest(self, encoder: str) -> int:
        return self.encoders[encoder].config.max_position_embeddings

    def tokenize(
        self, prompts: Sequence[str], rows: Rows | None, encoder: str, *, weights: bool = False
    ) -> Tokens:
        """What is too long for the text encoder goes on in further chunks, each with a start and an end of
        its own; among longer prompts, a short one is repeated: T is a multiple of `longest`."""
        tokenizer, length = self.tokenizers[encoder], self.longest(encoder)
        spelt = [pieces_of(tokenizer, prompt, rows or {}, encoder, weights=weights) for prompt in prompts]
        lines = [in_chunks(groups, length - 2) for groups in spelt]
        count = math.lcm(*map(len, lines))
        ids = torch.full((len(prompts), count * length), tokenizer.pad_token_id, dtype=torch.long)
        counts = torch.ones(ids.shape)
        places: list[tuple[int, int, str, int]] = []
        for number, chunks in enumerate(lines):
            for start, chunk in zip(range(0, count * length, length), chunks * (count // len(chunks))):
                line = [tokenizer.bos_token_id]
                for piece, weight in chunk:
                    counts[number, start + len(line)] = weight
                    if isinstance(piece, tuple):
                        places.append((number, start + len(line), *piece))
                        piece = tokenizer.bos_token_id  # any id will do: its vector is replaced
                    line.append(piece)
                line.append(tokenizer.eos_token_id)
                ids[number, start : start + len(line)] = torch.tensor(line)
        return Tokens(ids, tuple(places), counts if bool((counts != 1).any()) else None)

    def empty_chunk(self, encoder: str) -> Tensor:
        """The ids (T,) of a chunk without words: start, end, padding."""
        tokenizer = self.tokenizers[encoder]
        padding = [tokenizer.pad_token_id] * (self.longest(encoder) - 2)
        return torch.tensor([tokenizer.bos_token_id, tokenizer.eos_token_id, *padding])

    def encode(
        self, prompts: Sequence[str], rows: Rows | None, device: torch.device, *, weights: bool = False
    ) -> Conditioning:
        """Equal prompts are encoded once. What is pooled knows no weights, as in ComfyUI."""
        unique = list(dict.fromkeys(prompts))
        states, pooled = [], None
        for name, encoder in self.encoders.items():
            tokens = self.tokenize(unique, rows, name, weights=weights)
            ids = tokens.ids.view(-1, self.longest(name))
            if tokens.weights is not None:
                ids = torch.cat([ids, self.empty_chunk(name)[None]])
            chunks = to_device(ids, device_of(encoder))
            with vectors_in_place(encoder.get_input_embeddings(), tokens, rows or {}, name):
                output = encoder(chunks, output_hidden_states=self.pooled)
            heard = output.hidden_states[-2] if self.pooled else output.last_hidden_state
            if tokens.weights is not None:
                heard = weighed(heard[:-1], tokens.weights.view(len(heard) - 1, -1), heard[-1])
            states.append(heard.reshape(len(unique), -1, heard.shape[-1]).to(device))
            pooled = getattr(output, "text_embeds", pooled)
        conditioning = Conditioning(states=states[0])
        if self.pooled:
            assert pooled is not None
            each = len(pooled) // len(unique)
            firsts = pooled[::each][: len(unique)]  # what the first chunk says is the prompt's
            conditioning = Conditioning(states=side_by_side(states), pooled=firsts.to(device))
        if len(unique) == len(prompts):
            return conditioning
        return conditioning.rows(
            to_device(torch.tensor([unique.index(prompt) for prompt in prompts]), device)
        )

    def encode_staged(
        self, encoder: str, ids: Tensor, places: Places, *, attention: bool = False
    ) -> TextStates:
        return encode_staged(
            self.encoders[encoder], ids, places, penultimate=self.pooled, attention=attention
        )

    def said(self, parts: Sequence[TextStates], pooled: Tensor | None = None) -> Conditioning:
        keys, values = (side_by_side(side) for side in zip(*((part.keys, part.values) for part in parts)))
        return Conditioning(states=keys, values=values, pooled=pooled)

    def spoken(self, tokens: Tokens, encoder: str) -> tuple[Tensor, Tensor]:
        positions, end = torch.arange(tokens.ids.shape[1]), self.tokenizers[encoder].eos_token_id
        ends = torch.tensor([line.index(end) - 1 for line in tokens.ids.tolist()])[:, None]
        return (positions >= 1) & (positions <= ends), positions[None] <= ends + 1

    def word_rows(self, text: str) -> dict[str, Tensor]:
        rows = {}
        for name, encoder in self.encoders.items():
            ids = self.tokenizers[name](text, add_special_tokens=False)["input_ids"]
            rows[name] = encoder.get_input_embeddings().weight[ids].detach().float().clone()
        return rows
