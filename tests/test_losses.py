"""Losses against closed forms and against slow float64 references written from their definitions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.patches import Crops, enlarge
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


def logits_of(*alphas: float) -> Tensor:
    """(1, 1, 1, N), float64."""
    return torch.tensor(alphas, dtype=torch.float64).logit().view(1, 1, 1, -1)


def test_error_is_the_cross_entropy_with_the_refiners_gain() -> None:
    """Mended by 0.4; mended by 0.1, from below to above the truth; left alone; harmed, which counts as no gain."""
    coarse, refined = logits_of(0.9, 0.3, 0.6, 0.5), logits_of(0.5, 0.8, 0.6, 0.9)
    alpha = torch.tensor([0.4, 0.6, 1.0, 0.5], dtype=torch.float64).view(1, 1, 1, 4)
    expected = [0.3, 0.2, 0.05, 0.1]
    cross_entropy = [
        -(gain * math.log(p) + (1 - gain) * math.log(1 - p))
        for gain, p in zip([0.4, 0.1, 0.0, 0.0], expected, strict=True)
    ]
    loss = error_loss(logits_of(*expected), coarse, refined, alpha)
    assert loss.item() == pytest.approx(sum(cross_entropy) / 4, rel=1e-12)


def test_error_without_gain_wants_a_zero() -> None:
    """Whatever the coarse error: what the refiner cannot mend is not worth its work."""
    coarse, alpha = logits_of(0.1, 0.9, 0.5), torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64).view(1, 1, 1, 3)
    error_logits = torch.full_like(coarse, 2.0)
    expected = math.log1p(math.exp(2))
    assert error_loss(error_logits, coarse, coarse, alpha).item() == pytest.approx(expected, rel=1e-12)
    worse = logits_of(0.01, 0.99, 0.7)
    assert error_loss(error_logits, coarse, worse, alpha).item() == pytest.approx(expected, rel=1e-12)


def test_error_is_least_at_the_mean_gain() -> None:
    """One number for pixels with many gains: their mean, so that sums over patches are unbiased."""
    coarse, refined, alpha = random_logits(1, 1, 9, 9), random_logits(1, 1, 9, 9, seed=1), random_alpha(1, 1, 9, 9)
    gain = ((coarse.sigmoid() - alpha).abs() - (refined.sigmoid() - alpha).abs()).clamp(min=0)
    at_mean = gain.mean().logit().requires_grad_()
    loss = error_loss(at_mean.expand_as(alpha), coarse, refined, alpha)
    loss.backward()
    assert abs(at_mean.grad.item()) < 1e-12
    for step in (-0.1, 0.1):
        assert error_loss((at_mean + step).expand_as(alpha), coarse, refined, alpha) > loss


def test_error_trains_only_the_error_head() -> None:
    error_logits, coarse_logits, refined_logits = (torch.zeros(1, 1, 4, 4, requires_grad=True) for _ in range(3))
    error_loss(error_logits, coarse_logits, refined_logits - 3, torch.zeros(1, 1, 4, 4)).backward()
    assert coarse_logits.grad is None and refined_logits.grad is None
    # (sigmoid - gain) / pixels
    torch.testing.assert_close(error_logits.grad, torch.full((1, 1, 4, 4), (1 / (1 + math.exp(3))) / 16))


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
        for coarse in (logits, -logits):  # nothing to mend; mended from the worst
            error_logits = torch.where(coarse == logits, -30.0, 30.0)
            assert error_loss(error_logits, coarse, logits, alpha).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("magnitude", [1.0, 100.0, 3e4], ids=["usual", "saturated", "near the fp16 limit"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_degenerate_mattes_keep_values_and_gradients_finite(size: tuple[int, int], magnitude: float) -> None:
    for name, alpha in degenerate_alphas(*size).items():
        side = max(size)
        shapes = (size, size, (side, side))
        leaves = [(magnitude * random_logits(1, 1, *shape, seed=s)).float() for s, shape in enumerate(shapes)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        output = SimpleNamespace(coarse_logits=leaves[0], error_logits=leaves[1], refined_logits=leaves[2])
        terms = make_loss(**WEIGHTS)(output, alpha, one_crop(*size), degenerate_alphas(side, side)[name])
        assert len(terms) == 12
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
    coarse, refined = random_logits(1, 1, *size, seed=2), random_logits(1, 1, *size, seed=3)
    assert torch.autograd.gradcheck(lambda error_logits: error_loss(error_logits, coarse, refined, alpha), (logits,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_under_autocast(dtype: torch.dtype) -> None:
    """Equal to the loss of the same half-precision values in float32: nothing inside is rounded again."""
    output, alpha, crops, crop_alpha, student, teacher = matting_inputs()
    output = SimpleNamespace(**{name: logits.to(dtype) for name, logits in vars(output).items()})
    alpha, crop_alpha = alpha.float(), crop_alpha.float()
    student, teacher = (tuple(level.to(dtype) for level in features) for features in (student, teacher))
    loss = make_loss(**WEIGHTS)
    with torch.autocast("cpu", dtype=dtype):
        terms = loss(output, alpha, crops, crop_alpha, student, teacher)
    full = SimpleNamespace(**{name: logits.float() for name, logits in vars(output).items()})
    student, teacher = (tuple(level.float() for level in features) for features in (student, teacher))
    expected = loss(full, alpha, crops, crop_alpha, student, teacher)
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


POOLING = (1, 2, 1, 4)  # of the crops below
CORNERS, CROP_SIZES, CROP_PX = [(0, 0), (30, 5), (13, 44), (20, 20)], [(40, 60), (70, 64), (33, 64), (80, 40)], 20


def matting_inputs() -> tuple:
    """Output, alpha, crops, their alpha, and features: two pictures at 24 px, four crops of them."""
    output = SimpleNamespace(
        coarse_logits=random_logits(2, 1, 24, 24),
        error_logits=random_logits(2, 1, 24, 24, seed=1),
        refined_logits=random_logits(4, 1, CROP_PX, CROP_PX, seed=2),
    )
    places = (torch.tensor(each) for each in ([0, 1, 1, 0], CORNERS, CROP_SIZES, POOLING))
    crops = Crops(torch.empty(4, 3, CROP_PX, CROP_PX), *places)
    crop_alpha = random_alpha(4, 1, CROP_PX, CROP_PX, seed=8)
    features = (random_logits(2, 4, 5, 5), random_logits(2, 8, 3, 3))
    taught = tuple(level + 1 for level in features)
    return output, random_alpha(2, 1, 24, 24, seed=9), crops, crop_alpha, features, taught


def one_crop(height: int, width: int) -> Crops:
    """At the top left of one picture of this native size."""
    zero = torch.zeros(1, 2, dtype=torch.int64)
    return Crops(torch.empty(0), zero[:, 0], zero, torch.tensor([[height, width]]), torch.ones(1, dtype=torch.int64))


def test_terms_are_the_weighted_losses_and_sum_to_the_total() -> None:
    output, alpha, crops, crop_alpha, student, teacher = matting_inputs()
    terms = make_loss(**WEIGHTS)(output, alpha, crops, crop_alpha, student, teacher)
    w, expected = WEIGHTS, {}
    stages = (("coarse", output.coarse_logits, alpha), ("refined", output.refined_logits, crop_alpha))
    for stage, logits, truth in stages:
        for loss in (*ALPHA_LOSSES, structure_loss):
            name = loss.__name__.removesuffix("_loss")
            value = loss(logits if loss is structure_loss else logits.sigmoid(), truth)
            expected[f"{stage}_{name}"] = w[stage] * w[name] * value
    expected["alignment"] = w["alignment"] * torch.tensor(1.0, dtype=torch.float64)
    expected["error"] = w["error"] * reference_error_term(output, crop_alpha)
    assert list(terms) == [*expected, "total"]
    error, total = terms.pop("error"), terms.pop("total")
    torch.testing.assert_close(error.double(), expected.pop("error"), rtol=1e-5, atol=0)  # places are float32
    torch.testing.assert_close(terms, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(total, sum(terms.values()) + error, rtol=1e-6, atol=0)


def reference_error_term(output: SimpleNamespace, crop_alpha: Tensor) -> Tensor:
    """Of the crops that are not pooled, 0 and 2, cut out of their enlarged pictures: gains are enlarged, not logits."""
    squares = []
    for logits in (output.error_logits.sigmoid(), output.coarse_logits):
        for i, b in ((0, 0), (2, 1)):
            top, left = CORNERS[i]
            whole = enlarge(logits[b : b + 1], CROP_SIZES[i])
            squares.append(whole[..., top : top + CROP_PX, left : left + CROP_PX])
    error, coarse = torch.cat(squares[:2]), torch.cat(squares[2:])
    return error_loss(error.logit(), coarse, output.refined_logits[::2], crop_alpha[::2]) * (2 / 4)  # of all crops


def test_pooled_crops_do_not_teach_routing() -> None:
    """Their coarse logits are not those of the picture that routing will see."""
    output, alpha, crops, crop_alpha, *_ = matting_inputs()
    loss = make_loss(**{**WEIGHTS, "coarse": 0.0, "refined": 0.0})
    before = loss(output, alpha, crops, crop_alpha)["error"]
    for i, matters in enumerate(pooling == 1 for pooling in POOLING):
        other = crop_alpha.clone()
        other[i] = 1 - other[i]
        assert (loss(output, alpha, crops, other)["error"] != before) == matters
    pooled = crops._replace(pooling=torch.full((4,), 2))
    output.error_logits.requires_grad_()
    term = loss(output, alpha, pooled, crop_alpha)["error"]
    term.backward()
    assert term.item() == 0 and not output.error_logits.grad.any()


@pytest.mark.parametrize("pooling", [POOLING, (1, 1, 1, 2), (4, 1, 2, 2), (2, 2, 4, 8)], ids=str)
def test_the_terms_of_a_batch_are_the_means_of_its_images(pooling: tuple[int, ...]) -> None:
    """So gradients that are accumulated, or averaged over processes, are those of one large batch."""
    output, alpha, crops, crop_alpha, student, _ = matting_inputs()
    crops = crops._replace(pooling=torch.tensor(pooling))
    teacher = tuple(random_logits(*level.shape, seed=5) for level in student)
    loss, alone = make_loss(**WEIGHTS), []
    for i in range(len(alpha)):
        own = crops.index == i
        few = Crops(*(each[own] for each in crops))._replace(index=torch.zeros(int(own.sum()), dtype=torch.int64))
        whole = slice(i, i + 1)
        part = SimpleNamespace(
            coarse_logits=output.coarse_logits[whole],
            error_logits=output.error_logits[whole],
            refined_logits=output.refined_logits[own],
        )
        features = (tuple(level[whole] for level in levels) for levels in (student, teacher))
        alone.append(loss(part, alpha[whole], few, crop_alpha[own], *features))
    means = {name: torch.stack([terms[name] for terms in alone]).mean() for name in alone[0]}
    torch.testing.assert_close(loss(output, alpha, crops, crop_alpha, student, teacher), means, rtol=1e-6, atol=0)


def test_without_crops_the_coarse_stage_is_all_there_is_to_train() -> None:
    output, alpha, _, _, student, teacher = matting_inputs()
    terms = make_loss(**WEIGHTS)(output, alpha, student_features=student, teacher_features=teacher)
    stages = {name.split("_")[0] for name in terms}
    assert stages == {"coarse", "alignment", "total"} and len(terms) == 5 + 2
    with_crops = make_loss(**WEIGHTS)(*matting_inputs())
    assert all(torch.equal(terms[name], with_crops[name]) for name in terms if name != "total")


@pytest.mark.parametrize("name", ["l1", "gradient", "laplacian", "ssim", "structure", "alignment", "error"])
def test_a_weight_of_zero_removes_the_term(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Tensor) -> Tensor:
        raise RuntimeError("computed")

    if name in losses.ALPHA_LOSSES:
        monkeypatch.setitem(losses.ALPHA_LOSSES, name, never)
    else:
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


def test_without_features_there_is_no_alignment() -> None:
    output, alpha, crops, crop_alpha, student, _ = matting_inputs()
    assert "alignment" not in make_loss(**WEIGHTS)(output, alpha, crops, crop_alpha)
    with pytest.raises(ValueError, match="zip"):
        make_loss(**WEIGHTS)(output, alpha, crops, crop_alpha, student)


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
        only_alignment(*matting_inputs()[:4])


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
        output = SimpleNamespace(coarse_logits=logits, error_logits=logits, refined_logits=logits)
        loss(output, alpha, one_crop(32, 32), alpha)["total"].backward()
        optimizer.step()
    assert l1_loss(logits.sigmoid(), alpha).item() < 0.01 * start
