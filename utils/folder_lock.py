"""Folders that one process at a time works in."""

import contextlib
import os
import socket
import weakref
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class FolderLock:
    """Keeps a folder for this process until it closes the lock or ends, however it ends.

    The lock lies in a file that says who holds it and that stays behind, free. Processes forked later do not share it:
    a loader process that outlives its killed parent keeps nobody out. Where the file system or the operating system has
    no locks, `hold` does nothing.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy that is sent to another process holds nothing."""
        return {"path": self.path, "_file": None}

    @property
    def is_held(self) -> bool:
        """Whether this process has it."""
        return self._file is not None

    def hold(self, flag: str) -> bool:
        """Takes the lock, if it does not have it yet; returns whether it has it.

        Args:
            flag: What gave the folder, for the message.

        Raises:
            UserError: Another process holds it; nothing was changed.
        """
        if self._file is not None or fcntl is None:
            return self._file is not None
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            file = stack.enter_context(open(self.path, "a+b", buffering=0))  # nothing in it is changed yet
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read(200).decode(errors="replace").strip() or "another process"
                raise UserError(
                    f"{flag} {self.path.parent} is in use by {holder}; wait for it, or choose another folder"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            stack.pop_all()
            self._file = file
            _not_in_children(self)
        return self._file is not None

    def close(self) -> None:
        """Releases the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _not_in_children(lock: FolderLock) -> None:
    """A forked process drops its copy of the lock, which would hold the folder as long as that process lives."""
    held = weakref.ref(lock)

    def drop() -> None:
        if (copy := held()) is not None:
            copy.close()  # closing a copy frees nothing for others while the original is open

    os.register_at_fork(after_in_child=drop)
