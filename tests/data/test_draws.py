"""What is drawn, before it is applied: counts, bounds, shapes, errors, composition of gain and
bias, holes, subsets.
"""

import numpy as np
import pytest
from scipy import stats

from cellsignal.common.errors import InputError
from cellsignal.config import augment as a
from cellsignal.data.draws import Recipe, needs_albumentations
from cellsignal.data.transforms import Transform

OPS = {
    "horizontal_flip": a.HorizontalFlip(name="horizontal_flip"),
    "vertical_flip": a.VerticalFlip(name="vertical_flip"),
    "transpose": a.Transpose(name="transpose"),
    "rotate90": a.Rotate90(name="rotate90"),
    "affine": a.Affine(name="affine", p=0.7, translate=0.3, rotate=180, scale=(0.5, 2.0)),
    "random_crop": a.RandomCrop(name="random_crop", size=9),
    "random_resized_crop": a.RandomResizedCrop(
        name="random_resized_crop", scale=(0.1, 1.0), ratio=(0.5, 2.0)
    ),
    "square_crop_resize": a.SquareCropResize(name="square_crop_resize", min_fraction=0.3),
    "perspective": a.Perspective(name="perspective", p=1, scale=(0.1, 0.3)),
    "gain_bias": a.GainBias(name="gain_bias", p=0.8, gain=0.2, bias=0.3),
    "coarse_dropout": a.CoarseDropout(name="coarse_dropout", p=0.8, holes=(2, 5), size=(0.1, 0.4)),
    "channel_dropout": a.ChannelDropout(name="channel_dropout", p=0.8, channels=2),
}
BLUR = a.Blur(name="blur")


def uniform(recipe: Recipe, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, recipe.numbers))


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ((), None),
        (
            tuple(
                OPS[n]
                for n in ("horizontal_flip", "random_crop", "affine", "coarse_dropout", "gain_bias")
            ),
            None,
        ),
        ((OPS["affine"], BLUR), "blur is only there"),
        ((OPS["affine"], a.FrameBlur(name="frame_blur")), "frame_blur is only there"),
        (
            (OPS["coarse_dropout"], OPS["channel_dropout"], OPS["transpose"]),
            "transpose after coarse_dropout is only there",
        ),
        (
            (OPS["affine"], OPS["transpose"], OPS["perspective"]),
            "perspective after affine is only there",
        ),
        ((OPS["affine"], OPS["affine"]), "affine after affine is only there"),
    ],
)
def test_what_needs_albumentations(recipe, reason):
    assert needs_albumentations(recipe) == reason


def test_every_augmentation_can_be_drawn_or_says_why_not():
    names = {
        option.model_fields["name"].annotation.__args__[0]
        for option in a.Augmentation.__args__[0].__args__
    }
    assert names == {*OPS, "blur", "frame_blur", "albumentations"} and all(
        needs_albumentations((op,)) is None for op in OPS.values()
    )


