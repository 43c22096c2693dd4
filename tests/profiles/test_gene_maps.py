"""From wells to one profile a gene."""

import numpy as np
import pandas as pd
import pytest

from cellsignal.common.errors import InputError
from cellsignal.profiles.gene_maps import MapOptions, compound_doses, gene_names, make_gene_map
from cellsignal.profiles.profile_steps import Profiles, normalise_profiles


def profiles(**changes) -> Profiles:
    wells = pd.DataFrame(
        {
            "role": ["treatment"] * 6 + ["negative_control"],
            "treatment": ["A@1", "A@2", "B", "B", "C", None, "A"],
            "compound": ["A", "A", "B", "B", "C", "D", "A"],
            "experiment": "e",
            "plate": "p",
            "well": [f"A0{n}" for n in range(1, 8)],
        }
    ).assign(**changes)
    x = np.arange(14, dtype=np.float32).reshape(7, 2) ** 2
    return Profiles(x, wells, ("f0", "f1"))


def test_genes_are_the_treatments_without_their_concentration():
    assert list(gene_names(profiles().wells)) == ["A", "A", "B", "B", "C", "D", None]


def test_a_column_of_genes_and_the_modality_decide():
    changes = {
        "gene": ["g", "g", "h", "x|y", None, "i", "g"],
        "modality": ["crispr"] * 5 + ["COMPOUND", "crispr"],
    }
    assert list(gene_names(profiles(**changes).wells)) == ["g", "g", "h", None, None, None, None]


def test_wells_are_averaged_or_their_median_taken():
    loaded = profiles(treatment=["A", "A", "A", "B", "B", "C", "A"])
    made = make_gene_map(loaded, MapOptions())
    assert made.genes == ("A", "B", "C") and list(made.wells) == [3, 2, 1]
    np.testing.assert_allclose(made.x[0], loaded.x[:3].mean(0))
    median = make_gene_map(loaded, MapOptions("median", ["C"], 2))
    assert median.genes == ("A", "B")
    np.testing.assert_allclose(median.x[0], np.median(loaded.x[:3], axis=0))


def test_no_gene_left_and_unknown_names_are_refused():
    with pytest.raises(InputError, match="no gene has 9 treated wells"):
        make_gene_map(profiles(), MapOptions(least_wells=9))
    with pytest.raises(InputError, match="--drop-genes: none of Z is a gene"):
        make_gene_map(profiles(), MapOptions(dropped=["Z"]))


def test_compounds_are_averaged_by_concentration():
    kinds = ["compound", "Compound", "compound", "compound", "crispr", "crispr", "compound"]
    x, doses = compound_doses(profiles(modality=kinds))
    rows = list(doses.itertuples(index=False, name=None))
    assert rows == [("A", "1"), ("A", "2"), ("B", "")]
    np.testing.assert_allclose(x[2], profiles().x[2:4].mean(0))
    with pytest.raises(InputError, match="no well is of a compound"):
        compound_doses(profiles())


def test_the_first_components_are_scikit_learns():
    from sklearn.decomposition import PCA

    loaded = profiles()
    projected = normalise_profiles(loaded, ["pca"], components=1)
    np.testing.assert_allclose(projected.x, PCA(1).fit_transform(loaded.x), rtol=1e-5)
    assert projected.features == ("pc0",)
    assert normalise_profiles(loaded, ["pca"]).x.shape == (7, 2)
    with pytest.raises(InputError, match="--components"):
        normalise_profiles(loaded, ["pca"], components=0)
