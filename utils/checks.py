"""The preflight of a dataset: every file is read once before any work, and every fault is named, with its remedy.

An error is a pair that cannot be used. A warning is a pair that can be, but most likely should not be as it is; what
is said to be inverted, or the same photograph, is a guess of a stated quality.
"""

import base64
import hashlib
import os
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from utils.check_cache import CheckCache
from utils.duplicates import THUMBNAIL_PX, Signature, find_duplicates
from utils.errors import UserError, printable
from utils.images import OTHER_EXTENSIONS, list_images, natural_key
from utils.inspection import Inspection, inspect_pair
from utils.layouts import DatasetLayout
from utils.names import shorten
from utils.pairs import Listing, NotFound, Pair, find_layout, find_split, list_in_layout
from utils.parallel import in_threads
from utils.problems import ERRORS, WARNINGS, Problem

OnBad = Literal["error", "skip"]

_MOST = 0.5  # share of a split from which a problem is one of the set, not of some files


class FoundDataset(NamedTuple):
    """What `list_dataset` found.

    Attributes:
        root: What the user gave, absolute.
        layout: Of the dataset.
        splits: Each split once.
        same: Splits that have the same folders as an earlier one, and that one.
        broken: Splits that were not named and whose folders cannot be listed, and why.
    """

    root: Path
    layout: DatasetLayout
    splits: dict[str, Listing]
    same: dict[str, str]
    broken: dict[str, str]


class DataCheck(NamedTuple):
    """What the files of a dataset are like.

    Attributes:
        dataset: What was checked.
        pairs: Split to the pairs that can be used, in natural order; a split with an earlier one's folders has these.
        problems: Errors first; of each severity by kind, split and name.
        inspections: Split to name to what was seen, of all pairs.
    """

    dataset: FoundDataset
    pairs: dict[str, list[Pair]]
    problems: list[Problem]
    inspections: dict[str, dict[str, Inspection]]

    def errors(self) -> list[Problem]:
        """The problems that make pairs unusable."""
        return [problem for problem in self.problems if problem.severity == "error"]

    def summary(self) -> str:
        """Several lines: each split in numbers, then each kind of problem with the first few names and the remedy."""
        lines = [f"{self.dataset.layout.name} in {self.dataset.root}"]
        for split in self.dataset.splits:
            lines.append(f"  {split}: {self._facts(split)}")
            lines += self._swapped(split)
        lines += [f"  {split}: the folders of {other}" for split, other in self.dataset.same.items()]
        lines += [f"  {split}: not checked: {why}" for split, why in self.dataset.broken.items()]
        for severity, kinds in (("error", ERRORS), ("warning", WARNINGS)):
            found = {
                kind: problems
                for kind in kinds
                if (problems := [problem for problem in self.problems if problem.kind == kind])
            }
            count = sum(map(len, found.values()))
            lines.append(f"{count} {severity}{'' if count == 1 else 's'}{':' if found else ''}")
            for kind, problems in found.items():
                lines.append(f"  {kind:13}{self._where(problems)}")
                lines.append(f"  {'':13}{kinds[kind]}")
        return "\n".join(map(printable, lines))

    def _where(self, problems: list[Problem]) -> str:
        """How many there are, how many of a split if it is most of it, and the first few names."""
        names = shorten([_label(problem) for problem in problems])
        counts = {
            split: sum(problem.split == split and problem.name in pairs for problem in problems)
            for split, pairs in self.inspections.items()
        }
        most = [
            f"{count} of {len(self.dataset.splits[split].pairs)} in {split}"
            for split, count in counts.items()
            if count > 1 and count >= _MOST * len(self.dataset.splits[split].pairs)
        ]
        share = f" ({'; '.join(most)})" if most else ""
        return f"{len(problems)}{share}: {names}"

    def _swapped(self, split: str) -> Iterator[str]:
        """A line, if most alphas of a split are colour pictures and most of its images are grey."""
        seen = list(self.inspections[split].values())
        colour = sum(any(finding.kind == "colour-alpha" for finding in each.findings) for each in seen)
        if min(colour, sum(each.grey_image for each in seen)) > _MOST * len(seen):
            images, alphas = (folder.name for folder in self.dataset.splits[split].folders[0])
            yield f"  {split}: {images}/ and {alphas}/ look swapped: the alphas are in colour, the images are grey"

    def _facts(self, split: str) -> str:
        """The numbers of a split."""
        listing, usable = self.dataset.splits[split], len(self.pairs[split])
        seen = list(self.inspections[split].values())
        facts = [f"{usable} pairs" if usable == len(listing.pairs) else f"{usable} of {len(listing.pairs)} pairs"]
        if sizes := [each.width * each.height / 1e6 for each in seen if each.width]:
            facts.append(f"{min(sizes):.3g} to {max(sizes):.3g} megapixels, median {np.median(sizes):.3g}")
        if alphas := [each for each in seen if each.binary is not None]:
            hard = sum(each.binary for each in alphas)
            facts.append(f"{hard} alphas of 0 and 1 only, {len(alphas) - hard} soft")
        if wide := sum(each.wide_alpha for each in seen):
            facts.append(f"{wide} alphas of 16 bits")
        if grey := sum(each.grey_image for each in seen):
            facts.append(f"{grey} images without colour")
        trimaps = sum(pair.trimap is not None for pair in listing.pairs)
        return "; ".join([*facts, f"{trimaps} trimaps" if trimaps else "no trimaps"])


