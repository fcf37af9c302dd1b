"""MagicTailor: what its steps see and train, bad input, and whole runs against the reference's own trace."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.artifact.lora_layouts import to_kohya
from likeness_portraits.engine.bases.base import BaseModel, unet_base
from likeness_portraits.engine.bases.denoisers.conditional_unet import LORA_TARGETS
from likeness_portraits.engine.bases.process.ddpm import noise_schedule
from likeness_portraits.engine.bench.speed import allocated, measure_speed
from likeness_portraits.engine.config import Job, MagicTailorSettings
from likeness_portraits.engine.data.concepts import Concept, Picture, write_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.training import lora
from likeness_portraits.engine.training.adapters import adapted_layers
from likeness_portraits.engine.training.checkpoint import Checkpoints
from likeness_portraits.engine.training.component_losses import masked_mean_error
from likeness_portraits.engine.training.launch import _accelerator, _forget, train
from likeness_portraits.engine.training.methods.magictailor import (
    BALANCE,
    SWITCH,
    WARM_UP,
    MagicTailor,
    TailorBatch,
    components,
    short_side_scaled,
    whole_examples,
)
from likeness_portraits.engine.training.observer import Progress, Silent
from likeness_portraits.engine.training.optimiser import schedule
from likeness_portraits.engine.training.trainer import Trainer
from likeness_portraits.tests.engine.tiny import SIZE, tiny_base, tiny_job, unet_config
from likeness_portraits.tests.golden.goldens import Golden, close

START = Progress(phase=WARM_UP, phase_step=0, phase_steps=2, step=0, total=4)
BALANCING = Progress(phase=BALANCE, phase_step=1, phase_steps=2, step=3, total=4)


def picture(seed: int, top: int = 8, bottom: int = 24) -> Picture:
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[top:bottom, 8:24] = 1
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    return Picture(str(seed), pixels, mask)


PERSON = Concept("<v0>", "woman", "subject", (picture(0), picture(1), picture(2)))
HAIR = Concept("<v1>", "hair", "component", (picture(3, 0, 8), picture(4, 0, 8)))


@pytest.fixture
def folder(tmp_path) -> Path:
    write_concept(tmp_path / "person", PERSON)
    write_concept(tmp_path / "hair", HAIR)
    return tmp_path


def masks_of(concept: Concept) -> torch.Tensor:
    return torch.stack([torch.from_numpy(picture.mask)[None] for picture in concept.pictures])


def both(folder: Path, name: str = "both", **changes: Any) -> Job:
    concepts = [
        {"folder": str(folder / "person"), "token": "<v0>"},
        {"folder": str(folder / "hair"), "token": "<v1>"},
    ]
    return tiny_job("magictailor", folder, name, concepts=concepts, **changes)


class Learner:
    """A method ready for its steps, taken off the base afterwards."""

    def __init__(self, base: BaseModel, folder: Path, **settings: Any) -> None:
        self.method = MagicTailor(both(folder, settings=settings), base, [PERSON, HAIR])

    def __enter__(self) -> MagicTailor:
        torch.manual_seed(0)
        self.method.prepare(lambda: None)
        for parameter in self.method._lora:
            parameter.requires_grad_()
        return self.method

    def __exit__(self, *_: object) -> None:
        self.method.close()


class Losses(Silent):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        self.seen.append(dict(losses))


def stirred(method: MagicTailor) -> MagicTailor:
    """With a LoRA that does something."""
    with torch.no_grad():
        for number, parameter in enumerate(method._lora):
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.05
            )
    return method


# --------------------------------------------------------------------------------------------- whole runs


def test_person_and_hair_are_learned_together_and_each_word_draws_alone(base, folder):
    observer = Losses()
    artifact = Artifact.load(train(both(folder), observer, base))
    assert [set(losses) for losses in observer.seen] == [{"diffusion", "attention"}] * 2 + [
        {"worst_concept", "preservation", "attention"}
    ] * 2
    assert [(token.token, token.class_word, token.role) for token in artifact.tokens] == [
        ("<v0>", "woman", "subject"),
        ("<v1>", "hair", "component"),
    ]
    prompts = ["a photo of <v0>", "a photo of <v1>", "a photo of <v0> with <v1>"]
    pictures = generate(base, prompts, artifacts=[(artifact, 1.0)], steps=2)
    assert len({drawn.tobytes() for drawn in pictures}) == 3


def test_an_interrupted_balance_goes_on_bit_for_bit_with_its_teacher(base, folder):
    class Stop(Losses):
        def should_stop(self) -> bool:
            return len(self.seen) == 3

    whole = Artifact.load(train(both(folder, "whole"), base=base))
    train(both(folder, "part"), Stop(), base)
    resumed = Artifact.load(train(both(folder, "part", resume=True), base=base))
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)


def test_the_reference_preset_moves_every_word_saves_them_and_leaves_the_base_alone(base, folder):
    class Previews(Losses):
        def on_preview(self, progress: Progress, image: np.ndarray) -> None:
            self.preview = image

    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    reference = {**vars(MagicTailorSettings.preset("reference")), "templates": ["a photo of {}"]}
    settings = {**reference, "warm_up_steps": 1, "balance_steps": 3, "rank": 4, "token_learning_rate": 0.05}
    observer = Previews()
    job = both(folder, settings=settings, preview_every=4, preview_prompt="a photo of <v0> with <v1>")
    artifact = Artifact.load(train(job, observer, base))
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    own = base.text_encoders["clip_l"].get_input_embeddings().weight
    assert not own.requires_grad and not torch.allclose(artifact.tables()["clip_l"], own, atol=0.01)
    drawn = generate(
        base, [job.preview_prompt or ""], artifacts=[(artifact, 1.0)], steps=20, guidance=5.0, seed=job.seed
    )
    assert np.abs(drawn[0].astype(int) - observer.preview).max() <= 1


def test_a_single_concept_is_trained_plainly_and_says_so(base, folder, caplog):
    observer = Losses()
    with caplog.at_level(logging.WARNING):
        train(tiny_job("magictailor", folder), observer, base)
    assert "nothing to balance" in caplog.text
    assert {name for losses in observer.seen for name in losses} == {"diffusion", "attention"}


def test_three_concepts_are_balanced_as_well(base, folder):
    write_concept(folder / "hat", Concept("<v2>", "hat", "component", (picture(5, 0, 4),)))
    job = both(folder)
    third = replace(job.concepts[1], folder=str(folder / "hat"), token="<v2>")
    observer = Losses()
    artifact = Artifact.load(train(replace(job, concepts=(*job.concepts, third)), observer, base))
    assert len(artifact.tokens) == 3 and "preservation" in observer.seen[-1]


# -------------------------------------------------------------------------------------------- single steps


def test_every_step_shows_all_pictures_and_counts_concepts_not_pictures(base, folder):
    with Learner(base, folder) as method:
        batch = method.batch(method.phases()[0], 0)
        assert batch.concepts.tolist() == [0, 0, 0, 1, 1]
        assert batch.prompts == ("a photo of <v0>",) * 3 + ("a photo of <v1>",) * 2
        assert batch.shares.tolist() == pytest.approx([1 / 3] * 3 + [1 / 2] * 2)


def test_a_smaller_batch_takes_evenly_from_the_concepts(base, folder):
    with Learner(base, folder, batch_size=3) as method:
        batches = [method.batch(method.phases()[0], number) for number in range(3)]
        assert all(batch.concepts.tolist() == [0, 0, 1] for batch in batches)
        assert {int(index) for batch in batches for index in batch.indices} == {0, 1, 2, 3, 4}


def test_joint_prompts_name_everybody_and_attention_still_looks_at_the_own_word(base, folder):
    with Learner(base, folder, joint_share=1.0) as method:
        batch = method.batch(method.phases()[0], 0)
        assert set(batch.prompts) == {"a photo of <v0> with <v1>"}
        positions = method._positions(batch)
        assert positions.argmax(1).tolist() == [4, 4, 4, 6, 6] and positions.sum() == 5


def test_concepts_are_compared_at_the_same_noise_levels_when_asked(base, folder):
    with Learner(base, folder, shared_timestep=True) as method:
        batch = method.batch(method.phases()[0], 0)
        assert batch.concepts.tolist() == [0, 0, 0, 1, 1]  # unequal counts: the third has a level of its own
        person, hair = batch.times[:3].tolist(), batch.times[3:].tolist()
        assert hair == person[:2] and len(set(person)) == 3


@pytest.mark.parametrize("margin, pixels", [(0.0, 0), (2 / SIZE, 2)])
def test_a_component_is_learned_a_little_past_its_edges_and_the_person_is_not(base, folder, margin, pixels):
    with Learner(base, folder, flip=False, component_margin=margin) as method:
        person, hair = method.batch(method.phases()[0], 0).masks.split([3, 2])
        assert torch.equal(person, masks_of(PERSON)) and torch.equal(hair == 1, masks_of(HAIR) == 1)
        around = torch.zeros(SIZE, SIZE)
        around[: 8 + pixels, 8 - pixels : 24 + pixels] = 0.5
        around[:8, 8:24] = 1
        assert torch.equal(hair, around.expand(2, 1, -1, -1))


def test_components_are_known_by_their_role_in_any_order_and_else_by_coming_later():
    assert components([PERSON, HAIR]).tolist() == [False, True]
    assert components([HAIR, PERSON]).tolist() == [True, False]
    assert components([PERSON, replace(HAIR, role="subject")]).tolist() == [False, True]


def test_inside_the_masks_pixels_stay_and_mask_out_is_grey(base, folder):
    with Learner(base, folder, colour_jitter=0.0, flip=False) as method:
        batch = method.batch(method.phases()[0], 0)
        noised = method._hidden_outside(batch, START).pixels
        assert torch.equal(noised * batch.masks, batch.pixels * batch.masks)
        assert (noised != batch.pixels)[batch.masks.expand_as(noised) == 0].float().mean() > 0.9
    with Learner(base, folder, degradation="mask out") as method:
        batch = method.batch(method.phases()[0], 0)
        hidden = method._hidden_outside(batch, START).pixels
        assert not hidden[batch.masks.expand_as(hidden) == 0].any()


@pytest.mark.parametrize("settings", [{"pass_size": 2}, {"gradient_checkpointing": True}])
def test_saving_memory_changes_no_loss_and_no_gradient(base, folder, settings):
    found = []
    for more in ({}, settings):
        with Learner(base, folder, momentum=0.0, **more) as method:
            method.begin_phase(method.phases()[1])
            stirred(method)  # the teacher stays where it was
            losses = method(method.batch(method.phases()[1], 0), BALANCING)
            torch.stack(list(losses.values())).sum().backward()
            trained = [*method._lora, *method.tokens.parameters()]
            found.append((losses, [parameter.grad for parameter in trained]))
    for name, loss in found[0][0].items():
        assert loss > 0
        torch.testing.assert_close(loss, found[1][0][name], atol=1e-7, rtol=1e-4)
    for first, second in zip(found[0][1], found[1][1]):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("size", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_accumulated_passes_over_one_batch_equal_a_plain_run_and_move_the_teacher_once(size, base, folder):
    class Twice(MagicTailor):
        """Each step's batch comes twice, once for each of its passes."""

        def batch(self, phase, number):
            return super().batch(phase, number // phase.gradient_accumulation)

    found = []
    for kind, passes, taken in ((MagicTailor, 1, 0), (Twice, 2, size)):
        job = both(folder, settings={"gradient_accumulation": passes, "pass_size": taken})
        accelerator = _accelerator(job)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            method = kind(job, base, [PERSON, HAIR])
            try:
                trainer = Trainer(method, job, accelerator, Losses(), Checkpoints(job, f"{passes} {taken}"))
                method.prepare(trainer.check)
                trainer.run()
                assert method._momentum is not None and method._momentum.updates == 2
                averages = {f"teacher {n}": mean for n, mean in enumerate(method._momentum.averages)}
                found.append({**method.artifact().tensors, **averages})
            finally:
                method.close()
                _forget(accelerator)
    plain, other = found
    for name, tensor in plain.items():
        torch.testing.assert_close(other[name], tensor, atol=2e-5, rtol=1e-3)


class TwoNetworks(MagicTailor):
    """The same steps as the reference takes them: the teacher is a second U-Net, an average of all weights,
    asked about all rows."""

    def begin_phase(self, phase):
        if phase.name != WARM_UP:
            self._teacher = copy.deepcopy(self.base.unet)
            self._momentum = self  # type: ignore[assignment]

    def _drifts(self, batch, noisy, context, prediction, masks, chosen):
        with torch.no_grad():
            timesteps = self.base.process.timesteps(batch.times)
            told = self._teacher(noisy, timesteps, context.states.detach(), return_dict=False)[0]
        return self._by_concept(masked_mean_error(prediction, told, masks), batch)

    @torch.no_grad()
    def update(self):
        for mean, own in zip(self._teacher.parameters(), self.base.unet.parameters()):
            mean.lerp_(own, 1 - self.settings.momentum)


def wide_base() -> BaseModel:
    """A base whose memory is its U-Net's weights, as a real one's with checkpointing."""
    from diffusers import UNet2DConditionModel

    small = tiny_base()
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DConditionModel(**{**unet_config("sd1", 8), "block_out_channels": (256, 512)})
    return unet_base(
        unet=unet, vae=small.vae, text_encoders=dict(small.text_encoders.items()),
        tokenizers=small.tokenizers, alphas_cumprod=small.process.alphas_cumprod.float(), family="sd1",
        resolution=SIZE, attention_side=4,
    )  # fmt: skip


@pytest.mark.slow
def test_one_network_that_is_its_own_teacher_needs_at_most_0_6_of_the_memory_of_two(folder):
    """From the first weight on, over a balancing step, with the same losses."""
    losses: dict[type, list[float]] = {}

    def steps(kind: type[MagicTailor]) -> None:
        torch.manual_seed(3)
        base = wide_base()
        method = kind(both(folder), base, [PERSON, HAIR])
        method.prepare(lambda: None)
        torch.manual_seed(4)
        stirred(method)
        trained = [
            weight.requires_grad_() for group in method.parameter_groups().values() for weight in group
        ]
        optimiser = torch.optim.AdamW(trained, 1e-4)
        method.begin_phase(method.phases()[1])
        found = losses[kind] = []
        for number in range(2):
            terms = method(method.batch(method.phases()[1], number), BALANCING)
            torch.stack(list(terms.values())).sum().backward()
            optimiser.step()
            optimiser.zero_grad()
            method.after_step(BALANCING)
            found += [term.item() for term in terms.values()]

    one, two = (allocated(lambda kind=kind: steps(kind)) for kind in (MagicTailor, TwoNetworks))
    assert losses[MagicTailor] == pytest.approx(losses[TwoNetworks], rel=1e-3, abs=1e-9)
    print(f"{one / 1e6:.0f} MB, with two networks {two / 1e6:.0f} MB: {one / two:.2f}")  # noqa: T201
    assert one <= 0.6 * two


@pytest.mark.slow
def test_a_step_costs_at_most_a_quarter_more_than_its_passes():
    rows = measure_speed("miniature", ["magictailor"], 5, "fp32", None, print)
    assert len(rows) == 2
    assert all(row["ratio"] <= 1.25 for row in rows)


def test_the_teacher_is_asked_only_about_rows_it_is_to_hold(base, folder, monkeypatch):
    with Learner(base, folder) as method:
        method.begin_phase(method.phases()[1])
        passes: list[tuple[int, bool]] = []
        predict = base.predict

        def counted(noisy, t, context):
            passes.append((len(noisy), torch.is_grad_enabled()))
            return predict(noisy, t, context)

        monkeypatch.setattr(base, "predict", counted)
        method(method.batch(method.phases()[1], 0), BALANCING)
        assert passes[0] == (5, True)
        assert passes[1] in [(2, False), (3, False)] and len(passes) == 2


@pytest.mark.parametrize("settings", [{}, {"batch_size": 3}, {"selection_temperature": 1.0}])
def test_the_passes_that_cannot_be_avoided_hold_as_many_of_the_teachers_rows_as_a_step(
    base, folder, settings
):
    with Learner(base, folder, **settings) as method:
        phase = method.phases()[1]
        assert method.load(phase).teacher == method._held_rows(method.batch(phase, 0))
        assert method.load(method.phases()[0]).teacher == 0


def test_with_an_equal_teacher_nothing_is_lost_and_with_another_something_is(base, folder):
    with Learner(base, folder) as method:
        method.begin_phase(method.phases()[1])
        batch = method.batch(method.phases()[1], 0)
        assert method(batch, BALANCING)["preservation"] < 1e-11
        stirred(method)
        assert method(batch, BALANCING)["preservation"] > 1e-7


def test_a_teacher_with_slow_words_of_its_own_notices_when_words_move(base, folder):
    for own_words in (False, True):
        with Learner(base, folder, momentum_tokens=own_words) as method:
            method.begin_phase(method.phases()[1])
            stirred(method)
            method._momentum.averages = [
                parameter.detach().clone() for parameter in method._momentum._parameters
            ]
            with torch.no_grad():
                for vectors in method.tokens.vectors:
                    vectors.add_(1.0 + torch.arange(vectors.shape[1]))
            lost = method(method.batch(method.phases()[1], 0), BALANCING)["preservation"]
            assert (lost > 1e-11) == own_words


def test_processes_that_share_a_batch_average_to_the_whole(base, folder):
    with Learner(base, folder, batch_size=6) as method:
        batch = method.batch(method.phases()[0], 0)
        values = torch.rand(len(batch))
        whole = method._by_concept(values, batch)
        parts = [method._by_concept(values[rank::2], batch.shard(rank, 2)) for rank in range(2)]
        torch.testing.assert_close(sum(parts) / 2, whole)


def test_without_balancing_the_second_phase_goes_on_as_the_first(base, folder):
    with Learner(base, folder, balancing=False) as method:
        method.begin_phase(method.phases()[1])
        assert set(method(method.batch(method.phases()[1], 0), BALANCING)) == {"diffusion", "attention"}


def test_selection_by_area_gives_small_components_a_chance(base, folder):
    with Learner(base, folder) as plain:
        batch = plain.batch(plain.phases()[1], 0)
        errors, masks = torch.tensor([0.3, 0.1]), torch.zeros(5, 1, 8, 8)
        masks[:3] = 1
        masks[3:, :, :2] = 1  # a quarter
        assert plain.chosen(errors, masks, batch).tolist() == [1.0, 0.0]
    with Learner(base, folder, area_normalised=True) as fair:
        assert fair.chosen(errors, masks, batch).tolist() == [0.0, 1.0]


# ----------------------------------------------------------------------------------------- presets, bad input


def test_presets_differ_where_paper_and_code_do():
    paper, reference = MagicTailorSettings.preset("paper"), MagicTailorSettings.preset("reference")
    assert (paper.balance_learning_rate, paper.restored_rate, paper.all_rows) == (1e-5, False, False)
    assert reference.restored_rate and reference.all_rows and reference.token_decay
    assert reference.momentum_first_copies


def rates(base, folder: Path, **settings: Any) -> list[tuple[str, float]]:
    job = both(folder, settings={"warm_up_steps": 2, "balance_steps": 3, **settings})
    plan = MagicTailor(job, base, [PERSON, HAIR]).phases()
    return [
        (phase.name, phase.learning_rates["unet"] * schedule(phase, step))
        for phase in plan
        for step in range(phase.steps)
    ]


def test_learning_rates_follow_the_paper_or_slip_back_as_in_the_reference(base, folder):
    assert rates(base, folder, warm_up_learning_rate=1e-4, balance_learning_rate=1e-5) == [
        (WARM_UP, 1e-4), (WARM_UP, 1e-4), (BALANCE, 1e-5), (BALANCE, 1e-5), (BALANCE, 1e-5),
    ]  # fmt: skip
    slipped = {"warm_up_learning_rate": 1e-4, "balance_learning_rate": 1e-5, "restored_rate": True}
    assert rates(base, folder, **slipped) == [
        (WARM_UP, 1e-4), (WARM_UP, 1e-4), (SWITCH, 1e-5), (BALANCE, 1e-4), (BALANCE, 1e-4),
    ]  # fmt: skip


def test_a_component_without_masks_is_refused_by_name(base, folder):
    bare = replace(HAIR, pictures=(HAIR.pictures[0], replace(HAIR.pictures[1], mask=None)))
    with pytest.raises(LikenessError, match="<v1>, picture 4: there is no mask; mark the hair"):
        MagicTailor(both(folder), base, [PERSON, bare])


def test_a_mask_that_cropping_leaves_empty_is_refused_by_name(base, folder):
    wide = np.zeros((SIZE, 3 * SIZE), np.float32)
    wide[:, :4] = 1
    cut = Picture("edge", np.zeros((SIZE, 3 * SIZE, 3), np.uint8), wide)
    with pytest.raises(
        LikenessError, match="picture edge: the mask of the hair is empty where training looks"
    ):
        MagicTailor(both(folder), base, [PERSON, replace(HAIR, pictures=(cut,))])


def test_a_batch_too_small_for_the_concepts_is_refused(base, folder):
    with pytest.raises(LikenessError, match="batch_size is 1, but there are 2 concepts"):
        MagicTailor(both(folder, settings={"batch_size": 1}), base, [PERSON, HAIR])


def test_two_concepts_with_one_placeholder_are_refused(folder):
    with pytest.raises(LikenessError, match="two concepts share the placeholder <v0>"):
        tiny_job("magictailor", folder, concepts=[{"folder": "a"}, {"folder": "b"}])


def test_a_base_without_attention_of_the_right_size_is_refused(folder):
    odd = tiny_base()
    odd.attention_side = 1
    with pytest.raises(LikenessError, match="no cross-attention at a side of 1; set attention_weight to 0"):
        MagicTailor(both(folder), odd, [PERSON, HAIR])


# ------------------------------------------------------------------------------------------ reference numbers


def test_pictures_and_masks_are_prepared_as_the_reference_does():
    case = Golden("magictailor", "dataset_stack")
    pictures = [
        Picture(name, case[f"in.image_u8.{n}"].numpy(), case[f"in.mask_u8.{n}"].numpy() / np.float32(255))
        for n, name in enumerate(case.json("files"))
    ]
    owners = case.json("asset_index")
    concepts = [
        Concept(f"<v{owner}>", "x", "subject", tuple(p for p, o in zip(pictures, owners) if o == owner))
        for owner in (0, 1)
    ]
    found = whole_examples(concepts, int(case["in.size"]))
    assert found.concepts.tolist() == owners and len(found) == int(case["out.length"])
    for actual, expected in (((found.pixels + 1) / 2, case["out.images"]), (found.masks, case["out.masks"])):
        wrong = (actual - expected).abs()
        assert wrong.max() <= 1 / 255 + 1e-6 and (wrong > 1e-6).float().mean() <= 0.01


def test_pictures_of_other_proportions_are_refused_where_nothing_is_cropped():
    assert short_side_scaled(np.zeros((40, 60, 3), np.uint8), 20).shape == (20, 30, 3)
    tall = Picture("tall", np.zeros((2 * SIZE, SIZE, 3), np.uint8), np.ones((2 * SIZE, SIZE), np.float32))
    with pytest.raises(LikenessError, match="hair: tall has other proportions than 0; crop them alike"):
        whole_examples([PERSON, replace(HAIR, pictures=(tall,))], SIZE)


def test_sd2_gets_the_references_176_modules_of_the_same_shapes():
    from diffusers import UNet2DConditionModel

    case = Golden("magictailor", "lora_inventory_sd21")
    shapes = case.json("shapes")
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True
        )
        parameters = lora.inject(
            unet, LORA_TARGETS["transformer"], int(case["in.rank"]), float(case["in.rank"])
        )
    assert len(parameters) == int(case["out.tensors"]) == 352
    assert sum(parameter.numel() for parameter in parameters) == int(case["out.parameters"]) == 10_233_856
    theirs = to_kohya({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, Path("x"))
    ours = {}
    for path, layer in adapted_layers(unet):
        name = lora.kohya.unet_name(path)
        ours[f"{name}.lora_down.weight"] = layer.lora_A[lora.ADAPTER].weight.shape
        ours[f"{name}.lora_up.weight"] = layer.lora_B[lora.ADAPTER].weight.shape
    assert len(ours) == 352
    assert ours == {name: tensor.shape for name, tensor in theirs.items() if not name.endswith(".alpha")}


class Spelling:
    """The trace's vocabulary: the words of its one prompt."""

    words = {"a": 27, "photo": 57, "of": 58}
    bos_token_id, eos_token_id, pad_token_id = 77, 78, 0

    def __call__(self, text: str, **_options: bool) -> dict[str, list[int]]:
        return {"input_ids": [self.words.get(word, 27) for word in text.split()]}


def trace_base(weights: Golden, told: Golden) -> BaseModel:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(**told.json("unet_config"))
    unet.load_state_dict(weights.under("in.unet."))
    text = CLIPTextModel(CLIPTextConfig(**told.json("text_config")))
    stored = weights.under("in.text.")
    if not any(name.startswith("text_model.") for name in text.state_dict()):
        stored = {name.removeprefix("text_model."): weight for name, weight in stored.items()}
    assert not text.load_state_dict(stored, strict=False).unexpected_keys
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
    )
    return unet_base(
        unet=unet, vae=vae, text_encoders={"clip_l": text}, tokenizers={"clip_l": Spelling()},
        alphas_cumprod=noise_schedule(told.json("scheduler")), family="sd1", resolution=512,
    )  # fmt: skip


