"""One image warped on the CPU: each step alone against plain numpy, OpenCV and albumentations' own
matrices, then the distributions.
"""

import cv2
import numpy as np
import pytest
from albumentations.augmentations.geometric import functional as albumentations_geometry
from scipy import ndimage, stats

from cellsignal.config import augment as a
from cellsignal.data.draws import Draws, Recipe
from cellsignal.data.transforms import Transform
from cellsignal.data.warp import warp


def noise(channels: int = 3, height: int = 24, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (channels, height, width), dtype=np.uint8)


def smooth(size: int = 48, channels: int = 5) -> np.ndarray:
    planes = ndimage.gaussian_filter(
        np.random.default_rng(1).normal(size=(channels, size, size)), (0, 3, 3), mode="mirror"
    )
    return (20 + 215 * (planes - planes.min()) / np.ptp(planes)).astype(np.uint8)


def warped(image: np.ndarray, recipe: Recipe, draws: Draws, i: int = 0) -> np.ndarray:
    """The grey levels (C, h, w) of sample i of the draws."""
    (top, left), (height, width) = draws.origin[i], recipe.input
    out = np.empty((len(image), *recipe.output), np.float32)
    nothing, one = np.zeros(len(image), np.float32), np.ones(len(image), np.float32)
    warp(image[:, top : top + height, left : left + width], draws, i, nothing, one, out)
    return out


def drawn(image: np.ndarray, *steps, center_crop: int | None = None) -> np.ndarray:
    """The image after steps (augmentation, its uniform numbers), each of which happens."""
    recipe = Recipe(tuple(step for step, _ in steps), len(image), image.shape[1:], center_crop)
    u = [x for step, own in steps for x in ([0.0] if hasattr(step, "p") else []) + list(own)]
    return warped(image, recipe, recipe.draw(np.array([u])))


H = a.HorizontalFlip(name="horizontal_flip")
V = a.VerticalFlip(name="vertical_flip")
T = a.Transpose(name="transpose")
R, CROP = a.Rotate90(name="rotate90"), a.RandomCrop(name="random_crop", size=9)
SQUARE = a.SquareCropResize(name="square_crop_resize", min_fraction=0.25)


