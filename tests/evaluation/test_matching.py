"""NSC and NSCB against a double loop, hand-made vectors, and the real annotation of BBBC021."""

import numpy as np
import pandas as pd
import pytest
from columns import flush_right
from hypothesis import given, settings
from hypothesis import strategies as st
from pycytominer import consensus
from scipy.spatial.distance import cosine

from cellsignal.common.errors import InputError
from cellsignal.evaluation.matching import (
    not_same_compound,
    not_same_compound_or_batch,
    treatment_profiles,
)
from cellsignal.evaluation.matching_text import match_text, moa_table


def table(rows) -> pd.DataFrame:
    """(treatment, compound, moa, batch) rows, each a well."""
    frame = pd.DataFrame(rows, columns=["treatment", "compound", "moa", "experiment"])
    return frame.assign(well_id=[f"w{i:04d}" for i in range(len(frame))])


@st.composite
def screens(draw):
    """Wells of up to nine treatments of up to four compounds in up to three batches; small whole
    numbers, so that ties are common.
    """
    rows, x = [], []
    for number in range(draw(st.integers(2, 9))):
        compound = draw(st.sampled_from("ABCD"))
        for _ in range(draw(st.integers(1, 3))):
            rows.append(
                (
                    f"t{number}",
                    compound,
                    {"A": "m1", "B": "m1", "C": "m2", "D": "m3"}[compound],
                    draw(st.sampled_from(["b1", "b2", "b3"])),
                )
            )
            x.append(draw(st.lists(st.integers(-3, 3), min_size=3, max_size=3)))
    return np.array(x, float), table(rows)


def nearest(x, wells, batches: bool) -> dict[str, tuple[set[str], int]]:
    """treatment -> (nearest treatments, number of candidates), by definition, one pair after the
    other.
    """
    found = {}
    for a, mine in wells.groupby("treatment"):
        best, names, number = None, set(), 0
        for b, others in wells.groupby("treatment"):
            if mine["compound"].iloc[0] == others["compound"].iloc[0]:
                continue
            left, right = mine, others
            shared = set(mine.experiment) & set(others.experiment)
            if batches and shared:
                if mine.experiment.nunique() == others.experiment.nunique():
                    continue
                if mine.experiment.nunique() > others.experiment.nunique():
                    left = mine[~mine.experiment.isin(shared)]
                else:
                    right = others[~others.experiment.isin(shared)]
                assert not set(left.experiment) & set(right.experiment)
            p, q = (np.median(x[part.index], axis=0) for part in (left, right))
            similarity = 0.0 if not (p.any() and q.any()) else round(1 - cosine(p, q), 9)
            number += 1
            if best is None or similarity > best:
                best, names = similarity, set()
            if similarity == best:
                names.add(b)
        found[a] = (names, number)
    return found


@settings(max_examples=12, deadline=None)
@given(screens())
def test_as_a_double_loop_finds(screen):
    x, wells = screen
    moa = wells.drop_duplicates("treatment").set_index("treatment").moa
    seen = wells.groupby("moa").experiment.nunique()
    for batches, measure in ((False, not_same_compound), (True, not_same_compound_or_batch)):
        expected = nearest(x, wells, batches)
        left_out = set(seen.index[seen == 1]) if batches else set()
        scored = [name for name in sorted(expected) if moa[name] not in left_out]
        if not scored:
            with pytest.raises(InputError, match="no treatment is left"):
                measure(x, wells)
            continue
        found = measure(x, wells)
        assert set(found.left_out) == left_out and list(found.table.treatment) == scored
        assert list(found.table.candidates) == [expected[name][1] for name in scored]
        assert list(found.table.tied) == [len(expected[name][0]) for name in scored]
        for row in found.table.itertuples():
            assert row.neighbour in expected[row.treatment][0] or (
                row.neighbour is None and not row.candidates
            )
        right = [
            row.neighbour is not None and moa[row.neighbour] == moa[row.treatment]
            for row in found.table.itertuples()
        ]
        assert list(found.table.right) == right and (
            found.accuracy.correct,
            found.accuracy.total,
        ) == (sum(right), len(right))


