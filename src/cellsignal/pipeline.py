"""The verbs that take more than one room: from raw images to the leaderboard, each step alone or all in a row."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition, check_submission_targets
from cellsignal.config import Config, load_config
from cellsignal.config.schema import Submit
from cellsignal.data.fold_file import bring_folds_up_to_date
from cellsignal.errors import InputError
from cellsignal.evaluation.ladder import Step, ladder_text
from cellsignal.evaluation.leaderboard import (
    append_entry,
    control_entries,
    leaderboard_competitions,
    leaderboard_table,
    leaderboard_text,
    submission_entry,
)
from cellsignal.evaluation.score import read_submission, score_submission

log = logging.getLogger(__name__)
LEADERBOARD = Path("submissions/leaderboard.csv")
SHOWN = 20  # warnings of one kind that are printed


def prepare(config: Config) -> None:
    """Pack the config's images into its store; list what was left out."""
    from cellsignal.data.pack import prepare as pack_competition

    competition, data = get_competition(config.competition), config.data
    report = pack_competition(
        competition,
        data.root,
        data.store,
        size=data.size,
        bad_site=data.bad_site,
        workers=data.workers,
        codec=data.codec,
    )
    _warn([f"left out {sample_id}: {message}" for sample_id, message in report.skipped], data.store / "store.json")
    _warn(
        [f"{sample_id}: channel {channel} has zero variance" for sample_id, channel in report.flat],
        data.store / "store.json",
    )
    log.info("%s: %d samples packed, %d left out", data.store, report.n_packed, len(report.skipped))


def _warn(lines: list[str], full_list: Path) -> None:
    for line in lines[:SHOWN]:
        log.warning("%s", line)
    if len(lines) > SHOWN:
        log.warning("... and %d more; all are in %s", len(lines) - SHOWN, full_list)


def submit(
    sources: Sequence[Path],
    out: Path | None,
    *,
    weights: dict[str, float],
    root: Path | None,
    changed: dict[str, object],
) -> tuple[Path, list[Step]]:
    """Make a submission from configs (.yaml: all their predictions, merged as the first says) or predictions files (.npz).

    Args:
        changed: keys of the config's `submit` section to set otherwise; None values are ignored.

    Returns:
        The CSV's path and the out-of-fold ladder.
    """
    from cellsignal.prediction.submit import make_submission, open_entry

    files, first = predictions_files(sources)
    how = (first.submit if first else Submit()).model_copy(
        update={key: value for key, value in changed.items() if value is not None}
    )
    entry = open_entry(files, how, weights, root)
    names = dict.fromkeys(run.split("/")[0] for run in entry.runs)
    out = out or Path("submissions") / f"{'+'.join(names)}.csv"
    return out, make_submission(entry, out)


def predictions_files(sources: Sequence[Path]) -> tuple[list[Path], Config | None]:
    """The predictions files that configs and .npz paths stand for, and the first config among them."""
    files, first = [], None
    for source in map(Path, sources):
        if source.suffix in (".yaml", ".yml"):
            config = load_config(source)
            found = sorted((config.runs / config.name).glob("seed*/predictions/*.npz"))
            if not found:
                raise InputError(
                    f"{config.runs / config.name}: no predictions; run `python -m inference.predict {source}` first"
                )
            files, first = files + found, first or config
        else:
            files.append(source)
    return files, first


def out_of_fold_table(sources: Sequence[Path], root: Path | None) -> str:
    """Out-of-fold accuracy of the runs of configs or predictions files, as text."""
    from cellsignal.prediction.oof import out_of_fold, out_of_fold_ranking, out_of_fold_text
    from cellsignal.prediction.submit import open_entry

    files, first = predictions_files(sources)
    entry = open_entry(files, first.submit if first else Submit(), root=root)
    if entry.competition.multilabel:
        return out_of_fold_ranking(entry)
    samples = entry.competition.samples(entry.root).drop_duplicates("target_id")
    group = entry.members[0].about["fold_group"]
    return out_of_fold_text(out_of_fold(entry, samples.set_index("target_id")[group]))


