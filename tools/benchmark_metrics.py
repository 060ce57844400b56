"""Times every metric, alone and together, on one thread, and how well scoring processes add up.

python -m tools.benchmark_metrics --sides 1024 2048
"""

import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from config import MetricBenchmarkConfig, parse_cli
from utils.errors import run_script
from utils.metrics import MATTING
from utils.parallel import cpu_cores, ordered_map, process_pool
from utils.scoring import FAMILIES, ImageScores, score_image
from utils.synthetic import composite

MattePair = tuple[np.ndarray, np.ndarray]  # predicted and true alpha, float32 (H, W) in [0, 1]
DEFAULT = tuple(metric for metric in FAMILIES if metric != "HCE")
SETS = {metric: (metric,) for metric in FAMILIES} | {
    "matting metrics": tuple(MATTING),
    "all but HCE": DEFAULT,
    "all": FAMILIES,
}


def main() -> int:
    config = parse_cli(MetricBenchmarkConfig, prog="python -m tools.benchmark_metrics", description=__doc__)
    cv2.setNumThreads(1)
    pairs = [degraded(side) for side in config.sides]
    print(f"seconds an image, one thread, the fastest of {config.repeats}")
    print("".join([" " * 18, *(f"{f'{side}x{side}':>12}" for side in config.sides)]))
    for name, metrics in SETS.items():
        times = [fastest(partial(score_image, "", *pair, metrics=metrics), config.repeats) for pair in pairs]
        print("".join([f"{name:<18}", *(f"{seconds:12.3f}" for seconds in times)]))
    for workers in range(1, cpu_cores() + 1) if config.images else ():
        rate = throughput(pairs[0], config.images, workers)
        print(f"{workers} processes: {rate:.2f} images/s of {config.sides[0]}x{config.sides[0]}, all but HCE")
    return 0


def degraded(side: int) -> MattePair:
    """An embedded picture's alpha at that size, and the same softened, shifted and noisy."""
    alpha = cv2.resize(composite(0, 3, height=360, width=360).alpha, (side, side)) / np.float32(255)
    noise = np.random.default_rng(0).normal(0, 0.02, (side, side)).astype(np.float32)
    soft = cv2.GaussianBlur(np.roll(alpha, side // 300, axis=1), (0, 0), side / 400)
    return np.clip(soft + noise * (soft > 0) * (soft < 1), 0, 1), alpha


def fastest(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest call."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


def score(pair: MattePair) -> ImageScores:
    """What a scoring process does, but for reading files."""
    return score_image("", *pair, metrics=DEFAULT)


def throughput(pair: MattePair, images: int, workers: int) -> float:
    """Images per second of so many processes, once they run."""
    with process_pool(workers) as pool:
        for _ in ordered_map(score, [pair] * workers, executor=pool, ahead=workers):
            pass
        begun = time.perf_counter()
        for _ in ordered_map(score, [pair] * images, executor=pool, ahead=2 * workers):
            pass
        return images / (time.perf_counter() - begun)


if __name__ == "__main__":
    run_script(main)
