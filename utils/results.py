"""Results of an evaluation as files and text: metrics.json, per_image.csv, table.txt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from utils.files import write_atomically, write_json
from utils.scoring import COLUMNS, Scores, band_table

RESOLUTION = "ground truth's own"


class Result(NamedTuple):
    """The scores of one set.

    Attributes:
        name: Of the benchmark or the folder.
        scores: Of its images.
        region: Which pixels the scores are of, in words.
        prediction: How predictions were read, in words.
        left_out: Images that should have been scored and were not, with the reason.
        source: What was scored.
    """

    name: str
    scores: Scores
    region: str
    prediction: str
    left_out: dict[str, str]
    source: dict[str, Any]

    def entry(self) -> dict[str, Any]:
        """The set's entry of metrics.json: numbers with their region, resolution, unit and number of images."""
        scores = self.scores
        metrics = {name: value for name, value in scores.mean.items() if name in COLUMNS}
        entry = {
            "images": len(scores.per_image),
            "left_out": len(self.left_out),
            "region": self.region,
            "resolution": RESOLUTION,
            "prediction": self.prediction,
            "metrics": metrics,
            "units": {name: COLUMNS[name].unit for name in metrics},
            "empty_truth": scores.empty_truths,
            "best_constant_alpha": {"alpha": scores.constant_alpha, "SAD": scores.constant_sad},
            "source": self.source,
        }
        if scores.empty_unknowns is not None:
            entry["empty_unknown"] = scores.empty_unknowns
        if band := band_table(scores):
            entry["boundary_band"] = band
        if scores.curves:
            entry["curves"] = scores.curves
        if self.left_out:
            entry["reasons"] = self.left_out
        return entry


def write_results(folder: Path, results: Sequence[Result]) -> None:
    """Writes metrics.json (an entry a set), per_image.csv (a row an image, `name` first) and table.txt."""
    write_json(folder / "metrics.json", {result.name: result.entry() for result in results})
    rows = [
        {"name": row["name"], "benchmark": result.name, **row} for result in results for row in result.scores.per_image
    ]
    table = pd.DataFrame(rows).to_csv(index=False)
    write_atomically(folder / "per_image.csv", lambda file: file.write(table.encode(errors="backslashreplace")))
    write_atomically(
        folder / "table.txt", lambda file: file.write(f"{score_table(results)}\n".encode(errors="backslashreplace"))
    )


def score_table(results: Sequence[Result]) -> str:
    """Tables for a terminal: one for each group of metrics, a line a set, then the boundary band."""
    lines = []
    groups = dict.fromkeys(column.group for column in COLUMNS.values())
    for group in groups:
        names = [name for name, column in COLUMNS.items() if column.group == group]
        names = [name for name in names if any(name in result.scores.mean for result in results)]
        if not names:
            continue
        units = dict.fromkeys(COLUMNS[name].unit for name in names)
        in_words = "; ".join(
            f"{unit}: {', '.join(name for name in names if COLUMNS[name].unit == unit)}" for unit in units
        )
        rows = [
            [result.name, str(len(result.scores.per_image)), *(_number(result.scores.mean.get(name)) for name in names)]
            for result in results
        ]
        lines += [f"{group}, at the ground truth's own resolution ({in_words})"]
        lines += [*_aligned([["", "images", *names], *rows]), ""]
    lines += _remarks(results)
    lines += _bands(results)
    for result in results:
        if result.left_out:
            total = len(result.scores.per_image) + len(result.left_out)
            lines += [f"{result.name}: {len(result.left_out)} of {total} images were left out", ""]
    return "\n".join(lines).rstrip()


def _remarks(results: Sequence[Result]) -> list[str]:
    """What must be known to read the numbers; above all what an answer reaches that ignores the images."""
    lines = []
    for name, scores in ((result.name, result.scores) for result in results):
        constant = f"the best constant alpha, {scores.constant_alpha:.2f}, has SAD {_number(scores.constant_sad)}"
        if "SAD" in scores.mean and scores.constant_sad:
            constant += f", ours is {100 * scores.mean['SAD'] / scores.constant_sad:.1f} % of it"
        lines.append(f"{name}: {constant}")
        if scores.empty_truths:
            lines.append(f"{name}: {scores.empty_truths} truths have no foreground; F and wF are 0 there by rule")
        if scores.empty_unknowns:
            lines.append(f"{name}: {scores.empty_unknowns} trimaps have no unknown pixel; scores are 0 there by rule")
    return [*lines, ""]


def _bands(results: Sequence[Result]) -> list[str]:
    rows = [
        [
            result.name,
            f"{band['radius_px']} px",
            f"{100 * band['pixels']:.1f} %",
            "-" if band["share_of_SAD"] is None else f"{100 * band['share_of_SAD']:.1f} %",
            *(_number(band[part][metric]) for metric in ("MSE", "MAD") for part in ("inside", "outside", "whole")),
        ]
        for result in results
        for band in band_table(result.scores)
    ]
    if not rows:
        return []
    head = ["", "band", "pixels", "of SAD", "MSE in", "outside", "whole", "MAD in", "outside", "whole"]
    title = "boundary band: within this distance of the true edge or of a soft pixel (MSE, MAD: mean per pixel there)"
    return [title, *_aligned([head, *rows]), ""]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:#.4g}".rstrip(".")


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns of equal width, the first one flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join([row[0].ljust(widths[0]), *cells[1:]]) for row, cells in zip(rows, padded, strict=True)]
