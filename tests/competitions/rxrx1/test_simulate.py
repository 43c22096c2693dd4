"""The simulated RxRx1: real layout, four-group structure, bytes that depend on its seed and sizes
alone.
"""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.rxrx1.simulate import (
    REAL_TEST_EXPERIMENTS,
    REAL_TRAIN_EXPERIMENTS,
    plate_maps,
    relations_path,
    simulate_rxrx1,
)
from cellsignal.images import read_png8

SMALL = dict(
    classes=8, controls=2, size=32, train_experiments=1, test_experiments={"RPE": 1, "U2OS": 1}
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("simulated") / "rxrx1"
    simulate_rxrx1(root, 5, **SMALL)
    return root


def _hashes(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_tables_have_the_published_columns_and_rows(root):
    train, test = pd.read_csv(root / "train.csv"), pd.read_csv(root / "test.csv")
    controls = {split: pd.read_csv(root / f"{split}_controls.csv") for split in ("train", "test")}
    sample = pd.read_csv(root / "sample_submission.csv")
    assert list(train.columns) == ["id_code", "experiment", "plate", "well", "sirna"]
    assert list(test.columns) == ["id_code", "experiment", "plate", "well"]
    assert list(controls["test"].columns) == [
        "id_code",
        "experiment",
        "plate",
        "well",
        "sirna",
        "well_type",
    ]
    assert sample.id_code.tolist() == test.id_code.tolist() and list(sample.columns) == [
        "id_code",
        "sirna",
    ]
    assert len(train) == 4 * 8 and len(test) == 2 * 8
    assert sorted(train.experiment.unique()) == ["HEPG2-01", "HUVEC-01", "RPE-01", "U2OS-01"]
    assert sorted(test.experiment.unique()) == ["RPE-02", "U2OS-02"], (
        "test experiments are numbered after train's"
    )
    assert (
        train.id_code == train.experiment + "_" + train.plate.astype(str) + "_" + train.well
    ).all()
    for split, experiments in (("train", 4), ("test", 2)):
        counts = controls[split].groupby(["experiment", "plate"]).well_type.value_counts().unstack()
        assert (
            len(counts) == 4 * experiments
            and (counts.positive_control == 2).all()
            and (counts.negative_control == 1).all()
        )
        assert set(controls[split][controls[split].well_type == "negative_control"].sirna) == {10}
        assert set(controls[split][controls[split].well_type == "positive_control"].sirna) == {8, 9}


def test_every_well_has_its_pictures_and_nothing_else_is_there(root):
    expected = {"simulation.json", "sample_submission.csv"} | {
        f"{s}{k}.csv" for s in ("train", "test") for k in ("", "_controls")
    }
    for split in ("train", "test"):
        for name in (f"{split}.csv", f"{split}_controls.csv"):
            for row in pd.read_csv(root / name).itertuples():
                stem = f"{split}/{row.experiment}/Plate{row.plate}/{row.well}"
                expected |= {f"{stem}_s{s}_w{c}.png" for s in (1, 2) for c in range(1, 7)}
    assert set(_hashes(root)) == expected
    picture = next((root / "train").rglob("*_w3.png"))
    assert read_png8(picture, (32, 32)).std() > 0


def test_answers_lie_beside_the_root_and_are_the_test_wells(root):
    answers = pd.read_csv(answers_path(root))
    assert answers_path(root).parent == root.parent
    assert answers.id_code.tolist() == pd.read_csv(root / "test.csv").id_code.tolist()
    assert answers.sirna.between(0, 7).all()
    assert sorted(answers.sirna) == sorted(list(range(8)) * 2)


def test_four_disjoint_groups_in_rotation():
    frame = plate_maps(
        1,
        40,
        3,
        1,
        dict.fromkeys(("HEPG2", "HUVEC", "RPE", "U2OS"), 3),
        dict.fromkeys(("HEPG2", "HUVEC", "RPE", "U2OS"), 1),
    )
    treated = frame[frame.well_type == "treatment"]
    held = treated.groupby(["experiment", "plate"]).sirna.agg(lambda s: tuple(sorted(s)))
    groups = sorted(set(held))
    assert len(groups) == 4 and sorted(sum(groups, ())) == list(range(40))
    turns = {
        tuple(groups.index(group) for group in held.loc[experiment])
        for experiment in held.index.levels[0]
    }
    first = next(iter(turns))
    assert turns <= {first[i:] + first[:i] for i in range(4)} and len(turns) > 1
    assert not frame.id_code.duplicated().any()


def test_wells_are_shuffled_between_experiments_and_controls_stand_on_their_grid():
    counts = dict.fromkeys(("HEPG2", "HUVEC", "RPE", "U2OS"), 8)
    frame = plate_maps(0, 40, 30, 1, counts, counts)
    assert set(frame[frame.well_type == "negative_control"].well) == {"B02"}
    grid = set(frame[frame.well_type == "positive_control"].well)
    assert grid == {f"{row}{column:02d}" for row in "CFHJM" for column in (3, 7, 11, 15, 19, 22)}
    treated = frame[frame.well_type == "treatment"]
    assert treated[treated.sirna == 7].well.nunique() > 40
    assert set(treated.well.str[0]) == set("BCDEFGHIJKLMNO") and set(
        treated.well.str[1:].astype(int)
    ) == set(range(2, 24))


def test_published_size_can_be_expressed(real_data):
    real = [
        pd.read_csv(real_data / "rxrx1" / f"{name}.csv") for name in ("train", "train_controls")
    ]
    classes = int(real[0].sirna.max()) + 1
    controls = int(real[1][real[1].well_type == "positive_control"].sirna.nunique())
    frame = plate_maps(0, classes, controls, 1, REAL_TRAIN_EXPERIMENTS, REAL_TEST_EXPERIMENTS)
    assert set(frame[frame.split == "train"].experiment) == set(real[0].experiment)
    assert set(frame[frame.split == "test"].experiment) == set(
        pd.read_csv(real_data / "rxrx1" / "test.csv").experiment
    )
    assert (frame.groupby(["experiment", "plate"]).well.nunique() == 308).all()
    assert set(frame.well) == set(real[0].well) | set(real[1].well)
    rows = (frame.well_type == "treatment").groupby(frame.split).sum()
    assert 0 <= rows["train"] - len(real[0]) < 100  # the published tables lack a few wells


@pytest.mark.slow
def test_bytes_depend_on_the_seed_and_not_on_the_workers(root, tmp_path):
    first = _hashes(root)
    simulate_rxrx1(tmp_path / "rxrx1", 5, **SMALL, workers=2)
    assert _hashes(tmp_path / "rxrx1") == first
    assert answers_path(tmp_path / "rxrx1").read_bytes() == answers_path(root).read_bytes()
    simulate_rxrx1(
        tmp_path / "other",
        6,
        **{**SMALL, "train_experiments": {"RPE": 1}, "test_experiments": {"RPE": 1}},
    )
    other = _hashes(tmp_path / "other")
    shared = [name for name in set(other) & set(first) if name.endswith(".png")]
    assert shared and all(other[name] != first[name] for name in shared)


def test_the_same_simulation_may_be_written_again_but_nothing_else(root, tmp_path):
    before = _hashes(root)
    with pytest.raises(InputError, match="another simulation"):
        simulate_rxrx1(root, 4, **SMALL)
    (root / "train.csv").unlink()
    simulate_rxrx1(root, 5, **SMALL)
    assert _hashes(root) == before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("do not lose")
    with pytest.raises(InputError, match="not empty") as caught:
        simulate_rxrx1(mine, 5, **SMALL)
    assert "\n" not in str(caught.value) and [p.name for p in mine.iterdir()] == ["thesis.txt"]
    answers_path(tmp_path / "new").write_text("mine too")
    with pytest.raises(InputError, match="exists already"):
        simulate_rxrx1(tmp_path / "new", 5, **SMALL)
    assert answers_path(tmp_path / "new").read_text() == "mine too"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"classes": 10}, "not divisible"),
        ({"negatives": 0}, "negatives is 0"),
        ({"classes": 1200, "controls": 30}, "331 wells"),
        ({"train_experiments": {"MARS": 1}}, "'MARS'"),
        ({"test_experiments": 0}, "test_experiments"),
    ],
)
def test_arguments_out_of_range_are_refused_before_writing(tmp_path, wrong, says):
    with pytest.raises(InputError, match=says):
        simulate_rxrx1(tmp_path / "x", 0, **{**SMALL, **wrong})
    assert not (tmp_path / "x").exists()


