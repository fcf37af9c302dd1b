"""Inside FLUX.2's attention: regions and staged words in ComfyUI are the engine's, beside other packs'."""

from typing import Any

import pytest

pytestmark = pytest.mark.comfy
SCRIPT = "flux2_seam.py"


def test_a_pass_with_regions_is_the_engines_before_and_after_other_packs_patches(known: dict[str, Any]):
    found = known["passes"]
    assert max(found[name] for name in ("regions", "after another", "before another")) <= 1e-4
    assert found["seen by a prompt without"] <= 1e-5 and min(found["seen"], found["seen of the other"]) > 1e-3


def test_pictures_with_regions_and_their_heat_maps_are_the_engines(known: dict[str, Any]):
    found = known["regions"]
    assert found["pictures"] >= 40 and found["maps"] <= 1e-4
    assert found["seen"] > 0.01 and found["maps' size"] > 1e-3
    assert found["maps of a block"] <= 1e-4 and found["of a block alone"] > 0.01  # those that the row names


def test_neutral_regions_change_no_bit_and_the_next_prompt_starts_clean(known: dict[str, Any]):
    assert known["regions"]["neutral"] == 0 and known["regions"]["afterwards"] == 0


def test_staged_prompts_are_the_engines_stage_by_stage_also_in_a_region(known: dict[str, Any]):
    found = known["staged"]
    assert found["entries"] == found["stages"] == 6 and found["moved"] == 4
    assert found["states"] <= 1e-4 and found["offsets"] <= 1e-5
    assert found["pictures"] >= 40 and found["in a region"] >= 40
    assert found["region seen"] > 1e-3 and found["bypass seen"] > 1e-3 and found["next prompt"] == 0


def test_people_in_regions_at_some_noise_levels_are_the_engines_beside_words_kept_in_regions(
    known: dict[str, Any],
):
    people = known["people"]
    assert min(people["pictures"], people["beside regions"]) >= 40
    assert people["seen"] > 0.01 and people["learned on"] == 2


def test_an_identity_without_weight_changes_no_bit_and_the_next_prompt_starts_clean(known: dict[str, Any]):
    assert known["people"]["neutral"] == 0 and known["people"]["afterwards"] == 0


def test_other_packs_patches_are_heard_beside_an_identity(known: dict[str, Any]):
    assert known["people"]["foreign"] >= 40
