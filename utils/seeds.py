"""Random numbers that are a function of what they are for, equal on every machine and in every process."""

import hashlib
import operator

import numpy as np


def seed_number(*parts: int | str) -> int:
    """A number of 128 bits that depends on all of `parts`, and on nothing else.

    Sums such as seed + epoch would give epoch 1 of seed 0 the samples of epoch 0 of seed 1; Python's hash() differs
    from process to process.

    Args:
        parts: such as seed, epoch and index, or seed and file name.
    """
    plain = tuple(part if isinstance(part, str) else operator.index(part) for part in parts)  # of NumPy's integers, too
    digest = hashlib.sha256(repr(plain).encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:16], "big")


def seeded_rng(*parts: int | str) -> np.random.Generator:
    """A NumPy generator that depends on all of `parts`, as `seed_number` does."""
    return np.random.default_rng(seed_number(*parts))
