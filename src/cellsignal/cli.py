"""The command line: parsers only. What the verbs do is in `verbs`."""

import argparse
import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cellsignal import __version__, verbs
from cellsignal.common.errors import InputError, Interrupted
from cellsignal.common.stopping import time_budget
from cellsignal.verbs import cloud, config_arguments, kernels, measure, profiles

LEADERBOARD = Path("submissions/leaderboard.csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns 0; 2 for bad input or a full disk, with one line on stderr; 128 +
    signal when stopped, and 75 when the time budget (`--max-hours`) is used up, with everything
    saved.
    """
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.WARNING if arguments.quiet else logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        with time_budget(getattr(arguments, "max_hours", None)):
            arguments.run(arguments)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        # which torch raises wherever the program is when a worker process dies
        if "DataLoader worker" not in str(error):
            raise
        print(
            f"error: loading: {' '.join(str(error).split())}; use fewer data.workers and run "
            "again to go on",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            name = Path(str(error.filename)).name
            print(
                f"error: {name[:40]}...: a name of {len(name.encode())} bytes is too long for "
                "this file system",
                file=sys.stderr,
            )
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: {error.filename or 'writing'}: {error.strerror}; finished work is kept, run "
            "again to go on",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("stopped; finished work is kept", file=sys.stderr)
        return 130
    except Interrupted as error:
        print(str(error), file=sys.stderr)
        return error.status
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="cellsignal", description="Train, submit and score on microscopy competitions."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-q", "--quiet", action="store_true", help="only warnings")
    verb = verbs.verbs_of(parser, "verb")

    verb("competitions", verbs.competitions, "list the competitions")
    _download(verb("download", verbs.download, "fetch a competition's data"))
    _simulate(
        verb(
            "simulate",
            verbs.simulate,
            "write a simulated copy of a competition, answers in a file apart",
        )
    )
    _root(verb("verify", verbs.verify, "read every image and row; list everything that is wrong"))
    _budget(
        config_arguments(verb("prepare", verbs.prepare, "pack a config's images into its store"))
    )
    _folds(verb("folds", verbs.folds, "make a fold table"))
    _budget(
        _seeds(
            verb(
                "train", verbs.train, "train every fold and stage of a config; goes on where it was"
            )
        )
    )
    _budget(
        _seeds(
            verb(
                "predict", verbs.predict, "predict out-of-fold and test samples of a trained config"
            )
        )
    )
    _budget(
        _seeds(
            verb(
                "embed",
                verbs.embed,
                "save the embedding of every sample by the last stage's models",
            )
        )
    )
    _classify(
        verb(
            "classify",
            verbs.classify,
            "predict by the nearest training wells or class centres among the embeddings",
        )
    )
    _audit(
        verb(
            "audit",
            measure.audit,
            "measure by how much a random split, or oversampling before it, flatters on a "
            "config's store",
        )
    )
    _match(verb("match", profiles.match, "name treatments by their nearest profile: NSC and NSCB"))
    _retrieve(
        verb("retrieve", profiles.retrieve, "retrieve replicates, targets and genes among profiles")
    )
    _seeds(
        verb(
            "treatments",
            profiles.treatments,
            "count treatments right out of fold: medians over images, then over wells",
        )
    )
    _baseline(
        verb(
            "baseline",
            measure.baseline,
            "hand-made features over time with classical classifiers, for clips",
        )
    )
    _rank(
        verb(
            "rank",
            profiles.rank,
            "rank a gallery by embeddings: a submission, its figures, names for unseen compounds",
        )
    )
    _answers(
        verb(
            "answers",
            profiles.answers,
            "write the answers that a release itself tells, for scoring alone",
        )
    )
    _protocol(
        verb(
            "protocol",
            verbs.protocol,
            "score predictions by the parts of the config's protocol (wilds)",
        )
    )
    _oof(verb("oof", verbs.oof, "print out-of-fold accuracy of every seed and of all merged"))
    add_submit_arguments(verb("submit", verbs.submit, "merge predictions into a submission"))
    add_score_arguments(
        verb("score", verbs.score, "score a submission and note it on the leaderboard")
    )
    _leaderboard(verb("leaderboard", verbs.leaderboard, "print the local leaderboard"))
    measure.add_bench_arguments(
        verb("bench", None, "measure speed, memory, and what parts of a recipe are worth")
    )
    kernels.add_kernel_arguments(
        verb(
            "kernel", None, "a config as a chain of Kaggle kernels: build, push, wait, pull, go on"
        )
    )
    cloud.add_cloud_arguments(
        verb(
            "cloud", None, "task files for rented and shared machines, and what a recipe will cost"
        )
    )
    _run(verb("run", verbs.run, "all of it: prepare, folds, train, predict, submit, score, report"))
    return parser


# arguments
# --------------------------------------------------------------------------------------------------


def _seeds(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    config_arguments(parser)
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        help="one run for each of these seeds (default: the config's)",
    )
    return parser


def _budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-hours",
        metavar="H",
        help="stop in time, save, and end with status 75; the same command goes on",
    )


def _classify(parser: argparse.ArgumentParser) -> None:
    _seeds(parser)
    kinds = ["centre", "knn", "linear"]
    parser.add_argument(
        "--method",
        choices=kinds,
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
    parser.add_argument(
        "--by", choices=["plate", "experiment"], help="the unit that is normalised (default plate)"
    )
    parser.add_argument(
        "--reference",
        choices=["negative_controls", "controls", "all"],
        help="the wells it is learnt from (default: all to centre and standardise, controls for the others)",
    )


def _root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition", help="its id")
    parser.add_argument("--root", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--workers", type=int, default=2)


def _download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition")
    parser.add_argument("--out", type=Path, help="folder (default data/<competition>)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what of it: the competition's README lists its choices",
    )


def _simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition")
    parser.add_argument("--out", type=Path, help="folder (default data/<competition>_simulated)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the copy that the competition's quick config reads: data/<competition>_quick, seed 1",
    )
    parser.add_argument("--seed", type=int, help="of everything random (default 0)")
    parser.add_argument("--size", type=int, help="side of an image in pixels")
    parser.add_argument("--classes", type=int, help="number of treatments")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other parameter of the simulation",
    )


def _audit(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument(
        "--oversampling",
        action="store_true",
        help="oversampling before and after the split, on images and on noise",
    )
    parser.add_argument(
        "--classes",
        type=measure.number_or_all,
        default=50,
        help="with --oversampling: the most frequent ones, or all (default 50)",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="with --oversampling: splits (default 3)"
    )


def _baseline(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument(
        "--answers",
        type=Path,
        help="test on the queries (default: on the drugs that fold 0 holds out)",
    )


def _rank(parser: argparse.ArgumentParser) -> None:
    _seeds(parser)
    parser.add_argument("--answers", type=Path, help="the true lists, for scoring alone")
    parser.add_argument(
        "--out", type=Path, help="CSV (default submissions/<name>_seed<k>_ranked.csv)"
    )
    parser.add_argument(
        "--neighbours", type=int, default=5, help="nearest tracks in a picture (default 5)"
    )
    parser.add_argument(
        "--pictures", type=int, default=8, help="unseen compounds that get a picture (default 8)"
    )


def _answers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition", help="its id")
    parser.add_argument("--root", type=Path, required=True, help="folder of the raw data")
    parser.add_argument(
        "--out", type=Path, help="CSV (default beside the root: <root>.answers.csv)"
    )


STEPS = ("standardize", "mad_robustize", "feature_select", "spherize", "tvn")


def _profiles(parser: argparse.ArgumentParser, steps: list[str]) -> None:
    config_arguments(parser)
    parser.add_argument(
        "--source",
        nargs="+",
        default=["plain"],
        metavar="FILE",
        help="embeddings .npz, or .csv, .tsv or .parquet tables of well profiles (default: plain image features)",
    )
    parser.add_argument(
        "--features",
        nargs="+",
        default=[],
        metavar="PREFIX",
        help="columns of a table that are features: names, prefixes, or a file with a name on each line (default: Cells_ Cytoplasm_ Nuclei_)",
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
        help=f"in this order, or none (default {' '.join(steps)}; nothing for tables that say they are normalised)",
    )
    parser.add_argument(
        "--by", choices=["plate", "experiment"], default="plate", help="the unit that is normalised"
    )
    parser.add_argument(
        "--reference", choices=["negative_controls", "controls", "all"], default="negative_controls"
    )


def _match(parser: argparse.ArgumentParser) -> None:
    _profiles(parser, ["tvn"])


def _retrieve(parser: argparse.ArgumentParser) -> None:
    _profiles(parser, ["mad_robustize", "feature_select", "spherize"])
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
        help="published: as Chandrasekaran et al. 2024 count the fraction retrieved (default copairs')",
    )
    parser.add_argument(
        "--null-size", type=int, default=100_000, help="permutations behind a p value"
    )
    parser.add_argument(
        "--within",
        nargs="*",
        default=["cell_type"],
        help="columns; what differs in them is measured apart (none: all wells together)",
    )
    parser.add_argument(
        "--all-treatments",
        action="store_true",
        help="match all, not those alone whose replicates were retrieved",
    )
    parser.add_argument("--out", type=Path, help="CSV of every treatment's figures")


def _folds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="CSV (default folds/<competition>.csv)")
    parser.add_argument(
        "--group", help="what a fold must not split (default: the competition's first)"
    )
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--named", help="a published table instead, e.g. first_place")
    parser.add_argument(
        "--force", action="store_true", help="replace a file that holds another table"
    )
    parser.add_argument("--seed", type=int, default=0)


def _protocol(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument(
        "--answers", type=Path, required=True, help="true test labels, for scoring alone"
    )


def _oof(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", type=Path, help="configs (.yaml) or predictions files (.npz)"
    )
    parser.add_argument("--root", type=Path, help="folder of the raw data, if not where it was")


def add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `submit`, shared with `python -m inference.make_submission`."""
    _budget(parser)
    parser.add_argument(
        "sources", nargs="+", type=Path, help="configs (.yaml) or predictions files (.npz)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="CSV (default submissions/<runs>.csv, of many runs shortened by a hash)",
    )
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="RUN=NUMBER",
        help="weight of a run, or of all seeds of a run's name, in the mean (default 1)",
    )
    parser.add_argument("--root", type=Path, help="folder of the raw data, if not where it was")
    parser.add_argument(
        "--merge",
        choices=["logits", "probabilities", "geometric"],
        help="how views, sites and models are averaged",
    )
    parser.add_argument("--pool", choices=["target", "well"], help="what shares one prediction")
    kinds = ["none", "groups", "hungarian", "sinkhorn"]
    parser.add_argument("--assignment", choices=kinds, help="how the layout of the plates is used")
    parser.add_argument(
        "--groups", type=Path, metavar="CSV", help="groups of plates (experiment, plate, group)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the submit section, e.g. repeats=use",
    )
    parser.add_argument(
        "--leaderboard",
        type=Path,
        default=LEADERBOARD,
        help="a submission that stands on it is not replaced by another",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a submission that stands on the leaderboard"
    )


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `score`, shared with `python -m inference.score`."""
    parser.add_argument("submission", type=Path)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--competition", help="its id (default: told by the columns)")
    parser.add_argument(
        "--root",
        type=Path,
        help="folder of the raw data: scores its sample submission as a control",
    )
    parser.add_argument("--name", help="name on the leaderboard (default: the file's)")
    parser.add_argument("--leaderboard", type=Path, default=LEADERBOARD)


def _leaderboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("competition", nargs="?")
    parser.add_argument("--leaderboard", type=Path, default=LEADERBOARD)


def _run(parser: argparse.ArgumentParser) -> None:
    _budget(config_arguments(parser))
    parser.add_argument("--answers", type=Path, help="true test labels, for scoring alone")
    parser.add_argument("--splits", type=int, default=3, help="folds, where the fold table is made")


if __name__ == "__main__":
    sys.exit(main())
