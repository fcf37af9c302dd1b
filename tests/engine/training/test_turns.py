"""Large text encoders and transformers take turns on the device: the same is learned with less memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.loaders.flux2 import qwen_tokenizer
from likeness_portraits.engine.bases.loaders.random_base import random_base
from likeness_portraits.engine.bench.speed import speed_job
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.training import memory
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.memory import MemorySettings, estimate, rungs
from likeness_portraits.engine.training.probe import META
from likeness_portraits.tests.engine import tiny_flux2
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job
from likeness_portraits.tests.engine.training.test_memory import CLOSE, Listener, learner, measured
from likeness_portraits.tests.engine.training.test_methods import assert_same_tensors

pytest.importorskip("diffusers", "0.36")
pytest.importorskip("transformers", "4.51")

FROZEN_TEXT = {"train_token": False, "text_encoder": False}
SETTINGS = {"textual-inversion": {"steps": 2}, "dreambooth-lora": {"steps": 2, **FROZEN_TEXT}}
TURNS = {
    "computed again": MemorySettings(checkpointing=True),
    "networks": MemorySettings(checkpointing=True, turns="networks"),
    "blocks": MemorySettings(checkpointing=True, turns="blocks"),
}

QUICK = (("textual-inversion", "networks"), ("dreambooth-lora", "blocks"))


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    base = load_base(BaseSpec.parse(str(tiny_flux2.write_folder(tmp_path_factory.mktemp("klein")))))
    base.text.length = 96  # type: ignore[attr-defined]  # a fifth of the time
    return base


def only(monkeypatch: pytest.MonkeyPatch, measures: MemorySettings) -> None:
    """Runs begin with these measures, as they would where a GPU is as small."""
    monkeypatch.setattr(memory, "rungs", lambda method, job, device: [measures])


class Witness:
    """What weights are on the device, a copy of them each time, while parts are called."""

    def __init__(self, base: BaseModel) -> None:
        self.base, self.most, self.seen = base, 0, 0
        self._homes = {id(weight): weight.data_ptr() for weight in base.parameters()}
        for block in (*base.text.blocks(), *base.denoiser.blocks()):
            block.register_forward_pre_hook(self._look)
            block.register_forward_hook(self._look)

    def _look(self, *_: object) -> None:
        there = [
            weight for weight in self.base.parameters()
            if id(weight) in self._homes and weight.data_ptr() != self._homes[id(weight)]
        ]  # fmt: skip
        self.seen += 1
        self.most = max(self.most, sum(memory.bytes_of_weight(weight) for weight in there))


@pytest.mark.parametrize("method", SETTINGS)
def test_by_turns_the_same_is_learned_bit_for_bit_and_the_base_comes_back(
    method: str, klein: BaseModel, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    before = {name: weight.clone() for name, weight in klein.state_dict().items()}
    learned = {}
    for name, measures in TURNS.items():
        with monkeypatch.context() as patched:
            only(patched, measures)
            job = tiny_job(method, folder, name.split()[0], settings=SETTINGS[method], preview_every=1)
            learned[name] = dict(Artifact.load(train(job, base=klein)).tensors)
    assert_same_tensors(learned["computed again"], learned["networks"])
    assert_same_tensors(learned["computed again"], learned["blocks"])
    after = klein.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    parts = (*klein.text.blocks(), *klein.denoiser.blocks(), klein.network)
    assert klein.turns is None and not any("forward" in vars(part) for part in parts)


@pytest.mark.parametrize("turns", ["networks", "blocks"])
def test_only_the_part_whose_turn_it_is_lies_on_the_device(
    turns: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base = load_base(BaseSpec.parse(str(tiny_flux2.write_folder(tmp_path / "klein"))))
    base.text.length = 96  # type: ignore[attr-defined]
    only(monkeypatch, TURNS[turns])
    witness = Witness(base)
    train(tiny_job("textual-inversion", folder, settings=SETTINGS["textual-inversion"]), base=base)
    sizes = [memory.bytes_of([part]) for part in (*base.text.blocks(), *base.denoiser.blocks())]
    text, network = memory.bytes_of(base.text_encoders.values()), memory.bytes_of([base.network])
    # a part's hooks see it before its weights come, with those of the part before it
    assert witness.seen > 20
    assert witness.most <= (max(text, network) if turns == "networks" else max(sizes))


@pytest.mark.parametrize(
    ("method", "measures"),
    [
        pytest.param(method, name, marks=[] if (method, name) in QUICK else pytest.mark.slow)
        for method in SETTINGS
        for name in TURNS
    ],
)
def test_the_estimate_is_near_the_measured_peak(
    method: str, measures: str, klein: BaseModel, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {**SETTINGS[method], "batch_size": 8, **({"prior_batch_size": 8} if "lora" in method else {})}
    job = tiny_job(method, folder, settings=settings)
    expected = estimate(learner(job, klein), TURNS[measures])
    staying = memory.bytes_of([klein.vae])  # these are there before the run; so are the homes of the others
    if measures == "computed again":
        staying = memory.bytes_of([klein])
    elif measures == "blocks":
        inside = memory.bytes_of([*klein.text.blocks(), *klein.denoiser.blocks()])
        staying = memory.bytes_of([klein]) - inside
    only(monkeypatch, TURNS[measures])
    beside, peak = expected.total - staying, measured(lambda: train(job, Listener(), klein))
    assert abs(beside - peak) <= CLOSE * peak, f"{beside / 1e6:.2f} MB expected, {peak / 1e6:.2f} measured"


def test_a_gpu_lets_large_networks_take_turns_and_blocks_at_last(klein: BaseModel, folder: Path):
    def words(method: str, base: BaseModel) -> list[str]:
        job = tiny_job(method, folder, settings=SETTINGS[method])
        return [measures.words() for measures in rungs(learner(job, base), job, torch.device("cuda"))]

    by_turns = "text encoder and transformer by turns on the device"
    told = words("dreambooth-lora", klein)
    assert told[1:3] == ["VAE off the device", f"VAE off the device, {by_turns}"]
    assert "their blocks by turns on the device" in told[-1]
    told = words("textual-inversion", klein)
    assert [line for line in told if by_turns in line][0].startswith(
        "VAE off the device, gradient checkpoint"
    )
    assert not any("turns" in line for line in words("dreambooth-lora", tiny_base()))


def test_what_waits_elsewhere_stays_there_when_the_base_is_moved(klein: BaseModel):
    """Accelerate moves the whole method again before the first step."""
    klein.send_away(klein.vae)
    klein.take_turns(torch.device("cpu"), blocks=True)
    try:
        klein.double()
        kinds: dict[str, Any] = {
            "vae": {weight.dtype for weight in klein.vae.parameters()},
            "words": {weight.dtype for part in klein.text.blocks() for weight in part.parameters()},
            "blocks": {weight.dtype for part in klein.denoiser.blocks() for weight in part.parameters()},
            "rest": {klein.network.x_embedder.weight.dtype},
        }
    finally:
        klein.call_back()
        klein.float()
    assert kinds == {"vae": {torch.float32}, "words": {torch.float32}, "blocks": {torch.float32},
                     "rest": {torch.float64}}  # fmt: skip


@pytest.mark.gpu
def test_what_is_in_no_block_is_on_the_gpu_where_blocks_begin_to_take_turns(klein: BaseModel):
    try:
        klein.take_turns(torch.device("cuda"))
        klein.take_turns(torch.device("cuda"), blocks=True)
        parts = (klein.network.x_embedder, klein.network.transformer_blocks[0].attn.to_q)
        places = [layer.weight.device.type for layer in parts]
    finally:
        klein.call_back()
        klein.to("cpu")
    assert places == ["cuda", "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("method", SETTINGS)
def test_klein_4b_at_its_real_shapes_fits_where_it_is_said_to(method: str, tmp_path: Path):
    """At 768 pixels in bf16, by the estimate: 12 GB by turns, 8 GB with blocks by turns."""
    base = random_base("klein4b", META)
    base.text.tokenizers["qwen3_4b"] = qwen_tokenizer(tiny_flux2.write_tokenizer(tmp_path))
    learning = learner(speed_job(method, base, tmp_path, 1, "bf16", 768), base)
    measures = MemorySettings(vae_away=True, half=True, checkpointing=True, turns="networks", pass_size=1)
    assert 8e9 < estimate(learning, measures).total <= 12e9
    assert 1e9 < estimate(learning, replace(measures, turns="blocks")).total <= 8e9
