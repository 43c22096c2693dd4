"""Mechanisms of unseen compounds: nearest tracks and votes by hand, and what is told of them."""

import numpy as np
import pandas as pd
import pytest
from columns import flush_right

from cellsignal.common.errors import InputError
from cellsignal.evaluation.unseen import (
    nearest_first,
    predict_unseen,
    typical_track,
    unseen_right,
    unseen_text,
)
from cellsignal.metrics.accuracy import wilson_interval


def test_unseen_compounds_by_hand():
    gallery = pd.DataFrame(
        {
            "sample_id": ["g0", "g1", "g2", "g3"],
            "compound": ["a", "a", "b", "c"],
            "label": [2, 2, 0, 1],
        }
    )
    unseen = pd.DataFrame({"sample_id": ["n0", "n1", "n2", "m0"], "compound": ["n", "n", "n", "m"]})
    distance = np.array(
        [[0.3, 0.2, 0.4, 0.9], [0.5, 0.6, 0.45, 0.9], [0.1, 0.2, 0.05, 0.9], [0.8, 0.8, 0.7, 0.75]]
    )
    found = predict_unseen(distance, unseen, gallery, ["x", "y", "z", "unused"])
    assert list(found.tracks.moa) == ["z", "x", "x", "x"] and list(found.tracks.moa_id) == [
        2,
        0,
        0,
        0,
    ]
    assert list(found.tracks.nearest) == ["g1", "g2", "g2", "g2"] and list(
        found.tracks.nearest_compound
    ) == ["a", "b", "b", "b"]
    np.testing.assert_allclose(found.tracks.distance, [0.2, 0.45, 0.05, 0.7])
    np.testing.assert_allclose(found.tracks.margin, [0.2, 0.05, 0.05, 0.05])
    assert list(found.tracks.second_moa) == ["x", "z", "z", "y"]
    m, n = found.compounds.itertuples(index=False)
    assert (m.compound, m.tracks, m.moa, m.votes) == ("m", 1, "x", 1)
    assert (n.compound, n.tracks, n.moa_id, n.moa, n.votes) == ("n", 3, 0, "x", 2)
    assert n.mean_distance == pytest.approx((0.2 + 0.45 + 0.05) / 3)
    # mean distance to x: (.4 + .45 + .05) / 3 = .3; to z: (.2 + .5 + .1) / 3 = .267
    assert (n.moa_id_by_distance, n.moa_by_distance) == (
        2,
        "z",
    ) and n.distance_to_moa == pytest.approx(0.8 / 3)
    # x wins the votes; z is nearer on the mean by (.3 - .8 / 3), y is at .9
    assert n.margin == pytest.approx(0.8 / 3 - 0.3) and m.margin == pytest.approx(0.05)


def test_equal_votes_go_to_the_nearer_mechanism():
    gallery = pd.DataFrame({"sample_id": ["g0", "g1"], "compound": ["a", "b"], "label": [0, 1]})
    unseen = pd.DataFrame({"sample_id": ["n0", "n1"], "compound": ["n", "n"]})
    found = predict_unseen(np.array([[0.3, 0.4], [0.9, 0.1]]), unseen, gallery, ["x", "y"])
    assert list(found.compounds.moa) == ["y"] and list(found.compounds.votes) == [1]
    alone = predict_unseen(np.array([[0.3], [0.9]]), unseen, gallery[:1], ["x", "y"])
    assert (
        alone.tracks.second_moa.isna().all()
        and alone.tracks.margin.isna().all()
        and alone.compounds.votes[0] == 2
    )
    assert alone.compounds.margin.isna().all()


def test_unseen_refuses():
    gallery = pd.DataFrame({"sample_id": ["g0", "g1"], "compound": ["a", "b"], "label": [0, 1]})
    unseen = pd.DataFrame({"sample_id": ["n0"], "compound": ["n"]})
    ok = np.array([[0.1, 0.2]])
    for bad, message in (
        (
            lambda: predict_unseen(ok, unseen.assign(compound="b"), gallery, ["x", "y"]),
            "1 unseen compounds are in the gallery, first 'b'",
        ),
        (lambda: predict_unseen(ok, unseen, gallery, ["x"]), "outside the 1 names"),
        (
            lambda: predict_unseen(ok.T, unseen, gallery, ["x", "y"]),
            "do not fit 1 unseen and 2 gallery",
        ),
        (
            lambda: predict_unseen(ok * np.nan, unseen, gallery, ["x", "y"]),
            "'n0': a distance is not a number",
        ),
    ):
        with pytest.raises(InputError, match=message):
            bad()


