"""Soups of weights: bit for bit where members are the same, refused where they cannot be averaged."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import cellsignal, error_line
from tiny import make_config, stage

from cellsignal.config import dump_config
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.soup import Kitchen
from cellsignal.prediction.soup_members import average_weights, find_members, weights_digest
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.run import train


def two_stages(**more) -> list[dict]:
    schedule = {"name": "cosine"}
    return [stage("base"), stage("fine", init="previous", schedule=schedule, **more)]


def write(config, folder: Path) -> str:
    path = folder / f"{config.name}.yaml"
    path.write_text(dump_config(config))
    return str(path)


def write_configs(folder: Path, plates: Path) -> dict:
    """Two fine-tunings of one first stage (a, b; a keeps snapshots), and another seed's (c)."""
    tuned = {"epochs": 2, "snapshots": (1, 2)}
    made = {
        "a": make_config(plates, folder / "runs", two_stages(**tuned), name="a"),
        "b": make_config(
            plates,
            folder / "runs",
            two_stages(optimizer={"name": "sgd", "lr": 0.02}, label_smoothing=0.1),
            name="b",
        ),
        "c": make_config(plates, folder / "runs", two_stages(), name="c", seed=1),
    }
    for config in made.values():
        write(config, folder)
    return made


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory, plates):
    """The three, trained."""
    folder = tmp_path_factory.mktemp("soup")
    for config in write_configs(folder, plates).values():
        train(config)
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["model"]


def last(folder: Path, name: str, seed: int = 0) -> Path:
    return folder / "runs" / name / f"seed{seed}" / "fold0" / "fine" / "all" / "last.pt"


def soup(folder: Path, *words) -> int:
    return cellsignal("runs", "soup", *words, cwd=folder)


def test_the_mean_is_taken_of_floats_in_double_precision():
    first = {"w": torch.tensor([1.0, 1e8]), "n": torch.tensor(3)}
    second = {"w": torch.tensor([3.0, 1.0]), "n": torch.tensor(9)}
    mean, same = average_weights([first, second], ["x", "y"])
    assert mean["w"].tolist() == [2.0, np.float32((1e8 + 1) / 2)] and int(mean["n"]) == 3
    assert not same and average_weights([first, first], ["x", "y"])[1]


def test_a_digest_tells_names_shapes_and_values_apart():
    kinds = [
        {"w": torch.zeros(2)},
        {"v": torch.zeros(2)},
        {"w": torch.zeros(1, 2)},
        {"w": torch.tensor([0.0, 1e-30])},
        {"w": torch.zeros(2, dtype=torch.bfloat16)},
        {"w": torch.tensor(0)},
    ]
    assert len({weights_digest(kind) for kind in kinds}) == len(kinds)
    assert weights_digest(kinds[0]) == weights_digest({"w": torch.zeros(4)[::2]})


