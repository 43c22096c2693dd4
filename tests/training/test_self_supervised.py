"""Pretraining without labels: the losses against other versions of them, what takes part, and that
what is learnt is worth something and handed on.
"""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss
from sklearn.neighbors import KNeighborsClassifier
from tiny import make_config, stage
from torch.nn import functional

from cellsignal.common.errors import InputError, Interrupted
from cellsignal.common.files import write_csv
from cellsignal.common.stopping import Stop
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import make_folds
from cellsignal.config.losses import SelfSupervised
from cellsignal.config.stage import Stage
from cellsignal.data.pack import prepare
from cellsignal.models.backbones import build_model
from cellsignal.models.heads import Outputs
from cellsignal.prediction.predict import predict
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.inference import pixel_statistics, plan_reading, predict_with
from cellsignal.training.job import Job
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import ALONE
from cellsignal.training.run import train
from cellsignal.training.self_supervised import (
    TwoViewLoss,
    TwoViews,
    images_without_labels,
    nt_xent,
)
from cellsignal.training.trainer import Trainer

SIDE = 32
WAVES = (0.06, 0.14, 0.25, 0.42)  # cycles a pixel
AUGMENT = [
    {"name": "rotate90"},
    {"name": "horizontal_flip"},
    {"name": "random_crop", "size": 24},
    {"name": "gain_bias", "gain": 0.4, "bias": 1.0},
]


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    """A simulated RxRx1 whose sites are noise of one of four wavelengths (by label), under lighting
    that differs from site to site and says nothing.
    """
    root, competition = tmp_path_factory.mktemp("textures"), get_competition("rxrx1")
    competition.simulate(
        root / "raw", 3, classes=8, controls=1, size=SIDE, train_experiments=2, test_experiments=1
    )
    samples, rng = competition.samples(root / "raw"), np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    for files, label in zip(samples.files, samples.label.fillna(0).astype(int), strict=True):
        band = np.exp(-(((frequency - WAVES[label % 4]) / 0.02) ** 2))
        noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(6, SIDE, SIDE))) * band).real
        noise /= noise.std(axis=(1, 2), keepdims=True)
        grey = rng.uniform(80, 170, (6, 1, 1)) + rng.uniform(15, 40, (6, 1, 1)) * noise
        for name, plane in zip(files, np.clip(grey, 0, 255).astype(np.uint8), strict=True):
            assert (root / "raw" / name).is_file() and cv2.imwrite(str(root / "raw" / name), plane)
    prepare(competition, root / "raw", root / "store")
    write_csv(
        root / "folds.csv",
        make_folds(samples, "experiment", 2, 0, plate_groups=competition.plate_groups(samples)),
    )
    return root


def pretraining(epochs: int = 2, **more) -> dict:
    section = {"temperature": 0.2, "projection": [128, 64]} | more.pop("self_supervised", {})
    return stage(
        "pretrain",
        epochs=epochs,
        batch_size=16,
        augment=AUGMENT,
        schedule={"name": "cosine"},
        self_supervised=section,
        **more,
    )


def job_of(root, runs, stages=None, **more) -> Job:
    return jobs_of(make_config(root, runs, stages or [pretraining()], **more))[0]


# the losses
# --------------------------------------------------------------------------------------------------


