"""Compare two-stage training by a flawed protocol and a right one: docs/results/two_stage.md.

On a simulated copy whose answers are known. A second stage that fine-tunes for each cell type can
lose accuracy while its own validation praises it. The flawed protocol is that of the thesis which
this project continues: wells are split at random, anew for each stage, so that the second validates
on wells that the first was trained on; the second has no augmentation; and the best checkpoint by
that validation is kept. The right one holds out whole experiments, the same in both stages,
augments in both, and keeps the last checkpoint. All else is equal. The trainer refuses a first
stage of other folds, so the flawed second stage gets its weights from a file, as a careless user
would.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, write_csv
from cellsignal.common.tables import aligned
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition
from cellsignal.competitions.folds import NEVER, labelled, make_folds
from cellsignal.config import Config
from cellsignal.data.folds import read_folds
from cellsignal.data.store import Store
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.intervals import mean_interval
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.merge import merge
from cellsignal.prediction.predict import predict
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.run import train

log = logging.getLogger(__name__)

WELLS_HELD_OUT = 0.05
# the recipe of configs/rxrx1/demo.yaml
FLIPS = tuple({"name": name} for name in ("horizontal_flip", "transpose", "rotate90"))
AUGMENT = (*FLIPS, {"name": "gain_bias", "gain": 0.1, "bias": 0.1})
FIRST = {"name": "all", "batch_size": 32, "schedule": {"name": "onecycle"}}
FIRST["optimizer"] = {"lr": 4e-3, "weight_decay": 0.05}
SECOND = {"name": "cell_type", "per": "cell_type", "batch_size": 16}
SECOND["optimizer"] = {"lr": 1e-3, "weight_decay": 0.05}
BOTH = {"label_smoothing": 0.1, "amp": "bf16"}


@dataclass(frozen=True)
class Bench:
    """Data and settings that both protocols share.

    Attributes:
        root, store, answers: a simulated copy, its store and its test answers.
        runs: folder of the runs.
        epochs: of the two stages.
    """

    root: Path
    store: Path
    answers: Path
    runs: Path
    epochs: tuple[int, int] = (10, 5)
    backbone: str = "resnet10t"


@dataclass(frozen=True)
class Outcome:
    """One stage of one protocol with one seed.

    Attributes:
        validation: the accuracy by well that the protocol reports.
        correct: (W,) bool, by test well in order of target_id; no test experiment was ever trained
            or validated on.
        experiment: (W,) text.
        reused: share of the validation wells that the validated model, in this stage or the one
            before, was trained on.
    """

    protocol: str
    stage: int
    seed: int
    validation: Accuracy
    correct: np.ndarray
    experiment: np.ndarray
    reused: float


def bench_two_stage(bench: Bench, seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """Train and score both protocols with each seed; a second call resumes.

    Returns:
        As `summary`.

    Raises:
        InputError: a store or answers that cannot be used.
    """
    store, outcomes = Store.open(bench.store), []
    test = store.samples[(store.samples.split == "test") & (store.samples.role == "treatment")]
    # before training, not after
    _answers(bench, get_competition(store.source["competition"]), test.target_id.unique())
    for seed in seeds:
        outcomes += [*flawed(bench, seed), *right(bench, seed)]
    return summary(outcomes)


def flawed(bench: Bench, seed: int) -> list[Outcome]:
    """Hold random wells out, others in the second stage; keep the best checkpoint by these.

    The second stage has no augmentation.
    """
    samples, tables = Store.open(bench.store).samples, []
    for stage in (1, 2):
        tables.append(bench.runs / "folds" / f"wells_seed{seed}_stage{stage}.csv")
        write_csv(tables[-1], random_wells(samples, WELLS_HELD_OUT, [seed, stage]))
    stages = [_stage(FIRST, bench.epochs[0], AUGMENT)]
    first = _config(bench, "flawed_stage1", seed, tables[0], stages, "best")
    train(first)
    weights = bench.runs / "weights" / f"flawed_stage1_seed{seed}.safetensors"
    _export(first.run_folder / "fold0" / "all" / "all" / "best.pt", weights)
    stages = [_stage(SECOND, bench.epochs[1], ())]
    second = _config(bench, "flawed_stage2", seed, tables[1], stages, "best", weights)
    train(second)
    files = [*predict(first), *predict(second)]
    return [
        _outcome(bench, "flawed", file, file, seed, samples, tables[:stage])
        for stage, file in enumerate(files, 1)
    ]


def right(bench: Bench, seed: int) -> list[Outcome]:
    """Hold whole experiments out, one of the rarest cell type, the same in both stages.

    Augmentation in both; last checkpoint. As no checkpoint is chosen by validation, the final
    models may train on all wells: "right, all wells" is tested so, and keeps the validation of the
    models that held experiments out.
    """
    store = Store.open(bench.store)
    samples = store.samples
    groups = get_competition(store.source["competition"]).plate_groups(samples)
    experiments = samples[labelled(samples)].groupby("cell_type").experiment.nunique()
    splits = max(int(experiments.min()), 2)
    table = bench.runs / "folds" / f"experiments_seed{seed}.csv"
    write_csv(table, make_folds(samples, "experiment", splits, seed, groups))
    stages = [
        _stage(FIRST, bench.epochs[0], AUGMENT),
        _stage(SECOND, bench.epochs[1], AUGMENT) | {"init": "previous"},
    ]
    config = _config(bench, "right", seed, table, stages, "last", full=True)
    train(config)
    held_out, full = np.reshape(predict(config), (2, 2))
    return [
        _outcome(bench, protocol, validated, tested, seed, samples, [table] * stage)
        for protocol, files in (("right", held_out), ("right, all wells", full))
        for stage, (validated, tested) in enumerate(zip(held_out, files, strict=True), 1)
    ]


def random_wells(samples: pd.DataFrame, share: float, seed: int | list[int]) -> pd.DataFrame:
    """Make a fold table that holds out a random share of the labelled wells in fold 0.

    At least one well, whatever its experiment.
    """
    wells = np.sort(samples.well_id[labelled(samples)].unique().astype(str))
    count = max(1, round(share * len(wells)))
    fold = np.full(len(wells), NEVER)
    fold[np.random.default_rng(seed).choice(len(wells), count, replace=False)] = 0
    table = pd.DataFrame({"fold": fold, "well_id": wells})
    return table.sort_values(["fold", "well_id"], ignore_index=True)


def summary(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Summarise the seeds: one row a protocol and stage.

    Returns:
        Columns protocol, stage, validation and its SD over the seeds, wells (validated on, all
        seeds), test and its SD, low and high (95 %, bootstrap over test experiments, seeds pooled),
        test_gain (over the stage before, NaN in the first) and its SD, optimism (validation -
        test), reused.
    """
    rows, test = [], {}
    for key in dict.fromkeys((outcome.protocol, outcome.stage) for outcome in outcomes):
        protocol, stage = key
        chosen = [o for o in outcomes if (o.protocol, o.stage) == key]
        chosen.sort(key=lambda outcome: outcome.seed)
        validation = np.array([outcome.validation.value for outcome in chosen])
        test[key] = np.array([outcome.correct.mean() for outcome in chosen])
        correct = np.concatenate([outcome.correct for outcome in chosen])
        experiment = np.concatenate([outcome.experiment for outcome in chosen])
        low, high = mean_interval(correct, experiment)
        gain = test[key] - test.get((protocol, stage - 1), np.nan)
        row = {"protocol": protocol, "stage": stage}
        row |= {"validation": validation.mean(), "validation_sd": _sd(validation)}
        row["wells"] = sum(outcome.validation.total for outcome in chosen)
        row |= {"test": test[key].mean(), "test_sd": _sd(test[key]), "low": low, "high": high}
        row |= {"test_gain": gain.mean(), "test_gain_sd": _sd(gain)}
        row["optimism"] = (validation - test[key]).mean()
        row["reused"] = np.mean([outcome.reused for outcome in chosen])
        rows.append(row)
    return pd.DataFrame(rows)


