"""utils.transforms: image and alpha move together, by the generator alone; the one preprocessing."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from models import Crops
from models.patches import sample_crops
from utils.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_CROPS,
    EvalTransform,
    Look,
    Preprocess,
    SampleCrops,
    TrainTransform,
    View,
    dilate,
    to_tensor,
)

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
    "native_crops": 0,
    "native_px": 24,
    "native_zoom": (1.0, 8.0),
    "native_on_edge": 0.5,
}
MOVES = {**OFF, "flip_probability": 0.5, "crop_scale": (0.3, 1.0), "crop_ratio": (0.75, 1.333)}
EVERYTHING = {
    **MOVES,
    **dict.fromkeys(("brightness", "contrast", "saturation"), 0.2),
    **dict.fromkeys(("blur_probability", "noise_probability", "jpeg_probability"), 1.0),
}
NATIVE = {**OFF, "native_crops": 4}
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


@pytest.mark.parametrize("shape", [(3, 37, 91), (3, 1, 1), (5, 3, 8, 9), (2, 3, 1, 4)])
def test_normalising_is_torchvisions_for_one_picture_and_for_many(shape: tuple[int, ...]) -> None:
    rgb = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = rgb.clone()
    for preprocess in (PREPROCESS, Preprocess(64, mean=(0.1, 0.5, 0.9), std=(1.0, 0.5, 0.25))):
        image = preprocess.normalise(rgb)
        expected = F.normalize(F.to_dtype(rgb, torch.float32, scale=True), preprocess.mean, preprocess.std)
        assert image.dtype == torch.float32 and image.shape == shape
        torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)
    assert torch.equal(rgb, before)
    floats = rgb / 255
    kept = floats.clone()
    torch.testing.assert_close(preprocess.normalise(floats), image, atol=1e-6, rtol=0)
    assert torch.equal(floats, kept), "the argument is left as it is"


@pytest.mark.parametrize(
    ("image_size", "height", "width", "expected"),
    [
        (512, 1080, 1920, (288, 512)),
        (512, 100, 4000, (32, 512)),  # 12.8: at least one step
        (512, 1000, 1500, (352, 512)),  # 341.3 = 10.67 steps, up
        (512, 1000, 1590, (320, 512)),  # 322.0 = 10.06 steps, down
        (512, 7, 7, (512, 512)),
        (1024, 1080, 1920, (576, 1024)),
        (64, 1, 1, (64, 64)),
    ],
)
def test_the_aspect_is_kept_to_the_nearest_step(
    image_size: int, height: int, width: int, expected: tuple[int, int]
) -> None:
    kept = Preprocess(image_size, keep_aspect=True)
    assert kept.coarse_size(height, width) == expected
    assert kept.coarse_size(width, height) == expected[::-1]
    for squashed in (Preprocess(image_size), Preprocess(image_size, keep_aspect=False)):
        assert squashed.coarse_size(height, width) == squashed.coarse_size(width, height) == (image_size, image_size)


def test_with_its_aspect_kept_a_picture_is_whole_and_not_turned() -> None:
    y, x = np.mgrid[:90, :160]
    rgb = to_tensor(np.stack([x, 2 * y, 0 * x], axis=2).astype(np.uint8))
    image = unnormalised(Preprocess(128, keep_aspect=True).coarse(rgb)) * 255
    assert image.shape == (3, 64, 128)  # 72 is 2.25 steps
    red, green = image[0].mean(0), image[1].mean(1)
    torch.testing.assert_close(red[1:-1], ((torch.arange(128) + 0.5) * 160 / 128 - 0.5)[1:-1], atol=0.6, rtol=0)
    torch.testing.assert_close(green[1:-1], 2 * ((torch.arange(64) + 0.5) * 90 / 64 - 0.5)[1:-1], atol=0.6, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (100, 41), (1, 7)])
def test_eval_transform_shows_the_whole_picture(size: tuple[int, int]) -> None:
    rgb, alpha = smooth_pair(*size)
    image, target, crops = EvalTransform(64)(rgb, alpha, generator(0))
    assert crops is NO_CROPS
    assert torch.equal(PREPROCESS.normalise(image), PREPROCESS.coarse(to_tensor(rgb))), "what inference sees"
    assert target.shape == (1, 64, 64) and target.min() >= 0 and target.max() <= 1
    torch.testing.assert_close(unnormalised(image)[:1], target, atol=1.01 / 255, rtol=0)


# ------------------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize("size", [(64, 64), (120, 80), (50, 200)])
def test_image_and_alpha_move_together(size: tuple[int, int]) -> None:
    rgb, alpha = smooth_pair(*size)
    transform = TrainTransform(64, **MOVES)
    for seed in range(30):
        image, target, _ = transform(rgb, alpha, generator(seed))
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
        assert ours[2] is theirs[2] is NO_CROPS
        for a, b in zip(ours[:2], theirs[:2], strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_flip_probability_is_meant() -> None:
    rgb, alpha = smooth_pair(64, 64)
    plain = TrainTransform(64, **OFF)(rgb, alpha, generator(0))
    for seed in range(5):
        flipped = TrainTransform(64, **{**OFF, "flip_probability": 1.0})(rgb, alpha, generator(seed))
        for a, b in zip(plain[:2], flipped[:2], strict=True):
            assert torch.equal(a.flip(-1), b)


def test_the_generator_decides_alone() -> None:
    rgb, alpha = smooth_pair(80, 100)
    transform = TrainTransform(64, **{**EVERYTHING, "native_crops": 4}, halo_px=3)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global state is what is tested)
    first = transform(rgb, alpha, generator(5))
    other = transform(rgb, alpha, generator(6))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    state = torch.get_rng_state()
    second = transform(rgb, alpha, generator(5))
    assert all(torch.equal(a, b) for a, b in zip((*first[:2], *first[2]), (*second[:2], *second[2]), strict=True))
    assert not torch.equal(first[2].rgb, other[2].rgb) and not torch.equal(first[2].corner, other[2].corner)
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used or seeded"


def test_the_arguments_are_left_as_they_are() -> None:
    rgb, alpha = smooth_pair(64, 64)
    rgb_before, alpha_before = rgb.copy(), alpha.copy()
    everything = TrainTransform(64, **{**EVERYTHING, "native_crops": 4})
    for transform in (TrainTransform(64, **OFF, dilate_px=3), everything, EvalTransform(64)):
        transform(rgb, alpha, generator(0))
        transform.alpha(alpha, generator(0))
    assert np.array_equal(rgb, rgb_before) and np.array_equal(alpha, alpha_before)


def test_colour_changes_the_picture_only() -> None:
    rgb, alpha = smooth_pair(64, 64)
    plain = TrainTransform(64, **OFF)(rgb, alpha, generator(0))
    for strength in ("brightness", "contrast", "saturation"):
        image, target, _ = TrainTransform(64, **{**OFF, strength: 0.5})(rgb, alpha, generator(0))
        assert torch.equal(target, plain[1])
        assert (unnormalised(image) - unnormalised(plain[0])).abs().mean() > 0.01
        assert unnormalised(image).min() >= -1e-6 and unnormalised(image).max() <= 1 + 1e-6


def test_noise_and_jpeg_change_the_picture_only() -> None:
    rgb, alpha = smooth_pair(64, 64)
    plain = TrainTransform(64, **OFF)(rgb, alpha, generator(0))
    for step in ("noise_probability", "jpeg_probability"):
        changes = []
        for seed in range(10):
            image, target, _ = TrainTransform(64, **{**OFF, step: 1.0})(rgb, alpha, generator(seed))
            assert torch.equal(target, plain[1])
            changes.append(float((unnormalised(image) - unnormalised(plain[0])).abs().mean()))
        assert np.mean(changes) > 0.005


def test_blur_softens_picture_and_alpha_alike() -> None:
    """The red channel is the alpha, so it stays the alpha."""
    alpha = np.zeros((64, 64), np.float32)
    alpha[16:48, 16:48] = 1
    rgb = np.repeat((alpha * 255).astype(np.uint8)[..., None], 3, axis=2)
    kinds, softened = set(), 0
    for seed in range(20):
        image, target, _ = TrainTransform(64, **{**OFF, "blur_probability": 1.0})(rgb, alpha, generator(seed))
        torch.testing.assert_close(unnormalised(image)[:1], target, atol=1.01 / 255, rtol=0)
        softened += bool(((target > 0.05) & (target < 0.95)).any())
        kinds.add(bool(torch.allclose(target[0], target[0].T, atol=1e-5)))
    assert kinds == {True, False}, "round and directed ones"
    assert softened > 15, "all but the narrowest"


@pytest.mark.parametrize("blur_px", [0.0, 0.2, 2.5])
def test_no_blur_is_wider_than_its_largest_radius(blur_px: float) -> None:
    """Squares at native resolution would see it as many times wider as their zoom is."""
    transform = TrainTransform(64, **{**OFF, "blur_probability": 1.0, "blur_px": blur_px})
    radii = [transform.look(128.0, generator(seed)).blur_px for seed in range(50)]
    assert min(0.5, blur_px) <= min(radii) <= max(radii) <= blur_px


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
    _, target, _ = TrainTransform(64, **OFF)(rgb, alpha, generator(0))
    row = target[0, 32]
    assert len(row.unique()) > 55
    assert (row.diff() >= 0).all() and row.diff().max() < 1.5 / 60


def test_alpha_is_not_rounded_to_8_bits() -> None:
    alpha = np.full((64, 64), 1 / 3, np.float32)
    _, target, _ = TrainTransform(64, **OFF)(np.zeros((64, 64, 3), np.uint8), alpha, generator(0))
    torch.testing.assert_close(target, torch.full((1, 64, 64), 1 / 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2000, 3)])
def test_extreme_pictures_pass(size: tuple[int, int]) -> None:
    rgb, alpha = smooth_pair(*size)
    for seed in range(5):
        image, target, _ = TrainTransform(64, **MOVES, dilate_px=2)(rgb, alpha, generator(seed))
        assert torch.isfinite(image).all() and target.min() >= 0 and target.max() <= 1


# ------------------------------------------------------------------------------------------------- native squares


def whole(rgb: np.ndarray, alpha: np.ndarray, view: View, size: list[int]) -> tuple[Tensor, Tensor]:
    """All that is seen, at a size: a slow reference."""
    top, left, height, width = view.window
    seen = [
        each[:, top : top + height, left : left + width] for each in (to_tensor(rgb), torch.from_numpy(alpha)[None])
    ]
    if size != [height, width]:
        seen = [F.resize(each, size, antialias=True) for each in seen]
    seen = [each.flip(-1) if view.flip else each for each in seen]
    return seen[0], seen[1].clamp(0, 1)


def square(picture: Tensor, corner: list[int], side: int, halo: int = 0) -> Tensor:
    """A square of (C, H, W), pixel by pixel; beyond the border the last one is repeated."""
    rows, columns = (
        (start + torch.arange(-halo, side + halo)).clamp(0, length - 1)
        for start, length in zip(corner, picture.shape[1:], strict=True)
    )
    return picture[:, rows[:, None], columns]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 30), (64, 64), (90, 400), (300, 200)])
@pytest.mark.parametrize("zoom", [1.0, 1.7, 8.0])
def test_crops_lie_exactly_where_their_corner_says(size: tuple[int, int], zoom: float) -> None:
    rgb, alpha = smooth_pair(*size)
    options = {**MOVES, "native_crops": 3, "native_zoom": (zoom, zoom)}
    transform = TrainTransform(64, **options, halo_px=5)
    flips = set()
    for seed in range(8):
        crops = transform(rgb, alpha, generator(seed))[2]
        view = transform.view(size, generator(seed))  # the first that is drawn
        flips.add(view.flip)
        assert crops.rgb.shape == (3, 3, 34, 34) and crops.rgb.dtype == torch.uint8
        assert crops.alpha.shape == (3, 1, 24, 24) and crops.alpha.dtype == torch.float32
        assert len(set(map(tuple, crops.size.tolist()))) == 1, "one zoom a picture"
        native_rgb, native_alpha = whole(rgb, alpha, view, crops.size[0].tolist())
        for crop_rgb, crop_alpha, corner in zip(crops.rgb, crops.alpha, crops.corner.tolist(), strict=True):
            assert torch.equal(crop_rgb, square(native_rgb, corner, 24, halo=5))
            assert torch.equal(crop_alpha, square(native_alpha, corner, 24))
            for start, length in zip(corner, crops.size[0].tolist(), strict=True):
                assert 0 <= start <= max(0, length - 24), "beyond the border only where the picture is too small"
    assert flips == {True, False}


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (64, 64), (100, 81), (400, 300), (700, 500)])
def test_zoom_is_the_wanted_or_the_pictures_own_and_pooling_makes_up_for_it(size: tuple[int, int]) -> None:
    rgb, alpha = smooth_pair(*size)
    own = math.sqrt(size[0] * size[1]) / 64
    for wanted in (1.0, 1.9, 2.1, 3.9, 4.1, 7.9, 8.1, 30.0):
        crops = TrainTransform(64, **{**NATIVE, "native_zoom": (wanted, wanted)})(rgb, alpha, generator(0))[2]
        assert crops.corner.dtype == crops.size.dtype == crops.pooling.dtype == torch.int64
        native = crops.size[0].tolist()
        if own >= wanted:
            assert native == [round(side * wanted / own) for side in size] and set(crops.pooling.tolist()) == {1}
        else:
            lacking = max(pooling for pooling in (1, 2, 4, 8) if pooling <= wanted / own)
            assert native == list(size) and set(crops.pooling.tolist()) == {lacking}


def test_zooms_are_spread_evenly_over_their_logarithm() -> None:
    rgb, alpha = smooth_pair(512, 512)
    transform = TrainTransform(64, **{**NATIVE, "native_crops": 1, "native_zoom": (1.0, 8.0)})
    zooms = [int(transform(rgb, alpha, generator(seed))[2].size[0, 0]) / 64 for seed in range(150)]
    assert min(zooms) >= 1 and max(zooms) <= 8
    octaves = np.histogram(np.log2(zooms), bins=3, range=(0, 3))[0]
    assert octaves.min() > 30, octaves


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("zoom", [1.0, 2.3, 16.0])
def test_crops_and_the_coarse_alpha_under_them_agree_to_a_tenth_of_a_pixel(axis: int, zoom: float) -> None:
    """Read from a linear ramp, which neither resizing nor averaging changes away from the border."""
    size = (260, 330)
    ramp = (np.indices(size)[axis] + 0.5) / size[axis]
    rgb, alpha = np.zeros((*size, 3), np.uint8), ramp.astype(np.float32)
    transform = TrainTransform(64, **{**MOVES, "native_crops": 6, "native_zoom": (zoom, zoom)})
    compared, poolings = 0, set()
    for seed in range(6):
        _, target, crops = transform(rgb, alpha, generator(seed))
        seen = Crops(torch.empty(0), torch.zeros(6, dtype=torch.int64), *crops[2:])
        coarse = sample_crops(target[None], seen, 24)
        slope = (target.max() - target.min()) / crops.size[0, axis]  # of one native pixel
        pooling = int(crops.pooling[0])
        border = crops.size[0] / 64 * pooling  # one pooled pixel of the coarse stage
        for crop, under, corner in zip(crops.alpha, coarse, crops.corner, strict=True):
            if (corner > border).all() and (corner + 24 < crops.size[0] - border).all():
                assert (crop - under).abs().max() < 0.1 * slope
                compared += 1
        poolings.add(pooling)
    assert compared >= 5 and poolings == ({2, 4} if zoom == 16 else {1}), "the test would say nothing"


def test_colour_and_blur_are_those_of_the_whole() -> None:
    """At the coarse stage's own zoom, crops are parts of what it sees, at the picture's border too."""
    rgb, alpha = smooth_pair(64, 64)
    rgb[:20, :20] = 250  # so that parts differ in their mean
    options = {**EVERYTHING, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "contrast": 0.6}
    options |= {"noise_probability": 0.0, "jpeg_probability": 0.0, "native_crops": 8, "native_zoom": (1.0, 1.0)}
    at_border = 0
    for seed in range(12):
        image, target, crops = TrainTransform(64, **options, halo_px=4)(rgb, alpha, generator(seed))
        for crop_rgb, crop_alpha, corner in zip(crops.rgb, crops.alpha, crops.corner, strict=True):
            at_border += bool((corner == 0).any() or (corner == 64 - 24).any())
            # OpenCV filters small pictures directly and large kernels by Fourier; the two round differently.
            expected = square(image, corner.tolist(), 24, halo=4).int()
            places = [at + torch.arange(-4, 28) for at in corner.tolist()]
            rows, columns = ((place >= 0) & (place < 64) for place in places)  # the halo may reach beyond the picture
            difference = (crop_rgb.int() - expected).abs()[:, rows][:, :, columns]
            assert difference.shape[1] >= 24 <= difference.shape[2] and difference.max() <= 1
            torch.testing.assert_close(crop_alpha, square(target, corner.tolist(), 24), atol=1e-5, rtol=0)
    assert at_border > 10


@pytest.mark.parametrize(("angle", "deviation"), [(None, 3 / 2), (0.0, 3 / math.sqrt(3))])
def test_blur_grows_with_the_zoom(angle: float | None, deviation: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The width of a blurred step against the disc's and the line's own, in pixels of each resolution."""
    alpha = np.zeros((256, 256), np.float32)
    alpha[:, 128:] = 1
    transform = TrainTransform(64, **{**NATIVE, "native_zoom": (4.0, 4.0), "native_px": 256})
    colour = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "grey": 0.0}
    monkeypatch.setattr(transform, "look", lambda grey, rng: Look(3.0, angle, colour, 0.0, None))
    _, target, crops = transform(np.zeros((256, 256, 3), np.uint8), alpha, generator(0))
    for row, zoom in ((target[0, 32], 1), (crops.alpha[0, 0, 128], 4)):
        weights, places = row.diff().double(), torch.arange(len(row) - 1).double()
        variance = (weights * (places - (weights * places).sum()) ** 2).sum()
        assert float(variance.sqrt()) == pytest.approx(deviation * zoom, rel=0.1)


