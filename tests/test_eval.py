"""eval.py: results by hand, equality of all ways to the same numbers, interruptions, and wrong input."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eval as eval_script
from utils.cases import Case, check_cases
from utils.encoding import write_image
from utils.images import quantise, read_alpha, read_rgb
from utils.inference import load_model, predict_alpha
from utils.scorebook import Scorebook
from utils.scoring import COLUMNS, FAMILIES, mean_scores, score_image
from utils.trimaps import trimap_from_alpha

ROOT = Path(__file__).resolve().parents[1]
HERE = ("--num-workers", 0)  # in this process: quicker for small pictures


def levels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} in a result")


def read_metrics(folder: Path = Path("R")) -> dict[str, Any]:
    """metrics.json; nan or infinity in it fails the test."""
    return json.loads((folder / "metrics.json").read_text(), parse_constant=refuse_constant)


def read_rows(folder: Path = Path("R")) -> list[dict[str, str]]:
    with open(folder / "per_image.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def mattes(tmp_path: Path, make_pair: Callable) -> tuple[Path, Path]:
    """Seven soft truths of different sizes in `truth`, and mattes that differ from them in `mattes`."""
    rng = np.random.default_rng(0)
    for index in range(7):
        alpha = make_pair(36 + index, 50 - index)[1]
        noise = rng.normal(0, 8 + 4 * index, alpha.shape)
        write_image(tmp_path / "truth" / f"{index}.png", alpha)
        write_image(tmp_path / "mattes" / f"{index}.png", np.clip(alpha + noise, 0, 255).astype(np.uint8))
    return tmp_path / "mattes", tmp_path / "truth"


@pytest.fixture
def score(run: Callable, mattes: tuple[Path, Path]) -> Callable:
    """`score(*arguments)` scores the mattes into the folder R."""

    def score(*arguments: Any) -> Any:
        return run(
            eval_script.main, "--predictions", mattes[0], "--ground-truth", mattes[1], "--out", "R", *HERE, *arguments
        )

    score.run = run
    return score


# ------------------------------------------------------------------------------------------------- numbers


def test_by_hand(run: Callable, tmp_path: Path) -> None:
    truth, mattes = tmp_path / "truth", tmp_path / "anybody"
    write_image(truth / "a.png", levels([0, 255], [255, 0]))
    write_image(mattes / "a.png", levels([51, 255], [0, 0]))  # off by 0.2 and 1.0
    write_image(truth / "x" / "b.png", levels([255, 255, 255, 255]))
    write_image(mattes / "x" / "b.png", levels([255, 255, 255, 102]))  # off by 0.6
    finished = run(eval_script.main, "--predictions", mattes, "--ground-truth", truth, "--out", "R", *HERE)
    assert finished.status == 0, finished.err

    entry = read_metrics()["anybody"]
    expected = {"SAD": (1.2 + 0.6) / 2 / 1000, "MSE": (1.04 / 4 + 0.36 / 4) / 2, "MAD": (1.2 / 4 + 0.6 / 4) / 2}
    for name, value in expected.items():
        assert entry["metrics"][name] == pytest.approx(value, abs=1e-7)
    assert entry["images"] == 2 and entry["region"] == "whole image" and entry["resolution"] == "ground truth's own"
    assert set(entry["units"]) == set(entry["metrics"]) and "HCE" not in entry["metrics"]
    best = entry["best_constant_alpha"]  # 6 of 8 pixels are white: all-white misses two
    assert best["alpha"] == 1.0 and best["SAD"] == pytest.approx(2 / 2 / 1000)

    rows = read_rows()
    assert next(iter(rows[0])) == "name" and {"benchmark", "height", "width", "SAD", "MSE", "MAD"} <= set(rows[0])
    assert [row["name"] for row in rows] == ["a", "x/b"]
    assert float(rows[0]["SAD"]) == pytest.approx(1.2 / 1000, abs=1e-7)
    assert (rows[1]["height"], rows[1]["width"]) == ("1", "4")
    assert "0.2250" in finished.out and "images" in finished.out and "nan" not in finished.out.lower()


def test_the_mean_of_every_column_is_the_score(score: Callable) -> None:
    assert score("--unknown-region", "--metrics", *FAMILIES).status == 0
    entry, rows = read_metrics()["mattes"], read_rows()
    assert set(entry["metrics"]) == set(COLUMNS)  # nothing that is asked for is left out
    for name, value in entry["metrics"].items():
        assert np.mean([float(row[name]) for row in rows]) == pytest.approx(value, rel=1e-12), name
    band = entry["boundary_band"][0]
    assert np.mean([float(row["band3_pixels"]) for row in rows]) == pytest.approx(band["pixels"], rel=1e-12)


@pytest.mark.parametrize("metric", FAMILIES)
def test_any_metric_can_be_asked_for_alone(score: Callable, metric: str) -> None:
    assert score("--metrics", metric, "--examples", 0).status == 0
    entry = read_metrics()["mattes"]
    own = {"F": ["F_max", "F_mean", "F_adaptive"], "wF": ["F_weighted"], "E": ["E_max", "E_mean", "E_adaptive"]}
    assert list(entry["metrics"]) == ([] if metric == "band" else own.get(metric, [metric]))
    assert ("boundary_band" in entry) == (metric == "band")


def test_processes_and_this_one_agree_to_the_last_digit(score: Callable) -> None:
    assert score("--metrics", *FAMILIES).status == 0
    here = [Path("R", name).read_bytes() for name in ("metrics.json", "per_image.csv", "report.html")]
    assert score("--metrics", *FAMILIES, "--overwrite", "--num-workers", 2).status == 0
    assert here == [Path("R", name).read_bytes() for name in ("metrics.json", "per_image.csv", "report.html")]


def test_a_checkpoint_is_scored_as_its_alphas_are(
    run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    """Not as an 8-bit picture of them."""
    names = write_pairs(tmp_path / "data" / "test", {"a": (40, 50), "b": (70, 60), "c": (30, 90)})
    finished = run(
        eval_script.main, "--checkpoint", checkpoint, "--data-root", tmp_path / "data", "--benchmarks", "Custom",
        "--out", "R", "--metrics", *FAMILIES,
    )  # fmt: skip
    assert finished.status == 0, finished.err
    predictor = load_model(checkpoint)
    images = []
    for name in names:
        rgb, alpha = (tmp_path / "data" / "test" / folder / f"{name}.png" for folder in ("im", "gt"))
        images.append(score_image(name, predict_alpha(predictor, read_rgb(rgb)), read_alpha(alpha), metrics=FAMILIES))
    expected, entry = mean_scores(images).mean, read_metrics()["Custom"]
    assert entry["metrics"] == pytest.approx({name: expected[name] for name in entry["metrics"]}, rel=1e-6)
    assert entry["source"]["checkpoint"] == str(checkpoint) and len(entry["source"]["sha256"]) == 64
    assert entry["prediction"] == "float, not rounded"


def test_rounding_is_asked_for_and_said(run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path) -> None:
    """Rounded, the scores are those of the mattes that predict.py would save."""
    (name,) = write_pairs(tmp_path / "data" / "test", {"a": (60, 80)})
    model = ("--checkpoint", checkpoint, "--data-root", tmp_path / "data", "--benchmarks", "custom")
    alpha = predict_alpha(load_model(checkpoint), read_rgb(tmp_path / "data/test/im/a.png"))
    write_image(tmp_path / "saved" / f"{name}.png", quantise(alpha))
    run(eval_script.main, *model, "--out", "rounded", "--round-predictions", *HERE)
    run(eval_script.main, *model, "--out", "float", *HERE)
    folders = ("--predictions", tmp_path / "saved", "--ground-truth", tmp_path / "data/test/gt")
    run(eval_script.main, *folders, "--out", "saved", *HERE)
    rounded, as_float, saved = (
        next(iter(read_metrics(Path(folder)).values())) for folder in ("rounded", "float", "saved")
    )
    assert rounded["metrics"] == saved["metrics"] != as_float["metrics"]
    assert rounded["prediction"] == "rounded to 8 bits"


def test_sixteen_bits_and_colour_channels_are_read_as_what_they_mean(
    score: Callable, mattes: tuple[Path, Path]
) -> None:
    assert score().status == 0
    before = read_metrics()["mattes"]["metrics"]
    for index, path in enumerate(sorted(mattes[0].iterdir())):
        grey = np.array(Image.open(path))
        if index % 3 == 0:
            write_image(path, grey.astype(np.uint16) * 257)
        elif index % 3 == 1:
            write_image(path, np.dstack([grey] * 3))
        else:
            write_image(path, np.dstack([np.zeros_like(grey)] * 3 + [grey]))  # a cut-out: the matte is its alpha
    assert score("--overwrite").status == 0
    assert read_metrics()["mattes"]["metrics"] == before


# ------------------------------------------------------------------------------------------------- trimaps


def test_given_trimaps_by_hand(run: Callable, tmp_path: Path) -> None:
    write_image(tmp_path / "truth" / "a.png", levels([0, 255, 255, 0]))
    write_image(tmp_path / "mattes" / "a.png", levels([51, 255, 0, 0]))  # off by 0.2 outside and 1.0 inside
    write_image(tmp_path / "trimaps" / "a.png", levels([0, 128, 128, 0]))
    folders = ("--predictions", tmp_path / "mattes", "--ground-truth", tmp_path / "truth")
    finished = run(eval_script.main, *folders, "--trimaps", tmp_path / "trimaps", "--out", "R", *HERE)
    assert finished.status == 0, finished.err
    entry = read_metrics()["mattes"]
    assert entry["metrics"]["SAD_unknown"] == pytest.approx(1 / 1000)
    assert entry["metrics"]["MSE_unknown"] == pytest.approx(1 / 2)
    assert entry["metrics"]["SAD"] == pytest.approx(1.2 / 1000, abs=1e-9)
    assert str(tmp_path / "trimaps") in entry["region"] and entry["empty_unknown"] == 0


def test_trimaps_are_made_beside_the_results(score: Callable, mattes: tuple[Path, Path]) -> None:
    before = sorted(mattes[1].rglob("*"))
    assert score("--unknown-region", "--trimap-kernel-px", 7).status == 0
    assert sorted(mattes[1].rglob("*")) == before
    made = sorted(Path("R").rglob("trimaps*/**/*.png"))
    assert len(made) == 7
    images = []
    for path in made:
        alpha = read_alpha(mattes[1] / path.name)
        trimap = trimap_from_alpha(alpha, 7)
        assert np.array_equal(np.array(Image.open(path)), trimap)
        pred_alpha = read_alpha(mattes[0] / path.name)
        images.append(score_image(path.stem, pred_alpha, alpha, metrics=["SAD", "Conn"], unknown=trimap == 128))
    entry = read_metrics()["mattes"]
    assert "7 px" in entry["region"]
    assert entry["metrics"]["Conn_unknown"] == mean_scores(images).mean["Conn_unknown"]
    assert entry["metrics"]["SAD_unknown"] < entry["metrics"]["SAD"]


def test_wrong_trimaps(score: Callable, mattes: tuple[Path, Path], tmp_path: Path) -> None:
    trimaps = tmp_path / "trimaps"
    for path in mattes[1].iterdir():
        write_image(trimaps / path.name, trimap_from_alpha(read_alpha(path), 5))
    (trimaps / "3.png").unlink()
    finished = score("--trimaps", trimaps)
    assert finished.status == 2 and "1 of 7" in finished.err and "(3); complete" in finished.err
    write_image(trimaps / "3.png", levels([0, 128]))
    finished = score("--trimaps", trimaps)
    assert finished.status == 2 and "2x1" in finished.err
    write_image(trimaps / "3.png", np.array(Image.open(mattes[1] / "3.png")))  # the matte by mistake
    finished = score("--trimaps", trimaps)
    assert finished.status == 2 and str(trimaps / "3.png") in finished.err.splitlines()[-1]
    assert not Path("R").exists()  # found before any work: the corrected run needs no --overwrite


def test_published_trimaps_are_used(run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path) -> None:
    root = tmp_path / "AIM-500"
    write_pairs(root, {"a": (40, 50)})
    (root / "im").rename(root / "original")
    (root / "gt").rename(root / "mask")
    write_image(root / "trimap" / "a.png", trimap_from_alpha(read_alpha(root / "mask" / "a.png"), 9))
    finished = run(
        eval_script.main,
        "--checkpoint",
        checkpoint,
        "--data-root",
        root,
        "--benchmarks",
        "AIM-500",
        "--out",
        "R",
        *HERE,
    )
    assert finished.status == 0, finished.err
    entry = read_metrics()["AIM-500"]
    assert str(root / "trimap") in entry["region"] and 0 < entry["metrics"]["SAD_unknown"] < entry["metrics"]["SAD"]


# ------------------------------------------------------------------------------------------------- benchmarks


def test_what_does_not_match_in_a_benchmark(
    run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data/PPM-100/test"
    write_pairs(root, {name: (30, 40) for name in "abc"})
    (root / "im/a.png").unlink()
    (root / "gt/b.png").unlink()
    arguments = ("--checkpoint", checkpoint, "--data-root", tmp_path / "data", "--benchmarks", "PPM-100", *HERE)
    refused = run(eval_script.main, *arguments, "--out", "R")
    assert refused.status == 2 and "1 without alpha (b); 1 alphas without image (a)" in refused.err
    finished = run(eval_script.main, *arguments, "--out", "R", "--allow-missing")
    assert finished.status == 1, finished.err
    entry = read_metrics()["PPM-100"]
    assert entry["images"] == 1 and entry["reasons"] == {"a": "no image", "b": "no alpha"}


@pytest.mark.parametrize("name", ["DIS-mine", "mattes"])
def test_a_folders_name_does_not_decide_what_is_measured(score: Callable, tmp_path: Path, name: str) -> None:
    """HCE takes seconds an image: only a benchmark of DIS5K is known to be meant for it."""
    (tmp_path / "mattes").rename(tmp_path / name)
    mattes = ("--predictions", tmp_path / name, "--ground-truth", tmp_path / "truth", "--out", "R", *HERE)
    assert score.run(eval_script.main, *mattes).status == 0
    assert "HCE" not in read_metrics()[name]["metrics"]
    assert score.run(eval_script.main, *mattes, "--overwrite", "--metrics", "HCE").status == 0
    assert "HCE" in read_metrics()[name]["metrics"]


def test_all_benchmarks_that_are_there(run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path) -> None:
    for part in (1, 2, 3, 4):
        write_pairs(tmp_path / "data" / "DIS5K" / f"DIS-TE{part}", {f"{part}_{i}": (30, 40) for i in range(part)})
    write_pairs(tmp_path / "data" / "PPM-100" / "test", {"p": (30, 40)})
    finished = run(
        eval_script.main, "--checkpoint", checkpoint, "--data-root", tmp_path / "data", "--benchmarks", "all",
        "--out", "R", *HERE,
    )  # fmt: skip
    assert finished.status == 0, finished.err
    entries = read_metrics()
    sizes = {"DIS-TE1": 1, "DIS-TE2": 2, "DIS-TE3": 3, "DIS-TE4": 4, "DIS-TE": 10, "PPM-100": 1}
    assert {name: entry["images"] for name, entry in entries.items()} == sizes
    assert all(("HCE" in entry["metrics"]) == name.startswith("DIS") for name, entry in entries.items())
    pooled = sum(entries[f"DIS-TE{part}"]["metrics"]["SAD"] * part for part in (1, 2, 3, 4)) / 10
    assert entries["DIS-TE"]["metrics"]["SAD"] == pytest.approx(pooled, rel=1e-12)
    (absent,) = (line for line in finished.out.splitlines() if line.startswith("absent"))
    assert "HRS10K" in absent and "DIS-VD" in absent and "DIS-TE" not in absent and "PPM" not in absent
    page = Path("R/report.html").read_text()
    assert all(name in page for name in sizes)


# ------------------------------------------------------------------------------------------------- bad input


def test_missing_and_extra_mattes_are_counted_and_named(score: Callable, mattes: tuple[Path, Path]) -> None:
    (mattes[0] / "2.png").unlink()
    (mattes[0] / "5.png").unlink()
    write_image(mattes[0] / "stranger.png", levels([0]))
    finished = score()
    assert finished.status == 2 and not Path("R").exists()
    line = finished.err.splitlines()[-1]
    assert "2 of 7" in line and "(2, 5)" in line and "1 have no truth (stranger)" in line and "--allow-missing" in line
    finished = score("--allow-missing")
    assert finished.status == 0  # it was allowed
    assert "5 of 7" in finished.out and "2 without prediction" in finished.out and "1 predictions" in finished.out
    entry = read_metrics()["mattes"]
    assert (entry["images"], entry["left_out"]) == (5, 2) and set(entry["reasons"]) == {"2", "5"}
    assert "2 of 7" in Path("R/table.txt").read_text()


def test_the_screen_names_some_and_metrics_json_all(run: Callable, tmp_path: Path) -> None:
    for index in range(14):
        write_image(tmp_path / "truth" / f"{index}.png", levels([0, 255]))
    write_image(tmp_path / "mattes" / "5.png", levels([0, 255]))
    write_image(tmp_path / "mattes" / "a\nb.png", levels([0, 255]))
    folders = ("--predictions", tmp_path / "mattes", "--ground-truth", tmp_path / "truth")
    finished = run(eval_script.main, *folders, "--out", "R", "--allow-missing", *HERE)
    assert finished.status == 0, finished.err
    lines = finished.out.splitlines()
    assert "without prediction: 0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 3 more" in lines
    assert r"without truth: a\nb" in lines
    assert set(read_metrics()["mattes"]["reasons"]) == {str(index) for index in range(14)} - {"5"}


def test_unusable_files_are_named_and_can_be_left_out(score: Callable, mattes: tuple[Path, Path]) -> None:
    damaged, other_size, colour = (mattes[0] / f"{index}.png" for index in (1, 3, 6))
    damaged.write_bytes(damaged.read_bytes()[:-30])
    write_image(other_size, levels([0, 255]))
    finished = score()
    line = finished.err.splitlines()[-1]
    assert finished.status == 2 and "2 of 7" in line and str(damaged) in line and str(other_size) in line
    assert not Path("R").exists()
    rng = np.random.default_rng(0)  # a photograph: only decoding shows it
    write_image(colour, rng.integers(0, 256, (42, 44, 3), dtype=np.uint8))
    finished = score()
    assert finished.status == 2 and "3 of 7" in finished.err and str(colour) in finished.err
    assert not Path("R").exists()
    finished = score("--allow-missing")
    assert finished.status == 1 and str(colour) in finished.out  # done, but some failed
    entry = read_metrics()["mattes"]
    assert (entry["images"], entry["left_out"]) == (4, 3) and set(entry["reasons"]) == {"1", "3", "6"}


def test_cases_are_checked_as_they_are_read(tmp_path: Path) -> None:
    truth, photograph, numbers = (tmp_path / name for name in ("truth.png", "photo.png", "float.tif"))
    write_image(truth, levels([0, 255], [255, 0]))
    write_image(photograph, np.zeros((2, 2, 3), np.uint8))
    Image.fromarray(np.zeros((2, 2), np.float32)).save(numbers)
    cases = [Case("model", truth, image=photograph), Case("float photograph", truth, image=numbers)]
    cases += [Case("float matte", truth, numbers), Case("float beside a matte", truth, truth, image=numbers)]
    problems, pixels = check_cases(cases, max_pixels=100)
    assert list(problems) == ["float photograph"] and str(numbers) in problems["float photograph"] and pixels == 4


def test_wrong_folders(refused: Callable[..., str], tmp_path: Path) -> None:
    write_image(tmp_path / "truth" / "a.png", levels([0, 255]))
    (tmp_path / "empty").mkdir()

    def line(mattes: str, truth: str) -> str:
        return refused(eval_script.main, "--predictions", tmp_path / mattes, "--ground-truth", tmp_path / truth)

    assert "nowhere" in line("nowhere", "truth")
    assert "nowhere" in line("truth", "nowhere")
    assert "empty" in line("truth", "empty")
    assert "empty" in line("empty", "truth")
    write_image(tmp_path / "other" / "a.png", levels([0, 255, 0]))
    assert "2x1" in line("other", "truth")
    assert "same folder" in line("truth", "truth")


def test_degenerate_truths_have_rules_not_nan(run: Callable, tmp_path: Path) -> None:
    one = np.zeros((20, 30), np.uint8)
    one[-1, -1] = 255
    truths = {"black": 0 * one, "white": 0 * one + 255, "one": one, "soft": 0 * one + 77, "thin": one[:, -1:]}
    for name, truth in truths.items():
        write_image(tmp_path / "truth" / f"{name}.png", truth)
        for kind, matte in {"same": truth, "black": 0 * truth, "white": 0 * truth + 255}.items():
            write_image(tmp_path / kind / f"{name}.png", matte)
    for kind in ("same", "black", "white"):
        finished = run(
            eval_script.main, "--predictions", tmp_path / kind, "--ground-truth", tmp_path / "truth", "--out", kind,
            "--unknown-region", "--metrics", *FAMILIES, *HERE,
        )  # fmt: skip
        assert finished.status == 0, finished.err
        entry = read_metrics(Path(kind))[kind]  # which refuses nan
        assert entry["empty_truth"] == 2 and entry["empty_unknown"] == 2  # black and soft (77 <= 128); black and white
        assert "2 truths have no foreground" in finished.out and "2 trimaps have no unknown" in finished.out
        assert "nan" not in Path(kind, "per_image.csv").read_text()
    same = read_metrics(Path("same"))["same"]["metrics"]
    assert all(same[name] == 0 for name in ("SAD", "MSE", "MAD", "Conn", "HCE", "Conn_unknown"))
    assert same["Grad"] < 1e-20  # OpenCV's filters may round the same numbers differently at another address
    assert same["mBA"] == same["BIoU"] == 1


@pytest.mark.parametrize("inside", ["mattes", "mattes/R", "truth/x/R", "link/R"])
def test_results_are_never_written_among_the_inputs(
    score: Callable, mattes: tuple[Path, Path], tmp_path: Path, inside: str
) -> None:
    (tmp_path / "link").symlink_to(mattes[1])
    before = sorted(tmp_path.rglob("*"))
    finished = score("--unknown-region", "--out", tmp_path / inside)
    assert finished.status == 2 and f"--out {tmp_path / inside} is" in finished.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_photograph_that_is_only_shown_decides_nothing(score: Callable, mattes: tuple[Path, Path]) -> None:
    score("--out", "without")
    for path in mattes[1].iterdir():
        write_image(Path("photos") / path.name, levels([1, 2, 3]))
    Path("photos/3.png").write_text("no picture")
    assert score("--images", "photos", "--allow-missing").status == 0
    assert read_metrics()["mattes"]["metrics"] == read_metrics(Path("without"))["mattes"]["metrics"]


def test_trimaps_never_replace_an_input(score: Callable, mattes: tuple[Path, Path]) -> None:
    inputs = Path("R/trimaps_25px/mattes")
    inputs.parent.mkdir(parents=True)
    mattes[0].rename(inputs)
    before = (inputs / "0.png").read_bytes()
    finished = score("--unknown-region", "--predictions", inputs)
    assert finished.status == 2 and (inputs / "0.png").read_bytes() == before
    assert "--out: its folder R/trimaps_25px holds R/trimaps_25px/mattes" in finished.err


@pytest.mark.parametrize("out", ["", ".", "./"])
def test_results_need_a_folder_of_their_own(refused: Callable[..., str], mattes: tuple[Path, Path], out: str) -> None:
    line = refused(eval_script.main, "--predictions", mattes[0], "--ground-truth", mattes[1], "--out", out)
    assert "--out is empty" in line


@pytest.mark.parametrize("name", ["scores.jsonl", "metrics.json", "per_image.csv", "report.html", "table.txt"])
def test_a_folder_in_the_place_of_a_result_is_found_at_the_start(score: Callable, name: str) -> None:
    Path("R", name).mkdir(parents=True)
    finished = score("--overwrite")
    assert finished.status == 2 and name in finished.err and "is a folder" in finished.err
    assert os.listdir("R") == [name]


def test_options_of_models_have_no_effect_on_mattes_and_that_is_said(score: Callable) -> None:
    (note,) = (line for line in score("--device", "cpu").out.splitlines() if line.startswith("note"))
    assert "--device" in note and "--benchmarks" not in note
    assert "note" not in score("--overwrite").out


def test_no_more_processes_than_fit_into_the_memory(
    score: Callable, mattes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(eval_script, "cpu_cores", lambda: 5)
    monkeypatch.setattr(eval_script, "process_pool", lambda workers: asked.append(workers) or nullcontext())
    arguments = ("--predictions", mattes[0], "--ground-truth", mattes[1], "--out", "R", "--overwrite")
    largest = 42 * 44  # pixels
    for images, (memory, given, expected) in enumerate(
        [(3.5, (), 3), (0.1, (), 1), (math.inf, (), 5), (3.5, ("--num-workers", 4), 4), (math.inf, (), 5)]
    ):
        monkeypatch.setattr(eval_script, "free_memory", lambda memory=memory: memory * 100 * largest)
        finished = score.run(eval_script.main, *arguments, *given)
        assert finished.status == 0 and asked[images] == expected
        assert ("processes, not 5" in finished.out) == (expected in (1, 3))


def test_what_a_killed_run_left_is_removed(score: Callable) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = [Path("R", f".{child.pid}-1.tmp"), Path("R/trimaps_25px/mattes/x", f".{child.pid}-2.tmp")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (0, 0))
    assert score("--unknown-region").status == 0
    assert not any(path.exists() for path in left)


def test_a_name_that_no_disk_can_hold(score: Callable) -> None:
    finished = score("--out", "n" * 300)
    assert finished.status == 2 and "Traceback" not in finished.err


def test_results_are_not_replaced_unasked(score: Callable, mattes: tuple[Path, Path]) -> None:
    score()
    before = Path("R/metrics.json").read_bytes()
    write_image(mattes[0] / "0.png", np.array(Image.open(mattes[1] / "0.png")))
    finished = score()
    assert finished.status == 2 and "--resume" in finished.err and "--overwrite" in finished.err
    assert Path("R/metrics.json").read_bytes() == before
    assert score("--overwrite").status == 0
    assert Path("R/metrics.json").read_bytes() != before


# ------------------------------------------------------------------------------------------------- interruptions


def outcome(folder: Path = Path("R")) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("metrics.json", "per_image.csv", "report.html", "table.txt")]


@pytest.fixture
def interrupted(score: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`interrupted(after, *arguments)`: as if Ctrl-C were pressed after so many images."""

    def interrupted(after: int, *arguments: Any) -> None:
        add, count = Scorebook.add, iter(range(after))

        def counted(*given: Any) -> None:
            if next(count, None) is None:
                raise KeyboardInterrupt
            add(*given)

        with monkeypatch.context() as patch:
            patch.setattr(Scorebook, "add", counted)
            assert score(*arguments).status == 130
        assert not Path("R/metrics.json").exists()

    return interrupted


