"""Measure the report of the whole RxRx1 layout: simulated predictions, real tables, no images.

    python tests/full_report.py data/rxrx1 --out /some/folder

The root needs the tables of RxRx1 alone (train.csv, test.csv, their controls and
sample_submission.csv). The labels of the test set are drawn at random, as a plate holds them.
"""

import argparse
import contextlib
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.files import write_csv, write_text
from cellsignal.competitions import get_competition
from cellsignal.config import dump_config, load_config
from cellsignal.prediction.container import load_predictions, save_predictions
from cellsignal.prediction.embeddings import save_embeddings
from cellsignal.report.html.writer import write_html_report

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "rxrx1" / "demo.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--margin", type=float, default=3.6, help="how much the true class stands out"
    )
    arguments = parser.parse_args()
    root = arguments.root.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(arguments.out):
        answers = make_run(root, arguments.margin)
        started, used = time.perf_counter(), time.process_time()
        path = write_html_report(["full"], answers)
        seconds, size = time.perf_counter() - started, path.stat().st_size / 1e6
        used = time.process_time() - used
        print(f"{os.getcwd()}/{path}: {seconds:.1f} s ({used:.1f} s of CPU), {size:.1f} MB")


def make_run(root: Path, margin: float) -> Path:
    """Write a run with predictions of all wells, and answers; return the answers' path."""
    rng, competition = np.random.default_rng(0), get_competition("rxrx1")
    samples, classes = competition.samples(root), competition.classes(root)
    changes = [
        "name=full",
        "seed=0",
        f"data.root={root}",
        "data.store=none",
        "folds.file=folds.csv",
    ]
    config = load_config(RECIPE, changes)
    write_text(config.run_folder / "config.yaml", dump_config(config))
    write_csv(Path("folds.csv"), pd.DataFrame({"experiment": [], "fold": []}))
    wells = samples[(samples.role == "treatment") & (samples.site == 1)].reset_index(drop=True)
    label = draw_labels(wells, competition.plate_groups(samples).class_group, rng)
    logits = rng.normal(size=(len(wells), len(classes))).astype(np.float32)
    ease = rng.normal(margin, 1.2, len(classes))[label]  # some classes are hard
    logits[np.arange(len(wells)), label] += ease
    part = np.where(wells.split == "test", "test", "oof")
    path = config.run_folder / "predictions" / "fold0_cell_type.npz"
    save_predictions(path, wells, part, {"identity": logits}, about(config, classes, root))
    save_maps(config, samples, wells.target_id, label, path, rng)
    test = wells.split == "test"
    answers = pd.DataFrame(
        {"id_code": wells.target_id[test], "sirna": [classes[k] for k in label[test]]}
    )
    write_csv(Path("answers.csv"), answers)
    return Path("answers.csv")


def save_maps(config, samples, target_id, label, predictions: Path, rng) -> None:
    """Write embeddings of 128 features: a part of the class, a part of the plate, and noise."""
    known = pd.Series(label, index=target_id)
    rows = samples[samples.site == 1].reset_index(drop=True)
    true = rows.target_id.map(known)
    plate = rows.groupby(["experiment", "plate"]).ngroup().to_numpy()
    of_class, of_plate = (
        rng.normal(0, 1, (len(known), 128)),
        rng.normal(0, 1.5, (plate.max() + 1, 128)),
    )
    values = of_plate[plate] + rng.normal(0, 0.5, (len(rows), 128))
    values[true.notna()] += of_class[true.dropna().to_numpy(int)]
    part = np.where(rows.role != "treatment", "none", np.where(rows.split == "test", "test", "oof"))
    shown = rows.label.where(rows.split == "train").fillna(-1)
    rows = rows.assign(part=part, label=shown, model="all")
    place = config.run_folder / "embeddings" / predictions.name
    save_embeddings(place, rows, values, about(config, load_predictions(predictions).classes, ""))


def draw_labels(wells: pd.DataFrame, class_group: np.ndarray, rng) -> np.ndarray:
    """Return known labels, and for test plates one group's classes in any order."""
    label = wells.label.fillna(-1).to_numpy(int).copy()
    for _, plates in wells[wells.split == "test"].groupby("experiment"):
        groups = rng.permutation(class_group.max() + 1)
        for number, rows in enumerate(plates.groupby("plate").indices.values()):
            members = np.flatnonzero(class_group == groups[number % len(groups)])
            places = plates.index[rows]
            label[places] = rng.permutation(members)[: len(places)]
    return label


def about(config, classes, root: Path) -> dict:
    return {
        "competition": "rxrx1",
        "classes": list(classes),
        "run": "full/seed0",
        "stage": "cell_type",
        "stage_index": 1,
        "fold": 0,
        "fold_group": "experiment",
        "seed": 0,
        "data_root": str(root),
        "settings": config.predict.model_dump(mode="json"),
        "submit": config.submit.model_dump(mode="json"),
    }


if __name__ == "__main__":
    main()
