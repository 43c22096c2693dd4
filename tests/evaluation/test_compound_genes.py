"""Compounds and their targets, against scikit-learn's average precision and ROC AUC."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cellsignal.common.errors import InputError
from cellsignal.evaluation.compound_genes import Activity, compound_gene_table

GENES = [f"g{n:02d}" for n in range(40)]


def setting(likeness=0.0, seed=0):
    """Five compounds at two concentrations; each acts on three genes, and weakly on a fourth."""
    rng = np.random.default_rng(seed)
    genes = rng.normal(size=(40, 40))
    doses = pd.DataFrame(
        {"compound": np.repeat(list("abcde"), 2), "concentration": ["0.1", "1"] * 5}
    )
    rows = [
        (c, GENES[4 * n + k], [10, 100, 1000, 5000][k])
        for n, c in enumerate("abcde")
        for k in range(4)
    ]
    rows += [("other", gene, 1.0) for gene in GENES]
    known = pd.DataFrame(rows, columns=["compound", "gene", "nm"])
    targets = np.stack([genes[4 * n : 4 * n + 3].sum(0) for n in range(5)])
    compounds = likeness * np.repeat(targets, 2, axis=0) + rng.normal(size=(10, 40))
    return compounds, doses, genes, GENES, known


def test_with_all_others_drawn_the_figures_are_scikit_learns():
    compounds, doses, genes, symbols, known = setting(0.3)
    table = compound_gene_table(compounds, doses, genes, symbols, known, Activity(negatives=36))
    cosine = np.abs(compounds @ genes.T) / np.outer(
        np.linalg.norm(compounds, axis=1), np.linalg.norm(genes, axis=1)
    )
    for n, name in enumerate("abcde"):
        used = np.array([g for g in range(40) if g != 4 * n + 3])  # the fourth is neither
        truth = np.isin(used, range(4 * n, 4 * n + 3))
        scores = {
            "0.1": cosine[2 * n],
            "1": cosine[2 * n + 1],
            "max": cosine[2 * n : 2 * n + 2].max(0),
        }
        own = table[table["compound"] == name].set_index("concentration")
        for level, values in scores.items():
            assert own.ap[level] == pytest.approx(average_precision_score(truth, values[used]))
            assert own.auc[level] == pytest.approx(roc_auc_score(truth, values[used]))
    assert list(table.targets.unique()) == [3] and list(table.others.unique()) == [36]


def test_drawn_others_come_near_the_mean_over_draws():
    arguments = setting(0.5)
    many = compound_gene_table(*arguments, Activity(draws=3000, seed=1))
    few = compound_gene_table(*arguments, Activity(draws=3000, seed=2))
    assert many.ap.to_numpy() == pytest.approx(few.ap.to_numpy(), abs=0.02)
    assert (many.others == 20).all()
    # a share of pairs in the right order does not depend on how many others there are, on average
    every = compound_gene_table(*arguments, Activity(negatives=36))
    assert many.auc.to_numpy() == pytest.approx(every.auc.to_numpy(), abs=0.01)
    # precision does: of one compound, by scikit-learn
    compounds, _, genes, *_ = arguments
    scores = np.abs(compounds[0] @ genes.T) / np.linalg.norm(genes, axis=1)
    rng, truth, drawn = np.random.default_rng(3), np.arange(23) < 3, []
    for _ in range(600):
        rows = np.concatenate([np.arange(3), 4 + rng.choice(36, 20, replace=False)])
        drawn.append(average_precision_score(truth, scores[rows]))
    own = many[(many["compound"] == "a") & (many.concentration == "0.1")]
    assert own.ap.item() == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(600))


def test_targets_are_found_and_noise_is_at_chance():
    found = compound_gene_table(*setting(1.0))
    assert found.ap.mean() > 0.7
    noise = pd.concat([compound_gene_table(*setting(0.0, seed)) for seed in range(30)])
    noise = noise[noise.concentration != "max"]
    assert noise.ap.mean() == pytest.approx(noise.chance.mean(), abs=0.03)
    assert noise.auc.mean() == pytest.approx(0.5, abs=0.03)


def test_no_compound_with_targets_is_refused():
    compounds, doses, genes, symbols, known = setting()
    with pytest.raises(InputError, match="no compound has a target"):
        compound_gene_table(compounds, doses, genes, symbols, known[known["compound"] == "other"])
    with pytest.raises(InputError, match="100 other genes"):
        compound_gene_table(compounds, doses, genes, symbols, known, Activity(negatives=100))
