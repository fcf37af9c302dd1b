"""Well-known files of restorers and upscalers: where they come from, and on what terms."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import LikenessError, nearest

NON_COMMERCIAL = {"CodeFormer": "S-Lab License 1.0: research and other non-commercial use only"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a well-known file comes from, and on what terms."""

    file: str
    folder: str  # in models/
    address: str
    licence: str


_GFPGAN = "https://github.com/TencentARC/GFPGAN/releases/tag/v1.3.4"
SOURCES = (
    Source(
        file="GFPGANv1.4.pth", folder="facerestore_models", address=_GFPGAN,
        licence="Apache-2.0, but its LICENSE names parts of NVIDIA's StyleGAN2 and of DFDNet, which are "
        "non-commercial",
    ),
    Source(file="RestoreFormer.pth", folder="facerestore_models", address=_GFPGAN, licence="Apache-2.0"),
    Source(
        file="codeformer.pth", folder="facerestore_models",
        address="https://github.com/sczhou/CodeFormer/releases/tag/v0.1.0",
        licence=NON_COMMERCIAL["CodeFormer"],
    ),
    Source(
        file="RealESRGAN_x4plus.pth", folder="upscale_models",
        address="https://github.com/xinntao/Real-ESRGAN/releases/tag/v0.1.0", licence="BSD-3-Clause",
    ),
)  # fmt: skip


def found_file(path: Path) -> Path:
    """The path itself if the file is there; else a sentence with where such files come from."""
    if path.is_file():
        return path
    sources = {source.file.lower(): source for source in SOURCES}
    source = sources.get(path.name.lower())
    if source is not None:
        raise LikenessError(
            f"{path} is missing; get {source.file} from {source.address} ({source.licence}) and put it into "
            f"models/{source.folder}"
        )
    hint = nearest(path.name, [source.file for source in SOURCES])
    examples = ", ".join(f"{source.file} from {source.address} ({source.licence})" for source in SOURCES[:2])
    raise LikenessError(f"{path} is missing{hint or f'; face restorers are for example {examples}'}")
