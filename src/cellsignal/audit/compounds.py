"""Checks of compounds: equal InChIKeys, stereoisomers and two spellings on both sides."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from cellsignal.audit.findings import Finding, Severity, first_examples, not_applicable, passed
from cellsignal.audit.parts import Audited, Part
from cellsignal.audit.spelling import INCHIKEY, skeleton, substance
from cellsignal.audit.units import promises
from cellsignal.common.tables import read_table, refuse_rows

KEYS = ("inchikey", "InChIKey", "Metadata_InChIKey")
_NAMES = ("name", "names", "pert_iname")
# controls and solvents are on every plate
_EVERYWHERE = {"dmso", "untreated", "empty", "none", "water", "media", "control", ""}


def read_annotation(path: Path) -> pd.DataFrame:
    """Read a table of compounds: `compound`, an InChIKey, and a name where there is one.

    Raises:
        InputError: no such columns, or a key that is none.
    """
    table = read_table(path, ["compound"])
    column = next((name for name in KEYS if name in table.columns), None)
    if column is None:
        read_table(path, ["compound", KEYS[0]])  # raises, naming the column
    keys = table[column].str.upper()
    wrong = (keys != "") & ~keys.str.fullmatch(INCHIKEY.pattern)
    refuse_rows(path, table, wrong, column, "is not an InChIKey")
    return table.assign(inchikey=keys)


def check_compounds(audited: Audited, annotation: Path | None = None) -> list[Finding]:
    """Look for held-out compounds that training has under another key or spelling.

    Only where folds, or the competition's own, promise unseen compounds.
    """
    checks = ("same substance", "stereoisomers", "spelling of compounds")
    groups = {audited.group, audited.default_group}
    if not any(promises(group, "compounds") for group in groups):
        reason = f"folds by {audited.group} do not promise unseen compounds"
        return [not_applicable(check, reason) for check in checks]
    keys, names = _keys_and_names(audited, annotation)
    findings = []
    for part in audited.parts:
        train, held = (_compounds(audited, rows) for rows in (part.train, part.held))
        if not train or not held:
            reason = "the compounds of one side are not known"
            findings += [not_applicable(check, reason, part.name) for check in checks]
            continue
        new = held - train
        if keys:
            blocks = {name: skeleton(key) for name, key in keys.items()}
            fails = part.kind == "validation" and promises(audited.group, "compounds")
            severity: Severity = "fail" if fails else "warn"
            sides = (part, severity, train, new)
            findings.append(_compare(checks[0], *sides, keys.get, "InChIKey"))
            findings.append(_compare(checks[1], *sides, blocks.get, "first block"))
        else:
            reason = "there are no InChIKeys; --compounds FILE gives them (compound, inchikey)"
            findings += [not_applicable(check, reason, part.name) for check in checks[:2]]
        findings.append(_compare_names(checks[2], part, train, new, names))
    return findings


def _compounds(audited: Audited, rows) -> set[str]:
    names = set(audited.samples["compound"].iloc[rows].dropna().astype(str))
    return {name for name in names if name.casefold() not in _EVERYWHERE}


def _keys_and_names(
    audited: Audited, annotation: Path | None
) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Return compound -> InChIKey and compound -> its names.

    From the annotation, the fold table's columns, and compounds that are InChIKeys themselves.
    """
    compounds = audited.samples["compound"].dropna().astype(str).unique()
    keys = {name: name for name in compounds if skeleton(name)}
    names: dict[str, set[str]] = defaultdict(set)
    for name in compounds:
        if name not in keys:
            names[name].add(name)
    tables = [] if annotation is None else [read_annotation(annotation)]
    if audited.folds is not None and audited.folds.group == "compound":
        tables.append(audited.folds.rows)
    for table in tables:
        for column in KEYS:
            if column in table.columns:
                pairs = zip(table["compound"], table[column], strict=True)
                keys |= {name: key.upper() for name, key in pairs if skeleton(key)}
        for column in _NAMES:
            if column in table.columns:
                for compound, text in zip(table["compound"], table[column], strict=True):
                    names[compound] |= {word for word in str(text).split("; ") if word}
    return keys, names


def _compare(
    check: str,
    part: Part,
    severity: Severity,
    train: set[str],
    new: set[str],
    key_of: Callable[[str], str | None],
    what: str,
) -> Finding:
    """Compare the held-out compounds' keys with those of training."""
    owner = {key_of(name): name for name in sorted(train) if key_of(name)}
    pairs = [f"{name} and {owner[key_of(name)]}" for name in sorted(new) if key_of(name) in owner]
    if not pairs:
        return passed(check, part.name, f"{len(new)} unseen compounds, none has a training {what}")
    message = f"{len(pairs)} held-out compounds have the {what} of a training compound"
    advice = "deal both to one fold: give them one name, or the first block of the InChIKey"
    return Finding(check, part.name, severity, len(pairs), message, first_examples(pairs), advice)


def _compare_names(
    check: str, part: Part, train: set[str], new: set[str], names: dict[str, set[str]]
) -> Finding:
    owner = {substance(word): word for name in sorted(train) for word in sorted(names[name])}
    pairs = []
    for name in sorted(new):
        for word in sorted(names[name]):
            other = owner.get(substance(word))
            if other is not None:
                pairs.append(f"{word} and {other}")
                break
    if not pairs:
        return passed(check, part.name, f"{len(new)} unseen compounds, none is spelled in two ways")
    message = f"{len(pairs)} held-out compounds are spelled like a training compound (case, salt, "
    message += "stereo prefix)"
    advice = "look at the pairs; if they are one substance, give them one name before dealing folds"
    return Finding(check, part.name, "warn", len(pairs), message, first_examples(pairs), advice)
