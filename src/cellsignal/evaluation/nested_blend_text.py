"""Print what a blend is worth: ways, members, correlation of errors, and the verdict."""

import math

from cellsignal.common.tables import aligned
from cellsignal.evaluation.blend_members import Members
from cellsignal.evaluation.nested_blend import NAMES, Change, NestedBlend


def nested_blend_text(members: Members, nested: NestedBlend, unit: str) -> str:
    """Return the tables of a nested blend as text."""
    metric = members.metric.replace("_", " ")
    head = (
        f"{len(members.names)} members, {len(members.unit):,} out-of-fold targets of "
        f"{members.units} {unit}s; chosen on the other parts of {nested.parts}, measured on each"
    )
    weighing = (
        f"every {unit} weighs the same; intervals are 95 % over {unit}s; 'in sample' is the gain "
        "on the targets that chose: never quote it"
    )
    return "\n\n".join(
        [
            head,
            _ways_text(nested, metric),
            weighing,
            _members_text(members, nested, metric),
            _correlation_text(members, nested),
            verdict(nested, metric, unit),
        ]
    )


def verdict(nested: NestedBlend, metric: str, unit: str) -> str:
    """Say in one line whether the blend is better than equal weights."""
    gain, name = nested.gain.score, NAMES[nested.method]
    if nested.method == "equal":
        return "equal weights: nothing was chosen"
    figures = f"{gain.change:+.4f} {metric} {range_text(gain)}".rstrip()
    if math.isnan(gain.low) and gain.change == 0:
        return f"{name}: {metric} is that of equal weights"
    if math.isnan(gain.low):
        return f"{name}: {figures}, without an interval: too few {unit}s to tell"
    if gain.low > 0:
        return f"{name} is better than equal weights on unseen {unit}s: {figures}"
    if gain.high < 0:
        return f"{name} is WORSE than equal weights on unseen {unit}s: {figures}; --method equal"
    return f"{name} is no better than equal weights beyond its interval: {figures}"


def range_text(change: Change) -> str:
    """Write the interval of a change as "[+0.01, +0.02]"; "" if there is none."""
    return "" if math.isnan(change.low) else f"[{change.low:+.4f}, {change.high:+.4f}]"


def _ways_text(nested: NestedBlend, metric: str) -> str:
    lines = [("way", metric, "gain", "95 %", "log-loss", "change", "95 %", "in sample")]
    for row in nested.rows:
        lines.append(
            (
                row.name,
                f"{row.score.value:.4f}",
                f"{row.score.change:+.4f}",
                range_text(row.score),
                f"{row.loss.value:.4f}",
                f"{row.loss.change:+.4f}",
                range_text(row.loss),
                f"{row.naive:+.4f}",
            )
        )
    return aligned(lines, right={1, 2, 4, 5, 7})


def _members_text(members: Members, nested: NestedBlend, metric: str) -> str:
    lines = [("member", "weight", "SD", "temperature", metric, "log-loss", "adds", "95 %")]
    values = nested.value or (None,) * len(members.names)
    for number, (row, value) in enumerate(zip(nested.alone, values, strict=True)):
        adds = ("", "")
        if value is not None:
            adds = (f"{value.score.change:+.4f}", range_text(value.score))
        lines.append(
            (
                row.name,
                f"{nested.blend.weights[number]:.3f}",
                f"{nested.spread[number]:.3f}",
                f"{nested.blend.temperatures[number]:.2f}",
                f"{row.score.value:.4f}",
                f"{row.loss.value:.4f}",
                *adds,
            )
        )
    note = "adds: the blend of all minus the blend without it; SD: of the weight over the parts"
    return f"{aligned(lines, right={1, 2, 3, 4, 5, 6})}\n{note}"


def _correlation_text(members: Members, nested: NestedBlend) -> str:
    letters = [str(number + 1) for number in range(len(members.names))]
    lines = [("correlation of errors", *letters)]
    for letter, name, row in zip(letters, members.names, nested.correlation, strict=True):
        numbers = ("" if math.isnan(value) else f"{value:.2f}" for value in row)
        lines.append((f"{letter} {name}", *numbers))
    return aligned(lines, right=set(range(1, len(letters) + 1)))
