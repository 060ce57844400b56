"""utils.plots: curves and previews are drawn from one row as from many, and show what they claim."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.plots import Preview, make_preview, save_curves, save_previews


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


def test_a_zero_loss_term_is_drawn(tmp_path: Path) -> None:
    """A term may be 0 in a row; the logarithmic axis must stand it."""
    save_curves(tmp_path / "a.png", log(3).assign(error=0.0), validation(3).assign(SAD=0.0, coarse_SAD=0.0), 5.0)
    assert picture(tmp_path / "a.png").std() > 5


def preview(height: int, width: int, alpha: float = 1.0, refined: float = 0.75) -> Preview:
    rgb = np.full((height, width, 3), (200, 0, 0), np.uint8)
    maps = [np.full((height, width), value, np.float32) for value in (alpha, 0.5, 0.05, refined)]
    return make_preview(rgb, *maps)


def test_the_cells_of_a_preview() -> None:
    cells, sad = preview(40, 60)
    rgb, true, coarse, gain, refined, heat, on_green = cells  # the gain is shown four times as bright
    assert all(cell.dtype == np.uint8 and cell.shape[:2] == (40, 60) for cell in cells)
    assert rgb[0, 0].tolist() == [200, 0, 0]
    assert [int(cell[0, 0]) for cell in (true, coarse, gain, refined)] == [255, 128, 51, 191]
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
