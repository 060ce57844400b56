"""How this process holds its memory."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from utils.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # as malloc.h names them
LARGEST_INT = 2**31 - 1
LARGEST_THRESHOLD = 32 * 2**20  # bytes; glibc takes no more
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "not enough memory", "insufficient memory")
MOST_MAPPED = 65536  # blocks; glibc's own number


def keep_memory_of(module: nn.Module) -> bool:
    """Makes this process keep the memory that a module's calls free for its next call, not hand it back to the system.

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


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, torch's on any device, OpenCV's or onnxruntime's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return not isinstance(error, UserError) and any(words in text for words in _OUT_OF_MEMORY)


def free_cached(device: torch.device) -> None:
    """Hands back what torch keeps of a GPU's memory for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


class OutOfMemory(UserError):
    """A photograph is too large for the memory there is."""

    def __init__(self) -> None:
        super().__init__("too large for the memory there is; reduce it, or give the program more")


@contextmanager
def lack_of_memory_told() -> Iterator[None]:
    """Whatever says that memory ran out becomes an `OutOfMemory`."""
    try:
        yield
    except Exception as error:
        if not is_lack_of_memory(error):
            raise
        raise OutOfMemory from error
