"""Training to tell identities apart: batch-hard triplets, centres of their own, controls that drop
out, compounds as a start for the classes.
"""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import make_config, stage

from cellsignal.common.errors import InputError, Interrupted
from cellsignal.common.stopping import Stop
from cellsignal.config.losses import Center, Triplet
from cellsignal.config.stage import Stage
from cellsignal.data.store import Store
from cellsignal.models.heads import Outputs
from cellsignal.prediction.embeddings import embed, load_embeddings
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.examples import Examples
from cellsignal.training.identity import check_belongs
from cellsignal.training.losses import SoftCrossEntropy, TripletLoss
from cellsignal.training.optim import Stepper
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import ALONE
from cellsignal.training.run import train
from cellsignal.training.stage_loss import StageLoss
from cellsignal.training.trainer import Trainer

K, D = 4, 6


def triplet_loss(margin: float, mining: str, normalised: bool = True) -> TripletLoss:
    """`model_construct` also takes margins that a config may not name."""
    config = Triplet.model_construct(margin=margin, mining=mining, normalised=normalised)
    return TripletLoss(config, K, D, None)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_stage(**more) -> Stage:
    return Stage(name="a", epochs=2, **more)


# losses
# --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 12),
    k=st.integers(1, 5),
    margin=st.floats(0, 1),
    normalised=st.booleans(),
)
def test_hardest_triplets_by_brute_force(seed, n, k, margin, normalised):
    embedding = random(seed, n, D).requires_grad_()
    labels = torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))
    x = embedding.detach().double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if normalised else x
    losses = []
    for a in range(n):
        same = [np.linalg.norm(x[a] - x[p]) for p in range(n) if p != a and labels[p] == labels[a]]
        other = [np.linalg.norm(x[a] - x[q]) for q in range(n) if labels[q] != labels[a]]
        if same and other:
            losses.append(max(0.0, max(same) - min(other) + margin))
    value = triplet_loss(margin, "hard", normalised)(embedding, labels)
    assert value.item() == pytest.approx(np.mean(losses) if losses else 0.0, abs=1e-4)
    value.backward()
    assert torch.isfinite(embedding.grad).all()


