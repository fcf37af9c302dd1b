"""What experiments share: the base and the judges, trainings and drawings that are done only once.

Whatever is expensive lies in the bench's folder under a digest of everything it depends on: a training of its
job, its pictures and the base's fingerprint; a drawing of its concept files, prompts, seeds and all of the
Miniature's weights. A run that was interrupted finds them there, and so do experiments that compare with the
same arm. Of the job all settings count, those of the preset included; code does not: after changing a method
or an experiment, take another folder.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from ...artifact import Artifact
from ...bases.base import BaseModel, load_base
from ...config import BaseSpec, Job, Recipe, one_of, read, settings_for
from ...data.concepts import Concept, digest, write_concept
from ...evaluation.people import DEMO_TOKEN, Shot, all_shots, concept_of, render_person
from ...evaluation.portraits import PortraitJudges
from ...files import make_folder, write_atomically
from ...identity.conditioning import IdentityConditioning
from ...inference.generate import generate
from ...miniature import model, second, world
from ...miniature.judges import Judges, load_judges
from ...training.launch import train
from .locks import held

Values: TypeAlias = float | Sequence[float]  # a sequence pairs with the other arm's, place by place
Metrics: TypeAlias = Mapping[str, Values]

BETTER = ("higher", "lower", "not lower", "not higher")
BUDGET = 1200  # pictures through the U-Net in a training, those of the class included: the same for all arms
WAIT = 2.0  # seconds between looks whether another run has finished a training
OPEN_PROMPT = "a photo of {}"  # asks for nothing: shows what comes along unasked
OPEN_SEEDS = range(1000, 1004)
_RECIPE = [entry.name for entry in fields(Recipe)]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of doing it, under a name that claims and tables use."""

    name: str
    method: str | None = None  # one of config.METHODS; None: nothing is learned, the base's class word stands
    settings: Mapping[str, Any] = field(default_factory=dict)  # changes on preset `miniature`, and a recipe's
    options: Mapping[str, Any] = field(default_factory=dict)  # for the experiment's own `measure`
    headline: bool = True  # False: an ablation, left out of --quick
    also: tuple[str, ...] = ()  # methods that measuring it trains beside its own, such as a plug-in's host
    cost: float = 1.0  # for a quick run's plan: of what other arms take at most, where it takes much longer

    @property
    def trains(self) -> tuple[str, ...]:
        """All methods whose presets its numbers depend on."""
        return (*([] if self.method is None else [self.method]), *self.also)


