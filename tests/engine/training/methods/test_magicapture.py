"""MagiCapture: items, refocusing, the identity loss, bad input, and runs against the reference's traces."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel, unet_base
from likeness_portraits.engine.bases.process.ddpm import noise_schedule
from likeness_portraits.engine.config import Job, MagiCaptureSettings
from likeness_portraits.engine.data.concepts import Concept, Picture
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training import lora
from likeness_portraits.engine.training.adapters import adapted_layers
from likeness_portraits.engine.training.capture_losses import COMPOSED, STYLE, SUBJECT
from likeness_portraits.engine.training.checkpoint import Checkpoints
from likeness_portraits.engine.training.identity_loss import FaceJudge, IdentityLoss
from likeness_portraits.engine.training.launch import _accelerator, _forget, train
from likeness_portraits.engine.training.methods.magicapture import (
    INVERSION,
    TUNING,
    CaptureBatch,
    MagiCapture,
)
from likeness_portraits.engine.training.observer import Progress, Silent
from likeness_portraits.engine.training.trainer import Trainer
from likeness_portraits.tests.engine.tiny import SIZE, tiny_base, tiny_job
from likeness_portraits.tests.golden.goldens import Golden, close

TUNED = Progress(phase=TUNING, phase_step=1, phase_steps=2, step=3, total=4)
START = Progress(phase=INVERSION, phase_step=0, phase_steps=2, step=0, total=4)


def picture(seed: int, mask: np.ndarray | None = None) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    return Picture(f"picture{seed}", pixels, mask)


FACE = np.zeros((SIZE, SIZE), np.float32)
FACE[8:24, 8:20] = 1
PERSON = Concept("<v0>", "woman", "subject", tuple(picture(n, FACE) for n in range(3)))
PAINTINGS = Concept("<s0>", "sketch", "style", tuple(picture(n, 1 - FACE) for n in range(3, 5)))
BOTH = [PERSON, PAINTINGS]


def job(folder: Path, **settings: Any) -> Job:
    return tiny_job("magicapture", folder, settings=settings)


class Projection(torch.nn.Module):
    """A judge of pixels that finds everybody everywhere, or nobody."""

    side, looks = SIZE, True

    def __init__(self, finds: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("weights", torch.randn(3 * SIZE * SIZE, 8, generator=generator))
        self.finds = finds
        self.asked = 0

    def find(self, pixels: np.ndarray, mask: np.ndarray | None, name: str) -> np.ndarray | None:
        self.asked += 1
        return np.eye(2, 3) if self.finds else None

    def cut(self, pixels: Tensor, matrix: np.ndarray) -> Tensor:
        return pixels

    def forward(self, crops: Tensor) -> Tensor:
        return crops.flatten(1) @ self.weights


class Learner:
    """A method ready for its steps, taken off the base afterwards."""

    def __init__(self, base: BaseModel, folder: Path, judge: Any = None, **settings: Any) -> None:
        self.method = MagiCapture(job(folder, **settings), base, BOTH)
        if judge is not None:
            chosen = self.method.settings
            self.method.identity = IdentityLoss(judge, chosen.identity_average, chosen.detect_each_step)

    def __enter__(self) -> MagiCapture:
        torch.manual_seed(0)
        method = self.method
        method.prepare(lambda: None)
        for parameters in method.parameter_groups().values():
            for number, parameter in enumerate(parameters):
                parameter.requires_grad_()
                with torch.no_grad():
                    generator = torch.Generator().manual_seed(number)
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        return method

    def __exit__(self, *_: object) -> None:
        self.method.close()


class Losses(Silent):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        self.seen.append(dict(losses))


def phase_of(method: MagiCapture, name: str):
    return next(phase for phase in method.phases() if phase.name == name)


# --------------------------------------------------------------------------------------------------- items


def test_a_batch_takes_the_kinds_in_turn_and_prompts_name_what_they_show(base, tmp_path):
    with Learner(base, tmp_path) as method:
        batch = method.batch(phase_of(method, TUNING), 0)
        assert batch.kinds.tolist() == [SUBJECT, STYLE, COMPOSED]
        for kind, prompt in zip(batch.kinds.tolist(), batch.prompts):
            assert ("<v0>" in prompt, "<s0>" in prompt) == (kind != STYLE, kind != SUBJECT)
        subject, style, composed = batch.indices.tolist()
        assert subject < 3 <= style and composed >= 3 and 0 <= batch.subjects[2] < 3
        assert batch.subjects[1] == -1
        assert method.batch(phase_of(method, INVERSION), 0).kinds.tolist() == [SUBJECT, STYLE, SUBJECT]


def test_prompts_and_sides_are_drawn_anew_at_every_step(base, tmp_path):
    templates = ["a photo of {}", "a portrait of {}", "a picture of {}"]
    with Learner(base, tmp_path, templates=templates) as method:
        batches = [method.batch(phase_of(method, TUNING), number) for number in range(30)]
        assert len({batch.prompts[0] for batch in batches}) == 3
        assert {bool(batch.mirrored[0]) for batch in batches} == {True, False}


def test_cached_latents_are_those_of_the_pixels_mirrored_or_not(base, tmp_path):
    with Learner(base, tmp_path) as method:
        for number in range(4):
            batch = method.batch(phase_of(method, TUNING), number)
            mean, std = base.encode_posterior(batch.pixels)
            torch.testing.assert_close(
                method.latents(batch), mean + std * batch.posterior, atol=1e-5, rtol=1e-4
            )


def test_the_references_rounds_show_every_item_once(base, tmp_path):
    with Learner(base, tmp_path, even_kinds=False, batch_size=1) as method:
        phase = phase_of(method, TUNING)
        kinds = [int(method.batch(phase, number).kinds[0]) for number in range(7)]
        assert sorted(kinds) == [SUBJECT] * 3 + [STYLE] * 2 + [COMPOSED] * 2


def test_without_composed_prompts_nothing_joins_the_two(base, tmp_path):
    with Learner(base, tmp_path, composed=False) as method:
        batches = [method.batch(phase_of(method, TUNING), number) for number in range(4)]
        assert COMPOSED not in {kind for batch in batches for kind in batch.kinds.tolist()}


def test_templates_are_as_many_as_the_references():
    case, reference = Golden("magicapture", "template_counts"), MagiCaptureSettings.preset("reference")
    assert len(reference.templates) == int(case["out.subject"])
    assert len(reference.style_templates) == int(case["out.style"])
    assert len(reference.composed_templates) == int(case["out.both"])
    for alone, joint in zip(reference.templates, reference.composed_templates):
        assert joint.format(subject="x", style="y") == alone.format("x") + " in the style of y"


def test_prior_pictures_keep_their_prompts_and_have_a_loss_of_their_own(base, tmp_path):
    settings = {"prior_weight": 1.0, "prior_pictures": 2, "prior_steps": 1, "prior_batch_size": 2}
    with Learner(base, tmp_path, Projection(), **settings) as method:
        batch = method.batch(phase_of(method, TUNING), 0)
        assert batch.prior.tolist() == [False] * 3 + [True] * 2
        assert all("woman" in prompt and "<" not in prompt for prompt in batch.prompts[3:])
        losses = method(batch, TUNED)
        assert set(losses) == {"diffusion", "attention_refocus", "identity", "prior"}
        changed = replace(batch, noise=torch.cat([batch.noise[:3], batch.noise[3:] + 1]))
        again = method(changed, TUNED)
        assert torch.equal(losses["diffusion"], again["diffusion"])
        assert losses["prior"] != again["prior"]


# ------------------------------------------------------------------------------------- attention refocusing


def test_refocusing_has_the_same_gradient_with_and_without_checkpointing_and_it_is_not_zero(base, tmp_path):
    found = []
    for saving in (False, True):
        with Learner(base, tmp_path, gradient_checkpointing=saving) as method:
            method.begin_phase(phase_of(method, TUNING))
            losses = method(method.batch(phase_of(method, TUNING), 0), TUNED)
            groups = method.parameter_groups()
            trained = [parameter for name in ("unet", "text_encoder", "tokens") for parameter in groups[name]]
            gradients = torch.autograd.grad(losses["attention_refocus"], trained, allow_unused=True)
            found.append([torch.zeros(()) if gradient is None else gradient for gradient in gradients])
            for name in ("unet", "text_encoder", "tokens"):
                own = {id(parameter) for parameter in groups[name]}
                reached = [g for p, g in zip(trained, found[-1]) if id(p) in own]
                assert max(float(gradient.abs().max()) for gradient in reached) > 1e-6, name
    for first, second in zip(*found):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)


def test_refocusing_is_left_out_of_the_first_phase_unless_asked_for(base, tmp_path):
    with Learner(base, tmp_path) as method:
        assert set(method(method.batch(phase_of(method, INVERSION), 0), START)) == {"diffusion"}
    with Learner(base, tmp_path, inversion_attention_weight=1.0) as method:
        assert "attention_refocus" in method(method.batch(phase_of(method, INVERSION), 0), START)


# ---------------------------------------------------------------------------------------- the identity loss


def test_one_pass_serves_both_losses_and_two_are_made_on_request(base, tmp_path, monkeypatch):
    rows: list[int] = []
    predict = base.predict

    def counted(noisy, t, context):
        rows.append(len(noisy))
        return predict(noisy, t, context)

    monkeypatch.setattr(base, "predict", counted)
    for twice, expected in ((False, [3]), (True, [3, 2])):
        rows.clear()
        with Learner(base, tmp_path, Projection(), two_passes=twice) as method:
            assert method(method.batch(phase_of(method, TUNING), 0), TUNED)["identity"] > 0
        assert rows == expected


def test_the_identity_loss_reaches_lora_and_words_and_spares_style_pictures(base, tmp_path):
    with Learner(base, tmp_path, Projection()) as method:
        method.begin_phase(phase_of(method, TUNING))
        batch = method.batch(phase_of(method, TUNING), 0)
        method(batch, TUNED)["identity"].backward()
        for parameters in method.parameter_groups().values():
            assert any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
        style = replace(batch, kinds=torch.full_like(batch.kinds, STYLE))
        assert method(style, TUNED)["identity"] == 0
    with Learner(base, tmp_path, Projection(), identity_on_subject=False) as method:
        batch = method.batch(phase_of(method, TUNING), 0)
        subject = replace(batch, kinds=torch.full_like(batch.kinds, SUBJECT))
        assert method(subject, TUNED)["identity"] == 0


def test_the_identity_loss_looks_only_at_noise_levels_below_its_share(base, tmp_path):
    with Learner(base, tmp_path, Projection(), identity_timestep_share=0.3) as method:
        batch = method.batch(phase_of(method, TUNING), 0)
        for t, looked in ((0.299, True), (0.3, False)):
            late = replace(batch, times=torch.full_like(batch.times, t))
            assert (method(late, TUNED)["identity"] > 0) == looked


def test_a_picture_of_the_subject_itself_is_no_distance_away(base, tmp_path):
    with Learner(base, tmp_path, Projection(), identity_average=False) as method:
        pixels = method.examples.pixels[:3]
        assert method.identity is not None
        numbers = torch.arange(3)
        assert method.identity(pixels, numbers, numbers).abs().max() < 1e-5
        assert method.identity(pixels, numbers.flip(0), numbers)[0] > 1e-3


def test_where_no_face_is_found_the_term_is_skipped_and_counted(base, tmp_path):
    judge = Projection()
    with Learner(base, tmp_path, judge, detect_each_step=True) as method:
        judge.finds = False
        batch = method.batch(phase_of(method, TUNING), 0)
        assert method(batch, TUNED)["identity"] == 0
        assert method.identity is not None
        assert (method.identity.asked, method.identity.skipped) == (2, 2)
        assert method.artifact().extra == {"identity_asked": 2, "identity_skipped": 2}
        assert method.extra_state()["identity_counts"].tolist() == [2, 2]


def test_faces_are_looked_for_once_unless_every_step_is_asked_for(base, tmp_path):
    for each_step, more in ((False, 0), (True, 2)):
        judge = Projection()
        with Learner(base, tmp_path, judge, detect_each_step=each_step) as method:
            once = judge.asked
            assert once == len(method.examples)
            method(method.batch(phase_of(method, TUNING), 0), TUNED)
            assert judge.asked == once + more


def test_a_subject_without_any_face_is_refused_with_what_to_do(base, tmp_path):
    learner = Learner(base, tmp_path, Projection(finds=False))
    with pytest.raises(LikenessError, match="no face in picture0, picture1, picture2; crop closer.*identity"):
        learner.__enter__()
    learner.method.close()


def test_of_several_faces_the_large_one_in_the_middle_is_taken_and_said_aloud(caplog):
    from likeness_portraits.engine.data.alignment import similarity
    from likeness_portraits.engine.data.faces import Face

    points = np.array([[200, 220], [310, 225], [256, 290], [210, 340], [305, 345]], np.float32)
    large = Face(np.array([150, 120, 350, 400], np.float32), points, 0.9)
    small = Face(np.array([0, 0, 50, 60], np.float32), points / 5, 0.99)
    aside = Face(np.array([0, 0, 260, 300], np.float32), points / 3, 0.95)  # larger, but in a corner
    judge = FaceJudge(torch.nn.Identity(), lambda pixels: [aside, large, small])
    with caplog.at_level(logging.WARNING):
        matrix = judge.find(np.zeros((512, 512, 3), np.uint8), None, "party.png")
    assert "party.png shows 3 faces; the large one in the middle is taken" in caplog.text
    np.testing.assert_allclose(matrix, similarity(points.astype(np.float64)))
    expected = [[0.32768672, 0.00418691, -29.116262], [-0.00418691, 0.32768672, -20.089561]]
    np.testing.assert_allclose(matrix, expected, rtol=1e-5)


# --------------------------------------------------------------------------------------- strengths, bad input


def test_files_hold_the_strengths_of_drawing_in_their_alphas(base, tmp_path):
    with Learner(base, tmp_path, unet_strength=0.6, text_encoder_strength=0.9) as method:
        lora_ = method.artifact().lora()
        alphas = {
            name.split("_")[1]: float(value) / 4 for name, value in lora_.items() if name.endswith("alpha")
        }
        assert alphas == {"unet": pytest.approx(0.6), "te": pytest.approx(0.9)}


def test_presets_differ_where_paper_and_code_do():
    paper, reference = MagiCaptureSettings.preset("paper"), MagiCaptureSettings.preset("reference")
    assert (paper.identity_weight, paper.mask_floor, paper.area_normalised) == (1.0, 0.0, False)
    assert (paper.attention_per_map, paper.identity_on_subject, paper.style_weight) == (True, False, 1.0)
    assert (reference.unet_learning_rate, reference.inversion_learning_rate) == (4e-4, 2e-3)
    assert reference.ahead and reference.two_passes and reference.detect_each_step and reference.all_rows


def test_a_missing_style_set_is_named_with_what_to_give(base, tmp_path):
    with pytest.raises(LikenessError, match="give a second set of pictures, of the style"):
        MagiCapture(job(tmp_path), base, [PERSON])
    with pytest.raises(LikenessError, match="role style .--role subject --role style"):
        MagiCapture(job(tmp_path), base, [PERSON, replace(PAINTINGS, role="subject")])
    with pytest.raises(LikenessError, match="learns one subject with one style"):
        MagiCapture(job(tmp_path), base, [PERSON, replace(PERSON, token="<v2>"), PAINTINGS])


def test_a_missing_identity_network_says_which_file_and_that_none_is_possible(base, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(
        LikenessError, match="scrfd_10g_bnkps.onnx and glintr100.onnx missing in .*AuraFace.*identity to none"
    ):
        MagiCapture(job(tmp_path, identity="auto"), base, BOTH)
    with pytest.raises(LikenessError, match="no face recogniser at .*nothing.onnx; put w600k_r50.onnx"):
        MagiCapture(job(tmp_path, identity="nothing.onnx", landmarks="mask"), base, BOTH)
    with pytest.raises(
        LikenessError, match="config.json.* missing in .*dinov2; get the files from .*dinov2-base"
    ):
        MagiCapture(job(tmp_path, identity="features"), base, BOTH)


def test_pictures_without_masks_need_a_way_to_find_faces(base, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    bare = replace(PERSON, pictures=(replace(PERSON.pictures[0], mask=None),))
    with pytest.raises(
        LikenessError, match="<v0> have no masks, and faces cannot be found here.*mask the face"
    ):
        MagiCapture(job(tmp_path), base, [bare, PAINTINGS])


def test_what_is_no_person_needs_masks_of_the_users(base, tmp_path):
    bare = replace(PERSON, class_word="cat", pictures=(replace(PERSON.pictures[0], mask=None),))
    with pytest.raises(LikenessError, match="picture picture0: there is no mask, and only faces.*mark cat"):
        MagiCapture(job(tmp_path, identity="features"), base, [bare, PAINTINGS])


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families_learn_it_too(family, tmp_path):
    from likeness_portraits.tests.engine.tiny import write_person

    write_person(tmp_path / "person")
    other = tiny_base(family=family)
    observer = Losses()
    artifact = Artifact.load(train(job(tmp_path), observer, other))
    assert artifact.base_family == family and observer.seen[-1]["attention_refocus"] > 0
    assert set(artifact.rows("<v0>")) == set(other.text_encoders)


def test_a_mask_that_leaves_nothing_is_refused_by_name(base, tmp_path):
    empty = replace(PERSON, pictures=(replace(PERSON.pictures[0], mask=0 * FACE),))
    with pytest.raises(LikenessError, match="<v0>, picture picture0: the mask of the face is empty"):
        MagiCapture(job(tmp_path), base, [empty, PAINTINGS])


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(LikenessError, match="composed_templates.*{subject} and {style}"):
        MagiCaptureSettings(composed_templates=("a photo of {}",))
    with pytest.raises(LikenessError, match="both 0; nothing would be learned"):
        MagiCaptureSettings(inversion_steps=0, tuning_steps=0)
    with pytest.raises(LikenessError, match="'timestep_share' is 1.5"):
        MagiCaptureSettings(timestep_share=1.5)


# --------------------------------------------------------------------------------------------- whole runs


def test_a_run_names_its_losses_by_phase_and_writes_both_words(base, tmp_path):
    from likeness_portraits.tests.engine.tiny import write_person

    write_person(tmp_path / "person")
    observer = Losses()
    artifact = Artifact.load(train(job(tmp_path), observer, base))
    assert [set(losses) for losses in observer.seen] == [{"diffusion"}] * 2 + [
        {"diffusion", "attention_refocus"}
    ] * 2
    assert [(token.token, token.role) for token in artifact.tokens] == [
        ("<v0>", "subject"),
        ("<s0>", "style"),
    ]
    assert artifact.lora() and artifact.rows("<s0>")


def test_words_alone_can_be_learned(base, tmp_path):
    from likeness_portraits.tests.engine.tiny import write_person

    write_person(tmp_path / "person")
    artifact = Artifact.load(train(job(tmp_path, tuning_steps=0), base=base))
    assert artifact.kind == "embedding" and not artifact.lora()


# ------------------------------------------------------------------------------------------ reference numbers


class Spelling:
    """The traces' vocabulary: a word w7 is token 7."""

    bos_token_id, eos_token_id, pad_token_id = 35, 36, 36

    def __call__(self, text: str, **_options: bool) -> dict[str, list[int]]:
        return {"input_ids": [int(word[1:]) if word[0] == "w" else 3 for word in text.split()]}


