"""Parts of a base that its checkpoint lacks, named on the command line: as if they were in it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.job_file import build_job
from likeness_portraits.engine.miniature import model as miniature
from likeness_portraits.tests.engine.tiny import tiny_base, write_person
from likeness_portraits.tests.engine.training.checkpoints_made import checkpoint_of

CLIP, VAE = "cond_stage_model.", "first_stage_model."


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint, the same without VAE and text encoder, and those two by themselves."""
    folder = tmp_path_factory.mktemp("bases")
    state = {key: value.clone() for key, value in checkpoint_of(tiny_base(heads=8, text_heads=1)).items()}
    parts = {
        "whole": state,
        "bare": {key: value for key, value in state.items() if not key.startswith((CLIP, VAE))},
        "vae": {key.removeprefix(VAE): value for key, value in state.items() if key.startswith(VAE)},
        "clip": {key: value for key, value in state.items() if key.startswith(CLIP)},
    }
    paths = {name: folder / f"{name}.safetensors" for name in parts}
    for name, path in paths.items():
        save_file(parts[name], path)
    write_person(folder / "person")
    return {**paths, "person": folder / "person", "words": Path(miniature.tokenizer_folder())}


def options(files: dict[str, Path]) -> list[str]:
    return ["--vae", str(files["vae"]), "--clip", str(files["clip"]), "--tokenizer", str(files["words"])]


def test_a_checkpoint_in_parts_is_learned_on_as_the_whole_one(files: dict[str, Path], tmp_path: Path):
    common = ["train", "textual-inversion", str(files["person"]), "--steps", "2", "--batch-size", "1",
              "--resolution", "32", "--device", "cpu", "--precision", "fp32"]  # fmt: skip
    whole, bare = tmp_path / "whole.safetensors", tmp_path / "bare.safetensors"
    words = ["--tokenizer", str(files["words"])]
    assert main([*common, "--base", str(files["whole"]), *words, "-o", str(whole)]) == 0
    assert main([*common, "--base", str(files["bare"]), *options(files), "-o", str(bare)]) == 0
    learned, other = Artifact.load(whole), Artifact.load(bare)
    assert learned.base_fingerprint == other.base_fingerprint
    for name, tensor in learned.tensors.items():  # weights lie elsewhere in memory: sums may differ in a bit
        torch.testing.assert_close(tensor, other.tensors[name], atol=1e-6, rtol=1e-4)
    drawing = ["generate", "a photo of <v0>", "--steps", "1", "--width", "32", "--height", "32"]
    pictures = [tmp_path / "whole.png", tmp_path / "bare.png"]
    assert main([*drawing, "--base", str(files["whole"]), *words, "-o", str(pictures[0]),
                 "--concept", str(whole)]) == 0  # fmt: skip
    assert main([*drawing, "--base", str(files["bare"]), *options(files), "-o", str(pictures[1]),
                 "--concept", str(bare)]) == 0  # fmt: skip
    drawn = [np.asarray(Image.open(picture)) for picture in pictures]
    assert drawn[0].std() > 0 and np.abs(drawn[0].astype(int) - drawn[1]).max() <= 1


def test_what_is_missing_is_named_with_its_option(files: dict[str, Path], tmp_path: Path, capfd):
    arguments = ["train", "textual-inversion", str(files["person"]), "-o", str(tmp_path / "x.safetensors"),
                 "--base", str(files["bare"]), "--tokenizer", str(files["words"])]  # fmt: skip
    assert main(arguments) == 2
    assert "holds no VAE" in capfd.readouterr().err
    assert main([*arguments, "--vae", str(files["vae"])]) == 2
    assert "holds no text encoder (clip_l)" in capfd.readouterr().err


