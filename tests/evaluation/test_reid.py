"""Rankings against loops over sorted lists, scikit-learn, hand-made cases with ties and without a
match; unseen compounds by hand.
"""

import itertools

import numpy as np
import pandas as pd
import pytest
from columns import flush_right
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, roc_auc_score

from cellsignal.common.errors import InputError
from cellsignal.evaluation.reid import (
    classified,
    cosine_distances,
    nearest,
    reid,
    reid_new_drugs,
)
from cellsignal.evaluation.reid_table import reid_table, reid_text, seen_text
from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.metrics.intervals import mean_interval
from cellsignal.metrics.ranking import match_masks, ranking_score


def tracks(*rows: tuple[int, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["label", "compound", "library"])


def random_tracks(
    rng: np.random.Generator, n: int, drugs: int = 6, classes: int = 3
) -> pd.DataFrame:
    """A drug has one mechanism; libraries l1 to l3."""
    drug = rng.integers(drugs, size=n)
    return tracks(
        *[
            (int(d % classes), f"d{d}", f"l{library}")
            for d, library in zip(drug, rng.integers(1, 4, size=n), strict=True)
        ]
    )


def by_loops(distance, query, gallery, protocol):
    """(average precisions, ranks of the first match, skipped), by the words of the protocol: one
    list at a time, one place at a time; no ties.
    """
    precisions, firsts, skipped = [], [], 0
    for q in range(len(query)):
        mine, kept = query.iloc[q], []
        for g in range(len(gallery)):
            other = gallery.iloc[g]
            same_drug, same_library = other.compound == mine.compound, other.library == mine.library
            if not (same_drug and (same_library or protocol == "strict")):
                kept.append((distance[q, g], other.label == mine.label))
        hits, total, first = 0, 0.0, None
        for place, (_, match) in enumerate(sorted(kept), start=1):
            if match:
                hits, first = hits + 1, first or place
                total += hits / place
        if hits:
            precisions.append(total / hits)
            firsts.append(first)
        else:
            skipped += 1
    return precisions, firsts, skipped


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 25),
    st.sampled_from(["published", "strict"]),
)
def test_equals_loops(seed, n_query, n_gallery, protocol):
    rng = np.random.default_rng(seed)
    query, gallery = random_tracks(rng, n_query), random_tracks(rng, n_gallery)
    distance = cdist(rng.normal(size=(n_query, 5)), rng.normal(size=(n_gallery, 5)), "cosine")
    precisions, firsts, skipped = by_loops(distance, query, gallery, protocol)
    if not precisions:
        with pytest.raises(InputError, match=f"no query of {n_query} has a match"):
            reid(distance, query, gallery, protocol)
        return
    found = reid(distance, query, gallery, protocol)
    np.testing.assert_allclose(found.queries.average_precision, precisions, atol=1e-12)
    assert list(found.queries["first"]) == firsts and found.skipped == skipped
    assert found.mean_average_precision.value == pytest.approx(np.mean(precisions))
    for k in (1, 5, 10):
        assert found.rank(k).correct == sum(first <= k for first in firsts) and found.rank(
            k
        ).total == len(firsts)
        if k <= len(found.cmc):
            assert found.cmc[k - 1] == pytest.approx(found.rank(k).value)
    assert found.cmc[-1] == 1 and len(found.cmc) == found.queries.length.max()


def test_average_precision_and_distances_as_scikit_learn():
    rng = np.random.default_rng(0)
    query, gallery = random_tracks(rng, 30).assign(compound="other"), random_tracks(rng, 80)
    x, y = rng.normal(size=(30, 7)).astype(np.float32), rng.normal(size=(80, 7)).astype(np.float32)
    distance = cosine_distances(x, y)
    np.testing.assert_allclose(distance, cdist(x, y, "cosine"), atol=1e-9)
    expected = [
        average_precision_score(gallery.label == label, -row)
        for label, row in zip(query.label, distance, strict=True)
    ]
    np.testing.assert_allclose(reid(distance, query, gallery).queries.average_precision, expected)


