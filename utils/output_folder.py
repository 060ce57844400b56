"""Folders of results that are continued with the settings they were begun with.

The settings stand in a hidden file of the folder from the start, so that an interrupted run is continued by the same
command, and never by another one: that would mix two sets.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.files import remove_file, write_atomically
from utils.images import list_images
from utils.names import FRAME, RESULT, counted, shorten

SETTINGS = ".settings.json"
INPUTS = "inputs"  # in it, of shared folders


class OutputFolder(NamedTuple):
    """A folder to make or to continue.

    Attributes:
        path: Of the folder.
        flag: What gave it, for the messages.
        settings: What decides the results besides the inputs, in JSON's types.
        files: The results, all of them.
    """

    path: Path
    flag: str
    settings: dict[str, Any]
    files: frozenset[Path]

    def check(self, *, overwrite: bool) -> None:
        """Makes sure that what is there can be continued or, with `overwrite`, replaced; nothing is changed.

        Raises:
            UserError: There are images of other settings, or not of this program, or the settings are damaged.
        """
        there = list_images(self.path, recursive=True) if self.path.is_dir() else []
        made = _read(self.path)
        if not there or made == self.settings:
            return
        strays = [path for path in there if path not in self.files]
        named = shorten([path.relative_to(self.path).as_posix() for path in strays or there])
        how = f"made with {describe_differences(made, self.settings)}" if made else "that this program has not made"
        message = f"{self.flag} {self.path} holds {len(strays or there)} images {how} ({named}); choose another folder"
        if strays:  # they would stay
            raise UserError(message)
        if not overwrite:
            raise UserError(f"{message}, or make all again with --overwrite")

    def begin(self, *, overwrite: bool) -> None:
        """Removes, with `overwrite`, the results that are there, and writes down the settings.

        Raises:
            CannotWriteError: The folder cannot be written.
        """
        for path in self.files if overwrite else ():
            remove_file(path)
        _write(self.path, self.settings)


class SharedFolder(NamedTuple):
    """A folder where results of many inputs and kinds gather, beside files of others.

    Attributes:
        path: Of the folder.
        flag: What gave it, for the messages.
        settings: What decides the results besides the inputs, in JSON's types; those that the folder has not met yet
            are added to its own.
        targets: The results of some inputs, files or folders of frames, to their inputs.
    """

    path: Path
    flag: str
    settings: dict[str, Any]
    targets: Mapping[Path, Path]

    def check(self, *, overwrite: bool) -> None:
        """Makes sure that no results of other settings are there or, with `overwrite`, would stay; nothing is changed.

        Without `overwrite`, results of other files than these inputs, or of these before they changed, are none either.

        Raises:
            UserError: There are some, or the settings are damaged.
        """
        changed = self._changed()
        there = [path for path in _results(self.path) if path not in self.targets or not overwrite] if changed else []
        if there:
            named = shorten([path.relative_to(self.path).as_posix() for path in there])
            message = f"{self.flag} {self.path} holds {counted(len(there), 'result')} made with {changed} ({named})"
            remedy = ", or make all again with --overwrite" if self.targets.keys() >= {*there} else ""
            raise UserError(f"{message}; choose another folder{remedy}")
        if not overwrite and (others := self._of_other_inputs()):
            named = shorten([path.relative_to(self.path).as_posix() for path in others])
            raise UserError(
                f"{self.flag} {self.path} holds {counted(len(others), 'result')} of another file of that name, or of "
                f"one that has changed since ({named}); choose another folder, or make all again with --overwrite"
            )

    @property
    def is_known(self) -> bool:
        """Whether it is written down what its results were made with."""
        return _read(self.path) is not None

    def begin(self, *, overwrite: bool) -> None:
        """Removes, with `overwrite`, the results of other settings or inputs, and writes down these.

        Raises:
            CannotWriteError: The folder cannot be written.
        """
        stale = self.targets if self._changed() else self._of_other_inputs()
        for path in stale if overwrite else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                remove_file(path)
        made = _read(self.path) or {}
        inputs = {**made.get(INPUTS, {}), **self._stamps()}
        _write(self.path, {**made, **self.settings, INPUTS: inputs})

    def _of_other_inputs(self) -> list[Path]:
        """What is there and was made from other files than these inputs are now, as far as it is written down."""
        made = (_read(self.path) or {}).get(INPUTS, {})
        stamps = self._stamps()
        paths = {path.relative_to(self.path).as_posix(): path for path in self.targets}
        return [paths[name] for name in stamps if made.get(name, stamps[name]) != stamps[name] and paths[name].exists()]

    def _stamps(self) -> dict[str, str]:
        """By result: size and time of the file that it is made from, by which another one is told."""
        stamps = {}
        for path, source in self.targets.items():
            with contextlib.suppress(OSError):  # what cannot be read is named when its turn comes
                about = source.stat()
                stamps[path.relative_to(self.path).as_posix()] = f"{about.st_size} bytes, {about.st_mtime_ns} ns"
        return stamps

    def _changed(self) -> str:
        """How its settings differ from those that it was used with before, in words."""
        made = _read(self.path) or {}
        return describe_differences(
            made, {**made, **{key: value for key, value in self.settings.items() if key in made}}
        )


def _results(folder: Path) -> list[Path]:
    """What is called like a result of predict.py: files and folders of frames, at any depth."""
    found = (path for path in folder.rglob("*") if RESULT.fullmatch(path.name if path.is_dir() else path.stem))
    return sorted(path for path in found if path.is_file() or any(map(FRAME.fullmatch, os.listdir(path))))


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: no settings of this program; remove it or choose another folder") from error


def _write(folder: Path, settings: Mapping[str, Any]) -> None:
    text = json.dumps(settings)
    write_atomically(folder / SETTINGS, lambda file: file.write(text.encode()))


def describe_differences(made: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """What two settings differ in, for a message."""
    keys = [key for key in {**made, **planned} if made.get(key) != planned.get(key)]
    return ", ".join(f"{key} {made.get(key)} instead of {planned.get(key)}" for key in keys)
