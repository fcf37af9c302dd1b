"""What was learned: using it, keeping it, reading it back, and giving it to other tools."""

import os
import time
from typing import Any

from comfy_api.latest import io, ui

from .types import Likeness, noted, schema, told


def _trigger_word() -> io.Input:
    """The widget that renames what prompts say."""
    return io.String.Input(
        "trigger_word", display_name="trigger word", default="", placeholder="as learned", optional=True,
        tooltip="Another word for prompts, such as <anna>, instead of the one it was learned under. Change "
        "it when two likenesses have the same; where it has several, name them in their order.",
    )  # fmt: skip


def renamed(likeness: Any, words: str) -> Any:
    """The likeness under other placeholders; brackets may be left away, empty words leave it as it is."""
    names = [f"<{word.strip('<>')}>" for word in words.replace(",", " ").split()]
    return likeness.renamed(names) if names else likeness


def _card(likeness: Any, path: str | None = None) -> str:
    """What a likeness is, in a few lines: the words to type, how, on what and from what it was learned."""
    from ..engine.artifact import short_card

    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(os.path.getmtime(path))) if path else ""
    return short_card(vars(likeness), written)


def _thumbnail(likeness: Any, node: type[io.ComfyNode]) -> dict[str, Any]:
    """The picture that a likeness holds of itself, for the node to show; nothing where there is none."""
    from ..engine.comfy_bridge.pictures import image_of, opened

    pixels = opened(likeness.thumbnail)
    return {} if pixels is None else ui.PreviewImage(image_of([pixels]), cls=node).as_dict()


class LikenessApply(io.ComfyNode):
    """LoRA and learned words onto MODEL and CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessApply",
            display_name="Apply Likeness (LoRA + Embedding)",
            description="Teaches MODEL and CLIP what was learned. Any prompt node after it understands "
            "the placeholder: write <v0>, or embedding:v0.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model the likeness was learned on, or a relative of it.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="That model's CLIP; connect the prompts to this node's CLIP output.",
                ),
                Likeness.Input(
                    "likeness", optional=True,
                    tooltip="From one of the Train nodes, or from Load Likeness. Without one, MODEL and CLIP "
                    "pass as they came.",
                ),
                io.Float.Input(
                    "strength_model", display_name="strength_model", default=1.0, min=-4.0, max=4.0,
                    step=0.05,
                    tooltip="How strongly the learned LoRA changes the picture. Lower it when prompts are "
                    "ignored, raise it when the likeness is weak.",
                ),
                io.Float.Input(
                    "strength_clip", display_name="strength_clip", default=1.0,
                    min=-4.0, max=4.0, step=0.05,
                    tooltip="How strongly the text encoder's LoRA counts, where one was learned. Leave it "
                    "at 1 unless the placeholder takes over the prompt. Learned words always count in "
                    "full.",
                ),
                _trigger_word(),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="Connect it to the sampler."),
                io.Clip.Output(display_name="CLIP", tooltip="Connect it to the prompts."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, strength_model: float, strength_clip: float, likeness=None, trigger_word: str = "",
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.words import apply

        if likeness is None:
            return io.NodeOutput(model, clip)
        return io.NodeOutput(
            *apply(model, clip, renamed(likeness, trigger_word), strength_model, strength_clip)
        )


class LikenessSave(io.ComfyNode):
    """A likeness into models/likeness."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessSave",
            display_name="Save Likeness",
            description="Writes a likeness to models/likeness, from where Load Likeness and the "
            "likeness command read it. An earlier file of that name is kept: the new one gets a number.",
            inputs=[
                Likeness.Input("likeness", tooltip="From one of the Train nodes."),
                io.String.Input(
                    "name", display_name="name", default="my-likeness",
                    tooltip="The file's name without ending; friends/ann makes a subfolder. Change it for "
                    "every person.",
                ),
            ],
            outputs=[
                Likeness.Output(display_name="likeness", tooltip="The same likeness, once it is on disk."),
                io.String.Output(display_name="file", tooltip="Where it was written."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, likeness, name: str) -> io.NodeOutput:
        from ..engine.comfy_bridge.folders import inside
        from ..engine.files import unused

        path = unused(inside("likeness", name, ".safetensors"))
        likeness.save(path)
        return told(cls, likeness, str(path), text=f"saved to {path}")


class LikenessLoad(io.ComfyNode):
    """A likeness out of models/likeness."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..engine.comfy_bridge.folders import lines_of_listed, listed

        return schema(
            node_id="LikenessLoad",
            display_name="Load Likeness",
            description="Reads a likeness from models/likeness.",
            inputs=[
                noted(
                    io.Combo.Input(
                        "name", options=listed("likeness"), display_name="file",
                        tooltip="A file in models/likeness; MasterWeaver's adapter_*.pt may be there too. "
                        "Press R to refresh the list after adding one.",
                    ),
                    about=lines_of_listed(),
                ),
                _trigger_word(),
            ],
            outputs=[
                Likeness.Output(
                    display_name="likeness",
                    tooltip="Connect it to Apply Likeness; an identity adapter to Face Identity from Images.",
                ),
                io.String.Output(
                    display_name="trigger word",
                    tooltip="What to write in prompts, such as <v0>.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, name: str, trigger_word: str = "") -> io.NodeOutput:
        from ..engine.comfy_bridge.folders import find
        from ..engine.identity.adapter import read_likeness

        path = find(name, "likeness")
        likeness = renamed(read_likeness(path), trigger_word)
        words = " ".join(token.token for token in likeness.tokens)
        return told(cls, likeness, words, text=_card(likeness, path), **_thumbnail(likeness, cls))

    @classmethod
    def fingerprint_inputs(cls, name: str, **_: str) -> str:
        from ..engine.comfy_bridge.folders import find
        from ..engine.files import state_of

        return state_of(find(name, "likeness"))


class LikenessExport(io.ComfyNode):
    """A likeness as a stock LoRA and stock embeddings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessExport",
            display_name="Export Likeness as LoRA + Embedding",
            description="Writes a LoRA to models/loras and an embedding to models/embeddings, for "
            "ComfyUI's own LoRA loader and embedding: words, and for other programs.",
            inputs=[
                Likeness.Input("likeness", tooltip="From one of the Train nodes, or from Load Likeness."),
                io.String.Input(
                    "name", display_name="name", default="my-likeness",
                    tooltip="The files' name without ending; the embedding is then called "
                    "embedding:<name>. Other files of that name stay: the new ones get a number.",
                ),
            ],
            outputs=[io.String.Output(display_name="files", tooltip="What was written, one path per line.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, likeness, name: str) -> io.NodeOutput:
        from ..engine.comfy_bridge.words import export_likeness

        files = "\n".join(str(path) for path in export_likeness(likeness, name))
        return told(cls, files, text=files)
