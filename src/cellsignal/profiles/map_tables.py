"""Run the protocols of gene maps: from profiles to tables of relations and of replicates."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.common.tables import aligned
from cellsignal.common.ties import listed
from cellsignal.evaluation.baselines import SHUFFLED, shuffled_rows
from cellsignal.evaluation.consistency import replicate_consistency
from cellsignal.evaluation.gene_relations import (
    Recall,
    exchange_p,
    exchanged_recalls,
    recall_relations,
)
from cellsignal.evaluation.map_defaults import EXCHANGES, SETS, THRESHOLDS
from cellsignal.metrics.intervals import mean_interval, range_text
from cellsignal.profiles.comparisons import head_lines
from cellsignal.profiles.gene_maps import (
    EXCHANGED,
    RANDOM,
    GeneMap,
    MapOptions,
    baseline_wells,
    gene_names,
    make_gene_map,
)
from cellsignal.profiles.profile_steps import Profiles
from cellsignal.profiles.relation_tables import RelationTable, refuse_unknown

NOISE_MAPS = 20
FEW_GENES = 20  # EFAAR's benchmark asks for as many
RELATION_HEADER = (
    *("relations", "profiles", "genes", "pairs", "recall", "95 % over genes"),
    *("95 % over parts", "similar", "opposite", "p"),
)


def relations_text(
    profiles: Profiles,
    done: str,
    relations: Sequence[RelationTable],
    how: MapOptions,
    thresholds: tuple[float, float] = THRESHOLDS,
    draws: int = EXCHANGES,
    seed: int = 0,
    out: Path | None = None,
) -> str:
    """Return the recall of known relations beside the baselines, as text.

    Args:
        profiles: after their steps.
        done: what was done to them.
        draws: exchanges of the genes' names.
        out: a CSV of every known pair of the profiles themselves.

    Raises:
        InputError: see `make_gene_map`; no relation has both genes among the profiles.
    """
    made = make_gene_map(profiles, how)
    maps = {profiles.label: made}
    for name, x in baseline_wells(profiles.wells).items():
        maps[name] = make_gene_map(replace(profiles, x=x), how)
    lines, tables, notes = [RELATION_HEADER], [], _map_notes(made, relations)
    for table in relations:
        pairs = table.among(made.genes)
        if not len(pairs):
            notes.append(f"{table.name}: none of its {len(table.pairs)} pairs is among the genes")
            continue
        for number, (name, genes) in enumerate(maps.items()):
            recall = recall_relations(genes.x, pairs, thresholds)
            exchanged = exchanged_recalls(genes.x, recall, draws, seed)
            lines.append((table.name, name, *_recall_cells(recall, exchanged)))
            if not number:
                lines.append((table.name, EXCHANGED, *_exchanged_cells(recall, exchanged)))
                tables.append(_pair_table(table.name, recall, made))
        noise = _noise_recalls(made.x.shape, pairs, thresholds, seed)
        lines.append((table.name, RANDOM, *_exchanged_cells(recall, noise)))
    if not tables:
        raise InputError(f"relations: {notes[-1]}; genes are such as {listed(made.genes)}")
    if out is not None:
        write_csv(out, pd.concat(tables, ignore_index=True))
    notes += _recall_notes(thresholds, draws)
    text = aligned(lines, right={2, 3, 4, 7, 8, 9})
    return "\n".join([*head_lines(profiles, done), "", text, "", *notes])


def _map_notes(made: GeneMap, relations: Sequence[RelationTable]) -> list[str]:
    low, high = int(made.wells.min()), int(made.wells.max())
    wells = f"{low}" if low == high else f"{low} to {high}"
    notes = [f"a map of {len(made.genes):,} genes, {wells} wells each"]
    if len(made.genes) < FEW_GENES:
        notes.append(f"fewer than {FEW_GENES} genes: the published benchmark gives no figure")
    total = sum(len(table.pairs) for table in relations)
    inside = sum(len(table.among(made.genes)) for table in relations)
    notes.append(f"{inside:,} of {total:,} known pairs have both genes among them")
    return notes


def _recall_cells(recall: Recall, exchanged: np.ndarray) -> tuple[str, ...]:
    return (
        f"{recall.genes:,}",
        f"{len(recall.pairs):,}",
        f"{recall.value:.3f}",
        range_text(*recall.over_genes, 3),
        range_text(*recall.over_parts, 3),
        f"{(recall.side > 0).mean():.3f}",
        f"{(recall.side < 0).mean():.3f}",
        f"{exchange_p(recall.value, exchanged):.4f}",
    )


def _noise_recalls(
    shape: tuple[int, int], pairs: np.ndarray, thresholds: tuple[float, float], seed: int
) -> np.ndarray:
    """The recall from maps of pure noise, (NOISE_MAPS,)."""
    rng = np.random.default_rng(seed)
    maps = (rng.normal(size=shape) for _ in range(NOISE_MAPS))
    return np.array([recall_relations(x, pairs, thresholds).value for x in maps])


def _exchanged_cells(recall: Recall, exchanged: np.ndarray) -> tuple[str, ...]:
    """The mean and the range of 95 % of the draws."""
    low, high = np.quantile(exchanged, [0.025, 0.975])
    counts = (f"{recall.genes:,}", f"{len(recall.pairs):,}", f"{exchanged.mean():.3f}")
    return (*counts, f"{low:.3f} .. {high:.3f} (of a draw)", "", "", "", "")


def _pair_table(source: str, recall: Recall, made: GeneMap) -> pd.DataFrame:
    names = np.array(made.genes, object)
    sides = np.array(["opposite", "", "similar"], object)
    return pd.DataFrame(
        {
            "relations": source,
            "entity1": names[recall.pairs[:, 0]],
            "entity2": names[recall.pairs[:, 1]],
            "cosine": recall.cosine,
            "rank": recall.rank,
            "recalled": sides[recall.side + 1],
        }
    ).sort_values("cosine", ascending=False, kind="stable")


def _recall_notes(thresholds: tuple[float, float], draws: int) -> list[str]:
    low, high = thresholds
    return [
        f"recall: known pairs whose cosine is among the lowest {low:g} (opposite) or the highest "
        f"{1 - high:g} (similar) of all pairs of genes; at random {low + 1 - high:g}",
        f"{EXCHANGED}: mean and range of {draws} exchanges of the genes' names, the graph and all "
        "profiles kept; p: the share of these that recall as much as each row",
        f"{RANDOM}: mean and range of {NOISE_MAPS} maps of noise",
        "over genes: for other genes of the same complexes; over parts: for other complexes, given "
        "where the relations fall into ten parts or more",
    ]


def consistency_text(
    profiles: Profiles,
    done: str,
    batch: str | None = "experiment",
    null: Collection[str] = (),
    dropped: Collection[str] = (),
    sets: int = SETS,
    seed: int = 0,
    out: Path | None = None,
) -> str:
    """Return how many perturbations have replicates that resemble each other, as text.

    Args:
        batch: column that random sets are matched by: experiment, plate, or None for none.
        null: genes that do nothing, whose consistency is then the null.
        dropped: genes that are left out.
        out: a CSV of every perturbation of every row.

    Raises:
        InputError: see `replicate_consistency`.
    """
    wells = profiles.wells
    names = gene_names(wells)
    refuse_unknown(dropped, set(names.dropna()), "--drop-genes")
    refuse_unknown(null, set(names.dropna()), "--null-genes")
    keep = (names.notna() & ~names.isin(set(dropped))).to_numpy()
    where = _batches(wells, batch)[keep]
    kinds = {profiles.label: profiles.x, **baseline_wells(wells)}
    kinds[SHUFFLED] = np.asarray(profiles.x)[shuffled_rows(wells, seed)]
    header = ("profiles", "perturbations", "p < .05", "share", "95 %", "q < .05", "median cosine")
    lines, tables = [header], []
    for name, x in kinds.items():
        treated = np.asarray(x)[keep]
        drawn = null or None
        table = replicate_consistency(treated, names[keep].to_numpy(), where, drawn, sets, seed)
        lines.append((name, *_consistency_cells(table)))
        tables.append(table.assign(profiles=name))
    if out is not None:
        write_csv(out, pd.concat(tables, ignore_index=True))
    text = aligned(lines, right={1, 2, 3, 5, 6})
    return "\n".join([*head_lines(profiles, done), "", text, "", _null_note(batch, null, sets)])


def _batches(wells: pd.DataFrame, batch: str | None) -> np.ndarray:
    if batch is None:
        return np.full(len(wells), "all")
    if batch == "plate":
        return (wells.experiment.astype(str) + " " + wells.plate.astype(str)).to_numpy(object)
    return wells.experiment.astype(str).to_numpy(object)


def _consistency_cells(table: pd.DataFrame) -> tuple[str, ...]:
    found = (table.p < 0.05).to_numpy()
    low, high = mean_interval(found, table.perturbation)
    return (
        f"{len(table):,}",
        f"{int(found.sum()):,}",
        f"{found.mean():.3f}",
        range_text(low, high, 3),
        f"{int((table.q < 0.05).sum()):,}",
        f"{table.cosine.median():.3f}",
    )


def _null_note(batch: str | None, null: Collection[str], sets: int) -> str:
    if null:
        return f"p: against the mean cosines of the {len(null)} genes of --null-genes"
    matched = f"with as many wells of each {batch}" if batch else "from all treated wells"
    return (
        f"p: mean cosine of the replicates against {sets:,} random sets of treated wells, "
        f"{matched}; at random .05 have p < .05. q: Benjamini and Hochberg's"
    )
