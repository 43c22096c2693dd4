"""Explain a wrong config in one line, with the key's path and the nearest valid name."""

import datetime
import difflib
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from cellsignal.config.schema import Config
from cellsignal.config.strict import sections_in, tag_of
from cellsignal.config.upgrade import REMOVED, REMOVED_AUGMENTATIONS

_LONGEST = 60  # characters of a wrong value that are shown
# pydantic's kinds of error, in a user's words
_WORDS = {
    "tuple_type": "needs a list, such as [1, 2]",
    "too_short": "needs at least one item",
    "int_type": "needs a whole number",
    "float_type": "needs a number",
    "model_type": "needs keys, such as {key: value}",
    "model_attributes_type": "needs keys, such as {key: value}",
}


def describe(error: ValidationError) -> str:
    """Describe a pydantic error in one line.

    A section is not blamed for what is wrong inside it, nor is a key called missing that was only
    misspelt.
    """
    items = error.errors()
    locations = [item["loc"] for item in items]
    misspelt = {
        (*item["loc"][:-1], _near_key(item)) for item in items if item["type"] == "extra_forbidden"
    }
    lines = []
    for item in items:
        location = item["loc"]
        depth = len(location)
        inside = any(len(other) > depth and other[:depth] == location for other in locations)
        is_misspelt = item["type"] == "missing" and location in misspelt
        if not (location and inside) and not is_misspelt:
            lines.append(_line(item))
    return "; ".join(lines)


def did_you_mean(word: Any, names: Iterable[str]) -> str:
    """Return a hint with the nearest name, in brackets; "" if none is near."""
    name = _nearest(word, names)
    return f" (did you mean {name!r}?)" if name else ""


def _line(item: Any) -> str:
    path = ".".join(map(str, item["loc"]))
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden" and item["loc"][-1] in REMOVED:
        return f"unknown key {path}: {REMOVED[item['loc'][-1]]}"
    if kind == "extra_forbidden":
        name = _near_key(item) or _key_elsewhere(item["loc"][-1])
        return f"unknown key {path}" + (f" (did you mean {name!r}?)" if name else "")
    if kind == "union_tag_invalid":
        tag, names = item["ctx"]["tag"], _words(item["ctx"]["expected_tags"])
        if tag in REMOVED_AUGMENTATIONS:
            return f"{path}.name: {tag} is gone; write {REMOVED_AUGMENTATIONS[tag]}"
        hint = did_you_mean(tag, names) or " (docs/config.md lists them)"
        return f"{path}.name: there is no {tag!r}{hint}"
    if kind == "union_tag_not_found":
        return f"{path}: needs a name, as in {{name: rotate90}}, got {_shorten(value)}"
    message = _WORDS.get(kind, item["msg"].removeprefix("Value error, "))
    line = f"{path}: {message}".removeprefix(": ")
    if kind in ("missing", "value_error"):
        return line
    line += f", got {_shorten(value)}"
    if kind == "literal_error":
        line += did_you_mean(value, _words(item["ctx"]["expected"].replace(" or ", ", ")))
    if kind == "string_type" and isinstance(value, bool | int | float | datetime.date):
        line += "; write it in quotes"
    return line


def _words(text: str) -> list[str]:
    return text.replace("'", "").split(", ")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _nearest(word: Any, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(word), list(names), 1)), None)


def _near_key(item: Any) -> str | None:
    return _nearest(item["loc"][-1], _valid_keys(Config, item["loc"][:-1]))


def _key_elsewhere(key: Any) -> str | None:
    """Find a key of nearly that name in another section: `epochs` -> stages.0.epochs."""
    paths = _paths(Config)
    name = _nearest(key, sorted(paths))
    return paths[name] if name else None


def _paths(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Name of a key -> the first path that ends in it, the shortest first."""
    paths: dict[str, str] = {}
    deeper: dict[str, str] = {}
    for name, field in model.model_fields.items():
        paths.setdefault(name, f"{prefix}{name}")
        index = "0." if typing.get_origin(field.annotation) is tuple else ""
        for section in sections_in(field.annotation):
            if tag_of(section) is None:
                deeper = _paths(section, f"{prefix}{name}.{index}") | deeper
    return deeper | paths


def _valid_keys(model: Any, location: tuple[Any, ...]) -> list[str]:
    """The keys that are valid at `location`, following nested sections and tagged unions."""
    models = [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for current in models:
            if isinstance(part, int) or tag_of(current) == part:
                following.append(current)
            elif part in current.model_fields:
                following += sections_in(current.model_fields[part].annotation)
        models = following
    return sorted({name for current in models for name in current.model_fields})
