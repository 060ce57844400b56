"""report.html: what eval.py measured, as one page that needs nothing beside it and no network.

Plain data in, HTML out. Every function below returns one piece of the page; the style and the script, which only
sorts, filters and enlarges, lie in report.css and report.js and are written into the page. Every text that comes
from data goes through `_text`.
"""

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.files import write_atomically
from utils.names import counted
from utils.scoring import Column

STYLE = Path(__file__).with_name("report.css")
SCRIPT = Path(__file__).with_name("report.js")
MISSING = "–"
RANK = "MAD"  # of the whole image: what `Section.worst` and `Section.best` are sorted by


class ShownImage(NamedTuple):
    """One image shown as pictures.

    Attributes:
        name: As in the rows.
        panels: Caption and JPEG file of each picture, from left to right.
    """

    name: str
    panels: list[tuple[str, bytes]]


class Section(NamedTuple):
    """One benchmark.

    Attributes:
        name: Of the benchmark.
        summary: Its entry of metrics.json; "images", "region", "resolution" and "metrics" are always there.
        rows: One an image: name, height, width, then metrics. Those the page has no `Column` for are left out.
        worst: Worst first, by MAD of the whole image.
        best: Best first, likewise.
    """

    name: str
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    worst: list[ShownImage]
    best: list[ShownImage]


def write_report(path: Path, sections: Sequence[Section], columns: dict[str, Column], source: Sequence[str]) -> None:
    """Writes the page; the same input gives the same bytes.

    Args:
        path: The .html.
        sections: The benchmarks, in the order to show them; at least one.
        columns: Metric name, as in the summaries and rows, to what it means; their order is the page's.
        source: Lines that say what was scored, by which code, where.

    Raises:
        UserError: It cannot be written.
    """
    unknown = {metric for section in sections for metric in section.summary["metrics"]} - columns.keys()
    assert sections and not unknown, f"{len(sections)} sections; metrics without a column: {sorted(unknown)}"
    style, script = STYLE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")
    used = {name: column for name, column in columns.items() if any(name in s.summary["metrics"] for s in sections)}
    body = _header(sections, source) + _overview(sections, used)
    body += "".join(_benchmark(number, section, columns) for number, section in enumerate(sections, 1))
    body += _definitions(used)
    # Only this very script runs, whatever a file name may hold, and nothing is loaded from anywhere.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>TSR-Matte evaluation: {_text(', '.join(s.name for s in sections))}</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )
    encoded = page.encode("utf-8", errors="replace")  # a file name that is no unicode holds lone surrogates
    write_atomically(path, lambda file: file.write(encoded))


# ------------------------------------------------------------------------------------------------------------
# Above the benchmarks


def _header(sections: Sequence[Section], source: Sequence[str]) -> str:
    images = sum(section.summary["images"] for section in sections)
    benchmarks = counted(len(sections), "benchmark")
    facts = [("scored", [_text(line) for line in source]), ("images", [f"{images} in {benchmarks}"])]
    facts += [(key, _shared(sections, key)) for key in ("region", "resolution", "prediction")]
    rows = "".join(f"<dt>{key}</dt>{''.join(f'<dd>{line}</dd>' for line in lines)}\n" for key, lines in facts if lines)
    return f"<header>\n<h1>TSR-Matte evaluation</h1>\n<dl>\n{rows}</dl>\n</header>\n"


def _shared(sections: Sequence[Section], key: str) -> list[str]:
    """A convention, once if all benchmarks follow it, else each with the benchmarks that do."""
    names: dict[str, list[str]] = {}
    for section in sections:
        if key in section.summary:
            names.setdefault(str(section.summary[key]), []).append(section.name)
    if len(names) == 1:
        return [_text(value) for value in names]
    return [f"{_text(value)} <small>({_text(', '.join(which))})</small>" for value, which in names.items()]


def _overview(sections: Sequence[Section], columns: dict[str, Column]) -> str:
    tables = "".join(_group_table(group, sections, columns) for group in _groups(columns))
    return (
        '<section id="overview">\n<h2>Overview</h2>\n'
        '<p class="note">Means over images; what each metric is, and the exceptions, stand under '
        '<a href="#metrics">metrics</a>. ↓ lower is better, ↑ higher is better.</p>\n'
        f'<div class="groups">\n{tables}</div>\n</section>\n'
    )


