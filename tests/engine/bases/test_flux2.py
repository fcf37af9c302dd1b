"""FLUX.2 Klein: loaded from folders and files, learned on and drawn with; tiny random weights."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.artifact.card import full_card
from likeness_portraits.engine.artifact.other_tools import export_stock, import_file
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.families import distilled_by_name
from likeness_portraits.engine.bases.loaders.flux2 import flux2_classes
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.plan import remarks
from likeness_portraits.tests.engine import tiny_flux2
from likeness_portraits.tests.engine.evaluation.test_stopping import Scripted
from likeness_portraits.tests.engine.tiny import tiny_job
from likeness_portraits.tests.engine.training import test_methods, test_registering, test_sizes

pytest.importorskip("diffusers", "0.36")
pytest.importorskip("transformers", "4.51")


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder."""
    return tiny_flux2.write_folder(tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="module")
def base(klein: Path) -> BaseModel:
    return load_base(BaseSpec.parse(str(klein)))


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


# ----------------------------------------------------------------------------------------------- single files


def load(files: dict[str, str], **changed: str | None) -> BaseModel:
    return load_base(BaseSpec.parse(files["transformer"], **{
        "vae": files["vae"], "clip": files["clip"], "tokenizer": files["tokenizer"], **changed,
    }))  # fmt: skip


def test_single_files_are_the_folders_base(base: BaseModel, tmp_path: Path):
    found = load(tiny_flux2.write_files(tmp_path))
    assert found.fingerprint == base.fingerprint
    ours, theirs = found.state_dict(), base.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fp8_and_bf16_stay_as_small_as_they_are_and_scales_count(tmp_path: Path):
    plain = tiny_flux2.bfl_names(tiny_flux2.tiny_parts()["transformer"].state_dict())
    name, fp8 = "double_blocks.0.img_attn.proj", torch.float8_e4m3fn
    scale = plain[f"{name}.weight"].abs().max() / 448
    stored = {key: value.bfloat16() for key, value in plain.items()}
    stored[f"{name}.weight"] = (plain[f"{name}.weight"] / scale).to(fp8)
    stored[f"{name}.weight_scale"] = scale
    stored["single_blocks.0.linear1.weight"] = plain["single_blocks.0.linear1.weight"].to(fp8)
    found = load(tiny_flux2.write_files(tmp_path, transformer=stored)).network
    kinds = {path: weight.dtype for path, weight in found.named_parameters()}
    # double_blocks.0.img_attn.proj and single_blocks.0.linear1
    eight_bits = ["transformer_blocks.0.attn.to_out.0.", "single_transformer_blocks.0.attn.to_qkv_mlp_proj."]
    assert {kinds.pop(f"{path}stored") for path in eight_bits} == {fp8}
    assert set(kinds.values()) == {torch.bfloat16}
    expected = (stored[f"{name}.weight"].float() * scale).bfloat16()
    assert torch.equal(found.transformer_blocks[0].attn.to_out[0].weight, expected)
    single = found.single_transformer_blocks[0].attn.to_qkv_mlp_proj.weight
    assert torch.equal(single, stored["single_blocks.0.linear1.weight"].bfloat16())


def test_half_precision_is_learned_on(folder: Path, tmp_path: Path, monkeypatch):
    parts = tiny_flux2.tiny_parts()
    halves = {key: value.bfloat16() for key, value in
              tiny_flux2.bfl_names(parts["transformer"].state_dict()).items()}  # fmt: skip
    text = {key: value.bfloat16() for key, value in parts["text_encoder"].model.state_dict().items()}
    base = load(tiny_flux2.write_files(tmp_path / "files", transformer=halves, clip=text))
    monkeypatch.setattr(base.text, "length", 96)
    found = Artifact.load(train(tiny_job("dreambooth-lora", folder, resolution=32), base=base))
    ups = [value for key, value in found.tensors.items() if ".lora_B." in key]
    assert ups and all(up.dtype == torch.float32 and up.any() for up in ups)


