"""What the frozen base predicts, reads and refuses."""

import copy
import json
import logging
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from likeness_portraits.engine.bases.base import BaseModel, load_base, unet_base
from likeness_portraits.engine.bases.process.ddpm import noise_schedule
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.tests.engine.tiny import SCHEDULE, tiny_base


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_clean_latents_come_back_from_the_right_prediction(kind):
    base = tiny_base(kind)
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    process, t = base.process, torch.tensor([0.0, 0.4, 0.9])
    back = process.predict_x0(process.add_noise(latents, noise, t), process.target(latents, noise, t), t)
    torch.testing.assert_close(back, latents, atol=1e-4, rtol=1e-4)


def test_noise_follows_the_schedule_of_diffusers():
    from diffusers import DDPMScheduler

    base, theirs = tiny_base(), DDPMScheduler(**SCHEDULE)
    latents, noise, timesteps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([10, 999])
    t = base.process.times(timesteps)
    ours = base.process.add_noise(latents, noise, t)
    torch.testing.assert_close(ours, theirs.add_noise(latents, noise, timesteps))
    velocity = tiny_base("v_prediction").process.target(latents, noise, t)
    torch.testing.assert_close(velocity, theirs.get_velocity(latents, noise, timesteps))


def test_min_snr_weights_are_gamma_over_snr_where_there_is_little_noise(base):
    alpha = noise_schedule(SCHEDULE)[[1, 999]]
    snr = alpha / (1 - alpha)
    t = torch.tensor([0.001, 0.999])
    weights = base.process.loss_weight(t, 5.0)
    torch.testing.assert_close(weights.double(), torch.tensor([5 / snr[0], 1.0]), atol=1e-6, rtol=1e-5)
    velocity = tiny_base("v_prediction").process.loss_weight(t, 5.0)
    torch.testing.assert_close(velocity.double(), torch.tensor([5, snr[1]]) / (snr + 1), atol=1e-6, rtol=1e-5)
    assert base.process.loss_weight(t, None).tolist() == [1, 1]


def test_debiased_weights_are_one_over_the_root_of_snr(base):
    """Of the noise's error, which is snr times the picture's; a velocity's is snr + 1 times it."""
    alpha = noise_schedule(SCHEDULE)[[1, 500, 999]]
    snr = alpha / (1 - alpha)
    t = torch.tensor([0.001, 0.5, 0.999])
    weights = base.process.loss_weight(t, None, True).double()
    torch.testing.assert_close(weights, 1 / snr.sqrt(), atol=1e-6, rtol=1e-5)
    velocity = tiny_base("v_prediction").process.loss_weight(t, None, True).double()
    torch.testing.assert_close(velocity, snr.sqrt() / (snr + 1), atol=1e-6, rtol=1e-5)


def test_latents_are_drawn_from_the_posterior_around_its_mean(base):
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = base.encode_posterior(pixels)
    assert mean.shape == std.shape == (2, 4, 8, 8)
    torch.testing.assert_close(base.encode_pixels(pixels), mean)
    drawn = base.encode_pixels(pixels, torch.Generator().manual_seed(1))
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn, mean + std * noise)
    assert base.decode(mean).shape == pixels.shape


def test_sizes_that_do_not_fit_are_refused(base):
    assert base.latent_shape() == (4, 8, 8)
    assert base.latent_shape(64, 32) == (4, 16, 8)
    with pytest.raises(LikenessError, match="multiples of 4"):
        base.latent_shape(33, 32)


def test_the_base_stays_in_evaluation_mode_and_frozen(base):
    holder = torch.nn.ModuleList([base]).train()
    assert holder.training and not base.unet.training
    assert not any(weight.requires_grad for weight in base.parameters())


