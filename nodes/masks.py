"""Finding the subject: masks from words, from the parts of a face, and faces themselves."""

from comfy_api.latest import io, ui

from ..engine.config.choices import AUTOMATIC, MEDIAPIPE
from .types import NO_MODEL, face_packs, schema, told

OVERLAY_TIP = "The pictures with all that is not marked darkened, to look the masks over."
MASKS_TIP = "White where it was found, one mask per picture. Brush over it in the mask editor if need be."
LARGEST = -1
PHOTOGRAPHS, _MINIATURE = "photographs", "the Miniature's pictures"
BY_MEDIAPIPE = "photographs, by MediaPipe"
PARSERS = {_MINIATURE: "miniature", PHOTOGRAPHS: "face-parts", BY_MEDIAPIPE: MEDIAPIPE}  # of the engine
# fmt: off
EDGES = [
    io.Boolean.Input(
        "soft", display_name="soft", default=False,
        tooltip="Keep degrees between marked and not. Switch it on for masks that weigh a loss.",
    ),
    io.Float.Input(
        "level", display_name="level", default=0.5, min=0.05, max=0.95, step=0.05,
        tooltip="Where a pixel begins to be marked. Lower it when too little is; soft masks ignore it.",
    ),
    io.Int.Input(
        "grow", display_name="grow", default=0, min=-256, max=256, step=1,
        tooltip="Pixels the mask reaches further out; negative shrinks it. Raise it when edges are cut off.",
    ),
    io.Float.Input(
        "feather", display_name="feather", default=0.0, min=0.0, max=64.0, step=0.5,
        tooltip="Pixels over which the edge is blurred. Raise it for smooth transitions.",
    ),
    io.Boolean.Input(
        "fill_holes", display_name="fill holes", default=False,
        tooltip="Mark what the mask surrounds too. Switch it on when glasses or highlights leave holes.",
    ),
    io.Boolean.Input(
        "keep_largest", display_name="keep largest", default=False,
        tooltip="Drop all but the largest piece. Switch it on when somebody else is in the picture.",
    ),
    io.Boolean.Input(
        "invert", display_name="invert", default=False,
        tooltip="Mark everything else instead. Switch it on to learn a style without its faces.",
    ),
]
FOUND = [
    io.Mask.Output(display_name="masks", tooltip=MASKS_TIP),
    io.Image.Output(display_name="overlay", tooltip=OVERLAY_TIP),
]
# fmt: on


class LikenessSegmentText(io.ComfyNode):
    """Masks of whatever words name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessSegmentText",
            display_name="Mask by Text",
            description="Marks what words name in every picture of a batch, and shows the masks in the node.",
            inputs=[
                io.Image.Input("images", display_name="images", tooltip="Pictures to look through."),
                io.String.Input(
                    "words", display_name="words", default="head",
                    tooltip="What to mark; several words with commas are marked together. Change it to what "
                    "your pictures show.",
                ),
                io.String.Input(
                    "but_not", display_name="but not", default="",
                    tooltip="What to leave out of the mask, such as hair when hair is learned by itself.",
                ),
                io.Combo.Input(
                    "backend",
                    options=[
                        "miniature", "selfie", "face-oval", "clipseg", "grounded-sam2", "sam2-points", "sam3",
                        "birefnet",
                    ],
                    display_name="segmentation model", default="miniature",
                    tooltip="miniature needs no download but knows the Miniature's pictures only; selfie "
                    "finds the person in a photograph, face-oval draws an oval around each face; clipseg "
                    "finds any word, softly; grounded-sam2 and sam3 find any word with sharp edges; "
                    "sam2-points marks what lies under points; birefnet tells subject from background. "
                    "sam3 and birefnet are run by newer ComfyUI itself.",
                ),
                *EDGES,
            ],
            outputs=FOUND,
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, images, words: str, but_not: str, backend: str, **edges) -> io.NodeOutput:
        from ..engine.comfy_bridge.masks import masks_of
        from ..engine.data.segment import Request, words_of

        request = Request(words=words_of(words), but_not=words_of(but_not), refine=_refinement(**edges))
        masks, overlay = masks_of(images, backend, request)
        return io.NodeOutput(masks, overlay, ui=ui.PreviewImage(overlay, cls=cls))


class LikenessParseFace(io.ComfyNode):
    """Masks of the parts of a face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessParseFace",
            display_name="Face Parts Mask",
            description="Marks the face, the hair or other parts in close pictures of one person, and shows "
            "the masks in the node.",
            inputs=[
                io.Image.Input(
                    "images", display_name="images",
                    tooltip="Pictures in which the face is large; crop them with Detect and Crop Faces if it "
                    "is not.",
                ),
                io.String.Input(
                    "parts", display_name="parts", default="face",
                    tooltip="face, head, hair, eyes, brows, lips, ears, person, or single parts such as left "
                    "eye; several with commas. Earrings are never part of the face.",
                ),
                io.String.Input(
                    "but_not", display_name="but not", default="",
                    tooltip="Parts to leave out, such as eyeglasses.",
                ),
                io.Combo.Input(
                    "pictures_are", options=[AUTOMATIC, *PARSERS], display_name="face model",
                    default=AUTOMATIC,
                    tooltip="automatic looks whether they are photographs or the Miniature's. "
                    "photographs need face parsing weights in models/likeness/face_parsing; "
                    "MediaPipe, in newer ComfyUI, marks face, lips and eyes; the Miniature's pictures need "
                    "nothing.",
                ),
                *EDGES,
            ],
            outputs=FOUND,
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, images, parts: str, but_not: str, pictures_are: str, **edges) -> io.NodeOutput:
        from ..engine.comfy_bridge.masks import masks_of
        from ..engine.comfy_bridge.pictures import pictures_of
        from ..engine.data.segment import Request, words_of
        from ..engine.data.segmenters.miniature import FOREIGN, certainty

        request = Request(words=words_of(parts), but_not=words_of(but_not), refine=_refinement(**edges))
        if pictures_are == AUTOMATIC:
            of_miniature = certainty(pictures_of(images)) >= FOREIGN
            pictures_are = _MINIATURE if of_miniature else PHOTOGRAPHS
        masks, overlay = masks_of(images, PARSERS[pictures_are], request)
        return io.NodeOutput(masks, overlay, ui=ui.PreviewImage(overlay, cls=cls))


