"""The folder of a run: who may write there, where each file lies, and tables that survive an interruption.

config.json   what was run, and each start of it      teacher.pth     the frozen teacher, for reuse
log.csv       a row every few steps                   last.pth        everything a resume needs
validation.csv  a row a validation                    previous.pth    the one before it, if last.pth is damaged
teacher.csv   reconstruction error an epoch           best.pth        weights, at the lowest validation SAD
curves.png, previews/epoch_*.png                      epoch_NNN.pth   last.pth as it was after that epoch
dropped.csv   steps left out, with their files        teacher_training.pth  what a resume of the teacher's needs
problems.csv  of the pictures                         .lock           who works in the folder
events/       the tables for TensorBoard, if asked
"""

import csv
import io
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import timm
import torch
import torchvision

from utils.checkpoint import DamagedCheckpointError, load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import (
    CannotWriteError,
    add_name,
    remove_file,
    remove_stale,
    require_writable,
    write_atomically,
    write_json,
)
from utils.folder_lock import FolderLock

BEFORE_FIRST_CHECKPOINT = {".lock", "config.json", "config.json.damaged", "problems.csv", "teacher.pth", "events"}
EPOCH_FILE = re.compile(r"epoch_(\d{3,})\.pth")


class RunFolder:
    """Opens a run's folder for one process, which keeps all others out until it ends or closes the folder.

        with RunFolder(path, resume=..., auto_resume=...) as folder:
            checkpoint = folder.load()
            ...
            folder.save(state)

    Attributes:
        resuming: Whether there is a run to continue.
        loaded: The file that `load` took the checkpoint from.

    Args:
        path: The folder.
        resume: Continue the run that is there.
        auto_resume: Continue the run that is there, or start one if there is none.

    Raises:
        UserError: There is a run already, or none to resume, or other files, or another process is at work there, or
            the folder cannot be written. No file of a run was changed.
    """

    def __init__(self, path: Path, *, resume: bool = False, auto_resume: bool = False):
        self.path = path
        self.last, self.previous, self.best = path / "last.pth", path / "previous.pth", path / "best.pth"
        self.teacher, self.previews = path / "teacher.pth", path / "previews"
        self.teacher_training = path / "teacher_training.pth"
        self.loaded: Path | None = None
        self._damaged_last = self._made = False
        self._lock = FolderLock(path / ".lock")
        try:
            if self._lock.path.exists():
                self._lock.hold("--run-dir")  # first: that a run is at work there says more than that there is one
            self.resuming = self._holds_run(resume, auto_resume)
            require_writable(path, "--run-dir")  # now, not after the first epoch
            self._made = not path.exists()
            self._make()
            alone = self._lock.hold("--run-dir")
        except BaseException:
            self.close()
            raise
        for folder in (path, self.previews):
            remove_stale(folder, alone=alone)

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a link to nowhere, a name that is too long
            raise UserError(
                f"--run-dir {self.path}: cannot be made ({error.strerror}); choose another folder"
            ) from error

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the folder for other processes; one that was made for a run that never began is removed."""
        if self._made and self._lock.is_held and os.listdir(self.path) == [self._lock.path.name]:
            self._lock.path.unlink()
            self.path.rmdir()
        self._lock.close()

    def _holds_run(self, resume: bool, auto_resume: bool) -> bool:
        """Whether there is a run to continue, if that is what is wished."""
        if self.last.exists() or self.previous.exists():
            if not (resume or auto_resume):
                raise UserError(
                    f"--run-dir {self.path} holds a run already: continue it with --resume, or choose another folder"
                )
            return True
        if resume:
            raise UserError(f"--resume: no checkpoint {self.last}; start the run without --resume")
        # What a run leaves that was killed before its first checkpoint does not stand in the way.
        contents = list(self.path.iterdir()) if self.path.is_dir() else []
        foreign = [each for each in contents if each.suffix != ".tmp" and each.name not in BEFORE_FIRST_CHECKPOINT]
        if foreign:
            raise UserError(
                f"--run-dir {self.path} is not empty ({foreign[0].name}) and holds no run; choose another folder"
            )
        return False

    def load(self, tell: Callable[[str], object] = print) -> dict[str, Any] | None:
        """The checkpoint to continue from, on the CPU: the last one or, if that is damaged, the one before.

        Args:
            tell: Gets a line if it is the one before.

        Returns:
            The checkpoint; None where there is no run to continue.

        Raises:
            UserError: Neither can be used.
        """
        if not self.resuming:
            return None
        faults = []
        for path in (self.last, self.previous):
            try:
                if not path.exists():
                    raise DamagedCheckpointError(f"{path}: missing")
                state = load_checkpoint(path, "--resume")
            except DamagedCheckpointError as error:
                faults.append(str(error))
                continue
            self.loaded, self._damaged_last = path, path != self.last
            if faults:
                tell(f"{faults[0]}; continuing from {path}, the checkpoint before it")
            return state
        raise UserError(
            f"{'; '.join(faults)}; remove both and copy an epoch_*.pth of the run to {self.last.name} if there is one, "
            f"or start again in another --run-dir"
        )

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes last.pth; what it was becomes previous.pth. At every instant, both are whole.

        Raises:
            CannotWriteError: The disk is full, or the folder cannot be written; both are as they were.
        """
        if self._lock.is_held and not self._lock.path.exists():
            raise UserError(f"{self.path}: was removed while the run was at work; what it has learnt since is lost")
        # A damaged one must not take the place of the one that was continued from.
        save_checkpoint(self.last, state, previous=None if self._damaged_last else self.previous)
        self._damaged_last = False

    def keep(self, epoch: int, most: int) -> None:
        """Keeps last.pth as the checkpoint of an epoch, too.

        Args:
            epoch: How many epochs are done.
            most: How many such files to keep: older ones are removed. With 0, none is made or removed.
        """
        if most == 0:
            return
        add_name(self.last, self.path / f"epoch_{epoch:03d}.pth")
        kept = [(int(name[1]), path) for path in self.path.iterdir() if (name := EPOCH_FILE.fullmatch(path.name))]
        for _, path in sorted(kept)[:-most]:
            remove_file(path)

    def record_start(self, config: dict[str, Any], *, command: str, versions: Mapping[str, Any], step: int) -> None:
        """Writes the config into config.json, and adds this start of the program to those before.

        Args:
            config: The config, as JSON types.
            command: The command line.
            versions: Of the libraries, and the hardware.
            step: Optimiser steps done before.
        """
        path = self.path / "config.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except OSError:  # not there
            before = {}
        except ValueError:  # damaged: no reason to train nothing
            before = {}
            os.replace(path, path.with_name("config.json.damaged"))
        before = before if isinstance(before, dict) else {}
        starts = before.get("starts")
        start = {
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": command,
            "commit": commit(),
            "versions": dict(versions),
            "step": step,
        }
        write_json(path, before | {"config": config, "starts": [*(starts if isinstance(starts, list) else []), start]})


