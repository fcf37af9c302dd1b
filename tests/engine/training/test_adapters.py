"""Kinds of adapters while they are trained, and as files have them."""

from dataclasses import replace

import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.artifact.lora import adaptable, merged
from likeness_portraits.engine.bases.denoisers.conditional_unet import LORA_TARGETS
from likeness_portraits.engine.config import ADAPTERS, DreamBoothLoraSettings, Job, block_ranks
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training import lora
from likeness_portraits.engine.training.adapters import AdapterShape
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person

ENDINGS = {
    "lora": {"lora_down.weight", "lora_up.weight", "alpha"},
    "dora": {"lora_down.weight", "lora_up.weight", "alpha", "dora_scale"},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"},
    "lokr": {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"},
    "oft": {"oft_blocks"},
}
SHAPES = {
    "by block": {"rank": 2, "alpha": 3.0, "by_block": block_ranks(["up_blocks=3:2", "attn2=1"])},
    "rank-stabilised": {"rank": 2, "alpha": 3.0, "rslora": True},
    "whole factors": {"rank": 60, "alpha": 30.0},
}


def outputs(base):
    noisy, t = torch.ones(2, 4, 8, 8).cumsum(2).sin(), torch.tensor([0.1, 0.9])
    with torch.no_grad():
        context = base.encode_text(["a man", "a woman"])
        return context.states, base.predict(noisy, t, context)


CASES = [
    *((kind, "by block", "convolutions") for kind in ADAPTERS),
    ("lora", "rank-stabilised", "attention"),
    ("lokr", "rank-stabilised", "attention"),
    ("lokr", "whole factors", "convolutions"),
]


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.mark.parametrize(("kind", "shape", "layers"), CASES)
def test_a_file_folded_into_the_weights_gives_what_was_trained(kind, shape, layers, base):
    text, shaped = base.text_encoders["clip_l"], AdapterShape(kind=kind, **SHAPES[shape])
    plain = outputs(base)
    added = lora.inject(base.unet, LORA_TARGETS[layers], 2, 3.0, shape=shaped)
    added += lora.inject(text, base.text.lora_targets, 2, 3.0, shape=replace(shaped, by_block=()))
    assert len({id(weight) for weight in added}) == len(added)  # the optimiser would step twice
    for before, begun in zip(plain, outputs(base)):
        torch.testing.assert_close(begun, before, atol=2e-5, rtol=1e-4)  # the first update is none
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in added:
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    while_training = outputs(base)
    with lora.switched_off(base.unet, text):
        off = outputs(base)
    tensors = lora.tensors(base)
    lora.remove(base.unet)
    lora.remove(text)
    assert all(torch.equal(*pair) for pair in zip(plain, outputs(base)))  # and leaves no trace
    Artifact(kind="lora", method="dreambooth-lora", tensors=tensors, base_family="sd1")
    with merged(adaptable(base.unet, [text]), tensors, 1.0):
        folded = outputs(base)
    for ours, theirs, before, without in zip(folded, while_training, plain, off):
        torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-3)
        torch.testing.assert_close(without, before)
        assert (ours - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["dora", "lokr"])
def test_a_run_writes_the_kinds_own_tensors(kind, base, tmp_path):
    write_person(tmp_path / "person")
    settings = {"adapter": kind, "text_encoder": True, "layers": "feed-forward"}
    job = tiny_job("dreambooth-lora", tmp_path, settings=settings)
    artifact = Artifact.load(train(job, base=base))
    endings = {key.split(".", 1)[1] for key in artifact.lora()}
    assert ENDINGS[kind] <= endings <= ENDINGS[kind] | {"lokr_w2"}
    paths = {key.split(".", 1)[0] for key in artifact.lora()}
    assert any("_ff_net_2" in path for path in paths) and any("lora_te_" in path for path in paths)


def test_ranks_by_block_reach_their_layers_and_alphas_go_with_them(base):
    shape = AdapterShape(rank=2, alpha=4.0, by_block=block_ranks(["up_blocks=6", "mid_block=3:9"]))
    lora.inject(base.unet, LORA_TARGETS["attention"], 2, 4.0, shape=shape)
    tensors = lora.tensors(base)
    lora.remove(base.unet)
    ranks = {
        part: {(len(tensors[key]), float(tensors[key.replace("lora_down.weight", "alpha")]))
               for key in tensors if key.endswith("lora_down.weight") and f"_{part}_" in key}
        for part in ("down_blocks", "mid_block", "up_blocks")
    }  # fmt: skip
    assert ranks == {"down_blocks": {(2, 4.0)}, "mid_block": {(3, 9.0)}, "up_blocks": {(6, 12.0)}}


def test_a_pattern_that_no_layer_has_is_refused(base):
    shape = AdapterShape(rank=2, alpha=4.0, by_block=block_ranks(["upper=6"]))
    with pytest.raises(LikenessError, match="'rank_by_block' says upper, which none of the layers has"):
        lora.inject(base.unet, LORA_TARGETS["attention"], 2, 4.0, shape=shape)


@pytest.mark.parametrize("entry", ["up_blocks", "up_blocks=0", "up_blocks=many", "(=3", "up_blocks=3:0"])
def test_a_rank_by_block_that_says_nothing_is_refused(entry):
    with pytest.raises(LikenessError, match="such as up_blocks=32"):
        DreamBoothLoraSettings(rank_by_block=(entry,))


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+x", "(?:a|a)*x", ".*.*.*.*x", "(.|.)" * 20 + "x", r"(\w?){9}x", "(?x)(a|a) *x", "x" * 121],
)
def test_a_pattern_that_could_be_searched_for_without_end_is_refused(pattern):
    with pytest.raises(LikenessError, match="could be searched for without end"):
        block_ranks([f"{pattern}=4"])


def test_patterns_that_people_write_are_taken():
    entries = [r"(down|up)_blocks\.[0-9+*]\..*attn2=4", "(?:q|k|v)$=8", r"to_out\.0=8", "transformer.*=2"]
    assert [entry.rank for entry in block_ranks(entries)] == [4, 8, 8, 2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adapter": "lycoris"}, "unknown kind of adapter 'lycoris'; did you mean"),
        ({"adapter": "lokr", "min_rank": 2}, "'min_rank' is for a LoRA"),
        ({"layers": "convolutions", "orthogonal": True}, "'orthogonal' is for a LoRA"),
        ({"adapter": "oft", "rslora": True}, "'rslora' scales updates"),
    ],
)
def test_what_a_kind_has_not_is_refused(settings, said):
    with pytest.raises(LikenessError, match=said):
        DreamBoothLoraSettings(**settings)


def test_a_method_that_trains_one_kind_alone_says_so(tmp_path):
    plain = tiny_job("magictailor", tmp_path).to_dict()
    plain["settings"]["adapter"] = "lokr"
    with pytest.raises(LikenessError, match="magictailor learns what its paper does.*dreambooth-lora"):
        Job.from_json(plain)
