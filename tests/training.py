"""Shared by the tests that train: options small enough for a test, and ending and comparing runs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from config import PRESETS

# Nano at 64 px, whose last feature map is 2x2.
TINY = ["--image-size", "64", "--window-size", "2", "--decoder-width", "16", "--num-workers", "0"]
TINY += ["--warmup-steps", "2", "--previews", "2", "--device", "cpu"]
TIMES = ["images_per_second", "data_s", "forward_s", "backward_s", "step_s", "peak_memory_gb"]


def tiny(*arguments: object, preset: str = "demo") -> list[str]:
    """A preset made small by `TINY`, and arguments: of those that set the same, which a user may not, the last.

    Settings of a teacher are left out where there is none.
    """
    words = list(map(str, arguments))
    of_preset = PRESETS[preset]()
    small = list(TINY)
    if of_preset.model.refiner and "--no-refiner" not in words:
        small += ["--refiner-width", "8"]
    if of_preset.teacher.teacher == "cnn" and "--teacher" not in words:
        small += ["--teacher-width", "8"]
    given: dict[str, list[str]] = {}
    for word in [*small, *words]:
        if word.startswith("--"):
            given[word.replace("--no-", "--")] = values = []
        values.append(word)
    if given.get("--teacher", ["", of_preset.teacher.teacher])[-1] == "none":  # these are refused without one
        given = {flag: values for flag, values in given.items() if not flag.startswith("--teacher-")}
    return [preset, *(word for values in given.values() for word in values)]


def same(first: object, second: object) -> bool:
    """Bitwise equality of nested states."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def assert_same_runs(first: Path, second: Path, *, taught: bool = True) -> None:
    """Both run folders hold the same checkpoints, bit by bit, and the same rows but for times.

    Args:
        first: One of them.
        second: The other.
        taught: Whether there was a teacher.
    """
    for name in ("last.pth", "best.pth", *(["teacher.pth"] if taught else [])):
        states = [torch.load(folder / name, weights_only=True) for folder in (first, second)]
        for state in states:
            state.pop("config", None)  # of which the run's folder is a part
        assert states[0].keys() == states[1].keys()
        for key in states[0]:
            assert same(states[0][key], states[1][key]), (name, key)
    for name in ("log.csv", "validation.csv", *(["teacher.csv"] if taught else [])):
        rows = [pd.read_csv(folder / name).drop(columns=TIMES, errors="ignore") for folder in (first, second)]
        pd.testing.assert_frame_equal(*rows, check_exact=True)


class Stopped(BaseException):
    """As if the process ended here: nothing that comes after it happens."""


def stop_at(patch: pytest.MonkeyPatch, owner: object, name: str, call: int = 1) -> None:
    """The n-th call of a function, from 1, never happens, nor what would come after it."""
    original, calls = getattr(owner, name), []

    def function(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise Stopped
        return original(*arguments, **options)

    patch.setattr(owner, name, function)


@contextlib.contextmanager
def stopped_at(owner: object, name: str, call: int = 1) -> Iterator[None]:
    """Around a run that the n-th call of a function ends."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, owner, name, call)
        with pytest.raises(Stopped):
            yield
