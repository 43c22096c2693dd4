"""What common GPUs can do and cost: vendors' peaks, and list prices as remembered, to be checked before renting."""

from dataclasses import dataclass

PRICES_OF = "2025-06"  # the month that the prices are remembered from; nothing here was looked up


@dataclass(frozen=True)
class Gpu:
    """One GPU and the cheapest usual machine that has it alone.

    Attributes:
        half: dense peak in float16 or bfloat16 with matrix units, TFLOP/s, from NVIDIA's data sheet.
        single: the same of float32 convolutions as torch makes them by default: TF32 where there is TF32.
        memory: GB.
        usd: an hour, on demand, machine included; list price as remembered (`PRICES_OF`).
        source: whose price.
    """

    name: str
    half: float
    single: float
    memory: int
    usd: float
    source: str


GPUS = (
    Gpu("T4", 65, 8.1, 16, 0.53, "AWS g4dn.xlarge"),
    Gpu("L4", 121, 60, 24, 0.80, "AWS g6.xlarge"),
    Gpu("A10G", 70, 35, 24, 1.01, "AWS g5.xlarge"),
    Gpu("A100", 312, 156, 40, 3.67, "Google a2-highgpu-1g"),
    Gpu("H100", 989, 494, 80, 6.88, "AWS p5.4xlarge"),
)
