"""Data sets at the edge of what can be trained on, through every verb: each ends well or in one
line, never in a traceback.
"""

import pandas as pd
import pytest
from helpers import Workspace, cellsignal, write_config

from cellsignal.competitions import get_competition
from cellsignal.competitions.base import Competition

STAGE = {"name": "all", "epochs": 1, "batch_size": 8}


def _train(samples: pd.DataFrame) -> pd.DataFrame:
    return samples[(samples.split == "train") & (samples.role == "treatment")]


def _class_of(samples: pd.DataFrame) -> pd.Series:
    return samples["labels"].map(str) if "labels" in samples.columns else samples.label.astype(str)


def _of_classes(samples: pd.DataFrame, number: int) -> pd.DataFrame:
    train = _train(samples)
    names = _class_of(train)
    kept = train[names.isin(sorted(names.unique())[:number])]
    return samples[
        (samples.split != "train")
        | (samples.role != "treatment")
        | samples.sample_id.isin(kept.sample_id)
    ]


def _first_plate(samples: pd.DataFrame) -> pd.DataFrame:
    first = _train(samples).iloc[0]
    return samples[(samples.experiment == first.experiment) & (samples.plate == first.plate)]


EDGES = {
    "no sample": lambda samples: samples[:0],
    "one sample": lambda samples: _train(samples)[:1],
    "two samples": lambda samples: _train(samples)[:2],
    "two samples of two classes": lambda samples: _train(samples)[
        ~_class_of(_train(samples)).duplicated()
    ][:2],
    "one class": lambda samples: _of_classes(samples, 1),
    "two classes": lambda samples: _of_classes(samples, 2),
    "one plate": _first_plate,
    "one site a well": lambda samples: samples[~samples.well_id.duplicated()],
    "no test": lambda samples: samples[samples.split == "train"],
    "only test": lambda samples: samples[samples.split == "test"],
    "no controls": lambda samples: samples[samples.role == "treatment"],
    "one cell type": lambda samples: samples[samples.cell_type == samples.cell_type.iloc[0]],
}
VERBS = [
    ("folds", "{id}", "--root", "{root}", "--splits", "2", "--out", "folds.csv"),
    ("prepare", "config.yaml"),
    ("train", "config.yaml"),
    ("predict", "config.yaml"),
    ("score", "config.yaml"),
    ("submit", "config.yaml", "--out", "s.csv"),
    ("score", "s.csv", "--answers", "{answers}", "--competition", "{id}"),
    ("embed", "config.yaml"),
    ("profiles", "classify", "config.yaml"),
    ("study", "split-audit", "config.yaml"),
    ("profiles", "retrieve", "config.yaml", "--null-size", "100"),
    ("profiles", "match", "config.yaml"),
    ("profiles", "treatments", "config.yaml"),
    ("profiles", "rank", "config.yaml"),
]
QUICK = ("rxrx1", "idr0088_gpcr")  # the others are for `make test-slow`
CASES = [
    pytest.param(
        competition,
        edge,
        marks=()
        if competition in QUICK and edge in ("no sample", "two samples", "one class")
        else pytest.mark.slow,
    )
    for competition in (
        "rxrx1",
        "bbbc021",
        "bbbc021_full",
        "cpjump1",
        "cpjump1_course",
        "idr0088_gpcr",
        "idr0088_moa",
        "mitoreid",
    )
    for edge in EDGES
]


@pytest.mark.slow
@pytest.mark.parametrize(("competition", "edge"), CASES)
def test_every_verb_ends_well_or_in_a_line(
    simulated, tmp_path, monkeypatch, capsys, competition, edge
):
    root = simulated(competition)
    kind = type(get_competition(competition))
    whole = kind.samples

    def at_the_edge(self: Competition, root) -> pd.DataFrame:
        return EDGES[edge](whole(self, root)).reset_index(drop=True)

    monkeypatch.setattr(kind, "samples", at_the_edge)
    model = {"backbone": "test_resnet"}
    write_config(tmp_path, competition, root, stages=[STAGE], model=model, predict={"tta": 1})
    space = Workspace(competition, tmp_path, root)
    for verb, *words in VERBS:
        capsys.readouterr()
        status = cellsignal(
            verb,
            *(word.format(id=competition, root=root, answers=space.answers) for word in words),
            cwd=tmp_path,
        )
        error = capsys.readouterr().err
        assert status in (0, 2), (verb, status, error)
        if status == 2:
            lines = [line for line in error.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1 and error.endswith(f"{lines[0]}\n") and len(lines[0]) < 600, (
                verb,
                error,
            )
            print(f"{competition}, {edge}, {verb}: {lines[0]}")
        else:
            print(f"{competition}, {edge}, {verb}: well")
