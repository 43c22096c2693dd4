"""Write a page: one HTML file with its style, script and pictures inside, nothing from outside.

All text that comes from data goes through `escape`; what a function here returns is HTML.
"""

import base64
import html
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal import __version__
from cellsignal.common.files import write_text
from cellsignal.report.html.style import CSS, SCRIPT

# a browser refuses whatever a page would fetch
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "form-action 'none'; base-uri 'none'"
)
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff\xe0": "jpeg"}


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: plain text.
        html: "" where the part is missing.
        anchor: the id, unique on the page.
        note: plain text: what makes the part that is missing, or one remark.
    """

    title: str
    html: str
    anchor: str
    note: str = ""


def escape(value: Any) -> str:
    """Return text that is safe in HTML and in the values of attributes."""
    return html.escape(str(value), quote=True)


def plural(word: str) -> str:
    """Return the plural of a word of this field."""
    return f"{word}es" if word.endswith("s") else f"{word}s"


def counted(number: int, word: str) -> str:
    """Return "1 plate" or "1,108 plates"."""
    return f"{number:,} {word if number == 1 else plural(word)}"


def unit_name(column: str) -> str:
    """Return what a column of the samples table is of, in words: "well_id" is of wells."""
    return column.removesuffix("_id").replace("_", " ")


def phrase(text: str) -> str:
    """Return plain text as HTML; what stands between backticks is code."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:  # a backtick alone is a letter
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))


def paragraph(text: str) -> str:
    """Return plain text as a paragraph."""
    return f"<p>{phrase(text)}</p>"


def listed(items: Iterable[str]) -> str:
    """Return plain texts as a list."""
    lines = "".join(f"<li>{phrase(item)}</li>" for item in items)
    return f"<ul>{lines}</ul>"


def missing(text: str) -> str:
    """Return the line that says what makes a part that is not there."""
    return f'<p class="missing">{phrase(text)}</p>'


