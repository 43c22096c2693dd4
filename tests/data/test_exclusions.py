import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.data.exclusions import read_exclusions

SAMPLES = pd.DataFrame(
    [
        (f"{e}_{p}_{w}_s{site}", f"{e}_{p}_{w}", e, p, w)
        for e in ("E1", "E2")
        for p in ("1", "2")
        for w in ("A01", "B02")
        for site in (1, 2)
    ],
    columns=["sample_id", "well_id", "experiment", "plate", "well"],
)


def excluded(tmp_path, text):
    path = tmp_path / "exclude.csv"
    path.write_text(text)
    return SAMPLES.sample_id[read_exclusions(path, SAMPLES)].tolist()


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        ("sample_id,reason\nE1_1_A01_s2,blurred\n", ["E1_1_A01_s2"]),
        ("reason,well_id\nx,E2_2_B02\n", ["E2_2_B02_s1", "E2_2_B02_s2"]),
        ("experiment,plate\nE2,1\n", [f"E2_1_{w}_s{s}" for w in ("A01", "B02") for s in (1, 2)]),
        ("experiment,plate,well\nE1,2,b2\n", ["E1_2_B02_s1", "E1_2_B02_s2"]),
        ("well_id\n", []),
        ("well_id\nE2_2_B02\nE2_2_B02\n", ["E2_2_B02_s1", "E2_2_B02_s2"]),
    ],
)
def test_what_a_list_names(tmp_path, text, samples):
    assert excluded(tmp_path, text) == samples


def test_an_empty_well_is_the_whole_plate(tmp_path):
    listed = excluded(tmp_path, "experiment,plate,well\nE1,1,\nE2,1,A01\n")
    assert len(listed) == 6 and sum(name.startswith("E1_1_") for name in listed) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("well_id\nE1_1_A01\nE9_1_A01\n", "row 3: well_id 'E9_1_A01' is of no sample"),
        ("sample_id\nx\ny\n", r"row 2: sample_id 'x' is of no sample \(2 such rows\)"),
        ("experiment,plate\nE1,3\n", "row 2: plate '3' with experiment as given is of no sample"),
        ("experiment,plate,well\nE1,1,C01\n", "row 2: well 'C01' with experiment and plate as"),
        ("well_id,reason\n,blurred\n", "row 2: well_id is empty|row 2: well_id '' is empty"),
        ("plate,well\n1,A01\n", "has the columns plate, well; a list of what to leave out has"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        excluded(tmp_path, text)
