"""The mask teacher: a network that sees the true alpha and shows the student what features of it look like.

It is trained first, as an auto-encoder of mattes with a decoder that is thrown away, then frozen. Feature alignment
follows FitNets (Romero et al., ICLR 2015).
"""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import UpFuse, conv_norm_act, pad_to_multiple
from models.student import STRIDE, build_backbone


class CNNEncoder(nn.Module):
    """Plain convolutions from the alpha to strides 8 and 16, `4 * width` and `8 * width` channels."""

    def __init__(self, width: int):
        super().__init__()
        self.to2 = conv_norm_act(1, width, stride=2)
        self.to4 = self._stage(width, 2 * width)
        self.to8 = self._stage(2 * width, 4 * width)
        self.to16 = self._stage(4 * width, 8 * width)
        self.channels = (4 * width, 8 * width)

    @staticmethod
    def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            conv_norm_act(in_channels, out_channels, stride=2), conv_norm_act(out_channels, out_channels)
        )

    def forward(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) in [0, 1] to (B, 4 * width, H/8, W/8) and (B, 8 * width, H/16, W/16)."""
        f8 = self.to8(self.to4(self.to2(2 * alpha - 1)))
        return f8, self.to16(f8)


class SwinEncoder(nn.Module):
    """A Swin fed with the alpha as a grey image; its feature maps at strides 8 and 16."""

    def __init__(self, backbone: str, window_size: int, pretrained: bool, backbone_weights: Path | None):
        super().__init__()
        self.swin = build_backbone(
            backbone, window_size=window_size, stages=(1, 2), pretrained=pretrained, backbone_weights=backbone_weights
        )
        self.channels = tuple(self.swin.feature_info.channels())

    def forward(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) in [0, 1] to (B, C8, H/8, W/8) and (B, C16, H/16, W/16)."""
        grey = ((alpha - 0.45) / 0.226).expand(-1, 3, -1, -1)  # ImageNet's mean and deviation over the channels
        f8, f16 = (f.permute(0, 3, 1, 2) for f in self.swin(grey))
        return f8, f16


class MaskTeacher(nn.Module):
    """True alpha to features at strides 8 and 16.

    Args:
        kind: "cnn" or "swin".
        width: Of the CNN: channels at stride 2.
        backbone, window_size, pretrained, backbone_weights: Of the Swin, as for `models.student.build_backbone`.
    """

    def __init__(
        self,
        kind: str,
        *,
        width: int,
        backbone: str,
        window_size: int,
        pretrained: bool = False,
        backbone_weights: Path | None = None,
    ):
        super().__init__()
        if kind == "cnn":
            self.encoder = CNNEncoder(width)
        elif kind == "swin":
            self.encoder = SwinEncoder(backbone, window_size, pretrained, backbone_weights)
        else:
            raise ValueError(f"unknown teacher {kind!r}; choose 'cnn' or 'swin'")
        self.channels = self.encoder.channels

    def forward(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes true mattes.

        Args:
            alpha: (B, 1, H, W) in [0, 1], any size.

        Returns:
            Features at strides 8 and 16 of the alpha padded to a multiple of 32, (B, C, h, w), each pixel's channels
            with zero mean and unit variance, so that the alignment loss has one scale for every teacher.
        """
        features = self.encoder(pad_to_multiple(alpha, STRIDE))
        return tuple(F.layer_norm(f.permute(0, 2, 3, 1).float(), f.shape[1:2]).permute(0, 3, 1, 2) for f in features)


class MaskDecoder(nn.Module):
    """Teacher features back to the alpha; only there to train the teacher, then thrown away."""

    def __init__(self, channels: tuple[int, int], width: int):
        super().__init__()
        c8, c16 = channels
        self.up8 = UpFuse(c16, c8, 4 * width)
        self.to4 = conv_norm_act(4 * width, 2 * width)
        self.to2 = conv_norm_act(2 * width, width)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, features: tuple[Tensor, Tensor], size: tuple[int, int]) -> Tensor:
        """Features at strides 8 and 16 to alpha logits (B, 1, H, W) of `size` (H, W)."""
        f8, f16 = features
        x = self.up8(f16, f8)
        for stage in (self.to4, self.to2, self.last):
            x = stage(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        return x[..., : size[0], : size[1]].float()


class FeatureAlignment(nn.Module):
    """1x1 projections of the student's features onto the teacher's channels; trained, then thrown away."""

    def __init__(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]):
        super().__init__()
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.projections = nn.ModuleList(nn.Conv2d(s, t, 1) for s, t in pairs)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(B, Cs, h, w) per level to (B, Ct, h, w) per level."""
        return tuple(project(f) for project, f in zip(self.projections, features, strict=True))
