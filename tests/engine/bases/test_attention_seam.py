"""The seam of attention on joint attention: a tiny FLUX.2 of random weights against attention written out."""

import math

import pytest
import torch
from torch import Tensor, nn

from likeness_portraits.engine.bases.attention import AttentionSite, AttentionUser, Bias, attend
from likeness_portraits.engine.bases.denoisers.seam import Seam, using
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.identity.attention import IdentityAttention, Person
from likeness_portraits.engine.inference.refocus import FLOOR, Focus, LogMasks, Maps, Spot
from likeness_portraits.engine.inference.regions import FocusedPrompt, Regions
from likeness_portraits.engine.staged.text import ValueOffsets
from likeness_portraits.engine.training.attention_maps import AttentionMaps
from likeness_portraits.tests.engine.tiny import tiny_base

WORDS, ROWS, COLUMNS, HEADS, WIDTH = 5, 2, 3, 2, 16
PICTURE = ROWS * COLUMNS


@pytest.fixture(scope="module")
def flux() -> nn.Module:
    pytest.importorskip("diffusers", "0.36")  # older ones have no FLUX.2
    from diffusers import Flux2Transformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Flux2Transformer2DModel(
            in_channels=8, num_layers=1, num_single_layers=2, attention_head_dim=WIDTH // HEADS,
            num_attention_heads=HEADS, joint_attention_dim=12, timestep_guidance_channels=16,
            axes_dims_rope=(2, 2, 2, 2), guidance_embeds=False,
        )  # fmt: skip
        for weight in network.parameters():
            weight.data.normal_(std=0.4)
    return network.eval().requires_grad_(False)


class Layer:
    """A layer's inputs, as it is given them, and its output."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.given, self.out = module, {}, torch.zeros(0)
        self._hooks = [
            module.register_forward_pre_hook(lambda _m, _i, o: self.given.update(o), with_kwargs=True),
            module.register_forward_hook(self._keep),
        ]

    def _keep(self, _module: nn.Module, _inputs: tuple, output: Tensor | tuple[Tensor, Tensor]) -> None:
        """The double block's picture stream; the single block's tokens of the picture."""
        self.out = output[0] if isinstance(output, tuple) else output[:, WORDS:]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def drawn(flux: nn.Module, *users: tuple[str, AttentionUser]) -> tuple[Tensor, dict[str, Layer]]:
    """What the network predicts of two pictures with these users, and its layers' inputs and outputs."""
    generator = torch.Generator().manual_seed(1)
    picture, text = (torch.randn(2, n, d, generator=generator) for n, d in ((PICTURE, 8), (WORDS, 12)))
    places = torch.tensor([[0, row, column, 0] for row in range(ROWS) for column in range(COLUMNS)])
    words = torch.tensor([[0, 0, 0, place] for place in range(WORDS)])
    layers = {name: Layer(part) for name, part in flux.named_modules() if name.endswith(".attn")}
    seam = Seam(flux)
    contexts = [seam.using(key, user) for key, user in users]
    try:
        for context in contexts:
            context.__enter__()
        out = flux(picture, text, torch.tensor([0.5, 0.9]), places, words, return_dict=False)[0]
    finally:
        for context in reversed(contexts):
            context.__exit__(None, None, None)
        for layer in layers.values():
            layer.remove()
    return out, layers


def heads(states: Tensor) -> Tensor:
    return states.unflatten(-1, (HEADS, -1))


def parts(layer: Layer) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Queries, keys, values (B, N, heads, d) of all tokens before RoPE; what a single block has besides."""
    module, given = layer.module, layer.given
    if "encoder_hidden_states" not in given:
        q, k, v, rest = module.to_qkv_mlp_proj(given["hidden_states"]).split([WIDTH] * 3 + [6 * WIDTH], -1)
        return module.norm_q(heads(q)), module.norm_k(heads(k)), heads(v), rest
    image, text = given["hidden_states"], given["encoder_hidden_states"]
    own = [heads(getattr(module, f"to_{name}")(image)) for name in "qkv"]
    words = [heads(getattr(module, f"add_{name}_proj")(text)) for name in "qkv"]
    return (
        torch.cat([module.norm_added_q(words[0]), module.norm_q(own[0])], 1),
        torch.cat([module.norm_added_k(words[1]), module.norm_k(own[1])], 1),
        torch.cat([words[2], own[2]], 1), None,
    )  # fmt: skip


def turned(states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE on pairs of neighbours, (B, N, heads, d), written out."""
    cos, sin = (part[:, None, ::2] for part in rotary)
    even, odd = states[..., ::2], states[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def logits_of(layer: Layer) -> Tensor:
    """(B, heads, N, N), picture by picture and head by head."""
    q, k, _, _ = parts(layer)
    q, k = (turned(states, layer.given["image_rotary_emb"]) for states in (q, k))
    rows = [
        torch.stack([q[b, :, h] @ k[b, :, h].T / q.shape[-1] ** 0.5 for h in range(HEADS)]) for b in range(2)
    ]
    return torch.stack(rows)


def expected(layer: Layer, logits: Tensor, values: Tensor, added: Tensor | float = 0.0) -> Tensor:
    """The layer's output for the picture, from logits and values, with what is added to its attention."""
    out = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), values)
    out[:, WORDS:] += added
    out, rest = out.flatten(2), parts(layer)[3]
    if rest is None:
        return layer.module.to_out[0](out[:, WORDS:])
    gate, up = rest.chunk(2, -1)
    return layer.module.to_out(torch.cat([out, nn.functional.silu(gate) * up], -1))[:, WORDS:]


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, atol=1e-4, rtol=1e-4)


