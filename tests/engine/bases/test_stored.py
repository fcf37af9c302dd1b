"""Frozen weights in fp8 and int8, kept as they are stored: a FLUX.2 Klein of tiny random weights."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.numbers import first_broken
from likeness_portraits.engine.bases.stored import EIGHT_BITS, StoredLinear
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import applied
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.memory import MemoryPlan, MemorySettings, bytes_of
from likeness_portraits.tests.engine import tiny_flux2
from likeness_portraits.tests.engine.tiny import tiny_job

pytest.importorskip("diffusers", "0.36")
pytest.importorskip("transformers", "4.51")

FP8 = torch.float8_e4m3fn


def told(**words: object) -> Tensor:
    return torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)


def stored(weight: Tensor, how: str) -> dict[str, Tensor]:
    """A layer's tensors as files have them, by what follows its name."""
    if how == "plain fp8":
        return {"weight": weight.to(FP8)}
    if how == "fp8 with an older scale":
        scale = weight.abs().max() / 448
        return {"weight": (weight / scale).to(FP8), "scale_weight": scale, "scale_input": torch.ones(())}
    if how == "fp8 with ComfyUI's scale":
        scale = weight.abs().max() / 448
        return {"weight": (weight / scale).to(FP8), "weight_scale": scale,
                "comfy_quant": told(format="float8_e4m3fn")}  # fmt: skip
    scale = weight.abs().max() / 127 if how == "int8" else weight.abs().amax(1, keepdim=True) / 127
    return {"weight": (weight / scale).round().to(torch.int8), "weight_scale": scale.float(),
            "comfy_quant": told(format="int8_tensorwise")}  # fmt: skip


FORMATS = ["plain fp8", "fp8 with an older scale", "fp8 with ComfyUI's scale", "int8", "int8 by rows"]


def both(state: dict[str, Tensor], how: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A network's tensors with its matrices in 8 bits, and the same numbers widened to bf16."""
    narrow, wide = {}, {}
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        wide[key] = narrow[key] = value.bfloat16()
        if part == "weight" and value.ndim == 2 and "embed_tokens" not in key:
            parts = stored(value, how)
            narrow |= {f"{layer}.{name}": tensor for name, tensor in parts.items()}
            scale = parts.get("weight_scale", parts.get("scale_weight", torch.ones(())))
            wide[key] = (parts["weight"].float() * scale).bfloat16()
    return narrow, wide


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[BaseModel, BaseModel]]:
    """By format: a base of a file in it, and one of the widened file."""
    parts = tiny_flux2.tiny_parts()
    network, text = tiny_flux2.bfl_names(parts["transformer"].state_dict()), parts["text_encoder"].model
    found = {}
    for how in FORMATS:
        states = zip(both(network, how), both(text.state_dict(), how))
        loaded = []
        for transformer, clip in states:
            folder = tmp_path_factory.mktemp("files")
            files = tiny_flux2.write_files(folder, transformer=transformer, clip=clip)
            rest = {name: files[name] for name in ("vae", "clip", "tokenizer")}
            loaded.append(load_base(BaseSpec.parse(files["transformer"], **rest)))
        found[how] = (loaded[0], loaded[1])
    return found


