"""Every page of docs/results has the module that its name says, and names it and its command."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [path for path in sorted(REPOSITORY.glob("docs/results/*.md")) if path.stem != "README"]
STUDIES = REPOSITORY / "src" / "cellsignal" / "studies"
# no page: the commands, what the pages share, the lab's warm-up, and what a kill costs
WITHOUT_PAGE = {"__init__", "commands", "pages", "parsers", "warm_up", "torture", "torture_run"}
# the module of a page that has another name
MODULES = {"gpu": "gpu_check"}
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
