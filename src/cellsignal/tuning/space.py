"""Read the space of a search: which keys of a config vary, and between what.

A space is a YAML file of a key's path -> `{low, high, log, step}` or `{choices: [...]}`. Each end
and each choice is put into the config by the code of `--set`, so that what the schema would refuse
is refused before anything trains.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cellsignal.common.errors import InputError
from cellsignal.config.explain import did_you_mean
from cellsignal.config.load import load_config, read_mapping

_RANGE = ("low", "high", "log", "step")
_SCORED = "it would change what is scored, and trials could not be compared"
# key, or section -> why a search may not change it
_FIXED = {
    "name": "each trial has a name of its own",
    "base": "write it in the config",
    "runs": "trials lie beside each other",
    "seed": "the luckiest seed is no better setting; --confirm-seeds trains with others",
    "competition": _SCORED,
    "protocol": _SCORED,
    "folds": "--folds and --left-out choose the folds",
    "data.root": _SCORED,
    "data.size": "a store is packed in one size; search data.store",
    "data.codec": "it changes the speed alone",
    "data.bad_site": _SCORED,
    "data.sites": _SCORED,
    "data.exclude": _SCORED,
    "predict.checkpoint": "best was picked on the wells that score it, last was not",
}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        log: drawn evenly on the scale of the logarithm.
        step: only low, low + step ...; None: any.
        whole: whole numbers alone.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def text(self) -> str:
        words = f"{self.low:g} to {self.high:g}"
        return words + (" (log)" if self.log else f" by {self.step:g}" if self.step else "")


@dataclass(frozen=True)
class Choices:
    """A few values, each as the text of its YAML."""

    texts: tuple[str, ...]

    def text(self) -> str:
        return " or ".join(self.texts)


Space = dict[str, Range | Choices]


def read_space(path: Path, base: Path) -> Space:
    """Read a space and hold it to a config.

    Args:
        base: YAML of the config that trials change.

    Raises:
        InputError: not a mapping, a key that the config cannot have or a search may not change, or
            a value that the config refuses; names the file and the key.
    """
    tree = read_mapping(path, "a space")
    if not tree:
        raise InputError(
            f"{path}: is empty; give a key, such as model.dropout: {{low: 0, high: 1}}"
        )
    config = load_config(base).model_dump(mode="json")
    places: dict[tuple[str, ...], str] = {}
    space: Space = {}
    for key, words in tree.items():
        where = f"{path}: {key}"
        _refuse_fixed(str(key), where)
        place = find_place(config, str(key))
        for other, name in places.items():
            if place[: len(other)] == other or other[: len(place)] == place:
                raise InputError(f"{where}: changes what {name} changes; leave one out")
        places[place] = str(key)
        space[str(key)] = _read_part(words, where)
        space[str(key)] = _hold_to_config(str(key), space[str(key)], base, where)
    return space


def set_words(values: Mapping[str, Any]) -> list[str]:
    """Write drawn values as the words of `--set`."""
    return [f"{key}={text_of(value)}" for key, value in values.items()]


def text_of(value: Any) -> str:
    """Write a drawn value as YAML on one line; that of a choice is its text already."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def find_place(config: Any, key: str) -> tuple[str, ...]:
    """Return the path of a key with the numbers of items in place of their names."""
    place = []
    for part in key.split("."):
        if isinstance(config, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in config]
            part = str(names.index(part)) if part in names else part
            is_item = part.isdigit() and int(part) < len(config)
            config = config[int(part)] if is_item else None
        else:
            config = config.get(part) if isinstance(config, dict) else None
        place.append(part)
    return tuple(place)


def value_at(config: Any, key: str) -> Any:
    """Return what a dumped config has at a key's path; None where it has nothing."""
    for part in find_place(config, key):
        if isinstance(config, list):
            config = config[int(part)] if part.isdigit() and int(part) < len(config) else None
        else:
            config = config.get(part) if isinstance(config, dict) else None
    return config


# one key
# --------------------------------------------------------------------------------------------------


def _refuse_fixed(key: str, where: str) -> None:
    for fixed, why in _FIXED.items():
        if key == fixed or key.startswith(f"{fixed}."):
            raise InputError(f"{where}: a search does not change {fixed}: {why}")


def _read_part(words: Any, where: str) -> Range | Choices:
    if not isinstance(words, dict):
        raise InputError(
            f"{where}: write {{low: ..., high: ...}} or {{choices: [...]}}, not {words!r}"
        )
    for name in words:
        if name not in (*_RANGE, "choices"):
            hint = did_you_mean(name, (*_RANGE, "choices"))
            raise InputError(f"{where}: unknown key {name!r}{hint}")
    if "choices" in words:
        if len(words) > 1:
            raise InputError(f"{where}: choices go without low, high, log and step")
        return _read_choices(words["choices"], where)
    return _read_range(words, where)


def _read_choices(values: Any, where: str) -> Choices:
    if not isinstance(values, list) or len(values) < 2:
        raise InputError(f"{where}: choices: give a list of two or more, got {values!r}")
    texts = tuple(
        yaml.safe_dump(value, default_flow_style=True, width=math.inf)
        .removesuffix("\n")
        .removesuffix("\n...")
        for value in values
    )
    double = next((text for text in texts if texts.count(text) > 1), None)
    if double is not None:
        raise InputError(f"{where}: choices: {double} is there twice")
    return Choices(texts)


def _read_range(words: dict[str, Any], where: str) -> Range:
    for name in ("low", "high"):
        if name not in words:
            raise InputError(f"{where}: {name}: is missing")
    for name in ("low", "high", "step"):
        if name in words and not _is_number(words[name]):
            hint = "; YAML takes 1.0e-4 for a number, not 1e-4"
            hint = hint if isinstance(words[name], str) else ""
            raise InputError(f"{where}: {name}: needs a number, got {words[name]!r}{hint}")
    low, high, step, log = words["low"], words["high"], words.get("step"), words.get("log", False)
    if not isinstance(log, bool):
        raise InputError(f"{where}: log: needs true or false, got {log!r}")
    if not low < high:
        raise InputError(f"{where}: low: {low} is not below high: {high}")
    if log and low <= 0:
        raise InputError(f"{where}: low: {low} has no logarithm; it must be above 0")
    if step is None:
        return Range(low, high, log)
    if log:
        raise InputError(f"{where}: step: goes without log: true")
    if step <= 0 or abs(round((high - low) / step) - (high - low) / step) > 1e-9:
        raise InputError(f"{where}: step: {step} does not lead from {low} to {high}")
    return Range(low, high, log, step)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _hold_to_config(key: str, part: Range | Choices, base: Path, where: str) -> Range | Choices:
    """Try the ends or the choices in the config; find out whether it takes whole numbers alone.

    Raises:
        InputError: the config refuses one.
    """
    values: Sequence[Any] = part.texts if isinstance(part, Choices) else (part.low, part.high)
    for value in values:
        try:
            load_config(base, set_words({key: value}))
        except InputError as error:
            problem = str(error).removeprefix(f"{base}: ")
            raise InputError(f"{where}: {text_of(value)}: {problem}") from None
    if isinstance(part, Choices):
        return part
    numbers = (part.low, part.high, part.step or 1)
    if not all(isinstance(number, int) for number in numbers):
        return part
    try:
        load_config(base, set_words({key: part.low + 0.5}))
    except InputError:
        return Range(part.low, part.high, part.log, part.step, whole=True)
    return part
