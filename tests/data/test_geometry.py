"""Each geometric step as a matrix, against numpy's flips, loops and solved equations."""

import math

import numpy as np
import pytest
from scipy import stats

from cellsignal.config import augment as a
from cellsignal.data import geometry
from cellsignal.data.geometry import STEPS, View, centre, indices, integer, normal, rows_read


def step(augmentation, *numbers: float, shape: tuple[int, int] = (3, 5)) -> tuple:
    """Matrix (3, 3), height and width of one image after a step."""
    count, function = STEPS[type(augmentation)]
    assert count == len(numbers)
    height, width = (np.array([side]) for side in shape)
    matrix, new_height, new_width = function(augmentation, np.array([numbers]), height, width)
    assert matrix.shape == (1, 3, 3)
    return matrix[0], int(new_height[0]), int(new_width[0])


def places(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where points (n, 2) of the output, x before y, lie in the input."""
    x, y, z = matrix @ np.column_stack([points, np.ones(len(points))]).T
    return np.column_stack([x / z, y / z])


def read(image: np.ndarray, matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image after a step that moves whole pixels."""
    y, x = np.mgrid[:height, :width]
    inputs = places(matrix, np.column_stack([x.ravel(), y.ravel()]))
    assert np.array_equal(inputs, np.rint(inputs))
    x, y = inputs.astype(int).T
    return image[y, x].reshape(height, width)


IMAGE = np.arange(15).reshape(3, 5)


@pytest.mark.parametrize(
    ("augmentation", "numbers", "expected"),
    [
        (a.HorizontalFlip(name="horizontal_flip"), [], IMAGE[:, ::-1]),
        (a.VerticalFlip(name="vertical_flip"), [], IMAGE[::-1]),
        (a.Transpose(name="transpose"), [], IMAGE.T),
        *[
            (a.Rotate90(name="rotate90"), [(turns + 0.5) / 4], np.rot90(IMAGE, turns))
            for turns in range(4)
        ],
        (a.RandomCrop(name="random_crop", size=2), [0.0, 0.0], IMAGE[:2, :2]),
        (a.RandomCrop(name="random_crop", size=2), [0.6, 0.3], IMAGE[1:, 1:3]),
        (a.RandomCrop(name="random_crop", size=2), [0.99, 0.99], IMAGE[1:, 3:]),
    ],
)
def test_whole_pixels_move_as_in_numpy(augmentation, numbers, expected):
    assert np.array_equal(read(IMAGE, *step(augmentation, *numbers)), expected)


@pytest.mark.parametrize("numbers", [[0.9, 0.2, 0.3, 0.9], [0.1, 0.77, 0.6, 0.2]])
def test_affine_is_the_inverse_of_its_parts(numbers):
    """Scaled and turned counter-clockwise about the centre, then moved; y points down."""
    affine = a.Affine(name="affine", rotate=40, translate=0.3, scale=(0.6, 1.6))
    move_x = int((-0.3 + 0.6 * numbers[0]) * 50)
    move_y = int((-0.3 + 0.6 * numbers[1]) * 30)
    scale = 0.6 + numbers[2]
    angle = math.radians(-40 + 80 * numbers[3])
    to_origin = np.array([[1, 0, -24.5], [0, 1, -14.5], [0, 0, 1]])
    turn = np.array(
        [
            [scale * math.cos(angle), scale * math.sin(angle), 0],
            [-scale * math.sin(angle), scale * math.cos(angle), 0],
            [0, 0, 1],
        ]
    )
    back = np.array([[1, 0, 24.5 + move_x], [0, 1, 14.5 + move_y], [0, 0, 1]])
    matrix, height, width = step(affine, *numbers, shape=(30, 50))
    np.testing.assert_allclose(matrix, np.linalg.inv(back @ turn @ to_origin), atol=1e-12)
    assert (height, width) == (30, 50)


@pytest.mark.parametrize(
    ("fraction", "shape", "numbers", "window"),
    [  # window: top, left, side
        (0.5, (8, 12), [0.0, 0.5, 0.5], (2, 4, 4)),
        (0.5, (8, 12), [0.99, 0.5, 0.99], (0, 4, 8)),
        (0.5, (12, 8), [0.5, 0.0, 0.99], (0, 2, 6)),
        (0.01, (8, 8), [0.0, 0.99, 0.99], (7, 7, 1)),
        (0.5, (18, 20), [0.35, 0.5, 0.99], (3, 8, 12)),  # ties: the later centre
    ],
)
def test_square_crop_resize_takes_the_nearest_centres_of_the_window(
    fraction, shape, numbers, window
):
    square = a.SquareCropResize(name="square_crop_resize", min_fraction=fraction)
    matrix, height, width = step(square, *numbers, shape=shape)
    top, left, side = window
    full = min(shape)
    assert (height, width) == (full, full)
    down, across, swapped = indices(matrix[None], shape, (full, full))
    nearest = [int((2 * pixel + 1) * side // (2 * full)) for pixel in range(full)]
    assert np.array_equal(down[0], np.add(nearest, top))
    assert np.array_equal(across[0], np.add(nearest, left)) and not swapped[0]


def crop_window(crop: a.RandomResizedCrop, numbers, height: int, width: int) -> list[int]:
    """Top, left, height and width of a random resized crop, in plain loops."""
    least, most = (math.log(ratio) for ratio in crop.ratio)
    for attempt in range(10):
        area = crop.scale[0] + (crop.scale[1] - crop.scale[0]) * numbers[attempt]
        area *= height * width
        aspect = math.exp(least + (most - least) * numbers[10 + attempt])
        tall, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < tall <= height and 0 < wide <= width:
            top = int(numbers[20] * (height - tall + 1))
            left = int(numbers[21] * (width - wide + 1))
            return [top, left, tall, wide]
    tall, wide = height, width
    if width / height < crop.ratio[0]:
        tall = round(width / crop.ratio[0])
    elif width / height > crop.ratio[1]:
        wide = round(height * crop.ratio[1])
    return [(height - tall) // 2, (width - wide) // 2, tall, wide]


@pytest.mark.parametrize("size", [None, 7])
@pytest.mark.parametrize("shape", [(40, 30), (12, 41), (41, 12), (20, 20), (1, 30)])
def test_random_resized_crop_is_the_first_of_ten_windows_that_fits(shape, size):
    crop = a.RandomResizedCrop(
        name="random_resized_crop", size=size, scale=(0.3, 1.0), ratio=(0.5, 1.5)
    )
    rng = np.random.default_rng(0)
    for _ in range(40):
        numbers = rng.random(22)
        numbers[: rng.integers(0, 11)] = 0.999  # large areas fit seldom
        matrix, height, width = step(crop, *numbers, shape=shape)
        assert (height, width) == (shape if size is None else (size, size))
        top, left, tall, wide = crop_window(crop, numbers, *shape)
        edges = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
        window = [[left - 0.5, top - 0.5], [left + wide - 0.5, top + tall - 0.5]]
        np.testing.assert_allclose(places(matrix, edges), window, atol=1e-9)
        assert matrix[0, 1] == matrix[1, 0] == 0 and matrix[2].tolist() == [0, 0, 1]


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 3)])
def test_random_resized_crop_of_the_smallest_images_is_at_least_a_pixel(shape):
    """Areas that round to no pixel are drawn again."""
    crop = a.RandomResizedCrop(
        name="random_resized_crop", size=4, scale=(0.01, 1.0), ratio=(0.3, 3.0)
    )
    rng = np.random.default_rng(0)
    for _ in range(40):
        numbers = rng.random(22)
        numbers[: rng.integers(0, 11)] = 0.0
        matrix, *_ = step(crop, *numbers, shape=shape)
        top, left, tall, wide = crop_window(crop, numbers, *shape)
        window = [[left - 0.5, top - 0.5], [left + wide - 0.5, top + tall - 0.5]]
        np.testing.assert_allclose(
            places(matrix, np.array([[-0.5, -0.5], [3.5, 3.5]])), window, atol=1e-9
        )


@pytest.mark.parametrize("shape", [(30, 40), (3, 4)])
def test_perspective_maps_the_image_to_the_four_corners_drawn(shape):
    perspective = a.Perspective(name="perspective", scale=(0.1, 0.9))
    height, width = shape
    for seed in range(5):
        numbers = np.random.default_rng(seed).random(9)
        inwards = abs(stats.norm.ppf(numbers[1:]) * (0.1 + 0.8 * numbers[0])) % 0.32
        corners = abs(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) - inwards.reshape(4, 2))
        corners = corners * [width, height]
        sides = [math.dist(corners[i], corners[i - 1]) for i in range(4)]  # left, top, right, ...
        broad, tall = max(2, int(max(sides[1], sides[3]))), max(2, int(max(sides[0], sides[2])))
        right, bottom = width**2 / broad, height**2 / tall
        ends = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]])
        matrix, *size = step(perspective, *numbers, shape=shape)
        np.testing.assert_allclose(places(matrix, ends), corners, atol=1e-8)
        assert matrix[2, 2] == 1 and size == [height, width]


