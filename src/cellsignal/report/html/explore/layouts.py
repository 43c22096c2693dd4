"""Plate layouts by kind of well and by class."""

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.report.html.explore.look import Look
from cellsignal.report.html.page import choices, counted, escape, paragraph
from cellsignal.report.html.plate_svg import Spot, format_of, places_of, plate_svg

PLATES = 6  # that are shown
KINDS = {
    "treatment": ("#56b4e9", "treatment, labelled"),
    "test": ("#cfe6f5", "treatment of the test set"),
    "negative_control": ("#e69f00", "negative control"),
    "positive_control": ("#009e73", "positive control"),
    "reference": ("#cc79a7", "reference"),
}


def layouts(look: Look) -> str:
    """Return some plates, by kind of well and by class."""
    parts = []
    for experiment, plate in _chosen(look.wells):
        wells = look.wells
        wells = wells[(wells.experiment == experiment) & (wells.plate == plate)]
        wells = wells.reset_index(drop=True)
        places = places_of(wells.well)
        if places is None:
            raise InputError("wells have no addresses such as B02: no layout to draw")
        both = _by_kind(look, wells, places) + _by_class(look, wells, places)
        parts.append((f"{experiment} {plate}", f'<div class="pair">{both}</div>'))
    note = (
        "Point at a well to read it. Controls in one column, or a class always in one place, let "
        "position stand in for phenotype: compare any score with `cellsignal baseline`."
    )
    return _legend(look.wells) + choices(parts) + paragraph(note) + _repeats(look.wells)


def _chosen(wells: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the first plate of some experiments, of as many cell types as there are."""
    first = wells.sort_values(["experiment", "plate"]).drop_duplicates("experiment")
    spread = first.groupby("cell_type").cumcount()
    first = first.assign(turn=spread).sort_values(["turn", "experiment"]).head(PLATES)
    return list(zip(first.experiment, first.plate, strict=True))


def _kind(role: str, split: str) -> str:
    return "test" if role == "treatment" and split == "test" else role


def _by_kind(look: Look, wells: pd.DataFrame, places: pd.DataFrame) -> str:
    kinds = [_kind(role, split) for role, split in zip(wells.role, wells.split, strict=True)]
    spots = {}
    for place, well, kind in zip(_keys(places), wells.itertuples(), kinds, strict=True):
        colour, text = KINDS[kind]
        spots[place] = Spot(colour, f"{well.well}: {text}{_named(look, well)}")
    counts = ", ".join(f"{kinds.count(kind)} {KINDS[kind][1]}" for kind in dict.fromkeys(kinds))
    first = wells.iloc[0]
    alt = f"Layout of {first.experiment} plate {first.plate} by kind of well: {counts}."
    return plate_svg(spots, format_of(places), alt, f"By kind of well: {counts}.", width=1.06)


def _by_class(look: Look, wells: pd.DataFrame, places: pd.DataFrame) -> str:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = colormaps["turbo"]
    spots, seen = {}, set()
    for place, well in zip(_keys(places), wells.itertuples(), strict=True):
        label = _label(well)
        if pd.isna(label) or not 0 <= label < len(look.classes):
            spots[place] = Spot("#ffffff", f"{well.well}: {KINDS[_kind(well.role, well.split)][1]}")
            continue
        seen.add(int(label))
        colour = to_hex(shades(0.05 + 0.9 * int(label) / max(len(look.classes) - 1, 1)))
        spots[place] = Spot(colour, f"{well.well}{_named(look, well)}")
    first = wells.iloc[0]
    alt = (
        f"Layout of {first.experiment} plate {first.plate} by class: {counted(len(seen), 'class')}."
    )
    caption = f"By class: {counted(len(seen), 'class')}, the colour runs with their number; white "
    caption += "has none."
    if wells.label.isna().all():
        caption += " Of several classes the first."
    return plate_svg(spots, format_of(places), alt, caption, width=1.06)


def _keys(places: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(places.row.tolist(), places.column.tolist(), strict=True))


def _named(look: Look, well) -> str:
    labels = [well.label] if pd.notna(well.label) else _several(well)
    names = [look.classes[int(label)] for label in labels if 0 <= label < len(look.classes)]
    return f", {', '.join(names)}" if names else ""


def _several(well) -> tuple[int, ...]:
    """Return the labels of a well that may have several; none where they are not known."""
    labels = getattr(well, "labels", None)
    return labels if isinstance(labels, tuple) else ()


def _label(well) -> float:
    """Return the label of a well; where it may have several, the first."""
    labels = _several(well)
    return float(labels[0]) if pd.isna(well.label) and len(labels) else well.label


def _legend(wells: pd.DataFrame) -> str:
    present = {_kind(role, split) for role, split in set(zip(wells.role, wells.split, strict=True))}
    marks = [
        f'<span style="background:{colour};border:1px solid #b5b5b5;border-radius:3px;'
        f'display:inline-block;width:1em;height:1em;vertical-align:-.15em"></span> {escape(text)}'
        for kind, (colour, text) in KINDS.items()
        if kind in present
    ]
    return f"<p>{' &nbsp; '.join(marks)}</p>"


def _repeats(wells: pd.DataFrame) -> str:
    """Say how many plates share their layout of labels with another plate."""
    treated = wells[(wells.role == "treatment") & wells.label.notna()]
    if treated.empty:
        return ""
    layout = treated.groupby(["experiment", "plate"]).apply(
        lambda part: hash(tuple(sorted(zip(part.well, part.label, strict=True)))),
        include_groups=False,
    )
    if len(layout) == 1:
        return ""
    shared = int(layout.duplicated(keep=False).sum())
    if not shared:
        return paragraph(f"No two of the {len(layout)} labelled plates have one layout.")
    return paragraph(
        f"{shared} of {len(layout)} labelled plates share their layout with another plate: where "
        "such plates train and validate, position alone tells the label."
    )
