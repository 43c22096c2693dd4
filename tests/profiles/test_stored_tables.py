"""Parquet and AnnData files as other programs write them, and damaged ones."""

import importlib.util
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellsignal.cli import main
from cellsignal.common.errors import InputError
from cellsignal.profiles.profile_tables import read_profiles
from cellsignal.profiles.sources import load_tables
from cellsignal.profiles.stored_tables import RECORD, load_package, read_stored

needs_anndata = pytest.mark.skipif(
    importlib.util.find_spec("anndata") is None, reason="the extra anndata is not installed"
)
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
FEATURES = ["area", "texture", "radius"]


def obs(**changes) -> pd.DataFrame:
    """Four wells; plates and compounds that look like numbers."""
    columns = {
        "Plate": ["0012", "0012", "0013", "0013"],
        "Well": ["a1", "A02", "A01", "A2"],
        "Compound": ["DMSO", "007", "DMSO", "007"],
    }
    frame = pd.DataFrame(columns, dtype=object).assign(**changes)
    return frame.set_axis(pd.Index([f"o{n}" for n in range(4)], dtype=object))


def write_h5ad(path, x=X, rows=None, names=FEATURES, **more):
    import anndata

    var = pd.DataFrame(index=pd.Index(names, dtype=object))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata.AnnData(x, obs() if rows is None else rows, var, **more).write_h5ad(path)
    return path


def check_wells(profiles):
    assert list(profiles.wells.plate) == ["0012", "0012", "0013", "0013"]
    assert list(profiles.wells.well) == ["A01", "A02", "A01", "A02"]
    assert list(profiles.wells["compound"]) == ["DMSO", "007", "DMSO", "007"]
    assert list(profiles.wells.role == "negative_control") == [True, False, True, False]


def refusal(path, text):
    with pytest.raises(InputError) as raised:
        load_tables([path])
    message = str(raised.value)
    assert text in message and path.name in message and "\n" not in message


@needs_anndata
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_x_of_any_kind_is_the_features_and_obs_the_metadata(tmp_path, kind):
    """As scanpy writes: plain names, categoricals, layers beside X, and X perhaps sparse."""
    x = np.where(np.abs(X) < 0.3, 0, X)
    rows = obs().astype("category")
    path = write_h5ad(tmp_path / "t.h5ad", kind(x), rows, layers={"raw": x + 1}, obsm={"pca": x})
    profiles = load_tables([path])
    check_wells(profiles)
    assert profiles.features == tuple(FEATURES) and profiles.label == "t.h5ad"
    np.testing.assert_array_equal(profiles.x, x)