def test_text_without_placeholders_is_encoded_as_transformers_does(base):
    prompts = ["a photo of a woman", "a man"]
    ids = base.tokenizers["clip_l"](
        prompts, padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    theirs = base.text_encoders["clip_l"](ids).last_hidden_state
    torch.testing.assert_close(base.encode_text(prompts).states, theirs)
    twice = base.encode_text(["a man", "a photo of a woman", "a man"])
    torch.testing.assert_close(twice.states, theirs[[1, 0, 1]])


def test_a_placeholder_with_the_class_words_vectors_reads_like_the_class_word(base):
    rows = {"<v0>": base.word_rows("woman")}
    placed = base.encode_text(["a photo of <v0>, wearing a hat"], rows).states
    torch.testing.assert_close(placed, base.encode_text(["a photo of woman, wearing a hat"]).states)


def test_each_vector_takes_a_place_of_its_own(base):
    rows = {"<v0>": {"clip_l": torch.zeros(3, 32)}, "<v1>": {"clip_l": torch.zeros(1, 32)}}
    tokens = base.tokenize(["a <v1> and <v0>", "a man"], rows)
    assert tokens.places == ((0, 2, "<v1>", 0), (0, 4, "<v0>", 0), (0, 5, "<v0>", 1), (0, 6, "<v0>", 2))
    end = base.tokenizers["clip_l"].eos_token_id
    assert tokens.ids[0, 7] == end and tokens.ids.shape == (2, 77)


def chunk_of(base, pieces: list[int]) -> list[int]:
    tokenizer = base.tokenizers["clip_l"]
    line = [tokenizer.bos_token_id, *pieces, tokenizer.eos_token_id]
    return line + [tokenizer.pad_token_id] * (77 - len(line))


def test_a_long_prompt_goes_on_in_chunks_with_a_start_and_an_end_of_their_own(base, caplog):
    a, woman = (
        base.tokenizers["clip_l"](word, add_special_tokens=False)["input_ids"][0] for word in ("a", "woman")
    )
    with caplog.at_level(logging.WARNING):
        tokens = base.tokenize(["a woman " * 50])
    pieces = [a, woman] * 50
    assert tokens.ids[0].tolist() == [*chunk_of(base, pieces[:75]), *chunk_of(base, pieces[75:])]
    assert not caplog.text


def test_a_placeholder_at_the_end_of_a_chunk_begins_the_next_one_whole(base):
    rows = {"<v0>": {"clip_l": torch.randn(3, 32)}}
    tokens = base.tokenize(["a " * 73 + "<v0> woman"], rows)
    assert [place[1] for place in tokens.places] == [78, 79, 80]
    (a,) = base.tokenizers["clip_l"]("a", add_special_tokens=False)["input_ids"]
    assert tokens.ids[0, :77].tolist() == chunk_of(base, [a] * 73)
    states = base.encode_text(["a " * 73 + "<v0> woman"], rows).states
    apart = base.encode_text(["a " * 73, "<v0> woman"], rows).states
    torch.testing.assert_close(states, apart.reshape(1, 154, -1))


def test_prompts_of_unequal_length_are_drawn_as_each_alone(base):
    prompts, noisy = ["a woman " * 50, "a photo of a man"], torch.randn(2, *base.latent_shape())
    t = torch.tensor([0.7, 0.3])
    together = base.predict(noisy, t, base.encode_text(prompts))
    for row, prompt in enumerate(prompts):
        alone = base.predict(noisy[row][None], t[row][None], base.encode_text([prompt]))
        torch.testing.assert_close(together[row][None], alone, atol=1e-5, rtol=1e-4)


def test_the_fingerprint_names_the_weights_not_their_precision(base):
    from likeness_portraits.engine.bases.base import weights_fingerprint

    other = tiny_base()
    assert other.fingerprint == base.fingerprint
    assert weights_fingerprint(other.half()) == base.fingerprint
    with torch.no_grad():
        next(other.unet.parameters()).mul_(1.5)
    assert weights_fingerprint(other) != base.fingerprint


# ----------------------------------------------------------------------------------------------- loading


def test_whatever_it_stands_on_names_it_to_the_last_number():
    plain = tiny_base().identity
    assert plain == tiny_base().identity != tiny_base("v_prediction").identity
    assert plain != tiny_base(zero_snr=True).identity
    for part in ("vae", "text_encoders", "unet"):
        base = tiny_base()
        list(getattr(base, part).parameters())[-1].data.flatten()[-1].add_(1e-6)
        assert base.identity != plain, part


def test_latents_of_a_shifted_autoencoder_are_around_nought_as_in_diffusers():
    base = tiny_base()
    plain, _ = base.encode_posterior(pixels := torch.rand(1, 3, 32, 32) * 2 - 1)
    vae = copy.deepcopy(base.vae)
    vae.register_to_config(shift_factor=0.1159, scaling_factor=0.3611)  # FLUX's numbers
    shifted = unet_base(
        unet=base.unet, vae=vae, text_encoders=dict(base.text_encoders.items()), tokenizers=base.tokenizers,
        alphas_cumprod=noise_schedule(SCHEDULE), family="sd1", resolution=32,
    )  # fmt: skip
    mean, spread = shifted.encode_posterior(pixels)
    raw = vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, (raw.mean - 0.1159) * 0.3611)
    torch.testing.assert_close(spread, raw.std * 0.3611)
    torch.testing.assert_close(shifted.decode(mean), base.decode(plain))


def test_the_miniature_loads():
    base = load_base(BaseSpec())
    assert (base.family, base.resolution, base.attention_side) == ("miniature", 128, 16)
    assert base.latent_shape() == (4, 16, 16)
    assert base.encode_text(["a photo of a woman"]).states.shape[:2] == (1, 77)


