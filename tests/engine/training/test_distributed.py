"""Adapter training on several processes: gradients are averaged, and a run that lost one goes on exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.config import Job
from likeness_portraits.engine.data.shard_sources import rendered
from likeness_portraits.engine.data.shards import write_shards
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.launch import check_sharing, main, train
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person


@pytest.fixture
def run(tmp_path, package_parent):
    """Starts a task on so many processes: `run(2, "train", job, *arguments)`."""

    def start(processes: int, task: str, job: Job, *arguments: object) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(job.to_dict()))
        environment = {**os.environ, "PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": "1"}
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        script = Path(__file__).with_name("adapter_processes.py")
        return subprocess.run(
            [*launcher, str(processes), script, task, path, *map(str, arguments)],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip

    return start


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", rendered(range(12), each=1, twins=1, size=64), each=3)
    return tmp_path / "shards"


def job_on(shards: Path, name: str, **changes) -> Job:
    settings = {"shards": str(shards), "batch_size": 4, "workers": 1}
    return tiny_job("masterweaver", shards.parent, name, concepts=[], settings=settings, **changes)


@pytest.mark.slow
def test_two_processes_with_two_pictures_have_the_gradients_of_one_with_four(run, shards):
    for processes in (1, 2):
        done = run(processes, "gradients", job_on(shards, f"by{processes}"))
        assert done.returncode == 0, done.stderr[-3000:]
    alone, together = (load_file(shards.parent / f"by{processes}.safetensors") for processes in (1, 2))
    assert alone.keys() == together.keys()
    assert {name.split(".")[0] for name in alone} == {"identity", "editing"}
    in_pieces = load_file(shards.parent / "by2.pieces.safetensors")  # as FSDP cuts the frozen U-Net
    for other in (together, in_pieces):
        assert max(float((alone[name] - other[name]).abs().max()) for name in alone) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["false", "true"])
def test_a_run_that_lost_a_process_goes_on_exactly(run, shards, monkeypatch, fsdp):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", fsdp)
    assert run(2, "train", job_on(shards, "whole", checkpoint_every=2)).returncode == 0
    assert run(2, "train", job_on(shards, "lost", checkpoint_every=2), 3).returncode != 0
    assert not (shards.parent / "lost.safetensors").exists()
    done = run(2, "train", job_on(shards, "lost", checkpoint_every=2, resume=True))
    assert done.returncode == 0, done.stderr[-3000:]
    whole, after = (Artifact.load(shards.parent / f"{name}.safetensors") for name in ("whole", "lost"))
    assert all(torch.equal(whole.tensors[name], after.tensors[name]) for name in whole.tensors)


def test_another_number_of_processes_than_the_job_says_is_refused(shards):
    with pytest.raises(LikenessError, match="1 of 2 processes"):
        train(job_on(shards, "two", processes=2), base=tiny_base())


def test_libraries_that_cut_what_is_trained_are_refused_in_words(shards, monkeypatch):
    check_sharing("DistributedType.MULTI_GPU")
    with pytest.raises(LikenessError, match="MEGATRON_LM cuts the trained weights"):
        check_sharing("DistributedType.MEGATRON_LM")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # as `accelerate launch` says it
    with pytest.raises(LikenessError, match="DEEPSPEED cuts the trained weights .* FSDP where the frozen"):
        train(job_on(shards, "deep"), base=tiny_base())


def test_fsdp_tells_what_it_cannot_cut(tmp_path, shards, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    write_person(tmp_path / "person")
    with pytest.raises(LikenessError, match="dreambooth-lora trains or changes layers"):
        train(tiny_job("dreambooth-lora", tmp_path), base=tiny_base())
    with pytest.raises(LikenessError, match="compile needs the U-Net in one piece"):
        train(job_on(shards, "compiled", compile="eager"), base=tiny_base())
    rows = {f"lora_unet_conv_in.lora_{part}.weight": torch.zeros(1, 1) for part in ("down", "up")}
    rows["lora_unet_conv_in.alpha"] = torch.tensor(1.0)
    lora = Artifact(kind="lora", method="test", tensors=rows, base_family="miniature")
    with pytest.raises(LikenessError, match="merged into the U-Net"):
        train(job_on(shards, "hosted", on=[str(lora.save(tmp_path / "lora.safetensors"))]), base=tiny_base())
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(LikenessError, match="set fsdp_offload_params to false"):
        train(job_on(shards, "offloaded"), base=tiny_base())


ACCELERATE = """compute_environment: LOCAL_MACHINE
distributed_type: {kind}
machine_rank: 0
main_training_function: main
mixed_precision: 'no'
num_machines: 1
num_processes: 2
use_cpu: false
"""


@pytest.fixture
def launched(tmp_path, shards, package_parent):
    """Starts the launcher as a module on two processes, by the words before `-m`."""
    job = tmp_path / "job.yaml"
    settings = f"shards: {shards}, identity_steps: 1, editing_steps: 0, batch_size: 2, workers: 0"
    job.write_text(
        f"method: masterweaver\nbase: miniature\ndevice: cpu\noutput: {tmp_path}/woven.safetensors\n"
        f"settings: {{{settings}}}\n"
    )

    def start(*words: object) -> subprocess.CompletedProcess[str]:
        module = ["-m", "likeness_portraits.engine.training.launch", job, "--processes", "2"]
        return subprocess.run(
            [sys.executable, "-m", *map(str, [*words, *module])], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return start


@pytest.mark.slow
def test_torchrun_starts_the_launcher_on_two_real_processes(launched, tmp_path):
    done = launched("torch.distributed.run", "--standalone", "--nproc_per_node", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Artifact.load(tmp_path / "woven.safetensors").steps == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MULTI_GPU", "FSDP"])
def test_accelerate_on_a_cpu_starts_one_process_and_is_told(launched, tmp_path, kind):
    config = tmp_path / "accelerate.yaml"
    config.write_text(ACCELERATE.format(kind=kind))
    done = launched("accelerate.commands.launch", "--config_file", config, "--cpu", "--num_processes", 2)
    assert done.returncode != 0 and "1 of 2 processes train together" in done.stderr
    assert not (tmp_path / "woven.safetensors").exists()


def test_the_launcher_is_a_program_with_an_exit_status(tmp_path, shards, caplog):
    job = tmp_path / "job.yaml"
    job.write_text(
        f"method: masterweaver\noutput: {tmp_path}/a.safetensors\nsettings: {{shards: {shards}}}\n"
    )
    assert main([str(job), "--processes", "3"]) == 2
    assert "1 of 3 processes" in caplog.text
    assert main([str(tmp_path / "none.yaml")]) == 2
