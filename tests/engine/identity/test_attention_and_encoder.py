"""MasterWeaver's networks against numbers of the reference implementation, and how they hang on a U-Net."""

from functools import partial

import pytest
import torch
from torch import nn

from likeness_portraits.engine.bases.attention import WHOLE, AttentionSite, AttentionUser, Pass
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.denoisers.seam import Seam, using
from likeness_portraits.engine.bases.denoisers.unet import CrossProcessor, cross_attention_layers
from likeness_portraits.engine.bases.process.ddpm import noise_schedule, training_sigmas
from likeness_portraits.engine.bases.process.schedules import ddim_schedule
from likeness_portraits.engine.bases.sampling import euler
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.identity.attention import (
    IdAttention,
    IdentityAttention,
    Person,
    id_branch,
    region_at,
    text_features,
)
from likeness_portraits.engine.identity.encoder import IdEncoder, in_slots
from likeness_portraits.engine.identity.files import (
    adapter_networks,
    adapter_tensors,
    released_names,
    sd1_layers,
)
from likeness_portraits.tests.engine.tiny import SCHEDULE, tiny_base
from likeness_portraits.tests.golden.goldens import Golden, uniform

golden = partial(Golden, "masterweaver")


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


# ------------------------------------------------------------------------------------------- the ID encoder


def test_a_small_encoder_gives_the_reference_tokens():
    case = golden("id_encoder_small")
    encoder = IdEncoder.from_weights(case.under("in.weights."), case.json("config")["dim_head"])
    close(encoder(case["in.x"]), case["out.tokens"], 1e-5, 1e-4)


def test_the_released_size_gives_the_reference_tokens():
    case = golden("id_encoder_full")
    encoder = IdEncoder.from_weights(case.filled())
    assert (encoder.dim, encoder.queries, encoder.image_width) == (768, 16, 1024)
    shape = case["in.input_shape"].tolist()
    values = uniform(shape[0] * shape[1] * shape[2], 900, int(case.metadata["fill_seed"]))
    features = torch.from_numpy(values.reshape(shape) * 3**0.5).float()
    close(encoder(features), case["out.tokens"], 2e-5, 1e-4)


@pytest.mark.parametrize("references", [1, 2, 3])
def test_references_fill_slots_and_the_rest_is_padded_with_no_picture(references: int):
    case = golden("slot_layout")
    encoder = IdEncoder.from_weights(case.under("in.weights."), case.json("config")["dim_head"])
    nothing = case["in.zero_feature"]
    given = in_slots(case["in.features"][:references], nothing)
    none = in_slots(case["in.features"][:0], nothing)
    tokens = encoder.slots(torch.stack([none, none, given, given]))
    close(tokens, case[f"out.stack_{references}"], 1e-5)


def test_a_fourth_reference_is_an_error_not_a_fourth_part_of_the_tokens():
    case = golden("slot_layout")
    with pytest.raises(
        LikenessError, match="4 reference pictures are given, but the adapter has places for 3"
    ):
        in_slots(case["in.features"][:4], case["in.zero_feature"])


def test_a_face_embedding_is_one_more_row_and_must_be_given():
    encoder = IdEncoder(dim=32, image_width=12, queries=4, head_width=16, face_width=6)
    features, face = torch.randn(2, 5, 12), torch.randn(2, 6)
    assert encoder(features, face).shape == (2, 4, 32)
    assert not torch.equal(encoder(features, face), encoder(features, -face))
    with pytest.raises(LikenessError, match="wants a face embedding"):
        encoder(features)
    again = IdEncoder.from_weights(encoder.state_dict(), 16)
    assert torch.equal(again(features, face), encoder(features, face))


# --------------------------------------------------------------------------------------- the ID's attention


