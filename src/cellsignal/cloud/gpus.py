"""What common GPUs can do and cost: vendors' peaks, and list prices as remembered, to be checked
before renting.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cellsignal.common.errors import InputError

PRICES_OF = "2025-06"  # the month that the prices are remembered from; nothing here was looked up
USUAL_CORES = 8  # of a machine with a GPU that the table does not know


@dataclass(frozen=True)
class Gpu:
    """One GPU, or several as one offer, and the cheapest usual machine that has it.

    Attributes:
        half: dense peak in float16 or bfloat16 summed in float32, with matrix units where there are
        such, TFLOP/s, from NVIDIA's
            data sheets; of all GPUs together.
        single: the same of float32 convolutions as torch makes them by default: TF32 where there is
        TF32. memory: GB of each. cores: virtual CPU cores of the machine, which read the images.
        usd: an hour, on demand, machine included; list price as remembered (`PRICES_OF`); NaN where
        it is not known. source: whose price. count: GPUs.
    """

    name: str
    half: float
    single: float
    memory: int
    cores: int
    usd: float
    source: str
    count: int = 1


GPUS = (
    Gpu("T4", 65, 8.1, 16, 4, 0.53, "AWS g4dn.xlarge"),
    Gpu("T4 x2", 130, 16.2, 16, 4, 0.0, "Kaggle, hours rationed", 2),
    Gpu("P100", 18.7, 9.3, 16, 4, 0.0, "Kaggle, hours rationed"),
    Gpu("V100", 125, 15.7, 16, 8, 3.06, "AWS p3.2xlarge"),
    Gpu("L4", 121, 60, 24, 4, 0.80, "AWS g6.xlarge"),
    Gpu("A10G", 70, 35, 24, 4, 1.01, "AWS g5.xlarge"),
    Gpu("RTX 3090", 71, 35.6, 24, 8, 0.46, "RunPod"),
    Gpu("RTX 4090", 165, 82.6, 24, 8, 0.69, "RunPod"),
    Gpu("A100", 312, 156, 40, 12, 3.67, "Google a2-highgpu-1g"),
    Gpu("H100", 989, 494, 80, 16, 6.88, "AWS p5.4xlarge"),
    Gpu("H200", 989, 494, 141, 16, 3.99, "RunPod"),
)


def choose_gpus(
    words: Sequence[str] = (), prices: Mapping[str, str] | None = None, cores: int | None = None
) -> tuple[Gpu, ...]:
    """Return the GPUs that the options name, all of the table where they name none.

    Args:
        words: NAME of the table, or NAME=HALF or NAME=HALF/SINGLE of any card: its peaks in TFLOP/s
        (`Gpu`). prices: NAME -> USD an hour; replaces the table's. cores: that read the images, on
        every machine; None takes the table's.

    Raises:
        InputError: an unknown name without a peak, a peak or price that is no such number, a price
        of a GPU that is not chosen.
    """
    chosen = tuple({_key(gpu.name): gpu for gpu in map(_parse, words)}.values()) or GPUS
    for name, text in (prices or {}).items():
        usd, key = parse_number(text, f"--price {name}={text}", least=0.0), _key(name)
        if key not in {_key(gpu.name) for gpu in chosen}:
            raise InputError(
                f"--price {name}: is not among {', '.join(gpu.name for gpu in chosen)}; name it "
                "by --gpu"
            )
        chosen = tuple(
            replace(gpu, usd=usd, source="--price") if _key(gpu.name) == key else gpu
            for gpu in chosen
        )
    if cores is not None:
        if cores < 1:
            raise InputError(f"--cores {cores}: at least 1")
        chosen = tuple(replace(gpu, cores=cores) for gpu in chosen)
    return chosen


def find_gpu(name: str, gpus: Sequence[Gpu] = GPUS) -> Gpu | None:
    """Return the GPU of that name, whatever its case, blanks and hyphens."""
    return next((gpu for gpu in gpus if _key(gpu.name) == _key(name)), None)


def _parse(word: str) -> Gpu:
    name, equals, peaks = word.partition("=")
    name = name.strip()
    if not _key(name) or "|" in name:
        raise InputError(
            f"--gpu {word}: write NAME, or NAME=TFLOPS of a card that is not in the table"
        )
    gpu = find_gpu(name)
    if not equals:
        if gpu is None:
            names = ", ".join(known.name for known in GPUS)
            raise InputError(
                f"--gpu {name}: not in the table ({names}); give its dense float16 peak in "
                f"TFLOP/s, --gpu '{name}=100'"
            )
        return gpu
    half, slash, single = peaks.partition("/")
    numbers = [parse_number(text, f"--gpu {word}") for text in (half, *([single] if slash else []))]
    gpu = gpu or Gpu(name, 0.0, 0.0, 0, USUAL_CORES, math.nan, "price not given (--price)")
    return replace(gpu, half=numbers[0], single=numbers[-1] if slash else numbers[0] / 2)


def parse_number(text: str, option: str, least: float = 1e-9) -> float:
    """The finite number from `least` that an option's text is; a refusal that names the option
    else.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= least):
        raise InputError(
            f"{option}: {text!r} is no number{' from 0' if least == 0 else ' above 0'}"
        )
    return number


def _key(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.casefold())
