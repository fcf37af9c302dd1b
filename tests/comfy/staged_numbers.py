"""Run by the Python of a ComfyUI host: what a staged prompt costs a sampling step, on the Miniature.

    python staged_numbers.py CHECKOUT PARENT_OF_THE_PACKAGE

Prints one JSON object: processor seconds of a step and of a whole run, of a plain prompt and of a staged one.
"""

import json
import sys
from dataclasses import replace
from typing import Any

checkout, package_parent = sys.argv[1:3]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import time  # noqa: E402

import comfy.sample  # noqa: E402
import torch  # noqa: E402

from likeness_portraits.engine.comfy_bridge.miniature import build_miniature  # noqa: E402
from likeness_portraits.engine.comfy_bridge.staged import staged_prompt  # noqa: E402
from likeness_portraits.tests.engine.tiny import staged_person  # noqa: E402

STEPS, ROUNDS, STAGES = 20, 8, 50
TEXT = "a watercolor painting of a smiling {}, wearing a green shirt, in a forest"


def seconds(model: Any, positive: Any, negative: Any) -> tuple[list[float], float]:
    """Processor time between one step and the next, and of the whole run."""
    latent = torch.zeros(1, 4, 16, 16)
    began, moments = time.process_time(), []
    comfy.sample.sample(
        model, torch.randn(latent.shape), STEPS, 5.0, "euler", "simple", positive, negative, latent,
        callback=lambda *_: moments.append(time.process_time()), disable_pbar=True, seed=0,
    )  # fmt: skip
    whole = time.process_time() - began
    return [after - before for before, after in zip(moments, moments[1:])], whole


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    model, clip, _ = build_miniature()
    person = staged_person("<v0>", 128, "miniature")
    person = replace(person, extra={**person.extra, "stages": STAGES})
    kinds = {
        "plain": (model, clip.encode_from_tokens_scheduled(clip.tokenize(TEXT.format("woman")))),
        "staged": staged_prompt(model, clip, person, TEXT.format("<v0>")),
    }
    nothing = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    seen: dict[str, list[tuple[list[float], float]]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS + 1):
        for kind, (patched, positive) in kinds.items():  # in turn, so that a busy machine slows both alike
            seen[kind].append(seconds(patched, positive, nothing))
    answer: dict[str, Any] = {"entries": len(kinds["staged"][1])}
    for kind, runs in seen.items():
        least = [min(times) for times in zip(*(steps for steps, _ in runs[1:]))]
        answer[kind] = {"step": sum(least) / len(least), "run": min(whole for _, whole in runs[1:])}
    print(json.dumps(answer))  # noqa: T201 (the answer)


main()
