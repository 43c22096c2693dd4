"""In which numbers a stage computes on the device that is there.

bfloat16 is several times as fast as float32 where the hardware has it, and many times as slow where
it is emulated: on CPUs without AVX-512 ten times, on GPUs before Ampere (T4, P100, V100) slower
than float32.
"""

from typing import Literal

import torch

Amp = Literal["auto", "off", "bf16", "fp16"]


def compute_dtype(amp: Amp, device: torch.device) -> torch.dtype:
    """float32, bfloat16 or float16. "auto": bfloat16 where the device has it, else float16 on a GPU
    and float32 on a CPU.
    """
    if amp == "auto":
        if device.type == "cuda":
            return (
                torch.bfloat16
                if torch.cuda.is_bf16_supported(including_emulation=False)
                else torch.float16
            )
        return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32
    return {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def autocast(amp: Amp, device: torch.device) -> torch.autocast:
    """Mixed precision as `compute_dtype` says; a context that changes nothing for float32."""
    dtype = compute_dtype(amp, device)
    mixed = dtype != torch.float32
    return torch.autocast(device.type, dtype if mixed else torch.bfloat16, enabled=mixed)


def _cpu_has_bfloat16() -> bool:
    # what torch itself asks; it has no public name
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())
