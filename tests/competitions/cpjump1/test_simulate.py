"""Simulated CPJUMP1: what its plates share and do not share, and that targets, positions and noise
are in the pixels as said.
"""

import hashlib

import numpy as np
import pandas as pd
import pytest
from tifffile import imread

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.cpjump1 import Cpjump1
from cellsignal.competitions.cpjump1.simulate import simulate_course, simulate_cpjump1

SIZES = {
    "genes": 5,
    "compounds_per_gene": 2,
    "controls": 12,
    "plates": 3,
    "crispr_plates": 0,
    "test_plates": 1,
    "cell_types": 1,
    "sites": 1,
    "size": 64,
}


def features(root, samples: pd.DataFrame) -> np.ndarray:
    """(N, 20) log mean, SD, median and gradient of each raw channel, standardised by plate."""
    rows = []
    for files in samples.files:
        planes = np.stack([imread(root / file) for file in files]).astype(float)
        parts = [
            planes.mean((1, 2)),
            planes.std((1, 2)),
            np.median(planes, axis=(1, 2)),
            np.abs(np.diff(planes, axis=2)).mean((1, 2)),
        ]
        rows.append(np.log(np.concatenate(parts)))
    frame = pd.DataFrame(rows)
    return (
        frame.groupby(samples.plate.to_numpy())
        .transform(lambda x: (x - x.mean()) / x.std())
        .to_numpy()
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated") / "cpjump1"
    simulate_cpjump1(root, 1, **SIZES)
    return root


def test_replicate_plates_share_a_layout_and_test_plates_do_not(root):
    samples = Cpjump1().samples(root)
    wells = {
        plate: dict(zip(rows.well, rows.treatment, strict=True))
        for plate, rows in samples.groupby("plate")
    }
    known = [
        layout
        for plate, layout in wells.items()
        if (samples.split[samples.plate == plate] == "train").all()
    ]
    assert len(known) == 3 and known[0] == known[1] == known[2] and len(known[0]) == 10 + 1 + 12
    answers = pd.read_csv(answers_path(root))
    names = Cpjump1().treatments(root).set_index("treatment")["compound"]
    assert sorted(answers.perturbation) == sorted(
        names[[t for t in known[0].values() if t.startswith("BRD-K1")]]
    )
    place = dict(zip(answers.well_id.str[-3:], answers.perturbation, strict=True))
    shared = [well for well in place if names.get(known[0].get(well)) == place[well]]
    assert len(shared) <= 2, "the known layout does not tell the hidden one"


def test_planes_are_16_bit_counts(root):
    planes = np.stack(
        [imread(root / file) for files in Cpjump1().samples(root).files[:6] for file in files]
    )
    assert (
        planes.dtype == np.uint16
        and planes.shape[1:] == (64, 64)
        and 300 < planes.mean() < 2000
        and len(np.unique(planes)) > 500
    )


def test_replicates_resemble_each_other_and_so_do_untreated_wells_in_one_place(root):
    """Correlation of wells across plates: the same treatment above another one, DMSO in the same
    place above DMSO elsewhere.
    """
    samples = Cpjump1().samples(root)
    samples = samples[samples.split == "train"].drop_duplicates("well_id").reset_index(drop=True)
    samples = samples[samples.plate.isin(sorted(samples.plate.unique())[:3])].reset_index(drop=True)
    alike = np.corrcoef(features(root, samples))
    plate, well, role = (samples[name].to_numpy() for name in ("plate", "well", "role"))
    other, same = plate[:, None] != plate[None, :], well[:, None] == well[None, :]
    for group in ("treatment", "negative_control"):
        both = (role[:, None] == group) & (role[None, :] == group) & other
        assert alike[both & same].mean() > alike[both & ~same].mean() + 0.1, group


def test_noise_is_noise(tmp_path):
    simulate_cpjump1(
        tmp_path / "a",
        1,
        **SIZES
        | {"noise": 1, "plates": 1, "test_plates": 0, "genes": 2, "controls": 1, "size": 32},
    )
    samples = Cpjump1().samples(tmp_path / "a")
    planes = np.stack(
        [imread(tmp_path / "a" / file) for files in samples.files for file in files]
    ).astype(float)
    assert planes.mean() == pytest.approx(1000, rel=0.01) and planes.var() == pytest.approx(
        1000, rel=0.05
    )
    assert (
        planes.mean(axis=(1, 2)).std() < 3 * np.sqrt(1000) / 32
        and (answers_path(tmp_path / "a")).read_text() == "well_id,perturbation,cell_type\n"
    )
    simulate_course(
        tmp_path / "b", 1, compounds=2, wells=2, singles=0, controls=2, sites=1, size=32, noise=1
    )
    assert imread(next((tmp_path / "b" / "images").iterdir())).mean() == pytest.approx(
        1000, rel=0.02
    )


def test_bytes_depend_on_the_seed_alone(tmp_path):
    sizes = {
        "genes": 1,
        "compounds_per_gene": 1,
        "controls": 1,
        "plates": 2,
        "crispr_plates": 0,
        "test_plates": 0,
        "cell_types": 1,
        "sites": 1,
        "size": 16,
    }
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        simulate_cpjump1(tmp_path / name, seed, **sizes)
        simulate_course(
            tmp_path / f"{name}course",
            seed,
            compounds=2,
            wells=2,
            singles=1,
            controls=2,
            sites=1,
            size=16,
        )
        files = [
            p
            for folder in (name, f"{name}course")
            for p in sorted((tmp_path / folder).rglob("*"))
            if p.is_file()
        ]
        found.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("simulate", "sizes", "words"),
    [
        (simulate_cpjump1, {"genes": 21}, "genes is 21, 1 to 20 needed"),
        (simulate_cpjump1, {"size": 8}, "size is 8, at least 16 needed"),
        (simulate_cpjump1, {"controls": 400}, "more wells than"),
        (simulate_course, {"wells": 1}, "wells is 1, at least 2 needed"),
        (simulate_course, {"compounds": 50}, "compounds is 50, 1 to 45 needed"),
        (simulate_course, {"controls": 400}, "lower compounds"),
    ],
)
def test_refusals(tmp_path, simulate, sizes, words):
    with pytest.raises(InputError, match=words):
        simulate(tmp_path / "x", 0, **sizes)
    assert not (tmp_path / "x").exists()
