"""Read a YAML file, its `base:` files and `--set` words into a checked `Config`."""

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cellsignal.common.errors import InputError
from cellsignal.config.explain import describe, did_you_mean
from cellsignal.config.schema import Config
from cellsignal.config.upgrade import upgrade_recorded


def load_config(path: Path | str, overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Read a config with its bases, and change it by overrides (`stages.all.epochs=3`).

    Raises:
        InputError: unreadable file, not YAML, an unknown key (named with its path and the nearest
        valid key), a wrong value, a circle of bases.
    """
    tree = _read(Path(path), ())
    for override in overrides:
        _set(tree, override)
    try:
        return Config.model_validate(upgrade_recorded(tree))
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}") from None


def dump_config(config: Config) -> str:
    """Write the resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def change_of(key: str, value: Path | str) -> str:
    """Return the KEY=VALUE for `--set` that gives a key this text, in quotes if YAML needs them."""
    text = str(value)
    try:
        is_plain = _parse(text) == text
    except yaml.YAMLError:
        is_plain = False
    return f"{key}={text if is_plain else json.dumps(text, ensure_ascii=False)}"


def config_differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """List the keys in which two dumped configs differ, as "path: old -> new"."""
    differences = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            before, after = (
                {str(index): item for index, item in enumerate(items)} for items in (before, after)
            )
        if isinstance(before, dict) and isinstance(after, dict):
            differences += config_differences(before, after, f"{prefix}{key}.")
        elif before != after:
            differences.append(f"{prefix}{key}: {before} -> {after}")
    return differences


# YAML
# --------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that raises on a repeated key, where PyYAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in names:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} occurs twice", node.start_mark
                    )
                names.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping.

    Args:
        what: such as "a config", for the error.

    Raises:
        InputError: unreadable, not YAML (the line is named), or something else than a mapping.
    """
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", error)
        raise InputError(f"{path}: not valid YAML{line}: {problem}") from None
    if not isinstance(tree, dict):
        kinds = {type(None): "empty", list: "a list", str: "text"}
        kind = kinds.get(type(tree), f"the value {tree}")
        raise InputError(f"{path}: {what} is a mapping of keys, this is {kind}")
    return tree


# bases and overrides
# --------------------------------------------------------------------------------------------------


def _read(path: Path, overlays: tuple[Path, ...]) -> dict[str, Any]:
    """Read a config and its `base` files; `overlays` are the files that override this one."""
    if path.resolve() in overlays:
        names = [overlay.name for overlay in (*overlays, path)]
        raise InputError(f"{path}: base leads in a circle: {' -> '.join(names)}")
    tree = read_mapping(path, "a config")
    if "config" in tree and not {"competition", "stages", "base"} & set(tree):
        raise InputError(
            f"{path}: is a kernel job, not a config; give it to `cellsignal kaggle`, or its "
            f"config {tree['config']}"
        )
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise InputError(f"{path}: base: needs the path of one config, got {base!r}")
    below = path.parent / base
    if not below.is_file():
        raise InputError(f"{path}: base: {below}: no such file")
    return _merge(_read(below, (*overlays, path.resolve())), tree, str(path))


def _merge(base: Any, over: Any, where: str) -> Any:
    """Lay `over` on top of `base`: mappings key by key, anything else (lists too) replaced whole.

    A mapping on top of a list changes the items that its keys name: `stages: {all: {epochs: 3}}`.
    """
    if not isinstance(over, dict) or not isinstance(base, dict | list):
        return over
    merged = copy.copy(base)
    for key, value in over.items():
        place = _index(merged, str(key), where) if isinstance(merged, list) else key
        below = merged[place] if isinstance(merged, list) else merged.get(place)
        merged[place] = _merge(below, value, f"{where}: {key}")
    return merged


def _set(tree: dict[str, Any], override: str) -> None:
    """Change one key, by its path of keys and of items' names or numbers."""
    path, equals, text = override.partition("=")
    if not equals or "" in path.split("."):
        raise InputError(f"--set {override}: write key.path=value")
    if path == "base":
        raise InputError(f"--set {override}: write base: in the config file itself")
    try:
        value = _parse(text)
    except yaml.YAMLError:
        raise InputError(f"--set {override}: the value is not valid YAML") from None
    node: Any = tree
    *parents, last = path.split(".")
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, f"--set {override}")]
        else:
            node = node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise InputError(f"--set {override}: {part!r} has no keys below it")
    if isinstance(node, list) and last == str(len(node)):
        node.append(value)
    elif isinstance(node, list):
        node[_index(node, last, f"--set {override}")] = value
    else:
        node[last] = value


def _index(items: list[Any], part: str, where: str) -> int:
    """Return the index of the item that `part` names: its number, or its `name`."""
    if part.isascii() and part.isdigit() and int(part) < len(items):
        return int(part)
    names = [str(item.get("name")) for item in items if isinstance(item, dict)]
    if names.count(part) > 1:
        raise InputError(f"{where}: {part!r} occurs {names.count(part)} times; give its number")
    if part not in names:
        hint = did_you_mean(part, names) or f"; there is {', '.join(names)}" if names else ""
        raise InputError(
            f"{where}: {part!r} is neither a name nor an index of a list of {len(items)}{hint}"
        )
    return next(
        index
        for index, item in enumerate(items)
        if isinstance(item, dict) and str(item.get("name")) == part
    )
