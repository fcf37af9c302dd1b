"""The second Miniature's recipe: its latents, its captions as a chat, and all of it with hardly any steps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.miniature import model, second, world
from likeness_portraits.engine.miniature.making import autoencoder, dataset

pytest.importorskip("transformers.models.qwen3")
text16 = pytest.importorskip("likeness_portraits.engine.miniature.making.text16")
transformer16 = pytest.importorskip("likeness_portraits.engine.miniature.making.transformer16")


@pytest.fixture(scope="module")
def listener():
    torch.manual_seed(0)
    return text16.ChatListener()


def test_evened_latents_have_unit_weight_and_mean_the_same_pictures():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**second.second_vae_config()).eval()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        raw = vae.encode(pixels).latent_dist.mode()
        picture = vae.decode(raw).sample
        deviation = raw.std((0, 2, 3))
        evened = autoencoder.evened(vae, raw)
        found = evened.encode(pixels).latent_dist
        assert torch.allclose(evened.decode(found.mode()).sample, picture, atol=1e-4)
    assert found.mode().mean((0, 2, 3)).abs().max() < 1e-3
    assert (found.mode().std((0, 2, 3)) - 1).abs().max() < 1e-3
    torch.testing.assert_close(found.std[0, :, 0, 0], 0.05 / deviation, atol=1e-5, rtol=1e-3)


def test_stored_captions_become_messages_of_a_chat(listener):
    texts = ["a photo of a man", "a sketch of a smiling woman, on a beach"]
    first = torch.tensor(model.tokenizer()(texts, padding="max_length", max_length=77)["input_ids"])
    found = transformer16.chat_tokens(first, listener)
    assert torch.equal(found, listener.tokens_of(texts)) and found.shape == (2, 64)
    assert listener.ends_of(found).flatten().tolist() == [10, 15]


def test_what_stands_behind_a_prompt_changes_nothing_of_it(listener):
    tokens = listener.tokens_of(["a photo of a man", "a photo of a man, on a beach"])
    with torch.no_grad():
        states = listener.states(tokens)
    assert states.shape == (2, 64, 384)
    assert torch.allclose(states[0, :6], states[1, :6], atol=1e-5)
    assert not torch.allclose(states[0, 6], states[1, 6], atol=1e-3)


def test_a_new_transformer_predicts_nothing_and_its_blocks_do_nothing(listener):
    painter = transformer16.FlowTrainer(listener)
    drawn = transformer16.paint_flow(painter, ["a photo of a man"], steps=1)
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(drawn, noise)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_routed_cells_pass_the_blocks_by_and_come_back_to_their_places(
    share: float, listener, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transformer16, "ROUTED_SHARE", share)
    torch.manual_seed(0)
    painter = transformer16.FlowTrainer(listener)
    for weight in painter.transformer.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    blocks, seen = painter.transformer.single_transformer_blocks, []
    hooks = [blocks[0].register_forward_pre_hook(lambda block, _, given: seen.append(given["hidden_states"]),
                                                 with_kwargs=True),
             blocks[4].register_forward_pre_hook(lambda block, _, given: seen.append(given["hidden_states"]),
                                                 with_kwargs=True)]  # fmt: skip
    given = torch.randn(1, 16, 16, 16), torch.tensor([0.5]), torch.randn(1, 64, 384)
    with torch.no_grad():
        whole = painter.velocity(*given)
        with transformer16.routed(painter.transformer, 256):
            found = painter.velocity(*given)
        for hook in hooks:
            hook.remove()
        assert torch.equal(painter.velocity(*given), whole)  # nothing stays
    passed = (seen[2] == seen[3]).all(-1)[0]  # what left the last routed block as it entered the first
    assert passed[:64].sum() == 0 and passed.sum() == 256 - round(256 * share)
    assert torch.allclose(found, whole, atol=1e-5) == (share == 1)


@pytest.mark.slow
def test_the_recipe_learns_a_flow_and_goes_on_where_it_was(listener, tmp_path: Path):
    data = dataset.prepare_dataset(tmp_path / "train", world.TRAINING_SEEDS[:2])
    latents = torch.randn(len(data), 16, 16, 16, generator=torch.Generator().manual_seed(3))
    weights = transformer16.cell_weights(data, tmp_path / "weights.npy")
    assert weights.shape == (12, 16, 16) and weights.min() == 1 and weights.max() > 2
    said: list[float] = []

    def report(painter) -> float:
        said.append(transformer16.held_out_loss(painter, data, latents))
        return said[-1]

    def make(steps: int):
        return transformer16.make_transformer(
            listener, data, latents, weights, tmp_path, steps, batch=4, report=report
        )

    make(2)
    painter = make(4)
    assert (tmp_path / "transformer16.pt").exists() and len(said) == 2
    assert all(np.isfinite(said)) and any(
        weight.abs().sum() > 0 for weight in painter.transformer.proj_out.parameters()
    )
