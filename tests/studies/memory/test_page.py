"""The table of the memory study."""

import argparse

import pytest

from cellsignal.common.errors import InputError
from cellsignal.config import load_config
from cellsignal.studies.memory.commands import PARTS, memory
from cellsignal.studies.memory.measuring import Usage
from cellsignal.studies.memory.page import _PARTS, GB, GIB, Measured, table_row, write_config


@pytest.mark.parametrize(
    ("limit", "seconds", "usage", "row"),
    [
        (
            GIB,
            3.0,
            Usage(GIB // 2, GIB // 4, 4.0, 1.5, 1),
            ("1 GiB, 3 s", "0.50 GiB", "0.25 GiB", "2.5 + 1.5", "1", "yes"),
        ),
        (
            GIB,
            3.0,
            Usage(GIB // 2, GIB // 4, 5.0, 1.5, 1),
            ("1 GiB, 3 s", "0.50 GiB", "0.25 GiB", "3.5 + 1.5", "1", "**no**"),
        ),
        (
            2 * GB,
            None,
            Usage(2 * GB, GB, 90.0, 1.0, 3),
            ("2 GB", "2.00 GB", "1.00 GB", "89.0 + 1.0", "3", "**no**"),
        ),
    ],
)
def test_a_row_says_whether_the_limit_is_met(limit, seconds, usage, row):
    assert table_row(Measured(("a", "b"), limit, seconds), usage) == ("`a b`", *row)


def test_parts_are_those_of_the_parser():
    assert tuple(_PARTS) == PARTS


def test_the_config_of_the_training_is_one(tmp_path):
    config = load_config(write_config(tmp_path))
    assert config.data.workers == 2 and [stage.epochs for stage in config.stages] == [1]


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5])
def test_a_scale_that_is_no_share_is_refused(scale):
    with pytest.raises(InputError, match="--scale: a share above 0 and up to 1"):
        memory(argparse.Namespace(scale=scale, folder=None, out=None, parts=PARTS))
