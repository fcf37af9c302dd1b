"""MasterWeaver's losses and both stages' first steps against the reference's numbers; its data on shards."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import unet_base
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.process.ddpm import noise_schedule
from likeness_portraits.engine.config import EDIT_TEMPLATES, EDITS, Job, MasterWeaverSettings, Phase
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.data.shard_sources import rendered
from likeness_portraits.engine.data.shards import write_shards
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.identity.attention import IdAttention
from likeness_portraits.engine.identity.encoder import IdEncoder
from likeness_portraits.engine.training.adapter_losses import (
    background_difference,
    editing_direction,
    mixed_identities,
    partners,
)
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.losses import squared_error
from likeness_portraits.engine.training.methods import masterweaver
from likeness_portraits.engine.training.methods.masterweaver import AdapterBatch, MasterWeaver
from likeness_portraits.engine.training.observer import Progress
from likeness_portraits.tests.engine.tiny import SCHEDULE, tiny_base, tiny_job, write_person
from likeness_portraits.tests.golden.goldens import Golden

golden = partial(Golden, "masterweaver")

# ------------------------------------------------------------------------------------------------- formulas


def test_identities_are_mixed_as_the_reference_does():
    case = golden("id_mix")
    others = case["in.tokens"][partners(4, "flip")]
    mixed = mixed_identities(case["in.tokens"], others, 0.2 + 0.6 * case["in.uniform_draw"])
    torch.testing.assert_close(mixed, case["out.mixed"], atol=1e-6, rtol=0)


def test_nobody_is_mixed_with_themselves_and_halves_of_a_batch_pair_the_same():
    for count in (2, 3, 4, 8):
        assert (partners(count, "roll") != torch.arange(count)).all()
    whole = partners(8, "roll")
    for rank in range(2):  # process number `rank` of two has every second sample
        assert (partners(4, "roll") * 2 + rank).tolist() == whole[rank::2].tolist()


def test_both_stages_denoising_and_background_losses_are_the_references():
    case = golden("stage_losses")
    faces = torch.nn.functional.interpolate(case["in.face_box_u8"].float(), size=(64, 64), mode="nearest")
    assert torch.equal(faces, case["out.mask64"].float())
    prediction = case["in.pred"].clone().requires_grad_()
    background = background_difference(prediction, case["in.pred_mixed"], faces).mean()
    for stage, weight in (("stage1", 0.6), ("stage2", 0.8)):
        denoising = weight * squared_error(prediction, case["in.noise"]).mean()
        torch.testing.assert_close(denoising, case[f"out.{stage}.denoising"], rtol=1e-5, atol=0)
        torch.testing.assert_close(background, case[f"out.{stage}.background"], rtol=1e-5, atol=0)
        if stage == "stage1":
            (gradient,) = torch.autograd.grad(denoising + background, prediction, retain_graph=True)
            torch.testing.assert_close(gradient, case["out.stage1.grad_pred"], atol=1e-9, rtol=1e-5)


def test_the_editing_loss_is_the_references_and_its_corrected_form_is_right():
    case = golden("editing_loss")
    edits = [case[f"in.edit.{k}"].clone().requires_grad_() for k in range(3)]
    student = [(edits[k], case[f"in.rec.{k}"]) for k in range(3)]
    teacher = [(case[f"in.teacher_edit.{k}"], case[f"in.teacher_rec.{k}"]) for k in range(3)]
    weights = [case["out.mask_tokens"].float()] * 3
    for form, name in (("reference", "official"), ("batch", "corrected")):
        loss = case["in.lambda"] * editing_direction(student, teacher, weights, form)
        torch.testing.assert_close(loss, case[f"out.{name}"], rtol=1e-4, atol=0)
        for k, gradient in enumerate(torch.autograd.grad(loss, edits)):
            torch.testing.assert_close(gradient, case[f"out.{name}_grad_edit.{k}"], atol=1e-8, rtol=1e-3)
    empty = [torch.zeros_like(weights[0])] * 3
    assert editing_direction(student, teacher, empty, "sample") == 0
    assert editing_direction(student, teacher, empty, "batch") == 0


def test_the_loss_of_a_batch_is_the_mean_of_its_samples():
    torch.manual_seed(0)
    student = [(torch.randn(4, 9, 5), torch.randn(4, 9, 5))]
    teacher = [(torch.randn(4, 9, 5), torch.randn(4, 9, 5))]
    weights = [torch.rand(4, 9).round()]
    whole = editing_direction(student, teacher, weights)
    parts = []
    for rank in range(2):
        ours, theirs = ([tuple(t[rank::2] for t in pair) for pair in pairs] for pairs in (student, teacher))
        parts.append(editing_direction(ours, theirs, [weights[0][rank::2]]))
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_the_edit_grammar_is_the_references():
    case = golden("edit_grammar_counts")
    assert len(EDIT_TEMPLATES) == case["out.templates"]
    assert (len(EDITS), len(set(EDITS))) == (case["out.edit_lines"], case["out.unique_edit_lines"])


# --------------------------------------------------------------------------------------------------- traces


def learner_of(case: Golden, folder, **settings) -> MasterWeaver:
    """MasterWeaver on the trace's U-Net, with its encoder."""
    from diffusers import UNet2DConditionModel

    tiny = tiny_base()
    unet = UNet2DConditionModel(**case.json("unet_config"))
    unet.load_state_dict(case.under("in.unet."))
    base = unet_base(
        unet=unet, vae=tiny.vae, text_encoders=dict(tiny.text_encoders.items()), tokenizers=tiny.tokenizers,
        alphas_cumprod=noise_schedule(SCHEDULE), family="sd1", resolution=256, attention_side=32,
    )  # fmt: skip
    job = tiny_job(
        "masterweaver", folder, settings={"mixing": "flip", "editing_form": "reference", **settings}
    )
    learner = MasterWeaver(job, base, [load_concept(write_person(folder / "person"))])
    learner.encoder = IdEncoder.from_weights(case.under("in.id_encoder."), 64)
    learner.nothing = torch.zeros(12, 20)
    return learner


