"""Logits as float16, where that is precise enough, and back."""

import numpy as np

HALF_LIMIT = 256.0  # logits of this size or more are kept as float32
_SIGN_AND_REST = np.int32(0x8FFFE000 - 2**32)  # the bits of float32 that float16 has
_ORIGIN = np.float32(2.0**112)  # exponents count from 127 and from 15


def narrow(values: np.ndarray) -> np.ndarray:
    """Return logits as float16, or as float32 if any reaches `HALF_LIMIT` or is not finite.

    There float16 steps too coarsely, and ends at 65,504.
    """
    values = np.asarray(values)
    small = values.max(initial=0) < HALF_LIMIT and values.min(initial=0) > -HALF_LIMIT
    return values.astype(np.float16 if small else np.float32, copy=False)


def widen(values: np.ndarray) -> np.ndarray:
    """Return finite logits as float32; exact.

    float16 is moved to float32's places of sign, exponent and fraction, and the exponent's origin
    set right by one product: on processors where numpy turns one number at a time this is several
    times as fast.
    """
    if values.dtype != np.float16:
        return values.astype(np.float32)
    bits = values.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _SIGN_AND_REST
    wide = bits.view(np.float32)
    wide *= _ORIGIN
    return wide
