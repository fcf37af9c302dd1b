"""The training loop: phases, accumulation, clipping, schedules, checkpoints, previews and cancelling.

It knows nothing about any method: what is trained, on what and by which loss is asked of a `Method`.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..artifact import Artifact, thumbnail_of
from ..bases.numbers import first_broken
from ..config import Job, Phase
from ..errors import LikenessError
from ..files import reading
from .checkpoint import Checkpoints, Judged, Position, Saved
from .kept_weights import PREFIX, KeptWeights
from .memory import MemoryPlan, ran_out_of_memory
from .methods.base import Method
from .observer import Critic, Losses, Observer, Progress, Stopped, tell, tell_of_checkpoint, tell_scores
from .optimiser import BY_THEMSELVES, clipped, go_on, optimizer_for, set_learning_rates
from .validation import ASKED_IN_THE_END, VALIDATIONS, PictureLosses, learned_worst

log = logging.getLogger(__name__)

LOOK_EVERY = 50  # steps after which a GPU's losses are looked at, and other processes are asked: both wait


class Trainer:
    """Runs one method through its phases."""

    def __init__(
        self,
        method: Method,
        job: Job,
        accelerator: Accelerator,
        observer: Observer,
        checkpoints: Checkpoints,
        ladder: MemoryPlan | None = None,
        critic: Critic | None = None,
    ) -> None:
        self.method = method
        self.job = job
        self.accelerator = accelerator
        self.observer = observer
        self.checkpoints = checkpoints
        self.ladder = ladder  # what to do where memory runs out; None: nothing
        self.critic = critic  # who judges pictures on the way; None: nobody
        self.best: Artifact | None = None  # the state that the critic liked best
        self._looked = 0  # the step of the critic's last look
        self.shown: np.ndarray | None = None  # (H, W, 3) uint8: the last preview
        self.phases = list(method.phases())
        self.total = sum(phase.steps for phase in self.phases)
        self._moments: Mapping[Tensor, Any] = {}  # the optimiser's, of the phase before
        self._kept: KeptWeights | None = None  # what is shown and saved, of the phase that runs
        self._unread: list[tuple[int, Losses]] = []  # of steps whose losses nobody has looked at yet
        self._saved_at = time.monotonic()
        self._began = 0  # the step that the run goes on from
        self._held_out: PictureLosses | None = None  # pictures that are not learned from

    def run(self) -> Progress:
        """Trains to the end, or until the observer stops it; says where it ended."""
        lengths = [phase.steps for phase in self.phases]
        saved = self.checkpoints.find(lengths) if self.job.resume else None
        if saved is not None:
            self._began = sum(lengths[: saved.position.phase]) + saved.position.phase_step
            if self.accelerator.is_main_process:
                tell(self.observer, f"going on from step {self._began} of {self.total}")
        progress = self._progress(0, 0)
        self._hold_out()
        for number, phase in enumerate(self.phases):
            self.method.begin_phase(phase)
            if saved is not None and number < saved.position.phase:
                continue
            progress = self._run_phase(number, phase, saved)
            saved = None
            if progress.stopped:
                break
        if not progress.stopped and hasattr(self.observer, "on_note"):
            self._say_worst()
        return progress

    def _run_phase(self, number: int, phase: Phase, saved: Saved | None) -> Progress:
        groups = self.method.parameter_groups()
        optimizer = self._optimizer(groups, phase)
        first = 0
        if saved is not None:
            first = saved.position.phase_step
            saved.restore(groups, optimizer, self._load_extra_state)
            self._recall(saved)
        model, prepared = self.accelerator.prepare(self.method, optimizer)
        progress = self._progress(number, first)
        try:
            if first and self._looked < progress.step and self._seen_enough(progress):
                return progress  # a stop had broken into that look
            for step in range(first, phase.steps):
                set_learning_rates(optimizer, phase, step, self.job.recipe)
                try:
                    losses = self._fitting_step(model, prepared, phase, step, progress)
                except Stopped:  # while something was fetched for the step
                    if not progress.step:
                        raise
                    self._checkpoint(Position(number, step), groups, optimizer)
                    return self._progress(number, step, stopped=True)
                progress = self._progress(number, step + 1)
                self.method.after_step(progress)
                last = step + 1 == phase.steps
                saving = not last and due(self.job.checkpoint_every, progress.step)
                stop = self._report(progress, losses, last or saving)
                if self._seen_enough(progress):
                    return progress
                if stop or saving:
                    self._check_losses()
                    self._checkpoint(Position(number, step + 1), groups, optimizer)
                elif not last and self._long_ago():
                    self._checkpoint(Position(number, step + 1), groups, optimizer)
                if stop and progress.step < self.total:
                    return self._progress(number, step + 1, stopped=True)
        finally:
            self._settle()
            self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            if self.accelerator.num_processes > 1:  # DDP's hooks would average gradients in later phases too
                self.accelerator.free_memory()
        self._moments = optimizer.state
        return progress

    def _optimizer(self, groups: Mapping[str, list[nn.Parameter]], phase: Phase) -> torch.optim.Optimizer:
        """The phase's, and what is kept of what it trains."""
        recipe = self.job.recipe
        small = self.ladder is not None and self.ladder.measures.small_moments
        kind = "adamw8bit" if small and recipe.optimizer == "adamw" else recipe.optimizer
        optimizer = optimizer_for(dict(groups), phase, kind)
        if phase.keeps_moments and recipe.optimizer not in BY_THEMSELVES:
            go_on(optimizer, self._moments)
        self._kept = KeptWeights(optimizer, recipe.ema)
        return optimizer

    def _load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        if self._kept is not None:
            self._kept.load_state(state)
        of_method = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
        self.method.load_extra_state(of_method)

    def _settle(self) -> None:
        """The phase is over, or the run: what is kept takes the place of what was trained."""
        if self._kept is not None:
            self._kept.settle()
            self._kept = None

    @property
    def _as_kept(self) -> AbstractContextManager[None]:
        return nullcontext() if self._kept is None else self._kept.in_place()

    def _checkpoint(
        self, position: Position, groups: Mapping[str, list[nn.Parameter]], optimizer: torch.optim.Optimizer
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        lengths = [phase.steps for phase in self.phases]
        try:
            extra, judged = dict(self.method.extra_state()), self._judged()
            extra |= {} if self._kept is None else self._kept.state()
            self.checkpoints.save(position, groups, optimizer, extra, lengths, judged)
            tell_of_checkpoint(self.observer)
        except LikenessError as error:  # a full disk: what is learned is worth more than the checkpoint
            log.warning("%s; training goes on without a checkpoint", error)
        self._saved_at = time.monotonic()

    def _long_ago(self) -> bool:
        """Whether a checkpoint is due by the clock; in the main process alone, which asks nobody about it.

        A state whose losses are no numbers is not kept: it ends the run where all processes look at them.
        """
        minutes = self.job.checkpoint_minutes
        if not minutes or time.monotonic() - self._saved_at < 60 * minutes:
            return False
        if not self.accelerator.is_main_process:
            return False
        return all(math.isfinite(loss) for _, losses in self._unread for loss in losses.values())

    def _fitting_step(
        self, model: Any, optimizer: Any, phase: Phase, step: int, progress: Progress
    ) -> Losses:
        """The step, begun again with more frugal measures wherever memory runs out in it."""
        while True:
            random = torch.get_rng_state()
            try:
                return self._step(model, optimizer, phase, step, progress)
            except RuntimeError as error:  # torch.OutOfMemoryError is one, and the CPU has none of its own
                if self.ladder is None or not ran_out_of_memory(error):
                    raise
            # only here has the failed step's memory no holder any more
            optimizer.zero_grad(set_to_none=True)
            self.ladder.step_down()
            torch.set_rng_state(random)

    def _step(self, model: Any, optimizer: Any, phase: Phase, step: int, progress: Progress) -> Losses:
        """One optimiser step; returns the mean of each loss term over its passes, which nobody waits for."""
        accelerator, passes = self.accelerator, phase.gradient_accumulation
        sums: dict[str, Tensor] = {}
        with accelerator.autocast():
            for part in range(passes):
                self.method.ensure_ready(phase, step * passes + part, self.check)
        for part in range(passes):
            rank, world = accelerator.process_index, accelerator.num_processes
            batch = self.method.shard(phase, step * passes + part, rank, world).to(accelerator.device)
            together = nullcontext() if part == passes - 1 else accelerator.no_sync(model)
            with together:
                losses = {name: loss / passes for name, loss in model(batch, progress).items()}
                accelerator.backward(torch.stack(list(losses.values())).sum())
            sums = {name: sums.get(name, 0) + loss.detach() for name, loss in losses.items()}
        losses = self._mean_over_processes(sums)
        self._unread.append((progress.step + 1, losses))
        if accelerator.device.type == "cpu":  # where looking costs nothing, no weight is spoiled
            self._check_losses()
        if phase.max_grad_norm is not None:
            accelerator.clip_grad_norm_(clipped(optimizer, phase), phase.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self._kept is not None:
            self._kept.update()
        return losses

    def _mean_over_processes(self, losses: Mapping[str, Tensor]) -> Losses:
        values = torch.stack([loss.float() for loss in losses.values()])
        values = self.accelerator.reduce(values, "mean") if self.accelerator.num_processes > 1 else values
        return Losses(list(losses), cast(Tensor, values))

    def _report(self, progress: Progress, losses: Losses, look: bool) -> bool:
        """Tells the observer, shows a preview where one is due; whether to stop.

        `look`: whether the losses must be known to be numbers now.
        """
        look = look or self.accelerator.device.type == "cpu" or due(LOOK_EVERY, progress.step)
        if self.accelerator.is_main_process:
            self.observer.on_step(progress, losses)
        every = self.job.preview_every
        if self._held_out and (
            due(max(1, self.total // VALIDATIONS), progress.step) or progress.step == self.total
        ):
            self._validate(progress, self._held_out)
        if self._draws and (due(every, progress.step) or every and progress.step == self.total):
            self._preview(progress)  # the last one shows what is kept
        if look:
            self._check_losses()
        alone = self.accelerator.num_processes == 1
        return self.should_stop() if look or alone else False

    def _check_losses(self) -> None:
        """Raises LikenessError where a loss since the last look is no number."""
        unread, self._unread = self._unread, []
        for step, losses in unread:
            wrong = [name for name, loss in losses.items() if not math.isfinite(loss)]
            if wrong:
                raise self._no_number(step, wrong)

    def _no_number(self, step: int, wrong: Sequence[str]) -> LikenessError:
        """What to say about losses that are NaN or infinite: before the first update no rate can be why."""
        named = f"the loss ({', '.join(wrong)}) is no number"
        if step > self._began + 1:
            return LikenessError(f"{named} from step {step} on; lower the learning rate")
        broken = first_broken(self.method.base)
        if broken is not None:
            return LikenessError(
                f"{named} before anything was learned: {broken} holds values that are none; get its file "
                "again"
            )
        kind = self.job.precision
        return LikenessError(
            f"{named} before anything was learned, though all weights are sound: numbers become too large "
            f"for {kind}, in the base or its VAE; learn in another precision, or name another VAE"
        )

    @property
    def _draws(self) -> bool:
        """Whether this process takes part in drawing: the main one, or all where none has all weights."""
        return self.accelerator.is_main_process or self.method.base_in_pieces

    def _check_drawing(self) -> None:
        """Raises `Stopped` when the user wants no more, unless other processes would wait for this one."""
        if not self.method.base_in_pieces:
            self.check()

    def _hold_out(self) -> None:
        """Reads the pictures that validation looks at."""
        if not self.job.hold_out:
            return
        for concept in self.method.concepts:
            if concept.held and self._measures_pictures:
                with self.accelerator.autocast():
                    self._held_out = PictureLosses(self.method, concept, concept.held)

    @property
    def _measures_pictures(self) -> bool:
        """Whether losses of single pictures can be asked for, here."""
        alike = self.method.base_in_pieces or self.job.compile  # of other sizes it would be compiled anew
        return self.method.capabilities.plain_words and self.accelerator.is_main_process and not alike

    def _validate(self, progress: Progress, pictures: PictureLosses) -> None:
        """Says the loss on held-out pictures, for what would be kept."""
        with torch.random.fork_rng(), self.accelerator.autocast(), self._as_kept:
            losses = pictures.measure()
        tell_scores(self.observer, progress, {"validation": sum(losses) / len(losses)})

    def _say_worst(self) -> None:
        """Says which of the first concept's pictures are learned worst."""
        concept = next(iter(self.method.concepts), None)
        if concept is None or len(concept.pictures) < 2 or not self._measures_pictures:
            return
        try:
            with torch.random.fork_rng(), self.accelerator.autocast():
                pictures = PictureLosses(self.method, concept, concept.pictures[:ASKED_IN_THE_END])
                tell(self.observer, learned_worst(pictures.names, pictures.measure()))
        except RuntimeError as error:  # what is learned is worth more than what can be said of it
            if not ran_out_of_memory(error):
                raise

    def _preview(self, progress: Progress) -> None:
        subject = self.job.concepts[0].token if self.job.concepts else "a person"
        prompts = (self.job.preview_prompt or "").splitlines() or [f"a photo of {subject}"]
        with torch.random.fork_rng(), self.accelerator.autocast(), self._as_kept:
            try:
                images = [self.method.preview(one, self.job.seed, self._check_drawing) for one in prompts]
            except Stopped:
                return
        if self.accelerator.is_main_process:
            self.shown = images[0]
            try:
                self.observer.on_preview(progress, tiled(images))
            except LikenessError as error:  # a full disk: what is learned is worth more than the picture
                log.warning("%s; training goes on without it", error)

    def _seen_enough(self, progress: Progress) -> bool:
        """Lets the critic look where it is due, and keeps the best state; whether it has seen enough."""
        critic = self.critic
        if critic is None or progress.phase != self.phases[-1].name:
            return False
        if not due(critic.every, progress.step) and progress.step < self.total:
            return False
        with suppress(Stopped), self._as_kept:
            if self._draws:
                with torch.random.fork_rng(), self.accelerator.autocast():
                    pictures = [self.method.preview(*shot, self._check_drawing) for shot in critic.shots]
                if self.accelerator.is_main_process and critic.consider(progress, pictures):
                    thumbnail = thumbnail_of(pictures[0])
                    self.best = replace(self.method.artifact(), steps=progress.step, thumbnail=thumbnail)
            self._looked = progress.step
        return self._agreed(critic.enough)

    def _judged(self) -> Judged | None:
        if self.critic is None:
            return None
        return Judged(step=self._looked, memory=self.critic.memory(), best=self.best)

    def _recall(self, saved: Saved) -> None:
        """The critic goes on with what it saw before the run was broken off."""
        if self.critic is None or saved.judged is None:
            return
        with reading(saved.path, saved.damaged):
            same = self.critic.recall(saved.judged.memory)
        if same:
            self.best, self._looked = saved.judged.best, saved.judged.step
        elif self.accelerator.is_main_process:
            tell(self.observer, "the likeness was judged otherwise before; looking begins anew")

    def should_stop(self) -> bool:
        """The main process's answer, in all processes."""
        return self._agreed(self.accelerator.is_main_process and self.observer.should_stop())

    def _agreed(self, answer: bool) -> bool:
        """Yes in all processes as soon as one says yes."""
        if self.accelerator.num_processes == 1:
            return answer
        together = self.accelerator.reduce(torch.tensor(float(answer), device=self.accelerator.device), "sum")
        return bool(cast(Tensor, together).item())

    def check(self) -> None:
        """Raises `Stopped` when the user wants no more of it; for work between steps."""
        if self.accelerator.is_main_process and self.observer.should_stop():
            raise Stopped(
                "stopped before the first step: nothing was learned, nothing was written; run it again"
            )

    def _progress(self, number: int, phase_step: int, stopped: bool = False) -> Progress:
        phase = self.phases[number]
        return Progress(
            phase=phase.name,
            phase_step=phase_step,
            phase_steps=phase.steps,
            step=sum(earlier.steps for earlier in self.phases[:number]) + phase_step,
            total=self.total,
            stopped=stopped,
        )


def tiled(images: Sequence[np.ndarray], across: int = 4) -> np.ndarray:
    """Pictures (H, W, 3) uint8 of one size in rows; a single one is itself."""
    if len(images) == 1:
        return images[0]
    across = min(across, len(images))
    blank = [np.full_like(images[0], 255)] * (-len(images) % across)
    tiles = [*images, *blank]
    rows = [np.concatenate(tiles[at : at + across], axis=1) for at in range(0, len(tiles), across)]
    return np.concatenate(rows)


def due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
