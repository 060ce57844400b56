"""How close solved foreground colours come to the true ones, and what each method costs.

python -m tools.benchmark_foreground [--pictures 18] [--long-side 640]
    On embedded pictures.
python -m tools.benchmark_foreground --alphas MATTES --foregrounds F --backgrounds B --long-side 3840 [--repeats 3]
    On pictures composed of real mattes and photographs. A matte takes the foreground of its own name, such as the
    colours that tools.solve_foreground found; where F has none of that name, any photograph, one after the other.

"pymatting" is its solver with its own settings, "multilevel" the same with ours; both run on one thread. "foreground"
is what predict.py calls: blur fusion of the foreground alone, on --device.
"""

import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pandas as pd
import torch

from config import ForegroundBenchmarkConfig, parse_cli
from utils.compositing import compose, cover
from utils.errors import run_script
from utils.foreground import (
    SOFT_BAND,
    Colours,
    estimate_foreground,
    foreground_colours,
    in_soft_band,
    recomposition_error,
    require_method,
)
from utils.images import quantise, read_alpha, read_rgb
from utils.inference import select_device
from utils.names import index_images
from utils.progress import progress
from utils.synthetic import VAL_FIRST_INDEX, Composite, composite


def main() -> int:
    config = parse_cli(ForegroundBenchmarkConfig, prog="python -m tools.benchmark_foreground", description=__doc__)
    if {"pymatting", "multilevel"} & set(config.methods):
        require_method("multilevel")
    device = select_device(config.device)
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(config.threads)
    rows = []
    for index, truth in enumerate(progress(pictures(config), total=config.pictures, desc="foregrounds", unit="img")):
        rows += measured(config, truth, device, warm_up=not index)
    table = pd.DataFrame(rows)
    means = table.groupby("method", sort=False).mean()
    print(f"mean absolute error where alpha is in {SOFT_BAND}, in levels of 255; time: the fastest of {config.repeats}")
    print(f"{len(table) // len(config.methods)} pictures; threads {config.threads}; device {device}")
    print(means.to_string(float_format="{:.2f}".format, na_rep="-"))
    return 0


def pictures(config: ForegroundBenchmarkConfig) -> Iterator[Composite]:
    """Pictures whose colours are known: up to `config.pictures`, those without a soft pixel left out."""
    if config.alphas is None:
        for index in range(config.pictures):
            height = config.long_side * 3 // 4
            yield composite(0, VAL_FIRST_INDEX + index, height=height, width=config.long_side)
        return
    alphas = index_images(config.alphas, "--alphas")
    foregrounds = index_images(config.foregrounds, "--foregrounds")
    backgrounds = list(index_images(config.backgrounds, "--backgrounds").values())
    any_foregrounds, made = list(foregrounds.values()), 0
    for index, (name, path) in enumerate(alphas.items()):
        alpha = quantise(read_alpha(path))
        scale = config.long_side / max(alpha.shape)
        height, width = (max(1, round(side * scale)) for side in alpha.shape)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        alpha = cv2.resize(alpha, (width, height), interpolation=how)
        if not in_soft_band(alpha / np.float32(255)).any():
            continue
        # Half the folder apart, so that one folder may be both.
        behind = backgrounds[(index + len(backgrounds) // 2) % len(backgrounds)]
        own = foregrounds.get(name, any_foregrounds[index % len(any_foregrounds)])
        foreground, background = (cover(read_rgb(file), (height, width)) for file in (own, behind))
        yield Composite(compose(foreground, background, alpha / np.float32(255)), alpha, foreground, background)
        made += 1
        if made == config.pictures:
            return


def measured(
    config: ForegroundBenchmarkConfig, truth: Composite, device: torch.device, *, warm_up: bool
) -> list[dict[str, str | float]]:
    """A row a method for one picture whose colours are known."""
    alpha = truth.alpha / np.float32(255)
    counted = in_soft_band(alpha)
    solvers: dict[str, Callable[[], Colours]] = {
        "pymatting": lambda: by_pymatting(truth.rgb, alpha),
        "multilevel": lambda: estimate_foreground(truth.rgb, alpha, method="multilevel"),
        "blur-fusion": lambda: estimate_foreground(truth.rgb, alpha, method="blur-fusion"),
        "foreground": lambda: Colours(foreground_colours(truth.rgb, alpha, device), None),
    }
    rows = []
    for method in config.methods:
        if warm_up:
            solvers[method]()  # the first call may compile
        seconds = []
        for _ in range(config.repeats):
            begun = time.perf_counter()
            solved = solvers[method]()
            seconds.append(time.perf_counter() - begun)
        row = {"method": method}
        for name, colour in solved._asdict().items():
            known = getattr(truth, name)[counted]
            row[name] = np.nan if colour is None else float(np.abs(colour[counted].astype(int) - known).mean())
        both = solved.background is not None
        row["recomposition"] = recomposition_error(truth.rgb, alpha, solved) if both else np.nan
        rows.append({**row, "ms": min(seconds) * 1000})
    return rows


def by_pymatting(rgb: np.ndarray, alpha: np.ndarray) -> Colours:
    """The solver with its own settings, to and from 8 bits."""
    from pymatting import estimate_foreground_ml  # an extra that is here: see require_method

    solved = estimate_foreground_ml(rgb * np.float32(1 / 255), alpha, return_background=True)
    return Colours(*map(quantise, solved))


if __name__ == "__main__":
    run_script(main)
