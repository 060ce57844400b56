"""How this process holds its memory."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # as malloc.h names them
LARGEST_INT = 2**31 - 1


def keep_large_blocks() -> bool:
    """Has freed blocks of any size kept for the next ones, instead of being handed back to the system.

    By default glibc maps each block of more than 32 MB anew, and most feature maps are larger: the system then clears
    every page of every one of them on its first touch, which takes a third of a network's time on a CPU. What is kept
    is about as much as the process has once used at a time (at worst eight blocks of a size for one), so it is worth
    having where memory is bounded, as in prediction.

    It holds for the whole process, and for good. Other C libraries than glibc, and allocators that are preloaded in its
    place, are left as they are.

    Returns:
        Whether blocks are kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST_INT))
