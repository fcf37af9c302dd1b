"""Judges from folders: tiny random CLIP and DINOv2 made here, and what is said where weights are missing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.data.faces import Face
from likeness_portraits.engine.data.helpers import CLIP_MODEL, DINOV2
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.backends import (
    InsightFaces,
    MiniatureBackend,
    load_clip,
    load_dino,
    load_face_judge,
    normalised,
    there,
)
from likeness_portraits.engine.evaluation.metrics import unit
from likeness_portraits.engine.evaluation.people import asked_in, render_person
from likeness_portraits.engine.miniature import model as miniature
from likeness_portraits.engine.miniature import world

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 255, shape, dtype=np.uint8) for shape in ((40, 40, 3), (30, 50, 3), (64, 48, 3))]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPTextConfig,
        CLIPVisionConfig,
        Dinov2Config,
        Dinov2Model,
    )

    folder, tokenizer = tmp_path_factory.mktemp("models"), miniature.tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
        config = CLIPConfig(
            text_config=CLIPTextConfig(vocab_size=len(tokenizer), **ends, **small).to_dict(),
            vision_config=CLIPVisionConfig(image_size=32, patch_size=8, **small).to_dict(),
            projection_dim=12,
        )
        CLIPModel(config).save_pretrained(folder / "clip")
        dino = Dinov2Config(image_size=224, patch_size=56, hidden_size=16, num_hidden_layers=2,
                            num_attention_heads=2)  # fmt: skip
        Dinov2Model(dino).save_pretrained(folder / "dinov2")
    tokenizer.save_pretrained(folder / "clip")
    return folder


def test_clip_compares_pictures_with_pictures_and_with_prompts(models: Path):
    clip = load_clip(models)
    seen = clip.look(PICTURES)
    assert seen.shape == (3, 12) and np.allclose(np.linalg.norm(seen, axis=1), 1)
    scores = clip.text(PICTURES, ["a photo of a man", "a photo of a woman", "a sketch"])
    assert scores.shape == (3,) and (np.abs(scores) <= 1).all()
    again = clip.text(PICTURES[:1], ["a photo of a man"])
    assert scores[0] == pytest.approx(again[0], abs=1e-5)  # neither padding nor neighbours count


def test_dino_gives_one_direction_per_picture(models: Path):
    seen = load_dino(models).look(PICTURES)
    assert seen.shape == (3, 16) and np.allclose(np.linalg.norm(seen, axis=1), 1)
    assert not np.allclose(seen[0], seen[1])


def test_pictures_are_cut_to_their_middle_and_normalised():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    middle = normalised([wide], 4, (0.5,) * 3, (0.5,) * 3)
    assert middle.shape == (1, 3, 4, 4) and middle.mean() > 0.9  # all black to all white is -1 to 1
    assert torch.equal(middle[..., 1:3], torch.ones(1, 3, 4, 2))


@pytest.mark.parametrize("load, helper", [(load_clip, CLIP_MODEL), (load_dino, DINOV2)])
def test_missing_weights_are_named_with_source_and_folder(tmp_path: Path, load, helper):
    assert not there(helper, tmp_path)
    with pytest.raises(LikenessError, match=helper.source) as told:
        load(tmp_path)
    assert str(tmp_path / helper.folder) in str(told.value)


def test_a_damaged_folder_is_named(models: Path, tmp_path: Path):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(LikenessError, match="get the files again from https"):
        load_clip(tmp_path)


def test_an_unknown_face_judge_is_answered_with_the_nearest_name(tmp_path: Path):
    with pytest.raises(LikenessError, match="auraface"):
        load_face_judge("aurafase", tmp_path)


def find_red(pixels: np.ndarray) -> list[Face]:
    """Takes red rectangles for faces, the largest first; who it is, is how red."""
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
    if not red.any():
        return []
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    return [Face(box, None, 1.0, unit(np.array([[pixels[red][:, 0].mean(), 100.0]]))[0].astype(np.float32))]


def test_the_largest_face_of_each_picture_speaks_and_none_is_said_to_be_none():
    pictures = [np.zeros((20, 20, 3), np.uint8) for _ in range(3)]
    pictures[0][5:9, 5:9, 0], pictures[2][2:12, 2:12, 0] = 255, 210
    vectors, found = InsightFaces(find_red, "red").faces(pictures)
    assert found.tolist() == [True, False, True] and vectors.shape == (3, 2)
    assert not vectors[1].any() and np.allclose(np.linalg.norm(vectors[[0, 2]], axis=1), 1)
    nobody, there = InsightFaces(find_red, "red").faces(pictures[1:2])
    assert nobody.shape == (1, 1) and not there.any()


@pytest.mark.parametrize("subject", ["<v0>", "a woman"])
def test_what_a_prompt_asks_for_is_read_from_its_words(subject: str):
    for prompt, asked in world.test_prompts(subject):
        assert asked_in(prompt) == asked


def test_the_miniature_reads_its_own_prompts():
    pictures = render_person(world.TUNING_SEEDS[0])
    prompts = [prompt for prompt, _ in world.test_prompts("a man")]
    right = MiniatureBackend().text(list(pictures), prompts)
    wrong = MiniatureBackend().text(list(pictures), prompts[1:] + prompts[:1])
    assert right.mean() > 0.9 > wrong.mean() + 0.2
