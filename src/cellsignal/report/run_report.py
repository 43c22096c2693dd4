"""Draw the pictures of a run: training, images, labels, ladders, confusion matrix, plates."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.files import write_csv
from cellsignal.competitions.folds import labelled
from cellsignal.competitions.targets import Targets, Truth
from cellsignal.config import Config
from cellsignal.data.folds import read_folds
from cellsignal.data.store import Store
from cellsignal.evaluation.ladder import Step
from cellsignal.prediction.embeddings import load_embeddings
from cellsignal.prediction.entry import Entry, open_entry, with_part
from cellsignal.prediction.plate_layout.apply import predict_labels
from cellsignal.prediction.steps import truth_of
from cellsignal.report.confusion import confusion_matrix
from cellsignal.report.embedding_plots import tsne_plot
from cellsignal.report.plate_plots import channel_montage, plate_map
from cellsignal.report.plots import label_distribution, ladder_plot, learning_curves

LONGEST = 16  # letters of an experiment's name beside its picture
PLATES_SHOWN = 32  # a plate map of more is unreadable; the first experiments are shown


def write_report(
    config: Config, entry: Entry, steps: dict[str, list[Step]], truth: Truth | None
) -> list[Path]:
    """Write the PNGs to runs/<name>/seed<k>/report and return their paths.

    Args:
        steps: title -> ladder, one picture each.
        truth: of the test targets (`Task.truth`); without it plate map and confusion
            matrix show the out-of-fold targets.
    """
    folder, store = config.run_folder / "report", Store.open(config.data.store)
    classes, competition = entry.classes, entry.competition
    written = [folder / "learning_curves.png", folder / "channels.png", folder / "labels.png"]
    task = competition.task
    guess = task.chance(store.samples[labelled(store.samples)], len(classes))
    title = f"{config.name}: training"
    learning_curves(
        written[0], training_logs(config), score=task.monitored, guess=guess, title=title
    )
    planes = shown_planes(len(store.channels), competition.frames)
    images = {name: image[planes] for name, image in example_images(store).items()}
    names = [store.channels[plane] for plane in planes]
    title = f"{competition.title}: one well of each cell type"
    channel_montage(written[1], images, names, title=title)
    counts = label_counts(config, store.samples, classes)
    title = f"{config.name}: images of each class"
    label_distribution(written[2], counts, what="images", title=title)
    for title, rungs in steps.items():
        if rungs:
            written.append(folder / f"ladder_{title.lower().replace(' ', '_')}.png")
            ladder_plot(written[-1], rungs, title=f"{config.name}: {title}")
    if "outcome" in task.pictures:
        written += _draw_outcomes(config, entry, store, truth)
    return written


def draw_classification(config: Config, files: Sequence[Path], method: str) -> list[Path]:
    """Draw the out-of-fold confusion matrix of wells that were classified by their embeddings.

    Args:
        files: predictions of `profiles classify`.
        method: of the classification; it is a part of the pictures' names.
    """
    entry = open_entry(files, config.submit, root=config.data.root)
    return _draw_outcomes(config, entry, Store.open(config.data.store), None, f"_{method}")


def _draw_outcomes(
    config: Config, entry: Entry, store: Store, truth: Truth | None, suffix: str = ""
) -> list[Path]:
    """Draw the confusion matrix and, of 384-well addresses, a plate map; list the wells."""
    part, wells_of = ("oof", "out-of-fold wells") if truth is None else ("test", "test wells")
    groups = entry.competition.plate_groups(store.samples)
    final = with_part(entry.final(), part)
    if not final:
        return []
    targets = entry.merge(final, part, pool=entry.how.pool)
    predicted, _ = predict_labels(entry, targets, groups)
    true = truth_of(entry, targets, truth).values
    counted = np.arange(len(true))
    if entry.how.pool == "well":  # the targets of a well share one prediction: it counts once
        counted = np.sort(np.unique(targets.well_id, return_index=True)[1])
    folder, title = config.run_folder / "report", f"{config.name}{suffix}: {wells_of}"
    written = [folder / f"confusion{suffix}.png"]
    group = None if groups is None else groups.class_group
    confusion_matrix(
        written[0], true[counted], predicted[counted], entry.classes, group=group, title=title
    )
    write_csv(folder / f"wells{suffix}.csv", outcome_table(entry, targets, predicted, true))
    wells = outcome_by_well(store.samples, targets, predicted == true)
    if len(wells) and wells.well.str.fullmatch(r"[A-P]\d\d").all():
        written.append(folder / f"plates{suffix}.png")
        title += " of the final ensemble"
        plate_map(written[-1], wells, value="outcome", title=title)
    return written


def label_counts(config: Config, samples: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Count the images of each class in each fold's validation part, and those never held out."""
    folds, has_label = read_folds(config.folds.file, samples), labelled(samples)
    parts = {f"fold {fold}": folds.validation(samples, fold) for fold in folds.folds}
    parts["never held out"] = has_label & ~np.any(list(parts.values()), axis=0)
    counts = {}
    for name, mask in parts.items():
        label = samples.label[mask]
        if label.isna().all():
            label = samples["labels"][mask].explode().dropna()
        counts[name] = np.bincount(label.to_numpy(dtype=int), minlength=len(classes))
    frame = pd.DataFrame(counts, index=list(classes))
    return frame.loc[:, (frame > 0).any()]