def step_of(case: Golden, number: int) -> tuple[AdapterBatch, Tensor, Tensor, Conditioning]:
    """A step's batch, latents, vision features and text."""
    of = case.under(f"in.step{number}.")
    zeros, latents = torch.zeros(2, dtype=torch.long), of["latent"]
    return (
        AdapterBatch(
            pixels=torch.zeros(2, 3, 8, 8), masks=of["mask64_u8"].float(), prompts=("", ""), concepts=zeros,
            prior=zeros.bool(), indices=zeros, noise=of["noise"], posterior=of["noise"], times=of["t"] / 1000,
            references=torch.zeros(2, 3, 3, 8, 8), filled=torch.zeros(2, 3).bool(), share=of["mix"],
            edit_noise=of.get("noise_edit", of["noise"]), edit_times=of.get("t_edit", of["t"]) / 1000,
            plain_prompts=("", ""), edit_prompts=("", ""), keys=("", ""),
        ),
        latents, of["vision_features"], Conditioning(states=of["text"]),
    )  # fmt: skip


def check_final(case: Golden, learner: MasterWeaver, start: dict[str, Tensor], atol: float) -> None:
    moved = {f"id.{name}": weight for name, weight in learner.encoder.state_dict().items()}
    moved |= {f"adapter.{key}": weight for key, weight in numbered(case, learner).items()}
    names = {f"id.{key}" if not key.startswith(("adapter", "id")) else key: key
             for key in case.under("out.final_head.")}  # fmt: skip
    assert names
    for name, key in names.items():
        found = moved[name.replace("id_encoder.", "id.")].detach()
        torch.testing.assert_close(
            found.flatten()[:48], case[f"out.final_head.{key}"].flatten(), atol=atol, rtol=0
        )
        change = (found - start[name.replace("id_encoder.", "id.")]).norm()
        torch.testing.assert_close(
            change, case[f"out.final_delta_norm.{key}"].reshape(()), rtol=1e-2, atol=1e-7
        )


def numbered(case: Golden, learner: MasterWeaver) -> dict[str, Tensor]:
    """The attention's weights under the reference's numbers."""
    weights = learner.attention.layer_weights()
    return {
        f"{number}.{part}.weight": weights[f"{layer}.{part}.weight"]
        for number, layer in case.json("layer_of_index").items()
        for part in ("to_k_img", "to_v_img")
    }


