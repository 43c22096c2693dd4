"""Read tables of known relations: of genes to each other, and of compounds to genes.

A relation table has two columns of names, such as EFAAR's CORUM.txt (entity1, entity2). None comes
with this package: the publishers' licences differ (SIGNOR's forbids commercial use).
"""

import difflib
import importlib.util
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_table
from cellsignal.common.ties import listed
from cellsignal.profiles.names import EFAAR

PAIRS = (("entity1", "entity2"), ("gene1", "gene2"), ("source", "target"), ("a", "b"))
SUFFIXES = (".txt", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
COMPOUND_COLUMNS = {
    "compound": ("treatment", "compound"),
    "gene": ("gene_symbol", "gene", "target"),
    "nm": ("nM_value", "nM", "nanomolar"),
}


@dataclass(frozen=True)
class RelationTable:
    """Known relations of one source.

    Attributes:
        name: of the source, its file's name without the suffix.
        pairs: M pairs of names, each sorted, none twice, none of a name with itself.
        rows: how many rows the file has.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    rows: int

    def among(self, genes: Sequence[str]) -> np.ndarray:
        """Return (M, 2) int: the pairs whose genes are both among these, as their positions."""
        place = {gene: number for number, gene in enumerate(genes)}
        rows = [(place[a], place[b]) for a, b in self.pairs if a in place and b in place]
        return np.array(rows, np.int64).reshape(-1, 2)


def read_relations(sources: Sequence[str]) -> list[RelationTable]:
    """Read tables of relations.

    Args:
        sources: files, folders (all tables in them that have two columns of names), or "efaar" for
            the tables of the installed package efaar_benchmarking.

    Raises:
        InputError: no such file, no table in a folder, a row without a name, two sources of one
            name, or the package is missing.
    """
    tables: list[RelationTable] = []
    for source in sources:
        if source == EFAAR:
            tables += _read_folder(_efaar_folder())
        elif Path(source).is_dir():
            tables += _read_folder(Path(source))
        else:
            tables.append(_read_file(Path(source)))
    names = [table.name for table in tables]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise InputError(f"--relations: two tables are called {min(doubled)!r}; rename one")
    return tables


def read_interactions(path: Path) -> pd.DataFrame:
    """Read which genes each compound acts on: columns compound, gene, nm (float).

    Raises:
        InputError: a column is missing (named), an empty cell, or a concentration that is no
            positive number.
    """
    table = read_table(path, delimiter=_delimiter(path), any_row=True)
    names = {}
    for meaning, usual in COMPOUND_COLUMNS.items():
        column = next((name for name in usual if name in table), None)
        if column is None:
            raise InputError(
                f"{path}: no column of the {meaning}, one of {', '.join(usual)}; it has "
                f"{listed(table.columns, 8)}"
            )
        names[column] = meaning
    table = read_table(path, list(names), delimiter=_delimiter(path))[list(names)]
    table = table.rename(columns=names)
    amount = pd.to_numeric(table.nm, errors="coerce").astype(float)
    wrong = ~(np.isfinite(amount) & (amount > 0))
    if wrong.any():
        row = table.index[wrong][0]
        raise InputError(f"{path}: row {row}: {table.nm[row]!r} is not a concentration in nM")
    return table.assign(nm=amount)


def read_genes(words: Sequence[str], option: str, genes: Collection[str]) -> set[str]:
    """Return genes that are given one by one, or in files with a name on each line.

    Args:
        genes: of the profiles. A file may name others too; they are left out.

    Raises:
        InputError: a word that is neither a gene nor a file (the nearest genes are named), or a
            file that is not text or names none of the genes.
    """
    genes, chosen = set(genes), set()
    for word in words:
        if Path(word).is_file():
            names = _read_names(Path(word), option)
            refuse_unknown(names, genes, option)
            chosen |= names & genes
        elif word in genes:
            chosen.add(word)
        else:
            near = difflib.get_close_matches(word, genes, 3, cutoff=0.6)
            hint = f"; the nearest are {', '.join(near)}" if near else ""
            raise InputError(
                f"{option} {word}: is neither a gene of the profiles nor a file of genes{hint}"
            )
    return chosen


def _read_names(path: Path, option: str) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{option} {path}: is not a text file with a name a line") from None
    names = {line.strip() for line in lines if line.strip()}
    if not names:
        raise InputError(f"{option} {path}: holds no name")
    return names


def refuse_unknown(names: Collection[str], genes: Collection[str], option: str) -> None:
    """Refuse names of which none is a gene of the profiles."""
    if names and not set(names) & set(genes):
        raise InputError(f"{option}: none of {listed(sorted(names))} is a gene of the profiles")


def _read_folder(folder: Path) -> list[RelationTable]:
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    tables = [_read_file(path) for path in paths if _pair_columns(_header(path)) is not None]
    if not tables:
        raise InputError(f"{folder}: no {' or '.join(SUFFIXES[:3])} with the columns {_wanted()}")
    return tables


def _read_file(path: Path) -> RelationTable:
    header = _header(path)
    columns = _pair_columns(header)
    if columns is None:
        raise InputError(f"{path}: no two columns {_wanted()}; it has {listed(header, 8)}")
    table = read_table(path, columns, delimiter=_delimiter(path), any_row=True)
    named = zip(table[columns[0]], table[columns[1]], strict=True)
    pairs = dict.fromkeys((min(a, b), max(a, b)) for a, b in named if a != b)
    return RelationTable(path.name.split(".")[0], tuple(pairs), len(table))


def _header(path: Path) -> list[str]:
    return list(read_table(path, delimiter=_delimiter(path), rows=1).columns)


def _pair_columns(header: Sequence[str]) -> tuple[str, str] | None:
    """The two columns of names; None where the table has none of `PAIRS`."""
    lower = {name.lower(): name for name in header}
    for first, second in PAIRS:
        if first in lower and second in lower:
            return lower[first], lower[second]
    return None


def _wanted() -> str:
    return " or ".join(f"{first}, {second}" for first, second in PAIRS)


def _delimiter(path: Path) -> str | None:
    return "," if path.suffix == ".txt" else None


def _efaar_folder() -> Path:
    """The folder of the package's tables, found without importing it and what it needs."""
    spec = importlib.util.find_spec("efaar_benchmarking")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "--relations efaar: the package is not installed; its tables alone need nothing else: "
            "pip install --no-deps efaar-benchmarking"
        )
    return Path(spec.submodule_search_locations[0]) / "benchmark_annotations"
