"""Every back end runs its real code, on tiny random weights of the right architecture made here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data.helpers import BISENET, CLIPSEG
from likeness_portraits.engine.data.segment import load_segmenter
from likeness_portraits.engine.data.segmenters import clipseg, face_parts, grounded
from likeness_portraits.engine.data.segmenters.base import network_input
from likeness_portraits.engine.data.segmenters.bisenet import BiSeNet
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.tests.engine.data import helpers_made as made
from likeness_portraits.tests.golden.goldens import Golden

WORDS = ["person", "hair", "dog"]


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Not square, with something in it."""
    values = np.random.default_rng(0).integers(0, 255, (6, 4, 3), dtype=np.uint8)
    return values.repeat(15, 0).repeat(20, 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder as people keep it."""
    folder = tmp_path_factory.mktemp("models")
    made.clipseg(folder / "clipseg")
    made.grounding_dino(folder / "grounding_dino", WORDS)
    made.sam2(folder / "sam2")
    made.segformer(folder / "face_parsing", list(face_parts.CELEBA_NAMES)[::-1])
    return folder


def test_clipseg_gives_the_mean_of_nine_phrasings_as_transformers_own_forward_pass_does(models, picture):
    segmenter = clipseg.load(models, side=64)
    found = segmenter(picture, ["face", "hat"])
    assert found.masks.shape == (2, *picture.shape[:2]) and found.masks.dtype == np.float32
    assert 0 < found.masks.min() and found.masks.max() < 1
    tokens = segmenter.tokenizer(
        [phrase.format("hat") for phrase in clipseg.PHRASINGS],
        padding="max_length", max_length=24, truncation=True, return_tensors="pt",
    )  # fmt: skip
    pixels = network_input(picture, (64, 64)).expand(9, -1, -1, -1)
    with torch.no_grad():
        logits = segmenter.model(
            pixel_values=pixels, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).logits
    expected = logits.sigmoid().mean(0)
    assert found.scores[1] == pytest.approx(float(expected.max()), abs=1e-5)
    again = segmenter(picture, ["face", "hat"])
    assert (again.masks == found.masks).all()


def test_words_become_boxes_and_boxes_become_masks(models, picture):
    segmenter = grounded.load(models, short_side=64)
    segmenter.box_threshold = segmenter.text_threshold = 0.0
    seen = segmenter.detect(picture, WORDS)
    assert len(seen.boxes) == len(seen.words) == 12 and set(seen.words) <= set(WORDS)
    assert (seen.boxes >= 0).all() and (seen.boxes <= [80, 90, 80, 90]).all()
    assert len(seen.best) == 3 and max(seen.best) == pytest.approx(float(seen.confidence.max()))
    drawn = segmenter.draw(picture, np.array([[5, 5, 60, 70], [0, 0, 30, 20]], np.float32))
    assert drawn.shape == (2, 90, 80) and set(np.unique(drawn)) <= {0, 1}
    found = segmenter(picture, WORDS)
    assert found.masks.shape == (3, 90, 80)
    segmenter.box_threshold = 2.0
    nothing = segmenter(picture, WORDS)
    assert not nothing.masks.any() and nothing.scores == seen.best and nothing.instead == {}


def test_points_become_masks_and_every_point_counts(models, picture):
    segmenter = load_segmenter("sam2-points", models)
    words = ["0.5:0.4", "0.5:0.4 -0.1:0.9", "0.9:0.9 0.8:0.7"]
    found = segmenter(picture, words)
    assert found.masks.shape == (3, 90, 80) and 0 <= found.masks.min() <= found.masks.max() <= 1
    assert all(0 <= score <= 1 for score in found.scores)
    assert len({mask.tobytes() for mask in found.masks}) == 3
    assert np.array_equal(segmenter(picture, words[:1]).masks[0], found.masks[0])
    for wrong, message in (
        ("head", "'head' is no point; write shares of width and height such as 0.5:0.4"),
        ("0.5:40", "'0.5:40' is no point"),
        ("-0.1:0.9", "no point says what to mark"),
    ):
        with pytest.raises(LikenessError, match=message):
            segmenter(picture, [wrong])


def test_each_word_keeps_its_own_tokens_when_asked_together(models):
    segmenter = grounded.load(models, short_side=64)
    ids, owners = segmenter._question(["Person", "hair dog"])
    assert ids.tolist() == [[101, 110, 1012, 111, 112, 1012, 102]]
    assert owners.tolist() == [-1, 0, -1, 1, 1, -1, -1]
    with pytest.raises(LikenessError, match="a word to look for is empty"):
        segmenter._question(["person", " . "])


def test_the_face_parser_goes_by_the_names_in_the_weights_config(models, picture):
    parser = face_parts.load(models, side=64)
    assert parser.order == tuple(face_parts.CELEBA_NAMES.values())[::-1]
    found = parser(picture, ["face", "hair", "background"])
    everything = parser(picture, list(face_parts.PARSED_PARTS))
    assert everything.masks.sum(0) == pytest.approx(1.0, abs=1e-4), "parts share every pixel"
    numbers = [face_parts.PARSED_PARTS.index(part) for part in face_parts.SETS["face"]]
    assert found.masks[0] == pytest.approx(everything.masks[numbers].sum(0), abs=1e-4)
    assert parser.labels(picture).max() < len(face_parts.PARSED_PARTS)


def test_unknown_label_names_in_weights_are_refused(tmp_path):
    made.segformer(tmp_path / "face_parsing", ["skin", "tail"])
    with pytest.raises(LikenessError, match=r"config\.json names a part 'tail'"):
        face_parts.load(tmp_path)


@pytest.fixture(scope="module")
def bisenet_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return BiSeNet().state_dict()


def test_bisenet_weights_are_read_from_the_public_files_layout(tmp_path, picture, bisenet_weights):
    folder = tmp_path / BISENET.folder
    folder.mkdir()
    extra = {
        "conv_out16.conv.conv.weight": torch.zeros(1),
        "cp.resnet.layer1.0.bn1.num_batches_tracked": None,
    }
    public = {**bisenet_weights, "conv_out16.conv.conv.weight": extra["conv_out16.conv.conv.weight"]}
    torch.save({f"module.{name}": weight for name, weight in public.items()}, folder / "79999_iter.pth")
    parser = face_parts.load(tmp_path, side=64)
    assert parser.order == face_parts.PARSED_PARTS
    assert parser(picture, ["skin"]).masks.shape == (1, 90, 80)


def test_bisenets_names_are_those_of_the_public_weights(bisenet_weights):
    for name, shape in {
        "cp.resnet.conv1.weight": (64, 3, 7, 7),
        "cp.resnet.layer2.0.downsample.1.running_mean": (128,),
        "cp.arm16.conv_atten.weight": (128, 128, 1, 1),
        "cp.arm32.conv.bn.weight": (128,),
        "cp.conv_avg.conv.weight": (128, 512, 1, 1),
        "ffm.convblk.conv.weight": (256, 256, 1, 1),
        "ffm.conv1.weight": (64, 256, 1, 1),
        "conv_out.conv_out.weight": (19, 256, 1, 1),
    }.items():
        assert tuple(bisenet_weights[name].shape) == shape


def test_a_pickle_of_code_is_never_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path(tmp_path / "executed").touch, ())

    (tmp_path / "face_parsing").mkdir()
    torch.save({"weight": Hostile()}, tmp_path / "face_parsing" / "79999_iter.pth")
    with pytest.raises(LikenessError, match=r"79999_iter\.pth holds more than tensors or is damaged"):
        face_parts.load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_label_sets_are_masterweavers_and_earrings_are_never_the_face():
    golden = Golden("masterweaver", "label_keep_sets")
    for use, case in {
        "inference": "inference",
        "type 0": "training_type0",
        "type 1": "training_type1",
    }.items():
        kept = face_parts.MASTERWEAVER_KEEPS[use]
        assert [part in kept for part in face_parts.PARSED_PARTS] == golden[
            f"out.keep_{case}"
        ].bool().tolist()
    assert "earring" not in face_parts.SETS["face"] and "hair" not in face_parts.SETS["face"]
    assert set(face_parts.SETS["face"]) == set(face_parts.PARSED_PARTS[1:14]) - {"earring"}


def test_unknown_parts_are_answered_with_the_nearest():
    with pytest.raises(LikenessError, match="the face parser knows no 'eyebrows'; did you mean 'brows'"):
        face_parts.parts_of("eyebrows")


@pytest.mark.parametrize("name", ["clipseg", "grounded-sam2", "sam2-points", "face-parts"])
def test_missing_weights_are_named_with_source_licence_and_folder(name: str, tmp_path):
    with pytest.raises(
        LikenessError, match=r"missing in .*; get the files from https://\S+ \(.+\) and put them there"
    ):
        load_segmenter(name, tmp_path)


def test_half_of_the_files_is_said_to_be_half(tmp_path):
    (tmp_path / "clipseg").mkdir()
    (tmp_path / "clipseg" / "config.json").write_text("{}")
    (tmp_path / "clipseg" / "model.safetensors").touch()
    (tmp_path / "clipseg" / "vocab.json").touch()
    with pytest.raises(
        LikenessError, match=r"^tokenizer\.json or merges\.txt missing in .*clipseg; .*Apache-2\.0"
    ):
        CLIPSEG.find(tmp_path)


def test_weights_of_another_network_and_damaged_ones_are_refused(models, tmp_path):
    shutil.copytree(models / "clipseg", tmp_path / "clipseg")
    shutil.copy(models / "sam2" / "model.safetensors", tmp_path / "clipseg")
    with pytest.raises(LikenessError, match=r"clipseg lacks \d+ weights of CLIPSeg\w+, such as"):
        clipseg.load(tmp_path)
    (tmp_path / "clipseg" / "model.safetensors").write_bytes(b"half a download")
    with pytest.raises(LikenessError, match=r"clipseg cannot be read as .*; get the files again from https"):
        clipseg.load(tmp_path)
    shutil.copy(models / "clipseg" / "model.safetensors", tmp_path / "clipseg")
    for words in (tmp_path / "clipseg").glob("[tv]o*.json"):
        words.write_text("half a download")
    with pytest.raises(LikenessError, match=r"clipseg cannot be read as CLIPTokenizer .*; get the files"):
        clipseg.load(tmp_path)


def test_likeness_masks_runs_a_back_end_of_a_models_folder(models, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    options = ["--backend", "face-parts", "--subject", "face, hair", "--models", str(models), "--soft"]
    assert main(["masks", str(tmp_path), *options, "--sheet", str(tmp_path / "s" / "sheet.jpg")]) == 0
    assert Image.open(tmp_path / "masks" / "a.png").size == (80, 90)


def test_a_transformers_folder_may_be_given_itself(models):
    assert CLIPSEG.find(models / "clipseg") == models / "clipseg"


def test_asking_whether_pictures_are_of_its_world_leaves_random_numbers_alone():
    """Else what is learned with a seed would depend on what is said before."""
    from likeness_portraits.engine.data.segmenters.miniature import certainty

    state = torch.get_rng_state()
    assert 0 < certainty([np.zeros((64, 64, 3), np.uint8)]) <= 1
    assert torch.equal(torch.get_rng_state(), state)
