"""From fields to tracks, step by step: planes, blur, cells, links, crops."""

import itertools
import sys
import types

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, laplace

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions.mitoreid.raw import Settings
from cellsignal.competitions.mitoreid.raw import segment as segmentation
from cellsignal.competitions.mitoreid.raw.fields import (
    drug_of,
    list_fields,
    plane_paths,
    read_field,
    read_plane,
    replace_blurred,
    sharpness,
    without_background,
)
from cellsignal.competitions.mitoreid.raw.segment import segment
from cellsignal.competitions.mitoreid.raw.tracks import (
    choose_cells,
    cut_track,
    find_living,
    follow,
    link,
    measure_cells,
    soften,
    write_track,
)

RNG = np.random.default_rng(0)


def disc(shape, y, x, radius):
    rows, columns = np.indices(shape)
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


# planes
# --------------------------------------------------------------------------------------------------


def test_every_kind_of_gray_picture_is_read(tmp_path):
    small = RNG.integers(0, 256, (8, 9), np.uint8)
    deep = small.astype(np.uint16) * 200
    for name, plane in (("8.png", small), ("16.png", deep)):
        cv2.imwrite(str(tmp_path / name), plane)
        assert np.array_equal(read_plane(tmp_path / name), plane)
    for name, plane in (("8.tif", small), ("16.tif", deep)):
        tifffile.imwrite(tmp_path / name, plane)
        assert np.array_equal(read_plane(tmp_path / name), plane)
    smooth = np.full((16, 16), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), smooth)
    assert np.array_equal(read_plane(tmp_path / "a.jpg"), smooth)


def test_a_damaged_picture_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), RNG.integers(0, 256, (64, 64), np.uint8))
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut\.jpg: truncated JPEG"):
        read_plane(tmp_path / "cut.jpg")
    cv2.imwrite(str(tmp_path / "rgb.jpg"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match=r"rgb\.jpg: 3 channels"):
        read_plane(tmp_path / "rgb.jpg")
    with pytest.raises(ImageError, match=r"none\.tif: no such image file"):
        read_plane(tmp_path / "none.tif")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((8, 8), np.float32))
    with pytest.raises(ImageError, match=r"float\.tif: pixels of type float32"):
        read_plane(tmp_path / "float.tif")


def test_the_background_goes_and_white_becomes_255():
    assert np.array_equal(
        without_background(np.array([[7, 9], [255, 8]], np.uint8), 4095), [[0, 2], [248, 1]]
    )
    counts = np.array([[100, 100 + 4095], [100 + 819, 65535]], np.uint16)
    assert np.array_equal(without_background(counts, 4095), [[0, 255], [51, 255]])
    assert without_background(np.full((2, 2), 7, np.uint16), 65535).max() == 0


def write_planes(folder, planes, ending="png"):
    """(T, C, H, W) to `folder`/{name}_{time}_{channel}."""
    folder.mkdir(parents=True)
    for t, frame in enumerate(planes):
        for c, plane in enumerate(frame):
            cv2.imwrite(str(folder / f"{folder.name}_{t + 1}_w{c + 1}.{ending}"), plane)


def test_a_field_is_read_in_the_order_of_time_and_channel(tmp_path):
    planes = RNG.integers(0, 256, (12, 3, 6, 7), np.uint8)  # 12 times: by text, 10 comes before 2
    write_planes(tmp_path / "5-2", planes)
    (tmp_path / "5-2" / "5-2_1_w1_thumb.png").write_bytes(b"")
    (tmp_path / "5-2" / "notes.txt").write_text("")
    expected = planes - planes.min(axis=(2, 3), keepdims=True)
    assert np.array_equal(read_field(plane_paths(tmp_path / "5-2", 12), 65535), expected)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: (f / "5_2_w3.png").unlink(), r"5: time 2 of w3 is missing"),
        (
            lambda f: (f / "5_1_w1.png").rename(f / "5_3_w1.png"),
            r"5_3_w1\.png: time 3, 1 to 2 expected",
        ),
        (lambda f: (f / "5_1_w1.png").rename(f / "5_1_w4.png"), r"5_1_w4\.png: is not called"),
        (lambda f: (f / "5_1_w1.png").rename(f / "6_1_w1.png"), r"6_1_w1\.png: is not called 5_"),
        (
            lambda f: (f / "5_01_w1.tif").write_bytes(b""),
            r"5_1_w1\.png: shows the same time and channel as 5_01_w1\.tif",
        ),
        (
            lambda f: cv2.imwrite(str(f / "5_2_w2.png"), np.zeros((4, 5), np.uint8)),
            r"5_2_w2\.png: 5x4 pixels, 7x6 expected",
        ),
    ],
)
def test_a_field_that_is_not_whole_is_refused(tmp_path, change, message):
    write_planes(tmp_path / "5", np.zeros((2, 3, 6, 7), np.uint8))
    change(tmp_path / "5")
    with pytest.raises(InputError, match=message):
        read_field(plane_paths(tmp_path / "5", 2), 65535)


