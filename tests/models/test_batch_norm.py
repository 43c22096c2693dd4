"""BatchNorm statistics against brute force: every layer's inputs are kept, put end to end, and
counted by numpy.
"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from cellsignal.common.errors import InputError
from cellsignal.models.batch_norm import (
    measure_offsets,
    recompute_statistics,
    unit_statistics,
)
from cellsignal.models.torchvision_cpu import import_timm


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class WithNeck(nn.Module):
    """A timm backbone (BatchNormAct2d inside), then a neck with a 1-d BatchNorm that also sees a
    vector; dropout before it.
    """

    def __init__(self, name: str):
        super().__init__()
        self.backbone = import_timm().create_model(name, num_classes=0, in_chans=3)
        self.dropout = nn.Dropout(0.5)
        self.neck = nn.Sequential(
            nn.BatchNorm1d(self.backbone.num_features + 2),
            nn.Linear(self.backbone.num_features + 2, 4),
        )

    def forward(self, x, vector):
        return self.neck(torch.cat([self.dropout(self.backbone(x)), vector], 1))


def network(name: str = "resnet10t") -> WithNeck:
    """With running statistics that fit no image."""
    torch.manual_seed(0)
    model = WithNeck(name)
    for layer in layers_of(model).values():
        nn.init.uniform_(layer.running_mean, -1, 1)
        nn.init.uniform_(layer.running_var, 0.5, 2)
        layer.num_batches_tracked.fill_(7)
        nn.init.uniform_(layer.weight, 0.5, 1.5)
    return model.train()


def images(*sizes: int, side: int = 64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches, each brighter than the one before."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 3, side, side, generator=generator) * (k + 1) + k,
            torch.randn(n, 2, generator=generator),
        )
        for k, n in enumerate(sizes)
    ]


def layers_of(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}


def state_of(model: nn.Module) -> tuple[dict[str, torch.Tensor], list[bool]]:
    return {name: value.clone() for name, value in model.state_dict().items()}, [
        m.training for m in model.modules()
    ]


def assert_untouched(model: nn.Module, before) -> None:
    values, flags = state_of(model)
    assert flags == before[1] and values.keys() == before[0].keys()
    assert all(torch.equal(values[name], before[0][name]) for name in values)
    assert not any(m._forward_pre_hooks for m in model.modules())


def statistics(model: nn.Module) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: (
            layer.running_mean.double().numpy().copy(),
            layer.running_var.double().numpy().copy(),
        )
        for name, layer in layers_of(model).items()
    }


def brute_force(model: nn.Module, batches, ddof: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance by numpy of all inputs of each layer, in a copy whose BatchNorm is in
    training mode and whose dropout is not.
    """
    model, seen = copy.deepcopy(model).eval(), {}
    for name, layer in layers_of(model).items():
        layer.train()

        def keep(_, inputs, name=name):
            x = inputs[0].double().numpy()
            seen.setdefault(name, []).append(np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]))

        layer.register_forward_pre_hook(keep)
    with torch.no_grad():
        for batch in batches:
            model(*batch)
    joined = {name: np.concatenate(parts) for name, parts in seen.items()}
    return {name: (x.mean(0), x.var(0, ddof=ddof)) for name, x in joined.items()}


