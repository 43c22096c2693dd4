"""A stage that follows retrieval: what is ranked, mean average precision by brute force, the
figures in the log, what follows them, and resuming.
"""

import itertools
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import write_config
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from tiny import make_config, stage

from cellsignal.common.errors import InputError, Interrupted
from cellsignal.common.stopping import Stop
from cellsignal.competitions.multi_label import MultiLabel
from cellsignal.config.load import load_config
from cellsignal.config.schema import Config
from cellsignal.prediction.predict import trained_model
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.inference import (
    logits_and_embeddings,
    pixel_statistics,
    plan_reading,
    predict_with,
)
from cellsignal.training.job import Job
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import ALONE, Ranks
from cellsignal.training.run import train
from cellsignal.training.trainer import Trainer
from cellsignal.training.validation import PER_CLASS, Gallery, Validation, draw_gallery, retrieval

RETRIEVAL = {
    "monitor": "retrieval",
    "schedule": {"name": "plateau", "patience": 0},
    "optimizer": {"name": "adam", "lr": 1e-3},
    "epochs": 2,
    "batch_size": 16,
}
SPEED = ["images_per_s", "waiting", "of_peak"]


def drugs(space, folder, stages=None, **more) -> Config:
    """A config on the small BBBC021: 6 classes of 2 compounds and more, whole ones held out."""
    data = {"root": str(space.root), "store": str(space.folder / "store"), "workers": 0}
    stages = stages or [{"name": "all", **RETRIEVAL}]
    tables = {"file": str(space.folder / "folds.csv"), "use": [0]} | more.pop("folds", {})
    path = write_config(
        folder,
        space.competition,
        space.root,
        data=data,
        folds=tables,
        stages=stages,
        runs=str(folder / "runs"),
        **more,
    )
    return load_config(path)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return round(1.0 if length == 0 else 1 - float(a @ b) / length, 9)


def by_hand(
    samples: pd.DataFrame, asked: int, embeddings: np.ndarray, group: str, same_drug_out: bool
) -> float:
    """Target by target and sample by sample; what is as near as another counts as a random order of
    them would.
    """
    found, rows = [], samples.to_dict("records")
    for target in {row["target_id"] for row in rows[:asked]}:
        own = [at for at in range(asked) if rows[at]["target_id"] == target]
        mean = np.mean([embeddings[at] for at in own], axis=0, dtype=np.float64)
        truth, distance = [], []
        for at, row in enumerate(rows):
            out = row["target_id"] == target or any(row[group] == rows[mine][group] for mine in own)
            if same_drug_out and row["compound"] is not None:
                out |= any(row["compound"] == rows[mine]["compound"] for mine in own)
            if not out:
                truth.append(row["label"] == rows[own[0]]["label"])
                distance.append(cosine(mean, embeddings[at].astype(np.float64)))
        if any(truth):
            found.append(expected_precision(distance, truth))
    return float(np.mean(found))


def expected_precision(distance: list[float], truth: list[bool]) -> float:
    """Match by match and place by place: the mean over the orders of what is equally near.

    At the kth of s tied places, r of them matches, a match has (k - 1)(r - 1)/(s - 1) of the others
    before it.
    """
    precisions = []
    for near, match in zip(distance, truth, strict=True):
        if match:
            nearer = [other for far, other in zip(distance, truth, strict=True) if far < near]
            tied = [other for far, other in zip(distance, truth, strict=True) if far == near]
            s, r = len(tied), sum(tied)
            places = [
                (sum(nearer) + 1 + (k - 1) * (r - 1) / max(s - 1, 1)) / (len(nearer) + k)
                for k in range(1, s + 1)
            ]
            precisions.append(sum(places) / s)
    return sum(precisions) / len(precisions)


def test_the_oracle_is_scikit_learns_over_all_orders():
    distance, truth = [0, 1, 1, 1, 2, 2], [False, True, False, True, True, False]
    every = [
        average_precision_score(
            truth, [-near - place / 100 for near, place in zip(distance, order, strict=True)]
        )
        for order in itertools.permutations(range(6))
    ]
    assert expected_precision(distance, truth) == pytest.approx(np.mean(every))


# what is ranked
# --------------------------------------------------------------------------------------------------


