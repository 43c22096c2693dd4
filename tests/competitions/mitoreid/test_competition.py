"""MitoReID's samples, tracks, annotation and rankings: what each part of the release becomes, and
every fault named.
"""

import shutil
from itertools import combinations

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cellsignal.common.errors import ImageError, InputError, InvalidSubmission
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.folds import labelled, make_folds
from cellsignal.competitions.mitoreid.competition import MitoReID
from cellsignal.competitions.mitoreid.images import read_track
from cellsignal.competitions.mitoreid.metadata import (
    drug_of,
    list_tracks,
    part_of,
    published_answers,
    read_annotation,
)
from cellsignal.competitions.mitoreid.simulate import simulate_mitoreid
from cellsignal.metrics.ranking import (
    average_precisions,
    chance_average_precision,
    match_masks,
    order_by_class,
    ranking_score,
)

SMALL = {
    "moas": 2,
    "drugs_per_moa": 2,
    "libraries": 2,
    "train": 1,
    "controls": 1,
    "novel_drugs": 1,
    "natural": 1,
    "size": 16,
}
COMPETITION = MitoReID()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "mitoreid"
    simulate_mitoreid(root, 0, **SMALL)
    return root


@pytest.fixture
def copy(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(path, change) -> None:
    """Both sheets through `change`, a function of {sheet: frame} that gives the sheets to write."""
    sheets = pd.read_excel(path, sheet_name=None, dtype=object)
    with pd.ExcelWriter(path) as book:
        for name, frame in change(sheets).items():
            frame.to_excel(book, sheet_name=name, index=False)


# samples
# --------------------------------------------------------------------------------------------------


def test_what_each_part_becomes(root):
    samples = COMPETITION.samples(root)
    told = samples.assign(
        part=part_of(samples), control=samples.compound.eq("dmso"), known=samples.label.notna()
    )
    rows = (
        told.groupby(["part", "control"])[["split", "role", "known"]]
        .agg(lambda values: set(values))
        .apply(tuple, axis=1)
        .to_dict()
    )
    assert rows == {
        ("train", False): ({"train"}, {"treatment"}, {True}),
        ("train", True): ({"train"}, {"negative_control"}, {True}),
        ("query", False): ({"test"}, {"treatment"}, {False}),
        ("query", True): ({"test"}, {"negative_control"}, {False}),
        ("gallery", False): ({"train"}, {"reference"}, {False}),
        ("gallery", True): ({"test"}, {"negative_control"}, {False}),
        ("nc", False): ({"test"}, {"reference"}, {False}),
        ("novel", False): ({"test"}, {"reference"}, {False}),
    }
    assert set(told.label[told.part.eq("train") & told.control]) == {len(COMPETITION.classes(root))}
    assert told[labelled(samples)].groupby("compound").label.first().to_dict() == {
        "1": 0,
        "2": 0,
        "3": 1,
        "4": 1,
    }
    asked = told[told.part.eq("query") & ~told.control]
    assert asked["compound"].isna().all() and asked.treatment.isna().all() and len(asked) == 8
    assert set(told.experiment) == {"l1", "l2", "novel"} and told.well_id.is_unique


def test_folds_hold_whole_drugs_out_of_train_alone(root):
    samples = COMPETITION.samples(root)
    folds = make_folds(samples, COMPETITION.fold_groups[0], 2)
    assert sorted(folds["compound"]) == ["1", "2", "3", "4"] and folds.groupby(
        "fold"
    ).label.nunique().tolist() == [2, 2]


def test_a_drug_that_is_not_chosen_is_there_without_a_label(copy):
    def unchoose(sheets):
        fda = sheets["FDA-list"]
        fda.loc[fda["index"].astype(str) == "2", ["moa_choose", "moa_id"]] = [0, "unknown"]
        return sheets

    rewrite(copy / "annotation.xlsx", unchoose)
    samples = COMPETITION.samples(copy)
    mine = samples[samples["compound"].eq("2")]
    assert (
        set(mine.role) == {"reference"}
        and mine.label.isna().all()
        and set(part_of(mine)) == {"train", "query", "gallery"}
    )
    assert not COMPETITION.gallery(copy).drug.eq("2").any()
    assert not COMPETITION.sample_submission(copy).query_id.str.contains("_query_2_").any()


def test_another_well_of_a_drug_is_the_same_drug(copy):
    (copy / "l1" / "train" / "1").rename(copy / "l1" / "train" / "1-2")
    (copy / "l2" / "train" / "dmso").rename(copy / "l2" / "train" / "DMSO")
    tracks = list_tracks(copy).set_index("sample_id")
    assert tracks.drug["l1_train_1-2_1_0"] == "1" and tracks.drug["l2_train_DMSO_dmso_0"] == "dmso"
    assert [drug_of(name) for name in ("17", "17-3", "Dmso", "N1")] == ["17", "17", "dmso", "N1"]


# tracks
# --------------------------------------------------------------------------------------------------


def coloured(folder, sizes=((16, 16),) * 16):
    """A track whose frame t has w1 = 10 t, w2 = 100, w3 = 200 - 10 t everywhere."""
    folder.mkdir(parents=True)
    for t, size in enumerate(sizes):
        frame = np.empty((*size, 3), np.uint8)
        frame[:] = 10 * t, 100, 200 - 10 * t  # OpenCV's blue, green, red
        cv2.imwrite(str(folder / f"{t + 1}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return folder


def test_planes_are_stain_by_stain_and_blue_is_w1(tmp_path):
    planes = read_track(coloured(tmp_path / "t"))
    assert (
        planes.shape == (48, 16, 16)
        and COMPETITION.channels[:2] == ("w1 t01", "w1 t02")
        and COMPETITION.channels[47] == "w3 t16"
    )
    wanted = np.concatenate([10 * np.arange(16), np.full(16, 100), 200 - 10 * np.arange(16)])
    assert np.abs(planes.mean((1, 2)) - wanted).max() < 3


def test_a_track_is_scaled_whole_or_refused(tmp_path):
    folder = coloured(tmp_path / "t", ((32, 32),) * 16)
    assert read_track(folder, (8, 8)).shape == (48, 8, 8) and read_track(
        folder, (40, 40)
    ).shape == (48, 40, 40)
    with pytest.raises(ImageError, match="32x32 pixels cannot be scaled to 8x9"):
        read_track(folder, (9, 8))


def test_the_real_release_is_read_at_one_size(copy):
    assert COMPETITION.root_shape(copy) == (16, 16)
    (copy / "simulation.json").unlink()
    assert COMPETITION.root_shape(copy) == (128, 128)


def faults(folder):
    """name -> (what to do to a track, what the error says)."""
    frame = folder / "7.jpg"
    whole = frame.read_bytes()
    gray = cv2.imencode(".jpg", np.zeros((16, 16), np.uint8))[1].tobytes()
    small = cv2.imencode(".jpg", np.zeros((12, 16, 3), np.uint8))[1].tobytes()
    return {
        "missing": (frame.unlink, "7.jpg: frame 7.jpg is missing; the track has 15 of 16 frames"),
        "too many": (
            lambda: (folder / "17.jpg").write_bytes(whole),
            "17.jpg is too many; a track has 16 frames, not 17",
        ),
        "truncated": (
            lambda: frame.write_bytes(whole[: len(whole) * 2 // 3]),
            "7.jpg: truncated JPEG",
        ),
        "empty": (lambda: frame.write_bytes(b""), "7.jpg: is empty or truncated"),
        "no JPEG": (lambda: frame.write_bytes(b"\x89PNG" + whole), "7.jpg: is not a JPEG"),
        "no picture": (lambda: frame.write_bytes(whole[:30] + b"\xff\xd9"), "7.jpg: corrupt JPEG"),
        "gray": (lambda: frame.write_bytes(gray), "7.jpg: 1 channel a pixel (gray), 3 expected"),
        "other size": (
            lambda: frame.write_bytes(small),
            "frame 7 has 16x12 pixels, frame 1 has 16x16",
        ),
    }


@pytest.mark.parametrize(
    "fault",
    ["missing", "too many", "truncated", "empty", "no JPEG", "no picture", "gray", "other size"],
)
def test_a_bad_frame_is_named(fault, tmp_path):
    folder = coloured(tmp_path / "t")
    damage, message = faults(folder)[fault]
    damage()
    with pytest.raises(ImageError) as caught:
        COMPETITION.read(tmp_path, ("t/1.jpg",))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_zeros_after_the_end_of_a_jpeg_do_no_harm(tmp_path):
    folder = coloured(tmp_path / "t")
    before = read_track(folder)
    with open(folder / "3.jpg", "ab") as file:
        file.write(bytes(100))
    assert np.array_equal(read_track(folder), before)


# layout and annotation
# --------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_release_is_refused(copy):
    shutil.rmtree(copy / "l1" / "gallery")
    assert len(list_tracks(copy)), "one library's gallery is enough"
    shutil.rmtree(copy / "l2" / "gallery")
    with pytest.raises(InputError, match="no track in any library's folder 'gallery'"):
        COMPETITION.samples(copy)
    for library in ("l1", "l2"):
        shutil.rmtree(copy / library)
    with pytest.raises(InputError, match="no library folder"):
        COMPETITION.samples(copy)


def test_a_drug_without_annotation_is_named(copy):
    rewrite(
        copy / "annotation.xlsx",
        lambda sheets: (
            sheets
            | {"FDA-list": sheets["FDA-list"][sheets["FDA-list"]["index"].astype(str) != "3"]}
        ),
    )
    with pytest.raises(
        InputError, match=r"annotation.xlsx: has no row for drug '3' of l1/gallery/3/3_0 \(1 such"
    ):
        COMPETITION.samples(copy)


def test_white_space_in_a_name_is_refused(copy):
    (copy / "l1" / "train" / "1" / "1_0").rename(copy / "l1" / "train" / "1" / "1 0")
    with pytest.raises(InputError, match="l1/train/1/1 0: white space"):
        COMPETITION.samples(copy)


def broken_annotation(path, how) -> None:
    def change(sheets):
        fda = sheets["FDA-list"]
        if how == "no sheet":
            return {"Novel-list": sheets["Novel-list"]}
        if how == "no column":
            return sheets | {"FDA-list": fda.drop(columns="moa_id")}
        column, row, value = {
            "doubled": ("index", 1, 1),
            "no index": ("index", 2, None),
            "chosen": ("moa_choose", 0, 2),
            "no id": ("moa_id", 3, None),
        }[how]
        fda.loc[row, column] = value
        return sheets

    if how == "no file":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(path.read_bytes()[:500])
    else:
        rewrite(path, change)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no file", "no such file"),
        ("damaged", "is not a readable xlsx file"),
        ("no sheet", "no sheet 'FDA-list'; it has Novel-list"),
        ("no column", "sheet 'FDA-list': no column 'moa_id'"),
        ("doubled", r"sheet 'FDA-list': row 3: index '1' occurs more than once"),
        ("no index", r"sheet 'FDA-list': row 4: index is empty"),
        ("chosen", r"row 2: moa_choose '2' is neither 0 nor 1; its index is '1'"),
        ("no id", r"row 5: index '4' is chosen .* but has no moa_id"),
    ],
)
def test_a_broken_annotation_is_named(how, message, copy):
    path = copy / "annotation.xlsx"
    broken_annotation(path, how)
    with pytest.raises(InputError, match=message) as caught:
        COMPETITION.classes(copy)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_classes_are_in_the_order_of_their_numbers(tmp_path):
    fda = pd.DataFrame(
        [
            (1, 10, 1, "b"),
            (2, 9.0, 1, "a"),
            (3, "x", 1, None),
            (4, 2, 0, "unchosen"),
            ("DMSO", 1, 1, "control"),
            (5, 11, 1, "b"),
            (6, 10, 1, "later"),
        ],
        columns=["index", "moa_id", "moa_choose", "common_moa"],
    )
    with pd.ExcelWriter(tmp_path / "a.xlsx") as book:
        fda.to_excel(book, sheet_name="FDA-list", index=False)
        pd.DataFrame({"index": ["N1", 77], "name": ["tea", None]}).to_excel(
            book, sheet_name="Novel-list", index=False
        )
    found = read_annotation(tmp_path / "a.xlsx")
    assert found.moas == ("a", "b (10)", "b (11)", "MoA x") and found.label == {
        "1": 1,
        "2": 0,
        "3": 3,
        "5": 2,
        "6": 1,
    }
    assert found.novel == {"N1", "77"} and found.drugs == {
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
    }
    assert found.knows("dmso") and found.knows("4") and found.knows("77") and not found.knows("8")


# rankings
# --------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=6))
def test_average_precision_is_sklearns(lists):
    found = average_precisions([np.array(one) for one in lists])
    for one, value in zip(lists, found, strict=True):
        assert (
            np.isnan(value)
            if not any(one)
            else value == pytest.approx(average_precision_score(one, -np.arange(len(one))))
        )


@pytest.mark.parametrize(("n", "matches"), [(1, 1), (4, 1), (5, 2), (6, 6), (6, 5)])
def test_chance_is_the_mean_over_all_orders(n, matches):
    places = list(combinations(range(n), matches))
    lists = [np.isin(np.arange(n), chosen) for chosen in places]
    assert chance_average_precision(n, matches) == pytest.approx(average_precisions(lists).mean())


def test_what_is_left_out_and_what_matches():
    query = pd.DataFrame([("l1", "a", "x"), ("l2", "c", "z")], columns=["library", "drug", "moa"])
    gallery = pd.DataFrame(
        [("l1", "a", "x"), ("l2", "a", "x"), ("l1", "b", "x"), ("l2", "c", "z"), ("l1", "d", "y")],
        columns=query.columns,
    )
    matches, left_out = match_masks(query, gallery)
    assert matches.tolist() == [[False, True, True, False, False], [False] * 5]
    assert left_out.tolist() == [
        [True, False, False, False, False],
        [False, False, False, True, False],
    ]


def test_score_by_hand():
    """Query 1: matches at places 1 and 3 of the four that are left (AP 5/6); query 2 at place 2
    (1/2); query 3 has none and is skipped.
    """
    rankings = ["a b c d e", "e d c b a", "a b c d e"]
    matches = ["a d", "d", ""]
    left_out = ["c", "", "a"]
    assert ranking_score(rankings, matches, left_out) == pytest.approx((5 / 6 + 1 / 2) / 2)
    rankings[0] = "c a b d e"  # where the left-out track stands changes nothing
    assert ranking_score(rankings, matches, left_out) == pytest.approx((5 / 6 + 1 / 2) / 2)
    with pytest.raises(InputError, match="none of the 1 queries has a match"):
        ranking_score(["a"], [""], [""])


def test_the_gallery_is_ordered_by_its_classes_scores():
    label = np.array([0, 1, 2, 1, 0])
    order = order_by_class(np.array([[0.1, 0.9], [0.9, 0.1]]), label)
    assert label[order].tolist() == [[1, 1, 0, 0, 2], [0, 0, 1, 1, 2]]
    flat = order_by_class(np.zeros((4000, 2)), label)
    assert (flat[:, 4] == 2).all(), "the control has no class and comes last"
    first = np.bincount(flat[:, 0], minlength=5) / 4000
    np.testing.assert_allclose(first[[0, 1, 3, 4]], 1 / 4, atol=0.05)  # 7 standard errors


def test_random_rankings_score_chance_and_the_truth_best(root):
    answers, rng = COMPETITION.answers(answers_path(root)), np.random.default_rng(0)
    truth = answers[["query_id", "ranking"]]
    COMPETITION.task.check_submission(
        truth, COMPETITION.sample_submission(root), COMPETITION.classes(root)
    )
    assert COMPETITION.task.score(truth, answers) == 1.0
    lists = [
        (len(row.ranking.split()) - len(row.left_out.split()), len(row.matches.split()))
        for row in answers.itertuples()
    ]
    chance, drawn = np.mean([chance_average_precision(*one) for one in lists]), []
    for _ in range(200):
        drawn.append(
            COMPETITION.task.score(
                truth.assign(
                    ranking=[" ".join(rng.permutation(text.split())) for text in truth.ranking]
                ),
                answers,
            )
        )
    assert abs(np.mean(drawn) - chance) < 5 * np.std(drawn) / np.sqrt(len(drawn))
    worst = truth.assign(ranking=[" ".join(text.split()[::-1]) for text in truth.ranking])
    assert COMPETITION.task.score(worst, answers) < min(drawn)


def test_the_drug_of_the_same_library_is_left_out(root):
    answers = COMPETITION.answers(answers_path(root)).set_index("query_id")
    row = answers.loc["l1_query_1_1_0"]
    assert (
        row.left_out == "l1_gallery_1_1_0" and row.moa == "gathers early" and row.experiment == "l1"
    )
    assert sorted(row.matches.split()) == [
        "l1_gallery_2_2_0",
        "l2_gallery_1_1_0",
        "l2_gallery_2_2_0",
    ]
    assert len(row.ranking.split()) == 2 * (4 + 1), "DMSO is in the gallery"


def test_right_labels_make_the_best_ranking(root):
    answers, classes = COMPETITION.answers(answers_path(root)), COMPETITION.classes(root)
    labels = [classes.index(moa) for moa in answers.moa]
    made = COMPETITION.task.format_labels(answers.query_id[::-1], labels[::-1], root)
    assert (
        list(made.query_id) == list(COMPETITION.sample_submission(root).query_id)
        and COMPETITION.task.score(made, answers) == 1.0
    )
    wrong = COMPETITION.task.format_labels(answers.query_id, [1 - label for label in labels], root)
    assert COMPETITION.task.score(wrong, answers) < COMPETITION.task.score(
        COMPETITION.sample_submission(root), answers
    )
    with pytest.raises(InvalidSubmission, match="l2_query_4_4_0"):
        COMPETITION.task.format_labels(answers.query_id[:-1], labels[:-1], root)


def test_rankings_by_distance(root):
    sample, gallery = COMPETITION.sample_submission(root), COMPETITION.gallery(root)
    distances = np.random.default_rng(1).random((len(sample), len(gallery)))
    made = COMPETITION.task.format_rankings(
        sample.query_id, np.argsort(distances, axis=1, kind="stable"), root
    )
    COMPETITION.task.check_submission(made, sample, COMPETITION.classes(root))
    assert made.ranking[0].split()[0] == gallery.target_id[distances[0].argmin()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids[1:], "has 9 of 10 gallery tracks: 'l1_gallery_1_1_0' is missing"),
        (lambda ids: [*ids[1:], ids[1]], "'l1_gallery_2_2_0' stands there twice"),
        (lambda ids: ["nobody", *ids[1:]], "'nobody' is not a gallery track"),
    ],
)
def test_a_ranking_that_is_not_the_gallery_is_refused(change, message, root):
    sample = COMPETITION.sample_submission(root)
    broken = sample.copy()
    broken.loc[2, "ranking"] = " ".join(change(sample.ranking[2].split()))
    answers = COMPETITION.answers(answers_path(root))
    for call in (
        lambda: COMPETITION.task.check_submission(broken, sample, ()),
        lambda: COMPETITION.task.score(broken, answers),
    ):
        with pytest.raises(InvalidSubmission, match=message) as caught:
            call()
        assert repr(sample.query_id[2]) in str(caught.value)


def test_the_releases_own_answers_are_the_simulations(root, tmp_path):
    path = tmp_path / "answers.csv"
    published_answers(root).to_csv(path, index=False)
    pd.testing.assert_frame_equal(
        COMPETITION.answers(path), COMPETITION.answers(answers_path(root))
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("column", "no column 'moa'"),
        ("empty", "row 3: drug is empty"),
        ("doubled", "occurs more than once"),
        ("no gallery", "no row of part 'gallery'"),
    ],
)
def test_wrong_answers_are_named(how, message, root, tmp_path):
    frame = published_answers(root)
    if how == "column":
        frame = frame.drop(columns="moa")
    elif how == "empty":
        frame.loc[1, "drug"] = ""
    elif how == "doubled":
        frame.loc[1, "id"] = frame.id[0]
    else:
        frame = frame[frame.part == "query"]
    frame.to_csv(tmp_path / "answers.csv", index=False)
    with pytest.raises(InputError, match=message):
        COMPETITION.answers(tmp_path / "answers.csv")
