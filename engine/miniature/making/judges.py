"""How the judges are trained: recognisers, reader and parser, all on real renders.

Reader and parser have two strides: the second is after what the first left unseen (a sad mouth beside a
neutral one, freckles; brows and ears drawn too wide).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import judges, world
from .dataset import ATTRIBUTE_NAMES, PICTURES_EACH, Dataset
from .fitting import fit, half_precision


def roughened(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures as a generator may draw them: shifted, softened, brighter or darker, noisy."""
    side = pixels.shape[-1]
    if rng.random() < 0.6:
        small = int(side * rng.uniform(0.35, 1.0))
        pixels = F.interpolate(pixels, size=(small, small), mode="bilinear", antialias=True)
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear")
    right, down = (int(shift) for shift in rng.integers(-5, 6, 2))
    pixels = torch.roll(pixels, (down, right), (2, 3))
    pixels = pixels * rng.uniform(0.88, 1.12) + rng.uniform(-0.08, 0.08)
    return pixels + torch.randn_like(pixels) * rng.uniform(0, 0.08)


@torch.no_grad()
def recognition(network: nn.Module, data: Dataset, device: str = "cpu") -> dict[str, float]:
    """AUC, true-accept rate at 1 % false-accept, mean cosines of the same person and of strangers."""
    batches = [
        network(data.images(np.arange(s, min(s + 200, len(data))), device)) for s in range(0, len(data), 200)
    ]
    vectors = torch.cat(batches).float().cpu()
    cosine = vectors @ vectors.T
    same = data.person[:, None] == data.person[None]
    pairs = torch.ones_like(same).triu(1)
    genuine, strangers = cosine[same & pairs.bool()], cosine[~same & pairs.bool()]
    threshold = strangers.sort().values[int(0.99 * len(strangers))]
    order = torch.cat([genuine, strangers]).argsort().argsort().double()[: len(genuine)]
    auc = (order.sum() - len(genuine) * (len(genuine) - 1) / 2) / (len(genuine) * len(strangers))
    figures = {
        "auc": auc, "tar_at_1_far": (genuine > threshold).float().mean(), "same": genuine.mean(),
        "strangers": strangers.mean(), "threshold": threshold,
    }  # fmt: skip
    return {name: round(float(value), 4) for name, value in figures.items()}