def test_the_two_protocols_by_hand():
    query = tracks((0, "a", "l1"))
    gallery = tracks((0, "a", "l1"), (0, "a", "l2"), (1, "b", "l1"), (0, "c", "l1"))
    distance = np.array([[0.0, 0.1, 0.2, 0.3]])
    published = reid(distance, query, gallery, "published")
    strict = reid(distance, query, gallery, "strict")
    # a l2, (b), c
    assert published.mean_average_precision.value == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert (
        published.rank(1).correct,
        published.queries.length[0],
        published.queries.matches[0],
    ) == (1, 3, 2)
    assert strict.mean_average_precision.value == pytest.approx(1 / 2)  # (b), c
    assert (strict.rank(1).correct, strict.rank(5).correct, strict.queries.length[0]) == (0, 1, 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(["published", "strict"]))
def test_equal_distances_count_as_all_orders_of_them(seed, n_gallery, protocol):
    """Every order of the gallery in turn breaks the ties of tied distances; the mean over all of
    them is the figure.
    """
    rng = np.random.default_rng(seed)
    query, gallery = random_tracks(rng, 3), random_tracks(rng, n_gallery)
    distance = rng.integers(0, 3, size=(3, n_gallery)) / 3
    orders = [np.array(order) / 100 for order in itertools.permutations(range(n_gallery))]
    every = [by_loops(distance + order, query, gallery, protocol) for order in orders]
    if not every[0][0]:
        return
    # equal but for rounding
    found = reid(distance + rng.normal(scale=1e-13, size=distance.shape), query, gallery, protocol)
    np.testing.assert_allclose(
        found.queries.average_precision,
        np.mean([precisions for precisions, _, _ in every], axis=0),
        atol=1e-9,
    )
    firsts = np.array([first for _, first, _ in every])
    assert (firsts.min(axis=0) <= found.queries["first"]).all() and (
        found.queries["first"] <= firsts.max(axis=0)
    ).all()


def test_one_embedding_for_every_track_scores_chance():
    """Neither the first place by the order of the table nor the last."""
    rng = np.random.default_rng(7)
    query, gallery = (
        random_tracks(rng, n, drugs=200).sort_values("label", ignore_index=True) for n in (900, 60)
    )
    distance = cosine_distances(
        np.full((900, 3), 0.1, np.float32), np.outer(np.arange(1, 61), [0.1] * 3).astype(np.float32)
    )
    for protocol in ("published", "strict"):
        found = reid(distance, query, gallery, protocol)
        assert found.mean_average_precision.value == pytest.approx(found.random_average_precision)
        for k in (1, 5, 10):
            expected = found.random_rank(k)
            assert (
                abs(found.rank(k).value - expected)
                < 4.5 * np.sqrt(expected * (1 - expected) / 900) + 1e-9
            ), (protocol, k)


def test_queries_without_a_match_are_skipped_and_counted():
    query = tracks((0, "a", "l1"), (2, "b", "l1"), (1, "c", "l1"), (0, "d", "l2"))
    gallery = tracks((0, "a", "l1"), (1, "c", "l1"), (1, "e", "l3"), (0, "d", "l1"))  # none of 2
    distance = np.tile([0.1, 0.2, 0.3, 0.4], (4, 1))
    found = reid(distance, query, gallery)
    assert found.skipped == 1 and list(found.queries["query"]) == [0, 2, 3]
    assert list(found.queries["first"]) == [3, 2, 1]
    # the only other track of mechanism 2 has the query's drug, too
    for library, skipped in (("l1", 1), ("l2", 0)):
        other = gallery.replace({"label": {0: 2}}).assign(compound="b", library=library)
        assert reid(distance[:2], query[1:3], other).skipped == skipped
        assert reid(distance[:2], query[1:3], other, "strict").skipped == 1


def test_counts_intervals_and_chance():
    rng = np.random.default_rng(3)
    query, gallery = random_tracks(rng, 40), random_tracks(rng, 30)
    found = reid(rng.random((40, 30)), query, gallery, "strict")
    right = found.rank(5)
    assert (right.low, right.high) == wilson_interval(right.correct, right.total)
    mean, scored = found.mean_average_precision, found.queries
    assert (mean.low, mean.high) == mean_interval(
        scored.average_precision, scored.compound
    ) and mean.low < mean.value < mean.high
    low, high = found.rank_over_drugs(5)
    assert low <= right.value <= high
    # chance: the mean over random orders of one query's list
    many = [reid(rng.random((40, 30)), query, gallery, "strict") for _ in range(80)]
    assert np.mean([one.mean_average_precision.value for one in many]) == pytest.approx(
        found.random_average_precision, abs=0.015
    )
    for k in (1, 5):
        assert np.mean([one.rank(k).value for one in many]) == pytest.approx(
            found.random_rank(k), abs=0.02
        )
    assert found.random_rank(1000) == 1


