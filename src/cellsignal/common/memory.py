"""Keep the memory that a network's steps on a CPU free, for the next step to take."""

import ctypes
import functools
import os

# of glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _MORE_AT_ONCE = -1, 2**26  # bytes
CHOSEN_BY_THE_USER = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep freed memory; return whether the C library knows how.

    glibc gives every array above 32 MiB back to the system as soon as it is freed. A step takes
    such arrays anew for each activation, and the system clears their pages each time: up to a fifth
    of a training's time. With this the process stays as large as it once was. What the environment
    says of malloc stays.
    """
    if any(name in os.environ for name in CHOSEN_BY_THE_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _MORE_AT_ONCE))
    return all([mallopt(option, value) == 1 for option, value in options])
