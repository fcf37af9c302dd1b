"""Files of any trainer, measured by what is drawn with them and without; what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import load_base
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import BaseSpec, Job
from likeness_portraits.engine.data.concepts import write_concept
from likeness_portraits.engine.evaluation import drawn_grid
from likeness_portraits.engine.evaluation.backends import MiniatureBackend
from likeness_portraits.engine.evaluation.intervals import mean_interval
from likeness_portraits.engine.evaluation.judged_file import Judging, _row, _scores
from likeness_portraits.engine.evaluation.measure import measure
from likeness_portraits.engine.evaluation.metrics import copying
from likeness_portraits.engine.evaluation.people import concept_of, render_person
from likeness_portraits.engine.miniature import model, world
from likeness_portraits.engine.training.launch import train

PERSON, STRANGER = world.TUNING_SEEDS[0], world.TUNING_SEEDS[5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's pictures, and an A1111 embedding that is the base's own row of their class word."""
    folder = tmp_path_factory.mktemp("judged")
    concept = concept_of(PERSON)
    write_concept(folder / "person", concept)
    word = model.tokenizer()(concept.class_word, add_special_tokens=False)["input_ids"]
    base = load_base(BaseSpec())
    table = next(iter(base.text_encoders.values())).get_input_embeddings().weight
    save_file({"emb_params": table[word].detach().clone()}, folder / "anna.safetensors")
    return folder


def measured(folder: Path, capsys, *more: str) -> str:
    command = ["measure", str(folder / "anna.safetensors"), "-r", str(folder / "person"), "--steps", "2"]
    assert main([*command, "--prompt", "a photo of {}", *more]) == 0
    return capsys.readouterr().out