@pytest.mark.parametrize("value", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("shape", [(24, 24), (512, 512)])
def test_the_ends_of_the_uniform_numbers_are_drawn_from(name, value, shape):
    always = OPS[name].model_copy(update={"p": 1.0} if hasattr(OPS[name], "p") else {})
    recipe = Recipe((always,), 6, shape)
    draws = recipe.draw(np.full((2, recipe.numbers), value))
    for array in (draws.matrix, draws.gain, draws.bias):
        assert np.isfinite(array).all()
    assert (draws.origin >= 0).all() and (draws.origin + recipe.input <= shape).all()
    assert (
        (draws.rows[:, 0] >= 0).all()
        and (draws.rows[:, 1] <= shape[0]).all()
        and (np.diff(draws.rows) > 0).all()
    )
    assert (draws.boxes >= 0).all() and (draws.boxes <= shape[0]).all()
    if name == "channel_dropout":
        assert draws.dropped.sum(axis=1).tolist() == [1 if value == 0 else 2] * 2


def test_dtypes_and_slices():
    recipe = Recipe((OPS["affine"], OPS["coarse_dropout"], OPS["gain_bias"]), 6, (20, 30))
    draws = recipe.draw(uniform(recipe, 7))
    shapes = {
        "origin": (2,),
        "rows": (2,),
        "matrix": (3, 3),
        "bilinear": (),
        "dropped": (6,),
        "boxes": (5, 4),
        "gain": (6,),
        "bias": (6,),
    }
    assert {name: getattr(draws, name).shape for name in shapes} == {
        name: (7, *shape) for name, shape in shapes.items()
    }
    kinds = {name: getattr(draws, name).dtype.str[1:] for name in shapes}
    assert kinds == {
        "origin": "i8",
        "rows": "i8",
        "matrix": "f8",
        "bilinear": "b1",
        "dropped": "b1",
        "boxes": "i8",
        "gain": "f4",
        "bias": "f4",
    }
    assert (
        len(draws[2:5]) == 3
        and np.array_equal(draws[2:5].matrix, draws.matrix[2:5])
        and draws[2:5].output == (20, 30)
    )
    again = recipe.draw(uniform(recipe, 7)[3:4])  # a sample's draws are its own
    assert all(np.array_equal(getattr(again, name), getattr(draws, name)[3:4]) for name in shapes)


def test_the_leading_crop_is_cut_and_others_are_not():
    crop, square = OPS["random_crop"], OPS["square_crop_resize"]
    flips = (OPS["horizontal_flip"], OPS["transpose"], OPS["rotate90"])
    for recipe, center, cut in [
        ((), None, 24),
        ((), 8, 8),
        ((crop,), None, 9),
        ((*flips, OPS["channel_dropout"], crop, square), 8, 9),
        ((square, crop), None, 24),
        (flips, 8, 8),
        ((OPS["affine"],), 8, 24),
    ]:
        made = Recipe(recipe, 6, (24, 24), center)
        assert made.input == (cut, cut)
        draws = made.draw(uniform(made, 50))
        assert (draws.origin.max() > 0) == (cut < 24) and draws.input == made.input


def test_origins_of_a_random_crop_are_even_whatever_flips_come_first():
    crop = a.RandomCrop(name="random_crop", size=20)
    recipe = Recipe((OPS["horizontal_flip"], OPS["rotate90"], crop), 1, (24, 22))
    draws = recipe.draw(uniform(recipe, 6000))
    counts = np.histogram2d(*draws.origin.T, bins=(np.arange(6), np.arange(4)))[0]
    assert counts.sum() == 6000 and stats.chisquare(counts.ravel()).pvalue > 1e-3
    assert len(np.unique(draws.matrix, axis=0)) == 8  # and all flips and turns of it occur


def test_rows_of_a_square_crop_are_the_square():
    recipe = Recipe((OPS["transpose"], OPS["square_crop_resize"]), 1, (40, 40))
    draws = recipe.draw(uniform(recipe, 300))
    down, across, swapped = draws.nearest
    rows = np.where(swapped[:, None], across, down)
    assert (
        np.array_equal(draws.rows, np.stack([rows.min(1), rows.max(1) + 1], 1))
        and (np.diff(draws.rows) < 40).any()
    )


def test_gain_and_bias_are_normal_and_compose():
    one = a.GainBias(name="gain_bias", p=1, gain=0.2, bias=0.3)
    recipe = Recipe((one,), 3, (4, 4))
    draws = recipe.draw(uniform(recipe, 2000))
    assert stats.kstest((draws.gain.ravel() - 1) / 0.2, "norm").pvalue > 1e-3
    assert stats.kstest(draws.bias.ravel() / 0.3, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(np.hstack([draws.gain, draws.bias]).T) - np.eye(6)).max() < 0.08
    u = uniform(recipe, 5), uniform(recipe, 5, 1)
    two = Recipe((one, one), 3, (4, 4)).draw(np.hstack(u))
    first, second = (recipe.draw(x) for x in u)
    np.testing.assert_allclose(
        two.gain * 2.5 + two.bias,
        (2.5 * first.gain + first.bias) * second.gain + second.bias,
        rtol=1e-5,
    )
    never = Recipe((one.model_copy(update={"p": 0.0}),), 3, (4, 4))
    still = never.draw(uniform(never, 50))
    assert (still.gain == 1).all() and (still.bias == 0).all()


def test_a_center_crop_moves_the_holes_with_it():
    holes = Recipe((OPS["coarse_dropout"],), 1, (30, 20))
    cropped = Recipe((OPS["coarse_dropout"],), 1, (30, 20), center_crop=11)
    u = uniform(holes, 40)
    for before, after in zip(holes.draw(u).boxes, cropped.draw(u).boxes, strict=True):
        masks = np.zeros((2, 30, 20), bool)
        for top, bottom, left, right in before:
            masks[0, top:bottom, left:right] = True
        for top, bottom, left, right in after:
            masks[1, top + 9 : bottom + 9, left + 4 : right + 4] = True
        assert (
            np.array_equal(masks[0, 9:20, 4:15], masks[1, 9:20, 4:15])
            and masks[1].sum() == masks[1, 9:20, 4:15].sum()
        )


@pytest.mark.parametrize(
    ("augmentation", "channels", "message"),
    [
        (
            a.ChannelDropout(name="channel_dropout", channels=3),
            3,
            "channel_dropout: channels 3 of 3",
        ),
        (a.CoarseDropout(name="coarse_dropout", size=(0.1, 1.0)), 3, "coarse_dropout: size"),
        (a.CoarseDropout(name="coarse_dropout", holes=(0, 1)), 3, "coarse_dropout:"),
        (a.Affine(name="affine", scale=(1.1, 0.9)), 3, "affine: scale .* descend"),
        (
            a.RandomResizedCrop(name="random_resized_crop", scale=(0.5, 1.5)),
            3,
            "random_resized_crop:",
        ),
        (a.Perspective(name="perspective", scale=(-0.1, 0.1)), 3, "perspective:"),
    ],
)
def test_what_transforms_refuse_is_refused(augmentation, channels, message):
    for build in (
        lambda: Transform((augmentation,), channels),
        lambda: Recipe((augmentation,), channels, (24, 24)),
    ):
        with pytest.raises(InputError, match=message) as raised:
            build()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("recipe", "shape", "center", "message"),
    [
        ((a.Affine(name="affine", scale=(0.0, 1.0)),), (24, 24), None, "affine: scale .* above 0"),
        (
            (OPS["random_crop"],),
            (24, 8),
            None,
            "random_crop: size 9 exceeds the image, 8x24 pixels",
        ),
        ((), (24, 8), 9, "center_crop: 9 exceeds the image, 8x24 pixels"),
        ((OPS["random_crop"],), (24, 24), 10, "center_crop: 10 exceeds the image, 9x9 pixels"),
        (
            (OPS["transpose"],),
            (24, 30),
            None,
            "transpose: images of 30x24 pixels come out as 30x24 and 24x30, and a batch needs one "
            "shape",
        ),
    ],
)
def test_impossible_recipes_are_named(recipe, shape, center, message):
    with pytest.raises(InputError, match=message):
        Recipe(recipe, 3, shape, center)


def test_shapes_that_come_together_again_are_fine():
    assert Recipe((OPS["transpose"], OPS["random_crop"]), 3, (24, 30)).output == (9, 9)
    assert Recipe((a.Transpose(name="transpose", p=1),), 3, (24, 30)).output == (30, 24)
    assert Recipe(
        (a.RandomResizedCrop(name="random_resized_crop", size=7),), 3, (24, 30)
    ).output == (7, 7)
    assert Recipe((OPS["square_crop_resize"],), 3, (24, 30)).output == (24, 24)