def arm_of(method: str, name: str, headline: bool = False, **changes: Any) -> Arm:
    """An arm that learns by this method, with these changes on its preset; an ablation unless `headline`."""
    return Arm(name=name, method=method, settings=changes, headline=headline)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of a paper as a comparison of two arms in one metric."""

    claim: str
    method: str  # an arm's name
    against: str  # an arm's name
    metric: str  # a key of what `measure` returns
    better: str = "higher"  # one of BETTER; "not lower" and "not higher": by no more than `margin`
    margin: float = 0.0

    def __post_init__(self) -> None:
        one_of("direction", self.better, BETTER)


class Experiment(Protocol):
    """A paper's claims and how one cell of its table (an arm, a person, a seed) is measured.

    A quick run begins with the arms of the first claim.
    """

    @property
    def name(self) -> str: ...

    @property
    def paper(self) -> str: ...

    @property
    def arms(self) -> Sequence[Arm]: ...

    @property
    def claims(self) -> Sequence[Claim]: ...

    def measure(self, arm: Arm, person: int, seed: int, bench: "Bench") -> Metrics:
        """The cell's metrics; `person` is a seed of `world.sample_identity`, `seed` the training's."""
        ...


class Bench:
    """Base, judges and folder of a run; `quick` asks experiments to draw fewer pictures where they can.

    `base_spec`: one of the Miniatures.
    """

    def __init__(
        self,
        folder: Path,
        *,
        quick: bool = False,
        sampling_steps: int = 25,
        base_spec: BaseSpec = BaseSpec(),  # noqa: B008 (frozen)
    ) -> None:
        self.base_spec = base_spec
        self.folder = make_folder(folder)
        self.quick = quick
        self.sampling_steps = sampling_steps
        self.drawn: list[str] = []  # files of the pictures that the current cell drew, for the report
        self._declared: tuple[str, ...] | None = None  # what may be trained now; None: anything

    @cached_property
    def base(self) -> BaseModel:
        return load_base(self.base_spec)

    @cached_property
    def judges(self) -> Judges:
        """The Miniature's own judges: recognisers, reader and parser."""
        return load_judges()

    @cached_property
    def portrait_judges(self) -> PortraitJudges:
        """What scores pictures of a person: the judges, and the image tower beside the text encoder."""
        return PortraitJudges(self.judges)

    @cached_property
    def instrument(self) -> str:
        """A digest of all of the Miniature's weights, judges included, and of the second's where it is it."""
        total, more = hashlib.sha256(), () if self.base_spec == BaseSpec() else second.SECOND_NETWORKS
        for network in (*model.NETWORKS, *more):
            file = model.weights_file(network)
            total.update(file.read_bytes() if file.exists() else b"")
        return total.hexdigest()[:16]

    @contextmanager
    def training_only(self, methods: Sequence[str]) -> Iterator[None]:
        """Meanwhile any other method's training is an error: a cell is known by the presets it declares."""
        before, self._declared = self._declared, tuple(methods)
        try:
            yield
        finally:
            self._declared = before

    # ------------------------------------------------------------------------------ what is done only once

    def learn(self, *training: Any, **more: Any) -> Artifact:
        """What `train` leaves, read."""
        return Artifact.load(self.train(*training, **more))

    def train(
        self,
        method: str,
        settings: Mapping[str, Any],
        concepts: Sequence[Concept],
        seed: int = 0,
        on: Sequence[Path] = (),
        people: Sequence[IdentityConditioning] = (),
    ) -> Path:
        """The concept file of a training with these changes on the method's preset `miniature`.

        `on`: files of `train` whose LoRAs stay applied meanwhile; `people`: whom adapters show meanwhile.
        Trains only where no earlier run with the same job, pictures and base left its file. RuntimeError for
        a method that the cell's arm does not declare.
        """
        if self._declared is not None and method not in self._declared:
            raise RuntimeError(
                f"this cell trains '{method}', which its arm does not name; add it to the arm's `also`, "
                "or its numbers would be found again after that method's preset has changed"
            )
        hosts = [*(file.name for file in on), *map(digest_of_somebody, people)]  # names are digests
        whole = resolved(method, settings, self.base_spec)
        parts = [method, whole, seed, digest(concepts), self.base.fingerprint, *hosts]
        output = self.folder / "artifacts" / f"{method}-{cell_digest('training', *parts)}.safetensors"
        while not output.exists():
            with held(self.folder / "locks", output.stem) as ours:
                if not ours:  # another run is at it
                    time.sleep(WAIT)
                    continue
                if not output.exists():
                    self._train(method, settings, concepts, seed, on, people, output)
        return output

    def _train(
        self, method: str, settings: Mapping[str, Any], concepts: Sequence[Concept], seed: int,
        on: Sequence[Path], people: Sequence[IdentityConditioning], output: Path,
    ) -> None:  # fmt: skip
        job = Job.from_json(
            {
                "method": method,
                "concepts": [{"folder": str(self._written(c)), "token": c.token} for c in concepts],
                "output": str(output),
                "on": [str(file) for file in on],
                "settings": own_settings(settings),
                "recipe": recipe_settings(settings),
                "base": asdict(self.base_spec),
                "seed": seed,
                "cache": str(self.folder / "class-pictures"),
            }
        )
        train(job, None, self.base, people=people)

    def _written(self, concept: Concept) -> Path:
        folder = self.folder / "concepts" / digest([concept])[:16]
        return folder if folder.exists() else write_concept(folder, concept)

    def pictures(self, key: object, draw: Callable[[], np.ndarray]) -> np.ndarray:
        """What `draw` gives, (N, H, W, 3) uint8, kept under `key`: all that the pictures depend on, as JSON.

        The Miniature's weights need not be named in it. For experiments that draw in their own way.
        """
        file = self.folder / "drawn" / f"{cell_digest('drawing', key, self.instrument)}.npy"
        self.drawn.append(file.name)
        if file.exists():
            return np.load(file, allow_pickle=False)
        drawn = draw()
        with write_atomically(file) as temporary:
            np.save(temporary, drawn, allow_pickle=False)
        return drawn

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        artifacts: Sequence[tuple[Artifact, float]] = (),
        people: Sequence[IdentityConditioning] = (),
        **options: Any,
    ) -> np.ndarray:
        """Pictures (N, H, W, 3) uint8 by `inference.generate`, whose further options may be given."""
        options = {"steps": self.sampling_steps, **options}
        used = [(digest_of_artifact(artifact), strength) for artifact, strength in artifacts]
        shown = [[digest_of_somebody(one) for one in people]] if people else []
        return self.pictures(
            [list(prompts), list(seeds), used, options, *shown],
            lambda: generate(
                self.base, prompts, seed=list(seeds), artifacts=artifacts, people=people, **options
            ),
        )

    # ------------------------------------------------------------------- the usual cell: one learned person

    def person(self, seed: int) -> Concept:
        """Four masked pictures of the person `seed`, under the placeholder <v0>."""
        return concept_of(seed)

    def shots(self, subject: str) -> list[Shot]:
        """The test prompts about `subject`, once; in the full run with two seeds each."""
        return all_shots(subject, (1,) if self.quick else (1, 2))

    def open_shots(self, subject: str) -> list[Shot]:
        """Pictures of `subject` that ask for nothing else."""
        return [Shot(prompt=OPEN_PROMPT.format(subject), asked={}, seed=seed) for seed in OPEN_SEEDS]

    def draw_shots(
        self, shots: Sequence[Shot], artifacts: Sequence[tuple[Artifact, float]] = (), **options: Any
    ) -> np.ndarray:
        """`draw` with the prompts and seeds of the shots."""
        return self.draw([shot.prompt for shot in shots], [shot.seed for shot in shots], artifacts, **options)

    def portrait(self, arm: Arm, person: int, seed: int, pictures: int | None = None) -> dict[str, Values]:
        """The cell of an arm that learns one person: identity, prompt, leakage, diversity, memorisation …

        `evaluation.portraits` says what each metric is. `pictures`: how many of the person's are learned
        from, while all are compared with; None: all.
        """
        concept = self.person(person)
        if arm.method is None:
            return self.portrait_of(f"a {concept.class_word}", [], concept)
        seen = replace(concept, pictures=concept.pictures[:pictures])
        learned = self.learn(arm.method, arm.settings, [seen], seed)
        return self.portrait_of(concept.token, [(learned, 1.0)], concept)

    def portrait_of(
        self,
        subject: str,
        used: Sequence[tuple[Artifact, float]],
        concept: Concept,
        people: Sequence[IdentityConditioning] = (),
    ) -> dict[str, Values]:
        """The same of pictures of `subject` drawn with these artifacts and people, compared with the
        concept's."""
        shots, unasked = self.shots(subject), self.open_shots(subject)
        drawn = self.draw_shots([*shots, *unasked], used, people=people)  # together: fuller passes
        return self.score(drawn[: len(shots)], shots, drawn[len(shots) :], concept)

    def portrait_of_the_real(self, person: int) -> dict[str, Values]:
        """The same of the renderer's own pictures of the person: what a perfect method would score."""
        shots, who = self.shots(DEMO_TOKEN), world.sample_identity(person)
        rounds = len(shots) // len(world.TEST_CONTEXTS)
        asked = self.pictures(["rendered", person, rounds], lambda: render_person(person, rounds))
        free = [world.render(who, world.sample_context(person * 64 + seed)).pixels for seed in OPEN_SEEDS]
        return self.score(asked, shots, np.stack(free), self.person(person))

    def score(
        self, pictures: np.ndarray, shots: Sequence[Shot], unasked: np.ndarray, concept: Concept
    ) -> dict[str, Values]:
        """The metrics of pictures drawn for `shots` and of those whose prompt asked for nothing."""
        return self.portrait_judges.score(pictures, shots, unasked, concept)


