"""Base class of every config section: it refuses unknown keys and is frozen.

Words that YAML reads as something else (on, off, no) are read as words.

YAML 1.1 reads a bare `off`, `no` or `false` as False, `on`, `yes` or `true` as True, and `~`,
`null` or nothing as None. A key that takes words means the word.
"""

import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

from cellsignal.common.places import RemoteFolder, as_place

NO = ("off", "no", "false")
YES = ("on", "yes", "true")
NOTHING = ("none", "null", "~")

Probability = Annotated[float, Field(ge=0, le=1)]


def _read_place(value: Any) -> Any:
    """Read a path, or a URL: `Path` would make `s3:/` of `s3://`."""
    if isinstance(value, Path | RemoteFolder):
        return value
    if isinstance(value, str):
        return as_place(value)
    raise ValueError(f"takes a path or a URL, got {value!r}")


StorePlace = Annotated[Path | RemoteFolder, PlainValidator(_read_place), PlainSerializer(str)]


def _check_z(value: float) -> float:
    if 0 < value < 1:
        raise ValueError(
            f"is a z, no longer nats a well: 3 is safe, 0 takes all, {value:g} would hardly leave "
            "any out"
        )
    return value


LeastZ = Annotated[float, Field(ge=0), AfterValidator(_check_z)]  # of the groups of plates


def _read_views(value: Any) -> int | str | tuple[str, ...]:
    """Read `predict.tta`. Its names are checked in data/views.py, which knows them."""
    if value is None or value is False:
        return "none"
    if isinstance(value, str) and value.strip() in ("1", "2", "4", "8", "16"):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value in (1, 2, 4, 8, 16):
        return value
    if isinstance(value, str):
        return value.strip().lower()
    is_list = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    if is_list and value and len(set(value)) == len(value):
        return tuple(value)
    shown = repr(str(value).lower() if isinstance(value, bool) else value)
    raise ValueError(
        f"takes a list of different views, a preset, or its number of views (1, 2, 4, 8, 16), got "
        f"{shown}"
    )


Views = Annotated[int | str | tuple[str, ...], PlainValidator(_read_views)]


def _read_trackers(value: Any) -> Any:
    """Read `tracking`: one name, a list of names, or none."""
    if value is None or value is False:
        return []
    if isinstance(value, str):
        word = value.strip().casefold()
        return [] if word in (*NO, *NOTHING) else [word]
    if not isinstance(value, list | tuple):
        raise ValueError(f"takes one of {', '.join(TRACKERS)}, or a list of them, got {value!r}")
    if len(set(map(str, value))) < len(value):
        raise ValueError("names one tracker twice")
    return value


Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]
TRACKERS: tuple[Tracker, ...] = typing.get_args(Tracker)
Trackers = Annotated[tuple[Tracker, ...], BeforeValidator(_read_trackers)]


def _read_snapshots(value: Any) -> Any:
    """Read `snapshots`: cycles, a list of epochs, or none."""
    if value is None or (isinstance(value, str) and value.strip().casefold() == "cycles"):
        return value and "cycles"
    is_list = isinstance(value, list | tuple)
    if is_list and all(re.fullmatch("-?[0-9]+", str(epoch)) for epoch in value):
        return [int(epoch) for epoch in value]
    raise ValueError(f"takes cycles, or a list of epochs such as [10, 20], got {value!r}")


Snapshots = Annotated[Literal["cycles"] | tuple[int, ...] | None, BeforeValidator(_read_snapshots)]


class Strict(BaseModel):
    """A section of a config. The text below a key is its line in docs/config.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _reads_words(cls, tree: Any) -> Any:
        return read_words(cls, tree)


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """List the sections that a key's annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in sections_in(inner)]


def tag_of(model: type[BaseModel]) -> str | None:
    """Return the only `name` that a section can have; None if it has none or several."""
    field = model.model_fields.get("name")
    options = typing.get_args(field.annotation) if field else ()
    return options[0] if len(options) == 1 else None


def read_words(model: type[BaseModel], tree: Any) -> Any:
    """Give the values of a section the spelling and type that its keys document.

    - A key of words takes them in any case; False is its `off` (or, without one, its `none`), True
      its `on`, None its `none`. Of numbers it takes their digits in quotes.
    - A key that may be left out takes `none`, `null` and `~`, also in quotes, for None; `off` too,
      unless it takes true and false.
    - True is not a number.

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
    synonyms = next((words for words in (NO, YES, NOTHING) if text in words), ())
    meant = [option for option in options if option in synonyms]
    if synonyms is NO and not meant:
        meant = [option for option in options if option == "none"]
    if meant:
        return meant[0]
    return text if isinstance(value, bool) else value


def _read_union(kinds: tuple[Any, ...], value: Any) -> Any:
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) < len(kinds):
        absent = NOTHING if bool in others else (*NOTHING, *NO)
        is_word = isinstance(value, bool | str)
        if value is None or (is_word and str(value).strip().casefold() in absent):
            return None
    sections = [kind for kind in others if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if len(sections) > 1:
        return _read_tag(sections, value)
    return _read(others[0], value) if len(others) == 1 else value


def _read_tag(sections: list[type[BaseModel]], value: Any) -> Any:
    """Write the `name` that says which section a value is as the schema spells it."""
    if not isinstance(value, dict) or "name" not in value:
        return value
    names = tuple(tag_of(section) for section in sections)
    return value | {"name": _read_literal(names, value["name"])}