def test_copies_of_an_image_give_no_endless_gradient():
    embedding = random(0, 1, D).repeat(8, 1).requires_grad_()
    triplet_loss(0.3, "hard", False)(embedding, torch.arange(8) // 4).backward()
    assert torch.isfinite(embedding.grad).all()


@pytest.mark.parametrize("normalised", [True, False])
def test_semi_hard_triplets_of_embeddings_as_they_are(normalised):
    embedding, labels = random(3, 9, D), torch.arange(9) % 3
    x = (embedding / embedding.norm(dim=1, keepdim=True) if normalised else embedding).numpy()
    d = ((x[:, None] - x[None]) ** 2).sum(2)
    margin = 2.0
    gaps = [
        d[a, q] - d[a, p]
        for a in range(9)
        for p in range(9)
        for q in range(9)
        if a != p and labels[a] == labels[p] and labels[a] != labels[q]
    ]
    expected = np.mean([margin - gap for gap in gaps if 0 < gap <= margin])
    assert triplet_loss(margin, "semihard", normalised)(embedding, labels).item() == pytest.approx(
        expected, rel=1e-4
    )


def test_a_stages_loss_is_its_parts():
    config = a_stage(
        triplet=Triplet(weight=1.0, margin=0.3, mining="hard", normalised=False),
        center=Center(weight=0.01),
    )
    loss, labels = StageLoss(config, None, K, D), torch.arange(12) % K
    found = Outputs(random(1, 12, D), random(2, 12, K), None)
    y = torch.eye(K)[labels]
    expected = SoftCrossEntropy(None)(found.logits, y) + triplet_loss(0.3, "hard", False)(
        found.embedding, labels
    )
    expected = expected + 0.01 * found.embedding.square().sum() / 12
    assert loss(found, y, labels).item() == pytest.approx(expected.item(), rel=1e-5)


class Network(torch.nn.Linear):
    def outputs(self, x):
        return Outputs(x, self(x), None)


@pytest.mark.parametrize("weight", [0.01, 2.0])
def test_centres_learn_by_sgd_of_their_own_whatever_the_weight(weight):
    """One step by hand: c -= lr x the gradient of the mean squared distance, while weight decay and
    the network's rate leave them alone.
    """
    network = Network(D, K)
    config = a_stage(
        center=Center(weight=weight, lr=0.05),
        optimizer={"name": "sgd", "lr": 1e-9, "weight_decay": 0.5, "decay_all": True},
    )
    loss = StageLoss(config, None, K, D)
    start = random(5, K, D)
    with torch.no_grad():
        loss.center.centers.copy_(start)
    stepper = Stepper(network, loss, config, ALONE)
    x, labels = random(6, 10, D), torch.arange(10) % 3
    assert not any(
        p is loss.center.centers
        for group in stepper.optimizer.param_groups
        for p in group["params"]
    )
    for _ in range(2):  # the second step begins without the first's gradient
        before = loss.center.centers.detach().clone()
        stepper.backward(stepper.forward(x, torch.eye(K)[labels], labels)[0])
        stepper.update()
        expected = before.clone()
        for row, label in zip(x, labels, strict=True):
            expected[label] -= 0.05 * 2 * (before[label] - row) / 10
        torch.testing.assert_close(loss.center.centers.detach(), expected)
    assert torch.equal(loss.center.centers[3], start[3])
    before = loss.center.centers.detach().clone()
    stepper.backward(stepper.forward(x, torch.eye(K)[labels], None)[0])  # a mixed batch
    stepper.update()
    assert torch.equal(loss.center.centers, before)


def test_what_is_taken_for_a_control_drops_out_and_controls_do_not():
    """Class 3 is the negative control. Rows: treatment taken for one; treatment that is not;
    control taken for one; control that is not; unlabelled.
    """
    logits = torch.tensor([[0.0, 0, 0, 5], [5, 0, 0, 0], [0, 0, 0, 5], [5, 0, 0, 0], [0, 0, 0, 5]])
    labels = torch.tensor([0, 1, 3, 3, -1])
    y = torch.cat([torch.eye(K), torch.zeros(1, K)])[labels]
    found = Outputs(random(8, 5, D), logits, None)
    loss = StageLoss(
        a_stage(center=Center(weight=0.3), drop_predicted_controls=0),
        None,
        K,
        D,
        controls=[3],
    )
    whole, kept = loss(found, y, labels), [1, 2, 3]
    loss.dropping = True
    part = loss(found, y, labels)
    log_p = logits.log_softmax(1)
    expected = (
        -(log_p[1, 1] + log_p[2, 3] + log_p[3, 3]) / 3
        + 0.3 * found.embedding[kept].square().sum() / 3
    )
    assert (
        part.item() == pytest.approx(expected.item(), rel=1e-5) and whole.item() > part.item() + 0.5
    )
    assert loss(found, y, None).item() == pytest.approx(
        SoftCrossEntropy(None)(logits[kept], y[kept]).item(), rel=1e-5
    )
    mixed = torch.tensor([[0.5, 0, 0, 0.5]])  # half a control
    assert loss(Outputs(found.embedding[:1], logits[:1], None), mixed, None) > 0
    alone = loss(
        Outputs(found.embedding[:1], logits[:1].clone().requires_grad_(), None), y[:1], labels[:1]
    )
    alone.backward()
    assert alone.item() == 0


# config
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"batches": {"images": 5}}, "batch_size: 32 does not hold 2 or more classes of"),
        ({"batches": {"images": 32}}, "batch_size: 32 does not hold 2 or more classes of"),
        ({"batches": {"images": 4, "unit": "plate"}}, "leave unit and labels out"),
        ({"batches": {"images": 4, "labels": "balanced"}}, "leave unit and labels out"),
        ({"batches": {"images": 4, "labels": "unique"}}, "leave unit and labels out"),
        ({"batches": {"labels": "balanced", "unit": "plate"}}, "leave unit out"),
        (
            {"schedule": {"name": "onecycle", "warmup_epochs": 2}},
            "schedule.warmup_epochs: 2 leaves onecycle none of 2 epochs",
        ),
        (
            {
                "batches": {"images": 4},
                "ema": 0.9,
                "mean_teacher": {"unlabelled": "test"},
            },
            "leave mean_teacher.unlabelled out",
        ),
        ({"target": "compound", "pseudo_labels": {}}, "pseudo_labels name classes"),
        ({"target": "compound", "positive_weight": 2.0}, "positive_weight"),
        (
            {"drop_predicted_controls": 2},
            "drop_predicted_controls: 2 is not before the last of 2",
        ),
        ({"center": {"lr": 0}}, "greater than 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(more, named):
    with pytest.raises(ValidationError, match=named):
        a_stage(**more)


def test_controls_can_drop_out_only_where_they_are_a_class(plates, tmp_path):
    dropping = stage(drop_predicted_controls=1)
    with pytest.raises(
        InputError, match=r"stages\.all\.drop_predicted_controls: .*write data.controls: train"
    ):
        jobs_of(make_config(plates, tmp_path, [dropping]))
    job = jobs_of(make_config(plates, tmp_path, [dropping], data={"controls": "train"}))[0]
    samples = job.store.samples
    assert (
        Examples(job).controls()
        == samples.label[samples.role == "negative_control"].unique().tolist()
    )


# training
# --------------------------------------------------------------------------------------------------

IDENTITIES = {
    "batch_size": 12,
    "batches": {"images": 3},
    "triplet": {"mining": "hard", "normalised": False, "weight": 1.0, "margin": 0.3},
    "center": {"lr": 0.05},
    "drop_predicted_controls": 1,
    "label_smoothing": 0.1,
    "optimizer": {"name": "nesterov", "lr": 0.01, "weight_decay": 1e-3},
    "schedule": {"name": "constant"},
}


def test_a_stage_of_identities_ends_in_the_same_bytes_wherever_it_was_stopped(
    plates, tmp_path, monkeypatch
):
    def config(name):
        return make_config(
            plates, tmp_path / name, [stage(**IDENTITIES)], data={"controls": "train"}
        )

    dropping, update = [], Trainer._update

    def recording(self, share):
        update(self, share)
        dropping.append((self.progress["epoch"], self.loss.dropping))

    monkeypatch.setattr(Trainer, "_update", recording)
    train(config("whole"))
    assert set(dropping) == {(0, False), (1, True)}
    job = jobs_of(config("whole"))[0]
    assert len(Examples(job).batches(0)) == len(dropping) / 2 == -(-len(job.train) // 12)

    def interrupting(self, share):
        recording(self, share)
        if len(dropping) % 7 == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_update", interrupting)
    states, stops = [], 0
    for _ in range(20):
        try:
            train(config("broken"))
            break
        except Interrupted:
            stops += 1
            states.append(load_checkpoint(jobs_of(config("broken"))[0].folder / "last.pt"))
    last = [
        load_checkpoint(jobs_of(config(name))[0].folder / "last.pt")["model"]
        for name in ("whole", "broken")
    ]
    assert stops >= 3 and all(torch.equal(value, last[1][name]) for name, value in last[0].items())
    unfinished = [state for state in states if not state["progress"]["finished"]]
    assert all(
        state["center_optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.05 / 0.01)
        for state in unfinished
    )
    assert not torch.equal(*(unfinished[n]["loss"]["center.centers"] for n in (0, 1)))


def test_compounds_first_then_the_classes_from_their_weights(plates, tmp_path):
    """Eight compounds and eight classes here: as many outputs, and still another head."""
    stages = [
        stage("drugs", target="compound", epochs=1, class_weights="balanced"),
        stage("fine", init="previous", epochs=1),
    ]
    config = make_config(plates, tmp_path, stages)
    drugs, fine = jobs_of(config)
    samples = drugs.store.samples
    assert (
        drugs.outputs == fine.outputs == 8
        and len(drugs.scored) == 0
        and len(drugs.valid) == len(fine.scored) > 0
    )
    examples = Examples(drugs)
    assert [drugs.compounds[label] for label in examples.labels] == samples.compound.iloc[
        drugs.train
    ].tolist()
    Trainer(drugs, ALONE, Stop()).run()
    log = pd.read_csv(drugs.folder / "log.csv")
    assert (
        log.valid_loss.isna().all()
        and log.train_loss.notna().all()
        and not (drugs.folder / "best.pt").exists()
    )
    first = load_checkpoint(drugs.folder / "last.pt")
    model = Trainer(fine, ALONE, Stop()).model.state_dict()
    other = [name for name, value in model.items() if not torch.equal(value, first["model"][name])]
    assert other == ["backbone.fc.weight", "backbone.fc.bias"]
    with pytest.raises(InputError, match=r"belongs to another training .class_space differs"):
        check_belongs(fine, first | {"stage": "fine"}, fine.folder)
    del first["class_space"]  # a checkpoint from before there was a choice: of labels
    check_belongs(fine, first | {"stage": "fine"}, fine.folder)


def test_another_number_of_compounds_than_classes(plates, tmp_path, monkeypatch):
    """As if each cell type had got compounds of its own: 32, 8 for each cell type's model, then 8
    classes again.
    """

    def with_more_compounds(path):
        store = open_store(path)
        store.samples["compound"] = store.samples.compound + "_" + store.samples.cell_type
        return store

    open_store = Store.open
    monkeypatch.setattr(Store, "open", with_more_compounds)
    each = stage("each", per="cell_type", target="compound", init="previous")
    jobs = jobs_of(
        make_config(
            plates,
            tmp_path / "planned",
            [stage(target="compound"), each, stage("fine", init="previous")],
        )
    )
    assert [job.outputs for job in jobs] == [32, 8, 8, 8, 8, 8] and len(
        {job.class_space for job in jobs}
    ) == 6
    assert all(
        set(job.compounds) == set(job.store.samples.compound.iloc[job.train]) for job in jobs
    )
    config = make_config(
        plates,
        tmp_path,
        [stage(target="compound", epochs=1), stage("fine", init="previous", epochs=1)],
    )
    train(config)
    drugs, fine = (load_checkpoint(job.folder / "last.pt") for job in jobs_of(config))
    assert [len(state["model"]["backbone.fc.weight"]) for state in (drugs, fine)] == [32, 8]
    assert fine["progress"]["history"][0]["valid_accuracy"] is not None


def test_training_samples_without_a_compound_are_named(plates, tmp_path):
    config = make_config(plates, tmp_path, [stage(target="compound")], data={"controls": "train"})
    with pytest.raises(
        InputError,
        match=r"stages\.all\.target: 64 training samples of .* have no compound, first '",
    ):
        jobs_of(config)  # RxRx1's controls have none


def test_a_run_that_ends_with_compounds_embeds(plates, tmp_path):
    config = make_config(plates, tmp_path, [stage(target="compound", epochs=1)], predict={"tta": 1})
    train(config)
    (path,) = embed(config)
    found = load_embeddings(path)
    assert {"train", "oof", "test"} <= set(found.samples.part) and np.isfinite(found.values).all()
