"""Measure oversampling before and after the split with a config's own network.

`oversampling.audit` does the same with classifiers that take seconds. Here the first stage of the
config is trained from scratch, on the images and on pure noise under the same labels, by the
trainer that trains everything else, on lists of images that repeat as the order says. The last
weights are scored, after a number of epochs fixed beforehand, so no validation figure chose
anything.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest
from cellsignal.common.stopping import Stop
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.config.stage import Stage
from cellsignal.data.folds import FoldTable
from cellsignal.data.store import Store
from cellsignal.prediction.predict import predictor_of
from cellsignal.studies.oversampling.audit import (
    OversamplingAudit,
    in_order,
    measure,
    measure_positions,
)
from cellsignal.studies.oversampling.deals import ORDERS, Deal, deal_all, top_classes
from cellsignal.training.checkpoints import load_checkpoint
from cellsignal.training.job import Job, kept_samples
from cellsignal.training.ranks import this_process
from cellsignal.training.run import is_finished
from cellsignal.training.trainer import Trainer

log = logging.getLogger(__name__)
ON_NOISE = ("before", "after")  # held-out wells of noise would only show chance a second time


@dataclass(frozen=True, eq=False)
class NoiseStore:
    """A store's samples with bytes of pure noise for pixels, the same whenever a row is read."""

    like: Store
    seed: int

    @property
    def samples(self) -> pd.DataFrame:
        return self.like.samples

    @property
    def channels(self) -> tuple[str, ...]:
        return self.like.channels

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.like.shape

    def threads(self, workers: int) -> int:
        return self.like.threads(workers)

    @property
    def mean(self) -> np.ndarray:
        """Return (N, C) float32 of uniform bytes."""
        return np.full_like(self.like.mean, 255 / 2)

    @property
    def sd(self) -> np.ndarray:
        """Return (N, C) float32 of uniform bytes."""
        return np.full_like(self.like.sd, ((256**2 - 1) / 12) ** 0.5)

    def read(
        self, row: int, out: np.ndarray | None = None, rows: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Read (C, H, W) uint8 as `Store.read` does, into `out` where given."""
        noise = np.random.default_rng([self.seed, row]).integers(0, 256, self.shape, dtype=np.uint8)
        if out is None:
            return noise
        np.copyto(out, noise)
        return out


def bench_oversampling(
    config: Config,
    *,
    epochs: int | None = None,
    classes: int | None = 50,
    orders: Sequence[str] = tuple(ORDERS),
) -> list[OversamplingAudit]:
    """Train the config's first stage in every order, and score it beside the wells' positions.

    On images and, in the orders `ON_NOISE`, on noise. What is trained stays in
    `<runs>/oversampling`; a second call resumes where the first was stopped.

    Args:
        epochs: of each training; None: the stage's own.
        classes: so many classes with most images, as the network's outputs; None: all.
        orders: of `ORDERS`; those that the samples do not allow (one plate, say) are left out.

    Raises:
        InputError: a store that cannot be used, an unknown order, too few labelled images.
        Interrupted: stopped by a signal with everything saved.
    """
    unknown = [order for order in orders if order not in ORDERS]
    if unknown:
        raise InputError(f"oversampling: no order {unknown[0]!r}; there are {', '.join(ORDERS)}")
    store = Store.open(config.data.store)
    chosen = top_classes(store.samples[kept_samples(config, store)], classes)
    names, label = np.unique(chosen.label.to_numpy(dtype=int), return_inverse=True)
    chosen = chosen.assign(label=pd.array(label, "Int64"))  # as many outputs as classes
    store, outputs = replace(store, samples=chosen), tuple(_class_names(store, names))
    deals = [deal for deal in deal_all(chosen, config.seed) if deal.order in orders]
    on_noise = [deal for deal in deals if deal.order in ON_NOISE]
    stage, rows = _stage(config, epochs), chosen.row.to_numpy()
    noise, checksum = NoiseStore(store, config.seed), store.checksum[rows]
    classifier = f"{config.model.backbone}, {stage.epochs} epochs"
    audits = []
    for data, source, content, used in (
        ("images", store, checksum, deals),
        ("noise", noise, rows, on_noise),
    ):

        def predict(deal: Deal, source: Store = source, data: str = data) -> np.ndarray:
            return _train_and_predict(_job(config, stage, source, outputs, deal, data), deal)

        audits += measure(chosen, [used], predict, data, classifier, content)
    return in_order(audits + measure_positions(chosen, [deals], checksum))


def _class_names(store: Store, labels: np.ndarray) -> list[str]:
    """Return the names of labels: the treatments' classes, then the controls'."""
    known = store.source["classes"]
    return [known[label] if label < len(known) else f"control_{label}" for label in labels]


def _stage(config: Config, epochs: int | None) -> Stage:
    """Return the first stage for one model and fixed epochs, with no test wells or validation."""
    fixed = {"per": "all", "early_stopping": None, "pseudo_labels": None, "monitor": "loss"}
    stage = config.stages[0].model_dump(mode="json") | fixed
    return Stage.model_validate(stage | {"epochs": epochs or stage["epochs"]})


def _job(
    config: Config, stage: Stage, store: Store, classes: tuple[str, ...], deal: Deal, data: str
) -> Job:
    """Make the job that trains on the deal's rows, repeats included.

    It has no validation part: the trainer's own is by target, the course's figure by image.
    """
    real = store.like if isinstance(store, NoiseStore) else store
    changes = {"stages": (stage,), "protocol": None, "runs": config.runs / "oversampling"}
    changed = config.model_copy(update=changes)
    made_from = [
        changed.model_dump(mode="json", include={"seed", "normalization", "model", "stages"}),
        changed.data.channels,
        changed.data.pipeline,
        real.info["arrays_digest"],
        real.samples.sample_id.to_list(),
        classes,
        deal.train.tolist(),
    ]
    name = f"{config.name}_{deal.order.replace(' ', '_')}_{data}_{digest(made_from)[:8]}"
    nothing = np.zeros(0, np.int64)
    no_folds = pd.DataFrame({"fold": nothing, "well_id": pd.Series(dtype=object)})
    return Job(
        changed.model_copy(update={"name": name}),
        get_competition(config.competition),
        store,
        classes,
        FoldTable("well_id", no_folds),
        stage_index=0,
        key="all",
        fold=None,
        train=deal.train,
        valid=nothing,
        test=nothing,
        outputs=len(classes),
    )


def _train_and_predict(job: Job, deal: Deal) -> np.ndarray:
    """Predict a label for each row of `deal.valid`, (V,); a finished training is reused."""
    images, back = np.unique(deal.valid, return_inverse=True)
    train = f"{len(deal.train)} training rows ({len(np.unique(deal.train))} images)"
    log.info("%s: %s, %d validation rows", job.config.name, train, len(deal.valid))
    with Stop() as stop:
        if not is_finished(job):
            Trainer(job, this_process(), stop).run()
        stop.check(job.title)
    predictor = predictor_of(job, load_checkpoint(job.folder / "last.pt"))
    return predictor(images, ("identity",))["identity"].argmax(axis=1)[back]
