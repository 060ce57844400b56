"""What a tree of made files holds, and what each file was made from; a journal while it is being made.

The manifest appears when everything is finished. Until then each sample is a line of a hidden journal, so that a run
that was killed continues where it was.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from utils.errors import UserError
from utils.files import CannotWriteError, write_atomically

MANIFEST = "manifest.json"
_JOURNAL = ".manifest.journal"
_VERSION = 1


class Entry(TypedDict):
    """One file of the tree; times are in ns since 1970."""

    path: str  # below the target
    split: str  # the published set it is of
    source: str  # below the source
    width: int  # px, as displayed
    height: int
    bytes: int
    sha256: str
    mtime_ns: int
    source_bytes: int
    source_mtime_ns: int


def read_records(target: Path, dataset: str, max_side: int | None) -> dict[str, Entry]:
    """Reads what earlier runs recorded, by path: the manifest, then the journal of a run that did not end.

    Raises:
        UserError: They made another dataset or size, which must not be mixed with this one; or the manifest is not one.
    """
    manifest, journal = target / MANIFEST, target / _JOURNAL
    records: dict[str, Entry] = {}
    if manifest.exists():
        try:
            known = json.loads(manifest.read_bytes())
            if known["version"] != _VERSION or not all(_is_inside(entry["path"]) for entry in known["files"]):
                raise ValueError
            records = {entry["path"]: entry for entry in known["files"]}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{manifest}: not a manifest of this script's; remove it, and the files are checked again"
            ) from error
        _require_same(target, known, dataset, max_side)
    for line in _whole_lines(journal):
        if isinstance(line, dict):
            _require_same(target, line, dataset, max_side)
        else:
            records |= {entry["path"]: entry for entry in line}
    return records


def _is_inside(path: str) -> bool:
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def _whole_lines(journal: Path) -> Iterator[Any]:
    for line in journal.read_bytes().splitlines() if journal.exists() else []:
        try:
            yield json.loads(line)
        except ValueError:  # half a line, of a run that was killed
            continue


def _require_same(target: Path, known: dict[str, Any], dataset: str, max_side: int | None) -> None:
    if known.get("dataset") != dataset:
        raise UserError(f"--target {target} holds {known.get('dataset')}, not {dataset}: choose another target")
    if known.get("max_side") != max_side:
        side = known.get("max_side")
        raise UserError(
            f"--target {target} was made {f'with --max-side {side}' if side else 'without --max-side'}, and sizes "
            f"would be mixed: use the same, choose another target, or remove this one"
        )


@contextmanager
def journal(target: Path, dataset: str, max_side: int | None) -> Iterator[Callable[[list[Entry]], None]]:
    """Opens the journal; what it yields adds the finished files of a sample. It stays until `write_manifest`.

    Raises:
        CannotWriteError: The disk is full or the folder cannot be written.
    """
    path = target / _JOURNAL

    def note(line: Any) -> None:
        try:
            file.write(f"\n{json.dumps(line)}\n")  # the break before it ends a line that was cut off
            file.flush()
        except OSError as error:
            raise CannotWriteError(f"{path}: cannot be written ({error.strerror}); free space") from error

    try:
        target.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise CannotWriteError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
    try:
        note({"dataset": dataset, "max_side": max_side})
        yield note
    finally:
        file.close()


def write_manifest(target: Path, dataset: str, max_side: int | None, splits: list[str], entries: list[Entry]) -> None:
    """Writes manifest.json, one file a line, unless it says so already; ends the journal."""
    head = {"version": _VERSION, "dataset": dataset, "max_side": max_side, "splits": splits}
    files = ",\n".join(json.dumps(entry) for entry in sorted(entries, key=lambda entry: entry["path"]))
    text = f'{json.dumps(head)[:-1]}, "files": [\n{files}\n]}}\n'.encode()
    path = target / MANIFEST
    if not path.exists() or path.read_bytes() != text:
        write_atomically(path, lambda file: file.write(text))
    (target / _JOURNAL).unlink(missing_ok=True)


def is_untouched(root: Path, entry: Entry, what: str = "") -> bool:
    """Whether size and time of a file are as recorded.

    Args:
        root: The target, or with `what` = "source_" the folder of the sources.
        entry: Of the file.
        what: Which file of the entry.
    """
    try:
        stat = (root / entry["source" if what else "path"]).stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (entry[f"{what}bytes"], entry[f"{what}mtime_ns"])
