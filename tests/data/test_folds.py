"""Folds never split a group, and a fold table that would lie is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import PlateGroups
from cellsignal.competitions.folds import NEVER, TEST, make_folds
from cellsignal.competitions.rxrx1.splits import (
    SIX_FOLD_COUNTS,
    deal_experiments,
    first_place_folds,
)
from cellsignal.data.folds import read_folds

FOLDS = Path(__file__).resolve().parents[2] / "folds"


def samples_of(experiments, classes=4, compound=None):
    """Each experiment holds every class once, two sites; a test experiment and controls are there
    too.
    """
    rows = []
    for experiment, split in [*((e, "train") for e in experiments), ("TEST-99", "test")]:
        for label in range(classes + 1):
            role = "treatment" if label < classes else "negative_control"
            shown = None if split == "test" and role == "treatment" else label
            for site in (1, 2):
                well = f"{experiment}_1_C{label + 3:02d}"
                cell_type = experiment.split("-")[0]
                rows.append(
                    (f"{well}_s{site}", well, well, experiment, "1", cell_type, shown, role, split)
                )
    columns = [
        "sample_id",
        "target_id",
        "well_id",
        "experiment",
        "plate",
        "cell_type",
        "label",
        "role",
        "split",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(label=frame.label.astype("Int64"), compound="c" + frame.label.astype(str))


def compounds_of(sizes, seed=0):
    """Samples of one class a compound: `sizes[k]` compounds in class k, some wells each."""
    rng = np.random.default_rng(seed)
    rows = []
    for label, number in enumerate(sizes):
        for index in range(number):
            for well in range(rng.integers(1, 4)):
                rows.append((f"m{label}_{index}", label, f"w{label}_{index}_{well}"))
    frame = pd.DataFrame(rows, columns=["compound", "label", "well_id"])
    return frame.assign(
        sample_id=frame.well_id,
        target_id=frame.well_id,
        experiment="P1",
        plate="P1",
        cell_type="MCF7",
        role="treatment",
        split="train",
        label=frame.label.astype("Int64"),
    )


def write(path, table):
    table.to_csv(path, index=False)
    return path


EIGHT = [f"A-{i:02d}" for i in range(1, 6)] + [f"B-{i:02d}" for i in range(1, 4)]


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    n_splits=st.integers(2, 5),
    seed=st.integers(0, 9999),
)
def test_experiments_are_never_split_and_all_are_dealt(tmp_path_factory, sizes, n_splits, seed):
    experiments = [f"T{t}-{i:02d}" for t, n in enumerate(sizes) for i in range(n)]
    samples = samples_of(experiments)
    if len(experiments) < n_splits:
        with pytest.raises(InputError, match="too few"):
            make_folds(samples, "experiment", n_splits, seed)
        return
    made = make_folds(samples, "experiment", n_splits, seed)
    pd.testing.assert_frame_equal(made, make_folds(samples, "experiment", n_splits, seed))
    assert sorted(made.experiment) == sorted(experiments) and set(made.fold) == set(range(n_splits))
    table = read_folds(write(tmp_path_factory.mktemp("f") / "f.csv", made), samples)
    held = np.zeros(len(samples), int)
    everything = table.training(samples, None)
    assert everything.sum() == 8 * len(experiments)
    for fold in table.folds:
        validation, training = table.validation(samples, fold), table.training(samples, fold)
        assert not (validation & training).any()
        assert ((validation | training) == everything).all()
        assert not set(samples.experiment[validation]) & set(samples.experiment[training])
        held += validation
    assert (held == everything).all()


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 8), min_size=2, max_size=6),
    n_splits=st.integers(2, 4),
    seed=st.integers(0, 9999),
)
def test_compounds_are_never_split_and_single_ones_stay_in_training(
    tmp_path_factory, sizes, n_splits, seed
):
    samples = compounds_of(sizes, seed)
    if sum(n for n in sizes if n > 1) < n_splits:
        with pytest.raises(InputError, match="too few"):
            make_folds(samples, "compound", n_splits, seed)
        return
    made = make_folds(samples, "compound", n_splits, seed)
    assert set(made.compound[made.fold == NEVER]) == {
        f"m{k}_0" for k, n in enumerate(sizes) if n == 1
    }
    table = read_folds(write(tmp_path_factory.mktemp("f") / "f.csv", made), samples)
    for fold in table.folds:
        validation, training = table.validation(samples, fold), table.training(samples, fold)
        assert not set(samples.compound[validation]) & set(samples.compound[training])
        assert set(samples.label[validation]) <= set(samples.label)
    never = samples.compound.isin(made.compound[made.fold == NEVER]).to_numpy()
    assert all(table.training(samples, fold)[never].all() for fold in table.folds)


def test_a_single_compound_class_is_logged_by_name(caplog):
    with caplog.at_level("INFO"):
        make_folds(compounds_of([3, 1, 4]), "compound", 3)
    assert [r.message for r in caplog.records] == [
        "folds: class 1 has one compound, m1_0: it is never held out (fold -1)"
    ]


def test_cell_types_and_assignments_are_spread_evenly():
    experiments = [f"{t}-{i:02d}" for t, n in (("A", 10), ("B", 5), ("C", 3)) for i in range(n)]
    groups = PlateGroups(np.zeros(4, int), {(e, "1"): i % 2 for i, e in enumerate(experiments)})
    for seed in range(5):
        made = make_folds(samples_of(experiments), "experiment", 5, seed, groups)
        counts = pd.crosstab(made.cell_type, made.fold)
        assert counts.loc["A"].tolist() == [2] * 5 and counts.loc["B"].tolist() == [1] * 5
        assert set(counts.loc["C"]) == {0, 1}
        assert np.ptp(pd.crosstab(made.assignment, made.fold).to_numpy(), axis=1).max() <= 1
        assert made.n.tolist() == [4] * 18


def test_wells_are_spread_by_class():
    samples = compounds_of([30, 30, 30])
    made = make_folds(samples, "well_id", 4, 1)
    counts = pd.crosstab(made.label, made.fold).to_numpy()
    assert np.ptp(counts, axis=1).max() <= 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("batch", 2), "'batch' is not a samples column"),
        (("experiment", 1), "at least 2"),
        (("experiment", 9), "too few"),
    ],
)
def test_make_folds_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        make_folds(samples_of(EIGHT), *arguments)


def test_make_folds_refuses_a_sample_without_a_group():
    samples = compounds_of([3, 3])
    samples.loc[2, "compound"] = None
    with pytest.raises(InputError, match="has no compound"):
        make_folds(samples, "compound", 2)


@pytest.fixture
def table(tmp_path):
    samples = samples_of(EIGHT)
    made = make_folds(samples, "experiment", 2)
    return samples, made, tmp_path / "folds.csv"


DAMAGE = [
    (lambda f: f.rename(columns={"fold": "split"}), r"first columns must be fold"),
    (lambda f: f.rename(columns={"experiment": "batch"}), r"'batch' is not a samples column"),
    (lambda f: f[["fold"]], r"first columns must be fold"),
    (lambda f: f.assign(fold="one"), r"row 2: fold 'one' is neither"),
    (lambda f: f.assign(fold=f.fold - 3), r"row 2: fold '-3' is neither"),
    (lambda f: f.assign(fold=-1), r"no fold holds anything out"),
    (
        lambda f: f.assign(experiment=f.experiment.replace("B-03", "Z-77")),
        r"row \d+: experiment 'Z-77' is unknown",
    ),
    (
        lambda f: f[f.experiment != "B-03"],
        r"1 training values of experiment are missing, first 'B-03'",
    ),
    (lambda f: pd.concat([f, f.iloc[[0]]]), r"row 10: experiment .* occurs twice in its fold"),
    (
        lambda f: pd.concat([f, f.iloc[[0]].assign(fold=-1)]),
        r"is never held out \(fold -1\) and in another fold",
    ),
    (
        lambda f: pd.concat([f, f.iloc[[0]].assign(experiment="TEST-99")]),
        r"'TEST-99' has no labelled training sample",
    ),
    (lambda f: f.assign(fold=0), r"fold 0 holds out every labelled sample"),
    (
        lambda f: pd.concat([f, f.iloc[[0]].assign(experiment="TEST-99", fold=5)]).assign(
            labels="derived"
        ),
        r"fold 5 has no labelled sample to validate on",
    ),
]


@pytest.mark.parametrize("change, message", DAMAGE)
def test_read_folds_refuses_a_table_that_would_lie(table, change, message):
    samples, made, path = table
    with pytest.raises(InputError, match=rf"folds\.csv: .*{message}") as caught:
        read_folds(write(path, change(made)), samples)
    assert "\n" not in str(caught.value)


def test_read_folds_refuses_what_is_no_table(table, tmp_path):
    samples, _, path = table
    with pytest.raises(InputError, match="no such file"):
        read_folds(path, samples)
    path.write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_folds(path, samples)
    with pytest.raises(InputError, match="is a folder, not a table"):
        read_folds(tmp_path, samples)


def test_a_table_of_the_whole_serves_a_part(table, caplog):
    """Groups without an image are left out; the folds of the others stay what they are."""
    samples, made, path = table
    made.to_csv(path, index=False)
    part = samples[samples.experiment != read_folds(path, samples).rows.experiment[0]]
    whole, found = read_folds(path, samples), read_folds(path, part)
    assert "1 of" in caplog.text and set(found.rows.experiment) == set(whole.rows.experiment) - {
        whole.rows.experiment[0]
    }
    for fold in found.folds:
        assert found.held_out(fold) == whole.held_out(fold) - {whole.rows.experiment[0]}


def test_an_unknown_fold_is_named(table):
    samples, made, path = table
    with pytest.raises(InputError, match="fold 7: the table has the folds 0, 1"):
        read_folds(write(path, made), samples).validation(samples, 7)


def test_a_group_may_be_held_out_twice_and_leaves_training_in_both(table):
    samples, made, path = table
    twice = pd.concat([made, pd.DataFrame({"fold": [2], "experiment": ["A-01"]})])
    folds = read_folds(write(path, twice), samples)
    assert folds.folds == (0, 1, 2)
    first = int(made.fold[made.experiment == "A-01"].iloc[0])
    here = (samples.experiment == "A-01").to_numpy()
    for fold in (first, 2):
        assert (
            not folds.training(samples, fold)[here].any()
            and folds.validation(samples, fold)[here].sum() == 8
        )
    assert folds.validation(samples, 2).sum() == 8


def test_never_held_out_and_validation_are_labelled_training_treatments_only(table):
    samples, made, path = table
    folds = read_folds(
        write(path, made.assign(fold=made.fold.where(made.experiment != "A-02", NEVER))), samples
    )
    used = folds.validation(samples, 0) | folds.training(samples, 0)
    assert (samples.split[used] == "train").all() and (samples.role[used] == "treatment").all()
    assert samples.label[used].notna().all()
    assert all(
        folds.training(samples, k)[(samples.experiment == "A-02") & used].all() for k in folds.folds
    )


@pytest.fixture(scope="module")
def real_rxrx1(real_data):
    competition = get_competition("rxrx1")
    samples = competition.samples(real_data / "rxrx1")
    return samples, competition.plate_groups(samples)


@pytest.mark.slow
def test_the_committed_rxrx1_table_is_what_make_folds_gives(real_rxrx1, tmp_path):
    samples, groups = real_rxrx1
    committed = read_folds(FOLDS / "rxrx1.csv", samples)
    again = make_folds(samples, "experiment", 5, 0, groups)
    assert write(tmp_path / "again.csv", again).read_text() == (FOLDS / "rxrx1.csv").read_text()
    counts = pd.crosstab(again.cell_type, again.fold)
    assert np.ptp(counts.to_numpy(), axis=1).max() == 1 and counts.to_numpy().sum() == 33
    held = sum(committed.validation(samples, fold).astype(int) for fold in committed.folds)
    assert held.max() == 1 and held.sum() == 2 * 36_515


# as published
FIRST_PLACE_FOLD_0 = ["HEPG2-03", "HEPG2-05", "HUVEC-02", "HUVEC-14", "RPE-04", "U2OS-02"]
LABELLED = [
    *(f"HEPG2-{number:02d}" for number in range(1, 8)),
    *(f"HUVEC-{number:02d}" for number in (*range(1, 17), 18)),
    *(f"RPE-{number:02d}" for number in range(1, 8)),
    *(f"U2OS-{number:02d}" for number in range(1, 4)),
]


def test_the_winners_rule_gives_their_fold_0_whatever_the_order_of_the_names():
    assert deal_experiments(LABELLED)[0] == FIRST_PLACE_FOLD_0
    assert deal_experiments(LABELLED[::-1]) == deal_experiments(LABELLED)
    others = [deal_experiments(LABELLED, seed)[0] for seed in range(1, 20)]
    assert FIRST_PLACE_FOLD_0 not in others  # the seed decides it


@pytest.mark.parametrize("seed", range(5))
def test_every_split_of_the_winners_rule_deals_each_experiment_once_and_u2os_twice(seed):
    folds = deal_experiments(LABELLED, seed)
    dealt = sorted(name for fold in folds for name in fold)
    assert dealt == sorted([*LABELLED, "U2OS-01", "U2OS-02", "U2OS-03"])
    for fold, counts in zip(folds, SIX_FOLD_COUNTS, strict=True):
        assert [sum(name.startswith(cell) for name in fold) for cell in counts] == list(
            counts.values()
        )


def test_the_first_place_table_is_the_winners_split(real_rxrx1, tmp_path):
    samples, groups = real_rxrx1
    made = first_place_folds(samples, groups)
    again = write(tmp_path / "again.csv", made).read_text()
    assert again == (FOLDS / "rxrx1_first_place.csv").read_text()
    folds = read_folds(FOLDS / "rxrx1_first_place.csv", samples)
    held_out = folds.validation(samples, 0)
    assert sorted(samples.experiment[held_out].unique()) == FIRST_PLACE_FOLD_0
    counts = pd.crosstab(folds.rows.fold, folds.rows.cell_type)
    order = ["HEPG2", "HUVEC", "RPE", "U2OS"]
    expected = [[2, 2, 1, 1], [1, 3, 2, 1], *[[1, 3, 1, 1]] * 4]
    assert counts[order].to_numpy().tolist() == expected
    derived = folds.rows[folds.rows.labels == "derived"]
    assert derived.experiment.tolist() == ["HUVEC-18"] and derived.n.tolist() == ["0"]
    fold = int(derived.fold.iloc[0])
    used = folds.validation(samples, fold) | folds.training(samples, fold)
    assert not (samples.experiment[used] == "HUVEC-18").any()


def test_first_place_table_needs_the_published_data():
    groups = PlateGroups(np.zeros(4, int), {})
    with pytest.raises(InputError, match="HUVEC-18"):
        first_place_folds(samples_of(EIGHT), groups)
    with pytest.raises(InputError, match="6 places of HEPG2 experiments for 7"):
        deal_experiments([name for name in LABELLED if name != "HEPG2-03"])


def test_real_bbbc021_compounds(real_data):
    competition = get_competition("bbbc021")
    samples = competition.samples(real_data / "bbbc021" / "subset")
    made = make_folds(samples, "compound", 3)
    held = made[made.fold != NEVER].groupby("label").compound.nunique()
    alone = made[made.fold == NEVER].groupby("label").compound.nunique()
    assert set(alone) == {1} and held.min() >= 2 and not set(held.index) & set(alone.index)
    wells = make_folds(samples, "well_id", 5)
    assert sorted(wells.well_id) == sorted(samples.well_id[samples.split == "train"].unique())


def test_groups_kept_for_the_test_are_in_no_fold(table):
    samples, made, path = table
    kept = made.experiment[made.fold == 0].iloc[0]
    found = read_folds(
        write(path, made.assign(fold=made.fold.mask(made.experiment == kept, TEST))), samples
    )
    assert found.test == {kept} and TEST not in found.folds
    for fold in (*found.folds, None):
        assert kept not in set(samples.experiment[found.training(samples, fold)])
        assert fold is None or kept not in set(samples.experiment[found.validation(samples, fold)])
    with pytest.raises(InputError, match=r"kept for the test \(fold -2\) and in another fold"):
        read_folds(
            write(path, pd.concat([made, made[made.experiment == kept].assign(fold=TEST)])), samples
        )


def several_labels(sizes):
    """A compound a row of `sizes`, each with the labels of that row."""
    frame = pd.DataFrame(
        {
            "compound": [f"c{row:02d}" for row in range(len(sizes))],
            "labels": [tuple(labels) for labels in sizes],
        }
    )
    return frame.assign(
        sample_id=frame.compound,
        target_id=frame.compound,
        well_id=frame.compound,
        experiment="P1",
        plate="P1",
        cell_type="U2OS",
        role="treatment",
        split="train",
        label=pd.array([pd.NA] * len(frame), dtype="Int64"),
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), max_size=2, unique=True), min_size=2, max_size=16),
    st.integers(2, 4),
    st.integers(0, 5),
)
def test_any_labels_are_dealt_or_refused_in_a_line(labels, n_splits, seed):
    """No label at all, the same ones everywhere, one that some have: whatever the strata are, folds
    are even or too many.
    """
    samples = several_labels([sorted(one) for one in labels])
    try:
        table = make_folds(samples, "compound", n_splits, seed)
    except InputError as error:
        assert len(labels) < 2 * n_splits and str(error).startswith("folds: ")
        return
    assert sorted(table.compound) == sorted(samples.compound)
    sizes = table.fold.value_counts()
    assert set(sizes.index) == set(range(n_splits))
    if len({tuple(sorted(one)) for one in labels}) == 1:
        assert sizes.max() - sizes.min() <= 1
        again = make_folds(samples, "compound", n_splits, seed)
        assert again.equals(table)


@pytest.mark.parametrize("group", ["compound", "well_id", "experiment", "cell_type"])
def test_no_labelled_sample_gives_no_folds(group):
    samples = samples_of(EIGHT)
    for none in (
        samples[:0],
        samples.assign(label=pd.array([pd.NA] * len(samples), dtype="Int64")),
    ):
        with pytest.raises(
            InputError,
            match=f"^folds: none of the {len(none)} samples is a labelled training treatment",
        ):
            make_folds(none, group, 2)