def test_loading_leaves_the_callers_random_numbers_alone():
    state = torch.get_rng_state()
    load_base(BaseSpec())
    assert torch.equal(state, torch.get_rng_state())


def save_folder(base: BaseModel, folder: Path) -> Path:
    """The base as diffusers saves its pipelines."""
    base.unet.save_pretrained(folder / "unet")
    base.vae.save_pretrained(folder / "vae")
    for ending, name in zip(("", "_2"), base.text_encoders):
        base.text_encoders[name].save_pretrained(folder / f"text_encoder{ending}")
        base.tokenizers[name].save_pretrained(folder / f"tokenizer{ending}")
    (folder / "scheduler").mkdir()
    schedule = {**SCHEDULE, "prediction_type": base.process.prediction_type}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    return folder


@pytest.mark.parametrize(
    ("family", "prediction"), [("sd1", "epsilon"), ("sd2", "v_prediction"), ("sdxl", "epsilon")]
)
def test_a_diffusers_folder_gives_the_same_model(family: str, prediction: str, tmp_path: Path):
    base = tiny_base(prediction, family=family)
    loaded = load_base(BaseSpec.parse(str(save_folder(base, tmp_path / "model"))))
    assert (loaded.family, loaded.resolution, loaded.fingerprint) == (family, 32, base.fingerprint)
    assert loaded.process.prediction_type == prediction
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([0.003, 0.9])
    context = base.encode_text(["a photo of a woman", ""])
    assert torch.equal(context.states, loaded.encode_text(["a photo of a woman", ""]).states)
    assert torch.equal(base.predict(noisy, t, context), loaded.predict(noisy, t, context))


def test_a_model_in_the_hubs_cache_is_found_by_its_name_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--somebody--tiny-1.0"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    base = tiny_base()
    save_folder(base, place / "snapshots" / "abc")
    spec = BaseSpec.parse("somebody/tiny-1.0")
    assert spec.kind == "hub"
    assert load_base(spec).fingerprint == base.fingerprint
    with pytest.raises(LikenessError, match="not in the hub's local cache.*hf download somebody/else"):
        load_base(BaseSpec.parse("somebody/else"))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_folder_that_lacks_a_weight_is_refused_by_its_name(part: str, tmp_path: Path):
    save_folder(tiny_base(), tmp_path / "model")
    file = next((tmp_path / "model" / part).glob("*.safetensors"))
    weights = load_file(file)
    name = sorted(weights)[3]
    del weights[name]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(LikenessError, match=f"{part} lacks the weights .*{re.escape(name[-12:])}; get that"):
        load_base(BaseSpec.parse(str(tmp_path / "model")))


def test_what_a_folder_predicts_may_be_said_where_it_does_not_say_it(tmp_path: Path):
    folder = str(save_folder(tiny_base(), tmp_path / "model"))
    told = BaseSpec.parse(folder, prediction="v_prediction")
    assert load_base(told).process.prediction_type == "v_prediction"
    with pytest.raises(LikenessError, match="unknown prediction 'velocity'"):
        BaseSpec.parse(folder, prediction="velocity")
    with pytest.raises(LikenessError, match="it is known what the Miniatures predict"):
        BaseSpec.parse("miniature", prediction="v_prediction")


def test_folders_of_other_kinds_are_refused_by_name(tmp_path: Path):
    def config(part: str, **changes) -> None:
        path = tmp_path / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    save_folder(tiny_base(), tmp_path / "unused")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / "unused" / name).rename(tmp_path / name)
    config("unet", in_channels=9)
    with pytest.raises(LikenessError, match="inpainting or editing model.*reads 9 channels"):
        load_base(BaseSpec.parse(str(tmp_path)))
    config("unet", in_channels=4, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(LikenessError, match="quantised by bitsandbytes"):
        load_base(BaseSpec.parse(str(tmp_path)))
    (tmp_path / "text_encoder").rename(tmp_path / "text_encoder_2")
    with pytest.raises(LikenessError, match="the SDXL refiner"):
        load_base(BaseSpec.parse(str(tmp_path)))
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(LikenessError, match=r"a diffusion transformer \(Flux\)"):
        load_base(BaseSpec.parse(str(tmp_path)))


WRONG = {  # the smallest of what campaigns found: part, what its description says, what is said of it
    "a truth value for a VAE": ("vae", True, "is no JSON that says anything"),
    "a number for a schedule": ("scheduler", 1.5, "is no JSON that says anything"),
    "a list for a U-Net": ("unet", [], "is no JSON that says anything"),
    "a schedule without an end": ("scheduler", {**SCHEDULE, "beta_end": None}, "or is damaged"),
    "a schedule in words": ("scheduler", {**SCHEDULE, "beta_start": "x"}, "or is damaged"),
    "a schedule backwards": ("scheduler", {**SCHEDULE, "beta_start": 0.9}, "noise schedule says 1000 steps"),
    "a schedule of infinite noise": ("scheduler", {**SCHEDULE, "beta_end": math.inf}, "noise schedule says"),
    "a schedule of 16 GB": ("scheduler", {**SCHEDULE, "num_train_timesteps": 2**31}, "noise schedule says"),
    "a U-Net of endless layers": ("unet", {"layers_per_block": 2**31}, "'layers_per_block' is 2147483648"),
    "an encoder of them": ("text_encoder", {"num_hidden_layers": 2**31}, "'num_hidden_layers' is 2147483648"),
    "a side in words": ("unet", {"sample_size": "x"}, "or is damaged"),
    "weights quantised by nobody": ("unet", {"quantization_config": "x"}, "its U-Net is quantised by x"),
}  # fmt: skip


@pytest.fixture(scope="module")
def saved_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tiny_base(), tmp_path_factory.mktemp("saved") / "model")


