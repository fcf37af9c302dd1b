"""LoRAs merged, resized, extracted and measured without learning."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.engine.artifact.lora_tools import (
    Rank,
    difference,
    merged_loras,
    norms_by_block,
    resized,
    whole_updates,
)
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError

NAME, CONV = "lora_unet_up_blocks_0_attentions_0_proj", "lora_unet_mid_block_resnets_0_conv1"


class Sizes(TorchDispatchMode):
    """Notes how many numbers every tensor has that is made within."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple) else (result,):
            self.sizes += [one.numel()] if isinstance(one, torch.Tensor) else []
        return result


def matrix(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora(seed: int, rank: int = 2, alpha: float = 3.0) -> dict[str, torch.Tensor]:
    return {
        f"{NAME}.lora_down.weight": matrix(rank, 6, seed=seed),
        f"{NAME}.lora_up.weight": matrix(5, rank, seed=seed + 1),
        f"{NAME}.alpha": torch.tensor(alpha),
        f"{CONV}.lora_down.weight": matrix(rank, 4, 3, 3, seed=seed + 2),
        f"{CONV}.lora_up.weight": matrix(5, rank, 1, 1, seed=seed + 3),
    }


def test_a_merge_does_what_both_do_together_with_their_strengths():
    first, second = lora(1), lora(5, rank=3)
    merged = merged_loras([(first, 1.0), (second, -0.5)], Rank(8), peft=False)
    for name, update in whole_updates(merged):
        expected = dict(whole_updates(first))[name].flatten(1) - 0.5 * dict(whole_updates(second))[
            name
        ].flatten(1)
        torch.testing.assert_close(update.flatten(1), expected, atol=1e-5, rtol=1e-4)
    assert merged[f"{CONV}.lora_down.weight"].shape == (5, 4, 3, 3)
    assert merged[f"{CONV}.lora_up.weight"].shape == (5, 5, 1, 1)


def test_a_smaller_lora_is_off_by_the_singular_values_that_it_lacks():
    whole, small = lora(1, rank=4), resized(lora(1, rank=4), Rank(2), peft=False)
    assert small[f"{NAME}.lora_down.weight"].shape == (2, 6) and small[f"{NAME}.alpha"] == 2
    before = dict(whole_updates(whole))[NAME]
    lost = torch.linalg.svdvals(before)[2:].square().sum().sqrt()
    assert (before - dict(whole_updates(small))[NAME]).norm() == pytest.approx(float(lost), rel=1e-4)


def test_a_lora_is_taken_apart_in_its_halves_and_gives_what_its_whole_layers_would():
    """At a layer of 192 x 320, with another's at a strength below zero; no matrix of that size is made."""
    plain = {f"{NAME}.lora_down.weight": matrix(4, 320, seed=1), f"{NAME}.alpha": torch.tensor(3.0),
             f"{NAME}.lora_up.weight": matrix(192, 4, seed=2)}  # fmt: skip
    other = {f"{NAME}.lora_down.weight": matrix(5, 320, seed=3),
             f"{NAME}.lora_up.weight": matrix(192, 5, seed=4)}  # fmt: skip
    whole = dict(whole_updates(plain))[NAME] - 0.5 * dict(whole_updates(other))[NAME]
    u, values, v = torch.linalg.svd(whole, full_matrices=False)
    sizes: list[int] = []
    with Sizes(sizes):
        small = merged_loras([(plain, 1.0), (other, -0.5)], Rank(6), peft=False)
        (block,) = norms_by_block(plain)
    assert max(sizes) <= 320 * 9
    expected = u[:, :6] * values[:6] @ v[:6]
    torch.testing.assert_close(dict(whole_updates(small))[NAME], expected, atol=1e-4, rtol=1e-4)
    assert block.largest == pytest.approx(float(torch.linalg.svdvals(dict(whole_updates(plain))[NAME])[0]))
    wide = merged_loras([(plain, 1.0), (other, -0.5)], Rank(64), peft=False)
    assert wide[f"{NAME}.lora_down.weight"].shape == (9, 320) and wide[f"{NAME}.alpha"] == 9
    torch.testing.assert_close(dict(whole_updates(wide))[NAME], whole, atol=1e-4, rtol=1e-4)


def test_energy_keeps_no_more_ranks_than_are_enough():
    update = torch.diag(torch.tensor([3.0, 1.0, 0.1]))
    plain = {f"{NAME}.lora_down.weight": torch.eye(3), f"{NAME}.lora_up.weight": update}
    ranks = [len(resized(plain, Rank(9, share), peft=False)[f"{NAME}.lora_down.weight"])
             for share in (0.5, 0.95, 1.0)]  # fmt: skip
    assert ranks == [1, 2, 3]  # 9 and 1 of 10.01 are the shares


def test_the_difference_of_two_models_is_extracted_where_there_is_one():
    before = {NAME: matrix(5, 6, seed=1), CONV: matrix(5, 4, 3, 3, seed=2)}
    change = matrix(5, 2, seed=3) @ matrix(2, 6, seed=4)
    found = difference(before, {**before, NAME: before[NAME] + change}, Rank(2), peft=False)
    assert {key.split(".")[0] for key in found} == {NAME}
    torch.testing.assert_close(dict(whole_updates(found))[NAME], change, atol=1e-5, rtol=1e-4)
    with pytest.raises(LikenessError, match="the same weights"):
        difference(before, before, Rank(2), peft=False)
    with pytest.raises(LikenessError, match="two models of one family"):
        difference(before, {NAME: before[NAME]}, Rank(2), peft=False)


def test_norms_are_told_by_block():
    up, middle = sorted(norms_by_block(lora(1)), key=lambda block: block.block)[::-1]
    assert (up.block, up.layers, up.rank) == ("up_blocks_0", 1, 2) and middle.block == "mid_block"
    assert up.norm == pytest.approx(float(dict(whole_updates(lora(1)))[NAME].norm()), rel=1e-5)


def test_kinds_that_are_no_sum_are_refused_by_what_they_hold():
    with pytest.raises(LikenessError, match="has oft_blocks, which is no plain update"):
        dict(whole_updates({f"{NAME}.oft_blocks": torch.zeros(1, 2, 2)}))
    with pytest.raises(LikenessError, match="changes 5 single numbers"):
        merged_loras([({"lora_unet_norm.diff": torch.ones(5)}, 1.0)], Rank(2), peft=False)


def test_two_sizes_of_a_layer_are_refused():
    other = {f"{NAME}.lora_down.weight": matrix(2, 5, seed=1), f"{NAME}.lora_up.weight": matrix(6, 2, seed=2)}
    with pytest.raises(LikenessError, match="another size in two of the files"):
        merged_loras([(lora(1), 1.0), (other, 1.0)], Rank(2), peft=False)


def test_layers_outside_blocks_are_told_by_their_own_name_or_their_encoders():
    halves = {"lora_A.weight": matrix(2, 6, seed=1), "lora_B.weight": matrix(5, 2, seed=2)}
    names = ("transformer.x_embedder", "transformer.proj", "text_encoders.qwen3_4b.transformer.model.norm")
    peft = {f"{name}.{half}": tensor for name in names for half, tensor in halves.items()}
    assert [one.block for one in norms_by_block(peft)] == ["proj", "qwen3_4b", "x_embedder"]


@pytest.fixture
def files(tmp_path):
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    for number, word in enumerate(("anna", "bert")):
        tensors = {
            f"{name}.lora_down.weight": matrix(2, 128, seed=number),
            f"{name}.lora_up.weight": matrix(128, 2, seed=number + 4),
            f"{name}.alpha": torch.tensor(2.0), f"token.{word}.clip_l": matrix(1, 128, seed=9),
        }  # fmt: skip
        tokens = (Token(token=f"<{word}>", class_word="woman"),)
        artifact = Artifact(kind="lora", method="dreambooth-lora", tensors=tensors, tokens=tokens,
                            base_family="miniature")  # fmt: skip
        artifact.save(tmp_path / f"{word}.safetensors")
    return tmp_path


def test_the_command_merges_concept_files_with_their_words_and_measures_them(files, capsys):
    inputs, out = (
        [str(files / f"{word}.safetensors") for word in ("anna", "bert")],
        files / "both.safetensors",
    )
    assert main(["lora", "merge", *inputs, "--strength", "1", "--strength", "0.5", "-o", str(out)]) == 0
    both = Artifact.load(out)
    assert [token.token for token in both.tokens] == [
        "<anna>",
        "<bert>",
    ] and "token.bert.clip_l" in both.tensors
    assert main(["lora", "resize", str(out), "--rank", "1", "-o", str(files / "small.safetensors")]) == 0
    capsys.readouterr()
    assert main(["lora", "norms", str(files / "small.safetensors"), "--json"]) == 0
    (block,) = json.loads(capsys.readouterr().out)
    assert block["block"] == "mid_block" and block["rank"] == 1
    assert main(["lora", "merge", *inputs, "-o", str(out)]) == 2
    assert "is there already; give --overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_two_equal_models_have_no_difference_to_extract(tmp_path, capsys):
    out = tmp_path / "difference.safetensors"
    assert main(["lora", "extract", "miniature", "miniature", "-o", str(out)]) == 2
    assert "the same weights" in capsys.readouterr().err and not out.exists()


def test_the_command_refuses_whole_tables_and_says_where_ranks_no_longer_fall_with_noise(files, capsys):
    anna = Artifact.load(files / "anna.safetensors")
    ranked = replace(anna, extra={"rank_by_noise": {"rank": 2, "least": 1}}).save(
        files / "ranked.safetensors"
    )
    assert main(["lora", "resize", str(ranked), "--rank", "1", "-o", str(files / "one.safetensors")]) == 0
    assert "all count at all noise" in capsys.readouterr().err
    table = {**anna.tensors, "table.clip_l": matrix(3, 128, seed=1)}
    moved = replace(anna, tensors=table).save(files / "moved.safetensors")
    both = [str(moved), str(files / "bert.safetensors")]
    assert main(["lora", "merge", *both, "-o", str(files / "both.safetensors")]) == 2
    assert "moved.safetensors learned a whole table of words" in capsys.readouterr().err
