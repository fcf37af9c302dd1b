"""Learning a concept: one node per method, and the run that they share."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..engine.config import METHODS, PRECISIONS, BaseSpec, ConceptSpec, Job, read
from ..engine.errors import LikenessError
from .types import CATEGORY, Concept, Likeness

AUTOMATIC = "automatic"
AS_PRESET = "as the preset says"  # in a choice; in a number 0 means the same
SWITCH = {"yes": True, "no": False}
WARM_UP_SHARE = 0.4  # of all steps: 200 of 500, as published
FEATURE_SIZE = 512  # pixels a side that pictures have before a CLIP vision model looks at them


def _inputs(presets: list[str], *own: io.Input) -> list[io.Input]:
    return [
        io.Model.Input(
            "model",
            tooltip="The model to learn on; it is only read. A LoRA applied to it before counts as part "
            "of it.",
        ),
        io.Clip.Input("clip", tooltip="The CLIP that came with the model."),
        io.Vae.Input("vae", tooltip="The VAE that came with the model."),
        Concept.Input("concept", tooltip="What to learn, from Describe a Concept or Read a Concept Folder."),
        io.Combo.Input(
            "preset", options=[AUTOMATIC, *presets], display_name="preset", default=AUTOMATIC,
            tooltip="Where all settings start. automatic fits the model; paper and reference follow the "
            "publication and its code. Change it to reproduce published results.",
        ),
        io.Int.Input(
            "steps", display_name="steps", default=0, min=0, max=100_000,
            tooltip="How long to learn; 0 leaves it to the preset. Raise it when the likeness is weak, "
            "lower it when every picture looks like the examples.",
        ),
        *own,
        io.Combo.Input(
            "masked", options=[AS_PRESET, *SWITCH], display_name="only inside masks", default=AS_PRESET,
            tooltip="Learn from the masked part of the pictures alone. Say yes when backgrounds creep "
            "into new pictures; the concept needs masks for it.",
        ),
        io.Int.Input(
            "seed", display_name="seed", default=0, min=0, max=2**53 - 1, control_after_generate=False,
            tooltip="Of everything random. The same seed learns the same likeness; change it for another "
            "try.",
        ),
        io.Int.Input(
            "preview_every", display_name="preview every", default=50, min=0, max=100_000,
            tooltip="Draw a picture in this node after so many steps, to watch it learn. 0 draws none and "
            "is fastest.",
        ),
        io.String.Input(
            "preview_prompt", display_name="preview prompt", default="", placeholder="a photo of <v0>",
            tooltip="What to draw in the previews, with the placeholder in it. Write a scene to see "
            "whether prompts are still obeyed; empty draws a photo.",
        ),
        io.Int.Input(
            "resolution", display_name="resolution", default=0, min=0, max=2048, step=8, optional=True,
            tooltip="Pixels a side that the pictures are cropped to; 0 takes the model's own. Lower it "
            "when memory runs out.",
        ),
        io.Combo.Input(
            "precision", options=list(PRECISIONS), display_name="precision", default="fp32", optional=True,
            tooltip="bf16 halves time and memory on current GPUs at little cost. fp32 is exact and right "
            "for CPUs.",
        ),
        io.String.Input(
            "more_settings", display_name="more settings", default="", multiline=True, optional=True,
            placeholder="min_snr_gamma: 5.0",
            tooltip="Any other setting of the method, one per line as name: value, as in the likeness "
            "command's config files. They go before the fields above.",
        ),
    ]  # fmt: skip


OUTPUTS = [
    Likeness.Output(
        display_name="likeness",
        tooltip="What was learned; connect it to Apply, Save or Export.",
    ),
    io.Image.Output(display_name="previews", tooltip="The preview pictures, in the order they were drawn."),
    io.Image.Output(display_name="loss plot", tooltip="How the loss went down, step by step."),
]


class LikenessTrainTextualInversion(io.ComfyNode):
    """Textual Inversion: new words, no change to the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessTrainTextualInversion",
            display_name="Learn a Word (Textual Inversion)",
            category=CATEGORY,
            description="Learns new words for the concept and leaves the model as it is: files of a few "
            "kilobytes, prompts stay obedient, the likeness is rougher than with a LoRA.",
            inputs=_inputs(
                ["default", "paper", "reference", "miniature"],
                io.Float.Input(
                    "learning_rate", display_name="learning rate", default=0.0, min=0.0, max=1.0, step=0.0001,
                    round=False,
                    tooltip="How far each step moves the new words; 0 leaves it to the preset. Halve it "
                    "when the loss jumps.",
                ),
                io.Int.Input(
                    "vectors", display_name="words", default=0, min=0, max=32,
                    tooltip="How many words stand for the concept; 0 leaves it to the preset. More hold "
                    "more of the likeness, fewer mix better with prompts.",
                ),
            ),
            outputs=OUTPUTS,
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, preset: str, steps: int, learning_rate: float,
        vectors: int, masked: str, **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        chosen = _touched(steps=steps, learning_rate=learning_rate, vectors=vectors, masked_loss=masked)
        return _learn(cls, "textual-inversion", (model, clip, vae), (concept,), preset, chosen, run)


