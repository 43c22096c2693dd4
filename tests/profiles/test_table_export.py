"""An exported file gives the figures of what it was made from, and says what that was."""

import hashlib
import importlib.util
import json
import warnings

import numpy as np
import pandas as pd
import pytest

from cellsignal import __version__
from cellsignal.cli import main
from cellsignal.common.errors import InputError
from cellsignal.config import load_config
from cellsignal.profiles import stored_tables
from cellsignal.profiles.comparisons import match_table, retrieval_table
from cellsignal.profiles.profile_steps import Profiles
from cellsignal.profiles.sources import load_profiles, load_tables
from cellsignal.profiles.stored_tables import read_stored
from cellsignal.profiles.table_classifiers import classify_table
from cellsignal.profiles.table_export import export_profiles

needs_anndata = pytest.mark.skipif(
    importlib.util.find_spec("anndata") is None, reason="the extra anndata is not installed"
)
needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="the extra pyarrow is not installed"
)
KINDS = [
    pytest.param(".parquet", marks=needs_pyarrow),
    pytest.param(".h5ad", marks=needs_anndata),
]


def table() -> pd.DataFrame:
    """Two plates: four compounds of two mechanisms, one of them twice, and eight DMSO."""
    rng, rows = np.random.default_rng(0), []
    names = ["0017", "b", "1e5", "d, e"] * 2 + ["DMSO"] * 8
    for plate in ("Week1_007", "Week2_007"):
        for place, name in enumerate(names):
            moa = "" if name == "DMSO" else ("actin", "tubulin")[names.index(name) % 2]
            rows.append((plate, f"{'ab'[place // 8]}{place % 8 + 1}", name, place % 3 / 10, moa))
    columns = ["Plate", "Well", "Compound", "Concentration", "moa"]
    frame = pd.DataFrame(rows, columns=columns).add_prefix("Metadata_")
    frame.loc[frame.Metadata_Compound == "DMSO", "Metadata_Concentration"] = 0
    frame["Metadata_Object_Count"] = rng.integers(20, 90, len(frame)) + 0.5
    frame["Metadata_gene"] = frame.Metadata_moa.map({"actin": "B|A", "tubulin": "NA", "": ""})
    for number in range(6):
        shift = (frame.Metadata_moa == "actin") * (number < 2)
        frame[f"Cells_f{number}"] = 2 * shift + rng.normal(size=len(frame))
    return frame


def write(frame, path):
    frame.to_csv(path, index=False)
    return path


def exported(source, out, *options) -> None:
    words = ["profiles", "export", "--table", str(source), "--out", str(out), *options]
    assert main(["-q", *words]) == 0


def figures(path, batches, steps, folder) -> list[bytes]:
    """The CSV of each verb, as its command writes it."""
    loaded = load_tables([path], batch_pattern=batches)
    tables = [folder / f"{verb}.csv" for verb in ("match", "retrieve", "classify")]
    match_table(loaded, steps, out=tables[0])
    tasks = ("replicates", "targets")
    retrieval_table(loaded, tasks, steps, null_size=50, replicable=False, out=tables[1])
    classify_table(loaded, "moa", "compound", "knn", k=3, normalise=steps, out=tables[2])
    return [table.read_bytes() for table in tables]


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("steps", [[], ["standardize", "well_position", "tvn"]])
def test_the_profile_commands_give_the_same_figures(tmp_path, suffix, steps):
    """Byte for byte, by the default steps of each verb and by named ones."""
    source, out = write(table(), tmp_path / "t.csv"), tmp_path / f"t{suffix}"
    named = ["--steps", *steps] if steps else []
    exported(source, out, "--batch-pattern", "Week[0-9]", *named)
    before = figures(source, "Week[0-9]", steps or None, tmp_path)
    assert figures(out, None, None, tmp_path) == before


@pytest.mark.parametrize("suffix", KINDS)
def test_wells_and_numbers_are_read_back_as_they_are(tmp_path, suffix):
    """Identifiers are text: 0017 and 1e5 are names of compounds."""
    source, out = write(table(), tmp_path / "t.csv"), tmp_path / f"t{suffix}"
    exported(source, out)
    before, after = load_tables([source]), load_tables([out])
    pd.testing.assert_frame_equal(before.wells, after.wells)
    np.testing.assert_array_equal(before.x, after.x)
    assert before.features == after.features and before.label == after.label == "cellprofiler"
    assert set(after.wells["compound"]) == {"0017", "b", "1e5", "d, e", "DMSO"}
    assert after.wells.targets[0] == ("A", "B")
    assert before.notes == after.notes[: len(before.notes)]


