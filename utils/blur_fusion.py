"""Colours of foreground and background by blurs on a pyramid, in torch, on any device.

It follows Forte, "Approximate Fast Foreground Colour Estimation" (ICIP 2021): the picture's colours are blurred,
weighted by how much the foreground (the background) shows, and what the two blurred colours leave unexplained is
added to them. Four things differ.
- The blurs are 3x3 on each level of a pyramid: no radius has to fit the picture; colours travel as far as they must.
- A level is every second pixel of the finer one: a mean of pixels is not composed of their mean colours and alpha.
- A colour weighs alpha^2, not alpha.
- What is left unexplained goes to both colours, in proportion to their local variances: before a blurred background
  it is the hair that has the texture.

Only tiles where alpha is neither 0 nor 1 throughout are solved at more than an eighth of the size. A tile is read with
the halo that its blurs need, and each pixel's colours come from the same operations wherever tiles end: where alpha is
soft they are the same numbers whatever the tiles' size is.

Shapes: a field is (..., h, w, n), of n tiles at a time. The tiles come last, so that a slice of a field is contiguous
whatever the tiles' size. A state is (2, 4, h, w, n): of foreground and background, their colour in [0, 255] and
their variance in squared levels, the mean of the three channels'.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_TILE_LEVELS = 3  # solved by tiles: full size, a half, a quarter; the coarser ones are solved whole
_PASSES = (0, 1, 2, 4)  # blurs at full size, a half, ..., the last for all coarser; colours at full size are explained
_FAINT = 1e-3  # weight of a colour that does not show: what the coarser level says stays, until a neighbour knows more
_VARIANCE = 100.0  # least variance, levels^2: without it errors of alpha go where colours seem flat
_TILE_PX = 64
_TILES_AT_A_TIME = {"cpu": 32}  # fewer: threads wait for each other; more: the arrays leave the caches
_TILES_ELSEWHERE = 512  # 0.3 GB, and few waits for the device


class _Picture(NamedTuple):
    """A picture on the device: rgb uint8 or int16 (H * W, 3), the latter the bits of uint16, and alpha (H * W,)."""

    rgb: Tensor
    alpha: Tensor
    size: tuple[int, int]


def blur_fusion(
    rgb: np.ndarray,
    alpha: np.ndarray,
    device: torch.device,
    *,
    background: bool = False,
    tile_px: int = _TILE_PX,
    tiles_at_a_time: int | None = None,
) -> list[np.ndarray]:
    """The colours of the foreground, and of the background if asked for: arrays of rgb's type and shape.

    Where alpha, rounded to 8 bits, shows one of the two alone, that one is the picture exactly. Where it does not show
    one at all, that one is a smooth continuation, coarse where no soft pixel is near.

    Args:
        rgb: uint8 or uint16 (H, W, 3), any size from 1x1.
        alpha: float (H, W) in [0, 1].
        device: Where to compute.
        background: Solve it too.
        tile_px: A multiple of 8; decides the time, and how far from soft pixels continuations are fine.
        tiles_at_a_time: Decides time and memory, not the colours; None fits the device.
    """
    size = height, width = alpha.shape
    rgb = np.require(rgb, requirements="CW")  # what torch takes
    alpha = np.require(alpha, np.float32, "CW")
    shown = cv2.convertScaleAbs(alpha, alpha=255).reshape(size)
    origins = _mixed_tiles(shown, tile_px)
    top = np.iinfo(rgb.dtype).max
    bits = torch.from_numpy(rgb.view(np.int16) if top > 255 else rgb).to(device)  # few operations know uint16
    picture = _Picture(bits.reshape(-1, 3), torch.from_numpy(alpha).to(device).reshape(-1), size)
    count = 1 + background

    def as_picture(colour: Tensor) -> np.ndarray:
        """(3, h, w, n) in [0, 255] as n pictures of rgb's type, (n, h, w, 3)."""
        levels = (colour * (top / 255)).round_().to(torch.int32 if top > 255 else torch.uint8)
        return levels.permute(3, 1, 2, 0).contiguous().cpu().numpy().astype(rgb.dtype, copy=False)

    with torch.inference_mode():
        coarse = _solved_whole(picture)
        colours = [
            cv2.resize(as_picture(colour[:3])[0], (width, height), interpolation=cv2.INTER_LINEAR)
            for colour in coarse[:count]
        ]
        step = tiles_at_a_time or _TILES_AT_A_TIME.get(device.type, _TILES_ELSEWHERE)
        for start in range(0, len(origins), step):
            chunk = origins[start : start + step]
            solved = _solved_tiles(picture, coarse, torch.from_numpy(chunk).to(device), tile_px, count)
            for colour, tiles in zip(colours, map(as_picture, solved), strict=True):
                for (y, x), tile in zip(chunk.tolist(), tiles, strict=True):
                    there = colour[y : y + tile_px, x : x + tile_px]
                    there[:] = tile[: there.shape[0], : there.shape[1]]
    for colour, alone in zip(colours, (255, 0), strict=False):
        cv2.copyTo(rgb, (shown == alone).view(np.uint8), colour)
    return colours


