"""Passes over the training set: the schedule, the log, saving when it is due and stopping when it is asked for."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.distributed import Processes
from utils.errors import UserError
from utils.interruption import Interruption, end_with
from utils.learner import Dropped, Learner, Objective
from utils.names import shorten
from utils.optim import learning_rate_factor
from utils.parallel import WORKER_KILLED
from utils.progress import progress
from utils.sampler import StepSampler
from utils.seeds import seed_number


class Saving:
    """When to save besides the end of an epoch.

    Args:
        steps: After so many steps.
        seconds: Or when so much time has passed since the last time.
    """

    def __init__(self, steps: float = math.inf, seconds: float = math.inf):
        self.steps, self.seconds = steps, seconds
        self._begun = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether it is time, after this optimiser step."""
        return step % self.steps == 0 or time.monotonic() - self._begun >= self.seconds

    def done(self) -> None:
        """It was saved."""
        self._begun = time.monotonic()


@dataclass(kw_only=True)
class Trainer:
    """Trains by epochs, from wherever the learner stands.

    Attributes:
        learner: What is trained.
        loader: Batches in the order of a `StepSampler`, its batch sampler.
        objective: The loss.
        world: The processes that train together.
        title: What the progress bar calls an epoch.
        epochs: Of the whole training, which the schedule spans.
        learning_rate: Peak, for the log; the learner's groups have their own.
        warmup_steps: Steps from 0 to the peak.
        seed: Of randomness inside the network.
        log_every: Steps between rows of the log.
        log: Gets these rows, and the steps that were dropped since the last; of the first process, if anybody wants it.
        save: Keeps the state of the run; called in all processes.
        saving: When, besides the end of an epoch.
        interruption: Asks to stop.
    """

    learner: Learner
    loader: DataLoader
    objective: Objective
    world: Processes
    title: str
    epochs: int
    learning_rate: float
    warmup_steps: int
    seed: int
    log_every: int
    log: Callable[[dict[str, Any], list[Dropped]], None] | None
    save: Callable[[], None]
    saving: Saving
    interruption: Interruption

    @property
    def sampler(self) -> StepSampler:
        """Which samples make up which step."""
        return self.loader.batch_sampler

    def train_epoch(self, epoch: int) -> None:
        """Makes the steps of an epoch, counted from 0, that the learner has not made yet.

        Raises:
            KeyboardInterrupt, Terminated: It was asked to stop; the step at hand is done and saved.
        """
        learner, sampler = self.learner, self.sampler
        begin = learner.step - epoch * sampler.steps
        if begin == sampler.steps:
            return  # an epoch whose validation was interrupted
        sampler.seek(epoch, begin)
        batches = whole_batches(self.loader)
        learner.module.train()
        with progress(
            total=sampler.length,
            initial=begin * sampler.step_images,
            desc=f"{self.title} {epoch + 1}/{self.epochs}",
            unit="img",
            disable=not self.world.is_first,
        ) as bar:
            for at in range(begin, sampler.steps):
                rate = learning_rate_factor(
                    learner.step, warmup_steps=self.warmup_steps, total_steps=sampler.steps * self.epochs
                )
                # Stochastic depth draws from this generator: a function of the step, so that a resume repeats it.
                torch.manual_seed(seed_number("step", self.seed, learner.step, self.world.rank) % 2**63)
                try:
                    learner.make_step(batches, sampler.batches(at), sampler.images(at), self.objective, rate)
                except UserError:  # a file that cannot be read, say: the steps before it are not lost
                    if self.world.size == 1:  # others would wait in the middle of theirs
                        with suppress(UserError):
                            self.save()
                    raise
                bar.update(sampler.images(at))
                if learner.step % self.log_every == 0 or at == sampler.steps - 1:
                    self.report(epoch, rate, bar)
                self.save_and_stop_if_asked(due=self.saving.is_due(learner.step))

    def report(self, epoch: int, rate: float, bar: tqdm) -> None:
        """Writes a row of the log: the host waits for the device only here."""
        row, dropped = self.learner.report()
        step = self.learner.step
        if self.world.is_first:
            for each in dropped:
                tqdm.write(f"step {each.step} was dropped, it is not finite: {shorten(each.names)}")
        if self.log is not None:
            self.log({"step": step, "epoch": epoch + 1, "learning_rate": self.learning_rate * rate, **row}, dropped)
        figures = {"loss": f"{row['total']:.4f}", "lr": f"{self.learning_rate * rate:.2e}"}
        if row["images_per_second"]:
            images = (self.epochs * self.sampler.steps - step) * self.sampler.step_images
            figures["left_in_all"] = timedelta(seconds=round(images / row["images_per_second"]))
        bar.set_postfix(figures)

    def save_and_stop_if_asked(self, *, due: bool = False) -> None:
        """Saves if it is time, in all processes; a signal to one of them stops all.

        Args:
            due: Whether it is time, for one of the processes.

        Raises:
            KeyboardInterrupt, Terminated: It was asked to stop, and everything is saved.
        """
        signal, due = self.world.largest(self.interruption.signal, int(due))
        if signal or due:
            self.save()
            self.saving.done()
        if signal:
            if self.world.is_first:
                tqdm.write(f"stopped after step {self.learner.step} ({self.title}), which is saved: --resume continues")
            self.world.gather(None)  # torchrun ends all when one has ended, in the middle of saving if that takes long
            end_with(signal)


def whole_batches(loader: DataLoader) -> Iterator[Any]:
    """The loader's batches.

    Raises:
        UserError: A process of its own was killed.
    """
    try:
        yield from loader
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # what one that lives raises is passed on, with a place
            raise
        raise UserError(WORKER_KILLED) from error
