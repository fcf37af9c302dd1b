"""Single-file checkpoints in the layouts of SD 1.x, SD 2.x and SDXL, written here from tiny bases."""

import logging
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.stored import StoredLinear
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import model as miniature
from likeness_portraits.tests.engine.tiny import tiny_base
from likeness_portraits.tests.engine.training.checkpoints_made import checkpoint_of

UNET, VAE = "model.diffusion_model.", "first_stage_model."
SIZES = {"sd1": 256, "sd2": 256, "sdxl": 512}  # pixels: of full-sized U-Nets, with this small VAE


@pytest.fixture(scope="module", params=SIZES)
def base(request: pytest.FixtureRequest) -> BaseModel:
    # the numbers of heads that the reader takes from the family for these widths
    return tiny_base(family=request.param, heads=8, text_heads=1)


@pytest.fixture(scope="module")
def sd1() -> dict[str, torch.Tensor]:
    return checkpoint_of(tiny_base(heads=8, text_heads=1))


def spec(path: Path, **more: Any) -> BaseSpec:
    return BaseSpec(
        kind="checkpoint", path=str(path), tokenizer=str(miniature.tokenizer_folder()),
        **{key: str(value) for key, value in more.items()},
    )  # fmt: skip


def written(path: Path, state: dict[str, torch.Tensor], **metadata: str) -> Path:
    save_file({key: value.clone() for key, value in state.items()}, path, metadata or None)
    return path


def assert_same(base: BaseModel, loaded: BaseModel) -> None:
    for ours, theirs in zip(base.state_dict().items(), loaded.state_dict().items()):
        assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1]), ours[0]
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 0.02])
    prompts = ["a photo of a woman", ""]
    context = loaded.encode_text(prompts)
    assert torch.equal(context.states, base.encode_text(prompts).states)
    assert torch.equal(loaded.predict(noisy, t, context), base.predict(noisy, t, context))
    assert torch.equal(loaded.decode(noisy), base.decode(noisy))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_checkpoint_gives_the_same_model(base: BaseModel, tmp_path: Path, suffix: str):
    path, state = tmp_path / f"model{suffix}", checkpoint_of(base)
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 1}, path)
    else:
        written(path, state)
    loaded = load_base(spec(path))
    assert (loaded.family, loaded.resolution) == (base.family, SIZES[base.family])
    assert_same(base, loaded)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_every_plain_precision_is_read_exactly(base: BaseModel, tmp_path: Path, kind: torch.dtype):
    state = {key: value.to(kind) for key, value in checkpoint_of(base).items()}
    loaded = load_base(spec(written(tmp_path / "model.safetensors", state)))
    layers = [layer for layer in loaded.unet.modules() if isinstance(layer, StoredLinear)]
    stored = {id(layer.stored) for layer in layers}  # in 8 bits, as long as nothing is computed
    assert {layer.stored.dtype for layer in layers} == ({kind} if kind.itemsize == 1 else set())
    assert all(weight.dtype == torch.float32 for weight in loaded.parameters() if id(weight) not in stored)
    wide = {key: value.float() for key, value in state.items()}
    plain = load_base(spec(written(tmp_path / "wide.safetensors", wide)))
    assert plain.fingerprint == loaded.fingerprint
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 0.02])
    context = plain.encode_text(["a photo of a woman", ""])
    for autocast in (False, True):  # in bf16
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert torch.equal(loaded.predict(noisy, t, context), plain.predict(noisy, t, context))


def test_mixed_precisions_are_read_and_said(sd1: dict[str, torch.Tensor], tmp_path: Path, caplog):
    state = {key: value.half() if key.startswith(UNET) else value for key, value in sd1.items()}
    with caplog.at_level(logging.INFO):
        loaded = load_base(spec(written(tmp_path / "model.safetensors", state)))
    assert "mixes precisions" in caplog.text
    assert all(weight.dtype == torch.float32 for weight in loaded.parameters())


def test_a_vae_and_text_encoders_are_taken_from_where_the_spec_says(base: BaseModel, tmp_path: Path):
    state = checkpoint_of(base)
    alone = written(tmp_path / "unet.safetensors", {k: v for k, v in state.items() if k.startswith(UNET)})
    whole = written(tmp_path / "whole.safetensors", state)
    bare = {key.removeprefix(VAE): value for key, value in state.items() if key.startswith(VAE)}
    vae = written(tmp_path / "vae.safetensors", bare)
    assert_same(base, load_base(spec(alone, vae=vae, clip=whole)))
    folder = tmp_path / "vae"
    base.vae.save_pretrained(folder)
    assert_same(base, load_base(spec(alone, vae=folder, clip=whole)))


