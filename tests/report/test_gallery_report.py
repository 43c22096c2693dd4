"""`cellsignal profiles rank`: from the embeddings of a trained run to a submission of rankings,
figures, pictures and names for unseen compounds.
"""

import numpy as np
import pandas as pd
import pytest
from helpers import Workspace, cellsignal, contents, error_line, write_config
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import TEST
from cellsignal.config import load_config
from cellsignal.metrics.accuracy import wilson_interval
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.embeddings import load_embeddings
from cellsignal.prediction.gallery import seen_compounds
from cellsignal.training.plan import jobs_of

pytestmark = pytest.mark.slow

COMPETITION = get_competition("mitoreid")


@pytest.fixture(scope="module")
def ranked(trained, tmp_path_factory):
    """A workspace that is ranked with its answers, and what was printed."""
    import contextlib
    import io

    space = trained("mitoreid").copy(tmp_path_factory.mktemp("ranked") / "space")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert (
            cellsignal(
                "profiles",
                "rank",
                "config.yaml",
                "--answers",
                space.answers,
                "--out",
                "ranked.csv",
                "--neighbours",
                2,
                "--pictures",
                1,
                cwd=space.folder,
            )
            == 0
        )
    return space, printed.getvalue()


def test_the_gallery_is_ranked_by_cosine_distance(ranked):
    space, printed = ranked
    submission = pd.read_csv(space.folder / "ranked.csv")
    COMPETITION.task.check_submission(
        submission, COMPETITION.sample_submission(space.root), COMPETITION.classes(space.root)
    )
    embeddings = load_embeddings(next(space.run_folder.glob("embeddings/*.npz")))
    values = pd.DataFrame(embeddings.values.astype(float), index=embeddings.samples.sample_id)
    values = values.div(np.linalg.norm(values, axis=1), axis=0)
    for query, ranking in zip(submission.query_id, submission.ranking, strict=True):
        near = 1 - values.loc[ranking.split()].to_numpy() @ values.loc[query].to_numpy()
        assert (np.diff(near) > -1e-6).all()
    score = COMPETITION.task.score(submission, COMPETITION.answers(space.answers))
    assert f"{score:.4f}"[:5] in printed and "strict" in printed
    assert {path.stem for path in (space.run_folder / "report").glob("*.png")} >= {
        "cmc",
        "reid_tsne",
        "nearest",
        "roc",
    }


def test_the_classifier_is_scored_from_the_predictions(ranked):
    space, printed = ranked
    answers, classes = COMPETITION.answers(space.answers), COMPETITION.classes(space.root)
    # of the last stage
    member = load_predictions(space.run_folder / "predictions" / "fold0_cell_type.npz")
    mean = sum(member.logits(view).astype(float) for view in member.views) / len(member.views)
    logits = pd.DataFrame(mean, index=member.ids["target_id"]).loc[answers.query_id].to_numpy()
    label = answers.moa.map(classes.index).to_numpy()
    rows = {
        line.split()[1]: line
        for line in printed.splitlines()
        if line.startswith("tiny") and line.split()[1] in ("accuracy", "AUC")
    }
    assert f"{(logits.argmax(1) == label).sum()}/{len(label)}" in rows["accuracy"]
    assert (
        f"AUC of {len(classes)} classes  "
        f"{roc_auc_score(label, softmax(logits, axis=1), multi_class='ovr'):.4f}" in rows["AUC"]
    )


def test_a_run_that_saw_every_drug_says_so(ranked):
    space, printed = ranked
    n = len(COMPETITION.answers(space.answers))
    assert (
        f"Training saw the drugs of {n} of {n} queries (stage all, cell_type)" in printed
        and "strict, new drugs" not in printed
    )


