"""Commands that download, simulate, verify, pack and fold the data of a competition."""

import argparse
import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.config.options import (
    add_set,
    configs_of,
    next_command,
    parse_pairs,
)
from cellsignal.data import parsers

if TYPE_CHECKING:
    from cellsignal.competitions.base import Competition

_COUNTED = ["well", "site", "channel", "z"]  # of each plate, by init


def add_data_commands(add: Callable) -> None:
    """Add the parsers of the commands."""
    add("competitions", competitions, "list the competitions and their protocols")
    sub = add("download", download, "fetch the data of a competition")
    sub.add_argument("competition")
    sub.add_argument("--out", type=Path, help="folder (default data/<competition>)")
    add_set(sub, "what of it: the competition's README lists its choices")
    parsers.add_init(add("init", init, "describe a folder of your own plates in a plates.yaml"))
    parsers.add_samples(add("samples", samples, "show the samples table of a competition"))
    parsers.add_simulate(add("simulate", simulate, "write a simulated copy of a competition"))
    text = "read every image and row, or a store; list what is wrong"
    parsers.add_verify(add("verify", verify, text))
    parsers.add_prepare(add("prepare", prepare, "pack the images of a config into its store"))
    parsers.add_folds(add("folds", folds, "make a fold table"))


def competitions(arguments: argparse.Namespace) -> str:
    from cellsignal.competitions import competition_ids, get_competition

    for name in competition_ids():
        c = get_competition(name)
        print(f"{name}\n  {c.title}")
        print(f"  channels {', '.join(c.channels)}; {c.metric}; {c.licence}")
        print(f"  {c.citation}\n  {c.homepage}")
        for protocol in c.protocols():
            print(f"  protocol {protocol.id}: {protocol.title}. {protocol.summary}")
    return f"cellsignal simulate {competition_ids()[0]}"


def download(arguments: argparse.Namespace) -> str:
    from cellsignal.competitions import get_competition

    out = arguments.out or Path("data") / arguments.competition
    get_competition(arguments.competition).download(out, **parse_pairs(arguments.set, "--set"))
    return f"cellsignal verify {arguments.competition} --root {out}"


def init(arguments: argparse.Namespace) -> str:
    from cellsignal.competitions.plates.first_look import look_at_sites
    from cellsignal.competitions.plates.init import look_into, write_description
    from cellsignal.data.preview import left_out_lines
    from cellsignal.report.plate_plots import channel_montage

    out = arguments.out or arguments.folder
    found = look_into(arguments.folder, arguments.pattern, arguments.platemap, out)
    path = write_description(out, found.text, arguments.force)
    planes = found.planes
    what = "files" if found.layout.name != "ome_zarr" else "planes"
    print(f"{found.layout.title}\n{len(planes)} {what} understood, {len(found.left_out)} not")
    look = look_at_sites(out)
    lines = left_out_lines(look.left_out or found.left_out)
    print("\n".join([*lines, planes.groupby("plate")[_COUNTED].nunique().to_string()]))
    if look.images:
        picture = arguments.picture or _first_picture(arguments.folder.resolve())
        channel_montage(picture, look.images, list(found.channels))
        print(f"\n{picture}")
    else:
        print(f"\nno picture: {look.problem}")
    print(f"\n{path}\n{found.text}", end="")
    return shlex.join(["cellsignal", "samples", "plates", "--root", str(out)])


def _first_picture(folder: Path) -> Path:
    """Return where `init` draws: never among the images."""
    parent = folder.parent if Path.cwd().is_relative_to(folder) else Path("runs")
    return parent / f"{folder.name}.init.png"


def samples(arguments: argparse.Namespace) -> str:
    from cellsignal.common.files import write_csv
    from cellsignal.competitions import get_competition
    from cellsignal.competitions.pairing import rows_without_images
    from cellsignal.data.preview import montage_images, preview_text

    competition, root = get_competition(arguments.competition), arguments.root
    table = competition.samples(root)
    left_out = competition.left_out(root)
    without_images = rows_without_images(
        competition.images_folder(root), table, competition.image_files
    )
    classes, notes = competition.classes(root), competition.notes(root)
    print(preview_text(table, classes, left_out, without_images, notes))
    if arguments.out is not None:
        write_csv(arguments.out, table.assign(files=table.files.str.join(" ")))
        print(f"\n{arguments.out}")
    if arguments.out is not None and left_out:
        import pandas as pd

        path = arguments.out.with_suffix(".left_out.csv")
        write_csv(path, pd.DataFrame(left_out, columns=["reason", "name"]))
        print(path)
    if arguments.picture is not None:
        from cellsignal.report.plate_plots import channel_montage

        images = montage_images(competition, root, table)
        channel_montage(arguments.picture, images, competition.channels_of(root))
        print(arguments.picture)
    return f"cellsignal verify {arguments.competition} --root {root}"


