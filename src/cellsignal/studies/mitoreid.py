"""What the parts of MitoReID are worth on simulated films: the steps of the published ablation,
beside IDE and hand-made features.

Every network trains on all drugs that are not kept for the test, and its last weights are scored:
nothing is picked on any figure. Those without pretraining have the reference's second stage alone;
one more of them trains on as many images as both stages see, for pretraining also is more training.
Queries of drugs that trained are scored as published, queries of drugs that no stage saw by the
strict protocol.
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
from cellsignal.competitions import get_competition
from cellsignal.config import Config, load_config
from cellsignal.data.store import Store
from cellsignal.evaluation.reid import reid
from cellsignal.metrics.accuracy import clustered_interval
from cellsignal.metrics.average_precision import average_precision_table
from cellsignal.prediction.embeddings import embed, load_embeddings
from cellsignal.prediction.gallery import class_scores, distances, scoring_tables, seen_compounds
from cellsignal.prediction.predict import predict
from cellsignal.profiles.clip_classifiers import CLASSIFIERS, classifier_scores, standardised
from cellsignal.profiles.image_features import read_features
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
        mAP. auc: (S,) macro one-against-the-rest ROC AUC. drug: (Q,) text.
    """

    figures: dict[str, np.ndarray]
    auc: np.ndarray
    drug: np.ndarray

    def mean(self, name: str) -> float:
        return float(self.figures[name].mean())

    def interval(self, name: str) -> tuple[float, float]:
        """95 % interval over drugs; all seeds and tracks of a drug stay together."""
        return clustered_interval(self.figures[name].mean(0), self.drug, seed=0)

    def gain(self, other: "Scored", name: str) -> tuple[float, float, float]:
        """How much better than `other` on the same queries, with the 95 % interval over drugs."""
        difference = self.figures[name].mean(0) - other.figures[name].mean(0)
        return float(difference.mean()), *clustered_interval(difference, self.drug, seed=0)


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
        self.reference = load_config(config)
        self.answers = answers
        self.seeds = tuple(seeds)
        self.processes = processes
        if len(self.reference.stages) != 2 or self.reference.stages[0].target != "compound":
            raise InputError(f"{config}: needs two stages, the first with target: compound")
        competition = get_competition(self.reference.competition)
        competition.task.require_ranking(str(config))
        if competition.frames == 1:
            raise InputError(f"{config}: {competition.id} has no clips to rank")
        root = self.reference.data.root
        self.gallery = competition.gallery(root)
        self.asked = competition.sample_submission(root)[competition.id_column].tolist()
        self.query, self.tracks = scoring_tables(
            competition, competition.answers(answers), self.asked, self.gallery
        )
        self.classes = competition.classes(root)
        jobs = jobs_of(self.reference)
        seen = set().union(
            *seen_compounds(
                jobs, dict(zip(self.query.target_id, self.query["compound"], strict=True))
            ).values()
        )
        new = ~self.query["compound"].isin(seen).to_numpy()
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
        """The config of a row."""
        tree = self.reference.model_dump(mode="json")
        network.change(tree)
        tree |= {"name": f"{self.reference.name}_{network.name}", "seed": seed}
        if network.longer:
            tree["stages"][0]["epochs"] = self.epochs
        return Config.model_validate(tree)

    def train(self) -> None:
        """Train and embed every row, so many at a time; what is there already is left as it is."""
        # the longest, so that none is left alone at the end
        first = sorted(NETWORKS, key=lambda network: not (network.longer or network is NETWORKS[0]))
        wanted = [self.load(network, seed) for network in first for seed in self.seeds]
        with ProcessPoolExecutor(self.processes, mp_context=get_context("spawn")) as pool:
            for number, job in enumerate([pool.submit(_one, config) for config in wanted], 1):
                job.result()
                log.info("%d of %d trainings", number, len(wanted))

    def network(self, network: Network) -> dict[str, Scored]:
        """A trained row's figures: part -> figures."""
        found: dict[str, list[tuple[dict[str, np.ndarray], float]]] = {
            part: [] for part in self.rows
        }
        for config in (self.load(network, seed) for seed in self.seeds):
            files = [load_embeddings(path) for path in embed(config)]
            space = distances(files, self.asked, self.gallery.target_id.tolist())
            scores, label = class_scores(config, get_competition(config.competition), self.query)
            for part, rows in self.rows.items():
                ranked = reid(
                    space.distance[rows], self.query.iloc[rows], self.tracks, PROTOCOL[part]
                )
                if ranked.skipped:
                    raise InputError(
                        f"{ranked.skipped} queries of {part} drugs have no match in the gallery; "
                        "they need two drugs a mechanism"
                    )
                figures = {
                    f"rank-{k}": (ranked.queries["first"] <= k).to_numpy(float) for k in (1, 5, 10)
                }
                figures |= {
                    "mAP": ranked.queries.average_precision.to_numpy(),
                    "accuracy": (scores[rows].argmax(1) == label[rows]).astype(float),
                }
                found[part].append((figures, self._auc(scores[rows], label[rows], rows)))
        return {part: self._scored(results, self.rows[part]) for part, results in found.items()}

    def hand_made(self) -> dict[str, dict[str, Scored]]:
        """Classifier -> part -> figures (accuracy and AUC) of hand-made features at every time
        point, trained on the same tracks.
        """
        store = Store.open(self.reference.data.store)
        samples = store.samples
        label = samples.label.to_numpy(dtype=np.int64, na_value=-1)
        train = self.trained[(samples.role == "treatment").to_numpy()[self.trained]]
        asked = pd.Index(samples.target_id).get_indexer(self.asked)
        frames = get_competition(self.reference.competition).frames
        features = read_features(
            samples.row.to_numpy()[np.r_[train, asked]], store.read, frames, self.processes
        )
        fitted = np.arange(len(features)) < len(train)
        x = standardised(features, fitted)
        truth = pd.Index(self.classes).get_indexer(self.query.label)
        found = {}
        for name in CLASSIFIERS:
            runs = [
                classifier_scores(
                    name, x[fitted], label[train], x[~fitted], len(self.classes), seed
                )
                for seed in self.seeds
            ]
            found[name] = {}
            for part, rows in self.rows.items():
                right = [
                    {"accuracy": (scores[rows].argmax(1) == truth[rows]).astype(float)}
                    for scores in runs
                ]
                aucs = [self._auc(scores[rows], truth[rows], rows) for scores in runs]
                found[name][part] = self._scored(list(zip(right, aucs, strict=True)), rows)
        return found

    def _auc(self, scores: np.ndarray, label: np.ndarray, rows: np.ndarray) -> float:
        from scipy.special import softmax

        truth = np.eye(len(self.classes))[label]
        drugs = self.query["compound"].to_numpy(object)[rows]
        return float(
            average_precision_table(truth, softmax(scores, axis=1), self.classes, drugs, 2)
            .iloc[0]
            .roc_auc
        )

    def _scored(
        self, results: list[tuple[dict[str, np.ndarray], float]], rows: np.ndarray
    ) -> Scored:
        names = results[0][0]
        figures = {name: np.stack([figures[name] for figures, _ in results]) for name in names}
        return Scored(
            figures,
            np.array([auc for _, auc in results]),
            self.query["compound"].to_numpy(object)[rows],
        )


