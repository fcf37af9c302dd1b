"""Which kind of adapter a LoRA method trains, on which layers, and with which rank in which of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import LikenessError
from .checks import RANKS

ADAPTERS = ("lora", "dora", "loha", "lokr", "oft")
ADAPTED = ("attention", "feed-forward", "convolutions")  # each with those before it
_ENTRY = re.compile(r"(?P<pattern>.+?)=(?P<rank>\d+)(?::(?P<alpha>[\d.]+))?")
_PLAIN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[:=!]")  # escapes, classes, how groups begin
_REPEAT = re.compile(r"[*+?{]")
_LONGEST, _REPEATS, _ALTERNATIVES = 120, 3, 4  # of a pattern: with more it might be looked for without end


@dataclass(frozen=True)
class BlockRank:
    """The rank and alpha of layers whose path a pattern is found in."""

    pattern: str  # a regular expression, searched for in layers' paths
    rank: int
    alpha: float | None  # None: as rank to rank, what the run's is


def block_ranks(entries: Sequence[str]) -> tuple[BlockRank, ...]:
    """What `up_blocks=32` and `mid_block=8:4` (rank, alpha) say; the first pattern that is found counts."""
    ranks = []
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        try:
            alpha = float(match["alpha"]) if match and match["alpha"] else None
            if match is None or not 0 < int(match["rank"]) <= RANKS or alpha == 0:
                raise ValueError(entry)
            re.compile(match["pattern"])
            _check_found_soon(match["pattern"])
        except (ValueError, re.error) as error:
            raise LikenessError(
                f"'rank_by_block' holds '{entry:.80}'; write a part of layers' paths and a rank, such as "
                "up_blocks=32 or, with an alpha, mid_block=8:4"
            ) from error
        ranks.append(BlockRank(match["pattern"], int(match["rank"]), alpha))
    return tuple(ranks)


def _check_found_soon(pattern: str) -> None:
    """Refuses what Python's search may take ages over: repeated groups, many repeats, many alternatives."""
    left = _PLAIN.sub("x", pattern)
    grouped = re.search(r"\)[*+?{]|\(\?", left)  # flags too: in some, spaces may stand between both
    many = len(_REPEAT.findall(left)) > _REPEATS or left.count("|") > _ALTERNATIVES
    if grouped or many or len(pattern) > _LONGEST:
        raise LikenessError(
            f"'rank_by_block' holds '{pattern:.80}', which could be searched for without end; write at most "
            f"{_REPEATS} repeats (* + ? {{}}), none after a group, {_ALTERNATIVES} | and {_LONGEST} letters"
        )
