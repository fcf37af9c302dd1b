"""The tokenizer: every word of the world is one token, foreign words still pass."""

import numpy as np
import pytest

from likeness_portraits.engine.miniature import model, world
from likeness_portraits.engine.miniature.making import vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return model.tokenizer()


def test_every_word_of_the_world_is_one_token(tokenizer):
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in vocabulary.world_words())


def test_no_caption_is_cut_off(tokenizer):
    for seed in range(200):
        text = world.caption(world.sample_identity(seed), world.sample_context(seed))
        assert len(tokenizer(text)["input_ids"]) < model.MAX_TOKENS


def test_a_foreign_word_is_spelt_out_and_comes_back(tokenizer):
    ids = tokenizer("a photo of zürich")["input_ids"]
    assert len(ids) > 8 and tokenizer.decode(ids, skip_special_tokens=True) == "a photo of zürich"


def test_the_end_token_is_last_and_pads(tokenizer):
    assert tokenizer.eos_token_id == len(tokenizer) - 1 == tokenizer.pad_token_id


def test_the_shipped_vocabulary_is_the_one_that_the_recipe_makes(tmp_path):
    vocabulary.write_tokenizer(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (model.tokenizer_folder() / name).read_text(
            encoding="utf-8"
        )


def test_byte_pairs_join_a_word_left_to_right():
    words, merges = vocabulary.byte_pairs(["hat"])
    assert merges == [("h", "a"), ("ha", "t</w>")]
    assert words[-3:] == ["hat</w>", "<|startoftext|>", "<|endoftext|>"]


def test_mentioned_reads_captions_rightly():
    from likeness_portraits.engine.miniature.making.text import mentioned

    stated = mentioned("a photo of a sad woman with pink hair, wearing a top hat, in space")
    found = {name for name, says in stated.items() if says}
    assert found == {"style", "expression", "gender", "hair_colour", "hat", "scene"}
    everything = world.caption(world.sample_identity(0), world.sample_context(0), np.random.default_rng(1))
    assert mentioned(everything)["style"]
