"""One rule for the words that YAML reads as something else: `off`, `on`, `no`, `~`, `None`, `"8"`,
`AUTO`.

YAML 1.1 reads a bare `off`, `no` or `false` as False, `on`, `yes` or `true` as True, and `~`,
`null` or nothing as None. A key that takes words means the word, so every section of a config asks
`read_words` before its values are checked.
"""

import types
import typing
from typing import Any

from pydantic import BaseModel

NO = ("off", "no", "false")
YES = ("on", "yes", "true")
NOTHING = ("none", "null", "~")


def read_words(model: type[BaseModel], tree: Any) -> Any:
    """Give the values of a section the spelling and type that its keys document.

    - A key of words takes them in any case; False is its `off` (or, without one, its `none`), True
      its `on`, None its
      `none`. Of numbers it takes their digits in quotes.
    - A key that may be left out takes `none`, `null` and `~`, also in quotes, for None; `off` too,
      unless it takes true
      and false.
    - True is no number.

    What fits no rule is returned as it is, to be refused by the schema.
    """
    if not isinstance(tree, dict):
        return tree
    fields = model.model_fields
    return {
        key: _read(fields[key].annotation, value)
        if isinstance(key, str) and key in fields
        else value
        for key, value in tree.items()
    }


def _read(annotation: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _read(inner[0], value)
    if origin is typing.Literal:
        return _read_literal(inner, value)
    if origin in (typing.Union, types.UnionType):
        return _read_union(inner, value)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if Ellipsis in inner else [*inner, *[Any] * len(value)]
        return [_read(kind, item) for kind, item in zip(kinds, value, strict=False)]
    if annotation in (int, float) and value is True:
        return "true"  # which the schema refuses; as a number it would be 1
    return value


def _read_literal(options: tuple[Any, ...], value: Any) -> Any:
    if value in options and not isinstance(value, bool):
        return value
    text = "none" if value is None else str(value).strip().casefold()
    for option in options:
        if str(option).casefold() == text:
            return option
    for words in (NO, YES, NOTHING):
        if text in words:
            options_meant = [option for option in options if option in words]
            if words is NO and not options_meant:
                options_meant = [option for option in options if option == "none"]
            return (
                options_meant[0] if options_meant else (text if isinstance(value, bool) else value)
            )
    return value


def _read_union(kinds: tuple[Any, ...], value: Any) -> Any:
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) < len(kinds):
        absent = NOTHING if bool in others else (*NOTHING, *NO)
        if value is None or (
            isinstance(value, bool | str) and str(value).strip().casefold() in absent
        ):
            return None
    sections = [kind for kind in others if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if len(sections) > 1:
        return _read_tag(sections, value)
    return _read(others[0], value) if len(others) == 1 else value


def _read_tag(sections: list[type[BaseModel]], value: Any) -> Any:
    """A section of a list whose `name` says which it is, the name in the spelling of the schema."""
    if not isinstance(value, dict) or "name" not in value:
        return value
    names = tuple(
        name
        for section in sections
        for name in typing.get_args(section.model_fields["name"].annotation)
    )
    return value | {"name": _read_literal(names, value["name"])}
