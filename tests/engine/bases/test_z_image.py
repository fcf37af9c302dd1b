"""Z-Image: loaded from folders and files, learned on and drawn with; tiny random weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.denoisers.seam import using
from likeness_portraits.engine.bases.families import distilled_by_name
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.inference.refocus import Focus, LogMasks, Spot
from likeness_portraits.engine.inference.regions import FocusedPrompt, Regions
from likeness_portraits.engine.staged.text import TextStates
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.plan import remarks
from likeness_portraits.tests.engine import tiny_z_image
from likeness_portraits.tests.engine.tiny import tiny_job
from likeness_portraits.tests.engine.training import test_registering

pytest.importorskip("diffusers", "0.36")
pytest.importorskip("transformers", "4.51")


@pytest.fixture(scope="module")
def folder_of_it(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_z_image.write_folder(tmp_path_factory.mktemp("z-image"))


@pytest.fixture(scope="module")
def base(folder_of_it: Path) -> BaseModel:
    return load_base(BaseSpec.parse(str(folder_of_it)))


# as Qwen3's own comes out for one message where the answer may begin with thinking
_CHAT = (
    "{% for m in messages %}{{'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'}}{% endfor %}"
    "{{'<|im_start|>assistant\n'}}"
)


def test_a_folder_gives_what_its_pipeline_reads_and_sees(base: BaseModel, monkeypatch: pytest.MonkeyPatch):
    """diffusers' ZImagePipeline on the same weights: text states, latents, one step's velocity."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    assert (base.family, base.resolution, base.latent_shape()) == ("z_image", 32, (4, 16, 16))
    parts, tokenizer = tiny_z_image.tiny_parts(), base.tokenizers["qwen3_4b"]
    for part in parts.values():
        part.eval()
    tokenizer.chat_template = _CHAT
    pipeline = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0), parts["vae"], parts["text_encoder"], tokenizer,
        parts["transformer"],
    )  # fmt: skip
    prompts = ["a photo of a man, (smiling)", "", "a woman " * 9]
    pixels, vae = torch.rand(3, 3, 32, 32) * 2 - 1, parts["vae"]
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(list(prompts), device="cpu", do_classifier_free_guidance=False)
        said = base.encode_text(prompts)
        for states, there, wanted in zip(said.states, said.mask, theirs, strict=True):
            torch.testing.assert_close(states[there], wanted, atol=1e-5, rtol=1e-5)
        assert said.states.shape[1] % 32 == 0 and {len(one) > 32 for one in theirs} == {True, False}
        latents = (vae.encode(pixels).latent_dist.mean - 0.1159) * 0.3611
        torch.testing.assert_close(base.encode_pixels(pixels), latents, atol=1e-5, rtol=1e-5)
        times = torch.tensor([0.1, 0.3, 0.9])
        for side in (16, 12):  # twelve a side are 36 tokens, filled up to 64
            seen = latents[..., :side, :16]
            wanted = parts["transformer"](
                list(seen[:, :, None].unbind()), 1 - times, theirs, return_dict=False
            )[0]
            ours = base.predict(seen, times, said)
            torch.testing.assert_close(ours, -torch.stack(wanted)[:, :, 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            base.decode(latents), vae.decode(latents / 0.3611 + 0.1159).sample.clamp(-1, 1),
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip


def test_a_drawn_picture_is_the_pipelines(base: BaseModel):
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    parts, tokenizer = tiny_z_image.tiny_parts(), base.tokenizers["qwen3_4b"]
    for part in parts.values():
        part.eval()
    tokenizer.chat_template = _CHAT
    pipeline = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0), parts["vae"], parts["text_encoder"], tokenizer,
        parts["transformer"],
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    noise: list[Tensor] = []
    handle = base.network.register_forward_pre_hook(
        lambda _, inputs: noise.append(inputs[0][:1].clone()) if not noise else None
    )
    ours = generate(
        base, ["a photo of a man"], steps=3, seed=1, guidance=1.0, sampler="euler", schedule="own"
    )
    handle.remove()
    with torch.no_grad():
        theirs = pipeline(
            "a photo of a man", height=32, width=32, num_inference_steps=3, guidance_scale=0.0,
            latents=noise[0], output_type="np",
        ).images  # fmt: skip
    assert abs(ours[0] - 255 * theirs[0]).max() <= 1  # of 255


def test_prompts_of_other_lengths_beside_it_change_nothing(base: BaseModel):
    short, long = "a man", "a woman " * 12
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.4, 0.8])
    with torch.no_grad():
        both = base.predict(noisy, times, base.encode_text([short, long]))
        joined = Conditioning.cat([base.encode_text([short]), base.encode_text([long])])
        torch.testing.assert_close(base.predict(noisy, times, joined), both, atol=1e-5, rtol=1e-5)
        for row, prompt in enumerate((short, long)):
            alone = base.predict(noisy[row : row + 1], times[row : row + 1], base.encode_text([prompt]))
            torch.testing.assert_close(both[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_single_files_are_the_folders_base(base: BaseModel, tmp_path: Path):
    files = tiny_z_image.write_files(tmp_path)
    found = load_base(BaseSpec.parse(files["transformer"], **{
        "vae": files["vae"], "clip": files["clip"], "tokenizer": files["tokenizer"],
    }))  # fmt: skip
    assert found.fingerprint == base.fingerprint
    ours, theirs = found.state_dict(), base.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


WRONG = {  # what lies in the place of a part, and what is said of it
    "no Qwen3": ("clip", {"text_model.a": torch.ones(2)}, "holds no Qwen3, which Z-Image .* take qwen_3"),
    "FLUX.2's VAE": ("vae", {"bn.running_mean": torch.ones(8)}, "is not the VAE that Z-Image draws with"),
    "half of it": (
        "transformer",
        {"cap_pad_token": torch.ones(1, 2), "noise_refiner.0.attention.k_norm.weight": torch.ones(2)},
        "is no whole Z-Image transformer",
    ),
    "Omni": (
        "transformer",
        {"cap_pad_token": torch.ones(1, 2), "noise_refiner.0.attention.k_norm.weight": torch.ones(2),
         "siglip_embedder.0.weight": torch.ones(2)},
        "is Z-Image Omni, which reads pictures too",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_part_that_is_something_else_is_refused_by_file(case: str, tmp_path: Path):
    part, tensors, said = WRONG[case]
    files = tiny_z_image.write_files(tmp_path, **{part: tensors})
    with pytest.raises(LikenessError, match=said):
        load_base(BaseSpec.parse(files["transformer"], **{
            "vae": files["vae"], "clip": files["clip"], "tokenizer": files["tokenizer"],
        }))  # fmt: skip


# ------------------------------------------------------------------------------------------- Turbo and Base


@pytest.mark.parametrize(
    ("name", "distilled"),
    [
        ("Z-Image-Turbo", True), ("z_image_turbo_bf16", True), ("Tongyi-MAI/Z-Image-Turbo", True),
        ("z_image_bf16", False), ("Z-Image", False), ("Tongyi-MAI/Z-Image-Base", False),
        ("Z-Image-De-Turbo", False), ("my z-image merge", None),
    ],
)  # fmt: skip
def test_which_z_image_it_is_is_told_by_its_makers_names(name: str, distilled: bool | None):
    assert distilled_by_name(name) is distilled


def test_turbo_is_learned_on_with_a_lora_under_it_that_takes_the_distillation_out(base, folder, monkeypatch):
    monkeypatch.setattr(base, "distilled", True)
    with pytest.raises(LikenessError, match="learn on Z-Image Base.*zimage_turbo_training_adapter under it"):
        train(tiny_job("textual-inversion", folder), base=base)
    monkeypatch.setattr(base, "distilled", False)
    job = tiny_job("dreambooth-lora", folder, "under", settings={"text_encoder": False})
    under = train(job, base=base)
    assert any("drawn by the distilled version less surely" in line for line in remarks(job, base, []))
    monkeypatch.setattr(base, "distilled", True)
    job = tiny_job("textual-inversion", folder, on=[str(under)])
    assert any("draw without that LoRA" in line for line in remarks(job, base, []))
    train(job, base=base)
    assert (folder / "me.safetensors").exists()


# ------------------------------------------------------------------------------------------------ learning

_HEAVY = [pytest.param(name, marks=pytest.mark.slow) for name in
          ("magictailor", "magicapture", "masterweaver", "personamagic")]  # fmt: skip


@test_registering.every_check
@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth-lora", *_HEAVY])
def test_z_image_is_learned_on(check, method, base, folder):
    check(method, base, folder)


# -------------------------------------------------------------------------------------------- own prompts


def test_a_regions_own_prompt_is_the_same_with_and_without_what_fills_it_up(base: BaseModel):
    """In ComfyUI it comes with as many states as it has words, here filled up."""
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    times, said = torch.tensor([0.5, 0.5]), base.encode_text(["a man on a beach " * 3, "a cat"])
    words = int(said.mask[1].sum())  # type: ignore[index]
    region = (torch.arange(16) < 8).float().expand(1, 16, 16)
    drawn = []
    for length in (said.length, words):
        own, there = said.states[1:, :length], said.mask[1:, :length]  # type: ignore[index]
        spot = Spot(Focus(token="x", region=region), (5,), (5,), length)
        prompt = FocusedPrompt(LogMasks([spot], [region]), said.length, [TextStates(own, own, there=there)])
        regions = Regions([(1, None), (1, prompt)], 0.5, {})
        with torch.no_grad(), using(base.network, "regions", regions):
            drawn.append(base.predict(noisy, times, said.rows([1, 0])))
    with torch.no_grad():
        plain = base.predict(noisy, times, said.rows([1, 0]))
    torch.testing.assert_close(*drawn, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drawn[0][0], plain[0], atol=1e-5, rtol=1e-5)  # a prompt beside it
    assert (drawn[0][1] - plain[1]).abs().max() > 1e-3