def protocol_table(config: Config, answers_file: Path) -> str:
    """The scores of a config's predictions by the parts of its protocol, as text."""
    from cellsignal.evaluation.protocol import protocol_text
    from cellsignal.prediction.protocol import score_protocol

    competition, folder = get_competition(config.competition), config.run_folder / "predictions"
    if config.protocol is None:
        raise InputError(f"protocol: {config.name} has none; `cellsignal competitions` lists them")
    files = sorted(folder.glob(f"*_{config.stages[-1].name}.npz"))
    if not files:
        raise InputError(f"{folder}: no predictions; run `cellsignal predict` first")
    published = dict(competition.protocol(config.protocol).parts)
    return protocol_text(score_protocol(files, competition.answers(answers_file)), published)


def split_audit(config: Config) -> str:
    """Accuracy on held-out wells of seen experiments and on unseen experiments, for the kinds of labelled wells in the config's store."""
    from cellsignal.data.store import Store
    from cellsignal.evaluation.audit import audit_split, audit_text

    _needs_one_label(config, "audit")
    store = Store.open(config.data.store)
    labelled = store.samples[store.samples.label.notna()]
    kinds = [kind for kind in ("positive_control", "treatment") if (labelled.role == kind).any()]
    return audit_text(
        [audit_split(store.samples, store.read, kind, by_plate) for kind in kinds for by_plate in (False, True)]
    )


def _needs_one_label(config: Config, verb: str) -> None:
    if get_competition(config.competition).multilabel:
        raise InputError(f"{verb}: needs one label an image; those of {config.competition} have several or none")


def oversampling_audit(config: Config, classes: int | None, rounds: int) -> str:
    """What oversampling before the split does to a validation figure, on the config's store and on noise, as text.

    Args:
        classes: the most frequent ones alone; None for all.
    """
    from cellsignal.data.store import Store
    from cellsignal.evaluation.oversampling import oversampling_audit as audit
    from cellsignal.evaluation.oversampling import oversampling_text

    _needs_one_label(config, "audit --oversampling")
    store = Store.open(config.data.store)
    return oversampling_text(audit(store.samples, store.read, classes=classes, rounds=rounds, seed=config.seed))


def score(
    path: Path,
    answers_file: Path,
    competition_id: str | None,
    *,
    leaderboard: Path,
    root: Path | None,
    name: str | None,
) -> pd.DataFrame:
    """Score a submission, append it (and the controls) to the leaderboard, give back the table of slices.

    Args:
        root: the raw data: its classes are those a submission may name, and its sample submission is scored as a control. Without
            it the classes are those that the answers hold.
    """
    competition = get_competition(competition_id) if competition_id else guess_competition(path)
    answers = competition.answers(answers_file)
    if competition.multilabel:
        from cellsignal.competitions.multilabel import answer_classes
        from cellsignal.evaluation.multilabel_score import read_scores, score_multilabel

        submission = read_scores(path, competition, answer_classes(answers, competition.id_column))
        table = score_multilabel(competition, submission, answers)
    elif competition.ranked:
        from cellsignal.evaluation.ranking_score import score_ranking

        submission = read_submission(path, competition)
        table = score_ranking(competition, submission, answers)
    else:
        submission = read_submission(path, competition)
        known = competition.classes(root) if root else tuple(answers[competition.target_column].astype(str).unique())
        _check_targets(competition, submission, known)
        table = score_submission(competition, submission, answers)
    append_entry(leaderboard, submission_entry(competition, name or path.stem, path, submission, answers))
    sample = competition.sample_submission(root) if root else None
    for entry in control_entries(competition, sample, answers) if sample is not None else ():
        append_entry(leaderboard, entry)
    return table


