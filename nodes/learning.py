"""What all training nodes share: their widgets, and the run from the graph's models to an artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

from comfy_api.latest import io, ui

from ..engine.config import (
    METHODS,
    PRECISIONS,
    BaseSpec,
    ConceptSpec,
    Job,
    Recipe,
    convert,
    from_yaml,
    gathered,
    read,
)
from ..engine.config.choices import AUTOMATIC
from ..engine.config.specs import PREDICTIONS
from ..engine.errors import LikenessError
from .types import Concept, Likeness, side_inputs, side_of

SHOWN = 7  # previews that the node shows at most after a run
AS_PRESET = "as the preset says"  # in a choice; in a number of an older workflow 0 means the same
AS_MODEL = "as the MODEL says"
PREDICTED = dict(zip(("noise", "velocity"), PREDICTIONS))
JOB_LINES = (
    "caption_dropout",
    "caption_shuffle",
    "caption_keep",
    "hold_out",
    "cache_on_disk",
    "resolutions",
)  # of more settings: the run's own
YES_NO = {"yes": True, "no": False}

OUTPUTS = [
    Likeness.Output(
        display_name="likeness",
        tooltip="What was learned; connect it to Apply, Save or Export.",
    ),
    io.Image.Output(display_name="previews", tooltip="The preview pictures, in the order they were drawn."),
    io.Image.Output(display_name="loss plot", tooltip="How the loss went down, step by step."),
]


NUMBERS = {  # by method: widgets that show a number of the preset, and the settings whose sum it is
    "textual-inversion": {"steps": ["steps"], "learning_rate": ["learning_rate"], "vectors": ["vectors"]},
    "dreambooth-lora": {"steps": ["steps"], "learning_rate": ["unet_learning_rate"], "rank": ["rank"]},
    "custom-diffusion": {"steps": ["steps"], "learning_rate": ["learning_rate"], "vectors": ["vectors"]},
    "personamagic": {"steps": ["steps"], "learning_rate": ["learning_rate"], "vectors": ["vectors"]},
    "magictailor": {
        "steps": ["warm_up_steps", "balance_steps"], "learning_rate": ["warm_up_learning_rate"],
        "balance_learning_rate": ["balance_learning_rate"], "rank": ["rank"],
    },
    "magicapture": {
        "steps": ["inversion_steps", "tuning_steps"], "identity_weight": ["identity_weight"],
        "unet_learning_rate": ["unet_learning_rate"], "rank": ["rank"],
    },
    "masterweaver": {
        "steps": ["identity_steps", "editing_steps"], "learning_rate": ["identity_learning_rate"],
        "batch_size": ["batch_size"],
    },
}  # fmt: skip


def training(
    method: str, presets: list[str], *method_inputs: io.Input, without: Sequence[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """What the schemas of all training nodes share; `method_inputs` are those of the one method.

    `without` names shared inputs that make no sense for it. Numbers that a preset has stand in their widgets:
    those of `default`; the editor puts another's there when it is chosen, or when the Miniature is connected.
    """
    inputs = [entry for entry in _inputs(presets, method_inputs) if entry.id not in without]
    numbers = {preset: numbers_of(method, preset) for preset in presets}
    for entry in inputs:
        if entry.id in numbers["default"]:
            entry.default = numbers["default"][entry.id]
        elif entry.id == "preset":
            entry.extra_dict = {**(entry.extra_dict or {}), "numbers": numbers}
    return {
        "inputs": inputs,
        "outputs": OUTPUTS,
        "is_output_node": True,
    }


def _inputs(presets: list[str], method_inputs: Sequence[io.Input]) -> list[io.Input]:
    return [*_subject(presets), *method_inputs, *_course(), *_further()]


def _subject(presets: list[str]) -> list[io.Input]:
    """What is learned on which model, from where and how long."""
    return [
        io.Model.Input(
            "model",
            tooltip="The model to learn on; it is only read. A LoRA applied to it before counts as part "
            "of it, and so does an identity where words are learned.",
        ),
        io.Clip.Input("clip", tooltip="The CLIP that came with the model."),
        io.Vae.Input("vae", tooltip="The VAE that came with the model."),
        Concept.Input("concept", tooltip="What to learn, from Training Subject (from Folder)."),
        io.Combo.Input(
            "preset", options=[AUTOMATIC, *presets], display_name="preset", default=AUTOMATIC,
            tooltip="Where all settings start. automatic fits the model; paper and reference follow the "
            "publication and its code. Change it to reproduce published results.",
        ),
        io.Int.Input(
            "steps", display_name="steps", default=0, min=0, max=100_000,
            tooltip="How long to learn. Raise it when the likeness is weak, "
            "lower it when every picture looks like the examples.",
        ),
    ]  # fmt: skip


def _course() -> list[io.Input]:
    """How the run goes, and what is seen of it."""
    return [
        io.Combo.Input(
            "masked", options=[AS_PRESET, *YES_NO], display_name="train inside masks", default=AS_PRESET,
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
    ]  # fmt: skip


def _further() -> list[io.Input]:
    """What may stay as it is."""
    exact, resolution = side_inputs(
        "resolution", "resolution",
        "Pixels a side of a square picture; others are cut to it, or keep their proportions at its area "
        "where model and method can. automatic takes the model's own. Lower it when memory runs out.",
    )  # fmt: skip
    return [
        exact,
        io.Combo.Input(
            "precision", options=[AUTOMATIC, *PRECISIONS], display_name="precision", default=AUTOMATIC,
            optional=True,
            tooltip="automatic takes bf16 on GPUs that have it, which halves time and memory at little cost, "
            "and fp32 elsewhere. Choose fp32 for exactness.",
        ),
        io.String.Input(
            "more_settings", display_name="more settings", default="", multiline=True, optional=True,
            placeholder="more settings, one per line, such as min_snr_gamma: 5.0",
            tooltip="Any other setting of the method, one per line as name: value, as in the likeness "
            "command's config files. They go before the fields above.",
        ),
        io.Int.Input(
            "stop_by_likeness", display_name="stop by likeness", default=0, min=0, max=100_000, optional=True,
            tooltip="Look at the likeness every so many steps, end when it stands still or prompts are "
            "disobeyed, and keep the best state. 0 learns all steps. Faces are judged by AuraFace from "
            "models/insightface, or by the Miniature's own judge.",
        ),
        io.String.Input(
            "save_as", display_name="save as", default="", placeholder="my-friend", optional=True,
            tooltip="A name to keep it under in models/likeness, without a Save node; friends/ann makes a "
            "subfolder. An earlier file stays: the new one gets a number.",
        ),
        io.Float.Input(
            "checkpoint_minutes", display_name="backup every (minutes)", default=5.0, min=0.0, max=1440.0,
            step=0.5, optional=True,
            tooltip="How often the run is kept on disk, so that after a crash or a restart the same queue "
            "entry goes on from there. 0 keeps it only when you cancel.",
        ),
        io.Combo.Input(
            "prediction", options=[AS_MODEL, *PREDICTED], display_name="model predicts", default=AS_MODEL,
            optional=True,
            tooltip="What the MODEL was made to predict. Change it for a v-prediction checkpoint that does "
            "not say so, whose previews are grey or burnt; ModelSamplingDiscrete before this node says it to "
            "samplers too.",
        ),
        resolution,
    ]  # fmt: skip


def learning_rate(
    moves: str, when: str = "", *, name: str = "learning_rate", title: str = "learning rate"
) -> io.Input:
    """The widget of a rate: `moves` says what each step moves, `when` adds to when to halve it."""
    return io.Float.Input(
        name, display_name=title, default=0.0, min=0.0, max=1.0, step=0.00001, round=False,
        tooltip=f"How far each step moves {moves}. Halve it when the loss "
        f"jumps{when}.",
    )  # fmt: skip


def rank() -> io.Input:
    """The widget of a LoRA's size."""
    return io.Int.Input(
        "rank", display_name="rank", default=0, min=0, max=256,
        tooltip="Size of the LoRA. Raise it for fine detail, lower it for small "
        "files and less overfitting.",
    )  # fmt: skip


