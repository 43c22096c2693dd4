"""Fold tables as they are printed."""

import pandas as pd

from cellsignal.data.folds_text import SHOWN, folds_text


def test_a_long_fold_table_is_printed_in_25_lines():
    rows = [
        (fold, f"compound{fold}_{number}", 3) for fold in (-2, -1, 0, 1) for number in range(40)
    ]
    table = pd.DataFrame(rows, columns=["fold", "compound", "n"])
    text = folds_text(table)
    assert len(text.splitlines()) <= 25
    lines = [line.split() for line in text.splitlines()]
    assert lines[0][:4] == ["fold", "compounds", "rows", "n"]
    assert lines[-1] == ["1", "40", "40", "120", "compound1_0"]
    assert "kept for the test" in text and "in training alone" in text
    assert "compound0_3" in folds_text(table[table.fold == 0].head(10))


def test_a_fold_table_is_printed_by_row_up_to_its_limit():
    rows = [(number % 2, f"plate{number:02d}") for number in range(SHOWN + 1)]
    table = pd.DataFrame(rows, columns=["fold", "plate"])
    by_row = folds_text(table.head(SHOWN)).splitlines()
    assert len(by_row) == SHOWN + 1 and by_row[-1].split() == ["0", f"plate{SHOWN - 1:02d}"]
    by_fold = [line.split() for line in folds_text(table).splitlines()]
    assert by_fold == [
        ["fold", "plates", "rows", "first"],
        ["0", "8", "8", "plate00"],
        ["1", "8", "8", "plate01"],
    ]
