"""What adapter training sees of a sample, against the reference's numbers."""

from functools import partial

import numpy as np
import torch

from likeness_portraits.engine.data.identity_examples import (
    EDITING_KINDS,
    Slot,
    cubic,
    dropped,
    references,
    slots,
    square,
    target,
)
from likeness_portraits.engine.data.shard_sources import rendered
from likeness_portraits.tests.golden.goldens import Golden

golden = partial(Golden, "masterweaver")


def test_reference_slots_are_filled_as_the_reference_fills_them():
    case = golden("reference_slots")

    def shade(slot: Slot | None) -> int:
        if slot is None:
            return 0
        return (230 if slot.face is None else 40 + 30 * slot.face) + 1000 * slot.augmented

    for (faces, edited, kind, fill), wanted in zip(case["in.cases"].tolist(), case["out.slots"].tolist()):
        assert [shade(slot) for slot in slots(faces, bool(edited), kind, bool(fill))] == wanted


def test_conditions_are_dropped_at_the_references_thresholds():
    case = golden("conditioning_drop")
    found = [list(map(int, dropped(draw))) for draw in case["in.draw64"].tolist()]
    assert found == case["out.image_text_dropped"].tolist()


def test_a_target_is_resized_as_the_reference_resizes_it():
    case = golden("target_image")
    found = cubic(case["in.image_u8"].numpy(), int(case["in.size"]))
    off = (found - case["out.image"]).abs()
    assert off.max() <= 1.01 / 127.5 and (off > 1e-6).float().mean() <= 0.01


def test_a_square_is_cut_around_the_face():
    assert square((100, 300), [np.array([[250, 50], [270, 60]], np.float32)]) == (
        slice(0, 100),
        slice(200, 300),
    )
    assert square((100, 300), []) == (slice(0, 100), slice(100, 200))


def test_the_same_generator_gives_the_same_references_and_the_box_holds_the_face():
    sample = next(iter(rendered(range(3, 4), each=1, twins=2)))
    first, second = (references(sample, 64, np.random.default_rng(5), kinds=EDITING_KINDS) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels) and first.filled.any()
    pixels, box = target(sample, 64)
    assert pixels.shape == (3, 64, 64) and pixels.abs().max() <= 1
    points = torch.from_numpy(sample.faces[0].landmarks[:5] / 2).long()
    assert box[0, points[:, 1], points[:, 0]].all() and not box.all()


def test_an_edited_face_that_is_called_for_and_missing_is_said():
    sample = next(iter(rendered(range(3, 4), each=1, twins=0)))
    found = references(sample, 32, np.random.default_rng(0), kinds=(0, 0, 1), fill=0.0)
    assert found.wanted_edit and not found.filled.any()
