"""From a decoded photograph to the networks' input, once for every script; and what training does on top."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
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

    Args:
        preprocess: Gives size and normalisation.
        flip_probability: Of a left-right flip.
        crop_scale: Smallest and largest share of the picture's area that is seen.
        crop_ratio: Smallest and largest aspect ratio of the crop, which is then squashed to a square.
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
        size = [preprocess.image_size] * 2
        self.preprocess = preprocess
        self.dilate_px = dilate_px
        self.move = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=crop_scale, ratio=crop_ratio, antialias=True),
                v2.RandomHorizontalFlip(flip_probability),
            ]
        )
        self.colour = v2.ColorJitter(brightness, contrast, saturation)

    def __call__(self, rgb: np.ndarray, alpha: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augments one pair; a function of the arguments alone, whatever process runs it.

        Args:
            rgb: uint8 (H, W, 3).
            alpha: float32 (H, W) in [0, 1].
            generator: Source of all randomness.

        Returns:
            Image (3, S, S), normalised float32, and alpha (1, S, S) float32 in [0, 1], S = image_size.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        # As an Image, not a Mask: a mask would be resized by nearest neighbour, and a soft alpha is not labels.
        pair = tv_tensors.Image(to_tensor(rgb)), tv_tensors.Image(torch.from_numpy(alpha)[None])
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator only
            torch.manual_seed(seed)
            rgb_tensor, alpha_tensor = self.move(*pair)
            rgb_tensor = self.colour(rgb_tensor)
        alpha_tensor = alpha_tensor.as_subclass(Tensor).clamp_(0, 1)
        if self.dilate_px:
            alpha_tensor = dilate(alpha_tensor, self.dilate_px)
        return self.preprocess.normalise(rgb_tensor.as_subclass(Tensor)), alpha_tensor


def dilate(alpha: Tensor, radius_px: int) -> Tensor:
    """Grey dilation of (1, H, W) by a disc."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    return torch.from_numpy(cv2.dilate(alpha[0].numpy(), disc))[None]