@needs_anndata
def test_as_pycytominer_writes_numbers_of_metadata_are_in_x(tmp_path):
    import anndata
    from pycytominer.cyto_utils.anndata_utils import write_anndata

    frame = obs().add_prefix("Metadata_").reset_index(drop=True)
    frame["Metadata_Concentration"] = [0.0, 0.1, 0.0, 3.0]
    frame["Metadata_Object_Count"] = [50, 60, 70, 80]
    frame["Cells_ImageNumber"] = range(4)
    frame[["Cells_a", "Nuclei_b", "Image_c"]] = X
    with warnings.catch_warnings(), anndata.settings.override(allow_write_nullable_strings=True):
        warnings.simplefilter("ignore")
        write_anndata(frame, str(tmp_path / "t.h5ad"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    profiles, expected = (load_tables([tmp_path / f"t{end}"]) for end in (".h5ad", ".csv"))
    assert profiles.features == expected.features == ("Cells_a", "Nuclei_b")
    assert list(profiles.wells.treatment) == ["DMSO@0", "007@0.1", "DMSO@0", "007@3"]
    assert list(profiles.wells["count"]) == [50, 60, 70, 80]
    np.testing.assert_array_equal(profiles.x, expected.x)


@needs_anndata
def test_an_anndata_is_a_source_of_a_data_set(tmp_path):
    wells = pd.DataFrame({"plate": ["0013", "0012"], "well": ["A2", "a01"], "experiment": "e"})
    wells = wells.assign(well_id=["second", "first"], role="treatment")
    path = write_h5ad(tmp_path / "t.h5ad")
    found = read_profiles([path], wells, unmatched=0.5)
    assert list(found.wells.well_id) == ["first", "second"] and not found.compartments
    np.testing.assert_array_equal(found.x, X[[0, 3]])


@needs_anndata
def test_missing_cells_numbers_and_flags_of_obs(tmp_path):
    rows = obs(
        moa=pd.Categorical(["x", None, "y", "y"]),
        Cell_Count=pd.array([1, 2, None, 4], dtype="Int64"),
        Concentration=np.float32([0.5, 0.1, 7, 7]),
    )
    wells = load_tables([write_h5ad(tmp_path / "t.h5ad", rows=rows)]).wells
    assert list(wells.moa) == [None, None, None, "y"]  # controls have none
    assert list(wells["count"].astype(float).fillna(-1)) == [1, 2, -1, 4]
    assert list(wells.treatment)[1:] == ["007@0.1", "DMSO@7", "007@7"]


@needs_anndata
def test_names_of_obs_are_wells_where_the_caller_says_so(tmp_path):
    rows = obs().drop(columns="Well").set_axis(pd.Index(["A1", "B1", "C1", "D1"], dtype=object))
    path = write_h5ad(tmp_path / "t.h5ad", rows=rows)
    refusal(path, "no column of the well, such as Metadata_Well; name it by --columns well=NAME")
    wells = load_tables([path], {"well": "obs_names"}).wells
    assert list(wells.well) == ["A01", "B01", "C01", "D01"]
    named = write_h5ad(tmp_path / "n.h5ad", rows=rows.rename_axis("Well"))
    assert list(load_tables([named]).wells.well) == ["A01", "B01", "C01", "D01"]
    bare = write_h5ad(tmp_path / "b.h5ad", rows=rows[[]])
    refusal(bare, "no column of the plate, such as Metadata_Plate")


@needs_anndata
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"names": ["a", "b", "a"]}, "column 'a' occurs twice"),
        ({"x": X.astype(str)}, "X is"),
        ({"uns": {RECORD: "{"}}, "its record 'cellsignal' of what it was made from is damaged"),
        ({"uns": {RECORD: '{"profiles": {"label": 3}}'}}, "'label' of its record"),
        (
            {
                "x": np.float32([[41744, 1, 2]] * 3 + [[108629349, 1, 2]]),
                "names": ["Metadata_Barcode", "b", "c"],
            },
            "Metadata_Barcode is a number of X in float32, which rounds it",
        ),
        ({"x": np.full((4, 3), np.nan, np.float32)}, "every row lacks more than half of the 3"),
    ],
)
def test_an_anndata_that_would_be_misread_is_refused(tmp_path, change, text):
    try:
        path = write_h5ad(tmp_path / "t.h5ad", **change)
    except ValueError:
        pytest.skip("this anndata does not write such a file")
    refusal(path, text)


