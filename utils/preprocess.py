"""A published dataset to the flat train/ val/ test/ tree: copied, hard-linked or shrunk, checked and written down."""

import hashlib
import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.errors import UserError
from utils.files import CannotWriteError, remove_stale, require_writable, write_atomically
from utils.images import MAX_PIXELS, verify_image
from utils.layouts import DatasetLayout
from utils.manifest import Entry, is_untouched, journal, read_records, write_manifest
from utils.names import collect, shorten
from utils.pairs import find_in_layout
from utils.parallel import ordered_map, process_pool
from utils.plan import KINDS, File, Sample, choose_sets, plan, published_sets
from utils.progress import progress
from utils.shrinking import shrink_file, shrunk_size, shrunk_suffix


class Flattened(NamedTuple):
    """What `flatten` did.

    Attributes:
        pairs: number of pairs in each folder below the target.
        made: files copied, linked or shrunk by this call.
        kept: files that were there already.
        failed: one line for each sample that cannot be used; nothing of it is in the target.
    """

    pairs: dict[str, int]
    made: int
    kept: int
    failed: list[str]


class _Rules(NamedTuple):
    source: Path
    target: Path
    link: bool
    max_side: int | None
    max_pixels: int


class _Made(NamedTuple):
    entries: list[Entry]
    made: int
    failure: str


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
        splits: published sets to take, such as DIS-TR, or folders of the target, such as train; all if empty. Sets that
            earlier calls made stay.
        link: hard-link to the source instead of copying; both must be on one disk.
        max_side: px; a sample with a longer side is shrunk with the area filter. The others are copied.
        num_workers: processes; 1 works in the caller's.
        max_pixels: larger files are not decoded and fail.

    Raises:
        UserError: before anything is made: a set is missing or does not pair up, names collide, folders overlap, or the
            target holds other files; later: the disk is full, or the finished tree is not as planned.
    """
    source, target = Path(source), Path(target)
    ours, theirs = target.resolve(), source.resolve()
    if ours == theirs or theirs in ours.parents or ours in theirs.parents:
        raise UserError(f"--target {target} and --source {source} overlap: choose a target outside of the source")
    rules = _Rules(source, target, link, max_side, max_pixels)
    sets = published_sets(layout)
    chosen = choose_sets(layout, sets, splits)
    places = sorted({place for places in chosen.values() for place in places})
    samples = plan(source, target, layout, chosen)
    records = read_records(target, layout.name, max_side)
    entries = [  # of the sets that are not asked for: they stay if nobody has touched them
        entry for entry in records.values() if entry["split"] not in chosen and is_untouched(target, entry)
    ]
    _require_no_others(rules, places, samples, entries)

    todo = []
    for sample in samples:
        finished = _finished(sample, records, rules)
        entries += finished
        todo += [] if finished else [sample]
    made, failed = 0, []
    if todo:
        require_writable(target, "--target")
        remove_stale(target, recursive=True)
        if link:
            _require_links(todo[0].files[0].source, target)
        action = "linking" if link else "copying" if max_side is None else "shrinking"
        workers = min(num_workers, len(todo))
        pool = process_pool(workers) if workers > 1 else nullcontext()
        with journal(target, layout.name, max_side) as note, pool as executor:
            results = ordered_map(partial(_make, rules), todo, executor=executor, ahead=4 * workers)
            for result in progress(results, total=len(todo), desc=action, unit="sample"):
                note(result.entries)
                entries += result.entries
                made += result.made
                failed += [result.failure] if result.failure else []

    counts = _verified(target, layout, places, entries)
    there = {entry["split"] for entry in entries}
    write_manifest(target, layout.name, max_side, [split for split in sets if split in there], entries)
    return Flattened(counts, made, sum(entry["split"] in chosen for entry in entries) - made, failed)


def _suffixes(file: File, rules: _Rules) -> set[str]:
    """The suffixes a file may end up with."""
    return {file.source.suffix} | ({shrunk_suffix(file.source, file.kind)} if rules.max_side else set())


def _require_no_others(rules: _Rules, places: list[str], samples: list[Sample], entries: list[Entry]) -> None:
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


def _require_links(file: Path, target: Path) -> None:
    """Raises UserError if `target` cannot hold hard links to `file`; leaves nothing behind."""
    parent = next(folder for folder in (target, *target.absolute().parents) if folder.is_dir())
    trial = parent / f".link-{os.getpid()}.tmp"
    try:
        os.link(file, trial)
    except OSError as error:
        raise UserError(f"--link: cannot link from {target} to {file} ({error.strerror}); leave out --link") from error
    finally:
        trial.unlink(missing_ok=True)


def _finished(sample: Sample, records: dict[str, Entry], rules: _Rules) -> list[Entry]:
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
        entries += found
    return entries


def _make(rules: _Rules, sample: Sample) -> _Made:
    """Makes the files of a sample that are not there yet, in a worker.

    All are read before the first is placed, and a damaged one takes the others with it.
    """
    try:
        sizes = [verify_image(file.source, max_pixels=rules.max_pixels) for file in sample.files]
        for file, size in zip(sample.files, sizes, strict=True):
            if size != sizes[0]:
                raise UserError(
                    f"{file.source} is {size[1]}x{size[0]}, but its image {sample.files[0].source} is "
                    f"{sizes[0][1]}x{sizes[0][0]}; give them one size"
                )
        size = shrunk_size(sizes[0], rules.max_side)
        stats = [file.source.stat() for file in sample.files]  # before reading: a change meanwhile is noticed later
        if size == sizes[0]:
            suffixes = [file.source.suffix for file in sample.files]
            contents = [file.source.read_bytes() for file in sample.files]
        else:
            suffixes = [shrunk_suffix(file.source, file.kind) for file in sample.files]
            contents = [shrink_file(file.source, file.kind, sizes[0], size, rules.max_pixels) for file in sample.files]
    except (UserError, OSError) as error:
        for file in sample.files:
            _remove(file, _suffixes(file, rules))
        return _Made([], 0, str(error))

    entries, made = [], 0
    for file, suffix, stat, content in zip(sample.files, suffixes, stats, contents, strict=True):
        _remove(file, _suffixes(file, rules) - {suffix})
        paths = file.paths(suffix)
        digest = hashlib.sha256(content).hexdigest()
        for path in paths:
            original = file.source if rules.link else paths[0]
            made += _place(path, content, stat.st_mtime_ns, original, must_link=rules.link)
            entries.append(
                Entry(
                    path=path.relative_to(rules.target).as_posix(),
                    split=sample.split,
                    source=file.source.relative_to(rules.source).as_posix(),
                    width=size[1],
                    height=size[0],
                    bytes=len(content),
                    sha256=digest,
                    mtime_ns=path.stat().st_mtime_ns,
                    source_bytes=stat.st_size,
                    source_mtime_ns=stat.st_mtime_ns,
                )
            )
    return _Made(entries, made, "")


def _remove(file: File, suffixes: set[str]) -> None:
    for path in (path for suffix in suffixes for path in file.paths(suffix)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotWriteError(f"{path}: cannot be removed ({error.strerror}); check the folder") from error


def _place(path: Path, content: bytes, mtime_ns: int, original: Path, *, must_link: bool) -> bool:
    """Makes `path` hold `content`, as a link to `original` if that may be; returns whether it did not before."""
    try:
        if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
            return False
        if path != original:
            try:
                _link(original, path)
                return True
            except OSError:  # a file system without links: take the disk space
                if must_link:
                    raise
        write_atomically(path, lambda file: file.write(content))
        os.utime(path, ns=(mtime_ns, mtime_ns))
    except OSError as error:
        raise CannotWriteError(f"{path}: cannot be made ({error.strerror}); check the folder and its disk") from error
    return True


def _link(original: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")  # hidden: never taken for a sample
    temporary.unlink(missing_ok=True)
    try:
        os.link(original, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
