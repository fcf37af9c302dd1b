"""MagicTailor's files: the reference's folders and results read, and written for other tools."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from likeness_portraits.engine.artifact import CLIP_WORDS, Artifact, Token, export_stock, import_file, merge
from likeness_portraits.engine.artifact.lora import unet_name
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import ConceptSpec
from likeness_portraits.engine.data.concepts import assets_in, load_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.job_file import concepts_of
from likeness_portraits.tests.engine.tiny import tiny_base
from likeness_portraits.tests.golden.goldens import Golden


def write_pair(folder: Path) -> Path:
    """The reference's layout: pictures of all concepts in one folder, masks beside them."""
    (folder / "masks" / "others").mkdir(parents=True)
    for name in ("0_person_k0", "0_person_k1", "1_hair_c0"):
        Image.new("RGB", (48, 40), (90, 120, int(name[0]) * 200)).save(folder / f"{name}.jpg")
        mask = np.zeros((40, 48), np.uint8)
        mask[8:32, 8:32] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return folder


# ---------------------------------------------------------------------------------------------------- folders


def test_the_references_folder_is_as_many_concepts_as_it_holds(tmp_path):
    folder = write_pair(tmp_path / "person_k+hair_c")
    assert assets_in(folder) == [0, 1]
    plain = concepts_of([str(folder)], [], [], [])
    assert [(concept["token"], concept["asset"]) for concept in plain] == [("<v0>", 0), ("<v1>", 1)]
    person, hair = (load_concept(ConceptSpec(**concept)) for concept in plain)
    assert (person.class_word, person.role, len(person.pictures)) == ("person", "subject", 2)
    assert (hair.class_word, hair.role, len(hair.pictures)) == ("hair", "component", 1)
    assert all(picture.mask is not None for picture in (*person.pictures, *hair.pictures))


def test_words_typed_go_before_those_of_the_file_names(tmp_path):
    folder = write_pair(tmp_path / "person_k+hair_c")
    told = concepts_of([str(folder)], ["<me>"], ["woman", "curls"], [])
    concepts = [load_concept(ConceptSpec(**concept)) for concept in told]
    assert [(c.token, c.class_word) for c in concepts] == [("<me>", "woman"), ("<v1>", "curls")]


def test_more_words_than_concepts_and_numbers_that_are_not_there_are_refused(tmp_path):
    folder = write_pair(tmp_path / "person_k+hair_c")
    with pytest.raises(LikenessError, match="--class-word is given 3 times for 2 "):
        concepts_of([str(folder)], [], ["a", "b", "c"], [])
    with pytest.raises(LikenessError, match="has no pictures of concept number 4; there are 0, 1"):
        load_concept(ConceptSpec(folder=str(folder), asset=4))


def test_a_folder_of_one_concept_is_no_pair(tmp_path):
    folder = write_pair(tmp_path / "person_k+hair_c")
    (folder / "1_hair_c0.jpg").unlink()
    assert assets_in(folder) == [] and assets_in(tmp_path / "missing") == []


def test_the_command_prints_a_job_for_the_references_folder(tmp_path, capsys):
    folder = write_pair(tmp_path / "person_k+hair_c")
    output = tmp_path / "me.safetensors"
    arguments = ["train", "magictailor", str(folder), "-o", str(output), "--print-config"]
    assert main([*arguments, "--preset", "reference"]) == 0
    told = capsys.readouterr().out
    assert "asset: 1" in told and "all_rows: true" in told and "intensity_exponent: 32.0" in told


def test_two_folders_with_one_placeholder_are_refused_on_the_command_line(tmp_path, capsys):
    folders = [str(tmp_path), str(tmp_path)]
    status = main(
        ["train", "magictailor", *folders, "--token", "<v1>", "-o", str(tmp_path / "me.safetensors")]
    )
    assert status == 2
    assert "two concepts share the placeholder <v1>; give each its own" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- results


def reference_lora(folder: Path) -> Path:
    """A LoRA with all names and shapes of the reference's SD 2.1 file, of small rank."""
    shapes = Golden("magictailor", "lora_inventory_sd21").json("shapes")
    thin = {name: [1 if side == 32 else side for side in shape] for name, shape in shapes.items()}
    path = folder / "pytorch_lora_weights.safetensors"
    save_file({name: torch.full(shape, 0.01) for name, shape in thin.items()}, path)
    return path


def test_the_references_lora_and_table_become_one_likeness(tmp_path):
    table = torch.arange(CLIP_WORDS + 2, dtype=torch.float32)[:, None].expand(-1, 1024) / CLIP_WORDS
    torch.save({"weight": table}, tmp_path / "token_embedding.pth")
    words = import_file(tmp_path / "token_embedding.pth", class_word="person, hair")
    whole = merge([import_file(reference_lora(tmp_path)), words])
    assert (whole.kind, whole.base_family) == ("lora", "sd2")
    assert [(token.token, token.class_word) for token in whole.tokens] == [
        ("<v0>", "person"),
        ("<v1>", "hair"),
    ]
    assert float(whole.rows("<v1>")["clip_h"][0, 0]) == pytest.approx((CLIP_WORDS + 1) / CLIP_WORDS)
    assert len(whole.lora()) == 3 * 176 and not whole.tables()
    kept = import_file(tmp_path / "token_embedding.pth", all_rows=True)
    assert kept.tables()["clip_h"].shape == (CLIP_WORDS, 1024)
    with pytest.raises(LikenessError, match="holds 2 new words, but 3 class words are given"):
        import_file(tmp_path / "token_embedding.pth", class_word="a,b,c")


def test_every_one_of_the_176_modules_is_exported_under_a_name_that_loaders_know(tmp_path):
    artifact = import_file(reference_lora(tmp_path))
    (path,) = export_stock(artifact, tmp_path, "stock")
    names = {key.split(".")[0] for key in load_file(path)}
    theirs = Golden("magictailor", "lora_inventory_sd21").json("shapes")
    paths = {re.split(r"\.lora[._]", name.removeprefix("unet."))[0] for name in theirs}
    assert len(names) == 176 and names == {unet_name(path) for path in paths}


def test_words_that_all_moved_are_drawn_with_and_leave_the_base_as_it_was(tmp_path):
    base = tiny_base()
    own = base.text_encoders["clip_l"].get_input_embeddings().weight
    before = own.clone()
    moved = before[:-1].flip(0)
    artifact = Artifact(
        kind="embedding", method="magictailor", base_family="sd1",
        tensors={"token.v0.clip_l": before[:1], "table.clip_l": moved},
        tokens=(Token(token="<v0>"),),
    )  # fmt: skip
    artifact = Artifact.load(artifact.save(tmp_path / "moved.safetensors"))
    options = {"steps": 2, "seed": 0}
    plain = generate(base, ["a photo"], **options)
    assert np.array_equal(plain, generate(base, ["a photo"], artifacts=[(artifact, 0.0)], **options))
    assert not np.array_equal(plain, generate(base, ["a photo"], artifacts=[(artifact, 1.0)], **options))
    table = base.text_encoders["clip_l"].get_input_embeddings().weight
    assert table is own and torch.equal(table, before)


def test_a_table_of_another_width_is_refused(tmp_path):
    tensors = {"token.v0.clip_l": torch.ones(1, 32), "table.clip_l": torch.ones(3, 4)}
    artifact = Artifact(kind="embedding", method="x", tensors=tensors, tokens=(Token(token="<v0>"),))
    with pytest.raises(LikenessError, match="changed words of clip_l have another size in this base"):
        generate(tiny_base(), ["a photo"], artifacts=[(artifact, 1.0)], steps=1)
