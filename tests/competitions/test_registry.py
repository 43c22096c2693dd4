"""Competitions are found by their folders: adding one is adding a folder."""

import pytest

from cellsignal import competitions
from cellsignal.common.errors import InputError
from cellsignal.competitions import base, competition_ids, get_competition, quick_config

COMPETITION = """
from cellsignal.competitions.base import register
from cellsignal.competitions.bbbc021 import Bbbc021

@register
class Toy(Bbbc021):
    id = "toy"
"""


def test_a_new_folder_is_all_that_a_new_competition_needs(tmp_path, monkeypatch):
    folder = tmp_path / "a_toy"
    folder.mkdir()
    (folder / "__init__.py").write_text(COMPETITION)
    (folder / "quick.yaml").write_text("competition: toy")
    monkeypatch.setattr(base, "_registry", base.registered())
    monkeypatch.setattr(competitions, "__path__", [*competitions.__path__, str(tmp_path)])
    assert "toy" not in competition_ids()
    competitions.import_folders()
    assert "toy" in competition_ids()
    assert quick_config(get_competition("toy")) == folder / "quick.yaml"


def test_an_unknown_competition_names_the_nearest():
    with pytest.raises(InputError, match=r"'rxrx', known: bbbc021, .*; did you mean 'rxrx1'\?"):
        get_competition("rxrx")