def _mixed_tiles(shown: np.ndarray, tile_px: int) -> np.ndarray:
    """Top left corners (n, 2) of the tiles of an 8-bit alpha that are neither 0 nor 255 throughout."""
    height, width = shown.shape
    starts = np.arange(0, width, tile_px)
    rows = [shown[top : top + tile_px] for top in range(0, height, tile_px)]  # several times faster than reduceat
    least = np.minimum.reduceat(np.stack([row.min(axis=0) for row in rows]), starts, axis=1)
    most = np.maximum.reduceat(np.stack([row.max(axis=0) for row in rows]), starts, axis=1)
    return np.argwhere((least < 255) & (most > 0)) * tile_px


# ---------------------------------------------------------------------------------------------------- the pyramid


def _passes(level: int) -> int:
    return _PASSES[min(level, len(_PASSES) - 1)]


def _lengths(pixels: int) -> list[int]:
    """How many positions each level has along a side, the finest first: position i of level l is pixel i * 2^l.

    The last position is at the last pixel or beyond, where the picture is continued: each lies on a coarser one or
    between two.
    """
    coarse = -(-(pixels - 1) // 2**_TILE_LEVELS)
    lengths = [coarse * 2 ** (_TILE_LEVELS - level) + 1 for level in range(_TILE_LEVELS + 1)]
    while lengths[-1] > 3:
        lengths.append(lengths[-1] // 2 + 1)
    return lengths


def _level_size(picture: _Picture, level: int) -> tuple[int, int]:
    height, width = (lengths[min(level, len(lengths) - 1)] for lengths in map(_lengths, picture.size))
    return height, width


def _read(
    picture: _Picture, origins: Tensor, spans: tuple[tuple[int, int], tuple[int, int]], level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Parts of one level.

    Args:
        picture: Of size (H, W).
        origins: int64 (n, 2), pixels at full size.
        spans: First position, and the one after the last, of rows and of columns; counted from the origins.
        level: 0 is full size.

    Returns:
        Image (3, h, w, n) in [0, 255], alpha (h, w, n), and (h, w, n) that is 1 on the level and 0 beyond its sides.
    """
    pixels, inside = [], []
    for axis, (length, span) in enumerate(zip(_level_size(picture, level), spans, strict=True)):
        positions = (origins[:, axis] >> level) + torch.arange(*span, device=origins.device)[:, None]
        inside.append((positions >= 0) & (positions < length))
        pixels.append((positions << level).clamp_(0, picture.size[axis] - 1))
    index = (pixels[0] * picture.size[1])[:, None] + pixels[1]
    flat = index.reshape(-1)
    image = picture.rgb.index_select(0, flat).t().to(torch.float32, memory_format=torch.contiguous_format)
    if picture.rgb.dtype == torch.int16:
        image = image.remainder_(65536).mul_(255 / 65535)
    alpha = picture.alpha.index_select(0, flat)
    return image.reshape(3, *index.shape), alpha.reshape(index.shape), (inside[0][:, None] & inside[1]).float()


def _solved_whole(picture: _Picture) -> Tensor:
    """The state (2, 4, h, w, 1) at the coarsest level that is solved whole, starting from mean colours."""
    origin = torch.zeros(1, 2, dtype=torch.int64, device=picture.alpha.device)
    coarsest = max(len(_lengths(side)) for side in picture.size) - 1
    state = None
    for level in range(coarsest, _TILE_LEVELS - 1, -1):
        height, width = _level_size(picture, level)
        halo = _passes(level)
        image, alpha, inside = _read(picture, origin, ((-halo, height + halo), (-halo, width + halo)), level)
        if state is None:
            weight = torch.stack([alpha, 1 - alpha])[:, None].square_().add_(1e-6).mul_(inside)
            mean = (image * weight).sum((2, 3, 4), keepdim=True) / weight.sum((2, 3, 4), keepdim=True)
            spread = torch.full_like(mean[:, :1], 10 * _VARIANCE)
            state = torch.cat([mean, spread], dim=1).expand(2, 4, *alpha.shape)
        else:  # beyond the sides any state will do: it weighs nothing
            state = F.pad(_enlarged(state)[:, :, :height, :width], (0, 0, halo, halo, halo, halo), value=1.0)
        state = _smoothed(image, alpha, inside, state, halo)
    return state


def _solved_tiles(picture: _Picture, coarse: Tensor, origins: Tensor, tile_px: int, count: int) -> Tensor:
    """Colours (count, 3, tile_px, tile_px, n) in [0, 255] of tiles at full size, given the state that is solved whole.

    Args:
        picture: What `origins` (n, 2) are pixels of.
        coarse: (2, 4, h, w, 1).
        origins: int64 (n, 2), multiples of 8.
        tile_px: A multiple of 8.
        count: 1 for the foreground alone, 2.
    """
    needed, spans = (0, tile_px), []  # from fine to coarse, what a level is needed for says what it has to read
    for level in range(_TILE_LEVELS):
        spans.append((needed[0] - _passes(level), needed[1] + _passes(level)))
        needed = spans[-1][0] // 2, spans[-1][1] // 2 + 1
    rows, columns = (
        ((origins[:, axis] >> _TILE_LEVELS) + torch.arange(*needed, device=origins.device)[:, None])
        .clamp_(0, coarse.shape[2 + axis] - 1)
        for axis in (0, 1)
    )  # fmt: skip
    state = coarse[..., 0][:, :, rows[:, None], columns]
    for level in reversed(range(_TILE_LEVELS)):
        start, stop = spans[level]
        part = slice(start - 2 * needed[0], stop - 2 * needed[0])
        state = _enlarged(state)[:, :, part, part]
        image, alpha, inside = _read(picture, origins, (spans[level], spans[level]), level)
        needed = start + _passes(level), stop - _passes(level)
        if level:
            state = _smoothed(image, alpha, inside, state, _passes(level))
    return _explained(image, torch.stack([alpha, 1 - alpha])[:, None], state, count)


# ------------------------------------------------------------------------------------------------------ one level


def _enlarged(field: Tensor) -> Tensor:
    """(a, b, h, w, n) at the positions of the next finer level, (a, b, 2h - 1, 2w - 1, n): between two, their mean."""
    for axis in (2, 3):
        length = field.shape[axis]
        between = field.narrow(axis, 0, length - 1) + field.narrow(axis, 1, length - 1)
        shape = list(field.shape)
        shape[axis] = 2 * length - 1
        finer = field.new_empty(shape)
        every = (slice(None),) * axis
        finer[(*every, slice(0, None, 2))] = field
        finer[(*every, slice(1, None, 2))] = between.mul_(0.5)
        field = finer
    return field


def _explained(image: Tensor, shares: Tensor, state: Tensor, count: int = 2) -> Tensor:
    """The first `count` colours of a state, (count, 3, h, w, n), changed so that they recompose the image.

    The change is the smallest one in units of their deviations; colours that it takes out of [0, 255] are clipped.

    Args:
        image: (3, h, w, n) in [0, 255].
        shares: (2, 1, h, w, n), alpha and 1 - alpha.
        state: (2, 4, h, w, n).
        count: 1 for the foreground alone.
    """
    colours, variance = state[:, :3], state[:, 3:]
    left = (colours[0] - colours[1]).mul_(shares[0]).add_(colours[1])
    left = torch.sub(image, left, out=left)
    gain = shares * variance
    total = gain[0] * shares[0] + gain[1] * shares[1]
    return (gain[:count] / total * left).add_(colours[:count]).clamp_(0, 255)


def _smoothed(image: Tensor, alpha: Tensor, inside: Tensor, state: Tensor, passes: int) -> Tensor:
    """Explains a level and blurs its colours, in turns; each turn takes a pixel off every side of the fields.

    Args:
        image: (3, h, w, n) in [0, 255].
        alpha: (h, w, n).
        inside: (h, w, n), 1 where there is something to blur, 0 beyond the picture.
        state: (2, 4, h, w, n).
        passes: Turns, at least 1.

    Returns:
        State (2, 4, h - 2 * passes, w - 2 * passes, n).
    """
    shares = torch.stack([alpha, 1 - alpha])[:, None]
    weight = (shares * shares).add_(_FAINT).mul_(inside)
    norm = _summed(weight).add_(1e-12).reciprocal_()  # beyond the picture nothing weighs anything
    for _ in range(passes):
        colours = _explained(image, shares, state)
        state = torch.cat([colours, _squares(colours)], dim=1).mul_(weight)
        state = _summed(state).mul_(norm)
        variance = state[:, 3:]
        variance.sub_(_squares(state[:, :3])).clamp_(min=0).mul_(1 / 3).add_(_VARIANCE)
        image, shares, weight, norm = (field[..., 1:-1, 1:-1, :] for field in (image, shares, weight, norm))
    return state


def _squares(colours: Tensor) -> Tensor:
    """(2, 1, h, w, n): the sum of the squares of three channels."""
    return (colours * colours).sum(dim=1, keepdim=True)


def _summed(field: Tensor) -> Tensor:
    """Sums over 3x3 positions of (..., h, w, n): (..., h - 2, w - 2, n)."""
    field = field[..., :-2, :, :] + field[..., 1:-1, :, :] + field[..., 2:, :, :]
    return field[..., :-2, :] + field[..., 1:-1, :] + field[..., 2:, :]
