"""The table comes back as it was written; anything else is refused by its line."""

import json

import pytest

from cellsignal.common.errors import InputError
from cellsignal.studies.gpu_check.table import Row, one_line, read_table, write_table

ROWS = [
    Row("amp", "pass", "", 1.5, {"fp16": {"scale": 65536.0}}),
    Row("export", "skipped", "no onnx"),
    Row("warp", "fail", "3 levels | off", 0.1),
]


def test_there_and_back(tmp_path):
    path = tmp_path / "deep" / "t.jsonl"
    write_table(path, {"kind": "cuda"}, ROWS)
    head, rows = read_table(path)
    assert head["kind"] == "cuda" and rows == ROWS
    assert len(path.read_text().splitlines()) == 4
    for line in path.read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    ("line", "number"),
    [("", 2), ("{", 2), ('{"check": "a"}', 2), ('{"check": "a", "verdict": "good"}', 2), ("[]", 2)],
)
def test_a_wrong_line_is_named(tmp_path, line, number):
    path = tmp_path / "t.jsonl"
    write_table(path, {"kind": "cuda"}, [])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=f"line {number} is not of a table of gpu-check"):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "message"), [("", "is empty"), ("{}\n", "line 1 is not"), ("1\n", "line 1")]
)
def test_another_file_is_refused(tmp_path, text, message):
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.jsonl")


def test_reasons_are_one_short_line():
    assert one_line("a\n  b\t c") == "a b c"
    assert one_line("x" * 400, 10) == "xxxxxxx..."
