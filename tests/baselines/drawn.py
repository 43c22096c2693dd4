"""Small stores of drawn wells with labels that a test chooses, and the problem of their folds."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from site_images import plate_images, plate_samples

from cellsignal.baselines.measuring import Problem, Split
from cellsignal.competitions import get_competition
from cellsignal.competitions.samples import check_samples
from cellsignal.data.pack import pack
from cellsignal.data.store import Store

EXPERIMENTS = ("E1", "E2", "E3", "E4")


def wells_of(label, rows="BCDEFG", columns=range(2, 12)):
    """Four plates, one an experiment; `label` is a function of a plate's wells -> labels."""
    tables = []
    for number, experiment in enumerate(EXPERIMENTS):
        table = plate_samples(experiment, "1", rows, columns, sites=1)
        tables.append(table.assign(label=label(table, np.random.default_rng(number))))
    table = pd.concat(tables, ignore_index=True)
    files = [(f"{name}.png",) for name in table.sample_id]
    return check_samples(table.assign(compound=None, files=files), "test")


def draw(samples, cells=lambda label: 9, gain=lambda label: 1.0):
    """Draw each sample's image; the number of nuclei and the brightness may follow the label."""
    images = []
    for number, label in enumerate(samples.label):
        (image,) = plate_images(samples.iloc[[number]], lambda well, n=label: cells(n), seed=number)
        images.append(np.clip(image * gain(label), 0, 255).astype(np.uint8))
    return images


def problem_of(folder, samples, images, classes, competition="rxrx1"):
    """The problem of two folds by experiment."""
    by_file = {files[0]: image for files, image in zip(samples.files, images, strict=True)}
    source = {"competition": competition, "root": "r", "classes": [str(n) for n in range(classes)]}
    read = lambda files: by_file[files[0]]  # noqa: E731
    pack(samples, read, folder / "store", channels=("dna", "actin"), source=source)
    store = Store.open(folder / "store")
    held_out = store.samples.experiment.isin(EXPERIMENTS[:2]).to_numpy()
    rows = np.arange(len(held_out))
    splits = (Split(rows[~held_out], rows[held_out]), Split(rows[held_out], rows[~held_out]))
    config = SimpleNamespace(
        run_folder=folder / "run",
        folds=SimpleNamespace(file=folder / "store" / "store.json", use=None),
    )
    folds = SimpleNamespace(group="experiment")
    facts = (config, get_competition(competition), store, folds, rows, splits, "target_id")
    return Problem(*facts, {"dna": 0, "actin": 1}, "dna")


def accuracy_of(problem, scores):
    return (scores.argmax(1) == problem.samples.label.to_numpy(int)).mean()