def trace_base(told: Golden, table: Tensor | None = None) -> BaseModel:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    weights = Golden("magicapture", "trace_inversion")
    unet = UNet2DConditionModel(**weights.json("unet_config"))
    unet.load_state_dict(weights.under("in.unet."))
    text = CLIPTextModel(CLIPTextConfig(**weights.json("text_config")))
    stored = weights.under("in.text.")
    if not any(name.startswith("text_model.") for name in text.state_dict()):
        stored = {name.removeprefix("text_model."): weight for name, weight in stored.items()}
    assert not text.load_state_dict(stored, strict=False).unexpected_keys
    if table is not None:
        text.get_input_embeddings().weight.data.copy_(table)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
    )
    return unet_base(
        unet=unet, vae=vae, text_encoders={"clip_l": text}, tokenizers={"clip_l": Spelling()},
        alphas_cumprod=noise_schedule(told.json("scheduler")), family="sd1", resolution=256,
        attention_side=16,
    )  # fmt: skip


class Told(torch.nn.Module):
    """The trace's stand-in for decoder, detector and recogniser."""

    def __init__(self, told: Golden) -> None:
        super().__init__()
        self.told, self.step, self.asked, self.skipped = told, 0, 0, 0

    def look(self, *_: object) -> None: ...

    def forward(self, estimates: Tensor, subjects: Tensor, pictures: Tensor) -> Tensor:
        if not self.told["in.face_found"][self.step]:
            return estimates.new_zeros(len(estimates))
        seen = (estimates[:, :3] / 0.18215 / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).flatten(1)
        found = seen @ self.told["in.face_projection"]
        return 1 - torch.cosine_similarity(found, self.told[f"in.step{self.step}.embedding"][None], dim=-1)


