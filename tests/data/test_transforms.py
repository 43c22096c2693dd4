import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellsignal.common.errors import InputError
from cellsignal.config import augment as a
from cellsignal.data.draws import Recipe, needs_albumentations
from cellsignal.data.transforms import Transform

ALWAYS = {
    "horizontal_flip": a.HorizontalFlip(name="horizontal_flip", p=1),
    "vertical_flip": a.VerticalFlip(name="vertical_flip", p=1),
    "transpose": a.Transpose(name="transpose", p=1),
    "rotate90": a.Rotate90(name="rotate90"),
    "affine": a.Affine(name="affine", p=1),
    "random_crop": a.RandomCrop(name="random_crop", size=9),
    "random_resized_crop": a.RandomResizedCrop(name="random_resized_crop"),
    "square_crop_resize": a.SquareCropResize(name="square_crop_resize"),
    "perspective": a.Perspective(name="perspective", p=1),
    "blur": a.Blur(name="blur", p=1),
    "frame_blur": a.FrameBlur(name="frame_blur", p=1),
    "coarse_dropout": a.CoarseDropout(name="coarse_dropout", p=1),
    "channel_dropout": a.ChannelDropout(name="channel_dropout", p=1),
}
GAIN_BIAS = a.GainBias(name="gain_bias", gain=0.2, bias=0.3)
D4 = (
    a.HorizontalFlip(name="horizontal_flip"),
    a.VerticalFlip(name="vertical_flip"),
    a.Transpose(name="transpose"),
)


def noise(height: int = 24, width: int = 24, channels: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (height, width, channels), dtype=np.uint8)


def smooth(size: int = 48) -> np.ndarray:
    """A blurred picture, the same in six channels: resampling errors stay small."""
    plane = ndimage.gaussian_filter(
        np.random.default_rng(1).normal(size=(size, size)), 3, mode="mirror"
    )
    plane = 20 + 215 * (plane - plane.min()) / np.ptp(plane)
    return np.repeat(plane.astype(np.uint8)[:, :, None], 6, axis=2)


def draws(transform: Transform, image: np.ndarray, n: int) -> list[np.ndarray]:
    return [transform.image(image, np.random.default_rng(seed)) for seed in range(n)]


def dihedral(image: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(x, k) for x in (image, image[:, ::-1]) for k in range(4)]


def windows(image: np.ndarray, size: int) -> set[bytes]:
    rows, columns = (n - size + 1 for n in image.shape[:2])
    return {
        image[y : y + size, x : x + size].tobytes() for y in range(rows) for x in range(columns)
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("horizontal_flip", lambda x: x[:, ::-1]),
        ("vertical_flip", lambda x: x[::-1]),
        ("transpose", lambda x: x.transpose(1, 0, 2)),
    ],
)
def test_flips(name, expected):
    image = noise(20, 31)
    half = ALWAYS[name].model_copy(update={"p": 0.5})
    changed = [not np.array_equal(out, image) for out in draws(Transform((half,), 6), image, 300)]
    assert np.mean(changed) == pytest.approx(0.5, abs=0.1)
    assert np.array_equal(
        Transform((ALWAYS[name],), 6).image(image, np.random.default_rng(0)), expected(image)
    )


def test_rotate90_gives_each_quarter_turn_as_often():
    image = noise()
    turns = [np.rot90(image, k) for k in range(4)]
    outs = draws(Transform((ALWAYS["rotate90"],), 6), image, 400)
    which = [[np.array_equal(out, t) for t in turns].index(True) for out in outs]
    np.testing.assert_allclose(np.bincount(which, minlength=4) / 400, 0.25, atol=0.08)


def test_flips_and_transpose_give_all_eight_dihedral_images_as_often():
    image = noise()
    eight = dihedral(image)
    which = [
        [np.array_equal(out, t) for t in eight].index(True)
        for out in draws(Transform(D4, 6), image, 1600)
    ]
    counts = np.bincount(which, minlength=8)
    assert ((counts - 200) ** 2 / 200).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = .001


CROPS = ("random_crop", "random_resized_crop", "square_crop_resize")
CHANGE = [name for name in ALWAYS if name not in (*CROPS, "rotate90")]


