"""The studies whose folder holds their own parser: one more is one more import and call here."""

from collections.abc import Callable

from cellsignal.studies.bbbc021.page import add_bbbc021_study
from cellsignal.studies.blend.commands import add_blend_study
from cellsignal.studies.channels.commands import add_channels_study
from cellsignal.studies.gpu_check.commands import add_gpu_check_study
from cellsignal.studies.memory.commands import add_memory_study
from cellsignal.studies.performance.commands import (
    add_epoch_study,
    add_neighbours_study,
    add_readers_study,
)
from cellsignal.studies.pretraining.page import add_pretraining_study
from cellsignal.studies.relations.commands import add_relations_study
from cellsignal.studies.shift.commands import add_shift_study
from cellsignal.studies.soups.commands import add_soups_study


def add_studies_of_folders(add: Callable) -> None:
    """Add the parsers of these studies."""
    add_bbbc021_study(add)
    add_blend_study(add)
    add_channels_study(add)
    add_epoch_study(add)
    add_gpu_check_study(add)
    add_memory_study(add)
    add_neighbours_study(add)
    add_pretraining_study(add)
    add_readers_study(add)
    add_relations_study(add)
    add_shift_study(add)
    add_soups_study(add)
