"""An experiment is one YAML file; this package is its schema and its reading."""

from cellsignal.config.load import config_differences, dump_config, load_config
from cellsignal.config.schema import Config

__all__ = ["Config", "config_differences", "dump_config", "load_config"]
