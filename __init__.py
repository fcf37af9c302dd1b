"""Likeness as ComfyUI sees it: its web files, and its nodes, imported only when ComfyUI asks for them."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import LikenessExtension

    return LikenessExtension()
