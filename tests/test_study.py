"""tools.study: the same data, length and pictures for all arms; interrupted and continued; what is written of it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from config import PRESETS, Config, EmbeddedConfig, parse_cli
from tools import study
from utils import strategy_plots
from utils.images import read_rgb
from utils.inference import load_model
from utils.pairs import Pair
from utils.strategies import ARMS, DENSE, STRATEGIES, Run, plan, score_pictures, training_command
from utils.strategy_plots import Compared, as_markdown
from utils.synthetic import write_embedded

ROOT = Path(__file__).resolve().parents[1]
SCORES = (
    "SAD",
    "MSE",
    "Grad",
    "Conn",
    "SAD_band3",
    "SAD_band10",
    "SAD_band30",
    "MSE_band3",
    "fog",
    "sharpness",
    "edge_length",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "pictures"
    write_embedded(root, train=8, val=3, long_side=(64, 80), workers=1)
    return root


def arguments(data: Path, out: Path, *more: Any, samples: int = 8) -> tuple[Any, ...]:
    return (
        "--data-roots", data, "--samples", samples, "--runs", out / "runs", "--out", out / "results",
        "--figures", out / "figures", *more,
    )  # fmt: skip


def test_arms_differ_from_the_whole_method_in_what_they_say() -> None:
    def parsed(arm: str) -> dict[str, Any]:
        run = Run("d", arm, 3, Path("runs/d"))
        command = training_command(run, preset="demo", dataset="custom", data_root=Path("d"), epochs=2, device="cpu")
        config = parse_cli(Config, prog="train.py", description="", argv=command[3:], default=PRESETS["demo"]())
        return {
            f"{section}.{name}": value
            for section, values in vars(config).items() if section != "preset"
            for name, value in vars(values).items()
        }  # fmt: skip

    configs = {arm: parsed(arm) for arm in ARMS}
    changes = {
        arm: {name for name, value in config.items() if configs["tsr"][name] != value}
        for arm, config in configs.items()
    }
    alone = {"teacher.teacher", "model.refiner", "loss.error_weight"}
    known = {
        "baseline": alone,
        "dilation": alone | {"data.dilate_px"},
        "tsr": set(),
        "teacher only": alone - {"teacher.teacher"},
        "refiner only": {"teacher.teacher"},
        "random teacher": {"teacher.teacher_epochs"},
        "swin teacher": {"teacher.teacher"},
        "no gradient map": {"model.gradient_map"},
        "no zero initialisation": {"model.zero_init"},
    }
    assert {arm: changes[arm] for arm in known} == known


def test_an_early_end_leaves_a_whole_seed_and_then_the_strategies() -> None:
    runs = plan(["a", "b"], ["tsr", "no gradient map"], [5, 6], Path("runs"))
    assert [run.seed for run in runs] == [5] * 4 + [6] * 4
    assert [run.arm for run in runs] == ["tsr", "no gradient map"] * 2 + ["tsr"] * 2 + ["no gradient map"] * 2
    assert len({run.folder for run in runs}) == 8
    assert all(" " not in str(run.folder) for run in runs)


def test_scores_and_pictures_of_all_strategies(run: Callable, data: Path, tmp_path: Path) -> None:
    given = arguments(data, tmp_path, "--arms", *STRATEGIES, "--seeds", 4)
    finished = run(study.main, *given)
    assert finished.status == 0, finished.err
    content = json.loads((tmp_path / "results/study.json").read_text())
    rows = {row["arm"]: row for row in content["rows"]}
    assert list(rows) == [*STRATEGIES, DENSE] and content["images"] == {"pictures": 3}
    for row in rows.values():
        assert row["seed"] == 4 and all(np.isfinite(row[score]) for score in SCORES)
        assert [each["epoch"] for each in row["validation"]] == [1] and row["steps"] == 1 and row["step_s"] > 0
    last = rows["baseline"]["validation"][-1]["SAD"]
    assert rows["baseline"]["SAD"] == pytest.approx(last, rel=1e-5), "the same pictures, the last weights"
    predictor = load_model(tmp_path / "runs/pictures/tsr-4/last.pth")
    pairs = study.find_pairs(data, "embedded", "val")
    assert score_pictures(predictor, pairs)["Grad"] == pytest.approx(rows["tsr"]["Grad"])
    assert (tmp_path / "results/study.md").read_text().count("\n| ") == 5 + 4  # a line an arm, and headings
    for name in ("study_convergence", "study_bands", "tsr_compare"):
        assert min(read_rgb(tmp_path / f"figures/{name}.png").shape[:2]) > 300
    again = run(study.main, *given)
    assert again.status == 0 and "training" not in again.out and again.created == []
    fewer = run(study.main, *arguments(data, tmp_path, "--arms", "tsr", "--seeds", 4))
    assert fewer.status == 2 and "holds 2 networks" in fewer.err and "baseline on pictures, seed 4" in fewer.err
    scores = tmp_path / "runs/pictures/dilation-4/scores.json"
    scores.write_text(scores.read_text().replace(pairs[0].name, "another"))
    assert "dilation-4 was scored on other pictures" in run(study.main, *given).err
    scores.write_text(scores.read_text().replace("another", pairs[0].name))
    other = run(study.main, *arguments(data, tmp_path, "--arms", *STRATEGIES, "--seeds", 4, samples=17))
    assert other.status == 2 and "--epochs 1 -> 3" in other.err and "baseline-4" in other.err


def test_the_embedded_data_is_made_where_it_is_not_there(run: Callable, elsewhere: Path, monkeypatch: Any) -> None:
    made = []
    monkeypatch.setattr(study, "write_embedded", lambda root, **sizes: made.append((root, sizes["train"])))
    finished = run(study.main, "--runs", elsewhere / "runs", "--out", elsewhere / "results")
    assert made == [(Path("data/embedded"), EmbeddedConfig().train)]
    assert finished.status == 2 and "data/embedded" in finished.err, "the stand-in made none"


def test_wrong_use(refused: Callable, data: Path, tmp_path: Path) -> None:
    assert "'baseline'" in refused(study.main, *arguments(data, tmp_path, "--arms", "basline"))
    assert "--seeds" in refused(study.main, *arguments(data, tmp_path, "--seeds", 1, 1))
    assert "--arms" in refused(study.main, *arguments(data, tmp_path, "--arms", "tsr", "tsr"))
    assert "lies in it" in refused(study.main, *arguments(data, tmp_path, "--figures", data / "val/im"))
    assert "--data-roots" in refused(study.main, "--data-roots", "a/x", "b/x")
    assert "--preset nosuch: unknown" in refused(study.main, "--preset", "nosuch")


def test_a_training_that_fails_is_named(run: Callable, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs/pictures/baseline-0"
    folder.mkdir(parents=True)
    (folder / "best.pth").write_text("somebody's")
    finished = run(study.main, *arguments(data, tmp_path, "--arms", "baseline", "--seeds", 0))
    assert finished.status == 2 and f"{folder}.log" in finished.err
    assert "error" in (tmp_path / "runs/pictures/baseline-0.log").read_text()


@pytest.mark.parametrize("by", ["budget", "Ctrl-C", "a closed terminal"])
def test_what_is_under_way_is_saved_and_continued(run: Callable, data: Path, tmp_path: Path, by: str) -> None:
    given = map(str, arguments(data, tmp_path, "--arms", "baseline", "--seeds", 0, samples=400))
    command = [sys.executable, "-m", "tools.study", *given, *(["--budget", "0.25"] if by == "budget" else [])]
    if by == "budget":  # as where it runs in the background: Ctrl-C is not for it, nor for those it starts
        command = ["sh", "-c", 'trap \'\' INT; exec "$0" "$@"', *command]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / "runs/pictures/baseline-0"
    if by != "budget":
        while process.poll() is None and not (folder / "log.csv").is_file():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT if by == "Ctrl-C" else signal.SIGHUP)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == {"budget": 0, "Ctrl-C": 130, "a closed terminal": 129}[by], said
    assert not (folder / "scores.json").exists() and "Traceback" not in said
    if by == "budget":
        assert "1 of 1 networks are left" in said
    else:
        assert (folder / "last.pth").is_file()
        steps = pd.read_csv(folder / "log.csv")["step"].max()
        assert steps < 50
    assert subprocess.run(["pgrep", "-f", str(folder)], capture_output=True).stdout == b"", "it leaves no process"


def test_the_tables_say_mean_and_spread_and_how_soon() -> None:
    def row(arm: str, seed: int, value: float, curve: tuple[float, ...]) -> dict[str, Any]:
        validation = [{"epoch": epoch, "SAD": sad} for epoch, sad in enumerate(curve, start=1)]
        about = {"data": "d", "arm": arm, "seed": seed, "step_s": 0.5, "validation": validation}
        return {**about, **dict.fromkeys(SCORES, value)}

    rows = [row("tsr", 0, 1.0, (5, 3, 1)), row("tsr", 1, 2.0, (3, 4.5, 2)), row("baseline", 0, 4.0, (9, 5, 4))]
    lines = as_markdown(rows, {"d": 7}).splitlines()
    lines = lines[lines.index("## d: 7 pictures that no network was trained on") :]
    assert lines[4].startswith("| baseline | 1 | 1.000 | 4.000 | ")
    assert lines[5].startswith("| tsr | 2 | 0.250 | 1.500 ± 0.707 | "), "of the baseline's: of seed 0 alone"
    assert "| 1500.000 ± 707.107 |" in lines[5], "of MSE, 1e-3"
    assert lines[9] == "| baseline | 9.000 | 5.000 | 3 |"
    assert lines[10] == "| tsr | 4.000 ± 1.414 | 3.750 ± 1.061 | 2 |"


def test_how_soon_is_when_it_stays_so() -> None:
    def stays(*curve: float) -> str:
        return strategy_plots._stays(pd.Series(curve, index=[1.0, 2.0, 3.0]), 4)

    assert [stays(9, 4, 3), stays(3, 5, 4), stays(3, 2, 1), stays(3, 4, 5)] == ["2", "3", "1", "-"]


def test_scores_are_compared_with_the_same_seed_s_baseline() -> None:
    rows = [
        {"data": data, "arm": arm, "seed": seed, "SAD": value}
        for data, arm, seed, value in [
            ("d", "baseline", 0, 4), ("d", "tsr", 0, 2), ("d", "tsr", 1, 30), ("d", "baseline", 1, 40),
            ("d", "tsr", 2, 1), ("e", "tsr", 0, 5),
        ]
    ]  # fmt: skip
    ratios = strategy_plots.of_baseline(rows, ["SAD"])
    assert ratios.loc[ratios["arm"] == "tsr", ["data", "seed", "SAD"]].values.tolist() == [
        ["d", 0, 0.5],
        ["d", 1, 0.75],
    ]


@pytest.mark.parametrize(("is_found", "shown"), [((True, True, False, False, True), "b"), ((False,) * 5, "c")])
def test_the_picture_that_is_shown_has_the_median_gain_of_those_where_the_subject_is_found(
    monkeypatch: Any, is_found: Sequence[bool], shown: str
) -> None:
    pairs = [Pair(name, Path(name), Path(name)) for name in "abcde"]
    gains = dict(zip(pairs, (5.0, 4.0, 2.0, 1.0, 0.0), strict=True))
    found = dict(zip(pairs, is_found, strict=True))
    blank = np.zeros((1, 1), np.float32)
    monkeypatch.setattr(
        strategy_plots,
        "compare_strategies",
        lambda pair, _: Compared(pair.name, blank, {}, gains[pair], found[pair], 0, 0, 1),
    )
    picture, of = strategy_plots.typical(pairs, {})
    assert picture.rgb == shown and of == (sum(is_found) or 5)