class Traced(MagicTailor):
    """Trains on the latents, noise, timesteps and masks of the reference's trace."""

    told: Golden
    steps: list[Golden]

    def prepare(self, check: Any) -> None:
        super().prepare(check)
        start = Golden("magictailor", "trace_weights").under("in.lora.")
        start = to_kohya({f"unet.{name}": tensor for name, tensor in start.items()}, Path("trace"))
        with torch.no_grad():
            for path, layer in adapted_layers(self.base.unet):
                layer.lora_A[lora.ADAPTER].weight.copy_(
                    start[f"{lora.kohya.unet_name(path)}.lora_down.weight"]
                )
                layer.lora_B[lora.ADAPTER].weight.copy_(start[f"{lora.kohya.unet_name(path)}.lora_up.weight"])
            table = Golden("magictailor", "trace_weights")[
                "in.text.text_model.embeddings.token_embedding.weight"
            ]
            for vectors, number in zip(self.tokens.vectors, self.told["in.placeholder_ids"].tolist()):
                vectors.copy_(table[number : number + 1])

    def forward(self, batch: TailorBatch, progress: Progress) -> dict[str, torch.Tensor]:
        n = progress.step
        case = self.steps[n // 4]
        latents = case[f"in.step{n}.latent_sample_f16"].float() * 0.18215
        noise, t = case[f"in.step{n}.noise_f16"].float(), case[f"in.step{n}.t"] / 1000
        batch = replace(batch, masks=self.told["in.mask64"], times=t, noise=noise)
        noisy = self.base.process.add_noise(latents, noise, t)
        return self.losses(batch, progress, noisy, noise, self.told["in.mask64"])


@pytest.mark.parametrize("case", ["trace_original_lr", "trace_intended_lr"])
def test_a_whole_run_equals_the_references_own_trace(case, tmp_path):
    told, results = Golden("magictailor", "trace_original_lr"), Golden("magictailor", case)
    tiny = trace_base(Golden("magictailor", "trace_weights"), told)
    settings = {
        **vars(MagicTailorSettings.preset("reference")),
        "warm_up_steps": 4, "balance_steps": 4, "rank": 4, "alpha": 4.0,
        "warm_up_learning_rate": float(told["in.lr64"][0]),
        "balance_learning_rate": float(told["in.lr64"][1]),
        "restored_rate": case == "trace_original_lr", "templates": ["a photo of {}"],
    }  # fmt: skip
    concepts = [replace(PERSON, pictures=(picture(0),)), replace(HAIR, pictures=(picture(1),))]
    job = both(tmp_path, settings=settings)
    method = Traced(job, tiny, concepts)
    method.told, method.steps = told, [Golden("magictailor", f"trace_steps_{s}") for s in ("0_3", "4_7")]
    observer, accelerator = Losses(), _accelerator(job)
    try:
        trainer = Trainer(method, job, accelerator, observer, Checkpoints(job, "digest"))
        method.prepare(trainer.check)
        trainer.run()
        compare_losses(observer.seen, results)
        compare_weights(method, told, results)
    finally:
        method.close()
        _forget(accelerator)


def compare_losses(seen: list[dict[str, float]], results: Golden) -> None:
    def of(name: str) -> torch.Tensor:
        return torch.tensor([losses.get(name, 0.0) for losses in seen])

    close(of("diffusion") + of("worst_concept"), results["out.diffusion"], atol=0, rtol=2e-4)
    close(of("attention") / 0.01, results["out.attention"], atol=0, rtol=2e-4)
    close(of("preservation") / 0.2, results["out.preservation"], atol=1e-9, rtol=2e-4)
    assert of("preservation")[:6].max() < 1e-11
    total = torch.tensor([sum(losses.values()) for losses in seen])
    close(total, results["out.loss"], atol=0, rtol=2e-4)


def compare_weights(method: MagicTailor, told: Golden, results: Golden) -> None:
    artifact = method.artifact()
    final = {f"unet.{name}": tensor for name, tensor in results.under("out.final.").items()}
    for name, tensor in to_kohya(final, Path("trace")).items():
        close(artifact.tensors[name], tensor, atol=5e-5)
    table = results["out.final_token_embedding"]
    rows = told["in.placeholder_ids"].tolist()
    for token, number in zip(("v0", "v1"), rows):
        close(artifact.tensors[f"token.{token}.clip_l"][0], table[number], atol=5e-5)
    close(artifact.tensors["table.clip_l"][: rows[0]], table[: rows[0]], atol=5e-5)
    if results.under("out.momentum."):
        average = {f"unet.{name}": tensor for name, tensor in results.under("out.momentum.").items()}
        with method._momentum.in_place():
            teacher = lora.tensors(method.base)
        for name, tensor in to_kohya(average, Path("trace")).items():
            close(teacher[name], tensor, atol=5e-5)
