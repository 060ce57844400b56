"""Calls spread over processes or threads: results in order, a bounded number under way, nothing left behind."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2

from utils.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, executor: Executor | None, ahead: int
) -> Iterator[Result]:
    """`map` with up to `ahead` calls under way: items are drawn no faster than results are taken.

    Args:
        function: Pickled by reference where `executor` has processes.
        items: Drawn in the caller's thread, while earlier calls run.
        executor: None calls the function here, one item after the other.
        ahead: Calls under way, at least 1; it bounds the memory.

    Raises:
        UserError: A process died.
    """
    if executor is None:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            while pending and (len(pending) >= ahead or pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenExecutor as error:
        raise UserError(
            "a worker process was killed, most likely for want of memory: use fewer of them (--num-workers)"
        ) from error
    finally:
        for future in pending:
            future.cancel()


def cpu_cores() -> int:
    """CPU cores this process may use; macOS does not tell, and has them all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot tell its workers; without this they would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
