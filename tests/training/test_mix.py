import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsignal.config.augment import Mix
from cellsignal.training.mix import cutmix_box, mix_batch

CUTMIX, MIXUP = Mix(cutmix=1.0), Mix(mixup=0.4)


def constant_batch(
    n: int, height: int, width: int, channels: int = 2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is i everywhere and its label is class i, so pixels tell whose they are."""
    images = (
        torch.arange(n, dtype=torch.float32)[:, None, None, None]
        .expand(n, channels, height, width)
        .contiguous()
    )
    return images, torch.eye(n)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 6),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    alpha=st.floats(0.05, 5),
    seed=st.integers(0, 2**31),
)
def test_cutmix_label_share_is_the_counted_share_of_pixels(n, height, width, alpha, seed):
    images, targets = constant_batch(n, height, width)
    mixed, labels, (copy,), was_mixed = mix_batch(
        images, targets, Mix(cutmix=alpha), seeded(seed), targets[:, :2]
    )
    for image, label in zip(mixed, labels, strict=True):
        counted = np.bincount(image[0].long().flatten(), minlength=n) / (height * width)
        np.testing.assert_allclose(label.numpy(), counted, atol=1e-6)
        assert torch.equal(image[0], image[1])  # one box for all channels
    assert was_mixed and torch.equal(copy, labels[:, :2])  # what goes along has the same share


def test_cutmix_pastes_one_rectangle_at_its_own_place():
    height, width = 12, 17
    position = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    images = position + 1000 * torch.arange(5.0).view(5, 1, 1, 1)
    boxes = 0
    for seed in range(20):
        mixed = mix_batch(images, torch.eye(5), CUTMIX, seeded(seed)).images
        assert torch.equal(mixed % 1000, images % 1000)  # every pixel stays where it was
        foreign = (mixed // 1000 != images // 1000)[:, 0]
        for mask in foreign[foreign.flatten(1).any(1)]:
            rows, columns = torch.where(mask)
            assert mask.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert torch.equal(mask, foreign.any(0))  # the same box in every image
            boxes += 1
    assert boxes > 20


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 6), alpha=st.floats(0.05, 5), seed=st.integers(0, 2**31))
def test_mixup_blends_images_and_labels_by_the_same_share(n, alpha, seed):
    images, targets = constant_batch(n, 3, 4)
    mixed, labels, others, was_mixed = mix_batch(images, targets, Mix(mixup=alpha), seeded(seed))
    assert others == () and was_mixed
    expected = labels @ torch.arange(n, dtype=torch.float32)  # class i is image value i
    assert torch.allclose(mixed, expected[:, None, None, None].expand_as(mixed), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    k=st.integers(2, 30),
    mixup=st.sampled_from([0.0, 0.2, 1.0]),
    p=st.sampled_from([0.5, 1.0]),
)
def test_soft_labels_keep_summing_to_one_and_inputs_stay(seed, k, mixup, p):
    images = torch.randn(4, 3, 8, 8, generator=seeded(seed))
    targets = torch.softmax(torch.randn(4, k, generator=seeded(seed + 1)), 1)
    before = images.clone(), targets.clone()
    mixed, labels, _, was_mixed = mix_batch(
        images, targets, Mix(mixup=mixup, cutmix=1.0, p=p), seeded(seed)
    )
    assert was_mixed or (mixed is images and labels is targets)
    assert torch.allclose(labels.sum(1), torch.ones(4), atol=1e-5)
    assert (labels >= 0).all()
    assert (
        mixed.shape == images.shape
        and mixed.dtype == images.dtype
        and labels.dtype == targets.dtype
    )
    assert torch.equal(images, before[0]) and torch.equal(targets, before[1])


@pytest.mark.parametrize("mix", [CUTMIX, MIXUP, Mix(mixup=1.0, cutmix=1.0)])
def test_only_the_generator_decides(mix):
    images, targets = torch.randn(6, 3, 10, 10), torch.eye(6)
    torch.manual_seed(1)
    np.random.seed(1)
    first = mix_batch(images, targets, mix, seeded(7))
    torch.manual_seed(2)
    np.random.seed(2)
    state = torch.get_rng_state()
    again = mix_batch(images, targets, mix, seeded(7))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert torch.equal(state, torch.get_rng_state())
    assert (
        len(
            {
                mix_batch(images, targets, mix, seeded(seed)).targets.numpy().tobytes()
                for seed in range(10)
            }
        )
        > 5
    )


def test_a_restored_generator_continues_the_same_sequence():
    images, targets = constant_batch(5, 9, 9)
    mix = Mix(mixup=0.4, cutmix=1.0, p=0.7)
    generator = seeded(3)
    for _ in range(4):
        mix_batch(images, targets, mix, generator)
    state = generator.get_state()
    ahead = [mix_batch(images, targets, mix, generator).targets for _ in range(5)]
    restored = torch.Generator()
    restored.set_state(state)
    assert all(torch.equal(a, mix_batch(images, targets, mix, restored).targets) for a in ahead)


def test_probability_and_the_two_kinds():
    images, targets = constant_batch(8, 16, 16)
    generator, kinds = seeded(0), []
    for _ in range(1500):
        mixed, _, _, was_mixed = mix_batch(
            images, targets, Mix(mixup=1.0, cutmix=1.0, p=0.6), generator
        )
        whole = (mixed == mixed.round()).all()
        kinds.append("cutmix" if whole and was_mixed else "mixup" if was_mixed else "none")
    share = {kind: kinds.count(kind) / len(kinds) for kind in ("none", "cutmix", "mixup")}
    assert share["none"] == pytest.approx(0.4, abs=0.05)
    assert share["cutmix"] == pytest.approx(0.3, abs=0.05)
    assert share["mixup"] == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_has_the_beta_distributions_mean_and_variance(alpha):
    images, targets = constant_batch(2, 1, 1)
    generator, factors = seeded(5), []
    while len(factors) < 1500:
        labels = mix_batch(images, targets, Mix(mixup=alpha), generator).targets
        if labels[0, 0] != 1:  # the shuffle left the order: no factor to see
            factors.append(float(labels[0, 0]))
    assert np.mean(factors) == pytest.approx(0.5, abs=0.04)
    assert np.var(factors) == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.015)


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    own=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_box_lies_in_the_image_and_is_no_larger_than_asked(height, width, own, seed):
    top, bottom, left, right = cutmix_box(height, width, own, np.random.default_rng(seed))
    assert 0 <= top <= bottom <= height and 0 <= left <= right <= width
    assert (
        bottom - top <= height * np.sqrt(1 - own) + 0.5
        and right - left <= width * np.sqrt(1 - own) + 0.5
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    labelled=st.lists(st.booleans(), min_size=1, max_size=6),
    mix=st.sampled_from([CUTMIX, MIXUP]),
)
def test_label_mass_is_the_share_of_labelled_pixels(seed, labelled, mix):
    """Unlabelled rows are zeros; the image is 1 where its pixel is a labelled one's."""
    known = torch.tensor(labelled, dtype=torch.float32)
    images = known[:, None, None, None].expand(-1, 1, 7, 9).contiguous()
    mixed = mix_batch(images, torch.eye(len(known)) * known[:, None], mix, seeded(seed))
    assert torch.allclose(mixed.targets.sum(1), mixed.images.mean((1, 2, 3)), atol=1e-6)


def test_cell_types_of_any_width_are_mixed_as_the_labels():
    images, targets = constant_batch(5, 11, 13)
    cell_type = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]
    for seed in range(10):
        mixed = mix_batch(
            images, targets, Mix(mixup=1.0, cutmix=1.0), seeded(seed), cell_type, targets.double()
        )
        assert torch.allclose(mixed.others[0], mixed.targets @ cell_type, atol=1e-6)
        assert (
            torch.allclose(mixed.others[1].float(), mixed.targets)
            and mixed.others[1].dtype == torch.float64
        )


def test_uint8_images_are_refused():
    with pytest.raises(AssertionError):
        mix_batch(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.eye(2), CUTMIX, seeded(0))
