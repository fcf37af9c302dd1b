"""What can be known before a run is said before it, at the widget where it was typed."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from likeness_portraits.tests.comfy.graphs import node
from likeness_portraits.tests.comfy.hosts import Server

pytestmark = pytest.mark.comfy


def refused(server: Server, prompt: dict[str, Any]) -> dict[str, list[str]]:
    """What the server says about the nodes of a prompt that it does not take; nothing where it takes it."""
    told = json.dumps({"prompt": prompt}).encode()
    request = urllib.request.Request(f"{server.url}/prompt", told, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            server.wait(json.loads(answer.read())["prompt_id"], 60)
            return {}
    except urllib.error.HTTPError as error:
        said = json.loads(error.read())["node_errors"]
        return {name: [one["details"] for one in entry["errors"]] for name, entry in said.items()}


def folder(name: str) -> dict[str, Any]:
    read = node("LikenessConceptFolder", folder=name, class_word="woman", token="<v0>", role="subject")
    return {"read": read, "show": node("PreviewAny", source=["read", 1])}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("no-such-folder", "no-such-folder does not exist; check its name"),
        ('"no such folder"', "no such folder does not exist"),  # Windows' Copy as path
        ('"C:\\photos\\anna"', "is a folder of Windows, and this ComfyUI does not run there"),
        ("D:/photos/anna", "is a folder of Windows, and this ComfyUI does not run there"),
        ("\\\\server\\photos", "lies on another machine, which a workflow may not call"),
        ("  ", "no folder is named; type the folder that holds the pictures"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_there_is_said_before_the_run(server: Server, typed: str, said: str):
    (details,) = refused(server, folder(typed))["read"]
    assert said in details and '"' not in details.split(" does not exist")[0]


def test_a_folder_is_found_with_quotes_around_it(server: Server):
    (server.base / "input" / "my friend").mkdir(exist_ok=True)
    for typed in ("my friend", '"my friend"', f"'{server.base}/input/my friend'", "“my friend”"):
        assert refused(server, folder(typed)) == {}, typed


def test_a_subject_without_a_class_word_is_said_before_the_run(server: Server):
    base = {"base": node("LikenessMiniature", person=0, pictures=1)}
    subject = node("LikenessConcept", images=["base", 3], class_word=" ", token="<v0>", role="subject")
    prompt = base | {"subject": subject, "show": node("PreviewAny", source=["subject", 0])}
    (details,) = refused(server, prompt)["subject"]
    assert "there is no class word; write what the pictures show" in details
    subject["inputs"]["class_word"] = "woman"
    assert refused(server, prompt) == {}