@pytest.mark.parametrize("name", CHANGE)  # those whose every draw is a change
def test_probability_is_the_observed_frequency(name):
    image = noise()
    transform = Transform((ALWAYS[name].model_copy(update={"p": 0.3}),), 6)
    assert np.mean([not np.array_equal(out, image) for out in draws(transform, image, 1000)]) == (
        pytest.approx(0.3, abs=0.05)
    )


def test_probability_of_square_crop_resize():
    image = noise(300, 300, channels=1)  # so large that few draws are the whole image
    third = a.SquareCropResize(name="square_crop_resize", p=0.3)
    changed = [not np.array_equal(out, image) for out in draws(Transform((third,), 1), image, 1000)]
    assert np.mean(changed) == pytest.approx(0.3 * 150 / 151, abs=0.05)


@pytest.mark.parametrize("name", [name for name in ALWAYS if name != "random_crop"])
def test_zero_probability_changes_nothing(name):
    image = noise()
    never = ALWAYS[name].model_copy(update={"p": 0.0})
    assert all(np.array_equal(out, image) for out in draws(Transform((never,), 6), image, 5))


@pytest.mark.parametrize(
    ("name", "channels"),
    # refused
    [
        (name, n)
        for name in ALWAYS
        for n in (1, 2, 3, 5, 6, 9)
        if (name, n) != ("channel_dropout", 1)
    ],
)
def test_any_number_of_channels_keeps_type_shape_and_the_input(name, channels):
    image = noise(channels=channels)
    before = image.copy()
    size = 9 if name == "random_crop" else 24
    for out in draws(Transform((ALWAYS[name],), channels), image, 5):
        assert out.shape == (size, size, channels) and out.dtype == np.uint8
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", [name for name in ALWAYS if name != "channel_dropout"])
def test_all_channels_are_changed_alike(name):
    """OpenCV works on up to four channels at a time: six must come out as six images of one channel
    would.
    """
    image = noise()
    one, six = Transform((ALWAYS[name],), 1), Transform((ALWAYS[name],), 6)
    for seed in range(4):
        whole = six.image(image, np.random.default_rng(seed))
        for c in range(6):
            alone = one.image(image[:, :, c : c + 1], np.random.default_rng(seed))
            assert np.array_equal(alone[:, :, 0], whole[:, :, c])


@pytest.mark.parametrize("name", ["random_crop", "square_crop_resize"])
def test_coordinates_written_into_channels_stay_together(name):
    rows, columns = np.mgrid[:40, :40].astype(np.uint8)
    image = np.stack([rows, columns, rows, columns, rows, columns], axis=2)
    for out in draws(Transform((ALWAYS[name],), 6), image, 10):
        assert all(np.array_equal(out[:, :, c], out[:, :, c % 2]) for c in range(6))
        # still a grid
        assert (out[:, :, 0] == out[:, :1, 0]).all() and (out[:, :, 1] == out[:1, :, 1]).all()
        for line in (out[:, 0, 0], out[0, :, 1]):
            assert (np.diff(line.astype(int)) >= 0).all() and np.diff(line.astype(int)).max() <= 1


def test_random_crop_is_a_window_and_reaches_all_corners():
    image = noise(12, 11)
    transform = Transform((ALWAYS["random_crop"],), 6)
    seen = {out.tobytes() for out in draws(transform, image, 300)}
    assert seen == windows(image, 9)


def test_square_crop_resize_is_a_window_enlarged_by_the_nearest_pixel():
    image = noise(16, 16)
    sides = []
    for out in draws(Transform((ALWAYS["square_crop_resize"],), 6), image, 200):
        found = []
        for side in range(1, 17):
            centres = np.floor((np.arange(16) + 0.5) * side / 16).astype(int)
            first = np.searchsorted(centres, np.arange(side))  # an output pixel of each crop pixel
            crop = out[first][:, first]
            if np.array_equal(crop[centres][:, centres], out) and crop.tobytes() in windows(
                image, side
            ):
                found.append(side)
        sides.append(max(found))
    # every integer from half the side to the whole, both ends included
    assert set(sides) == set(range(8, 17))
    assert min(np.bincount(sides)[8:]) > 200 / 9 / 3