def _label(problem: Problem) -> str:
    """Split and name; where the type of the file is the problem, with its extension."""
    return f"{problem.split}/{problem.name}{problem.file.suffix if problem.kind == 'other-type' else ''}"


def list_dataset(root: Path, dataset: str, splits: Sequence[str] = ()) -> FoundDataset:
    """Lists the files of a dataset, whether they match or not.

    Args:
        root: the dataset's own folder, or the folder that holds it.
        dataset: a key of utils.layouts.DATASETS, in any case.
        splits: splits of it, in any case; none: those of train, val and test that are there, beside broken ones.

    Raises:
        NotFound: a split that was named is not there, or none is.
        UserError: unknown name, or a folder of a split that was named is missing or empty, or no split is whole.
    """
    layout, root = find_layout(dataset), Path(root).absolute()
    wanted = [find_split(layout, split) for split in splits]
    found: dict[str, Listing] = {}
    same: dict[str, str] = {}
    faults: dict[str, UserError] = {}
    for split in dict.fromkeys(wanted or [each for each in ("train", "val", "test") if each in layout.splits]):
        try:
            listing = list_in_layout(root, layout, split)
        except UserError as error:
            if wanted:
                raise
            faults[split] = error
            continue
        earlier = next((other for other in found if found[other].folders == listing.folders), None)
        if earlier is None:
            found[split] = listing
        else:
            same[split] = earlier
    broken = {split: str(error) for split, error in faults.items() if not isinstance(error, NotFound)}
    if not found:
        raise faults[next(iter(broken or faults))]
    return FoundDataset(root, layout, found, same, broken)


def cache_file(folder: Path, root: Path) -> Path:
    """Where in `folder` the check of the dataset in `root` is remembered, whatever path leads there."""
    return folder / f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]}.jsonl"


def check_dataset(
    dataset: FoundDataset,
    *,
    max_pixels: int,
    num_workers: int | None = None,
    cache: Path | None = None,
    recheck: bool = False,
) -> DataCheck:
    """Reads all files of a dataset and says what is wrong with them.

    JPEG photographs are decoded at a fraction of their size; other formats, and alphas, have to be decoded whole: a PNG
    of 8 megapixels takes some tenths of a second of one core.

    Args:
        dataset: From `list_dataset`.
        max_pixels: Largest file that is decoded.
        num_workers: Threads that read; None: two a CPU core. They change nothing but the speed.
        cache: File that remembers what was seen, so that a second check reads only files whose size or time of change
            is another; None: nothing is remembered. An interrupted check continues from it.
        recheck: Read all files again.
    """
    pairs = {pair for listing in dataset.splits.values() for pair in listing.pairs}
    ordered = sorted(pairs, key=lambda pair: natural_key(str(pair.image)))
    remembered = CheckCache(cache, max_pixels)
    if recheck:
        remembered.forget(ordered)
    seen = _inspect(ordered, max_pixels, num_workers, remembered)
    inspections = {
        split: {pair.name: seen[pair] for pair in listing.pairs} for split, listing in dataset.splits.items()
    }
    problems = [
        problem
        for split, listing in dataset.splits.items()
        for problem in (
            *_mismatches(split, listing, dataset.layout.exclude),
            *_findings(split, listing.pairs, seen),
        )
    ]
    problems += _duplicates(dataset, inspections)
    rank = {kind: place for place, kind in enumerate((*ERRORS, *WARNINGS))}
    places = {split: place for place, split in enumerate(dataset.splits)}
    problems.sort(key=lambda each: (rank[each.kind], places[each.split], natural_key(each.name), str(each.file)))
    unusable = {(each.split, each.name) for each in problems if each.severity == "error"}
    usable = {
        split: [pair for pair in listing.pairs if (split, pair.name) not in unusable]
        for split, listing in dataset.splits.items()
    }
    usable |= {split: usable[other] for split, other in dataset.same.items()}
    return DataCheck(dataset, usable, problems, inspections)


def _inspect(
    pairs: Sequence[Pair], max_pixels: int, num_workers: int | None, cache: CheckCache
) -> dict[Pair, Inspection]:
    """Inspects pairs in threads, those the cache does not know."""
    seen = {pair: known for pair in pairs if (known := cache.get(pair)) is not None}
    unknown = [pair for pair in pairs if pair not in seen]

    def inspect(pair: Pair) -> tuple[Pair, list[int] | None, Inspection]:
        stamp = cache.stamp(pair)  # before reading: a change in between is noticed by the next check
        return pair, stamp, inspect_pair(pair, max_pixels)

    if unknown:
        with cache:
            found = in_threads(inspect, unknown, desc="check", unit="pair", num_workers=num_workers)
            for pair, stamp, inspection in found:
                seen[pair] = inspection
                cache.add(pair, stamp, inspection)
    return seen


