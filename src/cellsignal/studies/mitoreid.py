"""Measure what the parts of MitoReID are worth on simulated films: docs/results/mitoreid.md.

The steps of the published ablation, beside IDE and hand-made features. Every network trains on all
drugs that are not kept for the test, and its last weights are scored: nothing is picked on any
figure. Those without pretraining have the reference's second stage alone; one more of them trains
on as many images as both stages see, for pretraining also is more training. Queries of drugs that
trained are scored as published, queries of drugs that no stage saw by the strict protocol.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.processes import end_with_parent
from cellsignal.competitions import get_competition
from cellsignal.config import Config, load_config
from cellsignal.data.store import Store
from cellsignal.evaluation.reid import reid
from cellsignal.metrics.average_precision import average_precision_table
from cellsignal.metrics.intervals import mean_interval
from cellsignal.prediction.embeddings import embed, load_embeddings
from cellsignal.prediction.gallery import class_scores, distances, scoring_tables, seen_compounds
from cellsignal.prediction.predict import predict
from cellsignal.profiles.clip_classifiers import CLASSIFIERS, classifier_scores, standardised
from cellsignal.profiles.image_features import read_features
from cellsignal.studies.seeds import mean_gain
from cellsignal.training.plan import jobs_of
from cellsignal.training.run import train

log = logging.getLogger(__name__)
KNOWN, NEW = "known", "new"  # queries of drugs that trained, and of drugs that no stage saw
PROTOCOL = {KNOWN: "published", NEW: "strict"}
_METRIC = ("triplet", "center", "batches", "label_smoothing")  # what IDE goes without

Tree = dict[str, Any]


def _no_pretraining(tree: Tree) -> None:
    tree["stages"] = tree["stages"][1:]
    tree["stages"][0]["init"] = "scratch"


def _time_halved(tree: Tree) -> None:
    _no_pretraining(tree)
    tree["model"]["keep_time"] = False


def _one_frame(tree: Tree) -> None:
    """The middle frame of each stain."""
    _time_halved(tree)
    frames = get_competition(tree["competition"]).frames
    stains = len(get_competition(tree["competition"]).channels) // frames
    tree["data"]["channels"] = [stain * frames + frames // 2 for stain in range(stains)]


def _identities_alone(tree: Tree) -> None:
    _no_pretraining(tree)
    tree["model"].update(bnneck=False, keep_time=False)
    for key in _METRIC:
        tree["stages"][0].pop(key)


@dataclass(frozen=True)
class Network:
    """One row: what differs from the reference's config."""

    name: str
    title: str
    change: Callable[[Tree], None]
    longer: bool = False  # trained on as many images as the reference's two stages


NETWORKS = (
    Network("mitoreid", "MitoReID: drug identities, then mechanisms", lambda tree: None),
    Network("no_pretraining", "no pretraining", _no_pretraining),
    Network("time_halved", "and time not kept", _time_halved),
    Network("no_time", "and no time: one frame", _one_frame),
    Network("ide", "IDE", _identities_alone),
    Network("longer", "no pretraining, as many images as with it", _no_pretraining, longer=True),
)
# (what a step is worth, the better and the worse row as published)
STEPS = (
    ("pretraining", "mitoreid", "no_pretraining"),
    ("pretraining, over as many images without", "mitoreid", "longer"),
    ("time kept", "no_pretraining", "time_halved"),
    ("time at all", "time_halved", "no_time"),
    ("MitoReID over IDE", "mitoreid", "ide"),
    ("IDE over the best hand-made features", "ide", "ipp"),
)


@dataclass(frozen=True)
class Scored:
    """One row on the queries of one part, S seeds.

    Attributes:
        figures: name -> (S, Q) of what is averaged over queries: accuracy, rank-1, rank-5, rank-10,
            mAP.
        auc: (S,) macro one-against-the-rest ROC AUC.
        drug: (Q,) text.
    """

    figures: dict[str, np.ndarray]
    auc: np.ndarray
    drug: np.ndarray

    def mean(self, name: str) -> float:
        """Return the mean of a figure over seeds and queries."""
        return float(self.figures[name].mean())

    def interval(self, name: str) -> tuple[float, float]:
        """Return the 95 % interval over drugs; all seeds and tracks of a drug stay together."""
        return mean_interval(self.figures[name].mean(0), self.drug)

    def gain(self, other: "Scored", name: str) -> tuple[float, float, float]:
        """Return the gain over `other` on the same queries, with its 95 % interval over drugs."""
        return mean_gain(self.figures[name], other.figures[name], self.drug)


