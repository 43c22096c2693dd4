"""The order of a config's trainings: what of the work is still to come."""

import pytest
from tiny import make_config, stage

from cellsignal.training.plan import jobs_of
from cellsignal.training.run import _epochs_to_come


@pytest.fixture
def jobs(plates, tmp_path):
    stages = [
        stage("all", epochs=4, validate_every=4),
        stage("cell_type", per="cell_type", init="previous", epochs=2, validate_every=2),
    ]
    config = make_config(plates, tmp_path, stages, predict={"adapt": "plate"})
    return jobs_of(config)


def test_later_trainings_count_in_epochs_of_the_first(jobs):
    """By hand: a step is three passes of an image; a validation two, with statistics."""
    first, *others = jobs
    images = 3 * 4 * len(first.train) + 2 * len(first.valid)
    later = sum(3 * 2 * len(job.train) + 2 * len(job.valid) for job in others)
    assert len(others) == 4 and later > 0
    assert _epochs_to_come(others, first) == pytest.approx(later / images * 4)


def test_a_training_that_has_begun_is_not_to_come(jobs):
    first, second, *others = jobs
    path = second.folder / "last.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert _epochs_to_come([second], first) == 0
    assert _epochs_to_come([second, *others], first) == _epochs_to_come(others, first) > 0
