"""`cellsignal profiles`: embeddings and well profiles, and what is done with them."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.config.options import (
    add_config_options,
    command_group,
    configs_of,
    next_command,
)
from cellsignal.profiles.map_commands import add_map_commands
from cellsignal.profiles.names import STEPS
from cellsignal.profiles.table_options import (
    REFERENCES,
    add_export_options,
    add_profile_sources,
    add_protocol_options,
    add_step_options,
    check_source,
    export_table,
    read_profiles,
    step_arguments,
)


def add_profile_commands(parser: argparse.ArgumentParser) -> None:
    """Add the parsers of the commands."""
    add = command_group(parser, "what")
    text = "predict by the nearest training wells or class centres among the embeddings"
    _add_classify(add("classify", classify, text))
    _add_match(add)
    _add_retrieve(add)
    add_map_commands(add)
    add_export_options(add("export", export, "write profiles as one parquet or AnnData file"))
    text = "count treatments right out of fold: medians over images, then over wells"
    add_config_options(add("treatments", treatments, text))
    text = "rank a gallery by embeddings: a submission, its figures, names for unseen compounds"
    _add_rank(add("rank", rank, text))
    sub = add("answers", answers, "write the answers that a release itself holds, for scoring")
    sub.add_argument("competition", help="its id")
    sub.add_argument("--root", type=Path, required=True, help="folder of the raw data")
    sub.add_argument("--out", type=Path, help="CSV (default beside the root: <root>.answers.csv)")


def _add_classify(parser: argparse.ArgumentParser) -> None:
    add_profile_sources(parser)
    text = "of --table: what is predicted (default moa)"
    parser.add_argument("--label", choices=["moa", "treatment", "compound"], help=text)
    parser.add_argument(
        "--held-out",
        choices=["compound", "treatment", "plate", "experiment", "well_id"],
        help="of --table: no well is classified by wells of the same one (default compound for "
        "moa, plate for others)",
    )
    text = "of --table, in this order (default none for tables that say they are normalised)"
    parser.add_argument("--steps", nargs="*", choices=STEPS, help=text)
    add_step_options(parser)
    parser.add_argument(
        "--out", type=Path, help="of --table: CSV of every well; a picture beside it"
    )
    parser.add_argument(
        "--method",
        choices=["centre", "knn", "linear"],
        default="centre",
        help="class centres, neighbours, or a logistic regression",
    )
    parser.add_argument("--metric", choices=["cosine", "euclidean"], default="cosine")
    parser.add_argument("--k", type=int, help="neighbours of knn (default 5)")
    parser.add_argument(
        "--normalise",
        choices=["none", "centre", "standardise", "tvn", "sphere"],
        help="how the batch is taken out of a config's embeddings (default centre)",
    )
    by = "the unit that is normalised (default plate)"
    parser.add_argument("--by", choices=["plate", "experiment"], help=by)
    parser.add_argument(
        "--reference",
        choices=REFERENCES,
        help="the wells it is learnt from (default: all for centre and standardise, else controls)",
    )


def _add_match(add: Callable) -> None:
    sub = add("match", match, "name treatments by their nearest profile: NSC and NSCB")
    add_protocol_options(sub, ["tvn"])
    sub.add_argument("--out", type=Path, help="CSV of every treatment; a picture beside it")


def _add_retrieve(add: Callable) -> None:
    parser = add("retrieve", retrieve, "retrieve replicates, targets and genes among profiles")
    add_protocol_options(parser, ["mad_robustize", "feature_select", "spherize"])
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=["replicates", "targets", "compound_gene"],
        help="default: what the data set allows",
    )
    parser.add_argument(
        "--null",
        choices=["copairs", "published"],
        default="copairs",
        help="published: as Chandrasekaran et al. 2024 count the fraction retrieved "
        "(default copairs')",
    )
    size = "permutations behind a p value"
    parser.add_argument("--null-size", type=int, default=100_000, help=size)
    parser.add_argument(
        "--within",
        nargs="*",
        default=["cell_type"],
        help="columns; what differs in them is measured apart (none: all wells together)",
    )
    matched = "match all, not those alone whose replicates were retrieved"
    parser.add_argument("--all-treatments", action="store_true", help=matched)
    parser.add_argument(
        "--out", type=Path, help="CSV of every treatment's figures; a picture beside it"
    )


def _add_rank(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    parser.add_argument("--answers", type=Path, help="the true lists, for scoring alone")
    out = "CSV (default submissions/<name>_seed<k>_ranked.csv)"
    parser.add_argument("--out", type=Path, help=out)
    neighbours = "nearest tracks in a picture (default 5)"
    parser.add_argument("--neighbours", type=int, default=5, help=neighbours)
    pictures = "unseen compounds that get a picture (default 8)"
    parser.add_argument("--pictures", type=int, default=8, help=pictures)


def classify(arguments: argparse.Namespace) -> str | None:
    check_source(arguments)
    if arguments.table:
        return _classify_tables(arguments)
    for option in ("label", "held_out", "steps", "out"):
        if getattr(arguments, option) is not None:
            raise InputError(f"--{option.replace('_', '-')}: is an option of --table")
    from cellsignal.prediction.container import load_predictions
    from cellsignal.prediction.sources import out_of_fold_entry, out_of_fold_table, read_sources
    from cellsignal.prediction.well_classifiers import Classification
    from cellsignal.prediction.well_classifiers import classify as classify_config

    how = Classification(**_classification(arguments))
    from cellsignal.report.run_report import draw_classification

    files: list[Path] = []
    pictures: list[Path] = []
    for config in configs_of(arguments):
        made = classify_config(config, how)
        files += made
        pictures += draw_classification(config, made, how.method)
    print("\n".join(map(str, files)))
    parts = {path: set(load_predictions(path).ids["part"]) for path in files}
    held_out = [path for path in files if "oof" in parts[path]]
    if held_out:
        entry = out_of_fold_entry(read_sources(held_out), config.data.root)
        print(f"\n{out_of_fold_table(entry)}")
    for picture in pictures:
        print(f"picture: {picture}")
    if not any("test" in found for found in parts.values()):
        return next_command("embed", arguments)
    return shlex.join(["cellsignal", "submit", *map(str, files)])


def _classification(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("method", "metric", "k", "normalise", "by", "reference")
    values = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in values.items() if value is not None}
    if given["method"] != "knn" and "k" in given:
        raise InputError("--k: only --method knn has neighbours")
    if given.get("normalise") == "none" and given.keys() & {"by", "reference"}:
        raise InputError("--by and --reference say how to normalise, and --normalise is none")
    if given.get("k", 1) < 1:
        raise InputError(f"--k: at least 1, not {given['k']}")
    return given


def _classify_tables(arguments: argparse.Namespace) -> None:
    from cellsignal.profiles.table_classifiers import classify_table

    if arguments.normalise is not None:
        raise InputError("--normalise: is of a config's embeddings; with --table give --steps")
    arguments.normalise, arguments.unmatched = arguments.steps, 0
    how = _classification(arguments)
    label = arguments.label or "moa"
    text = classify_table(
        read_profiles(arguments),
        label,
        arguments.held_out or ("compound" if label == "moa" else "plate"),
        how["method"],
        how["metric"],
        how.get("k", 5),
        **step_arguments(arguments),
    )
    print(text)
    _draw(arguments)


def _draw(arguments: argparse.Namespace) -> None:
    """Draw the figures beside the CSV that `--out` names."""
    from cellsignal.report.profile_plots import profiles_plot

    if arguments.out is not None:
        picture = arguments.out.with_suffix(".png")
        profiles_plot(arguments.out, picture)
        print(f"\n{arguments.out}, {picture}")


def match(arguments: argparse.Namespace) -> str | None:
    from cellsignal.profiles.comparisons import match_table

    print(match_table(read_profiles(arguments), **step_arguments(arguments)))
    _draw(arguments)
    return None if arguments.table else next_command("profiles retrieve", arguments)


def retrieve(arguments: argparse.Namespace) -> str | None:
    from cellsignal.profiles.comparisons import retrieval_table

    table = retrieval_table(
        read_profiles(arguments),
        arguments.tasks,
        null_size=arguments.null_size,
        within=arguments.within,
        replicable=not arguments.all_treatments,
        null=arguments.null,
        **step_arguments(arguments),
    )
    print(table)
    _draw(arguments)
    return None if arguments.table else next_command("profiles match", arguments)


def export(arguments: argparse.Namespace) -> str:
    print(export_table(arguments))
    return shlex.join(["cellsignal", "profiles", "retrieve", "--table", str(arguments.out)])


def treatments(arguments: argparse.Namespace) -> str:
    from cellsignal.profiles.treatments import treatment_table

    print("\n\n".join(treatment_table(config) for config in configs_of(arguments)))
    return next_command("submit", arguments)


def rank(arguments: argparse.Namespace) -> str | None:
    from cellsignal.prediction.embeddings import embed as embed_config
    from cellsignal.report.gallery_report import rank as rank_gallery

    for option, least in (("neighbours", 1), ("pictures", 0)):
        if getattr(arguments, option) < least:
            raise InputError(f"--{option}: at least {least}, not {getattr(arguments, option)}")
    for config in configs_of(arguments):
        out = arguments.out or Path("submissions") / f"{config.name}_seed{config.seed}_ranked.csv"
        table = rank_gallery(
            config,
            embed_config(config),
            arguments.answers,
            out,
            neighbours=arguments.neighbours,
            pictures=arguments.pictures,
        )
        print(table)
    if arguments.answers is None:
        return None
    words = ["score", out, "--answers", arguments.answers, "--competition", config.competition]
    return shlex.join(["cellsignal", *map(str, words)])


def answers(arguments: argparse.Namespace) -> str:
    from cellsignal.common.files import write_csv
    from cellsignal.competitions import get_competition
    from cellsignal.competitions.base import answers_path

    competition = get_competition(arguments.competition)
    out = arguments.out or answers_path(arguments.root.absolute())
    table = competition.published_answers(arguments.root)
    if out.exists() and out.read_text(encoding="utf-8") != table.to_csv(index=False):
        raise InputError(f"{out}: exists and is another; give --out a new name, or move it away")
    write_csv(out, table)
    print(f"{len(table)} answers, for scoring alone: {out}")
    return f"cellsignal leaderboard {competition.id}"
