"""Faces: packs checked before insightface starts, its real code on tiny networks, masks in its place."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from likeness_portraits.engine.data.alignment import arcface_crop
from likeness_portraits.engine.data.faces import (
    Face,
    box_mask,
    choose,
    face_of_mask,
    load_faces,
    provider_line,
    upright,
)
from likeness_portraits.engine.data.packs import PACKS, find_pack
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.backends import load_face_judge
from likeness_portraits.engine.inference.onlookers import load_face_tools
from likeness_portraits.tests.engine.data.packs_made import SIDE, bright_detector_pack


def test_missing_files_are_named_before_anything_is_loaded_or_fetched(tmp_path: Path):
    with pytest.raises(
        LikenessError,
        match=r"scrfd_10g_bnkps\.onnx and glintr100\.onnx missing in .*models/auraface; get the files from "
        r"https://huggingface\.co/fal/AuraFace-v1 \(Apache-2\.0\) and put them there",
    ):
        load_faces(root=tmp_path)
    with pytest.raises(LikenessError, match="unknown face pack 'antelope'; did you mean 'antelopev2'"):
        find_pack("antelope", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_who_takes_masks_offers_to_mask_the_face(tmp_path: Path):
    """Rather than a face model: the score and *stop by likeness* take no masks, the face detailer does."""
    with pytest.raises(LikenessError, match=r"and put them there$"):
        load_face_judge("auraface", tmp_path)
    with pytest.raises(LikenessError, match=r"and put them there$"):
        load_face_tools("mask", "auraface", packs=tmp_path)  # as the judge of faces that are masked
    with pytest.raises(LikenessError, match=r"and put them there, or mask the face yourself$"):
        load_face_tools("auraface", packs=tmp_path)


def test_a_folder_in_a_folder_is_flattened(tmp_path: Path):
    nested = tmp_path / "models" / "antelopev2" / "antelopev2"
    nested.mkdir(parents=True)
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        (nested / name).touch()
    folder = find_pack("antelopev2", tmp_path)
    assert sorted(path.name for path in folder.glob("*.onnx")) == ["glintr100.onnx", "scrfd_10g_bnkps.onnx"]


def test_an_archive_is_unpacked_and_nothing_leaves_the_folder(tmp_path: Path):
    (tmp_path / "models").mkdir()
    archive = tmp_path / "models" / "antelopev2.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("antelopev2/scrfd_10g_bnkps.onnx", "../../glintr100.onnx", "antelopev2/run.py"):
            packed.writestr(name, b"x")
    folder = find_pack("antelopev2", tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["glintr100.onnx", "scrfd_10g_bnkps.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]
    archive.with_name("buffalo_l.zip").write_bytes(b"half a download")
    with pytest.raises(LikenessError, match=r"buffalo_l\.zip cannot be unpacked .*; get it again"):
        find_pack("buffalo_l", tmp_path)
    with zipfile.ZipFile(archive.with_name("secret.zip"), "w") as packed:
        packed.writestr("a.onnx", b"x")
    locked = archive.with_name("secret.zip")
    locked.write_bytes(
        locked.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1")
    )
    with pytest.raises(LikenessError, match=r"secret\.zip cannot be unpacked .*password"):
        find_pack("secret", tmp_path)


@pytest.mark.parametrize("inner", [False, True])
def test_a_pack_whose_weights_lie_in_another_file_is_refused(tmp_path: Path, inner: bool):
    import onnx
    from onnx import TensorProto, external_data_helper, helper

    root = bright_detector_pack(tmp_path)
    path = root / "models" / "auraface" / PACKS["auraface"].recogniser
    model, away = onnx.load(path), TensorProto(name="away", data_type=TensorProto.FLOAT, dims=[1])
    away.raw_data = b"\0\0\0\0"
    external_data_helper.set_external_data(away, "../../../secret", length=4)
    if inner:
        model.graph.node.append(helper.make_node("Constant", [], ["more"], value=away))
    else:
        model.graph.initializer.append(away)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LikenessError, match=rf"{path.name} keeps its weights in another file"):
        load_faces("auraface", root)


def test_a_mask_stands_in_for_a_face_model():
    mask = np.zeros((20, 30), np.float32)
    mask[4:10, 12:20] = 1
    face = face_of_mask(mask)
    assert face.box.tolist() == [12, 4, 20, 10] and face.landmarks is None and face.side == 6
    assert (box_mask(face, (20, 30)) == mask).all()
    with pytest.raises(LikenessError, match="the mask marks nothing"):
        face_of_mask(mask * 0)


def test_crops_without_landmarks_go_beyond_the_picture_without_black():
    picture = np.full((20, 30, 3), 200, np.uint8)
    crop = upright(picture, Face(np.array([20, 0, 32, 12], np.float32), None, 1.0), 32)
    assert crop.shape == (32, 32, 3) and (crop == 200).all()


def test_the_largest_face_is_taken_and_any_other_can_be():
    small, large = (Face(np.array([0, 0, side, side], np.float32), None, 0.9) for side in (5, 9))
    assert choose([small, large], None, "a.jpg") is large
    assert choose([small, large], 0, "a.jpg") is small
    with pytest.raises(LikenessError, match=r"a\.jpg has 2 faces; choose one from 0 to 1"):
        choose([small, large], 2, "a.jpg")
    with pytest.raises(LikenessError, match=r"no face in a\.jpg; crop closer"):
        choose([], None, "a.jpg")


# --- insightface's own code on networks made here --------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AuraFace's files with networks made here."""
    pytest.importorskip(
        "insightface", reason='insightface is not installed: pip install ".[faces]"', exc_type=ImportError
    )
    return bright_detector_pack(tmp_path_factory.mktemp("insightface"))


def test_insightface_finds_and_recognises_with_the_packs_networks(root: Path):
    picture = np.zeros((192, 192, 3), np.uint8)  # seen by the detector at half its size
    picture[64:128, 0:64] = 255
    picture[128:192, 128:192, 0] = 255
    picture[128:192, 128:192, 1:] = 180
    finder = load_faces("auraface", root, detector_size=SIDE)
    assert finder.provider == "CPU"
    faces = finder(picture)
    assert sorted(face.box.tolist() for face in faces) == [[0, 64, 64, 128], [128, 128, 192, 192]]
    assert provider_line("auraface", finder.provider, "cpu") == "auraface finds faces on CPU"
    beside = provider_line("auraface", finder.provider, "cuda:0")
    assert (
        beside
        == "auraface finds faces on CPU, although there is a GPU: `likeness doctor` says how to mend that"
    )
    first = next(face for face in faces if face.box[0] == 0)
    assert first.landmarks[0] == pytest.approx([0.3 * 64, 64 + 0.4 * 64])
    assert np.linalg.norm(first.embedding) == pytest.approx(1, abs=1e-5)
    crop = arcface_crop(picture, first.landmarks)
    assert finder.embed(picture, first) == pytest.approx(first.embedding, abs=1e-3)
    blocks = (crop.astype(np.float32) - 127.5) / 127.5
    expected = blocks.reshape(4, 28, 4, 28, 3).mean((1, 3)).transpose(2, 0, 1).ravel()
    assert first.embedding @ expected / np.linalg.norm(expected) > 0.999, "our 112 crop is insightface's"
    assert finder(np.zeros((100, 80, 3), np.uint8)) == []
