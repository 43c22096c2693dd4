import numpy as np

from cellsignal.studies.coverage import assigned_probabilities as study


def test_propagation_comes_true_where_softmax_and_sinkhorn_do_not(monkeypatch):
    monkeypatch.setattr(study, "PLATES", ((20, 2.5, 0.0, 30), (20, 2.5, 1.0, 30)))
    table = study.assigned_probabilities()
    assert table.columns.tolist() == list(study.COLUMNS) and len(table) == 2
    plain = table.iloc[0]
    assert abs(plain["fitted"] - plain["right"]) < 0.04
    assert plain["right"] - plain["softmax"] > 0.05
    assert plain["error of fitted"] < plain["error of softmax"]


def test_wells_share_errors():
    rng = np.random.default_rng(0)
    (logits,) = study.draw_plates(200, 1.0, 3.0, 1, rng)
    logits = logits - np.eye(200)
    assert logits.mean(axis=0).std() > 2.5 and logits.std(axis=0).mean() < 1.2
