"""`annotation.xlsx` of MitoReID: which drug has which mechanism of action (MoA), and the names of
the compounds without one.

Sheet `FDA-list`: index (the drug's folder), moa_id, moa_choose (1 where the drug is one of the
classified ones), common_moa (the MoA's name). Sheet `Novel-list`: index, and a name where the
release has one. Other columns are left alone.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_sheet, refuse_rows

FILE = "annotation.xlsx"
SHEETS = {"FDA-list": ("index", "moa_id", "moa_choose", "common_moa"), "Novel-list": ("index",)}
CONTROL = "dmso"  # the solvent has a row and folders like a drug, in any case of letters
UNKNOWN = ("", "nan", "unknown")


@dataclass(frozen=True)
class Annotation:
    """What is known of the drugs.

    Attributes:
        moas: names of the K classes, in order of moa_id. The solvent's own moa_id is none of them:
        it is the control. label: drug -> class number, for the chosen drugs alone. drugs: every
        drug of FDA-list but the solvent. novel: compound of Novel-list -> its name (the index where
        it has none).
    """

    moas: tuple[str, ...]
    label: dict[str, int]
    drugs: frozenset[str]
    novel: dict[str, str]

    def knows(self, drug: str) -> bool:
        """Whether either sheet has the drug, or it is the solvent."""
        return drug == CONTROL or drug in self.drugs or drug in self.novel


def read_annotation(path: Path) -> Annotation:
    """Read both sheets.

    Raises:
        InputError: no such file, not an xlsx, a sheet or column that is missing, a row without
        index, an index twice, a moa_choose
            that is neither 0 nor 1, or a chosen drug without moa_id. Names the file, the sheet and
            the row.
    """
    fda, novel = (_read_sheet(path, sheet) for sheet in SHEETS)
    fda["moa_id"] = fda.moa_id.map(_whole)
    chosen = fda.moa_choose.map(_whole)
    name = f"{path}: sheet 'FDA-list'"
    refuse_rows(name, fda, ~chosen.isin(["0", "1", ""]), "moa_choose", "is neither 0 nor 1")
    treated = fda.drug != CONTROL
    picked = (chosen == "1") & treated
    nameless = picked & fda.moa_id.str.lower().isin(UNKNOWN)
    refuse_rows(name, fda, nameless, "index", "is chosen (moa_choose 1) but has no moa_id")
    ids = sorted(fda.moa_id[picked].unique(), key=_number_first)
    if not ids:
        raise InputError(
            f"{path}: sheet 'FDA-list': no drug is chosen (moa_choose 1); there is no class"
        )
    number = {moa_id: label for label, moa_id in enumerate(ids)}
    names = novel["name"] if "name" in novel.columns else novel.drug
    return Annotation(
        _names(fda[picked], ids),
        {
            drug: number[moa_id]
            for drug, moa_id in zip(fda.drug[picked], fda.moa_id[picked], strict=True)
        },
        frozenset(fda.drug[treated]),
        {drug: name or drug for drug, name in zip(novel.drug, names, strict=True)},
    )


def drug_of(folder: str) -> str:
    """The drug of a folder of tracks: `17` and `17-2` (another well of it) are drug 17, `DMSO` is
    `CONTROL`.
    """
    drug = folder.partition("-")[0]
    return CONTROL if drug.lower() == CONTROL else drug


def _read_sheet(path: Path, sheet: str) -> pd.DataFrame:
    """A sheet with all cells as stripped text, and `drug`, its index as `drug_of` writes it."""
    frame = read_sheet(path, sheet, SHEETS[sheet], filled=("index",))
    frame["drug"] = (
        frame["index"].map(_whole).map(lambda name: CONTROL if name.lower() == CONTROL else name)
    )
    refuse_rows(
        f"{path}: sheet {sheet!r}", frame, frame.drug.duplicated(), "index", "occurs more than once"
    )
    return frame


def _whole(cell: str) -> str:
    """Excel keeps 17 as 17.0."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", cell)


def _number_first(moa_id: str) -> tuple[int, int, str]:
    return (0, int(moa_id), "") if moa_id.isdigit() else (1, 0, moa_id)


def _names(chosen: pd.DataFrame, ids: list[str]) -> tuple[str, ...]:
    """The first name that each MoA has; its id where it has none, and beside it where two have the
    same.
    """
    first = chosen[chosen.common_moa != ""].drop_duplicates("moa_id").set_index("moa_id").common_moa
    names = [str(first.get(moa_id, f"MoA {moa_id}")) for moa_id in ids]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({moa_id})"
        for name, moa_id in zip(names, ids, strict=True)
    )
