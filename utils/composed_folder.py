"""The folder of a composed set: which files are there, what made them, and the manifests that say so.

OUTPUT/{train,test}/manifest.json is written when all is done. Until then a hidden copy of it says what is being made,
so that an interrupted set is continued by the same command, and never by another one.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from utils.composition import composite_paths
from utils.errors import UserError
from utils.files import remove_file, remove_stale, write_atomically
from utils.images import list_images
from utils.layouts import KINDS
from utils.names import shorten
from utils.output_folder import describe_differences

SPLITS = ("train", "test")
MANIFEST = "manifest.json"
_UNFINISHED = ".manifest.json.unfinished"


class ComposedSet(NamedTuple):
    """What a manifest holds.

    Attributes:
        settings: What decides the pixels of all composites; `image_format` is one of them.
        composites: By name, what each one was made of.
        files: How many foregrounds and backgrounds there were to choose from.
    """

    settings: dict[str, Any]
    composites: dict[str, dict[str, Any]]
    files: Mapping[str, int] = MappingProxyType({})

    def paths(self, folder: Path, name: str) -> dict[str, Path]:
        """The three files of a composite in the split's folder, by kind."""
        return composite_paths(folder, name, self.settings["image_format"])

    def owners(self, folder: Path) -> dict[Path, dict[str, Any]]:
        """What each file of the set, in the split's folder, was made of."""
        return {
            path: made_of for name, made_of in self.composites.items() for path in self.paths(folder, name).values()
        }


def find_finished(root: Path, wanted: Mapping[str, ComposedSet], *, overwrite: bool, flag: str) -> set[Path]:
    """The files of a set that are there already; nothing is changed.

    Args:
        root: Folder of the set.
        wanted: By split, all of `SPLITS`; without composites where there are none to make.
        overwrite: Files of another set are no error; none counts as finished.
        flag: What gave `root`, for the messages.

    Raises:
        UserError: There are files that no manifest of ours explains, or files of other settings or sources.
    """
    finished: set[Path] = set()
    for split in SPLITS:
        folder = root / split
        there = _images(folder)
        made, planned = read_set(folder), wanted[split]
        before, after = made.owners(folder) if made else {}, planned.owners(folder)
        foreign = [path.relative_to(folder).as_posix() for path in there if path not in before and path not in after]
        if foreign:
            raise UserError(
                f"{flag} {root}: {folder} holds {len(foreign)} files that are not this program's ({shorten(foreign)}); "
                f"choose another folder"
            )
        if overwrite or not there:
            continue
        if made is None:
            why = f"{len(there)} files without a manifest that says how they were made"
        elif made.settings != planned.settings:
            why = f"composites made with {describe_differences(made.settings, planned.settings)}"
        elif any(before.get(path) != after.get(path) for path in there):
            why = _changes(made, planned, folder, set(there))
        else:
            finished |= set(there)
            continue
        raise UserError(f"{flag} {root}: {folder} holds {why}; choose another folder, or replace all with --overwrite")
    return finished


def _changes(made: ComposedSet, planned: ComposedSet, folder: Path, there: set[Path]) -> str:
    """Why composites of the same settings are not those that are planned, for a message."""
    changed, listed = [], False
    for name in {**made.composites, **planned.composites}:
        before, after = (each.composites.get(name, {}) for each in (made, planned))
        paths = planned.paths(folder, name)
        if before != after and not there.isdisjoint(paths.values()):
            changed.append(paths["im"].relative_to(folder).as_posix())
            listed |= before.get("background") != after.get("background")
    if not listed:
        return f"{len(changed)} composites made of other foregrounds, alphas or backgrounds ({shorten(changed)})"
    counts = describe_differences(made.files, planned.files)
    return f"composites of another list of foregrounds or backgrounds{f' ({counts})' if counts else ''}"


def begin(root: Path, wanted: Mapping[str, ComposedSet], *, overwrite: bool) -> None:
    """Removes, with `overwrite`, the files of the set that was there, and writes down what is being made.

    What a killed run left unfinished goes too.
    """
    remove_stale(root, recursive=True)
    if overwrite:
        for split in SPLITS:
            _remove_set(root / split, root)
    for split, composed in wanted.items():
        if composed.composites:
            _write(root / split / _UNFINISHED, composed)


def finish(root: Path, wanted: Mapping[str, ComposedSet]) -> dict[str, int]:
    """Writes the manifests, of the composites whose files are all there; returns their numbers by split."""
    counts = {}
    for split, composed in wanted.items():
        if not composed.composites:
            continue
        folder = root / split
        there = set(_images(folder))
        made = {
            name: made_of
            for name, made_of in composed.composites.items()
            if there.issuperset(composed.paths(folder, name).values())
        }
        _write(folder / MANIFEST, composed._replace(composites=made))
        remove_file(folder / _UNFINISHED)
        counts[split] = len(made)
    return counts


def read_set(folder: Path) -> ComposedSet | None:
    """What the files in a split's folder were made of, finished or not; None if nothing says so.

    Raises:
        UserError: A manifest is damaged.
    """
    for path in (folder / _UNFINISHED, folder / MANIFEST):
        if path.is_file():
            try:
                return ComposedSet(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}: no manifest of this program; remove it or choose another folder") from error
    return None


def _write(path: Path, composed: ComposedSet) -> None:
    # A line for each composite; ASCII, because a file name need not be valid UTF-8.
    lines = [f"{json.dumps(name)}: {json.dumps(made_of)}" for name, made_of in composed.composites.items()]
    head = f'"settings": {json.dumps(composed.settings)},\n"files": {json.dumps(dict(composed.files))}'
    text = f'{{{head},\n"composites": {{\n' + ",\n".join(lines) + "\n}}\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _images(folder: Path) -> list[Path]:
    folders = [folder / kind for kind in KINDS]
    return [path for kind in folders if kind.is_dir() for path in list_images(kind, recursive=True)]


def _remove_set(folder: Path, root: Path) -> None:
    """Removes a split's files, its manifests last, and the folders that are empty then."""
    for path in (*_images(folder), folder / MANIFEST, folder / _UNFINISHED):
        remove_file(path)
        with contextlib.suppress(OSError):  # one that is not empty, or is no more
            for parent in path.parents[: len(path.relative_to(root).parts) - 1]:
                parent.rmdir()
