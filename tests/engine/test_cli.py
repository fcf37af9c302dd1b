"""The command line as people meet it: what it says, returns and leaves behind.

`likeness` runs a real process; `here` runs the same `main` in this one, which spares loading torch each time.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import METHODS, Job
from likeness_portraits.engine.job_file import build_job, setting_help
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.engine.tiny import write_anna

PYTHONS_TYPES = re.compile(r"<(?:bool|str|int|float|Path|list|tuple)\b|\b(?:list|tuple)\[|\bTUPLE\b|\bNone\b")
SHORT = ("--steps", 2, "--prior-pictures", 1, "--prior-steps", 1)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_anna(tmp_path_factory.mktemp("people") / "anna")


@pytest.fixture(scope="session")
def learned(person: Path, likeness, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept file that the real command learned, if only for two steps."""
    path = tmp_path_factory.mktemp("learned") / "anna.safetensors"
    done = likeness("train", "dreambooth-lora", person, "-o", path, *SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(path)
    return path


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit status 2, and one line on stderr that says what and what to do."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert re.search(word, done.stderr), done.stderr


# --- mistakes ------------------------------------------------------------------------------


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 90 if mode in ("L", "I;16") else (90, 60, 30)).save(path)


def truncated(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    (folder / "photo.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:4000])


def with_mask(folder: Path, size: tuple[int, int], shade: int) -> None:
    picture(folder / "images" / "a.png")
    (folder / "masks").mkdir()
    Image.new("L", size, shade).save(folder / "masks" / "a.png")


BAD_FOLDERS = {
    "no pictures": (lambda folder: None, r"no pictures in .*people; put some \.png"),
    "text files": (
        lambda folder: (folder / "notes.txt").write_text("hi"),
        r"no pictures in .*people \(1 other file",
    ),
    "one 8x8 picture": (
        lambda folder: picture(folder / "icon.png", size=(8, 8)),
        r"icon\.png is only 8 x 8 pixels; use",
    ),
    "a truncated JPEG": (truncated, r"photo\.jpg is damaged or cut short; save it again"),
    "text named .png": (
        lambda folder: (folder / "a.png").write_text("hi"),
        r"a\.png is not a picture .*; save it again",
    ),
    "mask of another size": (
        lambda folder: with_mask(folder, (32, 32), 255),
        r"masks/a\.png is 32 x 32 .*; save the mask",
    ),
    "mask all black": (lambda folder: with_mask(folder, (64, 64), 0), r"masks/a\.png marks nothing.*; paint"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_bad_folder_is_one_sentence_and_leaves_nothing(tmp_path: Path, here, name: str):
    make, message = BAD_FOLDERS[name]
    (tmp_path / "people").mkdir()
    make(tmp_path / "people")
    before = files_in(tmp_path)
    done = here(
        "train",
        "dreambooth-lora",
        tmp_path / "people",
        "--class-word",
        "man",
        "-o",
        tmp_path / "out" / "x.safetensors",
    )
    assert_refused(done, message)
    assert files_in(tmp_path) == before


def test_a_folder_that_is_missing_is_named(tmp_path: Path, likeness):
    done = likeness("train", "dreambooth-lora", "nowhere", "-o", "x.safetensors", cwd=tmp_path)
    assert_refused(done, "nowhere does not exist; give a folder")


@pytest.mark.parametrize("kind", ["missing", "text", "folder", "empty file"])
def test_a_base_that_is_no_model_is_named(tmp_path: Path, here, person: Path, kind: str):
    base = tmp_path / "model.safetensors"
    if kind == "folder":
        base.mkdir()
    elif kind != "missing":
        base.write_text("not a model" if kind == "text" else "")
    before = files_in(tmp_path)
    done = here("train", "dreambooth-lora", person, "--base", base, "-o", tmp_path / "x.safetensors")
    assert_refused(done, r"model\.safetensors", "; ")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stepz", "3"], "unknown setting 'stepz'; did you mean 'steps'"),
        (["--steps", "many"], "settings.steps must be a whole number"),
        (["--steps", "0"], "'steps' is 0; it must be 1 or more"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--preset", "papper"], "no preset 'papper'.*valid are"),
        (["--role", "subjekt"], "unknown role 'subjekt'; did you mean 'subject'"),
        (["--token", "v0"], "'v0' cannot be a placeholder; write"),
        (["--token", "<a>", "--token", "<b>"], "--token is given 2 times for 1 folders"),
        (["--output", "x.ckpt"], "x.ckpt must end in .safetensors; rename it"),
        (["--config", "gone.yaml"], "gone.yaml does not exist; check the path"),
        (["--config", "broken.yaml"], "broken.yaml is not valid YAML in line 2; mend it"),
        (["--config", "typo.yaml"], "unknown setting 'rang' in settings; did you mean 'rank'"),
        (["--config", "typo2.yaml"], "unknown setting 'sede' in job; did you mean 'seed'"),
        (["--config", "other.yaml"], "is for 'textual-inversion'; run `likeness train textual-inversion`"),
        (["--config", "list.yaml"], "list.yaml holds no settings"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_the_nearest_valid_one(
    tmp_path: Path, here, person: Path, arguments: list[str], message: str
):
    configs = {"broken": "a: 1\nb: [", "typo": "settings: {rang: 3}", "typo2": "sede: 3", "list": "[1]",
               "other": "method: textual-inversion"}  # fmt: skip
    for name, text in configs.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    before = files_in(tmp_path)
    done = here("train", "dreambooth-lora", person, "--output", "x.safetensors", *arguments, cwd=tmp_path)
    assert_refused(done, message)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'"),
        (["train", "dreambooth"], "unknown command 'dreambooth'; did you mean 'dreambooth-lora'"),
        (["train", "dreambooth-lora"], "nothing to learn from; give a folder"),
        (
            ["demo", "--method", "dreamboth-lora"],
            "unknown method 'dreamboth-lora'; did you mean 'dreambooth-lora'",
        ),
        (["generate"], "Missing argument 'PROMPT...'"),
        (
            ["generate", "a photo of <v0>"],
            "uses <v0>, which no given concept defines; give its file with --concept",
        ),
        (["generate", "x", "--concept", "gone.safetensors"], "gone.safetensors does not exist; check"),
        (["generate", "x", "y", "--out", "one.png"], "one.png is one file, but there are 2 pictures"),
        (["info", "text.safetensors"], r"text.safetensors is not a .safetensors file"),
        (["export", "text.safetensors"], r"text.safetensors is not a .safetensors file"),
        (["import", "text.safetensors", "-o", "x.ckpt"], "x.ckpt must end in .safetensors"),
    ],
)
def test_other_commands_refuse_in_one_sentence_too(tmp_path: Path, here, arguments: list[str], message: str):
    (tmp_path / "text.safetensors").write_text("hello")
    assert_refused(here(*arguments, cwd=tmp_path), message)
    assert files_in(tmp_path) == ["text.safetensors"]


@pytest.fixture
def tiny_disk(tmp_path: Path):
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system to fill")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_noticed_before_learning_begins(tiny_disk: Path, here, person: Path):
    done = here("train", "dreambooth-lora", person, "-o", tiny_disk / "x.safetensors")
    assert_refused(done, r"cannot write .*x\.safetensors: the disk is full; free some space")
    assert files_in(tiny_disk) == []


def test_a_disk_that_fills_while_writing_keeps_the_old_file(tiny_disk: Path, here, learned: Path):
    (tiny_disk / "anna.safetensors").write_text("old")
    done = here("export", learned, "--name", "anna", "-o", tiny_disk, "--overwrite")
    assert_refused(done, r"cannot write .*anna\.safetensors: the disk is full; free some space")
    assert files_in(tiny_disk) == ["anna.safetensors"]
    assert (tiny_disk / "anna.safetensors").read_text() == "old"


def small_files_only() -> None:
    """For a process of its own: the limit would hit pytest's own log just as well."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to set")
def test_a_limit_on_file_size_leaves_nothing_half_written(tmp_path: Path, likeness, learned: Path):
    done = likeness("export", learned, "-o", tmp_path, preexec_fn=small_files_only)
    assert_refused(done, r"cannot write .*: the file would be larger than allowed here")
    assert files_in(tmp_path) == []


# --- what works ----------------------------------------------------------------------------


def test_every_kind_of_picture_is_learned_from(tmp_path: Path, here):
    face = Image.fromarray(world.example_pictures(world.TUNING_SEEDS[1], 1)[0].pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    face.resize((128, 96)).save(tmp_path / "phone.jpg", exif=exif)
    face.convert("RGBA").save(tmp_path / "cut_out.png")
    face.convert("CMYK").save(tmp_path / "print.tif")
    Image.fromarray(np.asarray(face.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    face.convert("P").save(tmp_path / "palette.png")
    (tmp_path / "concept.json").write_text('{"class_word": "man"}')
    facts = json.loads(here("info", "--json", tmp_path).stdout)
    assert facts["pictures"] == 5 and facts["sizes"] == ["128x128", "96x128"]
    output = tmp_path / "x.safetensors"
    done = here("train", "textual-inversion", tmp_path, "-o", output, "--steps", 1, "--masked-loss", "false")
    assert done.returncode == 0, done.stderr
    assert Artifact.load(output).steps == 1


def test_what_was_learned_draws_with_its_placeholder(tmp_path: Path, here, learned: Path):
    options = ("--steps", 2, "--count", 2, "--seed", 5, "--out", tmp_path / "pictures")
    done = here("generate", "a photo of <v0> in space", "--concept", f"{learned}:0.8", *options)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [path.name for path in paths] == ["000-seed5.png", "001-seed6.png"]
    with Image.open(paths[1]) as image:
        assert image.size == (128, 128)
        assert image.text["prompt"] == "a photo of <v0> in space" and image.text["seed"] == "6"
    assert files_in(tmp_path) == ["pictures", "pictures/000-seed5.png", "pictures/001-seed6.png"]


def test_info_tells_what_a_concept_file_is(here, learned: Path):
    facts = json.loads(here("info", "--json", learned).stdout)
    assert (facts["kind"], facts["method"], facts["steps"], facts["base_family"]) == (
        "lora",
        "dreambooth-lora",
        2,
        "miniature",
    )
    assert facts["tokens"] == [{"token": "<v0>", "class_word": "woman", "role": "subject", "vectors": 1}]
    assert "class word" not in here("info", learned).stderr


def test_export_and_import_keep_every_number(tmp_path: Path, here, learned: Path):
    exported = here("export", learned, "-o", tmp_path, "--name", "anna").stdout.split()
    assert [Path(path).name for path in exported] == ["anna.safetensors", "anna-v0.safetensors"]
    again = here("export", learned, "-o", tmp_path, "--name", "anna")
    assert_refused(again, "anna.safetensors exists; choose another name")
    done = here("import", *exported, "-o", tmp_path / "back.safetensors", "--class-word", "woman")
    assert done.returncode == 0, done.stderr
    original, back = Artifact.load(learned), Artifact.load(tmp_path / "back.safetensors")
    assert back.tokens == original.tokens
    assert all((back.tensors[key] == tensor).all() for key, tensor in original.tensors.items())


@pytest.mark.slow
def test_evaluate_measures_a_concept_against_the_base(tmp_path: Path, here, learned: Path, person: Path):
    done = here("evaluate", learned, "--pictures", person, "--rounds", 1, "--out", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert scores == json.loads((tmp_path / "scores.json").read_text())
    assert {"identity_before", "identity_after", "prompt_accuracy", "prompt_accuracy_base"} <= scores.keys()


def test_masks_are_written_beside_the_pictures(tmp_path: Path, here, person: Path):
    shutil.copytree(person / "images", tmp_path / "images")
    sheet = tmp_path / "sheet.jpg"
    done = here("masks", tmp_path, "--subject", "face", "--keep-largest", "--sheet", sheet)
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / "masks") == ["0.png", "1.png"] and sheet.exists()
    assert "masks: 2/2" in done.stderr and f"look at {sheet}" in done.stderr
    looked = here("doctor", "--data", tmp_path)
    assert looked.returncode == 0, looked.stderr
    assert looked.stdout.count("128 x 128  sharpness") == 2 and "it is small" not in looked.stdout
    assert "fewer than three different pictures" in looked.stdout


def test_missing_weights_are_named_before_any_picture_is_read(tmp_path: Path, here, person: Path):
    done = here("masks", person, "--backend", "clipseg", "--subject", "face", "--models", tmp_path)
    assert done.returncode == 2
    assert re.search(
        r"config\.json, model\.safetensors or .* missing in .*/clipseg; get the files", done.stderr
    )


def test_the_printed_config_is_the_job_and_can_be_given_back(tmp_path: Path, here, person: Path):
    options = [
        "-o",
        "x.safetensors",
        "--steps",
        "77",
        "--seed",
        "3",
        "--min-snr-gamma",
        "null",
        "--templates",
        "['{} here']",
    ]
    printed = here("train", "dreambooth-lora", person, *options, "--print-config", cwd=tmp_path)
    assert printed.returncode == 0, printed.stderr
    job = Job.from_json(yaml.safe_load(printed.stdout))
    assert (job.settings.steps, job.seed, job.settings.min_snr_gamma) == (77, 3, None)
    assert job.settings.templates == ("{} here",)
    (tmp_path / "job.yaml").write_text(printed.stdout)
    again = here(
        "train", "dreambooth-lora", "--config", "job.yaml", "--steps", "78", "--print-config", cwd=tmp_path
    )
    assert again.stdout == printed.stdout.replace("steps: 77", "steps: 78")
    assert files_in(tmp_path) == ["job.yaml"]


def test_options_go_before_the_file_and_the_file_before_the_preset(person: Path):
    config = {"concepts": [str(person)], "output": "x.safetensors", "settings": {"rank": 5, "steps": 50}}
    job = build_job("dreambooth-lora", config, {}, {"steps": 60}, preset="reference")
    assert (job.settings.steps, job.settings.rank, job.settings.prior_pictures) == (60, 5, 100)
    assert job.concepts[0].folder == str(person)


@pytest.mark.parametrize("method", METHODS)
def test_help_explains_settings_by_their_comments(here, method: str):
    told = setting_help(METHODS[method])
    assert "as in" not in told and len(told) >= 5
    done = here("train", method, "--help")
    assert done.returncode == 0
    settings = [f"--{field.name.replace('_', '-')}"[:20] for field in dataclasses.fields(METHODS[method])]
    for name in ("--output", "--print-config", "--preset", *settings):
        assert name in done.stdout
    assert PYTHONS_TYPES.findall(done.stdout) == []


@pytest.mark.parametrize("command", ["", "generate", "info", "import", "restore", "measure", "bench speed"])
def test_help_names_no_types_of_python(here, command: str):
    done = here(*command.split(), "--help")
    assert done.returncode == 0 and "--help" in done.stdout
    assert PYTHONS_TYPES.findall(done.stdout) == []


def test_doctor_knows_versions_devices_and_folders(here):
    done = here("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("likeness-portraits", "torch", "diffusers", "onnxruntime", "CPU cores", "working folder"):
        assert word in done.stdout


def test_help_and_mistakes_answer_without_loading_torch(likeness, package_parent: Path):
    program = """
import sys
from likeness_portraits.engine.cli import main
main(["train", "dreambooth-lora", "--stepz", "1"])
sys.exit(sum(name in sys.modules for name in ("torch", "diffusers", "transformers")))
"""
    environment = {**os.environ, "PYTHONPATH": str(package_parent)}
    assert (
        subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True).returncode == 0
    )


@pytest.fixture
def press_ctrl_c():
    """Presses Ctrl-C in this very process once the condition holds, as the terminal would."""

    def when(condition: Callable[[], bool]) -> None:
        def wait() -> None:
            while not condition():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=wait, daemon=True).start()

    return when


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_saves_what_was_learned(tmp_path: Path, here, person: Path, press_ctrl_c):
    press_ctrl_c((tmp_path / "x.previews" / "step-000002.png").exists)
    options = ("--steps", 100_000, "--preview-every", 2)
    done = here("train", "textual-inversion", person, "-o", "x.safetensors", *options, cwd=tmp_path)
    assert done.returncode == 130, done.stderr
    assert done.stdout.strip() == "x.safetensors"
    assert "stopped after" in done.stderr and "--resume" in done.stderr
    assert 0 < Artifact.load(tmp_path / "x.safetensors").steps < 100_000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_before_the_first_step_writes_nothing(tmp_path: Path, here, person: Path, press_ctrl_c):
    usual = signal.getsignal(signal.SIGINT)
    press_ctrl_c(lambda: signal.getsignal(signal.SIGINT) is not usual)
    options = ("--prior-pictures", 500, "--prior-steps", 100)
    done = here("train", "dreambooth-lora", person, "-o", "x.safetensors", *options, cwd=tmp_path)
    assert done.returncode == 130, done.stderr
    assert done.stdout == "" and "nothing was learned, nothing was written" in done.stderr
    assert files_in(tmp_path) == []
    assert signal.getsignal(signal.SIGINT) is usual


def test_the_miniatures_card_is_computed_again(here, tmp_path):
    done = here("bench", "miniature", "--people", 2, "--drawn", 2, "--out", tmp_path / "card.json")
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert {"autoencoder", "clip", "unet", "recogniser", "parser", "size_mb"} <= set(card)