def test_fields_and_their_drugs(tmp_path):
    for name in ("10", "2", "2-2", "ctrl", ".cache"):
        (tmp_path / name).mkdir()
    assert list(list_fields(tmp_path)) == ["2", "2-2", "10", "ctrl"]
    named = {
        name: drug_of(name) for name in ("2", "2-13", "ctrl", "dmso-3", "CTRL-2", "EGCG", "BRD-K1")
    }
    assert named == {
        "2": "2",
        "2-13": "2",
        "ctrl": "dmso",
        "dmso-3": "dmso",
        "CTRL-2": "dmso",
        "EGCG": "EGCG",
        "BRD-K1": "BRD-K1",
    }
    with pytest.raises(InputError, match="no such folder"):
        list_fields(tmp_path / "none")
    with pytest.raises(InputError, match="has no folders"):
        list_fields(tmp_path / "ctrl")


# blur
# --------------------------------------------------------------------------------------------------


def test_sharpness_is_the_variance_of_the_laplacian_whatever_the_gain():
    plane = RNG.integers(0, 100, (40, 50)).astype(np.uint8)
    plane[3, 4] = 100
    assert sharpness(plane) == pytest.approx(laplace(plane * 2.55, mode="mirror").var(), rel=1e-4)
    assert sharpness(plane * 2) == pytest.approx(sharpness(plane), rel=1e-4)
    assert sharpness(gaussian_filter(plane.astype(float), 2)) < sharpness(plane) / 3
    assert sharpness(np.zeros((5, 5), np.uint8)) == 0


@pytest.mark.parametrize(
    "values, sources",
    [
        ([9, 9, 9, 9, 9], [0, 1, 2, 3, 4]),
        ([9, 9, 2, 9, 9], [0, 1, 1, 3, 4]),  # blurred: of two neighbours the earlier
        ([2, 9, 9, 9, 9], [1, 1, 2, 3, 4]),  # the first has only a later one
        ([2, 2, 9, 9, 9], [2, 2, 2, 3, 4]),  # the neighbour of a bad one may be bad itself
        ([9, 9, 9, 28, 9], [0, 1, 2, 2, 4]),  # far too sharp is bad too
        ([9, 9, 9, 27, 3], [0, 1, 2, 3, 4]),  # exactly 3 times is not
        ([9, 0, 9, 9, 9], [0, 0, 2, 3, 4]),  # a flat frame
        ([2, 9, 2, 9, 2, 9, 9], None),  # three bad ones
        ([0, 0, 0], None),
    ],
)
def test_bad_frames_take_their_neighbours_place(values, sources):
    found = replace_blurred(np.array(values, float), 3, 2)
    assert (found is None and sources is None) or found.tolist() == sources


# cells
# --------------------------------------------------------------------------------------------------


def test_separate_discs_are_found_at_their_place_and_size():
    centres = [(30, 30), (40, 90), (90, 45), (100, 105)]
    plane = sum(
        disc((128, 128), y, x, 15) * np.uint8(60 + 40 * i) for i, (y, x) in enumerate(centres)
    ).astype(np.uint8)
    cells = measure_cells(segment(plane, diameter=30))
    assert np.allclose(cells[["y", "x"]].to_numpy(), centres, atol=0.5)
    assert cells.area.to_numpy() == pytest.approx(np.pi * 15**2, rel=0.15)


