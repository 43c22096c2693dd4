"""The verbs that compare profiles of treatments and rank galleries."""

import argparse

from cellsignal.common.errors import InputError


def _check_share(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.unmatched <= 1:
        raise InputError(f"--unmatched: a share from 0 to 1, not {arguments.unmatched:g}")


def match(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.profiles.comparisons import match_table

    a = arguments
    _check_share(a)
    config = load_config(a.config, a.set)
    print(
        match_table(
            config,
            a.source,
            a.normalise,
            a.by,
            a.reference,
            features=a.features,
            unmatched=a.unmatched,
        )
    )


def retrieve(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.profiles.comparisons import retrieval_table

    a = arguments
    _check_share(a)
    print(
        retrieval_table(
            load_config(a.config, a.set),
            a.source,
            a.tasks,
            a.normalise,
            a.by,
            a.reference,
            null_size=a.null_size,
            within=a.within,
            replicable=not a.all_treatments,
            out=a.out,
            null=a.null,
            features=a.features,
            unmatched=a.unmatched,
        )
    )


def treatments(arguments: argparse.Namespace) -> None:
    from cellsignal.profiles.comparisons import treatment_table
    from cellsignal.verbs import configs

    print("\n\n".join(treatment_table(config) for config in configs(arguments)))


def rank(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from cellsignal.prediction.embeddings import embed
    from cellsignal.report.gallery_report import rank as rank_gallery
    from cellsignal.verbs import configs

    for option, least in (("neighbours", 1), ("pictures", 0)):
        if getattr(arguments, option) < least:
            raise InputError(f"--{option}: at least {least}, not {getattr(arguments, option)}")
    for config in configs(arguments):
        out = arguments.out or Path("submissions") / f"{config.name}_seed{config.seed}_ranked.csv"
        print(
            rank_gallery(
                config,
                embed(config),
                arguments.answers,
                out,
                neighbours=arguments.neighbours,
                pictures=arguments.pictures,
            )
        )


def answers(arguments: argparse.Namespace) -> None:
    from cellsignal.common.files import write_csv
    from cellsignal.competitions import get_competition
    from cellsignal.competitions.base import answers_path

    competition = get_competition(arguments.competition)
    out = arguments.out or answers_path(arguments.root.absolute())
    found = competition.published_answers(arguments.root)
    if out.exists() and out.read_text(encoding="utf-8") != found.to_csv(index=False):
        raise InputError(f"{out}: exists and is another; give --out a new name, or move it away")
    write_csv(out, found)
    print(f"{len(found)} rows of {competition.id}'s published answers: {out}")
