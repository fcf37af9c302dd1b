"""Settings say what is wrong with them, and survive a journey through JSON."""

import json
import os
from dataclasses import fields, replace

import pytest

from likeness_portraits.engine.config import (
    METHODS,
    BaseSpec,
    ConceptSpec,
    CustomDiffusionSettings,
    DreamBoothLoraSettings,
    Job,
    Phase,
    divided,
    settings_for,
    typed_path,
)
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.job_file import build_job, read_yaml, setting_help, value_of

PLAIN = {"method": "dreambooth-lora", "concepts": [{"folder": "anna"}], "output": "anna.safetensors"}


@pytest.mark.parametrize("method", METHODS)
def test_a_job_survives_the_journey_through_json(method):
    concepts = (ConceptSpec(folder="anna", role="subject"), ConceptSpec(folder="hat", token="<hat>"))
    base = BaseSpec(kind="checkpoint", path="sd15.safetensors", tokenizer="clip")
    job = Job(method=method, concepts=concepts, output="a.safetensors", base=base, seed=3, resolution=512)
    assert Job.from_json(job.to_json()) == job
    assert Job.from_json(job.to_dict()) == job
    json.dumps(job.to_dict())


def test_a_partial_config_changes_the_methods_own_starting_point():
    job = Job.from_json({**PLAIN, "settings": {"steps": 7}})
    assert job.settings.steps == 7
    assert job.settings.rank == DreamBoothLoraSettings.preset("miniature").rank
    real = Job.from_json({**PLAIN, "base": {"kind": "diffusers", "path": "sd15"}})
    assert real.settings == DreamBoothLoraSettings.preset("default")


def test_numbers_that_yaml_reads_as_text_are_numbers():
    job = Job.from_json({**PLAIN, "seed": 4.0, "settings": {"unet_learning_rate": "1e-4", "steps": "20"}})
    assert (job.seed, job.settings.unet_learning_rate, job.settings.steps) == (4, 1e-4, 20)
    assert isinstance(job.seed, int)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "dream-booth"}, "unknown method 'dream-booth'; did you mean 'dreambooth-lora'?"),
        ({"settings": {"step": 3}}, "unknown setting 'step' in settings; did you mean 'steps'?"),
        ({"sed": 3}, "unknown setting 'sed' in job; did you mean 'seed'?"),
        ({"settings": {"steps": 0}}, "'steps' is 0; it must be 1 or more"),
        ({"settings": {"steps": 2.5}}, "settings.steps must be a whole number, not 2.5"),
        ({"settings": {"text_encoder": "yes"}}, 'settings.text_encoder must be true or false, not "yes"'),
        ({"settings": {"alpha": 0}}, "'alpha' is 0.0; it must be more than 0"),
        ({"settings": {"alpha": float("nan")}}, "'alpha' is nan; it must be more than 0"),
        ({"settings": {"schedule": "cosin"}}, "unknown schedule 'cosin'; did you mean 'cosine'?"),
        ({"settings": {"templates": ["a photo"]}}, "'templates' must hold prompts with {} where"),
        ({"settings": [1]}, "'settings' must be a mapping"),
        ({"concepts": []}, "a job needs at least one concept"),
        ({"concepts": "anna"}, 'job.concepts must be a list, not "anna"'),
        ({"concepts": [{"token": "<v0>"}]}, "job.concepts lacks folder; add it"),
        ({"concepts": [{"folder": "a", "token": "v0"}]}, "'v0' cannot be a placeholder"),
        ({"concepts": [{"folder": "a"}, {"folder": "b"}]}, "two concepts share the placeholder <v0>"),
        ({"concepts": [{"folder": "a", "role": "stile"}]}, "unknown role 'stile'; did you mean 'style'?"),
        ({"output": "anna.pt"}, "the output anna.pt must end in .safetensors"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; did you mean 'fp"),
        ({"base": {"kind": "checkpoint"}}, "a base of kind 'checkpoint' needs a path"),
        ({"resolution": 0}, "'resolution' is 0; it must be 8 or more"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(change, message):
    with pytest.raises(LikenessError) as caught:
        Job.from_json({**PLAIN, **change})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{above}'] * 10)}]\n" for above, name in zip("abcdefg", "bcdefgh")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 2000, "job.yaml is not valid YAML"),
        ("seed: [1\n", "job.yaml is not valid YAML in line 2"),
        ('seed: !!int "x"', "job.yaml is not valid YAML"),
        ('seed: !!float ""', "job.yaml is not valid YAML"),
        ('seed: !!timestamp "x"', "job.yaml is not valid YAML"),
        ("seed: " + "9" * 5000, "job.yaml is not valid YAML"),
        ("seed: 0x" + "f" * 5000, "job.yaml holds a number of more than 64 bits"),
        ("settings: [1]", "'settings' in the config file must be a mapping"),
        ("settings: {templates: &a [*a]}", "job.yaml is nested more than 64 levels deep"),
        ("settings: " + "[" * 80 + "]" * 80, "job.yaml is nested more than 64 levels deep"),
        (BOMB, "job.yaml unfolds to more than 1,000,000 values"),
        (r'preview_prompt: "\ud800"', "job.yaml holds a character that is none"),
        (r'output: "a\0.safetensors"', "job.yaml holds a character that is none"),
        ("settings: {1: 2}", "unknown setting '1' in settings"),
        ("preview_prompt: {2020-01-01: 1}", "job.preview_prompt must be text, not a dict"),
        ("concepts: [{folder: {a: 1}}]", 'job.concepts.folder must be text, not {"a": 1}'),
        ("base: ~nobody-of-that-name/sd15.safetensors\nsettings: {step: 1}", "unknown setting 'step'"),
    ],
)
def test_a_strangers_job_file_ends_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    typed = {"concepts": ["anna"], "output": "a.safetensors"}
    with pytest.raises(LikenessError) as caught:
        build_job("dreambooth-lora", read_yaml(path), {k: v for k, v in typed.items() if k not in text}, {})
    assert str(caught.value).startswith((message, f"{tmp_path}/{message}"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["[" * 2000, '!!int "x"', "&a [*a]"])
def test_what_is_typed_on_the_command_line_and_is_no_yaml_is_text(text):
    assert value_of(text) == text


def test_text_that_is_no_job_is_refused():
    with pytest.raises(LikenessError, match="not valid JSON"):
        Job.from_json("{")
    with pytest.raises(LikenessError, match="must be a mapping"):
        Job.from_json("[]")
    with pytest.raises(LikenessError, match="names no method; set 'method' to one of"):
        Job.from_json({})


def test_a_base_is_recognised_from_what_is_typed(tmp_path):
    assert BaseSpec.parse("miniature") == BaseSpec(kind="miniature")
    assert BaseSpec.parse(str(tmp_path)).kind == "diffusers"
    assert BaseSpec.parse(str(tmp_path / "sd15.safetensors")).kind == "checkpoint"


def test_presets_are_chosen_by_name_and_by_base():
    assert settings_for("dreambooth-lora") == DreamBoothLoraSettings.preset("miniature")
    second = settings_for("dreambooth-lora", BaseSpec(kind="miniature-2"))
    assert second == DreamBoothLoraSettings.preset("miniature-2") and second.min_snr_gamma is None
    checkpoint = BaseSpec(kind="checkpoint", path="x")
    assert settings_for("dreambooth-lora", checkpoint) == DreamBoothLoraSettings()
    with pytest.raises(LikenessError, match="has no preset 'referense'; did you mean 'reference'?"):
        DreamBoothLoraSettings.preset("referense")
    for kind in METHODS.values():
        published = "paper" if kind is CustomDiffusionSettings else "reference"
        for name in ("default", published, "miniature", "miniature-2"):
            kind.preset(name)


def test_a_phase_checks_itself():
    with pytest.raises(LikenessError, match="'batch_size' is 0"):
        Phase(name="p", steps=1, learning_rates={}, batch_size=0)


# ---- typed paths


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ('"C:\\pics\\anna"', "C:\\pics\\anna"),  # Windows' Copy as path
        ("'/pics/my anna' ", "/pics/my anna"),
        ("~/anna", os.path.expanduser("~/anna")),
        ('"~/anna"', os.path.expanduser("~/anna")),
        ('/pics/6" prints', '/pics/6" prints'),
        ("anna", "anna"),
    ],
)
def test_a_path_is_what_was_meant_by_what_was_pasted(typed, meant):
    assert typed_path(typed) == meant
    assert ConceptSpec(folder=typed).folder == meant
    if "\\" in meant or '"' in meant:  # folders that are here may be named so, what we write may not
        return
    typed, meant = (text.replace("anna", "anna.safetensors") for text in (typed, meant))
    job = Job(method="textual-inversion", concepts=(ConceptSpec(folder="a"),), output=typed)
    assert job.output == meant


