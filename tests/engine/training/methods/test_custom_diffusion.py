"""Custom Diffusion: what it trains, and that its differences go into a LoRA file without loss."""

from pathlib import Path

import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.methods.custom_diffusion import factors
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person


def test_a_difference_of_rank_one_is_stored_as_rank_one():
    column, row = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 0.0, 4.0]])
    down, up = factors(column @ row)
    assert down.shape == (1, 3) and up.shape == (2, 1)
    assert torch.allclose(up @ down, column @ row, atol=1e-6)


def test_all_of_a_difference_is_kept_unless_a_rank_is_asked_for():
    shift = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    down, up = factors(shift)
    assert torch.allclose(up @ down, shift, atol=1e-6)
    assert factors(shift, rank=2)[0].shape == (2, 4)


def test_a_layer_that_learned_nothing_still_makes_a_file():
    down, up = factors(torch.zeros(3, 2))
    assert torch.equal(up @ down, torch.zeros(3, 2))


def test_only_keys_and_values_of_the_prompt_are_trained(tmp_path: Path):
    write_person(tmp_path / "person")
    job = tiny_job("custom-diffusion", tmp_path)
    artifact = Artifact.load(train(job, base=tiny_base()))
    names = {name.split(".")[0] for name in artifact.lora()}
    assert names and all(name.endswith(("attn2_to_k", "attn2_to_v")) for name in names)
    assert artifact.kind == "lora" and artifact.rows("<v0>")["clip_l"].shape == (job.settings.vectors, 32)


def test_the_published_start_is_a_rare_word_before_the_class_word(tmp_path: Path):
    write_person(tmp_path / "person")
    job = tiny_job("custom-diffusion", tmp_path, settings={"identifier": "sks"})
    base = tiny_base()
    artifact = Artifact.load(train(job, base=base))
    assert len(artifact.rows("<v0>")["clip_l"]) == len(base.word_rows("sks woman")["clip_l"]) > 1
