"""What each method lets asked wells move, on an untrained network and few plates."""

import dataclasses

import numpy as np
import pytest
import torch

from cellsignal.studies.shift.methods import METHODS, Bench, answer, measure_network, own_logits
from cellsignal.studies.shift.networks import RECIPES, Network, standardise_pixels
from cellsignal.studies.shift.run import run_bench
from cellsignal.studies.shift.simulated_plates import Asked, Design, ask_batches, draw_wells

SMALL = Design(
    classes=3,
    positives=4,
    negatives=3,
    train_experiments=2,
    test_experiments=1,
    plates=2,
    train_wells=3,
    test_wells=4,
    size=32,
)


@pytest.fixture(scope="module")
def bench() -> Bench:
    wells = draw_wells(0, SMALL)
    images = standardise_pixels(wells.images, wells.table.is_test.to_numpy())
    return Bench(wells, images, tuple(ask_batches(wells.table, 0, {6: 1})))


@pytest.fixture(scope="module")
def model(bench) -> Network:
    torch.manual_seed(0)
    network = Network(3).train()
    network(bench.images[:20])
    return network.eval()


def method_of(name: str):
    return next(method for method in METHODS if method.id == name)


MOVES = {
    "erm": False,
    "adabn_plate": True,
    "adabn_joined": True,
    "controls": False,
    "negatives": False,
    "adabn_experiment": True,
    "tvn": False,
    "standardise_controls": False,
    "standardise_asked": True,
    "combat": True,
    "hand_made": False,
}


@pytest.mark.parametrize(("name", "moves"), MOVES.items())
def test_a_well_is_answered_alike_in_any_batch_unless_asked_wells_are_counted(
    bench, model, name, moves
):
    plates = [
        np.array(rows)
        for rows in bench.table[bench.table.is_test & (bench.table.role == "treatment")]
        .groupby("plate")
        .groups.values()
    ]
    asked = [
        Asked(np.inf, 12, 0, "e", tuple(plates)),
        Asked(np.inf, 4, 0, "e", tuple(rows[[0, 1, 5, 3]] for rows in plates)),
    ]
    with torch.no_grad():
        all_wells, few = answer(bench, model, method_of(name), asked)
    same = [
        np.allclose(whole[[0, 1, 5, 3]], part, rtol=1e-3, atol=1e-3)
        for whole, part in zip(all_wells, few, strict=True)
    ]
    assert not any(same) if moves else all(same)


@torch.no_grad()
def test_own_statistics_are_those_of_training_mode(bench, model):
    rows = np.arange(10)
    found = own_logits(bench, model, rows)
    again = own_logits(bench, model, rows)
    model.train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    expected = model(bench.images[rows]).numpy()
    model.load_state_dict(buffers, strict=False)
    model.eval()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found, again)


def test_every_network_of_a_method_is_trained_and_every_id_is_one_row():
    assert {method.network for method in METHODS} == set(RECIPES)
    assert len({method.id for method in METHODS}) == len(METHODS)


def test_accuracy_is_that_of_all_plates_and_draws(bench, model):
    rows = list(measure_network(bench, model, "plate"))
    erm = {(row["alpha"], row["size"]): row for row in rows if row["method"] == "plate_running"}
    assert set(erm) == {(alpha, 6) for alpha in (np.inf, 1.0, 0.1, 0.01)}
    labels = bench.table.label.to_numpy()
    with torch.no_grad():
        names = model(bench.images).argmax(1).numpy()
    for batch in bench.asked:
        expected = np.mean([(names[rows] == labels[rows]).mean() for rows in batch.rows])
        assert erm[batch.alpha, 6]["accuracy"] == pytest.approx(expected)


def test_a_missing_package_is_one_row_that_says_so(bench, model, monkeypatch):
    import cellsignal.profiles.optional_steps as steps

    monkeypatch.setitem(steps.PACKAGES, "harmony", "no_such_harmony")
    wide = dataclasses.replace(bench, asked=tuple(ask_batches(bench.table, 0, {96: 1})))
    rows = [row for row in measure_network(wide, model, "mixed") if row["method"] == "harmony"]
    assert len(rows) == 1 and "pip install no_such_harmony" in rows[0]["skipped"]


def test_what_is_measured_is_kept_and_another_design_is_measured_anew(tmp_path):
    first = run_bench(tmp_path, [0], ["untrained"], SMALL)
    path = tmp_path / "seed0_untrained.json"
    kept = path.read_bytes()
    again = run_bench(tmp_path, [0], ["untrained"], SMALL)
    assert again.equals(first) and path.read_bytes() == kept
    alone = run_bench(tmp_path, [0, 1], ["untrained", "mixed"], SMALL, finished=True)
    assert alone.equals(first) and len(list(tmp_path.iterdir())) == 1
    path.write_text(path.read_text()[:40])
    assert run_bench(tmp_path, [0], ["untrained"], SMALL).equals(first)
    other = run_bench(tmp_path, [0], ["untrained"], dataclasses.replace(SMALL, positives=5))
    assert not other.equals(first)