def test_unseen_compounds_are_named_pictured_and_counted(ranked):
    space, printed = ranked
    folder = space.run_folder / "unseen"
    unseen = pd.read_csv(folder / "compounds.csv", dtype={"compound": str})
    assert len(unseen) == 2 and set(unseen.moa) <= {*COMPETITION.classes(space.root), "DMSO"}
    assert {"moa_id", "moa", "votes", "mean_distance", "margin"} <= set(unseen.columns)
    assert [path.stem for path in folder.glob("*.png")] == [
        unseen.sort_values("mean_distance")["compound"].iloc[0]
    ]
    truth = COMPETITION.compound_answers(space.answers)
    right = sum(truth[row.compound] == row.moa for row in unseen.itertuples())
    low, high = wilson_interval(right, 2)
    assert (
        set(truth) == set(unseen["compound"])
        and f"compounds named right: {right / 2:.3f} [{low:.2f}, {high:.2f}] ({right}/2)" in printed
    )


def test_without_answers_nothing_is_scored(ranked, tmp_path, capsys):
    space = ranked[0].copy(tmp_path / "space")
    assert (
        cellsignal(
            "profiles",
            "rank",
            "config.yaml",
            "--out",
            "ranked.csv",
            "--pictures",
            0,
            cwd=space.folder,
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        "mAP" not in printed
        and "named right" not in printed
        and "truth" not in printed
        and "unseen compounds: 2" in printed
    )


def test_queries_of_drugs_kept_for_the_test_get_a_protocol_of_their_own(prepared, tmp_path, capsys):
    """And a last stage that tells compounds apart has neither accuracy nor AUC."""
    space = prepared("mitoreid").copy(tmp_path / "space")
    folds = pd.read_csv(space.folder / "folds.csv", dtype={"compound": str})
    samples = COMPETITION.samples(space.root)
    train = samples[samples.label.notna() & (samples.role == "treatment")]
    kept = set(train.groupby("label")["compound"].min())
    folds.loc[folds["compound"].isin(kept), "fold"] = TEST
    held = folds["compound"][folds.fold >= 0].iloc[0]  # one drug to validate with; the others train
    folds.loc[(folds.fold >= 0) & (folds["compound"] != held), "fold"] = -1
    folds.loc[folds["compound"] == held, "fold"] = 0
    folds.to_csv(space.folder / "folds.csv", index=False)
    stage = {"epochs": 1, "batch_size": 16, "optimizer": {"name": "adamw", "lr": 2e-3}}
    write_config(
        space.folder,
        "mitoreid",
        space.root,
        stages=[
            {"name": "moas", **stage},
            {"name": "drugs", "target": "compound", "init": "previous", **stage},
        ],
    )
    assert cellsignal("train", "config.yaml", cwd=space.folder) == 0
    capsys.readouterr()
    assert (
        cellsignal(
            "profiles",
            "rank",
            "config.yaml",
            "--answers",
            space.answers,
            "--out",
            "ranked.csv",
            "--pictures",
            0,
            cwd=space.folder,
        )
        == 0
    )
    printed, answers = capsys.readouterr().out, COMPETITION.answers(space.answers)
    new = answers["compound"].isin(kept).sum()
    assert 0 < new < len(answers)
    row = next(line for line in printed.splitlines() if "strict, new drugs  rank-1" in line)
    assert (
        f"/{new} " in row
        and f"Training saw the drugs of {len(answers) - new} of {len(answers)} queries (stage moas, drugs)"
        in printed
    )
    assert (
        "Stage drugs predicts no mechanism" in printed
        and "accuracy  " not in printed
        and not (space.run_folder / "report" / "roc.png").exists()
    )


@pytest.mark.parametrize(
    ("images", "everything"), [("labelled", False), ("train", False), ("all", True)]
)
def test_what_a_stage_without_labels_saw(prepared, tmp_path, images, everything):
    """With all images it saw the queries, too: their compounds, which the samples table hides, are
    known from the answers.
    """
    space = Workspace("mitoreid", tmp_path, prepared("mitoreid").root)
    views = {
        "name": "views",
        "self_supervised": {"images": images},
        "epochs": 1,
        "batch_size": 8,
        "augment": [{"name": "horizontal_flip"}],
    }
    stages = [views, {"name": "moas", "init": "previous", "epochs": 1, "batch_size": 8}]
    data = {
        "root": str(space.root),
        "store": str(prepared("mitoreid").folder / "store"),
        "size": 32,
    }
    folds = {"file": str(prepared("mitoreid").folder / "folds.csv"), "use": [0]}
    config = load_config(
        write_config(space.folder, "mitoreid", space.root, stages=stages, data=data, folds=folds),
        [f"runs={tmp_path / 'runs'}"],
    )
    seen = seen_compounds(jobs_of(config), {"l1_query_1_1_0": "told by the answers"})
    samples = COMPETITION.samples(space.root)
    drugs = set(samples["compound"][samples.label.notna() & (samples.role == "treatment")])
    assert set(seen) == {"views", "moas"} and seen["moas"] == drugs and "dmso" not in seen["views"]
    assert ("told by the answers" in seen["views"]) == everything
    unseen = set(samples["compound"][samples.split == "test"].dropna()) - {"dmso"}
    assert bool(seen["views"] & unseen) == everything and (
        not everything or unseen <= seen["views"]
    )


def test_what_asks_for_no_ranking_says_so(trained, capsys):
    assert "bbbc021 does not ask for rankings" in error_line(
        capsys, "profiles", "rank", "config.yaml", cwd=trained("bbbc021").folder
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--neighbours", 0], "--neighbours: at least 1, not 0"),
        (["--pictures", -1], "--pictures: at least 0"),
    ],
)
def test_odd_numbers_are_refused(prepared, capsys, words, message):
    assert message in error_line(
        capsys, "profiles", "rank", "config.yaml", *words, cwd=prepared("mitoreid").folder
    )


