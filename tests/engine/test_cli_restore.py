"""`likeness restore` and `likeness generate --restore`: whole commands on the Miniature."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.restore_options import parse_restore_options
from likeness_portraits.engine.miniature import world


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of one person: one to restore, two as references."""
    folder = tmp_path_factory.mktemp("people")
    (folder / "references").mkdir()
    for number, portrait in enumerate(world.example_pictures(world.TUNING_SEEDS[1], 3)):
        place = folder if number == 0 else folder / "references"
        Image.fromarray(portrait.pixels).save(place / f"{number}.png")
    return folder


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_face_is_drawn_again_and_judged(people: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    out = tmp_path / "out.png"
    options = ["--with", "redraw;denoise=0.3;steps=3;gate=off", "--prompt", "a photo of a woman"]
    status = main(
        [
            "restore",
            str(people / "0.png"),
            *options,
            "--references",
            str(people / "references"),
            "-o",
            str(out),
        ]
    )
    told = capfd.readouterr()
    assert status == 0 and told.out.strip() == str(out)
    assert "face from (" in told.err and ": likeness 0." in told.err and "restored 0." in told.err
    before, after = picture(people / "0.png"), picture(out)
    changed = (before != after).any(-1)
    assert 0.05 < changed.mean() < 0.5
    rows, columns = np.nonzero(changed)
    assert rows.min() > 10 and columns.min() > 10, "the background is as it was"
    assert "redraw;denoise=0.3" in Image.open(out).text["restored with"]


def test_drawn_pictures_are_finished_with_their_own_prompts(tmp_path: Path, capfd: pytest.CaptureFixture):
    drawn = ["generate", "a photo of a man", "a photo of a woman", "--steps", "3", "--seed", "5"]
    assert main([*drawn, "-o", str(tmp_path / "plain")]) == 0
    assert main([*drawn, "-o", str(tmp_path / "done"), "--restore", "redraw;denoise=0.3;steps=2"]) == 0
    told = capfd.readouterr().err
    assert "picture 1" in told and "picture 2" in told
    assert "the likeness was not checked; give pictures of the person with --references" in told
    for path in sorted((tmp_path / "plain").iterdir()):
        assert Image.open(tmp_path / "done" / path.name).text["restore"] == "redraw;denoise=0.3;steps=2"


def test_a_picture_without_a_face_comes_back_unchanged_and_it_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture
):
    Image.new("RGB", (80, 60), (90, 120, 30)).save(tmp_path / "grey.png")
    out = str(tmp_path / "out.png")
    assert main(["restore", str(tmp_path / "grey.png"), "--prompt", "a man", "-o", out]) == 0
    assert "grey.png: no face found; it stays as it is" in capfd.readouterr().err
    assert np.array_equal(picture(tmp_path / "grey.png"), picture(tmp_path / "out.png"))


def test_mistakes_are_one_line_each(people: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    face = str(people / "0.png")
    for options, message in (
        (["--with", "redrew"], "unknown way to restore 'redrew'; did you mean 'redraw'?"),
        (
            ["--with", "redraw;denose=1"],
            "unknown setting 'denose' in 'redraw;denose=1'; did you mean 'denoise'?",
        ),
        (["--with", "redraw;steps=x"], "'x' in 'redraw;steps=x' is not a number"),
        (["--with", "redraw;match_colours=perhaps"], "is neither yes nor no"),
        (["--with", "redraw;gate=closed"], "unknown gate 'closed'"),
        (["--with", "redraw"], "faces are drawn again from a prompt; write one"),
        (["--with", "redraw", "--prompt", "a <v0>"], "the prompt uses <v0>, which no given concept defines"),
        (["--with", "redraw;faces=mask", "--prompt", "a man"], "give a mask per picture that marks its face"),
        (["--with", "codeformer.pth;faces=miniature"], "get codeformer.pth from https://github.com/sczhou"),
        (["--prompt", "a man", "--references", str(tmp_path)], "no pictures in"),
    ):
        assert main(["restore", face, *options, "-o", str(tmp_path / "out.png")]) == 2
        told = capfd.readouterr().err.strip().splitlines()[-1]
        assert message in told, (options, told)
    assert not (tmp_path / "out.png").exists()


def test_settings_are_read_as_they_are_meant():
    wish = parse_restore_options(
        "GFPGANv1.4.pth; faces=auraface; non-commercial; number=1; allowed_drop=0.1; feather=0"
    )
    assert not wish.redraws
    assert wish.settings == {
        "faces": "auraface", "non_commercial": True, "number": 1, "allowed_drop": 0.1, "feather": 0.0,
    }  # fmt: skip
    with pytest.raises(LikenessError, match="strength is 3.0; give 0 to 1"):
        parse_restore_options("redraw;strength=3")
