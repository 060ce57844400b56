"""utils.plots: curves and previews are drawn from one row as from many, and show what they claim."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from models.patches import Patches, enlarge
from utils import plots
from utils.evaluation import Prediction
from utils.inference import Predictor, for_inference, predict
from utils.plots import Preview, make_preview, outline_patches, save_curves, save_previews
from utils.recall import covered


@pytest.fixture(autouse=True)
def no_warnings():
    """An empty axis, a logarithm of 0 or a missing glyph shows as a warning first."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB"))


def log(rows: int) -> pd.DataFrame:
    steps = np.arange(1, rows + 1) * 20
    return pd.DataFrame(
        {
            "step": steps,
            "epoch": 1,
            "learning_rate": 1e-3 / steps,
            "images_per_second": 3.0,
            "coarse_l1": 1 / steps,
            "refined_l1": 0.9 / steps,
            "alignment": 2 / steps,
            "error": 0.1,
            "total": 4 / steps,
        }
    )


def validation(rows: int) -> pd.DataFrame:
    epochs = np.arange(1, rows + 1)
    sad = 2.0 / epochs
    return pd.DataFrame(
        {"epoch": epochs, "step": 20 * epochs, "SAD": sad, "MSE": sad / 50, "MAD": sad / 20, "coarse_SAD": sad * 1.1}
    )


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_curves_are_drawn(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "new" / "curves.png"
    save_curves(path, log(rows), validation(rows), 5.0)
    drawn = picture(path)
    height, width = drawn.shape[:2]
    assert 300 <= height <= 1000 and 2 * height <= width <= 3000
    assert 0.5 < (drawn > 250).all(axis=2).mean() < 0.99, "a white page with something on it"
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]


def test_curves_without_refiner_and_teacher_and_before_the_first_log_row(tmp_path: Path) -> None:
    scores = validation(3).assign(coarse_SAD=validation(3)["SAD"])
    plain = log(3).drop(columns=["refined_l1", "alignment"])
    save_curves(tmp_path / "a.png", plain, scores, 5.0)
    save_curves(tmp_path / "b.png", plain.iloc[:0], scores, 5.0)
    assert picture(tmp_path / "a.png").shape == picture(tmp_path / "b.png").shape


def test_other_scores_give_another_picture(tmp_path: Path) -> None:
    save_curves(tmp_path / "a.png", log(5), validation(5), 5.0)
    save_curves(tmp_path / "b.png", log(5), validation(5), 5.0)
    save_curves(tmp_path / "c.png", log(5), validation(5).assign(MSE=0.5), 5.0)
    a, b, c = (picture(tmp_path / f"{name}.png") for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def with_times(rows: int) -> pd.DataFrame:
    """A log whose steps take 1 s in all, of which more and more waits for data."""
    data = np.linspace(0.1, 0.5, rows)
    times = {"data_s": data, "forward_s": 0.3, "backward_s": 0.6 - data, "step_s": 0.1, "peak_memory_gb": 3.25}
    return log(rows).assign(**times)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Axes]]:
    """`drawn(log, validation)` gives the axes of `save_curves`' figure instead of its PNG."""

    def drawn(log: pd.DataFrame, validation: pd.DataFrame) -> list[Axes]:
        kept: list[Figure] = []
        monkeypatch.setattr(plots, "write_figure", lambda path, figure: kept.append(figure))
        save_curves(Path("curves.png"), log, validation, 5.0)
        return kept[0].axes

    return drawn


def times_panel(axes: list[Axes]) -> tuple[dict[str, tuple], list]:
    """The stacked shares by name, as (tops, edges, bottoms), and the lines of images a second."""
    stack = next(each for each in axes if "time" in each.get_title())
    rates = [each for each in axes if each is not stack and each.bbox.bounds == stack.bbox.bounds]
    shares = {patch.get_label(): tuple(patch.get_data()) for patch in stack.patches}
    return shares, [patch.get_data() for each in rates for patch in each.patches]


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_the_times_of_a_step_are_shares_of_it(drawn: Callable, rows: int) -> None:
    table = with_times(rows)
    axes = drawn(
        table.assign(**{name: 7 * table[name] for name in ("data_s", "forward_s", "backward_s", "step_s")}),
        validation(1),
    )
    shares, rates = times_panel(axes)
    assert list(shares) == ["data", "forward", "backward", "step"]
    for name, (top, edges, bottom) in shares.items():
        np.testing.assert_allclose(top - bottom, np.broadcast_to(table[f"{name}_s"], rows), atol=1e-9)
        assert list(edges) == [0, *table["step"]], "a row tells of the steps since the one before"
    np.testing.assert_allclose(shares["step"][0], 1)
    np.testing.assert_allclose(rates[0].values, table["images_per_second"])
    assert any("3.2 GB" in each.get_xlabel() for each in axes)


