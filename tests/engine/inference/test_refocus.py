"""Words kept in their regions: the maths on small tensors, and drawing on the tiny and on the small base."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.denoisers.unet import cross_attention_layers
from likeness_portraits.engine.bases.grids import grid_of
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.config.choices import FOCUS_MODES, FOCUS_SCOPES
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference import refocus, refocused
from likeness_portraits.engine.inference import regions as regions_module
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.inference.refocus import (
    FLOOR,
    Focus,
    LogMasks,
    Spot,
    _distance,
    box_region,
    find_sequence,
    fitted,
    log_mask,
    mask_components,
    own_prompt_of,
    regions_from_attention,
    regions_from_picture,
    word_attention,
)
from likeness_portraits.engine.inference.refocus_options import focus_of, refocusing_of
from likeness_portraits.engine.inference.refocused import Refocusing
from likeness_portraits.tests.engine.tiny import staged_person

LEFT, RIGHT, ALL = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0), (0.0, 0.0, 1.0, 1.0)
PROMPT = "a photo of <v0> and <v1>, on a beach"


def person(token: str, seed: int, width: int = 32, family: str = "sd1") -> Artifact:
    """A placeholder of two vectors that nobody has learned."""
    rows = torch.randn(2, width, generator=torch.Generator().manual_seed(seed))
    name = Token(token=token, class_word="woman", vectors=2)
    return Artifact(
        kind="embedding",
        method="test",
        tokens=(name,),
        base_family=family,
        tensors={f"token.{name.name}.clip_l": rows},
    )


@pytest.fixture(scope="module")
def miniature() -> BaseModel:
    return load_base(BaseSpec())


def drawn(base: BaseModel, focuses: list[Focus], prompts: tuple[str, ...] = (PROMPT,), **options: Any):
    width = base.word_rows("a")["clip_l"].shape[1]
    people = [(person(f"<v{i}>", i + 1, width, base.family), 1.0) for i in range(2)]
    kind = {name: options.pop(name, None) for name in ("on_maps", "look")}
    kind["restart"] = options.pop("restart", False)
    focusing = Refocusing(focuses=focuses, **kind) if focuses else None
    return generate(
        base, prompts, artifacts=people, refocus=focusing,
        **{"steps": 3, "width": 2 * base.resolution, **options},
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- the maths


def test_a_hard_mask_leaves_a_word_to_its_region():
    spots = [Spot(Focus(token="x", region=LEFT, scope="word"), (1,))]
    bias = log_mask(spots, [box_region(LEFT, (2, 2))], (2, 2), 3, 0.0)
    assert bias is not None
    assert bias[0, :, 1].exp().tolist() == pytest.approx([1, FLOOR, 1, FLOOR])
    assert not bias[..., [0, 2]].any()


def test_adding_the_log_is_multiplying_and_renormalising():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, 5, generator=generator)
    weights = torch.rand(1, 2, 2, generator=generator)
    spot = Spot(Focus(token="x", region=weights, mode="soft", scope="word"), (2, 3))
    bias = log_mask([spot], [weights], (2, 2), 5, 0.0)
    assert bias is not None
    by_hand = logits.softmax(-1)
    by_hand[..., [2, 3]] *= weights.flatten(1)[..., None]
    by_hand /= by_hand.sum(-1, keepdim=True)
    assert torch.allclose((logits + bias).softmax(-1), by_hand, atol=1e-6)


def test_a_region_of_ones_is_nothing_at_all_in_every_mode():
    for mode in FOCUS_MODES:
        for scope in FOCUS_SCOPES:
            for region in (ALL, torch.ones(1, 8, 8)):
                spot = Spot(Focus(token="x", region=region, mode=mode, scope=scope), (1,))
                masks = LogMasks([spot], [fitted(region, (4, 4), 1, "x")])
                assert masks.at((4, 4), 3, 0.5) is None and not masks.acts(0.5)


def test_a_region_smaller_than_a_query_keeps_the_best_one():
    region = box_region((0.3, 0.3, 0.05, 0.05), (16, 16))
    assert (refocus.weights(region, (2, 2), "hard") == 1).sum() == 1


def test_a_word_apart_reads_its_own_prompt_inside_and_nothing_else_does():
    spots = [
        Spot(Focus(token="x", region=LEFT), (1,), (1,), 3),
        Spot(Focus(token="y", region=RIGHT), (2,), (1,), 3),
    ]
    regions = [box_region(LEFT, (1, 3)), box_region(RIGHT, (1, 3))]
    bias = log_mask(spots, [region.round() for region in regions], (1, 3), 4, 0.0)
    assert bias is not None and bias.shape == (1, 3, 10)
    shares = torch.zeros(1, 3, 10).add(bias).softmax(-1)[0]
    assert shares[0, 4:7].sum() > 0.99 and shares[2, 7:].sum() > 0.99


def test_a_region_acts_between_start_and_end():
    focus = Focus(token="x", region=LEFT, start=0.2, end=0.6, strength=2.0)
    assert [focus.strength_at(p) for p in (0.1, 0.2, 0.4, 0.6, 0.7)] == [0, 2, 2, 2, 0]


@pytest.mark.parametrize(
    ("prompt", "own"),
    [
        (PROMPT, "a photo of <v0>, on a beach"),
        ("<v1> and <v0> in a city", "<v0> in a city"),
        ("<v0>, <v1>, and <v2> at night", "<v0> at night"),
        ("a photo of <v0>", None),
    ],
)
def test_the_prompt_of_its_own_mentions_no_other_person(prompt: str, own: str | None):
    assert own_prompt_of(prompt, Focus(token="<v0>", region=LEFT)) == own


def test_a_word_may_have_another_name_inside_its_region():
    focus = Focus(token="a man", inside="<v0>", region=LEFT)
    assert own_prompt_of("a photo of a man and <v1>", focus) == "a photo of <v0>"


def test_odd_sizes_are_halved_as_networks_halve_them():
    assert [grid_of(n, (5, 7)) for n in (35, 12, 4, 2, 9)] == [(5, 7), (3, 4), (2, 2), None, None]


def test_places_of_words_and_of_vectors():
    assert find_sequence([5, 1, 2, 7, 1, 2], [1, 2]) == (1, 2, 4, 5)
    vector = torch.ones(3)
    assert find_sequence([5, vector, 2], [torch.ones(3)]) == (1,)
    assert find_sequence([5, 1], [vector]) == ()


def test_each_place_goes_to_the_word_that_attends_to_it_most():
    maps = torch.tensor([[[[9.0, 5.0, 1.0, 1.0]], [[1.0, 1.5, 4.0, 1.0]]]])
    assert regions_from_attention(maps)[0, :, 0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]


def heads(*columns: int) -> Tensor:
    """Heads (1, 4, 12) two latent pixels wide that begin in these columns."""
    mask = torch.zeros(1, 4, 12)
    for column in columns:
        mask[:, 1:3, column : column + 2] = 1
    return mask


def test_two_faces_go_to_two_words_even_where_one_attends_to_both():
    mask = heads(1, 9)
    one, other = mask.clone(), mask.clone()
    one[..., :6] *= 1.2
    other[..., :6] *= 1.5  # both look left, the second more so
    found = regions_from_picture(mask, torch.stack([one, other], 1) + 0.1)
    assert found[0, 0, 1, 9] == 1 and found[0, 1, 1, 1] == 1
    assert [int(part.sum()) for part in mask_components(mask[0] > 0)] == [4, 4]


def test_a_place_goes_with_the_nearest_head_and_nobody_gets_a_bystanders():
    words = torch.ones(1, 2, 4, 12)
    two = regions_from_picture(heads(1, 9), words)[0]
    assert torch.equal(two.sum(0), torch.ones(4, 12)) and two[0, :, :6].all() and two[1, :, 6:].all()
    bystander = heads(1, 5, 9)
    bystander[:, 2, 5:7] = 0  # the smallest of three
    left, right = regions_from_picture(bystander, words)[0]
    assert left[1, 1] and right[1, 9] and not (left + right)[1, 5:7].any()


def test_a_head_by_itself_gets_its_rim_and_no_more():
    mask = torch.zeros(1, 12, 12)
    mask[:, 3:8, 3:8] = 1
    (region,) = regions_from_picture(mask, torch.ones(1, 1, 12, 12))[0]
    assert region[2:9, 3:8].all() and 25 < region.sum() <= 49


# ------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize("size", [(32, 64), (40, 56)])
def test_a_region_of_ones_draws_the_very_same_picture(base: BaseModel, size: tuple[int, int]):
    focuses = [Focus(token="<v0>", region=ALL, scope="word")]
    options = {"height": size[0], "width": size[1]}
    assert np.array_equal(drawn(base, focuses, **options), drawn(base, [], **options))


@pytest.mark.parametrize("scope", FOCUS_SCOPES)
@pytest.mark.parametrize("mode", FOCUS_MODES)
def test_regions_change_the_picture_and_the_next_one_knows_nothing_of_them(
    base: BaseModel, mode: str, scope: str
):
    before = drawn(base, [])
    focuses = [
        Focus(token=f"<v{i}>", region=box, mode=mode, scope=scope) for i, box in enumerate((LEFT, RIGHT))
    ]
    assert (drawn(base, focuses) != before).any()
    assert np.array_equal(drawn(base, []), before)


def test_hard_regions_hold_at_every_layer(miniature: BaseModel, monkeypatch: pytest.MonkeyPatch):
    """Of each word's attention at most 2 % lies outside its region, at each layer and step."""
    seen: list[float] = []
    regions = {"<v0>": LEFT, "<v1>": RIGHT}

    def measured(queries: Tensor, keys: Tensor, words: Any, bias: Tensor | None = None) -> Tensor:
        shares = word_attention(queries, keys, words, bias)
        grid = grid_of(queries.shape[1], (16, 32))
        assert grid is not None
        for place, box in enumerate(regions.values()):
            mass, region = shares[:, place], box_region(box, grid).flatten(1)
            seen.append(((mass * (1 - region)).sum() / mass.sum()).item())
        return shares

    monkeypatch.setattr(regions_module, "word_attention", measured)
    for scope in ("word", "apart"):
        focuses = [Focus(token=token, region=box, scope=scope) for token, box in regions.items()]
        drawn(miniature, focuses, on_maps=lambda *_: None, steps=2)
    layers = len(cross_attention_layers(miniature.unet))
    assert len(seen) == 2 * 2 * 2 * layers
    assert max(seen) <= 0.02
    seen.clear()
    drawn(
        miniature,
        [Focus(token=t, region=ALL, scope="word") for t in regions],
        on_maps=lambda *_: None,
        steps=2,
    )
    assert min(seen) > 0.2  # it is the regions that hold it


