"""Others' embeddings: which placeholder they become, and what is said about those that are no use."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import import_file
from likeness_portraits.engine.errors import LikenessError


def placeholders(path: Path, **how) -> list[str]:
    return [token.token for token in import_file(path, **how).tokens]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"<cat-toy>": torch.zeros(768)}, "<cat-toy>"),
        ({"<birb-style>": torch.zeros(2, 768)}, "<birb-style>"),
        ({"cat toy": torch.zeros(1, 768)}, "<cat_toy>"),
        ({"string_to_param": {"*": torch.zeros(1, 768)}, "name": "anything"}, "<learned_embeds>"),
        ({"emb_params": torch.zeros(1, 768)}, "<learned_embeds>"),
    ],
)
def test_the_placeholder_is_the_one_that_the_file_names(tmp_path: Path, content: dict, expected: str):
    torch.save(content, tmp_path / "learned_embeds.bin")
    assert placeholders(tmp_path / "learned_embeds.bin") == [expected]
    assert placeholders(tmp_path / "learned_embeds.bin", token="<v3>") == ["<v3>"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Анна", "<v0>"), ("ann v2", "<ann_v2>"), ("José", "<Jose>"), ("画像 1", "<v0>"), ("me", "<me>")],
)
def test_a_name_becomes_letters_that_prompts_can_hold_and_that_is_said(
    tmp_path: Path, name: str, expected: str, caplog
):
    save_file({"emb_params": torch.zeros(1, 768)}, tmp_path / f"{name}.safetensors")
    assert placeholders(tmp_path / f"{name}.safetensors") == [expected]
    assert (f"its placeholder is {expected}" in caplog.text) == (expected != f"<{name}>")


def test_several_embeddings_of_one_file_are_several_placeholders(tmp_path: Path):
    path = tmp_path / "learned_embeds.safetensors"
    save_file({"<b>": torch.zeros(2, 768), "<a>": torch.ones(768)}, path)
    found = import_file(path, class_word="man, woman")
    assert [(token.token, token.class_word, token.vectors) for token in found.tokens] == [
        ("<a>", "man", 1), ("<b>", "woman", 2),
    ]  # fmt: skip
    assert torch.equal(found.rows("<a>")["clip_l"], torch.ones(1, 768))
    with pytest.raises(LikenessError, match="holds 2 embeddings, <a>, <b>; leave --token away"):
        import_file(path, token="<v0>")
    with pytest.raises(LikenessError, match="holds 2 embeddings, but 3 class words are given"):
        import_file(path, class_word="a, b, c")


@pytest.mark.parametrize(
    ("tensors", "family"),
    [
        ({"emb_params": torch.zeros(1, 128)}, "miniature"),
        ({"emb_params": torch.zeros(1, 768)}, "sd1"),
        ({"emb_params": torch.zeros(1, 1024)}, "sd2"),
        ({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}, "sdxl"),
    ],
)
def test_the_base_is_the_one_that_reads_vectors_so_wide(tmp_path: Path, tensors: dict, family: str):
    save_file(tensors, tmp_path / "e.safetensors")
    assert import_file(tmp_path / "e.safetensors").base_family == family


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"clip_g": torch.zeros(2, 1280)}, "holds vectors for clip_g alone, but SDXL reads clip_l too"),
        ({"emb_params": torch.zeros(2, 1280)}, "holds vectors for clip_g alone, but SDXL reads clip_l too"),
        ({"emb_params": torch.zeros(2, 640)}, r"vectors 640 wide, which no base .* SD 1\.x \(768\)"),
        ({"clip_l": torch.zeros(2, 1024)}, "vectors 1024 wide, which no base"),
        ({"clip_l": torch.zeros(1, 768), "clip_h": torch.zeros(1, 1024)}, "which no base that"),
        ({"emb_params": torch.zeros(0, 768)}, "holds no vectors"),
        ({"a": torch.zeros(1, 768), "b": torch.zeros(1, 768)}, "neither a LoRA nor an embedding"),
    ],
)
def test_what_nothing_can_be_drawn_with_is_refused_at_import(tmp_path: Path, tensors: dict, message: str):
    save_file(tensors, tmp_path / "e.safetensors")
    with pytest.raises(LikenessError, match=message) as told:
        import_file(tmp_path / "e.safetensors")
    assert "e.safetensors" in str(told.value) and "\n" not in str(told.value)


def test_what_an_embedding_holds_besides_its_vectors_is_said_to_be_left_out(tmp_path: Path, caplog):
    rows = {"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}
    outputs = {"clip_l_out": torch.zeros(1, 768), "clip_g_out": torch.zeros(1, 1280)}
    save_file({**rows, **outputs}, tmp_path / "e.safetensors")
    assert import_file(tmp_path / "e.safetensors").rows("<e>").keys() == rows.keys()
    assert "clip_g_out and clip_l_out is left out" in caplog.text


def test_what_a1111_says_about_an_embedding_is_kept(tmp_path: Path):
    content = {"string_to_param": {"*": torch.zeros(1, 768)}, "step": 1500, "sd_checkpoint_name": "v1-5"}
    torch.save(content, tmp_path / "me.pt")
    found = import_file(tmp_path / "me.pt")
    assert (found.steps, found.extra["learned_on"]) == (1500, "v1-5")


@pytest.mark.real
def test_an_embedding_that_people_have_keeps_its_placeholder(kit: Path):
    found = import_file(kit / "lora" / "fastai_learned_embeds.bin")
    assert found.base_family == "sd1" and [token.token for token in found.tokens] == ["<birb-style>"]
