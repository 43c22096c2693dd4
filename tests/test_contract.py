"""The contract of `competitions.base`, held to by every registered competition on a small simulated
copy, up to the leaderboard.
"""

import functools
import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import cellsignal, contents, error_line
from scipy.stats import binom

from cellsignal.common.errors import InputError, InvalidSubmission
from cellsignal.competitions import competition_ids, get_competition, quick_config
from cellsignal.competitions.base import Competition, answers_path
from cellsignal.competitions.folds import labelled, make_folds
from cellsignal.competitions.multi_label import MultiLabel
from cellsignal.competitions.ranking import Ranking
from cellsignal.competitions.sample_files import path_of
from cellsignal.competitions.samples import COLUMNS, ROLES, SPLITS, check_samples
from cellsignal.competitions.single_label import SingleLabel
from cellsignal.competitions.targets import label_matrix
from cellsignal.config.load import load_config
from cellsignal.data.folds import read_folds
from cellsignal.data.sites import resized
from cellsignal.data.store import Store
from cellsignal.data.verify import verify
from cellsignal.evaluation.leaderboard import leaderboard_table
from cellsignal.metrics.ranking import chance_average_precision
from cellsignal.prediction.container import load_predictions
from cellsignal.training.checkpoints import load_checkpoint

TINY = 1e-6  # how often a correct competition may fail a test of chance

pytestmark = pytest.mark.parametrize("competition_id", competition_ids())


@pytest.fixture
def competition(competition_id):
    return get_competition(competition_id)


@pytest.fixture
def root(competition_id, simulated) -> Path:
    return simulated(competition_id)


@functools.cache
def _read(competition_id: str, root: Path, what: str):
    """What a competition reads from a root, for the tests that only use it: read once."""
    competition = get_competition(competition_id)
    if what == "answers":
        return competition.answers(answers_path(root))
    return getattr(competition, what)(root)


def classes_of(competition, root: Path) -> list[str]:
    return list(_read(competition.id, root, "classes"))


def sample_submission_of(competition, root: Path) -> pd.DataFrame:
    return _read(competition.id, root, "sample_submission").copy()


def answers_of(competition, root: Path) -> pd.DataFrame:
    return _read(competition.id, root, "answers").copy()


def truth_of(competition, root: Path) -> pd.DataFrame:
    """The answers as a perfect submission, in the sample submission's order."""
    ids = [competition.id_column]
    return sample_submission_of(competition, root)[ids].merge(
        answers_of(competition, root)[ids + targets_of(competition, root)],
        on=competition.id_column,
        validate="one_to_one",
    )


def targets_of(competition, root: Path) -> list[str]:
    """The columns of a submission after its id."""
    several = kind(competition) == "labels"
    return classes_of(competition, root) if several else [competition.target_column]


def kind(competition) -> str:
    """What a submission says of an id: its class, scores of several labels, or a ranking."""
    return {SingleLabel: "class", MultiLabel: "labels", Ranking: "ranking"}[competition.task_class]


def only(competition, wanted: str) -> None:
    if kind(competition) != wanted:
        pytest.skip(f"this competition's answers are of another kind than {wanted}")


# what is stated
# --------------------------------------------------------------------------------------------------


def test_what_a_competition_states(competition, competition_id):
    assert competition.id == competition_id and re.fullmatch(r"[a-z][a-z0-9_]*", competition.id)
    for text in (
        competition.title,
        competition.metric,
        competition.licence,
        competition.citation,
        competition.id_column,
        competition.target_column,
    ):
        assert isinstance(text, str) and text.strip() == text and text
    assert competition.homepage.startswith("https://")
    assert len(set(competition.channels)) == len(competition.channels)
    assert competition.image_shape is None or all(side > 0 for side in competition.image_shape)
    assert isinstance(competition.higher_is_better, bool)
    assert competition.fold_groups and set(competition.fold_groups) <= set(COLUMNS)
    protocols = competition.protocols()
    assert len({protocol.id for protocol in protocols}) == len(protocols)
    for protocol in protocols:
        assert protocol.group in COLUMNS and protocol.title and protocol.note
    assert competition.__doc__