def _text_of(width: int) -> dict[str, torch.Tensor]:
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(Qwen3Config(
        vocab_size=261, hidden_size=width, intermediate_size=32, num_hidden_layers=4, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16,
    )).state_dict()  # fmt: skip


WRONG = {  # what lies in the place of a part, and what is said of it
    "text of another size": ("clip", lambda: _text_of(48), "states are 48 wide, but .* reads three of 32"),
    "no Qwen3": ("clip", lambda: {"text_model.a": torch.ones(2)}, "clip.safetensors holds no Qwen3"),
    "SD's VAE": ("vae", lambda: {"quant_conv.weight": torch.ones(8, 8, 1, 1)}, "is not FLUX.2's VAE"),
    "NF4": (
        "transformer",
        lambda: {"double_stream_modulation_img.lin.weight": torch.ones(8, 1, dtype=torch.uint8)},
        r"is quantised and cannot be learned on \(double_stream_modulation_img.lin.weight is uint8\)",
    ),
    "dev": (
        "transformer",
        lambda: {"double_stream_modulation_img.lin.weight": torch.ones(2, 2),
                 "guidance_in.in_layer.weight": torch.ones(2, 2)},
        "is FLUX.2 dev or another FLUX.2 than Klein",
    ),
    "half of it": (
        "transformer", lambda: {"double_stream_modulation_img.lin.weight": torch.ones(2, 2)},
        "is no whole FLUX.2 transformer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_part_that_is_something_else_is_refused_by_file(case: str, tmp_path: Path):
    part, make, said = WRONG[case]
    files = tiny_flux2.write_files(tmp_path, **{part: make()})
    with pytest.raises(LikenessError, match=said) as error:
        load(files)
    assert str(error.value).count(". ") == 0


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("vae", "holds no VAE; name one with --vae: flux2-vae.safetensors; ComfyUI keeps it in models/vae"),
        (
            "clip",
            "holds no text encoder; name one with --clip: qwen_3_4b.safetensors .* models/text_encoders",
        ),
        ("tokenizer", r"has no tokenizer in it.*\(--tokenizer\), or set COMFYUI_PATH"),
    ],
)
def test_a_missing_part_is_named_with_its_file_and_folder(part: str, said: str, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    with pytest.raises(LikenessError, match=said):
        load(tiny_flux2.write_files(tmp_path), **{part: None})


def test_a_gguf_is_refused_wherever_it_is_named(tmp_path: Path):
    files = tiny_flux2.write_files(tmp_path)
    other = tmp_path / "qwen.gguf"
    other.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(LikenessError, match="qwen.gguf is quantised .*GGUF"):
        load(files, clip=str(other))


def test_a_folder_that_lacks_a_part_is_refused_by_its_name(klein: Path, tmp_path: Path):
    shutil.copytree(klein, tmp_path / "klein", ignore=shutil.ignore_patterns("vae"))
    with pytest.raises(LikenessError, match="klein has no vae folder, which a FLUX.2 model needs"):
        load_base(BaseSpec.parse(str(tmp_path / "klein")))


def test_a_prompt_beyond_512_tokens_is_refused(base: BaseModel):
    with pytest.raises(LikenessError, match="is 640 tokens long with the marks around it.* reads 512"):
        base.encode_text(["a" * 615])


def test_diffusers_without_flux2_is_named_with_the_version_that_has_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(__version__="0.35.0"))
    with pytest.raises(LikenessError, match="FLUX.2 needs diffusers 0.36 or newer, and this is 0.35.0"):
        flux2_classes()


def test_the_distilled_klein_is_not_learned_on(klein: Path, folder: Path, tmp_path: Path):
    shutil.copytree(klein, tmp_path / "distilled")
    told = json.dumps({"_class_name": "Flux2KleinPipeline", "is_distilled": True})
    (tmp_path / "distilled" / "model_index.json").write_text(told)
    base = load_base(BaseSpec.parse(str(tmp_path / "distilled")))
    assert base.distilled
    with pytest.raises(LikenessError, match="learn on klein-base, and draw with"):
        train(tiny_job("textual-inversion", folder), base=base)