def test_the_gallery_is_of_validation_and_a_few_training_samples_of_each_class(plates, tmp_path):
    job = jobs_of(make_config(plates, tmp_path, [stage(**RETRIEVAL)]))[0]
    gallery, samples = draw_gallery(job), job.store.samples
    assert list(gallery.positions[: gallery.queries]) == list(job.valid)
    others = samples.iloc[gallery.positions[gallery.queries :]]
    assert (
        set(others.index) <= set(job.train)
        and (others.role == "treatment").all()
        and (others.split == "train").all()
    )
    counts, there = others.label.value_counts(), samples.iloc[job.train].label.value_counts()
    assert counts.max() == PER_CLASS and all(
        counts[label] == min(PER_CLASS, there[label]) for label in there.index
    )
    again = draw_gallery(job)
    other = draw_gallery(replace(job, config=job.config.model_copy(update={"seed": 7})))
    assert np.array_equal(gallery.positions, again.positions) and not np.array_equal(
        gallery.positions, other.positions
    )


def test_control_wells_that_train_are_not_ranked(plates, tmp_path):
    job = jobs_of(make_config(plates, tmp_path, [stage(**RETRIEVAL)], data={"controls": "train"}))[
        0
    ]
    samples = job.store.samples
    assert (samples.role.iloc[job.train] != "treatment").any()
    assert (samples.role.iloc[draw_gallery(job).positions] == "treatment").all()


@pytest.mark.slow
def test_a_drug_is_not_its_own_answer(prepared, tmp_path):
    """Folds of images: a drug is in both parts."""
    space = prepared("bbbc021")
    samples = jobs_of(drugs(space, tmp_path))[0].store.samples
    names = samples.sample_id[samples.label.notna() & (samples.split == "train")]
    folds = tmp_path / "images.csv"
    pd.DataFrame(
        {"fold": np.random.default_rng(0).permutation(len(names)) % 2, "sample_id": names}
    ).to_csv(folds, index=False)
    job = jobs_of(drugs(space, tmp_path, folds={"file": str(folds)}))[0]
    gallery = draw_gallery(job)
    inside = samples.iloc[gallery.positions]
    targets = sorted(set(inside.target_id[: gallery.queries]))
    assert set(inside["compound"][: gallery.queries]) & set(inside["compound"][gallery.queries :])
    for target, (places, match) in zip(targets, gallery.lists(), strict=True):
        own, ranked = inside[inside.target_id == target].iloc[0], inside.iloc[places]
        expected = inside["compound"] != own["compound"]
        assert list(ranked.index) == list(inside.index[expected]) and list(match) == list(
            ranked.label == own.label
        )


def test_where_the_class_is_the_compound_only_the_fold_group_is_left_out(plates, tmp_path):
    """RxRx1: each siRNA is a class; its wells of other experiments are to be found."""
    job = jobs_of(make_config(plates, tmp_path, [stage(**RETRIEVAL)]))[0]
    gallery = draw_gallery(job)
    inside = job.store.samples.iloc[gallery.positions]
    for target, (places, match) in zip(
        sorted(set(inside.target_id[: gallery.queries])), gallery.lists(), strict=True
    ):
        own = inside[inside.target_id == target].iloc[0]
        assert (
            list(inside.index[places]) == list(inside.index[inside.experiment != own.experiment])
            and match.any()
        )


@pytest.mark.slow
def test_without_anything_to_find_training_does_not_begin(prepared, tmp_path):
    job = jobs_of(drugs(prepared("bbbc021"), tmp_path))[0]
    samples = job.store.samples
    held = samples.iloc[job.valid]
    one = held.label.iloc[0]
    valid = job.valid[(held["compound"] == held["compound"].iloc[0]).to_numpy()]
    train_ = job.train[(samples.label.iloc[job.train] != one).to_numpy()]
    with pytest.raises(
        InputError,
        match=r"^stages\.all\.monitor: retrieval: no validation target of seed 0 fold 0 stage "
        r"all has a sample of its class of another compound$",
    ):
        Trainer(replace(job, valid=valid, train=train_), ALONE, Stop())
    assert not job.folder.exists()


@pytest.mark.parametrize("target", ["label", "compound"])
def test_several_labels_an_image_are_refused(plates, tmp_path, target):
    config = make_config(plates, tmp_path, [stage(monitor="retrieval", target=target)])
    with pytest.raises(
        InputError,
        match=r"^stages\.all\.monitor: retrieval: needs one label an image; those of toy have "
        r"several or none$",
    ):
        MultiLabel(SimpleNamespace(id="toy")).check_config(config)


