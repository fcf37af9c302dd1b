"""Reads pictures and masks of any kind cameras and paint programs write, as plain sRGB and plain coverage."""

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, IptcImagePlugin, UnidentifiedImageError

from ..errors import LikenessError

PICTURE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".gif", ".bmp", ".dib",
    ".tif", ".tiff", ".jp2", ".tga", ".ppm", ".pgm",
)  # fmt: skip
HEIC = (".heic", ".heif", ".hif")  # only where pillow-heif is installed
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
FILMS = (".avi", ".mkv", ".mov", ".mp4", ".webm")
MOST_PIXELS = 89_478_485  # a quarter of a gigabyte in RGB: where Pillow begins to warn
SHORTEST_SIDE = 32  # pixels; less than this shows nobody
FORMATS = (  # by content, whatever the name says; Pillow hands EPS to Ghostscript, which runs what is in it
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "TGA", "PPM", "HEIF",
)  # fmt: skip
ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")  # formats whose several frames are a film, not one picture in sizes
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_EXIF_DESCRIPTION, _XP_COMMENT, _XP_TITLE = 0x010E, 0x9C9C, 0x9C9B
_IPTC_CAPTION = (2, 120)
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
HOW_FOR_HEIC = "save them as JPEG, or run `pip install pillow-heif`"


@dataclass(frozen=True)
class Photograph:
    """A picture as it was read: pixels (H, W, 3) uint8; the file's own size (height, width) may be larger.

    `remarks`: what was guessed or left out while reading, in sentences that go on from the file's name.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    remarks: tuple[str, ...] = ()


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture as (H, W, 3) uint8 sRGB: upright, transparency over white, 16 bit and CMYK converted."""
    return read_photograph(path).pixels


def read_photograph(path: str | os.PathLike[str], shorter: int | None = None) -> Photograph:
    """The picture as `read_picture` gives it, and what is to be said of it.

    shorter: pixels on the shorter side that are enough; a larger picture is made smaller, and JPEG files are
    decoded smaller at once.
    """
    with _opened(path, shorter) as (image, size, remarks):
        upright = _upright(image)
        size = size if upright.size == image.size else (size[1], size[0])
        rgb, doubt = _to_rgb(upright)
        if shorter is not None and min(rgb.size) > shorter:
            scale = shorter / min(rgb.size)
            smaller = (round(rgb.width * scale), round(rgb.height * scale))
            rgb = rgb.resize(smaller, Image.Resampling.LANCZOS)
        pixels = np.asarray(rgb, dtype=np.uint8)
    if min(size) < SHORTEST_SIDE:
        raise LikenessError(
            f"{path} is only {size[1]} x {size[0]} pixels; "
            f"use a picture of at least {SHORTEST_SIDE} pixels on its shorter side"
        )
    return Photograph(pixels, size, (*remarks, *doubt))


def picture_in(content: bytes, name: str) -> np.ndarray:
    """A picture in memory, of any size, as `read_picture` gives one in a file; `name` is for what is said."""
    with _opened(name, None, content) as (image, _, _):
        return np.asarray(_to_rgb(_upright(image))[0], dtype=np.uint8)