def vectors() -> io.Input:
    """The widget of how many words stand for a concept."""
    return io.Int.Input(
        "vectors", display_name="vectors", default=0, min=0, max=32,
        tooltip="How many rows of the text encoder stand for the concept. More hold more of the "
        "likeness, fewer mix better with prompts.",
    )  # fmt: skip


def prior(learned: str) -> io.Input:
    """The widget of learning beside pictures of the class; without them `learned` takes less time."""
    return io.Combo.Input(
        "prior", options=list(YES_NO), display_name="prior preservation",
        default="yes",
        tooltip="Learn beside pictures of the class, so that not everybody ends up with this face. Say no to "
        f"save time when {learned} is for this one subject only.",
    )  # fmt: skip


def numbers_of(method: str, preset: str) -> dict[str, float]:
    """What the widgets of a method's node show for a preset."""
    settings = METHODS[method].preset(preset)
    return {
        widget: sum(getattr(settings, name) for name in names) for widget, names in NUMBERS[method].items()
    }


def preset_for(model: Any, preset: str) -> str:
    """The preset by name: automatic is the one that fits the MODEL."""
    from ..engine.bases.families import FAMILIES
    from ..engine.comfy_bridge.weights import family_of_model

    return FAMILIES[family_of_model(model)].preset if preset == AUTOMATIC else preset