def test_random_resized_crop_sizes():
    image = noise(30, 20)
    keep = a.RandomResizedCrop(name="random_resized_crop")
    small = a.RandomResizedCrop(name="random_resized_crop", size=8)
    whole = a.RandomResizedCrop(
        name="random_resized_crop", scale=(1.0, 1.0), ratio=(20 / 30, 20 / 30)
    )
    assert all(out.shape == (30, 20, 6) for out in draws(Transform((keep,), 6), image, 5))
    assert all(out.shape == (8, 8, 6) for out in draws(Transform((small,), 6), image, 5))
    assert np.array_equal(Transform((whole,), 6).image(image, np.random.default_rng(0)), image)


def test_random_resized_crop_covers_the_area_asked_for():
    columns = np.broadcast_to(
        np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 6)
    ).copy()
    crop = a.RandomResizedCrop(name="random_resized_crop", scale=(0.25, 0.25))
    for out in draws(Transform((crop,), 6), columns, 10):
        assert np.ptp(out.astype(int)) == pytest.approx(255 / 2, abs=8)


def test_affine_without_ranges_is_the_identity():
    still = a.Affine(name="affine", p=1, rotate=0, translate=0, scale=(1.0, 1.0))
    image = noise(20, 31)
    assert all(np.array_equal(out, image) for out in draws(Transform((still,), 6), image, 5))


def test_affine_scale_zooms_about_the_centre_and_mirrors_at_the_border():
    image = smooth()
    centre = 23.5
    for scale in (0.8, 1.25):
        zoom = a.Affine(name="affine", p=1, rotate=0, translate=0, scale=(scale, scale))
        out = Transform((zoom,), 6).image(image, np.random.default_rng(0))[:, :, 0].astype(float)
        at = (np.arange(48) - centre) / scale + centre
        places = np.meshgrid(at, at, indexing="ij")
        truth = ndimage.map_coordinates(
            image[:, :, 0].astype(float), places, order=1, mode="mirror"
        )
        assert np.abs(out - truth).max() < 3


def test_affine_translation_is_a_shift_within_the_range():
    image = smooth()
    shift = a.Affine(name="affine", p=1, rotate=0, translate=0.1, scale=(1.0, 1.0))
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    places = set()
    for out in draws(Transform((shift,), 6), image, 60):
        match = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if np.array_equal(padded[y : y + 48, x : x + 48], out)
        ]
        assert len(match) == 1
        places.add(match[0])
    assert len(places) > 20


def test_affine_rotates_within_the_range_either_way():
    image = smooth()
    turn = a.Affine(name="affine", p=1, rotate=20, translate=0, scale=(1.0, 1.0))
    inner = slice(14, 34)
    candidates = np.arange(-30, 31)
    plane = image[:, :, 0].astype(float)
    truth = [
        ndimage.rotate(plane, d, reshape=False, order=1, mode="mirror")[inner, inner]
        for d in candidates
    ]
    angles = []
    for out in draws(Transform((turn,), 6), image, 30):
        errors = [np.abs(t - out[inner, inner, 0]).mean() for t in truth]
        assert min(errors) < 1.5
        angles.append(candidates[np.argmin(errors)])
    assert -20 <= min(angles) < -8 and 8 < max(angles) <= 20


def test_perspective_moves_little_and_leaves_no_black():
    image = smooth()
    for out in draws(Transform((ALWAYS["perspective"],), 6), image, 20):
        assert out.min() >= image.min() - 2
        assert not np.array_equal(out, image)
        assert np.abs(out[20:28, 20:28].astype(int) - image[20:28, 20:28]).mean() < 40


def test_salt_and_pepper_sets_the_fraction_asked_for():
    image = noise(50, 40)  # has neither 0 nor 255
    noisy = a.Albumentations(
        name="albumentations", transform="SaltAndPepper", parameters={"amount": [0.05, 0.1]}, p=1
    )
    for out in draws(Transform((noisy,), 6), image, 20):
        salt, pepper = (out == 255).all(2), (out == 0).all(2)
        assert 0.05 - 0.001 <= (salt | pepper).mean() <= 0.1
        assert 0.3 < salt.sum() / (salt | pepper).sum() < 0.7
        assert np.array_equal(out[~(salt | pepper)], image[~(salt | pepper)])


