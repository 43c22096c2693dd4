"""idr0088 as competitions: folds of compounds, what images.csv must hold, images, treatments."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions.folds import balance, balance_table
from cellsignal.competitions.idr0088 import Idr0088Gpcr, Idr0088Moa
from cellsignal.competitions.idr0088.__main__ import main
from cellsignal.competitions.idr0088.images import read_images
from cellsignal.competitions.idr0088.metadata import FILE, find_annotation, read_annotation
from cellsignal.competitions.idr0088.moa import deal_compounds
from cellsignal.images import read_png8

SMALL = {
    "lines": 2,
    "compounds_per_moa": 3,
    "test_compounds_per_moa": 1,
    "doses": 2,
    "replicates": 1,
    "batches": 1,
    "controls": 2,
    "size": 16,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("idr0088") / "idr0088_moa"
    Idr0088Moa().simulate(root, 0, **SMALL)
    return root


@pytest.fixture
def copy(root, tmp_path):
    """The tables of the simulated copy, to be spoilt."""
    for name in (FILE, "images.csv"):
        shutil.copy(root / name, tmp_path / name)
    return tmp_path


# folds
# --------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.frozensets(st.integers(0, 3), max_size=3)),
        min_size=8,
        max_size=40,
    ),
    st.integers(2, 4),
)
def test_compounds_and_their_stereoisomers_stay_whole(drawn, n_splits):
    table = pd.DataFrame(
        {
            "compound": [
                f"{skeleton:014d}-{number:08d}SA-N" for number, (skeleton, _) in enumerate(drawn)
            ],
            "labels": [tuple(sorted(labels)) for _, labels in drawn],
            "n": range(1, len(drawn) + 1),
        }
    )
    if len({skeleton for skeleton, _ in drawn}) < n_splits:
        with pytest.raises(InputError, match="cannot be dealt"):
            deal_compounds(table, 4, n_splits)
        return
    made = deal_compounds(table, 4, n_splits)
    assert sorted(made["compound"]) == sorted(table["compound"]) and set(made.fold) == set(
        range(n_splits)
    )
    assert (made.groupby(made["compound"].str[:14]).fold.nunique() == 1).all()
    labels = table.set_index("compound")["labels"]
    assert all(
        text == "+".join(map(str, labels[name]))
        for name, text in zip(made["compound"], made.label, strict=True)
    )


def test_every_class_is_spread():
    """As many compounds of each of ten classes as folds allow; at random a fold would often lack
    one.
    """
    labels = [(i % 10,) if i % 3 else (i % 10, (i + 1) % 10) for i in range(100)]
    table = pd.DataFrame(
        {
            "compound": [f"{i:014d}-X" for i in range(100)],
            "labels": [tuple(sorted(x)) for x in labels],
            "n": 1,
        }
    )
    made = deal_compounds(table, 10, 5)
    assert made.equals(deal_compounds(table.sample(frac=1, random_state=1), 10, 5)), (
        "whatever the order of the rows"
    )
    found = balance(made, [f"c{i}" for i in range(10)])
    spread = found.groupby("class").positives.agg(["min", "max"])
    assert (spread["max"] - spread["min"] <= 1).all() and found.compounds.between(19, 21).all()


def test_balance_by_hand():
    table = pd.DataFrame(
        {
            "fold": ["0", "0", "1"],
            "compound": list("abc"),
            "label": ["0+1", "", "1"],
            "n": ["5", "7", "2"],
        }
    )
    assert balance(table, ("x", "y")).to_numpy().tolist() == [
        [0, "x", 1, 2, 0.5, 5, 12],
        [0, "y", 1, 2, 0.5, 5, 12],
        [1, "x", 0, 1, 0.0, 0, 2],
        [1, "y", 1, 1, 1.0, 2, 2],
    ]
    lines = [line.split() for line in balance_table(table, ("x", "y")).splitlines()]
    assert lines[1] == ["x", "1", "0", "1", "0.3333", "0.0000", "to", "0.5000"]
    assert lines[3:] == [["(compounds)", "2", "1", "3"], ["(wells)", "12", "2", "14"]]


def test_folds_from_samples_and_from_the_annotation_agree(root, tmp_path, capsys):
    competition = Idr0088Moa()
    made = competition.named_folds("compound", competition.samples(root))
    assert (
        main(
            [
                "idr0088_moa",
                "--annotation",
                str(find_annotation(root)),
                "--out",
                str(tmp_path / "folds.csv"),
            ]
        )
        == 0
    )
    written = pd.read_csv(tmp_path / "folds.csv", keep_default_na=False)
    assert (
        written[["fold", "compound", "label", "n"]].astype(str).equals(made.astype(str))
        and "CMPD" not in written.columns
    )
    assert "(compounds)" in capsys.readouterr().out and competition.task.folds_text(
        made, competition.classes(root)
    ).startswith(" ")
    with pytest.raises(InputError, match="'cell'"):
        competition.named_folds("cell", competition.samples(root))
    assert (
        main(
            [
                "idr0088_gpcr",
                "--annotation",
                str(tmp_path / "none.zip"),
                "--out",
                str(tmp_path / "x.csv"),
            ]
        )
        == 2
    )
    assert re.fullmatch(r"error: .*none\.zip: no such file\n", capsys.readouterr().err)


# samples
# --------------------------------------------------------------------------------------------------


def test_labels_come_from_the_compound_not_from_the_row(root):
    """The salt's MoA is blank in its own rows; its compound has one."""
    competition, table = Idr0088Moa(), read_annotation(find_annotation(root))
    salt = table[table.name.astype(str).str.endswith("hydrochloride")]
    assert len(salt) == 4 and (salt.moa == "").all()
    samples = competition.samples(root)
    mine = samples[samples.well_id.isin(salt.plate.astype(str) + "_" + salt.well.astype(str))]
    index = competition.classes(root).index("Beta-adrenergic receptor agonist")
    assert mine["labels"].tolist() == [(index,)] * 4 and (mine.split == "train").all()