def test_the_id_branch_is_the_references():
    from diffusers.models.attention_processor import Attention

    case = golden("decoupled_attention")
    (hidden, text), heads = case["in.cross.to_k.weight"].shape, int(case["in.heads"])
    layer = Attention(query_dim=hidden, cross_attention_dim=text, heads=heads, dim_head=hidden // heads)
    layer.load_state_dict(case.under("in.cross."))
    layer.set_processor(CrossProcessor("attn2", layer.processor))
    weights = {
        f"attn2.{key.removeprefix('processor.')}": value for key, value in case.under("in.id.").items()
    }
    branch = IdAttention.from_weights(weights)
    seen = {}

    class Seen(AttentionUser):
        def after(self, site: AttentionSite, q: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            seen.update(text=out.flatten(2))
            return out

    shown = IdentityAttention([Person(branch(case["in.id_tokens"]), float(case["in.scale"]))])
    there = Pass({"text": Seen(), "identity": shown}, (3, 3))
    close(layer(case["in.hidden"], case["in.text"], ip_hidden_states=there), case["out.with_id"], 1e-5)
    close(seen["text"], case["out.captured_text_feature"], 1e-5)
    close(layer(case["in.hidden"], case["in.text"]), case["out.without_id"], 1e-5)


def test_the_released_layout_is_sd1s_layers_by_name():
    case = golden("checkpoint_layout")
    layout = case.json("layout")
    assert released_names(sd1_layers()) == case.json("layer_of_index")
    encoder = IdEncoder(dim=768, image_width=1024)
    assert {key: list(weight.shape) for key, weight in encoder.state_dict().items()} == layout["id_encoder"]
    shapes = {
        name: tuple(layout["adapter_modules"][f"{number}.to_k_img.weight"])
        for number, name in case.json("layer_of_index").items()
    }
    branch = IdAttention(shapes)  # pyright: ignore[reportArgumentType]
    numbers = {name: number for number, name in case.json("layer_of_index").items()}
    found = {}
    for key, weight in branch.layer_weights().items():
        name, rest = key.rsplit(".attn2.", 1)
        found[f"{numbers[f'{name}.attn2']}.{rest}"] = list(weight.shape)
    assert found == layout["adapter_modules"]


def test_both_networks_survive_the_way_through_a_file():
    base = tiny_base()
    encoder = IdEncoder(dim=32, image_width=12, queries=4, head_width=16)
    branch = IdAttention.beside(base.denoiser.cross_attention())
    read_encoder, read_branch = adapter_networks(adapter_tensors(encoder, branch), 16)
    features = torch.randn(1, 3, 5, 12)
    tokens = encoder.slots(features)
    assert torch.equal(read_encoder.slots(features), tokens)
    for name, (keys, values) in branch(tokens).items():
        assert torch.equal(read_branch(tokens)[name][0], keys) and torch.equal(
            read_branch(tokens)[name][1], values
        )


@pytest.mark.parametrize("steps", [30, 50])
def test_the_ddim_schedule_takes_the_references_steps(steps: int):
    case = golden("inference_schedule")
    alphas = noise_schedule(SCHEDULE).float()
    sigmas = training_sigmas(alphas)
    levels = ddim_schedule(sigmas, steps)
    timesteps = case[f"out.timesteps_{steps}"]
    assert torch.equal(levels[:-1], sigmas[timesteps]) and levels[-1] == sigmas[0]
    for which, number in (("first", 0), ("last", steps - 1)):
        pair = levels[number : number + 2]
        noisy = case["in.latent"] * (1 + pair[0] ** 2).sqrt()
        moved = euler(lambda x, sigma: x - sigma * case["in.noise_pred"], noisy, pair, lambda *_: None)
        close(moved / (1 + pair[1] ** 2).sqrt(), case[f"out.step_{which}_{steps}"], 1e-5)


# ------------------------------------------------------------------------------------------------ on a U-Net


@pytest.fixture
def setting() -> tuple:
    """A base, its branch, noisy latents, times, text and ID tokens."""
    torch.manual_seed(3)
    base = tiny_base()
    return (
        base, IdAttention.beside(base.denoiser.cross_attention()),
        torch.randn(2, 4, 8, 8), torch.tensor([0.02, 0.7]),
        Conditioning(states=torch.randn(2, 7, 32)), torch.randn(2, 6, 32),
    )  # fmt: skip


def test_at_scale_0_and_with_nobody_the_unet_is_the_stock_one(setting: tuple):
    base, branch, noisy, timesteps, text, tokens = setting
    stock = base.predict(noisy, timesteps, text)
    seam = Seam(base.unet).open()
    assert torch.equal(base.predict(noisy, timesteps, text), stock)
    for nobody in ([], [Person(branch(tokens), 0.0)]):
        with seam.using("identity", IdentityAttention(nobody)):
            assert torch.equal(base.predict(noisy, timesteps, text), stock)
    with seam.using("identity", IdentityAttention([Person(branch(tokens))])):
        assert (base.predict(noisy, timesteps, text) - stock).abs().max() > 1e-3
    seam.close()
    assert torch.equal(base.predict(noisy, timesteps, text), stock)


def test_every_cross_attention_layer_has_a_branch_that_begins_as_the_text_does(setting: tuple):
    base, branch, *_ = setting
    layers = cross_attention_layers(base.unet)
    assert list(branch.names) == list(layers)
    assert [name.split(".")[0] for name in layers] == ["down_blocks"] * 2 + ["mid_block"] + ["up_blocks"] * 4
    name = branch.names[2]
    assert torch.equal(branch.layer_weights()[f"{name}.to_k_img.weight"], layers[name].layer.to_k.weight)


def test_scales_by_layer_and_two_people_add_up(setting: tuple):
    base, branch, noisy, timesteps, text, tokens = setting
    keys_values, name = branch(tokens), branch.names[0]

    def drawn(*people: Person) -> torch.Tensor:
        with using(base.unet, "identity", IdentityAttention(people)):
            return base.predict(noisy, timesteps, text)

    one_layer = drawn(Person(keys_values, {name: 1.0}))
    assert not torch.equal(one_layer, drawn(Person(keys_values)))
    close(drawn(Person(keys_values, 0.3), Person(keys_values, 0.7)), drawn(Person(keys_values)), 1e-5)
    everywhere = torch.ones(1, 1, 64, 64)
    left = everywhere.clone()
    left[..., 32:] = 0
    close(
        drawn(Person(keys_values, region=left), Person(keys_values, region=everywhere - left)),
        drawn(Person(keys_values)), 1e-5,
    )  # fmt: skip


def test_regions_are_weighed_at_each_layers_own_size():
    mask = torch.zeros(1, 1, 16, 24)
    mask[..., :8, 6:] = 1
    weights = region_at(mask, (2, 3))
    assert weights.flatten().tolist() == [0.25, 1, 1, 0, 0, 0]
    with pytest.raises(LikenessError, match="does not fit pictures of this size"):
        region_at(mask, None)


def test_in_their_regions_everybody_has_their_own_branch_alone(setting: tuple):
    base, branch, *_ = setting
    name = branch.names[0]
    people = [branch(torch.randn(1, 6, 32)) for _ in range(2)]
    query, left = torch.randn(2, 64, 2, 16), torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    site = AttentionSite(name, 2, WHOLE, WHOLE, (8, 8), nn.Identity(), nn.Identity())
    shown = [Person(people[0], region=left), Person(people[1], region=1 - left)]
    both = id_branch(query, site, shown).unflatten(1, (8, 8))
    for half, person in zip((both[:, :, :4], both[:, :, 4:]), people):
        alone = id_branch(query, site, [Person(person)]).unflatten(1, (8, 8))
        close(half, alone[:, :, :4] if person is people[0] else alone[:, :, 4:], 1e-6)


def test_gradients_are_the_same_with_checkpointing_although_other_passes_came_between(setting: tuple):
    base, branch, noisy, timesteps, text, tokens = setting
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            base.unet.enable_gradient_checkpointing()
            base.unet.training = True  # diffusers checkpoints in training mode only
            for part in base.unet.modules():
                part.training = hasattr(part, "gradient_checkpointing")
        seam = Seam(base.unet).open()
        with seam.using("identity", IdentityAttention([Person(branch(tokens))])):
            shown = base.predict(noisy, timesteps, text)
        others = IdentityAttention([Person(branch(tokens.flip(0)))])
        with torch.no_grad(), seam.using("identity", others):
            base.predict(noisy, timesteps, text)
        branch.zero_grad()
        shown.square().mean().backward()
        seam.close()
        found.append({name: weight.grad.clone() for name, weight in branch.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 0
        close(found[1][name], gradient, 1e-7)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_text_features_stop_the_pass_early_and_carry_gradients_to_the_tokens(
    setting: tuple, checkpointing: bool
):
    base, branch, noisy, timesteps, text, tokens = setting
    if checkpointing:
        base.unet.enable_gradient_checkpointing()
        for part in base.unet.modules():
            part.training = part is base.unet or hasattr(part, "gradient_checkpointing")
    names = [name for name in branch.names if name.startswith("up_blocks.0")]
    tokens.requires_grad_()
    seam, ran = Seam(base.unet).open(), []
    base.unet.conv_out.register_forward_hook(lambda *_: ran.append(True))
    somebody = IdentityAttention([Person(branch(tokens))])
    with seam.using("identity", somebody), text_features(seam, names) as whole:
        base.predict(noisy, timesteps, text)
    assert ran == [True]
    with seam.using("identity", somebody), text_features(seam, names, stop=True) as early:
        base.predict(noisy, timesteps, text)
    assert ran == [True] and list(early) == names
    for name in names:
        assert torch.equal(early[name], whole[name])
    gradients = [
        torch.autograd.grad(sum(part.square().sum() for part in found.values()), tokens, retain_graph=True)[0]
        for found in (early, whole)
    ]
    seam.close()
    assert gradients[0].abs().max() > 0
    close(gradients[0], gradients[1], 1e-6)
