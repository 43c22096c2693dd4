"""A blend file that is damaged or says what cannot be is refused with its name and key."""

import json

import pytest

from cellsignal.common.errors import InputError
from cellsignal.prediction.blend_file import KIND, blend_warning, read_blend

GOOD = {
    "kind": KIND,
    "competition": "rxrx1",
    "method": "stack",
    "files": ["f" * 64],
    "runs": {"a/seed0": {"weight": 1.0, "temperature": 2.0}},
    "nested": {"unit": "experiment", "gain": 0.0123},
}


def test_a_good_one_is_read(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(GOOD))
    assert read_blend(tmp_path / "b.json") == GOOD
    text = blend_warning(GOOD | {"file": "b.json"})
    assert text.startswith("b.json: ") and "gained +0.0123 over equal weights" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "x"}, "is not a blend"),
        ({"runs": {}}, "runs is missing or no dict"),
        ({"runs": [1]}, "runs is missing or no dict"),
        ({"files": None}, "files is missing or no list"),
        ({"runs": {"a": {"weight": -1, "temperature": 1}}}, r"runs\.a\.weight: -1 is not a weight"),
        ({"runs": {"a": {"weight": 1}}}, r"runs\.a\.temperature: None is not a temperature"),
        ({"runs": {"a": {"weight": 1, "temperature": 0}}}, r"runs\.a\.temperature: 0 is not"),
        ({"runs": {"a": {"weight": float("nan"), "temperature": 1}}}, r".*weight: nan is not"),
        ({"runs": {"a": {"weight": "1", "temperature": 1}}}, r".*weight: '1' is not a weight"),
        ({"runs": {"a": 1}}, r"runs\.a\.weight: None"),
        ({"runs": {"a": {"weight": 0, "temperature": 1}}}, "no run has a weight above 0"),
    ],
)
def test_bad_ones_are_refused(tmp_path, change, message):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(InputError, match=rf"b\.json: {message}"):
        read_blend(path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "1"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"b\.json: is not"):
        read_blend(path)
    with pytest.raises(InputError, match=r"c\.json: cannot be read"):
        read_blend(tmp_path / "c.json")
