"""A submission on the leaderboard is replaced only on purpose."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.evaluation.leaderboard import (
    COLUMNS,
    append_entry,
    leaderboard_table,
    out_of_fold_entry,
    read_leaderboard,
)
from cellsignal.evaluation.leaderboard_text import leaderboard_text
from cellsignal.evaluation.score import show_leaderboard
from cellsignal.evaluation.standing import check_place, check_replacing, runs_of
from cellsignal.metrics.accuracy import Accuracy


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A folder with s.csv, scored as "mine" on board.csv."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.csv").write_text("old")
    note("s.csv", "old")
    return tmp_path


def note(path, content, name="mine", **more):
    numbers = {
        column: 0.5 for column in COLUMNS if column.startswith(("overall", "public", "private"))
    }
    texts = {
        "competition": "toy",
        "name": name,
        "kind": "submission",
        "submission": path,
        "answers_sha256": "a",
        "note": "",
    }
    key = hashlib.sha256(content.encode()).hexdigest()
    entry = (
        dict.fromkeys(COLUMNS, "")
        | numbers
        | dict.fromkeys(["overall_n", "public_n", "private_n"], 4)
        | texts
        | {"submission_sha256": key}
        | more
    )
    assert append_entry("board.csv", entry)


def test_another_content_is_refused_and_the_same_is_not(scored, caplog):
    board, file = scored / "board.csv", scored / "s.csv"
    check_replacing(board, "toy", file, "old", force=False)
    for name in (file, scored / "." / "s.csv"):
        with pytest.raises(InputError, match=r"s\.csv: stands on .*board\.csv as 'mine' .*--force"):
            check_replacing(board, "toy", name, "new", force=False)
    assert not caplog.text
    check_replacing(board, "toy", file, "new", force=True)
    assert (
        "replaces the submission of mine" in caplog.text
        and hashlib.sha256(b"old").hexdigest()[:12] in caplog.text
    )


def test_a_scored_content_under_another_name_stands_there_too(scored):
    (scored / "copy.csv").write_text("old")
    with pytest.raises(InputError, match=r"copy\.csv: stands on"):
        check_replacing(scored / "board.csv", "toy", scored / "copy.csv", "new", force=False)


def test_what_does_not_stand_there_is_replaced(scored):
    (scored / "draft.csv").write_text("draft")
    cases = [
        ("board.csv", "toy", "draft.csv"),
        ("board.csv", "toy", "fresh.csv"),
        ("board.csv", "other", "s.csv"),
        ("no.csv", "toy", "s.csv"),
    ]
    for board, competition, name in cases:
        check_replacing(scored / board, competition, scored / name, "new", force=False)


def test_the_row_of_a_replaced_file_is_marked_by_its_hash(scored):
    note("s.csv", "new")
    note("t.csv", "third")
    competition = type("C", (), {"id": "toy", "higher_is_better": True})
    table = leaderboard_table("board.csv", competition).set_index("submission_sha256").note
    old, new, third = (
        hashlib.sha256(text.encode()).hexdigest() for text in ("old", "new", "third")
    )
    assert table[old] == f"replaced since; sha256 {old[:12]}" and table[new] == table[third] == ""


def test_an_out_of_fold_score_has_a_row_without_a_rank(scored):
    competition = type("C", (), {"id": "toy", "higher_is_better": True})
    truth = pd.DataFrame({"target_id": ["a", "b"], "label": [0, 1]})
    entry = out_of_fold_entry(competition, "lonely", Accuracy.of(3, 4), "hash", truth)
    assert (
        set(entry) == set(COLUMNS)
        and append_entry("board.csv", entry)
        and not append_entry("board.csv", entry)
    )
    table = leaderboard_table("board.csv", competition)
    row = table[table.name == "lonely"].iloc[0]
    assert (
        pd.isna(row["rank"])
        and row.overall == 0.75
        and row.overall_n == 4
        and pd.isna(row.private)
        and row.submission == ""
    )
    text = next(line for line in leaderboard_text(table).splitlines() if "lonely" in line)
    assert "lonely, out of fold" in text and "no test samples" in text and "0.75000" in text
    assert table["rank"][table.name == "mine"].tolist() == [1]


def test_the_provenance_names_the_runs(tmp_path):
    assert runs_of(tmp_path / "s.csv") is None
    for content, runs in (('{"runs": ["a/seed0"]}', ["a/seed0"]), ("{", None), ("[]", None)):
        (tmp_path / "s.json").write_text(content)
        assert runs_of(tmp_path / "s.csv") == runs


def test_a_submission_is_written_over_no_other_kind_of_file(tmp_path):
    columns = ("id", "target")
    for name, text in (
        ("board.csv", "competition,name\n"),
        ("c.yaml", "name: c\n"),
        ("s.csv", "id,target\na,1\n"),
        ("x.json", "{}"),
    ):
        (tmp_path / name).write_text(text)
    for name in ("board.csv", "c.yaml"):
        with pytest.raises(InputError, match=rf"{name}: already exists and is not a submission"):
            check_place(tmp_path / name, columns, force=False)
        check_place(tmp_path / name, columns, force=True)
    with pytest.raises(InputError, match=r"x\.json: already exists and is not a provenance file"):
        check_place(tmp_path / "x.csv", columns, force=False)
    for force in (False, True):
        with pytest.raises(InputError, match=r"x\.json: is where the provenance"):
            check_place(tmp_path / "x.json", columns, force=force)
    (tmp_path / "s.json").write_text('{"runs": ["a/seed0"]}')
    check_place(tmp_path / "s.csv", columns, force=False)
    check_place(tmp_path / "new.csv", columns, force=False)


@pytest.mark.parametrize(
    "column, value, why",
    [("kind", "Submission", "is not one of"), ("overall", "5.5", r"lies outside 0 \.\. 1")],
)
def test_a_damaged_row_of_a_leaderboard_is_named(scored, column, value, why):
    note("t.csv", "third")
    table = pd.read_csv("board.csv", dtype=str)
    table.loc[1, column] = value
    table.to_csv("board.csv", index=False)
    with pytest.raises(InputError, match=rf"board\.csv: row 3: {column} .*{why}"):
        read_leaderboard(Path("board.csv"))


def test_the_leaderboard_of_all_competitions_names_the_file_that_has_an_unknown_one(scored):
    with pytest.raises(InputError, match=r"board\.csv: has rows of the unknown competition 'toy'"):
        show_leaderboard(None, Path("board.csv"))
    pd.read_csv("board.csv").iloc[:0].to_csv("board.csv", index=False)
    assert show_leaderboard(None, Path("board.csv")) == "no submission scored yet"
