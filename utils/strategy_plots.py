"""What the study of strategies shows: its table, convergence, bands around the edge, and the strategies in pictures."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from utils.boundary import edge_distance
from utils.gallery import error_heat
from utils.images import quantise, read_alpha, read_rgb
from utils.inference import Predictor, load_model, predict_alpha
from utils.metrics import sad
from utils.pairs import Pair
from utils.plots import (
    COARSE,
    INK,
    REFERENCE,
    REFINED,
    draw_frame,
    style_axes,
    use_log_scale,
    write_figure,
    write_on,
)
from utils.refinement_plots import best_window
from utils.scoring import BAND_RADII_PX
from utils.shrinking import shrink, shrunk_size
from utils.strategies import ARMS, DENSE, STRATEGIES, Run

SCORES = {  # of the table: score to heading and factor
    "SAD": ("SAD", 1),
    "SAD_band3": ("SAD, 3 px", 1),
    "SAD_band10": ("SAD, 10 px", 1),
    "SAD_band30": ("SAD, 30 px", 1),
    "MSE": ("MSE, 1e-3", 1000),
    "MSE_band3": ("MSE, 3 px, 1e-3", 1000),
    "Grad": ("Grad", 1),
    "Conn": ("Conn", 1),
    "fog": ("fog, %", 100),
    "sharpness": ("sharpness", 1),
    "edge_length": ("edge length", 1),
}
PALETTE = (
    *(REFERENCE, COARSE, REFINED, "#8b3a62", "#3a9d5d", "#c97b3a", "#6b5fa8", "#b0475a", "#4f7942"),
    *TABLEAU_COLORS.values(),  # for arms to come
)
COLOURS = dict(zip([*ARMS, DENSE], cycle(PALETTE)))
RATIOS = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10)
BANDS = {"MSE": "whole image", "MSE_band30": "30 px", "MSE_band10": "10 px", "MSE_band3": "3 px"}
ABOUT = """# Strategies and switches

