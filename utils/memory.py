"""How this process holds its memory."""

import ctypes
import platform

from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # as malloc.h names them
LARGEST_INT = 2**31 - 1
LARGEST_THRESHOLD = 32 * 2**20  # bytes; glibc takes no more
MOST_MAPPED = 65536  # blocks; glibc's own number


def keep_memory_of(module: nn.Module) -> bool:
    """Has the blocks that calls of a module free kept for its next call, instead of being handed back to the system.

    By default glibc maps each block of more than 32 MB anew, and most feature maps are larger: the system then clears
    every page of every one of them on its first touch, which takes a third of a network's time on a CPU. What is kept
    is about as much as the module has once used at a time, so it is worth having where that is bounded, as it is for
    the coarse stage in prediction. Blocks of more than 32 MB that are made elsewhere, photographs and their alphas, are
    mapped and handed back as ever: kept as well, blocks of many sizes would leave gaps that none of them fits.

    The setting is the process's, and changes with the module's calls. Other C libraries than glibc, and allocators that
    are preloaded in its place, are left as they are.

    Returns:
        Whether blocks are kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Setting the one switches off what glibc would learn about the other.
    kept = bool(mallopt(M_TRIM_THRESHOLD, LARGEST_INT)) and bool(mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD))
    module.register_forward_pre_hook(lambda *_: _ignore(mallopt(M_MMAP_MAX, 0)))
    module.register_forward_hook(lambda *_: _ignore(mallopt(M_MMAP_MAX, MOST_MAPPED)), always_call=True)
    return kept


def _ignore(status: int) -> None:
    """A hook that returns something would replace the module's inputs or outputs by it."""
