"""Layouts of plates some of whose wells have no label."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cellsignal.report.html.explore.layouts import layouts


@pytest.mark.parametrize("several", [False, True])
def test_wells_whose_labels_are_not_known_are_drawn_without(several):
    """A test plate: the schema's column `labels` is NaN where nothing is known of a well."""
    wells = pd.DataFrame(
        {
            "experiment": "A-1",
            "plate": "1",
            "well": ["B02", "B03"],
            "cell_type": "A",
            "role": "treatment",
            "split": ["train", "test"],
            "label": pd.array([None if several else 1, None], dtype="Int64"),
            "labels": pd.Series([(1, 2) if several else np.nan, np.nan], dtype=object),
        }
    )
    text = layouts(SimpleNamespace(wells=wells, classes=("x", "y", "z")))
    names = "y, z" if several else "y"
    assert f"<title>B02, {names}</title>" in text
    assert text.count("<title>B03: treatment of the test set</title>") == 2
