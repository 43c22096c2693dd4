"""Simulated idr0088: the published table's columns and spellings, answers apart, doses that count,
mechanisms that can be told apart.
"""

import csv
import hashlib
import io
import zipfile

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.idr0088.metadata import FILE, find_annotation, read_annotation
from cellsignal.competitions.idr0088.moa import read_moa_table
from cellsignal.competitions.idr0088.simulate import LINES, MECHANISMS, TWO, simulate_idr0088

pytestmark = pytest.mark.slow

SMALL = {
    "lines": 2,
    "compounds_per_moa": 3,
    "doses": 1,
    "replicates": 2,
    "batches": 1,
    "controls": 2,
    "fields": 2,
    "size": 16,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated") / "moa"
    simulate_idr0088(root, 3, **SMALL)
    return root


def header(path) -> list[str]:
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        return next(csv.reader(io.TextIOWrapper(file, encoding="utf-8")))


def test_layout(root):
    assert sorted(path.name for path in root.iterdir()) == [
        FILE,
        "images",
        "images.csv",
        "simulation.json",
    ]
    table, images = read_annotation(find_annotation(root)), pd.read_csv(root / "images.csv")
    assert {str(path.relative_to(root)) for path in root.glob("images/*/*.png")} == set(
        images.filter(like="file").to_numpy().ravel()
    )
    compounds = 6 * (3 + 1) + 2 + 1 + 1
    assert (
        table.plate.nunique() == 2 * 2
        and len(table) == 4 * (compounds + 2)
        and len(images) == 2 * len(table)
    )
    assert (
        table[~table.control]
        .groupby(["name", "concentration", "reporter_line"], observed=True)
        .plate.nunique()
        == 2
    ).all()
    assert sorted(table.concentration.dropna().unique()) == [9.0] and set(
        table[table.control].well.str[1:]
    ) <= {"2", "23"}
    assert (
        table.experiment.nunique() == 2
        and (table.groupby("experiment", observed=True).reporter_line.nunique() == 1).all()
    )


def test_spellings_are_those_of_the_published_table(root, real_data):
    real = read_annotation(real_data / "idr0088" / FILE)
    mine = read_annotation(find_annotation(root))
    assert header(root / FILE) == header(real_data / "idr0088" / FILE)
    for column in ("moa", "reporter_line", "channels", "cell_line", "compound_set"):
        assert set(mine[column].cat.categories) <= set(real[column].cat.categories), column
    assert set(LINES) == set(real.reporter_line.cat.categories)
    named = {raw for _, raws in MECHANISMS.values() for raw in raws} | {raw for raw, _ in TWO}
    assert named <= set(real.moa.cat.categories)
    assert len({read_moa_table().moas_of[raw] for raw in named}) == len(MECHANISMS) + len(TWO), (
        "two spellings are one mechanism"
    )


def test_answers_know_what_the_annotation_hides(root, tmp_path):
    competition = get_competition("idr0088_moa")
    answers, samples = competition.answers(answers_path(root)), competition.samples(root)
    hidden = samples[samples.split == "test"]
    assert set(answers.well_id) == set(hidden.well_id) and list(answers.columns)[1:7] == list(
        competition.classes(root)
    )
    per_compound = answers.drop_duplicates("compound")[list(competition.classes(root))].sum(axis=1)
    assert (
        sorted(per_compound) == [0, 1, 1, 1, 1, 1, 1, 2]
        and (answers.groupby("compound").size() == 4).all()
    )
    assert not set(answers["compound"]) & set(samples["compound"].dropna())
    simulate_idr0088(tmp_path / "gpcr", 3, **SMALL, competition="idr0088_gpcr")
    other = get_competition("idr0088_gpcr").answers(answers_path(tmp_path / "gpcr"))
    agonists = answers[["Beta-adrenergic receptor agonist", "Cannabinoid receptor agonist"]].max(
        axis=1
    )
    assert other["GPCR agonist"].tolist() == agonists.tolist() and other.well_id.equals(
        answers.well_id
    )
    assert (tmp_path / "gpcr" / FILE).read_bytes() == (root / FILE).read_bytes()


def test_bytes_depend_on_the_seed_alone(root, tmp_path):
    simulate_idr0088(tmp_path / "moa", 3, **SMALL, workers=2)
    for path in sorted(root.rglob("*.*")):
        other = tmp_path / "moa" / path.relative_to(root)
        assert (
            hashlib.sha256(path.read_bytes()).digest()
            == hashlib.sha256(other.read_bytes()).digest()
        ), path.name


@pytest.mark.parametrize(
    "wrong",
    [
        {"compounds_per_moa": 2},
        {"doses": 5},
        {"lines": 16},
        {"controls": 29},
        {"compounds_per_moa": 20},
        {"size": 8},
    ],
)
def test_impossible_sizes_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="simulate idr0088_moa: "):
        simulate_idr0088(tmp_path / "x", **wrong)
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Pixel statistics of every well less its plate's DMSO mean, and the samples."""
    root = tmp_path_factory.mktemp("features") / "moa"
    simulate_idr0088(
        root,
        0,
        lines=1,
        compounds_per_moa=5,
        test_compounds_per_moa=1,
        doses=4,
        replicates=1,
        batches=2,
        size=48,
    )
    competition = get_competition("idr0088_moa")
    samples = competition.samples(root)
    images = np.stack([competition.read(root, files) for files in samples.files]).astype(float)
    parts = [
        images.mean((2, 3)),
        images.std((2, 3)),
        *np.percentile(images, [50, 90, 99], axis=(2, 3)),
        np.abs(np.diff(images, axis=2)).mean((2, 3)),
    ]
    values = np.log(np.concatenate(parts, axis=1) + 0.5)
    for plate in samples.plate.unique():
        here = (samples.plate == plate).to_numpy()
        controls = here & (samples.role == "negative_control").to_numpy()
        values[here] -= values[controls].mean(axis=0)
    return samples, values


def test_effects_grow_with_the_dose(features):
    samples, values = features
    known = samples["labels"].notna().to_numpy()
    distance = pd.Series(np.linalg.norm(values[known], axis=1))
    dose = samples.treatment[known].str.split("@").str[1].astype(float).to_numpy()
    median = distance.groupby(dose).median()
    assert sorted(median.index) == [0.3, 1.0, 3.0, 9.0] and median[9.0] > 1.15 * median[0.3]


def test_mechanisms_are_told_apart_on_new_compounds(features):
    """Macro average precision of a linear model by leaving whole compounds out, well above
    prevalence.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    samples, values = features
    one = (
        samples["labels"]
        .map(lambda labels: labels is not None and len(labels) == 1)
        .to_numpy(dtype=bool)
    )
    label = samples["labels"][one].str[0].to_numpy(dtype=int)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2)
    scores = cross_val_predict(
        model,
        values[one],
        label,
        groups=samples["compound"][one],
        cv=GroupKFold(5),
        method="predict_proba",
    )
    truth = label[:, None] == np.arange(6)
    assert 0.35 < average_precision_score(truth, scores, average="macro") < 1.0  # chance is 1/6
