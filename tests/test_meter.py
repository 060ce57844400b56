"""utils.meter: means over images, and the seconds of the parts of a step."""

import copy
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from utils import meter
from utils.distributed import Processes
from utils.meter import Meter, StepClock

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


def filled(values: np.ndarray, weights: np.ndarray) -> Meter:
    """A meter that has taken in rows of values under the names a, b, ..."""
    filled = Meter()
    for row, weight in zip(values, weights, strict=True):
        filled.add({"abc"[at]: torch.tensor(value) for at, value in enumerate(row)}, float(weight))
    return filled


def test_means_are_numpys() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(9, 3)), rng.integers(1, 5, 9)
    means = filled(values, weights).take(ALONE)
    assert means == pytest.approx(dict(zip("abc", np.average(values, axis=0, weights=weights), strict=True)), rel=1e-5)
    assert list(means) == ["a", "b", "c"]


def test_what_is_not_finite_does_not_count() -> None:
    """Neither as a value nor as a weight; the other names of its row do."""
    nan, inf = math.nan, math.inf
    values = np.array([[1.0, 2, nan], [3, nan, inf], [8, 5, -inf]])
    means = filled(values, np.array([1.0, 2, 3])).take(ALONE)
    assert means["a"] == pytest.approx((1 + 6 + 24) / 6) and means["b"] == pytest.approx((2 + 15) / 4)
    assert math.isnan(means["c"]), "nothing is no zero"


def test_weight_0_does_not_count() -> None:
    means = filled(np.array([[1.0], [100]]), np.array([2.0, 0])).take(ALONE)
    assert means == {"a": 1.0}


def test_taking_is_a_new_beginning() -> None:
    one = filled(np.array([[1.0], [3]]), np.ones(2))
    assert one.take(ALONE) == {"a": 2.0} and one.take(ALONE) == {}
    one.add({"a": torch.tensor(7.0)}, 1.0)
    assert one.take(ALONE) == {"a": 7.0}


def test_no_graph_is_kept() -> None:
    one = Meter()
    one.add({"a": torch.ones((), requires_grad=True) * 2}, 1.0)
    assert not one.sums.requires_grad


@dataclass
class OneOfTwo:
    """A process among two, which knows what the other one has."""

    rank: int
    others: Tensor
    size: int = 2
    device: torch.device = field(default=CPU)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> Tensor:
        return tensor.add_(self.others)


def test_the_first_process_has_the_mean_of_all_images() -> None:
    values, weights = np.array([[1.0, 9], [2, 8], [4, 7]]), np.array([1.0, 2, 5])
    parts = [filled(values[:2], weights[:2]), filled(values[2:], weights[2:])]
    worlds = [OneOfTwo(rank, parts[1 - rank].sums.clone()) for rank in (0, 1)]
    for part, world in zip(parts, worlds, strict=True):
        part.gather(world)
    assert not parts[1].sums.any(), "what it had has moved"
    worlds[0].others = parts[1].sums.clone()
    expected = dict(zip("ab", np.average(values, axis=0, weights=weights), strict=True))
    assert parts[0].take(worlds[0]) == pytest.approx(expected), "moved once, counted once"


def test_what_was_saved_is_continued() -> None:
    rng = np.random.default_rng(1)
    values, weights = rng.normal(size=(8, 2)), rng.integers(1, 5, 8).astype(float)
    straight = filled(values, weights)
    saved = copy.deepcopy(filled(values[:5], weights[:5]).state())
    continued = Meter()
    continued.restore(saved, ALONE)
    for row, weight in zip(values[5:], weights[5:], strict=True):
        continued.add({"a": torch.tensor(row[0]), "b": torch.tensor(row[1])}, weight)
    assert straight.take(ALONE) == continued.take(ALONE)
    empty = Meter()
    empty.restore(Meter().state(), ALONE)
    assert empty.take(ALONE) == {}


def test_only_the_first_process_takes_over_what_all_had() -> None:
    """The others have nothing, but the same names: all must take part in adding up, whenever that is."""
    saved = filled(np.array([[1.0, 2]]), np.ones(1)).state()
    other = Meter()
    other.restore(saved, OneOfTwo(1, torch.zeros(2, 2)))
    assert other.sums is not None and other.sums.shape == (2, 2) and not other.sums.any()


def test_laps_of_a_name_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.0, 13.0, 20.0, 20.5, 21.5, 24.5])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(times))
    clock = StepClock(CPU)
    clock.start()
    clock.lap("data")  # 1 s
    clock.lap("forward")  # 2 s
    clock.start()  # what passed in between belongs to nothing
    clock.lap("data")  # 0.5 s
    clock.lap("forward")  # 1 s
    clock.lap("step")  # 3 s
    assert clock.take() == {"data": 1.5, "forward": 3.0, "step": 3.0}
    assert clock.take() == {}
