"""The page of gene relations in small: planted relations rise, intervals are measured."""

import re

import pytest

from cellsignal.studies.relations.coverage import Case, cases, measure
from cellsignal.studies.relations.page import planted_table, relations_page


def test_recall_rises_with_likeness():
    lines = [line.strip("| ").split(" | ") for line in planted_table(0).splitlines()[2:]]
    planted = [float(cells[3]) for cells in lines if cells[0] == "planted"]
    assert planted == sorted(planted) and planted[0] < 0.2 and planted[-1] > 0.9
    (shuffled,) = [float(cells[3]) for cells in lines if cells[0] == "shuffled relations"]
    assert shuffled < 0.2


@pytest.mark.slow
def test_the_interval_over_genes_holds_for_other_genes_and_not_for_other_complexes():
    assert measure(Case(True, 10, 60), 150, 0).over_genes > 0.9
    other = measure(Case(False, 10, 200), 150, 0)
    assert other.over_genes < 0.92 and other.over_parts > 0.92


@pytest.mark.slow
def test_the_page_has_a_row_for_each_case():
    page = relations_page(3, 0)
    assert len(re.findall(r"^\| (genes, same|other) complexes", page, re.M)) == len(cases())
