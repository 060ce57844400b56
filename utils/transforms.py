"""From a decoded photograph to the networks' input, once for every script; and what training does on top."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from utils.augment import add_noise, adjust_colour, blur, defocus_kernel, mean_grey, motion_kernel, recompress
from utils.compositing import Square, Window, read_squares

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ASPECT_STEP = 32  # stride of the deepest features: the coarse stage pads nothing
MAX_POOLING = 8  # of the coarse logits for a picture that is smaller than what the refiner is to be trained for
EDGE = 0.1  # alpha difference between neighbours from which on there is an edge between them


@dataclass(frozen=True)
class Preprocess:
    """The one preprocessing of training, validation, evaluation, prediction and export; stored in the checkpoint.

    The whole picture is resized, so the way back is plain enlargement to its own size.

    Attributes:
        image_size: Longer side of the coarse stage's input, px.
        keep_aspect: Whether the shorter side keeps the picture's aspect ratio, rounded to the nearest multiple of
            `ASPECT_STEP` and never below it; otherwise the picture is squashed to a square.
        mean: Of the channels R, G, B in [0, 1].
        std: Likewise.
    """

    image_size: int
    keep_aspect: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def coarse(self, rgb: Tensor) -> Tensor:
        """uint8 (3, H, W) to the coarse stage's input: float32 (3, *coarse_size(H, W)), normalised."""
        return self.normalise(F.resize(rgb, list(self.coarse_size(*rgb.shape[-2:])), antialias=True))

    def coarse_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the coarse stage's input for a picture of this height and width."""
        if not self.keep_aspect:
            return self.image_size, self.image_size
        height, width = (
            max(ASPECT_STEP, ASPECT_STEP * round(self.image_size * side / max(height, width) / ASPECT_STEP))
            for side in (height, width)
        )
        return height, width

    def normalise(self, rgb: Tensor) -> Tensor:
        """uint8 (3, H, W) or (N, 3, H, W) to float32 of the same size, normalised: the refiner's input."""
        # Not F.normalize: it makes both on the device out of lists, and the host waits for each.
        mean, std = (
            torch.tensor(each, dtype=torch.float32).view(3, 1, 1).to(rgb.device, non_blocking=True)
            for each in (self.mean, self.std)
        )
        return (F.to_dtype(rgb, torch.float32, scale=True) - mean).div_(std)


