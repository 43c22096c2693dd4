"""Profiles that hold no phenotype."""

import numpy as np
import pandas as pd

from cellsignal.evaluation.baselines import (
    baseline_profiles,
    count_profiles,
    shuffled_mechanisms,
    shuffled_rows,
)


def wells(plates=2, treated=6, controls=3) -> pd.DataFrame:
    rows = []
    for plate in range(plates):
        for place in range(treated + controls):
            role = "treatment" if place < treated else "negative_control"
            name = f"c{place % 3}" if place < treated else "DMSO"
            rows.append(("e", f"p{plate}", f"A{place + 1:02d}", role, name, place))
    names = ["experiment", "plate", "well", "role", "compound", "count"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(treatment=frame["compound"], moa="m" + frame["compound"])


def test_counts_rank_by_their_difference():
    frame = wells()
    unit = count_profiles(frame)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    cosine = unit[:9] @ unit[:9].T
    log = np.log1p(frame["count"].to_numpy()[:9])
    expected = np.cos(np.pi / 2 * (log[:, None] - log) / np.ptp(log))
    np.testing.assert_allclose(cosine, expected, atol=1e-6)


def test_equal_counts_are_one_point():
    assert len(np.unique(count_profiles(wells().assign(count=7)), axis=0)) == 1


def test_treated_wells_are_exchanged_within_their_plate_alone():
    frame = wells()
    rows = shuffled_rows(frame)
    assert sorted(rows) == list(range(len(frame))) and (rows != np.arange(len(frame))).any()
    assert (frame.plate.to_numpy()[rows] == frame.plate).all()
    assert (frame.role.to_numpy()[rows] == frame.role).all()
    control = (frame.role == "negative_control").to_numpy()
    assert (rows[control] == np.flatnonzero(control)).all()


def test_mechanisms_are_exchanged_among_compounds():
    frame = wells(treated=6)
    for seed in range(5):
        moa = shuffled_mechanisms(frame, seed).moa
        treated = frame.role != "negative_control"
        by_compound = moa[treated].groupby(frame["compound"][treated]).unique()
        assert by_compound.map(len).eq(1).all(), "wells of a compound stay together"
        assert sorted(value[0] for value in by_compound) == ["mc0", "mc1", "mc2"]
        assert moa[~treated].isna().all()


def test_cell_count_is_a_baseline_where_it_is_known_of_all():
    frame = wells()
    x = np.random.default_rng(0).normal(size=(len(frame), 4))
    kinds = {"position only", "cell count only", "shuffled labels"}
    assert set(baseline_profiles(x, frame)) == kinds
    for lacking in (frame.drop(columns="count"), frame.assign(count=[None] + [5] * 17)):
        assert set(baseline_profiles(x, lacking)) == kinds - {"cell count only"}
