"""How well people can be learned on the Miniature: the two baselines on tuning people, with intervals."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import BaseSpec
from ..evaluation.people import all_shots, judge
from ..files import make_folder, write_atomically
from ..miniature import world
from .claims.bench import Bench, cell_digest
from .claims.statistics import confidence_interval

LEARNABILITY_PEOPLE = world.TUNING_SEEDS[
    :10
]  # settings may be chosen on them: no claim rests on these figures
SEEDS = range(3)
SECOND_SEEDS = range(2)  # of the second Miniature
LEARNABILITY_METHODS = ("dreambooth-lora", "textual-inversion")

LearnabilityCell = dict[str, float]
Key = tuple[str, int, int]  # method, person, seed


def all_cells(people: Sequence[int] = LEARNABILITY_PEOPLE, seeds: Sequence[int] = SEEDS) -> list[Key]:
    """Every run, first all people once: what is there after an interruption covers as many as possible."""
    return [(method, person, seed) for seed in seeds for person in people for method in LEARNABILITY_METHODS]


def measure_learnability(
    folder: Path,
    cells: Sequence[Key] | None = None,
    on_cell: Callable[[Key, LearnabilityCell], None] | None = None,
    base_spec: BaseSpec = BaseSpec(),  # noqa: B008 (frozen)
    **settings: Any,
) -> dict[str, Any]:
    """The card's `learnability`; runs already in `folder` (of these very weights) are not done again.

    `settings` change the methods' presets for the Miniature, which is what the card is about.
    """
    bench, by_key = Bench(folder, base_spec=base_spec), {}
    for key in cells or all_cells():
        by_key[key] = _kept(bench, key, settings)
        if on_cell is not None:
            on_cell(key, by_key[key])
    return learnability_summary(by_key, bench.base.fingerprint)


def _kept(bench: Bench, key: Key, settings: Mapping[str, Any]) -> LearnabilityCell:
    name = cell_digest("learnability", key, settings, bench.instrument)
    file = make_folder(bench.folder / "cells") / f"{name}.json"
    if not file.exists():
        cell = measure_cell(bench, *key, settings)
        with write_atomically(file) as temporary:
            temporary.write_text(json.dumps({"run": key, **cell}) + "\n")
    kept = json.loads(file.read_text())
    return {name: value for name, value in kept.items() if name != "run"}


def measure_cell(
    bench: Bench, method: str, person: int, seed: int, settings: Mapping[str, Any] | None = None
) -> LearnabilityCell:
    """One person learned once and drawn for every test prompt, beside the base's own class word.

    Identity is the recogniser's cosine to the four pictures; `scene` and `prompt` are the shares of scenes,
    and of all attributes asked for, that the reader sees.
    """
    concept = bench.person(person)
    before, after = (all_shots(subject, [seed + 1]) for subject in (f"a {concept.class_word}", concept.token))
    base_pictures = bench.draw_shots(before)  # before the clock: the base is loaded and warm
    wall, cpu = time.monotonic(), time.process_time()
    artifact = bench.learn(method, settings or {}, [concept], seed)
    took = {"seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}
    took = _training_seconds(bench, (method, person, seed), settings or {}, took)
    references = np.stack([picture.pixels for picture in concept.pictures])
    base = judge(base_pictures, references, before, bench.judges)
    learned = judge(bench.draw_shots(after, [(artifact, 1.0)]), references, after, bench.judges)
    return {
        "identity": float(learned.identity.mean()),
        "identity_base": float(base.identity.mean()),
        "identity_second": float(learned.identity_second.mean()),
        "identity_second_base": float(base.identity_second.mean()),
        "scene": learned.by_attribute["scene"],
        "scene_base": base.by_attribute["scene"],
        "prompt": float(learned.prompt.mean()),
        "prompt_base": float(base.prompt.mean()),
        **took,
    }


def _training_seconds(
    bench: Bench, key: Key, settings: Mapping[str, Any], took: LearnabilityCell
) -> LearnabilityCell:
    """How long the training took when it was really done: this time it may have been there already."""
    changed = [dict(settings)] if settings else []
    name = cell_digest(key, bench.base.fingerprint, *changed)
    file = make_folder(bench.folder / "seconds") / f"{name}.json"
    if not file.exists():
        with write_atomically(file) as temporary:
            temporary.write_text(json.dumps(took) + "\n")
    return json.loads(file.read_text())


def learnability_summary(cells: Mapping[Key, LearnabilityCell], fingerprint: str) -> dict[str, Any]:
    """Means over people with 95 % bootstrap intervals, by method, and the card's three headline figures."""
    methods: dict[str, Any] = {}
    for method in LEARNABILITY_METHODS:
        of_method = {key: cell for key, cell in cells.items() if key[0] == method}
        if of_method:
            methods[method] = _of_method(of_method)
    lora, inversion = (methods.get(method, {}) for method in LEARNABILITY_METHODS)
    return {
        "identity": lora.get("identity", {}).get("mean"),
        "scene_loss": lora.get("scene_loss", {}).get("mean"),
        "textual_inversion_gain": inversion.get("gain", {}).get("mean"),
        "fingerprint": fingerprint,
        "methods": methods,
    }


def _of_method(cells: Mapping[Key, LearnabilityCell]) -> dict[str, Any]:
    figures: dict[str, Callable[[LearnabilityCell], float]] = {
        "identity": lambda cell: cell["identity"],
        "identity_base": lambda cell: cell["identity_base"],
        "gain": lambda cell: cell["identity"] - cell["identity_base"],
        "gain_second_recogniser": lambda cell: cell["identity_second"] - cell["identity_second_base"],
        "scene_loss": lambda cell: cell["scene_base"] - cell["scene"],
        "prompt_loss": lambda cell: cell["prompt_base"] - cell["prompt"],
    }
    people = sorted({person for _, person, _ in cells})
    summary: dict[str, Any] = {}
    for name, figure in figures.items():
        by_person = [
            np.array([figure(cell) for key, cell in cells.items() if key[1] == person]) for person in people
        ]
        low, high = confidence_interval(by_person)
        mean = float(np.mean([values.mean() for values in by_person]))
        summary[name] = {"low": round(low, 3), "mean": round(mean, 3), "high": round(high, 3)}
    times = {
        name: round(float(np.median([cell[name] for cell in cells.values()])), 1)
        for name in ("seconds", "cpu_seconds")
    }
    return {**summary, **times, "people": len(people), "runs": len(cells)}