def test_every_path_of_the_command_line_may_be_quoted(tmp_path, capsys):
    from likeness_portraits.engine.cli import main

    assert main(["info", f'"{tmp_path}/there is none.safetensors"']) == 2
    assert f"likeness: {tmp_path}/there is none.safetensors does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("--output=~/a.safetensors", "--output=" + os.path.expanduser("~/a.safetensors")),
        ('"C:\\my pictures"', "C:\\my pictures"),
        ('"a photo" of ~', '"a photo" of ~'),
        ('"a sign / plate"', '"a sign / plate"'),
        ("-o", "-o"),
    ],
)
def test_only_what_looks_like_a_path_is_taken_for_one(argument, meant):
    from likeness_portraits.engine.commands.options import as_meant

    assert as_meant(argument) == meant


# ---- a run's steps, and what settings mean


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 500])
@pytest.mark.parametrize(
    ("method", "share", "names"),
    [
        ("magictailor", 0.4, ("warm_up_steps", "balance_steps")),
        ("magicapture", 4 / 9, ("inversion_steps", "tuning_steps")),
    ],
)
def test_a_run_of_so_many_steps_has_so_many_in_its_phases(steps, method, share, names):
    """A 0 left unsaid would stay at the preset's number: one step was 81."""
    kind = METHODS[method]
    settings = replace(kind.preset("miniature"), **divided(steps, share, *names))
    assert sum(getattr(settings, name) for name in names) == steps
    assert divided(0, share, *names) == {}


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_says_what_it_means(method):
    told = setting_help(METHODS[method])
    assert [entry.name for entry in fields(METHODS[method]) if len(told.get(entry.name, "")) < 10] == []
