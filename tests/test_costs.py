"""utils.costs: arithmetic in closed form; tools.benchmark: it measures the network that is asked for."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tools import benchmark
from utils.costs import count_gflop, peak_gb, time_calls

CPU = torch.device("cpu")


def test_arithmetic_by_part() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear, self.idle = nn.Conv2d(3, 8, 5), nn.Linear(10, 20), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.conv(x))

    network = Net()
    counted = count_gflop(network, lambda: network(torch.zeros(2, 3, 14, 14)))
    conv, linear = 2 * (2 * 8 * 10 * 10) * (3 * 5 * 5), 2 * (2 * 8 * 10) * 10 * 20
    expected = {"conv": conv / 1e9, "linear": linear / 1e9, "idle": 0.0, "total": (conv + linear) / 1e9}
    assert counted == pytest.approx(expected)


def test_times_are_medians_of_enough_calls() -> None:
    calls = []

    def run() -> None:
        calls.append(len(calls))
        time.sleep(0.05 if len(calls) in (1, 3) else 0.002)

    timing = time_calls(run, CPU, least_sec=0.0, least_calls=5)
    assert timing.calls == 5 and len(calls) == 6, "the first is not counted"
    assert 0.002 <= timing.fastest_sec <= timing.median_sec < 0.05
    assert time_calls(run, CPU, least_sec=0.03).calls > 3


def test_memory_only_grows() -> None:
    before = peak_gb(CPU)
    block = torch.ones(30_000_000)
    after = peak_gb(CPU)
    assert 0.01 < before <= after < 100 and after - before < 0.5
    del block
    assert peak_gb(CPU) >= after


def test_benchmark(run: Callable) -> None:
    arguments = ("--presets", "demo", "--sizes", "1000x800", "--seconds", 0.01, "--threads", 1)
    finished = run(benchmark.main, *arguments, "--out", "B", "--device", "cpu", "--dense")
    assert finished.status == 0, finished.err
    routed, dense = json.loads(Path("B/benchmark.json").read_text())["rows"]
    assert (routed["dense"], dense["dense"]) == (False, True)
    assert 0 < routed["refined_share"] < 0.6 and dense["refined_share"] == 1
    assert routed["refiner_gflop"] < dense["refiner_gflop"] and routed["student_gflop"] == dense["student_gflop"] > 0
    assert Path("B/benchmark.png").stat().st_size > 10_000 and "1000x800" in finished.out


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--presets", "tsr-tny"], "tsr-tny"), (["--sizes", "1024"], "WIDTHxHEIGHT"), (["--seconds", "0"], "--seconds")],
)
def test_wrong_use(refused: Callable, flags: list[str], named: str) -> None:
    assert named in refused(benchmark.main, *flags)
