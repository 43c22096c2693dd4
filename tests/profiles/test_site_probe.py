"""WILDS' protocol on a table of embeddings of the simulated RxRx1's sites."""

import re

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, error_line
from sklearn.linear_model import LogisticRegression

from cellsignal.common.errors import InputError
from cellsignal.competitions.rxrx1.simulate import plate_maps
from cellsignal.profiles.site_probe import probe_text, read_sites

TYPES = ("HEPG2", "HUVEC", "RPE", "U2OS")


def metadata() -> pd.DataFrame:
    """A row a site, as WILDS' metadata.csv, of plates placed as RxRx1's."""
    wells = plate_maps(0, 12, 2, 1, dict.fromkeys(TYPES, 2), dict.fromkeys(TYPES, 2))
    rows = pd.concat([wells.assign(site=site) for site in (1, 2)], ignore_index=True)
    rows["site_id"] = rows.id_code + "_" + rows.site.astype(str)
    return rows.rename(columns={"split": "dataset"}).drop(columns=["id_code"])


def embeddings(rows: pd.DataFrame, shift: float = 0.5) -> pd.DataFrame:
    """What the siRNA does, a shift of each experiment, and noise of each site."""
    rng = np.random.default_rng(0)
    effect = rng.normal(size=(15, 16))[rows.sirna]
    code = pd.factorize(rows.experiment)[0]
    x = (
        effect
        + shift * rng.normal(size=(code.max() + 1, 16))[code]
        + 0.3 * rng.normal(size=effect.shape)
    )
    return pd.DataFrame(x, columns=[f"feature_{n}" for n in range(16)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    rows = metadata()
    x = embeddings(rows)
    rows.to_csv(folder / "metadata.csv", index=False)
    pd.concat([rows[["site_id"]], x], axis=1).to_csv(folder / "embeddings.csv", index=False)
    pd.concat([rows, x], axis=1).sample(frac=1, random_state=0).to_csv(
        folder / "all.csv", index=False
    )
    return folder


def shares(text: str) -> dict[tuple[str, str], float]:
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {
        (cells[0], cells[1]): float(cells[4])
        for cells in lines
        if len(cells) > 4 and cells[2][0].isdigit()
    }


def test_parts_are_wilds_and_figures_are_scikit_learns(folder):
    sites = read_sites(folder / "embeddings.csv", ["feature_"], folder / "metadata.csv")
    rows = sites.rows
    assert set(rows.site[rows.part == "train"]) == {1} and set(
        rows.site[rows.part == "id_test"]
    ) == {2}
    assert set(rows.experiment[rows.part == "ood_validation"]) == {f"{name}-03" for name in TYPES}
    assert set(rows.experiment[rows.part == "ood_test"]) == {f"{name}-04" for name in TYPES}
    train = (rows.part == "train").to_numpy()
    x = (sites.x - sites.x[train].mean(0)) / sites.x[train].std(0)
    model = LogisticRegression(class_weight="balanced", max_iter=2000).fit(
        x[train], rows.label[train]
    )
    figures = shares(probe_text(sites))
    for part in ("id_test", "ood_validation", "ood_test"):
        own = (rows.part == part).to_numpy()
        expected = (model.predict(x[own]) == rows.label[own]).mean()
        assert figures[part, "images"] == pytest.approx(expected, abs=1e-3)
    # site 2 of a well stands where its site 1 does, so position tells the well in distribution
    # out of distribution it tells the controls alone, which stand on a fixed grid
    assert figures["id_test", "position only"] > 0.6 > 0.45 > figures["ood_test", "position only"]
    mean = np.mean([figures[f"ood_test, {name}", "images"] for name in TYPES])
    assert mean == pytest.approx(figures["ood_test", "images"], abs=1e-3)


def test_one_table_with_its_own_columns_gives_the_same(folder, capsys):
    joined = read_sites(folder / "embeddings.csv", ["feature_"], folder / "metadata.csv")
    words = ("--table", "all.csv", "--features", "feature_", "--out", "sites.csv")
    assert cellsignal("profiles", "probe", *words, cwd=folder) == 0
    figures = shares(capsys.readouterr().out)
    assert figures["ood_test", "images"] == pytest.approx(
        shares(probe_text(joined))["ood_test", "images"], abs=0.006
    )
    table = pd.read_csv(folder / "sites.csv")
    assert table.right[table.part == "ood_test"].mean() == pytest.approx(
        figures["ood_test", "images"], abs=1e-4
    )


def test_a_normalisation_takes_the_experiment_out(folder):
    rows = metadata()
    pd.concat([rows, embeddings(rows, 3.0)], axis=1).to_csv(folder / "far.csv", index=False)
    sites = read_sites(folder / "far.csv", ["feature_"], None)
    plain = shares(probe_text(sites, "centre"))["ood_test", "images"]
    centred = shares(probe_text(sites, "centre", how="centre"))["ood_test", "images"]
    assert centred > plain + 0.2


def test_the_strength_is_chosen_on_ood_validation(folder):
    sites = read_sites(folder / "all.csv", ["feature_"], None)
    text = probe_text(sites, strengths=(1e-6, 1.0))
    alone = {
        c: shares(probe_text(sites, strengths=(c,)))["ood_validation", "images"]
        for c in (1e-6, 1.0)
    }
    assert f"C {max(alone, key=alone.get):g}" in text
    without = sites.rows.part.replace("ood_validation", "")
    lacking = type(sites)(sites.x, sites.rows.assign(part=without), ())
    with pytest.raises(InputError, match="OOD validation; there is none"):
        probe_text(lacking, strengths=(1e-6, 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="site"), "no column of the site"),
        (lambda frame: frame.assign(feature_3=""), "row 2: feature feature_3 is not a finite"),
        (lambda frame: pd.concat([frame, frame[:1]]), "stands twice"),
        (lambda frame: frame.assign(site="x"), "site 'x' is not a number"),
        (lambda frame: frame.assign(site=1), "stands twice"),
        (lambda frame: frame[frame.dataset == "train"], "no site of the part ood_test"),
        (lambda frame: frame.assign(sirna=""), "row 2: sirna is empty"),
    ],
)
def test_a_table_that_is_wrong_is_one_line(folder, capsys, change, message):
    change(pd.read_csv(folder / "all.csv")).to_csv(folder / "bad.csv", index=False)
    words = ("--table", "bad.csv", "--features", "feature_", "--out", "no.csv")
    line = error_line(capsys, "profiles", "probe", *words, cwd=folder)
    assert message in line and "bad.csv" in line and not (folder / "no.csv").exists()


def test_sites_that_the_metadata_lacks_are_refused(folder, capsys):
    frame = pd.read_csv(folder / "metadata.csv")
    frame[1:].to_csv(folder / "short.csv", index=False)
    words = ("--table", "embeddings.csv", "--features", "feature_", "--metadata", "short.csv")
    line = error_line(capsys, "profiles", "probe", *words, cwd=folder)
    assert f"row 2: site_id {frame.site_id[0]!r} is not in short.csv" in line
