"""The study of blends: the draws have the errors they are said to have, and the page its parts."""

import numpy as np
import pytest
from helpers import error_line

from cellsignal.evaluation.blend_weights import equal_weights
from cellsignal.studies.blend.competitions import (
    FAMILIES,
    Design,
    bench_blends,
    bench_noise,
    draw_members,
    fresh_gain,
    summarise,
)
from cellsignal.studies.blend.page import blend_page


def test_errors_correlate_as_designed():
    ones = np.ones(8)
    design = Design(False, 30, 12, 2 * ones, ones, common=0.2, family=0.5, batch=0.0)
    members = draw_members(design, 100, np.random.default_rng(0))
    raised = 2 * np.eye(12)[members.truth]
    noise = [(scores - raised).ravel() for scores in members.scores]
    correlation = np.corrcoef(noise)
    same = FAMILIES[:, None] == FAMILIES
    assert correlation[same & ~np.eye(8, dtype=bool)] == pytest.approx(0.7, abs=0.02)
    assert correlation[~same] == pytest.approx(0.2, abs=0.02)
    assert members.units == 100


def test_a_fresh_gain_is_over_equal_weights():
    ones = np.ones(8)
    design = Design(False, 9, 6, ones, ones, common=0.2, family=0.3, batch=0.2)
    fresh = draw_members(design, 20, np.random.default_rng(0))
    assert fresh_gain(fresh, equal_weights(fresh)) == (0, 0)


def test_competitions_are_drawn_from_their_seed_and_summed_up():
    (first,), (again,) = list(bench_blends(1)), list(bench_blends(1))
    assert first.fresh == again.fresh and first.nested.rows[4].score == again.nested.rows[4].score
    summary = summarise([first, first], "stacking")
    gain = first.nested.row("stacking").score
    assert summary.total == 2 and summary.better == 2 * (gain.change > 0)
    assert summary.surely_better == 2 * (gain.low > 0)
    assert summary.nested == pytest.approx(gain.change)
    assert summary.fresh == pytest.approx(first.fresh["stacking"][0])
    (noise,) = bench_noise(1)
    assert abs(noise.fresh["stacking"][0]) < 0.03


def test_the_page_has_a_row_for_each_competition():
    page = blend_page(1, seed=5, more=())
    rows = [line for line in page.splitlines() if line.startswith("| 1 |")]
    assert len(rows) == 1 and "cellsignal study blend --seed 5 --competitions 1" in page
    assert page.count("| stacking | 1 |") == 2 and "{" not in page


def test_no_competition_is_refused(tmp_path, capsys):
    words = ["study", "blend", "--competitions", 0, "--out", "page.md"]
    line = error_line(capsys, *words, cwd=tmp_path)
    assert line == "--competitions 0: at least 1" and not (tmp_path / "page.md").exists()