class Traced(MagiCapture):
    """Trains on the latents, noise, timesteps and masks of the reference's trace."""

    told: Golden

    def prepare(self, check: Any) -> None:
        super().prepare(check)
        with torch.no_grad():
            table = self.base.text_encoders["clip_l"].get_input_embeddings().weight
            for vectors, name in zip(self.tokens.vectors, ("in.subject_id", "in.style_id")):
                vectors.copy_(table[int(self.told[name])][None])
            for part, module in (("unet", self.base.unet), ("text", self.base.text_encoders["clip_l"])):
                for path, layer in adapted_layers(module):
                    layer.lora_A[lora.ADAPTER].weight.copy_(
                        self.told[f"in.lora_down.{part}.{long(part, path)}"]
                    )

    def forward(self, batch: CaptureBatch, progress: Progress) -> dict[str, Tensor]:
        n = progress.phase_step

        def told(name: str) -> Tensor:
            return self.told[f"in.step{n}.{name}"]

        ids = told("ids").tolist()
        words = {int(self.told["in.subject_id"]): "<v0>", int(self.told["in.style_id"]): "<s0>"}
        prompt = " ".join(words.get(number, f"w{number}") for number in ids[1 : ids.index(36)])
        batch = replace(
            batch, prompts=(prompt,), kinds=told("type")[None], subjects=torch.zeros(1, dtype=torch.long),
            masks=told("mask_values")[told("mask_code_u8").long()][None, None], noise=told("noise_f"),
            times=told("t") / 1000, identity_times=told("t_id") / 1000,
        )  # fmt: skip
        if self.identity is not None:
            self.identity.step = n
        return self.losses(batch, progress, told("latent"))

    def _distances(self, estimates: Tensor, subjects: Tensor, places: Tensor) -> Tensor:
        return self.identity(estimates, subjects, places)  # type: ignore[misc]


