"""The commands from a trained run to the leaderboard."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.common.files import work_in
from cellsignal.config.options import (
    YAML,
    add_budget,
    add_changes,
    add_config_options,
    add_sources,
    config_of,
    configs_of,
    next_command,
    parse_pairs,
    texts,
)

LEADERBOARD = Path("submissions/leaderboard.csv")


def add_prediction_commands(add: Callable) -> None:
    """Add the parsers of the commands."""
    sub = add("predict", predict, "predict out-of-fold and test samples of a trained config")
    add_budget(add_config_options(sub))
    _add_images(sub)
    sub = add("embed", embed, "save the embeddings of every sample of a trained config")
    add_budget(add_config_options(sub))
    add_submit(add("submit", submit, "merge predictions into a submission"))
    add_blend(add("blend", blend, "choose weights of runs, and measure them nested"))
    text = "score a submission for the leaderboard; or runs, out of fold"
    add_score(add("score", score, text))
    sub = add("leaderboard", leaderboard, "print the local leaderboard")
    sub.add_argument("competition", nargs="?")
    sub.add_argument("--leaderboard", type=Path, default=LEADERBOARD)


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Add the options of `predict --images`, which names new images in place of the run's."""
    group = parser.add_argument_group("new images (docs/export.md)")
    group.add_argument("--images", type=Path, metavar="DIR", help="name the images of this folder")
    group.add_argument("--out", type=Path, metavar="CSV", help="what is written (needed)")
    group.add_argument("--by", choices=["well", "site"], help="a row each (default well)")
    layout = "own: DIR has the metadata of the run's competition (default: file names say it)"
    group.add_argument("--layout", choices=["own"], help=layout)
    pattern = "of the files' paths, such as {plate}/{well}_s{site}_w{channel}.tif"
    group.add_argument("--pattern", help=pattern)
    channels = "channels as the files write them, in the run's order: w2,w1,..."
    group.add_argument("--channels", metavar="LIST", help=channels)
    controls = "control wells: A01,B12 (of every plate) or PLATE_A01"
    group.add_argument("--controls", metavar="LIST", help=controls)
    group.add_argument("--cell-type", metavar="NAME", help="of all images")
    group.add_argument("--fold", metavar="K", help="this fold's model (default: all folds' mean)")
    group.add_argument("--stage", metavar="NAME", help="this stage (default: the last)")


