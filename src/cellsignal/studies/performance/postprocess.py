"""Measure time and memory from a predictions file to a submission, at RxRx1's full size.

18 experiments, 72 plates, two sites a well: the real layout, drawn by the simulator, with random
logits that are right about as often as a good model's. Then group inference and assignment by
themselves, against the bare assignment problems that lie in them.
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.rxrx1.competition import N_CLASSES, N_POSITIVE_CONTROLS, RxRx1
from cellsignal.competitions.rxrx1.simulate import (
    REAL_TEST_EXPERIMENTS,
    REAL_TRAIN_EXPERIMENTS,
    plate_maps,
)
from cellsignal.prediction.container import load_predictions, save_predictions
from cellsignal.prediction.merge import merge
from cellsignal.prediction.plate_layout.assignment import assign
from cellsignal.prediction.plate_layout.groups import infer_plate_groups, plates_of

CLASSES_AND_CONTROLS = N_CLASSES, N_POSITIVE_CONTROLS


def bench_postprocess(views: int = 1, signal: float = 3.0, seed: int = 0) -> pd.DataFrame:
    """Time each step.

    Args:
        views: TTA views in the predictions file.
        signal: how far the true class's logit stands above the N(0, 1) noise of each site and view.

    Returns:
        Columns step, seconds, accuracy (NaN where none), peak_gib (the process's peak resident
        memory so far, Python and libraries included).
    """
    with tempfile.TemporaryDirectory() as folder:
        path, wells, rows = Path(folder) / "test.npz", _wells(seed), []
        _write_predictions_apart(path, views, signal, seed)

        def step(name: str, function: Callable, *arguments):
            started = time.perf_counter()
            result = function(*arguments)
            rows.append({"step": name, "seconds": time.perf_counter() - started})
            rows[-1]["peak_gib"] = _peak() / 2**30
            return result

        truth = wells.sort_values("id_code").sirna.to_numpy()
        member = step("open the predictions file", load_predictions, path)
        task = RxRx1().task
        targets = step(f"merge 2 sites x {views} views", merge, [member], "test", task)
        rows[-1]["accuracy"] = float((targets.scores.argmax(1) == truth).mean())
        groups = _groups(wells)
        data = (targets.scores, targets.experiment, targets.plate)
        inferred = step("infer plate groups", infer_plate_groups, *data, groups)
        layout = (groups.class_group, inferred.plate_group)
        labels = step("assign 72 plates", assign, *data, *layout)
        rows[-1]["accuracy"] = float((labels == truth).mean())
        submission = {"id_code": targets.target_id, "sirna": labels}
        step("write the submission", _write_csv, submission, Path(folder) / "s.csv")
    table = pd.DataFrame(rows)
    all_steps = {"step": "all", "seconds": table.seconds.sum(), "peak_gib": table.peak_gib.max()}
    table = pd.concat([table, pd.DataFrame([all_steps])], ignore_index=True)
    return table[["step", "seconds", "accuracy", "peak_gib"]]


def _write_csv(columns: dict[str, np.ndarray], path: Path) -> None:
    pd.DataFrame(columns).to_csv(path, index=False)


def _write_predictions_apart(path: Path, views: int, signal: float, seed: int) -> None:
    """Write predictions in another process, so that this one's peak memory is that of the steps."""
    arguments = (path, views, signal, seed)
    writer = multiprocessing.get_context("spawn").Process(target=_write_predictions, args=arguments)
    writer.start()
    writer.join()
    assert writer.exitcode == 0


