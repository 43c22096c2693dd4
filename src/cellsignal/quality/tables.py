"""Make the tables of wells, plates and controls from what was measured of sites."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from cellsignal.metrics.screening import ssmd, z_prime
from cellsignal.quality.measuring import CELLS, Measured
from cellsignal.quality.outliers import Rule, name_of, plate_rows, stand_out
from cellsignal.quality.positions import position_effects
from cellsignal.quality.site_measures import corner_centre_ratio

ABOUT = ("well_id", "experiment", "plate", "well", "cell_type", "role", "treatment", "split")
CORNERS = "corner_centre"
POSITIONAL = ("mean", "background", "focus_slope", CELLS)  # measures that are polished
SMALLEST_EFFECT, LARGEST_P = 3.0, 0.01  # of a row or column effect that makes a plate stand out
PLATE_COLUMNS = (
    *("experiment", "plate", "cell_type", "wells", "sites", "channel", "measure", "median", "z"),
    *("row_effect", "row_p", "column_effect", "column_p", "stands_out"),
)
CONTROL_COLUMNS = (
    *("experiment", "plate", "channel", "measure", "positive", "n_positive", "n_negative"),
    *("z_prime", "ssmd", "reason"),
)


class Quality(NamedTuple):
    """The quality of the plates of a data set.

    Attributes:
        wells: a row a well: `ABOUT`, sites, unread, a column a readout ("dna mean"), worst and
            worst_z (of the measures that count), stands_out ("" or why).
        plates: a row a plate, channel and measure: `PLATE_COLUMNS`.
        controls: a row a plate, readout and positive control: `CONTROL_COLUMNS`.
        columns: (channel, measure) of the readouts.
        z: (W, F) robust z of the wells in their plates.
        rule: when something stands out.
    """

    wells: pd.DataFrame
    plates: pd.DataFrame
    controls: pd.DataFrame
    columns: tuple[tuple[str, str], ...]
    z: np.ndarray
    rule: Rule


def quality_of(samples: pd.DataFrame, measured: Measured, rule: Rule) -> Quality:
    """Make the tables.

    Args:
        samples: the samples table of what was measured.
    """
    wells, values = well_means(samples, measured)
    groups = plate_rows(wells)
    z, reasons = stand_out(values, measured.columns, groups, rule)
    names = [name_of(column) for column in measured.columns]
    wells = wells.join(pd.DataFrame(values, columns=names))
    counts = np.array([measure in rule.by for _, measure in measured.columns])
    worst = np.where(np.isfinite(z) & counts, np.abs(z), -1.0).argmax(axis=1)
    wells["worst"] = np.array(names, object)[worst]
    wells["worst_z"] = z[np.arange(len(z)), worst]
    wells["stands_out"] = reasons
    plates = plate_table(wells, values, measured, rule)
    return Quality(
        wells, plates, control_table(wells, values, measured.columns), measured.columns, z, rule
    )


def well_means(samples: pd.DataFrame, measured: Measured) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a table of the wells, and the mean of each readout over a well's sites, (W, F).

    A site that cannot be read is left out; `unread` counts them.
    """
    names = pd.RangeIndex(len(measured.columns))
    by_well = pd.DataFrame(measured.values, columns=names).groupby(
        samples.well_id.to_numpy(), sort=True
    )
    values = by_well.mean()
    wells = samples.drop_duplicates("well_id").set_index("well_id").loc[values.index]
    wells = wells.reset_index()[list(ABOUT)]
    counts = samples.well_id.value_counts().loc[values.index].to_numpy()
    unread = pd.Series([sample_id for sample_id, _ in measured.problems], dtype=object)
    of_unread = samples.well_id[samples.sample_id.isin(unread)].value_counts()
    wells["unread"] = of_unread.reindex(values.index, fill_value=0).to_numpy()
    wells["sites"] = counts - wells.unread
    return wells, values.to_numpy()


