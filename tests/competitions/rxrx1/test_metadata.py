"""The three releases of RxRx1's metadata give the same samples; damage is one line that names the
place.
"""

import shutil

import numpy as np
import pandas as pd
import pytest
from rxrx1_release import NEGATIVE, write_release, write_site_file

from cellsignal.common.errors import InputError
from cellsignal.competitions.rxrx1 import RxRx1
from cellsignal.competitions.rxrx1.competition import (
    PUBLISHED,
    published_counts,
)
from cellsignal.competitions.rxrx1.metadata import read_answers, read_wells
from cellsignal.competitions.rxrx1.splits import public_experiments


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "rxrx1"
    return root, write_release(root)


def table(root):
    return RxRx1().samples(root).sort_values("sample_id", ignore_index=True)


def test_the_samples_are_the_wells_twice(release):
    root, truth = release
    samples = table(root)
    assert len(samples) == 2 * len(truth)
    first = samples[samples.sample_id == "HEPG2-01_2_C04_s2"].iloc[0]
    assert (first.target_id, first.well_id) == ("HEPG2-01_2_C04", "HEPG2-01_2_C04")
    assert (first.experiment, first.plate, first.well, first.site) == ("HEPG2-01", "2", "C04", 2)
    assert (first.cell_type, first.label, first.role, first.compound) == (
        "HEPG2",
        5,
        "treatment",
        "5",
    )
    assert first.files == tuple(f"train/HEPG2-01/Plate2/C04_s2_w{c}.png" for c in range(1, 7))


def test_test_treatments_have_no_label_and_test_controls_have(release):
    samples = table(release[0])
    test = samples[samples.split == "test"]
    treated = test.role == "treatment"
    assert test.label[treated].isna().all() and test.compound[treated].isna().all()
    assert set(test.label[~treated]) == {8, 9, 10}
    assert test.files.str[0].str.startswith("test/").all()


def test_the_three_releases_give_the_same_samples(tmp_path, caplog):
    truth = write_release(tmp_path / "a")
    write_release(tmp_path / "b", text=True)
    write_site_file(tmp_path / "c", truth)
    a = table(tmp_path / "a")
    with caplog.at_level("INFO"):
        b = table(tmp_path / "b")
    assert [r.message.count("label 10") for r in caplog.records] == [1]
    pd.testing.assert_frame_equal(a, b)
    together = a.files.map(lambda files: tuple(f"images/{f.partition('/')[2]}" for f in files))
    pd.testing.assert_frame_equal(a.assign(files=together), table(tmp_path / "c"))


def test_extra_untreated_rows_in_the_treatment_files_become_negative_controls(tmp_path):
    root = tmp_path / "b"
    write_release(root, text=True)
    with open(root / "train.csv", "a") as file:
        file.write(
            "HEPG2-01_1_B02,HEPG2-01,1,B02,UNTREATED\nHEPG2-01_2_B02,HEPG2-01,2,B02,UNTREATED\n"
        )
    samples = RxRx1().samples(root)
    extra = samples[samples.well == "B02"]
    assert len(extra) == 4
    assert (
        set(extra.role) == {"negative_control"}
        and set(extra.label) == {NEGATIVE}
        and extra.compound.isna().all()
    )


def test_the_site_file_keeps_its_answers_from_the_samples_and_gives_them_to_answers(tmp_path):
    truth = write_release(tmp_path / "a")
    write_site_file(tmp_path / "c", truth)
    samples = RxRx1().samples(tmp_path / "c")
    assert samples.label[(samples.split == "test") & (samples.role == "treatment")].isna().all()
    answers = RxRx1().answers(tmp_path / "c" / "metadata.csv").set_index("id_code").sirna
    expected = (
        truth[(truth.split == "test") & (truth.well_type == "treatment")].set_index("id_code").sirna
    )
    assert answers.astype(int).to_dict() == expected.to_dict()


def test_a_label_column_in_test_csv_is_not_read(release):
    root, _ = release
    test = pd.read_csv(root / "test.csv")
    test.assign(sirna=1).to_csv(root / "test.csv", index=False)
    samples = RxRx1().samples(root)
    assert samples.label[(samples.split == "test") & (samples.role == "treatment")].isna().all()


def test_rxrx_ai_images_folder_is_found(tmp_path):
    write_site_file(tmp_path / "c", write_release(tmp_path / "a"))
    (tmp_path / "c" / "images").mkdir()
    assert RxRx1().samples(tmp_path / "c").files.str[0].str.startswith("images/").all()


def test_a_site_that_the_site_file_leaves_out_is_left_out(tmp_path):
    write_site_file(tmp_path / "c", write_release(tmp_path / "a"))
    path = tmp_path / "c" / "metadata.csv"
    rows = pd.read_csv(path)
    rows[rows.site_id != "RPE-01_2_C04_1"].to_csv(path, index=False)
    ids = set(RxRx1().samples(tmp_path / "c").sample_id)
    assert "RPE-01_2_C04_s2" in ids and "RPE-01_2_C04_s1" not in ids


def edit(path, change):
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(frame).to_csv(path, index=False)


