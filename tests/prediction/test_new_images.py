"""`predict --images`: the same images give what the run itself predicts for them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, contents, error_line
from tiny import make_config, stage

from cellsignal.common.errors import InputError, Interrupted
from cellsignal.config import load_config
from cellsignal.prediction import new_images, new_packing
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.new_images import predict_images
from cellsignal.prediction.new_jobs import Request
from cellsignal.prediction.predict import predict
from cellsignal.training.run import train

pytestmark = pytest.mark.slow


def of_the_run(path, part, column="target_id"):
    """Probabilities of a predictions file by target: the mean of logits over views and sites."""
    predictions = load_predictions(path)
    rows = predictions.ids["part"] == part
    logits = np.mean([predictions.logits(v).astype(np.float64) for v in predictions.views], 0)
    mean = pd.DataFrame(logits[rows]).groupby(predictions.ids[column][rows]).mean()
    odds = np.exp(mean - mean.max(axis=1).to_numpy()[:, None])
    return odds.div(odds.sum(axis=1), axis=0), list(predictions.classes)


def check_same(table, expected, classes):
    table = table.set_index("id").loc[expected.index]
    values = expected.to_numpy()
    order = np.argsort(-values, axis=1)
    rows = np.arange(len(values))
    assert np.allclose(table.probability, values[rows, order[:, 0]], atol=2e-3)
    assert np.allclose(table.runner_up_probability, values[rows, order[:, 1]], atol=2e-3)
    clear = values[rows, order[:, 0]] - values[rows, order[:, 1]] > 4e-3
    assert clear.sum() > len(values) / 2
    assert list(table.predicted[clear]) == [classes[k] for k in order[clear, 0]]


@pytest.mark.parametrize("layout", ["file names", "own"])
def test_the_test_images_of_rxrx1_are_named_as_by_the_run(layout, trained, tmp_path):
    space = trained("rxrx1")
    folder = space.root / "test" if layout == "file names" else space.root
    words = ["predict", "tiny", "--stage", "all", "--images", folder, "--out", tmp_path / "new.csv"]
    words += ["--layout", "own"] if layout == "own" else []
    assert cellsignal(*words, cwd=space.folder) == 0
    table = pd.read_csv(tmp_path / "new.csv", dtype={"predicted": str, "runner_up": str})
    expected, classes = of_the_run(space.run_folder / "predictions/fold0_all.npz", "test")
    check_same(table, expected, classes)
    assert set(table.images) == {2} and table.well_id.is_unique
    about = json.loads((tmp_path / "new.json").read_text())
    units = about["normalization"]["units"]
    assert "HUVEC-03 1" in units and len(units["HUVEC-03 1"]) == 5
    assert sorted(f.name for f in tmp_path.iterdir()) == ["new.csv", "new.json"]


def test_your_own_plates_by_site_and_by_name_of_the_channels(trained, tmp_path):
    space = trained("plates")
    words = ["predict", "tiny", "--stage", "all", "--images", space.root, "--by", "site"]
    assert cellsignal(*words, "--out", tmp_path / "new.csv", cwd=space.folder) == 0
    table = pd.read_csv(tmp_path / "new.csv")
    path = space.run_folder / "predictions/fold0_all.npz"
    expected, classes = of_the_run(path, "test", "sample_id")
    check_same(table, expected, classes)
    assert json.loads((tmp_path / "new.json").read_text())["channels"] == {
        "DNA": "1",
        "ER": "2",
        "Actin": "3",
    }


@pytest.fixture(scope="module")
def controlled(plates, tmp_path_factory):
    """A run whose pixels and BatchNorm are standardised by the negative controls of each plate, and
    its predictions.
    """
    by = {"by": "plate", "wells": "negative_controls"}
    adapted = {"adapt": "plate", "adapt_wells": "negative_controls"}
    config = make_config(
        plates,
        tmp_path_factory.mktemp("controlled"),
        [stage(epochs=1, amp="off")],
        normalization=by,
        predict=adapted,
    )
    train(config)
    return config, predict(config)[0]


def test_control_wells_that_are_named_standardise_their_plates(controlled, plates, tmp_path):
    config, path = controlled
    samples = pd.read_csv(plates / "raw/test_controls.csv", dtype=str)
    negative = samples[samples.well_type == "negative_control"].id_code
    request = Request(plates / "raw/test", tmp_path / "a.csv", controls=tuple(negative))
    table = pd.read_csv(predict_images([config], request), dtype={"predicted": str})
    assert not set(table.id) & set(negative)
    check_same(table, *of_the_run(path, "test"))
    about = json.loads((tmp_path / "a.json").read_text())["normalization"]
    assert about["wells"] == "negative_controls"
    assert sorted(well for wells in about["units"].values() for well in wells) == sorted(negative)
    one = Request(plates / "raw/test", tmp_path / "b.csv", controls=(negative.iloc[0],))
    other = pd.read_csv(predict_images([config], one), dtype={"predicted": str})
    assert not np.allclose(other.probability[: len(table)], table.probability)


def test_folds_and_seeds_are_averaged(controlled, plates, tmp_path):
    """As their predictions files would be merged: the mean of the logits of both."""
    config, path = controlled
    second = config.model_copy(update={"seed": 1})
    train(second)
    both = [load_predictions(file) for file in (path, predict(second)[0])]
    rows = both[0].ids["part"] == "test"
    views = [member.logits(view).astype(np.float64) for member in both for view in member.views]
    ids = both[0].ids["target_id"][rows]
    odds = np.exp(pd.DataFrame(np.mean(views, 0)[rows]).groupby(ids).mean())
    samples = pd.read_csv(plates / "raw/test_controls.csv", dtype=str)
    negative = tuple(samples[samples.well_type == "negative_control"].id_code)
    request = Request(plates / "raw/test", tmp_path / "a.csv", controls=negative)
    table = pd.read_csv(predict_images([config, second], request), dtype={"predicted": str})
    check_same(table, odds.div(odds.sum(axis=1), axis=0), list(both[0].classes))
    assert json.loads((tmp_path / "a.json").read_text())["models"] == 2


def test_a_stopped_packing_goes_on(trained, tmp_path, monkeypatch):
    space = trained("plates")
    monkeypatch.chdir(space.folder)
    config = load_config("config.yaml")
    request = Request(space.root, tmp_path / "new.csv", stage="all")

    def stopped(*_, **__):
        raise Interrupted("predict", 15)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(new_images, "_predict", stopped)
        predict_images([config], request)
    (folder,) = tmp_path.iterdir()
    chunks = contents(folder / "images")
    assert folder.name.startswith(".new.csv.images-") and chunks
    read = []
    real = new_packing.pack

    def noting(samples, reader, *more, **options):
        def read_and_note(files):
            read.append(files)
            return reader(files)

        return real(samples, read_and_note, *more, **{**options, "workers": 0})

    monkeypatch.setattr(new_packing, "pack", noting)
    predict_images([config], request)
    assert read == [] and sorted(f.name for f in tmp_path.iterdir()) == ["new.csv", "new.json"]


# refusals
# --------------------------------------------------------------------------------------------------


def test_what_cannot_be_named_is_one_line(trained, tmp_path, capsys):
    space = trained("rxrx1")
    test = space.root / "test"

    def line(*words, images=test):
        words = ["predict", "tiny", "--images", images, "--out", tmp_path / "n.csv", *words]
        return error_line(capsys, *words, cwd=space.folder)

    assert "tells HEPG2, HUVEC, RPE, U2OS apart; name one" in line()
    every = ["--stage", "all"]
    assert line("--cell-type", "HELA") == "--cell-type HELA: the run knows HEPG2, HUVEC, RPE, U2OS"
    assert "--stage none: tiny has all, cell_type" in line("--stage", "none")
    assert "--fold 9: tiny has the folds 0" in line(*every, "--fold", "9")
    assert "names 2 channels; the run sees 6 (nuclei" in line(*every, "--channels", "1,2")
    assert "has no channel '9'" in line(*every, "--channels", "9,2,3,4,5,6")
    assert "--controls Z99: " in line(*every, "--controls", "Z99")
    assert "there is no such folder" in line(*every, images=tmp_path / "none")
    some = tmp_path / "some"
    shutil.copytree(test, some)
    for path in some.rglob("*_w6.png"):
        path.unlink()
    found = line(*every, images=some)
    assert "has 5 channels (ch1, ch2, ch3, ch4, ch5), the run sees 6 (nuclei" in found
    shutil.rmtree(some)
    assert list(tmp_path.iterdir()) == []
    words = ["predict", "tiny", "--images", test]
    assert "give --out CSV" in error_line(capsys, *words, cwd=space.folder)
    assert "--fold: needs --images" in error_line(
        capsys, "predict", "tiny", "--fold", "0", cwd=space.folder
    )


def test_controls_that_are_needed_are_asked_for(controlled, plates, tmp_path):
    config, _ = controlled
    with pytest.raises(InputError, match=r"^--controls: tiny is standardised by negative controls"):
        predict_images([config], Request(plates / "raw/test", tmp_path / "a.csv"))
    assert list(tmp_path.iterdir()) == []
    both = {"adapt": "plate", "adapt_wells": "controls"}
    other = config.model_copy(update={"predict": config.predict.model_copy(update=both)})
    samples = pd.read_csv(plates / "raw/test_controls.csv", dtype=str)
    negative = tuple(samples[samples.well_type == "negative_control"].id_code)
    with pytest.raises(InputError, match=r"these images have no positive control; write predict"):
        predict_images([other], Request(plates / "raw/test", tmp_path / "a.csv", controls=negative))
    assert list(tmp_path.iterdir()) == []