def assert_close(found, expected, tolerance=1e-4):
    assert found.keys() == expected.keys() and len(found) > 10
    for name in expected:
        for a, b in zip(found[name], expected[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", ["resnet10t", "densenet121"])
def test_one_batch_is_a_forward_in_training_mode(name):
    """A whole plate at once: AdaBN is BatchNorm by batch."""
    model, plate = network(name), images(10)
    by_batch = copy.deepcopy(model).train()
    by_batch.dropout.eval()
    before = state_of(model)
    with torch.no_grad():
        expected, plain = by_batch(*plate[0]), copy.deepcopy(model).eval()(*plate[0])
        with unit_statistics(model, plate):
            assert not any(module.training for module in model.modules())
            found = model(*plate[0])
            halves = [model(*(x[half] for x in plate[0])) for half in (slice(0, 5), slice(5, 10))]
    assert torch.allclose(found, expected, atol=2e-4) and not torch.allclose(
        plain, expected, atol=0.1
    )
    assert torch.allclose(
        torch.cat(halves), expected, atol=2e-4
    )  # statistics do not hang on what is predicted together
    assert_untouched(model, before)


@pytest.mark.parametrize("sizes", [(9,), (3, 7, 4), (4, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_statistics_are_those_of_all_images(sizes, channels_last):
    model, batches = network(), images(*sizes)
    if channels_last:
        model.to(memory_format=torch.channels_last)
        batches = [
            (x.contiguous(memory_format=torch.channels_last), vector) for x, vector in batches
        ]
    with unit_statistics(model, iter(batches)):
        assert_close(statistics(model), brute_force(model, batches, ddof=0))
    before = state_of(model)
    recompute_statistics(model, iter(batches))
    assert_close(statistics(model), brute_force(model, batches, ddof=1))
    after = state_of(model)
    assert after[1] == before[1]
    changed = {name for name in after[0] if not torch.equal(after[0][name], before[0][name])}
    assert changed == {
        f"{name}.{kind}" for name in layers_of(model) for kind in ("running_mean", "running_var")
    }


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=6),
    offset=st.sampled_from([0.0, 1.0, 1000.0]),
    seed=st.integers(0, 99),
)
def test_pooling_is_exact_far_from_zero(sizes, offset, seed):
    """Mean of squares minus square of the mean, in single precision, would lose all digits at 1000."""
    generator = torch.Generator().manual_seed(seed)
    batches = [
        (torch.randn(n, 2, 3, generator=generator) + offset + k,) for k, n in enumerate(sizes)
    ]
    layer = nn.BatchNorm1d(2)
    recompute_statistics(layer, batches)
    x = torch.cat([batch for (batch,) in batches]).double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(layer.running_mean.numpy(), x.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), x.var(1, ddof=1), rtol=1e-3)


def test_many_batches_lose_no_digits():
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 2, 3, generator=generator) + 1000,) for _ in range(400)]
    layer = nn.BatchNorm1d(2)
    recompute_statistics(layer, batches)
    x = torch.cat([batch for (batch,) in batches]).double().transpose(0, 1).flatten(1).numpy()
    # the last digit of 1000
    np.testing.assert_allclose(layer.running_mean.numpy(), x.mean(1), rtol=0, atol=6e-5)


def test_torchs_update_bn_leaves_out_what_lies_between_batches():
    """On equal batches the means agree; its variance is the mean of the batches' own, ours has the
    spread of their means too.
    """
    ours, batches = network().backbone, [(x,) for x, _ in images(4, 4, 4)]
    theirs, stem = copy.deepcopy(ours), next(iter(layers_of(ours)))
    means = np.stack([brute_force(ours, [batch], ddof=0)[stem][0] for batch in batches])
    recompute_statistics(ours, batches)
    update_bn(batches, theirs)
    ours, theirs = statistics(ours), statistics(theirs)
    for name in ours:
        np.testing.assert_allclose(
            ours[name][0], theirs[name][0], rtol=1e-3, atol=1e-4, err_msg=name
        )
    between = ours[stem][1] - theirs[stem][1]
    np.testing.assert_allclose(
        between, means.var(0), rtol=0.02, atol=0.01 * float(ours[stem][1].max())
    )
    assert (between > 0.01 * ours[stem][1]).any()


