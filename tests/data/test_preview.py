"""Counts of a samples table, against a table that is counted by hand."""

import pandas as pd
import pytest

from cellsignal.competitions import get_competition
from cellsignal.data.preview import MONTAGE, SHOWN, montage_images, preview_text

COLUMNS = ["experiment", "plate", "well", "site", "cell_type", "role", "split", "label"]
SINGLE = "labels have one well and can't be validated, first"


def table(rows) -> pd.DataFrame:
    """A samples table of (experiment, plate, well, site, cell type, role, split, label)."""
    samples = pd.DataFrame(rows, columns=COLUMNS)
    return samples.assign(
        labels=None, well_id=samples.experiment + "_" + samples.plate + "_" + samples.well
    )


def test_wells_are_counted_by_plate_role_and_label():
    text = preview_text(
        table(
            [
                ("e1", "p1", "A01", 1, "HUVEC", "treatment", "train", 0),
                ("e1", "p1", "A01", 2, "HUVEC", "treatment", "train", 0),
                ("e1", "p1", "A02", 1, "HUVEC", "treatment", "train", 0),
                ("e1", "p1", "A03", 1, "HUVEC", "treatment", "train", 1),
                ("e1", "p1", "A04", 1, "HUVEC", "positive_control", "train", 2),
                ("e1", "p2", "A01", 1, "HUVEC", "negative_control", "train", None),
                ("e2", "p1", "A01", 1, "RPE", "treatment", "test", None),
                ("e2", "p1", "A02", 1, "RPE", "treatment", "test", None),
                ("e2", "p1", "A03", 1, "RPE", "positive_control", "test", 2),
            ]
        ),
        ["red", "blue", "green"],
        [("no platemap row", "e1/B01"), ("no platemap row", "e1/B02"), ("empty", "x.tif")],
        ["gone.png"],
    )
    lines = text.splitlines()
    assert lines[0] == "9 sites of 8 wells on 3 plates, 2 batches, 2 cell types"
    names = ["experiment", "plate", "wells", "sites"]
    names += ["treatment", "positive_control", "negative_control", "test"]
    assert lines[2].split() == names
    assert [line.split() for line in lines[3:6]] == [
        ["e1", "p1", "4", "5", "3", "1", "0", "0"],
        ["e1", "p2", "1", "1", "0", "0", "1", "0"],
        ["e2", "p1", "3", "3", "0", "0", "0", "2"],
    ]
    # green is a control's label alone: it is no label that is asked for
    assert lines[6:] == [
        "",
        "3 labels, 1 to 2 wells each:",
        "  red: 2",
        "  blue: 1",
        f"  1 of 2 {SINGLE} blue",
        "",
        "left out: ",
        "  2: no platemap row; first e1/B01",
        "  1: empty; first x.tif",
        "rows without images: 1; first gone.png",
    ]


def test_long_tables_are_cut_and_say_so():
    def text(count):
        rows = [
            ("e1", f"p{n:02d}", "A01", 1, "HUVEC", "treatment", "train", n) for n in range(count)
        ]
        return preview_text(table(rows), [f"label {n}" for n in range(count)], [], [])

    whole, cut = text(SHOWN), text(SHOWN + 2)
    assert "more" not in whole and "..." not in whole and f"label {SHOWN - 1}: 1" in whole
    assert "... and 2 plates more" in cut and "\n  ...\n" in cut
    assert f"p{SHOWN - 1:02d}" in cut and f"p{SHOWN:02d}" not in cut
    assert f"label {SHOWN}: 1" not in cut and cut.endswith("left out: nothing")


def test_a_table_without_labels_lists_none():
    text = preview_text(
        table([("e1", "p1", "A01", 1, "HUVEC", "treatment", "test", None)]), ["red"], [], []
    )
    assert "labels" not in text


@pytest.mark.parametrize("name", ["plates", "plates_multi_label", "rxrx1"])
def test_the_picture_shows_different_labels_and_a_control(simulated, name):
    """Each row says what its well got; a label is shown once."""
    competition, root = get_competition(name), simulated(name)
    samples = competition.samples(root)
    images = montage_images(competition, root, samples)
    treated = samples[(samples.role == "treatment") & (samples.split == "train")]
    classes, wells = competition.classes(root), {}
    for row in treated.drop_duplicates("well_id").itertuples():
        wells.setdefault(f"{row.plate} {row.well}", set()).add(_name(row, classes))
    *shown, last = images
    assert last.startswith("control,\n")
    given = set()
    for title in shown:
        what, place = title.split(",\n")
        (name_given,) = [label for label in wells[place] if what.split(", ")[0] == label]
        given.add(name_given)
    assert len(given) == len(shown) == min(MONTAGE, len(set().union(*wells.values())))
    if name == "plates":
        compounds = treated.set_index(treated.plate + " " + treated.well)["compound"]
        assert all(compounds[t.split(",\n")[1]] in t.split(",\n")[0].split(", ") for t in shown)


def _name(row, classes):
    if isinstance(row.labels, tuple):
        return " | ".join(classes[label] for label in row.labels) or "no label"
    return classes[row.label]
