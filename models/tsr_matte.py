"""The assembled network: coarse stage over the whole image, refiner at native resolution."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from torch import Tensor, nn

from models.layers import crop_border
from models.patches import Crops, enlarge, sample_crops
from models.refiner import Refiner
from models.routing import Routing, choose_patches, refine_patches
from models.student import Student


class MattingOutput(NamedTuple):
    """What the network returns, in training and at inference alike.

    Attributes:
        coarse_logits: (B, 1, h, w), the student's alpha before the sigmoid, at the size of its image.
        error_logits: (B, 1, h, w), how much closer to the truth refinement is expected to bring it, before the sigmoid.
        refined_logits: Coarse logits plus the refiner's residual, at native resolution: (B, 1, H, W) of whole pictures
            (`predict`), or (N, 1, P, P) of the crops that training asks for. Without either, and where the network has
            no refiner, the coarse logits.
        features: The student's decoder features at strides 8 and 16 of its input, finest first.
    """

    coarse_logits: Tensor
    error_logits: Tensor
    refined_logits: Tensor
    features: tuple[Tensor, ...]


class TwoStages:
    """A coarse stage and a refiner, whatever runs them.

    Attributes:
        student: As `models.Student`.
        refiner: As `models.Refiner`, or None.
    """

    student: Callable[[Tensor], tuple[Tensor, Tensor, tuple[Tensor, ...]]]
    refiner: Refiner | None

    def predict(
        self, image: Tensor, rgb: Tensor, *, normalise: Callable[[Tensor], Tensor], routing: Routing
    ) -> MattingOutput:
        """Whole pictures to alpha logits at their own resolution.

        Feature maps and colours as floats exist for `routing.batch_px` pixels at a time; only `rgb` and the refined
        logits have the native size.

        Args:
            image: (B, 3, h, w), normalised: whole pictures at the size of the coarse stage.
            rgb: (B, 3, H, W), the same pictures at their own resolution, as `normalise` takes them.
            normalise: Patches of `rgb` to patches of images.
            routing: Which patches are refined.

        Returns:
            `MattingOutput`, its refined logits (B, 1, H, W).
        """
        coarse_logits, error_logits, features = self.student(image)
        size = (rgb.shape[-2], rgb.shape[-1])
        if self.refiner is None:
            refined_logits = enlarge(coarse_logits, size)
        else:
            patches = choose_patches(error_logits, size, routing, self.refiner.work)
            refined_logits = refine_patches(self.refiner, rgb, normalise, coarse_logits, patches, routing.batch_px)
        return MattingOutput(coarse_logits, error_logits, refined_logits, features)


class TSRMatte(nn.Module, TwoStages):
    """Student and refiner. The teacher takes part in training only and is not a part of this module.

    Args:
        backbone: A key of `models.BACKBONES`.
        window_size: Attention window of the encoder, in tokens.
        decoder_width: Channels of the decoder at stride 4.
        coarse_stride: Of the coarse logits before they are enlarged, 2 or 4.
        drop_path_rate: Stochastic depth of the encoder.
        refiner: Whether there is a refiner at all.
        refiner_width: Its channels, a multiple of 4.
        refiner_blocks: Its number of dilated inception blocks.
        gradient_map: Whether it sees the image's gradients.
        zero_init: Whether it changes nothing until it is trained.
        pretrained: Download ImageNet weights for the encoder.
        backbone_weights: Or read them from this file.
    """

    def __init__(
        self,
        *,
        backbone: str,
        window_size: int,
        decoder_width: int,
        coarse_stride: int,
        drop_path_rate: float,
        refiner: bool,
        refiner_width: int,
        refiner_blocks: int,
        gradient_map: bool = True,
        zero_init: bool = True,
        pretrained: bool = False,
        backbone_weights: Path | None = None,
    ):
        super().__init__()
        self.student = Student(
            backbone,
            window_size=window_size,
            decoder_width=decoder_width,
            coarse_stride=coarse_stride,
            drop_path_rate=drop_path_rate,
            pretrained=pretrained,
            backbone_weights=backbone_weights,
        )
        self.refiner = None
        if refiner:
            self.refiner = Refiner(refiner_width, refiner_blocks, gradient_map=gradient_map, zero_init=zero_init)
        self._frozen: list[nn.Module] = []  # in a list, they are no submodules twice

    def freeze(self, part: str) -> None:
        """Excludes a part from training: no gradients, and no stochastic depth, after `train()` either.

        Args:
            part: "encoder"; "coarse", all of the student but its error head, whose target is what the refiner gains
                and changes with it (the stage of Xu et al., "Deep Image Matting", CVPR 2017, that trains the refiner
                alone); or "refiner". Parts add up over calls.

        Raises:
            ValueError: There is no such part.
        """
        if part == "encoder":
            frozen = [self.student.encoder]
        elif part == "coarse":
            frozen = [module for module in self.student.children() if module is not self.student.error_head]
        elif part == "refiner" and self.refiner is not None:
            frozen = [self.refiner]
        else:
            parts = "'encoder' or 'coarse'" if self.refiner is None else "'encoder', 'coarse' or 'refiner'"
            raise ValueError(f"cannot freeze {part!r}; choose {parts}")
        for module in frozen:
            module.requires_grad_(False).eval()
        self._frozen += frozen

    def train(self, mode: bool = True) -> Self:
        """As of any module, but frozen parts stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, image: Tensor, crops: Crops | None = None) -> MattingOutput:
        """Whole image to coarse logits; with crops of it at native resolution, these refined as well: for training.

        Args:
            image: (B, 3, h, w), normalised: whole pictures at the size of the coarse stage.
            crops: Parts of the same pictures at their own resolution.

        Returns:
            `MattingOutput`, its refined logits (N, 1, P, P) those of the crops.
        """
        coarse_logits, error_logits, features = self.student(image)
        refined_logits = coarse_logits
        if self.refiner is not None and crops is not None:
            halo = self.refiner.halo_px
            context = sample_crops(coarse_logits, crops, crops.image.shape[-1] - 2 * halo, halo)
            refined_logits = crop_border(context, halo) + self.refiner(crops.image, context)
        return MattingOutput(coarse_logits, error_logits, refined_logits, features)