def embedding_picture(config: Config, path: Path) -> Path:
    """Draw the held-out samples of an embeddings file by t-SNE; all if none is held out.

    Colours are classes, or cell types where a sample has several classes.
    """
    embeddings = load_embeddings(path)
    samples, names = embeddings.samples, embeddings.about["classes"]
    kind, chosen = "held-out", (samples.part == "oof").to_numpy()
    if not chosen.any():
        kind, chosen = "training", (samples.part == "train").to_numpy()
    samples = samples[chosen]
    labels = samples.label.to_numpy()
    if (labels < 0).all():
        names = sorted(samples.cell_type.unique())
        labels = pd.Index(names).get_indexer(samples.cell_type)
    out = config.run_folder / "report" / f"tsne_{path.stem}.png"
    title = f"{config.name}: embeddings of {kind} samples, {path.stem} (t-SNE)"
    tsne_plot(out, embeddings.values[chosen].astype(np.float32), labels, names, title=title)
    return out


def training_logs(config: Config) -> pd.DataFrame:
    """Read the epochs of all jobs of a run: columns fold, stage, model and those of log.csv."""
    frames = []
    for stage in config.stages:
        for path in sorted(config.run_folder.glob(f"*/{stage.name}/*/log.csv")):
            place = {"fold": path.parts[-4], "stage": stage.name, "model": path.parts[-2]}
            frames.append(pd.read_csv(path).assign(**place))
    return pd.concat(frames, ignore_index=True)


def example_images(store: Store) -> dict[str, np.ndarray]:
    """Read one (C, H, W) uint8 image per cell type, of an untreated well if possible."""
    samples = store.samples.assign(treated=store.samples.role != "negative_control")
    samples = samples.sort_values("treated", kind="stable")
    images = {}
    for cell_type, rows in samples.groupby("cell_type", sort=True):
        first = rows.iloc[0]
        name = first.experiment
        short = name if len(name) <= LONGEST else f"…{name[-LONGEST:]}"
        images[f"{cell_type}\n{short} {first.well}"] = store.read(int(first.row))
    return images


def shown_planes(planes: int, frames: int) -> list[int]:
    """Return all planes of a still; of a clip first, middle and last frame of every channel."""
    if frames == 1:
        return list(range(planes))
    chosen = sorted({0, frames // 2, frames - 1})
    return [channel * frames + frame for channel in range(planes // frames) for frame in chosen]


def outcome_table(
    entry: Entry, targets: Targets, predicted: np.ndarray, true: np.ndarray
) -> pd.DataFrame:
    """Return what was predicted of each target, a row per target.

    Columns target_id, experiment, plate, well, compound, true and predicted (class names; true is
    empty where unknown), probability (softmax of the merged scores, not calibrated) and right.
    """
    names = np.array([*entry.classes, ""], dtype=object)
    samples = entry.samples.drop_duplicates("target_id").set_index("target_id")
    wells = samples.loc[targets.target_id, ["experiment", "plate", "well", "compound"]]
    scores = targets.scores.astype(np.float64)
    share = np.exp(scores - scores.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return wells.reset_index().assign(
        true=names[true],
        predicted=names[predicted],
        probability=share[np.arange(len(share)), predicted].round(4),
        right=predicted == true,
    )


def outcome_by_well(samples: pd.DataFrame, targets: Targets, right: np.ndarray) -> pd.DataFrame:
    """Return the outcome of each well on the first `PLATES_SHOWN` plates with targets.

    Columns experiment, plate, well, outcome ("correct", "wrong", "control").
    """
    outcome = pd.Series(np.where(right, "correct", "wrong"), index=targets.target_id)
    plates = pd.DataFrame({"experiment": targets.experiment, "plate": targets.plate})
    plates = plates.drop_duplicates().sort_values(["experiment", "plate"]).head(PLATES_SHOWN)
    wells = samples.drop_duplicates("target_id").merge(plates, on=["experiment", "plate"])
    wells["outcome"] = wells.target_id.map(outcome).where(wells.role == "treatment", "control")
    return wells.loc[wells.outcome.notna(), ["experiment", "plate", "well", "outcome"]]
