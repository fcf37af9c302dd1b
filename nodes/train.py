"""Learning a concept: one node per method."""

from typing import Any

from comfy_api.latest import io

from ..engine.config import PRESETS, ConceptSpec, divided
from .learning import (
    AS_PRESET,
    YES_NO,
    learn,
    learning_rate,
    prior,
    rank,
    side_of_run,
    touched,
    training,
    unless_preset,
    vectors,
)
from .types import FACE_PACKS, Concept, Likeness, face_packs, schema

WARM_UP_SHARE = 0.4  # of all steps: 200 of 500, as published
INVERSION_SHARE = 4 / 9  # of all steps: 1200 of 2700, as published
IDENTITY_SHARE = 0.8  # of an identity adapter's steps, as on the Miniature
IDENTITIES = ("auto", "features", "none", *FACE_PACKS)
STAGES = ("both", "identity", "editing")  # of an identity adapter's training
FEATURE_SIZE = 512  # pixels a side that pictures have before a CLIP vision model looks at them


class LikenessTrainTextualInversion(io.ComfyNode):
    """Textual Inversion: new words, no change to the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = (learning_rate("the new words"), vectors())
        return schema(
            node_id="LikenessTrainTextualInversion",
            display_name="Train Embedding (Textual Inversion)",
            description="Learns new words for the concept and leaves the model as it is: files of a few "
            "kilobytes, prompts stay obedient, the likeness is rougher than with a LoRA.",
            **training("textual-inversion", list(PRESETS), *inputs),
        )

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, preset: str, steps: int, learning_rate: float,
        vectors: int, masked: str, **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        changes = touched(steps=steps, learning_rate=learning_rate, vectors=vectors, masked_loss=masked)
        return learn(cls, "textual-inversion", (model, clip, vae), (concept,), preset, changes, run)


class LikenessTrainDreamBoothLora(io.ComfyNode):
    """DreamBooth with LoRA: a small change to the model, kept general by pictures of the class."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = (
            learning_rate("the LoRA", " or pictures turn garish"),
            rank(),
            io.Combo.Input(
                "text_encoder", options=[AS_PRESET, *YES_NO], display_name="text encoder too",
                default=AS_PRESET,
                tooltip="Give the text encoder a LoRA as well: closer likeness, looser prompts.",
            ),
            prior("the LoRA"),
        )  # fmt: skip
        return schema(
            node_id="LikenessTrainDreamBoothLora",
            display_name="Train Person LoRA (DreamBooth)",
            description="Learns a LoRA and a word for the concept, while pictures of its class that the "
            "model draws beforehand keep everybody else as they were. The closest likeness of the basic "
            "methods.",
            **training("dreambooth-lora", [name for name in PRESETS if name != "paper"], *inputs),
        )

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, preset: str, steps: int, learning_rate: float, rank: int,
        text_encoder: str, prior: str, masked: str, **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        changes = touched(
            steps=steps, unet_learning_rate=learning_rate, rank=rank, text_encoder=text_encoder,
            masked_loss=masked,
        )  # fmt: skip
        if prior == "no":
            changes["prior_weight"] = 0.0
        return learn(cls, "dreambooth-lora", (model, clip, vae), (concept,), preset, changes, run)


class LikenessTrainCustomDiffusion(io.ComfyNode):
    """Custom Diffusion: how the model hears the prompt, kept general by pictures of the class."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = (
            learning_rate("how the prompt is heard", " or other words lose their sense"),
            vectors(),
            prior("it"),
        )
        return schema(
            node_id="LikenessTrainCustomDiffusion",
            display_name="Train Attention LoRA (Custom Diffusion)",
            description="Learns words and how the model's attention hears prompts, and nothing else of it: "
            "between Textual Inversion and a LoRA in likeness, and quick to learn.",
            **training("custom-diffusion", [name for name in PRESETS if name != "reference"], *inputs),
        )

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, preset: str, steps: int, learning_rate: float,
        vectors: int, prior: str, masked: str, **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        changes = touched(steps=steps, learning_rate=learning_rate, vectors=vectors, masked_loss=masked)
        if prior == "no":
            changes["prior_weight"] = 0.0
        return learn(cls, "custom-diffusion", (model, clip, vae), (concept,), preset, changes, run)


class LikenessTrainPersonaMagic(io.ComfyNode):
    """PersonaMagic: words that follow the noise level, no change to the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = (
            learning_rate("what is learned"),
            vectors(),
            io.ClipVision.Input(
                "clip_vision", display_name="clip vision", optional=True,
                tooltip="Looks at the pictures: CLIP ViT-B/32, or another CLIP vision model. Needed but "
                "on the Miniature, which has its own; or write image_encoder: none below.",
            ),
        )  # fmt: skip
        return schema(
            node_id="LikenessTrainPersonaMagic",
            display_name="Train Staged Embedding (PersonaMagic)",
            description="Learns words that change while a picture emerges from noise, and a direct hint of "
            "the pictures beside them. The model stays as it is, so that it combines with anything. Use "
            "the result with Staged Prompt.",
            **training("personamagic", list(PRESETS), *inputs),
        )

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, preset: str, steps: int, learning_rate: float,
        vectors: int, masked: str, clip_vision=None, **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.staged import features_file
        from ..engine.data.at_hand import keep_at_hand, read_at_hand

        changes = touched(steps=steps, learning_rate=learning_rate, vectors=vectors, masked_loss=masked)
        if clip_vision is not None:
            size = side_of_run(run) or FEATURE_SIZE
            keep_at_hand(concept, seen := read_at_hand(concept))
            changes["image_encoder"] = features_file(clip_vision, seen, size)
        return learn(cls, "personamagic", (model, clip, vae), (concept,), preset, changes, run)


