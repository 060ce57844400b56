"""tools.benchmark_foreground: errors against known colours; a solver that knows nothing is worse."""

from collections.abc import Callable

import numpy as np
import pytest

from tools import benchmark_foreground
from utils.foreground import Colours


def errors(out: str) -> list[float]:
    """Foreground, background, recomposition, of the first method."""
    return [float(number) for number in out.splitlines()[-1].split()[1:4]]


def test_errors_are_those_of_the_method(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--methods", "blur-fusion", "--pictures", 3, "--long-side", 96)
    finished = run(benchmark_foreground.main, *arguments)
    assert finished.status == 0 and finished.created == [], finished.err
    solved = errors(finished.out)

    def naive(rgb: np.ndarray, alpha: np.ndarray, method: str) -> Colours:
        return Colours(rgb, rgb)

    monkeypatch.setattr(benchmark_foreground, "estimate_foreground", naive)
    guessed = errors(run(benchmark_foreground.main, *arguments).out)
    assert 0 < solved[0] < guessed[0] and 0 < solved[1] < guessed[1] and solved[2] < 5 and guessed[2] == 0
