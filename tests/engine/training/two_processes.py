"""What each of two processes runs: `torchrun two_processes.py jobs.json [FOLDER]`, of a tiny FLUX.2."""

import json
import sys
from pathlib import Path

import torch

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.config import BaseSpec, Job
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.engine.tiny import tiny_base


class Counter:
    """Notes how many processes there are; only the main process is asked."""

    def __init__(self) -> None:
        self.seen: list[dict] = []

    def on_step(self, progress, losses) -> None:
        if progress.step == progress.total:
            self.seen.append({"processes": torch.distributed.get_world_size(), "losses": dict(losses)})

    def on_preview(self, progress, image) -> None:
        pass

    def should_stop(self) -> bool:
        return False


def base_of(arguments: list[str]) -> BaseModel:
    if len(arguments) < 3:
        return tiny_base()
    base = load_base(BaseSpec.parse(arguments[2]))
    base.text.length = 96
    return base


if __name__ == "__main__":
    counter = Counter()
    for job in json.loads(Path(sys.argv[1]).read_text()):
        train(Job.from_json(job), counter, base_of(sys.argv))
    if counter.seen:
        Path(sys.argv[1] + ".seen").write_text(json.dumps(counter.seen))
    torch.distributed.destroy_process_group()
