"""Finishing pictures: faces restored or drawn again without losing the person, and pictures enlarged."""

from comfy_api.latest import io, ui

from ..engine.config.choices import AUTOMATIC, MEDIAPIPE, NOBODY
from .types import NO_MODEL, Concept, face_packs, schema, side_inputs, side_of, told

ALL_FACES = -1
_MINIATURE, SAME = "the Miniature", "whoever finds them"
_WORDS = {NO_MODEL: "mask", _MINIATURE: "miniature", NOBODY: "nobody", SAME: None}  # of the engine
AS_MADE, _HALF, QUARTER = "as the model makes it", "half of that", "a quarter of that"
SHRINK = {AS_MADE: 1, _HALF: 2, QUARTER: 4}
# fmt: off
_PICTURES = io.Image.Input("images", display_name="images", tooltip="Pictures whose faces to finish.")
FACES = [
    io.Combo.Input(
        "found_by", options=[AUTOMATIC, _MINIATURE, *face_packs(), MEDIAPIPE, NO_MODEL],
        display_name="face model", default=AUTOMATIC,
        tooltip="What looks for faces. automatic takes what is in models/insightface, and the Miniature for "
        "its own pictures, the only thing it knows. auraface and, in newer ComfyUI, mediapipe are free for "
        "any use; choose my mask to mark the face yourself.",
    ),
    io.Int.Input(
        "number", display_name="which face", default=ALL_FACES, min=ALL_FACES, max=31, step=1,
        tooltip="-1 takes all faces; 0, 1, 2 … go from the largest to the smallest, or through the masks of "
        "each picture. Change it when only one of several people is meant.",
    ),
]
BLENDING = [
    io.Float.Input(
        "strength", display_name="strength", default=1.0, min=0.0, max=1.0, step=0.05,
        tooltip="How much of the new face is taken. Lower it when it looks too smooth.",
    ),
    io.Float.Input(
        "feather", display_name="feather", default=0.04, min=0.0, max=0.25, step=0.01,
        tooltip="Width of the soft edge, as a share of the crop. Raise it when an edge can be seen.",
    ),
]
MATCH = io.Boolean.Input(
    "match_colours", display_name="match colours", default=True,
    tooltip="Keep the picture's own tones. Switch it off when the new face's colours are wanted.",
)
REDRAWN = io.Boolean.Input(
    "match_colours", display_name="match colours", default=False,
    tooltip="Keep the picture's own tones. Switch it on when only details are to be drawn again.",
)
GATE = [
    io.Combo.Input(
        "gate", options=["blend", "reject", "off"], display_name="if the likeness drops", default="blend",
        tooltip="blend takes as much of the new face as keeps the person; reject leaves the face as it was; "
        "off takes it anyway. Without references nothing can be checked.",
    ),
    io.Float.Input(
        "allowed_drop", display_name="allowed drop", default=0.05, min=0.0, max=1.0, step=0.01,
        tooltip="How far the likeness, 1 for the same picture and about 0 for strangers, may fall. Lower it "
        "when people look less like themselves.",
    ),
    io.Combo.Input(
        "judged_by", options=[SAME, _MINIATURE, *face_packs(), NOBODY], display_name="judged by",
        default=SAME,
        tooltip="Who compares faces with the references. Change it when faces are found by my mask or by "
        "mediapipe, which recognises nobody.",
    ),
]
OPTIONAL = [
    io.Image.Input(
        "references", display_name="references", optional=True,
        tooltip="Pictures of the person who must stay recognisable; the largest face of each counts.",
    ),
    Concept.Input(
        "concept", display_name="concept", optional=True,
        tooltip="The concept the person was learned from: its pictures are references too.",
    ),
    io.Mask.Input(
        "masks", display_name="masks", optional=True,
        tooltip="White on the face, one mask per picture; needed only when found by my mask. Or as many for "
        "each, such as the regions of KSampler (Regional). Nothing outside changes.",
    ),
    io.UpscaleModel.Input(
        "background", display_name="background", optional=True,
        tooltip="A model that enlarges the picture first, so that faces are put back larger and finer.",
    ),
]
_EXACT_SIZE, _CROP_SIZE = side_inputs(
    "size", "crop size",
    "Pixels a side at which faces are drawn. automatic takes the size the model draws best: 128 for the "
    "Miniature, 512 for SD 1.x, 1024 for SDXL and FLUX.2. Lower it when memory runs out.",
    optional=False,
)
CROP = [
    _EXACT_SIZE,
    io.Float.Input(
        "around", display_name="around", default=1.5, min=0.5, max=4.0, step=0.1,
        tooltip="How much around the face the model sees; 1 is the face alone. Raise it when the "
        "new face does not fit its head.",
    ),
    io.Combo.Input(
        "part", options=["head", "face"], display_name="part", default="head",
        tooltip="What is put back: the head with its hair, or the face alone. Choose face when "
        "the hair is right already.",
    ),
]
FINISHED = [
    io.Image.Output(display_name="images", tooltip="The pictures; outside the masks nothing has changed."),
    io.Image.Output(display_name="before and after", tooltip="Each picture before, beside it after."),
    io.Mask.Output(display_name="masks", tooltip="How much of each pixel is new."),
    io.String.Output(
        display_name="report",
        tooltip="What became of each face, and the likeness before and after, one line per face.",
    ),
]
# fmt: on