def resolved(method: str, settings: Mapping[str, Any], base: BaseSpec | None = None) -> dict[str, Any]:
    """All settings of a training with these changes on the method's preset for a Miniature, the first."""
    start, recipe = settings_for(method, base), recipe_settings(settings)
    whole = asdict(read(type(start), {**asdict(start), **own_settings(settings)}, "settings"))
    return whole | ({"recipe": asdict(read(Recipe, recipe, "recipe"))} if recipe else {})


def recipe_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an arm's settings that say how a run steps, such as its optimizer."""
    return {name: value for name, value in settings.items() if name in _RECIPE}


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an arm's settings that are its method's own."""
    return {name: value for name, value in settings.items() if name not in _RECIPE}


def cell_digest(*parts: object) -> str:
    """A short name for anything that goes to JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def digest_of_artifact(artifact: Artifact) -> str:
    """A short name for what a concept file holds."""
    total = hashlib.sha256(json.dumps([artifact.kind, artifact.method, artifact.settings]).encode())
    for name, tensor in sorted(artifact.tensors.items()):
        total.update(name.encode())
        total.update(np.ascontiguousarray(tensor.float().numpy()).tobytes())
    return total.hexdigest()[:24]


def digest_of_somebody(shown: IdentityConditioning) -> str:
    """A short name for somebody as an adapter shows them everywhere in a picture."""
    identity = shown.identity
    tensors = {"tokens": identity.tokens, **identity.adapter.attention.layer_weights()}
    name = digest_of_artifact(Artifact(kind="id_adapter", method="masterweaver", tensors=tensors))
    how = [shown.weight, shown.start, shown.end, dict(shown.layers)]
    return name if how == [1.0, 0.0, 1.0, {}] else cell_digest(name, how)
