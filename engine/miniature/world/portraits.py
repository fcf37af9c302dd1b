"""Whole portraits: drawn in order, finished in their art style, with landmarks and part labels."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .bodies import draw_person
from .canvas import Canvas
from .people import (
    ATTRIBUTES,
    FACE_PARTS,
    PART_ID,
    Character,
    Context,
    Portrait,
    sample_context,
    sample_identity,
)
from .scenes import draw_scene


def render(identity: Character, context: Context, size: int = 128) -> Portrait:
    """Draws `identity` in `context` as a `size` x `size` picture with exact part labels and landmarks."""
    canvas = Canvas(context, size)
    draw_scene(canvas)
    draw_person(canvas, identity)
    labels = np.asarray(canvas.parts.resize((size, size), Image.Resampling.NEAREST))
    return Portrait(pixels=_finish(canvas, labels), labels=labels, landmarks=_landmarks(canvas, identity))


def example_pictures(seed: int, count: int = 4, size: int = 128) -> list[Portrait]:
    """Pictures as somebody might bring them: bareheaded photos in different scenes and clothes."""
    identity = sample_identity(seed)
    scenes = np.random.default_rng([seed, 3]).permutation(ATTRIBUTES["scene"])
    expressions = ("smiling", "neutral", "smiling", "surprised")
    contexts = [
        sample_context(
            seed * 64 + index, style="photo", hat="none", glasses="none",
            scene=str(scenes[index % len(scenes)]), expression=expressions[index % len(expressions)],
        )
        for index in range(count)
    ]  # fmt: skip
    return [render(identity, context, size) for context in contexts]


def _landmarks(canvas: Canvas, who: Character) -> NDArray[np.float32]:
    nose_y = who.eye_height + who.nose_length + 0.06
    near = np.array([[-who.eye_spacing, who.eye_height], [who.eye_spacing, who.eye_height]])
    nose = np.array([[0.0, nose_y]])
    mouth = np.array([[-who.mouth_width, who.mouth_height], [who.mouth_width, who.mouth_height]])
    placed = [canvas.place(near, 0.55), canvas.place(nose, 0.75), canvas.place(mouth, 0.6)]
    return ((np.vstack(placed) + 1) * canvas.size / 2).astype(np.float32)


def _finish(canvas: Canvas, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The art style's treatment of the whole picture."""
    context, size = canvas.context, canvas.size
    rng = np.random.default_rng([context.seed, 6])
    pixels = np.asarray(canvas.image.reduce(canvas.oversample), np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (2 / size) - 1
    if context.style == "photo":
        head = np.isin(labels, [PART_ID[part] for part in (*FACE_PARTS, "hair", "ear", "hat")])
        shade = 1.04 - 0.22 * np.clip(x * -context.light * 0.9 + 0.3 * (x * x + y * y), -0.6, 1)
        pixels = pixels * np.where(head, shade, 1.0)[..., None] + rng.normal(0, 1.5, (size, size, 1))
    elif context.style == "sketch":
        pixels = pixels * (1.0 - 0.06 * (x * x + y * y)[..., None])
    elif context.style == "watercolor":
        soft = canvas.image.reduce(canvas.oversample).filter(ImageFilter.GaussianBlur(size / 200))
        blots = Image.fromarray(rng.integers(0, 255, (7, 7), dtype=np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        wash = (np.asarray(blots, np.float32) / 255 - 0.5)[..., None]
        edge = np.clip((np.maximum(np.abs(x), np.abs(y))[..., None] - 0.9 + wash * 0.12) / 0.08, 0, 1)
        pixels = (np.asarray(soft, np.float32) + wash * 30) * (1 - edge) + np.array([253, 250, 243]) * edge
    return np.clip(pixels, 0, 255).astype(np.uint8)
