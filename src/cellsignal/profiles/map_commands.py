"""`cellsignal profiles relations`, `consistency`, `activity`, `probe`: protocols of embeddings."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.evaluation.map_defaults import (
    ACTIVE,
    DRAWS,
    EXCHANGES,
    INACTIVE,
    NEGATIVES,
    SETS,
    THRESHOLDS,
)
from cellsignal.profiles.names import AGGREGATES, COMPONENTS, EFAAR, Step
from cellsignal.profiles.table_options import (
    REFERENCES,
    add_protocol_options,
    read_profiles,
)

if TYPE_CHECKING:
    from cellsignal.profiles.gene_maps import MapOptions
    from cellsignal.profiles.profile_steps import Profiles

STEPS: tuple[Step, ...] = ("pca", "standardize")  # as RxRx3-core's benchmark


def add_map_commands(add: Callable) -> None:
    """Add the parsers of the commands."""
    _add_relations(add("relations", relations, "recall known relations of genes from a map"))
    text = "test whether the replicates of a gene resemble each other"
    _add_consistency(add("consistency", consistency, text))
    _add_activity(add("activity", activity, "rank genes by their likeness to compounds"))
    _add_probe(add("probe", probe, "classify RxRx1's sites by WILDS' protocol from embeddings"))


def _add_relations(parser: argparse.ArgumentParser) -> None:
    _add_map_options(parser)
    parser.add_argument(
        "--relations",
        nargs="+",
        required=True,
        metavar="FILE",
        help="tables with the columns entity1, entity2, or folders of them; "
        f"{EFAAR}: those of the installed package efaar_benchmarking",
    )
    parser.add_argument(
        "--thresholds",
        nargs=2,
        type=float,
        default=list(THRESHOLDS),
        metavar=("LOW", "HIGH"),
        help="shares of all pairs below and above which a pair stands out (default .05 .95)",
    )
    text = f"exchanges of the genes' names (default {EXCHANGES})"
    parser.add_argument("--draws", type=int, default=EXCHANGES, help=text)
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV of every known pair")


def _add_consistency(parser: argparse.ArgumentParser) -> None:
    _add_map_options(parser, aggregation=False)
    parser.add_argument(
        "--null-by",
        choices=["experiment", "plate", "none"],
        default="experiment",
        help="random sets have as many wells of each as the replicates (default experiment)",
    )
    parser.add_argument(
        "--null-genes",
        nargs="+",
        default=[],
        metavar="GENE",
        help="genes that do nothing, or a file of them: their consistency is the null, in place of "
        "random sets",
    )
    text = f"random sets of each composition (default {SETS})"
    parser.add_argument("--sets", type=int, default=SETS, help=text)
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV of every perturbation")


def _add_activity(parser: argparse.ArgumentParser) -> None:
    _add_map_options(parser)
    parser.add_argument(
        "--interactions",
        type=Path,
        required=True,
        metavar="FILE",
        help="table with the columns treatment, gene_symbol, nM_value",
    )
    text = f"nM at or below which a gene is a target (default {ACTIVE:g})"
    parser.add_argument("--active", type=float, default=ACTIVE, metavar="NM", help=text)
    text = f"nM up to which a gene that is no target takes no part (default {INACTIVE:g})"
    parser.add_argument("--inactive", type=float, default=INACTIVE, metavar="NM", help=text)
    text = f"fewest other genes (default {NEGATIVES})"
    parser.add_argument("--negatives", type=int, default=NEGATIVES, help=text)
    text = f"draws of other genes (default {DRAWS})"
    parser.add_argument("--draws", type=int, default=DRAWS, help=text)
    text = "CSV of every compound and concentration"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)


def _add_probe(parser: argparse.ArgumentParser) -> None:
    text = "embeddings with a row a site: .csv, .tsv, .parquet, .h5ad"
    parser.add_argument("--table", type=Path, required=True, metavar="FILE", help=text)
    text = "RxRx1's or WILDS' metadata.csv, joined by site_id, where the table has no such columns"
    parser.add_argument("--metadata", type=Path, metavar="FILE", help=text)
    text = "columns that are features: names, prefixes, or a file of names"
    parser.add_argument("--features", nargs="+", default=[], metavar="PREFIX", help=text)
    parser.add_argument("--method", choices=["linear", "centre", "knn"], default="linear")
    parser.add_argument(
        "--strength",
        nargs="+",
        type=float,
        default=[1.0],
        metavar="C",
        help="of the linear probe, the inverse of its penalty; of several the best on OOD "
        "validation is taken (default 1)",
    )
    parser.add_argument(
        "--normalise",
        choices=["none", "centre", "standardise", "tvn", "sphere"],
        default="none",
        help="how the batch is taken out of the embeddings (default none)",
    )
    by = "the unit that is normalised (default experiment)"
    parser.add_argument("--by", choices=["plate", "experiment"], default="experiment", help=by)
    text = "the wells it is learnt from (default: all for centre and standardise, else controls)"
    parser.add_argument("--reference", choices=REFERENCES, help=text)
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV of every site")


def _add_map_options(parser: argparse.ArgumentParser, aggregation: bool = True) -> None:
    add_protocol_options(parser, list(STEPS))
    text = f"of pca, at most (default {COMPONENTS})"
    parser.add_argument("--components", type=int, default=COMPONENTS, help=text)
    parser.add_argument(
        "--drop-genes",
        nargs="+",
        default=[],
        metavar="GENE",
        help="genes that are left out, or a file with a name on each line",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    if aggregation:
        text = "of the wells of a gene (default mean)"
        parser.add_argument("--aggregate", choices=AGGREGATES, default="mean", help=text)
        text = "a gene of fewer wells is left out (default 1)"
        parser.add_argument("--least-wells", type=int, default=1, help=text)


def relations(arguments: argparse.Namespace) -> None:
    from cellsignal.profiles.map_tables import relations_text
    from cellsignal.profiles.relation_tables import read_relations

    low, high = arguments.thresholds
    if not 0 <= low < high <= 1:
        raise InputError(f"--thresholds {low:g} {high:g}: two shares from 0 to 1, the lower first")
    _check_least(arguments, "draws", "least_wells")
    tables = read_relations(arguments.relations)
    profiles, done = _normalised(arguments)
    how = _map_options(arguments, profiles)
    options = {"draws": arguments.draws, "seed": arguments.seed, "out": arguments.out}
    print(relations_text(profiles, done, tables, how, (low, high), **options))


def consistency(arguments: argparse.Namespace) -> None:
    from cellsignal.profiles.map_tables import consistency_text

    profiles, done = _normalised(arguments)
    batch = None if arguments.null_by == "none" else arguments.null_by
    text = consistency_text(
        profiles,
        done,
        batch,
        _genes_of(arguments, "null_genes", profiles),
        _genes_of(arguments, "drop_genes", profiles),
        arguments.sets,
        arguments.seed,
        arguments.out,
    )
    print(text)


def activity(arguments: argparse.Namespace) -> None:
    from cellsignal.evaluation.compound_genes import Activity
    from cellsignal.profiles.compound_tables import activity_text
    from cellsignal.profiles.relation_tables import read_interactions

    _check_least(arguments, "draws", "negatives", "least_wells")
    if not 0 < arguments.active <= arguments.inactive:
        raise InputError(
            f"--active {arguments.active:g}: above 0, and at most --inactive {arguments.inactive:g}"
        )
    table = read_interactions(arguments.interactions)
    profiles, done = _normalised(arguments)
    names = ("active", "inactive", "negatives", "draws", "seed")
    how = Activity(**{name: getattr(arguments, name) for name in names})
    print(
        activity_text(profiles, done, table, _map_options(arguments, profiles), how, arguments.out)
    )


def probe(arguments: argparse.Namespace) -> None:
    from cellsignal.profiles.site_probe import probe_text, read_sites

    if min(arguments.strength) <= 0:
        raise InputError(f"--strength: above 0, not {min(arguments.strength):g}")
    sites = read_sites(arguments.table, arguments.features, arguments.metadata)
    text = probe_text(
        sites,
        arguments.method,
        arguments.strength,
        arguments.normalise,
        arguments.by,
        arguments.reference,
        arguments.out,
    )
    print(text)


def _normalised(arguments: argparse.Namespace) -> tuple["Profiles", str]:
    """The profiles after their steps, and what was done to them."""
    from cellsignal.profiles.profile_steps import choose_steps, normalise_profiles, steps_text

    loaded = read_profiles(arguments)
    steps = choose_steps(loaded, arguments.normalise, STEPS)
    profiles = normalise_profiles(
        loaded,
        steps,
        arguments.by,
        arguments.reference,
        arguments.drop_variance,
        arguments.position_reference,
        arguments.components,
    )
    chosen = arguments.normalise is not None
    return profiles, steps_text(loaded, steps, chosen, arguments.by, arguments.reference)


def _map_options(arguments: argparse.Namespace, profiles: "Profiles") -> "MapOptions":
    from cellsignal.profiles.gene_maps import MapOptions

    dropped = _genes_of(arguments, "drop_genes", profiles)
    return MapOptions(arguments.aggregate, dropped, arguments.least_wells)


def _genes_of(arguments: argparse.Namespace, name: str, profiles: "Profiles") -> set[str]:
    """The genes of an option, which are genes of the profiles."""
    from cellsignal.profiles.gene_maps import gene_names
    from cellsignal.profiles.relation_tables import read_genes

    genes = set(gene_names(profiles.wells).dropna())
    return read_genes(getattr(arguments, name), f"--{name.replace('_', '-')}", genes)


def _check_least(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(arguments, name) < 1:
            option = name.replace("_", "-")
            raise InputError(f"--{option}: at least 1, not {getattr(arguments, name)}")
