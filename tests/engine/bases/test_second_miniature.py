"""The second Miniature as a base, on random weights of its shape."""

from pathlib import Path

import pytest
import torch

from likeness_portraits.engine.artifact.flux2_names import for_diffusers, transformer_for_core
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import model, second, world
from likeness_portraits.tests.engine.second import write_weights

pytest.importorskip("transformers.models.qwen3")
SPEC = BaseSpec.parse("miniature-2")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = write_weights(tmp_path_factory.mktemp("weights"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "WEIGHTS", folder)
        return load_base(SPEC)


def test_without_its_weights_it_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(model, "WEIGHTS", tmp_path)
    with pytest.raises(LikenessError, match=r"second Miniature's weights are not .*take the first"):
        load_base(SPEC)


def test_what_names_its_weights_goes_by_the_files_that_are_there(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "second").mkdir()
    for name in ("transformer", "text_encoder"):
        (tmp_path / "second" / f"{name}.safetensors").write_bytes(b"others")
    monkeypatch.setattr(model, "WEIGHTS", tmp_path)
    assert second.second_fingerprint() != base.fingerprint


def test_it_is_a_flux2_of_its_own_sizes_in_the_miniatures_world(base: BaseModel):
    assert (base.family, base.name, base.resolution) == ("miniature-2", "miniature-2", 128)
    assert base.latent_shape() == (16, 16, 16) and base.traits.own_world and base.traits.denoiser == "flux2"
    context = base.encode_text(["a photo of a smiling man, on a beach", ""])
    assert context.states.shape == (2, 64, 3 * 128)
    noisy = torch.randn(2, *base.latent_shape(), generator=torch.Generator().manual_seed(0))
    found = base.predict(noisy, torch.tensor([0.2, 0.9]), context)
    assert found.shape == noisy.shape and found.std() > 0.1
    assert base.decode(noisy).shape == (2, 3, 128, 128)


def test_every_word_of_the_world_is_one_token_and_so_is_every_mark_of_the_chat(base: BaseModel):
    read = second.chat_tokenizer()
    for words in world.ATTRIBUTES.values():
        for word in " ".join(words).split():
            assert len(read(word)["input_ids"]) == 1, word
    tokens = base.tokenize(["A smiling <v0> man"], {"<v0>": {"qwen3_4b": torch.zeros(2, 128)}})
    ids = tokens.ids[0].tolist()
    marks = read.convert_tokens_to_ids(list(second.CHAT_MARKS))
    assert [ids[0], *ids[6:10]] == marks
    assert [place[1] for place in tokens.places] == [3, 4]
    assert read.convert_ids_to_tokens([ids[1], ids[2], ids[5]]) == ["a</w>", "smiling</w>", "man</w>"]


def test_a_prompt_longer_than_it_reads_is_refused(base: BaseModel):
    with pytest.raises(LikenessError, match="reads 64; shorten it"):
        base.encode_text(["a man " * 40])


def test_its_levels_are_moved_towards_noise_by_two(base: BaseModel):
    assert base.process.sigmas(4, "simple").tolist() == pytest.approx([1, 6 / 7, 2 / 3, 0.4, 0])


def test_names_of_core_lead_back_to_the_same_transformer(base: BaseModel):
    state = base.network.state_dict()
    core = transformer_for_core(state)
    assert "double_blocks.1.txt_attn.qkv.weight" in core and "single_blocks.5.linear1.weight" in core
    back = for_diffusers(core)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
