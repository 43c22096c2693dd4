"""A clip of 16 frames of three stains: each frame must come out as it would alone, as an image of
three channels, from the same random numbers.
"""

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from arrays import Arrays
from scipy import ndimage

from cellsignal.common.errors import InputError
from cellsignal.config import augment as a
from cellsignal.data.dataset import loader
from cellsignal.data.draws import Draws, Recipe, needs_albumentations
from cellsignal.data.samplers import in_order
from cellsignal.data.transforms import Transform
from cellsignal.data.warp import warp
from cellsignal.data.warp_torch import warp_batch
from cellsignal.training.inference import Pixels, site_dataset

pytestmark = pytest.mark.slow

FRAMES, STAINS = 16, 3
STAIN, FRAME = np.divmod(np.arange(STAINS * FRAMES), FRAMES)
NEEDS = {"random_crop": {"size": 20}, "channel_dropout": {"channels": 2}}
ALL = {
    name: model.model_validate(
        {"name": name} | NEEDS.get(name, {}) | ({"p": 0.8} if "p" in model.model_fields else {})
    )
    for model in a.Augmentation.__args__[0].__args__
    for name in model.model_fields["name"].annotation.__args__
    if name != "albumentations"
}
TOGETHER = {name: step for name, step in ALL.items() if name != "frame_blur"}
IN_ONE_WARP = tuple(
    ALL[name]
    for name in (
        "horizontal_flip",
        "rotate90",
        "affine",
        "gain_bias",
        "coarse_dropout",
        "channel_dropout",
    )
)
RECIPES = {name: (step,) for name, step in TOGETHER.items()} | {"all of a warp": IN_ONE_WARP}
WARPED = {name: steps for name, steps in RECIPES.items() if needs_albumentations(steps) is None}


def clip(size: int = 32) -> np.ndarray:
    """(48, size, size) uint8, smooth, all planes different and none black anywhere."""
    planes = ndimage.gaussian_filter(
        np.random.default_rng(1).normal(size=(STAINS * FRAMES, size, size)), (0, 2, 2)
    )
    return (20 + 215 * (planes - planes.min()) / np.ptp(planes)).astype(np.uint8)


def transformed(transform: Transform, planes: np.ndarray, seed: int) -> np.ndarray:
    """(C, h, w) float32 of all that a transform does."""
    rng = np.random.default_rng(seed)
    image = transform.image(planes.transpose(1, 2, 0), rng).transpose(2, 0, 1)
    return transform.signal(image.astype(np.float32) / 50, rng)


