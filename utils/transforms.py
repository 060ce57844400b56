"""From a decoded photograph to the networks' input, once for every script; and what training does on top."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """The one preprocessing of training, validation, evaluation, prediction and export; stored in the checkpoint.

    The whole picture is squashed to a square, so the way back is plain enlargement to its own size.

    Attributes:
        image_size: Side of the coarse stage's input, px.
        mean: Of the channels R, G, B in [0, 1].
        std: Likewise.
    """

    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def coarse(self, rgb: Tensor) -> Tensor:
        """uint8 (3, H, W) to the coarse stage's input: float32 (3, image_size, image_size), normalised."""
        return self.normalise(F.resize(rgb, [self.image_size, self.image_size], antialias=True))

    def normalise(self, rgb: Tensor) -> Tensor:
        """uint8 (3, H, W) to float32 of the same size, normalised: the refiner's input."""
        return F.normalize(F.to_dtype(rgb, torch.float32, scale=True), self.mean, self.std)


def to_tensor(rgb: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to uint8 (3, H, W) without a copy."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)


class EvalTransform:
    """Image and alpha as the coarse stage sees them, without any augmentation."""

    def __init__(self, preprocess: Preprocess):
        self.preprocess = preprocess

    def __call__(self, rgb: np.ndarray, alpha: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Takes and returns what `TrainTransform` does; the generator is not used."""
        size = [self.preprocess.image_size] * 2
        alpha = F.resize(torch.from_numpy(alpha)[None], size, antialias=True)
        return self.preprocess.coarse(to_tensor(rgb)), alpha.clamp_(0, 1)


class TrainTransform:
    """Crop at native resolution, resize, flip, colour; image and alpha move together.

    A crop has the picture's own aspect ratio, a little jittered, before it is squashed to the square: so training sees
    pictures as distorted as inference will, and the whole picture among them.

    Args:
        preprocess: Gives size and normalisation.
        flip_probability: Of a left-right flip.
        crop_scale: Smallest and largest share of the picture's area that is seen.
        crop_ratio: Smallest and largest factor on the crop's aspect ratio, 1 being the picture's own.
        brightness: Factor drawn from 1 - x to 1 + x.
        contrast: Likewise.
        saturation: Likewise.
        dilate_px: Radius by which the alpha is grown after resizing, px (the dilation strategy).
    """

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        flip_probability: float,
        crop_scale: tuple[float, float],
        crop_ratio: tuple[float, float],
        brightness: float,
        contrast: float,
        saturation: float,
        dilate_px: int = 0,
    ):
        self.preprocess = preprocess
        self.flip_probability = flip_probability
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.colour = (
            (F.adjust_brightness, brightness),
            (F.adjust_contrast, contrast),
            (F.adjust_saturation, saturation),
        )
        self.dilate_px = dilate_px

    def __call__(self, rgb: np.ndarray, alpha: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augments one pair; a function of the arguments alone, whatever process runs it.

        Args:
            rgb: uint8 (H, W, 3).
            alpha: float32 (H, W) in [0, 1].
            generator: Source of all randomness.

        Returns:
            Image (3, S, S), normalised float32, and alpha (1, S, S) float32 in [0, 1], S = image_size.
        """

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        scale = uniform(*self.crop_scale)
        ratio = math.exp(uniform(*map(math.log, self.crop_ratio)))
        full_height, full_width = alpha.shape
        height = max(1, min(full_height, round(full_height * math.sqrt(scale / ratio))))
        width = max(1, min(full_width, round(full_width * math.sqrt(scale * ratio))))
        top, left = round(uniform(0, full_height - height)), round(uniform(0, full_width - width))
        flip = uniform(0, 1) < self.flip_probability

        def moved(picture: Tensor) -> Tensor:
            size = [self.preprocess.image_size] * 2
            picture = F.resized_crop(picture, top, left, height, width, size, antialias=True)
            return F.horizontal_flip(picture) if flip else picture

        image, target = moved(to_tensor(rgb)), moved(torch.from_numpy(alpha)[None]).clamp_(0, 1)
        for adjust, strength in self.colour:
            image = adjust(image, uniform(1 - strength, 1 + strength))
        if self.dilate_px:
            target = dilate(target, self.dilate_px)
        return self.preprocess.normalise(image), target


def dilate(alpha: Tensor, radius_px: int) -> Tensor:
    """Grey dilation of (1, H, W) by a disc."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    return torch.from_numpy(cv2.dilate(alpha[0].numpy(), disc))[None]
