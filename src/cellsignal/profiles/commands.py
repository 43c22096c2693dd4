"""`cellsignal profiles`: embeddings and well profiles, and what is done with them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.config.options import (
    add_config_options,
    command_group,
    config_of,
    configs_of,
    next_command,
)

STEPS = ("standardize", "mad_robustize", "feature_select", "spherize", "tvn")
REFERENCES = ["negative_controls", "controls", "all"]


def add_profile_commands(parser: argparse.ArgumentParser) -> None:
    """Add the parsers of the commands."""
    add = command_group(parser, "what")
    text = "predict by the nearest training wells or class centres among the embeddings"
    _add_classify(add("classify", classify, text))
    _add_match(add)
    _add_retrieve(add)
    text = "count treatments right out of fold: medians over images, then over wells"
    add_config_options(add("treatments", treatments, text))
    text = "classify clips by hand-made features over time"
    sub = add_config_options(add("baseline", baseline, text))
    text = "test on the queries (default: on the drugs that fold 0 holds out)"
    sub.add_argument("--answers", type=Path, help=text)
    text = "rank a gallery by embeddings: a submission, its figures, names for unseen compounds"
    _add_rank(add("rank", rank, text))
    sub = add("answers", answers, "write the answers that a release itself holds, for scoring")
    sub.add_argument("competition", help="its id")
    sub.add_argument("--root", type=Path, required=True, help="folder of the raw data")
    sub.add_argument("--out", type=Path, help="CSV (default beside the root: <root>.answers.csv)")


def _add_classify(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
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
        default="centre",
        help="how the batch is taken out of the embeddings (default centre)",
    )
    by = "the unit that is normalised (default plate)"
    parser.add_argument("--by", choices=["plate", "experiment"], help=by)
    parser.add_argument(
        "--reference",
        choices=REFERENCES,
        help="the wells it is learnt from (default: all for centre and standardise, else controls)",
    )


def _add_profiles(parser: argparse.ArgumentParser, steps: list[str]) -> None:
    add_config_options(parser)
    parser.add_argument(
        "--source",
        nargs="+",
        default=["plain"],
        metavar="FILE",
        help="embeddings .npz, or .csv, .tsv or .parquet tables of well profiles "
        "(default: plain image features)",
    )
    parser.add_argument(
        "--features",
        nargs="+",
        default=[],
        metavar="PREFIX",
        help="columns of a table that are features: names, prefixes, or a file with a name on each "
        "line (default: Cells_ Cytoplasm_ Nuclei_)",
    )
    parser.add_argument(
        "--unmatched",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="rows of a table whose wells the data set may lack (default .05)",
    )
    parser.add_argument(
        "--normalise",
        nargs="*",
        choices=STEPS,
        help=f"in this order, or none (default {' '.join(steps)}; nothing for tables that say they "
        "are normalised)",
    )
    by = "the unit that is normalised"
    parser.add_argument("--by", choices=["plate", "experiment"], default="plate", help=by)
    parser.add_argument("--reference", choices=REFERENCES, default=REFERENCES[0])


def _add_match(add: Callable) -> None:
    sub = add("match", match, "name treatments by their nearest profile: NSC and NSCB")
    _add_profiles(sub, ["tvn"])


def _add_retrieve(add: Callable) -> None:
    parser = add("retrieve", retrieve, "retrieve replicates, targets and genes among profiles")
    _add_profiles(parser, ["mad_robustize", "feature_select", "spherize"])
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
    parser.add_argument("--out", type=Path, help="CSV of every treatment's figures")


def _add_rank(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    parser.add_argument("--answers", type=Path, help="the true lists, for scoring alone")
    out = "CSV (default submissions/<name>_seed<k>_ranked.csv)"
    parser.add_argument("--out", type=Path, help=out)
    neighbours = "nearest tracks in a picture (default 5)"
    parser.add_argument("--neighbours", type=int, default=5, help=neighbours)
    pictures = "unseen compounds that get a picture (default 8)"
    parser.add_argument("--pictures", type=int, default=8, help=pictures)


def classify(arguments: argparse.Namespace) -> str:
    from cellsignal.prediction.container import load_predictions
    from cellsignal.prediction.sources import out_of_fold_table, read_sources
    from cellsignal.prediction.well_classifiers import Classification
    from cellsignal.prediction.well_classifiers import classify as classify_config

    how = Classification(**_classification(arguments))
    files: list[Path] = []
    for config in configs_of(arguments):
        files += classify_config(config, how)
    print("\n".join(map(str, files)))
    held_out = [path for path in files if (load_predictions(path).ids["part"] == "oof").any()]
    if held_out:
        print(f"\n{out_of_fold_table(read_sources(held_out), config.data.root)}")
    return f"cellsignal submit {' '.join(map(str, files))}"


def _classification(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("method", "metric", "k", "normalise", "by", "reference")
    values = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in values.items() if value is not None}
    if given["method"] != "knn" and "k" in given:
        raise InputError("--k: only --method knn has neighbours")
    if given["normalise"] == "none" and given.keys() & {"by", "reference"}:
        raise InputError("--by and --reference say how to normalise, and --normalise is none")
    if given.get("k", 1) < 1:
        raise InputError(f"--k: at least 1, not {given['k']}")
    return given


def match(arguments: argparse.Namespace) -> str:
    from cellsignal.profiles.comparisons import match_table

    _check_share(arguments)
    table = match_table(
        config_of(arguments),
        arguments.source,
        arguments.normalise,
        arguments.by,
        arguments.reference,
        features=arguments.features,
        unmatched=arguments.unmatched,
    )
    print(table)
    return next_command("profiles retrieve", arguments)


def retrieve(arguments: argparse.Namespace) -> str:
    from cellsignal.profiles.comparisons import retrieval_table

    _check_share(arguments)
    table = retrieval_table(
        config_of(arguments),
        arguments.source,
        arguments.tasks,
        arguments.normalise,
        arguments.by,
        arguments.reference,
        null_size=arguments.null_size,
        within=arguments.within,
        replicable=not arguments.all_treatments,
        out=arguments.out,
        null=arguments.null,
        features=arguments.features,
        unmatched=arguments.unmatched,
    )
    print(table)
    return next_command("profiles match", arguments)


def _check_share(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.unmatched <= 1:
        raise InputError(f"--unmatched: a share from 0 to 1, not {arguments.unmatched:g}")


def treatments(arguments: argparse.Namespace) -> str:
    from cellsignal.profiles.comparisons import treatment_table

    print("\n\n".join(treatment_table(config) for config in configs_of(arguments)))
    return next_command("submit", arguments)


def baseline(arguments: argparse.Namespace) -> str:
    from cellsignal.profiles.clip_classifiers import baseline as measure

    print(measure(config_of(arguments), arguments.answers))
    return next_command("train", arguments)


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
    return (
        f"cellsignal score {out} --answers {arguments.answers} --competition {config.competition}"
    )


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
    print(f"{len(table)} rows of {competition.id}'s published answers: {out}")
    return f"cellsignal leaderboard {competition.id}"