def test_a_large_field_is_segmented_shrunk_and_comes_back_in_its_own_size():
    plane = (disc((600, 640), 200, 180, 140) | disc((600, 640), 400, 450, 140)).astype(
        np.uint8
    ) * 90
    labels = segment(plane, diameter=280)
    assert labels.shape == plane.shape and labels.dtype == np.int32
    assert np.allclose(
        measure_cells(labels)[["y", "x"]].to_numpy(), [(200, 180), (400, 450)], atol=4
    )
    assert ((labels > 0) & (plane > 0)).sum() / ((labels > 0) | (plane > 0)).sum() > 0.93


def test_touching_cells_are_parted_by_shape_and_by_their_nuclei():
    first, second = disc((90, 120), 45, 40, 20), disc((90, 120), 45, 75, 20)
    plane = (first | second).astype(np.uint8) * 100
    nuclei = (disc((90, 120), 45, 35, 6) | disc((90, 120), 45, 80, 6)).astype(np.uint8) * 200
    for nucleus in (None, nuclei, np.zeros_like(nuclei)):
        labels = segment(plane, nucleus, diameter=40)
        assert labels.max() == 2 and labels[45, 30] != labels[45, 85]
    oblong = (
        disc((90, 120), 45, 40, 20) | disc((90, 120), 45, 60, 20) | disc((90, 120), 45, 50, 20)
    ).astype(np.uint8) * 100
    two = (disc((90, 120), 45, 35, 6) | disc((90, 120), 45, 65, 6)).astype(np.uint8) * 200
    assert (
        segment(oblong, None, diameter=40).max() == 1
        and segment(oblong, two, diameter=40).max() == 2
    )


@pytest.mark.parametrize(
    "plane",
    [np.zeros((200, 200), np.uint8), RNG.poisson(20, (200, 200)).astype(np.uint8)],
    ids=["flat", "noise"],
)
def test_an_empty_frame_has_no_cells(plane):
    assert segment(plane, plane, diameter=30).max() == 0
    assert measure_cells(segment(plane, diameter=30)).empty


def test_cellpose_is_asked_as_published_and_missed_clearly(monkeypatch):
    plane, asked = np.ones((6, 7), np.uint8), {}

    class Cellpose:
        def __init__(self, gpu, model_type):
            asked["model"] = model_type

        def eval(self, image, **how):
            asked.update(how, image=image)
            return np.eye(6, 7, dtype=np.uint16), None, None, None

    segmentation._cyto.cache_clear()
    monkeypatch.setitem(sys.modules, "cellpose", None)
    with pytest.raises(InputError, match="Cellpose is not installed"):
        segment(plane, method="cellpose")
    monkeypatch.setitem(
        sys.modules, "cellpose", types.SimpleNamespace(models=types.SimpleNamespace())
    )
    with pytest.raises(InputError, match="no model `cyto`"):
        segment(plane, method="cellpose")
    monkeypatch.setitem(
        sys.modules,
        "cellpose",
        types.SimpleNamespace(models=types.SimpleNamespace(Cellpose=Cellpose)),
    )
    labels = segment(plane, plane * 2, diameter=300, method="cellpose")
    segmentation._cyto.cache_clear()
    assert labels.sum() == 6 and labels.dtype == np.int32
    assert np.array_equal(asked.pop("image"), np.stack([plane * 0, plane, plane * 2], -1))
    assert asked == {"model": "cyto", "diameter": 300, "channels": [2, 3], "flow_threshold": None}


def test_cells_at_the_border_and_small_ones_are_dropped():
    labels = np.zeros((30, 40), np.int32)
    labels[0:5, 10:15] = 1  # touches the top
    labels[25:30, 20:25] = 2  # the bottom
    labels[10:12, 35:40] = 3  # the right
    labels[5:11, 5:11] = 4  # 36 pixels
    labels[15:21, 5:11] = 5  # 36
    labels[15:17, 20:25] = 6  # 10 of a mean of (36 + 36 + 10) / 3 = 27.3: more than a third
    labels[20:21, 15:19] = 7  # 4
    kept, dropped = choose_cells(measure_cells(labels), labels.shape, 1 / 3)
    # mean with the last 21.5, a third 7.2
    assert kept.label.tolist() == [4, 5, 6] and dropped == {"border": 3, "small": 1}
    assert kept.iloc[0][["y", "x", "area", "top", "left", "bottom", "right"]].tolist() == [
        7.5,
        7.5,
        36,
        5,
        5,
        11,
        11,
    ]


