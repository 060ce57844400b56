"""What a run is trained and validated on: pairs and backgrounds, found and checked before anything is made."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.backgrounds import NewBackgrounds, find_backgrounds, find_foregrounds
from utils.checks import cache_file, check_dataset, list_dataset, require_usable
from utils.errors import UserError
from utils.names import shorten
from utils.pairs import NotFound, Pair, find_layout
from utils.problems import Problem


@dataclass(frozen=True)
class TrainingSet:
    """Pictures whose files have all been read once.

    Attributes:
        train: Pairs to train on.
        val: Pairs to choose the best checkpoint on.
        problems: What is wrong with files that are left out, or doubtful.
        backgrounds: What composes new pictures, if anything does.
        notes: What the user should know of the choice.
    """

    train: list[Pair]
    val: list[Pair]
    problems: list[Problem]
    backgrounds: NewBackgrounds | None
    notes: list[str]

    @property
    def fingerprint(self) -> str:
        """The names of all pictures as a short text: what a resume must find again, wherever it lies."""
        names = [pair.name for pair in (*self.train, *self.val)]
        if self.backgrounds is not None:
            names += [path.name for path in self.backgrounds.backgrounds] + sorted(self.backgrounds.foregrounds)
        digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
        return f"{len(self.train)} + {len(self.val)} {digest[:16]}"


def find_training_set(
    dataset: str, data_root: Path, *, on_bad: str, max_pixels: int, checks: Path, composition: dict[str, Any]
) -> TrainingSet:
    """Finds the training and validation pairs of a dataset, and checks all files.

    Args:
        dataset: A name of `utils.layouts.DATASETS`.
        data_root: The folder that holds it.
        on_bad: "error", or "skip": go on without damaged and unmatched files.
        max_pixels: Largest file that is decoded.
        checks: Folder in which it is remembered what was read.
        composition: Arguments of `NewBackgrounds`; nothing is composed where its "backgrounds" are None.

    Raises:
        UserError: There is no such dataset, or files are bad.
    """
    layout, held_out, notes = find_layout(dataset), "val", []
    try:
        listing = list_dataset(data_root, layout.name, ("train", held_out))
    except NotFound as error:
        if layout.name != "Custom":  # the others' layouts say themselves what to validate on
            raise
        held_out = "test"  # a composed set, say
        try:
            listing = list_dataset(data_root, layout.name, ("train", held_out))
        except NotFound:
            raise error from None
        notes.append(f"note on {data_root}: no val/, so a best checkpoint is chosen on test/")
    if layout.note:
        notes.append(f"note on {layout.name}: {layout.note}")
    check = check_dataset(listing, max_pixels=max_pixels, cache=cache_file(checks, listing.root))
    pairs = require_usable(check, on_bad)
    if check.problems:
        notes.append(check.summary())
    train, val = pairs["train"], pairs[held_out]
    backgrounds = _find_backgrounds(composition, train, val, max_pixels=max_pixels)
    return TrainingSet(train, val, check.problems, backgrounds, notes)


def _find_backgrounds(
    composition: dict[str, Any], train: Sequence[Pair], val: Sequence[Pair], *, max_pixels: int
) -> NewBackgrounds | None:
    folder, solved = composition["backgrounds"], composition["foregrounds"]
    if folder is None:
        return None
    backgrounds = find_backgrounds(folder, max_pixels=max_pixels)
    taken = {os.path.realpath(pair.image) for pair in (*train, *val)}
    if shared := [path.name for path in backgrounds if os.path.realpath(path) in taken]:
        raise UserError(
            f"--backgrounds {folder}: {len(shared)} are images of the dataset ({shorten(shared)}), whose subjects "
            f"would be taken for background; give photographs without a subject"
        )
    foregrounds: dict[str, Path] = {}
    if solved is not None:
        foregrounds = find_foregrounds(solved, train, max_pixels=max_pixels)
    files = {"backgrounds": backgrounds, "foregrounds": foregrounds}
    return NewBackgrounds(**{**composition, **files}, max_pixels=max_pixels)
