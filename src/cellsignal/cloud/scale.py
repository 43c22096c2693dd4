"""Work out what large machines and data sets need: bytes a second, cores, disk, hours, money.

Nothing is run: the page is arithmetic on measured figures and on assumptions, and names them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from cellsignal.cloud.machines import PRICES_OF, SITE_BYTES, find_gpu
from cellsignal.cloud.object_storage import object_storage_section
from cellsignal.common.errors import InputError

# docs/results/performance.md, one core of AMD EPYC, real six-channel sites of 512 px
READ_S = 1 / 296  # one process, from a zstd store
DECODE_S, ENCODE_S = 18.3e-3, 5.65e-3  # six `cv2.imread`; compressing the site
STORE_TO_PNG = 1.22  # bytes of a zstd store, to those of the PNGs
# RxRx1 as it was published
SITES, PLATES, PNG_BYTES = 125_510, 204, 47e9
# FLOPs of a training step of a 6 x 512 x 512 image, `models.cost`, and weights
NETWORKS = {"ResNet-50": (129e9, 25.6e6), "DenseNet161": (244e9, 28.7e6)}
STORED_BYTES = STORE_TO_PNG * PNG_BYTES / SITES
MACHINES = (("1 x H200", 1, 1), ("8 x H200", 1, 8), ("4 machines of 8 x H200", 4, 32))
TB = 1e12


def _assume(value: float, meaning: str) -> Any:
    return field(default=value, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Assumptions:
    """What was not measured here, each with its meaning."""

    peak_tflops: float = _assume(790.0, "of an H200 in dense bfloat16 products")
    utilisation: float = _assume(
        0.2, "share of that peak that training reaches; 0.1 to 0.35 is the likely range"
    )
    in_machine: float = _assume(0.95, "speed of 8 GPUs of one machine, to 8 times that of one")
    among_machines: float = _assume(0.9, "the same for several machines")
    cores_a_gpu: int = _assume(16, "CPU cores that read, for each GPU")
    gbit_a_machine: float = _assume(100.0, "network of a machine to the storage, Gbit/s")
    epochs: int = _assume(50, "of a training")
    times: int = _assume(100, "sites of the large data set, to those of RxRx1")
    raw_tb: float = _assume(
        100.0, "raw files of the large data set, TB, as those of RxRx3 and JUMP"
    )
    usd_a_gpu_hour: float = _assume(
        find_gpu("H200").usd, "price of a GPU, its share of the machine included"
    )
    usd_a_core_hour: float = _assume(0.04, "price of a core that packs")
    usd_a_tb_month: float = _assume(23.0, "price of object storage")
    answer_ms: float = _assume(50.0, "object storage, until all bytes of a site are there, ms")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 < value < 1e9:
                raise InputError(f"--set {each.name}={value:g}: a number above 0")
        for name in ("utilisation", "in_machine", "among_machines"):
            if getattr(self, name) > 1:
                raise InputError(f"--set {name}={getattr(self, name):g}: a share, up to 1")


def read_assumptions(words: Sequence[str]) -> Assumptions:
    """Return the assumptions with those of NAME=VALUE words.

    Raises:
        InputError: no such name, or a value that cannot be.
    """
    kinds = {each.name: each.type for each in fields(Assumptions)}
    values = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in kinds:
            raise InputError(f"--set {word}: there is {', '.join(kinds)}")
        try:
            values[name] = int(text) if kinds[name] is int else float(text)
        except ValueError:
            raise InputError(f"--set {word}: {text!r} is not a number") from None
    return Assumptions(**values)


@dataclass(frozen=True)
class Need:
    """What training one network at full speed needs on some GPUs.

    Attributes:
        rate: images/s that the GPUs can train on.
        stored, sent: bytes/s read from the store, and sent to the GPUs.
        cores: that reading at this rate keeps busy.
        fed: images/s with the cores and the network that there are.
        bound: by which of them, or by computing.
    """

    rate: float
    stored: float
    sent: float
    cores: float
    fed: float
    bound: str


def need(network: str, machines: int, gpus: int, given: Assumptions) -> Need:
    """Work out the need of one network on `gpus` GPUs in `machines` machines."""
    flops, _ = NETWORKS[network]
    scaling = given.among_machines if machines > 1 else given.in_machine if gpus > 1 else 1.0
    rate = gpus * scaling * given.utilisation * given.peak_tflops * 1e12 / flops
    limits = {
        "computing": rate,
        "cores": gpus * given.cores_a_gpu / READ_S,
        "network": machines * given.gbit_a_machine * 1e9 / 8 / STORED_BYTES,
    }
    bound = min(limits, key=limits.get)
    stored, sent = rate * STORED_BYTES, rate * SITE_BYTES
    return Need(rate, stored, sent, rate * READ_S, limits[bound], bound)


def exchange_share(network: str, gpus: int, batch: int, given: Assumptions) -> float:
    """Return how long exchanging gradients takes among machines, to the step of `batch` images.

    A ring sends and receives twice the float32 gradients, through each machine's network; DDP does
    it beside the backward pass, so below 1 it can be hidden.
    """
    flops, weights = NETWORKS[network]
    step = batch * flops / (given.utilisation * given.peak_tflops * 1e12)
    return 2 * 4 * weights * (gpus - 1) / gpus / (given.gbit_a_machine * 1e9 / 8) / step


# the page
# --------------------------------------------------------------------------------------------------


def scale_page(given: Assumptions) -> str:
    """Return docs/scale.md."""
    parts = [
        "# What large machines and data sets need",
        "    cellsignal cloud scale --out docs/scale.md      # --set NAME=VALUE changes an assumption",
        "**Arithmetic, not measurement.** No GPU, no cluster and no object storage was at hand; "
        "every figure follows from the two lists below.",
        _measured(),
        _assumed(given),
        "## Training at full speed\n\n" + _rates(given),
        "## Hours and money\n\n" + _hours(given),
        "## Packing\n\n" + _packing(given),
        "## Disk\n\n" + _disk(given),
        object_storage_section(
            _all_rates(given),
            given.answer_ms,
            given.times * SITES,
            given.times * PLATES,
            STORED_BYTES,
        ),
        _findings(given),
    ]
    return "\n\n".join(parts) + "\n"


def _measured() -> str:
    return f"""## What was measured

