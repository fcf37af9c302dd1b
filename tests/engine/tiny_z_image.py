"""A Z-Image of a few thousand random weights, as a diffusers folder and as people's single files."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from likeness_portraits.engine.artifact.z_image_names import z_image_for_core
from likeness_portraits.tests.engine.tiny_flux2 import LAYERS, SIDE, WIDTH, write_tokenizer

DIM = 32  # of the transformer: two heads of 16
_WORDS = 262  # in the tiny tokenizer


def tiny_parts() -> dict[str, Any]:
    """The three networks, always of the same weights."""
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformer = ZImageTransformer2DModel(
            in_channels=4, dim=DIM, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
            cap_feat_dim=WIDTH, axes_dims=[4, 6, 6], axes_lens=[1536, 512, 512],
        )  # fmt: skip
        _varied(transformer)
        vae = AutoencoderKL(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4, sample_size=SIDE,
            scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
        config = Qwen3Config(
            vocab_size=_WORDS, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=LAYERS,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, rope_theta=1e6,
            tie_word_embeddings=True,
        )  # fmt: skip
        text = Qwen3ForCausalLM(config)
    return {"transformer": transformer, "vae": vae, "text_encoder": text}


def _varied(transformer: Any) -> None:
    """Numbers where a new network has zeros, or so few that four steps on words would not show."""
    for path, weight in transformer.named_parameters():
        if path.endswith("pad_token"):
            weight.data.normal_()
        if path.endswith("attention.to_out.0.weight"):
            weight.data *= 8
        if "adaLN_modulation" in path and path.endswith("bias"):
            weight.data.normal_(0, 0.3)


def write_folder(folder: Path) -> Path:
    """A diffusers folder, as `ZImagePipeline.save_pretrained` lays it out."""
    for name, part in tiny_parts().items():
        part.save_pretrained(folder / name)
    write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ZImagePipeline"}))
    return folder


def write_files(folder: Path, **changed: dict[str, Tensor]) -> dict[str, str]:
    """People's single files, `transformer`, `vae` and `clip`, and the tokenizer's folder; `changed`: what is
    in some instead. Returns their paths."""
    parts = {name: part.state_dict() for name, part in tiny_parts().items()}
    text = {key: value for key, value in parts["text_encoder"].items() if key != "lm_head.weight"}
    states = {
        "transformer": z_image_for_core(parts["transformer"]), "vae": parts["vae"], "clip": text, **changed
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in states.items():
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
    found = {name: str(folder / f"{name}.safetensors") for name in states}
    return {**found, "tokenizer": str(write_tokenizer(folder / "words"))}