class Table:
    """A CSV file of rows that are dicts, one a line. Columns come from the first row.

    Args:
        path: The file; rows that are there stay, byte by byte.
        keep_up_to: Drop rows with more than this number in this column, such as {"step": 120}: they lie after the
            checkpoint that is resumed, and will be written again.
        columns: Of the rows to come, where they are known.

    Raises:
        UserError: The file cannot be read as such a table, or has other columns than the rows to come.
    """

    def __init__(
        self, path: Path, *, keep_up_to: Mapping[str, int] | None = None, columns: Sequence[str] | None = None
    ):
        self.path = path
        self.columns: list[str] | None = None
        self._of_file = False
        if not path.exists():
            return
        content = path.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)  # a killed run may leave half a row
        if lines:
            self.columns, self._of_file = self._cells(lines[0], 1), True
            if columns is not None:
                self._require_columns(columns)
            lines = lines[:1] + self._kept(lines[1:], keep_up_to or {})
        whole = b"".join(lines)
        if whole != content:
            write_atomically(path, lambda file: file.write(whole))

    def append(self, row: dict[str, Any]) -> None:
        """Adds one row at the end of the file.

        Raises:
            UserError: The file had other columns when it was opened.
            CannotWriteError: The disk is full, or the file cannot be written.
        """
        self.columns = self.columns or list(row)
        if self._of_file:
            self._require_columns(list(row))
        assert list(row) == self.columns, f"{self.path}: columns {list(row)} differ from {self.columns}"
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                pd.DataFrame([row]).to_csv(file, index=False, header=file.tell() == 0)
                file.flush()
                os.fsync(file.fileno())  # as the checkpoints are: neither outlives the other in a power cut
        except OSError as error:
            raise CannotWriteError(f"{self.path}: cannot be written ({error.strerror}); free space") from error

    def _kept(self, lines: list[bytes], keep_up_to: Mapping[str, int]) -> list[bytes]:
        """The lines whose numbers are not above the limits."""
        if missing := [column for column in keep_up_to if column not in self.columns]:
            raise self._unusable(f"has no column {missing[0]}")
        limits = [(self.columns.index(column), limit) for column, limit in keep_up_to.items()]
        kept = []
        for number, line in enumerate(lines, start=2):
            cells = self._cells(line, number)
            if len(cells) != len(self.columns):
                raise self._unusable(f"line {number} has {len(cells)} cells for {len(self.columns)} columns")
            try:
                above = any(float(cells[column]) > limit for column, limit in limits)
            except ValueError as error:
                raise self._unusable(f"line {number} has no number in {' or '.join(keep_up_to)}") from error
            if not above:
                kept.append(line)
        return kept

    def _cells(self, line: bytes, number: int) -> list[str]:
        try:
            (cells,) = csv.reader([line.decode("utf-8")], strict=True)
        except (ValueError, csv.Error) as error:
            raise self._unusable(f"line {number} cannot be read") from error
        return cells

    def _require_columns(self, columns: Sequence[str]) -> None:
        if list(columns) != self.columns:
            differing = sorted(set(columns) ^ set(self.columns)) or ["their order"]
            raise self._unusable(f"has other columns than this version writes ({', '.join(differing[:3])})")

    def _unusable(self, fault: str) -> UserError:
        return UserError(f"{self.path}: {fault}; move the file away, and a new one is begun")


