"""models.patches: squares of native pictures, and the coarse logits under them, against the whole picture enlarged."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.patches import Crops, Patches, enlarge, read_patches, sample_crops, sample_logits

SIZES = [(1, 1), (5, 70), (96, 64), (131, 77), (300, 211)]  # of the native picture
MAPS = [(1, 1), (16, 16), (24, 40), (192, 128)]  # of the logits: coarser and finer than the picture
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}  # of logits; places are float32, of which white noise makes the most


def cut(whole: Tensor, corner: tuple[int, int], side_px: int, halo_px: int) -> Tensor:
    """A square of (B, C, H, W) with its halo, by padding the whole: the reference."""
    margin = side_px + halo_px
    padded = F.pad(whole.float(), (margin,) * 4, mode="replicate").to(whole.dtype)
    top, left = (place + margin - halo_px for place in corner)
    side = side_px + 2 * halo_px
    square = padded[..., top : top + side, left : left + side]
    assert square.shape[-2:] == (side, side)
    return square


def places(size: tuple[int, int], side_px: int) -> list[tuple[int, int]]:
    """Corners of squares inside and on every border and corner; some reach beyond the bottom and the right."""
    rows, columns = (sorted({0, length // 3, max(0, length - side_px), length - 1}) for length in size)
    return [(row, column) for row in rows for column in columns]


def random_logits(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "halo"), [(2, 0), (16, 5), (64, 25)])
def test_patches_are_read_with_a_repeated_border(size: tuple[int, int], side: int, halo: int) -> None:
    picture = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    corners = places(size, side)
    index = torch.arange(len(corners)) % 2
    read = read_patches(picture, Patches(side, index, torch.tensor(corners)), halo)
    assert read.dtype == torch.uint8 and read.shape == (len(corners), 3, side + 2 * halo, side + 2 * halo)
    for patch, b, corner in zip(read, index, corners, strict=True):
        assert torch.equal(patch, cut(picture[b], corner, side, halo))


# ------------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("have", MAPS)
@pytest.mark.parametrize("batch", [1, 3])
def test_sampled_logits_are_those_of_the_enlarged_whole(
    size: tuple[int, int], have: tuple[int, int], batch: int
) -> None:
    logits, side, halo = random_logits(batch, 1, *have), 16, 7
    whole = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    assert torch.equal(enlarge(logits, size), whole)
    corners = places(size, side)
    index = torch.arange(len(corners)).flip(0) % batch
    for margin in (0, halo):
        sampled = sample_logits(logits, index, torch.tensor(corners), torch.tensor(size), side, margin)
        assert sampled.shape == (len(corners), 1, side + 2 * margin, side + 2 * margin)
        for square, b, corner in zip(sampled, index, corners, strict=True):
            torch.testing.assert_close(square, cut(whole[b], corner, side, margin), **TOLERANCE)


def test_each_square_may_have_a_picture_size_of_its_own() -> None:
    logits, side = random_logits(2, 1, 12, 16), 8
    sizes, index, corners = [(96, 64), (33, 200), (12, 16)], [0, 1, 1], [(40, 50), (0, 90), (8, 4)]
    sampled = sample_logits(logits, torch.tensor(index), torch.tensor(corners), torch.tensor(sizes), side, 3)
    for square, b, corner, size in zip(sampled, index, corners, sizes, strict=True):
        torch.testing.assert_close(square, cut(enlarge(logits[b : b + 1], size)[0], corner, side, 3), **TOLERANCE)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_pixels_logits_do_not_depend_on_the_square(batch: int) -> None:
    logits, size = random_logits(batch, 1, 20, 14), torch.tensor([100, 90])

    def sample(corners: list[tuple[int, int]], side: int, halo: int) -> Tensor:
        index = torch.full((len(corners),), batch - 1)
        return sample_logits(logits, index, torch.tensor(corners), size, side, halo)

    whole = sample([(0, 0)], 128, 0)
    for side, halo in ((8, 0), (8, 3), (32, 11)):
        corners = [(y, x) for y in range(halo, 128 - side - halo, side) for x in range(halo, 128 - side - halo, side)]
        for square, (y, x) in zip(sample(corners, side, halo), corners, strict=True):
            expected = whole[0, :, y - halo : y + side + halo, x - halo : x + side + halo]
            torch.testing.assert_close(square, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_are_those_of_the_enlarged_whole(batch: int) -> None:
    logits, size, side = random_logits(batch, 1, 9, 13).requires_grad_(), (50, 64), 16
    corners, index = [(0, 0), (20, 31), (40, 60)], [0, batch - 1, 0]
    weights = torch.rand(3, 1, side + 4, side + 4, generator=torch.Generator().manual_seed(1))
    sampled = sample_logits(logits, torch.tensor(index), torch.tensor(corners), torch.tensor(size), side, 2)
    whole = enlarge(logits, size)
    squares = torch.stack([cut(whole[b], corner, side, 2) for b, corner in zip(index, corners, strict=True)])
    ours, expected = (torch.autograd.grad((weights * each).sum(), logits)[0] for each in (sampled, squares))
    assert expected.abs().sum() > 0
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_are_sampled_in_float32_under_autocast(batch: int, dtype: torch.dtype) -> None:
    half = random_logits(batch, 1, 16, 16).to(dtype)
    where = (torch.tensor([0, batch - 1]), torch.tensor([[0, 3], [70, 50]]), torch.tensor([100, 90]), 16, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sampled = sample_logits(half, *where)
    assert sampled.dtype == torch.float32
    assert torch.equal(sampled, sample_logits(half.float(), *where))


# ------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("poolings", [[1], [4], [8, 1, 2, 1, 8, 4, 2, 1], [2, 1, 2, 2]], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_crops_of_mixed_poolings_are_what_each_is_alone(poolings: list[int], batch: int) -> None:
    logits, side, halo = random_logits(batch, 1, 32, 48), 16, 5
    generator = torch.Generator().manual_seed(2)
    number = len(poolings)
    index = torch.randint(0, batch, (number,), generator=generator)
    size = torch.randint(side, 200, (number, 2), generator=generator)
    corner = (torch.rand(number, 2, generator=generator) * (size - side)).long()
    image = torch.empty(number, 3, side + 2 * halo, side + 2 * halo)
    sampled = sample_crops(logits, Crops(image, index, corner, size, torch.tensor(poolings)), side, halo)
    assert sampled.shape == (number, 1, side + 2 * halo, side + 2 * halo)
    for i, pooling in enumerate(poolings):
        pooled = F.avg_pool2d(logits[index[i]][None], pooling)
        expected = cut(enlarge(pooled, tuple(size[i].tolist())), tuple(corner[i].tolist()), side, halo)
        torch.testing.assert_close(sampled[i], expected[0], **TOLERANCE)


def test_pooled_crops_differ_from_those_as_they_are() -> None:
    """Otherwise the test above would be blind to the pooling."""
    logits, size = random_logits(1, 1, 32, 32), torch.tensor([[64, 64]] * 2)
    crops = Crops(torch.empty(0), torch.zeros(2).long(), torch.zeros(2, 2).long(), size, torch.tensor([1, 4]))
    fine, coarse = sample_crops(logits, crops, 32)
    assert fine.std() > 2 * coarse.std()
