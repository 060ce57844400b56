"""utils.report: one page that stands alone, shows every number it is given, and lets no name become markup."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from utils.report import Column, Section, ShownImage, write_report

WHOLE, SALIENT = "matting, whole image", "DIS / salient object"
COLUMNS = {
    "SAD": Column("sum / 1000", True, "Sum of absolute differences", WHOLE),
    "MSE": Column("mean per pixel", True, "Mean squared difference", WHOLE),
    "MAD": Column("mean per pixel", True, "Mean absolute difference", WHOLE),
    "F_max": Column("0 to 1", False, "F-measure, best threshold", SALIENT),
    "HCE": Column("clicks", True, "Human correction effort", SALIENT),
}
BAND = {
    "radius_px": 10,
    "pixels": 0.051,
    "share_of_SAD": 0.834,
    "whole": {"SAD": 12.34, "MSE": 0.01, "MAD": 0.02},
    "inside": {"SAD": 10.3, "MSE": 0.14, "MAD": 0.3},
    "outside": {"SAD": 2.0, "MSE": 0.003, "MAD": 0.005},
}
HOSTILE = (
    "<script>alert(1)</script>.png",
    'a"b\'c&d" onerror="alert(1)',
    "</title></style>ä漢",
    "\udcff.png",
    "x" * 200,
)
VOID = {"meta", "img", "input", "br", "link"}


def section(name: str = "DIS-VD", images: int = 3, **changes) -> Section:
    rows = [
        {"name": f"picture_{i}", "height": 480 + i, "width": 854, "SAD": 12.34 + i, "MSE": 0.0123, "MAD": 0.0205,
         "F_max": 0.9125, "HCE": 1106.0 + i, "band10_SAD": 77.77}
        for i in range(images)
    ]  # fmt: skip
    summary = {
        "images": images,
        "left_out": 4,
        "region": "whole image",
        "resolution": "ground truth's own",
        "prediction": "float, not rounded",
        "metrics": {"SAD": 13.34, "MSE": 0.0123, "MAD": 0.0205, "F_max": 0.9312, "HCE": 1107.0},
        "empty_truth": 5,
        "boundary_band": [BAND],
        "curves": {"F": [0.2, 0.75, 0.4], "E": [0.3, 0.6, 0.85]},
        "best_constant_alpha": {"alpha": 0.25, "SAD": 140.43},
    }
    examples = [
        ShownImage(row["name"], [("true alpha", b"jpeg of truth"), ("error", b"jpeg of error")]) for row in rows
    ]
    return Section(name, summary, rows, examples[:2], examples[::-1][:2])._replace(**changes)


def without(original: Section, *keys: str) -> Section:
    return original._replace(summary={key: value for key, value in original.summary.items() if key not in keys})


class Page(HTMLParser):
    """Reads a page strictly: its tags balance; keeps elements, the text outside of style and script, and tables."""

    def __init__(self, text: str):
        super().__init__()
        self.source, self.open, self.elements, self.texts = text, [], [], []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice: {attrs}"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.elements if name in attrs]


@pytest.fixture
def page(tmp_path: Path):
    def write(*sections: Section, source=("checkpoint best.pth",), columns=COLUMNS) -> Page:
        write_report(tmp_path / "report.html", sections, columns, source)
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write


def test_nothing_is_loaded_from_elsewhere(page):
    shown = page(section())
    tags = [tag for tag, _ in shown.elements]
    assert "link" not in tags and tags.count("script") == 1 and tags.count("style") == 1
    assert all(src.startswith("data:image/jpeg;base64,") for src in shown.attributes("src"))
    assert all(href.startswith("#") for href in shown.attributes("href"))
    assert not re.search(r"https?://|@import|url\(|\bimport\b", shown.source)
    (policy,) = [attrs["content"] for _, attrs in shown.elements if "http-equiv" in attrs]
    assert "default-src 'none'" in policy


def test_links_lead_to_a_place_on_the_page(page):
    shown = page(section("a"), section("b"))
    ids = shown.attributes("id")
    assert len(ids) == len(set(ids)) and {href[1:] for href in shown.attributes("href")} <= set(ids)


def test_scores_stand_with_their_conventions(page):
    text = page(section(), source=["checkpoint best.pth", "on a GPU"]).text
    for fact in ("TSR-Matte evaluation", "checkpoint best.pth", "on a GPU", "3, 4 left out, 5 empty truth",
                 "whole image", "ground truth's own", "float, not rounded", "Ranked by MAD, whole image"):  # fmt: skip
        assert fact in text
    for column in COLUMNS.values():
        assert column.unit in text and column.meaning in text and column.group in text


def test_conventions_that_differ_name_their_benchmarks(page):
    other = section("P3M")
    shown = page(section("DIS-VD"), other._replace(summary={**other.summary, "region": "trimaps of the data set"}))
    assert "whole image (DIS-VD)" in shown.text and "trimaps of the data set (P3M)" in shown.text


def test_overview_shows_the_means_and_all_images_the_scores(page):
    rows = page(section()).rows
    assert ["DIS-VD", "3", "13.34", "140.43", "0.0123", "0.0205"] in rows  # the second SAD: best constant alpha
    assert ["DIS-VD", "3", "0.931", "1107"] in rows
    for i in range(3):
        assert [
            f"picture_{i}",
            "854",
            str(480 + i),
            f"{12.34 + i:.2f}",
            "0.0123",
            "0.0205",
            "0.912",
            str(1106 + i),
        ] in rows
    assert not any("77.77" in cell for row in rows for cell in row)  # a column without a meaning


def test_constant_alpha_stands_beside_sad(page):
    assert (
        "constant alpha for the whole set, 0.250, has SAD 140.43, 11 times the SAD reached here" in page(section()).text
    )


def test_headers_say_which_direction_is_better(page):
    heads = [row for row in page(section()).rows if row[0] == "name"]
    assert heads == [["name", "widthpx", "heightpx", "SAD ↓sum / 1000", "MSE ↓mean per pixel", "MAD ↓mean per pixel",
                      "F_max ↑0 to 1", "HCE ↓clicks"]]  # fmt: skip


def test_tables_and_pictures_are_described(page):
    shown = page(section())
    assert all("scope" in attrs for tag, attrs in shown.elements if tag == "th")
    alts = [attrs["alt"] for tag, attrs in shown.elements if tag == "img"]
    assert "true alpha of picture_0" in alts and len(alts) == 8


def test_examples_keep_their_order_and_bytes(page):
    pictures = [base64.b64decode(src.partition(",")[2]) for src in page(section()).attributes("src")]
    assert pictures == [b"jpeg of truth", b"jpeg of error"] * 4
    names = re.findall(r"<h5>(.*?)</h5>", page(section()).source)
    assert names == ["picture_0", "picture_1", "picture_2", "picture_1"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_never_become_markup(page, name):
    plain, hostile = section(), section(name)
    hostile.rows[0]["name"] = name
    hostile = hostile._replace(worst=[ShownImage(name, [(name, b"")] * 2), hostile.worst[1]])
    hostile.summary["region"] = name
    columns = {**COLUMNS, "SAD": Column(name, True, name, WHOLE)}
    shown = page(hostile, source=[name], columns=columns)
    harmless = page(plain, columns=columns)
    hints = [attrs for _, attrs in shown.elements if "onerror" in attrs]
    assert [tag for tag, _ in shown.elements] == [tag for tag, _ in harmless.elements] and not hints
    as_written = name.replace("\udcff", "?")
    assert as_written in shown.text and f"{as_written} of {as_written}" in shown.attributes("alt")


def test_dilution_is_a_sentence_with_the_right_numbers(page):
    sentence = (
        "The 10-px band is 5.1 % of the pixels and holds 83 % of the error; its MSE is 14 times that of the whole"
    )
    shown = page(section())
    assert sentence in shown.text
    widths = [attrs["width"] for tag, attrs in shown.elements if attrs.get("class") == "bar" and tag == "rect"]
    assert widths == ["5.10", "83.40"]
    assert all(value in shown.text for value in ("0.1400", "0.0100", "0.0030"))


def test_a_perfect_result_has_no_share_of_the_error(page):
    nothing = {"SAD": 0.0, "MSE": 0.0, "MAD": 0.0}
    perfect = {**BAND, "share_of_SAD": None, "whole": nothing, "inside": nothing, "outside": nothing}
    original = section()
    text = page(original._replace(summary={**original.summary, "boundary_band": [perfect]})).text
    assert "The 10-px band is 5.1 % of the pixels; there is no error in it or outside." in text


def test_histogram_counts_every_image_once(page):
    shown = page(section(images=50))
    bars = shown.source.split('<g class="bars">')[1].split("</g>")[0]
    assert sum(map(int, re.findall(r": (\d+) images?<", bars))) == 50
    assert "mean 36.84" in shown.text and "median 36.84" in shown.text
    assert '<p class="ends"><span>12.34</span><span>61.34</span></p>' in shown.source


def test_histogram_marks_mean_and_median_where_they_are(page):
    original = section(images=3)
    for row, sad in zip(original.rows, (0.0, 1.0, 8.0), strict=True):
        row["SAD"] = sad
    source = page(original).source
    assert (
        '<line class="median" x1="25.00" x2="25.00"' in source and '<line class="mean" x1="75.00" x2="75.00"' in source
    )


def test_curves_name_their_peak(page):
    text = page(section()).text
    assert "F highest 0.750 at 0.50" in text and "E highest 0.850 at 1.00" in text


@pytest.mark.parametrize(
    "key", ["boundary_band", "curves", "best_constant_alpha", "left_out", "empty_truth", "prediction"]
)
def test_what_is_absent_leaves_no_trace(page, key):
    shown = page(without(section(), key))
    traces = {"boundary_band": "Where the error is", "curves": "against the threshold",
              "best_constant_alpha": "constant", "left_out": "left out",
              "empty_truth": "empty truth", "prediction": "prediction"}  # fmt: skip
    assert traces[key] not in shown.text and "None" not in shown.text and "13.34" in shown.text


def test_a_missing_or_undefined_score_is_a_dash(page):
    original = section()
    original.rows[0]["SAD"], original.rows[1]["MSE"] = None, float("nan")
    del original.rows[2]["MAD"]
    rows = {row[0]: row for row in page(original).rows}
    assert rows["picture_0"][3] == "–" and rows["picture_1"][4] == "–" and rows["picture_2"][5] == "–"


def test_only_the_chosen_metrics(page):
    original = section()
    rows = [{key: row[key] for key in ("name", "height", "width", "F_max")} for row in original.rows]
    shown = page(original._replace(rows=rows, summary={**original.summary, "metrics": {"F_max": 0.9312}}))
    assert "0.931" in shown.text and "SAD ↓" not in shown.text and WHOLE not in shown.text


def test_the_band_alone(page):
    original = section()
    rows = [{key: row[key] for key in ("name", "height", "width", "band10_SAD")} for row in original.rows]
    shown = page(without(original._replace(rows=rows, summary={**original.summary, "metrics": {}}), "curves"))
    assert "The 10-px band" in shown.text and "picture_0" in shown.text and "Distribution" not in shown.text


def test_benchmarks_of_different_metrics(page):
    other = section("HRS10K", images=1)
    other = other._replace(summary={**other.summary, "metrics": {"SAD": 1.5, "MSE": 0.5}})
    rows = page(section("DIS-VD"), other).rows
    assert [row[0] for row in rows].count("HRS10K") == 1  # not in the table of a group it has nothing of
    assert ["HRS10K", "1", "1.50", "140.43", "0.500", "–"] in rows


def test_a_page_holds_one_image_or_many_benchmarks(page):
    one = page(section(images=1, worst=[], best=[]))
    assert "1 in 1 benchmark" in one.text and "Worst and best" not in one.text
    many = page(*(section(f"set {k}") for k in range(17)))
    assert "51 in 17 benchmarks" in many.text and all(f"set {k}" in many.text for k in range(17))


def test_the_same_scores_give_the_same_bytes(tmp_path: Path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, [section()], COLUMNS, ["source"])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_metric_nobody_explains_is_refused(page):
    with pytest.raises(AssertionError, match="HCE"):
        page(section(), columns={name: column for name, column in COLUMNS.items() if name != "HCE"})