class RunTables(NamedTuple):
    """What a run has written so far, with rows or without.

    Attributes:
        log: Columns step, epoch, total and images_per_second; others are of no interest.
        validation: Columns epoch, SAD, MSE, coarse_SAD.
    """

    log: pd.DataFrame
    validation: pd.DataFrame


def read_tables(folder: Path) -> RunTables:
    """log.csv and validation.csv of a run, as far as they are written.

    Raises:
        UserError: One of them is no such table.
    """
    log = _read_table(folder / "log.csv", ("step", "epoch", "total", "images_per_second"))
    return RunTables(log, _read_table(folder / "validation.csv", ("epoch", "SAD", "MSE", "coarse_SAD")))


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """The whole rows of a table that has these columns of numbers; no rows if there is no file yet."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if not whole:
        return pd.DataFrame(columns=columns, dtype=float)
    try:
        return pd.read_csv(io.StringIO(whole)).astype(dict.fromkeys(columns, float))
    except (ValueError, KeyError) as error:  # of pandas' parser, too
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not the table of a run ({reason}); move it away") from error


FREE_ON_RESUME = {  # of the pictures, names are compared elsewhere; where they lie is free, and what changes no result
    "data_root", "backgrounds", "foregrounds", "on_bad", "max_pixels", "pretrained", "backbone_weights",
    "teacher_checkpoint", "batch_px", "save_every", "keep_epochs", "auto_resume", "tensorboard", "compile",
    "checkpoint_activations", "init_from", "max_dropped_steps", "patience",
}  # fmt: skip
FIXED_OF_RUN = {"seed", "precision", "validate_every"}


def refuse_differences(before: dict[str, dict], now: dict[str, dict], path: Path) -> None:
    """Raises UserError, naming the `differences`, where a resume would train something else than the checkpoint."""
    if differing := differences(before, now):
        raise UserError(
            f"--resume: {path} was trained with other settings ({'; '.join(differing)}); use the same ones, or start a "
            f"new run from its weights with --init-from"
        )


def differences(before: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """What two configs, as JSON types, would train differently, by flag; where it runs is free."""
    return [
        f"--{name.replace('_', '-')} {before.get(section, {}).get(name)} -> {value}"
        for section, values in now.items()
        if section != "preset"
        for name, value in values.items()
        if name not in FREE_ON_RESUME and (section != "run" or name in FIXED_OF_RUN)
        if before.get(section, {}).get(name) != value
    ]


def commit() -> str | None:
    """The commit of this program, marked if files differ from it; None where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(tool: str, arguments: Sequence[str]) -> dict[str, str | None]:
    """What a record of measurements begins with: the tool with the arguments it was given, and the commit."""
    return {"command": shlex.join(["python", "-m", tool, *arguments]), "commit": commit()}


def versions(device: torch.device) -> dict[str, str]:
    """Versions and hardware a run used."""
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "device": torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
    }
