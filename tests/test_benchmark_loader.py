"""tools.benchmark_loader: it measures what training does; the times themselves are nobody's test."""

from collections.abc import Callable
from pathlib import Path

from tools import benchmark_loader


def rows(out: str) -> dict[str, list[float]]:
    """The table: name to numbers, headings aside."""
    lines = (line.rsplit(maxsplit=len(out.splitlines()[1].split(" x ")) - 1) for line in out.splitlines()[2:])
    return {name.strip(): [float(number) for number in numbers] for name, *numbers in lines}


def test_made_photographs(run: Callable) -> None:
    arguments = ("--long-sides", 80, 40, "--image-size", 32, "--samples", 2, "--workers", 1)
    finished = run(benchmark_loader.main, *arguments)
    assert finished.status == 0 and finished.created == [], finished.err
    table = rows(finished.out)
    assert all(len(numbers) == 2 and min(numbers) >= 0 for numbers in table.values()), table
    stages = {"read the image", "read the alpha", "crop and resize image and alpha", "squares at native resolution"}
    wholes = {"sample, photograph", "sample, composite", "images/s, 1 workers", "images/s, 1 workers, half composites"}
    assert stages | wholes | {"blur, colour, noise, JPEG"} <= table.keys()


def test_ones_own_photographs(run: Callable, tmp_path: Path, write_pairs: Callable) -> None:
    write_pairs(tmp_path / "mine/train", {"a": (40, 50), "b": (30, 30)})
    arguments = ("--data-root", tmp_path / "mine", "--image-size", 32, "--samples", 2, "--workers", 1)
    finished = run(benchmark_loader.main, *arguments)
    assert finished.status == 0 and str(tmp_path / "mine") in finished.out
