"""Saying what to learn: pictures from the graph, or a folder of them."""

import dataclasses
from collections.abc import Sequence

from comfy_api.latest import io

from ..engine.config import CAPTION_SOURCES, ROLES, ConceptSpec
from ..engine.config.choices import AUTOMATIC
from ..engine.errors import LikenessError
from .types import Concept, schema, single, told, who_looks

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
        return schema(
            node_id="LikenessConcept",
            display_name="Training Subject",
            is_input_list=True,  # core's folder loaders give lists: all of one is one subject
            description="Bundles pictures of one subject with what they show, ready to be learned. Three "
            "to eight varied pictures are enough.",
            inputs=[
                io.Image.Input(
                    "images", display_name="images",
                    tooltip="Pictures of the one subject: a batch, or a list of any sizes such as Load Image "
                    "(from Folder) gives. Choose varied poses, light and backgrounds.",
                ),
                io.String.Input(
                    "class_word", display_name="class word", default="person",
                    tooltip=CLASS_WORD_TIP,
                ),
                io.String.Input("token", display_name="trigger word", default="<v0>", tooltip=TOKEN_TIP),
                io.Combo.Input(
                    "role", options=list(ROLES), display_name="role", default="subject",
                    tooltip=ROLE_TIP,
                ),
                io.Mask.Input(
                    "masks", display_name="masks", optional=True,
                    tooltip="White where the subject is, one mask per picture and of its size. Connect it "
                    "to keep the backgrounds out of what is learned.",
                ),
                io.String.Input(
                    "captions", display_name="captions", optional=True, force_input=True,
                    tooltip="What each picture shows, such as Load Image-Text (from Folder) gives: the "
                    "training prompts. The trigger word is put before each that does not hold it.",
                ),
                who_looks(),
            ],
            outputs=[Concept.Output(display_name="concept", tooltip="Connect it to one of the Train nodes.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, class_word: list[str] | None = None) -> bool | str:
        """Before the run, where it is typed: that somebody says what the pictures show."""
        empty = class_word is not None and not all(str(word).strip() for word in class_word)
        return "there is no class word; write what the pictures show, such as woman" if empty else True

    @classmethod
    def execute(
        cls, images: list, class_word: list[str], token: list[str], role: list[str],
        masks: list | None = None, captions: Sequence[str] = (), faces: Sequence[str] = (AUTOMATIC,),
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.pictures import advice_on, concept_on_disk

        spec = ConceptSpec(
            folder="", token=single(token, "trigger word"), class_word=single(class_word, "class word"),
            role=single(role, "role"),
        )  # fmt: skip
        spec, concept = concept_on_disk(spec, images, masks, captions)
        return told(cls, spec, text=advice_on(concept, single(faces, "face model")))


class LikenessConceptFolder(io.ComfyNode):
    """A concept from a folder on disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessConceptFolder",
            display_name="Training Subject from Folder",
            description="Reads a folder of pictures with optional masks (masks/<same name>.png), captions "
            "(.txt) and an optional concept.json, the same folder the likeness command takes.",
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
                io.String.Input("token", display_name="trigger word", default="<v0>", tooltip=TOKEN_TIP),
                io.Combo.Input(
                    "role", options=["as concept.json says", *ROLES], display_name="role",
                    default="as concept.json says", tooltip=ROLE_TIP,
                ),
                io.Int.Input(
                    "number", display_name="concept number", default=-1, min=-1, max=99, optional=True,
                    tooltip="For a folder whose files are named 0_person_a0.jpg, 1_hair_a0.jpg: the number "
                    "of the concept to read. Leave it at -1 where the folder holds one subject.",
                ),
                who_looks(),
                io.Combo.Input(
                    "captions", options=list(CAPTION_SOURCES), display_name="captions", default="files",
                    optional=True,
                    tooltip="What training prompts say of each picture. files reads texts beside the "
                    "pictures, pictures also what their own files say; trigger learns with the trigger word "
                    "alone, none with the method's own sentences.",
                ),
            ],
            outputs=[
                Concept.Output(display_name="concept", tooltip="Connect it to one of the Train nodes."),
                io.String.Output(display_name="class word", tooltip="What the folder's subject is."),
                io.Image.Output(
                    display_name="images", is_output_list=True,
                    tooltip="The pictures, each of its own size: to look at, to crop, to make masks of.",
                ),
                io.Mask.Output(
                    display_name="masks", is_output_list=True,
                    tooltip="Their masks; white all over where a picture has none.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        """Before the run, where the folder is typed: that it is there."""
        from ..engine.comfy_bridge.folders import input_folder

        if folder is None:
            return True
        try:
            place = input_folder(folder)
        except LikenessError as error:
            return str(error)
        return place.is_dir() or f"the folder {place} does not exist; check its name"

    @classmethod
    def execute(
        cls, folder: str, class_word: str, token: str, role: str, number: int = -1, faces: str = AUTOMATIC,
        captions: str = CAPTION_SOURCES[0],
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.folders import input_folder
        from ..engine.comfy_bridge.pictures import advice_on, pictures_and_masks_of
        from ..engine.data.at_hand import keep_at_hand
        from ..engine.data.concepts import one_of_folder

        requested = ConceptSpec(
            folder=str(input_folder(folder)), token=token, class_word=class_word or None,
            role=role if role in ROLES else None, asset=None if number < 0 else number,
            captions=captions,
        )  # fmt: skip
        concept = one_of_folder(requested)
        spec = dataclasses.replace(requested, class_word=concept.class_word, role=concept.role)
        keep_at_hand(spec, concept)
        shown = pictures_and_masks_of(concept)
        return told(cls, spec, concept.class_word, *shown, text=advice_on(concept, faces))

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: str) -> str:
        from ..engine.comfy_bridge.folders import input_folder
        from ..engine.files import state_of

        return state_of(input_folder(folder))
