"""The training loop of all of the Miniature's networks: Muon, warm-up and decay, averaged weights, resume."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

log = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)


def half_precision(device: str | torch.device) -> torch.autocast:
    """bf16 within, where the device computes it: a CPU without takes 10 to 30 times as long as in fp32."""
    kind = torch.device(device).type
    able = kind != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(kind, torch.bfloat16, enabled=able)


def learning_rate_factor(step: int, steps: int, warmup: int = 100, flat: float = 0.5) -> float:
    """Linear warm-up, constant for the share `flat` of all steps, then a cosine down to 2 %."""
    progress = min(1.0, step / max(1, steps))
    decay = max(0.0, (progress - flat) / (1 - flat))
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * decay)))


@torch.no_grad()
def orthogonalised(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, nearly: Newton-Schulz iterations (Jordan et al. 2024, Muon)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def is_matrix(weight: Tensor) -> bool:
    """A hidden layer's weight: no vector, no edge that reads or writes a few channels, no class table."""
    if weight.ndim < 2:
        return False
    outputs, inputs = weight.shape[0], weight[0].numel()
    return 16 < outputs <= min(2048, 12 * inputs) and inputs > 36  # 12: Flux.2's queries to gates in one


class Muon(torch.optim.AdamW):
    """Orthogonalised momentum for matrices and convolutions; AdamW for vectors, embeddings and edges.

    torch.optim.Muon takes 2-D parameters only; most of these networks' weights are convolutions.  Updates
    are scaled to AdamW's usual size (root mean square 0.2; Liu et al. 2025): one learning rate serves both.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: list[dict],
        learning_rate: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
        split = []
        for group in groups:
            for muon in (True, False):
                matching = [p for p in group["params"] if muon == (id(p) not in embeddings and is_matrix(p))]
                if matching:
                    split.append({**group, "params": matching, "muon": muon})
        self._momentum = momentum
        super().__init__(split, learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure=None):  # noqa: ANN001, ANN201 (torch's signature)
        for group in self.param_groups:
            if group["muon"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step_matrix(parameter, group)
        return super().step(closure)

    def _step_matrix(self, parameter: Tensor, group: dict) -> None:
        state = self.state[parameter]
        state.setdefault("step", torch.tensor(0.0))  # AdamW wants one in every state it loads
        velocity = state.setdefault("velocity", torch.zeros_like(parameter))
        gradient = parameter.grad
        assert gradient is not None
        velocity.lerp_(gradient, 1 - self._momentum)
        direction = gradient.lerp(velocity, self._momentum).flatten(1)
        update = orthogonalised(direction) * (0.2 * math.sqrt(max(direction.shape)))
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(
            update.view_as(parameter), alpha=group["lr"]
        )
        parameter.grad = None  # AdamW passes over it


def _average_gradients(parameters: list[nn.Parameter], ranks: int) -> None:
    flat = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    )
    distributed.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = (part / ranks).view_as(parameter)


class _Run:
    """Weights, their running average and the optimiser, kept in a file to go on from."""

    def __init__(self, network: nn.Module, groups: list[dict], learning_rate: float, file: Path) -> None:
        self.network, self.file = network, file
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = Muon(network, groups, learning_rate)
        self.average = [p.detach().clone() for p in self.parameters]
        self.start = 0
        if file.exists():
            state = torch.load(file, map_location=self.parameters[0].device, weights_only=True)
            network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.start = state["average"], state["step"]
            log.info("%s: continuing at step %d", file.stem, self.start)

    def save(self, step: int) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": step,
        }
        torch.save(state, self.file.with_suffix(".tmp"))
        self.file.with_suffix(".tmp").replace(self.file)

    def step(self, number: int, averaging: float, ranks: int) -> None:
        """One optimiser step on the gradients there are; the average follows, quickly at first."""
        if ranks > 1:
            _average_gradients(self.parameters, ranks)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        decay = min(averaging, (1 + number) / (10 + number))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    def swap(self) -> None:
        """Exchanges the weights for their average, or back."""
        for parameter, mean in zip(self.parameters, self.average, strict=True):
            kept = parameter.data.clone()
            parameter.data.copy_(mean)
            mean.copy_(kept)

    def look(self, report: Callable[[Any], object]) -> object:
        """What `report` says of the averaged weights."""
        self.swap()
        self.network.eval()
        seen = report(self.network)
        self.network.train()
        self.swap()
        return seen


def fit(
    name: str,
    network: Network,
    loss_of: Callable[[Network, np.random.Generator, float], Tensor],
    *,
    steps: int,
    learning_rate: float,
    work: Path,
    report: Callable[[Network], object] = lambda network: "",
    report_every: int = 500,
    groups: list[dict] | None = None,
    averaging: float = 0.999,
    save_seconds: float = 120.0,
) -> Network:
    """Trains `network` on `loss_of(network, rng, progress)` and leaves its averaged weights in it.

    Work in progress is kept in `work/<name>.pt` and continued from there; `report` sees the averaged weights.
    `groups` may give parameter groups a "rate" of their own.  Several processes (torchrun) share the batch.
    """
    several = distributed.is_initialized()
    rank, ranks = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
    groups = groups or [{"params": list(network.parameters()), "rate": 1.0}]
    run = _Run(network, groups, learning_rate, work / f"{name}.pt")
    network.train()
    shown, began, saved = None, time.time(), time.time()
    for step in range(run.start, steps):
        rng = np.random.default_rng([step, 11, rank])
        torch.manual_seed(step * ranks + rank)
        for group in run.optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate * learning_rate_factor(step, steps)
        loss = loss_of(network, rng, step / steps)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        run.step(step, averaging, ranks)
        shown = loss.item() if shown is None else 0.98 * shown + 0.02 * loss.item()
        if step % 50 == 49:
            rate = (time.time() - began) / (step + 1 - run.start)
            log.info("%s %d/%d loss %.4f, %.2f s a step", name, step + 1, steps, shown, rate)
        if rank == 0 and time.time() - saved > save_seconds:
            run.save(step + 1)
            saved = time.time()
        if rank == 0 and (step + 1) % report_every == 0 and step + 1 < steps:
            log.info("%s %d: %s", name, step + 1, run.look(report))
    if rank == 0:
        run.save(steps)
    run.swap()
    network.eval()
    log.info("%s done: %s", name, report(network))
    return network
