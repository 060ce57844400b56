"""utils.parallel: results in order, few items under way, and no error that is lost."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from utils.errors import UserError
from utils.parallel import free_memory, ordered_map, process_pool


def later_is_quicker(index: int) -> int:
    time.sleep(0.03 * (5 - index % 6))
    return index * index


def die(index: int) -> int:
    if index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return index


def refuse(index: int) -> int:
    if index == 2:
        raise UserError("2.png: damaged; replace it")
    return index


def signal_state(_: int) -> tuple:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return blocked, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("threads", [0, 3])
def test_results_come_in_order_and_items_are_drawn_no_further_than_agreed(threads: int) -> None:
    drawn, drawers = [], set()

    def items() -> Iterator[int]:
        for index in range(18):
            drawn.append(index)
            drawers.add(threading.get_ident())
            yield index

    executor = ThreadPoolExecutor(threads) if threads else None
    taken = []
    for result in ordered_map(later_is_quicker, items(), executor=executor, ahead=4):
        taken.append(result)
        assert len(drawn) - len(taken) < 4
    assert taken == [index * index for index in range(18)]
    assert drawers == {threading.get_ident()}


def test_an_error_arrives_as_what_it_was_raised_as() -> None:
    with process_pool(1) as pool:
        results = ordered_map(refuse, range(5), executor=pool, ahead=2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(UserError, match=r"^2\.png: damaged; replace it$"):
            next(results)


def test_a_killed_process_is_an_error_that_names_memory() -> None:
    with pytest.raises(UserError, match=r"memory.*--num-workers"), process_pool(1) as pool:
        list(ordered_map(die, range(5), executor=pool, ahead=2))


def test_an_interruption_leaves_no_thread_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more calls under way than the processes have begun: a thread of the pool stumbles over cancelled ones."""
    caught = []
    monkeypatch.setattr(threading, "excepthook", caught.append)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), process_pool(1) as pool:
        list(map(interrupt, ordered_map(later_is_quicker, range(60), executor=pool, ahead=20)))
    assert caught == []


def test_a_process_is_deaf_to_signals_only_while_it_starts() -> None:
    """Ctrl-C is never its own, from its first moment on; SIGTERM ends it when it runs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with process_pool(1) as pool:
        (state,) = ordered_map(signal_state, [0], executor=pool, ahead=1)
    assert state == (set(), signal.SIG_IGN, signal.SIG_DFL)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_free_memory_is_a_number_of_bytes() -> None:
    assert free_memory() > 2**24  # in kilobytes it would be less