def test_hand_made_vectors():
    """a2 is nearer to its own compound's a1 than to b, c nearest to b although it is of another
    class.
    """
    wells = table(
        [
            ("a1", "A", "m", "w1"),
            ("a2", "A", "m", "w2"),
            ("b", "B", "m", "w1"),
            ("c", "C", "n", "w3"),
            ("d", "D", "n", "w1"),
        ]
    )
    x = np.array([[1, 0], [1, 0.1], [1, 0.5], [1, 0.9], [0, 1.0]])
    found = not_same_compound(x, wells).table.set_index("treatment")
    assert found.neighbour.to_dict() == {"a1": "b", "a2": "b", "b": "c", "c": "b", "d": "c"}
    assert found.right.to_dict() == {"a1": True, "a2": True, "b": False, "c": False, "d": True}
    assert found.similarity["d"] == pytest.approx(0.9 / np.hypot(1, 0.9))
    assert found.chance["a1"] == pytest.approx(1 / 3) and found.chance["b"] == pytest.approx(2 / 4)
    apart = not_same_compound_or_batch(x, wells).table.set_index("treatment")
    assert apart.neighbour.to_dict() == {"a1": "c", "a2": "b", "b": "c", "c": "b", "d": "c"}
    assert apart.right.sum() == 2


def test_the_text_by_hand():
    wells = table(
        [
            ("a1", "A", "m", "w1"),
            ("a2", "A", "m", "w2"),
            ("b", "B", "m", "w1"),
            ("c", "C", "n", "w3"),
            ("d", "D", "n", "w1"),
        ]
    )
    x = np.array([[1, 0], [1, 0.1], [1, 0.5], [1, 0.9], [0, 1.0]])
    protocols, mechanisms, wrong = match_text([not_same_compound(x, wells)]).split("\n\n")
    # chance: a1 1/3, a2 1/3, b 2/4, c 1/4, d 1/4; Wilson's interval of 3 in 5
    cells = protocols.splitlines()[2].split()
    assert cells[:6] == ["NSC", "3/5", "0.600", "0.231", "..", "0.882"] and cells[-1] == "0.333"
    assert flush_right(protocols) == ["right", "accuracy", "chance"]
    assert [line.split() for line in mechanisms.splitlines()[2:]] == [["m", "2/3"], ["n", "1/2"]]
    assert flush_right(mechanisms) == []
    # cosine of b and c: (1 + .45) / sqrt(1.25 x 1.81)
    assert [line.split() for line in wrong.splitlines()[2:]] == [
        ["NSC", "b", "m", "c", "n", "0.964"],
        ["NSC", "c", "n", "b", "m", "0.964"],
    ]
    assert flush_right(wrong) == ["cosine"]
    right = not_same_compound(x[[0, 2]], wells.iloc[[0, 2]].reset_index(drop=True))
    assert right.accuracy.value == 1 and "wrong under" not in match_text([right])


def test_a_single_wrong_treatment_is_listed():
    wells = table([("a", "A", "m", "w"), ("b", "B", "m", "w"), ("c", "C", "n", "w")])
    x = np.array([[1, 0], [1, 0.1], [0, 1.0]])
    *_, wrong = match_text([not_same_compound(x, wells)]).split("\n\n")
    # cosine of b and c: .1 / sqrt(1.01)
    assert wrong.splitlines()[2].split() == ["NSC", "c", "n", "b", "m", "0.100"]
    assert len(wrong.splitlines()) == 3


def test_a_class_of_one_compound_is_wrong_and_a_lone_compound_has_no_candidate():
    wells = table([("a", "A", "m", "w"), ("b", "B", "n", "w"), ("c", "C", "n", "w")])
    found = not_same_compound(np.eye(3), wells).table.set_index("treatment")
    assert not found.right["a"] and found.candidates["a"] == 2 and found.chance["a"] == 0
    alone = not_same_compound(np.eye(2), table([("a1", "A", "m", "w"), ("a2", "A", "m", "w")]))
    assert list(alone.table.candidates) == [0, 0] and list(alone.table.neighbour) == [None, None]
    assert alone.accuracy.correct == 0 and alone.accuracy.total == 2
    assert "none to choose from" in match_text([alone])


