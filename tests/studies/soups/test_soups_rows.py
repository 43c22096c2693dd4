"""What the trainings of the study differ in."""

from pathlib import Path

import pytest

from cellsignal.common.errors import InputError
from cellsignal.studies.soups.rows import ROWS, check_epochs, training

PLACE = Path("place")


def test_trainings_differ_in_what_they_say_alone():
    one = training("one", PLACE, 3, 30)
    cycled = training("cycles", PLACE, 3, 30, cycles=3, snapshots="cycles")
    (a,), (b,) = one.stages, cycled.stages
    assert a.schedule.cycles == 1 and b.snapshot_epochs == (12, 21, 30)
    same = {"schedule": a.schedule, "snapshots": None}
    assert b.model_copy(update=same) == a and one.model == cycled.model
    assert training("ema", PLACE, 3, 30, ema=0.9).stages[0].model_copy(update={"ema": None}) == a


def test_a_fine_tune_starts_from_the_file_at_a_lower_rate_without_a_warm_up():
    tuned = training("tuned", PLACE, 4, 15, weights=Path("first.safetensors"))
    assert tuned.model.weights == Path("first.safetensors") and tuned.seed == 4
    (stage,) = tuned.stages
    assert stage.optimizer.lr == 1e-3 and stage.schedule.warmup_epochs == 0 and stage.epochs == 15


def test_rows_name_their_members_and_the_mean_of_their_predictions():
    for row in ROWS.values():
        assert row.alone == "" or ROWS[row.alone].networks == 1
        assert row.mean == "" or (ROWS[row.mean].networks == 3 and row.networks == 1)
        assert row.mean == "" or ROWS[row.mean].trained == row.trained


@pytest.mark.parametrize("epochs", [3, 10, 31])
def test_epochs_without_halves_and_cycles_are_refused(epochs):
    check_epochs(30)
    with pytest.raises(InputError, match=f"--epochs {epochs}: give a multiple of 6"):
        check_epochs(epochs)
