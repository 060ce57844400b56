"""Writing files so that a reader never sees half of one."""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError

_TEMPORARY = re.compile(r"\.(\d+)-\d+\.tmp")  # the process and the thread that write it
_IDLE_SEC = 60.0  # a process of another machine that shares the folder is not seen here, but that it writes


class CannotWriteError(UserError):
    """The disk is full, or a folder cannot be written: no fault of what was read."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write(file)` on a hidden temporary file beside `path`, flushes it to the disk, then renames it.

    Missing folders are made; an existing file is replaced in one step.

    Raises:
        UserError: The disk is full or the folder cannot be written; what was at `path` before is untouched.
    """
    path = Path(path)
    temporary = path.with_name(temporary_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise CannotWriteError(f"{path}: cannot be written ({reason}); free space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON types, indented, by `write_atomically`."""
    text = json.dumps(content, indent=2)
    write_atomically(path, lambda file: file.write(text.encode()))


def temporary_name() -> str:
    """A hidden name, never taken for a sample, that `remove_stale` knows.

    Short, because the file it stands for may have the longest name there is; unique for processes and threads that
    race.
    """
    return f".{os.getpid()}-{threading.get_ident()}.tmp"


def remove_file(path: Path) -> None:
    """Removes a file, if it is there.

    Raises:
        CannotWriteError: Its folder cannot be written.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CannotWriteError(f"{path}: cannot be removed ({error.strerror}); choose another folder") from error


def remove_stale(folder: Path, *, recursive: bool = False) -> None:
    """Removes what `write_atomically` left unfinished in a process that was killed: to be called before work starts.

    A file stays while its process lives, or if it was written to within the last minute.

    Args:
        folder: Where results are written; it need not exist.
        recursive: Look in its folders too, at any depth.
    """
    for path in folder.rglob(".*.tmp") if recursive else folder.glob(".*.tmp"):
        name = _TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours to remove: harmless
            if name and not _lives(int(name[1])) and time.time() - path.stat().st_mtime > _IDLE_SEC:
                path.unlink()


def _lives(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's
    return pid > 0


def require_writable(folder: Path, flag: str) -> None:
    """Makes sure, before any work, that results can be written to a folder; nothing is made or left there.

    Raises:
        UserError: It is a file, or nothing can be written there; the message names the flag that gave it.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not existing.is_dir():
        raise UserError(f"{flag} {folder}: {existing} is a file; choose another folder")
    try:
        write_atomically(existing / ".writable", lambda file: None)
        (existing / ".writable").unlink(missing_ok=True)  # another process that asks the same may be quicker
    except (UserError, OSError) as error:
        raise UserError(f"{flag} {folder}: nothing can be written there; choose another folder") from error


def require_apart(output: Path, flag: str, inputs: Iterable[Path], *, may_hold: bool = False) -> None:
    """Makes sure, before any work, that results are not written among the files that are read; links are seen through.

    Args:
        output: A folder or a file to write.
        flag: What gave it, for the messages.
        inputs: Folders that are read, or kept for other results.
        may_hold: Inputs in the output are no error: its results have names of their own.

    Raises:
        UserError: The output is one of the inputs or lies in one, or one lies in it.
    """
    written = Path(os.path.realpath(output))
    for folder in inputs:
        read = Path(os.path.realpath(folder))
        if written.is_relative_to(read):
            raise UserError(f"{flag} {output} is {folder}, or lies in it; choose another folder")
        if read.is_relative_to(written) and not may_hold:
            raise UserError(f"{flag} {output} holds {folder}; choose another folder")


def is_up_to_date(outputs: Iterable[Path], inputs: Iterable[Path]) -> bool:
    """Whether all outputs are there and none is older than an input, by the times of the files."""
    try:
        return min(path.stat().st_mtime_ns for path in outputs) >= max(path.stat().st_mtime_ns for path in inputs)
    except OSError:  # one is not there
        return False
