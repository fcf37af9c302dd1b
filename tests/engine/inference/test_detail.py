"""Regions drawn again by themselves, on the tiny base and with a drawer that writes down what it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data.faces import Face
from likeness_portraits.engine.data.masks import dilate
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.identity.attention import IdAttention
from likeness_portraits.engine.identity.conditioning import IdAdapter, IdentityConditioning, IdentityTokens
from likeness_portraits.engine.identity.encoder import IdEncoder
from likeness_portraits.engine.inference.detail import (
    Detailer,
    _people_at,
    drawn_in_regions,
    regions_redrawn,
)
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.inference.refocus import Focus
from likeness_portraits.engine.inference.refocus_options import focus_of
from likeness_portraits.engine.inference.refocused import Refocusing
from likeness_portraits.engine.inference.restore import Known, PersonReference, Pixels, to_pixels
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.engine.tiny import tiny_base

PROMPTS, SEEDS = ("a photo of <v0> and <v1>, on a beach", "a sketch of <v0> and <v1>"), (3, 4)
ASKED: list[tuple[str, int, float]] = []
CROPS: list[Pixels] = []
USED: list[Sequence[tuple[Artifact, float]]] = []


@dataclass(kw_only=True)
class Scribe(Detailer):
    """Makes every crop white, and remembers what it was asked for."""

    def __call__(self, face: Pixels) -> Pixels:
        assert face.shape == (self.side, self.side, 3)
        ASKED.append((self.prompt, self.seed, self.denoise))
        CROPS.append(face)
        USED.append(self.artifacts)
        return np.ones_like(face)


@pytest.fixture
def scribe() -> Scribe:
    ASKED.clear()
    CROPS.clear()
    USED.clear()
    return Scribe(base=tiny_base(), prompt="-")


def person(token: str, seed: int) -> Artifact:
    """A placeholder of two vectors that nobody has learned."""
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed))
    name = Token(token=token, class_word="woman", vectors=2)
    return Artifact(
        kind="embedding", method="test", tokens=(name,), base_family="sd1",
        tensors={f"token.{name.name}.clip_l": rows},
    )  # fmt: skip


def pictures(scribe: Scribe) -> np.ndarray:
    side = scribe.side
    return np.random.default_rng(0).integers(0, 200, (2, side, 2 * side, 3), dtype=np.uint8)


def test_each_region_is_drawn_from_its_own_prompt_with_the_pictures_seed(scribe: Scribe):
    focuses = [focus_of("<v0>=left;redraw=0.6"), focus_of("<v1>=right;redraw=0.4;scope=word")]
    regions_redrawn(pictures(scribe), PROMPTS, SEEDS, focuses, scribe)
    assert ASKED == [
        ("a photo of <v0>, on a beach", 3, 0.6), ("a sketch of <v0>", 4, 0.6),
        ("a photo of <v1>, on a beach", 3, 0.4), ("a sketch of <v1>", 4, 0.4),
    ]  # fmt: skip


def test_nothing_outside_the_region_changes_and_its_middle_does(scribe: Scribe):
    before, side = pictures(scribe), scribe.side
    after = regions_redrawn(before, PROMPTS, SEEDS, [focus_of("<v0>=left;redraw=0.6")], scribe)
    assert np.array_equal(after[:, :, side:], before[:, :, side:])
    assert (after[:, side // 4 : -side // 4, side // 4 : 3 * side // 4] == 255).all()


def test_a_half_is_cut_out_as_it_is_and_new_right_up_to_the_pictures_own_border(scribe: Scribe):
    before, side = pictures(scribe), scribe.side
    after = regions_redrawn(before, PROMPTS, SEEDS, [focus_of("<v0>=left;redraw=0.6")], scribe)
    assert np.array_equal(CROPS[0], to_pixels(before[0, :, :side]))
    assert (after[:, :, : side // 2] == 255).all()
    assert (after[:, :, side - 1].astype(int) - before[:, :, side - 1]).max() < 0.1 * 255


def test_a_frame_that_a_style_paints_around_a_region_is_not_seen_where_regions_meet(scribe: Scribe):
    @dataclass(kw_only=True)
    class Framer(Scribe):
        def __call__(self, face: Pixels) -> Pixels:
            rim = round(0.07 * self.side)
            return np.pad(np.full_like(face, 0.5)[rim:-rim, rim:-rim], ((rim, rim), (rim, rim), (0, 0)),
                          constant_values=1.0)  # fmt: skip

    side = scribe.side
    before = np.full((1, side, 2 * side, 3), 127, np.uint8)
    focuses = [focus_of("<v0>=left;redraw=0.6"), focus_of("<v1>=right;redraw=0.6")]
    after = regions_redrawn(before, PROMPTS[:1], SEEDS[:1], focuses, Framer(base=scribe.base, prompt="-"))
    row = after[0, side // 2, :, 0].astype(int) - 127
    assert row[0] == row[-1] == 128  # at the picture's border the frame belongs there
    assert row[side // 2 : -side // 2].max() < 0.45 * 128


def test_a_square_that_overhangs_is_moved_into_the_picture(scribe: Scribe, tmp_path: Path):
    before, side = pictures(scribe), scribe.side
    mask = np.zeros(before.shape[1:3], np.uint8)
    mask[:, : side // 2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    focus = focus_of(f"<v0>={tmp_path / 'mask.png'};redraw=0.5")
    after = regions_redrawn(before, PROMPTS, SEEDS, [focus], scribe)
    assert np.array_equal(CROPS[0], to_pixels(before[0, :, :side]))
    assert np.array_equal(after[:, :, side // 2 :], before[:, :, side // 2 :])
    assert (after[:, :, : side // 4] == 255).all()


def test_a_painted_region_is_drawn_again_inside_its_shape_only(scribe: Scribe, tmp_path: Path):
    before = pictures(scribe)
    mask = np.zeros(before.shape[1:3], np.uint8)
    mask[4:20, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    focus = focus_of(f"<v0>={tmp_path / 'mask.png'};redraw=0.5")
    after = regions_redrawn(before, PROMPTS, SEEDS, [focus], scribe)
    changed = (after != before).any((0, 3))
    assert changed[8:16, 38:52].all()
    assert not changed[mask == 0].any()


def test_without_the_wish_pictures_stay_as_they_are(scribe: Scribe):
    before = pictures(scribe)
    assert np.array_equal(regions_redrawn(before, PROMPTS, SEEDS, [focus_of("<v0>=left")], scribe), before)
    assert not ASKED


def test_the_base_itself_draws_a_region_anew():
    base = tiny_base()
    side = base.resolution
    before = np.random.default_rng(1).integers(0, 256, (1, side, 2 * side, 3), dtype=np.uint8)
    focus = Focus(token="man", region=(0.5, 0.0, 0.5, 1.0), redraw=0.5)
    painter = Detailer(base=base, prompt="-", steps=3)
    after = regions_redrawn(before, ["a man"], [1], [focus], painter)
    assert np.array_equal(after[:, :, :side], before[:, :, :side])
    assert (after != before).mean() > 0.2
    again = regions_redrawn(before, ["a man"], [1], [focus], replace(painter, seed=9))
    assert np.array_equal(after, again)  # the picture's seed decides, not the painter's


def test_what_cannot_be_drawn_again_is_told():
    with pytest.raises(LikenessError, match="only=redraw draws 'man' as it stands, then the region as some"):
        focus_of("man=face;only=redraw;redraw=0.5")
    with pytest.raises(LikenessError, match="tries=3 says how often a region is drawn again; use 1 or more"):
        focus_of("<v0>=left;tries=3")
    with pytest.raises(LikenessError, match="nobody looks for man here; give a half, a box or a mask"):
        focus = focus_of("man=face;only=redraw;redraw=0.5;inside=<v0>")
        regions_redrawn(np.zeros((1, 64, 64, 3), np.uint8), ["a man"], [1], [focus], Scribe(
            base=tiny_base(), prompt="-"))  # fmt: skip
    with pytest.raises(LikenessError, match="the region for man is empty; paint where it should be"):
        empty = Focus(token="man", region=torch.zeros(1, 64, 64), redraw=0.5)
        regions_redrawn(np.zeros((1, 64, 64, 3), np.uint8), ["a man"], [1], [empty], Scribe(
            base=tiny_base(), prompt="-"))  # fmt: skip
    with pytest.raises(LikenessError, match="redraw=1.5 is no share of the schedule; use 0.4 to 0.7"):
        focus_of("<v0>=left;redraw=1.5")


# --- regions that nobody has drawn ---------------------------------------------------------------------


def painted(base: BaseModel, focus: Focus, **more: Any) -> tuple[np.ndarray, np.ndarray, list[Focus]]:
    """A picture without drawing again, with it, and what was found meanwhile."""
    found: list[Focus] = []
    how: dict[str, Any] = {"steps": 4, "width": 2 * base.resolution, "seed": [1]}
    refocus = Refocusing(focuses=[focus], on_regions=lambda group, own: found.extend(own), **more)
    plain = generate(base, ["a man on a beach"], refocus=replace(refocus, focuses=[replace(focus, redraw=0)]),
                     **how)  # fmt: skip
    again = drawn_in_regions(base, ["a man on a beach"], refocus=replace(refocus, on_regions=None), **how)
    return plain[0], again[0], found


@pytest.mark.parametrize("restart", [False, True])
def test_a_region_found_while_drawing_is_drawn_again_there_and_nowhere_else(restart: bool):
    focus = Focus(token="man", redraw=0.6, scope="word")

    def look(clean: torch.Tensor) -> torch.Tensor:
        marks = torch.zeros(len(clean), *clean.shape[-2:])
        marks[:, 2:6, 2:6] = 1
        return marks

    plain, again, (found,) = painted(tiny_base(), focus, restart=restart, look=look)
    assert isinstance(found.region, torch.Tensor) and 0 < found.region.mean() < 1
    wide = F.interpolate(found.region[None], size=plain.shape[:2], mode="bilinear")[0, 0].numpy()
    changed = (plain != again).any(-1)
    assert changed[wide >= 0.5].any() and not changed[wide < 0.5].any()


def test_where_no_region_is_found_nothing_is_drawn_again(caplog: pytest.LogCaptureFixture):
    focus = Focus(token="man", redraw=0.6, scope="word")
    plain, again, _ = painted(
        tiny_base(), focus, look=lambda clean: torch.zeros(len(clean), *clean.shape[-2:])
    )
    assert np.array_equal(plain, again)
    assert "no region was found for man by face in 1 of 1 pictures" in caplog.text


def head_on_the_right(shown: np.ndarray) -> np.ndarray:
    """What a parser would mark that sees a head right of the middle of a wide picture, amid a square crop."""
    marks, (height, width) = np.zeros(shown.shape[:3], np.float32), shown.shape[1:3]
    left, right = (0.25, 0.75) if width == height else (0.625, 0.875)
    marks[:, height // 4 : -height // 4, round(left * width) : round(right * width)] = 1
    return marks


def test_a_concept_that_is_only_drawn_again_is_not_in_the_rest_of_the_picture():
    base = tiny_base()
    concept = [(person("<v0>", 3), 1.0)]
    how: dict[str, Any] = {"steps": 3, "width": 2 * base.resolution, "seed": [5]}
    plain = generate(base, ["a woman on a beach"], **how)
    focus = Focus(token="a woman", inside="<v0>", redraw=0.7, only="redraw")
    refocus = Refocusing(focuses=[focus], heads=head_on_the_right)
    again = drawn_in_regions(base, ["a woman on a beach"], refocus=refocus, artifacts=concept, **how)
    changed, head = (plain != again).any(-1)[0], head_on_the_right(plain)[0] == 1
    assert changed[head].mean() > 0.5 and not changed[~head & ~around(head)].any()
    other = [(person("<v0>", 4), 1.0)]
    third = drawn_in_regions(base, ["a woman on a beach"], refocus=refocus, artifacts=other, **how)
    assert not np.array_equal(again, third) and np.array_equal(
        again[:, ~around(head)], third[:, ~around(head)]
    )


def around(head: np.ndarray) -> np.ndarray:
    """A head and the rim in which it fades: twice 0.04 of its square of 58 pixels, and one more."""
    return dilate(head.astype(np.float32), 6) >= 0.5


def test_without_a_head_in_the_finished_picture_it_stays_and_that_is_said(
    scribe: Scribe, caplog: pytest.LogCaptureFixture
):
    focuses = [
        focus_of(f"{who}=face;inside=<v{n}>;redraw=0.6;only=redraw") for n, who in enumerate(("ann", "bob"))
    ]
    before = pictures(scribe)
    after = regions_redrawn(before, ["ann and bob"] * 2, SEEDS, focuses, scribe, heads=head_on_the_right)
    assert [prompt for prompt, *_ in ASKED] == ["<v0> and bob", "<v0> and bob"]  # one head: the first word's
    assert not np.array_equal(after, before)
    assert "no head was found for bob in 2 of 2 pictures: they stay as they were drawn" in caplog.text


def test_a_scrap_of_a_head_that_was_found_as_a_region_is_not_drawn_again(
    scribe: Scribe, caplog: pytest.LogCaptureFixture
):
    before = pictures(scribe)
    marks = torch.from_numpy(head_on_the_right(before))
    scrap = marks.clone()
    scrap[:, : 3 * scrap.shape[1] // 5] = 0
    for region, drawn in ((marks, 2), (scrap, 0)):
        ASKED.clear()
        focus = Focus(token="<v0>", region=region, redraw=0.5)
        regions_redrawn(before, PROMPTS, SEEDS, [focus], scribe, sought=[focus], heads=head_on_the_right)
        assert len(ASKED) == drawn
    assert "<v0> stays as it was drawn in a picture: no head lies in the region found for it" in caplog.text


def test_concepts_of_others_are_not_there_in_a_regions_drawing_again(scribe: Scribe):
    style = replace(person("<s>", 9), tokens=())
    scribe.artifacts = [(person("<v0>", 1), 1.0), (person("<v1>", 2), 1.0), (style, 0.5)]
    regions_redrawn(pictures(scribe), PROMPTS, SEEDS, [focus_of("<v1>=right;redraw=0.4")], scribe)
    assert [[tuple(token.token for token in one.tokens) for one, _ in used] for used in USED] == [
        [("<v1>",), ()], [("<v1>",), ()],
    ]  # fmt: skip


# --- who is wanted -------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Shader(Scribe):
    """Makes crops brighter with every seed."""

    def __call__(self, face: Pixels) -> Pixels:
        return super().__call__(face) * np.float32(self.seed / 10)


class Darkness:
    """Takes a face for somebody by its shade: alike with shades near 0.42."""

    def embed(self, pixels: np.ndarray, face: Face) -> np.ndarray:
        left, top, right, bottom = (int(value) for value in face.box)
        angle = abs(float(pixels[top:bottom, left:right].mean()) / 255 - 0.42)
        return np.array([np.cos(angle), np.sin(angle)], np.float32)


def known_person(count: int = 1) -> Known:
    def find(pixels: np.ndarray) -> list[Face]:
        side = pixels.shape[0]
        return [Face(np.array([side / 4, side / 4, side / 2, side / 2], np.float32), None, 1.0)]

    return Known(find, PersonReference(Darkness(), np.array([[1.0, 0.0]] * count, np.float32)))


def test_of_several_tries_the_one_most_like_the_person_is_kept(scribe: Scribe):
    shader, said = Shader(base=scribe.base, prompt="-"), []
    focus = Focus(token="<v0>", region=(0.0, 0.0, 0.5, 1.0), redraw=0.6, tries=4)
    after = regions_redrawn(
        pictures(scribe)[:1],
        PROMPTS[:1],
        [2],
        [focus],
        shader,
        people={"<v0>": known_person()},
        say=said.append,
    )
    assert [seed for _, seed, _ in ASKED] == [2, 3, 4, 5]
    assert after[0, shader.side // 2, shader.side // 4, 0] == 102  # of seed 4
    assert said == ["region of <v0> drawn again 4 times; likeness 1.000"]


def test_tries_end_where_the_likeness_is_that_of_the_persons_pictures(scribe: Scribe):
    shader = Shader(base=scribe.base, prompt="-")
    focus = Focus(token="<v0>", region=(0.0, 0.0, 0.5, 1.0), redraw=0.6, tries=4)
    regions_redrawn(pictures(scribe)[:1], PROMPTS[:1], [3], [focus], shader, people={"<v0>": known_person(2)})
    assert [seed for _, seed, _ in ASKED] == [3]  # 0.993 is more than 1 - 0.05


def test_tries_need_pictures_of_the_person():
    refocus = Refocusing(focuses=[focus_of("man=left;redraw=0.5;tries=3")])
    with pytest.raises(LikenessError, match="name their folder with like=FOLDER"):
        drawn_in_regions(tiny_base(), ["a man"], seed=[1], refocus=refocus)


def person_of_an_adapter(base: BaseModel) -> IdentityConditioning:
    """Somebody of random tokens, whom an adapter of random weights shows plainly."""
    width = base.unet.config.cross_attention_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        attention = IdAttention.beside(base.denoiser.cross_attention())
        for weight in attention.parameters():
            weight.data += 2 * torch.randn_like(weight) / width**0.5
        tokens, nobody = torch.randn(2, 1, 12, width)
        encoder = IdEncoder(dim=width, image_width=12, queries=4, head_width=16)
    adapter = IdAdapter(encoder=encoder, attention=attention, family=base.family, image_encoder="none")
    return IdentityConditioning(identity=IdentityTokens(adapter=adapter, tokens=tokens, nobody=nobody))


def test_people_of_an_adapter_go_along_with_what_their_regions_have_in_the_square():
    shown_person = person_of_an_adapter(tiny_base())
    left = torch.zeros(4, 8)
    left[:, :4] = 1
    shown = [replace(shown_person, region=left), replace(shown_person, among=(False, True))]
    square = np.array([[-0.5, -0.5], [-0.5, 63.5], [63.5, 63.5], [63.5, -0.5]])
    (first,) = _people_at(shown, 0, square, (64, 128))
    assert first.region is not None and first.region.shape == (64, 64) and first.region[:, :48].min() == 1
    (second,) = _people_at(shown, 1, square + [64, 0], (64, 128))
    assert second.region is None and second.among is None


# --- the command line ------------------------------------------------------------------------------------


def test_the_command_line_draws_a_region_again(tmp_path: Path):
    def command(extra: str, name: str) -> np.ndarray:
        told = [
            "generate",
            "a man on a beach",
            "--steps",
            "2",
            "--width",
            "256",
            "--out",
            str(tmp_path / name),
        ]
        assert main([*told, "--refocus", f"a man=left{extra}"]) == 0
        return np.array(Image.open(tmp_path / name))

    plain, again = command("", "plain.png"), command(";redraw=0.5", "again.png")
    assert np.array_equal(plain[:, 128:], again[:, 128:])
    assert not np.array_equal(plain, again)


def test_somebody_whom_an_adapter_shows_is_there_in_a_regions_drawing_again():
    base = tiny_base()
    refocus = Refocusing(focuses=[Focus(token="man", region=(0.0, 0.0, 0.5, 1.0), scope="word", redraw=0.6)])
    how: dict[str, Any] = {"steps": 3, "width": 2 * base.resolution, "seed": [1], "refocus": refocus}
    shown = person_of_an_adapter(base)
    before = generate(base, ["a man"], people=[shown], **{**how, "refocus": replace(refocus, focuses=[
        replace(refocus.focuses[0], redraw=0)])})  # fmt: skip
    with_them = drawn_in_regions(base, ["a man"], people=[shown], **how)
    again = Detailer(base=base, prompt="a man", steps=3)
    lost = regions_redrawn(before, ["a man"], [1], refocus.focuses, again)
    side = base.resolution
    assert np.array_equal(with_them[:, :, side:], lost[:, :, side:])
    assert not np.array_equal(with_them[:, :, :side], lost[:, :, :side])


def test_the_command_line_draws_people_of_an_adapter_again(tmp_path: Path):
    Image.fromarray(world.example_pictures(100_000)[0].pixels).save(tmp_path / "ann.png")
    told = ["generate", "a man", "--steps", "2", "--identity", str(tmp_path / "ann.png")]
    assert main([*told, "--refocus", "man=left;redraw=0.5", "--out", str(tmp_path / "out.png")]) == 0
    assert Image.open(tmp_path / "out.png").size == (128, 128)


def test_the_command_line_keeps_the_try_that_is_most_like_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "ann").mkdir()
    for number, picture in enumerate(world.example_pictures(100_000)[:2]):
        Image.fromarray(picture.pixels).save(tmp_path / "ann" / f"{number}.png")
    told = ["generate", "a man", "--steps", "2", "--out", str(tmp_path / "out.png")]
    assert main([*told, "--refocus", f"man=left;redraw=0.5;tries=2;like={tmp_path / 'ann'}"]) == 0
    assert "region of man drawn again 2 times; likeness " in " ".join(capsys.readouterr().err.split())
    assert main([*told, "--overwrite", "--refocus", "man=left;redraw=0.5;tries=2"]) != 0
    assert "name their folder with like=FOLDER" in " ".join(capsys.readouterr().err.split())
