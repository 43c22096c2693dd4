"""The tables of the time-lapse ablation as Markdown."""

from cellsignal.studies.timelapse import KNOWN, NETWORKS, NEW, STEPS, Scored, Timelapse

_FIGURES = ("rank-1", "rank-5", "rank-10", "mAP")
_TITLES = {
    KNOWN: "Queries of drugs that trained, ranked as published (same library and drug left out)",
    NEW: "Queries of drugs that no stage saw, ranked strictly (same drug left out in every library)",
}
_BEST = "ipp"


def timelapse_tables(timelapse: Timelapse) -> str:
    """Every row on the queries of known and of new drugs, then what each step is worth."""
    found = {network.name: timelapse.network(network) for network in NETWORKS}
    features = timelapse.hand_made()
    best = max(
        features,
        key=lambda name: (
            features[name][KNOWN].mean("accuracy") + features[name][NEW].mean("accuracy")
        ),
    )
    parts = [
        _part(
            timelapse,
            part,
            {name: rows[part] for name, rows in found.items()},
            {name: rows[part] for name, rows in features.items()},
        )
        for part in (KNOWN, NEW)
    ]
    return "\n\n".join([*parts, _steps({**found, _BEST: features[best]}, best)]) + "\n"


def _part(
    timelapse: Timelapse, part: str, networks: dict[str, Scored], features: dict[str, Scored]
) -> str:
    one = next(iter(networks.values()))
    title = f"{_TITLES[part]}: {len(one.drug)} queries of {len(set(one.drug))} drugs, {len(timelapse.classes)} mechanisms"
    seeds = f", mean of {len(timelapse.seeds)} seeds" if len(timelapse.seeds) > 1 else ""
    lines = [
        f"{title}{seeds}; 95 % intervals over drugs.",
        "",
        "| | accuracy | AUC | " + " | ".join(_FIGURES) + " |",
        "|---" * 7 + "|",
    ]
    for network in NETWORKS:
        row = networks[network.name]
        lines.append(
            f"| {network.title} | {_cell(row, 'accuracy')} | {row.auc.mean():.3f} | "
            + " | ".join(_cell(row, name) for name in _FIGURES)
            + " |"
        )
    for name, row in features.items():
        lines.append(
            f"| hand-made features, {name} | {_cell(row, 'accuracy')} | {row.auc.mean():.3f} | | "
            "| | |"
        )
    return "\n".join(lines)


def _steps(found: dict[str, dict[str, Scored]], best: str) -> str:
    lines = [
        "What each step is worth, on the same queries; 95 % intervals over drugs.",
        "",
        "| step | "
        + " | ".join(
            f"{part} drugs, {name}" for part in (KNOWN, NEW) for name in ("accuracy", "mAP")
        )
        + " |",
        "|---" * 5 + "|",
    ]
    for title, better, worse in STEPS:
        cells = []
        for part in (KNOWN, NEW):
            for name in ("accuracy", "mAP"):
                a, b = found[better][part], found[worse][part]
                cells.append(_gain(a, b, name) if name in a.figures and name in b.figures else "")
        lines.append(
            f"| {title}{f' ({best})' if worse == _BEST else ''} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _cell(row: Scored, name: str) -> str:
    low, high = row.interval(name)
    return f"{row.mean(name):.3f} [{low:.2f}, {high:.2f}]"


def _gain(a: Scored, b: Scored, name: str) -> str:
    gain, low, high = a.gain(b, name)
    return f"{gain:+.3f} [{low:+.2f}, {high:+.2f}]"
