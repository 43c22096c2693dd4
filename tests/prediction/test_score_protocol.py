"""WILDS on a simulated copy, from training to its table: what trains, what is scored, and the
figures by scikit-learn.
"""

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, error_line
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score
from tiny import make_config, make_plates, stage

from cellsignal.common.errors import InputError
from cellsignal.competitions.base import answers_path
from cellsignal.config import dump_config
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.sources import score_protocol
from cellsignal.training.plan import jobs_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wilds(tmp_path_factory):
    """A folder with a trained and predicted WILDS run, and its config."""
    plates = make_plates(tmp_path_factory.mktemp("wilds"), test_experiments=2)
    data = {"channels": [1, 2, 3], "controls": "train"}
    folds = {"file": plates / "folds.csv", "use": [], "full": True}
    config = make_config(
        plates,
        plates / "runs",
        [stage(epochs=1)],
        protocol="wilds",
        data=data,
        folds=folds,
        normalization={"by": "image"},
        predict={"tta": 2},
    )
    (plates / "config.yaml").write_text(dump_config(config))
    for verb in ("train", "predict"):
        assert cellsignal(verb, "config.yaml", cwd=plates) == 0
    return plates, config


def test_site_one_of_the_train_experiments_trains_controls_included(wilds):
    (job,) = jobs_of(wilds[1])
    samples = job.store.samples
    assert sorted(job.train) == list(
        np.flatnonzero((samples.split == "train") & (samples.site == 1))
    )
    assert not len(job.valid) and job.outputs == 10 and len(job.channels) == 3


def test_the_table_is_scikit_learns_accuracy_of_sites(wilds, capsys):
    plates, config = wilds
    (file,) = (config.run_folder / "predictions").glob("*.npz")
    found = load_predictions(file)
    assert len(found.classes) == 10 and found.classes[-1] == "control_9"
    from cellsignal.competitions import get_competition

    competition = get_competition("rxrx1")
    answers = competition.answers(answers_path(plates / "raw"))
    table = score_protocol([file], answers).set_index("part")
    truth = dict(zip(answers.id_code.astype(str), answers.sirna.astype(int), strict=True))
    predicted = sum(
        log_softmax(found.logits(view).astype(np.float32), axis=1) for view in found.views
    ).argmax(1)
    true = np.where(
        found.label >= 0, found.label, [truth.get(target, -1) for target in found.ids["target_id"]]
    )
    samples = competition.samples(plates / "raw").set_index("sample_id")
    parts = {"id_test": 2, "ood_validation": 1, "ood_test": 1}
    for part in parts:
        mine = found.ids["part"] == part
        assert (
            table.accuracy[part] == pytest.approx(accuracy_score(true[mine], predicted[mine]))
            and table.n[part] == mine.sum()
        )
        kept = samples.loc[found.ids["sample_id"][mine]]
        assert set(kept.role) == {"treatment", "positive_control", "negative_control"}
        assert set(kept.site) == ({2} if part == "id_test" else {1, 2})
    assert set(found.ids["part"]) == set(parts) and (true >= 0).all()
    assert (
        cellsignal("score", "config.yaml", "--answers", answers_path(plates / "raw"), cwd=plates)
        == 0
    )
    out = capsys.readouterr().out
    assert all(f"{table.accuracy[part]:.4f}" in out for part in parts)


def test_what_does_not_fit_is_refused_in_one_line(wilds, capsys, trained, tmp_path):
    plates, config = wilds
    assert "data.controls: the protocol 'wilds' scores control wells" in error_line(
        capsys,
        "train",
        "config.yaml",
        "--set",
        "data.controls=ignore",
        "--set",
        "name=x",
        cwd=plates,
    )
    assert "wild" in error_line(
        capsys, "train", "config.yaml", "--set", "protocol=wild", "--set", "name=x", cwd=plates
    )
    assert "data.channels: " in error_line(
        capsys, "train", "config.yaml", "--set", "data.channels=[7]", "--set", "name=x", cwd=plates
    )
    answers = answers_path(plates / "raw")
    assert "no predictions; run" in error_line(
        capsys, "score", "config.yaml", "--set", "name=x", "--answers", answers, cwd=plates
    )
    space = trained("rxrx1")
    assert "has none" in error_line(
        capsys, "score", "config.yaml", "--answers", space.answers, cwd=space.folder
    )
    (file,) = (config.run_folder / "predictions").glob("*.npz")
    few = pd.read_csv(answers).iloc[1:]
    few.to_csv(tmp_path / "few.csv", index=False)
    assert "no true label" in error_line(
        capsys, "score", "config.yaml", "--answers", tmp_path / "few.csv", cwd=plates
    )
    other = next((space.run_folder / "predictions").glob("*.npz"))
    with pytest.raises(InputError, match="was not predicted for a protocol"):
        score_protocol([other], few)
    with pytest.raises(InputError, match="predicts other samples"):
        score_protocol([file, other], few)
