"""A published dataset to the flat train/ val/ test/ tree: copied, hard-linked or shrunk, checked and written down."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.errors import UserError
from utils.files import remove_file, remove_stale, require_apart, require_writable
from utils.flat_tree import OWN, File, SourceSample, choose_sets, plan_samples, published_sets
from utils.images import MAX_PIXELS, verify_image
from utils.layouts import KINDS, DatasetLayout
from utils.manifest import Entry, entries_of_others, is_untouched, journal, read_records, write_manifest
from utils.names import collect, shorten
from utils.pairs import find_in_layout
from utils.parallel import in_processes
from utils.placing import place_file, require_links
from utils.shrinking import shrink_file, shrunk_size, shrunk_suffix


class Flattened(NamedTuple):
    """What `flatten` did.

    Attributes:
        pairs: number of pairs in each folder below the target.
        made: files copied, linked or shrunk by this call.
        kept: files that were there already.
        failed: one line for each sample that cannot be used; nothing of it is in the target.
        absent: sets that the source does not have and need not have.
    """

    pairs: dict[str, int]
    made: int
    kept: int
    failed: list[str]
    absent: tuple[str, ...] = ()


class _Rules(NamedTuple):
    source: Path
    target: Path
    link: bool
    max_side: int | None
    max_pixels: int


class _Content(NamedTuple):
    """What a file is to hold."""

    data: bytes
    suffix: str
    source: os.stat_result  # from before it was read: a change meanwhile is noticed later


class _Made(NamedTuple):
    entries: list[Entry]
    made: int
    failed: list[str]


def flatten(
    source: Path,
    target: Path,
    layout: DatasetLayout,
    *,
    splits: Sequence[str] = (),
    link: bool = False,
    max_side: int | None = None,
    num_workers: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> Flattened:
    """Makes target/{train,val,test}/{im,gt}, and trimap/ where the dataset has trimaps, from a published tree.

    DIS5K's test sets go to test/ and, as links to the same files where the disk allows it, to test/DIS-TE1 to
    test/DIS-TE4. A file appears whole or not at all, and copies keep their times. A second call makes what is missing
    or changed, also after a first one that was killed. A tree is never continued with another `max_side`: that would
    mix sizes.

    Args:
        source: folder that holds the published sets, or the folder that holds it.
        target: folder to make or to complete.
        layout: of the dataset.
        splits: published sets to take, such as DIS-TR, or folders of the target, such as train; all if empty, or of a
            dataset that nobody published those that are there. Sets that earlier calls made stay.
        link: hard-link to the source instead of copying; both must be on one disk. Copies that are there become links,
            and without it links become copies.
        max_side: px; a sample with a longer side is shrunk with the area filter. The others are copied.
        num_workers: processes; 1 works in the caller's.
        max_pixels: larger files are not decoded and fail.

    Raises:
        UserError: before anything is made: a set is missing or does not pair up, names collide, folders overlap, or the
            target holds other files, or changed ones of a set that is not asked for; later: the disk is full, or the
            finished tree is not as planned.
    """
    source, target = Path(source), Path(target)
    require_apart(target, "--target", [source])
    rules = _Rules(source, target, link, max_side, max_pixels)
    sets = published_sets(layout)
    wanted = choose_sets(layout, sets, splits)
    samples = plan_samples(source, target, layout, wanted, may_lack=not splits and layout.name in OWN)
    for folder in {path.parent for sample in samples for file in sample.files for path in file.wanted}:
        require_apart(folder, "--target", [source])  # it may be a link that leads back
    found = {sample.split for sample in samples}
    chosen = {split: places for split, places in wanted.items() if split in found}
    places = sorted({place for places in chosen.values() for place in places})
    records = read_records(target, layout.name, max_side)
    entries = entries_of_others(target, records, chosen)
    _require_no_others(rules, places, samples, entries)

    todo = []
    for sample in samples:
        finished = _finished(sample, records, rules)
        entries += finished
        todo += [] if finished else [sample]
    new = _make_all(rules, layout.name, todo, num_workers) if todo else _Made([], 0, [])
    entries += new.entries

    counts = _verified(target, layout, places, entries)
    there = {entry["split"] for entry in entries}
    write_manifest(target, layout.name, max_side, [split for split in sets if split in there], entries)
    kept = sum(entry["split"] in chosen for entry in entries) - new.made
    return Flattened(counts, new.made, kept, new.failed, tuple(split for split in wanted if split not in chosen))


def _suffixes(file: File, rules: _Rules) -> set[str]:
    """The suffixes a file may end up with."""
    return {file.source.suffix} | ({shrunk_suffix(file.source, file.kind)} if rules.max_side else set())


def _require_no_others(rules: _Rules, places: list[str], samples: list[SourceSample], entries: list[Entry]) -> None:
    """Raises UserError if the folders to fill hold images that are neither planned nor in `entries`."""
    ours = {rules.target / entry["path"] for entry in entries}
    for sample in samples:
        for file in sample.files:
            ours.update(path for suffix in _suffixes(file, rules) for path in file.paths(suffix))
    for place in places:
        folders = [folder for kind in KINDS if (folder := rules.target / place / kind).is_dir()]
        others = sorted(path.name for paths in collect(folders).values() for path in paths if path not in ours)
        if others:
            raise UserError(
                f"--target {rules.target}: {len(others)} files in {place} are not in the source ({shorten(others)}): "
                f"remove them or choose another target"
            )


def _finished(sample: SourceSample, records: dict[str, Entry], rules: _Rules) -> list[Entry]:
    """The entries of a sample whose files, at both ends, are as recorded; none if it is to be made."""
    entries: list[Entry] = []
    for file in sample.files:
        source = file.source.relative_to(rules.source).as_posix()
        names = [
            path.relative_to(rules.target).as_posix()
            for suffix in sorted(_suffixes(file, rules))
            for path in file.paths(suffix)
        ]
        found = [records[name] | {"split": sample.split, "source": source} for name in names if name in records]
        found = [entry for entry in found if is_untouched(rules.target, entry)]
        if len(found) != len(file.wanted) or not is_untouched(rules.source, found[0], "source_"):
            return []
        if any(file.source.samefile(rules.target / entry["path"]) != rules.link for entry in found):
            return []
        entries += found
    return entries


def _make_all(rules: _Rules, dataset: str, todo: list[SourceSample], num_workers: int) -> _Made:
    """Makes the files of all samples, in processes if there are to be several, and notes each sample in the journal."""
    require_writable(rules.target, "--target")
    remove_stale(rules.target, recursive=True)
    if rules.link:
        require_links(todo[0].files[0].source, rules.target)
    action = "linking" if rules.link else "copying" if rules.max_side is None else "shrinking"
    entries, made, failed = [], 0, []
    results = in_processes(partial(_make, rules), todo, desc=action, unit="sample", num_workers=num_workers)
    with journal(rules.target, dataset, rules.max_side) as note, closing(results):  # a full disk ends the processes
        for result in results:
            note(result.entries)
            entries += result.entries
            made += result.made
            failed += result.failed
    return _Made(entries, made, failed)


def _make(rules: _Rules, sample: SourceSample) -> _Made:
    """Makes the files of a sample that are not there yet, in a worker.

    All are read before the first is placed, and a damaged one takes the others with it.
    """
    try:
        (height, width), contents = _read(rules, sample)
    except (UserError, OSError) as error:
        for file in sample.files:
            _remove(file, _suffixes(file, rules))
        return _Made([], 0, [str(error)])

    entries, made = [], 0
    for file, (data, suffix, stat) in zip(sample.files, contents, strict=True):
        _remove(file, _suffixes(file, rules) - {suffix})
        paths = file.paths(suffix)
        digest = hashlib.sha256(data).hexdigest()
        for path in paths:
            made += place_file(path, data, stat.st_mtime_ns, source=file.source, twin=paths[0], link=rules.link)
            entries.append(
                Entry(
                    path=path.relative_to(rules.target).as_posix(),
                    split=sample.split,
                    source=file.source.relative_to(rules.source).as_posix(),
                    width=width,
                    height=height,
                    bytes=len(data),
                    sha256=digest,
                    mtime_ns=path.stat().st_mtime_ns,
                    source_bytes=stat.st_size,
                    source_mtime_ns=stat.st_mtime_ns,
                )
            )
    return _Made(entries, made, [])


def _read(rules: _Rules, sample: SourceSample) -> tuple[tuple[int, int], list[_Content]]:
    """The size and the contents of the files to make; raises UserError or OSError if one cannot be used."""
    sizes = [verify_image(file.source, max_pixels=rules.max_pixels) for file in sample.files]
    for file, size in zip(sample.files, sizes, strict=True):
        if size != sizes[0]:
            raise UserError(
                f"{file.source} is {size[1]}x{size[0]}, but its image {sample.files[0].source} is "
                f"{sizes[0][1]}x{sizes[0][0]}; give them one size"
            )
    size = shrunk_size(sizes[0], rules.max_side)
    contents = []
    for file in sample.files:
        stat = file.source.stat()
        if size == sizes[0]:
            suffix, data = file.source.suffix, file.source.read_bytes()
        else:
            suffix = shrunk_suffix(file.source, file.kind)
            data = shrink_file(file.source, file.kind, sizes[0], size, rules.max_pixels)
        contents.append(_Content(data, suffix, stat))
    return size, contents


def _remove(file: File, suffixes: set[str]) -> None:
    for path in (path for suffix in suffixes for path in file.paths(suffix)):
        remove_file(path)


def _verified(target: Path, layout: DatasetLayout, places: list[str], entries: list[Entry]) -> dict[str, int]:
    """Finds the pairs of the finished target again and counts them; raises UserError if they are not as recorded."""
    flat = replace(
        layout,
        splits={place: (place,) for place in places},
        folders=(("{}/im", "{}/gt"),),
        trimaps=("{}/trimap",),
        exclude="",
    )
    recorded: dict[str, dict[Path, Entry]] = {place: {} for place in places}
    for entry in entries:
        parts = PurePosixPath(entry["path"]).parts
        place = "/".join(parts[: next(i for i, part in enumerate(parts) if part in KINDS)])
        recorded.setdefault(place, {})[target / entry["path"]] = entry
    counts = {}
    for place in places:
        if not recorded[place]:
            continue  # all of its samples failed
        pairs = find_in_layout(target, flat, place, trimaps=True, flag="--target")
        found = {path for pair in pairs for path in pair[1:] if path is not None}
        wrong = found ^ set(recorded[place])
        wrong |= {path for path in found - wrong if not is_untouched(target, recorded[place][path])}
        if wrong:
            raise UserError(
                f"--target {target}: {len(wrong)} files in {place} are not as they were made "
                f"({shorten(sorted(path.name for path in wrong))}); run again, with no other program at work there"
            )
        counts[place] = len(pairs)
    return counts
