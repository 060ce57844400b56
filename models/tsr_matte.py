"""The assembled network: coarse stage over the whole image, refiner at native resolution."""

from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from models.refiner import Refiner
from models.routing import Routing, refine_dense, refine_routed
from models.student import Student


class MattingOutput(NamedTuple):
    """What the network returns, in training and at inference alike.

    Attributes:
        coarse_logits: (B, 1, H, W), the student's alpha before the sigmoid.
        error_logits: (B, 1, H, W), where the coarse alpha is expected to be wrong, before the sigmoid.
        refined_logits: (B, 1, H, W), coarse_logits plus the refiner's residual; the very same tensor where the network
            has no refiner.
        features: The student's decoder features at strides 8 and 16 of its input, finest first.
    """

    coarse_logits: Tensor
    error_logits: Tensor
    refined_logits: Tensor
    features: tuple[Tensor, ...]


class TSRMatte(nn.Module):
    """Student and refiner. The teacher takes part in training only and is not a part of this module.

    Args:
        backbone: A key of `models.BACKBONES`.
        window_size: Attention window of the encoder, in tokens.
        decoder_width: Channels of the decoder at stride 4.
        drop_path_rate: Stochastic depth of the encoder.
        refiner: Whether there is a refiner at all.
        refiner_width: Its channels, a multiple of 4.
        refiner_blocks: Its number of dilated inception blocks.
        pretrained: Download ImageNet weights for the encoder.
        backbone_weights: Or read them from this file.
    """

    def __init__(
        self,
        *,
        backbone: str,
        window_size: int,
        decoder_width: int,
        drop_path_rate: float,
        refiner: bool,
        refiner_width: int,
        refiner_blocks: int,
        pretrained: bool = False,
        backbone_weights: Path | None = None,
    ):
        super().__init__()
        self.student = Student(
            backbone,
            window_size=window_size,
            decoder_width=decoder_width,
            drop_path_rate=drop_path_rate,
            pretrained=pretrained,
            backbone_weights=backbone_weights,
        )
        self.refiner = Refiner(refiner_width, refiner_blocks) if refiner else None

    def forward(self, image: Tensor, native: Tensor | None = None, *, routing: Routing | None = None) -> MattingOutput:
        """Whole image to alpha logits at the resolution of `native`.

        Args:
            image: (B, 3, h, w), normalised: the whole picture at the size of the coarse stage.
            native: (B, 3, H, W), normalised: the same picture at its own resolution; None where they are the same.
            routing: Refine only the patches it chooses; None refines everything.

        Returns:
            `MattingOutput` with logits of size (H, W).
        """
        native = image if native is None else native
        coarse_logits, error_logits, features = self.student(image)
        if native.shape[-2:] != image.shape[-2:]:
            coarse_logits, error_logits = (
                F.interpolate(logits, size=native.shape[-2:], mode="bilinear", align_corners=False)
                for logits in (coarse_logits, error_logits)
            )
        if self.refiner is None:
            refined_logits = coarse_logits
        elif routing is None:
            refined_logits = refine_dense(self.refiner, native, coarse_logits)
        else:
            refined_logits = refine_routed(self.refiner, native, coarse_logits, error_logits, routing)
        return MattingOutput(coarse_logits, error_logits, refined_logits, features)