def _group_table(group: str, sections: Sequence[Section], columns: dict[str, Column]) -> str:
    names = [name for name, column in columns.items() if column.group == group]
    shown = [(n, s) for n, s in enumerate(sections, 1) if any(name in s.summary["metrics"] for name in names)]
    heads, cells = [], []
    for name in names:
        heads.append(_metric_head(name, columns[name]))
        values = [section.summary["metrics"].get(name) for _, section in shown]
        cells.append(_formatted(values))
        constants = [section.summary.get("best_constant_alpha", {}).get("SAD") for _, section in shown]
        if name == "SAD" and any(constant is not None for constant in constants):
            title = "Mean SAD of the one constant alpha that is best for the whole set: what any method must beat"
            heads.append(f'<th scope="col" class="reference" title="{title}">constant α<small>its SAD</small></th>')
            cells.append(_formatted(constants, like=_typical(values)))
    rows = "".join(
        f'<tr><th scope="row"><a href="#benchmark-{number}">{_text(section.name)}</a></th>'
        f"<td>{section.summary['images']}</td>{''.join(f'<td>{value}</td>' for value in values)}</tr>\n"
        for (number, section), *values in zip(shown, *cells, strict=True)
    )
    return (
        f'<div class="group"><h3>{_text(group)}</h3>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(group)}"><table class="sortable">\n'
        f'<thead><tr><th scope="col">benchmark</th><th scope="col">images</th>{"".join(heads)}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div></div>\n"
    )


def _definitions(columns: dict[str, Column]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_better(column)}</td><td>{_text(column.unit)}</td>'
        f"<td>{_text(column.group)}</td><td>{_text(column.meaning)}</td></tr>\n"
        for name, column in columns.items()
    )
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("metric", "better", "unit", "group", "meaning"))
    return (
        '<section id="metrics">\n<h2>Metrics</h2>\n<div class="scroll" tabindex="0" role="region" aria-label="Metrics">'
        f'<table class="definitions">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n'
        "</section>\n"
    )


# ------------------------------------------------------------------------------------------------------------
# One benchmark


def _benchmark(number: int, section: Section, columns: dict[str, Column]) -> str:
    here = {name: column for name, column in columns.items() if any(name in row for row in section.rows)}
    band = section.summary.get("boundary_band")
    return (
        f'<section id="benchmark-{number}" class="benchmark">\n'
        f'<h2>{_text(section.name)} <a class="up" href="#overview" aria-label="back to the overview">↑</a></h2>\n'
        f"{_conventions(section.summary)}"
        f"{_band(band) if band else ''}"
        f"{_examples(section, here)}"
        f"{_distributions(section.rows, here, section.summary.get('curves', {}))}"
        f"{_all_images(section, here)}"
        "</section>\n"
    )


def _conventions(summary: dict[str, Any]) -> str:
    """Without these lines the benchmark's scores mean nothing."""
    counted = ("left_out", "left out"), ("empty_truth", "empty truth"), ("empty_unknown", "empty unknown region")
    counts = [f"{summary[key] or 'no'} {text}" for key, text in counted if summary.get(key) is not None]
    counts = [count.replace("no left out", "none left out") for count in counts]
    facts = [("images", f"<strong>{summary['images']}</strong>{''.join(f', {count}' for count in counts)}")]
    facts += [(key, _text(summary[key])) for key in ("region", "resolution", "prediction") if key in summary]
    if constant := summary.get("best_constant_alpha"):
        sad = summary["metrics"].get("SAD")
        times = f", {_times(constant['SAD'] / sad)} the SAD reached here" if sad else ""
        (value,) = _formatted([constant["SAD"]], like=sad)
        facts.append(("reference", f"the best constant alpha for the whole set, {constant['alpha']:.3f}, "
                                   f"has SAD {value}{times}"))  # fmt: skip
    return f"<dl>{''.join(f'<dt>{key}</dt><dd>{fact}</dd>' for key, fact in facts)}</dl>\n"


