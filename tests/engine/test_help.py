"""Help: every setting with its default, in groups; narrow terminals; completion; names that people know."""

import io
import re
from dataclasses import fields

import pytest
from rich.console import Console
from rich.text import Text
from typer.main import get_command

from likeness_portraits.engine.cli import app, main
from likeness_portraits.engine.config import METHODS, presets_of
from likeness_portraits.engine.config.specs import MINIATURES
from likeness_portraits.engine.console import _bar
from likeness_portraits.engine.job_file import ADVANCED, AS_PUBLISHED, setting_defaults, setting_groups


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What `likeness …` prints on a wide terminal, without its frames."""
    monkeypatch.setenv("COLUMNS", "240")

    def run(*arguments: str) -> str:
        assert main(arguments) == 0
        return re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out)

    return run


@pytest.mark.parametrize("method", METHODS)
def test_help_says_the_default_of_every_setting_and_where_presets_differ(shown, method: str):
    text = " ".join(shown("train", method, "--help").split())
    for name, value in setting_defaults(method).items():
        kinds = r"(INTEGER|NUMBER|TEXT|LIST|true\|false)"
        entry = re.search(rf" --{name.replace('_', '-')} {kinds} .*?\[default: \((.*?)\)\]", text)
        assert entry and entry[2] == value, name


def test_defaults_are_those_of_the_presets_themselves():
    told = setting_defaults("dreambooth-lora")
    assert told["steps"] == "800; reference 500; miniature 150"
    assert told["unet_learning_rate"] == "0.0001; miniature 0.005"
    assert told["templates"] == "3 texts; reference 'a photo of {}'; miniature 2 texts"
    assert told["min_snr_gamma"] == "none; miniature 5; miniature-2 none"
    for method in METHODS:
        assert list(presets_of(method))[0] == "default" and "miniature" in presets_of(method)
        assert list(setting_defaults(method)) == [entry.name for entry in fields(METHODS[method])]


@pytest.mark.parametrize("method", METHODS)
def test_settings_stand_by_the_presets_that_move_them(shown, method: str):
    text = re.sub(r" +", " ", shown("train", method, "--help"))
    headings = ["Data", f"Settings of {method}", AS_PUBLISHED, ADVANCED]
    presets, groups = presets_of(method), setting_groups(method)
    for entry in fields(METHODS[method]):
        usual = getattr(presets["default"], entry.name)
        moved = {name for name, preset in presets.items() if getattr(preset, entry.name) != usual}
        wanted = headings[1] if moved & set(MINIATURES) else AS_PUBLISHED if moved else ADVANCED
        if entry.name in ("shards", "validation", "adapter") and method == "masterweaver":
            wanted = "Data"
        assert groups.pop(entry.name) == wanted, entry.name
        above = text[: text.index(f"\n --{entry.name.replace('_', '-')} ")]
        places = {heading: above.rfind(f" {heading} ") for heading in headings}
        assert max(places, key=lambda heading: places[heading]) == wanted, entry.name
    assert not groups


def test_options_stand_in_groups_under_plain_types(shown):
    text = shown("train", "dreambooth-lora", "--help")
    places = [
        text.index(f" {name} ")
        for name in ("Data", "Base", "Run", "Watch", "Settings of dreambooth-lora", AS_PUBLISHED, ADVANCED)
    ]
    assert places == sorted(places)
    for rest in (r"--steps +INTEGER", r"--masked-loss +true\|false", r"--max-grad-norm +NUMBER",
                 r"--templates +LIST", r"--config +-c +PATH", r"--precision .*\[default: \(fp32\)\]",
                 r"--checkpoint-minutes .*\[default: \(5\)\]"):  # fmt: skip
        assert re.search(rest, text), rest
    assert not re.search(r"TUPLE|NONE|--\w+ +<", text.split("Data", 1)[1])
    assert not re.search(r"--\w+ +<(str|int|path|bool)", shown("generate", "--help"))


def test_the_list_of_methods_ends_its_sentences_and_knows_lora(shown):
    text = shown("train", "--help")
    for name in (*METHODS, "lora"):
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{name} "))
        assert line.strip().endswith("."), line
    assert "--rank" in shown("train", "lora", "--help")


def test_no_help_loses_words_in_brackets_to_markup():
    waiting, texts = [get_command(app)], []
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        texts += [text for one in (command, *command.params) if (text := getattr(one, "help", None))]
    assert len(texts) > 300
    lost = [text for text in texts if Text.from_markup(text).plain != text.replace(r"\[", "[")]
    assert lost == []


def test_train_lora_is_dreambooth_lora(shown, tmp_path):
    options = (str(tmp_path), "--class-word", "woman", "-o", "x.safetensors", "--print-config")
    assert shown("train", "lora", *options) == shown("train", "dreambooth-lora", *options)


@pytest.mark.parametrize(("width", "bar", "gone"), [(120, True, True), (80, False, True), (60, False, False)])
def test_a_narrow_terminal_loses_the_bar_first_and_never_the_numbers(width: int, bar: bool, gone: bool):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    with _bar(console, "learning (dreambooth-lora)") as progress:
        task = progress.add_task("learning (dreambooth-lora)", total=800, more="diffusion 0.1234")
        progress.update(task, completed=120)
        progress.refresh()
    line = [line for line in re.split(r"[\r\n]", screen.getvalue()) if "/800" in line][-1]
    assert "120/800" in line and "-:--:--" in line and "…" not in line.split("-:--:--")[0]
    assert ("━" in line) is bar and ("0:00:00" in line) is gone


def test_shells_are_told_what_may_follow(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("_LIKENESS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "likeness train dream")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == ["dreambooth-lora"]
    monkeypatch.delenv("_LIKENESS_COMPLETE")
    shellingham = pytest.importorskip("shellingham")
    monkeypatch.setattr(
        shellingham, "detect_shell", lambda: ("bash", "bash")
    )  # none where no shell began this
    with pytest.raises(SystemExit):
        main(["--show-completion", "bash"])
    assert "_LIKENESS_COMPLETE=complete_bash" in capsys.readouterr().out
