"""What a network costs: arithmetic, time and memory."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_gflop(parts: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, float]:
    """Arithmetic by part, in GFLOP; a multiplication and an addition are 2 FLOP.

    Counted are convolutions, matrix products and attention, as PyTorch counts them; norms and activations are not.

    Args:
        parts: Modules, which may contain each other.
        run: Calls them, each as often as it likes.
    """
    gflop, begun = dict.fromkeys(parts, 0.0), {}
    # Attention as products: before 2.15, PyTorch does not count what a CPU does in one operator.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:

        def watch(name: str, module: nn.Module) -> list[Any]:
            def begin(*_: object) -> None:
                begun[name] = counter.get_total_flops()

            def end(*_: object) -> None:
                gflop[name] += (counter.get_total_flops() - begun[name]) / 1e9

            return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]

        hooks = [hook for name, module in parts.items() for hook in watch(name, module)]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
    return gflop


class Stopwatch:
    """Seconds of the stages of calls.

    Args:
        device: Waited for, before and after each stage.

    Attributes:
        calls: Of each call its stages' seconds, in order.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.calls: list[dict[str, float]] = []

    def start(self) -> None:
        """Begins a call and its first stage."""
        self.calls.append({})
        self.resume()

    def lap(self, stage: str) -> None:
        """Ends a stage and begins the next; laps of the same name add up."""
        now = self._now()
        seconds = self.calls[-1]
        seconds[stage] = seconds.get(stage, 0.0) + now - self._begun
        self._begun = now

    def resume(self) -> None:
        """Begins a stage anew: what has passed since the last lap is not counted."""
        self._begun = self._now()

    def _now(self) -> float:
        synchronise(self.device)
        return time.perf_counter()


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