def long(part: str, path: str) -> str:
    return path if part == "unet" or path.startswith("text_model.") else f"text_model.{path}"


def traced(told: Golden, table: Tensor | None, folder: Path, **settings: Any):
    """The method after a whole run, its losses, and the gradients' norms before clipping."""
    concepts = [
        replace(concept, class_word="w3", pictures=(picture(0, mask),))
        for concept, mask in ((PERSON, FACE), (PAINTINGS, 1 - FACE))
    ]
    chosen = {**vars(MagiCaptureSettings.preset("reference")), "style_deviation": 0.0, "rank": 4,
              "identity": "none", **settings}  # fmt: skip
    job_ = tiny_job("magicapture", folder, settings=chosen)
    method = Traced(job_, trace_base(told, table), concepts)
    method.told = told
    if "in.face_projection" in told.tensors:
        method.identity = Told(told)  # type: ignore[assignment]
    observer, accelerator, norms = Losses(), _accelerator(job_), []
    clip = accelerator.clip_grad_norm_
    accelerator.clip_grad_norm_ = lambda *given: norms.append(clip(*given))
    try:
        trainer = Trainer(method, job_, accelerator, observer, Checkpoints(job_, "digest"))
        method.prepare(trainer.check)
        trainer.run()
    finally:
        _forget(accelerator)
    return method, observer.seen, norms


