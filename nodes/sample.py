"""Drawing with every concept in its place: regions for words, and a sampler that finds and shows them."""

import logging
from collections.abc import Sequence

from comfy_api.latest import io

from ..engine.config.choices import FOCUS_MODES, FOCUS_SCOPES
from ..engine.errors import LikenessError
from .types import People, schema

log = logging.getLogger(__name__)

REGIONS = ("mask or box", "find by face")
_SCHEDULES = ("constant",)  # one is left; its widget keeps the places of those behind it in saved workflows
# what older workflows may hold, and what is done instead
GONE = {
    "find by attention": "find by face", "renormalised": "soft", "onward": "word",
    "falling": "constant", "rising": "constant",
}  # fmt: skip


def _place_inputs() -> list[io.Input]:
    """Where the word belongs."""
    shares = {"min": 0.0, "max": 1.0, "step": 0.01, "optional": True}
    return [
        io.Combo.Input(
            "where", options=list(REGIONS), display_name="region", default=REGIONS[0], optional=True,
            tooltip="Where the word belongs: the MASK, or else the box below. find by face looks "
            "for it while drawing: at the head that a parser sees there.",
        ),
        io.Mask.Input(
            "mask", display_name="mask", optional=True,
            tooltip="White where the word belongs, of the picture's shape: one, or one for each picture. "
            "Paint it where boxes are too coarse.",
        ),
        io.Float.Input(
            "left", default=0.0, **shares,
            tooltip="The box's left edge as a share of the picture's width. Use 0.5 for the right half.",
        ),
        io.Float.Input(
            "top", default=0.0, **shares,
            tooltip="The box's upper edge as a share of the picture's height. Raise it to keep the word low.",
        ),
        io.Float.Input(
            "width", default=1.0, **shares,
            tooltip="The box's width as a share of the picture's. Use 0.5 for one of two people.",
        ),
        io.Float.Input(
            "height", default=1.0, **shares,
            tooltip="The box's height as a share of the picture's. A box of 1 by 1 changes nothing.",
        ),
    ]  # fmt: skip


def _manner_inputs() -> list[io.Input]:
    """How strictly the word is kept there."""
    return [
        io.Combo.Input(
            "mode", options=list(FOCUS_MODES), default=FOCUS_MODES[0], optional=True,
            tooltip="hard: nothing outside. soft: fading at the edge, and where the mask is grey.",
        ),
        io.Combo.Input(
            "scope", options=list(FOCUS_SCOPES), default=FOCUS_SCOPES[0], optional=True,
            tooltip="apart: the region reads the prompt without the other placeholders, which keeps two "
            "people two. word: only the word itself, in the whole prompt.",
        ),
        io.Float.Input(
            "strength", default=1.0, min=0.0, max=2.0, step=0.05, optional=True,
            tooltip="How strongly attention is held back. Lower it when the region's edge shows.",
        ),
        io.Combo.Input(
            "schedule", options=list(_SCHEDULES), default=_SCHEDULES[0], optional=True,
            tooltip="The strength is the same from start to end. Lower end to let the last details blend.",
        ),
        io.Float.Input(
            "start", default=0.0, min=0.0, max=1.0, step=0.01, optional=True,
            tooltip="The noise level from which on it acts: 0 is pure noise, 1 the picture. Raise it when "
            "the layout suffers.",
        ),
        io.Float.Input(
            "end", default=1.0, min=0.0, max=1.0, step=0.01, optional=True,
            tooltip="The noise level up to which it acts. Lower it when details at the edge look cut.",
        ),
        io.Float.Input(
            "find_at", display_name="find after", default=0.3, min=0.05, max=0.95, step=0.05, optional=True,
            tooltip="Share of the steps after which a region is looked for. Raise it when the wrong place is "
            "found, lower it when the spill has set by then.",
        ),
    ]  # fmt: skip


