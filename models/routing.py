"""Routing: which patches of the native-resolution image the refiner sees, and running it on them.

The idea of refining only where a coarse stage expects an error is BackgroundMattingV2's (Lin et al., CVPR 2021); here
the patches are read with the refiner's whole halo, so a routed patch equals dense refinement exactly.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.refiner import CELL_PX, Refiner


@dataclass(frozen=True)
class Routing:
    """How patches are chosen.

    Attributes:
        patch_px: Side of a patch at native resolution, even.
        error_threshold: A patch is refined if the error score, sigmoid(error_logits), reaches this anywhere in it.
        dense_above: Share of patches above which large tiles over everything cost less than patches with halos.
        tile_px: Side of those tiles.
        batch_px: Pixels, halos not counted, that are refined at a time; bounds the memory.
    """

    patch_px: int
    error_threshold: float
    dense_above: float
    tile_px: int
    batch_px: int


def select_patches(error_logits: Tensor, patch_px: int, threshold: float) -> Tensor:
    """Chooses patches by their highest error probability.

    Args:
        error_logits: (B, 1, H, W).
        patch_px: Side of a patch; the last row and column of patches may reach over the border.
        threshold: Error probability in [0, 1].

    Returns:
        Bool (B, ceil(H / patch_px), ceil(W / patch_px)).
    """
    height, width = error_logits.shape[-2:]
    padding = (0, -width % patch_px, 0, -height % patch_px)
    highest = F.max_pool2d(F.pad(error_logits, padding, value=-torch.inf), patch_px)
    return torch.sigmoid(highest)[:, 0] >= threshold


def refine_dense(refiner: Refiner, image: Tensor, coarse_logits: Tensor) -> Tensor:
    """The refiner over everything at once, for training.

    Args:
        refiner: The refiner.
        image: (B, 3, H, W), normalised.
        coarse_logits: (B, 1, H, W).

    Returns:
        refined_logits (B, 1, H, W).
    """
    height, width = image.shape[-2:]
    halo = refiner.halo_px
    padding = (halo, halo + width % CELL_PX, halo, halo + height % CELL_PX)
    residual = refiner(F.pad(image, padding, mode="replicate"), F.pad(coarse_logits, padding, mode="replicate"))
    return coarse_logits + residual[..., :height, :width]


def refine_patches(
    refiner: Refiner, image: Tensor, coarse_logits: Tensor, selected: Tensor, patch_px: int, batch_px: int
) -> Tensor:
    """The refiner on the selected patches only; elsewhere the coarse logits are returned as they are.

    Args:
        refiner: The refiner.
        image: (B, 3, H, W), normalised.
        coarse_logits: (B, 1, H, W).
        selected: Bool (B, ceil(H / patch_px), ceil(W / patch_px)).
        patch_px: Side of a patch.
        batch_px: Pixels refined at a time.

    Returns:
        refined_logits (B, 1, H, W); inside the patches equal to `refine_dense`.
    """
    height, width = image.shape[-2:]
    halo = refiner.halo_px
    # Beyond the border both this and refine_dense repeat the last pixel, so a patch that reaches over it agrees too.
    padding = (halo, halo + -width % patch_px, halo, halo + -height % patch_px)
    image = F.pad(image, padding, mode="replicate")
    context = F.pad(coarse_logits, padding, mode="replicate")
    refined = context[..., halo:-halo, halo:-halo].clone()  # (B, 1, H, W) padded to whole patches
    corners = [(b, y * patch_px, x * patch_px) for b, y, x in selected.nonzero().tolist()]
    group = max(1, batch_px // patch_px**2)
    side = patch_px + 2 * halo
    for start in range(0, len(corners), group):
        chosen = corners[start : start + group]
        residual = refiner(
            torch.stack([image[b, :, y : y + side, x : x + side] for b, y, x in chosen]),
            torch.stack([context[b, :, y : y + side, x : x + side] for b, y, x in chosen]),
        )
        for (b, y, x), patch in zip(chosen, residual, strict=True):
            refined[b, :, y : y + patch_px, x : x + patch_px] += patch
    return refined[..., :height, :width]


def refine_routed(
    refiner: Refiner, image: Tensor, coarse_logits: Tensor, error_logits: Tensor, routing: Routing
) -> Tensor:
    """Refines where an error is expected: refined_logits (B, 1, H, W) from tensors of that size.

    Feature maps exist for `batch_px` pixels at a time; only images and logits have the full size.
    """
    selected = select_patches(error_logits, routing.patch_px, routing.error_threshold)
    if selected.float().mean() <= routing.dense_above:
        return refine_patches(refiner, image, coarse_logits, selected, routing.patch_px, routing.batch_px)
    # The same answer by larger tiles: all that hold a selected patch are refined, its pixels alone take the residual.
    pixels = selected.repeat_interleave(routing.patch_px, 1).repeat_interleave(routing.patch_px, 2)[:, None]
    pixels = pixels[..., : image.shape[-2], : image.shape[-1]]
    tiles = select_patches(torch.where(pixels, 1.0, -1.0), routing.tile_px, 0.5)
    dense = refine_patches(refiner, image, coarse_logits, tiles, routing.tile_px, routing.batch_px)
    return torch.where(pixels, dense, coarse_logits)
