"""`cellsignal qc`: the quality of plates, what stands out, and what leaving it out does."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.config.options import add_changes, config_of, is_file, parse_pairs

if TYPE_CHECKING:
    import pandas as pd

    from cellsignal.prediction.entry import Entry
    from cellsignal.quality.measuring import Images
    from cellsignal.quality.outliers import Rule
    from cellsignal.quality.tables import Quality


def add_quality_commands(add: Callable) -> None:
    """Add the parsers of the commands."""
    sub = add("qc", qc, "measure the quality of plates; list what stands out")
    sub.add_argument("source", help="a config, whose store is read; or a competition's id")
    root = "folder of the raw data: their images are read (needed with an id)"
    sub.add_argument("--root", type=Path, help=root)
    out = "folder for wells.csv, plates.csv, controls.csv, exclude.csv and pictures"
    sub.add_argument("--out", type=Path, help=out)
    nuclei = "channel of the nuclei, by name or number; none counts no cells"
    sub.add_argument("--nuclei", metavar="CHANNEL", help=nuclei)
    sub.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    limit = "robust z from which a well or plate stands out (default 6)"
    sub.add_argument("--limit", type=float, default=6.0, help=limit)
    by = "measures that count (default focus_slope focus_laplacian saturated)"
    sub.add_argument("--by", nargs="+", metavar="MEASURE", help=by)
    least = "least difference from the median that counts, as saturated=0.01"
    sub.add_argument("--least", action="append", default=[], metavar="MEASURE=NUMBER", help=least)
    kinds = "what exclude.csv lists (default wells)"
    sub.add_argument(
        "--exclude", nargs="+", choices=["wells", "plates"], default=["wells"], help=kinds
    )
    pictures = "plates that get a heat map, those that stand out first (default 8)"
    sub.add_argument("--pictures", type=int, default=8, help=pictures)
    effect = "score these predictions with and without the list, out of fold (default: those of "
    effect += "the config)"
    sub.add_argument("--effect", nargs="?", const="", metavar="RUN", help=effect)
    listed = "with --effect: this list instead of a new one; nothing is measured"
    sub.add_argument("--list", type=Path, metavar="CSV", help=listed)
    add_changes(sub)


def qc(arguments: argparse.Namespace) -> str | None:
    if arguments.list is not None and arguments.effect is None:
        raise InputError("--list: is an option of --effect")
    if arguments.workers < 0 or arguments.pictures < 0 or not arguments.limit > 0:
        raise InputError("--workers and --pictures are numbers from 0, --limit is above 0")
    entry = None if arguments.effect is None else _predictions(arguments)
    listed = _measure(arguments) if arguments.list is None else arguments.list
    if entry is not None:
        print(f"\n{_effect(entry, listed)}")
    if arguments.out is None or arguments.list is not None:
        return None
    change = f"data.exclude={arguments.out / 'exclude.csv'}"
    return f"cellsignal train CONFIG --set {shlex.quote(change)}"


def _measure(arguments: argparse.Namespace) -> "pd.DataFrame":
    """Measure, print and write; return the table of what is to be left out."""
    from cellsignal.quality.measuring import measure, nuclear_channel
    from cellsignal.quality.tables import quality_of
    from cellsignal.quality.text import exclusion_table, quality_text

    rule, out = _rule(arguments), arguments.out
    with TemporaryDirectory(prefix="cellsignal-") as folder:
        images = _images(arguments, Path(folder))
        nuclei = nuclear_channel(images.planes, arguments.nuclei)
        kept = None if out is None else out / "measured"
        measured = measure(images, nuclei, arguments.workers, kept)
    quality = quality_of(images.samples, measured, rule)
    print(quality_text(quality, images.what, nuclei))
    for sample_id, message in measured.problems[:5]:
        print(f"not read: {sample_id}: {message}")
    if len(measured.problems) > 5:
        print(f"... {len(measured.problems)} sites in all could not be read")
    listed = exclusion_table(quality, arguments.exclude)
    if out is not None:
        _write(quality, listed, images.what, arguments)
    return listed


def _rule(arguments: argparse.Namespace) -> "Rule":
    from cellsignal.quality.outliers import LEAST, TECHNICAL, Rule

    by = tuple(arguments.by or TECHNICAL)
    least = dict(LEAST)
    for name, text in parse_pairs(arguments.least, "--least").items():
        try:
            least[name] = float(text)
        except ValueError:
            raise InputError(f"--least {name}={text}: is not a number") from None
    for option, names in (("--by", by), ("--least", least)):
        unknown = [name for name in names if name not in LEAST]
        if unknown:
            raise InputError(f"{option} {unknown[0]}: is no measure; there are {', '.join(LEAST)}")
    return Rule(arguments.limit, by, least)


def _images(arguments: argparse.Namespace, calibration: Path) -> "Images":
    from cellsignal.competitions import competition_ids, get_competition
    from cellsignal.data.store import Store, has_store
    from cellsignal.quality.measuring import raw_images, stored_images

    word, root = arguments.source, arguments.root
    if word in competition_ids() and not is_file(word):
        if root is None:
            raise InputError(f"qc {word}: give --root, the folder of its raw data, or a config")
        if arguments.set or arguments.seeds:
            raise InputError("--set and --seeds: change a config, and none is given")
        return raw_images(get_competition(word), root, calibration, arguments.workers)
    arguments.config = word
    config = config_of(arguments)
    competition = get_competition(config.competition)
    if root is not None:
        return raw_images(competition, root, calibration, arguments.workers)
    if not has_store(config.data.store):
        raise InputError(
            f"{config.data.store}: there is no store; run `cellsignal prepare {word}` first, or "
            "give --root to read the raw images"
        )
    store = Store.open(config.data.store)
    if store.source.get("competition") != competition.id:
        raise InputError(f"{store.path}: is a store of {store.source.get('competition')!r}")
    return stored_images(store, competition.frames)


def _write(quality: "Quality", listed, what: str, arguments: argparse.Namespace) -> None:
    from cellsignal.common.files import limited_name, provenance, write_csv, write_json
    from cellsignal.quality.text import standing_plates
    from cellsignal.report.quality_plots import plate_heat_maps, plates_overview

    out: Path = arguments.out
    tables = {
        "wells": quality.wells,
        "plates": quality.plates,
        "controls": quality.controls,
        "exclude": listed,
    }
    print()
    for name, table in tables.items():
        write_csv(out / f"{name}.csv", table)
        print(f"{out / f'{name}.csv'}: {len(table)} rows")
    about = {"measured": what, "rule": quality.rule.text(), "lists": arguments.exclude}
    write_json(out / "quality.json", provenance(**about))
    plates_overview(out / "plates.png", quality.plates)
    print(f"picture: {out / 'plates.png'}")
    standing = standing_plates(quality.plates).index
    wells_out = quality.wells.stands_out.ne("").groupby(
        [quality.wells.experiment, quality.wells.plate]
    )
    order = sorted(wells_out.sum().items(), key=lambda item: (item[0] not in standing, -item[1]))
    for name, _ in order[: arguments.pictures]:
        rows = quality.wells[
            (quality.wells.experiment == name[0]) & (quality.wells.plate == name[1])
        ]
        path = out / "heat_maps" / f"{limited_name('_'.join(map(str, name)))}.png"
        title = f"{name[0]}  {name[1]}"
        plate_heat_maps(path, rows.reset_index(drop=True), quality.columns, title)
        print(f"picture: {path}")


def _predictions(arguments: argparse.Namespace) -> "Entry":
    """Return the out-of-fold predictions that `--effect` names."""
    from cellsignal.prediction.sources import out_of_fold_entry, read_sources

    word = arguments.effect or arguments.source
    sources = read_sources([word], [] if arguments.effect else arguments.set, arguments.seeds)
    return out_of_fold_entry(sources)


def _effect(entry: "Entry", listed: "pd.DataFrame | Path") -> str:
    """Score predictions with and without the listed wells."""
    from cellsignal.data.exclusions import excluded_samples, read_exclusions
    from cellsignal.quality.effect import effect_text, exclusion_effect

    samples = entry.samples
    if isinstance(listed, Path):
        out = read_exclusions(listed, samples)
    else:
        out = excluded_samples(listed[["well_id"]], samples, "qc")
    targets = entry.merge(entry.final(), "oof")
    by_target = samples.assign(out=out).groupby("target_id").out.all()
    group = entry.members[0].about["fold_group"]
    rows = samples.drop_duplicates("target_id").set_index("target_id").loc[targets.target_id]
    left_out = by_target.loc[targets.target_id].to_numpy()
    cluster = rows[group].to_numpy(object)
    return effect_text(exclusion_effect(entry.competition.task, targets, left_out, cluster), group)
