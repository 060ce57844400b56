"""One optimiser step, for whatever is trained: exact under accumulation and any number of processes, resumable.

Nothing in a step makes the host wait for the device; that is left to `Learner.report`, every few steps.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.checkpoint import load_weights
from utils.costs import peak_gb
from utils.distributed import Processes
from utils.meter import Meter, StepClock
from utils.names import shorten
from utils.optim import set_learning_rate

PARTS = ("data", "forward", "backward", "step")  # of a step, as its clock tells them apart
# (module, batch) to named terms, means over the batch's images; "total" is what is minimised.
Objective = Callable[[nn.Module, Any], dict[str, Tensor]]


class Dropped(NamedTuple):
    """A step that was left out, since its loss or gradient was not finite, with the files it was made of."""

    step: int
    names: list[str]


class Learner:
    """Module and optimiser, and everything of theirs that a resume needs.

    A step whose gradient is not finite is dropped on the device, before the optimiser sees it, in all processes.

    Args:
        module: All that has gradients, in one forward.
        groups: Of AdamW; each has a "peak" learning rate.
        world: The processes that train together.
        precision: "fp16" scales the loss.
        clip_norm: Largest gradient norm.
        max_dropped_steps: So many in a row end the training.
        averaged: A part of the module whose weights are averaged over the steps, exponentially.
        ema_decay: Of that average, reached after a warm-up; 0: there is none.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: list[dict[str, Any]],
        *,
        world: Processes,
        precision: str,
        clip_norm: float,
        max_dropped_steps: int,
        averaged: nn.Module | None = None,
        ema_decay: float = 0.0,
    ):
        self.module, self.averaged, self.world = module, averaged, world
        self.device, self.clip_norm, self.max_dropped_steps = world.device, clip_norm, max_dropped_steps
        # Fused, it can be told on the device to leave a step out.
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.ema = ModelEmaV3(averaged, decay=ema_decay, use_warmup=True) if ema_decay else None
        self.forward = module if world.size == 1 else _distributed(module)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.terms, self.norms, self.clock = Meter(), Meter(), StepClock(self.device)
        self.step = 0  # made so far, dropped ones included
        self.dropped_in_a_row = 0
        self._images = self._steps = self._dropped_steps = 0  # since the last report
        self._dropped: list[Dropped] = []  # likewise
        self._pending: list[tuple[int, Tensor, list[tuple[list[str], Tensor]]]] = []  # not looked at yet

    def make_step(
        self, batches: Iterator[Any], sizes: Sequence[int], images: int, objective: Objective, rate: float
    ) -> None:
        """Makes an optimiser step.

        Args:
            batches: The next of them are taken; each has `name`, a list of its files.
            sizes: Images in each batch of this process; 0: a stand-in that does not count.
            images: In all batches of all processes: each weighs the same, whatever the size of its batch.
            objective: The loss.
            rate: Share of the peak learning rate.
        """
        set_learning_rate(self.optimizer, rate)
        parts: list[tuple[list[str], int, dict[str, Tensor]]] = []
        self.clock.start()
        for at, size in enumerate(sizes):
            batch = next(batches)
            self.clock.lap("data")
            last = at == len(sizes) - 1  # gradients are added up over the processes once a step
            with nullcontext() if last or self.forward is self.module else self.forward.no_sync():
                terms = objective(self.forward, batch)
                self.clock.lap("forward")
                # The processes' gradients are averaged, hence their number.
                self.scaler.scale(terms["total"] * (size * self.world.size / images)).backward()
            self.clock.lap("backward")
            parts.append((batch.name if size else [], size, {name: term.detach() for name, term in terms.items()}))
        # What follows is never interrupted by an error of the loader's: until here, nothing has been changed.
        for _, size, terms in parts:
            self.terms.add(terms, size)
        totals = [(names, terms["total"]) for names, _, terms in parts]
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        lost = ~torch.stack([norm.detach(), *(total for _, total in totals)]).isfinite().all()
        lost = self.world.add_up(lost.float()).clamp(max=1)
        # As the scaler's own step does, which knows of gradients only, not of a loss that is infinite.
        self.optimizer.grad_scale, self.optimizer.found_inf = None, lost
        self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)  # memory that a validation can use
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.averaged, step=self.step)
        self.norms.add({"gradient_norm": norm}, float(self.world.is_first))  # all have the same one
        self._pending.append((self.step, lost, totals))
        self._images += images
        self._steps += 1
        self.clock.lap("step")

    def report(self) -> tuple[dict[str, float], list[Dropped]]:
        """What happened since the last report: a row of means and costs, and the steps that were dropped.

        Means are over the images of all processes; times and memory are this one's. Waits for the device.

        Raises:
            UserError: Too many steps in a row were dropped.
        """
        self.settle()
        seconds = self.clock.take()
        passed, steps = sum(seconds.values()), max(1, self._steps)
        row = {
            **self.terms.take(self.world),
            **self.norms.take(self.world),
            **({"loss_scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {}),
            "dropped_steps": self._dropped_steps,
            "images_per_second": round(self._images / passed, 2) if passed else 0.0,
            **{f"{part}_s": round(seconds.get(part, 0.0) / steps, 5) for part in PARTS},
            "peak_memory_gb": round(peak_gb(self.device), 3),
        }
        dropped = self._dropped
        self._images = self._steps = self._dropped_steps = 0
        self._dropped = []
        return row, dropped

    def settle(self) -> None:
        """Finds out which steps were dropped, and the files that are to blame. Waits for the device.

        With a scaled loss, gradients overflow now and then, until the scale fits: such a step is counted, not blamed.

        Raises:
            UserError: Too many steps in a row were dropped.
        """
        pending, self._pending = self._pending, []
        flags = torch.stack([lost for _, lost, _ in pending]).tolist() if pending else []
        for (step, _, parts), lost in zip(pending, flags, strict=True):
            self.dropped_in_a_row = self.dropped_in_a_row + 1 if lost else 0
            if not lost:
                continue
            self._dropped_steps += 1
            guilty = [name for names, total in parts if not total.isfinite() for name in names]
            everything = [name for names, _ in parts for name in names]
            told = self.world.gather((guilty, everything))
            guilty, everything = ([name for each in told for name in each[at]] for at in (0, 1))
            if guilty or not self.scaler.is_enabled():
                self._dropped.append(Dropped(step, guilty or everything))
            if self.dropped_in_a_row >= self.max_dropped_steps:
                self.world.fail(
                    f"training is not finite: {self.dropped_in_a_row} steps in a row were dropped, the last made of "
                    f"{shorten(guilty or everything)}: look at these files, lower --learning-rate or use "
                    f"--precision fp32"
                )

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs, as plain tensors and JSON types; the same whenever it is asked for.

        All processes have to ask; the first one's is to be kept.
        """
        self.settle()
        for meter in (self.terms, self.norms):
            meter.gather(self.world)
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "terms": self.terms.state(),
            "norms": self.norms.state(),
            "dropped_in_a_row": self.dropped_in_a_row,
            "dropped_steps": self._dropped_steps,
            "dropped": [list(each) for each in self._dropped],
        }

    def restore(self, state: Mapping[str, Any], averaged: Mapping[str, Tensor], path: Path) -> None:
        """Takes over what `state` gave.

        Args:
            state: Of a learner of the same settings.
            averaged: The averaged weights, where there is an average.
            path: The file they come from, for messages.
        """
        load_weights(self.module, state["module"], path)
        if self.ema is not None:
            load_weights(self.ema.module, averaged, path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.dropped_in_a_row = state["dropped_in_a_row"]
        self.terms.restore(state["terms"], self.world)
        self.norms.restore(state["norms"], self.world)
        self._dropped_steps = state["dropped_steps"]
        self._dropped = [Dropped(*each) for each in state["dropped"]]


def _distributed(module: nn.Module) -> DistributedDataParallel:
    """The module with gradients averaged over the processes.

    No device is named: inputs are where they belong already, and some belong on the CPU. Buffers never change.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    return DistributedDataParallel(module, **{option: False})
