"""What a tree of made files holds, and what each file was made from; a journal while it is being made.

The manifest appears when everything is finished. Until then each sample is a line of a hidden journal, so that a run
that was killed continues where it was.
"""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from utils.errors import UserError
from utils.files import CannotWriteError, sha256_of_file, write_atomically
from utils.layouts import KINDS
from utils.names import shorten

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
        UserError: They made another dataset or size, which must not be mixed with this one; or a file is not theirs.
    """
    records: dict[str, Entry] = {}
    for path, read in ((target / MANIFEST, _read_manifest), (target / _JOURNAL, _read_journal)):
        if not path.exists():
            continue
        try:
            heads, entries = read(path)
            if not all(map(_is_entry, entries)):
                raise ValueError
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path}: not written by this script; remove it, and the files are checked again"
            ) from error
        for head in heads:
            _require_same(target, head, dataset, max_side)
        records |= {entry["path"]: entry for entry in entries}
    return records


def _read_manifest(path: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """Its head and its entries, which are not checked yet."""
    known = json.loads(path.read_bytes())
    if known["version"] != _VERSION:
        raise ValueError
    return [known], known["files"]


def _read_journal(path: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """The heads of all runs that did not end, and their entries, which are not checked yet."""
    heads, entries = [], []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # half a line, of a run that was killed
            continue
        if isinstance(line, dict):
            heads.append(line)
        else:
            entries += line
    return heads, entries


def _is_entry(entry: Any) -> bool:
    """Whether it is an `Entry`, of a file in one of KINDS' folders below the target."""
    if not all(isinstance(entry[key], of) for key, of in Entry.__annotations__.items()):
        return False
    path = PurePosixPath(entry["path"])
    return not path.is_absolute() and ".." not in path.parts and not set(KINDS).isdisjoint(path.parts[:-1])


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


def entries_of_others(target: Path, records: dict[str, Entry], chosen: Collection[str]) -> list[Entry]:
    """The entries of the sets that are not made again; a set that somebody removed as a whole has none.

    A file that was only touched, or copied with its tree, is known by its hash.

    Raises:
        UserError: Files of such a set were changed or removed.
    """
    others = [entry for entry in records.values() if entry["split"] not in chosen]
    there = {entry["split"] for entry in others if (target / entry["path"]).exists()}
    entries, changed = [], []
    for entry in others:
        if entry["split"] not in there:
            continue
        path = target / entry["path"]
        if is_untouched(target, entry):
            entries.append(entry)
        elif path.is_file() and sha256_of_file(path) == entry["sha256"]:
            entries.append(entry | {"mtime_ns": path.stat().st_mtime_ns})
        else:
            changed.append(entry)
    if changed:
        sets = " ".join(sorted({entry["split"] for entry in changed}))
        raise UserError(
            f"--target {target}: {len(changed)} files are not as they were made "
            f"({shorten([entry['path'] for entry in changed])}): add {sets} to --splits to have them made again"
        )
    return entries


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
