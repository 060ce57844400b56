"""Kill it at any moment and run the same command again: the same model, bit by bit; nothing lost, nothing twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from training import Stopped, assert_same_runs, stop_at, stopped_at, tiny

import train
from utils import trainer, validation
from utils.errors import UserError
from utils.learner import Learner
from utils.synthetic import write_embedded

pytestmark = pytest.mark.usefixtures("elsewhere")
ROOT = Path(train.__file__).parent
# Steps of two batches, of 2 and 1 images in the end; an average of the weights; randomness inside the network.
HARD = ["--epochs", 3, "--teacher-epochs", 2, "--batch-size", 2, "--accumulation-steps", 2, "--drop-path-rate", 0.2]
HARD += ["--ema-decay", 0.9, "--log-every", 3, "--keep-epochs", 1, "--previews", 0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Seven training and three validation pairs, below 100 px."""
    root = tmp_path_factory.mktemp("pictures")
    write_embedded(root, train=7, val=3, long_side=(72, 96), workers=1)
    return root


@pytest.fixture(autouse=True)
def undrawn(monkeypatch) -> None:
    """Curves take longest."""
    monkeypatch.setattr(validation, "save_curves", lambda *_: None)


def command(pictures: Path, folder: Path, *arguments: object) -> list[str]:
    options = ["--dataset", "custom", "--data-root", pictures, "--run-dir", folder, *HARD, *arguments]
    return ["train.py", *tiny(*options)]


