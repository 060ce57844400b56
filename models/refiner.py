"""The refiner (RRM): dilated inception blocks that correct the coarse logits where they are uncertain.

Inception: Szegedy et al., CVPR 2015; dilated convolutions: Yu & Koltun, ICLR 2016; pixel unshuffle: Shi et al., CVPR
2016; zero-initialised residual: as in Goyal et al., 2017, and ControlNet (Zhang et al., ICCV 2023).

No layer pads: the caller hands in the margin (`halo_px`), and each layer eats its share of it. So the result for a
pixel depends on its neighbourhood alone, patches equal the whole image by construction, at its borders too, and a
patch's halo gets cheaper from layer to layer. There is no normalisation either: nothing depends on where or with what
else a pixel is computed.

The blocks work on 2x2 pixels at a time, moved into the channels: nothing is lost, the output is full resolution again,
and for the same receptive field and width a quarter of the positions is paid for.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import crop_border

DILATIONS = (1, 2, 4)
CELL_PX = 2  # side of the square of pixels that is one position of the blocks


class InceptionBlock(nn.Module):
    """1x1 and dilated 3x3 branches, fused by 1x1 then 3x3, residual. Shrinks the map on each side."""

    margin_cells = max(DILATIONS) + 1

    def __init__(self, channels: int):
        super().__init__()
        branch = channels // (1 + len(DILATIONS))
        self.point = nn.Conv2d(channels, branch, 1)
        self.dilated = nn.ModuleList(nn.Conv2d(channels, branch, 3, dilation=d) for d in DILATIONS)
        self.fuse = nn.Conv2d(branch * (1 + len(DILATIONS)), channels, 1)
        self.mix = nn.Conv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H - 2 * margin_cells, W - 2 * margin_cells)."""
        widest = max(DILATIONS)
        branches = [self.point(crop_border(x, widest))]
        branches += [conv(crop_border(x, widest - d)) for conv, d in zip(self.dilated, DILATIONS, strict=True)]
        y = torch.cat(branches, dim=1)
        del branches  # at inference, one map less to keep
        y = self.mix(F.relu_(self.fuse(F.relu_(y))))
        return F.relu_(crop_border(x, self.margin_cells) + y)


@dataclass(frozen=True)
class RefinerShape:
    """What a refiner needs and costs, whatever runs it.

    Attributes:
        width: Channels of the blocks, a multiple of 4.
        blocks: Number of inception blocks.
        gradient_map: Whether it sees the image's gradients besides colours and coarse alpha.
    """

    width: int
    blocks: int
    gradient_map: bool = True

    @property
    def inputs(self) -> int:
        """Planes it sees: three colours, the coarse alpha, and maybe the gradients."""
        return 4 + self.gradient_map

    @property
    def halo_px(self) -> int:
        """Margin of a patch: stem, blocks and last layer in cells, then the gradient map in pixels."""
        return CELL_PX * (1 + InceptionBlock.margin_cells * self.blocks + 1) + 1

    def work(self, side_px: int) -> int:
        """Multiplications for one patch, its halo included."""
        width, branches = self.width, len(DILATIONS) + 1
        cells = side_px // CELL_PX
        total = cells**2 * 9 * width * CELL_PX**2  # last
        cells += 2
        for _ in range(self.blocks):
            total += cells**2 * 9 * width**2  # mix
            cells += 2
            joined = width // branches * branches
            total += cells**2 * width * (joined + width // branches * (1 + 9 * len(DILATIONS)))  # fuse; branches
            cells += 2 * max(DILATIONS)
        return total + cells**2 * 9 * self.inputs * CELL_PX**2 * width  # stem


class Refiner(nn.Module):
    """Image and coarse logits, both with a margin, to the residual on the logits.

    Args:
        width: Channels of the blocks, a multiple of 4.
        blocks: Number of inception blocks.
        gradient_map: Whether it sees the image's gradients besides colours and coarse alpha.
        zero_init: Whether it changes nothing until it is trained.
    """

    def __init__(self, width: int, blocks: int, *, gradient_map: bool = True, zero_init: bool = True):
        super().__init__()
        self.shape = RefinerShape(width, blocks, gradient_map)
        self.halo_px = self.shape.halo_px
        self.stem = nn.Conv2d(self.shape.inputs * CELL_PX**2, width, 3)
        self.blocks = nn.Sequential(*(InceptionBlock(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, CELL_PX**2, 3)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        for block in self.blocks:  # each residual starts small: there is no normalisation to hold the variance
            block.mix.weight.data.mul_(0.1)
        if zero_init:
            nn.init.zeros_(self.last.weight)

    def work(self, side_px: int) -> int:
        """Multiplications for one patch, its halo included."""
        return self.shape.work(side_px)

    def gradient_map(self, image: Tensor) -> Tensor:
        """Sobel magnitude of the channel mean, per pixel: (B, 3, H, W) to (B, 1, H - 2, W - 2)."""
        # By differences and in float32: a convolution under autocast would round faint edges, thin hair, away.
        grey = image.float().mean(dim=1, keepdim=True)
        rows = (grey[..., :-2, :] + 2 * grey[..., 1:-1, :] + grey[..., 2:, :]) / 8
        columns = (grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]) / 8
        dx, dy = rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]
        return (dx.square() + dy.square() + 1e-12).sqrt()

    def forward(self, image: Tensor, coarse_logits: Tensor) -> Tensor:
        """Predicts what to add to the coarse logits.

        Args:
            image: (B, 3, H + 2 * halo_px, W + 2 * halo_px), normalised; H and W are multiples of `CELL_PX`.
            coarse_logits: (B, 1, H + 2 * halo_px, W + 2 * halo_px).

        Returns:
            The residual, (B, 1, H, W), float32.
        """
        coarse_alpha = torch.sigmoid(coarse_logits)
        inputs = [crop_border(image, 1), crop_border(coarse_alpha, 1)]
        if self.shape.gradient_map:
            inputs.append(self.gradient_map(image))
        cells = F.pixel_unshuffle(torch.cat(inputs, dim=1), CELL_PX)  # (B, 20 or 16, H/2 + margin, W/2 + margin)
        cells = cells.to(self.stem.weight.dtype)  # colours and gradients stay exact until here
        cells = cells.contiguous(memory_format=torch.channels_last)  # what few-channel convolutions are fast with
        residual = self.last(self.blocks(F.relu(self.stem(cells))))  # (B, 4, H/2, W/2)
        return F.pixel_shuffle(residual, CELL_PX).float()
