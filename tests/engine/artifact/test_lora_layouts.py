"""Others' LoRAs: what they are for, what is said about what cannot be drawn, and PEFT's own strengths."""

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

from likeness_portraits.engine.artifact import Artifact, import_file
from likeness_portraits.engine.artifact.lora import adaptable, ldm_paths, lora_changed, merged, unet_name
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.tests.engine.tiny import tiny_base

BLOCK = "down_blocks_1_attentions_0_transformer_blocks_0"


def lora(name: str, inside: int = 320, out: int = 320) -> dict[str, torch.Tensor]:
    return {
        f"{name}.lora_down.weight": torch.ones(2, inside),
        f"{name}.lora_up.weight": torch.ones(out, 2),
    }


def saved(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata)
    return path


# --------------------------------------------------------------------------------------------- for which base


@pytest.mark.parametrize(
    ("tensors", "family"),
    [
        (lora(f"lora_unet_{BLOCK}_attn2_to_k", 768, 640), "sd1"),
        (lora(f"lora_unet_{BLOCK}_attn2_to_v", 1024, 640), "sd2"),
        (lora(f"lora_unet_{BLOCK}_attn2_to_k", 2048, 640), "sdxl"),
        (lora(f"lora_unet_{BLOCK}_attn2_to_k", 128, 128), "miniature"),
        (lora(f"lora_unet_{BLOCK[:-1]}1_attn1_to_q", 640, 640), "sdxl"),  # a second transformer block
        (lora("lora_unet_input_blocks_8_1_transformer_blocks_9_attn1_to_q", 1280, 1280), "sdxl"),
        (lora("lora_te2_text_model_encoder_layers_0_self_attn_q_proj", 1280, 1280), "sdxl"),
        (lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", 768, 3072), "sdxl"),
        (lora("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 1024, 1024), "sd2"),
        (lora(f"lora_unet_{BLOCK}_attn1_to_q", 64, 64), "miniature"),
    ],
)
def test_the_base_is_known_by_what_only_it_has(tmp_path: Path, tensors, family: str, caplog):
    assert import_file(saved(tmp_path / "x.safetensors", tensors)).base_family == family
    assert not caplog.records


def test_where_several_bases_would_do_the_file_is_asked_then_the_user_and_a_guess_is_said(
    tmp_path: Path, caplog
):
    tensors = lora("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q")
    path = saved(tmp_path / "x.safetensors", tensors)
    with caplog.at_level(logging.WARNING):
        assert import_file(path).base_family == "sd1"
    assert "x.safetensors fits SD 1.x and SD 2.x alike; it is taken for SD 1.x" in caplog.text
    assert import_file(path, family="sd2").base_family == "sd2"
    with pytest.raises(LikenessError, match=r"x\.safetensors does not fit SDXL; it is for another base"):
        import_file(path, family="sdxl")
    caplog.clear()
    told = saved(tmp_path / "y.safetensors", tensors, {"ss_base_model_version": "sd_v2"})
    assert import_file(told).base_family == "sd2" and not caplog.records


def test_the_command_takes_the_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = saved(tmp_path / "x.safetensors", lora("lora_unet_down_blocks_0_resnets_0_conv1_odd"))
    out = tmp_path / "o.safetensors"
    assert main(["import", str(path), "--family", "sd2", "-o", str(out)]) == 0
    assert Artifact.load(out).base_family == "sd2"
    assert main(["import", str(path), "--family", "sd3", "-o", str(out.with_name("other.safetensors"))]) == 2
    assert "unknown family of bases 'sd3'; did you mean 'sd" in capsys.readouterr().err


def test_a_lora_of_one_of_two_text_encoders_is_numbered(tmp_path: Path):
    tensors = {
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": torch.ones(2, 2048),
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": torch.ones(640, 2),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 768),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(768, 2),
    }
    found = import_file(saved(tmp_path / "x.safetensors", tensors))
    assert found.base_family == "sdxl"
    assert {key.split(".")[0] for key in found.tensors} == {
        f"lora_unet_{BLOCK}_attn2_to_k", "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("down_blocks.0.attentions.0.x.lora_magnitude_vector", "is PEFT's DoRA, whose magnitudes"),
        (f"lora_unet_{BLOCK}_attn1_to_q.a1.weight", "is a GLoRA"),
        (f"lora_unet_{BLOCK}_attn1_to_q.on_input", r"is an \(IA\)³"),
        (f"lora_unet_{BLOCK}_attn1_to_q.oft_diag", "is an OFT of another kind"),
        (f"lora_unet_{BLOCK}_attn1_to_q.rescale", "is an OFT of another kind"),
        ("text_encoder.embeddings.token_embedding.lora_embedding_A", "is a LoRA of the word table"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "is a LoRA for FLUX"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "is a LoRA for FLUX"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "for a diffusion transformer"),
        ("lora_prior_unet_x.lora_down.weight", "for Stable Cascade"),
        ("model.lora.surprise", "which no layout of LoRAs that we know has"),
    ],
)
def test_what_cannot_be_drawn_is_refused_under_its_own_name(tmp_path: Path, key: str, message: str):
    tensors = {**lora(f"lora_unet_{BLOCK}_attn2_to_k", 768, 640), key: torch.ones(2, 2)}
    with pytest.raises(LikenessError, match=message) as told:
        import_file(saved(tmp_path / "x.safetensors", tensors))
    assert "x.safetensors" in str(told.value) and key in str(told.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"hada_w1_a": (4, 2), "hada_w1_b": (2, 4), "hada_w2_a": (4, 2)}, "the LoHa of .* is incomplete"),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 2)}, "the LoKr of .* is incomplete"),
        ({"oft_blocks": (1, 2, 4, 4)}, "the OFT of .* is a BOFT or damaged"),
        ({"lora_down.weight": (2, 4)}, "the LoRA of .* is incomplete"),
    ],
)
def test_halves_of_an_update_are_refused(tmp_path: Path, parts: dict, message: str):
    name = f"lora_unet_{BLOCK}_attn1_to_q"
    tensors = {f"{name}.{part}": torch.ones(shape) for part, shape in parts.items()}
    with pytest.raises(LikenessError, match=message):
        import_file(saved(tmp_path / "x.safetensors", tensors))