def put(column, row, value):
    return lambda frame: frame.assign(**{column: frame[column].where(frame.index != row, value)})


DAMAGE = [
    ("train.csv", lambda f: f.drop(columns="sirna"), r"train\.csv: no column 'sirna'"),
    (
        "test_controls.csv",
        lambda f: f.drop(columns="well_type"),
        r"test_controls\.csv: no column 'well_type'",
    ),
    (
        "train.csv",
        lambda f: pd.concat([f, f.iloc[[3]]]),
        r"train\.csv: row 18: id_code 'HEPG2-01_1_C06' occurs more than once",
    ),
    (
        "train.csv",
        put("sirna", 4, ""),
        r"train\.csv: row 6: sirna is empty; its id_code is 'HEPG2-01_2_C03'",
    ),
    ("train.csv", put("sirna", 4, "-3"), r"train\.csv: row 6 .*label '-3' is not an siRNA"),
    ("train.csv", put("sirna", 4, "2.5"), r"train\.csv: row 6 .*2\.5"),
    ("train.csv", put("sirna", 4, "mystery"), r"train\.csv: row 6 .*'mystery' is not an siRNA"),
    (
        "train.csv",
        lambda f: f[f.sirna != "5"],
        r"training labels go up to 7 but 1 of them never occur, first 5",
    ),
    (
        "train.csv",
        put("well", 2, "Q03"),
        r"train\.csv: row 4: well 'Q03' is not a well of a 384-well plate",
    ),
    ("train.csv", put("well", 2, "B25"), r"train\.csv: row 4: well 'B25'"),
    (
        "train.csv",
        put("plate", 2, "x"),
        r"train\.csv: row 4: plate 'x' is not a whole number from 1",
    ),
    ("train.csv", put("experiment", 2, "HEPG2"), r"train\.csv: row 4: experiment 'HEPG2' is not"),
    (
        "test.csv",
        put("id_code", 1, "HEPG2-02_1_C14"),
        r"test\.csv: row 3: id_code 'HEPG2-02_1_C14' disagrees",
    ),
    ("test.csv", put("id_code", 1, ""), r"test\.csv: row 3: id_code is empty"),
    ("train_controls.csv", put("sirna", 0, "2"), r"control well 'HEPG2-01_1_C07' has label 2"),
    (
        "train_controls.csv",
        put("well_type", 0, "odd"),
        r"train_controls\.csv: row 2: well_type 'odd'",
    ),
    (
        "sample_submission.csv",
        lambda f: f.iloc[1:],
        r"sample_submission\.csv: id_code 'HEPG2-02_1_C03' of the test",
    ),
    (
        "sample_submission.csv",
        put("id_code", 0, "A"),
        r"sample_submission\.csv: row 2: id_code 'A' is not in the test set",
    ),
]


@pytest.mark.parametrize("name, change, message", DAMAGE)
def test_damage_is_one_line_that_names_the_place(release, name, change, message):
    root, _ = release
    edit(root / name, change)
    with pytest.raises(InputError, match=message) as caught:
        RxRx1().samples(root)
        RxRx1().sample_submission(root)
    assert "\n" not in str(caught.value)


def test_an_id_in_two_files_is_refused(release):
    root, _ = release
    row = pd.read_csv(root / "train.csv").iloc[[0]].drop(columns="sirna")
    edit(root / "test.csv", lambda frame: pd.concat([frame, row]))
    with pytest.raises(
        InputError, match=r"test\.csv: row \d+: id_code 'HEPG2-01_1_C03' is also in train\.csv"
    ):
        read_wells(root)


@pytest.mark.parametrize(
    "name", ["train.csv", "test.csv", "train_controls.csv", "test_controls.csv"]
)
def test_a_missing_file_is_named(release, name):
    root, _ = release
    (root / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        RxRx1().samples(root)


def test_an_empty_folder_and_an_empty_file_are_named(tmp_path, release):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"neither train\.csv nor metadata\.csv; it is empty"):
        read_wells(tmp_path / "nothing")
    (release[0] / "test.csv").write_text("")
    with pytest.raises(InputError, match=r"test\.csv: is empty"):
        read_wells(release[0])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: f.drop(columns="sirna_id"), "no column 'sirna_id'"),
        (put("sirna_id", 0, "3"), r"row \d+: well_id '.*' has sites that disagree"),
        (put("dataset", 5, "valid"), "row 7: dataset 'valid'"),
        (put("site", 5, "0"), "row 7: site '0' is not a whole number from 1"),
        (lambda f: pd.concat([f, f.iloc[[9]]]), r"row \d+: site '\d' occurs twice for its well"),
    ],
)
def test_damage_of_the_site_file(tmp_path, change, message):
    write_site_file(tmp_path / "c", write_release(tmp_path / "a"))
    edit(tmp_path / "c" / "metadata.csv", change)
    with pytest.raises(InputError, match=rf"metadata\.csv: .*{message}"):
        read_wells(tmp_path / "c")


