"""An interrupted prediction goes on plate by plate, and ends in the same file."""

import logging

import numpy as np
import pytest
from tiny import make_config, stage

from cellsignal.common.stopping import Stop
from cellsignal.prediction import pieces
from cellsignal.prediction import predict as predicting
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.pieces import in_pieces, pieces_folder, pieces_of, remove_pieces
from cellsignal.prediction.predict import predict
from cellsignal.training import inference
from cellsignal.training.plan import jobs_of
from cellsignal.training.run import train


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def run(plates, tmp_path_factory):
    second = stage("cell_type", per="cell_type", init="previous", epochs=1)
    config = make_config(
        plates,
        tmp_path_factory.mktemp("pieces"),
        [stage(epochs=1), second],
        predict={"adapt": "plate", "tta": 2},
    )
    train(config)
    return config


def spied(monkeypatch, fail_at=None):
    """Notes which samples each call predicts; the call number `fail_at` is a kill."""
    calls, real = [], inference.predict_with

    def predict_with(job, model, reading, *args, **more):
        if len(calls) == fail_at:
            raise Killed
        calls.append(job.store.samples.iloc[reading.chosen])
        return real(job, model, reading, *args, **more)

    monkeypatch.setattr(predicting, "predict_with", predict_with)
    return calls


def test_pieces_are_read_when_they_are_looked_up(tmp_path):
    """One piece of float32 makes the whole array so; the other arrays stay float16."""
    path, places = tmp_path / "x.npz", [np.array([3, 0]), np.array([1, 2, 4])]
    logits = {"a": np.arange(10.0).reshape(5, 2), "b": np.arange(5.0)[:, None] * 200}
    compute = lambda rows: {name: values[rows] for name, values in logits.items()}  # noqa: E731
    joined = in_pieces(path, {}, places, compute)
    assert list(joined) == ["a", "b"] and len(joined) == 2 and "c" not in joined
    for name, kind in (("a", "f2"), ("b", "f4")):
        assert joined[name].dtype == kind and joined[name] is not joined[name]
        assert np.array_equal(joined[name], logits[name])
    remove_pieces(path)
    with pytest.raises(FileNotFoundError):
        joined["a"]


@pytest.mark.slow
def test_a_killed_prediction_goes_on_where_it_was(run, monkeypatch):
    calls = spied(monkeypatch)
    files = predict(run)
    whole = [load_predictions(path) for path in files]
    expected = [{view: member.logits(view) for view in member.views} for member in whole]
    for samples in calls:  # a plate at a time, by one model
        assert len(samples.groupby(["experiment", "plate"])) == 1
    for path in files:
        path.unlink()
    first = spied(monkeypatch, fail_at=5)
    with pytest.raises(Killed):
        predict(run)
    assert (
        len(first) == 5
        and not files[0].exists()
        and len(list(pieces_folder(files[0]).rglob("*.npz"))) == 5
    )
    torn = sorted(pieces_folder(files[0]).rglob("*.npz"))[2]
    torn.write_bytes(torn.read_bytes()[:-100])
    second = spied(monkeypatch)
    assert predict(run) == files
    assert len(second) == len(calls) - 5 + 1  # the torn piece again
    assert not set(second[1].sample_id) & {name for samples in first for name in samples.sample_id}
    for member, logits in zip(map(load_predictions, files), expected, strict=True):
        assert all(np.array_equal(member.logits(view), logits[view]) for view in logits)
    assert not pieces_folder(files[0]).exists()
    third = spied(monkeypatch)
    assert predict(run) == files and third == []


def test_pieces_of_other_checkpoints_or_settings_are_not_taken(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    places, made = [np.array([2, 0]), np.array([1])], []

    def compute(mine):
        made.append(mine.tolist())
        return {"a": np.stack([mine, mine * 10], 1)}

    in_pieces(tmp_path / "x.npz", {"model": "one"}, places, compute)
    assert "resumes" not in caplog.text
    found = in_pieces(tmp_path / "x.npz", {"model": "one"}, places, compute)
    assert f"{tmp_path / 'x.npz'}: resumes, 2 of 2 pieces are done" in caplog.text
    assert (
        made == [[2, 0], [1]]
        and found["a"].tolist() == [[0, 0], [1, 10], [2, 20]]
        and found["a"].dtype == np.float16
    )
    in_pieces(tmp_path / "x.npz", {"model": "two"}, places, compute)
    assert len(made) == 4
    remove_pieces(tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("adapt", ["none", "plate", "experiment", "cell_type"])
def test_a_piece_is_of_one_model_and_one_unit(run, adapt):
    job = jobs_of(run)[0]
    samples = job.store.samples
    chosen = np.random.default_rng(0).permutation(np.r_[job.valid, job.test])
    keys = np.where(samples.cell_type.to_numpy()[chosen] == "RPE", "RPE", "all")
    columns = {"none": ["experiment", "plate"], "plate": ["experiment", "plate"]}.get(
        adapt, [adapt]
    )
    found = pieces_of(samples, chosen, adapt, keys)
    assert sorted(np.concatenate(found)) == list(range(len(chosen)))
    groups = samples.iloc[chosen].assign(key=keys).groupby([*columns, "key"]).ngroup().to_numpy()
    assert all(len(set(groups[piece])) == 1 for piece in found) and len(found) == len(set(groups))
    assert pieces_of(samples, chosen[:0], adapt, keys[:0]) == []


class NotedStop(Stop):
    """Notes how long each next step was expected to take."""

    def __init__(self):
        super().__init__()
        self.expected = []

    def stop_status(self, seconds=None):
        self.expected.append(seconds)
        return 0


def test_the_time_to_join_is_told_from_that_of_writing(tmp_path, monkeypatch):
    """Every piece is read and written once more; two of three were written in 4 s."""
    path, places = tmp_path / "x.npz", [np.array([n]) for n in range(3)]
    real, stop = pieces._write, NotedStop()

    def write(file, arrays):
        seconds = real(file, arrays)
        assert 0 <= seconds < 60
        return 2.0

    def compute(mine):
        return {"a": mine[:, None]}

    with pytest.raises(ZeroDivisionError):
        in_pieces(path, {}, places, lambda mine: compute(mine) if mine[0] < 1 else 1 / 0)
    monkeypatch.setattr(pieces, "_write", write)
    found = in_pieces(path, {}, places, compute, stop=stop)
    assert found["a"].ravel().tolist() == [0, 1, 2]
    first, second, join = stop.expected
    assert first is None and 0 <= second < 60 and join == 2 * 4.0 * 3 / 2
    again = NotedStop()
    in_pieces(path, {}, places, compute, stop=again)
    assert again.expected == [None]
