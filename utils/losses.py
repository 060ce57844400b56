"""The training losses: pure functions of tensors, and `MattingLoss`, which weighs and names their sum.

Rules that hold for every function here:

- The result is a scalar, the mean over batch and pixels (or what the docstring says), in float32 whatever the
  inputs and the surrounding autocast; float64 inputs stay float64, which is what numerical gradient checks
  need.
- It is zero where the prediction equals the truth, soft truths included, or approaches that as the logits grow; but
  for `error_loss`, whose least value is the entropy of its target.
- It is finite for any matte (all 0, all 1, one pixel) and any size from 1x1: filters read a replicated border
  instead of shrinking the map, so no window can be larger than its image.
- Nothing reads a value back from the device or copies a constant to it, so no loss makes the CPU wait for the
  GPU.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from models.patches import Crops, sample_logits

if TYPE_CHECKING:
    from models import MattingOutput

SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # (K1 L)² and (K2 L)² of Wang et al. 2004 with the dynamic range L = 1
BINOMIAL_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt and Adelson's generating kernel, a = 0.375
STRUCTURE_WINDOW_PX = 31  # F3Net: how far from an edge a pixel still counts as near it
STRUCTURE_EDGE_GAIN = 5.0  # F3Net's gamma: a pixel on a straight edge weighs 1 + 5 * 0.5


# ------------------------------------------------------------------------------------------------------------
# Precision and filters


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def in_float32(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Runs a loss of equally shaped maps in float32, outside autocast (which convolves in half precision)."""

    @functools.wraps(loss)
    def called(*maps: Tensor, **options: float) -> Tensor:
        # A (B, H, W) truth would broadcast against a (B, 1, H, W) prediction into a plausible, wrong number.
        shapes = [tuple(m.shape) for m in maps]
        assert len(set(shapes)) == 1, f"{loss.__name__}: shapes {shapes} differ"
        with torch.autocast(device_type=maps[0].device.type, enabled=False):
            return loss(*(_full_precision(m) for m in maps), **options)

    return called


def _filter_along(maps: Tensor, taps: tuple[float, ...], dim: int, stride: int = 1) -> Tensor:
    """Correlates (B, C, H, W) with an odd number of taps along dim -1 or -2; replicate border.

    Sums shifted views: for three to five taps that costs no more than a convolution, needs no kernel on the
    device, and is not subject to TF32.
    """
    radius_px, length = len(taps) // 2, maps.shape[dim]
    padding = (radius_px, radius_px, 0, 0) if dim == -1 else (0, 0, radius_px, radius_px)
    padded = F.pad(maps, padding, mode="replicate")
    views = [padded.narrow(dim, i, length) for i in range(len(taps))]
    if stride > 1:
        views = [view[..., ::stride] if dim == -1 else view[..., ::stride, :] for view in views]
    return sum(tap * view for tap, view in zip(taps, views, strict=True) if tap)


def _expand_along(maps: Tensor, dim: int, length: int) -> Tensor:
    """Burt and Adelson's EXPAND along one dimension: zeros between the samples, twice the binomial kernel."""
    even = _filter_along(maps, (1 / 8, 6 / 8, 1 / 8), dim)
    odd = _filter_along(maps, (0.0, 4 / 8, 4 / 8), dim)
    return torch.stack((even, odd), dim).flatten(dim - 1, dim).narrow(dim, 0, length)


# ------------------------------------------------------------------------------------------------------------
# Losses of an alpha


@in_float32
def l1_loss(pred_alpha: Tensor, alpha: Tensor) -> Tensor:
    """Mean absolute difference.

    Args:
        pred_alpha: (B, 1, H, W) in [0, 1].
        alpha: (B, 1, H, W) in [0, 1].

    Returns:
        Scalar in [0, 1]: the metric MAD of the batch.
    """
    return (pred_alpha - alpha).abs().mean()


@in_float32
def gradient_loss(pred_alpha: Tensor, alpha: Tensor) -> Tensor:
    """L1 between the Sobel derivatives of both mattes: mean of |dx(p) - dx(a)| + |dy(p) - dy(a)|.

    The Sobel kernels are divided by 8, so a ramp of slope s alpha per pixel has the derivative s. The filters are
    linear: the derivative of the difference is the difference of the derivatives, at half the cost.

    Args:
        pred_alpha: (B, 1, H, W) in [0, 1].
        alpha: (B, 1, H, W) in [0, 1].

    Returns:
        Scalar >= 0, in alpha per pixel. Blind to a constant offset.
    """
    difference = pred_alpha - alpha
    smooth, derive = (0.25, 0.5, 0.25), (-0.5, 0.0, 0.5)
    dx = _filter_along(_filter_along(difference, derive, -1), smooth, -2)
    dy = _filter_along(_filter_along(difference, derive, -2), smooth, -1)
    return (dx.abs() + dy.abs()).mean()


