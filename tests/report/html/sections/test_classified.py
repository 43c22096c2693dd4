"""The report of a run whose embeddings were classified shows what that scores."""

import re

import numpy as np
import pytest
from helpers import cellsignal
from pages import read_page

from cellsignal.prediction.container import load_predictions

pytestmark = pytest.mark.slow


def test_scores_of_classified_embeddings_stand_beside_the_networks(trained, tmp_path):
    space = trained("rxrx1").copy(tmp_path / "space")
    frozen = [
        "--set",
        "model.frozen=true",
        "--set",
        "name=frozen",
        "--set",
        "submit.assignment=none",
    ]
    for words in (
        ["train", "config.yaml", *frozen],
        ["predict", "frozen"],
        ["profiles", "classify", "frozen", "--method", "linear"],
        ["report", "frozen"],
    ):
        assert cellsignal(*words, cwd=space.folder) == 0, words
    (folder,) = space.folder.glob("runs/frozen/seed*")
    right, wells = [], []
    for path in sorted(folder.glob("predictions_embeddings/*_linear.npz")):
        predictions = load_predictions(path)
        oof = predictions.ids["part"] == "oof"
        scores = predictions.logits("embedding")[oof]
        right += (scores.argmax(axis=1) == predictions.label[oof]).tolist()
        wells += predictions.ids["well_id"][oof].tolist()
    page = read_page(folder / "report" / "report.html")
    assert len(set(wells)) == len(wells), "targets of this competition are wells"
    accuracy = f"{np.mean(right):.3f}"
    card = f"Out-of-fold accuracy, linear on embeddings\n{accuracy}\n"
    assert card in page.text and "The network is frozen" in page.text
    assert "classified" in page.ids and re.search(rf"linear\s+out of fold\s+{accuracy}", page.text)

    (embeddings, *_) = sorted(folder.glob("embeddings/*.npz"))
    embeddings.write_bytes(embeddings.read_bytes() + b" ")
    assert cellsignal("report", "frozen", cwd=space.folder) == 0
    assert "was made from other embeddings" in read_page(folder / "report" / "report.html").text