def _band(bands: list[dict[str, Any]]) -> str:
    """How small the boundary is, and how much of the error it holds: the dilution of a mean over all pixels."""
    largest = max(band[part]["MSE"] for band in bands for part in ("inside", "whole", "outside")) or 1
    cards = "".join(_band_card(band, largest) for band in bands)
    return (
        f'<h3>Where the error is</h3>\n<p class="lead">{_dilution(bands[len(bands) // 2])}</p>\n'
        f'<div class="bands">\n{cards}</div>\n<p class="note">A mean over the whole image divides the error at the '
        "boundary by all the easy pixels around it. The band: pixels within a radius of the true edge or of a soft "
        "pixel. Share of the error: of SAD. MSE bars share one scale.</p>\n"
    )


def _dilution(band: dict[str, Any]) -> str:
    sentence = f"The {band['radius_px']:g}-px band is {_percent(band['pixels'])} of the pixels"
    if band["share_of_SAD"] is None:
        return f"{sentence}; there is no error in it or outside."
    sentence += f" and holds {_percent(band['share_of_SAD'])} of the error"
    whole, inside = band["whole"]["MSE"], band["inside"]["MSE"]
    return f"{sentence}; its MSE is {_times(inside / whole)} that of the whole image." if whole else f"{sentence}."


def _band_card(band: dict[str, Any], largest_mse: float) -> str:
    """Two bars, pixels above error, joined where the band is; then MSE inside, whole, outside."""
    pixels, error = 100 * band["pixels"], 100 * (band["share_of_SAD"] or 0)
    parts = ("inside", "whole", "outside")
    values = _formatted([band[part]["MSE"] for part in parts])
    widths = [70 * band[part]["MSE"] / largest_mse for part in parts]  # leaves room for the number
    bars = "".join(
        f'<dt>{part}</dt><dd class="{part}"><i style="width:{width:.2f}%"></i>{value}</dd>'
        for part, width, value in zip(parts, widths, values, strict=True)
    )
    return (
        f'<figure class="band"><figcaption>within <strong>{band["radius_px"]:g} px</strong></figcaption>\n'
        f"<p><strong>{_percent(band['pixels'])}</strong> of the pixels</p>\n"
        '<svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rest" width="100" height="8"/><rect class="rest" y="32" width="100" height="8"/>'
        f'<path class="flow" d="M0 8H{pixels:.2f}L{error:.2f} 32H0Z"/>'
        f'<rect class="bar" width="{pixels:.2f}" height="8"/><rect class="bar" y="32" width="{error:.2f}" height="8"/>'
        f"</svg>\n<p><strong>{_percent(band['share_of_SAD'])}</strong> of the error</p>\n"
        f'<dl><dt class="head">MSE</dt><dd class="head"></dd>{bars}</dl></figure>\n'
    )


# ------------------------------------------------------------------------------------------------------------
# Distributions


def _distributions(rows: list[dict[str, Any]], columns: dict[str, Column], curves: dict[str, list[float]]) -> str:
    parts = []
    for group in _groups(columns):
        plots = "".join(
            _histogram(name, column, [row.get(name) for row in rows])
            for name, column in columns.items()
            if column.group == group
        )
        parts.append(f'<h4>{_text(group)}</h4>\n<div class="plots">\n{plots}</div>\n')
    if curves:
        parts.append(f"<h4>against the threshold, mean over the images</h4>\n{_curves(curves)}")
    if not parts:
        return ""
    return f"<h3>Distribution over the images</h3>\n{''.join(parts)}"