def of(seen: list[dict[str, float]], name: str) -> Tensor:
    return torch.tensor([losses.get(name, 0.0) for losses in seen])


def test_the_inversion_equals_the_references_own_trace(tmp_path):
    told = Golden("magicapture", "trace_inversion")
    settings = {"inversion_steps": 4, "tuning_steps": 0, "inversion_learning_rate": float(told["in.lr64"])}
    method, seen, _ = traced(told, None, tmp_path, **settings)
    close(of(seen, "diffusion"), told["out.L_rec"], atol=0, rtol=1e-4)
    for vectors, name in zip(method.tokens.vectors, ("in.subject_id", "in.style_id")):
        close(vectors[0].detach(), told["out.token_table"][int(told[name])], atol=1e-5)


def test_the_tuning_equals_the_references_own_trace(tmp_path):
    told = Golden("magicapture", "trace_tuning")
    rates = told["in.lr_unet_table_text64"].tolist()
    settings = {"inversion_steps": 0, "tuning_steps": 5, "unet_learning_rate": rates[0],
                "token_learning_rate": rates[1], "text_encoder_learning_rate": rates[2]}  # fmt: skip
    method, seen, norms = traced(told, told["in.token_table"], tmp_path, **settings)
    close(of(seen, "attention_refocus") / 2.5, told["out.L_AR"], atol=0, rtol=3e-4)
    close(of(seen, "identity"), told["out.L_id_weighted"], atol=1e-9, rtol=3e-4)
    close(of(seen, "diffusion") + of(seen, "identity"), told["out.L_rec_plus_L_id"], atol=0, rtol=3e-4)
    close(torch.stack(norms), told["out.grad_norm"], atol=0, rtol=2e-3)
    compare_weights(method, told)