def warped(planes: np.ndarray, draws: Draws, i: int, device: bool) -> np.ndarray:
    """(C, h, w) float32 of sample i, by `data.warp` or `data.warp_torch`."""
    shift, scale = np.full(len(planes), 100, np.float32), np.full(len(planes), 50, np.float32)
    (top, left), (height, width) = draws.origin[i], draws.input
    part = planes[:, top : top + height, left : left + width]
    if device:
        images, shifts, scales = (
            torch.from_numpy(np.ascontiguousarray(x)[None]) for x in (part, shift, scale)
        )
        return warp_batch(images, draws[i : i + 1], shifts, scales)[0].numpy()
    out = np.empty((len(planes), *draws.output), np.float32)
    warp(part, draws, i, shift, scale, out)
    return out


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_transform_treats_each_frame_as_the_image_it_is(recipe):
    planes = clip()
    whole, still = Transform(RECIPES[recipe], 48, STAIN, FRAME), Transform(RECIPES[recipe], 3)
    for seed in range(4):
        out = transformed(whole, planes, seed)
        for t in range(FRAMES):
            assert np.array_equal(out[t::FRAMES], transformed(still, planes[t::FRAMES], seed)), (
                seed,
                t,
            )


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("recipe", WARPED)
def test_a_warp_treats_each_frame_as_the_image_it_is(recipe, device):
    planes = clip()
    whole = Recipe(WARPED[recipe], 48, (32, 32), stain=STAIN)
    still = Recipe(WARPED[recipe], 3, (32, 32))
    assert whole.numbers == still.numbers
    u = np.random.default_rng(0).random((4, whole.numbers))
    draws, alone = whole.draw(u), still.draw(u)
    for i in range(4):
        out = warped(planes, draws, i, device)
        for t in range(FRAMES):
            expected = warped(planes[t::FRAMES], alone, i, device)
            np.testing.assert_allclose(out[t::FRAMES], expected, rtol=0, atol=1e-4 if device else 0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_equal_frames_stay_equal(recipe):
    planes = np.repeat(clip()[::FRAMES], FRAMES, axis=0)
    outs = [
        transformed(Transform(RECIPES[recipe], 48, STAIN, FRAME), planes, seed) for seed in range(8)
    ]
    if recipe in WARPED:
        made = Recipe(WARPED[recipe], 48, (32, 32), stain=STAIN)
        draws = made.draw(np.random.default_rng(0).random((8, made.numbers)))
        outs += [warped(planes, draws, i, device) for device in (False, True) for i in range(8)]
    for out in outs:
        by_stain = out.reshape(STAINS, FRAMES, *out.shape[1:])
        assert (by_stain == by_stain[:, :1]).all()


def test_lighting_and_dropping_are_of_whole_stains_that_differ():
    lit = a.GainBias(name="gain_bias", gain=0.2)
    drop = a.ChannelDropout(name="channel_dropout", p=1, channels=2)
    made = Recipe((lit, drop), 48, (8, 8), stain=STAIN)
    draws = made.draw(np.random.default_rng(0).random((300, made.numbers)))
    for name in ("gain", "bias", "dropped"):
        values = getattr(draws, name).reshape(300, STAINS, FRAMES)
        assert (values == values[:, :, :1]).all(), name
    assert (
        set(draws.dropped.sum(1)) == {FRAMES, 2 * FRAMES}
        and len(np.unique(draws.dropped, axis=0)) == 6
    )
    assert abs(np.corrcoef(draws.gain[:, ::FRAMES].T)[np.triu_indices(STAINS, 1)]).max() < 0.2
    transform, dropped = Transform((drop,), 48, STAIN, FRAME), set()
    for seed in range(60):
        black = (
            transform.image(clip(8).transpose(1, 2, 0), np.random.default_rng(seed)) == 0
        ).reshape(64, STAINS, FRAMES)
        assert (black.all((0, 2)) == black.any((0, 2))).all()
        dropped.add(tuple(black.all((0, 2))))
    assert len(dropped) == 6


def test_channels_to_drop_are_counted_in_stains():
    two, three = (a.ChannelDropout(name="channel_dropout", channels=n) for n in (2, 3))
    for build in (
        lambda step: Transform((step,), 48, STAIN, FRAME),
        lambda step: Recipe((step,), 48, (8, 8), stain=STAIN),
    ):
        build(two)
        with pytest.raises(InputError, match="channel_dropout: channels 3 of 3 leaves none"):
            build(three)


def test_without_stains_every_channel_is_its_own_whatever_its_number():
    u = np.random.default_rng(0).random((5, 1 + 6 + 2 + 3))
    steps = (ALL["gain_bias"], ALL["channel_dropout"])
    plain, numbered = (Recipe(steps, 3, (8, 8), stain=stain).draw(u) for stain in (None, [7, 2, 5]))
    for name in ("gain", "bias", "dropped"):
        assert np.array_equal(getattr(plain, name), getattr(numbered, name))
    one, other = Transform(steps, 3), Transform(steps, 3, [7, 2, 5], [4, 4, 4])
    assert np.array_equal(transformed(one, clip()[:3], 0), transformed(other, clip()[:3], 0))


def changed_frames(transform: Transform, image: np.ndarray, seed: int) -> np.ndarray:
    """(16, 3) bool: which frames of which stains a transform changed."""
    differs = (transform.image(image, np.random.default_rng(seed)) != image).any((0, 1))
    return differs.reshape(STAINS, FRAMES).T


def test_frame_blur_takes_whole_frames_each_with_its_probability():
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 48), dtype=np.uint8)
    before = image.copy()
    blur = a.FrameBlur(name="frame_blur", p=0.2, sigma=(1, 2))
    transform = Transform((blur,), 48, STAIN, FRAME)
    outs = np.stack([changed_frames(transform, image, seed) for seed in range(250)])
    assert (outs == outs[:, :, :1]).all()  # all stains of a frame or none
    fired = outs[:, :, 0]
    assert fired.mean() == pytest.approx(0.2, abs=0.03)
    # one by one, not a clip at a time
    assert fired.sum(1).var() == pytest.approx(FRAMES * 0.2 * 0.8, rel=0.35)
    assert fired.mean(0).min() > 0.1
    assert np.array_equal(image, before)
    never = Transform((blur.model_copy(update={"p": 0.0}),), 48, STAIN, FRAME)
    assert not changed_frames(never, image, 0).any()