class LikenessDetectFaces(io.ComfyNode):
    """One face of every picture: its crop, its box, where it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessDetectFaces",
            display_name="Detect and Crop Faces",
            description="Finds the largest face of every picture, cuts it out upright and shows all that "
            "were found in the node.",
            inputs=[
                io.Image.Input("images", display_name="images", tooltip="Pictures with faces in them."),
                io.Combo.Input(
                    "pack", options=[*face_packs(), MEDIAPIPE, NO_MODEL],
                    display_name="face model", default="auraface",
                    tooltip="Which models look for faces: auraface (insightface) and mediapipe (in newer "
                    "ComfyUI) may be used for anything, the others for non-commercial research. Choose my "
                    "mask to mark the face yourself.",
                ),
                io.Int.Input(
                    "number", display_name="which face", default=LARGEST, min=LARGEST, max=31, step=1,
                    tooltip="-1 takes the largest; 0, 1, 2 … go from the largest to the smallest. Change it "
                    "when the wrong person is cut out.",
                ),
                io.Int.Input(
                    "size", display_name="crop size", default=512, min=64, max=2048, step=8,
                    tooltip="Pixels a side of the upright crops. Take the size the next node wants.",
                ),
                io.Mask.Input(
                    "masks", display_name="masks", optional=True,
                    tooltip="White on the face, one mask per picture; needed only when found by my mask.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="faces", tooltip="Upright crops, aligned by eyes and mouth."),
                io.Mask.Output(display_name="boxes", tooltip="White in the face's box."),
                io.Image.Output(display_name="overlay", tooltip="Pictures with boxes and landmarks."),
                io.String.Output(display_name="report", tooltip="Where each face is and how sure that is."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, images, pack: str, number: int, size: int, masks=None) -> io.NodeOutput:
        from ..engine.comfy_bridge.masks import faces_of

        which = None if number == LARGEST else number
        faces = faces_of(images, None if pack == NO_MODEL else pack, masks, which, size)
        return told(cls, *faces, text=faces.said, **ui.PreviewImage(faces.overlays, cls=cls).as_dict())


class LikenessBrushMask(io.ComfyNode):
    """One mask of a batch, mended in ComfyUI's mask editor."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessBrushMask",
            display_name="Edit Mask in MaskEditor",
            description="Shows one picture with its mask for ComfyUI's mask editor: run once, open the "
            "editor on this node, paint, save, run again. The other masks of the batch pass through.",
            inputs=[
                io.Image.Input(
                    "images", display_name="images", tooltip="The pictures the masks belong to.",
                ),
                io.Mask.Input(
                    "masks", display_name="masks", tooltip="Masks to begin with, one per picture.",
                ),
                io.Int.Input(
                    "number", display_name="which picture", default=0, min=0, max=4095, step=1,
                    tooltip="Which picture of the batch to paint on, counted from 0. Chain one of these "
                    "nodes for each mask that needs it.",
                ),
                io.String.Input(
                    # the editor looks for a widget of this name and writes there what it saved
                    "image", display_name="painted", default="",
                    tooltip="Filled in by the mask editor when it saves. Empty it to take the mask as it "
                    "comes again.",
                ),
            ],
            outputs=FOUND,
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, images, masks, number: int, image: str) -> io.NodeOutput:
        from ..engine.comfy_bridge.masks import brushed

        done = brushed(images, masks, number, image)
        return io.NodeOutput(done.masks, done.overlays, ui=ui.PreviewImage(done.editable, cls=cls))

    @classmethod
    def fingerprint_inputs(cls, number: int, image: str, **_) -> str:
        from ..engine.comfy_bridge.masks import painted_state

        return f"{number} {painted_state(image)}"


def _refinement(soft: bool, level: float, **edges):
    from ..engine.data.masks import Refinement

    return Refinement(level=None if soft else level, **edges)
