"""The folder of a composed set: which files are there, what made them, and the manifests that say so.

OUTPUT/{train,test}/manifest.json is written when all is done. Until then a hidden copy of it says what is being made,
so that an interrupted set is continued by the same command, and never by another one.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.composition import KINDS, composite_paths
from utils.errors import UserError
from utils.files import remove_stale, write_atomically
from utils.images import list_images
from utils.names import shorten

SPLITS = ("train", "test")
MANIFEST = "manifest.json"
_UNFINISHED = ".manifest.json.unfinished"


class ComposedSet(NamedTuple):
    """What a manifest holds.

    Attributes:
        settings: What decides the pixels of all composites; `image_format` is one of them.
        composites: By name, what each one was made of.
    """

    settings: dict[str, Any]
    composites: dict[str, dict[str, Any]]

    def owners(self, folder: Path) -> dict[Path, dict[str, Any]]:
        """What each file of the set, in the split's folder, was made of."""
        image_format = self.settings["image_format"]
        return {
            path: made_of
            for name, made_of in self.composites.items()
            for path in composite_paths(folder, name, image_format).values()
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
        if foreign := [path.name for path in there if path not in before and path not in after]:
            raise UserError(
                f"{flag} {root}: {folder} holds {len(foreign)} files that are not this program's ({shorten(foreign)}); "
                f"choose another folder"
            )
        if overwrite or not there:
            continue
        if made is None:
            why = f"{len(there)} files without a manifest that says how they were made"
        elif made.settings != planned.settings:
            why = f"composites made with {_differences(made.settings, planned.settings)}"
        elif other := [path.name for path in there if before.get(path) != after.get(path)]:
            why = f"{len(other)} files made of other foregrounds, alphas or backgrounds ({shorten(other)})"
        else:
            finished |= set(there)
            continue
        raise UserError(f"{flag} {root}: {folder} holds {why}; choose another folder, or replace all with --overwrite")
    return finished


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
        folder, image_format = root / split, composed.settings["image_format"]
        there = set(_images(folder))
        made = {
            name: made_of
            for name, made_of in composed.composites.items()
            if there.issuperset(composite_paths(folder, name, image_format).values())
        }
        _write(folder / MANIFEST, composed._replace(composites=made))
        (folder / _UNFINISHED).unlink(missing_ok=True)
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
    text = f'{{"settings": {json.dumps(composed.settings)},\n"composites": {{\n' + ",\n".join(lines) + "\n}}\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _images(folder: Path) -> list[Path]:
    folders = [folder / kind for kind in KINDS]
    return [path for kind in folders if kind.is_dir() for path in list_images(kind, recursive=True)]


def _remove_set(folder: Path, root: Path) -> None:
    """Removes a split's files, its manifests last, and the folders that are empty then."""
    for path in (*_images(folder), folder / MANIFEST, folder / _UNFINISHED):
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # one that is not empty, or is no more
            for parent in path.parents[: len(path.relative_to(root).parts) - 1]:
                parent.rmdir()


def _differences(made: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    keys = [key for key in {**made, **planned} if made.get(key) != planned.get(key)]
    return ", ".join(f"{key} {made.get(key)} instead of {planned.get(key)}" for key in keys)