def start_of(case: Golden, learner: MasterWeaver) -> dict[str, Tensor]:
    state = {f"id.{name}": weight.clone() for name, weight in learner.encoder.state_dict().items()}
    return state | {f"adapter.{k}": weight.clone() for k, weight in numbered(case, learner).items()}


def test_the_first_stages_trace_is_the_references(tmp_path):
    case = golden("trace_stage1")
    learner = learner_of(case, tmp_path)
    start = start_of(case, learner)
    trained = [*learner.encoder.parameters(), *learner.attention.parameters()]
    optimizer = torch.optim.AdamW(trained, weight_decay=1e-2)
    for number, rate in enumerate(case["in.lr64"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch, latents, features, text = step_of(case, number)
        losses = learner.denoising_losses(batch, latents, learner.encoder.slots(features), text)
        torch.testing.assert_close(
            losses["diffusion"], case[f"out.step{number}.denoising"], rtol=2e-4, atol=0
        )
        torch.testing.assert_close(
            losses["background"], case[f"out.step{number}.background"], rtol=2e-4, atol=1e-9
        )
        sum(losses.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        torch.testing.assert_close(norm, case["out.grad_norm"][number], rtol=1e-3, atol=0)
        optimizer.step()
        optimizer.zero_grad()
    learner.close()
    check_final(case, learner, start, 2e-5)


def test_the_second_stages_trace_is_the_references(tmp_path):
    case = golden("trace_stage2")
    learner = learner_of(case, tmp_path, editing_weight=float(case["in.lambda_edit"]))
    layers, names = case.under("in.adapter."), case.json("layer_of_index")
    learner.attention = IdAttention.from_weights(
        {f"{names[key.split('.')[0]]}.{key.split('.', 1)[1]}": weight for key, weight in layers.items()}
    )
    learner.begin_phase(next(phase for phase in learner.phases() if phase.name == "editing"))
    start = start_of(case, learner)
    also = list(learner.attention.parameters())  # the reference never clears their gradients, but clips them
    optimizer = torch.optim.AdamW(learner.encoder.parameters(), weight_decay=1e-2)
    for number, rate in enumerate(case["in.lr64"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch, latents, features, text = step_of(case, number)
        tokens = learner.encoder.slots(features)
        losses = learner.denoising_losses(batch, latents, tokens, text, editing=True)
        if number % 2 == 0:
            said = (case[f"in.step{number}.text_{which}"] for which in ("rec", "edit"))
            texts = [Conditioning(states=states) for states in said]
            losses["editing"] = learner.editing_loss(batch, latents, tokens, *texts)
            torch.testing.assert_close(
                losses["editing"], case[f"out.step{number}.editing"], rtol=2e-4, atol=0
            )
        torch.testing.assert_close(
            losses["diffusion"], case[f"out.step{number}.denoising"], rtol=2e-4, atol=0
        )
        torch.testing.assert_close(
            losses["background"], case[f"out.step{number}.background"], rtol=2e-4, atol=1e-9
        )
        sum(losses.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_([*learner.encoder.parameters(), *also], 1.0)
        torch.testing.assert_close(norm, case["out.grad_norm"][number], rtol=1e-3, atol=0)
        optimizer.step()
        optimizer.zero_grad()
    learner.close()
    check_final(case, learner, start, 1e-6)


# ---------------------------------------------------------------------------------------------- on shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, rendered(range(12), each=1, twins=1), each=4)
    return folder


def shard_job(folder, shards, name="adapter", **changes) -> Job:
    settings = {"shards": str(shards), "batch_size": 4, **changes.pop("settings", {})}
    return tiny_job("masterweaver", folder, name, concepts=[], settings=settings, **changes)


def gradients(learner: MasterWeaver, batch: AdapterBatch, phase: str) -> list[Tensor]:
    progress = Progress(phase=phase, phase_step=0, phase_steps=2, step=0, total=4)
    sum(learner(batch, progress).values()).backward()
    found = [weight.grad.clone() for weight in learner.encoder.parameters()]
    learner.zero_grad()
    return found


@pytest.mark.parametrize("stage", ["identity", "editing"])
def test_gradients_of_two_shares_average_to_the_whole_batchs(stage, tmp_path, shards):
    learner = MasterWeaver(shard_job(tmp_path, shards), tiny_base(), [])
    phase: Phase = next(phase for phase in learner.phases() if phase.name == stage)
    learner.begin_phase(phase)
    whole = gradients(learner, learner.batch(phase, 3), stage)
    halves = [gradients(learner, learner.shard(phase, 3, rank, 2), stage) for rank in range(2)]
    learner.close()
    for one, *parts in zip(whole, *halves):
        assert (one - torch.stack(parts).mean(0)).abs().max() < 1e-6


@pytest.mark.parametrize("form", ["sample", "batch"])
def test_the_editing_losss_pass_does_not_lie_beside_the_steps(form, tmp_path, shards, monkeypatch):
    """Its gradients are taken ahead, of half the batch at a time where samples are apart: at no time are
    there inner states of more rows than the pass itself has, and the gradients are what they were."""
    learner = MasterWeaver(shard_job(tmp_path, shards, settings={"editing_form": form}), tiny_base(), [])
    phase: Phase = next(phase for phase in learner.phases() if phase.name == "editing")
    learner.begin_phase(phase)
    batch, held, most = learner.batch(phase, 2), [0], [0]
    predict = type(learner.base.denoiser).__call__

    def counted(denoiser, noisy, *rest):
        if torch.is_grad_enabled():
            held[0] += len(noisy)
            most[0] = max(most[0], held[0])
        return predict(denoiser, noisy, *rest)

    grad = torch.autograd.grad
    monkeypatch.setattr(type(learner.base.denoiser), "__call__", counted)
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (grad(*a, **k), held.__setitem__(0, 0))[0])
    ahead, rows = gradients(learner, batch, "editing"), most[0]
    held[0] = most[0] = 0
    monkeypatch.setattr(masterweaver, "_in_fp16", lambda device: True)
    together = gradients(learner, batch, "editing")
    learner.close()
    assert most[0] == 12 and rows == (4 if form == "sample" else 8)
    assert max(float(one.abs().max()) for one in together) > 1e-5
    for one, other in zip(ahead, together):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-4)


def test_an_adapter_learned_on_shards_resumes_exactly(tmp_path, shards):
    from likeness_portraits.tests.engine.training.test_methods import Watcher

    base = tiny_base()
    whole = Artifact.load(train(shard_job(tmp_path, shards, "whole"), base=base))
    path = train(shard_job(tmp_path, shards, "stopped"), Watcher(stop_at=3), base)
    train(shard_job(tmp_path, shards, "stopped", resume=True, settings={"workers": 2}), base=base)
    after = Artifact.load(path)
    assert whole.kind == "id_adapter" and whole.steps == 4
    assert all(torch.equal(whole.tensors[name], after.tensors[name]) for name in whole.tensors)


def test_the_adapter_kept_is_the_running_average_of_all_steps(tmp_path, shards):
    learner = MasterWeaver(shard_job(tmp_path, shards, settings={"ema_decay": 0.5}), tiny_base(), [])
    name, weight = "id_encoder.latents", learner.encoder.latents
    first = weight.detach().clone()
    for step, decay in ((1, 0.1), (2, 2 / 11)):  # early averages forget faster than `ema_decay` says
        with torch.no_grad():
            weight.copy_(torch.full_like(weight, float(step)))
        learner.after_step(Progress(phase="identity", phase_step=step, phase_steps=2, step=step, total=2))
        first = decay * first + (1 - decay) * step
    torch.testing.assert_close(learner.artifact().tensors[name], first)
    assert (weight == 2).all()  # what is trained goes on from where it was
    learner.close()


def test_in_bf16_passes_what_is_trained_stays_in_full_precision(tmp_path, shards):
    exact, rounded = (
        Artifact.load(train(shard_job(tmp_path, shards, precision, precision=precision), base=tiny_base()))
        for precision in ("fp32", "bf16")
    )
    assert {tensor.dtype for tensor in rounded.tensors.values()} == {torch.float32}
    weight = rounded.tensors["id_encoder.latents"]
    assert (weight != weight.bfloat16().float()).float().mean() > 0.9
    assert not torch.equal(weight, exact.tensors["id_encoder.latents"])  # the passes were others


def test_gradient_checkpointing_and_an_early_end_change_no_gradient(tmp_path, shards):
    found = []
    for checkpointing in (False, True):
        job = shard_job(tmp_path, shards, settings={"gradient_checkpointing": checkpointing})
        torch.manual_seed(0)
        learner = MasterWeaver(job, tiny_base(), [])
        learner.prepare(lambda: None)
        phase = next(phase for phase in learner.phases() if phase.name == "editing")
        learner.begin_phase(phase)
        found.append(gradients(learner, learner.batch(phase, 0), "editing"))
        learner.close()
    for plain, again in zip(*found):
        torch.testing.assert_close(plain, again, atol=1e-7, rtol=1e-4)


def test_the_editing_passes_run_only_on_steps_that_use_them(tmp_path, shards):
    learner = MasterWeaver(shard_job(tmp_path, shards, settings={"editing_every": 2}), tiny_base(), [])
    phase = next(phase for phase in learner.phases() if phase.name == "editing")
    learner.begin_phase(phase)
    batch = learner.batch(phase, 0)
    for step, there in ((0, True), (1, False), (2, True)):
        progress = Progress(phase="editing", phase_step=step, phase_steps=4, step=step, total=4)
        assert ("editing_direction" in learner(batch, progress)) == there
    learner.close()


def test_the_true_base_can_be_the_teacher(tmp_path, shards):
    losses = []
    for teacher in ("null", "base"):
        torch.manual_seed(0)
        learner = MasterWeaver(shard_job(tmp_path, shards, settings={"teacher": teacher}), tiny_base(), [])
        phase = next(phase for phase in learner.phases() if phase.name == "editing")
        learner.begin_phase(phase)
        progress = Progress(phase="editing", phase_step=0, phase_steps=4, step=0, total=4)
        losses.append(learner(learner.batch(phase, 0), progress)["editing_direction"].item())
        learner.close()
    assert losses[0] != losses[1] and min(losses) > 0


def test_a_preview_on_shards_shows_people_under_edits(tmp_path, shards):
    learner = MasterWeaver(shard_job(tmp_path, shards), tiny_base(), [])
    grid = learner.preview("", 0, lambda: None)
    learner.close()
    assert grid.shape == (4 * 32, 5 * 32, 3)
    assert learner._grid_prompts("a photo of a woman")[:2] == [
        "a photo of a woman",
        "a photo of a smiling woman",
    ]


def test_shares_that_do_not_divide_are_refused(tmp_path, shards):
    learner = MasterWeaver(shard_job(tmp_path, shards), tiny_base(), [])
    with pytest.raises(LikenessError, match="multiple of 3"):
        learner.shard(learner.phases()[0], 0, 0, 3)
    learner.close()


def test_an_adapter_for_another_base_is_refused(tmp_path, shards):
    path = train(shard_job(tmp_path, shards), base=tiny_base())
    other = dataclasses.replace(Artifact.load(path), base_family="sdxl").save(tmp_path / "other.safetensors")
    with pytest.raises(LikenessError, match="not an identity adapter for sd1"):
        MasterWeaver(shard_job(tmp_path, shards, settings={"adapter": str(other)}), tiny_base(), [])


def test_samples_without_edited_faces_are_counted(tmp_path):
    write_shards(tmp_path / "plain", rendered(range(4), each=1, twins=0), each=4)
    learner = MasterWeaver(shard_job(tmp_path, tmp_path / "plain"), tiny_base(), [])
    phase = next(phase for phase in learner.phases() if phase.name == "editing")
    learner.begin_phase(phase)
    for number in range(4):
        learner.batch(phase, number)
    learner.close()
    assert 0 < learner.tally.without_edits < 16 == learner.tally.read


def test_presets_differ_where_paper_and_code_do():
    paper, reference = (MasterWeaverSettings.preset(name) for name in ("paper", "reference"))
    assert paper.batch_size * paper.gradient_accumulation == 64
    assert reference.batch_size * reference.gradient_accumulation == 16
    assert MasterWeaverSettings.preset().editing_form == "sample"


def test_pixels_outside_what_a_reference_keeps_are_black():
    sample = next(iter(rendered(range(7, 8), each=1, twins=1)))
    from likeness_portraits.engine.data.identity_examples import masked

    head, face = masked(sample.faces[0], 0), masked(sample.faces[0], 1)
    assert not head[:4, :4].any() and np.count_nonzero(face) < np.count_nonzero(head)
