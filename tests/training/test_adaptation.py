"""Which images a unit's BatchNorm statistics are of: its own controls, its experiment's, or all."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.config.schema import Predict
from cellsignal.training.adaptation import (
    COMPARED_UNITS,
    choose_statistics,
    deal_units,
    plan_comparison,
    smallest_batch,
    warn_of_units,
)
from cellsignal.training.ranks import ALONE

# plates: A1 has controls of both kinds, A2 none, B1 none nor its experiment
TABLE = pd.DataFrame(
    {
        "experiment": ["A", "A", "A", "A", "A", "A", "B", "B", "B"],
        "plate": ["1", "1", "1", "1", "2", "2", "1", "1", "1"],
        "role": [
            "treatment",
            "positive_control",
            "negative_control",
            "treatment",
            "treatment",
            "treatment",
            "treatment",
            "treatment",
            "treatment",
        ],
        "cell_type": "U2OS",
        "well_id": [f"w{number}" for number in range(9)],
        "treatment": "",
        "site": 1,
    }
)


def job_on(table: pd.DataFrame, sites=None, train=(), **predict):
    config = SimpleNamespace(predict=Predict(**predict), data=SimpleNamespace(sites=sites))
    store = SimpleNamespace(samples=table)
    return SimpleNamespace(config=config, store=store, train=np.array(train, int), title="fold 0")


@pytest.mark.parametrize(
    ("wells", "first"),
    [("all", [0, 1, 2, 3]), ("controls", [1, 2]), ("negative_controls", [2])],
)
def test_a_plate_without_such_wells_takes_its_experiments_then_all_of_its_own(wells, first):
    job = job_on(TABLE, adapt="plate", adapt_wells=wells)
    chosen = np.flatnonzero(TABLE.role == "treatment")
    found = choose_statistics(job, chosen)
    rows = [rows.tolist() for rows in found.rows.values()]
    if wells == "all":
        assert rows == [first, [4, 5], [6, 7, 8]]
        assert (found.from_experiment, found.from_unit) == (0, 0)
    else:
        assert rows == [first, first, [6, 7, 8]]
        assert (found.from_experiment, found.from_unit) == (1, 1)


def test_only_units_of_what_is_predicted_count():
    found = choose_statistics(job_on(TABLE, adapt="plate", adapt_wells="controls"), np.array([0]))
    assert list(found.rows) == [0] and (found.from_experiment, found.from_unit) == (0, 0)


def test_sites_that_the_config_leaves_out_are_in_no_statistics():
    table = TABLE.assign(site=[1, 2, 1, 1, 1, 1, 1, 1, 1])
    job = job_on(table, sites=(1,), adapt="plate", adapt_wells="controls")
    assert choose_statistics(job, np.array([0])).rows[0].tolist() == [2]


def test_without_adaptation_nothing_is_chosen():
    assert choose_statistics(job_on(TABLE), np.array([0])) is None
    assert smallest_batch(job_on(TABLE), np.array([0])) == 0


@pytest.mark.parametrize("size", [1, 2, 64])
def test_units_read_what_they_predict_and_their_controls_and_no_more(size):
    job = job_on(TABLE, adapt="plate", adapt_wells="controls", batch_size=size)
    chosen = np.array([5, 0, 7])
    positions, units = deal_units(job, chosen)
    assert positions.tolist() == [0, 1, 2, 5, 6, 7, 8]
    read = [
        (_positions(positions, unit.statistics), _positions(positions, unit.predicted))
        for unit in units
    ]
    assert read == [([1, 2], [0]), ([1, 2], [5]), ([6, 7, 8], [7])]
    assert [unit.holds_predicted for unit in units] == [False, False, True]
    assert [unit.of_controls for unit in units] == [True, True, False]
    assert max(len(batch) for unit in units for batch in unit.statistics) <= size


def _positions(positions: np.ndarray, batches: list[list[int]]) -> list[int]:
    return sorted(positions[[index for batch in batches for index in batch]].tolist())


def test_processes_share_the_units_out():
    job = job_on(TABLE, adapt="plate", adapt_wells="controls")
    chosen = np.flatnonzero(TABLE.role == "treatment")
    predicted = []
    for rank in range(2):
        positions, units = deal_units(job, chosen, dataclasses.replace(ALONE, rank=rank, world=2))
        predicted += [index for unit in units for index in _positions(positions, unit.predicted)]
    assert sorted(predicted) == chosen.tolist()


def test_the_smallest_batch_is_of_the_controls():
    """Plate A1 has two controls, A2 takes them too, B1 has three wells in batches of two and one."""
    chosen = np.flatnonzero(TABLE.role == "treatment")
    for size, smallest in ((1, 1), (2, 1), (64, 2)):
        job = job_on(TABLE, adapt="plate", adapt_wells="controls", batch_size=size)
        assert smallest_batch(job, chosen) == smallest


def test_a_store_without_any_such_well_is_refused_in_one_line():
    job = job_on(TABLE[TABLE.role == "treatment"], adapt="plate", adapt_wells="negative_controls")
    with pytest.raises(InputError, match=r"predict\.adapt_wells: negative_controls: none of the 7"):
        choose_statistics(job, np.array([0]))


def test_controls_need_a_unit():
    with pytest.raises(ValueError, match="adapt_wells: controls needs adapt: plate"):
        Predict(adapt_wells="controls")


def plate_of(wells: int, treatments: int | None, sites: int = 1) -> pd.DataFrame:
    """One plate of so many treated wells; its treatments are known, or not at all."""
    rows = [
        {
            "experiment": "A",
            "plate": "7",
            "role": "treatment",
            "cell_type": "U2OS",
            "site": site,
            "well_id": f"w{well}",
            "treatment": "" if treatments is None else f"t{well % treatments}",
        }
        for well in range(wells)
        for site in range(sites)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("wells", "treatments", "warns"),
    [(32, None, False), (31, None, True), (64, 16, False), (64, 15, True), (64, 1, True)],
)
def test_few_wells_or_few_known_treatments_are_warned_of(wells, treatments, warns, caplog):
    table = plate_of(wells, treatments, sites=2)  # sites are no wells
    warn_of_units(job_on(table, adapt="plate"), np.arange(len(table)))
    (message,) = caplog.messages or [""]
    assert message.startswith("predict.adapt: 1 of 1 plates have fewer than 32 wells") is warns
    if warns:
        assert f"first A plate 7 with {wells} wells" in message


def test_some_unknown_treatments_are_not_called_few(caplog):
    table = plate_of(64, 2)
    table.loc[5, "treatment"] = None
    warn_of_units(job_on(table, adapt="plate"), np.arange(64))
    assert not caplog.messages


def test_units_without_controls_are_warned_of_once(caplog):
    job = job_on(TABLE, adapt="plate", adapt_wells="controls")
    warn_of_units(job, np.flatnonzero(TABLE.role == "treatment"))
    assert caplog.messages == [
        "predict.adapt_wells: controls: 2 of 3 plates have none; 1 take their experiment's, 1 all "
        "wells of their own"
    ]


@pytest.mark.parametrize("predict", [{}, {"adapt": "plate", "adapt_wells": "controls"}])
def test_nothing_is_said_without_adaptation_or_where_controls_are_there(predict, caplog):
    warn_of_units(job_on(TABLE, **predict), np.array([0]))
    assert not caplog.messages


def many_plates(plates: int, controls: int = 6, treated: int = 10) -> pd.DataFrame:
    rows = [
        {"experiment": "A", "plate": f"{plate:02d}", "role": role, "cell_type": "U2OS", "site": 1}
        for plate in range(plates)
        for role, number in (("negative_control", controls), ("treatment", treated))
        for _ in range(number)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("plates", "size"), [(3, 64), (40, 8), (16, 1)])
def test_training_units_and_their_controls_are_compared(plates, size):
    table = many_plates(plates)
    train = np.flatnonzero((table.role == "treatment") & (table.plate != "01"))
    job = job_on(table, train=train, adapt="plate", adapt_wells="controls", batch_size=size)
    units = plan_comparison(job)
    assert len(units) == min(COMPARED_UNITS, plates - 1)
    for controls, trained in units:
        assert set(table.role[controls]) == {"negative_control"}
        assert set(trained) <= set(train) and len(set(trained)) == len(trained)
        (plate,) = set(table.plate[controls]) | set(table.plate[trained])
        assert plate != "01"
        most = max(2, size // 2)
        assert (len(controls), len(trained)) == (min(6, most), min(10, most))
    plates_compared = [table.plate[controls[0]] for controls, _ in units]
    assert len(set(plates_compared)) == len(units)
    if plates > COMPARED_UNITS:  # not the first ones alone
        assert plates_compared[-1] > "35"


def test_a_training_unit_with_one_control_is_not_compared_and_none_is_refused():
    table = many_plates(2, controls=1)
    train = np.flatnonzero(table.role == "treatment")
    job = job_on(table, train=train, adapt="plate", adapt_wells="controls")
    with pytest.raises(InputError, match="no plate that fold 0 trains on has two images"):
        plan_comparison(job)
