"""Draws the pack's icon and banner for ComfyUI's registry, out of people of the Miniature's world.

    python tests/draw_icon.py

writes docs/pictures/icon.png (square) and docs/pictures/banner.jpg (21:9). Everything in them is drawn by the
world's renderer, nobody is photographed.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
PERSON = 0  # of the tuning people
ICON, TALL = 512, 576  # pixels a side; the banner's height
PAPER, INK, ACCENT = (250, 247, 240), (38, 36, 46), (226, 92, 62)


def portraits(count: int, side: int) -> list[Image.Image]:
    from likeness_portraits.engine.miniature import world

    pictures = world.example_pictures(world.TUNING_SEEDS[PERSON], count, side)
    return [Image.fromarray(picture.pixels) for picture in pictures]


def scenes(side: int) -> list[Image.Image]:
    """The same person where the examples never showed them."""
    from likeness_portraits.engine.miniature import world

    who = world.sample_identity(world.TUNING_SEEDS[PERSON])
    wishes = [{"scene": "space", "hat": "crown"}, {"scene": "beach", "hat": "none", "style": "photo"}]
    drawn = [world.render(who, world.sample_context(40 + n, **wish), side) for n, wish in enumerate(wishes)]
    return [Image.fromarray(picture.pixels) for picture in drawn]


def rounded(picture: Image.Image, side: int, radius: int) -> Image.Image:
    """A picture with round corners, (side, side) RGBA."""
    large = Image.new("L", (side * 4, side * 4), 0)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, side * 4 - 1, side * 4 - 1), radius * 4, fill=255)
    tile = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
    tile.putalpha(large.resize((side, side), Image.Resampling.LANCZOS))
    return tile


def icon() -> Image.Image:
    """A portrait, framed as something that is looked for."""
    side, edge = ICON, ICON // 16
    sheet = rounded(Image.new("RGB", (side, side), INK), side, side // 6)
    face = rounded(portraits(1, ICON)[0], side - 2 * edge, side // 8)
    sheet.alpha_composite(face, (edge, edge))
    pen, arm, inset = ImageDraw.Draw(sheet), side // 7, side // 7
    for right in (False, True):
        for below in (False, True):
            x, y = (side - inset if right else inset), (side - inset if below else inset)
            across, down = (-arm if right else arm), (-arm if below else arm)
            pen.line([(x + across, y), (x, y), (x, y + down)], fill=ACCENT, width=side // 28, joint="curve")
    return sheet


def banner() -> Image.Image:
    """Four pictures, an arrow, and the same person elsewhere."""
    wide = TALL * 21 // 9
    sheet = Image.new("RGBA", (wide, TALL), PAPER)
    small, gap, big = 216, 24, 456
    for number, picture in enumerate(portraits(4, small)):
        place = (48 + number % 2 * (small + gap), 60 + number // 2 * (small + gap))
        sheet.alpha_composite(rounded(picture, small, 24), place)
    pen, middle = ImageDraw.Draw(sheet), TALL // 2
    start = 48 + 2 * small + gap + 30
    pen.line([(start, middle), (start + 90, middle)], fill=ACCENT, width=16)
    pen.polygon([(start + 80, middle - 34), (start + 130, middle), (start + 80, middle + 34)], fill=ACCENT)
    first = start + 160
    side = (wide - first - 48 - gap) // 2
    for number, picture in enumerate(scenes(big)):
        place = (first + number * (side + gap), (TALL - side) // 2)
        sheet.alpha_composite(rounded(picture, side, 36), place)
    return sheet.convert("RGB")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    icon().quantize(128, dither=Image.Dither.NONE).save(FOLDER / "icon.png", optimize=True)
    banner().save(FOLDER / "banner.jpg", quality=85, optimize=True, progressive=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import tests.conftest  # noqa: F401  # makes the working tree importable under the package's name

    main()
