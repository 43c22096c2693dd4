"""Read MitoReID's tracks and annotation: the drug of a track, the mechanism of a drug.

Tracks are folders: `l1..l3/{train,query,gallery,nc}/{drug}/{track}/` and `novel/{drug}/{track}/`,
in the root or, as `Mito.zip` unpacks, in `Mito` below it.

`annotation.xlsx` has two sheets; other columns are left alone. `FDA-list`: index (the drug's
folder), moa_id, moa_choose (1 if the drug is one of the classified ones), common_moa (the name of
its mechanism of action, MoA). `Novel-list`: index, and a name if the release has one.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import read_sheet, read_table, refuse_rows
from cellsignal.competitions.folds import TEST, labelled, make_folds
from cellsignal.competitions.mitoreid.release import ANNOTATION, find_release, libraries_in

FILE = ANNOTATION
SHEETS = {"FDA-list": ("index", "moa_id", "moa_choose", "common_moa"), "Novel-list": ("index",)}
CONTROL = "dmso"  # the solvent has a row and folders like a drug, in capitals or not
UNKNOWN = ("", "nan", "unknown")
PARTS = ("train", "query", "gallery", "nc")  # of a library
NOVEL = "novel"
ANSWER_COLUMNS = ("id", "part", "library", "drug", "moa")
FOLDS = 4
_TEST_SHARE = 4  # one drug in so many is kept for the test


# the annotation
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Annotation:
    """The annotated drugs and their mechanisms.

    Attributes:
        moas: names of the K classes, in order of moa_id. The solvent's own moa_id is none of them:
            it is the control.
        label: drug -> class number, for the chosen drugs alone.
        drugs: every drug of FDA-list but the solvent.
        novel: the compounds of Novel-list.
    """

    moas: tuple[str, ...]
    label: dict[str, int]
    drugs: frozenset[str]
    novel: frozenset[str]

    def knows(self, drug: str) -> bool:
        """Return whether either sheet has the drug, or it is the solvent."""
        return drug == CONTROL or drug in self.drugs or drug in self.novel


def read_annotation(path: Path) -> Annotation:
    """Read both sheets.

    Raises:
        InputError: no such file, not an xlsx, a missing sheet or column, a row without index, an
            index twice, a moa_choose that is neither 0 nor 1, or a chosen drug without moa_id.
            Names the file, the sheet and the row.
    """
    fda, novel = (_read_sheet(path, sheet) for sheet in SHEETS)
    name = f"{path}: sheet 'FDA-list'"
    fda["moa_id"] = fda.moa_id.map(_without_decimals)
    is_chosen = fda.moa_choose.map(_without_decimals)
    wrong = ~is_chosen.isin(["0", "1", ""])
    refuse_rows(name, fda, wrong, "moa_choose", "is neither 0 nor 1")
    is_drug = fda.drug != CONTROL
    is_chosen = (is_chosen == "1") & is_drug
    no_id = is_chosen & fda.moa_id.str.lower().isin(UNKNOWN)
    refuse_rows(name, fda, no_id, "index", "is chosen (moa_choose 1) but has no moa_id")
    chosen = fda[is_chosen]
    ids = sorted(chosen.moa_id.unique(), key=_numbers_first)
    if not ids:
        raise InputError(f"{name}: no drug is chosen (moa_choose 1); there is no class")
    number_of = {moa_id: label for label, moa_id in enumerate(ids)}
    labels = dict(zip(chosen.drug, chosen.moa_id.map(number_of), strict=True))
    drugs = frozenset(fda.drug[is_drug])
    return Annotation(_class_names(chosen, ids), labels, drugs, frozenset(novel.drug))


def drug_of(folder: str) -> str:
    """Return the drug of a folder of tracks.

    `17` and `17-2` (another well of it) are drug 17, `DMSO` is `CONTROL`.
    """
    drug = folder.partition("-")[0]
    return CONTROL if drug.lower() == CONTROL else drug


def _read_sheet(path: Path, sheet: str) -> pd.DataFrame:
    """Read a sheet as text, and add `drug`, its index with the solvent as `CONTROL`."""
    frame = read_sheet(path, sheet, SHEETS[sheet], filled=("index",))
    drug = frame["index"].map(_without_decimals)
    frame["drug"] = drug.where(drug.str.lower() != CONTROL, CONTROL)
    name = f"{path}: sheet {sheet!r}"
    refuse_rows(name, frame, frame.drug.duplicated(), "index", "occurs more than once")
    return frame


def _without_decimals(cell: str) -> str:
    """Write 17.0, as Excel keeps 17, as 17."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", cell)


def _numbers_first(moa_id: str) -> tuple[int, int, str]:
    return (0, int(moa_id), "") if moa_id.isdigit() else (1, 0, moa_id)


def _class_names(chosen: pd.DataFrame, ids: list[str]) -> tuple[str, ...]:
    """Return the first name of each MoA; add the id if the name is missing or not unique."""
    named = chosen[chosen.common_moa != ""].drop_duplicates("moa_id")
    name_of = dict(zip(named.moa_id, named.common_moa, strict=True))
    names = [name_of.get(moa_id, f"MoA {moa_id}") for moa_id in ids]
    pairs = zip(names, ids, strict=True)
    return tuple(name if names.count(name) == 1 else f"{name} ({moa_id})" for name, moa_id in pairs)


# tracks
# --------------------------------------------------------------------------------------------------