def views(n: int, width: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.randn(
        2, n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return both[0].requires_grad_(), both[1].requires_grad_()


@pytest.mark.parametrize(("n", "temperature"), [(2, 0.1), (7, 0.5), (16, 0.2)])
def test_nt_xent_is_the_librarys_and_equation_1(n, temperature):
    first, second = views(n)
    ours = nt_xent(first, second, temperature)
    gradients = torch.autograd.grad(ours, [first, second])
    library = SelfSupervisedLoss(NTXentLoss(temperature))(first, second)
    torch.testing.assert_close(ours, library, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(gradients, torch.autograd.grad(library, [first, second]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)
    z = torch.cat([first, second]).detach().numpy()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(2 * n):
        e = {k: np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i}
        terms.append(-np.log(e[(i + n) % (2 * n)] / sum(e.values())))
    assert ours.item() == pytest.approx(np.mean(terms))


def test_a_loss_looks_at_pairs_and_never_at_labels():
    config = SelfSupervised(projection=(8, 4))
    torch.manual_seed(0)
    loss = TwoViewLoss(config, 5)
    embedding, logits = torch.randn(12, 5), torch.randn(12, 3)
    one = loss(Outputs(embedding, logits, None), torch.zeros(12, 3), torch.full((12,), -1))
    other = loss(Outputs(embedding, logits + 1, None), torch.ones(12, 3), torch.arange(12))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(Outputs(embedding, logits, None), torch.zeros(12, 3), None)
    assert torch.equal(one, other) and torch.equal(one, mixed)
    z = loss.projection(embedding)
    assert torch.equal(one, nt_xent(z[:6], z[6:], config.temperature))
    swapped = loss(
        Outputs(embedding[[*range(1, 6), 0, *range(6, 12)]], logits, None), torch.zeros(12, 3), None
    )
    assert not torch.isclose(one, swapped)  # other pairs are another loss


def test_vicreg_is_the_papers():
    torch.manual_seed(0)
    loss = TwoViewLoss(SelfSupervised(loss="vicreg", projection=(6,)), 5)
    embedding = torch.randn(20, 5)
    found = loss(Outputs(embedding, embedding, None), embedding, None)
    a, b = loss.projection(embedding).detach().double().chunk(2)
    variance = sum(functional.relu(1 - (x.var(0) + 1e-4).sqrt()).mean() / 2 for x in (a, b))
    covariance = sum(
        (np.cov(x.numpy().T) ** 2).sum() / 6 - (np.diag(np.cov(x.numpy().T)) ** 2).sum() / 6
        for x in (a, b)
    )
    assert found.item() == pytest.approx(
        float(25 * (a - b).square().mean() + 25 * variance) + covariance, rel=1e-5
    )


# what takes part
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_of_the_held_out_groups_takes_part(textures, tmp_path):
    taken = {}
    for images in ("labelled", "train", "all"):
        job = job_of(textures, tmp_path / images, [pretraining(self_supervised={"images": images})])
        taken[images] = set(images_without_labels(job).tolist())
        samples = job.store.samples
        assert len(job.valid) and not set(samples.experiment.iloc[sorted(taken[images])]) & set(
            job.held_out
        )
    outside = ~samples.experiment.isin(job.held_out)
    assert (
        taken["labelled"] == set(job.train.tolist())
        and (samples.role.iloc[job.train] == "treatment").all()
    )
    assert (
        taken["train"]
        == set(np.flatnonzero((samples.split == "train") & outside))
        > taken["labelled"]
    )
    assert taken["all"] == set(np.flatnonzero(outside)) > taken["train"]


@pytest.mark.slow
def test_views_come_in_pairs_of_one_image_drawn_apart(textures, tmp_path):
    job = job_of(textures, tmp_path, [pretraining(batches={"unit": "plate"})])
    pairs, samples = TwoViews(job, ALONE), job.store.samples
    plate = (samples.experiment + samples.plate.astype(str)).to_numpy()
    seen = []
    for batch in pairs.batches(3):
        index = np.array([number for _, number in batch])
        first, second = np.split(pairs.positions[index], 2)
        assert (
            (first == second).all()
            and len(set(plate[first])) == 1
            and {epoch for epoch, _ in batch} == {3}
        )
        seen += first.tolist()
    assert len(seen) > 0.9 * len(pairs.positions) / 2 and len(set(seen)) == len(seen)
    trainer = Trainer(job, ALONE, Stop())
    n = len(pairs.positions) // 2
    first, second = (trainer.training.draws(0, np.arange(start, start + n)) for start in (0, n))
    assert (np.abs(first.gain - second.gain).max(1) > 0).all() and (
        first.matrix != second.matrix
    ).any((1, 2)).mean() > 0.5


@pytest.mark.slow
def test_labels_are_never_looked_at(textures, tmp_path):
    found = []
    for name in ("true", "scrambled"):
        job = job_of(textures, tmp_path / name, [pretraining(epochs=1)])
        if name == "scrambled":
            samples = job.store.samples
            samples["label"] = samples.label.sample(frac=1, random_state=0).to_numpy()
        with Stop() as stop:
            Trainer(job, ALONE, stop).run()
        found.append(load_checkpoint(job.folder / "last.pt")["model"])
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"triplet": {}}, "triplet"),
        ({"class_weights": "sqrt"}, "class_weights"),
        ({"batches": {"labels": "balanced"}}, "batches.labels"),
        ({"augment": []}, "augment"),
        ({"batch_size": 1}, "batch_size"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(change, name):
    with pytest.raises(ValidationError, match=name):
        Stage(**(pretraining() | change))


@pytest.mark.slow
def test_a_protocol_says_what_trains(textures, tmp_path):
    with pytest.raises(InputError, match="write train"):
        job = job_of(
            textures,
            tmp_path,
            [pretraining(self_supervised={"images": "all"})],
            protocol="wilds",
            data={"controls": "all"},
        )
        images_without_labels(job)


# what comes of it
# --------------------------------------------------------------------------------------------------


def embed(job: Job, model: torch.nn.Module, positions: np.ndarray) -> np.ndarray:
    pixels = pixel_statistics(job.config, job.store, job.train)
    return predict_with(job, model, plan_reading(job, pixels, positions), embeddings=True)[
        "identity"
    ]


def accuracy_of_neighbours(job: Job, model: torch.nn.Module) -> float:
    """Wavelength of the held-out sites by the five nearest training sites."""
    wave = job.store.samples.label.astype("Int64") % 4
    gallery, query = (embed(job, model, positions) for positions in (job.train, job.valid))
    gallery, query = ((x - x.mean(0)) / (x.std(0) + 1e-6) for x in (gallery, query))
    found = KNeighborsClassifier(5, metric="cosine").fit(gallery, wave.iloc[job.train].astype(int))
    return found.score(query, wave.iloc[job.valid].astype(int))


@pytest.fixture(scope="module")
def learnt(textures, tmp_path_factory):
    """A pretraining, and a stage with labels that starts from it."""
    second = stage("labelled", init="previous", epochs=1)
    config = make_config(
        textures,
        tmp_path_factory.mktemp("learnt"),
        [pretraining(epochs=10, self_supervised={"images": "all"}), second],
        predict={"tta": 1},
    )
    train(config)
    return config


@pytest.mark.slow
def test_the_loss_falls_and_neighbours_beat_random_weights(learnt):
    job = jobs_of(learnt)[0]
    log = pd.read_csv(job.folder / "log.csv")
    assert log.train_loss.iloc[-1] < log.train_loss.iloc[0] - 0.3 and log.valid_loss.isna().all()
    torch.manual_seed(0)
    model = build_model(learnt.model, 6, job.outputs, SIDE, 4)
    before = accuracy_of_neighbours(job, model)
    model.load_state_dict(load_checkpoint(job.folder / "last.pt")["model"])
    after = accuracy_of_neighbours(job, model)
    # twice chance: of 64 sites, 4.6 standard deviations above it
    assert after > 0.5 and after > before, (before, after)


@pytest.mark.slow
def test_the_next_stage_starts_from_it_and_it_alone_predicts(learnt, tmp_path):
    first, second = jobs_of(learnt)
    state = load_checkpoint(first.folder / "last.pt")
    assert state["progress"]["finished"] and not [
        name for name in state["model"] if "projection" in name
    ]
    assert not (first.folder / "best.pt").exists() and (second.folder / "best.pt").exists()
    started = Trainer(second, ALONE, Stop()).model.state_dict()
    assert all(torch.equal(value, started[name]) for name, value in state["model"].items())
    assert [path.name for path in predict(learnt)] == ["fold0_labelled.npz"]
    # and another config, by model.weights
    weights = learnt.model.model_copy(update={"weights": first.folder / "last.pt"})
    loaded = build_model(weights, 6, 5, SIDE, 4).state_dict()
    assert all(
        torch.equal(value, state["model"][name])
        for name, value in loaded.items()
        if "backbone.fc" not in name
    )


@pytest.mark.slow
def test_it_goes_on_to_the_bit(textures, tmp_path, monkeypatch):
    stages = [pretraining(epochs=2, ema=0.9)]
    whole, broken = (job_of(textures, tmp_path / name, stages) for name in ("whole", "broken"))
    with Stop() as stop:
        Trainer(whole, ALONE, stop).run()
        trainer, update = Trainer(broken, ALONE, stop), Trainer._update

        def interrupted(self, share):
            update(self, share)
            stop.signal_number = 15 if self.progress["updates"] == 3 else None

        monkeypatch.setattr(Trainer, "_update", interrupted)
        with pytest.raises(Interrupted):
            trainer.run()
        monkeypatch.setattr(Trainer, "_update", update)
        stop.signal_number = None
        Trainer(broken, ALONE, stop).run()
    one, other = (load_checkpoint(job.folder / "last.pt") for job in (whole, broken))
    for part in ("model", "averaged"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())