class LikenessTrainDreamBoothLora(io.ComfyNode):
    """DreamBooth with LoRA: a small change to the model, kept general by pictures of the class."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessTrainDreamBoothLora",
            display_name="Learn a LoRA (DreamBooth)",
            category=CATEGORY,
            description="Learns a LoRA and a word for the concept, while pictures of its class that the "
            "model draws beforehand keep everybody else as they were. The closest likeness of the basic "
            "methods.",
            inputs=_inputs(
                ["default", "reference", "miniature"],
                io.Float.Input(
                    "learning_rate", display_name="learning rate", default=0.0, min=0.0, max=1.0, step=0.0001,
                    round=False,
                    tooltip="How far each step moves the LoRA; 0 leaves it to the preset. Halve it when "
                    "the loss jumps or pictures turn garish.",
                ),
                io.Int.Input(
                    "rank", display_name="rank", default=0, min=0, max=256,
                    tooltip="Size of the LoRA; 0 leaves it to the preset. Raise it for fine detail, lower "
                    "it for small files and less overfitting.",
                ),
                io.Combo.Input(
                    "text_encoder", options=[AS_PRESET, *SWITCH], display_name="text encoder too",
                    default=AS_PRESET,
                    tooltip="Give the text encoder a LoRA as well: closer likeness, looser prompts.",
                ),
                io.Combo.Input(
                    "prior", options=list(SWITCH), display_name="keep the class general",
                    default="yes",
                    tooltip="Learn beside pictures of the class, so that not everybody ends up with this "
                    "face. Say no to save time when the LoRA is for this one subject only.",
                ),
            ),
            outputs=OUTPUTS,
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, preset: str, steps: int, learning_rate: float, rank: int,
        text_encoder: str, prior: str, masked: str, **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        chosen = _touched(
            steps=steps,
            unet_learning_rate=learning_rate,
            rank=rank,
            text_encoder=text_encoder,
            masked_loss=masked,
        )
        if prior == "no":
            chosen["prior_weight"] = 0.0
        return _learn(cls, "dreambooth-lora", (model, clip, vae), (concept,), preset, chosen, run)


class LikenessTrainPersonaMagic(io.ComfyNode):
    """PersonaMagic: words that follow the noise level, no change to the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessTrainPersonaMagic",
            display_name="Learn Staged Words (PersonaMagic)",
            category=CATEGORY,
            description="Learns words that change while a picture emerges from noise, and a direct hint of "
            "the pictures beside them. The model stays as it is, so that it combines with anything. Use "
            "the result with Write a Staged Prompt.",
            inputs=_inputs(
                ["default", "paper", "reference", "miniature"],
                io.Float.Input(
                    "learning_rate", display_name="learning rate", default=0.0, min=0.0, max=1.0, step=0.0001,
                    round=False,
                    tooltip="How far each step moves what is learned; 0 leaves it to the preset. Halve it "
                    "when the loss jumps.",
                ),
                io.Int.Input(
                    "vectors", display_name="words", default=0, min=0, max=32,
                    tooltip="How many words stand for the concept; 0 leaves it to the preset. More hold "
                    "more of the likeness, fewer mix better with prompts.",
                ),
                io.ClipVision.Input(
                    "clip_vision", display_name="clip vision", optional=True,
                    tooltip="Looks at the pictures: CLIP ViT-B/32, or another CLIP vision model. Needed but "
                    "on the Miniature, which has its own; or write image_encoder: none below.",
                ),
            ),
            outputs=OUTPUTS,
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, preset: str, steps: int, learning_rate: float,
        vectors: int, masked: str, clip_vision=None, **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.staged import features_file
        from ..engine.data.concepts import load_concept

        chosen = _touched(steps=steps, learning_rate=learning_rate, vectors=vectors, masked_loss=masked)
        if clip_vision is not None:
            size = run.get("resolution") or FEATURE_SIZE
            chosen["image_encoder"] = features_file(clip_vision, load_concept(concept), size)
        return _learn(cls, "personamagic", (model, clip, vae), (concept,), preset, chosen, run)


