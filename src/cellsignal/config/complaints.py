"""What is wrong with a config, as one line: each mistake once, by the path of its key, with the
nearest valid name.
"""

import datetime
import difflib
import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from cellsignal.config.schema import Config

_LONGEST = 60  # characters of a wrong value that are shown


def describe(error: ValidationError) -> str:
    """A pydantic error as one line: each mistake once, by its key's path, with the nearest valid
    name.

    A section is not blamed for what is wrong inside it, nor is a key called missing that was only
    misspelt.
    """
    items = error.errors()
    places = [item["loc"] for item in items]
    renamed = {
        (*item["loc"][:-1], _near_key(item)) for item in items if item["type"] == "extra_forbidden"
    }
    lines = []
    for item in items:
        location = item["loc"]
        inside = any(
            len(place) > len(location) and place[: len(location)] == location for place in places
        )
        if (location and inside) or (item["type"] == "missing" and location in renamed):
            continue
        lines.append(_line(item))
    return "; ".join(lines)


def _line(item: Any) -> str:
    path = ".".join(map(str, item["loc"]))
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        return f"unknown key {path}{_hint(_near_key(item) or _key_elsewhere(item['loc'][-1]))}"
    if kind == "union_tag_invalid":
        names = item["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{path}.name: there is no {item['ctx']['tag']!r}{_hint(_nearest(item['ctx']['tag'], names)) or _names(names)}"
    if kind == "union_tag_not_found":
        return f"{path}: needs a name, as in {{name: rotate90}}, got {_shown(value)}"
    line = f"{path}: {item['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    if kind in ("missing", "value_error"):
        return line
    line += f", got {_shown(value)}"
    if kind == "literal_error":
        line += _hint(
            _nearest(
                value, item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            )
        )
    if kind == "string_type" and isinstance(value, bool | int | float | datetime.date):
        line += "; write it in quotes"
    return line


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _hint(name: str | None) -> str:
    return f" (did you mean {name!r}?)" if name else ""


def _names(names: list[str]) -> str:
    return f" (there is {', '.join(names)})"


def _nearest(word: Any, names: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(word), names, 1)), None)


def _near_key(item: Any) -> str | None:
    return _nearest(item["loc"][-1], _valid_keys(Config, item["loc"][:-1]))


def _key_elsewhere(key: Any) -> str | None:
    """The path of a key of that name, or nearly, in another section: `epochs` -> stages.0.epochs."""
    paths = _paths(Config)
    near = _nearest(key, sorted(paths))
    return paths[near] if near else None


def _paths(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Name of a key -> the first path that ends in it, those of sections before those inside them."""
    paths: dict[str, str] = {}
    deeper: dict[str, str] = {}
    for name, field in model.model_fields.items():
        paths.setdefault(name, f"{prefix}{name}")
        several = typing.get_origin(field.annotation) is tuple
        for section in _models_in(field.annotation):
            if _tag(section) is None:
                deeper = _paths(section, f"{prefix}{name}.{'0.' if several else ''}") | deeper
    return deeper | paths


def _valid_keys(model: Any, location: tuple[Any, ...]) -> list[str]:
    """The keys that are valid at `location`, following nested models, optional ones, tuples of
    them, and tagged unions.
    """
    models = [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for current in models:
            if isinstance(part, int):
                following.append(current)
            elif part in current.model_fields:
                following += _models_in(current.model_fields[part].annotation)
            elif _tag(current) == part:
                following.append(current)
        models = following
    return sorted({name for current in models for name in current.model_fields})


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("name")
    options = typing.get_args(field.annotation) if field else ()
    return options[0] if len(options) == 1 else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]