class LikenessRestoreFace(io.ComfyNode):
    """GFPGAN, RestoreFormer or CodeFormer behind a gate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..engine.comfy_bridge.folders import restorer_files

        return schema(
            node_id="LikenessRestoreFace",
            display_name="Restore Faces (GFPGAN, CodeFormer)",
            description="Restores blurred faces with GFPGAN, RestoreFormer or CodeFormer, and takes back "
            "whatever would make the person less like themselves. Shows before and after in the node.",
            inputs=[
                _PICTURES,
                io.Combo.Input(
                    "restorer", options=restorer_files(), display_name="restorer",
                    tooltip="A file in models/facerestore_models. Choose one that is not there to read where "
                    "it comes from; press R after adding one.",
                ),
                *FACES,
                io.Float.Input(
                    "fidelity", display_name="fidelity", default=0.7, min=0.0, max=1.0, step=0.05,
                    tooltip="CodeFormer only: 1 keeps closest to the face, 0 makes the finest one. Raise it "
                    "when the person is lost.",
                ),
                io.Boolean.Input(
                    "non_commercial", display_name="non-commercial use", default=False,
                    tooltip="Allow restorers that may only be used non-commercially, such as CodeFormer. "
                    "Switch it on if that is what you do.",
                ),
                *BLENDING, MATCH, *GATE, *OPTIONAL,
            ],
            outputs=FINISHED,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, restorer: str, found_by: str, number: int, fidelity: float, non_commercial: bool,
        **more,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge import restore

        network = restore.restorer(restorer, fidelity, non_commercial)
        return _finish(cls, images, network, found_by, number, **more)

    @classmethod
    def fingerprint_inputs(cls, restorer: str, **_) -> str:
        from ..engine.comfy_bridge.restore import restorer_state

        return restorer_state(restorer)


def _drawing(samplers: list[str], schedulers: list[str]) -> list[io.Input]:
    """How faces are drawn again."""
    return [
        io.Float.Input(
            "denoise", display_name="denoise", default=0.4, min=0.05, max=1.0, step=0.05,
            tooltip="How much is drawn anew. Raise it when the person is not recognised, lower it "
            "when the expression or pose changes.",
        ),
        io.Int.Input(
            "steps", display_name="steps", default=20, min=1, max=1000,
            tooltip="Sampling steps. Raise it when details stay rough.",
        ),
        io.Float.Input(
            "cfg", display_name="cfg", default=5.0, min=0.0, max=100.0, step=0.1,
            tooltip="How strictly the prompt is followed. Lower it when colours burn.",
        ),
        io.Combo.Input(
            "sampler_name", options=samplers, display_name="sampler", default="euler",
            tooltip="The same choice as in KSampler. Change it when you draw with another.",
        ),
        io.Combo.Input(
            "scheduler", options=schedulers, display_name="scheduler", default="simple",
            tooltip="The same choice as in KSampler. Change it when you draw with another.",
        ),
        io.Int.Input(
            "seed", display_name="seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Of the noise; all faces begin from the same. Change it for another try.",
        ),
    ]  # fmt: skip


class LikenessDetailFace(io.ComfyNode):
    """The diffusion model draws faces again, enlarged, with the concept applied."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..engine.comfy_bridge.sampling import SAMPLERS, SCHEDULERS

        return schema(
            node_id="LikenessDetailFace",
            display_name="Face Detailer (Likeness)",
            description="Cuts out faces, enlarged, lets the model draw them again in part, with the likeness "
            "applied, and puts them back without a seam. Mends small faces without any other model.",
            inputs=[
                _PICTURES,
                io.Model.Input("model", tooltip="The model with the likeness applied."),
                io.Conditioning.Input(
                    "positive", tooltip="A prompt about the face, with the placeholder of the person.",
                ),
                io.Conditioning.Input("negative", tooltip="What should not be there."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                *FACES,
                *_drawing(SAMPLERS, SCHEDULERS), *CROP,
                *BLENDING, REDRAWN, *GATE, *OPTIONAL, _CROP_SIZE,
            ],
            outputs=FINISHED,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, model, positive, negative, vae, found_by: str, number: int, denoise: float, steps: int,
        cfg: float, sampler_name: str, scheduler: str, seed: int, size: int, around: float,
        picture_size: str = AUTOMATIC, **more,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.restore import Redraw
        from ..engine.comfy_bridge.weights import own_side

        side = side_of(size, picture_size) or own_side(model)
        redraw = Redraw(
            model=model, positive=positive, negative=negative, vae=vae, denoise=denoise, steps=steps,
            guidance=cfg, seed=seed, sampler=sampler_name, scheduler=scheduler,
        )  # fmt: skip
        return _finish(cls, images, redraw, found_by, number, side=side, around=around, both=True, **more)


class LikenessUpscale(io.ComfyNode):
    """Any UPSCALE_MODEL, in bounded memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessUpscale",
            display_name="Upscale Image (Model or Size)",
            description="Enlarges pictures of any size with any upscale model, tile by tile, so that memory "
            "goes with the tile and no seams are seen.",
            inputs=[
                io.Image.Input("images", display_name="images", tooltip="Pictures to enlarge."),
                io.UpscaleModel.Input(
                    "upscale_model", display_name="upscale model",
                    tooltip="From Load Upscale Model: Real-ESRGAN or any other that ComfyUI loads.",
                ),
                io.Combo.Input(
                    "size", options=list(SHRINK), display_name="size", default=AS_MADE,
                    tooltip="How much of the enlargement to keep. Choose half when a model that enlarges "
                    "four times makes the picture too large.",
                ),
                io.Int.Input(
                    "tile", display_name="tile", default=512, min=64, max=4096, step=32,
                    tooltip="Pixels a side that are worked on at once. Lower it when memory runs out; it is "
                    "halved by itself where that happens on a GPU.",
                ),
                io.Int.Input(
                    "margin", display_name="margin", default=32, min=0, max=256, step=8,
                    tooltip="Pixels around each tile that the model sees too. Raise it if seams show.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The enlarged pictures.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, upscale_model, size: str, tile: int, margin: int) -> io.NodeOutput:
        from ..engine.comfy_bridge.restore import enlarge_images

        return io.NodeOutput(enlarge_images(images, upscale_model, SHRINK[size], tile, margin))


def _finish(
    cls, images, restore, found_by: str, number: int, judged_by: str, references=None, concept=None,
    masks=None, background=None, part: str = "face", **options,
) -> io.NodeOutput:  # fmt: skip
    from ..engine.comfy_bridge.pictures import face_model_for, pictures_of
    from ..engine.comfy_bridge.restore import Faces, restored_faces
    from ..engine.inference.restore import Restoration

    found_by = face_model_for(pictures_of(images), _WORDS.get(found_by, found_by))
    faces = Faces(
        found_by=found_by, judged_by=_WORDS.get(judged_by, judged_by), masks=masks,
        references=references, concept=concept, part=part,
    )  # fmt: skip
    restoration = Restoration(number=None if number == ALL_FACES else number, **options)
    done = restored_faces(images, faces, restore, restoration, background)
    return told(cls, *done, text=done.report, **ui.PreviewImage(done.before_after, cls=cls).as_dict())
