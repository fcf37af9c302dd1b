"""Reads pictures and masks of any kind cameras and paint programs write, as plain RGB and plain coverage."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import LikenessError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SHORTEST_SIDE = 32  # pixels; less than this shows nobody


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture as (H, W, 3) uint8: upright, transparency over white, 16 bit and CMYK converted."""
    with _opened(path) as image:
        pixels = np.asarray(_to_rgb(_upright(image)), dtype=np.uint8)
    height, width = pixels.shape[:2]
    if min(height, width) < SHORTEST_SIDE:
        raise LikenessError(
            f"{path} is only {width} x {height} pixels; "
            f"use a picture of at least {SHORTEST_SIDE} pixels on its shorter side"
        )
    return pixels


def read_mask(path: str | os.PathLike[str], size: tuple[int, int]) -> np.ndarray:
    """The mask as (H, W) float32 in [0, 1]; `size` is the (height, width) of the picture it belongs to."""
    with _opened(path) as image:
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
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The decoded image; every way in which a file can be unreadable becomes one sentence."""
    remedy = "save it again as PNG or JPEG, or remove it from the folder"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                yield image
    except FileNotFoundError as error:
        raise LikenessError(f"{path} does not exist; check the path") from error
    except UnidentifiedImageError as error:
        raise LikenessError(f"{path} is not a picture that can be read; {remedy}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LikenessError(f"{path} has too many pixels; make it smaller than 8000 x 8000") from error
    except PermissionError as error:
        raise LikenessError(f"{path} may not be read; change its permissions") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's decoders
        raise LikenessError(f"{path} is damaged or cut short; {remedy}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the camera was held (EXIF)."""
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_wide_to_bytes(image), "L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _to_grey(image: Image.Image) -> np.ndarray:
    """(H, W) float32 in [0, 1]; transparent is outside."""
    if image.mode.startswith(("I", "F")):
        return _wide_to_bytes(image).astype(np.float32) / 255
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
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


def pictures_in(folder: Path) -> list[Path]:
    """The picture files directly inside a folder, in the order of their names; hidden files are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