class LikenessTrainMagicTailor(io.ComfyNode):
    """MagicTailor: a subject, and parts of it from other pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = _inputs(
            ["default", "paper", "reference", "miniature"],
            Concept.Input(
                "component",
                tooltip="What to change about the subject, such as somebody else's hair: pictures with "
                "masks, class word hair, placeholder <v1>, role component.",
            ),
            Concept.Input(
                "component_2", display_name="second component", optional=True,
                tooltip="Another part from other pictures, with a placeholder of its own such as <v2>.",
            ),
            Concept.Input(
                "component_3", display_name="third component", optional=True,
                tooltip="A third part, with a placeholder of its own such as <v3>.",
            ),
            io.Float.Input(
                "learning_rate", display_name="learning rate", default=0.0, min=0.0, max=1.0, step=0.0001,
                round=False,
                tooltip="How far each step of the warm-up moves what is learned; 0 leaves it to the preset. "
                "Halve it when the loss jumps.",
            ),
            io.Float.Input(
                "balance_learning_rate", display_name="balancing rate", default=0.0, min=0.0, max=1.0,
                step=0.00001, round=False,
                tooltip="The same for the second phase, which trains whatever is worst; 0 leaves it to the "
                "preset. Raise it when one of the two stays weak.",
            ),
            io.Int.Input(
                "rank", display_name="rank", default=0, min=0, max=256,
                tooltip="Size of the LoRA; 0 leaves it to the preset. Raise it for fine detail, lower it for "
                "small files.",
            ),
        )  # fmt: skip
        return io.Schema(
            node_id="LikenessTrainMagicTailor",
            display_name="Learn a Subject with Components (MagicTailor)",
            category=CATEGORY,
            description="Learns a subject and parts of it from other pictures together, such as this person "
            "with that hair. Write <v0> with <v1> to join them, or either word alone. All pictures need "
            "masks, the subject's without the part.",
            inputs=[entry for entry in inputs if entry.id != "masked"],
            outputs=OUTPUTS,
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, component: ConceptSpec, preset: str, steps: int,
        learning_rate: float, balance_learning_rate: float, rank: int, component_2=None, component_3=None,
        **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        warm_up = round(steps * WARM_UP_SHARE)
        chosen = _touched(
            warm_up_steps=warm_up,
            balance_steps=steps - warm_up,
            warm_up_learning_rate=learning_rate,
            balance_learning_rate=balance_learning_rate,
            rank=rank,
        )
        concepts = tuple(spec for spec in (concept, component, component_2, component_3) if spec is not None)
        joint = f"a photo of {concept.token} with {' and '.join(spec.token for spec in concepts[1:])}"
        run["preview_prompt"] = run["preview_prompt"] or joint
        return _learn(cls, "magictailor", (model, clip, vae), concepts, preset, chosen, run)


def _touched(**widgets: Any) -> dict[str, Any]:
    """The widgets that say something else than the preset, as settings."""
    told = {name: value for name, value in widgets.items() if value not in (0, AS_PRESET)}
    return {name: SWITCH.get(value, value) for name, value in told.items()}


def _learn(
    node: type[io.ComfyNode], method: str, loaded: tuple[Any, Any, Any], concepts: tuple[ConceptSpec, ...],
    preset: str, chosen: Mapping[str, Any], run: Mapping[str, Any],
) -> io.NodeOutput:  # fmt: skip
    """Trains on copies of the graph's models and shows it in the node."""
    from ..engine.artifact import Artifact
    from ..engine.comfy_bridge.pictures import image_of
    from ..engine.comfy_bridge.run import GraphObserver, stop_graph
    from ..engine.evaluation.loss_plot import plot_losses

    observer = GraphObserver(node.hidden.unique_id)
    settings = _settings(method, preset, loaded[0], chosen, run.get("more_settings", ""))
    path = _train(loaded, observer, method, settings, concepts, run)
    if observer.interrupted:
        stop_graph(observer, path, concepts[0].class_word or "likeness")
    plot = image_of([plot_losses(observer.losses)])
    previews = image_of(observer.previews) if observer.previews else plot
    return io.NodeOutput(Artifact.load(path), previews, plot, ui=ui.PreviewImage(plot, cls=node))