def _histogram(name: str, column: Column, column_values: list[float | None]) -> str:
    values = np.array([v for v in column_values if v is not None and math.isfinite(v)])
    title = f"<strong>{_text(name)}</strong> {_better(column)}<small>{_text(column.unit)}</small>"
    title = f"<figcaption>{title}</figcaption>"
    if not values.size:
        return f'<figure class="plot">{title}<p class="note">no values</p></figure>\n'
    low, high, mean, median = values.min(), values.max(), values.mean(), np.median(values)
    span = (high - low) or 1.0
    left = low if high > low else low - 0.5  # a single value stands in the middle
    bins = int(np.clip(math.ceil(2 * values.size ** (1 / 3)), 9, 32))
    counts, edges = np.histogram(values, bins, (left, left + span))
    width = 200 / bins
    texts = _formatted([low, high, mean, median, *edges], like=float(mean))
    bars = "".join(
        f'<rect x="{k * width:.2f}" y="{60 - 56 * count / counts.max():.2f}" width="{width:.2f}" '
        f'height="{56 * count / counts.max():.2f}"><title>{texts[4 + k]} to {texts[5 + k]}: '
        f"{counted(int(count), 'image')}</title></rect>"
        for k, count in enumerate(counts)
        if count
    )
    at = [200 * (value - left) / span for value in (mean, median)]
    return (
        f'<figure class="plot">{title}\n<svg viewBox="0 0 200 60" preserveAspectRatio="none" role="img" '
        f'aria-label="Histogram of {_text(name)}: mean {texts[2]}, median {texts[3]}, {texts[0]} to {texts[1]}">'
        f'<g class="bars">{bars}</g><line class="median" x1="{at[1]:.2f}" x2="{at[1]:.2f}" y2="60"/>'
        f'<line class="mean" x1="{at[0]:.2f}" x2="{at[0]:.2f}" y2="60"/></svg>\n'
        f'<p class="ends"><span>{texts[0]}</span><span>{texts[1]}</span></p>'
        f'<p class="centre"><span class="key mean">mean {texts[2]}</span>'
        f'<span class="key median">median {texts[3]}</span></p></figure>\n'
    )


def _curves(curves: dict[str, list[float]]) -> str:
    """Each curve over thresholds 0 ... 1, and where it is highest."""
    lines, keys = [], []
    for k, (name, curve) in enumerate(curves.items()):
        points = " ".join(f"{400 * i / max(len(curve) - 1, 1):.1f},{160 - 160 * y:.1f}" for i, y in enumerate(curve))
        peak = int(np.argmax(curve))
        summary = f"highest {curve[peak]:.3f} at {peak / max(len(curve) - 1, 1):.2f}"
        title = f"<title>{_text(name)}: {summary}</title>"
        lines.append(f'<polyline class="curve-{k}" points="{points}">{title}</polyline>')
        keys.append(f'<span class="key curve-{k}"><strong>{_text(name)}</strong> {summary}</span>')
    grid = "".join(f'<line x2="400" y1="{y}" y2="{y}"/>' for y in range(0, 161, 40))
    return (
        f'<figure class="curves"><p class="note">{"".join(keys)}</p>\n'
        '<div class="frame"><span class="y">1<b>0</b></span>'
        '<svg viewBox="0 0 400 160" preserveAspectRatio="none" role="img" aria-label="Curves over the threshold">'
        f'<g class="grid">{grid}</g>{"".join(lines)}</svg></div>\n'
        '<p class="ends"><span>0</span><span>threshold</span><span>1</span></p></figure>\n'
    )


# ------------------------------------------------------------------------------------------------------------
# Images


def _examples(section: Section, columns: dict[str, Column]) -> str:
    shown = columns.get(RANK) or next(iter(columns.values()), None)
    names = [row["name"] for row in section.rows]
    scores = {  # as the table of all images prints them; one group says enough here
        name: dict(zip(names, _formatted([row.get(name) for row in section.rows]), strict=True))
        for name, column in columns.items()
        if column.group == shown.group
    }
    halves = "".join(
        f"<div><h4>{title}</h4>\n{''.join(_example(example, scores) for example in examples)}</div>\n"
        for title, examples in (("worst first", section.worst), ("best first", section.best))
        if examples
    )
    if not halves:
        return ""
    return (
        f'<h3>Worst and best images</h3>\n<p class="note">Ranked by {RANK}, whole image.'
        '<span class="script-only"> Click a picture to enlarge it; arrow keys go through the row.</span></p>\n'
        f'<div class="examples">\n{halves}</div>\n'
    )