def test_an_averaged_model_gets_the_statistics_of_its_own_activations():
    model, batches = network(), images(5, 5)
    ema = import_timm().utils.ModelEmaV3(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    ema.update(model)
    averaged = brute_force(ema.module, batches, ddof=1)
    stale = statistics(ema.module)
    recompute_statistics(ema.module, batches)
    assert_close(statistics(ema.module), averaged)
    assert max(np.abs(stale[name][0] - averaged[name][0]).max() for name in averaged) > 0.1
    assert not ema.module.training and model.training


@pytest.mark.parametrize("what", ["body", "data", "forward"])
def test_everything_is_put_back_after_an_exception(what):
    model = network()
    model.backbone.layer1.eval()  # flags that no call of train() would restore
    before = state_of(model)

    def batches():
        yield from images(4)
        if what == "data":
            raise KeyError(what)

    def forward(x, vector):
        model(x, vector)
        if what == "forward":
            raise KeyError(what)

    with pytest.raises(KeyError), unit_statistics(model, batches(), forward):
        raise KeyError
    assert_untouched(model, before)
    if what != "body":
        with pytest.raises(KeyError):
            recompute_statistics(model, batches(), forward)
        assert_untouched(model, before)


def test_units_one_after_the_other_do_not_touch():
    model, (first, second) = network(), images(6, 6)
    with torch.no_grad():
        with unit_statistics(model, [second]):
            alone = model(*second)
        with unit_statistics(model, [first]):
            model(*first)
        with unit_statistics(model, [second]):
            assert torch.equal(model(*second), alone)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_moments_are_in_single_precision_under_autocast(kind):
    """Of a model made and used in inference mode, as prediction does."""
    with torch.inference_mode():
        model, batches = network(), images(4, 4)
        exact = brute_force(model, batches, ddof=0)
        with torch.autocast("cpu", kind), unit_statistics(model, batches):
            found = statistics(model)
            assert model(*batches[0]).isfinite().all()
        assert all(layer.running_mean.dtype == torch.float32 for layer in layers_of(model).values())
    stem = next(iter(found))
    for name in found:  # activations are rounded, and what follows from them
        tolerance = 2e-3 if name == stem else 0.1
        spread = np.sqrt(exact[name][1]).mean()
        assert np.abs(found[name][0] - exact[name][0]).max() < tolerance * spread, name


def test_damaged_statistics_do_not_stay():
    """Of a training in half precision that once overflowed."""
    model, batches = network(), images(4)
    expected = brute_force(model, batches, ddof=1)
    model.backbone.bn1.running_var.fill_(float("inf"))
    model.backbone.bn1.running_mean.fill_(float("nan"))
    recompute_statistics(model, batches)
    assert_close(statistics(model), expected)


def test_what_has_no_statistics_is_left_alone():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.by_batch = nn.BatchNorm2d(3, track_running_stats=False)
            self.group = nn.GroupNorm(3, 3)

        def forward(self, x):
            return self.group(self.by_batch(self.norm(x)))

    model = Parts()
    x = torch.randn(4, 3, 5, 5) + 2
    recompute_statistics(model, [(x,)])
    assert torch.allclose(model.norm.running_mean, x.mean((0, 2, 3)), atol=1e-5)
    assert torch.equal(model.unused.running_mean, torch.zeros(3)) and torch.equal(
        model.unused.running_var, torch.ones(3)
    )


def test_a_model_without_batch_norm_reads_no_image():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.LayerNorm(4), nn.Dropout(0.5)).train()

    def unread():
        raise AssertionError("read")
        yield

    recompute_statistics(model, unread())
    assert model.training
    with unit_statistics(model, unread()):
        assert not model.training
    assert model.training and model[2].training


def test_too_few_images_are_refused():
    model = network()
    before = state_of(model)
    for batches, message in (
        (images(4, 1), r"neck\.0 sees one value a channel in a batch of 1; give more"),
        ([], "not one image"),
    ):
        with pytest.raises(InputError, match=message), unit_statistics(model, batches):
            pass
        with pytest.raises(InputError, match=message):
            recompute_statistics(model, batches)
        assert_untouched(model, before)


def recomputed(
    shares, pool
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], torch.Tensor | None]:
    """Statistics after one process's batches, and what it handed to the pool."""
    model, handed = network(), []

    def keeping(values: torch.Tensor) -> torch.Tensor:
        handed.append(values)
        return pool(values)

    recompute_statistics(model, shares, pool=keeping)
    (values,) = handed
    return statistics(model), values


