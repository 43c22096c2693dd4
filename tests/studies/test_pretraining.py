"""The pretraining study in small: what each row changes, and its figures against what runs wrote."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tiny import make_config, make_plates, stage

from cellsignal.common.errors import InputError
from cellsignal.metrics.paired import compare_means
from cellsignal.prediction.container import load_predictions
from cellsignal.studies.pretraining.bench import Bench, Scored, job_features, range_of
from cellsignal.studies.pretraining.page import (
    command_text,
    difference_text,
    pretraining_page,
    seeds_of,
    table,
    told_apart,
)
from cellsignal.studies.pretraining.rows import NETWORKS, config_of_row
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.plan import jobs_of
from cellsignal.training.run import train

UNIT = np.array(list("abcdefgh"))


def row(title, *seeds):
    return Scored(title, np.array(seeds, bool), UNIT)


def rows_of_a_table(better=(1, 1, 1, 1, 1, 1, 1, 0)):
    scratch = row("from scratch", [0, 0, 0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 1, 0])
    return [
        scratch,
        row("longer", [1, 1, 0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0, 1, 0]),
        row("SimCLR, then fine-tuned", better, better),
        row("VICReg, then fine-tuned", [0, 0, 0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 1, 0]),
        Scored("imagenet", np.zeros((0, 8), bool), UNIT, "no ImageNet weights"),
    ]


def test_a_row_is_compared_well_by_well_over_units_with_its_seeds_together():
    rows = rows_of_a_table()
    paired = rows[2].against(rows[0])
    expected = compare_means([1] * 7 + [0], [0, 0.5, 0, 0.5, 0, 0, 1, 0], UNIT)
    assert paired == expected and paired.units == 8
    assert rows[0].accuracy == pytest.approx(4 / 16)
    assert rows[1].seeds_sd == pytest.approx(0) and np.isnan(row("one", [1] * 8).seeds_sd)


def test_the_table_says_every_row_and_what_was_not_measured():
    lines = table(rows_of_a_table()).splitlines()
    assert len(lines) == 2 + 5 and {line.count("|") for line in lines} == {7}
    assert "not measured: no ImageNet weights" in lines[-1]
    first, second = (line.split("|")[1:-1] for line in (lines[2], lines[4]))
    assert first[3].strip() == "" and second[3].strip().startswith("+0.625 [")
    assert difference_text(rows_of_a_table()[3].against(rows_of_a_table()[0])) == "+0.000"


@pytest.mark.parametrize(
    "values, words",
    [
        ([1, 1, 1, 1, 1, 1, 1, 0], "better than"),
        ([0, 0, 0, 1, 1, 0, 0, 1], "not told apart from"),
    ],
)
def test_the_verdict_is_where_the_interval_lies(values, words):
    one, other = row("one", values), rows_of_a_table()[0]
    assert told_apart(one.against(other)) == words
    opposite = {"better than": "worse than"}.get(words, words)
    assert told_apart(other.against(one)) == opposite


def test_an_equal_difference_everywhere_has_no_interval():
    assert told_apart(row("all", [1] * 8).against(row("none", [0] * 8))).startswith("without")
    assert range_of([3, 3]) == "3" and range_of([5, 3]) == "3 to 5"


def test_seeds_are_given_once_or_once_for_each_config():
    assert seeds_of(None, 2) == [(0, 1, 2)] * 2 and seeds_of([[4]], 3) == [[4]] * 3
    assert seeds_of([[0, 1], [2]], 2) == [[0, 1], [2]]
    assert "--seeds 0 1 --seeds 2 --out" in command_text(["a", "b"], [[0, 1], [2]])
    assert command_text(["a", "b"], [[3], [3]]).count("--seeds 3") == 1
    for lists, words in (([[0], [1]], "given 2 times for 3 configs"), ([[1, 1]], "given twice")):
        with pytest.raises(InputError, match=words):
            seeds_of(lists, 3)


# on trained runs
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_plates(tmp_path_factory.mktemp("pretraining"))


def reference(place, **more):
    views = stage(
        "views",
        batch_size=12,
        self_supervised={"images": "all", "projection": [16, 8]},
        augment=[{"name": "random_resized_crop", "size": 12}, {"name": "rotate90"}],
    )
    stages = [views, stage("labels", init="previous", epochs=3)]
    folds = {"file": place / "folds.csv"}
    values = {"predict": {"tta": 2}, "folds": folds, "stages": stages} | more
    return make_config(place, place / "runs", **values)


@pytest.fixture(scope="module")
def bench(place):
    folds = {"file": place / "folds.csv", "use": [0]}  # half of the time
    bench = Bench(reference(place, folds=folds), (0, 1))
    bench.check()
    bench.train()
    return bench


@pytest.mark.slow
def test_rows_differ_from_the_reference_in_what_they_say(place):
    config = reference(place)
    rows = {network.name: config_of_row(config, network.name, 3) for network in NETWORKS}
    assert rows["simclr"].stages == config.stages and {row.seed for row in rows.values()} == {3}
    assert rows["vicreg"].stages[0].self_supervised.loss == "vicreg"
    assert rows["vicreg"].stages[1] == config.stages[1]
    gentle = rows["gentle"].stages[1].optimizer
    assert gentle.lr == config.stages[1].optimizer.lr / 4 and gentle.name == "adamw"
    assert rows["gentle"].stages[0] == config.stages[0]
    for name in ("scratch", "longer", "untrained"):
        (only,) = rows[name].stages
        assert only.init == "scratch" and only.self_supervised is None
        assert only.optimizer == config.stages[1].optimizer
    assert rows["untrained"].model.frozen and not rows["scratch"].model.frozen
    # 4 of 8 experiments train: 4 x 8 wells x 2 sites of 24 px, 3 epochs. No fold holds out the 4
    # of the test split: with controls 4 x 4 x (2 + 1 + 1) x 2 images more, and 64 of controls,
    # two views of 12 px each, 2 epochs
    labelled, others = 64 * 24 * 24, (64 + 64 + 128) * 2 * 12 * 12 * 2
    assert rows["longer"].stages[0].epochs == round((3 * labelled + others) / labelled)


@pytest.mark.slow
def test_figures_are_those_of_loops_over_what_the_runs_wrote(bench):
    rows = {scored.title: scored for scored in bench.rows()}
    assert len(rows) == 13 and list(rows)[1].startswith("longer: ")
    samples = bench.jobs[0].store.samples
    for number, seed in enumerate(bench.seeds):
        config = config_of_row(bench.reference, "simclr", seed)
        files = sorted((config.run_folder / "predictions").glob("*.npz"))
        right = {}
        for member in map(load_predictions, files):
            assert member.about["stage"] == "labels"
            held_out = member.ids["part"] == "oof"
            logits = np.mean([member.logits(view).astype(float) for view in member.views], axis=0)
            table = pd.DataFrame(logits[held_out]).groupby(member.ids["well_id"][held_out]).mean()
            label = pd.Series(member.label[held_out], member.ids["well_id"][held_out])
            for well, values in table.iterrows():
                right[well] = values.argmax() == label.loc[[well]].iloc[0]
        expected = [right[well] for well in bench.wells.well_id]
        np.testing.assert_array_equal(
            rows["SimCLR, then fine-tuned"].right[number], np.array(expected)
        )
    wells = samples[samples.label.notna()].drop_duplicates("well_id").set_index("well_id")
    unit = rows["SimCLR, frozen"].unit
    assert (unit == wells.experiment.loc[bench.wells.well_id].to_numpy()).all()


@pytest.mark.slow
def test_frozen_features_are_classified_by_training_wells_alone(bench):
    """Against scikit-learn's pipeline on the same features."""
    config = config_of_row(bench.reference, "vicreg", 0)
    right = {}
    for job in (job for job in jobs_of(config) if job.stage_index == 0):
        rows = np.concatenate([job.train, job.valid])
        samples = job.store.samples.iloc[rows]
        x = pd.DataFrame(job_features(job, rows).astype(float), index=samples.index)
        centred = x - x.groupby([samples.experiment, samples.plate]).transform("mean")
        both = pd.DataFrame(np.hstack([x, centred]), samples.well_id).groupby(level=0).mean()
        trains = samples.well_id.iloc[: len(job.train)].unique()
        asked = samples.well_id.iloc[len(job.train) :].unique()
        label = samples.groupby("well_id").label.first().astype(int)
        scaler = StandardScaler().fit(both.loc[trains])
        model = LogisticRegression(class_weight="balanced", max_iter=5000)
        model.fit(scaler.transform(both.loc[trains]), label[trains])
        found = model.predict(np.clip(scaler.transform(both.loc[asked]), -10, 10))
        right |= dict(zip(asked, found == label[asked].to_numpy(), strict=True))
    rows = {scored.title: scored for scored in bench.rows()}
    expected = np.array([right[well] for well in bench.wells.well_id])
    assert (rows["VICReg, frozen"].right[0] == expected).mean() > 0.97  # ties of rounding


