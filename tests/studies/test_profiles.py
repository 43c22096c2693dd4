"""The page of real profiles: its figures, on the real files."""

import re

import pytest

from cellsignal.studies.profiles.page import profiles_page
from cellsignal.studies.profiles.scale import bench_scale


@pytest.mark.slow
def test_24_plates_of_1000_features_in_a_minute_and_two_gigabytes():
    wells, queries, seconds, gigabytes = bench_scale()
    assert (wells, queries) == (24 * 384, 24 * 320)
    assert seconds < 60 and 0.05 < gigabytes < 2


@pytest.mark.slow
@pytest.mark.real_data
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
    assert "| CellProfiler | 203 | 285 | 0.192 | 0.033 | 71/285 = 0.249 |" in page
    assert "| NSC | as given | 94/103 |" in page and "| NSCB | as given | 68/92 |" in page
    for protocol, total in (("NSC", 103), ("NSCB", 92)):
        row = re.search(rf"\| {protocol} \| every choice nested .* (\d+)/{total} \|", page)
        assert row and int(row[1]) >= 0.75 * total
        draws = re.search(rf"\| {protocol} \| shuffled, nested, 3 draws \|  \| (\S+) \|", page)
        assert float(draws[1]) < 0.3
