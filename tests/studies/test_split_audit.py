"""The split audit on features with a known answer."""

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.profiles.image_features import image_features
from cellsignal.studies.split_audit import audit_split, audit_text


def plates(batch: float, seed=0, experiments=8, classes=6, copies=4):
    """Control wells whose class shows as the mean of channel 0 and whose class-by-experiment
    response (size `batch`) as that of channel 1.
    """
    rng, rows, images = np.random.default_rng(seed), [], []
    for experiment in range(experiments):
        own = rng.permutation(classes)  # which class looks like which here
        for label in range(classes):
            for plate in range(copies):
                image = rng.normal(100, 3, (2, 12, 12))
                image[0] += 1.2 * label + rng.normal(0, 1)
                image[1] += batch * own[label]
                rows.append((f"E-{experiment}", str(plate), f"{experiment}_{plate}_{label}", label))
                images.append(np.clip(image, 0, 255).astype(np.uint8))
    frame = pd.DataFrame(rows, columns=["experiment", "plate", "well_id", "label"])
    frame["sample_id"] = frame.well_id + "_s1"
    frame = frame.assign(
        role="positive_control",
        cell_type="E",
        row=range(len(rows)),
        label=frame.label.astype("Int64"),
    )
    return frame, images


def test_without_batch_effects_a_random_split_is_not_optimistic():
    frame, images = plates(batch=0.0)
    found = audit_split(frame, images.__getitem__, standardised=False)
    assert found.unseen.value > 2 * found.chance
    assert abs(found.seen.value - found.unseen.value) < 0.12


def test_it_is_optimistic_where_siblings_in_the_experiment_give_the_class_away():
    """A look that names the class in one experiment and misleads in the other: held-out wells are
    easy, the other experiment is not.
    """
    frame, images = plates(batch=8.0, experiments=2, copies=8)
    found = audit_split(frame, images.__getitem__, standardised=False)
    assert found.seen.low > found.unseen.high and "1.000 [" in audit_text([found])


def test_other_sites_of_trained_wells_give_the_well_away():
    """Wells of one experiment by another show nothing but themselves: a second site is known,
    another well of the class is not.
    """
    rng, rows, images = np.random.default_rng(0), [], []
    for experiment, label in np.ndindex(4, 6):
        looks = rng.uniform(40, 200, 6)
        for site in (1, 2):
            rows.append(
                (
                    f"E-{experiment}",
                    "1",
                    f"{experiment}_{label}",
                    f"{experiment}_{label}_s{site}",
                    label,
                )
            )
            images.append((looks[:, None, None] + rng.normal(0, 1, (6, 8, 8))).astype(np.uint8))
    frame = pd.DataFrame(rows, columns=["experiment", "plate", "well_id", "sample_id", "label"])
    frame = frame.assign(
        role="treatment", cell_type="E", row=range(len(rows)), label=frame.label.astype("Int64")
    )
    found = audit_split(frame, images.__getitem__, wells="treatment", standardised=False)
    assert found.sibling.value > 0.5 and found.sibling.low > found.seen.high
    assert found.unseen.low < found.chance < found.unseen.high


def test_features_are_those_of_numpy():
    image = np.random.default_rng(0).integers(0, 255, (3, 20, 20), dtype=np.uint8)
    found = image_features(image)
    assert found.shape == (9 * 3 + 3,)
    assert found[0] == pytest.approx(np.log1p(image[0].mean())) and found[1] == pytest.approx(
        np.log1p(image[0].std()), rel=1e-5
    )
    assert found[4] == pytest.approx(np.log1p(np.quantile(image[0], 0.9)), rel=1e-5)
    assert found[-3:] == pytest.approx(
        np.corrcoef(image.reshape(3, -1).astype(float))[np.triu_indices(3, 1)], abs=1e-5
    )


def test_a_flat_image_gives_finite_features():
    assert np.isfinite(image_features(np.zeros((2, 8, 8), np.uint8))).all()


def test_one_experiment_cannot_be_audited():
    frame, images = plates(batch=0.0, experiments=1)
    with pytest.raises(InputError, match="at least two experiments"):
        audit_split(frame, images.__getitem__)
