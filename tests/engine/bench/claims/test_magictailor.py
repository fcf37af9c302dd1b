"""The person with somebody else's hair, as MagicTailor's claims know them."""

import numpy as np

from likeness_portraits.engine.bench.claims.magictailor import (
    OWN,
    SUBJECT_PARTS,
    donor,
    subject_without_hair,
    with_hair_of,
)
from likeness_portraits.engine.miniature import world

BEARDED = next(
    seed
    for seed in world.TUNING_SEEDS
    if world.sample_identity(seed).beard == "full" and world.sample_identity(seed).hair_style != "bald"
)


def colour_of(who: world.Character, part: str) -> np.ndarray:
    portrait = world.render(who, world.sample_context(0, hat="none", glasses="none", style="photo"))
    return portrait.pixels[portrait.mask((part,)) > 0].mean(0)


def test_the_hair_is_the_others_and_beard_and_brows_stay_the_persons():
    mine, other = world.sample_identity(BEARDED), world.sample_identity(donor(BEARDED))
    both = with_hair_of(BEARDED, donor(BEARDED))
    assert (both.hair_style, both.hair_colour) == (other.hair_style, other.hair_colour)
    assert all(getattr(both, name) == getattr(mine, name) for name in OWN)
    for part, whose in (("hair", other), ("beard", mine), ("brow", mine)):
        assert np.abs(colour_of(both, part) - colour_of(whose, part)).max() < 25, part
        another = other if whose is mine else mine
        assert np.abs(colour_of(both, part) - colour_of(another, part)).max() > 40, part


def test_the_subjects_masks_hold_what_is_to_stay():
    assert {"beard", "brow"} <= set(SUBJECT_PARTS) and "hair" not in SUBJECT_PARTS
    for picture, portrait in zip(subject_without_hair(BEARDED).pictures, world.example_pictures(BEARDED, 4)):
        assert (picture.mask >= portrait.mask(("beard",))).all() and not (
            picture.mask * portrait.mask(("hair",))
        ).any()