def simulate(arguments: argparse.Namespace) -> str:
    from cellsignal.competitions import get_competition
    from cellsignal.competitions.base import answers_path

    competition = get_competition(arguments.competition)
    kind = "quick" if arguments.quick else "simulated"
    out = arguments.out or Path("data") / f"{competition.id}_{kind}"
    default_seed = 1 if arguments.quick else 0
    seed = default_seed if arguments.seed is None else arguments.seed
    size = dict(competition.quick_simulation) if arguments.quick else {}
    for name in ("size", "classes"):
        if getattr(arguments, name) is not None:
            size[name] = getattr(arguments, name)
    try:
        size |= {name: int(value) for name, value in parse_pairs(arguments.set, "--set").items()}
    except ValueError as error:
        raise InputError(f"--set: a whole number is needed ({error})") from None
    if reserved := sorted({"out", "seed", "competition"} & set(size)):
        raise InputError(
            f"--set {reserved[0]}: is not a parameter of the simulation; see `cellsignal simulate "
            "--help`"
        )
    competition.simulate(out, seed, **size)
    answers = answers_path(out)
    print(f"simulated {competition.id} in {out}, answers in {answers}")
    if arguments.quick and (config := _quick_config(competition)) is not None:
        return f"cellsignal run {config} --answers {answers}"
    return f"cellsignal verify {competition.id} --root {out}"


def _quick_config(competition: "Competition") -> Path | None:
    """Return the config in the competition's folder that reads its quick copy."""
    folder = Path(inspect.getfile(type(competition))).parent
    reading = f"competition: {competition.id}\n"
    paths = sorted(folder.glob("quick*.yaml"))
    path = next((path for path in paths if reading in path.read_text(encoding="utf-8")), None)
    here = Path.cwd()
    return path.relative_to(here) if path and path.is_relative_to(here) else path


def verify(arguments: argparse.Namespace) -> str:
    from cellsignal.competitions import get_competition
    from cellsignal.data.verify import format_problems
    from cellsignal.data.verify import verify as find_problems

    if arguments.store is not None:
        return _verify_store(arguments)
    if arguments.competition is None or arguments.root is None:
        raise InputError("verify: give a competition's id and --root, or --store")
    root, competition = arguments.root, get_competition(arguments.competition)
    problems = find_problems(competition, root, workers=arguments.workers)
    print(format_problems(problems))
    errors = sum(problem.is_error for problem in problems)
    if errors:
        raise InputError(f"{root}: {errors} error{'' if errors == 1 else 's'}, listed above")
    config = _config_reading(root, arguments.competition)
    if config is None:
        return competition.config_help
    return shlex.join(["cellsignal", "prepare", str(config)])


def _verify_store(arguments: argparse.Namespace) -> None:
    from cellsignal.common.places import as_place
    from cellsignal.data.store_check import check_store, damage_text

    if arguments.competition is not None or arguments.root is not None:
        raise InputError("verify --store: reads the store alone; leave out competition and --root")
    place = as_place(arguments.store)
    sites, damage = check_store(place)
    print(damage_text(sites, damage))
    if damage:
        raise InputError(f"{place}: {len(damage)} of {sites} sites are damaged, listed above")


def prepare(arguments: argparse.Namespace) -> str:
    from cellsignal.config.load import change_of
    from cellsignal.data.parts import following_part
    from cellsignal.pipeline import prepare as pack
    from cellsignal.pipeline import prepare_shards

    config = configs_of(arguments)[0]  # no seed changes a store
    if arguments.shards is not None:
        prepare_shards(config, arguments.shards, arguments.shard_mb, arguments.move)
        others = [change for change in arguments.set if not change.startswith("data.store=")]
        arguments.set = [*others, change_of("data.store", arguments.shards)]
        return next_command("train", arguments)
    if arguments.shard_mb is not None or arguments.move:
        option = "--move" if arguments.move else "--shard-mb"
        raise InputError(f"{option}: goes with --shards FOLDER")
    pack(config, arguments.part, arguments.merge)
    if arguments.part is not None:
        words = following_part(config.data.store, arguments.part)
        return f"{next_command('prepare', arguments)} {words}"
    if not config.folds.file.is_file():
        words = ["folds", config.competition, "--root", config.data.root]
        words += ["--out", config.folds.file]
        return shlex.join(["cellsignal", *map(str, words)])
    return next_command("train", arguments)


def folds(arguments: argparse.Namespace) -> str:
    from cellsignal.competitions import get_competition
    from cellsignal.data.folds import default_folds_file, make_folds_file
    from cellsignal.data.folds_text import folds_text

    competition = get_competition(arguments.competition)
    out = arguments.out or default_folds_file(arguments.competition, arguments.root)
    table = make_folds_file(
        arguments.competition,
        arguments.root,
        out,
        group=arguments.group,
        splits=arguments.splits,
        seed=arguments.seed,
        named=arguments.named,
        force=arguments.force,
    )
    print(f"{folds_text(table)}\n\n{out}")
    for note in competition.notes(arguments.root):
        print(f"note: {note}")
    balance = competition.task.folds_text(table, competition.classes(arguments.root))
    if balance:
        print(f"\n{balance}")
    config = _config_for(arguments.competition, out)
    config = config or _config_reading(arguments.root, arguments.competition)
    return competition.config_help if config is None else f"cellsignal run {config}"


def _config_reading(root: Path, competition: str) -> str | None:
    """Return a config of this folder, or a committed one, that reads a root; None without one."""
    reading = re.compile(rf"\broot: {re.escape(str(root))}/?[,}}\s]")
    paths = [
        *sorted(Path().glob("*.yaml")),
        *sorted(Path("configs").glob(f"{competition}*/*.yaml")),
    ]
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        if f"competition: {competition}\n" in text and reading.search(text):
            return str(path)
    return None


def _config_for(competition: str, folds_file: Path) -> str | None:
    """Return the first committed config that reads a fold table, or any of the competition."""
    paths = sorted(Path("configs").glob(f"{competition}*/*.yaml"))
    reading = [path for path in paths if str(folds_file) in path.read_text(encoding="utf-8")]
    return next(map(str, reading or paths), None)
