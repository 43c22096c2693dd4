"""`cellsignal run`: all the steps in a row, and its pictures."""

import cv2
import pytest
from helpers import cellsignal

from cellsignal.report import shown_planes


def test_a_clips_picture_shows_three_frames_of_each_channel():
    assert shown_planes(3, 1) == [0, 1, 2] and shown_planes(48, 16) == [0, 8, 15, 16, 24, 31, 32, 40, 47] and shown_planes(2, 2) == [0, 1]


@pytest.mark.parametrize("competition", ["rxrx1", "bbbc021"])
def test_run_goes_from_a_trained_state_to_leaderboard_and_pictures(trained, tmp_path, capsys, competition):
    space = trained(competition).copy(tmp_path / "space")
    assert cellsignal("run", "config.yaml", "--answers", space.answers, cwd=space.folder) == 0
    out = capsys.readouterr().out
    for words in ("Out of fold", "Test: targets that no model saw", "(truth)", "(sample submission)", "chance", "95 % interval"):
        assert words in out
    assert (space.folder / "submissions" / "tiny.csv").is_file() and (space.folder / "submissions" / "tiny.json").is_file()
    pictures = {path.stem: cv2.imread(str(path)) for path in (space.run_folder / "report").glob("*.png")}
    expected = {"learning_curves", "channels", "labels", "ladder_out_of_fold", "ladder_test", "confusion"} | ({"plates"} if competition == "rxrx1" else set())
    assert set(pictures) == expected
    assert all(min(image.shape[:2]) > 200 and image.std() > 5 for image in pictures.values())


def test_oof_and_audit_print_their_tables(trained, tmp_path, capsys):
    space = trained("rxrx1").copy(tmp_path / "space")
    capsys.readouterr()
    assert cellsignal("oof", "config.yaml", cwd=space.folder) == 0
    assert "tiny/seed0" in capsys.readouterr().out
    assert cellsignal("audit", "config.yaml", cwd=space.folder) == 0
    assert "unseen experiments" in capsys.readouterr().out


def test_several_seeds_are_several_runs(trained, tmp_path, capsys):
    space = trained("rxrx1").copy(tmp_path / "space")
    short = ["--set", "stages=[{name: all, epochs: 1, batch_size: 32}]", "--set", "name=seeds"]
    assert cellsignal("train", "config.yaml", *short, "--seeds", 3, 4, cwd=space.folder) == 0
    assert cellsignal("predict", "config.yaml", *short, "--seeds", 3, 4, cwd=space.folder) == 0
    files = sorted((space.folder / "runs/seeds").glob("seed*/predictions/*.npz"))
    assert [file.parts[-3] for file in files] == ["seed3", "seed4"]
    capsys.readouterr()
    assert cellsignal("oof", *files, cwd=space.folder) == 0
    assert "all 2 merged" in capsys.readouterr().out
