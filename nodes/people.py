"""Several learned people in one picture, by one node and one prompt."""

from typing import Any

from comfy_api.latest import io

from .types import Likeness, People, schema

STANDING = ("side by side", "thirds", "masks", "find faces")
MOST_PEOPLE = 6


class LikenessPeople(io.ComfyNode):
    """Up to six likenesses, each in a region of their own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessPeople",
            display_name="People in Regions",
            description="Draws several learned people in one picture, each in a place of their own and with "
            "their own face, from a single prompt. Applies the likenesses by itself.",
            inputs=[
                io.Model.Input("model", tooltip="The model the likenesses were learned on, as loaded."),
                io.Clip.Input("clip", tooltip="That model's CLIP."),
                *(_likeness(number) for number in range(1, MOST_PEOPLE + 1)),
                io.Mask.Input(
                    "masks", optional=True,
                    tooltip="For the layout masks: white where each person belongs, one each, in the order "
                    "in which the prompt names them.",
                ),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="For the layout find faces: decodes the unfinished picture. A tiny one (taesd) "
                    "is quickest.",
                ),
                io.String.Input(
                    "prompt", default="a photo of <anna> and <ben>, on a beach", multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw, with a trigger word for each person. A word that a likeness was "
                    "learned under is that person; the others go to the remaining likenesses in their order.",
                ),
                io.Combo.Input(
                    "layout", options=list(STANDING), default=STANDING[0],
                    tooltip="Where people stand, in the order in which the prompt names them. side by side "
                    "divides the width; thirds leaves room beside them; masks are yours; find faces looks "
                    "for heads while drawing.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="Connect it to KSampler (Regional)."),
                io.Conditioning.Output(display_name="CONDITIONING", tooltip="Connect it to positive there."),
                People.Output(
                    display_name="people",
                    tooltip="Who stands where: for KSampler (Regional), which can draw each again.",
                ),
                io.Clip.Output(display_name="CLIP", tooltip="Knows all their words; for the negative."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, likeness_1, prompt: str, layout: str, masks=None, vae=None, **more: Any
    ) -> io.NodeOutput:
        from ..engine.comfy_bridge.people import people_in_regions

        named = [likeness_1, *(more.get(f"likeness_{number}") for number in range(2, MOST_PEOPLE + 1))]
        likenesses = [one for one in named if one is not None]
        return io.NodeOutput(
            *people_in_regions(model, clip, prompt, likenesses, layout, masks=masks, vae=vae)
        )


def _likeness(number: int) -> io.Input:
    return Likeness.Input(
        f"likeness_{number}", display_name=f"likeness {number}", optional=number > 1,
        tooltip="A person, from Load Likeness or one of the Train nodes. Two that were learned under the "
        "same trigger word are told apart by the prompt.",
    )  # fmt: skip
