"""Pictures as cameras and programs really write them: upright, opaque, eight bits, or one clear sentence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.data.pictures import read_mask, read_picture
from likeness_portraits.engine.errors import LikenessError


def red_left_blue_right(width: int = 64, height: int = 48) -> Image.Image:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


def test_a_phone_photo_is_turned_as_it_was_held(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    red_left_blue_right().save(tmp_path / "phone.jpg", exif=exif, quality=95)
    pixels = read_picture(tmp_path / "phone.jpg")
    assert pixels.shape == (64, 48, 3)
    assert pixels[5, 24, 0] > 200 and pixels[60, 24, 2] > 200  # red left became red on top


def test_transparent_parts_become_white(tmp_path: Path):
    image = red_left_blue_right().convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.repeat(np.uint8([255, 0]), 32), (48, 1))))
    image.save(tmp_path / "cut.png")
    pixels = read_picture(tmp_path / "cut.png")
    assert pixels[10, 10].tolist() == [255, 0, 0] and pixels[10, 60].tolist() == [255, 255, 255]


def test_a_palette_with_a_transparent_colour_becomes_white_there(tmp_path: Path):
    image = Image.new("P", (40, 40), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(0, (0, 0, 20, 40))
    image.save(tmp_path / "palette.png", transparency=0)
    pixels = read_picture(tmp_path / "palette.png")
    assert pixels[5, 5].tolist() == [255, 255, 255] and pixels[5, 30].tolist() == [0, 255, 0]


def test_print_colours_are_converted(tmp_path: Path):
    red_left_blue_right().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    pixels = read_picture(tmp_path / "print.jpg").astype(int)
    assert np.abs(pixels - np.asarray(red_left_blue_right()).astype(int)).mean() < 12


def test_sixteen_bits_keep_their_brightness(tmp_path: Path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    pixels = read_picture(tmp_path / "deep.png")
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels[0, :, 1].astype(float) - ramp[0] / 257).max() <= 1


def test_grey_becomes_three_equal_channels(tmp_path: Path):
    Image.new("L", (40, 40), 77).save(tmp_path / "grey.webp", lossless=True)
    assert (read_picture(tmp_path / "grey.webp") == 77).all()


def test_a_truncated_jpeg_is_named_with_its_remedy(tmp_path: Path):
    red_left_blue_right(256, 256).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(LikenessError, match=r"cut\.jpg is damaged or cut short; save it again"):
        read_picture(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
    "data", [b"", b"just words", b"\x89PNG\r\n\x1a\n" + b"\0" * 40], ids=["empty", "text", "hull"]
)
def test_what_is_no_picture_is_named_with_its_remedy(tmp_path: Path, data: bytes):
    (tmp_path / "odd.png").write_bytes(data)
    with pytest.raises(LikenessError, match=r"odd\.png .*; save it again as PNG or JPEG"):
        read_picture(tmp_path / "odd.png")


def test_a_picture_too_small_to_show_anybody_is_refused(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "icon.png")
    with pytest.raises(LikenessError, match=r"icon\.png is only 8 x 8 pixels; use a picture of at least"):
        read_picture(tmp_path / "icon.png")


def test_masks_are_coverage_between_nought_and_one(tmp_path: Path):
    Image.fromarray(np.uint8([[0, 51], [255, 102]])).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", (2, 2))
    assert mask.dtype == np.float32
    np.testing.assert_allclose(mask, [[0, 0.2], [1, 0.4]], atol=1e-6)


def test_a_mask_of_another_size_names_both_sizes(tmp_path: Path):
    Image.new("L", (40, 30), 255).save(tmp_path / "mask.png")
    with pytest.raises(LikenessError, match=r"mask\.png is 40 x 30 pixels, but its picture is 64 x 48; save"):
        read_mask(tmp_path / "mask.png", (48, 64))


def test_a_mask_that_marks_nothing_is_refused(tmp_path: Path):
    Image.new("L", (64, 48), 0).save(tmp_path / "mask.png")
    with pytest.raises(LikenessError, match=r"mask\.png marks nothing"):
        read_mask(tmp_path / "mask.png", (48, 64))
