"""How much of the error that dense refinement removes is removed by a choice of patches, and at what share of its work.

Inside a patch routed refinement gives what dense refinement gives, elsewhere the coarse alpha stays. So one dense
refinement of a picture tells what every choice of patches does to it, without running the refiner again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models import MattingOutput, Routing
from models.patches import Patches, enlarge
from models.routing import choose_patches
from utils.errors import UserError
from utils.files import to_json
from utils.inference import Predictor, load_model, predict, to_alpha
from utils.metrics import sad

THRESHOLDS = tuple(np.geomspace(1e-4, 0.9, 36).tolist())  # guesses are larger numbers than gains
LEAST, MOST = 1e-9, 1 - 1e-6  # expected errors as logits are finite
WorkOfPatch = Callable[[int], float]  # side of a patch, px, to the work of refining it, its halo included


class Effect(NamedTuple):
    """What some choices of patches do to a picture.

    Attributes:
        removed_px: (T,), the sum over the pixels of the absolute alpha error that they remove, less what they add.
        gross_px: (T,), the same without the pixels that refinement makes worse.
        work: (T,), what that takes, halos included, in the unit of `Refiner.work`.
    """

    removed_px: np.ndarray
    gross_px: np.ndarray
    work: np.ndarray


class Curve(NamedTuple):
    """The effects on a set of pictures as shares of what dense refinement does, each (T,).

    Attributes:
        removed: Error removed in all pictures, of what dense refinement removes in all.
        gross: The same without the pixels that refinement makes worse.
        work: Work on all pictures, of that of dense refinement of all.
        mean_removed: The mean over the pictures of the share in each; without those that refinement does not improve.
        mean_work: The mean over the same pictures.
    """

    removed: np.ndarray
    gross: np.ndarray
    work: np.ndarray
    mean_removed: np.ndarray
    mean_work: np.ndarray


class Refined(NamedTuple):
    """A picture refined densely; alphas are float32 (H, W) in [0, 1].

    Attributes:
        output: Of the network.
        coarse: Alpha of the coarse stage, enlarged.
        dense: Refined everywhere.
        routed: Refined where the checkpoint's own routing says.
        own: The patches of that.
    """

    output: MattingOutput
    coarse: np.ndarray
    dense: np.ndarray
    routed: np.ndarray
    own: list[Patches]


def load_refiner(path: Path, device: str) -> Predictor:
    """`load_model` of a network with a refiner.

    Raises:
        UserError: It has none, or cannot be loaded.
    """
    predictor = load_model(path, device)
    if predictor.network.refiner is None:
        raise UserError(f"{path}: a network without refiner; give one that was trained with --refiner")
    return predictor


def refine(predictor: Predictor, rgb: np.ndarray) -> Refined:
    """Refines a picture, uint8 (H, W, 3), everywhere, and puts back what routing would have left alone."""
    output = predict(replace(predictor, routing=predictor.routing.everything()), rgb)
    size = rgb.shape[:2]
    coarse, dense = to_alpha(enlarge(output.coarse_logits.float(), size)), to_alpha(output.refined_logits)
    own = choose_patches(output.error_logits, size, predictor.routing, predictor.network.refiner.work)
    return Refined(output, coarse, dense, np.where(covered(own, size), dense, coarse), own)


def refinement_gain(coarse_alpha: np.ndarray, refined_alpha: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """How much closer to the truth refinement brings each pixel: three float (H, W) to float64 (H, W) in [-1, 1]."""
    alpha = alpha.astype(np.float64)
    return np.abs(coarse_alpha - alpha) - np.abs(refined_alpha - alpha)


# ---------------------------------------------------------------------------------------------------- patches


def covered(patches: Sequence[Patches], size: tuple[int, int]) -> np.ndarray:
    """Which pixels of the one picture of this size lie in a patch: bool (H, W)."""
    mask = np.zeros(size, bool)
    for side, _, corner in patches:
        for top, left in corner.tolist():
            mask[top : top + side, left : left + side] = True
    return mask


def total_work(patches: Sequence[Patches], work: WorkOfPatch) -> float:
    """The work of refining these patches, halos included."""
    return float(sum(work(patch.side_px) * len(patch.corner) for patch in patches))


def work_without_halo(size: tuple[int, int], work: WorkOfPatch) -> float:
    """The work of a picture if no patch had a halo: what one pixel costs in a very large patch, times its pixels."""
    side = 1 << 20
    return size[0] * size[1] * work(side) / side**2


def effect(choices: Sequence[Sequence[Patches]], gain: np.ndarray, work: WorkOfPatch) -> Effect:
    """What each of some choices of patches does to one picture.

    Args:
        choices: Patches of each choice; none overlap within a choice.
        gain: `refinement_gain`, (H, W).
        work: Of a patch.
    """
    net, gross = (cv2.integral(each, sdepth=cv2.CV_64F) for each in (gain, gain.clip(min=0)))  # (H + 1, W + 1)
    height, width = gain.shape

    def removed(sums: np.ndarray, patches: Sequence[Patches]) -> float:
        total = 0.0
        for side, _, corner in patches:
            top, left = corner.numpy().T
            bottom, right = np.minimum(top + side, height), np.minimum(left + side, width)
            total += (sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]).sum()
        return float(total)

    return Effect(
        np.array([removed(net, patches) for patches in choices]),
        np.array([removed(gross, patches) for patches in choices]),
        np.array([total_work(patches, work) for patches in choices]),
    )


def sweep(
    error_logits: Tensor, gain: np.ndarray, routing: Routing, thresholds: Sequence[float], work: WorkOfPatch
) -> Effect:
    """What routing by an error map does to one picture at each threshold, without a budget.

    Args:
        error_logits: (1, 1, h, w), what `choose_patches` reads.
        gain: `refinement_gain`, (H, W).
        routing: Sides of the patches.
        thresholds: T error thresholds.
        work: Of a patch.
    """
    free = routing.everything()
    choices = [
        choose_patches(error_logits, gain.shape, replace(free, error_threshold=threshold), work)
        for threshold in thresholds
    ]
    return effect(choices, gain, work)


# ---------------------------------------------------------------------------------------------------- error maps


def oracle_logits(gain: np.ndarray, patch_px: int) -> Tensor:
    """The error map of a router that knows the truth: the mean gain of each smallest square, where it is positive.

    Args:
        gain: `refinement_gain`, (H, W).
        patch_px: Side of the smallest patches.

    Returns:
        (1, 1, H, W), logits: at full size, so that `choose_patches` finds exactly these means in the squares.
    """
    over = [(0, -length % patch_px) for length in gain.shape]
    cells = [(length + pad) // patch_px for length, (_, pad) in zip(gain.shape, over, strict=True)]

    def sums(values: np.ndarray) -> np.ndarray:
        return np.pad(values, over).reshape(cells[0], patch_px, cells[1], patch_px).sum(axis=(1, 3))

    means = torch.from_numpy(sums(gain) / sums(np.ones_like(gain)))
    whole = _logits(means).repeat_interleave(patch_px, 0).repeat_interleave(patch_px, 1)
    return whole[: gain.shape[0], : gain.shape[1]][None, None]


def softness_logits(coarse_logits: Tensor) -> Tensor:
    """The simplest guess, wrong is what is undecided: 1 - |2a - 1|, as logits of the same shape."""
    return _logits(1 - (2 * torch.sigmoid(coarse_logits) - 1).abs())


def gradient_logits(coarse_logits: Tensor) -> Tensor:
    """Another guess, wrong is where the coarse alpha has edges: its gradient by central differences, as logits.

    Args:
        coarse_logits: (B, 1, h, w).

    Returns:
        (B, 1, h, w), sigmoid of it in [0, 0.71].
    """
    alpha = F.pad(torch.sigmoid(coarse_logits), (1, 1, 1, 1), mode="replicate")
    dx = (alpha[..., 1:-1, 2:] - alpha[..., 1:-1, :-2]) / 2
    dy = (alpha[..., 2:, 1:-1] - alpha[..., :-2, 1:-1]) / 2
    return _logits(torch.hypot(dx, dy))


def _logits(error: Tensor) -> Tensor:
    return torch.logit(error.double().clamp(LEAST, MOST)).float()


# ---------------------------------------------------------------------------------------------------- sets of pictures


def pool(effects: Sequence[Effect], dense: Sequence[Effect]) -> Curve:
    """The effects on a set of pictures as one curve.

    Args:
        effects: Of each picture, of the same T choices.
        dense: Of each picture, of dense refinement alone.

    Returns:
        `Curve`; shares of the removed error are nan where dense refinement removes none.
    """
    removed, gross, work = (np.array(values) for values in zip(*effects, strict=True))  # (P, T)
    all_removed, all_gross, all_work = (np.array(values) for values in zip(*dense, strict=True))  # (P, 1)
    better = all_removed[:, 0] > 0
    none = np.full(removed.shape[1], np.nan)
    return Curve(
        removed.sum(0) / all_removed.sum() if all_removed.sum() > 0 else none,
        gross.sum(0) / all_gross.sum() if all_gross.sum() > 0 else none,
        work.sum(0) / all_work.sum(),
        (removed[better] / all_removed[better]).mean(0) if better.any() else none,
        (work[better] / all_work[better]).mean(0) if better.any() else none,
    )


def work_to_remove(share: float, removed: np.ndarray, work: np.ndarray) -> float:
    """The least share of the work at which a curve reaches a share of the removed error.

    Between neighbouring points, and those of refining nothing, (0, 0), and everything, (1, 1), it is straight.

    Args:
        share: In (0, 1].
        removed: (T,), of a `Curve`.
        work: (T,).

    Returns:
        In [0, 1]; nan for a curve of nan.
    """
    if np.isnan(removed).any():
        return math.nan
    order = np.argsort(work, kind="stable")
    x, y = (np.concatenate([[0.0], values[order], [1.0]]) for values in (work, removed))
    after = int(np.argmax(y >= share))  # the first; there is one, the last
    before = after - 1
    return float(x[before] + (x[after] - x[before]) * (share - y[before]) / (y[after] - y[before]))


class Recall:
    """Collects what routing does to pictures of one size; one row a picture.

    Args:
        predictor: Whose router it is.
    """

    def __init__(self, predictor: Predictor):
        self._routing, self._work = predictor.routing, predictor.network.refiner.work
        self._rows: list[dict[str, Any]] = []  # name, SAD of each stage
        self._bare_work: list[float] = []  # of dense refinement without any halo
        self._dense: list[Effect] = []
        self._own: list[Effect] = []
        self._sweeps: dict[str, list[Effect]] = {"router": [], "oracle": [], "softness": [], "gradient": []}

    def add(self, name: str, refined: Refined, alpha: np.ndarray) -> None:
        """Adds a picture with its true alpha, float (H, W) in [0, 1]."""
        coarse_logits, error_logits = refined.output.coarse_logits, refined.output.error_logits
        gain = refinement_gain(refined.coarse, refined.dense, alpha)
        maps = {
            "router": error_logits,
            "oracle": oracle_logits(gain, self._routing.patch_px),
            "softness": softness_logits(coarse_logits),
            "gradient": gradient_logits(coarse_logits),
        }
        for key, logits in maps.items():
            self._sweeps[key].append(sweep(logits, gain, self._routing, THRESHOLDS, self._work))
        everything = choose_patches(error_logits, alpha.shape, self._routing.everything(), self._work)
        self._dense.append(effect([everything], gain, self._work))
        self._bare_work.append(work_without_halo(alpha.shape, self._work))
        self._own.append(effect([refined.own], gain, self._work))
        self._rows.append({"name": name, **{s: sad(getattr(refined, s), alpha) for s in ("coarse", "routed", "dense")}})

    def curves(self) -> dict[str, Curve]:
        """The curve over `THRESHOLDS` of each error map."""
        return {key: pool(effects, self._dense) for key, effects in self._sweeps.items()}

    def summary(self, share: float) -> dict[str, Any]:
        """The numbers, as JSON has them; None for what is undefined.

        Args:
            share: Of the error that dense refinement removes; the work is told at which it is removed.

        Returns:
            SAD: mean of coarse, routed and dense. own: shares at the checkpoint's own routing, names as of `Curve`.
            images_improved: by dense refinement. work, gross_work, mean_work, bare_work: at `share`, of each error map,
            as a share of the dense work: pooled; without the pixels that refinement makes worse; as mean over the
            pictures; and, pooled again, as a share of the dense work if there were no halos. per_image: rows.
        """
        curves = self.curves()
        pooled = {key: work_to_remove(share, curve.removed, curve.work) for key, curve in curves.items()}
        halos = sum(dense.work[0] for dense in self._dense) / sum(self._bare_work)
        alone = [pool([own], [dense]) for own, dense in zip(self._own, self._dense, strict=True)]
        per_image = [
            {**row, "own_removed": own.mean_removed[0], "own_gross": own.gross[0], "own_work": own.work[0]}
            for row, own in zip(self._rows, alone, strict=True)
        ]
        return to_json(
            {
                "SAD": mean_row(self._rows),
                "images_improved": sum(bool(dense.removed_px[0] > 0) for dense in self._dense),
                "own": {key: values[0] for key, values in pool(self._own, self._dense)._asdict().items()},
                "work": pooled,
                "gross_work": {key: work_to_remove(share, curve.gross, curve.work) for key, curve in curves.items()},
                "mean_work": {
                    key: work_to_remove(share, curve.mean_removed, curve.mean_work) for key, curve in curves.items()
                },
                "bare_work": {key: halos * value for key, value in pooled.items()},
                "per_image": per_image,
            }
        )


def mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean of each column but "name"."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "name"}
