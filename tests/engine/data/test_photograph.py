"""The whole path on a photograph: NASA's portrait of Eileen Collins, public domain, from scikit-image."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data.alignment import ARCFACE_POINTS, FFHQ_POINTS, arcface_crop, similarity
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.data.faces import Face, box_mask, face_of_mask, load_faces, upright
from likeness_portraits.engine.data.pictures import read_picture, to_mask_image
from likeness_portraits.engine.data.quality import examine_pictures
from likeness_portraits.engine.data.segment import Request, find_mask, find_masks, load_segmenter
from likeness_portraits.engine.data.segmenters import clipseg, face_parts, grounded
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.restore import (
    PersonReference,
    Restoration,
    face_square,
    restore_picture,
    to_pixels,
)
from likeness_portraits.tests.engine.data import helpers_made as made
from likeness_portraits.tests.engine.data.packs_made import bright_detector_pack

data = pytest.importorskip("skimage.data", reason="scikit-image is not installed: pip install '.[test]'")

# where a face detector (MTCNN with its released weights, looked at once) finds eyes, nose and mouth corners
POINTS = np.float32([[205.0, 101.7], [246.8, 103.7], [224.7, 129.0], [201.7, 139.2], [245.3, 141.9]])
FACE = Face(np.float32([181, 62, 268, 172]), POINTS, 1.0)


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """(512, 512, 3)."""
    return data.astronaut()


def test_a_phones_picture_of_her_is_read_upright_and_judged(photograph: np.ndarray, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(np.rot90(photograph))
    (tmp_path / "anna").mkdir()
    lying.save(tmp_path / "anna" / "IMG_1.jpg", exif=exif, quality=95)
    pixels = read_picture(tmp_path / "anna" / "IMG_1.jpg")
    assert pixels.shape == (512, 512, 3)
    assert np.abs(pixels.astype(int) - photograph).mean() < 3, "upright again"
    to_mask_image(box_mask(FACE, (512, 512))).save(tmp_path / "mask.png")
    (report,) = examine_pictures(load_concept(tmp_path / "anna", class_word="woman").pictures, [FACE.side])
    assert report.size == (512, 512) and report.sharpness > 40
    assert report.advice == ("its face is small (87 pixels); crop closer",)


def test_a_cascade_finds_her_face_and_a_mask_of_it_stands_in_for_a_face_model(photograph: np.ndarray):
    """The detector is scikit-image's own trained file: a test's, not the product's."""
    from skimage.feature import Cascade

    cascade = Cascade(data.lbp_frontal_face_cascade_filename())
    found = cascade.detect_multi_scale(
        img=photograph, scale_factor=1.2, step_ratio=1, min_size=(60, 60), max_size=(200, 200)
    )
    assert len(found) == 1
    left, top, width, height = (found[0][key] for key in ("c", "r", "width", "height"))
    mask = np.zeros((512, 512), np.float32)
    mask[top : top + height, left : left + width] = 1
    face = face_of_mask(mask)
    inside = (POINTS >= face.box[:2]).all() and (POINTS <= face.box[2:]).all()
    assert inside and face.landmarks is None
    crop = upright(photograph, face, 256)
    assert crop.shape == (256, 256, 3)
    middle = crop[64:192, 64:192].mean((0, 1))
    assert middle[0] > middle[1] > middle[2] > 60, "skin in the middle"