def to_tensor(rgb: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to uint8 (3, H, W), without a copy where the array is one that torch takes."""
    return torch.from_numpy(np.require(rgb, requirements="CW")).permute(2, 0, 1)


class SampleCrops(NamedTuple):
    """Squares of what a sample shows, at a higher resolution: what the refiner is trained on; K of them, or none.

    Attributes:
        rgb: uint8 (K, 3, P + 2 * halo, P + 2 * halo).
        alpha: float32 (K, 1, P, P) in [0, 1].
        corner: int64 (K, 2), top and left of the P x P square in the whole at that resolution, px.
        size: int64 (K, 2), height and width of that whole, px.
        pooling: int64 (K,), by how much the coarse logits are averaged first, along a side: a power of two, 1 to
            `MAX_POOLING`; see models.Crops. Squares with more than 1 teach the refiner alone, not routing, whose error
            is that of the coarse logits as they are.
    """

    rgb: Tensor
    alpha: Tensor
    corner: Tensor
    size: Tensor
    pooling: Tensor


NO_CROPS = SampleCrops(
    torch.empty(0, 3, 0, 0, dtype=torch.uint8),
    torch.empty(0, 1, 0, 0),
    *(torch.empty(shape, dtype=torch.int64) for shape in ((0, 2), (0, 2), (0,))),
)


class Renderable(Protocol):
    """A picture with its alpha that can be had at any size: of a photograph, or composed of several."""

    shape: tuple[int, int]  # height and width at native resolution, px

    def render(
        self, size: tuple[int, int], squares: Sequence[Square] | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Makes the picture, or parts of it.

        Args:
            size: (height, width) of the whole, px.
            squares: Of the whole at that size; beyond its border the last pixel is repeated. None: the whole alone.

        Returns:
            rgb uint8 (h, w, 3) and alpha float32 (h, w) in [0, 1], of each square.
        """


class EvalTransform:
    """Image and alpha as the coarse stage sees them, without any augmentation."""

    def __init__(self, image_size: int):
        self.size = [image_size] * 2

    def __call__(
        self, rgb: np.ndarray, alpha: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, SampleCrops]:
        """Takes and returns what `TrainTransform` does, without crops; `rng` is not used."""
        return F.resize(to_tensor(rgb), self.size, antialias=True), self.alpha(alpha, rng), NO_CROPS

    def alpha(self, alpha: np.ndarray, rng: np.random.Generator) -> Tensor:
        """The alpha alone."""
        return F.resize(torch.from_numpy(alpha)[None], self.size, antialias=True).clamp_(0, 1)


class View(NamedTuple):
    """The part of a picture that is seen, and whether it is seen mirrored."""

    window: Window
    flip: bool


def resized_crop(picture: np.ndarray, view: View, size: tuple[int, int]) -> np.ndarray:
    """What is seen of uint8 (H, W, 3) or float32 (H, W) in [0, 1], resized.

    Returns:
        (h, w, 3) or (h, w) for a size of (h, w), not always contiguous: of native size it is a part of `picture`
        itself, so that squares of it cost no more than their own pixels.
    """
    top, left, height, width = view.window
    part = picture[top : top + height, left : left + width]
    if (height, width) != size:
        channels_first = torch.from_numpy(part[None] if part.ndim == 2 else part.transpose(2, 0, 1))
        resized = F.resize(channels_first, list(size), antialias=True).numpy()
        # Sums of float32 weights leave 0 and 1 by some 1e-7.
        part = resized[0].clip(0, 1) if part.ndim == 2 else resized.transpose(1, 2, 0)
    return part[:, ::-1] if view.flip else part


class Photograph:
    """The part of a photograph that is seen, as a `Renderable`."""

    def __init__(self, rgb: np.ndarray, alpha: np.ndarray, view: View) -> None:
        self.rgb, self.alpha, self.view = rgb, alpha, view
        self.shape = (view.window.height, view.window.width)

    def render(
        self, size: tuple[int, int], squares: Sequence[Square] | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The picture at a size, or squares of that; see `Renderable`."""
        rgb, alpha = (read_squares(resized_crop(each, self.view, size), squares) for each in (self.rgb, self.alpha))
        return list(zip(rgb, alpha, strict=True))


class Look(NamedTuple):
    """Blur, colour, noise and compression of one picture, drawn once and applied to all its parts alike."""

    blur_px: float  # radius at the coarse stage's size; 0: none
    angle: float | None  # of motion, rad; None: out of focus
    colour: dict[str, float]  # arguments of adjust_colour
    noise_std: float  # levels of 255
    jpeg_quality: int | None

    def apply(
        self, rgb: np.ndarray, alpha: np.ndarray, zoom: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gives a part that look.

        Args:
            rgb: uint8 (H, W, 3).
            alpha: float32 (H, W) in [0, 1].
            zoom: How much larger the part is than the coarse stage sees it, along a side; the blur is as much wider.
            rng: Of the noise, which no two parts share.

        Returns:
            The two, of the same size.
        """
        if self.blur_px:
            radius = self.blur_px * zoom
            kernel = defocus_kernel(radius) if self.angle is None else motion_kernel(radius, self.angle)
            rgb, alpha = blur(rgb, kernel), blur(alpha, kernel)
        rgb = adjust_colour(rgb, **self.colour)
        if self.noise_std:
            rgb = add_noise(rgb, self.noise_std, rng)
        if self.jpeg_quality is not None:
            rgb = recompress(rgb, self.jpeg_quality)
        return rgb, alpha


class TrainTransform:
    """Crop at native resolution, resize, flip; blur; then colour, noise and JPEG on the picture alone.

    A crop has the picture's own aspect ratio, a little jittered, before it is squashed to the square: so training sees
    pictures as distorted as inference will without `Preprocess.keep_aspect`, and the whole picture among them. With
    it, inference sees them undistorted, while training still squashes. The refiner's crops are squares of the same
    part of the picture at a higher resolution, its own at most.

    Args:
        image_size: Side of the square that is made, S px.
        flip_probability: Of a left-right flip.
        crop_scale: Smallest and largest share of the picture's area that is seen.
        crop_ratio: Smallest and largest factor on the crop's aspect ratio, 1 being the picture's own.
        brightness: Factor drawn from 1 - x to 1 + x.
        contrast: Likewise.
        saturation: Likewise.
        blur_probability: Of picture and alpha out of focus or, as often, moving.
        blur_px: Largest radius of that, px after resizing; the smallest is 0.5, or this where it is less.
        noise_probability: Of Gaussian noise.
        noise_std: Largest standard deviation of that, levels of 255.
        jpeg_probability: Of another JPEG compression.
        jpeg_quality: Lowest and highest quality of that.
        native_crops: Squares at native resolution for the refiner, K.
        native_px: Their side, P px.
        native_zoom: Smallest and largest number of native pixels for one of the coarse stage, along a side. What a
            picture lacks of it is made up by coarser coarse logits (`SampleCrops.pooling`): by the factor it lacks,
            rounded down to a power of two and `MAX_POOLING` at most, so that a zoom is made up for by at least half
            below that cap.
        native_on_edge: Share of the squares that lie on the matte's edge; the rest lie anywhere.
        halo_px: Margin of the squares' pictures.
        dilate_px: Radius by which the alpha is grown in the end, px after resizing (the dilation strategy); the alpha
            of the squares is not.
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
        native_crops: int,
        native_px: int,
        native_zoom: tuple[float, float],
        native_on_edge: float,
        halo_px: int = 0,
        dilate_px: int = 0,
    ):
        self.size = (image_size, image_size)
        self.flip_probability = flip_probability
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.colour = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.blur_probability, self.blur_px = blur_probability, blur_px
        self.noise_probability, self.noise_std = noise_probability, noise_std
        self.jpeg_probability, self.jpeg_quality = jpeg_probability, jpeg_quality
        self.native_crops, self.native_px = native_crops, native_px
        self.native_zoom, self.native_on_edge, self.halo_px = native_zoom, native_on_edge, halo_px
        self.dilate_px = dilate_px

    def __call__(
        self, rgb: np.ndarray, alpha: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, SampleCrops]:
        """Augments one pair; a function of the arguments alone, whatever process runs it.

        Args:
            rgb: uint8 (H, W, 3).
            alpha: float32 (H, W) in [0, 1].
            rng: Source of all randomness.

        Returns:
            uint8 (3, S, S), which is a quarter of what normalised floats would be on their way to the device, alpha
            float32 (1, S, S) in [0, 1], and the squares at native resolution.
        """
        return self.sample(self.photograph(rgb, alpha, rng), rng)

    def photograph(self, rgb: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> Photograph:
        """Draws the part that is seen of a pair."""
        return Photograph(rgb, alpha, self.view(alpha.shape, rng))

    def sample(self, picture: Renderable, rng: np.random.Generator) -> tuple[Tensor, Tensor, SampleCrops]:
        """Makes a sample of any `Renderable`; returns what a call does."""
        ((rgb, alpha),) = picture.render(self.size)
        look = self.look(mean_grey(rgb), rng)
        crops = self.crops(picture, alpha, look, rng) if self.native_crops else NO_CROPS
        rgb, alpha = look.apply(rgb, alpha, 1.0, rng)
        return to_tensor(rgb), self._target(alpha), crops

    def alpha(self, alpha: np.ndarray, rng: np.random.Generator) -> Tensor:
        """The alpha alone, cropped and never blurred: for the teacher, who needs no picture."""
        return self._target(np.ascontiguousarray(resized_crop(alpha, self.view(alpha.shape, rng), self.size)))

    def view(self, shape: tuple[int, int], rng: np.random.Generator) -> View:
        """Draws the part that is seen of a picture of `shape` (height, width)."""
        scale = rng.uniform(*self.crop_scale)
        ratio = math.exp(rng.uniform(*map(math.log, self.crop_ratio)))
        height = max(1, min(shape[0], round(shape[0] * math.sqrt(scale / ratio))))
        width = max(1, min(shape[1], round(shape[1] * math.sqrt(scale * ratio))))
        top, left = round(rng.uniform(0, shape[0] - height)), round(rng.uniform(0, shape[1] - width))
        return View(Window(top, left, height, width), rng.random() < self.flip_probability)

    def look(self, grey: float, rng: np.random.Generator) -> Look:
        """Draws the look of a picture; `grey` is its mean, 0 to 255."""
        blurred, moving = rng.random() < self.blur_probability, rng.random() < 0.5
        radius, angle = rng.uniform(min(0.5, self.blur_px), self.blur_px), rng.uniform(0, math.pi)
        colour = {name: rng.uniform(1 - x, 1 + x) for name, x in self.colour.items()} | {"grey": grey}
        noisy, std = rng.random() < self.noise_probability, rng.uniform(0, self.noise_std)
        packed, quality = rng.random() < self.jpeg_probability, int(rng.integers(*self.jpeg_quality, endpoint=True))
        return Look(
            blur_px=radius if blurred else 0.0,
            angle=angle if moving else None,
            colour=colour,
            noise_std=std if noisy else 0.0,
            jpeg_quality=quality if packed else None,
        )

    def crops(self, picture: Renderable, alpha: np.ndarray, look: Look, rng: np.random.Generator) -> SampleCrops:
        """Draws a zoom, and squares of the picture at it.

        Args:
            picture: What a sample shows.
            alpha: float32 (S, S), of the picture as the coarse stage sees it: where there is an edge.
            look: Of the sample.
            rng: Source of all randomness.
        """
        (height, width), side = picture.shape, self.size[0]
        own_zoom = math.sqrt(height * width) / side
        wanted = math.exp(rng.uniform(*map(math.log, self.native_zoom)))
        zoom = min(wanted, own_zoom)
        size = (max(1, round(height * zoom / own_zoom)), max(1, round(width * zoom / own_zoom)))
        pooling = min(MAX_POOLING, 2 ** int(math.log2(wanted / zoom) + 1e-6))
        squares = self._squares(alpha, size, rng)
        # Read as much wider as the blur reaches: a blurred square is then what a blurred whole has there.
        spare = math.ceil(look.blur_px * zoom)
        margin = self.halo_px + spare
        read = [Square(top - margin, left - margin, px + 2 * margin) for top, left, px in squares]
        parts = [look.apply(*part, zoom, rng) for part in picture.render(size, read)]
        with_halo, inside = (slice(start, read[0].side - start) for start in (spare, margin))
        return SampleCrops(
            torch.stack([to_tensor(rgb[with_halo, with_halo]) for rgb, _ in parts]),
            torch.stack([torch.from_numpy(alpha[inside, inside])[None] for _, alpha in parts]),
            torch.tensor([(top, left) for top, left, _ in squares]),
            torch.tensor([size] * len(squares)),
            torch.tensor([pooling] * len(squares)),
        )

    def _squares(self, alpha: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> list[Square]:
        """Places of the squares in a picture of `size`: on an edge of its small `alpha`, or anywhere."""
        kernel = np.ones((3, 3), np.uint8)
        edge = np.flatnonzero(cv2.dilate(alpha, kernel) - cv2.erode(alpha, kernel) > EDGE)
        squares = []
        for _ in range(self.native_crops):
            at = rng.random(2)  # of the middle, as shares of the picture's height and width
            pick, on_edge, shift = rng.random(), rng.random() < self.native_on_edge, rng.uniform(-0.4, 0.4, 2)
            if on_edge and len(edge):
                at = (np.array(divmod(edge[int(pick * len(edge))], alpha.shape[1])) + at) / alpha.shape
            place = np.rint(at * size + (shift - 0.5) * self.native_px).astype(int)
            top, left = np.clip(place, 0, np.maximum(np.array(size) - self.native_px, 0)).tolist()
            squares.append(Square(top, left, self.native_px))
        return squares

    def _target(self, alpha: np.ndarray) -> Tensor:
        target = torch.from_numpy(alpha)[None]
        return dilate(target, self.dilate_px) if self.dilate_px else target


def dilate(alpha: Tensor, radius_px: int) -> Tensor:
    """Grey dilation of (1, H, W) by a disc."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    return torch.from_numpy(cv2.dilate(alpha[0].numpy(), disc))[None]
