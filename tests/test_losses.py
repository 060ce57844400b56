"""Losses against closed forms and against slow float64 references written from their definitions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from utils import losses
from utils.losses import (
    MattingLoss,
    alignment_loss,
    error_loss,
    gradient_loss,
    l1_loss,
    laplacian_loss,
    ssim_loss,
    structure_loss,
)

ALPHA_LOSSES = [l1_loss, gradient_loss, laplacian_loss, ssim_loss]
SIZES = [(1, 1), (1, 7), (2, 3), (10, 5), (33, 40)]
WEIGHTS = {
    "l1": 1.0,
    "gradient": 2.0,
    "laplacian": 0.5,
    "ssim": 0.25,
    "structure": 3.0,
    "coarse": 0.5,
    "refined": 2.0,
    "alignment": 0.75,
    "error": 0.2,
}


def make_loss(**weights: float) -> MattingLoss:
    """MattingLoss with weights by the names of their terms."""
    return MattingLoss(**{f"{name}_weight": weight for name, weight in weights.items()})


def random_alpha(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def degenerate_alphas(height: int, width: int) -> dict[str, Tensor]:
    one_pixel = torch.zeros(1, 1, height, width)
    one_pixel[..., height // 2, width // 2] = 1
    return {
        "zeros": torch.zeros(1, 1, height, width),
        "ones": torch.ones(1, 1, height, width),
        "one pixel": one_pixel,
    }


def one_image(pred: Tensor, alpha: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return pred[0, 0].numpy(), alpha[0, 0].numpy()


def correlate_2d(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A window a pixel, replicated border."""
    rows, cols = kernel.shape
    padded = np.pad(image, ((rows // 2,) * 2, (cols // 2,) * 2), mode="edge")
    result = np.empty_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            result[y, x] = (padded[y : y + rows, x : x + cols] * kernel).sum()
    return result


# ------------------------------------------------------------------------------------------------------------
# L1, gradient


def test_l1_is_the_mean_absolute_difference() -> None:
    assert l1_loss(torch.full((2, 1, 3, 4), 0.75), torch.full((2, 1, 3, 4), 0.5)).item() == 0.25


def test_gradient_of_a_ramp_is_its_slope() -> None:
    ramp = (0.01 * torch.arange(50, dtype=torch.float64)).expand(1, 1, 20, 50)
    # A replicated border halves the central difference in the first and the last column.
    assert gradient_loss(ramp, torch.zeros_like(ramp)).item() == pytest.approx(0.01 * 49 / 50)
    assert gradient_loss(ramp.mT, torch.zeros_like(ramp.mT)).item() == pytest.approx(0.01 * 49 / 50)


def test_gradient_matches_two_dimensional_sobel() -> None:
    pred, alpha = random_alpha(1, 1, 9, 7), random_alpha(1, 1, 9, 7, seed=1)
    sobel_x = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    p, a = one_image(pred, alpha)
    expected = sum(np.abs(correlate_2d(p, sobel) - correlate_2d(a, sobel)).mean() for sobel in (sobel_x, sobel_x.T))
    assert gradient_loss(pred, alpha).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_ignores_a_constant_offset() -> None:
    alpha = random_alpha(1, 1, 8, 8) / 2
    assert gradient_loss(alpha + 0.25, alpha).item() == pytest.approx(0, abs=1e-15)


# ------------------------------------------------------------------------------------------------------------
# Laplacian pyramid


def reference_laplacian(pred: np.ndarray, alpha: np.ndarray, levels: int) -> float:
    """One pyramid for each matte, with the sums of Burt and Adelson (1983) written out along each axis."""
    taps = {-2: 1 / 16, -1: 4 / 16, 0: 6 / 16, 1: 4 / 16, 2: 1 / 16}

    def reduce(rows: np.ndarray) -> np.ndarray:
        last = len(rows) - 1
        half = range((len(rows) + 1) // 2)
        return np.array([sum(w * rows[min(max(2 * i + m, 0), last)] for m, w in taps.items()) for i in half])

    def expand(rows: np.ndarray, length: int) -> np.ndarray:
        last = len(rows) - 1
        return np.array(
            [
                sum(2 * w * rows[min(max((i - m) // 2, 0), last)] for m, w in taps.items() if (i - m) % 2 == 0)
                for i in range(length)
            ]
        )

    def pyramid(image: np.ndarray) -> list[np.ndarray]:
        images = []
        for _ in range(levels - 1):
            low = reduce(reduce(image).T).T
            images.append(image - expand(expand(low, image.shape[0]).T, image.shape[1]).T)
            image = low
        return [*images, image]

    differences = [np.abs(p - a).sum() for p, a in zip(pyramid(pred), pyramid(alpha), strict=True)]
    return sum(2**k * difference for k, difference in enumerate(differences)) / pred.size


@pytest.mark.parametrize(("size", "levels"), [((32, 48), 5), ((37, 23), 4), ((19, 50), 3), ((6, 5), 1)])
def test_laplacian_matches_two_pyramids(size: tuple[int, int], levels: int) -> None:
    pred, alpha = random_alpha(1, 1, *size), random_alpha(1, 1, *size, seed=1)
    expected = reference_laplacian(*one_image(pred, alpha), levels)
    assert laplacian_loss(pred, alpha, levels=levels).item() == pytest.approx(expected, rel=1e-12)


def test_laplacian_of_a_constant_offset_lives_in_the_low_pass_rest() -> None:
    alpha = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    # Four halvings: weight 2^4 on 4x4 of 64x64 pixels.
    assert laplacian_loss(alpha + 0.5, alpha).item() == pytest.approx(0.5 * 16 * 16 / 64**2)


def test_laplacian_of_one_pixel_is_l1() -> None:
    assert laplacian_loss(torch.full((1, 1, 1, 1), 0.75), torch.zeros(1, 1, 1, 1)).item() == 0.75


def test_laplacian_ends_where_a_side_is_one_pixel() -> None:
    pred, alpha = random_alpha(1, 1, 4, 30), random_alpha(1, 1, 4, 30, seed=1)
    assert laplacian_loss(pred, alpha).item() == pytest.approx(laplacian_loss(pred, alpha, levels=3).item())


# ------------------------------------------------------------------------------------------------------------
# SSIM


def test_ssim_of_constants_is_the_luminance_term() -> None:
    p, a, c1 = 0.8, 0.3, 0.01**2
    loss = ssim_loss(torch.full((1, 1, 20, 20), p).double(), torch.full((1, 1, 20, 20), a).double())
    assert loss.item() == pytest.approx(1 - (2 * p * a + c1) / (p * p + a * a + c1), rel=1e-6)


@pytest.mark.parametrize("size", [(14, 17), (5, 3)])
def test_ssim_matches_two_dimensional_windows(size: tuple[int, int]) -> None:
    pred, alpha = random_alpha(1, 1, *size), random_alpha(1, 1, *size, seed=1)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    p, a = one_image(pred, alpha)
    mean_p, mean_a = correlate_2d(p, window), correlate_2d(a, window)
    var_p, var_a = correlate_2d(p * p, window) - mean_p**2, correlate_2d(a * a, window) - mean_a**2
    covariance = correlate_2d(p * a, window) - mean_p * mean_a
    ssim = ((2 * mean_p * mean_a + 0.01**2) * (2 * covariance + 0.03**2)) / (
        (mean_p**2 + mean_a**2 + 0.01**2) * (var_p + var_a + 0.03**2)
    )
    assert ssim_loss(pred, alpha).item() == pytest.approx(1 - ssim.mean(), rel=1e-10)
    assert ssim_loss(pred.float(), alpha.float()).item() == pytest.approx(1 - ssim.mean(), abs=1e-5)


def test_ssim_of_an_inverted_matte_exceeds_one() -> None:
    alpha = (random_alpha(1, 1, 24, 24) > 0.5).double()
    assert 1 < ssim_loss(1 - alpha, alpha).item() <= 2


# ------------------------------------------------------------------------------------------------------------
# Structure


def structure_weight(alpha: np.ndarray) -> np.ndarray:
    weight = np.empty_like(alpha)
    for y in range(alpha.shape[0]):
        for x in range(alpha.shape[1]):
            window = alpha[max(y - 15, 0) : y + 16, max(x - 15, 0) : x + 16]
            weight[y, x] = 1 + 5 * abs(window.mean() - alpha[y, x])
    return weight


def test_structure_of_binary_truth_is_f3net() -> None:
    logits, alpha = 2 * random_logits(2, 1, 40, 35), (random_alpha(2, 1, 40, 35) > 0.7).double()
    expected = 0.0
    for z, a in zip(logits[:, 0].numpy(), alpha[:, 0].numpy(), strict=True):
        p, weight = 1 / (1 + np.exp(-z)), structure_weight(a)
        bce = -(a * np.log(p) + (1 - a) * np.log(1 - p))
        intersection, union = (weight * p * a).sum(), (weight * (p + a)).sum()
        iou = (intersection + 1) / (union - intersection + 1)
        expected += ((weight * bce).sum() / weight.sum() + 1 - iou) / 2
    assert structure_loss(logits, alpha).item() == pytest.approx(expected, rel=1e-12)


def test_structure_of_soft_truth_is_divergence_and_soft_iou() -> None:
    logits, alpha = random_logits(1, 1, 12, 40), random_alpha(1, 1, 12, 40)
    z, a = one_image(logits, alpha)
    p, weight = 1 / (1 + np.exp(-z)), structure_weight(a)
    divergence = a * np.log(a / p) + (1 - a) * np.log((1 - a) / (1 - p))
    iou = ((weight * np.minimum(p, a)).sum() + 1) / ((weight * np.maximum(p, a)).sum() + 1)
    expected = (weight * divergence).sum() / weight.sum() + 1 - iou
    assert structure_loss(logits, alpha).item() == pytest.approx(expected, rel=1e-10)


def test_structure_of_a_full_matte_sees_no_edge_at_the_picture_border() -> None:
    alpha = torch.ones(1, 1, 50, 50, dtype=torch.float64)
    expected = math.log(2) + 1 - (0.5 * 2500 + 1) / (2500 + 1)
    assert structure_loss(torch.zeros_like(alpha), alpha).item() == pytest.approx(expected)


def test_structure_punishes_an_error_at_the_edge_more_than_one_far_from_it() -> None:
    alpha = torch.zeros(1, 1, 80, 80)
    alpha[..., :40] = 1
    right = 20 * (alpha - 0.5)
    at_edge, far = right.clone(), right.clone()
    at_edge[..., 40, 40:44] = 10
    far[..., 40, 76:80] = 10
    assert structure_loss(at_edge, alpha) > 2 * structure_loss(far, alpha)


# ------------------------------------------------------------------------------------------------------------
# Alignment, error


def test_alignment_is_the_mean_over_levels_whatever_their_size() -> None:
    student = (torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 2, 2))
    teacher = (torch.full((2, 3, 4, 4), 2.0), torch.full((2, 8, 2, 2), 1.0))
    assert alignment_loss(student, teacher).item() == (4 + 1) / 2


def test_alignment_never_moves_the_teacher() -> None:
    student, teacher = torch.zeros(1, 2, 3, 3, requires_grad=True), torch.ones(1, 2, 3, 3, requires_grad=True)
    alignment_loss((student,), (teacher,)).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, torch.full((1, 2, 3, 3), -2 / 18))


def test_alignment_refuses_unequal_levels_and_shapes() -> None:
    level = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match="zip"):
        alignment_loss((level,), (level, level))
    with pytest.raises(AssertionError, match="differ"):
        alignment_loss((level,), (level[:, :1],))


@pytest.mark.parametrize(
    ("wrong_pixels", "weight"),
    [(0, 1.0), (1, 10.0), (20, 4.0), (50, 1.0), (90, 1.0), (100, 1.0)],
    ids=["none", "rare, capped", "20 %", "half", "most", "all"],
)
def test_error_weighs_wrong_pixels_by_their_rarity(wrong_pixels: int, weight: float) -> None:
    alpha = torch.zeros(1, 1, 10, 10, dtype=torch.float64)
    coarse_logits = torch.full_like(alpha, -20)
    coarse_logits.view(-1)[:wrong_pixels] = 0  # alpha 0.5
    error_logits = torch.full_like(alpha, 1.0)
    if_wrong, if_right = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    right_pixels = 100 - wrong_pixels
    expected = (weight * wrong_pixels * if_wrong + right_pixels * if_right) / (weight * wrong_pixels + right_pixels)
    assert error_loss(error_logits, coarse_logits, alpha).item() == pytest.approx(expected, rel=1e-12)


def test_error_tolerance_is_an_alpha_difference() -> None:
    alpha = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    coarse_logits = torch.logit(torch.tensor([0.54, 0.56], dtype=torch.float64)).view(1, 1, 1, 2)
    right_then_wrong = torch.tensor([-30.0, 30.0], dtype=torch.float64).view(1, 1, 1, 2)
    assert error_loss(right_then_wrong, coarse_logits, alpha).item() < 1e-10
    assert error_loss(-right_then_wrong, coarse_logits, alpha).item() == pytest.approx(30)
    assert error_loss(right_then_wrong, coarse_logits, alpha, tolerance=0.1).item() == pytest.approx(15)


def test_error_trains_only_the_error_head() -> None:
    error_logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    coarse_logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    error_loss(error_logits, coarse_logits, torch.zeros(1, 1, 4, 4)).backward()
    assert coarse_logits.grad is None
    assert (error_logits.grad < 0).all()


# ------------------------------------------------------------------------------------------------------------
# What holds for all of them


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("loss", ALPHA_LOSSES, ids=lambda loss: loss.__name__)
def test_perfect_alpha_costs_nothing(loss, size: tuple[int, int]) -> None:
    for alpha in (random_alpha(2, 1, *size).float(), *degenerate_alphas(*size).values()):
        assert loss(alpha, alpha).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_perfect_logits_cost_nothing(size: tuple[int, int]) -> None:
    soft = random_alpha(2, 1, *size)
    assert structure_loss(soft.logit(), soft).item() == pytest.approx(0, abs=1e-10)
    for alpha in degenerate_alphas(*size).values():
        logits = 60 * (alpha - 0.5)
        assert structure_loss(logits, alpha).item() == pytest.approx(0, abs=1e-6)
        assert error_loss(torch.full_like(alpha, -30), logits, alpha).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("magnitude", [1.0, 100.0, 3e4], ids=["usual", "saturated", "near the fp16 limit"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_degenerate_mattes_keep_values_and_gradients_finite(size: tuple[int, int], magnitude: float) -> None:
    for name, alpha in degenerate_alphas(*size).items():
        leaves = [(magnitude * random_logits(1, 1, *size, seed=s)).float().requires_grad_() for s in range(3)]
        output = SimpleNamespace(coarse_logits=leaves[0], error_logits=leaves[1], refined_logits=leaves[2])
        terms = make_loss(**WEIGHTS)(output, alpha)
        terms["total"].backward()
        assert all(term.isfinite() for term in terms.values()), (name, terms)
        assert all(leaf.grad.isfinite().all() for leaf in leaves), name


@pytest.mark.parametrize("size", [(6, 5), (1, 4)], ids=str)
def test_gradients_match_finite_differences(size: tuple[int, int]) -> None:
    pred, alpha = random_alpha(1, 1, *size).requires_grad_(), random_alpha(1, 1, *size, seed=1)
    logits = random_logits(1, 1, *size).requires_grad_()
    for loss in ALPHA_LOSSES:
        assert torch.autograd.gradcheck(loss, (pred, alpha))
    assert torch.autograd.gradcheck(structure_loss, (logits, alpha))
    assert torch.autograd.gradcheck(lambda error_logits: error_loss(error_logits, logits.detach(), alpha), (logits,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_under_autocast(dtype: torch.dtype) -> None:
    """Equal to the loss of the same half-precision values in float32: nothing inside is rounded again."""
    output = SimpleNamespace(
        coarse_logits=random_logits(1, 1, 24, 24, seed=0).to(dtype),
        error_logits=random_logits(1, 1, 24, 24, seed=1).to(dtype),
        refined_logits=random_logits(1, 1, 24, 24, seed=2).to(dtype),
    )
    alpha = random_alpha(1, 1, 24, 24, seed=3).float()
    student, teacher = (random_logits(1, 4, 6, 6, seed=4).to(dtype),), (random_logits(1, 4, 6, 6).to(dtype),)
    loss = make_loss(**WEIGHTS)
    with torch.autocast("cpu", dtype=dtype):
        terms = loss(output, alpha, student, teacher)
    full = SimpleNamespace(**{name: logits.float() for name, logits in vars(output).items()})
    expected = loss(full, alpha, (student[0].float(),), (teacher[0].float(),))
    assert {term.dtype for term in terms.values()} == {torch.float32}
    torch.testing.assert_close(terms, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", [*ALPHA_LOSSES, structure_loss], ids=lambda loss: loss.__name__)
def test_losses_are_means_over_the_batch(loss) -> None:
    pred, alpha = random_alpha(3, 1, 20, 16), random_alpha(3, 1, 20, 16, seed=1)
    each = [loss(pred[i : i + 1], alpha[i : i + 1]).item() for i in range(3)]
    assert loss(pred, alpha).item() == pytest.approx(sum(each) / 3, rel=1e-12)


@pytest.mark.parametrize("loss", [*ALPHA_LOSSES, structure_loss], ids=lambda loss: loss.__name__)
def test_losses_do_not_depend_on_the_memory_layout(loss) -> None:
    pred, alpha = random_alpha(2, 1, 20, 16), random_alpha(2, 1, 20, 16, seed=1)
    channels_last = pred.to(memory_format=torch.channels_last)
    assert loss(channels_last, alpha).item() == pytest.approx(loss(pred, alpha).item(), rel=1e-12)


@pytest.mark.parametrize("loss", [*ALPHA_LOSSES, structure_loss], ids=lambda loss: loss.__name__)
def test_losses_refuse_to_broadcast(loss) -> None:
    with pytest.raises(AssertionError, match="differ"):
        loss(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8))


# ------------------------------------------------------------------------------------------------------------
# MattingLoss


def matting_inputs(with_refiner: bool = True) -> tuple:
    coarse_logits, error_logits, refined_logits = (random_logits(2, 1, 20, 20, seed=s) for s in range(3))
    output = SimpleNamespace(
        coarse_logits=coarse_logits,
        error_logits=error_logits,
        refined_logits=refined_logits if with_refiner else coarse_logits,
    )
    features = (random_logits(2, 4, 5, 5), random_logits(2, 8, 3, 3))
    return output, random_alpha(2, 1, 20, 20, seed=9), features, tuple(level + 1 for level in features)


def test_terms_are_the_weighted_losses_and_sum_to_the_total() -> None:
    output, alpha, student, teacher = matting_inputs()
    terms = make_loss(**WEIGHTS)(output, alpha, student, teacher)
    w, expected = WEIGHTS, {}
    for stage, logits in (("coarse", output.coarse_logits), ("refined", output.refined_logits)):
        for loss in (*ALPHA_LOSSES, structure_loss):
            name = loss.__name__.removesuffix("_loss")
            value = loss(logits if loss is structure_loss else logits.sigmoid(), alpha)
            expected[f"{stage}_{name}"] = w[stage] * w[name] * value
    expected["alignment"] = w["alignment"] * torch.tensor(1.0, dtype=torch.float64)
    expected["error"] = w["error"] * error_loss(output.error_logits, output.coarse_logits, alpha)
    expected["total"] = sum(expected.values())
    assert list(terms) == list(expected)
    torch.testing.assert_close(terms, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["l1", "gradient", "laplacian", "ssim", "structure", "alignment", "error"])
def test_a_weight_of_zero_removes_the_term(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Tensor) -> Tensor:
        raise RuntimeError("computed")

    monkeypatch.setattr(losses, f"{name}_loss", never)
    inputs = matting_inputs()
    with pytest.raises(RuntimeError, match="computed"):
        make_loss(**WEIGHTS)(*inputs)
    terms = make_loss(**{**WEIGHTS, name: 0.0})(*inputs)
    assert not [term for term in terms if term.endswith(name)]
    assert len(terms) == 13 - (1 if name in ("alignment", "error") else 2)


@pytest.mark.parametrize("stage", ["coarse", "refined"])
def test_a_stage_weight_of_zero_removes_the_stage(stage: str) -> None:
    terms = make_loss(**{**WEIGHTS, stage: 0.0})(*matting_inputs())
    assert not [term for term in terms if term.startswith(stage)]
    assert len(terms) == 13 - 5


def test_without_a_refiner_the_coarse_terms_count_once() -> None:
    terms = make_loss(**{**WEIGHTS, "refined": 0.0})(*matting_inputs(with_refiner=False))
    assert not [term for term in terms if term.startswith("refined")]
    assert len(terms) == 13 - 5


def test_without_features_there_is_no_alignment() -> None:
    output, alpha, student, _ = matting_inputs()
    assert "alignment" not in make_loss(**WEIGHTS)(output, alpha)
    with pytest.raises(ValueError, match="zip"):
        make_loss(**WEIGHTS)(output, alpha, student)


def test_weights_are_checked_and_have_no_defaults() -> None:
    with pytest.raises(ValueError, match="laplacian"):
        make_loss(**{**WEIGHTS, "laplacian": -1.0})
    with pytest.raises(ValueError, match="error"):
        make_loss(**{**WEIGHTS, "error": math.nan})
    with pytest.raises(ValueError, match="nothing to train"):
        make_loss(**{**dict.fromkeys(WEIGHTS, 0.0), "coarse": 1.0})
    with pytest.raises(TypeError, match="ssim"):
        make_loss(**{name: weight for name, weight in WEIGHTS.items() if name != "ssim"})
    only_alignment = make_loss(**{**dict.fromkeys(WEIGHTS, 0.0), "alignment": 1.0})
    with pytest.raises(ValueError, match="no loss term"):
        only_alignment(*matting_inputs()[:2])


def test_descending_the_total_recovers_the_matte() -> None:
    """From a wrong start, 300 steps on the logits alone: the terms pull together, not against each other."""
    yy, xx = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    alpha = ((10 - ((yy - 16) ** 2 + (xx - 16) ** 2).sqrt()) / 4 + 0.5).clamp(0, 1)[None, None]
    logits = (-4 * (alpha - 0.5)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    loss = make_loss(**{**WEIGHTS, "error": 0.0})
    start = l1_loss(logits.sigmoid(), alpha).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss(SimpleNamespace(coarse_logits=logits, error_logits=logits, refined_logits=logits), alpha)[
            "total"
        ].backward()
        optimizer.step()
    assert l1_loss(logits.sigmoid(), alpha).item() < 0.01 * start