def make_recogniser(
    data: Dataset, held_out: Dataset, work: Path, steps: int, batch=96, device="cpu"
) -> nn.Module:
    """The recogniser, by additive-margin softmax over all training people (CosFace, arXiv 1801.09414)."""
    torch.manual_seed(1)
    network = judges.Recogniser().to(device)
    people = len(data) // PICTURES_EACH
    centres = nn.Parameter(torch.randn(people, judges.EMBEDDING, device=device) * 0.05)
    network.centres = centres

    def loss_of(network: nn.Module, rng: np.random.Generator, progress: float) -> Tensor:
        index = rng.integers(0, len(data), batch)
        person = torch.from_numpy(index // PICTURES_EACH).to(device)
        with half_precision(device):
            vectors = network(roughened(data.images(index, device), rng))
        cosine = vectors.float() @ F.normalize(centres, dim=-1).T
        margin = 0.3 * min(1.0, progress * 3) * F.one_hot(person, people)
        return F.cross_entropy(24 * (cosine - margin), person)

    fit(
        "recogniser", network, loss_of, steps=steps, learning_rate=2e-3, work=work, averaging=0.995,
        report=lambda net: recognition(net, held_out, device), report_every=250,
    )  # fmt: skip
    del network.centres
    return network


def make_reporting(
    data: Dataset, held_out: Dataset, work: Path, steps: int, batch=32, device="cpu"
) -> nn.Module:
    """The reporting recogniser, by supervised contrast (arXiv 2004.11362): three pictures of each person."""
    torch.manual_seed(2)
    network = judges.ReportingRecogniser().to(device)
    people = len(data) // PICTURES_EACH

    def loss_of(network: nn.Module, rng: np.random.Generator, progress: float) -> Tensor:
        picked = rng.choice(people, min(batch, people), replace=False)
        index = np.concatenate(
            [person * PICTURES_EACH + rng.permutation(PICTURES_EACH)[:3] for person in picked]
        )
        with half_precision(device):
            vectors = network(roughened(data.images(index, device), rng))
        logits = (vectors.float() @ vectors.float().T) / 0.1
        person = torch.from_numpy(index // PICTURES_EACH).to(device)
        itself = torch.eye(len(index), dtype=torch.bool, device=device)
        positive = (person[:, None] == person[None]) & ~itself
        likelihood = logits - torch.logsumexp(logits.masked_fill(itself, -1e4), 1, keepdim=True)
        return -(likelihood * positive).sum(1).div(positive.sum(1)).mean()

    return fit(
        "reporting_recogniser", network, loss_of, steps=steps, learning_rate=2e-3, work=work, averaging=0.995,
        report=lambda net: recognition(net, held_out, device), report_every=250,
    )  # fmt: skip


@torch.no_grad()
def read_share(network: nn.Module, data: Dataset, device: str = "cpu") -> dict[str, float]:
    """The share of pictures whose attribute is read rightly, by attribute."""
    right = []
    for start in range(0, len(data), 200):
        index = np.arange(start, min(start + 200, len(data)))
        logits = network(data.images(index, device))
        right.append(
            torch.stack([logits[name].argmax(1).cpu() for name in ATTRIBUTE_NAMES], 1) == data.targets[index]
        )
    share = torch.cat(right).float().mean(0)
    return {name: round(float(value), 3) for name, value in zip(ATTRIBUTE_NAMES, share, strict=True)}


def make_reader(
    data: Dataset, held_out: Dataset, work: Path, steps: int, batch=64, device="cpu"
) -> nn.Module:
    """The reader: one classifier per attribute on a shared trunk."""
    torch.manual_seed(3)

    def loss_of(network: nn.Module, rng: np.random.Generator, progress: float) -> Tensor:
        index = rng.integers(0, len(data), batch)
        with half_precision(device):
            logits = network(roughened(data.images(index, device), rng))
        targets = data.targets[index].to(device)
        losses = [
            F.cross_entropy(logits[name].float(), targets[:, k]) for k, name in enumerate(ATTRIBUTE_NAMES)
        ]
        return torch.stack(losses).sum()

    return fit(
        "reader", judges.Reader().to(device), loss_of, steps=steps, learning_rate=2e-3, work=work,
        averaging=0.995,
        report=lambda net: read_share(net, held_out, device), report_every=250,
    )  # fmt: skip


WEAK = {"expression": 3.0, "freckles": 3.0, "hair_style": 2.0}  # what counts more in the second stride


def finish_reader(
    network: nn.Module, data: Dataset, held_out: Dataset, work: Path, steps: int, batch=64, device="cpu"
) -> nn.Module:
    """The reader's second stride: weak attributes count more, and half of the pictures are not roughened.

    Roughening hides freckles and the corners of mouths; the first stride never learned to see them.
    """
    importance = torch.tensor([WEAK.get(name, 1.0) for name in ATTRIBUTE_NAMES], device=device)

    def loss_of(network: nn.Module, rng: np.random.Generator, progress: float) -> Tensor:
        index = np.sort(rng.integers(0, len(data), batch))
        pixels, half = data.images(index, device), batch // 2
        with half_precision(device):
            logits = network(torch.cat([roughened(pixels[:half], rng), pixels[half:]]))
        targets = data.targets[index].to(device)
        losses = [
            F.cross_entropy(logits[name].float(), targets[:, k]) for k, name in enumerate(ATTRIBUTE_NAMES)
        ]
        return (torch.stack(losses) * importance).sum()

    return fit(
        "reader2", network.to(device), loss_of, steps=steps, learning_rate=1.5e-3, work=work, averaging=0.99,
        report=lambda net: read_share(net, held_out, device), report_every=100,
    )  # fmt: skip


@torch.no_grad()
def parsing(network: nn.Module, data: Dataset, device: str = "cpu") -> float:
    """Mean intersection over union of the parts, over pictures in which any of the two has the part."""
    index = np.arange(0, len(data), 3)
    parsed, true = network(data.images(index, device)).argmax(1), data.parts(index, device)
    overlaps = []
    for part in range(len(world.PARTS)):
        both, either = ((parsed == part) & (true == part)).sum(), ((parsed == part) | (true == part)).sum()
        overlaps.append(both / either)
    return round(float(torch.stack(overlaps).mean()), 4)


def part_weights(data: Dataset) -> Tensor:
    """How much each part counts in the parser's first stride, (P,): more the rarer it is, at most 12."""
    labels = torch.from_numpy(np.array(data.labels[:300]).ravel()).long()
    share = torch.bincount(labels, minlength=len(world.PARTS))
    return (share.sum() / share.clamp(min=1)).sqrt().clamp(max=12)


def make_parser(
    data: Dataset, held_out: Dataset, work: Path, steps: int, batch=16, device="cpu"
) -> judges.Parser:
    """The parser, by cross-entropy in which rare parts count more."""
    torch.manual_seed(4)
    weight = part_weights(data).to(device)

    def loss_of(network: nn.Module, rng: np.random.Generator, progress: float) -> Tensor:
        index = rng.integers(0, len(data), batch)
        pixels = data.images(index, device)
        pixels = pixels * rng.uniform(0.88, 1.12) + rng.uniform(-0.08, 0.08)
        pixels = pixels + torch.randn_like(pixels) * rng.uniform(0, 0.08)
        with half_precision(device):
            logits = network(pixels)
        return F.cross_entropy(logits.float(), data.parts(index, device), weight / weight.mean())

    network = judges.Parser().to(device)
    fit(
        "parser", network, loss_of, steps=steps, learning_rate=2e-3, work=work,
        averaging=0.995,
        report=lambda net: parsing(net, held_out, device), report_every=250,
    )  # fmt: skip
    return network


def finish_parser(
    network: judges.Parser, data: Dataset, held_out: Dataset, work: Path, steps: int, batch=16, device="cpu"
) -> nn.Module:
    """The parser's second stride, on overlap itself: plain cross-entropy and soft intersection over union.

    Weighted cross-entropy ends at logits of p times the weight, so that rare parts are drawn too wide: the
    weights are taken out of the last layer's bias first, which alone brings 0.02 of mean IoU.
    """
    network = network.to(device)
    with torch.no_grad():
        layer = network.last[-1]
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        layer.bias -= part_weights(data).to(device).log()

    def loss_of(network: nn.Module, rng: np.random.Generator, progress: float) -> Tensor:
        index = np.sort(rng.integers(0, len(data), batch))
        pixels, true = data.images(index, device), data.parts(index, device)
        pixels = pixels * rng.uniform(0.88, 1.12) + rng.uniform(-0.08, 0.08)
        pixels = pixels + torch.randn_like(pixels) * rng.uniform(0, 0.08)
        with half_precision(device):
            logits = network(pixels).float()
        return F.cross_entropy(logits, true) + 0.5 * (1 - soft_overlap(logits, true).mean())

    return fit(
        "parser2", network, loss_of, steps=steps, learning_rate=6e-4, work=work, averaging=0.99,
        report=lambda net: parsing(net, held_out, device), report_every=100,
    )  # fmt: skip


def soft_overlap(logits: Tensor, true: Tensor) -> Tensor:
    """Intersection over union of each part, (P,), differentiable; logits (B, P, H, W), true (B, H, W)."""
    shares = logits.softmax(1)
    truth = F.one_hot(true, shares.shape[1]).permute(0, 3, 1, 2).to(shares.dtype)
    both = (shares * truth).sum((0, 2, 3))
    either = (shares + truth - shares * truth).sum((0, 2, 3))
    return both / either.clamp(min=1)
