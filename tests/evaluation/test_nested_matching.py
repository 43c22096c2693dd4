"""Nested choice, by loops over compounds and ways."""

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cellsignal.evaluation.nested_matching import match_nested


def screen(compounds=12, doses=2, seed=0):
    number = np.repeat(np.arange(compounds), doses)
    table = pd.DataFrame({"compound": [f"c{n}" for n in number]})
    table["treatment"] = (
        table["compound"] + "@" + pd.Series(np.tile(np.arange(doses), compounds), dtype=str)
    )
    table["moa"] = [f"m{n % 3}" for n in number]
    rng = np.random.default_rng(seed)
    signal = np.eye(3)[number % 3]
    ways = {
        f"noise {noise}": signal + noise * rng.normal(size=signal.shape) for noise in (2, 0.4, 0.8)
    }
    return table, ways


def distances(table, ways):
    same = table["compound"].to_numpy()[:, None] == table["compound"].to_numpy()
    similarity = {}
    for name, x in ways.items():
        similarity[name] = -np.linalg.norm(x[:, None] - x, axis=2)
        similarity[name][same] = -np.inf
    return similarity


def neighbour_is_right(x, table, train, row) -> bool:
    model = KNeighborsClassifier(1).fit(x[train], table.moa[train])
    return model.predict(x[row : row + 1])[0] == table.moa[row]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_each_compound_is_matched_by_the_way_that_is_best_for_the_others(seed):
    table, ways = screen(seed=seed)
    nested = match_nested(distances(table, ways), table)
    compound = table["compound"]
    for row in range(len(table)):
        outside = compound != compound[row]
        totals = {
            name: sum(
                neighbour_is_right(x, table, outside & (compound != compound[other]), other)
                for other in table.index[outside]
            )
            for name, x in ways.items()
        }
        way = max(totals, key=totals.get)
        assert nested.table.way[row] == way
        assert nested.table.right[row] == neighbour_is_right(ways[way], table, outside, row)
    assert nested.accuracy.correct == nested.table.right.sum()
    each = {
        n: sum(neighbour_is_right(x, table, compound != compound[r], r) for r in table.index)
        for n, x in ways.items()
    }
    assert nested.each == each


def test_a_way_that_knows_one_compound_alone_is_not_chosen_for_it():
    table, ways = screen()
    cheat = np.random.default_rng(9).normal(size=(len(table), 3))
    mine = (table["compound"] == "c0").to_numpy()
    cheat[mine] = cheat[table.index[(table.moa == "m0") & ~mine][0]]
    nested = match_nested(distances(table, {**ways, "cheat": cheat}), table)
    assert "cheat" not in set(nested.table.way)


def test_left_out_classes_are_neighbours_but_not_scored():
    table, ways = screen()
    nested = match_nested(distances(table, ways), table, ("m0",))
    assert set(nested.table.moa) == {"m1", "m2"} and nested.accuracy.total == len(nested.table)
