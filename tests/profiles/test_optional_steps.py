"""ComBat and Harmony: what the packages are given, and what is refused before or without them."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cellsignal.common.errors import InputError
from cellsignal.profiles.optional_steps import COMPONENTS, combat, harmony
from cellsignal.profiles.profile_steps import Profiles, normalise_profiles, steps_text

STEPS = {"combat": combat, "harmony": harmony}
CLASSES = np.tile(np.arange(8), 30)


def plates(features: int = 60) -> tuple[np.ndarray, pd.DataFrame]:
    """Wells of 8 classes on 3 plates, each plate shifted and scaled."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, features))[CLASSES] * 2 + rng.normal(size=(240, features))
    x = x * np.repeat([1, 2, 0.5], 80)[:, None]
    x += np.repeat(rng.normal(size=(3, features)) * 4, 80, axis=0)
    wells = pd.DataFrame({"experiment": "e", "plate": np.repeat(["1", "2", "3"], 80)})
    return x.astype(np.float32), wells.assign(role="treatment")


def right_on_another_plate(x: np.ndarray) -> float:
    """Share of plate 3 that the nearest wells of the others name right."""
    known = KNeighborsClassifier(5).fit(x[:160], CLASSES[:160])
    return known.score(x[160:], CLASSES[160:])


@pytest.mark.parametrize(("step", "package"), [("combat", "scanpy"), ("harmony", "harmonypy")])
def test_correction_names_wells_of_another_plate(step, package):
    pytest.importorskip(package)
    x, wells = plates()
    assert right_on_another_plate(x) < 0.4
    corrected = STEPS[step](x, wells, "plate")
    assert corrected.dtype == np.float32 and len(corrected) == len(x)
    assert right_on_another_plate(corrected) > 0.7
    assert np.array_equal(corrected, STEPS[step](x, wells, "plate"))
    if step == "combat":
        means = [corrected[wells.plate == plate].mean(axis=0) for plate in "123"]
        np.testing.assert_allclose(means[0], means[1], atol=0.5)


@pytest.mark.parametrize("transposed", [False, True])
def test_harmonys_result_is_read_whichever_way_it_lies(monkeypatch, transposed):
    given = {}

    def run_harmony(scores, frame, column, **more):
        given.update(more, scores=scores, unit=frame[column].tolist())
        return SimpleNamespace(Z_corr=scores.T + 1 if transposed else scores + 1)

    fake = ModuleType("harmonypy")
    fake.run_harmony = run_harmony
    monkeypatch.setitem(sys.modules, "harmonypy", fake)
    x, wells = plates()
    corrected = harmony(x, wells, "plate")
    assert corrected.shape == (240, COMPONENTS) and given["nclust"] == 8
    np.testing.assert_allclose(corrected, given["scores"] + 1, rtol=1e-5)
    assert given["unit"] == [f"e {plate}" for plate in wells.plate]
    # principal components: centred, uncorrelated, of falling variance
    covariance = np.cov(given["scores"].T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-6)
    assert (np.diff(np.diag(covariance)) <= 1e-9).all()
    assert harmony(x[:, :5], wells, "plate").shape == (240, 5)
    profiles = Profiles(x[:, :5], wells, tuple("abcde"))
    after = normalise_profiles(profiles, ["harmony"])
    assert after.features == tuple(f"harmony{number}" for number in range(5))
    assert steps_text(profiles, ["harmony"], True, "plate", "all") == "harmony (by plate)"


@pytest.mark.parametrize("step", STEPS)
def test_a_package_that_is_missing_is_named_with_what_to_do(monkeypatch, step):
    package = {"combat": "scanpy", "harmony": "harmonypy"}[step]
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(InputError, match=rf"^{step}: needs the package {package}.*pip install"):
        STEPS[step](*plates(), "plate")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plate": "1"}, "all wells are of one plate; there is no batch to correct"),
        ({"plate": ["4"] + ["1", "2"] * 119 + ["1"]}, "plate e 4 has one well, at least 2 needed"),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_units_that_cannot_be_corrected_are_refused(monkeypatch, step, change, words):
    for package in ("scanpy", "harmonypy"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    x, wells = plates()
    with pytest.raises(InputError, match=f"^{step}: {words}"):
        STEPS[step](x, wells.assign(**change), "plate")


def test_combat_refuses_features_that_do_not_vary(monkeypatch):
    monkeypatch.setitem(sys.modules, "scanpy", ModuleType("scanpy"))
    x, wells = plates()
    x[:, 3:5] = 7
    with pytest.raises(InputError, match="combat: 2 of 60 features do not vary"):
        combat(x, wells, "plate")
