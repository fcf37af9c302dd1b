"""Captions by a model in a folder: tiny ones that are made here, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data.captioner import load_captioner
from likeness_portraits.engine.data.concepts import load_concept

WORDS = ["boat", "[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "a", "sea", "describe", "<image>"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "ann"
    folder.mkdir()
    for number, name in enumerate("abc"):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "b.txt").write_text("written by hand")
    return folder


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BLIP of a layer each, whose every word is `boat`."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 128,
            "bos_token_id": 3, "eos_token_id": 4, "sep_token_id": 4, "pad_token_id": 2}  # fmt: skip
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(
        vision_config={**small, "image_size": 32, "patch_size": 16}, text_config={**small, **text},
        projection_dim=16,
    ))  # fmt: skip
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[0] = 100.0
    model.save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)
    return folder


def test_a_caption_is_written_beside_each_picture_that_has_none_and_is_read_in_training(
    pictures: Path, blip: Path, capsys
):
    assert main(["captions", str(pictures), "--captioner", str(blip), "--longest", "3"]) == 0
    told = capsys.readouterr()
    assert told.out.split() == [str(pictures / "a.txt"), str(pictures / "c.txt")]
    assert "2 captions are written; read them over" in told.err
    concept = load_concept(pictures, class_word="woman")
    said = [" ".join(one.captions) for one in concept.pictures]
    assert said == ["boat boat boat", "written by hand", "boat boat boat"]
    assert main(["captions", str(pictures), "--captioner", str(blip), "--overwrite"]) == 0
    assert (pictures / "b.txt").read_text().startswith("boat boat")


def test_a_model_that_chats_is_asked_and_its_answer_alone_is_the_caption(tmp_path: Path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]",
                                        extra_special_tokens={"image_token": "<image>"})  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    picture = WORDS.index("<image>")
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=16, projection_dim=16),
        text_config=LlamaConfig(**small, vocab_size=len(WORDS), num_key_value_heads=2),
        image_token_index=picture, image_token_id=picture, vision_feature_layer=-1,
    ))  # fmt: skip
    with torch.no_grad():  # all words are as likely: the first is said
        model.get_decoder().norm.weight.zero_()
    model.save_pretrained(tmp_path)
    template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{{ '<image> ' if c['type'] == 'image' else c['text'] + ' ' }}{% endfor %}{% endfor %}"
    )
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip
    processor.save_pretrained(tmp_path)
    captioner = load_captioner(tmp_path, prompt="describe a sea", longest=4)
    assert captioner._text.split() == ["<image>", "describe", "a", "sea"]
    assert captioner(np.zeros((40, 30, 3), np.uint8)) == "boat boat boat boat"


def test_what_is_no_model_here_is_refused_with_what_to_put_where(
    pictures: Path, blip: Path, tmp_path: Path, capsys
):
    def refused(captioner: object) -> str:
        assert main(["captions", str(pictures), "--captioner", str(captioner)]) == 2
        return capsys.readouterr().err

    named = refused("Salesforce/blip-image-captioning-base")
    assert "is no folder on this machine, and nothing is downloaded; put config.json" in named
    (tmp_path / "empty").mkdir()
    assert "lacks config.json, preprocessor_config.json, model.safetensors" in refused(tmp_path / "empty")
    other = tmp_path / "other"
    other.mkdir()
    for path in blip.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "cannot be read as AutoModelForImageTextToText" in refused(other)
    assert not (pictures / "a.txt").exists()
