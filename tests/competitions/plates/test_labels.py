"""Several labels a well: from cells such as "A|B" or columns of 0 and 1 to a score."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import cellsignal, error_line
from sklearn.metrics import average_precision_score

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.plates.competition import PlatesMultiLabel
from cellsignal.competitions.targets import label_matrix

PLATES = PlatesMultiLabel()
MOAS = ("moa 1", "moa 2", "moa 3")


@pytest.fixture
def root(simulated, tmp_path):
    return shutil.copytree(simulated("plates_multi_label"), tmp_path / "plates")


def change(root, **keys):
    path = root / "plates.yaml"
    tree = yaml.safe_load(path.read_text()) | keys
    tree = {key: value for key, value in tree.items() if value is not None}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def platemap(root):
    return pd.read_csv(root / "platemaps.csv", dtype=str, keep_default_na=False)


def write_map(root, table):
    table.to_csv(root / "platemaps.csv", index=False)


def as_columns(root, **values):
    """Write the labels of the platemap as columns of 0 and 1; `values` are cells of `moa 3`."""
    table = platemap(root)
    for moa in MOAS:
        has = table.moa.str.split("|").map(set).map(lambda names, moa=moa: moa in names)
        table[moa] = has.astype(int).astype(str)
    write_map(root, table.drop(columns="moa"))
    change(root, label=None, label_columns=list(MOAS))


def labels_of(root):
    samples = PLATES.samples(root).drop_duplicates("well_id").set_index("well_id")
    known = samples[samples["labels"].notna()]
    return pd.DataFrame(
        label_matrix(known, len(PLATES.classes(root))), known.index, PLATES.classes(root)
    )


def test_cells_with_a_separator_are_the_platemap(root):
    table = platemap(root).query("role == 'treatment'")
    table.index = table.plate + "_" + table.well
    assert table.moa.str.contains("|", regex=False).any()
    expected = table.moa.str.get_dummies("|")
    pd.testing.assert_frame_equal(
        labels_of(root).sort_index(),
        expected.sort_index(),
        check_dtype=False,
        check_names=False,
        check_index_type=False,
        check_column_type=False,
    )
    samples = PLATES.samples(root)
    assert samples.label.isna().all()
    assert samples["labels"][samples.role == "negative_control"].isna().all()


@pytest.mark.parametrize("how", ["another separator", "blanks and doubles", "columns"])
def test_every_way_of_writing_gives_the_same_labels(root, how):
    before = labels_of(root)
    table = platemap(root)
    if how == "another separator":
        write_map(root, table.assign(moa=table.moa.str.replace("|", ";")))
        change(root, label_separator=";")
    elif how == "blanks and doubles":
        first = table.moa.str.split("|").str[0]
        write_map(root, table.assign(moa=table.moa.str.replace("|", " | ") + "|" + first))
    else:
        as_columns(root)
    pd.testing.assert_frame_equal(labels_of(root), before)


def test_none_of_the_labels_is_not_unknown(root):
    """A row of 0 is a negative of every class; a row with an empty cell is left out."""
    as_columns(root)
    table = platemap(root)
    treated = table.index[table.role == "treatment"]
    table.loc[treated[0], list(MOAS)] = "0"
    table.loc[treated[1], "moa 2"] = ""
    write_map(root, table)
    names = (table.plate + "_" + table.well)[treated]
    assert labels_of(root).loc[names.iloc[0]].eq(0).all()
    assert names.iloc[1] not in set(PLATES.samples(root).well_id)
    assert PLATES.left_out(root) == (("a well without a label", names.iloc[1]),)


def test_a_label_that_no_well_has_is_counted(root, tmp_path, capsys):
    as_columns(root)
    write_map(root, platemap(root).assign(**{"moa 9": "0"}))
    change(root, label_columns=[*MOAS, "moa 9"])
    assert PLATES.classes(root) == MOAS
    capsys.readouterr()
    assert cellsignal("samples", PLATES.id, "--root", root, cwd=tmp_path) == 0
    out = capsys.readouterr().out
    assert "1: a label that no treated well has; first moa 9" in out and "3 labels, " in out


def test_hidden_labels_are_not_read(root):
    """A label that only hidden wells have is no class, and theirs stay unknown."""
    table = platemap(root)
    before = PLATES.samples(root)
    write_map(root, table.assign(moa=table.moa.where(table.role != "test", "secret|moa 1")))
    pd.testing.assert_frame_equal(PLATES.samples(root), before)
    assert PLATES.classes(root) == MOAS


def other_competition(root):
    return "plates", "task: multi_label is that of the competition plates_multi_label; write"


def single_label(root):
    change(root, task="single_label", label_separator=None)
    return PLATES.id, "task: single_label is that of the competition plates; write plates in place"


def wrong_cell(root):
    as_columns(root)
    table = platemap(root)
    table.loc[3, "moa 2"] = "yes"
    write_map(root, table)
    return PLATES.id, "row 5: moa 2 'yes' is neither 0 nor 1"


def no_such_column(root):
    change(root, label=None, label_columns=["moaa"])
    return PLATES.id, "has no column 'moaa', which plates.yaml gives as label_columns; did you mean"


def both_keys(root):
    change(root, label_columns=["moa"])
    return PLATES.id, "give either label or label_columns"


def columns_of_one_label(root):
    change(root, label=None, label_columns=["moa"], task="single_label")
    return "plates", "label_columns: needs task: multi_label"


def a_column_twice(root):
    change(root, label=None, label_columns=["moa", "moa"])
    return PLATES.id, "label_columns: names a column twice"


def reserved_name(root):
    table = platemap(root)
    write_map(root, table.assign(moa=table.moa.str.replace("moa 2", "plate")))
    return PLATES.id, "a label is called 'plate', as a column that answers may have"


def unknown_task(root):
    change(root, task="many")
    return PLATES.id, "plates.yaml: task: Input should be 'single_label' or 'multi_label'"


@pytest.mark.parametrize(
    "plant",
    [
        other_competition,
        single_label,
        wrong_cell,
        no_such_column,
        both_keys,
        columns_of_one_label,
        a_column_twice,
        reserved_name,
        unknown_task,
    ],
)
def test_a_fault_is_one_line(root, plant, tmp_path, capsys):
    competition_id, why = plant(root)
    line = error_line(capsys, "samples", competition_id, "--root", root, cwd=tmp_path)
    assert why in line and str(root) in line


def test_labels_need_a_platemap(root, tmp_path, capsys):
    change(root, platemap=None, images={"pattern": "{label}/{image}.tiff", "channels": {"a": "1"}})
    line = error_line(capsys, "samples", PLATES.id, "--root", root, cwd=tmp_path)
    assert line == f"{root}/plates.yaml: task: multi_label needs a platemap"


def test_answers_may_have_any_order_of_columns_and_wells(root, tmp_path):
    """Score and truth are taken by the name of the label; scikit-learn agrees."""
    path = answers_path(root)
    answers = pd.DataFrame(
        {
            "well_id": ["P003_a1", "P003_B2", "P003_C03"],
            "moa 3": [0, 0, 1],
            "moa 1": [1, 0, 0],
            "moa 2": [0, 1, 1],
        }
    )
    answers.to_csv(path, index=False)
    read = PLATES.answers(path)
    assert read.well_id.to_list() == ["P003_A01", "P003_B02", "P003_C03"]
    assert "plate" not in read and set(read.leaderboard) == {"private"}
    truth = PLATES.task.truth(read, MOAS)
    assert np.array_equal(truth.values, answers[list(MOAS)])
    scores = np.random.default_rng(0).random((3, 3))
    value = PLATES.task.evaluate(scores, truth, MOAS)[0].value
    assert value == pytest.approx(average_precision_score(truth.values, scores))
    assert (len(set(truth.cluster)), PLATES.task.resampled_column(read)) == (3, "well_id")
    with pytest.raises(InputError, match="answers: no column of the class 'moa 2'"):
        PLATES.task.truth(read.drop(columns="moa 2"), MOAS)


def test_init_proposes_several_labels(root, tmp_path):
    assert cellsignal("init", root, "--force", cwd=tmp_path) == 0
    text = (root / "plates.yaml").read_text()
    assert text.count("\n") <= 25 and '# label_separator: "|"' in text
    (root / "plates.yaml").write_text(
        text.replace("# task", "task")
        .replace("# label_sep", "label_sep")
        .replace("# negative_controls: COLUMN = VALUE", "negative_controls: role = dmso")
        .replace("# hidden: COLUMN = VALUE", "hidden: role = test")
    )
    assert PLATES.classes(root) == MOAS


def test_a_simulation_has_several_labels(tmp_path, capsys):
    words = ("simulate", PLATES.id, "--out", tmp_path / "data", "--set", "labels=1")
    assert "labels: 2 or 3, got 1" in error_line(capsys, *words, cwd=tmp_path)
    assert not (tmp_path / "data").exists()