def list_tracks(root: Path) -> pd.DataFrame:
    """List every track under `root`, sorted by path; no image is opened.

    Returns:
        Columns sample_id, library (l1, l2, ... or novel), part (`PARTS` or novel), drug, path (of
        the folder, relative to root).

    Raises:
        InputError: no library, no `train`, `query` or `gallery` track in any of them, a name with
            white space (a ranking separates ids by spaces), or a folder that cannot be read.
    """
    root = Path(root)
    folder = find_release(root)
    names = _folders(folder)
    libraries = libraries_in(folder)
    if not libraries:
        raise InputError(f"{folder}: no library folder (l1, l2, l3); it has {names[:5]}")
    rows = []
    for library in libraries:
        for part in set(_folders(folder / library)) & set(PARTS):
            rows += _list_part(folder, f"{library}/{part}", library, part)
    if (folder / NOVEL).is_dir():
        rows += _list_part(folder, NOVEL, NOVEL, NOVEL)
    columns = ["sample_id", "library", "part", "drug", "path"]
    frame = pd.DataFrame(rows, columns=columns, dtype=object).sort_values("path", ignore_index=True)
    for part in ("train", "query", "gallery"):
        if part not in set(frame.part):
            first = f"first looked for in {libraries[0]}/{part}"
            raise InputError(f"{root}: no track in any library's folder {part!r}, {first}")
    if folder != root:
        frame["path"] = f"{folder.name}/" + frame.path
    spaced = frame.path[frame.sample_id.str.contains(r"\s")]
    if len(spaced):
        why = "white space in the name of a drug or track; rename the folder"
        raise InputError(f"{root / spaced.iloc[0]}: {why}")
    return frame


def _list_part(root: Path, folder: str, library: str, part: str) -> Iterator[tuple[str, ...]]:
    for drug in _folders(root / folder):
        for track in _folders(root / folder / drug):
            path = f"{folder}/{drug}/{track}"
            yield path.replace("/", "_"), library, part, drug_of(drug), path


def _folders(folder: Path) -> list[str]:
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    return sorted(name for name in names if not name.startswith("."))


def read_tracks(root: Path) -> tuple[pd.DataFrame, Annotation]:
    """Return every track, and the annotation that knows its drug."""
    path = find_release(root) / FILE
    annotation = read_annotation(path)
    tracks = list_tracks(root)
    unknown = tracks[~tracks.drug.map(annotation.knows).astype(bool)]
    if len(unknown):
        drug, track = unknown.drug.iloc[0], unknown.path.iloc[0]
        count = f"({unknown.drug.nunique()} such drugs)"
        raise InputError(f"{path}: has no row for drug {drug!r} of {track} {count}")
    return tracks, annotation


def add_labels(tracks: pd.DataFrame, annotation: Annotation) -> pd.DataFrame:
    """Return the tracks that have a class or are DMSO.

    Returns:
        Columns sample_id, library, drug, moa, label (DMSO: K).
    """
    labels = tracks.drug.map(annotation.label | {CONTROL: len(annotation.moas)})
    kept = tracks[labels.notna()].assign(label=labels.dropna().astype(int))
    names = dict(enumerate((*annotation.moas, "DMSO")))
    kept["moa"] = kept.label.map(names)
    return kept[["sample_id", "library", "drug", "moa", "label"]].reset_index(drop=True)


def part_of(samples: pd.DataFrame) -> pd.Series:
    """Return the part of each row of a samples table: train, query, gallery, nc or novel."""
    # part/drug/track/1.jpg, with a library before it unless it is novel
    return samples.files.map(lambda files: files[0].split("/")[-4]).rename("part")


# answers and folds
# --------------------------------------------------------------------------------------------------


def published_answers(root: Path) -> pd.DataFrame:
    """Return the answers that the release's folders and annotation tell: `ANSWER_COLUMNS`.

    Queries and gallery tracks of drugs without a chosen MoA are left out, and DMSO queries.
    """
    tracks, annotation = read_tracks(Path(root))
    is_query = (tracks.part == "query") & (tracks.drug != CONTROL)
    parts = {"query": is_query, "gallery": tracks.part == "gallery"}
    rows = [add_labels(tracks[rows], annotation).assign(part=name) for name, rows in parts.items()]
    answers = pd.concat(rows, ignore_index=True).rename(columns={"sample_id": "id"})
    return answers[list(ANSWER_COLUMNS)]


def read_answers(path: Path) -> pd.DataFrame:
    """Read answers as `published_answers` returns them."""
    return read_table(path, ANSWER_COLUMNS, unique="id").reset_index(drop=True)


def new_drugs(samples: pd.DataFrame) -> pd.DataFrame:
    """Make a fold table that keeps some drugs of each mechanism for the test.

    One drug in four of each mechanism (at least one, if it has two) is test, fold -2; the others
    are split into four folds, which choose the best epoch. A hash of the names decides. No network
    has trained on a test drug.
    """
    train = samples[labelled(samples)]
    drugs = train.drop_duplicates("compound")[["compound", "label"]]
    order = drugs["compound"].map(lambda drug: hashlib.sha256(str(drug).encode()).hexdigest())
    sizes = drugs.groupby("label")["compound"].transform("size")
    place = order.groupby(drugs.label).rank(method="first")
    is_kept = (sizes > 1) & (place <= np.maximum(1, (sizes / _TEST_SHARE).round()))
    is_tested = train["compound"].isin(drugs["compound"][is_kept])
    groups = train[is_tested].groupby("compound", sort=True)
    tested = pd.DataFrame(
        {
            "fold": TEST,
            "compound": list(groups.groups),
            "cell_type": groups.cell_type.first().to_numpy(),
            "label": groups.label.first().astype(str).to_numpy(),
            "n": groups.size().to_numpy(),
        }
    )
    return pd.concat([tested, make_folds(train[~is_tested], "compound", FOLDS)], ignore_index=True)
