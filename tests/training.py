"""Shared by the tests that train: options small enough for a test, and comparing what runs leave behind."""

from pathlib import Path

import pandas as pd
import torch

# Nano at 64 px, whose last feature map is 2x2.
TINY = ["--image-size", "64", "--window-size", "2", "--decoder-width", "16", "--refiner-width", "8"]
TINY += ["--teacher-width", "8", "--num-workers", "0", "--warmup-steps", "2", "--previews", "2", "--device", "cpu"]
TIMES = ["images_per_second", "data_s", "forward_s", "backward_s", "step_s", "peak_memory_gb"]


def same(first: object, second: object) -> bool:
    """Bitwise equality of nested states."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def assert_same_runs(first: Path, second: Path) -> None:
    """Both run folders hold the same checkpoints, bit by bit, and the same rows but for times."""
    for name in ("last.pth", "best.pth", "teacher.pth"):
        states = [torch.load(folder / name, weights_only=True) for folder in (first, second)]
        for state in states:
            state.pop("config", None)  # of which the run's folder is a part
        assert states[0].keys() == states[1].keys()
        for key in states[0]:
            assert same(states[0][key], states[1][key]), (name, key)
    for name in ("log.csv", "validation.csv", "teacher.csv"):
        rows = [pd.read_csv(folder / name).drop(columns=TIMES, errors="ignore") for folder in (first, second)]
        pd.testing.assert_frame_equal(*rows, check_exact=True)