[results/performance.md](results/performance.md), one core of AMD EPYC, real sites of six channels
of 512 px:

- reading a site from a zstd store: {1000 * READ_S:.2f} ms ({1 / READ_S:.0f} sites/s a core)
- decoding six PNGs {1000 * DECODE_S:.1f} ms, compressing the site {1000 * ENCODE_S:.2f} ms
- bytes: a store has {STORE_TO_PNG} times the PNGs'; {STORED_BYTES / 1000:.0f} kB a site, and
  {SITE_BYTES / 1e6:.2f} MB as bytes on the way to a GPU
- RxRx1: {SITES:,} sites, {PLATES} plates, {PNG_BYTES / 1e9:.0f} GB of PNGs
- a training step of an image: {_flops()} (counted, `models/cost.py`)"""


def _flops() -> str:
    return ", ".join(f"{name} {flops / 1e9:.0f} GFLOP" for name, (flops, _) in NETWORKS.items())


def _assumed(given: Assumptions) -> str:
    lines = [
        f"| {each.name} | {getattr(given, each.name):g} | {each.metadata['meaning']} |"
        for each in fields(given)
    ]
    return (
        "## What is assumed\n\n| name | value | meaning |\n|---|---|---|\n"
        + "\n".join(lines)
        + f"\n\nPrices are as remembered for {PRICES_OF}; nothing was looked up."
    )


def _rates(given: Assumptions) -> str:
    lines = [
        "| machine | network | images/s | from the store, GB/s | to the GPUs, GB/s "
        "| cores that read | cores there | bound by |",
        "|---" * 8 + "|",
    ]
    for name, machines, gpus in MACHINES:
        for network in NETWORKS:
            one = need(network, machines, gpus, given)
            lines.append(
                f"| {name} | {network} | {one.rate:,.0f} | {one.stored / 1e9:.2f} "
                f"| {one.sent / 1e9:.1f} | {one.cores:.1f} | {gpus * given.cores_a_gpu} "
                f"| {one.bound} |"
            )
    return "\n".join(lines)


def _all_rates(given: Assumptions) -> list[tuple[str, str, int, float]]:
    return [
        (name, network, gpus, need(network, machines, gpus, given).rate)
        for name, machines, gpus in MACHINES
        for network in NETWORKS
    ]


def _hours(given: Assumptions) -> str:
    lines = ["| machine | network | RxRx1 | | large | |", "|---" * 6 + "|"]
    lines.append(f"| | | an epoch | {given.epochs} epochs | an epoch | {given.epochs} epochs |")
    for name, machines, gpus in MACHINES:
        for network in NETWORKS:
            fed = need(network, machines, gpus, given).fed
            cells = []
            for sites in (SITES, given.times * SITES):
                epoch = sites / fed / 3600
                usd = given.epochs * epoch * gpus * given.usd_a_gpu_hour
                cells += [_duration(epoch), f"{_duration(given.epochs * epoch)}, {usd:,.0f} USD"]
            lines.append(f"| {name} | {network} | {' | '.join(cells)} |")
    note = f"Large: {given.times} times RxRx1's sites. All sites train; validation is not in it."
    return "\n".join([*lines, "", note])


def _packing(given: Assumptions) -> str:
    lines = [
        "| data set | cores | decoding and compressing | fetching the raw files | USD |",
        "|---" * 5 + "|",
    ]
    decode_byte_s = DECODE_S / (PNG_BYTES / SITES)
    rows = (("RxRx1", SITES, PNG_BYTES), ("large", given.times * SITES, given.raw_tb * TB))
    for name, sites, raw in rows:
        for machines, cores in ((1, 16), (1, 128), (4, 512)):
            hours = (raw * decode_byte_s + sites * ENCODE_S) / cores / 3600
            fetch = raw / (machines * given.gbit_a_machine * 1e9 / 8) / 3600
            usd = max(hours, fetch) * cores * given.usd_a_core_hour
            lines.append(
                f"| {name} | {cores} in {machines} | {_duration(hours)} | {_duration(fetch)} "
                f"| {usd:,.0f} |"
            )
    plate = SITES / PLATES * (DECODE_S + ENCODE_S) / 8
    return "\n".join(
        [
            *lines,
            "",
            "Decoding is in proportion to the raw files' bytes, at the PNGs' rate of "
            f"{1e-6 / decode_byte_s:.0f} MB/s a core. A plate of RxRx1 ({SITES / PLATES:.0f} sites) "
            f"is {plate:.0f} s on 8 cores: a task that is lost costs no more "
            "(`prepare --part K/N`, [cloud.md](cloud.md)).",
        ]
    )


def _disk(given: Assumptions) -> str:
    lines = ["| data set | raw | zstd store | as bytes | store, USD a month |", "|---" * 5 + "|"]
    rows = (("RxRx1", SITES, PNG_BYTES), ("large", given.times * SITES, given.raw_tb * TB))
    for name, sites, raw in rows:
        stored = sites * STORED_BYTES
        usd = stored / TB * given.usd_a_tb_month
        lines.append(
            f"| {name} | {raw / TB:.3g} TB | {stored / TB:.3g} TB | {sites * SITE_BYTES / TB:.3g} TB "
            f"| {usd:,.0f} |"
        )
    return "\n".join(lines)


def _findings(given: Assumptions) -> str:
    share = exchange_share("ResNet-50", 32, 64, given)
    one = need("ResNet-50", 1, 1, given)
    return f"""## What follows

- One H200 that trains ResNet-50 reads {one.stored / 1e6:.0f} MB/s and keeps {one.cores:.1f} cores
  busy with it: a disk and a few cores feed it.
- Four machines of eight read {need("ResNet-50", 4, 32, given).stored / 1e9:.1f} GB/s together, each
  a quarter; RxRx1's store fits on each machine's own disk, and should be copied there.
- The large store, {given.times * SITES * STORED_BYTES / TB:.1f} TB, needs disks of that size in
  each machine, or is read from object storage in every epoch, from more processes than GPUs.
- Gradients of ResNet-50 among 32 GPUs take {share:.2f} of a step of 64 images a GPU, beside the
  backward pass: they can be hidden."""


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 2:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"
