"""MagiCapture's own files: read by number, written again as they were, drawn with by everything of ours."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import (
    Artifact,
    cloneofsimo,
    export_numbered,
    export_stock,
    import_file,
)
from likeness_portraits.engine.artifact.lora import DOWN, UP, by_module, lora_changed, text_name, unet_name
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.tests.golden.goldens import Golden

TINY = ("down_blocks.0.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1",
        "mid_block.attentions.0")  # fmt: skip


def kohya(path: str) -> str:
    return text_name(path) if path.startswith("text_model.") else unet_name(path)


def sd_file(path: Path) -> dict[str, torch.Tensor]:
    """A file of all of SD 1.5's modules at rank 4, as the reference writes it."""
    layout = Golden("magicapture", "checkpoint_layout").json("keys")
    generator = torch.Generator().manual_seed(0)
    tensors = {key: torch.randn(shape, generator=generator).half() for key, (_, shape) in layout.items()}
    tensors |= {
        "<sks>": torch.randn(768, generator=generator),
        "<style1>": torch.randn(768, generator=generator),
    }
    save_file(tensors, path, {"unet": '["Attention"]', "<sks>": "<embed>", "<style1>": "<embed>"})
    return tensors


def test_every_number_of_sd_means_the_references_module():
    case = Golden("magicapture", "checkpoint_layout")
    layout = case.json("keys")
    unet, text = cloneofsimo.unet_paths(cloneofsimo.BLOCKS_BY_COUNT[16]), cloneofsimo.text_paths(12)
    assert 2 * (len(unet) + len(text)) == int(case["out.tensor_count_without_embeddings"]) == len(layout)
    for part, paths in (("unet", unet), ("text_encoder", text)):
        for number, path in enumerate(paths):
            assert layout[f"{part}:{number}:up"][0] == layout[f"{part}:{number}:down"][0] == path


def test_the_references_tiny_file_is_read_and_written_again(tmp_path):
    case = Golden("magicapture", "checkpoint_tiny")
    lora, rows = cloneofsimo.read_numbered_lora(case.under("in.file."), Path("tiny"), TINY)
    assert {kohya(path) for path in case.json("index_map").values()} == {
        key.removesuffix(DOWN) for key in lora if key.endswith(DOWN)
    }
    updates = by_module(lora)
    for name, expected in case.under("out.delta.").items():
        path = name.removeprefix("unet.").removeprefix("text.")
        drawn = 0.6 if name.startswith("unet.") else 0.9
        found = lora_changed(torch.zeros_like(expected), updates[kohya(path)], 1 / drawn)
        torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=0)
    tensors, metadata = cloneofsimo.write(lora, {token: row[None] for token, row in rows.items()}, TINY)
    assert metadata == case.json("file_metadata")
    assert tensors.keys() == case.under("in.file.").keys()
    for key, tensor in case.under("in.file.").items():
        assert torch.equal(tensors[key], tensor) and tensors[key].dtype == tensor.dtype


def test_a_layer_with_the_lora_gives_the_references_output():
    case = Golden("magicapture", "lora_linear")
    parts = {DOWN[1:]: case["in.down"], UP[1:]: case["in.up"]}
    weight = lora_changed(case["in.weight"], parts, float(case["in.scale"]))
    found = torch.nn.functional.linear(case["in.x"], weight, case["in.bias"])
    torch.testing.assert_close(found, case["out.y"], atol=1e-5, rtol=1e-5)


def test_a_file_goes_through_the_commands_and_comes_back_as_it_was(tmp_path):
    tensors = sd_file(tmp_path / "final_lora.safetensors")
    assert (
        main(["import", str(tmp_path / "final_lora.safetensors"), "-o", str(tmp_path / "me.safetensors")])
        == 0
    )
    artifact = Artifact.load(tmp_path / "me.safetensors")
    assert artifact.base_family == "sd1"
    assert [(token.token, token.role) for token in artifact.tokens] == [
        ("<sks>", "subject"),
        ("<style1>", "style"),
    ]
    assert main(["export", str(tmp_path / "me.safetensors"), "-o", str(tmp_path), "--numbered"]) == 0
    with safe_open(tmp_path / "me-numbered.safetensors", "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == tensors.keys()
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in tensors.items())
    assert len(metadata) == 196 and json.loads(metadata["text_encoder"]) == ["CLIPAttention"]


def test_stock_files_of_it_hold_the_references_strengths(tmp_path):
    sd_file(tmp_path / "final_lora.safetensors")
    files = export_stock(import_file(tmp_path / "final_lora.safetensors"), tmp_path, "stock")
    assert [file.name for file in files] == ["stock.safetensors", "sks.safetensors", "style1.safetensors"]
    with safe_open(files[0], "pt") as file:
        alphas = {
            key.split("_")[1]: float(file.get_tensor(key)) for key in file.keys() if key.endswith("alpha")
        }  # noqa: SIM118
    assert alphas == {"unet": pytest.approx(2.4), "te": pytest.approx(3.6)}


def test_what_draws_at_full_strength_here_does_there_as_well(tmp_path):
    sd_file(tmp_path / "a.safetensors")
    artifact = import_file(tmp_path / "a.safetensors")
    louder = {
        key: tensor * 2 if key.endswith(".alpha") else tensor for key, tensor in artifact.tensors.items()
    }
    twice = Artifact(**{**vars(artifact), "tensors": louder})
    export_numbered(twice, tmp_path / "b.safetensors")
    name = unet_name("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q") + UP
    again = import_file(tmp_path / "b.safetensors")
    torch.testing.assert_close(
        again.tensors[name].float(), artifact.tensors[name].float() * 2, atol=1e-3, rtol=1e-3
    )


def test_files_that_fit_no_base_or_no_format_are_refused(tmp_path):
    with pytest.raises(
        LikenessError, match="numbers 1 modules of a U-Net and 0 of a text encoder, which fits no"
    ):
        cloneofsimo.read_numbered_lora(
            {"unet:0:up": torch.zeros(4, 2), "unet:0:down": torch.zeros(2, 4)}, Path("odd")
        )
    lora = {f"lora_unet_x{DOWN}": torch.zeros(2, 4), f"lora_unet_x{UP}": torch.zeros(4, 2)}
    with pytest.raises(LikenessError, match="other layers than MagiCapture's code has"):
        cloneofsimo.write(lora, {})
    sd_file(tmp_path / "a.safetensors")
    artifact = import_file(tmp_path / "a.safetensors")
    with pytest.raises(LikenessError, match="b.safetensors exists; choose another"):
        (tmp_path / "b.safetensors").write_text("")
        export_numbered(artifact, tmp_path / "b.safetensors", overwrite=False)
