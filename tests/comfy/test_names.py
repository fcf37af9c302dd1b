"""Names typed into nodes are the same on every system, or refused."""

from typing import Any

import pytest

from likeness_portraits.tests.comfy.hosts import Server

pytestmark = pytest.mark.comfy

PERSON = {"class_type": "LikenessMiniature", "inputs": {"person": 0, "pictures": 1}}
SUBJECT = {"images": ["person", 3], "class_word": "woman", "token": "<v0>", "role": "subject"}


def saved_as(kind: str, name: str) -> dict[str, Any]:
    """A prompt that learns a word in one step and writes it under a name."""
    learned = {
        "model": ["person", 0], "clip": ["person", 1], "vae": ["person", 2], "concept": ["concept", 0],
        "preset": "automatic", "steps": 1, "vectors": 1, "learning_rate": 0.0, "masked": "as the preset says",
        "seed": 0, "preview_every": 0, "preview_prompt": "",
    }  # fmt: skip
    return {
        "person": PERSON, "concept": {"class_type": "LikenessConcept", "inputs": SUBJECT},
        "learned": {"class_type": "LikenessTrainTextualInversion", "inputs": learned},
        "end": {"class_type": kind, "inputs": {"likeness": ["learned", 0], "name": name}},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["LikenessSave", "LikenessExport"])
@pytest.mark.parametrize(
    "name", ["con", "a:b", "..\\..\\x", "../x", "a\0b", "a" * 300, "friends/nul", "anna\u202e"]
)
def test_a_name_that_some_system_does_not_take_is_refused_in_the_node(
    server: Server, kind: str, name: str, first_checkout_only
):
    status = server.wait(server.queue(saved_as(kind, name)))["status"]
    assert status["status_str"] == "error"
    (told,) = (content for word, content in status["messages"] if word == "execution_error")
    assert told["exception_type"].endswith("LikenessError")
    assert "cannot be a file's name on every system" in told["exception_message"]
