"""A run's folder is one process's, its checkpoints survive kills, damage and full disks, its tables half rows; what is
trained cannot change between a run and its resume.
"""

import copy
import errno
import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch

from config import PRESETS
from utils import files, run_folder
from utils.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from utils.errors import UserError, run_script
from utils.files import to_json
from utils.run_folder import RunFolder, Table, commit, refuse_differences

FORK = multiprocessing.get_context("fork")  # real processes, without seconds of imports


def state(step, size=4):
    return {"step": step, "model": {"weight": torch.full((size,), float(step))}}


def step_of(path):
    """The step of a checkpoint, all of whose numbers are that step."""
    loaded = load_checkpoint(path)
    assert (loaded["model"]["weight"] == loaded["step"]).all()
    return loaded["step"]


def contents(folder):
    """Names, bytes and times of all files below a folder, and its own time; of .lock, the bytes."""
    return {
        each: (each.read_bytes() if each.is_file() else None, each.stat().st_mtime_ns * (each.name != ".lock"))
        for each in [folder, *folder.rglob("*")]
    }


@pytest.fixture
def run_dir(tmp_path):
    """A run with two checkpoints: steps 1 and 2."""
    with RunFolder(tmp_path / "run") as folder:
        for step in (1, 2):
            folder.save(state(step))
    return tmp_path / "run"


# ------------------------------------------------------------------------------------------------------ who may write


def test_start_and_resume(tmp_path):
    path = tmp_path / "new" / "run"
    with RunFolder(path) as folder:
        assert not folder.resuming and folder.load() is None
        folder.save(state(1))
    with RunFolder(path, resume=True) as folder:
        assert folder.resuming and folder.load()["step"] == 1 and folder.loaded == folder.last


def test_auto_resume_is_one_command_for_start_and_resume(tmp_path, run_dir):
    with RunFolder(tmp_path / "new", auto_resume=True) as folder:
        assert not folder.resuming and folder.load() is None
    with RunFolder(run_dir, auto_resume=True) as folder:
        assert folder.load()["step"] == 2


def test_a_run_is_not_overwritten(run_dir):
    before = contents(run_dir)
    for missing in (None, "last.pth"):
        if missing:
            (run_dir / missing).unlink()
            before = contents(run_dir)
        with pytest.raises(UserError, match=r"holds a run already: continue it with --resume") as caught:
            RunFolder(run_dir)
        assert contents(run_dir) == before
    RunFolder(run_dir, resume=True).close()  # whoever was refused keeps nobody out
    assert caught.traceback  # nor does its error, which keeps its objects alive


def test_resume_without_a_run_names_the_path_and_makes_nothing(tmp_path):
    with pytest.raises(UserError, match=f"^--resume: no checkpoint {tmp_path}/none/last.pth; start the run without"):
        RunFolder(tmp_path / "none", resume=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{}, {"auto_resume": True}])
def test_other_peoples_files_are_refused_and_leftovers_of_a_start_are_not(tmp_path, options):
    for name in (".lock", "config.json", "config.json.damaged", "problems.csv", "teacher.pth", ".12-34.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events.out.tfevents.0").touch()
    RunFolder(tmp_path, **options).close()
    assert not (tmp_path / ".12-34.tmp").exists()
    (tmp_path / "thesis.tex").touch()
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"is not empty \(thesis.tex\) and holds no run"):
        RunFolder(tmp_path, **options)
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, run_dir, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"--run-dir {tmp_path}/file/run: {tmp_path}/file is a file"):
        RunFolder(tmp_path / "file" / "run")

    def read_only(path, mode="r", **options):
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return open(path, mode, **options)

    monkeypatch.setattr(files, "open", read_only, raising=False)
    before = contents(run_dir)
    with pytest.raises(UserError, match=rf"--run-dir {run_dir}: nothing can be written there; choose another folder"):
        RunFolder(run_dir, resume=True)
    assert contents(run_dir) == before


def hold(path, pipe):
    """A process that works in a folder and has a data worker, which outlives it."""
    folder = RunFolder(path, auto_resume=True)
    folder.save(state(1))
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    pipe.send(worker)
    time.sleep(60)
    folder.close()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"auto_resume": True}])
