"""Sites are dealt out to shards: each once, a plate together, none above the limit."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from cellsignal.data.shard_plan import plan_shards


def table(plates, rows=None):
    """Samples of plates named by words "experiment/plate"."""
    parts = [word.split("/") for word in plates]
    frame = pd.DataFrame(parts, columns=["experiment", "plate"])
    frame["sample_id"] = [f"s{number}" for number in range(len(frame))]
    return frame.assign(row=range(len(frame)) if rows is None else rows)


def dealt(plates, lengths, most, rows=None):
    frame = table(plates, rows)
    lengths = np.asarray(lengths)
    checksum = np.arange(len(lengths), dtype=np.uint32)
    return plan_shards(frame, lengths, checksum, most)


def test_a_plate_is_a_shard_and_keeps_the_tables_order():
    plans = dealt(["a/1", "b/1", "a/1", "b/1", "a/2"], [50, 40, 51, 41, 60], 200)
    assert [plan.rows.tolist() for plan in plans] == [[0, 2], [1, 3], [4]]
    assert [plan.label for plan in plans] == ["a_1", "b_1", "a_2"]
    assert [plan.size for plan in plans] == [101, 81, 60]
    assert plans[0].offsets.tolist() == [0, 50]


def test_a_large_plate_is_cut_and_small_ones_are_put_together():
    plans = dealt(["a/1"] * 5, [40, 40, 40, 200, 1], 100)
    assert [plan.rows.tolist() for plan in plans] == [[0, 1], [2], [3], [4]]
    plans = dealt([f"a/{number}" for number in range(5)], [30, 30, 30, 90, 10], 800)
    assert [plan.rows.tolist() for plan in plans] == [[0, 1, 2], [3, 4]]
    # what follows a plate that was cut begins anew
    plans = dealt(["a/1", "a/1", "a/2", "a/3"], [600, 300, 10, 10], 800)
    assert [plan.rows.tolist() for plan in plans] == [[0], [1], [2, 3]]


def test_rows_without_an_image_are_in_no_shard():
    (plan,) = dealt(["a/1", "a/1"], [10, 0, 12], 100, rows=[0, 2])
    assert plan.rows.tolist() == [0, 2] and plan.lengths.tolist() == [10, 12]


def test_names_are_such_that_any_url_takes_them():
    words = ("HUVEC-01/2", "Ä rzt/pl#1?", "../x", "/", "é/ü", f"{'a' * 200}/1")
    labels = [dealt([word], [1], 100)[0].label for word in words]
    assert labels == ["HUVEC-01_2", "rzt_pl-1", "x", "plate", "plate", "a" * 60]


def test_a_key_changes_with_what_is_in_the_shard():
    base = dealt(["a/1", "a/1"], [10, 12], 100)[0].key
    assert dealt(["a/1", "a/1"], [10, 12], 100)[0].key == base
    assert dealt(["a/1", "a/1"], [10, 13], 100)[0].key != base
    assert dealt(["a/2", "a/2"], [10, 12], 100)[0].key != base
    frame, lengths = table(["a/1", "a/1"]), np.array([10, 12])
    for other in (frame.assign(sample_id=["s1", "s0"]), frame.assign(sample_id=["s0", "x"])):
        assert plan_shards(other, lengths, np.arange(2), 100)[0].key != base
    assert plan_shards(frame, lengths, np.array([0, 7]), 100)[0].key != base


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 90)), min_size=1, max_size=60),
    st.integers(1, 400),
)
def test_every_site_is_in_one_shard(sites, most):
    plates = [f"e/{plate}" for plate, _ in sites]
    lengths = np.array([length for _, length in sites])
    plans = dealt(plates, lengths, most)
    rows = np.concatenate([plan.rows for plan in plans])
    assert sorted(rows.tolist()) == list(range(len(sites)))
    firsts = list(dict.fromkeys(plates))
    order = sorted(range(len(sites)), key=lambda row: (firsts.index(plates[row]), row))
    assert rows.tolist() == order  # plate after plate, each in the table's order
    sizes = pd.Series(lengths).groupby(plates, sort=False).sum()
    for plan in plans:
        held = {plates[row] for row in plan.rows}
        assert plan.size <= most or len(plan.rows) == 1
        assert len(held) == 1 or plan.size <= most // 8
        if len(held) == 1:
            (plate,) = held
            assert sizes[plate] > most or len(plan.rows) == plates.count(plate)