def test_every_picture_of_a_batch_has_its_own_region(base: BaseModel):
    masks = torch.cat([box_region(LEFT, (8, 16)), box_region(RIGHT, (8, 16))])
    prompts = ("a photo of <v0>", "a sketch of a happy <v0>")  # the word stands in other places, too
    together = drawn(base, [Focus(token="<v0>", region=masks, scope="word")], prompts)
    for number, (prompt, box) in enumerate(zip(prompts, (LEFT, RIGHT))):
        (alone,) = drawn(base, [Focus(token="<v0>", region=box, scope="word")], (prompt,))
        assert np.abs(together[number].astype(int) - alone).max() <= 1


@pytest.mark.parametrize("restart", [False, True])
def test_regions_are_found_while_drawing(base: BaseModel, restart: bool):
    told: list[Any] = []
    focuses = [Focus(token="<v0>", scope="word"), Focus(token="<v1>", scope="word")]
    steps: list[int] = []
    pictures = drawn(
        base, focuses, steps=4, restart=restart, on_maps=lambda *found: told.append(found),
        on_step=lambda done, total: steps.append(done), look=lambda _: heads(1, 9),
    )  # fmt: skip
    ((group, maps, found, shown),) = told
    assert group == range(1) and maps.shape == (1, 2, 8, 16) and np.array_equal(shown, pictures)
    first, second = (focus.region for focus in found)
    assert first.any() and second.any() and not (first * second).any()
    fixed = [Focus(token=focus.token, scope="word", region=focus.region) for focus in found]
    again = drawn(base, fixed, steps=4)
    assert np.array_equal(again, pictures) is restart  # only then they held from the first step


