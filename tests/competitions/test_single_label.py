import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

from cellsignal.common.errors import InvalidSubmission
from cellsignal.competitions.single_label import COLUMNS, SingleLabel
from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.metrics.intervals import mean_interval

TASK = SingleLabel(
    SimpleNamespace(
        comparable=lambda frame, name: frame,
        id="toy",
        id_column="id",
        target_column="class",
        fold_groups=("experiment",),
    )
)


def answers_table(seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        (f"{e}_{p}_{w}", int(rng.integers(5)), board, e, p, e.split("-")[0])
        for e, board in (
            ("HUVEC-1", "public"),
            ("HUVEC-2", "private"),
            ("RPE-1", "private"),
            ("RPE-2", "private"),
        )
        for p in (1, 2)
        for w in range(25)
    ]
    return pd.DataFrame(
        rows, columns=["id", "class", "leaderboard", "experiment", "plate", "cell_type"]
    )


def submission_for(answers, seed=0):
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(answers)) < 0.4
    return pd.DataFrame(
        {
            "id": answers["id"],
            "class": np.where(wrong, (answers["class"] + 1) % 5, answers["class"]),
        }
    )


def test_every_slice_against_sklearn():
    answers = answers_table()
    submission = submission_for(answers)
    table = TASK.score_table(submission, answers)
    assert list(table.columns) == list(COLUMNS)
    assert table["slice"].value_counts().to_dict() == dict(
        overall=1, public=1, private=1, cell_type=2, experiment=4, plate=8
    )
    masks = {
        ("overall", "overall"): answers["id"].notna(),
        ("public", "public"): answers.experiment == "HUVEC-1",
        ("private", "private"): answers.experiment != "HUVEC-1",
        ("cell_type", "RPE"): answers.cell_type == "RPE",
        ("experiment", "HUVEC-2"): answers.experiment == "HUVEC-2",
        ("plate", "RPE-2/2"): (answers.experiment == "RPE-2") & (answers.plate == 2),
    }
    by_name = table.set_index(["slice", "name"])
    for key, inside in masks.items():
        row = by_name.loc[key]
        assert row.accuracy == pytest.approx(
            accuracy_score(answers["class"][inside], submission["class"][inside])
        )
        assert row.n == inside.sum() and (row.wilson_low, row.wilson_high) == pytest.approx(
            wilson_interval(row.correct, row.n)
        )
    for kind in ("cell_type", "experiment", "plate"):
        part = table[table["slice"] == kind]
        assert (part.correct.sum(), part.n.sum()) == (by_name.correct.iloc[0], 200)


def test_intervals_are_over_experiments():
    answers = answers_table()
    submission = submission_for(answers)
    table = TASK.score_table(submission, answers).set_index(["slice", "name"])
    right = (submission["class"] == answers["class"]).to_numpy()
    expected = mean_interval(right, answers.experiment)
    overall = table.loc[("overall", "overall")]
    assert (overall.low, overall.high) == expected
    assert (overall.unit, overall.units) == ("experiment", answers.experiment.nunique())
    assert math.isnan(table.loc[("public", "public")].low)
    assert math.isnan(table.loc[("experiment", "RPE-1")].high)


def test_row_order_and_number_types_do_not_matter():
    answers = answers_table()
    submission = submission_for(answers)
    straight = TASK.score_table(submission, answers)
    shuffled = submission.sample(frac=1, random_state=1).astype({"class": str})
    pd.testing.assert_frame_equal(TASK.score_table(shuffled, answers), straight)
    truth = TASK.score_table(answers[["id", "class"]], answers)
    assert (truth.accuracy == 1).all()


def test_answers_without_a_break_down_give_one_row():
    answers = answers_table()
    table = TASK.score_table(submission_for(answers), answers[["id", "class"]])
    assert table["slice"].tolist() == ["overall"] and math.isnan(table.low[0])
    assert table.units[0] == 0 and TASK.table_text(table).endswith(
        "no interval: the answers name no experiment, plate or compound"
    )


def test_score_refuses_wrong_ids_and_missing_targets():
    answers = answers_table()
    submission = submission_for(answers)
    bad = {
        "1 ids missing": submission.iloc[1:],
        "1 doubled ids": pd.concat([submission, submission.iloc[:1]]),
        "1 ids that are not": pd.concat([submission, pd.DataFrame({"id": ["x"], "class": [1]})]),
        "1 targets are missing, first that of 'HUVEC-1_1_3'": submission.assign(
            **{"class": submission["class"].astype(object).where(submission.index != 3, None)}
        ),
        "no column 'class'": submission[["id"]],
    }
    for message, frame in bad.items():
        with pytest.raises(InvalidSubmission, match=message):
            TASK.score_table(frame, answers)


def test_read_submission_gives_text_ids_and_whole_targets(tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes(b"\xef\xbb\xbfid,class\r\n007, 12\r\nNA,-1\r\n")
    frame = TASK.read_submission(path, pd.DataFrame())
    assert frame["id"].tolist() == ["007", "NA"] and frame["class"].tolist() == [12, -1]
    assert frame["class"].dtype == "int64"
    path.write_text("class,id\nActin disruptors,a\nDMSO,b\n")
    frame = TASK.read_submission(path, pd.DataFrame())
    assert list(frame.columns) == ["id", "class"] and frame["class"].tolist() == [
        "Actin disruptors",
        "DMSO",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"id,class\n", "has a header but no rows"),
        (b"id,label\na,1\n", "no column 'class'; it has"),
        (b"id,class,extra\na,1,2\n", "unexpected column 'extra'"),
        (b"id,class,class\na,1,2\n", "column 'class' occurs twice in the header"),
        (b"id,class\na,1\nb,\nc,nan\n", r"class is empty in line 3 \(2 such lines\)"),
        (b"id,class\na,1\n,2\n", "id is empty in line 3"),
        (b"id,class\na,1\nb\n", "row 3 has 1 cells, the header has 2"),
        (b"id,class\na,1\nb,2.5\n", "'2.5' in line 3 is not a whole number"),
        (b"id,class\na,1.0\nb,2.0\n", "'1.0' in line 2 is not a whole number"),
        (b"id,class\na,1\nb,two\n", "'two' in line 3 is not a whole number"),
        (b"id,class\na,1,2,3\n", "row 2 has 4 cells, the header has 2"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1 is not UTF-8 text"),
        (b"id,class\x00\na,1\n", "is not a CSV file"),
    ],
)
def test_read_submission_says_what_is_wrong_in_one_line(tmp_path, content, message):
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidSubmission, match=message) as caught:
        TASK.read_submission(path, pd.DataFrame())
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_read_submission_names_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InvalidSubmission, match="no such file"):
        TASK.read_submission(tmp_path / "none.csv", pd.DataFrame())
    with pytest.raises(InvalidSubmission, match="is a folder"):
        TASK.read_submission(tmp_path, pd.DataFrame())
