"""Masks of photographs on trained networks: people by the selfie network, faces by an oval."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.data.faces import load_faces
from likeness_portraits.engine.data.pictures import read_mask, read_picture
from likeness_portraits.engine.data.segment import load_segmenter
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.methods.magicapture import masked_pixels
from likeness_portraits.tests.engine.data.kit_made import FIRST, PEOPLE, pack_of, person_folder
from likeness_portraits.tests.engine.tiny import tiny_base
from likeness_portraits.tests.overlap import mask_overlap

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", FIRST)
def test_the_selfie_network_marks_people_as_the_official_masks_do(kit: Path, name: str):
    pixels = read_picture(kit / PEOPLE / name)
    found = load_segmenter("selfie", kit)(pixels, ["person", "background"])
    drawn = [
        read_mask(kit / PEOPLE / folder / f"{Path(name).stem}.png", pixels.shape[:2])
        for folder in ("masks", "masks/others")  # the person without their hair, and the hair
    ]
    assert mask_overlap(found.masks[0], np.maximum(*drawn)) >= 0.976
    assert np.allclose(found.masks.sum(0), 1, atol=1e-5) and found.scores[0] > 0.95
    with pytest.raises(LikenessError, match="the selfie network knows no 'hair'"):
        load_segmenter("selfie", kit)(pixels, ["hair"])


def test_a_folder_of_photographs_has_its_masks_from_the_command(kit: Path, tmp_path: Path):
    folder = person_folder(tmp_path / "anna", kit)
    assert (
        main(["masks", str(folder), "--subject", "person", "--backend", "selfie", "--models", str(kit)]) == 0
    )
    masks = [picture.mask for picture in load_concept(folder, class_word="man").pictures]
    assert all(0.3 < mask.mean() < 0.6 for mask in masks)


def test_a_damaged_description_is_named(tmp_path: Path, kit: Path):
    (tmp_path / "selfie.json").write_text("{}")
    (tmp_path / "selfie.bin").symlink_to(kit / "selfie.bin")
    with pytest.raises(LikenessError, match=r"selfie\.json is not the selfie network's description; get it"):
        load_segmenter("selfie", tmp_path)


@pytest.fixture
def models(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's models folder with a face pack and nothing else."""
    pytest.importorskip("insightface", reason="insightface is not installed", exc_type=ImportError)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    pack_of(tmp_path / "models" / "insightface", kit, "mobileface")
    return tmp_path / "models"


def test_an_oval_lies_on_the_face_and_turns_with_it(kit: Path, models: Path):
    finder = load_faces("mine", models / "insightface")
    segmenter = load_segmenter("face-oval", models / "likeness")
    pixels = read_picture(kit / PEOPLE / FIRST[2])
    tilted = np.asarray(Image.fromarray(pixels).rotate(25, resample=Image.Resampling.BICUBIC))
    for picture in (pixels, tilted):
        (face,) = finder(picture)
        (mask,) = segmenter(picture, ["face"]).masks
        columns, rows = face.landmarks.round().astype(int).T
        assert mask[rows, columns].all()
        assert 0.6 < mask.sum() / (face.box[2:] - face.box[:2]).prod() < 1.1
    upright = segmenter(pixels, ["face"]).masks[0]
    turned = np.asarray(Image.fromarray(upright).rotate(25)) >= 0.5
    assert mask_overlap(turned.astype(np.float32), mask) > 0.85
    with pytest.raises(LikenessError, match="finds faces only, no 'hair'"):
        segmenter(pixels, ["hair"])


def test_magicapture_takes_ovals_where_no_face_parser_is_and_says_so(kit: Path, models: Path, tmp_path: Path):
    concept = load_concept(person_folder(tmp_path / "anna", kit), class_word="man")
    found = masked_pixels(concept, tiny_base())
    assert all(0.1 < picture.mask.mean() < 0.6 for picture in found.pictures)
    (remark,) = found.remarks
    assert "an oval stands for each face, for there is no face parser (" in remark
