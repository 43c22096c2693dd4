"""From predictions files to a submission: every step scored, ids in order, provenance beside it."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.out_of_fold import out_of_fold_accuracy
from cellsignal.competitions.targets import Truth
from cellsignal.config.schema import Submit
from cellsignal.prediction.container import save_predictions
from cellsignal.prediction.entry import merge_runs, open_entry, out_of_fold_text
from cellsignal.prediction.plate_layout.apply import predict_labels
from cellsignal.prediction.steps import ladder
from cellsignal.prediction.submit import make_submission


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """A simulated RxRx1 (its metadata is what counts here) and its true labels, test wells
    included.
    """
    root = tmp_path_factory.mktemp("submit") / "raw"
    competition = get_competition("rxrx1")
    competition.simulate(
        root, 5, classes=24, controls=1, size=16, train_experiments=2, test_experiments=2
    )
    answers = competition.answers(answers_path(root))
    return root, competition, answers, labels_of(answers)


def labels_of(answers) -> dict[str, int]:
    """target_id -> label of the test wells."""
    return dict(zip(answers.id_code, answers.sirna.astype(int), strict=True))


def as_truth(labels: dict[str, int]) -> Truth:
    ids = np.array(list(labels), dtype=object)
    return Truth(ids, np.array(list(labels.values())), ids)


def write(
    plates,
    path,
    seed,
    signal,
    run="r/seed0",
    stage=("all", 0),
    fold=0,
    views=("identity", "hflip"),
    oof=True,
    site_signal=None,
):
    """Predictions whose logits are `signal` for the true class plus normal noise, fresh for every
    site and view.
    """
    root, competition, _, truth = plates
    samples = competition.samples(root)
    samples = samples[samples.role == "treatment"]
    train = (samples.split == "train").to_numpy()
    experiments = sorted(samples.experiment[train].unique())
    mine = samples.experiment.isin(experiments[fold::2]).to_numpy() & train
    samples = samples[(mine if oof else np.zeros(len(mine), bool)) | ~train]
    label = samples.label.fillna(samples.target_id.map(truth)).to_numpy(dtype=int)
    rng = np.random.default_rng(seed)
    classes = competition.classes(root)
    logits = {
        v: rng.normal(size=(len(samples), len(classes))) + signal * np.eye(len(classes))[label]
        for v in views
    }
    about = {
        "competition": "rxrx1",
        "classes": list(classes),
        "run": run,
        "stage": stage[0],
        "stage_index": stage[1],
        "fold": fold,
        "seed": 0,
        "data_root": str(root),
        "fold_group": "experiment",
    }
    save_predictions(
        path, samples, np.where(samples.split == "train", "oof", "test"), logits, about
    )
    return path


@pytest.fixture(scope="module")
def entry(plates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    files = [
        write(
            plates,
            folder / f"{s}{f}.npz",
            10 * s + f,
            1.2 + 0.2 * s,
            stage=(("all", 0), ("cell_type", 1))[s],
            fold=f,
        )
        for s in (0, 1)
        for f in (0, 1)
    ]
    return open_entry(files, Submit())


def test_the_ladder_climbs_in_the_stated_order(plates, entry):
    root, competition, _, truth = plates
    groups = competition.plate_groups(competition.samples(root))
    oof, test = ladder(entry, "oof", groups), ladder(entry, "test", groups, as_truth(truth))
    before = ["stage all, one site", "stage all", "stage cell_type", "+ TTA, 2 views"]
    after = ["+ plate groups", "+ plate assignment"]
    assert [s.name for s in oof] == before + after
    assert [s.name for s in test] == [*before, "+ ensemble of 2 models", *after]
    samples = competition.samples(root)
    wells = samples[(samples.role == "treatment") & (samples.split == "train")].target_id.nunique()
    assert {s.score.total for s in oof} == {wells} and {s.score.total for s in test} == {len(truth)}
    assert oof[-1].chance == pytest.approx(4 / 24) and oof[0].chance == pytest.approx(1 / 24)
    assert "plates right" in oof[-2].note
    assert oof[-1].score.value > oof[-2].score.value > oof[-3].score.value > oof[0].score.value


def test_a_rung_is_what_sklearn_makes_of_the_same_logits(plates, entry):
    truth = plates[3]
    step = ladder(entry, "test", None, as_truth(truth))[1]
    member = entry.members[0]
    kept = member.ids["part"] == "test"
    frame = pd.DataFrame(member.logits("identity")[kept])
    frame = (
        frame.sub(np.log(np.exp(frame).sum(axis=1)), axis=0)
        .groupby(member.ids["target_id"][kept])
        .mean()
    )
    assert step.score.value == accuracy_score(
        [truth[t] for t in frame.index], frame.to_numpy().argmax(1)
    )


@pytest.mark.parametrize("part", ["oof", "test"])
def test_views_are_added_to_the_last_stage(plates, entry, part):
    """Of all folds on out-of-fold wells; of the first alone on test wells."""
    root, competition, _, truth = plates
    steps = ladder(entry, part, None, as_truth(truth) if part == "test" else None)
    members = [member for member in entry.members if member.about["stage"] == "cell_type"]
    (score,) = [step.score.value for step in steps if step.name == "+ TTA, 2 views"]
    samples = competition.samples(root).drop_duplicates("target_id").set_index("target_id")
    tables = []
    for member in members if part == "oof" else members[:1]:
        kept = member.ids["part"] == part
        views = [log_softmax(member.logits(view)[kept], axis=1) for view in member.views]
        tables.append(pd.DataFrame(np.mean(views, axis=0)).groupby(member.ids["target_id"][kept]))
    mean = pd.concat([table.mean() for table in tables])
    label = samples.label.loc[mean.index].to_numpy() if part == "oof" else mean.index.map(truth)
    assert score == accuracy_score(label.astype(int), mean.to_numpy().argmax(1))


def test_the_submission_is_valid_scored_and_says_what_it_is_made_of(plates, entry, tmp_path):
    root, competition, answers, truth = plates
    steps = make_submission(entry, tmp_path / "s.csv")
    submission = pd.read_csv(tmp_path / "s.csv", dtype=str)
    competition.task.check_submission(
        submission, competition.sample_submission(root), competition.classes(root)
    )
    groups = competition.plate_groups(competition.samples(root))
    assert competition.task.score(submission, answers) == pytest.approx(
        ladder(entry, "test", groups, as_truth(truth))[-1].score.value
    )
    about = json.loads((tmp_path / "s.json").read_text())
    assert about["out_of_fold"][-1]["accuracy"] == steps[-1].score.value and about["rows"] == len(
        submission
    )
    assert set(about["inputs"]) == {str(m.path) for m in entry.members} and all(
        len(i["sha256"]) == 64 for i in about["inputs"].values()
    )
    per_plate = (
        submission.assign(plate=submission.id_code.str.rsplit("_", n=1).str[0])
        .groupby("plate")
        .sirna
    )
    assert (per_plate.nunique() == per_plate.size()).all()  # each class once on its plate


def test_without_assignment_it_is_the_argmax(plates, entry, tmp_path):
    plain = open_entry([m.path for m in entry.members], Submit(assignment="none"))
    make_submission(plain, tmp_path / "s.csv")
    targets = plain.merge(plain.final(), "test")
    found = pd.read_csv(tmp_path / "s.csv").set_index("id_code").sirna.loc[targets.target_id]
    assert (found.to_numpy() == targets.scores.argmax(1)).all()
    assert json.loads((tmp_path / "s.json").read_text())["plate_groups"] is None


def refit(entry, **how):
    return open_entry([m.path for m in entry.members], Submit(**how))


def test_every_kind_of_assignment_is_what_it_says(plates, entry):
    root, competition, _, truth = plates
    groups = competition.plate_groups(competition.samples(root))
    targets = entry.merge(entry.final(), "test")
    label = np.array([truth[t] for t in targets.target_id])
    labels = {
        kind: predict_labels(refit(entry, assignment=kind), targets, groups)[0]
        for kind in ("none", "groups", "hungarian", "sinkhorn")
    }
    assert (labels["none"] == targets.scores.argmax(1)).all()
    own = np.where(
        groups.class_group == groups.class_group[label][:, None], targets.scores, -np.inf
    )
    assert (labels["groups"] == own.argmax(1)).all()
    assert (
        predict_labels(refit(entry, assignment="sinkhorn", temperature=0.02), targets, groups)[0]
        == labels["hungarian"]
    ).mean() > 0.95
    steps = {
        kind: ladder(refit(entry, assignment=kind), "test", groups, as_truth(truth))
        for kind in labels
    }
    assert [steps[kind][-1].name for kind in labels] == [
        "+ ensemble of 2 models",
        "+ plate groups",
        "+ plate assignment",
        "+ plate assignment",
    ]
    for kind, rungs in steps.items():
        assert rungs[-1].score.value == accuracy_score(label, labels[kind])
    assert (
        steps["hungarian"][-1].note
        == f"hungarian; sinkhorn would make it {accuracy_score(label, labels['sinkhorn']):.4f}"
    )
    assert (
        steps["sinkhorn"][-1].note
        == f"sinkhorn; hungarian would make it {accuracy_score(label, labels['hungarian']):.4f}"
    )


def test_groups_that_are_not_sure_are_not_reported_and_change_no_label(
    plates, entry, tmp_path, caplog
):
    make_submission(entry, tmp_path / "sure.csv")
    steps = make_submission(refit(entry, least_confidence=900.0), tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "sure.csv").read_bytes()
    about, sure = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("s", "sure"))
    names = sorted({name.split("/")[0] for name in sure["plate_groups"]})
    assert sorted(about["plate_groups_refused"]) == names and about["plate_groups"] == {}
    assert (
        about["plate_groups_refused"]
        == about["plate_group_confidence"]
        == sure["plate_group_confidence"]
    )
    assert set(about["plate_layouts"].values()) == {"4 rotations of one order"}
    for name in names:
        z = about["plate_groups_refused"][name]
        assert (
            f"{name}: its plates' groups are not sure (z {z:.1f}, submit.least_confidence is 900)"
            in caplog.text
        )
    assert (
        steps[-1].chance == pytest.approx(1 / 24)
        and "8 of 8 experiments not sure" in steps[-2].note
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["none", "groups", "hungarian", "sinkhorn"])
@pytest.mark.parametrize("with_groups", [True, False])
def test_scores_that_are_not_finite_get_no_label(plates, entry, value, kind, with_groups):
    root, competition, _, _ = plates
    groups = competition.plate_groups(competition.samples(root)) if with_groups else None
    targets = entry.merge(entry.final(), "test")
    targets.scores[17, 3] = value
    with pytest.raises(InputError, match="not all finite"):
        predict_labels(refit(entry, assignment=kind), targets, groups)


def test_given_groups_beat_inferred_ones(plates, entry, tmp_path):
    root, competition, _, truth = plates
    samples = competition.samples(root)
    groups = competition.plate_groups(samples)
    test = samples[(samples.split == "test") & (samples.role == "treatment")]
    first = test[test.experiment == test.experiment.min()]
    held = {
        p: int(groups.class_group[truth[rows.target_id.iloc[0]]])
        for p, rows in first.groupby("plate")
    }
    swapped = {"1": held["2"], "2": held["1"]}
    path = tmp_path / "groups.csv"
    path.write_text(
        "experiment,plate,group\n"
        + "".join(f"{first.experiment.iloc[0]},{p},{g}\n" for p, g in swapped.items())
    )
    make_submission(refit(entry, groups=path), tmp_path / "s.csv")
    about = json.loads((tmp_path / "s.json").read_text())
    used = {p: about["plate_groups"][f"{first.experiment.iloc[0]}/{p}"] for p in "1234"}
    assert used == {**held, **swapped} and str(path) in about["inputs"]
    submission = pd.read_csv(tmp_path / "s.csv").set_index("id_code").sirna
    on_first = submission.loc[first[first.plate == "1"].target_id.unique()]
    assert (groups.class_group[on_first] == swapped["1"]).all()


def test_options_that_would_do_nothing_are_refused(entry, tmp_path):
    (tmp_path / "g.csv").write_text("experiment,plate,group\n")
    with pytest.raises(InputError, match=r"submit\.groups: would do nothing with assignment: none"):
        make_submission(
            refit(entry, groups=tmp_path / "g.csv", assignment="none"), tmp_path / "s.csv"
        )
    with pytest.raises(
        InputError, match=r"submit\.temperature: would do nothing; only assignment: sinkhorn"
    ):
        make_submission(refit(entry, temperature=2.0), tmp_path / "s.csv")
    (tmp_path / "g.csv").write_text("experiment,plate,group\n")
    with pytest.raises(InputError, match=r"g\.csv: has a header but no rows"):
        make_submission(refit(entry, groups=tmp_path / "g.csv"), tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """A simulated RxRx1 with a training experiment that has the layout of a test one, and the names
    of the test one and of it.
    """
    root = tmp_path_factory.mktemp("repeated") / "raw"
    competition = get_competition("rxrx1")
    competition.simulate(
        root,
        6,
        classes=80,
        controls=1,
        size=16,
        sites=1,
        train_experiments={"RPE": 3},
        test_experiments={"RPE": 2},
    )
    answers = competition.answers(answers_path(root))
    truth = labels_of(answers)
    names = {
        part: sorted(pd.read_csv(root / f"{part}.csv").experiment.unique())
        for part in ("train", "test")
    }
    copy, source = names["test"][0], names["train"][0]
    for kind in ("", "_controls"):
        train, test = (pd.read_csv(root / f"{part}{kind}.csv") for part in ("train", "test"))
        layout = test[test.experiment == copy]
        layout = layout.assign(
            experiment=source,
            plate=layout.plate % 4 + 1,
            sirna=layout.get("sirna", layout.id_code.map(truth)),
        )
        layout["id_code"] = layout.experiment + "_" + layout.plate.astype(str) + "_" + layout.well
        pd.concat([train[train.experiment != source], layout]).to_csv(
            root / f"train{kind}.csv", index=False
        )
    return (root, competition, answers, truth), (copy, source)


def test_a_repeated_layout_is_reported_and_used(repeated, tmp_path, caplog):
    plates, (copy, source) = repeated
    root, competition, _, truth = plates
    path = write(plates, tmp_path / "p.npz", 0, 2.0, views=("identity",))
    right, about = {}, {}
    for repeats in ("off", "report", "use"):
        make_submission(open_entry([path], Submit(repeats=repeats)), tmp_path / "s.csv")
        submission = pd.read_csv(tmp_path / "s.csv", dtype=str)
        assert set(submission.id_code) == set(truth)
        mine = submission.id_code.str.startswith(f"{copy}_")
        right[repeats] = np.array(
            [truth[t] for t in submission.id_code]
        ) == submission.sirna.astype(int)
        about[repeats] = json.loads((tmp_path / "s.json").read_text())["repeats"]
    assert (right["off"] == right["report"]).all() and right["use"][mine].mean() == 1 > right[
        "off"
    ][mine].mean()
    assert (right["use"][~mine] == right["off"][~mine]).all()
    assert about["off"] == [] and about["report"] == about["use"]
    (found,) = about["use"]
    assert (found["test"], found["train"], found["offset"], found["wells"]) == (
        copy,
        source,
        1,
        80,
    ) and found["p"] < 0.01
    assert f"{copy} repeats {source}, plates +1" in caplog.text
    groups = competition.plate_groups(competition.samples(root))
    steps = ladder(open_entry([path], Submit(repeats="use")), "test", groups, as_truth(truth))
    assert [s.name for s in steps][-3:] == [
        "+ repeated layouts",
        "+ plate groups",
        "+ plate assignment",
    ]
    assert steps[-3].note == f"{copy} repeats {source}"


def test_seeds_are_runs_that_are_merged_out_of_fold(plates, tmp_path):
    files = [
        write(
            plates,
            tmp_path / f"{s}{f}.npz",
            7 * s + f,
            1.0,
            run=f"r/seed{s}",
            fold=f,
            views=("identity",),
        )
        for s in range(3)
        for f in (0, 1)
    ]
    entry = open_entry(files, Submit())
    samples = entry.samples.drop_duplicates("target_id").set_index("target_id")
    table = out_of_fold_accuracy(merge_runs(entry), samples, "experiment")
    assert list(table.run[::2]) == ["r/seed0", "r/seed1", "r/seed2", "all 3 merged"]
    values = table.accuracy.map(lambda accuracy: accuracy.value)
    single = values[0:6:2]
    assert values[6] > single.max()
    assert ((table.low <= values) & (values <= table.high)).all()
    text = out_of_fold_text(entry)
    assert f"{single.mean():.4f}" in text and "mean of 3 runs" in text


def test_a_model_without_validation_wells_takes_part_in_test_only(plates, tmp_path):
    files = [write(plates, tmp_path / f"{f}.npz", f, 1.0, fold=f) for f in (0, 1)] + [
        write(plates, tmp_path / "full.npz", 9, 1.0, fold=2, oof=False)
    ]
    entry = open_entry(files, Submit())
    assert "+ ensemble of 3 models" in [
        s.name for s in ladder(entry, "test", None, as_truth(plates[3]))
    ]
    assert not any("ensemble" in s.name for s in ladder(entry, "oof", None))


def test_weights_by_run(plates, tmp_path):
    good, bad = (
        write(plates, tmp_path / f"{name}.npz", 1, signal, run=f"{name}/seed0")
        for name, signal in (("good", 9.0), ("bad", 0.0))
    )
    heavy = open_entry([good, bad], Submit(assignment="none"), {"bad/seed0": 50.0})
    light = open_entry([good, bad], Submit(assignment="none"), {"good/seed0": 50.0})
    scores = [ladder(e, "test", None, as_truth(plates[3]))[-1].score.value for e in (heavy, light)]
    assert scores[0] < 0.9 < scores[1] == 1.0
    with pytest.raises(InputError, match="no predictions of a run called 'none'"):
        open_entry([good], Submit(), {"none": 1.0})


def test_what_is_refused(plates, tmp_path):
    with pytest.raises(InputError, match="no predictions files"):
        open_entry([], Submit())
    with pytest.raises(InputError, match=r"x\.npz: no such predictions file"):
        open_entry([tmp_path / "x.npz"], Submit())