@pytest.mark.parametrize(
    ("name", "distilled"),
    [
        ("flux-2-klein-4b", True), ("FLUX.2-klein-9B", True), ("flux-2-klein-4b-fp8", True),
        ("black-forest-labs/FLUX.2-klein-4B", True), ("flux-2-klein-base-4b-fp8", False),
        ("FLUX.2-klein-base-9B", False), ("my klein merge", None), ("transformer", None),
    ],
)  # fmt: skip
def test_which_klein_it_is_is_told_by_its_makers_names(name: str, distilled: bool | None):
    assert distilled_by_name(name) is distilled


def test_learned_on_klein_base_and_drawn_with_klein_is_said_kept_and_drawn(
    klein: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("flux-2-klein-base-4b", "flux-2-klein-4b"):
        shutil.copytree(klein, tmp_path / name)
    own, twin = (
        load_base(BaseSpec.parse(str(tmp_path / name)))
        for name in ("flux-2-klein-base-4b", "flux-2-klein-4b")
    )
    for one in (own, twin):
        monkeypatch.setattr(one.text, "length", 96)
    assert own.distilled is False and twin.distilled is True
    with pytest.raises(LikenessError, match="is distilled to draw in a few steps.* learn on klein-base"):
        train(tiny_job("dreambooth-lora", folder), base=twin)
    learned = Artifact.load(train(tiny_job("dreambooth-lora", folder), base=own))
    assert learned.base_family == "flux2" and learned.about["distilled"] is False
    assert dict(full_card(vars(learned)))["base"] == "FLUX.2 Klein 4B, flux-2-klein-base-4b, base version"
    plain, drawn = (
        generate(twin, ["a photo of <v0>"], artifacts=artifacts, steps=2, guidance=1.0)
        for artifacts in ([(replace(learned, tensors=_still(learned)), 1.0)], [(learned, 1.0)])
    )
    assert (plain != drawn).any()


def _still(artifact: Artifact) -> dict[str, torch.Tensor]:
    """Its tensors with a LoRA that changes nothing."""
    return {key: torch.zeros_like(value) if ".lora_B." in key else value for key, value in
            artifact.tensors.items()}  # fmt: skip


def test_a_klein_of_which_nothing_is_said_is_learned_on_with_a_remark(base: BaseModel, folder: Path):
    assert base.distilled is None
    (said,) = [line for line in remarks(tiny_job("dreambooth-lora", folder), base, []) if "distilled" in line]
    assert said.startswith("nothing says whether klein") and said.endswith("draw with the distilled one")


def test_a_lora_of_another_family_is_refused(base: BaseModel):
    shapes = {"lora_down.weight": (1, 2), "lora_up.weight": (2, 1), "alpha": ()}
    tensors = {f"lora_unet_x.{part}": torch.ones(shape) for part, shape in shapes.items()}
    other = Artifact(kind="lora", method="test", tensors=tensors, base_family="sdxl")
    with pytest.raises(LikenessError, match="learned on a base of the family sdxl, not flux2"):
        generate(base, ["a man"], artifacts=[(other, 1.0)], steps=1)


# ------------------------------------------------------------------------------------------------ learning


@test_registering.every_check
@pytest.mark.parametrize(
    "method", ["textual-inversion", "dreambooth-lora", "magictailor", "magicapture", "masterweaver"]
)
def test_klein_is_learned_on(check, method, base, folder, monkeypatch):
    monkeypatch.setattr(base.text, "length", 96)  # a fifth of the time
    check(method, base, folder)


def test_pictures_keep_their_proportions_inside_masks_and_runs_resume_bit_for_bit(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base.text, "length", 96)
    folder, tokens = test_sizes.write_shapes(tmp_path), set()
    handle = base.network.register_forward_pre_hook(lambda _, inputs: tokens.add(inputs[0].shape[1]))
    changes = {"settings": {"steps": 5, "masked_loss": True}}
    whole = Artifact.load(train(tiny_job("dreambooth-lora", folder, "whole", **changes), base=base))
    handle.remove()
    assert tokens >= {60, 64}  # latents of 24 x 40 and 32 x 32 pixels, one a token
    train(tiny_job("dreambooth-lora", folder, "part", **changes), test_sizes.StopAt(2), base)
    rest = Artifact.load(
        train(tiny_job("dreambooth-lora", folder, "part", resume=True, **changes), base=base)
    )
    assert rest.steps == 5
    test_methods.assert_same_tensors(dict(whole.tensors), dict(rest.tensors))


def test_a_run_ends_when_its_pictures_are_liked(base, folder, monkeypatch):
    monkeypatch.setattr(base.text, "length", 96)
    critic = Scripted(liked=2, enough_at=3)
    found = Artifact.load(train(tiny_job("textual-inversion", folder), base=base, critic=critic))
    assert [step for step, _ in critic.seen] == [1, 2, 3] and critic.seen[0][1] == (1, 32, 32, 3)
    assert found.steps == 2


@pytest.mark.parametrize("method", ["custom-diffusion"])
def test_methods_that_need_what_klein_lacks_are_refused_by_name(method, base, folder):
    with pytest.raises(LikenessError, match=rf"{method} needs .* \(FLUX\.2 Klein 4B\) does not offer"):
        train(tiny_job(method, folder), base=base)
    assert not (folder / "me.safetensors").exists()


def test_what_a_run_on_klein_needs_is_estimated_before_it(base, folder, monkeypatch):
    """On hollow weights, which nothing in a pass may look into."""
    monkeypatch.setattr(base.text, "length", 96)
    told, notes = test_methods.Watcher(), []
    monkeypatch.setattr(told, "on_note", notes.append, raising=False)
    train(tiny_job("textual-inversion", folder, memory=4.0), told, base)
    assert any(note.startswith("memory: about 0.") for note in notes)


def test_text_that_is_computed_again_has_the_same_gradients(base: BaseModel):
    found = []
    for on in (False, True):
        row = torch.ones(1, tiny_flux2.WIDTH, requires_grad=True)
        base.recompute(on)
        try:
            states = base.encode_text(["a <v0> man"], {"<v0>": {"qwen3_4b": row}}).states
        finally:
            base.recompute(False)
        states.square().mean().backward()
        found.append((states.detach(), row.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][1].any() and not any(
        "forward" in vars(layer) for layer in base.text_encoders["qwen3_4b"].layers
    )


def test_an_exported_lora_comes_back_and_diffusers_own_get_their_alphas(base, folder, monkeypatch):
    monkeypatch.setattr(base.text, "length", 96)
    learned = Artifact.load(train(tiny_job("dreambooth-lora", folder), base=base))
    lora = learned.lora()
    assert len({key for key in lora if ".lora_A." in key}) == 8 + 2 * 2 + 4 * 3  # and the text encoder's
    (file, _) = export_stock(learned, folder / "out", "anna")
    back = import_file(file)
    assert (back.kind, back.base_family) == ("lora", "flux2")
    test_methods.assert_same_tensors(lora, dict(back.tensors))
    bare = {
        key: value for key, value in lora.items() if key.startswith("transformer.") and ".alpha" not in key
    }
    save_file(bare, folder / "bare.safetensors")
    found = import_file(folder / "bare.safetensors").tensors
    ranks = {
        key.removesuffix("lora_A.weight"): float(len(value)) for key, value in bare.items() if "_A." in key
    }
    assert {
        key.removesuffix("alpha"): float(value) for key, value in found.items() if "alpha" in key
    } == ranks