def test_a_mechanism_that_is_no_class_is_named(ranked, tmp_path, capsys):
    space = ranked[0].copy(tmp_path / "space")
    answers = pd.read_csv(space.answers, dtype=str)
    answers.loc[answers.moa == "gathers late", "moa"] = "other"
    answers.to_csv(tmp_path / "answers.csv", index=False)
    said = error_line(
        capsys,
        "profiles",
        "rank",
        "config.yaml",
        "--answers",
        tmp_path / "answers.csv",
        "--out",
        "ranked.csv",
        cwd=space.folder,
    )
    assert "'other'" in said and "is not one of the 3 mechanisms" in said


def test_the_answers_a_release_tells_are_written_once(simulated, tmp_path, capsys):
    root = simulated("mitoreid")
    own = pd.read_csv(root.with_name(root.name + ".answers.csv"), dtype=str)
    before = contents(root.parent)
    assert "exists and is another" in error_line(
        capsys, "profiles", "answers", "mitoreid", "--root", root, cwd=tmp_path
    ), "a simulated copy's tell more"
    assert contents(root.parent) == before
    for _ in range(2):
        assert (
            cellsignal(
                "profiles", "answers", "mitoreid", "--root", root, "--out", "mine.csv", cwd=tmp_path
            )
            == 0
        )
    mine = pd.read_csv(tmp_path / "mine.csv", dtype=str)
    pd.testing.assert_frame_equal(mine, own[own.part != "compound"].reset_index(drop=True))
    assert f"{len(mine)} answers" in capsys.readouterr().out
    assert COMPETITION.answers(tmp_path / "mine.csv").equals(
        COMPETITION.answers(root.with_name(root.name + ".answers.csv"))
    )
    assert COMPETITION.compound_answers(tmp_path / "mine.csv") == {}


def test_a_release_without_answers_says_so(tmp_path, capsys):
    assert "cpjump1: its release tells no answers" in error_line(
        capsys, "profiles", "answers", "cpjump1", "--root", tmp_path, cwd=tmp_path
    )
    assert "no such" in error_line(
        capsys, "profiles", "answers", "mitoreid", "--root", tmp_path / "nowhere", cwd=tmp_path
    )
