"""The two-stage bench: its splits leak as they should, its figures are those of the files and the
answers, and it goes on where it was.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import cellsignal, error_line
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.config import load_config
from cellsignal.data.folds import read_folds
from cellsignal.data.store import Store
from cellsignal.metrics.accuracy import Accuracy
from cellsignal.metrics.intervals import mean_interval
from cellsignal.studies.two_stage import (
    Bench,
    Outcome,
    bench_two_stage,
    flawed,
    random_wells,
    right,
    summary,
    summary_text,
)
from cellsignal.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(prepared, tmp_path_factory) -> Bench:
    space = prepared("rxrx1")
    return Bench(
        space.root,
        space.folder / "store",
        space.answers,
        tmp_path_factory.mktemp("two_stage"),
        (2, 1),
        "test_resnet",
    )


@pytest.fixture(scope="module")
def outcomes(bench) -> list[Outcome]:
    return [*flawed(bench, 0), *right(bench, 0)]


# splits
# --------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(wells=st.integers(2, 300), share=st.floats(0.01, 0.5), seed=st.integers(0, 99))
def test_random_wells_holds_out_the_share_and_never_a_site_alone(wells, share, seed):
    names = np.repeat([f"w{i:03d}" for i in range(wells)], 2)
    samples = pd.DataFrame({"well_id": names, "split": "train", "role": "treatment", "label": 0})
    others = pd.DataFrame(
        {
            "well_id": ["test", "control"],
            "split": ["test", "train"],
            "role": ["treatment", "positive_control"],
        }
    )
    table = random_wells(
        pd.concat([samples, others.assign(label=1)], ignore_index=True), share, seed
    )
    assert sorted(table.well_id) == sorted(set(names))
    assert (table.fold == 0).sum() == max(1, round(share * wells)) and set(table.fold) == {-1, 0}


def test_random_wells_is_a_fold_table_and_its_seed_decides(bench, tmp_path):
    samples = Store.open(bench.store).samples
    drawn = [random_wells(samples, 0.2, seed) for seed in ([0, 1], [0, 1], [0, 2])]
    pd.testing.assert_frame_equal(drawn[0], drawn[1])
    assert not drawn[0].equals(drawn[2])
    write_csv(tmp_path / "folds.csv", drawn[0])
    table = read_folds(tmp_path / "folds.csv", samples)
    assert (
        table.group == "well_id"
        and table.validation(samples, 0).sum() == 2 * (drawn[0].fold == 0).sum()
    )


def test_the_flawed_second_stage_validates_on_what_the_first_was_trained_on_the_right_one_never(
    bench, outcomes
):
    """The share, counted from the tables with plain sets."""
    tables = [
        pd.read_csv(bench.runs / "folds" / f"wells_seed0_stage{stage}.csv") for stage in (1, 2)
    ]
    held_out = [set(table.well_id[table.fold == 0]) for table in tables]
    found = {(o.protocol, o.stage): o.reused for o in outcomes}
    assert found["flawed", 2] == len(held_out[1] - held_out[0]) / len(held_out[1]) > 0
    assert {found[key] for key in found if key != ("flawed", 2)} == {0}


def test_the_configs_differ_in_folds_second_augmentation_and_checkpoint_alone(bench, outcomes):
    path = {
        name: bench.runs / name / "seed0" / "config.yaml"
        for name in ("flawed_stage1", "flawed_stage2", "right")
    }
    one, two, good = (
        load_config(path[name]) for name in ("flawed_stage1", "flawed_stage2", "right")
    )
    assert one.stages[0] == good.stages[0] and good.stages[0].augment
    assert (
        two.stages[0] == good.stages[1].model_copy(update={"augment": (), "init": "scratch"})
        and good.stages[1].augment
    )
    assert one.model == good.model == two.model.model_copy(update={"weights": None})
    assert [c.predict.checkpoint for c in (one, two, good)] == ["best", "best", "last"]
    assert read_folds(good.folds.file, Store.open(bench.store).samples).group == "experiment"


def test_the_flawed_second_stage_starts_from_the_first_ones_best_weights(bench, outcomes):
    best = load_checkpoint(
        bench.runs / "flawed_stage1" / "seed0" / "fold0" / "all" / "all" / "best.pt"
    )["model"]
    weights = load_file(bench.runs / "weights" / "flawed_stage1_seed0.safetensors")
    assert weights.keys() == best.keys()
    assert all(torch.equal(weights[name], best[name]) for name in best)


# figures
# --------------------------------------------------------------------------------------------------


def from_file(path, part: str) -> pd.DataFrame:
    """target_id, label and predicted class of a predictions file, with numpy alone: mean logits of
    a well's sites, argmax.
    """
    with np.load(path) as file:
        mine = file["part"] == part
        keys = pd.DataFrame({"target_id": file["target_id"][mine], "label": file["label"][mine]})
        logits = pd.DataFrame(file["view.identity"][mine].astype(np.float32))
    frame = logits.groupby([keys.target_id, keys.label]).mean()
    return frame.index.to_frame(index=False).assign(found=frame.to_numpy().argmax(1))


def test_outcomes_are_what_files_and_answers_say(bench, outcomes):
    answers = pd.read_csv(bench.answers, dtype=str).set_index("id_code").sirna
    files = {  # validated, tested
        ("flawed", 1): ("flawed_stage1", "fold0_all", "fold0_all"),
        ("flawed", 2): ("flawed_stage2", "fold0_cell_type", "fold0_cell_type"),
        ("right", 1): ("right", "fold0_all", "fold0_all"),
        ("right", 2): ("right", "fold0_cell_type", "fold0_cell_type"),
        ("right, all wells", 1): ("right", "fold0_all", "full_all"),
        ("right, all wells", 2): ("right", "fold0_cell_type", "full_cell_type"),
    }
    assert [(o.protocol, o.stage) for o in outcomes] == list(files)
    for outcome in outcomes:
        run, *names = files[outcome.protocol, outcome.stage]
        validated, tested = (
            bench.runs / run / "seed0" / "predictions" / f"{name}.npz" for name in names
        )
        test = from_file(tested, "test")
        right = [str(row.found) == answers[row.target_id] for row in test.itertuples()]
        assert outcome.correct.tolist() == right and len(right) == len(answers)
        assert outcome.experiment.tolist() == [name.split("_")[0] for name in test.target_id]
        held_out = from_file(validated, "oof")
        figure = outcome.validation.correct, outcome.validation.total
        assert figure == ((held_out.found == held_out.label).sum(), len(held_out))


def outcome(protocol, stage, seed, valid, test, reused=0.0):
    correct = np.array([True] * test + [False] * (8 - test))
    return Outcome(
        protocol,
        stage,
        seed,
        Accuracy.of(valid, 10),
        correct,
        np.array(["A", "B", "C", "D"] * 2),
        reused,
    )


def test_the_summary_of_figures_worked_by_hand():
    """Flawed: validation .5 and .7, test 4/8 and 6/8; then .9 and .9, test 2/8 and 6/8. Seeds given
    in any order are paired.
    """
    made = [
        outcome("flawed", 1, 0, 5, 4),
        outcome("flawed", 2, 0, 9, 2, 1.0),
        outcome("flawed", 2, 1, 9, 6, 0.5),
        outcome("flawed", 1, 1, 7, 6),
    ]
    table = summary(made).set_index("stage")
    assert table.loc[
        1, ["validation", "test", "optimism", "wells", "reused"]
    ].tolist() == pytest.approx([0.6, 0.625, -0.025, 20, 0])
    assert table.loc[
        2, ["validation", "test", "optimism", "wells", "reused"]
    ].tolist() == pytest.approx([0.9, 0.5, 0.4, 20, 0.75])
    assert table.loc[[1, 2], "test_sd"].tolist() == pytest.approx([0.125 * 2**0.5, 0.25 * 2**0.5])
    assert (
        np.isnan(table.test_gain[1])
        and table.test_gain[2] == pytest.approx(-0.125)
        and table.test_gain_sd[2] == pytest.approx(0.125 * 2**0.5)
    )
    both = np.concatenate([made[0].correct, made[3].correct])
    assert (table.low[1], table.high[1]) == mean_interval(both, ["A", "B", "C", "D"] * 4)
    assert summary_text(summary(made)).splitlines()[3].split()[-3:] == ["(0.177)", "+0.400", "75%"]


def test_one_seed_has_no_sd(outcomes):
    table = summary(outcomes)
    assert table.test_sd.isna().all() and table.test_gain.isna().tolist() == [True, False] * 3
    assert len(summary_text(table).splitlines()) == 2 + 6


def test_the_verb_goes_on_where_it_was_and_prints_the_table(bench, outcomes, capsys, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in bench.runs.rglob("*.pt")}
    where = (
        "--root",
        bench.root,
        "--store",
        bench.store,
        "--answers",
        bench.answers,
        "--runs",
        bench.runs,
    )
    how = ("--seeds", 0, "--epochs", *bench.epochs, "--backbone", bench.backbone)
    assert cellsignal("study", "two-stage", *where, *how, cwd=tmp_path) == 0
    assert capsys.readouterr().out.strip() == summary_text(summary(outcomes))
    assert {path: path.stat().st_mtime_ns for path in bench.runs.rglob("*.pt")} == before


# bad input
# --------------------------------------------------------------------------------------------------


def test_answers_that_lack_an_id_are_refused_before_training(bench, tmp_path):
    short = pd.read_csv(bench.answers, dtype=str).iloc[1:]
    write_csv(tmp_path / "short.csv", short)
    with pytest.raises(InputError, match=r"short.csv: has no answer for 1 test ids"):
        bench_two_stage(replace(bench, answers=tmp_path / "short.csv", runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_store_that_is_not_there_is_one_line(bench, capsys, tmp_path):
    where = ("--root", bench.root, "--store", "nowhere", "--answers", bench.answers)
    assert "nowhere" in error_line(capsys, "study", "two-stage", *where, cwd=tmp_path)
