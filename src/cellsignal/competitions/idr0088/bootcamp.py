"""Read the bootcamp project's folder: rendered pictures by image id, and a CSV of their drugs.

1. `df_image_MoA.csv`: a column without a name (the row's number), Image (IDR's image id), Drug,
   Compound MoA (a hand-made group, empty where none is known) and Compound Name. An image with two
   groups has two rows.
2. `raw_images/<image id>.png`: what IDR's `render_image` returned. That is a JPEG, whatever the
   ending says; PNGs are read, too. Red, green and blue show the channels 3, 2 and 1.

Neither tells plate, well, reporter line or dose. So each image stands for a well of its own, and
only folds by compound, here the drug's name, are honest: a drug's images share wells and plates.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import parse_integers, read_table, refuse_rows
from cellsignal.competitions.idr0088.moa import MIN_COMPOUNDS, Classes, labels_of
from cellsignal.competitions.sample_files import origins
from cellsignal.images import JPEG, PNG, decode_image, read_bytes

TABLE, FOLDER = "df_image_MoA.csv", "raw_images"
CONTROL = "DMSO"
CELL_TYPE = "unknown line"
# two of the 33 groups are misspelt twins of others
SPELLING = {
    "Chanel blocker": "Channel blocker",
    "Degradation inihibitor": "Degradation inhibitor",
}
_COLUMNS = ("Image", "Drug", "Compound MoA")
_FILE = re.compile(rf"(?:^|/){FOLDER}/(\d+)\.png$")


def is_bootcamp(root: Path | str) -> bool:
    """Return whether the root has the project's table and not the list that `download` writes."""
    root = Path(root)
    return (root / TABLE).is_file() and not (root / "images.csv").is_file()


def read_drugs(root: Path | str) -> pd.DataFrame:
    """Return one row an image: image (text), drug, moa (tuple of groups, None), control, origin.

    Raises:
        InputError: no such folder, a missing column, an empty cell, an image that is no number or
        has two drugs, a drug that has other groups in another row, or a control with one. Names
        the row.
    """
    root = Path(root)
    path = root / TABLE
    if not (root / FOLDER).is_dir():
        raise InputError(f"{root / FOLDER}: no such folder; {TABLE} names its pictures")
    table = read_table(path, _COLUMNS, filled=("Image", "Drug"), any_row=True)
    image = parse_integers(path, table, "Image", low=1)
    two_drugs = table.Drug != table.groupby(image).Drug.transform("first")
    refuse_rows(path, table, two_drugs, "Drug", "is another than that image has in an earlier row")
    group = table["Compound MoA"].replace(["nan", "NaN"], "").replace(SPELLING)
    control = table.Drug.str.upper() == CONTROL
    refuse_rows(path, table, control & (group != ""), "Compound MoA", "is given for the control")
    groups = group.groupby(image, sort=False).agg(lambda cells: tuple(sorted(set(cells) - {""})))
    first = ~image.duplicated()
    moa = image[first].map(groups)
    differs = moa != moa.groupby(table.Drug[first]).transform("first")
    refuse_rows(path, table[first], differs, "Compound MoA", "differs in other rows of its drug")
    return pd.DataFrame(
        {
            "image": image[first].astype(str),
            "drug": table.Drug[first].where(~control[first], CONTROL),
            "moa": moa.map(lambda names: names or None),
            "control": control[first],
            "origin": origins(TABLE, table[first]),
        }
    ).reset_index(drop=True)


def label_drugs(root: Path | str, asked: str | None) -> tuple[pd.DataFrame, pd.DataFrame, Classes]:
    """Return `read_drugs`, its compounds with labels, and the classes.

    Args:
        asked: the one group that is the class; None takes each that `MIN_COMPOUNDS` drugs have.

    Returns:
        The images; the compounds: columns compound, moa, labels (None if no group is known) and n
        (images); {class: its groups}.

    Raises:
        InputError: as `read_drugs`, or no drug has the class.
    """
    images = read_drugs(root)
    treated = images[~images.control]
    drugs = treated.groupby("drug", sort=True)
    compounds = drugs.moa.first().rename_axis("compound").reset_index()
    compounds["moa"] = compounds.moa.astype(object).where(compounds.moa.notna(), None)
    compounds["n"] = drugs.size().to_numpy()
    counts = Counter(name for names in compounds.moa if names for name in names)
    frequent = sorted(name for name, n in counts.items() if n >= MIN_COMPOUNDS)
    names = frequent if asked is None else [asked]
    if not names or (asked is not None and not counts[asked]):
        what = f"Compound MoA {asked!r}" if asked else f"a MoA that {MIN_COMPOUNDS} drugs have"
        raise InputError(f"{Path(root) / TABLE}: no drug with {what}; there is no class")
    classes = {name: frozenset([name]) for name in names}
    labels = [labels_of(moa, classes) for moa in compounds.moa]
    return images, compounds.assign(labels=pd.Series(labels, dtype=object)), classes


def make_samples(root: Path | str, asked: str | None) -> pd.DataFrame:
    """Return the frame for `check_samples`: one row an image.

    Drugs without a group are the test; they are never negatives.
    """
    images, compounds, _ = label_drugs(root, asked)
    labels = images.drug.map(compounds.set_index("compound")["labels"])
    is_shown = labels.notna() | images.control
    compound = images.drug.astype(object).where(is_shown, None)
    return pd.DataFrame(
        {
            "sample_id": images.image,
            "target_id": images.image,
            "well_id": images.image,
            "experiment": FOLDER,
            "plate": FOLDER,
            "well": images.image,
            "site": 1,
            "cell_type": CELL_TYPE,
            "label": None,
            "labels": labels.where(labels.notna(), None),
            "role": np.where(images.control, "negative_control", "treatment"),
            "compound": compound,
            "treatment": compound,
            "split": np.where(is_shown, "train", "test"),
            "files": [(f"{FOLDER}/{image}.png",) for image in images.image],
            "origin": images.origin,
        }
    )


def stated(name: str) -> dict[str, str]:
    """Return the image id of `raw_images/11340528.png` as the well; see `Competition.stated`."""
    match = _FILE.search(name)
    return {} if match is None else {"well": match[1]}


def read_picture(path: Path, shape: tuple[int, int] | None) -> np.ndarray:
    """Read a rendered picture, (3, H, W) uint8: channels 1, 2 and 3 are blue, green and red."""
    picture = decode_image(path, read_bytes(path), channels=(3,), shape=shape, formats=(PNG, JPEG))
    return np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1))
