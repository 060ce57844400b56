"""How close solved foreground colours come to the true ones, on embedded pictures, and what each method costs.

python -m tools.benchmark_foreground [--pictures 18] [--long-side 640]
"""

import time

import cv2
import numpy as np
import pandas as pd

from config import ForegroundBenchmarkConfig, parse_cli
from utils.errors import run_script
from utils.foreground import SOFT_BAND, estimate_foreground, recomposition_error, require_method
from utils.progress import progress
from utils.synthetic import VAL_FIRST_INDEX, composite


def main() -> int:
    config = parse_cli(ForegroundBenchmarkConfig, prog="python -m tools.benchmark_foreground", description=__doc__)
    for method in config.methods:
        require_method(method)
    cv2.setNumThreads(1)
    rows = []
    for index in progress(range(config.pictures), desc="foregrounds", unit="img"):
        rows += measured(config, index)
    means = pd.DataFrame(rows).groupby("method").mean()
    print(f"mean absolute error where alpha is in {SOFT_BAND}, in levels of 255; {config.pictures} pictures")
    print(means.to_string(float_format="{:.2f}".format))
    return 0


def measured(config: ForegroundBenchmarkConfig, index: int) -> list[dict[str, str | float]]:
    """A row a method for one embedded picture, whose colours are known."""
    side = config.long_side
    truth = composite(0, VAL_FIRST_INDEX + index, height=side * 3 // 4, width=side)
    alpha = truth.alpha / np.float32(255)
    soft = (alpha > SOFT_BAND[0]) & (alpha < SOFT_BAND[1])
    rows = []
    for method in config.methods:
        if index == 0:
            estimate_foreground(truth.rgb, alpha, method=method)  # the first call may compile
        begun = time.perf_counter()
        solved = estimate_foreground(truth.rgb, alpha, method=method)
        seconds = time.perf_counter() - begun
        errors = {
            name: float(np.abs(getattr(solved, name)[soft].astype(int) - getattr(truth, name)[soft]).mean())
            for name in ("foreground", "background")
        }
        again = recomposition_error(truth.rgb, alpha, solved)
        rows.append({"method": method, **errors, "recomposition": again, "ms": seconds * 1000})
    return rows


if __name__ == "__main__":
    run_script(main)