def test_a_competition_is_one_folder(competition, competition_id):
    """The folder holds the README and the quick config, which reads what `simulate --quick` wrote."""
    config = load_config(quick_config(competition))
    folder = Path(inspect.getfile(type(competition))).parent
    assert folder.parent == Path(inspect.getfile(Competition)).parent
    assert (folder / "README.md").is_file() and list(folder.glob("simulate*.py"))
    assert config.name == f"{competition_id}_quick" and config.competition == competition_id
    assert config.data.root == Path("data") / config.name
    assert config.folds.file == Path("runs") / config.name / "folds.csv"


def test_samples_are_as_the_schema_says(competition, root):
    samples = competition.samples(root)
    channels = competition.channels_of(root)
    assert len(set(channels)) == len(channels) > 0 and competition.channels in ((), channels)
    assert competition.fold_group(root) in competition.fold_groups
    pd.testing.assert_frame_equal(check_samples(samples, root), samples)
    classes = competition.classes(root)
    assert len(set(classes)) == len(classes) > (0 if (kind(competition) == "labels") else 1)
    assert set(samples.split) == set(SPLITS) and set(samples.role) <= set(ROLES)
    inside = samples[labelled(samples)]
    if kind(competition) == "labels":
        assert samples.label.isna().all() and set(inside["labels"].explode().dropna()) == set(
            range(len(classes))
        ), "each class has a training sample"
        assert not label_matrix(inside, len(classes)).all(0).any(), "each class has a negative"
    else:
        assert samples["labels"].isna().all()
        assert sorted(inside.label.unique()) == list(range(len(classes))), (
            "each class has a training sample"
        )
    controls = samples[(samples.role != "treatment") & samples.label.notna()]
    assert (controls.label >= len(classes)).all()
    for group in competition.fold_groups:
        assert inside[group].notna().all()
    assert not set(samples.well_id[samples.split == "train"]) & set(
        samples.well_id[samples.split == "test"]
    )
    assert samples.files.map(len).isin({1, len(channels)}).all()
    assert samples.files.explode().is_unique
    pd.testing.assert_frame_equal(competition.samples(root), samples)  # the same again


def test_images_are_read_whole(competition, root, tmp_path):
    before, folder = contents(root), tmp_path / "calibration"
    competition = competition.calibrate(root, folder)
    marks = {path: path.stat().st_mtime_ns for path in folder.glob("*")}
    competition = competition.calibrate(root, folder)
    assert marks == {path: path.stat().st_mtime_ns for path in folder.glob("*")}, "measured once"
    samples, shape = competition.samples(root), competition.root_shape(root)
    for files in samples.files.sample(5, random_state=0):
        image = competition.read(root, files, shape)
        assert image.dtype == np.uint8 and image.shape == (
            len(competition.channels_of(root)),
            *shape,
        )
        assert image.std() > 0
        with pytest.raises(InputError, match=re.escape(str(root / path_of(files[0])))):
            competition.read(root, files, (shape[0] + 1, shape[1]))
    assert [problem for problem in verify(competition, root) if problem.is_error] == []
    assert contents(root) == before, "nothing is written under the root"


# what must stay hidden
# --------------------------------------------------------------------------------------------------


def test_test_labels_are_not_in_the_data(competition, root):
    samples = competition.samples(root)
    hidden = samples[(samples.split == "test") & (samples.role == "treatment")]
    assert len(hidden) and hidden.label.isna().all() and hidden["labels"].isna().all()
    sample = competition.sample_submission(root)
    assert set(sample[competition.id_column]) == set(hidden.target_id)
    assert (sample[targets_of(competition, root)].nunique() == 1).all(), "placeholders tell nothing"


