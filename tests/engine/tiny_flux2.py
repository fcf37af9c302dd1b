"""A FLUX.2 Klein of a few thousand random weights, as a diffusers folder and as people's single files."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SIDE = 32  # pixels that it was trained with: eight latents
WIDTH = 32  # of the text encoder
LAYERS = 5  # of the text encoder, the last two of which nobody reads
_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
_WORDS = ("woman",)  # that are one token, as common words are; all else is bytes


def write_tokenizer(folder: Path) -> Path:
    """Qwen's kind of tokenizer over bytes, with the marks of a chat."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {letter: number for number, letter in enumerate(letters)}
    made = Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in _MARKS])
    made.add_tokens([AddedToken(word, normalized=False) for word in _WORDS])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": _MARKS[0], "eos_token": _MARKS[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def tiny_parts(words: int = 256 + len(_MARKS) + len(_WORDS)) -> dict[str, Any]:
    """The three networks, always of the same weights; `words` in the text encoder's vocabulary."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformer = Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=3 * WIDTH, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
        )  # fmt: skip
        for path, weight in transformer.named_parameters():
            if path.endswith(("attn.to_out.0.weight", "attn.to_out.weight")):
                weight.data *= 8  # random attention is weak: four steps on words should show
        vae = AutoencoderKLFlux2(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4, sample_size=SIDE,
        )  # fmt: skip
        vae.bn.running_mean.normal_(0, 0.1)
        vae.bn.running_var.uniform_(0.5, 1.5)
        config = Qwen3Config(
            vocab_size=words, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=LAYERS,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, rope_theta=1e6,
            tie_word_embeddings=True,
        )  # fmt: skip
        text = Qwen3ForCausalLM(config)
    return {"transformer": transformer, "vae": vae, "text_encoder": text}


def write_folder(folder: Path) -> Path:
    """A diffusers folder, as `Flux2KleinPipeline.save_pretrained` lays it out."""
    for name, part in tiny_parts().items():
        part.save_pretrained(folder / name)
    write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Flux2KleinPipeline"}))
    return folder


def bfl_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's tensors as Black Forest Labs write them: fused, and shift before scale at the end."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        for theirs, ours in _WHOLE.items():
            key = key.replace(theirs, ours)
        kind = "double" if key.startswith("transformer_blocks.") else "single"
        front, _, inside = key.partition("transformer_blocks.")
        if inside:
            number, _, leaf = inside.partition(".")
            block = f"{kind}_blocks.{number}."
            for theirs, ours in _BLOCKS[kind].items():
                leaf = leaf.replace(theirs, ours)
            key = block + leaf
        if key == "final_layer.adaLN_modulation.1.weight":
            value = torch.cat([value[len(value) // 2 :], value[: len(value) // 2]])
        if "#" in key:  # one of three that are fused, which come in order
            key = key.partition("#")[0] + ".weight"
            value = torch.cat([found[key], value]) if key in found else value
        found[key] = value.contiguous().clone()
    return found


_WHOLE = {
    "x_embedder": "img_in", "context_embedder": "txt_in", "modulation_img.linear": "modulation_img.lin",
    "modulation_txt.linear": "modulation_txt.lin", "stream_modulation.linear": "stream_modulation.lin",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer", "norm_out.linear":
    "final_layer.adaLN_modulation.1", "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "proj_out": "final_layer.linear",
}  # fmt: skip
_BLOCKS = {
    "double": {
        "attn.to_q.": "img_attn.qkv#q.", "attn.to_k.": "img_attn.qkv#k.", "attn.to_v.": "img_attn.qkv#v.",
        "attn.add_q_proj": "txt_attn.qkv#q", "attn.add_k_proj": "txt_attn.qkv#k",
        "attn.add_v_proj": "txt_attn.qkv#v", "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
        "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale", "attn.norm_q.weight":
        "img_attn.norm.query_norm.scale", "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
        "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj", "ff_context.linear_in":
        "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2", "ff.linear_in": "img_mlp.0", "ff.linear_out":
        "img_mlp.2",
    },
    "single": {
        "attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2", "attn.norm_q.weight":
        "norm.query_norm.scale", "attn.norm_k.weight": "norm.key_norm.scale",
    },
}  # fmt: skip


def write_files(folder: Path, **changed: dict[str, Tensor]) -> dict[str, str]:
    """People's single files, `transformer`, `vae` and `clip`, and the tokenizer's folder; `changed`: what is
    in some instead. Returns their paths."""
    parts = {name: part.state_dict() for name, part in tiny_parts().items()}
    text = {key: value for key, value in parts["text_encoder"].items() if key != "lm_head.weight"}
    states = {"transformer": bfl_names(parts["transformer"]), "vae": parts["vae"], "clip": text, **changed}
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in states.items():
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
    found = {name: str(folder / f"{name}.safetensors") for name in states}
    return {**found, "tokenizer": str(write_tokenizer(folder / "words"))}


def write_host_files(models: Path) -> dict[str, str]:
    """Files as people have them in ComfyUI's folder of models, of sizes that its own loaders take (text
    encoder and autoencoder: with tests/comfy/tiny_klein). Returns their paths, by `transformer`, `vae`,
    `clip`."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        transformer = Flux2Transformer2DModel(
            in_channels=128, num_layers=1, num_single_layers=2, attention_head_dim=128, num_attention_heads=2,
            joint_attention_dim=3 * WIDTH, guidance_embeds=False,
        )  # fmt: skip
        vae = AutoencoderKLFlux2(
            block_out_channels=(32, 64, 128, 128), layers_per_block=1, latent_channels=32, sample_size=SIDE
        )
        vae.bn.running_mean.normal_(0, 0.1)
        vae.bn.running_var.uniform_(0.5, 1.5)
        text = Qwen3ForCausalLM(Qwen3Config(
            vocab_size=151936, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=LAYERS,
            num_attention_heads=2, num_key_value_heads=1, head_dim=128, rope_theta=1e6,
            tie_word_embeddings=True,
        ))  # fmt: skip
    found = {
        "transformer": ("diffusion_models/flux-2-klein-base-4b", bfl_names(transformer.state_dict())),
        "vae": ("vae/flux2-vae", vae.state_dict()),
        "clip": ("text_encoders/qwen_3_4b",
                 {key: value for key, value in text.state_dict().items() if key != "lm_head.weight"}),
    }  # fmt: skip
    for name, state in found.values():
        file = models / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in state.items()}, file)
    return {part: str(models / f"{name}.safetensors") for part, (name, _) in found.items()}
