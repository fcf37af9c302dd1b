"""Files of face restorers and upscalers: read without running anything in them, recognised by spandrel.

A restorer is called with a face (S, S, 3) float32 in [0, 1], aligned as FFHQ's, and gives it back restored.
"""

import importlib
import logging
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..artifact.inert_pickle import read_checkpoint
from ..artifact.tensors import read_tensors
from ..errors import LikenessError
from .restorer_files import NON_COMMERCIAL, SOURCES, found_file

log = logging.getLogger(__name__)

_Pixels = NDArray[np.float32]  # (H, W, 3) in [0, 1]
RESTORER_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
# --- reading -----------------------------------------------------------------------------------------


def read_weights(path: Path) -> Mapping[str, Any]:
    """The file's tensors by name; nothing in it is ever run."""
    found_file(path)
    if path.suffix.lower() not in RESTORER_SUFFIXES:
        raise LikenessError(f"{path} ends in '{path.suffix}'; weights end in {', '.join(RESTORER_SUFFIXES)}")
    if path.suffix.lower() == ".safetensors":
        content: Any = read_tensors(path)
    else:
        content = read_checkpoint(path)
    if not isinstance(content, Mapping) or not content:
        raise LikenessError(f"{path} holds no weights; choose a face restorer or an upscaler")
    return content


def load_spandrel(extra: bool = False) -> Any:
    """The library that knows the architectures, with those of restricted licences only where asked for."""
    try:
        with _torchvision_where_missing():
            spandrel = importlib.import_module("spandrel")
    except ImportError as error:
        raise LikenessError(
            f"restorers and upscalers are recognised with spandrel, which does not load ({error}); "
            "ComfyUI brings it along, elsewhere run `pip install spandrel`"
        ) from error
    if extra:
        try:
            with _torchvision_where_missing():
                importlib.import_module("spandrel_extra_arches").install(ignore_duplicates=True)
        except ImportError as error:
            raise LikenessError(
                f"CodeFormer comes in a package of its own, for its licence, which does not load ({error}); "
                f"if {NON_COMMERCIAL['CodeFormer']} suits you, run `pip install spandrel_extra_arches`"
            ) from error
    return spandrel


@contextmanager
def _torchvision_where_missing() -> Iterator[None]:
    """Lets spandrel be imported where torchvision is missing or made for another torch.

    All that spandrel takes from it is `normalize` for RestoreFormer, and `rotate` for an inpainter that is no
    use here. The stand-in is gone again afterwards: other libraries must not take it for the real thing.
    """
    name = "torchvision.transforms.functional"
    try:
        importlib.import_module(name)
    except Exception as error:  # a torchvision built for another torch raises whatever comes first
        log.debug("torchvision does not load: %s", error)
    else:
        yield
        return
    before = {key: sys.modules.pop(key) for key in list(sys.modules) if key.split(".")[0] == "torchvision"}
    for key in ("torchvision", "torchvision.transforms", name):
        sys.modules[key] = types.ModuleType(key)
    functional: Any = sys.modules[name]
    functional.normalize, functional.rotate, functional.InterpolationMode = _normalize, None, None
    try:
        yield
    finally:
        for key in ("torchvision", "torchvision.transforms", name):
            sys.modules.pop(key, None)
        sys.modules.update(before)


