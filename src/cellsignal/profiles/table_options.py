"""The options of profile commands that read tables without a config."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellsignal.common.errors import InputError
from cellsignal.config.options import add_changes, config_of, find_configs, parse_pairs
from cellsignal.profiles.names import STEPS, USUAL

if TYPE_CHECKING:
    from cellsignal.profiles.profile_steps import Profiles

REFERENCES = ["negative_controls", "controls", "all"]


def add_profile_sources(parser: argparse.ArgumentParser) -> None:
    """Add a config or `--table`, and the options of either."""
    parser.add_argument(
        "config", nargs="?", help="YAML of the experiment, or the name of its run; not with --table"
    )
    add_changes(parser)
    parser.add_argument(
        "--table",
        nargs="+",
        action="extend",
        type=Path,
        metavar="FILE",
        help="well profiles that say themselves what each well is, without a config: .csv, .tsv "
        "(or .gz of either), .parquet, .h5ad",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="MEANING=NAME",
        help=f"of --table: the columns that say what a well is, where they have no usual name "
        f"({', '.join(USUAL)})",
    )
    parser.add_argument(
        "--controls",
        nargs="+",
        default=[],
        metavar="COLUMN=VALUE",
        help="of --table: the negative controls (default: by a control type, or DMSO)",
    )
    parser.add_argument(
        "--batch-pattern",
        metavar="REGEX",
        help="of --table: the part of a plate's name that is its batch, e.g. 'Week[0-9]+'",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="of --table: a table with more metadata, such as target_list, joined by treatment or "
        "compound",
    )
    parser.add_argument(
        "--features",
        nargs="+",
        default=[],
        metavar="PREFIX",
        help="columns of a table that are features: names, prefixes, or a file with a name on each "
        "line (default: Cells_ Cytoplasm_ Nuclei_)",
    )


def add_step_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of single steps."""
    text = "of tvn: drop the smallest principal axes that hold this share of the variance"
    parser.add_argument("--drop-variance", type=float, default=0.0, metavar="SHARE", help=text)
    text = "of well_position: the wells that rows and columns are estimated from (default all)"
    parser.add_argument("--position-reference", choices=REFERENCES, default="all", help=text)


def add_protocol_options(parser: argparse.ArgumentParser, steps: list[str]) -> None:
    """Add the options of matching and retrieval.

    Args:
        steps: the default ones.
    """
    add_profile_sources(parser)
    add_step_options(parser)
    parser.add_argument(
        "--source",
        nargs="+",
        default=["plain"],
        metavar="FILE",
        help="embeddings .npz, or .csv, .tsv, .parquet or .h5ad tables of well profiles "
        "(default: plain image features)",
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
        "--steps",
        nargs="*",
        choices=STEPS,
        help=f"in this order, or none (default {' '.join(steps)}; nothing for tables that say they "
        "are normalised)"
        if steps
        else "in this order (default none)",
    )
    by = "the unit that is normalised"
    parser.add_argument("--by", choices=["plate", "experiment"], default="plate", help=by)
    parser.add_argument("--reference", choices=REFERENCES, default=REFERENCES[0])


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of writing profiles as a file."""
    add_protocol_options(parser, [])
    text = ".parquet, or .h5ad of AnnData (the extras pyarrow and anndata)"
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=text)


def step_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments that normalise profiles, and where their figures go."""
    return {
        "normalise": arguments.normalise,
        "by": arguments.by or "plate",
        "reference": arguments.reference or REFERENCES[0],
        "drop_variance": arguments.drop_variance,
        "position_reference": arguments.position_reference,
        "out": arguments.out,
    }


def read_tables(arguments: argparse.Namespace) -> "Profiles":
    """Load the profiles that `--table` names."""
    from cellsignal.profiles.sources import load_tables

    columns = parse_pairs(arguments.columns, "--columns")
    for meaning in columns:
        if meaning not in USUAL:
            raise InputError(f"--columns {meaning}: is not one of {', '.join(USUAL)}")
    return load_tables(
        arguments.table,
        columns,
        parse_pairs(arguments.controls, "--controls"),
        features=arguments.features,
        batch_pattern=arguments.batch_pattern,
        annotations=arguments.annotations,
    )


def read_profiles(arguments: argparse.Namespace) -> "Profiles":
    """Load the profiles of a config's `--source`, or of `--table`."""
    from cellsignal.profiles.sources import load_profiles

    if not 0 <= arguments.unmatched <= 1:
        raise InputError(f"--unmatched: a share from 0 to 1, not {arguments.unmatched:g}")
    if not 0 <= arguments.drop_variance < 1:
        raise InputError(f"--drop-variance: a share below 1, not {arguments.drop_variance:g}")
    check_source(arguments)
    if arguments.table:
        return read_tables(arguments)
    return load_profiles(
        config_of(arguments), arguments.source, arguments.features, arguments.unmatched
    )


def check_source(arguments: argparse.Namespace) -> None:
    """Refuse a config beside `--table`, neither of them, and options of the other one."""
    if arguments.table and arguments.config:
        raise InputError(f"{arguments.config}: give a config or --table, not both")
    if not arguments.table and not arguments.config:
        raise InputError("give a config, or --table FILE ... for profiles without one")
    if not arguments.table:
        for option in ("columns", "controls", "batch_pattern", "annotations"):
            if getattr(arguments, option):
                raise InputError(f"--{option.replace('_', '-')}: is an option of --table")


def export_table(arguments: argparse.Namespace) -> str:
    """Write the profiles that the arguments name after their steps; return what was written."""
    from cellsignal.profiles.table_export import check_out, export_profiles, file_inputs

    check_source(arguments)
    inputs = file_inputs([*_sources(arguments), arguments.annotations, *arguments.features])
    check_out(arguments.out, inputs)
    of_config = ("config", "set", "seeds", "source", "unmatched")
    names = ("columns", "controls", "batch_pattern") if arguments.table else of_config
    names = (*names, "features", "by", "reference", "drop_variance", "position_reference")
    options = {name: getattr(arguments, name) for name in names}
    steps = step_arguments(arguments)
    steps["steps"] = steps.pop("normalise") or ()
    return export_profiles(read_profiles(arguments), inputs=inputs, options=options, **steps)


def _sources(arguments: argparse.Namespace) -> list[Path | str]:
    """The tables; or the config, and its sources or the store whose images are described."""
    if arguments.table:
        return arguments.table
    configs = find_configs(arguments.config)
    seed = f"seed{arguments.seeds[0]}" if arguments.seeds else ""
    config = next((path for path in configs if path.parent.name == seed), configs[0])
    if arguments.source != ["plain"]:
        return [config, *arguments.source]
    from cellsignal.data.store import info_file

    return [config, info_file(config_of(arguments).data.store)]
