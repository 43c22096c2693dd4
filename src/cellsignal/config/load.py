"""From a YAML file (and `--set` words) to a checked `Config`."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cellsignal.common.errors import InputError
from cellsignal.config.complaints import describe
from cellsignal.config.schema import Config


def load_config(path: Path | str, overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Read a config, its one `base:` if it names one, and the overrides (`stages.0.epochs=3`).

    Raises:
        InputError: unreadable file, not YAML, an unknown key (named with its path and the nearest
        valid key), a wrong value.
    """
    tree = _read(Path(path))
    for override in overrides:
        _set(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}") from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def config_differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys in which two dumped configs differ, as "path: old -> new"."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += config_differences(a, b, f"{prefix}{key}.")
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            found += config_differences(
                dict(zip(map(str, range(len(a))), a, strict=True)),
                dict(zip(map(str, range(len(b))), b, strict=True)),
                f"{prefix}{key}.",
            )
        elif a != b:
            found.append(f"{prefix}{key}: {a} -> {b}")
    return found


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that occurs twice: plain YAML keeps the last and says
    nothing.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [
            key.value
            for key, _ in node.value
            if isinstance(key, yaml.ScalarNode) and key.value != "<<"
        ]
        doubled = next((name for number, name in enumerate(names) if name in names[:number]), None)
        if doubled is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {doubled!r} occurs twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that must hold a mapping.

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
        raise InputError(
            f"{path}: not valid YAML{f', line {mark.line + 1}' if mark else ''}: "
            f"{getattr(error, 'problem', error)}"
        ) from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: {what} is a mapping of keys, this is {type(tree).__name__}")
    return tree


def _read(path: Path, depth: int = 0) -> dict[str, Any]:
    tree = read_mapping(path, "a config")
    if "config" in tree and not {"competition", "stages", "base"} & set(tree):
        raise InputError(
            f"{path}: is a kernel job, not a config; give it to `cellsignal kernel`, or its "
            f"config {tree['config']}"
        )
    base = tree.pop("base", None)
    if base is None:
        return tree
    if depth:
        raise InputError(f"{path}: a base config may not have a base of its own")
    return _merge(_read(path.parent / base, depth + 1), tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: mappings key by key, anything else (lists too) replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = (
            _merge(merged[key], value)
            if isinstance(value, dict) and isinstance(merged.get(key), dict)
            else value
        )
    return merged


def _set(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise InputError(f"--set {override}: write key.path=value")
    try:
        value = _parse(text)
    except yaml.YAMLError:
        raise InputError(f"--set {override}: the value is not valid YAML") from None
    node: Any = tree
    *parents, last = path.split(".")
    for part in parents:
        node = _step(node, part, override)
        if not isinstance(node, dict | list):
            raise InputError(f"--set {override}: {part!r} has no keys below it")
    if isinstance(node, list) and last == str(len(node)):
        node.append(value)
    elif isinstance(node, list):
        _step(node, last, override)
        node[int(last)] = value
    else:
        node[last] = value


def _step(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise InputError(f"--set {override}: {part!r} is no index of a list of {len(node)}")
        return node[int(part)]
    return node.setdefault(part, {})
