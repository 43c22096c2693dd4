"""An experiment is one YAML file; this package is its schema and its reading.

The schema needs pydantic, pandas and the competitions: it is imported when a name of it is first
used, so that the parsers of commands (`config.options`) load none of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellsignal.config.load import config_differences, dump_config, load_config
    from cellsignal.config.schema import Config

__all__ = ["Config", "config_differences", "dump_config", "load_config"]


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "schema" if name == "Config" else "load"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
