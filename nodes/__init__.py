"""The extension ComfyUI asks for: one list of node classes.

The way of the data through a workflow: pictures (`miniature`, `masks`) are described as a concept (`concept`)
and learned (`train`, with what all training nodes share in `learning`); the likeness is applied or kept
(`load`), drawn with (`staged`, `identity`, `sample`, `people`), finished (`restore`) and judged (`evaluate`).
"""

from comfy_api.latest import ComfyExtension, io

from .concept import LikenessConcept, LikenessConceptFolder
from .evaluate import LikenessGrid, LikenessMeasure
from .identity import LikenessApplyIdentity, LikenessEncodeIdentity
from .load import LikenessApply, LikenessExport, LikenessLoad, LikenessSave
from .masks import LikenessBrushMask, LikenessDetectFaces, LikenessParseFace, LikenessSegmentText
from .miniature import LikenessMiniature, LikenessMiniatureStyle
from .people import LikenessPeople
from .restore import LikenessDetailFace, LikenessRestoreFace, LikenessUpscale
from .sample import LikenessRefocus, LikenessRefocusedSampler
from .staged import LikenessStagedPrompt
from .train import (
    LikenessTrainCustomDiffusion,
    LikenessTrainDreamBoothLora,
    LikenessTrainMagiCapture,
    LikenessTrainMagicTailor,
    LikenessTrainMasterWeaver,
    LikenessTrainPersonaMagic,
    LikenessTrainTextualInversion,
)

NODES: list[type[io.ComfyNode]] = [
    LikenessMiniature,
    LikenessMiniatureStyle,
    LikenessSegmentText,
    LikenessParseFace,
    LikenessBrushMask,
    LikenessDetectFaces,
    LikenessConcept,
    LikenessConceptFolder,
    LikenessTrainTextualInversion,
    LikenessTrainDreamBoothLora,
    LikenessTrainCustomDiffusion,
    LikenessTrainPersonaMagic,
    LikenessTrainMagicTailor,
    LikenessTrainMagiCapture,
    LikenessTrainMasterWeaver,
    LikenessApply,
    LikenessStagedPrompt,
    LikenessEncodeIdentity,
    LikenessApplyIdentity,
    LikenessRefocus,
    LikenessPeople,
    LikenessRefocusedSampler,
    LikenessSave,
    LikenessLoad,
    LikenessExport,
    LikenessRestoreFace,
    LikenessDetailFace,
    LikenessUpscale,
    LikenessMeasure,
    LikenessGrid,
]


class LikenessExtension(ComfyExtension):
    """Registers our model folder and our nodes."""

    def __init__(self) -> None:
        from ..engine.comfy_bridge.folders import register_folders

        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
