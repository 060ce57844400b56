"""Ctrl-C and SIGTERM as a wish that is granted when the work at hand is done."""

import signal
import threading
from types import FrameType

from utils.errors import Terminated


class Interruption:
    """While it is entered, SIGINT and SIGTERM are noted, and end nothing; a second SIGINT ends all at once.

    Attributes:
        signal: The number of the first one that came, 0 if none did.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # only that one may
            self._before = {each: signal.signal(each, self._note) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


def end_with(number: int) -> None:
    """Ends the program as this signal would, by an exception that `run_script` turns into its exit status."""
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated
