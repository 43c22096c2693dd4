"""Any transform of albumentations by its name: checked when the config is read and before training,
and applied as albumentations applies it.
"""

import random

import albumentations
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from cellsignal.common.errors import InputError
from cellsignal.config import augment
from cellsignal.data import transforms
from cellsignal.data.augmentation import check, output_shape, stain_codes, try_albumentations
from cellsignal.data.draws import needs_albumentations
from cellsignal.data.transforms import Transform, on_bytes, through_albumentations

AUGMENT = TypeAdapter(tuple[augment.Augmentation, ...])


def read(*trees) -> tuple:
    return AUGMENT.validate_python(trees)


def noise(height=24, width=20, channels=6) -> np.ndarray:
    shape = (height, width, channels)
    return np.random.default_rng(0).integers(60, 180, shape, dtype=np.uint8)


def test_the_short_form_is_read_and_its_dump_is_read_again():
    steps = read({"albumentations": "GaussNoise", "std_range": [0.1, 0.2], "p": 0.25})
    assert (steps[0].transform, steps[0].p) == ("GaussNoise", 0.25)
    assert steps[0].parameters == {"std_range": [0.1, 0.2]}
    assert AUGMENT.validate_python(AUGMENT.dump_python(steps, mode="json")) == steps


@pytest.mark.parametrize("name", ["GaussNoise", "RandomCrop", "D4"])
def test_without_p_it_has_the_transforms_own(name):
    more = {"height": 8, "width": 8} if name == "RandomCrop" else {}
    expected = getattr(albumentations, name)(**more).p
    assert read({"albumentations": name, **more})[0].p == expected


@pytest.mark.parametrize(
    "tree, message",
    [
        (
            {"albumentations": "GausNoise"},
            r"no transform 'GausNoise' \(did you mean 'GaussNoise'\?",
        ),
        ({"albumentations": "Lambda"}, "no transform 'Lambda'"),
        ({"albumentations": "Compose"}, "no transform 'Compose'"),
        ({"albumentations": 3}, "no transform 3"),
        (
            {"albumentations": "GaussNoise", "std_rang": [0.1, 0.2]},
            r"GaussNoise has no parameter 'std_rang' \(did you mean 'std_range'\?",
        ),
        ({"albumentations": "GaussNoise", "std_range": [0.1, 2]}, "GaussNoise: std_range: All"),
        ({"albumentations": "GaussNoise", "std_range": "a"}, "GaussNoise: std_range: Input should"),
        ({"albumentations": "RandomCrop"}, "RandomCrop: height: Field required"),
        ({"albumentations": "GaussNoise", "p": 2}, "less than or equal to 1"),
    ],
)
def test_a_wrong_name_or_parameter_is_one_mistake_that_names_it(tree, message):
    with pytest.raises(ValidationError, match=message) as error:
        read(tree)
    assert error.value.error_count() == 1 and "\n" not in error.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    "tree",
    [
        {"albumentations": "GaussNoise"},
        {"albumentations": "RandomGamma"},
        {"albumentations": "MotionBlur"},
        {"albumentations": "ElasticTransform"},
        {"albumentations": "PixelDropout"},
        {"albumentations": "ChannelShuffle"},
        {"albumentations": "RandomBrightnessContrast"},
        {"albumentations": "AutoContrast"},
        {"albumentations": "ChannelDropout"},
    ],
)
def test_six_channels_are_all_changed(tree):
    (step,) = read(tree)
    assert try_albumentations(step, (24, 20), 6) == {(24, 20)}


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"albumentations": "HueSaturationValue"}, "of 6 channels and 20x24 pixels"),
        ({"albumentations": "RandomSnow"}, "cannot take images of 6 channels"),
        ({"albumentations": "ToFloat"}, "makes float32 .* of uint8 images"),
        ({"albumentations": "Normalize"}, "cannot take images of 6|makes float32"),
        ({"albumentations": "ToGray"}, "of 6 channels"),
        ({"albumentations": "NoOp"}, "changes nothing in images of 6 channels"),
        ({"albumentations": "RandomCrop", "height": 99, "width": 99}, "cannot take images"),
        ({"albumentations": "HistogramMatching"}, "HistogramMatching"),
    ],
)
def test_what_cannot_take_six_channels_is_refused_in_one_line(tree, message):
    with pytest.raises((InputError, ValidationError), match=message) as error:
        Transform(read(tree), 6, shape=(24, 20))
    if isinstance(error.value, InputError):
        assert "\n" not in str(error.value) and str(error.value).startswith("albumentations: ")


def test_a_transform_that_leaves_channels_as_they_are_is_refused(monkeypatch):
    class First(albumentations.ImageOnlyTransform):
        def apply(self, image, **parameters):
            image = image.copy()
            image[:, :, :3] //= 2
            return image

    monkeypatch.setattr(albumentations, "First", First, raising=False)
    with pytest.raises(InputError, match="leaves channels 4, 5, 6 of 6 as they are"):
        try_albumentations(read({"albumentations": "First"})[0], (8, 8), 6)


