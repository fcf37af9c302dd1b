"""What a run writes into its file about itself, and what drawn pictures say of the concepts in them."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.cli import main
from likeness_portraits.tests.engine.tiny import write_anna

WATCHED = ("--steps", "3", "--preview-every", "2", "--masked-loss", "false")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept file that was watched while it was learned, twice."""
    folder = tmp_path_factory.mktemp("cards")
    person = str(write_anna(folder / "anna"))
    for name in ("one", "two"):
        output = str(folder / f"{name}.safetensors")
        assert main(["train", "textual-inversion", person, "-o", output, *WATCHED]) == 0
    return folder / "one.safetensors"


def test_a_file_says_what_it_was_learned_from(learned: Path):
    about = Artifact.load(learned).about
    assert (about["base"], about["size"], about["precision"]) == ("miniature", 128, "fp32")
    assert about["pictures"] == about["masks"] == 2
    assert about["class_words"] == ["woman"] and "scores" not in about


def test_its_thumbnail_is_the_last_preview_which_shows_what_is_kept(learned: Path):
    previews = sorted(learned.with_suffix(".previews").iterdir())
    assert [path.name for path in previews] == ["step-000002.png", "step-000003.png"]
    with Image.open(io.BytesIO(Artifact.load(learned).thumbnail)) as thumbnail:
        kept = np.asarray(thumbnail).astype(float)
    drawn = [np.asarray(Image.open(path)).astype(float) for path in previews]
    assert kept.shape == drawn[-1].shape and abs(kept - drawn[-1]).mean() < 8


def test_equal_runs_are_equal_files_with_their_pictures(learned: Path):
    assert learned.read_bytes() == learned.with_name("two.safetensors").read_bytes()


def test_a_drawn_picture_names_concept_digest_and_strength_and_info_reads_them_back(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompt, concept = "a photo of <ann>", f"{learned}:0.8:<ann>"
    for name in ("a.png", "a.jpg"):
        out = str(tmp_path / name)
        assert main(["generate", prompt, "--concept", concept, "--steps", "1", "-o", out]) == 0
    digest = hashlib.sha256(learned.read_bytes()).hexdigest()[:12]
    capsys.readouterr()
    assert main(["info", "--json", str(tmp_path / "a.png"), str(tmp_path / "a.jpg")]) == 0
    for line in capsys.readouterr().out.splitlines():
        told = json.loads(line)
        assert told["concepts"] == f"one.safetensors ({digest}) at 0.8 as <ann>"
        assert (told["prompt"], told["seed"]) == (prompt, "0")
    assert main(["info", str(tmp_path / "a.png")]) == 0
    assert f"one.safetensors ({digest}) at 0.8 as <ann>\n" in capsys.readouterr().out


def test_of_comfyuis_pictures_info_says_that_they_hold_a_graph(tmp_path: Path, capsys):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("prompt", json.dumps({"1": {"class_type": "KSampler"}, "2": {}}))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png", pnginfo=text)
    assert main(["info", str(tmp_path / "a.png")]) == 0
    assert "ComfyUI's, 2 nodes; drag the picture into it" in capsys.readouterr().out
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    assert main(["info", str(tmp_path / "b.png")]) == 2
    assert "says nothing of how it was made" in capsys.readouterr().err
