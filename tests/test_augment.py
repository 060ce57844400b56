"""utils.augment: each step against a closed form or a slow reference."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from utils.augment import add_noise, adjust_colour, blur, defocus_kernel, mean_grey, motion_kernel, recompress
from utils.compositing import Square, read_squares

RNG = np.random.default_rng(0)
PICTURE = cv2.GaussianBlur(RNG.integers(0, 256, (60, 80, 3), np.uint8), (0, 0), 4) // 2 + 60  # far from black and white


@pytest.mark.parametrize(
    ("brightness", "contrast", "saturation"), [(1.2, 1, 1), (1, 0.7, 1), (1, 1, 0), (0.9, 1.3, 1.4)]
)
def test_colour_is_torchvisions_one_after_the_other(brightness: float, contrast: float, saturation: float) -> None:
    expected = torch.from_numpy(PICTURE).permute(2, 0, 1) / 255
    expected = F.adjust_brightness(expected, brightness)
    expected = F.adjust_contrast(expected, contrast)
    expected = F.adjust_saturation(expected, saturation)
    # Within half a level, but for torchvision's weights, which sum to 0.9999.
    factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    ours = adjust_colour(PICTURE, **factors, grey=mean_grey(PICTURE))
    assert ours.dtype == np.uint8
    assert np.abs(ours - expected.permute(1, 2, 0).numpy() * 255).max() < 0.65


def test_colour_clips_and_no_change_is_none() -> None:
    assert adjust_colour(PICTURE, brightness=9, contrast=1, saturation=1, grey=128).min() == 255
    assert adjust_colour(PICTURE, brightness=1, contrast=1, saturation=1, grey=128) is PICTURE


def test_parts_of_a_picture_change_as_the_whole_does() -> None:
    factors = {"brightness": 1.1, "contrast": 0.5, "saturation": 1.3, "grey": mean_grey(PICTURE)}
    part = np.ascontiguousarray(PICTURE[5:20, 30:44])
    assert abs(mean_grey(part) - mean_grey(PICTURE)) > 1, "its own grey would not do"
    assert np.array_equal(adjust_colour(part, **factors), adjust_colour(PICTURE, **factors)[5:20, 30:44])


def test_mean_grey_is_the_luma_of_the_mean() -> None:
    assert mean_grey(PICTURE) == pytest.approx(float(PICTURE.mean(axis=(0, 1)) @ [0.299, 0.587, 0.114]))


@pytest.mark.parametrize("kernel", [defocus_kernel(2.3), motion_kernel(3.6, 0.4), motion_kernel(0.5, 1.0)])
def test_kernels_are_centred_and_keep_the_mean(kernel: np.ndarray) -> None:
    assert kernel.sum() == pytest.approx(1, abs=1e-6) and kernel.min() >= 0
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)  # no shift: point symmetry


def test_defocus_is_round_and_motion_is_a_line_of_its_length() -> None:
    disc = defocus_kernel(4.0)
    reach = np.hypot(*(np.argwhere(disc > 0) - 4).T)
    assert disc.shape == (9, 9) and 4 <= reach.max() <= 4.5 and disc[0, 0] == 0
    np.testing.assert_allclose(disc, disc.T, atol=1e-7)
    line = np.array([0.5, 1, 1, 1, 1, 1, 0.5]) / 6  # from -3 to 3, so half of the end pixels
    np.testing.assert_allclose(motion_kernel(3.0, 0.0)[3], line, atol=1e-6)
    np.testing.assert_allclose(motion_kernel(3.0, np.pi / 2)[:, 3], line, atol=1e-6)
    spread = motion_kernel(3.0, np.pi / 4)
    assert spread[1, 1] > 0.1 and spread[5, 5] > 0.1 and spread[1, 5] == spread[5, 1] == 0, "x and y grow together"


def test_blur_treats_picture_and_alpha_alike() -> None:
    alpha = np.zeros((40, 40), np.float32)
    alpha[10:30, 12:] = 1
    rgb = np.repeat(np.rint(alpha * 255).astype(np.uint8)[..., None], 3, axis=2)
    for kernel in (defocus_kernel(2.5), motion_kernel(2.5, 0.7)):
        soft, soft_alpha = blur(rgb, kernel), blur(alpha, kernel)
        assert soft.dtype == np.uint8 and soft_alpha.dtype == np.float32
        np.testing.assert_allclose(soft[..., 0] / 255, soft_alpha, atol=0.51 / 255)
        assert 0.2 < soft_alpha[20, 12] < 0.8 and soft_alpha[20, 25] == soft_alpha.max() == 1 and soft_alpha.min() == 0


@pytest.mark.parametrize("corner", [(-9, -9), (-9, 69), (49, -9), (49, 69), (20, 69)])
@pytest.mark.parametrize("kernel", [defocus_kernel(5.0), motion_kernel(5.0, 0.7)])
def test_a_square_at_the_border_is_blurred_as_the_whole_is(kernel: np.ndarray, corner: tuple[int, int]) -> None:
    """Read as wide as the blur reaches beyond what is compared; noise, whose mirror image is another noise."""
    rng, reach, inner = np.random.default_rng(2), 5, 11
    rows, columns = (
        slice(max(start + reach, 0), start + reach + inner) for start in corner
    )  # of the square without its margin, inside the picture
    for picture in (rng.integers(0, 256, (60, 80, 3), np.uint8), rng.random((60, 80), np.float32)):
        (part,) = read_squares(picture, [Square(*corner, inner + 2 * reach)])
        expected = blur(picture, kernel)[rows, columns]
        assert expected.size
        rows_in_part, columns_in_part = (
            slice(at.start - start, at.start - start + length)
            for at, start, length in zip((rows, columns), corner, expected.shape, strict=False)
        )
        found = blur(part, kernel)[rows_in_part, columns_in_part]
        # Small pictures are filtered directly, large kernels by Fourier; the two round differently.
        np.testing.assert_allclose(found.astype(float), expected, atol=1 if picture.ndim == 3 else 1e-5)


def test_noise_has_its_strength_and_no_bias() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    difference = add_noise(grey, 6.0, np.random.default_rng(1)).astype(float) - 128
    assert abs(difference.mean()) < 0.1 and difference.std() == pytest.approx(6, rel=0.03)
    assert abs(np.corrcoef(difference[..., 0].ravel(), difference[..., 1].ravel())[0, 1]) < 0.02
    assert add_noise(np.full((50, 50, 3), 255, np.uint8), 6.0, np.random.default_rng(1)).min() > 200, "no wrap-around"
    assert np.array_equal(add_noise(grey, 0.0, np.random.default_rng(1)), grey)


def test_recompression_keeps_the_colours_and_costs_detail() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert np.abs(recompress(red, 95).astype(int) - red).max() <= 3, "channels in order"
    textured = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    errors = [np.abs(recompress(textured, quality).astype(int) - textured).mean() for quality in (95, 60, 20)]
    assert errors == sorted(errors) and errors[0] < errors[2] * 0.8
