"""The command line: its help, the options that all configs share, and the next command."""

import argparse
import contextlib
import shlex
import subprocess
import sys

import pytest
from helpers import error_line, tiny_config

from cellsignal.cli import build_parser, main
from cellsignal.config.options import find_configs, read_configs

GROUPS = {"runs", "profiles", "study", "kaggle", "cloud"}
HEAVY = {
    "cv2",
    "matplotlib",
    "numpy",
    "pandas",
    "pydantic",
    "scipy",
    "sklearn",
    "torch",
    "yaml",
    "zarr",
}
OLD = ("bench", "classify", "kernel", "match", "oof", "protocol", "rank", "retrieve")


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands right below a parser, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings or [action.dest]}


def test_the_help_fits_a_screen_in_the_order_of_the_work():
    text = build_parser().format_help()
    assert len(text.splitlines()) <= 40
    names = list(commands(build_parser()))
    assert 15 <= len(names) <= 28
    work = ["simulate", "verify", "prepare", "folds", "train", "predict", "submit", "score", "run"]
    assert [name for name in names if name in work] == work
    assert names[-len(GROUPS) :] == ["runs", "profiles", "study", "kaggle", "cloud"]


@pytest.mark.parametrize("words", ["train x.yaml", "profiles match", "study coverage", "runs"])
def test_an_unknown_argument_is_refused_with_the_usage_of_its_command(words, capsys):
    with pytest.raises(SystemExit) as error:
        main([*words.split(), "--bogus"])
    lines = capsys.readouterr().err.splitlines()
    assert error.value.code == 2
    verb = words.removesuffix(" x.yaml")
    assert lines[0].startswith(f"usage: cellsignal {verb} ")
    assert lines[-1] == f"cellsignal {verb}: error: unrecognized arguments: --bogus"


