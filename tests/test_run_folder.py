"""Tables survive a kill in the middle of a row; what is trained cannot change between a run and its resume."""

import copy
import subprocess
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from config import PRESETS
from utils import run_folder
from utils.errors import UserError
from utils.run_folder import Table, commit, refuse_differences, to_json


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_row_cut_anywhere_is_dropped(tmp_path, cut):
    path = tmp_path / "log.csv"
    table = Table(path)
    for step in (10, 20, 120):
        table.append({"step": step, "epoch": 1, "loss": 0.5})
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: min(last + cut, len(whole) - 1)])
    Table(path, keep_up_to=20).append({"step": 30, "epoch": 2, "loss": 0.25})
    assert pd.read_csv(path)["step"].tolist() == [10, 20, 30]
    assert pd.read_csv(path)["epoch"].tolist() == [1, 1, 2]


def test_rows_after_the_checkpoint_are_dropped_and_an_empty_file_is_none(tmp_path):
    path = tmp_path / "log.csv"
    path.touch()
    table = Table(path)
    for step in (1, 2, 3):
        table.append({"step": step})
    Table(path, keep_up_to=2)
    assert pd.read_csv(path)["step"].tolist() == [1, 2]
    with pytest.raises(AssertionError):
        Table(path).append({"other": 3})


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("routing", "batch_px", 4096), ("data", "data_root", "/elsewhere"), ("run", "num_workers", 3)],
)
def test_what_changes_no_result_is_free_on_resume(section, name, value):
    before = to_json(asdict(PRESETS["tsr"]()))
    now = copy.deepcopy(before)
    assert now[section][name] != value
    now[section][name] = value
    refuse_differences(before, now, Path("last.pth"))


@pytest.mark.parametrize(
    ("section", "name", "value"), [("routing", "patch_px", 64), ("augment", "native_px", 64), ("run", "seed", 3)]
)
def test_what_is_trained_is_not(section, name, value):
    before = to_json(asdict(PRESETS["tsr"]()))
    now = copy.deepcopy(before)
    now[section][name] = value
    flag = f"--{name.replace('_', '-')} {before[section][name]} -> {value}"
    with pytest.raises(UserError, match=flag):
        refuse_differences(before, now, Path("last.pth"))


def test_the_commit_of_the_program_wherever_it_is_called_from(monkeypatch, tmp_path):
    """With a mark where a file differs from it; none where there is no repository."""

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", "-C", str(program), *who, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    program = tmp_path / "program"
    (program / "utils").mkdir(parents=True)
    monkeypatch.setattr(run_folder, "__file__", str(program / "utils" / "run_folder.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert commit() is None
    (program / "a.py").write_text("1")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"], ["tag", "v1"]):
        git(*arguments)
    assert commit() == git("rev-parse", "HEAD")
    (program / "a.py").write_text("2")
    assert commit() == git("rev-parse", "HEAD") + "-dirty"
