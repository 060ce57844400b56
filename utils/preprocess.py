"""DIS5K's published tree to the flat train/ val/ test/ tree, by copying or hard-linking."""

import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.errors import UserError
from utils.files import require_writable
from utils.layouts import DATASETS
from utils.pairs import Pair, find_in_layout
from utils.progress import progress

# Where each published set goes: the four test sets are pooled in test/ and kept apart below it.
_PLACES = {
    "DIS-TR": ("train",),
    "DIS-VD": ("val",),
    "DIS-TE1": ("test", "test/DIS-TE1"),
    "DIS-TE2": ("test", "test/DIS-TE2"),
    "DIS-TE3": ("test", "test/DIS-TE3"),
    "DIS-TE4": ("test", "test/DIS-TE4"),
}


class Flattened(NamedTuple):
    """What `flatten_dis5k` did.

    Attributes:
        pairs: number of pairs in each folder below the target; empty if files failed.
        made: files copied or linked by this call.
        kept: files that were there already.
        failed: one line for each file that could not be made.
    """

    pairs: dict[str, int]
    made: int
    kept: int
    failed: list[str]


def flatten_dis5k(source: Path, target: Path, *, link: bool = False, num_workers: int = 4) -> Flattened:
    """Makes target/{train,val,test}/{im,gt} and target/test/DIS-TE{1..4}/{im,gt} from the published tree.

    Copies keep their times, so that a second call finds size and time equal and leaves them alone. Each file appears
    whole or not at all. A test file is copied once and linked to its second place, where the disk allows it.

    Args:
        source: folder with DIS-TR, DIS-VD and DIS-TE1 to DIS-TE4, or the folder that holds it; each with im/ and gt/
            (or images/ and masks/), which may have category folders.
        target: folder to make or to complete.
        link: hard-link to the source instead of copying; both must be on one disk.
        num_workers: threads.

    Raises:
        UserError: before anything is made: a set is missing, its files do not pair up, two files would get one name,
            or the folders overlap; at the end: the target holds other files than the source.
    """
    source, target = Path(source), Path(target)
    ours, theirs = target.resolve(), source.resolve()
    if ours == theirs or theirs in ours.parents or ours in theirs.parents:
        raise UserError(f"--target {target} and --source {source} overlap: choose a target outside of the source")
    planned = _plan(source, target)
    require_writable(target, "--target")
    if link:
        _require_links(next(iter(planned)), target)

    made, failed = 0, []
    executor = ThreadPoolExecutor(max(1, num_workers))
    try:
        futures = {executor.submit(_place, file, wanted, link): file for file, wanted in planned.items()}
        action = "linking" if link else "copying"
        for future in progress(as_completed(futures), total=len(futures), desc=action, unit="file"):
            try:
                made += future.result()
            except OSError as error:
                failed.append(f"{futures[future]}: {error.strerror or error}")
    finally:
        executor.shutdown(cancel_futures=True)  # Ctrl-C: finish the files begun, not the thousands waiting
    if failed:
        return Flattened({}, made, 0, sorted(failed))
    return Flattened(_verified(target, planned), made, sum(map(len, planned.values())) - made, [])


def _plan(source: Path, target: Path) -> dict[Path, list[Path]]:
    """Each source file and the paths it is wanted at."""
    dis5k = DATASETS["DIS5K"]
    published = replace(dis5k, splits={name: (name,) for name in _PLACES})  # never a flat tree as the source
    planned: dict[Path, list[Path]] = {}
    for name, places in _PLACES.items():
        for pair in find_in_layout(source, published, name, flag="--source"):
            for folder, file in (("im", pair.image), ("gt", pair.alpha)):
                planned[file] = [target / place / folder / _flat_name(pair, file) for place in places]
    # By stem: a.jpg and a.png of two categories would be two images of one alpha.
    stems = Counter(path.with_suffix("") for wanted in planned.values() for path in wanted)
    if twice := [path for path, count in stems.items() if count > 1]:
        raise UserError(
            f"--source {source}: {len(twice)} file names occur in several folders that are pooled ({twice[0].name}): "
            f"rename them"
        )
    return planned


def _flat_name(pair: Pair, file: Path) -> str:
    """The file's name without category folders: DIS5K's own names carry the category already."""
    return PurePosixPath(pair.name).name + file.suffix


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


def _place(file: Path, wanted: list[Path], link: bool) -> int:
    """Makes the wanted copies or links of a file that are not there yet; returns how many that were."""
    made = 0
    for path in wanted:
        if _is_same(file, path):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")  # hidden, so never taken for a sample
        temporary.unlink(missing_ok=True)  # of a run that was killed
        try:
            if link:
                os.link(file, temporary)
            else:
                _copy(file if path is wanted[0] else wanted[0], temporary, may_link=path is not wanted[0])
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        made += 1
    return made


def _is_same(file: Path, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = file.stat()
    # Some file systems keep times to 2 s only.
    return here.st_size == there.st_size and abs(here.st_mtime - there.st_mtime) <= 2


def _copy(file: Path, path: Path, may_link: bool) -> None:
    if may_link:
        try:
            os.link(file, path)
        except OSError:  # a file system without links: take the disk space
            shutil.copy2(file, path)
    else:
        shutil.copy2(file, path)


def _verified(target: Path, planned: dict[Path, list[Path]]) -> dict[str, int]:
    """Counts the pairs in the finished target; raises UserError if it holds others than planned."""
    flat = replace(DATASETS["DIS5K"], splits={place: (place,) for places in _PLACES.values() for place in places})
    counts = {}
    for place in flat.splits:
        pairs = find_in_layout(target, flat, place, flag="--target")
        wanted = {path for paths in planned.values() for path in paths if path.parent.parent == target / place}
        if extra := sorted({path for pair in pairs for path in (pair.image, pair.alpha)} - wanted):
            raise UserError(
                f"--target {target}: {len(extra)} files in {place} are not in the source ({extra[0].name}): "
                f"remove them or choose another target"
            )
        counts[place] = len(pairs)
    return counts
