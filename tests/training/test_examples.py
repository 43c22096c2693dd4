"""What trains: controls as classes, units of a batch, pseudo-labels, and that no validation well is
ever among them.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.common.stopping import Stop
from cellsignal.training import pseudo_labels
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.examples import Examples, soft_labels
from cellsignal.training.job import unit_codes
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import ALONE
from cellsignal.training.run import train
from cellsignal.training.trainer import Trainer


def test_control_wells_are_further_classes_and_no_treatment_comes_with_them(plates, tmp_path):
    jobs = {
        mode: jobs_of(make_config(plates, tmp_path, data={"controls": mode}))[0]
        for mode in ("ignore", "train", "all")
    }
    samples = jobs["all"].store.samples
    treatments, held_out = jobs["ignore"].train, set(jobs["ignore"].held_out)
    assert {job.outputs for job in jobs.values()} == {8, 8 + 2} and jobs[
        "ignore"
    ].outputs == 8  # one positive siRNA and the untreated wells
    for mode in ("train", "all"):
        added = samples.iloc[np.setdiff1d(jobs[mode].train, treatments)]
        assert (added.role != "treatment").all() and (added.label >= 8).all()
        assert np.isin(treatments, jobs[mode].train).all()
        expected = samples[samples.role != "treatment"]
        expected = (
            expected
            if mode == "all"
            else expected[(expected.split == "train") & ~expected.experiment.isin(held_out)]
        )
        assert sorted(added.sample_id) == sorted(expected.sample_id)
        assert np.array_equal(jobs[mode].valid, jobs["ignore"].valid)


def test_controls_stay_with_their_cell_type(plates, tmp_path):
    second = stage("cell_type", per="cell_type", init="previous")
    for job in jobs_of(make_config(plates, tmp_path, [stage(), second], data={"controls": "all"})):
        if job.key != "all":
            assert set(job.store.samples.cell_type.iloc[job.train]) == {job.key}


@pytest.mark.parametrize("unit", ["cell_type", "experiment", "plate"])
def test_batches_are_of_one_unit_with_each_label_once(plates, tmp_path, unit):
    job = jobs_of(
        make_config(plates, tmp_path, [stage(batches={"unit": unit, "labels": "unique"})])
    )[0]
    examples, codes = Examples(job), unit_codes(job.store.samples, unit)
    for epoch in (0, 1):
        batches = examples.batches(epoch)
        for batch in batches:
            index = np.array([i for _, i in batch])
            assert len(set(codes[examples.positions[index]])) == 1
            assert len(set(examples.labels[index])) == len(index) and {e for e, _ in batch} == {
                epoch
            }
        assert sorted(i for batch in batches for _, i in batch) == list(range(len(job.train)))


def test_without_a_label_an_image_takes_part_only_for_consistency(plates, tmp_path):
    pseudo = Examples(jobs_of(make_config(plates, tmp_path, [stage(pseudo_labels={})]))[0])
    teacher = {"ema": 0.9, "mean_teacher": {"unlabelled": "test"}}
    both = Examples(jobs_of(make_config(plates, tmp_path, [stage(**teacher)]))[0])
    job = both.job
    samples = job.store.samples
    assert {i for batch in pseudo.batches(0) for _, i in batch} == set(range(len(job.train)))
    assert {i for batch in both.batches(0) for _, i in batch} == set(
        range(len(job.train) + len(job.test))
    )
    assert (both.labels[len(job.train) :] == -1).all() and (
        samples.split.iloc[both.positions[len(job.train) :]] == "test"
    ).all()
    wells = samples.target_id.iloc[job.test].unique()[:3]
    pseudo.set_pseudo_labels(pd.DataFrame({"target_id": wells, "label": [5, 6, 7]}))
    used = {i for batch in pseudo.batches(1) for _, i in batch}
    assert len(used) == len(job.train) + 6  # both sites of each well
    for i in used - set(range(len(job.train))):
        assert pseudo.labels[i] == dict(zip(wells, [5, 6, 7], strict=True))[pseudo.target_id[i]]
    pseudo.set_pseudo_labels(pd.DataFrame({"target_id": wells[:1], "label": [0]}))
    assert (pseudo.labels[len(job.train) :] >= 0).sum() == 2
    unnamed = pseudo.target_id[len(job.train) :] != wells[0]
    assert (pseudo.labels[len(job.train) :][unnamed] == -1).all()


def test_soft_labels_of_the_unlabelled_are_zero():
    assert soft_labels(torch.tensor([1, -1]), 3).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_pseudo_labels_name_test_wells_alone_and_are_kept_in_files(plates, tmp_path):
    config = make_config(
        plates,
        tmp_path,
        [stage(epochs=3, pseudo_labels={"start": 1, "first": 0.5, "least_confidence": 0.0})],
    )
    train(config)
    job = jobs_of(config)[0]
    samples, validated = job.store.samples, set(job.store.samples.target_id.iloc[job.valid])
    for epoch, share in ((1, 0.5), (2, 1.0)):
        frame = pseudo_labels.read(job.folder, epoch)
        assert len(frame) > 0 and frame.attrs["share"] == share and frame.attrs["seed"] == 0
        assert set(frame.target_id) <= set(
            samples.target_id[(samples.split == "test") & (samples.role == "treatment")]
        )
        assert not set(frame.target_id) & validated
    assert not pseudo_labels.csv_path(job.folder, 0).exists()


def test_an_interrupted_epoch_goes_on_with_the_pseudo_labels_it_began_with_or_not_at_all(
    plates, tmp_path, monkeypatch
):
    config = make_config(plates, tmp_path, [stage(pseudo_labels={"least_confidence": 0.0})])
    job = jobs_of(config)[0]
    digest = pseudo_labels.draw_pseudo_labels(
        job, Trainer(job, ALONE, Stop()).model, Trainer(job, ALONE, Stop()).pixels, 0
    )
    assert len(pseudo_labels.read_pseudo_labels(job, 0, digest))
    with pytest.raises(
        InputError, match=r"epoch_000\.csv: is not what the interrupted epoch began with"
    ):
        pseudo_labels.read_pseudo_labels(job, 0, "0" * 64)
    frame = pseudo_labels.read(job.folder, 0)
    frame.loc[0, "target_id"] = job.store.samples.target_id.iloc[job.valid[0]]
    path = pseudo_labels.write(job.folder, 0, frame, {})
    with pytest.raises(InputError, match="not test treatments"):
        pseudo_labels.read_pseudo_labels(job, 0, sha256(path))


def test_more_batches_in_an_epoch_still_end_the_schedule_at_its_end(plates, tmp_path):
    schedule = {"name": "cosine"}
    config = make_config(
        plates,
        tmp_path,
        [stage(epochs=3, schedule=schedule, pseudo_labels={"start": 1, "least_confidence": 0.0})],
    )
    train(config)
    state = load_checkpoint(jobs_of(config)[0].folder / "last.pt")
    assert [row["lr"] for row in state["progress"]["history"]] == pytest.approx(
        [2e-3 * 0.75, 2e-3 * 0.25, 0.0], abs=1e-9
    )
