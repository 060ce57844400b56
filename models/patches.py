"""Patches of native-resolution pictures: reading them with their halo, and the coarse logits under them.

Only the photograph's bytes and one plane of logits have the native size. Everything else (normalised colours, coarse
logits, features) is made for a few patches at a time.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Patches(NamedTuple):
    """Squares of one side, in a batch of pictures of one size.

    Attributes:
        side_px: Of each square.
        index: (N,), which picture of the batch.
        corner: (N, 2), top and left, px; a square may reach beyond the bottom and the right border.
    """

    side_px: int
    index: Tensor
    corner: Tensor


class Crops(NamedTuple):
    """What the refiner is trained on: native-resolution squares, each of a picture of its own size.

    Attributes:
        image: (N, 3, P + 2 * halo_px, P + 2 * halo_px), normalised.
        index: (N,), which image of the coarse stage's batch each is a part of.
        corner: (N, 2), top and left of the P x P square in its native picture, px.
        size: (N, 2), height and width of that picture, px.
        pooling: (N,) on the CPU: the coarse logits are averaged over squares of this many pixels first, which shows the
            refiner what they would be like in a picture that many times larger.
    """

    image: Tensor
    index: Tensor
    corner: Tensor
    size: Tensor
    pooling: Tensor


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, 1, h, w) of a whole picture at its native size: (B, 1, H, W)."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def read_patches(picture: Tensor, patches: Patches, halo_px: int) -> Tensor:
    """Patches with their halo; beyond the picture its border pixels are repeated.

    Args:
        picture: (B, C, H, W).
        patches: Which.
        halo_px: Margin on each side.

    Returns:
        (N, C, side + 2 * halo, side + 2 * halo).
    """
    rows, columns = _places(patches.corner, patches.side_px, halo_px)
    rows, columns = rows.clamp(0, picture.shape[-2] - 1), columns.clamp(0, picture.shape[-1] - 1)
    read = picture[patches.index[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (N, s, s, C)
    return read.permute(0, 3, 1, 2)


def sample_logits(
    logits: Tensor, index: Tensor, corner: Tensor, size: Tensor, side_px: int, halo_px: int = 0
) -> Tensor:
    """The logits of a whole picture, enlarged to its native size, in some squares of it; nothing else is enlarged.

    A pixel's value depends on its place alone, not on the square it is computed for; it is what `enlarge` gives there.

    Args:
        logits: (B, 1, h, w).
        index: (N,), which picture.
        corner: (N, 2), top and left in the native picture, px.
        size: (N, 2) or (2,), height and width of the native picture, px.
        side_px: Of the squares.
        halo_px: Margin on each side; beyond the picture its border is repeated.

    Returns:
        (N, 1, side + 2 * halo, side + 2 * halo), float32.
    """
    size = size.to(logits.device).expand(len(corner), 2)
    places = [  # of pixel centres, from -1 to 1 over the picture
        (2 * torch.minimum(at.clamp(min=0), size[:, axis, None] - 1) + 1 - size[:, axis, None]) / size[:, axis, None]
        for axis, at in enumerate(_places(corner, side_px, halo_px))
    ]
    grid_y, grid_x = (place.float() for place in places)
    sides = grid_y.shape[1]
    grid = torch.stack([grid_x[:, None, :].expand(-1, sides, -1), grid_y[:, :, None].expand(-1, -1, sides)], dim=-1)
    sources = logits.float()
    if len(logits) == 1:  # one picture: its squares in one column, no copy of the logits for each
        grid = grid.flatten(0, 1)[None]
    else:
        sources = sources[index]
    with torch.autocast(logits.device.type, enabled=False):
        sampled = F.grid_sample(sources, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.view(len(corner), 1, sides, sides)


def sample_crops(logits: Tensor, crops: Crops, side_px: int, halo_px: int = 0) -> Tensor:
    """The logits (B, 1, h, w) of whole pictures under crops of them, pooled as `crops.pooling` says.

    Args:
        logits: Of the coarse stage; its sides are multiples of every pooling.
        crops: Where.
        side_px: P, of the crops without their halo.
        halo_px: Margin on each side.

    Returns:
        (N, 1, P + 2 * halo, P + 2 * halo), float32.
    """
    parts, order = [], []
    for pooling in sorted(set(crops.pooling.tolist())):  # a list on the CPU: the host waits for no device
        chosen = (crops.pooling == pooling).nonzero()[:, 0]
        order.append(chosen)
        some = chosen.to(logits.device, non_blocking=True)
        source = F.avg_pool2d(logits, pooling) if pooling > 1 else logits
        parts.append(sample_logits(source, crops.index[some], crops.corner[some], crops.size[some], side_px, halo_px))
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts)[torch.cat(order).argsort().to(logits.device, non_blocking=True)]


def _places(corner: Tensor, side_px: int, halo_px: int) -> tuple[Tensor, Tensor]:
    """Rows (N, s) and columns (N, s) of squares with their halo."""
    steps = torch.arange(-halo_px, side_px + halo_px, device=corner.device)
    return corner[:, :1] + steps, corner[:, 1:] + steps