def plate_table(
    wells: pd.DataFrame, values: np.ndarray, measured: Measured, rule: Rule
) -> pd.DataFrame:
    """Return a row for each plate, channel and measure: `PLATE_COLUMNS`.

    Besides the well's measures there is `corner_centre`, of the plate's mean image. Effects and p
    values are those of `positions.position_effects`.
    """
    columns = list(measured.columns)
    channels = list(dict.fromkeys(channel for channel, _ in columns if channel != CELLS))
    all_columns = columns + [(channel, CORNERS) for channel in channels]
    groups = plate_rows(wells)
    medians, effects = [], []
    polished = [number for number, (_, name) in enumerate(columns) if name in POSITIONAL]
    for rows in groups:
        of_plate = np.full((len(all_columns), 4), np.nan)
        of_plate[polished] = position_effects(values[np.ix_(rows, polished)], wells.well.iloc[rows])
        effects.append(of_plate)
        first = wells.iloc[rows[0]]
        light = corner_centre_ratio(measured.grids[first.experiment, first.plate])
        known = pd.DataFrame(values[rows]).median().to_numpy()
        medians.append(np.concatenate([known, light]))
    firsts = wells.iloc[[rows[0] for rows in groups]].reset_index(drop=True)
    alike = list(firsts.groupby("cell_type", sort=True).indices.values())
    counted = Rule(rule.limit, (*rule.by, CORNERS), rule.least, rule.fewest)
    z, _ = stand_out(np.stack(medians), all_columns, alike, counted)
    tables = []
    for number, rows in enumerate(groups):
        facts = firsts.loc[number, ["experiment", "plate", "cell_type"]].to_dict()
        facts |= {"wells": len(rows), "sites": int(wells.sites.iloc[rows].sum())}
        table = pd.DataFrame(all_columns, columns=["channel", "measure"]).assign(**facts)
        table["median"], table["z"] = medians[number], z[number]
        table[["row_effect", "row_p", "column_effect", "column_p"]] = effects[number]
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    centre = table.groupby(["cell_type", "channel", "measure"])["median"].transform("median")
    table["stands_out"] = _plate_reasons(table, (table["median"] - centre).abs(), counted)
    return table[list(PLATE_COLUMNS)]


def _plate_reasons(table: pd.DataFrame, distance: pd.Series, rule: Rule) -> list[str]:
    """Return why each row of the table of plates stands out, "" if it does not."""
    least = table.measure.map(lambda name: rule.least.get(name, np.inf))
    far = table.measure.isin(rule.by) & (table.z.abs() >= rule.limit) & (distance >= least)
    reasons = [f"z {z:.1f}" if is_far else "" for z, is_far in zip(table.z, far, strict=True)]
    for kind in ("row", "column"):
        effect, p = table[f"{kind}_effect"], table[f"{kind}_p"]
        large = (effect >= SMALLEST_EFFECT) & (p <= LARGEST_P + 1e-9)
        for number in np.flatnonzero(large):
            words = [reasons[number], f"{kind} effect {effect[number]:.1f} SD"]
            reasons[number] = "; ".join(word for word in words if word)
    return reasons


def control_table(
    wells: pd.DataFrame, values: np.ndarray, columns: tuple[tuple[str, str], ...]
) -> pd.DataFrame:
    """Return Z'-factor and SSMD for each plate and readout: `CONTROL_COLUMNS`.

    All positive controls of a plate together are "all"; where they are of several treatments, those
    with two wells or more are rows of their own. A plate without controls of both kinds has no row.
    """
    records = []
    for rows in plate_rows(wells):
        plate = wells.iloc[rows]
        negative = rows[(plate.role == "negative_control").to_numpy()]
        positive = rows[(plate.role == "positive_control").to_numpy()]
        if not len(negative) or not len(positive):
            continue
        sets = {"all": positive}
        by_treatment = wells.treatment.iloc[positive].dropna()
        if by_treatment.nunique() > 1:
            counts = by_treatment.value_counts()
            for name in sorted(counts.index[counts > 1]):
                sets[str(name)] = by_treatment.index[by_treatment == name].to_numpy()
        about = (plate.experiment.iloc[0], plate.plate.iloc[0])
        for number, column in enumerate(columns):
            for name, chosen in sets.items():
                groups = values[chosen, number], values[negative, number]
                figures = z_prime(*groups), ssmd(*groups)
                reason = "; ".join(dict.fromkeys(f.reason for f in figures if f.reason))
                sizes = tuple(int(np.isfinite(group).sum()) for group in groups)
                numbers = (figures[0].value, figures[1].value)
                records.append((*about, *column, name, *sizes, *numbers, reason))
    return pd.DataFrame(records, columns=list(CONTROL_COLUMNS))
