"""What the search never sees, and the tables that say so."""

import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import labelled
from cellsignal.data.folds import FoldTable, read_folds
from cellsignal.tuning.division import divide_folds, write_fresh_table, write_search_table


def table(*groups: int) -> FoldTable:
    """Folds of so many groups each, and one group that is never held out."""
    rows = [(fold, f"e{fold}{k}") for fold, count in enumerate(groups) for k in range(count)]
    return FoldTable("experiment", pd.DataFrame([*rows, (-1, "n")], columns=["fold", "experiment"]))


@pytest.mark.parametrize(
    ("groups", "search", "left_out"),
    [
        ((7, 7, 7, 7, 7), (0, 1, 2, 3), (4,)),
        ((3, 3, 3), (0, 1), (2,)),
        ((2, 2, 2, 2), (0, 1), (2, 3)),  # one fold would have too few groups for an interval
        ((2, 2, 2), (0, 1, 2), ()),  # too few groups to leave any out
        ((5, 5), (0, 1), ()),
        ((4,) * 6, (0, 1, 2, 3), (4, 5)),
    ],
)
def test_the_last_third_is_left_out_where_enough_remains(groups, search, left_out):
    division = divide_folds(table(*groups), None, None)
    assert (division.search, division.left_out) == (search, left_out)
    expected = sum(groups[fold] for fold in left_out or range(len(groups)))
    assert division.units == expected


def test_folds_can_be_chosen():
    division = divide_folds(table(3, 3, 3, 3), [1, 0], [3])
    assert (division.search, division.left_out) == ((1, 0), (3,))
    assert divide_folds(table(3, 3, 3, 3), [1], None).left_out == (3,)
    for search, left_out, words in (
        ([7], None, "--folds: the fold table has the folds"),
        (None, [9], "--left-out: the fold table has the folds"),
        ([0, 1], [1], "fold 1 is left out"),
        (None, [0, 1, 2, 3], "no fold remains"),
    ):
        with pytest.raises(InputError, match=words):
            divide_folds(table(3, 3, 3, 3), search, left_out)


def test_no_fold_of_the_search_sees_a_left_out_group(plates, tmp_path):
    samples = get_competition("rxrx1").samples(plates / "raw")
    groups = sorted(samples.experiment[labelled(samples)].unique())
    rows = pd.DataFrame({"fold": [i % 4 for i in range(len(groups))], "experiment": groups})
    rows = pd.concat([rows, pd.DataFrame({"fold": [0], "experiment": [groups[3]]})])  # twice
    full = FoldTable("experiment", rows)
    division = divide_folds(full, None, [3])
    search = read_folds(write_search_table(full, division, tmp_path), samples)
    assert search.folds == (0, 1, 2)
    left_out = full.held_out(3)
    for fold in (0, 1, 2, None):
        seen = search.training(samples, fold)
        if fold is not None:
            seen |= search.validation(samples, fold)
        assert not set(samples.experiment[seen]) & left_out
    # measured on them, the models train on all the rest
    assert set(samples.experiment[full.training(samples, 3)]) == set(groups) - left_out


def test_a_fresh_table_deals_the_same_groups_otherwise(plates, tmp_path):
    competition = get_competition("rxrx1")
    samples = competition.samples(plates / "raw")
    groups = sorted(samples.experiment[labelled(samples)].unique())
    rows = pd.DataFrame({"fold": [-1, *(i % 2 for i in range(len(groups) - 1))]})
    old = FoldTable("experiment", rows.assign(experiment=groups))
    fresh = read_folds(write_fresh_table(competition, samples, old, 1, tmp_path), samples)
    assert fresh.folds == (0, 1) and set(fresh.rows.experiment) == set(groups)
    assert set(fresh.rows.experiment[fresh.rows.fold == -1]) == {groups[0]}
    parts = [{frozenset(t.held_out(f)) for f in t.folds} for t in (old, fresh)]
    assert parts[0] != parts[1]
    again = write_fresh_table(competition, samples, old, 1, tmp_path / "again")
    assert again.read_text() == (tmp_path / "fresh_folds.csv").read_text()
