"""Predictions and embeddings are up to date only if all that decides their bytes is unchanged."""

import logging
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import cellsignal, error_line, replace
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.competitions import get_competition
from cellsignal.config import dump_config
from cellsignal.data.pack import prepare
from cellsignal.data.store import Store
from cellsignal.prediction import embeddings, predict
from cellsignal.prediction.container import load_predictions, save_predictions
from cellsignal.prediction.embeddings import embed, load_embeddings
from cellsignal.prediction.entry import open_entry
from cellsignal.prediction.freshness import config_predictions
from cellsignal.training.checkpoints import load_checkpoint, save_checkpoint
from cellsignal.training.identity import check_belongs
from cellsignal.training.plan import jobs_of
from cellsignal.training.run import is_finished, train


@pytest.fixture(scope="module")
def made(plates, tmp_path_factory):
    """A config whose run is trained, predicted and embedded. Read only."""
    config = make_config(
        plates, tmp_path_factory.mktemp("made") / "runs", [stage(epochs=1)], predict={"tta": 2}
    )
    train(config)
    predict.predict(config)
    embed(config)
    return config


@pytest.fixture
def run(made, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(made.runs, tmp_path / "runs")
    return made.model_copy(update={"runs": tmp_path / "runs"})


def other_root(config, folder):
    (folder / "moved").symlink_to(config.data.root)
    return config.model_copy(
        update={"data": config.data.model_copy(update={"root": folder / "moved"})}
    )


def other_store(config, folder):
    """The same data set with other pixels in one image."""
    raw = shutil.copytree(config.data.root, folder / "raw")
    competition = get_competition("rxrx1")
    samples = competition.samples(raw)
    file = raw / samples.files[samples.split == "test"].iloc[0][0]
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    replace(file, cv2.imencode(".png", 255 - image)[1].tobytes())
    prepare(competition, raw, folder / "store")
    return config.model_copy(
        update={"data": config.data.model_copy(update={"store": folder / "store"})}
    )


def other_checkpoint(config, folder):
    path = config.run_folder / "fold0" / "all" / "all" / "last.pt"
    state = load_checkpoint(path)
    weights = {
        name: value + 0.01 if torch.is_floating_point(value) else value
        for name, value in state["model"].items()
    }
    save_checkpoint(path, state | {"model": weights, "averaged": None})
    return config


def other_views(config, folder):
    return config.model_copy(update={"predict": config.predict.model_copy(update={"tta": 4})})


def other_adaptation(config, folder):
    return config.model_copy(
        update={"predict": config.predict.model_copy(update={"adapt": "plate"})}
    )


CHANGES = {
    other_root: "data_root",
    other_store: "store",
    other_checkpoint: "checkpoints.all",
    other_views: "predict.tta",
    other_adaptation: "predict.adapt",
}


def read(path):
    member = load_predictions(path)
    return {view: member.logits(view) for view in member.views}


def read_values(path):
    return {"values": load_embeddings(path).values}


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb, load", [(predict.predict, read), (embed, read_values)], ids=["predict", "embed"]
)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_was_made_from_something_else_is_made_anew_and_says_why(
    run, tmp_path, caplog, change, verb, load
):
    changed = change(run, tmp_path)
    caplog.set_level(logging.INFO)
    (path,) = verb(changed)
    assert f"{path}: is made anew, for these have changed: {CHANGES[change]}" in caplog.text
    again = load(path)
    path.unlink()
    caplog.clear()
    verb(changed)
    fresh = load(path)
    assert again.keys() == fresh.keys() and all(
        np.array_equal(again[name], fresh[name]) for name in fresh
    )
    caplog.clear()
    verb(changed)
    assert f"{path}: is up to date" in caplog.text


@pytest.mark.parametrize(
    "module, verb",
    [
        pytest.param(predict, predict.predict, id="predict"),
        pytest.param(embeddings, embed, id="embed", marks=pytest.mark.slow),
    ],
)
def test_other_code_makes_other_files(run, monkeypatch, caplog, module, verb):
    caplog.set_level(logging.INFO)
    verb(run)
    assert "is up to date" in caplog.text and "made anew" not in caplog.text
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    verb(run)
    assert "is made anew, for these have changed: version" in caplog.text


def test_pieces_are_named_by_all_that_the_file_is_made_from(run, monkeypatch):
    seen = []
    real = predict.in_pieces
    monkeypatch.setattr(
        predict,
        "in_pieces",
        lambda path, inputs, *more: seen.append(inputs) or real(path, inputs, *more),
    )
    (path,) = config_predictions(run)
    path.unlink()
    predict.predict(run)
    assert seen == [load_predictions(path).about["made_from"]]
    store = Store.open(run.data.store)
    assert (
        seen[0]["store"] == store.content_hash
        and seen[0]["samples"] == store.info["samples_sha256"]
    )
    assert seen[0]["checkpoints"] == {"all": sha256(run.run_folder / "fold0/all/all/last.pt")}


