"""Pairs as training samples whose randomness does not depend on the workers that make them."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from utils.images import MAX_PIXELS
from utils.pairs import Pair, read_pair

Transform = Callable[[np.ndarray, np.ndarray, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


class Sample(NamedTuple):
    """What the loader yields: image float32 (3, H, W) normalised, alpha float32 (1, H, W) in [0, 1], name."""

    image: torch.Tensor
    alpha: torch.Tensor
    name: str


class MattingDataset(Dataset[Sample]):
    """Reads pairs and transforms them.

    A sample is a function of (seed, epoch, index) alone: not of the worker that makes it, nor of what was made before.

    Args:
        pairs: what to read.
        transform: called with rgb uint8 (H, W, 3), alpha float32 (H, W) in [0, 1] and the sample's own generator,
            from which all its randomness must come; returns image float32 (3, h, w) normalised and alpha float32
            (1, h, w) in [0, 1].
        seed: of the run.
        max_pixels: largest file that is decoded.
    """

    def __init__(
        self, pairs: Sequence[Pair], transform: Transform, *, seed: int = 0, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.pairs = list(pairs)
        self.transform = transform
        self.seed = seed
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Makes a sample.

        Args:
            key: (epoch, index) as EpochSampler yields it, or an index, meaning epoch 0.

        Raises:
            UserError: a file cannot be read, or image and alpha differ in size.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        pair = self.pairs[index]
        rgb, alpha = read_pair(pair, max_pixels=self.max_pixels)
        image, alpha = self.transform(rgb, alpha, seeded_generator(self.seed, epoch, index))
        return Sample(image, alpha, pair.name)


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) keys, each index once an epoch, in an order that is a function of (seed, epoch).

    The epoch travels in the key because workers hold a copy of the dataset made before the epoch began.

    Args:
        length: number of samples.
        seed: of the run.
        shuffle: off: ascending order.
    """

    def __init__(self, length: int, *, seed: int = 0, shuffle: bool = True) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch, from 0, that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.arange(self.length)
        if self.shuffle:
            order = torch.randperm(self.length, generator=seeded_generator(self.seed, self.epoch))
        return iter([(self.epoch, index) for index in order.tolist()])


def seeded_generator(*numbers: int) -> torch.Generator:
    """A generator that is a function of `numbers`, equal on every machine and in every process.

    Sums such as seed + epoch would give epoch 1 of seed 0 the samples of epoch 0 of seed 1; Python's hash() differs
    from process to process.
    """
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