def texts_in(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a picture's file says in words: a PNG's text fields, or the lines of an EXIF comment."""
    with _opened(path, None) as (image, _, _):
        texts = {str(name): str(text) for name, text in getattr(image, "text", {}).items()}
        comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT, b"")
    if isinstance(comment, bytes) and comment.startswith(b"UNICODE\0"):
        lines = comment[8:].decode("utf-16-be", "replace").splitlines()
        texts |= {name: text for name, colon, text in (line.partition(": ") for line in lines) if colon}
    return texts


def descriptions_in(path: str | os.PathLike[str]) -> list[str]:
    """What a picture's file says that it shows, in IPTC, a PNG's text or EXIF, in that order."""
    texts: list[Any] = []
    with _opened(path, SHORTEST_SIDE) as (image, _, _):
        file: Any = image  # as it was opened: Pillow's stub asks for the narrower type
        with suppress(Exception):  # cameras and programs write broken ones, beside sound pictures
            texts.append((IptcImagePlugin.getiptcinfo(file) or {}).get(_IPTC_CAPTION, b""))
        fields = getattr(image, "text", {})
        texts += [fields.get(name, "") for name in ("Description", "Comment", "caption")]
        with suppress(Exception):
            exif = image.getexif()
            texts += [exif.get(tag, "") for tag in (_EXIF_DESCRIPTION, _XP_COMMENT, _XP_TITLE)]
    return [plain for plain in map(_plain, texts) if plain]


def _plain(text: Any) -> str:
    """Words, as text or bytes of either kind; else nothing."""
    if isinstance(text, tuple):  # bytes of UTF-16, as Windows' explorer writes them
        text = bytes(part for part in text if isinstance(part, int) and 0 <= part < 256)
    if isinstance(text, bytes):
        wide = b"\0" in text[1::2]
        text = text.decode("utf-16-le" if wide else "utf-8", "replace")
    return text.replace("\0", "").strip() if isinstance(text, str) else ""


def grey_in(content: bytes, name: str) -> np.ndarray:
    """The same of a picture whose greys (H, W) uint8 are numbers, such as those of a face's parts."""
    with _opened(name, None, content) as (image, _, _):
        return np.asarray(image.convert("L"), dtype=np.uint8)


def read_mask(path: str | os.PathLike[str], size: tuple[int, int]) -> np.ndarray:
    """The mask as (H, W) float32 in [0, 1]; `size` is the (height, width) of the picture it belongs to."""
    with _opened(path, None) as (image, _, _):
        grey = _to_grey(_upright(image))
    if grey.shape != tuple(size):
        raise LikenessError(
            f"{path} is {grey.shape[1]} x {grey.shape[0]} pixels, but its picture is {size[1]} x {size[0]}; "
            "save the mask in the picture's size"
        )
    if not grey.any():
        raise LikenessError(f"{path} marks nothing (all black); paint the subject white or delete the mask")
    return grey


def to_mask_image(mask: np.ndarray) -> Image.Image:
    """A mask (H, W) in [0, 1] as an 8-bit grey picture."""
    return Image.fromarray(np.round(mask * 255).clip(0, 255).astype(np.uint8), "L")


@contextmanager
def _opened(
    path: str | os.PathLike[str], shorter: int | None, content: bytes | None = None
) -> Iterator[tuple[Image.Image, tuple[int, int], tuple[str, ...]]]:
    """The decoded image, the file's (height, width) and remarks; what is unreadable becomes one sentence."""
    remedy = "save it again as PNG or JPEG, or remove it from the folder"
    if Path(path).suffix.lower() in HEIC and not reads_heic():
        raise LikenessError(f"{path} is HEIC, which is not read here; {HOW_FOR_HEIC}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _decodable(path, content) as image:
                if image.width * image.height > MOST_PIXELS:  # Pillow's own limit is often lifted by others
                    raise Image.DecompressionBombError(f"{image.width} x {image.height}")
                size, frames = (image.height, image.width), getattr(image, "n_frames", 1)
                if shorter is not None:
                    image.draft(None, (shorter, shorter))
                image.load()
                film = image.format in ANIMATED and frames > 1
                yield image, size, ((f"is a film of {frames} frames; its first is used",) if film else ())
    except FileNotFoundError as error:
        raise LikenessError(f"{path} does not exist; check the path") from error
    except UnidentifiedImageError as error:
        raise LikenessError(f"{path} is not a picture that can be read; {remedy}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LikenessError(f"{path} has too many pixels; make it smaller than 8000 x 8000") from error
    except PermissionError as error:
        raise LikenessError(f"{path} may not be read; change its permissions") from error
    except LikenessError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like
        raise LikenessError(f"{path} is damaged or cut short; {remedy}") from error


def open_image(source: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """The file as Pillow opens it, if it is of one of `FORMATS`; nothing is decoded yet."""
    Image.init()  # all that this Pillow knows
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])


def _decodable(path: str | os.PathLike[str], content: bytes | None) -> Image.Image:
    """The file as Pillow opens it; a PNG with more text in it than Pillow allows, without that text."""
    try:
        return open_image(path if content is None else BytesIO(content))
    except ValueError as error:
        if not any(limit in str(error) for limit in ("MAX_TEXT_CHUNK", "MAX_TEXT_MEMORY")):
            raise
        return open_image(BytesIO(_without_text(Path(path).read_bytes() if content is None else content)))


def _without_text(png: bytes) -> bytes:
    """A PNG file's bytes without its text: each part is its length, its kind, its content and a checksum."""
    kept, place = [png[:8]], 8
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        end = place + length + 12
        if png[place + 4 : place + 8] not in TEXT_CHUNKS:
            kept.append(png[place:end])
        place = end
    return b"".join(kept)


@cache
def reads_heic() -> bool:
    """Whether HEIC can be read: pillow-heif, where it is installed, is told to Pillow."""
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found]
    except ImportError:
        return False
    register_heif_opener()
    return True


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the camera was held (EXIF)."""
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """The image as sRGB, and what is to be said of its colours."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_wide_to_bytes(image), "L").convert("RGB"), ()
    layer = image.convert("RGBA") if _has_alpha(image) else image
    colours, doubt = _to_srgb(layer, image.info.get("icc_profile"))
    if not _has_alpha(image):
        return colours, doubt
    white = Image.new("RGB", layer.size, (255, 255, 255))
    return Image.composite(colours, white, layer.getchannel("A")), doubt


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, tuple[str, ...]]:
    """The image's colours (any alpha is left) as sRGB, and what is to be said where its profile is no use."""
    if not icc:
        return image.convert("RGB"), ()
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        about: Any = profile.profile
        if "srgb" in (about.profile_description or "").lower():
            return image.convert("RGB"), ()
        space = about.xcolor_space.strip()
        plain = image if image.mode == {"GRAY": "L", "CMYK": "CMYK"}.get(space) else image.convert("RGB")
        if space == "GRAY" and plain.mode != "L":
            plain = plain.convert("L")
        converted = ImageCms.profileToProfile(
            plain, profile, ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError):  # ImportError: built without
        return image.convert("RGB"), ("has a colour profile that cannot be used; it is taken for sRGB",)
    return converted or image.convert("RGB"), ()


def _to_grey(image: Image.Image) -> np.ndarray:
    """(H, W) float32 in [0, 1]; transparent is outside."""
    if image.mode.startswith(("I", "F")):
        return _wide_to_bytes(image).astype(np.float32) / 255
    if _has_alpha(image):
        layer = image.convert("RGBA")
        black = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, layer)
    return np.asarray(image.convert("L"), dtype=np.float32) / 255


def _wide_to_bytes(image: Image.Image) -> np.ndarray:
    """16-bit, 32-bit and floating-point greys as (H, W) uint8."""
    values = np.asarray(image).astype(np.float64)
    top = values.max(initial=0.0)
    full = 65535.0
    if not image.mode.startswith("I;16") and top <= 255:
        full = 1.0 if image.mode == "F" and top <= 1 else 255.0
    return np.round(values.clip(0, full) / full * 255).astype(np.uint8)


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is a picture that can be read here."""
    suffix = path.suffix.lower()
    return suffix in PICTURE_SUFFIXES or suffix in HEIC and reads_heic()


def pictures_in(folder: Path) -> list[Path]:
    """The picture files directly inside a folder, in the order of their names; hidden files are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if is_picture(path) and not path.name.startswith(".") and path.is_file()
    )
