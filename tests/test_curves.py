"""tools.curves as a user meets it, and the figure it draws."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tools import curves
from tools.curves import read_run, short_names
from utils import plots
from utils.errors import UserError
from utils.images import read_rgb
from utils.plots import save_comparison
from utils.run_folder import RunTables


@pytest.fixture(autouse=True)
def no_warnings():
    """An empty axis, a logarithm of 0 or a missing glyph shows as a warning first."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def write_run(folder: Path, rows: int = 30, epochs: int = 3, level: float = 1.0, refiner: bool = True) -> Path:
    """A run folder: SAD falls to its best in the last epoch but one."""
    folder.mkdir(parents=True)
    steps = 20 * np.arange(1, rows + 1)
    rates = np.where(steps == 20, 1.0, 8.0)  # slow at first
    log = {"step": steps, "epoch": 1 + steps // 250, "images_per_second": rates, "total": level + 20 / steps}
    pd.DataFrame(log).to_csv(folder / "log.csv", index=False)
    if epochs:
        sad = level * np.abs(np.arange(1, epochs + 1) - (epochs - 1.0)) + level
        scores = {"epoch": np.arange(1, epochs + 1), "step": 200, "SAD": sad, "MSE": sad / 100, "MAD": sad / 30}
        table = pd.DataFrame({**scores, "coarse_SAD": sad + 1 if refiner else sad})
        table.to_csv(folder / "validation.csv", index=False)
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """`drawn({name: RunTables})` gives the figure instead of its PNG."""

    def drawn(runs: dict[str, RunTables]) -> Figure:
        kept: list[Figure] = []
        monkeypatch.setattr(plots, "write_figure", lambda path, figure: kept.append(figure))
        save_comparison(Path("curves.png"), runs)
        return kept[0]

    return drawn


def lines(figure: Figure, title: str) -> list[tuple[str, str, list[float], list[float]]]:
    """Colour, style, x and y of the lines of a panel that show anything."""
    axes = next(each for each in figure.axes if title in each.get_title())
    return [
        (to_hex(line.get_color()), line.get_linestyle(), list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if len(line.get_xdata())
    ]


def legend(figure: Figure) -> dict[str, str]:
    """Text to colour."""
    (found,) = figure.legends
    return {
        text.get_text(): to_hex(handle.get_color())
        for text, handle in zip(found.get_texts(), found.legend_handles, strict=True)
    }


def test_a_figure_and_a_table(run: Callable, tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a/tsr"), write_run(tmp_path / "b/tsr", rows=10, epochs=2, level=2.0)]
    finished = run(curves.main, *folders, "--output", tmp_path / "out/curves.png")
    assert finished.status == 0, finished.err
    assert finished.created == ["out", "out/curves.png"] and read_rgb(tmp_path / "out/curves.png").std() > 5
    head, first, second, path = finished.out.splitlines()
    assert head.split() == ["run", "epoch", "step", "best", "SAD", "at", "epoch", "last", "SAD", "images/s"]
    assert first.split() == ["a/tsr", "3", "600", "1.0000", "2", "2.0000", "8.00"]
    assert second.split() == ["b/tsr", "1", "200", "2.0000", "1", "4.0000", "8.00"]
    assert path.endswith("curves.png")


def test_half_a_last_line_is_not_read(tmp_path: Path) -> None:
    """A run that is killed, or read while it writes: half a number must not pass for one."""
    whole, cut = (write_run(tmp_path / name) for name in ("whole", "cut"))
    for table, half in (("log.csv", "620,4,8.0,1"), ("validation.csv", "4,200,0")):
        with open(cut / table, "a") as file:
            file.write(half)
    for expected, have in zip(read_run(whole), read_run(cut), strict=True):
        pd.testing.assert_frame_equal(expected, have)


@pytest.mark.parametrize("text", [None, "", "step,epo", "step,epoch,images_per_second,total\n"])
def test_a_run_that_has_just_begun_is_in_the_table(run: Callable, tmp_path: Path, text: str | None) -> None:
    young, old = write_run(tmp_path / "young", epochs=0), write_run(tmp_path / "old")
    if text is not None:
        (young / "log.csv").write_text(text)
    finished = run(curves.main, young, old)
    assert finished.status == 0, finished.err
    assert finished.created == ["cwd/curves.png"]
    row = next(line for line in finished.out.splitlines() if "young" in line).split()
    assert row == (["young", "3", "600", "-", "-", "-", "8.00"] if text is None else ["young", *"------"])


def test_runs_without_a_row_are_drawn(drawn: Callable, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", epochs=0)
    (folder / "log.csv").write_text("")
    assert legend(drawn({"run": read_run(folder)})) == {"run: no validation yet": "#1f77b4"}
    save_comparison(tmp_path / "curves.png", {"run": read_run(folder)})


def test_each_run_has_a_colour(drawn: Callable, tmp_path: Path) -> None:
    runs = {
        "both": read_run(write_run(tmp_path / "both")),
        "plain": read_run(write_run(tmp_path / "plain", refiner=False)),
        "young": read_run(write_run(tmp_path / "young", rows=1, epochs=0)),
    }
    figure = drawn(runs)
    colours = legend(figure)
    assert list(colours) == [
        "both: best SAD 1 at epoch 2",
        "plain: best SAD 1 at epoch 2",
        "young: no validation yet",
    ]
    both, plain, young = colours.values()
    assert len({both, plain, young}) == 3
    assert lines(figure, "SAD") == [
        (both, "--", [1, 2, 3], [3, 2, 3]),
        (both, "-", [1, 2, 3], [2, 1, 2]),
        (plain, "-", [1, 2, 3], [2, 1, 2]),
    ]
    assert [line[:3] for line in lines(figure, "MSE")] == [(each, "-", [1, 2, 3]) for each in (both, plain)]
    assert lines(figure, "MSE")[0][3] == pytest.approx([20, 10, 20])
    assert {line[0] for line in lines(figure, "loss")} == {both, plain, young}


def test_many_runs_have_different_colours(drawn: Callable, tmp_path: Path) -> None:
    tables = read_run(write_run(tmp_path / "run"))
    figure = drawn({str(number): tables for number in range(14)})
    assert len(set(legend(figure).values())) == 14


def test_the_loss_is_smoothed_without_lag_and_without_what_is_not_finite(drawn: Callable, tmp_path: Path) -> None:
    tables = read_run(write_run(tmp_path / "run", rows=100))
    total = np.array(tables.log["step"], float)  # a straight line stays one
    total[[50, 70]] = 1e9, np.nan  # a spike, and nothing
    figure = drawn({"run": RunTables(tables.log.assign(total=total), tables.validation)})
    raw, smooth = lines(figure, "loss")
    np.testing.assert_array_equal(raw[3], total)
    np.testing.assert_allclose(smooth[3][5:-5], tables.log["step"][5:-5], atol=20)
    assert np.isfinite(smooth[3]).all()


def test_folders_of_any_name_are_in_the_legend(tmp_path: Path, drawn: Callable) -> None:
    tables = read_run(write_run(tmp_path / "run"))
    names = ["_old", "a $\\q$ b", "line\nbreak", "no text \udcff"]
    runs = dict.fromkeys(names, tables)
    save_comparison(tmp_path / "curves.png", runs)
    shown = [text.split(":")[0] for text in legend(drawn(runs))]
    assert shown == [*names[:2], r"line\nbreak", r"no text \udcff"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/r/a", "/r/b"], ["a", "b"]),
        (["/r/a/run", "/r/b/run", "/r/c"], ["a/run", "b/run", "c"]),
        (["/x/b/run", "/y/b/run", "/y/c/run"], ["x/b/run", "y/b/run", "c/run"]),
        (["/run", "/a/run"], ["/run", "a/run"]),
        (["/r/one/../a"], ["a"]),
    ],
)
def test_names_are_as_short_as_they_may_be(paths: list[str], names: list[str]) -> None:
    assert short_names([Path(path) for path in paths]) == names


def test_the_working_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert short_names([Path()]) == ["mine"]


def test_wrong_use(refused: Callable, tmp_path: Path) -> None:
    good, other = write_run(tmp_path / "good"), tmp_path / "other"
    assert "name at least one" in refused(curves.main)
    assert "--output" in refused(curves.main, good, "--output", "curves.txt")
    line = refused(curves.main, good, other)
    assert str(other) in line and "log.csv" in line
    assert "2 times" in refused(curves.main, good, tmp_path / "good/../good")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,epoch,images_per_second,total\n1,2,x,4\n", "a\n1,2\n1,2,3\n"])
def test_another_table_is_named(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "log.csv").write_text(text)
    with pytest.raises(UserError, match=r"log\.csv: not the table of a run"):
        read_run(folder)
