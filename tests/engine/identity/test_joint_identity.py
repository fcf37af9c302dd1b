"""Identity tokens beside the words in FLUX.2's blocks, against formulas written out head by head."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from likeness_portraits.engine.bases.attention import WHOLE, AttentionSite
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.denoisers.seam import Seam
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.identity.attention import (
    IdAttention,
    IdentityAttention,
    Person,
    id_branch,
    text_features,
)
from likeness_portraits.engine.training.methods.masterweaver import editing_layers
from likeness_portraits.tests.engine import tiny_flux2

pytest.importorskip("diffusers", "0.36")
pytest.importorskip("transformers", "4.51")

DOUBLE, SINGLE = "transformer_blocks.0.attn", "single_transformer_blocks.0.attn"
WIDTH = 32  # of the transformer, in two heads of 16
TIMES = torch.tensor([0.3, 0.8])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    base = load_base(BaseSpec.parse(str(tiny_flux2.write_folder(tmp_path_factory.mktemp("klein")))))
    base.text.length = 48
    return base


@pytest.fixture(scope="module")
def noisy() -> Tensor:
    return torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def context(base: BaseModel) -> Conditioning:
    return base.encode_text(["a man with a hat", "a woman"])


@pytest.fixture
def branch(base: BaseModel) -> IdAttention:
    return IdAttention.beside(base.denoiser.identity_layers()).requires_grad_(False)


@contextmanager
def spied(base: BaseModel) -> Iterator[dict[str, Any]]:
    """What the two blocks' attention is given, and what goes into the picture's output projection."""
    seen: dict[str, Any] = {}

    def given(name: str) -> Any:
        return lambda layer, _inputs, options: seen.update({f"{name} in": options})

    def out(name: str) -> Any:
        return lambda layer, inputs: seen.update({f"{name} out": inputs[0]})

    layers = {name: base.network.get_submodule(name) for name in (DOUBLE, SINGLE)}
    ends = {DOUBLE: layers[DOUBLE].to_out[0], SINGLE: layers[SINGLE].to_out}
    handles = [
        layer.register_forward_pre_hook(given(name), with_kwargs=True) for name, layer in layers.items()
    ]
    handles += [end.register_forward_pre_hook(out(name)) for name, end in ends.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def in_the_text(layer: Any, name: str, given: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, int]:
    """The picture's queries (B, N, 2, 16) after QK-norm and before RoPE, and the words' keys and values."""
    if name == DOUBLE:
        picture, words = given["hidden_states"], given["encoder_hidden_states"]
        q, k, v = layer.to_q(picture), layer.add_k_proj(words), layer.add_v_proj(words)
        norms = layer.norm_q.weight, layer.norm_added_k.weight
    else:
        q, k, v = layer.to_qkv_mlp_proj(given["hidden_states"])[..., : 3 * WIDTH].chunk(3, -1)
        q, k, v = q[:, 48:], k[:, :48], v[:, :48]
        norms = layer.norm_q.weight, layer.norm_k.weight
    q, k, v = (part.unflatten(-1, (2, 16)) for part in (q, k, v))
    return normed(q, norms[0]), normed(k, norms[1]), v, 48


def test_it_is_read_in_every_double_and_every_second_single_block_as_the_text_is_there(base, branch):
    assert branch.names == (DOUBLE, SINGLE) and branch.width == WIDTH
    tokens = torch.randn(1, 5, WIDTH)
    double, single = (base.network.get_submodule(name) for name in (DOUBLE, SINGLE))
    keys, values = branch(tokens)[DOUBLE]
    torch.testing.assert_close(values, double.add_v_proj(tokens))
    heads = double.add_k_proj(tokens).unflatten(-1, (2, 16))
    torch.testing.assert_close(keys, double.norm_added_k(heads).flatten(2), atol=1e-5, rtol=1e-4)
    keys, values = branch(tokens)[SINGLE]
    _, k, v = single.to_qkv_mlp_proj(tokens)[..., : 3 * WIDTH].chunk(3, -1)
    torch.testing.assert_close(values, v)
    torch.testing.assert_close(keys, single.norm_k(k.unflatten(-1, (2, 16))).flatten(2), atol=1e-5, rtol=1e-4)
    again = IdAttention.from_weights(branch.layer_weights())
    for ours, theirs in zip(again(tokens)[SINGLE], branch(tokens)[SINGLE]):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", [DOUBLE, SINGLE])
def test_what_is_added_is_attention_of_the_pictures_queries_to_the_tokens_alone(
    name, base, branch, noisy, context
):
    tokens = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(3))
    ours, theirs = (tokens.clone().requires_grad_() for _ in range(2))
    region = torch.zeros(1, 1, 8, 8)
    region[..., :4] = 1.0

    def pass_with(*people: Person) -> dict[str, Any]:
        with spied(base) as seen, Seam(base.network).using("identity", IdentityAttention(people)):
            base.predict(noisy, TIMES, context)
        return seen

    plain = pass_with()
    shown = pass_with(
        Person(branch(ours), {name: 0.7}, region=region),
        Person(branch(ours.flip(1) * 2), {name: 0.5}, region=1 - region),
    )
    layer, out = base.network.get_submodule(name), slice(0, None) if name == DOUBLE else slice(48, None)
    added = (shown[f"{name} out"] - plain[f"{name} out"])[:, out, :WIDTH]
    q, *_ = in_the_text(layer, name, plain[f"{name} in"])
    weights = branch.layer_weights()
    total = torch.zeros(2, 64, 2, 16)
    inside = torch.tensor([float(place % 8 < 4) for place in range(64)])[:, None]
    for scale, where, read in ((0.7, inside, theirs), (0.5, 1 - inside, theirs.flip(1) * 2)):
        k = (read @ weights[f"{name}.to_k_img.weight"].T).unflatten(-1, (2, 16))
        k = normed(k, weights[f"{name}.norm_k_img.weight"])
        v = (read @ weights[f"{name}.to_v_img.weight"].T).unflatten(-1, (2, 16))
        for row in range(2):
            for head in range(2):
                looks = (q[row, :, head] @ k[row, :, head].T / 4).softmax(-1)
                total[row, :, head] += scale * where * (looks @ v[row, :, head])
    torch.testing.assert_close(added, total.flatten(2), atol=1e-5, rtol=1e-3)
    assert added.abs().max() > 1e-3
    if name == SINGLE:  # the words' own rows are as they were
        words = (shown[f"{name} out"] - plain[f"{name} out"])[:, :48]
        assert torch.equal(words, torch.zeros_like(words))
    added.square().sum().backward()
    total.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)


def test_how_often_tokens_are_there_is_told_in_the_precision_of_the_queries(monkeypatch):
    """CUDA's kernels take no other; a base in bf16 asks in bf16, while latents are in fp32."""
    asked, attention = [], F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor) -> Tensor:
        asked.append({part.dtype for part in (q, k, v, attn_mask)})
        return attention(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    person = Person({"x": (torch.randn(1, 4, 32), torch.randn(1, 4, 32))}, counts=torch.zeros(1, 1, 1, 4))
    site = AttentionSite("x", 2, WHOLE, WHOLE, None, torch.nn.Identity(), torch.nn.Identity())
    added = id_branch(torch.randn(1, 8, 2, 16).bfloat16(), site, [person])
    assert asked == [{torch.bfloat16}] and added is not None and added.dtype == torch.bfloat16


def test_a_persons_keys_and_values_are_cast_once_however_many_passes_follow():
    """They lie in fp32 where the network works in bf16; what gradients go through is split anew."""
    site = AttentionSite("x", 2, WHOLE, WHOLE, None, torch.nn.Identity(), torch.nn.Identity())
    person = Person({"x": (torch.randn(1, 4, 32), torch.randn(1, 4, 32))}, counts=torch.zeros(1, 1, 1, 4))
    query = torch.randn(1, 8, 2, 16).bfloat16()
    first, second = person.ready(site, query), person.ready(site, query * 2)
    assert all(one is other for one, other in zip(first, second))
    assert {part.dtype for part in first} == {torch.bfloat16}
    assert person.ready(site, query.float())[0].dtype == torch.float32
    assert len(person.ready(site, query.float().expand(3, -1, -1, -1))[0]) == 3
    learned = Person({"x": (torch.randn(1, 4, 32, requires_grad=True), torch.randn(1, 4, 32))})
    assert learned.ready(site, query)[0] is not learned.ready(site, query)[0]


def test_at_scale_0_the_pass_is_the_plain_one_bit_for_bit(base, branch, noisy, context):
    with torch.no_grad():
        plain = base.predict(noisy, TIMES, context)
        tokens = branch(torch.randn(2, 5, WIDTH))
        with Seam(base.network).using("identity", IdentityAttention([Person(tokens, 0.0)])):
            assert torch.equal(base.predict(noisy, TIMES, context), plain)
        with Seam(base.network).using("identity", IdentityAttention([Person(tokens, 1.0)])):
            assert (base.predict(noisy, TIMES, context) - plain).abs().max() > 1e-3
        assert torch.equal(base.predict(noisy, TIMES, context), plain)


def test_the_editing_loss_reads_the_words_part_of_what_the_picture_read(base, branch, noisy, context):
    """The softmax over the words alone, before people are added; gradients reach tokens of earlier blocks."""
    from diffusers.models.embeddings import apply_rotary_emb

    assert editing_layers(base) == [DOUBLE, SINGLE, "single_transformer_blocks.1.attn"]
    tokens = torch.randn(2, 5, WIDTH).requires_grad_()
    seam = Seam(base.network)
    with (
        spied(base) as seen,
        seam.using("identity", IdentityAttention([Person(branch(tokens))])),
        text_features(seam, [DOUBLE, SINGLE], stop=True) as features,
    ):
        base.predict(noisy, TIMES, context)
        raise AssertionError("the pass went on")
    assert f"{SINGLE} out" not in seen
    for name in (DOUBLE, SINGLE):
        given = seen[f"{name} in"]
        q, k, v, words = in_the_text(base.network.get_submodule(name), name, given)
        cos, sin = given["image_rotary_emb"]
        q = apply_rotary_emb(q, (cos[words:], sin[words:]), sequence_dim=1)
        k = apply_rotary_emb(k, (cos[:words], sin[:words]), sequence_dim=1)
        slow = torch.stack([
            (q[:, :, head] @ k[:, :, head].transpose(1, 2) / 4).softmax(-1) @ v[:, :, head]
            for head in range(2)
        ], 2).flatten(2)  # fmt: skip
        torch.testing.assert_close(features[name], slow, atol=1e-5, rtol=1e-3)
    (gradient,) = torch.autograd.grad(features[SINGLE].square().sum(), tokens)
    assert gradient.abs().max() > 1e-6
    assert not features[DOUBLE].requires_grad  # nobody was added before it


def test_people_are_the_same_after_gradient_checkpointing(base, branch, noisy, context):
    found = []
    for saving in (False, True):
        tokens = torch.ones(2, 5, WIDTH).requires_grad_()
        base.recompute(saving)
        try:
            with Seam(base.network).using("identity", IdentityAttention([Person(branch(tokens))])):
                prediction = base.predict(noisy, TIMES, context)
            prediction.square().sum().backward()
        finally:
            base.recompute(False)
        found.append(tokens.grad)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_an_adapter_with_a_norm_survives_its_file(branch, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    save_file(branch.layer_weights(), tmp_path / "a.safetensors")
    back = IdAttention.from_weights(load_file(tmp_path / "a.safetensors"))
    assert {name: tuple(weight.shape) for name, weight in back.layer_weights().items()} == {
        f"{name}.{part}_img.weight": shape
        for name in (DOUBLE, SINGLE)
        for part, shape in (("to_k", (32, 32)), ("to_v", (32, 32)), ("norm_k", (16,)))
    }