def test_one_drug_says_nothing_about_others():
    found = reid(
        np.array([[0.1, 0.2]]), tracks((0, "a", "l1")), tracks((0, "b", "l1"), (1, "c", "l1"))
    )
    assert np.isnan(found.mean_average_precision.low) and found.rank(1).high == 1
    assert "1/1" in reid_text(reid_table({"net": [found]}))


def test_the_places_in_a_list_score_as_the_distances_do():
    rng = np.random.default_rng(1)
    query, gallery = random_tracks(rng, 15), random_tracks(rng, 40)
    distance = cosine_distances(rng.normal(size=(15, 4)), rng.normal(size=(40, 4)))
    places = nearest(distance).argsort(axis=1)
    pd.testing.assert_frame_equal(
        reid(places, query, gallery).queries, reid(distance, query, gallery).queries
    )
    assert (nearest(distance, 3) == np.argsort(distance, axis=1)[:, :3]).all()
    first = np.bincount(nearest(np.zeros((4000, 4)), 1)[:, 0], minlength=4)
    # 7 standard errors: the order of the gallery decides nothing
    np.testing.assert_allclose(first / 4000, 1 / 4, atol=0.05)


def test_a_submission_scores_what_the_competition_gives_it():
    rng = np.random.default_rng(6)
    query, gallery = (random_tracks(rng, n) for n in (12, 30))
    ids = np.array([f"g{n}" for n in range(30)], dtype=object)
    order = np.stack([rng.permutation(30) for _ in range(12)])
    matches, left_out = match_masks(
        *(frame.rename(columns={"compound": "drug", "label": "moa"}) for frame in (query, gallery))
    )
    expected = ranking_score(
        *([" ".join(ids[chosen]) for chosen in rows] for rows in (order, matches, left_out))
    )
    found = reid(order.argsort(axis=1), query, gallery)
    assert found.mean_average_precision.value == pytest.approx(expected)


def test_bad_input_is_refused():
    query, gallery = tracks((0, "a", "l1")), tracks((0, "b", "l1"), (1, "c", "l1"))
    ok = np.array([[0.1, 0.2]])
    for bad, message in (
        (lambda: reid(ok.T, query, gallery), r"distances \(2, 1\) do not fit 1 queries and 2"),
        (lambda: reid(ok * np.nan, query, gallery), "query 0: a distance is not a number"),
        (
            lambda: reid(ok, query.assign(compound=None), gallery),
            "query: compound is empty in row 0",
        ),
        (lambda: reid(ok, query, gallery.drop(columns="label")), "gallery: no column 'label'"),
        (lambda: cosine_distances(np.ones((1, 2)), np.ones((2, 3))), "differ in width: 2 and 3"),
        (
            lambda: cosine_distances(np.ones((1, 2)), np.array([[0, 1], [np.inf, 0]])),
            "gallery: embedding 1 is not finite",
        ),
        (lambda: cosine_distances(np.ones((0, 2)), np.ones((2, 2))), "query: needs one embedding"),
        (lambda: classified(np.zeros((1, 2)), query.assign(label=2)), "outside the 2 classes"),
        (lambda: classified(np.zeros((2, 2)), query), r"logits \(2, 2\) do not fit 1"),
        (lambda: classified(np.array([[0, np.nan]]), query), "not a finite number"),
    ):
        with pytest.raises(InputError, match=message):
            bad()


def test_an_embedding_of_zeros_is_far_from_all():
    np.testing.assert_array_equal(cosine_distances(np.zeros((1, 3)), np.eye(3)), [[1, 1, 1]])


def test_accuracy_and_macro_auc_as_scikit_learn():
    rng = np.random.default_rng(2)
    query = random_tracks(rng, 60, drugs=12, classes=4)
    logits = rng.normal(size=(60, 6)) * rng.random((60, 1)) * 5  # classes 4 and 5 have no query
    logits[np.arange(60), query.label] += 1
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = classified(logits, query)
    assert found.auc.value == pytest.approx(
        np.mean([roc_auc_score(query.label == k, p[:, k]) for k in range(4)])
    )
    assert (found.classes, found.of) == (4, 6) and found.auc.low < found.auc.value < found.auc.high
    right = logits.argmax(axis=1) == query.label
    assert (found.accuracy.correct, found.accuracy.total) == (right.sum(), 60)
    assert found.over_drugs == mean_interval(right, query.compound)
    full = classified(logits[:, :4], query)
    q = p[:, :4] / p[:, :4].sum(axis=1, keepdims=True)
    assert full.auc.value == pytest.approx(
        roc_auc_score(query.label, q, multi_class="ovr", average="macro")
    )