def test_answers_lie_outside_the_root_and_nothing_reads_them(competition, root, tmp_path):
    assert answers_path(root).is_file() and not answers_path(root).is_relative_to(root)
    alone = tmp_path / "alone"
    shutil.copytree(root, alone)
    assert not answers_path(alone).exists()
    pd.testing.assert_frame_equal(competition.samples(alone), competition.samples(root))
    hidden = competition.samples(root).query("split == 'test' and role == 'treatment'")
    assert hidden["compound"].isna().all() and hidden.treatment.isna().all(), (
        "a compound's name gives its label away"
    )


@pytest.mark.slow
def test_simulated_twice_the_same_bytes(competition, root, tmp_path):
    copies = []
    for seed in (0, 1):
        again = tmp_path / str(seed) / root.name
        competition.simulate(again, seed, **competition.tiny_simulation)
        copies.append(
            {
                str(Path(name).relative_to(again.parent)): found
                for name, found in contents(again, answers_path(again)).items()
            }
        )
    first = {
        str(Path(name).relative_to(root.parent)): found
        for name, found in contents(root, answers_path(root)).items()
    }
    assert first == copies[0]
    assert first != copies[1]


# scores
# --------------------------------------------------------------------------------------------------


def test_the_truth_scores_best(competition, root):
    truth, answers = truth_of(competition, root), answers_of(competition, root)
    competition.task.check_submission(
        truth, sample_submission_of(competition, root), classes_of(competition, root)
    )
    assert competition.task.score(truth, answers) == 1.0
    assert set(answers.leaderboard) <= {"public", "private"}
    wrong, targets = truth.copy(), targets_of(competition, root)
    if kind(competition) == "ranking":
        table = competition.task.score_table(truth, answers)
        assert (table.average_precision == 1.0).all() and (table.rank1 == 1.0).all()
        wrong[targets[0]] = [" ".join(ranking.split()[::-1]) for ranking in truth[targets[0]]]
        assert (
            competition.task.score(wrong, answers)
            < competition.task.score(sample_submission_of(competition, root), answers)
            < 1.0
        )
        return
    if kind(competition) == "labels":
        table = competition.task.score_table(truth, answers)
        assert (table.average_precision.dropna() == 1.0).all() and table["slice"][0] == "overall"
        wrong[targets] = 1 - wrong[targets]
        worst = competition.task.score(wrong, answers)
        blind = competition.task.score(sample_submission_of(competition, root), answers)
        assert worst == pytest.approx(blind) and blind < 1, (
            "the positives share the last place: precision is the prevalence"
        )
        return
    table = competition.task.score_table(truth, answers)
    assert (
        (table.accuracy == 1.0).all()
        and table.correct.equals(table.n)
        and set(table["slice"]) >= {"overall"}
    )
    assert set(answers[competition.target_column].astype(str)) <= set(classes_of(competition, root))
    classes = classes_of(competition, root)
    wrong[targets[0]] = [
        classes[(classes.index(str(name)) + 1) % len(classes)] for name in wrong[targets[0]]
    ]
    assert competition.task.score(wrong, answers) == 0.0


def test_guessing_scores_chance(competition, root):
    """Targets drawn at random are right about one time in K: binomial, over many draws."""
    only(competition, "class")
    truth = truth_of(competition, root)
    answers = answers_of(competition, root)
    classes = classes_of(competition, root)
    rng, draws = np.random.default_rng(0), 60
    right = 0
    for _ in range(draws):
        guess = truth.assign(**{competition.target_column: rng.choice(classes, len(truth))})
        right += round(competition.task.score(guess, answers) * len(truth))
    low, high = binom.ppf([TINY / 2, 1 - TINY / 2], draws * len(truth), 1 / len(classes))
    assert low <= right <= high