class LikenessTrainMagicTailor(io.ComfyNode):
    """MagicTailor: a subject, and parts of it from other pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = (
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
            learning_rate("what the warm-up trains"),
            learning_rate(
                "what is worst, in the second phase", name="balance_learning_rate", title="balancing rate"
            ),
            rank(),
        )  # fmt: skip
        return schema(
            node_id="LikenessTrainMagicTailor",
            display_name="Train Person + Part (MagicTailor)",
            description="Learns a subject and parts of it from other pictures together, such as this person "
            "with that hair. Write <v0> with <v1> to join them, or either word alone. All pictures need "
            "masks, the subject's without the part.",
            **training("magictailor", list(PRESETS), *inputs, without=("masked",)),
        )

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, component: ConceptSpec, preset: str, steps: int,
        learning_rate: float, balance_learning_rate: float, rank: int, component_2=None, component_3=None,
        **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        steps = unless_preset(steps, "magictailor", "steps", model, preset)
        changes = divided(steps, WARM_UP_SHARE, "warm_up_steps", "balance_steps") | touched(
            warm_up_learning_rate=learning_rate,
            balance_learning_rate=balance_learning_rate,
            rank=rank,
        )
        concepts = tuple(spec for spec in (concept, component, component_2, component_3) if spec is not None)
        joint = f"a photo of {concept.token} with {' and '.join(spec.token for spec in concepts[1:])}"
        run["preview_prompt"] = run["preview_prompt"] or joint
        return learn(cls, "magictailor", (model, clip, vae), concepts, preset, changes, run)


class LikenessTrainMagiCapture(io.ComfyNode):
    """MagiCapture: a person and a style from two sets of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = (
            Concept.Input(
                "style",
                tooltip="Pictures that show the style, from Training Subject: role style, placeholder "
                "<v1>, masks white everywhere but on the faces (or none, then faces are found).",
            ),
            io.Combo.Input(
                "identity", options=list(IDENTITIES), display_name="face model", default="auto",
                tooltip="Who says how alike the faces are: auto takes the Miniature's own recogniser, or "
                "AuraFace from models/insightface. Choose features for pets and things, none to learn "
                "without.",
            ),
            io.Float.Input(
                "identity_weight", display_name="identity weight", default=0.5, min=0.0, max=10.0, step=0.05,
                tooltip="How much alike faces count. Raise it when the style is "
                "there and the person is not, lower it when faces look pasted in.",
            ),
            io.Combo.Input(
                "composed", options=[AS_PRESET, *YES_NO], display_name="learn them together",
                default=AS_PRESET,
                tooltip="Practise prompts with both words on the style's pictures. Say no to see what it is "
                "good for.",
            ),
            learning_rate("the LoRA", " or pictures turn garish", name="unet_learning_rate"),
            rank(),
        )  # fmt: skip
        return schema(
            node_id="LikenessTrainMagiCapture",
            display_name="Train Person + Style (MagiCapture)",
            description="Learns a person from one set of pictures and a style from another, and to join "
            "them: write <v0> for the person, <v1> for the style. First the words alone are learned, then a "
            "LoRA with them.",
            **training("magicapture", list(PRESETS), *inputs, without=("masked",)),
        )

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, style: ConceptSpec, preset: str, steps: int,
        identity: str, identity_weight: float, composed: str, unet_learning_rate: float, rank: int,
        **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        steps = unless_preset(steps, "magicapture", "steps", model, preset)
        changes = divided(steps, INVERSION_SHARE, "inversion_steps", "tuning_steps") | touched(
            identity_weight=identity_weight,
            composed=composed,
            unet_learning_rate=unet_learning_rate,
            rank=rank,
        )
        changes["identity"] = identity
        run["preview_prompt"] = run["preview_prompt"] or f"a {style.token} of {concept.token}"
        return learn(cls, "magicapture", (model, clip, vae), (concept, style), preset, changes, run)