@in_float32
def laplacian_loss(pred_alpha: Tensor, alpha: Tensor, levels: int = 5) -> Tensor:
    """L1 between Laplacian pyramids: sum over k of 2^k * |L_k(p) - L_k(a)|_1, divided by the pixels.

    Hou and Liu, Context-Aware Image Matting (ICCV 2019), eq. 3, after Niklaus and Liu (CVPR 2018), with the
    pyramid of Burt and Adelson (1983): `levels - 1` band-pass images and the low-pass rest. |.|_1 is a sum,
    level k has 4^-k of the pixels, so relative to a mean per level the weights are 2^-k: fine detail counts
    most. The pyramid is linear, so one pyramid of the difference does. It ends early, with the low-pass rest
    at the level reached, once a side is down to 1 px: at 1x1 the loss is L1.

    Args:
        pred_alpha: (B, 1, H, W) in [0, 1].
        alpha: (B, 1, H, W) in [0, 1].
        levels: images in the pyramid, the low-pass rest included; >= 1.

    Returns:
        Scalar >= 0.
    """
    rest = pred_alpha - alpha
    pixels, weight, total = rest.numel(), 1.0, rest.new_zeros(())
    for _ in range(levels - 1):
        height, width = rest.shape[-2:]
        if min(height, width) == 1:
            break
        low = _filter_along(_filter_along(rest, BINOMIAL_TAPS, -1, stride=2), BINOMIAL_TAPS, -2, stride=2)
        band = rest - _expand_along(_expand_along(low, -2, height), -1, width)
        total = total + weight * band.abs().sum()
        rest, weight = low, 2 * weight
    return (total + weight * rest.abs().sum()) / pixels


@in_float32
def ssim_loss(pred_alpha: Tensor, alpha: Tensor) -> Tensor:
    """1 - mean SSIM, Wang et al. (2004) eq. 13, 11x11 Gaussian window of sigma 1.5 px, K = (0.01, 0.03).

    The border is replicated, so the map covers every pixel and an image smaller than the window has one.

    Args:
        pred_alpha: (B, 1, H, W) in [0, 1].
        alpha: (B, 1, H, W) in [0, 1].

    Returns:
        Scalar in [0, 2].
    """
    radius_px = SSIM_WINDOW_PX // 2
    offsets = torch.arange(-radius_px, radius_px + 1, device=alpha.device, dtype=alpha.dtype)
    window = torch.exp(-0.5 * (offsets / SSIM_SIGMA_PX) ** 2)
    window = window / window.sum()

    # Only the sum of the two variances is needed, hence four moments. They are one depthwise convolution an
    # axis: cuDNN's dense ones may round to TF32, too coarse for E[x²] - E[x]² beside C2 = 9e-4; the
    # depthwise kernel of a contiguous float32 tensor does not.
    moments = torch.cat((pred_alpha, alpha, pred_alpha**2 + alpha**2, pred_alpha * alpha), dim=1)
    moments = F.pad(moments.contiguous(), (radius_px,) * 4, mode="replicate")
    moments = F.conv2d(moments, window.view(1, 1, 1, -1).expand(4, -1, -1, -1), groups=4)
    moments = F.conv2d(moments, window.view(1, 1, -1, 1).expand(4, -1, -1, -1), groups=4)
    pred_mean, mean, square_sum, product = moments.split(1, dim=1)

    mean_product, mean_square_sum = pred_mean * mean, pred_mean**2 + mean**2
    luminance = (2 * mean_product + SSIM_C1) / (mean_square_sum + SSIM_C1)
    contrast_structure = (2 * (product - mean_product) + SSIM_C2) / (square_sum - mean_square_sum + SSIM_C2)
    return 1 - (luminance * contrast_structure).mean()


