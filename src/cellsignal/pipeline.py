"""The steps of `cellsignal run`, from raw images to the leaderboard."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, sha256, work_in
from cellsignal.common.places import RemoteFolder, local_folder
from cellsignal.common.progress import Steps
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.data.folds import bring_folds_up_to_date, read_fold_rows
from cellsignal.data.preview import left_out_lines, single_label_lines
from cellsignal.data.store_files import LEFT_OUT
from cellsignal.evaluation.ladder import Step, ladder_text
from cellsignal.evaluation.leaderboard import LEADERBOARD, append_entry, out_of_fold_entry
from cellsignal.evaluation.score import score, show_leaderboard
from cellsignal.evaluation.standing import runs_of

if TYPE_CHECKING:
    from cellsignal.competitions.targets import Truth
    from cellsignal.prediction.entry import Entry

log = logging.getLogger(__name__)
SHOWN = 20  # warnings of one kind that are printed


def run_all(config: Config, answers_file: Path | None, *, splits: int | None = None) -> None:
    """Prepare, make folds, train, predict, submit, score and report; each step resumes.

    What can be checked without a store is checked first. A run without test samples ends with its
    out-of-fold score on the leaderboard. The last line names one HTML file that shows all of it.
    """
    from cellsignal.prediction.entry import has_test, open_entry
    from cellsignal.prediction.predict import predict
    from cellsignal.report.html.writer import write_html_report
    from cellsignal.report.run_report import write_report
    from cellsignal.training.run import check_before_packing, train

    steps = Steps("folds", "prepare", "train", "predict", "submit and score", "report")
    check_before_packing(config)
    if answers_file is not None:
        get_competition(config.competition).answers(answers_file)  # refused now if unreadable
    steps.begin("folds")
    bring_folds_up_to_date(
        competition_id=config.competition,
        root=config.data.root,
        out=config.folds.file,
        splits=splits,
        seed=config.seed,
    )
    _check_folds_in_use(config)
    steps.begin("prepare")
    if isinstance(config.data.store, RemoteFolder):
        log.info("%s: is remote and read as it is; nothing is packed", config.data.store)
    else:
        prepare(config)
    steps.begin("train")
    train(config)
    with work_in(config.run_folder):
        steps.begin("predict")
        files = predict(config)
        steps.begin("submit and score")
        entry = open_entry(files, config.submit, root=config.data.root)
        if has_test(entry.final()):
            ladders, truth = _submit_run(config, entry, answers_file)
        else:
            ladders, truth = _finish_without_test(config, entry, answers_file), None
        _print_baselines(config, entry)
        print()
        steps.begin("report")
        for picture in write_report(config, entry, ladders, truth):
            print(f"picture: {picture}")
    page = write_html_report([str(config.run_folder)], answers_file if truth is not None else None)
    steps.finish()
    print(f"report: {page}")


def _check_folds_in_use(config: Config) -> None:
    folds = {int(fold) for fold in read_fold_rows(config.folds.file).fold if fold >= 0}
    unknown = [fold for fold in config.folds.use or () if fold not in folds]
    if unknown:
        raise InputError(
            f"folds.use: {config.folds.file} has the folds {sorted(folds)}, not {unknown[0]}"
        )


def prepare(config: Config, part: str | None = None, merge: int | None = None) -> None:
    """Pack the config's images into its store; log what was left out.

    Args:
        part: pack this part alone ("3/51"), into a folder beside the store.
        merge: make the store of so many parts.

    Raises:
        InputError: the config's store is remote.
    """
    from cellsignal.data import parts

    competition, data = get_competition(config.competition), config.data
    store = local_folder(data.store)
    packing = parts.Packing(data.size, data.bad_site, data.workers, data.codec)
    if part is not None:
        one = parts.Part.parse(part)
        report = parts.prepare_part(competition, data.root, store, one, packing)
        _warn([f"left out {name}: {why}" for name, why in report.skipped], store)
        log.info("%s: part %s, %d samples packed", store, one, report.n_packed)
        return
    if merge is not None:
        if merge < 1:
            raise InputError(f"--merge {merge}: the number of parts, 1 or more")
        report = parts.merge_parts(competition, data.root, store, merge, packing)
    else:
        report = packing.prepare(competition, data.root, store)
    skipped = [f"left out {sample_id}: {message}" for sample_id, message in report.skipped]
    _warn(skipped, store / LEFT_OUT)
    flat = [
        f"{sample_id}: channel {channel} has zero variance" for sample_id, channel in report.flat
    ]
    _warn(flat, store / "store.json")
    samples, left_out = competition.samples(data.root), competition.left_out(data.root)
    lines = [f"left out {line.strip()}" for line in left_out_lines(left_out)]
    lines += competition.notes(data.root)
    for line in [*lines, *single_label_lines(samples, competition.classes(data.root))]:
        log.warning("%s: %s", data.root, line)
    log.info(
        "%s: %d samples packed; left out: %d sites whose images cannot be used%s, %d other files, "
        "sites or wells%s",
        store,
        report.n_packed,
        len(report.skipped),
        f" ({report.counts_text()})" if report.skipped else "",
        len(left_out),
        f"; {LEFT_OUT} there lists them" if report.skipped or left_out else "",
    )


def prepare_shards(config: Config, out: Path, most_mb: float | None, move: bool) -> None:
    """Copy the config's packed store into another folder, with many sites in a file.

    Args:
        most_mb: megabytes of a file, at most; None: 512, or what was given before.
        move: delete each site's file once it is there, and the store at the end.

    Raises:
        InputError: there is no complete store, or one of its sites is damaged.
    """
    from cellsignal.data.sharding import write_shards

    store = local_folder(config.data.store)
    report = write_shards(store, out, most_mb, move)
    log.info(
        "%s: %d sites in %d file%s, %.3g GB%s",
        out,
        report.sites,
        report.shards,
        "" if report.shards == 1 else "s",
        report.bytes / 1e9,
        "" if report.written else "; up to date",
    )
    if move:
        log.info("%s: is gone, its sites are in %s: name that as data.store", store, out)


def _warn(lines: list[str], full_list: Path) -> None:
    for line in lines[:SHOWN]:
        log.warning("%s", line)
    if len(lines) > SHOWN:
        log.warning("... and %d more; all are in %s", len(lines) - SHOWN, full_list)


def _submit_run(
    config: Config, entry: "Entry", answers_file: Path | None
) -> tuple[dict[str, list[Step]], "Truth | None"]:
    """Write the submission and, with answers, score it; return ladders by title, and truth."""
    from cellsignal.prediction.steps import ladder
    from cellsignal.prediction.submit import make_submission

    out, replaces_itself = _submission_file(config, entry.runs)
    steps = make_submission(entry, out, leaderboard=LEADERBOARD, force=replaces_itself)
    _print_out_of_fold(steps, f"submission: {out}")
    if answers_file is None:
        return {"Out of fold": steps}, None
    competition = entry.competition
    answers = competition.answers(answers_file)
    truth = competition.task.truth(answers, entry.classes)
    test_steps = ladder(entry, "test", competition.plate_groups(entry.samples), truth)
    print(f"\nTest: targets that no model saw\n\n{ladder_text(test_steps)}")
    table = score(
        out,
        answers_file,
        competition,
        leaderboard=LEADERBOARD,
        root=config.data.root,
        name=out.stem,
    )
    shown = table[table["slice"].isin(competition.task.printed_slices)]
    print(f"\n{competition.task.table_text(shown)}")
    print(f"\n{show_leaderboard(competition.id, LEADERBOARD)}")
    return {"Out of fold": steps, "Test": test_steps}, truth


def _submission_file(config: Config, runs: list[str]) -> tuple[Path, bool]:
    """Return the submission's path, and whether this run's submission is there already.

    It is submissions/<name>.csv, or <name>_seed<k>.csv where another seed's lies there.
    """
    out = Path("submissions") / f"{config.name}.csv"
    if out.is_file() and runs_of(out) not in (None, runs):
        out = out.with_stem(f"{config.name}_seed{config.seed}")
    return out, runs_of(out) == runs


def _print_baselines(config: Config, entry: "Entry") -> None:
    """Measure the baselines that read no pixel, and say whether the run beats all that there are.

    A run that predicts nothing out of fold is not compared.
    """
    from cellsignal.baselines.comparison import baselines_of_run
    from cellsignal.baselines.measuring import LIGHT
    from cellsignal.prediction.entry import with_part

    if not with_part(entry.final(), "oof"):
        return
    text = baselines_of_run(config, LIGHT, entry, LEADERBOARD)
    print(f"\nBaselines (`cellsignal baseline` measures all)\n\n{text}")


def _print_out_of_fold(steps: list[Step], end: str) -> None:
    print("\nOut of fold: targets that the predicting model did not train on")
    print(f"\n{ladder_text(steps)}\n\n{end}")


def _finish_without_test(
    config: Config, entry: "Entry", answers_file: Path | None
) -> dict[str, list[Step]]:
    """Score a run without test samples: by the parts of its protocol, or out of fold."""
    from cellsignal.prediction.sources import protocol_table
    from cellsignal.prediction.steps import ladder

    competition = entry.competition
    if config.protocol is not None and competition.protocol(config.protocol).parts:
        text = "give --answers to score it"
        if answers_file is not None:
            text = protocol_table(config, answers_file)
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
    _print_out_of_fold(steps, "no test samples: no submission")
    if answers_file is not None:
        log.warning("%s: is not used, there are no test samples", answers_file)
    _note_out_of_fold(config, entry, steps[-1])
    print(f"\n{show_leaderboard(competition.id, LEADERBOARD)}")
    return {"Out of fold": steps}


def _note_out_of_fold(config: Config, entry: "Entry", last: Step) -> None:
    """Append the out-of-fold score to the leaderboard."""
    targets = entry.merge(entry.final(), "oof")
    truth = entry.competition.task.truth_table(targets)
    made_from = digest([sha256(member.path) for member in entry.members])
    row = out_of_fold_entry(entry.competition, config.name, last.score, made_from, truth)
    append_entry(LEADERBOARD, row)
