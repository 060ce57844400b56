"""Files placed in a tree: written or hard-linked, whole or not at all."""

import os
from pathlib import Path

from utils.errors import UserError
from utils.files import CannotWriteError, temporary_name, write_atomically


def require_links(file: Path, target: Path) -> None:
    """Raises UserError if `target` cannot hold hard links to `file`; leaves nothing behind."""
    parent = next(folder for folder in (target, *target.absolute().parents) if folder.is_dir())
    trial = parent / temporary_name()
    try:
        os.link(os.path.realpath(file), trial)
    except OSError as error:
        raise UserError(f"--link: {target} cannot hold links to {file} ({error.strerror}); leave out --link") from error
    finally:
        trial.unlink(missing_ok=True)


def place_file(path: Path, data: bytes, mtime_ns: int, *, source: Path, twin: Path, link: bool) -> bool:
    """Makes a file, unless it is there.

    Args:
        path: of the file; it is replaced in one step.
        data: what it is to hold.
        mtime_ns: its time, in ns since 1970, if it is written.
        source: what `data` was made from; with `link` it holds `data`.
        twin: a file of the tree that holds `data`, to link to where the disk allows it; `path` itself if there is none.
        link: `path` is to be a link to `source`, and a copy that is there is replaced by one; if not, the reverse.

    Returns:
        Whether it was not there.

    Raises:
        CannotWriteError: the disk is full, or has no links but must.
    """
    original = source if link else twin
    try:
        if path.is_file() and path.samefile(source) == link and (link or _holds(path, data)):
            return False
        if path != original:
            try:
                _link(original, path)
                return True
            except OSError:  # a file system without links: take the disk space
                if link:
                    raise
        write_atomically(path, lambda file: file.write(data))
        os.utime(path, ns=(mtime_ns, mtime_ns))
    except OSError as error:
        raise CannotWriteError(f"{path}: cannot be made ({error.strerror}); check the folder and its disk") from error
    return True


def _holds(path: Path, data: bytes) -> bool:
    return path.stat().st_size == len(data) and path.read_bytes() == data


def _link(original: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name())
    temporary.unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(original), temporary)  # of a symbolic link, the file: it may not hold from here
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