def test_the_blur_of_a_square_does_not_know_where_the_square_ends() -> None:
    """A crop is what a larger one has in its middle, however wide the blur is and however small the halo."""
    rng = np.random.default_rng(0)
    rgb, alpha = rng.integers(0, 256, (400, 400, 3), np.uint8), rng.random((400, 400), np.float32)
    options = {**NATIVE, "blur_probability": 1.0, "blur_px": 3.0, "native_zoom": (4.0, 4.0), "native_crops": 1}
    for seed in range(6):
        made = [TrainTransform(64, **options, halo_px=halo)(rgb, alpha, generator(seed))[2] for halo in (0, 30)]
        assert torch.equal(made[0].corner, made[1].corner)
        assert (made[0].rgb.int() - made[1].rgb[..., 30:-30, 30:-30].int()).abs().max() <= 1
        torch.testing.assert_close(made[0].alpha, made[1].alpha, atol=1e-4, rtol=0)


def squares_on_the_edge(share: float, seeds: int = 20) -> tuple[float, SampleCrops]:
    """Share of squares that show some of a small disc's edge, and the last ones."""
    y, x = np.mgrid[:480, :480]
    alpha = np.clip(20.5 - np.hypot(y - 150, x - 300), 0, 1).astype(np.float32)
    rgb = np.zeros((480, 480, 3), np.uint8)
    options = {**NATIVE, "native_px": 40, "native_zoom": (1.0, 6.0), "native_on_edge": share, "flip_probability": 0.5}
    shown = []
    for seed in range(seeds):
        crops = TrainTransform(64, **options)(rgb, alpha, generator(seed))[2]
        shown += [bool(crop.min() < 0.5 < crop.max()) for crop in crops.alpha]
    return float(np.mean(shown)), crops