def _mismatches(split: str, listing: Listing, exclude: str) -> Iterator[Problem]:
    """A problem for each name that does not match; it names all files of this name."""
    others = _other_types(listing, exclude)
    for name, files in others.items():
        text = f"{' and '.join(map(str, files))}: a type that is not read; convert to PNG or JPEG"
        yield Problem(split, name, files[0], "other-type", text)
    what = {
        "no-alpha": "has no alpha; add one of the same name, or remove the image",
        "no-image": "has no image; add one of the same name, or remove the alpha",
        "image-twice": "are several images of one name; keep one",
        "alpha-twice": "are several alphas of one name; keep one",
        "no-trimap": "has no trimap, others have; complete the folder",
        "trimap-twice": "are several trimaps of one name; keep one",
    }
    for kind, found in listing.mismatches.items():
        for name, files in found.items():
            if name in others and kind in ("no-alpha", "no-image"):
                continue  # it is there, but not read
            yield Problem(split, name, files[0], kind, f"{' and '.join(map(str, files))} {what[kind]}")


def _other_types(listing: Listing, exclude: str) -> dict[str, list[Path]]:
    """Pictures of types that are not read, by name; but not those beside a whole pair of their name: it is used."""
    whole = {pair.name for pair in listing.pairs}
    found: dict[str, list[Path]] = {}
    for folder in (folder for images_and_alphas in listing.folders for folder in images_and_alphas):
        for path in list_images(folder, recursive=True, extensions=OTHER_EXTENSIONS):
            name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
            if name not in whole and not fnmatch(path.name, exclude):
                found.setdefault(name, []).append(path)
    return found


def _findings(split: str, pairs: Sequence[Pair], seen: dict[Pair, Inspection]) -> Iterator[Problem]:
    for pair in pairs:
        for kind, role, message in seen[pair].findings:
            yield Problem(split, pair.name, pair.image if role == "image" else pair.alpha, kind, message)


def _duplicates(dataset: FoundDataset, inspections: dict[str, dict[str, Inspection]]) -> Iterator[Problem]:
    """Photographs that are there twice; a file that belongs to two splits counts once."""
    places = {
        pair.image: (split, pair)
        for split, listing in reversed(dataset.splits.items())
        for pair in listing.pairs
        if inspections[split][pair.name].digest
    }
    where = [places[image] for image in sorted(places, key=lambda image: _place_key(dataset, *places[image]))]
    signatures = [_signature(inspections[split][pair.name]) for split, pair in where]
    for members, identical in find_duplicates(signatures):
        (first_split, first), first_of = where[members[0]], {}
        how = "byte for byte" if identical else "saved again or resized"
        for split, pair in (where[member] for member in members):
            other = first_of.setdefault(split, pair)
            if other is not pair:
                text = f"{pair.image}: the same photograph as {other.image} ({how}) counts twice; remove one of the two"
                yield Problem(split, pair.name, pair.image, "duplicate", text, other.image)
            if split != first_split:
                text = (
                    f"{pair.image}: the same photograph as {first.image} of {first_split} ({how}), so that scores on "
                    f"one of the splits are too good; remove it from one"
                )
                yield Problem(split, pair.name, pair.image, "leak", text, first.image)


def _place_key(dataset: FoundDataset, split: str, pair: Pair) -> tuple:
    return list(dataset.splits).index(split), natural_key(pair.name)


def _signature(seen: Inspection) -> Signature:
    small = np.frombuffer(base64.b64decode(seen.thumbnail), np.uint8).reshape(THUMBNAIL_PX, THUMBNAIL_PX)
    return Signature(seen.digest, small, seen.width / seen.height)


def require_usable(check: DataCheck, on_bad: OnBad) -> dict[str, list[Pair]]:
    """The pairs to train on.

    Args:
        check: What was found.
        on_bad: "error" refuses a dataset with any error; "skip" leaves out what cannot be used.

    Returns:
        Split to pairs, none of them empty.

    Raises:
        UserError: there are errors, or a split has no usable pair; one line that counts and names them.
    """
    errors = check.errors()
    where = f"--data-root {shlex.quote(str(check.dataset.root))} --dataset {check.dataset.layout.name}"
    show = f"'python -m tools.check_data {where}' shows all"
    for split, pairs in check.pairs.items():
        if not pairs:
            of = check.dataset.same.get(split, split)
            named = shorten([problem.message for problem in errors if problem.split == of], "; ")
            raise UserError(printable(f"none of the {split} pairs can be used: {named}; {show}"))
    if errors and on_bad == "error":
        kinds = [problem.kind for problem in errors]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        named = shorten([problem.message for problem in errors], "; ")
        rest = " and ".join(f"{len(pairs)} in {split}" for split, pairs in check.pairs.items())
        text = f"unusable files ({counts}) beside {rest}: {named}; or train on the rest with --on-bad skip; {show}"
        raise UserError(printable(text))
    return check.pairs
