"""What each process of a distributed adapter run does: `torchrun adapter_processes.py TASK JOB.json [STEP]`.

`gradients` writes what DDP makes of one batch's gradients in each stage, among several processes also beside
a U-Net that lies in pieces; `train` trains, and its last process
dies without a word after STEP steps, where one is given; `work` trains the job's own base and writes how long
its steps took and how much of a processor, which a busy machine does not change, each process spent on one.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from likeness_portraits.engine.config import Job
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.methods.masterweaver import MasterWeaver
from likeness_portraits.engine.training.observer import Progress
from likeness_portraits.engine.training.optimiser import optimizer_for
from likeness_portraits.engine.training.sharding import kept_bytes, shard_base, unsaid
from likeness_portraits.tests.engine.tiny import tiny_base


def gradients(job: Job) -> None:
    with unsaid():
        accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == int(os.environ["WORLD_SIZE"])
    found = gradients_of(job, accelerator)
    pieces = gradients_of(job, accelerator, in_pieces=True) if accelerator.num_processes > 1 else {}
    if accelerator.is_main_process:
        save_file(found, job.output)
        save_file(pieces, Path(job.output).with_suffix(".pieces.safetensors"))


def gradients_of(job: Job, accelerator: Accelerator, in_pieces: bool = False) -> dict[str, torch.Tensor]:
    """Of one batch in each stage, after the processes' average; with the U-Net whole or in pieces."""
    torch.manual_seed(job.seed)
    learner = MasterWeaver(job, tiny_base(), [])
    if in_pieces:
        shard_base(learner, accelerator)
        kept, whole = kept_bytes(learner.base.unet)
        assert kept < 0.6 * whole, f"{kept} of {whole} bytes are kept"
    found = {}
    for phase in learner.phases():
        learner.begin_phase(phase)
        model, _ = accelerator.prepare(learner, optimizer_for(learner.parameter_groups(), phase))
        batch = learner.shard(phase, 3, accelerator.process_index, accelerator.num_processes)
        progress = Progress(phase=phase.name, phase_step=0, phase_steps=2, step=0, total=4)
        accelerator.backward(torch.stack(list(model(batch, progress).values())).sum())
        for name, weight in learner.named_parameters():
            if weight.grad is not None:
                found[f"{phase.name}.{name}"] = weight.grad.clone()
        learner.zero_grad()
    learner.close()
    accelerator.free_memory()
    return found


def dying_at(step: int) -> None:
    """From now on the last process ends itself there, as a crash would."""
    before = MasterWeaver.after_step

    def after_step(self: MasterWeaver, progress: Progress) -> None:
        before(self, progress)
        if progress.step == step and os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
            os._exit(9)

    MasterWeaver.after_step = after_step


class Clock:
    """Seconds of each step after the first: on the wall, and of this process's own work."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.work: list[float] = []
        self._last: tuple[float, float] | None = None

    def tick(self) -> None:
        now = time.perf_counter(), time.process_time()
        if self._last is not None:
            self.wall.append(now[0] - self._last[0])
            self.work.append(now[1] - self._last[1])
        self._last = now


def work(job: Job) -> None:
    clock, before = Clock(), MasterWeaver.after_step

    def after_step(self: MasterWeaver, progress: Progress) -> None:
        before(self, progress)
        clock.tick()

    MasterWeaver.after_step = after_step
    train(job)
    mine = {"wall": statistics.median(clock.wall), "work": statistics.median(clock.work)}
    found: list[dict[str, float]] = [mine] * int(os.environ["WORLD_SIZE"])
    torch.distributed.all_gather_object(found, mine)
    if os.environ["RANK"] == "0":
        Path(job.output).with_suffix(".work.json").write_text(json.dumps(found))


if __name__ == "__main__":
    asked = Job.from_json(json.loads(Path(sys.argv[2]).read_text()))
    if sys.argv[1] == "gradients":
        gradients(asked)
    elif sys.argv[1] == "work":
        work(asked)
    else:
        if len(sys.argv) > 3:
            dying_at(int(sys.argv[3]))
        train(asked, base=tiny_base())
    torch.distributed.destroy_process_group()
