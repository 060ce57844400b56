"""utils.transforms: image and alpha move together, by the generator alone; the one preprocessing."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, Preprocess, TrainTransform, dilate, to_tensor

OFF: dict[str, Any] = {
    "flip_probability": 0.0,
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "blur_probability": 0.0,
    "blur_px": 2.0,
    "noise_probability": 0.0,
    "noise_std": 10.0,
    "jpeg_probability": 0.0,
    "jpeg_quality": (30, 60),
}
MOVES = {**OFF, "flip_probability": 0.5, "crop_scale": (0.3, 1.0), "crop_ratio": (0.75, 1.333)}
EVERYTHING = {
    **MOVES,
    **dict.fromkeys(("brightness", "contrast", "saturation"), 0.2),
    **dict.fromkeys(("blur_probability", "noise_probability", "jpeg_probability"), 1.0),
}
PREPROCESS = Preprocess(image_size=64)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def unnormalised(image: Tensor) -> Tensor:
    """A normalised image, or rgb as uint8, as (3, H, W) in [0, 1]."""
    if image.dtype == torch.uint8:
        return image / 255
    return image * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]


def smooth_pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose red channel, in [0, 1], is its alpha, to rounding; green and blue tell the place."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    alpha = np.rint(255 * (0.5 + 0.25 * np.sin(5 * x + 1) + 0.25 * np.cos(4 * y))) / 255
    rgb = np.stack([alpha, x, y], axis=2)
    return np.rint(255 * rgb).astype(np.uint8), alpha.astype(np.float32)


# ------------------------------------------------------------------------------------------------- preprocessing


def test_a_constant_picture_stays_constant() -> None:
    colour = (10, 128, 255)
    rgb = to_tensor(np.full((37, 91, 3), colour, np.uint8))
    image = PREPROCESS.coarse(rgb)
    assert image.shape == (3, 64, 64) and image.dtype == torch.float32
    for channel, level, mean, std in zip(image, colour, IMAGENET_MEAN, IMAGENET_STD, strict=True):
        torch.testing.assert_close(channel, torch.full_like(channel, (level / 255 - mean) / std), atol=1e-6, rtol=1e-6)
    native = PREPROCESS.normalise(rgb)
    assert native.shape == (3, 37, 91)
    assert torch.equal(native[:, :1, :1], image[:, :1, :1])


def test_of_the_right_size_nothing_is_resampled() -> None:
    rgb = to_tensor(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert torch.equal(PREPROCESS.coarse(rgb), PREPROCESS.normalise(rgb))


def test_shrinking_is_anti_aliased() -> None:
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    grey = unnormalised(PREPROCESS.coarse(to_tensor(stripes)))
    assert (grey - 0.5).abs().max() < 0.02


def test_channels_are_red_green_blue() -> None:
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[..., 0] = 255
    assert unnormalised(PREPROCESS.normalise(to_tensor(rgb))).mean(dim=(1, 2)).round().tolist() == [1, 0, 0]


def test_mean_and_std_from_json_are_accepted() -> None:
    rgb = to_tensor(np.full((5, 5, 3), 99, np.uint8))
    again = Preprocess(image_size=64, mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD))
    assert torch.equal(again.coarse(rgb), PREPROCESS.coarse(rgb))


@pytest.mark.parametrize("size", [(64, 64), (100, 41), (1, 7)])
def test_eval_transform_shows_the_whole_picture(size: tuple[int, int]) -> None:
    rgb, alpha = smooth_pair(*size)
    image, target = EvalTransform(64)(rgb, alpha, generator(0))
    assert torch.equal(PREPROCESS.normalise(image), PREPROCESS.coarse(to_tensor(rgb))), "what inference sees"
    assert target.shape == (1, 64, 64) and target.min() >= 0 and target.max() <= 1
    torch.testing.assert_close(unnormalised(image)[:1], target, atol=1.01 / 255, rtol=0)


# ------------------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize("size", [(64, 64), (120, 80), (50, 200)])
def test_image_and_alpha_move_together(size: tuple[int, int]) -> None:
    rgb, alpha = smooth_pair(*size)
    transform = TrainTransform(64, **MOVES)
    for seed in range(30):
        image, target = transform(rgb, alpha, generator(seed))
        assert image.shape == (3, 64, 64) and target.shape == (1, 64, 64)
        assert image.dtype == torch.uint8 and target.dtype == torch.float32
        # Resizing rounds the 8-bit picture, not the alpha.
        torch.testing.assert_close(unnormalised(image)[:1], target, atol=1.01 / 255, rtol=0)


def test_crops_and_flips_happen_as_asked() -> None:
    """Read from the green and blue channels, which tell where a pixel comes from."""
    height, width = 150, 300
    rgb, alpha = smooth_pair(height, width)
    transform = TrainTransform(64, **MOVES)
    flips, shares, factors, tops = [], [], [], []
    for seed in range(200):
        _, x, y = unnormalised(transform(rgb, alpha, generator(seed))[0])
        across, down = float(x[:, -1].mean() - x[:, 0].mean()), float(y[-1].mean() - y[0].mean())
        flips.append(across < 0)
        across, down = abs(across) * 64 / 63, down * 64 / 63  # from pixel centres to edges
        shares.append(across * down)
        factors.append(across / down)  # 1: the crop has the picture's own aspect
        tops.append(float(y[0].mean()))
        assert down > 0
    assert 0.4 < np.mean(flips) < 0.6
    assert min(shares) > 0.3 * 0.9 and max(shares) < 1.05 and np.std(shares) > 0.1
    assert min(factors) > 0.75 * 0.93 and max(factors) < 1.333 * 1.07
    assert abs(np.mean(np.log(factors))) < 0.05, "neither wider nor narrower on average"
    assert np.std(tops) > 0.05


def test_without_augmentation_it_is_the_evaluations_view() -> None:
    for size in ((90, 130), (64, 64)):
        rgb, alpha = smooth_pair(*size)
        ours, theirs = (make(rgb, alpha, generator(1)) for make in (TrainTransform(64, **OFF), EvalTransform(64)))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_flip_probability_is_meant() -> None:
    rgb, alpha = smooth_pair(64, 64)
    plain = TrainTransform(64, **OFF)(rgb, alpha, generator(0))
    for seed in range(5):
        flipped = TrainTransform(64, **{**OFF, "flip_probability": 1.0})(rgb, alpha, generator(seed))
        for a, b in zip(plain, flipped, strict=True):
            assert torch.equal(a.flip(-1), b)


def test_the_generator_decides_alone() -> None:
    rgb, alpha = smooth_pair(80, 100)
    transform = TrainTransform(64, **EVERYTHING)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global state is what is tested)
    first = transform(rgb, alpha, generator(5))
    other = transform(rgb, alpha, generator(6))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    state = torch.get_rng_state()
    second = transform(rgb, alpha, generator(5))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used or seeded"


def test_the_arguments_are_left_as_they_are() -> None:
    rgb, alpha = smooth_pair(64, 64)
    rgb_before, alpha_before = rgb.copy(), alpha.copy()
    everything = TrainTransform(64, **EVERYTHING)
    for transform in (TrainTransform(64, **OFF, dilate_px=3), everything, EvalTransform(64)):
        transform(rgb, alpha, generator(0))
        transform.alpha(alpha, generator(0))
    assert np.array_equal(rgb, rgb_before) and np.array_equal(alpha, alpha_before)


def test_colour_changes_the_picture_only() -> None:
    rgb, alpha = smooth_pair(64, 64)
    plain = TrainTransform(64, **OFF)(rgb, alpha, generator(0))
    for strength in ("brightness", "contrast", "saturation"):
        image, target = TrainTransform(64, **{**OFF, strength: 0.5})(rgb, alpha, generator(0))
        assert torch.equal(target, plain[1])
        assert (unnormalised(image) - unnormalised(plain[0])).abs().mean() > 0.01
        assert unnormalised(image).min() >= -1e-6 and unnormalised(image).max() <= 1 + 1e-6


def test_noise_and_jpeg_change_the_picture_only() -> None:
    rgb, alpha = smooth_pair(64, 64)
    plain = TrainTransform(64, **OFF)(rgb, alpha, generator(0))
    for step in ("noise_probability", "jpeg_probability"):
        image, target = TrainTransform(64, **{**OFF, step: 1.0})(rgb, alpha, generator(0))
        assert torch.equal(target, plain[1])
        assert (unnormalised(image) - unnormalised(plain[0])).abs().mean() > 0.005


def test_blur_softens_picture_and_alpha_alike() -> None:
    """The red channel is the alpha, so it stays the alpha."""
    alpha = np.zeros((64, 64), np.float32)
    alpha[16:48, 16:48] = 1
    rgb = np.repeat((alpha * 255).astype(np.uint8)[..., None], 3, axis=2)
    kinds = set()
    for seed in range(20):
        image, target = TrainTransform(64, **{**OFF, "blur_probability": 1.0})(rgb, alpha, generator(seed))
        torch.testing.assert_close(unnormalised(image)[:1], target, atol=1.01 / 255, rtol=0)
        assert ((target > 0.05) & (target < 0.95)).any()
        kinds.add(bool(torch.allclose(target[0], target[0].T, atol=1e-5)))
    assert kinds == {True, False}, "round and directed ones"


@pytest.mark.parametrize("step", ["blur_probability", "noise_probability", "jpeg_probability"])
def test_probabilities_are_meant(step: str) -> None:
    rgb, alpha = smooth_pair(64, 64)
    plain = TrainTransform(64, **OFF)(rgb, alpha, generator(0))[0]
    transform = TrainTransform(64, **{**OFF, step: 0.3})
    changed = [not torch.equal(transform(rgb, alpha, generator(seed))[0], plain) for seed in range(200)]
    assert 0.2 < np.mean(changed) < 0.4


def test_the_teachers_alpha_is_cropped_alike_and_needs_no_picture() -> None:
    rgb, alpha = smooth_pair(90, 130)
    transform = TrainTransform(64, **MOVES)
    for seed in range(5):
        target = transform(rgb, alpha, generator(seed))[1]
        assert torch.equal(transform.alpha(alpha, generator(seed)), target)
        whole = EvalTransform(64)
        assert torch.equal(whole.alpha(alpha, generator(seed)), whole(rgb, alpha, generator(seed))[1])


@pytest.mark.parametrize("side", [16, 150])
def test_a_soft_ramp_stays_soft(side: int) -> None:
    """Nearest-neighbour resizing would leave `side` levels and steps of 1 / side."""
    alpha = np.tile(np.linspace(0, 1, side, dtype=np.float32), (side, 1))
    rgb = np.zeros((side, side, 3), np.uint8)
    _, target = TrainTransform(64, **OFF)(rgb, alpha, generator(0))
    row = target[0, 32]
    assert len(row.unique()) > 55
    assert (row.diff() >= 0).all() and row.diff().max() < 1.5 / 60


def test_alpha_is_not_rounded_to_8_bits() -> None:
    alpha = np.full((64, 64), 1 / 3, np.float32)
    _, target = TrainTransform(64, **OFF)(np.zeros((64, 64, 3), np.uint8), alpha, generator(0))
    torch.testing.assert_close(target, torch.full((1, 64, 64), 1 / 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2000, 3)])
def test_extreme_pictures_pass(size: tuple[int, int]) -> None:
    rgb, alpha = smooth_pair(*size)
    for seed in range(5):
        image, target = TrainTransform(64, **MOVES, dilate_px=2)(rgb, alpha, generator(seed))
        assert torch.isfinite(image).all() and target.min() >= 0 and target.max() <= 1


# ------------------------------------------------------------------------------------------------- dilation


@pytest.mark.parametrize("radius", [1, 2, 5, 9])
def test_dilation_grows_by_exactly_the_radius(radius: int) -> None:
    alpha = torch.zeros(1, 41, 41)
    alpha[0, 20, 20] = 0.7
    grown = dilate(alpha, radius)
    assert grown.shape == alpha.shape and grown.dtype == torch.float32
    place = (grown[0] > 0).nonzero() - 20
    assert place.min().item() == -radius and place.max().item() == radius
    assert grown[0, 20, 20 - radius] == grown[0, 20 + radius, 20] == torch.tensor(0.7)
    distance = torch.cdist(place.double(), torch.zeros(1, 2).double())
    assert distance.max() <= radius + 0.5, "a disc"
    assert grown[0, 20 + radius, 20 + radius] == 0, "not a square"
    inside = torch.cartesian_prod(*[torch.arange(-radius, radius + 1)] * 2)
    for y, x in inside[(inside**2).sum(1) <= radius**2].tolist():
        assert grown[0, 20 + y, 20 + x] == torch.tensor(0.7)


def test_dilation_never_lowers_an_alpha_and_keeps_soft_values() -> None:
    _, alpha = smooth_pair(64, 64)
    grown = dilate(torch.from_numpy(alpha)[None], 4)[0].numpy()
    assert (grown >= alpha).all() and grown.max() == alpha.max()
    assert len(np.unique(grown)) > 20


def test_dilation_is_measured_after_resizing() -> None:
    alpha = np.zeros((256, 256), np.float32)
    alpha[:, 128:] = 1
    rgb = np.zeros((256, 256, 3), np.uint8)
    plain, grown = (
        TrainTransform(64, **OFF, dilate_px=radius)(rgb, alpha, generator(0))[1][0, 32] for radius in (0, 5)
    )
    assert (grown >= 0.5).sum() - (plain >= 0.5).sum() == 5