def test_sample_submission_is_the_file_else_the_order_of_test_csv(release):
    root, _ = release
    edit(root / "sample_submission.csv", lambda frame: frame.iloc[::-1])
    given = RxRx1().sample_submission(root)
    assert given.id_code.tolist() == pd.read_csv(root / "test.csv").id_code.tolist()[::-1]
    (root / "sample_submission.csv").unlink()
    derived = RxRx1().sample_submission(root)
    assert derived.id_code.tolist() == pd.read_csv(root / "test.csv").id_code.tolist()


def test_classes_are_counted_and_written_as_the_release_writes_them(tmp_path):
    write_release(tmp_path / "a")
    write_release(tmp_path / "b", text=True)
    assert RxRx1().classes(tmp_path / "a") == tuple("01234567")
    assert RxRx1().classes(tmp_path / "b") == tuple(f"sirna_{i}" for i in range(8))


def test_truth_scores_one_in_either_spelling_and_a_wrong_id_is_refused(tmp_path):
    truth = write_release(tmp_path / "a")
    write_site_file(tmp_path / "c", truth)
    write_release(tmp_path / "b", text=True)
    rxrx1 = RxRx1()
    answers = rxrx1.answers(tmp_path / "c" / "metadata.csv")
    for root in ("a", "b"):
        submission = rxrx1.task.format_labels(
            answers.id_code, answers.sirna.astype(int), tmp_path / root
        )
        rxrx1.task.check_submission(
            submission, rxrx1.sample_submission(tmp_path / root), rxrx1.classes(tmp_path / root)
        )
        assert rxrx1.task.score(submission, answers) == 1.0
        half = submission.assign(
            sirna=submission.sirna.where(
                np.arange(len(submission)) % 2 == 0, submission.sirna.iloc[0]
            )
        )
        kept = (half.sirna.to_numpy() == submission.sirna.to_numpy()).mean()
        assert rxrx1.task.score(half, answers) == pytest.approx(kept) and kept < 1
    with pytest.raises(InputError, match="ids missing"):
        rxrx1.task.score(submission.iloc[1:], answers)


def test_leaderboard_split_of_a_copy_and_of_one_experiment_a_cell_type(tmp_path):
    path = tmp_path / "answers.csv"
    ids = ["HEPG2-09_1_C03", "HEPG2-10_1_C03", "RPE-02_1_C03"]
    pd.DataFrame({"id_code": ids, "sirna": [1, 2, 3]}).to_csv(path, index=False)
    answers = RxRx1().answers(path)
    assert answers.leaderboard.tolist() == ["public", "private", "public"]
    assert answers.columns.tolist() == [
        "id_code",
        "sirna",
        "experiment",
        "plate",
        "cell_type",
        "leaderboard",
    ]
    assert answers.iloc[1].tolist() == ["HEPG2-10_1_C03", "2", "HEPG2-10", "1", "HEPG2", "private"]
    pd.DataFrame({"id_code": ids[1:], "sirna": [2, 3]}).to_csv(path, index=False)
    assert RxRx1().answers(path).leaderboard.tolist() == ["private", "private"]
    # by number, not by letter
    assert public_experiments(pd.Series(["U2OS-10", "U2OS-9"])) == {"U2OS-9"}


def test_answers_name_a_bad_row(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text("id_code,sirna\nHEPG2-09_1_C03,1\nHEPG2-09_1_C04,\n")
    with pytest.raises(
        InputError, match=r"answers\.csv: row 3: sirna is empty; its id_code is 'HEPG2-09_1_C04'"
    ):
        read_answers(path)


@pytest.mark.slow
def test_real_counts_and_the_published_leaderboard(real_data, tmp_path):
    root = real_data / "rxrx1"
    counts = published_counts(root)
    assert counts == {name: (number, number) for name, number in PUBLISHED.items()}
    samples = RxRx1().samples(root)
    assert len(samples) == 125_510 and RxRx1().classes(root) == tuple(map(str, range(1108)))
    public = public_experiments(samples.experiment[samples.split == "test"])
    assert public == {"HEPG2-08", "HUVEC-17", "RPE-08", "U2OS-04"}
    # WILDS: 40,612 train sites, 9,854 and 34,432 of the two test parts
    test = samples[samples.split == "test"]
    assert ((samples.split == "train") & (samples.site == 1)).sum() == 40_612
    assert (
        test.experiment.isin(public).sum() == 9_854
        and (~test.experiment.isin(public)).sum() == 34_432
    )
    pd.testing.assert_frame_equal(
        RxRx1().sample_submission(root),
        pd.read_csv(root / "sample_submission.csv"),
        check_dtype=False,
    )


def test_one_real_row_in_error_is_found(real_data, tmp_path):
    for name in ("train.csv", "test.csv", "train_controls.csv", "test_controls.csv"):
        shutil.copy(real_data / "rxrx1" / name, tmp_path / name)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    lines[20_000] = lines[20_000].rsplit(",", 1)[0] + ","
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(
        InputError,
        match=rf"train\.csv: row 20001: sirna is empty; its id_code is '{lines[20_000].split(',')[0]}'",
    ):
        read_wells(tmp_path)
