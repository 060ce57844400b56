"""Training the mask teacher: an auto-encoder of mattes whose decoder is thrown away."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from models import MaskDecoder, MaskTeacher
from utils.inference import autocast
from utils.losses import l1_loss
from utils.optim import learning_rate_factor, set_learning_rate
from utils.progress import progress


def train_teacher(
    teacher: MaskTeacher,
    loader: DataLoader,
    held_out: DataLoader,
    *,
    width: int,
    epochs: int,
    learning_rate: float,
    warmup_steps: int,
    clip_norm: float,
    device: torch.device,
    precision: str,
    log: Callable[[dict[str, Any]], None],
) -> None:
    """Trains `teacher`, in place, to keep enough of a matte that a decoder can draw it again.

    Args:
        teacher: On `device`.
        loader: Training samples; only their alpha is used.
        held_out: Samples on which the reconstruction error is measured.
        width: Channels of the decoder's last layer; more towards the depth.
        epochs: Passes over the training samples.
        learning_rate: Peak, of AdamW.
        warmup_steps: Steps from 0 to the peak.
        clip_norm: Largest gradient norm.
        device: Where the teacher is.
        precision: "bf16" or "fp32"; "fp16" is run as fp32, there is no loss scaling here.
        log: Gets a row an epoch: epoch, step, reconstruction_MAD (mean absolute error, alpha in [0, 1]).
    """
    decoder = MaskDecoder(teacher.channels, width).to(device)
    parameters = [*teacher.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW([{"params": parameters, "peak": learning_rate}], lr=learning_rate)
    precision = "fp32" if precision == "fp16" else precision
    step, total_steps = 0, epochs * len(loader)
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        teacher.train()
        for batch in progress(loader, desc=f"teacher {epoch + 1}/{epochs}", unit="batch"):
            set_learning_rate(optimizer, learning_rate_factor(step, warmup_steps=warmup_steps, total_steps=total_steps))
            alpha = batch.alpha.to(device, non_blocking=True)
            with autocast(device, precision):
                logits = decoder(teacher(alpha), alpha.shape[-2:])
            loss = F.binary_cross_entropy_with_logits(logits, alpha) + l1_loss(logits.sigmoid(), alpha)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
            step += 1
        error = reconstruction_error(teacher, decoder, held_out, device)
        tqdm.write(
            f"teacher epoch {epoch + 1}: reconstruction MAD {error:.5f} on {len(held_out.dataset)} held-out mattes"
        )
        log({"epoch": epoch + 1, "step": step, "reconstruction_MAD": error})


@torch.inference_mode()
def reconstruction_error(
    teacher: MaskTeacher, decoder: MaskDecoder, held_out: DataLoader, device: torch.device
) -> float:
    """Mean absolute error of the drawn-again mattes, alpha in [0, 1], each image weighing the same."""
    teacher.eval()
    errors: list[float] = []
    for batch in held_out:
        alpha = batch.alpha.to(device)
        drawn = decoder(teacher(alpha), alpha.shape[-2:]).sigmoid()
        errors += (drawn - alpha).abs().mean(dim=(1, 2, 3)).tolist()
    return float(np.mean(errors))