@pytest.mark.parametrize("suffix", KINDS)
def test_the_file_says_what_it_was_made_from(tmp_path, suffix):
    source, out = write(table(), tmp_path / "t.csv"), tmp_path / f"t{suffix}"
    names = write(pd.DataFrame({"Compound": ["b"], "note": ["x"]}), tmp_path / "names.csv")
    options = ["--steps", "standardize", "--annotations", str(names), "--controls", "Compound=DMSO"]
    exported(source, out, *options)
    record = read_stored(out).record
    for path in (source, names):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert record["inputs"][str(path)] == {"path": str(path), "sha256": digest}
    assert record["steps"] == ["standardize"] and record["cellsignal"] == __version__
    assert record["options"]["controls"] == ["Compound=DMSO"]
    assert record["options"]["reference"] == "negative_controls" and "git_commit" in record
    assert load_tables([out]).normalised == "standardize before export"


@needs_anndata
def test_an_anndata_is_one_that_others_read(tmp_path):
    """Text in plain encodings, a name for each well, X in float32; uns holds the record."""
    import anndata
    import h5py

    source, out = write(table(), tmp_path / "t.csv"), tmp_path / "t.h5ad"
    exported(source, out)
    with warnings.catch_warnings():  # of anndata about pandas
        warnings.simplefilter("ignore")
        data = anndata.read_h5ad(out)
    assert data.X.dtype == np.float32 and list(data.var_names)[:2] == ["Cells_f0", "Cells_f1"]
    assert data.obs_names[0] == "Week1_007_A01" and data.obs_names.is_unique
    assert list(data.obs.Metadata_Compound) == list(table().Metadata_Compound)
    assert json.loads(data.uns["cellsignal"])["steps"] == []
    with h5py.File(out) as file:
        kinds = {file[f"{name}/_index"].attrs["encoding-type"] for name in ("obs", "var")}
    assert kinds == {"string-array"}


@needs_pyarrow
def test_pandas_alone_reads_a_parquet(tmp_path):
    exported(write(table(), tmp_path / "t.csv"), tmp_path / "t.parquet")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert list(frame.Metadata_Compound) == list(table().Metadata_Compound)
    np.testing.assert_allclose(
        frame.filter(like="Cells_"), table().filter(like="Cells_"), rtol=1e-6
    )


def profiles(**changes) -> Profiles:
    """Two plates of the same name in two experiments, as RxRx1 has them."""
    wells = pd.DataFrame(
        {
            "well_id": [f"e{n // 2}_1_A0{n % 2 + 1}" for n in range(4)],
            "experiment": ["e0", "e0", "e1", "e1"],
            "plate": "1",
            "well": ["A01", "A02", "A01", "A02"],
            "role": ["reference", "treatment", "positive_control", "treatment"],
            "compound": ["dmso", "b", "empty", "b"],
            "treatment": ["dmso", "b@1", "empty", "b@1"],
            "cell_type": "U2OS",
            "moa": [None, "m", "m", "m"],
            "targets": [(), ("A",), None, ("A",)],
            "modality": None,
        }
    ).astype(object)
    x = np.arange(12, dtype=np.float32).reshape(4, 3) % 5
    wells = wells.assign(**changes)
    return Profiles(x, wells, ("embedding0", "embedding1", "embedding2"), label="embeddings")


@pytest.mark.parametrize("suffix", KINDS)
def test_plates_of_one_name_in_several_experiments_stay_apart(tmp_path, suffix):
    out = tmp_path / f"t{suffix}"
    text = export_profiles(profiles(), out, [], {})
    assert "plates of several experiments have one name: here plate 1 of e0 is e0_1" in text
    read = load_tables([out])
    assert list(read.wells.plate) == ["e0_1", "e0_1", "e1_1", "e1_1"]
    expected = profiles().wells
    for column in ("experiment", "well", "role", "compound", "treatment", "cell_type"):
        assert list(read.wells[column]) == list(expected[column]), column
    assert list(read.wells.moa) == [None, "m", "m", "m"]
    assert read.features == profiles().features and read.label == "embeddings"
    np.testing.assert_array_equal(read.x, profiles().x)


@needs_pyarrow
def test_the_compound_stands_for_a_treatment_that_a_data_set_lacks(tmp_path):
    """As RxRx1's siRNAs: a table takes the compound, and the export says so."""
    changes = {"treatment": [None] * 4, "compound": ["c", None, "3", "3"]}
    text = export_profiles(profiles(**changes), tmp_path / "t.parquet", [], {})
    assert "3 wells have no treatment: in the file it is their compound" in text
    wells = load_tables([tmp_path / "t.parquet"]).wells
    assert list(wells.treatment) == list(wells["compound"]) == ["c", None, "3", "3"]