@pytest.mark.slow
def test_a_soup_of_the_same_weights_is_the_member_bit_for_bit(kitchen, plates):
    """A copy of a run under another name."""
    config = make_config(
        plates, kitchen / "runs", two_stages(epochs=2, snapshots=(1, 2)), name="a2"
    )
    train(config)
    write(config, kitchen)
    assert soup(kitchen, "a.yaml", "a2.yaml", "--name", "same", "--method", "uniform") == 0
    one, two = weights(last(kitchen, "a")), weights(last(kitchen, "same"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_soup_of_two_fine_tunings_is_their_mean_and_an_ordinary_run(kitchen, capsys):
    assert soup(kitchen, "a.yaml", "b.yaml", "--name", "mixed", "--method", "uniform") == 0
    text = capsys.readouterr().out
    assert "uniform soup of 2" in text and "nested gain of the greedy soup" in text
    a, b, mean = (weights(last(kitchen, name)) for name in ("a", "b", "mixed"))
    for name, tensor in mean.items():
        if tensor.is_floating_point() and "running" not in name:
            torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
    moved = [name for name in mean if "running_mean" in name]
    assert any(not torch.allclose(mean[n], (a[n] + b[n]) / 2, atol=1e-6) for n in moved)
    record = json.loads((kitchen / "runs/mixed/seed0/soup.json").read_text())
    assert record["members"] == ["a/seed0", "b/seed0"] and record["different_starts"] is False
    for verb in ("train", "predict"):  # nothing is left to train
        assert cellsignal(verb, "runs/mixed/seed0/config.yaml", cwd=kitchen) == 0
    made = load_predictions(kitchen / "runs/mixed/seed0/predictions/fold0_fine.npz")
    assert {"oof", "test"} == set(made.ids["part"])
    words = ("submit", "mixed", "--out", "mixed.csv", "--assignment", "none")
    assert cellsignal(*words, cwd=kitchen) == 0


@pytest.mark.slow
def test_greedy_is_never_worse_than_the_best_member_on_its_own_units(kitchen):
    from cellsignal.config import load_config

    configs = [load_config(kitchen / f"{name}.yaml") for name in ("a", "b")]
    bench = Kitchen(find_members(configs, snapshots=False))
    alone = [bench.score([number]) for number in range(2)]
    assert bench.score(bench.greedy()) >= max(alone)
    nested = bench.nested()
    assert 0 <= nested.member <= 1 and 0 <= nested.soup <= 1 and nested.unit == "experiment"


@pytest.mark.slow
def test_members_of_different_starts_are_refused_with_their_midpoint(kitchen, capsys):
    line = error_line(capsys, "runs", "soup", "a.yaml", "c.yaml", "--name", "apart", cwd=kitchen)
    assert "c/seed1: began with other weights than a/seed0" in line and "their mean 0." in line
    assert not (kitchen / "runs" / "apart").exists()
    words = ("a.yaml", "c.yaml", "--name", "apart", "--any-start", "--method", "uniform")
    assert soup(kitchen, *words) == 0
    assert "warning: c/seed1: began with other weights" in capsys.readouterr().out
    record = json.loads((kitchen / "runs/apart/seed0/soup.json").read_text())
    assert record["different_starts"] is True


@pytest.mark.slow
def test_snapshots_are_averaged_or_made_runs(kitchen, capsys):
    assert soup(kitchen, "a.yaml", "--snapshots", "--name", "cycle", "--method", "uniform") == 0
    assert "a/seed0@1" in capsys.readouterr().out
    assert soup(kitchen, "a.yaml", "--snapshots", "--separate", "--name", "snap") == 0
    parts = [weights(last(kitchen, name)) for name in ("snap_e1", "snap_e2")]
    a = weights(last(kitchen, "a"))
    assert all(torch.equal(a[name], parts[1][name]) for name in a)
    assert not all(torch.equal(a[name], parts[0][name]) for name in a)
    for name in ("snap_e1", "snap_e2"):
        assert cellsignal("predict", name, cwd=kitchen) == 0
    assert cellsignal("submit", "snap_e1", "snap_e2", "--out", "snap.csv", cwd=kitchen) == 0


@pytest.mark.slow
def test_a_soup_that_breaks_leaves_nothing(kitchen, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cellsignal.prediction.soup_run.write_json", fail)
    words = ("a.yaml", "b.yaml", "--name", "broken", "--method", "uniform")
    assert soup(kitchen, *words) == 130
    assert not (kitchen / "runs" / "broken").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.yaml", "--name", "x"), "a/seed0: one member alone"),
        (("a.yaml", "a.yaml", "--name", "x"), "a/seed0: is named twice"),
        (("a.yaml", "b.yaml", "--name", "a"), "exists already; give another --name"),
        (("a.yaml", "b.yaml", "--name", "x/y"), "is no name of a run"),
        (("a.yaml", "wide.yaml", "--name", "x"), "its weights cannot be averaged"),
        (("b.yaml", "--snapshots", "--name", "x"), "b/seed0: keeps no snapshots"),
        (("a.yaml", "b.yaml", "--separate", "--name", "x"), "--separate: is of --snapshots"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(tmp_path, plates, capsys, words, message):
    write_configs(tmp_path, plates)
    (tmp_path / "runs" / "a" / "seed0").mkdir(parents=True)
    model = {"backbone": "test_resnet", "neck": 16}
    write(make_config(plates, tmp_path / "runs", two_stages(), name="wide", model=model), tmp_path)
    line = error_line(capsys, "runs", "soup", *words, cwd=tmp_path)
    assert message in line and not (tmp_path / "runs" / "x").exists()


@pytest.mark.slow
def test_snapshots_of_two_runs_cannot_be_one_run(kitchen, plates, capsys):
    other = make_config(plates, kitchen / "runs", two_stages(epochs=2, snapshots=(1, 2)), name="d")
    train(other)
    write(other, kitchen)
    words = ("a.yaml", "d.yaml", "--snapshots", "--separate", "--name", "both")
    line = error_line(capsys, "runs", "soup", *words, cwd=kitchen)
    assert "both_e1/seed0: would hold both a/seed0@1 and d/seed0@1" in line
    assert not list((kitchen / "runs").glob("both*"))


@pytest.mark.slow
def test_snapshots_without_validation_samples_are_made_runs_and_listed_as_finished(
    tmp_path, plates, capsys
):
    stages = [stage("all", epochs=2, snapshots=(1, 2))]
    folds = {"file": plates / "folds.csv", "use": [], "full": True}
    config = make_config(plates, tmp_path / "runs", stages, name="f", folds=folds)
    train(config)
    write(config, tmp_path)
    words = ("runs", "soup", "f.yaml", "--snapshots", "--name", "g")
    assert "no fold has validation samples" in error_line(capsys, *words, cwd=tmp_path)
    assert cellsignal(*words, "--separate", cwd=tmp_path) == 0
    assert json.loads((tmp_path / "runs/g_e1/seed0/soup.json").read_text())["validation"] is None
    capsys.readouterr()
    assert cellsignal("runs", cwd=tmp_path) == 0
    states = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:])
    assert states["g_e1/seed0"] == states["g_e2/seed0"] == "finished"
    assert cellsignal("predict", "g_e1", cwd=tmp_path) == 0


@pytest.mark.slow
def test_two_soups_at_once_of_one_name_are_one_whole_soup(kitchen, capsys, monkeypatch):
    """The second is made while the first one writes."""
    from cellsignal.prediction import soup_run

    words = ("runs", "soup", "a.yaml", "b.yaml", "--name", "race", "--method", "uniform")
    finish, begun = soup_run.write_json, []

    def interrupted(path, value):
        if not begun:
            begun.append(path)
            assert cellsignal(*words, cwd=kitchen) == 0
        finish(path, value)

    monkeypatch.setattr(soup_run, "write_json", interrupted)
    assert cellsignal(*words, cwd=kitchen) == 2
    assert "race/seed0: exists already" in capsys.readouterr().err
    assert [path.name for path in (kitchen / "runs/race").iterdir()] == ["seed0"]
    assert (kitchen / "runs/race/seed0/soup.json").is_file()


def test_what_a_killed_process_left_goes(tmp_path):
    import platform

    from cellsignal.prediction.soup_run import _new_folder

    left = tmp_path / "x" / f".seed0.{platform.node()}-4194300.abc.tmp"
    (left / "fold0").mkdir(parents=True)
    with _new_folder(tmp_path / "x" / "seed0") as temporary:
        (temporary / "file").touch()
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["seed0"]
    assert (tmp_path / "x" / "seed0" / "file").is_file()


def test_other_stages_are_named_without_hashes(tmp_path, plates, capsys):
    write_configs(tmp_path, plates)
    write(make_config(plates, tmp_path / "runs", [stage("base")], name="one"), tmp_path)
    words = ("runs", "soup", "a.yaml", "one.yaml", "--name", "x")
    line = error_line(capsys, *words, cwd=tmp_path)
    assert "stages" in line and len(line) < 400, line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "predict"),
    [
        ({"backbone": "test_resnet"}, {"adapt": "plate", "adapt_wells": "controls"}),
        ({"backbone": "test_resnet", "channel_wise": "mean"}, {"channels": (1, 3)}),
        ({"backbone": "channel_vit_micro_patch8"}, {"channels": (1, 3)}),
    ],
)
def test_a_soup_is_scored_as_it_predicts(tmp_path, plates, model, predict):
    """Statistics of controls, and channels that are not looked at."""
    stages = [stage("all", epochs=2, snapshots=(1, 2))]
    options = {"model": model, "predict": {"tta": 1} | predict}
    config = make_config(plates, tmp_path / "runs", stages, name="f", **options)
    train(config)
    write(config, tmp_path)
    words = ("f.yaml", "--snapshots", "--method", "uniform", "--name", "g")
    assert soup(tmp_path, *words) == 0
    assert cellsignal("predict", "g", cwd=tmp_path) == 0
    bench = Kitchen(find_members([config], snapshots=True))
    made = load_predictions(tmp_path / "runs/g/seed0/predictions/fold0_all.npz")
    rows = {name: row for row, name in enumerate(made.ids["sample_id"])}
    order = [rows[name] for name in bench.samples.sample_id]
    wanted = made.logits("identity")[order].astype(float)
    np.testing.assert_allclose(bench.predict([0, 1]), wanted, atol=0.01)  # kept in half precision
