"""Every page of docs/results has the module that its name says, and names it and its command; what
the pages share.
"""

import argparse
import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch

from cellsignal.studies.pages import add_out, machine, show_page, table, text_table

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [path for path in sorted(REPOSITORY.glob("docs/results/*.md")) if path.stem != "README"]
STUDIES = REPOSITORY / "src" / "cellsignal" / "studies"
# no page: the commands, what pages and rows share, the lab's warm-up, and what a kill costs
WITHOUT_PAGE = {
    "__init__",
    "commands",
    "pages",
    "parsers",
    "seeds",
    "warm_up",
    "torture",
    "torture_run",
}
# the module of a page that has another name
MODULES = {"gpu": "gpu_check", "readers": "performance.readers"}
# a second module of a page
PARTS = {
    "mitoreid_tables": "mitoreid",
    "rxrx1_variants": "rxrx1_simulated",
    "rxrx1_final": "rxrx1_simulated",
    "gpu_check": "gpu",
    "memory": "performance",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_its_command_and_its_module(page):
    text = page.read_text(encoding="utf-8")
    assert re.search(r"cellsignal \w|make [a-z]", text)
    if page.stem != "bbbc021":
        module = f"cellsignal.studies.{MODULES.get(page.stem, page.stem)}"
        assert f"`{module}`" in text and find_spec(module) is not None


def test_a_module_has_its_page():
    names = {path.stem for path in STUDIES.iterdir() if path.suffix == ".py" or path.is_dir()}
    pages = {PARTS.get(name, name) for name in names - WITHOUT_PAGE - {"__pycache__"}}
    assert pages <= {page.stem for page in PAGES}


def test_a_page_is_printed_and_written_where_it_is_asked_for(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_out(parser)
    for words, file in (([], None), (["--out", str(tmp_path / "deep/page.md")], "deep/page.md")):
        show_page("# A page\n", parser.parse_args(words).out)
        assert capsys.readouterr().out == "# A page\n"
        written = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.md")]
        assert written == ([] if file is None else [file])
    assert (tmp_path / "deep/page.md").read_text() == "# A page\n"


def test_tables_by_hand():
    assert text_table([("a", "b"), ("1", ""), ("x y", "2")]) == (
        "| a | b |\n|---|---|\n| 1 |  |\n| x y | 2 |"
    )
    frame = pd.DataFrame({"name": ["one", "two"], "number": [1.23456, 20000.0], "count": [3, 4]})
    assert table(frame) == (
        "| name | number | count |\n| --- | --- | --- |\n| one | 1.23 | 3 |\n| two | 2e+04 | 4 |"
    )


def test_the_machine_is_named_with_its_cores_and_versions():
    text = machine()
    assert text.startswith(f"{os.cpu_count()} cores of ") and "\n" not in text
    assert f"; Python {platform.python_version()}, torch {torch.__version__}" in text