@pytest.mark.parametrize("name", OLD)
def test_old_names_are_gone(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert "invalid choice" in capsys.readouterr().err


def test_every_command_on_a_config_takes_the_same_options():
    checked = []
    groups = {"": build_parser()} | {n: commands(build_parser())[n] for n in GROUPS}
    for group, parser in groups.items():
        for name, command in commands(parser).items():
            if {"config", "configs", "sources"} & options(command):
                checked.append(f"{group} {name}".strip())
                assert {"--set", "--seeds"} <= options(command), name
    assert {
        "prepare",
        "train",
        "run",
        "score",
        "embed",
        "submit",
        "profiles match",
        "cloud cost",
    } <= set(checked)
    assert len(checked) >= 20


def test_every_command_says_what_it_does(capsys):
    for group in ("", *GROUPS):
        words = [group] if group else []
        parser = commands(build_parser())[group] if group else build_parser()
        for name in commands(parser):
            with pytest.raises(SystemExit) as end:
                main([*words, name, "--help"])
            assert end.value.code == 0 and len(capsys.readouterr().out.splitlines()) > 4


# configs and runs
# --------------------------------------------------------------------------------------------------


def test_a_runs_name_stands_for_its_config_and_its_seeds(trained, tmp_path, monkeypatch, capsys):
    space = trained("rxrx1").copy(tmp_path / "space")
    monkeypatch.chdir(space.folder)
    assert read_configs("tiny") == read_configs("config.yaml")
    assert read_configs("runs/tiny") == read_configs("runs/tiny/seed0") == read_configs("tiny")
    (other,) = read_configs("tiny", ["stages.0.epochs=7"], [10])
    assert (other.seed, other.stages[0].epochs) == (10, 7)
    text = (space.run_folder / "config.yaml").read_text()
    for seed in (10, 2):
        folder = space.run_folder.with_name(f"seed{seed}")
        folder.mkdir()
        (folder / "config.yaml").write_text(text.replace("seed: 0", f"seed: {seed}"))
    assert [config.seed for config in read_configs("tiny")] == [0, 2, 10]
    assert [config.seed for config in read_configs("tiny", (), [10])] == [10]
    capsys.readouterr()
    assert main(["-q", "score", "tiny", "--seeds", "0"]) == 0
    by_name = capsys.readouterr().out
    assert main(["-q", "score", "config.yaml"]) == 0
    assert capsys.readouterr().out == by_name and "tiny/seed0" in by_name


def test_an_unknown_run_is_answered_with_the_nearest(trained, capsys, tmp_path):
    folder = trained("rxrx1").folder
    for verb in ("train", "predict", "submit", "score", "prepare"):
        line = error_line(capsys, verb, "tinny", cwd=folder)
        assert line == (
            "tinny: is not a config (.yaml) and no run in runs; the nearest runs are tiny"
        )
    line = error_line(capsys, "train", "tinny", cwd=tmp_path)
    assert line == "tinny: is not a config (.yaml) and no run in runs; runs holds no run"
    assert "no.yaml" in error_line(capsys, "train", "no.yaml", cwd=tmp_path)


def test_a_file_is_a_config_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("x")
    assert [path.name for path in find_configs("tiny")] == ["tiny"]


def test_a_change_that_would_do_nothing_is_refused(trained, capsys):
    space = trained("rxrx1")
    (path,) = space.run_folder.glob("predictions/*cell_type.npz")
    line = error_line(capsys, "score", path, "--set", "predict.tta=4", cwd=space.folder)
    assert line.startswith("--set predict.tta=4: would do nothing, as no config is named")


def test_submit_takes_changes_of_the_config_and_of_its_section(trained, tmp_path, capsys):
    space = trained("rxrx1").copy(tmp_path / "space")
    line = error_line(capsys, "submit", "tiny", "--set", "predict.tta=4", cwd=space.folder)
    assert "was made with predict.tta 2, the config says 4" in line
    words = ["-q", "submit", "tiny", "--set", "submit.assignment=none"]
    with contextlib.chdir(space.folder):
        assert main(words) == 0
    assert "with assignment: none" in capsys.readouterr().out


def test_no_option_is_without_effect(trained, capsys):
    folder = trained("rxrx1").folder
    words = ["study", "oversampling", "config.yaml", "--seeds", 1, 2]
    assert error_line(capsys, *words, cwd=folder) == "--seeds 1 2: give one at a time here"
    words = ["study", "ablation", "config.yaml", "--answers", "a.csv", "--seeds", 1]
    assert "have seeds of their own" in error_line(capsys, *words, cwd=folder)
    words = ["study", "timelapse", "config.yaml", "--answers", "a.csv", "--set", "nothing=1"]
    assert "nothing" in error_line(capsys, *words, cwd=folder)


# the next command
# --------------------------------------------------------------------------------------------------


def next_of(capsys, *words) -> str:
    capsys.readouterr()
    assert main([*map(str, words)]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("next: cellsignal ")
    return last.removeprefix("next: cellsignal ")


def test_each_command_ends_with_the_next_which_can_be_given_as_it_is(
    trained, tmp_path, capsys, monkeypatch
):
    space = trained("rxrx1").copy(tmp_path / "space")
    monkeypatch.chdir(space.folder)
    words = ["prepare", "config.yaml", "--set", "predict.tta=2"]
    seen = []
    for _ in range(7):
        words = shlex.split(next_of(capsys, *words))
        seen.append(words[0])
    assert seen == ["train", "predict", "score", "submit", "score", "leaderboard", "runs"]


def test_the_next_command_is_not_among_the_results(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained("rxrx1").folder)
    assert main(["score", "config.yaml"]) == 0
    out, err = capsys.readouterr()
    assert "next:" not in out and err.splitlines()[-1] == "next: cellsignal submit config.yaml"
    assert main(["-q", "score", "config.yaml"]) == 0
    assert "next:" not in capsys.readouterr().err


def test_a_config_without_a_fold_table_is_sent_to_folds(trained, tmp_path, capsys, monkeypatch):
    space = trained("rxrx1").copy(tmp_path / "space")
    (space.folder / "folds.csv").unlink()
    monkeypatch.chdir(space.folder)
    following = next_of(capsys, "prepare", "config.yaml")
    assert following == f"folds rxrx1 --root {space.root} --out folds.csv"
    assert tiny_config("rxrx1", space.root)["folds"]["file"] == "folds.csv"


def all_commands(parser: argparse.ArgumentParser, *before: str) -> list[tuple[str, ...]]:
    """The words of every command and sub-command, groups included."""
    found = []
    for name, sub in commands(parser).items():
        found += [(*before, name), *all_commands(sub, *before, name)]
    return found


def test_help_loads_no_large_package():
    """In a process of its own, for every verb: waiting for --help is waiting for imports."""
    words = [[], *map(list, all_commands(build_parser()))]
    assert len(words) > 50
    program = f"""
import contextlib, io, sys
from cellsignal.cli import main
for words in {words!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert out.getvalue().startswith("usage: cellsignal " + " ".join(words)), words
print(sorted({{name.split(".")[0] for name in sys.modules}} & {HEAVY!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
