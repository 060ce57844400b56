"""utils.recall: what is summed over patches, against slow sums; curves in closed form."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from models import Routing
from models.patches import Patches
from models.routing import choose_patches
from utils import recall
from utils.inference import Predictor, predict, to_alpha
from utils.metrics import sad
from utils.recall import Effect, Recall
from utils.transforms import Preprocess

ROUTING = Routing(
    error_threshold=0.1, refine_budget=1.0, max_patches=None, patch_px=16, largest_px=64, batch_px=1 << 14
)
HALO_PX = 5


def work(side_px: int) -> int:
    return (side_px + 2 * HALO_PX) ** 2


def random_gain(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Of both signs, larger in some places than in others."""
    generator = np.random.default_rng(seed)
    places = np.kron(generator.random((4, 4)) ** 3, np.ones((-(-height // 4), -(-width // 4))))[:height, :width]
    return places * generator.uniform(-0.3, 1, (height, width))


def patches(*squares: tuple[int, int, int]) -> list[Patches]:
    """Of (side, top, left)."""
    return [Patches(side, torch.zeros(1, dtype=torch.long), torch.tensor([[top, left]])) for side, top, left in squares]


@pytest.fixture
def own_predictor(make_network: Callable) -> Predictor:
    """Its router takes a part of the picture."""
    return Predictor(make_network(), Preprocess(64), replace(ROUTING, error_threshold=0.14), torch.device("cpu"))


# ---------------------------------------------------------------------------------------------------- patches


def test_gain_is_positive_where_refinement_is_closer_to_the_truth() -> None:
    coarse, refined, alpha = (np.array([values], np.float32) for values in ([0.5, 0.5, 0], [1, 0.25, 0], [1, 1, 0]))
    assert recall.refinement_gain(coarse, refined, alpha).tolist() == [[0.5, -0.25, 0.0]]


def test_effects_are_sums_over_the_pixels_in_patches() -> None:
    gain = random_gain(50, 70)
    choices = [patches((32, 0, 32), (16, 48, 16), (16, 0, 64)), [], patches((64, 0, 0), (64, 0, 64))]
    found = recall.effect(choices, gain, work)
    for index, choice in enumerate(choices):
        net = gross = 0.0
        seen = set()
        for side, _, corner in choice:
            top, left = corner[0].tolist()
            seen |= {(y, x) for y in range(top, min(top + side, 50)) for x in range(left, min(left + side, 70))}
        for place in seen:
            net, gross = net + gain[place], gross + max(gain[place], 0)
        assert found.removed_px[index] == pytest.approx(net)
        assert found.gross_px[index] == pytest.approx(gross)
        assert set(zip(*recall.covered(choice, gain.shape).nonzero(), strict=True)) == seen
    assert found.work.tolist() == [42**2 + 2 * 26**2, 0, 2 * 74**2]


def test_a_sweep_goes_from_everything_to_nothing() -> None:
    gain = random_gain(100, 130)
    logits = 2 * torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)) - 2
    tight = replace(ROUTING, refine_budget=0.01, max_patches=1)  # no part of the curve
    found = recall.sweep(logits, gain, tight, (1e-6, 0.03, 0.1, 0.2, 0.99), work)
    assert found.removed_px[0] == pytest.approx(gain.sum()) and found.removed_px[-1] == 0
    assert (np.diff(found.work) < 0).all() and found.work[-1] == 0
    chosen = choose_patches(logits, gain.shape, ROUTING, work)
    assert found.work[2] == recall.total_work(chosen, work)
    assert found.removed_px[2] == pytest.approx(gain[recall.covered(chosen, gain.shape)].sum())


def test_work_without_halo_is_that_of_the_pixels() -> None:
    assert recall.work_without_halo((30, 50), work) == pytest.approx(1500, rel=1e-4)


def test_putting_coarse_pixels_back_is_routed_prediction(own_predictor: Predictor, make_pair: Callable) -> None:
    rgb, _ = make_pair(110, 150)
    refined = recall.refine(own_predictor, rgb)
    routed = to_alpha(predict(own_predictor, rgb).refined_logits)
    np.testing.assert_allclose(refined.routed, routed, atol=1e-5)
    share = recall.covered(refined.own, (110, 150)).mean()
    assert 0.05 < share < 0.95  # or the test tells nothing
    assert np.abs(refined.dense - routed).max() > 0.01 < np.abs(refined.coarse - routed).max()


# ---------------------------------------------------------------------------------------------------- error maps


@pytest.mark.parametrize("size", [(96, 128), (50, 70), (61, 83)])
def test_the_oracle_takes_the_squares_that_are_worth_it(size: tuple[int, int]) -> None:
    """With one side of patches the choice is plain: those whose own gain exceeds the price of their work."""
    gain, price = random_gain(*size), 0.06
    gain[-2:, : size[1] // 2] = 0.9  # squares that lie partly beyond the border have a mean, too
    routing = replace(ROUTING, largest_px=16, error_threshold=price)
    expected = {
        (top, left)
        for top in range(0, size[0], 16)
        for left in range(0, size[1], 16)
        if gain[top : top + 16, left : left + 16].sum() > price * 16**2  # a dense pixel's work is the unit
    }
    chosen = choose_patches(recall.oracle_logits(gain, 16), size, routing, work)
    assert {tuple(corner) for patch in chosen for corner in patch.corner.tolist()} == expected
    assert 0 < len(expected) < -(-size[0] // 16) * -(-size[1] // 16)


def test_no_router_beats_the_oracle() -> None:
    """At a price, no choice removes more error less its cost than the oracle's, where refinement does no harm."""
    gain = random_gain(128, 192).clip(min=0)
    others = [torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(seed)) - 1 for seed in range(3)]
    unit = work(64) / 64**2
    prices = (0.01, 0.05, 0.1, 0.2)
    best = recall.sweep(recall.oracle_logits(gain, 16), gain, ROUTING, prices, work)
    for other in others:
        found = recall.sweep(other, gain, ROUTING, prices, work)
        for index, price in enumerate(prices):
            worth = best.removed_px[index] - price * best.work[index] / unit
            assert worth >= found.removed_px[index] - price * found.work[index] / unit - 1e-6
    assert best.removed_px[2] > 0


def test_softness_is_one_for_what_is_undecided() -> None:
    alpha = torch.tensor([0.5, 0.75, 0.1, 1e-12]).view(1, 1, 1, 4)
    error = torch.sigmoid(recall.softness_logits(torch.logit(alpha)))
    torch.testing.assert_close(error.flatten(), torch.tensor([1, 0.5, 0.2, 0]), atol=1e-5, rtol=0)


def test_gradient_of_ramps() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    alpha = (0.1 + 0.03 * rows + 0.04 * columns).view(1, 1, 6, 7)
    error = torch.sigmoid(recall.gradient_logits(torch.logit(alpha)))[0, 0]
    torch.testing.assert_close(error[1:-1, 1:-1], torch.full((4, 5), 0.05), atol=1e-5, rtol=0)
    assert error[0, 0].item() == pytest.approx(0.025, abs=1e-5)  # half: the border is repeated


# ---------------------------------------------------------------------------------------------------- sets


def effect_of(removed: list[float], gross: list[float], spent: list[float]) -> Effect:
    return Effect(*(np.array(values, float) for values in (removed, gross, spent)))


def test_a_set_is_pooled_and_averaged() -> None:
    effects = [effect_of([2, 8], [3, 9], [1, 4]), effect_of([1, 1], [1, 2], [4, 8]), effect_of([-3, 0], [1, 2], [2, 2])]
    dense = [effect_of([10], [12], [10]), effect_of([2], [4], [20]), effect_of([-4], [4], [10])]
    curve = recall.pool(effects, dense)
    assert curve.removed.tolist() == [0 / 8, 9 / 8]
    assert curve.gross.tolist() == [5 / 20, 13 / 20]
    assert curve.work.tolist() == [7 / 40, 14 / 40]
    assert curve.mean_removed.tolist() == pytest.approx([(0.2 + 0.5) / 2, (0.8 + 0.5) / 2])  # the third got worse
    assert curve.mean_work.tolist() == pytest.approx([(0.1 + 0.2) / 2, (0.4 + 0.4) / 2])


def test_shares_of_no_gain_are_undefined() -> None:
    curve = recall.pool([effect_of([-1], [1], [2])], [effect_of([-2], [2], [4])])
    assert np.isnan([*curve.removed, *curve.mean_removed, *curve.mean_work]).all()
    assert curve.gross.tolist() == curve.work.tolist() == [0.5]


@pytest.mark.parametrize(
    ("removed", "work_shares", "expected"),
    [
        ([0.5, 0.9], [0.1, 0.3], 0.3 + 0.7 * 0.05 / 0.1),  # on the way to everything
        ([0.98, 0.5, 0.9], [0.5, 0.1, 0.3], 0.3 + 0.2 * 0.05 / 0.08),  # in any order
        ([1.2, 0.94, 1.0], [0.2, 0.6, 0.8], 0.2 * 0.95 / 1.2),  # the first time, though it falls below again
        ([0.0, 0.0], [0.0, 0.0], 0.95),
        ([math.nan, 1.0], [0.2, 0.3], math.nan),
    ],
)
def test_work_to_remove(removed: list[float], work_shares: list[float], expected: float) -> None:
    found = recall.work_to_remove(0.95, np.array(removed), np.array(work_shares))
    assert found == pytest.approx(expected, nan_ok=True)


def test_a_summary_agrees_with_the_mattes(own_predictor: Predictor, make_pair: Callable) -> None:
    """A truth that refinement comes closer to: then the removed share is told by the SADs, too."""
    collected = Recall(own_predictor)
    sads, refined_work, dense_work = [], 0.0, 0.0
    for index, (height, width) in enumerate([(100, 140), (128, 64)]):
        refined = recall.refine(own_predictor, make_pair(height, width)[0])
        alpha = (0.2 * refined.coarse + 0.8 * refined.dense).astype(np.float32)
        collected.add(str(index), refined, alpha)
        sads.append([sad(matte, alpha) for matte in (refined.coarse, refined.routed, refined.dense)])
        measure = own_predictor.network.refiner.work
        refined_work += sum(measure(patch.side_px) * len(patch.corner) for patch in refined.own)
        everything = choose_patches(
            refined.output.error_logits, (height, width), own_predictor.routing.everything(), measure
        )
        dense_work += sum(measure(patch.side_px) * len(patch.corner) for patch in everything)
    summary = collected.summary(0.95)
    coarse, routed, dense = np.mean(sads, axis=0)
    assert list(summary["SAD"].values()) == pytest.approx([coarse, routed, dense])
    assert summary["own"]["removed"] == pytest.approx((coarse - routed) / (coarse - dense))
    assert summary["own"]["work"] == pytest.approx(refined_work / dense_work)
    assert [row["own_removed"] for row in summary["per_image"]] == pytest.approx(
        [(c - r) / (c - d) for c, r, d in sads]
    )
    router = collected.curves()["router"]
    for key, removed, spent in (
        ("work", router.removed, router.work),
        ("gross_work", router.gross, router.work),
        ("mean_work", router.mean_removed, router.mean_work),
    ):
        assert summary[key]["router"] == recall.work_to_remove(0.95, removed, spent)
    assert summary["images_improved"] == 2
    assert summary["bare_work"]["router"] > summary["work"]["router"] >= summary["work"]["oracle"] > 0
