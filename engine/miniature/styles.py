"""Pictures that show a style of the Miniature's world: strangers in it, in different scenes and clothes."""

from . import world

STYLES = tuple(style for style in world.ATTRIBUTES["style"] if style != "photo")
_STRANGERS = world.TUNING_SEEDS[-16:]  # people whom no network has seen, and on whom nothing is reported


def style_pictures(style: str, count: int = 5, size: int = 128) -> list[world.Portrait]:
    """`count` strangers, at most 16, bareheaded, drawn in one of `STYLES`."""
    portraits = []
    for number, seed in enumerate(_STRANGERS[:count]):
        scenes = world.ATTRIBUTES["scene"]
        context = world.sample_context(
            seed * 64 + number, style=style, hat="none", glasses="none", scene=scenes[number % len(scenes)]
        )
        portraits.append(world.render(world.sample_identity(seed), context, size))
    return portraits
