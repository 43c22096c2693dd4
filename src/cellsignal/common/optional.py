"""Import packages that the main job does not need: the extras of pyproject.toml."""

import importlib
from types import ModuleType

from cellsignal.common.errors import InputError


def load_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of a package that an extra installs.

    Args:
        module: its dotted name; the first part is the package.
        extra: name in pyproject.toml.
        what: needs it, for the error.

    Raises:
        InputError: the package, or one that it needs, is not installed; says what installs it.
    """
    package = module.split(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        reason = "is not installed" if missing else f"cannot be loaded ({error})"
    raise InputError(
        f"{what}: needs the package {package}, which {reason}; install the extra {extra} "
        f'(pip install -e ".[{extra}]")'
    )
