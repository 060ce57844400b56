"""Processes that work together, as torchrun starts them; a program started without it is one process.

    torchrun --nproc-per-node 8 train.py ...

All have the same files before them. The first one prints and writes what there is one of.

PyTorch is imported where it is needed: a program that runs no network as one process does without the seconds it takes.
"""

import datetime
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from utils.errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
# Of a process that waits for another: the first may read a whole dataset while the others wait. A process that ends is
# noticed at once by those that wait for it.
TIMEOUT = datetime.timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process among those that work together.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
        device: What this one computes on; None where no network runs.
        beside: How many of them are on this machine, this one included.
    """

    rank: int
    size: int
    device: "torch.device | None"
    beside: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one prints, and writes what there is one of."""
        return self.rank == 0

    def title(self, text: str) -> str:
        """Of a progress bar, which shows this process' share."""
        return f"{text} (1 of {self.size} processes)" if self.size > 1 else text

    def print(self, line: str) -> None:
        """Prints once."""
        if self.is_first:
            print(line)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """What this process does of some work: every n-th item, from its own number."""
        return items[self.rank :: self.size]

    def interleave(self, shares: Sequence[Sequence[T]]) -> list[T]:
        """The results of all processes' `share` of some items, in the order of the items."""
        return [shares[at % self.size][at // self.size] for at in range(sum(map(len, shares)))]

    def first(self, work: Callable[[], T]) -> T:
        """Does something in the first process; all get its result, the others as a copy.

        Raises:
            UserError: The first process did; the others exit quietly.
        """
        if self.size == 1:
            return work()
        import torch.distributed as dist

        results: list[Any] = [None]
        error = None
        if self.is_first:
            try:
                results = [(work(),)]
            except UserError as raised:
                error = raised
        mine = results[0]
        with _others_live():
            dist.broadcast_object_list(results, src=0)
        if error is not None:
            raise error
        if results[0] is None:
            self._leave()
        return (mine or results[0])[0]

    def each(self, work: Callable[[], T], *, first_ahead: bool = False) -> T:
        """Does something in every process: of an error that all meet, one tells.

        Args:
            work: What to do.
            first_ahead: The others begin when the first process is done.

        Raises:
            UserError: It was raised here, and in no process before this one; the others exit quietly.
        """
        result, error = None, None
        for is_my_turn in (self.is_first, not self.is_first) if first_ahead else (True,):
            try:
                result = work() if is_my_turn else result
            except UserError as raised:
                error = raised
            failed = self.gather(error is not None)
            if any(failed):
                if failed.index(True) == self.rank:
                    raise error
                self._leave()
        return result

    def fail(self, message: str) -> NoReturn:
        """Ends all processes for a reason that all have found; the first one tells.

        Raises:
            UserError: In the first process; the others exit quietly.
        """
        if self.is_first:
            raise UserError(message)
        self._leave()

    def _leave(self) -> NoReturn:
        """Exits without a word because of another process' error, and only after it.

        As soon as one has ended, torchrun ends the others: none may before the one that has something to say.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with suppress(UserError):
            self.gather(None)  # which cannot succeed: it returns when the other one is gone
        sys.exit(2)

    def gather(self, item: T) -> list[T]:
        """What each process hands in, by rank, for every process."""
        if self.size == 1:
            return [item]
        import torch.distributed as dist

        items: list[Any] = [None] * self.size
        with _others_live():
            dist.all_gather_object(items, item)
        return items

    def largest(self, *numbers: int) -> tuple[int, ...]:
        """The largest of each number over all processes. No GPU is waited for."""
        if self.size == 1:
            return numbers
        import torch
        import torch.distributed as dist

        values = torch.tensor(numbers)
        with _others_live():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return tuple(values.tolist())

    def add_up(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Replaces a tensor on the device by its sum over all processes; the host does not wait for a GPU."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor


@contextmanager
def _others_live() -> Iterator[None]:
    """Around an exchange: that another process is gone is no fault of this one, and no traceback."""
    try:
        yield
    except RuntimeError as error:
        hours = TIMEOUT.total_seconds() / 3600
        raise UserError(
            f"another process has ended, or has not answered for {hours:g} h: its own last message says why"
        ) from error


@contextmanager
def processes(environment: Mapping[str, str], device: str | None) -> Iterator[Processes]:
    """Joins the processes that torchrun started, if it did; at the end, all wait for the last one.

    Args:
        environment: Of this process, where torchrun says who it is.
        device: As `select_device` takes it; "auto" and "cuda" are a GPU of its own for each process. None: no network
            runs, and nothing is chosen.

    Raises:
        UserError: There is no such device, or not one for each process.
    """
    size = int(environment.get("WORLD_SIZE") or 1)
    if size == 1:
        yield Processes(0, 1, None if device is None else _own_device(device, 0, 1))
        return
    if lacking := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]:
        raise UserError(
            f"WORLD_SIZE is {size}, but {', '.join(lacking)} is not set: start the processes with torchrun, or unset it"
        )
    import torch
    import torch.distributed as dist

    rank, local = int(environment["RANK"]), int(environment["LOCAL_RANK"])
    on_gpus = device not in (None, "cpu") and torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"  # by where a tensor is; NCCL starts with the first one there
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=TIMEOUT)
    world = Processes(rank, size, None, int(environment.get("LOCAL_WORLD_SIZE", size)))
    if device is not None:
        world = replace(world, device=world.each(lambda: _own_device(device, local, size)))
    yield world
    # Not after an exception: others may be gone, and would be waited for.
    sys.stdout.flush()
    world.gather(None)  # torchrun ends all when one has ended with another status than 0: not before all are done
    dist.destroy_process_group()


def _own_device(device: str, local: int, size: int) -> "torch.device":
    """The device of the process with a number on its machine, among so many in all; a GPU is then the current one."""
    import torch

    from utils.inference import select_device

    own = select_device(device if size == 1 else _among_several(device, local, size, torch.cuda.device_count()))
    if own.type == "cuda" and own.index is not None:
        torch.cuda.set_device(own)  # what is timed, or pinned, without a word about where, belongs to it
    return own


def _among_several(device: str, local: int, size: int, gpus: int) -> str:
    """The name of the device that one of several processes takes.

    Raises:
        UserError: There is not one for each.
    """
    if device.startswith("cuda:"):
        raise UserError(f"--device {device} is one GPU for {size} processes: use --device cuda, one for each")
    if device == "cpu" or (device == "auto" and not gpus):
        return "cpu"
    if device in ("auto", "cuda") and 0 < gpus <= local:
        raise UserError(f"--device {device}: a machine has {gpus} GPUs for more processes: --nproc-per-node {gpus}")
    return f"cuda:{local}" if device in ("auto", "cuda") else device