def _normalize(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    shape = (-1, 1, 1)
    return (x - torch.tensor(mean).to(x).view(shape)) / torch.tensor(std).to(x).view(shape)


def _looks_like_codeformer(weights: Mapping[str, Any]) -> bool:
    inner = weights.get("params_ema", weights)
    return isinstance(inner, Mapping) and {"position_emb", "idx_pred_layer.1.weight"} <= inner.keys()


def _recognised(path: Path, weights: Mapping[str, Any]) -> Any:
    """spandrel's description of the network, with these weights in it."""
    spandrel = load_spandrel(extra=_looks_like_codeformer(weights))
    try:
        return spandrel.ModelLoader().load_from_state_dict(dict(weights)).eval()
    except spandrel.UnsupportedModelError as error:
        raise LikenessError(
            f"{path} is no network that spandrel knows; choose GFPGAN, RestoreFormer or CodeFormer for "
            "faces, or a Real-ESRGAN-like file to enlarge pictures"
        ) from error
    except (RuntimeError, KeyError, ValueError, AttributeError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LikenessError(f"{path} does not hold what it promises ({reason}); get it again") from error


# --- restorers ---------------------------------------------------------------------------------------


class Restorer:
    """A face restorer, called as its authors call it: a face in [-1, 1] in and out, fixed noise.

    The description spandrel makes of GFPGAN and CodeFormer hands them [0, 1] and clips what comes back to
    that, and it has no place for CodeFormer's fidelity: so the networks themselves are called.
    """

    def __init__(self, network: Any, kind: str, device: str = "cpu", fidelity: float = 0.5) -> None:
        self.network, self.kind, self.device = network.to(device).eval(), kind, device
        self.fidelity = fidelity

    @torch.inference_mode()
    def __call__(self, face: _Pixels) -> _Pixels:
        """A face (512, 512, 3), restored."""
        x = torch.from_numpy(np.ascontiguousarray(face)).permute(2, 0, 1)[None].to(self.device) * 2 - 1
        restored = self._run(x)[0].float().cpu()
        if not torch.isfinite(restored).all():
            raise LikenessError(
                f"{self.kind} gave values that are no numbers; its file is damaged, get it again"
            )
        return ((restored + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()

    def _run(self, x: Tensor) -> Tensor:
        if self.kind == "CodeFormer":
            return self.network(x, weight=self.fidelity)[0]
        if self.kind == "GFPGAN":
            return self.network(x, return_rgb=False, randomize_noise=False)[0]
        return self.network(x)[0]


def load_restorer(
    path: Path, *, device: str = "cpu", fidelity: float = 0.5, non_commercial: bool = False
) -> Restorer:
    """The face restorer in a file; an upscaler, any other network and an unaccepted licence are refused."""
    if not 0 <= fidelity <= 1:
        raise LikenessError(f"fidelity is {fidelity}; it goes from 0, most beautiful, to 1, most faithful")
    weights = read_weights(path)
    if _looks_like_codeformer(weights) and not non_commercial:
        raise LikenessError(
            f"{path} is CodeFormer, under {NON_COMMERCIAL['CodeFormer']}; allow non-commercial restorers, or "
            "choose GFPGAN or RestoreFormer"
        )
    descriptor = _recognised(path, weights)
    kind = str(descriptor.architecture.id)
    if getattr(descriptor, "purpose", "") != "FaceSR":
        raise LikenessError(
            f"{path} is {kind}, which does not restore faces; choose GFPGAN, RestoreFormer or CodeFormer; an "
            "upscaler belongs where pictures are enlarged"
        )
    return Restorer(descriptor.model, kind, device, fidelity)


def load_upscaler(path: Path, device: str = "cpu") -> Any:
    """The upscaler in a file, as spandrel describes it: what ComfyUI calls UPSCALE_MODEL."""
    return check_upscaler(_recognised(path, read_weights(path)), str(path)).to(device)


def check_upscaler(network: Any, name: str) -> Any:
    """The network itself, where it enlarges or mends pictures in colour; else a sentence."""
    kind = str(getattr(getattr(network, "architecture", None), "id", "this network"))
    if getattr(network, "purpose", "SR") not in ("SR", "Restoration"):
        raise LikenessError(
            f"{name} is {kind}, which does not enlarge pictures; choose a Real-ESRGAN-like file such as "
            f"{SOURCES[-1].file} from {SOURCES[-1].address}"
        )
    if getattr(network, "input_channels", 3) != 3 or getattr(network, "output_channels", 3) != 3:
        raise LikenessError(f"{name} is {kind} for other pictures than RGB; choose another upscaler")
    return network
