"""A metadata table with its header alone, or without its rows, is one line in every competition and
verb; never a traceback.
"""

import shutil
from pathlib import Path

import pytest
from helpers import cellsignal, write_config

from cellsignal.common.errors import InputError
from cellsignal.competitions import competition_ids, get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.data.verify import verify

TABLES = (".csv", ".tsv", ".txt")


def tables_of(root: Path) -> list[Path]:
    """The tables of a root, relative to it."""
    return sorted(
        path.relative_to(root)
        for path in root.rglob("*")
        if path.suffix in TABLES and path.is_file()
    )


def emptied(root: Path, place: Path, tables: list[Path]) -> Path:
    """A copy in which some tables hold their first line alone."""
    shutil.copytree(root, place, ignore=lambda *_: [])
    for table in tables:
        (place / table).write_text((place / table).read_text().splitlines()[0] + "\n")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", competition_ids())
def test_each_table_with_its_header_alone_is_no_traceback(simulated, tmp_path, name):
    """All is said in one line, or the table can be done without and the rest, with its classes, is
    verified.
    """
    root, competition = simulated(name), get_competition(name)
    tables = tables_of(root)
    refused = 0
    for number, chosen in enumerate([[table] for table in tables] + ([tables] if tables else [])):
        copy = emptied(root, tmp_path / str(number), chosen)
        try:
            verify(competition, copy)
            assert competition.classes(copy), chosen
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and str(copy) in str(error), error
        config = write_config(tmp_path, name, copy)
        assert cellsignal(
            "prepare", config, "--set", f"data.store=store{number}", cwd=tmp_path
        ) in (0, 2)
        shutil.rmtree(copy)
    assert refused or not tables


REQUIRED = {
    "rxrx1": ["train.csv"],
    "bbbc021": ["train.csv"],
    "bbbc021_full": ["BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"],
    "cpjump1": ["experiment-metadata.tsv", "load_data.csv", "JUMP-Target-1_compound_platemap.tsv"],
    "cpjump1_course": ["metadata.csv"],
    "idr0088_gpcr": ["images.csv"],
    "idr0088_moa": ["images.csv"],
}


@pytest.mark.parametrize(
    "name, table", [(name, table) for name, tables in REQUIRED.items() for table in tables]
)
def test_a_table_that_needs_rows_is_itself_named(simulated, tmp_path, name, table):
    root = simulated(name)
    place = next(place for place in tables_of(root) if place.name == table)
    copy = emptied(root, tmp_path / "copy", [place])
    with pytest.raises(InputError, match=rf"{table}: has a header but no rows$"):
        get_competition(name).samples(copy)


def test_no_fold_table_is_made_where_no_sample_has_a_label(simulated, tmp_path, capsys):
    root = simulated("cpjump1")
    place = next(place for place in tables_of(root) if place.name == "barcode_platemap.csv")
    copy = emptied(root, tmp_path / "copy", [place])
    assert cellsignal("folds", "cpjump1", "--root", copy, "--out", "folds.csv", cwd=tmp_path) == 2
    assert "no training sample has a label" in capsys.readouterr().err
    assert not (tmp_path / "folds.csv").exists()


@pytest.mark.parametrize("name", competition_ids())
def test_answers_without_a_row_are_one_line(simulated, tmp_path, name):
    path = answers_path(simulated(name))
    empty = tmp_path / path.name
    empty.write_text(path.read_text().splitlines()[0] + "\n")
    competition = get_competition(name)
    try:
        answers = competition.answers(empty)
    except InputError as error:
        assert str(empty) in str(error) and "\n" not in str(error)
    else:
        assert len(answers) == 0
