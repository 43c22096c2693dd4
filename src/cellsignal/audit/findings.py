"""What a check of the audit says: one finding a check and part, as text, JSON or CSV."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance, write_csv, write_json
from cellsignal.common.tables import aligned

Severity = Literal["fail", "warn", "pass", "not_applicable"]
SEVERITIES: tuple[Severity, ...] = ("fail", "warn", "pass", "not_applicable")
EXAMPLES = 5
ENDINGS = (".json", ".csv")


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        check: what was checked, such as "shared wells".
        part: the part of the data that it is about, such as "fold 0"; "" for all.
        severity: one of `SEVERITIES`.
        count: how many rows, images or units are concerned.
        message: what was seen, in one sentence.
        examples: the first of them: sample ids, wells, compounds, files.
        advice: what to do; "" where nothing is to be done.
    """

    check: str
    part: str
    severity: Severity
    count: int
    message: str
    examples: tuple[str, ...] = ()
    advice: str = ""


def passed(check: str, part: str, message: str, count: int = 0) -> Finding:
    """Make the finding of a check that saw nothing wrong."""
    return Finding(check, part, "pass", count, message)


def not_applicable(check: str, reason: str, part: str = "") -> Finding:
    """Make the finding of a check that could not be made here."""
    return Finding(check, part, "not_applicable", 0, reason)


def first_examples(values) -> tuple[str, ...]:
    """Return the first values as text."""
    return tuple(str(value) for value in list(values)[:EXAMPLES])


def worst(findings: Sequence[Finding]) -> Severity:
    """Return the gravest severity of some findings."""
    present = {finding.severity for finding in findings}
    return next(severity for severity in SEVERITIES if severity in present)


def count_by_severity(findings: Sequence[Finding]) -> dict[str, int]:
    """Count the findings of each severity."""
    return {name: sum(f.severity == name for f in findings) for name in SEVERITIES}


def findings_text(findings: Sequence[Finding], width: int = 100) -> str:
    """Format a table for a terminal, gravest first, with what to do about what is wrong.

    Parts that passed a check alike share a line, whose numbers are those of the first.
    """
    ordered = sorted(_joined(findings), key=lambda finding: SEVERITIES.index(finding.severity))
    lines = [("", "check", "part", "count")]
    for finding in ordered:
        count = "" if finding.severity == "not_applicable" else f"{finding.count:,}"
        lines.append((finding.severity.replace("_", " "), finding.check, finding.part, count))
    table = aligned(lines, right={3}).splitlines()
    start = max(map(len, table)) + 2
    text = table[:2]
    for line, finding in zip(table[2:], ordered, strict=True):
        words = textwrap.wrap(finding.message, max(width - start, 40)) or [""]
        text.append(f"{line:{start}}{words[0]}")
        text += [" " * start + word for word in words[1:]]
        if finding.severity in ("fail", "warn"):
            about = [("such as", "; ".join(finding.examples)), ("what to do", finding.advice)]
            for title, words in about:
                if words:
                    indent = " " * 8
                    text += textwrap.wrap(
                        f"{title}: {words}", width, initial_indent=indent, subsequent_indent=indent
                    )
    counts = count_by_severity(findings)
    verdict = "FAIL" if counts["fail"] else "PASS"
    shown = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items())
    return "\n".join([*text, "", f"{verdict}: {shown}"])


def _joined(findings: Sequence[Finding]) -> list[Finding]:
    """Join what passed in several parts alike, but for whole numbers."""
    groups: dict[tuple, list[Finding]] = {}
    for number, finding in enumerate(findings):
        scores = re.search(r"\d\.\d", finding.message) is not None
        words = re.sub(r"\d+", "#", finding.message)
        alone = number if finding.severity in ("fail", "warn") or scores else -1
        groups.setdefault((finding.check, finding.severity, words, alone), []).append(finding)
    return [
        replace(group[0], part=f"{len(group)} parts") if len(group) > 1 else group[0]
        for group in groups.values()
    ]


def check_ending(out: Path | None) -> None:
    """Refuse an `--out` file that is neither JSON nor CSV."""
    if out is not None and out.suffix not in ENDINGS:
        raise InputError(f"--out {out}: write a name that ends in {' or '.join(ENDINGS)}")


def write_findings(out: Path, findings: Sequence[Finding], about: dict[str, Any]) -> None:
    """Write findings as JSON (with `about` and what they were made from) or as CSV."""
    check_ending(out)
    rows = [asdict(finding) for finding in findings]
    if out.suffix == ".json":
        counts = count_by_severity(findings)
        state = {"passed": not counts["fail"], "counts": counts}
        write_json(out, provenance(**about, **state, findings=rows))
    else:
        for row in rows:
            row["examples"] = "; ".join(row["examples"])
        write_csv(out, pd.DataFrame(rows))
