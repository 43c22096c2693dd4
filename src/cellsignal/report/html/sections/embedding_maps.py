"""Maps of the embeddings, before and after correction, coloured by what they should and should not
show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.evaluation.matching import average
from cellsignal.prediction.embeddings import load_embeddings
from cellsignal.report.embedding_plots import tsne
from cellsignal.report.figure_style import COLOURS, OTHER
from cellsignal.report.html.drawing import plot
from cellsignal.report.html.page import choices, figure, paragraph, table
from cellsignal.report.html.view import RunView

MOST = 1500  # wells on all maps together
PANELS = 4  # models with a panel of their own
NAMED = 10  # values with a colour of their own
CONTROLS = 8  # control wells of a plate that correction needs; else all its wells serve
COLOURINGS = ("label", "experiment", "plate", "cell_type")
STATES = ("before correction", "after correction")


@dataclass(frozen=True)
class Map:
    """The wells of one model in the plane.

    Attributes:
        model: "all" or a cell type: embeddings of different models are in different spaces.
        wells: N rows; columns experiment, plate, cell_type, label and role.
        values: state -> (N, D) embeddings.
        places: state -> (N, 2).
    """

    model: str
    wells: pd.DataFrame
    values: dict[str, np.ndarray]
    places: dict[str, np.ndarray]


def embedding_maps(view: RunView) -> str:
    """Return the maps of the first embeddings file that holds wells out of fold."""
    files = [path for folder in view.folders for path in sorted(folder.glob("embeddings/*.npz"))]
    if not files:
        raise InputError(f"no embeddings yet: `cellsignal embed {view.command}`")
    wells, values, classes, kind = _held_out(view, files)
    maps, reference = _make_maps(wells, values)
    name, plane = _projection()
    maps = [_laid_out(item, plane) for item in maps]
    total = f"{sum(len(item.wells) for item in maps):,}"
    parts = []
    for column in COLOURINGS:
        pictures = [_picture(maps, state, column, classes) for state in STATES]
        drawn = [
            figure(picture, f"{name} of {total} wells {state}, coloured by {_word(column)}.")
            for state, picture in zip(STATES, pictures, strict=True)
        ]
        parts.append((_word(column), f'<div class="pair">{"".join(drawn)}</div>'))
    note = (
        f"{name} of {total} {kind} wells of {files[0].name}; near points are alike, the "
        f"distance of far groups means nothing. Correction: each feature is centred and scaled by "
        f"plate on {reference}. A good map has labels together and experiments mixed."
    )
    return choices(parts) + _neighbour_table(maps) + paragraph(note)


def _word(column: str) -> str:
    return column.replace("_", " ")


def _held_out(
    view: RunView, files: Sequence[Path]
) -> tuple[pd.DataFrame, np.ndarray, tuple[str, ...], str]:
    """Return wells, their mean embeddings, class names, and what wells they are."""
    embeddings = load_embeddings(files[0])
    samples = embeddings.samples
    control = (samples.role == "negative_control").to_numpy()
    chosen, kind = samples.part.isin(["oof", "test"]).to_numpy(), "held-out and test"
    if not chosen.any():
        chosen, kind = (samples.part == "train").to_numpy(), "training"
    plates = ["experiment", "plate"]
    shown = pd.MultiIndex.from_frame(samples.loc[chosen, plates].drop_duplicates())
    rows = chosen | (control & pd.MultiIndex.from_frame(samples[plates]).isin(shown))
    values, wells = average(
        embeddings.values[rows].astype(np.float32),
        samples[rows].reset_index(drop=True),
        ["well_id"],
    )
    wells = wells.reset_index(drop=True)
    _add_test_labels(view, wells)
    return wells, np.asarray(values), tuple(embeddings.about["classes"]), kind


def _add_test_labels(view: RunView, wells: pd.DataFrame) -> None:
    """Put the true labels of test wells into the table, where answers are given."""
    try:
        truth = view.truth
    except InputError:
        return
    if truth is None or truth.values.ndim > 1:
        return
    label = wells.target_id.map(dict(zip(truth.target_id, truth.values, strict=True)))
    wells["label"] = label.fillna(wells.label).astype(int)


def _make_maps(wells: pd.DataFrame, values: np.ndarray) -> tuple[list[Map], str]:
    """Correct each model's embeddings by plate, then draw wells at random if they are many."""
    controls = wells[wells.role == "negative_control"].groupby(["experiment", "plate"]).size()
    plates = wells.groupby(["experiment", "plate"]).size()
    enough = len(controls) == len(plates) and controls.min() >= CONTROLS
    reference = (wells.role == "negative_control") if enough else pd.Series(True, wells.index)
    models = wells.model.value_counts().index[:PANELS]
    maps = []
    for model in sorted(models):
        rows = np.flatnonzero(wells.model == model)
        part, before = wells.iloc[rows].reset_index(drop=True), values[rows]
        after = _correct(before, part, reference.to_numpy()[rows])
        treated = np.flatnonzero(part.role != "negative_control")
        if len(treated) > MOST // len(models):
            rng = np.random.default_rng(0)
            treated = np.sort(rng.choice(treated, MOST // len(models), replace=False))
        if len(treated) >= 3:
            states = dict(zip(STATES, (before[treated], after[treated]), strict=True))
            maps.append(Map(str(model), part.iloc[treated].reset_index(drop=True), states, {}))
    if not maps:
        raise InputError("fewer than three wells have embeddings that can be mapped")
    return maps, "its negative controls" if enough else "all its wells"


def _correct(values: np.ndarray, wells: pd.DataFrame, reference: np.ndarray) -> np.ndarray:
    """Centre and scale each feature by the reference wells of each plate."""
    corrected = np.array(values, np.float32)
    for rows in wells.groupby(["experiment", "plate"], sort=True).indices.values():
        known = values[rows[reference[rows]]]
        sd = known.std(axis=0)
        corrected[rows] = (values[rows] - known.mean(axis=0)) / np.maximum(
            sd, 1e-3 + 0.1 * sd.mean()
        )
    return corrected


def _projection():
    """Return the name and the function of the projection: UMAP where it is installed."""
    try:
        import umap
    except ImportError:
        return "t-SNE", tsne
    return "UMAP", lambda values: umap.UMAP(random_state=0).fit_transform(values)


def _laid_out(item: Map, plane) -> Map:
    places = {state: np.asarray(plane(values)) for state, values in item.values.items()}
    return Map(item.model, item.wells, item.values, places)


def _picture(maps: Sequence[Map], state: str, column: str, classes: tuple[str, ...]) -> bytes:
    """Draw a panel for each model."""
    abreast = min(len(maps), 2)
    pictures: list[bytes] = []
    height = 2.9 * -(-len(maps) // abreast) + 1.5
    style = {"axes_spines_left": False, "axes_spines_bottom": False, "axes_titleweight": "normal"}
    with plot(5.6, height if abreast > 1 else 5.9, pictures, **style) as figure_:
        axes = figure_.subplots(-(-len(maps) // abreast), abreast, squeeze=False)
        wells = pd.concat([item.wells for item in maps], ignore_index=True)
        names, colours = _colours(_values(wells, column, classes))
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        for axis, item in zip(axes.flat, maps, strict=False):
            points = _values(item.wells, column, classes).map(colours).fillna(OTHER)
            order = np.argsort(points.eq(OTHER).to_numpy(), kind="stable")[::-1]
            size = float(np.clip(2500 / len(points), 3, 22))
            x, y = item.places[state][order].T
            axis.scatter(x, y, c=points.to_numpy()[order], s=size, lw=0, alpha=0.85)
            axis.set_title(f"{item.model}, {len(points):,} wells" if len(maps) > 1 else "")
            axis.set_aspect("equal", adjustable="datalim")
        title = f"{state[0].upper()}{state[1:]}, by {_word(column)}"
        figure_.suptitle(title, x=0.01, ha="left", weight="bold", size=11)
        _add_legend(figure_, names, colours)
    return pictures[0]


def _values(wells: pd.DataFrame, column: str, classes: tuple[str, ...]) -> pd.Series:
    """Return what a well is coloured by, as text; None for an unknown label."""
    if column == "label":
        known = wells.label.between(0, len(classes) - 1)
        names = [
            classes[label] if ok else None for label, ok in zip(wells.label, known, strict=True)
        ]
        return pd.Series(names, dtype=object)
    if column == "plate":
        return wells.experiment + " " + wells.plate
    return wells[column]


def _colours(values: pd.Series) -> tuple[list[str], dict[str, str]]:
    """Give the commonest values colours; return the named ones, and the colour of each value."""
    counts = values.value_counts(sort=True)
    if len(counts) <= len(COLOURS):
        names = sorted(counts.index)
        return names, dict(zip(names, COLOURS, strict=False))
    names = sorted(counts.index[: len(COLOURS)])
    return [*names, f"{len(counts) - len(names)} others"], dict(zip(names, COLOURS, strict=False))


def _add_legend(figure_, names: Sequence[str], colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    look = {"ls": "", "marker": "o", "ms": 5, "mec": "none"}
    handles = [Line2D([], [], mfc=colours.get(n, OTHER), label=_short(n), **look) for n in names]
    longest = max((len(_short(name)) for name in names), default=1)
    columns = max(1, min(len(names), int(72 / (longest + 6))))
    figure_.legend(
        handles=handles,
        loc="outside lower left",
        ncols=columns,
        handletextpad=0.1,
        columnspacing=1.0,
    )


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _neighbour_table(maps: Sequence[Map]) -> str:
    """Count how often the nearest well, in all dimensions, is of the same label or experiment."""
    from sklearn.neighbors import NearestNeighbors

    rows = []
    for state in STATES:
        shares = {"label": [], "experiment": []}
        for item in maps:
            unit = item.values[state] / np.maximum(
                np.linalg.norm(item.values[state], axis=1, keepdims=True), 1e-9
            )
            nearest = NearestNeighbors(n_neighbors=2).fit(unit).kneighbors(unit)[1]
            other = np.where(nearest[:, 0] == np.arange(len(unit)), nearest[:, 1], nearest[:, 0])
            for column, share in shares.items():
                value = item.wells[column].to_numpy()
                known = value != -1
                share += (value[known] == value[other[known]]).tolist()
        rows.append(
            [state, *(f"{np.mean(share):.3f}" if share else "" for share in shares.values())]
        )
    head = ("nearest well by cosine", "of the same label", "of the same experiment")
    return table(head, rows, numeric={1, 2}, caption="of the wells on the maps")