def _one(config: Config) -> None:
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    train(config)
    embed(config)
    predict(config)


_FIGURES = ("rank-1", "rank-5", "rank-10", "mAP")
_TITLES = {
    KNOWN: "Queries of drugs that trained, ranked as published (same library and drug left out)",
    NEW: "Queries of drugs that no stage saw, ranked strictly (same drug left out in every library)",
}
_BEST = "ipp"


def timelapse_tables(timelapse: Timelapse) -> str:
    """Every row on the queries of known and of new drugs, then what each step is worth."""
    found = {network.name: timelapse.network(network) for network in NETWORKS}
    features = timelapse.hand_made()
    best = max(
        features,
        key=lambda name: (
            features[name][KNOWN].mean("accuracy") + features[name][NEW].mean("accuracy")
        ),
    )
    parts = [
        _part(
            timelapse,
            part,
            {name: rows[part] for name, rows in found.items()},
            {name: rows[part] for name, rows in features.items()},
        )
        for part in (KNOWN, NEW)
    ]
    return "\n\n".join([*parts, _steps({**found, _BEST: features[best]}, best)]) + "\n"


def _part(
    timelapse: Timelapse, part: str, networks: dict[str, Scored], features: dict[str, Scored]
) -> str:
    one = next(iter(networks.values()))
    title = f"{_TITLES[part]}: {len(one.drug)} queries of {len(set(one.drug))} drugs, {len(timelapse.classes)} mechanisms"
    seeds = f", mean of {len(timelapse.seeds)} seeds" if len(timelapse.seeds) > 1 else ""
    lines = [
        f"{title}{seeds}; 95 % intervals over drugs.",
        "",
        "| | accuracy | AUC | " + " | ".join(_FIGURES) + " |",
        "|---" * 7 + "|",
    ]
    for network in NETWORKS:
        row = networks[network.name]
        lines.append(
            f"| {network.title} | {_cell(row, 'accuracy')} | {row.auc.mean():.3f} | "
            + " | ".join(_cell(row, name) for name in _FIGURES)
            + " |"
        )
    for name, row in features.items():
        lines.append(
            f"| hand-made features, {name} | {_cell(row, 'accuracy')} | {row.auc.mean():.3f} | | "
            "| | |"
        )
    return "\n".join(lines)


def _steps(found: dict[str, dict[str, Scored]], best: str) -> str:
    lines = [
        "What each step is worth, on the same queries; 95 % intervals over drugs.",
        "",
        "| step | "
        + " | ".join(
            f"{part} drugs, {name}" for part in (KNOWN, NEW) for name in ("accuracy", "mAP")
        )
        + " |",
        "|---" * 5 + "|",
    ]
    for title, better, worse in STEPS:
        cells = []
        for part in (KNOWN, NEW):
            for name in ("accuracy", "mAP"):
                a, b = found[better][part], found[worse][part]
                cells.append(_gain(a, b, name) if name in a.figures and name in b.figures else "")
        lines.append(
            f"| {title}{f' ({best})' if worse == _BEST else ''} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _cell(row: Scored, name: str) -> str:
    low, high = row.interval(name)
    return f"{row.mean(name):.3f} [{low:.2f}, {high:.2f}]"


def _gain(a: Scored, b: Scored, name: str) -> str:
    gain, low, high = a.gain(b, name)
    return f"{gain:+.3f} [{low:+.2f}, {high:+.2f}]"
