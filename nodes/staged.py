"""Prompts whose words change with the noise level, for likenesses learned with PersonaMagic."""

from comfy_api.latest import io

from .types import Likeness, schema

AS_LEARNED = "as learned"


def _stages() -> list[io.Input]:
    """At which noise levels the words change, and what comes after them."""
    return [
        io.Combo.Input(
            "late", options=[AS_LEARNED, "hold", "class word"], display_name="at the end",
            default=AS_LEARNED, optional=True,
            tooltip="What finishes the picture below the learned noise levels. hold keeps the "
            "learned words; class word leaves the last details to the model.",
        ),
        io.Int.Input(
            "start", display_name="from noise level", default=0, min=0, max=1000, optional=True,
            tooltip="Timestep at which the learned words take over, 1000 being pure noise; 0 leaves "
            "it as learned. Raise it when the class word lays out the wrong person.",
        ),
        io.Int.Input(
            "end", display_name="to noise level", default=-1, min=-1, max=999, optional=True,
            tooltip="Timestep down to which the words change; -1 leaves it as learned. Raise it to "
            "hand over to what comes at the end earlier.",
        ),
        io.Int.Input(
            "stages", display_name="stages", default=0, min=0, max=1000, optional=True,
            tooltip="How many steps the learned stretch is divided into; 0 leaves it as learned. "
            "Lower it when encoding the prompt takes long on a CPU.",
        ),
    ]  # fmt: skip


class LikenessStagedPrompt(io.ComfyNode):
    """A staged embedding in a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessStagedPrompt",
            display_name="Staged Prompt (PersonaMagic)",
            description="A prompt with a likeness learned by PersonaMagic: the class word lays out the "
            "picture, the learned words take over as the noise clears. Goes with any sampler, step count, "
            "LoRA, identity adapter or ControlNet.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to draw with: the one the likeness was learned on, or a relative of "
                    "it.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="That model's CLIP, with LoRAs or other likenesses applied or not.",
                ),
                Likeness.Input(
                    "likeness",
                    tooltip="From Train Staged Embedding (PersonaMagic), or from Load Likeness.",
                ),
                io.String.Input(
                    "text", display_name="prompt", default="a photo of <v0>", multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw, with the placeholder where the person should be: a photo of <v0> "
                    "on a beach. It may be long, and (<v0>:1.2) weighs it.",
                ),
                io.Float.Input(
                    "bypass", display_name="bypass", default=1.0, min=0.0, max=2.0, step=0.05, optional=True,
                    tooltip="How much of the pictures goes past the text encoder. Lower it when prompts are "
                    "ignored, raise it when the likeness is weak.",
                ),
                *_stages(),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="Connect it to the sampler. The prompt works without it too, but then the "
                    "bypass is left out.",
                ),
                io.Conditioning.Output(display_name="CONDITIONING", tooltip="Connect it to positive."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, likeness, text: str, bypass: float = 1.0, late: str = AS_LEARNED, start: int = 0,
        end: int = -1, stages: int = 0,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.staged import staged_prompt

        prompt = staged_prompt(
            model, clip, likeness, text, bypass=bypass, start=start or None, end=None if end < 0 else end,
            stages=stages or None, late=None if late == AS_LEARNED else late,
        )  # fmt: skip
        return io.NodeOutput(*prompt)
