"""`cellsignal explore`: one page of a data set, whose counts are those of its table."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, error_line
from pages import Page, read_page

from cellsignal.competitions import get_competition
from cellsignal.config import load_config
from cellsignal.report.html.explore.intensity import intensity, shares_between
from cellsignal.report.html.explore.layouts import layouts
from cellsignal.report.html.explore.look import Look
from cellsignal.report.html.page import Section, page

pytestmark = pytest.mark.slow


def test_the_page_counts_what_the_table_holds_and_draws_the_augmentation(prepared, tmp_path):
    space, out = prepared("rxrx1"), tmp_path / "page.html"
    words = ["explore", "rxrx1", "--root", space.root, "--config", "config.yaml", "--out", out]
    assert cellsignal(*words, cwd=space.folder) == 0
    seen = read_page(out)
    samples = get_competition("rxrx1").samples(space.root)
    wells = samples.drop_duplicates("well_id")
    assert f"\nWells\n{len(wells):,}\n" in seen.text
    assert f"\nExperiments\n{wells.experiment.nunique()}\n" in seen.text
    sections = {"overview", "labels", "layouts", "images", "intensity", "augmentation"}
    assert sections <= set(seen.ids) and "rotate90" in seen.text
    assert any("augmented copies" in alt for alt in seen.alts)


def test_without_a_config_files_are_read_and_the_page_says_what_shows_augmentation(
    simulated, tmp_path
):
    out = tmp_path / "page.html"
    words = ["explore", "rxrx1", "--root", simulated("rxrx1"), "--images", "12", "--out", out]
    assert cellsignal(*words, cwd=tmp_path) == 0
    seen = read_page(out)
    assert "not drawn: --config CONFIG" in seen.text and "12 images" in " ".join(seen.alts)


def test_brightness_of_the_store_is_that_of_the_files(prepared):
    space = prepared("rxrx1")
    competition = get_competition("rxrx1")
    read = Look(competition, space.root, most=20).intensities
    config = load_config(space.folder / "config.yaml")
    stored = {"store": space.folder / "store"}
    config = config.model_copy(update={"data": config.data.model_copy(update=stored)})
    every = Look(competition, space.root, config).intensities
    assert len(read) == 20 and len(every) == len(competition.samples(space.root))
    columns = [f"mean{channel}" for channel in range(6)]
    for row in read[columns].to_numpy():
        assert np.abs(every[columns].to_numpy() - row).max(axis=1).min() < 0.01


def test_layouts_name_the_class_of_each_treated_well(simulated):
    look = Look(get_competition("rxrx1"), simulated("rxrx1"))
    text = layouts(look)
    assert Page(page("t", "l", [Section("a", text, "a")])).faults == []
    named = dict(re.findall(r"<title>([A-P]\d\d), (\d+)</title>", text.split("</figure>")[1]))
    first = look.wells.sort_values(["experiment", "plate"]).iloc[0]
    plate = look.wells[
        (look.wells.experiment == first.experiment) & (look.wells.plate == first.plate)
    ]
    treated = plate[plate.role == "treatment"]
    assert named == {row.well: look.classes[int(row.label)] for row in treated.itertuples()}


@pytest.mark.parametrize("plates, rows", [(["1"] * 4, []), (["1", "1", "2", "2"], ["plates (2)"])])
def test_only_units_that_differ_have_a_share_of_the_variance(plates, rows):
    look = Look(get_competition("bbbc021"), Path("none"))
    table = {"experiment": "e", "cell_type": "c", "role": "treatment", "plate": plates}
    table |= {f"{name}{c}": np.arange(4.0) + c for name in ("mean", "sd") for c in range(3)}
    look.intensities = pd.DataFrame(table)
    seen = Page(page("t", "l", [Section("a", intensity(look), "a")]))
    assert re.findall(r"(?:cell types|experiments|plates) \(\d+\)", seen.text) == rows
    assert ("All images are of one plate" in seen.text) == (not rows)
    assert len(seen.alts) == 1, "no map is coloured by what all images share"


def test_shares_of_variance_between_units():
    unit = pd.Series(["a", "a", "b", "b"])
    assert shares_between(np.array([1.0, 1.0, 3.0, 3.0]), unit) == pytest.approx(1)
    assert shares_between(np.array([1.0, 3.0, 1.0, 3.0]), unit) == pytest.approx(0)
    assert shares_between(np.array([0.0, 2.0, 2.0, 4.0]), unit) == pytest.approx(0.5)
    assert shares_between(np.ones(4), unit) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "--root", "."], "nothing"),
        (["rxrx1", "--root", "."], "train.csv"),
        (["rxrx1", "--root", ".", "--images", "0"], "--images 0: at least 1"),
        (["bbbc021", "--root", ".", "--config", "config.yaml"], "is for rxrx1, not bbbc021"),
    ],
)
def test_what_cannot_be_explored_is_one_line(prepared, capsys, words, message):
    space = prepared("rxrx1")
    assert message in error_line(capsys, "explore", *words, cwd=space.folder)
