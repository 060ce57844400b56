"""Writing files so that a reader never sees half of one, and nothing is written where it should not be."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError

_TEMPORARY = re.compile(r"\.(\d+)-\d+(\.old)?\.tmp")  # the process and the thread that write it
_IDLE_SEC = 60.0  # a process of another machine that shares the folder is not seen here, but that it writes


class CannotWriteError(UserError):
    """The disk is full, or a folder cannot be written: no fault of what was read."""


def is_full_disk(error: BaseException) -> bool:
    """Whether a `CannotWriteError` says that nothing else can be written either."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def sha256_of_file(path: Path) -> str:
    """SHA-256 of what a file holds, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], *, previous: Path | None = None, size_bytes: int | None = None
) -> None:
    """Calls `write(file)` on a hidden temporary file beside `path`, flushes it to the disk, then renames it.

    Missing folders are made; an existing file is replaced in one step.

    Args:
        path: The file to write.
        write: Writes its content.
        previous: A name in the same folder for what `path` held so far. All that takes disk space comes before the
            two renames; a process killed between them leaves at `previous` the file that was there before.
        size_bytes: How much is going to be written, for the message.

    Raises:
        CannotWriteError: The disk is full or the folder cannot be written; what was at `path` before is untouched.
    """
    path = Path(path)
    new, old = path.with_name(temporary_name()), path.with_name(temporary_name(".old"))
    with _made_of(path, new, old, size_bytes=size_bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(new, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        keep = previous is not None and path.exists()
        if keep:
            _link_or_copy(path, old)
        os.replace(new, path)
        if keep:
            os.replace(old, previous)


def add_name(path: Path, name: Path) -> None:
    """Makes `name` a second name of the file at `path`, or a copy where the disk has no links; replaces what is there.

    Raises:
        CannotWriteError: The disk is full or the folder cannot be written.
    """
    temporary = name.with_name(temporary_name())
    with _made_of(name, temporary):
        _link_or_copy(path, temporary)
        os.replace(temporary, name)


@contextlib.contextmanager
def _made_of(path: Path, *temporaries: Path, size_bytes: int | None = None) -> Iterator[None]:
    """Around the making of a file: a failure becomes an error that names it, and nothing temporary stays.

    Not after a success either, where renaming does nothing: of two names of one file.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        needed = "" if size_bytes is None else f" it needs {size_bytes:,} bytes:"
        raise CannotWriteError(
            f"{path}: cannot be written ({reason});{needed} free space or choose another folder"
        ) from error
    finally:
        for temporary in temporaries:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _link_or_copy(path: Path, target: Path) -> None:
    target.unlink(missing_ok=True)  # it may be a link to `path`, which copying would then empty
    try:
        os.link(os.path.realpath(path), target)
    except OSError:  # a file system without links
        with open(path, "rb") as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy, length=2**24)
            copy.flush()
            os.fsync(copy.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the renames in a folder survive a power cut, where the system can: not on Windows."""
    with contextlib.suppress(OSError):  # what is there is whole all the same
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Writes the `to_json` of a value, indented, by `write_atomically`."""
    text = json.dumps(to_json(content), indent=2, allow_nan=False)
    write_atomically(path, lambda file: file.write(text.encode()))


def to_json(value: Any) -> Any:
    """The value as JSON types.

    Paths become text, tuples and arrays lists, those with names objects, and numbers that are not finite, which JSON
    lacks, None.
    """
    if isinstance(value, dict):
        return {key: to_json(each) for key, each in value.items()}
    if hasattr(value, "_asdict"):
        return to_json(value._asdict())
    if isinstance(value, tuple | list):
        return [to_json(each) for each in value]
    if hasattr(value, "tolist"):  # of numpy: an array, or a number
        return to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def temporary_name(kind: str = "") -> str:
    """A hidden name, never taken for a sample, that `remove_stale` knows.

    Short, because the file it stands for may have the longest name there is; unique for processes and threads that
    race.

    Args:
        kind: ".old" for a second one that is needed at the same time.
    """
    return f".{os.getpid()}-{threading.get_ident()}{kind}.tmp"


def remove_file(path: Path) -> None:
    """Removes a file, if it is there.

    Raises:
        CannotWriteError: Its folder cannot be written.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CannotWriteError(f"{path}: cannot be removed ({error.strerror}); choose another folder") from error


def remove_stale(folder: Path, *, recursive: bool = False, alone: bool = False) -> None:
    """Removes what a process that was killed left unfinished under a `temporary_name`: to be called before work starts.

    A file, or a folder with all that is in it, stays while its process lives, or if it was written to within the last
    minute.

    Args:
        folder: Where results are written; it need not exist.
        recursive: Look in its folders too, at any depth.
        alone: Nobody else writes there: nothing stays. In a container, each process may have the number of the one
            that was killed.
    """
    for path in list(folder.rglob(".*.tmp") if recursive else folder.glob(".*.tmp")):
        name = _TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours to remove: harmless
            idle = alone or (name and not _lives(int(name[1])) and time.time() - _last_written(path) > _IDLE_SEC)
            if name and idle and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif name and idle:
                path.unlink()


def _last_written(path: Path) -> float:
    """When a file, or any in a folder, was last written to, in seconds since 1970."""
    return max(each.stat().st_mtime for each in (path, *path.rglob("*")))


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
