"""Placeholders under another name: two people saved from two runs meet in one prompt."""

from pathlib import Path

import pytest
import torch

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.engine.commands.concepts import with_strength
from likeness_portraits.engine.config import ConceptSpec
from likeness_portraits.engine.errors import LikenessError

WORDS = {"token.v0.clip_l": torch.ones(1, 768), "token.v1.clip_l": torch.zeros(2, 768)}


def learned(*names: str) -> Artifact:
    tokens = tuple(Token(token=f"<{name}>", class_word="woman", vectors=1 + (name == "v1")) for name in names)
    tensors = {f"token.{name}.clip_l": WORDS[f"token.{name}.clip_l"] for name in names}
    return Artifact(kind="embedding", method="textual-inversion", tensors=tensors, tokens=tokens)


def test_a_renamed_concept_is_the_same_under_another_word(tmp_path: Path):
    renamed = learned("v0", "v1").renamed(["<anna>"])
    assert [token.token for token in renamed.tokens] == ["<anna>", "<v1>"]
    assert set(renamed.tensors) == {"token.anna.clip_l", "token.v1.clip_l"}
    renamed.save(tmp_path / "anna.safetensors")
    again = Artifact.load(tmp_path / "anna.safetensors")
    assert torch.equal(again.rows("<anna>")["clip_l"], WORDS["token.v0.clip_l"])


def test_words_can_change_places():
    swapped = learned("v0", "v1").renamed(["<v1>", "<v0>"])
    assert torch.equal(swapped.rows("<v1>")["clip_l"], WORDS["token.v0.clip_l"])
    assert torch.equal(swapped.rows("<v0>")["clip_l"], WORDS["token.v1.clip_l"])


def test_what_cannot_be_a_name_is_refused():
    with pytest.raises(LikenessError, match="2 placeholders are named, but it has <v0>"):
        learned("v0").renamed(["<a>", "<b>"])
    with pytest.raises(LikenessError, match="give each a name of its own"):
        learned("v0", "v1").renamed(["<v1>"])
    with pytest.raises(LikenessError, match="cannot be a placeholder"):
        learned("v0").renamed(["anna"])


@pytest.mark.parametrize(
    ("behind", "strength", "words"),
    [("", 1.0, "<v0> <v1>"), (":0.8", 0.8, "<v0> <v1>"), (":0.8:<anna>", 0.8, "<anna> <v1>"),
     (":<anna>", 1.0, "<anna> <v1>"), (":1.0:<anna>,<hair>", 1.0, "<anna> <hair>")],
)  # fmt: skip
def test_the_command_line_renames_behind_the_strength(
    tmp_path: Path, behind: str, strength: float, words: str
):
    path = learned("v0", "v1").save(tmp_path / "two.safetensors")
    artifact, factor = with_strength(f"{path}{behind}")
    assert (factor, " ".join(token.token for token in artifact.tokens)) == (strength, words)


def test_what_nodes_pass_on_is_one_line_when_somebody_looks_at_it():
    assert str(learned("v0")) == "embedding <v0>, textual-inversion, sd1, 0 steps"
    spec = ConceptSpec(folder="friends", token="<anna>", class_word="woman", role="subject")
    assert str(spec) == "<anna> woman (subject) from friends"
