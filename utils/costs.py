"""What a network costs: parameters, arithmetic, time and memory."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Timing(NamedTuple):
    """Seconds a call takes: the median and the fastest, of `calls`."""

    median_sec: float
    fastest_sec: float
    calls: int


def count_gflop(module: nn.Module, run: Callable[[], object]) -> dict[str, float]:
    """Arithmetic of one call by part, in GFLOP; a multiplication and an addition are 2 FLOP.

    Counted are convolutions, matrix products and attention, as PyTorch counts them; norms and activations are not.

    Args:
        module: Its children are the parts.
        run: Calls it.
    """
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()
    root = type(module).__name__
    parts = {name: sum(counts.get(f"{root}.{name}", {}).values()) / 1e9 for name, _ in module.named_children()}
    return {**parts, "total": counter.get_total_flops() / 1e9}


def time_calls(run: Callable[[], object], device: torch.device, *, least_sec: float, least_calls: int = 3) -> Timing:
    """Times calls after one that is not counted, until both limits are reached.

    Args:
        run: What is timed.
        device: Waited for, before and after each call.
        least_sec: Time to spend.
        least_calls: Calls to make.
    """
    seconds: list[float] = []
    run()
    while len(seconds) < least_calls or sum(seconds) < least_sec:
        synchronise(device)
        begun = time.perf_counter()
        run()
        synchronise(device)
        seconds.append(time.perf_counter() - begun)
    return Timing(statistics.median(seconds), min(seconds), len(seconds))


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gb(device: torch.device) -> float:
    """The most memory used so far: of the device where it is a GPU, else of this process, in 10^9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte / 1e9
