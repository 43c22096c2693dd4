"""The page of the memory study: what is measured, kept and gone on with."""

import argparse

import pytest

from cellsignal.common.errors import InputError
from cellsignal.common.files import hold_alone
from cellsignal.config import load_config
from cellsignal.studies.memory import page
from cellsignal.studies.memory.commands import PARTS, memory
from cellsignal.studies.memory.measuring import Usage
from cellsignal.studies.memory.page import _PARTS, memory_page, write_config
from cellsignal.studies.memory.rows import GIB, Measured


@pytest.fixture
def commands(monkeypatch):
    """Two commands in place of the parts; the list of what was measured."""
    measured = []

    def measure(words, folder, seconds, statuses):
        measured.append(words[0])
        if words[0] == "bad":
            raise InputError("cellsignal bad: exit status 2: error: no such file")
        if len(measured) == 2 and "stop" in words:
            raise KeyboardInterrupt
        return Usage(GIB // 2, GIB // 4, 2.0, 1.0, 1)

    monkeypatch.setattr(page, "measure", measure)

    def part(*words):
        made = [Measured(of, GIB) for of in words]
        monkeypatch.setitem(_PARTS, "submission", lambda folder, scale: ("Commands", made))
        return measured

    return part


def test_a_stopped_study_goes_on_where_it_was(tmp_path, commands):
    measured = commands(("one",), ("two", "stop"))
    out = tmp_path / "page.md"
    with pytest.raises(KeyboardInterrupt):
        memory_page(tmp_path, ["submission"], out=out)
    assert "| `one` | 1 GiB | 0.50 GiB |" in out.read_text()  # at once, not at the end
    assert "`two stop`" not in out.read_text()
    text = memory_page(tmp_path, ["submission"], out=out)
    assert measured == ["one", "two", "two"] and text == out.read_text()
    assert text.count("| yes |") == 2 and "cellsignal study memory" in text
    assert memory_page(tmp_path, ["submission"]) == text and len(measured) == 3
    memory_page(tmp_path, ["submission"], again=["one"])
    assert measured[3:] == ["one"]


def test_what_a_command_made_is_removed_before_it_is_measured_again(tmp_path, monkeypatch):
    """Else `prepare` would find its store and have nothing to do."""
    made = [Measured(("prepare",), GIB, makes=("store",)), Measured(("prepare",), GIB, note=" 2")]
    monkeypatch.setitem(_PARTS, "submission", lambda folder, scale: ("Commands", made))
    seen = []

    def measure(*_):
        seen.append((tmp_path / "store").exists())
        return Usage(1, 1, 1.0, 0.5, 1)

    monkeypatch.setattr(page, "measure", measure)
    for again in ([], ["prepare"]):
        (tmp_path / "store").mkdir()
        memory_page(tmp_path, ["submission"], again=again)
        memory_page(tmp_path, ["submission"])  # measures nothing, and so removes nothing
    assert seen == [False] * 4


def test_two_studies_in_one_folder_are_refused(tmp_path, commands):
    commands(("one",))
    with hold_alone(tmp_path / ".lock", "x"), pytest.raises(InputError, match="another process"):
        memory_page(tmp_path, ["submission"])


def test_a_command_that_fails_is_in_the_table_and_the_others_are_measured(tmp_path, commands):
    measured = commands(("bad",), ("good",))
    for _ in range(2):  # kept as a row, too: --again measures it again
        with pytest.raises(InputError, match=r"^1 commands failed; see .*page\.md; --again VERB"):
            memory_page(tmp_path, ["submission"], out=tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "**failed**: cellsignal bad: exit status 2: error: no such file" in text
    assert "| `good` | 1 GiB | 0.50 GiB |" in text and measured == ["bad", "good"]


def test_parts_are_those_of_the_parser():
    assert tuple(_PARTS) == PARTS


def test_the_config_of_the_training_is_one(tmp_path):
    config = load_config(write_config(tmp_path))
    assert config.data.workers == 2 and [stage.epochs for stage in config.stages] == [1]


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5])
def test_a_scale_that_is_no_share_is_refused(scale):
    with pytest.raises(InputError, match="--scale: a share above 0 and up to 1"):
        memory(argparse.Namespace(scale=scale, minutes=1, folder=None, out=None, parts=PARTS))