def test_an_embedding_bundled_with_a_lora_is_left_out_and_that_is_said(tmp_path: Path, caplog):
    tensors = {
        **lora(f"lora_unet_{BLOCK}_attn2_to_k", 768, 640),
        "bundle_emb.<anna>.clip_l": torch.ones(1, 768),
    }
    assert not import_file(saved(tmp_path / "x.safetensors", tensors)).tokens
    assert "the embedding bundled with the LoRA is left out (bundle_emb.<anna>.clip_l)" in caplog.text


def test_matrices_without_names_are_refused(tmp_path: Path):
    torch.save([torch.ones(2, 2)] * 2, tmp_path / "lora_weight.pt")
    with pytest.raises(LikenessError, match=r"lora_weight\.pt holds matrices without names"):
        import_file(tmp_path / "lora_weight.pt")


@pytest.mark.parametrize("name", ["x.ckpt", "x.pt", "x.SAFETENSORS", "x.bin"])
def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path, name: str):
    path = saved(tmp_path / name, lora(f"lora_unet_{BLOCK}_attn2_to_k", 768, 640))
    assert import_file(path).base_family == "sd1"


# ------------------------------------------------------------------------------------- as PEFT would apply it


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(BaseSpec())


@pytest.mark.parametrize("how", ["alpha", "alpha of a layer", "rank-stabilised"])
def test_strengths_that_peft_keeps_beside_the_weights_are_heard(
    base: BaseModel, tmp_path: Path, how: str, caplog
):
    options = {
        "alpha": {}, "alpha of a layer": {"alpha_pattern": {"mid_block.attentions.0.proj_in": 9}},
        "rank-stabilised": {"use_rslora": True},
    }[how]  # fmt: skip
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["to_k", "proj_in"], **options)
    network = get_peft_model(copy.deepcopy(base.unet), config)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    network.save_pretrained(tmp_path)
    found = import_file(tmp_path / "adapter_model.safetensors", family="miniature")
    assert "as PEFT's configuration says" in caplog.text
    expected = network.merge_and_unload().state_dict()
    with merged(adaptable(base.unet, []), found.lora(), 1.0):
        for name, weight in base.unet.state_dict().items():
            torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-5)