@pytest.mark.parametrize("shares", [[(4, 3), (5,)], [(3,), (), (6, 2)], [(), (4,)], [(4, 4)]])
def test_processes_together_have_the_statistics_of_all_images(shares):
    """Other numbers of batches on each, also none. What each hands over is collected first, then
    all merge the same.
    """
    batches = images(*(n for share in shares for n in share))
    parts, alone = [], network()
    for share in shares:
        parts.append(batches[: len(share)])
        batches = batches[len(share) :]
    recompute_statistics(alone, [batch for part in parts for batch in part])
    collected = []
    for part in parts:
        try:
            collected.append(recomputed(part, lambda values: torch.stack([values]))[1])
        except InputError:  # alone it has no image
            collected.append(
                torch.zeros(
                    sum(1 + 2 * layer.num_features for layer in layers_of(alone).values()),
                    dtype=torch.float64,
                )
            )
    assert all(values.dtype == torch.float64 for values in collected)
    for part, own in zip(parts, collected, strict=True):
        found, handed = recomputed(part, lambda values: torch.stack(collected))
        assert torch.equal(handed, own)
        for name, expected in statistics(alone).items():
            for a, b in zip(found[name], expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7, err_msg=name)


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.lists(st.integers(2, 6), max_size=4), min_size=1, max_size=5).filter(any),
    offset=st.sampled_from([0.0, 1000.0]),
)
def test_merging_is_exact_far_from_zero(sizes, offset):
    """(count, mean, summed squares) by numpy for each process; the layer's own batch is the first
    process's.
    """
    generator = torch.Generator().manual_seed(0)
    shares = [
        [torch.randn(n, 2, 3, generator=generator) + offset + k for k, n in enumerate(share)]
        for share in sizes
    ]

    def packed(share: list[torch.Tensor]) -> torch.Tensor:
        if not share:
            return torch.zeros(5, dtype=torch.float64)
        x = torch.cat(share).double().transpose(0, 1).flatten(1).numpy()
        return torch.from_numpy(np.concatenate([[x.shape[1]], x.mean(1), x.var(1) * x.shape[1]]))

    layer = nn.BatchNorm1d(2)
    recompute_statistics(
        layer,
        [(batch,) for batch in shares[0]],
        pool=lambda _: torch.stack([packed(share) for share in shares]),
    )
    x = (
        torch.cat([batch for share in shares for batch in share])
        .double()
        .transpose(0, 1)
        .flatten(1)
        .numpy()
    )
    np.testing.assert_allclose(layer.running_mean.numpy(), x.mean(1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(layer.running_var.numpy(), x.var(1, ddof=1), rtol=1e-6)


def test_no_image_on_any_process_is_refused_and_no_layer_asks_nobody():
    with pytest.raises(InputError, match="not one image"):
        recompute_statistics(network(), [], pool=lambda values: torch.stack([values, values]))

    def asked(values):
        raise AssertionError("asked")

    recompute_statistics(nn.Linear(2, 2), [], pool=asked)


def joined(*parts):
    """Put the arguments of batches end to end."""
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def test_offsets_of_one_layer_by_hand():
    """Controls 0, 2 and trained images 3, 7: means 1 and 5, variances 1 and 4."""
    layer = nn.BatchNorm1d(1, eps=0.0)
    before = state_of(layer)
    batch = torch.tensor([[0.0], [2.0], [3.0], [7.0]])
    (offset,) = measure_offsets(layer, [(2, (batch,))]).values()
    assert offset.shift.item() == pytest.approx(4) and offset.ratio.item() == pytest.approx(4)
    assert_untouched(layer, before)
    # controls of another plate: mean 10, variance 9 -> 10 + 4 x 3, 4 x 9
    controls = torch.tensor([[7.0], [13.0]])
    with unit_statistics(layer, [(controls,)], offsets={layer: offset}):
        assert layer.running_mean.item() == pytest.approx(22)
        assert layer.running_var.item() == pytest.approx(36)


def test_offsets_are_averaged_over_units():
    """Shifts 4 and 0, ratios 4 and 1: their mean, and their geometric mean."""
    layer = nn.BatchNorm1d(1, eps=0.0)
    first = torch.tensor([[0.0], [2.0], [3.0], [7.0]])
    second = torch.tensor([[0.0], [2.0], [0.0], [2.0]])
    (offset,) = measure_offsets(layer, [(2, (first,)), (2, (second,))]).values()
    assert offset.shift.item() == pytest.approx(2) and offset.ratio.item() == pytest.approx(2)


@pytest.mark.parametrize("name", ["resnet10t", "densenet121"])
def test_controls_foretell_the_statistics_of_their_own_training_unit(name):
    """Layer by layer, so that the deeper ones see activations standardised as in training."""
    model, (controls, trained) = network(name), images(6, 9)
    before = state_of(model)
    offsets = measure_offsets(model, [(6, joined(controls, trained))])
    assert_untouched(model, before)
    with torch.no_grad():
        with unit_statistics(model, [trained]):
            expected, wanted = model(*trained), statistics(model)
        with unit_statistics(model, [controls], offsets=offsets):
            found = model(*trained)
            assert_close(statistics(model), wanted, 1e-3)
        with unit_statistics(model, [controls]):
            plain = model(*trained)
    assert torch.allclose(found, expected, atol=5e-3)
    assert not torch.allclose(plain, expected, atol=0.1)
    assert_untouched(model, before)


def test_a_channel_that_says_nothing_has_no_infinite_offset():
    layer = nn.BatchNorm1d(2)
    batch = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 3.0], [1.0, 7.0]])
    (offset,) = measure_offsets(layer, [(2, (batch,))]).values()
    assert offset.shift[0] == 0 and offset.ratio[0] == 1
    with unit_statistics(layer, [(batch[:2],)], offsets={layer: offset}):
        assert layer.running_var[0] == 0 and layer(batch).isfinite().all()


def test_offsets_need_units_and_more_than_one_value():
    model = network()
    before = state_of(model)
    with pytest.raises(InputError, match="not one unit to compare"):
        measure_offsets(model, [])
    with pytest.raises(InputError, match=r"neck\.0 sees one value a channel of 1 controls"):
        measure_offsets(model, [(1, images(5)[0])])
    assert_untouched(model, before)
    assert measure_offsets(nn.Linear(2, 2), []) == {}
