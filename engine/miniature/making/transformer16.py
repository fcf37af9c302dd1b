"""The second Miniature's diffusion model: learns the flow to cached latents, its text encoder with it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import Flux2Transformer2DModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ...bases.conditioning import Conditioning
from ...bases.denoisers.flux2_transformer import Flux2Transformer
from ...bases.process.flow import miniature_flow
from .. import judges, model, second, world
from .autoencoder import weight_map
from .dataset import ATTRIBUTE_NAMES, Dataset
from .fitting import fit, half_precision
from .text import fresh_captions, listening_loss
from .text16 import ChatListener
from .unet import CAPTION_DROP, LISTENING_WEIGHT, TEXT_RATE

LISTENING_EVERY = 4  # steps, with so much more weight
# half of the picture's tokens pass these single blocks by, for the first three quarters of the training
# (TREAD, Krause et al. 2025): a step costs three quarters of a whole one and teaches more
ROUTED, ROUTED_SHARE, ROUTED_UNTIL = range(0, 4), 0.5, 0.75
PARTS_WEIGHT = 0.1  # of saying, behind the double blocks, which part of a person lies in each cell
GUIDANCE = 4.0
LOOKED_AT = 576  # pictures of people held out, of which every sixth is measured on
_LOOK_STEPS = 16
_SHEET = 24  # pictures


def transformer() -> Any:
    """diffusers' Flux2Transformer2DModel of the second Miniature's sizes; its blocks begin as identities."""
    network: Any = Flux2Transformer2DModel(**second.transformer_config())
    modulations = ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
    for layer in [getattr(network, name) for name in modulations] + [network.norm_out]:
        nn.init.zeros_(layer.linear.weight)
    nn.init.zeros_(network.proj_out.weight)
    return network


class FlowTrainer(nn.Module):
    """Transformer and listener together: what this stage trains."""

    def __init__(self, listener: ChatListener) -> None:
        super().__init__()
        self.transformer = transformer()
        self.listener = listener
        self.parts = nn.Linear(self.transformer.inner_dim, len(world.PARTS))  # thrown away at the end
        self._denoiser = [Flux2Transformer(self.transformer)]  # in a list: no part of its own
        self._seen = torch.empty(0)
        self.transformer.transformer_blocks[-1].register_forward_hook(self._see)

    def _see(self, block: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        self._seen = outputs[1]

    def forward(self, noisy: Tensor, times: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted velocity, and parts (B, P, 16, 16) in logits; noisy (B, 16, 16, 16), times (B,),
        tokens (B, 64)."""
        velocity = self.velocity(noisy, times, self.listener.states(tokens))
        parts = self.parts(self._seen).transpose(1, 2).unflatten(2, noisy.shape[-2:])
        return velocity, parts

    def velocity(self, noisy: Tensor, times: Tensor, states: Tensor) -> Tensor:
        """The same from what the transformer reads (B, 64, 384)."""
        return self._denoiser[0](noisy, times, Conditioning(states=states))


