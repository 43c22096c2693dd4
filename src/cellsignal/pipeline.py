"""The verbs that take more than one room: from raw images to the leaderboard, each step alone or
all in a row.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, limited_name, sha256
from cellsignal.competitions import get_competition
from cellsignal.config import Config, load_config
from cellsignal.data.folds import bring_folds_up_to_date
from cellsignal.evaluation.ladder import Step, ladder_text
from cellsignal.evaluation.leaderboard import LEADERBOARD, append_entry, out_of_fold_entry
from cellsignal.evaluation.score_file import (
    format_scores,
    guess_competition,
    score,
    show_leaderboard,
)
from cellsignal.evaluation.standing import runs_of

if TYPE_CHECKING:
    from cellsignal.prediction.judging import Truth
    from cellsignal.prediction.submit import Entry

# verbs of a submission file
__all__ = ["format_scores", "guess_competition", "score", "show_leaderboard"]
log = logging.getLogger(__name__)
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
    _warn(
        [f"left out {sample_id}: {message}" for sample_id, message in report.skipped],
        data.store / "store.json",
    )
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
    leaderboard: Path = LEADERBOARD,
    force: bool = False,
) -> tuple[Path, list[Step]]:
    """Make a submission from configs (.yaml: all their predictions) or predictions files (.npz),
    and print how they are merged.

    A config is merged as its `submit` section says, a predictions file as that of the config it was
    made with.

    Args:
        root: folder of the raw data; None takes the first config's, else the one that the
        predictions were made on. changed: keys of the `submit` section to set otherwise; None
        values are ignored. leaderboard, force: a submission that stands there is replaced only with
        `force`.

    Returns:
        The CSV's path and the out-of-fold ladder.

    Raises:
        InputError: predictions that are not what their config says, that do not belong together, or
        whose sections differ.
    """
    from cellsignal.prediction.entry_checks import refuse_without_test
    from cellsignal.prediction.merge_options import choose_section, weights_text
    from cellsignal.prediction.submit import make_submission, open_entry

    files, configs, sections = predictions_files(sources)
    how, whose = choose_section(
        sections, {key: value for key, value in changed.items() if value is not None}
    )
    entry = open_entry(files, how, weights, root or (configs[0].data.root if configs else None))
    refuse_without_test(entry.final(), entry.competition)
    out = (
        out
        or Path("submissions")
        / f"{limited_name('+'.join(dict.fromkeys(run.partition('/')[0] for run in entry.runs)))}.csv"
    )
    print(f"merged by {whose}")
    if len(entry.runs) > 1:
        print(weights_text(entry.weights))
    return out, make_submission(entry, out, leaderboard=leaderboard, force=force)


def predictions_files(
    sources: Sequence[Path],
) -> tuple[list[Path], list[Config], dict[str, dict | None]]:
    """The predictions files that configs and .npz paths stand for, the configs, and the `submit`
    section of each.

    Raises:
        InputError: a config has no predictions, or they were made from something else than it says
        now.
    """
    from cellsignal.prediction.container import load_predictions
    from cellsignal.prediction.freshness import config_predictions

    files: list[Path] = []
    configs: list[Config] = []
    sections: dict[str, dict | None] = {}
    for source in map(Path, sources):
        if source.suffix in (".yaml", ".yml"):
            configs.append(load_config(source))
            files += config_predictions(configs[-1])
            sections[str(source)] = configs[-1].submit.model_dump(mode="json")
        else:
            files.append(source)
            about = load_predictions(source).about
            sections.setdefault(about["run"], about.get("submit"))
    return files, configs, sections


def out_of_fold_table(sources: Sequence[Path], root: Path | None) -> str:
    """Out-of-fold accuracy of the runs of configs or predictions files, as text."""
    from cellsignal.prediction.merge_options import choose_section
    from cellsignal.prediction.oof import out_of_fold, out_of_fold_ranking, out_of_fold_text
    from cellsignal.prediction.submit import open_entry

    files, configs, sections = predictions_files(sources)
    how, _ = choose_section(sections, {}, keys=("merge",))
    entry = open_entry(files, how, root=root or (configs[0].data.root if configs else None))
    if entry.competition.multilabel:
        return out_of_fold_ranking(entry)
    samples = entry.competition.samples(entry.root).drop_duplicates("target_id")
    group = entry.members[0].about["fold_group"]
    return out_of_fold_text(out_of_fold(entry, samples.set_index("target_id")[group]))


def protocol_table(config: Config, answers_file: Path) -> str:
    """The scores of a config's predictions by the parts of its protocol, as text."""
    from cellsignal.evaluation.protocol import protocol_text
    from cellsignal.prediction.freshness import config_predictions
    from cellsignal.prediction.protocol import score_protocol

    competition = get_competition(config.competition)
    if config.protocol is None:
        raise InputError(f"protocol: {config.name} has none; `cellsignal competitions` lists them")
    files = config_predictions(config, all_seeds=False, stage_index=len(config.stages) - 1)
    published = dict(competition.protocol(config.protocol).parts)
    return protocol_text(score_protocol(files, competition.answers(answers_file)), published)


def split_audit(config: Config) -> str:
    """Accuracy on held-out wells of seen experiments and on unseen experiments, for the kinds of
    labelled wells in the config's store.
    """
    from cellsignal.data.store import Store
    from cellsignal.studies.split_audit import audit_split, audit_text

    _needs_one_label(config, "audit")
    store = Store.open(config.data.store)
    labelled = store.samples[store.samples.label.notna()]
    kinds = [kind for kind in ("positive_control", "treatment") if (labelled.role == kind).any()]
    return audit_text(
        [
            audit_split(store.samples, store.read, kind, by_plate)
            for kind in kinds
            for by_plate in (False, True)
        ]
    )


