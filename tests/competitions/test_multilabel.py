"""The contract class of multi-label competitions, on a concrete one of two classes and five ids."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.competitions.base import registered
from cellsignal.competitions.multilabel import MultilabelCompetition
from cellsignal.metrics.average_precision import macro_average_precision

IDS = ("P1_A01", "P1_A02", "P1_A03", "P2_A01", "P2_A02")
CLASSES = ("Chloride channel, blocker", "GPCR agonist")
ROOT = "nowhere"


class Toy(MultilabelCompetition):
    id = "toy"
    id_column = "well_id"
    fold_groups = ("compound",)

    def samples(self, root):
        raise NotImplementedError

    read = simulate = samples

    def classes(self, root):
        return CLASSES

    def sample_submission(self, root):
        return self.placeholders(IDS, root)


TRUTH = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [0, 0]])
SCORES = np.array([[0.9, -3.0], [0.1, 7.5], [0.8, 2.0], [0.85, 3.0], [-1e9, 0.0]])


def submission_of(scores=SCORES):
    return pd.DataFrame(scores, columns=list(CLASSES)).pipe(
        lambda f: pd.concat([pd.Series(IDS, name="well_id"), f], axis=1)
    )


def answers_file(tmp_path, **beside):
    path = tmp_path / "answers.csv"
    submission_of(TRUTH).assign(**beside).to_csv(path, index=False)
    return path


def test_it_is_no_competition_by_itself():
    assert "Toy" not in registered() and MultilabelCompetition.multilabel and Toy().higher_is_better
    assert Toy().target_columns(ROOT) == CLASSES and "labels" not in Toy().sample_submission(ROOT)


def test_the_score_by_hand(tmp_path):
    """First class: positives at ranks 1 and 3 of 5: (1 + 2/3) / 2. Second: at ranks 2 and 3: (1/2 +
    2/3) / 2.
    """
    answers = Toy().answers(answers_file(tmp_path))
    assert Toy().score(submission_of(), answers) == pytest.approx(
        ((1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    )
    assert Toy().score(submission_of(TRUTH), answers) == 1.0
    assert Toy().score(submission_of(), answers.sample(frac=1, random_state=0)) == Toy().score(
        submission_of(), answers
    )
    assert Toy().score(Toy().sample_submission(ROOT), answers) == pytest.approx(0.4), (
        "equal scores: the prevalence"
    )
    assert Toy().score(submission_of()[["well_id", *CLASSES[::-1]]], answers) == Toy().score(
        submission_of(), answers
    )


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
    assert Toy().score(submission_of(), answers.assign(**{CLASSES[1]: 0})) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    with pytest.raises(
        InputError, match="none of the 2 classes has both a positive and a negative"
    ):
        Toy().score(submission_of(), answers.assign(**dict.fromkeys(CLASSES, 1)))


def test_format_scores_takes_the_order_of_the_sample_submission():
    order = [3, 0, 4, 2, 1]
    made = Toy().format_scores([IDS[i] for i in order], SCORES[order].astype(np.float32), ROOT)
    pd.testing.assert_frame_equal(made, submission_of(SCORES.astype(np.float32)), check_dtype=False)
    Toy().validate_submission(made, Toy().sample_submission(ROOT), CLASSES)
    with pytest.raises(InvalidSubmission, match="1 ids missing, first 'P2_A02'"):
        Toy().format_scores(IDS[:4], SCORES[:4], ROOT)
    with pytest.raises(InvalidSubmission, match="1 doubled ids, first 'P1_A01'"):
        Toy().format_scores([*IDS, IDS[0]], SCORES[[0, 1, 2, 3, 4, 0]], ROOT)
    with pytest.raises(
        InvalidSubmission,
        match=r"1 scores are no finite number, first 'GPCR agonist' of 'P1_A03': inf",
    ):
        Toy().format_scores(IDS, np.where((SCORES == 2.0), np.inf, SCORES), ROOT)


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
    "1 scores are no finite number, first 'GPCR agonist' of 'P1_A03': nan": changed(
        2, "GPCR agonist", np.nan
    ),
    "1 scores are no finite number, first 'Chloride channel, blocker' of 'P2_A01': -inf": changed(
        3, CLASSES[0], -np.inf
    ),
    "1 scores are no finite number, first 'GPCR agonist' of 'P1_A01': 'yes'": changed(
        0, "GPCR agonist", "yes"
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_wrong_submission_is_refused_by_name(message, tmp_path):
    frame = REFUSED[message]
    with pytest.raises(InvalidSubmission, match=re.escape(message)) as caught:
        Toy().validate_submission(frame, Toy().sample_submission(ROOT), CLASSES)
    assert "\n" not in str(caught.value)
    if "order" not in message:  # scoring needs no order
        with pytest.raises(InvalidSubmission, match=re.escape(message)):
            Toy().score(frame, Toy().answers(answers_file(tmp_path)))


def test_a_right_submission_passes():
    Toy().validate_submission(submission_of(), Toy().sample_submission(ROOT), CLASSES)
    Toy().validate_submission(
        submission_of(TRUTH.astype(bool)), Toy().sample_submission(ROOT), CLASSES
    )
    Toy().validate_submission(Toy().sample_submission(ROOT), Toy().sample_submission(ROOT), CLASSES)


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
            "row 3: leaderboard 'secret' is none of",
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