By `python -m tools.study`; the JSON beside it has command, commits and versions. Means over seeds, ± their standard
deviation. SAD, Grad, Conn: sum / 1000; 3, 10, 30 px: within so much of the true edge. SAD, of the baseline's: the mean
of the ratios of those seeds that both have, by which to compare arms of few seeds. Fog: of the pixels further than 3 px
from the true edge, those that are neither transparent nor opaque. Sharpness: steepness within 3 px of it, as a share of
the truth's. Edge length: of the mask, as a multiple of the truth's. From which epoch on: the validation SAD stays at or
below the last one of the baseline of the same seed.
"""
SHOWN_EPOCHS = (1, 2, 5)  # in the table of convergence
CROP_SHARE, NEAR_SHARE = 0.3, 0.03  # of a picture's shorter side: a part's side, and what counts as near the edge
CELL_PX, GAP_PX, HEAD_PX, DPI = 280, 6, 34, 130


def as_markdown(rows: Sequence[Mapping[str, Any]], images: Mapping[str, int]) -> str:
    """Tables, two for each data: scores at the end, and how soon they are reached.

    Cells are the mean and, after a plus-minus sign, the standard deviation over the seeds.
    """
    parts = [ABOUT]
    ratios = of_baseline(rows, ["SAD"])
    for data, of_data in pd.DataFrame(rows).groupby("data", sort=False):
        parts += [f"## {data}: {images[data]} pictures that no network was trained on", ""]
        headings = [heading for heading, _ in SCORES.values()]
        parts += ["| " + " | ".join(["arm", "seeds", "SAD, of the baseline's", *headings]) + " |"]
        parts += ["|---|" + "---|" * (len(headings) + 2)]
        for arm in sorted(of_data["arm"].unique(), key=list(COLOURS).index):
            runs = of_data[of_data["arm"] == arm]
            ratio = ratios.loc[(ratios["data"] == data) & (ratios["arm"] == arm), "SAD"]
            cells = [_spread(ratio), *(_spread(factor * runs[score]) for score, (_, factor) in SCORES.items())]
            parts += [f"| {arm} | {len(runs)} | {' | '.join(cells)} |"]
        parts += ["", *_convergence(of_data), ""]
    return "\n".join(parts)


def of_baseline(rows: Sequence[Mapping[str, Any]], scores: Sequence[str]) -> pd.DataFrame:
    """Scores as multiples of the baseline's of the same data and seed, as some seeds are kinder than others.

    Returns:
        Columns data, seed, arm and the scores; without the rows that have no such baseline.
    """
    table = pd.DataFrame(rows).set_index(["data", "seed"])
    baseline = table.loc[table["arm"] == "baseline", [*scores]].astype(float)
    ratios = table[[*scores]].astype(float) / baseline.reindex(table.index)
    return ratios.assign(arm=table["arm"]).dropna().reset_index()


def _convergence(rows: pd.DataFrame) -> list[str]:
    """A table: validation SAD after the first epochs, and from which epoch on it is the baseline's last or less."""
    curves = {
        arm: {row.seed: pd.DataFrame(row.validation).set_index("epoch")["SAD"] for row in runs.itertuples()}
        for arm, runs in rows[rows["arm"] != DENSE].groupby("arm")
    }
    epochs = next(iter(next(iter(curves.values())).values())).index
    shown = [epoch for epoch in SHOWN_EPOCHS if epoch in epochs]
    goals = {seed: curve.iloc[-1] for seed, curve in curves.get("baseline", {}).items()}
    heading = [
        "arm", *(f"SAD after epoch {epoch}" for epoch in shown), f"from which of {len(epochs)} epochs on, by seed",
    ]  # fmt: skip
    lines = ["| " + " | ".join(heading) + " |", "|---|" + "---|" * (len(heading) - 1)]
    for arm in sorted(curves, key=list(COLOURS).index):
        cells = [_spread(pd.Series([curve[epoch] for curve in curves[arm].values()])) for epoch in shown]
        stays = [_stays(curve, goals[seed]) for seed, curve in curves[arm].items() if seed in goals]
        lines.append("| " + " | ".join([arm, *cells, ", ".join(stays) or "-"]) + " |")
    return lines


def _stays(curve: pd.Series, goal: float) -> str:
    """From which epoch on no value is above the goal, "-" if the last one is."""
    left = curve.index[curve[::-1].cummax()[::-1] <= goal]
    return f"{left[0]:.0f}" if len(left) else "-"