def test_a_checkpoint_without_clip_or_vae_says_where_to_name_one(base: BaseModel, tmp_path: Path):
    state = checkpoint_of(base)
    for missing, words in {
        ("cond_stage_model.", "conditioner."): "holds no text encoder.*the base's 'clip'",
        (VAE,): "holds no VAE.*the base's 'vae'",
    }.items():
        part = {key: value for key, value in state.items() if not key.startswith(missing)}
        with pytest.raises(LikenessError, match=words):
            load_base(spec(written(tmp_path / "model.safetensors", part)))


def test_what_a_checkpoint_predicts_is_read_from_it(tmp_path: Path):
    for family, marks, metadata, expected in (
        ("sdxl", ("v_pred", "ztsnr"), {}, "v_prediction"),
        ("sdxl", (), {"modelspec.prediction_type": "v"}, "v_prediction"),
        ("sd1", (), {"modelspec.prediction_type": "eps"}, "epsilon"),
        ("sd2", (), {}, "epsilon"),
    ):
        state = checkpoint_of(tiny_base(family=family))
        state |= {mark: torch.zeros(0) for mark in marks}
        loaded = load_base(spec(written(tmp_path / "model.safetensors", state, **metadata)))
        assert loaded.process.prediction_type == expected
        assert (float(loaded.process.alphas_cumprod[-1]) < 1e-6) == ("ztsnr" in marks)
    key = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"  # of a full-sized SD 2.x
    from likeness_portraits.engine.bases.loaders.checkpoint_file import Stored
    from likeness_portraits.engine.bases.loaders.single_file import _prediction

    loud, quiet = torch.tensor([-0.2, 0.2]), torch.tensor([-0.01, 0.01])
    assert _prediction(tmp_path, Stored({key: loud}, {}), "sd2") == "v_prediction"
    assert _prediction(tmp_path, Stored({key: quiet}, {}), "sd2") == "epsilon"


def test_what_a_checkpoint_does_not_say_is_read_beside_it_or_told(sd1, tmp_path: Path):
    path, beside = written(tmp_path / "model.safetensors", sd1), tmp_path / "model.yaml"
    for text, expected in (
        ('model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        ("model:\n  params:\n    parameterization: eps\n", "epsilon"),
        ("model:\n  params: {}\n", "epsilon"),
        ("steps: 5\n", "epsilon"),  # somebody's job, not the model's
    ):
        beside.write_text(text)
        assert load_base(spec(path)).process.prediction_type == expected, text
    beside.write_text('model: {params: {parameterization: "v"}}')
    assert load_base(spec(path, prediction="epsilon")).process.prediction_type == "epsilon"
    beside.write_text("model: {params: {parameterization: x0}}")
    with pytest.raises(LikenessError, match=r"model\.yaml predicts 'x0', neither noise nor velocity"):
        load_base(spec(path))
    beside.write_text("model: [")
    with pytest.raises(LikenessError, match=r"model\.yaml is not valid YAML"):
        load_base(spec(path))


@pytest.mark.parametrize("name", ["model.ckpt", "model.SAFETENSORS", "model.bin"])
def test_a_checkpoint_is_read_whatever_its_ending_is(sd1, tmp_path: Path, name: str):
    assert load_base(spec(written(tmp_path / name, sd1))).family == "sd1"
    assert BaseSpec.parse(str(tmp_path / "Other" / name)).kind == "checkpoint"


def test_a_checkpoint_without_a_tokenizer_says_what_to_give(sd1, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    path = written(tmp_path / "model.safetensors", sd1)
    with pytest.raises(LikenessError, match="name the folder of CLIP's"):
        load_base(BaseSpec.parse(str(path)))
    with pytest.raises(LikenessError, match="holds no tokenizer"):
        load_base(BaseSpec.parse(str(path), tokenizer=str(tmp_path)))


def test_a_tokenizer_beside_the_checkpoint_or_in_comfyui_is_found(sd1, tmp_path: Path, monkeypatch):
    path = written(tmp_path / "model.safetensors", sd1)
    comfy = tmp_path / "ComfyUI" / "comfy" / "sd1_tokenizer"
    miniature.tokenizer().save_pretrained(comfy)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "ComfyUI"))
    assert load_base(BaseSpec.parse(str(path))).family == "sd1"
    monkeypatch.delenv("COMFYUI_PATH")
    comfy.rename(tmp_path / "tokenizer")
    assert load_base(BaseSpec.parse(str(path))).family == "sd1"


# --------------------------------------------------------------------------------------------------- refusals

