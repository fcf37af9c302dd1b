"""How long it takes from Enter to a first step on the Miniature."""

import resource
from collections.abc import Callable
from pathlib import Path

from likeness_portraits.engine.data.concepts import Concept, Picture, write_concept
from likeness_portraits.engine.miniature import world

PATIENCE = 15.0  # processor seconds: ten on a quiet machine, and what two programs on one core take from each


def test_learning_from_the_command_line_takes_its_first_step_in_seconds(likeness: Callable, tmp_path: Path):
    portraits = world.example_pictures(world.TUNING_SEEDS[0])[:4]
    pictures = tuple(Picture(str(i), portrait.pixels) for i, portrait in enumerate(portraits))
    folder = write_concept(tmp_path / "ann", Concept("<v0>", "woman", "subject", pictures))
    out = tmp_path / "ann.safetensors"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = likeness("train", "textual-inversion", folder, "--steps", 1, "-o", out, "--device", "cpu")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.returncode == 0 and out.exists(), ran.stderr
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert worked < PATIENCE, f"{worked:.1f} s of work until one step was taken and written"
