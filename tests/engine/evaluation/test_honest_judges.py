"""The Miniature's judge and adapter do not pass a verdict on photographs; runs say what they cannot do."""

from pathlib import Path

import numpy as np
import pytest

from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.config import BaseSpec, ConceptSpec, Job, TextualInversionSettings
from likeness_portraits.engine.data.concepts import Concept, Picture
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.backends import MiniatureBackend
from likeness_portraits.engine.evaluation.measure import measure
from likeness_portraits.engine.identity.references import OfTheMiniature
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.training.launch import load_base
from likeness_portraits.engine.training.plan import remarks

data = pytest.importorskip("skimage.data", reason="scikit-image is not installed: pip install '.[test]'")


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """NASA's portrait of Eileen Collins, public domain: (512, 512, 3)."""
    return data.astronaut()


@pytest.fixture(scope="module")
def drawn() -> list[np.ndarray]:
    who = world.sample_identity(5)
    return [world.render(who, world.sample_context(n, hat="none", style="photo")).pixels for n in range(2)]


def test_the_miniatures_judge_scores_no_photographs(photograph: np.ndarray, drawn: list[np.ndarray]):
    judge = MiniatureBackend()
    with pytest.raises(LikenessError, match="^the pictures: no picture of the Miniature's world.*auraface$"):
        measure([photograph], drawn, judge)
    with pytest.raises(LikenessError, match="^the reference pictures: no picture of the Miniature's world"):
        measure(drawn, [photograph], judge)


def test_the_miniatures_judge_scores_its_own_also_enlarged(drawn: list[np.ndarray]):
    large = [np.repeat(np.repeat(picture, 3, 0), 3, 1) for picture in drawn]
    assert measure(large, drawn, MiniatureBackend()).mean_identity > 0.8


def test_the_miniatures_adapter_takes_no_photographs_from_people(photograph: np.ndarray, drawn: list):
    prepare = OfTheMiniature(checked=True)
    prepare(drawn[0], "drawn.png")
    with pytest.raises(LikenessError, match="^anna.jpg: no picture of the Miniature's world.*adapter"):
        prepare(photograph, "anna.jpg")


# ------------------------------------------------------------------------------------- what a run says of it


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(BaseSpec())


def told(base: BaseModel, pictures: list[Picture], masked: bool) -> list[str]:
    settings = TextualInversionSettings(masked_loss=masked)
    job = Job(method="textual-inversion", concepts=(ConceptSpec(folder="x"),), output="x.safetensors",
              settings=settings)  # fmt: skip
    return remarks(job, base, [Concept("<v0>", "woman", "subject", tuple(pictures))])


def test_photographs_on_the_miniature_are_said_aloud(base: BaseModel, photograph: np.ndarray, drawn: list):
    (loud,) = told(base, [Picture("a", photograph)], masked=False)
    assert loud.startswith("ATTENTION: these are photographs, and the base is the Miniature")
    assert told(base, [Picture("a", drawn[0])], masked=False) == []


def test_learning_inside_masks_that_are_not_there_is_said(base: BaseModel, drawn: list[np.ndarray]):
    inside = np.ones((128, 128), np.float32)
    masked, bare = Picture("a", drawn[0], inside), Picture("b", drawn[1])
    assert told(base, [masked], masked=True) == []
    assert told(base, [bare], masked=True) == ["no picture has a mask: backgrounds are learned too"]
    (half,) = told(base, [masked, bare], masked=True)
    assert half == "only 1 of 2 pictures have masks: the others' backgrounds are learned too"


def test_the_command_line_says_it_before_the_first_step(
    photograph: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from PIL import Image

    from likeness_portraits.engine.cli import main

    (tmp_path / "anna").mkdir()
    Image.fromarray(photograph).save(tmp_path / "anna" / "a.png")
    output = ["-o", str(tmp_path / "anna.safetensors")]
    words = ["train", "textual-inversion", str(tmp_path / "anna"), "--class-word", "woman", "--steps", "1"]
    assert main([*words, *output]) == 0
    assert "ATTENTION: these are photographs" in capsys.readouterr().err
