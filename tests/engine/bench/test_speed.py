"""The table of speeds: what stands in it, and that the plain loops learn in the same harness."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from likeness_portraits.engine.bases.loaders.random_base import random_base
from likeness_portraits.engine.bench.plain_loops import dreambooth_lora, textual_inversion
from likeness_portraits.engine.bench.speed import (
    _measure_method,
    allocated,
    measure_drawing,
    measure_speed,
    middle_half,
    speed_job,
    timed_methods,
)
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.tests.engine.tiny import tiny_base


def test_the_command_writes_a_list_with_steps_floors_ratios_and_peaks(likeness, tmp_path: Path):
    file = tmp_path / "speed.json"
    options = ["--method", "textual-inversion", "--steps", 2, "--resolution", 64, "--out", file]
    ran = likeness("bench", "speed", *options)
    assert ran.returncode == 0, ran.stderr
    ours, plain = json.loads(file.read_text())
    assert (ours["method"], plain["method"]) == ("textual-inversion", "diffusers: textual-inversion")
    assert (ours["base"], ours["device"], ours["steps"]) == ("miniature", "cpu", 2)
    low, high = ours["ratio_range"]
    assert low <= ours["ratio"] <= high
    assert 0.5 < ours["ratio"] < 2 and plain["ratio"] is None
    assert 30e6 < ours["peak_bytes"] < plain["peak_bytes"]


def test_an_adapters_stages_are_timed_beside_their_passes(tmp_path: Path):
    base = tiny_base()
    job = speed_job("masterweaver", base, tmp_path, 2, "fp32", None)
    job = replace(job, settings=replace(job.settings, batch_size=2))
    first, second = _measure_method(job, base, "tiny", print)
    assert [row["method"] for row in (first, second)] == ["masterweaver, identity", "masterweaver, editing"]
    assert first["floor_ms"] < second["floor_ms"]  # editing looks at everybody twice more, with other words
    for row in (first, second):
        assert 0.8 < row["ratio"] < 4 and row["peak_bytes"] > 1e6 and row["steps"] == 2
    assert not any(weight.requires_grad for weight in base.parameters())


def test_a_step_of_drawing_is_timed_with_regions_and_without(tmp_path: Path):
    base = tiny_base()
    job = speed_job("textual-inversion", base, tmp_path, 2, "fp32", None)
    rows = measure_drawing(job, base, "tiny", 2, torch.device("cpu"), print)
    names = ["drawing", "drawing, 2 people in regions", "drawing, 6 people in regions"]
    assert [row["method"] for row in rows] == names
    for row in rows:
        assert row["steps"] == 2 and row["floor_ms"] > 0 and row["ratio_range"][0] <= row["ratio_range"][1]


def test_the_middle_half_of_five_is_from_the_second_to_the_fourth():
    assert middle_half([5.0, 1.0, 9.0, 2.0, 3.0]) == (2.0, 5.0)


def test_what_cannot_be_timed_is_refused_by_name():
    with pytest.raises(LikenessError, match="'nothing' cannot be timed; choose from textual-inversion"):
        measure_speed("miniature", ["nothing"], 1, "fp32", None, print)
    with pytest.raises(LikenessError, match="unknown architecture 'sd16'.*sd15"):
        measure_speed("sd16", timed_methods(), 1, "fp32", None, print)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_plain_loops_move_what_they_train_and_nothing_else(family: str):
    base, pixels = tiny_base(family=family), torch.rand(2, 3, 32, 32) * 2 - 1
    tables = {name: encoder.get_input_embeddings().weight for name, encoder in base.text_encoders.items()}
    before = {name: table.detach().clone() for name, table in tables.items()}
    textual_inversion(base, pixels)()
    for name, table in tables.items():
        moved = (table != before[name]).any(1)
        assert 0 < moved.sum() < len(table) / 2
    base = tiny_base(family=family)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    dreambooth_lora(base, pixels, pixels, 4)()
    after = {name.replace(".base_layer", ""): weight for name, weight in base.state_dict().items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    added = {name: weight for name, weight in after.items() if name not in before}
    assert added and any("lora_B" in name and weight.any() for name, weight in added.items())


@pytest.mark.parametrize(
    ("arch", "millions", "side", "family"),  # millions in the network, pixels
    [("sd15", 860, 512, "sd1"), ("sd2", 866, 768, "sd2"), ("sdxl", 2567, 1024, "sdxl"),
     ("klein4b", 3876, 1024, "flux2"), ("z-image", 6155, 1024, "z_image"),
     ("krea2", 12820, 1024, "krea2")],
)  # fmt: skip
def test_random_bases_have_the_real_sizes(arch: str, millions: int, side: int, family: str):
    if arch == "krea2":
        pytest.importorskip("diffusers", "0.39")
    if arch in ("klein4b", "z-image"):
        pytest.importorskip("diffusers", "0.36")
        pytest.importorskip("transformers", "4.51")
    base = random_base(arch, torch.device("meta"))
    assert round(sum(weight.numel() for weight in base.network.parameters()) / 1e6) == millions
    assert (base.resolution, base.family) == (side, family)


def test_allocations_are_counted_to_the_byte():
    def work() -> None:
        first = torch.zeros(1 << 20)
        del first
        second = torch.zeros(1 << 19)
        torch.zeros(1 << 18)
        del second

    assert allocated(work) == 4 << 20
