"""Random numbers that are a function of what they are for, equal on every machine and in every process."""

import hashlib
import operator

import numpy as np


def seeded_rng(*parts: int | str) -> np.random.Generator:
    """A generator that depends on all of `parts`, and on nothing else.

    Sums such as seed + epoch would give epoch 1 of seed 0 the samples of epoch 0 of seed 1; Python's hash() differs
    from process to process.

    Args:
        parts: such as seed, epoch and index, or seed and file name.
    """
    plain = tuple(part if isinstance(part, str) else operator.index(part) for part in parts)  # of NumPy's integers, too
    digest = hashlib.sha256(repr(plain).encode(errors="surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
