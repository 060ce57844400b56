"""Pairs as training samples whose randomness does not depend on the workers that make them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from utils.backgrounds import NewBackgrounds
from utils.images import MAX_PIXELS, read_alpha
from utils.pairs import Pair, read_pair
from utils.seeds import seeded_rng
from utils.transforms import NO_CROPS, EvalTransform, SampleCrops, TrainTransform


class Sample(NamedTuple):
    """What the loader yields: rgb uint8 (3, H, W), alpha float32 (1, H, W) in [0, 1], native-resolution squares, name.

    `Preprocess.normalise` makes an image of rgb, on the device.
    """

    rgb: torch.Tensor
    alpha: torch.Tensor
    crops: SampleCrops
    name: str


class MattingDataset(Dataset[Sample]):
    """Reads pairs and transforms them.

    A sample is a function of (seed, epoch, index) alone: not of the worker that makes it, nor of what was made before.

    Args:
        pairs: what to read.
        transform: what becomes of them.
        backgrounds: puts some of the subjects in front of other photographs; `transform` is then a TrainTransform.
        seed: of the run.
        max_pixels: largest file that is decoded.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        transform: TrainTransform | EvalTransform,
        *,
        backgrounds: NewBackgrounds | None = None,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.pairs = list(pairs)
        self.transform = transform
        self.backgrounds = backgrounds
        self.seed = seed
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Makes a sample.

        Args:
            key: (epoch, index) as StepSampler yields it, or an index, meaning epoch 0.

        Raises:
            UserError: a file cannot be read, or image and alpha differ in size.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = seeded_rng(self.seed, epoch, index)
        pair = self.pairs[index]
        if self.backgrounds is not None and rng.random() < self.backgrounds.background_probability:
            composite = self.backgrounds.composite(self.pairs, index, self.transform, rng)
            return Sample(*self.transform.sample(composite, rng), composite.name)
        return Sample(*self.transform(*read_pair(pair, max_pixels=self.max_pixels), rng), pair.name)


class AlphaDataset(MattingDataset):
    """The alphas alone, for the teacher: no photograph is read, and `Sample.rgb` is empty, (3, 0, 0)."""

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Makes a sample, as `MattingDataset` does."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        alpha = read_alpha(self.pairs[index].alpha, max_pixels=self.max_pixels)
        alpha = self.transform.alpha(alpha, seeded_rng(self.seed, epoch, index))
        return Sample(torch.empty(3, 0, 0, dtype=torch.uint8), alpha, NO_CROPS, self.pairs[index].name)