@pytest.mark.parametrize("name", WRONG)
def test_a_diffusers_folder_that_describes_itself_wrongly_is_refused(name: str, saved_folder: Path):
    part, says, said = WRONG[name]
    path = saved_folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    whole = path.read_text()
    told = {**json.loads(whole), **says} if isinstance(says, dict) and part != "scheduler" else says
    path.write_text(json.dumps(told))
    try:
        with pytest.raises(LikenessError, match=said) as refused:
            load_base(BaseSpec.parse(str(saved_folder)))
        assert "model" in str(refused.value) and "\n" not in str(refused.value)
    finally:
        path.write_text(whole)


def test_noise_that_hides_everything_follows_the_schedule_of_diffusers():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(**SCHEDULE, rescale_betas_zero_snr=True)
    ours = noise_schedule({**SCHEDULE, "rescale_betas_zero_snr": True})
    torch.testing.assert_close(ours.float(), theirs.alphas_cumprod, atol=1e-6, rtol=1e-4)


def test_sdxl_is_told_the_pooled_prompt_and_the_size_of_the_picture():
    base = tiny_base(family="sdxl")
    prompts = ["a photo of a woman", ""]
    context = base.encode_text(prompts)
    assert context.states.shape == (2, 77, 96) and base.denoiser.pooled_width == 64
    ids = base.tokenize(prompts, encoder="clip_g").ids
    told = base.text_encoders["clip_g"](ids, output_hidden_states=True)
    assert context.pooled is not None and torch.equal(context.pooled, told.text_embeds)
    assert torch.equal(context.states[..., 32:], told.hidden_states[-2])
    noisy, timesteps = torch.randn(2, 4, 8, 16), torch.tensor([5, 500])
    sizes = torch.tensor([[32.0, 64, 0, 0, 32, 64]]).repeat(2, 1)
    plain = base.unet(
        noisy,
        timesteps,
        context.states,
        added_cond_kwargs={"text_embeds": told.text_embeds, "time_ids": sizes},
    ).sample
    assert torch.equal(base.predict(noisy, base.process.times(timesteps), context), plain)


def test_a_vae_that_overflows_in_half_precision_goes_on_in_full_and_says_so(caplog):
    base = tiny_base(family="sdxl")
    pixels = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        base.vae.encoder.conv_in.weight.fill_(3e4)  # fits into fp16; what comes of it does not
    whole = base.encode_posterior(pixels)[0]
    base.vae.half()
    with caplog.at_level(logging.WARNING):
        half = base.encode_posterior(pixels)[0]
    assert "the VAE gives no numbers in float16; it goes on in fp32" in caplog.text
    assert half.isfinite().all() and base.vae.encoder.conv_in.weight.dtype == torch.float32
    assert half.shape == whole.shape
    assert base.decode(whole).isfinite().all()


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "note.txt").write_text("not a model")
    (tmp_path / "note.safetensors").write_text("not a model either")
    (tmp_path / "unet").mkdir()
    for path, words in {
        tmp_path / "nothing": "there is no base model at",
        tmp_path / "note.txt": "is no PyTorch checkpoint, or is damaged",
        tmp_path / "note.safetensors": "is not a model, or is damaged",
        tmp_path: "is not a diffusers model: it has no scheduler folder",
    }.items():
        with pytest.raises(LikenessError, match=words) as caught:
            load_base(BaseSpec.parse(str(path)))
        assert "\n" not in str(caught.value)
