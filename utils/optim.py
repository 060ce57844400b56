"""Which parameters are decayed, and the learning rate of a step."""

import math

import torch
from torch import nn


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate at an optimiser step, 0-based: linear warm-up, then cosine to zero.

    The warm-up is a fifth of the steps at most: a run on few pictures would end before its rate had risen.
    """
    warmup_steps = min(warmup_steps, total_steps // 5)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(
    modules: dict[str, nn.Module | None], learning_rates: dict[str, float], weight_decay: float
) -> list[dict]:
    """AdamW groups: for each named module its learning rate, with and without weight decay.

    Biases, norms and position biases are not decayed: pulling them to zero regularises nothing.

    Args:
        modules: Name to module or None; a parameter belongs to the first module that holds it.
        learning_rates: Name to peak learning rate, stored in the group as "peak".
        weight_decay: Of matrices and kernels.
    """
    groups, seen = [], set()
    for key, module in modules.items():
        decayed, plain = [], []
        for name, parameter in module.named_parameters() if module is not None else ():
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                keep = parameter.ndim < 2 or "relative_position_bias_table" in name
                (plain if keep else decayed).append(parameter)
        for parameters, decay in ((decayed, weight_decay), (plain, 0.0)):
            if parameters:
                peak = learning_rates[key]
                groups.append({"params": parameters, "weight_decay": decay, "lr": peak, "peak": peak, "name": key})
    return groups


def by_depth(encoder: nn.Module) -> list[nn.Module]:
    """The parts of a Swin of timm's in the order in which an image passes them: patch embedding, then each block."""
    parts: list[nn.Module] = []
    for child in encoder.children():
        blocks = getattr(child, "blocks", None)
        if blocks is None:
            parts.append(child)
        else:  # a stage: what merges patches belongs to its first block
            parts += [nn.ModuleList([child.downsample, blocks[0]]), *blocks[1:]]
    return parts


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group to its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def count_parameters(module: nn.Module | None) -> int:
    """Number of scalars in the module's parameters."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
