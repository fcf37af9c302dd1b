"""Claims as they are written: a sentence and a comparison."""

import pytest

from likeness_portraits.engine.bench.claims.bench import Claim
from likeness_portraits.engine.bench.claims.written import claims_of


def test_a_sentence_and_a_comparison_make_a_claim():
    first, second, third = claims_of(
        """
        Words carry a likeness
            textual-inversion, whole pictures > base in identity
        … and obey prompts as well, within 5 points
            textual-inversion >= base - 0.05 in prompt

        Broken words do not
            broken <= base + 0.1 in identity
        """
    )
    assert first == Claim(
        claim="Words carry a likeness",
        method="textual-inversion, whole pictures",
        against="base",
        metric="identity",
    )
    assert (second.better, second.margin, second.metric) == ("not lower", 0.05, "prompt")
    assert (third.better, third.margin, third.against) == ("not higher", 0.1, "base")


def test_a_line_that_compares_nothing_is_refused():
    with pytest.raises(ValueError, match="'identity of a against b' compares nothing"):
        claims_of("A sentence\nidentity of a against b")
