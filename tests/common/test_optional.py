"""Packages of extras: loaded if they are there, else one line that says what to install."""

import json
import sys

import pytest

from cellsignal.common.errors import InputError
from cellsignal.common.optional import load_extra


def test_a_package_that_is_there_is_loaded():
    assert load_extra("json", "profiles", "a step") is json
    assert load_extra("json.decoder", "profiles", "a step").JSONDecoder is json.JSONDecoder


def test_a_missing_package_is_named_with_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "copairs", None)
    line = (
        "p values: needs the package copairs, which is not installed; install the extra profiles "
        r'\(pip install -e "\.\[profiles\]"\)'
    )
    for module in ("copairs", "copairs.map"):
        with pytest.raises(InputError, match=f"^{line}$"):
            load_extra(module, "profiles", "p values")


def test_a_package_that_lacks_another_says_so(tmp_path, monkeypatch):
    (tmp_path / "a_package_of_the_test.py").write_text("import another_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"cannot be loaded .*another_that_is_not_there"):
        load_extra("a_package_of_the_test", "profiles", "a step")
