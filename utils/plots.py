"""Pictures of a run: its curves, and previews of what it predicts."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator

from models.patches import Patches
from utils.errors import printable
from utils.files import write_atomically
from utils.gallery import error_heat
from utils.images import quantise
from utils.metrics import sad
from utils.run_folder import RunTables
from utils.shrinking import shrink_to_fit

INK, GRID = "#333333", "#dddddd"
COARSE, REFINED, REFERENCE = "#b8860b", "#1f6f8b", "#999999"
GREEN = (40, 170, 90)  # what cut-outs are shown on
CELL_PX = 480
GAIN_SHOWN = 4  # times it is shown brighter: more than a quarter is seldom expected
OUTLINE = (255, 170, 30)  # of the refined squares
OUTLINE_OPACITY, OPAQUE_PX = 0.75, 6  # of outlines this long in a cell; shorter ones are fainter, and merge to a tint
TIMES = {"data_s": "#e0b95c", "forward_s": "#6ba3b8", "backward_s": "#a9ccd8", "step_s": "#dcdcdc"}  # of log.csv
SMOOTHED = 1 / 25  # of a run's rows: a comparison draws their running median
MOST_BARS = 120  # of the times: noise of single rows hides what changes


class Preview(NamedTuple):
    """A row of the preview picture: uint8 cells (h, w) or (h, w, 3), already small, and the SAD at full size."""

    cells: list[np.ndarray]
    sad: float


def make_preview(
    rgb: np.ndarray,
    alpha: np.ndarray,
    coarse_alpha: np.ndarray,
    gain: np.ndarray,
    refined_alpha: np.ndarray,
    patches: Sequence[Patches],
) -> Preview:
    """Makes the cells of one picture.

    Args:
        rgb: uint8 (H, W, 3).
        alpha: Truth; this and the rest are float32 (H, W) in [0, 1].
        coarse_alpha: Of the coarse stage.
        gain: What refinement is expected to gain.
        refined_alpha: Of the refiner.
        patches: Where it was at work: of this one picture, px.
    """
    matte = refined_alpha[..., None]
    on_green = np.rint(matte * rgb + (1 - matte) * np.array(GREEN, np.float32)).astype(np.uint8)
    true, coarse, expected, refined = (
        quantise(a) for a in (alpha, coarse_alpha, (GAIN_SHOWN * gain).clip(0, 1), refined_alpha)
    )
    heat = error_heat(refined_alpha, alpha)
    cells = [shrink_to_fit(cell, CELL_PX) for cell in (rgb, true, coarse, expected, refined, heat, on_green)]
    cells[3] = outline_patches(cells[3], patches, alpha.shape)
    return Preview(cells, sad(refined_alpha, alpha))


def outline_patches(cell: np.ndarray, patches: Sequence[Patches], size: tuple[int, int]) -> np.ndarray:
    """Draws where the refined squares lie: lines of 1 px, which neighbours share.

    Args:
        cell: uint8 (h, w), a picture that was shrunk.
        patches: Squares of it, px of its full size.
        size: (H, W), the full size.

    Returns:
        uint8 (h, w, 3).
    """
    height, width = cell.shape
    scale = np.array(cell.shape) / size
    opacity = np.zeros(cell.shape, np.float32)
    for side, _, corner in patches:
        strength = OUTLINE_OPACITY * min(1.0, side * scale.max() / OPAQUE_PX)
        starts = np.floor(corner.numpy() * scale).astype(int)
        ends = np.floor((corner.numpy() + side) * scale).astype(int).clip(max=(height - 1, width - 1))
        for (top, left), (bottom, right) in zip(starts, ends, strict=True):
            rows, columns = slice(top, bottom + 1), slice(left, right + 1)
            for line in ((top, columns), (bottom, columns), (rows, left), (rows, right)):
                opacity[line] = np.maximum(opacity[line], strength)
    opacity = opacity[..., None]
    return np.rint((1 - opacity) * cell[..., None] + opacity * np.array(OUTLINE, np.float32)).astype(np.uint8)


def save_curves(path: Path, log: pd.DataFrame, validation: pd.DataFrame, constant_sad: float) -> None:
    """Draws loss, learning rate and times by step, and validation scores by epoch.

    Args:
        path: The PNG.
        log: Columns step, learning_rate, total and the loss terms; if measured, images_per_second, peak_memory_gb and
            the seconds a step took, data_s, forward_s, backward_s and step_s.
        validation: Columns epoch, SAD, coarse_SAD, MSE, MAD; not a number where training went wrong.
        constant_sad: SAD of the best constant alpha, drawn as a reference line.
    """
    figure = Figure(figsize=(15.5, 4), dpi=110, layout="constrained")
    loss_axes, sad_axes, error_axes, time_axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 0.8))
    if len(log):
        terms = [c for c in log.columns if c.startswith(("coarse_", "refined_")) or c in ("alignment", "error")]
        # The terms that weigh most at the end get a name; a legend of twelve is not read.
        named = log[terms].tail(5).mean().nlargest(5).index
        for term in terms:
            style = {"label": term, "lw": 1.1} if term in named else {"color": GRID, "lw": 0.9, "zorder": 1}
            loss_axes.plot(log["step"], log[term], **style, **_point(log))
        loss_axes.plot(log["step"], log["total"], lw=1.8, color=INK, label="total", **_point(log))
        use_log_scale(loss_axes)
        rate_axes = loss_axes.twinx()
        rate_axes.plot(log["step"], log["learning_rate"], lw=0.8, ls=":", color=REFERENCE)
        rate_axes.set_yticks([])
        rate_axes.spines[["top", "right"]].set_visible(False)
        low, high = loss_axes.get_ylim()
        loss_axes.set_ylim(low, 4 * high)  # room for the legend
        title = "dotted: learning rate; grey: smaller terms"
        loss_axes.legend(fontsize=7, frameon=False, title=title, title_fontsize=7, loc="upper right", ncols=2)
    style_axes(loss_axes, "training loss (weighted terms)", "step")
    epochs = validation["epoch"]
    if not validation["coarse_SAD"].equals(validation["SAD"]):  # a network without refiner has one curve
        sad_axes.plot(epochs, validation["coarse_SAD"], "o-", ms=3, lw=1.2, color=COARSE, label="coarse")
    sad_axes.plot(epochs, validation["SAD"], "o-", ms=3, lw=1.8, color=REFINED, label="refined")
    sad_axes.axhline(constant_sad, ls="--", lw=1, color=REFERENCE)
    sad_axes.annotate(
        "best constant alpha", (0.98, constant_sad), xycoords=("axes fraction", "data"), ha="right", va="bottom",
        fontsize=7, color=INK,
    )  # fmt: skip
    sad_axes.set_ylim(0, 1.08 * max(constant_sad, validation[["SAD", "coarse_SAD"]].max().max()))
    sad_axes.legend(fontsize=7, frameon=False)
    style_axes(sad_axes, "validation SAD (sum / 1000, whole image)", "epoch")
    error_axes.plot(epochs, 1000 * validation["MAD"], "o-", ms=3, lw=1.5, color=REFINED, label="MAD")
    error_axes.plot(epochs, 1000 * validation["MSE"], "o-", ms=3, lw=1.5, color="#8b3a62", label="MSE")
    error_axes.set_ylim(0)
    error_axes.legend(fontsize=7, frameon=False)
    style_axes(error_axes, "validation MAD and MSE (x 1000, whole image)", "epoch")
    for axes in (sad_axes, error_axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _draw_times(time_axes, log)
    write_figure(path, figure)


def _draw_times(axes, log: pd.DataFrame) -> None:
    """Shares of a step's time, stacked, and images a second: of `save_curves`' columns those that are there."""
    group = np.arange(len(log)) // max(1, -(-len(log) // MOST_BARS))
    rows = log.groupby(group).mean(numeric_only=True)
    # A row tells of the steps since the row before.
    edges = [0, *log["step"].groupby(group).last()]
    title, rate_axes = "images a second", axes
    times = [name for name in TIMES if name in log.columns]
    if times and len(rows):
        shares = rows[times].div(rows[times].sum(axis=1), axis=0)
        tops = shares.cumsum(axis=1)
        for name in times:
            style = {"label": name.removesuffix("_s"), "color": TIMES[name], "fill": True}
            axes.stairs(tops[name], edges, baseline=tops[name] - shares[name], **style)
        axes.set_ylim(0, 1.2)  # room for the legend
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.legend(fontsize=7, frameon=False, loc="upper center", ncols=4, columnspacing=1, handlelength=1)
        title, rate_axes = "where a step's time goes; line: images a second", axes.twinx()
    if "images_per_second" in rows and len(rows):
        rate_axes.stairs(rows["images_per_second"], edges, color=INK, lw=1.2, baseline=None)
        fastest = rows["images_per_second"].max()
        rate_axes.set_ylim(0, 1.3 * fastest if fastest > 0 else 1)
    memory = f"; peak memory {log['peak_memory_gb'].max():.1f} GB" if "peak_memory_gb" in rows and len(rows) else ""
    style_axes(axes, title, f"step{memory}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    rate_axes.tick_params(labelsize=7, colors=INK)
    rate_axes.spines["top"].set_visible(False)


def save_previews(path: Path, previews: Sequence[Preview], title: str) -> None:
    """Draws a row a picture: image, truth, coarse, expected gain with the refined squares, refined, error, cut-out.

    Args:
        path: The .png or .jpg.
        previews: What to draw.
        title: Written above.
    """
    gain = f"expected gain x {GAIN_SHOWN}, refined squares"
    columns = ("image", "true alpha", "coarse alpha", gain, "refined alpha", "|refined - true|", "on green")
    figure = Figure(figsize=(2.0 * len(columns), 1.0), dpi=110)
    grid = [preview.cells for preview in previews]
    # Each row takes the height its pictures need, so that nothing is surrounded by white.
    heights = [min(2.0, max(0.1, row[0].shape[0] / row[0].shape[1])) for row in grid]  # no row without end
    figure.set_size_inches(2.0 * len(columns), 2.0 * sum(heights) + 0.14 * len(grid) + 0.55)
    total = figure.get_size_inches()[1]
    axes = figure.subplots(
        len(grid), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights, "hspace": 0.05, "wspace": 0.02}
    )
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.02 / total, top=1 - 0.5 / total)
    for row, line, preview in zip(axes, grid, previews, strict=True):
        for axis, picture in zip(row, line, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
            axis.set_axis_off()
        write_on(row[4], f"SAD {preview.sad:.2f}")
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(column, fontsize=8, color=INK, pad=3)
    figure.suptitle(title, fontsize=9, color=INK, y=1 - 0.04 / total, va="top")
    write_figure(path, figure)


def save_comparison(path: Path, runs: Mapping[str, RunTables]) -> None:
    """Draws several runs in one figure, a colour a run: loss and images a second by step, SAD and MSE by epoch.

    Args:
        path: The .png or .jpg.
        runs: By name.
    """
    figure = Figure(figsize=(12, 7.5), dpi=110, layout="constrained")
    (loss_axes, sad_axes), (rate_axes, error_axes) = figure.subplots(2, 2)
    colours = matplotlib.colormaps["tab10"].colors
    if len(runs) > len(colours):
        colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(runs)))
    legend = {}
    for (name, (log, validation)), colour in zip(runs.items(), colours, strict=False):
        # A line of the legend's own, there however little the run has written.
        legend[f"{printable(name)}: {_describe_best(validation)}"] = Line2D([], [], lw=2, color=colour)
        for axes, column in ((loss_axes, "total"), (rate_axes, "images_per_second")):
            axes.plot(log["step"], log[column], lw=0.7, color=colour, alpha=0.3)
            axes.plot(log["step"], _smooth(log[column]), lw=1.6, color=colour, **_point(log))
        epochs, style = validation["epoch"], {"color": colour, "marker": "o", "ms": 2}
        if not validation["coarse_SAD"].equals(validation["SAD"]):  # a network without refiner has one curve
            sad_axes.plot(epochs, validation["coarse_SAD"], "--", lw=0.9, **style)
        sad_axes.plot(epochs, validation["SAD"], lw=1.6, **style)
        error_axes.plot(epochs, 1000 * validation["MSE"], lw=1.6, **style)
    use_log_scale(loss_axes)
    rate_axes.set_ylim(0)
    style_axes(loss_axes, "training loss (faint: rows as logged)", "step")
    style_axes(sad_axes, "validation SAD (sum / 1000, whole image; dashed: coarse)", "epoch")
    style_axes(rate_axes, "images a second", "step")
    style_axes(error_axes, "validation MSE (x 1000, whole image)", "epoch")
    for axes in (sad_axes, error_axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    where = {"loc": "outside upper left", "fontsize": 8, "frameon": False, "ncols": 2}
    for text in figure.legend(list(legend.values()), list(legend), **where).get_texts():
        text.set_parse_math(False)  # a $ in the name of a folder is one
    write_figure(path, figure)


def _describe_best(validation: pd.DataFrame) -> str:
    """The lowest validation SAD of a run in words."""
    if validation["SAD"].isna().all():
        return "no validation yet"
    best = validation.loc[validation["SAD"].idxmin()]
    return f"best SAD {best['SAD']:.4g} at epoch {best['epoch']:.0f}"


def _smooth(values: pd.Series) -> pd.Series:
    """Medians of the rows around each, which neither lag nor blur a jump; what is not finite does not count."""
    window = 1 + 2 * round(SMOOTHED * len(values) / 2)
    return values.where(np.isfinite(values)).rolling(window, min_periods=1, center=True).median()


def save_costs(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draws the time of a photograph over its megapixels, a panel a precision and a line a network.

    Args:
        path: The PNG.
        rows: Of tools.benchmark: preset, size ("WIDTHxHEIGHT"), precision, dense, seconds, device.
    """
    lines: dict[str, dict[tuple[str, bool], list[tuple[float, float]]]] = {}
    for row in rows:
        megapixels = float(np.prod([int(side) for side in row["size"].split("x")])) / 1e6
        of_precision = lines.setdefault(row["precision"], {})
        of_precision.setdefault((row["preset"], row["dense"]), []).append((megapixels, row["seconds"]))
    presets = list(dict.fromkeys(row["preset"] for row in rows))
    colours = dict(zip(presets, (REFINED, COARSE, "#8b3a62", "#3a9d5d"), strict=False))
    figure = Figure(figsize=(1.2 + 4.4 * len(lines), 4.2), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
    for axes, (precision, of_precision) in zip(panels, lines.items(), strict=True):
        for (preset, dense), points in of_precision.items():
            x, y = zip(*sorted(points), strict=True)
            colour = colours.get(preset, REFERENCE)
            axes.plot(x, y, "o", ls=":" if dense else "-", lw=1.2 if dense else 2, ms=3 if dense else 5, color=colour)
            if not dense:  # a dense line is told by its colour
                axes.annotate(
                    preset, (x[0], y[0]), xytext=(0, -14), textcoords="offset points", fontsize=8, color=colour
                )
        for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            scale("log", base=2)
            plain_numbers(axis)
        axes.margins(0.08, 0.1)
        style_axes(axes, precision, "megapixels")
    panels[0].set_ylabel("seconds a photograph", fontsize=8, color=INK)
    routing = "solid: refined where it is expected to pay"
    if any(row["dense"] for row in rows):
        routing += "; dotted: refined everywhere"
    figure.suptitle(f"{rows[0]['device']}; {routing}", fontsize=9, color=INK)
    write_figure(path, figure)


def _point(rows: pd.DataFrame) -> dict[str, Any]:
    """A style that shows a single row, of which no line can be drawn."""
    return {"marker": "o", "ms": 3} if len(rows) == 1 else {}


def write_on(axes, text: str) -> None:
    """Writes a few words into the lower left corner of a picture."""
    axes.text(
        0.025, 0.025, text, transform=axes.transAxes, fontsize=7, color="white",
        bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0},
    )  # fmt: skip


def draw_frame(axes, left: float, top: float, side: float) -> None:
    """Draws a red square, with a white rim, on a picture; in its px."""
    for colour, line in (("white", 3), ("#d62728", 1.6)):
        axes.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=colour, linewidth=line))


def use_log_scale(axes) -> None:
    """A logarithmic y axis that has numbers also where it spans less than a factor of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain_numbers(axes.yaxis)


def plain_numbers(axis) -> None:
    """0.1 instead of a power of ten, whose typesetting asks for fonts that not every machine has."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def style_axes(axes, title: str, x_label: str) -> None:
    """The look that all plots share: small text, a faint grid behind what is drawn, no box."""
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_xlabel(x_label, fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.grid(color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(path: Path, figure: Figure) -> None:
    """Writes the figure in the format that the path's suffix says, all of it or nothing."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."))
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))
