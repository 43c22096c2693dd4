"""`tables`: what is written comes back as text, and every message names the line of the file."""

import csv
import gzip
import io

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.common import table_text, tables
from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.common.tables import (
    normalise_well,
    parse_integers,
    parse_numbers,
    read_sheet,
    read_table,
    refuse_rows,
)

# Cells with everything that CSV must quote; no blanks at the ends, which are stripped, and no NUL.
CELL = st.text(st.sampled_from('ab01,;"\n\r\t |é'), max_size=6).map(str.strip)
LINE_ENDS = ("\n", "\r\n", "\r")


@st.composite
def written_tables(draw):
    """(names, rows, text, lines): a table, its text, and the line in which each row begins."""
    width = draw(st.integers(1, 4))
    names = [f"column {number}" for number in range(width)]
    rows = draw(st.lists(st.lists(CELL, min_size=width, max_size=width).filter(any), max_size=6))
    end = draw(st.sampled_from(LINE_ENDS))
    blank = draw(st.lists(st.integers(0, 2), min_size=len(rows) + 2, max_size=len(rows) + 2))
    text, lines = "", []
    for number, row in enumerate([names, *rows]):
        text += end * blank[number]
        lines.append(_lines_in(text) + 1)
        buffer = io.StringIO(newline="")
        plain = draw(st.booleans()) and not {"\r", "\n"} & set("".join(row))  # not always quoted
        csv.writer(
            buffer, lineterminator=end, quoting=csv.QUOTE_MINIMAL if plain else csv.QUOTE_ALL
        ).writerow(row)
        text += buffer.getvalue()
    return names, rows, text + end * blank[-1], lines[1:]


def _lines_in(text: str) -> int:
    return len(io.StringIO(text, newline="").readlines())


@settings(max_examples=300, deadline=None)
@given(written_tables(), st.booleans())
def test_what_is_written_comes_back_with_the_lines_of_its_rows(table, mark):
    names, rows, text, lines = table
    content = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    frame = read_table("t.csv", content=content)
    assert frame.columns.tolist() == names and frame.to_numpy().tolist() == rows
    assert frame.index.tolist() == lines and frame.index.name == "row"
    assert all(type(cell) is str for row in frame.to_numpy() for cell in row)


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from('ab, "\n\r;'), max_size=30))
def test_the_fast_way_reads_as_the_strict_one_or_not_at_all(text):
    fast = table_text._parse_regular(text, ",") if text.strip() else None
    if fast is not None:
        strict = table_text._parse_strictly("t.csv", text, ",", None, InputError)
        pd.testing.assert_frame_equal(fast, strict, check_column_type=False)


def test_the_fast_way_is_taken_where_every_line_is_a_row():
    assert table_text._parse_regular(
        'a,b\n"5"" disk, old",2\r\n 1 ,\n', ","
    ).to_numpy().tolist() == [['5" disk, old', "2"], ["1", ""]]
    for text in (
        "a,b\n1\n",
        "a,b\n1,2,3\n",
        "a,b\n\n1,2\n",
        'a,b\n"1\n2",3\n',
        'a,b\n"1"x,2\n',
        "a,b\r1,2\r",
        "a,a\n1,2\n",
    ):
        assert table_text._parse_regular(text, ",") is None, text


@pytest.mark.parametrize(
    "text",
    ["00090001", "1e5", "NA", "1.0", "007", "True", "2019-01-01", "-0", "inf", "0x10", "1_000"],
)
def test_identifiers_stay_text(text):
    assert read_table("t.csv", content=f"id,x\n {text} ,1\n".encode()).id.tolist() == [text]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv", "t.tsv.gz"])
def test_compressed_tables_and_tabs(tmp_path, name):
    text = "a\tb\n1\t2\n" if ".tsv" in name else "a,b\n1,2\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert read_table(tmp_path / name).to_dict("list") == {"a": ["1"], "b": ["2"]}
    (tmp_path / name).write_bytes(gzip.compress(text.encode() * 50)[:-9])
    with pytest.raises(InputError, match="cut short"):
        read_table(tmp_path / name)


REFUSED = {
    "": "is empty",
    "\n \n": "is empty",
    ",,\n": "is empty",
    "a,b\n1\n": "row 2 has 1 cells, the header has 2",
    "a,b\n\n1,2\n1,2,3\n": "row 4 has 3 cells, the header has 2",
    'a,b\n"1\n2",3\n4\n': "row 4 has 1 cells",
    "a,b,a\n1,2,3\n": "column 'a' occurs twice in the header",
    "a;b\n1;2\n": "no column 'a'; it has a;b (cells look separated by ';'; ',' is expected)",
    "a\tb\n1\t2\n": "no column 'a'",
    "a,c\n1,2\n": "no column 'b'; it has a, c",
    "a,b\n1,2\n\n3, \n4,\n": "row 4: b is empty (2 such rows); its a is '3'",
    "a,b\n1,2\r\n3,nan\r\n": "row 3: b is empty",
    "a,b\r1,NA\r": "row 2: b is empty",
    "a,b\n1,2\n1 ,3\n": "row 3: a '1' occurs more than once",
    'a,b\n1,"2\n': "row 2",
    'a,b\n1,2\n"1"x,2\n': "row 3",
    "a,b\n1,\0\n": "is not a CSV file",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_in_one_line_that_names_file_and_row(text):
    with pytest.raises(InvalidSubmission) as refused:
        read_table(
            "folder/t.csv", ("a", "b"), unique="a", content=text.encode(), error=InvalidSubmission
        )
    message = str(refused.value)
    assert message.startswith("folder/t.csv: ") and REFUSED[text] in message and "\n" not in message


def test_what_is_no_table(tmp_path):
    for content, why in (
        (b"a,b\n\xff\xfe,1\n", "line 2 is not UTF-8 text"),
        (b"a,b\n1,2\n\x00", "is not a CSV file"),
    ):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(InputError, match=why):
            read_table(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder, not a table"):
        read_table(tmp_path)


def test_what_counts_as_empty_can_be_said():
    content = b"id,name\n1,NA\n2,\n"
    assert read_table("t.csv", ("id", "name"), filled=(), content=content).name.tolist() == [
        "NA",
        "",
    ]
    with pytest.raises(InputError, match="row 3: name is empty; its id is '2'"):
        read_table("t.csv", ("id", "name"), content=content, missing={""})


def test_a_cell_may_be_longer_than_the_csv_module_likes():
    long = "id " * 100_000
    for text in (f"a,b\n1,{long}\n", f'a,b\n1,"{long}"\n2,"x\ny"\n'):
        assert read_table("t.csv", content=text.encode()).b.iloc[0] == long.strip()


def test_the_first_rows_alone():
    content = b"a,b\n\n1,2\n3,4\n5\n"
    assert read_table("t.csv", content=content, rows=2).index.tolist() == [3, 4]
    assert read_table("t.csv", content=content, rows=0).columns.tolist() == ["a", "b"]


def test_numbers_name_their_row():
    frame = read_table("t.csv", content=b"n,x\n\n1,0.5\n2.0,1e3\n-3,inf\n4.5,nan\n")
    assert parse_integers("t.csv", frame.iloc[:3], "n").tolist() == [1, 2, -3]
    assert parse_integers("t.csv", frame.iloc[:0], "n").tolist() == []
    with pytest.raises(InputError, match=r"t\.csv: row 6: n '4.5' is not a whole number from 0"):
        parse_integers("t.csv", frame.drop(index=5), "n", low=0)
    with pytest.raises(InputError, match=r"row 5: n '-3' is not a whole number from 0 to 9"):
        parse_integers("t.csv", frame.iloc[:3], "n", 0, 9)
    assert parse_numbers("t.csv", frame.iloc[:2], "x").tolist() == [0.5, 1000.0]
    with pytest.raises(InputError, match=r"row 5: x 'inf' is not a number \(2 such rows\)"):
        parse_numbers("t.csv", frame, "x")
    refuse_rows("t.csv", frame, frame.n == "9", "n", "is nine")
    with pytest.raises(InputError, match=r"row 4: n '2.0' is two"):
        refuse_rows("t.csv", frame, frame.n == "2.0", "n", "is two")


@given(st.sampled_from("ABCDEFGHIJKLMNOPabp"), st.integers(1, 48), st.integers(0, 2))
def test_wells_are_written_in_one_way(letter, number, zeros):
    assert normalise_well(f" {letter}{'0' * zeros}{number} ") == f"{letter.upper()}{number:02d}"


@pytest.mark.parametrize(
    "text, written",
    [
        ("AF48", "AF48"),
        ("aa1", "AA01"),
        *((text, text) for text in ("A0", "well_030", "A100", "AG1", "")),
    ],
)
def test_other_texts_are_only_stripped(text, written):
    assert normalise_well(f"{text} ") == written
    assert tables.is_well(written) == (written in ("AF48", "AA01"))


def test_sheets_are_read_as_tables_are(tmp_path):
    path = tmp_path / "book.xlsx"
    cells = pd.DataFrame(
        [
            [None, None],
            ["index", " name "],
            [17, "a "],
            [18.0, "b"],
            [None, None],
            ["00019", 2.5],
            [20, None],
        ]
    )
    cells.to_excel(path, sheet_name="one", header=False, index=False)
    frame = read_sheet(path, "one", ("index",))
    assert frame.to_dict("list") == {
        "index": ["17", "18", "00019", "20"],
        "name": ["a", "b", "2.5", ""],
    }
    assert frame.index.tolist() == [3, 4, 6, 7]
    with pytest.raises(
        InputError, match=r"book\.xlsx: sheet 'one': row 7: name is empty; its index is '20'"
    ):
        read_sheet(path, "one", ("index", "name"))
    with pytest.raises(InputError, match=r"book\.xlsx: no sheet 'two'; it has one"):
        read_sheet(path, "two")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match=r"book\.xlsx: is not a readable xlsx"):
        read_sheet(path, "one")


@pytest.mark.parametrize("text", [",Unnamed: 0,a\n5,6,7\n", ',Unnamed: 0,a\n5,6,"7\n8"\n'])
def test_an_index_that_was_saved_twice_has_two_names(tmp_path, text):
    """By either way of parsing; a name that the header itself gives twice stays an error, which
    names the file.
    """
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert list(read_table(path).columns) == ["Unnamed: 0.1", "Unnamed: 0", "a"]
    path.write_text(text.replace("Unnamed: 0", "a"))
    with pytest.raises(InputError, match=r"t\.csv: column 'a' occurs twice in the header"):
        read_table(path)
