"""The ablation: that every row is another training, and that its figures are accuracies of wells on
the right experiments.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal
from sklearn.metrics import accuracy_score
from tiny import make_config, stage

from cellsignal.competitions.base import answers_path
from cellsignal.config import dump_config
from cellsignal.metrics.intervals import mean_interval
from cellsignal.prediction.container import load_predictions
from cellsignal.studies import rxrx1_final, rxrx1_simulated
from cellsignal.studies.rxrx1_simulated import Outcome, Runs
from cellsignal.studies.rxrx1_variants import (
    FINAL,
    REFERENCE,
    SEEDS,
    Variant,
    all_variants,
    wanted_runs,
)

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "rxrx1" / "ablation.yaml"


def test_every_row_is_another_recipe():
    runs = Runs(CONFIG, Path("answers.csv"))
    variants = [*all_variants(), FINAL]
    recipes = [runs.load(v, 0).model_dump_json(exclude={"name"}) for v in variants]
    assert len({v.name for v in variants}) == len(variants) == len(set(recipes))
    assert runs.load(next(v for v in variants if v.name == REFERENCE), 3).seed == 3
    assert all(
        config.folds.use == (0,) and not config.folds.full
        for config in (runs.load(v, 0) for v in variants)
    )
    wanted = wanted_runs()
    assert (
        len({(v.name, seed) for v, seed, _ in wanted})
        == len(wanted)
        == len(variants) * len(SEEDS) + 2
    )


def test_outcome_by_hand():
    experiment = np.array(["a", "a", "b", "b"])
    good = Outcome(np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool), experiment)
    bad = Outcome(np.array([[0, 1, 0, 0], [1, 0, 0, 0]], bool), experiment)
    assert good.accuracy == 5 / 8 and bad.accuracy == 2 / 8
    assert good.seeds_sd == pytest.approx(np.std([3 / 4, 2 / 4], ddof=1))
    gain, low, high = good.gain(bad)
    assert gain == 3 / 8 and np.isnan([low, high]).all()  # two experiments give no interval
    assert np.isnan(good.interval()).all()


@pytest.fixture(scope="module")
def runs(plates, tmp_path_factory) -> tuple[Runs, list[Variant]]:
    """Two seeds of one tiny variant, trained and predicted."""
    folder = tmp_path_factory.mktemp("ablation")
    config = make_config(plates, folder / "runs", [stage(epochs=1)], predict={"tta": 2})
    (folder / "config.yaml").write_text(dump_config(config))
    found = Runs(folder / "config.yaml", answers_path(plates / "raw"))
    variant = Variant("tiny", "tiny", ("stages.0.batch_size=16",))
    for seed in (0, 1):
        words = [
            word
            for change in (*variant.changes, "name=rxrx1_ablation_tiny", f"seed={seed}")
            for word in ("--set", change)
        ]
        for verb in ("train", "predict"):
            assert cellsignal(verb, folder / "config.yaml", *words, cwd=folder) == 0
    return found, [variant]


def test_an_outcome_is_scikit_learns_accuracy_of_wells(runs):
    found, (variant,) = runs
    truth = pd.read_csv(found.answers).astype(str).set_index("id_code").sirna
    for part in ("oof", "test"):
        outcome = found.outcome(variant, part, seeds=(0, 1), views=("identity",))
        for seed in (0, 1):
            (file,) = (found.load(variant, seed).run_folder / "predictions").glob("*.npz")
            member = load_predictions(file)
            mine = member.ids["part"] == part
            frame = pd.DataFrame(member.logits("identity")[mine].astype(np.float64)).groupby(
                member.ids["target_id"][mine]
            )
            logits = member.logits("identity")[mine].astype(np.float64)
            shares = (
                pd.DataFrame(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
                .groupby(member.ids["target_id"][mine])
                .mean()
            )
            true = (
                shares.index.map(truth).astype(int)
                if part == "test"
                else pd.Series(member.label[mine]).groupby(member.ids["target_id"][mine]).first()
            )
            assert outcome.right[seed].mean() == pytest.approx(
                accuracy_score(true, shares.to_numpy().argmax(1))
            )
            assert len(frame) == outcome.right.shape[1]
        assert set(outcome.unit) == set(
            found.samples.experiment[found.samples.split == "test"]
            if part == "test"
            else outcome.unit
        )
    merged = found.outcome(variant, "test", "hungarian", (0, 1), together=2)
    assert (
        merged.right.shape == (1, outcome.right.shape[1])
        and merged.accuracy > outcome.accuracy - 0.1
    )
    one = found.outcome(variant, "test", seeds=(0, 1), views=("identity",), sites=(1,))
    assert not np.array_equal(one.right, outcome.right)


def test_the_table_says_what_the_outcomes_are(monkeypatch):
    """Every variant but one gets the same outcome; its row, and no other, shows another figure."""
    experiment = np.repeat(list("abcd"), 5)

    def outcome(self, variant, part, assignment="none", *args, **options):
        right = np.zeros((3, 20), bool)
        right[
            :,
            : 18
            if variant.name == "cutmix" and part == "test"
            else 17
            if variant.name == "final"
            else 10,
        ] = True
        return Outcome(right, experiment)

    monkeypatch.setattr(Runs, "outcome", outcome)
    lines = rxrx1_simulated.table(Runs(CONFIG, Path("answers.csv"))).splitlines()
    assert [line for line in lines if "0.900" in line] == [
        line for line in lines if line.startswith("| CutMix")
    ]
    (cutmix,) = (line for line in lines if line.startswith("| CutMix"))
    assert "0.500 (0.000)" in cutmix and "+0.400" in cutmix
    final = [line for line in lines if "Hungarian | 0.5" in line]
    gain = np.repeat([0, 1, 0.0], [10, 7, 3])
    low, high = mean_interval(gain, experiment, bounded=False)
    assert len(final) == 2 and all(
        line.endswith(f"| +0.350 [{low:+.3f}, {high:+.3f}] | 0.70 |") for line in final
    )


def test_a_blend_of_equal_weights_is_the_ensemble(runs, monkeypatch):
    found, (variant,) = runs
    options = {"views": ("identity",)}
    monkeypatch.setattr(rxrx1_final, "CANDIDATES", (variant,))
    monkeypatch.setattr(rxrx1_final, "SEEDS", (0, 1))
    monkeypatch.setattr(rxrx1_final, "DIHEDRAL_VIEWS", options)
    blended = rxrx1_final._blend_outcomes(found, "equal")
    for kind in ("none", "hungarian"):
        both = found.outcome(variant, "test", kind, (0, 1), together=2, **options)
        assert np.array_equal(blended[kind].right, both.right)
    stacked = rxrx1_final._blend_outcomes(found, "stack")
    assert stacked["oof"].right.shape == blended["oof"].right.shape


def test_the_first_row_of_each_section_of_the_final_table_has_no_gain(monkeypatch):
    right = np.tile(np.arange(12) < 8, (3, 1))
    outcome = Outcome(right, np.repeat(list("abc"), 4))
    better = Outcome(right | (np.arange(12) == 8), outcome.unit)
    kinds = ("oof", "none", "hungarian")
    lines = rxrx1_final._rows(
        {"base": dict.fromkeys(kinds, outcome), "more": dict.fromkeys(kinds, better)}, "section"
    )
    assert lines[1].startswith("| base | 0.667 | 0.667") and lines[1].count("|  |") == 2
    assert "| more | 0.750 |" in lines[2] and lines[2].count("+0.083") == 2