def _needs_one_label(config: Config, verb: str) -> None:
    if get_competition(config.competition).multilabel:
        raise InputError(
            f"{verb}: needs one label an image; those of {config.competition} have several or none"
        )


def oversampling_audit(config: Config, classes: int | None, rounds: int) -> str:
    """What oversampling before the split does to a validation figure, on the config's store and on
    noise, as text.

    Args:
        classes: the most frequent ones alone; None for all.
    """
    from cellsignal.data.store import Store
    from cellsignal.studies.oversampling.audit import oversampling_audit as audit
    from cellsignal.studies.oversampling.audit import oversampling_text

    _needs_one_label(config, "audit --oversampling")
    store = Store.open(config.data.store)
    return oversampling_text(
        audit(store.samples, store.read, classes=classes, rounds=rounds, seed=config.seed)
    )


def run_all(config: Config, answers_file: Path | None, *, splits: int = 3) -> None:
    """Everything: prepare, folds (see `bring_folds_up_to_date`), train, predict, submit, score,
    report. Each step goes on where it was.

    What can be checked without a store is checked first. A run without test samples ends with its
    out-of-fold score on the leaderboard.
    """
    from cellsignal.prediction.entry_checks import has_test
    from cellsignal.prediction.predict import predict
    from cellsignal.prediction.submit import open_entry
    from cellsignal.report.run_report import write_report
    from cellsignal.training.run import check_before_packing, train

    check_before_packing(config)
    if answers_file is not None:
        # refused now if it cannot be read
        get_competition(config.competition).answers(answers_file)
    prepare(config)
    bring_folds_up_to_date(
        competition_id=config.competition,
        root=config.data.root,
        out=config.folds.file,
        splits=splits,
        seed=config.seed,
    )
    train(config)
    entry = open_entry(predict(config), config.submit, root=config.data.root)
    if has_test(entry.final()):
        steps, truth = _submit_run(config, entry, answers_file)
    else:
        steps, truth = _finish_without_test(config, entry, answers_file), None
    print()
    for picture in write_report(config, entry, steps, truth):
        print(f"picture: {picture}")


def _submit_run(
    config: Config, entry: "Entry", answers_file: Path | None
) -> tuple[dict[str, list[Step]], "Truth | None"]:
    """The submission of a run and, with answers, its score; the ladders by title, and the truth."""
    from cellsignal.prediction.submit import ladder, make_submission, truth_labels

    out, own = _run_submission(config, entry.runs)
    steps = {"Out of fold": make_submission(entry, out, leaderboard=LEADERBOARD, force=own)}
    truth = None
    print(
        "\nOut of fold: targets that the predicting model did not train "
        f"on\n\n{ladder_text(steps['Out of fold'])}\n\nsubmission: {out}"
    )
    if answers_file is not None:
        answers = entry.competition.answers(answers_file)
        truth = truth_labels(entry.competition, answers, entry.members[0].classes)
        steps["Test"] = ladder(entry, "test", entry.competition.plate_groups(entry.samples), truth)
        print(f"\nTest: targets that no model saw\n\n{ladder_text(steps['Test'])}")
        table = score(
            out,
            answers_file,
            entry.competition.id,
            leaderboard=LEADERBOARD,
            root=config.data.root,
            name=out.stem,
        )
        shown = [
            "overall",
            "public",
            "private",
            "cell_type",
            "class",
            *(["experiment"] if entry.competition.ranked else []),
        ]
        print(f"\n{format_scores(table[table['slice'].isin(shown)])}")
        print(f"\n{show_leaderboard(entry.competition.id, LEADERBOARD)}")
    return steps, truth


def _run_submission(config: Config, runs: list[str]) -> tuple[Path, bool]:
    """Where `run` writes its submission, and whether what lies there is of the same run:
    submissions/<name>.csv, with `_seed<k>` behind the name where another seed's lies there.
    """
    out = Path("submissions") / f"{config.name}.csv"
    if out.is_file() and runs_of(out) not in (None, runs):
        out = out.with_stem(f"{config.name}_seed{config.seed}")
    return out, runs_of(out) == runs


def _finish_without_test(
    config: Config, entry: "Entry", answers_file: Path | None
) -> dict[str, list[Step]]:
    """The out-of-fold ladder of a run without test samples, noted on the leaderboard; of a protocol
    with parts its table.
    """
    from cellsignal.prediction.submit import ladder

    competition = entry.competition
    if config.protocol is not None and competition.protocol(config.protocol).parts:
        text = (
            "give --answers to score it"
            if answers_file is None
            else protocol_table(config, answers_file)
        )
        print(f"\nprotocol {config.protocol}\n\n{text}")
        return {}
    steps = ladder(entry, "oof", competition.plate_groups(entry.samples))
    if not steps:
        log.warning(
            "%s: has neither test samples nor out-of-fold ones, so nothing is scored; name folds "
            "in folds.use",
            config.name,
        )
        return {}
    print(
        "\nOut of fold: targets that the predicting model did not train "
        f"on\n\n{ladder_text(steps)}\n\nno test samples: no submission"
    )
    if answers_file is not None:
        log.warning("%s: is not used, there are no test samples", answers_file)
    targets = entry.merge(entry.final(), "oof")
    truth = pd.DataFrame({"target_id": targets.target_id, "label": targets.label})
    if targets.labels is not None:
        truth = truth.join(pd.DataFrame(targets.labels).add_prefix("class"))
    made_from = digest([sha256(member.path) for member in entry.members])
    append_entry(
        LEADERBOARD,
        out_of_fold_entry(competition, config.name, steps[-1].accuracy, made_from, truth),
    )
    print(f"\n{show_leaderboard(competition.id, LEADERBOARD)}")
    return {"Out of fold": steps}
