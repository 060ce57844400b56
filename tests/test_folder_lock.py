"""utils.folder_lock: one process at a time, where there are locks."""

import errno
import os
from pathlib import Path

import pytest

from utils import folder_lock
from utils.errors import UserError
from utils.folder_lock import FolderLock


def test_a_lock_keeps_out_until_it_is_closed(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / ".lock"), FolderLock(tmp_path / ".lock")
    assert first.hold("--out") and first.hold("--out")
    content = (tmp_path / ".lock").read_bytes()
    with pytest.raises(UserError, match=rf"^--out {tmp_path} is in use by process {os.getpid()} on \S+; [^\n]*$"):
        second.hold("--out")
    assert (tmp_path / ".lock").read_bytes() == content
    first.close()
    assert second.hold("--out")
    first.close()  # again: nothing of the second's
    with pytest.raises(UserError):
        first.hold("--out")
    second.close()


@pytest.mark.parametrize("lack", ["file system", "operating system"])
def test_without_locks_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if lack == "file system":
        monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    else:
        monkeypatch.setattr(folder_lock, "fcntl", None)
    for _ in range(2):
        assert not FolderLock(tmp_path / ".lock").hold("--out")