def run(monkeypatch, pictures: Path, folder: Path, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", command(pictures, folder, *arguments))
    return train.main()


@pytest.fixture(scope="module")
def straight(pictures, tmp_path_factory) -> Path:
    """The run folder of a run that nothing disturbed: 3 epochs of 2 steps."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr(validation, "save_curves", lambda *_: None)
        run(patch, pictures, folder)
    return folder


MOMENTS = {  # of 4 steps of the teacher and 6 of the network, with 10 batches and 3 validations
    "in the teacher's first epoch": (Learner, "make_step", 2),
    "in the teacher's second epoch": (Learner, "make_step", 4),
    "before the first step": (Learner, "make_step", 5),
    "in the middle of an epoch": (Learner, "make_step", 6),
    "at an epoch's first step": (Learner, "make_step", 7),
    "after the last step": (Learner, "make_step", 10),
    "in the middle of a step": (train.MattingLoss, "__call__", 6),
    "in a validation": (validation, "score_image", 5),
    "before a validation is written down": (train, "record_validation", 2),
    "before the last checkpoint": (train.RunFolder, "save", {"1": 10, "15min": 4}),
}


@pytest.mark.parametrize(
    ("moment", "save_every"),
    [*((moment, "1") for moment in MOMENTS), *((moment, "15min") for moment in list(MOMENTS)[1::2])],
)
def test_killed_at_any_moment(monkeypatch, tmp_path, pictures, straight, moment, save_every):
    """With a checkpoint after each step, and with one an epoch: the same checkpoints and the same rows."""
    common = (pictures, tmp_path / "run", "--auto-resume", "--save-every", save_every)
    owner, name, call = MOMENTS[moment]
    with stopped_at(owner, name, call if isinstance(call, int) else call[save_every]):
        run(monkeypatch, *common)
    train.RunFolder(tmp_path / "run", auto_resume=True).close()  # the lock ended with the process that held it
    run(monkeypatch, *common)
    assert_same_runs(straight, tmp_path / "run")


def test_killed_after_every_step(monkeypatch, tmp_path, pictures, straight):
    """Ten lives of one step each, in any of which the steps that were made stay made."""
    lives, made = 0, Learner.make_step
    while True:
        lives += 1
        with monkeypatch.context() as patch:
            stop_at(patch, Learner, "make_step", 2)
            try:
                run(patch, pictures, tmp_path / "run", "--auto-resume", "--save-every", 1)
                break
            except Stopped:
                assert lives < 20
    assert Learner.make_step is made and lives == 10
    assert_same_runs(straight, tmp_path / "run")


def test_every_file_is_seen_once_an_epoch_with_any_number_of_workers(monkeypatch, tmp_path, pictures):
    """F11: a straight run and one that is interrupted in the middle of its second epoch, on two workers."""
    batches = trainer.whole_batches

    def names(folder: Path, *arguments: object, killed_at: int | None = None) -> list[str]:
        seen: list[str] = []

        def noted(loader):
            for batch in batches(loader):
                if len(seen) == killed_at:
                    raise Stopped
                seen.extend(batch.name)
                yield batch

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "whole_batches", noted)
            common = (pictures, folder, "--auto-resume", "--save-every", 1, "--teacher", "none", "--batch-size", 1)
            try:
                run(patch, *common, *arguments)
            except Stopped:
                assert killed_at is not None
        return seen

    whole = names(tmp_path / "straight")
    assert all(len(set(whole[at : at + 7])) == 7 for at in (0, 7, 14)) and len(whole) == 21
    before = names(tmp_path / "run", killed_at=12)
    after = names(tmp_path / "run", "--num-workers", 2)
    assert before == whole[:12]
    assert after == whole[11:]  # the step of two, the first half of which was made, is made again


def test_a_nan_is_never_best_and_no_row_is_written_twice(monkeypatch, tmp_path, pictures):
    validate, epochs = train.validate, []

    def bad_in_the_second(*arguments, **options):
        found = validate(*arguments, **options)
        epochs.append(1)
        if len(epochs) == 2:
            values = {name: float("nan") for name in found.scores[0].values}
            found.scores[:] = [each._replace(values=values) for each in found.scores]
        return found

    with monkeypatch.context() as patch:
        patch.setattr(train, "validate", bad_in_the_second)
        with stopped_at(train.RunFolder, "save", 3):  # the second epoch's
            run(patch, pictures, tmp_path / "run", "--teacher-epochs", 0)
    assert torch.load(tmp_path / "run" / "best.pth", weights_only=True)["epoch"] == 1
    with open(tmp_path / "run" / "log.csv", "rb") as file:
        before = file.read()
    run(monkeypatch, pictures, tmp_path / "run", "--teacher-epochs", 0, "--resume")
    assert (tmp_path / "run" / "log.csv").read_bytes().startswith(before[: before.index(b"\n3,") + 1])
    assert pd.read_csv(tmp_path / "run" / "validation.csv")["epoch"].tolist() == [1, 2, 3]
    assert pd.read_csv(tmp_path / "run" / "log.csv")["step"].tolist() == [2, 3, 4, 6]


def test_a_damaged_last_checkpoint_costs_some_steps_and_nothing_else(monkeypatch, tmp_path, pictures, straight, capsys):
    """F03: the one before is continued from, which is said."""
    with stopped_at(Learner, "make_step", 9):
        run(monkeypatch, pictures, tmp_path / "run", "--save-every", 1)
    last = tmp_path / "run" / "last.pth"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    run(monkeypatch, pictures, tmp_path / "run", "--resume")
    assert "last.pth" in (out := capsys.readouterr().out) and "previous.pth" in out
    assert_same_runs(straight, tmp_path / "run")


def test_a_teacher_that_is_gone_is_missed(monkeypatch, tmp_path, pictures):
    """It would be trained anew in silence, by other code perhaps."""
    with stopped_at(Learner, "make_step", 7):
        run(monkeypatch, pictures, tmp_path / "run")
    (tmp_path / "run" / "teacher.pth").unlink()
    with pytest.raises(UserError, match=r"teacher\.pth is gone"):
        run(monkeypatch, pictures, tmp_path / "run", "--resume")


def start(pictures: Path, folder: Path, *arguments: object, own_group: bool = False) -> subprocess.Popen:
    """train.py as the shell starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    argv = [sys.executable, str(ROOT / "train.py"), *command(pictures, folder, *arguments)[1:]]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(argv, cwd=folder.parent, env=environment, start_new_session=own_group, **output)


def test_real_kills_at_random_moments(tmp_path, pictures, straight):
    """SIGKILL, wherever it hits; the same command again, until it is done."""
    chance, kills = random.Random(4), 0
    while True:
        process = start(pictures, tmp_path / "run", "--auto-resume", "--save-every", 1)
        wait_for(process, "device cpu")  # the last line before the first step
        try:
            output, _ = process.communicate(timeout=chance.uniform(0.0, 1.5) if kills < 3 else 120)
            assert process.returncode == 0, output
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    assert kills > 0
    assert_same_runs(straight, tmp_path / "run")


def wait_for(process: subprocess.Popen, beginning: str) -> None:
    """Reads what a program prints up to a line."""
    for line in process.stdout:
        if line.startswith(beginning):
            return


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_end_and_saves(monkeypatch, tmp_path, pictures, straight, number, status):
    """F13, with checkpoints an hour apart: what the signal saved is continued."""
    process = start(pictures, tmp_path / "run", "--save-every", "60min", "--num-workers", 1)
    wait_for(process, "teacher epoch 2")
    time.sleep(0.3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert "Traceback" not in output
    assert train.load_checkpoint(tmp_path / "run" / "teacher.pth")
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["training"]["step"] > 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    run(monkeypatch, pictures, tmp_path / "run", "--resume")
    assert_same_runs(straight, tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
def test_a_signal_to_the_whole_group_ends_the_workers_after_the_save(tmp_path, pictures, straight):
    """As torchrun, batch systems and Ctrl-C send it: what workers are started from must not end before them."""
    folder = tmp_path / "run"
    process = start(pictures, folder, "--save-every", "60min", "--num-workers", 2, "--teacher", "none", own_group=True)
    wait_for(process, "epoch 1")
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert torch.load(folder / "last.pth", weights_only=True)["training"]["step"] >= 2
    assert_gone(process.pid)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
def test_nothing_outlives_a_run_that_is_killed(tmp_path, pictures):
    process = start(pictures, tmp_path / "run", "--num-workers", 1, "--teacher", "none", own_group=True)
    wait_for(process, "epoch 1")
    process.kill()
    process.wait()
    assert_gone(process.pid)


def assert_gone(group: int) -> None:
    """No process of the group lives, or at least not for long."""
    deadline = time.monotonic() + 60
    while is_there(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_there(group)


def is_there(group: int) -> bool:
    """Whether a process of the group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_file_that_vanishes_costs_no_step(monkeypatch, tmp_path, pictures, straight):
    """What was learnt up to there is saved; the file put back, the run ends as if nothing had been."""
    read, calls = train.MattingDataset.__getitem__, []

    def vanished(self, key):
        calls.append(key)
        if len(calls) == 12:  # in the second step of the second epoch, after a batch of it
            raise UserError("no such file")
        return read(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(train.MattingDataset, "__getitem__", vanished)
        with pytest.raises(UserError, match="no such file"):
            run(patch, pictures, tmp_path / "run", "--save-every", "60min")
    saved = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert saved["training"]["step"] == 2 + (len(calls) - 7) // 4
    run(monkeypatch, pictures, tmp_path / "run", "--resume")
    assert_same_runs(straight, tmp_path / "run")


@pytest.mark.parametrize("state", ["removed", "empty"])
def test_a_log_that_is_gone_is_begun_anew(monkeypatch, tmp_path, pictures, state):
    """A power cut may leave it empty; the run and its checkpoints do not depend on it."""
    with stopped_at(train, "validate", 1):
        run(monkeypatch, pictures, tmp_path / "run", "--save-every", 1, "--teacher", "none")
    log = tmp_path / "run" / "log.csv"
    log.write_bytes(b"") if state == "empty" else log.unlink()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "elsewhere")  # and the curves are drawn
    run(monkeypatch, pictures, tmp_path / "run", "--resume", "--teacher", "none")
    assert pd.read_csv(log)["step"].tolist() == [3, 4, 6]


def test_another_teacher_is_noticed(monkeypatch, tmp_path, pictures):
    with stopped_at(Learner, "make_step", 7):
        run(monkeypatch, pictures, tmp_path / "run")
    path = tmp_path / "run" / "teacher.pth"
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "model": {name: 0.5 * tensor for name, tensor in saved["model"].items()}}, path)
    with pytest.raises(UserError, match=r"teacher\.pth is another"):
        run(monkeypatch, pictures, tmp_path / "run", "--resume")


def test_a_teacher_that_a_killed_start_left_is_not_taken_over(monkeypatch, tmp_path, pictures, straight):
    """It may have been trained with other settings."""
    folder = tmp_path / "run"
    folder.mkdir()
    saved = torch.load(straight / "teacher.pth", weights_only=True)
    left = {**saved, "model": {name: 0.5 * tensor for name, tensor in saved["model"].items()}}
    torch.save(left, folder / "teacher.pth")
    run(monkeypatch, pictures, folder)
    assert_same_runs(straight, folder)


def test_weights_alone_are_no_run(monkeypatch, tmp_path, pictures, straight):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pth").write_bytes((straight / "best.pth").read_bytes())
    with pytest.raises(UserError, match=r"last\.pth holds no run, only weights.*--init-from"):
        run(monkeypatch, pictures, tmp_path / "run", "--resume")
