"""Calls spread over processes or threads: results in order, a bounded number under way, nothing left behind."""

import atexit
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from multiprocessing import forkserver
from typing import TypeVar

import cv2

from utils.errors import UserError
from utils.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")
WORKER_KILLED = "a worker process was killed, most likely for want of memory: use fewer of them (--num-workers)"


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    executor: Executor | None,
    ahead: int,
    weigh: Callable[[Item], float] = lambda _: 0.0,
    most: float = math.inf,
) -> Iterator[Result]:
    """`map` with up to `ahead` calls under way: items are drawn no faster than results are taken.

    Args:
        function: Pickled by reference where `executor` has processes.
        items: Drawn in the caller's thread, while earlier calls run.
        executor: None calls the function here, one item after the other.
        ahead: Calls under way, at least 1; it bounds the memory.
        weigh: What an item, and its result, weigh.
        most: The weight under way, but for one item that alone is heavier.

    Raises:
        UserError: A process died.
    """
    if executor is None:
        yield from map(function, items)
        return
    pending: deque[tuple[Future[Result], float]] = deque()
    try:
        for item in items:
            weight = weigh(item)
            while pending and sum(each for _, each in pending) + weight > most:
                yield pending.popleft()[0].result()
            with _signals_wait():  # it may start a process, which is no good half started
                pending.append((executor.submit(function, item), weight))
            del item  # nobody else keeps it
            while pending and (len(pending) >= ahead or pending[0][0].done()):
                yield pending.popleft()[0].result()
        while pending:
            yield pending.popleft()[0].result()
    except BrokenExecutor as error:
        raise UserError(WORKER_KILLED) from error
    finally:
        # Not in processes: when these are killed, a thread of their pool stumbles over calls that were cancelled.
        for future, _ in () if isinstance(executor, ProcessPoolExecutor) else pending:
            future.cancel()


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], *, desc: str, unit: str, num_workers: int | None = None
) -> Iterator[Result]:
    """`map` in threads with a progress bar: for reading files, which waits for the disk or leaves Python's lock.

    Few calls wait: Ctrl-C, or leaving the loop, ends it after those that run.

    Args:
        function: Called in threads.
        items: What for.
        desc: What the bar says is done.
        unit: What it counts.
        num_workers: Threads; None: two a CPU core.
    """
    workers = num_workers or 2 * cpu_cores()
    with (
        ThreadPoolExecutor(workers) as executor,
        closing(ordered_map(function, items, executor=executor, ahead=4 * workers)) as results,
    ):
        yield from progress(results, total=len(items), desc=desc, unit=unit, disable=not items)


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], *, desc: str, unit: str, num_workers: int | None = None
) -> Iterator[Result]:
    """`map` in processes with a progress bar: for work that keeps a core busy. One worker is this process.

    Args:
        function: Pickled by reference.
        items: What for.
        desc: What the bar says is done.
        unit: What it counts.
        num_workers: Processes, no more than there are items; None: one a CPU core.
    """
    workers = min(num_workers or cpu_cores(), len(items))
    with process_pool(workers) if workers > 1 else nullcontext() as pool:
        results = ordered_map(function, items, executor=pool, ahead=4 * max(1, workers))
        yield from progress(results, total=len(items), desc=desc, unit=unit, disable=not items)


def cpu_cores() -> int:
    """CPU cores this process may use; macOS does not tell, and has them all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes that can be had before the system swaps or kills; infinite where it does not tell, as macOS.

    A limit of the container is not seen.
    """
    try:
        with open("/proc/meminfo") as file:
            return next(1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return math.inf


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that know nothing of this one: safe beside threads and CUDA, on every system.

    Each imports the running script again, so what it runs should import little. An exception, Ctrl-C too, ends them at
    once, whatever they are at.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start) as executor:
        try:
            yield executor
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def start_method() -> str | None:
    """How a DataLoader's processes begin: forked from a clean server, where there is one; safe beside threads and CUDA.

    They hold none of this process' files: a lock ends with the process that took it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    # What the scripts import, once for all processes instead of once for each.
    forkserver.set_forkserver_preload(["torch", "torchvision", "timm", "cv2", "pandas", "matplotlib.figure"])
    with _sigterm_ignored():  # which is inherited: a signal to the whole group is this process' to handle
        forkserver.ensure_running()
    atexit.unregister(_kill_loader_processes)  # once is enough
    atexit.register(_kill_loader_processes)
    return "forkserver"


def _kill_loader_processes() -> None:
    """Ends those that a loader which something still refers to has left: Python would ask them by SIGTERM, and wait."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


@contextmanager
def _sigterm_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only that one may
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def start_loader_process(_: int) -> None:
    """Begins a process of a DataLoader: SIGTERM, too, is the parent's to handle, which then ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _start()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM arrive after the block; a process that is started in it does without them up to `_start`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    cv2.setNumThreads(1)  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot tell its workers; without this they would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
