"""A stranger's file or name runs no command and fetches nothing: each door is tried with a canary."""

import http.server
import importlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import webdataset.utils
import yaml
from PIL import EpsImagePlugin, Image

from likeness_portraits.engine.bases.clip_features import load_tower
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import Job, MasterWeaverSettings
from likeness_portraits.engine.data.pictures import read_picture
from likeness_portraits.engine.data.shard_sources import rendered
from likeness_portraits.engine.data.shards import (
    INDEX,
    SampleStreams,
    decode_picture,
    find_shards,
    write_shards,
)
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.identity_loss import dino

GOPEN = importlib.import_module("webdataset.gopen")  # a function hides the module of its name
COMMAND = "pipe:touch CANARY; true "


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file in the working folder that a command would make; that none did is checked at the end."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "CANARY"
    assert not (tmp_path / "CANARY").exists(), "a command was run"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("shards")
    write_shards(target, rendered(range(4), each=1, twins=0, size=32), each=2)
    return target


@pytest.fixture
def address(shards: Path) -> Iterator[str]:
    """Where a server on this machine gives the shards."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_webdataset_runs_what_follows_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # else the canaries below would prove nothing
    GOPEN.gopen(f"{COMMAND}/x.tar").read()
    assert (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", ["shards", "validation"])
@pytest.mark.parametrize("place", [COMMAND + "/", COMMAND + "/x.tar", "{pi,}pe:touch CANARY; true /x.tar"])
def test_a_job_file_runs_no_command(canary: Path, capsys, shards: Path, name: str, place: str):
    settings = {"shards": str(shards), name: place, "identity_steps": 1, "editing_steps": 0, "batch_size": 2}
    job = {"method": "masterweaver", "output": "a.safetensors", "settings": settings, "preview_every": 1}
    Path("job.yaml").write_text(yaml.safe_dump(job))
    for more in ([], ["--shards-from-web"]):
        assert main(["train", "masterweaver", "--config", "job.yaml", *more]) == 2
        said = capsys.readouterr().err
        assert "would run a command; give a path on this machine" in " ".join(said.split()) or "{pi,}" in said


@pytest.mark.parametrize(
    "place", [COMMAND, "pipe:x/../..", " PIPE:touch CANARY;true", "{pi,}pe:touch CANARY"]
)
def test_no_text_becomes_a_command_where_shards_are_sought(canary: Path, place: str):
    for web in (False, True):
        with pytest.raises(LikenessError, match="path on this machine|no shards at"):
            find_shards(place, web)


def test_file_and_folder_names_are_no_commands(canary: Path, shards: Path):
    write_shards(COMMAND, rendered(range(2), each=1, twins=0, size=32))
    assert Path(COMMAND, "shard-000000.tar").is_file()
    assert len(SampleStreams(f"./{COMMAND}", 1, seed=0)) == 2
    Path(f"{COMMAND}.tar").write_bytes((shards / "shard-000000.tar").read_bytes())
    lanes = SampleStreams(".", 1, seed=0)  # counted first, then read
    assert len(lanes) == 2 and lanes.samples(0, [0], lambda sample, _: sample.key) == ["0000000-00"]


def test_an_index_that_names_commands_is_only_counted_by(canary: Path, shards: Path):
    shutil.copytree(shards, "here")
    Path("here", INDEX).write_text(
        '{"samples": {"pipe:touch CANARY; true": 9, "shard-000000.tar": 2, "shard-000001.tar": 2}}'
    )
    lanes = SampleStreams("here", 1, seed=0)
    assert len(lanes) == 4 and lanes.samples(3, [0], lambda sample, _: sample.key)


def test_an_address_is_read_only_where_a_person_asked_for_it(address: str, shards: Path, tmp_path, capsys):
    place = address + "/shard-{000000..000001}.tar"
    with pytest.raises(LikenessError, match="--shards-from-web"):
        find_shards(place)
    settings = MasterWeaverSettings(shards=place)
    with pytest.raises(LikenessError, match="--shards-from-web"):
        Job(method="masterweaver", concepts=(), output="a.safetensors", settings=settings)
    assert (
        "shards_from_web"
        not in Job(
            method="masterweaver",
            concepts=(),
            output="a.safetensors",
            settings=settings,
            shards_from_web=True,
        ).to_dict()
    )
    config = tmp_path / "job.yaml"
    for asking in ({}, {"shards_from_web": True}):
        job = {"output": "a.safetensors", "settings": {"shards": place}, **asking}
        config.write_text(yaml.safe_dump(job))
        assert main(["train", "masterweaver", "-c", str(config), "--print-config"]) == 2
        assert "type --shards-from-web" in " ".join(capsys.readouterr().err.split())
    config.write_text(yaml.safe_dump({"output": "a.safetensors", "settings": {"shards": place}}))
    assert main(["train", "masterweaver", "-c", str(config), "--shards-from-web", "--print-config"]) == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset fetches with curl")
def test_webdatasets_own_lock_is_on_while_an_address_is_opened(
    address: str, shards: Path, monkeypatch: pytest.MonkeyPatch
):
    opened, real = [], GOPEN.gopen

    def watched(url: str, *rest: object, **more: object) -> object:
        opened.append((url, webdataset.utils.enforce_security))
        return real(url, *rest, **more)

    monkeypatch.setattr(GOPEN, "gopen", watched)
    lanes = SampleStreams(address + "/shard-{000000..000001}.tar", 1, seed=0, web=True)
    keys = [lanes.samples(number, [0], lambda sample, _: sample.key) for number in range(4)]
    assert len(lanes) == 4 and lanes.tally.broken_samples == 0
    assert keys == [
        SampleStreams(str(shards), 1, seed=0).samples(n, [0], lambda one, _: one.key) for n in range(4)
    ]
    assert opened[0] == (f"{address}/{INDEX}", True) and all(locked for _, locked in opened)
    assert not webdataset.utils.enforce_security  # as it was, for others in this process


def test_a_picture_that_is_postscript_is_not_handed_to_ghostscript(canary: Path, monkeypatch):
    fake = Path("bin", "gs")
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {canary}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent.absolute()), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for again
    Path("me.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n")
    with pytest.raises(LikenessError, match="is not a picture that can be read"):
        read_picture("me.png")
    with pytest.raises(LikenessError, match="is not a picture that can be read"):
        decode_picture(Path("me.png").read_bytes())
    assert not canary.exists()
    with pytest.raises(OSError), Image.open("me.png") as image:  # what Pillow alone would have done
        image.load()
    assert canary.exists()
    canary.unlink()


def folder_with(config: dict, **files: str) -> Path:
    folder = Path("model")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_modules_in_a_models_folder_are_not_imported_and_nobody_is_asked(canary: Path, monkeypatch):
    folder = folder_with(
        {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}},
        own="open('CANARY', 'w')\nclass Own: ...",
    )
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(LikenessError, match="cannot be read"):
        dino(folder)


KERNELS = {  # what transformers would fetch from the hub, where the library `kernels` is installed
    "a stranger's attention": ({"attn_implementation": "stranger/kernel"}, "asks for code from the web"),
    "a known attention that is not installed": (
        {"_attn_implementation": "flash_attention_2"}, "asks for code from the web"
    ),
    "an attention for each part": (
        {"attn_implementation": {"": "sdpa", "vision_config": "stranger/kernel"}},
        "asks for code from the web",
    ),
    "experts": ({"experts_implementation": "sonicmoe"}, "asks for code from the web"),
    "quantised weights": ({"quantization_config": {"quant_method": "mxfp4"}}, "is of quantised weights"),
}  # fmt: skip


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_a_models_folder_fetches_no_kernel_from_the_hub(name: str, inner: bool, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked, said = KERNELS[name]
    folder = folder_with({"model_type": "dinov2", **({"backbone_config": asked} if inner else asked)})
    for load in (dino, load_tower):
        with pytest.raises(LikenessError, match=said):
            load(folder)


def test_a_models_folder_does_not_lead_to_another(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = folder_with({"model_type": "dinov2"})
    adapter = folder / "adapter_config.json"
    adapter.write_text(json.dumps({"base_model_name_or_path": "//host/share", "peft_type": "LORA"}))
    with pytest.raises(LikenessError, match="holds an adapter, which names another model"):
        dino(folder)
    adapter.unlink()
    for away in ("../secret.safetensors", "//host/share/x.safetensors", "\\\\host\\x", "C:x"):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": away}}))
        with pytest.raises(LikenessError, match="names weights outside of its folder"):
            dino(folder)
    (folder / "model.safetensors.index.json").unlink()
    with tarfile.open(folder / "pytorch_model.bin", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    with pytest.raises(LikenessError, match="is no PyTorch file"):  # whose reader's care has had a hole
        dino(folder)


def test_a_pattern_of_endless_shards_is_refused_at_once():
    with pytest.raises(LikenessError, match="over 1,000,000 shards"):
        find_shards("/x/{0..99999999999}.tar")