def heading(text: str) -> str:
    """Return a heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def preformatted(text: str) -> str:
    """Return text whose columns are aligned by blanks."""
    return f'<pre tabindex="0">{escape(text)}</pre>'


def folded(title: str, content: str, is_open: bool = False) -> str:
    """Return HTML that opens on a click."""
    state = " open" if is_open else ""
    return f"<details{state}><summary>{escape(title)}</summary>{content}</details>"


def choices(parts: Sequence[tuple[str, str]]) -> str:
    """Return parts (name, HTML) of which buttons show one; without JavaScript all are shown."""
    if len(parts) == 1:
        return parts[0][1]
    boxes = [
        f'<div data-name="{escape(name)}"><h3 class="choice">{escape(name)}</h3>{content}</div>'
        for name, content in parts
    ]
    return f'<div class="choices">{"".join(boxes)}</div>'


def cards(items: Iterable[tuple[str, str, str]]) -> str:
    """Return figures as large numbers: (name, value, what to know about it), plain text."""
    boxes = [
        f'<div class="card"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="more">{phrase(more)}</div></div>'
        for name, value, more in items
    ]
    return f'<div class="cards">{"".join(boxes)}</div>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    numeric: Collection[int] = (),
    marked: Collection[int] = (),
    caption: str = "",
    style: str = "",
) -> str:
    """Return a table of text; `Raw` cells are HTML.

    Args:
        style: "facts" breaks long words, as hashes and paths are.
        numeric: columns that are right-aligned.
        marked: rows with a coloured ground.
    """
    cells = "".join(_cell("th", name, number in numeric) for number, name in enumerate(head))
    lines = [f"<thead><tr>{cells}</tr></thead><tbody>"]
    for number, row in enumerate(rows):
        cells = "".join(_cell("td", value, place in numeric) for place, value in enumerate(row))
        lines.append(f'<tr class="mine">{cells}</tr>' if number in marked else f"<tr>{cells}</tr>")
    title = f'<p class="caption">{phrase(caption)}</p>' if caption else ""
    body, kind = "".join(lines), f' class="{style}"' if style else ""
    return f'{title}<div class="scroll" tabindex="0"><table{kind}>{body}</tbody></table></div>'


@dataclass(frozen=True)
class Raw:
    """A cell of a table that is HTML.

    Attributes:
        html: the content.
        style: class of the cell, and a style if it has one, as attributes.
    """

    html: str
    style: str = ""


def _cell(tag: str, value: Any, is_numeric: bool) -> str:
    if isinstance(value, Raw):
        return f"<{tag} {value.style}>{value.html}</{tag}>"
    style = ' class="n"' if is_numeric else ""
    return f"<{tag}{style}>{escape(value)}</{tag}>"


def tag(kind: str, text: str) -> Raw:
    """Return a coloured word: kind "fail", "warn", "pass" or another."""
    known = kind if kind in ("fail", "warn", "pass") else ""
    return Raw(f'<span class="tag {known}">{escape(text)}</span>')


def figure(picture: bytes, alt: str, caption: str = "", width: int | None = None) -> str:
    """Return a PNG or JPEG as a figure.

    Args:
        alt: what the picture shows, for who cannot see it.
        width: CSS pixels at most; by default the page's.
    """
    assert alt
    kind = _KINDS[picture[:4]]
    text = base64.b64encode(picture).decode("ascii")
    style = "" if width is None else f' style="width:{width}px"'
    below = f"<figcaption>{phrase(caption)}</figcaption>" if caption else ""
    source = f"data:image/{kind};base64,{text}"
    return f'<figure><img src="{source}" alt="{escape(alt)}"{style}>{below}</figure>'


def bar(value: float, low: float, high: float, chance: float | None = None) -> Raw:
    """Return a cell with a score in 0 .. 1 as a dot on its interval; chance is a tick."""
    text = f"{value:.3f}"
    parts = ['<line x1="0" y1="8" x2="100" y2="8" stroke="#e2e2e2" stroke-width="1"/>']
    if np.isfinite([low, high]).all():
        text += f", 95 % interval {low:.3f} to {high:.3f}"
        parts.append(
            f'<rect x="{100 * low:.2f}" y="5" width="{max(100 * (high - low), 0.4):.2f}" '
            'height="6" fill="#8cc5e3"/>'
        )
    if chance is not None:
        parts.append(f'<rect x="{100 * chance:.2f}" y="1" width=".6" height="14" fill="#6b6b6b"/>')
    parts.append(
        f'<rect x="{100 * value - 0.6:.2f}" y="2" width="1.2" height="12" fill="#0072b2"/>'
    )
    drawn = "".join(parts)
    head = f'<svg viewBox="0 0 100 16" preserveAspectRatio="none" role="img" aria-label="{text}">'
    return Raw(f"{head}{drawn}</svg>", 'class="bar"')


def interval_text(low: float, high: float) -> str:
    """Return "0.81 to 0.87", or why there is no interval."""
    return f"{low:.3f} to {high:.3f}" if np.isfinite([low, high]).all() else "too few groups"


def page(title: str, lead: str, sections: Sequence[Section], made: str = "") -> str:
    """Return a whole page.

    Args:
        lead: plain text below the title.
        made: how it was made, at the foot.

    Raises:
        ValueError: two sections have one anchor.
    """
    anchors = [section.anchor for section in sections]
    if len(set(anchors)) < len(anchors):
        raise ValueError(f"anchors must differ: {anchors}")
    links = "".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    body = "\n".join(map(section_html, sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{CSS}</style>\n</head>\n<body>\n<header>\n<h1>{escape(title)}</h1>\n"
        f'<p class="lead">{escape(lead)}</p>\n<nav aria-label="Sections">{links}</nav>\n</header>\n'
        f"<main>\n{body}\n</main>\n<footer>{phrase(made)}</footer>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def section_html(section: Section, level: int = 2) -> str:
    """Return a section with its heading; a missing one is a line."""
    note = missing(section.note) if section.note else ""
    title = f"<h{level}>{escape(section.title)}</h{level}>"
    return f'<section id="{escape(section.anchor)}">{title}{section.html}{note}</section>'


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section], made: str) -> Path:
    """Write a page atomically; return its path."""
    made = f"{made} cellsignal {__version__}. This file loads nothing from a network."
    write_text(path, page(title, lead, sections, made))
    return path
