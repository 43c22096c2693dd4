"""The rules of tables, over every table of every competition: rows named as in the file, text kept,
wells in one spelling, files held to their rows.
"""

import csv
import io
import os
import re
import shutil
import zipfile
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions import competition_ids, get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.cpjump1.metadata import CHANNEL_NUMBERS
from cellsignal.competitions.folds import make_folds
from cellsignal.data.verify import verify

IDR0088 = {
    "images.csv": ["plate", "well", "field", "image_id", "file_ch1", "file_ch2", "file_ch3"],
    "idr0088-screenA-annotation.csv.zip": [
        "Plate",
        "Well",
        "Characteristics [Cell Line]",
        "Compound Name",
        "Channels",
        "Plate Location",
    ],
}
PLACE = ["id_code", "experiment", "plate", "well"]
# competition -> its tables (a glob, the first one is meant) -> the columns in which no cell may be
# empty
TABLES: dict[str, dict[str, list[str]]] = {
    "rxrx1": {
        "train.csv": [*PLACE, "sirna"],
        "train_controls.csv": [*PLACE, "sirna", "well_type"],
        "test.csv": PLACE,
        "test_controls.csv": [*PLACE, "sirna", "well_type"],
        "sample_submission.csv": ["id_code"],
    },
    "bbbc021": {
        "train.csv": ["image_id", "plate_id", "well_id", "compound", "concentration_uM", "moa"],
        "test.csv": ["image_id", "plate_id", "well_id"],
        "sample_submission.csv": ["image_id", "moa"],
    },
    "bbbc021_full": {
        "BBBC021_v1_image.csv": [
            "Image_FileName_DAPI",
            "Image_PathName_Tubulin",
            "Image_Metadata_Plate_DAPI",
            "Image_Metadata_Well_DAPI",
            "Replicate",
            "Image_Metadata_Compound",
            "Image_Metadata_Concentration",
        ],
        "BBBC021_v1_moa.csv": ["compound", "concentration", "moa"],
    },
    "cpjump1": {
        "workspace/load_data_csv/*/*/load_data.csv": [
            "FileName_OrigAGP",
            "FileName_OrigRNA",
            "Metadata_Plate",
            "Metadata_Well",
            "Metadata_Site",
        ],
        "workspace/metadata/platemaps/*/barcode_platemap.csv": [
            "Assay_Plate_Barcode",
            "Plate_Map_Name",
        ],
        "workspace/metadata/platemaps/*/platemap/*compound*": ["well_position"],
        "experiment-metadata.tsv": [
            "Batch",
            "Assay_Plate_Barcode",
            "Cell_type",
            "Time",
            "Perturbation",
        ],
    },
    "cpjump1_course": {
        "metadata.csv": ["FileName_OrigRNA", "Metadata_Well", "Metadata_Plate"],
        "test.csv": ["FileName_OrigRNA", "Metadata_Well"],
    },
    "idr0088_gpcr": IDR0088,
    "idr0088_moa": IDR0088,
    "mitoreid": {"annotation.xlsx:FDA-list": ["index"], "annotation.xlsx:Novel-list": ["index"]},
}
CELLS = [
    (name, table, column)
    for name, tables in TABLES.items()
    for table, columns in tables.items()
    for column in columns
]
WELLS = {
    "rxrx1": ("train.csv", "well"),
    "bbbc021_full": ("BBBC021_v1_image.csv", "Image_Metadata_Well_DAPI"),
    "cpjump1": ("workspace/load_data_csv/*/*/load_data.csv", "Metadata_Well"),
    "cpjump1_course": ("metadata.csv", "Metadata_Well"),
    "idr0088_gpcr": ("images.csv", "well"),
    "idr0088_moa": ("idr0088-screenA-annotation.csv.zip", "Well"),
}


