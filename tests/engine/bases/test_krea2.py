"""Krea 2: loaded from folders and files, learned on and drawn with; tiny random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.artifact.card import full_card
from likeness_portraits.engine.artifact.krea2_lora import is_krea2_lora, krea2_to_peft
from likeness_portraits.engine.artifact.krea2_names import krea2_for_diffusers
from likeness_portraits.engine.artifact.other_tools import export_stock, import_file
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.denoisers.seam import using
from likeness_portraits.engine.bases.families import distilled_by_name
from likeness_portraits.engine.bases.process.schedules import OWN
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.inference.refocus import Focus, LogMasks, Spot
from likeness_portraits.engine.inference.refocused import Refocusing
from likeness_portraits.engine.inference.regions import FocusedPrompt, Regions
from likeness_portraits.engine.staged.text import TextStates
from likeness_portraits.engine.training.attention_maps import mask_layers, recorded
from likeness_portraits.engine.training.component_losses import attention_to
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.engine import tiny_krea2
from likeness_portraits.tests.engine.tiny import tiny_job
from likeness_portraits.tests.engine.tiny_flux2 import write_tokenizer
from likeness_portraits.tests.engine.training import test_methods, test_registering

pytest.importorskip("diffusers", "0.39")


BRIEF = "<|im_start|>user\n"  # before a prompt, in a quarter of the time


@pytest.fixture(scope="module")
def krea(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder."""
    return tiny_krea2.write_folder(tmp_path_factory.mktemp("krea") / "krea-2-raw")


@pytest.fixture(scope="module")
def base(krea: Path) -> BaseModel:
    return tiny_krea2.load(krea)


# ----------------------------------------------------------------------------------------------------- folder


