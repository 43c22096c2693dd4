"""Write docs/config.md from the schema: `python -m cellsignal.config.describe`."""

import inspect
import json
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cellsignal.common.places import RemoteFolder
from cellsignal.config.schema import Config
from cellsignal.config.strict import Strict, sections_in, tag_of

_HEAD = """# The keys of a config

Made by `python -m cellsignal.config.describe > docs/config.md` from the schema; a test keeps it
true. A first config, of which everything else is the default:

```yaml
name: my_run
competition: rxrx1
data: {root: data/rxrx1, store: stores/rxrx1.zarr}
folds: {file: folds/rxrx1.csv, use: [0]}
model: {backbone: resnet18}
stages:
  - name: all
    epochs: 20
    optimizer: {lr: 1.0e-3}
    amp: auto
    augment:
      - {name: horizontal_flip}
      - {name: rotate90}
predict: {tta: 4}
submit: {pool: well}
```

**A config that differs a little from another** names it and states what differs. The path is
relative to the file; a base may have a base. Mappings are merged key by key, lists are replaced; a
mapping in a list's place changes the items that it names:

```yaml
name: my_longer_run
base: my_run.yaml
stages: {all: {epochs: 60, augment: {rotate90: {p: 0.5}}}}
```

**One key from the command line**: `--set model.dropout=0.2`, `--set stages.all.epochs=60`,
`--set stages.all.augment.rotate90.p=0.5`. An item of a list is named by its `name` or its number
from 0. `none` leaves a part out: `--set stages.all.mix=none`.
"""
_NUMBERS = {int: "whole number", float: "number", str: "text", bool: "true, false", Path: "path"}
_NUMBERS[RemoteFolder] = "URL"
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


def describe_config() -> str:
    """Write the page docs/config.md."""
    lines = [_HEAD]
    for path, section in list_sections(Config).items():
        lines += _section(path, section)
    return "\n".join(lines).rstrip() + "\n"


def list_sections(model: type[BaseModel], path: str = "") -> dict[str, type[BaseModel]]:
    """List all sections of a config by their path: `stages.<name>.augment.affine`."""
    sections = {path: model}
    for key, field in model.model_fields.items():
        for inner in sections_in(field.annotation):
            below = f"{path}.{key}".strip(".")
            if tag_of(inner) is not None:
                below += f".{tag_of(inner)}"
            elif typing.get_origin(field.annotation) is tuple:
                below += ".<name>"
            sections |= list_sections(inner, below)
    return sections


def _section(path: str, section: type[BaseModel]) -> list[str]:
    text = "" if section.__doc__ == Strict.__doc__ else inspect.cleandoc(section.__doc__ or "")
    keys = {key: field for key, field in section.model_fields.items() if key != "name"}
    if tag_of(section) is None:
        keys = section.model_fields
    rows = [
        f"| `{key}` | {_describe_values(field.annotation, field.metadata)} "
        f"| {_describe_default(field)} | {' '.join(field.description.split())} |"
        for key, field in keys.items()
    ]
    table = ["| key | values | default | meaning |", "|---|---|---|---|", *rows, ""]
    title = f"## `{path}`" if path else "## The whole config"
    return [title, "", *([text, ""] if text else []), *table]


def _describe_default(field: Any) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "see below"
    if field.default_factory is not None or field.default is None or field.default == ():
        return "none"
    if isinstance(field.default, str | Path):
        return f"`{field.default}`"
    return f"`{json.dumps(field.default)}`"


def _plural(values: str) -> str:
    """Write "whole number above 0" as "whole numbers above 0"."""
    return values.replace("number", "numbers", 1)


def _describe_values(annotation: Any, metadata: list[Any] = ()) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{option}`" for option in inner)
    if origin is typing.Annotated:
        return _describe_values(inner[0], inner[1:])
    if origin is dict:
        return "keys and values"
    if origin is tuple and Ellipsis in inner:
        return f"list of {_plural(_describe_values(inner[0]))}"
    if origin is tuple:
        return f"{len(inner)} {_plural(_describe_values(inner[0]))}"
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None)]
        if len(kinds) == 1:
            return _describe_values(kinds[0], metadata)
        if all(sections_in(kind) for kind in kinds):
            return "augmentation"
        return " or ".join(map(_describe_values, kinds))
    if issubclass(annotation, BaseModel):
        return "see below"
    words = [_NUMBERS[annotation]]
    for constraint in _flatten(metadata):
        for name, text in _BOUNDS.items():
            if getattr(constraint, name, None) is not None:
                words.append(text.format(f"{getattr(constraint, name):g}"))
    return " ".join(words)


def _flatten(metadata: Any) -> list[Any]:
    """The constraints of a key, also those inside a pydantic `Field`."""
    constraints = []
    for item in metadata:
        constraints += getattr(item, "metadata", None) or [item]
    return constraints


if __name__ == "__main__":
    print(describe_config(), end="")
