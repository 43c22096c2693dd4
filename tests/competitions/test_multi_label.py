"""The contract class of multi-label competitions, on a concrete one of two classes and five ids."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.competitions.base import Competition, registered
from cellsignal.competitions.multi_label import COLUMNS, MultiLabel
from cellsignal.metrics.average_precision import average_precision_table, macro_average_precision

IDS = ("P1_A01", "P1_A02", "P1_A03", "P2_A01", "P2_A02")
CLASSES = ("Chloride channel, blocker", "GPCR agonist")
ROOT = "nowhere"


class Toy(Competition):
    task_class = MultiLabel
    id = "toy"
    target_column = "labels"
    id_column = "well_id"
    fold_groups = ("compound",)

    def samples(self, root):
        raise NotImplementedError

    read = simulate = samples

    def classes(self, root):
        return CLASSES

    def sample_submission(self, root):
        return self.task.placeholders(IDS, CLASSES)

    def answers(self, path):
        return self.task.read_answers(path)


TRUTH = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [0, 0]])
SCORES = np.array([[0.9, -3.0], [0.1, 7.5], [0.8, 2.0], [0.85, 3.0], [-1e9, 0.0]])


TASK = MultiLabel(SimpleNamespace(id="toy", id_column="id", fold_groups=("compound", "plate")))


def submission_of(scores=SCORES):
    return pd.DataFrame(scores, columns=list(CLASSES)).pipe(
        lambda f: pd.concat([pd.Series(IDS, name="well_id"), f], axis=1)
    )


def answers_file(tmp_path, **beside):
    path = tmp_path / "answers.csv"
    submission_of(TRUTH).assign(**beside).to_csv(path, index=False)
    return path


def test_it_is_no_competition_by_itself():
    assert "toy" not in registered() and Toy().higher_is_better
    assert list(Toy().sample_submission(ROOT)) == ["well_id", *CLASSES]


def test_the_score_by_hand(tmp_path):
    """First class: positives at ranks 1 and 3 of 5: (1 + 2/3) / 2. Second: at ranks 2 and 3: (1/2 +
    2/3) / 2.
    """
    answers = Toy().answers(answers_file(tmp_path))
    assert Toy().task.score(submission_of(), answers) == pytest.approx(
        ((1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    )
    assert Toy().task.score(submission_of(TRUTH), answers) == 1.0
    assert Toy().task.score(
        submission_of(), answers.sample(frac=1, random_state=0)
    ) == Toy().task.score(submission_of(), answers)
    assert Toy().task.score(Toy().sample_submission(ROOT), answers) == pytest.approx(0.4), (
        "equal scores: the prevalence"
    )
    assert Toy().task.score(
        submission_of()[["well_id", *CLASSES[::-1]]], answers
    ) == Toy().task.score(submission_of(), answers)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 5), st.booleans())
def test_the_macro_average_is_sklearns(seed, rows, classes, unknown):
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, classes)) < 0.4).astype(float)
    scores = rng.integers(0, 6, (rows, classes)) / 3  # many ties
    if unknown:
        truth[rng.random(truth.shape) < 0.2] = np.nan
    each = []
    for true, score in zip(truth.T, scores.T, strict=True):
        rated = [(t, s) for t, s in zip(true, score, strict=True) if t == t]
        if len({t for t, _ in rated}) == 2:
            each.append(average_precision_score(*zip(*rated, strict=True)))
    if each:
        assert macro_average_precision(truth, scores) == pytest.approx(np.mean(each), abs=1e-12)
    else:
        with pytest.raises(InputError, match=f"none of the {classes} classes"):
            macro_average_precision(truth, scores)


def test_a_class_without_positives_does_not_count(tmp_path):
    answers = Toy().answers(answers_file(tmp_path))
    assert Toy().task.score(submission_of(), answers.assign(**{CLASSES[1]: 0})) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    with pytest.raises(
        InputError, match="none of the 2 classes has both a positive and a negative"
    ):
        Toy().task.score(submission_of(), answers.assign(**dict.fromkeys(CLASSES, 1)))


def test_format_scores_takes_the_order_of_the_sample_submission():
    order = [3, 0, 4, 2, 1]
    made = Toy().task.format_scores([IDS[i] for i in order], SCORES[order].astype(np.float32), ROOT)
    pd.testing.assert_frame_equal(made, submission_of(SCORES.astype(np.float32)), check_dtype=False)
    Toy().task.check_submission(made, Toy().sample_submission(ROOT), CLASSES)
    with pytest.raises(InvalidSubmission, match="1 ids missing, first 'P2_A02'"):
        Toy().task.format_scores(IDS[:4], SCORES[:4], ROOT)
    with pytest.raises(InvalidSubmission, match="1 doubled ids, first 'P1_A01'"):
        Toy().task.format_scores([*IDS, IDS[0]], SCORES[[0, 1, 2, 3, 4, 0]], ROOT)
    with pytest.raises(
        InvalidSubmission,
        match=r"1 scores are not finite numbers, first 'GPCR agonist' of 'P1_A03': inf",
    ):
        Toy().task.format_scores(IDS, np.where((SCORES == 2.0), np.inf, SCORES), ROOT)


def changed(row, column, value):
    frame = submission_of().astype({column: object})
    frame.loc[row, column] = value
    return frame


REFUSED = {
    "no column 'GPCR agonist'": submission_of().drop(columns="GPCR agonist"),
    "no column 'well_id'": submission_of().drop(columns="well_id"),
    "unexpected column 'labels'": submission_of().assign(labels=1),
    "unexpected column 'GPCR agonist'": pd.concat(
        [submission_of(), submission_of()[["GPCR agonist"]]], axis=1
    ),
    "not in the order of the classes, first 'GPCR agonist'": submission_of()[
        ["well_id", *CLASSES[::-1]]
    ],
    "1 ids missing, first 'P1_A02'": submission_of().drop(index=1),
    "1 ids that are not in the test set, first 'P1_A99'": changed(1, "well_id", "P1_A99").pipe(
        lambda f: pd.concat([submission_of(), f.iloc[[1]]], ignore_index=True)
    ),
    "1 doubled ids, first 'P1_A03'": pd.concat(
        [submission_of(), submission_of().iloc[[2]]], ignore_index=True
    ),
    "sample submission's order, first at row 2: 'P2_A02'": submission_of()
    .iloc[::-1]
    .reset_index(drop=True),
    "1 scores are not finite numbers, first 'GPCR agonist' of 'P1_A03': nan": changed(
        2, "GPCR agonist", np.nan
    ),
    "1 scores are not finite numbers, first 'Chloride channel, blocker' of 'P2_A01': -inf": changed(
        3, CLASSES[0], -np.inf
    ),
    "1 scores are not finite numbers, first 'GPCR agonist' of 'P1_A01': 'yes'": changed(
        0, "GPCR agonist", "yes"
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_wrong_submission_is_refused_by_name(message, tmp_path):
    frame = REFUSED[message]
    with pytest.raises(InvalidSubmission, match=re.escape(message)) as caught:
        Toy().task.check_submission(frame, Toy().sample_submission(ROOT), CLASSES)
    assert "\n" not in str(caught.value)
    if "order" not in message:  # scoring needs no order
        with pytest.raises(InvalidSubmission, match=re.escape(message)):
            Toy().task.score(frame, Toy().answers(answers_file(tmp_path)))


def test_a_right_submission_passes():
    Toy().task.check_submission(submission_of(), Toy().sample_submission(ROOT), CLASSES)
    Toy().task.check_submission(
        submission_of(TRUTH.astype(bool)), Toy().sample_submission(ROOT), CLASSES
    )
    Toy().task.check_submission(
        Toy().sample_submission(ROOT), Toy().sample_submission(ROOT), CLASSES
    )


def test_answers_know_the_classes_and_what_stands_beside_them(tmp_path):
    plain = Toy().answers(answers_file(tmp_path))
    assert list(plain.columns) == ["well_id", *CLASSES, "leaderboard"] and set(
        plain.leaderboard
    ) == {"private"}
    assert (plain[list(CLASSES)].to_numpy() == TRUTH).all() and list(plain.well_id) == list(IDS)
    board = ["public", "public", "private", "private", "private"]
    full = Toy().answers(
        answers_file(tmp_path, compound=list("aabbc"), leaderboard=board, plate=[1, 1, 1, 2, 2])
    )
    assert list(full.columns) == ["well_id", *CLASSES, "leaderboard", "compound", "plate"]
    assert (
        list(full.leaderboard) == board
        and list(full.plate) == ["1", "1", "1", "2", "2"]
        and list(full.compound) == list("aabbc")
    )


def test_answers_are_read_with_a_byte_order_mark_and_other_line_ends(tmp_path):
    path = answers_file(tmp_path)
    expected = Toy().answers(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    pd.testing.assert_frame_equal(Toy().answers(path), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("well_id,A\n", "has a header but no rows"),
        ("id,A\nx,1\n", "no column 'well_id'"),
        ("well_id,compound\nx,c\n", "no column of a class"),
        ("well_id,A,A\nx,1,1\n", "column 'A' occurs twice in the header"),
        ("well_id,A\nx,1\ny,0\nx,1\n", "row 4: well_id 'x' occurs more than once"),
        ("well_id,A\nx,1\n,0\n", "row 3: well_id is empty"),
        ("well_id,A\nx,1\ny,\n", "row 3: A '' is neither 0 nor 1"),
        ("well_id,A,B\nx,1,0\ny,0,0.5\nz,0,2\n", "row 3: B '0.5' is neither 0 nor 1 (2 such rows)"),
        ("well_id,A,compound\nx,1,c\ny,0,\n", "row 3: compound '' is empty"),
        (
            "well_id,A,leaderboard\nx,1,public\ny,0,secret\n",
            "row 3: leaderboard 'secret' is not one of",
        ),
        ("well_id,A\nx,1,2\n", "row 2 has 3 cells, the header has 2"),
    ],
)
def test_damaged_answers_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "answers.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Toy().answers(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        Toy().answers(tmp_path / "none.csv")


# a submission
# --------------------------------------------------------------------------------------------------


def screen(compounds=60, wells=6, classes=3, share=0.2, signal=1.5, noise=1.0, seed=0):
    """Wells of compounds: truth (N, K) and scores (N, K), of which `noise` is the compound's own;
    compound (N,).
    """
    rng = np.random.default_rng(seed)
    truth = rng.random((compounds, classes)) < share
    truth[:2] = [[True] * classes, [False] * classes]
    scores = truth * signal + noise * rng.normal(size=truth.shape)
    compound = np.repeat(np.arange(compounds), wells)
    return (
        truth[compound],
        scores[compound] + 1e-3 * rng.normal(size=(len(compound), classes)),
        compound.astype(str),
    )


def competition_of(seed=0, wells=3):
    truth, scores, compound = screen(compounds=40, wells=wells, seed=seed)
    ids = pd.Series([f"P_{i:03d}" for i in range(len(truth))], name="id", dtype=object)
    answers = pd.concat([ids, pd.DataFrame(truth.astype("int8"), columns=list("abc"))], axis=1)
    number = compound.astype(int)
    answers = answers.assign(
        leaderboard=np.where(number % 4 == 1, "public", "private"),
        compound=compound,
        cell_type=np.where(np.arange(len(number)) % 3 == 0, "A549", "HEPG2"),
    )
    return answers, pd.concat([ids, pd.DataFrame(scores, columns=list("abc"))], axis=1)


def test_every_slice_against_sklearn():
    answers, submission = competition_of()
    table = TASK.score_table(submission, answers)
    assert list(table.columns) == list(COLUMNS) and (table.unit == "compound").all()
    assert list(zip(table["slice"], table["name"], strict=True)) == [
        ("overall", "overall"),
        ("public", "public"),
        ("private", "private"),
        ("cell_type", "A549"),
        ("cell_type", "HEPG2"),
        ("class", "a"),
        ("class", "b"),
        ("class", "c"),
    ]
    rows = table.set_index("name")
    for name, inside in {
        "overall": answers.id.notna(),
        "public": answers.leaderboard == "public",
        "private": answers.leaderboard == "private",
        "A549": answers.cell_type == "A549",
        "HEPG2": answers.cell_type == "HEPG2",
    }.items():
        parts = [(answers[c][inside], submission[c][inside]) for c in "abc"]
        assert rows.average_precision[name] == pytest.approx(
            np.mean([average_precision_score(*part) for part in parts])
        )
        assert rows.roc_auc[name] == pytest.approx(
            np.mean([roc_auc_score(*part) for part in parts])
        )
        assert rows.prevalence[name] == pytest.approx(
            answers[list("abc")][inside].to_numpy().mean()
        )
        assert (
            rows.n[name] == inside.sum()
            and rows.low[name] < rows.average_precision[name] < rows.high[name]
        )
    for name in "abc":
        assert rows.average_precision[name] == pytest.approx(
            average_precision_score(answers[name], submission[name])
        )
        assert rows.positives[name] == answers[name].sum()
    expected = average_precision_table(
        answers[list("abc")], submission[list("abc")], "abc", answers.compound
    )
    assert (rows.low["overall"], rows.high["overall"]) == (expected.low[0], expected.high[0])
    lines = TASK.table_text(table).splitlines()
    assert (
        len(lines) == 2 + len(table) + 1
        and lines[-1] == "95 % intervals over compounds; none with fewer than 3 of them"
        and "cell_type  A549" in lines[5]
    )


def test_truth_scores_one_and_order_does_not_matter():
    answers, submission = competition_of()
    truth = TASK.score_table(answers[["id", *"abc"]], answers)
    assert (
        (truth.average_precision == 1).all()
        and (truth.roc_auc == 1).all()
        and (truth.low < 1).all()
        and (truth.high == 1).all()
    )
    straight = TASK.score_table(submission, answers)
    mixed = submission.sample(frac=1, random_state=1)[["c", "id", "a", "b"]]
    pd.testing.assert_frame_equal(TASK.score_table(mixed, answers), straight)
    monotone = submission.assign(**{c: np.exp(3 * submission[c]) for c in "abc"})
    pd.testing.assert_frame_equal(TASK.score_table(monotone, answers), straight)


def test_the_unit_of_intervals_is_said():
    answers, submission = competition_of()
    for known, name in (
        ({"experiment": "E1"}, "experiment"),
        ({"experiment": "E1", "plate": "P"}, "plate"),
        ({}, "id"),
    ):
        table = TASK.score_table(submission, answers[["id", *"abc"]].assign(**known))
        assert set(table.unit) == {name} and set(table["slice"]) == {"overall", "class"}
        assert table.low.isna().all() and set(table.units) == {int(name != "id")}


def test_score_refuses_what_the_answers_do_not_know():
    answers, submission = competition_of()
    for message, frame in {
        "1 ids missing, first 'P_000'": submission.iloc[1:],
        "no column 'b'": submission.drop(columns="b"),
        "first 'c' of 'P_000': nan": submission.assign(c=submission.c.where(submission.index > 0)),
    }.items():
        with pytest.raises(InvalidSubmission, match=re.escape(message)):
            TASK.score_table(frame, answers)
    with pytest.raises(InputError, match="there are none"):
        TASK.score_table(submission.iloc[:0], answers.iloc[:0])


def test_read_submission_gives_back_what_was_written(tmp_path):
    _, submission = competition_of()
    path = tmp_path / "s.csv"
    submission[["b", "id", "a", "c"]].to_csv(path, index=False)
    pd.testing.assert_frame_equal(TASK.read_submission(path, submission), submission)
    path.write_bytes(b'\xef\xbb\xbfid,"x, y"\r\n007, -1e-3\r\nNA,.5\r\n3,7\r\n')
    frame = TASK.read_submission(path, pd.DataFrame(columns=["id", "x, y"]))
    assert frame["id"].tolist() == ["007", "NA", "3"] and frame["x, y"].tolist() == [
        -0.001,
        0.5,
        7.0,
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"id,a,b\n", "has a header but no rows"),
        (b"id,a\nx,1\n", "no column 'b'"),
        (b"well,a,b\nx,1,2\n", "no column 'id'"),
        (b"id,a,b,c\nx,1,2,3\n", "unexpected column 'c'"),
        (b"id,a,b,a\nx,1,2,3\n", "column 'a' occurs twice in the header"),
        (b"id,a,b\nx,1,2\n,1,2\nnan,1,2\n", "id is empty in line 3 (2 such lines)"),
        (b"id,a,b\nx,1,2\ny,1,\n", "b in line 3: is empty"),
        (b"id,a,b\nx,1,2\ny,1\n", "row 3 has 2 cells, the header has 3"),
        (
            b"id,a,b\nx,1,2\ny,nan,2\nz,inf,2\n",
            "a in line 3: 'nan' is not a finite number (2 such lines)",
        ),
        (b"id,a,b\nx,1e999,2\n", "a in line 2: '1e999' is not a finite number"),
        (b"id,a,b\nx,1,high\n", "b in line 2: 'high' is not a finite number"),
        (b"id,a,b\nx,1,0x10\n", "b in line 2: '0x10' is not a finite number"),
        (b"id,a,b\nx,1,1_0\n", "b in line 2: '1_0' is not a finite number"),
        (b"id,a,b\nx,1,2,3\n", "row 2 has 4 cells, the header has 3"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1 is not UTF-8 text"),
    ],
)
def test_read_submission_says_what_is_wrong_in_one_line(tmp_path, content, message):
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidSubmission, match=re.escape(message)) as caught:
        TASK.read_submission(path, pd.DataFrame(columns=["id", "a", "b"]))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
