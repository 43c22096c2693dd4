"""The WILDS split of RxRx1: the published counts on the real CSVs, and what the parts mean on a
copy with known rows.
"""

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.bbbc021 import Bbbc021
from cellsignal.competitions.rxrx1 import RxRx1

PUBLISHED = {"train": 40_612, "id_test": 40_612, "ood_validation": 9_854, "ood_test": 34_432}


def table(rows):
    """Samples of (experiment, split, role, site); only what the parts depend on."""
    return pd.DataFrame(rows, columns=["experiment", "split", "role", "site"])


@pytest.mark.slow
def test_the_real_counts_are_the_published_ones(real_data):
    samples = RxRx1().samples(real_data / "rxrx1")
    parts = RxRx1().protocol_parts("wilds", samples)
    assert parts.value_counts().to_dict() == PUBLISHED == dict(RxRx1().protocol("wilds").parts)
    assert sum(PUBLISHED.values()) == len(samples) == 125_510
    experiments = samples.experiment.groupby(parts).unique().map(set)
    assert experiments["train"] == experiments["id_test"] and len(experiments["train"]) == 33
    assert experiments["ood_validation"] == {"HEPG2-08", "HUVEC-17", "RPE-08", "U2OS-04"}
    assert len(experiments["ood_test"]) == 14
    new = experiments["ood_validation"] | experiments["ood_test"]
    assert not new & experiments["train"] and len(new) == 18
    assert set(samples.site[parts == "train"]) == {1} and set(samples.site[parts == "id_test"]) == {
        2
    }
    wells = samples.well_id.groupby(parts).agg(set)
    assert wells["train"] == wells["id_test"], (
        "the in-distribution test is the other site of the trained wells"
    )
    controls = (samples.role != "treatment").groupby(parts).sum()
    assert controls.to_dict() == {
        "train": 4_097,
        "id_test": 4_097,
        "ood_validation": 992,
        "ood_test": 2 * 2_246 - 992,
    }


def test_parts_follow_split_site_and_the_public_leaderboard():
    rows = [
        ("RPE-02", "train", "treatment", 1, "train"),
        ("RPE-02", "train", "treatment", 2, "id_test"),
        ("RPE-02", "train", "treatment", 3, ""),
        ("RPE-02", "train", "negative_control", 1, "train"),
        ("RPE-9", "test", "treatment", 1, "ood_validation"),
        ("RPE-9", "test", "treatment", 2, "ood_validation"),
        ("RPE-9", "test", "positive_control", 2, "ood_validation"),
        ("RPE-10", "test", "treatment", 1, "ood_test"),
        ("U2OS-04", "test", "treatment", 2, "ood_validation"),
    ]
    samples = table([row[:4] for row in rows]).set_axis(range(7, 7 + len(rows)))
    parts = RxRx1().protocol_parts("wilds", samples)
    assert parts.tolist() == [row[4] for row in rows] and parts.index.equals(samples.index)
    order = np.random.default_rng(0).permutation(len(rows))
    assert RxRx1().protocol_parts("wilds", samples.iloc[order]).equals(parts.iloc[order])


def test_labels_decide_nothing(simulated):
    rxrx1 = RxRx1()
    samples = rxrx1.samples(simulated("rxrx1"))
    parts = rxrx1.protocol_parts("wilds", samples)
    assert set(parts) <= {*PUBLISHED, ""} and set(parts[samples.split == "train"]) == {
        "train",
        "id_test",
    }
    assert rxrx1.protocol_parts("wilds", samples.assign(label=pd.NA, compound=None)).equals(parts)


def test_one_test_experiment_a_cell_type_leaves_no_validation():
    samples = table([("RPE-02", "test", "treatment", 1), ("U2OS-03", "test", "treatment", 1)])
    assert RxRx1().protocol_parts("wilds", samples).tolist() == ["ood_test", "ood_test"]
    assert RxRx1().protocol_parts("wilds", samples.iloc[:0]).empty


@pytest.mark.parametrize(
    "competition, protocol_id, message",
    [
        (RxRx1, "wild", r"protocol: rxrx1 has kaggle, wells, wilds, not 'wild'"),
        (RxRx1, "kaggle", r"protocol: 'kaggle' of rxrx1 has no parts"),
        (Bbbc021, "compound", r"protocol: 'compound' of bbbc021 has no parts"),
        (Bbbc021, "wilds", r"protocol: bbbc021 has compound, well, image, not 'wilds'"),
    ],
)
def test_protocols_without_parts_are_refused_in_one_line(competition, protocol_id, message):
    with pytest.raises(InputError, match=message) as caught:
        competition().protocol_parts(protocol_id, table([]))
    assert "\n" not in str(caught.value)


def test_the_facts_of_a_protocol_are_told():
    rxrx1 = get_competition("rxrx1")
    wilds, kaggle = rxrx1.protocol("wilds"), rxrx1.protocol("kaggle")
    assert (wilds.by_site, wilds.controls_are_classes, wilds.assignment) == (True, True, False)
    assert (kaggle.by_site, kaggle.controls_are_classes, kaggle.assignment) == (False, False, True)
    assert wilds.summary.startswith(
        "Scored by site; controls are classes; no plate assignment; no experiment is split. "
    )
    assert kaggle.summary.startswith(
        "Scored by id; controls are not scored; the plate layout may be used; "
    )