def test_blur_is_a_gaussian_of_the_sigma_asked_for():
    image = noise(40, 40)
    blur = a.Blur(name="blur", p=1, sigma=(1.0, 1.0))
    out = Transform((blur,), 6).image(image, np.random.default_rng(0))
    for c in range(6):
        truth = ndimage.gaussian_filter(
            image[:, :, c].astype(float), 1.0, mode="mirror", truncate=3
        )
        assert np.abs(out[:, :, c] - truth).max() <= 2


def test_coarse_dropout_blackens_rectangles_of_the_sizes_asked_for():
    image = noise(40, 40)
    drop = a.CoarseDropout(name="coarse_dropout", p=1, holes=(1, 1), size=(0.2, 0.4))
    for out in draws(Transform((drop,), 6), image, 20):
        rows, columns = np.where((out == 0).all(2))
        tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == tall * wide and 8 <= tall <= 16 and 8 <= wide <= 16
        kept = ~(out == 0).all(2)
        assert np.array_equal(out[kept], image[kept])


def test_channel_dropout_blackens_whole_channels_and_any_of_them():
    image = noise()
    drop = a.ChannelDropout(name="channel_dropout", p=1, channels=2)
    dropped = [
        tuple(np.flatnonzero((out == 0).all((0, 1))))
        for out in draws(Transform((drop,), 6), image, 120)
    ]
    assert {len(d) for d in dropped} == {1, 2}
    assert {c for d in dropped for c in d} == set(range(6))
    for seed in range(5):
        out = Transform((drop,), 6).image(image, np.random.default_rng(seed))
        kept = [c for c in range(6) if c not in dropped[seed]]
        assert np.array_equal(out[:, :, kept], image[:, :, kept])


def test_order_is_as_written():
    image = noise(40, 40)
    crop, flip = a.RandomCrop(name="random_crop", size=20), ALWAYS["horizontal_flip"]
    drop = a.CoarseDropout(name="coarse_dropout", p=1, holes=(1, 1), size=(0.5, 0.5))
    holes = [(out == 0).all(2).mean() for out in draws(Transform((crop, drop, flip), 6), image, 10)]
    # half of the crop's side; dropped first, a crop of it would differ
    np.testing.assert_allclose(holes, 0.25)
    holes = [(out == 0).all(2).mean() for out in draws(Transform((drop, crop), 6), image, 10)]
    assert np.ptp(holes) > 0


def everything() -> tuple:
    return (*(v for k, v in ALWAYS.items() if k != "random_crop"), GAIN_BIAS)


def test_the_generator_alone_decides():
    image = noise()
    transform, other = Transform(everything(), 6), Transform(everything(), 6)
    np.random.seed(1)
    random.seed(1)
    first = transform.image(image, np.random.default_rng(5))
    for out in draws(other, image, 3):  # what came before must not matter
        assert not np.array_equal(out, first)
    np.random.seed(2)
    random.seed(2)
    states = np.random.get_state()[1].tobytes(), random.getstate()
    assert np.array_equal(other.image(image, np.random.default_rng(5)), first)
    assert states == (np.random.get_state()[1].tobytes(), random.getstate())
    assert np.array_equal(
        pickle.loads(pickle.dumps(transform)).image(image, np.random.default_rng(5)), first
    )


def test_one_generator_goes_on():
    image, rng = noise(), np.random.default_rng(0)
    transform = Transform(everything(), 6)
    assert len({transform.image(image, rng).tobytes() for _ in range(20)}) == 20


