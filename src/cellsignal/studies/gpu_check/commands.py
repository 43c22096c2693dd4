"""The parser of `cellsignal study gpu-check`."""

from collections.abc import Callable

from cellsignal.studies.gpu_check.entry import add_options, run


def add_gpu_check_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "check all that runs on CUDA, and measure it; a dry run without a GPU"
    add_options(add("gpu-check", run, text))