class LikenessRefocus(io.ComfyNode):
    """A word kept in its region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessRefocus",
            display_name="Regional Word (Attention Refocus)",
            description="Encodes a prompt and keeps one of its words in a region: a face that does not spill "
            "into the scene, two people who each keep their own. Chain one node for each word. Goes with any "
            "sampler, area, ControlNet or LoRA; prompts without regions are drawn as ever.",
            inputs=[
                io.Model.Input("model", tooltip="The model to draw with, likenesses already applied."),
                io.Clip.Input(
                    "clip",
                    tooltip="The CLIP that knows the prompt's placeholders: from Apply Likeness.",
                ),
                io.String.Input(
                    "text", display_name="prompt", default="a photo of <v0>", multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw. In a chain, every node is told the same prompt.",
                ),
                io.String.Input(
                    "token", display_name="word", default="<v0>",
                    tooltip="The placeholder or the words of the prompt that the region is for: <v0>, or red "
                    "hat.",
                ),
                *_place_inputs(),
                *_manner_inputs(),
                io.Conditioning.Input(
                    "conditioning", optional=True,
                    tooltip="The same prompt, encoded already: from the Regional Word before this one, or "
                    "from Staged Prompt. Without it the prompt is encoded here.",
                ),
                io.Conditioning.Input(
                    "own", display_name="own prompt", optional=True,
                    tooltip="With apart: what the region reads instead of the prompt without other "
                    "placeholders. Connect it to give a person words of their own.",
                ),
                io.String.Input(
                    "inside", default="", optional=True,
                    tooltip="With apart: the word's name in its region. With the word woman and <v0> here, "
                    "the rest of the picture knows only of a woman. Use it when a person brings their scene.",
                ),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="Only to find faces: decodes the unfinished picture. A tiny one (taesd) is "
                    "quickest.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="Connect it to the sampler: it carries the regions out.",
                ),
                io.Conditioning.Output(
                    display_name="CONDITIONING",
                    tooltip="Connect it to positive, or to the next Regional Word.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, where: str = REGIONS[0], mode: str = FOCUS_MODES[0], scope: str = FOCUS_SCOPES[0],
        schedule: str = _SCHEDULES[0],
    ) -> bool | str:  # fmt: skip
        """Lets pass what older workflows hold; the editor's own check of these inputs is off for it."""
        pairs = ((where, REGIONS), (mode, FOCUS_MODES), (scope, FOCUS_SCOPES), (schedule, _SCHEDULES))
        wrong = [value for value, choices in pairs if value not in choices and GONE.get(value) not in choices]
        return f"there is no '{wrong[0]}'; choose it anew from the list" if wrong else True

    @classmethod
    def execute(
        cls, model, clip, text: str, token: str, where: str = REGIONS[0], mask=None, left: float = 0.0,
        top: float = 0.0, width: float = 1.0, height: float = 1.0, mode: str = FOCUS_MODES[0],
        scope: str = FOCUS_SCOPES[0], strength: float = 1.0, schedule: str = _SCHEDULES[0],
        start: float = 0.0, end: float = 1.0, find_at: float = 0.3, conditioning=None, own=None,
        inside: str = "", vae=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.refocus import refocused_prompt
        from ..engine.inference.refocus import Focus

        where, mode, scope, schedule = (_still_there(value) for value in (where, mode, scope, schedule))
        region_given = where == REGIONS[0]
        region = ((left, top, width, height) if mask is None else mask) if region_given else None
        focus = Focus(
            token=token.strip(), region=region, mode=mode, scope=scope, strength=strength, start=start,
            end=end, find_at=find_at, inside=inside.strip() or None,
        )  # fmt: skip
        prompt = refocused_prompt(model, clip, text, focus, conditioning=conditioning, alone=own, vae=vae)
        return io.NodeOutput(*prompt)


def _still_there(value: str) -> str:
    """What is done for a value of an older workflow."""
    if value in GONE:
        log.warning("Regional Word has no '%s' any more: '%s' is done instead", value, GONE[value])
    return GONE.get(value, value)


def _sampling_inputs(samplers: Sequence[str], schedulers: Sequence[str]) -> list[io.Input]:
    """What KSampler asks for too."""
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
            tooltip="Of the noise. Change it for another picture.",
        ),
        io.Int.Input(
            "steps", default=25, min=1, max=10000,
            tooltip="Sampling steps. More are slower and a little finer.",
        ),
        io.Float.Input(
            "cfg", default=5.0, min=0.0, max=100.0, step=0.1,
            tooltip="How strictly to follow the prompt. Lower it when colours burn.",
        ),
        io.Combo.Input(
            "sampler_name", options=list(samplers),
            tooltip="How noise is removed; as in KSampler.",
        ),
        io.Combo.Input(
            "scheduler", options=list(schedulers),
            tooltip="How noise levels are spaced; as in KSampler.",
        ),
        io.Float.Input(
            "denoise", default=1.0, min=0.0, max=1.0, step=0.01, optional=True,
            tooltip="How much of the latent is drawn anew. Lower it to keep a picture's layout.",
        ),
    ]  # fmt: skip


