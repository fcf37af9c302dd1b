"""What methods find inside FLUX.2's attention: where each word is looked for; tiny random weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.denoisers.seam import using
from likeness_portraits.engine.bases.families import FAMILIES
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.inference.refocus import Focus, LogMasks, Maps, Spot
from likeness_portraits.engine.inference.refocused import Refocusing
from likeness_portraits.engine.inference.regions import FocusedPrompt, Regions
from likeness_portraits.engine.staged.text import TextStates
from likeness_portraits.engine.training.attention_maps import mask_layers, recorded
from likeness_portraits.engine.training.component_losses import attention_to
from likeness_portraits.engine.training.interval import measure_overlap
from likeness_portraits.engine.training.memory import MemorySettings, estimate
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.engine.training.methods.personamagic import PersonaMagic, StagedBatch
from likeness_portraits.engine.training.observer import Progress
from likeness_portraits.tests.engine.tiny import staged_person, tiny_job
from likeness_portraits.tests.engine.training import test_registering

pytest.importorskip("diffusers", "0.36")
pytest.importorskip("transformers", "4.51")


@pytest.fixture
def base(klein: BaseModel, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    monkeypatch.setattr(klein.text, "length", 96)  # a fifth of the time
    return klein


def test_words_are_looked_for_in_all_blocks_or_in_those_that_the_row_names(base, monkeypatch):
    assert base.attention_side == 8  # a query for every latent
    single = "single_transformer_blocks.1.attn"
    assert list(mask_layers(base)) == [
        "transformer_blocks.0.attn", "single_transformer_blocks.0.attn", single,
    ]  # fmt: skip
    noisy, times, context = torch.randn(1, 16, 8, 8), torch.tensor([0.5]), base.encode_text(["a man"])
    found = []
    for saving in (False, True):
        text = context.states.clone().requires_grad_()
        base.recompute(saving)
        try:
            with recorded(base.network, mask_layers(base)) as maps:
                prediction = base.predict(noisy, times, Conditioning(states=text))
            looks = attention_to(maps.all(), torch.ones(1, 96))
            (prediction.square().mean() + sum(map_[..., 3].square().sum() for map_ in maps.all())).backward()
        finally:
            base.recompute(False)
        torch.testing.assert_close(looks, torch.ones(1, 64))
        found.append(text.grad)
    base.predict(noisy, times, context)
    processors = {type(block.attn.processor).__name__ for block in base.denoiser.blocks()}
    assert found[0].any() and processors == {"Flux2AttnProcessor", "Flux2ParallelSelfAttnProcessor"}
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)
    row = replace(FAMILIES["flux2"], attention_layers=("single_transformer_blocks.19.attn", single))
    monkeypatch.setitem(FAMILIES, "flux2", row)
    assert list(mask_layers(base)) == [single]
    monkeypatch.setitem(FAMILIES, "flux2", replace(row, attention_layers=("of.another.size",)))
    assert len(mask_layers(base)) == 3


def test_a_region_that_is_everywhere_draws_its_own_prompt_and_others_draw_theirs(base):
    """What the whole prompt still says there is FLOOR's share."""
    noisy = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.5, 0.5])
    said = base.encode_text(["a man on a beach", "a cat", "a dog"])
    region = torch.ones(1, 8, 8)
    spot = Spot(Focus(token="x", region=region), (5,), (5,), 96)
    own = said.rows(slice(1, 2)).states
    prompt = FocusedPrompt(LogMasks([spot], [region]), 96, [TextStates(own, own)])
    biases: dict = {}
    with torch.no_grad(), using(base.network, "regions", Regions([(1, None), (1, prompt)], 0.5, biases)):
        other, found = base.predict(noisy, times, said.rows([2, 0]))
    with torch.no_grad():
        wanted = base.predict(noisy, times, said.rows([2, 1]))
        whole = base.predict(noisy, times, said.rows([2, 0]))[1]
    torch.testing.assert_close(other, wanted[0], atol=1e-5, rtol=1e-5)
    assert (found - wanted[1]).abs().max() < 0.01 * (whole - wanted[1]).abs().max()


def test_prompts_of_their_own_are_each_read_from_the_beginning_however_long_others_are():
    """ComfyUI leaves a prompt as long as it is where it is longer than what prompts are filled up to."""

    def prompt(*lengths: int) -> FocusedPrompt:
        spots = [Spot(Focus(token="x", region=torch.ones(1, 2, 2)), (1,), (1,), length) for length in lengths]
        own = [TextStates(torch.ones(1, length, 3), torch.ones(1, length, 3)) for length in lengths]
        return FocusedPrompt(LogMasks(spots, [torch.ones(1, 2, 2)] * len(lengths)), 4, own)

    def places(*prompts: FocusedPrompt | None) -> list:
        return (
            Regions([(1, one) for one in prompts], 0.5, {}).behind(torch.ones(len(prompts), 4, 3))[1].tolist()
        )

    assert places(prompt(3, 2), None) == places(prompt(3, 2), prompt(3)) == [0, 1, 2, 0, 1]
    assert places(prompt(3, 1), prompt(2, 1)) == [[0, 1, 2, 0], [0, 1, 0, 0]]


