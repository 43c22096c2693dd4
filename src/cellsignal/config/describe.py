"""Every key a config may have, as Markdown, from the schema itself: `python -m
cellsignal.config.describe > docs/config.md`.
"""

import inspect
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cellsignal.config import augment, schema, self_supervised, stage

_SECTIONS = (
    *(getattr(schema, name) for name in ("Data", "Folds", "Normalization", "Model")),
    *(
        getattr(stage, name)
        for name in (
            "Stage",
            "Batches",
            "Optimizer",
            "Schedule",
            "EarlyStopping",
            "Margin",
            "Triplet",
            "Center",
        )
    ),
    *(
        self_supervised.SelfSupervised,
        stage.Swa,
        stage.MeanTeacher,
        stage.PseudoLabels,
        schema.Predict,
        schema.Submit,
    ),
)


def describe_config() -> str:
    """The page docs/config.md."""
    lines = [
        "# The keys of a config",
        "",
        "Made by `python -m cellsignal.config.describe > docs/config.md` from the schema; a test "
        "keeps it true.",
        "",
    ]
    lines += [
        "A config is one YAML file, with at most one `base:` (another file, merged key by key). "
        "`--set a.b.0.c=value` overrides a key.",
        "",
    ]
    lines += _table("Config", schema.Config)
    for section in _SECTIONS:
        lines += _table(section.__name__, section)
    lines += [
        "## Augmentations",
        "",
        "The items of `stages.<n>.augment`, applied in the order written: `- {name: affine, "
        "rotate: 30}`.",
        "",
    ]
    for model in typing.get_args(typing.get_args(augment.Augmentation)[0]):
        keys = ", ".join(
            f"`{key}` = {_default(field)}"
            for key, field in model.model_fields.items()
            if key != "name"
        )
        name = typing.get_args(model.model_fields["name"].annotation)[0]
        lines.append(f"- **{name}**: {keys}. {_doc(model)}".rstrip())
    return "\n".join([*lines, "", *_table("Mix (stages.<n>.mix)", augment.Mix)]).rstrip() + "\n"


def _table(title: str, model: type[BaseModel]) -> list[str]:
    rows = [
        f"| `{key}` | {_type(field.annotation)} | {_default(field)} |"
        for key, field in model.model_fields.items()
    ]
    return [
        f"## {title}",
        "",
        _doc(model),
        "",
        "| key | values | default |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _doc(model: type[BaseModel]) -> str:
    return (
        " ".join(inspect.cleandoc(model.__doc__ or "").split())
        if model.__doc__ != BaseModel.__doc__
        else ""
    )


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "see below"
    return f"`{field.default}`"


def _type(annotation: Any) -> str:
    options = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{option}`" for option in options)
    if typing.get_origin(annotation) is tuple:
        return (
            "list of " + _type(options[0])
            if Ellipsis in options
            else f"{len(options)} x {_type(options[0])}"
        )
    if typing.get_origin(annotation) is typing.Annotated:
        return _type(options[0])
    if options:
        named = [_type(option) for option in options if option is not type(None)]
        sections = [option for option in options if inspect.isclass(option)]
        if len(named) > 1 and all(issubclass(option, BaseModel) for option in sections):
            return "an augmentation"
        return " or ".join(named)
    return {"PosixPath": "path", "Path": "path", "str": "text", "bool": "true, false"}.get(
        annotation.__name__, annotation.__name__
    )


if __name__ == "__main__":
    print(describe_config(), end="")
