"""MagicTailor and MagiCapture where words and picture attend to one another, on a flow."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.data.examples import Examples
from likeness_portraits.engine.training.degradation import (
    MOST_NOISE,
    WANTED_SHARE,
    chosen_intensity,
    variance_share,
)
from likeness_portraits.engine.training.head_crops import head_boxes, moved
from likeness_portraits.engine.training.identity_loss import FaceJudge, IdentityLoss
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.engine.training.observer import Progress
from likeness_portraits.tests.engine import tiny_flux2
from likeness_portraits.tests.engine.tiny import SIZE, tiny_job, write_style
from likeness_portraits.tests.engine.training.test_methods import between

pytest.importorskip("diffusers", "0.36")
pytest.importorskip("transformers", "4.51")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flux2.write_folder(tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="module")
def klein(files: Path) -> BaseModel:
    return load_base(BaseSpec.parse(str(files)))


@pytest.fixture
def base(klein: BaseModel, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    monkeypatch.setattr(klein.text, "length", 96)  # a fifth of the time
    return klein


def pair(folder: Path, **settings: Any) -> Any:
    """A job on a person and a component."""
    write_style(folder / "hair")
    job = tiny_job("magictailor", folder, settings=settings)
    hair = replace(job.concepts[0], folder=str(folder / "hair"), token="<v1>", role="component")
    return replace(job, concepts=(*job.concepts, hair))


def test_inner_states_are_computed_again_in_the_language_model_too_where_the_settings_say_so(base, folder):
    job = pair(folder, gradient_checkpointing=True, intensity=0.5)
    method = method_class("magictailor")(job, base, [load_concept(concept) for concept in job.concepts])
    before = base.text.checkpointing
    method.attach()
    meanwhile = base.text.checkpointing
    method.close()
    assert (before, meanwhile, base.text.checkpointing) == (False, True, False)


# ---------------------------------------------------------------------------------- noise outside the masks


def test_the_share_is_that_of_the_variance_over_draws_in_that_over_places():
    """Two channels, two places outside: the first varies by 1 over places and .5 over draws, the second by 4
    and not at all."""
    latents = torch.tensor([[[[9.0, 1.0, -1.0]], [[9.0, 2.0, -2.0]]]])  # (1, 2, 1, 3)
    draws = torch.stack([latents + 0.5 * sign * torch.tensor([[[[1.0]], [[0.0]]]]) for sign in (1, -1)])
    outside = torch.tensor([[[[0.0, 1.0, 1.0]]]])
    assert variance_share(latents, draws, outside) == pytest.approx((2 * 0.5) / (2 * 1 + 2 * 4))


class Encoder:
    """Lets `share` of the noise through: latents are pixels, scaled by it."""

    def __init__(self, share: float) -> None:
        self.share, self.asked = share, 0

    def encode_posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.asked += 1
        smooth = torch.nn.functional.avg_pool2d(pixels, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
        return smooth + self.share * (pixels - smooth), torch.zeros_like(pixels)


def test_as_much_noise_is_taken_as_passes_the_encoder_and_no_more_than_the_picture_has():
    smooth = torch.nn.functional.interpolate(torch.randn(2, 3, 4, 4) * 0.4, scale_factor=4)
    masks = torch.zeros(2, 1, 16, 16)
    masks[..., :8] = 1
    examples = Examples(pixels=smooth, masks=masks, concepts=torch.zeros(2), prior=torch.zeros(2).bool())
    found = {}
    for share in (1.0, 0.5, 0.0):
        generator = torch.Generator().manual_seed(1)
        found[share] = chosen_intensity(Encoder(share), examples, generator, lambda: None)  # type: ignore[arg-type]
    assert found[1.0][0] < found[0.5][0] < MOST_NOISE  # the less passes, the more is needed
    assert all(abs(found[share][1] - WANTED_SHARE) < 0.06 for share in (1.0, 0.5))
    assert found[0.0][0] == MOST_NOISE and found[0.0][1] < WANTED_SHARE
    everywhere = replace(examples, masks=torch.ones_like(masks))
    generator = torch.Generator().manual_seed(1)
    assert chosen_intensity(Encoder(1.0), everywhere, generator, lambda: None) == (0.5, 0.0)  # type: ignore[arg-type]


def test_where_a_base_has_no_published_strength_it_is_measured_and_said(base, folder):
    said: list[str] = []
    job = pair(folder, intensity=None)
    method = method_class("magictailor")(job, base, [load_concept(concept) for concept in job.concepts])
    method.say = said.append
    try:
        method.prepare(lambda: None)
        assert 0 < method._intensity <= MOST_NOISE and any(
            "of the latents' variance" in text for text in said
        )
        again = method_class("magictailor")(job, base, [load_concept(concept) for concept in job.concepts])
        again._choose_intensity(lambda: None)
        assert again._intensity == method._intensity  # so that resuming goes on with it
    finally:
        method.close()


# ------------------------------------------------------------------------------------- attention in the mask


def slow_attention(
    base: BaseModel, noisy: Tensor, t: Tensor, prompts: list[str], places: list[int]
) -> Tensor:
    """Attention (B, N) of the picture to the tokens `places` among all words, mean over heads and blocks,
    each block computed by itself as FLUX.2 says: QK-norm, RoPE, softmax over the words' keys."""
    from diffusers.models.embeddings import apply_rotary_emb

    network, looks, ropes = base.network, [], []
    handle = network.pos_embed.register_forward_hook(lambda *args: ropes.append(args[2]))

    def spy(block: Any, double: bool) -> Any:
        def look(layer: Any, _args: Any, given: dict[str, Any]) -> None:
            heads = lambda x: x.unflatten(-1, (-1, layer.head_dim))  # noqa: E731
            picture = given["hidden_states"]
            if double:
                words = given["encoder_hidden_states"]
                q = layer.norm_q(heads(layer.to_q(picture)))
                k = layer.norm_added_k(heads(layer.add_k_proj(words)))
                count = words.shape[1]
            else:
                q, k, _ = layer.to_qkv_mlp_proj(picture)[..., : 3 * layer.inner_dim].chunk(3, -1)
                q, k = layer.norm_q(heads(q)), layer.norm_k(heads(k))
                count = 96
                q, k = q[:, count:], k[:, :count]
            cos, sin = given["image_rotary_emb"]
            q = apply_rotary_emb(q, (cos[count:], sin[count:]), sequence_dim=1)
            k = apply_rotary_emb(k, (cos[:count], sin[:count]), sequence_dim=1)
            for head in range(q.shape[2]):
                scores = q[:, :, head] @ k[:, :, head].transpose(1, 2) / layer.head_dim**0.5
                looks.append(scores.softmax(-1)[..., places].sum(-1))

        return block.attn.register_forward_pre_hook(look, with_kwargs=True)

    handles = [spy(block, True) for block in network.transformer_blocks]
    handles += [spy(block, False) for block in network.single_transformer_blocks]
    try:
        base.predict(noisy, t, base.encode_text(prompts))
    finally:
        for one in (handle, *handles):
            one.remove()
    return torch.stack(looks).mean(0)