def test_diffusers_metadata_is_heard_too(tmp_path: Path):
    tensors = {
        f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_{way}.weight": torch.ones(shape)
        for way, shape in (("A", (2, 768)), ("B", (1280, 2)))
    }
    told = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 1})}
    found = import_file(saved(tmp_path / "x.safetensors", tensors, told))
    assert [float(tensor) for key, tensor in found.tensors.items() if key.endswith("alpha")] == [1.0]


# -------------------------------------------------------------------------------- what an update comes to


def test_a_doras_lengths_are_the_learned_ones():
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    parts = {
        "lora_down.weight": torch.zeros(1, 2), "lora_up.weight": torch.zeros(2, 1),
        "alpha": torch.tensor(1.0), "dora_scale": torch.tensor([[6.0, 2.0]]),
    }  # fmt: skip
    torch.testing.assert_close(lora_changed(weight, parts, 1.0), torch.tensor([[6.0, 0.0], [0.0, 2.0]]))
    torch.testing.assert_close(lora_changed(weight, parts, 0.5), torch.tensor([[4.5, 0.0], [0.0, 3.0]]))


def test_an_oft_turns_and_keeps_lengths():
    weight, blocks = torch.randn(6, 5), torch.randn(2, 3, 3)
    turned = lora_changed(weight, {"oft_blocks": blocks}, 1.0)
    torch.testing.assert_close(
        turned.unflatten(0, (2, 3)).norm(dim=1), weight.unflatten(0, (2, 3)).norm(dim=1)
    )
    assert not torch.allclose(turned, weight)


def test_norms_and_biases_change_and_come_back():
    module = nn.Linear(2, 2)
    own, bias = module.weight, module.bias
    tensors = {"lora_unet_a.diff": torch.ones(2, 2), "lora_unet_a.diff_b": torch.ones(2)}
    before = own.clone(), bias.clone()
    with merged({"lora_unet_a": module}, tensors, 2.0):
        torch.testing.assert_close((module.weight, module.bias), (before[0] + 2, before[1] + 2))
    assert module.weight is own and module.bias is bias


@pytest.mark.real
def test_a_lora_that_people_have_is_imported_by_the_command(kit: Path, tmp_path: Path):
    for name in ("diffusers_axe.safetensors", "diffusers_axe.bin"):
        out = tmp_path / f"{name}.safetensors"
        assert main(["import", str(kit / "lora" / name), "-o", str(out)]) == 0
        found = Artifact.load(out)
        assert (found.base_family, len(found.tensors)) == ("sd1", 3 * 128)


def test_an_sdxl_lora_under_kohyas_names_draws_what_it_draws_under_diffusers_names():
    base = tiny_base(family="sdxl")
    layers = {name: layer for name, layer in base.unet.named_modules() if name.endswith("attn2.to_v")}
    theirs = ldm_paths(layers, base.unet.config.layers_per_block)
    drawn = []
    for names in (dict(zip(layers, layers)), theirs):
        tensors = {}
        for number, (path, layer) in enumerate(layers.items()):
            name = unet_name(names[path])
            tensors |= lora(name, layer.in_features, layer.out_features)
            tensors |= {f"{name}.alpha": torch.tensor(0.02 * number)}
        artifact = Artifact(kind="lora", method="x", tensors=tensors, base_family="sdxl")
        drawn.append(generate(base, ["a photo"], artifacts=[(artifact, 1.0)], steps=2))
    assert not any(name.startswith(("down_", "up_", "mid_")) for name in theirs.values())
    plain = generate(base, ["a photo"], steps=2)
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != plain).any()