def _example(example: ShownImage, scores: dict[str, dict[str, str]]) -> str:
    values = "".join(
        f"<span>{_text(metric)} <b>{of_images.get(example.name, MISSING)}</b></span>"
        for metric, of_images in scores.items()
    )
    panels = "".join(
        f'<figure><button type="button"><img alt="{_text(f"{caption} of {example.name}")}" decoding="async" '
        f'src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"></button>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
        for caption, jpeg in example.panels
    )
    return (
        f'<article>\n<h5>{_text(example.name)}</h5>\n<p class="scores">{values}</p>\n'
        f'<div class="panels" style="--panels:{len(example.panels)}">{panels}</div>\n</article>\n'
    )


def _all_images(section: Section, columns: dict[str, Column]) -> str:
    sides = [[str(row.get(key, MISSING)) for row in section.rows] for key in ("width", "height")]
    scores = [_formatted([row.get(name) for row in section.rows]) for name in columns]
    rows = "".join(
        f'<tr><th scope="row"{_hint(row["name"])}>{_text(row["name"])}</th>'
        f"{''.join(f'<td>{value}</td>' for value in values)}</tr>\n"
        for row, *values in zip(section.rows, *sides, *scores, strict=True)
    )
    heads = "".join(_metric_head(name, column) for name, column in columns.items())
    label = f"All images of {_text(section.name)}"
    return (
        '<h3>All images</h3>\n<p class="tools" hidden><input type="search" placeholder="filter by name" '
        f'aria-label="Filter by name: {label}"> <output></output></p>\n'
        f'<div class="scroll tall" tabindex="0" role="region" aria-label="{label}"><table class="sortable images">\n'
        '<thead><tr><th scope="col">name</th><th scope="col">width<small>px</small></th>'
        f'<th scope="col">height<small>px</small></th>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n'
        '<p class="print-only">The scores of every image are in per_image.csv.</p>\n'
    )


# ------------------------------------------------------------------------------------------------------------
# Words and numbers


def _text(text: object) -> str:
    """Text that came from data, for an element or an attribute in double quotes."""
    return html.escape(str(text))


def _hint(name: str) -> str:
    """The full name of what the table cuts short."""
    return f' title="{_text(name)}"' if len(name) > 40 else ""


def _groups(columns: dict[str, Column]) -> Iterable[str]:
    return dict.fromkeys(column.group for column in columns.values())


def _better(column: Column) -> str:
    arrow, word = ("↓", "lower") if column.lower_is_better else ("↑", "higher")
    return f'<span class="better" role="img" aria-label="{word} is better" title="{word} is better">{arrow}</span>'


def _metric_head(name: str, column: Column) -> str:
    first = "" if column.lower_is_better else ' data-first="descending"'  # a click brings the best to the top
    return (
        f'<th scope="col" title="{_text(column.meaning)}"{first}>{_text(name)} {_better(column)}'
        f"<small>{_text(column.unit)}</small></th>"
    )


def _formatted(values: Sequence[float | None], like: float | None = None) -> list[str]:
    """A column of numbers with equally many decimals: three digits of the typical one, and two decimals below 100.

    Args:
        values: None or nan is missing.
        like: Take this for the typical one.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    typical = _typical(values) if like is None else abs(like)
    decimals = 2
    if typical >= 100:
        decimals = 0 if typical >= 1000 or all(value == round(value) for value in finite) else 1
    elif typical > 0:
        decimals = min(max(2 - math.floor(math.log10(typical)), 2), 6)
    return [MISSING if value is None or math.isnan(value) else f"{value:.{decimals}f}" for value in values]


def _typical(values: Sequence[float | None]) -> float:
    """The median magnitude, or the largest where that is 0."""
    finite = [abs(value) for value in values if value is not None and math.isfinite(value)]
    return float(np.median(finite)) or max(finite) if finite else 0.0


def _percent(share: float | None) -> str:
    if share is None or math.isnan(share):
        return f"{MISSING} %"
    decimals = 0 if 0.1 <= share < 0.99 or share in (0, 1) else 1 if share >= 0.01 else 2
    return f"{100 * share:.{decimals}f} %"


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"