def test_a_tied_neighbour_is_drawn_whatever_the_names_and_is_counted():
    """Profiles that are all alike: right as often as a random neighbour would be, though all of a
    class stand together by name.
    """
    names = [f"{moa}{number}" for moa in "abcde" for number in range(40)]
    wells = table([(name, name, name[0], "w") for name in names])
    # one direction, but for rounding
    x = np.outer(np.arange(1, 201), [1.0, 2, 3]).astype(np.float32)
    found = not_same_compound(x, wells)
    assert (found.table.tied == 199).all() and found.chance == pytest.approx(39 / 199)
    assert abs(found.accuracy.value - found.chance) < 4 * np.sqrt(
        found.chance * (1 - found.chance) / 200
    )
    assert (
        "NSC: 200 of 200 treatments have several equally near neighbours; one was drawn"
        in match_text([found])
    )
    again = not_same_compound(x[::-1], wells[::-1].reset_index(drop=True))
    assert list(again.table.neighbour) == list(found.table.neighbour), (
        "the order of the rows decides nothing"
    )
    two = not_same_compound(
        np.array([[1, 0], [1, 0.1], [0, 1.0]]),
        table([("q", "Q", "m", "w"), ("z", "Z", "m", "w"), ("b", "B", "n", "w")]),
    )
    assert (two.table.tied == 1).all() and "equally near" not in match_text([two])


def test_a_control_on_all_batches_is_compared_by_its_other_batches():
    """taxol looks like x in batch w1, where x stands, and like y elsewhere: without its wells of w1
    it is nearest to y, and x to y.
    """
    wells = table(
        [
            ("taxol", "T", "m", "w1"),
            ("taxol", "T", "m", "w1"),
            ("taxol", "T", "m", "w2"),
            ("x", "X", "m", "w1"),
            ("y", "Y", "n", "w3"),
        ]
    )
    x = np.array([[1, 0], [1, 0], [0, 1], [1, 0.0], [0.3, 1]])
    assert not_same_compound(x, wells).table.set_index("treatment").neighbour.drop(
        "y"
    ).to_dict() == {"taxol": "x", "x": "taxol"}
    apart = not_same_compound_or_batch(x, wells)
    assert apart.left_out == ("n",)
    assert apart.table.set_index("treatment").neighbour.to_dict() == {"taxol": "y", "x": "y"}
    assert "DeepProfiler's notebook has another rule for taxol" in match_text([apart])


def test_median_over_wells_of_the_mean_over_images_as_pycytominer_has_it():
    rng = np.random.default_rng(0)
    # 4, 4, 3, 3 wells: absent ones are absent
    wells = table([(f"t{i % 4}", "C", "m", "w") for i in range(14)])
    images = wells.loc[wells.index.repeat(3)].reset_index(drop=True)
    x = rng.normal(5, 1, (len(images), 6))
    keep = rng.random(len(images)) < 0.8
    found, facts = treatment_profiles(x[keep], images[keep].reset_index(drop=True))
    frame = pd.DataFrame(x[keep], columns=list("abcdef")).assign(
        well=images.well_id[keep].to_numpy(), treatment=images.treatment[keep].to_numpy()
    )
    means = frame.groupby(["treatment", "well"]).mean().reset_index()
    expected = consensus(
        means, replicate_columns=["treatment"], operation="median", features=list("abcdef")
    )
    np.testing.assert_allclose(found, expected[list("abcdef")], rtol=1e-5)
    assert list(facts.treatment) == list(expected.treatment) and facts.wells.sum() == means.shape[0]
    assert found.min() > 2, "a missing well counted as zero would be far below"


