"""The page of real profiles: its figures, on the real files."""

import re

import pytest

from cellsignal.studies.profiles import profiles_page

pytestmark = [pytest.mark.slow, pytest.mark.real_data]


def test_the_page_of_the_real_profiles(real_data):
    page = profiles_page(
        sorted((real_data / "cpjump1_profiles").glob("*.csv.gz")),
        real_data / "jump_target/JUMP-Target-1_compound_metadata.tsv",
        next((real_data / "bbbc021_profiles").glob("*.csv")),
        shuffles=3,
    )
    assert "| CellProfiler | 306 | 0.578 | 0.102 | 203/306 | 187/306 |" in page
    assert float(re.search(r"largest difference is (\S+)\.\n", page)[1]) < 1e-6
    assert "| as published | 187/306, mAP 0.578 | 6/64," in page
    assert "292 of 306 compounds stand in one position on all plates" in page
    assert re.search(r"\| NSC \| 94/103 \| \d+/103 ", page)
    assert re.search(r"\| NSCB \| 68/92 \| \d+/92 ", page)
