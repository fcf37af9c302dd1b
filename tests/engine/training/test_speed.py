"""A step costs little more than the network passes it cannot avoid, on the Miniature."""

import time

import numpy as np
import pytest
import torch

from likeness_portraits.engine.bases.base import load_base
from likeness_portraits.engine.bases.denoisers.conditional_unet import LORA_TARGETS
from likeness_portraits.engine.config import BaseSpec, Job
from likeness_portraits.engine.data.concepts import Concept, Picture, write_concept
from likeness_portraits.engine.training import lora
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.tokens import TokenRows, initial_rows

STEPS = 12


@pytest.fixture(scope="module")
def base():
    return load_base(BaseSpec())


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processor time then means work done, however busy the machine is
    yield
    torch.set_num_threads(threads)


class Stopwatch:
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, progress, losses) -> None:
        self.times.append(time.process_time())

    def on_preview(self, progress, image) -> None:
        pass

    def should_stop(self) -> bool:
        return False


def bare_passes(base, count: int, rank: int) -> float:
    """Processor seconds of text encoder and U-Net, there and back, for `count` pictures."""
    tokens = TokenRows({"<v0>": initial_rows(base, "woman", 1)})
    trained = list(tokens.parameters())
    if rank:
        trained += lora.inject(base.unet, LORA_TARGETS["attention"], rank, rank)
    noisy, t = torch.randn(count, *base.latent_shape()), torch.rand(count)
    prompts = ["a photo of <v0>", "a photo of a woman"] * (count // 2)
    times = []
    for _ in range(STEPS):
        start = time.process_time()
        context = base.encode_text(prompts, tokens.rows())
        base.predict(noisy, t, context).square().mean().backward()
        times.append(time.process_time() - start)
        for parameter in trained:
            parameter.grad = None
    lora.remove(base.unet)
    return min(times)


@pytest.mark.parametrize(
    ("method", "count", "rank"), [("textual-inversion", 4, 0), ("dreambooth-lora", 6, 8)]
)
def test_a_step_costs_at_most_a_quarter_more_than_its_passes(method, count, rank, base, tmp_path, one_thread):
    pictures = tuple(Picture(str(i), np.full((128, 128, 3), 60 * i, np.uint8)) for i in range(4))
    write_concept(tmp_path / "person", Concept("<v0>", "woman", "subject", pictures))
    settings = {"steps": STEPS}
    if rank:
        settings |= {"prior_pictures": 2, "prior_steps": 1, "rank": rank}
    job = Job.from_json(
        {
            "method": method,
            "concepts": [{"folder": str(tmp_path / "person")}],
            "output": str(tmp_path / "me.safetensors"),
            "settings": {**settings, "batch_size": 4},
            "device": "cpu",
        }
    )
    watch = Stopwatch()
    train(job, watch, base)
    step = min(np.diff(watch.times))
    passes = bare_passes(base, count, rank)
    assert step <= 1.25 * passes, f"{step:.3f} s a step, {passes:.3f} s of it in the networks"


def capture_passes(base, count: int, decoded: int, rank: int) -> float:
    """Processor seconds of the passes that MagiCapture's second phase has for `count` pictures."""
    from likeness_portraits.engine.miniature.judges import load_judge

    recogniser = load_judge("recogniser")
    tokens = TokenRows({"<v0>": initial_rows(base, "woman", 1)})
    trained = [*tokens.parameters(), *lora.inject(base.unet, LORA_TARGETS["feed-forward"], rank, rank)]
    trained += lora.inject(base.text_encoders["clip_l"], base.text.lora_targets, rank, rank)
    noisy, t = torch.randn(count, *base.latent_shape()), torch.full((count,), 0.3)
    prompts = ["a photo of <v0>", "a painting of a man", "a painting of <v0>"] * (count // 3)
    times = []
    for _ in range(STEPS):
        start = time.process_time()
        output = base.predict(noisy, t, base.encode_text(prompts, tokens.rows()))
        clean = base.process.predict_x0(noisy[:decoded], output[:decoded], t[:decoded])
        likeness = recogniser(base.decode_with_gradients(clean)).sum()
        (output.square().mean() + likeness).backward()
        times.append(time.process_time() - start)
        for parameter in trained:
            parameter.grad = None
    for module in (base.unet, base.text_encoders["clip_l"]):
        lora.remove(module)
    return min(times)


@pytest.mark.slow
def test_a_step_of_magicapture_costs_at_most_a_quarter_more_than_its_passes(base, tmp_path, one_thread):
    from likeness_portraits.engine.miniature import world
    from likeness_portraits.engine.miniature.styles import style_pictures

    sets = {"subject": world.example_pictures(world.TUNING_SEEDS[0]), "style": style_pictures("sketch", 3)}
    specs = []
    for number, (role, portraits) in enumerate(sets.items()):
        masks = [p.mask() if role == "subject" else 1 - p.mask() for p in portraits]
        pictures = tuple(Picture(str(i), p.pixels, m) for i, (p, m) in enumerate(zip(portraits, masks)))
        write_concept(tmp_path / role, Concept(f"<v{number}>", "woman", role, pictures))
        specs.append({"folder": str(tmp_path / role), "token": f"<v{number}>"})
    settings = {"inversion_steps": 0, "tuning_steps": STEPS, "batch_size": 6, "identity_on_subject": False,
                "timestep_share": 0.8, "identity_timestep_share": 0.8, "rank": 8}  # fmt: skip
    job = {"method": "magicapture", "concepts": specs, "output": str(tmp_path / "me.safetensors"),
           "settings": settings, "device": "cpu"}  # fmt: skip
    watch = Stopwatch()
    train(Job.from_json(job), watch, base)
    step, passes = min(np.diff(watch.times)), capture_passes(base, count=6, decoded=2, rank=8)
    assert step <= 1.25 * passes, f"{step:.3f} s a step, {passes:.3f} s of it in the networks"
