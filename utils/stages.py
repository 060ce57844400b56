"""How long the stages of some work take, which may run beside each other."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """Seconds by stage, added up over threads: what runs beside something else counts for itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Counts what is done in the block, also if it fails."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
