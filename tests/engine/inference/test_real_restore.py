"""The gate of face restoring on photographs, judged by trained recognisers: a real likeness is kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from likeness_portraits.engine.data.faces import FaceFinder, load_faces
from likeness_portraits.engine.data.pictures import read_picture
from likeness_portraits.engine.inference.restore import (
    Restoration,
    face_square,
    person_references,
    restore_picture,
    to_pixels,
    to_shades,
)
from likeness_portraits.tests.engine.data.kit_made import FIRST, PEOPLE, RECOGNISERS, SECOND, pack_of

pytest.importorskip("insightface", reason="insightface is not installed", exc_type=ImportError)
pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=RECOGNISERS)
def finder(kit: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> FaceFinder:
    return load_faces("mine", pack_of(tmp_path_factory.mktemp(request.param), kit, request.param))


def test_a_restorer_that_draws_somebody_else_is_held_back_and_a_gentle_one_is_not(
    kit: Path, finder: FaceFinder
):
    photographs = {name: read_picture(kit / PEOPLE / name) for name in (*FIRST, SECOND[0])}
    picture, other = photographs[FIRST[0]], photographs[SECOND[0]]
    faces, (stranger,) = finder(picture), finder(other)
    corners = face_square(stranger)
    box = tuple(int(value) for value in (*corners.min(0), *corners.max(0)))
    somebody = Image.fromarray(other).crop(box)

    def replaced(crop: np.ndarray) -> np.ndarray:
        return to_pixels(np.asarray(somebody.resize(crop.shape[1::-1], Image.Resampling.LANCZOS)))

    def sharpened(crop: np.ndarray) -> np.ndarray:
        return to_pixels(np.asarray(Image.fromarray(to_shades(crop)).filter(ImageFilter.UnsharpMask(2, 60))))

    person = person_references(finder, finder, [photographs[name] for name in FIRST[1:]])

    def restored(how, gate: str):
        told = Restoration(gate=gate, match_colours=False)
        return restore_picture(to_pixels(picture), faces, how, told, person=person).outcomes[0]

    ungated = restored(replaced, "off")
    assert ungated.share == 1 and ungated.before > 0.6 and ungated.restored < 0.35
    rejected = restored(replaced, "reject")
    assert rejected.share == 0 and rejected.after == rejected.before
    blended = restored(replaced, "blend")
    assert blended.share < 1 and blended.after >= blended.before - 0.05
    gentle = restored(sharpened, "blend")
    assert gentle.share == 1 and gentle.after >= gentle.before - 0.05 and gentle.verdict == "kept"
