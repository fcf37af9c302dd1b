"""Runs the command line in forks of one process that has loaded everything: a line of JSON for each run.

`python -m likeness_portraits.tests.campaigns.forks` reads {"args", "cwd", "log"} from stdin and answers with
the process's id, then, once it has ended, with its exit status. A fork is killed as any process is, and
starts in a moment where a fresh Python takes ten seconds.
"""

import importlib
import json
import os
import sys

_ENGINE = "likeness_portraits.engine"
LOADED = (
    "torch", "numpy", "PIL.Image", "safetensors.torch", "yaml", "webdataset", "scipy.ndimage", "filelock",
    "accelerate", "peft", "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl", "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip", f"{_ENGINE}.training.launch",
    f"{_ENGINE}.inference.generate", f"{_ENGINE}.data.segment", f"{_ENGINE}.data.shard_sources",
    f"{_ENGINE}.miniature.judges", f"{_ENGINE}.cli",
    *(f"{_ENGINE}.training.methods.{name}" for name in
      ("baselines", "custom_diffusion", "magicapture", "magictailor", "masterweaver", "personamagic")),
)  # fmt: skip


def answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def child(told: dict) -> None:
    """One run of the command line; never returns."""
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(told["cwd"])
    from likeness_portraits.engine.cli import main

    status = 1
    try:
        status = main(told["args"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    for name in LOADED:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    answer("ready")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            child(json.loads(line))
        answer(str(pid))
        answer(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


if __name__ == "__main__":
    serve()
