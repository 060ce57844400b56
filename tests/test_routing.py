"""models.routing: the squares that are chosen against brute force, and their refinement against dense refinement."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import Refiner, Routing
from models.patches import Patches, enlarge
from models.refiner import CELL_PX
from models.routing import _expected_error, _pixels, choose_patches, refine_patches

ROUTING = Routing(error_threshold=0.02, refine_budget=1.0, max_patches=None, patch_px=8, largest_px=32, batch_px=2048)
SIZES = [(1, 1), (5, 70), (96, 64), (50, 37), (131, 77)]  # of the native picture
HALO_PX = 3


def work(side_px: int) -> float:
    """Of a refiner that pays for each pixel of a patch and of its halo."""
    return 3.0 * (side_px + 2 * HALO_PX) ** 2


def dense_work(side_px: int) -> float:
    """The same in pixels of dense work, of which a largest square costs one a pixel."""
    return work(side_px) / work(ROUTING.largest_px) * ROUTING.largest_px**2


def random_errors(*shape: int, seed: int = 0) -> Tensor:
    """Error logits (B, 1, h, w): low in most places, high in some regions and in small spots."""
    generator = torch.Generator().manual_seed(seed)
    batch, *size = shape
    regions = F.interpolate(torch.randn((batch, 1, 6, 6), generator=generator) * 4 - 6, size, mode="bilinear")
    spots = F.max_pool2d((torch.rand((batch, 1, *size), generator=generator) < 0.002).float(), 5, 1, 2)
    return regions + torch.randn((batch, 1, *size), generator=generator) + 9 * spots


def squares(patches: list[Patches]) -> list[tuple[int, int, int, int]]:
    """(picture, side, top, left) of each."""
    return [
        (b, side, top, left)
        for side, index, corner in patches
        for b, (top, left) in zip(index.tolist(), corner.tolist(), strict=True)
    ]


def coverage(patches: list[Patches], batch: int, size: tuple[int, int]) -> Tensor:
    """How many patches each pixel lies in, int (B, H, W)."""
    counts = torch.zeros(batch, *size, dtype=torch.int64)
    for b, side, top, left in squares(patches):
        counts[b, top : top + side, left : left + side] += 1
    return counts


# ------------------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.3])
def test_patches_lie_on_their_grid_and_do_not_overlap(size: tuple[int, int], threshold: float) -> None:
    patches = choose_patches(random_errors(2, 40, 40), size, replace(ROUTING, error_threshold=threshold), work)
    sides = [each.side_px for each in patches]
    assert sides == sorted(set(sides), reverse=True) and set(sides) <= {8, 16, 32}
    for _, side, top, left in squares(patches):
        assert top % side == left % side == 0
        assert 0 <= top < size[0] and 0 <= left < size[1]
    assert coverage(patches, 2, size).max() <= 1
    assert all(each.index.device.type == each.corner.device.type == "cpu" for each in patches)


@pytest.mark.parametrize("certainty", [0.0, -5.0, -100.0])
@pytest.mark.parametrize("size", [*SIZES, (33, 65), (257, 31)])
@pytest.mark.parametrize("sides", [(8, 32), (16, 16), (32, 256)], ids=str)
def test_everything_covers_every_pixel_once(size: tuple[int, int], certainty: float, sides: tuple[int, int]) -> None:
    """Also where the picture is certain, and the last squares hold a row or a single pixel of it."""
    routing = replace(ROUTING, refine_budget=0.01, max_patches=1, patch_px=sides[0], largest_px=sides[1])
    patches = choose_patches(torch.full((2, 1, 20, 30), certainty), size, routing.everything(), work)
    assert (coverage(patches, 2, size) == 1).all()


def test_everything_takes_the_largest_squares_that_fit() -> None:
    patches = choose_patches(random_errors(1, 40, 40), (96, 64), ROUTING.everything(), work)
    assert [(each.side_px, len(each.index)) for each in patches] == [(32, 6)]


def test_everything_takes_the_least_work() -> None:
    """For a last row of pixels four small squares: less than a large one or two of the middle side, although more."""
    assert 4 * work(8) < 2 * work(16) < work(32)
    patches = choose_patches(random_errors(1, 40, 40), (33, 32), ROUTING.everything(), work)
    assert [(each.side_px, len(each.index)) for each in patches] == [(32, 1), (8, 4)]


def prunings(error: np.ndarray, pixels: np.ndarray, price: float, toll: float = 0.0) -> np.ndarray:
    """error - price * work - toll of every way to take squares of a 4x4 grid with three levels: 1 + 17^4 ways."""

    def value(block: tuple[slice, slice], side: int) -> float:
        return error[block].sum() - price * dense_work(side) - toll if pixels[block].any() else -np.inf

    quarters = []
    for y, x in product((0, 2), (0, 2)):
        leaves = [value((slice(y + i, y + i + 1), slice(x + j, x + j + 1)), 8) for i, j in product((0, 1), (0, 1))]
        some = [
            sum(leaf for leaf, taken in zip(leaves, bits, strict=True) if taken) for bits in product((0, 1), repeat=4)
        ]
        quarters.append(np.array([value((slice(y, y + 2), slice(x, x + 2)), 16), *some]))
    sums = quarters[0]
    for quarter in quarters[1:]:
        sums = (sums[:, None] + quarter).ravel()
    assert len(sums) == 17**4
    return np.append(sums, value((slice(None), slice(None)), 32))


@pytest.mark.parametrize("size", [(32, 32), (29, 25), (31, 9), (3, 32)])
@pytest.mark.parametrize("price", [0.005, 0.02, 0.05, 0.1])
def test_no_other_squares_of_the_quadtree_are_worth_more(size: tuple[int, int], price: float) -> None:
    sides = set()
    for seed in range(8):
        logits = random_errors(1, *size, seed=seed)
        error, pixels = (np.zeros((32, 32)) for _ in range(2))
        error[: size[0], : size[1]], pixels[: size[0], : size[1]] = logits.double().sigmoid()[0, 0].numpy(), 1
        cells = [each.reshape(4, 8, 4, 8).sum((1, 3)) for each in (error, pixels)]
        chosen = squares(choose_patches(logits, size, replace(ROUTING, error_threshold=price), work))
        sides |= {side for _, side, _, _ in chosen}
        worth = sum(error[y : y + side, x : x + side].sum() - price * dense_work(side) for _, side, y, x in chosen)
        assert worth == pytest.approx(prunings(*cells, price).max(), abs=5e-3)  # LEAST_ERROR a pixel
    assert sides or price > 0.05


def test_all_sides_are_used() -> None:
    """Otherwise the tests above would compare trivial choices."""
    patches = choose_patches(random_errors(1, 131, 77), (131, 77), ROUTING, work)
    assert [each.side_px for each in patches] == [32, 16, 8]


def test_a_higher_threshold_refines_a_part_of_what_a_lower_one_does() -> None:
    errors, size = random_errors(2, 60, 50), (131, 77)
    before, costs = torch.ones(2, *size, dtype=torch.bool), []
    for threshold in (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 1.0):
        patches = choose_patches(errors, size, replace(ROUTING, error_threshold=threshold), work)
        refined = coverage(patches, 2, size) > 0
        assert not (refined & ~before).any()
        costs.append(sum(dense_work(side) for _, side, _, _ in squares(patches)))
        before = refined
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == len(costs) and costs[-1] == 0


def test_the_threshold_is_error_a_pixel_of_dense_work() -> None:
    """A uniform map is refined up to a threshold of its own value, in the largest squares, and not beyond."""
    errors = torch.full((1, 1, 16, 16), 0.2).logit()
    for threshold, taken in ((0.199, 4), (0.201, 0)):
        patches = choose_patches(errors, (64, 64), replace(ROUTING, error_threshold=threshold), work)
        assert [(side, top, left) for _, side, top, left in squares(patches)] == [
            (32, 0, 0), (32, 0, 32), (32, 32, 0), (32, 32, 32)
        ][:taken]  # fmt: skip


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e12])
def test_the_unit_of_work_does_not_matter(unit: float) -> None:
    errors, size = random_errors(1, 40, 40), (131, 77)
    ours = choose_patches(errors, size, ROUTING, lambda side: unit * work(side))
    assert squares(ours) == squares(choose_patches(errors, size, ROUTING, work))


def test_pictures_of_a_batch_are_chosen_for_one_by_one() -> None:
    errors, size, routing = random_errors(3, 40, 40), (131, 77), replace(ROUTING, refine_budget=0.2)
    together = squares(choose_patches(errors, size, routing, work))
    alone = [
        (b, side, top, left)
        for b in range(3)
        for _, side, top, left in squares(choose_patches(errors[b : b + 1], size, routing, work))
    ]
    assert sorted(together) == sorted(alone)
    assert len({b for b, *_ in alone}) == 3


# ------------------------------------------------------------------------------------------------- where errors are


@pytest.mark.parametrize("have", [(1, 1), (7, 5), (40, 40), (64, 48), (300, 200)], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_a_square_expects_the_error_of_its_pixels(size: tuple[int, int], have: tuple[int, int]) -> None:
    """Whatever the resolution of the map: as if it were enlarged to the picture's and summed there."""
    errors = random_errors(2, *have)
    whole = enlarge(errors.sigmoid(), size)[:, 0].double()
    pixels = _pixels(size, ROUTING)
    sums = _expected_error(errors, size, pixels, ROUTING)
    assert sums.dtype == torch.float64
    assert sums.shape[1:] == pixels.shape == tuple(4 * -(-length // 32) for length in size)
    for y, x in product(range(0, 8 * pixels.shape[0], 8), range(0, 8 * pixels.shape[1], 8)):
        square = whole[:, y : y + 8, x : x + 8]
        assert pixels[y // 8, x // 8] == square[0].numel()
        torch.testing.assert_close(sums[:, y // 8, x // 8], square.sum((1, 2)), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_choice_does_not_depend_on_autocast(dtype: torch.dtype) -> None:
    errors, size = random_errors(1, 40, 40).to(dtype), (131, 77)
    pixels = _pixels(size, ROUTING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = _expected_error(errors, size, pixels, ROUTING)
        under_autocast = choose_patches(errors, size, ROUTING, work)
    assert torch.equal(sums, _expected_error(errors.float(), size, pixels, ROUTING))
    assert squares(under_autocast) == squares(choose_patches(errors.float(), size, ROUTING, work))


@pytest.mark.parametrize("have", [(9, 9), (50, 70), (200, 300)], ids=["coarser", "alike", "finer"])
@pytest.mark.parametrize("size", [(131, 77), (96, 64), (300, 211)])
def test_a_hot_spot_selects_the_patch_it_lies_in(size: tuple[int, int], have: tuple[int, int]) -> None:
    last_y, last_x = have[0] - 1, have[1] - 1
    spread = [cells // (2 * length) for cells, length in zip(have, size, strict=True)]  # of a finer map's pixels
    for spot in [(0, 0), (0, last_x), (last_y, 0), (last_y, last_x), (have[0] // 2, have[1] // 3)]:
        errors = torch.full((2, 1, *have), -30.0)
        rows, columns = (slice(max(0, at - wide), at + wide + 1) for at, wide in zip(spot, spread, strict=True))
        errors[1, 0, rows, columns] = 5.0
        at = [(place + 0.5) * length / cells for place, length, cells in zip(spot, size, have, strict=True)]
        reach = [length / cells for length, cells in zip(size, have, strict=True)]  # of a pixel when it is enlarged
        patches = choose_patches(errors, size, replace(ROUTING, error_threshold=1e-4), work)
        refined = coverage(patches, 2, size)
        assert not refined[0].any()
        assert refined[1, int(at[0]), int(at[1])]
        for _, side, *corner in squares(patches):
            for low, place, around in zip(corner, at, reach, strict=True):
                assert low <= place + around + 1 and low + side >= place - around - 1


def test_a_certain_picture_has_no_patches() -> None:
    assert choose_patches(torch.full((2, 1, 40, 40), -12.0), (131, 77), ROUTING, work) == []


# ------------------------------------------------------------------------------------------------- the budget


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("budget", [0.0, 0.03, 0.3, 0.9])
@pytest.mark.parametrize("most", [None, 0, 1, 7])
def test_the_budget_is_kept(size: tuple[int, int], budget: float, most: int | None) -> None:
    for threshold in (0.0, 0.1):
        routing = replace(ROUTING, error_threshold=threshold, refine_budget=budget, max_patches=most)
        errors = random_errors(2, 40, 40)
        patches = choose_patches(errors, size, routing, work)
        free = choose_patches(errors, size, replace(routing, refine_budget=1.0, max_patches=None), work)
        counts = coverage(patches, 2, size)
        assert counts.max() <= 1
        if most is None:  # else a larger square may stand for several small ones
            assert not (counts > coverage(free, 2, size)).any(), "a budget adds nothing"
        for b in range(2):
            assert counts[b].sum() <= budget * size[0] * size[1]
            if most is not None:
                assert len([each for each in squares(patches) if each[0] == b]) <= most


@pytest.mark.parametrize("size", [(128, 128), (300, 211), (50, 70), (30, 20)])
@pytest.mark.parametrize("largest_px", [8, 32, 256])
@pytest.mark.parametrize("threshold", [0.0, 0.05])
def test_a_uniform_map_uses_up_the_budget(size: tuple[int, int], largest_px: int, threshold: float) -> None:
    """No price tells its squares apart: they come all at once, and those that are too large come in parts."""
    errors = torch.full((1, 1, 20, 20), 0.0)
    for budget in (0.12, 0.5, 0.81):
        routing = replace(ROUTING, error_threshold=threshold, refine_budget=budget, largest_px=largest_px)
        refined_px = coverage(choose_patches(errors, size, routing, work), 1, size).sum().item()
        allowed_px = budget * size[0] * size[1]
        assert allowed_px - 8 * 8 < refined_px <= allowed_px


def test_of_a_uniform_map_so_many_of_the_largest_squares_are_taken() -> None:
    """No toll tells them apart."""
    patches = choose_patches(torch.zeros(1, 1, 20, 20), (128, 128), replace(ROUTING, max_patches=5), work)
    assert [(each.side_px, len(each.index)) for each in patches] == [(32, 5)]


def test_a_budget_that_suffices_changes_nothing() -> None:
    errors, size = random_errors(1, 40, 40), (131, 77)
    free = choose_patches(errors, size, ROUTING, work)
    share = coverage(free, 1, size).sum().item() / (131 * 77)
    assert 0.1 < share < 0.9
    exact = replace(ROUTING, refine_budget=share, max_patches=len(squares(free)))
    assert squares(choose_patches(errors, size, exact, work)) == squares(free)


@pytest.mark.parametrize("limit", ["share", "number"])
def test_patches_with_most_expected_error_are_kept(limit: str) -> None:
    """With one side, whose squares all cost the same: the first of the ranked sums."""
    errors, size, side = random_errors(1, 64, 96), (64, 96), 16
    sums = 16**2 * F.avg_pool2d(errors.sigmoid(), side)[0, 0]  # (4, 6)
    ranked = sums.flatten().argsort(descending=True).tolist()
    routing = replace(ROUTING, error_threshold=0.0, patch_px=side, largest_px=side)
    for number in (1, 5, 23):
        budget = {"refine_budget": number / 24} if limit == "share" else {"max_patches": number}
        chosen = squares(choose_patches(errors, size, replace(routing, **budget), work))
        assert {top // side * 6 + left // side for _, _, top, left in chosen} == set(ranked[:number])


def best_of_few(errors: np.ndarray, price: float, most: int) -> tuple[float, float]:
    """Worth and error of the most worthy squares, at most so many, of 2x2 largest ones: brute force."""
    worth, error, number = np.zeros(1), np.zeros(1), np.zeros(1, dtype=int)
    for y, x in product((0, 32), (0, 32)):
        cells = errors[y : y + 32, x : x + 32].reshape(4, 8, 4, 8).sum((1, 3))
        one = prunings(cells, np.ones((4, 4)), price)
        ones_error, ones_toll = (prunings(cells, np.ones((4, 4)), 0.0, toll) for toll in (0.0, 1.0))
        ones_number = np.rint(ones_error - ones_toll).astype(int)
        best = [np.where(ones_number == n, one, -np.inf).argmax() for n in range(17)]
        worth, error, number = (
            (before[:, None] + each[best]).ravel()
            for before, each in ((worth, one), (error, ones_error), (number, ones_number))
        )
    found = np.where(number <= most, worth, -np.inf).argmax()
    return worth[found], error[found]


@pytest.mark.parametrize("most", [2, 3, 5, 8])
@pytest.mark.parametrize("price", [0.05, 0.1])
def test_few_patches_are_nearly_the_best_so_many(most: int, price: float) -> None:
    """Not the price rises, which would break large squares into small ones: larger ones stand for several small."""
    routing, scarce = replace(ROUTING, error_threshold=price, max_patches=most), 0
    for seed in range(6):
        cells = 3 * torch.randn((1, 1, 8, 8), generator=torch.Generator().manual_seed(seed)) - 3
        logits = F.interpolate(cells, (64, 64))
        errors = logits.double().sigmoid()[0, 0].numpy()
        chosen = squares(choose_patches(logits, (64, 64), routing, work))
        free = squares(choose_patches(logits, (64, 64), replace(routing, max_patches=None), work))
        sums = np.array([errors[y : y + side, x : x + side].sum() for _, side, y, x in chosen])
        gains = sums - price * np.array([dense_work(side) for _, side, _, _ in chosen])
        assert len(chosen) <= most and (gains > 0).all()
        best_gain, best_error = best_of_few(errors, price, most)
        assert 0.95 * best_gain <= gains.sum() <= best_gain + 5e-3
        assert sums.sum() >= 0.95 * best_error
        scarce += len(free) > most
    assert scarce


@pytest.mark.parametrize(
    ("bounds", "side", "number"),
    [
        ({"refine_budget": 32 * 8**2 / 256**2}, 8, 32),
        ({"max_patches": 16}, 32, 16),
        ({"refine_budget": 16 * 16**2 / 256**2, "max_patches": 16}, 16, 16),
    ],
    ids=["pixels", "number", "both"],
)
def test_what_is_scarce_sets_the_side(bounds: dict[str, float], side: int, number: int) -> None:
    """A line of errors along two rows of squares: under both bounds the large squares cost too many pixels."""
    errors = torch.full((1, 1, 256, 256), -12.0)
    errors[..., 126:130, :] = 3.0
    routing = replace(ROUTING, error_threshold=0.001, largest_px=64, **bounds)
    patches = choose_patches(errors, (256, 256), routing, work)
    assert [(each.side_px, len(each.index)) for each in patches] == [(side, number)]


@pytest.mark.parametrize("most", [5, 10, 20])
@pytest.mark.parametrize("budget", [0.05, 0.1, 0.2, 1.0])
def test_few_patches_of_mixed_sides_cover_as_much_error_as_of_one_side(most: int, budget: float) -> None:
    """On a ring of errors, with a wide halo, within the same number and share of pixels."""
    place = torch.arange(256) - 127.5
    ring = ((place[:, None] ** 2 + place**2).sqrt() - 90).abs() < 3
    errors = torch.where(ring, 0.0, -9.0)[None, None]
    routing = replace(ROUTING, error_threshold=0.005, largest_px=64, max_patches=most, refine_budget=budget)
    chosen = squares(choose_patches(errors, (256, 256), routing, lambda side: (side + 12.0) ** 2))
    assert len(chosen) <= most and sum(side**2 for _, side, _, _ in chosen) <= budget * 256**2
    covered = sum(errors[0, 0, y : y + side, x : x + side].sigmoid().sum().item() for _, side, y, x in chosen)
    for side in (8, 16, 32, 64):
        sums = side**2 * F.avg_pool2d(errors.sigmoid(), side).flatten().sort(descending=True).values
        assert covered >= 0.95 * sums[: min(most, int(budget * 256**2 / side**2))].sum()


def test_under_a_budget_the_lukewarm_wait_for_the_hot() -> None:
    hot = torch.zeros(1, 128, 128, dtype=torch.bool)
    hot[:, 32:64, 64:112] = True
    errors = torch.where(hot, 2.0, -2.0)[:, None]
    routing = replace(ROUTING, error_threshold=0.01)
    assert coverage(choose_patches(errors, (128, 128), routing, work), 1, (128, 128)).all()
    routing = replace(routing, refine_budget=32 * 48 / 128**2)
    assert torch.equal(coverage(choose_patches(errors, (128, 128), routing, work), 1, (128, 128)) > 0, hot)


# ------------------------------------------------------------------------------------------------- refinement


def random_refiner(blocks: int = 1) -> Refiner:
    torch.manual_seed(1)
    refiner = Refiner(8, blocks)
    torch.nn.init.normal_(refiner.last.weight, std=0.3)
    torch.nn.init.normal_(refiner.last.bias)
    return refiner.requires_grad_(False)


def normalise(rgb: Tensor) -> Tensor:
    return (rgb.float() / 255 - 0.45) / 0.22


def random_rgb(batch: int, size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def coarse_logits(batch: int, have: tuple[int, int], smooth: bool) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    if smooth:
        return F.interpolate(4 * torch.randn((batch, 1, 3, 3), generator=generator), have, mode="bicubic")
    return torch.randn((batch, 1, *have), generator=generator)


def refine_densely(refiner: Refiner, rgb: Tensor, logits: Tensor) -> Tensor:
    """The refiner once, over the whole picture with a repeated border: the reference."""
    height, width = rgb.shape[-2:]
    halo, whole = refiner.halo_px, enlarge(logits, (height, width))
    padding = (halo, halo + width % CELL_PX, halo, halo + height % CELL_PX)
    image, context = (F.pad(each, padding, mode="replicate") for each in (normalise(rgb), whole))
    return whole + refiner(image, context)[..., :height, :width]


def positions(size: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """Of squares of the grid: inside, on each border and in each corner."""
    rows, columns = (sorted({0, length // 2 // side * side, (length - 1) // side * side}) for length in size)
    return list(product(rows, columns))


def check_refined(refined: Tensor, dense: Tensor, whole: Tensor, inside: Tensor) -> None:
    assert refined.shape == whole.shape and refined.dtype == torch.float32
    assert torch.equal(refined[~inside], whole[~inside])
    torch.testing.assert_close(refined[inside], dense[inside], atol=2e-4, rtol=0)
    torch.testing.assert_close(refined[inside].sigmoid(), dense[inside].sigmoid(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("have", [(16, 16), (24, 8)], ids=str)
@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "random"])
def test_refined_patches_equal_dense_refinement(size: tuple[int, int], have: tuple[int, int], smooth: bool) -> None:
    refiner, rgb, logits = random_refiner(blocks=2), random_rgb(2, size), coarse_logits(2, have, smooth)
    dense, whole = refine_densely(refiner, rgb, logits), enlarge(logits, size)
    assert (dense - whole).abs().max() > 0.1
    for side in (8, 32):
        corners = positions(size, side)
        for i, corner in enumerate(corners):  # one by one: all else must stay as it is
            patches = [Patches(side, torch.tensor([i % 2]), torch.tensor([corner]))]
            inside = coverage(patches, 2, size)[:, None] > 0
            refined = refine_patches(refiner, rgb, normalise, logits, patches, 2048)
            check_refined(refined, dense, whole, inside)
            assert (refined != whole)[inside].any()
        patches = [Patches(side, torch.arange(len(corners)) % 2, torch.tensor(corners))]
        refined = refine_patches(refiner, rgb, normalise, logits, patches, 2048)
        check_refined(refined, dense, whole, coverage(patches, 2, size)[:, None] > 0)


@pytest.mark.parametrize("size", SIZES)
def test_chosen_patches_equal_dense_refinement(size: tuple[int, int]) -> None:
    refiner, rgb, logits = random_refiner(), random_rgb(2, size), coarse_logits(2, (20, 30), True)
    dense, whole = refine_densely(refiner, rgb, logits), enlarge(logits, size)
    for routing in (ROUTING, ROUTING.everything()):
        patches = choose_patches(random_errors(2, 20, 30), size, routing, refiner.work)
        refined = refine_patches(refiner, rgb, normalise, logits, patches, routing.batch_px)
        check_refined(refined, dense, whole, coverage(patches, 2, size)[:, None] > 0)


def test_a_larger_batch_takes_more_memory_and_gives_the_same() -> None:
    refiner, size = random_refiner(), (131, 77)
    rgb, logits, errors = random_rgb(2, size), coarse_logits(2, (20, 30), True), random_errors(2, 20, 30)
    patches = choose_patches(errors, size, ROUTING, work)
    assert [each.side_px for each in patches] == [32, 16, 8]
    seen: list[tuple[int, int]] = []  # (patches, side of each with its halo)
    refiner.register_forward_pre_hook(lambda _, inputs: seen.append((len(inputs[0]), inputs[0].shape[-1])))
    results = []
    for batch_px in (1, 2048, 7000, 20_000, 10**7):
        seen.clear()
        results.append(refine_patches(refiner, rgb, normalise, logits, patches, batch_px))
        assert all(number * side**2 <= batch_px or number == 1 for number, side in seen)
        assert sum(number for number, _ in seen) == len(squares(patches))
        for each in patches:
            read_px = each.side_px + 2 * refiner.halo_px
            calls = sum(side == read_px for _, side in seen)
            assert calls == -(-len(each.index) // max(1, batch_px // read_px**2)), "no call is wasted"
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 2])
def test_without_patches_the_refiner_does_not_run(batch: int) -> None:
    refiner, rgb, logits = random_refiner(), random_rgb(batch, (70, 50)), coarse_logits(batch, (20, 30), True)
    refiner.register_forward_pre_hook(lambda *_: pytest.fail("the refiner ran"))
    patches = choose_patches(torch.full((batch, 1, 20, 30), -30.0), (70, 50), ROUTING, refiner.work)
    refined = refine_patches(refiner, rgb, lambda _: pytest.fail("colours were made"), logits, patches, 2048)
    assert torch.equal(refined, enlarge(logits, (70, 50)))


def test_refinement_in_half_precision_is_close_and_returned_in_float32() -> None:
    refiner, size = random_refiner(), (70, 50)
    rgb, logits = random_rgb(1, size), coarse_logits(1, (20, 30), True)
    patches = choose_patches(torch.zeros(1, 1, 20, 30), size, ROUTING.everything(), refiner.work)
    exact = refine_patches(refiner, rgb, normalise, logits, patches, 2048)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        refined = refine_patches(refiner, rgb, normalise, logits.bfloat16(), patches, 2048)
    assert refined.dtype == torch.float32
    assert 0 < (refined.sigmoid() - exact.sigmoid()).abs().max() < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", SIZES)
def test_cuda_chooses_and_refines_the_same(size: tuple[int, int]) -> None:
    refiner, rgb, logits = random_refiner(), random_rgb(2, size), coarse_logits(2, (20, 30), True)
    errors = random_errors(2, 20, 30)
    patches = choose_patches(errors, size, ROUTING, refiner.work)
    refined = refine_patches(refiner, rgb, normalise, logits, patches, 2048)
    on_cuda = choose_patches(errors.cuda(), size, ROUTING, refiner.work)
    assert squares(on_cuda) == squares(patches)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        theirs = refine_patches(refiner.cuda(), rgb.cuda(), normalise, logits.cuda(), on_cuda, 2048)
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    torch.testing.assert_close(theirs.cpu(), refined, atol=1e-3, rtol=0)