@pytest.mark.slow
def test_a_first_stage_that_is_handed_on_is_what_training_gives(bench, place):
    """The gentle row's weights are those of a run that trained both stages itself."""
    config = config_of_row(bench.reference, "gentle", 1)
    alone = config.model_copy(update={"runs": place / "alone"})
    train(alone)
    for ours, theirs in zip(jobs_of(config), jobs_of(alone), strict=True):
        states = [load_checkpoint(job.folder / "last.pt")["model"] for job in (ours, theirs)]
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            torch.testing.assert_close(value, states[1][name], rtol=0, atol=0)


@pytest.mark.slow
def test_the_page_has_every_row_and_a_second_run_changes_nothing(bench):
    text = pretraining_page([bench], ["configs/tiny.yaml"])
    bench.train()
    assert pretraining_page([bench], ["configs/tiny.yaml"]) == text
    assert "cellsignal study pretraining configs/tiny.yaml " in text and "--seeds 0 1 " in text
    assert "64 labelled images a fold, 256 images in the pretraining" in text
    assert "32 wells of 4 experiments" in text
    assert text.count("then fine-tuned") == 3 + 3
    assert text.count("- SimCLR") == 3 and text.count("as initialised.") == 2


@pytest.mark.parametrize(
    "stages, words",
    [
        ([stage("labels")], "two stages"),
        ([stage("first"), stage("labels", init="previous")], "self_supervised"),
    ],
)
def test_another_kind_of_config_is_refused(tmp_path, stages, words):
    config = make_config(tmp_path, tmp_path / "runs", stages=stages)
    with pytest.raises(InputError, match=words):
        Bench(config, (0,)).check()