def test_a_second_process_is_refused_until_the_first_one_ends(tmp_path, options):
    """However it ends, and whoever of its processes is left."""
    ours, theirs = FORK.Pipe()
    holder = FORK.Process(target=hold, args=(tmp_path, theirs), daemon=True)
    holder.start()
    assert ours.poll(30)
    worker = ours.recv()
    try:
        before = contents(tmp_path)
        with pytest.raises(UserError, match=rf"--run-dir {tmp_path} is in use by process {holder.pid} on \S+; "):
            RunFolder(tmp_path, **options)
        assert contents(tmp_path) == before
        holder.kill()
        holder.join()
        os.kill(worker, 0)  # is still there
        with RunFolder(tmp_path, resume=True) as folder:
            assert folder.load()["step"] == 1
    finally:
        holder.kill()
        os.kill(worker, signal.SIGKILL)


def test_a_copy_in_another_process_has_nothing_to_give_free(run_dir):
    with RunFolder(run_dir, resume=True) as folder:
        with pickle.loads(pickle.dumps(folder)) as copy:
            assert copy.resuming and copy.load()["step"] == 2
        with pytest.raises(UserError, match="in use"):
            RunFolder(run_dir, resume=True)


# -------------------------------------------------------------------------------------------------------- checkpoints


def save_forever(path, pipe):
    """Saves as fast as it can, and says which steps are safe."""
    folder = RunFolder(path, auto_resume=True)
    checkpoint = folder.load()
    step = 0 if checkpoint is None else checkpoint["step"]
    while True:
        step += 1
        folder.save(state(step, size=200_000))
        pipe.send(step)


def test_kills_at_any_instant_lose_no_checkpoint(tmp_path):
    delays, path = random.Random(0), tmp_path / "run"
    left, ends = 0, []
    for _ in range(12):
        ours, theirs = FORK.Pipe(duplex=False)
        child = FORK.Process(target=save_forever, args=(path, theirs), daemon=True)
        child.start()
        theirs.close()
        assert ours.poll(30)
        time.sleep(delays.uniform(0, 0.1))
        child.kill()
        child.join()
        safe = 0
        with suppress(EOFError):
            while True:
                safe = ours.recv()
        last = step_of(path / "last.pth")
        assert last in (safe, safe + 1)
        if (path / "previous.pth").exists():
            assert step_of(path / "previous.pth") in (last - 1, last - 2)  # the latter: killed between two renames
        left += any(path.glob(".*.tmp"))
        ends.append(last)
        RunFolder(path, auto_resume=True).close()
        assert {each.name for each in path.iterdir()} <= {"last.pth", "previous.pth", ".lock"}
    assert ends == sorted(set(ends)) and left > 0


def save_on_a_full_disk(path, stderr):
    def main():
        with RunFolder(path, resume=True) as folder:
            step = folder.load()["step"] + 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            folder.save(state(step, size=100_000))
        return 0

    with open(stderr, "w") as sys.stderr:
        run_script(main)


def test_a_full_disk_is_a_line_and_costs_nothing(tmp_path, run_dir):
    before = {name: (run_dir / name).read_bytes() for name in ("last.pth", "previous.pth")}
    child = FORK.Process(target=save_on_a_full_disk, args=(run_dir, tmp_path / "stderr"))
    child.start()
    child.join(30)
    line = (tmp_path / "stderr").read_text()
    assert child.exitcode == 2 and line.count("\n") == 1
    wanted = (
        rf"error: {run_dir}/last.pth: cannot be written \(File too large\); it needs 40\d,\d\d\d bytes: free space "
    )
    assert re.match(wanted, line)
    assert {each.name: each.read_bytes() for each in run_dir.glob("*.pth")} == before
    assert not list(run_dir.glob(".*.tmp"))


def damage(path, how):
    good = bytearray(path.read_bytes())
    if how == "flipped":
        good[good.index(torch.full((4,), 2.0).numpy().tobytes()) + 5] ^= 4
    elif how == "zeroed":
        good[:] = bytes(len(good))
    else:
        del good[int(len(good) * how) :]
    path.write_bytes(good)


@pytest.mark.parametrize("how", [0.0, 0.01, 0.5, 0.99, "zeroed", "flipped", "missing"])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(run_dir, capsys, how):
    last, previous = run_dir / "last.pth", run_dir / "previous.pth"
    if how == "missing":
        last.unlink()
    else:
        damage(last, how)
    with RunFolder(run_dir, resume=True) as folder:
        assert folder.load()["step"] == 1 and folder.loaded == previous
        line = capsys.readouterr().out
        assert line.startswith(f"{last}: {how if how == 'missing' else 'damaged'}") and line.count("\n") == 1
        assert f"continuing from {previous}" in line
        folder.save(state(3))
        assert step_of(last) == 3 and step_of(previous) == 1, "the damaged one has taken the place of the good one"
        folder.save(state(4))
        assert step_of(last) == 4 and step_of(previous) == 3


