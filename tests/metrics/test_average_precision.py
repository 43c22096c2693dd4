"""Figures of multi-label predictions against scikit-learn, brute force and cases counted by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from columns import flush_right
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from cellsignal.common.errors import InputError
from cellsignal.metrics.average_precision import (
    MACRO,
    average_precision_table,
    average_precision_text,
    good_classes,
    macro_average_precision,
    macro_leave_out_scores,
    weighted_ranking,
)
from cellsignal.metrics.intervals import jackknife_interval


def screen(compounds=60, wells=6, classes=3, share=0.2, signal=1.5, noise=1.0, seed=0):
    """Wells of compounds: truth (N, K) and scores (N, K), of which `noise` is the compound's own;
    compound (N,).
    """
    rng = np.random.default_rng(seed)
    truth = rng.random((compounds, classes)) < share
    truth[:2] = [[True] * classes, [False] * classes]
    scores = truth * signal + noise * rng.normal(size=truth.shape)
    compound = np.repeat(np.arange(compounds), wells)
    return (
        truth[compound],
        scores[compound] + 1e-3 * rng.normal(size=(len(compound), classes)),
        compound.astype(str),
    )


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 12), st.integers(1, 30))
def test_weighted_figures_are_sklearns(seed, rows, clusters, values):
    """With ties, clusters drawn no times, and draws that lose all positives or all negatives."""
    rng = np.random.default_rng(seed)
    truth = rng.random(rows) < rng.random()
    truth[rng.integers(rows)] = True
    score, cluster = rng.integers(0, values, rows) / 7, rng.integers(0, clusters, rows)
    times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=4).T.astype(np.float32)
    found = weighted_ranking(truth, score, cluster, times)
    for draw in range(times.shape[1]):
        weight = times[cluster, draw]
        kept = np.repeat(np.arange(rows), weight.astype(int))
        if not truth[kept].any():
            assert np.isnan(found[:, draw]).all()
            continue
        assert found[0, draw] == pytest.approx(
            average_precision_score(truth, score, sample_weight=weight), abs=1e-9
        )
        assert found[0, draw] == pytest.approx(
            average_precision_score(truth[kept], score[kept]), abs=1e-9
        )
        if truth[kept].all():
            assert math.isnan(found[1, draw])
        else:
            assert found[1, draw] == pytest.approx(
                roc_auc_score(truth, score, sample_weight=weight), abs=1e-9
            )


def test_many_draws_in_pieces_are_the_same(monkeypatch):
    truth, scores, compound = screen()
    whole = average_precision_table(truth, scores, "abc", compound)
    monkeypatch.setattr("cellsignal.metrics.average_precision._CELLS", 700)
    pd.testing.assert_frame_equal(average_precision_table(truth, scores, "abc", compound), whole)


def test_every_row_of_the_table_against_brute_force():
    truth, scores, compound = screen()
    table = average_precision_table(truth, scores, ["a", "b", "c"], compound)
    assert table["class"].tolist() == [MACRO, "a", "b", "c"]
    names = pd.unique(compound)
    without = np.full((len(names), 3, 2), np.nan)
    for i, name in enumerate(names):
        kept = compound != name
        for k in range(3):
            without[i, k] = [
                f(truth[kept, k], scores[kept, k]) for f in (average_precision_score, roc_auc_score)
            ]
    for k in range(3):
        row = table.iloc[k + 1]
        assert (row.positives, row.n) == (
            truth[:, k].sum(),
            360,
        ) and row.positive_compounds == truth[::6, k].sum()
        assert row.average_precision == pytest.approx(
            average_precision_score(truth[:, k], scores[:, k])
        )
        assert row.roc_auc == pytest.approx(roc_auc_score(truth[:, k], scores[:, k]))
        assert row.ratio == pytest.approx(row.average_precision / truth[:, k].mean())
        share = np.array([truth[compound == name, k].sum() for name in names]) / row.positives
        assert (row.low, row.high) == pytest.approx(
            jackknife_interval(row.average_precision, without[:, k, 0], share)
        )
        assert (row.roc_auc_low, row.roc_auc_high) == pytest.approx(
            jackknife_interval(row.roc_auc, without[:, k, 1], share)
        )
    macro = table.iloc[0]
    assert macro.average_precision == pytest.approx(macro_average_precision(truth, scores))
    share = np.array([truth[compound == name].sum() for name in names]) / truth.sum()
    ends = jackknife_interval(macro.average_precision, without[:, :, 0].mean(1), share)
    assert (macro.low, macro.high) == pytest.approx(ends)
    value, dropped, shares = macro_leave_out_scores(truth, scores, compound)
    assert value == pytest.approx(macro.average_precision)
    np.testing.assert_allclose(dropped, without[:, :, 0].mean(1))
    np.testing.assert_allclose(shares, share)
    assert (macro.positives, macro.positive_compounds) == (
        truth.any(1).sum(),
        truth[::6].any(1).sum(),
    )


def test_guessing_scores_the_prevalence():
    truth, _, compound = screen(compounds=400, share=0.1)
    scores = np.random.default_rng(1).normal(size=truth.shape)
    table = average_precision_table(truth, scores, "abc", compound)
    np.testing.assert_allclose(table.average_precision, table.prevalence, atol=0.02)
    np.testing.assert_allclose(table.roc_auc, 0.5, atol=0.05)
    np.testing.assert_allclose(table.ratio, 1, atol=0.2)


def test_equal_scores_are_one_place():
    truth, _, compound = screen()
    table = average_precision_table(truth, np.full(truth.shape, 0.5), "abc", compound)
    np.testing.assert_allclose(table.average_precision, table.prevalence)
    assert (table.roc_auc == 0.5).all()


def test_the_interval_over_compounds_is_wider_where_their_wells_agree():
    truth, scores, compound = screen(wells=10)
    over_compounds = average_precision_table(truth, scores, "abc", compound)
    over_wells = average_precision_table(truth, scores, "abc", np.arange(len(truth)))
    np.testing.assert_allclose(over_compounds.average_precision, over_wells.average_precision)
    width = [(table.high - table.low).to_numpy() for table in (over_compounds, over_wells)]
    assert (width[0] > 2 * width[1]).all()  # about sqrt(10)


def test_the_interval_mostly_holds_the_truth():
    """The average precision of the population, estimated once, lies in about 95 % of the intervals
    of samples of 150 compounds.
    """
    truth, scores, _ = screen(compounds=40_000, wells=1, classes=1)
    population = average_precision_score(truth[:, 0], scores[:, 0])
    inside = 0
    for seed in range(1, 101):
        truth, scores, compound = screen(compounds=150, wells=2, classes=1, seed=seed)
        row = average_precision_table(truth, scores, "a", compound).iloc[1]
        inside += row.low <= population <= row.high
    assert 0.86 * 100 <= inside < 100


def test_a_class_without_positives_or_negatives_is_no_part_of_the_average():
    truth, scores, compound = screen()
    truth[:, 1], truth[:, 2] = False, True
    table = average_precision_table(truth, scores, "abc", compound).set_index("class")
    assert (
        table.loc["b"].isna().sum() == 7
        and table.loc["b", "prevalence"] == 0
        and table.loc["b", "n"] == 360
    )
    assert math.isnan(table.average_precision["c"]) and table.prevalence["c"] == 1
    for column in ("average_precision", "low", "high", "ratio", "roc_auc", "prevalence"):
        assert table.loc[MACRO, column] == pytest.approx(table.loc["a", column])
    none = average_precision_table(np.zeros_like(truth), scores, "abc", compound)
    assert none.average_precision.isna().all() and none.n.tolist() == [360] * 4


def test_one_positive_compound_has_no_interval():
    truth, scores, compound = screen(classes=2)
    truth[:, 0] = compound == "7"
    table = average_precision_table(truth, scores, "ab", compound).set_index("class")
    assert table.loc["a", "positive_compounds"] == 1 and not math.isnan(
        table.loc["a", "average_precision"]
    )
    assert table.loc["a", ["low", "high", "roc_auc_low", "roc_auc_high"]].isna().all()
    assert table.loc[["b", MACRO], ["low", "high"]].notna().all(axis=None)


def test_unknown_truth_is_left_out_and_never_negative():
    truth, scores, compound = screen()
    known = np.arange(len(truth)) % 6 < 4
    holes = np.where(known[:, None], truth, np.nan)
    holed, short = (
        average_precision_table(*parts, "abc", c)
        for *parts, c in ((holes, scores, compound), (truth[known], scores[known], compound[known]))
    )
    pd.testing.assert_frame_equal(holed, short)
    assert macro_average_precision(holes, scores) == pytest.approx(
        macro_average_precision(truth[known], scores[known])
    )
    one = truth.astype(float)
    one[:, 0] = holes[:, 0]  # unknown for one class alone
    assert average_precision_table(one, scores, "abc", compound).n.tolist() == [
        360,
        240,
        360,
        360,
    ]


def test_table_refuses_what_cannot_be_scored():
    truth, scores, compound = screen()
    bad = scores.copy()
    bad[5, 1] = np.nan
    holed = compound.astype(object)
    holed[9] = None
    for message, arguments in {
        "the score of 'b' in row 5 is nan": (truth, bad, "abc", compound),
        "the cluster of row 9 is missing": (truth, scores, "abc", holed),
        "do not fit together": (truth, scores, "ab", compound),
        "no predictions": (truth[:0], scores[:0], "abc", compound[:0]),
    }.items():
        with pytest.raises(InputError, match=message):
            average_precision_table(*arguments)


def test_good_classes_and_the_text():
    truth, scores, compound = screen(classes=4)
    scores[:, 0], truth[:, 3] = truth[:, 0], False
    table = average_precision_table(truth, scores, ["found", "b", "c", "empty"], compound)
    auc = table.roc_auc[2:4]
    assert good_classes(table) == (1 + (auc >= 0.9).sum(), 3) and good_classes(table, 0.0) == (3, 3)
    lines = average_precision_text(table).splitlines()
    assert (
        lines[2].startswith(MACRO)
        and lines[3].split()[:2] == ["found", "1.0000"]
        and lines[6].startswith("empty ")
    )
    assert lines[-1].startswith(
        f"{good_classes(table)[0]} of 3 classes at ROC AUC >= 0.9; 1 without both"
    )
    scored = table.iloc[:-1]
    assert "without both" not in average_precision_text(scored)
    assert flush_right("\n".join(lines[:-1])) == [
        "AP",
        "prevalence",
        "x prevalence",
        "ROC AUC",
        "positives",
        "compounds",
        "n",
    ]
    short = average_precision_text(table, top=1).splitlines()
    assert (
        short[:2]
        and len(short) == 5
        and "3 more classes" in short[-1]
        and short[3].startswith("found")
    )
    assert len(average_precision_text(table, top=0).splitlines()) == 4