def test_two_people_are_drawn_in_boxes_and_neutral_ones_change_nothing(base):
    def drawn(own: bool = False, **how) -> np.ndarray:
        focuses = [
            Focus(token=name, region=(left, 0, 0.5, 1), own_prompt=name if own else None, **how)
            for name, left in (("Anna", 0), ("Ben", 0.5))
        ]
        maps = []
        told = Refocusing(focuses=focuses, on_maps=lambda _group, found, *_rest: maps.append(found))
        picture = generate(base, ["Anna and Ben"], steps=2, seed=1, refocus=told if own or how else None)
        assert not (own or how) or maps[0].shape == (1, 2, 8, 8)
        return picture

    plain = drawn()
    assert (drawn(strength=0.0, scope="word") == plain).all()
    apart, words = drawn(own=True), drawn(scope="word")
    assert (apart != plain).any() and (words != plain).any() and (apart != words).any()


def test_where_words_look_is_added_up_in_the_blocks_that_the_row_names(base, monkeypatch):
    def seen() -> tuple[list[int], Tensor]:
        grids: list[int] = []
        add = Maps.add
        monkeypatch.setattr(Maps, "add", lambda maps, *told: (grids.append(1), add(maps, *told))[1])
        found: list[Tensor] = []
        told = Refocusing(
            focuses=[Focus(token="Anna", region=(0, 0, 0.5, 1), scope="word")],
            on_maps=lambda _group, maps, *_rest: found.append(maps),
        )
        generate(base, ["Anna and Ben"], steps=2, seed=1, width=32, height=48, refocus=told)
        monkeypatch.setattr(Maps, "add", add)
        return grids, found[0]

    everywhere, of_all = seen()
    row = replace(FAMILIES["flux2"], attention_layers=("of.another.size", "single_transformer_blocks.1.attn"))
    monkeypatch.setitem(FAMILIES, "flux2", row)
    there, of_one = seen()
    assert (len(everywhere), len(there)) == (2 * 3, 2)  # steps times blocks
    assert of_one.shape == of_all.shape == (1, 1, 12, 8) and not torch.allclose(of_one, of_all)


def test_of_biases_as_large_as_joint_attention_few_are_kept(base):
    noisy, times, context = torch.randn(1, 16, 8, 8), torch.tensor([0.5]), base.encode_text(["Anna"])
    biases: dict[Any, Any] = {}
    for _ in range(6):  # as many stages of a prompt, each with masks of its own
        focus = Focus(token="Anna", region=torch.eye(8)[None], scope="word")
        masks = LogMasks([Spot(focus, (3,))], [torch.eye(8)[None]])
        regions = Regions([(1, FocusedPrompt(masks, context.length))], 0.5, biases)
        with using(base.network, "regions", regions):
            base.predict(noisy, times, context)
    assert 1 <= len(biases) <= 4


# ----------------------------------------------------------------------------- words that follow the noise


@test_registering.every_check
def test_words_that_follow_the_noise_are_learned(check, base, folder):
    check("personamagic", base, folder)


def staged(base, folder, **settings) -> tuple[PersonaMagic, StagedBatch]:
    job = tiny_job("personamagic", folder, settings={"bypass_dropout": 0.0, **settings})
    method = PersonaMagic(job, base, [load_concept(folder / "person")])
    method.prepare(lambda: None)
    batch = method.batch(method.phases()[0], 0)
    assert isinstance(batch, StagedBatch)
    return method, batch


def test_both_losses_reach_the_mapper_and_the_bypass_is_as_wide_as_the_blocks(base, folder):
    method, batch = staged(base, folder, balance_weight=1.0)
    heads = {name: part for name, part in method.mapper.named_parameters() if "output_layer.0" in name}
    width = base.network.config.num_attention_heads * base.network.config.attention_head_dim
    assert heads["image_output_layer.0.weight"].shape[0] == 4 * width
    losses = method(batch, Progress(phase="mapping", phase_step=0, phase_steps=4, step=0, total=4))
    of = {
        loss: [
            grad is not None and bool(grad.any())
            for grad in torch.autograd.grad(
                losses[loss], list(heads.values()), retain_graph=True, allow_unused=True
            )
        ]
        for loss in losses
    }
    image, words = [name.startswith("image") for name in heads], [True] * len(heads)
    assert of["diffusion"] == words  # the picture's part too
    assert of["text_attention"] == [not part for part in image]