def summary_text(table: pd.DataFrame) -> str:
    """Format the table for a terminal."""
    header = ("protocol", "stage", "validation (SD)", "test (SD)", "95 % over experiments")
    lines = [(*header, "stage gained (SD)", "optimism", "reused")]
    for row in table.itertuples():
        validation = f"{row.validation:.3f} ({row.validation_sd:.3f})"
        test = (f"{row.test:.3f} ({row.test_sd:.3f})", f"{row.low:.3f} .. {row.high:.3f}")
        gain = "" if pd.isna(row.test_gain) else f"{row.test_gain:+.3f} ({row.test_gain_sd:.3f})"
        end = (gain, f"{row.optimism:+.3f}", f"{row.reused:.0%}")
        lines.append((row.protocol, str(row.stage), validation, *test, *end))
    return aligned(lines, right={1, 7})


def _sd(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _stage(stage: dict[str, Any], epochs: int, augment: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {**stage, **BOTH, "epochs": epochs, "augment": list(augment)}


def _config(
    bench: Bench,
    name: str,
    seed: int,
    folds: Path,
    stages: list[dict],
    checkpoint: str,
    weights: Path | None = None,
    full: bool = False,
) -> Config:
    data = {"root": bench.root, "store": bench.store, "workers": 0, "pipeline": "albumentations"}
    tree = {
        "name": name,
        "competition": Store.open(bench.store).source["competition"],
        "seed": seed,
        "runs": bench.runs,
        "data": data,
        "folds": {"file": folds, "use": [0], "full": full},
        "model": {"backbone": bench.backbone, "weights": weights},
        "stages": stages,
        "predict": {"tta": 1, "checkpoint": checkpoint, "batch_size": 128},
    }
    return Config.model_validate(tree)


def _export(checkpoint: Path, out: Path) -> None:
    """Write the weights that a checkpoint would predict with as a safetensors file."""
    from safetensors.torch import save_file

    state = load_checkpoint(checkpoint)
    weights = state["averaged"] or state["model"]
    with atomic_path(out) as temporary:
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary)


def _outcome(
    bench: Bench,
    protocol: str,
    validated: Path,
    tested: Path,
    seed: int,
    samples: pd.DataFrame,
    tables: Sequence[Path],
) -> Outcome:
    """Score predictions files; `tables` are the fold tables of the stages up to this one."""
    predictions = load_predictions(tested)
    competition = get_competition(predictions.about["competition"])
    held_out = merge([load_predictions(validated)], "oof", competition.task)
    test = merge([predictions], "test", competition.task)
    is_right = held_out.scores.argmax(1) == held_out.label
    validation = Accuracy.of(int(is_right.sum()), len(is_right))
    truth = _answers(bench, competition, test.target_id)
    correct = np.array(predictions.classes)[test.scores.argmax(1)] == truth
    trained_on: set[str] = set()
    for table in tables:
        trained_on |= set(samples.target_id[read_folds(table, samples).training(samples, 0)])
    reused = float(np.isin(held_out.target_id, sorted(trained_on)).mean())
    stage = len(tables)
    words = (protocol, stage, seed, validation, correct.mean())
    log.info("%s, stage %d, seed %d: validation %s, test %.3f", *words)
    return Outcome(protocol, stage, seed, validation, correct, test.experiment, reused)


def _answers(bench: Bench, competition: Competition, target_id: np.ndarray) -> np.ndarray:
    """Return the true classes of test targets, (T,) text, as a submission writes them."""
    answers = competition.answers(bench.answers).set_index(competition.id_column)
    truth = answers[competition.target_column].astype(str)
    missing = ~np.isin(target_id.astype(str), truth.index.to_numpy(object).astype(str))
    if missing.any():
        raise InputError(
            f"{bench.answers}: has no answer for {int(missing.sum())} test ids, first "
            f"{target_id[missing][0]!r}"
        )
    return truth.loc[target_id].to_numpy(object).astype(str)
