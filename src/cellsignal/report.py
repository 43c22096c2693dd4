"""The pictures of a run: learning curves, what the images look like, where on the plates it was right, what was taken for what."""

from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.config import Config
from cellsignal.data.store import Store
from cellsignal.evaluation.ladder import Step
from cellsignal.evaluation.plate_plots import channel_montage, plate_map
from cellsignal.evaluation.plots import confusion_matrix, ladder_plot, learning_curves
from cellsignal.prediction.ensemble import Targets
from cellsignal.prediction.submit import Entry, labels_of

PLATES_SHOWN = 32  # a plate map of more is unreadable; the first experiments are shown


def write_report(
    config: Config, entry: Entry, steps: dict[str, list[Step]], truth: dict[str, int] | None
) -> list[Path]:
    """Write the PNGs to runs/<name>/seed<k>/report and give back their paths.

    Args:
        steps: title -> ladder, one picture each.
        truth: target_id -> label of the test targets; without it plate map and confusion matrix show the out-of-fold targets.
    """
    folder, store = config.run_folder / "report", Store.open(config.data.store)
    groups = entry.competition.plate_groups(store.samples)
    part = "oof" if truth is None else "test"
    written = [folder / "learning_curves.png", folder / "channels.png"]
    learning_curves(
        written[0], training_logs(config), chance=1 / len(entry.members[0].classes), title=f"{config.name}: training"
    )
    channel_montage(
        written[1],
        example_images(store),
        store.channels,
        title=f"{entry.competition.title}: one well of each cell type",
    )
    for title, rungs in steps.items():
        if rungs:
            written.append(folder / f"ladder_{title.lower().replace(' ', '_')}.png")
            ladder_plot(written[-1], rungs, title=f"{config.name}: {title}")
    final = [m for m in entry.final() if (m.ids["part"] == part).any()]
    if final:
        targets = entry.merge(final, part, pool=entry.how.pool)
        predicted, _ = labels_of(entry, targets, groups)
        true = targets.label if truth is None else np.array([truth[target] for target in targets.target_id])
        about = {"oof": "out-of-fold wells", "test": "test wells"}[part]
        written.append(folder / "confusion.png")
        confusion_matrix(written[-1], true, predicted, entry.members[0].classes, group=None if groups is None else groups.class_group,
                         title=f"{config.name}: {about}")  # fmt: skip
        wells = outcome_by_well(store.samples, targets, predicted == true)
        if len(wells) and wells.well.str.fullmatch(r"[A-P]\d\d").all():
            written.append(folder / "plates.png")
            plate_map(written[-1], wells, value="outcome", title=f"{config.name}: {about} of the final ensemble")
    return written


def training_logs(config: Config) -> pd.DataFrame:
    """The epochs of all jobs of a run: columns fold, stage, model and those of log.csv."""
    frames = []
    for stage in config.stages:
        for path in sorted(config.run_folder.glob(f"*/{stage.name}/*/log.csv")):
            frames.append(pd.read_csv(path).assign(fold=path.parts[-4], stage=stage.name, model=path.parts[-2]))
    return pd.concat(frames, ignore_index=True)


def example_images(store: Store) -> dict[str, np.ndarray]:
    """One (C, H, W) uint8 image a cell type: an untreated well where there is one."""
    found = {}
    order = store.samples.assign(treated=store.samples.role != "negative_control").sort_values("treated", kind="stable")
    for cell_type, rows in order.groupby("cell_type", sort=True):
        found[f"{cell_type}\n{rows.experiment.iloc[0]} {rows.well.iloc[0]}"] = store.read(int(rows.row.iloc[0]))
    return found


def outcome_by_well(samples: pd.DataFrame, targets: Targets, right: np.ndarray) -> pd.DataFrame:
    """Columns experiment, plate, well, outcome ("correct", "wrong", "control") of the first `PLATES_SHOWN` plates with targets."""
    outcome = pd.Series(np.where(right, "correct", "wrong"), index=targets.target_id)
    plates = pd.DataFrame({"experiment": targets.experiment, "plate": targets.plate}).drop_duplicates()
    plates = plates.sort_values(["experiment", "plate"]).head(PLATES_SHOWN)
    wells = samples.drop_duplicates("target_id").merge(plates, on=["experiment", "plate"])
    wells["outcome"] = wells.target_id.map(outcome).where(wells.role == "treatment", "control")
    return wells.loc[wells.outcome.notna(), ["experiment", "plate", "well", "outcome"]]
