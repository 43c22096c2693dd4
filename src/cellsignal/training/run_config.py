"""Whether a config is still the one that a run was trained by: what of it matters to the weights."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cellsignal.common.errors import InputError
from cellsignal.config import Config, config_differences
from cellsignal.config.load import upgrade_recorded

# keys that may change between two calls of one run without changing any weight
_FREE = (
    "runs",
    "seed",
    "data.root",
    "data.store",
    "data.workers",
    "data.cache_gib",
    "data.device_gib",
    "data.bad_site",
    "folds.use",
    "folds.full",
    "predict",
    "submit",
)
# in a run folder
MADE = ("fold*/*/*/*.pt", "full/*/*/*.pt", "predictions/*.npz", "embeddings/*.npz")


def refuse_other_run(folder: Path, config: Config) -> None:
    """Refuse a run folder of another config, unless nothing was made in it yet: then it is taken
    over.

    Raises:
        InputError: Names the keys that differ.
    """
    path = folder / "config.yaml"
    if not path.is_file() or not any(next(folder.glob(pattern), None) for pattern in MADE):
        return
    different = what_differs(yaml.safe_load(path.read_text(encoding="utf-8")), config)
    if different:
        raise InputError(
            f"{folder}: holds a run of another config; rename this one or move that away "
            f"({'; '.join(different[:5])})"
        )


def what_differs(tree: dict[str, Any], config: Config) -> list[str]:
    """The keys that matter to the weights and differ between a dumped config and this one, as
    "path: old -> new".
    """
    return config_differences(
        *(_without_free(one) for one in (_with_defaults(tree), config.model_dump(mode="json")))
    )


def _with_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the defaults of keys that the schema has learnt since; as it is where the
    schema no longer takes it.
    """
    try:
        return Config.model_validate(upgrade_recorded(tree)).model_dump(mode="json")
    except ValidationError:
        return tree


def _without_free(tree: dict[str, Any]) -> dict[str, Any]:
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for path in _FREE:
        *parents, last = path.split(".")
        node = kept
        for part in parents:
            node = node.get(part, {})
        node.pop(last, None)
    return kept