# the figure
# --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(2, 14), st.integers(0, 14), st.integers(1, 4), st.booleans()
)
def test_mean_average_precision_by_brute_force(seed, asked, more, classes, drugs_out):
    """Few directions on a lattice: ties, opposite and empty embeddings; targets of several samples,
    drugs of none, queries without a match.
    """
    rng, n = np.random.default_rng(seed), asked + more
    target = rng.integers(0, max(1, n // 2), n)
    label = rng.integers(0, classes, target.max() + 1)[target]
    compound = rng.integers(-1, 5, target.max() + 1)[target]
    group, x = rng.integers(0, 3, n), rng.integers(-1, 2, (n, 3)).astype(np.float32)
    gallery = Gallery(
        np.arange(n), asked, target, label, group, compound if drugs_out else np.full(n, -1)
    )
    if not any(match.any() for _, match in gallery.lists()):
        return
    frame = pd.DataFrame(
        {"target_id": target, "label": label, "group": group, "compound": compound}
    ).astype(object)
    frame["compound"] = frame["compound"].where(frame["compound"] >= 0, None)
    assert retrieval(gallery, x) == pytest.approx(
        by_hand(frame, asked, x, "group", drugs_out), abs=1e-6
    )


def test_a_network_that_tells_nothing_apart_is_not_first_by_the_order_of_the_table():
    four = np.arange(4)
    gallery = Gallery(four, 1, four, np.array([0, 0, 1, 1]), four, np.full(4, -1))
    # one match among three, anywhere
    assert retrieval(gallery, np.ones((4, 2), np.float32)) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert retrieval(gallery, np.array([[1, 0], [2, 0.1], [0, 1], [-1, 0]], np.float32)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "more, predict",
    [({"ema": 0.9}, {"adapt": "plate", "tta": 4, "batch_size": 8}), ({}, {"tta": 2})],
    ids=["averaged, adapted", "plain"],
)
def test_the_log_says_what_brute_force_finds_in_the_weights_that_predict(
    prepared, tmp_path, more, predict
):
    config = drugs(
        prepared("bbbc021"), tmp_path, [{"name": "all", **RETRIEVAL, **more}], predict=predict
    )
    train(config)
    job = jobs_of(config)[0]
    rows = pd.read_csv(job.folder / "log.csv")
    assert (
        list(rows.columns[:5])
        == ["epoch", "train_loss", "valid_loss", "valid_accuracy", "valid_retrieval"]
        and len(rows) == 2
    )
    state = load_checkpoint(job.folder / "last.pt")
    model, gallery = trained_model(job, state), draw_gallery(job)
    pixels = pixel_statistics(config, job.store, job.train)
    embeddings = predict_with(
        job, model, plan_reading(job, pixels, gallery.positions), embeddings=True
    )["identity"]
    samples = job.store.samples.iloc[gallery.positions]
    assert rows.valid_retrieval.iloc[-1] == pytest.approx(
        by_hand(samples, gallery.queries, embeddings, "compound", True), abs=1e-6
    )
    plain = Validation(
        replace(
            job,
            config=drugs(
                prepared("bbbc021"),
                tmp_path,
                [{"name": "all", **RETRIEVAL, **more, "monitor": "score"}],
                predict=predict,
            ),
        ),
        pixels,
        ALONE,
    )
    found = plain.measure(model)
    assert list(found) == ["valid_loss", "valid_accuracy"]
    assert rows[list(found)].iloc[-1].to_dict() == pytest.approx(found, abs=1e-4)
    best = load_checkpoint(job.folder / "best.pt")["progress"]
    assert best["best"] == state["progress"]["best"] == rows.valid_retrieval.max()


class _Share(Ranks):
    """One of two processes, alone: its share is not added to the other's."""

    def sum_array(self, values: np.ndarray) -> np.ndarray:
        return values


@pytest.mark.slow
@pytest.mark.parametrize("adapt", ["none", "experiment"])
def test_two_processes_embed_a_half_each(plates, tmp_path, adapt):
    config = make_config(
        plates, tmp_path, [stage(**RETRIEVAL)], predict={"adapt": adapt, "batch_size": 8}
    )
    trainer = Trainer(jobs_of(config)[0], ALONE, Stop())
    job, chosen = trainer.job, trainer.validation.gallery.positions

    def both(ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
        return logits_and_embeddings(
            job, trainer.model, plan_reading(job, trainer.pixels, chosen, ranks), ranks
        )

    whole, parts = both(ALONE), [both(_Share(rank, 2, torch.device("cpu"))) for rank in (0, 1)]
    for one, first, second in zip(whole, *parts, strict=True):
        assert not (first.any(axis=1) & second.any(axis=1)).any() and first.any() and second.any()
        np.testing.assert_array_equal(first + second, one)
    reading = plan_reading(job, trainer.pixels, chosen)
    np.testing.assert_array_equal(whole[0], predict_with(job, trainer.model, reading)["identity"])
    np.testing.assert_array_equal(
        whole[1], predict_with(job, trainer.model, reading, embeddings=True)["identity"]
    )


# what follows it
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_schedule_best_weights_and_early_stopping_follow_it(plates, tmp_path, monkeypatch):
    """Retrieval is best in the first validation; accuracy and loss go on getting better."""
    told = iter([0.5, 0.4, 0.3, 0.2])
    figures = iter([(3.0, 0.1), (2.0, 0.2), (1.0, 0.3), (0.5, 0.4)])
    monkeypatch.setattr(
        Validation,
        "measure",
        lambda self, model: dict(zip(self.columns, (*next(figures), next(told)), strict=True)),
    )
    more = RETRIEVAL | {
        "epochs": 9,
        "validate_every": 2,
        "early_stopping": 2,
        "batch_size": 32,
    }
    job = jobs_of(make_config(plates, tmp_path, [stage(**more)]))[0]
    Trainer(job, ALONE, Stop()).run()
    rows = pd.read_csv(job.folder / "log.csv")
    assert rows.valid_retrieval.isna().tolist() == [True, False, True, False, True, False]
    assert rows.lr.tolist() == pytest.approx([1e-3] * 4 + [1e-4] * 2)
    best = load_checkpoint(job.folder / "best.pt")["progress"]
    assert len(best["history"]) == 1 and best["best"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("what", ["full", "compound", "self_supervised"])
def test_where_nothing_is_scored_the_training_loss_is_followed(prepared, tmp_path, what):
    more = {
        "compound": {"target": "compound"},
        "self_supervised": {"self_supervised": {}, "augment": [{"name": "rotate90"}]},
    }.get(what, {})
    config = drugs(
        prepared("bbbc021"),
        tmp_path,
        [{"name": "all", **RETRIEVAL, **more, "epochs": 1}],
        folds={"full": what == "full"},
    )
    job = jobs_of(config)[-1]
    assert (job.fold is None) == (what == "full")
    trainer = Trainer(job, ALONE, Stop())
    assert (
        trainer.validation.monitored == "train_loss"
        and not trainer.validation.higher_is_better
        and trainer.schedule.sign == -1
    )
    trainer.run()
    rows = pd.read_csv(job.folder / "log.csv")
    assert "valid_retrieval" not in rows.columns and trainer.progress["best"] == rows.train_loss[0]
    assert not (job.folder / "best.pt").exists()


@pytest.mark.slow
def test_clips_are_followed_as_stills_are(prepared, tmp_path):
    space = prepared("mitoreid")
    job: Job = jobs_of(
        drugs(
            space,
            tmp_path,
            [{"name": "all", **RETRIEVAL, "epochs": 1}],
            model={"backbone": "resnet3d18", "base_width": 8, "bnneck": True},
            normalization={"by": "global"},
        )
    )[0]
    trainer = Trainer(job, ALONE, Stop())
    found = trainer.validate()
    gallery = trainer.validation.gallery
    embeddings = predict_with(
        job, trainer.model, plan_reading(job, trainer.pixels, gallery.positions), embeddings=True
    )["identity"]
    samples = job.store.samples.iloc[gallery.positions]
    assert found["valid_retrieval"] == pytest.approx(
        by_hand(samples, gallery.queries, embeddings, "compound", True), abs=1e-6
    )


@pytest.mark.slow
def test_stopped_anywhere_and_run_again_ends_in_the_same_bytes(prepared, tmp_path, monkeypatch):
    stages = [
        {
            "name": "all",
            **RETRIEVAL,
            "epochs": 3,
            "early_stopping": 2,
            "ema": 0.9,
            "augment": [{"name": "rotate90"}],
        }
    ]
    whole, broken = (
        drugs(prepared("bbbc021"), tmp_path / name, stages) for name in ("whole", "broken")
    )
    train(whole)
    update, steps = Trainer._update, []

    def interrupting(self, share):
        update(self, share)
        steps.append(share)
        if len(steps) % 3 == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_update", interrupting)
    stops = 0
    for _ in range(50):
        try:
            train(broken)
            break
        except Interrupted:
            stops += 1
    folders = [jobs_of(config)[0].folder for config in (whole, broken)]
    for name in ("last.pt", "best.pt"):
        a, b = (load_checkpoint(folder / name) for folder in folders)
        assert all(
            torch.equal(value, b[part][key])
            for part in ("model", "averaged")
            for key, value in a[part].items()
        )
        assert a["progress"]["best"] == b["progress"]["best"]
    logs = [pd.read_csv(folder / "log.csv").drop(columns=SPEED) for folder in folders]
    assert stops >= 2 and logs[0].equals(logs[1]) and logs[0].valid_retrieval.notna().all()
