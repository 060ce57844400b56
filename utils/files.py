"""Writing files so that a reader never sees half of one."""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError


class CannotWriteError(UserError):
    """The disk is full, or a folder cannot be written: no fault of what was read."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write(file)` on a hidden temporary file beside `path`, flushes it to the disk, then renames it.

    Missing folders are made; an existing file is replaced in one step.

    Raises:
        UserError: The disk is full or the folder cannot be written; what was at `path` before is untouched.
    """
    path = Path(path)
    # Short, because `path` may have the longest name there is; unique for processes and threads that race.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
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
        (existing / ".writable").unlink()
    except (UserError, OSError) as error:
        raise UserError(f"{flag} {folder}: nothing can be written there; choose another folder") from error
