"""Check a page as a browser, a phone and a screen reader would mind, by parsing it alone."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

CELLS = {"td", "th", "div", "p", "li", "h1", "h2", "h3", "figcaption", "summary"}
VOID = {"meta", "link", "img", "br", "hr", "input"}
OUTSIDE = re.compile(r"@import|url\(\s*['\"]?(?!data:)|(?<![\w.])(?:https?:)?//\w", re.I)


@dataclass
class Page(HTMLParser):
    """What a parser saw.

    `faults` are nesting faults, doubled ids, links to no id, pictures without words for who cannot
    see them, and anything that a browser would fetch.
    """

    html: str
    faults: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    alts: list[str] = field(default_factory=list)
    text: str = ""
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self, convert_charrefs=True)
        self.open: list[str] = []
        self.metas: dict[str, str] = {}
        self.feed(self.html)
        self.close()
        if self.open:
            self.faults.append(f"not closed: {self.open}")
        self.faults += [f"id {name} twice" for name in set(self.ids) if self.ids.count(name) > 1]
        self.faults += [f"link to no id: {name}" for name in self.links if name not in self.ids]
        if "width=device-width" not in self.metas.get("viewport", ""):
            self.faults.append("no viewport")
        if not self.html.startswith("<!DOCTYPE html>"):
            self.faults.append("no doctype")

    def handle_starttag(self, tag, attributes) -> None:
        named = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in named:
            self.ids.append(named["id"])
        if tag == "meta" and "name" in named:
            self.metas[named["name"]] = named["content"]
        if tag in ("iframe", "object", "embed", "base", "form"):
            self.faults.append(f"<{tag}>")
        for name, value in attributes:
            if name.startswith("on"):
                self.faults.append(f"handler {name}")
            if name in ("src", "srcset", "href", "action", "poster", "data"):
                if value.startswith("#"):
                    self.links.append(value[1:])
                elif not value.startswith("data:"):
                    self.faults.append(f"fetches {value[:60]}")
            if name == "style" and OUTSIDE.search(value):
                self.faults.append(f"style {value[:60]}")
        words = named.get("alt") if tag == "img" else named.get("aria-label")
        if tag == "img" or tag == "svg":
            if not (words or "").strip():
                self.faults.append(f"<{tag}> without words")
            self.alts.append(words or "")

    def handle_startendtag(self, tag, attributes) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag) -> None:
        self.text += "\n" * (tag in CELLS)
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another")

    def handle_data(self, data) -> None:
        inside = self.open[-1] if self.open else ""
        if inside in ("style", "script"):
            if OUTSIDE.search(data):
                self.faults.append(f"{inside} names what lies outside")
        else:
            self.text += data


def read_page(path: Path) -> Page:
    """Parse a page and hold it to all that is checked."""
    page = Page(path.read_text(encoding="utf-8"))
    assert page.faults == [], page.faults[:5]
    return page