@pytest.mark.parametrize("scope", FOCUS_SCOPES)
def test_words_that_change_with_the_noise_are_followed(base: BaseModel, scope: str):
    """Their places change with the stage: two vectors, or the one class word."""
    people = [(staged_person("<v0>", 32, base.family), 1.0), (person("<v1>", 2), 1.0)]
    options = {"artifacts": people, "steps": 5, "width": 64}
    (plain,) = generate(base, [PROMPT], **options)
    ones = Refocusing(focuses=[Focus(token="<v0>", region=ALL, scope="word")])
    assert np.array_equal(generate(base, [PROMPT], refocus=ones, **options)[0], plain)
    focuses = [Focus(token=f"<v{i}>", region=box, scope=scope) for i, box in enumerate((LEFT, RIGHT))]
    assert (generate(base, [PROMPT], refocus=Refocusing(focuses=focuses), **options)[0] != plain).any()


def test_a_long_prompt_beside_this_one_changes_nothing_of_its_regions(base: BaseModel):
    focuses = [Focus(token=f"<v{i}>", region=box, scope="word") for i, box in enumerate((LEFT, RIGHT))]
    rows = {f"<v{i}>": {"clip_l": person(f"<v{i}>", i + 1).rows(f"<v{i}>")["clip_l"]} for i in range(2)}

    def painter(prompts):
        return base, base.encode_text(prompts, rows)

    model = refocused.RefocusedModel(base, painter, [PROMPT], rows, focuses, latents=(8, 16), steps=3)
    noisy, t = torch.randn(2, 4, 8, 16), torch.tensor([0.5, 0.5])
    whole = Conditioning.cat([base.encode_text(["a woman"]), model.context])
    once, thrice = (model.predict(noisy, t, whole.lengthened(77 * n)) for n in (1, 3))
    torch.testing.assert_close(once, thrice, atol=1e-5, rtol=1e-4)