def test_the_track_of_a_picture_is_the_median_of_those_that_voted_so():
    tracks = pd.DataFrame(
        {
            "compound": list("aaaabaa"),
            "moa_id": [1, 1, 1, 0, 1, 1, 1],
            "distance": [0.5, 0.1, 0.3, 0.0, 0.2, 0.9, 0.4],
        }
    )
    assert typical_track(tracks, "a", 1) == 6  # .1 .3 (.4) .5 .9
    assert typical_track(tracks, "a", 0) == 3 and typical_track(tracks, "b", 1) == 4
    assert typical_track(tracks.drop(index=5), "a", 1) == 2  # of four the lower median


def compounds(n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "compound": [f"c{i:02d}" for i in range(n)],
            "tracks": 3,
            "moa_id": 0,
            "moa": "x",
            "votes": 2,
            "mean_distance": np.linspace(0.9, 0.1, n),
            "margin": [np.nan] + [0.25] * (n - 1),
        }
    )


def test_compounds_are_told_nearest_first_and_no_more_than_asked():
    table = compounds(23)
    assert list(nearest_first(table)["compound"]) == sorted(table["compound"], reverse=True)
    lines = unseen_text(table, {}).splitlines()
    assert (
        lines[0].split() == ["compound", "MoA", "id", "MoA", "votes", "distance", "margin"]
        and len(lines) == 2 + 20 + 1
    )
    assert (
        lines[2].split() == ["c22", "0", "x", "2/3", "0.100", "0.250"]
        and lines[-1] == "... and 3 farther ones"
    )
    assert flush_right(unseen_text(table[:2], {})) == ["MoA id", "votes", "distance", "margin"]
    assert len(unseen_text(table[:20], {}).splitlines()) == 2 + 20
    short = unseen_text(table[:2], {"c01": "y", "other": "x"}).splitlines()
    assert (
        len(short) == 4
        and short[0].endswith("truth")
        and short[2].split()[-1] == "y"
        and short[3].split() == ["c00", "0", "x", "2/3", "0.900"]
    )


def test_the_right_ones_are_counted_among_those_whose_truth_is_known():
    right = unseen_right(compounds(5), {"c00": "x", "c01": "y", "c04": "x", "gone": "x"})
    assert (right.correct, right.total) == (2, 3) and (right.low, right.high) == wilson_interval(
        2, 3
    )
    assert unseen_right(compounds(2), {"gone": "x"}) is None


def test_a_collapsed_space_names_mechanisms_at_random():
    """All distances equal: each mechanism as often as its tracks are frequent, whatever the order
    of the gallery.
    """
    gallery = pd.DataFrame(
        {
            "sample_id": [f"g{n}" for n in range(20)],
            "compound": [f"c{n}" for n in range(20)],
            "label": [0] * 5 + [1] * 15,
        }
    )
    unseen = pd.DataFrame(
        {"sample_id": [f"n{n}" for n in range(2000)], "compound": [f"u{n}" for n in range(2000)]}
    )
    found = predict_unseen(np.full((2000, 20), 0.25), unseen, gallery, ["x", "y"])
    assert (found.tracks.moa == "x").mean() == pytest.approx(1 / 4, abs=0.05)  # 5 standard errors
    pairs = unseen.assign(compound=[f"u{n // 2}" for n in range(2000)])
    two = predict_unseen(
        np.full((2000, 20), 0.25), pairs, gallery.assign(label=[0, 1] * 10), ["x", "y"]
    ).compounds
    assert (two.moa == "x").mean() == pytest.approx(1 / 2, abs=0.08)
    assert (two.moa_by_distance == "x").mean() == pytest.approx(1 / 2, abs=0.08)