@pytest.mark.parametrize("before", ["damaged", "missing"])
def test_nothing_to_continue_from_names_both(run_dir, before):
    damage(run_dir / "last.pth", 0.5)
    if before == "damaged":
        damage(run_dir / "previous.pth", "zeroed")
    else:
        (run_dir / "previous.pth").unlink()
    with RunFolder(run_dir, auto_resume=True) as folder, pytest.raises(UserError) as caught:
        folder.load()
    message = str(caught.value)
    assert f"{run_dir / 'last.pth'}: damaged" in message and f"{run_dir / 'previous.pth'}: {before}" in message
    assert "\n" not in message and "--run-dir" in message


def test_a_run_of_an_earlier_version_is_not_resumed(run_dir):
    """Nor is one that holds code: only damage is a reason to take the checkpoint before."""
    save_checkpoint(run_dir / "last.pth", {**state(2), "format": "tsr-matte/2"})
    with RunFolder(run_dir, resume=True) as folder, pytest.raises(UserError, match="of an earlier version") as caught:
        folder.load()
    assert FORMAT in str(caught.value)
    torch.save({"format": FORMAT, "model": {}, "code": subprocess.Popen}, run_dir / "last.pth")
    with RunFolder(run_dir, resume=True) as folder, pytest.raises(UserError, match="it may hold code"):
        folder.load()


def test_leftovers_are_removed_also_among_the_pictures(run_dir):
    (run_dir / "previews").mkdir()
    for name in (f".{os.getpid()}-1.tmp", f"previews/.{os.getpid()}-1.tmp", "previews/epoch_001.png"):
        (run_dir / name).touch()
    RunFolder(run_dir, resume=True).close()
    assert [each.name for each in (run_dir / "previews").iterdir()] == ["epoch_001.png"]
    assert not list(run_dir.glob("*.tmp"))


@pytest.mark.parametrize("links", [True, False])
def test_the_newest_epochs_are_kept(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))

    def kept():
        return {each.name: step_of(each) for each in tmp_path.glob("epoch_*")}

    with RunFolder(tmp_path) as folder:
        for epoch in (1, 2, 999, 1000, 1001):
            folder.save(state(10 * epoch))
            folder.keep(epoch, most=3)
        assert kept() == {"epoch_999.pth": 9990, "epoch_1000.pth": 10000, "epoch_1001.pth": 10010}
        folder.save(state(7))
        folder.keep(1001, most=3)  # trained again after a resume from the checkpoint before
        folder.keep(1002, most=0)
        assert kept() == {"epoch_999.pth": 9990, "epoch_1000.pth": 10000, "epoch_1001.pth": 7}
        folder.keep(1002, most=1)
        assert kept() == {"epoch_1002.pth": 7}
        folder.save(state(8))
        assert kept() == {"epoch_1002.pth": 7} and step_of(folder.previous) == 7
    assert not list(tmp_path.glob("*.tmp"))


# -------------------------------------------------------------------------------------------------------- config.json


def test_each_start_is_recorded(tmp_path):
    for step in (0, 7):
        with RunFolder(tmp_path) as folder:
            folder.record_start({"run": {"seed": step}}, command=f"python {step}", versions={"processes": 2}, step=step)
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert recorded["config"] == {"run": {"seed": 7}}
    assert [(start["command"], start["step"]) for start in recorded["starts"]] == [("python 0", 0), ("python 7", 7)]
    for start in recorded["starts"]:
        assert start.keys() == {"time", "command", "commit", "versions", "step"}
        assert start["versions"] == {"processes": 2}
        assert pd.Timestamp(start["time"]).tzinfo is not None


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", []),
        (b"{", []),
        (b"\xff\xfe", []),
        (b"[1]", []),
        (b"null", []),
        (b'{"starts": 3}', []),
        (b'{"config": 3, "starts": [{"step": 5}], "note": "mine"}', [{"step": 5}]),
    ],
)
def test_a_damaged_record_stands_in_no_ones_way(tmp_path, content, kept):
    (tmp_path / "config.json").write_bytes(content)
    with RunFolder(tmp_path) as folder:
        folder.record_start({"a": 1}, command="", versions={}, step=9)
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert recorded["config"] == {"a": 1} and recorded["starts"][:-1] == kept
    assert recorded["starts"][-1]["step"] == 9 and (b"note" in content) == (recorded.get("note") == "mine")


