"""The ablation on simulated films in small: what each row changes, and its figures against loops
over what the runs wrote.
"""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from tiny import stage

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv, write_text
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import make_folds
from cellsignal.competitions.mitoreid.simulate import simulate_mitoreid
from cellsignal.config import Config, dump_config
from cellsignal.data.pack import prepare
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.embeddings import load_embeddings
from cellsignal.profiles.clip_classifiers import CLASSIFIERS
from cellsignal.studies.mitoreid import KNOWN, NETWORKS, NEW, Scored, Timelapse
from cellsignal.studies.mitoreid_tables import timelapse_tables

pytestmark = pytest.mark.slow
COMPETITION = get_competition("mitoreid")
SEEDS = (0, 1)


def reference(place, **more) -> Config:
    metric = {
        "label_smoothing": 0.1,
        "batch_size": 4,
        "batches": {"images": 2},
        "triplet": {"mining": "hard"},
        "center": {"lr": 0.05},
    }
    stages = [
        stage("drugs", target="any_compound", epochs=1, **metric),
        stage("mechanisms", init="previous", epochs=2, **metric),
    ]
    return Config.model_validate(
        {
            "name": "small",
            "competition": "mitoreid",
            "runs": place / "runs",
            "folds": {"file": place / "folds.csv", "use": [], "full": True},
            "data": {
                "root": place / "mitoreid",
                "store": place / "store.zarr",
                "controls": "train",
                "workers": 0,
            },
            "model": {"backbone": "resnet3d18", "base_width": 4, "keep_time": True, "bnneck": True},
            "stages": stages,
            "predict": {"tta": 1},
        }
        | more
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("timelapse")
    simulate_mitoreid(
        place / "mitoreid",
        1,
        moas=2,
        drugs_per_moa=2,
        new_drugs=1,
        unchosen=1,
        libraries=1,
        train=2,
        novel_drugs=0,
        natural=0,
        size=16,
    )
    prepare(COMPETITION, place / "mitoreid", place / "store.zarr", size=16)
    write_csv(
        place / "folds.csv", make_folds(COMPETITION.samples(place / "mitoreid"), "compound", 2)
    )
    write_text(place / "config.yaml", dump_config(reference(place)))
    return place


@pytest.fixture(scope="module")
def timelapse(place):
    runs = Timelapse(place / "config.yaml", place / "mitoreid.answers.csv", SEEDS, processes=2)
    runs.train()
    return runs


def test_rows_differ_from_the_reference_in_what_they_say(timelapse):
    configs = {network.name: timelapse.load(network, 0) for network in NETWORKS}
    assert configs["mitoreid"].stages == timelapse.reference.stages
    for name, config in configs.items():
        assert (len(config.stages) == 2) == (name == "mitoreid") and config.model.keep_time == (
            name in ("mitoreid", "no_pretraining", "longer")
        )
        assert (config.data.channels is not None) == (name == "no_time") and (
            config.stages[-1].triplet is None
        ) == (name == "ide")
    assert (
        configs["no_time"].data.channels == (8, 24, 40)
        and not configs["ide"].model.bnneck
        and configs["ide"].stages[0].label_smoothing == 0
    )
    # 2 x 2 x 2 labelled tracks, 4 of DMSO, and 2 x 1 x 2 unchosen in the first stage: 16 + 2 x 12
    # images are 3.33 epochs of 12
    assert timelapse.epochs == 3 and configs["longer"].stages[0].epochs == 3
    assert {config.stages[-1].epochs for name, config in configs.items() if name != "longer"} == {2}


def test_the_figures_are_those_of_loops_over_what_the_runs_wrote(timelapse):
    answers = COMPETITION.answers(timelapse.answers).set_index("query_id")
    gallery = COMPETITION.gallery(timelapse.reference.data.root)
    classes = list(COMPETITION.classes(timelapse.reference.data.root))
    row = next(network for network in NETWORKS if network.name == "no_pretraining")
    found = timelapse.network(row)
    new = {"5", "6"}
    assert set(found[NEW].drug) == new and set(found[KNOWN].drug) == {"1", "2", "3", "4"}
    for part, scored in found.items():
        for number, seed in enumerate(SEEDS):
            folder = timelapse.load(row, seed).run_folder
            file = load_embeddings(next(folder.glob("embeddings/*.npz")))
            member = load_predictions(next(folder.glob("predictions/*.npz")))
            unit = pd.DataFrame(file.values.astype(float), index=file.samples.sample_id)
            unit = unit.div(np.linalg.norm(unit, axis=1), axis=0)
            logits = pd.DataFrame(
                member.logits("identity").astype(float), index=member.ids["target_id"]
            )
            precision, first, right = [], [], []
            asked = [
                name
                for name in timelapse.query_ids
                if (answers["compound"][name] in new) == (part == NEW)
            ]
            for name in asked:
                left_out = (gallery.drug == answers["compound"][name]) & (
                    (gallery.library == answers.experiment[name]) | (part == NEW)
                )
                near = unit.loc[gallery.target_id].to_numpy() @ unit.loc[name].to_numpy()
                match = (gallery.moa == answers.moa[name]).to_numpy()
                precision.append(average_precision_score(match[~left_out], near[~left_out]))
                first.append(match[~left_out][near[~left_out].argmax()])
                right.append(logits.loc[name].argmax() == classes.index(answers.moa[name]))
            np.testing.assert_allclose(scored.figures["mAP"][number], precision)
            np.testing.assert_array_equal(scored.figures["rank-1"][number], first)
            np.testing.assert_array_equal(scored.figures["accuracy"][number], right)
            truth = [classes.index(answers.moa[name]) for name in asked]
            assert scored.auc[number] == pytest.approx(
                roc_auc_score(truth, logits.loc[asked].to_numpy() @ [-1, 1])
            )


def test_the_tables_have_every_row_and_every_step(timelapse):
    text = timelapse_tables(timelapse)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 * (1 + len(NETWORKS) + len(CLASSIFIERS)) + 1 + 6
    assert (
        "4 queries of 4 drugs" in text
        and "2 queries of 2 drugs" in text
        and "mean of 2 seeds" in text
    )


def test_a_gain_is_the_mean_difference_over_the_same_queries():
    one, other = (
        Scored({"mAP": np.array(values)}, np.zeros(2), np.array(["a", "b", "c"]))
        for values in ([[1, 0.5, 0], [1, 1, 1]], [[0, 0, 0], [0, 0, 1]])
    )
    gain, low, high = one.gain(other, "mAP")
    assert (
        gain == pytest.approx((1 + 0.75 + 0) / 3)
        and low <= gain <= high
        and one.mean("mAP") == pytest.approx(4.5 / 6)
    )


def test_what_cannot_be_measured_is_refused(place):
    write_text(place / "one.yaml", dump_config(reference(place, stages=[stage("mechanisms")])))
    with pytest.raises(InputError, match="needs two stages"):
        Timelapse(place / "one.yaml", place / "mitoreid.answers.csv")
