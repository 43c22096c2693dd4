"""Choose the feature columns of a table of well profiles."""

import re
from collections.abc import Sequence
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.common.ties import listed

# Image_ describes the picture, so it has to be asked for
COMPARTMENTS = ("Cells_", "Cytoplasm_", "Nuclei_")
_COUNTER = re.compile(r"(^|_)(Image|Table|Object)_?Number(\.\d+)?$", re.IGNORECASE)
_INDEX = re.compile(r"(Unnamed: \d+(\.\d+)*|index|level_\d+|__index_level_\d+__)")


def choose_features(
    path: Path,
    columns: Sequence[str],
    features: Sequence[str],
    own: Sequence[str] | None = None,
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the feature columns of a table, and the others by reason.

    Args:
        own: the features that the file itself names, by default taken; None where it names none.
        features: names of columns, prefixes of names, or files with a name on each line, the first
            of these that fits; by default `COMPARTMENTS`.
    """
    metadata = [name for name in columns if name.startswith("Metadata_")]
    others = [name for name in columns if not name.startswith("Metadata_")]
    if features:
        chosen = _named_features(path, others, features)
    elif own is not None:
        chosen = list(own)
    else:
        chosen = [name for name in others if name.startswith(COMPARTMENTS) and not is_counter(name)]
    if not chosen:
        raise InputError(
            f"{path}: no column starts with {', '.join(COMPARTMENTS)}; name the features with "
            "--features PREFIX or "
            f"--features FILE (a name on each line). Other columns: {listed(others, 5) or 'none'}"
        )
    left_out: dict[str, list[str]] = {"Metadata_": metadata}
    for name in sorted(set(others) - set(chosen), key=others.index):
        if _INDEX.fullmatch(name):
            reason = "table index"
        elif _COUNTER.search(name):
            reason = "image, table or object number"
        elif name.startswith("Image_"):
            reason = "Image_, not asked for"
        else:
            reason = "not asked for" if features else "of no compartment"
        left_out.setdefault(reason, []).append(name)
    return chosen, left_out


def is_counter(name: str) -> bool:
    """Return whether a column counts images, tables or objects, and measures nothing."""
    return _COUNTER.search(name) is not None


def _named_features(path: Path, columns: Sequence[str], features: Sequence[str]) -> list[str]:
    chosen: set[str] = set()
    for item in features:
        if not item.strip():
            raise InputError("--features: an empty name")
        if item in columns:
            chosen.add(item)
        elif Path(item).is_file():
            chosen |= _names_of_file(path, columns, Path(item))
        else:
            names = [name for name in columns if name.startswith(item)]
            if not names:
                raise InputError(
                    f"{path}: no column starts with {item!r} and no such file; it has "
                    f"{listed(columns, 5) or 'none'}"
                )
            # an index or a number of an image is not a measurement, unless it is named in full
            numbers = {name for name in names if _COUNTER.search(name) or _INDEX.fullmatch(name)}
            chosen |= set(names) - numbers
    return [name for name in columns if name in chosen]


def _names_of_file(path: Path, columns: Sequence[str], file: Path) -> set[str]:
    names = _read_names(file)
    if not names:
        raise InputError(f"{path}: {file} names no feature")
    absent = [name for name in names if name not in columns]
    if absent:
        raise InputError(
            f"{path}: lacks {len(absent)} of the {len(names)} features of {file}, first "
            f"{absent[0]!r}"
        )
    return set(names)


def _read_names(path: Path) -> list[str]:
    """The lines of a file of names, stripped, without blank ones."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"--features {path}: is not a text file with a name on each line"
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]