def test_integers_are_even_and_include_both_ends():
    u = (np.arange(12) + 0.5) / 12
    assert np.bincount(integer(u, 2, 5)).tolist() == [0, 0, 3, 3, 3, 3]
    assert integer(np.array([0.0, 1 - 2.0**-53]), 0, 2**40).tolist() == [0, 2**40]


def test_normal_is_the_inverse_of_the_distribution_and_finite_at_0():
    u = np.array([0.025, 0.5, 0.975])
    np.testing.assert_allclose(normal(u), [-1.959964, 0, 1.959964], atol=1e-6)
    assert -9 < normal(np.array([0.0]))[0] < -8


def test_a_view_composes_the_steps_that_fired():
    view = View.whole(2, (5, 7))
    assert view.input == (5, 7) and view.origin.tolist() == [[0, 0], [0, 0]]
    assert np.array_equal(view.matrix, [np.eye(3)] * 2)
    matrix, height, width = (np.repeat(value, 2, axis=0) for value in _flipped_turn())
    turned = view.then(np.array([True, False]), matrix, height, width)
    assert turned.height.tolist() == [7, 5] and turned.width.tolist() == [5, 7]
    top, left = centre(turned, 2)
    assert top.tolist() == [2, 1] and left.tolist() == [1, 2]
    image = np.arange(35).reshape(5, 7)
    assert np.array_equal(read(image, turned.matrix[0], 7, 5), np.rot90(image))
    assert np.array_equal(read(image, turned.matrix[1], 5, 7), image)


