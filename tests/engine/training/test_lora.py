import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.artifact.lora import RANK_BY_NOISE, adaptable, merged
from likeness_portraits.engine.bases.denoisers.conditional_unet import LORA_TARGETS
from likeness_portraits.engine.bases.lora_ranks import RankByNoise, ranks_at
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.training import lora
from likeness_portraits.engine.training.orthogonal_lora import last_singular_values
from likeness_portraits.tests.engine.tiny import tiny_base


def test_kohya_tensors_folded_into_the_weights_give_what_peft_gave():
    base = tiny_base()
    text = base.text_encoders["clip_l"]
    added = lora.inject(base.unet, LORA_TARGETS["attention"], rank=3, alpha=6.0)
    added += lora.inject(text, base.text.lora_targets, rank=3, alpha=6.0)
    with torch.no_grad():
        for weight in added:
            weight.normal_(0, 0.2)
    noisy, t, prompts = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 0.9]), ["a man", "a woman"]

    def outputs():
        with torch.no_grad():
            context = base.encode_text(prompts)
            return context.states, base.predict(noisy, t, context)

    while_training = outputs()
    tensors = lora.tensors(base)
    lora.remove(base.unet)
    lora.remove(text)
    plain = outputs()
    modules = adaptable(base.unet, [text])
    with merged(modules, tensors, 1.0):
        folded = outputs()
    with merged(modules, tensors, 0.0):
        off = outputs()
    for ours, theirs, untouched, none in zip(folded, while_training, plain, off):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(none, untouched)
        assert (ours - untouched).abs().max() > 1e-2


def test_names_are_kohyas_with_an_explicit_alpha():
    base = tiny_base()
    lora.inject(base.unet, LORA_TARGETS["attention"], rank=3, alpha=6.0)
    lora.inject(base.text_encoders["clip_l"], base.text.lora_targets, rank=3, alpha=6.0)
    tensors = lora.tensors(base)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"
    assert tensors[f"{name}.lora_down.weight"].shape == (3, 32)
    assert tensors[f"{name}.lora_up.weight"].shape == (32, 3)
    assert tensors[f"{name}.alpha"] == 6.0
    assert "lora_te_text_model_encoder_layers_1_self_attn_q_proj.lora_down.weight" in tensors


def test_removing_leaves_no_trace():
    base, untouched = tiny_base(), tiny_base()
    lora.inject(base.unet, LORA_TARGETS["attention"], rank=3, alpha=6.0)
    lora.remove(base.unet)
    assert [(name, type(part)) for name, part in base.named_modules()] == [
        (name, type(part)) for name, part in untouched.named_modules()
    ]
    lora.inject(base.unet, LORA_TARGETS["attention"], rank=2, alpha=2.0)  # and it can be done again


# ------------------------------------------------------------- rank by noise, orthogonal start (T-LoRA)


def test_half_of_eight_ranks_count_at_pure_noise_and_all_without_any():
    assert ranks_at(torch.tensor([0, 1, 250, 500, 999, 1000]), 8, 4).tolist() == [8, 7, 7, 6, 4, 4]
    assert ranks_at(torch.tensor([0, 400, 999]), 6, 6).tolist() == [6, 6, 6]


@pytest.mark.parametrize("size", [(40, 40), (24, 60)])
def test_an_orthogonal_start_has_the_last_singular_values_of_a_random_matrix(size):
    torch.manual_seed(0)
    rank = 12
    drawn = [torch.linalg.svdvals(torch.randn(size) / rank)[-rank:] for _ in range(200)]
    ours = last_singular_values(*size, rank)
    torch.testing.assert_close(ours, torch.stack(drawn).mean(0), atol=0.008, rtol=0.03)