def test_the_attention_loss_and_its_gradients_are_those_of_the_published_formula_over_text_keys(base, folder):
    """Each map to its peak, against the mask; through noisy latents, which every block reads."""
    job = pair(folder)
    method = method_class("magictailor")(job, base, [load_concept(concept) for concept in job.concepts])
    batch = method.batch(method.phases()[0], 0)
    noisy = torch.randn(len(batch), 16, 8, 8)
    places = method._positions(batch)[0].nonzero()[:, 0].tolist()
    prompts = [batch.prompts[0].replace("<v0>", "woman")] * 2
    fast, slow = (noisy[:2].clone().requires_grad_() for _ in range(2))
    masks = batch.masks[:2]
    context = base.encode_text(prompts)
    row = torch.zeros(2, 96)
    row[:, places] = 1.0
    _, attention = method._pass(fast, batch.times[:2], context, row)
    ours = method._attention(attention, replace(batch, masks=masks))
    found = slow_attention(base, slow, batch.times[:2], prompts, places)
    small = torch.stack([
        masks[n, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean()
        for n in (0, 1) for y in range(8) for x in range(8)
    ]).view(2, 64)  # fmt: skip
    theirs = ((found / found.max(1, keepdim=True).values - small) ** 2).mean()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    ours.backward()
    theirs.backward()
    assert slow.grad is not None and slow.grad.abs().max() > 1e-7
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-7, rtol=1e-3)


def test_passes_in_parts_and_checkpointing_change_no_gradient(base, folder):
    """The worst concept, the teacher's hold and attention in masks, over four rows at once or one by one."""
    gradients = []
    for settings in ({}, {"pass_size": 1}, {"gradient_checkpointing": True}):
        torch.manual_seed(5)
        job = pair(folder, **settings)
        method = method_class("magictailor")(job, base, [load_concept(concept) for concept in job.concepts])
        method.prepare(lambda: None)
        try:
            balance = method.phases()[-1]
            method.begin_phase(balance)
            weights = method.parameter_groups()["unet"]
            with torch.no_grad():
                for weight in weights:
                    weight += 0.05 * torch.randn(weight.shape)
            progress = Progress(phase=balance.name, phase_step=0, phase_steps=2, step=2, total=4)
            losses = method(method.batch(balance, 0), progress)
            assert set(losses) == {"worst_concept", "preservation", "attention"}
            assert all(loss > 0 for loss in losses.values())
            sum(losses.values()).backward()
            gradients.append([weight.grad.clone() for weight in weights])
        finally:
            method.close()
    for other in gradients[1:]:
        for ours, theirs in zip(gradients[0], other):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


# ------------------------------------------------------------------------------------------ the identity loss


