"""FLUX.2 Klein: loaded from folders and files, learned on and drawn with; tiny random weights."""

from pathlib import Path

import pytest
import torch

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.config import METHODS, BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.engine import tiny_flux2
from likeness_portraits.tests.engine.tiny import tiny_job, write_person
from likeness_portraits.tests.engine.training import test_methods

pytest.importorskip("diffusers", "0.36")
CONTRACT = (
    test_methods.test_frozen_base_is_bit_identical_after_training,
    test_methods.test_only_declared_parameters_move,
    test_methods.test_the_saved_artifact_draws_what_the_method_drew,
    test_methods.test_cancelling_saves_and_resuming_equals_an_uninterrupted_run_bit_for_bit,
)


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder."""
    return tiny_flux2.write_folder(tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="module")
def base(klein: Path) -> BaseModel:
    return load_base(BaseSpec.parse(str(klein)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_person(tmp_path / "person")
    return tmp_path


# ----------------------------------------------------------------------------------------------------- folder


def test_a_folder_gives_what_its_pipeline_reads_and_sees(base: BaseModel):
    """diffusers' Flux2KleinPipeline on the same weights: text states, latents, one step's velocity."""
    from diffusers import Flux2KleinPipeline as Pipeline

    assert (base.family, base.resolution, base.latent_shape()) == ("flux2", 32, (16, 8, 8))
    parts, tokenizer = tiny_flux2.tiny_parts(), base.tokenizers["qwen3_4b"]
    tokenizer.chat_template = (  # as Qwen3's own comes out for one message without thinking
        "{% for m in messages %}{{'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'}}{% endfor %}"
        "{{'<|im_start|>assistant\n<think>\n\n</think>\n\n'}}"
    )
    prompts = ["a photo of a man, (smiling)", ""]
    with torch.no_grad():
        theirs = Pipeline._get_qwen3_prompt_embeds(
            parts["text_encoder"].eval(), tokenizer, prompts, hidden_states_layers=base.text.taps
        )
        context = base.encode_text(prompts)
        torch.testing.assert_close(context.states, theirs, atol=1e-5, rtol=1e-5)
        pixels, vae = torch.rand(2, 3, 32, 32) * 2 - 1, parts["vae"].eval()
        packed = Pipeline._patchify_latents(vae.encode(pixels).latent_dist.mean)
        spread = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        latents = (packed - vae.bn.running_mean.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1)
        torch.testing.assert_close(base.encode_pixels(pixels), latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            base.decode(latents), vae.decode(Pipeline._unpatchify_latents(packed)).sample.clamp(-1, 1),
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip
        velocity = parts["transformer"](
            Pipeline._pack_latents(latents), theirs, torch.tensor([0.3, 0.9]),
            Pipeline._prepare_latent_ids(latents)[0], Pipeline._prepare_text_ids(theirs)[0],
            return_dict=False,
        )[0]  # fmt: skip
        ours = base.predict(latents, torch.tensor([0.3, 0.9]), context)
    torch.testing.assert_close(Pipeline._pack_latents(ours), velocity, atol=1e-5, rtol=1e-5)


def test_placeholders_take_their_vectors_places_and_what_follows_is_read_as_comfyui_does(base: BaseModel):
    rows = {"<v0>": {"qwen3_4b": torch.randn(2, tiny_flux2.WIDTH)}}
    tokens = base.tokenize(["a <v0>,  big\nman", "<v0>"], rows)
    read = base.tokenizers["qwen3_4b"]
    before = read("<|im_start|>user\na ")["input_ids"]
    behind = read(", big man<|im_end|> <|im_start|>assistant <think> </think>")["input_ids"]
    first, padding = tokens.ids[0].tolist(), 256
    assert first[: len(before) + 2 + len(behind)] == [*before, padding, padding, *behind]
    assert tokens.places[:2] == ((0, len(before), "<v0>", 0), (0, len(before) + 1, "<v0>", 1))
    assert set(first[len(before) + 2 + len(behind) :]) == {padding} and len(first) == 512
    one, other = base.encode_text(["a <v0>", "a man"], rows).states
    assert not torch.equal(one, other)


# ------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__[5:25])
@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth-lora"])
def test_klein_is_learned_on(check, method, base, folder, monkeypatch):
    monkeypatch.setattr(base.text, "length", 96)  # a fifth of the time
    check(method, base, folder)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"textual-inversion", "dreambooth-lora"}))
def test_methods_that_need_what_klein_lacks_are_refused_by_name(method, base, folder):
    with pytest.raises(LikenessError, match=rf"{method} needs .* \(FLUX\.2 Klein 4B\) does not offer"):
        train(tiny_job(method, folder), base=base)
    assert not (folder / "me.safetensors").exists()
