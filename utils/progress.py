"""The progress bar of all long work."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """A tqdm bar with the rate and the time left; where the output is not a terminal, a line only every 20 s."""
    interval_sec = 0.1 if sys.stderr is not None and sys.stderr.isatty() else 20.0
    return tqdm(iterable, dynamic_ncols=True, mininterval=interval_sec, maxinterval=interval_sec, **options)
