"""utils.trainer: epochs that go on anywhere, saving when it is due, stopping when it is asked for."""

import copy
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from training import same

import train
from config import demo
from utils import trainer as trainer_module
from utils.distributed import Processes
from utils.errors import Terminated, UserError
from utils.interruption import Interruption
from utils.learner import Learner
from utils.optim import learning_rate_factor
from utils.sampler import StepSampler
from utils.seeds import seeded_rng
from utils.trainer import Saving, Trainer, whole_batches

ALONE = Processes(0, 1, torch.device("cpu"))
LENGTH, STEP_IMAGES = 11, 4  # three steps an epoch
STEPS, EPOCHS = 3, 3
COSTS = ("images_per_second", "data_s", "forward_s", "backward_s", "step_s", "peak_memory_gb")


class Item(NamedTuple):
    """A row and its name."""

    x: Tensor
    name: str


class Rows(Dataset[Item]):
    """Rows that are a function of their key."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, key: tuple[int, int]) -> Item:
        return Item(torch.from_numpy(seeded_rng(*key).normal(size=3)).float(), f"{key[0]}.{key[1]}")


class Killed(Rows):
    """Its process ends as it does when the system is out of memory."""

    def __getitem__(self, key: tuple[int, int]) -> Item:
        os.kill(os.getpid(), signal.SIGKILL)


class Broken(Rows):
    """Raises in the process that reads."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, key: tuple[int, int]) -> Item:
        raise self.error


def objective(module: nn.Module, batch: Item) -> dict[str, Tensor]:
    return {"total": (module(batch.x) - batch.x.sum(1, keepdim=True)).square().mean()}


def make_loader(dataset: Dataset, num_workers: int = 0) -> DataLoader:
    """As train.py's."""
    sampler = StepSampler(LENGTH, seed=1, batch_size=2, step_images=STEP_IMAGES)
    config = replace(demo(), run=replace(demo().run, num_workers=num_workers))
    return DataLoader(dataset, batch_sampler=sampler, **train.loading(config, ALONE))


class Run:
    """A trainer of a network with dropout, and what it logs and saves."""

    def __init__(self, *, num_workers: int = 0, **changes: Any):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        group = {"params": list(module.parameters()), "lr": 0.1, "peak": 0.1}
        self.learner = Learner(module, [group], world=ALONE, precision="fp32", clip_norm=1.0, max_dropped_steps=3)
        # No part of it refers to the whole: a loader ends its processes in time only if no collector has to find it.
        learner, rows, saved = self.learner, [], []
        self.rows: list[dict[str, Any]] = rows
        self.saved: list[dict[str, Any]] = saved
        self.interruption = Interruption()
        options: dict[str, Any] = {
            "learner": self.learner,
            "loader": make_loader(Rows(), num_workers),
            "objective": objective,
            "world": ALONE,
            "title": "epoch",
            "epochs": EPOCHS,
            "learning_rate": 0.1,
            "warmup_steps": 2,
            "seed": 4,
            "log_every": 2,
            "log": lambda row, dropped: rows.append({k: v for k, v in row.items() if k not in COSTS}),
            "save": lambda: saved.append(copy.deepcopy(learner.state())),
            "saving": Saving(),
            "interruption": self.interruption,
        }
        self.trainer = Trainer(**{**options, **changes})

    def from_step(self, state: dict[str, Any]) -> "Run":
        self.learner.restore(copy.deepcopy(state), {}, "last.pth")
        return self

    def go(self) -> "Run":
        """To the end, from wherever it stands."""
        for epoch in range(self.learner.step // STEPS, EPOCHS):
            self.trainer.train_epoch(epoch)
        return self


@pytest.fixture(scope="module")
def straight() -> Run:
    return Run(saving=Saving(steps=1)).go()


def test_the_log_has_a_row_every_so_many_steps_and_at_the_end_of_an_epoch(straight: Run) -> None:
    assert [(row["step"], row["epoch"]) for row in straight.rows] == [
        (2, 1), (3, 1), (4, 2), (6, 2), (8, 3), (9, 3)
    ]  # fmt: skip
    rates = [0.1 * learning_rate_factor(row["step"] - 1, warmup_steps=2, total_steps=9) for row in straight.rows]
    assert [row["learning_rate"] for row in straight.rows] == rates
    assert all(math.isfinite(row["total"]) for row in straight.rows)


@pytest.mark.parametrize("step", range(STEPS * EPOCHS))
def test_an_epoch_is_continued_in_its_middle(straight: Run, step: int) -> None:
    """Bit by bit, dropout included: what a step draws is a function of its number."""
    begun = Run().from_step(straight.saved[step])
    torch.manual_seed(step)  # what happened in the process before
    continued = begun.go()
    assert continued.learner.step == straight.learner.step
    assert same(continued.learner.state(), straight.learner.state())
    assert continued.rows == [row for row in straight.rows if row["step"] > step + 1]


def test_workers_change_nothing(straight: Run) -> None:
    """Neither what is drawn at the first step of an epoch, nor at that of a resume."""
    assert same(Run(num_workers=2).go().learner.state(), straight.learner.state())
    assert same(Run(num_workers=2).from_step(straight.saved[3]).go().learner.state(), straight.learner.state())


def test_what_a_step_draws_depends_on_seed_and_process(straight: Run) -> None:
    for change in ({"seed": 5}, {"world": Processes(1, 1, ALONE.device)}):
        assert not same(Run(**change).go().learner.module.state_dict(), straight.learner.module.state_dict())


def test_an_epoch_whose_validation_was_interrupted_is_not_made_again(straight: Run) -> None:
    run = Run().from_step(straight.saved[STEPS - 1])
    run.trainer.train_epoch(0)
    assert run.learner.step == STEPS and not run.rows and not run.saved


def test_each_file_is_seen_once_an_epoch() -> None:
    seen = []

    def noted(module: nn.Module, batch: Item) -> dict[str, Tensor]:
        seen.extend(batch.name)
        return objective(module, batch)

    Run(objective=noted).go()
    for epoch in range(EPOCHS):
        assert sorted(seen[epoch * LENGTH :][:LENGTH]) == sorted(f"{epoch}.{at}" for at in range(LENGTH))
    assert len(seen) == EPOCHS * LENGTH


def test_dropped_steps_reach_the_log() -> None:
    told = []

    def poisoned(module: nn.Module, batch: Item) -> dict[str, Tensor]:
        return {"total": objective(module, batch)["total"] * (math.nan if "1.7" in batch.name else 1)}

    Run(objective=poisoned, log=lambda row, dropped: told.append((row["dropped_steps"], dropped))).go()
    assert sum(count for count, _ in told) == 1
    ((dropped,),) = (steps for _, steps in told if steps)
    assert STEPS < dropped.step <= 2 * STEPS and "1.7" in dropped.names and len(dropped.names) <= 2


# ------------------------------------------------------------------------------------------------------------
# Saving


def test_saving_after_so_many_steps(straight: Run) -> None:
    assert [Saving(steps=3).is_due(step) for step in range(1, 8)] == [False, False, True, False, False, True, False]
    assert not any(Saving().is_due(step) for step in range(1, 8)), "at the end of an epoch only"
    run = Run(saving=Saving(steps=4)).go()
    assert [state["step"] for state in run.saved] == [4, 8]
    assert same(run.saved, [straight.saved[3], straight.saved[7]])


def test_saving_after_so_much_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: now)

    def due_at(second: float) -> bool:
        nonlocal now
        now = second
        return saving.is_due(1)

    saving = Saving(seconds=60)
    assert [due_at(second) for second in (159, 160, 200)] == [False, True, True]
    saving.done()
    assert [due_at(second) for second in (259, 260)] == [False, True], "the time counts from the last save"

    def slow(module: nn.Module, batch: Item) -> dict[str, Tensor]:
        nonlocal now
        now += 10  # 20 s a step of two batches
        return objective(module, batch)

    run = Run(objective=slow, saving=Saving(seconds=50)).go()
    assert [state["step"] for state in run.saved] == [3, 6, 9]


