"""What `profiles classify` makes of the run's embeddings, beside the network's own predictions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.prediction.entry import has_test, open_entry, with_part
from cellsignal.prediction.freshness import MADE_FROM
from cellsignal.report.html.outcomes import PARTS, Outcome, make_outcome
from cellsignal.report.html.page import counted, interval_text, paragraph, table, unit_name
from cellsignal.report.html.view import RunView


@dataclass(frozen=True)
class Classified:
    """One method's predictions of one part.

    Attributes:
        method: "centre", "knn" or "linear".
        outcome: its merged predictions beside their truth.
    """

    method: str
    outcome: Outcome


def classified(view: RunView) -> str | None:
    """Return the scores of classifiers of the embeddings; None where there are none."""
    classifiers = classified_embeddings(view)
    if not classifiers:
        return None
    rows = []
    for item in classifiers:
        value, low, high = item.outcome.clustered(view.fold_group)
        by, units = item.outcome.units(view.fold_group)
        interval = interval_text(low, high) if np.isfinite([low, high]).all() else ""
        rows.append(
            (
                item.method,
                PARTS[item.outcome.part],
                f"{value:.3f}",
                interval,
                f"{len(item.outcome.targets.target_id):,}",
                counted(len(set(units)), unit_name(by)),
            )
        )
    head = ("method", "part", view.metric, "95 % interval", "n", "over")
    note = (
        "The network's features of each well, classified by the training wells of the fold "
        "(`cellsignal profiles classify`). All other sections are of the network's own predictions."
    )
    return table(head, rows, numeric={2, 4}) + paragraph(note)


def classified_cards(view: RunView) -> list[tuple[str, str, str]]:
    """Return a card for each classifier out of fold, where the network is frozen."""
    if not (view.configs and view.config.model.frozen):
        return []
    cards = []
    for item in classified_embeddings(view):
        if item.outcome.part != "oof":
            continue
        value, low, high = item.outcome.clustered(view.fold_group)
        size = counted(len(item.outcome.targets.target_id), "well")
        interval = f"95 % interval {low:.3f} to {high:.3f}; " if np.isfinite(low) else ""
        name = f"Out-of-fold {view.metric}, {item.method} on embeddings"
        cards.append((name, f"{value:.3f}", f"{interval}{size}"))
    return cards


def classified_embeddings(view: RunView) -> list[Classified]:
    """Read what `profiles classify` wrote for the run, by method, the test set first.

    Raises:
        InputError: it was made from other embeddings than those in the run's folder.
    """
    files: dict[str, list[Path]] = {}
    for folder in view.folders:
        for path in sorted(folder.glob("predictions_embeddings/*.npz")):
            files.setdefault(path.stem.rpartition("_")[2], []).append(path)
    classifiers = []
    for method, paths in files.items():
        entry = open_entry(paths, view.config.submit, root=view.config.data.root)
        for path, member in zip(paths, entry.members, strict=True):
            _check_fresh(view, path, member.about)
        final = entry.final()
        parts = ["test"] if view.answers_file is not None and has_test(final) else []
        for part in [*parts, *["oof"] * bool(with_part(final, "oof"))]:
            truth = view.truth if part == "test" else None
            if part == "oof" or truth is not None:
                classifiers.append(Classified(method, make_outcome(entry, part, truth)))
    return classifiers


def _check_fresh(view: RunView, path: Path, about: dict) -> None:
    name = f"{path.stem.rpartition('_')[0]}.npz"
    source = path.parent.with_name("embeddings") / name
    if source.is_file() and sha256(source) != about[MADE_FROM]["embeddings"]:
        raise InputError(
            f"{path}: was made from other embeddings than {source}; "
            f"`cellsignal profiles classify {view.command}` makes it anew"
        )
