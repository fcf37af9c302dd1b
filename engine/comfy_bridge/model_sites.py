"""Where a MODEL's attention lets users of the seam in, whichever network it is."""

from typing import Any

from .attention import Sites
from .joint_attention import JointSites, Krea2JointSites
from .overridden import OverriddenSites


def model_sites(model: Any) -> Sites | JointSites:
    """Where a MODEL's attention lets users in."""
    network = model.model.diffusion_model
    if hasattr(network, "double_blocks"):
        return JointSites()
    if hasattr(network, "cap_pad_token"):
        return OverriddenSites()
    if hasattr(network, "txtfusion"):
        return Krea2JointSites()
    return Sites.of(model)
