"""The rows of the memory study."""

import pytest

from cellsignal.common.errors import InputError
from cellsignal.studies.memory.measuring import Usage
from cellsignal.studies.memory.rows import FILE, GB, GIB, Measured, Rows, table_row


@pytest.mark.parametrize(
    ("limit", "seconds", "usage", "row"),
    [
        (
            GIB,
            3.0,
            Usage(GIB // 2, GIB // 4, 4.0, 1.5, 1),
            ("1 GiB, 3 s", "0.50 GiB", "0.25 GiB", "2.5 + 1.5", "1", "yes"),
        ),
        (
            GIB,
            3.0,
            Usage(GIB // 2, GIB // 4, 5.0, 1.5, 1),
            ("1 GiB, 3 s", "0.50 GiB", "0.25 GiB", "3.5 + 1.5", "1", "**no**"),
        ),
        (
            2 * GB,
            None,
            Usage(2 * GB, GB, 90.0, 1.0, 3),
            ("2 GB", "2.00 GB", "1.00 GB", "89.0 + 1.0", "3", "**no**"),
        ),
    ],
)
def test_a_row_says_whether_the_limit_is_met(limit, seconds, usage, row):
    assert table_row(Measured(("a", "b"), limit, seconds), usage) == ("`a b`", *row)


def test_a_stopped_command_is_told_apart_from_one_that_met_its_limit():
    for peak, met in ((GIB // 2, "stopped before its end"), (GIB, "**no**, and stopped before")):
        row = table_row(Measured(("a",), GIB), Usage(peak, 0, 5.0, 0.0, 2, stopped=True))
        assert row[-1].startswith(met) and row[3] == ""  # its imports are not known


def test_rows_are_kept_by_command_and_note(tmp_path):
    rows = Rows(tmp_path, 0.5)
    first, second = Measured(("prepare", "c"), GIB), Measured(("prepare", "c"), GIB, note=" again")
    rows.add(first, Usage(1, 2, 3.0, 4.0, 5))
    rows.add(Measured(("bad",), GIB), "it failed")
    again = Rows(tmp_path, 0.5)
    assert again.find(first) == Usage(1, 2, 3.0, 4.0, 5) and again.find(second) is None
    assert again.find(Measured(("bad",), GIB)) == "it failed"
    again.forget(["bad"])
    assert Rows(tmp_path, 0.5).find(Measured(("bad",), GIB)) is None
    with pytest.raises(InputError, match=r"--again bad: no row of it; there are \['prepare'\]"):
        again.forget(["bad"])


def test_inputs_of_another_scale_and_a_damaged_file_are_refused(tmp_path):
    Rows(tmp_path, 0.5)
    with pytest.raises(InputError, match=r"^--scale 1: the inputs in .* have scale 0\.5"):
        Rows(tmp_path, 1.0)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match=r"rows\.json: damaged"):
        Rows(tmp_path, 0.5)
