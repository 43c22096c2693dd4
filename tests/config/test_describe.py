"""The page of keys: every key of the schema is on it, with its values, default and meaning."""

import re
import typing
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from cellsignal.config import Config, load_config
from cellsignal.config.describe import describe_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "config.md"


def models_of(annotation) -> list[type[BaseModel]]:
    """Every section that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_of(part)]


def keys_of(model: type[BaseModel], path: str = "") -> list[tuple[str, str, object]]:
    """Walk the schema: (heading, key, field) of every key a config may have."""
    keys = []
    for key, field in model.model_fields.items():
        is_title = len(typing.get_args(field.annotation)) == 1 and key == "name"
        if not is_title:  # an augmentation's name is its heading
            keys.append((path, key, field))
        for inner in models_of(field.annotation):
            below = f"{path}.{key}".strip(".")
            tag = typing.get_args(getattr(inner.model_fields.get("name"), "annotation", None))
            if len(tag) == 1:
                below += f".{tag[0]}"
            elif str(field.annotation).startswith("tuple"):
                below += ".<name>"
            keys += keys_of(inner, below)
    return keys


def read_page() -> dict[tuple[str, str], tuple[str, str, str]]:
    """(heading, key) -> values, default, meaning, as they stand on the page."""
    rows, heading = {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").strip("`").replace("The whole config", "")
        if match := re.fullmatch(r"\| `(\w+)` \| (.*?) \| (.*?) \| (.*) \|", line):
            rows[heading, match[1]] = match[2], match[3], match[4]
    return rows


KEYS = keys_of(Config)


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == describe_config()


def test_the_page_has_no_key_that_the_schema_lacks():
    assert {(path, key) for path, key, _ in KEYS} == set(read_page())


@pytest.mark.parametrize(("path", "key", "field"), KEYS, ids=lambda value: str(value)[:40])
def test_every_key_is_on_the_page_with_values_default_and_meaning(path, key, field):
    values, default, meaning = read_page()[path, key]
    assert len(meaning.split()) >= 2 and meaning[-1] in ".)" and "|" not in meaning
    assert values and default
    for option in typing.get_args(field.annotation):
        if isinstance(option, str):
            assert f"`{option}`" in values
    if field.is_required():
        assert default == "required"
    elif isinstance(field.default, BaseModel):
        assert default == values == "see below"
    elif isinstance(field.default, bool | int | float | tuple) and field.default != ():
        read = yaml.safe_load(default.strip("`"))
        assert read == (list(field.default) if isinstance(field.default, tuple) else field.default)
    else:
        assert default.strip("`") == str(field.get_default(call_default_factory=True) or "none")


def test_there_are_few_keys():
    models = {model for _, key, field in KEYS for model in models_of(field.annotation)} | {Config}
    assert sum(len(model.model_fields) for model in models) <= 186


def test_the_first_config_of_the_page_loads_and_is_short(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    first, second = blocks
    assert len(first.splitlines()) <= 15
    (tmp_path / "my_run.yaml").write_text(first)
    (tmp_path / "longer.yaml").write_text(second)
    config, longer = load_config(tmp_path / "my_run.yaml"), load_config(tmp_path / "longer.yaml")
    assert (config.stages[0].epochs, longer.stages[0].epochs) == (20, 60)
    assert longer.stages[0].augment[1].p == 0.5
    page = PAGE.read_text(encoding="utf-8")
    overrides = re.findall(r"--set ([^\s<]+?)`", page)
    changed = load_config(tmp_path / "my_run.yaml", overrides)
    assert len(overrides) == 4 and changed.stages[0].augment[1].p == 0.5