def test_a_word_far_down_a_long_prompt_has_a_region(base: BaseModel):
    prompts = ("a woman, " * 40 + "<v0>", "<v0>")
    plain, kept = (drawn(base, focus, prompts) for focus in ([], [Focus(token="<v0>", region=LEFT)]))
    assert all((now != before).any() for now, before in zip(kept, plain))


def test_guidance_of_one_and_another_sampler(base: BaseModel):
    focuses = [Focus(token="<v0>", region=LEFT), Focus(token="<v1>", region=RIGHT)]
    options = {"guidance": 1.0, "sampler": "dpmpp_2m", "schedule": "karras"}
    assert (drawn(base, focuses, **options) != drawn(base, [], **options)).any()


def test_words_that_are_no_placeholder_have_regions_too(base: BaseModel):
    plain = drawn(base, [], ("a photo of a man",))
    assert (
        drawn(base, [Focus(token="man", region=LEFT, scope="word")], ("a photo of a man",)) != plain
    ).any()


def test_outside_the_region_nothing_is_known_of_the_name_inside(base: BaseModel):
    told: list[Any] = []
    focus = Focus(token="a man", inside="<v0>", region=LEFT)
    inside = drawn(base, [focus], ("a photo of a man",), on_maps=lambda *found: told.append(found))
    assert (inside != drawn(base, [], ("a photo of a man",))).any()
    maps = told[0][1][0, 0]
    assert maps[:, :7].sum() > 20 * maps[:, 9:].sum()


def test_where_nobody_is_seen_the_picture_is_as_without_and_that_is_said(
    base: BaseModel, caplog: pytest.LogCaptureFixture
):
    nobody = Refocusing(
        focuses=[Focus(token="man", scope="word")], restart=True,
        look=lambda clean: torch.zeros(len(clean), *clean.shape[-2:]),
    )  # fmt: skip
    options: dict[str, Any] = {"steps": 3, "width": 2 * base.resolution}
    plain = generate(base, ["a photo of a man"], **options)
    assert np.array_equal(generate(base, ["a photo of a man"], refocus=nobody, **options), plain)
    assert "no region was found for man by face in 1 of 1 pictures" in caplog.text


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other count as work in processor time
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("manner", [{"scope": "word"}, {}], ids=str)
def test_a_step_takes_at_most_15_percent_longer(
    miniature: BaseModel, manner: dict[str, Any], one_thread: None
):
    """Two people in the smallest picture, where there is least beside it to compute."""
    rows = {f"<v{i}>": {"clip_l": person(f"<v{i}>", i, 128).rows(f"<v{i}>")["clip_l"]} for i in range(2)}
    focuses = [Focus(token=f"<v{i}>", region=box, **manner) for i, box in enumerate((LEFT, RIGHT))]
    model = refocused.RefocusedModel(
        miniature, lambda prompts: (miniature, miniature.encode_text(prompts, rows)), [PROMPT], rows, focuses,
        latents=(16, 16), steps=3,
    )  # fmt: skip
    context, noisy = Conditioning.cat([miniature.encode_text([""]), model.context]), torch.randn(2, 4, 16, 16)
    took: list[list[float]] = [[], []]  # of each way, in turns: whatever else runs here only adds to it
    with torch.inference_mode():
        for number in range(45):
            for times, step in zip(took, (miniature.predict, model.predict)):
                began = time.process_time()
                step(noisy, torch.full((2,), 0.98 - 0.02 * number), context)
                times.append(time.process_time() - began)
    plain, masked = (sum(sorted(times)[:9]) for times in took)  # the fastest fifth
    assert masked < 1.25 * plain  # 1.04 on a quiet machine


# -------------------------------------------------------------------------------------------- bad input