@in_float32
def structure_loss(logits: Tensor, alpha: Tensor) -> Tensor:
    """Boundary-weighted cross entropy plus boundary-weighted IoU, F3Net (Wei et al., AAAI 2020), eq. 5-8.

    weight = 1 + 5 * |mean of the truth over 31x31 - truth|, so pixels near an edge count up to 6 times.

    Equal to the paper for binary truths, and extended so that a soft truth is reached at zero:
    - The truth's own entropy is subtracted from the cross entropy (what is left is their KL divergence; the
      gradient is unchanged).
    - Intersection and union are min(p, a) and max(p, a), which for a in {0, 1} are p * a and p + a - p * a.

    Two deliberate differences from the authors' code: its cross entropy is never weighted (`reduce='none'` is
    read as true), and its mean over 31x31 counts padding zeros, which makes an edge of the picture's border.

    Args:
        logits: (B, 1, H, W), unbounded.
        alpha: (B, 1, H, W) in [0, 1], soft values allowed.

    Returns:
        Scalar >= 0, the mean over the batch of each image's two terms.
    """
    window_px, margin_px = STRUCTURE_WINDOW_PX, STRUCTURE_WINDOW_PX // 2
    # Two one-dimensional means: 62 reads a pixel instead of 961. Border windows count only pixels that exist.
    mean = F.avg_pool2d(alpha, (window_px, 1), 1, (margin_px, 0), count_include_pad=False)
    mean = F.avg_pool2d(mean, (1, window_px), 1, (0, margin_px), count_include_pad=False)
    weight = 1 + STRUCTURE_EDGE_GAIN * (mean - alpha).abs()

    entropy = -(torch.xlogy(alpha, alpha) + torch.xlogy(1 - alpha, 1 - alpha))
    divergence = F.binary_cross_entropy_with_logits(logits, alpha, reduction="none") - entropy
    cross_entropy_term = (weight * divergence).sum((1, 2, 3)) / weight.sum((1, 2, 3))

    pred_alpha = logits.sigmoid()
    intersection = (weight * torch.minimum(pred_alpha, alpha)).sum((1, 2, 3))
    union = (weight * torch.maximum(pred_alpha, alpha)).sum((1, 2, 3))
    iou_term = 1 - (intersection + 1) / (union + 1)  # + 1 as in F3Net: an empty truth has an IoU
    return (cross_entropy_term + iou_term).mean()


# ------------------------------------------------------------------------------------------------------------
# Losses of the parts


def alignment_loss(student_features: tuple[Tensor, ...], teacher_features: tuple[Tensor, ...]) -> Tensor:
    """Mean over the levels of the mean squared difference; pulls the student towards the teacher, never back.

    Args:
        student_features: at least one (B, C_k, H_k, W_k).
        teacher_features: as many, of the same shapes; detached here.

    Returns:
        Scalar >= 0.
    """
    pairs = zip(student_features, teacher_features, strict=True)
    return torch.stack([_squared_distance(student, teacher.detach()) for student, teacher in pairs]).mean()


def _expected_gain(output: "MattingOutput", crops: Crops, alpha: Tensor) -> Tensor:
    """Mean over all crops of `error_loss` in those whose coarse logits are as inference sees them, 0 in the others.

    Over all crops, so that every image weighs the same, however many of its batch have such crops: micro-batches then
    have the mean of one large batch.
    """
    own = (crops.pooling == 1).nonzero()[:, 0].to(alpha.device, non_blocking=True)
    if not len(own):
        return output.error_logits.sum() * 0
    places, side = (crops.index[own], crops.corner[own], crops.size[own]), alpha.shape[-1]
    coarse = sample_logits(output.coarse_logits, *places, side)
    # As routing reads it: the expected gain is enlarged, not its logit.
    error = sample_logits(_full_precision(output.error_logits).sigmoid(), *places, side).logit(eps=1e-6)
    return error_loss(error, coarse, output.refined_logits[own], alpha[own]) * (len(own) / len(alpha))


@in_float32
def _squared_distance(features: Tensor, target: Tensor) -> Tensor:
    return (features - target).square().mean()