def test_table_and_text_hold_counts_and_both_intervals():
    rng = np.random.default_rng(4)
    query, gallery = random_tracks(rng, 20), random_tracks(rng, 30)
    distance = rng.random((20, 30))
    results = [
        reid(distance, query, gallery),
        reid(distance, query, gallery, "strict"),
        classified(rng.normal(size=(20, 3)), query),
    ]
    table = reid_table({"net": results, "other": results[:1]})
    assert (
        list(table.figure[:10])
        == ["rank-1", "rank-5", "rank-10", "mAP"] * 2 + ["accuracy", "AUC of 3 classes"]
        and len(table) == 14
    )
    chance = table.set_index("figure").chance
    assert chance["accuracy"] == 1 / 3 and chance["AUC of 3 classes"] == 0.5
    assert chance["rank-5"].iloc[0] == results[0].random_rank(5)
    assert chance["mAP"].iloc[0] == results[0].random_average_precision
    assert table.skipped[:4].tolist() == [results[0].skipped] * 4
    assert table.total[8:10].tolist() == [20, 20] and table.skipped[8:10].tolist() == [0, 0]
    row = table.iloc[1]
    assert row.value == row.correct / row.total and (row.low, row.high) == wilson_interval(
        int(row.correct), int(row.total)
    )
    assert (
        table[table.figure == "mAP"].low.isna().all()
        and table[table.figure == "mAP"].drugs_low.notna().all()
    )
    assert flush_right(reid_text(table)) == ["value", "k/n", "chance", "skipped"]
    text = reid_text(table).splitlines()
    assert (
        len(text) == 16
        and f"{row.correct:.0f}/{row.total}" in text[3]
        and f"{row.low:.3f} .. {row.high:.3f}" in text[3]
    )


def test_new_drugs_are_the_queries_of_no_seen_drug_by_loops():
    rng = np.random.default_rng(6)
    query, gallery = random_tracks(rng, 30, drugs=9), random_tracks(rng, 40, drugs=9)
    distance = cdist(rng.normal(size=(30, 4)), rng.normal(size=(40, 4)), "cosine")
    seen = {"d0", "d1", "d2", "d5", "elsewhere"}
    found = reid_new_drugs(distance, query, gallery, seen)
    rows = np.flatnonzero([drug not in seen for drug in query.compound])
    precisions, firsts, skipped = by_loops(distance[rows], query.iloc[rows], gallery, "strict")
    np.testing.assert_allclose(found.queries.average_precision, precisions)
    assert (
        list(found.queries["first"]) == firsts
        and found.skipped == skipped
        and found.protocol == "strict, new drugs"
    )
    assert list(query["compound"][found.queries["query"]]) == list(
        found.queries["compound"]
    ) and not seen & set(found.queries["compound"])
    assert reid_new_drugs(distance, query, gallery, set(query.compound)) is None
    everything = reid_new_drugs(distance, query, gallery, set())
    strict = reid(distance, query, gallery, "strict")
    assert (
        everything.mean_average_precision == strict.mean_average_precision
        and everything.queries.equals(strict.queries)
    )


def test_how_many_drugs_training_saw_is_told():
    query = tracks((0, "a", "l1"), (0, "a", "l2"), (1, "b", "l1"), (1, "c", "l1"))
    told = seen_text({"first": {"a", "x"}, "second": {"x"}, "third": {"a", "c"}}, query)
    assert told.startswith(
        "Training saw the drugs of 3 of 4 queries (stage first, third), so every figure but those "
        "of 'strict, new drugs' is optimistic"
    )
    assert (
        "4 of 4 queries (stage s), so every figure is optimistic; no query is of a new drug"
        in seen_text({"s": {"a", "b", "c"}}, query)
    )
    assert "drugs of 0 of 4 queries: the figures are about new drugs" in seen_text(
        {"s": {"z"}, "t": set()}, query
    )