def _spread(values: pd.Series) -> str:
    values = values.astype(float)
    return "-" if values.empty else f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def save_convergence(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the validation SAD by epoch, a panel for each data: the mean over the seeds, and all between their ends."""
    table = pd.DataFrame([
        {"data": row["data"], "arm": row["arm"], "seed": row["seed"], "epoch": each["epoch"], "SAD": each["SAD"]}
        for row in rows if row["arm"] != DENSE for each in row["validation"]
    ])  # fmt: skip
    names = list(table["data"].unique())
    figure = Figure(figsize=(0.6 + 5.0 * len(names), 4.2), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for arm in (arm for arm in COLOURS if arm in table["arm"].unique()):
            chosen = table[(table["data"] == name) & (table["arm"] == arm)].groupby("epoch")["SAD"]
            width = 2.2 if arm in STRATEGIES else 1.0
            line = {"lw": width, "ls": "-" if arm in STRATEGIES else "--", "marker": "o", "ms": 1.5 * width}
            axes.plot(chosen.mean(), color=COLOURS[arm], label=arm, **line)
            if arm in STRATEGIES:
                axes.fill_between(chosen.min().index, chosen.min(), chosen.max(), color=COLOURS[arm], alpha=0.15, lw=0)
        use_log_scale(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        style_axes(axes, name, "epoch")
    panels[0].set_ylabel("validation SAD (sum / 1000), mean over seeds", fontsize=8, color=INK)
    panels[-1].legend(fontsize=7, frameon=False)
    write_figure(path, figure)


def save_bands(path: Path, rows: Sequence[Mapping[str, Any]], held_out: Mapping[str, Sequence[Pair]]) -> None:
    """Draws each arm's MSE as a multiple of the baseline's, over the whole image and ever closer to the edge.

    Most pixels are easy: what happens at the edge hardly shows in a mean over all of them. Bars are means over the
    seeds, thin lines the seeds' ends. Nothing is drawn where no arm can be compared with a baseline.

    Args:
        path: The PNG.
        rows: From `utils.strategies.gather`.
        held_out: The pictures, by data.
    """
    table = of_baseline(rows, [*BANDS])
    names = list(table.loc[~table["arm"].isin(("baseline", DENSE)), "data"].unique())
    if not names:
        return
    figure = Figure(figsize=(0.6 + 5.4 * len(names), 4.0), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        by_arm = table[table["data"] == name].groupby("arm")[[*BANDS]]
        mean, low, high = by_arm.mean(), by_arm.min(), by_arm.max()
        arms = [arm for arm in COLOURS if arm in by_arm.groups and arm not in ("baseline", DENSE)]
        for index, arm in enumerate(arms):
            places = np.arange(len(BANDS)) + (index - (len(arms) - 1) / 2) * 0.84 / len(arms)
            axes.bar(places, mean.loc[arm] - 1, 0.79 / len(arms), bottom=1, color=COLOURS[arm], label=arm)
            axes.vlines(places, low.loc[arm], high.loc[arm], color=INK, lw=0.8)
        axes.axhline(1, color=INK, lw=0.8)
        shares = [1.0, *reversed(band_shares(held_out[name]))]
        labels = [f"{band}\n{share:.0%} of pixels" for band, share in zip(BANDS.values(), shares, strict=True)]
        axes.set_xticks(np.arange(len(BANDS)), labels)
        use_log_scale(axes)
        axes.yaxis.set_major_locator(FixedLocator(RATIOS))
        style_axes(axes, name, "where the error is measured: distance from the true edge")
        axes.grid(visible=False, axis="x")
    panels[0].set_ylabel("MSE, as a multiple of the same seed's baseline", fontsize=8, color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    write_figure(path, figure)


def band_shares(pairs: Sequence[Pair]) -> list[float]:
    """Mean shares of pictures' pixels that are at most as far from the true edge as each of `BAND_RADII_PX`."""
    distances_px = (edge_distance(read_alpha(pair.alpha)) for pair in pairs)
    return np.mean([[(each <= radius).mean() for radius in BAND_RADII_PX] for each in distances_px], axis=0).tolist()


def save_compared(path: Path, runs: Mapping[str, Mapping[str, Run]], held_out: Mapping[str, Sequence[Pair]]) -> None:
    """Draws strategies beside each other: image, truth, each alpha, each error; below each picture a part of it.

    Of each data it is the `typical` picture. The part is where the first and the last strategy differ most at the edge.

    Args:
        path: The PNG.
        runs: Of one seed, by data and arm; the same arms of each.
        held_out: The pictures, by data.
    """
    shown = []
    for data, of_data in runs.items():
        predictors = {arm: load_model(run.folder / "last.pth") for arm, run in of_data.items()}
        picture, found = typical(held_out[data], predictors)
        shown.append((picture, f"median of {found} of {len(held_out[data])}"))
    arms = list(next(iter(runs.values())))
    columns = ["image", "true alpha", *arms, *(f"error, {arm}" for arm in arms)]
    width = len(columns) * (CELL_PX + GAP_PX) + GAP_PX
    tall = [round(min(1.0, each.alpha.shape[0] / each.alpha.shape[1]) * CELL_PX) for each, _ in shown]
    height = HEAD_PX + sum(tall) + len(shown) * (CELL_PX + 4 * GAP_PX)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def place(column: int, top: int, cell_height: int, picture: np.ndarray) -> Any:
        left = GAP_PX + column * (CELL_PX + GAP_PX)
        axes = figure.add_axes((left / width, 1 - (top + cell_height) / height, CELL_PX / width, cell_height / height))
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        return axes

    top = HEAD_PX
    for column, title in enumerate(columns):
        x = GAP_PX + column * (CELL_PX + GAP_PX) + CELL_PX / 2
        figure.text(x / width, 1 - HEAD_PX / 2 / height, title, fontsize=10, color=INK, ha="center", va="center")
    for (each, choice), cell_height in zip(shown, tall, strict=True):
        size = shrunk_size(each.alpha.shape, CELL_PX)
        for column, cell in enumerate(each.cells(np.s_[:, :])):
            axes = place(column, top, cell_height, shrink(cell, size))
            if 2 <= column < 2 + len(arms):
                write_on(axes, f"SAD {sad(each.alphas[arms[column - 2]], each.alpha):.2f}")
            if column == 0:
                scale = size[1] / each.alpha.shape[1]
                draw_frame(axes, each.left * scale, each.top * scale, each.side_px * scale)
                write_on(axes, choice)
        top += cell_height + GAP_PX
        part = np.s_[each.top : each.top + each.side_px, each.left : each.left + each.side_px]
        for column, cell in enumerate(each.cells(part)):
            place(column, top, CELL_PX, cell)
        top += CELL_PX + 3 * GAP_PX
    write_figure(path, figure)


class Compared(NamedTuple):
    """A picture as several networks see it.

    Attributes:
        rgb: uint8 (H, W, 3).
        alpha: Truth, float32 (H, W) in [0, 1].
        alphas: By arm, likewise.
        gain: How much less wrong the last one is than the first, a mean over what is near the edge.
        is_found: Whether all find the subject: none is more than half as wrong as an empty matte.
        top, left, side_px: The square along the edge where these two differ most.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    alphas: dict[str, np.ndarray]
    gain: float
    is_found: bool
    top: int
    left: int
    side_px: int

    def cells(self, part: tuple[slice, slice]) -> list[np.ndarray]:
        """Image, truth, each alpha and each error of a part, uint8."""
        alpha, alphas = self.alpha[part], [each[part] for each in self.alphas.values()]
        errors = [error_heat(each, alpha) for each in alphas]
        return [self.rgb[part], quantise(alpha), *map(quantise, alphas), *errors]


def typical(pairs: Sequence[Pair], predictors: Mapping[str, Predictor]) -> tuple[Compared, int]:
    """The picture whose gain is the median of those in which all networks find the subject; of all, if there are none.

    What makes edges better cannot be seen where networks follow the edge of something else.

    Returns:
        The picture, and of how many it is the median.
    """
    gains = {}
    for pair in pairs:
        compared = compare_strategies(pair, predictors)
        gains[pair] = compared.is_found, compared.gain
    chosen = [pair for pair in pairs if gains[pair][0]] or list(pairs)
    chosen.sort(key=lambda pair: gains[pair][1])
    return compare_strategies(chosen[len(chosen) // 2], predictors), len(chosen)


def compare_strategies(pair: Pair, predictors: Mapping[str, Predictor]) -> Compared:
    """What networks, at least two, make of a picture."""
    rgb, alpha = read_rgb(pair.image), read_alpha(pair.alpha)
    alphas = {arm: predict_alpha(predictor, rgb) for arm, predictor in predictors.items()}
    near = edge_distance(alpha) <= max(BAND_RADII_PX[1], NEAR_SHARE * min(alpha.shape))
    first, *_, last = (np.where(near, np.abs(each - alpha), 0) for each in alphas.values())
    side_px = max(8, round(CROP_SHARE * min(alpha.shape)))
    window = best_window(np.abs(first - last), side_px)
    gain = float((first - last).sum() / max(1, near.sum()))
    is_found = all(np.abs(each - alpha).sum() <= alpha.sum() / 2 for each in alphas.values())
    return Compared(rgb, alpha, alphas, gain, is_found, window.top, window.left, side_px)
