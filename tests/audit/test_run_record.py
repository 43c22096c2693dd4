"""What a real run wrote passes; the same run under other folds, or with changed records, fails."""

import json

import pandas as pd
import pytest
from helpers import cellsignal, error_line, replace

pytestmark = pytest.mark.slow


@pytest.fixture
def run(trained, tmp_path):
    return trained("rxrx1").copy(tmp_path / "run")


def severities(space, check, *words):
    status = cellsignal("audit", "config.yaml", *words, "--out", "findings.json", cwd=space.folder)
    findings = json.loads((space.folder / "findings.json").read_text())["findings"]
    return status, [f["severity"] for f in findings if f["check"] == check]


def test_a_run_under_its_own_folds_passes(run):
    status, found = severities(run, "what a checkpoint held out")
    assert status == 0 and found == ["pass"]


def test_a_run_of_other_folds_trained_on_what_is_validated(run):
    path = run.folder / "folds.csv"
    table = pd.read_csv(path)
    replace(path, table.assign(fold=1 - table.fold).to_csv(index=False))
    status, found = severities(run, "what a checkpoint held out")
    assert status == 1 and found == ["fail"]


def test_pixel_statistics_of_all_wells_are_seen(run):
    """`by: global` over held-out wells, as a checkpoint would show it."""
    import torch

    from cellsignal.data.store import Store

    words = ("--set", "normalization.by=global")
    assert severities(run, "pixel statistics of a checkpoint", *words) == (0, ["pass"])
    store = Store.open(run.folder / "store")
    overall = store.mean.mean(axis=0).tolist()
    for path in run.run_folder.glob("fold0/*/*/last.pt"):
        state = torch.load(path, weights_only=True)
        path.unlink()
        torch.save(state | {"overall": [overall, state["overall"][1]]}, path)
    assert severities(run, "pixel statistics of a checkpoint", *words) == (1, ["fail"])


def test_a_damaged_checkpoint_is_one_line(run, capsys):
    path = next(run.run_folder.glob("fold0/*/*/last.pt"))
    replace(path, b"nothing")
    assert str(path.relative_to(run.folder)) in error_line(
        capsys, "audit", "config.yaml", cwd=run.folder
    )
