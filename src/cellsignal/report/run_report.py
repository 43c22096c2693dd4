"""The pictures of a run: learning curves, what the images look like, how many each class has, where
on the plates it was right, what was taken for what.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.competitions.folds import labelled
from cellsignal.competitions.samples import label_matrix
from cellsignal.config import Config
from cellsignal.data.folds import read_folds
from cellsignal.data.store import Store
from cellsignal.evaluation.ladder import Step
from cellsignal.prediction.embeddings import load_embeddings
from cellsignal.prediction.ensemble import Targets
from cellsignal.prediction.entry_labels import labels_of
from cellsignal.prediction.judging import Truth
from cellsignal.prediction.submit import Entry
from cellsignal.report.embedding_plots import (
    average_precision_curves,
    label_distribution,
    tsne_plot,
)
from cellsignal.report.plate_plots import channel_montage, plate_map
from cellsignal.report.plots import confusion_matrix, ladder_plot, learning_curves

LONGEST = 16  # letters of an experiment's name beside its picture
PLATES_SHOWN = 32  # a plate map of more is unreadable; the first experiments are shown


def write_report(
    config: Config, entry: Entry, steps: dict[str, list[Step]], truth: Truth | None
) -> list[Path]:
    """Write the PNGs to runs/<name>/seed<k>/report and give back their paths.

    Args:
        steps: title -> ladder, one picture each.
        truth: of the test targets (`submit.truth_labels`); without it plate map and confusion
        matrix show the out-of-fold targets.
    """
    folder, store = config.run_folder / "report", Store.open(config.data.store)
    written = [folder / "learning_curves.png", folder / "channels.png", folder / "labels.png"]
    logs, title = training_logs(config), f"{config.name}: training"
    if entry.competition.multilabel:
        average_precision_curves(
            written[0], logs, _prevalence(store.samples, len(entry.members[0].classes)), title=title
        )
    else:
        learning_curves(written[0], logs, chance=1 / len(entry.members[0].classes), title=title)
    shown = shown_planes(len(store.channels), entry.competition.frames)
    channel_montage(
        written[1],
        {name: image[shown] for name, image in example_images(store).items()},
        [store.channels[plane] for plane in shown],
        title=f"{entry.competition.title}: one well of each cell type",
    )
    counts = label_counts(config, store.samples, entry.members[0].classes)
    label_distribution(
        written[2], counts, what="images", title=f"{config.name}: images of each class"
    )
    for title, rungs in steps.items():
        if rungs:
            written.append(folder / f"ladder_{title.lower().replace(' ', '_')}.png")
            ladder_plot(written[-1], rungs, title=f"{config.name}: {title}")
    if not entry.competition.multilabel:
        written += _outcome_pictures(config, entry, store, truth)
    return written


def _outcome_pictures(
    config: Config, entry: Entry, store: Store, truth: dict[str, int] | None
) -> list[Path]:
    """Confusion matrix, and plate map where wells have addresses of a 384-well plate."""
    part, groups = "oof" if truth is None else "test", entry.competition.plate_groups(store.samples)
    final = [m for m in entry.final() if (m.ids["part"] == part).any()]
    if not final:
        return []
    targets = entry.merge(final, part, pool=entry.how.pool)
    predicted, _ = labels_of(entry, targets, groups)
    true = (
        targets.label
        if truth is None
        else np.array([truth[target] for target in targets.target_id])
    )
    about = {"oof": "out-of-fold wells", "test": "test wells"}[part]
    written = [config.run_folder / "report" / "confusion.png"]
    confusion_matrix(
        written[-1],
        true,
        predicted,
        entry.members[0].classes,
        group=None if groups is None else groups.class_group,
        title=f"{config.name}: {about}",
    )
    wells = outcome_by_well(store.samples, targets, predicted == true)
    if len(wells) and wells.well.str.fullmatch(r"[A-P]\d\d").all():
        written.append(config.run_folder / "report" / "plates.png")
        plate_map(
            written[-1],
            wells,
            value="outcome",
            title=f"{config.name}: {about} of the final ensemble",
        )
    return written


def label_counts(config: Config, samples: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Images of each class (rows, by name) in each fold's validation part, and in what is never
    held out.
    """
    folds, inside = read_folds(config.folds.file, samples), labelled(samples)
    parts = {f"fold {fold}": folds.validation(samples, fold) for fold in folds.folds}
    parts["never held out"] = inside & ~np.any(list(parts.values()), axis=0)
    counts = {}
    for name, mask in parts.items():
        chosen = samples[mask]
        found = chosen.label if chosen.label.notna().any() else chosen["labels"].explode().dropna()
        counts[name] = np.bincount(found.to_numpy(dtype=int), minlength=len(classes))
    frame = pd.DataFrame(counts, index=list(classes))
    return frame.loc[:, (frame > 0).any()]


