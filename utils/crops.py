"""From the loader's squares at native resolution to what the network takes."""

import torch

from models import Crops
from utils.transforms import Preprocess, SampleCrops


def to_crops(
    crops: SampleCrops, preprocess: Preprocess, device: torch.device
) -> tuple[Crops | None, torch.Tensor | None]:
    """A batch's squares on the device.

    Args:
        crops: Collated, each tensor (B, K, ...).
        preprocess: Normalises their colours.
        device: Where the network is.

    Returns:
        The squares, N = B * K of them, and their true alphas, (N, 1, P, P) in [0, 1]; None and None where K is 0.
    """
    if crops.pooling.numel() == 0:
        return None, None
    index = torch.arange(len(crops.pooling)).repeat_interleave(crops.pooling.shape[1])
    flat = SampleCrops(*(each.flatten(0, 1) for each in crops))
    rgb, alpha, corner, size, index = (
        each.to(device, non_blocking=True) for each in (flat.rgb, flat.alpha, flat.corner, flat.size, index)
    )
    return Crops(preprocess.normalise(rgb), index, corner, size, flat.pooling), alpha