def test_eyes_and_mouth_come_to_lie_where_networks_expect_them(photograph: np.ndarray):
    def carried(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        return points @ matrix[:, :2].T + matrix[:, 2]

    assert np.abs(carried(POINTS, similarity(POINTS)) - ARCFACE_POINTS).max() < 6
    assert np.abs(carried(POINTS, similarity(POINTS, FFHQ_POINTS)) - FFHQ_POINTS).max() < 13
    for crop, eyes in (
        (arcface_crop(photograph, POINTS.astype(np.float64)), ARCFACE_POINTS[:2]),
        (upright(photograph, FACE, 512), FFHQ_POINTS[:2]),
    ):
        across = round(float(np.diff(eyes[:, 0])[0]) / 8)
        for x, y in eyes.round().astype(int):
            eye = crop[y - across : y + across, x - across : x + across]
            cheek = crop[y + 3 * across : y + 5 * across, x - across : x + across]
            assert eye.mean() < cheek.mean() - 25, "dark eyes over bright cheeks, where they belong"


def test_every_back_end_of_words_runs_on_her(photograph: np.ndarray, tmp_path: Path):
    """Tiny random weights: what they mark means nothing, that it has her picture's size and edges does."""
    made.clipseg(tmp_path / "clipseg")
    made.grounding_dino(tmp_path / "grounding_dino", ["person", "hair"])
    made.sam2(tmp_path / "sam2")
    made.segformer(tmp_path / "face_parsing", list(face_parts.CELEBA_NAMES))
    boxes = grounded.load(tmp_path, short_side=128)
    boxes.box_threshold = boxes.text_threshold = 0.0
    asked = {
        clipseg.load(tmp_path, side=64): "person",
        boxes: "person",
        load_segmenter("sam2-points", tmp_path): "0.44:0.23",
        load_segmenter("face-parts", tmp_path): "person",
    }
    for segmenter, word in asked.items():
        found = segmenter(photograph, [word])
        assert found.masks.shape == (1, 512, 512) and found.masks.dtype == np.float32
        assert 0 <= found.masks.min() <= found.masks.max() <= 1 and 0 <= found.scores[0] <= 1
    parser = load_segmenter("face-parts", tmp_path)
    mask = find_mask(parser, photograph, Request(words=("person",)), "astronaut.png")
    assert mask.shape == (512, 512) and set(np.unique(mask)) <= {0.0, 1.0}


def test_the_miniatures_parser_refuses_her(photograph: np.ndarray):
    parser = load_segmenter("miniature")
    for crop in (photograph, photograph[20:220, 120:320]):
        with pytest.raises(LikenessError, match=r"^a\.jpg is no picture of the Miniature's .* clipseg$"):
            find_masks(parser, [crop], Request(words=("head",)), ["a.jpg"])


def test_insightfaces_own_code_looks_at_her_through_a_made_pack(photograph: np.ndarray, tmp_path: Path):
    pytest.importorskip("insightface", reason="insightface is not installed", exc_type=ImportError)
    bright_detector_pack(tmp_path)
    finder = load_faces("auraface", tmp_path, detector_size=96)
    vector = finder.embed(photograph, FACE)
    assert vector.shape == (48,) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert all(face.embedding.shape == (48,) for face in finder(photograph))


def test_her_face_is_restored_in_place_and_the_rest_is_untouched(photograph: np.ndarray):
    seen = []

    def sharpened(crop: np.ndarray) -> np.ndarray:
        seen.append(crop)
        return (crop + 0.2 * (crop - crop.mean((0, 1)))).clip(0, 1)

    picture = to_pixels(photograph)
    done = restore_picture(picture, [FACE], sharpened, Restoration(side=256), name="astronaut.png")
    assert seen[0].shape == (256, 256, 3)
    assert (done.pixels[done.mask == 0] == picture[done.mask == 0]).all()
    weight = [done.mask[round(float(y)), round(float(x))] for x, y in POINTS]
    assert min(weight) > 0.9, "eyes, nose and mouth are restored"
    square = face_square(FACE)
    rows, columns = np.nonzero(done.mask)
    assert square[:, 1].min() <= rows.min() and rows.max() <= square[:, 1].max()
    assert square[:, 0].min() <= columns.min() and columns.max() <= square[:, 0].max()


def test_the_gate_hears_a_recogniser_of_photographs(photograph: np.ndarray, tmp_path: Path):
    """insightface's code on a made recogniser, which knows people by their colours."""
    pytest.importorskip("insightface", reason="insightface is not installed", exc_type=ImportError)
    finder = load_faces("auraface", bright_detector_pack(tmp_path), detector_size=96)
    person = PersonReference(finder, np.stack([finder.embed(photograph, FACE)]))
    options = Restoration(side=128, gate="reject", match_colours=False)
    made = {}
    for name, restore in (("turned", lambda crop: 1 - crop), ("kept", lambda crop: (crop * 1.05).clip(0, 1))):
        made[name] = restore_picture(to_pixels(photograph), [FACE], restore, options, person=person)
    (turned,), (kept,) = made["turned"].outcomes, made["kept"].outcomes
    assert turned.before == pytest.approx(1, abs=1e-3) and turned.restored < 0.9 and turned.share == 0
    assert (made["turned"].pixels == to_pixels(photograph)).all() and "rejected" in turned.verdict
    assert kept.restored > 0.95 and kept.verdict == "kept" and kept.share == 1


def test_the_command_line_masks_and_examines_a_folder_with_her(
    photograph: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder = tmp_path / "anna"
    folder.mkdir()
    Image.fromarray(photograph).save(folder / "a.png")
    Image.fromarray(photograph).convert("L").save(folder / "grey.png")
    made.segformer(tmp_path / "models" / "face_parsing", list(face_parts.CELEBA_NAMES))
    words = ["--backend", "face-parts", "--subject", "person", "--models", str(tmp_path / "models"), "--soft"]
    assert main(["masks", str(folder), *words]) == 0
    assert Image.open(folder / "masks" / "grey.png").size == (512, 512)
    assert Image.open(tmp_path / "anna-masks.jpg").size[0] > 400
    (folder / "concept.json").write_text(json.dumps({"class_word": "woman"}))
    capsys.readouterr()
    assert main(["doctor", "--data", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "512 x 512" in said and "fewer than three different pictures" in said