def test_labels_given_to_the_wrong_wells_score_chance(competition, root):
    only(competition, "class")
    truth = truth_of(competition, root)
    answers = answers_of(competition, root)
    classes = classes_of(competition, root)
    counts = truth[competition.target_column].value_counts().to_numpy()
    shuffled = truth.assign(
        **{
            competition.target_column: np.random.default_rng(1).permutation(
                truth[competition.target_column]
            )
        }
    )
    right = round(competition.task.score(shuffled, answers) * len(truth))
    low, high = binom.ppf(
        [TINY / 2, 1 - TINY / 2], len(truth), np.square(counts / len(truth)).sum()
    )
    assert low <= right <= high < len(truth) and len(counts) <= len(classes)


def test_random_scores_rank_as_chance_does(competition, root):
    """The average precision of P positives among N ids in random order is on average (H_N + (P - 1)
    (N - H_N) / (N - 1)) / N.
    """
    only(competition, "labels")
    truth = truth_of(competition, root)
    answers = answers_of(competition, root)
    targets = targets_of(competition, root)
    n, rng = len(truth), np.random.default_rng(0)
    positives = truth[targets].sum()
    positives = positives[(positives > 0) & (positives < n)]
    harmonic = (1 / np.arange(1, n + 1)).sum()
    expected = ((harmonic + (positives - 1) * (n - harmonic) / (n - 1)) / n).mean()
    found = [
        competition.task.score(
            truth.assign(**dict(zip(targets, rng.random((len(targets), n)), strict=True))), answers
        )
        for _ in range(150)
    ]
    assert abs(np.mean(found) - expected) < 5 * np.std(found) / np.sqrt(len(found))
    assert competition.task.score(
        sample_submission_of(competition, root), answers
    ) == pytest.approx((positives / n).mean())


def test_random_rankings_score_chance(competition, root):
    """The mean over all orders, by the closed form, of each query's list without what is left out."""
    only(competition, "ranking")
    truth = truth_of(competition, root)
    answers = answers_of(competition, root)
    rng = np.random.default_rng(0)
    gallery = truth.ranking[0].split()
    sizes = [
        (len(gallery) - len(row.left_out.split()), len(row.matches.split()))
        for row in answers.itertuples()
        if row.matches
    ]
    expected = np.mean([chance_average_precision(*size) for size in sizes])
    found = [
        competition.task.score(
            truth.assign(ranking=[" ".join(rng.permutation(gallery)) for _ in range(len(truth))]),
            answers,
        )
        for _ in range(60)
    ]
    assert abs(np.mean(found) - expected) < 5 * np.std(found) / np.sqrt(len(found))