class Table:
    """A table of a copy of a competition, as rows of text, header first; `write` puts it back."""

    def __init__(self, root: Path, name: str):
        name, _, self.sheet = name.partition(":")
        self.path = sorted(root.glob(name))[0]
        if self.sheet:
            sheet = openpyxl.load_workbook(self.path)[self.sheet]
            self.rows = [
                ["" if cell is None else str(cell) for cell in row]
                for row in sheet.iter_rows(values_only=True)
            ]
            return
        content = self.path.read_bytes()
        if self.path.suffix == ".zip":
            with zipfile.ZipFile(self.path) as archive:
                content = archive.read(archive.namelist()[0])
        self.delimiter = "\t" if b"\t" in content.splitlines()[0] else ","
        self.rows = list(csv.reader(io.StringIO(content.decode()), delimiter=self.delimiter))

    def column(self, name: str) -> int:
        return self.rows[0].index(name)

    def write(self, mark: bool = False, end: str = "\n") -> None:
        if self.sheet:
            book = openpyxl.load_workbook(self.path)
            sheet = book[self.sheet]
            sheet.delete_rows(1, sheet.max_row)
            for number, row in enumerate(self.rows, 1):
                for place, cell in enumerate(row, 1):
                    sheet.cell(number, place, cell or None)
            self.path.unlink()
            book.save(self.path)
            return
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter, lineterminator=end).writerows(self.rows)
        content = (b"\xef\xbb\xbf" if mark else b"") + text.getvalue().encode()
        self.path.unlink()
        if self.path.suffix == ".zip":
            with zipfile.ZipFile(self.path, "w") as archive:
                archive.writestr("annotation.csv", content)
        else:
            self.path.write_bytes(content)