# ------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_row_cut_anywhere_is_dropped(tmp_path, cut):
    path = tmp_path / "log.csv"
    table = Table(path)
    for step in (10, 20, 120):
        table.append({"step": step, "epoch": 1, "loss": 0.5})
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: min(last + cut, len(whole) - 1)])
    Table(path, keep_up_to={"step": 20}).append({"step": 30, "epoch": 2, "loss": 0.25})
    assert pd.read_csv(path)["step"].tolist() == [10, 20, 30]
    assert pd.read_csv(path)["epoch"].tolist() == [1, 1, 2]


def test_rows_after_the_checkpoint_are_dropped_and_an_empty_file_is_none(tmp_path):
    path = tmp_path / "log.csv"
    path.touch()
    table = Table(path)
    for step in (1, 2, 3):
        table.append({"step": step, "epoch": step // 2})
    Table(path, keep_up_to={"step": 3, "epoch": 0})
    assert pd.read_csv(path)["step"].tolist() == [1]
    Table(path, keep_up_to={"step": 0})
    assert path.read_text() == "step,epoch\n"
    Table(path).append({"step": 1, "epoch": 0})
    assert path.read_text() == "step,epoch\n1,0\n"
    with pytest.raises(AssertionError):
        table.append({"other": 3})


def test_bytes_that_stay_stay(tmp_path):
    """Numbers are not written anew: their text would be another."""
    path = tmp_path / "log.csv"
    kept = b'step,loss,note\r\n1,0.10,"a, b"\n2.0,1e-05,\n'
    path.write_bytes(kept + b"10,0.5,\n4,0.500,half")
    Table(path, keep_up_to={"step": 9})
    assert path.read_bytes() == kept


def test_a_kept_file_is_not_written_to(tmp_path):
    path = tmp_path / "log.csv"
    Table(path).append({"step": 1})
    before = path.stat().st_ino
    Table(path, keep_up_to={"step": 1})
    assert path.stat().st_ino == before


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a letter\nto somebody\n", "has no column step"),
        (b"step;loss\n1;2\n", "has no column step"),
        (b"loss\n1\n", "has no column step"),
        (b"step,loss\n1,2\n3\n", "line 3 has 1 cells for 2 columns"),
        (b"step,loss\n1,2,3\n", "line 2 has 3 cells for 2 columns"),
        (b"step,loss\n\n1,2\n", "line 2 has 0 cells for 2 columns"),
        (b"step,loss\none,2\n", "line 2 has no number in step"),
        (b"step,loss\n1,\xff\n", "line 2 cannot be read"),
        (b'step,loss\n1,"2\n', "line 2 cannot be read"),
        (b"\x89PNG\r\n\x1a\n", "line 1 cannot be read"),
    ],
)
def test_a_table_that_somebody_edited_is_named(tmp_path, content, fault):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Table(path, keep_up_to={"step": 5})
    assert str(caught.value) == f"{path}: {fault}; move the file away, and a new one is begun"
    assert path.read_bytes() == content


def test_columns_of_another_version_are_named(tmp_path):
    """At the door where they are known, else at the first row."""
    path = tmp_path / "log.csv"
    path.write_bytes(b"step,loss\n1,2\n")
    with pytest.raises(
        UserError, match=rf"^{path}: has other columns than this version writes \(rate\); move the file"
    ):
        Table(path, columns=["step", "loss", "rate"])
    with pytest.raises(UserError, match="their order"):
        Table(path, columns=["loss", "step"])
    table = Table(path, columns=["step", "loss"])
    with pytest.raises(UserError, match="rate"):
        table.append({"step": 2, "loss": 1, "rate": 3})
    assert path.read_bytes() == b"step,loss\n1,2\n"
    table.append({"step": 2, "loss": 1})


def test_a_row_that_cannot_be_written_is_a_line(tmp_path):
    table = Table(tmp_path / "none" / "log.csv")
    with pytest.raises(UserError, match=rf"^{tmp_path}/none/log.csv: cannot be written"):
        table.append({"step": 1})


# ------------------------------------------------------------------------------------------------------------- resume


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


@pytest.mark.parametrize("section", ["run", "model"])  # wherever it stands
@pytest.mark.parametrize(
    "name",
    [
        "auto_resume",
        "checkpoint_activations",
        "compile",
        "init_from",
        "keep_epochs",
        "max_dropped_steps",
        "save_every",
        "tensorboard",
    ],
)
def test_how_a_run_is_kept_and_computed_is_free_on_resume(section, name):
    refuse_differences({section: {name: 1}}, {section: {name: 2}}, Path("last.pth"))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("routing", "patch_px", 64), ("augment", "native_px", 64), ("run", "seed", 3)],
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
