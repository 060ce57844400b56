"""What the study of strategies shows: its table, convergence, bands around the edge, and the strategies in pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from utils.gallery import error_heat
from utils.images import quantise, read_alpha, read_rgb
from utils.inference import load_model, predict_alpha
from utils.metrics import sad
from utils.pairs import Pair
from utils.plots import COARSE, INK, REFERENCE, REFINED, style_axes, write_figure
from utils.shrinking import shrink, shrunk_size
from utils.strategies import ARMS, DENSE, STRATEGIES, Run
from utils.study_plots import best_window

COLUMNS = {  # of the table: score to heading and factor
    "SAD": ("SAD", 1),
    "SAD_band3": ("SAD, 3 px", 1),
    "SAD_band10": ("SAD, 10 px", 1),
    "SAD_band30": ("SAD, 30 px", 1),
    "MSE": ("MSE, 1e-3", 1000),
    "MSE_band3": ("MSE, 3 px, 1e-3", 1000),
    "Grad": ("Grad", 1),
    "Conn": ("Conn", 1),
}
COLOURS = dict(zip([*ARMS, DENSE], [
    REFERENCE, COARSE, REFINED, "#8b3a62", "#3a9d5d", "#c97b3a", "#6b5fa8", "#b0475a", "#4f7942", "#7fb3c4",
], strict=True))  # fmt: skip
BANDS = {"MSE": "whole image", "MSE_band30": "30 px", "MSE_band10": "10 px", "MSE_band3": "3 px"}
SHOWN, CELL_PX, CROP_SHARE = 3, 320, 0.25  # pictures of a figure; side of a cell; a crop's side, of the shorter one


def as_markdown(rows: Sequence[Mapping[str, Any]], images: Mapping[str, int]) -> str:
    """Tables, one for each data: mean and, after a plus-minus sign, standard deviation over the seeds."""
    parts = []
    for data, of_data in pd.DataFrame(rows).groupby("data", sort=False):
        parts += [f"### {data}: {images[data]} pictures that no network was trained on", ""]
        parts += ["| arm | seeds | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " | minutes |"]
        parts += ["|---|" + "---|" * (len(COLUMNS) + 2)]
        for arm in sorted(of_data["arm"].unique(), key=list(COLOURS).index):
            runs = of_data[of_data["arm"] == arm]
            cells = [_spread(factor * runs[score]) for score, (_, factor) in COLUMNS.items()]
            parts += [f"| {arm} | {len(runs)} | {' | '.join(cells)} | {runs['training_s'].mean() / 60:.1f} |"]
        parts += [""]
    return "\n".join(parts)


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


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
            axes.plot(chosen.mean(), color=COLOURS[arm], lw=width, label=arm, ls="-" if arm in STRATEGIES else "--")
            if arm in STRATEGIES:
                axes.fill_between(chosen.min().index, chosen.min(), chosen.max(), color=COLOURS[arm], alpha=0.15, lw=0)
        axes.set_yscale("log")
        style_axes(axes, name, "epoch")
    panels[0].set_ylabel("validation SAD (sum / 1000), mean over seeds", fontsize=8, color=INK)
    panels[-1].legend(fontsize=7, frameon=False)
    write_figure(path, figure)


def save_bands(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws how the MSE differs from the baseline's, over the whole image and ever closer to the edge.

    Most pixels are easy: what happens at the edge hardly shows in a mean over all of them.
    """
    table = pd.DataFrame(rows)
    names = [name for name in table["data"].unique() if "baseline" in set(table[table["data"] == name]["arm"])]
    if not names:
        return
    figure = Figure(figsize=(0.6 + 5.4 * len(names), 4.0), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        means = table[table["data"] == name].groupby("arm")[list(BANDS)].mean()
        arms = [arm for arm in COLOURS if arm in means.index and arm not in ("baseline", DENSE)]
        for index, arm in enumerate(arms):
            places = np.arange(len(BANDS)) + (index - (len(arms) - 1) / 2) * 0.84 / max(1, len(arms))
            change = means.loc[arm] / means.loc["baseline"] - 1
            axes.bar(places, change, 0.79 / len(arms), color=COLOURS[arm], label=arm)
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_xticks(np.arange(len(BANDS)), list(BANDS.values()))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
        style_axes(axes, name, "where the error is measured: distance from the true edge")
        axes.grid(visible=False, axis="x")
    panels[0].set_ylabel("MSE against the baseline's", fontsize=8, color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    write_figure(path, figure)


def save_compared(path: Path, runs: Mapping[str, Run], pairs: Sequence[Pair]) -> None:
    """Draws strategies beside each other: image, truth, each alpha, each error; below each picture the same, nearer.

    Shown are the pictures where the last strategy differs most from the first, each of another third of the set.

    Args:
        path: The PNG.
        runs: Of one seed, by arm.
        pairs: Held out.
    """
    predictors = {arm: load_model(run.folder / "last.pth") for arm, run in runs.items()}
    chosen = []
    for third in np.array_split(np.arange(len(pairs)), min(SHOWN, len(pairs))):
        looked_at = [_look(pairs[index], predictors) for index in third]
        chosen.append(max(looked_at, key=lambda each: abs(each["gain"])))
    columns = 2 + 2 * len(runs)
    figure = Figure(figsize=(columns * CELL_PX / 130, 2 * len(chosen) * CELL_PX / 130 * 0.82), dpi=130)
    panels = figure.subplots(2 * len(chosen), columns, squeeze=False)
    for number, each in enumerate(chosen):
        top, left, side = each["window"]
        for row, part in ((2 * number, np.s_[:, :]), (2 * number + 1, np.s_[top : top + side, left : left + side])):
            whole = row % 2 == 0
            cells = {"image": each["rgb"][part], "true alpha": quantise(each["alpha"][part])}
            cells |= {arm: quantise(alpha[part]) for arm, alpha in each["alphas"].items()}
            cells |= {
                f"error, {arm}": error_heat(alpha[part], each["alpha"][part]) for arm, alpha in each["alphas"].items()
            }
            for axes, (title, cell) in zip(panels[row], cells.items(), strict=True):
                size = shrunk_size(cell.shape[:2], CELL_PX)
                axes.imshow(shrink(cell, size), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axes.set_axis_off()
                alpha = each["alphas"].get(title)
                text = title if alpha is None or not whole else f"{title}: SAD {sad(alpha, each['alpha']):.2f}"
                if whole:
                    axes.set_title(text, fontsize=7, color=INK, pad=3)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.97, bottom=0.005, wspace=0.03, hspace=0.06)
    write_figure(path, figure)


def _look(pair: Pair, predictors: Mapping[str, Any]) -> dict[str, Any]:
    """A picture with all alphas, what the last one gains over the first, and the square where the two differ most."""
    rgb, alpha = read_rgb(pair.image), read_alpha(pair.alpha)
    alphas = {arm: predict_alpha(predictor, rgb) for arm, predictor in predictors.items()}
    first, *_, last = (np.abs(each - alpha) for each in alphas.values())
    side = max(8, round(CROP_SHARE * min(alpha.shape)))
    window = best_window(np.abs(first - last), side)
    gain = float((first - last).sum() / max(1.0, alpha.size))
    return {"rgb": rgb, "alpha": alpha, "alphas": alphas, "gain": gain, "window": (window.top, window.left, side)}
