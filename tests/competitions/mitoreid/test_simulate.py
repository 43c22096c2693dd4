"""Simulated MitoReID: the release's layout, the same bytes for the same seed, and mechanisms that
time alone tells apart.
"""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.mitoreid.simulate import simulate_mitoreid
from cellsignal.competitions.mitoreid.simulate_films import (
    FRAMES,
    MOAS,
    Drug,
    Optics,
    courses,
    draw_track,
)
from cellsignal.simulation.output import generator

TINY = {
    "moas": 2,
    "drugs_per_moa": 2,
    "libraries": 2,
    "train": 1,
    "controls": 1,
    "novel_drugs": 1,
    "natural": 1,
    "size": 16,
}
OPTICS = Optics(0.6, (1.0, 1.0, 1.0), 3.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated") / "mitoreid"
    simulate_mitoreid(root, 3, **TINY)
    return root


def clips(moa: str | None, n: int = 8, size: int = 32) -> np.ndarray:
    """(n, 16, H, W, 3) float, cells of a typical drug."""
    drug = Drug("x", None if moa is None else list(MOAS).index(moa), 0.9, 0.0, 1.0, 1.0)
    return np.stack(
        [draw_track(generator(5, moa, i), drug, OPTICS, size) for i in range(n)]
    ).astype(float)


def test_layout(root):
    assert sorted(path.name for path in root.iterdir()) == [
        "annotation.xlsx",
        "l1",
        "l2",
        "novel",
        "simulation.json",
    ]
    assert {path.name for path in (root / "l1").iterdir()} == {"train", "query", "gallery", "nc"}
    assert sorted(path.name for path in (root / "l2" / "query").iterdir()) == [
        "1",
        "2",
        "3",
        "4",
        "dmso",
    ]
    track = root / "novel" / "5" / "5_0"
    assert sorted(path.name for path in track.iterdir()) == sorted(
        f"{t}.jpg" for t in range(1, FRAMES + 1)
    )
    assert cv2.imread(str(track / "16.jpg")).shape == (16, 16, 3)
    fda = pd.read_excel(root / "annotation.xlsx", sheet_name="FDA-list")
    assert fda["index"].astype(str).tolist() == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "dmso",
    ] and fda.moa_choose.tolist() == [1, 1, 1, 1, 0, 1]
    told = pd.read_csv(answers_path(root), dtype=str)
    assert told.part.value_counts().to_dict() == {"query": 8, "gallery": 10, "compound": 2}
    assert told.set_index("drug").moa[["5", "N1"]].tolist() == ["gathers early"] * 2


def test_new_drugs_are_asked_alone_and_unchosen_ones_train_without_a_mechanism(tmp_path):
    simulate_mitoreid(
        tmp_path / "m",
        0,
        **TINY | {"drugs_per_moa": 1, "new_drugs": 1, "unchosen": 2, "libraries": 1},
    )
    drugs = {
        part: {path.name for path in (tmp_path / "m" / "l1" / part).iterdir()} - {"dmso"}
        for part in ("train", "query", "gallery")
    }
    assert drugs == {
        "train": {"1", "2", "5", "6", "7", "8"},
        "gallery": {"1", "2"},
        "query": {"1", "2", "3", "4"},
    }
    fda = pd.read_excel(tmp_path / "m" / "annotation.xlsx", sheet_name="FDA-list")
    assert set(fda["index"][fda.moa_choose == 1].astype(str)) == {"1", "2", "3", "4", "dmso"}


@pytest.mark.parametrize(
    "wrong",
    [{"moas": 1}, {"moas": len(MOAS) + 1}, {"size": 8}, {"new_drugs": -1}, {"unchosen": -1}],
)
def test_a_number_out_of_range_is_named(wrong, tmp_path):
    with pytest.raises(InputError, match=next(iter(wrong))):
        simulate_mitoreid(tmp_path / "m", 0, **wrong)
    assert not (tmp_path / "m").exists()


def test_the_seed_is_told_and_another_simulation_refused(root):
    assert json.loads((root / "simulation.json").read_text())["seed"] == 3
    with pytest.raises(InputError, match="holds another simulation"):
        simulate_mitoreid(root, 4, **TINY)


@pytest.mark.parametrize("what", ["gathers", "loses potential", "breaks up", "swells"])
def test_early_and_late_go_through_the_same_states_in_reversed_order(what):
    early, late = (
        courses(list(MOAS).index(f"{what} {when}"), 1.0, 0.0) for when in ("early", "late")
    )
    for effect in early:
        np.testing.assert_allclose(early[effect], late[effect][::-1], atol=1e-12)
    assert sum(course.max() for course in early.values()) == 1 and all(
        course[0] == course[-1] == 0 for course in early.values()
    )


def test_nothing_shows_in_the_first_frame():
    """Of the same cell, drawn with the same random numbers, whatever the mechanism."""
    drawn = [
        draw_track(generator(1), Drug("x", moa, 1.0, 0.0, 1.0, 1.0), OPTICS, 32)
        for moa in (None, *range(len(MOAS)))
    ]
    assert all(np.array_equal(clip[0], drawn[0][0]) for clip in drawn)
    assert all((clip[1:] != drawn[0][1:]).any() for clip in drawn[1:])


def test_order_tells_early_from_late_and_the_mean_over_time_does_not():
    # (n, 16, 3)
    light = {
        name: clips(name).mean((2, 3)) for name in ("loses potential early", "loses potential late")
    }
    early, late = (found[..., 1] / found[..., 1][:, :1] for found in light.values())
    assert (early[:, 3] < early[:, 12]).all() and (late[:, 12] < late[:, 3]).all()
    pooled = early.mean(1), late.mean(1)
    assert abs(pooled[0].mean() - pooled[1].mean()) < 0.05 < abs(early[:, 3] - early[:, 12]).min()


def test_stopping_and_racing_show_in_motion_alone():
    found = {}
    for name in ("stops", None, "races"):
        drawn = clips(name, 6)[:, 7:, ..., 1]
        found[name] = np.abs(np.diff(drawn, axis=1)).mean((1, 2, 3))
    assert found["stops"].max() < found[None].min() and found[None].max() < found["races"].min()


def test_streaming_shows_in_the_direction_of_motion_alone():
    """Radial profiles move outward or inward from frame to frame, while the frames themselves have
    the same brightness and profile.
    """
    shift, profile = {}, {}
    for name in ("streams inward", "streams outward"):
        drawn = clips(name, 24, 48)[..., 2]
        polar = np.array(
            [
                [
                    cv2.warpPolar(frame, (24, 64), (23.5, 23.5), 22, cv2.WARP_POLAR_LINEAR)
                    for frame in clip[8:]
                ]
                for clip in drawn
            ]
        )
        polar = polar[..., 8:20] - polar[..., 8:20].mean(axis=(1, 2), keepdims=True)
        out = (polar[:, :-1, :, : 12 - 1] * polar[:, 1:, :, 1:]).mean((1, 2, 3))
        back = (polar[:, :-1, :, 1:] * polar[:, 1:, :, : 12 - 1]).mean((1, 2, 3))
        shift[name], profile[name] = out - back, drawn[:, 8:].mean((1, 2, 3))
    assert (shift["streams outward"] > 0).mean() > 0.9 and (
        shift["streams inward"] < 0
    ).mean() > 0.9
    low, high = sorted(found.mean() for found in profile.values())
    assert high - low < max(found.std() for found in profile.values())