def test_a_folder_gives_what_its_pipeline_reads_and_sees(base: BaseModel, krea: Path):
    """diffusers' Krea2Pipeline on the same weights: text states, latents, one step's velocity."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline

    assert (base.family, base.resolution, base.latent_shape()) == ("krea2", 32, (4, 8, 8))
    parts, tokenizer = tiny_krea2.tiny_parts(), base.tokenizers["qwen3vl_4b"]
    pipe = Krea2Pipeline(
        FlowMatchEulerDiscreteScheduler(), parts["vae"].eval(), parts["text_encoder"].eval(), tokenizer,
        parts["transformer"].eval(), text_encoder_select_layers=tiny_krea2.TAPS,
    )  # fmt: skip
    pipe.prompt_template_encode_start_idx = len(tokenizer(pipe.prompt_template_encode_prefix)["input_ids"])
    pipe.prompt_template_encode_num_suffix_tokens = len(
        tokenizer(pipe.prompt_template_encode_suffix)["input_ids"]
    )
    prompts = ["a photo of a man, (smiling)", ""]
    times = torch.tensor([0.3, 0.9])
    with torch.no_grad():
        theirs, mask = pipe.encode_prompt(prompts, torch.device("cpu"), max_sequence_length=96)
        said = base.encode_text(prompts)
        for number in (0, 1):  # theirs has its padding before the last marks
            there = said.states[number][said.mask[number]]
            torch.testing.assert_close(there, theirs[number][mask[number]].flatten(1), atol=1e-5, rtol=1e-5)
        pixels = torch.rand(2, 3, 32, 32) * 2 - 1
        config = pipe.vae.config
        mean, spread = (
            torch.tensor(part).view(1, -1, 1, 1) for part in (config.latents_mean, config.latents_std)
        )
        packed = pipe.vae.encode(pixels[:, :, None]).latent_dist.mean[:, :, 0]
        latents = (packed - mean) / spread
        torch.testing.assert_close(base.encode_pixels(pixels), latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            base.decode(latents), pipe.vae.decode(packed[:, :, None]).sample[:, :, 0].clamp(-1, 1),
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip
        places = pipe.prepare_position_ids(theirs.shape[1], 4, 4, torch.device("cpu"))
        velocity = pipe.transformer(
            pipe._pack_latents(latents, 2, 4, 8, 8), theirs, times, places, mask, return_dict=False
        )[0]
        ours = base.predict(latents, times, said)
        alone = base.predict(latents[1:], times[1:], base.encode_text([""]))
        odd = base.predict(latents[..., :7], times, said)
    torch.testing.assert_close(pipe._pack_latents(ours, 2, 4, 8, 8), velocity, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        ours[1:], alone, atol=1e-5, rtol=1e-5
    )  # a longer prompt beside it is not heard
    assert velocity.abs().max() > 0.5 and odd.shape == (2, 4, 8, 7)


# ----------------------------------------------------------------------------------------------- single files


def test_single_files_are_read_by_their_makers_names_in_the_precision_they_have(tmp_path: Path):
    parts = tiny_krea2.host_parts()
    plain = tiny_krea2.makers_names(parts["transformer"].state_dict())
    stored = {key: value if key.endswith(".scale") else value.bfloat16() for key, value in plain.items()}
    name, fp8 = "blocks.0.attn.wo", torch.float8_e4m3fn
    scale = plain[f"{name}.weight"].abs().max() / 448
    stored[f"{name}.weight"] = (plain[f"{name}.weight"] / scale).to(fp8)
    stored[f"{name}.weight_scale"] = scale
    stored["scaled_fp8"] = torch.zeros(2, dtype=fp8)  # as ComfyUI marks such files
    files = tiny_krea2.write_files(tmp_path, parts, transformer=stored)
    words = str(write_tokenizer(tmp_path / "words"))
    found = load_base(
        BaseSpec.parse(files["transformer"], vae=files["vae"], clip=files["clip"], tokenizer=words)
    )
    assert found.distilled is False and found.resolution == 1024 and len(found.text.taps) == 12
    network, expected = found.network.state_dict(), parts["transformer"].state_dict()
    eight_bits = "transformer_blocks.0.attn.to_out.0."
    assert network.pop(f"{eight_bits}stored").dtype == fp8 and len(network.pop(f"{eight_bits}scale")) == 256
    wide = (stored[f"{name}.weight"].float() * scale).bfloat16()
    assert torch.equal(found.network.transformer_blocks[0].attn.to_out[0].weight, wide)
    assert all(torch.equal(value, expected[key].to(value)) for key, value in network.items())
    kept = {key for key, value in network.items() if value.dtype == torch.float32}
    assert kept == {key for key in network if "norm" in key}
    vae, text = parts["vae"].state_dict(), parts["text_encoder"].language_model.state_dict()
    assert all(torch.equal(value, vae[key]) for key, value in found.vae.network.state_dict().items())
    heard = found.text_encoders["qwen3vl_4b"].state_dict()
    assert all(torch.equal(value, text[key]) for key, value in heard.items())
    assert max(int(key.split(".")[1]) for key in heard if key.startswith("layers.")) == 34
    with torch.no_grad():
        drawn = found.predict(torch.randn(1, 16, 4, 4), torch.tensor([0.5]), found.encode_text(["a"]))
    assert drawn.shape == (1, 16, 4, 4) and drawn.isfinite().all()
    with pytest.raises(LikenessError, match="no Qwen3, which Krea 2 reads prompts with; take qwen3vl_4b"):
        load_base(BaseSpec.parse(files["transformer"], vae=files["vae"], clip=files["vae"], tokenizer=words))
    with pytest.raises(LikenessError, match="qwen3vl_4b_bf16.safetensors is not Krea 2's VAE"):
        load_base(
            BaseSpec.parse(files["transformer"], vae=files["clip"], clip=files["clip"], tokenizer=words)
        )


# ------------------------------------------------------------------------------------------- RAW and Turbo


@pytest.mark.parametrize(
    ("name", "distilled"),
    [
        ("krea2_raw_bf16.safetensors", False), ("krea/Krea-2-Raw", False), ("krea2_turbo_fp8_scaled", True),
        ("Krea-2-Turbo", True), ("Krea-2-Base-Diffusers", False), ("my krea mix", None),
    ],
)  # fmt: skip
def test_which_krea_it_is_is_told_by_its_makers_names(name: str, distilled: bool | None):
    assert distilled_by_name(name) is distilled


def test_learned_on_raw_and_drawn_with_turbo_is_said_kept_and_drawn(
    base: BaseModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    turbo = tiny_krea2.load(tiny_krea2.write_folder(tmp_path / "turbo", is_distilled=True))
    for one in (base, turbo):
        monkeypatch.setattr(one.text, "before", BRIEF)
    assert base.distilled is False and turbo.distilled is True
    with pytest.raises(LikenessError, match="is distilled to draw in a few steps.* learn on Krea 2 RAW"):
        train(tiny_job("dreambooth-lora", folder), base=turbo)
    learned = Artifact.load(train(tiny_job("dreambooth-lora", folder), base=base))
    assert learned.base_family == "krea2" and learned.about["distilled"] is False
    assert dict(full_card(vars(learned)))["base"] == "Krea 2, krea-2-raw, base version"
    still = {key: value * 0 if ".lora_B." in key else value for key, value in learned.tensors.items()}
    plain, drawn = (
        generate(turbo, ["a photo of <v0>"], artifacts=[(one, 1.0)], steps=2, guidance=1.0)
        for one in (replace(learned, tensors=still), learned)
    )
    assert (plain != drawn).any()
    # RAW is drawn with a shift that follows the size, Turbo's is 1.15 at every size
    first, second = (turbo.process.sigmas(8, OWN, latents)[1] for latents in (64, 16384))
    assert first == second != base.process.sigmas(8, OWN, 64)[1] < base.process.sigmas(8, OWN, 16384)[1]
    _exported_and_others(learned, folder)


def _exported_and_others(learned: Artifact, folder: Path) -> None:
    """Its LoRA by others' names is the same LoRA."""
    lora = learned.lora()
    assert len({key for key in lora if ".lora_A." in key}) == 3 * 4 + 4 * 3  # and the text encoder's
    (file, _) = export_stock(learned, folder / "out", "anna")
    back = import_file(file)
    assert (back.kind, back.base_family) == ("lora", "krea2")
    test_methods.assert_same_tensors(lora, dict(back.tensors))
    of_blocks = {key: value for key, value in lora.items() if key.startswith("transformer.")}
    kinds = {"to_q": "wq", "to_k": "wk", "to_v": "wv", "to_out.0": "wo", "transformer_blocks": "blocks"}
    theirs, kohya = {}, {}
    for key, value in of_blocks.items():
        name = key.removeprefix("transformer.")
        for ours, other in kinds.items():
            name = name.replace(ours, other)
        theirs[f"diffusion_model.{name}"] = value
        layer, _, part = name.partition(".lora_") if ".lora_" in name else name.rpartition(".")
        part = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}.get(part, part)
        kohya[f"lora_unet_{layer.replace('.', '_')}.{part}"] = value
    for tensors in (theirs, kohya):
        assert is_krea2_lora(tensors, {})
        test_methods.assert_same_tensors(of_blocks, krea2_to_peft(tensors, Path("a.safetensors"), {}))
    with pytest.raises(LikenessError, match="none of Krea 2's layers"):
        krea2_to_peft({"diffusion_model.blocks.0.nothing.lora_A.weight": torch.ones(1, 1)}, Path("a"), {})


