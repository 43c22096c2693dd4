"""The score after each post-processing step."""

from cellsignal.common.errors import InputError
from cellsignal.evaluation.ladder import Step, metric_of
from cellsignal.metrics.intervals import interval_words
from cellsignal.report.html.outcomes import PARTS
from cellsignal.report.html.page import bar, choices, interval_text, paragraph, table
from cellsignal.report.html.view import RunView


def steps(view: RunView) -> str:
    """Return a table for each part; every step adds one thing to the one before."""
    parts = [(PARTS[part], _table(rungs)) for part, rungs in view.ladders.items() if rungs]
    if not parts:
        raise InputError(f"nothing is predicted yet: `cellsignal predict {view.command}`")
    note = (
        "The grey tick is chance at that step: a step that makes the problem easier raises it, "
        "too. Steps chosen because they raise the out-of-fold score make it optimistic; the test "
        "score is not touched."
    )
    return choices(parts) + paragraph(note)


def _table(rungs: list[Step]) -> str:
    rows, before = [], None
    for step in rungs:
        value = step.score.value
        gain = "" if before is None else f"{value - before:+.4f}".replace("-", "−")
        interval = interval_text(step.score.low, step.score.high)
        rows.append(
            (
                step.name,
                bar(value, step.score.low, step.score.high, step.chance),
                f"{value:.4f}",
                interval,
                gain,
                f"{step.chance:.4f}",
                step.note,
            )
        )
        before = value
    head = ("step", metric_of(rungs), "", "95 % interval", "gain", "chance", "note")
    score = rungs[-1].score
    over = interval_words(score.unit, score.units) if score.unit else "intervals of these wells"
    caption = f"n = {score.total:,}; {over}"
    return table(head, rows, numeric={2, 4, 5}, caption=caption)
