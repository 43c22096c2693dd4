"""The estimates of `cloud.cost` as Markdown tables of hours and prices."""

from collections.abc import Mapping, Sequence

from cellsignal.cloud.cost import UTILISATION, Cost
from cellsignal.cloud.machines import GPUS, PRICES_OF, Gpu, find_gpu
from cellsignal.common.errors import InputError

RANGE = 0.1, 0.35  # of the peak: what is likely
SPOT = 0.4  # of the list price; spot prices move by the hour


def cost_text(
    name: str,
    cost: Cost,
    *,
    utilisation: float = UTILISATION,
    measured: Mapping[str, float] | None = None,
    gpus: Sequence[Gpu] = GPUS,
) -> str:
    """Return the estimate in Markdown: what is computed, then a row for each GPU.

    Args:
        utilisation: share of the peak that is assumed.
        measured: GPU -> training images/s of the first stage, as a run's log says it; replaces all
            assumptions for that GPU.
    """
    rates = {}
    for gpu_name, rate in (measured or {}).items():
        gpu = find_gpu(gpu_name, gpus)
        if gpu is None:
            raise InputError(
                f"--measured {gpu_name}: is not among {', '.join(gpu.name for gpu in gpus)}; name "
                "it by --gpu"
            )
        rates[gpu.name] = rate
    training = sum(job.training.flops for job in cost.jobs)
    validation = sum(job.validation.flops for job in cost.jobs)
    images = sum(job.images for job in cost.jobs)
    models = ", ".join(dict.fromkeys(job.fold for job in cost.jobs))
    low, high = min(RANGE[0], utilisation), max(RANGE[1], utilisation)
    first = cost.jobs[0].training
    lines = [
        f"{name} ({models}; {len(cost.jobs)} trainings): {_short(images)} training images of "
        f"{_short(cost.per_image / 1e9)} GFLOP",
        f"({_short(training / 1e15)} PFLOP), validation {_short(validation / 1e15)}, prediction "
        f"{_short(cost.prediction.flops / 1e15)} PFLOP.",
        *([cost.note] if cost.note else []),
        *_warnings(utilisation, f" (in brackets: {high:.0%} and {low:.0%})"),
        f"No faster than reading, {_short(cost.read_s * 1e3)} ms of a core an image (at most "
        f"{max(1, cost.workers)} cores, data.workers), and than "
        f"launching, {_short(first.launch_s / first.images * 1e3)} ms an image of the first "
        "stage: docs/cloud.md.",
        f"Spot is taken for {SPOT:.0%} of the list price.",
        "",
        "| GPU | list price, USD/h | images/s | bound by | hours | USD on demand | USD spot | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for gpu in gpus:
        lines.append(_row(cost, gpu, utilisation, (high, low), rates.get(gpu.name)))
    return "\n".join(lines)


def costs_text(
    costs: Mapping[str, Cost], *, utilisation: float = UTILISATION, gpus: Sequence[Gpu] = GPUS
) -> str:
    """Return hours and USD on demand of several configs on each GPU, as a Markdown table."""
    lines = [
        *_warnings(utilisation, ""),
        *dict.fromkeys(cost.note for cost in costs.values() if cost.note),
        "",
        "| recipe | models | million images | EFLOP | "
        + " | ".join(f"{gpu.name}, {_price(gpu.usd)} USD/h" for gpu in gpus)
        + " |",
        "|---|---|---|---|" + "---|" * len(gpus),
    ]
    for name, cost in costs.items():
        models = len({job.fold for job in cost.jobs})
        flops = (
            sum(job.training.flops + job.validation.flops for job in cost.jobs)
            + cost.prediction.flops
        )
        hours = [cost.seconds(gpu, utilisation) / 3600 for gpu in gpus]
        cells = [
            f"{_hours(h)} h, {_short(h * gpu.usd)} USD" for h, gpu in zip(hours, gpus, strict=True)
        ]
        images = sum(job.images for job in cost.jobs) / 1e6
        lines.append(
            f"| {name} | {models} | {_short(images)} | {_short(flops / 1e18)} | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _warnings(utilisation: float, bounds: str) -> list[str]:
    return [
        f"COMPUTED, NOT MEASURED: {utilisation:.0%} of the vendor's peak is an assumption{bounds}.",
        f"List prices as remembered ({PRICES_OF}), on demand, with the machine: CHECK BEFORE YOU "
        "RENT.",
    ]


def _row(
    cost: Cost, gpu: Gpu, utilisation: float, bounds: tuple[float, float], rate: float | None
) -> str:
    if rate is None:
        hours = cost.seconds(gpu, utilisation) / 3600
        between = " [{} to {}]".format(
            *(_hours(cost.seconds(gpu, bound) / 3600) for bound in bounds)
        )
        rate = cost.images_per_s(gpu, utilisation)
        bound = cost.bound(gpu, utilisation)
        note = gpu.source
    else:
        share = rate / cost.peak_images_per_s(gpu)
        if not 0 < share <= 1:
            raise InputError(
                f"--measured {gpu.name}={rate:g}: that is {share:.0%} of the peak of a "
                f"{gpu.name}; is it images/s of the first stage?"
            )
        hours, between = cost.computing_seconds(gpu, share) / 3600, ""
        bound, note = "measured", f"{share:.2g} of the peak, measured"
    price = hours * gpu.usd
    return (
        f"| {gpu.name} | {_price(gpu.usd)} | {_short(rate)} | {bound} | {_hours(hours)}{between} | "
        f"{_short(price)} | {_short(price * SPOT)} | {note} |"
    )


def _price(usd: float) -> str:
    return "?" if usd != usd else f"{usd:.2f}"


def _hours(hours: float) -> str:
    """Two digits; below .01 a start of the process takes longer than the work."""
    return "<0.01" if hours < 0.01 else _short(hours)


def _short(number: float) -> str:
    """Format a number with two digits, larger ones without decimals; "?" if unknown."""
    if number != number:
        return "?"
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}" if number >= 1 else f"{number:.2g}"
