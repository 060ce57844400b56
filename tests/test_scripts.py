"""eval.py, predict.py, export_inference.py as a user meets them: wrong use, results, exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import eval as eval_script
import export_inference
import predict as predict_script

ROOT = Path(__file__).resolve().parents[1]


# ------------------------------------------------------------------------------------------------- wrong use


def run_process(script: str, *arguments: Any, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_wrong_use_as_the_shell_sees_it(tmp_path: Path) -> None:
    done = run_process("predict.py", "photos", "--chekpoint", "a.pth", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [done.stderr.strip()] and "--checkpoint" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_default_input_is_missed_in_one_line(refused: Callable[..., str]) -> None:
    assert "test_data" in refused(predict_script.main)


def test_without_a_checkpoint_the_remedy_is_named(
    refused: Callable[..., str], write_photographs: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.inference.START", tmp_path / "gone.pth")  # the one that comes with the code
    write_photographs(tmp_path / "photos", ["a.png"])
    assert "--checkpoint" in refused(predict_script.main, tmp_path / "photos")
    assert "--checkpoint" in refused(export_inference.main)


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "folder"])
def test_an_unreadable_checkpoint(
    refused: Callable[..., str], write_photographs: Callable, write_pairs: Callable, tmp_path: Path, kind: str
) -> None:
    write_photographs(tmp_path / "photos", ["a.png"])
    write_pairs(tmp_path / "data" / "test", {"a": (20, 30)})
    path = tmp_path / "model.pth"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"hello there\n" if kind == "text" else b"")
    data = ("--data-root", tmp_path / "data", "--benchmarks", "Custom")
    assert str(path) in refused(predict_script.main, tmp_path / "photos", "--checkpoint", path)
    assert str(path) in refused(eval_script.main, *data, "--checkpoint", path)
    assert str(path) in refused(export_inference.main, "--checkpoint", path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_one(
    refused: Callable[..., str], write_photographs: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    write_photographs(tmp_path / "photos", ["a.png"])
    write_pairs(tmp_path / "data" / "test", {"a": (20, 30)})
    common = ("--checkpoint", checkpoint, "--device", "cuda")
    assert "--device cuda" in refused(predict_script.main, tmp_path / "photos", *common)
    data = ("--data-root", tmp_path / "data", "--benchmarks", "Custom")
    assert "--device cuda" in refused(eval_script.main, *data, *common)


def test_eval_of_wrong_data(
    refused: Callable[..., str], write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    common = ("--checkpoint", checkpoint, "--data-root", data, "--benchmarks")
    assert str(data) in refused(eval_script.main, *common, "Custom")
    write_pairs(data / "test", {"a": (20, 30), "b": (20, 30)})
    assert "Custom" in refused(eval_script.main, *common, "Costum")
    (data / "test" / "gt" / "b.png").unlink()
    line = refused(eval_script.main, *common, "Custom")
    assert "1 without alpha" in line and "b" in line
    Image.new("L", (31, 20)).save(data / "test" / "gt" / "b.png")
    line = refused(eval_script.main, *common, "Custom")
    assert "30x20" in line and "31x20" in line


def test_an_unreadable_picture_stops_eval(
    run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    """A mean over the rest would not be comparable."""
    write_pairs(tmp_path / "data" / "test", {"a": (20, 30), "b": (80, 90)})
    file = tmp_path / "data" / "test" / "im" / "b.png"
    file.write_bytes(file.read_bytes()[:-200])
    finished = run(
        eval_script.main, "--checkpoint", checkpoint, "--data-root", tmp_path / "data", "--benchmarks", "Custom",
        "--num-workers", 0,
    )  # fmt: skip
    assert finished.status == 2 and finished.created == []
    assert str(file) in finished.err.splitlines()[-1] and "Traceback" not in finished.err


def test_results_that_cannot_be_written_are_refused_before_any_work(
    refused: Callable[..., str], write_photographs: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    write_photographs(tmp_path / "photos", ["a.png"])
    write_pairs(tmp_path / "data" / "test", {"a": (20, 30)})
    file = tmp_path / "file"
    file.touch()
    assert str(file) in refused(predict_script.main, tmp_path / "photos", "--checkpoint", checkpoint, "--output", file)
    data = ("--data-root", tmp_path / "data", "--benchmarks", "Custom", "--num-workers", 0)
    assert str(file) in refused(eval_script.main, *data, "--checkpoint", checkpoint, "--out", file)
    assert str(file) in refused(export_inference.main, "--checkpoint", checkpoint, "--output", file / "m.pth")


# ------------------------------------------------------------------------------------------------- predict, eval


def test_predicted_results_can_be_scored(
    run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    """What predict.py wrote, against the truths of the same photographs."""
    write_pairs(tmp_path / "set", {"a": (40, 50), "b": (30, 20)})
    run(predict_script.main, tmp_path / "set" / "im", "--checkpoint", checkpoint, "--output", "out")
    finished = run(eval_script.main, "--predictions", "out", "--ground-truth", tmp_path / "set" / "gt", "--out", "s")
    assert finished.status == 0, finished.err
    assert json.loads(Path("s/metrics.json").read_text())["out"]["images"] == 2
