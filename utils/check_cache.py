"""What a check has seen before: files whose size and time of change are the same are not read again.

A line a pair, appended at once, so that an interrupted check continues. It is a convenience: what is damaged or foreign
in the file counts as not seen, and a file that cannot be written changes nothing but the time of the next check.
"""

import base64
import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.duplicates import THUMBNAIL_PX
from utils.errors import UserError
from utils.files import write_atomically
from utils.inspection import VERSION, Finding, Inspection
from utils.pairs import Pair
from utils.problems import ERRORS, WARNINGS

Stamp = list[int]


class CheckCache:
    """Opens what is remembered; inside `with` it can be added to.

    Args:
        path: The file; None: nothing is remembered.
        max_pixels: What was seen with another limit does not count, but is kept.
    """

    def __init__(self, path: Path | None, max_pixels: int):
        self.path = path
        self.max_pixels = max_pixels
        self._lines: dict[str, dict[str, Any]] = {}
        self._file: Any = None
        if path is not None:
            self._read()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            for text in self.path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError, AttributeError, LookupError):
                    line = json.loads(text)
                    _inspection(line)
                    if line["version"] == VERSION:
                        self._lines[_key(line["files"], line["max_pixels"])] = line

    def stamp(self, pair: Pair) -> Stamp | None:
        """What tells whether a file of the pair was changed: sizes in bytes and times in ns; None if one is gone."""
        try:
            states = [os.stat(file) for file in (pair.image, pair.alpha)]
        except OSError:
            return None
        return [number for state in states for number in (state.st_size, state.st_mtime_ns)]

    def get(self, pair: Pair) -> Inspection | None:
        """What was seen of a pair, if none of its files has changed since."""
        line = self._lines.get(_key(_files(pair), self.max_pixels))
        if line is None or line["stamp"] != self.stamp(pair):
            return None
        return _inspection(line)

    def forget(self, pairs: Iterable[Pair]) -> None:
        """Nothing was seen of these pairs."""
        for pair in pairs:
            self._lines.pop(_key(_files(pair), self.max_pixels), None)

    def __enter__(self) -> "CheckCache":
        if self.path is not None:
            with contextlib.suppress(OSError, UserError):
                self._write()  # without what does not count, and without half a line at its end
                self._file = open(self.path, "ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, pair: Pair, stamp: Stamp | None, inspection: Inspection) -> None:
        """Remembers what was seen of a pair whose files bore this stamp before they were read.

        Not of a file that could not be opened: it may be well, without a change of its stamp, a moment later.
        """
        if self._file is None or stamp is None or any(each.kind == "unreadable" for each in inspection.findings):
            return
        line = {
            "version": VERSION,
            "max_pixels": self.max_pixels,
            "files": _files(pair),
            "stamp": stamp,
            "seen": inspection._asdict(),
        }
        with contextlib.suppress(OSError):
            self._file.write(f"{json.dumps(line)}\n".encode())  # unbuffered: a kill leaves at most half a line

    def _write(self) -> None:
        """Keeps what is known of files that are still there."""
        lines = [line for line in self._lines.values() if all(map(os.path.exists, line["files"]))]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        write_atomically(self.path, lambda file: file.write(text.encode()))


def _files(pair: Pair) -> list[str]:
    return [str(pair.image), str(pair.alpha)]


def _key(files: list[str], max_pixels: int) -> str:
    return "\0".join([*files, str(max_pixels)])


def _inspection(line: dict[str, Any]) -> Inspection:
    """Raises TypeError, ValueError or LookupError if the line is none of ours."""
    seen = Inspection(**line["seen"])
    seen = seen._replace(findings=[Finding(*map(str, finding)) for finding in seen.findings])
    if not all(isinstance(number, int) for number in (seen.width, seen.height)):
        raise TypeError("sizes are whole numbers")
    if not all(finding.kind in ERRORS or finding.kind in WARNINGS for finding in seen.findings):
        raise ValueError("a kind of problem that is not known")
    if len(base64.b64decode(seen.thumbnail, validate=True)) != (THUMBNAIL_PX**2 if seen.digest else 0):
        raise ValueError("a thumbnail of another size")
    return seen
