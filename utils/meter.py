"""Means and times of training steps, collected on the device: nothing here waits for it until it is asked."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from utils.distributed import Processes


class Meter:
    """Weighted means of named scalars. A value that is not finite does not count."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None  # (2, names): of the values times their weights, and of the weights

    def add(self, values: Mapping[str, Tensor], weight: float) -> None:
        """Takes in scalars on the device, always under the same names."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        finite = stacked.isfinite()
        added = weight * torch.stack([torch.where(finite, stacked, 0.0), finite.float()])
        self.names = list(values)
        self.sums = added if self.sums is None else self.sums + added

    def gather(self, world: Processes) -> None:
        """Moves what all processes have into the first."""
        if self.sums is not None and world.size > 1:
            world.add_up(self.sums)
            if not world.is_first:
                self.sums = torch.zeros_like(self.sums)

    def take(self, world: Processes) -> dict[str, float]:
        """The means over all processes' values, for the first process, and a new beginning. Waits for the device."""
        self.gather(world)
        if self.sums is None:
            return {}
        total, weight = self.sums.double().cpu()
        means = dict(zip(self.names, (total / weight).tolist(), strict=True))  # NaN where nothing counted
        self.sums = None
        return means

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"names": self.names, "sums": self.sums if self.sums is None else self.sums.cpu()}

    def restore(self, state: Mapping[str, Any], world: Processes) -> None:
        """Takes over what `state` gave, in the first process; the others have the same names to add nothing to."""
        self.names = list(state["names"])
        self.sums = None if state["sums"] is None else state["sums"].to(world.device) * world.is_first


class StepClock:
    """Seconds of the parts of training steps: on a GPU as it spends them, without waiting for it.

    Args:
        device: What is timed.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._begun: Any = None
        self._laps: list[tuple[str, Any, Any]] = []

    def start(self) -> None:
        """Begins the first part of a step."""
        self._begun = self._now()

    def lap(self, part: str) -> None:
        """Ends a part and begins the next; laps of the same name add up."""
        now = self._now()
        self._laps.append((part, self._begun, now))
        self._begun = now

    def take(self) -> dict[str, float]:
        """The seconds of each part so far, and a new beginning. Waits for the device."""
        if self.device.type == "cuda" and self._laps:
            self._laps[-1][2].synchronize()
        seconds: dict[str, float] = {}
        for part, begun, ended in self._laps:
            spent = begun.elapsed_time(ended) / 1000 if self.device.type == "cuda" else ended - begun
            seconds[part] = seconds.get(part, 0.0) + spent
        self._laps = []
        return seconds

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
