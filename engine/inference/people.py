"""Several people in one picture: which word of the prompt is whose, and where each of them belongs."""

from collections.abc import Sequence

from ..config import TOKEN
from ..errors import LikenessError
from .refocus import Box


def names_in(prompt: str, likenesses: Sequence[Sequence[str]]) -> list[list[str]]:
    """What each likeness is called in the prompt, for its placeholders in their order.

    A likeness keeps its placeholders where the prompt has them and none before it has the same; the others
    take the words of the prompt that are left, in the order in which they stand there. So two people who were
    both learned as `<v0>` are drawn by "<anna> and <ben>". Raises where the prompt has no word left.
    """
    free = list(dict.fromkeys(TOKEN.findall(prompt)))
    named: list[list[str]] = []
    for tokens in likenesses:
        named.append([token if token in free else "" for token in tokens])
        free = [word for word in free if word not in tokens]
    for number, (tokens, names) in enumerate(zip(likenesses, named), start=1):
        if not tokens:
            raise LikenessError(
                f"likeness {number} has no trigger word that could be kept in a region; connect one that was "
                "learned as a word or a LoRA with one"
            )
        if not any(names):
            if not free:
                raise LikenessError(
                    f"the prompt '{prompt}' has no trigger word for likeness {number}; write {tokens[0]}, or "
                    "any other such as <anna>, where that person belongs"
                )
            names[0] = free.pop(0)
    taken = {name for names in named for name in names}
    for tokens, names in zip(likenesses, named):
        for place, token in enumerate(tokens):
            names[place] = names[place] or _unused(token, taken)
            taken.add(names[place])
    return named


def _unused(token: str, taken: set[str]) -> str:
    """A placeholder like this one that nobody has, for a part of a likeness that the prompt leaves out."""
    names = (token, *(f"<{token.strip('<>')}-{number}>" for number in range(2, 100)))
    return next(name for name in names if name not in taken)


def boxes_of(layout: str, count: int) -> list[Box]:
    """Where so many people stand, from left to right."""
    if layout == "thirds":
        if count > 3:
            raise LikenessError(f"there are {count} people but three thirds; choose side by side")
        third = {1: (1,), 2: (0, 2), 3: (0, 1, 2)}[count]
        return [(place / 3, 0.0, 1 / 3, 1.0) for place in third]
    return [(place / count, 0.0, 1 / count, 1.0) for place in range(count)]