def _flipped_turn() -> tuple:
    turn = STEPS[a.Rotate90][1]
    return turn(None, np.array([[0.3]]), np.array([5]), np.array([7]))


@pytest.mark.parametrize("turns", range(4))
def test_a_cut_reads_the_same_pixels_from_a_smaller_input(turns):
    image = np.arange(63).reshape(7, 9)
    matrix, *_ = step(a.Rotate90(name="rotate90"), turns / 4, shape=(7, 9))
    window = matrix @ np.array([[1, 0, 2], [0, 1, 3], [0, 0, 1]])  # left 2, top 3, 4 x 4
    view = View.whole(1, (7, 9)).then(np.array([True]), window[None], np.array([4]), np.array([4]))
    after = view.cut((4, 4))
    top, left = after.origin[0]
    part = image[top : top + 4, left : left + 4]
    assert after.input == (4, 4) == part.shape
    assert np.array_equal(read(part, after.matrix[0], 4, 4), np.rot90(image, turns)[3:7, 2:6])


def bilinear_rows(matrix: np.ndarray, last: int, output: tuple[int, int]) -> tuple[int, int]:
    """First and last input row of a bilinear reading that is mirrored once at the border."""
    y, x = np.mgrid[: output[0], : output[1]]
    rows = places(matrix, np.column_stack([x.ravel(), y.ravel()]))[:, 1]
    read_rows = np.concatenate([np.floor(rows), np.ceil(rows)])
    read_rows = abs(read_rows)
    read_rows = np.where(read_rows > last, 2 * last - read_rows, read_rows)
    return int(read_rows.min()), int(read_rows.max())


@pytest.mark.parametrize(
    ("slope", "shift"),
    [(0.3, 8.25), (0.3, 30.5), (-0.4, 20.25), (1.0, -4.5), (1.0, 33.3), (2.0, -5.3)],
)
def test_rows_read_hold_all_of_a_bilinear_reading_and_one_more_at_each_end(slope, shift):
    matrix = np.array([[1, 0, 0], [0.2, slope, shift], [0, 0, 1]])
    top, bottom = rows_read(matrix[None], np.array([True]), (40, 12), (12, 12))[0]
    first, last = bilinear_rows(matrix, 39, (12, 12))
    assert max(0, first - 1) <= top <= first
    assert last < bottom <= min(40, last + 2)


def test_rows_read_of_nearest_pixels_are_exact_and_of_a_horizon_all():
    whole = np.array([[[1, 0, 0], [0, 1, 3], [0, 0, 1]]], float)
    assert rows_read(whole, np.array([False]), (40, 12), (12, 12)).tolist() == [[3, 15]]
    halves = np.array([[[1, 0, 0], [0, 0.5, 3.2], [0, 0, 1]]])
    assert rows_read(halves, np.array([False]), (40, 12), (12, 12)).tolist() == [[3, 10]]
    horizon = np.array([[[1, 0, 0], [0, 1, 3], [0, -1 / 11, 1]], whole[0]])  # 0 in the last row
    rows = rows_read(horizon, np.array([True, True]), (40, 12), (12, 12))
    assert rows.tolist() == [[0, 40], [2, 16]]


def test_indices_of_a_swapped_view_are_clipped_to_the_input():
    matrix = np.array([[[0, 1, -1], [1, 0, 3], [0, 0, 1]]], float)  # x = y - 1, y = x + 3
    down, across, swapped = indices(matrix, (6, 4), (7, 5))
    assert swapped.tolist() == [True]
    assert down.tolist() == [[0, 0, 1, 2, 3, 3, 3]] and across.tolist() == [[3, 4, 5, 5, 5]]


def test_steps_are_registered_by_the_class_of_their_settings(monkeypatch):
    monkeypatch.setattr(geometry, "STEPS", {})
    register = geometry.moves_pixels(int, 3)
    assert register(abs) is abs
    assert dict(geometry.STEPS) == {int: (3, abs)}