def test_many_rows_become_few_bars_of_the_same_mean(drawn: Callable) -> None:
    rows = 4 * plots.MOST_BARS
    shares, _ = times_panel(drawn(with_times(rows), validation(1)))
    top, edges, bottom = shares["data"]
    assert len(top) == plots.MOST_BARS and edges[-1] == with_times(rows)["step"].iloc[-1]
    assert (top - bottom).mean() == pytest.approx(with_times(rows)["data_s"].mean())


@pytest.mark.parametrize(
    "missing", [["forward_s"], ["images_per_second"], ["data_s", "forward_s", "backward_s", "step_s"]]
)
def test_curves_are_drawn_without_some_of_the_times(drawn: Callable, tmp_path: Path, missing: list[str]) -> None:
    table = with_times(5).drop(columns=missing)
    save_curves(tmp_path / "a.png", table, validation(2), 5.0)
    assert picture(tmp_path / "a.png").std() > 5
    if missing == ["forward_s"]:
        shares, _ = times_panel(drawn(table, validation(2)))
        assert list(shares) == ["data", "backward", "step"]
        np.testing.assert_allclose(shares["step"][0], 1)


def test_what_is_not_a_number_is_left_out_of_the_curves(drawn: Callable) -> None:
    """A run that went wrong is looked at just then."""
    scores = validation(5).assign(step=0)
    scores.loc[2, ["SAD", "MSE", "MAD", "coarse_SAD"]] = np.nan
    table = with_times(5)
    table.loc[3, ["total", "coarse_l1", "data_s", "images_per_second"]] = np.nan
    axes = drawn(table, scores)
    sad_axes = axes[1]
    assert np.isfinite(sad_axes.get_ylim()).all()
    line = next(line for line in sad_axes.lines if line.get_label() == "refined")
    assert np.isnan(line.get_ydata()).tolist() == [False, False, True, False, False]
    hopeless = scores.assign(SAD=np.nan, MSE=np.nan, MAD=np.nan, coarse_SAD=np.nan)
    assert drawn(table.assign(total=np.nan), hopeless)[1].get_ylim()[1] > 5


def test_curves_before_the_first_validation(tmp_path: Path) -> None:
    save_curves(tmp_path / "a.png", with_times(3), validation(0), 5.0)
    assert picture(tmp_path / "a.png").std() > 5


def test_a_zero_loss_term_is_drawn(tmp_path: Path) -> None:
    """A term may be 0 in a row; the logarithmic axis must stand it."""
    save_curves(tmp_path / "a.png", log(3).assign(error=0.0), validation(3).assign(SAD=0.0, coarse_SAD=0.0), 5.0)
    assert picture(tmp_path / "a.png").std() > 5


def preview(
    height: int, width: int, alpha: float = 1.0, refined: float = 0.75, patches: list[Patches] | None = None
) -> Preview:
    rgb = np.full((height, width, 3), (200, 0, 0), np.uint8)
    maps = [np.full((height, width), value, np.float32) for value in (alpha, 0.5, 0.05, refined)]
    return make_preview(rgb, *maps, patches or [])


def squares(side: int, *corners: tuple[int, int]) -> Patches:
    return Patches(side, torch.zeros(len(corners), dtype=torch.long), torch.tensor(corners))


def changed(cell: np.ndarray, outlined: np.ndarray) -> set[tuple[int, int]]:
    """Row and column of each pixel that was drawn on."""
    return set(map(tuple, np.argwhere((outlined != cell[..., None]).any(axis=2)).tolist()))


def frame(top: int, left: int, bottom: int, right: int) -> set[tuple[int, int]]:
    """The pixels along the border of a rectangle, its last row and column included."""
    inside = {(y, x) for y in range(top + 1, bottom) for x in range(left + 1, right)}
    return {(y, x) for y in range(top, bottom + 1) for x in range(left, right + 1)} - inside


def test_outlines_lie_around_the_squares_and_nowhere_else() -> None:
    cell = np.full((60, 100), 90, np.uint8)  # of 600 x 1000 px
    patches = [squares(200, (200, 400)), squares(100, (400, 0), (400, 100))]
    # Neighbours share a line: of the pixel that the one ends before and the other begins with.
    expected = frame(20, 40, 40, 60) | frame(40, 0, 50, 10) | frame(40, 10, 50, 20)
    outlined = outline_patches(cell, patches, (600, 1000))
    assert changed(cell, outlined) == expected
    red, green, blue = outlined[20, 50].tolist()
    assert red > green > blue and outlined[30, 50].tolist() == [90, 90, 90]


def test_outlines_end_at_the_border() -> None:
    cell = np.zeros((60, 100), np.uint8)
    outlined = outline_patches(cell, [squares(400, (400, 800))], (600, 1000))
    assert changed(cell, outlined) == frame(40, 80, 59, 99)
    assert changed(cell, outline_patches(cell, [], (600, 1000))) == set()


