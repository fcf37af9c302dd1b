"""Cards: what a concept file says of itself to people, and the picture of itself that it holds."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from likeness_portraits.engine.artifact import (
    Artifact,
    Token,
    export_stock,
    full_card,
    read_metadata,
    settings_lines,
    short_card,
    thumbnail_of,
)
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError

ABOUT = {
    "base": "sd_xl_base_1.0", "pictures": 9, "masks": 6, "class_words": ["woman"], "size": 1024,
    "precision": "bf16", "scores": {"likeness": 0.714, "prompts": 0.8, "step": 600},
}  # fmt: skip


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def anna(**changes) -> Artifact:
    told = {
        "kind": "embedding", "method": "textual-inversion", "base_family": "sdxl", "seed": 3, "steps": 800,
        "tensors": {"token.v0.clip_l": torch.ones(1, 768), "token.v0.clip_g": torch.ones(1, 1280)},
        "tokens": (Token(token="<v0>", class_word="woman"),),
        "settings": {"learning_rate": 5e-4, "masked_loss": True, "templates": ["a photo of {}", "{}"],
                     "min_snr_gamma": None},
        "about": ABOUT, "thumbnail": thumbnail_of(noise(300)), **changes,
    }  # fmt: skip
    return Artifact(**told)


def test_a_card_says_what_to_type_and_what_it_was_learned_from(tmp_path: Path):
    lines = dict(full_card(read_metadata(anna().save(tmp_path / "anna.safetensors"))))
    assert lines["write"] == "<v0> (woman)"
    assert lines["kind"] == "embedding, 2,048 numbers"
    assert lines["base"] == "SDXL, sd_xl_base_1.0"
    assert lines["learned from"] == "9 pictures of woman, 6 with masks, at 1024 px, in bf16"
    assert lines["steps"] == "800 steps, seed 3"
    assert lines["scores"] == "likeness 0.71, prompts 0.80, at step 600"
    assert dict(settings_lines(anna().settings)) == {
        "learning rate": "0.0005", "masked loss": "yes", "templates": "a photo of {} | {}",
        "min snr gamma": "none",
    }  # fmt: skip


def test_a_node_shows_the_card_in_four_lines():
    assert short_card(vars(anna()), "2026-11-30 15:02").splitlines() == [
        "write <v0> (woman) · embedding · textual-inversion · SDXL, sd_xl_base_1.0",
        "9 pictures of woman, 6 with masks, at 1024 px, in bf16",
        "800 steps, seed 3 · learning rate 0.0005 · masked loss yes",
        "likeness 0.71, prompts 0.80, at step 600 · 2026-11-30 15:02",
    ]


def test_files_from_before_cards_have_one_without_pictures(tmp_path: Path):
    path = anna(about={}, thumbnail=b"").save(tmp_path / "old.safetensors")
    with safe_open(path, "pt") as file:
        assert not {"likeness.about", "modelspec.thumbnail"} & file.metadata().keys()
    assert Artifact.load(path).about == {} and Artifact.load(path).thumbnail == b""
    assert "learned from" not in dict(full_card(read_metadata(path)))


def test_a_thumbnail_is_a_small_jpeg_as_the_modelspec_wants_it_and_equal_runs_stay_equal(tmp_path: Path):
    one, two = (anna().save(tmp_path / f"{name}.safetensors") for name in "ab")
    assert one.read_bytes() == two.read_bytes()
    kept = Artifact.load(one).thumbnail
    with Image.open(io.BytesIO(kept)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (256, 256))
    assert len(kept) <= 64 * 1024
    with safe_open(one, "pt") as file:
        assert file.metadata()["modelspec.thumbnail"].startswith("data:image/jpeg;base64,/9j/")


def test_a_stock_lora_brings_the_thumbnail_along(tmp_path: Path):
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    lora = {f"{layer}.lora_down.weight": torch.ones(4, 8), f"{layer}.lora_up.weight": torch.ones(8, 4),
            f"{layer}.alpha": torch.tensor(4.0)}  # fmt: skip
    (path,) = export_stock(anna(kind="lora", tensors=lora, tokens=()), tmp_path, "anna")
    with safe_open(path, "pt") as file:
        assert file.metadata()["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    "uri",
    ["data:image/svg+xml;base64,PHN2Zz4=", "data:image/jpeg;base64,PHN2Zz4=", "data:image/jpeg;base64,?",
     "data:image/jpeg;base64," + "/9j/" * 40_000, "https://example.org/a.jpg"],
)  # fmt: skip
def test_what_is_no_small_jpeg_is_no_thumbnail(tmp_path: Path, uri: str):
    path = anna().save(tmp_path / "anna.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | {"modelspec.thumbnail": uri}
    save_file(load_file(path), path, metadata)
    assert Artifact.load(path).thumbnail == b""


def test_cards_of_strangers_steer_no_terminal_and_break_nothing(tmp_path: Path):
    rude = {"base": "\x1b[2Jx\x07", "pictures": True, "class_words": [{"a": 1}], "scores": {"\x1b]0;a": 1.0}}
    path = anna(about=rude, licence="\x1b[31mred\nlines", settings={"\x1ba": {"b": ["\x9b"]}}).save(
        tmp_path / "rude.safetensors"
    )
    facts = read_metadata(path)
    told = " ".join(text for line in (*full_card(facts), *settings_lines(facts["settings"])) for text in line)
    assert told.isprintable() and "[31mred lines" in told
    short_card(facts)


def test_about_must_be_a_mapping(tmp_path: Path):
    path = anna().save(tmp_path / "anna.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | {"likeness.about": "[]"}
    save_file(load_file(path), path, metadata)
    with pytest.raises(LikenessError, match="describes itself wrongly"):
        Artifact.load(path)


def test_info_prints_lines_and_no_json_and_takes_the_picture_out(tmp_path: Path, capsys):
    path = anna().save(tmp_path / "anna.safetensors")
    assert main(["info", str(path), "--thumbnail", str(tmp_path / "a.jpg")]) == 0
    said = capsys.readouterr().out
    assert "{" not in said.replace("{}", "")
    assert "learned from     9 pictures of woman, 6 with masks, at 1024 px, in bf16\n" in said
    assert "  learning rate  0.0005\n" in said and "date " in said
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size == (256, 256)
    assert main(["info", str(path), "--thumbnail", str(tmp_path / "a.jpg")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["about"] == ABOUT and facts["thumbnail_bytes"] == len(anna().thumbnail)


def test_a_picture_beside_the_file_is_named_where_none_is_in_it(tmp_path: Path, capsys):
    path = anna(thumbnail=b"").save(tmp_path / "anna.safetensors")
    Image.new("RGB", (64, 64)).save(tmp_path / "anna.preview.png")
    assert main(["info", str(path)]) == 0
    assert str(tmp_path / "anna.preview.png") in capsys.readouterr().out
    assert main(["info", str(path), "--thumbnail", str(tmp_path / "a.jpg")]) == 2
    assert "learn it with --preview-every" in capsys.readouterr().err


def test_a_renamed_concept_keeps_its_card():
    renamed = anna().renamed(["<anna>"])
    assert renamed.about == ABOUT and renamed.thumbnail == anna().thumbnail
    assert short_card(vars(renamed)).startswith("write <anna> (woman)")
    assert replace(renamed, about={}).about == {}
