"""The methods of the shift bench, and how each answers the asked batches of wells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from cellsignal.common.errors import InputError
from cellsignal.models.batch_norm import Offsets, measure_offsets, unit_statistics
from cellsignal.profiles.image_features import image_features
from cellsignal.studies.shift.embeddings import scorer_of
from cellsignal.studies.shift.networks import Network
from cellsignal.studies.shift.simulated_plates import Asked, Wells

SLOW_SIZES = (96,)  # of what is fitted for each batch anew


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        id, title: its name in files, and in tables.
        network: of `networks.RECIPES`.
        how: "running": BatchNorm's statistics of training. "asked": those of the asked batch.
            "asked_experiment": of the asked batches of an experiment's plates together. "joined":
            of the asked batch and its plate's controls. "controls", "negative_controls": of these
            alone. "controls_offset", "negative_controls_offset": those that controls foretell, by
            `measure_offsets` on the training plates. Else a way of `embeddings.scorer_of`.
        features: how `how` sees a well, where it corrects embeddings: "network" or "hand_made".
    """

    id: str
    title: str
    network: str
    how: str
    features: str = field(default="network")


METHODS = (
    Method("erm", "ERM (mixed batches, running statistics)", "mixed", "running"),
    Method("erm_adabn", "mixed batches, AdaBN by plate", "mixed", "asked"),
    Method("erm_controls", "mixed batches, statistics of controls", "mixed", "controls"),
    Method("plate_running", "plate batches, running statistics", "plate", "running"),
    Method("adabn_plate", "plate batches, AdaBN by plate", "plate", "asked"),
    Method("adabn_joined", "plate batches, AdaBN of asked wells and controls", "plate", "joined"),
    Method("controls", "plate batches, statistics of controls", "plate", "controls"),
    Method(
        "negatives", "plate batches, statistics of negative controls", "plate", "negative_controls"
    ),
    Method(
        "controls_offset",
        "plate batches, statistics foretold by controls",
        "plate",
        "controls_offset",
    ),
    Method(
        "negatives_offset",
        "plate batches, statistics foretold by negative controls",
        "plate",
        "negative_controls_offset",
    ),
    Method("controls_trained", "trained and adapted by controls", "controls", "controls"),
    Method("joined_trained", "trained and adapted by wells and controls", "joined", "joined"),
    Method("joined_controls", "trained by both, adapted by controls", "joined", "controls"),
    Method(
        "adabn_experiment",
        "experiment batches, AdaBN by experiment",
        "experiment",
        "asked_experiment",
    ),
    Method("instance", "InstanceNorm", "instance", "running"),
    Method("group_dro", "GroupDRO over experiments", "group_dro", "running"),
    Method("dann", "DANN over experiments", "dann", "running"),
    Method("coral", "CORAL between experiments", "coral", "running"),
    Method(
        "standardise_asked",
        "ERM's embeddings, standardised by asked wells",
        "mixed",
        "standardise_asked",
    ),
    Method(
        "standardise_controls",
        "ERM's embeddings, standardised by controls",
        "mixed",
        "standardise_controls",
    ),
    Method("tvn", "ERM's embeddings, TVN on controls", "mixed", "tvn"),
    Method("combat", "ERM's embeddings, ComBat-like on asked wells", "mixed", "combat"),
    Method("harmony", "ERM's embeddings, Harmony with asked wells", "mixed", "harmony"),
    Method(
        "untrained",
        "untrained network, standardised by controls",
        "untrained",
        "standardise_controls",
    ),
    Method(
        "hand_made",
        "hand-made features, standardised by controls",
        "untrained",
        "standardise_controls",
        "hand_made",
    ),
)
_CONTROLS = {
    "controls": ("positive_control", "negative_control"),
    "negative_controls": ("negative_control",),
}


@dataclass(frozen=True)
class Bench:
    """All that the methods of one seed share.

    Attributes:
        wells: drawn wells.
        images: (N, 6, H, W) float32, standardised over the training wells.
        asked: the batches, in order.
    """

    wells: Wells
    images: torch.Tensor
    asked: tuple[Asked, ...]

    @property
    def table(self) -> pd.DataFrame:
        return self.wells.table

    def controls_of(self, row: int, how: str) -> np.ndarray:
        """Return the rows of the control wells on a well's plate."""
        table, well = self.table, self.table.iloc[row]
        mine = (table.experiment == well.experiment) & (table.plate == well.plate)
        return np.flatnonzero(mine & table.role.isin(_CONTROLS[how]))


def measure_network(bench: Bench, model: Network, name: str) -> Iterator[dict]:
    """Yield the accuracy of every method of a network: a row for an experiment, alpha and size.

    A method whose package is missing yields one row with the reason as `skipped`.
    """
    for method in METHODS:
        if method.network != name:
            continue
        try:
            yield from _measure(bench, model, method)
        except InputError as error:
            yield {"method": method.id, "skipped": str(error)}