class LikenessTrainMasterWeaver(io.ComfyNode):
    """MasterWeaver: an identity adapter, from pictures of many people."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = (
            io.String.Input(
                "folder", display_name="folder", default="", placeholder="/pictures/many-people",
                tooltip="Where people are learned from: shards, or photographs of many people (name.txt "
                "beside name.jpg is its caption). On the Miniature, leave it empty to learn from people of "
                "its world.",
            ),
            io.Int.Input(
                "people", display_name="people", default=256, min=2, max=100_000,
                tooltip="How many people of the Miniature's world are drawn where no folder is named. More "
                "people make strangers look more like themselves.",
            ),
            io.Combo.Input(
                "stage", options=list(STAGES), display_name="stage", default="both",
                tooltip="First identity, then editing: that prompts are obeyed. Choose one to train a stage "
                "by itself; editing goes on from an adapter.",
            ),
            learning_rate("the adapter", " or faces fall apart"),
            io.Int.Input(
                "batch_size", display_name="pictures per step", default=0, min=0, max=4096,
                tooltip="Pictures that a step learns from. Lower it when memory runs out; more than one is "
                "needed, for people are compared with each other.",
            ),
            Likeness.Input(
                "adapter", display_name="adapter", optional=True,
                tooltip="An identity adapter to go on from, from Load Likeness. Unconnected: a new one.",
            ),
            io.ClipVision.Input(
                "clip_vision", display_name="clip vision", optional=True,
                tooltip="The image tower that looks at faces, from Load CLIP Vision: CLIP ViT-L/14, and the "
                "same again when the adapter is used. The Miniature has its own.",
            ),
            io.Combo.Input(
                "pack", options=face_packs(), display_name="face model",
                default="auraface", optional=True,
                tooltip="Which insightface models find faces in photographs: auraface may be used for "
                "anything, the others for non-commercial research. Shards and the Miniature need none.",
            ),
        )  # fmt: skip
        without = ("concept", "masked", "preview_prompt", "stop_by_likeness")
        return schema(
            node_id="LikenessTrainMasterWeaver",
            display_name="Train Face Adapter (MasterWeaver)",
            description="Learns from pictures of many people how to draw anybody from one picture. What it "
            "gives goes into Face Identity from Images. Trained in earnest it wants GPUs and days; the "
            "Miniature shows in minutes how it goes.",
            **training("masterweaver", list(PRESETS), *inputs, without=without),
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **_: Any) -> str:
        from ..engine.comfy_bridge.folders import input_folder
        from ..engine.files import state_of

        return state_of(input_folder(folder)) if folder and folder.strip() else ""

    @classmethod
    def execute(
        cls, model, clip, vae, preset: str, steps: int, folder: str, people: int, stage: str,
        learning_rate: float, batch_size: int, adapter=None, clip_vision=None, pack: str = "auraface",
        **run: Any,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.adapter_training import check_stage, files_for

        check_stage(stage, steps, adapter)
        steps = unless_preset(steps, "masterweaver", "steps", model, preset)
        learning_rate = unless_preset(learning_rate, "masterweaver", "learning_rate", model, preset)
        rate = "editing_learning_rate" if stage == "editing" else "identity_learning_rate"
        changes = touched(batch_size=batch_size, **{rate: learning_rate}, **steps_of(stage, steps))
        changes |= {f"{other}_steps": 0 for other in STAGES[1:] if stage not in ("both", other)}
        changes |= files_for(model, folder, people, pack, adapter, clip_vision)
        return learn(cls, "masterweaver", (model, clip, vae), (), preset, changes, run)


def steps_of(stage: str, steps: int) -> dict[str, int]:
    """How many steps each stage gets; of both, four in five are identity's, one at least is editing's."""
    if stage != "both":
        return {f"{stage}_steps": steps}
    identity = min(round(steps * IDENTITY_SHARE), max(steps - 1, 0))
    return {"identity_steps": identity, "editing_steps": steps - identity}
