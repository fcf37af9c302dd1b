"""Attention in diffusers' Z-Image: a batched pass that knows its words from its picture, and how users of the
seam get in there.

diffusers' own forward takes prompts and pictures one by one, as lists; ours computes the same of them as one
tensor, the words before the picture, with the module's own layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LikenessError
from ..attention import AttentionSite, AttentionUser, Behind, Bias, Pass, attend

WORDS_MULTIPLE = 32  # words and tokens of the picture are filled up to a multiple of so many
_ARGUMENTS = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask")
_PLACES = 2048  # on an axis of RoPE that are known beforehand, at least


@cache
def z_image_class() -> Any:
    """diffusers' ZImageTransformer2DModel with a batched pass; raises where diffusers is too old."""
    import diffusers

    try:
        from diffusers import ZImageTransformer2DModel
    except ImportError as error:
        raise LikenessError(
            f"Z-Image needs diffusers 0.36 or newer, and this is {diffusers.__version__}: run "
            "`pip install -U diffusers`"
        ) from error

    class BatchedZImage(ZImageTransformer2DModel):  # pyright: ignore[reportGeneralTypeIssues]
        """Its `forward` takes latents (B, C, h, w), times (B,) that go from 0, noise, to 1, text states
        (B, T, D) and which of them are words (B, T), all if None; it gives (B, C, h, w)."""

        def forward(self, *inputs: Any, **options: Any) -> tuple[Tensor]:
            return (_batched(self, **dict(zip(_ARGUMENTS, inputs)), **options),)

    # configs name diffusers' class, whose weights these are
    BatchedZImage.__name__ = BatchedZImage.__qualname__ = ZImageTransformer2DModel.__name__
    return BatchedZImage


def rounded_up(count: int) -> int:
    return -(-count // WORDS_MULTIPLE) * WORDS_MULTIPLE


def _batched(
    network: Any, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor | None = None, joint_attention_kwargs: Mapping[str, Any] | None = None,
    behind: Behind | None = None,
) -> Tensor:  # fmt: skip
    users: Pass | None = (joint_attention_kwargs or {}).get(ZImageSites.name)
    patches, grid, size = _patches(hidden_states)
    words, there, lengths = _words(network, encoder_hidden_states, encoder_attention_mask)
    time = network.t_embedder(timestep * network.t_scale).type_as(patches)
    count = patches.shape[1]
    text_rotary, image_rotary = _rotary(network, words.shape[1], grid, lengths, patches.device)
    among = there  # whom words are refined among
    if behind is not None:
        words, there, among, text_rotary = _with_behind(network, behind, words, there, text_rotary)
    many = words.shape[1]
    picture = network.all_x_embedder["2-1"](patches)
    more = rounded_up(count) - count
    picture = torch.cat([picture, network.x_pad_token.expand(len(picture), more, -1).to(picture)], 1)

    def through(layers: Any, states: Tensor, *arguments: Any) -> Tensor:
        again = torch.is_grad_enabled() and network.gradient_checkpointing
        for layer in layers:
            states = network._gradient_checkpointing_func(layer, states, *arguments) if again else layer(
                states, *arguments
            )  # fmt: skip
        return states

    picture = through(network.noise_refiner, picture, None, image_rotary, time)
    words = through(network.context_refiner, words, among, text_rotary)
    rows = max(len(image_rotary), len(text_rotary))
    rotary = torch.cat([text_rotary.expand(rows, -1, -1), image_rotary.expand(rows, -1, -1)], 1)
    mask: Any = None
    if there is not None:
        mask = nn.functional.pad(there, (0, picture.shape[1]), value=True)  # (B, N)
    if users is not None:
        mask = LayerTold(users, mask, count)
    unified = through(network.layers, torch.cat([words, picture], 1), mask, rotary, time)
    output = network.all_final_layer["2-1"](unified[:, many : many + count], c=time)
    return _unpatched(output, grid, hidden_states.shape[1])[..., : size[0], : size[1]]


def _patches(latents: Tensor) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
    """Two by two latents as one token (B, h * w / 4, 4 C), on which grid, and the latents' size."""
    height, width = latents.shape[-2:]
    if height % 2 or width % 2:  # as ComfyUI does
        latents = nn.functional.pad(latents, (0, width % 2, 0, height % 2), mode="circular")
    rows, columns = latents.shape[-2] // 2, latents.shape[-1] // 2
    tokens = latents.unflatten(-1, (columns, 2)).unflatten(-3, (rows, 2))  # (B, C, rows, 2, columns, 2)
    return tokens.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2), (rows, columns), (height, width)