class LikenessRefocusedSampler(io.ComfyNode):
    """A KSampler that finds regions first, and shows where words looked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..engine.comfy_bridge.sampling import SAMPLERS, SCHEDULERS

        return schema(
            node_id="LikenessRefocusedSampler",
            display_name="KSampler (Regional)",
            description="Draws as KSampler does, seed for seed; regions that have to be found are found in a "
            "short first run, so that they hold from the first step on. Shows where each word looked.",
            inputs=[
                io.Model.Input("model", tooltip="From Regional Word."),
                io.Conditioning.Input("positive", tooltip="From Regional Word, the last of the chain."),
                io.Conditioning.Input(
                    "negative",
                    tooltip="What should not be there. It is not refocused.",
                ),
                io.Latent.Input(
                    "latent", display_name="latent_image",
                    tooltip="An empty latent, or a picture's. Make it wide for two people.",
                ),
                io.Vae.Input("vae", tooltip="Decodes the picture that the heat maps are laid over."),
                *_sampling_inputs(SAMPLERS, SCHEDULERS),
                io.Boolean.Input(
                    "restart", default=True, optional=True,
                    tooltip="Draw again from the first step once regions are found. Switch it off to save "
                    "that time: they then hold from there on.",
                ),
                People.Input(
                    "people", optional=True,
                    tooltip="From People in Regions: who stands where. Connect it to draw each again.",
                ),
                io.Float.Input(
                    "redraw", display_name="redraw each person", default=0.0, min=0.0, max=1.0, step=0.05,
                    optional=True,
                    tooltip="How much of each person is drawn once more by themselves, where several in one "
                    "picture stay unfinished: 0.4 to 0.7, or 0 for not at all. Needs people.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="Connect it to VAE Decode."),
                io.Image.Output(
                    display_name="attention",
                    tooltip="For every picture and word, where the word looked, averaged over layers and "
                    "steps.",
                ),
                io.Mask.Output(
                    display_name="regions",
                    tooltip="The regions used, in the same order. Use one to restore or inpaint that person.",
                ),
                io.Image.Output(
                    display_name="images",
                    tooltip="The finished pictures, each person drawn again where that was asked for.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, negative, latent, vae, seed: int, steps: int, cfg: float, sampler_name: str,
        scheduler: str, denoise: float = 1.0, restart: bool = True, people=None, redraw: float = 0.0,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.people import each_drawn_again
        from ..engine.comfy_bridge.refocus import refocused_sample

        if redraw and people is None:
            raise LikenessError(
                "redraw each person wants to know who they are; connect people from People in Regions, or "
                "set it to 0"
            )
        how = {"steps": steps, "sampler": sampler_name, "scheduler": scheduler, "vae": vae, "seed": seed}
        drawn = refocused_sample(
            model, positive, negative, latent, cfg=cfg, denoise=denoise, restart=restart, **how
        )
        images = drawn.images
        if redraw:
            images = each_drawn_again(
                images, people, redraw, drawn.found, negative=negative, guidance=cfg, **how
            )
        return io.NodeOutput(drawn.latent, drawn.heat, drawn.regions, images)