def wrong(base: BaseModel, focuses: list[Focus], prompts: tuple[str, ...] = (PROMPT,)) -> str:
    with pytest.raises(LikenessError) as told:
        drawn(base, focuses, prompts)
    return str(told.value)


def test_a_word_that_is_not_in_the_prompt_is_named(base: BaseModel):
    told = wrong(base, [Focus(token="<v1>", region=LEFT)], ("a photo of <v0>",))
    assert told.startswith("'<v1>' is not in the prompt 'a photo of <v0>'")


def test_a_region_of_another_shape_or_number_is_refused(base: BaseModel):
    assert "is 8 x 8, which is not the shape" in wrong(
        base, [Focus(token="<v0>", region=torch.ones(1, 8, 8))]
    )
    told = wrong(base, [Focus(token="<v0>", region=torch.ones(2, 8, 16))] * 1, ("a <v0>", "a <v0>", "<v0>"))
    assert told.startswith("there are 2 regions for <v0>")
    assert "is empty" in wrong(base, [Focus(token="<v0>", region=torch.zeros(1, 8, 16))])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<v0>", "gives no word a region"),
        ("<v0>=lefft", "did you mean 'left'"),
        ("<v0>=0,0,a,1", "is not a number"),
        ("<v0>=0,0,2,1", "does not lie in the picture"),
        ("<v0>=left;moed=soft", "did you mean 'mode'"),
        ("<v0>=left;mode=softer", "did you mean 'soft'"),
        ("<v0>=attention", "use left, right, top, bottom, face"),
        ("<v0>=left;start=0.8;end=0.2", "cannot last from 0.8 to 0.2"),
    ],
)
def test_mistyped_regions_are_told_in_one_sentence(text: str, told: str):
    with pytest.raises(LikenessError, match=told):
        focus_of(text)


def test_regions_as_they_are_typed(tmp_path: Path):
    mask = np.zeros((32, 64), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    focus = focus_of(f"red hat={tmp_path / 'mask.png'};mode=soft;strength=0.5")
    assert (focus.token, focus.mode, focus.strength) == ("red hat", "soft", 0.5)
    assert isinstance(focus.region, Tensor) and torch.equal(focus.region, box_region(LEFT, (32, 64)))
    assert focus_of("<v0>=right").region == RIGHT
    focus = focus_of("<v0>=face;find_at=0.2")
    assert (focus.region, focus.find_at) == (None, 0.2)


def test_the_command_line_refocuses_and_shows_where_words_looked(likeness: Callable, tmp_path: Path):
    saved = [
        str(person(f"<v{i}>", i, 128, "miniature").save(tmp_path / f"{i}.safetensors")) for i in range(2)
    ]
    concepts = [part for path in saved for part in ("--concept", path)]
    regions = ["--refocus", "<v0>=left", "--refocus", "<v1>=face;find_at=0.5"]
    ran = likeness(
        "generate", PROMPT, *concepts, *regions, "--attention-maps", tmp_path / "maps", "--width", 256,
        "--steps", 2, "--out", tmp_path / "two.png",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert Image.open(tmp_path / "two.png").size == (256, 128)
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["000-v0.png", "000-v1.png"]
    ran = likeness("generate", "a photo of <v0>", "--concept", saved[0], "--refocus", "<v9>=left")
    assert ran.returncode == 2 and "'<v9>' is not in the prompt" in ran.stderr


def test_faces_are_found_with_the_bases_own_decoder(miniature: BaseModel):
    focusing = refocusing_of(["<v0>=face"], miniature)
    assert focusing is not None and focusing.look is not None
    assert focusing.look(torch.zeros(1, 4, 16, 32)).shape == (1, 128, 256)


def test_distances_from_a_head_are_exact_and_take_no_memory_to_speak_of():
    """Of a head of 110 x 110 on the latents of 1536 pixels, where all pairs of places are 1.8 GB."""
    generator = torch.Generator().manual_seed(0)
    part = torch.rand(23, 31, generator=generator) > 0.97
    places, inside = torch.ones_like(part).nonzero().float(), part.nonzero().float()
    expected = (places[:, None] - inside).norm(dim=-1).amin(1).view(part.shape)
    assert torch.allclose(_distance(part), expected, atol=1e-5)
    head = torch.zeros(192, 192, dtype=torch.bool)
    head[40:150, 40:150] = True
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        far = _distance(head)
    assert far[0, 0] == pytest.approx(40 * 2**0.5) and far[45, 45] == 0
    assert sum(max(event.self_cpu_memory_usage, 0) for event in seen.events()) < 400 * 2**20