def test_users_that_do_nothing_leave_the_network_as_it_was_to_the_last_bit(flux: nn.Module):
    stock, _ = drawn(flux)
    assert torch.equal(drawn(flux, ("maps", AttentionUser()), ("identity", IdentityAttention([])))[0], stock)
    processors = {type(part.processor).__name__ for part in flux.modules() if hasattr(part, "processor")}
    assert processors == {"Flux2AttnProcessor", "Flux2ParallelSelfAttnProcessor"}


def test_maps_are_the_softmax_over_words_alone_of_what_the_picture_asks(flux: nn.Module):
    names = [name for name, _ in flux.named_modules() if name.endswith(".attn")]
    maps = AttentionMaps(dict.fromkeys(names))  # pyright: ignore[reportArgumentType] (only names count)
    with torch.enable_grad():
        _, layers = drawn(flux, ("maps", maps))
    assert list(layers) == names == list(maps.seen)
    for name, layer in layers.items():
        found = maps.probabilities(name)
        assert maps.seen[name][0].grid == (ROWS, COLUMNS)
        assert found.shape == (2, HEADS, PICTURE, WORDS)
        close(found, logits_of(layer)[:, :, WORDS:, :WORDS].softmax(-1))


def test_gradients_of_maps_are_those_of_attention_written_out(flux: nn.Module):
    names = [name for name, _ in flux.named_modules() if name.endswith(".attn")]
    maps = AttentionMaps(dict.fromkeys(names))  # pyright: ignore[reportArgumentType] (only names count)
    learned = flux.get_parameter("context_embedder.weight").requires_grad_()
    try:
        with torch.enable_grad():
            _, layers = drawn(flux, ("maps", maps))
            weights = torch.rand(2, HEADS, PICTURE, WORDS, generator=torch.Generator().manual_seed(5))
            for name, layer in layers.items():
                plain = logits_of(layer)[:, :, WORDS:, :WORDS].softmax(-1)
                found, wanted = (
                    torch.autograd.grad((weights * map_).sum(), learned, retain_graph=True)[0]
                    for map_ in (maps.probabilities(name), plain)
                )
                assert wanted.abs().max() > 1e-3
                close(found, wanted)
    finally:
        learned.requires_grad_(False)


class Barred(AttentionUser):
    """Keeps the second word out of the left column of the second picture."""

    def before(self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None):
        added = torch.zeros(1, q.shape[1], k.shape[1])
        added[:, WORDS::COLUMNS, 1] = float("-inf")
        return q, k, v, Bias([(1, None), (1, added)], k.shape[1])


def test_a_bias_holds_back_words_in_a_region_of_the_samples_it_is_for(flux: nn.Module):
    for layer in drawn(flux, ("regions", Barred()))[1].values():
        logits = logits_of(layer)
        logits[1, :, WORDS::COLUMNS, 1] = float("-inf")
        close(layer.out, expected(layer, logits, parts(layer)[2]))


def test_words_keep_to_their_regions_in_what_they_read_too(flux: nn.Module):
    """Picture to word, word to picture, and word to another region's word; all others read everything."""
    left = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])  # (1, ROWS, COLUMNS)
    spots = [Spot(Focus(token="a", region=left, scope="word"), (1,)),
             Spot(Focus(token="b", region=1 - left, scope="word", strength=0.5), (3, 4))]  # fmt: skip
    prompt = FocusedPrompt(LogMasks(spots, [left, 1 - left]), WORDS)
    regions = Regions([(1, None), (1, prompt)], 0.5, {})
    kept = {1: (left.flatten(), 1.0), 3: (1 - left.flatten(), 0.5), 4: (1 - left.flatten(), 0.5)}
    for layer in drawn(flux, ("regions", regions))[1].values():
        logits = logits_of(layer)
        for word, (region, strength) in kept.items():
            for place in range(PICTURE):
                if not region[place]:
                    logits[1, :, WORDS + place, word] += strength * math.log(FLOOR)
                    logits[1, :, word, WORDS + place] += strength * math.log(FLOOR)
            for other in {3, 4} if word == 1 else {1}:
                logits[1, :, word, other] += 0.5 * math.log(FLOOR)
        close(layer.out, expected(layer, logits, parts(layer)[2]))


