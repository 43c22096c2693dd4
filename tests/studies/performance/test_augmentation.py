"""The benchmark of augmentation times what it says."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from cellsignal.config.augment import Augmentation
from cellsignal.studies.performance.augmentation import (
    RECIPES,
    augment_text,
    bench_augment,
    plain_steps,
)

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[3] / "configs" / "rxrx1"


@pytest.mark.parametrize(
    ("name", "file"), [("1st place", "first_place_densenet161"), ("one hour", "one_hour")]
)
def test_recipes_are_those_of_the_configs(name, file):
    written = yaml.safe_load((CONFIGS / f"{file}.yaml").read_text(encoding="utf-8"))["stages"][0][
        "augment"
    ]
    assert RECIPES[name] == tuple(TypeAdapter(list[Augmentation]).validate_python(written))


def test_all_paths_are_timed():
    table = bench_augment(size=32, sites=2, rounds=2)
    assert set(table.recipe) == set(RECIPES) and set(table.path) >= {
        "numpy",
        "albumentations",
        "warp, CPU",
        "torch, CPU",
    }
    assert (table.ms > 0).all() and table[table.recipe == "one hour"]["size"].eq(16).all()
    assert (table[table.path == "numpy"].times_numpy == 1).all() and (
        table[table.path == "albumentations"].times_albumentations == 1
    ).all()
    assert (
        table[table.recipe == "affine"].times_numpy.isna().all()
        and table.times_albumentations.notna().all()
    )
    assert len(augment_text(table).splitlines()) == len(table) + 1


def test_plain_steps_do_the_recipe():
    """Each grey level comes from the image; over many draws all flips, turns and windows appear,
    and lighting is last.
    """
    image = np.arange(2 * 16 * 16, dtype=np.uint8).reshape(2, 16, 16)
    shift, scale = np.array([3.0, 4.0], np.float32), np.array([2.0, 5.0], np.float32)
    d4 = {
        plain_steps(image, RECIPES["D4"], shift, scale, np.random.default_rng(i)).tobytes()
        for i in range(100)
    }
    flips = [np.rot90(x, k, (1, 2)) for x in (image, image[:, :, ::-1]) for k in range(4)]
    assert d4 == {
        ((x.astype(np.float32) - shift[:, None, None]) / scale[:, None, None]).tobytes()
        for x in flips
    }
    for name in ("1st place", "one hour"):
        out = plain_steps(image, RECIPES[name], shift, scale, np.random.default_rng(1))
        assert out.shape == image.shape and out.dtype == np.float32 and np.isfinite(out).all()