def test_a_cell_of_just_a_third_of_the_mean_is_small():
    labels = np.zeros((30, 30), np.int32)
    labels[2:4, 2:5], labels[10:15, 10:16] = 1, 2  # 6 and 30: mean 18, a third is 6
    assert choose_cells(measure_cells(labels), labels.shape, 1 / 3)[0].label.tolist() == [2]


def test_a_glowing_nucleus_is_a_dead_cell():
    labels, nucleus = np.zeros((50, 50), np.int32), np.zeros((50, 50), np.uint8)
    for i in range(5):
        labels[10 * i : 10 * i + 5, 10:15], nucleus[10 * i + 2, 12] = i + 1, 10 if i else 100
    cells = measure_cells(labels)
    assert find_living(cells, nucleus, 3).tolist() == [
        False,
        True,
        True,
        True,
        True,
    ]  # the mean is 28
    assert find_living(cells, nucleus * 0, 3).all() and len(find_living(cells[:0], nucleus, 3)) == 0


# links
# --------------------------------------------------------------------------------------------------

POINTS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=0, max_size=4).map(
    lambda p: np.array(p).reshape(-1, 2)
)


@settings(max_examples=60, deadline=None)
@given(before=POINTS, after=POINTS, reach=st.floats(1, 80))
def test_links_cost_least_of_all_ways_to_link(before, after, reach):
    def cost(partner):
        return sum(
            np.linalg.norm(before[i] - after[j]) if j >= 0 else reach for i, j in enumerate(partner)
        )

    partner = link(before, after, reach)
    every = itertools.product(range(-1, len(after)), repeat=len(before))
    ways = [way for way in every if len({j for j in way if j >= 0}) == sum(j >= 0 for j in way)]
    taken = [j for j in partner if j >= 0]
    assert len(set(taken)) == len(taken)
    assert all(
        np.linalg.norm(before[i] - after[j]) <= reach for i, j in enumerate(partner) if j >= 0
    )
    assert cost(partner) == pytest.approx(min(map(cost, ways)), abs=1e-6)


def test_two_cells_that_pass_each_other_keep_their_names():
    times = np.arange(16)
    # side by side at time 7 or 8, 12 pixels apart
    first = np.column_stack([np.full(16, 50), 20 + 6 * times])
    second = np.column_stack([np.full(16, 62), 110 - 6 * times])
    # in changing order
    centres = [np.array([second[t], first[t]] if t % 2 else [first[t], second[t]]) for t in times]
    tracks = follow(centres, 15)
    assert tracks.shape == (2, 16)
    assert np.array_equal([centres[t][tracks[0, t]] for t in times], first)
    assert np.array_equal([centres[t][tracks[1, t]] for t in times], second)


def test_a_lost_cell_ends_its_track_and_takes_nobody_elses():
    still, other = (10, 10), (10, 60)
    frames = [[still, other], [still, other], [other], [still, other]]
    # `still` could reach `other`
    tracks = follow([np.array(frame, float) for frame in frames], 100)
    assert tracks.tolist() == [[1, 1, 0, 1]]
    far = [np.array([[0, 0]]), np.array([[0, 151]])]
    assert len(follow(far, 150)) == 0 and len(follow(far, 151)) == 1
    assert follow([np.zeros((0, 2)), np.ones((2, 2))], 150).shape == (0, 2)
    assert follow([np.ones((2, 2)), np.zeros((0, 2)), np.ones((2, 2))], 150).shape == (0, 3)


# crops
# --------------------------------------------------------------------------------------------------