def test_typed_parts_go_before_the_config_files(files: dict[str, Path], capsys):
    arguments = ["train", "textual-inversion", str(files["person"]), "-o", "x.safetensors", "--print-config"]
    assert main([*arguments, "--base", str(files["bare"]), *options(files)]) == 0
    base = yaml.safe_load(capsys.readouterr().out)["base"]
    assert base == {"kind": "checkpoint", "path": str(files["bare"]), "tokenizer": str(files["words"]),
                    "vae": str(files["vae"]), "clip": str(files["clip"]), "prediction": None}  # fmt: skip
    config = {"concepts": [str(files["person"])], "output": "x.safetensors", "base": {**base, "vae": "old"}}
    assert build_job("textual-inversion", config, {"vae": "new"}, {}).base.vae == "new"


def test_parts_beside_a_base_that_has_its_own_are_refused(files: dict[str, Path], tmp_path: Path):
    for named in ({}, {"base": "miniature"}, {"base": str(tmp_path)}):
        with pytest.raises(LikenessError, match="vae is for a single-file checkpoint"):
            options = {"concepts": [str(files["person"])], "output": "x.safetensors", **named, "vae": "v"}
            build_job("textual-inversion", {}, options, {})


def test_restoring_takes_the_parts_of_the_base_that_redraws(files: dict[str, Path], tmp_path: Path, capfd):
    arguments = ["restore", str(next(files["person"].rglob("*.png"))), "--prompt", "a woman", "-o",
                 str(tmp_path / "x.png"), "--base", str(files["bare"]), *options(files)]  # fmt: skip
    assert main([*arguments[:-4], *arguments[-2:]]) == 2
    assert "holds no text encoder" in capfd.readouterr().err
    assert main([*arguments[:6], "--vae", str(files["vae"])]) == 2
    assert "vae is for a single-file checkpoint" in capfd.readouterr().err


def test_how_pictures_are_cut_and_steps_made_faster_can_be_typed(files: dict[str, Path], capsys):
    arguments = ["train", "textual-inversion", str(files["person"]), "-o", "x.safetensors", "--print-config"]
    assert main([*arguments, "--no-buckets", "--mirror", "--channels-last", "--compile", "inductor"]) == 0
    job = yaml.safe_load(capsys.readouterr().out)
    told = {name: job[name] for name in ("buckets", "mirror", "channels_last", "compile")}
    assert told == {"buckets": False, "mirror": True, "channels_last": True, "compile": "inductor"}
    assert main(arguments) == 0
    job = yaml.safe_load(capsys.readouterr().out)
    assert (job["buckets"], job["mirror"], job["channels_last"], job["compile"]) == (None, False, False, None)
    assert torch.is_grad_enabled()


def test_a_typed_zero_goes_before_the_files_number(files: dict[str, Path], tmp_path: Path, capsys):
    (tmp_path / "job.yaml").write_text("seed: 5\ncheckpoint_every: 10\n")
    arguments = ["train", "textual-inversion", str(files["person"]), "-o", "x.safetensors", "--print-config",
                 "--config", str(tmp_path / "job.yaml")]  # fmt: skip
    assert main([*arguments, "--seed", "0", "--checkpoint-every", "0"]) == 0
    job = yaml.safe_load(capsys.readouterr().out)
    assert (job["seed"], job["checkpoint_every"]) == (0, 0)


def test_what_a_base_predicts_can_be_typed(files: dict[str, Path], tmp_path: Path, capsys):
    words = ["--tokenizer", str(files["words"])]
    drawing = ["generate", "a photo", "--steps", "1", "--width", "32", "--height", "32", *words]
    drawn = {}
    for kind in (None, "epsilon", "v_prediction"):
        path = tmp_path / f"{kind}.png"
        typed = [] if kind is None else ["--prediction", kind]
        assert main([*drawing, "--base", str(files["whole"]), *typed, "-o", str(path)]) == 0
        drawn[kind] = np.asarray(Image.open(path))
    assert (drawn[None] == drawn["epsilon"]).all() and (drawn[None] != drawn["v_prediction"]).any()
    capsys.readouterr()
    for base in (str(files["whole"]), "miniature"):
        assert (
            main([*drawing, "--base", base, "--prediction", "v_predict", "-o", str(tmp_path / "x.png")]) == 2
        )
    said = capsys.readouterr().err
    assert "unknown prediction 'v_predict'; did you mean 'v_prediction'?" in said
