"""The wells that the run is surest of, right and wrong, beside a control of their plate."""

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.report.html.drawing import drawn
from cellsignal.report.html.page import choices, figure, paragraph
from cellsignal.report.html.view import RunView
from cellsignal.report.plate_plots import channel_montage
from cellsignal.report.run_report import shown_planes

SHOWN = 3  # wells of a kind


def extremes(view: RunView) -> str | None:
    """Return montages of the best and the worst wells; None with several labels a well."""
    if not view.has_one_label:
        return None
    outcome, store = view.outcome, view.store
    confidence = outcome.probabilities().max(axis=1)
    parts = []
    for kind, mask in (("surest and wrong", ~outcome.right), ("surest and right", outcome.right)):
        places = _choose(confidence, mask, outcome.truth.values)
        images, names = {}, []
        for place in places:
            _add_pair(view, images, names, int(place), float(confidence[place]))
        if images:
            planes = shown_planes(len(store.channels), view.competition.frames)
            images = {name: image[planes] for name, image in images.items()}
            channels = [store.channels[plane] for plane in planes]

            def draw(path, images=images, channels=channels) -> None:
                channel_montage(path, images, channels)

            alt = f"Channel montage of wells, {kind}, each above a negative control of its plate: "
            picture = drawn(draw, photo=True)
            parts.append((kind, figure(picture, alt + "; ".join(names), "; ".join(names) + ".")))
    if not parts:
        raise InputError(f"{store.path}: none of the predicted wells are in the store")
    note = "One site of each well. A channel has one contrast for all rows of a picture. Look for "
    note += "empty wells, dust, blur and edges before you look for biology."
    return choices(parts) + paragraph(note)


def _choose(confidence: np.ndarray, mask: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the surest places of a mask, each of another true class."""
    order = np.flatnonzero(mask)[np.argsort(-confidence[mask], kind="stable")]
    _, first = np.unique(label[order], return_index=True)
    return order[np.sort(first)][:SHOWN]


def _add_pair(view: RunView, images: dict, names: list[str], place: int, confidence: float) -> None:
    """Add a site of a target and one of a control of its plate, else of its experiment."""
    outcome, store = view.outcome, view.store
    samples = store.samples
    rows = samples[samples.target_id == outcome.targets.target_id[place]]
    if rows.empty:
        return
    first = rows.sort_values("site").iloc[0]
    true = outcome.classes[int(outcome.truth.values[place])]
    said = outcome.classes[int(outcome.predicted[place])]
    where = f"{first.experiment} {_plate(first.plate)} {first.well}"
    verdict = "right" if true == said else f"predicted {said}"
    names.append(f"{where}: true {true}, {verdict}, stated probability {confidence:.2f}")
    images[f"{first.experiment}\n{first.plate} {first.well}"] = store.read(int(first.row))
    control = _control(samples, first)
    if control is not None:
        name = f"control\n{control.plate} {control.well}"
        while name in images:
            name += " "
        images[name] = store.read(int(control.row))


def _plate(name: str) -> str:
    return name if name.lower().startswith("plate") else f"plate {name}"


def _control(samples: pd.DataFrame, first: pd.Series) -> pd.Series | None:
    controls = samples[
        (samples.role == "negative_control") & (samples.experiment == first.experiment)
    ]
    same_plate = controls[controls.plate == first.plate]
    chosen = same_plate if len(same_plate) else controls
    return chosen.sort_values(["well", "site"]).iloc[0] if len(chosen) else None