def _unpatched(tokens: Tensor, grid: tuple[int, int], channels: int) -> Tensor:
    latents = tokens.unflatten(1, grid).unflatten(-1, (2, 2, channels))
    return latents.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def _words(network: Any, states: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Words (B, T, width) as the layers take them, filled up with what stands for none; which of them a row
    has (B, T), and up to where each is filled (B,): None where all rows have all."""
    words = network.cap_embedder(states)
    more = rounded_up(words.shape[1]) - words.shape[1]
    if more or mask is not None:
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        mask = filled = nn.functional.pad(mask, (0, more))
        words = torch.where(
            filled[..., None], nn.functional.pad(words, (0, 0, 0, more)), network.cap_pad_token.to(words)
        )
    if mask is None:
        return words, None, None
    ends = (mask.sum(1) + WORDS_MULTIPLE - 1) // WORDS_MULTIPLE * WORDS_MULTIPLE  # (B,)
    # what has no numbers is taken to be as long as it can be
    if mask.is_meta or bool((ends == mask.shape[1]).all()):
        return words, None, None
    return words, torch.arange(mask.shape[1], device=mask.device) < ends[:, None], ends


def _with_behind(
    network: Any, behind: Behind, words: Tensor, there: Tensor | None, rotary: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Words with other prompts' behind them, each refined among itself: words (B, T + n, width), which there
    are (B, T + n), who reads whom (B, 1, T + n, T + n), and how they are turned."""
    states, places, prompts = behind
    if there is None:
        there = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
    there = torch.cat([there, prompts > 0], 1)
    turns = _tables(network, words.device)[0][places.view(-1, places.shape[-1]) + 1]  # (1 or B, n, d0)
    rest = turns.new_ones(*turns.shape[:2], rotary.shape[-1] - turns.shape[-1])
    turns = torch.cat([turns, rest], -1)
    rows = max(len(turns), len(rotary))
    rotary = torch.cat([rotary.expand(rows, -1, -1), turns.expand(rows, -1, -1)], 1)
    among = refined_among(there, prompts)
    return torch.cat([words, network.cap_embedder(states)], 1), there, among, rotary


def refined_among(there: Tensor, prompts: Tensor) -> Tensor:
    """Who reads whom (B, 1, T, T) before words and picture meet: words of one prompt each other, behind those
    of a pass's own prompt the others, which `prompts` (B, n) numbers from 1."""
    numbers = torch.cat([prompts.new_zeros(len(there), there.shape[1] - prompts.shape[1]), prompts], 1)
    alike = (numbers[:, :, None] == numbers[:, None]) & there[:, None]
    # what stands for none reads itself: nothing at all would be no number
    return (alike | torch.eye(there.shape[1], dtype=torch.bool, device=there.device))[:, None]


def _rotary(
    network: Any, many: int, grid: tuple[int, int], lengths: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """How words (1, T, d / 2) and picture (1 or B, N, d / 2) are turned, as complex numbers: words count on
    the first axis from 1, the picture follows there and counts on the others; filling stands at 0."""
    tables = _tables(network, device)
    axes = [table.shape[1] for table in tables]
    words = torch.ones(many, sum(axes), dtype=tables[0].dtype, device=device)
    words[:, : axes[0]] = tables[0][1 : many + 1]
    after = torch.tensor([many], device=device) if lengths is None else lengths
    first = tables[0][after + 1]  # (1 or B, d0)
    (rows, columns), size = grid, grid[0] * grid[1]
    parts = (
        first[:, None, None].expand(-1, rows, columns, -1),
        tables[1][:rows][None, :, None].expand(len(first), -1, columns, -1),
        tables[2][:columns][None, None].expand(len(first), rows, -1, -1),
    )
    picture = torch.cat(parts, -1).flatten(1, 2)
    filling = picture.new_ones(len(first), rounded_up(size) - size, picture.shape[-1])
    return words[None], torch.cat([picture, filling], 1)


def _tables(network: Any, device: torch.device) -> list[Tensor]:
    """e^(i place / theta^(2 j / d)) by axis (places, d / 2), once for each device."""
    by_device: dict[torch.device, list[Tensor]] = network.__dict__.setdefault("_turns_by_device", {})
    if device not in by_device:
        made = []
        for width, places in zip(network.axes_dims, network.axes_lens):
            speeds = 1 / network.rope_theta ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
            angles = torch.outer(torch.arange(max(places, _PLACES), dtype=torch.float64), speeds).float()
            made.append(torch.polar(torch.ones_like(angles), angles).to(device))
        if device.type == "meta":
            return made
        by_device[device] = made
    return by_device[device]


# --------------------------------------------------------------------------------------------------- the seam


@dataclass(frozen=True, eq=False)
class LayerTold:
    """What a layer's attention is told where there are users: in the place of its mask."""

    users: Pass
    there: Tensor | None  # (B, N) bool: which keys a row has; None: all
    picture: int  # tokens of the picture; what stands behind them fills up


class ZImageSites:
    """A Z-Image transformer's attention for the seam: the layers in which words and picture meet."""

    carrier = "joint_attention_kwargs"
    name = "attention_users"

    def __init__(self, transformer: nn.Module) -> None:
        network: Any = transformer
        self.processors: list[tuple[Any, Any]] = [
            (layer.attention, ZImageProcessor(f"layers.{number}.attention", layer.attention.processor))
            for number, layer in enumerate(network.layers)
        ]

    def lengthened(
        self, inputs: tuple[Any, ...], options: dict[str, Any], user: AttentionUser
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        arguments = {**dict(zip(_ARGUMENTS, inputs)), **options}
        behind = user.behind(arguments["encoder_hidden_states"])
        return (inputs, options) if behind is None else ((), {**arguments, "behind": behind})

    def ready(self, options: dict[str, Any], users: Pass) -> None:
        """Layers are told by the carrier."""

    def hooks(self) -> list[Any]:
        return []

    def passing(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Any, Pass]:
        """The time is that of the process again, noise at 1."""
        arguments = {**dict(zip(_ARGUMENTS, inputs)), **options}
        latents = arguments["hidden_states"]
        grid = tuple(-(-side // 2) for side in latents.shape[-2:])
        text = rounded_up(arguments["encoder_hidden_states"].shape[1])
        text += arguments["behind"].states.shape[1] if arguments.get("behind") else 0
        return latents, 1 - arguments["timestep"], Pass({}, grid, text)  # type: ignore[arg-type]


class ZImageProcessor:
    """A layer's attention as ZSingleStreamAttnProcessor computes it, with users; without, as usual."""

    def __init__(self, name: str, usual: Any) -> None:
        self._name, self._usual = name, usual

    def __call__(
        self,
        layer: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Any = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        if not isinstance(attention_mask, LayerTold):
            return self._usual(layer, hidden_states, encoder_hidden_states, attention_mask, freqs_cis)
        mask, users = attention_mask, attention_mask.users

        def in_heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (layer.heads, -1))

        def rotate(x: Tensor) -> Tensor:
            return _rotated(x, freqs_cis)

        def to_k(text: Tensor) -> Tensor:
            return layer.norm_k(in_heads(layer.to_k(text)))

        def to_v(text: Tensor) -> Tensor:
            return in_heads(layer.to_v(text))

        def compute(q: Tensor, k: Tensor, v: Tensor, bias: Bias | None) -> Tensor:
            return attend(rotate(q), rotate(k), v, bias, mask.there)

        q = layer.norm_q(in_heads(layer.to_q(hidden_states)))
        text, image = slice(0, users.text), slice(users.text, users.text + mask.picture)
        site = AttentionSite(
            self._name, layer.heads, text, image, users.latents, to_k, to_v, rotate,
            None if mask.there is None else mask.there[:, text],
        )  # fmt: skip
        out = users.attention(site, q, to_k(hidden_states), to_v(hidden_states), compute)
        return layer.to_out[1](layer.to_out[0](out.flatten(2).to(hidden_states.dtype)))


def _rotated(x: Tensor, turns: Tensor | None) -> Tensor:
    """Queries or keys (B, N, heads, d) turned by (1 or B, N, d / 2) complex numbers."""
    if turns is None:
        return x
    turned = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turns[:, :, None]
    return torch.view_as_real(turned).flatten(-2).type_as(x)
