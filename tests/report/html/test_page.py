"""Pages are whole, load nothing, and show the text of data as text."""

import cv2
import numpy as np
import pytest
from pages import Page, read_page

from cellsignal.report.html import page as html
from cellsignal.report.html.drawing import indexed_png, plot, smaller

HOSTILE = "<script>alert(1)</script>\"'&</td></section>`x`"


def png(width=8, height=6):
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def written(tmp_path, *sections, title="t", lead="l"):
    path = html.write_page(tmp_path / "page.html", title, lead, sections, "made")
    return read_page(path)


def test_text_of_data_stays_text_everywhere(tmp_path):
    content = (
        html.paragraph(HOSTILE)
        + html.table([HOSTILE], [[HOSTILE]], caption=HOSTILE)
        + html.figure(png(), HOSTILE, HOSTILE)
        + html.choices([(HOSTILE, html.heading(HOSTILE)), ("b", html.preformatted(HOSTILE))])
        + html.cards([(HOSTILE, HOSTILE, HOSTILE)])
        + html.folded(HOSTILE, html.listed([HOSTILE]))
    )
    sections = [html.Section(HOSTILE, content, "a", HOSTILE)]
    page = written(tmp_path, *sections, title=HOSTILE, lead=HOSTILE)
    assert page.tags.count("script") == 1  # the page's own
    assert page.text.count("<script>alert(1)</script>") == 19  # once in each place
    assert HOSTILE in page.alts


def test_what_stands_between_backticks_is_code_and_one_alone_is_a_letter():
    assert html.phrase("run `a <b>` now") == "run <code>a &lt;b&gt;</code> now"
    assert html.phrase("5` long") == "5` long"


def test_two_sections_cannot_share_an_anchor():
    sections = [html.Section("a", "", "x"), html.Section("b", "", "x")]
    with pytest.raises(ValueError, match="anchors must differ"):
        html.page("t", "l", sections)


def test_a_missing_part_is_a_line_and_is_in_the_contents(tmp_path):
    page = written(tmp_path, html.Section("Curves", "", "curves", "`cellsignal train x` makes it"))
    assert "cellsignal train x makes it" in page.text and page.links == ["curves"]


def test_a_bar_says_its_figures_and_stands_in_its_place():
    cell = html.bar(0.5, 0.25, 0.75, 0.1)
    assert "0.500, 95 % interval 0.250 to 0.750" in cell.html
    assert 'x="25.00" y="5" width="50.00"' in cell.html and 'x="10.00"' in cell.html
    assert "interval" not in html.bar(0.5, float("nan"), float("nan")).html


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<img src="https://a.example/x.png" alt="a">', "fetches"),
        ("<img src='data:,'>", "without words"),
        ("<p><b></p></b>", "closes another"),
        ('<p id="a"></p><p id="a"></p>', "twice"),
        ('<a href="#none">x</a>', "link to no id"),
        ('<p onclick="x()">', "handler"),
        ("<style>@import 'x.css';</style>", "names what lies outside"),
        ("<script>fetch('//a.example')</script>", "names what lies outside"),
        ("<div>", "not closed"),
        ('<p style="background:url(x.png)"></p>', "style"),
    ],
)
def test_the_check_of_pages_sees_a_fault(text, fault):
    whole = html.page("t", "l", []).replace("</main>", f"{text}</main>")
    assert any(fault in seen for seen in Page(whole).faults)


def test_pictures_become_smaller_and_keep_their_size_and_colours():
    pictures: list[bytes] = []
    with plot(3, 2, pictures) as figure:
        figure.subplots().plot([0, 1], color="#0072B2", lw=6)
    image = cv2.imdecode(np.frombuffer(pictures[0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    near = np.abs(image.astype(int) - [0x00, 0x72, 0xB2]).max(axis=-1) < 8
    assert near.mean() > 0.005
    photo = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (99, 99, 3)))[
        1
    ].tobytes()
    jpeg = smaller(photo, photo=True)
    assert jpeg[:2] == b"\xff\xd8" and len(jpeg) < len(photo)
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (99, 99, 3)


def test_an_indexed_png_holds_the_palette_at_each_pixel():
    palette = np.array([[255, 255, 255], [1, 2, 3], [200, 0, 9]], np.uint8)
    index = np.array([[0, 1], [2, 2]], np.uint8)
    data = np.frombuffer(indexed_png(index, palette), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1], palette[index])
