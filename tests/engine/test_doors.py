"""Values that cannot be meant are refused before any work; what is there stays; what is drawn is not lost."""

import io
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.commands.outputs import Outputs, next_number
from likeness_portraits.engine.config import METHODS, BaseSpec, ConceptSpec, Job, from_yaml, read
from likeness_portraits.engine.console import save_picture
from likeness_portraits.engine.data.masks import Refinement
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.engine.tiny import tiny_base

DRAW = ["generate", "a photo", "--steps", "1"]


def settings_of(method: str, changes: dict[str, Any]) -> Any:
    kind = METHODS[method]
    return read(kind, {**asdict(kind.preset("miniature")), **changes}, method)


def refused(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said about arguments that are a mistake, in one line."""
    assert main([str(argument) for argument in arguments]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("likeness: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "-64"], "'--width'"),
        (["--width", "0"], "'--width'"),
        (["--height", "20000"], "'--height'"),
        (["--seed", 2**64], "'--seed'"),
        (["--seed", 2**64 - 1, "--count", 2], "2 seeds from 18446744073709551615 on go beyond"),
        (["--steps", "0"], "'--steps'"),
        (["--guidance", "nan"], "--guidance is nan, which is no number"),
        (["--guidance", "inf"], "--guidance is inf"),
        (["--refocus", "photo=left;strength=nan"], "'nan' in 'photo=left;strength=nan'"),
        (["--refocus", "photo=0,nan,0.5,1"], "'nan' in 'photo=0,nan,0.5,1' is no share"),
        (["--restore", "redraw;denoise=nan"], "'nan' in 'redraw;denoise=nan'"),
        (["--out", "x.tiff"], "x.tiff cannot be written; choose one of .png, .jpg"),
        (["--out", "a" * 300], "cannot be used: File name too long"),
        (["--out", f"{'a' * 252}.png"], "cannot be used: File name too long"),
        (["--out", "nul.png"], "cannot be a file's name on every system"),
        (["--negative", "(red:nan)"], "'nan' in a prompt is no weight"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_drawn(
    arguments: list, message: str, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert message in refused([*DRAW, *arguments], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("dreambooth-lora", {"rank": 100_000}, "'rank' is 100000; it must be 1024 or less"),
        ("magictailor", {"rank": 2000}, "'rank' is 2000"),
        ("magicapture", {"rank": 2000}, "'rank' is 2000"),
        ("custom-diffusion", {"rank": 2000}, "'rank' is 2000"),
        ("textual-inversion", {"vectors": 76}, "'vectors' is 76; it must be 75 or less"),
        ("personamagic", {"vectors": 1000}, "'vectors' is 1000"),
        ("textual-inversion", {"templates": ["a photo of {} {x}"]}, "'a photo of {} {x}', in which a brace"),
        ("textual-inversion", {"templates": ["a {} {1}"]}, "'a {} {1}', in which a brace stands for nothing"),
        ("textual-inversion", {"templates": ["a {} {"]}, "in which a brace stands for nothing"),
        ("dreambooth-lora", {"prior_templates": ["a {} }"]}, "'prior_templates' holds 'a {} }'"),
        ("magicapture", {"composed_templates": ["{subject} {style} {x}"]}, "'composed_templates' holds"),
        ("masterweaver", {"edits": ["a {} {0.x}"]}, "'edits' holds 'a {} {0.x}'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(method: str, settings: dict, message: str):
    with pytest.raises(LikenessError) as told:
        settings_of(method, settings)
    assert message in str(told.value)


def test_braces_that_stand_for_something_are_taken():
    settings_of("textual-inversion", {"templates": ["a photo of {}, {{so}}"]})
    settings_of("magicapture", {"style_templates": ["{} of a man", "{style} of {subject} {}"]})


@pytest.mark.parametrize("word", ["<v0>", "(woman:1.2)", "embedding:x", "woman {}"])
def test_a_class_word_that_prompts_would_read_otherwise_is_refused(word: str, tmp_path: Path):
    with pytest.raises(LikenessError, match="cannot be a class word"):
        ConceptSpec(folder=str(tmp_path), class_word=word)


@pytest.mark.parametrize("wrong", [{"feather": float("nan")}, {"feather": -3}, {"grow": 100_000}])
def test_edges_of_masks_that_cannot_be_meant_are_refused(wrong: dict):
    with pytest.raises(LikenessError, match="pixels"):
        Refinement(**wrong)


def test_numbers_mean_what_people_mean_by_them():
    assert from_yaml("[10, 0, -3, 1_000, 0x1f, 1.5]", "it") == [10, 0, -3, 1000, 31, 1.5]
    assert from_yaml("[010, 1:30]", "it") == ["010", "1:30"]  # YAML 1.1: eight, and ninety
    job = {"method": "textual-inversion", "concepts": [{"folder": "x"}], "output": "o.safetensors"}
    assert Job.from_json({**job, "settings": {"steps": "010"}}).settings.steps == 10
    with pytest.raises(LikenessError, match="must be a whole number"):
        Job.from_json({**job, "settings": {"steps": "1:30"}})
    with pytest.raises(
        LikenessError, match=r"'seed' is 18446744073709551615; it must be 9223372036854775807"
    ):
        Job.from_json({**job, "seed": 2**64 - 1})
    with pytest.raises(LikenessError, match="'steps' is 99999999999; it must be 10000000 or less"):
        Job.from_json({**job, "settings": {"steps": 99_999_999_999}})


def test_a_preview_of_somebody_whom_nobody_learns_is_refused_at_once(tmp_path: Path):
    job = {"method": "textual-inversion", "concepts": [{"folder": "x"}], "output": "o.safetensors"}
    for prompt in ("a photo of <v9>", "a photo of <V0>"):
        with pytest.raises(LikenessError, match="preview prompt .* is not learned; there are <v0>"):
            Job.from_json({**job, "preview_prompt": prompt})
    assert Job.from_json({**job, "preview_prompt": "a (photo:1.2) of <v0>"}).preview_prompt
    for prompt, message in (("(<v0>:nan)", "is no weight"), ("embedding:v9", "which no concept defines")):
        with pytest.raises(LikenessError, match=message):
            train(Job.from_json({**job, "preview_prompt": prompt}))


# ------------------------------------------------------------------------------------------- what is there


def test_pictures_are_numbered_on_and_a_file_is_not_replaced_unasked(tmp_path: Path, capsys):
    folder, file = tmp_path / "drawn", tmp_path / "me.png"
    for _ in range(2):
        assert main([*DRAW, "a cat", "-o", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [f"00{n}-seed0.png" for n in range(4)]
    assert main([*DRAW, "-o", str(folder), "--overwrite"]) == 0 and len(list(folder.iterdir())) == 4
    assert main([*DRAW, "-o", str(file)]) == 0
    before = file.read_bytes()
    capsys.readouterr()
    assert "me.png is there already; give --overwrite" in refused([*DRAW, "-o", file], capsys)
    assert file.read_bytes() == before
    assert main([*DRAW, "--seed", "5", "-o", str(file), "--overwrite"]) == 0 and file.read_bytes() != before


@pytest.mark.parametrize(("name", "kind"), [("me.jpg", "JPEG"), ("me.JPEG", "JPEG"), ("me.webp", "WEBP")])
def test_a_picture_of_another_kind_is_a_file_and_says_how_it_was_made(tmp_path: Path, name: str, kind: str):
    rows = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.stack([np.tile(rows, (64, 1))] * 3, -1)
    path = save_picture(
        Outputs.at(tmp_path / name, 1, False).numbered(0, "seed0"), pixels, {"prompt": "Анна"}
    )
    with Image.open(path) as picture:
        assert path.is_file() and picture.format == kind
        comment = picture.getexif().get_ifd(0x8769)[0x9286]
        assert comment.removeprefix(b"UNICODE\0").decode("utf-16-be") == "prompt: Анна"
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - pixels).max() <= 4


def test_numbers_go_on_behind_the_highest(tmp_path: Path):
    assert next_number(tmp_path / "nowhere") == 0
    for name in ("003-seed0.png", "012-seed9.jpg", "007.png", "99-notes.txt", "cat.png"):
        (tmp_path / name).touch()
    assert next_number(tmp_path) == 13
    assert Outputs.at(tmp_path, 2, False).named("cat").name == "cat-2.png"
    assert Outputs.at(tmp_path, 2, True).named("cat").name == "cat.png"


HELP = (
    *(["train", method] for method in METHODS), ["bench", "claims"], ["captions"], ["demo"], ["doctor"],
    ["evaluate"], ["export"], ["generate"], ["grid"], ["import"], ["info"], ["interval"], ["masks"],
    ["measure"], ["restore"], ["shards"],
)  # fmt: skip


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_every_command_writes_to_an_output_that_has_few_letters(
    encoding: str, package_parent: Path, tmp_path: Path, monkeypatch
):
    def shown(*arguments: object) -> str:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            assert main([str(argument) for argument in arguments]) == 0
        stream.flush()
        return stream.buffer.getvalue().decode(encoding)

    folder = tmp_path / "出力 Müller"
    (folder / "images").mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"写真{number}.png")
    learned = folder / "名前.safetensors"
    told = [
        shown("train", "textual-inversion", folder, "--class-word", "woman", "--steps", 1, "-o", learned),
        shown("info", learned), shown("info", folder), shown("export", learned, "-o", folder / "出"),
        shown(*DRAW, "b", "--concept", learned, "-o", folder / "絵"),
        shown("train", "textual-inversion", folder, "-o", learned, "--print-config"),
    ]  # fmt: skip
    assert len(list((folder / "絵").iterdir())) == 2
    assert all("\\u51fa\\u529b" in text for text in told)
    for command in HELP:
        assert "Usage" in shown(*command, "--help")


def test_pictures_are_written_though_nobody_reads_what_is_said(package_parent: Path, tmp_path: Path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "likeness_portraits.engine.cli", *DRAW, "b", "c", "-o", "出力"]
    told = {**os.environ, "PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=told, cwd=tmp_path, text=True)
    os.close(writer)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr and "BrokenPipe" not in ran.stderr
    assert len(list((tmp_path / "出力").iterdir())) == 3


# ---------------------------------------------------------------------------------------- no numbers anywhere


@pytest.fixture
def broken() -> BaseModel:
    base = tiny_base()
    base.unet.conv_out.weight.data[0] = float("nan")
    return base


def test_a_base_whose_weights_are_no_numbers_draws_no_black_picture(broken: BaseModel):
    with pytest.raises(LikenessError, match="draws nothing: conv_out.weight of its U-Net holds values that"):
        generate(broken, ["a photo"], steps=1)


def test_a_vae_that_gives_no_numbers_is_named_and_not_drawn_black():
    base = tiny_base()
    base.vae.decoder.conv_out.weight.data[0] = float("inf")
    with pytest.raises(LikenessError, match="the VAE gives values that are no numbers for this picture"):
        generate(base, ["a photo"], steps=1)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_strengths_and_guidance_that_are_no_numbers_are_refused(number: float):
    base, lora = tiny_base(), Artifact(kind="lora", method="x", tensors={"lora_unet_x.alpha": torch.ones(1)})
    with pytest.raises(LikenessError, match="the guidance is"):
        generate(base, ["a photo"], guidance=number)
    with pytest.raises(LikenessError, match="the strength of the LoRA is"):
        generate(base, ["a photo"], artifacts=[(lora, number)])


def test_a_strength_beyond_all_numbers_is_said_to_be_too_much():
    base = load_base(BaseSpec())
    with pytest.raises(LikenessError, match="numbers became too large for float32.* lower the guidance"):
        generate(base, ["a photo"], guidance=1e38, steps=2)


def learning(folder: Path, **changes: Any) -> Job:
    (folder / "images").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    concept = ConceptSpec(folder=str(folder), class_word="woman")
    settings = settings_of("textual-inversion", {"steps": 3, "learning_rate": 0.001})
    return Job(method="textual-inversion", concepts=(concept,), settings=settings,
               output=str(folder / "o.safetensors"), device="cpu", **changes)  # fmt: skip


def test_before_the_first_update_the_base_is_at_fault_and_no_rate(broken: BaseModel, tmp_path: Path):
    with pytest.raises(LikenessError) as told:
        train(learning(tmp_path), base=broken)
    said = str(told.value)
    assert "is no number before anything was learned: conv_out.weight of its U-Net" in said
    assert "learning rate" not in said


def test_a_vae_that_cannot_read_the_pictures_is_named_before_anything_is_learned(tmp_path: Path):
    base = tiny_base()
    base.vae.encoder.conv_out.weight.data[:] = float("nan")
    with pytest.raises(LikenessError, match="the VAE gives values that are no numbers for 2 of 2 pictures"):
        train(learning(tmp_path), base=base)


def test_a_rate_that_is_too_high_is_named(tmp_path: Path):
    settings = settings_of("textual-inversion", {"steps": 30, "learning_rate": 1e30, "max_grad_norm": None})
    job = learning(tmp_path)
    job = Job(**{**vars(job), "settings": settings})
    with pytest.raises(LikenessError, match=r"is no number from step \d+ on; lower the learning rate"):
        train(job, base=tiny_base())


def test_a_checkpoint_whose_weights_are_no_numbers_is_named_by_the_command(tmp_path: Path, capsys):
    from likeness_portraits.engine.miniature import model as miniature
    from likeness_portraits.tests.engine.training.checkpoints_made import checkpoint_of

    state = {key: value.clone() for key, value in checkpoint_of(tiny_base(heads=8, text_heads=1)).items()}
    state["model.diffusion_model.out.2.weight"][:] = float("nan")
    save_file(state, tmp_path / "base.safetensors")
    said = refused(
        [*DRAW, "--base", tmp_path / "base.safetensors", "--tokenizer", miniature.tokenizer_folder(),
         "--width", 64, "--height", 64, "-o", tmp_path / "x.png"],
        capsys,
    )  # fmt: skip
    assert "conv_out.weight of its U-Net" in said and not (tmp_path / "x.png").exists()