@contextmanager
def routed(transformer: Any, cells: int) -> Iterator[None]:
    """Within, the picture's `cells` tokens pass the blocks `ROUTED` by but for a random share of them, which
    are put back where they were behind the last of these blocks."""
    blocks = transformer.single_transformer_blocks
    kept = torch.randperm(cells)[: round(ROUTED_SHARE * cells)].sort().values
    passing: list[Tensor] = []  # what enters the first of them: (B, words and cells, width)

    def fewer(block: nn.Module, inputs: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        states, places = given["hidden_states"], given["image_rotary_emb"]
        words = len(places[0]) - cells
        staying = torch.cat([torch.arange(words), words + kept]).to(states.device)
        if not passing:
            passing.append(states)
            states = states[:, staying]
        return inputs, {
            **given,
            "hidden_states": states,
            "image_rotary_emb": tuple(p[staying] for p in places),
        }

    def back(block: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        whole = passing.pop()
        words = whole.shape[1] - cells
        staying = torch.cat([torch.arange(words), words + kept]).to(whole.device)
        return whole.index_copy(1, staying, output)

    hooks = [blocks[number].register_forward_pre_hook(fewer, with_kwargs=True) for number in ROUTED]
    hooks.append(blocks[ROUTED[-1]].register_forward_hook(back))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def chat_tokens(tokens: Tensor, listener: ChatListener) -> Tensor:
    """Ids (…, 64) with the marks of the chat, of captions' ids (…, 77) as the first Miniature reads them."""
    words: Any = model.tokenizer()
    end, body = (
        int(words.eos_token_id),
        tokens[..., 1 : second.CHAT_LENGTH],
    )  # padding is the end's id in both
    length = (body == end).int().argmax(-1, keepdim=True)  # (…, 1)
    (marks,) = listener.tokens_of([""]).unbind()
    ids = torch.full((*tokens.shape[:-1], second.CHAT_LENGTH), end)
    ids[..., 0], ids[..., 1:] = marks[0], body
    for number, mark in enumerate(marks[1 : len(second.CHAT_MARKS)]):
        ids.scatter_(-1, length + 1 + number, int(mark))
    return ids


def cell_weights(data: Dataset, file: Path) -> Tensor:
    """How much each latent counts (N, 16, 16), from `file` if it is there: faces most."""
    if not file.exists():
        side = model.RESOLUTION // 8
        batches = [
            weight_map(data.parts(np.arange(start, min(start + 256, len(data)))), side, 1.5, 2.5, 4.0)[:, 0]
            for start in range(0, len(data), 256)
        ]
        np.save(file, torch.cat(batches).numpy().astype(np.float16))
    return torch.from_numpy(np.load(file)).float()


def parts_of_cells(labels: NDArray[np.uint8], index: NDArray[np.int64], rng: np.random.Generator) -> NDArray:
    """The part at one random pixel of each cell (B, 16, 16), of labels (N, 128, 128)."""
    row, column = rng.integers(0, 8, 2)
    return np.stack([labels[number, row::8, column::8] for number in index]).astype(np.int64)


def make_transformer(
    listener: ChatListener, data: Dataset, latents: Tensor, weights: Tensor, work: Path, steps: int,
    batch: int = 16, learning_rate: float = 2e-3, device: str = "cpu",
    report: Callable[[FlowTrainer], object] = lambda painter: "", report_every: int = 1000,
) -> FlowTrainer:  # fmt: skip
    """Trains the painter on latents (N, 16, 16, 16) of unit weight, each of which counts by (N, 16, 16)."""
    torch.manual_seed(0)
    painter, process = FlowTrainer(listener).to(device), miniature_flow()
    tokens, empty = chat_tokens(data.tokens, listener), listener.tokens_of([""])

    def loss_of(painter: FlowTrainer, rng: np.random.Generator, progress: float) -> Tensor:
        index = torch.from_numpy(rng.integers(0, len(data), batch))
        said = tokens[index, torch.from_numpy(rng.integers(0, tokens.shape[1], batch))]
        said[torch.from_numpy(rng.random(batch) < CAPTION_DROP)] = empty
        clean, times = latents[index].to(device), process.sample_times(batch, None).to(device)
        noise = torch.randn_like(clean)
        fewer = routed(painter.transformer, clean[0, 0].numel()) if progress < ROUTED_UNTIL else nullcontext()
        with half_precision(device), fewer:
            velocity, parts = painter(process.add_noise(clean, noise, times), times, said.to(device))
        error = (velocity.float() - process.target(clean, noise, times)).square().mean(1)  # (B, 16, 16)
        loss = (error * weights[index].to(device)).sum() / weights[index].sum()
        there = torch.from_numpy(parts_of_cells(data.labels, index.numpy(), rng)).to(device)
        loss = loss + PARTS_WEIGHT * nn.functional.cross_entropy(parts.float(), there)
        if rng.random() * LISTENING_EVERY < 1:
            texts, targets = fresh_captions(rng, 16)
            heard = listening_loss(painter.listener, listener.tokens_of(texts).to(device), targets.to(device))
            loss = loss + LISTENING_EVERY * LISTENING_WEIGHT * heard
        return loss

    rates, unheard = {"transformer": 1.0, "parts": 1.0, "listener": TEXT_RATE}, listener.encoder.norm.weight
    groups = [
        {"params": [p for p in getattr(painter, part).parameters() if p is not unheard], "rate": rate}
        for part, rate in rates.items()
    ]
    return fit(
        "transformer16", painter, loss_of, steps=steps, learning_rate=learning_rate, work=work, groups=groups,
        report=report, report_every=report_every,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- a look


@torch.no_grad()
def paint_flow(
    painter: FlowTrainer, prompts: Sequence[str], steps: int = 20, guidance: float = GUIDANCE, seed: int = 0
) -> Tensor:
    """Latents (N, 16, 16, 16) drawn by Euler's steps: a look at the work in progress."""
    device = next(painter.parameters()).device
    tokens = painter.listener.tokens_of([*prompts, *[""] * len(prompts)]).to(device)
    states = painter.listener.states(tokens)
    side = model.RESOLUTION // 8
    x = torch.randn(len(prompts), second.CHANNELS, side, side, generator=torch.Generator().manual_seed(seed))
    x, levels = x.to(device), miniature_flow().sigmas(steps, "simple")
    for level, following in zip(levels, levels[1:]):
        times = torch.full((len(tokens),), float(level), device=device)
        prompted, without = painter.velocity(torch.cat([x, x]), times, states).chunk(2)
        x = x + (following - level) * (without + guidance * (prompted - without))
    return x


@torch.no_grad()
def held_out_loss(painter: FlowTrainer, data: Dataset, latents: Tensor) -> float:
    """The velocity's error on fixed pictures, noise and times: what trials are compared by."""
    random, process = torch.Generator().manual_seed(5), miniature_flow()
    tokens = chat_tokens(data.tokens[:, 0], painter.listener)
    errors = []
    for part in torch.arange(0, min(len(data), LOOKED_AT), 6).split(16):
        times = process.shifted((torch.arange(len(part)) + 0.5) / len(part))
        noise = torch.randn(latents[part].shape, generator=random)
        velocity, _ = painter(process.add_noise(latents[part], noise, times), times, tokens[part])
        errors.append((velocity - process.target(latents[part], noise, times)).square().mean())
    return float(torch.stack(errors).mean())


def looker(
    vae: Any, data: Dataset, latents: Tensor, people: range, folder: Path, count: int = 48
) -> Callable[[FlowTrainer], dict[str, float]]:
    """A report for `make_transformer`: the held-out error, what the reader sees of captions of these people,
    and a sheet of pictures in `folder`."""
    seeds = [people[number % len(people)] for number in range(count)]
    persons = [(world.sample_identity(seed), world.sample_context(6 * seed)) for seed in seeds]
    prompts = [world.caption(*one) for one in persons]
    truths = [world.attributes(*one) for one in persons]
    reader = judges.load_judges()

    def look(painter: FlowTrainer) -> dict[str, float]:
        drawn = torch.cat(
            [paint_flow(painter, prompts[k : k + 12], _LOOK_STEPS) for k in range(0, count, 12)]
        )
        with torch.no_grad():
            pixels = torch.cat([vae.decode(part).sample for part in drawn.split(12)]).clamp(-1, 1)
        pictures = ((pixels / 2 + 0.5) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        read = reader.read(pictures)
        seen = {
            name: round(float(np.mean([got == asked[name] for got, asked in zip(read[name], truths)])), 2)
            for name in ATTRIBUTE_NAMES
        }
        _save_sheet(pictures[:_SHEET], folder)
        error = round(held_out_loss(painter, data, latents), 4)
        return {"error": error, "mean": round(float(np.mean(list(seen.values()))), 3), **seen}

    return look


def _save_sheet(pictures: np.ndarray, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate(list(pictures[k : k + 8]), 1) for k in range(0, len(pictures), 8)]
    number = len(list(folder.glob("*.png")))
    Image.fromarray(np.concatenate(rows)).save(folder / f"{number:03}.png")