@needs_pyarrow
@pytest.mark.slow
def test_profiles_of_a_config_are_exported(prepared, tmp_path, monkeypatch):
    space = prepared("cpjump1")
    monkeypatch.chdir(space.folder)
    config, out = space.folder / "config.yaml", tmp_path / "t.parquet"
    assert main(["-q", "profiles", "export", str(config), "--out", str(out)]) == 0
    expected, read = load_profiles(load_config(config)), load_tables([out])
    np.testing.assert_array_equal(read.x, expected.x)
    for column in ("well_id", "experiment", "role", "treatment", "cell_type"):
        assert list(read.wells[column]) == list(expected.wells[column]), column
    compound = expected.wells["compound"].fillna(expected.wells.treatment)  # as NSC takes it
    assert list(read.wells["compound"]) == list(compound)
    record = read_stored(out).record
    assert [path.rsplit("/", 1)[1] for path in record["inputs"]] == ["config.yaml", "store.json"]
    assert record["data_set"] == "cpjump1" and record["options"]["source"] == ["plain"]


@needs_pyarrow
def test_what_a_network_knew_goes_along(tmp_path):
    """The treatments that it was trained on are scored apart, as before the export."""
    source = write(table(), tmp_path / "t.csv")
    loaded = load_tables([source], batch_pattern="Week[0-9]")
    wells = loaded.wells
    known = frozenset(wells.treatment[wells["compound"] == "b"])
    network = Profiles(loaded.x, wells, loaded.features, known, ("it flatters",), "embeddings")
    export_profiles(network, tmp_path / "a.parquet", [], {})
    read = load_tables([tmp_path / "a.parquet"])
    assert read.trained == known and read.notes[0] == "it flatters"
    assert "not trained on" in match_table(read, ())
    export_profiles(loaded, tmp_path / "b.parquet", [], {})
    assert load_tables([tmp_path / "b.parquet"]).trained is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"compound": ["NA", "b", "c", "b"]},
            "compound 'NA' of well e0_1 A01 would be read back as",
        ),
        ({"targets": [(), ("A;B",), (), ()]}, "targets ('A;B',) of well e0_1 A02 would be read"),
        ({"well": ["A1", "A01", "A01", "A02"]}, "plate e0_1 has two wells A01"),
    ],
)
def test_wells_that_would_be_read_back_as_others_are_not_written(tmp_path, changes, text):
    out = tmp_path / "t.parquet"
    out.write_text("before")
    with pytest.raises(InputError) as raised:
        export_profiles(profiles(**changes), out, [], {})
    assert text in str(raised.value) and "t.parquet: not written" in str(raised.value)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@needs_pyarrow
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, capsys):
    source, out = write(table(), tmp_path / "t.csv"), tmp_path / "t.parquet"
    out.write_text("before")

    def fail(path, *arguments):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_tables, "_write_parquet", fail)
    words = ["profiles", "export", "--table", str(source), "--out", str(out)]
    assert main(["-q", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert "No space left" in error and len(error.splitlines()) == 1
    assert out.read_text() == "before" and sorted(tmp_path.iterdir()) == sorted([source, out])


@needs_pyarrow
def test_names_that_cannot_be_written_are_refused_before_reading(tmp_path, capsys):
    source = write(table(), tmp_path / "t.csv")
    exported(source, tmp_path / "t.parquet")
    (tmp_path / "f.parquet").mkdir()
    before = (tmp_path / "t.parquet").read_bytes()
    cases = {
        "t2.csv": "name a .parquet or .h5ad file",
        "t2.PARQUET": "name a .parquet or .h5ad file",
        "f.parquet": "is a folder",
        "t.parquet": "is an input itself; give another name",
    }
    for name, text in cases.items():
        tables = [str(source), str(tmp_path / "t.parquet")]
        words = ["export", "--table", *tables, "--out", str(tmp_path / name)]
        assert main(["-q", "profiles", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert f"{name}: {text}" in error and len(error.splitlines()) == 1
    assert (tmp_path / "t.parquet").read_bytes() == before


@pytest.mark.real_data
@pytest.mark.parametrize("suffix", KINDS)
def test_bbbc021_scores_the_same_from_an_exported_file(real_data, tmp_path, capsys, suffix):
    source = next((real_data / "bbbc021_profiles").glob("*.csv"))
    exported(source, tmp_path / f"t{suffix}", "--batch-pattern", "Week[0-9]+")
    capsys.readouterr()
    assert main(["-q", "profiles", "match", "--table", str(tmp_path / f"t{suffix}")]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = [line.split()[1] for line in lines if line.startswith(("NSC ", "NSCB "))]
    assert counts[:2] == ["94/103", "68/92"]
