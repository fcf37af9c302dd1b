"""Regions in attention: in a pass, the words of each prompt act in their places. One for both halves.

A region is a bias on the logits of its words. Where it reads a prompt of its own, that prompt's keys and
values stand behind those of the whole one, for the samples of that prompt alone. In joint attention words
read the picture too, and so could carry a face elsewhere: there the bias is on what words ask of the picture
and of other regions' words as well, and prompts of their own pass through the network behind the whole one,
each among itself and its region.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..bases.attention import WHOLE, AttentionSite, AttentionUser, Behind, Bias
from ..staged.text import TextStates
from .refocus import Area, LogMasks, Maps, places_in_all, word_attention

_BIASES = 256  # that are kept at once
_JOINT_BIASES = 4  # of all tokens to all: 42 MB each at 1024 pixels in half precision


class RegionsFound(Exception):
    """Ends a drawing that was only to find regions."""


@dataclass(frozen=True, eq=False)
class FocusedPrompt:
    """A prompt with regions for some of its words, as it is at one noise level."""

    masks: LogMasks  # of its words, the spots
    length: int  # of its text states, before lengths were evened out
    own: Sequence[TextStates] = ()  # what regions read that have a prompt of their own, in order (1, T, D)
    maps: Sequence[Maps] = ()  # where its words' attention is added up, one for each
    area: Area | None = None  # of the latents that its passes are over; None: all
    _known: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)

    @property
    def behind(self) -> int:
        """How many text states stand behind its own."""
        return sum(states.keys.shape[1] for states in self.own)

    def projected(self, site: AttentionSite, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (1, T, heads, d) of what its regions read, which a site makes once."""
        if site.name not in self._known:
            keys, values = (
                torch.cat([getattr(states, side).to(like) for states in self.own], 1)
                for side in ("keys", "values")
            )
            self._known[site.name] = site.to_k(keys), site.to_v(values)
        return self._known[site.name]

    def joint_bias(self, site: AttentionSite, size: int, behind: int, progress: float) -> Tensor | None:
        """(1 or n, size, size) for a site of so many tokens, the last `behind` of whose words are what
        regions read; None where nothing is added."""
        assert site.grid is not None and site.text is not None
        seen = self.masks.at(site.grid, self.length, progress)
        if seen is None and not behind:
            return None
        front = site.text.stop - behind
        whole = torch.zeros(1 if seen is None else len(seen), size, size)
        _kept_apart(whole, front, [states.keys.shape[1] for states in self.own], site.text.stop)
        if seen is None:
            return whole
        whole, behind_it = whole.to(seen), seen[..., self.length :]
        whole[:, site.image, : self.length] = seen[..., : self.length]
        whole[:, site.image, front : front + behind_it.shape[-1]] = behind_it
        self.masks.words_at(whole, site, front, progress)
        return whole

    def bias(
        self, grid: tuple[int, int], front: int, even: int, total: int, progress: float
    ) -> Tensor | None:
        """(1 or n, Q, total) for a site whose keys are the prompt, repeated up to `even`, what others put
        behind it up to `front`, and what regions read; None where nothing is added."""
        mask = self.masks.at(grid, self.length, progress)
        if mask is None or (mask.shape[-1] == total and even == self.length):
            return mask
        whole = mask.new_zeros(*mask.shape[:2], total)
        times, behind = max(1, even // self.length), mask[..., self.length :]
        whole[..., : times * self.length] = mask[..., : self.length].repeat(1, 1, times)
        whole[..., front:] = float("-inf")
        whole[..., front : front + behind.shape[-1]] = behind
        return whole


class Regions(AttentionUser):
    """The regions of all prompts in a pass.

    `prompts`: for runs of the pass's samples, how many, and their prompt; None: one without regions. `even`:
    how many text states all prompts were repeated to; None: as many as there are. `biases` keeps what was
    made, for as long as the prompts' masks live. `record` adds the words' attention to the prompts' maps, of
    the sites `maps_at`, or of all where that names none.
    """

    def __init__(
        self, prompts: Sequence[tuple[int, FocusedPrompt | None]], progress: float,
        biases: dict[Any, Any], *, even: int | None = None, record: bool = False,
        maps_at: Collection[str] = (),
    ) -> None:  # fmt: skip
        self._maps_at = maps_at
        self._prompts, self._progress, self._biases = prompts, progress, biases
        self._even, self._record = even, record
        self._acting = [
            prompt if prompt is not None and prompt.masks.acts(progress) else None for _, prompt in prompts
        ]
        self.needed = record or any(prompt is not None for prompt in self._acting)
        self._behind = max((prompt.behind for prompt in self._acting if prompt is not None), default=0)

    def before(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None
    ) -> tuple[Tensor, Tensor, Tensor, Bias | None]:
        if site.grid is None:
            return q, k, v, bias
        front = k.shape[1]
        added = self._added(site, front, q)
        if any(part is not None for part in added):
            if self._behind and not site.joint:
                k, v = self._lengthened(site, k, v)
            assert bias is None  # nobody else adds any
            bias = Bias(_merged([count for count, _ in self._prompts], added), front)
        if self._record and (not self._maps_at or site.name in self._maps_at):
            words = front if not site.joint or site.text is None else site.text.stop - self._behind
            self._remember(site, q, k, words, added)
        return q, k, v, bias

    def behind(self, text: Tensor) -> Behind | None:
        if not self._behind:
            return None
        states = text.new_zeros(len(text), self._behind, text.shape[-1])
        places = torch.zeros(len(text), self._behind, dtype=torch.long, device=text.device)
        of, start, layouts = torch.zeros_like(places), 0, []
        for (count, _), prompt in zip(self._prompts, self._acting):
            if prompt is not None and prompt.own:
                rows, filled = slice(start, start + count), prompt.behind
                states[rows, :filled] = torch.cat([part.keys.to(text) for part in prompt.own], 1)
                layouts.append([part.keys.shape[1] for part in prompt.own])
                places[rows, :filled] = _each_from_its_beginning(layouts[-1], text.device)
                of[rows, :filled] = torch.cat([_numbered(part, n) for n, part in enumerate(prompt.own, 1)])
            start += count
        longest = max(layouts, key=sum)
        if all(layout == longest[: len(layout)] for layout in layouts):  # where others end, nobody reads
            places = _each_from_its_beginning(longest, text.device)
        return Behind(states, places, of)

    def _added(self, site: AttentionSite, front: int, like: Tensor) -> list[Tensor | None]:
        """By prompt, what is added to its logits."""
        grid = site.grid
        assert grid is not None
        strengths = [
            prompt and (prompt.masks, prompt.length, prompt.masks.strengths(self._progress))
            for prompt in self._acting
        ]
        key = (grid, front, self._even, like.dtype, site.joint, *strengths)
        if key not in self._biases:
            if len(self._biases) >= (_JOINT_BIASES if site.joint else _BIASES):
                self._biases.clear()
            even = front if self._even is None else min(self._even, front)
            biases = [
                self._joint_bias(prompt, site, front)
                if site.joint
                else prompt and prompt.bias(grid, front, even, front + self._behind, self._progress)
                for prompt in self._acting
            ]
            self._biases[key] = [None if part is None else part.to(like) for part in biases]
        return self._biases[key]

    def _joint_bias(self, prompt: FocusedPrompt | None, site: AttentionSite, size: int) -> Tensor | None:
        if prompt is not None:
            return prompt.joint_bias(site, size, self._behind, self._progress)
        if not self._behind or site.text is None:
            return None
        whole = torch.zeros(1, size, size)  # of a prompt without regions, that passes beside one with them
        _kept_apart(whole, site.text.stop - self._behind, [], site.text.stop)
        return whole

    def _lengthened(self, site: AttentionSite, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with what regions read behind; zeros, which nobody reads, where there is less."""
        rows, front, _, _ = k.shape
        longer = [part.new_zeros(rows, front + self._behind, *part.shape[2:]) for part in (k, v)]
        for whole, given in zip(longer, (k, v)):
            whole[:, :front] = given
        start = 0
        for (count, _), prompt in zip(self._prompts, self._acting):
            if prompt is not None and prompt.own:
                for whole, projected in zip(longer, prompt.projected(site, k)):
                    whole[start : start + count, front : front + projected.shape[1]] = projected
            start += count
        return longer[0], longer[1]

    def _remember(
        self, site: AttentionSite, q: Tensor, k: Tensor, front: int, added: Sequence[Tensor | None]
    ) -> None:
        if site.rotate is not None and site.text is not None:
            q, k = site.rotate(q)[:, site.image], site.rotate(k)[:, site.text]
            added = [part if part is None else part[:, site.image, site.text] for part in added]
        start = 0
        for (count, prompt), part in zip(self._prompts, added):
            rows, start = slice(start, start + count), start + count
            if prompt is None or not prompt.maps:
                continue
            spots, longer = prompt.masks.spots, part is not None
            words = [places_in_all(spots, number, front, longer) for number in range(len(spots))]
            seen = WHOLE if longer or site.joint else slice(front)
            if site.there is not None:  # words that only longer prompts beside it have
                absent = torch.zeros_like(site.there[rows], dtype=q.dtype)
                absent = absent.masked_fill(~site.there[rows], float("-inf"))[:, None]  # (n, 1, T)
                part = absent if part is None else part + absent
            shares = word_attention(q[rows], k[rows, seen], words, part)
            assert site.grid is not None
            for number, maps in enumerate(prompt.maps):
                maps.add(shares[:, number : number + 1], site.grid, prompt.area)


def _each_from_its_beginning(lengths: Sequence[int], device: torch.device) -> Tensor:
    """The places at which prompts of these lengths, one behind the other, are read."""
    return torch.cat([torch.arange(length, device=device) for length in lengths])


def _numbered(part: TextStates, number: int) -> Tensor:
    """A prompt's number at each of its states (T,), 0 at those of padding."""
    if part.there is None:
        return torch.full((part.keys.shape[1],), number, device=part.keys.device)
    return number * part.there[0].long()


def _kept_apart(whole: Tensor, front: int, lengths: Sequence[int], end: int) -> None:
    """Bars words of different prompts from each other in a bias (B, N, N): the first `front` are the whole
    prompt's, then those of prompts so long, and up to `end` none, which nobody reads."""
    whole[:, :, front:end] = float("-inf")
    whole[:, front:end, :front] = float("-inf")
    start = front
    for length in (*lengths, end - front - sum(lengths)):
        whole[:, start : start + length, start : start + length] = 0
        start += length


def _merged(counts: Sequence[int], added: Sequence[Tensor | None]) -> list[tuple[int, Tensor | None]]:
    """Neighbours among the parts of a bias that can go through one fused call, as one."""
    parts: list[tuple[int, Tensor | None]] = []
    for count, part in zip(counts, added):
        last = parts[-1][1] if parts else None
        if parts and (last is None) == (part is None):
            before, _ = parts.pop()
            if part is not None and last is not None:
                part = torch.cat([last.expand(before, -1, -1), part.expand(count, -1, -1)])
            count += before
        parts.append((count, part))
    return parts
