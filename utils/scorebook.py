"""What an evaluation has scored so far: an interrupted one continues with the same final numbers.

scores.jsonl holds a line that says how images are scored, then a line for each image: its scores to the last digit, the
size and time of its files, and its pictures if it was among the worst or best so far. A line that a kill cut short is
dropped.

Of several processes that share an evaluation each has a file: scores.rank1.jsonl is the second one's. It is there until
the first process, in the end or at the next --resume, has the lines in scores.jsonl.
"""

import base64
import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.cases import Case, Scored
from utils.errors import UserError
from utils.files import remove_file, remove_stale, write_atomically
from utils.gallery import Panels
from utils.scoring import ImageScores

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

VERSION = 1  # of the numbers: raise it with every change of what a metric gives or how it is kept
SCORES = "scores.jsonl"
RESULTS = (SCORES, "metrics.json", "per_image.csv", "report.html", "table.txt")


class Scorebook:
    """Opens the scores in a folder.

    Args:
        folder: Where results are written.
        settings: What decides the numbers; JSON types.
        resume: Keep what is there, if it was made with the same settings.
        overwrite: Replace what is there.
        rank: Of this process among those that share the evaluation. What is there is the first one's, 0, to read, and
            the folder its to hold: the others open theirs after it, and know no scores but those they add.

    Raises:
        UserError: There are results, and neither was asked for; or they were made with other settings; or another
            evaluation writes there.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool, rank: int = 0):
        self.path = folder / (f"scores.rank{rank}.jsonl" if rank else SCORES)
        self._rank = rank
        self._scored: dict[tuple[str, str], dict[str, Any]] = {}
        settings = {"version": VERSION, **settings}
        with contextlib.ExitStack() as opened:
            shares = []
            if rank == 0:
                shares = sorted(folder.glob("scores.rank*.jsonl")) if os.path.isdir(folder) else []
                _refuse_present(folder, [path.name for path in shares], kept=resume, replaced=overwrite)
                opened.callback(os.close, _lock(folder))
                remove_stale(folder)
                if resume:
                    for path in (self.path, *shares):
                        self._take_over(path, settings)
            lines = [{"settings": settings}, *self._scored.values()]
            text = "".join(f"{json.dumps(line)}\n" for line in lines)
            write_atomically(self.path, lambda file: file.write(text.encode()))
            for path in shares:  # of an evaluation that was ended: its lines are in the first process' file now
                remove_file(path)
            # Kept open: if somebody replaces the file meanwhile, the scores of two evaluations do not mix.
            self._file = opened.enter_context(open(self.path, "ab", buffering=0))
            self._opened = opened.pop_all()

    def __enter__(self) -> "Scorebook":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._opened.close()
        if self._rank and kind is None:  # the first process has everything
            remove_file(self.path)

    def _take_over(self, path: Path, settings: dict[str, Any]) -> None:
        """Takes in the scores of a file, if it is there, that were made with the same settings."""
        if path.exists():
            before, scored = _read(path)
            if before is not None and scored:
                _refuse_other(path, before, settings)
            self._scored |= scored

    def get(self, benchmark: str, case: Case) -> tuple[ImageScores, Panels | None] | None:
        """The scores of a case, if it was scored and none of its files has changed since."""
        line = self._scored.get((benchmark, case.name))
        if line is None or line["stamp"] != case.stamp():
            return None
        panels = line["panels"]
        if panels is not None:
            panels = [(caption, base64.b64decode(jpeg)) for caption, jpeg in panels]
        return ImageScores(**line["scores"]), panels

    def add(self, benchmark: str, *scored: Scored) -> None:
        """Writes the scores of cases, at once and to the disk: a power cut takes none that were added."""
        text = "".join(f"{json.dumps(_line(benchmark, each))}\n" for each in scored).encode()
        try:
            written = self._file.write(text)  # unbuffered: a kill leaves at most one line that is cut short
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); free space, then --resume") from error
        if written < len(text):
            raise UserError(f"{self.path}: the disk is full; free space, then --resume")


def _line(benchmark: str, scored: Scored) -> dict[str, Any]:
    panels = scored.panels
    if panels is not None:
        panels = [(caption, base64.b64encode(jpeg).decode()) for caption, jpeg in panels]
    return {"benchmark": benchmark, "scores": scored.scores._asdict(), "stamp": scored.stamp, "panels": panels}


def _refuse_present(folder: Path, shares: Sequence[str], *, kept: bool, replaced: bool) -> None:
    """Results that are there are kept or replaced only if that was asked for; files without a score do not count.

    Raises:
        UserError: There are some, and it was not; or one is a folder.
    """
    there = [name for name in (*RESULTS, *shares) if os.path.lexists(folder / name)]
    if folders := [name for name in there if os.path.isdir(folder / name)]:
        raise UserError(f"--out {folder}: {folders[0]}, which is to be written, is a folder; choose another folder")
    if kept or replaced or all(name in (SCORES, *shares) and _without_scores(folder / name) for name in there):
        return
    raise UserError(
        f"--out {folder} holds results already ({there[0]}): continue them with --resume, replace them with "
        f"--overwrite, or choose another folder"
    )


def _without_scores(path: Path) -> bool:
    """An evaluation ended before its first score: there is nothing to keep."""
    content = path.read_bytes()
    return content.startswith(b'{"settings": ') and content.count(b"\n") <= 1


def _read(path: Path) -> tuple[dict[str, Any] | None, dict[tuple[str, str], dict[str, Any]]]:
    """The settings, None if the file was cut short in its first line, and the lines by benchmark and name."""
    settings, scored = None, {}
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            content = json.loads(line)
            if number == 1:
                settings = dict(content["settings"])
            else:
                name = ImageScores(**content["scores"]).name
                for _, jpeg in content["panels"] or []:
                    base64.b64decode(jpeg, validate=True)
                scored[content["benchmark"], name] = {**content, "stamp": dict(content["stamp"])}
        except (ValueError, LookupError, TypeError) as error:
            if line.endswith(b"\n"):
                raise UserError(f"{path}: line {number} is damaged; score anew with --overwrite") from error
    return settings, scored


def _refuse_other(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [
        f"{key.replace('_', ' ')} {before.get(key)} -> {now.get(key)}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise UserError(
            f"--resume: {path} was made with other settings ({'; '.join(differing)}); use the same ones, or --overwrite"
        )


def _lock(folder: Path) -> int:
    """Opens a folder, which is made if need be, for this process alone, where the system knows such locks.

    It is free again when the file descriptor that is returned is closed, at the latest when the process ends.

    Raises:
        UserError: Another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return os.open(os.devnull, os.O_RDONLY)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"--out {folder}: another evaluation writes there at this moment; wait for it, or choose another folder"
        ) from error
    except OSError:
        pass  # some network disks know no locks
    return descriptor
