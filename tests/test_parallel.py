"""utils.parallel: results in order, few items under way, and no error that is lost."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.parallel import free_memory, in_processes, in_threads, ordered_map, process_pool

ROOT = Path(__file__).resolve().parents[1]


def later_is_quicker(index: int) -> int:
    time.sleep(0.03 * (5 - index % 6))
    return index * index


def die(index: int) -> int:
    if index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return index


def refuse(index: int) -> int:
    if index == 2:
        raise UserError("2.png: damaged; replace it", kind="damaged")
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


def test_the_weight_under_way_is_bounded_but_for_one_item_alone() -> None:
    weights, under_way, largest = [3, 1, 4, 30, 2, 2, 5, 9, 1, 1], [], []
    lock = threading.Lock()

    def work(weight: int) -> int:
        with lock:
            under_way.append(weight)
            largest.append(list(under_way))
        time.sleep(0.02)
        with lock:
            under_way.remove(weight)
        return weight

    with ThreadPoolExecutor(4) as executor:
        results = ordered_map(work, weights, executor=executor, ahead=4, weigh=float, most=8)
        assert list(results) == weights
    assert all(sum(each) <= 8 or len(each) == 1 for each in largest)
    assert any(len(each) > 1 for each in largest)


@pytest.mark.parametrize("num_workers", [1, 3, None])
def test_threads_give_results_in_order_under_a_bar(num_workers: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    results = in_threads(later_is_quicker, range(13), desc="square", unit="number", num_workers=num_workers)
    assert list(results) == [index * index for index in range(13)]
    assert "square: 100%" in capsys.readouterr().err
    assert list(in_threads(later_is_quicker, [], desc="square", unit="number")) == []
    assert "square" not in capsys.readouterr().err


@pytest.mark.parametrize("how", ["leave", "raise", "fail"])
def test_an_end_in_the_middle_waits_for_nothing_that_has_not_begun(how: str) -> None:
    drawn, called = [], []

    class Items(list):
        def __iter__(self) -> Iterator[int]:
            for index in super().__iter__():
                drawn.append(index)
                yield index

    def call(index: int) -> None:
        called.append(index)
        time.sleep(0.05)
        if how == "fail":
            raise UserError("damaged")

    with pytest.raises((UserError, KeyboardInterrupt)) if how != "leave" else nullcontext():
        for _ in in_threads(call, Items(range(400)), desc="call", unit="call", num_workers=2):
            if how == "raise":
                raise KeyboardInterrupt
            break
    assert len(drawn) <= 9
    assert len(called) <= 5  # of eight under way: one result, what ran beside it, and what followed meanwhile


def test_an_error_arrives_as_what_it_was_raised_as() -> None:
    with process_pool(1) as pool:
        results = ordered_map(refuse, range(5), executor=pool, ahead=2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(UserError, match=r"^2\.png: damaged; replace it$") as caught:
            next(results)
    assert caught.value.kind == "damaged"


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


LOADER_IS_LEFT = """
from torch.utils.data import DataLoader
from utils.parallel import start_loader_process, start_method
if __name__ == "__main__":
    loader = DataLoader(
        range(9), num_workers=1, multiprocessing_context=start_method(), worker_init_fn=start_loader_process
    )
    batches = iter(loader)  # what refers to it ends with the interpreter only
    print(next(batches).item())
"""


def test_a_program_ends_though_something_refers_to_its_loader(tmp_path: Path) -> None:
    """Its processes are deaf to SIGTERM, by which Python ends what is left before it waits for it."""
    (tmp_path / "left.py").write_text(LOADER_IS_LEFT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, tmp_path / "left.py"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended.stderr


def test_free_memory_is_a_number_of_bytes() -> None:
    assert free_memory() > 2**24  # in kilobytes it would be less


def test_in_processes_one_worker_is_this_process_and_more_are_others() -> None:
    here = multiprocessing.current_process().pid
    alone = list(in_processes(pid_of, [3, 1, 2], desc="", unit="", num_workers=1))
    assert alone == [(3, here), (1, here), (2, here)]
    shared = list(in_processes(pid_of, [3, 1, 2], desc="", unit="", num_workers=2))
    assert [item for item, _ in shared] == [3, 1, 2] and here not in {pid for _, pid in shared}
    assert list(in_processes(pid_of, [], desc="", unit="")) == []


def pid_of(item: int) -> tuple[int, int]:
    return item, multiprocessing.current_process().pid