def seen(base: BaseModel) -> tuple[Tensor, Tensor, Tensor]:
    """Text states, the velocity for them, and its gradient by them."""
    words = base.encode_text(["a photo of a woman, (smiling)"])
    states = words.states.detach().requires_grad_()
    noisy = torch.randn(1, *base.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
    out = base.predict(noisy, torch.tensor([0.6]), Conditioning(states=states))
    out.float().square().mean().backward()
    assert states.grad is not None
    return words.states, out.detach(), states.grad


@pytest.mark.parametrize("how", FORMATS)
def test_a_base_in_8_bits_stays_so_and_computes_what_the_widened_one_does_bit_for_bit(how, bases):
    narrow, wide = bases[how]
    assert narrow.fingerprint == wide.fingerprint
    for ours, theirs in zip(seen(narrow), seen(wide), strict=True):
        assert torch.equal(ours, theirs) and ours.any()
    kept = [layer for layer in narrow.modules() if isinstance(layer, StoredLinear)]
    assert len(kept) > 30 and {layer.stored.dtype for layer in kept} <= EIGHT_BITS
    networks = [(base.network, *base.text_encoders.values()) for base in (narrow, wide)]
    embedded = bytes_of([narrow.text_encoders["qwen3_4b"].embed_tokens])
    now, before = (bytes_of(parts) - embedded for parts in networks)
    assert now < 0.55 * before  # all but norms and what comes first


def test_a_lora_is_learned_on_8_bits_as_on_the_widened_base_and_merged_for_drawing(bases, folder):
    how, learned = "int8 by rows", []
    for number, base in enumerate(bases[how]):
        base.text.length = 96  # type: ignore[attr-defined]
        job = tiny_job("dreambooth-lora", folder, resolution=32, output=str(folder / f"{number}.safetensors"))
        learned.append(Artifact.load(train(job, base=base)))
    ours, theirs = (one.tensors for one in learned)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(name.endswith("lora_B.weight") and tensor.any() for name, tensor in ours.items())
    narrow, wide = bases[how]
    before = seen(narrow)
    with applied(narrow, [(learned[0], 1.0)]), applied(wide, [(learned[0], 1.0)]):
        changed = seen(narrow)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(changed, seen(wide), strict=True))
    assert not torch.equal(changed[1], before[1])
    assert all(torch.equal(now, once) for now, once in zip(seen(narrow), before, strict=True))


def test_no_measure_widens_what_is_stored_and_turns_take_it_as_it_is(bases, folder):
    narrow, _ = bases["plain fp8"]
    plain = seen(narrow)
    measures = MemorySettings(half=True, checkpointing=True, turns="blocks")
    plan = SimpleNamespace(
        method=SimpleNamespace(base=narrow), device=torch.device("cpu"), _own={}, measures=measures
    )
    MemoryPlan.take_early(plan)  # type: ignore[arg-type]
    try:
        kinds = {layer.stored.dtype for layer in narrow.modules() if isinstance(layer, StoredLinear)}
        assert kinds == {FP8}
        assert all(torch.equal(now, once) for now, once in zip(seen(narrow), plain, strict=True))
    finally:
        MemoryPlan.undo(plan)  # type: ignore[arg-type]


def test_a_value_that_is_no_number_is_found_in_8_bits(bases):
    narrow, _ = bases["plain fp8"]
    assert first_broken(narrow) is None
    layer = narrow.network.single_transformer_blocks[0].attn.to_out
    before = layer.stored.data.clone()
    layer.stored.data[0, 0] = float("nan")
    try:
        assert first_broken(narrow) == "single_transformer_blocks.0.attn.to_out.stored of its transformer"
    finally:
        layer.stored.data = before


REFUSED = {  # what lies in the place of a layer, and what is said of it
    "scales of blocks": (
        {"weight": torch.zeros(32, 32, dtype=FP8), "weight_scale": torch.ones(32, 1, dtype=torch.uint8)},
        "has scales of blocks",
    ),
    "rotated": (
        {"weight": torch.zeros(32, 32, dtype=torch.int8), "weight_scale": torch.ones(32, 1),
         "comfy_quant": told(format="int8_tensorwise", convrot=True)},
        "is int8_tensorwise with rotated weights",
    ),
    "NVFP4": (
        {"weight": torch.zeros(32, 16, dtype=torch.uint8), "weight_scale": torch.zeros(32, 2, dtype=FP8),
         "weight_scale_2": torch.ones(()), "comfy_quant": told(format="nvfp4")},
        "is nvfp4",
    ),
    "int8 without a scale": ({"weight": torch.zeros(32, 32, dtype=torch.int8)}, "weight is int8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_packed_in_other_ways_is_refused_by_name(case, tmp_path: Path):
    parts, said = REFUSED[case]
    state = tiny_flux2.bfl_names(tiny_flux2.tiny_parts()["transformer"].state_dict())
    state |= {f"double_blocks.0.img_attn.proj.{name}": tensor for name, tensor in parts.items()}
    files = tiny_flux2.write_files(tmp_path, transformer=state)
    rest = {name: files[name] for name in ("vae", "clip", "tokenizer")}
    with pytest.raises(LikenessError, match=f"quantised and cannot be learned on .*{said}.*get it in bf16"):
        load_base(BaseSpec.parse(files["transformer"], **rest))