class Timelapse:
    """The rows of one reference config.

    Args:
        config: file of the reference: two stages, the first of drug identities.
        answers: truth of the queries, for scoring alone.
        processes: trainings at a time, one thread each.
    """

    def __init__(
        self, config: Path, answers: Path, seeds: Sequence[int] = (0,), processes: int = 2
    ):
        self.reference, self.answers = load_config(config), answers
        self.seeds, self.processes = tuple(seeds), processes
        stages = self.reference.stages
        if len(stages) != 2 or stages[0].target == "label":
            raise InputError(f"{config}: needs two stages, the first with target: compound")
        competition, root = get_competition(self.reference.competition), self.reference.data.root
        competition.task.require_ranking(str(config))
        if competition.frames == 1:
            raise InputError(f"{config}: {competition.id} has no clips to rank")
        gallery = competition.gallery(root)
        self.gallery_ids = gallery.target_id.tolist()
        self.query_ids = competition.sample_submission(root)[competition.id_column].tolist()
        truth = competition.answers(answers)
        self.query, self.tracks = scoring_tables(competition, truth, self.query_ids, gallery)
        self.drugs = self.query["compound"].to_numpy(object)
        self.classes = competition.classes(root)
        jobs = jobs_of(self.reference)
        seen = seen_compounds(jobs, dict(zip(self.query.target_id, self.drugs, strict=True)))
        new = ~self.query["compound"].isin(set().union(*seen.values())).to_numpy()
        self.rows = {KNOWN: np.flatnonzero(~new), NEW: np.flatnonzero(new)}
        for part, rows in self.rows.items():
            if not len(rows):
                raise InputError(f"{config}: no query is of a {part} drug; simulate with new_drugs")
        first, second = jobs[:2]
        images = sum(len(job.train) * job.stage.epochs for job in (first, second))
        # of a row without pretraining: as many images in all
        self.epochs = round(images / len(second.train))
        self.trained = second.train

    def load(self, network: Network, seed: int) -> Config:
        """Return the config of a row."""
        tree = self.reference.model_dump(mode="json")
        network.change(tree)
        tree |= {"name": f"{self.reference.name}_{network.name}", "seed": seed}
        if network.longer:
            tree["stages"][0]["epochs"] = self.epochs
        return Config.model_validate(tree)

    def train(self) -> None:
        """Train and embed every row, so many at a time; finished ones are left as they are."""
        # the longest first, so that none is left alone at the end
        order = sorted(NETWORKS, key=lambda network: not (network.longer or network is NETWORKS[0]))
        configs = [self.load(network, seed) for network in order for seed in self.seeds]
        with ProcessPoolExecutor(self.processes, get_context("spawn"), end_with_parent) as pool:
            for number, job in enumerate(
                [pool.submit(_train_one, config) for config in configs], 1
            ):
                job.result()
                log.info("%d of %d trainings", number, len(configs))

    def network(self, network: Network) -> dict[str, Scored]:
        """Return a trained row's figures by part."""
        figures = {part: [] for part in self.rows}
        aucs = {part: [] for part in self.rows}
        for config in (self.load(network, seed) for seed in self.seeds):
            files = [load_embeddings(path) for path in embed(config)]
            distance = distances(files, self.query_ids, self.gallery_ids).distance
            scores, label = class_scores(config, get_competition(config.competition), self.query)
            for part, rows in self.rows.items():
                row = self._rank_figures(distance[rows], rows, part)
                row["accuracy"] = (scores[rows].argmax(1) == label[rows]).astype(float)
                figures[part].append(row)
                aucs[part].append(self._auc(scores[rows], label[rows], rows))
        return {part: self._scored(figures[part], aucs[part], part) for part in self.rows}

    def _rank_figures(
        self, distance: np.ndarray, rows: np.ndarray, part: str
    ) -> dict[str, np.ndarray]:
        ranked = reid(distance, self.query.iloc[rows], self.tracks, PROTOCOL[part])
        if ranked.skipped:
            raise InputError(
                f"{ranked.skipped} queries of {part} drugs have no match in the gallery; they need "
                "two drugs a mechanism"
            )
        first = ranked.queries["first"]
        figures = {f"rank-{k}": (first <= k).to_numpy(float) for k in (1, 5, 10)}
        return figures | {"mAP": ranked.queries.average_precision.to_numpy()}

    def hand_made(self) -> dict[str, dict[str, Scored]]:
        """Return classifier -> part -> accuracy and AUC of hand-made features.

        Features are of every time point; the classifiers train on the networks' tracks.
        """
        store = Store.open(self.reference.data.store)
        samples = store.samples
        label = samples.label.to_numpy(dtype=np.int64, na_value=-1)
        train = self.trained[(samples.role == "treatment").to_numpy()[self.trained]]
        query = pd.Index(samples.target_id).get_indexer(self.query_ids)
        frames = get_competition(self.reference.competition).frames
        rows = samples.row.to_numpy()[np.r_[train, query]]
        features = read_features(rows, store.read, frames, self.processes)
        fitted = np.arange(len(features)) < len(train)
        x = standardised(features, fitted)
        data = (x[fitted], label[train], x[~fitted], len(self.classes))
        truth = pd.Index(self.classes).get_indexer(self.query.label)
        results = {}
        for name in CLASSIFIERS:
            runs = [classifier_scores(name, *data, seed) for seed in self.seeds]
            results[name] = {}
            for part, rows in self.rows.items():
                right = [(scores[rows].argmax(1) == truth[rows]).astype(float) for scores in runs]
                aucs = [self._auc(scores[rows], truth[rows], rows) for scores in runs]
                figures = [{"accuracy": values} for values in right]
                results[name][part] = self._scored(figures, aucs, part)
        return results

    def _auc(self, scores: np.ndarray, label: np.ndarray, rows: np.ndarray) -> float:
        from scipy.special import softmax

        truth, shares = np.eye(len(self.classes))[label], softmax(scores, axis=1)
        table = average_precision_table(truth, shares, self.classes, self.drugs[rows])
        return float(table.iloc[0].roc_auc)

    def _scored(self, rows: list[dict[str, np.ndarray]], aucs: list[float], part: str) -> Scored:
        figures = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return Scored(figures, np.array(aucs), self.drugs[self.rows[part]])


def _train_one(config: Config) -> None:
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    train(config)
    embed(config)
    predict(config)