def _check_targets(competition: Competition, submission: pd.DataFrame, classes: tuple[str, ...]) -> None:
    """Every target a class of `classes`, in whichever spelling."""
    ids, target = competition.id_column, competition.target_column
    known = competition.comparable(pd.DataFrame({ids: classes, target: classes}), "classes")[target]
    check_submission_targets(competition.comparable(submission, "submission"), tuple(known), ids, target)


def guess_competition(path: Path) -> Competition:
    """The competition whose columns a submission has.

    Raises:
        InputError: none or several have them.
    """
    from cellsignal.competitions import competition_ids

    try:
        columns = set(pd.read_csv(path, nrows=0).columns)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        raise InputError(f"{path}: not a readable CSV") from None
    known = [get_competition(i) for i in competition_ids()]
    fitting = [c for c in known if not c.multilabel and {c.id_column, c.target_column} <= columns]
    if len(fitting) != 1:
        raise InputError(f"{path}: columns {sorted(columns)} do not tell the competition; give --competition")
    return fitting[0]


def show_leaderboard(competition_id: str | None, path: Path) -> str:
    """The leaderboard as text, of one competition or of all that have rows."""
    ids = (competition_id,) if competition_id else leaderboard_competitions(path)
    return "\n\n".join(leaderboard_text(leaderboard_table(path, get_competition(i))) for i in ids)


def run_all(config: Config, answers_file: Path | None, *, splits: int = 3) -> None:
    """Everything: prepare, folds (see `bring_folds_up_to_date`), train, predict, submit, score, report. Each step goes on where it was."""
    from cellsignal.prediction.predict import predict
    from cellsignal.prediction.submit import ladder, make_submission, open_entry, truth_labels
    from cellsignal.report import write_report
    from cellsignal.training.run import train

    prepare(config)
    bring_folds_up_to_date(competition_id=config.competition, root=config.data.root, out=config.folds.file, splits=splits, seed=config.seed)
    train(config)
    files = predict(config)
    entry = open_entry(files, config.submit, root=config.data.root)
    out = Path("submissions") / f"{config.name}.csv"
    steps, truth = {"Out of fold": make_submission(entry, out)}, None
    print(
        f"\nOut of fold: targets that the predicting model did not train on\n\n{ladder_text(steps['Out of fold'])}\n\nsubmission: {out}"
    )
    if answers_file is not None:
        truth = truth_labels(entry.competition, entry.competition.answers(answers_file), entry.members[0].classes)
        steps["Test"] = ladder(entry, "test", entry.competition.plate_groups(entry.samples), truth)
        print(f"\nTest: targets that no model saw\n\n{ladder_text(steps['Test'])}")
        table = score(
            out, answers_file, entry.competition.id, leaderboard=LEADERBOARD, root=config.data.root, name=config.name
        )
        shown = ["overall", "public", "private", "cell_type", "class", *(["experiment"] if entry.competition.ranked else [])]
        print(f"\n{format_scores(table[table['slice'].isin(shown)])}")
        print(f"\n{show_leaderboard(entry.competition.id, LEADERBOARD)}")
    print()
    for picture in write_report(config, entry, steps, truth):
        print(f"picture: {picture}")


def format_scores(table: pd.DataFrame) -> str:
    """The table of slices as aligned text."""
    if "rank1" in table.columns:
        from cellsignal.evaluation.ranking_score import ranking_text

        return ranking_text(table)
    if "average_precision" in table.columns:
        from cellsignal.evaluation.multilabel_score import score_text

        return score_text(table)
    from cellsignal.evaluation.ladder import aligned

    lines = [("slice", "name", "accuracy", "95 % interval", "right")]
    for kind, name, right, n, value, low, high in table[
        ["slice", "name", "correct", "n", "accuracy", "low", "high"]
    ].itertuples(index=False, name=None):
        lines.append((kind, str(name), f"{value:.4f}", f"{low:.4f} .. {high:.4f}", f"{right}/{n}"))
    return aligned(lines, right={2, 4})
