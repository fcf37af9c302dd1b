"""What is registered is under contract: a method, and a base of another kind, each in one file of its own."""

import re
from pathlib import Path

import pytest

from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.bases.families import FAMILIES
from likeness_portraits.engine.config import METHODS
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.methods import CLASSES, method_class
from likeness_portraits.tests.engine.bases.toy_joint import TOY, toy_joint
from likeness_portraits.tests.engine.tiny import PARTICULAR, tiny_base, tiny_job, write_person
from likeness_portraits.tests.engine.training import test_methods, toy_method

CONTRACT = (  # whatever base it is
    test_methods.test_frozen_base_is_bit_identical_after_training,
    test_methods.test_only_declared_parameters_move,
    test_methods.test_the_saved_artifact_draws_what_the_method_drew,
    test_methods.test_cancelling_saves_and_resuming_equals_an_uninterrupted_run_bit_for_bit,
)
every_check = pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__[5:25])


@pytest.fixture
def folder(tmp_path) -> Path:
    write_person(tmp_path / "person")
    return tmp_path


@pytest.fixture
def joint(monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    pytest.importorskip("diffusers", "0.36")  # older ones have no FLUX.2
    pytest.importorskip("transformers", "4.51")  # nor Qwen3
    monkeypatch.setitem(FAMILIES, TOY.key, TOY)
    return toy_joint()


@every_check
def test_a_registered_method_keeps_the_contract(check, folder, monkeypatch):
    monkeypatch.setitem(METHODS, toy_method.NAME, toy_method.ToySettings)
    monkeypatch.setitem(CLASSES, toy_method.NAME, toy_method.PLACE)
    check(toy_method.NAME, tiny_base(), folder)


@every_check
@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth-lora"])
def test_a_registered_base_is_learned_on(check, method, joint, folder):
    """Joint attention, rectified flow, a causal text model."""
    check(method, joint, folder)


@every_check
def test_a_lora_whose_rank_follows_the_noise_keeps_the_contract(check, joint, folder, monkeypatch):
    """Drawn with as many ranks as were learned; resumed where its orthogonal halves began."""
    by_noise = {"min_rank": 2, "orthogonal": True}
    monkeypatch.setitem(PARTICULAR, "dreambooth-lora", {**PARTICULAR["dreambooth-lora"], **by_noise})
    check("dreambooth-lora", joint, folder)


REFUSED = {
    "custom-diffusion": "layers that read nothing but the prompt",
    "personamagic": "words of their own for each sample in its text encoder",
    "magictailor": "cross-attention maps",
    "magicapture": "cross-attention maps",
    "masterweaver": "attention to identity tokens beside the prompt",
}


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"textual-inversion", "dreambooth-lora"}))
def test_a_method_that_asks_for_what_a_base_lacks_is_refused_by_name(method, joint, folder):
    job = tiny_job(method, folder)
    told = f"{method} needs {REFUSED[method]}, which this base (a toy with joint attention) does not offer"
    with pytest.raises(LikenessError, match=re.escape(told)):
        train(job, base=joint)
    assert not Path(job.output).exists()
    assert [need for need in method_class(method).needs(job) if need not in tiny_base().offers] == []


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("magictailor", {"attention_weight": 0.0}),
        ("magicapture", {"attention_weight": 0.0, "inversion_attention_weight": 0.0}),
    ],
)
def test_without_the_ingredient_that_is_lacking_the_rest_is_learned(method, settings, joint, folder):
    before = test_methods.snapshot(joint)
    train(tiny_job(method, folder, settings=settings), base=joint)
    test_methods.assert_same_tensors(before, test_methods.snapshot(joint))


def test_min_snr_says_nothing_on_a_flow_and_it_is_said(joint, folder, caplog):
    train(tiny_job("textual-inversion", folder, settings={"min_snr_gamma": 5.0}), base=joint)
    assert "min_snr_gamma says nothing on this base" in caplog.text


def test_debiased_says_nothing_on_a_flow_and_uniform_times_nothing_on_a_noise_schedule(joint, folder, caplog):
    for base, name, value in ((joint, "debiased", True), (tiny_base(), "timestep_sampling", "uniform")):
        plain = {"min_snr_gamma": None}
        job = tiny_job("textual-inversion", folder, recipe={name: value}, settings=plain)
        method_class(job.method)(job, base, [])
        assert f"{name} says nothing on this base" in caplog.text
