"""Pages in headless Chromium, where there is one: nothing is cut off, fetched or complained of."""

import pytest
from chromium import BROWSER, look_at
from helpers import cellsignal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path"),
]


@pytest.mark.parametrize("page", ["report", "side by side", "explore"])
def test_a_page_is_whole_on_a_phone_and_on_a_screen(submitted, tmp_path, page):
    out = tmp_path / "page.html"
    words = {
        "report": ["report", "tiny", "--answers", submitted.answers],
        "side by side": ["report", "tiny", "other"],
        "explore": ["explore", "rxrx1", "--root", submitted.root, "--config", "config.yaml"],
    }[page]
    assert cellsignal(*words, "--out", out, cwd=submitted.folder) == 0
    for width in (400, 1600):
        seen = look_at(out, width)
        assert seen["cut"] == [] and seen["scroll"] <= seen["width"] <= width
        assert seen["console"] == [] and seen["fetched"] == []
        assert seen["images"] > 2 and seen["broken"] == 0
        assert seen["buttons"] >= seen["hidden"] > 0  # the script ran


def test_the_measure_sees_what_is_cut_off_and_what_fails(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><p style='width:900px'>wide</p><img alt=x src='data:image/png;base64,AA'>"
        "<script>nothing()</script>"
    )
    seen = look_at(page, 400)
    assert seen["cut"] and seen["scroll"] > seen["width"] and seen["broken"] == 1
    assert any("nothing is not defined" in line for line in seen["console"])