# ------------------------------------------------------------------------------------------------------------
# Signals


def signalled(at_batch: int, *numbers: int) -> Callable[[nn.Module, Item], dict[str, Tensor]]:
    """The objective, in the middle of which these signals arrive, in one of its batches."""
    batches = 0

    def objective_(module: nn.Module, batch: Item) -> dict[str, Tensor]:
        nonlocal batches
        batches += 1
        for number in numbers if batches == at_batch else ():
            signal.raise_signal(number)
        return objective(module, batch)

    return objective_


@pytest.mark.parametrize(
    ("number", "stop"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)], ids=["TERM", "INT"]
)
@pytest.mark.parametrize("at_batch", [1, 3, 5, 6])
def test_a_signal_lets_the_step_end_and_saves(
    straight: Run, number: int, stop: type[BaseException], at_batch: int
) -> None:
    """F13. Batches 3 and 5 are in the middle, 6 is the end of an epoch; the rest is made by a resume."""
    run = Run(objective=signalled(at_batch, number))
    before = signal.getsignal(number)
    with pytest.raises(stop), run.interruption:
        run.go()
    assert signal.getsignal(number) == before
    assert run.learner.step == (at_batch + 1) // 2
    assert same(run.saved, [straight.saved[run.learner.step - 1]]), "saved once, after the step"
    assert same(Run().from_step(run.saved[0]).go().learner.state(), straight.learner.state())


def test_a_second_ctrl_c_ends_at_once() -> None:
    run = Run(objective=signalled(3, signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), run.interruption:
        run.go()
    assert run.learner.step == 1 and not run.saved, "the step at hand is neither ended nor saved"


@dataclass(frozen=True)
class WithAnother(Processes):
    """A process beside another, which has been asked to stop and finds that it is time to save."""

    asked: tuple[int, int] = (0, 0)

    def largest(self, *numbers: int) -> tuple[int, ...]:
        return tuple(max(pair) for pair in zip(numbers, self.asked, strict=True))


def test_what_one_process_is_asked_for_all_do() -> None:
    """F14, without the other one: test_distributed.py has two."""
    run = Run(world=WithAnother(0, 1, ALONE.device, asked=(0, 1)))
    run.trainer.train_epoch(0)
    assert [state["step"] for state in run.saved] == [1, 2, 3]
    run = Run(world=WithAnother(0, 1, ALONE.device, asked=(signal.SIGTERM, 0)))
    with pytest.raises(Terminated):
        run.go()
    assert [state["step"] for state in run.saved] == [1]


# ------------------------------------------------------------------------------------------------------------
# Processes that read


def test_a_killed_worker_is_told_in_plain_words() -> None:
    """F16."""
    run = Run(loader=make_loader(Killed(), num_workers=1))
    with pytest.raises(UserError, match=r"killed.*memory.*--num-workers"):
        run.go()
    assert run.learner.step == 0


def test_an_error_in_a_worker_stays_what_it_is() -> None:
    """Torch speaks of a worker then, too."""
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(whole_batches(make_loader(Broken(RuntimeError("shapes do not fit")), num_workers=1)))
    with pytest.raises(UserError, match=r"leaf\.png: truncated"):
        list(whole_batches(make_loader(Broken(UserError("leaf.png: truncated")), num_workers=1)))