def real_wells(real_data) -> pd.DataFrame:
    """One row a well of the 103 annotated treatments and DMSO, from the published CSVs."""
    image = pd.read_csv(real_data / "bbbc021" / "BBBC021_v1_image.csv")
    moa = pd.read_csv(real_data / "bbbc021" / "BBBC021_v1_moa.csv")
    joined = image.merge(
        moa,
        left_on=["Image_Metadata_Compound", "Image_Metadata_Concentration"],
        right_on=["compound", "concentration"],
    )
    wells = joined.drop_duplicates(["Image_Metadata_Plate_DAPI", "Image_Metadata_Well_DAPI"])
    return pd.DataFrame(
        {
            "well_id": wells.Image_Metadata_Plate_DAPI + "_" + wells.Image_Metadata_Well_DAPI,
            "experiment": wells.Image_PathName_DAPI.str.split("/").str[0],
            "treatment": wells["compound"] + "@" + wells.concentration.astype(str),
            "compound": wells["compound"],
            "moa": wells.moa,
            "role": np.where(wells["compound"] == "DMSO", "negative_control", "treatment"),
        }
    ).reset_index(drop=True)


def test_103_and_92_treatments_of_the_real_screen(real_data):
    wells = real_wells(real_data)
    truth = pd.get_dummies(wells.moa).to_numpy(float)
    nsc, nscb = not_same_compound(truth, wells), not_same_compound_or_batch(truth, wells)
    assert (nsc.accuracy.correct, nsc.accuracy.total) == (103, 103)
    assert (nscb.accuracy.correct, nscb.accuracy.total) == (92, 92), (
        "each of the 92 has a neighbour of its class in another batch"
    )
    assert set(nscb.left_out) == {"Cholesterol-lowering", "Kinase inhibitors"}
    assert nsc.table["compound"].nunique() == 38 and nsc.table.moa.nunique() == 12
    counts = moa_table([nsc, nscb]).set_index("moa")
    assert counts.loc["Kinase inhibitors"].to_list() == ["5/5", ""] and counts.loc[
        "Microtubule stabilizers"
    ].to_list() == ["9/9", "9/9"]
    assert f"{nsc.accuracy.low:.3f}" == "0.964" and f"{nsc.cluster_low:.3f}" == "0.908"  # 38 of 38
    few = nsc.of(wells.treatment[wells["compound"] == "taxol"], "NSC, taxol")
    assert few.accuracy.total == 3 and np.isnan(few.cluster_low)


def test_noise_scores_chance(real_data):
    wells, rng = real_wells(real_data), np.random.default_rng(0)
    found = [
        measure(rng.normal(size=(len(wells), 16)), wells)
        for measure in (not_same_compound, not_same_compound_or_batch)
        for _ in range(5)
    ]
    share = np.mean([one.accuracy.value for one in found])
    assert (
        share == pytest.approx(np.mean([one.chance for one in found]), abs=0.04)
        and 0.03 < share < 0.16
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moa": None}, "no well has both"),
        ({"treatment": None}, "no well has both"),
        ({"role": "negative_control"}, "no well has both"),
    ],
)
def test_nothing_to_match(change, message):
    with pytest.raises(InputError, match=message):
        not_same_compound(
            np.eye(2), table([("a", "A", "m", "w"), ("b", "B", "m", "w")]).assign(**change)
        )


def test_tables_that_contradict_themselves_are_refused():
    wells = table([("a", "A", "m", "w"), ("a", "A", "n", "w")])
    with pytest.raises(InputError, match="treatment 'a' disagree"):
        not_same_compound(np.eye(2), wells)
    with pytest.raises(InputError, match="well_id 'w0000' disagree"):
        not_same_compound(
            np.eye(2), table([("a", "A", "m", "w"), ("b", "A", "m", "w")]).assign(well_id="w0000")
        )
    with pytest.raises(InputError, match=r"w0001.*not a finite number"):
        not_same_compound(
            np.array([[1, 0], [np.nan, 1]]), table([("a", "A", "m", "w"), ("b", "B", "m", "w")])
        )