def compare_weights(method: Traced, told: Golden) -> None:
    encoder = method.base.text_encoders["clip_l"]
    table = encoder.get_input_embeddings().weight.detach().clone()
    for vectors, name in zip(method.tokens.vectors, ("in.subject_id", "in.style_id")):
        table[int(told[name])] = vectors[0].detach()
    close(table, told["out.token_table"], atol=5e-5)
    for part, module in (("unet", method.base.unet), ("text", encoder)):
        for path, layer in adapted_layers(module):
            name = f"{part}.{long(part, path)}"
            close(layer.lora_A[lora.ADAPTER].weight.detach(), told[f"out.lora_down.{name}"], atol=5e-5)
            close(layer.lora_B[lora.ADAPTER].weight.detach(), told[f"out.lora_up.{name}"], atol=5e-5)


def test_the_command_takes_two_folders_with_their_roles(tmp_path, capsys):
    from likeness_portraits.engine.cli import main
    from likeness_portraits.tests.engine.tiny import write_person, write_style

    folders = [str(write_person(tmp_path / "person")), str(write_style(tmp_path / "style"))]
    command = ["train", "magicapture", *folders, "--role", "subject", "--role", "style", "--identity", "none"]
    assert main([*command, "-o", str(tmp_path / "me.safetensors"), "--print-config"]) == 0
    told = capsys.readouterr().out
    assert "method: magicapture" in told and "role: style" in told and "identity: none" in told
    assert main(["train", "magicapture", folders[0], "-o", str(tmp_path / "me.safetensors")]) == 2
    assert "give a second set of pictures, of the style" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["default", "paper", "reference"])
def test_every_preset_learns(preset, base, tmp_path):
    from likeness_portraits.tests.engine.tiny import write_person

    write_person(tmp_path / "person")
    chosen = vars(MagiCaptureSettings.preset(preset))
    short = {"inversion_steps": 1, "tuning_steps": 2, "identity": "none"}
    artifact = Artifact.load(train(job(tmp_path, **{**chosen, **short}), base=base))
    only_cross = all("_attn2_" in name or name.startswith("lora_te") for name in artifact.lora())
    assert only_cross == (preset == "paper")
    assert bool(artifact.tables()) == (preset == "reference")