def test_the_text_models_attention_is_its_own_and_the_users_words_alone_are_compared(base, folder):
    """transformers' eager attention, at the layers that are tapped; heads of queries, two for each key."""
    method, batch = staged(base, folder)
    (states,) = method._text_states(batch.open_prompts, *method._words(batch), attention=True).values()
    tokens = [method._tokens(prompt, "qwen3_4b") for prompt in batch.open_prompts]
    ids = torch.cat([one.ids for one in tokens])
    vectors = method._words(batch)[0]["qwen3_4b"]
    model = base.text_encoders["qwen3_4b"]
    embedded = model.get_input_embeddings()(ids)
    for row, one in enumerate(tokens):
        for _, position, _, number in one.places:
            embedded[row, position] = vectors[row, number]
    ends = [int((line != 256).nonzero()[-1]) + 1 for line in ids]
    mask = torch.stack([(torch.arange(96) < end).long() for end in ends])
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        plain = model(inputs_embeds=embedded, attention_mask=mask, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(usual)
    wanted = torch.cat([plain[tap - 1] for tap in base.text.taps], 1)
    assert states.attention is not None and states.attention.shape == (2, 3 * 2, 96, 96)
    for row, end in enumerate(ends):
        torch.testing.assert_close(
            states.attention[row, :, :end, :end], wanted[row, :, :end, :end], atol=1e-5, rtol=1e-4
        )
    words, asking = base.text.spoken(tokens[0], "qwen3_4b")
    read = base.tokenizers["qwen3_4b"]
    heard = [piece for piece, ours in zip(ids[0].tolist(), words[0].tolist()) if ours]
    before, behind = (read(part)["input_ids"] for part in batch.open_prompts[0].split("<v0>"))
    assert heard[: len(before) + 4] == [*before, *[256] * 4]
    assert heard[len(before) + 4 :] in (behind, behind[1:])  # a space in front is not read
    assert int(asking.sum()) == ends[0] - len(read("<|im_start|>user\n")["input_ids"])


def test_a_value_offset_leaves_attention_whole_where_an_offset_of_the_context_changes_it(base):
    """What the picture reads of each word in the first block: the published bypass must not change keys."""
    said = base.encode_text(["a man"])
    row = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0))
    at = torch.tensor([[5]])
    moved = said.states.clone()
    moved[0, 5] += torch.nn.functional.pad(row[0, 0], (0, 64))
    noisy, times = torch.randn(1, 16, 8, 8), torch.tensor([0.8])
    seen, drawn = [], []
    for one in (said, Conditioning(states=said.states, added=row, added_at=at), Conditioning(states=moved)):
        with recorded(base.network, mask_layers(base)) as maps, torch.enable_grad():
            drawn.append(base.predict(noisy, times, one))
        seen.append(maps.probabilities("transformer_blocks.0.attn"))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(drawn[0], drawn[1])
    assert (seen[0] - seen[2]).abs().max() > 1e-6


def test_words_for_another_network_are_refused_with_its_width(base):
    artifact = staged_person("<v0>", {"qwen3_4b": 32}, "flux2", bypass_width=48)
    with pytest.raises(LikenessError, match="<v0> was learned for a network 48 wide, this model's is 32"):
        generate(base, ["a photo of <v0>"], artifacts=[(artifact, 1.0)], steps=1)
    artifact = staged_person("<v0>", {"qwen3_4b": 24}, "flux2", bypass_width=32)
    with pytest.raises(LikenessError, match="for a text encoder 24 wide, this model's is 32"):
        generate(base, ["a photo of <v0>"], artifacts=[(artifact, 1.0)], steps=1)


def test_stages_lie_at_the_noise_that_a_picture_of_1024_pixels_needs(base):
    ends = [base.process.published_time(end) for end in (400, 800)]
    assert ends == pytest.approx([0.70, 0.91], abs=0.005)
    assert base.process.published_timestep(torch.tensor(ends)).tolist() == [400, 800]


def test_blocks_are_ranked_by_how_well_they_see_the_subject(base, folder):
    found = measure_overlap(base, load_concept(folder / "person", class_word="x"), points=2)
    assert len(found.layers) == 3 and list(found.layers.values()) == sorted(found.layers.values())[::-1]
    assert found.layers.keys() == mask_layers(base).keys()
    assert all(0 <= value <= 1 for value in [*found.layers.values(), *found.overlap])


def test_where_words_are_looked_for_is_counted_in_what_a_run_needs(base, folder):
    """On hollow weights, which nothing in a pass may look into."""
    needed = []
    for weight in (0.0, 0.01):
        job = tiny_job("magictailor", folder, settings={"attention_weight": weight})
        method = method_class("magictailor")(job, base, [load_concept(folder / "person")])
        needed.append(estimate(method, MemorySettings()).step)
    maps = 3 * 2 * 64 * 96 * 4  # blocks, heads, tokens of the picture, words, bytes
    assert needed[1] - needed[0] > maps
