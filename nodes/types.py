"""What all nodes share: the sockets of our own, schemas, the names of face packs."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..engine.config import ConceptSpec
from ..engine.config.choices import AUTOMATIC, NOBODY
from ..engine.errors import LikenessError
from .menu import ADVANCED, CATEGORY, MENU

Concept = io.Custom("LIKENESS_CONCEPT")  # engine.config.ConceptSpec: a folder of pictures and what it shows
Likeness = io.Custom("LIKENESS")  # engine.artifact.Artifact
People = io.Custom("LIKENESS_PEOPLE")  # engine.comfy_bridge.people.Gathering
Identity = io.Custom("LIKENESS_IDENTITY")  # engine.identity.conditioning.IdentityTokens

FACE_PACKS = ("auraface", "antelopev2", "buffalo_l")  # insightface's, as engine.data.packs knows them
NO_MODEL = "my mask"  # instead of a pack: somebody marked the face
SIDES = range(128, 2049, 64)  # pixels that a picture's side may have


def schema(*, node_id: str, inputs: Sequence[io.Input], **what: Any) -> io.Schema:
    """A node's schema with its place in the menu, advanced inputs, and search words where the host has them.

    The node knows its own id, to say something.
    """
    where, words = MENU[node_id]
    field_names = {field.name for field in dataclasses.fields(io.Schema)}
    found_by = {"search_aliases": list(words)} if "search_aliases" in field_names else {}
    inputs = [noted(one, advanced=True) if one.id in ADVANCED.get(node_id, ()) else one for one in inputs]
    return io.Schema(
        node_id=node_id,
        inputs=inputs,
        category=f"{CATEGORY}/{where}",
        hidden=[io.Hidden.unique_id],
        **found_by,
        **what,
    )


def noted(one: io.Input, **options: Any) -> io.Input:
    """The input with options more, which the host passes on to the editor and web/.

    `advanced`: newer editors hide it at first.
    """
    marked = copy.copy(one)  # some inputs stand in several nodes
    marked.extra_dict = {**(one.extra_dict or {}), **options}
    return marked


def told(node: type[io.ComfyNode], *values: Any, text: str, **shown: Any) -> io.NodeOutput:
    """The node's values, with a text that stands in it afterwards; `shown` is what else it shows."""
    from ..engine.comfy_bridge.said import say_in_node

    say_in_node(text, node.hidden.unique_id)
    return io.NodeOutput(*values, ui={**shown, "text": (text,)})


def single(values: Sequence[Any], what: str) -> Any:
    """The one value of an input of a node that takes lists; a list of different values is refused."""
    first, *others = values
    comparable = isinstance(first, str | ConceptSpec)  # what can be compared; models are one or not
    if any(other is not first and not (comparable and other == first) for other in others):
        raise LikenessError(f"{what} is a list of different values; connect a single one")
    return first


def face_packs() -> list[str]:
    """The packs that we name, and every other folder of face models under models/insightface/models."""
    from ..engine.comfy_bridge.folders import face_packs_there

    return list(dict.fromkeys((*FACE_PACKS, *face_packs_there())))


def side_inputs(
    older: str, shown: str, tooltip: str, *, optional: bool = True
) -> tuple[io.Input, io.Input]:  # fmt: skip
    """The number of an older workflow, under its id, and the choice that nodes have at their end now.

    Where the number is not 0 it goes first; web/ shows the one of the two that counts. `optional` is the
    number's: required inputs stand before the others.
    """
    return (
        io.Int.Input(
            older, display_name=f"exact {shown}", default=0, min=0, max=2048, step=8,
            optional=optional,
            tooltip=f"Pixels a side, from an older workflow. Set it to 0 to choose the {shown} instead.",
        ),
        io.Combo.Input(
            "picture_size", options=[AUTOMATIC, *map(str, SIDES)], display_name=shown, default=AUTOMATIC,
            optional=True, tooltip=tooltip,
        ),
    )  # fmt: skip


def side_of(older: int, side: str) -> int | None:
    """Pixels a side by the two inputs of `side_inputs`; None: the model's own."""
    return older or (None if side == AUTOMATIC else int(side))


def who_looks() -> io.Input:
    """The widget of who looks at the faces in a concept's pictures."""
    return io.Combo.Input(
        "faces", options=[AUTOMATIC, NOBODY, "miniature", *face_packs()], display_name="face model",
        default=AUTOMATIC, optional=True,
        tooltip="Who looks at the faces and says below when a picture shows several people, somebody else, "
        "or a head that is not upright. automatic takes a face pack where one is in models/insightface. Say "
        "nobody to save the seconds that it takes.",
    )  # fmt: skip
