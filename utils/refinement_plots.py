"""Pictures of tools.study_refinement: recall against work, scores at native resolution, and a part of a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from models.patches import Patches
from utils.images import quantise
from utils.metrics import sad
from utils.plots import COARSE, INK, REFERENCE, REFINED, draw_frame, style_axes, write_figure
from utils.recall import Curve, covered
from utils.shrinking import shrink, shrunk_size

WARM = "#ffc440"
MAP_STYLES = {
    "router": {"color": REFINED, "lw": 2.2, "zorder": 4},
    "oracle": {"color": REFERENCE, "lw": 1.4, "ls": "--"},
    "softness": {"color": COARSE, "lw": 1.4},
    "gradient": {"color": "#8b3a62", "lw": 1.4},
}
METHOD_COLOURS = ("#cfcfcf", COARSE, REFINED, "#7fb3c4")
STEP_PX = 32  # between the windows that are compared


class Goal(NamedTuple):
    """To remove this share of the error at this share of the work at most."""

    removed: float
    work: float


def save_recall(
    path: Path,
    curves: Mapping[int, Mapping[str, Curve]],
    own: Mapping[int, tuple[float, float | None]],
    goals: Mapping[int, Goal],
    title: str,
) -> None:
    """Draws the share of the removed error over the share of the work, a panel a long side.

    Args:
        path: The PNG.
        curves: Long side, px, to error map to its curve.
        own: Long side to the share of the work and of the error at the checkpoint's own threshold.
        goals: Long side to what is aimed at, where anything is.
        title: Written above.
    """
    figure = Figure(figsize=(0.6 + 3.6 * len(curves), 4.0), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    highest = max([1.0, *(curve.removed.max() for of_maps in curves.values() for curve in of_maps.values())])
    top = min(1.5, highest + 0.08)  # more than 1 where dense refinement also does harm
    for axes, (long_side, of_maps) in zip(panels, curves.items(), strict=True):
        if own[long_side][1] is None:
            axes.text(0.5, 0.5, "dense refinement removes no error", ha="center", transform=axes.transAxes, fontsize=8)
            of_maps = {}
        for name, curve in of_maps.items():
            points = sorted([(0.0, 0.0), *zip(curve.work, curve.removed, strict=True), (1.0, 1.0)])
            axes.plot(*zip(*points, strict=True), label=name, **MAP_STYLES[name])
        if of_maps:
            gross = of_maps["router"]
            axes.plot(gross.work, gross.gross, ":", lw=1.4, color=MAP_STYLES["router"]["color"], label="router, gross")
            style = {"color": MAP_STYLES["router"]["color"], "markeredgecolor": "white", "ms": 8, "zorder": 5}
            axes.plot(
                own[long_side][0],
                min(own[long_side][1], top),
                "o",
                label="router, own threshold",
                clip_on=False,
                ls="",
                **style,
            )
        if goal := goals.get(long_side):
            corner = Rectangle((0, goal.removed), goal.work, top - goal.removed, color="#3a9d5d", alpha=0.15, lw=0)
            axes.add_patch(corner).set_label(f"goal: {goal.removed:.0%} at {goal.work:.0%} or less")
        axes.set(xlim=(0, 1), ylim=(0, top))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.legend(fontsize=7, frameon=False, loc="lower right")
        style_axes(axes, f"long side {long_side} px", "work, halos included, of dense refinement's")
    panels[0].set_ylabel("removed error, of what dense refinement removes", fontsize=8, color=INK)
    figure.suptitle(title, fontsize=9, color=INK)
    write_figure(path, figure)


def save_native(path: Path, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, str], title: str) -> None:
    """Draws the scores of each way to a large alpha as shares of the first way's, a panel a long side.

    Args:
        path: The PNG.
        rows: Each with long_side, method and the scores; the methods of a long side one after the other.
        scores: Key of a score to its heading.
        title: Written above.
    """
    sides = list(dict.fromkeys(row["long_side"] for row in rows))
    figure = Figure(figsize=(0.6 + 5.2 * len(sides), 3.6), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    for axes, side in zip(panels, sides, strict=True):
        of_side = [row for row in rows if row["long_side"] == side]
        width = 0.84 / len(of_side)
        for index, (row, colour) in enumerate(zip(of_side, METHOD_COLOURS, strict=True)):
            places = np.arange(len(scores)) + (index - (len(of_side) - 1) / 2) * width
            heights = [row[score] / max(of_side[0][score], 1e-12) for score in scores]
            axes.bar(places, heights, 0.94 * width, color=colour, label=row["method"])
            for place, height, score in zip(places, heights, scores, strict=True):
                axes.text(
                    place,
                    height + 0.01,
                    f"{row[score]:{'.0f' if row[score] >= 100 else '.3g'}}",
                    ha="center",
                    fontsize=6,
                    color=INK,
                )
        axes.set_xticks(np.arange(len(scores)), list(scores.values()))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        style_axes(axes, f"long side {side} px", "")
        axes.grid(visible=False, axis="x")
    panels[0].set_ylabel(f"of that of '{rows[0]['method']}'", fontsize=8, color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9, color=INK)
    write_figure(path, figure)


# ---------------------------------------------------------------------------------------------------- a square


class Part(NamedTuple):
    """A square of a picture, as several mattes see it.

    Attributes:
        name: Of the picture.
        advantage_px: What the square was chosen for: the sum of a map in it.
        overview: uint8 (h, w, 3), the whole picture, small.
        outlines: (N, 3), top, left and side of the patches, px of the overview.
        frame: Top, left and side of the square, px of the overview.
        size: Height and width of the picture, px.
        rgb: uint8 (S, S, 3).
        alpha: Truth, float (S, S) in [0, 1]; the mattes likewise.
        mattes: Title to alpha.
    """

    name: str
    advantage_px: float
    overview: np.ndarray
    outlines: np.ndarray
    frame: tuple[float, float, float]
    size: tuple[int, int]
    rgb: np.ndarray
    alpha: np.ndarray
    mattes: dict[str, np.ndarray]


class BestWindow(NamedTuple):
    """A square of a map: its top and left, px, and the sum of the map in it."""

    top: int
    left: int
    total: float


def best_window(values: np.ndarray, side_px: int) -> BestWindow:
    """The square of a map, (H, W), with the largest sum.

    Squares start at multiples of `STEP_PX`, and at the last place there is.
    """
    sums = cv2.integral(values, sdepth=cv2.CV_64F)
    tops, lefts = (
        np.unique(np.append(np.arange(0, length - side_px + 1, STEP_PX), length - side_px)) for length in values.shape
    )
    rows = sums[tops + side_px] - sums[tops]  # (tops, W + 1)
    totals = rows[:, lefts + side_px] - rows[:, lefts]
    row, column = np.unravel_index(totals.argmax(), totals.shape)
    return BestWindow(int(tops[row]), int(lefts[column]), float(totals[row, column]))


def cut_part(
    name: str,
    rgb: np.ndarray,
    alpha: np.ndarray,
    mattes: Mapping[str, np.ndarray],
    patches: Sequence[Patches],
    window: BestWindow,
    side_px: int,
) -> Part:
    """Cuts the same square out of a picture and its mattes.

    Args:
        name: Of the picture.
        rgb: uint8 (H, W, 3).
        alpha: Truth, float (H, W) in [0, 1].
        mattes: Title to alpha, likewise.
        patches: What was refined.
        window: From `best_window`.
        side_px: Of the square.
    """
    top, left, advantage_px = window
    inside = np.s_[top : top + side_px, left : left + side_px]
    small = shrunk_size(rgb.shape[:2], 2 * side_px)  # drawn at half its size, for screens of more dots
    overview, scale = shrink(rgb, small), small[1] / rgb.shape[1]
    refined = cv2.resize(covered(patches, alpha.shape).view(np.uint8), small[::-1], interpolation=cv2.INTER_NEAREST)
    overview = np.where(refined[..., None] > 0, overview, overview // 3 + 20).astype(np.uint8)
    squares = [(*corner, patch.side_px) for patch in patches for corner in patch.corner.tolist()]
    return Part(
        name,
        advantage_px,
        overview,
        np.array(squares, float).reshape(-1, 3) * scale,
        (top * scale, left * scale, side_px * scale),
        alpha.shape,
        rgb[inside].copy(),
        alpha[inside].copy(),
        {title: matte[inside].copy() for title, matte in mattes.items()},
    )


def save_part(path: Path, part: Part) -> None:
    """Draws the whole picture with its patches, and a square of it: image, truth and mattes, a pixel for a pixel."""
    side = part.rgb.shape[0]
    panels = {"image": part.rgb, "true alpha": quantise(part.alpha)}
    panels |= {f"{title}: SAD {sad(matte, part.alpha):.2f}": quantise(matte) for title, matte in part.mattes.items()}
    columns = -(-(1 + len(panels)) // 2)
    gap, head, foot = 16, 34, 34
    width, height = columns * side + (columns + 1) * gap, 2 * (side + head) + foot + gap
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)

    def place(index: int, title: str):
        row, column = divmod(index, columns)
        x, y = gap + column * (side + gap), height - (row + 1) * (side + head)
        axes = figure.add_axes((x / width, y / height, side / width, side / height))
        axes.set_title(title, fontsize=12, color=INK, pad=6)
        axes.set_axis_off()
        return axes

    axes = place(0, f"{part.name}, {part.size[1]} x {part.size[0]} px: refined patches")
    axes.imshow(part.overview, interpolation="antialiased")
    axes.autoscale(enable=False)
    outlines = [Rectangle((left, top), edge, edge) for top, left, edge in part.outlines]
    axes.add_collection(
        PatchCollection(outlines, facecolor="none", edgecolor=WARM, linewidth=0.5, alpha=0.8), autolim=False
    )
    top, left, edge = part.frame
    draw_frame(axes, left, top, edge)
    for index, (title, picture) in enumerate(panels.items(), start=1):
        place(index, title).imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    note = (
        f"Right and below: the {side} x {side} px in the red frame, pixel for pixel. SAD: sum of |error| / 1000 in it."
    )
    figure.text(gap / width, foot / 2 / height, note, fontsize=10, color=INK, va="center")
    write_figure(path, figure)