def unless_preset(value: Any, method: str, widget: str, model: Any, preset: str) -> Any:
    """The widget's value, or 0 where the preset has the same: how it divides over phases, the preset says."""
    return 0 if value == numbers_of(method, preset_for(model, preset))[widget] else value


def touched(**widgets: Any) -> dict[str, Any]:
    """The widgets that say something else than the preset, as settings."""
    changed = {name: value for name, value in widgets.items() if value not in (0, AS_PRESET)}
    return {name: YES_NO.get(value, value) for name, value in changed.items()}


def learn(
    node: type[io.ComfyNode], method: str, loaded: tuple[Any, Any, Any], concepts: tuple[ConceptSpec, ...],
    preset: str, changes: Mapping[str, Any], run: Mapping[str, Any],
) -> io.NodeOutput:  # fmt: skip
    """Trains on copies of the graph's models and shows it in the node."""
    from ..engine.comfy_bridge import learned
    from ..engine.comfy_bridge.pictures import image_of
    from ..engine.comfy_bridge.run import GraphObserver, stop_graph, taken
    from ..engine.evaluation.loss_plot import plot_losses
    from ..engine.training.output import unfinished

    if changes.get("masked_loss") is True and not any(map(_has_masks, concepts)):
        raise LikenessError(
            "train inside masks says yes, but no picture has a mask; connect masks to the Training "
            "Subject, or say no"
        )
    observer = GraphObserver(node.hidden.unique_id)
    settings = _settings(method, preset, loaded[0], changes, run.get("more_settings", ""))
    path, key = _train(loaded, observer, method, settings, concepts, run)
    if key and path is not None and learned.is_kept(path):
        return _learned_before(node, observer, path, run.get("save_as", ""))
    missing = learned.keep(key, path) if path is not None and unfinished(path) is None else ""
    if observer.interrupted:
        stop_graph(observer, path, (concepts[0].class_word if concepts else "adapter") or "likeness")
    drawn = [observer.losses, *([observer.likeness] if observer.likeness else [])]
    plot = image_of([plot_losses(curves) for curves in drawn])
    previews = image_of(observer.previews) if observer.previews else plot
    learned.keep_plot(key, plot_losses(observer.losses))
    if missing:
        observer.on_note(missing)
    artifact = taken(path, kept=not missing)
    observer.ended(*observer.scores, *_saved(artifact, run.get("save_as", "")))
    return io.NodeOutput(artifact, previews, plot, ui=_seen(node, observer.previews, plot))


