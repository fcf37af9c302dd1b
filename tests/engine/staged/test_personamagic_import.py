"""The reference's own files: read without running what is pickled in them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.staged.embedding import import_reference, is_reference_mapper, staged_words
from likeness_portraits.engine.staged.mapper import Mapper


class TimeEncoder(torch.nn.Module):
    """Stands for the reference's pickled module."""


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def write_reference(folder: Path) -> tuple[Path, Path, Mapper, torch.Tensor]:
    """A mapper and its embeddings as the reference saves them, a trap among them."""
    torch.manual_seed(3)
    mapper = Mapper(text_widths={"clip_l": 24}, image_width=6, anchors=10, hidden=8)
    row = torch.randn(24)
    config = {"model": {"target_norm": 0.5}, "data": {"super_category_token": "face"}}
    encoder = TimeEncoder()
    encoder.trap = Trap(folder / "sprung")
    weights = {**mapper.state_dict(), "encoder.w": torch.ones(4, 1)}
    content = {"state_dict": weights, "cfg": config, "encoder": encoder}
    torch.save(content, folder / "mapper-final.pt")
    torch.save({f"<new{i}>": row for i in range(1, 5)}, folder / "learned_embeds-final.bin")
    return folder / "mapper-final.pt", folder / "learned_embeds-final.bin", mapper, row


def test_outputs_are_the_same_after_importing_and_nothing_was_run(tmp_path):
    mapper_file, embeds, mapper, row = write_reference(tmp_path)
    assert is_reference_mapper(mapper_file)
    artifact = import_reference(mapper_file, embeds, image_features=torch.ones(1, 6))
    path = artifact.save(tmp_path / "imported.safetensors")
    words = staged_words(Artifact.load(path))
    assert not (tmp_path / "sprung").exists()
    assert (words.class_word, words.plan.interval, words.plan.late) == ("face", (400, 800), "hold")
    expected = mapper(torch.tensor([512.0]), {"clip_l": row}, {"clip_l": 0.5}, torch.ones(1, 6))
    for got, wanted in zip(words.at(512), expected):
        torch.testing.assert_close(got["clip_l"], wanted["clip_l"][0].detach(), atol=1e-6, rtol=1e-6)


def test_without_a_picture_the_bypass_is_left_out(tmp_path):
    mapper_file, embeds, *_ = write_reference(tmp_path)
    words = staged_words(import_reference(mapper_file, embeds))
    assert not words.at(500)[1]["clip_l"].any()


def test_the_command_line_imports_the_pair(tmp_path, capsys):
    mapper_file, embeds, *_ = write_reference(tmp_path)
    out = tmp_path / "me.safetensors"
    assert main(["import", str(embeds), str(mapper_file), "-o", str(out), "--token", "<ann>"]) == 0
    artifact = Artifact.load(out)
    assert (artifact.kind, artifact.tokens[0].token) == ("staged_embedding", "<ann>")
    assert main(["import", str(mapper_file), "-o", str(tmp_path / "half.safetensors")]) == 2
    assert "learned_embeds" in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_damaged_files_are_told(tmp_path, content):
    file = tmp_path / "mapper-final.pt"
    file.write_bytes(content)
    with pytest.raises(LikenessError, match="no PyTorch checkpoint"):
        import_reference(file, file)
    assert not content.endswith(b"point") or not is_reference_mapper(file)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("input_layer.weight", (10,)), ("input_layer.weight", ()), ("output_layer.0.weight", (7, 8)),
     ("timestep_proj.0.weight", (9, 10)), ("image_proj.0.weight", (8, 3)), ("output_layer.0.bias", (1,))],
)  # fmt: skip
def test_a_mapper_of_strange_shapes_is_refused_by_its_name(tmp_path, name, shape):
    mapper_file, embeds, *_ = write_reference(tmp_path)
    content = torch.load(mapper_file, weights_only=False)
    content["state_dict"][name] = torch.ones(shape)
    torch.save({key: content[key] for key in ("state_dict", "cfg")}, mapper_file)
    with pytest.raises(LikenessError, match=r"mapper-final\.pt is not a mapper of PersonaMagic"):
        import_reference(mapper_file, embeds)


def test_a_staged_embedding_that_does_not_fit_together_is_refused_when_it_is_read(tmp_path):
    mapper_file, embeds, *_ = write_reference(tmp_path)
    whole = import_reference(mapper_file, embeds, image_features=torch.ones(1, 6))
    for changes in ({"image_features": torch.ones(1, 5)}, {"image_features": torch.ones(6, 1, 1)},
                    {"word.clip_l": torch.ones(24, 1)}):  # fmt: skip
        with pytest.raises(LikenessError, match="this staged embedding is incomplete or damaged"):
            staged_words(replace(whole, tensors={**whole.tensors, **changes}))


def test_another_checkpoint_is_no_mapper(tmp_path):
    _, embeds, *_ = write_reference(tmp_path)
    with pytest.raises(LikenessError, match="not a mapper"):
        import_reference(embeds, embeds)