def _prevalence(samples: pd.DataFrame, classes: int) -> float:
    """What guessing scores: the mean over the classes of their share of the labelled images."""
    return float(label_matrix(samples[labelled(samples)], classes).mean())


def embedding_picture(config: Config, path: Path) -> Path:
    """The plane in which t-SNE lays the held-out samples (all, where none is held out) of an
    embeddings file; by class, or by cell type where a sample has several.
    """
    found = load_embeddings(path)
    held_out = (found.samples.part == "oof").to_numpy()
    chosen = held_out if held_out.any() else (found.samples.part == "train").to_numpy()
    samples, names = found.samples[chosen], found.about["classes"]
    labels = samples.label.to_numpy()
    if (labels < 0).all():
        names = sorted(samples.cell_type.unique())
        labels = pd.Index(names).get_indexer(samples.cell_type)
    out = config.run_folder / "report" / f"tsne_{path.stem}.png"
    kind = "held-out" if held_out.any() else "training"
    tsne_plot(
        out,
        found.values[chosen].astype(np.float32),
        labels,
        names,
        title=f"{config.name}: embeddings of {kind} samples, {path.stem} (t-SNE)",
    )
    return out


def training_logs(config: Config) -> pd.DataFrame:
    """The epochs of all jobs of a run: columns fold, stage, model and those of log.csv."""
    frames = []
    for stage in config.stages:
        for path in sorted(config.run_folder.glob(f"*/{stage.name}/*/log.csv")):
            frames.append(
                pd.read_csv(path).assign(
                    fold=path.parts[-4], stage=stage.name, model=path.parts[-2]
                )
            )
    return pd.concat(frames, ignore_index=True)


def example_images(store: Store) -> dict[str, np.ndarray]:
    """One (C, H, W) uint8 image a cell type: an untreated well where there is one."""
    found = {}
    order = store.samples.assign(treated=store.samples.role != "negative_control").sort_values(
        "treated", kind="stable"
    )
    for cell_type, rows in order.groupby("cell_type", sort=True):
        name = rows.experiment.iloc[0]
        short = name if len(name) <= LONGEST else f"…{name[-LONGEST:]}"
        found[f"{cell_type}\n{short} {rows.well.iloc[0]}"] = store.read(int(rows.row.iloc[0]))
    return found


def shown_planes(planes: int, frames: int) -> list[int]:
    """All planes of a still; of a clip the first, middle and last frame of every channel."""
    if frames == 1:
        return list(range(planes))
    chosen = sorted({0, frames // 2, frames - 1})
    return [channel * frames + frame for channel in range(planes // frames) for frame in chosen]


def outcome_by_well(samples: pd.DataFrame, targets: Targets, right: np.ndarray) -> pd.DataFrame:
    """Columns experiment, plate, well, outcome ("correct", "wrong", "control") of the first
    `PLATES_SHOWN` plates with targets.
    """
    outcome = pd.Series(np.where(right, "correct", "wrong"), index=targets.target_id)
    plates = pd.DataFrame(
        {"experiment": targets.experiment, "plate": targets.plate}
    ).drop_duplicates()
    plates = plates.sort_values(["experiment", "plate"]).head(PLATES_SHOWN)
    wells = samples.drop_duplicates("target_id").merge(plates, on=["experiment", "plate"])
    wells["outcome"] = wells.target_id.map(outcome).where(wells.role == "treatment", "control")
    return wells.loc[wells.outcome.notna(), ["experiment", "plate", "well", "outcome"]]