def _learned_before(node: type[io.ComfyNode], observer: Any, path: Path, name: str) -> io.NodeOutput:
    """What an equal run learned, with the curves that were kept beside it."""
    from ..engine.artifact import Artifact
    from ..engine.comfy_bridge import learned
    from ..engine.comfy_bridge.pictures import image_of
    from ..engine.evaluation.loss_plot import plot_losses

    artifact, curves = Artifact.load(path), learned.plot_of(path)
    plot = image_of([plot_losses({}) if curves is None else curves])
    observer.say(" · ".join((learned.said_of(path), *_saved(artifact, name))))
    return io.NodeOutput(artifact, plot, plot, ui=_seen(node, [], plot))


def _saved(artifact: Any, name: str) -> list[str]:
    """Keeps it in models/likeness where a name was given; what to say of it."""
    from ..engine.comfy_bridge.learned import save_as

    return [f"saved as {save_as(artifact, name)}"] if name and name.strip() else []


def side_of_run(run: Mapping[str, Any]) -> int | None:
    """Pixels a side to learn at; None: the model's own."""
    return side_of(run.get("resolution", 0), run.get("picture_size", AUTOMATIC))


def _has_masks(spec: ConceptSpec) -> bool:
    from ..engine.data.at_hand import keep_at_hand, read_at_hand

    keep_at_hand(spec, concept := read_at_hand(spec))
    return any(picture.mask is not None for picture in concept.pictures)


