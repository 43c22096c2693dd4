"""Check that the device is there and computes; collect what it is. Needs torch alone."""

import os
import platform
from typing import Any

from cellsignal.studies.gpu_check.room import Room, require


def device(room: Room) -> dict[str, Any]:
    """Multiply exactly representable numbers on the device and on the CPU."""
    import torch

    figures = describe()
    if room.kind == "cuda":
        require(torch.cuda.is_available(), "torch sees no CUDA device")
    # small whole numbers: every order of additions gives the same result, in TF32 too
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 9, (257, 263), generator=generator).float() for _ in range(2))
    there = (a.to(room.device) @ b.T.to(room.device)).cpu()
    require(bool(torch.equal(there, a @ b.T)), "a product of matrices of whole numbers is wrong")
    image = torch.randint(0, 9, (2, 6, 33, 31), generator=generator).float()
    kernel = torch.randint(-4, 5, (8, 6, 3, 3), generator=generator).float()
    convolved = torch.nn.functional.conv2d(image.to(room.device), kernel.to(room.device)).cpu()
    wanted = torch.nn.functional.conv2d(image.double(), kernel.double()).float()
    apart = float((convolved - wanted).abs().max())
    require(apart < 1e-2, f"a convolution of whole numbers is {apart:g} off")
    return figures


def describe() -> dict[str, Any]:
    """Return the machine, the device and the versions, for the head of the table."""
    import torch

    figures = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "device": "cpu",
        "gpus": torch.cuda.device_count(),
    }
    if not torch.cuda.is_available():
        return figures
    about = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else ()
    return figures | {
        "device": about.name,
        "capability": list(torch.cuda.get_device_capability(0)),
        "multiprocessors": about.multi_processor_count,
        "memory_gib": round(total / 2**30, 1),
        "free_gib": round(free / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": list(nccl),
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model na")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
