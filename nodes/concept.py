"""Saying what to learn: pictures from the graph, or a folder of them."""

from comfy_api.latest import io, ui

from ..engine.config import ROLES, ConceptSpec
from .types import CATEGORY, Concept

CLASS_WORD_TIP = (
    "What the pictures show, in one or two plain words the model knows: man, woman, dog, vase. Change it "
    "with every new subject."
)
TOKEN_TIP = (
    "The placeholder that will mean this subject in prompts. Give each concept its own when you learn "
    "several: <v0>, <v1> …"
)
ROLE_TIP = (
    "subject for a person or thing, style for a look, component for a part of a subject such as its hair. "
    "Methods that learn several concepts together go by it."
)


class LikenessConcept(io.ComfyNode):
    """A concept from IMAGE and MASK."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessConcept",
            display_name="Describe a Concept",
            category=CATEGORY,
            description="Bundles pictures of one subject with what they show, ready to be learned. Three "
            "to eight varied pictures are enough.",
            inputs=[
                io.Image.Input(
                    "images", display_name="pictures",
                    tooltip="Pictures of the one subject, as a batch. Choose varied poses, light and "
                    "backgrounds.",
                ),
                io.String.Input(
                    "class_word", display_name="class word", default="person",
                    tooltip=CLASS_WORD_TIP,
                ),
                io.String.Input("token", display_name="placeholder", default="<v0>", tooltip=TOKEN_TIP),
                io.Combo.Input(
                    "role", options=list(ROLES), display_name="role", default="subject",
                    tooltip=ROLE_TIP,
                ),
                io.Mask.Input(
                    "masks", display_name="masks", optional=True,
                    tooltip="White where the subject is, one mask per picture and of its size. Connect it "
                    "to keep the backgrounds out of what is learned.",
                ),
            ],
            outputs=[Concept.Output(display_name="concept", tooltip="Connect it to one of the Learn nodes.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, class_word: str, token: str, role: str, masks=None) -> io.NodeOutput:
        from ..engine.comfy_bridge.pictures import advice_on, concept_on_disk

        spec = ConceptSpec(folder="", token=token, class_word=class_word, role=role)
        concept = concept_on_disk(spec, images, masks)
        return io.NodeOutput(concept, ui=ui.PreviewText(advice_on(concept)))


class LikenessConceptFolder(io.ComfyNode):
    """A concept from a folder on disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessConceptFolder",
            display_name="Read a Concept Folder",
            category=CATEGORY,
            description="Reads a folder of pictures with optional masks (masks/<same name>.png) and an "
            "optional concept.json, the same folder the likeness command takes.",
            inputs=[
                io.String.Input(
                    "folder", display_name="folder", default="", placeholder="/pictures/my-friend",
                    tooltip="The folder that holds the pictures, on the machine that runs ComfyUI. A "
                    "relative path is looked up in ComfyUI's input folder.",
                ),
                io.String.Input(
                    "class_word", display_name="class word", default="",
                    tooltip=CLASS_WORD_TIP + " Leave it empty to take it from concept.json.",
                ),
                io.String.Input("token", display_name="placeholder", default="<v0>", tooltip=TOKEN_TIP),
                io.Combo.Input(
                    "role", options=["as concept.json says", *ROLES], display_name="role",
                    default="as concept.json says", tooltip=ROLE_TIP,
                ),
            ],
            outputs=[
                Concept.Output(display_name="concept", tooltip="Connect it to one of the Learn nodes."),
                io.String.Output(display_name="class word", tooltip="What the folder's subject is."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, folder: str, class_word: str, token: str, role: str) -> io.NodeOutput:
        from ..engine.comfy_bridge.folders import input_folder
        from ..engine.comfy_bridge.pictures import advice_on
        from ..engine.data.concepts import load_concept

        path = input_folder(folder)
        wanted = role if role in ROLES else None
        concept = load_concept(path, token=token, class_word=class_word or None, role=wanted)
        spec = ConceptSpec(folder=str(path), token=token, class_word=concept.class_word, role=concept.role)
        return io.NodeOutput(spec, concept.class_word, ui=ui.PreviewText(advice_on(spec)))

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: str) -> str:
        from ..engine.comfy_bridge.folders import input_folder, state_of

        return state_of(input_folder(folder))
