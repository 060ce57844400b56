"""utils.interruption: signals are a wish; only a second Ctrl-C is an order."""

import contextlib
import operator
import signal
import threading

import pytest

from utils.errors import Terminated
from utils.interruption import Interruption, end_with

BOTH = (signal.SIGINT, signal.SIGTERM)
HANGUP = getattr(signal, "SIGHUP", None)  # unknown to Windows


def handlers() -> list:
    return [signal.getsignal(each) for each in BOTH]


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_is_noted_and_ends_nothing(number: int) -> None:
    before = handlers()
    with Interruption() as interruption:
        assert interruption.signal == 0
        signal.raise_signal(number)
        assert interruption.signal == number
        signal.raise_signal(signal.SIGTERM)  # as batch systems send more than one
        assert interruption.signal == number, "the first one decides on the exit status"
    assert handlers() == before and interruption.signal == number


@pytest.mark.parametrize("first", BOTH)
def test_a_second_ctrl_c_ends_all_at_once(first: int) -> None:
    before = handlers()
    done = []
    with contextlib.suppress(KeyboardInterrupt), Interruption():
        signal.raise_signal(first)
        done.append("the wish")
        signal.raise_signal(signal.SIGINT)
        done.append("the order")
    assert done == ["the wish"] and handlers() == before


def test_handlers_are_put_back_after_an_exception() -> None:
    before = handlers()
    with contextlib.suppress(ZeroDivisionError), Interruption():
        assert not any(map(operator.eq, handlers(), before))
        raise ZeroDivisionError
    assert handlers() == before


def test_in_another_thread_it_does_nothing() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with Interruption() as interruption:
            seen.append((interruption.signal, handlers()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, before)] and handlers() == before


def test_the_program_ends_as_by_the_signal() -> None:
    with pytest.raises(KeyboardInterrupt):
        end_with(signal.SIGINT)
    with pytest.raises(Terminated):
        end_with(signal.SIGTERM)


@pytest.mark.skipif(HANGUP is None, reason="no SIGHUP")
def test_a_closed_terminal_is_noted_unless_it_is_to_be_ignored() -> None:
    before = signal.getsignal(HANGUP)
    try:
        signal.signal(HANGUP, signal.SIG_DFL)
        with Interruption() as interruption:
            signal.raise_signal(HANGUP)
            assert interruption.signal == HANGUP
        with pytest.raises(Terminated) as ended:
            end_with(HANGUP)
        assert ended.value.number == HANGUP
        signal.signal(HANGUP, signal.SIG_IGN)  # as nohup does
        with Interruption() as interruption:
            signal.raise_signal(HANGUP)
            assert interruption.signal == 0
    finally:
        signal.signal(HANGUP, before)