# ------------------------------------------------------------------------------------------------ learning


@test_registering.every_check
@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth-lora"])
def test_krea_is_learned_on(check, method, base, folder, monkeypatch):
    monkeypatch.setattr(base.text, "before", BRIEF)
    check(method, base, folder)


@pytest.mark.slow
@test_registering.every_check
@pytest.mark.parametrize("method", ["magictailor", "magicapture", "masterweaver", "personamagic"])
def test_krea_is_learned_on_by_methods_inside_its_attention(check, method, base, folder, monkeypatch):
    monkeypatch.setattr(base.text, "before", BRIEF)
    check(method, base, folder)


def test_a_method_that_needs_what_krea_lacks_is_refused_by_name(base, folder):
    with pytest.raises(LikenessError, match=r"custom-diffusion needs .* \(Krea 2\) does not offer"):
        train(tiny_job("custom-diffusion", folder), base=base)


# --------------------------------------------------------------------------------------------- in attention


def test_words_are_looked_for_in_all_blocks_and_padding_is_no_word(base: BaseModel):
    """What each token of the picture reads of the words, alone and beside a longer prompt; with the gradients
    of a pass that is computed again."""
    assert base.attention_side == 4 and len(mask_layers(base)) == 3
    noisy, times = torch.randn(1, 4, 8, 8), torch.tensor([0.5])
    found, short = [], base.encode_text(["a man"])
    both = base.encode_text(["a man", "a photo of a man on a beach"])
    for saving, said in ((False, short), (True, short), (False, both)):
        text = said.states.clone().requires_grad_()
        base.recompute(saving)
        try:
            with recorded(base.network, mask_layers(base)) as maps:
                prediction = base.predict(
                    noisy.expand(len(said), -1, -1, -1), times.expand(len(said)), replace(said, states=text)
                )
            everything = torch.ones(len(said), 512)  # as many as tokens: padding's are left away
            torch.testing.assert_close(attention_to(maps.all(), everything), torch.ones(len(said), 16))
            (
                prediction[0].square().mean() + sum(map_[0, ..., 3].square().sum() for map_ in maps.all())
            ).backward()
        finally:
            base.recompute(False)
        found.append(text.grad[0, : short.length])
    assert found[0].any()
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[0], found[2], atol=1e-4, rtol=1e-3)
    base.predict(noisy, times, short)
    assert {type(block.attn.processor).__name__ for block in base.denoiser.blocks()} == {"Krea2AttnProcessor"}
    assert not base.network.rotary_emb._forward_hooks and not base.network.text_fusion._forward_pre_hooks