def test_maps_in_regions_are_what_the_picture_reads_of_a_word_among_all_words(flux: nn.Module):
    left = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    maps = [Maps((ROWS, COLUMNS))]
    spot = Spot(Focus(token="a", region=left, scope="word"), (1, 2))
    prompt = FocusedPrompt(LogMasks([spot], [left]), WORDS, maps=maps)
    layers = drawn(flux, ("regions", Regions([(2, prompt)], 0.5, {}, record=True)))[1].values()
    seen = []
    for layer in layers:
        logits = logits_of(layer)[:, :, WORDS:, :WORDS]
        logits[..., 1:3] += torch.where(left.flatten() > 0, 0, math.log(FLOOR))[:, None]
        seen.append(logits.softmax(-1)[..., 1:3].sum(-1).mean(1))
    found = maps[0].mean()
    assert found is not None
    close(found.flatten(1), torch.stack(seen).mean(0))


def test_a_words_values_are_moved_through_the_blocks_own_projection_of_text(flux: nn.Module):
    """What PersonaMagic's bypass becomes: the second picture's third word is moved by W_v(R)."""
    row = torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))
    rows = torch.stack([torch.zeros(2, WIDTH), torch.stack([row, torch.zeros(WIDTH)])])
    user = ValueOffsets(rows, torch.tensor([[0, 0], [2, 0]]))
    for layer in drawn(flux, ("values", user))[1].values():
        module, values = layer.module, parts(layer)[2].clone()
        if hasattr(module, "add_v_proj"):
            moved = module.add_v_proj(row)
        else:
            moved = module.to_qkv_mlp_proj.weight[2 * WIDTH : 3 * WIDTH] @ row
        values[1, 2] += heads(moved)
        close(layer.out, expected(layer, logits_of(layer), values))


def test_somebody_is_added_to_what_the_picture_reads_and_to_nothing_else(flux: nn.Module):
    generator = torch.Generator().manual_seed(3)
    names = [name for name, _ in flux.named_modules() if name.endswith(".attn")]
    tokens = {name: tuple(torch.randn(2, 2, 4, WIDTH, generator=generator)) for name in names}
    person = Person(tokens, 0.5)  # pyright: ignore[reportArgumentType] (two of each)
    for name, layer in drawn(flux, ("identity", IdentityAttention([person])))[1].items():
        q, _, values, _ = parts(layer)
        keys, said = (heads(part) for part in tokens[name])
        shares = torch.einsum("bqhd,bkhd->bhqk", q[:, WORDS:], keys) / (WIDTH / HEADS) ** 0.5
        branch = torch.einsum("bhqk,bkhd->bqhd", shares.softmax(-1), said)
        close(layer.out, expected(layer, logits_of(layer), values, 0.5 * branch))


def test_fewer_heads_of_keys_than_of_queries_attend_as_if_each_were_there_for_all():
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(1, n, h, 8, generator=generator) for n, h in ((3, 4), (5, 2), (5, 2)))
    close(attend(q, k, v), attend(q, k.repeat_interleave(2, 2), v.repeat_interleave(2, 2)))


def test_the_innermost_user_under_a_key_is_heard_and_afterwards_nobody():
    base, heard = tiny_base(), []

    class Named(AttentionUser):
        def __init__(self, name: str) -> None:
            self.name = name

        def after(self, site: AttentionSite, q: Tensor, out: Tensor) -> Tensor:
            heard.append(self.name)
            return out

    def pass_through() -> set[str]:
        heard.clear()
        base.predict(torch.zeros(1, 4, 8, 8), torch.tensor([5]), base.encode_text(["a"]))
        return set(heard)

    with using(base.unet, "identity", Named("outer")), using(base.unet, "maps", Named("other")):
        with using(base.unet, "identity", Named("inner")):
            assert pass_through() == {"inner", "other"}
        assert pass_through() == {"outer", "other"}
    assert pass_through() == set()


def test_networks_of_another_kind_are_refused_by_name():
    with pytest.raises(LikenessError, match="inside the attention of Linear; use .*FLUX.2 Klein"):
        Seam(nn.Linear(2, 2))