def bench_plate_assignment(rounds: int = 9, signal: float = 3.0, seed: int = 0) -> pd.DataFrame:
    """Time group inference and assignment against bare `linear_sum_assignment` per plate.

    The bare calls get each plate's wells x classes of its group, float32, cut out and contiguous
    beforehand. The three take turns.

    Args:
        rounds: times each is run; medians are given.
        signal: as in `bench_postprocess`, of a site; the scores are those of two sites merged.

    Returns:
        One row for the 18 test experiments, one for all 51. Columns layout, plates, wells; right,
        the share of wells assigned their own class; bare, infer and assign, seconds of CPU time on
        one thread; ratio, the median of the rounds' (infer + assign) / bare.
    """
    rows = []
    for layout, splits in (
        ("18 test experiments", ("test",)),
        ("all 51 experiments", ("train", "test")),
    ):
        wells = _wells(seed, splits).sort_values("id_code", ignore_index=True)
        experiment, plate = (
            wells.experiment.to_numpy(object).astype(str),
            wells.plate.to_numpy(object).astype(str),
        )
        scores, groups = _scores(wells.sirna.to_numpy(), signal, seed), _groups(wells)
        inferred = infer_plate_groups(scores, experiment, plate, groups).plate_group
        labels = assign(scores, experiment, plate, groups.class_group, inferred)
        blocks = [
            scores[np.ix_(members, np.flatnonzero(groups.class_group == inferred[name]))]
            for name, members in plates_of(experiment, plate)
        ]
        assert all(block.flags.c_contiguous for block in blocks)
        with threadpool_limits(1):  # else waiting threads would count as time
            seconds = _take_turns(
                rounds,
                lambda blocks=blocks: [
                    linear_sum_assignment(block, maximize=True) for block in blocks
                ],
                lambda given=(scores, experiment, plate, groups): infer_plate_groups(*given),
                lambda given=(scores, experiment, plate, groups.class_group, inferred): assign(
                    *given
                ),
            )
        ratio = np.median(seconds[:, 1:].sum(axis=1) / seconds[:, 0])
        right = float((labels == wells.sirna).mean())
        rows.append((layout, len(blocks), len(wells), right, *np.median(seconds, axis=0), ratio))
    return pd.DataFrame(
        rows, columns=["layout", "plates", "wells", "right", "bare", "infer", "assign", "ratio"]
    )


def postprocess_text(steps: pd.DataFrame, plates: pd.DataFrame) -> str:
    """Format the tables of `bench_postprocess` and `bench_plate_assignment` for a terminal."""

    def text(frame: pd.DataFrame) -> str:
        return frame.to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep="")

    title = "group inference and assignment against bare linear_sum_assignment, seconds of CPU time"
    return f"{text(steps)}\n\n{title}\n{text(plates)}"


def _take_turns(rounds: int, *functions: Callable[[], object]) -> np.ndarray:
    """Time the functions in turn: (rounds, functions) seconds of this process's CPU time."""
    seconds = np.zeros((rounds, len(functions)))
    for row in seconds:
        for column, function in enumerate(functions):
            started = time.process_time()
            function()
            row[column] = time.process_time() - started
    return seconds


def _scores(label: np.ndarray, signal: float, seed: int) -> np.ndarray:
    """Draw (N, K) float32 log-probabilities of wells: a signal and the noise of two sites."""
    rng = np.random.default_rng(seed)
    scores = np.empty((len(label), CLASSES_AND_CONTROLS[0]), np.float32)
    for start in range(0, len(label), 4096):  # in parts, for the sake of memory
        part = scores[start : start + 4096]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32) / np.sqrt(np.float32(2))
        part[np.arange(len(part)), label[start : start + 4096]] += signal
        part[:] = log_softmax(part, axis=1)
    return scores


def _groups(wells: pd.DataFrame) -> PlateGroups:
    return PlateGroups(wells.drop_duplicates("sirna").sort_values("sirna").group.to_numpy(), {})


def _wells(seed: int, splits: Sequence[str] = ("test",)) -> pd.DataFrame:
    """Draw the treatment wells in the real layout."""
    classes, controls = CLASSES_AND_CONTROLS
    wells = plate_maps(seed, classes, controls, 1, REAL_TRAIN_EXPERIMENTS, REAL_TEST_EXPERIMENTS)
    wells = wells[wells.split.isin(splits) & (wells.well_type == "treatment")].reset_index(
        drop=True
    )
    first = wells[wells.experiment == wells.experiment[0]].set_index("sirna").plate
    wells["group"] = (
        wells.sirna.map(first) - 1
    )  # the groups are what stands together on the plates of any one experiment
    return wells


def _write_predictions(path: Path, views: int, signal: float, seed: int) -> None:
    wells, classes = _wells(seed), CLASSES_AND_CONTROLS[0]
    samples = wells.loc[wells.index.repeat(2)].reset_index(drop=True)
    samples = samples.assign(
        site=np.arange(len(samples)) % 2 + 1,
        target_id=samples.id_code,
        well_id=samples.id_code,
        label=pd.NA,
    )
    samples["sample_id"] = samples.id_code + "_s" + samples.site.astype(str)
    rng, logits = np.random.default_rng(seed), {}
    for number in range(views):
        values = rng.standard_normal((len(samples), classes), dtype=np.float32)
        values[np.arange(len(samples)), samples.sirna] += signal
        logits[f"view{number}"] = values.astype(np.float16)
    save_predictions(
        path,
        samples,
        np.full(len(samples), "test"),
        logits,
        {"classes": [str(i) for i in range(classes)]},
    )


def _peak() -> int:
    """Return the peak resident memory of the process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
