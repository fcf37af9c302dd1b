"""The Miniature's world: procedural portraits whose every attribute, part and landmark is known exactly.

A character (who somebody is) is sampled apart from context (scene, clothes, pose, style): the same person can
be drawn anywhere.  Everything is deterministic by seed.  Drawing needs Pillow and NumPy only.

Coordinates: x and y in [-1, 1], x to the right, y downwards, (0, 0) in the middle of the picture.

The way of the data: a seed becomes a `Character` or a `Context` (`people`); both become a `Portrait`
(`portraits`, with `scenes` and `bodies` on a `canvas`) and sentences about it (`captions`).
"""

from .captions import (
    BEARD_WORDS,
    GLASSES_WORDS,
    HAT_WORDS,
    SCENE_WORDS,
    STYLE_WORDS,
    TEST_CONTEXTS,
    altered_caption,
    caption,
    context_phrase,
    identity_phrases,
    stated_attributes,
    test_context,
    test_prompts,
)
from .people import (
    ATTRIBUTES,
    CLOTHES_COLOURS,
    CONTEXT_ATTRIBUTES,
    EYE_COLOURS,
    FACE_PARTS,
    FACE_SHAPES,
    HAIR_COLOURS,
    IDENTITY_ATTRIBUTES,
    LANDMARKS,
    LAYOUTS,
    PART_ID,
    PARTS,
    REPORTING_SEEDS,
    SKINS,
    TRAINING_SEEDS,
    TUNING_SEEDS,
    Character,
    Context,
    Portrait,
    attributes,
    class_word,
    hidden_attributes,
    sample_context,
    sample_identity,
)
from .portraits import example_pictures, render

__all__ = [
    "ATTRIBUTES", "BEARD_WORDS", "CLOTHES_COLOURS", "CONTEXT_ATTRIBUTES", "EYE_COLOURS", "FACE_PARTS",
    "FACE_SHAPES", "GLASSES_WORDS", "HAIR_COLOURS", "HAT_WORDS", "IDENTITY_ATTRIBUTES", "LANDMARKS",
    "LAYOUTS", "PARTS", "PART_ID", "REPORTING_SEEDS", "SCENE_WORDS", "SKINS", "STYLE_WORDS", "TEST_CONTEXTS",
    "TRAINING_SEEDS", "TUNING_SEEDS", "Context", "Character", "Portrait", "altered_caption", "attributes",
    "caption", "class_word", "context_phrase", "example_pictures", "hidden_attributes", "identity_phrases",
    "render", "sample_context", "sample_identity", "stated_attributes", "test_context", "test_prompts",
]  # fmt: skip