def test_squares_lie_on_the_edge_as_often_as_asked() -> None:
    assert squares_on_the_edge(1.0)[0] == 1
    anywhere, half = squares_on_the_edge(0.0)[0], squares_on_the_edge(0.5)[0]
    assert anywhere < 0.5
    assert half == pytest.approx((1 + anywhere) / 2, abs=0.15)


def test_without_an_edge_squares_lie_anywhere() -> None:
    options = {**NATIVE, "native_zoom": (4.0, 4.0), "native_on_edge": 1.0}
    rgb, alpha = np.zeros((256, 256, 3), np.uint8), np.ones((256, 256), np.float32)
    transform = TrainTransform(64, **options)
    corners = torch.cat([transform(rgb, alpha, generator(seed))[2].corner for seed in range(50)])
    last = 256 - 24
    assert (corners.amin(0) <= 5).all() and (corners.amax(0) >= last - 5).all()
    assert ((corners.double().mean(0) - last / 2).abs() < 20).all()


def test_without_a_refiner_there_are_no_squares() -> None:
    rgb, alpha = smooth_pair(80, 70)
    crops = TrainTransform(64, **{**EVERYTHING, "native_crops": 0})(rgb, alpha, generator(0))[2]
    assert crops is NO_CROPS and all(len(each) == 0 for each in crops)


def test_the_squares_alpha_is_never_dilated() -> None:
    rgb, alpha = smooth_pair(128, 128)
    plain, grown = (TrainTransform(64, **NATIVE, dilate_px=radius)(rgb, alpha, generator(0)) for radius in (0, 4))
    assert not torch.equal(plain[1], grown[1]) and torch.equal(plain[2].alpha, grown[2].alpha)


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