def test_gain_bias_is_one_line_a_channel_after_normalisation():
    x = np.random.default_rng(0).normal(size=(6, 16, 16)).astype(np.float32)
    before, fits = x.copy(), []
    transform = Transform((GAIN_BIAS,), 6)
    image = noise()
    assert transform.image(image, np.random.default_rng(0)) is image
    for seed in range(300):
        out = transform.signal(x, np.random.default_rng(seed))
        assert out.dtype == np.float32 and out.shape == x.shape
        for c in range(6):
            gain, bias = np.polyfit(x[c].ravel(), out[c].ravel(), 1)
            fits.append((gain, bias))
            if c == 0:
                np.testing.assert_allclose(out[c], gain * x[c] + bias, atol=1e-4)
    gain, bias = np.array(fits).T
    assert gain.mean() == pytest.approx(1, abs=0.02) and gain.std() == pytest.approx(0.2, abs=0.02)
    assert bias.mean() == pytest.approx(0, abs=0.03) and bias.std() == pytest.approx(0.3, abs=0.03)
    # drawn per channel
    assert abs(np.corrcoef(gain.reshape(300, 6).T)[np.triu_indices(6, 1)]).max() < 0.25
    assert np.array_equal(x, before)


def test_signal_without_gain_bias_is_the_identity():
    x = np.ones((6, 4, 4), np.float32)
    assert np.array_equal(Transform(everything()[:-1], 6).signal(x, np.random.default_rng(0)), x)


@pytest.mark.parametrize(
    ("augmentation", "channels", "message"),
    [
        (
            a.ChannelDropout(name="channel_dropout", channels=3),
            3,
            "channel_dropout: channels 3 of 3",
        ),
        (a.ChannelDropout(name="channel_dropout"), 1, "channel_dropout: channels 1 of 1"),
        (a.CoarseDropout(name="coarse_dropout", size=(0.1, 1.0)), 3, "coarse_dropout: size"),
        (a.Blur(name="blur", sigma=(2.0, 1.0)), 3, "blur: sigma .* descend"),
        (a.Affine(name="affine", scale=(1.1, 0.9)), 3, "affine: scale .* descend"),
    ],
)
def test_impossible_parameters_are_named(augmentation, channels, message):
    with pytest.raises(InputError, match=message) as raised:
        Transform((augmentation,), channels)
    assert "\n" not in str(raised.value)


def test_a_crop_larger_than_the_image_is_named():
    with pytest.raises(InputError, match="random_crop: size 9 exceeds the image, 8x24 pixels"):
        Transform((ALWAYS["random_crop"],), 6).image(noise(24, 8), np.random.default_rng(0))


def test_every_augmentation_of_the_schema_is_known():
    names = {
        option.model_fields["name"].annotation.__args__[0]
        for option in a.Augmentation.__args__[0].__args__
    }
    assert names == {*ALWAYS, "gain_bias", "albumentations"}


def test_importing_the_module_does_not_import_albumentations():
    code = "import sys, cellsignal.data.transforms; sys.exit('albumentations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


SHAPED = st.lists(
    st.sampled_from(
        [
            "horizontal_flip",
            "transpose",
            "rotate90",
            "random_crop",
            "random_resized_crop",
            "square_crop_resize",
            "coarse_dropout",
        ]
    ),
    max_size=3,
)


@settings(max_examples=80, deadline=None)
@given(SHAPED, st.tuples(st.sampled_from([8, 9, 12]), st.sampled_from([8, 9, 12])), st.booleans())
def test_a_shape_that_is_promised_is_kept_and_any_other_refused(names, shape, with_blur):
    """As images come out one by one, drawn often enough to meet every turn; both pipelines refuse
    alike.
    """
    steps = tuple(
        ALWAYS[name].model_copy(update={"p": 0.5}) if name == "transpose" else ALWAYS[name]
        for name in names
    )
    blurred = (ALWAYS["blur"], *steps) if with_blur else steps
    try:
        transform = Transform(blurred, 6, shape=shape)
    except InputError as error:
        if "exceeds" in str(error):
            assert min(shape) < 9
        else:
            images = draws(Transform(blurred, 6), noise(*shape), 40)
            assert len({image.shape for image in images}) > 1, str(error)
        if needs_albumentations(steps) is None:
            with pytest.raises(InputError) as other:
                Recipe(steps, 6, shape)
            assert str(other.value) == str(error).replace("blur, ", "")
        return
    assert {image.shape for image in draws(transform, noise(*shape), 40)} == {
        (*transform.output, 6)
    }
    if needs_albumentations(steps) is None:
        assert Recipe(steps, 6, shape).output == transform.output
    assert pickle.loads(pickle.dumps(transform)).output == transform.output