def test_the_two_tasks_see_the_same_wells(root):
    gpcr, moa = Idr0088Gpcr().samples(root), Idr0088Moa().samples(root)
    pd.testing.assert_frame_equal(gpcr.drop(columns="labels"), moa.drop(columns="labels"))
    names = Idr0088Moa().classes(root)
    agonists = {
        i
        for i, name in enumerate(names)
        if name in ("Beta-adrenergic receptor agonist", "Cannabinoid receptor agonist")
    }
    known = moa["labels"].notna()
    assert gpcr["labels"].notna().equals(known)
    assert gpcr["labels"][known].map(bool).tolist() == [
        bool(agonists & set(labels)) for labels in moa["labels"][known]
    ]


def test_treatments_are_those_of_the_samples(root):
    samples, found = Idr0088Moa().samples(root), Idr0088Moa().treatments(root)
    assert set(found.treatment) == set(samples.treatment.dropna()) and found.treatment.is_unique
    assert found[found.role == "negative_control"].treatment.tolist() == ["DMSO"]
    assert found.moa.str.count("; ").max() == 1 and set(found.modality) == {"compound"}


SPOILT = {
    "field": (2, "field", "0", "is not a number from 1"),
    "file": (3, "file_ch2", "../../x.png", "lies outside the root"),
    "absolute": (3, "file_ch2", "/x.png", "lies outside the root"),
    "empty": (4, "file_ch3", "", "is empty"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_wrong_row_of_images_is_named(copy, what):
    row, column, value, message = SPOILT[what]
    frame = pd.read_csv(copy / "images.csv", dtype=str)
    frame.loc[row, column] = value
    frame.to_csv(copy / "images.csv", index=False)
    with pytest.raises(InputError, match=rf"images\.csv: row {row + 2}: {column} .*{message}"):
        read_images(copy / "images.csv")


def test_images_of_no_well_doubled_or_missing_are_refused(copy):
    path = copy / "images.csv"
    frame = pd.read_csv(path, dtype=str)
    frame.assign(well=["P24", *frame.well[1:]]).to_csv(path, index=False)
    with pytest.raises(
        InputError,
        match=r"images\.csv: row 2: well 'P24' of its plate is not in idr0088.*its plate is '\d+'",
    ):
        Idr0088Gpcr().samples(copy)
    pd.concat([frame, frame.head(1)]).to_csv(path, index=False)
    with pytest.raises(InputError, match=rf"row {len(frame) + 2}: field .* stands there twice"):
        read_images(path)
    frame.drop(columns="image_id").to_csv(path, index=False)
    with pytest.raises(InputError, match="no column 'image_id'"):
        read_images(path)
    path.unlink()
    with pytest.raises(InputError, match=r"images\.csv: no such file"):
        Idr0088Gpcr().samples(copy)


def test_channels_are_stacked_and_held_to_one_size(root, tmp_path):
    competition = Idr0088Gpcr()
    files = competition.samples(root).files[0]
    image = competition.read(root, files)
    assert image.shape == (3, 16, 16) and image.dtype == np.uint8
    assert all(
        np.array_equal(plane, read_png8(root / name))
        for plane, name in zip(image, files, strict=True)
    )
    with pytest.raises(ImageError, match="16x16 pixels, 20x16 expected"):
        competition.read(root, files, (16, 20))
