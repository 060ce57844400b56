"""The coarse stage: a Swin encoder and a U-Net decoder over the whole image.

Swin Transformer: Liu et al., "Hierarchical Vision Transformer using Shifted Windows", ICCV 2021; code and ImageNet
weights through timm. U-Net: Ronneberger et al., MICCAI 2015.
"""

import re
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timm.layers import set_reentrant_ckpt
from timm.models.swin_transformer import SwinTransformerStage
from torch import Tensor, nn

from models.layers import UpFuse, conv_norm_act, pad_to_multiple
from models.patches import enlarge

# Name on our command line -> (timm model, changes to it). `nano` is our own width: tests and the demo, on a CPU.
BACKBONES: dict[str, tuple[str, dict]] = {
    "nano": ("swin_tiny_patch4_window7_224", {"embed_dim": 32, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)}),
    "tiny": ("swin_tiny_patch4_window7_224", {}),
    "small": ("swin_small_patch4_window7_224", {}),
    "base": ("swin_base_patch4_window7_224", {}),
    "base384": ("swin_base_patch4_window12_384", {}),
    "large": ("swin_large_patch4_window12_384", {}),
}
STRIDE = 32  # of the deepest feature map: inputs are padded to a multiple of it


class PretrainedWeightsError(RuntimeError):
    """ImageNet weights for a backbone could not be had, or do not fit it."""


def build_backbone(
    name: str,
    *,
    window_size: int,
    drop_path_rate: float = 0.0,
    stages: tuple[int, ...] = (0, 1, 2, 3),
    pretrained: bool = False,
    backbone_weights: Path | None = None,
) -> nn.Module:
    """A timm Swin that returns the feature maps of its stages, each (B, h, w, C), for any input size.

    Args:
        name: A key of `BACKBONES`.
        window_size: Attention window in tokens, for every stage. Position biases of ImageNet weights are interpolated
            to it, so that the window can divide the feature maps (8 at 1024 px) instead of the input being shrunk.
        drop_path_rate: Stochastic depth of the last block; earlier blocks proportionally less.
        stages: Which feature maps; 0, 1, 2, 3 have strides 4, 8, 16, 32. Stages behind the last one are left out.
        pretrained: Download ImageNet weights through timm.
        backbone_weights: Read them from this file instead (a timm state dict, .pth or .safetensors).

    Raises:
        PretrainedWeightsError: The weights cannot be had or do not fit.
    """
    timm_name, changes = BACKBONES[name]
    source = {} if backbone_weights is None else {"pretrained_cfg_overlay": {"file": str(backbone_weights)}}
    try:
        encoder = timm.create_model(
            timm_name,
            pretrained=pretrained or backbone_weights is not None,
            features_only=True,
            out_indices=stages,
            window_size=window_size,
            drop_path_rate=drop_path_rate,
            strict_img_size=False,  # any input size; attention masks are made for it
            always_partition=True,  # parameter shapes that do not depend on the image size
            **changes,
            **source,
        )
        if backbone_weights is not None:
            _require_every_weight(encoder, backbone_weights)
        return encoder
    except Exception as error:  # timm, huggingface_hub, safetensors and the socket layer each raise their own
        if not pretrained and backbone_weights is None:
            raise
        origin = f"the file {backbone_weights}" if backbone_weights else f"the timm hub ({timm_name})"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        message = f"backbone {name!r}: no ImageNet weights from {origin}: {type(error).__name__}: {reason}"
        raise PretrainedWeightsError(message) from error


def _require_every_weight(encoder: nn.Module, path: Path) -> None:
    """Raises KeyError if the file lacks a weight of the encoder: timm loads what fits and leaves the rest random."""
    stored = set(timm.models.load_state_dict(str(path)))
    if "layers.0.downsample.reduction.weight" in stored:  # Microsoft's files merge patches at the end of a stage
        stored = {
            re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", n) for n in stored
        }
    wanted = (name.replace("layers_", "layers.", 1) for name in encoder.state_dict())
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise KeyError(f"{len(missing)} weights are missing ({', '.join(missing[:3])}{', ...' * (len(missing) > 3)})")