@pytest.mark.parametrize("side", [16, 32, 64, 256])
def test_many_squares_leave_the_picture_to_be_seen(side: int) -> None:
    """The whole of a 4K picture refined: a tint, which is no solid colour and hides no difference."""
    corners = [(top, left) for top in range(0, 4096, side) for left in range(0, 4096, side)]
    dark, bright = (
        outline_patches(np.full((480, 480), level, np.uint8), [squares(side, *corners)], (4096, 4096)).astype(float)
        for level in (0, 255)
    )
    assert 0.01 < dark[..., 0].mean() / 255 < 0.35
    assert ((bright - dark).mean(axis=(0, 1)) > 0.6 * 255).all()


def test_a_preview_shows_the_squares_in_the_cell_of_the_gain() -> None:
    plain, with_squares = preview(600, 960), preview(600, 960, patches=[squares(300, (0, 0))])
    for number, (before, after) in enumerate(zip(plain.cells, with_squares.cells, strict=True)):
        if number != 3:
            assert np.array_equal(before, after)
    assert changed(plain.cells[3][..., 0], with_squares.cells[3]) == frame(0, 0, 150, 150)


def predicted(predictor: Predictor, rgb: np.ndarray, alpha: np.ndarray) -> Prediction:
    return Prediction("a", rgb, alpha.astype(np.float32) / 255, predict(predictor, rgb), predictor)


def test_the_squares_of_a_prediction_are_those_that_were_refined(predictor: Predictor, make_pair: Callable) -> None:
    routing = replace(predictor.routing, error_threshold=0.0, refine_budget=0.4)
    item = predicted(replace(predictor, routing=routing), *make_pair(200, 301))
    refined = covered(item.patches(), item.alpha.shape)
    output = item.output
    differs = (output.refined_logits != enlarge(output.coarse_logits.float(), item.alpha.shape))[0, 0].numpy()
    assert 0 < refined.sum() < refined.size, "some, not all: otherwise this shows nothing"
    assert not differs[~refined].any() and differs[refined].mean() > 0.99
    few = predicted(replace(predictor, routing=replace(routing, max_patches=1)), item.rgb, item.alpha)
    assert sum(len(each.corner) for each in few.patches()) == 1
    gains = [each.preview().cells[3] for each in (item, few)]
    assert not np.array_equal(*gains)


def test_without_a_refiner_there_are_no_squares_and_no_gain(
    predictor: Predictor, make_network: Callable, make_pair: Callable
) -> None:
    network = for_inference(make_network(refiner=False), predictor.device)
    item = predicted(replace(predictor, network=network), *make_pair(90, 70))
    assert item.patches() == []
    gain = item.preview().cells[3]
    assert not gain.any()


def test_the_cells_of_a_preview() -> None:
    cells, sad = preview(40, 60)
    rgb, true, coarse, gain, refined, heat, on_green = cells  # the gain is shown four times as bright
    assert all(cell.dtype == np.uint8 and cell.shape[:2] == (40, 60) for cell in cells)
    assert rgb[0, 0].tolist() == [200, 0, 0]
    assert [int(cell[0, 0]) for cell in (true, coarse, gain[..., 1], refined)] == [255, 128, 51, 191]
    assert sad == pytest.approx(0.25 * 2400 / 1000)
    assert heat.shape == (40, 60, 3)
    red, green, blue = on_green[0, 0].tolist()
    assert abs(red - (0.75 * 200 + 0.25 * 40)) <= 1 and green > 30 and blue > 15


def test_a_larger_error_is_brighter() -> None:
    heat = [float(preview(8, 8, refined=value).cells[5].mean()) for value in (1.0, 0.7, 0.0)]
    assert heat == sorted(heat) and heat[0] < 5 < 50 < heat[2]


def test_large_pictures_are_shrunk_before_they_are_kept() -> None:
    cells, sad = preview(600, 1500)
    assert max(max(cell.shape[:2]) for cell in cells) <= 600
    assert sad == pytest.approx(0.25 * 900), "the SAD is of the full size"
    assert preview(5000, 1).cells[0].shape[1] == 1


@pytest.mark.parametrize("sizes", [[(40, 60)], [(1, 1)], [(40, 60), (90, 50), (30, 200)]])
def test_previews_are_drawn(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    save_previews(tmp_path / "new" / "p.png", [preview(*size) for size in sizes], "validation after epoch 1")
    drawn = picture(tmp_path / "new" / "p.png")
    assert 1000 < drawn.shape[1] < 4000 and drawn.shape[0] > 60
    assert ((drawn == (200, 0, 0)).all(axis=2)).mean() > 0.02, "the photograph is there, in its colours"
    assert ((drawn > 250).all(axis=2)).mean() < 0.6, "hardly anything but pictures"


def test_a_narrow_picture_does_not_stretch_the_page(tmp_path: Path) -> None:
    """At 1:100 the page would have 20,000 px and take a minute to draw, after every validation."""
    save_previews(tmp_path / "p.png", [preview(40, 1), preview(40, 60)], "strips")
    height, width = picture(tmp_path / "p.png").shape[:2]
    assert height < 3 * width