@pytest.mark.parametrize("cut", [0, 1, 500])
def test_an_interrupted_evaluation_continues_with_the_same_numbers(
    score: Callable, interrupted: Callable, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    arguments = ("--unknown-region", "--examples", 1, "--metrics", *FAMILIES)
    score(*arguments, "--out", "straight")
    interrupted(4, *arguments)
    scores = Path("R/scores.jsonl")
    scores.write_bytes(scores.read_bytes()[: -cut or None])  # as a kill may leave it
    scored, add = [], Scorebook.add
    monkeypatch.setattr(Scorebook, "add", lambda *given: (scored.append(given[2].case.name), add(*given)))
    finished = score(*arguments, "--resume")
    assert finished.status == 0, finished.err
    assert scored == (["4", "5", "6"] if cut == 0 else ["3", "4", "5", "6"]) or (cut == 1 and len(scored) == 3)
    assert outcome() == outcome(Path("straight"))
    assert score(*arguments, "--resume").status == 0  # nothing left to do
    assert outcome() == outcome(Path("straight"))


def test_a_file_that_has_changed_is_scored_again(
    score: Callable, interrupted: Callable, mattes: tuple[Path, Path]
) -> None:
    interrupted(5)
    write_image(mattes[0] / "1.png", np.array(Image.open(mattes[1] / "1.png")))
    assert score("--resume").status == 0
    assert float(read_rows()[1]["SAD"]) == 0


def test_a_resume_with_other_settings_is_refused(score: Callable, interrupted: Callable) -> None:
    interrupted(2)
    for other in (("--metrics", "SAD"), ("--unknown-region",), ("--round-predictions",)):
        finished = score("--resume", *other)
        assert finished.status == 2 and other[0][2:].replace("-", " ") in finished.err
    assert score("--resume").status == 0


def test_the_same_settings_may_be_written_otherwise(
    score: Callable, interrupted: Callable, mattes: tuple[Path, Path]
) -> None:
    trimaps = Path("trimaps")
    for path in mattes[1].iterdir():
        write_image(trimaps / path.name, trimap_from_alpha(read_alpha(path), 5))
    interrupted(2, "--metrics", "SAD", "MSE", "--trimaps", trimaps)
    relative = ("--predictions", os.path.relpath(mattes[0]), "--ground-truth", os.path.relpath(mattes[1]))
    again = ("--metrics", "MSE", "SAD", "MSE", "--trimaps", trimaps.absolute())
    assert score(*relative, *again, "--resume").status == 0
    assert score("--resume", "--metrics", "MSE", "SAD").status == 2  # without trimaps is another thing


def test_what_ended_before_its_first_score_is_in_nobodys_way(score: Callable, interrupted: Callable) -> None:
    interrupted(0, "--metrics", "SAD")
    assert Path("R/scores.jsonl").exists()
    assert score("--resume").status == 0  # other settings, but of nothing
    for name in os.listdir("R"):
        Path("R", name).unlink()
    interrupted(0)
    assert score().status == 0
    for name in ("metrics.json", "per_image.csv", "report.html", "table.txt"):
        Path("R", name).unlink()
    assert score().status == 2  # scores are results
    Path("R/scores.jsonl").write_text("somebody's notes\n")
    assert score().status == 2 and Path("R/scores.jsonl").read_text() == "somebody's notes\n"


def test_pictures_that_were_not_made_are_made_in_the_end(
    score: Callable, mattes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst and the best image change: those that are shown in their place had no pictures yet."""
    arguments = ("--examples", 1, "--metrics", "SAD")
    write_image(mattes[0] / "0.png", 255 - np.array(Image.open(mattes[1] / "0.png")))
    write_image(mattes[0] / "1.png", np.array(Image.open(mattes[1] / "1.png")))
    score(*arguments)
    middle = np.array(Image.open(mattes[1] / "0.png")).astype(int) - 12, np.array(Image.open(mattes[1] / "1.png")) // 2
    write_image(mattes[0] / "0.png", middle[0].clip(0, 255).astype(np.uint8))
    (mattes[0] / "1.png").unlink()
    (mattes[1] / "1.png").unlink()
    scored, add = [], Scorebook.add
    monkeypatch.setattr(Scorebook, "add", lambda *given: (scored.append(given[2].case.name), add(*given)))
    assert score(*arguments, "--resume").status == 0
    assert scored[0] == "0" and 2 <= len(scored) <= 3  # not all of them again
    again = list(scored)
    score(*arguments, "--out", "straight")
    assert outcome() == outcome(Path("straight"))
    rows = sorted((float(row["SAD"]) / (int(row["height"]) * int(row["width"])), row["name"]) for row in read_rows())
    page = Path("R/report.html").read_text()
    assert page.count("data:image/jpeg") == 6 and {rows[0][1], rows[-1][1]} & set(again[1:])
    scored.clear()
    assert score(*arguments, "--resume").status == 0 and scored == []  # the book has the pictures now


def test_missing_pictures_of_a_model_are_predicted_again(
    run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    names = write_pairs(tmp_path / "data" / "test", {name: (40, 50) for name in "abcd"})
    arguments = (
        "--checkpoint", checkpoint, "--data-root", tmp_path / "data", "--benchmarks", "Custom",
        "--metrics", "SAD", "--examples", 1, *HERE,
    )  # fmt: skip
    run(eval_script.main, *arguments, "--out", "straight")
    run(eval_script.main, *arguments, "--out", "R")
    lines = Path("R/scores.jsonl").read_text().splitlines()
    without = [json.dumps({**json.loads(line), "panels": None}) for line in lines[1:]]
    Path("R/scores.jsonl").write_text("\n".join([lines[0], *without]) + "\n")
    assert run(eval_script.main, *arguments, "--out", "R", "--resume").status == 0
    assert outcome() == outcome(Path("straight")) and len(names) == 4


def test_a_resume_of_nothing_starts(score: Callable) -> None:
    assert score("--resume").status == 0
    assert read_metrics()["mattes"]["images"] == 7


def test_scores_are_on_the_disk_before_the_next_image(score: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = [], os.fsync

    def watched(descriptor: int) -> None:
        sync(descriptor)
        book = Path("R/scores.jsonl")
        if book.exists() and os.path.samestat(os.fstat(descriptor), book.stat()):
            synced.append(book.read_bytes().count(b"\n"))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", watched)
        assert score("--metrics", "MAD").status == 0
    assert synced == [2, 3, 4, 5, 6, 7, 8]  # the first line says how is scored


def test_damaged_scores_are_named(score: Callable, interrupted: Callable) -> None:
    interrupted(3)
    scores = Path("R/scores.jsonl")
    scores.write_bytes(scores.read_bytes().replace(b'"scores"', b'"scor', 1))
    finished = score("--resume")
    assert finished.status == 2 and str(scores) in finished.err and "--overwrite" in finished.err
    interrupted(3, "--overwrite")
    settings, first, *_ = scores.read_text().splitlines()
    for wrong in ({}, {"panels": 5}, {"panels": [["truth", "no base 64"]]}):
        line = {key: value for key, value in json.loads(first).items() if key != "panels"} | wrong
        scores.write_text(f"{settings}\n{json.dumps(line)}\n")
        finished = score("--resume")
        assert finished.status == 2 and "line 2 is damaged" in finished.err.splitlines()[-1]
    scores.write_text("[1, 2]\n")
    finished = score("--resume")
    assert finished.status == 2 and str(scores) in finished.err


def descendants(pid: int) -> set[int]:
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children = [(int(child), int(parent)) for child, parent in (line.split() for line in listing.splitlines())]
    found = {pid}
    while new := {child for child, parent in children if parent in found} - found:
        found |= new
    return found - {pid}


def test_a_killed_evaluation_leaves_no_process_and_continues(tmp_path: Path, make_pair: Callable) -> None:
    """SIGKILL, which nothing can catch, in the middle of the set."""
    for index in range(40):
        alpha = make_pair(400, 500 + index)[1]
        write_image(tmp_path / "truth" / f"{index}.png", alpha)
        write_image(tmp_path / "mattes" / f"{index}.png", 255 - alpha)
    command = [sys.executable, str(ROOT / "eval.py"), "--predictions", "mattes", "--ground-truth", "truth"]

    def start(*arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def lines(path: Path) -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    process = start("--out", "R", "--num-workers", "2")
    book = tmp_path / "R" / "scores.jsonl"
    until = time.monotonic() + 120
    while lines(book) < 4 and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    workers = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert 4 <= lines(book) < 41 and len(workers) >= 2
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < until, "workers outlive their parent"
        time.sleep(0.05)
    for folder, extra in (("R", "--resume"), ("straight", "--overwrite")):
        process = start("--out", folder, extra)
        assert process.wait(timeout=300) == 0, process.stderr.read()
        process.stderr.close()
    assert outcome(tmp_path / "R") == outcome(tmp_path / "straight")


@pytest.mark.parametrize(("kind", "times", "wait_sec"), [("INT", 1, 0), ("INT", 1, 2), ("INT", 2, 2), ("TERM", 1, 0.5)])
def test_a_signal_ends_at_once(tmp_path: Path, make_pair: Callable, kind: str, times: int, wait_sec: float) -> None:
    """Also when the user presses Ctrl-C again; with processes that just start, or are in the middle of an image."""
    for index in range(6):
        alpha = make_pair(1500, 1600)[1]
        write_image(tmp_path / "truth" / f"{index}.png", alpha)
        write_image(tmp_path / "mattes" / f"{index}.png", 255 - alpha)
    command = ["eval.py", "--predictions", "mattes", "--ground-truth", "truth", "--out", "R", "--num-workers", "2"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / command[0]), *command[1:], "--metrics", "wF", "HCE", "Conn"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not (tmp_path / "R/scores.jsonl").exists() or len(descendants(process.pid)) < 3:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    time.sleep(wait_sec)
    workers = descendants(process.pid)
    for _ in range(times):
        if kind == "INT":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        else:
            process.terminate()
        time.sleep(0.1)
    _, err = process.communicate(timeout=30)
    assert "error:" not in err
    if times == 1:
        assert process.returncode == 128 + signal.Signals[f"SIG{kind}"]
        assert {"INT": "interrupted", "TERM": "terminated"}[kind] in err
        assert "Traceback" not in err and "resource_tracker" not in err, err
    else:
        assert process.returncode in (130, -signal.SIGINT)
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < until, "workers outlive their parent"
        time.sleep(0.05)


def test_a_reader_that_goes_away_is_no_fault(mattes: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["--predictions", *mattes[:1], "--ground-truth", mattes[1], "--out", tmp_path / "R", *HERE]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "eval.py"), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141 and "Traceback" not in err and "Exception" not in err, err


def test_two_evaluations_never_write_at_once(score: Callable) -> None:
    settings = {"metrics": "one"}
    with Scorebook(Path("R"), settings, resume=False, overwrite=False):
        before = Path("R/scores.jsonl").read_bytes()
        for option in ("--overwrite", "--resume"):
            finished = score(option)
            assert finished.status == 2 and "another evaluation" in finished.err.splitlines()[-1]
        assert Path("R/scores.jsonl").read_bytes() == before
    assert score("--overwrite").status == 0


def test_eval_does_not_import_torch_to_score_folders(mattes: tuple[Path, Path], tmp_path: Path) -> None:
    """It takes seconds, in every process."""
    code = (
        "import runpy, sys; sys.argv = ['eval.py', *sys.argv[1:]]\n"
        f"try: runpy.run_path({str(ROOT / 'eval.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    arguments = ["--predictions", mattes[0], "--ground-truth", mattes[1], "--out", tmp_path / "R", *map(str, HERE)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