def test_marker_names_the_sizes(root):
    found = json.loads((root / "simulation.json").read_text())
    assert found["competition"] == "rxrx1" and found["seed"] == 5 and found["classes"] == 8
    assert not any("answer" in str(value) for value in found.values())


def test_plates_of_one_experiment_look_more_alike_than_those_of_others(root):
    means = {}
    for folder in sorted((root / "train").glob("*/Plate*")):
        pixels = [
            np.mean(
                [
                    cv2.imread(str(p), cv2.IMREAD_UNCHANGED).mean()
                    for p in folder.glob(f"*_w{c}.png")
                ]
            )
            for c in range(1, 7)
        ]
        means[folder.parent.name, folder.name] = np.log(pixels)
    frame = pd.DataFrame(means).T
    within = frame.groupby(level=0).std().mean(axis=None)
    between = frame.groupby(level=0).mean().std().mean()
    assert within < 0.5 * between


def test_complexes_share_a_phenotype_and_their_pairs_are_written(tmp_path, root):
    """The effects of a complex resemble each other; without complexes no byte changes."""
    related = tmp_path / "rxrx1"
    simulate_rxrx1(related, 5, **SMALL, complexes=2, complex_size=3)
    pairs = pd.read_csv(relations_path(related))
    expected = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    assert list(pairs.itertuples(index=False, name=None)) == expected
    assert not relations_path(root).exists()
    before, after = _hashes(root), _hashes(related)
    assert before["train.csv"] == after["train.csv"]
    train = pd.read_csv(related / "train.csv")
    changed = {
        int(row.sirna)
        for row in train.itertuples()
        for name in [f"train/{row.experiment}/Plate{row.plate}/{row.well}_s1_w1.png"]
        if before[name] != after[name]
    }
    assert changed >= set(range(6))


def test_effects_of_one_complex_are_as_alike_as_asked():
    from cellsignal.simulation.phenotypes import effect

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    def mean_cosine(likeness, second_group):
        pairs = (
            (
                effect(0, 2 * k, "RPE", k, likeness),
                effect(0, 2 * k + 1, "RPE", second_group(k), likeness),
            )
            for k in range(300)
        )
        return np.mean([cosine(a, b) for a, b in pairs])

    # 15 % of an effect are of the cell type alone and shared by nobody
    assert mean_cosine(0.8, lambda k: k) == pytest.approx(0.8 * 0.85, abs=0.04)
    assert mean_cosine(0.8, lambda k: k + 1000) == pytest.approx(0, abs=0.04)
    assert mean_cosine(0.0, lambda k: k) == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize(
    "wrong",
    [
        {"complexes": -1},
        {"complexes": 3},
        {"complexes": 1, "likeness": 101},
        {"complexes": 1, "complex_size": 1},
    ],
)
def test_impossible_complexes_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="simulate rxrx1: "):
        simulate_rxrx1(tmp_path / "out", 0, **{**SMALL, **wrong})
    assert not (tmp_path / "out").exists()
