"""utils.costs: arithmetic in closed form; tools.benchmark: it measures the network that is asked for."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from config import PRESETS
from models import Refiner, Routing, TSRMatte
from tools import benchmark
from utils.costs import Stopwatch, count_gflop, peak_gb
from utils.inference import for_inference
from utils.optim import count_parameters

CPU = torch.device("cpu")


def test_arithmetic_by_part() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear, self.idle = nn.Conv2d(3, 8, 5), nn.Linear(10, 20), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.linear(self.conv(x))[..., :10])

    network = Net()
    parts = {"all": network, "conv": network.conv, "linear": network.linear, "idle": network.idle}
    counted = count_gflop(parts, lambda: network(torch.zeros(2, 3, 14, 14)))
    conv, linear = 2 * (2 * 8 * 10 * 10) * (3 * 5 * 5), 2 * 2 * (2 * 8 * 10) * 10 * 20
    expected = {"all": (conv + linear) / 1e9, "conv": conv / 1e9, "linear": linear / 1e9, "idle": 0.0}
    assert counted == pytest.approx(expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in parts.values())


def test_fused_attention_is_counted_like_any(make_network: Callable) -> None:
    network, image = make_network(), torch.zeros(1, 3, 64, 64)
    parts = {"encoder": network.student.encoder}
    in_steps = count_gflop(parts, lambda: network.student(image))
    for_inference(network, CPU)
    assert count_gflop(parts, lambda: network.student(image)) == pytest.approx(in_steps)


def test_stages_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 10.0, 14.0, 15.0, 20.0, 21.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    watch = Stopwatch(CPU)
    watch.start()  # at 0
    watch.lap("first")  # 1
    watch.lap("second")  # 3
    watch.resume()  # 10: not counted
    watch.lap("first")  # 14
    watch.start()  # 15
    watch.lap("second")  # 20
    watch.lap("second")  # 21
    assert watch.calls == [{"first": 5.0, "second": 2.0}, {"second": 6.0}]


def test_memory_only_grows() -> None:
    before = peak_gb(CPU)
    block = torch.ones(30_000_000)
    after = peak_gb(CPU)
    assert 0.01 < before <= after < 100 and after - before < 0.5
    del block
    assert peak_gb(CPU) >= after


def test_benchmark(run: Callable) -> None:
    arguments = ("--presets", "demo", "--sizes", "500x400", "--seconds", 0.01, "--threads", 1)
    finished = run(benchmark.main, *arguments, "--out", "B", "--device", "cpu", "--dense")
    assert finished.status == 0, finished.err
    routed, dense = json.loads(Path("B/benchmark.json").read_text())["rows"]
    assert (routed["dense"], dense["dense"]) == (False, True)
    assert 0.1 < routed["refined_share"] < routed["work_share"] < 0.7
    assert dense["refined_share"] == dense["work_share"] == 1
    assert routed["refiner_gflop"] / dense["refiner_gflop"] == pytest.approx(routed["work_share"], rel=0.02)
    for name in ("encoder_gflop", "decoder_gflop", "encoder_parameters", "decoder_parameters", "refiner_parameters"):
        assert routed[name] == dense[name] > 0
    network = TSRMatte(**{**asdict(PRESETS["demo"]().model), "pretrained": False})
    assert sum(routed[f"{part}_parameters"] for part in benchmark.PARTS) == count_parameters(network) / 1e6
    for row in (routed, dense):
        shares = [row[f"{stage}_share"] for stage in benchmark.STAGES]
        assert min(shares) > 0 and sum(shares) == pytest.approx(1)
        assert row["calls"] >= 9 and row["images_per_second"] == pytest.approx(1 / row["seconds"])
        assert 0.1 < row["loaded_gb"] <= row["peak_gb"]
    assert Path("B/benchmark.png").stat().st_size > 10_000 and "500x400" in finished.out


def test_as_much_is_refined_as_in_photographs() -> None:
    """Of photographs, pixels that are uncertain touch these shares of 32-px tiles, by the long side."""
    preset = PRESETS["tsr"]()
    refiner, routing = Refiner(8, preset.model.refiner_blocks), Routing(**asdict(preset.routing))
    predictor = SimpleNamespace(network=SimpleNamespace(refiner=refiner), routing=routing)
    pictures = benchmark.drawn_pictures(1024, 768)
    for long_side, least, most in ((1024, 0.21, 0.34), (2048, 0.12, 0.25), (4096, 0.08, 0.18)):
        shares = [
            benchmark.refined_shares(
                predictor,
                benchmark.expected_error(matte, (preset.data.image_size,) * 2),
                (long_side * 3 // 4, long_side),
            )
            for _, matte in pictures
        ]
        refined, work = np.mean(shares, axis=0)
        assert least < refined < most and refined < work < 1.6 * refined, long_side


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--presets", "tsr-tny"], "tsr-tny"), (["--sizes", "1024"], "WIDTHxHEIGHT"), (["--seconds", "0"], "--seconds")],
)
def test_wrong_use(refused: Callable, flags: list[str], named: str) -> None:
    assert named in refused(benchmark.main, *flags)