@pytest.mark.parametrize("verb", ["submit", "score", "profiles treatments"])
@pytest.mark.parametrize(
    "change, named",
    [
        (other_store, "was made from another state of"),
        (other_checkpoint, "was made by another state of"),
        (other_views, "was made with predict.tta 2, the config says 4"),
        (other_adaptation, "was made with predict.adapt none, the config says plate"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_verb_that_reads_predictions_by_config_refuses_stale_ones(
    run, tmp_path, capsys, verb, change, named
):
    (tmp_path / "config.yaml").write_text(dump_config(change(run, tmp_path)))
    line = error_line(capsys, *verb.split(), "config.yaml", cwd=tmp_path)
    assert (
        "fold0_all.npz" in line
        and named in line
        and "run `cellsignal predict` with this config again" in line
    )
    assert not (tmp_path / "submissions").exists()


@pytest.mark.parametrize(
    "verb",
    ["predict", "embed", "profiles classify", "submit", "score", "profiles treatments"],
)
def test_a_misspelt_competition_is_answered_with_the_nearest(run, tmp_path, capsys, verb):
    (tmp_path / "config.yaml").write_text(
        dump_config(run.model_copy(update={"competition": "rxrx"}))
    )
    assert "did you mean 'rxrx1'?" in error_line(capsys, *verb.split(), "config.yaml", cwd=tmp_path)


def test_files_of_other_stages_are_refused_and_of_other_folds_left_out(run, caplog):
    (path,) = config_predictions(run)
    shutil.copy(path, path.with_name("fold1_all.npz"))
    about = load_predictions(path).about
    replace_about(path.with_name("fold1_all.npz"), about | {"fold": 1})
    assert config_predictions(run) == [path]
    assert "fold1_all.npz: is left out, the config's folds do not name its fold" in caplog.text
    replace_about(path, about | {"stage": "old"})
    with pytest.raises(
        InputError, match=r"fold0_all\.npz: is of stage 'old', the config has the stages all; run"
    ):
        config_predictions(run)


def test_the_files_of_one_stage_can_be_asked_for(run):
    (path,) = config_predictions(run)
    assert config_predictions(run, stage_index=0) == [path]
    with pytest.raises(InputError, match="no predictions of this config's folds and stages"):
        config_predictions(run, stage_index=1)


def replace_about(path, about):
    predict.write_about(path, about)


def test_predictions_say_which_submit_section_they_were_made_with(run, tmp_path):
    (path,) = config_predictions(run)
    logits = read(path)
    pooled = run.model_copy(update={"submit": run.submit.model_copy(update={"pool": "well"})})
    predict.predict(pooled)
    assert load_predictions(path).about["submit"]["pool"] == "well"
    assert all(np.array_equal(read(path)[view], values) for view, values in logits.items())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_logit_that_is_no_finite_number_is_refused_where_it_is_made(run, monkeypatch, value):
    real = predict.Predictors.of

    def of(self, key):
        predictor = real(self, key)

        def broken(chosen, views, **more):
            found = predictor(chosen, views, **more)
            found["rot180"] = found["rot180"].astype(np.float64)
            found["rot180"][-1, 2] = value
            return found

        return broken

    monkeypatch.setattr(predict.Predictors, "of", of)
    samples = Store.open(run.data.store).samples
    for verb, folder, what in (
        (predict.predict, "predictions", "view"),
        (embed, "embeddings", "embeddings of view"),
    ):
        (path,) = (run.run_folder / folder).glob("*.npz")
        path.unlink()
        with pytest.raises(
            InputError,
            match=f"last.pt: {what} 'rot180': sample '(.*)' has a value that is not a finite number",
        ) as caught:
            verb(run)
        assert (
            str(caught.value).split("sample '")[1].split("'")[0] in set(samples.sample_id)
            and not path.exists()
        )


def test_a_run_reads_its_predictions_where_checkpoints_and_store_are_not(run, tmp_path):
    """As in the kernel or on the machine that merges what others predicted."""
    shutil.rmtree(run.run_folder / "fold0")
    elsewhere = run.model_copy(
        update={"data": run.data.model_copy(update={"store": tmp_path / "none"})}
    )
    (tmp_path / "config.yaml").write_text(dump_config(elsewhere))
    assert cellsignal("submit", "config.yaml", cwd=tmp_path) == 0
    assert (tmp_path / "submissions" / "tiny.csv").is_file()


def test_predictions_of_an_earlier_version_are_made_anew(run, caplog):
    (path,) = config_predictions(run)
    member = load_predictions(path)
    store = Store.open(run.data.store)
    samples = store.samples.set_index("sample_id", drop=False).loc[member.ids["sample_id"]]
    about = {
        name: value for name, value in member.about.items() if name not in ("made_from", "submit")
    }
    save_predictions(path, samples, member.ids["part"], read(path), about)
    assert (
        config_predictions(run) == [path]
        and "its store and checkpoints cannot be checked" in caplog.text
    )
    caplog.set_level(logging.INFO)
    predict.predict(run)
    assert "is made anew, for these have changed: version" in caplog.text


@pytest.fixture
def swapped_folds(run):
    """The fold table, fold 0 holding out what fold 1 did and the other way round; as it was in the
    end.
    """
    text = run.folds.file.read_text()
    table = pd.read_csv(run.folds.file, dtype=str)
    table.assign(fold=table.fold.map({"0": "1", "1": "0"}).fillna(table.fold)).to_csv(
        run.folds.file, index=False
    )
    yield
    run.folds.file.write_text(text)


@pytest.mark.parametrize("verb", [predict.predict, embed], ids=["predict", "embed"])
def test_after_another_fold_table_no_model_predicts_what_it_trained_on(run, swapped_folds, verb):
    before = {path: sha256(path) for path in run.run_folder.rglob("*.npz")}
    with pytest.raises(
        InputError, match=r"last.pt: belongs to another training \(held_out differs: it held out"
    ):
        verb(run)
    assert before == {path: sha256(path) for path in run.run_folder.rglob("*.npz")}


@pytest.mark.parametrize("verb", [predict.predict, embed], ids=["predict", "embed"])
def test_the_checkpoint_of_another_fold_predicts_nothing(run, verb):
    before = {path: sha256(path) for path in run.run_folder.rglob("*.npz")}
    path = run.run_folder / "fold0" / "all" / "all" / "last.pt"
    save_checkpoint(path, load_checkpoint(path) | {"fold": 1})
    with pytest.raises(InputError, match=r"last.pt: belongs to another training \(fold differs\)"):
        verb(run)
    assert before == {path: sha256(path) for path in run.run_folder.rglob("*.npz")}


def test_predictions_of_another_fold_table_are_refused(run, swapped_folds):
    with pytest.raises(
        InputError, match=r"out-of-fold samples are not those that fold 0 of .*folds.csv holds out"
    ):
        config_predictions(run)


def test_predictions_of_another_training_are_refused_and_missing_ones_named(run, caplog):
    longer = run.model_copy(update={"stages": (run.stages[0].model_copy(update={"epochs": 7}),)})
    with pytest.raises(InputError, match=r"holds a run of another config.*stages.0.epochs: 1 -> 7"):
        config_predictions(longer)
    other = run.model_copy(update={"seed": 3, "folds": run.folds.model_copy(update={"full": True})})
    config_predictions(other)
    assert "no predictions of seed 3 (those of seed 0 serve)" in caplog.text
    assert "no predictions of the model of all folds" in caplog.text


def test_a_copy_of_predictions_does_not_count_twice(run, tmp_path):
    (path,) = config_predictions(run)
    copy = (
        shutil.copytree(run.run_folder, run.run_folder.with_name("seed0_backup"))
        / "predictions"
        / path.name
    )
    for files in (config_predictions(run), [path, copy]):
        with pytest.raises(
            InputError, match=r"holds the same predictions as .* and would count twice"
        ):
            open_entry(files, run.submit)
    with pytest.raises(InputError, match="is given twice"):
        open_entry([path, path], run.submit)


def test_a_training_is_not_finished_when_its_labels_have_changed(run, plates, caplog):
    (job,) = jobs_of(run)
    assert is_finished(job)
    samples = job.store.samples
    first = job.train[0]
    second = job.train[
        samples.label.iloc[job.train].to_numpy() != samples.label.iloc[job.train[0]]
    ][0]
    samples.loc[samples.index[[first, second]], "label"] = samples.label.iloc[
        [second, first]
    ].to_numpy()
    path = job.folder / "last.pt"
    with pytest.raises(InputError, match="training_labels differs"):
        is_finished(job)
    check_belongs(job, load_checkpoint(path), path, same_samples=False)
    assert "was trained on other samples or labels than its fold has now" in caplog.text
    old = {
        name: value for name, value in load_checkpoint(path).items() if name != "training_labels"
    }
    check_belongs(job, old, path)  # of an earlier version
