"""The simulated BBBC021 subset: layout, compounds that do not cross, answers apart, mechanisms to
be told apart.
"""

import hashlib

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.bbbc021.simulate import SIX, simulate_bbbc021
from cellsignal.images import read_png8

SMALL = dict(compounds_per_class=2, test_compounds_per_class=1, doses=1, replicates=2, size=48)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated") / "bbbc021"
    simulate_bbbc021(root, 3, **SMALL)
    return root


def test_layout_is_the_subsets(root):
    train, test = pd.read_csv(root / "train.csv"), pd.read_csv(root / "test.csv")
    assert list(train.columns) == [
        "image_id",
        "plate_id",
        "well_id",
        "compound",
        "concentration_uM",
        "moa",
    ]
    assert list(test.columns) == ["image_id", "plate_id", "well_id"]
    assert len(train) == 6 * 2 * 2 * 4 and len(test) == 6 * 1 * 2 * 4
    assert (pd.concat([train, test]).groupby("well_id").size() == 4).all()
    assert {p.stem for p in (root / "images").iterdir()} == set(train.image_id) | set(test.image_id)
    assert sorted(p.name for p in root.iterdir()) == [
        "images",
        "sample_submission.csv",
        "simulation.json",
        "test.csv",
        "train.csv",
    ]
    image = read_png8(root / "images" / f"{train.image_id[0]}.png", (48, 48), channels=3)
    assert (image.std(axis=(0, 1)) > 0).all()
    sample, answers = pd.read_csv(root / "sample_submission.csv"), pd.read_csv(answers_path(root))
    assert sample.image_id.tolist() == test.image_id.tolist() == answers.image_id.tolist()
    assert list(sample.columns) == list(answers.columns) == ["image_id", "moa"]
    assert (answers.moa.value_counts() == 8).all() and set(answers.moa) == set(train.moa) == set(
        SIX
    )
    assert not set(train.well_id) & set(test.well_id)
    assert (train.groupby("compound").plate_id.nunique() == 2).all(), (
        "replicates stand on different plates"
    )


def test_names_are_those_of_the_real_subset(root, real_data):
    real = pd.read_csv(real_data / "bbbc021" / "subset" / "train.csv")
    mine = pd.read_csv(root / "train.csv")
    assert list(mine.columns) == list(real.columns)
    assert set(mine.moa) == set(real.moa)
    for column, pattern in (
        ("image_id", r"img_\d{5}"),
        ("plate_id", r"plate_\d{2}"),
        ("well_id", r"well_\d{3}"),
    ):
        assert (
            mine[column].str.fullmatch(pattern).all() and real[column].str.fullmatch(pattern).all()
        )


def test_bytes_depend_on_the_seed_alone(root, tmp_path):
    simulate_bbbc021(tmp_path / "bbbc021", 3, **SMALL, workers=2)
    for path in sorted(root.rglob("*.*")):
        other = tmp_path / "bbbc021" / path.relative_to(root)
        assert (
            hashlib.sha256(path.read_bytes()).digest()
            == hashlib.sha256(other.read_bytes()).digest()
        ), path.name


def test_mechanisms_can_be_told_apart_across_compounds(tmp_path):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    root = tmp_path / "b"
    simulate_bbbc021(
        root, 0, compounds_per_class=4, test_compounds_per_class=2, doses=1, replicates=2
    )
    train = pd.read_csv(root / "train.csv")
    test = pd.read_csv(root / "test.csv").merge(pd.read_csv(answers_path(root)))

    def features(frame):
        images = np.stack(
            [read_png8(root / "images" / f"{i}.png", channels=3) for i in frame.image_id]
        ).astype(float)
        parts = [
            images.mean((1, 2)),
            images.std((1, 2)),
            *np.percentile(images, [50, 90, 99], axis=(1, 2)),
        ]
        parts += [np.abs(np.diff(images, axis=1)).mean((1, 2))]
        return (
            pd.DataFrame(np.log(np.concatenate(parts, axis=1) + 0.5))
            .groupby(frame.well_id.to_numpy())
            .mean()
        )

    x, y = features(train), train.groupby("well_id").moa.first()
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(x, y)
    accuracy = (model.predict(features(test)) == test.groupby("well_id").moa.first()).mean()
    assert 0.3 < accuracy <= 1.0  # chance is 1/6


def test_refusals(root, tmp_path):
    with pytest.raises(InputError, match="doses is 0"):
        simulate_bbbc021(tmp_path / "x", 0, doses=0)
    with pytest.raises(InputError, match="another simulation"):
        simulate_bbbc021(root, 4, **SMALL)
