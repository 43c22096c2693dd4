import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import log_loss as sklearn_log_loss

from cellsignal.common.errors import InputError
from cellsignal.metrics.reliability import (
    BINS,
    Fitted,
    calibration_error,
    claims,
    cross_fit,
    faultless_error,
    fit_temperature,
    log_loss,
    reliability_bins,
    reliability_text,
    sharpened,
    split_units,
)


def simulated(temperature, rows=4000, classes=6, units=20, seed=0):
    """Scores whose probabilities are right after division by `temperature`."""
    rng = np.random.default_rng(seed)
    scores = log_softmax(rng.normal(0, 2, (rows, classes)), axis=1)
    chance = np.exp(scores).cumsum(axis=1)
    truth = (rng.random((rows, 1)) > chance).sum(axis=1).clip(max=classes - 1)
    return scores * temperature, truth, np.arange(rows) % units


def predictor(scores):
    return lambda rows, temperature: softmax(scores[rows] / temperature, axis=1)


def crossed(predict, truth, unit):
    """Fit and test the temperature of `predict`."""

    def fit(rows):
        temperature = fit_temperature(predict, truth, rows)
        return Fitted((temperature,), lambda chosen: predict(chosen, temperature))

    return cross_fit(fit, lambda rows: predict(rows, 1.0), truth, unit)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_the_simulation_is_found(temperature):
    scores, truth, unit = simulated(temperature)
    fitted = fit_temperature(predictor(scores), truth, np.arange(len(truth)))
    assert fitted == pytest.approx(temperature, rel=0.08)
    result = crossed(predictor(scores), truth, unit)
    assert np.ravel(result.temperatures) == pytest.approx([temperature] * 2, rel=0.12)
    assert result.error < 0.03 and result.log_loss <= result.log_loss_before + 0.002
    if temperature != 1:
        assert result.error_before > 2 * result.error
    assert result.error == pytest.approx(result.floor, abs=0.012)


def test_a_temperature_is_never_tested_on_what_it_was_fitted_on():
    scores, truth, unit = simulated(2.0, rows=400)
    seen = []

    def predict(rows, temperature):
        seen.append((frozenset(unit[rows]), temperature))
        return predictor(scores)(rows, temperature)

    result = crossed(predict, truth, unit)
    for (fitted,) in result.temperatures:
        tested = {units for units, value in seen if value == fitted}
        tried = [units for units, value in seen if abs(np.log(value / fitted)) < 1e-3]
        assert len(tested) >= 1 and len(set(tried)) == 2  # fitted on one half, used on the other
    a, b = split_units(unit)
    assert not set(unit[a]) & set(unit[b]) and len(a) + len(b) == 400


@pytest.mark.parametrize("several", [False, True])
def test_pieces_change_nothing(several):
    scores, truth, unit = simulated(2.0, rows=300)
    if several:  # each class of a row is a question, and some are not answered
        answers = np.random.default_rng(0).choice([0.0, 1.0, np.nan], scores.shape)
        truth = np.where(np.arange(6) == truth[:, None], 1.0, answers)

    def test(**options):
        predict = predictor(scores)
        return cross_fit(
            lambda rows: Fitted((3.0,), lambda chosen: predict(chosen, 3.0)),
            lambda rows: predict(rows, 1.0),
            truth,
            unit,
            **options,
        )

    whole = test()
    pieces = test(pieces=lambda rows: np.split(rows, [1, 40, 41]))
    assert whole.table.equals(pieces.table) and whole.log_loss == pieces.log_loss
    assert (whole.error, whole.log_loss_before) == (pieces.error, pieces.log_loss_before)


def test_halves_are_of_much_the_same_size():
    unit = np.repeat(np.arange(9), [100, 90, 5, 5, 40, 30, 30, 80, 20])
    a, b = split_units(unit)
    assert abs(len(a) - len(b)) <= 20
    with pytest.raises(InputError, match="one unit"):
        split_units(["a", "a"])


def test_log_loss_is_sklearns():
    scores, truth, _ = simulated(1.0, rows=200)
    probability = softmax(scores, axis=1)
    assert log_loss(probability, truth) == pytest.approx(sklearn_log_loss(truth, probability))
    several = (np.arange(12).reshape(4, 3) % 2).astype(float)
    stated = expit(np.linspace(-2, 2, 12)).reshape(4, 3)
    expected = sklearn_log_loss(several.ravel(), stated.ravel())
    assert log_loss(stated, several) == pytest.approx(expected)
    several[0, 0] = np.nan
    expected = sklearn_log_loss(several.ravel()[1:], stated.ravel()[1:])
    assert log_loss(stated, several) == pytest.approx(expected)


def test_the_calibration_error_by_hand():
    """Guo et al. 2017: bins of equal width, weighed by their numbers."""
    rng = np.random.default_rng(2)
    stated, right = rng.random(500), rng.random(500) < 0.6
    error = 0.0
    for number in range(BINS):
        inside = (stated >= number / BINS) & (stated < (number + 1) / BINS)
        error += inside.sum() / 500 * abs(right[inside].mean() - stated[inside].mean())
    assert calibration_error(stated, right) == pytest.approx(error)
    table = reliability_bins(stated, right)
    assert table.n.sum() == 500 and (table.low <= table.probability).all()
    assert (table.probability <= table.high).all()
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


def test_without_fault_the_error_is_that_of_chance():
    stated = np.full(400, 0.5)
    assert faultless_error(stated) == pytest.approx(np.sqrt(2 / np.pi) * 0.5 / 20, rel=0.15)


def test_of_several_labels_every_class_is_a_claim():
    truth = np.array([[1, 0, np.nan], [0, 1, 1.0]])
    probability = np.array([[0.9, 0.2, 0.5], [0.1, 0.6, 0.7]])
    stated, right = claims(probability, truth)
    assert stated.tolist() == [0.9, 0.2, 0.1, 0.6, 0.7]
    assert right.tolist() == [True, False, False, True, True]


def test_the_text_says_what_was_tested():
    scores, truth, unit = simulated(2.0, rows=300, units=6)
    result = crossed(predictor(scores), truth, unit)
    text = reliability_text(result, "experiment", "probabilities")
    assert "fitted on half of the 6 experiments, tested on the other half" in text
    assert f"{result.log_loss:.4f}" in text and "300 targets" in text


def test_few_rows_that_are_all_right_claim_no_certainty():
    scores = np.log(np.tile([0.9, 0.05, 0.05], (60, 1)))
    truth, rows = np.zeros(60, int), np.arange(60)
    fitted = fit_temperature(predictor(scores), truth, rows)
    assert 0.2 < fitted < 0.9 and 0.95 < predictor(scores)(rows, fitted)[0, 0] < 0.9999


def test_sharpening_is_a_power():
    probability = np.array([[0.5, 0.3, 0.2]])
    power = probability**2 / (probability**2).sum()
    assert sharpened(probability, 0.5) == pytest.approx(power)
    assert sharpened(np.array([[1.0, 0.0]]), 2.0)[0, 0] == pytest.approx(1)
    assert sharpened(probability, 0.5, out=probability) is probability
    assert probability == pytest.approx(power)