@torch.no_grad()
def _measure(bench: Bench, model: Network, method: Method) -> Iterator[dict]:
    labels, asked = bench.table.label.to_numpy(), bench.asked
    if method.how == "harmony":
        asked = tuple(batch for batch in asked if batch.size in SLOW_SIZES)
    answers = answer(bench, model, method, asked)
    right: dict[tuple, list[float]] = {}
    for batch, scores in zip(asked, answers, strict=True):
        hits = [
            float((part.argmax(1) == labels[rows]).mean())
            for part, rows in zip(scores, batch.rows, strict=True)
        ]
        right.setdefault((batch.experiment, batch.alpha, batch.size), []).extend(hits)
    for (experiment, alpha, size), hits in right.items():
        row = {"method": method.id, "experiment": experiment, "alpha": alpha, "size": size}
        yield {**row, "accuracy": float(np.mean(hits))}


def answer(
    bench: Bench, model: Network, method: Method, asked: Sequence[Asked]
) -> list[list[np.ndarray]]:
    """Return the (size, K) scores of every asked batch, one for each plate."""
    how = method.how
    if how == "running" or how.removesuffix("_offset") in _CONTROLS:
        logits = _logits_of_plates(bench, model, how)
        return [[logits[rows] for rows in batch.rows] for batch in asked]
    if how == "asked_experiment":
        return [_adapted_together(bench, model, batch.rows) for batch in asked]
    if how in ("asked", "joined"):
        scores = []
        for batch in asked:
            parts = []
            for rows in batch.rows:
                joined = bench.controls_of(rows[0], "controls") if how == "joined" else rows[:0]
                logits = own_logits(bench, model, np.concatenate([rows, joined]))
                parts.append(logits[: len(rows)])
            scores.append(parts)
        return scores
    batches = [rows for batch in asked for rows in batch.rows]
    parts = iter(scorer_of(how, _features(bench, model, method), bench.table)(batches))
    return [[next(parts) for _ in batch.rows] for batch in asked]


def _features(bench: Bench, model: Network, method: Method) -> np.ndarray:
    if method.features == "hand_made":
        return np.stack([image_features(image) for image in bench.wells.images]).astype(float)
    chunks = np.array_split(np.arange(len(bench.images)), max(1, len(bench.images) // 256))
    return np.concatenate([model.embed(bench.images[rows]).numpy() for rows in chunks])


def adapted_logits(
    bench: Bench,
    model: Network,
    rows: np.ndarray,
    statistics: np.ndarray,
    offsets: Offsets | None = None,
) -> np.ndarray:
    """Return the logits of wells under BatchNorm statistics of some wells, (n, K)."""
    with unit_statistics(model, [(bench.images[statistics],)], offsets=offsets):
        return model(bench.images[rows]).numpy()


def own_logits(bench: Bench, model: Network, rows: np.ndarray) -> np.ndarray:
    """Return the logits of wells under BatchNorm statistics of themselves, (n, K).

    The pass that takes the statistics gives them: each layer standardises the batch by its own.
    """
    logits: list[torch.Tensor] = []
    images = [(bench.images[rows],)]
    with unit_statistics(model, images, forward=lambda x: logits.append(model(x))):
        return logits[0].numpy()


def _adapted_together(
    bench: Bench, model: Network, plates: Sequence[np.ndarray]
) -> list[np.ndarray]:
    scores = own_logits(bench, model, np.concatenate(plates))
    return np.split(scores, np.cumsum([len(part) for part in plates])[:-1])


def _logits_of_plates(bench: Bench, model: Network, how: str) -> np.ndarray:
    """Return (N, K) logits of the test treatments, which no asked batch moves; zeros elsewhere."""
    logits = np.zeros((len(bench.table), model.head.out_features), np.float32)
    controls, offsets = how.removesuffix("_offset"), None
    if how != controls:
        offsets = _offsets(bench, model, controls)
    for rows in _treatments_of_plates(bench, is_test=True):
        if how == "running":
            logits[rows] = model(bench.images[rows]).numpy()
        else:
            statistics = bench.controls_of(rows[0], controls)
            logits[rows] = adapted_logits(bench, model, rows, statistics, offsets)
    return logits


def _offsets(bench: Bench, model: Network, controls: str) -> Offsets:
    """Measure the offsets of treatments from controls over all training plates."""

    def batches() -> Iterator[tuple[int, tuple[torch.Tensor]]]:
        for rows in _treatments_of_plates(bench, is_test=False):
            first = bench.controls_of(rows[0], controls)
            yield len(first), (bench.images[np.concatenate([first, rows])],)

    return measure_offsets(model, batches())


def _treatments_of_plates(bench: Bench, is_test: bool) -> list[np.ndarray]:
    chosen = (bench.table.is_test == is_test) & (bench.table.role == "treatment")
    groups = bench.table[chosen].groupby(["experiment", "plate"]).groups.values()
    return [np.array(members) for members in groups]