def test_it_is_applied_as_albumentations_applies_it():
    step = {"albumentations": "GaussNoise", "std_range": [0.1, 0.2], "p": 1}
    image = noise()
    found = Transform(read(step), 6).image(image, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    python = random.Random(int(rng.integers(2**63)))
    oracle = albumentations.GaussNoise(std_range=(0.1, 0.2), p=1)
    oracle.set_random_state(rng, python)
    assert np.array_equal(found, oracle(image=image)["image"]) and (found != image).any()


def test_its_output_shape_is_seen_before_training():
    crop = {"albumentations": "RandomCrop", "height": 9, "width": 7}
    assert output_shape(read(crop), (24, 20), 6) == (9, 7)
    assert Transform(read(crop, {"name": "blur"}), 6, shape=(24, 20)).output == (9, 7)
    with pytest.raises(
        InputError, match=r"albumentations: RandomCrop: .* come out as 7x9 and 20x24"
    ):
        output_shape(read(crop | {"p": 0.5}), (24, 20), 6)


EDGES = [  # name, key, what is accepted at the edge, what is refused beyond it
    ("channel_dropout", "channels", [1, 2], [3, 4]),
    ("coarse_dropout", "size", [(0.0, 0.5), (0.5, 0.99)], [(-0.1, 0.5), (0.5, 1.0)]),
    ("coarse_dropout", "holes", [(1, 1), (1, 2)], [(0, 1), (2, 1)]),
    ("affine", "scale", [(0.01, 1.0), (1.0, 1.0)], [(0.0, 1.0), (1.0, 0.9)]),
    ("random_resized_crop", "scale", [(0.0, 1.0)], [(-0.1, 1.0), (0.0, 1.1)]),
    ("random_resized_crop", "ratio", [(0.1, 0.1)], [(0.0, 1.0)]),
    ("perspective", "scale", [(0.0, 0.1)], [(-0.1, 0.1)]),
]


@pytest.mark.parametrize(("name", "key", "accepted", "refused"), EDGES)
def test_parameters_are_refused_beyond_their_edges(name, key, accepted, refused):
    for value in accepted:
        check(read({"name": name, key: value})[0], 3)
    for value in refused:
        with pytest.raises(InputError, match=f"{name}: {key}"):
            check(read({"name": name, key: value})[0], 3)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("transpose", {"p": 0.0})], (24, 20)),
        ([("transpose", {"p": 1.0})], (20, 24)),
        ([("transpose", {"p": 0.5}), ("random_crop", {"size": 20})], (20, 20)),
        ([("rotate90", {}), ("square_crop_resize", {})], (20, 20)),
        ([("random_resized_crop", {"size": 9})], (9, 9)),
        ([("random_resized_crop", {}), ("affine", {})], (24, 20)),
    ],
)
def test_shapes_follow_the_steps(steps, expected):
    steps = read(*({"name": name, **more} for name, more in steps))
    assert output_shape(steps, (24, 20), 3) == expected
    assert output_shape(steps, (24, 20), 3, center_crop=min(expected)) == (min(expected),) * 2
    with pytest.raises(InputError, match=r"center_crop: .* exceeds the image"):
        output_shape(steps, (24, 20), 3, center_crop=min(expected) + 1)


def test_shapes_that_no_batch_can_hold_are_named_by_what_makes_them():
    with pytest.raises(
        InputError, match=r"^transpose: images of 20x24 pixels come out as 24x20 and"
    ):
        output_shape(read({"name": "affine"}, {"name": "transpose"}), (24, 20), 3)
    with pytest.raises(InputError, match="random_crop: size 21 exceeds the image, 20x24 pixels"):
        output_shape(read({"name": "random_crop", "size": 21}), (24, 20), 3)


def test_planes_of_a_stain_have_one_number():
    assert stain_codes(3, None).tolist() == [0, 1, 2]
    assert stain_codes(5, [7, 2, 7, 7, 4]).tolist() == [0, 1, 0, 0, 2]
    with pytest.raises(AssertionError):
        stain_codes(3, [0, 1])


def test_it_takes_the_path_of_albumentations():
    steps = read({"name": "rotate90"}, {"albumentations": "GaussNoise"})
    assert needs_albumentations(steps) == "albumentations: GaussNoise is only there"


@pytest.mark.parametrize("way", ["through albumentations", "on bytes"])
def test_an_augmentation_of_ones_own_is_a_class_and_a_function(monkeypatch, way):
    monkeypatch.setattr(transforms, "ALBUMENTATIONS", dict(transforms.ALBUMENTATIONS))
    monkeypatch.setattr(transforms, "BYTES", dict(transforms.BYTES))

    class Invert(augment.Augment):
        name: str = "invert"

    if way == "on bytes":

        @on_bytes(Invert)
        def invert(a, planes):
            return lambda image, rng, python: 255 - image
    else:

        @through_albumentations(Invert)
        def invert(a, shape):
            return albumentations.InvertImg(p=1)

    image = noise()
    assert needs_albumentations((Invert(),)) == "invert is only there"
    found = Transform((Invert(),), 6).image(image, np.random.default_rng(0))
    assert np.array_equal(found, 255 - image)
