"""Plates stand in the smallest format that holds their wells, each well in its place."""

import re

import pandas as pd
import pytest

from cellsignal.report.html.plate_svg import (
    Spot,
    format_of,
    places_of,
    plate_svg,
    row_name,
    shade,
)


@pytest.mark.parametrize(
    ("wells", "shape"),
    [
        (["A01", "H12"], (8, 12)),
        (["B02", "P24"], (16, 24)),
        (["AF48"], (32, 48)),
        (["A13"], (16, 24)),
    ],
)
def test_the_format_is_the_smallest_that_fits(wells, shape):
    assert format_of(places_of(pd.Series(wells))) == shape


def test_addresses_are_rows_and_columns_from_zero_and_names_go_back():
    places = places_of(pd.Series(["A01", "C22", "Z05", "AA05", "AF48"]))
    assert places.row.tolist() == [0, 2, 25, 26, 31]
    assert places.column.tolist() == [0, 21, 4, 4, 47]
    assert [row_name(row) for row in places.row] == ["A", "C", "Z", "AA", "AF"]
    assert places_of(pd.Series(["A01", "well 3"])) is None


def test_a_well_is_drawn_once_and_the_others_are_dots():
    svg = plate_svg({(1, 2): Spot("#123456", "B03: <x>")}, (8, 12), "a plate", "")
    assert svg.count("<rect") == 1 and svg.count("<circle") == 95
    assert 'fill="#123456"' in svg and "<title>B03: &lt;x&gt;</title>" in svg
    x, y = re.search(r'<rect x="(\d+)" y="(\d+)"', svg).groups()
    assert (int(x), int(y)) == (20 + 2 * 20 + 1, 20 + 20 + 1)


def test_shades_run_from_white_to_blue_and_ink_stays_readable():
    assert shade(0.2, 0.2, 1.0) == ("#ffffff", "#222")
    assert shade(1.0, 0.2, 1.0) == ("#084594", "#fff")
    assert shade(5, 0, 1) == shade(1, 0, 1) and shade(0.3, 0.3, 0.3)[1] == "#222"
