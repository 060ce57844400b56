"""Small layers that more than one network uses."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pads (B, C, H, W) at the right and bottom to multiples, repeating the border: no pixel is thrown away."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def crop_border(x: Tensor, margin_px: int) -> Tensor:
    """Removes `margin_px` on each of the four sides of (B, C, H, W)."""
    return x[..., margin_px : x.shape[-2] - margin_px, margin_px : x.shape[-1] - margin_px]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with groups of at least 8 channels: the same at batch 1, under accumulation and at inference.

    Batch norm would be trained on statistics of one or two 1024-px images; group norm (Wu & He, 2018) has none.
    """
    groups = next(g for g in (8, 4, 2, 1) if (channels % g == 0 and channels // g >= 8) or g == 1)
    return nn.GroupNorm(groups, channels)


def conv_norm_act(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, group norm, GELU; keeps the size at stride 1 and halves it (rounding up) at 2."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        group_norm(out_channels),
        nn.GELU(),
    )


class UpFuse(nn.Module):
    """A U-Net step: the deeper map, enlarged to the size of the skip, is joined with it and mixed twice."""

    def __init__(self, deep_channels: int, skip_channels: int, out_channels: int):
        super().__init__()
        self.mix = nn.Sequential(
            conv_norm_act(deep_channels + skip_channels, out_channels),
            conv_norm_act(out_channels, out_channels),
        )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """(B, Cd, h, w) and (B, Cs, H, W) to (B, out_channels, H, W)."""
        deep = F.interpolate(deep, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.mix(torch.cat([deep, skip], dim=1))
