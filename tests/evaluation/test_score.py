"""Scoring a file of any competition: answers for a part of the test set, and no row before all
checks have passed.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from helpers import cellsignal, error_line

from cellsignal.competitions import competition_ids, get_competition
from cellsignal.competitions.base import Competition, answers_path
from cellsignal.competitions.multi_label import MultiLabel
from cellsignal.competitions.ranking import Ranking


@dataclass(frozen=True)
class Case:
    """A competition, its root, all ids of its test set, and those of every third answer, which
    part.csv is for.
    """

    competition: Competition
    root: Path
    ids: list[str]
    part: list[str]
    file: pd.DataFrame  # answers as the file has them
    column: str  # of the ids in it

    def write_answers(self, path: Path, ids: list[str]) -> None:
        """The answers of some ids; rows that are no answers (a gallery) stay. An unknown id gets
        the last answer.
        """
        answered = self.file[self.column].isin(self.ids)
        rows = {row[self.column]: row for _, row in self.file[answered].iterrows()}
        last = rows[self.ids[-1]]
        picked = [
            rows.get(name, last.copy()).where(last.index != self.column, name) for name in ids
        ]
        pd.concat([self.file[~answered], pd.DataFrame(picked)]).to_csv(path, index=False)


@pytest.fixture(params=competition_ids())
def case(request, simulated, tmp_path):
    """With sample.csv, part.csv and one.csv in the working folder."""
    competition, root = get_competition(request.param), simulated(request.param)
    sample = competition.sample_submission(root)
    sample.to_csv(tmp_path / "sample.csv", index=False)
    ids = sample[competition.id_column].tolist()
    file = pd.read_csv(answers_path(root), dtype=str, keep_default_na=False)
    column = next(name for name in file if set(ids) <= set(file[name]))
    found = Case(competition, root, ids, ids[::3], file, column)
    found.write_answers(tmp_path / "part.csv", found.part)
    found.write_answers(tmp_path / "one.csv", ids[:1])
    return found


def rows(board):
    return (
        pd.read_csv(board, dtype=str, keep_default_na=False) if board.exists() else pd.DataFrame()
    )


def test_answers_for_a_part_are_scored_where_the_test_set_is_known(case, tmp_path, capsys):
    competition, root, ids, part = case.competition, case.root, case.ids, case.part
    words = ["--answers", "part.csv", "--competition", competition.id, "--leaderboard", "board.csv"]
    line = error_line(capsys, "score", "sample.csv", *words, cwd=tmp_path)
    first = next(name for name in ids if name not in set(part))
    assert (
        line.startswith(
            f"sample.csv: {len(ids) - len(part)} of its {len(ids)} ids are not in part.csv"
        )
        and first in line
    )
    assert "--root" in line and not (tmp_path / "board.csv").exists()
    assert cellsignal("score", "sample.csv", *words, "--root", root, cwd=tmp_path) == 0
    assert f"part.csv: {len(part)} of {len(ids)} ids answered and scored" in capsys.readouterr().out
    found = rows(tmp_path / "board.csv")
    assert found.kind.tolist() == ["submission", "control", "control"]
    assert found.note[0] == f"{len(part)} of {len(ids)} ids answered and scored"
    assert (
        set(found.overall_n.astype(int)) <= set(range(1, len(part) + 1))
        and float(found.overall[found.name == "truth"].iloc[0]) == 1
    )
    assert found.overall[0] == found.overall[2]  # the submission is the sample submission


def test_a_submission_of_the_answered_part_alone_is_scored_too(case, tmp_path, capsys):
    competition, root, part = case.competition, case.root, case.part
    sample = competition.sample_submission(root)
    sample[sample[competition.id_column].isin(part)].to_csv(tmp_path / "few.csv", index=False)
    words = ["--answers", "part.csv", "--competition", competition.id, "--leaderboard", "board.csv"]
    assert cellsignal("score", "few.csv", *words, "--root", root, cwd=tmp_path) == 0
    assert f"the submission has {len(part)} of them" in capsys.readouterr().out
    assert len(rows(tmp_path / "board.csv")) == 3


def test_answers_of_one_row_are_not_the_submissions_fault(case, tmp_path, capsys):
    competition, ids = case.competition, case.ids
    words = ["--answers", "one.csv", "--competition", competition.id, "--leaderboard", "board.csv"]
    line = error_line(capsys, "score", "sample.csv", *words, cwd=tmp_path)
    assert (
        f"{len(ids) - 1} of its {len(ids)} ids are not in one.csv" in line
        and "no class" not in line
    )


def test_no_row_is_noted_before_the_last_check(case, tmp_path, capsys):
    competition, root, ids, part = case.competition, case.root, case.ids, case.part
    words = ["--competition", competition.id, "--leaderboard", "board.csv"]
    samples = competition.samples(root)
    stray = samples.target_id[
        (samples.split == "train") & ~samples.target_id.isin(case.file[case.column])
    ].iloc[0]
    case.write_answers(tmp_path / "stray.csv", [*part, stray])
    line = error_line(
        capsys,
        "score",
        "sample.csv",
        "--answers",
        "stray.csv",
        *words,
        "--root",
        root,
        cwd=tmp_path,
    )
    assert line == f"stray.csv: 1 ids that the sample submission of --root has not, first {stray!r}"
    sample = pd.read_csv(tmp_path / "sample.csv", dtype=str, keep_default_na=False)
    sample[sample[competition.id_column] != part[0]].to_csv(tmp_path / "short.csv", index=False)
    line = error_line(
        capsys, "score", "short.csv", "--answers", "part.csv", *words, "--root", root, cwd=tmp_path
    )
    assert line.startswith("short.csv: ") and f"1 ids missing, first {part[0]!r}" in line
    case.write_answers(tmp_path / "none.csv", [stray])
    line = error_line(capsys, "score", "sample.csv", "--answers", "none.csv", *words, cwd=tmp_path)
    assert line == (
        f"none.csv: answers none of the {len(ids)} ids of sample.csv, first {ids[0]!r}; "
        f"its first is {stray!r}"
    )
    assert not (tmp_path / "board.csv").exists()


def test_answers_of_other_classes_than_the_data_have_are_refused(case, tmp_path, capsys):
    """A class spelt otherwise would count as wrong, a gallery track too few as the submission's
    fault.
    """
    competition, file = case.competition, case.file.copy()
    if competition.task_class is Ranking:
        file = file.drop(index=file.index[file.part == "gallery"][0])
        fault = "lacks 1 gallery tracks"
    elif competition.task_class is MultiLabel:
        file, fault = file.assign(Nonsense="0"), "column 'Nonsense' is not a class of"
    else:
        wrong = (
            "99"
            if competition.id == "rxrx1"
            else file[competition.target_column].iloc[0].swapcase()
        )
        file.loc[file.index[0], competition.target_column] = wrong
        fault = f"1 targets are not classes of {case.root}, first {wrong!r}"
    file.to_csv(tmp_path / "other.csv", index=False)
    words = [
        "--answers",
        "other.csv",
        "--competition",
        competition.id,
        "--leaderboard",
        "board.csv",
        "--root",
        case.root,
    ]
    line = error_line(capsys, "score", "sample.csv", *words, cwd=tmp_path)
    assert line.startswith("other.csv: ") and fault in line
    assert not (tmp_path / "board.csv").exists()


def test_answers_by_which_nothing_can_be_ranked_give_no_score(simulated, tmp_path, capsys):
    competition, root = get_competition("idr0088_gpcr"), simulated("idr0088_gpcr")
    competition.sample_submission(root).to_csv(tmp_path / "sample.csv", index=False)
    answers = pd.read_csv(answers_path(root), dtype=str, keep_default_na=False)
    answers.assign(**dict.fromkeys(competition.classes(root), "0")).to_csv(
        tmp_path / "none.csv", index=False
    )
    words = ["--answers", "none.csv", "--competition", competition.id, "--leaderboard", "board.csv"]
    line = error_line(capsys, "score", "sample.csv", *words, cwd=tmp_path)
    assert line.startswith(f"none.csv: nothing can be ranked by these {len(answers)} answers")
    assert not (tmp_path / "board.csv").exists()


def test_a_target_that_no_answer_has_is_laid_to_what_is_known(simulated, tmp_path, capsys):
    root = simulated("bbbc021")
    answers = pd.read_csv(answers_path(root), dtype=str)
    few = answers[answers.moa == answers.moa.iloc[0]]
    few.to_csv(tmp_path / "few.answers.csv", index=False)
    wrong = few[["image_id", "moa"]].assign(
        moa=answers.moa[answers.moa != answers.moa.iloc[0]].iloc[0]
    )
    wrong.to_csv(tmp_path / "s.csv", index=False)
    line = error_line(capsys, "score", "s.csv", "--answers", "few.answers.csv", cwd=tmp_path)
    assert f"{len(few)} targets are in no row of few.answers.csv" in line and "--root" in line
    assert (
        cellsignal("score", "s.csv", "--answers", "few.answers.csv", "--root", root, cwd=tmp_path)
        == 0
    )
    wrong.assign(moa="nonsense").to_csv(tmp_path / "s.csv", index=False)
    line = error_line(
        capsys, "score", "s.csv", "--answers", "few.answers.csv", "--root", root, cwd=tmp_path
    )
    assert "targets are not classes" in line and "'nonsense'" in line


def test_the_competition_is_told_by_columns_of_a_readable_table(tmp_path, capsys):
    for content, message in (
        (b"", "is empty"),
        (b"a\xff,b\n", "is not UTF-8 text"),
        (b"id,id_code\n1,2\n", "do not tell the competition"),
    ):
        (tmp_path / "s.csv").write_bytes(content)
        assert message in error_line(
            capsys, "score", "s.csv", "--answers", "none.csv", cwd=tmp_path
        )


@pytest.mark.slow
def test_two_submissions_of_every_competition_are_compared(case, tmp_path, capsys):
    """The truth against the sample submission; the same file against itself."""
    answers, root = answers_path(case.root), case.root
    task, ids = case.competition.task, case.competition.id_column
    sample = case.competition.sample_submission(root)
    truth = case.competition.answers(answers)[list(sample.columns)]
    truth = truth.set_index(ids).loc[sample[ids]].reset_index()
    truth.to_csv(tmp_path / "truth.csv", index=False)
    command = ["score", "truth.csv", "--answers", answers, "--root", root]
    command += ["--competition", case.competition.id]
    capsys.readouterr()
    assert cellsignal(*command, "--against", "sample.csv", cwd=tmp_path) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("difference"))
    paired = task.compare(truth, sample, case.competition.answers(answers), ("a", "b"))
    assert line.split()[1] == f"{paired.difference:+.4f}" and paired.first == 1
    test = "sign flips of whole" if paired.units else "no test without units"
    unnamed = case.competition.id in ("bbbc021", "plates_multi_label")  # answers without units
    assert test in out and (paired.units == 0) == unnamed
    assert not (tmp_path / "submissions").exists()  # nothing is noted
    assert cellsignal(*command, "--against", "truth.csv", cwd=tmp_path) == 0
    assert "+0.0000  (no interval: " in capsys.readouterr().out


def test_runs_are_not_compared_with_a_submission(tmp_path, capsys):
    command = ("score", "a.yaml", "--against", "b.csv")
    assert "runs compare" in error_line(capsys, *command, cwd=tmp_path)