class Recogniser(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("weights", torch.randn(3 * 8 * 8, 6, generator=generator))

    def forward(self, crops: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(crops, 8).flatten(1) @ self.weights


def capturing(base: BaseModel, folder: Path) -> Any:
    job = tiny_job("magicapture", folder)
    method = method_class("magicapture")(job, base, [load_concept(concept) for concept in job.concepts])
    method.identity = IdentityLoss(FaceJudge(Recogniser()), average=True, each_step=False)
    method.prepare(lambda: None)
    return method


def test_estimates_are_looked_at_up_to_half_noise_as_much_as_they_are_to_be_trusted(base, folder):
    t = torch.tensor([0.0, 0.25, 0.5, 0.51, 1.0])
    torch.testing.assert_close(base.process.estimate_weight(t), torch.tensor([1.0, 0.5625, 0.25, 0.0, 0.0]))
    method = capturing(base, folder)
    try:
        tuning = method.phases()[-1]
        batch = method.batch(tuning, 0)
        times = torch.cat([method.batch(tuning, number).identity_times for number in range(8)])
        assert times.max() <= 0.5 and method._own_pass and len(method._asked(batch)) == 2
        latents = torch.randn(len(batch), 16, 8, 8, requires_grad=True)
        plain = latents.detach().clone().requires_grad_()
        progress = Progress(phase="tuning", phase_step=0, phase_steps=2, step=2, total=4)
        found = method.losses(batch, progress, latents)["identity"]
        rows, x0, total = method._asked(batch), [], torch.zeros(())
        for row in rows.tolist():  # one after the other, whole pictures decoded
            s = batch.identity_times[row]
            noisy = (1 - s) * plain[row] + s * batch.noise[row]
            said = base.encode_text([batch.prompts[row]], method.rows())
            x0 = noisy[None] - s * base.predict(noisy[None], s[None], said)
            place = int(batch.indices[row] + len(method.examples) * batch.mirrored[row])
            pixels = base.decode_with_gradients(x0)
            distance = method.identity(pixels, batch.subjects[row : row + 1], torch.tensor([place]))
            total = total + distance[0] * (1 - s) ** 2
        wanted = method.settings.identity_weight * total / len(batch)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        assert found > 0.01
        found.backward()
        wanted.backward()
        torch.testing.assert_close(latents.grad, plain.grad, atol=1e-6, rtol=1e-3)
    finally:
        method.close()


def test_a_heads_latents_hold_all_that_the_judge_cuts_out_and_no_more():
    matrix = np.array(
        [[0.5, 0.0, -60.0], [0.0, 0.5, -90.0]]
    )  # a square of 16 from (120, 180): 32 pixels wide
    heads = head_boxes([matrix, None], side=16, size=(64, 64), cell=8)
    (top, left), _ = heads.starts
    height, width = heads.size
    assert left * 8 <= 120 - 24 and (left + width) * 8 >= 152 + 24 and top * 8 <= 180 - 24
    assert (height, width) <= (14, 14)
    latents = torch.arange(2 * 64 * 64.0).view(2, 1, 64, 64)
    assert torch.equal(heads.of(latents)[0], latents[0, :, top : top + height, left : left + width])
    picture = torch.randn(1, 3, 512, 512)
    part = picture[..., top * 8 : (top + height) * 8, left * 8 : (left + width) * 8]
    judge = FaceJudge(Recogniser())
    shifted = moved(matrix, heads.corners(8)[0])
    judge.side = 16
    torch.testing.assert_close(judge.cut(part, shifted), judge.cut(picture, matrix), atol=1e-4, rtol=0)


def test_heads_at_the_rim_stay_within_the_picture():
    corner = np.array([[1.0, 0.0, 10.0], [0.0, 1.0, 10.0]])  # reaches beyond the upper left
    heads = head_boxes([corner], side=SIZE, size=(8, 8), cell=4)
    assert heads.starts == ((0, 0),) and heads.size <= (8, 8)


@pytest.mark.slow
def test_two_processes_agree_with_one_where_attention_is_joint(base, files, folder, package_parent):
    """Two concepts that are balanced, composed prompts, identity tokens, and a LoRA whose rank falls."""

    def job(method: str, name: str, batch_size: int) -> Any:
        settings: dict[str, Any] = {"batch_size": batch_size}
        if method == "dreambooth-lora":
            settings |= {"min_rank": 2, "orthogonal": True, "text_encoder": False}
        if method != "magictailor":
            return tiny_job(method, folder, name, settings=settings)
        return replace(pair(folder, **settings), output=str(folder / f"{name}.safetensors"))

    methods = ("dreambooth-lora", "magictailor", "magicapture", "masterweaver")
    jobs = [job(method, f"two-{method}", 4).to_dict() for method in methods]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).parents[1] / "two_processes.py"
    environment = {**os.environ, "PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, script, folder / "jobs.json", files], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [one["processes"] for one in json.loads((folder / "jobs.json.seen").read_text())] == [2] * 4
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for method in methods:
            alone, half = (train(job(method, f"{n}-{method}", n), base=base) for n in (4, 2))
            both = folder / f"two-{method}.safetensors"
            assert between(both, alone) < 0.01 * between(half, alone), method
    finally:
        torch.set_num_threads(threads)