def _seen(node: type[io.ComfyNode], previews: Sequence[Any], plot: Any) -> dict[str, Any]:
    """What the node shows after the run: a few of the previews, the last among them, and the curves."""
    from ..engine.comfy_bridge.pictures import image_of

    count = min(SHOWN, len(previews))
    picked = [len(previews) * (number + 1) // count - 1 for number in range(count)]
    parts = [image_of([previews[number] for number in picked])] if picked else []
    files = [file for part in (*parts, plot) for file in ui.PreviewImage(part, cls=node).values]
    return {"images": files, "animated": (False,)}


def _settings(method: str, preset: str, model: Any, changes: Mapping[str, Any], more: str) -> Any:
    """The preset, changed by the widgets, then by the text field."""
    preset = preset_for(model, preset)
    typed = from_yaml(more, "'more settings'") or {}
    if not isinstance(typed, dict):
        raise LikenessError("'more settings' must hold lines such as min_snr_gamma: 5.0")
    typed = {name: value for name, value in typed.items() if name not in JOB_LINES}
    typed = gathered(typed)
    typed.pop("recipe", None)
    kind = METHODS[method]
    _check_no_files(kind, typed)
    return read(kind, {**asdict(kind.preset(preset)), **changes, **typed}, "more settings")


def _recipe(more: str) -> Recipe:
    """What the text field says of how to step: `optimizer: lion`."""
    typed = from_yaml(more, "'more settings'") or {}
    return convert(gathered(typed).get("recipe", {}), Recipe, "more settings")


def _of_job(more: str) -> dict[str, Any]:
    """The lines of the text field that are settings of the run, whatever the method."""
    typed = from_yaml(more, "'more settings'") or {}
    kinds = get_type_hints(Job)
    return {
        name: convert(typed[name], kinds[name], f"more settings.{name}")
        for name in JOB_LINES
        if name in typed
    }


def _check_no_files(kind: type, typed: Mapping[Any, Any]) -> None:
    """Refuses typed settings that name files: whoever shares a workflow would choose what is opened here."""
    for name, words in getattr(kind, "FILES", {}).items():
        if name in typed and typed[name] not in words:
            other = f"; it may say {', '.join(words)}" if words else ""
            raise LikenessError(
                f"'more settings' says {name}, which names files: a workflow cannot, only the node's own "
                f"inputs and `likeness train` can; remove that line{other}"
            )


def _train(
    loaded: tuple[Any, Any, Any], observer: Any, method: str, settings: Any,
    concepts: tuple[ConceptSpec, ...], run: Mapping[str, Any],
) -> tuple[Path | None, str]:  # fmt: skip
    """Writes the artifact and returns its path, and what names the run among those that were learned.

    No path where it was stopped before the first step; an earlier run's where it was equal.
    """
    from ..engine.bases.base import named
    from ..engine.bases.loaders.graph import base_from_graph
    from ..engine.comfy_bridge import learned
    from ..engine.comfy_bridge import run as graph
    from ..engine.comfy_bridge.folders import kept_folder
    from ..engine.comfy_bridge.identity import people_in
    from ..engine.comfy_bridge.weights import name_of_model, take_weights
    from ..engine.data.at_hand import take_at_hand
    from ..engine.data.concepts import usable_side
    from ..engine.identity.conditioning import digest_of
    from ..engine.training.checkpoint import Origin, sweep_runs
    from ..engine.training.host import check_people
    from ..engine.training.launch import Stopped, train

    runs, cache = kept_folder("runs"), kept_folder("class pictures")
    for folder in (runs, cache):
        sweep_runs(folder)
    job = Job(
        method=method, base=BaseSpec(kind="graph"), concepts=concepts, settings=settings, seed=run["seed"],
        recipe=_recipe(run.get("more_settings", "")),
        preview_every=run["preview_every"], preview_prompt=run.get("preview_prompt") or None,
        resolution=side_of_run(run), precision=graph.precision(run.get("precision", "fp32")),
        checkpoint_minutes=run.get("checkpoint_minutes", 5.0), device=graph.device(), cache=str(cache),
        resume=True, output=str(graph.run_file()), **_of_job(run.get("more_settings", "")),
    )  # fmt: skip
    people = people_in(loaded[0])
    check_people(job, people)  # also where an equal run is loaded
    graph.warn_of_left_out(loaded[0], observer)
    with graph.training_allowed():
        said = PREDICTED.get(run.get("prediction", AS_MODEL))
        base = named(base_from_graph(take_weights(*loaded, prediction=said)), name_of_model(loaded[0]))
        read = [take_at_hand(concept, usable_side(job, base.resolution)) for concept in concepts]
        look_every = run.get("stop_by_likeness", 0)
        shown = digest_of(people) if people else ""
        files = Origin.of(job, pictures="", weights="").files
        key = learned.key_of(job, read, base.identity, shown, look_every, files)
        if (before := learned.find_learned(key)) is not None:
            return before, key
        critic = _critic(job, base, observer, look_every, read)
        handed = iter(read)
        del read  # `train` takes them over, and keeps no more of them than it needs
        try:
            return train(job, observer, base, critic, people, handed, runs), key
        except Stopped:
            return None, key


def _critic(job: Job, base: Any, observer: Any, every: int, read: Sequence[Any]) -> Any:
    """Who looks at the likeness meanwhile and shows its curve in the node; None where nobody asked."""
    if not every:
        return None
    from ..engine.comfy_bridge.folders import packs_folder
    from ..engine.comfy_bridge.grid import helpers_folder
    from ..engine.evaluation.loss_plot import plot_losses
    from ..engine.evaluation.stopping import Patience, critic_for, curves, look_in_words

    def show(looks: Any) -> None:
        best = Patience().best(looks)
        observer.likeness = curves(looks)
        observer.scores = [f"likeness {best.identity:.2f} at step {best.step}, which is kept"]
        observer.on_curve(plot_losses(observer.likeness), look_in_words(looks))

    return critic_for(
        job, every, packs=packs_folder(), models=helpers_folder(), miniature=base.traits.own_world,
        concept=read[0] if read else None, on_look=show,
    )  # fmt: skip