def test_frame_blur_is_a_gaussian_of_a_sigma_for_each_frame():
    image = clip().transpose(1, 2, 0)
    sharp = Transform((a.FrameBlur(name="frame_blur", p=1, sigma=(1.5, 1.5)),), 48, STAIN, FRAME)
    out = sharp.image(image, np.random.default_rng(0))
    expected = ndimage.gaussian_filter(image.astype(float), (1.5, 1.5, 0), mode="mirror")
    assert abs(out - expected).max() < 2 < abs(out - image.astype(float)).max()
    same = np.repeat(image[:, :, ::FRAMES], FRAMES, axis=2)
    varied = Transform((a.FrameBlur(name="frame_blur", p=1, sigma=(0.5, 3.0)),), 48, STAIN, FRAME)
    out = varied.image(same, np.random.default_rng(0)).reshape(32, 32, STAINS, FRAMES)
    spread = out.std((0, 1))  # the more blurred the flatter
    assert len(np.unique(spread[0])) > FRAMES / 2
    # one sigma for all stains of a frame
    assert np.array_equal(*(np.argsort(spread[stain], kind="stable") for stain in (0, 2)))


def test_frame_blur_of_an_image_that_is_no_clip_is_blur():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 6), dtype=np.uint8)
    transform = Transform((a.FrameBlur(name="frame_blur", p=0.3),), 6)
    changed = np.array(
        [
            (transform.image(image, np.random.default_rng(s)) != image).any((0, 1))
            for s in range(400)
        ]
    )
    assert (changed == changed[:, :1]).all() and changed.mean() == pytest.approx(0.3, abs=0.07)
    assert needs_albumentations(transform.augmentations) == "frame_blur is only there"


def test_the_planes_are_known_in_a_worker_process():
    steps = (*TOGETHER.values(), a.FrameBlur(name="frame_blur", p=0.5))
    transform = Transform(steps, 48, STAIN, FRAME)
    sent = pickle.loads(pickle.dumps(transform))
    assert np.array_equal(transformed(sent, clip(), 3), transformed(transform, clip(), 3))


def fake_job(pipeline: str, frames: int, planes: list[int] | None = None) -> SimpleNamespace:
    """What `site_dataset` asks of a job: five clips of 48 planes (or images of 48 channels), of
    which some may be chosen.
    """
    data = SimpleNamespace(pipeline=pipeline, channels=planes, cache_gib=1.0, device_gib=0.0)
    store = Arrays(np.random.default_rng(0).integers(1, 256, (5, 48, 16, 16), dtype=np.uint8))
    store.samples = pd.DataFrame({"row": np.arange(5)})
    return SimpleNamespace(
        config=SimpleNamespace(data=data),
        store=store,
        competition=SimpleNamespace(frames=frames),
        channels=np.arange(48) if planes is None else np.array(planes) - 1,
        stage=SimpleNamespace(name="train"),
    )


def gains(job: SimpleNamespace, steps: tuple) -> np.ndarray:
    """(5, C): how much brighter each plane of a job's five images became, by what is drawn or by
    what comes out.
    """
    count = len(job.channels)
    nothing, one = np.zeros((5, 48), np.float32), np.ones((5, 48), np.float32)
    dataset = site_dataset(
        job, np.arange(5), Pixels(nothing, one, (nothing[0], one[0])), steps, seed=1
    )
    if isinstance(dataset.augmentation, Recipe):
        return dataset.draws(0, np.arange(5)).gain
    batches = list(loader(dataset, in_order(5, 2), workers=1))
    before = torch.from_numpy(job.store.images[:, job.channels].astype(np.float32))
    return (
        (torch.cat([batch["image"] for batch in batches]) / before)
        .reshape(5, count, -1)
        .median(2)
        .values.numpy()
    )


@pytest.mark.parametrize("pipeline", ["warp", "albumentations"])
def test_jobs_tell_their_augmentation_which_planes_they_see(pipeline):
    lit = (a.GainBias(name="gain_bias", gain=0.2, bias=0),)
    for planes, stains in (
        (None, STAIN),
        ([8, 24, 40], [0, 1, 2]),
        ([40, 1, 2, 17, 33], [0, 1, 1, 2, 0]),
    ):
        seen = gains(fake_job(pipeline, FRAMES, planes), lit).round(4)
        for row in seen:
            assert (
                len(set(row)) == 3
                and pd.Series(row).groupby(np.array(stains)).nunique().eq(1).all()
            )
    assert all(len(set(row)) > 40 for row in gains(fake_job(pipeline, 1), lit).round(5))