@in_float32
def error_loss(error_logits: Tensor, coarse_logits: Tensor, refined_logits: Tensor, alpha: Tensor) -> Tensor:
    """Cross entropy of the map that routing reads; its target is what refinement gains at each pixel now.

    The gain is |coarse - alpha| - |refined - alpha|, or 0 where refinement does harm: an error that the refiner cannot
    mend, a leg taken for background, is not worth its work. Cross entropy with a target in [0, 1] is least where the
    prediction is the target's mean, so that sums over patches are what their pixels are expected to gain, without what
    others of them may lose.

    Args:
        error_logits: (B, 1, H, W), unbounded; sigmoid = the expected gain.
        coarse_logits: (B, 1, H, W), unbounded; only read, no gradient flows to it.
        refined_logits: (B, 1, H, W), likewise.
        alpha: (B, 1, H, W) in [0, 1].

    Returns:
        Scalar >= 0.
    """
    coarse_error, refined_error = (
        (logits.detach().sigmoid() - alpha).abs() for logits in (coarse_logits, refined_logits)
    )
    gain = (coarse_error - refined_error).clamp(min=0)
    return F.binary_cross_entropy_with_logits(error_logits, gain)


# ------------------------------------------------------------------------------------------------------------
# The sum

ALPHA_LOSSES = {  # of each stage's alpha, by the name of their term; each has a weight of MattingLoss
    "l1": l1_loss,
    "gradient": gradient_loss,
    "laplacian": laplacian_loss,
    "ssim": ssim_loss,
    "structure": structure_loss,
}
OF_LOGITS = {"structure"}  # these take the alpha before the sigmoid


@dataclass(frozen=True, kw_only=True)
class MattingLoss:
    """The training objective: named, weighted terms and their total.

    Each weight multiplies its loss as written; a weight of 0 removes the term, which is then not computed.
    `coarse` and `refined` multiply all terms of that output, so `coarse_l1` is coarse * l1 * l1_loss(...).

    Raises:
        ValueError: a weight is negative or not finite, or all terms are removed.
    """

    l1_weight: float
    gradient_weight: float
    laplacian_weight: float
    ssim_weight: float
    structure_weight: float
    coarse_weight: float
    refined_weight: float
    alignment_weight: float
    error_weight: float

    def __post_init__(self) -> None:
        for field in fields(self):
            weight = getattr(self, field.name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"loss weight {field.name} must be a finite number >= 0, got {weight}")
        of_alpha = any(getattr(self, f"{name}_weight") for name in ALPHA_LOSSES)
        if not (
            ((self.coarse_weight or self.refined_weight) and of_alpha) or self.alignment_weight or self.error_weight
        ):
            raise ValueError("all loss weights are 0: there is nothing to train")

    def __call__(
        self,
        output: "MattingOutput",
        alpha: Tensor,
        crops: Crops | None = None,
        crop_alpha: Tensor | None = None,
        student_features: tuple[Tensor, ...] = (),
        teacher_features: tuple[Tensor, ...] = (),
    ) -> dict[str, Tensor]:
        """Computes the terms.

        Args:
            output: what the network says of the whole pictures, and of crops of them at native resolution.
            alpha: (B, 1, h, w) in [0, 1], of the whole pictures.
            crops: what was refined; without any, the coarse logits are all there is to supervise.
            crop_alpha: (N, 1, P, P) in [0, 1], their truth.
            student_features: what the alignment compares, projected to the teacher's shapes. Without any, no
                alignment term.
            teacher_features: as many, of the same shapes.

        Returns:
            Weighted float32 scalars `coarse_l1` ... `refined_structure`, `alignment`, `error`, as far as they
            are computed, and `total`, their sum.
        """
        terms: dict[str, Tensor] = {}
        if self.coarse_weight:
            terms |= self._alpha_terms("coarse", self.coarse_weight, output.coarse_logits, alpha)
        if self.refined_weight and crops is not None:
            terms |= self._alpha_terms("refined", self.refined_weight, output.refined_logits, crop_alpha)
        if self.alignment_weight and (student_features or teacher_features):
            terms["alignment"] = self.alignment_weight * alignment_loss(student_features, teacher_features)
        if self.error_weight and crops is not None:
            terms["error"] = self.error_weight * _expected_gain(output, crops, crop_alpha)
        if not terms:
            raise ValueError("no loss term is left: the weights ask only for parts this model does not have")
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def _alpha_terms(self, stage: str, stage_weight: float, logits: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        pred_alpha = _full_precision(logits).sigmoid()  # float32: in bf16 an alpha near 1 has steps of 1/256
        terms: dict[str, Tensor] = {}
        for name, loss in ALPHA_LOSSES.items():
            if weight := getattr(self, f"{name}_weight"):
                terms[name] = weight * loss(logits if name in OF_LOGITS else pred_alpha, alpha)
        return {f"{stage}_{name}": stage_weight * term for name, term in terms.items()}
