"""Pictures as cameras and programs really write them: upright, opaque, eight bits, or one clear sentence."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from likeness_portraits.engine.data.pictures import (
    picture_in,
    pictures_in,
    read_mask,
    read_photograph,
    read_picture,
    reads_heic,
)
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


# ---------------------------------------------------------------------------------- colours, and other kinds


def p3_to_srgb(pixels: np.ndarray) -> np.ndarray:
    """Display P3 as sRGB by its definition (primaries .680 .320, .265 .690, .150 .060; sRGB's curve)."""
    values = pixels / 255.0
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
    mixed = (linear @ matrix.T).clip(0, 1)
    return 255 * np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)


@pytest.mark.real
def test_a_photograph_in_display_p3_is_read_as_srgb(kit: Path):
    with Image.open(kit / "p3_profile.jpg") as image:
        assert "P3" in ImageCms.getProfileDescription(BytesIO(image.info["icc_profile"]))
        raw = np.asarray(image.convert("RGB"))
    read = read_picture(kit / "p3_profile.jpg").astype(float)
    expected = p3_to_srgb(raw)
    assert np.abs(read - expected).max() <= 2
    assert np.abs(raw - expected).max() > 9  # what it was off by before


def test_skin_in_adobe_rgb_keeps_its_colour(tmp_path: Path):
    """Adobe RGB (1998) by its definition: gamma 563/256, primaries .64 .33, .21 .71, .15 .06."""
    Image.new("RGB", (64, 64), (210, 170, 140)).save(tmp_path / "a.png", icc_profile=matrix_profile())
    assert np.abs(read_picture(tmp_path / "a.png")[0, 0] - np.array([224, 172, 140])).max() <= 2


def matrix_profile() -> bytes:
    """A colour profile (ICC 2.1) with Adobe RGB's curve and colourants, written by hand."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    colourants = {b"rXYZ": (0.60974, 0.31111, 0.01947), b"gXYZ": (0.20528, 0.62567, 0.06087),
                  b"bXYZ": (0.14919, 0.06322, 0.74457), b"wtpt": (0.95045, 1.0, 1.08905)}  # fmt: skip
    parts = {name: b"XYZ \0\0\0\0" + fixed(*xyz) for name, xyz in colourants.items()}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(563 / 256 * 256)) + b"\0\0"
    parts |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    name = b"by hand"
    parts[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + b"\0" * 79
    table, body, place = b"", b"", 128 + 4 + 12 * len(parts)
    for key, part in parts.items():
        part += b"\0" * (-len(part) % 4)
        table += key + struct.pack(">II", place + len(body), len(part))
        body += part
    whole = struct.pack(">I", len(parts)) + table + body
    head = struct.pack(">I4sI4s4s4s", 128 + len(whole), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(0.9642, 1.0, 0.8249)
    return head + b"\0" * (128 - len(head)) + whole


def test_a_profile_that_is_no_use_is_said_and_transparency_stays(tmp_path: Path):
    Image.new("RGB", (40, 40), (9, 99, 199)).save(tmp_path / "a.png", icc_profile=b"not a profile")
    found = read_photograph(tmp_path / "a.png")
    assert (found.pixels == (9, 99, 199)).all() and "it is taken for sRGB" in found.remarks[0]
    cut = Image.new("RGBA", (40, 40), (210, 170, 140, 0))
    cut.paste((210, 170, 140, 255), (0, 0, 20, 40))
    cut.save(tmp_path / "cut.png", icc_profile=matrix_profile())
    pixels = read_picture(tmp_path / "cut.png")
    assert (pixels[:, 30] == 255).all() and np.abs(pixels[0, 0] - np.array([224, 172, 140])).max() <= 2


def test_a_picture_with_a_megabyte_of_text_is_whole(tmp_path: Path):
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "{" + " " * 2**21 + "}", zip=True)
    red_left_blue_right().save(tmp_path / "drawn.png", pnginfo=text)
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        Image.open(tmp_path / "drawn.png")  # why it was called damaged
    assert (read_picture(tmp_path / "drawn.png") == np.asarray(red_left_blue_right())).all()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".gif", ".avif", ".JPG"])
def test_every_kind_that_pillow_reads_is_a_picture(tmp_path: Path, suffix: str):
    Image.new("RGB", (48, 40), (200, 40, 40)).save(tmp_path / f"a{suffix}")
    (found,) = pictures_in(tmp_path)
    assert np.abs(read_picture(found)[20, 20] - np.array([200, 40, 40], float)).max() < 12


def test_of_a_film_the_first_frame_is_read_and_it_is_said(tmp_path: Path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = read_photograph(tmp_path / "a.gif")
    assert (found.pixels == (255, 0, 0)).all() and found.remarks == (
        "is a film of 3 frames; its first is used",
    )


def test_heic_is_named_with_how_to_convert_it(tmp_path: Path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    if reads_heic():
        pytest.skip("pillow-heif is installed here")
    with pytest.raises(LikenessError, match=r"IMG_1\.HEIC is HEIC, .*save them as JPEG, or run `pip install"):
        read_picture(tmp_path / "IMG_1.HEIC")


def test_a_large_photograph_is_made_smaller_as_it_is_read(tmp_path: Path):
    """Its size stays known, its proportions stay, and it is the picture that making it smaller gives."""
    across = np.linspace(0, 255, 3000).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(across, (2000, 1))] * 3, -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "large.jpg", quality=95, exif=exif)
    found = read_photograph(tmp_path / "large.jpg", shorter=256)
    assert found.pixels.shape == (384, 256, 3) and found.size == (3000, 2000)
    expected = np.asarray(image.rotate(-90, expand=True).resize((256, 384), Image.Resampling.LANCZOS), float)
    assert np.abs(found.pixels - expected).max() <= 3
    assert read_photograph(tmp_path / "large.jpg", shorter=4000).pixels.shape == (3000, 2000, 3)


def test_more_than_89_megapixels_are_refused_before_they_are_decoded_whoever_lifts_pillows_limit(
    tmp_path: Path, monkeypatch
):
    stream = BytesIO()
    Image.new("1", (10_000, 9_000)).save(stream, "PNG")  # 15 kB
    (tmp_path / "wide.png").write_bytes(stream.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    readers = (
        lambda: read_picture(tmp_path / "wide.png"),
        lambda: read_mask(tmp_path / "wide.png", (9_000, 10_000)),
        lambda: picture_in(stream.getvalue(), "wide.png"),
    )
    for read in readers:
        with pytest.raises(LikenessError, match=r"wide\.png has too many pixels"):
            read()
