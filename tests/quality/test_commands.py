"""`cellsignal qc`, and `data.exclude` from training to the submission."""

import contextlib

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, contents, error_line

from cellsignal.competitions import get_competition
from cellsignal.config import load_config
from cellsignal.prediction.container import load_predictions
from cellsignal.training.plan import jobs_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def space(prepared, tmp_path_factory):
    return prepared("rxrx1").copy(tmp_path_factory.mktemp("qc") / "rxrx1")


@pytest.fixture(scope="module")
def measured(space):
    words = ("--out", "qc", "--workers", 0, "--limit", 3, "--pictures", 1)
    assert cellsignal("qc", "config.yaml", *words, cwd=space.folder) == 0
    return space.folder / "qc"


def test_qc_writes_its_tables_and_pictures(space, measured):
    samples = get_competition("rxrx1").samples(space.root)
    wells = pd.read_csv(measured / "wells.csv", dtype={"plate": str})
    plates = pd.read_csv(measured / "plates.csv")
    assert set(wells.well_id) == set(samples.well_id)
    assert len(plates) == samples[["experiment", "plate"]].drop_duplicates().shape[0] * (6 * 7 + 1)
    assert np.isfinite(wells["golgi focus_slope"]).all() and (wells.sites == 2).all()
    listed = pd.read_csv(measured / "exclude.csv")
    assert listed.well_id.tolist() == wells.well_id[wells.stands_out.notna()].tolist()
    pictures = [path.read_bytes()[:4] for path in measured.rglob("*.png")]
    assert pictures == [b"\x89PNG"] * 2


def test_raw_images_and_the_store_of_the_same_size_agree(space, measured, tmp_path):
    words = ("--root", space.root, "--out", tmp_path / "raw", "--workers", 0, "--pictures", 0)
    assert cellsignal("qc", "rxrx1", *words, cwd=tmp_path) == 0
    raw = pd.read_csv(tmp_path / "raw" / "wells.csv").set_index("well_id")
    stored = pd.read_csv(measured / "wells.csv").set_index("well_id").loc[raw.index]
    # resizing to 32 px keeps the mean but not the contrast
    assert raw["actin mean"].to_numpy() == pytest.approx(stored["actin mean"].to_numpy(), abs=1)


def test_excluded_wells_neither_train_nor_validate_but_are_predicted(space, tmp_path, caplog):
    space = space.copy(tmp_path / "copy")
    samples = get_competition("rxrx1").samples(space.root)
    treated = samples[samples.role == "treatment"]
    chosen = [rows.well_id.iloc[0] for _, rows in treated.groupby(["split", "experiment"])]
    pd.DataFrame({"well_id": chosen}).to_csv(space.folder / "out.csv", index=False)
    change = ("--set", "data.exclude=out.csv", "--set", "name=kept")
    with contextlib.chdir(space.folder):
        config = load_config("config.yaml", ["data.exclude=out.csv", "name=kept"])
        with caplog.at_level("INFO"):
            jobs = jobs_of(config)
        for job in jobs:
            used = np.concatenate([job.train, job.valid, job.test])
            assert not job.store.samples.well_id.iloc[used].isin(chosen).any()
    n_test = len(treated[treated.well_id.isin(chosen) & (treated.split == "test")])
    assert n_test and f"{n_test} of them are of the test set and are predicted" in caplog.text
    for verb in ("train", "predict"):
        assert cellsignal(verb, "config.yaml", *change, cwd=space.folder) == 0
    assert cellsignal("submit", "config.yaml", *change, "--out", "s.csv", cwd=space.folder) == 0
    test = set(treated.target_id[treated.split == "test"])
    assert set(pd.read_csv(space.folder / "s.csv").id_code) == test
    for path in (space.folder / "runs" / "kept" / "seed0" / "predictions").glob("*.npz"):
        ids = load_predictions(path).ids
        assert not set(ids["well_id"][ids["part"] == "oof"]) & set(chosen)
        assert set(ids["target_id"][ids["part"] == "test"]) == test


def test_a_changed_list_is_noticed(space, tmp_path, capsys):
    space = space.copy(tmp_path / "copy")
    samples = get_competition("rxrx1").samples(space.root)
    wells = samples.well_id[(samples.role == "treatment") & (samples.split == "train")].unique()
    (space.folder / "out.csv").write_text(f"well_id\n{wells[0]}\n")
    change = ("--set", "data.exclude=out.csv", "--set", "stages.all.epochs=1")
    for verb in ("train", "predict"):
        assert cellsignal(verb, "config.yaml", *change, cwd=space.folder) == 0
    assert cellsignal("score", "config.yaml", *change, cwd=space.folder) == 0
    (space.folder / "out.csv").write_text(f"well_id\n{wells[1]}\n")
    line = error_line(capsys, "score", "config.yaml", *change, cwd=space.folder)
    assert "data.exclude" in line
    (space.folder / "out.csv").unlink()
    line = error_line(capsys, "train", "config.yaml", *change, cwd=space.folder)
    assert "out.csv: no such file" in line


def test_the_effect_of_a_list_on_a_run(trained, capsys, tmp_path):
    space = trained("rxrx1")
    samples = get_competition("rxrx1").samples(space.root)
    wells = samples.well_id[(samples.role == "treatment") & (samples.split == "train")].unique()
    listed = tmp_path / "list.csv"
    listed.write_text("well_id\n" + "\n".join(wells[::3]) + "\n")
    before = contents(space.folder)
    assert cellsignal("qc", "config.yaml", "--effect", "--list", listed, cwd=space.folder) == 0
    out = capsys.readouterr().out
    assert "difference, paired" in out and "trained WITH the listed wells" in out
    assert contents(space.folder) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rxrx1",), "qc rxrx1: give --root, the folder of its raw data, or a config"),
        (("config.yaml", "--list", "x.csv"), "--list: is an option of --effect"),
        (("config.yaml", "--by", "blur"), "--by blur: is no measure; there are mean, sd"),
        (("config.yaml", "--least", "cells=few"), "--least cells=few: is not a number"),
        (
            ("config.yaml", "--nuclei", "9"),
            "--nuclei 9: there is no such channel; there are nuclei",
        ),
        (("config.yaml", "--set", "data.store=none"), "none: there is no store; run"),
        (("config.yaml", "--effect"), "no predictions; run `cellsignal predict`"),
        (("no_run",), "no_run: is not a config"),
    ],
)
def test_what_is_refused(space, capsys, words, message):
    before = contents(space.folder)
    assert message in error_line(capsys, "qc", *words, cwd=space.folder)
    assert contents(space.folder) == before
