"""How long the way from a predictions file to a submission takes at the full size of RxRx1's test set, and how much memory.

18 experiments, 72 plates, two sites a well: the real layout, drawn by the simulator, with random logits that are right about as
often as a good model's.
"""

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.rxrx1.competition import N_CLASSES, N_POSITIVE_CONTROLS
from cellsignal.evaluation.assignment import assign
from cellsignal.evaluation.plate_groups import infer_plate_groups
from cellsignal.prediction.container import load_predictions, save_predictions
from cellsignal.prediction.ensemble import merge
from cellsignal.simulate.rxrx1 import REAL_TEST_EXPERIMENTS, REAL_TRAIN_EXPERIMENTS, plate_maps

CLASSES_AND_CONTROLS = N_CLASSES, N_POSITIVE_CONTROLS


def bench_postprocess(views: int = 1, signal: float = 3.0, seed: int = 0) -> pd.DataFrame:
    """Time each step.

    Args:
        views: TTA views in the predictions file.
        signal: how far the true class's logit stands above the N(0, 1) noise of each site and view.

    Returns:
        Columns step, seconds, accuracy (NaN where none), peak_gib (the process's peak resident memory so far, Python and libraries included).
    """
    with tempfile.TemporaryDirectory() as folder:
        path, wells, rows = Path(folder) / "test.npz", _wells(seed), []
        writer = multiprocessing.get_context("spawn").Process(
            target=_write_predictions, args=(path, views, signal, seed)
        )
        writer.start()  # in a process of its own, so that this one's peak memory is that of the steps
        writer.join()
        assert writer.exitcode == 0

        def step(name: str, function, labels=None):
            started = time.perf_counter()
            result = function()
            seconds = time.perf_counter() - started
            right = np.nan if labels is None else float((labels(result) == truth).mean())
            rows.append((name, seconds, right, _peak() / 2**30))
            return result

        truth = wells.sort_values("id_code").sirna.to_numpy()
        member = step("open the predictions file", lambda: load_predictions(path))
        targets = step(f"merge 2 sites x {views} views", lambda: merge([member], "test"), lambda t: t.scores.argmax(1))
        groups = PlateGroups(wells.drop_duplicates("sirna").sort_values("sirna").group.to_numpy(), {})
        inferred = step(
            "infer plate groups", lambda: infer_plate_groups(targets.scores, targets.experiment, targets.plate, groups)
        )
        labels = step("assign 72 plates",
                      lambda: assign(targets.scores, targets.experiment, targets.plate, groups.class_group, inferred.plate_group), lambda x: x)  # fmt: skip
        step(
            "write the submission",
            lambda: pd.DataFrame({"id_code": targets.target_id, "sirna": labels}).to_csv(
                Path(folder) / "s.csv", index=False
            ),
        )
    rows.append(("all", sum(row[1] for row in rows), np.nan, max(row[3] for row in rows)))
    return pd.DataFrame(rows, columns=["step", "seconds", "accuracy", "peak_gib"])


def _wells(seed: int) -> pd.DataFrame:
    classes, controls = CLASSES_AND_CONTROLS
    wells = plate_maps(seed, classes, controls, 1, REAL_TRAIN_EXPERIMENTS, REAL_TEST_EXPERIMENTS)
    wells = wells[(wells.split == "test") & (wells.well_type == "treatment")].reset_index(drop=True)
    first = wells[wells.experiment == wells.experiment[0]].set_index("sirna").plate
    wells["group"] = (
        wells.sirna.map(first) - 1
    )  # the groups are what stands together on the plates of any one experiment
    return wells


def _write_predictions(path: Path, views: int, signal: float, seed: int) -> None:
    wells, classes = _wells(seed), CLASSES_AND_CONTROLS[0]
    samples = wells.loc[wells.index.repeat(2)].reset_index(drop=True)
    samples = samples.assign(
        site=np.arange(len(samples)) % 2 + 1, target_id=samples.id_code, well_id=samples.id_code, label=pd.NA
    )
    samples["sample_id"] = samples.id_code + "_s" + samples.site.astype(str)
    rng, logits = np.random.default_rng(seed), {}
    for number in range(views):
        values = rng.standard_normal((len(samples), classes), dtype=np.float32)
        values[np.arange(len(samples)), samples.sirna] += signal
        logits[f"view{number}"] = values.astype(np.float16)
    save_predictions(
        path, samples, np.full(len(samples), "test"), logits, {"classes": [str(i) for i in range(classes)]}
    )


def _peak() -> int:
    """The process's peak resident memory so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
