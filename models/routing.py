"""Routing: which patches of the native-resolution picture the refiner sees, and running it on them.

Refining only where a coarse stage expects an error is BackgroundMattingV2's idea (Lin et al., CVPR 2021). Here a patch
is read with the refiner's whole halo, so that it equals dense refinement exactly, and patches have several sides: a
large one costs less a pixel, as its halo weighs less, a small one keeps to what needs work. Which squares of a quadtree
to take is the pruning problem of classification trees (Breiman et al., 1984; for pictures Shoham and Gersho, 1988):
each square is worth the error it is expected to remove minus its work at a price, and the best set follows bottom-up.
A bound on the refined pixels raises the price; a bound on the number of patches adds a toll on each.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers import crop_border
from models.patches import Patches, enlarge, read_patches, sample_logits
from models.refiner import Refiner

BISECTIONS = 30  # of the price of work until the budget is met, and of the toll on a patch until the number is
ROUNDS = 4  # of both in turn, where both are scarce
# Error a pixel, price and toll are never quite zero, so that a threshold of 0 takes everything, with the least work:
# also a square of which a single pixel, and a certain one, lies in the picture.
LEAST_ERROR, LEAST_PRICE, LEAST_TOLL = 1e-6, 1e-13, 1e-15


@dataclass(frozen=True)
class Routing:
    """How patches are chosen.

    Attributes:
        error_threshold: A patch is refined if, for each pixel's worth of dense work it costs, refinement is expected to
            bring this much alpha closer to the truth. 0 refines everything.
        refine_budget: Largest share of the picture's pixels that is refined; under pressure the patches with most
            expected error for their work win.
        max_patches: Most patches that are refined; None for no bound. Under pressure larger patches stand for several
            small ones, and those with most expected error win.
        patch_px: Side of the smallest patches, even.
        largest_px: Side of the largest, `patch_px` times a power of two.
        batch_px: Pixels, halos counted, that are refined at a time, but at least one patch; bounds the memory.
    """

    error_threshold: float
    refine_budget: float
    max_patches: int | None
    patch_px: int
    largest_px: int
    batch_px: int

    def everything(self) -> "Routing":
        """The same without any choice: dense refinement, in tiles."""
        return replace(self, error_threshold=0.0, refine_budget=1.0, max_patches=None)


def choose_patches(
    error_logits: Tensor, size: tuple[int, int], routing: Routing, work: Callable[[int], float]
) -> list[Patches]:
    """Chooses the patches that are worth their work.

    Args:
        error_logits: (B, 1, h, w) of whole pictures; sigmoid = how much closer to the truth refinement is expected to
            bring the alpha there.
        size: (H, W) of the native pictures.
        routing: Sides, threshold and budget.
        work: Side of a patch in px to the work of refining it, in any unit.

    Returns:
        Patches of each side that is used, largest first, on the CPU. No two overlap, none lies beyond the border.
    """
    sides = [routing.largest_px]
    while sides[-1] > routing.patch_px:
        sides.append(sides[-1] // 2)
    dense_work = work(sides[0]) / sides[0] ** 2
    works = [work(side) / dense_work for side in sides]  # in pixels of dense work
    pixels = _pixels(size, routing)
    errors = _expected_error(error_logits, size, pixels, routing)
    areas = _sums(pixels, sides)
    chosen = [_choose_squares(_sums(each, sides), areas, works, routing) for each in errors]
    patches = []
    for level, side in enumerate(sides):
        found = torch.cat([_corners(squares[level], b, side) for b, squares in enumerate(chosen)])
        if len(found):
            patches.append(Patches(side, found[:, 0], found[:, 1:]))
    return patches


def _pixels(size: tuple[int, int], routing: Routing) -> Tensor:
    """Pixels of the picture in each smallest square of the grid: (rows, columns), whole largest squares of them."""
    side, largest = routing.patch_px, routing.largest_px
    inside = []
    for length in size:
        starts = torch.arange(0, -(-length // largest) * largest, side)
        inside.append((length - starts).clamp(0, side).double())
    return inside[0][:, None] * inside[1]


def _expected_error(error_logits: Tensor, size: tuple[int, int], pixels: Tensor, routing: Routing) -> Tensor:
    """Sum of the expected error, enlarged to `size`, over each smallest square: (B, rows, columns) float64, CPU."""
    error = torch.sigmoid(error_logits.float())[:, 0]
    rows, columns = (
        _enlarge_and_sum(have, length, cells, routing.patch_px).to(error.device)
        for have, length, cells in zip(error.shape[1:], size, pixels.shape, strict=True)
    )
    with torch.autocast(error.device.type, enabled=False):
        sums = rows @ error @ columns.T
    return sums.cpu().double() + LEAST_ERROR * pixels


def _enlarge_and_sum(have: int, length: int, cells: int, side_px: int) -> Tensor:
    """Matrix (cells, have) that interpolates `have` values to `length` pixels, as `enlarge`, and sums each cell's."""
    pixel = torch.arange(length)
    place = ((pixel + 0.5) * (have / length) - 0.5).clamp(0, have - 1)
    low = place.long()
    high, share = (low + 1).clamp(max=have - 1), place - low
    matrix = torch.zeros(cells, have)
    matrix.index_put_((pixel // side_px, low), 1 - share, accumulate=True)
    return matrix.index_put_((pixel // side_px, high), share, accumulate=True)


def _sums(cells: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """Sums of (rows, columns) over the squares of each side, largest first."""
    levels = [cells]
    for _ in sides[1:]:
        levels.append(_sum_of_four(levels[-1]))
    return levels[::-1]


def _sum_of_four(squares: Tensor) -> Tensor:
    """(rows, columns) of squares to (rows / 2, columns / 2) of those twice as large."""
    return 4 * F.avg_pool2d(squares[None], 2)[0]


def _choose_squares(errors: list[Tensor], pixels: list[Tensor], works: list[float], routing: Routing) -> list[Tensor]:
    """The squares of each side that are taken, bool (rows, columns) each, within the budget and the number."""
    budget_px = routing.refine_budget * pixels[0].sum().item() * (1 + 1e-9)
    most = float("inf") if routing.max_patches is None else routing.max_patches
    least_price = max(routing.error_threshold, LEAST_PRICE)

    def best(price: float, toll: float) -> list[Tensor]:
        return _best_squares(errors, works, price, toll)

    def few_px(squares: list[Tensor]) -> bool:
        return _total(pixels, squares) <= budget_px

    def few(squares: list[Tensor]) -> bool:
        return sum(int(taken.sum()) for taken in squares) <= most

    def spend(squares: list[Tensor], number_is_scarce: bool) -> list[Tensor]:
        gains = [
            (error if number_is_scarce else error / work) * (error > least_price * work)
            for error, work in zip(errors, works, strict=True)
        ]
        return _spend(squares, gains, pixels, budget_px, most)

    price, toll, found = least_price, LEAST_TOLL, []
    squares = best(price, toll)
    if few_px(squares) and few(squares):
        return squares
    # A higher price breaks large squares into small ones, a higher toll joins small ones: with two bounds, in turn.
    for _ in range(ROUNDS):
        before = price, toll
        price, _ = _bisect(lambda price, toll=toll: few_px(best(price, toll)), least_price, 2.0)  # a pixel gains < 1
        toll, enough = _bisect(lambda toll, price=price: few(best(price, toll)), LEAST_TOLL, 2 * pixels[0].max().item())
        # Just over a bound: equally good squares may have come at once, of which some, or their parts, still fit.
        found += [spend(best(price, each), toll > LEAST_TOLL) for each in {toll, enough}]
        if (price, toll) == before or toll == LEAST_TOLL:
            break
    return max(found, key=lambda squares: _total(errors, squares))


def _total(amounts: list[Tensor], squares: list[Tensor]) -> float:
    """Sum over the squares that are taken."""
    return sum((amount * taken).sum().item() for amount, taken in zip(amounts, squares, strict=True))


def _bisect(fits: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Two neighbours, of which the lower does not fit and the higher does, as `high` does; `low` twice if it fits."""
    if fits(low):
        return low, low
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if fits(middle) else (middle, high)
    return low, high


def _spend(
    squares: list[Tensor], gains: list[Tensor], pixels: list[Tensor], budget_px: float, most: float
) -> list[Tensor]:
    """The squares with most gain that fit; of one with too many pixels for what is left, the parts that gain at all."""
    least_px = pixels[-1][pixels[-1] > 0].min().item()
    ranks, areas = ([each.tolist() for each in levels] for levels in (gains, pixels))
    kept = [torch.zeros_like(taken) for taken in squares]
    queue = [
        (-ranks[level][y][x], level, y, x) for level, taken in enumerate(squares) for y, x in taken.nonzero().tolist()
    ]
    heapq.heapify(queue)
    number = 0
    while queue and number < most and budget_px >= least_px:
        _, level, y, x = heapq.heappop(queue)
        if areas[level][y][x] <= budget_px:
            kept[level][y, x] = True
            budget_px -= areas[level][y][x]
            number += 1
        elif level + 1 < len(ranks):
            for row, column in product((2 * y, 2 * y + 1), (2 * x, 2 * x + 1)):
                if (rank := ranks[level + 1][row][column]) > 0:
                    heapq.heappush(queue, (-rank, level + 1, row, column))
    return kept


def _best_squares(errors: list[Tensor], works: list[float], price: float, toll: float) -> list[Tensor]:
    """The squares with the greatest sum of error - price * work - toll: bottom-up values, then top-down choice."""
    values: list[Tensor] = []
    wholes: list[Tensor] = []
    for error, work in zip(reversed(errors), reversed(works), strict=True):  # smallest squares first
        value = error - price * work - toll
        parts = _sum_of_four(values[-1]) if values else torch.zeros_like(value)
        wholes.append(value >= parts)  # parts are left out where they are worth less than nothing
        values.append(torch.maximum(value, parts))
    squares: list[Tensor] = []
    free = torch.ones_like(wholes[-1])  # where no larger square has been taken
    for whole in reversed(wholes):
        if squares:
            free = (free & ~squares[-1]).repeat_interleave(2, 0).repeat_interleave(2, 1)
        squares.append(free & whole)
    return squares


def _corners(taken: Tensor, index: int, side_px: int) -> Tensor:
    """(N, 3): index, top and left of the squares."""
    corners = taken.nonzero() * side_px
    return F.pad(corners, (1, 0), value=index)


def refine_patches(
    refiner: Refiner,
    rgb: Tensor,
    normalise: Callable[[Tensor], Tensor],
    coarse_logits: Tensor,
    patches: Sequence[Patches],
    batch_px: int,
) -> Tensor:
    """The refiner on some patches; elsewhere the coarse logits as they are.

    Args:
        refiner: The refiner.
        rgb: (B, 3, H, W), the native pictures as `normalise` takes them.
        normalise: Makes images of patches of them.
        coarse_logits: (B, 1, h, w) of the whole pictures.
        patches: Where to refine.
        batch_px: Pixels refined at a time, halos counted.

    Returns:
        refined_logits (B, 1, H, W), float32.
    """
    height, width = rgb.shape[-2:]
    device, halo = rgb.device, refiner.halo_px
    size = torch.tensor([height, width]).to(device, non_blocking=True)  # as all that follows: the host does not wait
    refined = enlarge(coarse_logits.float(), (height, width))
    for side, index, corner in patches:
        group = max(1, batch_px // (side + 2 * halo) ** 2)
        places = list(zip(index.tolist(), corner.tolist(), strict=True))
        index, corner = (each.to(device, non_blocking=True) for each in (index, corner))
        for start in range(0, len(corner), group):
            some = slice(start, start + group)
            chunk = Patches(side, index[some], corner[some])
            context = sample_logits(coarse_logits, chunk.index, chunk.corner, size, side, halo)
            residual = refiner(normalise(read_patches(rgb, chunk, halo)), context)
            logits = crop_border(context, halo) + residual
            for (b, (top, left)), patch in zip(places[some], logits, strict=True):
                high, wide = min(side, height - top), min(side, width - left)
                refined[b, :, top : top + high, left : left + wide] = patch[:, :high, :wide]
    return refined
