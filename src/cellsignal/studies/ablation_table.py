"""The ablation's tables as Markdown: parts of training, ways of predicting, and the final recipe
against the plain one.
"""

from collections.abc import Iterable

from cellsignal.data.views import DIHEDRAL
from cellsignal.studies.ablation import (
    BASELINE,
    ENSEMBLE_SEEDS,
    FINAL,
    REFERENCE,
    SEEDS,
    VARIANTS,
    Outcome,
    Runs,
    reference,
)

KINDS = ("none", "groups", "hungarian", "sinkhorn")
TITLES = {
    "none": "no assignment",
    "groups": "plate groups",
    "hungarian": "Hungarian",
    "sinkhorn": "Sinkhorn",
}
_ONE_VIEW, _DIHEDRAL = {"views": DIHEDRAL[:1]}, {"views": DIHEDRAL}


def table(runs: Runs) -> str:
    """All tables of the finished ablation."""
    return "\n\n".join([_training(runs), _predicting(runs), _final(runs)]) + "\n"


def _training(runs: Runs) -> str:
    lines = [
        "| what | validation | test | gain on test over the reference | test, Hungarian |",
        "|---|---|---|---|---|",
    ]
    base = runs.outcome(reference(), "test", **_ONE_VIEW)
    for section, variants in VARIANTS.items():
        lines.append(f"| **{section}** | | | | |")
        for variant in variants:
            valid, test = (runs.outcome(variant, part, **_ONE_VIEW) for part in ("oof", "test"))
            assigned = runs.outcome(variant, "test", "hungarian", **_ONE_VIEW)
            gain = "" if variant.name == REFERENCE else _gain(test, base)
            lines.append(
                f"| {variant.title} | {valid.accuracy:.3f} ({valid.seeds_sd:.3f}) | "
                f"{_figure(test)} | {gain} | {assigned.accuracy:.3f} |"
            )
    return "\n".join(lines)


def _predicting(runs: Runs) -> str:
    """Sites, views, ensembles and assignment, of the reference and of the final recipe."""
    rows: list[tuple[str, dict]] = [
        ("one site, one view", {**_ONE_VIEW, "sites": (1,)}),
        ("two sites, one view", _ONE_VIEW),
        ("two sites, 8 views", _DIHEDRAL),
        ("two sites, 16 views", {}),
    ]
    lines = [
        "| test wells | "
        + " | ".join(f"{name}, {TITLES[kind]}" for name in ("reference", "final") for kind in KINDS)
        + " |",
        "|---" * 9 + "|",
    ]
    for title, options in rows:
        lines.append(
            _line(
                title,
                [
                    runs.outcome(v, "test", kind, **options)
                    for v in (reference(), FINAL)
                    for kind in KINDS
                ],
            )
        )
    for number in (3, 5):
        seeds = ENSEMBLE_SEEDS[:number]
        trained = (reference(), FINAL) if number <= len(SEEDS) else (reference(), None)
        merged = [
            v and runs.outcome(v, "test", kind, seeds, number, **_DIHEDRAL)
            for v in trained
            for kind in KINDS
        ]
        lines.append(_line(f"two sites, 8 views, ensemble of {number}", merged))
    return "\n".join(lines)


def _final(runs: Runs) -> str:
    """What share of the baseline's error the final recipe takes away, predicted in the same way."""
    lines = [
        "| predicted with | plain two stages | final recipe | gain | share of the error that is "
        "gone |",
        "|---|---|---|---|---|",
    ]
    for title, options in (("one view", _ONE_VIEW), ("8 views", _DIHEDRAL)):
        for kind in ("none", "hungarian"):
            plain, final = (
                runs.outcome(variant, "test", kind, **options) for variant in (BASELINE, FINAL)
            )
            gone = (final.accuracy - plain.accuracy) / (1 - plain.accuracy)
            lines.append(
                f"| {title}, {TITLES[kind]} | {_figure(plain)} | {_figure(final)} | "
                f"{_gain(final, plain)} | {gone:.2f} |"
            )
    return "\n".join(lines)


def _line(title: str, outcomes: Iterable[Outcome | None]) -> str:
    return (
        f"| {title} | "
        + " | ".join("" if outcome is None else f"{outcome.accuracy:.3f}" for outcome in outcomes)
        + " |"
    )


def _figure(outcome: Outcome) -> str:
    low, high = outcome.interval()
    return f"{outcome.accuracy:.3f} [{low:.2f}, {high:.2f}]"


def _gain(outcome: Outcome, other: Outcome) -> str:
    gain, low, high = outcome.gain(other)
    return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"
