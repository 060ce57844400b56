"""From a decoded photograph to the networks' input, once for every script; and what training does on top."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from utils.augment import add_noise, adjust_colour, blur, defocus_kernel, motion_kernel, recompress
from utils.compositing import Window

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

    def __init__(self, image_size: int):
        self.size = [image_size] * 2

    def __call__(self, rgb: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Takes and returns what `TrainTransform` does; `rng` is not used."""
        return F.resize(to_tensor(rgb), self.size, antialias=True), self.alpha(alpha, rng)

    def alpha(self, alpha: np.ndarray, rng: np.random.Generator) -> Tensor:
        """The alpha alone."""
        return F.resize(torch.from_numpy(alpha)[None], self.size, antialias=True).clamp_(0, 1)


class View(NamedTuple):
    """The part of a picture that is seen, and whether it is seen mirrored."""

    window: Window
    flip: bool


class TrainTransform:
    """Crop at native resolution, resize, flip; blur; then colour, noise and JPEG on the picture alone.

    A crop has the picture's own aspect ratio, a little jittered, before it is squashed to the square: so training sees
    pictures as distorted as inference will, and the whole picture among them.

    Args:
        image_size: Side of the square that is made, S px.
        flip_probability: Of a left-right flip.
        crop_scale: Smallest and largest share of the picture's area that is seen.
        crop_ratio: Smallest and largest factor on the crop's aspect ratio, 1 being the picture's own.
        brightness: Factor drawn from 1 - x to 1 + x.
        contrast: Likewise.
        saturation: Likewise.
        blur_probability: Of picture and alpha out of focus or, as often, moving.
        blur_px: Largest radius of that, px after resizing.
        noise_probability: Of Gaussian noise.
        noise_std: Largest standard deviation of that, levels of 255.
        jpeg_probability: Of another JPEG compression.
        jpeg_quality: Lowest and highest quality of that.
        dilate_px: Radius by which the alpha is grown in the end, px after resizing (the dilation strategy).
    """

    def __init__(
        self,
        image_size: int,
        *,
        flip_probability: float,
        crop_scale: tuple[float, float],
        crop_ratio: tuple[float, float],
        brightness: float,
        contrast: float,
        saturation: float,
        blur_probability: float,
        blur_px: float,
        noise_probability: float,
        noise_std: float,
        jpeg_probability: float,
        jpeg_quality: tuple[int, int],
        dilate_px: int = 0,
    ):
        self.size = [image_size] * 2
        self.flip_probability = flip_probability
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.colour = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.blur_probability, self.blur_px = blur_probability, blur_px
        self.noise_probability, self.noise_std = noise_probability, noise_std
        self.jpeg_probability, self.jpeg_quality = jpeg_probability, jpeg_quality
        self.dilate_px = dilate_px

    def __call__(self, rgb: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Augments one pair; a function of the arguments alone, whatever process runs it.

        Args:
            rgb: uint8 (H, W, 3).
            alpha: float32 (H, W) in [0, 1].
            rng: Source of all randomness.

        Returns:
            uint8 (3, S, S), which is a quarter of what normalised floats would be on their way to the device, and alpha
            float32 (1, S, S) in [0, 1].
        """
        view = self.view(alpha.shape, rng)
        return self.finish(self.cut(rgb, view), self.cut(alpha, view), rng)

    def finish(self, rgb: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Blur, colour, noise, JPEG and dilation of what `cut` gave or was composed of it."""
        if rng.random() < self.blur_probability:
            radius = rng.uniform(0.5, max(0.5, self.blur_px))
            kernel = defocus_kernel(radius) if rng.random() < 0.5 else motion_kernel(radius, rng.uniform(0, math.pi))
            rgb, alpha = blur(rgb, kernel), blur(alpha, kernel)
        rgb = adjust_colour(rgb, **{name: rng.uniform(1 - x, 1 + x) for name, x in self.colour.items()})
        if rng.random() < self.noise_probability:
            rgb = add_noise(rgb, rng.uniform(0, self.noise_std), rng)
        if rng.random() < self.jpeg_probability:
            rgb = recompress(rgb, int(rng.integers(self.jpeg_quality[0], self.jpeg_quality[1], endpoint=True)))
        return to_tensor(rgb), self._target(alpha)

    def alpha(self, alpha: np.ndarray, rng: np.random.Generator) -> Tensor:
        """The alpha alone, cropped and never blurred: for the teacher, who needs no picture."""
        return self._target(self.cut(alpha, self.view(alpha.shape, rng)))

    def view(self, shape: tuple[int, int], rng: np.random.Generator) -> View:
        """Draws the part that is seen of a picture of `shape` (height, width)."""
        scale = rng.uniform(*self.crop_scale)
        ratio = math.exp(rng.uniform(*map(math.log, self.crop_ratio)))
        height = max(1, min(shape[0], round(shape[0] * math.sqrt(scale / ratio))))
        width = max(1, min(shape[1], round(shape[1] * math.sqrt(scale * ratio))))
        top, left = round(rng.uniform(0, shape[0] - height)), round(rng.uniform(0, shape[1] - width))
        return View(Window(top, left, height, width), rng.random() < self.flip_probability)

    def cut(self, picture: np.ndarray, view: View) -> np.ndarray:
        """What is seen of uint8 (H, W, 3) or float32 (H, W), resized to (S, S, 3) or (S, S)."""
        tensor = torch.from_numpy(picture)[None] if picture.ndim == 2 else to_tensor(picture)
        tensor = F.resized_crop(tensor, *view.window, self.size, antialias=True)
        tensor = F.horizontal_flip(tensor) if view.flip else tensor
        if picture.ndim == 2:
            return tensor[0].clamp_(0, 1).contiguous().numpy()
        return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())

    def _target(self, alpha: np.ndarray) -> Tensor:
        target = torch.from_numpy(alpha)[None]
        return dilate(target, self.dilate_px) if self.dilate_px else target


def dilate(alpha: Tensor, radius_px: int) -> Tensor:
    """Grey dilation of (1, H, W) by a disc."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    return torch.from_numpy(cv2.dilate(alpha[0].numpy(), disc))[None]
