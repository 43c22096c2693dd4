"""Spaces are held to the config's schema before anything trains."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from searches import write_base

from cellsignal.common.errors import InputError
from cellsignal.config import load_config
from cellsignal.tuning.space import (
    Choices,
    Range,
    find_place,
    read_space,
    set_words,
    text_of,
    value_at,
)


def read(tmp_path, text):
    space = tmp_path / "space.yaml"
    space.write_text(text)
    return read_space(space, write_base(tmp_path / "config.yaml"))


def test_ranges_and_choices_are_read(tmp_path):
    space = read(
        tmp_path,
        "stages.all.optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}\n"
        "stages.0.epochs: {low: 1, high: 9, step: 2}\n"
        "model.dropout: {low: 0, high: 1}\n"
        "stages.all.mix: {choices: [none, {cutmix: 1.0, p: 0.5}]}\n",
    )
    assert space["stages.all.optimizer.lr"] == Range(1e-4, 1e-2, log=True)
    assert space["stages.0.epochs"] == Range(1, 9, step=2, whole=True)
    assert space["model.dropout"] == Range(0, 1)  # a share: 0.5 is among its values
    assert space["stages.all.mix"] == Choices(("none", "{cutmix: 1.0, p: 0.5}"))
    words = set_words({"stages.all.mix": "{cutmix: 1.0, p: 0.5}", "model.dropout": 1e-5})
    config = load_config(tmp_path / "config.yaml", words)
    assert config.stages[0].mix.cutmix == 1.0 and config.model.dropout == 1e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages.all.optimizer.lrr: {low: 1, high: 2}", "unknown key stages.0.optimizer.lrr"),
        ("stages.al.epochs: {low: 1, high: 2}", "'al' is neither a name nor an index"),
        ("model.dropout: {low: 0, high: 1.5}", "model.dropout"),
        ("stages.all.epochs: {low: 1.5, high: 3}", "stages.0.epochs"),
        ("stages.all.optimizer.name: {choices: [adamw, adamm]}", "adamm"),
        ("model.dropout: {low: 0.5, high: 0.5}", "low: 0.5 is not below high: 0.5"),
        ("model.dropout: {low: 0.0, high: 0.5, log: true}", "has no logarithm"),
        ("model.dropout: {low: 0.1, high: 0.5, log: true, step: 0.1}", "step: goes without log"),
        ("model.dropout: {low: 0.0, high: 0.5, step: 0.2}", "does not lead from 0.0 to 0.5"),
        ("model.dropout: {low: 1e-4, high: 0.5}", "1.0e-4"),
        ("model.dropout: {high: 0.5}", "low: is missing"),
        ("model.dropout: {lo: 0.1, high: 0.5}", "did you mean 'low'?"),
        ("model.dropout: {choices: [0.1]}", "two or more"),
        ("model.dropout: {choices: [0.1, 0.2, 0.1]}", "0.1 is there twice"),
        ("model.dropout: {choices: [0.1, 0.2], low: 0}", "choices go without"),
        ("model.dropout: 0.5", "write {low: ..., high: ...} or {choices: [...]}"),
        ("seed: {low: 0, high: 9}", "a search does not change seed"),
        ("folds.use: {choices: [[0], [1]]}", "a search does not change folds"),
        ("data.exclude: {choices: [a.csv, none]}", "a search does not change data.exclude"),
        ("predict.checkpoint: {choices: [best, last]}", "does not change predict.checkpoint"),
        ("name: {choices: [a, b]}", "a search does not change name"),
        (
            "stages.all.epochs: {low: 1, high: 2}\nstages.0.epochs: {low: 2, high: 3}",
            "stages.0.epochs: changes what stages.all.epochs changes",
        ),
        (
            "stages.all.mix: {choices: [none, {cutmix: 1.0}]}\nstages.all.mix.p: {low: 0, high: 1}",
            "changes what stages.all.mix changes",
        ),
        ("{}", "is empty"),
        ("- model.dropout", "a space is a mapping"),
    ],
)
def test_a_wrong_space_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    line = str(error.value)
    assert "space.yaml" in line and message in line and "\n" not in line


def test_places_name_items_by_number():
    tree = {"stages": [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 7}], "x": {"y": 3}}
    assert find_place(tree, "stages.b.epochs") == ("stages", "1", "epochs")
    assert value_at(tree, "stages.b.epochs") == 7 and value_at(tree, "x.y") == 3
    assert value_at(tree, "x.z") is None and value_at(tree, "stages.c.epochs") is None


@given(st.one_of(st.integers(-(10**9), 10**9), st.floats(1e-12, 1e12)))
def test_drawn_numbers_are_read_back_the_same(value):
    assert yaml.safe_load(text_of(value)) == value
