"""The same photograph twice: byte for byte, or saved again or resized.

A photograph is compared by its thumbnail, THUMBNAIL_PX squared grey values. Of 219 photographs with mattes (frames of
one video, leaves on plain paper, animals) and 184 others, none was taken for another: the nearest are 5.2 levels apart
on average. Each was found again when it was saved as JPEG of quality 60 (at most 0.5 levels apart) and at half its size
(at most 0.9). Crops and mirrored copies are not found.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

THUMBNAIL_PX = 16
_MOST_MEAN = 3.0  # levels of 255 a pixel, on average, up to which two thumbnails show the same photograph
_MOST_ANYWHERE = 24  # and in no pixel more: another small object is a few pixels of the thumbnail
_MOST_OF_CONTRAST = 0.25  # and, of nearly flat pictures, a share of their contrast (mean absolute deviation)
_ASPECT_TOLERANCE = 0.03  # half-size copies of odd sizes round
_BLOCK = 256  # thumbnails that are compared at a time
_NEIGHBOURS = 4  # nearest thumbnails that are looked at: itself and three others


class Signature(NamedTuple):
    """What a photograph is recognised by: a digest of its file's bytes, its thumbnail, and width / height."""

    digest: str
    thumbnail: np.ndarray
    aspect: float


class Group(NamedTuple):
    """Photographs that are the same: their places in the sequence, ascending, and whether their bytes are, too."""

    members: list[int]
    identical: bool


def thumbnail(grey: np.ndarray) -> np.ndarray:
    """uint8 (THUMBNAIL_PX, THUMBNAIL_PX) of a uint8 picture (H, W) of any size."""
    return cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)


def find_duplicates(signatures: Sequence[Signature]) -> list[Group]:
    """Groups of at least two, in the order of their first members.

    The time grows with the square of the number; 10 000 take about a second.
    """
    parents = list(range(len(signatures)))
    first_of: dict[str, int] = {}
    for index, signature in enumerate(signatures):
        parents[index] = first_of.setdefault(signature.digest, index)
    for one, other in _look_alikes(signatures, list(first_of.values())):
        one, other = sorted((_root(parents, one), _root(parents, other)))
        parents[other] = one
    groups: dict[int, list[int]] = {}
    for index in range(len(signatures)):
        groups.setdefault(_root(parents, index), []).append(index)
    return [
        Group(members, len({signatures[index].digest for index in members}) == 1)
        for members in groups.values()
        if len(members) > 1
    ]


def _look_alikes(signatures: Sequence[Signature], among: list[int]) -> Iterator[tuple[int, int]]:
    """Pairs of places in `among` whose photographs look the same."""
    if len(among) < 2:
        return
    flat = np.stack([signatures[index].thumbnail.ravel() for index in among])
    # What is alike has nearly the same mean: in its order, each block has to be compared with few others.
    means = flat.mean(axis=1)
    order = np.argsort(means, kind="stable")
    flat, means = flat[order], means[order]
    for first in range(0, len(among), _BLOCK):
        block = flat[first : first + _BLOCK]
        # Those before as well: they have met this block, but each saw its nearest few only.
        low = np.searchsorted(means, means[first] - _MOST_MEAN)
        high = np.searchsorted(means, means[first + len(block) - 1] + _MOST_MEAN, side="right")
        for match in _nearest(block, flat[low:high]):
            one, other = among[order[first + match.queryIdx]], among[order[low + match.trainIdx]]
            if one != other and _same_photograph(signatures[one], signatures[other]):
                yield one, other


def _nearest(block: np.ndarray, others: np.ndarray) -> Iterator[cv2.DMatch]:
    """The nearest of `others` to each row of `block` in the sum of absolute differences, those that may be the same."""
    for matches in cv2.BFMatcher(cv2.NORM_L1).knnMatch(block, others, k=min(_NEIGHBOURS, len(others))):
        yield from (match for match in matches if match.distance <= _MOST_MEAN * block.shape[1])


def _same_photograph(one: Signature, other: Signature) -> bool:
    first, second = one.thumbnail.astype(np.float32), other.thumbnail.astype(np.float32)
    difference = np.abs(first - second)
    contrast = min(np.abs(each - each.mean()).mean() for each in (first, second))
    return (
        difference.mean() <= min(_MOST_MEAN, _MOST_OF_CONTRAST * contrast)
        and difference.max() <= _MOST_ANYWHERE
        and abs(one.aspect / other.aspect - 1) <= _ASPECT_TOLERANCE
    )


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index
