"""Latents and text states that are kept on disk: one run with them, without them and with broken ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.training.kept_on_disk import CACHE_FOLDER
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person

FROZEN_TEXT = {"text_encoder": False, "train_token": False, "prior_weight": 0.0, "steps": 2}


@pytest.fixture(scope="module")
def sdxl() -> BaseModel:
    return tiny_base(family="sdxl")


def learned(base: BaseModel, folder: Path, name: str, **changes: Any) -> dict[str, torch.Tensor]:
    job = tiny_job("dreambooth-lora", folder, name, **{"settings": FROZEN_TEXT, "mirror": True, **changes})
    return Artifact.load(train(job, base=base)).tensors


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_from_what_is_kept_is_the_run_without_it_and_asks_no_network_again(
    sdxl: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_person(tmp_path / "person")
    kept = tmp_path / CACHE_FOLDER
    plain = learned(sdxl, tmp_path, "plain")
    assert not kept.exists()
    assert same(plain, learned(sdxl, tmp_path, "first", cache_on_disk=True))
    files = sorted(kept.iterdir())
    assert {file.name.split("-")[0] for file in files} == {"latents", "text"}

    with monkeypatch.context() as patched:
        patched.setattr(sdxl.vae, "encode", lambda *_: pytest.fail("a picture was read again"))
        patched.setattr(sdxl, "encode_text", lambda *_, **__: pytest.fail("a prompt was read again"))
        assert same(plain, learned(sdxl, tmp_path, "second", cache_on_disk=True))
    assert sorted(kept.iterdir()) == files

    # one is cut off, one changed by a bit, one of something else, and one no such file at all
    latents = [file for file in files if file.name.startswith("latents")]
    texts = [file for file in files if file.name.startswith("text")]
    whole = {file: load(file.read_bytes()) for file in files}
    changed = bytearray(latents[0].read_bytes())
    changed[-1] ^= 1
    latents[0].write_bytes(bytes(changed))
    texts[0].write_bytes(texts[0].read_bytes()[:-5])
    texts[-1].write_bytes(latents[0].read_bytes() if len(texts) > 1 else b"not at all")
    assert same(plain, learned(sdxl, tmp_path, "third", cache_on_disk=True))
    assert all(same(load(file.read_bytes()), before) for file, before in whole.items())


def test_other_pictures_weights_and_precisions_are_kept_apart(sdxl: BaseModel, tmp_path: Path):
    write_person(tmp_path / "person")
    cache = tmp_path / "mine"

    def count(name: str, base: BaseModel = sdxl, **changes: Any) -> dict[str, int]:
        learned(base, tmp_path, name, cache_on_disk=True, cache=str(cache), **changes)
        kinds = [file.name.split("-")[0] for file in cache.iterdir()]
        return {kind: kinds.count(kind) for kind in ("latents", "text")}

    before = count("a")
    assert count("b", settings={**FROZEN_TEXT, "rank": 2}) == before
    smaller = count("c", resolution=16)
    assert smaller["latents"] > before["latents"] and smaller["text"] == before["text"]
    other = tiny_base(family="sdxl")
    other.text_encoders["clip_g"].get_input_embeddings().weight.data[-3:] += 1.0
    reworded = count("d", other)
    assert reworded["latents"] == smaller["latents"] and reworded["text"] == 2 * before["text"]
    rounded = count("e", precision="bf16")
    assert rounded["text"] == 3 * before["text"]


def test_pictures_at_several_resolutions_are_kept_each(
    sdxl: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_person(tmp_path / "person")
    changes: dict[str, Any] = {"resolution": "24,32", "buckets": False}
    plain = learned(sdxl, tmp_path, "plain", **changes)
    assert same(plain, learned(sdxl, tmp_path, "first", cache_on_disk=True, **changes))
    monkeypatch.setattr(sdxl.vae, "encode", lambda *_: pytest.fail("a picture was read again"))
    assert same(plain, learned(sdxl, tmp_path, "second", cache_on_disk=True, **changes))
