"""Which published file goes where in the flat train/ val/ test/ tree."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.errors import UserError
from utils.layouts import KINDS, DatasetLayout
from utils.names import shorten
from utils.pairs import NotFound, find_in_layout

OWN = ("Custom", "Embedded")  # datasets that nobody published: which sets they have is up to their owner

# Where DIS5K's published sets go: the four test sets are pooled in test/ and kept apart below it.
_DIS5K = {
    "DIS-TR": ("train",),
    "DIS-VD": ("val",),
    "DIS-TE1": ("test", "test/DIS-TE1"),
    "DIS-TE2": ("test", "test/DIS-TE2"),
    "DIS-TE3": ("test", "test/DIS-TE3"),
    "DIS-TE4": ("test", "test/DIS-TE4"),
}


class File(NamedTuple):
    """One file of the source and the places it goes to."""

    source: Path
    kind: str  # of utils.layouts.KINDS
    wanted: tuple[Path, ...]  # where it goes, each without the suffix

    def paths(self, suffix: str) -> list[Path]:
        """Where it goes, with a suffix."""
        return [path.with_name(path.name + suffix) for path in self.wanted]  # with_suffix would cut "photo 1.5"


class SourceSample(NamedTuple):
    """The files of one image."""

    split: str
    files: tuple[File, ...]  # image, alpha, and the trimap if there is one


def published_sets(layout: DatasetLayout) -> dict[str, tuple[str, ...]]:
    """A dataset's published sets and the folders each goes to.

    A set goes to the folder where the layout looks for it: HRSOD's val is its test set and gets no folder of its own.
    """
    if layout.name == "DIS5K":
        return _DIS5K
    return {split: (split,) for split in ("train", "val", "test") if split in layout.splits.get(split, ())}


def choose_sets(
    layout: DatasetLayout, sets: dict[str, tuple[str, ...]], splits: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The sets that `splits` names by their own name, by their folder, or by another name of the same split.

    Args:
        layout: of the dataset.
        sets: what `published_sets` returned.
        splits: as the user wrote them; all sets if empty.

    Raises:
        UserError: there is no such set.
    """
    chosen, known = set(), {name.casefold(): folders for name, folders in layout.splits.items()}
    for split in splits:
        wanted = split.casefold()
        same = {
            name
            for name, places in sets.items()
            if wanted in (name.casefold(), places[0]) or (wanted in known and known[wanted] == layout.splits.get(name))
        }
        if not same:
            raise UserError(f"--splits {split}: no set of {layout.name}; choose from {', '.join(sets)}")
        chosen |= same
    return {name: places for name, places in sets.items() if name in chosen or not splits}


def plan_samples(
    source: Path, target: Path, layout: DatasetLayout, chosen: dict[str, tuple[str, ...]], *, may_lack: bool = False
) -> list[SourceSample]:
    """Finds the samples of the chosen sets.

    DIS5K's category folders are dropped, since its names carry the category; other datasets keep their subfolders.

    Args:
        source: folder that holds the published sets, or the folder that holds it.
        target: folder that train/ val/ test/ are to be in.
        layout: of the dataset.
        chosen: what `choose_sets` returned.
        may_lack: sets may be absent, but not all of them.

    Raises:
        UserError: a set is absent, its files do not match, or two files would get one name.
    """
    is_dis5k = layout.name == "DIS5K"
    if is_dis5k:  # as published, never a flat tree as the source
        layout = replace(layout, splits={name: (name,) for name in _DIS5K})
    samples, absent, broken = [], {}, {}
    for split, places in chosen.items():
        try:
            pairs = find_in_layout(source, layout, split, trimaps=True, flag="--source")
        except NotFound as error:
            absent[split] = str(error)
            continue
        except UserError as error:
            broken[split] = str(error)
            continue
        for pair in pairs:
            name = PurePosixPath(pair.name).name if is_dis5k else pair.name
            files = zip(KINDS, (pair.image, pair.alpha, pair.trimap), strict=True)
            samples.append(
                SourceSample(
                    split,
                    tuple(
                        File(file, kind, tuple(target / place / kind / name for place in places))
                        for kind, file in files
                        if file is not None
                    ),
                )
            )
    unusable = broken if may_lack and samples else broken | absent
    if unusable:
        there = " ".join(split for split in chosen if split not in broken | absent)
        hint = f", or take only what is there: --splits {there}" if there else ""
        raise UserError(f"{next(iter(unusable.values()))}{hint}")
    names = Counter(path for sample in samples for path in sample.files[0].wanted)
    if twice := [path.name for path, count in names.items() if count > 1]:
        raise UserError(
            f"--source {source}: {len(twice)} names occur in several folders that are pooled ({shorten(twice)}); "
            f"rename the files"
        )
    return samples
