"""The parts of a protocol, scored on predictions made by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score

from cellsignal.common.errors import InputError
from cellsignal.prediction.container import load_predictions, save_predictions
from cellsignal.prediction.sources import score_protocol

PARTS = ("id_test", "ood_validation", "ood_test")
CLASSES = ["0", "1", "2", "control_3"]


def write(path, seed, names=None, **about):
    """30 samples; the first ten are controls of class 3, whose label is known."""
    rng = np.random.default_rng(seed)
    ids = [f"w{n:02d}" for n in range(30)] if names is None else names
    samples = pd.DataFrame(
        {
            **dict.fromkeys(("sample_id", "target_id", "well_id"), ids),
            **{"experiment": "E", "plate": "1", "cell_type": "C", "site": 1},
            "label": pd.array([3] * 10 + [pd.NA] * 20, dtype="Int64"),
        }
    )
    logits = {view: 3 * rng.normal(size=(30, 4)) for view in ("identity", "hflip")}
    facts = {"competition": "rxrx1", "classes": CLASSES, "protocol": "wilds", "run": "r"}
    save_predictions(path, samples, np.resize(PARTS, 30), logits, facts | about)
    return path


def test_models_and_views_are_averaged_and_controls_count(tmp_path):
    files = [write(tmp_path / f"{seed}.npz", seed) for seed in (1, 2)]
    answers = pd.DataFrame(
        {"id_code": [f"w{n:02d}" for n in range(10, 30)], "sirna": np.arange(20) % 3}
    )
    table = score_protocol(files, answers).set_index("part")
    true = np.array([3] * 10 + list(answers.sirna))
    scores = np.zeros((30, 4))
    for file in map(load_predictions, files):
        scores += np.mean([log_softmax(file.logits(view), axis=1) for view in file.views], axis=0)
    assert list(table.index) == list(PARTS)
    for number, part in enumerate(PARTS):
        rows = slice(number, None, 3)
        assert table.accuracy[part] == accuracy_score(true[rows], scores.argmax(1)[rows])
        assert table.n[part] == 10


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    answers = pd.DataFrame({"id_code": ["w10"], "sirna": [0]})
    first = write(tmp_path / "a.npz", 0)
    for more, named in (
        ({"names": [f"x{n:02d}" for n in range(30)]}, r"b\.npz: predicts other samples than"),
        ({"protocol": None}, r"b\.npz: predicts other samples than"),
    ):
        other = write(tmp_path / "b.npz", 0, **more)
        with pytest.raises(InputError, match=named):
            score_protocol([first, other], answers)
    plain = write(tmp_path / "c.npz", 0, protocol=None)
    with pytest.raises(InputError, match=r"c\.npz: was not predicted for a protocol with parts"):
        score_protocol([plain], answers)