KEYS = {  # what gives a file away, and how it is refused
    "sd3": ({"model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": 2}, "Stable Diffusion 3"),
    "flux": (
        {"double_blocks.0.img_attn.qkv.weight": 2},
        "FLUX.*diffusion transformer, and of its kind only FLUX.2 Klein",
    ),
    "flux, prefixed": ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": 2}, "FLUX"),
    "auraflow": ({"model.double_layers.0.attn.w1q.weight": 2}, "AuraFlow"),
    "wan": ({"patch_embedding.weight": 2, "blocks.0.self_attn.q.weight": 2}, "Wan"),
    "lora": ({"lora_unet_mid_block.lora_down.weight": 2}, "is a LoRA, not a base model"),
    "part of a folder": (
        {"down_blocks.0.resnets.0.conv1.weight": 2},
        "the folder that holds its model_index",
    ),
    "something else": ({"something": 1}, "holds no diffusion model that we know"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_files_of_other_kinds_are_refused_by_name(kind: str, tmp_path: Path):
    keys, words = KEYS[kind]
    state = {key: torch.zeros((2,) * rank) for key, rank in keys.items()}
    with pytest.raises(LikenessError, match=words) as caught:
        load_base(spec(written(tmp_path / "model.safetensors", state)))
    assert "\n" not in str(caught.value)


def test_inpainting_and_refiner_and_unclip_models_are_refused_by_name(sd1, tmp_path: Path):
    first = UNET + "input_blocks.0.0.weight"
    label = {UNET + "label_emb.0.0.weight": torch.zeros(2, 2)}
    for state, words in (
        ({**sd1, first: torch.zeros(32, 9, 3, 3)}, "inpainting or editing model.*reads 9 channels"),
        ({first: sd1[first], **label, "conditioner.embedders.0.model.ln_final.weight": torch.zeros(2)},
         "is the SDXL refiner.*learn on the SDXL base"),
        ({first: sd1[first], **label, "cond_stage_model.model.ln_final.weight": torch.zeros(2)}, "unCLIP"),
    ):  # fmt: skip
        with pytest.raises(LikenessError, match=words):
            load_base(spec(written(tmp_path / "model.safetensors", state)))


def test_quantised_files_are_refused_by_name(sd1, tmp_path: Path):
    first = next(key for key in sd1 if key.endswith("attn1.to_q.weight"))
    packed = {**sd1, first: torch.zeros(4, 4, dtype=torch.uint8)}
    scaled = {**sd1, first.replace(".weight", ".scale_weight"): torch.ones(())}
    for state, words in ((packed, f"quantised.*{first} is stored as uint8"), (scaled, "fp8 with scales")):
        with pytest.raises(LikenessError, match=words + ".*get it in fp16"):
            load_base(spec(written(tmp_path / "model.safetensors", state)))
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF" + struct.pack("<I", 3))
    with pytest.raises(LikenessError, match="GGUF file.*get it in fp16"):
        load_base(spec(gguf))


def test_a_file_that_is_cut_off_says_how_much_is_missing(sd1, tmp_path: Path):
    path = written(tmp_path / "model.safetensors", sd1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LikenessError, match=r"is cut off: .* MB are there; download it again"):
        load_base(spec(path))
    path.write_bytes(whole[:20])
    with pytest.raises(LikenessError, match="is not a model, or is damaged"):
        load_base(spec(path))


def test_a_checkpoint_that_lacks_a_layer_is_refused(base: BaseModel, tmp_path: Path):
    part = {key: value for key, value in checkpoint_of(base).items() if "time_embed" not in key}
    with pytest.raises(LikenessError, match="is not a whole SD.* checkpoint"):
        load_base(spec(written(tmp_path / "model.safetensors", part)))


class Callback:
    """Stands for Lightning's ModelCheckpoint, whose class lies among the weights of 2022's checkpoints."""

    def __init__(self) -> None:
        self.best_model_path, self.when = "last.ckpt", Path("logs")


def test_an_early_checkpoint_full_of_classes_gives_the_same_model(base: BaseModel, tmp_path: Path):
    early = {
        "callbacks": {Callback: {"best": torch.ones(2), "callback": Callback()}},
        "hyper_parameters": {"scheduler": np.float64(1.0), "loss": Callback},
        "pytorch-lightning_version": "1.4.2", "state_dict": OrderedDict(checkpoint_of(base)),
    }  # fmt: skip
    torch.save(early, tmp_path / "model.ckpt")
    assert_same(base, load_base(spec(tmp_path / "model.ckpt")))


def test_a_pickle_that_would_run_code_is_refused_unopened(tmp_path: Path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"state_dict": Hostile()}, tmp_path / "model.ckpt")
    with pytest.raises(LikenessError, match="is not a model"):
        load_base(spec(tmp_path / "model.ckpt"))
    assert not (tmp_path / "written").exists()