def test_a_region_that_is_everywhere_draws_its_own_prompt_and_others_draw_theirs(base: BaseModel):
    """States are fused prompt by prompt; what the whole prompt still says there is FLOOR's share."""
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.5, 0.5])
    said, region = base.encode_text(["a man on a beach", "a cat", "a dog, big"]), torch.ones(1, 8, 8)
    own = said.rows(slice(1, 2))
    spot = Spot(Focus(token="x", region=region), (5,), (5,), said.length)
    read = [TextStates(own.states, own.states, there=own.mask)]
    prompt = FocusedPrompt(LogMasks([spot], [region]), said.length, read)
    with torch.no_grad(), using(base.network, "regions", Regions([(1, None), (1, prompt)], 0.5, {})):
        other, found = base.predict(noisy, times, said.rows([2, 0]))
    with torch.no_grad():
        wanted = base.predict(noisy, times, said.rows([2, 1]))
        whole = base.predict(noisy, times, said.rows([2, 0]))[1]
    torch.testing.assert_close(other, wanted[0], atol=1e-5, rtol=1e-5)
    assert (found - wanted[1]).abs().max() < 0.01 * (whole - wanted[1]).abs().max()


def test_two_people_are_drawn_in_boxes_and_neutral_ones_change_nothing(base: BaseModel):
    def drawn(own: bool = False, **how) -> np.ndarray:
        focuses = [
            Focus(token=name, region=(left, 0, 0.5, 1), own_prompt=f"{name}!" if own else None, **how)
            for name, left in (("Anna", 0), ("Ben", 0.5))
        ]
        told = Refocusing(focuses=focuses)
        return generate(base, ["Anna and Ben"], steps=2, seed=1, refocus=told if own or how else None)

    plain = drawn()
    assert (drawn(strength=0.0, scope="word") == plain).all()
    apart, words = drawn(own=True), drawn(scope="word")
    assert (apart != plain).any() and (words != plain).any() and (apart != words).any()


def test_a_value_offset_leaves_attention_whole(base: BaseModel):
    """What the picture reads of each word in the first block: the published bypass must not change keys."""
    said = base.encode_text(["a man"])
    row, at = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([[3]])
    noisy, times = torch.randn(1, 4, 8, 8), torch.tensor([0.8])
    seen, drawn = [], []
    for one in (said, Conditioning(states=said.states, mask=said.mask, added=row, added_at=at)):
        with recorded(base.network, mask_layers(base)) as maps, torch.enable_grad():
            drawn.append(base.predict(noisy, times, one))
        seen.append(maps.probabilities("transformer_blocks.0.attn"))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(drawn[0], drawn[1])


def test_makers_names_are_diffusers_names_and_another_layer_is_none():
    state = tiny_krea2.tiny_parts()["transformer"].state_dict()
    back = krea2_for_diffusers(tiny_krea2.makers_names(state))
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    with pytest.raises(KeyError):
        krea2_for_diffusers({"blocks.0.other.weight": torch.ones(1)})
