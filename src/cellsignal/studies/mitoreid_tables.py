"""Write the tables of docs/results/mitoreid.md in Markdown."""

from cellsignal.studies.mitoreid import KNOWN, NETWORKS, NEW, STEPS, Scored, Timelapse

_RANKING = ("rank-1", "rank-5", "rank-10", "mAP")
_TITLES = {
    KNOWN: "Queries of drugs that trained, ranked as published (same library and drug left out)",
    NEW: "Queries of drugs that no stage saw, ranked strictly "
    "(same drug left out in every library)",
}
_BEST = "ipp"  # the best classifier of hand-made features


def timelapse_tables(timelapse: Timelapse) -> str:
    """Write every row on the queries of known and of new drugs, then what each step is worth."""
    networks = {network.name: timelapse.network(network) for network in NETWORKS}
    features = timelapse.hand_made()

    def both(name: str) -> float:
        return sum(features[name][part].mean("accuracy") for part in (KNOWN, NEW))

    best = max(features, key=both)
    parts = [_part_table(timelapse, part, networks, features) for part in (KNOWN, NEW)]
    return "\n\n".join([*parts, _steps_table({**networks, _BEST: features[best]}, best)]) + "\n"


def _part_table(
    timelapse: Timelapse,
    part: str,
    networks: dict[str, dict[str, Scored]],
    features: dict[str, dict[str, Scored]],
) -> str:
    drug, n_seeds = next(iter(networks.values()))[part].drug, len(timelapse.seeds)
    size = f"{len(drug)} queries of {len(set(drug))} drugs, {len(timelapse.classes)} mechanisms"
    seeds = f", mean of {n_seeds} seeds" if n_seeds > 1 else ""
    lines = [
        f"{_TITLES[part]}: {size}{seeds}; 95 % intervals over drugs.",
        "",
        f"| | accuracy | AUC | {' | '.join(_RANKING)} |",
        "|---" * 7 + "|",
    ]
    for network in NETWORKS:
        row = networks[network.name][part]
        cells = " | ".join(_cell(row, name) for name in _RANKING)
        start = f"| {network.title} | {_cell(row, 'accuracy')} | {row.auc.mean():.3f}"
        lines.append(f"{start} | {cells} |")
    for name, by_part in features.items():
        row = by_part[part]
        start = f"| hand-made features, {name} | {_cell(row, 'accuracy')} | {row.auc.mean():.3f}"
        lines.append(f"{start} | | | | |")
    return "\n".join(lines)


def _steps_table(rows: dict[str, dict[str, Scored]], best: str) -> str:
    columns = [(part, name) for part in (KNOWN, NEW) for name in ("accuracy", "mAP")]
    header = " | ".join(f"{part} drugs, {name}" for part, name in columns)
    lines = [
        "What each step is worth, on the same queries; 95 % intervals over drugs.",
        "",
        f"| step | {header} |",
        "|---" * 5 + "|",
    ]
    for title, better, worse in STEPS:
        cells = []
        for part, name in columns:
            a, b = rows[better][part], rows[worse][part]
            cells.append(_gain(a, b, name) if name in a.figures and name in b.figures else "")
        if worse == _BEST:
            title += f" ({best})"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Scored, name: str) -> str:
    low, high = row.interval(name)
    return f"{row.mean(name):.3f} [{low:.2f}, {high:.2f}]"


def _gain(a: Scored, b: Scored, name: str) -> str:
    gain, low, high = a.gain(b, name)
    return f"{gain:+.3f} [{low:+.2f}, {high:+.2f}]"
