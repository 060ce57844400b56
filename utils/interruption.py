"""Ctrl-C, SIGTERM and a closed terminal as a wish that is granted when the work at hand is done."""

import signal
import threading
from types import FrameType

from utils.errors import Terminated

# SIGHUP, of a terminal that is closed, is unknown to Windows.
NOTED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interruption:
    """While it is entered, SIGINT, SIGTERM and SIGHUP are noted, and end nothing; a second SIGINT ends all at once.

    What the program was told to ignore, as nohup does, stays ignored.

    Attributes:
        signal: The number of the first one that came, 0 if none did.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # only that one may
            heeded = (each for each in NOTED if signal.getsignal(each) != signal.SIG_IGN)
            self._before = {each: signal.signal(each, self._note) for each in heeded}
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
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