def test_an_embedding_of_the_class_word_itself_differs_from_the_base_in_nothing(folder: Path, capsys):
    """Drawn with `a <anna>` and `a man` from the same noise, the pictures are the same."""
    told = json.loads(measured(folder, capsys, "--trigger", "a <anna>", "--hold-out", "1", "--json"))
    assert (told["judge"], told["pictures"], told["subject"]) == ("miniature", 2, "a <anna>")
    rows = {row["score"]: row for row in told["rows"]}
    assert list(rows)[0] == "identity" and {"prompt", "diversity", "leakage"} <= rows.keys()
    for row in rows.values():
        assert row["file"] == row["base"]
        assert row["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert rows["diversity"]["file"]["mean"] > 0


def test_scores_tell_the_person_from_a_stranger_and_a_copy_from_a_picture():
    judge = MiniatureBackend()
    learned, detected = judge.faces([picture.pixels for picture in concept_of(PERSON).pictures])
    assert detected.all()
    known, learned = learned[:1], learned[1:]
    real = np.concatenate([learned, known])
    copy = concept_of(PERSON).pictures[1].pixels
    noise = np.random.default_rng(0).integers(0, 255, copy.shape, dtype=np.uint8)
    pictures = [copy, render_person(PERSON)[0], render_person(STRANGER)[0], noise]
    judges = Judging(faces=judge, text=judge, look=judge)
    found = _scores(pictures, ["a photo of a man"] * 4, 2, known, learned, real, judges)
    assert found["identity"][1] > found["identity"][2] + 0.2 and found["identity"][3] == 0
    assert found["copying"][0] == pytest.approx(copying(learned[:1], learned, real)[0], abs=1e-6)
    assert found["copying"][0] > max(found["copying"][1:3]) and np.isnan(found["copying"][3])
    assert found["diversity"].shape == (4,) and found["diversity"][0] == pytest.approx(found["diversity"][1])


def test_an_interval_holds_the_mean_and_grows_narrow_with_pictures():
    few, many = np.array([0.0, 1.0] * 4), np.array([0.0, 1.0] * 200)
    for samples, width in ((few, 0.447), (many, 0.049)):  # t times the spread / sqrt(N)
        mean, low, high = mean_interval(samples)
        assert mean == 0.5 and high - mean == pytest.approx(width, abs=0.001) and mean - low > 0
    row = _row("copying", np.array([0.5, np.nan, 0.3]), np.array([0.1, 0.2, np.nan]))
    assert row is not None
    assert (row.file[0], row.base[0], row.difference) == (0.4, pytest.approx(0.15), (0.4, 0.4, 0.4))
    assert _row("copying", np.full(2, np.nan), np.ones(2)) is None


@pytest.mark.parametrize(
    ("what", "options", "told"),
    [
        ("anna.safetensors", ["--style", "person"], "measured by what it draws; leave --style away"),
        ("person/images", ["--hold-out", "1"], "measured as they are; leave --hold-out away"),
        ("anna.safetensors", ["--prompt", "a photo of a man"], "{} where the subject goes"),
        ("anna.safetensors", ["--hold-out", "4"], "cannot be held out"),
        ("sd.safetensors", [], "draws on SD 1.x; give one with --base"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_would_be_ignored_or_cannot_be_drawn_is_refused(
    what: str, options: list[str], told: str, folder: Path, capsys, monkeypatch
):
    save_file({"emb_params": torch.zeros(1, 768)}, folder / "sd.safetensors")
    monkeypatch.chdir(folder)
    assert main(["measure", what, "-r", "person", "--faces", "miniature", *options]) == 2
    assert told in capsys.readouterr().err


@pytest.fixture(scope="module")
def foreign(folder: Path) -> Path:
    """A LoRA as kohya's trainer names it, of one layer of the Miniature, strong enough to be seen."""
    base = load_base(BaseSpec())
    path = next(name for name, _ in base.network.named_modules() if name.endswith("attn2.to_v"))
    layer, name = base.network.get_submodule(path), f"lora_unet_{path.replace('.', '_')}"
    chance = torch.Generator().manual_seed(0)
    halves = {
        f"{name}.lora_down.weight": torch.randn(4, layer.in_features, generator=chance),
        f"{name}.lora_up.weight": torch.randn(layer.out_features, 4, generator=chance),
        f"{name}.alpha": torch.tensor(4.0),
    }
    save_file(halves, folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


def test_a_grid_compares_foreign_files_at_strengths_with_words_and_the_base(
    folder: Path, foreign: Path, capsys, monkeypatch
):
    drawn = []

    def listening(pictures, *known, **told):
        drawn.append((pictures, told["prompts"]))
        return measure(pictures, *known, **told)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(drawn_grid, "measure", listening)
    command = ["grid", foreign.name, "anna.safetensors", "-r", "person", "--without", "-o", "out"]
    command += ["--strengths", "0,0.5", "--prompt", "a photo of {}", "--seeds", "1", "--steps", "2"]
    assert main([*command, "--trigger", "a man", "--trigger", "a <anna>", "--class-word", "man"]) == 0
    told = capsys.readouterr().out
    assert "grid.html" in told and "grid.png" in told
    ((none, half, words, plain), spoken) = drawn[0]
    assert set(spoken) == {"a photo of a man"} and words.shape == plain.shape
    assert np.array_equal(none, plain) and not np.array_equal(half, plain)  # at 0 it is the base
    page = (folder / "out" / "grid.html").read_text("utf-8")
    for row in ("theirs, strength 0.5", "anna ·", "base alone ·", "theirs.safetensors: "):
        assert row in page
    assert "anna, strength" not in page


def test_a_grid_refuses_files_of_different_bases_and_triggers_that_fit_no_file(
    folder: Path, capsys, monkeypatch
):
    save_file({"emb_params": torch.zeros(1, 768)}, folder / "sd.safetensors")
    monkeypatch.chdir(folder)
    for files, options, said in (
        (["anna.safetensors", "sd.safetensors"], [], "different bases (miniature, sd1)"),
        (["sd.safetensors"], [], "draws on SD 1.x; give one with --base"),
        (["anna.safetensors"], ["--trigger", "a", "--trigger", "b"], "1 files and 2 triggers"),
        (["anna.safetensors"], ["--prompt", "a photo"], "{} where the subject goes"),
        (["anna.safetensors"], ["--strengths", "strong"], "numbers such as"),
    ):
        assert main(["grid", *files, "-r", "person", *options]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(3600)  # two minutes of a processor, which others may share
def test_a_learned_person_is_nearer_to_pictures_not_learned_from_than_the_base(folder: Path, capsys):
    plain = {
        "method": "dreambooth-lora", "concepts": [{"folder": str(folder / "person"), "token": "<anna>"}],
        "output": str(folder / "anna-lora.safetensors"), "hold_out": 1,
    }  # fmt: skip
    file = train(Job.from_json(plain))
    assert Artifact.load(file).kind == "lora"
    assert main(["measure", str(file), "-r", str(folder / "person"), "--hold-out", "1", "--json"]) == 0
    rows = {row["score"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(rows) == {"identity", "copying", "prompt", "diversity", "leakage"}

    # measured once, in this order: .95 and 1.06 more than the base; -.03; 1.0; .18 against .57; .17
    assert rows["identity"]["file"]["mean"] > 0.8 and rows["identity"]["difference"]["low"] > 0.7
    assert rows["copying"]["file"]["mean"] < 0.1  # held out, and no copy
    assert rows["prompt"]["file"]["mean"] > 0.85
    assert rows["diversity"]["difference"]["high"] < 0
    assert rows["leakage"]["difference"]["mean"] < rows["identity"]["difference"]["mean"] / 2