def test_nothing_and_the_center():
    image = noise(2, 24, 31)
    assert np.array_equal(drawn(image), image)
    assert np.array_equal(drawn(image, center_crop=9), image[:, 7:16, 11:20])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(H, ())], lambda x: x[:, :, ::-1]),
        ([(V, ())], lambda x: x[:, ::-1]),
        ([(H, ()), (V, ())], lambda x: x[:, ::-1, ::-1]),
        *[([(R, (k / 4,))], lambda x, k=k: np.rot90(x, k, (1, 2))) for k in range(4)],
        ([(T, ())], lambda x: x.transpose(0, 2, 1)),
        ([(H, ()), (T, ())], lambda x: x[:, :, ::-1].transpose(0, 2, 1)),
        ([(H, ()), (R, (0.25,)), (V, ())], lambda x: np.rot90(x[:, :, ::-1], 1, (1, 2))[:, ::-1]),
    ],
)
def test_flips_turns_and_crops_are_exact(steps, expected):
    image = noise()
    whole = expected(image)
    assert np.array_equal(drawn(image, *steps), whole)
    assert np.array_equal(drawn(image, *steps, (CROP, (0.5, 0.99))), whole[:, 8:17, 15:24])
    assert np.array_equal(drawn(image, *steps, center_crop=9), whole[:, 7:16, 7:16])
    assert np.array_equal(
        drawn(image, *steps, (CROP, (0.5, 0.99)), (H, ())), whole[:, 8:17, 15:24][:, :, ::-1]
    )


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("before", [(), (H,), (V,), (T,), (H, T)])
def test_square_crop_resize_is_opencvs_of_the_same_square(size, before):
    """For sides that are a power of two; for others OpenCV's fixed-point numbers miss the nearest
    centre here and there.
    """
    image = noise(2, size, size)
    turned = image
    for step in before:
        turned = {"h": turned[:, :, ::-1], "v": turned[:, ::-1], "t": turned.transpose(0, 2, 1)}[
            step.name[0]
        ]
    for side in range(size // 4, size + 1):
        u = (side - size // 4 + 0.5) / (size - size // 4 + 1)
        top, left = (size - side) // 2, size - side
        got = drawn(
            image,
            *((step, ()) for step in before),
            (SQUARE, (u, (top + 0.5) / (size - side + 1), 0.999)),
        )
        crop = np.ascontiguousarray(
            turned[:, top : top + side, left : left + side].transpose(1, 2, 0)
        )
        truth = cv2.resize(crop, (size, size), interpolation=cv2.INTER_NEAREST_EXACT).transpose(
            2, 0, 1
        )
        assert np.array_equal(got, truth), side


@pytest.mark.parametrize(("shape", "side"), [((18, 18), 12), ((21, 30), 14), ((300, 300), 123)])
def test_square_crop_resize_takes_the_nearest_centre_the_later_one_of_two(shape, side):
    image, full = noise(1, *shape), min(shape)
    least = round(full / 4)
    got = drawn(image, (H, ()), (SQUARE, ((side - least + 0.5) / (full - least + 1), 0, 0)))
    nearest = [int((2 * x + 1) * side // (2 * full)) for x in range(full)]
    assert np.array_equal(got, image[:, :, ::-1][:, nearest][:, :, nearest])


def test_affine_is_albumentations_matrix_and_a_bilinear_mirrored_image():
    image = smooth()[:, :, :40]
    affine = a.Affine(name="affine", rotate=40, translate=0.3, scale=(0.6, 1.6))
    places = np.moveaxis(np.mgrid[:48, :40].astype(float), 0, -1)[..., ::-1]
    for u in ((0.5, 0.5, 0.3, 0.9), (0.1, 0.83, 0.6, 0.2), (0.7, 0.31, 0.95, 0.5)):
        shift = {"x": int((0.6 * u[0] - 0.3) * 40), "y": int((0.6 * u[1] - 0.3) * 48)}
        scale = 0.6 + u[2]
        matrix = albumentations_geometry.create_affine_transformation_matrix(
            shift, {"x": 0, "y": 0}, {"x": scale, "y": scale}, 80 * u[3] - 40, (19.5, 23.5)
        )
        back = np.linalg.inv(matrix)
        x, y = (places @ back[:2, :2].T + back[:2, 2]).transpose(2, 0, 1)
        truth = [
            ndimage.map_coordinates(plane.astype(float), [y, x], order=1, mode="mirror")
            for plane in image
        ]
        assert np.abs(drawn(image, (affine, u)) - truth).max() < 1.5


def test_perspective_is_albumentations():
    image = smooth()[:, :, :40]
    perspective = a.Perspective(name="perspective", scale=(0.02, 0.2))
    for seed in range(4):
        u = np.random.default_rng(seed).random(9)
        jitter = np.abs(stats.norm.ppf(u[1:]) * (0.02 + 0.18 * u[0])).reshape(4, 2) % 0.32
        points = np.abs(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) - jitter) * (40, 48)
        matrix, width, height = albumentations_geometry.compute_perspective_params(
            points.astype(np.float32), (48, 40)
        )
        truth = [
            albumentations_geometry.perspective(
                plane, matrix, width, height, 0, cv2.BORDER_REFLECT_101, True, cv2.INTER_LINEAR
            )
            for plane in image
        ]
        assert np.abs(drawn(image, (perspective, u)) - truth).max() < 2.5


def test_random_resized_crop_is_a_crop_resized_but_for_its_border():
    image = smooth()
    for size, side, inner in ((None, 48, slice(2, -2)), (20, 20, slice(1, -1))):
        crop = a.RandomResizedCrop(
            name="random_resized_crop", size=size, scale=(0.4, 0.4), ratio=(1.5, 1.5)
        )
        tall, wide = round((0.4 * 48 * 48 / 1.5) ** 0.5), round((0.4 * 48 * 48 * 1.5) ** 0.5)
        got = drawn(image, (crop, [0.5] * 20 + [0.3, 0.8]))
        top, left = int(0.3 * (49 - tall)), int(0.8 * (49 - wide))
        truth = [
            cv2.resize(
                p[top : top + tall, left : left + wide],
                (side, side),
                interpolation=cv2.INTER_LINEAR,
            )
            for p in image
        ]
        assert np.abs(got - truth)[:, inner, inner].max() < 2


def test_random_resized_crop_that_never_fits_is_central():
    broad = a.RandomResizedCrop(name="random_resized_crop", scale=(1.0, 1.0), ratio=(2.0, 2.0))
    image = smooth()
    truth = [cv2.resize(plane[12:36], (48, 48), interpolation=cv2.INTER_LINEAR) for plane in image]
    assert np.abs(drawn(image, (broad, [0.5] * 22)) - truth)[:, 2:-2, 2:-2].max() < 2


def test_dropped_pixels_are_grey_level_0_and_gain_and_bias_come_last():
    image = noise(6, 40, 30)
    recipe = Recipe(
        (
            a.GainBias(name="gain_bias", p=1),
            H,
            a.CoarseDropout(name="coarse_dropout", p=1),
            a.ChannelDropout(name="channel_dropout", p=1, channels=3),
        ),
        6,
        (40, 30),
    )
    rng = np.random.default_rng(0)
    draws = recipe.draw(rng.random((20, recipe.numbers)))
    for i in range(20):
        shift = rng.normal(100, 9, 6).astype(np.float32)
        scale = rng.uniform(1, 9, 6).astype(np.float32)
        out = np.empty((6, 40, 30), np.float32)
        warp(image, draws, i, shift, scale, out)
        grey = image[:, :, ::-1].copy() if draws.matrix[i, 0, 0] < 0 else image.copy()
        grey[draws.dropped[i]] = 0
        for top, bottom, left, right in draws.boxes[i]:
            grey[:, top:bottom, left:right] = 0
        x = (grey.astype(np.float32) - shift[:, None, None]) / scale[:, None, None]
        assert np.array_equal(out, x * draws.gain[i][:, None, None] + draws.bias[i][:, None, None])
        assert 1 <= draws.dropped[i].sum() <= 3


def ramps(size: int = 32) -> np.ndarray:
    """Where a pixel is, and a texture: means tell a shift, spreads a zoom, slopes a turn."""
    y, x = np.mgrid[:size, :size] * 220.0 / (size - 1) + 20
    return np.stack([x, y, smooth(size, 1)[0]]).astype(np.uint8)


def described(outs: np.ndarray) -> np.ndarray:
    """Numbers (m, n) that n draws (n, C, h, w) are compared by, in grey levels: means, spreads,
    slopes, corners, dropped pixels, dropped channels.
    """
    h, w = outs.shape[2:]
    y, x = ((axis - axis.mean()) / axis.std() for axis in np.mgrid[:h, :w].astype(float))
    slopes = [(outs * axis).mean((2, 3)) for axis in (y, x)]
    dropped = 255 * (outs == 0).mean((2, 3))
    lists = (
        outs.mean((2, 3)),
        outs.std((2, 3)),
        *slopes,
        outs[:, :, [0, 0, -1], [0, -1, 0]].reshape(len(outs), -1),
        dropped,
    )
    return np.hstack([*lists, 255 * (dropped == 255).sum(1, keepdims=True)]).T


def ours(recipe: tuple, n: int) -> np.ndarray:
    image, made = ramps(), Recipe(recipe, 3, (32, 32))
    draws = made.draw(np.random.default_rng(5).random((n, made.numbers)))
    return np.stack([warped(image, made, draws, i) for i in range(n)])


def theirs(recipe: tuple, n: int) -> np.ndarray:
    image, transform = ramps().transpose(1, 2, 0), Transform(recipe, 3)
    outs = [transform.image(image, np.random.default_rng([6, i])) for i in range(n)]
    return np.stack(outs).transpose(0, 3, 1, 2).astype(np.float32)


def least_p(some: np.ndarray, others: np.ndarray) -> float:
    """The least p of two-sample Kolmogorov-Smirnov tests of each number, times their count. Noise
    hides what is less than a grey level.
    """
    rng, p = np.random.default_rng(0), []
    for x, y in zip(described(some), described(others), strict=True):
        blur = 1 + 0.2 * y.std()
        p.append(
            stats.ks_2samp(
                *(z + rng.uniform(-blur, blur, len(z)) for z in (x, y)), method="asymp"
            ).pvalue
        )
    return min(p) * len(p)


AFFINE = {"name": "affine", "p": 0.8}
RRC = {"name": "random_resized_crop"}
HOLES = {"name": "coarse_dropout", "p": 0.8}


@pytest.mark.parametrize(
    ("recipe", "other"),
    [
        ((H,), H.model_copy(update={"p": 0.3})),
        ((R,), R.model_copy(update={"p": 0.7})),
        ((T, V), T),
        ((CROP,), a.RandomCrop(name="random_crop", size=8)),
        (
            (a.Affine(**AFFINE, rotate=30, translate=0, scale=(1, 1)),),
            a.Affine(**AFFINE, rotate=20, translate=0, scale=(1, 1)),
        ),
        (
            (a.Affine(**AFFINE, rotate=0, translate=0.2, scale=(1, 1)),),
            a.Affine(**AFFINE, rotate=0, translate=0.15, scale=(1, 1)),
        ),
        (
            (a.Affine(**AFFINE, rotate=0, translate=0, scale=(0.7, 1.3)),),
            a.Affine(**AFFINE, rotate=0, translate=0, scale=(0.7, 1.2)),
        ),
        (
            (a.Affine(**AFFINE, rotate=30, translate=0.1, scale=(0.8, 1.2)),),
            a.Affine(**AFFINE, rotate=30, translate=0.05, scale=(0.8, 1.2)),
        ),
        (
            (a.RandomResizedCrop(**RRC, scale=(0.3, 1.0), ratio=(0.5, 2.0)),),
            a.RandomResizedCrop(**RRC, scale=(0.5, 1.0), ratio=(0.5, 2.0)),
        ),
        (
            (a.RandomResizedCrop(**RRC, size=16, scale=(0.3, 1.0), ratio=(1, 1)),),
            a.RandomResizedCrop(**RRC, size=16, scale=(0.3, 1.0), ratio=(1, 2)),
        ),
        ((SQUARE,), SQUARE.model_copy(update={"min_fraction": 0.5})),
        ((H, T, SQUARE), SQUARE),
        (
            (a.Perspective(name="perspective", p=1, scale=(0.05, 0.2)),),
            a.Perspective(name="perspective", p=1, scale=(0.05, 0.15)),
        ),
        ((a.CoarseDropout(**HOLES, holes=(1, 4)),), a.CoarseDropout(**HOLES, holes=(1, 3))),
        ((a.CoarseDropout(**HOLES, size=(0.1, 0.3)),), a.CoarseDropout(**HOLES, size=(0.1, 0.25))),
        (
            (a.ChannelDropout(name="channel_dropout", p=0.8, channels=2),),
            a.ChannelDropout(name="channel_dropout", p=0.8),
        ),
        ((CROP, H, a.Affine(**AFFINE, rotate=30)), None),
    ],
)
def test_draws_are_distributed_as_albumentations_and_a_wrong_range_would_be_seen(recipe, other):
    truth = theirs(recipe, 400)
    assert least_p(ours(recipe, 400), truth) > 0.01
    if other is not None:
        assert least_p(ours((other,), 400), truth) < 0.01


def test_the_mean_and_spread_of_every_pixel_are_those_of_albumentations():
    here, there = (draw((H, V, T, SQUARE), 800) for draw in (ours, theirs))
    assert (
        np.abs(here.mean(0) - there.mean(0)).max() < 12
        and np.abs(here.std(0) - there.std(0)).max() < 8
    )
    assert np.abs(here.mean() - there.mean()) < 2