def plain_update(given: dict[str, torch.Tensor], x: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """B S M A x - B0 S0 M A0 x of each row by itself, one rank after the other, as the paper writes it."""
    rows = []
    for row, count in zip(x, counts):
        total = torch.zeros(len(row), len(given["B"]))
        for j in range(count):
            total = total + torch.outer(row @ given["A"][j] * given["S"][j], given["B"][:, j])
            total = total - torch.outer(row @ given["A0"][j] * given["S0"][j], given["B0"][:, j])
        rows.append(total)
    return torch.stack(rows)


def test_a_layer_adds_what_the_paper_says_and_has_its_gradients():
    torch.manual_seed(3)
    base = tiny_base()
    ranks = RankByNoise(base.process, 4, 2)
    end = ranks.listen(base.unet)
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    lora.inject(base.unet, [path], rank=4, alpha=2.0, orthogonal=True, ranks=ranks)
    layer = base.unet.get_submodule(path)
    down, up = layer.lora_A[lora.ADAPTER], layer.lora_B[lora.ADAPTER]
    for half in (down.start, up.start.T):
        torch.testing.assert_close(half @ half.T, torch.eye(4), atol=1e-5, rtol=0)
    noisy, t, said = torch.randn(2, 4, 8, 8), torch.tensor([0.0, 0.9]), base.encode_text(["a", "b"])
    with torch.no_grad(), lora.switched_off(base.unet):
        plain = base.predict(noisy, t, said)
    torch.testing.assert_close(base.predict(noisy, t, said), plain, atol=1e-5, rtol=0)  # 0 at first
    with torch.no_grad():
        for weight in (down.weight, up.weight, down.scales):
            weight += 0.1 * torch.randn(weight.shape)
    x = torch.randn(2, 5, 32)
    found = layer(x) - layer.get_base_layer()(x)
    given = {"A": down.weight, "S": down.scales, "B": up.weight}
    copies = {name: value.detach().clone().requires_grad_() for name, value in given.items()}
    first = {"A0": down.start, "S0": down.start_scales, "B0": up.start}
    wanted = 0.5 * plain_update({**copies, **first}, x, [4, 2])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    found.square().sum().backward()
    wanted.square().sum().backward()
    for name, value in given.items():
        torch.testing.assert_close(value.grad, copies[name].grad, atol=1e-4, rtol=1e-4)
    end()
    lora.remove(base.unet)


def test_a_stock_loader_draws_an_orthogonal_loras_whole_rank():
    torch.manual_seed(3)
    base = tiny_base()
    lora.inject(base.unet, LORA_TARGETS["attention"], rank=4, alpha=2.0, orthogonal=True)
    with torch.no_grad():
        for weight in base.unet.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape)
        noisy, t, said = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 0.9]), base.encode_text(["a", "b"])
        trained = base.predict(noisy, t, said)
        tensors = lora.tensors(base)
        lora.remove(base.unet)
        plain = base.predict(noisy, t, said)
        with merged(base.lora_layers(), tensors, 1.0):
            folded = base.predict(noisy, t, said)
    torch.testing.assert_close(folded, trained, atol=1e-4, rtol=1e-3)
    assert (folded - plain).abs().max() > 1e-2
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert tensors[f"{name}.lora_down.weight"].shape == (8, 32)
    assert tensors[f"{name}.alpha"] == 4.0  # so that alpha / rank is what it was


@pytest.mark.parametrize(
    "told", [{"rank": 4}, {"rank": 0, "least": 0}, {"rank": "x", "least": 1}, {"rank": 3, "least": 1}, 7]
)
def test_a_file_that_says_nonsense_of_its_rank_is_refused_by_name(told):
    base = tiny_base()
    lora.inject(base.unet, LORA_TARGETS["attention"], rank=4, alpha=2.0)
    tensors = lora.tensors(base)
    lora.remove(base.unet)
    artifact = Artifact(
        kind="lora", method="test", tensors=tensors, base_family="sd1", extra={RANK_BY_NOISE: told}
    )
    with pytest.raises(LikenessError, match="what the LoRA says of its rank at each noise level is damaged"):
        generate(base, ["a man"], artifacts=[(artifact, 1.0)], steps=1)
