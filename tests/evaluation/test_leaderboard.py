import multiprocessing
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from columns import flush_right

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.competitions.single_label import SingleLabel
from cellsignal.evaluation.leaderboard import (
    COLUMNS,
    append_entry,
    control_entries,
    frame_sha256,
    leaderboard_competitions,
    leaderboard_table,
    out_of_fold_entry,
    read_leaderboard,
    submission_entry,
)
from cellsignal.evaluation.leaderboard_text import leaderboard_text
from cellsignal.metrics.accuracy import Score

COMPETITION = SimpleNamespace(
    comparable=lambda frame, name: frame,
    id="toy",
    id_column="id",
    target_column="class",
    fold_groups=("experiment",),
    higher_is_better=True,
)
COMPETITION.task = SingleLabel(COMPETITION)


def answers_table(n=40):
    rng = np.random.default_rng(0)
    board = np.where(np.arange(n) < n // 4, "public", "private")
    return pd.DataFrame(
        {
            "id": [f"w{i}" for i in range(n)],
            "class": rng.integers(1, 5, n),
            "leaderboard": board,
            "experiment": np.array([*"EFG"])[np.arange(n) % 3],
        }
    )


def entry_with(tmp_path, name, wrong, answers):
    """The entry of a submission that is wrong in these rows."""
    frame = answers[["id", "class"]].copy()
    frame.loc[wrong, "class"] = 99
    path = tmp_path / f"{name}.csv"
    frame.to_csv(path, index=False)
    return submission_entry(COMPETITION, name, path, frame, answers)


def board_of(tmp_path, *entries):
    path = tmp_path / "sub" / "leaderboard.csv"
    for entry in entries:
        assert append_entry(path, entry)
    return path


def test_entry_holds_scores_and_hashes(tmp_path):
    answers = answers_table()
    entry = entry_with(tmp_path, "a", range(8, 15), answers)  # 2 of 10 public, 5 of 30 private
    assert set(entry) == set(COLUMNS) and entry["kind"] == "submission"
    assert (entry["overall"], entry["public"], entry["private"]) == pytest.approx(
        (33 / 40, 0.8, 25 / 30)
    )
    assert (entry["overall_n"], entry["public_n"], entry["private_n"]) == (40, 10, 30)
    assert entry["public_low"] < 0.8 < entry["public_high"]
    assert (entry["unit"], entry["public_units"], entry["private_units"]) == ("experiment", 3, 3)
    assert entry["submission_sha256"] == sha256(tmp_path / "a.csv")
    assert entry["answers_sha256"] == frame_sha256(
        answers.sample(frac=1, random_state=0)[answers.columns[::-1]]
    )
    other = answers.assign(**{"class": answers["class"] + 1})
    assert entry["answers_sha256"] != frame_sha256(other)


def test_sorted_by_private_then_overall_controls_unranked(tmp_path):
    answers = answers_table()
    entries = [
        entry_with(tmp_path, "overfit", range(10, 20), answers),  # perfect public, weak private
        entry_with(tmp_path, "good", range(0, 8), answers),  # weak public, perfect private
        entry_with(tmp_path, "better", range(0, 4), answers),  # the same private, better overall
        *control_entries(COMPETITION, answers.assign(**{"class": 0}), answers),
    ]
    table = leaderboard_table(board_of(tmp_path, *entries), COMPETITION)
    assert table.name.tolist() == ["truth", "better", "good", "overfit", "sample submission"]
    assert table["rank"].fillna(0).tolist() == [0, 1, 2, 3, 0]
    truth, sample = table.iloc[0], table.iloc[-1]
    assert (truth.overall, truth.public, truth.private) == (1, 1, 1) and sample.overall == 0
    assert (table.kind == "control").tolist() == [True, False, False, False, True]


def test_a_metric_where_low_is_best_turns_the_table(tmp_path):
    answers = answers_table()
    entries = [
        entry_with(tmp_path, name, range(10, 10 + n), answers) for name, n in (("x", 3), ("y", 9))
    ]
    path = board_of(tmp_path, *entries)
    downwards = SimpleNamespace(**{**vars(COMPETITION), "higher_is_better": False})
    assert leaderboard_table(path, COMPETITION).name.tolist() == ["x", "y"]
    assert leaderboard_table(path, downwards).name.tolist() == ["y", "x"]


def test_equal_scores_share_a_rank(tmp_path):
    answers = answers_table()
    wrong = {"a": [20], "b": [21], "c": [20, 21]}
    table = leaderboard_table(
        board_of(tmp_path, *(entry_with(tmp_path, k, v, answers) for k, v in wrong.items())),
        COMPETITION,
    )
    assert table["rank"].tolist() == [1, 1, 3]


def test_append_is_idempotent_and_other_answers_are_another_row(tmp_path):
    answers = answers_table()
    entry = entry_with(tmp_path, "a", [1], answers)
    path = board_of(tmp_path, entry)
    before = path.read_bytes()
    assert not append_entry(path, {**entry, "name": "again", "scored_at": "later"})
    assert path.read_bytes() == before
    revised = answers.assign(**{"class": answers["class"].replace(4, 3)})
    assert append_entry(path, entry_with(tmp_path, "a", [1], revised))
    assert append_entry(path, {**entry, "competition": "other"})
    table = leaderboard_table(path, COMPETITION)
    assert table["rank"].tolist() == [1, 1] and table.answers_sha256.nunique() == 2
    assert leaderboard_text(table).count("answers ") == 2


def test_a_perfect_submission_stands_beside_the_truth(tmp_path):
    answers = answers_table()
    entries = [
        *control_entries(COMPETITION, answers, answers)[:1],
        entry_with(tmp_path, "perfect", [], answers),
    ]
    table = leaderboard_table(board_of(tmp_path, *entries), COMPETITION)
    assert table["rank"].fillna(0).tolist() == [0, 1]


def test_answers_without_boards_rank_by_overall(tmp_path):
    answers = answers_table()[["id", "class"]]
    entries = [entry_with(tmp_path, name, range(n), answers) for name, n in (("x", 9), ("y", 3))]
    table = leaderboard_table(board_of(tmp_path, *entries), COMPETITION)
    assert table.name.tolist() == ["y", "x"] and table["rank"].tolist() == [1, 2]
    assert table.private.isna().all() and (table.private_n == 0).all()
    assert "0.92500" in leaderboard_text(table)


def test_text_is_aligned(tmp_path):
    answers = answers_table()
    entries = [
        entry_with(tmp_path, "a-long-name", [11], answers),
        *control_entries(COMPETITION, answers.assign(**{"class": 0}), answers),
    ]
    lines = leaderboard_text(
        leaderboard_table(board_of(tmp_path, *entries), COMPETITION)
    ).splitlines()
    assert lines[0].split()[:3] == ["rank", "name", "private"] and set(lines[1]) == {"-", " "}
    assert [line for line in lines if "(truth)" in line and not line[:4].strip()]
    row = next(line for line in lines if "a-long-name" in line)
    assert row.split()[0] == "1" and "0.96667" in row
    end = lines[0].index("private") + len("private")
    assert all(line[end - 7 : end] in ("1.00000", "0.96667", "0.00000") for line in lines[2:])
    assert leaderboard_text(pd.DataFrame(columns=["rank", *COLUMNS])) == "no submission scored yet"


def row_by_hand(**changed):
    """A row with two digits of the private score and three of the overall one."""
    scores = {
        **{"overall": 0.625, "overall_low": 0.5, "overall_high": 0.75, "overall_n": 4000},
        **{"public": 0.5, "public_low": 0.25, "public_high": 0.75, "public_n": 10},
        **{"private": 0.75, "private_low": 0.125, "private_high": 0.875, "private_n": 30},
    }
    texts = {
        **{"competition": "toy", "name": "a", "kind": "submission", "submission": "a.csv"},
        **{"submission_sha256": "0123456789abcdef", "answers_sha256": "fedcba9876543210"},
        **{"note": "", "scored_at": "2024-05-06T07:08:09+00:00", "git_commit": ""},
        **{"unit": "plate", "overall_units": 12, "public_units": 1, "private_units": 9},
    }
    return scores | texts | changed


def test_text_by_hand(tmp_path):
    rows = [row_by_hand(), row_by_hand(name="b", submission="b.csv", submission_sha256="b")]
    bare = {f"private{part}": np.nan for part in ("", "_low", "_high")} | {"private_n": 0}
    rows.append(row_by_hand(name="c", submission="c.csv", submission_sha256="c", **bare))
    path = board_of(tmp_path, *rows)
    assert leaderboard_competitions(path) == ("toy",)
    text = leaderboard_text(leaderboard_table(path, COMPETITION))
    cells = [line.split() for line in text.splitlines()[2:]]
    private = ["0.75000", "0.1250", "..", "0.8750", "9", "plates", "30"]
    last = ["0.50000", "0.62500", "2024-05-06"]
    assert cells == [
        ["1", "a", *private, *last],
        ["1", "b", *private, *last],
        ["3", "c", "0.5000", "..", "0.7500", "12", "plates", "4,000", *last],
    ]
    assert flush_right(text) == ["rank", "n", "public"]
    others = row_by_hand(answers_sha256="0" * 64)
    append_entry(path, others)
    heads = leaderboard_text(leaderboard_table(path, COMPETITION)).splitlines()
    assert heads[0] == "answers fedcba987654" and f"answers {'0' * 12}" in heads


def test_the_ends_of_the_range_of_scores_are_scores(tmp_path):
    path = board_of(tmp_path, row_by_hand(overall=0.0, public=1.0, private=0.0))
    assert read_leaderboard(path).public.tolist() == [1.0]
    text = path.read_text()
    for value in ("1.01", "-0.01"):
        path.write_text(text.replace("0.0,0.5,0.75", f"{value},0.5,0.75", 1))
        with pytest.raises(InputError, match=r"overall.*lies outside 0 \.\. 1"):
            read_leaderboard(path)
    path.write_text(text.replace(",a,submission,", ",a,guess,"))
    with pytest.raises(InputError, match=r"kind.*is not one of submission, control, out of fold"):
        read_leaderboard(path)


def test_what_is_no_leaderboard_is_refused(tmp_path):
    path = tmp_path / "board.csv"
    with pytest.raises(InputError, match="no such leaderboard"):
        leaderboard_table(path, COMPETITION)
    entry = entry_with(tmp_path, "a", [1], answers_table())
    for content, message in (
        ("", "not a leaderboard"),
        ("a,b\n1,2\n", "no column 'competition'.*not a leaderboard"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            append_entry(path, entry)
        assert path.read_text() == content


def _append_many(path, entry, start):
    for number in range(start, start + 8):
        append_entry(path, {**entry, "name": str(number), "submission_sha256": f"{number:064}"})


def test_two_processes_lose_no_row(tmp_path):
    path, entry = tmp_path / "board.csv", entry_with(tmp_path, "a", [1], answers_table())
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(path, entry, start)) for start in (0, 8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert sorted(leaderboard_table(path, COMPETITION).name.astype(int)) == list(range(16))


def test_a_leaderboard_of_before_has_no_units(tmp_path):
    path = board_of(tmp_path, row_by_hand())
    old = pd.read_csv(path, dtype=str).drop(columns=[n for n in COLUMNS if n.endswith("unit")])
    old = old.drop(columns=[n for n in COLUMNS if n.endswith("_units")])
    old.to_csv(path, index=False)
    table = leaderboard_table(path, COMPETITION)
    assert table.unit.tolist() == [""] and "0.1250 .. 0.8750" in leaderboard_text(table)
    assert append_entry(path, row_by_hand(submission_sha256="b"))
    assert read_leaderboard(path).private_units.tolist()[1] == 9


def test_columns_without_a_value_are_not_printed(tmp_path):
    answers = answers_table()
    path = board_of(tmp_path, entry_with(tmp_path, "a", [1], answers))
    assert "private" in leaderboard_text(leaderboard_table(path, COMPETITION)).splitlines()[0]
    truth = pd.DataFrame({"id": ["a", "b"], "label": [0, 1]})
    score = Score(0.5, 0.125, 0.875, 2)
    path = board_of(tmp_path / "oof", out_of_fold_entry(COMPETITION, "run", score, "0" * 64, truth))
    head, _line, row = leaderboard_text(leaderboard_table(path, COMPETITION)).splitlines()
    assert head.split() == ["name", "95", "%", "interval", "n", "overall", "scored", "note"]
    assert row.split()[:4] == ["run,", "out", "of", "fold"]
