"""People look at figures; tests see that they are whole PNGs, show what they were given, and refuse
bad input.
"""

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.images import read_png8
from cellsignal.report import plate_plots

pytestmark = pytest.mark.slow


def read(path):
    """(H, W, 3): cv2 checks and decodes the PNG."""
    import cv2

    assert path.read_bytes().startswith(b"\x89PNG") and sorted(path.parent.iterdir()) == [path]
    return cv2.imread(str(path))[..., ::-1]


def share_of(picture, colour):
    """Share of the pixels that have exactly this colour, #rrggbb."""
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return (picture == rgb).all(axis=-1).mean()


def wells_frame(values, experiment="HUVEC-01", plate="1"):
    addresses = [f"{row}{column:02d}" for row in "BCDEFGHIJKLMNO" for column in range(2, 24)]
    return pd.DataFrame(
        {"experiment": experiment, "plate": plate, "well": addresses, "value": values}
    )


def test_plate_map_shows_outcomes_in_their_share(tmp_path):
    outcomes = ["correct"] * 154 + ["wrong"] * 77 + ["control"] * 77
    plate_plots.plate_map(tmp_path / "p.png", wells_frame(outcomes), title="a plate")
    picture = read(tmp_path / "p.png")
    shares = [
        share_of(picture, plate_plots.OUTCOMES[name]) for name in ("correct", "wrong", "control")
    ]
    assert shares[0] / shares[1] == pytest.approx(2, rel=0.15) and shares[1] == pytest.approx(
        shares[2], rel=0.15
    )


def test_plate_map_puts_wells_where_they_are(tmp_path):
    # row B alone is wrong
    plate_plots.plate_map(tmp_path / "p.png", wells_frame(["wrong"] * 22 + ["correct"] * 286))
    picture = read(tmp_path / "p.png")
    rows = {}
    for name in ("wrong", "correct"):
        rgb = [int(plate_plots.OUTCOMES[name][at : at + 2], 16) for at in (1, 3, 5)]
        upper = picture[: int(len(picture) * 0.8)]  # without the key
        rows[name] = np.flatnonzero((upper == rgb).all(axis=-1).any(axis=1))
    assert rows["wrong"].max() < rows["correct"].min()


def test_plate_map_of_several_experiments(tmp_path):
    outcomes = np.where(np.arange(308) % 9 == 0, "control", "correct")
    frames = [wells_frame(outcomes, f"E{e}", str(p)) for e in range(2) for p in (1, 2)]
    plate_plots.plate_map(tmp_path / "p.png", pd.concat(frames))
    picture = read(tmp_path / "p.png")
    assert (
        picture.shape[1] > picture.shape[0] / 1.5
        and share_of(picture, plate_plots.OUTCOMES["control"]) > 0.005
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="well"), "no column 'well'"),
        (lambda f: f.iloc[:0], "no wells"),
        (lambda f: f.assign(well="Q01"), "'Q01' is not a well"),
        (lambda f: f.assign(value="maybe"), "'maybe' is not one of"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "well B02 of HUVEC-01 plate 1 occurs twice"),
    ],
)
def test_plate_map_refuses_bad_wells(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        plate_plots.plate_map(tmp_path / "p.png", change(wells_frame("correct")))
    assert not list(tmp_path.iterdir())


def test_montage_keeps_one_contrast_a_channel(tmp_path):
    """A sample at a quarter of the brightness of the other is drawn dark; the other's white is
    white.
    """
    image = np.zeros((3, 64, 64), np.uint8)
    image[:, 16:48, 16:48] = 200
    plate_plots.channel_montage(
        tmp_path / "m.png", {"bright": image, "dim": image // 4}, ["actin", "tubulin", "DNA"]
    )
    picture = read(tmp_path / "m.png").astype(int)
    gray = picture[:, : picture.shape[1] * 5 // 8]
    half = len(gray) // 2
    assert share_of(gray[:half], "#ffffff") > 0.1
    quarter = (np.abs(gray[half:] - 64) <= 1).all(axis=-1).mean()
    assert quarter > 0.1 and share_of(gray[half + 20 :], "#ffffff") < 0.01
    assert (picture[..., 0] != picture[..., 2]).any()


def test_montage_of_six_channels_and_odd_sizes(tmp_path):
    rng = np.random.default_rng(0)
    images = {f"s{n}": rng.integers(0, 255, (6, n, n + 3), dtype=np.uint8) for n in (30, 41)}
    plate_plots.channel_montage(
        tmp_path / "m.png", images, [f"w{c}" for c in range(6)], title="six"
    )
    height, width, _ = read(tmp_path / "m.png").shape
    assert width > 2.5 * height
    for bad in ({}, {"x": images["s30"][:5]}, {"x": images["s30"][0]}):
        with pytest.raises(InputError, match="channel montage"):
            plate_plots.channel_montage(tmp_path / "n.png", bad, [f"w{c}" for c in range(6)])


@pytest.mark.real_data
def test_montage_of_real_wells(real_data, tmp_path):
    root = real_data / "rxrx1" / "train"
    images = {
        name: np.stack(
            [read_png8(root / name / "Plate1" / f"B02_s1_w{c}.png") for c in range(1, 7)]
        )
        for name in ("HUVEC-01", "RPE-01")
    }
    plate_plots.channel_montage(tmp_path / "m.png", images, [f"w{c}" for c in range(1, 7)])
    picture = read(tmp_path / "m.png")
    assert picture.std() > 20 and picture.shape[1] > 2 * picture.shape[0]