@needs_anndata
def test_other_hdf5_files_are_refused(tmp_path):
    import h5py

    path = write_h5ad(tmp_path / "t.h5ad")
    whole = path.read_bytes()
    for size in (len(whole) - 100, len(whole) // 2, 100):
        path.write_bytes(whole[:size])
        refusal(path, "not a readable table")
    path.write_text("Metadata_Plate,Metadata_Well\n")
    refusal(path, "not a readable table")
    with h5py.File(path, "w") as file:
        file["X"] = X
    refusal(path, "has no obs, so it holds no profiles of AnnData")
    with h5py.File(path, "w") as file:
        file["X"] = X
        file["obs"] = file["var"] = np.zeros(4, [("index", "i4")])
    refusal(path, "was written by an anndata before 0.7")


def test_parquet_cells_of_every_kind_become_text(tmp_path):
    pytest.importorskip("pyarrow")
    frame = obs().add_prefix("Metadata_").reset_index(drop=True)
    frame["Metadata_Plate"] = frame.Metadata_Plate.astype("category")
    frame["Metadata_genes"] = [[], ["TUBB", "ACTB"], None, ["X"]]
    frame["Metadata_Dose"] = [7.0, 0.5, 7.0, np.nan]
    frame[["Cells_a", "Cells_b", "Cells_c"]] = X
    frame["Cells_list"] = [[1, 2]] * 4
    frame["Cells_kind"] = pd.Categorical(["1", "2", "3", "4"])
    frame.to_parquet(tmp_path / "t.parquet")
    profiles = load_tables([tmp_path / "t.parquet"])
    check_wells(profiles)
    assert profiles.wells.targets[1] == ("ACTB", "TUBB") and profiles.wells.targets[3] == ("X",)
    assert list(profiles.wells.treatment) == ["DMSO@7", "007@0.5", "DMSO@7", "007"]
    assert profiles.features == ("Cells_a", "Cells_b", "Cells_c", "Cells_kind")
    assert "1 not numbers (Cells_list)" in profiles.notes[0]


def test_damaged_parquet_is_one_line(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    table = pyarrow.table({"Metadata_Plate": ["1"], "Cells_a": [1.0]})
    doubled = pyarrow.Table.from_arrays([table[0], table[1], table[1]], names=["p", "a", "a"])
    parquet.write_table(doubled, path)
    refusal(path, "column 'a' occurs twice")
    parquet.write_table(table.replace_schema_metadata({RECORD: "[]"}), path)
    refusal(path, "its record 'cellsignal' of what it was made from is damaged")
    parquet.write_table(table, path)
    whole = path.read_bytes()
    for content in (whole[:-5], whole[: len(whole) // 2], b"", b"PAR1" + b"\xff" * 200 + b"PAR1"):
        path.write_bytes(content)
        refusal(path, "not a readable table")
    folder = tmp_path / "folder.parquet"
    folder.mkdir()
    refusal(folder, "is a folder, not a table")
    refusal(tmp_path / "none.parquet", "no such file")


def test_a_name_that_hides_the_kind_is_refused(tmp_path):
    for suffix, magic in ((".parquet", b"PAR1"), (".h5ad", b"\x89HDF\r\n\x1a\n")):
        path = tmp_path / "t.csv"
        path.write_bytes(magic + b"\0" * 100)
        refusal(path, f"is not a CSV but a {suffix} file; name it so")


@pytest.mark.parametrize(("suffix", "package"), [(".parquet", "pyarrow"), (".h5ad", "anndata")])
def test_a_missing_package_is_one_line_that_names_the_extra(
    tmp_path, monkeypatch, capsys, suffix, package
):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    path = tmp_path / f"t{suffix}"
    path.write_bytes(b"")
    text = f'needs {package}, which is not installed; install the extra of that name (pip install -e ".[{package}]")'
    refusal(path, text)
    source = tmp_path / "t.csv"
    words = ["profiles", "export", "--table", str(source), "--out", str(tmp_path / f"o{suffix}")]
    source.write_text("Metadata_Plate,Metadata_Well,Metadata_Compound,Cells_a\n1,A1,x,2\n")
    assert main(["-q", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert text in error and len(error.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == sorted([source, path])


def test_a_package_that_lacks_another_one_says_which(tmp_path, monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'h5py'", name="h5py")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(InputError, match=r"t\.h5ad: anndata lacks the package h5py"):
        load_package(tmp_path / "t.h5ad")


def test_a_file_of_another_program_has_no_record(tmp_path):
    pytest.importorskip("pyarrow")
    pd.DataFrame({"Metadata_Plate": ["1"], "a": [1.0]}).to_parquet(tmp_path / "t.parquet")
    table = read_stored(tmp_path / "t.parquet")
    assert table.record == {} and table.features is None
