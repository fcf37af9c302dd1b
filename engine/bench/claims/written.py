"""Claims as they are written: a sentence, and below it the comparison that would bear it out."""

import re

from .bench import Claim

_COMPARED = re.compile(
    r"(?P<method>.+?) (?P<sign><=|>=|<|>) (?P<against>.+?)(?: [-+] (?P<margin>[\d.]+))? in (?P<metric>\w+)"
)
_BETTER = {">": "higher", "<": "lower", ">=": "not lower", "<=": "not higher"}


def claims_of(text: str) -> tuple[Claim, ...]:
    """Two lines each: `A sentence`, `an arm > another in metric`; blank lines aside.

    `>=` and `<=` are "not lower" and "not higher", by the margin behind the other arm's name:
    `an arm >= another - 0.05 in metric`. Raises ValueError for a line that compares nothing.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    claims = []
    for sentence, comparison in zip(lines[::2], lines[1::2], strict=True):
        match = _COMPARED.fullmatch(comparison)
        if match is None:
            raise ValueError(f"'{comparison}' compares nothing; write 'an arm > another in metric'")
        claims.append(
            Claim(
                claim=sentence, method=match["method"], against=match["against"], metric=match["metric"],
                better=_BETTER[match["sign"]], margin=float(match["margin"] or 0),
            )
        )  # fmt: skip
    return tuple(claims)
