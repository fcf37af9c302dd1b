"""What the ComfyUI that runs us knows."""

import comfy.supported_models

from ..bases.families import Family
from ..errors import LikenessError


def check_host(row: Family) -> None:
    """Raises unless this ComfyUI knows models of the family."""
    if row.comfy_class is not None and not hasattr(comfy.supported_models, row.comfy_class):
        from comfyui_version import __version__ as version

        raise LikenessError(
            f"{row.name} needs ComfyUI {row.comfy_version} or newer, and this is {version}: update ComfyUI"
        )