def test_the_edge_of_a_mask_fades_over_a_box():
    mask = np.zeros((5, 6), bool)
    mask[2, 3] = True
    expected = np.zeros((5, 6))
    expected[1:4, 2:5] = 1 / 9
    assert np.allclose(soften(mask, 3), expected)
    # nothing outside
    assert np.allclose(
        soften(np.ones((3, 3), bool), 3), np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9
    )
    edge = np.zeros((1, 40), bool)
    edge[:, 20:] = True
    weights = soften(np.repeat(edge, 40, axis=0), 11)[20]
    assert np.allclose(weights[14:26], [0, *(np.arange(1, 12) / 11)])


def cut_by_hand(planes, labels, label, half, middles, softening):
    """The same clip pixel by pixel."""
    clip = np.zeros((len(planes), 2 * half, 2 * half, planes.shape[1]))
    reach = softening // 2
    for t, (y, x) in enumerate(middles):
        for row, column in itertools.product(range(y - half, y + half), range(x - half, x + half)):
            if 0 <= row < labels[t].shape[0] and 0 <= column < labels[t].shape[1]:
                box = (
                    labels[t][
                        max(row - reach, 0) : row + reach + 1,
                        max(column - reach, 0) : column + reach + 1,
                    ]
                    == label
                )
                clip[t, row - y + half, column - x + half] = planes[t, :, row, column] * (
                    box.sum() / softening**2
                )
    return clip


@pytest.mark.parametrize("side", [64, 12])
def test_a_clip_is_what_one_gets_pixel_by_pixel(side):
    planes = RNG.integers(0, 256, (2, 3, 40, 50), np.uint8)
    labels = [np.zeros((40, 50), int), np.zeros((40, 50), int)]
    labels[0][2:16, 3:14] = 1  # near the corner: the square leaves the field
    labels[1][8:20, 6:21] = 1
    labels[0][20:25, 20:30] = 2
    boxes = np.array([[2, 3, 16, 14], [8, 6, 20, 21]])
    clip = cut_track(
        planes, [labels[t][a:c, b:d] == 1 for t, (a, b, c, d) in enumerate(boxes)], boxes, side, 5
    )
    half = min(18, side) // 2  # rows 2 to 20, columns 3 to 21
    expected = cut_by_hand(planes, labels, 1, half, [(9, 8), (14, 13)], 5)
    assert clip.shape == (2, 2 * half, 2 * half, 3) and clip.dtype == np.uint8
    assert np.abs(clip - expected).max() <= 0.5001


def test_holes_of_a_cell_are_part_of_it():
    mask = disc((20, 20), 10, 10, 8)
    ring = mask & ~disc((20, 20), 10, 10, 3)
    planes, box = np.full((1, 1, 20, 20), 200, np.uint8), np.array([[2, 2, 19, 19]])
    assert np.array_equal(
        cut_track(planes, [ring[2:19, 2:19]], box, 64, 3),
        cut_track(planes, [mask[2:19, 2:19]], box, 64, 3),
    )


def test_tracks_are_written_with_blue_as_the_first_channel(tmp_path):
    clip = np.zeros((2, 32, 32, 3), np.uint8)
    clip[..., 0], clip[1, :, :, 2] = 200, 90
    seen = write_track(tmp_path / "7_0", clip)
    assert sorted(path.name for path in (tmp_path / "7_0").iterdir()) == ["1.jpg", "2.jpg"]
    from PIL import Image

    for t in range(2):
        red, green, blue = np.moveaxis(
            np.asarray(Image.open(tmp_path / "7_0" / f"{t + 1}.jpg")).astype(int), -1, 0
        )
        assert (
            np.allclose(blue, 200, atol=3)
            and np.allclose(green, 0, atol=3)
            and np.allclose(red, 90 * t, atol=3)
        )
        assert np.abs(np.stack([blue, green, red], -1) - seen[t]).max() <= 1


def test_settings_that_make_no_sense_are_refused():
    for wrong in (
        {"softening": 10},
        {"method": "otsu"},
        {"side": 1},
        {"reach": 0},
        {"white": -1},
        {"most_bad": -1},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Settings(**wrong)
    assert Settings().scaled(0.1) == Settings(diameter=30, reach=15, side=51, softening=1)
