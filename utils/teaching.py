"""Training the mask teacher: an auto-encoder of mattes whose decoder is thrown away."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models import MaskDecoder, MaskTeacher
from utils.checkpoint import load_checkpoint, load_weights
from utils.distributed import Processes
from utils.errors import UserError
from utils.inference import autocast
from utils.interruption import Interruption
from utils.losses import l1_loss


class AutoEncoder(nn.Module):
    """The teacher, and a decoder that draws mattes again from its features.

    Args:
        teacher: What is to be trained.
        width: Channels of the decoder's last layer; more towards the depth.
    """

    def __init__(self, teacher: MaskTeacher, width: int):
        super().__init__()
        self.teacher = teacher
        self.decoder = MaskDecoder(teacher.channels, width)

    def forward(self, alpha: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] to logits of the same shape."""
        return self.decoder(self.teacher(alpha), alpha.shape[-2:])


class Reconstruction:
    """The objective: that the decoder can draw the matte again. Only the samples' alpha is used.

    Args:
        device: Where the auto-encoder is.
        precision: "bf16", "fp16" or "fp32": its arithmetic.
    """

    def __init__(self, device: torch.device, precision: str):
        self.device, self.precision = device, precision

    def __call__(self, auto_encoder: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Cross entropy and mean absolute error, means over the batch."""
        alpha = batch.alpha.to(self.device, non_blocking=True)
        with autocast(self.device, self.precision):
            logits = auto_encoder(alpha)
        terms = {
            "entropy": F.binary_cross_entropy_with_logits(logits, alpha),
            "l1": l1_loss(logits.sigmoid(), alpha),
        }
        return {**terms, "total": terms["entropy"] + terms["l1"]}


@torch.inference_mode()
def reconstruction_error(
    auto_encoder: AutoEncoder, held_out: DataLoader, world: Processes, interruption: Interruption
) -> float:
    """Mean absolute error of the drawn-again mattes, alpha in [0, 1], each image weighing the same.

    Args:
        auto_encoder: In eval mode.
        held_out: This process' share of the samples; together, the processes have at least one.
        world: The processes.
        interruption: Ends it after the batch at hand.
    """
    errors: list[float] = []
    for batch in held_out:
        if interruption.signal:
            break
        alpha = batch.alpha.to(world.device)
        drawn = auto_encoder(alpha).sigmoid()
        errors += (drawn - alpha).abs().mean(dim=(1, 2, 3)).tolist()
    gathered = [error for share in world.gather(errors) for error in share]
    return sum(gathered) / max(1, len(gathered))


def load_teacher(path: Path, kind: str) -> tuple[MaskTeacher, dict[str, Any]]:
    """The teacher in a file, which has to be of this kind, and all that the file holds."""
    saved = load_checkpoint(path, "--teacher-checkpoint")
    if "teacher" not in saved:
        raise UserError(f"{path}: not a teacher; give --teacher-checkpoint the teacher.pth of a run")
    if saved["teacher"]["kind"] != kind:
        raise UserError(f"{path}: a teacher of kind {saved['teacher']['kind']}, which contradicts --teacher {kind}")
    teacher = MaskTeacher(**saved["teacher"])
    load_weights(teacher, saved["model"], path)
    return teacher, saved