DAMAGE = (
    "missing",
    "extra",
    "doubled",
    "reordered",
    "out of range",
    "no target column",
    "no id column",
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_wrong_submission_is_refused_by_name(competition, root, damage):
    ids, target = competition.id_column, targets_of(competition, root)[0]
    submission, named = truth_of(competition, root), None
    if damage == "missing":
        named = submission[ids].iloc[3]
        submission = submission.drop(index=3)
    elif damage == "extra":
        named = "HUVEC-99_1_B02"
        submission = pd.concat(
            [submission, submission.head(1).assign(**{ids: named})], ignore_index=True
        )
    elif damage == "doubled":
        named = submission[ids].iloc[5]
        submission = pd.concat([submission, submission.iloc[[5]]], ignore_index=True)
    elif damage == "reordered":
        submission = submission.iloc[::-1].reset_index(drop=True)
        named = submission[ids].iloc[0]
    elif damage == "out of range":
        named = submission[ids].iloc[2]
        submission[target] = submission[target].astype(object)
        submission.loc[2, target] = (
            np.inf if (kind(competition) == "labels") else str(len(classes_of(competition, root)))
        )
    else:
        named = ids if damage == "no id column" else target
        submission = submission.drop(columns=named)
    with pytest.raises(InvalidSubmission, match=re.escape(repr(named))):
        competition.task.check_submission(
            submission, sample_submission_of(competition, root), classes_of(competition, root)
        )
    answers = answers_of(competition, root)
    if damage in ("missing", "extra", "doubled"):  # scoring needs the right ids but no order
        with pytest.raises(InvalidSubmission, match=re.escape(repr(named))):
            competition.task.score(submission, answers)
    elif damage == "reordered":
        assert competition.task.score(submission, answers) == 1.0


def test_format_submission_puts_labels_in_order(competition, root):
    truth, classes = truth_of(competition, root), classes_of(competition, root)
    if kind(competition) == "ranking":
        known = dict(
            zip(
                answers_of(competition, root).query_id,
                answers_of(competition, root).moa,
                strict=True,
            )
        )
        labels = [classes.index(known[query]) for query in truth[competition.id_column]]
        made = competition.task.format_labels(
            truth[competition.id_column][::-1], labels[::-1], root
        )
        assert list(made[competition.id_column]) == list(truth[competition.id_column])
        assert competition.task.score(made, answers_of(competition, root)) == 1.0, (
            "the right class first is a best ranking"
        )
        with pytest.raises(
            InvalidSubmission, match=re.escape(repr(truth[competition.id_column].iloc[-1]))
        ):
            competition.task.format_labels(truth[competition.id_column][:-1], labels[:-1], root)
        return
    if kind(competition) == "labels":
        scores = truth[list(classes)].to_numpy(dtype=float)
        backwards = competition.task.format_scores(
            truth[competition.id_column][::-1], scores[::-1], root
        )
        assert list(backwards[competition.id_column]) == list(
            truth[competition.id_column]
        ) and np.array_equal(backwards[list(classes)], scores)
        with pytest.raises(
            InvalidSubmission, match=re.escape(repr(truth[competition.id_column].iloc[-1]))
        ):
            competition.task.format_scores(truth[competition.id_column][:-1], scores[:-1], root)
        return
    labels = [classes.index(str(name)) for name in truth[competition.target_column]]
    backwards = competition.task.format_labels(
        truth[competition.id_column][::-1], labels[::-1], root
    )
    assert backwards.astype(str).equals(truth.astype(str))
    with pytest.raises(
        InvalidSubmission, match=re.escape(repr(truth[competition.id_column].iloc[-1]))
    ):
        competition.task.format_labels(truth[competition.id_column][:-1], labels[:-1], root)


# folds
# --------------------------------------------------------------------------------------------------


def test_folds_never_split_a_group(competition, root, tmp_path):
    samples = competition.samples(root)
    groups = competition.plate_groups(samples)
    for group in competition.fold_groups:
        path = tmp_path / f"{group}.csv"
        made = make_folds(samples, group, 2, 0, plate_groups=groups)
        assert made.equals(make_folds(samples, group, 2, 0, plate_groups=groups))
        made.to_csv(path, index=False)
        table = read_folds(path, samples)
        seen = np.zeros(len(samples), int)
        for fold in table.folds:
            train, valid = table.training(samples, fold), table.validation(samples, fold)
            assert train.any() and valid.any() and not (train & valid).any()
            assert (train | valid)[labelled(samples)].all() and not (train | valid)[
                ~labelled(samples)
            ].any()
            for column in {group, "well_id"}:
                assert not set(samples[column][train]) & set(samples[column][valid]), (
                    group,
                    column,
                    fold,
                )
            seen += valid
        assert seen.max() == 1 and len(table.folds) == 2


# all the way
# --------------------------------------------------------------------------------------------------


def test_the_store_holds_what_the_files_hold(competition, root, prepared):
    store = Store.open(prepared(competition.id).folder / "store")
    samples = competition.samples(root)
    competition = competition.calibrate(root, store.path / "calibration")
    assert list(store.samples.sample_id) == list(
        samples.sample_id
    ) and store.channels == competition.channels_of(root)
    for row in store.samples.row[::17]:
        image = store.read(int(row))
        assert np.array_equal(
            image, resized(competition.read(root, store.samples.files[row]), image.shape[1:])
        )


@pytest.mark.slow
def test_training_held_out_what_the_folds_say(competition, trained):
    space = trained(competition.id)
    samples = competition.samples(space.root)
    folds = read_folds(space.folder / "folds.csv", samples)
    paths = sorted(space.run_folder.glob("fold0/*/*/last.pt"))
    keys = {("all", "all"), *(("cell_type", key) for key in samples.cell_type.unique())}
    assert {(path.parts[-3], path.parts[-2]) for path in paths} == keys
    for path in paths:
        state = load_checkpoint(path)
        assert set(state["held_out"]) == folds.held_out(0) and state["classes"] == list(
            competition.classes(space.root)
        )
        assert all(torch.isfinite(values).all() for values in state["model"].values())
    for path in sorted(space.run_folder.glob("predictions/*.npz")):
        found = load_predictions(path)
        valid = samples[folds.validation(samples, 0)]
        test = samples[(samples.split == "test") & (samples.role == "treatment")]
        assert set(found.ids["sample_id"][found.ids["part"] == "oof"]) == set(valid.sample_id)
        assert set(found.ids["sample_id"][found.ids["part"] == "test"]) == set(test.sample_id)
        hidden = found.ids["part"] == "test"
        assert (found.label[hidden] == -1).all(), "no test label in the predictions"
        assert (found.labels is not None) == (kind(competition) == "labels")
        if kind(competition) == "labels":
            assert (
                np.isnan(found.labels[hidden]).all() and not np.isnan(found.labels[~hidden]).any()
            )


@pytest.mark.slow
def test_from_predictions_to_the_leaderboard(competition, trained, tmp_path, capsys):
    space = trained(competition.id).copy(tmp_path / "work")
    at = {"cwd": space.folder}
    assert cellsignal("submit", "config.yaml", "--out", "mine.csv", **at) == 0
    answers = competition.answers(space.answers)
    submission = competition.task.read_submission(space.folder / "mine.csv", answers)
    sample = competition.sample_submission(space.root)
    assert list(submission[competition.id_column]) == list(sample[competition.id_column])
    competition.task.check_submission(submission, sample, competition.classes(space.root))
    words = [
        "score",
        "mine.csv",
        "--answers",
        space.answers,
        "--root",
        space.root,
        "--leaderboard",
        "board.csv",
    ]
    words += ["--competition", competition.id] if (kind(competition) == "labels") else []
    for _ in range(2):  # scored twice it stands on the board once
        assert cellsignal(*words, **at) == 0
    table = leaderboard_table(space.folder / "board.csv", competition)
    rows = table.set_index("name")
    assert sorted(rows.index) == ["mine", "sample submission", "truth"]
    assert rows.overall["truth"] == 1.0 and rows.overall["mine"] == pytest.approx(
        competition.task.score(submission, answers)
    )
    assert rows["rank"].notna().to_dict() == {
        "mine": True,
        "sample submission": False,
        "truth": False,
    }
    placeholder = competition.task.score(sample, answers)
    assert rows.overall["sample submission"] == pytest.approx(placeholder) and placeholder < (
        0.5 if kind(competition) == "class" else 1.0
    )
    capsys.readouterr()
    assert cellsignal("leaderboard", competition.id, "--leaderboard", "board.csv", **at) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("mine", "(truth)", "(sample submission)"))


@pytest.mark.parametrize(
    "words", ["study split-audit", "study oversampling", "profiles classify", "profiles treatments"]
)
def test_what_needs_one_label_an_image_says_so(competition, trained, capsys, words):
    only(competition, "labels")
    line = error_line(capsys, *words.split(), "config.yaml", cwd=trained(competition.id).folder)
    assert competition.id in line and "several" in line


@pytest.mark.slow
def test_everything_again_changes_nothing(competition, trained, tmp_path):
    space = trained(competition.id).copy(tmp_path / "work")
    before = contents(
        space.run_folder / "fold0", space.run_folder / "predictions", space.folder / "store"
    )
    for verb in ("prepare", "train", "predict"):
        assert cellsignal(verb, "config.yaml", cwd=space.folder) == 0
    after = contents(
        space.run_folder / "fold0", space.run_folder / "predictions", space.folder / "store"
    )
    assert after == before