def _settings(method: str, preset: str, model: Any, chosen: Mapping[str, Any], more: str) -> Any:
    """The preset, changed by the widgets, then by the text field."""
    import yaml

    from ..engine.comfy_bridge.weights import family_of

    if preset == AUTOMATIC:
        preset = "miniature" if family_of(model) == "miniature" else "default"
    try:
        typed = yaml.safe_load(more) or {}
    except yaml.YAMLError as error:
        raise LikenessError(f"'more settings' is not in name: value lines ({error}); mend it") from error
    if not isinstance(typed, dict):
        raise LikenessError("'more settings' must hold lines such as min_snr_gamma: 5.0")
    kind = METHODS[method]
    return read(kind, {**asdict(kind.preset(preset)), **chosen, **typed}, "more settings")


def _train(
    loaded: tuple[Any, Any, Any], observer: Any, method: str, settings: Any,
    concepts: tuple[ConceptSpec, ...], run: Mapping[str, Any],
) -> Path | None:  # fmt: skip
    """Writes the artifact and returns its path; nothing where it was stopped before the first step."""
    from ..engine.comfy_bridge import run as graph
    from ..engine.comfy_bridge.folders import temporary_folder
    from ..engine.comfy_bridge.weights import take_weights
    from ..engine.training.graph_base import base_from_graph
    from ..engine.training.launch import Stopped, train

    job = Job(
        method=method, base=BaseSpec(kind="graph"), concepts=concepts, settings=settings, seed=run["seed"],
        preview_every=run["preview_every"], preview_prompt=run["preview_prompt"] or None,
        resolution=run.get("resolution") or None, precision=run.get("precision", "fp32"),
        device=graph.device(), cache=str(temporary_folder("class pictures")), resume=True,
        output="run.safetensors",
    )  # fmt: skip
    with graph.training_allowed():
        base = base_from_graph(take_weights(*loaded))
        job = replace(job, output=str(graph.run_file(job.to_json() + base.fingerprint)))
        try:
            return train(job, observer, base)
        except Stopped:
            return None