class Student(nn.Module):
    """Whole image to coarse alpha logits and error logits.

    Args:
        backbone: A key of `BACKBONES`.
        window_size: Attention window in tokens.
        decoder_width: Channels at stride 4; twice that at stride 8, four times at 16 and 32, half at stride 2.
        coarse_stride: Of the logits before they are enlarged to the input's size, 2 or 4.
        drop_path_rate: Stochastic depth of the encoder.
        pretrained: Download ImageNet weights.
        backbone_weights: Or read them from this file.
    """

    def __init__(
        self,
        backbone: str,
        *,
        window_size: int,
        decoder_width: int,
        coarse_stride: int,
        drop_path_rate: float = 0.0,
        pretrained: bool = False,
        backbone_weights: Path | None = None,
    ):
        super().__init__()
        self.encoder = build_backbone(
            backbone,
            window_size=window_size,
            drop_path_rate=drop_path_rate,
            pretrained=pretrained,
            backbone_weights=backbone_weights,
        )
        width = decoder_width
        c4, c8, c16, c32 = self.encoder.feature_info.channels()
        self.bridge = conv_norm_act(c32, 4 * width)
        self.lateral16 = conv_norm_act(c16, 4 * width, kernel=1)
        self.lateral8 = conv_norm_act(c8, 2 * width, kernel=1)
        self.lateral4 = conv_norm_act(c4, width, kernel=1)
        self.up16 = UpFuse(4 * width, 4 * width, 4 * width)
        self.up8 = UpFuse(4 * width, 2 * width, 2 * width)
        self.up4 = UpFuse(2 * width, width, width)
        # Swin sees nothing finer than stride 4: a light convolution brings edges at stride 2 to the head.
        self.stem = conv_norm_act(3, width // 2, stride=2) if coarse_stride == 2 else None
        joined = width if self.stem is None else width + width // 2
        self.head = conv_norm_act(joined, width // 2)
        # Two convolutions, so that what is expected of the refiner can be learnt while the alpha stays as it is.
        self.alpha_head = nn.Conv2d(width // 2, 1, 1)
        self.error_head = nn.Conv2d(width // 2, 1, 1)
        self.feature_channels = (2 * width, 4 * width)  # of the features at strides 8 and 16

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Runs the coarse stage.

        Args:
            image: (B, 3, H, W), normalised, any size.

        Returns:
            coarse_logits (B, 1, H, W), error_logits (B, 1, H, W), and the decoder's features at strides 8 and 16
            of the padded input, (B, C, ceil(H/32)*4, ceil(W/32)*4) and half that.
        """
        height, width = image.shape[-2:]
        image = pad_to_multiple(image, STRIDE)
        padded = (image.shape[-2], image.shape[-1])
        f4, f8, f16, f32 = (f.permute(0, 3, 1, 2) for f in self.encoder(image))  # NHWC to NCHW
        d16 = self.up16(self.bridge(f32), self.lateral16(f16))
        d8 = self.up8(d16, self.lateral8(f8))
        d4 = self.up4(d8, self.lateral4(f4))
        if self.stem is None:
            x = self.head(d4)  # (B, width / 2, H/4, W/4)
        else:
            s2 = self.stem(image)
            d2 = F.interpolate(d4, size=s2.shape[-2:], mode="bilinear", align_corners=False)
            x = self.head(torch.cat([d2, s2], dim=1))  # (B, width / 2, H/2, W/2)
        coarse_logits, error_logits = (
            enlarge(head(x).float(), padded)[..., :height, :width] for head in (self.alpha_head, self.error_head)
        )
        return coarse_logits, error_logits, (d8, d16)

    def checkpoint_activations(self) -> None:
        """From now on training keeps only the inputs of the encoder's blocks and computes the rest again for backward.

        Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. The gradients stay the same, bit by bit:
        stochastic depth draws the same numbers again. A third more work of the encoder; no effect without gradients.
        """
        set_reentrant_ckpt(False)  # whatever TIMM_REENTRANT_CKPT says: the older kind hides its graph from DDP
        for stage in self.encoder.values():
            if isinstance(stage, SwinTransformerStage):
                stage.grad_checkpointing = True