@pytest.fixture
def copy(simulated, tmp_path):
    """competition -> a copy of its small simulated root, of which files may be replaced."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(simulated(name), tmp_path / name, copy_function=os.link))

    return copied


def read_all(name: str, root: Path) -> None:
    competition = get_competition(name)
    competition.samples(root)
    competition.sample_submission(root)
    competition.treatments(root)


def assert_unchanged(name: str, root: Path, original: Path) -> None:
    competition = get_competition(name)
    samples, before = competition.samples(root), competition.samples(original)
    pd.testing.assert_frame_equal(samples, before)
    assert competition.classes(root) == competition.classes(original)
    pd.testing.assert_frame_equal(
        competition.sample_submission(root), competition.sample_submission(original)
    )
    group = competition.fold_groups[-1]
    pd.testing.assert_frame_equal(make_folds(samples, group, 2), make_folds(before, group, 2))


def test_the_tables_are_of_competitions():
    """A new data set need not be listed here; one that is renamed must be."""
    assert {*TABLES, *WELLS} <= set(competition_ids())


@pytest.mark.parametrize("name, table, column", CELLS)
def test_an_empty_cell_is_named_by_its_row_in_the_file(name, table, column, copy):
    root = copy(name)
    damaged = Table(root, table)
    place = damaged.column(column)
    last = len(damaged.rows) - 1  # a row of blanks alone would be a blank line
    at = next(
        n
        for n in range(min(6, last), last + 1)
        if any(damaged.rows[n][:place] + damaged.rows[n][place + 1 :])
    )
    damaged.rows[at][place] = " "
    damaged.rows[3:3] = [[""] * len(damaged.rows[0])] * 2 if at >= 3 else []
    at += 2 if at >= 3 else 0
    damaged.write()
    with pytest.raises(InputError) as refused:
        read_all(name, root)
    message = str(refused.value)
    assert message.startswith(f"{damaged.path}: ") and "\n" not in message
    assert re.search(rf"\brow {at + 1}: {re.escape(column)} is empty", message), message


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, table", [(name, table) for name, tables in TABLES.items() for table in tables]
)
def test_blanks_line_ends_marks_and_blank_lines_change_nothing(name, table, copy, simulated):
    root = copy(name)
    changed = Table(root, table)
    changed.rows = [[f" {cell}  " if cell else cell for cell in row] for row in changed.rows]
    changed.rows.insert(4, [])
    changed.rows.append([""] * len(changed.rows[0]))
    changed.write(mark=True, end="\r\n")
    assert_unchanged(name, root, simulated(name))


@pytest.mark.parametrize("name", WELLS)
def test_wells_may_lack_their_zero(name, copy, simulated):
    root = copy(name)
    table, column = WELLS[name]
    changed = Table(root, table)
    place = changed.column(column)
    before = [row[place] for row in changed.rows]
    for row in changed.rows[1:]:
        match = re.fullmatch(r"([A-P])(\d+)", row[place])
        number = int(match[2])
        row[place] = (
            f"{match[1]}{number:02d}"
            if name.startswith("idr0088")
            else f"{match[1].lower()}{number}"
        )
    assert [row[place] for row in changed.rows] != before
    changed.write()
    assert_unchanged(name, root, simulated(name))


def test_a_barcode_of_digits_keeps_its_zeros(copy):
    root = copy("bbbc021")
    for name in ("train.csv", "test.csv"):
        table = Table(root, name)
        for row in table.rows[1:]:
            row[table.column("plate_id")] = "0009000" + row[table.column("plate_id")][-1]
        table.write()
    plates = set(get_competition("bbbc021").samples(root).plate)
    assert plates and all(re.fullmatch(r"0009000\d", plate) for plate in plates)


# files and what they say
# --------------------------------------------------------------------------------------------------

# competition -> its table, two columns of files of one row, and what the second's file is called
# there by its name
GIVEN = {
    "bbbc021_full": ("BBBC021_v1_image.csv", "Image_FileName_Actin", "Image_FileName_Tubulin"),
    "cpjump1": (
        "workspace/load_data_csv/*/*/load_data.csv",
        "FileName_OrigAGP",
        "FileName_OrigMito",
    ),
    "idr0088_gpcr": ("images.csv", "file_ch1", "file_ch2"),
    "idr0088_moa": ("images.csv", "file_ch2", "file_ch3"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_one_file_for_two_channels_is_refused_by_its_row(name, copy):
    root = copy(name)
    table, first, second = GIVEN[name]
    changed = Table(root, table)
    changed.rows[5][changed.column(second)] = changed.rows[5][changed.column(first)]
    changed.write()
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(changed.path))}: row 6: .* is given for the channels "
    ) as refused:
        get_competition(name).samples(root)
    assert changed.rows[5][changed.column(first)] in str(refused.value)


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("rows", ["one", "all"])
def test_swapped_channels_are_refused(name, rows, copy):
    root = copy(name)
    table, first, second = GIVEN[name]
    changed = Table(root, table)
    left, right = changed.column(first), changed.column(second)
    for row in changed.rows[7:8] if rows == "one" else changed.rows[1:]:
        row[left], row[right] = row[right], row[left]
    changed.write()
    line = 8 if rows == "one" else 2
    expected = rf"^{re.escape(str(changed.path))}: row {line}: .* is given for the channel \w+; by its name it shows \w+"
    with pytest.raises(InputError, match=expected):
        get_competition(name).samples(root)


@pytest.mark.parametrize("rows", ["one", "all"])
def test_the_course_knows_rna_by_its_number(rows, copy):
    root = copy("cpjump1_course")
    changed = Table(root, "metadata.csv")
    place = changed.column("FileName_OrigRNA")
    for row in changed.rows[4:5] if rows == "one" else changed.rows[1:]:
        row[place] = re.sub(
            r"-ch\d", f"-ch{CHANNEL_NUMBERS['DNA']}", row[place], flags=re.IGNORECASE
        )
    changed.write()
    with pytest.raises(
        InputError,
        match=rf"metadata\.csv: row {5 if rows == 'one' else 2}: .* given for the channel rna; by its name it shows dna",
    ):
        get_competition("cpjump1_course").samples(root)


def test_the_courses_files_on_disk_are_held_to_it_too(copy):
    root = copy("cpjump1_course")
    for path in (root / "images").iterdir():
        path.rename(path.with_name(path.name.replace("-ch3", "-ch5")))
    with pytest.raises(InputError, match="given for the channel rna; by its name it shows dna"):
        get_competition("cpjump1_course").samples(root)


# competition -> table, column of a file, and how its name comes to tell another well
OTHER_WELL = {
    "bbbc021_full": (
        "BBBC021_v1_image.csv",
        ("Image_FileName_DAPI", "Image_FileName_Tubulin", "Image_FileName_Actin"),
    ),
    "cpjump1_course": ("metadata.csv", ("FileName_OrigRNA",)),
    "idr0088_gpcr": ("images.csv", ("file_ch1", "file_ch2", "file_ch3")),
}


@pytest.mark.parametrize("name", OTHER_WELL)
def test_the_files_of_another_well_are_refused(name, copy):
    """Two rows of two wells have their files swapped."""
    root = copy(name)
    table, columns = OTHER_WELL[name]
    changed = Table(root, table)
    well = changed.column(WELLS[name][1])
    other = next(
        number
        for number in range(2, len(changed.rows))
        if changed.rows[number][well] != changed.rows[1][well]
    )
    for column in map(changed.column, columns):
        changed.rows[1][column], changed.rows[other][column] = (
            changed.rows[other][column],
            changed.rows[1][column],
        )
    changed.write()
    with pytest.raises(
        InputError, match=rf"{re.escape(str(changed.path))}: row 2: .* by its name it is of \w+ "
    ):
        get_competition(name).samples(root)


def test_the_folder_of_another_plate_is_refused(copy):
    """A load_data.csv names its plate in the folder of its files, too."""
    changed = Table(copy("cpjump1"), "workspace/load_data_csv/*/*/load_data.csv")
    plate = changed.rows[1][changed.column("Metadata_Plate")]
    place = changed.column("PathName_OrigER")
    changed.rows[2][place] = changed.rows[2][place].replace(plate, "BR00000009") + "/"
    changed.write()
    message = (
        rf"row 3: BR00000009__.* is given for plate {plate}; by its name it is of plate BR00000009"
    )
    with pytest.raises(InputError, match=message):
        get_competition("cpjump1").samples(changed.path.parents[4])


# competition -> table and column of what becomes the path of an image
PATHS = {"bbbc021": ("train.csv", "image_id"), "idr0088_gpcr": ("images.csv", "file_ch2")}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("path", ["../../elsewhere/A1_f1_ch2", "a/../../../A1_f1_ch2"])
def test_an_image_outside_the_root_is_refused(name, path, copy):
    table, column = PATHS[name]
    changed = Table(copy(name), table)
    changed.rows[4][changed.column(column)] = path
    changed.write()
    with pytest.raises(InputError, match=rf"{table}: row 5: .*lies outside the root"):
        get_competition(name).samples(changed.path.parent)


@pytest.mark.parametrize(
    "name, table, test", [("bbbc021", "test.csv", "image_id"), ("rxrx1", "test.csv", "id_code")]
)
def test_a_sample_submission_is_of_the_test_set_alone(name, table, test, copy):
    root = copy(name)
    changed = Table(root, "sample_submission.csv")
    place, first = changed.column(test), changed.rows[1][0]
    changed.rows[1][place] = "elsewhere"
    changed.write()
    with pytest.raises(
        InputError, match=rf"submission\.csv: row 2: {test} 'elsewhere' is not in the test set"
    ):
        verify(get_competition(name), root)
    del changed.rows[1]
    changed.write()
    with pytest.raises(
        InputError, match=rf"submission\.csv: {test} '{first}' of the test set is missing"
    ):
        verify(get_competition(name), root)
    changed.path.unlink()
    ids = {row[Table(root, table).column(test)] for row in Table(root, table).rows[1:]}
    assert set(get_competition(name).sample_submission(root)[test]) == ids


@pytest.mark.parametrize("name", competition_ids())
def test_what_the_names_state_is_what_the_table_says(name, simulated):
    """Of every file of every competition; and those that state a channel state each of them."""
    competition = get_competition(name)
    samples = competition.samples(simulated(name))
    channels = set()
    for row in samples.itertuples():
        for number, file in enumerate(row.files):
            stated = competition.stated(file.partition("#")[0])
            channels.add(stated.get("channel"))
            assert stated.get("channel") in (
                None,
                competition.channels_of(simulated(name))[number if len(row.files) > 1 else 0],
            )
            for key in {"plate", "experiment"} & set(stated):
                assert stated[key] == getattr(row, key)
            if "site" in stated:
                assert int(stated["site"]) == row.site
    # files of the first two are all channels in one; of plates the table is made from the names
    states = name not in ("bbbc021", "mitoreid", "plates", "plates_multi_label")
    assert channels == (set(competition.channels) if states else {None})


def test_two_channels_with_the_same_bytes_are_an_error_of_verify(copy):
    root = copy("rxrx1")
    competition = get_competition("rxrx1")
    files = competition.samples(root).files[3]
    (root / files[4]).unlink()
    shutil.copy(root / files[1], root / files[4])
    problems = [problem for problem in verify(competition, root) if problem.is_error]
    assert [(problem.kind, problem.path) for problem in problems] == [
        ("identical_channels", files[4])
    ]
    assert files[1] in problems[0].detail


# wells with two labels
# --------------------------------------------------------------------------------------------------


def test_a_well_with_two_labels_is_refused_by_its_row(copy):
    root = copy("bbbc021")
    table = Table(root, "train.csv")
    first, place = table.rows[1], [table.column("plate_id"), table.column("well_id")]
    number = next(
        n
        for n in range(2, len(table.rows))
        if table.rows[n][table.column("moa")] != first[table.column("moa")]
    )
    for column in place:
        table.rows[number][column] = first[column]
    table.write()
    with pytest.raises(
        InputError,
        match=rf"train\.csv: row {number + 1}: well '{first[place[1]]}' of plate .* has another label",
    ):
        get_competition("bbbc021").samples(root)


def test_a_well_of_the_course_with_two_names_is_refused(copy):
    root = copy("cpjump1_course")
    table = Table(root, "metadata.csv")
    name, well = table.column("Metadata_pert_iname"), table.column("Metadata_Well")
    kept = get_competition("cpjump1_course").samples(root)
    number = next(
        n for n in range(2, len(table.rows)) if table.rows[n][well] == table.rows[1][well]
    )
    table.rows[number][name] = next(
        other for other in kept["compound"].dropna().unique() if other != table.rows[1][name]
    )
    table.write()
    with pytest.raises(InputError, match=r"metadata\.csv: row \d+: .*two values of label"):
        get_competition("cpjump1_course").samples(root)


# answers and submissions
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", competition_ids())
def test_answers_name_the_row_and_may_have_blanks(name, simulated, tmp_path):
    competition, source = get_competition(name), answers_path(simulated(name))
    rows = list(csv.reader(io.StringIO(source.read_text())))
    expected = competition.answers(source)
    path = tmp_path / "answers.csv"
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, lineterminator="\r\n").writerows(
            [[f" {cell} " for cell in row] for row in rows[:3]] + [[]] + rows[3:]
        )
    pd.testing.assert_frame_equal(competition.answers(path), expected)
    rows[5][0] = ""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([*rows[:3], [], *rows[3:]])
    with pytest.raises(InputError, match=rf"answers\.csv: row 7: {rows[0][0]} is empty"):
        competition.answers(path)