def add_submit(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `submit`."""
    add_budget(add_sources(parser))
    out = "CSV (default submissions/<runs>.csv, of many runs shortened by a hash)"
    parser.add_argument("--out", type=Path, help=out)
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="RUN=NUMBER",
        help="weight of a run, or of all seeds of a run's name, in the mean (default 1)",
    )
    file = "weights and temperatures of `cellsignal blend`, in place of --weight"
    parser.add_argument("--blend", type=Path, metavar="JSON", help=file)
    parser.add_argument("--root", type=Path, help="folder of the raw data, if not where it was")
    merges = ["logits", "probabilities", "geometric"]
    parser.add_argument("--merge", choices=merges, help="how views, sites, models are averaged")
    parser.add_argument("--pool", choices=["target", "well"], help="what shares one prediction")
    kinds = ["none", "groups", "hungarian", "sinkhorn"]
    parser.add_argument("--assignment", choices=kinds, help="how the layout of the plates is used")
    groups = "groups of plates (experiment, plate, group)"
    parser.add_argument("--groups", type=Path, metavar="CSV", help=groups)
    parser.add_argument(
        "--leaderboard",
        type=Path,
        default=LEADERBOARD,
        help="a submission that stands on it is not replaced by another",
    )
    force = "replace a submission that stands on the leaderboard"
    parser.add_argument("--force", action="store_true", help=force)
    text = "write each row's calibrated probability and confidence to <out>.probabilities.csv"
    parser.add_argument("--probabilities", action="store_true", help=text)


def add_blend(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `blend`."""
    add_sources(parser)
    kinds = ["stack", "hill", "calibrate", "equal"]
    text = "least log-loss; hill climbing on the score; temperatures alone; nothing (default stack)"
    parser.add_argument("--method", choices=kinds, default="stack", help=text)
    text = "weigh each seed (default: the seeds of a run are one member)"
    parser.add_argument("--by-seed", action="store_true", help=text)
    text = "parts that units are dealt to; weights are measured on parts that did not choose"
    parser.add_argument("--parts", type=int, default=10, help=f"{text} (default 10)")
    text = "where the blend is written, for `submit --blend` (default blends/<runs>.json)"
    parser.add_argument("--file", type=Path, metavar="JSON", help=text)
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the submission, too")
    parser.add_argument("--root", type=Path, help="folder of the raw data, if not where it was")
    parser.add_argument("--leaderboard", type=Path, default=LEADERBOARD)
    force = "replace a submission that stands on the leaderboard"
    parser.add_argument("--force", action="store_true", help=force)


def add_score(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `score`."""
    what = (
        "a submission (.csv); or configs, runs or predictions files, which are scored out of fold"
    )
    parser.add_argument("sources", nargs="+", help=what)
    add_changes(parser)
    answers = "the true answers of the test set: needed for a submission, and for a config whose "
    answers += "protocol has parts of its own (wilds)"
    parser.add_argument("--answers", type=Path, help=answers)
    parser.add_argument("--competition", help="its id (default: told by the columns)")
    against = "another submission: the paired difference, its interval and a test over units"
    parser.add_argument("--against", type=Path, metavar="CSV", help=against)
    root = "folder of the raw data: scores its sample submission as a control"
    parser.add_argument("--root", type=Path, help=root)
    parser.add_argument("--name", help="name on the leaderboard (default: the file's)")
    parser.add_argument("--leaderboard", type=Path, default=LEADERBOARD)


_OF_IMAGES = ("out", "by", "layout", "pattern", "channels", "controls")
_OF_IMAGES += ("cell_type", "fold", "stage")


def predict(arguments: argparse.Namespace) -> str | None:
    from cellsignal.prediction.predict import predict as predict_config

    if arguments.images is not None:
        return _predict_images(arguments)
    given = [name for name in _OF_IMAGES if getattr(arguments, name) is not None]
    if given:
        raise InputError(f"--{given[0].replace('_', '-')}: needs --images DIR")
    for config in configs_of(arguments):
        with work_in(config.run_folder):
            for path in predict_config(config):
                print(path)
    return next_command("score", arguments)


def _predict_images(arguments: argparse.Namespace) -> None:
    from cellsignal.prediction.new_images import Request, predict_images

    if arguments.out is None:
        raise InputError("--images: give --out CSV, the file to write")
    options = {name: getattr(arguments, name) for name in _OF_IMAGES}
    options["channels"] = texts(options["channels"]) if options["channels"] else None
    options["controls"] = texts(options["controls"] or "")
    options["by"] = options["by"] or "well"
    configs = configs_of(arguments)
    with work_in(configs[0].run_folder):
        print(predict_images(configs, Request(images=arguments.images, **options)))


def embed(arguments: argparse.Namespace) -> str:
    from cellsignal.prediction.embeddings import embed as embed_config
    from cellsignal.report.run_report import embedding_picture

    for config in configs_of(arguments):
        with work_in(config.run_folder):
            for path in embed_config(config):
                print(f"{path}\npicture: {embedding_picture(config, path)}")
    return next_command("profiles classify", arguments)


def submit(arguments: argparse.Namespace) -> str:
    from cellsignal.common.stopping import Stop
    from cellsignal.competitions.base import answers_path
    from cellsignal.evaluation.ladder import ladder_text
    from cellsignal.prediction.probabilities import probabilities_path
    from cellsignal.prediction.sources import read_sources, submit_sources

    Stop().check("submit", saved="predictions")
    weights = _weights(arguments)
    if weights and arguments.blend is not None:
        raise InputError("--weight: --blend has weights of its own; give one of the two")
    options = {key: getattr(arguments, key) for key in ("merge", "pool", "assignment", "groups")}
    out, steps, entry = submit_sources(
        read_sources(arguments.sources, arguments.set, arguments.seeds),
        arguments.out,
        weights=weights,
        root=arguments.root,
        changed={key: value for key, value in options.items() if value is not None},
        leaderboard=arguments.leaderboard,
        force=arguments.force,
        probabilities=arguments.probabilities,
        blend=arguments.blend,
    )
    if arguments.probabilities:
        print(probabilities_path(out))
    print(f"{ladder_text(steps)}\n\n{out}" if steps else out)
    answers = answers_path(entry.root.absolute())
    if answers.is_file():
        words = ["score", out, "--answers", answers, "--root", entry.root]
        return shlex.join(["cellsignal", *map(str, words)])
    return f"cellsignal leaderboard {entry.competition.id}"


def blend(arguments: argparse.Namespace) -> str:
    from cellsignal.evaluation.ladder import ladder_text
    from cellsignal.prediction.blend import blend_sources
    from cellsignal.prediction.sources import read_sources, submit_sources

    sources = read_sources(arguments.sources, arguments.set, arguments.seeds)
    file, text = blend_sources(
        sources,
        arguments.file,
        method=arguments.method,
        by_seed=arguments.by_seed,
        parts=arguments.parts,
        root=arguments.root,
    )
    print(f"{text}\n\n{file}")
    if arguments.out is None:
        return f"{next_command('submit', arguments)} --blend {file}"
    options = {"root": arguments.root, "leaderboard": arguments.leaderboard}
    out, steps, entry = submit_sources(
        sources, arguments.out, **options, force=arguments.force, blend=file
    )
    print(f"\n{ladder_text(steps)}\n\n{out}")
    return f"cellsignal leaderboard {entry.competition.id}"


def _weights(arguments: argparse.Namespace) -> dict[str, float]:
    try:
        return {
            run: float(number) for run, number in parse_pairs(arguments.weight, "--weight").items()
        }
    except ValueError as error:
        raise InputError(f"--weight: {error}") from None


def score(arguments: argparse.Namespace) -> str:
    from cellsignal.evaluation.score import compare, find_competition
    from cellsignal.evaluation.score import score as score_file

    path = Path(arguments.sources[0])
    if path.suffix in (*YAML, ".npz") or not (path.suffix or path.is_file()):
        if arguments.against is not None:
            raise InputError("--against: compares submissions (.csv); `runs compare` compares runs")
        return _score_protocol(arguments) if arguments.answers else _score_out_of_fold(arguments)
    if len(arguments.sources) > 1:
        raise InputError(f"{arguments.sources[1]}: give one submission at a time")
    if arguments.answers is None:
        raise InputError(f"{path}: a submission is scored by --answers CSV")
    competition = find_competition(path, arguments.competition)
    if arguments.against is not None:
        print(compare(path, arguments.against, arguments.answers, competition, arguments.root))
        return f"cellsignal leaderboard {competition.id}"
    table = score_file(
        path,
        arguments.answers,
        competition,
        leaderboard=arguments.leaderboard,
        root=arguments.root,
        name=arguments.name,
    )
    print(competition.task.table_text(table))
    return f"cellsignal leaderboard {competition.id}"


def _score_out_of_fold(arguments: argparse.Namespace) -> str:
    from cellsignal.baselines.comparison import kept_comparison
    from cellsignal.prediction.sources import out_of_fold_entry, out_of_fold_table, read_sources

    sources = read_sources(arguments.sources, arguments.set, arguments.seeds)
    entry = out_of_fold_entry(sources, arguments.root)
    print(out_of_fold_table(entry))
    if sources.configs:
        print(f"\n{kept_comparison(sources.configs[0], entry)}")
    return next_command("submit", arguments)


def _score_protocol(arguments: argparse.Namespace) -> str:
    from cellsignal.prediction.sources import protocol_table

    if len(arguments.sources) > 1:
        raise InputError(f"{arguments.sources[1]}: a protocol is scored one config at a time")
    arguments.config = arguments.sources[0]
    print(protocol_table(config_of(arguments), arguments.answers))
    return "cellsignal runs"


def leaderboard(arguments: argparse.Namespace) -> str:
    from cellsignal.evaluation.score import show_leaderboard

    print(show_leaderboard(arguments.competition, arguments.leaderboard))
    return "cellsignal runs"
