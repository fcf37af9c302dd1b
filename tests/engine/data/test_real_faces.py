"""Faces on trained networks and photographs: two people are told apart, and what spoils a set is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data.faces import FaceFinder, load_faces
from likeness_portraits.engine.data.heads import advice_on_heads, look, people
from likeness_portraits.engine.data.packs import packs_in, terms_of
from likeness_portraits.engine.data.pictures import read_picture
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.backends import InsightFaces
from likeness_portraits.engine.evaluation.measure import measure
from likeness_portraits.tests.engine.data.kit_made import (
    FIRST,
    PEOPLE,
    RECOGNISERS,
    SECOND,
    pack_of,
    person_folder,
)

pytest.importorskip("insightface", reason="insightface is not installed", exc_type=ImportError)
pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def photographs(kit: Path) -> dict[str, np.ndarray]:
    return {name: read_picture(kit / PEOPLE / name) for name in (*FIRST, *SECOND)}


@pytest.fixture(scope="module")
def root(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_of(tmp_path_factory.mktemp("insightface"), kit, "mobileface")


@pytest.fixture(scope="module")
def finder(root: Path) -> FaceFinder:
    return load_faces("mine", root)


@pytest.mark.parametrize("recogniser", RECOGNISERS)
def test_any_packs_folder_finds_everybody_and_separates_the_two(
    kit: Path, tmp_path: Path, photographs: dict[str, np.ndarray], recogniser: str
):
    finder = load_faces("mine", pack_of(tmp_path, kit, recogniser))
    faces = [finder(pixels) for pixels in photographs.values()]
    assert all(len(found) == 1 and found[0].score > 0.9 for found in faces)
    vectors = np.stack([found[0].embedding for found in faces])
    alike, same = vectors @ vectors.T, np.arange(6) // 3
    within = alike[(same[:, None] == same) & ~np.eye(6, dtype=bool)].min()
    across = alike[same[:, None] != same].max()
    assert within - across >= 0.4


def test_doctor_names_a_stranger_and_a_group_picture(
    kit: Path, root: Path, tmp_path: Path, photographs: dict[str, np.ndarray], capsys: pytest.CaptureFixture
):
    folder = person_folder(tmp_path / "anna", kit, (*FIRST, SECOND[0]))
    joined([photographs[FIRST[0]], photographs[SECOND[1]]]).save(folder / "pair.png")
    assert main(["doctor", "--data", str(folder), "--faces", "mine", "--models", str(root)]) == 0
    said = capsys.readouterr().out.split("\n")
    about, name = dict[str, str](), ""
    for line in said:
        name = line.split()[1] if "sharpness" in line else name
        about[name] = about.get(name, "") + line
    assert "shows somebody else: its face is 0." in about[Path(SECOND[0]).stem]
    assert "shows 2 faces, of which the largest is used" in about["pair"]
    assert "somebody" not in about[Path(FIRST[0]).stem]


def joined(pictures: list[np.ndarray]) -> Image.Image:
    """The pictures side by side, all of one height."""
    small = [Image.fromarray(pixels).resize((400, 400)) for pixels in pictures]
    whole = Image.new("RGB", (400 * len(small), 400))
    for number, image in enumerate(small):
        whole.paste(image, (400 * number, 0))
    return whole


def test_of_two_faces_it_is_said_which_is_used_and_which_is_the_person(
    finder: FaceFinder, photographs: dict[str, np.ndarray]
):
    small = np.asarray(Image.fromarray(photographs[FIRST[2]]).resize((300, 300)))
    pair = np.full((400, 700, 3), 128, np.uint8)
    pair[:, :400] = np.asarray(Image.fromarray(photographs[SECOND[0]]).resize((400, 400)))
    pair[50:350, 400:] = small
    seen = [look(pixels, finder) for pixels in (photographs[FIRST[0]], photographs[FIRST[1]], pair)]
    assert people(seen) == [0, 0, 2]
    advice = advice_on_heads(seen, ["a", "b", "pair"])
    assert advice[:2] == [[], []]
    assert advice[2][0] == (
        "shows 2 faces, of which the largest is used, at the left, but the person of the other pictures is "
        "at the right; crop it to that face"
    )


def test_heads_that_are_not_upright_or_cut_off_are_named(
    finder: FaceFinder, photographs: dict[str, np.ndarray]
):
    for name in (FIRST[0], SECOND[0]):
        pixels = photographs[name]
        told = {}
        for turns in range(4):
            (told[turns],) = advice_on_heads([look(np.rot90(pixels, turns), finder)], ["a"])
        assert told[0] == []
        assert told[1] == ["its head lies on its side; turn it by 90 degrees to the right"]
        assert told[2] == ["its head is upside down; turn it by 180 degrees"]
        assert told[3] == ["its head lies on its side; turn it by 90 degrees to the left"]
    box = finder(photographs[FIRST[0]])[0].box
    half = np.ascontiguousarray(photographs[FIRST[0]][:, int(box[:3:2].mean()) - 10 :])
    assert "cut off by the picture's border" in advice_on_heads([look(half, finder)], ["a"])[0][0]


def test_what_a_folder_of_models_holds_is_listed_with_what_is_known_of_it(root: Path):
    assert packs_in(root) == ["mine"]
    detector, recogniser = terms_of(root / "models" / "mine")
    assert detector.startswith("any_name.onnx: not known here; see where you have it from")


def test_measuring_tells_the_person_from_a_stranger_picture_by_picture(
    kit: Path, root: Path, capsys: pytest.CaptureFixture, tmp_path: Path
):
    known = person_folder(tmp_path / "known", kit, FIRST[1:])
    drawn = [str(kit / PEOPLE / name) for name in (FIRST[0], SECOND[0])]
    assert main(["measure", *drawn, "-r", str(known), "--faces", "mine", "--packs", str(root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in told["pictures"]] == ["the same person", "hardly them"]
    assert [row["picture"] for row in told["pictures"]] == [FIRST[0], SECOND[0]]


def test_everybody_in_a_group_picture_is_a_stranger(finder: FaceFinder, photographs: dict[str, np.ndarray]):
    judge = InsightFaces(finder, "mine")
    one, other, known = photographs[SECOND[0]], photographs[SECOND[1]], photographs[FIRST[0]]
    pair = np.asarray(joined([one, other]))
    assert len(judge.everybody([pair])) == 2 and not len(judge.everybody([np.zeros((64, 64, 3), np.uint8)]))
    found, apart = (
        measure([known], [known], judge, strangers=others).strangers for others in ([pair], [one, other])
    )
    assert found == pytest.approx(apart, abs=0.05)
    assert found != measure([known], [known], judge, strangers=[one]).strangers


# ---- files that are not right


def test_a_file_cut_short_is_named(kit: Path, tmp_path: Path):
    folder = pack_of(tmp_path, kit, "mobileface") / "models" / "mine"
    whole = (folder / "other_name.onnx").read_bytes()
    (folder / "other_name.onnx").unlink()
    (folder / "other_name.onnx").write_bytes(whole[:100_000])
    with pytest.raises(
        LikenessError, match=r"other_name\.onnx \(100,000 bytes\) cannot be read as a face mo"
    ):
        load_faces("mine", tmp_path)


def test_a_detector_in_the_recognisers_place_is_named(kit: Path, tmp_path: Path):
    folder = tmp_path / "models" / "auraface"
    folder.mkdir(parents=True)
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        (folder / name).symlink_to(kit / "yunet_as_scrfd.onnx")
    with pytest.raises(
        LikenessError, match=r"none of scrfd_10g_bnkps\.onnx, glintr100\.onnx in .* is a face recogniser"
    ):
        load_faces("auraface", tmp_path)


def test_a_detector_of_another_make_is_named(kit: Path, tmp_path: Path):
    import onnx

    model = onnx.load(str(kit / "yunet_as_scrfd.onnx"))
    for _ in range(2):
        model.graph.output.pop()
    folder = pack_of(tmp_path, kit, "mobileface") / "models" / "mine"
    (folder / "any_name.onnx").unlink()
    onnx.save(model, str(folder / "any_name.onnx"))
    with pytest.raises(LikenessError, match=r"any_name\.onnx gives 7 outputs, where SCRFD's detectors give"):
        load_faces("mine", tmp_path)
