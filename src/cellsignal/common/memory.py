"""Keep memory that one step on a CPU frees, so that the next step can take it."""

import ctypes
import functools
import os

# of glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _MORE_AT_ONCE = -1, 2**26  # bytes
CHOSEN_BY_THE_USER = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
    "GLIBC_TUNABLES",
)


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep freed memory; return whether it does so now.

    glibc gives every array above 32 MiB back to the system as soon as it is freed. A step takes
    such arrays anew for each activation, and the system clears their pages each time: up to a
    quarter of a training's time. With this the process stays as large as it once was. Where the
    environment sets one of `CHOSEN_BY_THE_USER`, nothing is changed.
    """
    if any(name in os.environ for name in CHOSEN_BY_THE_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _MORE_AT_ONCE))
    return all([mallopt(option, value) == 1 for option, value in options])
