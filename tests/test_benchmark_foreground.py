"""tools.benchmark_foreground: errors against known colours; a solver that knows nothing is worse."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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

    def naive(rgb: np.ndarray, alpha: np.ndarray, *, method: str) -> Colours:
        return Colours(rgb, rgb)

    monkeypatch.setattr(benchmark_foreground, "estimate_foreground", naive)
    guessed = errors(run(benchmark_foreground.main, *arguments).out)
    assert 0 < solved[0] < guessed[0] and 0 < solved[1] < guessed[1] and solved[2] < 5 and guessed[2] == 0


def test_pictures_of_ones_own(run: Callable, tmp_path: Path) -> None:
    """Two mattes, one without a soft pixel: its picture would have no error to tell."""
    ramp = np.repeat(np.linspace(0, 255, 60, dtype=np.uint8)[None], 40, axis=0)
    red, green, blue = (np.full((30, 30, 3), colour, dtype=np.uint8) for colour in np.eye(3) * 200)
    files = {
        "a/x.png": ramp,
        "a/opaque.png": np.full_like(ramp, 255),
        "f/x.png": red,
        "f/z.png": blue,
        "b/y.png": green,
    }
    for name, pixels in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    folders = [f"--{name}={tmp_path / name[0]}" for name in ("alphas", "foregrounds", "backgrounds")]
    finished = run(benchmark_foreground.main, *folders, "--methods", "foreground", "--long-side", 120, "--repeats", 2)
    assert finished.status == 0, finished.err
    assert "1 pictures" in finished.out
    foreground, background, recomposition = finished.out.splitlines()[-1].split()[1:4]
    assert float(foreground) < 3 and background == recomposition == "-"  # of blue or green it would be 133

    finished = run(benchmark_foreground.main, *folders[:2])
    assert finished.status == 2 and "give all three" in finished.err
